# SPDX-License-Identifier: Apache-2.0
"""The objects build for both machines, without a warning, and carry what the loader needs."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

BPF = Path(__file__).parents[2] / "bpf"
EM_BPF = 247
PROGRAMS = {
    "tp_btf/sock_send_length",
    "tp_btf/sock_recv_length",
    "tp_btf/sys_exit",
    "tp_btf/inet_sock_set_state",
    "tp_btf/sched_process_fork",
    "tp_btf/sched_process_exit",
    "cgroup/recvmsg4",
    "cgroup/recvmsg6",
    "iter/task_file",
    "tp_btf/sched_process_exec",
    "uprobe",
    "uretprobe",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Both objects, from nothing."""
    missing = [tool for tool in ("make", "clang", "llvm-strip") if shutil.which(tool) is None]
    if missing or not Path("/usr/include/bpf/bpf_helpers.h").exists():
        pytest.skip(f"building needs {', '.join(missing) or 'the headers of libbpf'}")
    folder = tmp_path_factory.mktemp("objects")
    done = subprocess.run(
        ["make", "-C", str(BPF), f"OUTPUT={folder}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


def sections(path):
    raw = path.read_bytes()
    offset = struct.unpack_from("<Q", raw, 40)[0]
    size, number, names_index = struct.unpack_from("<HHH", raw, 58)
    found = [struct.unpack_from("<IIQQQQ", raw, offset + i * size) for i in range(number)]
    names = found[names_index][4]
    return {
        raw[names + one[0] : raw.index(b"\0", names + one[0])].decode(): raw[
            one[4] : one[4] + one[5]
        ]
        for one in found
    }


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_object_builds_and_is_complete(built, machine):
    path = built / f"wirespan.bpf.{machine}.o"
    assert struct.unpack_from("<H", path.read_bytes(), 18)[0] == EM_BPF
    found = sections(path)
    assert set(found) >= PROGRAMS
    assert found["license"] == b"Dual BSD/GPL\0"
    assert {".BTF", ".BTF.ext", ".rodata", ".maps"} <= set(found)
    assert not [name for name in found if name.startswith(".debug")]


def test_machines_read_the_registers_in_their_own_way(built):
    x86, arm = (sections(built / f"wirespan.bpf.{name}.o") for name in ("x86_64", "aarch64"))
    assert b"\0orig_ax\0" in x86[".BTF"]
    assert b"\0orig_ax\0" not in arm[".BTF"]
    assert b"\0orig_x0\0" in arm[".BTF"]


def test_objects_know_nothing_of_where_they_were_built(built):
    for path in built.glob("*.o"):
        assert str(BPF.parent).encode() not in path.read_bytes()


def test_second_build_does_nothing(built):
    done = subprocess.run(
        ["make", "-C", str(BPF), f"OUTPUT={built}"], capture_output=True, text=True, check=True
    )
    assert "BPF " not in done.stdout


def test_readme_names_every_hook_and_map():
    text = (BPF / "README.md").read_text()
    code = "".join(path.read_text() for path in BPF.glob("*.[ch]"))
    maps = re.findall(r"^} (\w+) SEC\(\"\.maps\"\)", code, re.MULTILINE)
    assert len(maps) > 10
    for name in (*maps, *re.findall(r"SEC\(\"((?:tp_btf|cgroup|iter)/\w+)\"\)", code)):
        assert f"`{name}`" in text, name
