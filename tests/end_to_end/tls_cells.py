# SPDX-License-Identifier: Apache-2.0
"""Cells of the matrix of servers and clients over TLS: what was asked and seen, and what is wrong.

Spans as JSON do not have the port of a client's own end. So the capture is recorded as well, and
both ends of each span's connection are taken from what the recording makes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from parsers.registry import Registry
from tests.end_to_end.servers import Server
from tests.end_to_end.tls_clients import NUMBER, ONLY_GETS, Ask, Asked, asks_of, client_of
from tests.end_to_end.tls_databases import Database, Statement
from tests.end_to_end.tls_grpc import Called
from tests.end_to_end.tls_servers import Authority
from tests.rig import Capture, watch
from tracer.pipeline import Pipeline
from tracer.recording import open_source
from tracer.span import Span

KINDS: Final = ("client", "server")
HEAD_BYTES: Final = 2_000
"""More than the heads that our programs make have."""
WRONG_SHOWN: Final = 8
Pair = tuple[str, str]


class Collector:
    """An exporter that keeps what it is given."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def export(self, spans: Sequence[Span]) -> None:
        self.spans += spans


def spans_of(recording: Path) -> list[Span]:
    """What a recording makes."""
    collector = Collector()
    source = open_source(recording)
    try:
        Pipeline(source, Registry.load(), [collector], seed=1).run()
    finally:
        source.close()
    return collector.spans


def path_in(attributes: dict[str, Any]) -> str:
    """Of HTTP and gRPC, at either end; empty where it is not known."""
    if "rpc.method" in attributes:
        return "/" + str(attributes.get("rpc.method_original") or attributes["rpc.method"])
    full = str(attributes.get("url.full", ""))
    return "/" + full.split("/", 3)[3] if full else str(attributes.get("url.path", ""))


def ports_of(spans: Iterable[Span]) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Port of the client and of the server by path and kind; 0 where there is no peer."""
    found = defaultdict(list)
    for span in spans:
        kind = span.kind.name.lower()
        ends = (span.peering.local.port, span.peering.remote.port)
        client, server = ends if kind == "client" else ends[::-1]
        found[path_in(span.attributes()), kind].append((client, server))
    return found


@dataclass
class Cell:
    """One server with one client."""

    server: Server
    client: str
    asks: list[Ask]
    asked: dict[str, Asked]
    spans: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {"client": [], "server": []}
    )
    """By kind."""
    ports: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Of HTTP."""
        return "2" if self.client.endswith(("/2", "http2")) or self.client in ONLY_GETS else "1.1"

    def wrong(self, kind: str) -> list[str]:
        """What is not as it was made, a line each."""
        by_path = defaultdict(list)
        for span in self.spans[kind]:
            by_path[path_in(span["attributes"])].append(span)
        complaints = []
        for ask in self.asks:
            spans = by_path[ask.path]
            if len(spans) != 1:
                complaints.append(f"{ask.path}: {len(spans)} {kind} spans")
                continue
            wanted = self._wanted(ask, kind)
            attributes = spans[0]["attributes"] | {"ports": self.ports.get((ask.path, kind))}
            shown = {key: attributes.get(key) for key in wanted}
            if shown != wanted:
                parts = [f"{key} {shown[key]} for {wanted[key]}" for key in wanted]
                different = [
                    each
                    for key, each in zip(wanted, parts, strict=True)
                    if shown[key] != wanted[key]
                ]
                complaints.append(f"{ask.path} ({kind}): {', '.join(different)}")
            complaints += self._sizes(ask, attributes)
        return shortened(complaints)

    def schemes(self, kind: str) -> set[str]:
        """Of the URLs."""
        spans = [span["attributes"] for span in self.spans[kind]]
        if kind == "server":
            return {each["url.scheme"] for each in spans}
        return {each["url.full"].partition(":")[0] for each in spans}

    def _wanted(self, ask: Ask, kind: str) -> dict[str, Any]:
        peer = self.asked[ask.path].peer
        wanted: dict[str, Any] = {
            "http.request.method": ask.method,
            "http.response.status_code": ask.status,
            "wirespan.completeness": "complete",
            "server.port": self.server.port,
            "tls.protocol.version": "1.2" if self.client == "curl-tls1.2" else "1.3",
        }
        if self.server.name != "openssl-files":
            wanted["network.protocol.version"] = self.version
        if kind == "client":
            wanted["network.peer.port"] = self.server.port
        if peer:
            wanted["ports"] = [(peer, self.server.port)]
            if kind == "server":
                wanted["network.peer.port"] = peer
        return wanted

    def _sizes(self, ask: Ask, attributes: dict[str, Any]) -> list[str]:
        asked = self.asked[ask.path]
        sent, received = (attributes[f"wirespan.{each}.size"] for each in ("request", "response"))
        complaints = []
        if asked.sent and (sent, received) != (asked.sent, asked.received):
            complaints.append(
                f"{ask.path}: sizes {sent, received} for {asked.sent, asked.received}"
            )
        for size, body in ((sent, ask.size), (received, ask.length)):
            if body is not None and not body < size < body + HEAD_BYTES:
                complaints.append(f"{ask.path}: {size} bytes with a body of {body}")
        return complaints


def shortened(complaints: list[str]) -> list[str]:
    """As much of them as can be read, and how many there are."""
    more = len(complaints) - WRONG_SHOWN
    return complaints if more <= 0 else [*complaints[:WRONG_SHOWN], f"and {more} more"]


def cell_name(server: str, client: str) -> str:
    """The first part of its paths."""
    return f"{server}.{client}".replace("/", "-h")


def make_cells(
    pairs: Sequence[Pair],
    servers: dict[str, Server],
    binaries: dict[str, Path],
    files: Authority,
    workers: int = 3,
) -> dict[Pair, Cell | str]:
    """Let each client ask each server; instead of a cell, why there is none."""

    def run(pair: Pair) -> tuple[Pair, Cell | str]:
        name, client = pair
        if name not in servers:
            return pair, f"{name} is not installed"
        if client.startswith("go") and not binaries:
            return pair, "go is not installed"
        gets = name == "openssl-files" or client in ONLY_GETS
        asks = asks_of(cell_name(*pair), gets=gets)
        try:
            done = client_of(client, binaries)(files, servers[name].port, asks)
        except pytest.skip.Exception as why:
            return pair, str(why)
        asked = {each.path: each for each in done}
        for ask in asks:
            told = asked[ask.path]
            assert told.status == ask.status, (pair, told)
            assert ask.length is None or told.length in {-1, ask.length}, (pair, told)
        assert len(done) == len(asked) == NUMBER, pair
        return pair, Cell(servers[name], client, asks, asked)

    with ThreadPoolExecutor(workers) as pool:
        return dict(pool.map(run, pairs))


def sort_spans(
    cells: dict[Pair, Cell | str], capture: Capture, recorded: Iterable[Span]
) -> list[dict[str, Any]]:
    """Give each cell its spans; what is left belongs to none."""
    by_name = {cell_name(*pair): cell for pair, cell in cells.items() if isinstance(cell, Cell)}
    ports = ports_of(recorded)
    for cell in by_name.values():
        cell.ports = ports
    strangers = []
    for span in capture.spans:
        first = path_in(span["attributes"]).strip("/").partition("/")[0]
        cell = by_name.get(first)
        if cell is None or span["kind"] not in KINDS:
            strangers.append(span)
        else:
            cell.spans[span["kind"]].append(span)
    return strangers


def wrong_calls(
    made: Sequence[Called],
    spans: Iterable[dict[str, Any]],
    recorded: Iterable[Span],
    kind: str,
    port: int,
) -> list[str]:
    """What is not as a client of gRPC has called it."""
    ports = ports_of(recorded)
    by_path = defaultdict(list)
    for span in spans:
        if span["kind"] == kind:
            by_path[path_in(span["attributes"])].append(span["attributes"])
    complaints = []
    for call in made:
        path = f"/{call.name}"
        if len(by_path[path]) != 1:
            complaints.append(f"{path}: {len(by_path[path])} {kind} spans")
            continue
        (attributes,) = by_path[path]
        shown = (
            attributes.get("rpc.response.status_code"),
            attributes["wirespan.completeness"],
            attributes["server.port"],
            ports[path, kind],
        )
        wanted = (call.status, "complete", port, [(call.peer, port)])
        if shown != wanted:
            complaints.append(f"{path} ({kind}): {shown} for {wanted}")
        if attributes["wirespan.response.size"] <= call.length:
            complaints.append(f"{path} ({kind}): a message of {call.length} in less")
    return shortened(complaints)


def wrong_statements(
    made: Sequence[Statement],
    server: Database,
    spans: Iterable[dict[str, Any]],
    kind: str,
) -> list[str]:
    """What is not as a client of a database has run it."""
    by_key = defaultdict(list)
    for span in spans:
        attributes = span["attributes"]
        if span["kind"] != kind or attributes.get("server.port") != server.port:
            continue
        if attributes.get("db.operation.name") == "Parse":
            continue
        for key in re.findall(r"\b[a-z]\w*[:_]\d+\b", attributes.get("db.query.text", "")):
            by_key[key].append(attributes)
    complaints = []
    for each in made:
        if len(by_key[each.key]) != 1:
            complaints.append(f"{each.key}: {len(by_key[each.key])} {kind} spans")
            continue
        (attributes,) = by_key[each.key]
        peer = each.peer if kind == "server" else server.port
        shown = (
            attributes["db.system.name"],
            attributes["wirespan.completeness"],
            attributes.get("network.peer.port"),
        )
        if shown != (server.name, "complete", peer):
            complaints.append(f"{each.key} ({kind}): {shown} for {server.name, 'complete', peer}")
        if attributes["wirespan.response.size"] < each.received:
            complaints.append(f"{each.key} ({kind}): fewer bytes than came")
        if attributes.get("error.type") or (
            server.name == "redis" and attributes["db.query.text"] != each.text
        ):
            complaints.append(f"{each.key} ({kind}): {attributes}")
    return shortened(complaints)


def captured(pairs, servers, binaries, files, recording, *flags):
    """Make all pairs in one capture, which is recorded as well."""
    flags += ("--buffer", "64M", "-w", str(recording))
    flags += tuple(flag for each in servers.values() for flag in ("--port", str(each.port)))
    with watch(*flags, tls=True) as capture:
        cells = make_cells(pairs, servers, binaries, files)
        made = sum(len(each.asks) for each in cells.values() if isinstance(each, Cell))
        capture.wait_for(2 * made, timeout_s=3, strict=False)
    strangers = sort_spans(cells, capture, spans_of(recording))
    return SimpleNamespace(cells=cells, capture=capture, strangers=strangers, recording=recording)


def check_cell(matrix, pair, kind):
    """What one client asked of one server, as one end shows it."""
    cell = matrix.cells[pair]
    if not isinstance(cell, Cell):
        pytest.skip(cell)
    assert not cell.wrong(kind), "\n".join(cell.wrong(kind))


def check_schemes(matrix, kind):
    """What is inside of TLS is https, whoever speaks it."""
    cells = [cell for cell in matrix.cells.values() if isinstance(cell, Cell)]
    assert {scheme for cell in cells for scheme in cell.schemes(kind)} == {"https"}


def check_rest(matrix):
    """What is said besides the exchanges."""
    assert shortened([str(span) for span in matrix.strangers]) == []
    assert matrix.capture.exit_code == 0
    assert "Traceback" not in matrix.capture.summary, matrix.capture.summary
    assert "none lost" in matrix.capture.summary, matrix.capture.summary
