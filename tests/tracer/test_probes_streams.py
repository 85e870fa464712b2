# SPDX-License-Identifier: Apache-2.0
"""What is known of a socket: identity, positions, turns, beginning and end."""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tracer.events import (
    LATE,
    Cause,
    CloseReason,
    address_text,
)

pytestmark = pytest.mark.kernel

UNKNOWN, CLIENT, SERVER = 0, 1, 2
TCP, UDP, UNIX = 1, 2, 3
STREAMS = ["tcp4", "tcp6", "unix"]

libc = ctypes.CDLL(None, use_errno=True)


def joined(found):
    return b"".join(event.data for event in found)


def talk(client, server, times=1):
    for _ in range(times):
        client.send(b"question")
        server.recv(100)
        server.send(b"answer")
        client.recv(100)


# Opening


@pytest.mark.parametrize("transport", ["tcp4", "tcp6"])
def test_open_tells_addresses_and_process(capture, pair, transport):
    client, server = pair(transport)
    talk(client, server)
    (opened,) = capture.opened(client)
    (accepted,) = capture.opened(server)
    assert (opened.role, accepted.role) == (CLIENT, SERVER)
    assert opened.transport == accepted.transport == TCP
    assert opened.flags == accepted.flags == 0
    host, port = client.getsockname()[:2]
    assert (address_text(opened.local), opened.local_port) == (host, port)
    assert (address_text(accepted.remote), accepted.remote_port) == (host, port)
    assert opened.remote_port == accepted.local_port == server.getsockname()[1]
    assert opened.tgid == os.getpid()
    assert opened.netns == Path("/proc/self/ns/net").stat().st_ino
    assert opened.comm == Path("/proc/self/comm").read_bytes().strip()
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert opened.process_start_ns // 10_000_000 == ticks
    assert opened.egress_position == capture.sent(client)[0].position
    assert accepted.ingress_position == capture.sent(client)[0].position
    assert opened.ingress_position == capture.sent(server)[0].position


def test_open_comes_once_and_before_the_data(capture, pair):
    client, server = pair("tcp4")
    talk(client, server, times=5)
    kinds = [type(event).__name__ for event in capture.of(client)]
    assert kinds == ["OpenEvent"] + ["DataEvent"] * 10


def test_unused_connection_is_not_told(capture, pair):
    client, server = pair("tcp4")
    known = [capture.identity(client), capture.identity(server)]
    client.close()
    server.close()
    assert not [event for cookie in known for event in capture.of(cookie)]


def test_unix_open_has_the_servers_path_at_both_ends(capture, pair):
    client, server = pair("unix")
    path = server.getsockname().encode()
    talk(client, server)
    (opened,) = capture.opened(client)
    (accepted,) = capture.opened(server)
    assert (opened.role, opened.path) == (CLIENT, path)
    assert (accepted.role, accepted.path) == (SERVER, path)
    assert opened.transport == UNIX
    assert opened.flags == accepted.flags == 0


def test_abstract_unix_name_keeps_its_nul(capture):
    name = b"\0wirespan test %d" % os.getpid()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(name)
        listener.listen()
        client.connect(name)
        client.send(b"x")
        (opened,) = capture.opened(client)
        assert (opened.role, opened.path) == (CLIENT, name)


def test_socket_pair_has_no_role(capture):
    one, other = socket.socketpair()
    with one, other:
        talk(one, other)
        assert {capture.opened(end)[0].role for end in (one, other)} == {UNKNOWN}
        assert [event.turn for event in capture.data(one)] == [1, 2]


def test_unconnected_udp_takes_its_role_from_who_speaks_first(capture):
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
    ):
        server.bind(("127.0.0.1", 0))
        client.sendto(b"question", server.getsockname())
        server.sendto(b"answer", server.recvfrom(100)[1])
        client.recvfrom(100)
        (opened,) = capture.opened(client)
        (served,) = capture.opened(server)
        assert (opened.role, served.role) == (CLIENT, SERVER)
        assert served.local_port == server.getsockname()[1]
        assert address_text(served.remote) == ""


def test_udp_datagrams_are_sockets_of_their_own_kind(capture, pair):
    client, server = pair("udp4")
    talk(client, server)
    assert capture.opened(client)[0].transport == UDP
    assert capture.opened(client)[0].flags == 0


def test_other_descriptors_are_not_traced(capture, tmp_path):
    read_end, write_end = os.pipe()
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with netlink, one, other, (tmp_path / "file").open("wb") as file:
        os.write(write_end, b"pipe")
        os.read(read_end, 10)
        file.write(b"file")
        one.send(b"datagram")
        other.recv(10)
    os.close(read_end)
    os.close(write_end)
    assert not capture.poll()


# Identity


def test_descriptors_of_one_socket_are_one_connection(capture, pair):
    client, server = pair("tcp4")
    other = client.dup()
    third = os.dup2(client.fileno(), os.dup(client.fileno()))
    client.send(b"a")
    other.send(b"b")
    os.write(third, b"c")
    client.detach()
    os.close(third)
    other.send(b"d")
    assert joined(capture.sent(other)) == b"abcd"
    assert len(capture.opened(other)) == 1
    server.recv(10)
    other.close()


def test_child_goes_on_with_its_parents_connection(capture, pair, child):
    client, server = pair("tcp4")
    client.send(b"parent ")
    with child(lambda: (client.send(b"child "), os.getpid())[1]) as result:
        pid = result()
    client.send(b"parent")
    sent = capture.sent(client)
    assert joined(sent) == b"parent child parent"
    assert [event.tgid for event in sent] == [os.getpid(), pid, os.getpid()]
    assert [event.unseen for event in sent] == [0, 0, 0]
    assert server.recv(100) == b"parent child parent"


def test_descriptor_that_travels_is_still_the_same_connection(capture, pair, child):
    client, server = pair("tcp4")
    left, right = socket.socketpair()
    server.send(b"before")

    def work():
        _, ancillary, *_ = right.recvmsg(1, socket.CMSG_SPACE(4))
        fd = struct.unpack("i", ancillary[0][2])[0]
        os.write(fd, b" behind")
        return True

    with left, right, child(work) as result:
        left.sendmsg(
            [b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [server.fileno()]))]
        )
        assert result()
    assert joined(capture.sent(server)) == b"before behind"
    assert client.recv(100) == b"before behind"


def test_descriptor_numbers_that_come_back_are_new_connections(capture):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        known = {}
        numbers = set()
        for index in range(1000):
            with socket.create_connection(listener.getsockname()) as client:
                accepted, _ = listener.accept()
                with accepted:
                    numbers.add(accepted.fileno())
                    text = b"%d" % index
                    client.send(text)
                    accepted.recv(100)
                    known[capture.identity(client)] = known[capture.identity(accepted)] = text
    assert len(numbers) == 1
    assert len(known) == 2000
    found = {}
    for event in capture.poll():
        if hasattr(event, "data"):
            found[event.cookie] = found.get(event.cookie, b"") + event.data
    assert found == known


# Positions and turns


def test_positions_match_at_both_ends(capture, pair):
    client, server = pair("tcp4")
    talk(client, server, times=3)
    assert [event.position for event in capture.sent(client)] == [
        event.position for event in capture.received(server)
    ]
    assert [event.position for event in capture.sent(server)] == [
        event.position for event in capture.received(client)
    ]
    assert all(0 < event.rtt_us < 1_000_000 for event in capture.data(client))


@pytest.mark.parametrize("transport", [*STREAMS, "udp4"])
def test_turn_grows_when_the_direction_changes(capture, pair, transport):
    client, server = pair(transport)
    client.send(b"a")
    client.send(b"b")
    server.recv(1)
    server.recv(1)
    server.send(b"c")
    client.recv(1)
    client.send(b"d")
    assert [event.turn for event in capture.data(client)] == [1, 1, 2, 3]
    assert [event.turn for event in capture.data(server)] == [1, 1, 2]


def test_two_threads_on_one_socket_keep_turns_and_positions_right(capture, pair):
    client, server = pair("unix")
    size = 20_000

    def fill(end):
        for _ in range(size // 10):
            end.send(b"0123456789")

    def empty(end):
        left = size
        while left:
            left -= len(end.recv(min(left, 100)))

    threads = [
        threading.Thread(target=work, args=(end,))
        for end in (client, server)
        for work in (fill, empty)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for end in (client, server):
        events = capture.data(end)
        turns = [(event.turn, event.direction) for event in events]
        assert len(dict(turns)) == len(set(turns)), "one turn has one direction"
        assert {turn for turn, _ in turns} == set(range(1, max(turns)[0] + 1))
        for direction in (0, 1):
            found = sorted(
                (event.position, event.size) for event in events if event.direction == direction
            )
            end_of = 0
            for position, length in found:
                assert position == end_of
                end_of += length
            assert end_of == size


def test_bytes_that_no_hook_saw_are_counted(capture, pair):
    client, server = pair("tcp4")
    client.send(b"seen")
    server.recv(100)
    client.send(b"spliced away")
    read_end, write_end = os.pipe()
    assert os.splice(server.fileno(), write_end, 100) == 12
    client.send(b"seen again")
    server.recv(100)
    received = capture.received(server)
    if capture.kind == "socket":
        before, after = received
        assert after.unseen == 12
        assert after.position == (before.position + 4 + 12) & 0xFFFFFFFF
    else:
        before, gap, after = received
        assert (gap.size, gap.data, gap.cause) == (12, b"", Cause.SPLICE)
        assert after.unseen == 0
    os.close(read_end)
    os.close(write_end)


def test_sendfile_is_a_gap_of_known_length(capture, pair, tmp_path):
    path = tmp_path / "page"
    path.write_bytes(b"x" * 300_000)
    client, server = pair("tcp4")
    client.send(b"head")
    left = 300_000
    with path.open("rb") as file:
        while left:
            left -= os.sendfile(client.fileno(), file.fileno(), None, min(left, 100_000))
            while True:
                try:
                    server.recv(1 << 20, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
    client.send(b"tail")
    head, *gaps, tail = capture.sent(client)
    assert (head.data, tail.data) == (b"head", b"tail")
    assert sum(gap.size for gap in gaps) == 300_000
    assert {(gap.data, gap.cause, gap.unseen) for gap in gaps} == {(b"", Cause.SENDFILE, 0)}
    assert tail.unseen == 0


def test_splice_to_a_socket_is_a_gap_of_known_length(capture, pair):
    client, server = pair("tcp4")
    read_end, write_end = os.pipe()
    os.write(write_end, b"through a pipe")
    assert os.splice(read_end, client.fileno(), 100) == 14
    assert server.recv(100) == b"through a pipe"
    (gap,) = capture.sent(client)
    assert (gap.size, gap.data, gap.cause) == (14, b"", Cause.SPLICE)
    os.close(read_end)
    os.close(write_end)


class IoUring:
    """One submission at a time (io_uring(7)); numbers are the same on all machines."""

    SETUP, ENTER = 425, 426
    SEND, RECV = 26, 27
    OFFSETS = 40

    def __init__(self):
        parameters = ctypes.create_string_buffer(120)
        self.fd = libc.syscall(self.SETUP, 4, parameters)
        if self.fd < 0:
            pytest.skip(f"no io_uring here: {os.strerror(ctypes.get_errno())}")
        self.sq = struct.unpack_from("10I", parameters, self.OFFSETS)
        entries = struct.unpack_from("I", parameters, 0)[0]
        size = max(self.sq[6] + entries * 4, 4096)
        self.ring = mmap.mmap(self.fd, size, offset=0)
        self.entries = mmap.mmap(self.fd, entries * 64, offset=0x10000000)

    def run(self, operation, sock, buffer):
        address = ctypes.addressof(buffer)
        entry = struct.pack(
            "BBHiQQIIQ", operation, 0, 0, sock.fileno(), 0, address, len(buffer), 0, 1
        )
        _, tail, mask = self.sq[:3]
        position = struct.unpack_from("I", self.ring, tail)[0]
        slot = position & struct.unpack_from("I", self.ring, mask)[0]
        self.entries[slot * 64 : slot * 64 + 64] = entry.ljust(64, b"\0")
        struct.pack_into("I", self.ring, self.sq[6] + slot * 4, slot)
        struct.pack_into("I", self.ring, tail, position + 1)
        assert libc.syscall(self.ENTER, self.fd, 1, 1, 1, None, 0) == 1

    def close(self):
        self.ring.close()
        self.entries.close()
        os.close(self.fd)


def test_io_uring_is_a_gap_of_known_length(capture, pair):
    client, server = pair("tcp4")
    uring = IoUring()
    buffer = ctypes.create_string_buffer(b"by io_uring", 11)
    client.send(b"by send, ")
    uring.run(uring.SEND, client, buffer)
    assert server.recv(100) == b"by send, by io_uring"
    server.send(b"answer")
    uring.run(uring.RECV, client, buffer)
    assert buffer.raw.startswith(b"answer")
    client.send(b"!")
    uring.close()
    if capture.kind == "socket":
        sent = [(event.size, event.data, event.cause) for event in capture.sent(client)]
        assert sent == [
            (9, b"by send, ", Cause.DELIVERED),
            (11, b"", Cause.IO_URING),
            (1, b"!", Cause.DELIVERED),
        ]
        (gap,) = capture.received(client)
        assert (gap.size, gap.data, gap.cause) == (6, b"", Cause.IO_URING)
    else:
        assert [event.unseen for event in capture.sent(client)] == [0, 11]


# Ending


def test_close_tells_how_much_there_was(capture, pair):
    client, server = pair("tcp4")
    talk(client, server, times=3)
    known = [capture.identity(client), capture.identity(server)]
    begin = [capture.sent(end)[0].position for end in (client, server)]
    client.close()
    server.recv(1)
    server.close()
    first, second = [capture.closed(cookie)[0] for cookie in known]
    assert first.reason == second.reason == CloseReason.CLOSED
    assert first.turns == second.turns == 6
    assert first.egress_position == second.ingress_position == begin[0] + 24 & 0xFFFFFFFF
    assert first.ingress_position == second.egress_position == begin[1] + 18 & 0xFFFFFFFF


def test_zero_linger_is_a_reset_at_both_ends(capture, pair):
    client, server = pair("tcp4")
    talk(client, server)
    known = [capture.identity(client), capture.identity(server)]
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    reasons = [capture.closed(cookie)[0].reason for cookie in known]
    assert reasons == [CloseReason.RESET, CloseReason.RESET]


def test_closing_with_unread_data_is_a_reset(capture, pair):
    client, server = pair("tcp4")
    talk(client, server)
    server.send(b"never read")
    cookie = capture.identity(client)
    client.close()
    assert capture.closed(cookie)[0].reason == CloseReason.RESET


def test_refused_connection_is_told(capture):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with socket.socket() as client:
        cookie = capture.identity(client)
        with pytest.raises(ConnectionRefusedError):
            client.connect(address)
    (opened,) = capture.opened(cookie)
    (closed,) = capture.closed(cookie)
    assert (opened.role, opened.tgid, opened.remote_port) == (CLIENT, os.getpid(), address[1])
    assert (closed.reason, closed.turns) == (CloseReason.REFUSED, 0)


def test_socket_that_connects_again_is_opened_again(capture):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        gone = socket.create_server(("127.0.0.1", 0))
        refusing = gone.getsockname()
        gone.close()
        with socket.socket() as client:
            cookie = capture.identity(client)
            with pytest.raises(ConnectionRefusedError):
                client.connect(refusing)
            client.connect(address)
            client.send(b"x")
            refused, opened = capture.opened(cookie)
            assert (refused.remote_port, opened.remote_port) == (refusing[1], address[1])
            assert [event.turn for event in capture.data(cookie)] == [1]


# Sockets that were there before


@pytest.mark.parametrize("transport", STREAMS)
def test_older_connection_is_late_and_has_its_role(capturing, kind, pair, transport):
    if transport == "unix":
        client, server = pair(transport)
    else:
        family = socket.AF_INET if transport == "tcp4" else socket.AF_INET6
        host = "127.0.0.1" if transport == "tcp4" else "::1"
        listener = socket.create_server((host, 0), family=family)
        client = socket.create_connection(listener.getsockname()[:2])
        server, _ = listener.accept()
    talk(client, server, times=2)
    capture = capturing(payload_source=kind, pids=(os.getpid(),))
    talk(client, server)
    for end, role in ((client, CLIENT), (server, SERVER)):
        (opened,) = capture.opened(end)
        assert (opened.role, opened.flags) == (role, LATE)
        assert [event.unseen for event in capture.data(end)] == [0, 0]
    if transport != "unix":
        assert capture.opened(client)[0].egress_position == capture.sent(client)[0].position
        cookie = capture.identity(client)
        client.close()
        server.close()
        listener.close()
        assert capture.closed(cookie)


def test_call_that_waits_since_before_is_seen_at_its_end(capturing, kind, pair):
    client, server = pair("tcp4")
    got = []
    reader = threading.Thread(target=lambda: got.append(server.recv(100)))
    reader.start()
    capture = capturing(payload_source=kind, pids=(os.getpid(),))
    client.send(b"at last")
    reader.join()
    assert got == [b"at last"]
    assert joined(capture.received(server)) == b"at last"


NAMESPACE = """
import ctypes, fcntl, os, socket, struct, sys
if ctypes.CDLL(None).unshare(0x40000000):
    sys.exit(3)
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1))
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
print(os.stat("/proc/self/ns/net").st_ino, flush=True)
sys.stdin.readline()
client.send(b"in another namespace")
server.recv(100)
cookies = [struct.unpack("Q", end.getsockopt(1, 57, 8))[0] for end in (client, server)]
print(*cookies, flush=True)
"""


def test_other_network_namespaces_are_seen_too(capturing, kind):
    command = [sys.executable, "-c", NAMESPACE]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        if not line:
            pytest.skip("no right to make a network namespace")
        capture = capturing(payload_source=kind, pids=(process.pid,))
        cookies = process.communicate("go\n")[0].split()
    opened = [capture.opened(int(cookie))[0] for cookie in cookies]
    assert {event.netns for event in opened} == {int(line)}
    assert int(line) != Path("/proc/self/ns/net").stat().st_ino
    assert [event.role for event in opened] == [CLIENT, SERVER]
    assert {event.flags for event in opened} == {LATE}
    assert joined(capture.sent(int(cookies[0]))) == b"in another namespace"
