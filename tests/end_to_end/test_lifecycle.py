# SPDX-License-Identifier: Apache-2.0
"""The agent comes and goes, even by kill -9, and nobody notices."""

from __future__ import annotations

import ctypes
import re
import signal
import socket
import statistics
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.end_to_end.servers import ask, counting_connection
from tests.rig import WIRESPAN, nginx, running, wait_until, watch

pytestmark = [pytest.mark.kernel, pytest.mark.load]


@pytest.fixture(scope="module")
def server():
    with nginx() as made:
        yield made


HELD = re.compile(r"^(prog|map|link)_id:\s+(\d+)$", re.MULTILINE)


def held_by(pid):
    """Ids of the programs, maps and links that a process has descriptors of."""
    found = set()
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed since
            found |= {(kind, int(number)) for kind, number in HELD.findall(path.read_text())}
    return found


def all_objects():
    """The same of the whole kernel."""
    libbpf = ctypes.CDLL("libbpf.so.1")
    found = set()
    for kind in ("prog", "map", "link"):
        following = getattr(libbpf, f"bpf_{kind}_get_next_id")
        number = ctypes.c_uint32(0)
        while following(number, ctypes.byref(number)) == 0:
            found.add((kind, number.value))
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_in_the_kernel(source, server, number):
    command = [WIRESPAN, "watch", "--source", source, "--port", str(server.port)]
    with running(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as program:
        assert "Watching" in program.stderr.readline()
        held = held_by(program.pid)
        assert {kind for kind, _ in held} == {"prog", "map", "link"}
        assert held <= all_objects()
        program.send_signal(number)
        program.wait(10)
        program.stderr.close()
    # The kernel frees them after a grace period, in its own time.
    wait_until(lambda: not held & all_objects(), f"the kernel lets go of {held & all_objects()}")


def test_two_agents_both_see_all(source, server):
    other = "syscall" if source == "socket" else "socket"
    port = ("--port", str(server.port))
    connection = counting_connection(server.port)
    with watch("--source", source, *port) as first, watch("--source", other, *port) as second:
        third = [WIRESPAN, "watch", "--source", source, *port]
        with running(third, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
            for index in range(23):
                assert ask(connection, "GET", f"/small?{index}") == 200
            program.kill()
            program.stdout.close()
        for index in range(23, 46):
            assert ask(connection, "GET", f"/small?{index}") == 200
        connection.close()
    for each in (first, second):
        assert each.exit_code == 0
        for kind in ("client", "server"):
            assert len(each.of_kind(kind)) == 46
            assert all(s["attributes"]["http.response.status_code"] == 200 for s in each.spans)


class Asker(threading.Thread):
    """Asks all the time on one connection, and notes how long each answer took."""

    def __init__(self, port):
        super().__init__()
        self.port = port
        self.took_s = []
        self.statuses = set()
        self.error = None
        self.enough = False
        self.start()

    def run(self):
        connection = counting_connection(self.port)
        try:
            while not self.enough:
                began_s = time.perf_counter()
                self.statuses.add(ask(connection, "GET", "/small"))
                self.took_s.append(time.perf_counter() - began_s)
                time.sleep(0.0005)
        except OSError as error:
            self.error = error
        finally:
            connection.close()


def test_the_traced_program_never_notices(source, server):
    """Ten agents attach and go under load, every other one by kill -9."""
    askers = [Asker(server.port) for _ in range(3)]
    command = [WIRESPAN, "watch", "--source", source, "-o", "none", "--port", str(server.port)]
    try:
        for index in range(10):
            with running(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            ) as program:
                assert "Watching" in program.stderr.readline()
                time.sleep(0.05)
                program.send_signal(signal.SIGKILL if index % 2 else signal.SIGINT)
                program.wait(10)
                program.stderr.close()
    finally:
        for each in askers:
            each.enough = True
        for each in askers:
            each.join()
    assert [each.error for each in askers] == [None] * 3
    assert {status for each in askers for status in each.statuses} == {200}
    took_s = [second for each in askers for second in each.took_s]
    print(
        f"{source}: {len(took_s):,} requests, median {statistics.median(took_s) * 1e6:.0f} us,"
        f" longest {max(took_s) * 1e3:.0f} ms"
    )
    assert max(took_s) < 2.0
    assert server.program.poll() is None
    assert not (server.home / "error.log").read_text().strip()


def test_a_program_that_is_traced_may_use_its_socket_as_before(source):
    """Bytes, errors and readiness are what they are without a tracer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with (
            watch("--source", source, "--port", str(port)),
            socket.create_connection(("127.0.0.1", port)) as client,
            listener.accept()[0] as there,
        ):
            client.sendall(b"GET /x HTTP/1.1\r\n")
            assert there.recv(3, socket.MSG_PEEK) == b"GET"
            assert there.recv(100) == b"GET /x HTTP/1.1\r\n"
            there.setblocking(False)
            with pytest.raises(BlockingIOError):
                there.recv(1)
            client.close()
            there.setblocking(True)
            assert there.recv(1) == b""
