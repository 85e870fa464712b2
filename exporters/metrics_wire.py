# SPDX-License-Identifier: Apache-2.0
"""Metrics as requests of OTLP, by the official classes: once a minute they are fast enough.

A request is cut before it is too large, wherever that is: in the middle of a metric, if need be,
whose points are then in two requests.

OTel: https://github.com/open-telemetry/opentelemetry-proto 1.11.0, metrics/v1/metrics.proto
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from exporters.histograms import ExplicitHistogram, ExponentialHistogram
from exporters.instruments import Attributes, Exemplar, Instrument, Metric, Point, ResourceMetrics
from exporters.protobuf import INT64, any_value, key_name, message
from exporters.semconv import SCHEMA_URL, SCOPE_NAME, SCOPE_VERSION
from exporters.settings import MAX_REQUEST_BYTES
from exporters.temporality import Temporality, is_delta
from parsers.model import AttributeValue

FRAME_BYTES: Final = 64
"""What lengths and tags around a message take at most, for three levels of them."""


class Request(NamedTuple):
    """An ExportMetricsServiceRequest."""

    body: bytes
    items: int
    """How many points are in it."""
    groups: list[ResourceMetrics]
    """What is in it."""


def requests(
    groups: Iterable[ResourceMetrics],
    unix_ns: int,
    temporality: Temporality = Temporality.CUMULATIVE,
    max_bytes: int = MAX_REQUEST_BYTES,
) -> Iterator[Request]:
    """The requests that say `groups`, as read at `unix_ns`.

    None is above `max_bytes` if it has more than one point. `temporality` is what the values have.
    """
    draft = _Draft(unix_ns, temporality)
    for group in groups:
        for metric in group.metrics:
            for point in metric.points:
                if not draft.add(group, metric.instrument, point, max_bytes):
                    yield draft.finish()
                    draft = _Draft(unix_ns, temporality)
                    draft.add(group, metric.instrument, point, max_bytes)
    if draft.points:
        yield draft.finish()


class _Draft:
    """A request that is being filled."""

    def __init__(self, unix_ns: int, temporality: Temporality) -> None:
        self.points = 0
        self._unix_ns = unix_ns
        self._temporality = temporality
        self._message = ExportMetricsServiceRequest()
        self._groups: list[ResourceMetrics] = []
        self._size = 0
        """Of the message, at most."""
        self._resource: Mapping[str, AttributeValue] | None = None
        self._instrument: Instrument | None = None

    def add(
        self, group: ResourceMetrics, instrument: Instrument, point: Point, max_bytes: int
    ) -> bool:
        """Add one point, with what has to be around it; False if there is no room for it."""
        made = _number(point) if instrument.kind != "histogram" else _histogram(point)
        if instrument.kind != "gauge":
            # A series may have begun by the kernel's clock after this reading by the other.
            made.start_time_unix_nano = min(point.start_unix_ns, self._unix_ns)
        made.time_unix_nano = self._unix_ns
        resource = metric = None
        size = made.ByteSize() + FRAME_BYTES
        if group.resource is not self._resource:
            resource = _resource_metrics(group.resource)
            size += resource.ByteSize() + FRAME_BYTES
        if resource is not None or instrument is not self._instrument:
            metric = _metric(instrument, point, self._temporality)
            size += metric.ByteSize() + FRAME_BYTES
        if self.points and self._size + size > max_bytes:
            return False
        self._size += size
        self.points += 1
        if resource is not None:
            self._message.resource_metrics.append(resource)
            self._resource = group.resource
            self._groups.append(ResourceMetrics(group.resource, []))
        if metric is not None:
            self._message.resource_metrics[-1].scope_metrics[0].metrics.append(metric)
            self._instrument = instrument
            self._groups[-1].metrics.append(Metric(instrument, []))
        last = self._message.resource_metrics[-1].scope_metrics[0].metrics[-1]
        data = getattr(last, last.WhichOneof("data") or "")
        data.data_points.append(made)
        self._groups[-1].metrics[-1].points.append(point)
        return True

    def finish(self) -> Request:
        """The request; nothing can be added any more."""
        return Request(self._message.SerializeToString(), self.points, self._groups)


def _resource_metrics(resource: Mapping[str, AttributeValue]) -> pb.ResourceMetrics:
    return pb.ResourceMetrics(
        resource=Resource(attributes=_key_values(resource.items())),
        scope_metrics=[
            pb.ScopeMetrics(
                scope=InstrumentationScope(name=SCOPE_NAME, version=SCOPE_VERSION),
                schema_url=SCHEMA_URL,
            )
        ],
        schema_url=SCHEMA_URL,
    )


def _metric(instrument: Instrument, point: Point, temporality: Temporality) -> pb.Metric:
    """A metric without points."""
    metric = pb.Metric(
        name=instrument.name, description=instrument.description, unit=instrument.unit
    )
    which = (
        pb.AGGREGATION_TEMPORALITY_DELTA
        if is_delta(temporality, instrument)
        else pb.AGGREGATION_TEMPORALITY_CUMULATIVE
    )
    if instrument.kind == "gauge":
        metric.gauge.SetInParent()
    elif instrument.kind == "counter":
        metric.sum.is_monotonic = True
        metric.sum.aggregation_temporality = which
    elif isinstance(point.value, ExplicitHistogram):
        metric.histogram.aggregation_temporality = which
    else:
        metric.exponential_histogram.aggregation_temporality = which
    return metric


def _number(point: Point) -> pb.NumberDataPoint:
    value = point.value
    made = pb.NumberDataPoint(attributes=_key_values(point.attributes))
    assert isinstance(value, int | float)
    if isinstance(value, int) and value in INT64:
        made.as_int = value
    else:
        made.as_double = float(value)
    return made


def _histogram(point: Point) -> pb.HistogramDataPoint | pb.ExponentialHistogramDataPoint:
    value = point.value
    assert isinstance(value, ExplicitHistogram | ExponentialHistogram)
    attributes = _key_values(point.attributes)
    exemplars = [] if point.exemplar is None else [_exemplar(point.exemplar)]
    made: pb.HistogramDataPoint | pb.ExponentialHistogramDataPoint
    if isinstance(value, ExplicitHistogram):
        made = pb.HistogramDataPoint(
            attributes=attributes,
            count=value.count,
            sum=value.sum,
            bucket_counts=value.counts,
            explicit_bounds=value.bounds,
            exemplars=exemplars,
        )
    else:
        made = pb.ExponentialHistogramDataPoint(
            attributes=attributes,
            count=value.count,
            sum=value.sum,
            scale=value.scale,
            zero_count=value.zero_count,
            exemplars=exemplars,
        )
        if value.counts:
            made.positive.offset = value.offset
            made.positive.bucket_counts.extend(value.counts)
    if value.min <= value.max:
        made.min, made.max = value.min, value.max
    return made


def _exemplar(exemplar: Exemplar) -> pb.Exemplar:
    return pb.Exemplar(
        time_unix_nano=exemplar.unix_ns,
        as_double=exemplar.value,
        trace_id=exemplar.trace_id,
        span_id=exemplar.span_id,
    )


def _key_values(attributes: Attributes | Iterable[tuple[str, AttributeValue]]) -> list[KeyValue]:
    # By way of our own bytes, which have an answer for every string and every integer.
    return [
        KeyValue.FromString(key_name[key] + message(0x12, any_value(value)))
        for key, value in attributes
    ]
