# SPDX-License-Identifier: Apache-2.0
"""Sampling of whole traces: a share of all, and everything that matters.

A trace is kept whole if it has an error, a slow span, or a route that nobody has seen kept
for a minute; of the others a share is kept, by the randomness of their trace ids. So spans
wait: what a trace is like shows when its other spans have come. The two ends of an exchange
come within milliseconds, the calls made on behalf of a request before its answer.

What kept spans say of their probability (`th`, see exporters/tracestate.py):

- A trace with an error or a slow span: `th:0`, they are all kept.
- Any other that the ratio keeps: its threshold.
- A rare one that the ratio does not keep: nothing. What is rare depends on what was kept
  before, so its probability is unknown; and those that the ratio keeps stand for it already.

With these, sums of adjusted counts estimate the true number of spans without bias. That is
why a trace that the ratio keeps waits like any other: passed on before its error shows, it
would stand for traces that have none.

Samplers of programs may decide otherwise about the same trace. Those that follow the
specification keep the same ones, but for what a threshold's last digits make; the older
TraceIdRatioBased keeps small values of the lower 64 bits (in other languages, of other bits),
which has nothing to do with R >= T. Trace ids of our own are random in all their bits, and
nobody else samples them. A span does not know whether its parent was sampled, so
`parentbased_*` is as without it.

Decisions are this machine's own: what is whole is its part of a trace. What belongs to a
request that takes longer than spans wait may have gone when the request proves slow or wrong.

OTel: https://opentelemetry.io/docs/specs/otel/trace/sdk/#sampling 1.60.0
      https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final, NamedTuple

from exporters.environment import Reader, ratio, seconds
from exporters.rare_log import RareLog
from exporters.tracestate import NEVER, digits, randomness, threshold_of, with_threshold
from tracer.export import Exporter
from tracer.span import Process, Span

OPTIONS: Final = frozenset({"sample", "slow"})
"""Those of an exporter's options that are for sampling."""

SLOW_S: Final = 1.0
RARE_NS: Final = 60 * 10**9
"""A route of which no trace was kept for so long is rare."""

WINDOW_S: Final = 2.0
"""How long a trace waits for its other spans, by their clock or by ours."""
WINDOW_NS: Final = int(WINDOW_S * 1e9)
TICK_S: Final = 1.0
"""How often spans are looked after when no new ones come."""
CLOSE_S: Final = 1.0

MAX_HELD: Final = 16_384
"""Spans that wait; with more the oldest traces are decided early."""
MAX_KEPT: Final = 32_768
"""Traces that are remembered as kept, so that late spans join them."""
MAX_ROUTES: Final = 4096
"""Routes whose last kept trace is remembered; more are not rare, or names that are all
different would keep everything."""
MAX_PROCESSES: Final = 1024

ALL: Final = "0"
"""The `th` of what is kept always."""
UNKNOWN: Final = "?"
"""Instead of a `th`: no probability is known."""

_names: Final = [each.name for each in fields(Span)]
_fields: Final[Callable[[Span], tuple[Any, ...]]] = attrgetter(*_names)


class Policy(NamedTuple):
    """What is kept."""

    threshold: int
    """T of those traces that nothing else keeps; 0: all of them."""
    slow_s: float = SLOW_S
    """Duration from which a span is slow."""
    nothing: bool = False
    """Not even what matters."""

    @classmethod
    def from_options(cls, options: Mapping[str, str], environ: Mapping[str, str]) -> Policy:
        """By `sample` (ratio) and `slow` (seconds), else OTEL_TRACES_SAMPLER; all by default.

        The ratio is for what does not matter otherwise, even where it is 0: only the sampler
        `always_off` means nothing at all.

        Raises:
            SettingsError: an option is bad.
        """
        reader = Reader(environ, options)
        slow_s = reader.override("slow", seconds) or SLOW_S
        share = reader.override("sample", ratio)
        if share is None:
            sampler = reader.variable("OTEL_TRACES_SAMPLER", _sampler)
            if sampler == "always_off":
                return cls(NEVER, slow_s, nothing=True)
            if sampler == "traceidratio":
                share = reader.variable("OTEL_TRACES_SAMPLER_ARG", ratio)
        return cls(threshold_of(1.0 if share is None else share), slow_s)


def _sampler(value: str) -> str:
    """A sampler of the specification, without what it does about parents."""
    name = value.lower().removeprefix("parentbased_")
    if name not in {"always_on", "always_off", "traceidratio"}:
        raise ValueError(
            f"there is no sampler {value!r} here: take traceidratio, always_on or always_off"
        )
    return name


def sampled(exporter: Exporter, options: Mapping[str, str], environ: Mapping[str, str]) -> Exporter:
    """`exporter` behind a sampler, or itself if everything is kept; other options do not matter.

    Raises:
        SettingsError: an option is bad; `exporter` is closed then.
    """
    try:
        policy = Policy.from_options(options, environ)
    except ValueError:
        exporter.close()
        raise
    return Sampled(exporter, policy) if policy.threshold or policy.nothing else exporter


class Sampled(Exporter):
    """Hands an exporter the traces that are kept. Starts a thread, which `close` ends.

    `export` of the exporter is called from either thread, though never from both at once.
    """

    def __init__(
        self, exporter: Exporter, policy: Policy, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.exporter: Final = exporter
        self.policy: Final = policy
        self._clock = clock
        # One byte more than any randomness has is above all of them.
        never = b"\xff" * 8
        self._threshold = (
            never if policy.threshold == NEVER else policy.threshold.to_bytes(7, "big")
        )
        self._th = digits(policy.threshold % NEVER)
        self._slow_ns = round(policy.slow_s * 1e9)
        self._held: dict[bytes, list[Span]] = {}
        self._order: deque[tuple[int, float, list[bytes]]] = deque()
        """When traces in `_held` are due, by the spans' clock and by ours; first ones first."""
        self._spans_held = 0
        self._now_ns = 0
        """The latest end of a span."""
        self._kept: dict[bytes, str] = {}
        self._kept_before: dict[bytes, str] = {}
        """What kept traces say, by trace id; two generations, of which the older is forgotten."""
        self._routes: OrderedDict[tuple[str, int, str], int] = OrderedDict()
        """End of the span of each route that was kept last; the oldest first."""
        self._services: dict[Process, str] = {}
        self._sampled_out = 0
        self._dropped_error = 0
        self._log = RareLog()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sampling", daemon=True)
        if not policy.nothing:
            self._thread.start()

    def export(self, spans: Sequence[Span]) -> None:
        """Hold `spans`, and pass on what is decided."""
        if self.policy.nothing:
            self._sampled_out += len(spans)
            return
        if self._stop.is_set():  # nobody would look after them any more
            self.exporter.export(spans)
            return
        with self._lock:
            passing: list[Span] = []
            self._take(spans, passing)
            self._decide_due(passing)
            self._pass(passing)

    def flush(self, timeout_s: float) -> bool:
        """Decide about everything now, and deliver what is kept."""
        self._decide_all()
        return self.exporter.flush(timeout_s)

    def close(self) -> None:
        """Decide about what is left, and close the exporter; what comes later is its to count."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        self._decide_all()
        self.exporter.close()

    def counters(self) -> Mapping[str, int]:
        """Those of the exporter, which counts only what is passed on, and what is not."""
        counters = dict(self.exporter.counters())
        counters["spans_sampled_out"] = self._sampled_out
        if self._dropped_error:
            dropped = counters.get("spans_dropped_error", 0) + self._dropped_error
            counters["spans_dropped_error"] = dropped
        return counters

    def levels(self) -> Mapping[str, int]:
        """Those of the exporter, and how many spans wait here."""
        levels: Callable[[], Mapping[str, int]] = getattr(self.exporter, "levels", dict)
        return {**levels(), "spans_held": self._spans_held}

    def tick(self) -> None:
        """Pass on what is due by our clock; the thread does so when no spans come."""
        with self._lock:
            passing: list[Span] = []
            self._decide_due(passing)
            self._pass(passing)

    def _work(self) -> None:
        while not self._stop.wait(TICK_S):
            self.tick()

    def _take(self, spans: Sequence[Span], passing: list[Span]) -> None:
        held, kept, kept_before = self._held, self._kept, self._kept_before
        fresh: list[bytes] = []
        self._now_ns = max([self._now_ns, *[span.end_unix_ns for span in spans]])
        waiting = self._spans_held
        for span in spans:
            trace_id = span.trace_id
            if trace_id in held:
                held[trace_id].append(span)
                waiting += 1
                continue
            mark = kept.get(trace_id) or kept_before.get(trace_id)
            if mark:
                self._join(span, mark, passing)
                continue
            held[trace_id] = [span]
            fresh.append(trace_id)
            waiting += 1
        self._spans_held = waiting
        if fresh:
            self._order.append((self._now_ns + WINDOW_NS, self._clock() + WINDOW_S, fresh))

    def _decide_due(self, passing: list[Span]) -> None:
        order, now_ns, now_s = self._order, self._now_ns, self._clock()
        while order:
            due_ns, due_s, trace_ids = order[0]
            if due_ns > now_ns and due_s > now_s and self._spans_held <= MAX_HELD:
                return
            order.popleft()
            self._decide(trace_ids, passing)

    def _decide(self, trace_ids: Sequence[bytes], passing: list[Span]) -> None:
        held = self._held
        threshold, slow_ns = self._threshold, self._slow_ns
        decided = dropped = 0
        for trace_id in trace_ids:
            spans = held.pop(trace_id)
            decided += len(spans)
            for span in spans:
                if (
                    span.outline.error_type is not None
                    or span.end_unix_ns - span.start_unix_ns >= slow_ns
                ):
                    self._keep(trace_id, spans, ALL, passing)
                    break
            else:
                if randomness(trace_id, spans[0].trace_state) >= threshold:
                    self._keep(trace_id, spans, self._th, passing)
                elif self._is_rare(spans):
                    self._keep(trace_id, spans, UNKNOWN, passing)
                else:
                    dropped += len(spans)
        self._spans_held -= decided
        self._sampled_out += dropped

    def _decide_all(self) -> None:
        with self._lock:
            passing: list[Span] = []
            while self._order:
                self._decide(self._order.popleft()[2], passing)
            self._pass(passing)

    def _keep(self, trace_id: bytes, spans: Sequence[Span], mark: str, passing: list[Span]) -> None:
        if len(self._kept) >= MAX_KEPT // 2:
            self._kept_before, self._kept = self._kept, {}
        self._kept[trace_id] = mark
        for span in spans:
            self._remember(span)
            passing.append(_marked(span, mark))

    def _join(self, span: Span, mark: str, passing: list[Span]) -> None:
        """Pass on a late span of a kept trace; from an error on, the trace is one that matters."""
        late_ns = span.end_unix_ns - span.start_unix_ns
        if span.outline.error_type is not None or late_ns >= self._slow_ns:
            mark = ALL
        self._keep(span.trace_id, [span], mark, passing)

    def _pass(self, spans: list[Span]) -> None:
        if not spans:
            return
        try:
            self.exporter.export(spans)
        except Exception as problem:  # noqa: BLE001  # on either thread, and counted here only
            self._dropped_error += len(spans)
            kind = type(problem).__name__
            self._log.say(kind, f"{len(spans)} sampled spans are lost: {kind}: {problem}")

    # ---- routes ----

    def _service(self, process: Process) -> str:
        if len(self._services) >= MAX_PROCESSES:
            self._services.clear()
        service = self._services[process] = process.service_name
        return service

    def _route(self, span: Span) -> tuple[str, int, str]:
        process = span.process
        service = self._services.get(process) or self._service(process)
        return service, int(span.kind), span.outline.name

    def _is_rare(self, spans: Sequence[Span]) -> bool:
        routes = self._routes
        for span in spans:
            last_ns = routes.get(self._route(span))
            if last_ns is None:
                if self._has_room():
                    return True
            elif span.end_unix_ns - last_ns >= RARE_NS:
                return True
        return False

    def _remember(self, span: Span) -> None:
        route, routes = self._route(span), self._routes
        if route in routes:
            routes.move_to_end(route)
        elif self._has_room():
            if len(routes) >= MAX_ROUTES:
                routes.popitem(last=False)
        else:
            return
        routes[route] = span.end_unix_ns

    def _has_room(self) -> bool:
        """Whether one more route can be remembered, if need be in place of a rare one."""
        routes = self._routes
        return len(routes) < MAX_ROUTES or routes[next(iter(routes))] <= self._now_ns - RARE_NS


def _marked(span: Span, mark: str) -> Span:
    """`span` as a sampler leaves it; a copy, since other exporters are given the same object."""
    trace_state = with_threshold(span.trace_state, "" if mark is UNKNOWN else mark)
    if trace_state == span.trace_state:
        return span
    copy = Span(*_fields(span))
    copy.trace_state = trace_state
    return copy
