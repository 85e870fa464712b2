# SPDX-License-Identifier: Apache-2.0
"""The command line's grammar: subcommands, flags, help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from tracer import __version__
from tracer.argument_groups import (
    add_agent,
    add_capture,
    add_exporters,
    add_file,
    add_map,
    add_map_output,
    add_map_sources,
    add_names,
    add_output,
    add_redaction,
    add_report,
    add_which_exchanges,
    add_which_processes,
)
from tracer.argument_values import checked, positive
from tracer.usage import EXAMPLES, EXIT_USAGE, CommandParser

SHELLS: Final = ("bash", "zsh", "fish")
MAP_NS: Final = 10_000_000_000
"""How long `map` watches where no agent runs."""


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
    add_which_exchanges(watch)
    add_which_processes(watch)
    add_map(add_output(watch))
    add_capture(watch)
    add_names(watch)
    add_file(watch, required=False)
    add_exporters(watch, default=())

    agent = _command(
        commands, "agent", "send every exchange to an OTLP backend, as a daemon", "[FLAG ...]"
    )
    add_exporters(agent, default=("otlp",))
    add_agent(agent)
    add_which_processes(agent, with_command=False)
    add_capture(agent)
    add_names(agent)

    service_map = _command(
        commands, "map", "draw who calls whom, how often and how well", "[FILE] [FLAG ...]"
    )
    add_map_sources(service_map)
    add_map_output(service_map)
    add_which_processes(service_map, with_command=False)
    add_capture(service_map, duration_ns=MAP_NS)
    add_names(service_map)

    record = _command(
        commands,
        "record",
        "write what is captured to a file, to replay it",
        "-w FILE [FLAG ...] [-- CMD ...]",
    )
    add_file(record, required=True)
    add_which_processes(record)
    add_capture(record)
    add_names(record, with_routes=False)

    replay = _command(
        commands, "replay", "read a recording, a pcap or a pcapng file", "FILE [FLAG ...]"
    )
    group = replay.add_argument_group("the file")
    group.add_argument(
        "file", metavar="FILE", help="its kind is found out; may be gzipped; - is standard input"
    )
    add_which_exchanges(replay)
    add_map(add_output(replay))
    add_names(replay, with_services=False)
    add_redaction(replay.add_argument_group("redaction"))
    add_exporters(replay, default=())

    explain = _command(commands, "explain", "say what of a process is seen, and why", "PID [FLAG]")
    group = explain.add_argument_group("the process")
    group.add_argument(
        "pid", type=checked(positive), metavar="PID", help="its id, as `ps -e` prints it"
    )
    add_report(explain)

    doctor = _command(commands, "doctor", "say what works on this machine, and why", "[FLAG ...]")
    add_report(doctor).add_argument(
        "-q", "--quiet", action="store_true", help="one sentence, and the exit status"
    )
    add_report(_command(commands, "parsers", "list the protocols that are understood", "[FLAG]"))

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
