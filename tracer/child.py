# SPDX-License-Identifier: Apache-2.0
"""Run a command so that it is traced from its first system call on."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

EXIT_NOT_FOUND: Final = 127
EXIT_NOT_RUNNABLE: Final = 126
"""Both as shells have them."""
IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
"""An ignored signal stays ignored across exec, and the command must not notice us."""


class TracedCommand:
    """A child that waits for `release` before it becomes the command.

    Between the two its pid is known and the probes can be told about it.
    """

    def __init__(self, command: Sequence[str]) -> None:
        read_end, self._write_end = os.pipe()
        self.exit_code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._write_end)
            _wait_and_exec(read_end, command)
        os.close(read_end)

    def release(self) -> None:
        """Let the command begin. Whether it still lives is for `poll` to tell."""
        with suppress(BrokenPipeError):
            os.write(self._write_end, b"\0")
        self._close()

    def poll(self) -> int | None:
        """The exit code if the command has ended, 128 + n if signal n ended it."""
        if self.exit_code is None:
            self._wait(os.WNOHANG)
        return self.exit_code

    def end(self) -> None:
        """The run is over: a command that was never released never begins.

        One that still runs goes on, untraced, as its terminal's signals find it.
        """
        unreleased = self._write_end >= 0
        self._close()
        if self.exit_code is None:
            self._wait(0 if unreleased else os.WNOHANG)

    def _wait(self, options: int) -> None:
        try:
            pid, status = os.waitpid(self.pid, options)
        except ChildProcessError:
            # Whoever started us ignores SIGCHLD, so the kernel has told nobody how it ended.
            self.exit_code = 0
            return
        if pid:
            code = os.waitstatus_to_exitcode(status)
            self.exit_code = code if code >= 0 else 128 - code

    def _close(self) -> None:
        if self._write_end >= 0:
            os.close(self._write_end)
            self._write_end = -1


def _wait_and_exec(read_end: int, command: Sequence[str]) -> None:
    """In the child: never returns, for behind it is the code of the parent."""
    code = EXIT_NOT_FOUND
    try:
        if os.read(read_end, 1):
            for number in IGNORED_BY_PYTHON:
                signal.signal(number, signal.SIG_DFL)
            os.execvp(command[0], list(command))  # noqa: S606 - what the user asked to run
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
            code = EXIT_NOT_RUNNABLE
        _say(f"cannot run {command[0]}: {error.strerror}")
    except ValueError as error:
        _say(f"cannot run {command[0]!r}: {error}")
    finally:
        os._exit(code)


def _say(sentence: str) -> None:
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"wirespan: {sentence}\n".encode(errors="replace"))
