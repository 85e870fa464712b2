# SPDX-License-Identifier: Apache-2.0
"""Real servers and loads for end-to-end tests and benchmarks."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

WIRESPAN: Final = str(Path(sys.executable).parent / "wirespan")
READY_S: Final = 20.0
READY: Final = ("Watching", "Capturing", "Recording")
"""How the line begins that a capture prints once everything is attached."""

NGINX: Final = """
daemon off; worker_processes {workers}; pid {home}/nginx.pid; error_log {home}/error.log;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile {sendfile}; tcp_nopush on; keepalive_requests 100000000;
  client_body_temp_path {home}/body; client_max_body_size 0;
  proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  server {{
    {listen}
    root {home}/www;
    location = /small {{ return 200 "{small}"; }}
    location = /status {{ stub_status; }}
    {locations}
  }}
}}
"""
RATE_SCRIPT: Final = "function delay() return {delay_ms} end\n"


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_until(happened: Callable[[], Any], what: str, timeout_s: float = READY_S) -> Any:
    """Return what `happened` returns once it is true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        result = happened()
        if result:
            return result
        time.sleep(0.01)
    raise AssertionError(f"{what}: not within {timeout_s} s")


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody accepts connections there."""
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen]:
    """Run a program, and end it whatever happens."""
    program = subprocess.Popen(command, **options)
    try:
        yield program
    finally:
        if program.poll() is None:
            program.terminate()
        with suppress(subprocess.TimeoutExpired):
            program.wait(5)
        program.kill()
        program.wait()
        for pipe in (program.stdin, program.stdout, program.stderr):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


@dataclass
class Nginx:
    """A running nginx."""

    port: int
    home: Path
    program: subprocess.Popen
    asked: int = 0

    def requests(self) -> int:
        """How many requests it has read, but for those that asked this."""
        self.asked += 1
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status") as answer:
            text = answer.read().decode()
        return int(re.search(r"\n (\d+) (\d+) (\d+)", text)[3]) - self.asked


@contextmanager
def nginx(
    *,
    workers: int = 1,
    sendfile: str = "on",
    extra_listen: str = "",
    locations: str = "",
    files: dict[str, bytes] | None = None,
) -> Iterator[Nginx]:
    """Run nginx on a free port; `/small` answers a few bytes, `/status` counts requests."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="wirespan-nginx-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        (home / "www").mkdir()
        for name, content in (files or {}).items():
            (home / "www" / name).write_bytes(content)
        configuration = home / "nginx.conf"
        configuration.write_text(
            NGINX.format(
                home=home,
                workers=workers,
                sendfile=sendfile,
                listen=f"listen 127.0.0.1:{port}; {extra_listen.format(home=home)}",
                small="x" * 64,
                locations=locations.format(home=home),
            )
        )
        command = [program, "-c", str(configuration), "-e", str(home / "error.log")]
        with running(command) as process:
            wait_until(lambda: is_listening(port), "nginx listens")
            yield Nginx(port, home, process)


def wrk(url: str, *, connections: int, seconds: int, threads: int = 1, delay_ms: int = 0) -> int:
    """Load `url`; each connection waits `delay_ms` before a request. Returns requests answered."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(RATE_SCRIPT.format(delay_ms=delay_ms))
        script.flush()
        command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s"]
        if delay_ms:
            command += ["-s", script.name]
        output = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"(\d+) requests in", output)[1])


@dataclass
class Capture:
    """What one `wirespan watch -o json` printed."""

    spans: list[dict[str, Any]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    program: subprocess.Popen | None = None
    exit_code: int | None = None

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [span for span in self.spans if span["kind"] == kind]

    @property
    def summary(self) -> str:
        return "\n".join(self.messages)

    def wait_for(
        self, number: int, kind: str | None = None, timeout_s: float = 10.0, *, strict: bool = True
    ) -> None:
        """Return once there are as many spans; unless `strict`, or when time is up."""
        try:
            wait_until(
                lambda: len(self.of_kind(kind) if kind else self.spans) >= number,
                f"{number} {kind or ''} spans",
                timeout_s,
            )
        except AssertionError as error:
            if strict:
                raise AssertionError(f"{error} (have {len(self.spans)})") from None


@contextmanager
def watch(
    *flags: str, settle_s: float = 0.35, output: str = "json", tls: bool = False
) -> Iterator[Capture]:
    """Capture with the command line while the block runs.

    Without `tls` its libraries are left alone: attaching and detaching takes a second.
    """
    if not tls:
        flags += ("--no-tls",)
    capture = Capture()
    program = subprocess.Popen(
        [WIRESPAN, "watch", "-o", output, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    capture.program = program
    ready = threading.Event()

    def read_spans() -> None:
        for line in program.stdout:
            capture.spans.append(json.loads(line))

    def read_messages() -> None:
        for line in program.stderr:
            capture.messages.append(line.rstrip("\n"))
            if line.startswith(READY):
                ready.set()
        ready.set()

    threads = [threading.Thread(target=each, daemon=True) for each in (read_spans, read_messages)]
    for thread in threads:
        thread.start()
    try:
        assert ready.wait(READY_S), "wirespan says nothing"
        assert any(line.startswith(READY) for line in capture.messages), capture.summary
        yield capture
        time.sleep(settle_s)
        program.send_signal(signal.SIGINT)
        capture.exit_code = program.wait(READY_S)
    finally:
        if program.poll() is None:
            program.kill()
        program.wait()
        for thread in threads:
            thread.join(5)
        program.stdout.close()
        program.stderr.close()
