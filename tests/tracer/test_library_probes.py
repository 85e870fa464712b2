# SPDX-License-Identifier: Apache-2.0
"""Which program goes where, all or nothing, and what the kernel notices of processes."""

from __future__ import annotations

import _ctypes
import ctypes
import errno
import os
import re
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from tracer import library_probes, probes
from tracer.btf import Btf
from tracer.libbpf import BpfObject, LibbpfError
from tracer.library_probes import LibraryProbes
from tracer.objects import object_path
from tracer.tls_libraries import Call, Hook, Place, examine

BPF = Path(probes.__file__).parents[1] / "bpf"
ENTRY, RETURN = Place.ENTRY, Place.RETURN
HOOKS = [
    Hook(Call.READ, ENTRY, 10),
    Hook(Call.READ, RETURN, 10),
    Hook(Call.WRITE_EX, ENTRY, 20),
    Hook(Call.WRITE_EX, RETURN, 20),
    Hook(Call.FRESH, ENTRY, 30),
    Hook(Call.SET_FD, ENTRY, 40),
    Hook(Call.FREE, ENTRY, 50),
]
GO_HOOKS = [
    Hook(Call.WRITE, ENTRY, 60, is_go=True),
    Hook(Call.WRITE, RETURN, 61, is_go=True),
    Hook(Call.WRITE, RETURN, 62, is_go=True),
]


class FakeLink:
    def __init__(self, owner):
        self.owner = owner

    def close(self):
        self.owner.open -= 1


class FakeObject:
    """Remembers places as (program, offset, cookie, is_return); may refuse the n-th link."""

    def __init__(self, refuse_at=0):
        self.refuse_at = refuse_at
        self.places = []
        self.made = self.open = 0
        self.pipe, self.writer = os.pipe()

    def map_fd(self, name):
        assert name == "notices"
        return self.pipe

    def attach_uprobe(self, program, path, offset, *, is_return, cookie):
        return self.attach_uprobes(program, path, [(offset, cookie)], is_return=is_return)

    def attach_uprobes(self, program, path, places, *, is_return):
        assert path == "/file"
        self.made += 1
        if self.made == self.refuse_at:
            raise LibbpfError(errno.EACCES, program)
        self.places += [(program, offset, int(cookie), is_return) for offset, cookie in places]
        self.open += 1
        return FakeLink(self)


class FakeRing:
    def __init__(self, fd, size):
        self.fd, self.size = fd, size
        self.chunk = b""

    def take(self):
        return self.chunk

    def close(self):
        pass


@pytest.fixture(params=[(5, 15), (6, 6)])
def made(request, monkeypatch):
    monkeypatch.setattr(library_probes, "kernel_version", lambda: request.param)
    monkeypatch.setattr(library_probes, "Ring", FakeRing)
    opened = []

    def make(**options):
        fake, told = FakeObject(**options), []
        opened.append((LibraryProbes(fake, told.append), fake))
        return opened[-1][0], fake, told

    yield make
    for each, fake in opened:
        each.close()
        os.close(fake.pipe)
        os.close(fake.writer)


def test_each_hook_gets_its_program_and_cookie(made):
    attacher, fake, told = made()
    attachment = attacher.attach("/file", HOOKS)
    assert sorted(fake.places) == sorted(
        [
            ("tls_enter", 10, 1, False),
            ("tls_exit", 10, 1, True),
            ("tls_enter", 20, 4, False),
            ("tls_exit", 20, 4, True),
            ("tls_fresh", 30, 7, False),
            ("tls_set_fd", 40, 8, False),
            ("tls_free", 50, 9, False),
        ]
    )
    assert told == [False]
    attachment.close()
    attachment.close()
    assert fake.open == 0


def test_go_returns_are_ordinary_probes(made):
    attacher, fake, told = made()
    attacher.attach("/file", GO_HOOKS).close()
    assert sorted(fake.places) == [
        ("go_enter", 60, 2, False),
        ("go_exit", 61, 2, False),
        ("go_exit", 62, 2, False),
    ]
    assert told == [True]


def test_linker_has_a_program_of_its_own(made):
    attacher, fake, _ = made()
    attacher.attach("/file", [Hook(Call.LOADED, ENTRY, 70)]).close()
    assert fake.places == [("library_loaded", 70, 10, False)]


@pytest.mark.parametrize("refuse_at", [1, 2, 5])
def test_refusal_leaves_nothing_attached(made, refuse_at):
    attacher, fake, told = made(refuse_at=refuse_at)
    with pytest.raises(OSError) as caught:
        attacher.attach("/file", HOOKS)
    assert caught.value.errno == errno.EACCES
    assert fake.open == 0
    assert told == []


def test_places_of_one_program_share_a_link_where_the_kernel_can(made, monkeypatch):
    attacher, fake, _ = made()
    attacher.attach("/file", HOOKS)
    assert fake.open == (5 if library_probes.has_many_places() else len(HOOKS))


def test_notices_are_processes_in_order(made):
    attacher, _, _ = made()
    assert attacher.wait(0) == []
    attacher._ring.chunk = struct.pack("<IIIIIIII", 8, 0, 77, 1, 8, 0, 78, 2)
    assert attacher.wait(0) == [77, 78]


# The twin in C


def test_cookies_are_those_of_the_kernel_half():
    text = (BPF / "by_library.h").read_text()
    body = re.search(r"enum ws_tls_call \{(.*?)\};", text, re.DOTALL)[1]
    kernel = {name: int(number) for name, number in re.findall(r"WS_TLS_(\w+) = (\d+)", body)}
    kernel.pop("WRITTEN", None)  # never a cookie, see there
    twin = {each.name: int(each) for each in Call}
    assert kernel == {name: twin[name] for name in kernel}


def test_programs_and_maps_are_in_the_object():
    opened = BpfObject(object_path())
    try:
        for name in library_probes.PROGRAMS:
            opened.leave_out(name)
        for name in library_probes.MAPS:
            opened.set_max_entries(name, 1)
        assert {"tls_epoch", "has_go"} <= set(Btf(opened.btf()).variables(".bss"))
    finally:
        opened.close()


def test_room_for_notices_is_that_of_the_kernel_half():
    assert (
        f"#define WS_NOTICE_BYTES {library_probes.NOTICE_BYTES}\n" in (BPF / "maps.h").read_text()
    )


# Notices


def awaited(attacher, tgid):
    until = time.monotonic() + 5
    while time.monotonic() < until:
        if tgid in attacher.wait(0.1):
            return True
    return False


@pytest.fixture
def attacher(capturing):
    """The kernel's notices, with nobody else to take them."""
    capture = capturing(tls=True)
    tls = capture.source._tls
    tls._ending.set()
    tls._thread.join()
    tls._probes.wait(0)
    yield tls._probes
    tls._ending.set()


@pytest.mark.kernel
def test_exec_is_noticed(attacher):
    process = subprocess.Popen(["sleep", "60"])
    try:
        assert awaited(attacher, process.pid)
    finally:
        process.kill()
        process.wait()


@pytest.mark.kernel
def test_static_program_is_noticed_by_its_exec(attacher):
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox, which is linked statically, is not installed")
    process = subprocess.Popen([busybox, "true"])
    process.wait()
    assert awaited(attacher, process.pid)


@pytest.mark.kernel
def test_loaded_library_is_noticed(attacher, tmp_path):
    library = shutil.copy(_ctypes.__file__, tmp_path / "some.so")
    attacher.wait(0)
    handle = _ctypes.dlopen(str(library), os.RTLD_NOW)
    assert awaited(attacher, os.getpid())
    _ctypes.dlclose(handle)


@pytest.mark.kernel
def test_loading_in_a_loop_is_noticed_now_and_then(attacher, tmp_path):
    """Whoever is told looks several times, so one notice in 10 ms is enough."""
    library = str(shutil.copy(_ctypes.__file__, tmp_path / "some.so"))
    attacher.wait(0)
    began_s = time.monotonic()
    for _ in range(500):
        _ctypes.dlclose(_ctypes.dlopen(library, os.RTLD_NOW))
    most = (time.monotonic() - began_s) / 0.01 + 2
    assert 0 < attacher.wait(0).count(os.getpid()) <= most


@pytest.mark.kernel
def test_file_that_the_kernel_refuses_is_an_error(attacher, tmp_path):
    path = tmp_path / "empty"
    path.write_bytes(b"")
    with pytest.raises(OSError):
        attacher.attach(str(path), HOOKS)


@pytest.mark.kernel
def test_real_library_is_attached_and_let_go(attacher):
    ctypes.CDLL("libssl.so.3")
    maps = Path("/proc/self/maps").read_text()
    path = next(line.split()[-1] for line in maps.splitlines() if "/libssl.so.3" in line)
    for _ in range(3):
        attacher.attach(path, examine(Path(path)).hooks).close()
