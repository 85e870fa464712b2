# SPDX-License-Identifier: Apache-2.0
"""Loading, draining and counting: what the kernel source owes whoever reads from it."""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tracer import events, libbpf, probes
from tracer.errors import LoadError
from tracer.events import Cause, DataEvent
from tracer.objects import object_path
from tracer.probes import KernelSource, Settings

pytestmark = pytest.mark.kernel

IS_X86 = platform.machine() == "x86_64"
SMALL_RING = 64 << 10


def data_events(capture):
    return [event for event in capture.poll() if isinstance(event, DataEvent)]


def difference(after, before):
    return {
        cause: tuple(a - b for a, b in zip(after[cause], before[cause], strict=True))
        for cause in Cause
        if after[cause] != before[cause]
    }


# Draining


def test_poll_waits_no_longer_than_asked_and_returns_at_once_with_data(capture, pair):
    client, _ = pair("tcp4")
    began = time.monotonic()
    while capture.source.poll(0.05).chunk:
        pass
    assert 0.04 < time.monotonic() - began < 2
    client.send(b"x")
    assert capture.source.poll(30).chunk


def test_no_event_is_later_than_its_batch(capture, pair):
    client, server = pair("tcp4")
    client.send(b"x")
    server.recv(1)
    batch = capture.source.poll(0)
    stamps = [event.timestamp_ns for event in events.walk(batch.chunk)]
    assert stamps == sorted(stamps)
    assert len(stamps) == 4
    assert 0 < batch.now_ns - stamps[-1] < 10_000_000_000
    assert abs(batch.now_ns + batch.unix_offset_ns - time.time_ns()) < 1_000_000_000


def test_ring_goes_round_many_times(capturing, kind, pair):
    capture = capturing(payload_source=kind, pids=(os.getpid(),), ring_bytes=SMALL_RING)
    client, server = pair("unix")
    text = bytearray(range(256)) * 4
    for index in range(500):
        text[0] = index % 256
        client.send(text)
        server.recv(2000)
        if index % 10 == 0:
            capture.poll()
    sent = capture.sent(client)
    assert [event.data[0] for event in sent] == [index % 256 for index in range(500)]
    assert {event.data[1:] for event in sent} == {bytes(text[1:])}
    assert capture.counter(Cause.RING_FULL).events == 0


@pytest.mark.parametrize("has_pending_position", [True, False])
def test_headers_are_looked_at_where_the_kernel_keeps_no_pending_position(
    capturing, pair, monkeypatch, has_pending_position
):
    if not has_pending_position:
        monkeypatch.setattr(KernelSource, "_pending_offset", lambda self: 0)
    capture = capturing(pids=(os.getpid(),))
    assert (capture.source._pending_offset() != 0) == has_pending_position
    client, server = pair("tcp4")
    for _ in range(50):
        client.send(b"question")
        server.recv(100)
    assert len(capture.sent(client)) == len(capture.received(server)) == 50


# Counting


def test_every_transfer_is_counted_once_and_every_turn_at_its_first(capture, pair):
    before = capture.source.counters()
    client, server = pair("tcp4")
    one, other = pair("unix")
    for sender, receiver in ((client, server), (server, client), (one, other)):
        sender.send(b"first ")
        sender.send(b"second")
        receiver.recv(100)
    left, right = socket.socketpair()
    with left, right:
        left.send(b"x")
        right.recv(1)
    counted = difference(capture.source.counters(), before)
    assert counted == {Cause.DELIVERED: (11, 74, 4, 2, 2)}
    delivered = data_events(capture)
    assert len(delivered) == 11
    assert sum(event.size for event in delivered) == 74
    assert sum(bool(event.flags & events.TURN_START) for event in delivered) == 8


def test_what_the_ring_has_no_room_for_is_counted_to_the_last_turn(capturing, kind, pair):
    capture = capturing(
        payload_source=kind, pids=(os.getpid(),), ring_bytes=SMALL_RING, snaplen=1024
    )
    ends = [pair(transport) for transport in ("tcp4", "tcp6", "unix")]
    made = 0
    for _ in range(60):
        for client, server in ends:
            client.send(b"q" * 500)
            client.send(b"q" * 500)
            server.recv(1000, socket.MSG_WAITALL)
            server.send(b"a" * 900)
            client.recv(2000)
            made += 1
    counters = capture.source.counters()
    delivered, dropped = counters[Cause.DELIVERED], counters[Cause.RING_FULL]
    assert delivered.events
    assert dropped.events
    assert delivered.requests + dropped.requests == 2 * made
    assert delivered.responses + dropped.responses == 2 * made
    assert delivered.turns == dropped.turns == 0
    assert delivered.bytes + dropped.bytes == 2 * made * 1900
    kept = data_events(capture)
    assert len(kept) == delivered.events
    assert {cause for cause, counter in counters.items() if counter.events} == {
        Cause.DELIVERED,
        Cause.RING_FULL,
    }


def test_capture_recovers_from_a_full_ring_and_shows_the_gap(capturing, kind, pair):
    capture = capturing(payload_source=kind, pids=(os.getpid(),), ring_bytes=SMALL_RING)
    client, server = pair("tcp4")
    for _ in range(200):
        client.send(b"x" * 1000)
        server.recv(1000)
    before = capture.sent(client)
    assert len(before) < 200
    client.send(b"again")
    server.recv(100)
    last = capture.sent(client)[-1]
    assert last.data == b"again"
    assert last.position == before[0].position + 200_000 & 0xFFFFFFFF
    assert last.unseen == 0, "the kernel saw all of it"
    assert capture.source.lost_records()["ends"] == 0


def test_open_record_without_room_comes_with_the_next_transfer(capturing, kind, pair):
    capture = capturing(payload_source=kind, pids=(os.getpid(),), ring_bytes=SMALL_RING)
    filler, sink = pair("unix")
    for _ in range(100):
        filler.send(b"x" * 1000)
        sink.recv(1000)
    client, server = pair("tcp4")
    client.send(b"nobody hears it")
    server.recv(100)
    cookie = capture.identity(client)
    assert not capture.of(cookie)
    assert capture.source.lost_records()["opens"] >= 1
    client.send(b"but this")
    opened, event = capture.of(cookie)
    assert event.data == b"but this"
    assert event.position == opened.egress_position
    assert event.turn == 1
    assert not event.flags & events.TURN_START


@pytest.mark.parametrize("snaplen", [1, 100, 16384])
def test_snaplen_bounds_what_is_copied(capturing, kind, pair, snaplen):
    capture = capturing(payload_source=kind, pids=(os.getpid(),), snaplen=snaplen)
    client, server = pair("unix")
    text = bytes(range(256)) * 100
    client.send(text)
    client.sendmsg([text[:50], text[50:70], text[70:]])
    server.recv(len(text), socket.MSG_WAITALL)
    server.recvmsg_into([bytearray(60), bytearray(30_000)])
    assert [event.size for event in capture.data(client)] == [len(text)] * 2
    assert [event.data for event in capture.data(client)] == [text[:snaplen]] * 2
    assert [event.data for event in capture.data(server)] == [text[:snaplen]] * 2


# Loading


def test_kernel_counts_runs_and_times(capturing, kind, pair):
    capture = capturing(payload_source=kind, pids=(os.getpid(),))
    capture.source.enable_stats()
    client, _ = pair("tcp4")
    client.send(b"x")
    stats = capture.source.program_stats()
    name = "sock_send_length" if kind == "socket" else "sys_exit"
    assert stats[name].run_count >= 1
    assert stats[name].run_time_ns > 0
    assert {one.recursion_misses for one in stats.values()} == {0}


def test_second_capture_sees_the_same(capture, capturing, kind, pair):
    other = capturing(payload_source=kind, pids=(os.getpid(),))
    client, _ = pair("tcp4")
    client.send(b"for both")
    assert capture.sent(client)[0].data == other.sent(client)[0].data == b"for both"


ENDLESS = """
import sys
from tracer.probes import KernelSource, Settings
source = KernelSource(Settings(), None)
print("ready", flush=True)
sys.stdin.readline()
"""


def program_exists(number):
    """BPF_PROG_GET_FD_BY_ID of bpf(2)."""
    attributes = struct.pack("<I", number).ljust(120, b"\0")
    fd = ctypes.CDLL(None).syscall(321 if IS_X86 else 280, 13, attributes, len(attributes))
    if fd >= 0:
        os.close(fd)
    return fd >= 0


def test_killed_capture_leaves_nothing_in_the_kernel():
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(probes.__file__).parents[1],
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        facts = []
        for path in Path(f"/proc/{process.pid}/fdinfo").iterdir():
            with suppress(FileNotFoundError):  # files that it looks into come and go
                facts.append(path.read_text())
        numbers = {
            int(line.split()[1])
            for fact in facts
            for line in fact.splitlines()
            if line.startswith("prog_id:")
        }
        assert len(numbers) >= 5
        assert all(map(program_exists, numbers))
        process.kill()
    until_s = time.monotonic() + 10
    while any(map(program_exists, numbers)) and time.monotonic() < until_s:
        pass  # freed after a grace period
    assert not any(map(program_exists, numbers))


def test_refusal_by_the_verifier_shows_its_log(monkeypatch):
    # The scratch is made too small for what the programs write.
    def shrink(self, name, size):
        original(self, name, size // 2)

    original = libbpf.BpfObject.set_value_size
    monkeypatch.setattr(libbpf.BpfObject, "set_value_size", shrink)
    with pytest.raises(LoadError, match="verifier rejects") as caught:
        KernelSource(Settings(), None)
    assert "invalid access to map value" in caught.value.log


def test_missing_privilege_says_what_to_grant(monkeypatch):
    def refuse(self):
        raise libbpf.LibbpfError(1, "load")

    monkeypatch.setattr(libbpf.BpfObject, "load", refuse)
    with pytest.raises(LoadError, match=r"no permission.*: run with sudo.*CAP_BPF") as caught:
        KernelSource(Settings(), None)
    assert "sudo" in caught.value.remedy


def test_without_the_hook_for_senders_the_rest_works(monkeypatch, capturing, pair):
    def refuse(self, name, fd):
        raise libbpf.LibbpfError(1, name)

    monkeypatch.setattr(libbpf.BpfObject, "attach_cgroup", refuse)
    capture = capturing(payload_source="socket", pids=(os.getpid(),))
    assert "no sender" in capture.source.degraded[0]
    client, _ = pair("udp4")
    client.send(b"x")
    assert capture.sent(client)


def test_missing_object_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("tracer.objects.PACKAGED", tmp_path)
    monkeypatch.setattr("tracer.objects.BUILT", tmp_path)
    with pytest.raises(LoadError, match="make bpf"):
        KernelSource(Settings(), None)


def test_broken_object_is_told(monkeypatch, tmp_path):
    broken = tmp_path / "broken.o"
    broken.write_bytes(object_path().read_bytes()[:1000])
    monkeypatch.setattr(probes, "object_path", lambda: broken)
    with pytest.raises(LoadError, match="refuses"):
        KernelSource(Settings(), None)


def test_control_group_that_is_not_there_is_told(tmp_path):
    with pytest.raises(LoadError, match="cannot be opened"):
        KernelSource(Settings(cgroups=(tmp_path / "nothing",)), None)


def test_ring_that_fills_ends_the_sleep(capturing, pair, kind, monkeypatch):
    monkeypatch.setattr(probes, "IDLE_STEP_S", 30.0)
    source = capturing(payload_source=kind, pids=(os.getpid(),), ring_bytes=1 << 20).source
    left, right = pair("unix")

    def fill():
        for _ in range(60):
            left.sendall(bytes(4096))
            right.recv(4096)

    filler = threading.Timer(0.2, fill)
    filler.start()
    began = time.monotonic()
    chunk = source.poll(30).chunk
    filler.join()
    assert time.monotonic() - began < 20
    assert len(chunk) >= (1 << 20) // probes.WAKE_SHARE
    assert not source.counters()[Cause.RING_FULL].events
