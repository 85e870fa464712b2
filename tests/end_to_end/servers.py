# SPDX-License-Identifier: Apache-2.0
"""The servers and clients of the end-to-end tests, and what each says it has done."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.rig import nginx, running

PROGRAMS: Final = Path(__file__).parent / "programs"
BIG_BYTES: Final = 30_000_000
ZIPPED: Final = b"hello\n" * 200
"""What nginx compresses, and then sends in chunks."""
MARGIN_NS: Final = 1_000_000
"""The offset between the clocks is measured again with each batch."""


@dataclass
class Server:
    """A running server."""

    name: str
    port: int
    service: str
    program: subprocess.Popen[Any]


@dataclass
class Made:
    """What a client says of the requests that it made."""

    number: int
    sent: int = 0
    """Bytes, heads included."""
    received: int = 0
    statuses: list[int] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    """Of its own end."""
    intervals: list[tuple[int, int]] = field(default_factory=list)
    """Nanoseconds since 1970 around each request, where the client knows them."""
    began_ns: int = 0
    ended_ns: int = 0


def needs(*programs: str) -> None:
    """Skip unless they are installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@contextmanager
def announced(name: str, command: list[str], service: str) -> Iterator[Server]:
    """A server that prints its port."""
    with running(command, stdout=subprocess.PIPE, text=True) as program, program.stdout:
        yield Server(name, int(program.stdout.readline()), service, program)


def python_server(workers: int = 0) -> Any:
    """Python's http.server; with `workers`, that many forked processes share the listener."""
    command = [sys.executable, str(PROGRAMS / "server.py"), str(workers)]
    return announced("python", command, "server")


def node_server() -> Any:
    """Node's http."""
    needs("node")
    return announced("node", ["node", str(PROGRAMS / "server.js")], "server")


def go_server(binary: Path) -> Any:
    """Go's net/http."""
    return announced("go", [str(binary)], "goserver")


def build_go_server(folder: Path) -> Path:
    """Compile it, with the standard library alone."""
    needs("go")
    binary = folder / "goserver"
    environment = {
        "PATH": "/usr/local/go/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "GOCACHE": str(Path(tempfile.gettempdir()) / "wirespan-go-cache"),
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "GO111MODULE": "off",
        "CGO_ENABLED": "0",
    }
    command = [shutil.which("go") or "go", "build", "-o", str(binary), str(PROGRAMS / "server.go")]
    subprocess.run(command, check=True, env=environment)
    return binary


@contextmanager
def nginx_server(**options: Any) -> Iterator[Server]:
    """nginx."""
    locations = options.pop("locations", "") + (
        "location / { default_type text/plain; return 200 'hello\\n'; }"
        "location ~ ^/chunked { default_type text/plain; gzip on; gzip_types text/plain;"
        " alias {home}/www/zipped; }"
        "location /put { dav_methods PUT; create_full_put_path on; }"
        "location /missing { return 404; }"
        "location /big { alias {home}/www/big; }"
    )
    files = {"big": bytes(BIG_BYTES), "zipped": ZIPPED} | options.pop("files", {})
    # The rig formats locations, so braces are doubled but for the names it knows.
    doubled = locations.replace("{", "{{").replace("}", "}}").replace("{{home}}", "{home}")
    with nginx(locations=doubled, files=files, **options) as server:
        folder = server.home / "www" / "put"
        folder.mkdir()
        folder.chmod(0o777)
        yield Server("nginx", server.port, "nginx", server.program)


class CountingSocket(socket.socket):
    """Counts what its user reads and writes."""

    sent = 0
    received = 0

    def sendall(self, data: Any, *flags: int) -> None:
        self.sent += len(memoryview(data))
        super().sendall(data, *flags)

    def recv_into(self, *arguments: Any) -> int:
        number = super().recv_into(*arguments)
        self.received += number
        return number


def counting_connection(port: int, host: str = "127.0.0.1") -> http.client.HTTPConnection:
    """A connection of http.client over a `CountingSocket`."""
    connection = http.client.HTTPConnection(host, port, timeout=20)
    connection.sock = CountingSocket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    connection.sock.connect((host, port))
    return connection


def ask(connection: http.client.HTTPConnection, method: str, path: str, **options: Any) -> int:
    """One request and its whole response; returns the status."""
    connection.request(method, path, **options)
    with connection.getresponse() as response:
        response.read()
    return response.status


def python_client(port: int, number: int, path: str) -> Made:
    """http.client, one connection."""
    made = Made(number)
    connection = counting_connection(port)
    made.ports.append(connection.sock.getsockname()[1])
    for index in range(number):
        began_ns = time.time_ns()
        made.statuses.append(ask(connection, "GET", f"{path}/{index}"))
        made.intervals.append((began_ns, time.time_ns()))
    made.sent, made.received = connection.sock.sent, connection.sock.received
    connection.close()
    return made


def curl(*arguments: str, repeat: int = 1) -> list[dict[str, Any]]:
    """Run curl; what it says of each transfer."""
    says = "%{stderr}%{json}\n"
    command = ["curl", "-sS", "--max-time", "20", "-w", says, *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 0, lines
    return [json.loads(line) for line in lines]


def curl_client(port: int, number: int, path: str) -> Made:
    """One curl, and so one connection, for each request but for the first ten."""
    made = Made(number)
    urls = [f"http://127.0.0.1:{port}{path}/{index}" for index in range(number)]
    for group in (urls[:10], *([url] for url in urls[10:])):
        arguments = [part for url in group for part in ("-o", "/dev/null", url)]
        for said in curl(*arguments):
            made.statuses.append(said["response_code"])
            made.sent += said["size_request"] + said["size_upload"]
            made.received += said["size_header"] + said["size_download"]
            made.ports.append(said["local_port"])
    return made


def node_client(port: int, number: int, path: str) -> Made:
    """Node's http with an agent that keeps two connections."""
    command = ["node", str(PROGRAMS / "client.js"), str(port), str(number), path]
    output = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
    said = json.loads(output)
    return Made(number, said["sent"], said["received"], said["statuses"], said["ports"])


def wrk_client(port: int, number: int, path: str) -> Made:
    """wrk, one connection."""
    url = f"http://127.0.0.1:{port}/"
    script = str(PROGRAMS / "exactly.lua")
    command = ["wrk", "-t1", "-c1", "-d2s", "-s", script, url, "--", str(number), path]
    output = subprocess.run(command, capture_output=True, check=True, timeout=30, text=True).stdout
    said = next(line for line in output.splitlines() if line.startswith("exactly")).split()
    return Made(int(said[1]), int(said[2]), int(said[3]), [200] * number)


CLIENTS: Final = {
    "curl": curl_client,
    "wrk": wrk_client,
    "python": python_client,
    "node": node_client,
}


def converse(port: int, sent: bytes, *, until: int, host: str = "127.0.0.1") -> bytes:
    """Send raw bytes, read until `until` responses' worth of status lines and quiet."""
    received = b""
    with socket.create_connection((host, port), timeout=10) as sock:
        sock.sendall(sent)
        while received.count(b"HTTP/1.1 ") < until or not received.endswith(b"\n"):
            part = sock.recv(65536)
            assert part, received
            received += part
        sock.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while part := sock.recv(65536):
                received += part
    return received
