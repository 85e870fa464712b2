# SPDX-License-Identifier: Apache-2.0
"""Connections of which more than heads is wanted: what the kernel is told, and when again."""

from __future__ import annotations

from parsers.http1 import Http1Parser
from parsers.model import Kind
from tests.tracer.conversations import MS, Conversation
from tests.tracer.fakes import GET, OK, S, Table
from tests.tracer.test_connections import large, served
from tracer.connections import CLOSE_GRACE_NS
from tracer.events import Action as Verdict


class ManyParser(Http1Parser):
    """A protocol of which many messages come in one transfer."""

    whole = True


def many(**options):
    return Table(parsers={"http1": ManyParser}, **options)


def wholes(table):
    """The actions that came with the wish for whole transfers."""
    return [action for _, action, _, _, *wish in table.source.advice if wish]


def test_whole_transfers_are_asked_for_once_a_parser_is_chosen():
    table = many()
    conversation = Conversation(9).open()
    table.feed(conversation.recv(GET[:3]))
    assert not table.source.advice
    table.feed(conversation.recv(GET[3:]).send(OK))
    assert table.source.advice == [(9, Verdict.FULL, 0, 0, "whole")]
    table.feed(conversation.recv(GET).send(OK))
    assert len(table.source.advice) == 1
    assert len(table.said()) == 2


def test_whole_transfers_are_not_asked_for_where_heads_are_enough():
    table = Table()
    table.feed(served())
    assert not table.source.advice


def test_wish_for_whole_transfers_goes_with_a_skip():
    conversation, _, _ = large(30_000_000)
    table = many()
    table.feed(conversation)
    assert [action for _, action, *_ in table.source.advice] == [Verdict.FULL, Verdict.SKIP]
    assert wholes(table) == [Verdict.FULL, Verdict.SKIP]


def test_wish_does_not_take_the_place_of_asking_for_the_open_record():
    table = many()
    table.feed(Conversation().recv(GET).send(OK))
    assert table.source.actions(1) == [Verdict.ANNOUNCE] * 2
    assert wholes(table) == [Verdict.ANNOUNCE]


def test_wish_is_said_again_when_the_kernel_seems_to_have_lost_it():
    table = many()
    conversation, _, _ = large(200_000)
    table.feed(conversation)
    table.feed(conversation.send(b"", size=1000, captured=0, after_ns=2 * S))  # sendfile
    assert len(wholes(table)) == 1
    for after_ns in (MS, MS, S // 2):
        table.feed(conversation.send(b"z" * 100, size=8192, captured=100, after_ns=after_ns))
    assert len(wholes(table)) == 2
    table.feed(conversation.send(b"z" * 131_072, size=140_000, after_ns=2 * S, captured=131_072))
    assert len(wholes(table)) == 2, "that is all there is"


def test_wish_is_taken_back_with_the_connection():
    table = many()
    table.feed(served(cookie=4).close())
    table.wait(CLOSE_GRACE_NS + 1)
    assert table.source.forgotten == [4]


def test_wish_is_made_where_the_protocol_changes():
    class Upgrading(Http1Parser):
        def parse(self, reader, kind, request):
            message = super().parse(reader, kind, request)
            if kind is Kind.RESPONSE and message is not None:
                message.switches_to = "many"
            return message

    class After(ManyParser):
        name = "many"

    table = Table(parsers={"http1": Upgrading, "many": After})
    conversation = Conversation().open().recv(GET)
    table.feed(conversation)
    assert not wholes(table)
    table.feed(conversation.send(OK))
    assert wholes(table) == [Verdict.FULL]


def test_connection_that_needs_no_more_than_heads_is_judged_once():
    table = Table()
    conversation = served()
    conversation.snaplen = 128 << 10
    for _ in range(3):
        conversation.recv(GET).send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + bytes(20_000)
        )
    table.feed(conversation)
    assert table.source.advice == [(1, Verdict.FULL, 0, 0)]
