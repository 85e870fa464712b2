# SPDX-License-Identifier: Apache-2.0
"""The pipeline inside the test's own process, where every counter can be looked at."""

from __future__ import annotations

import time
from collections import Counter as Count
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from parsers.model import Completeness, Kind
from parsers.registry import Registry
from tracer.events import Cause
from tracer.pipeline import Pipeline
from tracer.probes import KernelSource, Settings
from tracer.procfs import ProcessTable
from tracer.span import Span, SpanKind

DRAINED_S = 0.4
"""The longest that a record waits, and the grace of closed connections."""


class Watcher:
    """A kernel source with a pipeline that counts spans."""

    def __init__(self, **settings: Any) -> None:
        self.source = KernelSource(Settings(**{"tls": False} | settings), ProcessTable())
        self.pipeline = Pipeline(self.source, Registry.load(), [self], seed=1)
        self.spans: Count[tuple[SpanKind, Completeness]] = Count()
        self.bytes: Count[SpanKind] = Count()

    def export(self, spans: Sequence[Span]) -> None:
        for span in spans:
            self.spans[span.kind, span.completeness] += 1
            self.bytes[span.kind] += span.request_bytes + span.response_bytes

    def step(self) -> None:
        self.pipeline.step(0.02)

    def drain(self) -> None:
        """Take what is left."""
        until_s = time.monotonic() + DRAINED_S
        while time.monotonic() < until_s:
            self.step()
        self.pipeline.end()

    def seen(self, kind: SpanKind) -> int:
        return sum(number for (of, _), number in self.spans.items() if of is kind)

    @property
    def waiting(self) -> int:
        """Requests that still wait for a response, as the summary counts them."""
        return self.pipeline.table.in_flight

    @property
    def begun(self) -> int:
        """Requests of which only the beginning has come so far."""
        sessions = [each.session for each in self.pipeline.table.connections.values()]
        return sum(
            bool(stream.buffer) and stream.kind is Kind.REQUEST
            for session in sessions
            if session is not None
            for stream in session.streams
        )

    def became(self, what: str) -> dict[Cause, int]:
        """Requests, responses, bytes... by what became of them, without the zeros."""
        counters = self.source.counters()
        found = {cause: getattr(counter, what) for cause, counter in counters.items()}
        return {cause: number for cause, number in found.items() if number}

    def story(self) -> dict[str, Any]:
        """For the message of a failure."""
        return {
            "spans": dict(self.spans),
            "counters": {cause: c for cause, c in self.source.counters().items() if any(c)},
            "lost": self.source.lost_records(),
            "tally": self.pipeline.table.tally,
            "table": self.pipeline.table.counters,
        }


@contextmanager
def watcher(**settings: Any) -> Iterator[Watcher]:
    """Capture in this process."""
    made = Watcher(**settings)
    try:
        yield made
    finally:
        made.source.close()


def pace(watchers: Sequence[Watcher], is_over: Callable[[], bool], pause_s: float) -> None:
    """Step until it is over, with a rest after each round."""
    while not is_over():
        for each in watchers:
            each.step()
        time.sleep(pause_s)
