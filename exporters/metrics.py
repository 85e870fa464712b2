# SPDX-License-Identifier: Apache-2.0
"""The exporter of metrics: counts every span on the pipeline's thread, and lets others read.

There are two ways out, and both may be open: sent by OTLP once a minute (exporters/
metrics_reader.py), or scraped by Prometheus (exporters/prometheus.py). Each reads a copy, under
a lock that the pipeline's thread takes once for each batch.

OTel: https://opentelemetry.io/docs/specs/otel/metrics/ 1.60.0
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from exporters.agent import agent_resource
from exporters.instruments import Attributes, Instrument, Metric, Point, ResourceMetrics
from exporters.metrics_reader import COUNTERS as READER_COUNTERS
from exporters.metrics_reader import MetricsReader
from exporters.metrics_settings import MetricsSettings
from exporters.rare_log import RareLog
from exporters.series import SeriesStore, Service
from exporters.span_metrics import SpanMetrics
from exporters.temporality import Observed
from exporters.transport import Transport
from parsers.model import AttributeValue
from tracer.export import Exporter
from tracer.span import Span
from tracer.telemetry import Reading, Readings

if TYPE_CHECKING:
    from exporters.prometheus import PrometheusEndpoint

MAX_OBSERVED: Final = 5000
"""Readings of the agent's own health that are passed on; there are some hundreds."""


class MetricsExporter(Exporter):
    """Makes metrics of spans, and gives them and the agent's own to whoever reads."""

    def __init__(
        self,
        settings: MetricsSettings,
        *,
        transport: Transport | None = None,
        resource: Mapping[str, AttributeValue] | None = None,
    ) -> None:
        """`resource` is the agent's, `transport` the one to use for OTLP.

        Raises:
            SettingsError: a certificate cannot be read, or nobody can listen at the address
                that Prometheus is to scrape.
        """
        self.settings = settings
        self._agent = Service(agent_resource() if resource is None else resource)
        self._store = SeriesStore(exponential=settings.exponential)
        self._spans = SpanMetrics(self._store, self._agent)
        self._health = _Health()
        self._lock = threading.Lock()
        self._received = 0
        self._active = settings.otlp is not None or bool(settings.prometheus)
        self.endpoint: PrometheusEndpoint | None = None
        """Where Prometheus scrapes."""
        self._reader: MetricsReader | None = None
        if settings.prometheus:
            # Imported here, since it costs what only those need pay who want to be scraped.
            from exporters.prometheus import PrometheusEndpoint  # noqa: PLC0415

            self.endpoint = PrometheusEndpoint(self.collect, settings.prometheus)
        if settings.otlp is not None:
            try:
                self._reader = MetricsReader(self.collect, settings, settings.otlp, transport)
            except BaseException:
                if self.endpoint is not None:
                    self.endpoint.close()
                raise

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> MetricsExporter:
        """An exporter by `options` and the environment, as `MetricsSettings` has them.

        Raises:
            SettingsError: an option is bad or unknown.
        """
        return cls(MetricsSettings.from_options(options, os.environ))

    def observe(self, readings: Readings) -> None:
        """Pass on the agent's own health too: `readings` is asked at each collection."""
        self._health.readings = readings

    def export(self, spans: Sequence[Span]) -> None:
        """Count `spans`; nothing of them is kept but the latest of each series."""
        self._received += len(spans)
        if self._active:
            with self._lock:
                self._spans.record(spans)

    def collect(self) -> list[ResourceMetrics]:
        """All metrics as they are now: copies, which stay as they are. From any thread."""
        with self._lock:
            self._spans.settle()
            found = self._store.collect()
            own = self._agent.metrics()
        # Not under the lock: this asks the kernel, too.
        own += self._health.metrics()
        if own:
            found.append(ResourceMetrics(self._agent.resource, own))
        return found

    def flush(self, timeout_s: float) -> bool:
        """Send all metrics by OTLP now; False if that did not succeed in `timeout_s`."""
        return self._reader is None or self._reader.flush(timeout_s)

    def close(self) -> None:
        """Send and answer no more; takes a second at most."""
        if self._reader is not None:
            self._reader.close()
        if self.endpoint is not None:
            self.endpoint.close()

    def counters(self) -> Mapping[str, int]:
        """Totals since start: of spans, of series, of exports by OTLP and of scrapes."""
        reader, endpoint = self._reader, self.endpoint
        return {
            "spans_received": self._received,
            "spans_dropped_measuring": self._spans.failed,
            **self._store.counters,
            "readings_failed": self._health.failed,
            "readings_dropped": self._health.dropped,
            **(dict.fromkeys(READER_COUNTERS, 0) if reader is None else reader.counters()),
            **({} if endpoint is None else endpoint.counters()),
        }


class _Health:
    """The agent's own health as metrics."""

    def __init__(self) -> None:
        self.readings: Readings | None = None
        self.failed = 0
        """How often the readings could not be had."""
        self.dropped = 0
        """Readings that were too many."""
        self._start_unix_ns = time.time_ns()
        self._instruments: dict[str, Instrument] = {}
        self._log = RareLog()

    def metrics(self) -> list[Metric]:
        """What the readings say now; nothing if they cannot be had."""
        if self.readings is None:
            return []
        try:
            return self._mapped(self.readings())
        except Exception as problem:  # noqa: BLE001  # the other metrics do not depend on it
            self.failed += 1
            self._log.say("readings", f"Metrics: the agent's own health is missing: {problem}")
            return []

    def _mapped(self, readings: Iterable[Reading]) -> list[Metric]:
        groups: dict[str, dict[Attributes, Point]] = {}
        total = 0
        for reading in readings:
            total += 1
            if total > MAX_OBSERVED:
                self.dropped += 1
                continue
            name = reading.name
            instrument = self._instruments.get(name)
            if instrument is None:
                instrument = Observed(name, reading.kind, reading.unit, reading.description)
                self._instruments[name] = instrument
            groups.setdefault(name, {})[reading.attributes] = Point(
                reading.attributes, reading.value, self._start_unix_ns
            )
        return [
            Metric(self._instruments[name], list(points.values()))
            for name, points in groups.items()
        ]
