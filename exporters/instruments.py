# SPDX-License-Identifier: Apache-2.0
"""What a metric is: the terms that its makers and its readers share.

OTel: https://opentelemetry.io/docs/specs/otel/metrics/data-model/ 1.60.0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from exporters.histograms import Histogram
from parsers.model import AttributeValue

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
Attributes: TypeAlias = tuple[tuple[str, AttributeValue], ...]
"""In order of keys, so that equal sets are equal tuples."""


@dataclass(slots=True, frozen=True, eq=False)
class Instrument:
    """A metric without its values: one object for each name."""

    name: str
    """As in the conventions, `http.server.request.duration`."""
    kind: Kind
    unit: str
    """UCUM: `s`, `By`, `{span}`, `1`."""
    description: str
    bounds: tuple[float, ...] = ()
    """Of a histogram with explicit buckets: their upper ends, inclusive."""


class Exemplar(NamedTuple):
    """One measurement with the trace that it belongs to."""

    value: float
    trace_id: bytes
    span_id: bytes
    unix_ns: int


class Point(NamedTuple):
    """The value of one set of attributes."""

    attributes: Attributes
    value: int | float | Histogram
    start_unix_ns: int
    """When counting began."""
    exemplar: Exemplar | None = None
    """The latest; of a histogram only."""


class Metric(NamedTuple):
    """An instrument with its values; counters and histograms are cumulative."""

    instrument: Instrument
    points: list[Point]


class ResourceMetrics(NamedTuple):
    """The metrics of one service, or of the agent itself."""

    resource: Mapping[str, AttributeValue]
    metrics: list[Metric]
