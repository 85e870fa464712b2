# SPDX-License-Identifier: Apache-2.0
"""Clients over TLS, and what each says it has asked.

A client is given asks: method, path, and bytes of body. The programs under `programs/tls` read
them with port, file of the authority, number of connections and, if wanted, after how many asks of
a connection to pause, as one line of JSON: they then say `paused` and wait for a line. They print
a list of objects with path, status, length of the body, X-Peer as `peer`, and as `local` the port
that they had themselves; 0 where they do not know.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.end_to_end.servers import needs
from tests.end_to_end.tls_servers import SIZES, TLS_PROGRAMS, Authority
from tests.rig import running

NUMBER: Final = 23
CURL_SAYS: Final = (
    "%{response_code},%{size_download},%{local_port},%header{x-peer},%{http_version},"
    "%{size_request},%{size_header},%header{transfer-encoding}\n"
)


class Ask(NamedTuple):
    """What a client is told to do."""

    method: str
    path: str
    size: int
    """Of the request's body."""

    @property
    def status(self) -> int:
        if self.path.endswith("/missing"):
            return 404
        return 201 if self.method == "PUT" else 200

    @property
    def length(self) -> int | None:
        """Of the answer's body; None where the server decides."""
        last = self.path.rpartition("/")[2]
        return int(last) if last.isdigit() else 0 if last == "put" else None


@dataclass(frozen=True)
class Asked:
    """What a client says of it."""

    path: str
    status: int
    length: int
    """Of the answer's body; -1 where the client does not say."""
    peer: int
    """The port that the client had, as the server or the client says; 0 where neither does."""
    sent: int = 0
    """Bytes of the request with its head; 0 where the client does not say."""
    received: int = 0


def asks_of(cell: str, number: int = NUMBER, *, gets: bool = False) -> list[Ask]:
    """So many asks with paths of their own; `gets` if there is to be nothing but files to GET."""
    kinds = [("GET", "100", 0), ("GET", "20480", 0), ("GET", "0", 0)]
    if not gets:
        kinds += [("PUT", "put", SIZES[1]), ("GET", "missing", 0), ("PUT", "put", SIZES[2])]
    made = []
    for index in range(number):
        method, last, size = kinds[index % len(kinds)]
        made.append(Ask(method, f"/{cell}/{index}/{last}", size))
    return made


Client = Callable[[Authority, int, Sequence[Ask]], list[Asked]]


def job_of(
    files: Authority, port: int, asks: Sequence[Ask], connections: int, pause: int = 0
) -> bytes:
    """The line that tells a program what to do."""
    said = {"port": port, "ca": str(files.ca), "connections": connections, "pause": pause}
    return json.dumps(said | {"asks": asks}).encode() + b"\n"


def told(output: bytes) -> list[Asked]:
    """What a program has printed."""
    found = []
    for each in json.loads(output):
        if each["peer"] and each["local"]:
            assert each["peer"] == each["local"], each
        peer = each["peer"] or each["local"]
        found.append(Asked(each["path"], each["status"], each["length"], peer))
    return found


def command_of(name: str, binaries: dict[str, Path]) -> list[str]:
    """How the program of a client is run."""
    kind, _, version = name.partition("/")
    if kind in binaries:
        return [str(binaries[kind]), "client", version or "1.1"]
    if kind.startswith("node"):
        needs("node")
        return ["node", str(TLS_PROGRAMS / "client.js"), kind.removeprefix("node-")]
    return [sys.executable, str(TLS_PROGRAMS / "client.py"), kind]


def program_client(command: list[str], connections: int = 2) -> Client:
    """One of our own programs."""

    def ask(files: Authority, port: int, asks: Sequence[Ask]) -> list[Asked]:
        job = job_of(files, port, asks, connections)
        environment = os.environ | {"NODE_EXTRA_CA_CERTS": str(files.ca)}
        done = subprocess.run(
            command, input=job, capture_output=True, check=False, timeout=60, env=environment
        )
        assert done.returncode == 0, done.stderr.decode()
        return told(done.stdout)

    return ask


@dataclass
class Paused:
    """A program that has asked some, and goes on when told to."""

    program: subprocess.Popen[bytes]

    def finish(self) -> list[Asked]:
        """Let it ask the rest; what it says of all."""
        output, _ = self.program.communicate(b"go on\n", timeout=60)
        return told(output)


@contextmanager
def paused(
    command: list[str],
    files: Authority,
    port: int,
    asks: Sequence[Ask],
    connections: int,
    after: int,
) -> Iterator[Paused]:
    """A client that has connected and, on each connection, asked `after` times."""
    environment = os.environ | {"NODE_EXTRA_CA_CERTS": str(files.ca)}
    with running(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(job_of(files, port, asks, connections, after))
        program.stdin.flush()
        assert program.stdout.readline() == b"paused\n"
        yield Paused(program)


def curl_once(
    files: Authority, port: int, asks: Sequence[Ask], *flags: str, version: str
) -> list[Asked]:
    """One curl, and so one connection where the server keeps it."""
    needs("curl")
    command = ["curl"]
    with tempfile.NamedTemporaryFile() as body:
        body.write(b"y" * max(SIZES))
        body.flush()
        for index, each in enumerate(asks):
            if index:
                command.append("--next")
            command += ["-sS", "--max-time", "20", "--cacert", str(files.ca), *flags]
            command += ["-o", "/dev/null", "-w", CURL_SAYS]
            if each.size:
                command += ["-X", each.method, "--data-binary", "y" * each.size]
            command.append(f"https://127.0.0.1:{port}{each.path}")
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    made = []
    for each, line in zip(asks, done.stdout.splitlines(), strict=True):
        status, length, local, peer, spoken, asked, head, chunked = line.split(",")
        assert peer in {"", local} or "-x" in flags, line
        assert spoken[0] == version, line
        sizes = (int(asked), int(head) + int(length))
        if version != "1" or "-x" in flags or chunked:
            # Not what is on the wire, or what is there for the proxy as well.
            sizes = (0, 0)
        made.append(Asked(each.path, int(status), int(length), int(peer or local), *sizes))
    return made


def curl(version: str, *flags: str) -> Client:
    """Curl, with ten asks in one process, five in a second one and the others alone."""

    def ask(files: Authority, port: int, asks: Sequence[Ask]) -> list[Asked]:
        groups = [asks[:15], asks[15:20], *([each] for each in asks[20:])]
        made = []
        for group in groups:
            made += curl_once(files, port, group, *flags, version=version) if group else []
        return made

    return ask


def wget(files: Authority, port: int, asks: Sequence[Ask]) -> list[Asked]:
    """wget, which has GnuTLS in Debian: what it is to GET in one process, each PUT in its own."""
    needs("wget")
    groups = [[each for each in asks if each.method == "GET"]]
    groups += [[each] for each in asks if each.method == "PUT"]
    made = []
    for group in groups:
        command = ["wget", "--no-config", "--no-hsts", "-S", "-t1", "-T20", "-O", "/dev/null"]
        command += [f"--ca-certificate={files.ca}"]
        if group[0].method == "PUT":
            command += ["--method=PUT", f"--body-data={'y' * group[0].size}"]
        command += [f"https://127.0.0.1:{port}{each.path}" for each in group]
        environment = os.environ | {"LC_ALL": "C"}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, env=environment
        )
        assert done.returncode in {0, 8}, done.stderr
        heads = re.split(r"^  HTTP/1\.[01] ", done.stderr, flags=re.MULTILINE)[1:]
        for each, head in zip(group, heads, strict=True):
            peer = re.search(r"X-Peer: (\d+)", head, re.IGNORECASE)
            saved = re.search(r"saved \[(\d+)", head)
            length = int(saved[1]) if saved else -1
            made.append(Asked(each.path, int(head[:3]), length, int(peer[1]) if peer else 0))
    return made


def gnutls_cli(files: Authority, port: int, asks: Sequence[Ask]) -> list[Asked]:
    """gnutls-cli with requests by hand, on one connection where the server keeps it."""
    needs("gnutls-cli")
    made: list[Asked] = []
    command = ["gnutls-cli", "--x509cafile", str(files.ca), "-p", str(port), "127.0.0.1"]
    while len(made) < len(asks):
        with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
            sent, printed = program.stdin, program.stdout
            assert sent is not None
            assert printed is not None
            while b"Simple Client Mode" not in printed.readline():
                pass
            keeps = True
            while keeps and len(made) < len(asks):
                each = asks[len(made)]
                head = f"{each.method} {each.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                length = f"Content-Length: {each.size}\r\n" if each.size else ""
                sent.write(f"{head}{length}\r\n".encode() + b"y" * each.size)
                sent.flush()
                done, keeps = _read_answer(printed, each)
                made.append(done)
    return made


def _read_answer(printed: Any, each: Ask) -> tuple[Asked, bool]:
    line = printed.readline()
    while not line.startswith(b"HTTP/1."):
        assert line, each
        line = printed.readline()
    status, headers = int(line.split()[1]), {}
    while (line := printed.readline()).strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    if "content-length" in headers:
        body = printed.read(int(headers["content-length"]))
    else:
        body = b""
        while size := int(printed.readline(), 16):
            body += printed.read(size)
            printed.readline()
        printed.readline()
    asked = Asked(each.path, status, len(body), int(headers.get("x-peer", 0)))
    return asked, headers.get("connection") != "close"


def nghttp(files: Authority, port: int, asks: Sequence[Ask]) -> list[Asked]:
    """nghttp: HTTP/2, all at once on one connection."""
    needs("nghttp")
    urls = [f"https://127.0.0.1:{port}{each.path}" for each in asks]
    command = ["nghttp", "-v", "-n", "-t20", *urls]
    output = subprocess.run(command, capture_output=True, check=True, timeout=60, text=True).stdout
    streams = {}
    for match in re.finditer(
        r"send HEADERS frame <length=\d+, flags=\w+, stream_id=(\d+)>.*?:path: (\S+)",
        output,
        re.DOTALL,
    ):
        streams[match[1]] = match[2]
    found: dict[str, dict[str, int]] = {}
    for stream, name, value in re.findall(
        r"recv \(stream_id=(\d+)\) (:status|x-peer): (\d+)", output
    ):
        found.setdefault(streams[stream], {})[name] = int(value)
    return [Asked(path, each[":status"], -1, each.get("x-peer", 0)) for path, each in found.items()]


def h2load(files: Authority, port: int, asks: Sequence[Ask]) -> list[Asked]:
    """h2load: HTTP/2, five at a time on one connection. It only says how many went well."""
    needs("h2load")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as urls:
        urls.write("".join(f"https://127.0.0.1:{port}{each.path}\n" for each in asks))
        urls.flush()
        command = ["h2load", "-n", str(len(asks)), "-c", "1", "-m", "5", "-i", urls.name]
        done = subprocess.run(command, capture_output=True, check=True, timeout=60, text=True)
    counted = re.search(r"status codes: (\d+) 2xx, \d+ 3xx, (\d+) 4xx", done.stdout)
    assert counted is not None, done.stdout
    good = [each for each in asks if each.status < 300]
    assert (int(counted[1]), int(counted[2])) == (len(good), len(asks) - len(good))
    return [Asked(each.path, each.status, -1, 0) for each in asks]


ONLY_GETS: Final = {"nghttp", "h2load"}


def client_of(name: str, binaries: dict[str, Path]) -> Client:
    """A client by name: `curl`, `go`, and with HTTP/2 `curl/2`, `go/2`, `node-http2`, `nghttp`."""
    made: dict[str, Client] = {
        "curl": curl("1", "--http1.1"),
        "curl-tls1.2": curl("1", "--http1.1", "--tls-max", "1.2"),
        "curl/2": curl("2", "--http2"),
        "wget": wget,
        "gnutls-cli": gnutls_cli,
        "nghttp": nghttp,
        "h2load": h2load,
    }
    return made.get(name) or program_client(command_of(name, binaries))
