# SPDX-License-Identifier: Apache-2.0
"""gRPC over TLS.

A client is given names of methods, the bytes of each message and the size of each answer, -1 for
NOT_FOUND, and says what it got, and as `peer` the port that it had.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.end_to_end.servers import announced
from tests.end_to_end.tls_clients import NUMBER
from tests.end_to_end.tls_servers import SIZES, TLS_PROGRAMS, Authority

TALK: Final = str(TLS_PROGRAMS / "grpc_talk.py")


@dataclass(frozen=True)
class Called:
    """What a client says of a call."""

    name: str
    status: str
    length: int
    """Of the answer."""
    peer: int
    """The port that the client had."""


def server_of(name: str, binaries: dict[str, Path], files: Authority) -> Any:
    """grpcio for `python`, otherwise grpc-go."""
    program = [sys.executable, TALK] if name == "python" else [str(binaries[name])]
    command = [*program, "server", str(files.certificate), str(files.key)]
    return announced(name, command, "")


def calls(
    name: str, binaries: dict[str, Path], files: Authority, port: int, cell: str
) -> list[Called]:
    """`NUMBER` calls on one connection."""
    names = [f"wirespan.{cell}/Method{index}" for index in range(NUMBER)]
    sizes = [(*SIZES, -1)[index % 4] for index in range(NUMBER)]
    sent = [SIZES[index % 3] for index in range(NUMBER)]
    job = {"port": port, "ca": str(files.ca), "names": names, "sent": sent, "sizes": sizes}
    program = [sys.executable, TALK] if name == "python" else [str(binaries[name])]
    line = json.dumps(job) + "\n"
    done = subprocess.run(
        [*program, "client"], input=line, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    made = [Called(**each) for each in json.loads(done.stdout)]
    for size, each in zip(sizes, made, strict=True):
        assert (each.status, each.length) == (("OK", size) if size >= 0 else ("NOT_FOUND", 0)), each
    return made
