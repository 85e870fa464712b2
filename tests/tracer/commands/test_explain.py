# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os

import pytest

from tracer import cli
from tracer.commands import explain as command
from tracer.diagnosis import Report, degraded, missing, ok
from tracer.explain import Explanation


@pytest.fixture
def machine(monkeypatch):
    """Have the doctor say this of the machine."""

    def machine(*checks):
        monkeypatch.setattr(command.doctor, "examine", lambda trial: Report(checks))

    machine(ok("tls", "uprobes"))
    return machine


def test_process_is_explained_in_text_and_json(machine, capsys):
    assert cli.main(["explain", str(os.getpid())]) == 0
    text = capsys.readouterr().out
    assert f"({os.getpid()})" in text
    assert "\nprogram   " in text
    assert cli.main(["explain", str(os.getpid()), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["pid"] == os.getpid()


def test_process_that_is_not_there_is_a_sentence_and_status_1(machine, capsys):
    assert cli.main(["explain", "4194304"]) == 1
    assert capsys.readouterr() == (
        "",
        "wirespan: there is no process 4194304: `ps -e` lists them\n",
    )


def test_terminal_that_knows_only_ascii_gets_the_rest_spelt_out(machine, monkeypatch, tmp_path):
    told = Explanation(7, "café", executable="/srv/\udcff\x1b")
    monkeypatch.setattr(command, "explain_process", lambda pid: told)
    with (tmp_path / "out").open("w", encoding="ascii") as out:
        monkeypatch.setattr("sys.stdout", out)
        assert cli.main(["explain", "7"]) == 0
    text = (tmp_path / "out").read_text()
    assert "caf\\xe9(7)" in text
    assert "/srv/\\udcff\\x1b" in text


def test_bad_pid_is_bad_usage(capsys):
    for words in ([], ["nginx"], ["0"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(["explain", *words])
        assert caught.value.code == 2
        assert capsys.readouterr().err.startswith("wirespan explain: ")


def test_limits_of_the_machine_are_told_with_the_process(machine, capsys):
    machine(ok("kernel", "x"), degraded("tls", "no uprobes", lost="all of it", remedy="Boot."))
    cli.main(["explain", str(os.getpid())])
    assert "note      Lost here: all of it. Boot." in capsys.readouterr().out
    machine(missing("kernel", "it is too old", remedy="Boot a newer."))
    cli.main(["explain", str(os.getpid())])
    out = capsys.readouterr().out
    assert "Capture is not possible here: it is too old." in " ".join(out.split())
