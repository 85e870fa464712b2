# SPDX-License-Identifier: Apache-2.0
"""What is seen inside OpenSSL: every byte once, as the program moved it, and nothing else."""

from __future__ import annotations

import ctypes
import random
import socket
import threading
from contextlib import suppress

import pytest

from tests.tracer import openssl
from tests.tracer.openssl import WANT_READ, WANT_WRITE, End, WantsMoreError, context, shake
from tracer.events import EGRESS, INGRESS, INNER, INNER_BIT, TURN_START, Action, Cause, DataEvent

pytestmark = pytest.mark.kernel

SNAPLEN = 4096
SEALED_AFTER = 40
"""Transfers of which some are still delivered as the socket has them."""
TEXT = random.Random(11).randbytes(100_000)
BOTH = (openssl.TLS_1_2, openssl.TLS_1_3)


@pytest.fixture
def ends():
    """Make a client and a server that have shaken hands over a pair of sockets."""
    made = []

    def make(sockets, **options):
        client = End(context(server=False, **options), sockets[0])
        made.append(client)
        server = End(context(server=True, **options), sockets[1])
        made.append(server)
        shake(client, server)
        return client, server

    yield make
    for end in made:
        end.free()


def moved(transfers):
    """Of each transfer: direction, position, size, turn, whether it begins the turn."""
    return [
        (each.direction, each.position, each.size, each.turn, bool(each.flags & TURN_START))
        for each in transfers
    ]


def spoken(capture):
    """All transfers of all TLS objects."""
    inner = {each.cookie for each in capture.inner_opened()}
    return [each for each in capture.poll() if isinstance(each, DataEvent) and each.cookie in inner]


def read_all(end, size, step=1 << 17):
    """Read so many bytes, in calls with room for `step`."""
    found = b""
    while len(found) < size:
        found += end.read(min(step, size - len(found)))
    return found


# Data


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("calls", [("read", "write"), ("read_ex", "write_ex")])
def test_conversation_is_seen_at_both_ends_as_it_was(tls_capture, pair, ends, calls, version):
    read, write = calls
    client, server = ends(pair("tcp4"), version=version)
    said = [(client, server, b"question"), (client, server, b" and more"), (server, client, b"A")]
    said += [(client, server, b"again"), (server, client, b"B" * 3000)]
    for speaker, listener, text in said:
        assert getattr(speaker, write)(text) == len(text)
        assert getattr(listener, read)() == text
    expected = [
        (EGRESS, 0, 8, 1, True),
        (EGRESS, 8, 9, 1, False),
        (INGRESS, 0, 1, 2, True),
        (EGRESS, 17, 5, 3, True),
        (INGRESS, 1, 3000, 4, True),
    ]
    transfers = tls_capture.plain(client.sock)
    assert moved(transfers) == expected
    assert [each.data for each in transfers] == [text for _, _, text in said]
    transfers = tls_capture.plain(server.sock)
    assert moved(transfers) == [(1 - way, *rest) for way, *rest in expected]
    assert [each.data for each in transfers] == [text for _, _, text in said]
    assert {each.tid for each in transfers} == {threading.get_native_id()}


def test_stream_opens_once_with_its_socket(tls_capture, pair, ends):
    client, server = ends(pair("tcp4"))
    for _ in range(3):
        client.write(b"x")
        server.read()
    for end, role in ((client, 1), (server, 2)):
        (opened,) = [
            each
            for each in tls_capture.inner_opened()
            if each.carrier == tls_capture.identity(end.sock)
        ]
        assert (opened.role, opened.transport, opened.flags) == (role, 1, INNER)
        assert (opened.egress_position, opened.ingress_position) == (0, 0)
        assert opened.cookie & INNER_BIT


def test_unix_socket_carries_tls_too(tls_capture, pair, ends):
    client, server = ends(pair("unix"))
    client.write(b"over unix")
    assert server.read() == b"over unix"
    for end in (client, server):
        assert [each.data for each in tls_capture.plain(end.sock)] == [b"over unix"]


def test_peek_moves_nothing(tls_capture, pair, ends):
    client, server = ends(pair("tcp4"))
    client.write(b"one")
    for _ in range(3):
        assert server.peek() == b"one"
    assert spoken(tls_capture)[-1].direction == EGRESS
    assert server.read() == b"one"
    (seen,) = tls_capture.plain(server.sock)
    assert seen.data == b"one"


def test_read_that_would_block_moves_nothing(tls_capture, pair, ends):
    client, server = ends(pair("tcp4"))
    server.sock.setblocking(False)
    for read in (server.read, server.read_ex, server.peek):
        with pytest.raises(WantsMoreError) as wanted:
            read()
        assert wanted.value.args == (WANT_READ,)
    assert spoken(tls_capture) == []
    client.write(b"x")
    assert server.read_ex() == b"x"
    assert [each.data for each in tls_capture.plain(server.sock)] == [b"x"]


@pytest.mark.parametrize("write", ["write", "write_ex"])
@pytest.mark.parametrize("partial", [0, openssl.PARTIAL_WRITE])
def test_write_that_is_tried_again_is_seen_once(tls_capture, pair, ends, write, partial):
    """The buffer of the socket is full; then the same call is made again until it is done."""
    client, server = ends(pair("tcp4"), mode=openssl.MOVING_BUFFER | partial)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    client.sock.setblocking(False)
    counts, refused, sent, received = [], [], b"", b""
    rest = TEXT * 10
    while rest:
        try:
            count = getattr(client, write)(rest[:70_000])
        except WantsMoreError as wanted:
            refused.append(wanted.args)
            server.sock.setblocking(False)
            with suppress(WantsMoreError):
                while True:
                    received += server.read(50_000)
            continue
        counts.append(count)
        sent += rest[:count]
        rest = rest[count:]
    server.sock.setblocking(True)
    received += read_all(server, len(sent) - len(received))
    assert received == sent == TEXT * 10
    assert len(refused) > 3
    assert set(refused) == {(WANT_WRITE,)}
    if partial:
        assert min(counts) < 70_000
    transfers = tls_capture.plain(client.sock)
    assert [each.size for each in transfers] == counts
    at = 0
    for each in transfers:
        assert each.position == at
        assert each.data == sent[at : at + SNAPLEN][: each.size]
        at += each.size
    assert sum(each.size for each in tls_capture.plain(server.sock)) == len(sent)


def test_empty_calls_move_nothing(tls_capture, pair, ends):
    client, server = ends(pair("tcp4"))
    client.write_ex(b"")
    with suppress(WantsMoreError):
        client.write(b"")
    client.write(b"x")
    with suppress(WantsMoreError):
        server.read(0)
    assert server.read() == b"x"
    for end in (client, server):
        assert moved(tls_capture.plain(end.sock)) == [
            (EGRESS if end is client else INGRESS, 0, 1, 1, True)
        ]


def test_large_write_is_one_transfer_and_its_reads_are_records(tls_capture, pair, ends):
    client, server = ends(pair("tcp4"))
    thread = threading.Thread(target=client.write, args=(TEXT,))
    thread.start()
    assert read_all(server, len(TEXT)) == TEXT
    thread.join()
    (sent,) = tls_capture.plain(client.sock)
    assert (sent.size, sent.data) == (len(TEXT), TEXT[:SNAPLEN])
    received = tls_capture.plain(server.sock)
    assert [each.size for each in received] == [16384] * 6 + [len(TEXT) - 6 * 16384]
    at = 0
    for each in received:
        assert (each.position, each.data) == (at, TEXT[at : at + SNAPLEN][: each.size])
        at += each.size


def test_record_is_read_in_pieces(tls_capture, pair, ends):
    client, server = ends(pair("tcp4"))
    client.write(TEXT[:1000])
    for size in (1, 10, 489, 500):
        assert len(server.read(size)) == size
    assert [each.size for each in tls_capture.plain(server.sock)] == [1, 10, 489, 500]
    assert b"".join(each.data for each in tls_capture.plain(server.sock)) == TEXT[:1000]


def test_stream_that_is_wanted_whole_is_whole(tls_capture, pair, ends):
    client, server = ends(pair("tcp4"))
    client.write(b"x")
    server.read()
    for end in (client, server):
        tls_capture.source.advise(tls_capture.inner(end.sock)[0], Action.FULL, whole=True)
    thread = threading.Thread(target=client.write, args=(TEXT,))
    thread.start()
    read_all(server, len(TEXT))
    thread.join()
    assert tls_capture.plain(client.sock)[1].data == TEXT
    assert b"".join(each.data for each in tls_capture.plain(server.sock)[1:]) == TEXT


def resumable(pair, contexts):
    """A session that a client may begin another connection with."""
    client, server = End(contexts[0], pair[0]), End(contexts[1], pair[1])
    shake(client, server)
    server.write(b"x")
    client.read()  # the ticket came before
    session = client.lib.SSL_get1_session(client.pointer)
    for end in (client, server):
        end.shutdown()  # else it is none that can be resumed
        end.free()
    return session


def test_early_data_is_seen_once(tls_capture, pair):
    lib = openssl.openssl()
    contexts = [openssl.Context(server=server, version=openssl.TLS_1_3) for server in (False, True)]
    assert lib.SSL_CTX_set_max_early_data(contexts[1].pointer, 10_000) == 1
    session = resumable(pair("tcp4"), contexts)
    sockets = pair("tcp4")
    client, server = End(contexts[0], sockets[0]), End(contexts[1], sockets[1])
    assert lib.SSL_set_session(client.pointer, session) == 1
    lib.SSL_SESSION_free(session)
    tls_capture.forget_all()

    count = ctypes.c_size_t()
    assert lib.SSL_write_early_data(client.pointer, b"early", 5, ctypes.byref(count)) == 1
    for end in (client, server):
        end.sock.setblocking(False)
    room = ctypes.create_string_buffer(100)
    assert lib.SSL_read_early_data(server.pointer, room, 100, ctypes.byref(count)) == 1
    assert room.raw[: count.value] == b"early"
    with suppress(WantsMoreError):
        client.handshake()
    while lib.SSL_read_early_data(server.pointer, room, 100, ctypes.byref(count)) == 0:
        with suppress(WantsMoreError):
            client.handshake()
    shake(client, server)
    assert lib.SSL_get_early_data_status(client.pointer) == openssl.EARLY_DATA_ACCEPTED
    client.write(b"late")
    assert server.read() == b"late"
    server.write(b"done")
    assert client.read() == b"done"
    said = [b"early", b"late", b"done"]
    for end in (client, server):
        assert [each.data for each in tls_capture.plain(end.sock)] == said
        end.free()


# What comes of the ciphertext


def test_ciphertext_is_counted_and_not_delivered(tls_capture, pair, ends):
    client, server = ends(pair("tcp4"))
    for _ in range(SEALED_AFTER):
        client.write(b"first")
        server.read()
    tls_capture.forget_all()
    before = tls_capture.counter(Cause.CIPHERTEXT)
    for _ in range(5):
        client.write(b"x" * 100)
        assert server.read() == b"x" * 100
    after = tls_capture.counter(Cause.CIPHERTEXT)
    data = [each for each in tls_capture.poll() if isinstance(each, DataEvent)]
    assert all(each.cookie & INNER_BIT for each in data)
    assert len(data) == 10
    assert after.bytes - before.bytes == 2 * 5 * (5 + 100 + 17)
    assert after.events - before.events == 5 + 10


def test_handshake_is_delivered_as_the_socket_has_it(tls_capture, pair, ends):
    client, server = ends(pair("tcp4"))
    client.write(b"x")
    server.read()
    hello = b"".join(each.data for each in tls_capture.sent(client.sock))
    assert hello[:1] == b"\x16"
    got = b"".join(each.data for each in tls_capture.received(server.sock))
    assert hello[: len(got)] == got[: len(hello)]


# Verdicts


def exchange(client, server, text=b"x" * 100):
    client.write(text)
    assert read_all(server, len(text)) == text


def test_stopped_stream_says_nothing_more(tls_capture, pair, ends):
    client, server = ends(pair("tcp4"))
    exchange(client, server)
    (cookie,) = tls_capture.inner(client.sock)
    tls_capture.source.advise(cookie, Action.STOP)
    before = tls_capture.counter(Cause.STOPPED)
    exchange(client, server)
    assert len(tls_capture.data(cookie)) == 1
    assert len(tls_capture.plain(server.sock)) == 2
    assert tls_capture.counter(Cause.STOPPED).bytes - before.bytes == 100
    client.free()
    assert len(tls_capture.closed(cookie)) == 1
    tls_capture.source.forget(cookie)


def test_skip_leaves_a_body_out(tls_capture, pair, ends):
    client, server = ends(pair("tcp4"))
    exchange(client, server)
    (cookie,) = tls_capture.inner(client.sock)
    tls_capture.source.advise(cookie, Action.SKIP, EGRESS, 350)
    for _ in range(4):
        exchange(client, server)
    assert [(each.position, each.size) for each in tls_capture.data(cookie)] == [
        (0, 100),
        (300, 100),
        (400, 100),
    ]


def test_announced_stream_sends_its_record_again(tls_capture, pair, ends):
    client, server = ends(pair("tcp4"))
    exchange(client, server)
    (cookie,) = tls_capture.inner(client.sock)
    tls_capture.source.advise(cookie, Action.ANNOUNCE)
    exchange(client, server)
    first, second = tls_capture.opened(cookie)
    assert second.carrier == first.carrier == tls_capture.identity(client.sock)
    assert second.egress_position == 100
    tls_capture.source.forget(cookie)


# Harm


def test_threads_on_one_object_lose_nothing(tls_capture, pair, ends):
    """One reads, the other writes, as HTTP/2 programs do."""
    client, server = ends(pair("tcp4"))
    before = tls_capture.counter(Cause.NO_STORAGE)
    texts = [b"%05d" % number * 20 for number in range(300)]

    def write(end):
        for text in texts:
            end.write(text)

    found = {}

    def read(end):
        found[end] = read_all(end, 300 * 100)

    # OpenSSL forbids two calls at once on one object; each end has one writer and one reader
    # that take turns.
    for speaker, listener in ((client, server), (server, client)):
        workers = [
            threading.Thread(target=write, args=(speaker,)),
            threading.Thread(target=read, args=(listener,)),
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert found[listener] == b"".join(texts)
    assert tls_capture.counter(Cause.NO_STORAGE) == before
    for end in (client, server):
        for direction in (INGRESS, EGRESS):
            seen = b"".join(each.data for each in tls_capture.plain(end.sock, direction))
            assert seen == b"".join(texts)
