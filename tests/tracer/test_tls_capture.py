# SPDX-License-Identifier: Apache-2.0
"""From the kernel's notice to the probes: which processes are looked at, and that it ends."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tracer import library_probes, tls_capture
from tracer.capture import Settings
from tracer.libbpf import LibbpfError
from tracer.tls_capture import TEXTS, Guard, TlsCapture, degraded
from tracer.tls_libraries import Call, Hook, Place


class FakeLink:
    def __init__(self):
        self.closed = 0

    def close(self):
        self.closed += 1


class FakeObject:
    is_abandoned = False

    def __init__(self, error=None):
        self.link = FakeLink()
        self.error = error
        FakeObject.last = self

    def attach(self, name):
        assert name == library_probes.EXEC_PROGRAM
        if self.error is not None:
            raise self.error
        return self.link


class FakeProbes:
    """Tells of one process, then of none."""

    def __init__(self, opened, on_attached):
        self.notices = [[77, 78]]
        self.taken = threading.Event()
        self.closed = False
        self.attached = []
        self.is_attaching, self.mount = threading.Event(), threading.Event()
        self.mount.set()
        FakeProbes.last = self

    def attach(self, path, hooks):
        self.is_attaching.set()
        self.mount.wait(30)
        self.attached.append(path)
        return path

    def wait(self, timeout_s):
        if self.notices:
            return self.notices.pop()
        self.taken.set()
        threading.Event().wait(0.001)
        return []

    def close(self):
        self.closed = True


class FakeDiscovery:
    def __init__(self, attacher, *, wants):
        self.attacher, self.wants = attacher, wants
        self.noticed = []
        self.said = []
        self.can_end = True
        FakeDiscovery.last = self

    def start(self):
        self.said.append("start")

    def wait_ready(self, timeout_s):
        self.said.append("ready")
        return True

    def notice(self, tgid, *_):
        self.noticed.append(tgid)

    def counters(self):
        return {}

    def close(self):
        assert not FakeProbes.last.closed, "detached too late"
        self.said.append("close")
        return self.can_end


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setattr(tls_capture, "LibraryProbes", FakeProbes)
    monkeypatch.setattr(tls_capture, "Discovery", FakeDiscovery)
    made = []

    def make(settings=None, is_traced=lambda tgid: True):
        made.append(
            TlsCapture(FakeObject(), settings or Settings(), is_traced=is_traced, on_attached=print)
        )
        return FakeDiscovery.last.wants if settings else made[-1]

    yield make
    for each in made:
        each.close()


def test_notices_reach_who_looks_at_processes(make):
    make()
    assert FakeProbes.last.taken.wait(5)
    assert FakeDiscovery.last.noticed == [77, 78]


def test_capture_begins_when_all_have_been_looked_at(make):
    make()
    assert FakeDiscovery.last.said == ["start", "ready"]


def test_end_detaches_all_and_leaves_no_thread(make):
    before = threading.active_count()
    capture = make()
    capture.close()
    capture.close()
    assert (FakeObject.last.link.closed, FakeProbes.last.closed) == (1, True)
    assert FakeDiscovery.last.said == ["start", "ready", "close"]
    assert threading.active_count() == before
    assert not FakeObject.last.is_abandoned


@pytest.mark.parametrize("error", [LibbpfError(1, "x"), OSError(24, "x"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["probes", "link", "start", "thread", "wait_ready"])
@pytest.mark.usefixtures("make")
def test_whatever_fails_at_the_start_is_undone(monkeypatch, step, error):
    before = threading.active_count()

    def fail(*_, **__):
        raise error

    made = FakeObject(error if step == "link" else None)
    FakeProbes.last = FakeDiscovery.last = None
    if step == "probes":
        monkeypatch.setattr(FakeProbes, "__init__", fail)
    elif step == "thread":
        monkeypatch.setattr(threading.Thread, "start", fail)
    elif step != "link":
        monkeypatch.setattr(FakeDiscovery, step, fail)
    with pytest.raises(type(error)):
        TlsCapture(made, Settings(), is_traced=bool, on_attached=print)
    assert threading.active_count() == before
    assert made.link.closed == (step not in {"probes", "link"})
    assert FakeProbes.last is None or FakeProbes.last.closed
    assert FakeDiscovery.last is None or FakeDiscovery.last.said[-1] == "close"


# The end while a mount does not answer


def test_thread_that_does_not_end_is_told_of_and_attaches_nothing_more(make, caplog):
    capture = make()
    FakeDiscovery.last.can_end = False
    capture.close()
    assert "its mount does not answer" in caplog.text
    assert not FakeObject.last.is_abandoned
    with pytest.raises(OSError, match="shutdown"):
        FakeDiscovery.last.attacher.attach("x", [])
    assert FakeProbes.last.attached == []


def test_object_is_left_to_the_kernel_if_the_thread_is_inside_of_it(make, monkeypatch):
    monkeypatch.setattr(tls_capture, "CLOSE_S", 0.05)
    capture = make()
    FakeDiscovery.last.can_end = False
    probes = FakeProbes.last
    probes.mount.clear()
    attach = threading.Thread(target=FakeDiscovery.last.attacher.attach, args=("x", []))
    attach.start()
    try:
        assert probes.is_attaching.wait(10)
        capture.close()
        assert FakeObject.last.is_abandoned
    finally:
        probes.mount.set()
        attach.join(10)


# Descriptors


@pytest.fixture
def guard(monkeypatch):
    """A guard with room for so many more descriptors; each hook takes two."""
    monkeypatch.setattr(tls_capture, "has_many_places", lambda: False)
    monkeypatch.setattr(tls_capture, "RESERVE", 5)
    used = len(list(Path("/proc/self/fd").iterdir()))
    return lambda room: Guard(FakeProbes(None, None), used + 5 + room)


def test_reserve_of_descriptors_is_kept(guard):
    hooks = [Hook(Call.READ, Place.ENTRY, 1)] * 3
    assert guard(6).attach("x", hooks) == "x"
    with pytest.raises(OSError) as caught:
        guard(5).attach("x", hooks)
    assert caught.value.errno == errno.EMFILE
    assert guard(5).attach("x", hooks[1:]) == "x"


def test_links_of_many_places_take_a_descriptor_each_and_not_a_place(guard, monkeypatch):
    monkeypatch.setattr(tls_capture, "has_many_places", lambda: True)
    assert guard(100).attach("x", [Hook(Call.READ, Place.ENTRY, 1)] * 300) == "x"


def test_limit_is_raised_as_far_as_it_may_be():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
        assert tls_capture.raise_limit() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_limit_that_may_not_be_raised_is_taken_as_it_is(monkeypatch):
    def refuse(*_):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert tls_capture.raise_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


# Which processes


def test_without_filters_everyone_is_wanted(make):
    wants = make(Settings(tls=True, snaplen=100))
    assert wants(1)
    assert wants(os.getpid())


def test_pids_are_as_the_kernel_has_them(make):
    """With the children that it has added, not only those that were named."""
    wants = make(Settings(pids=(5,)), is_traced=lambda tgid: tgid in {5, os.getpid()})
    assert wants(os.getpid())
    assert not wants(1)


def test_names_are_those_of_the_process(make, tmp_path):
    name = "wirespan-tls-test-long"
    program = tmp_path / name
    program.symlink_to(sys.executable)
    process = subprocess.Popen(
        [program, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        process.stdout.readline()
        assert make(Settings(comms=(name,)))(process.pid)
        assert not make(Settings(comms=("other",)))(process.pid)
        process.communicate(b"\n")
    assert not make(Settings(comms=(name,)))(process.pid)


def test_control_groups_are_those_below_too(make, monkeypatch, tmp_path):
    def place(group):
        (tmp_path / "77").mkdir(exist_ok=True)
        (tmp_path / "77/cgroup").write_text(f"12:cpu:/elsewhere\n0::{group}\n")

    monkeypatch.setattr(tls_capture, "PROC", tmp_path)
    monkeypatch.setattr(tls_capture, "unified_mount", lambda: "/sys/fs/cgroup")
    wants = make(Settings(cgroups=("/sys/fs/cgroup/shop",)))
    for group, is_wanted in {
        "/shop": True,
        "/shop/web": True,
        "/shopping": False,
        "/": False,
        "/other/shop": False,
    }.items():
        place(group)
        assert wants(77) is is_wanted, group


def test_root_of_the_control_groups_has_everyone(make, monkeypatch, tmp_path):
    (tmp_path / "77").mkdir()
    (tmp_path / "77/cgroup").write_text("0::/\n")
    monkeypatch.setattr(tls_capture, "PROC", tmp_path)
    monkeypatch.setattr(tls_capture, "unified_mount", lambda: "/sys/fs/cgroup")
    assert make(Settings(cgroups=("/sys/fs/cgroup",)))(77)


def test_process_that_has_gone_is_not_wanted(make, monkeypatch, tmp_path):
    monkeypatch.setattr(tls_capture, "PROC", tmp_path)
    assert not make(Settings(comms=("shop",)))(77)


# Words


def test_what_was_not_probed_is_told_in_words():
    counters = {"files_over": 3, "processes_over": 0, "faults": 1, "files_attached": 9}
    assert degraded(counters) == {TEXTS["files_over"]: 3, TEXTS["faults"]: 1}
    assert degraded({}) == {}
