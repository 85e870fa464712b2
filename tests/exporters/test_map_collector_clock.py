# SPDX-License-Identifier: Apache-2.0
"""A map of live data while the clock is set."""

from __future__ import annotations

import pytest

from exporters import map_collector
from exporters.map_collector import Collector
from tests.exporters.maps import S
from tests.exporters.test_map_collector import Clock, T, at, collected


def test_after_the_clock_was_set_back_the_map_begins_anew(monkeypatch):
    monkeypatch.setattr(map_collector, "MAX_PENDING", 5)
    made = collected(at(50_000, server="ahead"), kept_s=3600)
    made.snapshot()
    for number in range(10):
        made.add([at(number, server="now")])
        found = made.snapshot()
    assert [(edge.ends.server.name, edge.count) for edge in found.edges] == [("now", 6)]
    assert made.counters()["spans_dropped_old"] == 4
    assert made.counters()["map_restarts"] == 1
    assert found.end_unix_ns == T + 9 * S
    assert made._tallies == 1


@pytest.mark.parametrize("step", [-60, -1800, -7200])
def test_when_the_clock_is_set_back_the_newest_minute_is_that_of_now(step):
    clock = Clock(T)
    made = Collector(clock=clock)
    for second in range(60):
        clock.now_ns = T + second * S
        made.add([at(second, server="before")])
    made.snapshot()
    for second in range(59 + step, 89 + step):
        clock.now_ns = T + second * S
        made.add([at(second, server="after")])
    found = made.snapshot(60)
    assert [(edge.ends.server.name, edge.count) for edge in found.edges] == [("after", 30)]
    assert (found.start_unix_ns, found.end_unix_ns) == (T + (59 + step) * S, clock.now_ns)
    assert made.counters()["map_restarts"] == 1
    assert made.counters()["tallies_dropped_early"] == 6
    clock.now_ns += 30 * S
    assert made.snapshot(60).end_unix_ns == clock.now_ns


def test_when_the_clock_is_set_forward_what_was_before_is_older():
    clock = Clock(T)
    made = Collector(clock=clock)
    made.add([at(1, server="before")])
    made.snapshot()
    clock.now_ns = T + 1800 * S
    made.add([at(1799, server="after")])
    assert [edge.ends.server.name for edge in made.snapshot(60).edges] == ["after"]
    assert len(made.snapshot().edges) == 2
    assert made.counters()["map_restarts"] == 0


def test_a_clock_that_is_a_little_behind_restarts_nothing():
    clock = Clock(T)
    made = Collector(clock=clock)
    for second in (15, 5, 14, 3):
        made.add([at(second)])
        assert made.snapshot().edges
    assert made.counters()["map_restarts"] == 0


def test_a_recording_of_a_clock_that_was_ahead_is_shown_whole():
    made = Collector(clock=Clock(T - 10_000 * S))
    for second in (100, 50, 120, 10):
        made.add([at(second)])
        made.snapshot()
    assert sum(edge.count for edge in made.snapshot().edges) == 4
    assert made.counters()["map_restarts"] == 0
