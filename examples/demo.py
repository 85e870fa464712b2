# SPDX-License-Identifier: Apache-2.0
"""A small shop, traced live: nginx in front, two Python services behind, nobody instrumented.

Run by `make demo`. Where eBPF is not possible it says why and replays examples/demo.wspan,
which `python examples/demo.py --record` made with the same shop.
"""

from __future__ import annotations

import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from parsers.registry import Registry
from tracer.events import OpenEvent
from tracer.pipeline import Pipeline
from tracer.recorder import Recorder
from tracer.recording import RecordingSource, open_source
from tracer.span import Process

HERE: Final = Path(__file__).resolve().parent
RECORDING: Final = HERE / "demo.wspan"
WIRESPAN: Final = [str(Path(sys.executable).parent / "wirespan")]
ROUNDS: Final = 6
READY_S: Final = 20.0

NGINX: Final = """
daemon off; worker_processes 2; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi; uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  upstream shop {{ server 127.0.0.1:{shop}; keepalive 8; }}
  server {{
    listen 127.0.0.1:{front};
    root {home}/www;
    location /api/ {{
      proxy_pass http://shop; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
}}
"""


class Service(http.server.BaseHTTPRequestHandler):
    """Answers JSON; the shop asks the stock before it does."""

    protocol_version = "HTTP/1.1"
    stock_port = 0

    def do_GET(self) -> None:
        """`/api/products/7`, `/api/slow`, `/api/broken`, `/stock/7`."""
        status, answer = 200, {"path": self.path}
        if self.path == "/api/broken":
            status = 500
        elif self.path == "/api/slow":
            time.sleep(0.25)
        elif self.path.startswith("/api/products/"):
            upstream = http.client.HTTPConnection("127.0.0.1", self.stock_port)
            upstream.request("GET", "/stock/" + self.path.rsplit("/", 1)[1])
            answer = {"stock": json.load(upstream.getresponse())}
            upstream.close()
        self._answer(status, answer)

    def do_POST(self) -> None:
        """`/api/orders`."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(201, {"order": 42})

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: what happened is for the tracer to tell."""


def main() -> int:
    """Watch the shop, or record it, or replay the recording."""
    if sys.argv[1:2] == ["serve"]:
        return serve(int(sys.argv[2]), int(sys.argv[3]))
    verdict = subprocess.run(
        [*WIRESPAN, "doctor", "--quiet"], capture_output=True, text=True, check=False
    )
    if verdict.returncode:
        print(verdict.stdout.strip())
        print("So here is a recording of the same shop instead (wirespan replay):\n")
        return subprocess.call([*WIRESPAN, "replay", str(RECORDING)])
    if not (shutil.which("nginx") or Path("/usr/sbin/nginx").exists()):
        print("nginx is not installed, and the demo's shop needs it: apt-get install nginx-light")
        return 1
    with ExitStack() as stack:
        front, ports = stack.enter_context(shop())
        flags = [flag for port in ports for flag in ("--port", str(port))]
        if sys.argv[1:2] == ["--record"]:
            raw = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".wspan"))
            stack.callback(anonymise, Path(raw.name))
            command = [*WIRESPAN, "record", "-w", raw.name, "--force", *flags]
        else:
            command = [*WIRESPAN, "watch", *flags]
            print("A shop of three programs, none of them instrumented:")
            print(f"  curl -> nginx :{ports[0]} -> shop :{ports[1]} -> stock :{ports[2]}\n")
            print(f"$ sudo wirespan watch {' '.join(flags)}", flush=True)
        tracer = stack.enter_context(traced(command))
        customers(front)
        time.sleep(0.5)
        tracer.send_signal(signal.SIGINT)
        code = tracer.wait(READY_S)
    if command[1] == "watch":
        print(
            "\nEvery hop was seen from both ends (\u2190 as the server, \u2192 as the client), with"
            " nothing\nchanged in any program. Look at /api: the shop answers in 1 ms, and nginx"
            " often waits\n40 ms longer for it. Head and body are two small writes, so Nagle's"
            " algorithm holds\nthe body back until nginx's delayed ACK: no log of either says"
            " so.\n\n"
            "Next:\n"
            "  sudo .venv/bin/wirespan watch                    what this machine says right now\n"
            "  sudo .venv/bin/wirespan watch -- curl -s URL     one command and its children\n"
            "  sudo .venv/bin/wirespan agent --endpoint URL     the same as OTLP spans"
        )
    return code


class Anonymous:
    """A recording as a source, without what tells of the machine it was made on."""

    def __init__(self, source: RecordingSource) -> None:
        self._source = source
        self._anonymous: dict[Process, Process] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def process(self, tgid: int, opened: OpenEvent | None) -> Process:
        """Facts of a process but for its host's and its file's."""
        known = self._source.process(tgid, opened)
        if known not in self._anonymous:
            resource = {
                key: value
                for key, value in known.resource.items()
                if not key.startswith("host.") and not str(value).startswith("/")
            }
            resource["service.instance.id"] = f"demo:{known.pid}"
            self._anonymous[known] = Process(known.pid, known.start_ns, resource)
        return self._anonymous[known]


def anonymise(raw: Path) -> None:
    """Write `raw` again as the recording that is carried."""
    source = open_source(raw)
    recorder = Recorder(
        RECORDING, Anonymous(source), seed=source.seed, snaplen=4096, redact=False, overwrite=True
    )
    Pipeline(recorder, Registry.load(), [], seed=source.seed, writer=recorder).run()
    recorder.close()
    source.close()
    RECORDING.chmod(0o644)


@contextmanager
def shop() -> Iterator[tuple[int, list[int]]]:
    """Run the three programs; yields the front port and all ports."""
    front, api, stock = free_ports(3)
    with tempfile.TemporaryDirectory(prefix="wirespan-demo-") as folder, ExitStack() as stack:
        home = Path(folder)
        home.chmod(0o755)
        (home / "www").mkdir()
        (home / "www" / "index.html").write_text("<h1>A small shop</h1>\n")
        (home / "www" / "catalogue.bin").write_bytes(bytes(3_000_000))
        configuration = home / "nginx.conf"
        configuration.write_text(NGINX.format(home=home, front=front, shop=api))
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        for name, command in (
            ("stock", [sys.executable, __file__, "serve", str(stock), "0"]),
            ("shop", [sys.executable, __file__, "serve", str(api), str(stock)]),
            ("", [nginx, "-c", str(configuration), "-e", str(home / "error.log")]),
        ):
            stack.enter_context(running(command, name))
        for port in (front, api, stock):
            wait_for(port)
        yield front, [front, api, stock]


@contextmanager
def running(command: list[str], service: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, and end it whatever happens."""
    # The only thing that tells the two scripts apart; wirespan reads it, they do not.
    environment = os.environ | ({"OTEL_SERVICE_NAME": service} if service else {})
    program = subprocess.Popen(command, env=environment)
    try:
        yield program
    finally:
        program.terminate()
        with suppress(subprocess.TimeoutExpired):
            program.wait(5)
        program.kill()


@contextmanager
def traced(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run wirespan; yields once it is capturing."""
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    ready = threading.Event()

    def forward(lines: Any) -> None:
        for line in lines:
            ready.set()
            sys.stderr.write(line)
            sys.stderr.flush()

    thread = threading.Thread(target=forward, args=(tracer.stderr,), daemon=True)
    thread.start()
    if not ready.wait(READY_S) or tracer.poll() is not None:
        tracer.kill()
        sys.exit("wirespan did not start capturing")
    try:
        yield tracer
    finally:
        if tracer.poll() is None:
            tracer.kill()
        thread.join(5)


def customers(port: int) -> None:
    """Some traffic: pages, products, orders, something slow, something broken."""
    base = f"http://127.0.0.1:{port}"
    for number in range(1, ROUNDS + 1):
        subprocess.run(["curl", "-s", "-o", "/dev/null", f"{base}/"], check=True)
        subprocess.run(
            ["curl", "-s", "-o", "/dev/null", f"{base}/api/products/{number}"], check=True
        )
        if number == 2:
            subprocess.run(["curl", "-sI", "-o", "/dev/null", f"{base}/"], check=True)
        if number == 3:
            order = [
                "curl",
                "-s",
                "-o",
                "/dev/null",
                "-d",
                "card=4111",
                f"{base}/api/orders?token=x",
            ]
            subprocess.run(order, check=True)
        if number == 4:
            subprocess.run(["curl", "-s", "-o", "/dev/null", f"{base}/api/slow"], check=True)
            subprocess.run(["curl", "-s", "-o", "/dev/null", f"{base}/api/broken"], check=True)
        if number == 5:
            subprocess.run(["curl", "-s", "-o", "/dev/null", f"{base}/catalogue.bin"], check=True)
            subprocess.run(["curl", "-s", "-o", "/dev/null", f"{base}/nowhere"], check=True)


def serve(port: int, stock_port: int) -> int:
    """Be one of the services."""
    Service.stock_port = stock_port
    with suppress(KeyboardInterrupt):
        http.server.ThreadingHTTPServer(("127.0.0.1", port), Service).serve_forever()
    return 0


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(port: int) -> None:
    """Return once somebody listens on `port`."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    sys.exit(f"nothing listens on port {port}")


if __name__ == "__main__":
    sys.exit(main())
