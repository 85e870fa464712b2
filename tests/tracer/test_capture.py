# SPDX-License-Identifier: Apache-2.0
"""What is asked for, held against what a kernel can do."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tracer import capture
from tracer.capture import (
    Settings,
    check_settings,
    choose_source,
    descendants,
    has_atomics,
    has_loops,
    kernel_version,
)
from tracer.errors import LoadError

MAGIC = (0xEB9F).to_bytes(2, sys.byteorder)
HOOKS = MAGIC + b"\0btf_trace_sock_send_length\0btf_trace_sock_recv_length\0btf_trace_sys_exit\0"


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """Pretend to run on another kernel."""

    def make(release="6.18.0", btf=HOOKS, machine="x86_64"):
        path = tmp_path / "vmlinux"
        if btf is not None:
            path.write_bytes(btf)
        monkeypatch.setattr(capture, "KERNEL_BTF", path)
        monkeypatch.setattr(platform, "release", lambda: release)
        monkeypatch.setattr(platform, "machine", lambda: machine)
        return path

    return make


def test_socket_tracepoints_are_taken_where_they_are(kernel):
    kernel()
    assert choose_source("auto") == "socket"
    assert choose_source("socket") == "socket"
    assert choose_source("syscall") == "syscall"


def test_older_kernels_take_the_syscall_source(kernel):
    kernel("5.15.0-91-generic", btf=MAGIC + b"\0btf_trace_sys_exit\0")
    assert choose_source("auto") == "syscall"
    with pytest.raises(LoadError, match=r"no socket tracepoints.*: take the other"):
        choose_source("socket")


@pytest.mark.parametrize("release", ["5.14.0", "4.19.0-26-amd64", "3.10.0-1160.el7.x86_64"])
def test_kernel_that_is_too_old_is_told(kernel, release):
    kernel(release)
    with pytest.raises(LoadError, match=f"{release} is too old"):
        choose_source("auto")


def test_kernel_without_btf_is_told(kernel):
    kernel(btf=None)
    with pytest.raises(LoadError, match=r"no type information.*CONFIG_DEBUG_INFO_BTF"):
        choose_source("auto")


def test_file_that_holds_no_btf_is_told(kernel):
    kernel(btf=HOOKS[2:])
    with pytest.raises(LoadError, match="holds no type information"):
        choose_source("auto")


def test_btf_that_may_not_be_read_is_told(kernel):
    path = kernel()
    path.unlink()
    path.mkdir()
    with pytest.raises(LoadError, match=r"cannot be read.*sudo"):
        choose_source("auto")


@pytest.mark.parametrize(
    ("release", "machine", "atomics", "loops"),
    [
        ("5.15.0", "x86_64", True, False),
        ("5.15.0", "aarch64", False, False),
        ("5.17.1", "aarch64", False, True),
        ("5.18.0", "aarch64", True, True),
        ("6.1-custom", "aarch64", True, True),
        ("6.18.0", "x86_64", True, True),
    ],
)
def test_what_the_kernel_can_do_follows_from_its_version(kernel, release, machine, atomics, loops):
    kernel(release, machine=machine)
    assert (has_atomics(), has_loops()) == (atomics, loops)


def test_release_of_another_form_is_left_to_the_load(kernel):
    kernel("custom")
    assert kernel_version() == (5, 15)


@pytest.mark.parametrize("settings", [Settings(), Settings(snaplen=1), Settings(snaplen=16384)])
def test_possible_settings_pass(settings):
    check_settings(settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (Settings(snaplen=0), "snaplen 0"),
        (Settings(snaplen=16385), "take 1 to 16384"),
        (Settings(ring_bytes=100_000), "power of two"),
        (Settings(ring_bytes=4096), "power of two from 65536"),
        (Settings(ring_bytes=1 << 31), "power of two"),
        (Settings(comms=("x",) * 65), "65 process names"),
        (Settings(ports=tuple(range(1025))), "1025 ports"),
        (Settings(cgroups=(Path("/"),) * 33), "33 control groups"),
    ],
)
def test_impossible_settings_are_told(settings, sentence):
    with pytest.raises(LoadError, match=sentence):
        check_settings(settings)


def test_descendants_are_children_and_their_children():
    code = "import subprocess, sys; subprocess.run(['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        found = ()
        while len(found) < 1:
            found = descendants((process.pid,))
        assert process.pid in descendants((os.getpid(),))
        assert set(found) <= set(descendants((os.getpid(),)))
        for pid in found:
            os.kill(pid, 9)
        process.kill()
