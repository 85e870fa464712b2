# SPDX-License-Identifier: Apache-2.0
"""A small shop, traced live: six programs that speak five protocols, nobody instrumented.

Run by `make demo`. Where eBPF is not possible it says why and replays examples/demo.wspan,
which `python examples/demo.py --record` made with the same shop.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import demo_servers
from demo_servers import READY_S, Missing
from demo_shop import HOST, SHOP_NAME

from parsers.registry import Registry
from tracer.events import OpenEvent
from tracer.pipeline import Pipeline
from tracer.recorder import Recorder
from tracer.recording import RecordingSource, open_source
from tracer.span import Process

HERE: Final = Path(__file__).resolve().parent
RECORDING: Final = HERE / "demo.wspan"
WIRESPAN: Final = [str(Path(sys.executable).parent / "wirespan")]
WIDTH: Final = 80
OTLP_PORT: Final = 4318
JAEGER: Final = "http://localhost:16686"
SETTLE_S: Final = 0.3
"""After each step, so that what was seen of it is printed below its heading."""
CUSTOMER_S: Final = 15
WORDS: Final = ("no", "one", "two", "three", "four", "five", "six", "seven")


@dataclass
class Site:
    """What is running."""

    ports: list[int] = field(default_factory=list)
    """Of every server."""
    front: int = 0
    """Where customers ask."""
    nginx: bool = True
    redis: bool = True
    postgresql: bool = True
    dns: bool = True
    backend: bool = False
    """Something takes OTLP on this machine, and gets the spans as well."""


class Step(NamedTuple):
    """One request of a customer."""

    heading: str
    path: str
    form: str = ""
    """Body of a POST."""


def main() -> int:
    """Watch the shop, or record it, or replay the recording."""
    verdict = subprocess.run(
        [*WIRESPAN, "doctor", "--quiet"], capture_output=True, text=True, check=False
    )
    if verdict.returncode:
        print(verdict.stdout.strip())
        return replay()
    try:
        demo_servers.which("curl")
    except Missing as missing:
        print(f"{missing}, and the demo's customers use it.")
        return 1
    is_recording = sys.argv[1:2] == ["--record"]
    with ExitStack() as stack:
        site = Site()
        lacking = start(site, stack)
        pairs = [("--port", str(port)) for port in site.ports]
        flags = [word for pair in pairs for word in pair]
        if is_recording:
            if lacking:
                print("The recording is to show everything, so nothing is recorded.")
                return 1
            raw = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".wspan"))
            command = [*WIRESPAN, "record", "-w", raw.name, "--force", *flags]
        else:
            site.backend = has_backend()
            more = ["--map", *["--export otlp"] * site.backend]
            command = [*WIRESPAN, "watch", *flags, *" ".join(more).split()]
            introduce(site)
            # Broken between flags, not between a flag and its value.
            words = ["sudo wirespan watch", *("\0".join(pair) for pair in pairs), *more]
            lines = textwrap.wrap(
                " ".join(words), WIDTH - 4, subsequent_indent="    ", break_on_hyphens=False
            )
            print("$ " + " \\\n".join(lines).replace("\0", " "), flush=True)
        tracer = stack.enter_context(traced(command))
        for number, step in enumerate(story(site), 1):
            if not is_recording:
                print(f"\n{number}. {step.heading}", flush=True)
            visit(site, step)
            time.sleep(SETTLE_S)
        tracer.send_signal(signal.SIGINT)
        code = tracer.wait(READY_S)
        if is_recording:
            anonymise(Path(raw.name))
    if not is_recording:
        explain(site)
    return code


def start(site: Site, stack: ExitStack) -> bool:
    """Start what can be started; whether something is lacking."""
    lacking = False

    def attempt(server: AbstractContextManager[Any], without: str) -> Any:
        nonlocal lacking
        try:
            return stack.enter_context(server)
        except Missing as missing:
            lacking = True
            print(f"{str(missing)[0].upper()}{str(missing)[1:]}, so {without}.", flush=True)
            return None

    redis_port = attempt(demo_servers.redis(), "the shop has no cache (Redis)") or 0
    dns_port = attempt(demo_servers.dnsmasq(), "no name is looked up (DNS)") or 0
    database = attempt(demo_servers.postgresql(), "the stock is kept in memory") or {}
    shop, stock = demo_servers.free_port(), demo_servers.free_port()
    stack.enter_context(demo_servers.services((shop, stock), redis_port, dns_port, database))
    front = attempt(demo_servers.nginx(shop), "customers ask the shop without a proxy") or 0
    database_port = int(database.get("PGPORT", 0))
    ports = (front, shop, stock, redis_port, database_port, dns_port)
    site.ports = [port for port in ports if port]
    site.front, site.nginx = front or shop, bool(front)
    site.redis, site.dns, site.postgresql = bool(redis_port), bool(dns_port), bool(database_port)
    return lacking


def introduce(site: Site) -> None:
    """Who talks to whom."""
    hops = ["curl", *["nginx"] * site.nginx, "shop", "stock", *["PostgreSQL"] * site.postgresql]
    print(f"A shop of {WORDS[len(hops) + site.redis + site.dns]} programs, none instrumented:\n")
    print("  " + " -> ".join(hops))
    indent = " " * len("  " + " -> ".join(hops[: hops.index("shop")]) + " -> ")
    if site.nginx:
        print("  curl speaks TLS to nginx; the rest is in the clear")
    if site.redis:
        print(f"{indent}shop -> Redis, its cache")
    if site.dns:
        print(f"{indent}shop -> dnsmasq, which knows where the stock is")
    print()


def story(site: Site) -> list[Step]:
    """What customers do."""
    page, order = "/api/products/7", "/api/orders?product=7&token=hunter2"
    keeps = "It is not in the cache, so the shop asks the stock" if site.redis else "A gRPC call"
    again = "The same page, now from the cache." if site.redis else "The same page again."
    no = "the database" if site.postgresql else "the stock"
    return [
        Step(f"The page of a product. {keeps}.", page),
        Step(again, page),
        Step("An order, with a card in its body and a token in its URL.", order, "card=4111"),
        Step(f"The same again: it was the last one, and {no} refuses.", order, "card=4111"),
    ]


def explain(site: Site) -> None:
    """What there was to see. True whatever was running."""
    seen = "Every hop was seen from both ends (\u2190 it answered, \u2192 it asked)"
    told = [f"{seen}, with nothing changed in any program."]
    if site.postgresql:
        told.append(
            "The refusal of step 4 from the inside out: SQLSTATE 23514 in PostgreSQL, a failed"
            " gRPC call, 409 in HTTP. In step 4 the UPDATE was on the wire by a name only, and is"
            " known from step 3, where it was prepared (Parse)."
        )
    if site.nginx:
        told.append("What curl and nginx encrypt was read where they hand it to OpenSSL.")
    told.append("Literals, the token and the card are not shown, and would not be recorded either.")
    print("\n" + textwrap.fill(" ".join(told), WIDTH))
    print(f"\n{where_to_look(site)}")
    print(
        "\nNext:\n"
        "  sudo .venv/bin/wirespan watch                 what this machine says right now\n"
        "  sudo .venv/bin/wirespan watch -- curl -s URL  one command and its children\n"
        "  sudo .venv/bin/wirespan map                   who calls whom, in the next 10 s\n"
        "  sudo .venv/bin/wirespan agent --endpoint URL  the same by OTLP, with metrics"
    )


def has_backend() -> bool:
    """Whether something takes OTLP on this machine."""
    with suppress(OSError), socket.create_connection((HOST, OTLP_PORT), timeout=0.2):
        return True
    return False


def where_to_look(site: Site) -> str:
    """What a backend shows of it."""
    sent = (
        "The spans went to the backend on this machine as well. If it is Jaeger, look at:"
        if site.backend
        else "With a Jaeger on this machine (examples/compose has one, with Tempo and\n"
        "Grafana) the demo sends its spans there. Then look at:"
    )
    return (
        f"{sent}\n"
        f"  {JAEGER}/search?service=shop  the traces\n"
        f"  {JAEGER}/dependencies         the same map (System Architecture)"
    )


def replay() -> int:
    """Show the recording, in which everything was running."""
    print("So here is a recording of the demo instead (wirespan replay).\n")
    site = Site()
    introduce(site)
    for number, step in enumerate(story(site), 1):
        print(f"{number}. {step.heading}")
    print(flush=True)
    code = subprocess.call([*WIRESPAN, "replay", str(RECORDING), "--map"])
    explain(site)
    return code


def visit(site: Site, step: Step) -> None:
    """Be a customer."""
    command = ["curl", "-s", "-o", "/dev/null", "--noproxy", "*"]
    command += ["-d", step.form] if step.form else []
    # The certificate was made a moment ago, and nobody has signed it.
    command += ["--insecure", "--resolve", f"{SHOP_NAME}:{site.front}:{HOST}"]
    scheme = "https" if site.nginx else "http"
    command.append(f"{scheme}://{SHOP_NAME}:{site.front}{step.path}")
    subprocess.run(command, check=True, timeout=CUSTOMER_S)


@contextmanager
def traced(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run wirespan; yields once it is capturing."""
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    ready = threading.Event()

    def forward(lines: Any) -> None:
        for line in lines:
            sys.stderr.write(line)
            sys.stderr.flush()
            ready.set()

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
        tracer.wait()
        thread.join(5)


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


def end(*_: object) -> None:
    """End everything that runs, also when told to by a signal."""
    sys.exit(128 + signal.SIGTERM)


def end_children() -> None:
    """A signal in the middle of a start leaves a child that nobody else knows of."""
    with suppress(OSError):
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        for child in map(int, children.split()):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        end_children()
