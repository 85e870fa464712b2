# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
import subprocess
import sys
from types import ModuleType

import pytest

from parsers.model import Options, Transport
from parsers.registry import Registry
from tests.tracer.conversations import batches_of
from tests.tracer.fakes import GET, OK, Conversation, FakeSource
from tracer import cli
from tracer.commands import offline
from tracer.recorder import Recorder
from tracer.usage import EXAMPLES


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "run.wspan"
    conversation = Conversation().open()
    for _ in range(20):
        conversation.recv(GET).send(OK)
    source = FakeSource(batches_of(conversation.events, per_batch=5))
    recorder = Recorder(path, source, seed=9, snaplen=4096, redact=False)
    while (batch := recorder.poll(0)) is not None:
        recorder.write(batch, lambda cookie: None)
    recorder.close()
    return path


def test_replay_is_the_same_every_time(recording, capsys):
    def replayed():
        assert cli.main(["replay", str(recording), "-o", "json"]) == 0
        return capsys.readouterr().out

    first = replayed()
    assert len(first.splitlines()) == 20
    assert replayed() == first


def test_replay_takes_the_filters_and_the_count_of_watch(recording, capsys):
    assert cli.main(["replay", str(recording), "-o", "json", "-c", "3", "--status", "2xx"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert cli.main(["replay", str(recording), "-o", "json", "--status", "4+"]) == 0
    assert capsys.readouterr().out == ""


def test_damaged_file_shows_what_came_before_and_fails(recording, capsys):
    whole = recording.read_bytes()
    recording.write_bytes(whole[:-9])
    assert cli.main(["replay", str(recording), "-o", "json"]) == 1
    _, error = capsys.readouterr()
    assert error.splitlines()[-1].startswith("wirespan: ")
    assert str(recording) in error.splitlines()[-1]
    assert "exchanges in" in error


@pytest.mark.parametrize("content", [b"", b"\x7fELF and so on", b"\x89WSPAN\r\n"])
def test_foreign_file_is_one_sentence(tmp_path, capsys, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    assert cli.main(["replay", str(path)]) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"wirespan: {path}")
    assert error.count("\n") == 1


def test_parsers_lists_what_is_understood(capsys):
    assert cli.main(["parsers"]) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("http1")]
    assert "tcp, unix" in line
    assert line.endswith(" HTTP/1.0 and HTTP/1.1")


class Told:
    """One: what it is; and more of it."""

    name = "one"
    refinements = frozenset({"uno", "eins"})
    transports = frozenset({Transport.TCP, Transport.UDP})
    ports = frozenset({5})


Told.__module__ = "told"


class Silent:
    name = "two"
    transports = frozenset({Transport.UNIX})
    ports = frozenset()


Silent.__module__ = "told"


@pytest.fixture
def told(monkeypatch):
    """A registry of two parsers whose module says nothing."""
    registry = Registry({"first": Told, "second-of-them": Silent}, Options())
    monkeypatch.setitem(sys.modules, "told", ModuleType("told"))
    sys.modules["told"].__doc__ = None
    monkeypatch.setattr(Registry, "load", lambda *_, **__: registry)


@pytest.mark.usefixtures("told")
def test_parsers_are_a_table(capsys):
    assert cli.main(["parsers"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "NAME           PROTOCOL       OVER       WHAT",
        "first          one, eins, uno tcp, udp   One",
        "second-of-them two            unix",
    ]
    assert cli.main(["parsers", "-o", "json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["parsers"]
    assert (first["protocol"], first["refinements"]) == ("one", ["eins", "uno"])
    assert (first["summary"], second["summary"]) == ("One: what it is; and more of it.", "")


def test_built_in_parsers_fit_a_terminal(capsys):
    assert cli.main(["parsers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[1:]]
    assert set(names) >= {"dns", "dns-tcp", "http1", "http2", "mysql", "postgresql", "redis"}
    assert max(map(len, lines)) <= 80


def test_parsers_for_programs(capsys):
    assert cli.main(["parsers", "-o", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    (http,) = [each for each in listed["parsers"] if each["name"] == "http1"]
    assert http["protocol"] == "http"
    assert http["transports"] == ["tcp", "unix"]
    assert listed["failures"] == {}


def test_plug_in_that_does_not_load_is_named_with_the_reason(monkeypatch, capsys, recording):
    load = Registry.load

    def with_failure(*args, **options):
        registry = load(*args, **options)
        registry.failures["acme"] = "ModuleNotFoundError: No module named 'acme'"
        return registry

    monkeypatch.setattr(Registry, "load", with_failure)
    assert cli.main(["parsers"]) == 0
    assert "acme       cannot be loaded: ModuleNotFoundError" in capsys.readouterr().out
    assert cli.main(["replay", str(recording), "-o", "none"]) == 0
    error = capsys.readouterr().err
    assert "wirespan: parser acme could not be loaded: ModuleNotFoundError" in error
    assert "20 exchanges in" in error, "and the rest works"


@pytest.mark.parametrize(("can_capture", "status"), [(True, 0), (False, 1)])
def test_doctor_tells_by_its_status_whether_capturing_works(
    monkeypatch, capsys, can_capture, status
):
    class Report:
        def text(self):
            return "the long story"

        def json(self):
            return "{}"

        def sentence(self):
            return "in a word"

    Report.can_capture = can_capture
    monkeypatch.setattr(offline, "examine", Report)
    assert cli.main(["doctor"]) == status
    assert cli.main(["doctor", "-o", "json"]) == status
    assert cli.main(["doctor", "-q"]) == status
    assert capsys.readouterr().out == "the long story\n{}\nin a word\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_flags(capsys, shell):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in [*cli.COMMANDS, "latency", "snaplen", "endpoint"]:
        assert word in script
    assert set(EXAMPLES) - {"wirespan"} == set(cli.COMMANDS)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_flags_and_values(capsys):
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out

    def completed(*words):
        ask = f"""
            source /dev/stdin
            complete -p wirespan >/dev/null || exit 9
            COMP_WORDS=(wirespan {" ".join(words)})
            COMP_CWORD={len(words)}
            COMPREPLY=()
            $(complete -p wirespan | sed 's/.*-F \\([^ ]*\\).*/\\1/')
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        run = subprocess.run(
            ["bash", "-c", ask], input=script, capture_output=True, text=True, check=True
        )
        return set(run.stdout.split())

    assert completed("re") == {"record", "replay"}
    assert "--latency" in completed("watch", "--la")
    assert completed("watch", "--side", "''") >= {"client", "server"}
    assert completed("watch", "--proto", "''") >= {"http", "http1", "http2", "dns", "redis"}
    assert completed("replay", "--proto", "my") == {"mysql"}
