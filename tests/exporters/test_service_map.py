# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path

import pytest

from exporters import map_collector, service_map
from exporters.agent_socket import AgentSocketError, NoAgentError, ask
from exporters.map_formats import STYLES, from_json
from exporters.map_model import NodeKind
from exporters.service_map import MapExporter
from parsers.registry import Registry
from tests.exporters import samples
from tests.exporters.maps import S, client_span, server_span
from tracer.pipeline import Pipeline
from tracer.recording import open_source

ROOT = Path(__file__).parents[2]

SHOP, STOCK = samples.process("shop", 1), samples.process("stock", 2)


def spans(end_ns=samples.START_NS):
    server = server_span(STOCK, SHOP, end_ns=end_ns)
    server.twin = True
    return [client_span(SHOP, STOCK, end_ns=end_ns), server]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stile": "text"}, "no option is called stile"),
        ({}, "a style or a socket is needed"),
        ({"style": "svg"}, "'svg' is none of text, json, mermaid, dot"),
        ({"style": "text", "width": "wide"}, "width: 'wide' is no number of at least 1"),
        ({"style": "text", "color": "red"}, "'red' is none of auto, always, never"),
        ({"style": "text", "since": "-5"}, "since: '-5' is no number of seconds above 0"),
        ({"style": "text", "since": "nan"}, "'nan' is no number of seconds"),
        ({"socket": "/tmp/" + "x" * 200}, "at most 107 bytes"),
    ],
)
def test_bad_options_are_refused_in_words(options, words):
    with pytest.raises(ValueError, match=words):
        MapExporter.from_options(options)


def test_options_are_taken_as_the_command_line_writes_them():
    """An empty one is none."""
    exporter = MapExporter.from_options({"style": "text", "since": "300.0", "width": "7"})
    assert (exporter._since_s, exporter._width) == (300.0, service_map.MIN_WIDTH)
    exporter = MapExporter.from_options({"style": "text", "since": "", "width": "9999"})
    assert (exporter._since_s, exporter._width) == (None, service_map.MAX_WIDTH)


@pytest.mark.parametrize("style", STYLES)
def test_the_map_is_written_when_the_run_ends(style, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    exporter = MapExporter.from_options({"style": style, "width": "80", "color": "never"})
    exporter.export(spans())
    assert exporter.flush(1.0)
    assert sys.stdout.getvalue() == ""
    exporter.close()
    written = sys.stdout.getvalue()
    assert "shop" in written
    assert "stock" in written
    exporter.close()
    assert sys.stdout.getvalue() == written
    assert exporter.counters()["spans_mapped"] == 2


def test_colour_and_width_are_as_told():
    for color, expected in (("always", True), ("never", False), ("auto", False)):
        stream = io.StringIO()
        exporter = MapExporter(style="text", stream=stream, color=color, width=200)
        exporter.export(spans())
        exporter.close()
        assert ("\x1b[" in stream.getvalue()) is expected
        assert "SRV95" in stream.getvalue()


def test_a_whole_recording_is_shown_and_since_shows_its_end():
    late = spans(samples.START_NS + 5000 * S)
    for since_s, count in ((None, 2), (60.0, 1)):
        stream = io.StringIO()
        exporter = MapExporter(style="json", stream=stream, since_s=since_s)
        exporter.export(spans())
        exporter.export(late)
        exporter.close()
        assert from_json(stream.getvalue()).edges[0].count == count


def test_a_reader_that_has_gone_passes_through_close():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    exporter = MapExporter(style="text", stream=Gone())
    with pytest.raises(BrokenPipeError):
        exporter.close()


@pytest.fixture
def agent(tmp_path):
    path = str(tmp_path / "agent.sock")
    exporter = MapExporter.from_options({"socket": path})
    yield exporter, path
    exporter.close()


def test_a_running_agent_gives_its_map(agent):
    exporter, path = agent
    exporter.export(spans(time.time_ns()))
    found = from_json(ask(path, "/map"))
    assert [edge.count for edge in found.edges] == [1]
    assert b"stock" in ask(path, "/map?style=text")
    assert b"\x1b[" in ask(path, "/map?style=text&color=always&width=120")
    assert ask(path, "/map?style=mermaid").startswith(b"flowchart")
    assert ask(path, "/map?style=dot").startswith(b"digraph")
    exporter.close()
    with pytest.raises(NoAgentError):
        ask(path, "/map")


def test_a_running_agent_answers_since(agent):
    exporter, path = agent
    exporter.export(spans(time.time_ns()))
    exporter.export([client_span(SHOP, "old.example.com", end_ns=time.time_ns() - 600 * S)])
    assert len(from_json(ask(path, "/map")).edges) == 2
    assert len(from_json(ask(path, "/map?since=60")).edges) == 1


def test_an_agent_says_what_is_wrong_with_a_question(agent):
    _, path = agent
    for target, words in (
        ("/map?style=svg", "400: style: 'svg' is none of"),
        ("/map?since=yesterday", "400: since: 'yesterday' is no number"),
        ("/map?width=x", "400: width"),
        ("/map?colour=always", "400: colour: there are only style, since, width, color"),
    ):
        with pytest.raises(AgentSocketError, match=words):
            ask(path, target)


def test_counters_name_what_is_dropped_and_refused(agent):
    exporter, path = agent
    ask(path, "/map")
    counters = exporter.counters()
    assert {"spans_mapped", "spans_dropped_old", "requests_refused"} <= counters.keys()


def test_the_recorded_demo_is_a_map():
    """Whole spans of a real run: each exchange was seen from both ends and counts once."""
    source = open_source(str(ROOT / "examples" / "demo.wspan"))
    stream = io.StringIO()
    exporter = MapExporter(style="json", stream=stream)
    Pipeline(source, Registry.load(), [exporter], seed=source.seed).run()
    source.close()
    exporter.close()
    found = from_json(stream.getvalue())
    assert {
        (edge.ends.client.name, edge.ends.server.name, edge.ends.protocol): edge.count
        for edge in found.edges
    } == {
        ("curl", "nginx", "http"): 4,
        ("nginx", "shop", "http"): 4,
        ("shop", "dnsmasq", "dns"): 1,
        ("shop", "redis-server", "redis"): 4,
        ("shop", "stock", "grpc"): 3,
        ("stock", "postgres", "postgresql"): 6,
    }
    assert {edge.seen_by for edge in found.edges} == {"both"}
    assert [node.name.name for node in found.nodes if node.kind is NodeKind.DATABASE] == [
        "postgres",
        "redis-server",
    ]


def test_rates_are_of_the_time_since_capture_began():
    now_ns = 0
    stream = io.StringIO()
    exporter = MapExporter(style="json", stream=stream, clock=lambda: now_ns)
    now_ns = 10 * S
    exporter.observe(list)
    now_ns = 20 * S
    exporter.export(spans(15 * S))
    exporter.close()
    assert from_json(stream.getvalue()).seconds == 10


def test_an_exporter_is_fast(monkeypatch):
    """Far above what it costs: only a cost of another order fails."""
    exporter = MapExporter(style="json", stream=io.StringIO())
    batch = spans() * 50
    began_s = time.process_time()
    for _ in range(200):
        exporter.export(batch)
    assert (time.process_time() - began_s) / 20_000 < 10e-6
    assert len(exporter.collector._pending) < map_collector.MAX_PENDING
    exporter.close()


def test_json_is_one_document():
    stream = io.StringIO()
    exporter = MapExporter(style="json", stream=stream)
    exporter.close()
    assert json.loads(stream.getvalue())["edges"] == []
