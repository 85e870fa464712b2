# SPDX-License-Identifier: Apache-2.0
"""Synthetic connections for tests: transfers as events, a source that plays them, spans out."""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from parsers.model import Options
from parsers.registry import Registry
from tracer.events import (
    EGRESS,
    EOF,
    INGRESS,
    LATE,
    TURN_START,
    Cause,
    CloseEvent,
    DataEvent,
    OpenEvent,
    address_bytes,
    chunk_of,
)
from tracer.pipeline import Pipeline
from tracer.recording import FRAME, MAGIC, PREFIX
from tracer.source import Batch, Counter
from tracer.span import Process

SERVER = 2
CLIENT = 1
MS = 1_000_000
START_NS = 5_000_000_000
OFFSET_NS = 1_700_000_000_000_000_000


@dataclass
class Conversation:
    """One connection; every method appends what the kernel would have reported."""

    cookie: int = 1
    role: int = SERVER
    transport: int = 1
    late: bool = False
    snaplen: int = 4096
    now_ns: int = START_NS
    positions: list[int] = field(default_factory=lambda: [1000, 2**32 - 20])
    turn: int = 0
    direction: int = -1
    tgid: int = 77
    events: list = field(default_factory=list)

    def open(self):
        self.events.append(
            OpenEvent(
                role=self.role,
                transport=self.transport,
                flags=LATE if self.late else 0,
                tgid=self.tgid,
                cookie=self.cookie,
                timestamp_ns=self.now_ns,
                process_start_ns=self.tgid * 1000,
                cgroup_id=0,
                netns=1,
                egress_position=self.positions[EGRESS],
                ingress_position=self.positions[INGRESS],
                local_port=80,
                remote_port=40000,
                local=address_bytes("10.0.0.1"),
                remote=address_bytes("10.0.0.2"),
                comm=b"server",
                path=b"",
            )
        )
        return self

    def move(self, direction, data, *, size=None, captured=None, seen=True, after_ns=MS):
        """One transfer of `data`; of `size` more bytes than that, if it is cut."""
        self.now_ns += after_ns
        flags = 0
        if direction != self.direction:
            self.direction = direction
            self.turn += 1
            flags = TURN_START
        size = len(data) if size is None else size
        if seen:
            self.events.append(
                DataEvent(
                    direction=direction,
                    cookie=self.cookie,
                    timestamp_ns=self.now_ns,
                    position=self.positions[direction],
                    size=size,
                    turn=self.turn,
                    data=data[: self.snaplen if captured is None else captured],
                    flags=flags,
                    tgid=self.tgid,
                    tid=self.tgid,
                    rtt_us=120,
                )
            )
        self.positions[direction] = (self.positions[direction] + size) % 2**32
        return self

    def recv(self, data, **more):
        return self.move(INGRESS, data, **more)

    def send(self, data, **more):
        return self.move(EGRESS, data, **more)

    def eof(self):
        self.recv(b"")
        event = self.events.pop()
        self.events.append(
            DataEvent(
                direction=INGRESS,
                cookie=self.cookie,
                timestamp_ns=self.now_ns,
                position=event.position,
                size=0,
                turn=self.turn,
                flags=EOF,
            )
        )
        return self

    def close(self, reason=0):
        self.now_ns += MS
        self.events.append(
            CloseEvent(
                reason=reason,
                turns=self.turn,
                cookie=self.cookie,
                timestamp_ns=self.now_ns,
                egress_position=self.positions[EGRESS],
                ingress_position=self.positions[INGRESS],
            )
        )
        return self


def batches_of(events, per_batch=1, tail_ns=(0, 200 * MS, 2_000 * MS)):
    """Batches as a live source would make them, and some time after the last."""
    events = sorted(events, key=lambda event: event.timestamp_ns)
    batches = []
    now_ns = START_NS
    for at in range(0, len(events), per_batch):
        part = events[at : at + per_batch]
        now_ns = max(now_ns, part[-1].timestamp_ns)
        batches.append(Batch(chunk_of(part), now_ns, OFFSET_NS + len(batches)))
    return batches + [Batch(b"", now_ns + each, OFFSET_NS) for each in tail_ns]


class PlayedSource:
    """A live source, as far as the pipeline can tell."""

    seed = 42

    def __init__(self, batches):
        self.batches = deque(batches)
        self.processes = {}
        self.tally = {Cause.DELIVERED: Counter(len(batches), 7, 1, 2, 3)}

    def poll(self, timeout_s):
        return self.batches.popleft() if self.batches else None

    def process(self, tgid, opened):
        resource = {"service.name": f"service-{tgid}", "process.command_args": ("a", "b")}
        return self.processes.setdefault(tgid, Process(tgid, tgid * 1000, resource))

    def advise(self, cookie, action, direction=0, until=0, *, whole=False):
        pass

    def forget(self, cookie):
        pass

    def counters(self):
        return self.tally

    def unused(self):
        return {}

    def close(self):
        pass


class Collected:
    """An exporter that keeps everything that may be said of a span."""

    def __init__(self):
        self.spans = []
        self._processes = {}

    def export(self, spans):
        for span in spans:
            # Which spans share a process object is part of what exporters see.
            process = self._processes.setdefault(span.process, len(self._processes))
            self.spans.append(
                (
                    span.trace_id,
                    span.span_id,
                    span.kind,
                    span.start_unix_ns,
                    span.end_unix_ns,
                    span.outline.name,
                    span.attributes(),
                    span.outline.error_type,
                    process,
                    span.process.pid,
                    dict(span.process.resource),
                )
            )


def spans_of(source, writer=None, *, redact=True):
    """Run a source through a pipeline; its spans."""
    collected = Collected()
    registry = Registry.load(["http1"], Options(redact=redact))
    pipeline = Pipeline(source, registry, [collected], seed=source_seed(source), writer=writer)
    pipeline.run()
    return collected.spans


def source_seed(source):
    return getattr(source, "seed", PlayedSource.seed)


def plain(path):
    """Everything a recording says, inflated."""
    data = Path(path).read_bytes()
    _, _, length, _ = PREFIX.unpack_from(data, len(MAGIC))
    offset = len(MAGIC) + PREFIX.size + length
    parts = [data[:offset]]
    while offset < len(data):
        stored, _, _ = FRAME.unpack_from(data, offset)
        offset += FRAME.size
        parts.append(zlib.decompress(data[offset : offset + stored]))
        offset += stored
    return b"".join(parts)
