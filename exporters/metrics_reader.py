# SPDX-License-Identifier: Apache-2.0
"""Reads all metrics once in a while and sends them by OTLP, on a thread of its own.

Nothing is queued: what could not be sent is read again the next time. A backend that says that it
takes no metrics at all, as Jaeger and Tempo do, is left alone for a while.

OTel: https://opentelemetry.io/docs/specs/otel/metrics/sdk/#periodic-exporting-metricreader 1.60.0
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from exporters.attempts import Attempts, Fate
from exporters.instruments import ResourceMetrics
from exporters.metrics_settings import MetricsSettings
from exporters.metrics_wire import Request, requests
from exporters.rare_log import RareLog
from exporters.settings import MAX_REQUEST_BYTES, OtlpSettings
from exporters.temporality import Deltas
from exporters.transport import Transport, open_transport

logger = logging.getLogger(__name__)

CLOSE_S: Final = 0.5
"""How long `close` waits for an attempt to give up."""
UNSUPPORTED_REST_S: Final = 600.0
"""How long a backend is left alone that takes no metrics. It is asked again, as one that is being
started, or the proxy in front of it, may say so as well."""
NOUN: Final = "data points"

DROPPED: Final = {
    Fate.REFUSED: "points_dropped_status",
    Fate.UNSUPPORTED: "points_dropped_status",
    Fate.EXPIRED: "points_dropped_timeout",
    Fate.STOPPED: "points_dropped_shutdown",
    Fate.FAILED: "points_dropped_error",
}
COUNTERS: Final = (
    "exports",
    "exports_failed",
    "exports_unsupported",
    "points_sent",
    "points_refused",
    "points_dropped_status",
    "points_dropped_timeout",
    "points_dropped_shutdown",
    "points_dropped_error",
    "requests",
    "retries",
    "splits",
)
"""`exports`: readings; `exports_failed`: those of which not all was accepted;
`exports_unsupported`: those that were left out for a backend that takes none. A point that is
dropped is only late: the next reading has what it said."""


class MetricsReader:
    """Sends what `collect` gives, until it is closed."""

    def __init__(
        self,
        collect: Callable[[], Sequence[ResourceMetrics]],
        settings: MetricsSettings,
        otlp: OtlpSettings,
        transport: Transport | None = None,
    ) -> None:
        self._collect = collect
        self._settings = settings
        self._interval_s = otlp.schedule_delay_s
        self._transport = transport or open_transport(otlp)
        self._log = RareLog()
        self._attempts = Attempts(
            self._transport, otlp.timeout_s, otlp.export_timeout_s, log=self._log
        )
        self._deltas = Deltas(settings.temporality)
        self._counters: Counter[str] = Counter()
        self._accepted = False
        """Whether the backend has ever taken metrics; then it can, whatever it says later."""
        self._rests_until = 0.0
        """Until then the backend is one that takes no metrics."""
        self._changed = threading.Condition()
        self._asked = 0
        """How often `flush` was called."""
        self._answered = 0
        """The last of those calls that a whole export came after."""
        self._succeeded = True
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
        self._thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Export at once; False if that fails or takes longer than `timeout_s`.

        True for a backend that takes no metrics: nothing more can be done.
        """
        with self._changed:
            if self._closed:
                return False
            self._asked += 1
            asked = self._asked
            self._attempts.hurry()
            self._changed.notify_all()
            done = self._changed.wait_for(
                lambda: self._answered >= asked or self._closed, timeout_s
            )
            self._attempts.calm()
            return done and self._answered >= asked and self._succeeded

    def close(self) -> None:
        """End the thread; what has not been sent is lost. Takes half a second at most."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._attempts.stop()
        self._transport.abort()
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():  # else stuck where nothing wakes it, as in name resolution
            self._transport.close()

    def counters(self) -> dict[str, int]:
        """Totals since start; the keys are those of `COUNTERS`."""
        attempts = self._attempts.counters
        return {name: self._counters[name] + attempts[name] for name in COUNTERS}

    def _work(self) -> None:
        due = time.monotonic() + self._interval_s
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._asked > self._answered,
                    max(0.0, due - time.monotonic()),
                )
                if self._closed:
                    return
                asked = self._asked
            # Not from the end of the last one: readings keep their distance whatever they take.
            due = max(due, time.monotonic() - self._interval_s) + self._interval_s
            succeeded = self._export()
            with self._changed:
                self._answered = asked
                self._succeeded = succeeded
                self._changed.notify_all()

    def _export(self) -> bool:
        if self._is_resting():
            self._counters["exports_unsupported"] += 1
            return True
        self._counters["exports"] += 1
        try:
            succeeded = self._read_and_send()
        except Exception:
            # Not known to happen; if it does, the next reading must still be sent.
            logger.exception("metrics could not be exported")
            succeeded = False
        if self._is_resting():
            return True
        self._counters["exports_failed"] += not succeeded
        return succeeded

    def _read_and_send(self) -> bool:
        self._attempts.hold()
        deadline = self._attempts.clock() + self._attempts.total_s
        succeeded = True
        try:
            totals = self._collect()
            unix_ns = time.time_ns()
            self._deltas.keep(totals)
            found = self._deltas.since(totals)
            for request in requests(found, unix_ns, self._settings.temporality):
                succeeded &= self._send(request, totals, unix_ns, deadline)
        finally:
            self._attempts.rest()
        return succeeded

    def _send(
        self, request: Request, totals: Sequence[ResourceMetrics], unix_ns: int, deadline: float
    ) -> bool:
        succeeded = True
        for part, outcome in self._attempts.send_all(
            request, lambda part: self._halves(part, unix_ns), NOUN, deadline
        ):
            if outcome.fate is Fate.ACCEPTED:
                self._accepted = True
                self._deltas.learn(totals, part.groups, unix_ns)
                self._counters["points_sent"] += part.items - outcome.rejected
                self._counters["points_refused"] += outcome.rejected
            else:
                self._counters[DROPPED[outcome.fate]] += part.items
                succeeded = False
            if outcome.fate is Fate.UNSUPPORTED and not self._accepted:
                self._rests_until = time.monotonic() + UNSUPPORTED_REST_S
        return succeeded

    def _halves(self, part: Request, unix_ns: int) -> list[Request]:
        half = min(len(part.body), MAX_REQUEST_BYTES) // 2
        return list(requests(part.groups, unix_ns, self._settings.temporality, half))

    def _is_resting(self) -> bool:
        return time.monotonic() < self._rests_until
