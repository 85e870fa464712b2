# SPDX-License-Identifier: Apache-2.0
"""Connections whose TLS objects a test knows, and what the events say of their sockets."""

from __future__ import annotations

import socket
import struct
import threading

from tests.tracer.openssl import End, context
from tracer.events import EGRESS, DataEvent

FIVE_SECONDS = struct.pack("@ll", 5, 0)
"""A struct timeval. Calls from C know no Python timeout."""


def connected():
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    listener.close()
    for sock in (client, server):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, FIVE_SECONDS)
    return client, server


def make_ends(sockets=None, *, memory=True, contexts=None):
    """A client and a server, before the handshake."""
    sockets = sockets or connected()
    contexts = contexts or (context(server=False), context(server=True))
    return [
        End(made_of, sock, memory=memory) for made_of, sock in zip(contexts, sockets, strict=True)
    ]


def destroy(ends):
    for end in ends:
        end.free()
        end.sock.close()


def ask(client, server, text):
    """One message, as a program on memory moves it: each step in one thread."""
    client.write(text)
    client.flush()
    server.fill()
    assert server.read() == text


def carriers_of(capture, texts):
    """For each text, which sockets the objects have said to have that moved it."""
    carriers = {}
    for each in capture.inner_opened():
        carriers.setdefault(each.cookie, set()).add(each.carrier)
    found = {}
    for each in capture.poll():
        if isinstance(each, DataEvent) and each.cookie in carriers and each.data in texts:
            found.setdefault((each.data, each.direction), set()).update(carriers[each.cookie])
    return found


def wrong(capture, said):
    """What is said to have gone through another socket than it has; `said`: text -> ends."""
    found = carriers_of(capture, said)
    assert found, "nothing was seen"
    return {
        key: carriers
        for key, carriers in found.items()
        if carriers - {0, capture.identity(said[key[0]][0 if key[1] == EGRESS else 1].sock)}
    }


def bound(capture, said):
    """How many of the texts are known to have gone through their socket, each way."""
    return sum(bool(carriers - {0}) for carriers in carriers_of(capture, said).values())


def in_thread(action):
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()
