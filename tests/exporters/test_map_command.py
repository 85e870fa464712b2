# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from exporters import map_command
from exporters.agent_socket import AgentSocket, AgentSocketError, NoAgentError
from exporters.map_command import MapError, diff, from_agent
from exporters.map_formats import to_json
from exporters.service_map import MapExporter
from tests.exporters import maps, samples


@pytest.fixture
def files(tmp_path):
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(to_json(maps.shop()))
    after.write_text(to_json(maps.service_map(*maps.shop().edges, maps.edge("shop", "new"))))
    return str(before), str(after)


def test_two_files_are_compared(files):
    found = diff(*files, width=80, color="never")
    assert "   new shop → new" in found
    assert json.loads(diff(*files, style="json"))["new"][0]["server"] == "new"


def test_one_of_them_can_be_standard_input(files, monkeypatch):
    data = Path(files[1]).read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert "new" in diff(files[0], "-")
    with pytest.raises(MapError, match="only one of two maps"):
        diff("-", "-")


def test_what_is_no_map_is_named(files, tmp_path, monkeypatch):
    other = tmp_path / "other.txt"
    other.write_text("hello")
    with pytest.raises(MapError, match=r"other.txt is no JSON"):
        diff(str(other), files[1])
    with pytest.raises(MapError, match="missing.json: No such file"):
        diff(files[0], "missing.json")
    with pytest.raises(MapError, match="is a directory|Is a directory"):
        diff(files[0], str(tmp_path))
    monkeypatch.setattr(map_command, "MAX_BYTES", 100)
    with pytest.raises(MapError, match="is too large for a service map"):
        diff(*files)


@pytest.mark.parametrize("style", ["mermaid", "dot"])
def test_a_difference_is_no_drawing(files, style):
    with pytest.raises(MapError, match=f"text or json, and not {style}"):
        diff(*files, style=style)


def test_a_running_agent_is_asked_and_drawn_here(tmp_path):
    path = str(tmp_path / "agent.sock")
    exporter = MapExporter(socket=path)
    now = time.time_ns()
    exporter.export([maps.client_span(samples.process("shop"), "db", end_ns=now)])
    assert "└─ db°" in from_agent(path, width=80, color="never")
    assert "\x1b[" in from_agent(path, color="always")
    assert "db" in from_agent(path, since_s=60)
    assert from_agent(path, style="dot").startswith("digraph")
    assert json.loads(from_agent(path, style="json", since_s=1e-3))["version"] == 1
    exporter.close()


def test_no_agent_is_told_from_one_that_fails(tmp_path):
    path = str(tmp_path / "agent.sock")
    with pytest.raises(NoAgentError):
        from_agent(path)
    other = AgentSocket(path, {"/map": lambda query: ("text/plain", b'{"edges":[],"version":9}')})
    with pytest.raises(AgentSocketError, match="version 9.*is it of another version"):
        from_agent(path)
    other.close()


def test_numbers_beyond_all_bounds_are_said(files):
    before, after = files
    strange = json.loads(Path(after).read_text())
    strange["edges"][0]["errors"] = 10**400
    Path(after).write_text(json.dumps(strange))
    with pytest.raises(MapError):
        diff(before, after)
