# SPDX-License-Identifier: Apache-2.0
"""The bounded dictionary."""

from __future__ import annotations

from parsers.cache import Cache


def test_what_is_kept_is_found():
    cache = Cache()
    assert cache.keep("a", 1, 10) == 1
    assert cache.get("a") == 1


def test_too_many_entries_empty_it():
    cache = Cache(max_entries=3, max_bytes=1000)
    for key in range(4):
        cache.keep(key, key, 1)
    assert dict(cache) == {3: 3}


def test_too_many_bytes_empty_it():
    cache = Cache(max_entries=100, max_bytes=1600)
    for key in range(20):
        cache.keep(key, key, 100)
    assert dict(cache) == {16: 16, 17: 17, 18: 18, 19: 19}


def test_what_is_too_large_is_handed_back_and_not_kept():
    cache = Cache(max_entries=100, max_bytes=1600)
    assert cache.keep("a", 1, 101) == 1
    assert not cache
