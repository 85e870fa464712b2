# SPDX-License-Identifier: Apache-2.0
"""What a backend is told of what it does not know yet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.histograms import ExplicitHistogram, ExponentialHistogram
from exporters.instruments import Exemplar, Instrument, Metric, Point, ResourceMetrics
from exporters.temporality import Deltas, Observed, Temporality, is_delta

COUNT = Instrument("x.count", "counter", "{x}", "")
READ = Observed("wirespan.read", "counter", "{x}", "")
GAUGE = Observed("wirespan.gauge", "gauge", "{x}", "")
SECONDS = Instrument("x.duration", "histogram", "s", "", (0.1, 1.0))
RESOURCE = {"service.name": "shop"}
EXEMPLAR = Exemplar(0.5, b"t" * 16, b"s" * 8, 7)


def group(instrument, *points, resource=None):
    return [ResourceMetrics(resource or RESOURCE, [Metric(instrument, list(points))])]


def number(value, start=100, attributes=(("a", 1),)):
    return Point(attributes, value, start)


def histogram(values, make=lambda: ExplicitHistogram((0.1, 1.0)), exemplar=EXEMPLAR):
    value = make()
    for each in values:
        value.record(each)
    return Point((), value, 100, exemplar)


def told(deltas, groups, unix_ns):
    """Export with success."""
    deltas.keep(groups)
    found = deltas.since(groups)
    deltas.learn(groups, found, unix_ns)
    return [
        (metric.instrument, point) for each in found for metric in each.metrics for point in
        metric.points
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("temporality", "deltas"),
    [
        (Temporality.CUMULATIVE, set()),
        (Temporality.DELTA, {COUNT, READ, SECONDS}),
        (Temporality.LOW_MEMORY, {COUNT, SECONDS}),
    ],
)
def test_which_instruments_are_told_as_deltas(temporality, deltas):
    everything = {COUNT, READ, SECONDS, GAUGE}
    assert {each for each in everything if is_delta(temporality, each)} == deltas


def test_cumulative_is_what_it_is():
    deltas = Deltas(Temporality.CUMULATIVE)
    groups = group(COUNT, number(5))
    for _ in range(2):
        assert told(deltas, groups, 200) == [(COUNT, number(5))]


def test_a_delta_begins_where_the_last_one_ended():
    deltas = Deltas(Temporality.DELTA)
    assert told(deltas, group(COUNT, number(5)), 200) == [(COUNT, number(5))]
    assert told(deltas, group(COUNT, number(8)), 300) == [(COUNT, number(3, 200))]
    assert told(deltas, group(COUNT, number(9)), 400) == [(COUNT, number(1, 300))]


def test_what_has_not_changed_is_not_told():
    deltas = Deltas(Temporality.DELTA)
    groups = [*group(COUNT, number(5)), *group(SECONDS, histogram([1]), resource={"a": "b"})]
    assert len(told(deltas, groups, 200)) == 2
    assert deltas.since(groups) == []


def test_a_gauge_is_always_told():
    deltas = Deltas(Temporality.DELTA)
    for _ in range(2):
        assert told(deltas, group(GAUGE, number(5)), 200) == [(GAUGE, number(5))]


def test_what_a_failed_export_had_to_tell_is_told_by_the_next():
    deltas = Deltas(Temporality.DELTA)
    told(deltas, group(COUNT, number(5)), 200)
    deltas.since(group(COUNT, number(8)))
    assert told(deltas, group(COUNT, number(9)), 400) == [(COUNT, number(4, 200))]


def test_only_what_was_delivered_is_known():
    deltas = Deltas(Temporality.DELTA)
    groups = [*group(COUNT, number(5), number(6, attributes=()))]
    found = deltas.since(groups)
    part = [ResourceMetrics(RESOURCE, [Metric(COUNT, found[0].metrics[0].points[:1])])]
    deltas.learn(groups, part, 200)
    assert told(deltas, groups, 300) == [(COUNT, number(6, attributes=()))]


def test_a_series_that_began_anew_is_told_whole():
    deltas = Deltas(Temporality.DELTA)
    told(deltas, group(COUNT, number(5)), 200)
    assert told(deltas, group(COUNT, number(2, start=250)), 300) == [(COUNT, number(2, 250))]


def test_nothing_is_kept_of_series_that_are_gone():
    deltas = Deltas(Temporality.DELTA)
    told(deltas, group(COUNT, number(5)), 200)
    told(deltas, [], 300)
    assert deltas._known == {}


def test_services_are_told_apart():
    deltas = Deltas(Temporality.DELTA)
    told(deltas, group(COUNT, number(5)), 200)
    other = group(COUNT, number(5), resource={"service.name": "cart"})
    assert told(deltas, other, 300) == [(COUNT, number(5))]


def test_an_exemplar_is_told_once():
    deltas = Deltas(Temporality.DELTA)
    told(deltas, group(SECONDS, histogram([0.5])), 200)
    ((_, same),) = told(deltas, group(SECONDS, histogram([0.5, 0.5])), 300)
    newer = EXEMPLAR._replace(unix_ns=8)
    ((_, new),) = told(deltas, group(SECONDS, histogram([0.5] * 3, exemplar=newer)), 400)
    assert (same.exemplar, new.exemplar) == (None, newer)


@given(
    st.lists(st.lists(st.floats(1e-6, 100), max_size=10), min_size=1, max_size=6),
    st.sampled_from(
        (
            lambda: ExplicitHistogram((0.1, 1.0)),
            ExponentialHistogram,
            lambda: ExponentialHistogram(4),
        )
    ),
)
def test_deltas_of_histograms_add_up_to_the_total(readings, make):
    deltas = Deltas(Temporality.LOW_MEMORY)
    values = []
    total = make()
    for unix_ns, more in enumerate(readings, 200):
        values += more
        if not values:
            continue
        for _, point in told(deltas, group(SECONDS, histogram(values, make)), unix_ns):
            assert point.value.count == len(more) or len(values) == len(more)
            total.merge(point.value)
    whole = histogram(values, make).value
    assert (total.counts, total.count) == (whole.counts, whole.count)
    assert total.sum == pytest.approx(whole.sum)
