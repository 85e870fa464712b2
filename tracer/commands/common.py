# SPDX-License-Identifier: Apache-2.0
"""What the commands that run a pipeline share: exporters, signals, the end of a run."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Final, Self
from urllib.parse import quote

from parsers.model import Options, Parser
from parsers.registry import Registry, UnknownParserError
from tracer.export import Exporter
from tracer.filters import SpanFilter, protocols_called
from tracer.pipeline import Pipeline
from tracer.plugins import ExporterError, make_exporter
from tracer.printable import printable
from tracer.source import Source
from tracer.span import Span
from tracer.summary import Seen, summarise

METHODS_VARIABLE: Final = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS"
"""HTTP methods that may name a span, in place of the standard ones (semantic conventions)."""
FLUSH_S: Final = 8.0
"""For what is queued at the end; orchestrators kill after ten seconds or more."""

log = logging.getLogger(__name__)


class Gate(Exporter):
    """Hands spans on until there were enough, and counts them."""

    def __init__(self, exporters: Mapping[str, Exporter], limit: int | None) -> None:
        self.exporters = dict(exporters)
        self.seen = Seen()
        self.full = False
        self.failures: dict[str, int] = {}
        """Spans that an exporter let fall by raising, by its name."""
        self._left = limit
        self._closed = False

    def export(self, spans: Sequence[Span]) -> None:
        if self._left is not None:
            spans = spans[: self._left]
            self._left -= len(spans)
            self.full = self._left == 0
        if not spans:
            return
        self.seen.add(spans)
        for name, exporter in self.exporters.items():
            try:
                exporter.export(spans)
            except OSError as error:
                if name == "console":
                    raise  # nobody reads it any more, or there is no room
                self._failed(name, len(spans), error)
            except Exception as error:  # noqa: BLE001 - logged; the other exporters go on
                self._failed(name, len(spans), error)

    def flush(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        done = True
        for name, exporter in self.exporters.items():
            try:
                done &= exporter.flush(max(0.0, deadline - time.monotonic()))
            except Exception as error:  # noqa: BLE001 - as in `export`
                self._failed(name, 0, error)
                done = False
        return done

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for name, exporter in self.exporters.items():
                try:
                    exporter.close()
                except Exception as error:  # noqa: BLE001 - as in `export`
                    self._failed(name, 0, error)

    def _failed(self, name: str, spans: int, error: Exception) -> None:
        """An exporter has let `spans` fall."""
        if name not in self.failures:
            log.error("exporter %s has failed", name, exc_info=error)
        self.failures[name] = self.failures.get(name, 0) + spans

    def counters(self) -> Mapping[str, int]:
        return {}

    def counters_by_exporter(self) -> dict[str, Mapping[str, int]]:
        """Of each exporter, and what it let fall by raising."""
        return {
            name: {**each.counters(), "spans_dropped_fault": self.failures.get(name, 0)}
            for name, each in self.exporters.items()
        }


def make_gate(arguments: Namespace, output: str | None) -> Gate:
    """The exporters that the flags ask for.

    Raises:
        ExporterError: one of them cannot be had.
    """
    gate = Gate({}, getattr(arguments, "count", None))
    try:
        if output not in {None, "none"}:
            options = {"style": str(output), "color": arguments.color}
            gate.exporters["console"] = make_exporter("console", options)
        for name in export_names(arguments):
            options = _otlp_options(arguments) if name == "otlp" else {}
            gate.exporters[name] = make_exporter(name, options)
    except ExporterError:
        gate.close()
        raise
    return gate


def export_names(arguments: Namespace) -> list[str]:
    """The exporters that the flags name; a flag of OTLP means that too."""
    names = list(dict.fromkeys(arguments.export or arguments.export_default))
    if _otlp_options(arguments) and "otlp" not in names:
        names.append("otlp")
    return names


def _otlp_options(arguments: Namespace) -> dict[str, str]:
    options = {
        "endpoint": arguments.endpoint,
        "protocol": arguments.protocol,
        "compression": arguments.compression,
    }
    if arguments.header:
        # As the environment variable has them, so a comma in a value is no separator.
        options["headers"] = ",".join(
            f"{quote(key)}={quote(value)}" for key, value in arguments.header
        )
    return {key: value for key, value in options.items() if value is not None}


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
    """While it is entered, SIGINT and SIGTERM end the run in order; a second one at once."""

    def __init__(self) -> None:
        self.requested = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
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
