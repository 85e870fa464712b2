# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers.http1 import Http1Parser
from parsers.model import Completeness, Options, Side, Transport
from parsers.registry import Registry
from tests.tracer.fakes import (
    GET,
    MS,
    OK,
    START_NS,
    Conversation,
    FakeSource,
    S,
    request,
    span_maker,
)
from tracer.connections import ConnectionTable
from tracer.events import EGRESS, chunk_of
from tracer.joining import BYTES_AT_ONCE
from tracer.source import Batch
from tracer.span import SpanKind


def spans_of(*conversations, seed=1, offset_ns=0, source=None, parser=Http1Parser):
    maker = span_maker(seed, offset_ns=offset_ns)
    spans = []
    table = ConnectionTable(
        source or FakeSource(),
        Registry({"http1": parser}, Options()),
        lambda connection, exchange: spans.append(maker.make(connection, exchange)),
        strict=True,
    )
    for each in conversations:
        table.feed(Batch(chunk_of(each.events), each.now_ns, offset_ns))
    table.feed(Batch(b"", START_NS + 10 * S, offset_ns))
    return spans


def served(cookie=1, **options):
    return Conversation(cookie, **options).open().recv(GET).send(OK)


def test_times_are_of_the_first_and_the_last_byte():
    conversation = Conversation().open().recv(GET[:5]).recv(GET[5:], after_ns=3 * MS)
    conversation.send(OK[:-1], after_ns=20 * MS).send(OK[-1:], after_ns=7 * MS)
    (span,) = spans_of(conversation, offset_ns=1_000_000 * S)
    assert span.start_unix_ns == 1_000_000 * S + START_NS + MS
    assert span.end_unix_ns - span.start_unix_ns == 30 * MS
    assert span.first_byte_ns == 23 * MS
    assert (span.request_bytes, span.response_bytes) == (len(GET), len(OK))
    assert span.rtt_us == 120


def test_span_ends_with_the_response_though_the_request_goes_on():
    put = b"PUT /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
    conversation = Conversation().open().recv(put).send(OK, after_ns=5 * MS)
    conversation.recv(bytes(100), after_ns=50 * MS)
    (span,) = spans_of(conversation)
    assert span.end_unix_ns - span.start_unix_ns == 5 * MS
    assert span.request_bytes == len(put) + 100


def test_counts_and_resends_are_those_of_the_messages():
    class Counting(Http1Parser):
        def parse(self, reader, kind, request):
            message = super().parse(reader, kind, request)
            message.count = 10 + kind
            message.resends = 3
            return message

    answered, unanswered = spans_of(served().recv(GET).close(), parser=Counting)
    assert (answered.request_count, answered.response_count, answered.resends) == (10, 11, 3)
    assert (unanswered.request_count, unanswered.response_count) == (10, -1)
    (plain,) = spans_of(served())
    assert (plain.request_count, plain.response_count, plain.resends) == (-1, -1, 0)


def test_unanswered_request_ends_when_its_connection_does():
    (span,) = spans_of(Conversation().open().recv(GET).close())
    assert span.completeness is Completeness.UNANSWERED
    assert span.end_unix_ns - span.start_unix_ns == MS
    assert (span.response_bytes, span.first_byte_ns) == (0, 0)
    assert span.outline.error_type == "connection_closed"


@pytest.mark.parametrize(
    ("role", "kind"), [(1, SpanKind.CLIENT), (2, SpanKind.SERVER), (0, SpanKind.SERVER)]
)
def test_kind_is_that_of_the_traced_end(role, kind):
    conversation = Conversation(role=role).open()
    if role == 1:
        conversation.send(GET).recv(OK)
    else:
        conversation.recv(GET).send(OK)
    (span,) = spans_of(conversation)
    assert span.kind is kind


def test_ids_are_those_of_the_seed_and_unique():
    conversation = Conversation().open()
    for _ in range(BYTES_AT_ONCE // 24 + 10):
        conversation.recv(GET).send(OK)
    one = spans_of(conversation, seed=7)
    again = spans_of(conversation, seed=7)
    other = spans_of(conversation, seed=8)
    ids = [(span.trace_id, span.span_id) for span in one]
    assert ids == [(span.trace_id, span.span_id) for span in again]
    assert ids[0] != (other[0].trace_id, other[0].span_id)
    assert len({trace for trace, _ in ids}) == len({span for _, span in ids}) == len(ids)
    assert {(len(trace), len(span)) for trace, span in ids} == {(16, 8)}
    assert all(span.parent_span_id == b"" for span in one)


def test_spans_of_a_connection_share_its_process_and_peering():
    one, two = spans_of(served().recv(GET).send(OK))
    assert one.process is two.process
    assert one.peering is two.peering
    assert one.outline is two.outline
    assert one.peering.side is Side.SERVER


def test_process_is_the_one_that_finished_the_exchange():
    conversation = Conversation(tgid=70).open().recv(GET)
    conversation.tgid = 71
    (span,) = spans_of(conversation.send(OK))
    assert span.process.pid == 71


def test_unix_socket_and_response_bytes_of_a_head_request():
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"
    conversation = Conversation(transport=Transport.UNIX).open().recv(request("/", "HEAD"))
    (span,) = spans_of(conversation.move(EGRESS, answer))
    assert span.response_bytes == len(answer)
    assert span.attributes()["network.transport"] == "unix"
