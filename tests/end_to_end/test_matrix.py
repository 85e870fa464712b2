# SPDX-License-Identifier: Apache-2.0
"""Each server with each client: 23 requests are 23 exchanges at both ends, and right."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from tests.end_to_end.conftest import SERVERS
from tests.end_to_end.servers import CLIENTS, MARGIN_NS
from tests.rig import watch

pytestmark = pytest.mark.kernel

NUMBER = 23


@dataclass
class Combination:
    """One server and one client."""

    server: object
    made: object
    client_spans: list = field(default_factory=list)
    server_spans: list = field(default_factory=list)

    @property
    def spans(self):
        """All of them, which must not be none."""
        assert self.client_spans
        assert self.server_spans
        return self.client_spans + self.server_spans

    def pairs(self):
        """The two ends of each exchange."""
        assert self.client_spans
        servers = {path_of(span): span for span in self.server_spans}
        return [(span, servers[path_of(span)]) for span in self.client_spans]


def path_of(span):
    attributes = span["attributes"]
    if span["kind"] == "server":
        return attributes["url.path"]
    return "/" + attributes["url.full"].split("/", 3)[3]


def size_of(spans, which):
    return sum(span["attributes"][f"wirespan.{which}.size"] for span in spans)


@pytest.fixture(scope="module")
def combinations(source, servers):
    """Everything in one capture."""
    ports = [flag for each in servers.values() for flag in ("--port", str(each.port))]
    found = {}

    def run(names):
        server = servers[names[0]]
        began_ns = time.time_ns()
        made = CLIENTS[names[1]](server.port, NUMBER, f"/{names[1]}")
        made.began_ns, made.ended_ns = began_ns, time.time_ns()
        found[names] = Combination(server, made)

    with watch("--source", source, *ports) as capture, ThreadPoolExecutor(4) as pool:
        list(pool.map(run, [(server, client) for server in servers for client in CLIENTS]))
        capture.wait_for(2 * NUMBER * len(found), timeout_s=3, strict=False)
    by_port = {server.port: name for name, server in servers.items()}
    strangers = []
    for span in capture.spans:
        client = path_of(span).split("/")[1]
        combination = found.get((by_port[span["attributes"]["server.port"]], client))
        if combination is None or span["kind"] not in {"client", "server"}:
            strangers.append(span)
        else:
            getattr(combination, f"{span['kind']}_spans").append(span)
    return SimpleNamespace(found=found, strangers=strangers, capture=capture)


@pytest.fixture(params=[(server, client) for server in SERVERS for client in CLIENTS], ids="-".join)
def combination(request, combinations, servers):
    if request.param[0] not in servers:
        pytest.skip(f"{request.param[0]} is not installed")
    return combinations.found[request.param]


def test_nothing_else_is_reported(combinations):
    assert combinations.strangers == []
    assert combinations.capture.exit_code == 0
    assert "Traceback" not in combinations.capture.summary, combinations.capture.summary
    assert "none lost" in combinations.capture.summary


def test_each_request_is_one_exchange_at_each_end(combination):
    folder = path_of(combination.spans[0]).rsplit("/", 1)[0]
    wanted = sorted(f"{folder}/{index}" for index in range(NUMBER))
    assert combination.made.number == NUMBER
    assert sorted(map(path_of, combination.client_spans)) == wanted
    assert sorted(map(path_of, combination.server_spans)) == wanted


def test_method_status_and_completeness_are_right(combination):
    assert combination.made.statuses == [200] * NUMBER
    for span in combination.spans:
        assert span["attributes"]["http.request.method"] == "GET"
        assert span["attributes"]["http.response.status_code"] == 200
        assert span["attributes"]["network.protocol.version"] == "1.1"
        assert span["attributes"]["wirespan.completeness"] == "complete"
        assert span["name"] == f"GET {path_of(span).rsplit('/', 1)[0]}/{{id}}"
        assert span["status"] == "unset"


def test_sizes_are_those_that_the_client_counted(combination):
    made = combination.made
    for spans in (combination.client_spans, combination.server_spans):
        assert size_of(spans, "request") == made.sent
        assert size_of(spans, "response") == made.received
    for ours, theirs in combination.pairs():
        for key in ("wirespan.request.size", "wirespan.response.size"):
            assert ours["attributes"][key] == theirs["attributes"][key]


def test_times_lie_within_what_the_client_measured(combination):
    made = combination.made
    for span in combination.spans:
        assert made.began_ns - MARGIN_NS <= span["start_time_unix_nano"]
        assert span["end_time_unix_nano"] <= made.ended_ns + MARGIN_NS
        assert span["start_time_unix_nano"] <= span["end_time_unix_nano"]
        first_byte_s = span["attributes"]["wirespan.time_to_first_byte"]
        elapsed_s = (span["end_time_unix_nano"] - span["start_time_unix_nano"]) / 1e9
        assert 0 < first_byte_s <= elapsed_s + 1e-9
    by_path = {path_of(span): span for span in combination.client_spans}
    for index, (began_ns, ended_ns) in enumerate(made.intervals):
        span = by_path[f"/python/{index}"]
        assert began_ns - MARGIN_NS <= span["start_time_unix_nano"]
        assert span["end_time_unix_nano"] <= ended_ns + MARGIN_NS


def test_the_client_waits_longer_than_the_server_works(combination):
    for ours, theirs in combination.pairs():
        # Either end's time is that of its own call's return, and CPUs are shared.
        assert theirs["start_time_unix_nano"] > ours["start_time_unix_nano"] - 50 * MARGIN_NS
        assert theirs["end_time_unix_nano"] < ours["end_time_unix_nano"] + 50 * MARGIN_NS
    waited = sum(
        s["end_time_unix_nano"] - s["start_time_unix_nano"] for s in combination.client_spans
    )
    worked = sum(
        s["end_time_unix_nano"] - s["start_time_unix_nano"] for s in combination.server_spans
    )
    assert waited > 0.5 * worked


def test_ports_are_those_of_the_sockets(combination):
    assert combination.spans
    ports = {span["attributes"]["network.peer.port"] for span in combination.server_spans}
    if combination.made.ports:
        assert ports == set(combination.made.ports)
    for span in combination.client_spans:
        assert span["attributes"]["network.peer.port"] == combination.server.port
        assert span["attributes"]["server.port"] == combination.server.port
    for span in combination.server_spans:
        assert span["attributes"]["client.address"] == "127.0.0.1"
        assert span["attributes"]["server.address"] == "127.0.0.1"


def test_processes_are_named(combination):
    client = path_of(combination.spans[0]).split("/")[1]
    # What has ended before it is looked up is known by its executable only.
    wanted = {"curl": {"curl"}, "wrk": {"wrk"}, "node": {"client", "node"}}
    for span in combination.client_spans:
        if client != "python":
            assert span["resource"]["service.name"] in wanted[client]
    for span in combination.server_spans:
        assert span["resource"]["service.name"] == combination.server.service
        if combination.server.name != "nginx":
            assert span["resource"]["process.pid"] == combination.server.program.pid
