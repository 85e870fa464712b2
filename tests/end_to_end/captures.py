# SPDX-License-Identifier: Apache-2.0
"""Captures by tcpdump, recordings, and what a replay makes of either."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.end_to_end.servers import needs
from tests.rig import WIRESPAN, running, wait_until

BUFFER_KIB: Final = 65_536
"""Of the kernel, for frames that tcpdump has not read: loopback's have up to 64 KiB."""
QUIET_S: Final = 1.2
"""The kernel hands over what it has collected at least every second."""


def written(path: Path) -> None:
    """Wait until a file has stopped growing."""
    size, since_s = 0, time.monotonic()

    def settled() -> bool:
        nonlocal size, since_s
        before, size = size, path.stat().st_size
        if size != before:
            since_s = time.monotonic()
        return time.monotonic() - since_s > QUIET_S

    wait_until(settled, "the capture file is written")


@contextmanager
def sniffed(path: Path, ports: list[int], what: str = "port") -> Iterator[None]:
    """Write to a pcap file what these ports say over the loopback interface; nothing may lack.

    `what` is `tcp port` where others may ask name servers from one of them.
    """
    needs("tcpdump")
    wanted = " or ".join(f"{what} {port}" for port in ports)
    command = ["tcpdump", "-i", "lo", "-U", "-B", str(BUFFER_KIB), "-s", "0"]
    # Not with --immediate-mode: the buffer then has room for few frames, each as for the largest.
    # Without -Z it would write as another user, who may not have the folder.
    command += ["-Z", "root", "-w", str(path), wanted]
    with running(command, stderr=subprocess.PIPE, text=True) as tcpdump:
        assert tcpdump.stderr is not None
        assert "listening" in tcpdump.stderr.readline()
        yield
        written(path)
        tcpdump.terminate()
        said = tcpdump.stderr.read()
    assert re.search(r"^0 packets dropped by kernel", said, re.MULTILINE), said


def record(path: Path, flags: list[str], work: Callable[[], object]) -> tuple[bytes, bytes]:
    """Record to `path` while `work` runs; what was printed meanwhile, as JSON, and the summary."""
    command = [WIRESPAN, "watch", "-o", "json", "--no-tls", "-w", str(path), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        try:
            assert b"Watching" in program.stderr.readline()
            work()
            time.sleep(0.4)
            program.send_signal(signal.SIGINT)
            return program.communicate(timeout=20)
        finally:
            program.kill()


def replayed(path: Path) -> bytes:
    """What a replay of a recording or a capture prints, as JSON."""
    command = [WIRESPAN, "replay", str(path), "-o", "json"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def replay(path: Path) -> list[dict[str, Any]]:
    """The spans that a recording or a capture makes."""
    return [json.loads(line) for line in replayed(path).splitlines()]
