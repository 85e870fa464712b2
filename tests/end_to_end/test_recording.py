# SPDX-License-Identifier: Apache-2.0
"""What `watch -w` prints live, `replay` prints again without privilege, byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.servers import ask, counting_connection, curl
from tests.rig import WIRESPAN, is_listening, watch
from tests.tracer.conversations import plain

pytestmark = pytest.mark.kernel

SECRET = "xyzzy5ecret"
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
NUMBER = 23


def talk(port):
    """Some traffic of all kinds, with secrets wherever there may be some."""
    base = f"http://127.0.0.1:{port}"
    headers = ["-H", f"Authorization: Bearer {SECRET}", "-H", f"Cookie: id={SECRET}"]
    discard = ["-o", "/dev/null"]
    for index in range(NUMBER):
        curl(*headers, *discard, f"{base}/a/{index}?token={SECRET}&page={index}")
    curl(*headers, *discard, "-d", f"password={SECRET}&more={'x' * 500}", f"{base}/login")
    curl(*headers, *discard, "-X", "PUT", "-d", SECRET * 1000, f"{base}/put/b?api_key={SECRET}")
    connection = counting_connection(port)
    for index in range(NUMBER):
        ask(connection, "POST", f"/c/{index}", body=[SECRET.encode()] * 3)
    ask(connection, "GET", "/chunked/d", headers={"X-Api-Key": SECRET})
    connection.close()


@pytest.fixture(scope="module")
def recorded(source, servers, tmp_path_factory):
    """A recording, what was printed meanwhile, and the port."""
    folder = tmp_path_factory.mktemp("recorded")
    path = folder / "a.wspan"
    server = servers["python"]
    command = [WIRESPAN, "watch", "-o", "json", "--no-tls", "--source", source]
    with (
        (folder / "live").open("wb") as live,
        subprocess.Popen(
            [*command, "--port", str(server.port), "-w", str(path)],
            stdout=live,
            stderr=subprocess.PIPE,
            text=True,
        ) as program,
    ):
        try:
            assert "Watching" in program.stderr.readline()
            talk(server.port)
            subprocess.run(["sleep", "0.3"], check=True)
            program.send_signal(2)
            summary = program.stderr.read()
        finally:
            program.kill()
    # The unprivileged reader must get at it.
    for each in (folder, *folder.parents):
        if each.owner() != "root" or each == Path("/tmp"):
            break
        each.chmod(each.stat().st_mode | 0o055)
    path.chmod(0o644)
    return path, (folder / "live").read_bytes(), summary


def replay(path, *flags, before=()):
    command = [*before, WIRESPAN, "replay", str(path), *flags]
    return subprocess.run(command, capture_output=True, timeout=30, check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_an_unprivileged_replay_prints_the_same_bytes(recorded):
    path, live, summary = recorded
    assert live.count(b"\n") == 2 * (2 * NUMBER + 3), summary
    done = replay(path, "-o", "json", before=NOBODY)
    assert done.returncode == 0, done.stderr
    assert done.stdout == live


@pytest.mark.parametrize("flags", [["-o", "compact"], ["-o", "wide"]])
def test_other_outputs_of_a_replay_are_alike_each_time(recorded, flags):
    once, again = replay(recorded[0], *flags), replay(recorded[0], *flags)
    assert once.returncode == again.returncode == 0
    assert once.stdout == again.stdout
    assert once.stdout.count(b"\n") == recorded[1].count(b"\n")


def test_no_planted_secret_is_anywhere(recorded):
    path, live, summary = recorded
    everything = plain(path)
    assert b"page=7" in everything, "nothing was inflated"
    outputs = [replay(path, "-o", kind) for kind in ("json", "compact", "wide")]
    for where in (path.read_bytes(), everything, live, summary.encode()):
        assert SECRET.encode() not in where
    for done in outputs:
        assert SECRET.encode() not in done.stdout + done.stderr


def damaged(path, folder, how):
    data = bytearray(path.read_bytes())
    if how == "cut":
        del data[len(data) * 2 // 3 :]
    elif how == "cut in the header":
        del data[20:]
    elif how == "corrupted":
        data[len(data) // 2] ^= 0x55
    elif how == "foreign":
        data = bytearray(Path(sys.executable).read_bytes()[:100_000])
    elif how == "text":
        data = bytearray(b"GET / HTTP/1.1\r\n" * 100)
    elif how == "empty":
        data = bytearray()
    broken = folder / "broken"
    broken.write_bytes(data)
    return broken


HOWS = ["cut", "cut in the header", "corrupted", "foreign", "text", "empty"]


@pytest.mark.parametrize("how", HOWS)
def test_a_damaged_file_gives_one_clear_error(recorded, tmp_path, how):
    done = replay(damaged(recorded[0], tmp_path, how), "-o", "json")
    assert done.returncode == 1
    errors = [line for line in done.stderr.decode().splitlines() if line.startswith("wirespan:")]
    assert len(errors) == 1, done.stderr
    assert "broken" in errors[0]
    assert b"Traceback" not in done.stderr
    # What came before the damage is shown, and is what was there.
    assert recorded[1].startswith(done.stdout)
    if how == "cut":
        assert done.stdout


def test_a_file_that_is_not_there_or_may_not_be_read(tmp_path):
    done = replay(tmp_path / "none", "-o", "json")
    assert done.returncode == 1
    assert done.stderr.startswith(b"wirespan: ")
    assert done.stderr.count(b"\n") == 1
    done = replay(tmp_path, "-o", "json")
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


def test_record_of_a_command_replays_and_does_not_overwrite(source, servers, tmp_path):
    path = tmp_path / "b.wspan"
    url = f"http://127.0.0.1:{servers['nginx'].port}/recorded"
    assert is_listening(servers["nginx"].port)
    command = [WIRESPAN, "record", "--no-tls", "--source", source, "-w", str(path), "--"]
    fetch = ["curl", "-s", "-o", "/dev/null", url]
    done = subprocess.run([*command, *fetch], capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    lines = replay(path, "-o", "json").stdout.splitlines()
    assert len(lines) == 1
    assert b"/recorded" in lines[0]
    again = subprocess.run([*command, *fetch], capture_output=True, timeout=30, check=False)
    assert again.returncode == 1
    assert b"wirespan: " in again.stderr
    assert b"Traceback" not in again.stderr
    assert replay(path, "-o", "json").stdout.splitlines() == lines


def test_a_recording_is_only_for_its_owner(servers, tmp_path):
    path = tmp_path / "c.wspan"
    with watch("--port", str(servers["nginx"].port), "-w", str(path)):
        pass
    assert path.stat().st_mode & 0o077 == 0
