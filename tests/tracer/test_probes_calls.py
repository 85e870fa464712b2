# SPDX-License-Identifier: Apache-2.0
"""Every system call that moves bytes over a socket, as sender and as receiver."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import socket
import struct
import threading
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from tracer import probes
from tracer.events import EOF, TURN_START, Cause

pytestmark = pytest.mark.kernel

IS_X86 = platform.machine() == "x86_64"
NUMBERS = {
    "read": (0, 63),
    "readv": (19, 65),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "recvmmsg": (299, 243),
    "write": (1, 64),
    "writev": (20, 66),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
}

PARTS = [b"", b"GET / ", b"HTTP/1.1\r\n", b"", bytes(range(256)), b"tail"]
WHOLE = b"".join(PARTS)

libc = ctypes.CDLL(None, use_errno=True)


class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.POINTER(Iovec)),
        ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Mmsghdr(ctypes.Structure):
    _fields_ = (("header", Msghdr), ("length", ctypes.c_uint32))


class Messages:
    """An array of mmsghdr over buffers of its own."""

    def __init__(self, messages, names=()):
        self.buffers = [
            [ctypes.create_string_buffer(part, max(len(part), 1)) for part in parts]
            for parts in messages
        ]
        self.vectors = []
        self.array = (Mmsghdr * len(messages))()
        for entry, parts, buffers in zip(self.array, messages, self.buffers, strict=True):
            vector = (Iovec * len(parts))(
                *[
                    Iovec(ctypes.addressof(buffer), len(part))
                    for buffer, part in zip(buffers, parts, strict=True)
                ]
            )
            self.vectors.append(vector)
            entry.header.vector = ctypes.cast(vector, ctypes.POINTER(Iovec))
            entry.header.count = len(parts)
        self.names = [ctypes.create_string_buffer(name, 28) for name in names]
        for entry, name in zip(self.array, self.names, strict=False):
            entry.header.name = ctypes.addressof(name)
            entry.header.name_length = 28

    def call(self, name, sock, flags=0, timeout=None):
        arguments = [sock.fileno(), self.array, len(self.array), flags]
        if name == "recvmmsg":
            arguments.append(timeout)
        done = getattr(libc, name)(*arguments)
        if done < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return done

    @property
    def lengths(self):
        return [entry.length for entry in self.array]


def send_messages(sock, parts):
    """Two messages of several iovecs each."""
    assert Messages([parts[:3], parts[3:]]).call("sendmmsg", sock) == 2


SENDERS = {
    "write": lambda sock, parts: os.write(sock.fileno(), b"".join(parts)),
    "writev": lambda sock, parts: os.writev(sock.fileno(), parts),
    "sendto": lambda sock, parts: sock.send(b"".join(parts)),
    "sendmsg": lambda sock, parts: sock.sendmsg(parts),
    "sendmmsg": send_messages,
}


def room():
    return [bytearray(0), bytearray(7), bytearray(100), bytearray(70_000)]


def receive_messages(sock):
    """As many of four messages as are there, each into several iovecs."""
    messages = Messages([[bytes(len(part)) for part in room()] for _ in range(4)])
    done = messages.call("recvmmsg", sock, flags=0x10000)  # MSG_WAITFORONE
    return sum(messages.lengths[:done])


RECEIVERS = {
    "read": lambda sock: len(os.read(sock.fileno(), 70_000)),
    "readv": lambda sock: os.readv(sock.fileno(), room()),
    "recvfrom": lambda sock: len(sock.recv(70_000)),
    "recvmsg": lambda sock: sock.recvmsg_into(room())[0],
    "recvmmsg": receive_messages,
}


def number(call):
    return NUMBERS[call][0 if IS_X86 else 1]


def joined(found):
    return b"".join(event.data for event in found)


def is_seamless(found):
    return all(
        (before.position + before.size) & 0xFFFFFFFF == after.position and after.unseen == 0
        for before, after in pairwise(found)
    )


@pytest.mark.parametrize("receiver", RECEIVERS)
@pytest.mark.parametrize("sender", SENDERS)
@pytest.mark.parametrize("transport", ["tcp4", "tcp6", "unix", "udp4", "udp6"])
def test_call_is_seen_whole(capture, pair, transport, sender, receiver):
    client, server = pair(transport)
    SENDERS[sender](client, PARTS)
    left = len(WHOLE)
    while left:
        left -= RECEIVERS[receiver](server)
    sent, received = capture.sent(client), capture.received(server)
    assert joined(sent) == joined(received) == WHOLE
    assert sum(event.size for event in sent) == len(WHOLE)
    assert {event.syscall for event in sent} == {number(sender)}
    assert {event.syscall for event in received} == {number(receiver)}
    assert {event.turn for event in sent + received} == {1}
    assert {event.cause for event in sent + received} == {Cause.DELIVERED}
    assert {event.tgid for event in sent + received} == {os.getpid()}
    assert is_seamless(sent)
    assert is_seamless(received)


def test_1024_iovecs_are_all_read(capture, pair):
    client, server = pair("tcp4")
    parts = [bytes([65 + index % 26]) * (index % 5) for index in range(1024)]
    os.writev(client.fileno(), parts)
    os.readv(server.fileno(), [bytearray(2) for _ in range(1024)])
    whole = b"".join(parts)
    assert joined(capture.sent(client)) == whole
    assert joined(capture.received(server)) == whole[: len(joined(capture.received(server)))]
    assert capture.received(server)[0].size == len(whole)


def test_iovecs_are_cut_at_the_snaplen(capture, pair):
    client, _ = pair("unix")
    parts = [b"a" * 4000, b"", b"b" * 90, b"c" * 1000]
    os.writev(client.fileno(), parts)
    (event,) = capture.sent(client)
    assert event.size == 5090
    assert event.data == b"".join(parts)[:4096]


def test_short_write_is_what_was_accepted(capture, pair):
    client, server = pair("tcp4")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    accepted = []
    with suppress(BlockingIOError):
        while True:
            accepted.append(client.sendmsg([b"x" * 50_000, b"y" * 50_000]))
    assert accepted[-1] < 100_000
    assert [event.size for event in capture.sent(client)] == accepted


def test_polling_an_empty_socket_is_no_transfer(capture, pair):
    client, server = pair("tcp4")
    server.setblocking(False)
    for _ in range(100):
        with pytest.raises(BlockingIOError):
            server.recv(10)
    client.send(b"late")
    assert server.recv(10) == b"late"
    assert joined(capture.received(server)) == b"late"


@pytest.mark.parametrize("transport", ["tcp4", "unix", "udp4"])
def test_peeking_delivers_nothing(capture, pair, transport):
    client, server = pair(transport)
    client.send(b"once")
    assert server.recv(10, socket.MSG_PEEK) == b"once"
    assert server.recvmsg(10, 0, socket.MSG_PEEK)[0] == b"once"
    assert not capture.received(server)
    assert server.recv(10) == b"once"
    (event,) = capture.received(server)
    assert event.data == b"once"
    assert event.unseen == 0


def test_truncating_a_tcp_read_is_a_gap(capture, pair):
    client, server = pair("tcp4")
    client.send(b"thrown away")
    buffer = bytearray(b"untouched  ")
    assert server.recv_into(buffer, 11, socket.MSG_TRUNC) == 11
    (event,) = capture.received(server)
    assert (event.size, event.data, event.cause) == (11, b"", Cause.DISCARDED)


def test_truncated_datagram_is_cut_at_the_buffer(capture, pair):
    client, server = pair("udp4")
    client.send(b"0123456789")
    buffer = bytearray(4)
    assert server.recv_into(buffer, 4, socket.MSG_TRUNC) == 10
    (event,) = capture.received(server)
    assert (event.size, event.data) == (10, b"0123")


@pytest.mark.parametrize("transport", ["tcp4", "unix"])
def test_end_of_stream_is_told_once(capture, pair, transport):
    client, server = pair(transport)
    client.send(b"bye")
    client.shutdown(socket.SHUT_WR)
    server.recv(0)
    assert [server.recv(10) for _ in range(3)] == [b"bye", b"", b""]
    data, end = capture.received(server)
    assert (data.data, data.flags) == (b"bye", TURN_START)
    assert (end.size, end.flags) == (0, EOF)
    assert end.position == (data.position + 3) & 0xFFFFFFFF


def test_end_of_stream_does_not_shift_positions(capture, pair):
    client, server = pair("tcp4")
    client.send(b"0123456789")
    client.shutdown(socket.SHUT_WR)
    while server.recv(4):
        pass
    received = capture.received(server)
    assert joined(received) == b"0123456789"
    assert is_seamless(received)
    assert received[0].position == capture.sent(client)[0].position


@pytest.mark.parametrize("sender", SENDERS)
def test_failed_call_delivers_nothing(capture, pair, sender):
    client, server = pair("unix")
    server.close()
    with pytest.raises(BrokenPipeError):
        SENDERS[sender](client, PARTS)
    assert not capture.sent(client)


@pytest.mark.parametrize("transport", ["udp4", "udp6"])
def test_messages_of_many_calls_keep_apart(capture, pair, transport):
    client, server = pair(transport)
    for count in (3, 1, 4, 2, 3, 3):
        messages = Messages([[b"%d:" % count, b"%d" % index] for index in range(count)])
        assert messages.call("sendmmsg", client) == count
        incoming = Messages([[bytes(1), bytes(30)] for _ in range(4)])
        assert incoming.call("recvmmsg", server, socket.MSG_DONTWAIT) == count
    expected = [b"%d:%d" % (n, i) for n in (3, 1, 4, 2, 3, 3) for i in range(n)]
    assert [event.data for event in capture.sent(client)] == expected
    assert [event.data for event in capture.received(server)] == expected


def test_reused_message_array_is_told_from_a_running_call(capture, pair):
    client, server = pair("udp4")
    incoming = Messages([[bytes(30)] for _ in range(3)])
    expected = []
    for size in (2, 3, 1, 3, 3, 2):
        for index in range(size):
            expected.append(b"%d of %d, %d" % (index, size, len(expected)))
            client.send(expected[-1])
        assert incoming.call("recvmmsg", server, socket.MSG_DONTWAIT) == size
    assert [event.data for event in capture.received(server)] == expected


def test_batch_that_breaks_on_a_bad_message_does_not_mislead(capture, pair):
    client, _ = pair("udp4")
    messages = Messages([[b"first"], [b"second"]])
    good = ctypes.cast(messages.vectors[1], ctypes.POINTER(Iovec))
    for _ in range(3):
        messages.array[1].header.vector = ctypes.cast(0x10, ctypes.POINTER(Iovec))
        assert messages.call("sendmmsg", client) == 1
        messages.array[1].header.vector = good
        assert messages.call("sendmmsg", client) == 2
    seen = [event.data for event in capture.sent(client) if event.cause == Cause.DELIVERED]
    assert set(seen) <= {b"first", b"second"}
    assert sum(event.size for event in capture.sent(client)) == 3 * 5 + 3 * 11
    for event in capture.sent(client):
        if event.data:
            assert event.size == len(event.data)


def test_batch_that_times_out_never_shows_wrong_bytes(capture, pair):
    client, server = pair("udp4")
    incoming = Messages([[bytes(30)] for _ in range(3)])
    expected = []
    for size in (1, 2, 1, 3, 1):
        for _ in range(size):
            expected.append(b"datagram %d" % len(expected))
            client.send(expected[-1])
        # Ends after the first message: the timeout is looked at only then.
        timeout = ctypes.create_string_buffer(struct.pack("qq", 0, 1))
        left = size
        while left:
            left -= incoming.call("recvmmsg", server, 0, timeout)
    received = capture.received(server)
    assert [event.size for event in received] == list(map(len, expected))
    for event, data in zip(received, expected, strict=True):
        assert event.data in {b"", data}
        assert event.cause == (Cause.DELIVERED if event.data else Cause.OTHER_CALL)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_each_datagram_names_its_peer(capture, family):
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((host, 0))
        clients = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(3)]
        for index, client in enumerate(clients):
            client.sendto(b"question %d" % index, server.getsockname())
        answers = []
        for receive in (
            lambda: server.recvfrom(100),
            lambda: server.recvmsg(100)[::3],
            lambda: server.recvfrom(100),
        ):
            _, peer = receive()
            server.sendto(b"answer", peer)
            answers.append(peer)
        ports = [client.getsockname()[1] for client in clients]
        assert [event.peer[1] for event in capture.received(server)] == ports
        assert [event.peer[1] for event in capture.sent(server)] == ports
        expected = socket.inet_pton(family, host).rjust(16, b"\0")
        if family == socket.AF_INET:
            expected = bytes(10) + b"\xff\xff" + expected[-4:]
        assert {event.peer[0] for event in capture.data(server)} == {expected}
        for client in clients:
            (event,) = capture.sent(client)
            assert event.peer[1] == server.getsockname()[1]
            client.close()


def test_peers_of_a_batch_of_datagrams(capture):
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        for client in clients:
            client.sendto(b"hello", server.getsockname())
        incoming = Messages([[bytes(30)] for _ in range(3)], names=[b""] * 3)
        assert incoming.call("recvmmsg", server, socket.MSG_DONTWAIT) == 3
        ports = [client.getsockname()[1] for client in clients]
        assert [event.peer[1] for event in capture.received(server)] == ports
        for client in clients:
            client.close()


def test_receiver_that_does_not_ask_gets_no_stale_peer(capture):
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        for _ in range(3):
            client.sendto(b"hello", server.getsockname())
        server.recvfrom(10, socket.MSG_PEEK)
        server.recv(10)
        server.recvfrom(10)
        server.recv(10)
        assert [event.peer is None for event in capture.received(server)] == [True, False, True]


def test_calls_with_an_offset_of_minus_one_are_stream_calls(capture, pair):
    client, server = pair("tcp4")
    assert os.pwritev(client.fileno(), [b"by ", b"pwritev2"], -1, os.RWF_NOWAIT) == 11
    assert os.preadv(server.fileno(), [bytearray(4), bytearray(20)], -1, os.RWF_NOWAIT) == 11
    assert joined(capture.sent(client)) == joined(capture.received(server)) == b"by pwritev2"


@pytest.mark.skipif(not IS_X86, reason="int 0x80 is of x86")
def test_32_bit_call_is_a_gap(capture, pair):
    client, server = pair("tcp4")
    client.send(b"before ")
    # push rbx; mov ebx, edi; mov ecx, esi; mov eax, 4; int 0x80; pop rbx; ret
    code = bytes.fromhex("53 89fb 89f1 b804000000 cd80 5b c3")
    map_32bit = 0x40
    try:
        low = mmap.mmap(-1, 4096, prot=7, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | map_32bit)
    except OSError:
        pytest.skip("no memory that is writable and executable at once")
    low[: len(code)] = code
    low[100:107] = b"32 bits"
    cell = ctypes.c_char.from_buffer(low)
    address = ctypes.addressof(cell)
    write = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_uint, ctypes.c_uint)(address)
    assert write(client.fileno(), address + 100, 7) == 7
    client.send(b" after")
    assert server.recv(100) == b"before 32 bits after"
    del cell
    low.close()
    seen = [(event.size, event.data, event.unseen) for event in capture.sent(client)]
    if capture.kind == "socket":
        assert seen == [(7, b"before ", 0), (7, b"", 0), (6, b" after", 0)]
        assert capture.sent(client)[1].cause == Cause.COMPAT
    else:
        assert seen == [(7, b"before ", 0), (6, b" after", 7)]


def test_descriptor_closed_during_the_call_never_shows_wrong_bytes(capture, pair):
    client, server = pair("tcp4")
    known = capture.identity(server)
    spare = server.dup()
    got = []
    reader = threading.Thread(target=lambda: got.append(os.read(number_of_server, 100)))
    number_of_server = server.fileno()
    reader.start()
    while "wait" not in Path(f"/proc/self/task/{reader.native_id}/wchan").read_text():
        pass
    other, far = pair("unix")
    far.send(b"another socket's")
    os.dup2(other.fileno(), number_of_server)
    client.send(b"for the old one")
    reader.join()
    assert got == [b"for the old one"]
    spare.close()
    assert joined(capture.received(known)) in {b"", b"for the old one"}
    if capture.kind == "socket":
        (gap,) = capture.received(known)
        assert (gap.size, gap.cause) == (15, Cause.OTHER_CALL)


IPPROTO_MPTCP = 262


def test_mptcp_is_a_stream_with_counted_positions(capture):
    try:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    except OSError as error:
        pytest.skip(f"no MPTCP here: {error}")
    with listener, client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        with listener.accept()[0] as server:
            for text in (b"one", b"two"):
                client.send(text)
                assert server.recv(10) == text
            server.send(b"back")
            assert client.recv(10) == b"back"
            assert [event.data for event in capture.sent(client)] == [b"one", b"two"]
            assert is_seamless(capture.sent(client))
            assert [event.data for event in capture.received(server)] == [b"one", b"two"]
            assert [event.turn for event in capture.data(server)] == [1, 1, 2]
            assert capture.opened(client)[0].role == 1
            assert capture.opened(server)[0].role == 2


def test_plain_client_of_an_mptcp_listener_is_plain_tcp(capture):
    try:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    except OSError as error:
        pytest.skip(f"no MPTCP here: {error}")
    with listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        with listener.accept()[0] as server:
            client.send(b"plain")
            server.recv(10)
            (sent,), (received,) = capture.sent(client), capture.received(server)
            assert (received.data, received.position) == (b"plain", sent.position)
            assert capture.opened(server)[0].role == 2
            assert capture.opened(server)[0].flags == 0


@pytest.mark.parametrize("missing", ["has_loops", "has_atomics"])
def test_programs_for_older_kernels_work_too(capturing, kind, pair, monkeypatch, missing):
    monkeypatch.setattr(probes, missing, lambda: False)
    capture = capturing(payload_source=kind, pids=(os.getpid(),))
    for transport in ("tcp4", "unix", "udp4"):
        client, server = pair(transport)
        for send in SENDERS.values():
            send(client, PARTS)
            left = len(WHOLE)
            while left:
                left -= RECEIVERS["recvmmsg"](server)
            server.send(b"answer")
            client.recv(100)
        assert joined(capture.sent(client)) == WHOLE * len(SENDERS)
        assert joined(capture.received(server)) == WHOLE * len(SENDERS)
        assert capture.sent(client)[-1].turn == 2 * len(SENDERS) - 1
