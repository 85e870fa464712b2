# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tracer.commands.test_live import kernel
from tests.tracer.conversations import batches_of
from tests.tracer.fakes import Conversation, request, response
from tracer import cli

__all__ = ["kernel"]

DEMO = str(Path(__file__).parents[3] / "examples" / "demo.wspan")


@pytest.fixture
def nowhere(tmp_path):
    """Where no agent runs."""
    return ["--socket", str(tmp_path / "agent.sock")]


def test_map_of_a_file(capsys):
    assert cli.main(["map", DEMO]) == 0
    out, error = capsys.readouterr()
    assert "└─ nginx" in out
    assert "postgresql" in out
    assert "44 exchanges" in error


def test_map_of_the_next_seconds_where_no_agent_runs(kernel, capsys, nowhere):
    conversation = Conversation(role=1).open()
    kernel(batches_of(conversation.send(request("/")).recv(response()).events))
    assert cli.main(["map", "-o", "json", "--for", "1ms", *nowhere]) == 0
    out, error = capsys.readouterr()
    (edge,) = json.loads(out)["edges"]
    assert edge["count"] == 1
    assert error.startswith("Watching for 0.001 s.")


def test_difference_of_two_maps(tmp_path, capsys):
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    cli.main(["map", DEMO, "-o", "json"])
    text = capsys.readouterr().out
    before.write_text(text)
    after.write_text(text.replace("dnsmasq", "unbound"))
    assert cli.main(["map", "--diff", str(before), str(after)]) == 0
    out = capsys.readouterr().out
    assert "new shop → unbound" in " ".join(out.split())
    assert "gone shop → dnsmasq" in " ".join(out.split())


def test_what_is_no_map_is_a_sentence(tmp_path, capsys):
    assert cli.main(["map", "--diff", DEMO, str(tmp_path / "nowhere.json")]) == 1
    assert capsys.readouterr().err.startswith("wirespan: ")


def test_map_of_a_running_agent(tmp_path, capsys, monkeypatch):
    from exporters.service_map import MapExporter
    from tests.exporters import samples
    from tracer.commands import live

    path = str(tmp_path / "run" / "agent.sock")
    agent = MapExporter(socket=path)
    agent.export([samples.span(peer_name="curl")])
    try:
        assert cli.main(["map", "--socket", path, "-o", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["edges"][0]["client"] == "curl"
        # An agent knows nothing of filters, so with one it is not asked.
        asked = []
        monkeypatch.setattr(live, "run", lambda *words, **_: asked.append(words) or 0)
        for flags in (["--live"], ["--port", "80"], ["--comm", "nginx"]):
            assert cli.main(["map", "--socket", path, *flags]) == 0
        assert len(asked) == 3
    finally:
        agent.close()
