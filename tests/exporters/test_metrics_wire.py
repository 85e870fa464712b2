# SPDX-License-Identifier: Apache-2.0
"""Requests as the official classes read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    AGGREGATION_TEMPORALITY_DELTA,
)
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)

from exporters.histograms import ExplicitHistogram, ExponentialHistogram
from exporters.instruments import Exemplar, Instrument, Metric, Point, ResourceMetrics
from exporters.metrics_wire import requests
from exporters.semconv import SCHEMA_URL, SCOPE_NAME, SCOPE_VERSION
from exporters.temporality import Temporality

NOW = 1_700_000_060_000_000_000
START = NOW - 60_000_000_000
COUNT = Instrument("x.count", "counter", "{x}", "How many")
GAUGE = Instrument("x.open", "gauge", "{x}", "How many are open")
SECONDS = Instrument("x.duration", "histogram", "s", "How long", (0.1, 1.0))
EXEMPLAR = Exemplar(0.5, b"t" * 16, b"s" * 8, NOW - 1)


def parsed(*groups, **options):
    return [
        ExportMetricsServiceRequest.FromString(request.body)
        for request in requests(groups, NOW, **options)
    ]


def group(instrument, *points, name="shop"):
    return ResourceMetrics({"service.name": name}, [Metric(instrument, list(points))])


def only(message):
    """The one metric of a request."""
    (resource,) = message.resource_metrics
    (scope,) = resource.scope_metrics
    (metric,) = scope.metrics
    return metric


def filled(histogram, *values):
    histogram.record_all(values)
    return histogram


def attributes(data_point):
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value"))
        for item in data_point.attributes
    }


def test_resource_and_scope():
    (message,) = parsed(group(COUNT, Point((), 1, START)))
    (resource,) = message.resource_metrics
    assert attributes(resource.resource) == {"service.name": "shop"}
    assert resource.schema_url == resource.scope_metrics[0].schema_url == SCHEMA_URL
    scope = resource.scope_metrics[0].scope
    assert (scope.name, scope.version) == (SCOPE_NAME, SCOPE_VERSION)


def test_a_counter():
    (message,) = parsed(group(COUNT, Point((("a", "b"), ("c", 7)), 5, START)))
    metric = only(message)
    assert (metric.name, metric.unit, metric.description) == ("x.count", "{x}", "How many")
    assert metric.sum.is_monotonic
    assert metric.sum.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    (point,) = metric.sum.data_points
    assert (point.as_int, point.start_time_unix_nano, point.time_unix_nano) == (5, START, NOW)
    assert attributes(point) == {"a": "b", "c": 7}


def test_a_gauge_has_no_start():
    metric = only(parsed(group(GAUGE, Point((), 0.5, START)))[0])
    (point,) = metric.gauge.data_points
    assert (point.as_double, point.start_time_unix_nano, point.time_unix_nano) == (0.5, 0, NOW)


def test_an_explicit_histogram():
    value = filled(ExplicitHistogram((0.1, 1.0)), 0.05, 0.5, 2.0)
    metric = only(parsed(group(SECONDS, Point((), value, START, EXEMPLAR)))[0])
    assert metric.histogram.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    (point,) = metric.histogram.data_points
    assert list(point.bucket_counts) == [1, 1, 1]
    assert list(point.explicit_bounds) == [0.1, 1.0]
    assert (point.count, point.sum, point.min, point.max) == (3, 2.55, 0.05, 2.0)
    assert (point.start_time_unix_nano, point.time_unix_nano) == (START, NOW)
    (exemplar,) = point.exemplars
    assert (exemplar.as_double, exemplar.trace_id, exemplar.span_id) == EXEMPLAR[:3]
    assert exemplar.time_unix_nano == EXEMPLAR.unix_ns


def test_an_exponential_histogram():
    value = filled(ExponentialHistogram(), 0.0, 0.5, 2.0)
    metric = only(parsed(group(SECONDS, Point((), value, START, EXEMPLAR)))[0])
    (point,) = metric.exponential_histogram.data_points
    assert (point.count, point.sum, point.min, point.max) == (3, 2.5, 0.0, 2.0)
    assert (point.zero_count, point.scale, point.positive.offset) == (1, 6, value.offset)
    assert list(point.positive.bucket_counts) == value.counts
    assert len(point.exemplars) == 1


@pytest.mark.parametrize("exponential", [False, True])
@given(values=st.lists(st.floats(1e-4, 100), min_size=1, max_size=20))
def test_histograms_are_told_as_the_sdk_tells_them(exponential, values):
    aggregation = (
        ExponentialBucketHistogramAggregation()
        if exponential
        else ExplicitBucketHistogramAggregation(SECONDS.bounds)
    )
    reader = InMemoryMetricReader()
    provider = MeterProvider(
        [reader],
        views=[View(instrument_name="*", aggregation=aggregation)],
        exemplar_filter=AlwaysOffExemplarFilter(),
        shutdown_on_exit=False,
    )
    theirs = provider.get_meter("x").create_histogram(SECONDS.name, "s", SECONDS.description)
    ours = ExponentialHistogram() if exponential else ExplicitHistogram(SECONDS.bounds)
    for value in values:
        theirs.record(value, {"a": "b", "n": 3})
        ours.record(value)
    wanted = only(encode_metrics(reader.get_metrics_data()))
    provider.shutdown()
    made = only(parsed(group(SECONDS, Point((("a", "b"), ("n", 3)), ours, START)))[0])
    data = [getattr(metric, metric.WhichOneof("data")) for metric in (made, wanted)]
    for each in data:
        (point,) = each.data_points
        point.start_time_unix_nano = point.time_unix_nano = 0
        point.sum = round(point.sum, 9)
    if exponential:
        # Close to an end of a bucket the SDK's logarithm may fall on the other side.
        (mine,), (its,) = (each.data_points for each in data)
        assert mine.scale == its.scale
        assert abs(mine.positive.offset - its.positive.offset) <= 1
        for point in (mine, its):
            point.ClearField("positive")
            point.ClearField("negative")
    assert made == wanted


def test_extremes_that_are_not_known_are_left_out():
    for make in (lambda: ExplicitHistogram((0.1,)), ExponentialHistogram):
        value = filled(make(), 1.0).since(make())
        metric = only(parsed(group(SECONDS, Point((), value, START)))[0])
        (point,) = metric.histogram.data_points or metric.exponential_histogram.data_points
        assert point.count == 1
        assert not point.HasField("min")
        assert not point.HasField("max")


@pytest.mark.parametrize("instrument", [COUNT, SECONDS])
@pytest.mark.parametrize("make", [lambda: ExplicitHistogram((0.1,)), ExponentialHistogram])
def test_deltas_say_that_they_are(instrument, make):
    value = 3 if instrument is COUNT else filled(make(), 1.0)
    metric = only(
        parsed(group(instrument, Point((), value, START)), temporality=Temporality.DELTA)[0]
    )
    data = getattr(metric, metric.WhichOneof("data"))
    assert data.aggregation_temporality == AGGREGATION_TEMPORALITY_DELTA


def test_nothing_begins_after_it_was_read():
    (message,) = parsed(group(COUNT, Point((), 1, NOW + 5)))
    assert only(message).sum.data_points[0].start_time_unix_nano == NOW


def test_nothing_is_no_request():
    assert parsed() == []
    assert parsed(ResourceMetrics({}, []), group(COUNT)) == []


def test_odd_values_are_told_as_well_as_they_can_be():
    odd = (("a", "\ud800"), ("b", 1 << 70), ("c", True), ("d", ("x", "y")), ("e", 0.5))
    (message,) = parsed(group(COUNT, Point(odd, 1 << 70, START)))
    (point,) = only(message).sum.data_points
    found = attributes(point)
    assert (found["a"], found["b"], found["c"]) == ("\\ud800", str(1 << 70), True)
    assert [item.string_value for item in found["d"].values] == ["x", "y"]
    assert point.as_double == float(1 << 70)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 6)), max_size=12),
    st.integers(1, 3000),
)
def test_requests_are_as_small_as_asked_and_say_everything_in_order(shape, max_bytes):
    groups = [
        ResourceMetrics(
            {"service.name": f"s{index}"},
            [
                Metric(
                    (COUNT, SECONDS, GAUGE)[(first + nth) % 3],
                    [
                        Point(
                            (("n", number),),
                            filled(ExplicitHistogram((0.1, 1.0)), number)
                            if (first + nth) % 3 == 1
                            else number,
                            START,
                        )
                        for number in range(points)
                    ],
                )
                for nth in range(metrics)
            ],
        )
        for index, (first, metrics, points) in enumerate(shape)
    ]
    made = list(requests(groups, NOW, max_bytes=max_bytes))
    seen = []
    for request in made:
        assert request.items == 1 or len(request.body) <= max_bytes
        message = ExportMetricsServiceRequest.FromString(request.body)
        points = [
            (attributes(resource.resource)["service.name"], metric.name, attributes(point)["n"])
            for resource in message.resource_metrics
            for metric in resource.scope_metrics[0].metrics
            for point in getattr(metric, metric.WhichOneof("data")).data_points
        ]
        assert len(points) == request.items
        assert points == told(request.groups)
        seen += points
    assert seen == told(groups)


def told(groups):
    return [
        (resource["service.name"], metric.instrument.name, dict(point.attributes)["n"])
        for resource, metrics in groups
        for metric in metrics
        for point in metric.points
    ]


def test_what_fits_is_one_request():
    points = [Point((("n", number),), number, START) for number in range(1000)]
    (message,) = parsed(group(COUNT, *points), group(COUNT, *points, name="cart"))
    assert [len(resource.scope_metrics[0].metrics[0].sum.data_points)
            for resource in message.resource_metrics] == [1000, 1000]  # fmt: skip
