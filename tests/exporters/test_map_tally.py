# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.map_model import NodeKind
from exporters.map_tally import RTT_EACH, Tally
from parsers.model import Completeness
from tests.exporters import samples

T = samples.START_NS


def took(nanoseconds, **changes):
    return samples.span(start_unix_ns=T, end_unix_ns=T + nanoseconds, **changes)


def tally(*spans):
    made = Tally()
    made.add(spans)
    return made


def state(made):
    return {name: getattr(made, name) for name in Tally.__slots__}


def test_adds_up_all_that_an_edge_shows():
    made = tally(
        took(1000, request_bytes=10, response_bytes=100, rtt_us=50),
        took(3000, request_bytes=20, response_bytes=200, completeness=Completeness.GAP),
        took(2000, outline=samples.outline(error_type="500")),
    )
    assert (made.count, made.errors, made.incomplete) == (3, 1, 1)
    assert (made.request_bytes, made.response_bytes) == (10 + 20 + 78, 100 + 200 + 1234)
    assert (made.first_ns, made.last_ns) == (T, T + 3000)
    assert made.latency().max_s == 3e-6


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=300))
def test_quantiles_are_right_to_some_per_cent(durations):
    found = tally(*map(took, durations)).latency()
    ordered = sorted(durations)
    for share, value in ((0.5, found.p50_s), (0.95, found.p95_s), (0.99, found.p99_s)):
        exact = ordered[max(0, ceil(len(ordered) * share) - 1)] / 1e9
        assert value == pytest.approx(exact, rel=0.0225)
    assert found.p50_s <= found.p95_s <= found.p99_s <= found.max_s
    assert sum(found.buckets.counts) == len(durations)
    assert found.buckets.upper_s[-1] >= max(durations) / 1e9 * 0.99999
    assert list(found.buckets.upper_s) == sorted(set(found.buckets.upper_s))


@given(st.lists(st.integers(1, 10**10), min_size=2, max_size=40), st.data())
def test_parts_put_together_are_the_whole(durations, data):
    spans = [took(each, rtt_us=0) for each in durations]
    cut = data.draw(st.integers(1, len(spans) - 1))
    whole, first, second = tally(*spans), tally(*spans[:cut]), tally(*spans[cut:])
    first.merge(second)
    assert state(first) == state(whole)


def test_a_copy_is_equal_and_goes_its_own_way():
    made = tally(took(1000))
    made.server_kind = NodeKind.DATABASE
    made.unnamed = True
    other = made.copy()
    assert state(other) == state(made)
    other.add([took(5000)])
    assert made.count == 1
    assert sum(made.durations.values()) == 1


@pytest.mark.parametrize("nanoseconds", [0, -5])
def test_what_took_no_time_counts_as_the_shortest(nanoseconds):
    found = tally(took(nanoseconds), took(1000)).latency()
    assert sum(found.buckets.counts) == 2
    assert found.p50_s <= 1e-9 * 1.05


def test_round_trip_times_are_asked_of_some():
    spans = [took(1000, rtt_us=100 if number else 40) for number in range(3 * RTT_EACH)]
    made = tally(*spans)
    assert sum(made.rtts.values()) == 3
    assert made.rtt_min_s() == 40e-6
    assert made.rtt_median_s() == pytest.approx(100e-6, rel=0.03)
    silent = tally(took(1000, rtt_us=0))
    assert silent.rtt_min_s() is silent.rtt_median_s() is None


def test_merging_keeps_the_smallest_round_trip_time():
    first, second = tally(took(1, rtt_us=0)), tally(took(1, rtt_us=30))
    first.merge(second)
    assert first.rtt_min_s() == 30e-6
    first.merge(tally(took(1, rtt_us=0)))
    assert first.rtt_min_s() == 30e-6
