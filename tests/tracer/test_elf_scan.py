# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer import elf_scan
from tracer.elf_scan import HIT_BYTES, LOOK_BYTES, SLICE_BYTES, ElfError, ElfTooMuchError, Scan


class Data(bytes):
    """Notes how much of it is searched in one go."""

    longest = 0

    def find(self, text, start, end):
        self.longest = max(self.longest, end - start)
        return super().find(text, start, end)


@given(st.binary(max_size=40), st.binary(min_size=1, max_size=3), st.integers(0, 45))
def test_what_is_found_in_slices_is_what_is_found_at_once(data, text, start):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elf_scan, "SLICE_BYTES", 4)
        scan = Scan(LOOK_BYTES)
        for end in (None, 0, len(data) // 2, len(data), len(data) + 9):
            stop = len(data) if end is None else end
            assert scan.find(data, text, start, end) == data.find(text, start, stop)


def test_slices_are_short_so_that_other_threads_run():
    data = Data(5 * SLICE_BYTES)
    assert Scan(LOOK_BYTES).find(data, b"nothing") == -1
    assert 0 < data.longest < SLICE_BYTES + 10


def test_account_has_an_end():
    scan = Scan(10 * 2**20)
    scan.spend(10 * 2**20)
    with pytest.raises(ElfTooMuchError, match="more than 10 MiB"):
        scan.spend(1)
    assert issubclass(ElfTooMuchError, ElfError)


def test_what_is_searched_and_found_is_paid_for():
    scan = Scan(3 * (SLICE_BYTES + HIT_BYTES))
    data = bytes(SLICE_BYTES)
    for _ in range(3):
        assert scan.find(data, b"x") == -1
    with pytest.raises(ElfTooMuchError):
        scan.find(data, b"x")
    scan = Scan(10 * HIT_BYTES)
    with pytest.raises(ElfTooMuchError):
        list(scan.places(b"aaaaaaaaaaaaaaaaa", b"a", 100))


def test_places_overlap_and_have_a_bound():
    scan = Scan(LOOK_BYTES)
    assert list(scan.places(b"xaaax", b"aa", 2)) == [1, 2]
    assert list(scan.places(b"", b"a", 2)) == []
    with pytest.raises(ElfTooMuchError, match="more than 2 times"):
        list(scan.places(b"aaa", b"a", 2))
