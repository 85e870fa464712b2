# SPDX-License-Identifier: Apache-2.0
"""What no parser speaks is never reported, and costs no memory."""

from __future__ import annotations

import gc
import random
import socket
import ssl
import subprocess
import threading
import tracemalloc
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from tests.end_to_end.counting import pace, watcher
from tests.rig import watch

pytestmark = [pytest.mark.kernel, pytest.mark.load]

CONNECTIONS = 1_000


def noise(seed, size):
    return random.Random(seed).randbytes(size)


SSH = [
    (">", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"),
    ("<", b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"),
    (">", b"\x00\x00\x05\xdc\x06\x14" + noise(1, 1494)),
    ("<", b"\x00\x00\x04\x4c\x0b\x14" + noise(2, 1094)),
]
SMTP = [
    ("<", b"220 mail.example.org ESMTP Postfix\r\n"),
    (">", b"EHLO client.example.org\r\n"),
    ("<", b"250-mail.example.org\r\n250-PIPELINING\r\n250 8BITMIME\r\n"),
    (">", b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"),
    ("<", b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n"),
    (">", b"From: a\r\nTo: b\r\nSubject: GET / HTTP/1.1\r\n\r\nGET /in/a/mail HTTP/1.1\r\n.\r\n"),
    ("<", b"250 2.0.0 Ok: queued as 12345\r\n"),
    (">", b"QUIT\r\n"),
    ("<", b"221 2.0.0 Bye\r\n"),
]
MEMCACHED = [
    (">", b"set greeting 0 900 5\r\nhello\r\n"),
    ("<", b"STORED\r\n"),
    (">", b"get greeting\r\n"),
    ("<", b"VALUE greeting 0 5\r\nhello\r\nEND\r\n"),
    (">", b"delete greeting\r\n"),
    ("<", b"DELETED\r\n"),
]
RANDOM = [("><"[i % 2], noise(i, 3 ** (i % 9) + 1)) for i in range(20)]
# An old version, and words that look like the beginning of something.
ALMOST = [(">", b"GET /simple\r\n"), ("<", b"<html>hello</html>")]
LIKE_HTTP = [(">", b"GETTING /x HTTPS\r\n\r\n"), ("<", b"HTTP is what this is not\r\n\r\n")]
RTSP = [
    (">", b"OPTIONS rtsp://x/y RTSP/1.0\r\nCSeq: 1\r\n\r\n"),
    ("<", b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"),
]
ICY = [(">", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise(9, 508)), ("<", noise(8, 99))]

DIALOGUES = {
    "random": RANDOM,
    "ssh": SSH,
    "smtp": SMTP,
    "memcached": MEMCACHED,
    "http/0.9": ALMOST,
    "like http": LIKE_HTTP,
    "rtsp": RTSP,
    "half a handshake": ICY,
}


class Stage:
    """A listener, and conversations with it as a script says."""

    def __init__(self, listener):
        self.listener = listener
        self.port = listener.getsockname()[1]

    def play(self, dialogue):
        with (
            socket.create_connection(("127.0.0.1", self.port)) as client,
            self.listener.accept()[0] as server,
        ):
            for direction, data in dialogue:
                sender, receiver = (client, server) if direction == ">" else (server, client)
                sender.sendall(data)
                left = len(data)
                while left:
                    left -= len(receiver.recv(left))


@contextmanager
def stage():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Stage(listener)


def test_no_other_protocol_is_reported(source):
    with stage() as each, watch("--source", source, "--port", str(each.port)) as capture:
        for _ in range(3):
            for dialogue in DIALOGUES.values():
                each.play(dialogue)
        # To see that there would have been something to see.
        each.play(
            [
                (">", b"GET /real HTTP/1.1\r\nHost: x\r\n\r\n"),
                ("<", b"HTTP/1.1 204 No Content\r\n\r\n"),
            ]
        )
    paths = [span["attributes"].get("url.path") for span in capture.of_kind("server")]
    assert paths == ["/real"]
    assert len(capture.spans) == 2


@pytest.mark.parametrize("name", DIALOGUES)
def test_what_is_garbage_late_is_garbage_too(name):
    """The tracer comes in the middle of it."""
    script = DIALOGUES[name]
    with (
        stage() as each,
        socket.create_connection(("127.0.0.1", each.port)) as client,
        each.listener.accept()[0] as server,
        watch("--port", str(each.port)) as capture,
    ):
        for direction, data in script[len(script) // 2 :] * 2:
            sender, receiver = (client, server) if direction == ">" else (server, client)
            sender.sendall(data)
            left = len(data)
            while left:
                left -= len(receiver.recv(left))
    assert capture.spans == []


def test_ciphertext_is_counted_and_not_reported(source, tmp_path):
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    asking = ssl.create_default_context()
    authority.configure_trust(asking)

    def serve(listener):
        with suppress(OSError):
            while True:
                with (
                    listener.accept()[0] as plain,
                    context.wrap_socket(plain, server_side=True) as s,
                ):
                    s.recv(1000)
                    s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with watch("--source", source, "--port", str(port)) as capture:
            for _ in range(5):
                with (
                    socket.create_connection(("127.0.0.1", port)) as plain,
                    asking.wrap_socket(plain, server_hostname="localhost") as client,
                ):
                    client.sendall(b"GET /secret HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    assert client.recv(1000).startswith(b"HTTP/1.1 200")
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert capture.spans == []
    assert "10 connections encrypted, and nobody sees inside" in capture.summary


def resident_kib(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


def chatter(each, number):
    for index in range(number):
        each.play([(">", noise(index, 900)), ("<", noise(-index, 2900)), *MEMCACHED[:2]])


def test_memory_does_not_grow(source):
    with stage() as each, watch("--source", source, "--port", str(each.port)) as capture:
        chatter(each, CONNECTIONS)
        subprocess.run(["sleep", "0.5"], check=True)
        before = resident_kib(capture.program.pid)
        chatter(each, 3 * CONNECTIONS)
        subprocess.run(["sleep", "0.5"], check=True)
        after = resident_kib(capture.program.pid)
    print(f"{source}: {before} KiB after {CONNECTIONS} connections, {after} KiB at the end")
    assert capture.spans == []
    # The allocator grows by steps until it has what the largest batch takes. A connection of
    # 3 KiB that stays would make 18 MiB of the 6,000 sockets.
    assert after - before < 12 * 1024


def test_nothing_of_a_closed_connection_stays(source):
    """The same to the byte, without the allocator's steps."""
    with (
        stage() as each,
        watcher(payload_source=source, ports=(each.port,), exclude_self=False) as seen,
    ):
        held = []
        tracemalloc.start()
        for _ in range(4):
            for _ in range(10):
                chatter(each, 25)
                seen.step()
            rounds = iter(range(50))
            pace([seen], lambda rounds=rounds: next(rounds, None) is None, 0.01)
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert not seen.spans
        assert seen.pipeline.table.counters.opened >= 2000
        assert not seen.pipeline.table.connections
    # 250 connections have 500 ends; 20 bytes for each would show.
    assert held[-1] - held[1] < 2 * 500 * 20, held


def test_connections_that_stay_open_and_say_garbage_stay_cheap(source):
    with stage() as each, watch("--source", source, "--port", str(each.port)) as capture:
        before = resident_kib(capture.program.pid)
        pairs = []
        for _ in range(300):
            client = socket.create_connection(("127.0.0.1", each.port))
            pairs.append((client, each.listener.accept()[0]))
        for turn in range(20):
            for index, (client, server) in enumerate(pairs):
                client.sendall(noise(turn * 1000 + index, 2000))
                server.recv(2000)
        subprocess.run(["sleep", "0.3"], check=True)
        after = resident_kib(capture.program.pid)
        for pair in pairs:
            for end in pair:
                end.close()
    assert capture.spans == []
    # 24 MB were sent and read; at 600 ends, that is less than 10 KiB each.
    assert after - before < 6000
