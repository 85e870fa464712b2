# SPDX-License-Identifier: Apache-2.0
"""The agent's own health: what the pipeline, the kernel and the exporters count, as readings.

Problem: these counts belong to the pipeline's thread and change while another thread asks;
reading the kernel's costs system calls, and its maps go away at the end of a run. Plan: numbers
are read as they are, which the interpreter's lock makes safe, and what can grow is copied first;
the kernel is asked once a second at most, and never after `close`. A part that fails is left
out, counted and logged, and takes no other with it.
"""

from __future__ import annotations

import logging
import os
import platform
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol, TypeVar, runtime_checkable

from tracer import __version__
from tracer.connection import held_bytes
from tracer.gate import Gate
from tracer.pipeline import Pipeline
from tracer.readings import reading
from tracer.source import Source
from tracer.summary import REASONS
from tracer.telemetry import Reading

KERNEL_S: Final = 1.0
"""The kernel's maps are read no more often: some twenty system calls."""
COPY_ATTEMPTS: Final = 1000
"""A copy fails only when something was added right then, which is rare twice in a row."""

CONNECTION_LOSSES: Final = (
    "evicted",
    "failed",
    "no_parser",
    "overfull",
    "quiet",
    "sealed",
    "switched_protocol",
    "unannounced",
    "unknown_protocol",
)
"""Of `TableCounters`: connections that are seen in part or no longer."""
MESSAGE_LOSSES: Final = ("abandoned_requests", "cut_requests", "unpaired_responses")
"""Of `Tally`."""
LEVELS: Final = {
    "queue_spans": "wirespan.queue.spans",
    "queue_bytes": "wirespan.queue.size",
    "spool_spans": "wirespan.spool.spans",
    "spool_bytes": "wirespan.spool.size",
}
"""By the names that exporters have for them."""
SPANS: Final = "spans_"
RECEIVED: Final = "spans_received"

K = TypeVar("K")
V = TypeVar("V")

log = logging.getLogger(__name__)


class Counting(Protocol):
    """`tracer.procfs.ProcessTable`, `tracer.routes.Routes`."""

    def counters(self) -> Mapping[str, int]: ...


class Spent(Protocol):
    """What the kernel counts of one BPF program."""

    @property
    def run_time_ns(self) -> int: ...

    @property
    def run_count(self) -> int: ...

    @property
    def recursion_misses(self) -> int: ...


@runtime_checkable
class Measured(Protocol):
    """A source whose BPF programs the kernel counts."""

    def program_stats(self) -> Mapping[str, Spent]: ...


@runtime_checkable
class Holding(Protocol):
    """An exporter that holds spans; `levels` says how much, and may be asked by any thread."""

    def levels(self) -> Mapping[str, int]: ...


class Health:
    """Gives `tracer.telemetry.Readings`.

    `counters` and `levels` of exporters are asked by whoever asks for the readings, so an
    exporter that does must hold no lock that these two take.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        gate: Gate,
        *,
        source: Source | None = None,
        processes: Counting | None = None,
        routes: Counting | None = None,
        clock: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        """`source` is the kernel where `pipeline` reads it through something else."""
        self._pipeline = pipeline
        self._gate = gate
        self._source = pipeline.source if source is None else source
        self._others = {
            "wirespan.process.events": processes,
            "wirespan.route.events": routes,
        }
        self._clock = clock
        self._began_unix_s = unix_s()
        self._lock = threading.Lock()
        self._is_closed = False
        self._asked_s = float("-inf")
        self._kernel_readings: list[Reading] = []
        """The latest."""
        self._highest: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        """Of each counter, what was said of it last."""
        self._failures: Counter[str] = Counter()
        self._parts: dict[str, Callable[[], Iterable[Reading]]] = {
            "pipeline": self._of_pipeline,
            "connections": self._of_connections,
            "table": self._of_table,
            "sessions": self._of_sessions,
            "exporters": self._of_exporters,
            "levels": self._of_levels,
            "others": self._of_others,
            "agent": self._of_agent,
        }

    def readings(self) -> list[Reading]:
        """All readings as they are now; any thread may ask, also after `close`.

        Those of the kernel are at most a second old.
        """
        found = self._of_kernel()
        for part, take in self._parts.items():
            try:
                found += list(take())
            except Exception as error:  # noqa: BLE001 - a plug-in's counters may raise anything
                self._failed(part, error)
        found += [
            reading("wirespan.health.failures", count, ("part", part))
            for part, count in _items(self._failures)
        ]
        with self._lock:
            return list(map(self._never_falling, found))

    def close(self) -> None:
        """Ask the kernel for the last time; to be called before the source is closed."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._ask_kernel()

    def _never_falling(self, given: Reading) -> Reading:
        """What was said last of a counter, if it is more.

        A difference of two counts may be off by one for a moment, and a counter that falls would
        be taken for one that has begun anew.
        """
        if given.kind != "counter":
            return given
        key = given.name, given.attributes
        highest = self._highest[key] = max(given.value, self._highest.get(key, 0))
        return given._replace(value=highest)

    def _failed(self, part: str, error: Exception) -> None:
        if not self._failures[part]:
            log.warning("readings of the agent's own health lack %s", part, exc_info=error)
        self._failures[part] += 1

    # -- the kernel -------------------------------------------------------------------

    def _of_kernel(self) -> list[Reading]:
        with self._lock:
            now_s = self._clock()
            if not self._is_closed and now_s - self._asked_s >= KERNEL_S:
                self._asked_s = now_s
                self._ask_kernel()
            return list(self._kernel_readings)

    def _ask_kernel(self) -> None:
        try:
            self._kernel_readings = [*self._of_source(), *self._of_programs()]
        except Exception as error:  # noqa: BLE001 - the latest readings stay
            self._failed("kernel", error)

    def _of_source(self) -> Iterator[Reading]:
        for cause, counter in self._source.counters().items():
            where = ("cause", cause.name.lower()), ("loss", _word(cause in REASONS))
            yield reading("wirespan.kernel.events", counter.events, *where)
            yield reading("wirespan.kernel.size", counter.bytes, *where)
            for begins, count in (
                ("request", counter.requests),
                ("response", counter.responses),
                ("unknown", counter.turns),
            ):
                yield reading("wirespan.kernel.turns", count, ("begins", begins), *where)
        for words, count in self._source.unused().items():
            yield reading("wirespan.kernel.unused", count, ("cause", words))

    def _of_programs(self) -> Iterator[Reading]:
        if not isinstance(self._source, Measured):
            return
        for name, spent in self._source.program_stats().items():
            program = ("program", name)
            yield reading("wirespan.kernel.program.misses", spent.recursion_misses, program)
            if spent.run_count:  # the kernel counts runs only while it measures them
                yield reading("wirespan.kernel.program.runs", spent.run_count, program)
                yield reading("wirespan.kernel.program.time", spent.run_time_ns / 1e9, program)

    # -- the pipeline -----------------------------------------------------------------

    def _of_pipeline(self) -> Iterator[Reading]:
        pipeline, seen = self._pipeline, self._gate.seen
        yield reading("wirespan.batches", pipeline.batches)
        yield reading("wirespan.batch.size", pipeline.chunk_bytes)
        yield reading("wirespan.exchanges", pipeline.table.tally.exchanges)
        yield reading("wirespan.spans.made", pipeline.spans_made)
        for kind, count in _items(seen.completeness):
            yield reading("wirespan.spans", count, ("completeness", kind.value))
        yield reading("wirespan.spans.failed", seen.errors)
        yield reading("wirespan.names", len(pipeline.names))

    def _of_connections(self) -> Iterator[Reading]:
        """What the table holds now."""
        by_protocol: Counter[str] = Counter()
        held = waiting = 0
        table = self._pipeline.table
        for _, connection in _items(table.connections):
            session = connection.session
            if session is None:
                by_protocol["none"] += 1
                continue
            parser = session.parser
            by_protocol["unknown" if parser is None else parser.name] += 1
            held += max(0, held_bytes(connection))
            waiting += connection.in_flight
        for protocol, count in by_protocol.items():
            yield reading("wirespan.connections", count, ("protocol", protocol))
        yield reading("wirespan.requests.waiting", waiting)
        yield reading("wirespan.buffered.size", held)

    def _of_table(self) -> Iterator[Reading]:
        counters = self._pipeline.table.counters
        # What is part of another count is read first, so that the rest is never below zero.
        late, reset, refused = counters.late, counters.reset, counters.refused
        opened, closed = counters.opened, counters.closed
        yield reading("wirespan.connections.opened", opened - late, ("late", "false"))
        yield reading("wirespan.connections.opened", late, ("late", "true"))
        yield reading("wirespan.connections.closed", closed - reset - refused, ("how", "orderly"))
        yield reading("wirespan.connections.closed", reset, ("how", "reset"))
        yield reading("wirespan.connections.closed", refused, ("how", "refused"))
        yield reading("wirespan.connections.encrypted", counters.encrypted)
        for cause in CONNECTION_LOSSES:
            count = getattr(counters, cause)
            yield reading("wirespan.connections.lost", count, ("cause", cause))
        yield reading("wirespan.connections.unparsed", counters.unparsed_bytes)
        yield reading("wirespan.exchanges.lost", counters.unreported)
        yield reading("wirespan.exchanges.unbound", counters.unbound)

    def _of_sessions(self) -> Iterator[Reading]:
        tally = self._pipeline.table.tally
        for protocol, count in _items(tally.parse_errors):
            yield reading("wirespan.parse.errors", count, ("protocol", protocol))
        for cause in MESSAGE_LOSSES:
            yield reading("wirespan.messages.lost", getattr(tally, cause), ("cause", cause))
        yield reading("wirespan.parse.gaps", tally.gap_bytes)
        yield reading("wirespan.parse.overlaps", tally.overlap_bytes)
        yield reading("wirespan.parse.limits", tally.limits)
        yield reading("wirespan.connections.lost", tally.demotions, ("cause", "demotions"))

    # -- what is around it ------------------------------------------------------------

    def _of_exporters(self) -> Iterator[Reading]:
        for name, counters in self._gate.counters_by_exporter().items():
            exporter = ("exporter", name)
            for key, count in _items(counters):
                if key == RECEIVED:
                    yield reading("wirespan.exporter.received", count, exporter)
                elif key.startswith(SPANS):
                    outcome = ("outcome", key.removeprefix(SPANS))
                    yield reading("wirespan.exporter.spans", count, exporter, outcome)
                else:
                    yield reading("wirespan.exporter.events", count, ("event", key), exporter)

    def _of_levels(self) -> Iterator[Reading]:
        for name, each in self._gate.exporters.items():
            if not isinstance(each, Holding):
                continue
            exporter = ("exporter", name)
            for key, level in each.levels().items():
                if key in LEVELS:
                    yield reading(LEVELS[key], level, exporter)
                else:
                    yield reading("wirespan.exporter.level", level, exporter, ("level", key))

    def _of_others(self) -> Iterator[Reading]:
        for name, each in self._others.items():
            if each is not None:
                for event, count in each.counters().items():
                    yield reading(name, count, ("event", event))

    def _of_agent(self) -> Iterator[Reading]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield reading("process.cpu.time", usage.ru_utime, ("cpu.mode", "user"))
        yield reading("process.cpu.time", usage.ru_stime, ("cpu.mode", "system"))
        _, resident, *_ = Path("/proc/self/statm").read_text().split()
        yield reading("process.memory.usage", int(resident) * resource.getpagesize())
        folder = "/proc/self"
        yield reading("wirespan.threads", len(os.listdir(f"{folder}/task")))  # noqa: PTH208
        yield reading("wirespan.files", len(os.listdir(f"{folder}/fd")))  # noqa: PTH208
        yield reading("wirespan.start.time", self._began_unix_s)
        yield reading(
            "wirespan.info",
            1,
            ("kernel", platform.release()),
            ("python", platform.python_version()),
            ("source", str(getattr(self._source, "source_in_use", "file"))),
            ("version", __version__),
        )


def _word(truth: bool) -> str:
    return "true" if truth else "false"


def _items(mapping: Mapping[K, V]) -> list[tuple[K, V]]:
    """A copy of what another thread may add to while it is copied."""
    for _ in range(COPY_ATTEMPTS):
        try:
            return list(mapping.items())
        except RuntimeError:  # changed size during iteration
            continue
    return list(mapping.items())
