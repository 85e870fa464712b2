# SPDX-License-Identifier: Apache-2.0
"""Servers and clients of HTTP/2 in clear text, and what each client says it has done."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.end_to_end.servers import PROGRAMS, Server, announced, curl, needs, nginx_server
from tests.rig import WIRESPAN, free_port

BODY_BYTES: Final = 10_000_000
LOADED: Final = 300
"""Requests of h2load, a hundred at a time."""


@dataclass(frozen=True)
class Asked:
    """What a client says of a request; status 0 if it gave it up."""

    path: str
    method: str
    status: int
    body: int = 0


def go_build(source: Path, binary: Path, *flags: str, modules: bool = False) -> Path:
    """Compile a Go program; `modules` if it needs more than the standard library."""
    needs("go")
    shared = Path(tempfile.gettempdir())
    environment = {
        "PATH": "/usr/local/go/bin:/usr/bin:/bin",
        "HOME": str(binary.parent),
        "GOCACHE": str(shared / "wirespan-go-cache"),
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
    }
    if modules:
        environment["GOMODCACHE"] = str(shared / "wirespan-go-modules")
        environment["GOFLAGS"] = "-modcacherw"
        folder, target = source, "."
    else:
        environment["GO111MODULE"] = "off"
        folder, target = source.parent, source.name
    command = [shutil.which("go") or "go", "build", *flags, "-o", str(binary), target]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()
        pytest.skip(f"{source.name} cannot be built here: {words[-1] if words else 'no reason'}")
    return binary


def build_http2(folder: Path) -> Path:
    """Go's net/http, which speaks HTTP/2 in clear text from Go 1.24 on."""
    return go_build(PROGRAMS / "h2.go", folder / "h2", modules=False)


def build_grpc(folder: Path) -> Path:
    """grpc-go, connect-go and x/net/http2, which have to be fetched once."""
    return go_build(PROGRAMS / "grpc", folder / "grpc", modules=True)


@contextmanager
def nginx_http2() -> Iterator[Server]:
    """nginx; its usual port tells how many requests it has read."""
    needs("nginx")
    port = free_port()
    locations = (
        "location ~ /missing$ { return 404; }"
        "location ~ /big$ { alias {home}/www/big; }"
        "location ~ /put$ { root {home}/www/put; dav_methods PUT; create_full_put_path on; }"
    )
    with nginx_server(
        extra_listen=f"listen 127.0.0.1:{port} http2;",
        locations=locations,
        files={"big": bytes(BODY_BYTES)},
    ) as server:
        yield Server("nginx", port, "nginx", server.program)


def node_http2() -> Any:
    """Node's http2."""
    needs("node")
    return announced("node", ["node", str(PROGRAMS / "h2.js"), "server"], "h2")


def go_http2(binary: Path) -> Any:
    """Go's net/http."""
    return announced("go", [str(binary), "server"], "h2")


def upgrade_http2(binary: Path) -> Any:
    """x/net/http2/h2c, to which a client may upgrade from HTTP/1.1."""
    return announced("upgrade", [str(binary), "upgrade-server"], "grpc")


def _json_of(command: list[str]) -> list[Asked]:
    output = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
    return [Asked(**each) for each in json.loads(output)]


def node_asks(port: int, path: str) -> list[Asked]:
    """Node's http2, one connection."""
    needs("node")
    return _json_of(["node", str(PROGRAMS / "h2.js"), "client", str(port), path])


def node_keeps_asking(port: int, path: str, seconds: float) -> list[Asked]:
    """Node's http2, one request after the other."""
    needs("node")
    return _json_of(["node", str(PROGRAMS / "h2.js"), "busy", str(port), path, str(seconds)])


def go_asks(binary: Path, port: int, path: str) -> list[Asked]:
    """Go's net/http, one connection."""
    return _json_of([str(binary), "client", str(port), path])


def curl_asks(port: int, path: str, how: str) -> list[Asked]:
    """Curl, with a connection for each request but for the first ones after an upgrade."""
    # With prior knowledge, curl 7.88 fails where it uses a connection again.
    together = 8 if how == "--http2" else 1
    made = []
    for name, number in (("one", together), *((f"own{index}", 1) for index in range(4))):
        paths = [f"{path}/{name}/{index}" for index in range(number)]
        urls = [f"http://127.0.0.1:{port}{each}" for each in paths]
        arguments = [part for url in urls for part in ("-o", "/dev/null", url)]
        for each, said in zip(paths, curl(how, *arguments), strict=True):
            made.append(Asked(each, "GET", said["response_code"], said["size_download"]))
    return made


def h2load_asks(port: int, path: str) -> list[Asked]:
    """h2load with a hundred streams at once on each of two connections."""
    needs("h2load")
    url = f"http://127.0.0.1:{port}{path}/load"
    command = ["h2load", "-n", str(LOADED), "-c", "2", "-m", "100", url]
    output = subprocess.run(command, capture_output=True, check=True, timeout=30, text=True).stdout
    succeeded = int(re.search(r"(\d+) succeeded", output)[1])
    return [Asked(f"{path}/load", "GET", 200)] * succeeded


def replayed(recording: Path) -> list[dict[str, Any]]:
    """The spans that a recording makes."""
    command = [WIRESPAN, "replay", "-o", "json", str(recording)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def http2_servers(binary: Path | None, grpc: Path | None) -> Iterator[dict[str, Server]]:
    """All servers by name; one that cannot be had here is missing."""
    found = {}
    makers = {
        "nginx": nginx_http2,
        "node": node_http2,
        "go": lambda: go_http2(binary) if binary else pytest.skip(""),
        "upgrade": lambda: upgrade_http2(grpc) if grpc else pytest.skip(""),
    }
    with ExitStack() as stack:
        for name, make in makers.items():
            try:
                found[name] = stack.enter_context(make())
            except pytest.skip.Exception:
                continue
        yield found
