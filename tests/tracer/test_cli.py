# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from parsers.registry import UnknownParserError
from tests.tracer.conversations import batches_of
from tests.tracer.fakes import GET, OK, Conversation, FakeSource
from tracer import cli
from tracer.cgroups import NoCgroupError
from tracer.errors import LoadError
from tracer.objects import NoObjectError
from tracer.plugins import ExporterError
from tracer.recorder import Recorder
from tracer.recording import RecordingError

PROGRAM = [sys.executable, "-c", "import sys; from tracer.cli import main; sys.exit(main())"]


@pytest.fixture
def failing(monkeypatch):
    """Have the command raise this."""

    def make(error):
        def run(arguments):
            raise error

        monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(parsers=run))

    return make


@pytest.fixture
def recording(tmp_path):
    """A file with 500 exchanges, and one that needs more than a pipe holds."""
    path = tmp_path / "many.wspan"
    conversation = Conversation().open()
    for _ in range(500):
        conversation.recv(GET).send(OK)
    source = FakeSource(batches_of(conversation.events, per_batch=50))
    recorder = Recorder(path, source, seed=1, snaplen=4096, redact=False)
    recorder.process(77, None)
    while (batch := recorder.poll(0)) is not None:
        recorder.write(batch, lambda cookie: None)
    recorder.close()
    return path


@pytest.mark.parametrize(
    "error",
    [
        LoadError("eBPF is not permitted", "run with sudo"),
        NoObjectError("no BPF object was built for mips: run make bpf"),
        NoCgroupError("there is no control group x"),
        ExporterError("no exporter is called x"),
        UnknownParserError("no protocol is called x"),
        RecordingError("x is empty"),
    ],
)
def test_what_was_foreseen_is_one_sentence_and_status_1(failing, capsys, error):
    failing(error)
    assert cli.main(["parsers"]) == 1
    assert capsys.readouterr() == ("", f"wirespan: {error}\n")


def test_log_of_the_verifier_follows_the_sentence(failing, capsys):
    failing(LoadError("refused", "please report it with the log that follows", "R1 invalid\n"))
    assert cli.main(["parsers"]) == 1
    assert capsys.readouterr().err.endswith("follows\nR1 invalid\n")


def test_error_of_the_system_names_the_file(failing, capsys):
    failing(PermissionError(13, "Permission denied", "/proc/kcore"))
    assert cli.main(["parsers"]) == 1
    assert capsys.readouterr().err == "wirespan: /proc/kcore: Permission denied\n"


def test_fault_of_ours_is_a_traceback(failing):
    failing(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["parsers"])


def test_interrupt_is_quiet(failing, capsys):
    failing(KeyboardInterrupt())
    assert cli.main(["parsers"]) == 130
    assert capsys.readouterr() == ("", "")


def test_bad_usage_is_status_2(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["watch", "--nonsense"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("wirespan watch: no flag is called --nonsense")


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_are_status_0(capsys, word):
    with pytest.raises(SystemExit) as caught:
        cli.main([word])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(("usage: wirespan", "wirespan "))


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_has_a_function(command):
    module = __import__(f"tracer.commands.{cli.COMMANDS[command]}", fromlist=[command])
    assert callable(getattr(module, command))


def test_reader_that_has_seen_enough_ends_it_quietly(recording):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as output:
        run = subprocess.run(
            [*PROGRAM, "replay", str(recording)],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=50,
            check=False,
        )
    assert (run.returncode, run.stderr) == (0, "")


def test_replay_from_the_command_line(recording):
    run = subprocess.run(
        [*PROGRAM, "replay", str(recording), "-c", "7", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 7
    assert run.stderr.lstrip().startswith("7 exchanges in ")


def test_missing_file_is_a_sentence(tmp_path, capsys):
    assert cli.main(["replay", str(tmp_path / "none.wspan")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "none.wspan: No such file or directory" in error
