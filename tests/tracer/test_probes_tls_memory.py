# SPDX-License-Identifier: Apache-2.0
"""Objects that work on memory, while the program moves the records: the right socket, or none."""

from __future__ import annotations

import os
import queue
import threading
from contextlib import suppress

import pytest

from tests.tracer import openssl
from tests.tracer.carriers import ask, bound, connected, destroy, in_thread, make_ends, wrong
from tests.tracer.conftest import Capture
from tests.tracer.openssl import WantsMoreError, context, is_readable, shake_memory
from tracer.events import LATE

pytestmark = pytest.mark.kernel

STOCK = 60
"""Connections that are older than the capture, for all tests of this module together."""


class Older:
    """A capture, and connections on memory that are older than it."""

    def __init__(self, kind):
        # TLS 1.2 has no tickets behind the handshake, so that nothing waits to be read.
        contexts = [context(server=server, version=openssl.TLS_1_2) for server in (False, True)]
        self.stock = [make_ends(contexts=contexts) for _ in range(STOCK)]
        for ends in self.stock:
            shake_memory(*ends)
            for end in ends:
                if is_readable(end.sock):
                    end.fill()
        self.used = []
        self.capture = Capture(payload_source=kind, pids=(os.getpid(),), tls=True)

    def take(self):
        self.used.append(self.stock.pop())
        return self.used[-1]

    def close(self):
        self.capture.close()
        for ends in self.stock + self.used:
            destroy(ends)


@pytest.fixture(scope="module")
def every_older():
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = Older(kind)
        return made[kind]

    yield get
    for older in made.values():
        older.close()


@pytest.fixture
def older(kind, every_older):
    older = every_older(kind)
    older.capture.forget_thread()
    older.capture.forget_all()
    return older


def test_object_on_memory_is_bound_by_its_handshake(tls_capture, tls_ends):
    client, server = tls_ends()
    shake_memory(client, server)
    ask(client, server, b"question")
    for end, role in ((client, 1), (server, 2)):
        cookie = tls_capture.identity(end.sock)
        (opened,) = [each for each in tls_capture.inner_opened() if each.carrier == cookie]
        assert (opened.role, opened.flags & LATE) == (role, 0)
        assert [each.data for each in tls_capture.plain(end.sock)] == [b"question"]


def test_many_handshakes_at_once_in_one_thread(tls_capture, tls_ends):
    """Each object's steps follow each other, as in an event loop."""
    pairs = [tls_ends() for _ in range(10)]
    waiting = [(pair, end) for pair in pairs for end in pair]
    for _ in range(10):
        for pair, end in list(waiting):
            if is_readable(end.sock):
                end.fill()
            try:
                end.handshake()
                waiting.remove((pair, end))
            except WantsMoreError:
                pass
            end.flush()
    assert not waiting
    said = {b"text of %d" % number: pair for number, pair in enumerate(pairs)}
    for text, pair in said.items():
        ask(*pair, text)
    assert wrong(tls_capture, said) == {}
    assert bound(tls_capture, said) == 20


def test_handshakes_that_are_received_in_one_go(tls_capture, tls_ends):
    """Another order: all that has come is received before any object is given it."""
    pairs = [tls_ends() for _ in range(2)]
    for _ in range(10):
        every = [end for pair in pairs for end in pair]
        for end in every:
            with suppress(WantsMoreError):
                end.handshake()
        for end in every:
            end.flush()
        for end in every:
            if is_readable(end.sock):
                end.fill()
    said = {b"text of %d" % number: pair for number, pair in enumerate(pairs)}
    for text, pair in said.items():
        ask(*pair, text)
    assert wrong(tls_capture, said) == {}


def test_older_connections_in_turn(older):
    """Ten at once in one thread, messages of all sizes: an event loop that is met running."""
    pairs = [older.take() for _ in range(10)]
    said = {}
    for turn in range(8):
        for number, pair in enumerate(pairs):
            text = b"%d/%d " % (turn, number) * (1 + 37 * (turn + number) % 300)
            said[text] = pair if turn % 2 else pair[::-1]
            ask(*said[text], text)
    assert wrong(older.capture, said) == {}
    assert bound(older.capture, said) >= 140


def test_older_connections_that_speak_alike(older):
    pairs = [older.take() for _ in range(3)]
    said = {}
    for turn in range(6):
        for number, pair in enumerate(pairs):
            text = b"turn %d of %d" % (turn, number)
            said[text] = pair if turn % 2 else pair[::-1]
            ask(*said[text], text)
    assert wrong(older.capture, said) == {}
    assert bound(older.capture, said) >= 30


def test_older_connections_received_in_one_go(older):
    """Two connections, records of one size, both received before either object reads."""
    pairs = [older.take() for _ in range(2)]
    said = {}
    for turn in range(4):
        for number, (client, _) in enumerate(pairs):
            text = b"turn %d of %d" % (turn, number)
            said[text] = pairs[number]
            client.write(text)
            client.flush()
        for _, server in pairs:
            server.fill()
        for _, server in pairs:
            server.read()
    assert wrong(older.capture, said) == {}


def test_older_connections_sent_in_one_go(older):
    pairs = [older.take() for _ in range(2)]
    said = {}
    for turn in range(4):
        for number, (client, _) in enumerate(pairs):
            text = b"turn %d of %d" % (turn, number)
            said[text] = pairs[number]
            client.write(text)
        for client, _ in pairs:
            client.flush()
        for _, server in pairs:
            server.fill()
            server.read()
    assert wrong(older.capture, said) == {}


def test_older_connections_whose_records_come_in_parts(older):
    """Two downloads, met in the middle: full records, each received in two pieces."""
    pairs = [older.take() for _ in range(2)]
    said = {}
    for turn in range(6):
        pieces = []
        for number, (client, _) in enumerate(pairs):
            text = b"%d of %d " % (turn, number) * 3000
            said[text[:4096]] = pairs[number]
            client.write(text[:16384])
            records = client.take_out()
            pieces.append((records[:9000], records[9000:]))
        for part in range(2):
            for (client, server), sent in zip(pairs, pieces, strict=True):
                client.sock.sendall(sent[part])
                server.fill()
                with suppress(WantsMoreError):
                    assert len(server.read()) == 16384
    assert wrong(older.capture, said) == {}


def test_part_of_a_record_before_the_rest_of_anothers(older):
    """The one has come in part and cannot be read; then the rest of the other comes."""
    pairs = [older.take() for _ in range(2)]
    (client, server), (other_client, other) = pairs
    said = {}
    for turn in range(4):
        texts = [b"%d of %d " % (turn, number) * 3000 for number in range(2)]
        for text, pair in zip(texts, pairs, strict=True):
            said[text[:4096]] = pair
            pair[0].write(text[:16384])
        records = client.take_out()
        client.sock.sendall(records[:9000])
        server.sock.recv_into(room := bytearray(9000), 9000)
        server.put_in(bytes(room))
        client.sock.sendall(records[9000:])
        records = other_client.take_out()
        other_client.sock.sendall(records[:9000])
        other.fill()
        with pytest.raises(WantsMoreError):
            other.read()
        server.fill()
        assert len(server.read()) == 16384
        other_client.sock.sendall(records[9000:])
        other.fill()
        assert len(other.read()) == 16384
    assert wrong(older.capture, said) == {}


@pytest.mark.parametrize("is_older", [False, True])
def test_socket_that_another_thread_serves(older, tls_ends, is_older):
    if is_older:
        client, server = older.take()
    else:
        client, server = tls_ends()
        in_thread_shake(client, server)
    said = {}
    for turn in range(3):
        said[text := b"turn %d" % turn] = client, server
        client.write(text)
        in_thread(client.flush)
        in_thread(server.fill)
        assert server.read() == text
    assert wrong(older.capture, said) == {}


def in_thread_shake(client, server):
    waiting = [client, server]
    for _ in range(10):
        for end in (client, server):
            if end in waiting:
                with suppress(WantsMoreError):
                    end.handshake()
                    waiting.remove(end)
            in_thread(end.flush)
        for end in (client, server):
            if is_readable(end.sock):
                in_thread(end.fill)
        if not waiting:
            return


def test_two_threads_that_serve_each_others_sockets(older):
    """Both receive, and each is handed what the other has received."""
    pairs = [older.take() for _ in range(2)]
    steps = [queue.SimpleQueue() for _ in range(2)]
    done = queue.SimpleQueue()

    def work(mine):
        for action in iter(mine.get, None):
            action()
            done.put(1)

    threads = [threading.Thread(target=work, args=(each,)) for each in steps]
    for thread in threads:
        thread.start()

    def run(thread, action):
        steps[thread].put(action)
        done.get(timeout=5)

    said = {}
    for turn in range(3):
        for number, (client, server) in enumerate(pairs):
            said[text := b"turn %d of %d" % (turn, number)] = client, server
            run(number, lambda c=client, t=text: (c.write(t), c.flush()))
            run(number, server.fill)
        for number, (_, server) in enumerate(pairs):
            run(1 - number, server.read)
    for each, thread in zip(steps, threads, strict=True):
        each.put(None)
        thread.join()
    assert wrong(older.capture, said) == {}


def test_relay_that_passes_ciphertext_on_is_no_carrier(tls_capture, tls_ends):
    """A thread begins a handshake that another sends; then it relays what others encrypt."""
    client, server = tls_ends()
    outer = tls_ends()
    with suppress(WantsMoreError):
        client.handshake()
    records = client.take_out()
    in_thread(lambda: client.sock.sendall(records))
    # What this thread sends next comes from elsewhere, and is a handshake too.
    relayed, received = connected()
    relayed.sendall(records)
    server.fill()
    with suppress(WantsMoreError):
        server.handshake()
    server.flush()
    client.fill()
    client.handshake()
    client.flush()
    server.fill()
    server.handshake()
    server.flush()
    ask(client, server, b"text")
    said = {b"text": (client, server)}
    for sock in (relayed, received):
        sock.close()
    assert wrong(tls_capture, said) == {}
    del outer


def test_relay_that_receives_ciphertext_is_no_carrier(tls_capture, tls_ends):
    """A thread relays a hello, then begins a handshake of its own, as an HTTP proxy may."""
    alien, relayed = connected()
    other, _ = tls_ends()
    with suppress(WantsMoreError):
        other.handshake()
    in_thread(lambda: alien.sendall(other.take_out()))
    relayed.recv(5000)
    client, server = tls_ends()
    shake_memory(client, server)
    ask(client, server, b"text")
    said = {b"text": (client, server)}
    for sock in (alien, relayed):
        sock.close()
    assert wrong(tls_capture, said) == {}
