# SPDX-License-Identifier: Apache-2.0
"""All series of all services, and the bounds that hold them.

Metrics belong to a service and not to a process: eight workers of one server are one service
instance. So the resource of a metric is that of its process without what only the process has,
and the default instance id `host:pid` becomes the host, with the container where there is one.
Where processes of one instance say different things of it, the one that was seen last is right.

A series is one set of attributes of one instrument. Their number is bounded for each instrument
of a service, as the SDK specification has it, and altogether; what comes beyond goes into one
series with the attribute `otel.metric.overflow`. A series that nothing was added to for a while
is forgotten, by the clock of the data. All of this is counted.

Not thread-safe: whoever shares it holds a lock.

OTel: https://opentelemetry.io/docs/specs/otel/metrics/sdk/#cardinality-limits 1.60.0
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from exporters.histograms import ExplicitHistogram, ExponentialHistogram, Histogram
from exporters.instruments import (
    Attributes,
    Exemplar,
    Instrument,
    Metric,
    Point,
    ResourceMetrics,
)
from exporters.protobuf import Cache
from parsers.model import AttributeValue
from tracer.span import Process

MAX_SERIES: Final = 2000
"""Of one instrument of one service, the one for what is too many included: the SDK's default."""
MAX_SERIES_TOTAL: Final = 10_000
"""A scrape of as many takes a second of a processor; those for what is too many come on top."""
MAX_SERVICES: Final = 512
"""What is beyond has one service for all."""
MAX_PROCESSES: Final = 4096
IDLE_NS: Final = 15 * 60 * 1_000_000_000
"""A series that has not changed for as long is forgotten: as the Collector's service graph does."""
SWEEP_NS: Final = 60 * 1_000_000_000

OVERFLOW: Final[Attributes] = (("otel.metric.overflow", True),)
OTHER: Final[Mapping[str, AttributeValue]] = {"service.name": "_OTHER"}
"""The service of those beyond `MAX_SERVICES`."""

SERVICE_NAME: Final = "service.name"
SERVICE_NAMESPACE: Final = "service.namespace"
INSTANCE_ID: Final = "service.instance.id"
PROCESS_PREFIX: Final = "process."
CONTAINER_ID: Final = "container.id"
CONTAINER_CHARS: Final = 12
"""As container tools shorten it."""

COUNTERS: Final = (
    "series_forgotten",
    "series_overflowed",
    "services_forgotten",
    "services_overflowed",
)
"""`series_overflowed`: how often a set of attributes found no room for a series of its own."""

Identity: TypeAlias = tuple[str, str, str]
"""Namespace, name and instance of a service: what tells it from all others."""


class Series:
    """What was measured of one set of attributes, since `start_unix_ns`."""

    __slots__ = ("attributes", "exemplar", "start_unix_ns", "updated_ns", "value")

    def __init__(self, attributes: Attributes, value: int | Histogram, start_unix_ns: int) -> None:
        self.attributes = attributes
        self.value = value
        self.start_unix_ns = start_unix_ns
        self.updated_ns = start_unix_ns
        self.exemplar: Exemplar | None = None

    def point(self) -> Point:
        """As it is now; later changes do not reach it."""
        value = self.value
        return Point(
            self.attributes,
            value if isinstance(value, int) else value.copy(),
            self.start_unix_ns,
            self.exemplar,
        )


class Service:
    """One service instance with its series."""

    __slots__ = ("resource", "series")

    def __init__(self, resource: Mapping[str, AttributeValue]) -> None:
        self.resource = resource
        self.series: dict[Instrument, dict[Attributes, Series]] = {}

    def metrics(self) -> list[Metric]:
        """Copies of all that it has."""
        return [
            Metric(instrument, [series.point() for series in group.values()])
            for instrument, group in self.series.items()
            if group
        ]


class SeriesStore:
    """The series of all services."""

    def __init__(self, *, exponential: bool = False) -> None:
        """`exponential`: make histograms of that kind, whatever bounds their instruments have."""
        self._exponential = exponential
        self._services: dict[Identity, Service] = {}
        self._by_process: Cache[Process, Service] = Cache(self._service, MAX_PROCESSES)
        self._other: Service | None = None
        self._total = 0
        self._swept_ns = 0
        self.counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))

    def service(self, process: Process) -> Service:
        """The service that `process` is a part of."""
        return self._by_process[process]

    def find(
        self, service: Service, instrument: Instrument, attributes: Attributes, start_unix_ns: int
    ) -> Series:
        """The series of `attributes`; a new one began to count at `start_unix_ns`.

        Where there is no room for a new one, it is the one for all that is too many.
        """
        group = service.series.get(instrument)
        if group is None:
            group = service.series[instrument] = {}
        series = group.get(attributes)
        if series is None:
            if len(group) >= MAX_SERIES - 1 or self._total >= MAX_SERIES_TOTAL:
                self.counters["series_overflowed"] += 1
                attributes = OVERFLOW
                series = group.get(attributes)
            if series is None:
                series = Series(attributes, self._empty(instrument), start_unix_ns)
                group[attributes] = series
                self._total += 1
        return series

    def forget(self, now_ns: int, *more: Service) -> bool:
        """Let idle series go, once a minute; `more` are services that are not those of processes.

        True if some went: whoever keeps series must look them up again.
        """
        if now_ns - self._swept_ns < SWEEP_NS:
            return False
        self._swept_ns = now_ns
        oldest_ns = now_ns - IDLE_NS
        forgotten = 0
        for service in (*self._all(), *more):
            for instrument, group in service.series.items():
                kept = {
                    attributes: series
                    for attributes, series in group.items()
                    if series.updated_ns >= oldest_ns
                }
                if len(kept) < len(group):
                    forgotten += len(group) - len(kept)
                    service.series[instrument] = kept
        if not forgotten:
            return False
        self._total -= forgotten
        self.counters["series_forgotten"] += forgotten
        idle = [
            identity
            for identity, service in self._services.items()
            if not any(service.series.values())
        ]
        for identity in idle:
            del self._services[identity]
        self.counters["services_forgotten"] += len(idle)
        self._by_process.clear()
        return True

    def collect(self) -> list[ResourceMetrics]:
        """Copies of all series of processes' services."""
        return list(resource_metrics(self._all()))

    def _all(self) -> list[Service]:
        services = list(self._services.values())
        return services if self._other is None else [*services, self._other]

    def _empty(self, instrument: Instrument) -> int | Histogram:
        if instrument.kind != "histogram":
            return 0
        if self._exponential or not instrument.bounds:
            return ExponentialHistogram()
        return ExplicitHistogram(instrument.bounds)

    def _service(self, process: Process) -> Service:
        resource = service_resource(process.resource)
        identity = identity_of(resource)
        service = self._services.get(identity)
        if service is not None:
            service.resource = resource
            return service
        if len(self._services) >= MAX_SERVICES:
            self.counters["services_overflowed"] += 1
            if self._other is None:
                self._other = Service(OTHER)
            return self._other
        service = self._services[identity] = Service(resource)
        return service


def resource_metrics(services: Iterable[Service]) -> Iterator[ResourceMetrics]:
    """Copies of what the services have, without those that have nothing."""
    for service in services:
        metrics = service.metrics()
        if metrics:
            yield ResourceMetrics(service.resource, metrics)


def service_resource(resource: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    """What of a process's resource its service instance has as well."""
    found = {key: value for key, value in resource.items() if not key.startswith(PROCESS_PREFIX)}
    host, colon, pid = str(found.get(INSTANCE_ID, "")).rpartition(":")
    if colon and pid == str(resource.get("process.pid", "")):
        container = str(found.get(CONTAINER_ID, ""))[:CONTAINER_CHARS]
        found[INSTANCE_ID] = f"{host}:{container}" if container else host
    return found


def identity_of(resource: Mapping[str, AttributeValue]) -> Identity:
    """Which service instance a resource is."""
    get = resource.get
    return str(get(SERVICE_NAMESPACE, "")), str(get(SERVICE_NAME, "")), str(get(INSTANCE_ID, ""))
