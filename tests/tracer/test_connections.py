# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging

import pytest

from parsers.detection import PROBE_TURNS
from parsers.http1 import Http1Parser
from parsers.model import Endpoint, Side, Transport
from tests.tracer.conversations import CLIENT, MS, START_NS, Conversation
from tests.tracer.fakes import GET, OK, Action, S, Table, moved, opened, request
from tracer.connection import QUIET_NS, REQUEST_TIMEOUT_NS, UNENDED_QUIET_NS
from tracer.connections import CLOSE_GRACE_NS, SKIP_BYTES
from tracer.events import DISCARDED, EGRESS, INGRESS, CloseReason, chunk_of
from tracer.events import Action as Verdict
from tracer.source import Batch


def served(cookie=1, **options):
    """A conversation with one request answered."""
    return Conversation(cookie, **options).open().recv(GET).send(OK)


# -- the plain case ---------------------------------------------------------------------


def test_an_exchange_comes_with_its_connection():
    table = Table()
    table.feed(served(cookie=9))
    assert table.said() == [("/a", 200, "complete", None)]
    connection, exchange = table.emitted[0]
    assert connection.cookie == 9
    assert connection.peering.side is Side.SERVER
    assert connection.peering.local == Endpoint("10.0.0.1", 80)
    assert connection.peering.remote == Endpoint("10.0.0.2", 40000)
    assert connection.rtt_us == 120
    assert exchange.request.size == len(GET)
    assert exchange.response.size == len(OK)
    assert table.counters.opened == 1
    assert not table.counters.unannounced
    assert not table.source.advice


def test_exchanges_in_one_batch_and_in_many_are_the_same():
    events = [event for cookie in range(1, 6) for event in served(cookie).events]
    at_once, one_by_one = Table(), Table()
    at_once.feed(*events)
    for event in events:
        one_by_one.feed(event)
    assert at_once.said() == one_by_one.said() == [("/a", 200, "complete", None)] * 5


def test_discarded_records_are_passed_over():
    events = served().events
    parts = [bytearray(chunk_of([event])) for event in events]
    ghost = bytearray(chunk_of([moved(direction=INGRESS, data=b"POST / HTTP/1.1\r\n\r\n")]))
    for part in (ghost, bytearray(chunk_of([opened(5)]))):
        word = int.from_bytes(part[:4], "little") | DISCARDED
        part[:4] = word.to_bytes(4, "little")
        parts.insert(1, part)
    table = Table()
    table.table.feed(Batch(b"".join(parts), START_NS, 0))
    assert table.said() == [("/a", 200, "complete", None)]
    assert list(table.table.connections) == [1]


def test_ipv4_mapped_addresses_are_written_as_ipv4_and_ipv6_as_ipv6():
    table = Table()
    v6 = bytes.fromhex("20010db8000000000000000000000001")
    table.feed(opened(1), opened(2, remote=v6))
    one, two = table.table.connections.values()
    assert one.peering.remote.address == "10.0.0.2"
    assert two.peering.remote.address == "2001:db8::1"


def test_the_tracers_own_unix_socket_is_not_looked_at():
    table = Table(ignored="/run/own.sock")
    table.feed(opened(1, transport=Transport.UNIX, path=b"/run/own.sock"))
    assert table.table.connections[1].session is None
    assert table.source.actions(1) == [Action.STOP]
    assert table.counters.no_parser == 0


@pytest.mark.parametrize(
    ("path", "address"),
    [
        (b"/run/shop.sock", "/run/shop.sock"),
        (b"\0shop", "@shop"),
        (b"", ""),
        (b"/run/\xff", "/run/\\xff"),
    ],
)
def test_unix_sockets_are_named_by_their_path(path, address):
    table = Table()
    conversation = served(transport=Transport.UNIX)
    conversation.events[0] = opened(
        transport=Transport.UNIX, path=path, ingress_position=1000, egress_position=2**32 - 20
    )
    table.feed(conversation)
    (connection, _) = table.emitted[0]
    assert connection.peering.transport is Transport.UNIX
    assert connection.peering.local == connection.peering.remote == Endpoint(address, 0)


def test_payload_turns_a_connection_whose_role_is_not_known():
    table = Table()
    table.feed(Conversation(role=0).open().send(GET).recv(OK))
    connection, _ = table.emitted[0]
    assert connection.peering.side is Side.CLIENT
    assert connection.peering.server == Endpoint("10.0.0.2", 40000)


# -- late and unannounced ---------------------------------------------------------------


def test_the_first_exchange_of_a_late_connection_says_so():
    table = Table()
    table.feed(served(late=True).recv(GET).send(OK))
    assert [each[2] for each in table.said()] == ["late_attach", "complete"]
    assert table.counters.late == 1
    assert table.emitted[0][0].peering.late


def test_unannounced_connection_is_asked_for_and_gets_its_addresses():
    table = Table()
    conversation = served()
    open_record = conversation.events.pop(0)
    table.feed(conversation)
    assert table.source.actions(1) == [Action.ANNOUNCE]
    assert table.counters.unannounced == 1
    connection, _ = table.emitted[0]
    assert connection.peering.side is Side.SERVER, "as the bytes tell"
    assert connection.peering.remote == Endpoint("", 0)
    table.feed(open_record, conversation.recv(GET).send(OK))
    connection, _ = table.emitted[1]
    assert connection.peering.remote == Endpoint("10.0.0.2", 40000)
    assert connection.peering.side is Side.SERVER
    assert connection.process.service_name == "process-77"
    assert table.counters.opened == 0, "it was counted as unannounced"


def test_role_of_the_open_record_gives_way_to_what_was_parsed():
    table = Table()
    conversation = served(role=0)
    open_record = conversation.events.pop(0)
    table.feed(conversation)
    table.feed(open_record)
    assert table.table.connections[1].peering.side is Side.SERVER


def test_unannounced_datagrams_end_their_session_when_the_open_record_comes():
    table = Table()
    table.feed(moved(data=b"\x12\x34\x01\x00", peer=(bytes(16), 53)))
    table.feed(opened(transport=Transport.UDP))
    assert table.table.connections[1].session is None
    assert table.source.actions(1) == [Action.ANNOUNCE, Action.STOP]
    assert table.counters.no_parser == 1


def test_stop_is_repeated_when_asking_for_the_record_has_replaced_it():
    table = Table()
    table.feed(moved(data=b"SSH-2.0-OpenSSH\r\n"))
    for turn in range(2, PROBE_TURNS + 4):
        table.feed(moved(data=b"\0\1\2", turn=turn, flags=8, direction=turn & 1))
    assert table.table.connections[1].session is None
    table.source.advice.clear()
    table.feed(opened(late=True))
    assert table.source.actions(1) == [Action.STOP]


# -- processes --------------------------------------------------------------------------


def test_who_uses_a_socket_is_whose_it_is():
    table = Table()
    conversation = served(tgid=70)
    conversation.tgid = 71  # inherited across fork, or passed by SCM_RIGHTS
    conversation.recv(GET).send(OK)
    table.feed(conversation)
    assert [connection.process.pid for connection, _ in table.emitted] == [71, 71]
    table = Table()
    conversation = served(tgid=70)
    table.feed(conversation)
    first = table.emitted[0][0].process
    conversation.tgid = 71
    table.feed(conversation.recv(GET).send(OK))
    assert first.pid == 70
    assert table.emitted[1][0].process.pid == 71


def test_process_is_asked_for_once_while_it_does_not_change():
    table = Table()
    conversation = served()
    for _ in range(10):
        conversation.recv(GET).send(OK)
    table.feed(conversation)
    assert len(table.source.asked) == 1
    assert table.source.asked[0][1].comm == b"server"


def test_transfers_of_no_process_change_nothing():
    table = Table()
    table.feed(served(tgid=70), moved(tgid=0, position=5000, data=b"x"))
    assert table.table.connections[1].process.pid == 70


# -- verdicts ---------------------------------------------------------------------------


def test_udp_is_stopped_at_once_and_counted():
    table = Table()
    table.feed(opened(transport=Transport.UDP), moved(data=b"abc", peer=(bytes(16), 53)))
    assert table.source.actions(1) == [Action.STOP]
    assert table.counters.no_parser == 1
    assert table.counters.unparsed_bytes == 3


def test_unknown_protocol_is_stopped_and_counted():
    table = Table()
    table.feed(Conversation().open().send(b"220 mail ESMTP\r\n").recv(b"EHLO me\r\n"))
    assert table.source.actions(1) == [Action.STOP]
    assert table.counters.unknown_protocol == 1
    assert not table.emitted
    table.feed(moved(data=b"12345", position=9, turn=9))
    assert table.counters.unparsed_bytes == len("EHLO me\r\n") + 5, "it was stopped before"


def test_switched_protocol_is_stopped_and_counted():
    table = Table()
    upgrade = request("/chat", fields="Upgrade: websocket\r\nConnection: upgrade\r\n")
    switch = b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n"
    table.feed(Conversation().open().recv(upgrade).send(switch).send(b"\x81\x05hello"))
    assert table.said() == [("/chat", 101, "complete", None)]
    assert table.source.actions(1) == [Action.STOP]
    assert table.counters.switched_protocol == 1
    assert table.counters.unparsed_bytes == 7


def test_stop_is_said_again_when_the_kernel_seems_to_have_lost_it():
    table = Table()
    garbage = Conversation().open().send(b"220 mail ESMTP\r\n").recv(b"EHLO me\r\n")
    table.feed(garbage)
    table.feed(garbage.send(b"under way when it was told"))
    assert table.source.actions(1) == [Action.STOP]
    table.feed(garbage.send(b"long after", after_ns=2 * S).send(b"and again"))
    assert table.source.actions(1) == [Action.STOP] * 2


def large(size, *, at=1000, captured=4096):
    """A response that begins at `at`, and the events of its first transfer."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode()
    conversation = Conversation(positions=[0, at]).open().recv(GET)
    return conversation, head, conversation.send(head, size=len(head) + 65536, captured=len(head))


@pytest.mark.parametrize("at", [1000, 2**32 - 100_000, 2**32 - 10])
def test_large_body_is_skipped_up_to_its_last_byte(at):
    size = 30_000_000
    conversation, head, _ = large(size, at=at)
    table = Table()
    table.feed(conversation)
    end = (at + len(head) + size) % 2**32
    assert table.source.advice == [(1, Verdict.SKIP, EGRESS, (end - 1) % 2**32)]
    # What ends at or before that is not delivered; the last transfer is.
    conversation.send(b"", size=size - 65536 - 1000, captured=0, seen=False, after_ns=S)
    assert not table.emitted
    table.feed(conversation.send(b"z" * 1000))
    assert table.said() == [("/a", 200, "complete", None)]
    exchange = table.exchanges[0]
    assert exchange.response.size == len(head) + size
    assert exchange.response.last_ns == conversation.now_ns


def test_small_body_is_not_worth_a_skip():
    conversation, _, _ = large(SKIP_BYTES + 65536)
    table = Table()
    table.feed(conversation)
    assert not table.source.advice


def test_skip_of_an_endless_body_stays_within_what_positions_can_tell():
    head = b"HTTP/1.0 200 OK\r\n\r\n"
    conversation = Conversation(positions=[0, 0]).open().recv(GET)
    conversation.send(head, size=len(head) + 1000, captured=len(head))
    table = Table()
    table.feed(conversation)
    ((_, action, direction, until),) = table.source.advice
    assert (action, direction) == (Verdict.SKIP, EGRESS)
    assert until - len(head) - 1000 == 1 << 30


# -- close ------------------------------------------------------------------------------


def test_connection_ends_a_grace_after_its_close():
    table = Table()
    table.feed(served().close())
    assert 1 in table.table.connections
    table.wait(CLOSE_GRACE_NS + 1)
    assert not table.table.connections
    assert table.counters.closed == 1
    assert not table.counters.reset


def test_data_read_after_the_close_is_parsed_within_the_grace():
    table = Table()
    conversation = Conversation(role=CLIENT).open().send(GET)
    conversation.close(CloseReason.RESET)
    table.feed(conversation)
    table.feed(conversation.recv(OK, after_ns=50 * MS))
    assert table.said() == [("/a", 200, "complete", None)]
    table.wait(S)
    assert table.said() == [("/a", 200, "complete", None)]
    assert table.counters.unannounced == 0


@pytest.mark.parametrize(
    ("reason", "error_type"),
    [
        (CloseReason.CLOSED, "connection_closed"),
        (CloseReason.RESET, "connection_reset"),
        (CloseReason.TIMED_OUT, "timeout"),
    ],
)
def test_how_a_connection_ended_is_why_there_is_no_response(reason, error_type):
    table = Table()
    table.feed(Conversation().open().recv(GET).close(reason))
    table.wait(S)
    assert table.said() == [("/a", None, "unanswered", error_type)]
    assert table.counters.reset == (reason is CloseReason.RESET)


def test_response_cut_short_by_a_reset_says_so():
    table = Table()
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"
    table.feed(Conversation().open().recv(GET).send(cut).close(CloseReason.RESET))
    table.wait(S)
    assert table.said() == [("/a", 200, "complete", "connection_reset")]
    assert table.exchanges[0].response.size == len(cut)


def test_lost_response_is_a_gap_and_no_silence_of_the_server():
    table = Table()
    table.feed(Conversation().open().recv(GET).send(OK, seen=False).close())
    table.wait(S)
    assert table.said() == [("/a", None, "gap", None)]


def test_fin_that_was_read_is_no_lost_byte():
    table = Table()
    conversation = Conversation().open().recv(GET)
    conversation.positions[INGRESS] += 1
    table.feed(conversation.close())
    table.wait(S)
    assert table.said() == [("/a", None, "unanswered", "connection_closed")]
    assert not table.table.tally.gap_bytes


def test_refused_connection_is_counted_and_leaves_nothing():
    table = Table()
    table.feed(Conversation(role=CLIENT).open().close(CloseReason.REFUSED))
    table.wait(S)
    assert table.counters.refused == 1
    assert not table.table.connections
    assert not table.emitted


def test_close_of_an_unknown_or_already_ended_connection_is_harmless():
    table = Table()
    conversation = served().close()
    close = conversation.events[-1]
    table.feed(conversation, close)
    table.wait(S)
    table.feed(close)
    assert table.counters.closed == 3
    assert len(table.emitted) == 1


def test_verdict_of_a_closed_connection_is_taken_back():
    table = Table()
    table.feed(Conversation().open().send(b"220 mail ESMTP\r\n").recv(b"EHLO me\r\n").close())
    table.wait(S)
    assert table.source.forgotten == [1]


# -- time -------------------------------------------------------------------------------


def test_request_without_a_response_is_given_up_after_300_s_of_event_time():
    table = Table()
    table.feed(Conversation().open().recv(GET))
    table.wait(REQUEST_TIMEOUT_NS - S)
    assert not table.emitted
    assert table.table.in_flight == 1
    table.wait(2 * S)
    assert table.said() == [("/a", None, "unanswered", "timeout")]
    assert table.table.in_flight == 0


def test_quiet_connection_is_forgotten_and_taken_up_again():
    table = Table()
    conversation = served()
    table.feed(conversation)
    table.wait(QUIET_NS - S)
    assert table.table.connections
    table.wait(2 * S)
    assert not table.table.connections
    assert table.counters.quiet == 1
    table.feed(conversation.recv(GET, after_ns=2 * QUIET_NS).send(OK))
    assert table.source.actions(1) == [Action.ANNOUNCE]
    assert table.said()[1] == ("/a", 200, "late_attach", None)


@pytest.mark.parametrize("transport", [Transport.UDP, Transport.UNIX])
def test_socket_whose_end_nobody_tells_is_forgotten_sooner(transport):
    table = Table()
    table.feed(opened(1, transport=transport), opened(2))
    table.wait(UNENDED_QUIET_NS + S)
    assert list(table.table.connections) == [2]


def test_end_reports_what_only_time_would_have_ended_and_counts_what_still_waits():
    table = Table()
    table.feed(
        served(1),
        Conversation(2).open().recv(GET),
        Conversation(3).open().recv(GET).send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        Conversation(4).open().recv(GET).close(),
    )
    table.table.finish(table.now_ns)
    assert [each[2] for each in table.said()] == ["complete", "unanswered"]
    assert table.table.in_flight == 2, "one without a response, one in the middle of it"


# -- bounds -----------------------------------------------------------------------------


def test_table_never_grows_beyond_its_cap_and_drops_the_longest_silent():
    table = Table(max_connections=32)
    for cookie in range(1, 101):
        table.feed(served(cookie, now_ns=START_NS + cookie * MS))
        assert len(table.table.connections) <= 32
    assert table.counters.evicted == 100 - len(table.table.connections)
    assert set(table.table.connections) == set(range(100 - len(table.table.connections) + 1, 101))
    assert len(table.emitted) == 100


def test_socket_that_connects_again_is_a_new_connection():
    table = Table()
    first = served(1).close()
    table.feed(first)
    table.feed(served(1, now_ns=first.now_ns + MS))
    table.wait(S)
    assert [each[2] for each in table.said()] == ["complete"] * 2
    assert table.counters.unannounced == 0
    assert table.table.tally.gap_bytes == 0


def test_what_has_ended_goes_before_what_is_idle():
    table = Table(max_connections=32)
    table.feed(served(1))
    storm = [served(cookie, now_ns=START_NS + S).close() for cookie in range(2, 200)]
    table.feed(*storm)
    assert 1 in table.table.connections
    assert table.counters.evicted == 0
    assert len(table.emitted) == 199


def test_new_connection_is_not_the_first_to_be_evicted():
    table = Table(max_connections=16)
    for cookie in range(1, 41):
        table.feed(opened(cookie, timestamp_ns=START_NS + cookie))
    assert 40 in table.table.connections
    assert 1 not in table.table.connections


def test_what_is_not_parsed_is_evicted_before_what_is():
    table = Table(max_connections=16)
    table.feed(served(1))
    for cookie in range(2, 60):
        table.feed(opened(cookie, transport=Transport.UDP, timestamp_ns=START_NS + S))
    assert 1 in table.table.connections


def test_evicted_connection_is_asked_for_again_and_goes_on():
    table = Table(max_connections=2)
    first = served(1)
    table.feed(first)
    for cookie in (2, 3):
        table.feed(served(cookie, now_ns=START_NS + S))
    assert 1 not in table.table.connections
    table.feed(first.recv(GET, after_ns=2 * S).send(OK))
    assert table.source.actions(1) == [Action.ANNOUNCE]
    table.feed(opened(1, timestamp_ns=first.now_ns), first.recv(GET).send(OK))
    assert [each[2] for each in table.said()] == ["complete"] * 3 + ["late_attach", "complete"]
    assert table.emitted[-1][0].peering.remote == Endpoint("10.0.0.2", 40000)


def test_request_of_an_evicted_connection_is_reported_with_a_gap_and_no_error():
    table = Table(max_connections=2)
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"
    table.feed(Conversation(1).open().recv(GET), Conversation(2).open().recv(GET).send(half))
    for cookie in (3, 4):
        table.feed(opened(cookie, timestamp_ns=START_NS + S))
    assert table.said() == [("/a", None, "gap", None), ("/a", 200, "gap", None)]
    assert table.exchanges[1].response.size == len(half)


def test_sessions_that_hold_too_much_together_are_ended_largest_first():
    table = Table(max_buffered_bytes=10_000)
    for cookie in range(1, 11):
        head = b"GET /" + b"a" * 200 * cookie + b" HTTP/1.1\r\nHost: x\r\n"
        table.feed(Conversation(cookie).open().recv(head))
    table.wait(S)
    held = sum(
        each.session.buffered_bytes for each in table.table.connections.values() if each.session
    )
    assert 0 < held <= 5_000
    assert table.counters.overfull == sum(
        each.session is None for each in table.table.connections.values()
    )
    assert table.source.actions(10) == [Action.STOP]
    assert table.source.actions(1) == []


# -- faults of a parser -----------------------------------------------------------------


class Faulty(Http1Parser):
    """Fails as no parser may."""

    def parse(self, reader, kind, request):
        if b"/boom" in reader.data:
            raise ZeroDivisionError
        return super().parse(reader, kind, request)


def test_fault_of_a_parser_ends_its_connection_only_and_is_logged_once(caplog):
    table = Table(parsers={"faulty": Faulty}, strict=False)
    with caplog.at_level(logging.ERROR):
        for cookie in (1, 2):
            conversation = Conversation(cookie).open().recv(GET).recv(request("/boom"))
            table.feed(conversation.send(OK))
        table.feed(served(3))
    assert table.said() == [("/a", 200, "complete", None)]
    assert table.counters.failed == 2
    assert table.counters.unreported == 2
    assert table.source.actions(1)[-1] == Action.STOP
    (record,) = caplog.records
    assert "http" in record.getMessage()
    assert record.exc_info is not None


def test_fault_of_a_parser_comes_out_where_tests_ask_for_it():
    table = Table(parsers={"faulty": Faulty})
    with pytest.raises(ZeroDivisionError):
        table.feed(Conversation().open().recv(request("/boom")))


# -- recording --------------------------------------------------------------------------


def test_session_is_there_to_be_asked_until_the_next_batch():
    table = Table(keep=True)
    table.feed(served().close())
    session = table.table.session_of(1)
    assert session.kept
    table.wait(S)
    assert table.table.session_of(1) is session, "it ended in this batch"
    table.wait(S)
    assert table.table.session_of(1) is None
