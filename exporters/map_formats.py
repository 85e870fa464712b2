# SPDX-License-Identifier: Apache-2.0
r"""A service map for other programs: JSON, Mermaid and DOT.

JSON is the lasting form: what `--diff` compares and what the agent's socket gives. Times are in
seconds, sizes in bytes, moments in nanoseconds since 1970; keys are only ever added within a
version.

    {"version": 1, "start_time_unix_nano": 1700000000000000000, "end_time_unix_nano": ...,
     "nodes": [{"name": "shop", "namespace": "", "kind": "service"}, ...],
     "edges": [{"client": "shop", "client_namespace": "", "server": "stock",
       "server_namespace": "", "protocol": "grpc", "seen_by": "both",
       "count": 120, "rate": 2.0, "errors": 3, "error_share": 0.025, "incomplete": 0,
       "request_bytes": 7920, "response_bytes": 5880,
       "latency": {"p50": 0.00045, "p95": 0.0017, "p99": 0.0019, "max": 0.0021,
         "buckets": [[0.0004, 40], [0.0005, 80]]},
       "server_latency": null, "rtt": {"min": 4e-05, "median": 5.1e-05},
       "first_time_unix_nano": ..., "last_time_unix_nano": ...}, ...]}

`kind` is `service`, `database`, `external` (not observed itself) or `user` (unknown clients,
taken together). `seen_by` says whose spans there were: `client`, `server` or `both`. `latency`
and counts are the client's where it was seen; then `server_latency` has the server's own if that
was seen too. A bucket is its upper end in seconds, inclusive, and how many were not above it but
above the one before. `rtt` is null where TCP knew none.

Names come from the wire (Host headers, server names), so in Mermaid and DOT nothing in them can
end a string, be markup or a directive.

Mermaid: https://mermaid.js.org/syntax/flowchart.html, section on entity codes
DOT: https://graphviz.org/doc/info/lang.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite, log10
from typing import Any, Final, Literal, TypeAlias, get_args

from exporters.layout import duration, shorten_middle
from exporters.map_model import (
    Buckets,
    Ends,
    Latency,
    MapEdge,
    Node,
    NodeKind,
    NodeName,
    ServiceMap,
    make_map,
)
from exporters.map_text import Look, rate_text, share_text, text
from tracer.printable import printable

Style: TypeAlias = Literal["text", "json", "mermaid", "dot"]
STYLES: Final[tuple[str, ...]] = get_args(Style)
VERSION: Final = 1

MAX_LABEL: Final = 60
MERMAID_EDGES: Final = 500
"""Mermaid draws no more unless its `maxEdges` is raised."""
MERMAID_LENGTH: Final = 49_000
"""Nor more than 50,000 characters, its `maxTextSize`."""
MAX_PEN: Final = 6.0

MERMAID_SHAPES: Final = {
    NodeKind.USER: ('(("', '"))'),
    NodeKind.EXTERNAL: ('(["', '"])'),
    NodeKind.SERVICE: ('["', '"]'),
    NodeKind.DATABASE: ('[("', '")]'),
}
DOT_SHAPES: Final = {
    NodeKind.USER: "shape=circle",
    NodeKind.EXTERNAL: 'shape=box, style="rounded,dashed"',
    NodeKind.SERVICE: 'shape=box, style="rounded,filled", fillcolor="#eef3fb"',
    NodeKind.DATABASE: 'shape=cylinder, style=filled, fillcolor="#eef7ee"',
}


def render(service_map: ServiceMap, style: Style, look: Look | None = None) -> str:
    """The map in a style; each ends with a line feed. `look` is for text."""
    if style == "json":
        return to_json(service_map)
    if style == "mermaid":
        return to_mermaid(service_map)
    if style == "dot":
        return to_dot(service_map)
    return text(service_map, look or Look())


def to_json(service_map: ServiceMap) -> str:
    """The documented form, in ASCII: a line for each node and each edge."""
    nodes = [
        {"name": node.name.name, "namespace": node.name.namespace, "kind": node.kind.label}
        for node in service_map.nodes
    ]
    return json_lines(
        {
            "version": VERSION,
            "start_time_unix_nano": service_map.start_unix_ns,
            "end_time_unix_nano": service_map.end_unix_ns,
            "nodes": nodes,
            "edges": [edge_object(service_map, edge) for edge in service_map.edges],
        }
    )


def json_lines(found: Mapping[str, Any]) -> str:
    """An object as JSON: a line for each key, and for each item where that is a list."""
    lines = []
    for key, value in found.items():
        text = json.dumps(value)
        if isinstance(value, list) and value:
            text = "[\n  " + ",\n  ".join([json.dumps(item) for item in value]) + "\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    # DEL is the one control character that JSON lets pass.
    return ("{\n" + ",\n".join(lines) + "\n}\n").replace("\x7f", "\\u007f")


def ends_object(ends: Ends) -> dict[str, str]:
    """What identifies an edge, for JSON."""
    return {
        "client": ends.client.name,
        "client_namespace": ends.client.namespace,
        "server": ends.server.name,
        "server_namespace": ends.server.namespace,
        "protocol": ends.protocol,
    }


def edge_object(service_map: ServiceMap, edge: MapEdge) -> dict[str, Any]:
    """An edge, for JSON."""
    rtt = own = None
    if edge.server_latency is not None:
        own = _latency_object(edge.server_latency)
    if edge.rtt_min_s is not None:
        rtt = {"min": edge.rtt_min_s, "median": _round(edge.rtt_median_s or edge.rtt_min_s)}
    return {
        **ends_object(edge.ends),
        "seen_by": edge.seen_by,
        "count": edge.count,
        "rate": _round(service_map.rate(edge)),
        "errors": edge.errors,
        "error_share": _round(edge.error_share),
        "incomplete": edge.incomplete,
        "request_bytes": edge.request_bytes,
        "response_bytes": edge.response_bytes,
        "latency": _latency_object(edge.latency),
        "server_latency": own,
        "rtt": rtt,
        "first_time_unix_nano": edge.first_unix_ns,
        "last_time_unix_nano": edge.last_unix_ns,
    }


def _latency_object(latency: Latency) -> dict[str, Any]:
    return {
        "p50": _round(latency.p50_s),
        "p95": _round(latency.p95_s),
        "p99": _round(latency.p99_s),
        "max": latency.max_s,
        "buckets": [
            list(pair) for pair in zip(latency.buckets.upper_s, latency.buckets.counts, strict=True)
        ],
    }


def _round(value: float) -> float:
    """What is an estimate, without digits that say nothing."""
    return float(f"{value:.6g}")


def from_json(data: str | bytes) -> ServiceMap:
    """The map that `to_json` wrote.

    Raises:
        ValueError: it is none, in words for the user.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON: {error}") from error
    if not isinstance(found, dict) or "edges" not in found:
        raise ValueError("is no service map: `wirespan map -o json` writes one")
    if found.get("version") != VERSION:
        raise ValueError(
            f"is a service map of version {found.get('version')!r}, and {VERSION} is understood"
        )
    try:
        return _read(found)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"is a damaged service map ({type(error).__name__}: {error})") from error


def _read(found: Mapping[str, Any]) -> ServiceMap:
    edges = [_read_edge(each) for each in found["edges"]]
    kinds = [(end, NodeKind.USER) for edge in edges for end in (edge.ends.client, edge.ends.server)]
    kinds += [
        (
            NodeName(_text(node["name"]), _text(node["namespace"])),
            NodeKind[_text(node["kind"]).upper()],
        )
        for node in found["nodes"]
    ]
    start, end = _number(found["start_time_unix_nano"]), _number(found["end_time_unix_nano"])
    return make_map(int(start), int(end), kinds, edges)


def _read_edge(found: Mapping[str, Any]) -> MapEdge:
    rtt = found["rtt"]
    own = found["server_latency"]
    return MapEdge(
        ends=Ends(
            NodeName(_text(found["client"]), _text(found["client_namespace"])),
            NodeName(_text(found["server"]), _text(found["server_namespace"])),
            _text(found["protocol"]),
        ),
        seen_by=_text(found["seen_by"]),
        count=int(_number(found["count"])),
        errors=int(_number(found["errors"])),
        incomplete=int(_number(found["incomplete"])),
        request_bytes=int(_number(found["request_bytes"])),
        response_bytes=int(_number(found["response_bytes"])),
        latency=_read_latency(found["latency"]),
        server_latency=None if own is None else _read_latency(own),
        rtt_min_s=None if rtt is None else _number(rtt["min"]),
        rtt_median_s=None if rtt is None else _number(rtt["median"]),
        first_unix_ns=int(_number(found["first_time_unix_nano"])),
        last_unix_ns=int(_number(found["last_time_unix_nano"])),
    )


def _read_latency(found: Mapping[str, Any]) -> Latency:
    pairs = [(_number(upper), int(_number(count))) for upper, count in found["buckets"]]
    pairs.sort()
    return Latency(
        _number(found["p50"]),
        _number(found["p95"]),
        _number(found["p99"]),
        _number(found["max"]),
        Buckets(tuple([upper for upper, _ in pairs]), tuple([count for _, count in pairs])),
    )


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    if not isfinite(value) or value < 0:
        raise ValueError(f"{value} is not possible here")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def to_mermaid(service_map: ServiceMap) -> str:
    """A flowchart from left to right; the quietest edges are left out where there are too many."""
    edges = _busiest(service_map)
    numbers = {node.name: number for number, node in enumerate(service_map.nodes)}
    nodes = [_mermaid_node(node, number) for number, node in enumerate(service_map.nodes)]
    lines: list[str] = []
    red: list[str] = []
    used: set[NodeName] = set()
    length = 0
    for edge in edges[:MERMAID_EDGES]:
        ends = edge.ends
        label = f"{mermaid_text(ends.protocol)}<br/>{_figures(service_map, edge)}"
        line = f'  n{numbers[ends.client]} -->|"{label}"| n{numbers[ends.server]}'
        named = {ends.client, ends.server} - used
        length += len(line) + sum([len(nodes[numbers[name]]) for name in named])
        if length > MERMAID_LENGTH:
            break
        used |= named
        if edge.errors:
            red.append(str(len(lines)))
        lines.append(line)
    nodes = [line for line, node in zip(nodes, service_map.nodes, strict=True) if node.name in used]
    if left := len(edges) - len(lines):
        nodes.append(f'  more["{left} quieter edges are left out"]')
    if red:
        lines.append(f"  linkStyle {','.join(red)} stroke:#c00")
    return "\n".join(["flowchart LR", *nodes, *lines]) + "\n"


def _mermaid_node(node: Node, number: int) -> str:
    before, after = MERMAID_SHAPES[node.kind]
    return f"  n{number}{before}{mermaid_text(str(node.name))}{after}"


def mermaid_text(words: str) -> str:
    """`words` for inside of quotes: all but letters, digits and `._-` as entity codes.

    Mermaid takes labels for Markdown or HTML, and looks for directives everywhere.
    """
    short = shorten_middle(printable(words), MAX_LABEL)
    return "".join([c if c.isalnum() or c in "._-" else f"#{ord(c)};" for c in short])


def to_dot(service_map: ServiceMap) -> str:
    """A graph from left to right: thick edges are busy ones, red ones fail."""
    numbers = {node.name: number for number, node in enumerate(service_map.nodes)}
    rates = [service_map.rate(edge) for edge in service_map.edges]
    most = max(rates, default=1.0)
    lines = [
        "digraph wirespan {",
        '  graph [rankdir=LR, fontname="sans-serif"];',
        '  node [fontname="sans-serif"];',
        '  edge [fontname="sans-serif", fontsize=10];',
    ]
    for number, node in enumerate(service_map.nodes):
        lines.append(f"  n{number} [label={dot_text(str(node.name))}, {DOT_SHAPES[node.kind]}];")
    for edge, rate in zip(service_map.edges, rates, strict=True):
        ends = edge.ends
        label = dot_text(ends.protocol)[:-1] + f'\\n{_figures(service_map, edge)}"'
        lines.append(
            f"  n{numbers[ends.client]} -> n{numbers[ends.server]} "
            f'[label={label}, penwidth={_pen(rate, most)}, color="{_red(edge.error_share)}"];'
        )
    return "\n".join([*lines, "}"]) + "\n"


def dot_text(words: str) -> str:
    """`words` as a quoted string: no escape sequence and no entity of it is obeyed."""
    short = shorten_middle(printable(words), MAX_LABEL)
    escaped = short.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
    return f'"{escaped}"'


def _figures(service_map: ServiceMap, edge: MapEdge) -> str:
    """Rate, quantile and errors, in words that no format takes for its own."""
    took = duration(round(edge.latency.p95_s * 1e9), "u")
    words = f"{rate_text(service_map.rate(edge))}/s p95 {took}"
    if edge.errors:
        words += f" err {share_text(edge.errors, edge.count)}"
    return words.replace("<", "below ")


def _busiest(service_map: ServiceMap) -> Sequence[MapEdge]:
    """Edges in order; if there are many, those with the most exchanges first."""
    if len(service_map.edges) <= MERMAID_EDGES // 4:
        return service_map.edges
    return sorted(service_map.edges, key=lambda edge: (-edge.count, edge.ends))


def _pen(rate: float, most: float) -> str:
    """One for a thousandth of the busiest edge's rate or less, `MAX_PEN` for the busiest."""
    share = max(0.001, rate / most) if most else 1.0
    return f"{1 + (MAX_PEN - 1) * (1 + log10(share) / 3):.1f}"


def _red(share: float) -> str:
    """Grey without errors, then from orange to red: full at one in ten."""
    if not share:
        return "#606060"
    return f"#{0xE0:02x}{round(0x90 * (1 - min(1.0, share * 10))):02x}00"
