# SPDX-License-Identifier: Apache-2.0
"""`make bench`: what an exchange costs us, what a socket call costs the traced program.

Timings of shared machines are noisy: our own cost is process CPU time, the kernel's is what
bpf_stats counted, and figures are compared within one run.
"""

from __future__ import annotations

import argparse
import platform
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from rig import nginx, wrk

from exporters.otlp_wire import SpanEncoder
from parsers.registry import Registry
from tracer.events import Cause, DataEvent, OpenEvent, address_bytes, chunk_of
from tracer.pipeline import Pipeline
from tracer.source import Batch
from tracer.span import Process, Span

RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Fri, 20 Nov 2026 09:00:00 GMT\r\n"
    b"Content-Type: text/html\r\nContent-Length: 64\r\nConnection: keep-alive\r\n\r\n" + b"x" * 64
)
ROUNDS = 5


class Encoding:
    """The exporter's work without its network."""

    def __init__(self) -> None:
        self.encoder = SpanEncoder()
        self.spans = 0
        self.bytes = 0

    def export(self, spans: Sequence[Span]) -> None:
        self.spans += len(spans)
        self.bytes += sum(len(body) for _, body in self.encoder.encode(spans))

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self) -> None:
        pass

    def counters(self) -> dict[str, int]:
        return {}


class Prepared:
    """A source whose batches lie in memory."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches = iter(batches)
        self.known = Process(1, 1, {"service.name": "nginx"})

    def poll(self, timeout_s: float) -> Batch | None:
        return next(self.batches, None)

    def process(self, tgid: int, opened: OpenEvent | None) -> Process:
        return self.known

    def advise(self, *_: Any, **__: Any) -> None:
        pass

    def forget(self, cookie: int) -> None:
        pass

    def counters(self) -> dict[Cause, Any]:
        return {}

    def unused(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass


def conversation(connections: int, requests: int, *, unique: bool) -> list[Batch]:
    """Keep-alive connections that take turns, two events an exchange."""
    events: list[Any] = []
    positions = [[0, 0] for _ in range(connections)]
    now = 1_000
    events += [
        OpenEvent(
            role=2, transport=1, flags=0, tgid=10, cookie=number + 1, timestamp_ns=now,
            process_start_ns=1, cgroup_id=0, netns=1, egress_position=0, ingress_position=0,
            local_port=80, remote_port=40_000 + number, local=address_bytes("127.0.0.1"),
            remote=address_bytes("127.0.0.1"), comm=b"nginx", path=b"",
        )
        for number in range(connections)
    ]  # fmt: skip
    for turn in range(requests):
        for number in range(connections):
            path = f"/item/{turn * connections + number}" if unique else "/index.html"
            request = f"GET {path} HTTP/1.1\r\nHost: localhost:80\r\nUser-Agent: wrk\r\n\r\n"
            for direction, data in enumerate((request.encode(), RESPONSE)):
                now += 1_000
                events.append(
                    DataEvent(
                        direction=direction, cookie=number + 1, timestamp_ns=now,
                        position=positions[number][direction], size=len(data), data=data,
                        turn=2 * turn + direction + 1, flags=8, tgid=10, rtt_us=50,
                    )
                )  # fmt: skip
                positions[number][direction] += len(data)
    return [
        Batch(chunk_of(events[start : start + 2000]), now + start, 0)
        for start in range(0, len(events), 2000)
    ]


def bench_pipeline() -> None:
    """Microseconds of CPU from ring-buffer bytes to OTLP bytes."""
    print("Our CPU, from ring-buffer bytes to OTLP bytes (one core, no network)")
    for unique in (False, True):
        batches = conversation(50, 400, unique=unique)
        costs = []
        for _ in range(ROUNDS):
            exporter = Encoding()
            pipeline = Pipeline(Prepared(batches), Registry.load(), [exporter], seed=1)
            before = time.process_time()
            pipeline.run()
            costs.append((time.process_time() - before) / exporter.spans * 1e6)
        name = "every request different" if unique else "requests that repeat"
        print(
            f"  HTTP/1, {name:<24} {statistics.median(costs):6.1f} us an exchange"
            f"  (best {min(costs):.1f}, {exporter.bytes / exporter.spans:.0f} OTLP bytes)"
        )


def open_source(**settings: Any) -> Any:
    """The kernel as a source."""
    from tracer.probes import KernelSource, Settings
    from tracer.procfs import ProcessTable

    return KernelSource(Settings(**settings), ProcessTable())


ECHO = """
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
served, _ = server.accept()
for _ in range(40_000):
    client.send(b"x" * 256)
    served.recv(4096)
"""


def bench_kernel(payload_source: str) -> None:
    """Nanoseconds a socket call, by bpf_stats, with messages of 256 bytes."""
    source = open_source(payload_source=payload_source)
    with measured(source, payload_source, "256 bytes, one thread"):
        for _ in range(3):
            peer = subprocess.Popen([sys.executable, "-c", ECHO])
            while peer.poll() is None:
                source.poll(0.02)
    with nginx() as server:
        source = open_source(payload_source=payload_source)
        with measured(source, payload_source, "nginx under wrk"):
            load = threading.Thread(
                target=wrk,
                args=(f"http://127.0.0.1:{server.port}/small",),
                kwargs={"connections": 50, "seconds": 3},
            )
            load.start()
            while load.is_alive():
                source.poll(0.02)


@contextmanager
def measured(source: Any, payload_source: str, name: str) -> Iterator[None]:
    """Print what the programs cost while the block runs; closes the source."""
    source.enable_stats()
    before = source.program_stats()
    yield
    after = source.program_stats()
    transfers = sum(each.events for each in source.counters().values())
    source.close()
    spent_ns = sum(after[each].run_time_ns - before[each].run_time_ns for each in after)
    print(f"  {payload_source:<8} {name:<22} {spent_ns / transfers:6.0f} ns a transfer, of which")
    for each in after:
        runs = after[each].run_count - before[each].run_count
        if runs > transfers // 100:
            cost = (after[each].run_time_ns - before[each].run_time_ns) / runs
            print(f"           {'':<22} {cost:6.0f} ns x {runs:,} {each}")


def bench_load(payload_source: str, *, seconds: int, delay_ms: int) -> None:
    """Exchanges seen against made, and our CPU for each, while wrk loads nginx."""
    with nginx(workers=1) as server:
        made_before = server.requests()
        source = open_source(payload_source=payload_source, ports=(server.port,))
        exporter = Encoding()
        pipeline = Pipeline(source, Registry.load(), [exporter], seed=1)
        load = threading.Thread(
            target=wrk,
            args=(f"http://127.0.0.1:{server.port}/small",),
            kwargs={"connections": 100, "seconds": seconds, "delay_ms": delay_ms},
        )
        began_s, cpu_s = time.monotonic(), time.process_time()
        load.start()
        while load.is_alive():
            pipeline.step(0.05)
        cpu_s = time.process_time() - cpu_s
        elapsed_s = time.monotonic() - began_s
        made = server.requests() - made_before
        for _ in range(20):
            pipeline.step(0.05)
        pipeline.end()
        kernel = source.counters()
        source.close()
    full = kernel.get(Cause.RING_FULL)
    lost = full.requests if full else 0
    spans = exporter.spans
    print(
        f"  {payload_source:<8} {made / elapsed_s:8,.0f} requests/s:"
        f" {made:,} made, {spans:,} exchanges seen from both ends ({spans / made / 2:.2%}),"
        f" {lost:,} requests dropped; {cpu_s / max(spans, 1) * 1e6:.1f} us CPU an exchange,"
        f" {cpu_s / elapsed_s:.0%} of a core"
    )


def bench_memory() -> None:
    """Resident memory with a thousand connections."""
    batches = conversation(1000, 3, unique=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipeline = Pipeline(Prepared(batches), Registry.load(), [Encoding()], seed=1)
    pipeline.run()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"  this process, 1,000 connections: {after / 1024:.0f} MiB (before: {before / 1024:.0f})"
    )


def bench_agent_memory() -> None:
    """Resident memory of a real `wirespan watch` that holds a thousand connections."""
    from rig import watch

    with nginx() as server, watch("--port", str(server.port)) as capture:
        sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1000)]
        for each in sockets:
            each.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n")
            each.recv(4096)
        capture.wait_for(2000, timeout_s=20)
        status = Path(f"/proc/{capture.program.pid}/status").read_text()
        resident = int(status.split("VmRSS:")[1].split()[0])
        for each in sockets:
            each.close()
    print(f"  wirespan watch, 1,000 connections, both ends: {resident / 1024:.0f} MiB resident")


def main() -> None:
    """Print everything, what needs no privilege first."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=int, default=8, help="of each load")
    arguments.add_argument("--no-kernel", action="store_true", help="only what needs no eBPF")
    options = arguments.parse_args()
    print(f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}\n")
    bench_pipeline()
    print("\nMemory")
    bench_memory()
    if options.no_kernel:
        return
    bench_agent_memory()
    print("\nKernel, by bpf_stats")
    for payload_source in ("socket", "syscall"):
        bench_kernel(payload_source)
    print("\nwrk on nginx at about 10,000 requests a second")
    for payload_source in ("socket", "syscall"):
        bench_load(payload_source, seconds=options.seconds, delay_ms=9)
    print("\nwrk on nginx as fast as it goes")
    for payload_source in ("socket", "syscall"):
        bench_load(payload_source, seconds=options.seconds, delay_ms=0)


if __name__ == "__main__":
    main()
