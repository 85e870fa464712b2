# SPDX-License-Identifier: Apache-2.0
"""Kernel captures that tests share, and the sockets that they watch."""

from __future__ import annotations

import os
import pickle
import socket
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.tracer.carriers import destroy, make_ends
from tracer import libbpf
from tracer.events import EGRESS, INGRESS, INNER, CloseEvent, DataEvent, OpenEvent, walk
from tracer.probes import KernelSource, Settings

SO_COOKIE = 57


class NoProcesses:
    def lookup(self, tgid, opened):
        raise AssertionError("the kernel source asks for no process by itself")


class Capture:
    """A kernel source and the events of the sockets that a test names."""

    def __init__(self, **settings):
        settings.setdefault("exclude_self", False)
        settings.setdefault("tls", False)
        self.source = KernelSource(Settings(**settings), NoProcesses())
        self.kind = self.source.source_in_use
        self.events = []

    def identity(self, sock):
        """What the events call a socket."""
        is_tcp = sock.family != socket.AF_UNIX and sock.type == socket.SOCK_STREAM
        if self.kind == "socket" or is_tcp:
            return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")
        return os.fstat(sock.fileno()).st_ino | 1 << 63

    def poll(self):
        while chunk := self.source.poll(0).chunk:
            self.events += walk(chunk)
        return self.events

    def forget_all(self):
        self.poll()
        self.events = []

    def of(self, sock):
        """All events of a socket, which may be given by what `identity` said."""
        cookie = sock if isinstance(sock, int) else self.identity(sock)
        return [event for event in self.poll() if event.cookie == cookie]

    def opened(self, sock):
        return [event for event in self.of(sock) if isinstance(event, OpenEvent)]

    def closed(self, sock):
        return [event for event in self.of(sock) if isinstance(event, CloseEvent)]

    def await_closed(self, sock):
        """The same, once there is one: the kernel is at its own pace there."""
        cookie = sock if isinstance(sock, int) else self.identity(sock)
        until_s = time.monotonic() + 5
        while not self.closed(cookie) and time.monotonic() < until_s:
            self.events += walk(self.source.poll(0.05).chunk)
        return self.closed(cookie)

    def data(self, sock, direction=None):
        return [
            event
            for event in self.of(sock)
            if isinstance(event, DataEvent) and direction in {None, event.direction}
        ]

    def sent(self, sock):
        return self.data(sock, EGRESS)

    def received(self, sock):
        return self.data(sock, INGRESS)

    def forget_thread(self):
        """What the kernel half remembers of this process's main thread, from earlier tests."""
        pidfd = os.pidfd_open(os.getpid())
        try:
            threads = self.source._object.map_fd("threads")
            libbpf.map_delete(threads, pidfd.to_bytes(4, "little"))
        finally:
            os.close(pidfd)

    def inner(self, sock):
        """The cookies of what TLS objects carry through a socket, in order of appearance."""
        cookie = sock if isinstance(sock, int) else self.identity(sock)
        return list(
            dict.fromkeys(each.cookie for each in self.inner_opened() if each.carrier == cookie)
        )

    def inner_opened(self):
        """The open records of all TLS objects."""
        return [each for each in self.poll() if isinstance(each, OpenEvent) and each.flags & INNER]

    def unbound(self):
        """The cookies of TLS objects of which no record names a socket."""
        bound = {each.cookie for each in self.inner_opened() if each.carrier}
        cookies = dict.fromkeys(each.cookie for each in self.inner_opened())
        return [cookie for cookie in cookies if cookie not in bound]

    def plain(self, sock, direction=None):
        """The transfers inside of the one TLS object that a socket carries."""
        (cookie,) = self.inner(sock)
        return self.data(cookie, direction)

    def counter(self, cause):
        return self.source.counters()[cause]

    def close(self):
        self.source.close()


@pytest.fixture(scope="session")
def captures():
    """One capture for each payload source, loaded once and kept for the session."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = Capture(payload_source=kind, pids=(os.getpid(),))
        return made[kind]

    yield get
    for capture in made.values():
        capture.close()


@pytest.fixture(scope="session")
def tls_captures():
    """The same with what is inside of TLS."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = Capture(payload_source=kind, pids=(os.getpid(),), tls=True)
        return made[kind]

    yield get
    for capture in made.values():
        capture.close()


@pytest.fixture(params=["socket", "syscall"])
def kind(request):
    return request.param


@pytest.fixture
def capture(kind, captures):
    """Everything this process and its children do, by either payload source."""
    capture = captures(kind)
    capture.forget_all()
    return capture


@pytest.fixture
def tls_capture(kind, tls_captures):
    """As `capture`, and what is inside of TLS."""
    capture = tls_captures(kind)
    capture.forget_thread()
    capture.forget_all()
    return capture


@pytest.fixture
def capturing():
    """Captures with settings of their own."""
    made = []

    def make(**settings):
        made.append(Capture(**settings))
        return made[-1]

    yield make
    for capture in made:
        capture.close()


def _inet_pair(family, kind):
    address = "127.0.0.1" if family == socket.AF_INET else "::1"
    server = socket.socket(family, kind)
    server.bind((address, 0))
    client = socket.socket(family, kind)
    if kind == socket.SOCK_DGRAM:
        client.bind((address, 0))
        client.connect(server.getsockname())
        server.connect(client.getsockname())
        return client, server
    server.listen()
    client.connect(server.getsockname())
    accepted, _ = server.accept()
    server.close()
    for end in (client, accepted):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client, accepted


def _unix_pair(path):
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    accepted, _ = server.accept()
    server.close()
    return client, accepted


@pytest.fixture
def pair():
    """Make a connected (client, server) pair of one transport."""
    opened = []
    with tempfile.TemporaryDirectory() as folder:

        def make(transport):
            match transport:
                case "tcp4":
                    ends = _inet_pair(socket.AF_INET, socket.SOCK_STREAM)
                case "tcp6":
                    ends = _inet_pair(socket.AF_INET6, socket.SOCK_STREAM)
                case "udp4":
                    ends = _inet_pair(socket.AF_INET, socket.SOCK_DGRAM)
                case "udp6":
                    ends = _inet_pair(socket.AF_INET6, socket.SOCK_DGRAM)
                case "unix":
                    ends = _unix_pair(str(Path(folder) / f"{len(opened)}.sock"))
            for end in ends:
                end.settimeout(5)
                # Blocking calls by number know no Python timeout.
                end.setblocking(True)
            opened.extend(ends)
            return ends

        yield make
        for end in opened:
            end.close()


@pytest.fixture
def tls_ends():
    """Make a client and a server of TLS over TCP, which have not shaken hands yet."""
    made = []

    def make(sockets=None, *, memory=True):
        made.append(make_ends(sockets, memory=memory))
        return made[-1]

    yield make
    for each in made:
        destroy(each)


@contextmanager
def _child(work):
    """Run `work` in a child until the block ends; yields what reads its result."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        with suppress(BaseException):
            os.write(write_end, pickle.dumps(work()))
            status = 0
        os._exit(status)
    os.close(write_end)
    waited = []

    def result():
        with os.fdopen(read_end, "rb") as pipe:
            found = pipe.read()
        waited.append(os.waitpid(pid, 0))
        assert waited[0][1] == 0, "the child failed"
        return pickle.loads(found)

    yield result
    if not waited:
        os.close(read_end)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@pytest.fixture
def child():
    return _child
