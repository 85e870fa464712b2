# SPDX-License-Identifier: Apache-2.0
"""`replay`, `doctor` and `parsers`: what needs no kernel and no privilege."""

from __future__ import annotations

import json
import re
import sys
import time
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

import shtab

from parsers.registry import Registry
from tracer.arguments import build_parser
from tracer.commands.common import (
    Interruptible,
    finish,
    load_registry,
    log_to_stderr,
    refinements,
    span_filter,
    span_protocols,
)
from tracer.commands.outputs import make_gate, make_routes
from tracer.doctor import examine
from tracer.gate import Gate
from tracer.pipeline import Pipeline
from tracer.recording import RecordingError, open_source
from tracer.span import Span

MIN_CELL: Final = 10
FIRST_WORDS: Final = re.compile(r"[^:;]*[^:;.]")
"""Of a module's summary: `MySQL and MariaDB: how both ...`."""


def replay(arguments: Namespace) -> int:
    """Run a file through the same pipeline as live events."""
    log_to_stderr()
    with ExitStack() as stack:
        interrupt = stack.enter_context(Interruptible())
        registry = load_registry(arguments)
        wanted = span_filter(arguments, registry).test()
        gate = make_gate(arguments, arguments.output)
        stack.callback(gate.close)
        return play(arguments, registry, gate, interrupt, wanted)


def play(
    arguments: Namespace,
    registry: Registry,
    gate: Gate,
    interrupt: Interruptible,
    wanted: Callable[[Span], bool] | None = None,
) -> int:
    """Run `arguments.file` through a pipeline to `gate`; 1 if the file is damaged."""
    routes = make_routes(arguments)
    damage: RecordingError | None = None
    with ExitStack() as stack:
        source = open_source("/dev/stdin" if arguments.file == "-" else arguments.file)
        stack.callback(source.close)
        pipeline = Pipeline(source, registry, [gate], seed=source.seed, want=wanted, routes=routes)
        began_s = time.monotonic()
        try:
            while pipeline.step(0.0) and not gate.full and not interrupt.requested:
                pass
        except RecordingError as error:
            # What came before the damage is worth showing.
            damage = error
        pipeline.end()
        finish(pipeline, gate, source, began_s)
    if damage is not None:
        sys.stderr.write(f"wirespan: {damage}\n")
        return 1
    return 0


def doctor(arguments: Namespace) -> int:
    """Say what is possible here."""
    report = examine()
    if arguments.quiet:
        print(report.sentence())
    elif arguments.output == "json":
        print(report.json())
    else:
        print(report.text())
    return 0 if report.can_capture else 1


def parsers(arguments: Namespace) -> int:
    """List what is understood."""
    registry = Registry.load()
    rows = [_describe(name, parser) for name, parser in sorted(registry.parsers.items())]
    if arguments.output == "json":
        print(json.dumps({"parsers": rows, "failures": registry.failures}, indent=2))
        return 0
    table = [("NAME", "PROTOCOL", "OVER", "WHAT"), *map(_cells, rows)]
    widths = [max(MIN_CELL, *map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print(" ".join(map(str.ljust, cells, widths)).rstrip())
    for name, reason in registry.failures.items():
        print(f"{name:<{widths[0]}} cannot be loaded: {reason}")
    return 0


def completion(arguments: Namespace) -> int:
    """Print a script that teaches a shell the commands and flags."""
    grammar = build_parser()
    registry = Registry.load()
    _complete_values(grammar, sorted(span_protocols(registry) | registry.parsers.keys()))
    print(shtab.complete(grammar, arguments.shell))
    return 0


def _complete_values(parser: ArgumentParser, protocols: list[str]) -> None:
    """Say which values flags have, where the grammar alone does not."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way in
        if isinstance(action, _SubParsersAction):
            for each in action.choices.values():
                _complete_values(each, protocols)
        elif action.metavar == "FILE":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif "--proto" in action.option_strings:
            action.choices = protocols


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table, with as much of the summary as names the protocol."""
    protocols = ", ".join([row["protocol"], *row["refinements"]])
    what = FIRST_WORDS.match(row["summary"])
    return row["name"], protocols, ", ".join(row["transports"]), what[0] if what else ""


def _describe(name: str, parser: Any) -> dict[str, Any]:
    module = sys.modules[parser.__module__]
    return {
        "name": name,
        "protocol": parser.name,
        "refinements": sorted(refinements(parser)),
        "transports": sorted(each.name.lower() for each in parser.transports),
        "ports": sorted(parser.ports),
        "summary": (module.__doc__ or parser.__doc__ or "").strip().partition("\n")[0],
        "module": parser.__module__,
    }
