# SPDX-License-Identifier: Apache-2.0
"""Metrics as Prometheus has them: names, labels and buckets made of OpenTelemetry's.

`http.server.request.duration` in `s` is `http_server_request_duration_seconds`, a counter ends in
`_total`, an attribute `http.route` is the label `http_route`. A service's resource is one series
`target_info`, and its identity the labels `job` (`namespace/name`) and `instance` of all its
series. What is the agent's own has neither, since for these the scraped target itself is the
right job and instance: the service graph, which is about two services at once, and the readings
of its health.

So a scrape needs `honor_labels: true`, as of every endpoint that speaks for others; without it
Prometheus keeps the services' labels as `exported_job` and `exported_instance`.

An exponential histogram becomes buckets that end at powers of two: its own buckets lie wholly
inside of them, so they are exact, and they are the same at all times and on all machines, so that
series can be added up.

As samples and as text, series take many times the room that they have here. So all is written in
parts, by `prometheus_client`, which knows the format.

OTel: https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/ 1.60.0
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, islice
from math import inf
from typing import Final, NamedTuple, TypeAlias

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as Mark
from prometheus_client.samples import Sample, Timestamp

from exporters.histograms import ExplicitHistogram, ExponentialHistogram, Histogram
from exporters.instruments import Attributes, Exemplar, Instrument, Metric, Point, ResourceMetrics
from parsers.model import AttributeValue

Encode: TypeAlias = Callable[[Collector], bytes]
"""As `prometheus_client` has them: a whole page of what is collected."""
Labels = dict[str, str]
Buckets = list[tuple[float, int]]
"""Upper ends in rising order, infinity last, with how many values are not above."""

UNITS: Final = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "min": "minutes",
    "h": "hours",
    "d": "days",
    "By": "bytes",
    "%": "percent",
}
"""UCUM to Prometheus; what is in braces is an annotation and no unit."""
RATIO: Final = "1"

FIRST_POWER_S: Final = -14
LAST_POWER_S: Final = 6
"""Of durations: 61 µs to 64 s, 21 buckets."""
FIRST_POWER: Final = 0
LAST_POWER: Final = 30
"""Of anything else: 1 to 2**30 in steps of four, 16 buckets."""

OWN: Final = ("traces_service_graph_", "process.")
"""How metrics begin that only the agent has, which shows whose resource it is."""
IDENTITY: Final = frozenset({"service.name", "service.namespace", "service.instance.id"})
"""What `job` and `instance` are made of, and `target_info` does not repeat."""
RESERVED: Final = frozenset({"job", "instance", "le", "quantile"})
"""Labels that mean something to Prometheus."""
MAX_NAMES: Final = 4096
PART: Final = 2000
"""Samples that are written at once: about 1 MB until they are."""

NOT_IN_NAME: Final = re.compile(r"[^a-zA-Z0-9_:]+")
NOT_IN_LABEL: Final = re.compile(r"[^a-zA-Z0-9_]")


class Exposition:
    """What one scrape finds."""

    def __init__(self, metrics: Iterable[ResourceMetrics]) -> None:
        self._families: dict[str, _Family] = {}
        self.clashes = 0
        """Metrics left out since another one with their name is of another kind."""
        targets: dict[tuple[tuple[str, str], ...], Labels] = {}
        for resource, of_resource in metrics:
            is_own = any(each.instrument.name.startswith(OWN) for each in of_resource)
            identity = {} if is_own else identity_of(resource)
            for metric in of_resource:
                self._add(metric, identity)
            rest = tuple(
                sorted(each for each in resource.items() if is_own or each[0] not in IDENTITY)
            )
            if rest:
                targets[tuple(identity.items())] = _labels(rest, identity)
        self._targets = list(targets.values())

    def pages(self, encode: Encode) -> Iterator[bytes]:
        """All of it as text, in pieces."""
        # A page of each part alone has the head of its family and the end of a page, too.
        end = encode(_Part())
        for family, samples in self._all():
            head = encode(_Part(family)).removesuffix(end)
            yield head
            while some := list(islice(samples, PART)):
                family.samples = some
                yield encode(_Part(family)).removeprefix(head).removesuffix(end)
        yield end

    def _all(self) -> Iterator[tuple[Family, Iterator[Sample]]]:
        """Families without samples, and these."""
        if self._targets:
            family = Family("target", "Resource of the service", "info")
            yield family, (Sample("target_info", each, 1) for each in self._targets)
        for each in self._families.values():
            yield each.head(), each.samples()

    def _add(self, metric: Metric, identity: Labels) -> None:
        instrument = metric.instrument
        name, unit = _names(instrument.name, instrument.unit, instrument.kind)
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = _Family(name, unit, instrument)
        elif family.instrument.kind != instrument.kind:
            self.clashes += 1
            return
        for point in metric.points:
            family.add(_labels(point.attributes, identity), point)


class _Part(Collector):
    """What `prometheus_client` takes for a registry, with a family at most."""

    def __init__(self, *families: Family) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


class Series(NamedTuple):
    """One set of labels with its value."""

    labels: Labels
    value: float | Histogram
    exemplar: Exemplar | None


class _Family:
    """All series of a name, of whatever resources."""

    def __init__(self, name: str, unit: str, instrument: Instrument) -> None:
        self.name = name
        self.unit = unit
        self.instrument = instrument
        self._series: dict[tuple[tuple[str, str], ...], Series] = {}

    def add(self, labels: Labels, point: Point) -> None:
        """Take a point; two with the same labels become one, as Prometheus takes no second."""
        key = tuple(labels.items())
        known = self._series.get(key)
        value = point.value
        exemplar = point.exemplar
        if known is not None:
            value = _together(known.value, value, self.instrument.kind)
            exemplar = exemplar or known.exemplar
        self._series[key] = Series(labels, value, exemplar)

    def head(self) -> Family:
        """Its name and meaning, without samples."""
        return Family(self.name, self.instrument.description, self.instrument.kind, self.unit)

    def samples(self) -> Iterator[Sample]:
        kind = self.instrument.kind
        for labels, value, exemplar in self._series.values():
            if isinstance(value, ExplicitHistogram | ExponentialHistogram):
                yield from self._histogram(labels, value, exemplar)
            elif kind == "counter":
                mark = None if exemplar is None else _mark(exemplar)
                yield Sample(f"{self.name}_total", labels, value, None, mark)
            else:
                yield Sample(self.name, labels, value)

    def _histogram(
        self, labels: Labels, value: Histogram, exemplar: Exemplar | None
    ) -> Iterator[Sample]:
        name = f"{self.name}_bucket"
        for end, count in buckets_of(value, self.instrument.unit):
            mark = None
            if exemplar is not None and exemplar.value <= end:
                mark = _mark(exemplar)
                exemplar = None
            yield Sample(name, {**labels, "le": _text(end)}, count, None, mark)
        yield Sample(f"{self.name}_count", labels, value.count)
        yield Sample(f"{self.name}_sum", labels, value.sum)


def identity_of(resource: Mapping[str, AttributeValue]) -> Labels:
    """`job` and `instance` of a service, as far as its resource tells them."""
    found = {}
    name = _clean(str(resource.get("service.name", "")))
    if name:
        namespace = _clean(str(resource.get("service.namespace", "")))
        found["job"] = f"{namespace}/{name}" if namespace else name
    instance = _clean(str(resource.get("service.instance.id", "")))
    if instance:
        found["instance"] = instance
    return found


def buckets_of(value: Histogram, unit: str) -> Buckets:
    """Cumulative buckets; those of an exponential histogram end at powers of two."""
    if isinstance(value, ExplicitHistogram):
        ends: Sequence[float] = (*value.bounds, inf)
        return list(zip(ends, accumulate(value.counts), strict=True))
    powers: Sequence[int] = range(FIRST_POWER, LAST_POWER + 1, 2)
    if unit == "s":
        powers = range(FIRST_POWER_S, LAST_POWER_S + 1)
    found: Buckets = []
    counts, offset, scale = value.counts, value.offset, value.scale
    below = value.zero_count
    taken = 0
    for power in powers:
        # Bucket i ends at 2 ** ((i + 1) / 2 ** scale). Below scale 0 one may reach beyond this
        # power, and counts at the next that it does not.
        stop = (power << scale if scale >= 0 else power >> -scale) - offset
        stop = min(max(stop, taken), len(counts))
        below += sum(counts[taken:stop])
        taken = stop
        found.append((2.0**power, below))
    found.append((inf, value.count))
    return found


@lru_cache(MAX_NAMES)
def _names(name: str, unit: str, kind: str) -> tuple[str, str]:
    """The name without what its kind adds, and the unit that it ends with."""
    name = NOT_IN_NAME.sub("_", name).strip("_") or "_"
    if name[0].isdigit():
        name = f"_{name}"
    if kind == "counter":
        name = name.removesuffix("_total")
    word = UNITS.get(unit, "")
    if unit == RATIO and kind == "gauge":
        word = "ratio"
    if word and not name.endswith(f"_{word}"):
        name = f"{name}_{word}"
    return name, word


@lru_cache(MAX_NAMES)
def _label(key: str) -> str:
    name = NOT_IN_LABEL.sub("_", key)
    if name[:1].isdigit():
        name = f"key_{name}"
    if name.startswith("__"):
        name = f"key{name}"
    return f"exported_{name}" if name in RESERVED else name or "_"


def _labels(attributes: Attributes, identity: Labels) -> Labels:
    """Labels in order; keys that become the same label have their values joined."""
    labels = dict(identity)
    for key, value in attributes:
        name = _label(key)
        text = _clean(value) if isinstance(value, str) else _value(value)
        labels[name] = f"{labels[name]};{text}" if name in labels else text
    return dict(sorted(labels.items()))


def _value(value: AttributeValue) -> str:
    """As OpenTelemetry writes what is no text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return _clean(json.dumps(list(value), ensure_ascii=False, separators=(",", ":")))


def _clean(text: str) -> str:
    """Text that has a form in UTF-8; what came from strange bytes may have none."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _together(one: float | Histogram, other: float | Histogram, kind: str) -> float | Histogram:
    """Two values of one series: their sum, or the latter where there is none."""
    if isinstance(one, ExplicitHistogram) and isinstance(other, ExplicitHistogram):
        if one.bounds != other.bounds:
            return other
        both = one.copy()
        both.merge(other)
        return both
    if isinstance(one, ExponentialHistogram) and isinstance(other, ExponentialHistogram):
        merged = one.copy()
        merged.merge(other)
        return merged
    if kind == "counter" and isinstance(one, int | float) and isinstance(other, int | float):
        return one + other
    return other


def _mark(exemplar: Exemplar) -> Mark:
    labels = {"span_id": exemplar.span_id.hex(), "trace_id": exemplar.trace_id.hex()}
    seconds, rest_ns = divmod(exemplar.unix_ns, 1_000_000_000)
    return Mark(labels, exemplar.value, Timestamp(seconds, rest_ns))


@lru_cache(MAX_NAMES)
def _text(end: float) -> str:
    return "+Inf" if end == inf else repr(float(end))
