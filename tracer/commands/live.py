# SPDX-License-Identifier: Apache-2.0
"""`watch`, `agent`, `record` and a live `map`: what runs on the kernel's events."""

from __future__ import annotations

import secrets
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from tracer.argument_groups import SNAPLEN
from tracer.cgroups import resolve_cgroup, resolve_container
from tracer.child import TracedCommand
from tracer.commands.common import (
    Interruptible,
    finish,
    load_registry,
    log_to_stderr,
    span_filter,
)
from tracer.commands.outputs import BESIDE, make_gate, make_routes, observe
from tracer.gate import Gate
from tracer.health import Health
from tracer.pipeline import POLL_S, Pipeline
from tracer.probes import KernelSource, Settings
from tracer.procfs import ProcessTable
from tracer.recorder import Recorder

FIRST_BYTES: Final = 512 << 10
"""Captured of a connection before its protocol is known: what is asked at once, by one that
pipelines, is often more than the snap length, and on a busy machine it takes some milliseconds
until somebody has looked."""
EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130
DRAIN_S: Final = 0.4
"""After a traced command has ended: its last events, and the grace of its connections."""
PROGRESS_S: Final = 1.0


def watch(arguments: Namespace) -> int:
    """Print exchanges as they end."""
    hint = "" if arguments.traced_command else " Ctrl+C ends it with a summary."
    ready = f"Watching.{hint}"
    return run(arguments, lambda: make_gate(arguments, arguments.output), ready=lambda _: ready)


def agent(arguments: Namespace) -> int:
    """Send exchanges to exporters until told to end."""
    return run(arguments, lambda: make_gate(arguments, None), ready=_destinations)


def record(arguments: Namespace) -> int:
    """Write events to a file."""
    hint = "" if arguments.traced_command else " Ctrl+C ends it."
    ready = f"Recording to {arguments.write}.{hint}"
    return run(arguments, lambda: Gate({}, None), ready=lambda _: ready)


def _destinations(gate: Gate) -> str:
    """What an agent says when it has begun."""
    metrics = getattr(gate.exporters.get("metrics"), "endpoint", None)
    served = "" if metrics is None else f" Metrics at {metrics.url}."
    names = [name for name in gate.exporters if name not in BESIDE]
    return f"Capturing, to {', '.join(names) or 'nobody'}.{served}"


def run(arguments: Namespace, make: Callable[[], Gate], *, ready: Callable[[Gate], str]) -> int:
    """Capture until something says enough; `make` gives the exporters, `ready` the first line."""
    log_to_stderr()
    registry = load_registry(arguments)
    routes = make_routes(arguments)
    wanted = None
    if hasattr(arguments, "proto"):
        wanted = span_filter(arguments, registry).test()
    with ExitStack() as stack:
        interrupt = stack.enter_context(Interruptible())
        command = None
        if getattr(arguments, "traced_command", None):
            # Before exporters have threads, for fork copies only one.
            command = TracedCommand(arguments.traced_command)
            stack.callback(command.end)
        gate = make()
        stack.callback(gate.close)
        settings = capture_settings(arguments, command)
        seed = secrets.randbits(64)
        processes = ProcessTable(service_names=dict(arguments.service_name))
        source = KernelSource(settings, processes)
        stack.callback(source.close)
        for degraded in (*source.degraded, *gate.lacking):
            sys.stderr.write(f"wirespan: {degraded}\n")
        writer = None
        if getattr(arguments, "write", None):
            writer = Recorder(
                arguments.write,
                source,
                seed=seed,
                redact=arguments.redact,
                overwrite=arguments.force,
                snaplen=arguments.snaplen,
            )
            stack.callback(writer.close)
        pipeline = Pipeline(
            writer or source,
            registry,
            [gate],
            seed=seed,
            writer=writer,
            want=wanted,
            routes=routes,
        )
        pipeline.table.ignored = getattr(arguments, "socket", "")
        health = Health(pipeline, gate, source=source, processes=processes, routes=routes)
        stack.callback(health.close)
        observe(gate, health.readings)
        began_s = time.monotonic()
        if command is None:
            sys.stderr.write(f"{ready(gate)}\n")
        elif not interrupt.requested:
            source.prepare(arguments.traced_command[0])
            command.release()
        progress = arguments.command in {"record", "map"} and sys.stderr.isatty()
        _loop(pipeline, gate, interrupt, command, arguments.duration_ns, progress=progress)
        _drain(pipeline, gate)
        pipeline.end()
        finish(pipeline, gate, source, began_s)
        if writer is not None:
            writer.close()
            sys.stderr.write(f"{writer.describe()}\n")
    if writer is not None and writer.failure is not None:
        return EXIT_FAILED
    if command is None:
        return 0
    if command.exit_code is None:
        return EXIT_INTERRUPTED if interrupt.requested else 0
    return command.exit_code


def _loop(
    pipeline: Pipeline,
    gate: Gate,
    interrupt: Interruptible,
    command: TracedCommand | None,
    duration_ns: int | None,
    *,
    progress: bool,
) -> None:
    """Step until something says enough."""
    now_s = time.monotonic()
    end_s = float("inf") if duration_ns is None else now_s + duration_ns / 1e9
    progress_s = now_s
    while pipeline.step(POLL_S) and not gate.full and not interrupt.requested:
        now_s = time.monotonic()
        if now_s >= end_s:
            break
        if command is not None and command.poll() is not None:
            end_s = min(end_s, now_s + DRAIN_S)
            command = None
        if progress and now_s - progress_s >= PROGRESS_S:
            progress_s = now_s
            sys.stderr.write(
                f"\r{pipeline.spans_made:,} exchanges, {pipeline.chunk_bytes:,} bytes of events "
            )
            sys.stderr.flush()


def _drain(pipeline: Pipeline, gate: Gate) -> None:
    """Take what the kernel has delivered and nobody has read, but not what comes meanwhile."""
    end_s = time.monotonic() + DRAIN_S
    while not gate.full and time.monotonic() < end_s:
        before = pipeline.chunk_bytes
        if not pipeline.step(0.0) or pipeline.chunk_bytes == before:
            break


def capture_settings(arguments: Namespace, command: TracedCommand | None) -> Settings:
    """What the kernel half is to do.

    Raises:
        NoCgroupError: a control group or container that is not there.
    """
    pids = list(arguments.pid)
    if command is not None:
        pids.append(command.pid)
    cgroups = [resolve_cgroup(path) for path in arguments.cgroup]
    for container in arguments.container:
        directories, members = resolve_container(container)
        cgroups += directories
        pids += members
    return Settings(
        snaplen=arguments.snaplen,
        ring_bytes=arguments.buffer,
        payload_source=arguments.source,
        pids=tuple(pids),
        comms=tuple(arguments.comm),
        ports=tuple(arguments.port),
        cgroups=tuple(cgroups),
        tls=arguments.tls,
        # Who asks for less is to get less.
        first_bytes=FIRST_BYTES if arguments.snaplen >= SNAPLEN else 0,
    )
