# SPDX-License-Identifier: Apache-2.0
"""Sockets that are wanted whole: up to 128 KiB of each transfer, and of no other socket."""

from __future__ import annotations

import ctypes
import os
import random
import socket
import threading

import pytest

from tracer.events import EGRESS, MAX_WHOLE, Action, Cause

pytestmark = pytest.mark.kernel

libc = ctypes.CDLL(None)
SNAPLEN = 4096
TEXT = random.Random(7).randbytes(MAX_WHOLE + 5000)
ROOM = (3, 4093, 1, 100_000, 31_071, 40_000)
"""Buffers: an edge at the snap length, one at 100 KiB and more, one across the bound."""


def cut_into(text, sizes):
    """The text in parts of these sizes; the last takes the rest."""
    parts = []
    for size in sizes[:-1]:
        parts.append(text[:size])
        text = text[size:]
    return [*parts, b"", text]


SENDERS = {
    "write": lambda sock, text: os.write(sock.fileno(), text),
    "writev": lambda sock, text: os.writev(sock.fileno(), cut_into(text, ROOM)),
    "sendto": lambda sock, text: sock.send(text),
    "sendmsg": lambda sock, text: sock.sendmsg(cut_into(text, ROOM)),
}
RECEIVERS = {
    "read": lambda sock: len(os.read(sock.fileno(), len(TEXT))),
    "readv": lambda sock: os.readv(sock.fileno(), [bytearray(size) for size in ROOM]),
    "recvfrom": lambda sock: len(sock.recv(len(TEXT))),
    "recvmsg": lambda sock: sock.recvmsg_into([bytearray(size) for size in ROOM])[0],
}


def pass_on(client, server, *, sender="sendto", receiver="recvfrom", text=TEXT):
    """Send the text in one call, and receive it in as many as it takes."""
    sending = threading.Thread(target=SENDERS[sender], args=(client, text))
    sending.start()
    left = len(text)
    while left:
        left -= RECEIVERS[receiver](server)
    sending.join()


def assert_captured(found, limit, text=TEXT):
    """Each transfer shows its first bytes, up to the limit, and they are the right ones."""
    at = 0
    for event in found:
        assert event.cause == Cause.DELIVERED
        assert event.data == text[at : at + min(event.size, limit)]
        at += event.size
    assert at == len(text)


def want_whole(capture, *ends, action=Action.FULL, direction=0, until=0):
    for end in ends:
        capture.source.advise(capture.identity(end), action, direction, until, whole=True)


def is_whole(capture, sock):
    """Whether the next transfer that a socket sends is delivered beyond the snap length."""
    before = len(capture.sent(sock))
    sock.send(TEXT[:10_000])
    (event,) = capture.sent(sock)[before:]
    assert len(event.data) in {SNAPLEN, 10_000}
    return len(event.data) == 10_000


@pytest.mark.parametrize("sender", SENDERS)
@pytest.mark.parametrize("transport", ["tcp4", "unix"])
def test_what_is_sent_is_captured_up_to_the_bound(capture, pair, transport, sender):
    client, server = pair(transport)
    want_whole(capture, client)
    pass_on(client, server, sender=sender)
    assert_captured(capture.sent(client), MAX_WHOLE)
    assert max(len(event.data) for event in capture.sent(client)) == MAX_WHOLE
    assert_captured(capture.received(server), SNAPLEN)


@pytest.mark.parametrize("receiver", RECEIVERS)
@pytest.mark.parametrize("transport", ["tcp4", "unix"])
def test_what_is_received_is_captured_up_to_the_bound(capture, pair, transport, receiver):
    client, server = pair(transport)
    want_whole(capture, server)
    pass_on(client, server, receiver=receiver)
    assert_captured(capture.received(server), MAX_WHOLE)
    assert max(len(event.data) for event in capture.received(server)) > SNAPLEN
    assert_captured(capture.sent(client), SNAPLEN)


@pytest.mark.parametrize("size", [4095, 4096, 4097, 65_536, MAX_WHOLE - 1, MAX_WHOLE])
def test_transfer_within_the_bound_is_there_to_the_last_byte(capture, pair, size):
    client, server = pair("unix")
    want_whole(capture, client, server)
    pass_on(client, server, sender="writev", text=TEXT[:size])
    (sent,) = capture.sent(client)
    assert sent.data == TEXT[:size]
    assert b"".join(event.data for event in capture.received(server)) == TEXT[:size]


def test_1024_large_iovecs_are_followed_up_to_the_bound(capture, pair):
    client, server = pair("tcp4")
    want_whole(capture, client)
    parts = [TEXT[start : start + 130] for start in range(0, 1024 * 130, 130)]
    assert len(parts) == 1024
    sending = threading.Thread(target=os.writev, args=(client.fileno(), parts))
    sending.start()
    server.recv(1024 * 130, socket.MSG_WAITALL)
    sending.join()
    assert_captured(capture.sent(client), MAX_WHOLE, TEXT[: 1024 * 130])


def test_datagram_keeps_its_peer_before_a_large_payload(capture, pair):
    client, server = pair("udp4")
    want_whole(capture, client)
    client.send(TEXT[:60_000])
    server.recv(60_000)
    (sent,) = capture.sent(client)
    assert sent.data == TEXT[:60_000]


def test_wish_is_taken_back(capture, pair):
    client, server = pair("tcp4")
    want_whole(capture, client)
    assert is_whole(capture, client)
    capture.source.advise(capture.identity(client), Action.FULL)
    assert not is_whole(capture, client)
    want_whole(capture, client)
    assert is_whole(capture, client)
    capture.source.forget(capture.identity(client))
    assert not is_whole(capture, client)
    server.recv(50_000)


def test_wish_outlasts_the_verdicts_of_others(capture, pair):
    client, _ = pair("tcp4")
    want_whole(capture, client)
    for cookie in (1, 2, 3):
        capture.source.advise(cookie, Action.STOP)
        assert is_whole(capture, client)
        capture.source.forget(cookie)


def test_socket_is_whole_again_after_a_skip(capture, pair):
    client, server = pair("tcp4")
    client.send(b"head")
    (head,) = capture.sent(client)
    until = head.position + 4 + 250 & 0xFFFFFFFF
    want_whole(capture, client, action=Action.SKIP, direction=EGRESS, until=until)
    for _ in range(2):
        client.send(b"x" * 100)  # inside the body
    client.send(TEXT[:10_000])  # from inside the body to behind it
    assert [len(event.data) for event in capture.sent(client)] == [4, 10_000]
    # The map still says so, when a change of it has the kernel look again.
    capture.source.forget(1)
    assert is_whole(capture, client)
    assert is_whole(capture, client)
    server.recv(50_000)


def test_other_direction_is_whole_during_a_skip(capture, pair):
    client, server = pair("tcp4")
    client.send(b"head")
    (head,) = capture.sent(client)
    until = head.position + 1000 & 0xFFFFFFFF
    want_whole(capture, client, action=Action.SKIP, direction=EGRESS, until=until)
    server.send(TEXT[:10_000])
    client.recv(10_000, socket.MSG_WAITALL)
    assert_captured(capture.received(client), MAX_WHOLE, TEXT[:10_000])


def test_socket_that_announces_itself_is_whole_and_stays_so(capture, pair):
    client, _ = pair("tcp4")
    client.send(b"x")
    want_whole(capture, client, action=Action.ANNOUNCE)
    assert is_whole(capture, client)
    assert len(capture.opened(client)) == 2
    capture.source.forget(1)
    assert is_whole(capture, client)
    assert len(capture.opened(client)) == 2, "announced again"


def test_socket_that_connects_again_begins_anew(capture):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        cookie = capture.identity(client)
        client.connect(listener.getsockname())
        want_whole(capture, client)
        assert is_whole(capture, client)
        # AF_UNSPEC ends the connection and keeps the socket.
        assert libc.connect(client.fileno(), bytes(16), 16) == 0
        assert capture.identity(client) == cookie
        client.connect(listener.getsockname())
        assert not is_whole(capture, client)


@pytest.fixture
def unjudged(capturing, kind):
    """A capture that takes 100 KiB of what it does not know, and a listener."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield capturing(payload_source=kind, pids=(os.getpid(),), first_bytes=100 << 10), listener


def connect(listener):
    client = socket.create_connection(listener.getsockname())
    return client, listener.accept()[0]


def test_first_bytes_of_a_connection_are_captured_until_they_are_spent(unjudged):
    capture, listener = unjudged
    client, server = connect(listener)
    with client, server:
        text = TEXT[:30_000]
        for number in range(6):
            client.sendall(text)
            received = 0
            while received < len(text):
                received += len(server.recv(len(text)))
            sizes = [len(each.data) for each in capture.sent(client)]
            assert sizes[-1] == (len(text) if number < 4 else SNAPLEN)


@pytest.mark.parametrize("action", [Action.FULL, Action.SKIP])
def test_after_a_verdict_it_alone_counts(unjudged, action):
    capture, listener = unjudged
    client, server = connect(listener)
    with client, server:
        assert is_whole(capture, client)
        capture.source.advise(capture.identity(client), action)
        assert not is_whole(capture, client)
        capture.source.forget(1)
        assert not is_whole(capture, client)
        want_whole(capture, client)
        assert is_whole(capture, client)


def test_small_transfers_spend_nothing(unjudged):
    capture, listener = unjudged
    client, server = connect(listener)
    with client, server:
        for _ in range(100):
            client.sendall(TEXT[:SNAPLEN])
            server.recv(SNAPLEN)
        assert is_whole(capture, client)
