# SPDX-License-Identifier: Apache-2.0
"""The OTLP exporter: encodes on the pipeline's thread, sends on its own.

Spans are encoded as they come and not when they are sent: bytes are a tenth of the
objects they are made from, a queue of bytes has an exact size, and either thread holds
the interpreter's lock while it encodes.

OTel: https://opentelemetry.io/docs/specs/otel/protocol/exporter/ 1.60.0
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from exporters.delivery import Delivery, RareLog
from exporters.otlp_wire import EncodedSpan, SpanEncoder
from exporters.queue import SpanQueue
from exporters.settings import OtlpSettings
from exporters.transport import Transport, open_transport
from tracer.export import Exporter
from tracer.span import Span

MAX_BATCH_BYTES: Final = 3_500_000
"""Many gRPC servers refuse requests above 4 MiB."""
CLOSE_S: Final = 1.0
"""How long `close` waits for an attempt to give up."""

COUNTERS: Final = (
    "spans_received",
    "spans_sent",
    "spans_refused",
    "spans_dropped_queue",
    "spans_dropped_status",
    "spans_dropped_timeout",
    "spans_dropped_shutdown",
    "spans_dropped_encoding",
    "spans_dropped_error",
    "requests",
    "retries",
    "splits",
)
"""received = sent + refused + dropped_* + what is queued or in flight."""


class OtlpExporter(Exporter):
    """Sends spans to an OTLP backend, by gRPC or HTTP."""

    def __init__(self, settings: OtlpSettings, transport: Transport | None = None) -> None:
        self.settings = settings
        self._transport = transport or open_transport(settings)
        self._encoder = SpanEncoder()
        self._queue = SpanQueue(
            settings.queue_spans, settings.queue_bytes, settings.batch_spans, MAX_BATCH_BYTES
        )
        self._log = RareLog()
        self._delivery = Delivery(
            self._transport, settings.timeout_s, settings.export_timeout_s, log=self._log
        )
        self._counters: Counter[str] = Counter()
        """Those of the pipeline's thread."""
        self._delivered = self._delivery.counters
        """Those of the other."""
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="otlp", daemon=True)
        self._thread.start()

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> OtlpExporter:
        """An exporter by the environment; `options` are overrides as `OtlpSettings` has them.

        Raises:
            SettingsError: an option is bad.
        """
        return cls(OtlpSettings.from_environment(os.environ, **options))

    def export(self, spans: Sequence[Span]) -> None:
        """Queue `spans`; if there is no room, the oldest in the queue are dropped and counted."""
        if not spans:
            return
        self._counters["spans_received"] += len(spans)
        if self._closed:
            self._counters["spans_dropped_shutdown"] += len(spans)
            return
        try:
            encoded = self._encoder.encode(spans)
        except Exception:  # noqa: BLE001  # a stranger's parser may put anything into an attribute
            encoded = self._encode_singly(spans)
        dropped = self._queue.put(encoded)
        if dropped:
            self._counters["spans_dropped_queue"] += dropped
            self._log.say(
                "queue full",
                f"OTLP: the queue for {self.settings.target} is full; {dropped} of the oldest"
                " spans dropped. Is the backend too slow? A larger OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
                " makes fewer requests; OTEL_BSP_MAX_QUEUE_SIZE spans a longer outage.",
            )

    def flush(self, timeout_s: float) -> bool:
        """Send what is queued, at once; False if some is left after `timeout_s`."""
        self._delivery.hurry()
        drained = self._queue.drain(timeout_s)
        self._delivery.calm()
        return drained

    def close(self) -> None:
        """Drop and count what is left, and end the thread; takes a second at most."""
        if self._closed:
            return
        self._closed = True
        left = self._queue.close()
        self._delivery.stop()
        self._transport.abort()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():  # stuck where nothing can wake it, as in name resolution
            left += self._queue.in_flight
            self._delivered = self._delivered.copy()  # whatever it still does is too late
        else:
            self._transport.close()
        self._counters["spans_dropped_shutdown"] += left

    def counters(self) -> Mapping[str, int]:
        """Totals since start; the keys are those of `COUNTERS`."""
        return {name: self._counters[name] + self._delivered[name] for name in COUNTERS}

    def _encode_singly(self, spans: Sequence[Span]) -> list[EncodedSpan]:
        encoded: list[EncodedSpan] = []
        for span in spans:
            try:
                encoded += self._encoder.encode([span])
            except Exception as problem:  # noqa: BLE001  # see export
                self._counters["spans_dropped_encoding"] += 1
                self._log.say(
                    f"encoding {span.protocol}",
                    f"OTLP: a span of {span.protocol} has an attribute that no attribute can be"
                    f" ({problem}); dropped. This is a fault of the parser for {span.protocol}.",
                )
        return encoded

    def _work(self) -> None:
        while True:
            self._delivery.hold()
            batch = self._queue.take(self.settings.schedule_delay_s)
            if batch is None:
                return
            if batch:
                self._delivery.deliver(batch)
                self._queue.settle()
