# SPDX-License-Identifier: Apache-2.0
"""Since when a backend wants metrics counted: since the start, or since it was told last.

All series here are cumulative. For a backend that wants deltas, what it knows already is taken
off. It knows what was delivered, and not what was tried: what a failed export should have told is
part of the next one. So deltas lose nothing to an outage; but where a request arrived and its
answer did not, it is told twice, as with spans.

OTel: https://opentelemetry.io/docs/specs/otel/metrics/sdk_exporters/otlp/ 1.60.0
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import TypeAlias, cast

from exporters.histograms import ExplicitHistogram, ExponentialHistogram, Histogram
from exporters.instruments import Attributes, Instrument, Metric, Point, ResourceMetrics
from exporters.series import Identity, identity_of


class Temporality(Enum):
    """Values are those of OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE."""

    CUMULATIVE = "cumulative"
    DELTA = "delta"
    LOW_MEMORY = "lowmemory"
    """Deltas of what we count ourselves, and totals of what we only read."""


SeriesKey: TypeAlias = tuple[Identity, str, Attributes]


class Observed(Instrument):
    """One whose values are read somewhere, and not counted here."""

    __slots__ = ()


def is_delta(temporality: Temporality, instrument: Instrument) -> bool:
    """Whether the backend wants `instrument` counted since it was told last."""
    if instrument.kind == "gauge" or temporality is Temporality.CUMULATIVE:
        return False
    return temporality is Temporality.DELTA or not isinstance(instrument, Observed)


class Deltas:
    """What one backend knows. Holds a point for each series that there was the last time."""

    def __init__(self, temporality: Temporality) -> None:
        self._temporality = temporality
        self._known: dict[SeriesKey, tuple[Point, int]] = {}
        """The point as it was delivered, and when."""

    def since(self, groups: Iterable[ResourceMetrics]) -> list[ResourceMetrics]:
        """`groups` without what is known; what has not changed is left out."""
        if self._temporality is Temporality.CUMULATIVE:
            return list(groups)
        reduced = []
        for resource, metrics in groups:
            identity = identity_of(resource)
            found = [
                Metric(metric.instrument, list(self._reduced(identity, metric)))
                for metric in metrics
            ]
            reduced.append(ResourceMetrics(resource, [metric for metric in found if metric.points]))
        return [group for group in reduced if group.metrics]

    def keep(self, groups: Iterable[ResourceMetrics]) -> None:
        """Forget the series that are not among `groups`: all that were read this time."""
        if self._known:
            there = {key for key, _ in self._keyed(groups)}
            for key in self._known.keys() - there:
                del self._known[key]

    def learn(
        self, groups: Iterable[ResourceMetrics], told: Iterable[ResourceMetrics], unix_ns: int
    ) -> None:
        """`told` has been delivered; `groups` are the totals that it came from."""
        if self._temporality is Temporality.CUMULATIVE:
            return
        keys = {key for key, _ in self._keyed(told)}
        for key, point in self._keyed(groups):
            if key in keys:
                self._known[key] = point, unix_ns

    def _keyed(self, groups: Iterable[ResourceMetrics]) -> Iterator[tuple[SeriesKey, Point]]:
        for resource, metrics in groups:
            identity = identity_of(resource)
            for instrument, points in metrics:
                if is_delta(self._temporality, instrument):
                    for point in points:
                        yield (identity, instrument.name, point.attributes), point

    def _reduced(self, identity: Identity, metric: Metric) -> Iterator[Point]:
        instrument, points = metric
        if not is_delta(self._temporality, instrument):
            yield from points
            return
        for point in points:
            known = self._known.get((identity, instrument.name, point.attributes))
            if known is None or known[0].start_unix_ns != point.start_unix_ns:
                yield point
                continue
            before, unix_ns = known
            value = _difference(point.value, before.value)
            if value if isinstance(value, int | float) else value.count:
                exemplar = None if point.exemplar == before.exemplar else point.exemplar
                yield Point(point.attributes, value, unix_ns, exemplar)


def _difference(
    now: int | float | Histogram,  # noqa: PYI041  # as Point has it
    then: int | float | Histogram,  # noqa: PYI041
) -> int | float | Histogram:
    if isinstance(now, ExplicitHistogram):
        return now.since(cast("ExplicitHistogram", then))
    if isinstance(now, ExponentialHistogram):
        return now.since(cast("ExponentialHistogram", then))
    return now - cast("int | float", then)
