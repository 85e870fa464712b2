# SPDX-License-Identifier: Apache-2.0
"""Kernel captures that tests share, and the sockets that they watch."""

from __future__ import annotations

import os
import pickle
import socket
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tracer.events import EGRESS, INGRESS, CloseEvent, DataEvent, OpenEvent, walk
from tracer.probes import KernelSource, Settings

SO_COOKIE = 57


class NoProcesses:
    def lookup(self, tgid, opened):
        raise AssertionError("the kernel source asks for no process by itself")


class Capture:
    """A kernel source and the events of the sockets that a test names."""

    def __init__(self, **settings):
        settings.setdefault("exclude_self", False)
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
