# SPDX-License-Identifier: Apache-2.0
"""`make bench`, TLS: what a call into a library costs the program that makes it, and what is seen.

"With" and "without" alternate within one run. Another capture on the same machine spoils it: its
probes are in the same libraries.
"""

from __future__ import annotations

import argparse
import re
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest

from parsers.registry import Registry
from tests.bench import Encoding, open_source
from tests.end_to_end.tls_servers import Authority, authority, built
from tests.rig import RATE_SCRIPT, free_port, nginx, running, wait_until
from tracer.events import Cause
from tracer.pipeline import Pipeline

LOOP: Final = Path(__file__).with_name("tls_loop.c")
MESSAGES: Final = 10_000
"""Of one measurement, each one SSL_write and one SSL_read."""
ROUNDS: Final = 5
RATE_ROUNDS: Final = 3
RATE_CONNECTIONS: Final = 20
RATE_DELAY_MS: Final = 9
"""Each connection waits for so long before a request, so that there are some 2,000 a second."""
FULL_CONNECTIONS: Final = 100
PROCESS_CLOCK: Final = 2
"""Linux include/linux/posix-timers_types.h CPUCLOCK_SCHED."""
NO_LOSS: Final = {Cause.DELIVERED, Cause.CIPHERTEXT, Cause.STOPPED, Cause.SKIPPED}
OTHER_PROCESS: Final = 1
"""Who traces only this one does not want to see us."""


class Loop:
    """A running tests/tls_loop.c."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        self.program = program

    def run(self, source: Any = None) -> float:
        """Nanoseconds of CPU for a message, while `source` is drained."""
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        self.program.stdin.write(f"{MESSAGES}\n")
        self.program.stdin.flush()
        while not select.select([self.program.stdout], [], [], 0.002)[0]:
            if source is not None:
                source.poll(0.0)
        return int(self.program.stdout.readline()) / MESSAGES


@contextmanager
def tls_loop(files: Authority) -> Iterator[Loop | None]:
    """None where it cannot be compiled."""
    compiler = shutil.which("cc") or shutil.which("clang")
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "tls_loop"
        command = [compiler or "cc", "-O2", "-o", str(binary), str(LOOP)]
        command += ["-l:libssl.so.3", "-l:libcrypto.so.3"]
        if compiler is None or subprocess.run(command, check=False).returncode:
            yield None
            return
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with running([str(binary), str(files.certificate), str(files.key)], **pipes) as program:
            yield Loop(program)


def bench_calls(files: Authority) -> None:
    """What SSL_write and SSL_read cost more, in the program and in ours inside of the kernel."""
    print("A call of SSL_write or SSL_read, 256 bytes, two ends in memory, one thread")
    with tls_loop(files) as loop:
        if loop is None:
            print("  left out: no C compiler, or no OpenSSL 3")
            return
        loop.run()
        alone, traced, unwanted, spent = [], [], [], []
        for _ in range(ROUNDS):
            alone.append(loop.run())
            source = open_source()
            traced.append(loop.run(source))
            with library_costs(source) as costs:
                loop.run(source)
            spent += costs
            source.close()
            source = open_source(pids=(OTHER_PROCESS,), follow=False)
            unwanted.append(loop.run(source))
            source.close()
        assert loop.program.poll() is None
    base = statistics.median(alone) / 2
    print(f"  without        {base:8,.0f} ns of CPU")
    for name, found in (("with", traced), ("not wanted", unwanted)):
        more = [(there - here) / 2 for here, there in zip(alone, found, strict=True)]
        median = statistics.median(more)
        print(
            f"  {name:<14} {base + median:8,.0f} ns, so {median:,.0f} more"
            f" ({min(more):,.0f} to {max(more):,.0f})"
        )
    print_costs(spent)


@dataclass
class Cost:
    """Of one program inside of the kernel."""

    name: str
    runs: int
    time_ns: int


@contextmanager
def library_costs(source: Any) -> Iterator[list[Cost]]:
    """What the programs at TLS libraries cost while the block runs, by bpf_stats."""
    source.enable_stats()
    before = source.program_stats()
    costs: list[Cost] = []
    yield costs
    after = source.program_stats()
    for name in after:
        runs = after[name].run_count - before[name].run_count
        if name.startswith(("tls_", "go_")) and runs:
            costs.append(Cost(name, runs, after[name].run_time_ns - before[name].run_time_ns))


def print_costs(costs: list[Cost]) -> None:
    """By program, and of one call: its entry and one of its exits."""
    runs: Counter[str] = Counter()
    times_ns: Counter[str] = Counter()
    for each in costs:
        runs[each.name] += each.runs
        times_ns[each.name] += each.time_ns
    calls = sum(count for name, count in runs.items() if name.endswith("_enter"))
    if calls:
        parts = [f"{times_ns[name] / runs[name]:,.0f} ns x {runs[name]:,} {name}" for name in runs]
        total_ns = sum(times_ns.values())
        print(f"  our programs   {total_ns / calls:8,.0f} ns a call: {', '.join(parts)}")


@dataclass
class Target:
    """A server under load."""

    name: str
    port: int
    pids: list[int]
    """Of the processes that serve."""
    count: Callable[[], int] | None = None
    """How many requests it has read; None if only the client knows."""


@dataclass
class Load:
    """What wrk says of one run, and what the server spent."""

    made: int
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_us: float
    """Of the server, for each request."""
    elapsed_s: float
    our_cpu_s: float
    seen: int = 0
    """Exchanges; each request is one at either end."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Requests and responses that were not captured, by cause."""


def load(target: Target, *, seconds: float, delay_ms: int, meanwhile: Callable[[], object]) -> Load:
    """Load a server with wrk; `meanwhile` is called again and again until that has ended."""
    connections = RATE_CONNECTIONS if delay_ms else FULL_CONNECTIONS
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(RATE_SCRIPT.format(delay_ms=delay_ms))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
        if delay_ms:
            command += ["-s", script.name]
        command.append(f"https://127.0.0.1:{target.port}/small/100")
        before, spent_s = target.count() if target.count else 0, cpu_s(target.pids)
        began_s, ours_s = time.monotonic(), time.process_time()
        with running(command, stdout=subprocess.PIPE, text=True) as program:
            output: list[str] = []
            reader = threading.Thread(target=lambda: output.append(program.stdout.read()))
            reader.start()
            while reader.is_alive():
                meanwhile()
            reader.join()
    elapsed_s, ours_s = time.monotonic() - began_s, time.process_time() - ours_s
    spent_s = cpu_s(target.pids) - spent_s
    said = re.search(r"(\d+) requests in", output[0])
    assert said is not None, output[0]
    made = target.count() - before if target.count else int(said[1])
    errors = sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", output[0])))
    return Load(
        made,
        milliseconds(output[0], "50%"),
        milliseconds(output[0], "99%"),
        errors,
        spent_s / made * 1e6,
        elapsed_s,
        ours_s,
    )


def cpu_s(pids: list[int]) -> float:
    """What processes have spent, by the clock that each has (clock_getcpuclockid(3))."""
    return sum(time.clock_gettime(~pid << 3 | PROCESS_CLOCK) for pid in pids)


def milliseconds(output: str, share: str) -> float:
    """A percentile as wrk prints it."""
    found = re.search(rf"{share}\s+([\d.]+)(us|ms|s)\b", output)
    assert found is not None, output
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


def traced_load(
    target: Target, *, seconds: float, delay_ms: int, costs: list[Cost] | None = None
) -> Load:
    """The same while it is traced; `costs`, if given, gets ours inside of the kernel."""
    source = open_source(ports=(target.port,))
    exporter = Encoding()
    pipeline = Pipeline(source, Registry.load(), [exporter], seed=1)
    with ExitStack() as stack:
        spent = [] if costs is None else stack.enter_context(library_costs(source))
        done = load(
            target, seconds=seconds, delay_ms=delay_ms, meanwhile=lambda: pipeline.step(0.05)
        )
    if costs is not None:
        costs += spent
    for _ in range(10):
        pipeline.step(0.05)
    pipeline.end()
    done.seen = exporter.spans
    for cause, counter in source.counters().items():
        if cause not in NO_LOSS:
            done.dropped[cause.name.lower()] += counter.requests + counter.responses
    source.close()
    return done


def print_seen(loads: list[Load]) -> None:
    """What was seen of all of them, and at which cost of ours in user space."""
    made, seen = sum(each.made for each in loads), sum(each.seen for each in loads)
    ours_s, elapsed_s = sum(each.our_cpu_s for each in loads), sum(e.elapsed_s for e in loads)
    dropped: Counter[str] = sum((each.dropped for each in loads), Counter())
    causes = ", ".join(f"{count:,} by {cause}" for cause, count in dropped.items())
    print(
        f"  {made:,} made, {seen:,} exchanges seen from both ends ({seen / made / 2:.2%}),"
        f" {causes or 'none'} dropped; {ours_s / max(seen, 1) * 1e6:.1f} us of our CPU an exchange,"
        f" {ours_s / elapsed_s:.0%} of a core"
    )


def bench_rate(target: Target, *, rounds: int, seconds: float) -> None:
    """A server at a fixed rate, without and with us in turn."""
    alone: list[Load] = []
    traced: list[Load] = []
    costs: list[Cost] = []
    how = {"seconds": seconds, "delay_ms": RATE_DELAY_MS}
    for _ in range(rounds):
        alone.append(load(target, meanwhile=rest, **how))
        traced.append(traced_load(target, **how))
    traced_load(target, costs=costs, **how)
    rate = sum(each.made for each in traced) / sum(each.elapsed_s for each in traced)
    print(f"\n{target.name}, HTTP/1.1 over TLS, at {rate:,.0f} requests/s")
    for name, loads in (("without", alone), ("with", traced)):
        cost = statistics.median(each.cpu_us for each in loads)
        p50 = statistics.median(each.p50_ms for each in loads)
        p99 = statistics.median(each.p99_ms for each in loads)
        errors = sum(each.errors for each in loads)
        print(
            f"  {name:<14} {cost:8.1f} us of the server's CPU a request; latency p50 {p50:.2f} ms,"
            f" p99 {p99:.2f} ms; {errors} errors"
        )
    print_seen(traced)
    print_costs(costs)


def bench_full(target: Target, *, seconds: float) -> None:
    """As fast as it goes."""
    alone = load(target, seconds=seconds, delay_ms=0, meanwhile=rest)
    traced = traced_load(target, seconds=seconds, delay_ms=0)
    print(f"\n{target.name}, HTTP/1.1 over TLS, as fast as it goes")
    for name, each in (("without", alone), ("with", traced)):
        print(
            f"  {name:<14} {each.made / each.elapsed_s:8,.0f} requests/s, {each.cpu_us:.1f} us of"
            f" the server's CPU a request, {each.errors} errors"
        )
    print_seen([traced])


def rest() -> None:
    """Do nothing for as long as the tracer waits for events."""
    time.sleep(0.05)


@contextmanager
def nginx_target(files: Authority) -> Iterator[Target]:
    """nginx with one worker."""
    port = free_port()
    listen = f"listen 127.0.0.1:{port} ssl;"
    listen += f" ssl_certificate {files.certificate}; ssl_certificate_key {files.key};"
    answer = f'location /small/ {{{{ return 200 "{"x" * 100}"; }}}}'
    with nginx(workers=1, extra_listen=listen, locations=answer) as server:
        pid = server.program.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        # It listens before it has any.
        wait_until(children.read_text, "nginx has a worker")
        pids = [int(each) for each in children.read_text().split()]
        yield Target("nginx", port, pids, server.requests)


@contextmanager
def go_target(files: Authority) -> Iterator[Target | None]:
    """Go's net/http; None where there is no Go."""
    with tempfile.TemporaryDirectory() as folder:
        binary = built(Path(folder)).get("go")
        if binary is None:
            yield None
            return
        command = [str(binary), "server", str(files.certificate), str(files.key)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        with running(command, **pipes) as program:
            yield Target("Go", int(program.stdout.readline()), [program.pid])


def main() -> None:
    """Print everything."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=2, help="of each load")
    options = arguments.parse_args()
    print("\nTLS\n")
    with ExitStack() as stack:
        try:
            files = stack.enter_context(authority())
            bench_calls(files)
            with nginx_target(files) as target:
                bench_rate(target, rounds=RATE_ROUNDS, seconds=options.seconds)
                bench_full(target, seconds=options.seconds)
            with go_target(files) as found:
                if found is not None:
                    bench_rate(found, rounds=2, seconds=1)
        except pytest.skip.Exception as why:
            print(f"  left out: {why}")


if __name__ == "__main__":
    main()
