# SPDX-License-Identifier: Apache-2.0
"""A source that is told what to deliver and remembers what it was told, and HTTP to deliver."""

from __future__ import annotations

from collections import deque

from parsers.http1 import Http1Parser
from parsers.model import Options
from parsers.registry import Registry
from tests.tracer.conversations import MS, OFFSET_NS, START_NS, Conversation
from tracer.connections import ConnectionTable
from tracer.ends import Ends
from tracer.events import LATE, Action, DataEvent, OpenEvent, address_bytes, chunk_of
from tracer.joining import Joining
from tracer.names import Names
from tracer.peers import Peers
from tracer.routes import Routes
from tracer.source import Batch
from tracer.span import Process
from tracer.spans import SpanMaker

S = 1_000_000_000
GET = b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class FakeSource:
    """Plays batches; `advice` is what it was told of connections, in order."""

    def __init__(self, batches=()):
        self.batches = deque(batches)
        self.advice = []
        self.forgotten = []
        self.processes = {}
        self.asked = []
        self.tally = {}
        self.lost = {}
        self.closed = False

    def poll(self, timeout_s):
        return self.batches.popleft() if self.batches else None

    def process(self, tgid, opened):
        self.asked.append((tgid, opened))
        name = opened.comm.decode() if opened is not None else f"process-{tgid}"
        return self.processes.setdefault(tgid, Process(tgid, tgid, {"service.name": name}))

    def advise(self, cookie, action, direction=0, until=0, *, whole=False):
        self.advice.append((cookie, action, direction, until, *["whole"] * whole))

    def actions(self, cookie):
        return [action for each, action, *_ in self.advice if each == cookie]

    def forget(self, cookie):
        self.forgotten.append(cookie)

    def counters(self):
        return self.tally

    def unused(self):
        return self.lost

    def close(self):
        self.closed = True


class Table:
    """A connection table with what surrounds it."""

    def __init__(self, *, parsers=None, strict=True, **options):
        parsers = {"http1": Http1Parser} if parsers is None else parsers
        self.source = FakeSource()
        self.emitted = []
        self.table = ConnectionTable(
            self.source,
            Registry(parsers, Options()),
            lambda connection, exchange: self.emitted.append((connection, exchange)),
            strict=strict,
            **options,
        )
        self.now_ns = START_NS

    def feed(self, *events, after_ns=0):
        """One batch of events (or of conversations, of what they have not been asked for yet)."""
        found = []
        for each in events:
            if isinstance(each, Conversation):
                found += each.events
                each.events = []
            else:
                found.append(each)
        self.now_ns = max(self.now_ns, *(each.timestamp_ns for each in found), 0) + after_ns
        self.table.feed(Batch(chunk_of(found), self.now_ns, OFFSET_NS))

    def wait(self, ns):
        """Time passes without an event."""
        self.now_ns += ns
        self.table.feed(Batch(b"", self.now_ns, OFFSET_NS))

    @property
    def counters(self):
        return self.table.counters

    @property
    def exchanges(self):
        return [exchange for _, exchange in self.emitted]

    def said(self):
        """Of each exchange: target, status or None, completeness, error type."""
        return [
            (
                exchange.request.head.target,
                exchange.response.head.status if exchange.response else None,
                exchange.completeness.value,
                exchange.error_type,
            )
            for exchange in self.exchanges
        ]


class Kept:
    """An exporter that keeps spans, and fails if told to."""

    def __init__(self, error=None):
        self.spans = []
        self.error = error
        self.closed = 0
        self.flushed_s = None

    def export(self, spans):
        if self.error is not None:
            raise self.error
        self.spans += spans

    def flush(self, timeout_s):
        self.flushed_s = timeout_s
        return self.error is None

    def close(self):
        self.closed += 1

    def counters(self):
        return {"spans_sent": len(self.spans)}


class OneByOne:
    """Makes spans as a pipeline does whose batches have one exchange each."""

    def __init__(self, maker):
        self.maker = maker

    def make(self, connection, exchange):
        span = self.maker.make(connection, exchange)
        self.maker.complete(span, connection, exchange, self.maker.other(connection, span))
        return span


def span_maker(seed=1, table=None, names=None, offset_ns=0):
    """What makes spans of connections that have no other end, unless it is in `table`."""
    ends = Ends({}) if table is None else table.ends
    maker = SpanMaker(Joining(seed, ends), Peers(names or Names()), Routes())
    maker.unix_offset_ns = offset_ns
    return OneByOne(maker)


def opened(cookie=1, **changes):
    """An open record."""
    values = {
        "role": 2,
        "transport": 1,
        "flags": LATE if changes.pop("late", False) else 0,
        "tgid": 77,
        "cookie": cookie,
        "timestamp_ns": START_NS,
        "process_start_ns": 1,
        "cgroup_id": 0,
        "netns": 1,
        "egress_position": 0,
        "ingress_position": 0,
        "local_port": 80,
        "remote_port": 40000,
        "local": address_bytes("10.0.0.1"),
        "remote": address_bytes("10.0.0.2"),
        "comm": b"server",
        "path": b"",
    }
    return OpenEvent(**(values | changes))


def moved(cookie=1, direction=0, **changes):
    """A transfer."""
    data = changes.get("data", b"")
    values = {
        "timestamp_ns": START_NS,
        "position": 0,
        "size": len(data),
        "turn": 1,
        "tgid": 77,
        "tid": 77,
    }
    return DataEvent(direction=direction, cookie=cookie, **(values | changes))


def request(target, method="GET", fields=""):
    return f"{method} {target} HTTP/1.1\r\nHost: shop\r\n{fields}\r\n".encode()


def response(size=0, status=200):
    return f"HTTP/1.1 {status} X\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * size


__all__ = [
    "GET",
    "MS",
    "OFFSET_NS",
    "OK",
    "START_NS",
    "Action",
    "Conversation",
    "FakeSource",
    "Kept",
    "S",
    "Table",
    "moved",
    "opened",
    "request",
    "response",
    "span_maker",
]  # fmt: skip
