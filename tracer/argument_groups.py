# SPDX-License-Identifier: Apache-2.0
"""Flags in groups, as the help of each command shows them."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Final

from tracer.argument_values import (
    checked,
    duration,
    pair,
    port,
    positive,
    ratio,
    ring_bytes,
    seconds,
    since,
    snaplen,
    spool_bytes,
)
from tracer.filters import LatencyRange, StatusRange
from tracer.usage import CommandParser

SNAPLEN: Final = 4096
RING_BYTES: Final = 16 * 1024 * 1024
SIDES: Final = ("client", "server")
SOCKET: Final = "/run/wirespan/agent.sock"


def add_which_exchanges(parser: CommandParser) -> None:
    """Filters of exchanges."""
    group = parser.add_argument_group("which exchanges")
    add = partial(group.add_argument, action="append", default=[])
    add("--proto", metavar="NAME", help="a protocol, as `wirespan parsers` calls it")
    add("--side", choices=SIDES, metavar="SIDE", help="client (it asks) or server (it answers)")
    add("--method", metavar="NAME", help="GET, POST, ...")
    add("--path", metavar="GLOB", help="'/api/*': a * stands for anything, / too")
    add("--status", type=checked(StatusRange.parse), metavar="CODE", help="404, 5xx, 4+")
    add(
        "--latency",
        type=checked(LatencyRange.parse),
        metavar="BOUND",
        help="'>100ms', '<1s'; 100 means '>100ms'",
    )
    group.add_argument("--errors", action="store_true", help="only what failed")
    group.add_argument(
        "-c", "--count", type=checked(positive), metavar="N", help="stop after N exchanges"
    )


def add_which_processes(parser: CommandParser, *, with_command: bool = True) -> None:
    """Filters that the kernel applies."""
    group = parser.add_argument_group("which processes", "Default: all. Sorted out in the kernel.")
    add = partial(group.add_argument, action="append", default=[])
    add("-p", "--pid", type=checked(positive), metavar="PID", help="this one and its children")
    add("--comm", metavar="NAME", help="those of this name, as `ps -o comm` shows it")
    add("--port", type=checked(port), metavar="PORT", help="sockets with it at either end")
    add("--container", metavar="ID", help="a container: the first 8 digits of its id, or more")
    add("--cgroup", metavar="PATH", help="a control group and those below")
    if with_command:
        # `parse` fills it in. What is written here is for the reader of the help.
        parser.set_defaults(traced_command=None)
        group.description = (
            "Default: all. Sorted out in the kernel. With `-- CMD` at the end of the line,\n"
            "CMD is run and traced with its children, and its exit status becomes ours."
        )


def add_output(parser: CommandParser) -> argparse._ActionsContainer:
    """How spans are printed."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o",
        "--output",
        choices=["compact", "wide", "json", "none"],
        default="compact",
        metavar="STYLE",
        help="compact, wide, json (an object a line) or none (default: compact)",
    )
    add_color(group)
    return group


def add_color(group: argparse._ActionsContainer) -> None:
    """Whether to use colours."""
    group.add_argument(
        "--color",
        choices=["auto", "always", "never"],
        default="auto",
        metavar="WHEN",
        help="auto, always or never (default: auto, on a terminal)",
    )


def add_map(group: argparse._ActionsContainer) -> None:
    """A map at the end."""
    group.add_argument("--map", action="store_true", help="at the end, draw who called whom")


def add_map_sources(parser: CommandParser) -> None:
    """Where a map comes from."""
    group = parser.add_argument_group(
        "what to draw",
        "Default: what a running agent has seen, else what is seen in the next 10s.",
    )
    group.add_argument(
        "file", nargs="?", metavar="FILE", help="a recording or a packet capture, in place of that"
    )
    group.add_argument(
        "--since",
        dest="since_ns",
        type=checked(since),
        metavar="TIME",
        help="only the last 5m, 30s, ... (default: all there is)",
    )
    group.add_argument(
        "--diff",
        nargs=2,
        metavar=("A", "B"),
        help="what is other in B, of two maps written with `-o json`",
    )
    group.add_argument("--live", action="store_true", help="watch, though an agent is running")
    group.add_argument(
        "--socket", default=SOCKET, metavar="PATH", help=f"of the agent (default: {SOCKET})"
    )


def add_map_output(parser: CommandParser) -> None:
    """How a map is printed."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o",
        "--output",
        choices=["text", "json", "mermaid", "dot"],
        default="text",
        metavar="STYLE",
        help="text, json, mermaid or dot (default: text)",
    )
    add_color(group)


def add_names(
    parser: CommandParser, *, with_services: bool = True, with_routes: bool = True
) -> None:
    """What services and routes are called."""
    group = parser.add_argument_group("names")
    if with_services:
        group.add_argument(
            "--service-name",
            action="append",
            default=[],
            type=checked(pair),
            metavar="COMM=NAME",
            help="give the processes called COMM this service.name",
        )
    if with_routes:
        group.add_argument(
            "--route",
            action="append",
            default=[],
            metavar="PATTERN",
            help="'/users/{id}/**': paths like it are one route; others are grouped by themselves",
        )


def add_agent(parser: CommandParser) -> None:
    """What only a daemon needs."""
    group = parser.add_argument_group("the agent")
    group.add_argument(
        "--prometheus", metavar="[HOST:]PORT", help="serve metrics there (9464 is usual)"
    )
    group.add_argument(
        "--no-metrics",
        action="store_false",
        dest="metrics",
        help="send no metrics by OTLP: the backend takes only traces",
    )
    group.add_argument(
        "--spool", metavar="DIR", help="keep on disk what cannot be sent, and send it later"
    )
    group.add_argument(
        "--spool-size",
        type=checked(spool_bytes),
        metavar="SIZE",
        help="on disk at most; the oldest goes first (default: 256M)",
    )
    group.add_argument(
        "--socket",
        default=SOCKET,
        metavar="PATH",
        help=f"where `wirespan map` asks, or none (default: {SOCKET})",
    )


def add_report(parser: CommandParser) -> argparse._ActionsContainer:
    """How a report is printed."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o",
        "--output",
        choices=["text", "json"],
        default="text",
        metavar="STYLE",
        help="text or json (default: text)",
    )
    return group


def add_file(parser: CommandParser, *, required: bool) -> None:
    """Where to record to."""
    group = parser.add_argument_group("recording")
    group.add_argument(
        "-w",
        "--write",
        metavar="FILE",
        required=required,
        help="where to" if required else "record to FILE as well",
    )
    group.add_argument("--force", action="store_true", help="overwrite FILE if it is there")


def add_redaction(group: argparse._ActionsContainer) -> None:
    """What may be shown."""
    group.add_argument(
        "--no-redact",
        dest="redact",
        action="store_false",
        help="show secrets and literals to whoever may read the capture anyway",
    )


def add_capture(parser: CommandParser, duration_ns: int | None = None) -> None:
    """What is copied, and how."""
    group = parser.add_argument_group("capture")
    group.add_argument(
        "--for",
        dest="duration_ns",
        type=checked(duration),
        default=duration_ns,
        metavar="TIME",
        help="stop after 10s, 5m, ... "
        f"(default: {f'{duration_ns // 10**9}s' if duration_ns else 'never'})",
    )
    group.add_argument(
        "--snaplen",
        type=checked(snaplen),
        default=SNAPLEN,
        metavar="SIZE",
        help="copied of each socket call, unless its protocol needs more (default: 4k)",
    )
    group.add_argument(
        "--buffer",
        type=checked(ring_bytes),
        default=RING_BYTES,
        metavar="SIZE",
        help="between kernel and wirespan, a power of two (default: 16M)",
    )
    group.add_argument(
        "--source",
        choices=["auto", "socket", "syscall"],
        default="auto",
        metavar="HOOK",
        help="where bytes are taken: socket (Linux 6.3 on), syscall, or auto: the first"
        " that works here (default: auto)",
    )
    group.add_argument(
        "--no-tls",
        action="store_false",
        dest="tls",
        help="leave TLS libraries alone: what is encrypted is counted and not seen",
    )
    add_redaction(group)


def add_exporters(parser: CommandParser, default: tuple[str, ...]) -> None:
    """Where spans go."""
    group = parser.add_argument_group(
        "export",
        "The standard OTEL_* variables count too. An endpoint, protocol, header or\n"
        "compression means otlp.",
    )
    group.add_argument(
        "--export",
        action="append",
        default=[],
        metavar="NAME",
        help="an installed exporter, or module:Class of an OpenTelemetry SpanExporter"
        f" (default: {', '.join(default) or 'none'})",
    )
    parser.set_defaults(export_default=default)
    group.add_argument(
        "--endpoint", metavar="URL", help="where to send (default: http://localhost:4318)"
    )
    group.add_argument(
        "--protocol",
        choices=["http/protobuf", "grpc"],
        metavar="NAME",
        help="http/protobuf or grpc (default: http/protobuf)",
    )
    group.add_argument(
        "--header",
        action="append",
        default=[],
        type=checked(pair),
        metavar="KEY=VALUE",
        help="sent along, such as an API key",
    )
    group.add_argument(
        "--compression",
        choices=["gzip", "none"],
        metavar="NAME",
        help="gzip or none (default: none)",
    )
    group.add_argument(
        "--sample",
        type=checked(ratio),
        metavar="SHARE",
        help="send 10%% of traces, or another share; errors, slow and rare ones always"
        " (default: all)",
    )
    group.add_argument(
        "--slow",
        type=checked(seconds),
        metavar="TIME",
        help="what --sample takes to be slow (default: 1s)",
    )
