# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

from parsers.http1 import Http1Parser
from parsers.model import Options
from parsers.registry import Registry
from tests.tracer.conversations import batches_of
from tests.tracer.fakes import GET, MS, OFFSET_NS, OK, START_NS, Conversation, FakeSource, S
from tracer.events import chunk_of
from tracer.pipeline import IDLE_BATCH_NS, Pipeline
from tracer.source import Batch


class Exported:
    """An exporter that keeps what it is given."""

    def __init__(self):
        self.batches = []

    @property
    def spans(self):
        return [span for batch in self.batches for span in batch]

    def export(self, spans):
        self.batches.append(list(spans))


class Written:
    """A recorder that keeps what it is told, and asks for sessions as one would."""

    def __init__(self):
        self.batches = []
        self.sessions = []

    def write(self, batch, session_of):
        self.batches.append(batch)
        self.sessions.append(session_of(1))


def pipeline(batches, **options):
    exported = Exported()
    made = Pipeline(
        FakeSource(batches),
        Registry({"http1": Http1Parser}, Options()),
        [exported],
        seed=5,
        **options,
    )
    made.table.strict = True
    return made, exported


def served(cookie=1):
    return Conversation(cookie).open().recv(GET).send(OK)


def test_spans_of_a_batch_go_to_every_exporter_at_once():
    made, exported = pipeline([Batch(chunk_of(served(1).events + served(2).events), START_NS, 0)])
    second = Exported()
    made.exporters = [exported, second]
    made.run()
    assert len(exported.batches) == 1
    assert len(exported.spans) == 2
    assert second.batches == exported.batches
    assert made.spans_made == 2


def test_run_ends_with_what_the_end_brings_out():
    made, exported = pipeline(
        [Batch(chunk_of(Conversation().open().recv(GET).close().events), START_NS + S, 0)]
    )
    made.run()
    assert len(exported.spans) == 1
    assert not made.table.connections


def test_clock_step_moves_a_span_and_does_not_stretch_it():
    conversation = served()
    *before, last = conversation.events
    hour = 3600 * S
    made, exported = pipeline(
        [
            Batch(chunk_of(before), START_NS + 5 * MS, OFFSET_NS),
            Batch(chunk_of([last]), START_NS + 9 * MS, OFFSET_NS + hour),
        ]
    )
    made.run()
    (span,) = exported.spans
    assert span.start_unix_ns == START_NS + MS + OFFSET_NS + hour
    assert span.end_unix_ns - span.start_unix_ns == MS


def test_empty_batches_are_processed_and_recorded_only_now_and_then():
    written = Written()
    step = IDLE_BATCH_NS // 4
    batches = [Batch(b"", START_NS + number * step, 0) for number in range(9)]
    made, _ = pipeline(batches, writer=written)
    made.run()
    assert [batch.now_ns for batch in written.batches] == [
        START_NS,
        START_NS + IDLE_BATCH_NS,
        START_NS + 2 * IDLE_BATCH_NS,
    ]
    assert made.batches == 3


def test_batch_with_events_is_processed_however_soon_it_comes():
    written = Written()
    made, _ = pipeline(batches_of(served().events, tail_ns=()), writer=written)
    made.run()
    assert len(written.batches) == 3


def test_recorder_is_asked_after_the_batch_was_processed():
    written = Written()
    made, _ = pipeline([Batch(chunk_of(served().events), START_NS, 0)], writer=written)
    made.run()
    assert written.sessions[0].kept


def test_sessions_keep_nothing_where_nothing_is_recorded():
    made, _ = pipeline([Batch(chunk_of(served().events), START_NS, 0)])
    made.step(0)
    assert made.table.connections[1].session.kept is None


def test_unwanted_spans_are_made_and_not_exported():
    wanted = []

    def want(span):
        wanted.append(span)
        return len(wanted) == 2

    events = served(1).events + served(2).events
    made, exported = pipeline([Batch(chunk_of(events), START_NS, 0)], want=want)
    made.run()
    assert made.spans_made == 2
    assert exported.spans == [wanted[1]]


def test_exporters_are_left_alone_when_nothing_is_wanted():
    made, exported = pipeline(
        [Batch(chunk_of(served().events), START_NS, 0)], want=lambda span: False
    )
    made.run()
    assert exported.batches == []


def test_same_batches_give_the_same_spans():
    def run():
        events = [event for cookie in range(1, 9) for event in served(cookie).events]
        made, exported = pipeline(batches_of(events, per_batch=3))
        made.run()
        return [
            (span.trace_id, span.span_id, span.start_unix_ns, span.end_unix_ns)
            for span in exported.spans
        ]

    assert run() == run()


def test_other_end_that_is_told_of_behind_the_exchange_is_found():
    crossed = [2**32 - 20, 1000]
    client = Conversation(1, role=1, positions=crossed).open().send(GET).recv(OK)
    server = Conversation(2).open().recv(GET).send(OK)
    opened = server.events[0]
    client.events[0] = replace(
        client.events[0],
        local=opened.remote,
        local_port=opened.remote_port,
        remote=opened.local,
        remote_port=opened.local_port,
    )
    made, exported = pipeline([Batch(chunk_of(server.events + client.events), START_NS + 9 * S, 0)])
    made.run()
    served_, asked = exported.spans
    assert served_.parent_span_id == asked.span_id
    assert served_.trace_id == asked.trace_id
