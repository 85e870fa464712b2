# SPDX-License-Identifier: Apache-2.0
"""Any `SpanExporter` of opentelemetry-sdk: Zipkin's, a vendor's, one of your own.

It is named by its class, made without arguments and so set up by its own environment
variables. What it does is its own affair: it gets batches on a thread of its own, and
whether it raises, fails or hangs, only its own spans are lost, and counted.

OTel: https://opentelemetry.io/docs/specs/otel/trace/sdk/#span-exporter 1.60.0
      https://opentelemetry.io/docs/specs/otel/trace/sdk/#batching-processor
"""

from __future__ import annotations

import importlib
import os
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from exporters import sampling
from exporters.environment import Reader, SettingsError, count, milliseconds
from exporters.rare_log import RareLog
from exporters.readable import ReadableSpans
from tracer.export import Exporter
from tracer.span import Span

OPTIONS: Final = frozenset({"class"}) | sampling.OPTIONS

QUEUE_SPANS: Final = 8192
"""Spans that wait; they are objects here, ten times what their bytes would be."""
BATCH_SPANS: Final = 512
SCHEDULE_DELAY_S: Final = 5.0
CLOSE_S: Final = 1.0
"""How long `close` waits for an exporter to come back and shut down."""

COUNTERS: Final = (
    "spans_received",
    "spans_sent",
    "spans_refused",
    "spans_dropped_queue",
    "spans_dropped_error",
    "spans_dropped_encoding",
    "spans_dropped_shutdown",
    "requests",
)
"""received = sent + refused + dropped_* + what is queued or in flight.

Refused is what an exporter says it has failed with; `error` is where it raises."""


class SdkExporter(Exporter):
    """Hands batches of spans to an exporter of the SDK, on a thread that `close` ends."""

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        queue_spans: int = QUEUE_SPANS,
        batch_spans: int = BATCH_SPANS,
        schedule_delay_s: float = SCHEDULE_DELAY_S,
    ) -> None:
        self.exporter: Final = exporter
        self._name = type(exporter).__name__
        self._max_spans = queue_spans
        self._batch_spans = min(batch_spans, queue_spans)
        self._delay_s = schedule_delay_s
        self._readable = ReadableSpans()
        self._log = RareLog()
        self._counters: Counter[str] = Counter()
        """Those of the pipeline's thread."""
        self._delivered: Counter[str] = Counter()
        """Those of the other."""
        self._queue: deque[Span] = deque()
        self._in_flight = 0
        self._hurry_until: float | None = None
        """Set while somebody waits for everything to be handed over."""
        self._forced = True
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="sdk", daemon=True)
        self._thread.start()

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Exporter:
        """The exporter of `class` (`package.module:Class`), behind a sampler if one is asked for.

        Queue and batches are set by the OTEL_BSP_* variables.

        Raises:
            SettingsError: an option is bad, or the class is of no use.
        """
        if strange := options.keys() - OPTIONS:
            raise SettingsError(f"no option is called {', '.join(sorted(strange))}")
        if "class" not in options:
            raise SettingsError("the option class=package.module:Class is missing")
        reader = Reader(os.environ)
        exporter = cls(
            load(options["class"]),
            queue_spans=reader.variable("OTEL_BSP_MAX_QUEUE_SIZE", count) or QUEUE_SPANS,
            batch_spans=reader.variable("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", count) or BATCH_SPANS,
            schedule_delay_s=reader.variable("OTEL_BSP_SCHEDULE_DELAY", milliseconds)
            or SCHEDULE_DELAY_S,
        )
        return sampling.sampled(exporter, options, os.environ)

    def export(self, spans: Sequence[Span]) -> None:
        """Queue `spans`; if there is no room, the oldest in the queue are dropped and counted."""
        self._counters["spans_received"] += len(spans)
        dropped = 0
        with self._changed:
            if self._closed:
                self._counters["spans_dropped_shutdown"] += len(spans)
                return
            self._queue.extend(spans)
            while len(self._queue) > self._max_spans:
                self._queue.popleft()
                dropped += 1
            if len(self._queue) >= self._batch_spans:
                self._changed.notify_all()
        if dropped:
            self._counters["spans_dropped_queue"] += dropped
            self._log.say(
                "queue full",
                f"{self._name}: its queue is full; {dropped} of the oldest spans dropped."
                " It is too slow, or hangs; OTEL_BSP_MAX_QUEUE_SIZE makes room.",
            )

    def flush(self, timeout_s: float) -> bool:
        """Hand over what is queued, at once; False if some is left, or the exporter says so."""
        with self._changed:
            if self._closed:
                return not self._in_flight
            self._hurry_until = time.monotonic() + timeout_s
            self._forced = True
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: self._hurry_until is None, timeout_s)
            return done and self._forced

    def close(self) -> None:
        """Drop and count what is left, and shut the exporter down; takes a second at most."""
        deadline = time.monotonic() + CLOSE_S
        with self._changed:
            if self._closed:
                return
            self._closed = True
            left = len(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        self._thread.join(CLOSE_S / 4)
        # On a thread, for it may hang; and meanwhile, for it may end an export that waits.
        last = threading.Thread(target=self._shut_down, name="sdk-shutdown", daemon=True)
        last.start()
        for thread in (last, self._thread):
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            left += self._in_flight
            self._delivered = self._delivered.copy()  # whatever it still does is too late
        self._counters["spans_dropped_shutdown"] += left

    def counters(self) -> Mapping[str, int]:
        """Totals since start; the keys are those of `COUNTERS`."""
        return {name: self._counters[name] + self._delivered[name] for name in COUNTERS}

    def levels(self) -> Mapping[str, int]:
        """How many spans wait for the exporter."""
        return {"queue_spans": len(self._queue)}

    # ---- on the exporter's thread ----

    def _work(self) -> None:
        counters = self._delivered
        while True:
            with self._changed:
                self._changed.wait_for(self._is_due, self._delay_s)
                if self._closed:
                    return
                size = min(len(self._queue), self._batch_spans)
                batch = [self._queue.popleft() for _ in range(size)]
                self._in_flight = size
            if batch:
                self._hand_over(batch, counters)
            with self._changed:
                self._in_flight = 0
                until = None if self._queue else self._hurry_until
            if until is not None:
                forced = self._force(until)
                with self._changed:
                    if self._hurry_until == until:  # else somebody waits anew
                        self._forced = forced
                        self._hurry_until = None
                        self._changed.notify_all()

    def _is_due(self) -> bool:
        hurried = self._hurry_until is not None
        return self._closed or hurried or len(self._queue) >= self._batch_spans

    def _hand_over(self, batch: Sequence[Span], counters: Counter[str]) -> None:
        spans = self._read(batch, counters)
        if not spans:
            return
        counters["requests"] += 1
        try:
            result: Any = self.exporter.export(spans)
        except BaseException as problem:  # noqa: BLE001  # a stranger's: anything may come
            counters["spans_dropped_error"] += len(spans)
            what = f"{type(problem).__name__}: {problem}"
            self._log.say("error", f"{self._name} has failed, {len(spans)} spans dropped: {what}")
            return
        if result is SpanExportResult.SUCCESS:
            counters["spans_sent"] += len(spans)
            return
        counters["spans_refused"] += len(spans)
        self._log.say("refused", f"{self._name} returned {result}: {len(spans)} spans are lost.")

    def _read(self, batch: Sequence[Span], counters: Counter[str]) -> list[ReadableSpan]:
        try:
            return self._readable.read(batch)
        except Exception:  # noqa: BLE001  # a stranger's parser may put anything into an attribute
            spans: list[ReadableSpan] = []
        for span in batch:
            try:
                spans += self._readable.read([span])
            except Exception as problem:  # noqa: BLE001  # as above
                counters["spans_dropped_encoding"] += 1
                self._log.say(
                    f"encoding {span.protocol}",
                    f"{self._name}: a span of {span.protocol} has an attribute that no attribute"
                    f" can be ({problem}); dropped. This is a fault of its parser.",
                )
        return spans

    def _force(self, until: float) -> bool:
        left_ms = max(0, round((until - time.monotonic()) * 1000))
        try:
            # Many say nothing, which is no failure.
            flushed: Any = self.exporter.force_flush(left_ms)
        except BaseException as problem:  # noqa: BLE001  # as in `_hand_over`
            self._log.say("flush", f"{self._name} could not flush: {problem}")
            return False
        return flushed is not False

    def _shut_down(self) -> None:
        try:
            self.exporter.shutdown()
        except BaseException as problem:  # noqa: BLE001  # as in `_hand_over`
            self._log.say("shutdown", f"{self._name} could not shut down: {problem}")


def load(name: str) -> SpanExporter:
    """An exporter of the class `name`, which is `package.module:Class`.

    Raises:
        SettingsError: there is no such class, it is no exporter, or it cannot be made.
    """
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name):
        example = "opentelemetry.sdk.trace.export:ConsoleSpanExporter"
        raise SettingsError(f"class: {name!r} is no class such as {example}")
    path, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(path)
    except (Exception, SystemExit) as problem:
        raise SettingsError(
            f"class: {path} cannot be imported ({type(problem).__name__}: {problem});"
            " install it into the environment that wirespan runs in"
        ) from problem
    found = getattr(module, attribute, None)
    if found is None:
        raise SettingsError(f"class: there is no {attribute} in {path}")
    if not isinstance(found, type) or not issubclass(found, SpanExporter):
        raise SettingsError(f"class: {name} is no SpanExporter of opentelemetry-sdk")
    try:
        return found()
    except (Exception, SystemExit) as problem:
        raise SettingsError(
            f"class: {name} cannot be made without arguments ({type(problem).__name__}:"
            f" {problem}); it has to be set up by environment variables of its own"
        ) from problem
