# SPDX-License-Identifier: Apache-2.0
"""Attach in the middle of a connection: the next exchange is right, and says how it began."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import ExitStack, contextmanager

import pytest

from tests.rig import watch

pytestmark = pytest.mark.kernel

HALF = 40_000
BODY = b"b" * (2 * HALF)


class Puppet:
    """A server and a client on one connection, each of which moves when it is told."""

    def __init__(self, stack):
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.port = listener.getsockname()[1]
        self.client = stack.enter_context(socket.create_connection(("127.0.0.1", self.port)))
        self.server = stack.enter_context(listener.accept()[0])
        # The role of an old connection is known by who listens.
        self.listener = listener

    def exchange(self, path, method="GET", size=50):
        self.request(path, method)
        self.respond(size)

    def request(self, path, method="GET", body=b""):
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
        if body:
            head += f"Content-Length: {len(body)}\r\n"
        self.move(self.client, self.server, head.encode() + b"\r\n" + body)

    def respond(self, size):
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        self.move(self.server, self.client, head + b"r" * size)

    @staticmethod
    def move(sender, receiver, data):
        thread = threading.Thread(target=sender.sendall, args=(data,))
        thread.start()
        left = len(data)
        while left:
            left -= len(receiver.recv(min(left, 65536)))
        thread.join()


@contextmanager
def puppet():
    with ExitStack() as stack:
        yield Puppet(stack)


def told(capture, kind):
    """Path, completeness and status of each exchange."""
    return [
        (
            re.search(
                r"/\w+$", span["attributes"].get("url.path") or span["attributes"]["url.full"]
            )[0],
            span["attributes"]["wirespan.completeness"],
            span["attributes"].get("http.response.status_code"),
        )
        for span in capture.of_kind(kind)
    ]


def before_idle(puppet):
    for index in range(5):
        puppet.exchange(f"/old{index}")
    return lambda: None


def before_body_of_request(puppet):
    """The request's head and half of its body have gone."""
    puppet.exchange("/old")
    head = f"POST /old HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
    puppet.move(puppet.client, puppet.server, head + BODY[:HALF])

    def rest():
        puppet.move(puppet.client, puppet.server, BODY[HALF:])
        puppet.respond(20)

    return rest


def before_body_of_response(puppet):
    """Half of the response has come."""
    puppet.request("/old")
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    puppet.move(puppet.server, puppet.client, head + BODY[:HALF])
    return lambda: puppet.move(puppet.server, puppet.client, BODY[HALF:])


def before_response(puppet):
    """The request was made, and nothing has been answered."""
    puppet.request("/old")
    return lambda: puppet.respond(20)


def before_head_ends(puppet):
    """Half of a request's head has gone."""
    puppet.exchange("/old")
    puppet.move(puppet.client, puppet.server, b"GET /old HTTP/1.1\r\nHost: x\r\nX-Pad: ")

    def rest():
        puppet.move(puppet.client, puppet.server, b"y" * 200 + b"\r\n\r\n")
        puppet.respond(20)

    return rest


MOMENTS = [
    before_idle,
    before_body_of_request,
    before_body_of_response,
    before_response,
    before_head_ends,
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda each: each.__name__[7:])
def test_the_next_exchange_is_right_and_says_how_it_began(source, moment):
    with puppet() as both:
        rest = moment(both)
        with watch("--source", source, "--port", str(both.port)) as capture:
            rest()
            for path in ("/first", "/second", "/third"):
                both.exchange(path)
    for kind in ("client", "server"):
        spans = told(capture, kind)
        assert [path for path, *_ in spans if path == "/old"] == []
        assert spans == [
            ("/first", "late_attach", 200),
            ("/second", "complete", 200),
            ("/third", "complete", 200),
        ]
    for span in capture.spans:
        here, there = both.server, both.client
        if span["kind"] == "client":
            here, there = there, here
        try:
            port = here.getpeername()[1]
        except OSError:
            port = None
        assert port is None or span["attributes"]["network.peer.port"] == port
    assert not capture.of_kind("internal")


def test_a_new_connection_beside_an_old_one_is_complete(source):
    with puppet() as old, watch("--source", source, "--port", str(old.port)) as capture:
        with socket.create_connection(("127.0.0.1", old.port)) as client:
            server = old.listener.accept()[0]
            with server:
                old.client, old.server, kept = client, server, (old.client, old.server)
                old.exchange("/new")
                old.client, old.server = kept
        old.exchange("/old")
    for kind in ("client", "server"):
        assert sorted(told(capture, kind)) == [
            ("/new", "complete", 200),
            ("/old", "late_attach", 200),
        ]


def test_an_old_connection_whose_listener_has_gone_still_has_a_side(source):
    """Then nobody listens any more, but who sends requests is seen."""
    with puppet() as both:
        both.exchange("/before")
        both.listener.close()
        with watch("--source", source, "--port", str(both.port)) as capture:
            both.exchange("/after")
    for kind in ("client", "server"):
        assert told(capture, kind) == [("/after", "late_attach", 200)]
