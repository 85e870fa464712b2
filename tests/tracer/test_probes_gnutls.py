# SPDX-License-Identifier: Apache-2.0
"""What is seen inside GnuTLS, called as C programs call it."""

from __future__ import annotations

import ctypes
import random
import socket
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ssize_t, c_uint, c_void_p
from functools import cache

import pytest

from tests.tracer.openssl import certificate_path
from tracer.events import EGRESS, INGRESS, INNER, Cause

pytestmark = pytest.mark.kernel

SERVER, CLIENT = 1, 2
CERTIFICATE = 1
PEM = 1
AGAIN = -28
PROTOTYPES = {
    "gnutls_init": (c_int, (POINTER(c_void_p), c_uint)),
    "gnutls_deinit": (None, (c_void_p,)),
    "gnutls_certificate_allocate_credentials": (c_int, (POINTER(c_void_p),)),
    "gnutls_certificate_set_x509_key_file": (c_int, (c_void_p, c_char_p, c_char_p, c_int)),
    "gnutls_set_default_priority": (c_int, (c_void_p,)),
    "gnutls_credentials_set": (c_int, (c_void_p, c_int, c_void_p)),
    "gnutls_transport_set_int2": (None, (c_void_p, c_int, c_int)),
    "gnutls_handshake": (c_int, (c_void_p,)),
    "gnutls_record_send": (c_ssize_t, (c_void_p, c_char_p, c_size_t)),
    "gnutls_record_recv": (c_ssize_t, (c_void_p, c_void_p, c_size_t)),
    "gnutls_record_cork": (None, (c_void_p,)),
    "gnutls_record_uncork": (c_int, (c_void_p, c_uint)),
}


@cache
def gnutls():
    try:
        lib = ctypes.CDLL("libgnutls.so.30")
    except OSError as error:
        pytest.skip(f"GnuTLS cannot be loaded: {error}")
    for name, (result, arguments) in PROTOTYPES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


@cache
def credentials():
    lib, made = gnutls(), c_void_p()
    assert lib.gnutls_certificate_allocate_credentials(byref(made)) == 0
    path = certificate_path().encode()
    assert lib.gnutls_certificate_set_x509_key_file(made, path, path, PEM) >= 0
    return made


class Session:
    def __init__(self, flags, sock):
        lib = self.lib = gnutls()
        self.sock, self.pointer = sock, c_void_p()
        assert lib.gnutls_init(byref(self.pointer), flags) == 0
        assert lib.gnutls_set_default_priority(self.pointer) == 0
        assert lib.gnutls_credentials_set(self.pointer, CERTIFICATE, credentials()) == 0
        lib.gnutls_transport_set_int2(self.pointer, sock.fileno(), sock.fileno())

    def send(self, data, size=None):
        return self.lib.gnutls_record_send(self.pointer, data, len(data) if size is None else size)

    def receive(self, size=65536):
        room = ctypes.create_string_buffer(size)
        while (count := self.lib.gnutls_record_recv(self.pointer, room, size)) == AGAIN:
            assert self.sock.getblocking()  # a ticket came and no data
        assert count >= 0
        return room.raw[:count]

    def drain(self):
        """Receive what is there."""
        self.sock.setblocking(False)
        room = ctypes.create_string_buffer(65536)
        while self.lib.gnutls_record_recv(self.pointer, room, len(room)) > 0:
            pass


@pytest.fixture
def sessions(pair):
    """A client and a server that have shaken hands."""
    sockets = pair("tcp4")
    ends = [Session(flags, sock) for flags, sock in zip((CLIENT, SERVER), sockets, strict=True)]
    for sock in sockets:
        sock.setblocking(False)
    waiting = list(ends)
    for _ in range(1000):
        for end in list(waiting):
            result = end.lib.gnutls_handshake(end.pointer)
            assert result in {0, AGAIN}
            if result == 0:
                waiting.remove(end)
    assert not waiting
    for sock in sockets:
        sock.setblocking(True)
    yield ends
    for end in ends:
        end.lib.gnutls_deinit(end.pointer)


def test_conversation_is_seen_at_both_ends_as_it_was(tls_capture, sessions):
    client, server = sessions
    for speaker, listener, text in (
        (client, server, b"question"),
        (client, server, b"and more"),
        (server, client, b"answer" * 700),
    ):
        assert speaker.send(text) == len(text)
        assert listener.receive() == text
    for end, sent in ((client, EGRESS), (server, INGRESS)):
        transfers = tls_capture.plain(end.sock)
        assert [(each.direction, each.turn, each.data) for each in transfers] == [
            (sent, 1, b"question"),
            (sent, 1, b"and more"),
            (1 - sent, 2, (b"answer" * 700)[:4096]),
        ]
        cookie = tls_capture.identity(end.sock)
        (opened,) = [each for each in tls_capture.inner_opened() if each.carrier == cookie]
        assert (opened.role, opened.flags) == (1 if end is client else 2, INNER)


def test_corked_messages_are_seen_once(tls_capture, sessions):
    client, server = sessions
    client.lib.gnutls_record_cork(client.pointer)
    for text in (b"one ", b"two"):
        assert client.send(text) == len(text)
    assert client.lib.gnutls_record_uncork(client.pointer, 1) == 7
    assert server.receive() == b"one two"
    sent = b"".join(each.data for each in tls_capture.plain(client.sock))
    assert sent == b"one two"
    assert tls_capture.plain(server.sock)[0].data == b"one two"


def test_send_that_is_tried_again_without_its_buffer_is_a_gap(tls_capture, sessions):
    """GnuTLS keeps what would block, and is told to go on with no buffer."""
    client, server = sessions
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    client.sock.setblocking(False)
    before = tls_capture.counter(Cause.FAULT)
    texts, gaps = [], []
    generator = random.Random(5)
    while len(gaps) < 2:
        texts.append(generator.randbytes(16_000))
        count = client.send(texts[-1])
        if count == AGAIN:
            while count == AGAIN:
                server.drain()
                count = client.send(None, 0)
            gaps.append(len(texts) - 1)
        assert count == 16_000
    transfers = tls_capture.plain(client.sock)
    assert [each.size for each in transfers] == [16_000] * len(texts)
    for number, each in enumerate(transfers):
        assert each.position == 16_000 * number
        expected = (Cause.FAULT, b"") if number in gaps else (0, texts[number][:4096])
        assert (each.cause, each.data) == expected
    after = tls_capture.counter(Cause.FAULT)
    assert after.bytes - before.bytes == 16_000 * len(gaps)


def test_session_that_ends_closes_its_stream(tls_capture, sessions):
    client, server = sessions
    client.send(b"x")
    server.receive()
    (cookie,) = tls_capture.inner(client.sock)
    client.lib.gnutls_deinit(client.pointer)
    assert len(tls_capture.closed(cookie)) == 1
    assert client.lib.gnutls_init(byref(client.pointer), CLIENT) == 0  # for the end of the test
