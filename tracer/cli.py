# SPDX-License-Identifier: Apache-2.0
"""The command line: understands it, runs the command, and says what failed."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from parsers.registry import UnknownParserError
from tracer.arguments import parse
from tracer.cgroups import NoCgroupError
from tracer.errors import LoadError
from tracer.objects import NoObjectError
from tracer.plugins import ExporterError
from tracer.procfs import NoProcessError
from tracer.recording import RecordingError

EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130

COMMANDS: Final = {
    "watch": "live",
    "agent": "live",
    "map": "map",
    "record": "live",
    "replay": "offline",
    "explain": "explain",
    "doctor": "offline",
    "parsers": "offline",
    "completion": "offline",
}
"""Each in its module, so that `replay` needs nothing that only a capture needs."""

FORESEEN: Final = (
    ExporterError,
    LoadError,
    NoCgroupError,
    NoObjectError,
    NoProcessError,
    RecordingError,
    UnknownParserError,
)
"""What is no fault of ours; each says what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 with a sentence on standard error, or 2 for usage."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except BrokenPipeError:
        # `| head` has seen enough. Python must not try to flush the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except FORESEEN as error:
        sys.stderr.write(f"wirespan: {error}\n")
        if isinstance(error, LoadError) and error.log:
            sys.stderr.write(f"{error.log.rstrip()}\n")
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"wirespan: {name}{error.strerror or error}\n")
    return EXIT_FAILED


def _dispatch(arguments: Namespace) -> int:
    module = import_module(f"tracer.commands.{COMMANDS[arguments.command]}")
    code: int = getattr(module, arguments.command)(arguments)
    return code
