# SPDX-License-Identifier: Apache-2.0
"""Source -> connection table -> spans -> exporters: one loop, one thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from parsers.model import Exchange
from parsers.registry import Registry
from tracer.connection import AnySession, Connection
from tracer.connections import ConnectionTable
from tracer.export import Exporter
from tracer.joining import Joining
from tracer.names import Names
from tracer.peers import Peers
from tracer.routes import Routes
from tracer.source import Batch, Source
from tracer.span import Span
from tracer.spans import SpanMaker

IDLE_BATCH_NS: Final = 100_000_000
"""An empty batch is worth processing, and recording, this long after the last."""
POLL_S: Final = 0.05
DNS: Final = "dns"


class BatchWriter(Protocol):
    """Where processed batches are recorded."""

    def write(self, batch: Batch, session_of: Callable[[int], AnySession | None]) -> None:
        """Take one batch, right after it was processed."""
        ...


class Pipeline:
    """Batches in, spans out."""

    def __init__(
        self,
        source: Source,
        registry: Registry,
        exporters: Sequence[Exporter],
        *,
        seed: int,
        writer: BatchWriter | None = None,
        want: Callable[[Span], bool] | None = None,
        routes: Routes | None = None,
    ) -> None:
        self.source = source
        self.exporters = exporters
        self.table = ConnectionTable(source, registry, self._collect, keep=writer is not None)
        self.names = Names()
        """Of addresses, as far as name servers told them."""
        self.spans_made = 0
        self.batches = 0
        self.chunk_bytes = 0
        joining = Joining(seed, self.table.ends)
        self._maker = SpanMaker(joining, Peers(self.names), routes or Routes())
        self._writer = writer
        self._want = want
        self._spans: list[Span] = []
        """Of this batch."""
        self._unmet: list[tuple[Span, Connection, Exchange]] = []
        """Those whose other end was not known when they were made."""
        self.table.after_events = self._complete
        self._processed_ns = 0

    def run(self) -> None:
        """Process batches until there are no more."""
        while self.step(POLL_S):
            pass
        self.end()

    def end(self) -> None:
        """There will be no more batches: report what can be reported."""
        self.table.finish(self._processed_ns)
        self._export()

    def step(self, timeout_s: float) -> bool:
        """Process one batch; False when there will be no more."""
        batch = self.source.poll(timeout_s)
        if batch is None:
            return False
        if not batch.chunk and batch.now_ns - self._processed_ns < IDLE_BATCH_NS:
            return True
        self._processed_ns = batch.now_ns
        self._maker.unix_offset_ns = batch.unix_offset_ns
        self.batches += 1
        self.chunk_bytes += len(batch.chunk)
        self.table.feed(batch)
        if self._writer is not None:
            self._writer.write(batch, self.table.session_of)
        self._export()
        return True

    def _collect(self, connection: Connection, exchange: Exchange) -> None:
        span = self._maker.make(connection, exchange)
        self._spans.append(span)
        other = connection.other or self._maker.other(connection, span)
        if other is None:
            self._unmet.append((span, connection, exchange))
        else:
            self._maker.complete(span, connection, exchange, other)
        if span.protocol == DNS:
            self._learn(span)

    def _learn(self, span: Span) -> None:
        """Keep what a name server has told, to name addresses by."""
        attributes = span.outline.attributes
        name, answers = attributes.get("dns.question.name"), attributes.get("dns.answers")
        if isinstance(name, str) and isinstance(answers, tuple):
            self.names.learn(name, answers)

    def _complete(self) -> None:
        complete = self._maker.complete
        for span, connection, exchange in self._unmet:
            complete(span, connection, exchange, None)
        self._unmet.clear()

    def _export(self) -> None:
        self._complete()
        spans = self._spans
        if not spans:
            return
        self._spans = []
        self.spans_made += len(spans)
        want = self._want
        if want is not None:
            spans = [span for span in spans if want(span)]
            if not spans:
                return
        for exporter in self.exporters:
            exporter.export(spans)
