# SPDX-License-Identifier: Apache-2.0
"""When streams inside of TLS begin and end, which are wanted, and that it does no harm."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.tracer.openssl import End, certificate_path, context, shake
from tracer.events import INNER, LATE, Cause, CloseReason, DataEvent, OpenEvent
from tracer.tls_libraries import examine

pytestmark = pytest.mark.kernel

LINGER = struct.pack("ii", 1, 0)
"""Closing sends a RST."""


@pytest.fixture
def speak(pair):
    """Make a client and a server over TCP that have shaken hands and said a word each way."""
    made = []

    def make(sockets=None, text=b"x"):
        sockets = sockets or pair("tcp4")
        ends = [
            End(context(server=server), sock)
            for server, sock in zip((False, True), sockets, strict=True)
        ]
        made.extend(ends)
        shake(*ends)
        say(*ends, text)
        return ends

    yield make
    for end in made:
        end.free()


def say(client, server, text=b"x"):
    client.write(text)
    assert server.read() == text
    server.write(text)
    assert client.read() == text


# Ends


def test_freed_object_ends_in_order_and_once(tls_capture, speak):
    client, server = speak()
    (cookie,) = tls_capture.inner(client.sock)
    client.free()
    (closed,) = tls_capture.closed(cookie)
    assert closed.reason == CloseReason.CLOSED
    assert (closed.egress_position, closed.ingress_position, closed.turns) == (1, 1, 2)
    client.sock.close()
    server.sock.close()
    assert len(tls_capture.closed(cookie)) == 1


def test_closed_socket_ends_its_stream_once(tls_capture, speak):
    client, server = speak()
    cookies = [tls_capture.inner(end.sock)[0] for end in (client, server)]
    sockets = [tls_capture.identity(end.sock) for end in (client, server)]
    for end in (client, server):
        end.shutdown()
    server.sock.settimeout(5)
    client.sock.shutdown(socket.SHUT_WR)
    while server.sock.recv(1000):
        pass
    server.sock.shutdown(socket.SHUT_WR)
    while client.sock.recv(1000):
        pass
    for end in (client, server):
        end.sock.close()
    for cookie, carrier in zip(cookies, sockets, strict=True):
        (closed,) = tls_capture.await_closed(cookie)
        assert closed.reason == CloseReason.CLOSED
        assert len(tls_capture.await_closed(carrier)) == 1
    for end in (client, server):
        end.free()
    for cookie in cookies:
        assert len(tls_capture.closed(cookie)) == 1


def test_reset_by_the_peer_is_told(tls_capture, speak):
    client, server = speak()
    (cookie,) = tls_capture.inner(client.sock)
    server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
    server.sock.close()
    (closed,) = tls_capture.await_closed(cookie)
    assert closed.reason == CloseReason.RESET


PROGRAM = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
{before}
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    with context.wrap_socket(sock, server_hostname="localhost") as tls:
        tls.sendall(b"hello")
        tls.recv(100)
        print("ready", flush=True)
        for line in sys.stdin:
            tls.sendall(b"x" * 100)
            assert tls.recv(100), "nothing has come"
            print("done", flush=True)
"""


class Server:
    """Sends back what it is sent, over TLS."""

    def __init__(self):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate_path())
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        with suppress(OSError), self.context.wrap_socket(sock, server_side=True) as tls:
            while text := tls.recv(65536):
                tls.sendall(text)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)


@pytest.fixture
def echo():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def program(echo):
    """Start a client of `echo` in a process of its own; it speaks when it is told to."""
    running = []

    def start(before="", name=sys.executable):
        process = subprocess.Popen(
            [name, "-c", PROGRAM.format(before=before), str(echo.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def ready(process):
    assert process.stdout.readline() == "ready\n"


def once_more(process):
    process.stdin.write("go\n")
    process.stdin.flush()
    return process.stdout.readline() == "done\n"


def said_by(capture, tgid):
    """What one process said inside of TLS."""
    inner = {each.cookie for each in capture.inner_opened()}
    return [
        each
        for each in capture.poll()
        if isinstance(each, DataEvent) and each.cookie in inner and each.tgid == tgid
    ]


def test_killed_process_ends_its_streams(tls_capture, program):
    process = program()
    ready(process)
    (opened,) = [each for each in tls_capture.inner_opened() if each.tgid == process.pid]
    assert opened.role == 1
    assert opened.comm.startswith(b"python")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(tls_capture.await_closed(opened.cookie)) == 1


# Older than the capture


def test_older_connection_is_late_and_bound_at_its_first_call(capturing, kind, speak):
    client, server = speak()
    capture = capturing(payload_source=kind, pids=(os.getpid(),), tls=True)
    say(client, server)
    for end in (client, server):
        cookie = capture.identity(end.sock)
        (opened,) = [each for each in capture.inner_opened() if each.carrier == cookie]
        assert opened.flags == INNER | LATE
    assert capture.unbound() == []


def test_older_connection_that_is_asked_for_its_handshake_is_late(capturing, kind, speak):
    """SSL_do_handshake does nothing once it is done, and programs call it to be sure."""
    client, server = speak()
    capture = capturing(payload_source=kind, pids=(os.getpid(),), tls=True)
    client.handshake()
    say(client, server)
    cookie = capture.identity(client.sock)
    (opened,) = [each for each in capture.inner_opened() if each.carrier == cookie]
    assert opened.flags & LATE


# Filters


def test_streams_of_other_ports_are_left_out(capturing, kind, speak, pair):
    wanted, other = pair("tcp4"), pair("tcp4")
    port = wanted[1].getsockname()[1]
    capture = capturing(payload_source=kind, pids=(os.getpid(),), ports=(port,), tls=True)
    before = capture.counter(Cause.CIPHERTEXT)
    speak(other, b"unwanted")
    assert [each for each in capture.poll() if isinstance(each, OpenEvent)] == []
    assert capture.counter(Cause.CIPHERTEXT) == before
    for sock in wanted:
        sock.setblocking(True)
    speak(wanted, b"wanted")
    for sock in wanted:
        assert [each.data for each in capture.plain(sock)] == [b"wanted"] * 2
    assert capture.unbound() == []


def test_other_processes_are_left_out(capturing, kind, program, speak):
    one, other = program(), program()
    ready(one)
    ready(other)
    capture = capturing(payload_source=kind, pids=(one.pid,), tls=True)
    assert once_more(one)
    assert once_more(other)
    speak()
    assert {each.tgid for each in capture.inner_opened()} == {one.pid}
    assert [each.size for each in said_by(capture, one.pid)] == [100, 100]


def test_processes_are_chosen_by_name(capturing, kind, program):
    before = "open('/proc/self/comm', 'w').write('shop-client')"
    one, other = program(before), program()
    ready(one)
    ready(other)
    capture = capturing(payload_source=kind, comms=("shop-client",), tls=True)
    assert once_more(one)
    assert once_more(other)
    assert {each.tgid for each in capture.inner_opened()} == {one.pid}
    assert [each.size for each in said_by(capture, one.pid)] == [100, 100]


SERVER = """
import ssl, socket, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    sock, _ = listener.accept()
    with context.wrap_socket(sock, server_side=True) as tls:
        while text := tls.recv(100):
            tls.sendall(text)
"""


def test_tracers_own_streams_and_their_other_ends_are_left_out(capturing, kind, program):
    """What an exporter sends over TLS must not be traced at either end."""
    capture = capturing(payload_source=kind, exclude_self=True, tls=True)
    command = [sys.executable, "-c", SERVER, certificate_path()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        port = int(server.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as sock:
            client = End(context(server=False), sock)
            client.handshake()
            for _ in range(3):
                client.write(b"own")
                assert client.read() == b"own"
            client.free()
    process = program()  # a client of this process, which is wanted
    ready(process)
    tgids = {each.tgid for each in capture.inner_opened()}
    assert process.pid in tgids
    assert not tgids & {os.getpid(), server.pid}


# Harm


def test_program_sees_nothing_of_it(capturing, program):
    """Probes come and go under a program that speaks all the time."""
    process = program()
    ready(process)
    capture = capturing(pids=(process.pid,), tls=True)
    (path,) = [each.path for each in capture.source._tls.discovery.files() if "libssl" in each.path]
    probes = capture.source._tls._probes
    hooks = examine(Path(path)).hooks
    stop = threading.Event()
    turns = []

    def talk():
        while not stop.is_set() and once_more(process):
            turns.append(1)

    talker = threading.Thread(target=talk)
    talker.start()
    for _ in range(20):
        probes.attach(path, hooks).close()
    is_talking = talker.is_alive()
    stop.set()
    talker.join()
    assert is_talking
    assert len(turns) > 20
    seen = [capture.counter(cause).events for cause in (Cause.DELIVERED, Cause.RING_FULL)]
    assert sum(seen) >= 2 * len(turns)
    assert {each.size for each in said_by(capture, process.pid)} == {100}
