# SPDX-License-Identifier: Apache-2.0
"""What the commands that run a pipeline share: parsers, filters, signals, the end of a run."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from argparse import Namespace
from contextlib import suppress
from types import FrameType
from typing import Any, Final, Self

from parsers.model import Options, Parser
from parsers.registry import Registry, UnknownParserError
from tracer.filters import SpanFilter, protocols_called
from tracer.gate import Gate
from tracer.pipeline import Pipeline
from tracer.printable import printable
from tracer.source import Source
from tracer.summary import summarise

METHODS_VARIABLE: Final = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS"
"""HTTP methods that may name a span, in place of the standard ones (semantic conventions)."""
FLUSH_S: Final = 7.0
"""For what is queued at the end; orchestrators kill after ten seconds or more."""


def span_protocols(registry: Registry) -> set[str]:
    """What spans may name as their protocol, by parser or by message."""
    names = {parser.name for parser in registry.parsers.values()}
    return names.union(*map(refinements, registry.parsers.values()))


def refinements(parser: type[Parser]) -> frozenset[str]:
    """Names that a parser's messages have for what their exchange speaks (gRPC on HTTP/2)."""
    return frozenset(getattr(parser, "refinements", ()))


def span_filter(arguments: Namespace, registry: Registry) -> SpanFilter:
    """What the filter flags ask for.

    Raises:
        UnknownParserError: no parser is called so, nor its protocol.
    """
    known = span_protocols(registry)
    wanted: set[str] = set()
    for name in arguments.proto:
        called = protocols_called(name, known)
        if name in registry.parsers:
            called.add(registry.parsers[name].name)
        if not called:
            words = ", ".join(sorted(known))
            raise UnknownParserError(f"no protocol is called {name}: there are {words}")
        wanted |= called
    return SpanFilter(
        protocols=sorted(wanted),
        sides=arguments.side,
        methods=arguments.method,
        paths=arguments.path,
        statuses=arguments.status,
        latencies=arguments.latency,
        errors=arguments.errors,
    )


def load_registry(arguments: Namespace) -> Registry:
    """The installed parsers; those that fail to load are named on standard error."""
    methods = os.environ.get(METHODS_VARIABLE, "").split(",")
    known = frozenset(each.strip() for each in methods if each.strip()) or None
    registry = Registry.load(options=Options(redact=arguments.redact, http_methods=known))
    for name, reason in registry.failures.items():
        sys.stderr.write(f"wirespan: parser {name} could not be loaded: {reason}\n")
    return registry


class Interruptible:
    """While it is entered, SIGINT, SIGTERM and SIGHUP end the run in order; a second at once."""

    def __init__(self) -> None:
        self.requested = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._old[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    def _request(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.requested = True


def finish(pipeline: Pipeline, gate: Gate, source: Source, began_s: float) -> None:
    """Deliver what is queued, and say on standard error what there was and what was lost."""
    kernel = source.counters()
    delivered = gate.flush(FLUSH_S)
    gate.close()
    elapsed_s = time.monotonic() - began_s
    lines = summarise(
        gate.seen,
        pipeline.table,
        kernel,
        gate.counters_by_exporter(),
        elapsed_s,
        source.unused(),
    )
    if not delivered:
        lines.append(f"not everything could be delivered within {FLUSH_S:.0f} s: see above")
    sys.stdout.flush()
    with suppress(OSError):  # the terminal may be what has ended
        sys.stderr.write("\n" + "".join(f"{line}\n" for line in lines))


class PrintableFormatter(logging.Formatter):
    """A record is one line, and a traceback lines, of which a terminal obeys nothing."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return "\n".join(map(printable, super().formatException(ei).splitlines()))


def log_to_stderr() -> None:
    """Warnings of exporters and of what looks at processes, a line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("wirespan: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
