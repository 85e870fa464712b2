# SPDX-License-Identifier: Apache-2.0
"""`map`: who calls whom, of a running agent, of files, or of the next seconds."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Final

from tracer.commands import live, offline
from tracer.commands.common import Interruptible, load_registry, log_to_stderr
from tracer.commands.outputs import map_exporter
from tracer.gate import Gate
from tracer.plugins import ExporterError, load_helper

MAP: Final = "map"
WHICH: Final = ("pid", "comm", "port", "container", "cgroup")
"""Flags that say which processes."""


def map(arguments: Namespace) -> int:  # noqa: A001 - the name of the command
    """Draw a map, wherever it comes from."""
    if arguments.diff is not None or not (arguments.file or _is_live(arguments)):
        text = _asked(arguments)
        if text is not None:
            sys.stdout.write(text)
            return 0

    def make() -> Gate:
        drawing = map_exporter(arguments.output, arguments.color, arguments.since_ns)
        return Gate({MAP: drawing}, None)

    if arguments.file is not None:
        log_to_stderr()
        with Interruptible() as interrupt:
            return offline.play(arguments, load_registry(arguments), make(), interrupt)
    seconds = arguments.duration_ns / 1e9
    ready = f"Watching for {seconds:g} s. Ctrl+C ends it with the map."
    return live.run(arguments, make, ready=lambda _: ready)


def _is_live(arguments: Namespace) -> bool:
    """Whether it is to be watched though an agent may run, which knows nothing of filters."""
    return arguments.live or any(getattr(arguments, name) for name in WHICH)


def _asked(arguments: Namespace) -> str | None:
    """The text that needs no watching; None if no agent runs.

    Raises:
        ExporterError: it cannot be had, in words.
    """
    drawing = load_helper(MAP)
    look = {"style": arguments.output, "color": arguments.color}
    since_s = None if arguments.since_ns is None else arguments.since_ns / 1e9
    try:
        if arguments.diff is not None:
            return str(drawing.diff(*arguments.diff, **look))
        return str(drawing.from_agent(arguments.socket, since_s=since_s, **look))
    except drawing.NoAgentError:
        return None
    except ValueError as error:
        raise ExporterError(str(error)) from None
