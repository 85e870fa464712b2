# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracer.names import Names


def test_addresses_have_the_name_they_were_asked_for_by():
    names = Names()
    names.learn("Shop.Example", ("10.0.0.1", "10.0.0.2"))
    assert names.of("10.0.0.1") == "shop.example"
    assert names.of("10.0.0.2") == "shop.example"
    assert names.of("10.0.0.3") is None


def test_latest_name_counts():
    names = Names()
    names.learn("a", ["10.0.0.1"])
    names.learn("b", ["10.0.0.1"])
    assert names.of("10.0.0.1") == "b"
    assert len(names) == 1


def test_what_was_not_used_for_longest_makes_room():
    names = Names(max_names=2)
    names.learn("a", ["10.0.0.1"])
    names.learn("b", ["10.0.0.2"])
    assert names.of("10.0.0.1") == "a"
    names.learn("c", ["10.0.0.3"])
    assert names.of("10.0.0.2") is None
    assert names.of("10.0.0.1") == "a"
    assert names.of("10.0.0.3") == "c"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9).map(str))))
def test_never_more_than_its_bound_and_never_a_name_that_was_not(pairs):
    names = Names(max_names=4)
    told = {}
    for name, address in pairs:
        names.learn(name, [address])
        told[address] = name
        assert len(names) <= 4
    assert all(names.of(address) in {name, None} for address, name in told.items())
