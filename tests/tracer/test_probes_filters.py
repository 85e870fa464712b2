# SPDX-License-Identifier: Apache-2.0
"""Who is traced: filters, verdicts, and the tracer itself, which never is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tracer.cgroups import unified_mount
from tracer.events import EGRESS, Action, Cause

pytestmark = pytest.mark.kernel

SO_COOKIE = 57


def cookie_of(sock):
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")


def talk(client, server, times=1):
    for _ in range(times):
        client.send(b"question")
        server.recv(100)
        server.send(b"answer")
        client.recv(100)


def talk_alone():
    """A connection with itself; returns the cookies of both ends."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as server,
    ):
        talk(client, server)
        return cookie_of(client), cookie_of(server)


TALK = """
import socket, struct, sys
sys.stdin.readline()
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
client.send(b"question")
server.recv(100)
print(*[struct.unpack("Q", end.getsockopt(1, 57, 8))[0] for end in (client, server)], flush=True)
"""


def other_process(port=0, executable=sys.executable):
    """A process of its own, no child of this one as far as filters know, that waits for `go`."""
    return subprocess.Popen(
        [executable, "-c", TALK, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def go(process):
    with process:
        return list(map(int, process.communicate("go\n")[0].split()))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_other_processes_produce_nothing(capturing, kind):
    process = other_process()
    capture = capturing(payload_source=kind, pids=(os.getpid(),), follow=False)
    theirs = go(process)
    ours = talk_alone()
    assert all(capture.of(cookie) for cookie in ours)
    assert not any(capture.of(cookie) for cookie in theirs)
    assert capture.counter(Cause.DELIVERED).events == len(
        [event for event in capture.poll() if hasattr(event, "turn")]
    )


def test_children_and_their_children_are_followed(capture, child):
    def grandparent():
        with child(talk_alone) as inner:
            return inner(), talk_alone()

    with child(grandparent) as result:
        below, middle = result()
    assert all(capture.of(cookie) for cookie in (*below, *middle))


def test_children_that_are_there_already_are_followed(capturing, kind):
    process = other_process()
    capture = capturing(payload_source=kind, pids=(os.getpid(),))
    assert all(capture.of(cookie) for cookie in go(process))


def test_name_of_the_process_decides(capturing, kind, tmp_path):
    named = tmp_path / "wirespan-test-with-a-long-name"
    named.symlink_to(sys.executable)
    process = other_process(executable=named)
    name = Path(f"/proc/{process.pid}/comm").read_text().strip()
    while name == Path("/proc/self/comm").read_text().strip():
        name = Path(f"/proc/{process.pid}/comm").read_text().strip()
    capture = capturing(payload_source=kind, comms=("wirespan-test-with-a-long-name",))
    theirs = go(process)
    ours = talk_alone()
    assert name == "wirespan-test-w"
    assert all(capture.of(cookie) for cookie in theirs)
    assert not any(capture.of(cookie) for cookie in ours)


def test_port_on_either_side_decides(capturing, kind):
    port = free_port()
    capture = capturing(payload_source=kind, ports=(port,))
    process = other_process(port)
    assert all(capture.of(cookie) for cookie in go(process))
    assert not any(capture.of(cookie) for cookie in talk_alone())


def test_port_is_known_of_a_socket_that_its_peer_has_reset(capturing, kind):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        capture = capturing(payload_source=kind, ports=(listener.getsockname()[1],))
        client = socket.create_connection(listener.getsockname())
        with client, listener.accept()[0] as server:
            client.send(b"question")
            server.recv(100)
            client.close()
            # The reset comes back before send has returned, and takes the port away.
            server.send(b"answer")
            assert [event.data for event in capture.sent(server)] == [b"answer"]


def test_port_of_a_datagrams_peer_decides(capturing, kind):
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        capture = capturing(payload_source=kind, ports=(server.getsockname()[1],))
        client.sendto(b"wanted", server.getsockname())
        client.sendto(b"unwanted", other.getsockname())
        server.recvfrom(100)
        other.recvfrom(100)
        assert [event.data for event in capture.sent(client)] == [b"wanted"]
        assert [event.data for event in capture.received(server)] == [b"wanted"]
        assert not capture.of(other)


def test_datagram_whose_receiver_does_not_ask_for_the_sender_passes_where_one_went_out(
    capturing, kind
):
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        for each in (server, client, stranger):
            each.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        capture = capturing(payload_source=kind, pids=(os.getpid(),), ports=(port,))
        client.sendto(b"question", server.getsockname())
        _, asking = server.recvfrom(100)
        server.sendto(b"answer", asking)
        assert client.recv(100) == b"answer"
        server.sendto(b"nobody asked", stranger.getsockname())
        stranger.recv(100)
        assert [each.data for each in capture.sent(client)] == [b"question"]
        assert [each.data for each in capture.received(client)] == [b"answer"]
        assert not capture.of(stranger)


@pytest.fixture
def cgroup():
    mount = unified_mount()
    if mount is None:
        pytest.skip("no cgroup v2 here")
    group = mount / f"wirespan-test-{os.getpid()}"
    try:
        (group / "below").mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"no right to make a control group: {error}")
    yield group
    (group / "below").rmdir()
    group.rmdir()


def test_control_group_decides(capturing, kind, cgroup):
    inside, outside = other_process(), other_process()
    (cgroup / "below" / "cgroup.procs").write_text(str(inside.pid))
    capture = capturing(payload_source=kind, cgroups=(cgroup,))
    seen, unseen = go(inside), go(outside)
    assert all(capture.of(cookie) for cookie in seen)
    assert not any(capture.of(cookie) for cookie in unseen)
    assert capture.opened(seen[0])[0].cgroup_id == (cgroup / "below").stat().st_ino


SERVE = """
import socket, struct
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
cookies = []
for _ in range(2):
    server, _ = listener.accept()
    server.recv(100)
    server.send(b"answer")
    cookies.append(struct.unpack("Q", server.getsockopt(1, 57, 8))[0])
print(*cookies, flush=True)
"""


@pytest.mark.parametrize("before", [False, True])
def test_neither_end_of_the_tracers_own_connections_is_traced(capturing, kind, child, before):
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True
    ) as process:
        address = ("127.0.0.1", int(process.stdout.readline()))
        mine = socket.create_connection(address) if before else None
        capture = capturing(payload_source=kind, exclude_self=True)
        mine = mine or socket.create_connection(address)

        def client():
            with socket.create_connection(address) as theirs:
                theirs.send(b"question")
                theirs.recv(100)
                return cookie_of(theirs)

        with mine:
            mine.send(b"export")
            mine.recv(100)
            with child(client) as result:
                theirs = result()
            own_peer, their_peer = map(int, process.stdout.readline().split())
            assert not capture.of(mine)
        assert not capture.of(own_peer)
        assert capture.of(theirs)
        assert capture.of(their_peer)


# Verdicts


def test_stopped_connection_says_nothing_but_its_close(capture, pair):
    client, server = pair("tcp4")
    talk(client, server)
    cookie = capture.identity(client)
    before = capture.counter(Cause.STOPPED)
    capture.forget_all()
    capture.source.advise(cookie, Action.STOP)
    talk(client, server, times=3)
    client.close()
    server.close()
    assert [type(event).__name__ for event in capture.of(cookie)] == ["CloseEvent"]
    assert capture.closed(cookie)[0].turns == 8
    after = capture.counter(Cause.STOPPED)
    assert after.events - before.events == 6
    assert after.bytes - before.bytes == 3 * 14
    assert after.requests - before.requests == after.responses - before.responses == 3
    capture.source.forget(cookie)


def test_forgotten_verdict_lets_everything_through_again(capture, pair):
    client, server = pair("tcp4")
    cookie = capture.identity(client)
    capture.source.advise(cookie, Action.STOP)
    talk(client, server)
    capture.source.forget(cookie)
    talk(client, server)
    assert [event.turn for event in capture.data(client)] == [3, 4]


@pytest.mark.parametrize("transport", ["tcp4", "unix"])
def test_bytes_of_a_body_are_skipped_up_to_its_end(capture, pair, transport):
    client, server = pair(transport)
    client.send(b"head")
    (head,) = capture.sent(client)
    cookie = capture.identity(client)
    until = head.position + 4 + 250 & 0xFFFFFFFF
    capture.source.advise(cookie, Action.SKIP, EGRESS, until)
    server.recv(100)
    server.send(b"not of that direction")
    for _ in range(3):
        client.send(b"x" * 100)  # the third begins inside the body and ends behind it
    client.send(b"next")
    assert [event.data for event in capture.received(client)] == []
    client.recv(100)
    assert len(capture.received(client)) == 1
    head, crossing, after = capture.sent(client)
    assert crossing.position == head.position + 4 + 200 & 0xFFFFFFFF
    assert crossing.size == 100
    assert after.data == b"next"
    assert {event.unseen for event in capture.sent(client)} == {0}
    capture.source.forget(cookie)


def test_connection_announces_itself_again_when_asked(capture, pair):
    client, server = pair("tcp4")
    talk(client, server)
    capture.forget_all()
    capture.source.advise(capture.identity(client), Action.ANNOUNCE)
    talk(client, server, times=2)
    kinds = [type(event).__name__ for event in capture.of(client)]
    assert kinds == ["OpenEvent"] + ["DataEvent"] * 4
