# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
import shutil
import subprocess
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters import map_formats
from exporters.map_formats import (
    STYLES,
    dot_text,
    from_json,
    mermaid_text,
    render,
    to_dot,
    to_json,
    to_mermaid,
)
from exporters.map_model import NodeKind
from tests.exporters import maps

NASTY = [
    'a"] --> b["x',
    "<script>alert(1)</script>",
    "%%{init: {'theme': 'x'}}%%",
    "line\nbreak\r\n",
    "back\\N\\slash\\",
    "&lt;b&gt; &amp;",
    "`**bold**`",
    "#quot;#35;",
    "end",
    "\x1b[31m\u202e",
    "|pipe|",
    "x" * 500,
    "",
    "\ud800",
]
names = st.one_of(st.sampled_from(NASTY), st.text(max_size=40))
MERMAID_LINE = re.compile(
    r"""  n\d+(\(\("[^"]*"\)\)|\(\["[^"]*"\]\)|\["[^"]*"\]|\[\("[^"]*"\)\])"""
    r"""|  n\d+ -->\|"[^"]*"\| n\d+|  linkStyle [\d,]+ stroke:#c00"""
)


def test_json_says_all_that_is_documented():
    found = json.loads(to_json(maps.shop()))
    assert found.keys() == {
        "version",
        "start_time_unix_nano",
        "end_time_unix_nano",
        "nodes",
        "edges",
    }
    assert found["version"] == 1
    assert {"name": "redis", "namespace": "", "kind": "database"} in found["nodes"]
    (edge,) = (each for each in found["edges"] if each["client"] == "nginx")
    latency = edge.pop("latency")
    assert latency.keys() == {"p50", "p95", "p99", "max", "buckets"}
    assert edge.pop("server_latency")["p50"] == 0.0025
    assert edge == {
        "client": "nginx",
        "client_namespace": "",
        "server": "shop",
        "server_namespace": "",
        "protocol": "http",
        "seen_by": "both",
        "count": 1100,
        "rate": 11.0,
        "errors": 22,
        "error_share": 0.02,
        "incomplete": 0,
        "request_bytes": 7920,
        "response_bytes": 58800,
        "rtt": {"min": 4e-05, "median": 5e-05},
        "first_time_unix_nano": maps.START_NS,
        "last_time_unix_nano": maps.START_NS + 100 * maps.S,
    }
    for key in (*found, *found["edges"][0], *latency):
        assert f'"{key}"' in map_formats.__doc__


def test_json_has_a_line_for_each_edge_and_is_in_order():
    lines = to_json(maps.shop()).splitlines()
    assert sum('"client":' in line for line in lines) == len(maps.shop().edges)
    assert to_json(maps.shop()) == to_json(
        maps.service_map(
            *maps.shop().edges,
            kinds={node.name.name: node.kind for node in reversed(maps.shop().nodes)},
        )
    )


def test_what_was_written_is_read():
    assert from_json(to_json(maps.shop())) == maps.shop()
    assert from_json(to_json(maps.service_map()).encode()) == maps.service_map()


@given(names, names, names)
def test_any_name_survives_json(client, server, protocol):
    found = maps.service_map(maps.edge(client, server, protocol))
    written = to_json(found)
    assert written.isascii()
    assert all(character.isprintable() or character == "\n" for character in written)
    assert from_json(written) == found


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "is no service map"),
        ('{"traceEvents": []}', "is no service map"),
        ('{"version": 2, "edges": []}', "version 2"),
        ('{"version": 1, "edges": []}', "damaged"),
        ('{"version": 1, "edges": [4]}', "damaged"),
    ],
)
def test_what_is_no_map_is_refused_in_words(data, words):
    with pytest.raises(ValueError, match=words):
        from_json(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("count", "many"),
        ("count", -1),
        ("count", True),
        ("errors", float("nan")),
        ("client", 4),
        ("latency", None),
        ("latency", {"p50": 1}),
        ("rtt", {}),
        ("last_time_unix_nano", float("inf")),
    ],
)
def test_a_damaged_map_is_refused_in_words(key, value):
    found = json.loads(to_json(maps.shop()))
    found["edges"][0][key] = value
    with pytest.raises(ValueError, match="damaged"):
        from_json(json.dumps(found))


def test_an_end_that_no_node_describes_is_there_all_the_same():
    found = json.loads(to_json(maps.shop()))
    found["nodes"] = []
    assert len(from_json(json.dumps(found)).nodes) == 8


def test_mermaid_draws_each_node_by_its_kind_and_failing_edges_red():
    lines = to_mermaid(maps.shop()).splitlines()
    assert lines[0] == "flowchart LR"
    for shape in ('(("user"))', '["nginx"]', '[("redis")]', '(["mail.example.com"])'):
        assert any(line.endswith(shape) for line in lines[1:])
    assert any("http<br/>11.0/s p95 1.00ms err 2.0%" in line for line in lines)
    edges = [line for line in lines if "-->" in line]
    red = [int(number) for number in lines[-1].split()[1].split(",")]
    assert [n for n, line in enumerate(edges) if "err" in line] == red


@given(names, names, names)
def test_no_name_gets_out_of_its_quotes_in_mermaid(client, server, protocol):
    found = maps.service_map(
        maps.edge(client, server, protocol, errors=1), kinds={client: NodeKind.USER}
    )
    head, *lines = to_mermaid(found).splitlines()
    assert head == "flowchart LR"
    for line in lines:
        assert MERMAID_LINE.fullmatch(line), line


@given(names)
def test_mermaid_sees_only_letters_and_entities(name):
    assert re.fullmatch(r"(?:[^\W]|[._-]|#\d+;)*", mermaid_text(name))


def test_mermaid_entities_are_code_points():
    assert mermaid_text('a "b" <c>') == "a#32;#34;b#34;#32;#60;c#62;"
    assert mermaid_text("größe-1.local") == "größe-1.local"


def test_mermaid_leaves_out_the_quietest_edges_and_says_so():
    many = [maps.edge("a", f"host{n:04}.example.com", count=n + 1) for n in range(900)]
    drawn = to_mermaid(maps.service_map(*many))
    assert len(drawn) < 50_000
    edges = drawn.count("-->")
    assert edges <= 500
    assert f'more["{900 - edges} quieter edges are left out"]' in drawn
    assert "host0899.example.com" in drawn
    assert "host0000.example.com" not in drawn


def test_a_map_of_nothing_is_drawn():
    assert to_mermaid(maps.service_map()) == "flowchart LR\n"
    assert to_dot(maps.service_map()).endswith("}\n")


def test_in_dot_busy_edges_are_thick_and_failing_ones_red():
    found = to_dot(
        maps.service_map(
            maps.edge("a", "busy", count=100_000),
            maps.edge("a", "quiet", count=1),
            maps.edge("a", "broken", count=100, errors=50),
        )
    )
    drawn = {
        name: found.partition(f"-> n{number} ")[2].partition(";")[0]
        for number, name in re.findall(r'n(\d+) \[label="(\w+)"', found)
    }
    assert 'penwidth=6.0, color="#606060"' in drawn["busy"]
    assert 'penwidth=1.0, color="#606060"' in drawn["quiet"]
    assert 'color="#e00000"' in drawn["broken"]


@given(names)
def test_no_name_gets_out_of_its_quotes_in_dot(name):
    quoted = dot_text(name)
    assert re.fullmatch(r'"(?:[^"\\]|\\\\|\\")*"', quoted)
    assert quoted.isprintable()


def test_graphviz_draws_the_map():
    if shutil.which("dot") is None:
        pytest.skip("graphviz is not installed")
    edges = [maps.edge(name, "b", name) for name in NASTY if name]
    drawn = subprocess.run(
        ["dot", "-Tsvg"],
        input=to_dot(maps.service_map(*maps.shop().edges, *edges)).encode(),
        capture_output=True,
        check=True,
    )
    assert not drawn.stderr
    titles = ET.fromstring(drawn.stdout).findall(".//{http://www.w3.org/2000/svg}text")
    assert "<script>alert(1)</script>" in [each.text for each in titles]


@pytest.mark.parametrize("style", STYLES)
def test_every_style_ends_with_a_line(style):
    found = render(maps.shop(), style)
    assert found.endswith("\n")
    assert not found.endswith("\n\n")
    assert "nginx" in found
