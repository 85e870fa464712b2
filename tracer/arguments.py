# SPDX-License-Identifier: Apache-2.0
"""The command line's grammar: subcommands, flags, help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from tracer import __version__
from tracer.capture import MAX_RING_BYTES, MIN_RING_BYTES
from tracer.events import MAX_SNAPLEN
from tracer.filters import LatencyRange, StatusRange, duration_ns, size_bytes
from tracer.usage import EXAMPLES, EXIT_USAGE, CommandParser

T = TypeVar("T")

MAX_PORT: Final = 65535
MIN_SNAPLEN: Final = 64
SNAPLEN: Final = 4096
RING_BYTES: Final = 16 * 1024 * 1024
SIDES: Final = ("client", "server")
SHELLS: Final = ("bash", "zsh", "fish")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, understood; ends the process with status 2 if that cannot be."""
    own = list(argv)
    traced: list[str] | None = None
    if "--" in own:
        # Before argparse sees it: versions of Python differ in what they make of `--`.
        split = own.index("--")
        own, traced = own[:split], own[split + 1 :]
    parser, commands = _grammar()
    if not own and traced is None:
        parser.print_help(sys.stderr)
        raise SystemExit(EXIT_USAGE)
    arguments, strange = parser.parse_known_args(own)
    command = commands.choices[arguments.command]
    if strange:
        command.error("unrecognized arguments: " + " ".join(strange))
    if traced is not None:
        if not hasattr(arguments, "traced_command"):
            command.error(f"{arguments.command} runs no command: leave `--` out")
        if not traced:
            command.error("a command is missing behind --")
        arguments.traced_command = traced
    return arguments


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar, but for `-- CMD`, which `parse` takes off."""
    return _grammar()[0]


def _grammar() -> tuple[CommandParser, argparse._SubParsersAction[CommandParser]]:
    parser = CommandParser(
        prog="wirespan",
        usage="wirespan COMMAND [FLAG ...]",
        description="Trace what every process says on its sockets, without touching it.",
        epilog=EXAMPLES["wirespan"],
    )
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    group = parser.add_argument_group("general")
    _add_help(group)
    group.add_argument(
        "--version",
        action="version",
        version=f"wirespan {__version__}",
        help="show the version and exit",
    )

    watch = _command(
        commands, "watch", "print every exchange as it ends", "[FLAG ...] [-- CMD ...]"
    )
    _add_which_exchanges(watch)
    _add_which_processes(watch)
    _add_output(watch)
    _add_capture(watch)
    _add_file(watch, required=False)
    _add_exporters(watch, default=())

    agent = _command(
        commands, "agent", "send every exchange to an OTLP backend, as a daemon", "[FLAG ...]"
    )
    _add_exporters(agent, default=("otlp",))
    _add_which_processes(agent, with_command=False)
    _add_capture(agent)

    record = _command(
        commands,
        "record",
        "write what is captured to a file, to replay it",
        "-w FILE [FLAG ...] [-- CMD ...]",
    )
    _add_file(record, required=True)
    _add_which_processes(record)
    _add_capture(record)

    replay = _command(
        commands, "replay", "read a recording, a pcap or a pcapng file", "FILE [FLAG ...]"
    )
    group = replay.add_argument_group("the file")
    group.add_argument(
        "file", metavar="FILE", help="its kind is found out; may be gzipped; - is standard input"
    )
    _add_which_exchanges(replay)
    _add_output(replay)
    _add_redaction(replay.add_argument_group("redaction"))
    _add_exporters(replay, default=())

    explain = _command(commands, "explain", "say what of a process is seen, and why", "PID [FLAG]")
    group = explain.add_argument_group("the process")
    group.add_argument(
        "pid", type=_checked(_positive), metavar="PID", help="its id, as `ps -e` prints it"
    )
    _add_report(explain)

    doctor = _command(commands, "doctor", "say what works on this machine, and why", "[FLAG ...]")
    _add_report(doctor).add_argument(
        "-q", "--quiet", action="store_true", help="one sentence, and the exit status"
    )
    _add_report(_command(commands, "parsers", "list the protocols that are understood", "[FLAG]"))

    completion = _command(commands, "completion", "print completions for a shell", "SHELL")
    group = completion.add_argument_group("the shell")
    group.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    for each in commands.choices.values():
        _add_help(each.add_argument_group("general"))
    return parser, commands


def _command(
    commands: argparse._SubParsersAction[CommandParser], name: str, summary: str, usage: str
) -> CommandParser:
    return commands.add_parser(
        name,
        help=summary,
        prog=f"wirespan {name}",
        usage=f"wirespan {name} {usage}",
        description=summary[0].upper() + summary[1:] + ".",
        epilog=EXAMPLES[name],
    )


def _add_help(group: argparse._ActionsContainer) -> None:
    group.add_argument("-h", "--help", action="help", help="show this and exit")


def _add_which_exchanges(parser: CommandParser) -> None:
    group = parser.add_argument_group("which exchanges")
    add = partial(group.add_argument, action="append", default=[])
    add("--proto", metavar="NAME", help="a protocol, as `wirespan parsers` calls it")
    add("--side", choices=SIDES, metavar="SIDE", help="client (it asks) or server (it answers)")
    add("--method", metavar="NAME", help="GET, POST, ...")
    add("--path", metavar="GLOB", help="'/api/*': a * stands for anything, / too")
    add("--status", type=_checked(StatusRange.parse), metavar="CODE", help="404, 5xx, 4+")
    add(
        "--latency",
        type=_checked(LatencyRange.parse),
        metavar="BOUND",
        help="'>100ms', '<1s'; 100 means '>100ms'",
    )
    group.add_argument("--errors", action="store_true", help="only what failed")
    group.add_argument(
        "-c", "--count", type=_checked(_positive), metavar="N", help="stop after N exchanges"
    )


def _add_which_processes(parser: CommandParser, *, with_command: bool = True) -> None:
    group = parser.add_argument_group("which processes", "Default: all. Sorted out in the kernel.")
    add = partial(group.add_argument, action="append", default=[])
    add("-p", "--pid", type=_checked(_positive), metavar="PID", help="this one and its children")
    add("--comm", metavar="NAME", help="those of this name, as `ps -o comm` shows it")
    add("--port", type=_checked(_port), metavar="PORT", help="sockets with it at either end")
    add("--container", metavar="ID", help="a container: the first 8 digits of its id, or more")
    add("--cgroup", metavar="PATH", help="a control group and those below")
    if with_command:
        # `parse` fills it in. What is written here is for the reader of the help.
        parser.set_defaults(traced_command=None)
        group.description = (
            "Default: all. Sorted out in the kernel. With `-- CMD` at the end of the line,\n"
            "CMD is run and traced with its children, and its exit status becomes ours."
        )


def _add_output(parser: CommandParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o",
        "--output",
        choices=["compact", "wide", "json", "none"],
        default="compact",
        metavar="STYLE",
        help="compact, wide, json (an object a line) or none (default: compact)",
    )
    group.add_argument(
        "--color",
        choices=["auto", "always", "never"],
        default="auto",
        metavar="WHEN",
        help="auto, always or never (default: auto, on a terminal)",
    )


def _add_report(parser: CommandParser) -> argparse._ActionsContainer:
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


def _add_file(parser: CommandParser, *, required: bool) -> None:
    group = parser.add_argument_group("recording")
    group.add_argument(
        "-w",
        "--write",
        metavar="FILE",
        required=required,
        help="where to" if required else "record to FILE as well",
    )
    group.add_argument("--force", action="store_true", help="overwrite FILE if it is there")


def _add_redaction(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--no-redact",
        dest="redact",
        action="store_false",
        help="show secrets and literals to whoever may read the capture anyway",
    )


def _add_capture(parser: CommandParser) -> None:
    group = parser.add_argument_group("capture")
    group.add_argument(
        "--for",
        dest="duration_ns",
        type=_checked(_duration),
        metavar="TIME",
        help="stop after 10s, 5m, ... (default: never)",
    )
    group.add_argument(
        "--snaplen",
        type=_checked(_snaplen),
        default=SNAPLEN,
        metavar="SIZE",
        help="copied of each socket call, unless its protocol needs more (default: 4k)",
    )
    group.add_argument(
        "--buffer",
        type=_checked(_ring_bytes),
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
    group.add_argument(
        "--service-name",
        action="append",
        default=[],
        type=_checked(_pair),
        metavar="COMM=NAME",
        help="give the processes called COMM this service.name",
    )
    _add_redaction(group)


def _add_exporters(parser: CommandParser, default: tuple[str, ...]) -> None:
    group = parser.add_argument_group(
        "export", "The standard OTEL_* variables count too. Any of the last four means otlp."
    )
    group.add_argument(
        "--export",
        action="append",
        default=[],
        metavar="NAME",
        help=f"an installed exporter (default: {', '.join(default) or 'none'})",
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
        type=_checked(_pair),
        metavar="KEY=VALUE",
        help="sent along, such as an API key",
    )
    group.add_argument(
        "--compression",
        choices=["gzip", "none"],
        metavar="NAME",
        help="gzip or none (default: none)",
    )


def _checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """`parse` with its ValueError said as argparse says it, in its own words."""

    def checked(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ValueError(f"{text!r} is no positive number")
    return int(text)


def _duration(text: str) -> int:
    nanoseconds = duration_ns(text)
    if not nanoseconds:
        raise ValueError(f"{text!r} is no time at all")
    return nanoseconds


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= MAX_PORT:
        raise ValueError(f"{text!r} is no port: 1 to {MAX_PORT}")
    return int(text)


def _snaplen(text: str) -> int:
    size = size_bytes(text)
    if not MIN_SNAPLEN <= size <= MAX_SNAPLEN:
        raise ValueError(f"{text} is out of range: {MIN_SNAPLEN} to {MAX_SNAPLEN} bytes")
    return size


def _ring_bytes(text: str) -> int:
    size = size_bytes(text)
    if not MIN_RING_BYTES <= size <= MAX_RING_BYTES or size & (size - 1):
        raise ValueError(f"{text} will not do: a power of two from 64k to 1G")
    return size


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"{text!r} is no KEY=VALUE")
    return key, value
