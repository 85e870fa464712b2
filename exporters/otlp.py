# SPDX-License-Identifier: Apache-2.0
"""The OTLP exporter: encodes on the pipeline's thread, sends on others.

Spans are encoded as they come and not when they are sent: bytes are a tenth of the
objects they are made from, a queue of bytes has an exact size, and either thread holds
the interpreter's lock while it encodes.

OTel: https://opentelemetry.io/docs/specs/otel/protocol/exporter/ 1.60.0
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from exporters import sampling
from exporters.environment import SettingsError
from exporters.otlp_wire import EncodedSpan, SpanEncoder
from exporters.queue import SpanQueue
from exporters.rare_log import RareLog
from exporters.senders import MAX_SENDERS, Senders
from exporters.settings import MAX_REQUEST_BYTES, OtlpSettings
from exporters.spool import SPOOL_BYTES, Spool
from exporters.transport import Transport, open_transport
from tracer.export import Exporter
from tracer.span import Span

MIN_SPOOL_BYTES: Final = 1024 * 1024

COUNTERS: Final = (
    "spans_received",
    "spans_inherited",
    "spans_sent",
    "spans_refused",
    "spans_dropped_queue",
    "spans_dropped_status",
    "spans_dropped_timeout",
    "spans_dropped_shutdown",
    "spans_dropped_encoding",
    "spans_dropped_error",
    "spans_dropped_spool_full",
    "spans_dropped_spool_corrupt",
    "spans_dropped_spool_error",
    "spans_spooled",
    "spans_unspooled",
    "spool_torn_bytes",
    "spool_files_skipped",
    "requests",
    "retries",
    "splits",
)
"""received + inherited = sent + refused + dropped_* + what is queued, in flight or in the spool.

Spans of `dropped_timeout` used up the time of a batch again and again while the backend took
others; in an outage none do. With a spool, spans that would be dropped for the queue or at the
end are spooled instead, and `spans_sent` and the others count them when they have left it (see
exporters/spool.py). `spans_inherited` were in the spool at the start.
"""


class OtlpExporter(Exporter):
    """Sends spans to an OTLP backend, by gRPC or HTTP."""

    def __init__(
        self,
        settings: OtlpSettings,
        connect: Callable[[], Transport] | None = None,
        *,
        spool: Spool | None = None,
        senders: int = MAX_SENDERS,
        log: RareLog | None = None,
    ) -> None:
        """`connect` makes a transport for one thread; `senders` is how many there may be.

        `log` is that of the spool, if there is one.

        Raises:
            SettingsError: a certificate or key cannot be used.
        """
        self.settings = settings
        self._spool = spool
        self._encoder = SpanEncoder()
        self._queue = SpanQueue(
            settings.queue_spans, settings.queue_bytes, settings.batch_spans, MAX_REQUEST_BYTES
        )
        self._log = log or RareLog()
        self._senders = Senders(
            settings,
            self._queue,
            connect or _connect(settings),
            spool=spool,
            log=self._log,
            maximum=senders,
        )
        self._counters: Counter[str] = Counter()
        """Those of the pipeline's thread."""
        self._final: Counter[str] | None = None
        """Those of the others, once it is too late for more."""
        self._closed = False

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Exporter:
        """An exporter by the environment, behind a sampler if not everything is to be kept.

        Most `options` are overrides as `OtlpSettings` has them; `spool` names a directory for
        what cannot be delivered, `spool_bytes` is how much of it is kept; the rest are those of
        the sampler.

        Raises:
            SettingsError: an option is bad.
        """
        rest: dict[str, Any] = {
            name: value for name, value in options.items() if name not in sampling.OPTIONS
        }
        directory, size = rest.pop("spool", ""), rest.pop("spool_bytes", "")
        settings = OtlpSettings.from_environment(os.environ, **rest)
        spool, log = None, RareLog()
        if directory:
            spool = Spool(Path(directory), _spool_bytes(size) if size else SPOOL_BYTES, log)
        elif size:
            raise SettingsError("spool_bytes is of no use without spool")
        try:
            made = cls(settings, spool=spool, log=log)
        except SettingsError:
            if spool is not None:
                spool.close()
            raise
        return sampling.sampled(made, options, os.environ)

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
                " makes fewer requests; OTEL_BSP_MAX_QUEUE_SIZE, or a spool, spans a longer"
                " outage.",
            )

    def flush(self, timeout_s: float) -> bool:
        """Send what is queued, at once; False if after `timeout_s` some is left, or was spooled.

        What was in the spool before stays there.
        """
        spooled = self._spooled()
        self._senders.hurry()
        drained = self._queue.drain(timeout_s)
        self._senders.calm()
        return drained and self._spooled() == spooled

    def close(self) -> None:
        """Spool what is left, or drop and count it, and end the threads.

        Takes a second at most.
        """
        if self._closed:
            return
        self._closed = True
        self._senders.close()
        self._counters["spans_dropped_shutdown"] += self._queue.close()
        if self._spool is not None:
            self._spool.close()
            if self._spool.spans:
                self._log.say(
                    "spool kept",
                    f"OTLP: {self._spool.spans} spans are in the spool {self._spool.directory}:"
                    " the next start with it sends them.",
                )
        self._final = self._delivered()

    def counters(self) -> Mapping[str, int]:
        """Totals since start; the keys are those of `COUNTERS`."""
        delivered = self._delivered() if self._final is None else self._final
        return {name: self._counters[name] + delivered[name] for name in COUNTERS}

    def levels(self) -> Mapping[str, int]:
        """What there is at the moment: spans and bytes that wait, and senders."""
        return {
            "queue_spans": len(self._queue),
            "queue_bytes": self._queue.bytes,
            "in_flight_spans": self._queue.in_flight,
            "spool_spans": self._spool.spans if self._spool else 0,
            "spool_bytes": self._spool.bytes if self._spool else 0,
            "senders": len(self._senders),
        }

    def _delivered(self) -> Counter[str]:
        parts = [self._senders.counters(), self._queue.fates]
        if self._spool is not None:
            parts.append(self._spool.counters)
        # By name: another thread may add a first one while this one reads.
        return Counter({name: sum([part[name] for part in parts]) for name in COUNTERS})

    def _spooled(self) -> int:
        return self._spool.counters["spans_spooled"] if self._spool else 0

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


def _connect(settings: OtlpSettings) -> Callable[[], Transport]:
    """A way to a transport for one thread; one channel of gRPC serves all."""
    if settings.protocol != "grpc":
        return lambda: open_transport(settings)
    shared = open_transport(settings)
    return lambda: shared


def _spool_bytes(value: str) -> int:
    number = int(value) if re.fullmatch(r"[0-9]{1,18}", value) else 0
    if number < MIN_SPOOL_BYTES:
        raise SettingsError(f"spool_bytes: {value!r} is no number of at least {MIN_SPOOL_BYTES}")
    return number
