# SPDX-License-Identifier: Apache-2.0
"""The servers of the demo's shop: started on the loopback interface, ended whatever happens."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import demo_shop
from demo_shop import HOST

READY_S: Final = 20.0
REDIS_PORT: Final = 6379
POSTGRESQL_PORT: Final = 5432
DATABASE: Final = "shop"
USER: Final = "shop"
SERVICES: Final = str(Path(demo_shop.__file__))
OUT_OF_PATH: Final = (Path("/usr/sbin"), *sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:])
"""Where distributions keep servers."""

NGINX: Final = """
daemon off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi; uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  upstream shop {{ server 127.0.0.1:{shop}; keepalive 8; }}
  server {{
    listen 127.0.0.1:{front} ssl;
    ssl_certificate {home}/certificate.pem; ssl_certificate_key {home}/key.pem;
    location /api/ {{
      proxy_pass http://shop; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
}}
"""
POSTGRESQL: Final = {
    "listen_addresses": HOST,
    "fsync": "off",
    "shared_buffers": "8MB",
    "max_connections": "10",
    "autovacuum": "off",
    "log_min_messages": "panic",
}


class Missing(Exception):  # noqa: N818 - the demo goes on without
    """A server cannot be run here."""


@contextmanager
def running(
    command: list[str], *, end: int = signal.SIGTERM, quiet: bool = False, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, and end it whatever happens."""
    output = subprocess.DEVNULL if quiet else None
    program = subprocess.Popen(
        command, env=os.environ | variables, cwd="/", stdout=output, stderr=output
    )
    try:
        yield program
    finally:
        program.send_signal(end)
        with suppress(subprocess.TimeoutExpired):
            program.wait(5)
        program.kill()
        program.wait()


@contextmanager
def nginx(shop: int) -> Iterator[int]:
    """In front of the shop, and encrypted; yields its port."""
    program, openssl = which("nginx"), which("openssl")
    front = free_port()
    with folder() as home:
        certify = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        certify += ["-nodes", "-days", "1", "-subj", f"/CN={demo_shop.SHOP_NAME}"]
        certify += ["-keyout", f"{home}/key.pem", "-out", f"{home}/certificate.pem"]
        subprocess.run(certify, check=True, capture_output=True)
        configuration = home / "nginx.conf"
        configuration.write_text(NGINX.format(home=home, front=front, shop=shop))
        command = [program, "-c", str(configuration), "-e", str(home / "error.log")]
        with running(command) as started:
            wait_for(front, started, "nginx")
            yield front


@contextmanager
def redis() -> Iterator[int]:
    """The cache; yields its port."""
    program = which("redis-server")
    needs("redis")
    port = usual_port(REDIS_PORT)
    with folder() as home:
        command = [program, "--port", str(port), "--bind", HOST, "--dir", str(home), "--save", ""]
        with running(as_nobody(command), quiet=True) as started:
            wait_for(port, started, "redis-server")
            yield port


@contextmanager
def dnsmasq() -> Iterator[int]:
    """A name server that asks nobody; yields its port."""
    program = which("dnsmasq")
    needs("dns", "dnspython")
    port = free_port()
    command = [program, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv"]
    command += ["--no-hosts", f"--port={port}", f"--listen-address={HOST}", "--bind-interfaces"]
    command += [f"--address=/{demo_shop.STOCK_NAME}/{HOST}", "--pid-file=", "--user=nobody"]
    with running(command, quiet=True) as started:
        wait_for(port, started, "dnsmasq")
        yield port


@contextmanager
def postgresql() -> Iterator[dict[str, str]]:
    """A cluster of its own; yields the variables that its client needs."""
    initdb, program = which("initdb"), which("postgres")
    needs("psycopg")
    print("Starting PostgreSQL, with a new database in a temporary folder ...", flush=True)
    port, password = usual_port(POSTGRESQL_PORT), secrets.token_hex()
    client = {"host": HOST, "port": port, "dbname": DATABASE, "user": USER, "password": password}
    with folder() as home:
        secret = home / "password"
        secret.touch(0o600)
        own(secret)
        secret.write_text(password)
        install = [initdb, "-D", f"{home}/data", "-U", USER, "-N", "--auth=scram-sha-256"]
        install += [f"--pwfile={secret}", "--locale=C", "-E", "UTF8"]
        done = subprocess.run(as_nobody(install), capture_output=True, check=False, cwd="/")
        if done.returncode:
            raise Missing(f"initdb failed: {done.stderr.decode().strip()[-200:]}")
        command = [program, "-D", f"{home}/data", "-p", str(port), "-k", str(home)]
        command += [
            part for name, value in POSTGRESQL.items() for part in ("-c", f"{name}={value}")
        ]
        # SIGQUIT: at once, and its children with it.
        with running(as_nobody(command), end=signal.SIGQUIT, quiet=True) as started:
            wait_for(port, started, "postgres")
            _fill(client | {"dbname": "postgres"}, f"CREATE DATABASE {DATABASE}")
            _fill(client, *demo_shop.SCHEMA)
            yield {
                "PGHOST": HOST,
                "PGPORT": str(port),
                "PGDATABASE": DATABASE,
                "PGUSER": USER,
                "PGPASSWORD": password,
            }


def _fill(client: dict[str, Any], *statements: str) -> None:
    """Run `statements` once the server is ready."""
    import psycopg  # noqa: PLC0415 - optional

    deadline = time.monotonic() + READY_S
    while True:
        try:
            connection = psycopg.connect(**client, autocommit=True)
            break
        except psycopg.OperationalError:  # it listens before it is ready
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    with connection:
        for statement in statements:
            connection.execute(statement)


@contextmanager
def services(
    ports: tuple[int, int], redis_port: int, dns_port: int, database: Mapping[str, str]
) -> Iterator[None]:
    """Run the shop and the stock."""
    shop, stock = ports
    base = [sys.executable, SERVICES]
    more = ["--stock", str(stock), "--redis", str(redis_port), "--dns", str(dns_port)]
    started: list[tuple[int, subprocess.Popen[bytes], str]] = []
    with ExitStack() as stack:
        # The name is all that tells the two scripts apart; wirespan reads it, they do not.
        for name, port, flags, variables in (
            ("stock", stock, [], database),
            ("shop", shop, more, {}),
        ):
            command = [*base, name, str(port), *flags]
            program = stack.enter_context(running(command, OTEL_SERVICE_NAME=name, **variables))
            started.append((port, program, name))
        for each in started:
            wait_for(*each)
        yield


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder in which a server that is not root may write."""
    with tempfile.TemporaryDirectory(prefix="wirespan-demo-") as name:
        own(Path(name))
        yield Path(name)


def own(path: Path) -> None:
    """Give `path` to the user that servers run as."""
    if not os.geteuid():
        os.chown(path, _nobody().pw_uid, _nobody().pw_gid)


def as_nobody(command: list[str]) -> list[str]:
    """The command of a server that refuses to run as root, or should not."""
    if os.geteuid():
        return command
    user = _nobody()
    ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return [which("setpriv"), *ids, *command]


def _nobody() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise Missing("there is no user called nobody")


def which(program: str) -> str:
    """Where `program` is."""
    places = os.pathsep.join([os.environ.get("PATH", ""), *map(str, OUT_OF_PATH)])
    found = shutil.which(program, path=places)
    if not found:
        raise Missing(f"{program} is not installed")
    return found


def needs(module: str, package: str = "") -> None:
    """Go on only if a Python package is there."""
    if importlib.util.find_spec(module) is None:
        raise Missing(f"the Python package {package or module} is not installed")


def usual_port(port: int) -> int:
    """`port`, or another one if somebody has it."""
    with suppress(OSError), socket.create_server((HOST, port)):
        return port
    return free_port()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_for(port: int, program: subprocess.Popen[bytes], name: str) -> None:
    """Return once `program` listens on `port`."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and program.poll() is None:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.02)
    raise Missing(f"{name} does not start")
