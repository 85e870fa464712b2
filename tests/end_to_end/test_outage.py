# SPDX-License-Identifier: Apache-2.0
"""The backend is gone for a minute under load: spans wait on disk, and nothing else notices."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.exporters.backends import http_backend
from tests.rig import RATE_SCRIPT, WIRESPAN, free_port, nginx, running, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.backends]

UP_S = 5
DOWN_S = 60
CONNECTIONS = 11
DELAY_MS = 10
"""wrk waits so long before each request: about 1,000 a second, 2,000 spans with both ends."""
RSS_MARGIN = 1.25
"""With the queue half full; its bound is 16 MiB."""
END_S = 9.5


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def agent(server, port, spool):
    """A running agent that exports spans to `port`."""
    command = [WIRESPAN, "agent", "--no-tls", "--no-metrics", "--socket", "none"]
    command += ["--compression", "gzip", "--endpoint", f"http://127.0.0.1:{port}"]
    command += ["--spool", str(spool), "--port", str(server.port)]
    with running(command, stderr=subprocess.PIPE, text=True) as program:
        # What an earlier one has left is sent at once, and it may be said that this fails.
        assert any(line.startswith("Capturing") for line in program.stderr)
        yield program


def end(program):
    """Its words, which say how many exchanges there were, and what was dropped."""
    began_s = time.monotonic()
    program.send_signal(signal.SIGTERM)
    _, words = program.communicate(timeout=30)
    took_s = time.monotonic() - began_s
    print(f"ended in {took_s:.1f} s:\n{words}")
    assert took_s < END_S
    assert program.returncode == 0
    assert "Traceback" not in words
    made = int(re.search(r"^([\d,]+) exchanges? in", words, re.MULTILINE)[1].replace(",", ""))
    lines = "".join(re.findall(r"^otlp: (.*(?:\n  .*)*)", words, re.MULTILINE))
    dropped = {
        name: int(count.replace(",", ""))
        for count, name in re.findall(r"([\d,]+) spans (dropped[a-z ]*|refused)", lines)
    }
    left = re.search(r"(\d+) spans are in the spool", words)
    return made, dropped, int(left[1]) if left else 0


class Load:
    """wrk for `seconds`, and what it said."""

    def __init__(self, server, seconds):
        self.server = server
        self.rates = []
        """Requests a second, each second."""
        with tempfile.NamedTemporaryFile("w", suffix=".lua", delete=False) as script:
            script.write(RATE_SCRIPT.format(delay_ms=DELAY_MS))
        self.script = Path(script.name)
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script.name]
        self.program = subprocess.Popen(
            [*command, f"http://127.0.0.1:{server.port}/small"],
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, seconds, program, resident):
        """Watch for `seconds` how fast it goes, and how much memory `program` has."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            before, began_s = self.server.requests(), time.monotonic()
            time.sleep(min(1.0, max(0.0, deadline - began_s)))
            requests, took_s = self.server.requests() - before, time.monotonic() - began_s
            if took_s > 0.5:
                self.rates.append(requests / took_s)
            resident.append(rss(program))

    def end(self):
        output, _ = self.program.communicate(timeout=30)
        self.script.unlink()
        assert "Socket errors" not in output
        assert "Non-2xx" not in output
        return int(re.search(r"(\d+) requests in", output)[1])


def rss(program):
    """MiB that are resident."""
    status = Path(f"/proc/{program.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def mean(values):
    return sum(values) / len(values)


def spool_is_empty(spool):
    # A file that is open for writing may be there without a record in it.
    with suppress(FileNotFoundError):
        return sum(path.stat().st_size for path in spool.glob("*.spool")) < 100
    return False


@pytest.mark.timeout(DOWN_S + 180)
def test_an_outage_of_a_minute_loses_nothing(tmp_path):
    port, spool = free_port(), tmp_path / "spool"
    resident = {"up": [], "down": [], "after": []}
    with nginx() as server:
        with http_backend(port=port) as before:
            stack = agent(server, port, spool)
            program = stack.__enter__()
            load = Load(server, UP_S + DOWN_S + 3 * UP_S)
            load.measure(UP_S, program, resident["up"])
        up = len(load.rates)
        began_s = time.monotonic()
        load.measure(DOWN_S, program, resident["down"])
        down = len(load.rates)
        waiting = sum(path.stat().st_size for path in spool.glob("*.spool"))
        with http_backend(port=port) as after:
            back_s = time.monotonic()
            wait_until(lambda: spool_is_empty(spool), "the spool is sent", 60)
            emptied_s = time.monotonic() - back_s
            load.measure(UP_S, program, resident["after"])
            answered = load.end()
            time.sleep(1)
            made, dropped, left = end(program)
            stack.__exit__(None, None, None)
            received = before.accepted_spans() + after.accepted_spans()
            asked = server.requests() + server.asked
    unique = len(set(received))
    print(
        f"{made:,} spans made of {asked:,} requests ({answered:,} by wrk), {unique:,} received"
        f" ({len(received) - unique} twice), dropped: {dropped or 'none'}, left: {left}\n"
        f"down for {back_s - began_s:.0f} s; {waiting:,} bytes in the spool at its end,"
        f" sent {emptied_s:.1f} s after it\n"
        f"requests a second: {mean(load.rates[:up]):.0f} before, {mean(load.rates[up:down]):.0f}"
        f" (at least {min(load.rates[up:down]):.0f}) while it is down,"
        f" {mean(load.rates[down:]):.0f} after it\n"
        "MiB resident: "
        + ", ".join(
            f"{name} {each[0]:.1f} to {each[-1]:.1f} (at most {max(each):.1f})"
            for name, each in resident.items()
        )
    )
    assert made >= 1.99 * (asked - 1)  # both ends, but for what the kernel names as lost
    assert unique == made - sum(dropped.values()) - left
    assert not dropped
    assert not left
    assert waiting > 1_000_000
    assert mean(load.rates[up:down]) > 0.8 * mean(load.rates[:up])
    assert max(resident["down"]) < RSS_MARGIN * max(resident["up"]) + 16
    assert max(resident["after"]) < RSS_MARGIN * max(resident["up"]) + 16


@pytest.mark.timeout(120)
def test_the_end_is_in_time_when_the_backend_hangs(tmp_path):
    spool = tmp_path / "spool"
    with nginx() as server, socket.create_server(("127.0.0.1", 0)) as silent:
        with agent(server, silent.getsockname()[1], spool) as program:
            load = Load(server, 12)
            load.measure(11, program, [])
            load.end()
            time.sleep(1)
            made, dropped, left = end(program)
        assert left == made > 16_000
        assert not dropped


@pytest.mark.timeout(180)
def test_what_an_agent_leaves_behind_is_sent_by_the_next(tmp_path):
    """One is told to end while there is no backend, the next is killed, the third has one."""
    port, spool = free_port(), tmp_path / "spool"
    with nginx() as server:
        with agent(server, port, spool) as program:
            load = Load(server, 8)
            load.measure(7, program, [])
            load.end()
            time.sleep(1)
            made, dropped, left = end(program)
        assert made > 8000
        assert not dropped
        assert left == made
        size = sum(path.stat().st_size for path in spool.glob("*.spool"))
        with agent(server, port, spool) as program:
            load = Load(server, 20)
            wait_until(
                lambda: sum(path.stat().st_size for path in spool.glob("*.spool")) > size + 100_000,
                "something is spooled",
                30,
            )
            program.kill()
            program.wait()
            load.program.kill()
            load.program.communicate()
        with http_backend(port=port) as backend, agent(server, port, spool) as program:
            wait_until(lambda: spool_is_empty(spool), "the spool is sent", 60)
            words = end(program)
            received = backend.accepted_spans()
    print(f"{made:,} of the first and {len(set(received)) - made:,} of the one that was killed")
    assert len(received) == len(set(received)) > made
    assert not words[1]
    assert not words[2]
