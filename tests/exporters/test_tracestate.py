# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import TraceState

from exporters.tracestate import (
    MAX_MEMBERS,
    MAX_VALUE,
    NEVER,
    digits,
    randomness,
    threshold_of,
    with_threshold,
)

TRACE_ID = bytes(range(16))


@pytest.mark.parametrize(
    ("one_in", "th"),
    [
        (1, "0"),
        (2, "8"),
        (3, "aaab"),
        (4, "c"),
        (5, "cccd"),
        (8, "e"),
        (10, "e666"),
        (16, "f"),
        (100, "fd70a"),
        (1000, "ffbe77"),
        (10_000, "fff9724"),
        (100_000, "ffff583a"),
        (1_000_000, "ffffef39"),
    ],
)
def test_digits_are_those_of_the_table_in_the_specification(one_in, th):
    assert digits(threshold_of(1 / one_in)) == th


@pytest.mark.parametrize(
    ("ratio", "threshold"),
    [
        (1.0, 0),
        (0.0, NEVER),
        (2.0**-57, NEVER),
        (2.0**-56, NEVER - 1),
        (0.999_999_9, 0),
        (0.5, 1 << 55),
    ],
)
def test_the_ends_of_the_range(ratio, threshold):
    assert threshold_of(ratio) == threshold


@given(st.floats(1e-9, 1.0))
def test_what_is_shown_is_what_is_done(ratio):
    threshold = threshold_of(ratio)
    th = digits(threshold)
    assert len(th) <= 14
    assert int(th.ljust(14, "0"), 16) == threshold
    assert (NEVER - threshold) / NEVER == pytest.approx(ratio, rel=2**-13)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_who_keeps_more_has_no_higher_threshold(one, other):
    less, more = sorted((one, other))
    assert threshold_of(more) <= threshold_of(less)


@pytest.mark.parametrize(
    ("trace_state", "expected"),
    [
        ("", TRACE_ID[9:]),
        ("ot=rv:00000000abcdef", b"\0\0\0\0\xab\xcd\xef"),
        ("a=1, ot=th:8;rv:ffffffffffffff;x:1,b=2", b"\xff" * 7),
        ("ot=rv:1", TRACE_ID[9:]),
        ("ot=rv:0123456789abcdef", TRACE_ID[9:]),
        ("vendor=rv:ffffffffffffff", TRACE_ID[9:]),
        ("not=rv:ffffffffffffff", TRACE_ID[9:]),
        ("ot=xrv:ffffffffffffff", TRACE_ID[9:]),
    ],
)
def test_randomness_is_said_or_of_the_trace_id(trace_state, expected):
    assert randomness(TRACE_ID, trace_state) == expected


@pytest.mark.parametrize(
    ("before", "th", "after"),
    [
        ("", "e666", "ot=th:e666"),
        ("", "", ""),
        ("ot=th:8", "e666", "ot=th:e666"),
        ("ot=th:8", "", ""),
        ("a=1", "0", "ot=th:0,a=1"),
        ("a=1", "", "a=1"),
        ("a=1, ot=rv:00000000abcdef;th:8 ,b=2", "c", "ot=th:c;rv:00000000abcdef,a=1,b=2"),
        ("a=1,ot=rv:00000000abcdef;th:8", "", "ot=rv:00000000abcdef,a=1"),
        (",,", "c", "ot=th:c"),
    ],
)
def test_a_threshold_takes_the_place_of_an_older_one_and_of_nothing_else(before, th, after):
    assert with_threshold(before, th) == after


def test_a_tracestate_does_not_outgrow_its_limits():
    long = "ot=x:" + "y" * (MAX_VALUE - 2)
    assert with_threshold(long, "e666") == long
    many = ",".join(f"k{n}=v" for n in range(MAX_MEMBERS))
    members = with_threshold(many, "c").split(",")
    assert members == ["ot=th:c", *many.split(",")[:-1]]


def test_other_readers_of_tracestate_understand_it():
    state = with_threshold("a=1,ot=rv:00000000abcdef", "e666")
    assert TraceState.from_header([state]).get("ot") == "th:e666;rv:00000000abcdef"
