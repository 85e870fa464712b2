# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers.model import Endpoint, Kind, Side, Transport
from parsers.stream import Stream
from tests.tracer.fakes import GET, OK, Conversation, Table, opened
from tracer.connection import MAX_SKIP_BYTES, peering_of, skip_until, turned, worth
from tracer.events import address_bytes


def test_turned_peering_is_another_object_with_another_server():
    peering = peering_of(opened(role=0, late=True))
    client = turned(peering, Side.CLIENT)
    assert (peering.side, client.side) == (Side.UNKNOWN, Side.CLIENT)
    assert client.late
    assert client.server == Endpoint("10.0.0.2", 40000)
    assert turned(client, Side.SERVER).server == Endpoint("10.0.0.1", 80)


def test_unspecified_address_is_no_address():
    peering = peering_of(opened(remote=bytes(16), remote_port=0))
    assert peering.remote == Endpoint("", 0)
    assert "network.peer.address" not in peering.attributes()


def test_unix_peering_says_nothing_of_addresses():
    peering = peering_of(opened(transport=Transport.UNIX, path=b"/s", local=address_bytes("::1")))
    assert peering.attributes() == {"network.transport": "unix"}


@pytest.mark.parametrize(
    ("position", "skip", "until"),
    [
        (1000, 500_000, 500_999),
        (2**32 - 10, 500_000, 499_989),
        (0, 1 << 62, MAX_SKIP_BYTES),
        (2**32 - 1, 1, 2**32 - 1),
    ],
)
def test_skip_leaves_the_last_byte_to_be_seen(position, skip, until):
    stream = Stream(Kind.RESPONSE)
    stream.position, stream.skip = position, skip
    assert skip_until(stream) == until


def test_what_is_parsed_is_worth_more_than_what_is_only_newer():
    table = Table()
    table.feed(Conversation(1).open().recv(GET).send(OK))
    table.feed(opened(2, transport=Transport.UDP, timestamp_ns=table.now_ns + 1))
    parsed, other = table.table.connections.values()
    assert worth(parsed) > worth(other)


def test_in_flight_counts_a_response_that_has_begun():
    table = Table()
    conversation = Conversation(1).open().recv(GET + GET)
    table.feed(conversation)
    assert table.table.connections[1].in_flight == 2
    table.feed(conversation.send(OK[:-1]))
    assert table.table.connections[1].in_flight == 2
    table.feed(conversation.send(OK[-1:]))
    assert table.table.connections[1].in_flight == 1
