# SPDX-License-Identifier: Apache-2.0
"""Where capture is not possible, a sentence says why and what mends it, and the exit code is 1."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tracer
from tests.end_to_end.servers import needs
from tests.rig import WIRESPAN

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="takes privileges away, so it needs them"),
]

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
NO_CAPABILITIES = ["setpriv", "--bounding-set=-sys_admin,-bpf,-perfmon"]
NO_BTF = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /sys/kernel/btf && exec "$@"', "sh"]
EMPTY_BTF = [
    "unshare",
    "-m",
    "sh",
    "-c",
    'mount --bind /dev/null /sys/kernel/btf/vmlinux && exec "$@"',
    "sh",
]
OBJECT = f"wirespan.bpf.{platform.machine()}.o"


def commands(folder):
    """Every command that captures."""
    return {
        "watch": ["watch"],
        "agent": ["agent", "--endpoint", "http://127.0.0.1:9"],
        "record": ["record", "-w", str(folder / "never.wspan")],
    }


def run(command, *, before=(), environment=None):
    return subprocess.run(
        [*before, *command],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd="/",
        env=os.environ | (environment or {}),
    )


def check(done, *words):
    """One sentence (and perhaps a log behind it), with these words in it."""
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    sentence = done.stderr.splitlines()[0]
    assert sentence.startswith("wirespan: "), done.stderr
    for word in words:
        assert word in sentence, sentence
    print(sentence)


@pytest.fixture(params=["watch", "agent", "record"])
def command(request, tmp_path):
    return [WIRESPAN, *commands(tmp_path)[request.param]]


def test_without_privilege(command, tmp_path):
    done = run(command, before=NOBODY)
    check(done, "sudo", "CAP_BPF")
    assert not (tmp_path / "never.wspan").exists()


def test_root_without_capabilities(command):
    check(run(command, before=NO_CAPABILITIES), "CAP_BPF")


@pytest.mark.parametrize("before", [NO_BTF, EMPTY_BTF], ids=["no file", "empty file"])
def test_without_btf(before):
    check(run([WIRESPAN, "watch"], before=before), "BTF")


OLD_LIBRARY = """
int libbpf_major_version(void) { return 0; }
int libbpf_minor_version(void) { return 8; }
"""


@pytest.fixture
def old_libbpf(tmp_path):
    """A folder with a libbpf.so.1 that is none."""
    needs("gcc")
    source = tmp_path / "old.c"
    source.write_text(OLD_LIBRARY)
    library = tmp_path / "libbpf.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_LIBRARY_PATH": str(tmp_path)}


def test_with_an_old_libbpf(command, old_libbpf):
    check(run(command, environment=old_libbpf), "libbpf", "install")


def test_with_a_broken_libbpf(tmp_path):
    (tmp_path / "libbpf.so.1").write_text("this is no library")
    check(run([WIRESPAN, "watch"], environment={"LD_LIBRARY_PATH": str(tmp_path)}), "libbpf")


@pytest.fixture
def copy(tmp_path):
    """The program in another place, without its BPF object."""
    home = tmp_path / "copy"
    for name in ("tracer", "parsers", "exporters"):
        source = Path(tracer.__file__).parents[1] / name
        shutil.copytree(source, home / name, ignore=shutil.ignore_patterns("__pycache__", "*.o"))
    start = "import sys; from tracer.cli import main; sys.exit(main(sys.argv[1:]))"
    return home, [sys.executable, "-c", start], {"PYTHONPATH": str(home)}


def test_with_a_missing_object(copy, tmp_path):
    _, start, environment = copy
    for arguments in commands(tmp_path).values():
        done = run([*start, *arguments], environment=environment)
        check(done, OBJECT, "make bpf")
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"\x7fELF" + bytes(5000)])
def test_with_a_damaged_object(copy, content):
    home, start, environment = copy
    (home / "tracer" / "bpf").mkdir(exist_ok=True)
    (home / "tracer" / "bpf" / OBJECT).write_bytes(content)
    check(run([*start, "watch"], environment=environment), OBJECT)


@pytest.mark.parametrize(
    "before", [NOBODY, NO_CAPABILITIES, NO_BTF], ids=["nobody", "no capabilities", "no BTF"]
)
def test_doctor_says_so_too(before):
    done = run([WIRESPAN, "doctor", "-q"], before=before)
    assert done.returncode == 1
    assert done.stdout.startswith("Capture is not possible here: ")
    assert done.stderr == ""


def test_replay_needs_none_of_it(copy, old_libbpf, tmp_path):
    path = tmp_path / "a.wspan"
    curl = ["curl", "-s", "http://127.0.0.1:9/"]
    assert run([WIRESPAN, "record", "-w", str(path), "--", *curl]).returncode == 7
    path.chmod(0o644)
    _, start, environment = copy
    done = run([*start, "replay", str(path)], environment=environment | old_libbpf)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ["--cgroup", "/no/such/group"],
        ["--container", "nosuchcontainer"],
        ["-w", "/no/such/folder/file.wspan"],
        ["-w", "/dev/full"],
        ["--export", "nosuchexporter"],
    ],
    ids=lambda flags: flags[1].replace("/", "_"),
)
def test_flags_that_name_what_is_not_there(flags):
    done = run([WIRESPAN, "watch", "--for", "200ms", *flags])
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("wirespan: ")]
