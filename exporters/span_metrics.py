# SPDX-License-Identifier: Apache-2.0
"""Metrics of every span, before any of them is sampled away.

A span goes through in two steps. The first only looks up which series it belongs to and puts its
duration down beside them: one dictionary look-up for spans that mean what others meant before.
The second, after some hundreds of spans or when somebody reads, adds up what was put down, all
of one series at once.

What is recorded of a span without a response:

* Its response was lost on the way here (completeness `gap`): how long it took is not known, so
  no histogram has it. The service graph counts it all the same.
* Nobody answered and nobody expected it (`unanswered` without an error): the same.
* Nobody answered, and that is an error: histograms have it, for a failed request is one of those
  that rate and errors are about. `error.type` keeps its duration, which is the span's, apart.

What no histogram has is counted in `wirespan.exchanges.incomplete`, by protocol and completeness.

Not thread-safe: whoever shares it holds a lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from exporters.histograms import ExplicitHistogram, ExponentialHistogram
from exporters.instruments import Attributes, Exemplar, Instrument
from exporters.rare_log import RareLog
from exporters.red import attributes_of, measure_of
from exporters.series import Series, SeriesStore, Service
from exporters.service_graph import edge_metrics
from parsers.model import Completeness, Outline
from tracer.span import DB_SYSTEM, Process, Span, SpanKind

MAX_PLANS: Final = 8192
"""Combinations of process, outline and peer whose series are known."""
MAX_EDGES: Final = 4096
MAX_UNSETTLED: Final = 1024
"""Spans whose durations wait to be added up: several batches where those are small."""

INCOMPLETE: Final = Instrument(
    "wirespan.exchanges.incomplete",
    "counter",
    "{exchange}",
    "Exchanges that no histogram of durations has, as their response was not seen",
)

PlanKey: TypeAlias = tuple[SpanKind, Process, Outline, Process | None, str, bool]
EdgeKey: TypeAlias = tuple[SpanKind, Process, Process | None, str, bool, bool, bool]


class Stage:
    """Durations that go into the same series."""

    __slots__ = ("counters", "durations_ns", "histograms", "last")

    def __init__(self, counters: tuple[Series, ...], histograms: tuple[Series, ...]) -> None:
        self.counters = counters
        self.histograms = histograms
        self.durations_ns: list[int] = []
        self.last: Span | None = None
        """The span of the last duration."""


class SpanMetrics:
    """Puts spans into the series of their services, and of the service graph."""

    def __init__(self, store: SeriesStore, graph: Service) -> None:
        """`graph` is whose the service graph's series are: the agent itself."""
        self._store = store
        self._graph = graph
        self._plans: dict[PlanKey, tuple[Stage, ...]] = {}
        self._stages: dict[Series, Stage] = {}
        self._edges: dict[EdgeKey, Stage | None] = {}
        self._touched: list[Stage] = []
        """Those that have durations."""
        self._unsettled = 0
        """Spans since `settle`."""
        self._now_ns = 0
        """The end of the latest batch."""
        self._log = RareLog()
        self.failed = 0
        """Spans that could not be understood."""

    def record(self, spans: Sequence[Span]) -> None:
        """Add `spans` to their series."""
        if not spans:
            return
        plans = self._plans
        gap, unanswered = Completeness.GAP, Completeness.UNANSWERED
        touched = self._touched
        for span in spans:
            try:
                plan = plans[
                    span.kind, span.process, span.outline, span.peer, span.peer_name, span.twin
                ]
            except KeyError:
                plan = self._plan(span)
            completeness = span.completeness
            if (completeness is gap or completeness is unanswered) and self._lacks(span, plan):
                continue
            duration_ns = span.end_unix_ns - span.start_unix_ns
            for stage in plan:
                durations_ns = stage.durations_ns
                if not durations_ns:
                    touched.append(stage)
                durations_ns.append(duration_ns)
                stage.last = span
        self._now_ns = max(self._now_ns, spans[-1].end_unix_ns)
        self._unsettled += len(spans)
        if self._unsettled >= MAX_UNSETTLED:
            self.settle()

    def settle(self) -> None:
        """Add up what was put down, and forget what is idle: before anybody reads."""
        for stage in self._touched:
            self._add_up(stage)
        self._touched.clear()
        self._unsettled = 0
        if self._store.forget(self._now_ns, self._graph):
            self._plans.clear()
            self._stages.clear()
            self._edges.clear()

    def _add_up(self, stage: Stage) -> None:
        values = [duration_ns / 1e9 for duration_ns in stage.durations_ns]
        number = len(values)
        last = stage.last
        assert last is not None
        exemplar = Exemplar(values[-1], last.trace_id, last.span_id, last.end_unix_ns)
        stage.durations_ns.clear()
        stage.last = None
        now_ns = self._now_ns
        for series in stage.histograms:
            histogram = series.value
            assert isinstance(histogram, ExplicitHistogram | ExponentialHistogram)
            if number == 1:
                histogram.record(values[0])
            else:
                histogram.record_all(values)
            series.exemplar = exemplar
            series.updated_ns = now_ns
        for series in stage.counters:
            _count(series, number, now_ns)

    def _plan(self, span: Span) -> tuple[Stage, ...]:
        """The stages of `span`, which are the same for all that are like it."""
        try:
            stages = [self._stage_of(span), self._edge_of(span)]
        except Exception as problem:  # noqa: BLE001  # a stranger's parser may say anything
            self.failed += 1
            self._log.say(
                f"measuring {span.protocol}",
                f"Metrics: a span of {span.protocol} has attributes that cannot be understood"
                f" ({problem}); left out. This is a fault of the parser for {span.protocol}.",
            )
            return ()
        plan = tuple(stage for stage in stages if stage is not None)
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
            self._stages.clear()
        key = span.kind, span.process, span.outline, span.peer, span.peer_name, span.twin
        self._plans[key] = plan
        return plan

    def _stage_of(self, span: Span) -> Stage | None:
        measure = measure_of(span.kind, span.outline, span.protocol)
        if measure is None:
            return None
        store = self._store
        series = store.find(
            store.service(span.process),
            measure.instrument,
            attributes_of(measure, span.outline),
            span.start_unix_ns,
        )
        stage = self._stages.get(series)
        if stage is None:
            stage = self._stages[series] = Stage((), (series,))
        return stage

    def _edge_of(self, span: Span) -> Stage | None:
        outline = span.outline
        key = (
            span.kind,
            span.process,
            span.peer,
            span.peer_name,
            span.twin,
            DB_SYSTEM in outline.attributes,
            outline.error_type is None,
        )
        try:
            return self._edges[key]
        except KeyError:
            pass
        found = edge_metrics(span)
        stage = None
        if found is not None:
            stage = Stage(
                self._of_graph(found.counters, found.labels, span),
                self._of_graph(found.histograms, found.labels, span),
            )
        if len(self._edges) >= MAX_EDGES:
            self._edges.clear()
        self._edges[key] = stage
        return stage

    def _of_graph(
        self, instruments: tuple[Instrument, ...], labels: Attributes, span: Span
    ) -> tuple[Series, ...]:
        find, start = self._store.find, span.start_unix_ns
        return tuple([find(self._graph, instrument, labels, start) for instrument in instruments])

    def _lacks(self, span: Span, plan: tuple[Stage, ...]) -> bool:
        """Whether the duration of `span` is not known; it is counted if so."""
        if span.response_bytes:
            return False
        if not plan:
            return True
        completeness = span.completeness
        if completeness is Completeness.UNANSWERED and span.outline.error_type is not None:
            return False
        for stage in plan:
            for series in stage.counters:
                _count(series, 1, span.end_unix_ns)
        attributes = (
            ("network.protocol.name", span.protocol),
            ("wirespan.completeness", completeness.value),
        )
        service = self._store.service(span.process)
        series = self._store.find(service, INCOMPLETE, attributes, span.start_unix_ns)
        _count(series, 1, span.end_unix_ns)
        return True


def _count(series: Series, number: int, now_ns: int) -> None:
    value = series.value
    assert isinstance(value, int)
    series.value = value + number
    series.updated_ns = now_ns
