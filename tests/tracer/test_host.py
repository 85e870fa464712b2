# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from importlib import metadata
from pathlib import Path

from tracer.host import CAPABILITIES, Host


def test_missing_files_say_nothing(tmp_path):
    host = Host(root=tmp_path)
    assert host.read("proc/x") == ""
    assert host.namespace("pid") == 0
    assert list(host.mounts()) == []
    assert not any(map(host.has_capability, CAPABILITIES))


def test_capabilities_are_read_from_the_effective_set(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    status = "CapInh:\tffffffffff\nCapEff:\t0000008000000000\nCapBnd:\tffffffffff\n"
    (tmp_path / "proc/self/status").write_text(status)
    held = [name for name in CAPABILITIES if Host(root=tmp_path).has_capability(name)]
    assert held == ["CAP_BPF"]


def test_own_namespace_is_what_the_kernel_says():
    assert Host().namespace("pid") == Path("/proc/self/ns/pid").stat().st_ino


def test_mounts_of_this_machine_hold_proc():
    assert ("/proc", "proc") in {(point, kind) for point, kind, _ in Host().mounts()}


def test_package_versions_are_those_installed():
    assert Host().package_version("pytest") == metadata.version("pytest")
    assert Host().package_version("no-such-distribution") is None


def test_object_is_looked_for_by_machine(tmp_path):
    host = Host(find_object=Path)
    assert host.find_object("x86_64") == Path("x86_64")
