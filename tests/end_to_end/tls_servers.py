# SPDX-License-Identifier: Apache-2.0
"""Servers over TLS, their certificate authority, and the programs that both ends are built from.

All HTTP servers answer alike: the last part of a path is the size of the answer or `missing`, PUT
is 201 with nothing, and X-Peer is the port that the client has, which OpenSSL's s_server does not
say. By itself, that only has files.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from tests.end_to_end.http2_servers import go_build
from tests.end_to_end.servers import PROGRAMS, Server, announced, needs
from tests.rig import free_port, is_listening, running, wait_until

TLS_PROGRAMS: Final = PROGRAMS / "tls"
STRIPPED: Final = ("-ldflags", "-s -w")
"""Without a symbol table and without DWARF."""
SIZES: Final = (0, 100, 20_480)
"""Of bodies; the last one is more than a TLS record holds (RFC 8446 5.1)."""
NGINX: Final = """
daemon off; worker_processes 2; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000; client_max_body_size 0; client_body_buffer_size 64k;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi; uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
  server {{
    listen 127.0.0.1:{port} ssl http2;
    add_header X-Peer $remote_port always;
    default_type text/plain;
    location ~ ^/.+/(?<size>[0-9]+)$ {{ alias {home}/www/$size; }}
    location ~ /put$ {{ root {home}/put; dav_methods PUT; create_full_put_path on; }}
    location / {{ return 404; }}
  }}
}}
"""


@dataclass(frozen=True)
class Authority:
    """Files of a certificate authority, and of a certificate for this machine that it signed."""

    ca: Path
    certificate: Path
    key: Path


@contextmanager
def authority() -> Iterator[Authority]:
    """Make one, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="wirespan-tls-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        made = Authority(home / "ca.pem", home / "certificate.pem", home / "key.pem")
        root = trustme.CA()
        root.cert_pem.write_to_path(str(made.ca))
        issued = root.issue_cert("127.0.0.1", "localhost")
        issued.private_key_pem.write_to_path(str(made.key))
        for each in issued.cert_chain_pems:
            each.write_to_path(str(made.certificate), append=True)
        made.key.chmod(0o644)
        yield made


def built(folder: Path, name: str = "web", *, modules: bool = False) -> dict[str, Path]:
    """A program of Go, `go` as it comes and `go-stripped`; neither where that is not possible."""
    source = TLS_PROGRAMS / (name if modules else f"{name}.go")
    try:
        return {
            "go": go_build(source, folder / name, modules=modules),
            "go-stripped": go_build(source, folder / f"{name}-bare", *STRIPPED, modules=modules),
        }
    except pytest.skip.Exception:
        return {}


@contextmanager
def nginx_tls(files: Authority) -> Iterator[Server]:
    """nginx, HTTP/1.1 and HTTP/2."""
    needs("nginx")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="wirespan-nginx-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        for name in ("www", "put"):
            (home / name).mkdir()
        (home / "put").chmod(0o777)
        for size in SIZES:
            (home / "www" / str(size)).write_bytes(b"x" * size)
        configuration = home / "nginx.conf"
        configuration.write_text(
            NGINX.format(home=home, port=port, certificate=files.certificate, key=files.key)
        )
        command = ["nginx", "-c", str(configuration), "-e", str(home / "error.log")]
        with running(command) as program:
            wait_until(lambda: is_listening(port), "nginx listens")
            yield Server("nginx", port, "nginx", program)


def openssl_tls(files: Authority) -> Any:
    """OpenSSL's s_server, with one connection for each exchange."""
    needs("openssl")
    script = str(TLS_PROGRAMS / "s_server.py")
    command = [sys.executable, script, str(files.certificate), str(files.key)]
    return announced("openssl", command, "openssl")


@contextmanager
def openssl_files(files: Authority, cell: str, number: int) -> Iterator[Server]:
    """The same with HTTP/1.0 of its own: the files `CELL/INDEX/SIZE`, for `number` indexes.

    It then reads and writes through OpenSSL's BIO_f_ssl and not through SSL_read and SSL_write.
    """
    needs("openssl")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="wirespan-openssl-") as folder:
        home = Path(folder)
        (home / "sizes").mkdir()
        for size in SIZES:
            (home / "sizes" / str(size)).write_bytes(b"x" * size)
        (home / cell).mkdir()
        for index in range(number):
            (home / cell / str(index)).symlink_to(home / "sizes")
        command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-WWW", "-quiet"]
        command += ["-cert", str(files.certificate), "-key", str(files.key)]
        with running(
            command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as program:
            wait_until(lambda: is_listening(port), "s_server listens")
            yield Server("openssl-files", port, "openssl", program)


def python_tls(files: Authority, how: str = "threads") -> Any:
    """http.server with ssl's sockets, or uvicorn with `asyncio`."""
    script = str(TLS_PROGRAMS / "server.py")
    command = [sys.executable, script, how, str(files.certificate), str(files.key)]
    return announced("uvicorn" if how == "asyncio" else "python", command, "server")


def node_tls(files: Authority, how: str = "https") -> Any:
    """Node's https; or its http2, which lets clients speak HTTP/1.1 as well."""
    needs("node")
    script = str(TLS_PROGRAMS / "server.js")
    name = "node" if how == "https" else "node-http2"
    command = ["node", script, how, str(files.certificate), str(files.key)]
    return announced(name, command, "server")


def go_tls(files: Authority, binary: Path, name: str) -> Any:
    """Go's net/http, HTTP/1.1 and HTTP/2."""
    command = [str(binary), "server", str(files.certificate), str(files.key)]
    return announced(name, command, binary.name)


def connect_proxy() -> Any:
    """A proxy for CONNECT."""
    return announced("proxy", [sys.executable, str(TLS_PROGRAMS / "connect_proxy.py")], "")


@contextmanager
def web_servers(files: Authority, binaries: dict[str, Path]) -> Iterator[dict[str, Server]]:
    """All HTTP servers by name; one that cannot be had here is missing."""
    makers: dict[str, Callable[[], Any]] = {
        "nginx": lambda: nginx_tls(files),
        "python": lambda: python_tls(files),
        "uvicorn": lambda: python_tls(files, "asyncio"),
        "node": lambda: node_tls(files),
        "node-http2": lambda: node_tls(files, "http2"),
        "openssl": lambda: openssl_tls(files),
    }
    for name, binary in binaries.items():
        makers[name] = lambda name=name, binary=binary: go_tls(files, binary, name)
    found = {}
    with ExitStack() as stack:
        for name, make in makers.items():
            try:
                found[name] = stack.enter_context(make())
            except pytest.skip.Exception:
                continue
        yield found


@contextmanager
def mapped(*binaries: Path) -> Iterator[None]:
    """Keep the clients' programs and libraries in memory, as on a machine where they are in use.

    What is hooked is a file; of one that nobody has mapped before, a process may have said its
    first words before its start is noticed.
    """
    idle = [
        [sys.executable, str(TLS_PROGRAMS / "client.py"), "wait"],
        *([str(each), "wait"] for each in binaries),
    ]
    if shutil.which("node"):
        idle.append(["node", str(TLS_PROGRAMS / "client.js"), "wait"])
    with ExitStack() as stack:
        programs = [
            stack.enter_context(running(each, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for each in idle
        ]
        assert programs[0].stdout is not None
        assert programs[0].stdout.readline() == b"waiting\n"
        yield
