# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from tracer.child import TracedCommand


def ended(command, within_s=20):
    """Its exit code, once it has one."""
    until = time.monotonic() + within_s
    while command.poll() is None:
        assert time.monotonic() < until, "it does not end"
        time.sleep(0.002)
    return command.exit_code


def run(*words):
    command = TracedCommand(words)
    command.release()
    return ended(command)


def test_command_does_not_begin_before_it_is_released(tmp_path):
    mark = tmp_path / "begun"
    command = TracedCommand(["touch", str(mark)])
    assert command.poll() is None
    assert not mark.exists()
    command.release()
    assert ended(command) == 0
    assert mark.exists()


def test_pid_is_that_of_the_command(tmp_path):
    told = tmp_path / "pid"
    command = TracedCommand(["sh", "-c", f"echo $$ > {told}"])
    command.release()
    ended(command)
    assert int(told.read_text()) == command.pid


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_code_is_the_commands(code):
    assert run("sh", "-c", f"exit {code}") == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_signal_is_told_as_shells_tell_it(number):
    assert run("sh", "-c", f"ulimit -c 0; kill -{int(number)} $$") == 128 + number


def test_missing_command_is_127_with_a_sentence(capfd):
    assert run("no-such-command-anywhere") == 127
    error = capfd.readouterr().err
    assert error == ("wirespan: cannot run no-such-command-anywhere: No such file or directory\n")


def test_command_that_may_not_be_run_is_126_with_a_sentence(tmp_path, capfd):
    script = tmp_path / "script"
    script.write_text("echo\n")
    assert run(str(script)) == 126
    assert "cannot run" in capfd.readouterr().err


def test_unspeakable_command_is_a_sentence_too(capfd):
    assert run("a\0b") == 127
    assert "cannot run" in capfd.readouterr().err


def test_command_that_was_never_released_never_begins(tmp_path, capfd):
    mark = tmp_path / "begun"
    command = TracedCommand(["touch", str(mark)])
    command.end()
    assert command.exit_code == 127
    assert not mark.exists()
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ChildProcessError):
        os.waitpid(command.pid, os.WNOHANG)


def test_running_command_outlives_the_run():
    command = TracedCommand(["sleep", "60"])
    command.release()
    command.end()
    try:
        assert command.exit_code is None
        os.kill(command.pid, 0)
    finally:
        os.kill(command.pid, signal.SIGKILL)
        assert ended(command) == 128 + signal.SIGKILL


def test_release_of_a_command_that_was_killed_is_no_error():
    command = TracedCommand(["true"])
    os.kill(command.pid, signal.SIGKILL)
    assert ended(command) == 128 + signal.SIGKILL
    command.release()
    command.end()


def test_command_gets_the_signals_that_python_ignores():
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN, "or this proves nothing"
    # SIGPIPE is 13, bit 12 of the mask. A shell has no opinion of its own on it.
    assert run("sh", "-c", "exit $((0x$(grep SigIgn /proc/$$/status | cut -f2) >> 12 & 1))") == 0


def test_command_gets_no_descriptors_of_ours():
    read_end, write_end = os.pipe()
    try:
        check = f"import os; os.fstat({write_end})"
        assert run(sys.executable, "-c", check) == 1
    finally:
        os.close(read_end)
        os.close(write_end)
