# SPDX-License-Identifier: Apache-2.0
"""Objects that move their records themselves: each has the socket that it uses, and no other."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from contextlib import suppress

import pytest

from tests.tracer import openssl
from tests.tracer.carriers import ask, bound, carriers_of, connected, destroy, make_ends, wrong
from tests.tracer.openssl import (
    End,
    WantsMoreError,
    certificate_path,
    context,
    is_readable,
    shake,
    shake_memory,
)
from tracer.events import EGRESS, INGRESS, LATE

pytestmark = pytest.mark.kernel

SEALED_AFTER = 40
"""Transfers of which the ciphertext may still be delivered."""


def seal(client, server):
    """Exchange until the ciphertext is not delivered any more."""
    for _ in range(SEALED_AFTER):
        client.write(b"sealed")
        server.read()


# Objects that have a descriptor


def test_descriptor_given_before_connect(tls_capture):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        client = End(context(server=False), sock)
        sock.connect(listener.getsockname())
        accepted, _ = listener.accept()
        server = End(context(server=True), accepted)
        shake(client, server)
        client.write(b"x")
        server.read()
        (opened,) = [
            each
            for each in tls_capture.inner_opened()
            if each.carrier == tls_capture.identity(sock)
        ]
        assert (opened.role, opened.flags & LATE) == (1, 0)
        assert tls_capture.unbound() == []
        destroy([client, server])


def test_object_that_is_cleared_begins_anew_on_another_socket(tls_capture, tls_ends):
    client, server = tls_ends(memory=False)
    first = client.sock
    shake(client, server)
    client.write(b"one")
    sockets = connected()
    assert client.lib.SSL_clear(client.pointer) == 1
    client.set_fd(sockets[0])
    other = End(context(server=True), sockets[1])
    shake(client, other)
    client.write(b"two")
    assert other.read() == b"two"
    assert [each.data for each in tls_capture.plain(first)] == [b"one"]
    assert [each.data for each in tls_capture.plain(sockets[0])] == [b"two"]
    assert [each.position for each in tls_capture.plain(sockets[0])] == [0]
    assert len(tls_capture.closed(tls_capture.inner(first)[0])) == 1
    first.close()
    destroy([other])


def test_object_at_the_address_of_another_is_another(tls_capture, tls_ends):
    sockets, addresses = [], set()
    for number in range(5):
        client, server = tls_ends(memory=False)
        shake(client, server)
        addresses.add(client.pointer)
        client.write(b"%d" % number)
        server.read()
        sockets.append(client.sock)
        client.free()
        server.free()
    assert len(addresses) < 5
    for number, sock in enumerate(sockets):
        assert [each.data for each in tls_capture.plain(sock)] == [b"%d" % number]
        assert len(tls_capture.closed(tls_capture.inner(sock)[0])) == 1


def test_what_is_left_after_the_socket_was_closed_belongs_to_it(tls_capture, tls_ends):
    client, server = tls_ends(memory=False)
    shake(client, server)
    client.write(b"a" * 1000)
    assert server.read(10) == b"a" * 10
    (cookie,) = tls_capture.inner(server.sock)
    server.sock.close()
    client.sock.shutdown(socket.SHUT_WR)
    assert len(tls_capture.await_closed(cookie)) == 1
    assert server.read(10) == b"a" * 10
    assert [each.size for each in tls_capture.data(cookie)] == [10, 10]
    server.free()
    assert len(tls_capture.closed(cookie)) == 1
    assert tls_capture.unbound() == []


def test_descriptor_that_becomes_another_socket(tls_capture, tls_ends):
    """dup2 puts another connection behind the object's back."""
    client, server = tls_ends(memory=False)
    shake(client, server)
    client.write(b"one")
    server.read()
    first = tls_capture.identity(client.sock)
    sockets = connected()
    os.dup2(sockets[0].fileno(), client.sock.fileno())
    client.write(b"two")
    assert tls_capture.plain(first)[0].data == b"one"
    assert [each.data for each in tls_capture.plain(first)] == [b"one"]
    assert [each.data for each in tls_capture.plain(sockets[0])] == [b"two"]
    for sock in sockets:
        sock.close()


def test_socket_goes_on_in_clear_after_its_object_is_freed(tls_capture, tls_ends):
    client, server = tls_ends(memory=False)
    shake(client, server)
    seal(client, server)
    for end in (client, server):
        end.shutdown()
    for end in (client, server):
        end.free()
    client.sock.sendall(b"in clear")
    while b"in clear" not in server.sock.recv(1000):
        pass
    assert tls_capture.sent(client.sock)[-1].data == b"in clear"
    assert tls_capture.received(server.sock)[-1].data.endswith(b"in clear")


def test_second_object_on_one_socket_is_bound_too(tls_capture, tls_ends):
    first = tls_ends(memory=False)
    shake(*first)
    seal(*first)
    sockets = [end.sock for end in first]
    for end in first:
        end.free()
    while is_readable(sockets[0]):
        sockets[0].recv(5000)
    second = tls_ends(sockets, memory=True)
    shake_memory(*second)
    ask(*second, b"second")
    assert wrong(tls_capture, {b"second": second}) == {}
    assert bound(tls_capture, {b"second": second}) == 2


def test_child_goes_on_with_what_its_parent_began(tls_capture, tls_ends, child):
    client, server = tls_ends(memory=False)
    shake(client, server)
    client.write(b"parent")
    server.read()

    def work():
        client.write(b"child one")
        client.write(b"child two")

    with child(work) as result:
        result()
    server.read()
    server.read()
    said = dict.fromkeys([b"parent", b"child one", b"child two"], (client, server))
    assert wrong(tls_capture, said) == {}
    assert bound(tls_capture, said) == 6


# Calls inside of calls


def test_tls_inside_of_tls(tls_capture):
    """As to a server behind a proxy that speaks TLS itself."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate_path())
    client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_side.check_hostname = False
    client_side.verify_mode = ssl.CERT_NONE
    sockets = connected()
    identities = [tls_capture.identity(sock) for sock in sockets]

    def serve():
        with server_side.wrap_socket(sockets[1], server_side=True) as outer:
            inner, incoming, outgoing = wrap(server_side, server_side=True)
            drive(outer, incoming, outgoing, inner.do_handshake)
            assert drive(outer, incoming, outgoing, lambda: inner.read(100)) == b"inside"
            drive(outer, incoming, outgoing, lambda: inner.write(b"answer"))

    def wrap(made_of, **options):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        return made_of.wrap_bio(incoming, outgoing, **options), incoming, outgoing

    def drive(outer, incoming, outgoing, action):
        while True:
            try:
                result = action()
                if outgoing.pending:
                    outer.sendall(outgoing.read())
                return result
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    outer.sendall(outgoing.read())
                incoming.write(outer.recv(65536))

    thread = threading.Thread(target=serve)
    thread.start()
    with client_side.wrap_socket(sockets[0]) as outer:
        inner, incoming, outgoing = wrap(client_side)
        drive(outer, incoming, outgoing, inner.do_handshake)
        drive(outer, incoming, outgoing, lambda: inner.write(b"inside"))
        assert drive(outer, incoming, outgoing, lambda: inner.read(100)) == b"answer"
        thread.join()
    found = carriers_of(tls_capture, [b"inside", b"answer"])
    assert len(found) == 4
    assert set().union(*found.values()) <= {0, *identities}
    assert found[b"inside", EGRESS] <= {0, identities[0]}
    assert found[b"inside", INGRESS] <= {0, identities[1]}


def test_socket_that_a_callback_uses_is_no_carrier(tls_capture, tls_ends, pair):
    """The server looks its certificate up, in the middle of the handshake."""
    plain, other = pair("tcp4")
    made_of = openssl.Context(server=True)
    asked = []

    @openssl.NAME_CALLBACK
    def callback(*_):
        plain.sendall(b"GET /certificate HTTP/1.1\r\n\r\n")
        asked.append(other.recv(1000))
        other.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        asked.append(plain.recv(1000))
        return 0

    made_of.set_name_callback(callback)
    sockets = connected()
    client, server = End(context(server=False), sockets[0]), End(made_of, sockets[1])
    client.set_name("shop")
    shake(client, server)
    assert len(asked) == 2
    client.write(b"text")
    assert server.read() == b"text"
    assert wrong(tls_capture, {b"text": (client, server)}) == {}
    assert bound(tls_capture, {b"text": (client, server)}) == 2
    assert [each.data for each in tls_capture.data(plain)] == asked
    assert tls_capture.inner(plain) == tls_capture.inner(other) == []
    destroy([client, server])


def read_from(end, *, memory):
    """Read, and receive before if there is nothing yet."""
    while True:
        try:
            return end.read()
        except WantsMoreError:
            assert memory
            end.fill()


@pytest.mark.parametrize("memory", [False, True])
def test_write_inside_of_a_read(tls_capture, memory):
    """The handshake ends inside of SSL_read, and its callback writes, as Node does."""
    sockets = connected()
    client, server = make_ends(sockets, memory=memory)
    written = []

    @openssl.INFO_CALLBACK
    def callback(pointer, where, _):
        if where == openssl.HANDSHAKE_DONE and not written:
            written.append(client.lib.SSL_write(pointer, b"first", 5))

    client.lib.SSL_set_info_callback(client.pointer, callback)
    for sock in sockets:
        sock.setblocking(False)
    for _ in range(20):
        for end, step in ((client, client.read), (server, server.handshake)):
            with suppress(WantsMoreError):
                step()
            if memory:
                end.flush()
                with suppress(BlockingIOError):
                    (server if end is client else client).fill()
        if written:
            break
    assert written == [5]
    for sock in sockets:
        sock.setblocking(True)
    if memory:
        client.flush()
    assert read_from(server, memory=memory) == b"first"
    server.write(b"answer")
    if memory:
        server.flush()
    assert read_from(client, memory=memory) == b"answer"
    said = {b"first": (client, server), b"answer": (server, client)}
    assert wrong(tls_capture, said) == {}
    assert bound(tls_capture, said) == 4
    destroy([client, server])
