# SPDX-License-Identifier: Apache-2.0
"""Small servers and their clients, for tests."""

from __future__ import annotations

import http.client
import socket

import pytest

from exporters import small_http
from exporters.small_http import COUNTERS, Answer, SmallServer
from exporters.tcp_listener import listen_tcp
from tests.rig import wait_until

GET = b"GET /echo HTTP/1.1\r\n\r\n"


def echo(request):
    return Answer(body=repr(sorted(request.parameters().items())).encode())


@pytest.fixture
def serve(monkeypatch):
    """Servers that are closed at the end, soon."""
    monkeypatch.setattr(small_http, "WATCH_S", 0.02)
    made = []

    def make(listener=None, /, refusal=None, bound_name="", **routes):
        listener = listener or listen_tcp("127.0.0.1", 0, "It")
        paths = {f"/{path}": handler for path, handler in {"echo": echo, **routes}.items()}
        made.append(SmallServer(listener, paths, name="It", bound_name=bound_name, refusal=refusal))
        return made[-1]

    yield make
    for each in made:
        each.close()


def connected(server):
    family = socket.AF_UNIX if isinstance(server.address, str) else socket.AF_INET
    client = socket.socket(family)
    client.settimeout(10)
    client.connect(server.address)
    return client


def ask(server, target="/echo", method="GET", **headers):
    """The answer with its body read."""
    connection = http.client.HTTPConnection("127.0.0.1", timeout=10)
    connection.sock = connected(server)
    connection.request(method, target, headers=headers)
    answer = connection.getresponse()
    answer.body = answer.read()
    connection.close()
    return answer


def said(client, data):
    """All that comes back."""
    found = b""
    try:
        client.sendall(data)
        while more := client.recv(65536):
            found += more
    except (ConnectionResetError, BrokenPipeError):
        pass
    return found


def is_ended(client):
    """Whether the other side ended it, waiting for that."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def settled(server, **expected):
    """Counters are written by the threads that answer, a moment after the answer."""
    full = {**dict.fromkeys(COUNTERS, 0), **expected}
    return wait_until(lambda: server.counters() == full, f"{full}, not {server.counters()}")


def empty(server):
    return not server._server._places
