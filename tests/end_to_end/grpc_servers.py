# SPDX-License-Identifier: Apache-2.0
"""Servers and clients of gRPC and gRPC-Web, and what each client says it has called."""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.end_to_end.servers import PROGRAMS, announced

SERVICE: Final = "wirespan.test."
PART: Final = b"\0\0\0\0\x04part"
TIMEOUT_S: Final = 0.15
"""What the clients give the call that is to take longer."""


@dataclass(frozen=True)
class Called:
    """What a client says of a call: its own status, and the messages it has sent and got."""

    method: str
    status: str
    sent: int
    received: int
    seconds: float = 0.0


def python_grpc() -> Any:
    """grpcio."""
    return announced("python", [sys.executable, str(PROGRAMS / "grpc_server.py")], "grpc_server")


def go_grpc(binary: Path) -> Any:
    """grpc-go."""
    return announced("go", [str(binary), "server"], "grpc")


def connect_web(binary: Path) -> Any:
    """connect-go, which speaks gRPC-Web over HTTP/1.1 and HTTP/2."""
    return announced("connect", [str(binary), "web-server"], "grpc")


def python_web() -> Any:
    """http.server with gRPC-Web by hand, in its text form as well."""
    program = PROGRAMS / "grpc_web_server.py"
    return announced("python-web", [sys.executable, str(program)], "grpc_web_server")


def _json_of(command: list[str]) -> list[Called]:
    output = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
    return [Called(**each) for each in json.loads(output)]


def python_calls(port: int) -> list[Called]:
    """grpcio, one channel."""
    return _json_of([sys.executable, str(PROGRAMS / "grpc_client.py"), str(port), "python"])


def go_calls(binary: Path, port: int, mode: str = "client") -> list[Called]:
    """grpc-go, one channel."""
    return _json_of([str(binary), mode, str(port), "go"])


def connect_calls(binary: Path, port: int, version: str) -> list[Called]:
    """connect-go with gRPC-Web over some version of HTTP."""
    return _json_of([str(binary), "web-client", str(port), "connect", version])


def web_calls(port: int, service: str, content_type: str) -> list[Called]:
    """gRPC-Web by hand."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    made = []
    for method, status, received in (
        ("Echo", "OK", 1),
        ("Missing", "NOT_FOUND", 0),
        ("Refused", "PERMISSION_DENIED", 0),
        ("Download", "OK", 7),
        ("Huge", "OK", 1),
        ("Echo", "OK", 1),
    ):
        body = base64.b64encode(PART) if "-text" in content_type else PART
        headers = {"Content-Type": content_type, "Accept": content_type}
        connection.request("POST", f"/{SERVICE}{service}/{method}", body, headers)
        with connection.getresponse() as response:
            assert response.status == 200
            assert response.read() or status == "PERMISSION_DENIED"
        made.append(Called(method, status, 1, received))
    connection.close()
    return made
