# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 in clear text: every server with every client, and everything that streams do."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter, defaultdict
from types import SimpleNamespace

import pytest

from tests.end_to_end.http2_servers import (
    BODY_BYTES,
    LOADED,
    build_grpc,
    build_http2,
    curl_asks,
    go_asks,
    go_http2,
    h2load_asks,
    http2_servers,
    node_asks,
    node_http2,
    node_keeps_asking,
    replayed,
)
from tests.end_to_end.servers import curl
from tests.rig import watch

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

SERVERS = ("nginx", "node", "go", "upgrade")
CLIENTS = ("h2load", "curl", "curl-upgrade", "node", "go")
KINDS = ("client", "server")
PAIRS = [
    (server, client)
    for server in SERVERS
    for client in CLIENTS
    # Of these servers, one alone lets clients change over from HTTP/1.1.
    if client != "curl-upgrade" or server == "upgrade"
]


def built(build, folder):
    try:
        return build(folder)
    except pytest.skip.Exception:
        return None


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    return built(build_http2, tmp_path_factory.mktemp("h2"))


def target_of(span):
    attributes = span["attributes"]
    if span["kind"] == "server":
        return attributes.get("url.path")
    full = attributes.get("url.full")
    return "/" + full.split("/", 3)[3] if full else attributes.get("url.path")


@pytest.fixture(scope="module")
def conversations(binary, tmp_path_factory):
    """All clients with all servers, in one capture."""
    grpc = built(build_grpc, tmp_path_factory.mktemp("grpc"))
    made = {}
    recording = tmp_path_factory.mktemp("recorded") / "http2.wspan"
    with http2_servers(binary, grpc) as servers:
        ports = [flag for each in servers.values() for flag in ("--port", str(each.port))]
        with watch("--buffer", "128M", "-w", str(recording), *ports) as capture:
            for server, client in PAIRS:
                if server not in servers or (client == "go" and binary is None):
                    continue
                port, path = servers[server].port, f"/{server}-{client}"
                ask = {
                    "h2load": h2load_asks,
                    "curl": lambda port, path: curl_asks(port, path, "--http2-prior-knowledge"),
                    "curl-upgrade": lambda port, path: curl_asks(port, path, "--http2"),
                    "node": node_asks,
                    "go": lambda port, path: go_asks(binary, port, path),
                }[client]
                try:
                    made[server, client] = ask(port, path)
                except pytest.skip.Exception:
                    continue
    spans = defaultdict(list)
    for span in capture.spans:
        spans[target_of(span), span["kind"]].append(span)
    return SimpleNamespace(
        made=made, spans=spans, capture=capture, servers=servers, recording=recording
    )


@pytest.fixture
def made(conversations, server, client):
    if (server, client) not in conversations.made:
        pytest.skip(f"{server} with {client} cannot be had here")
    return conversations.made[server, client]


each_pair = pytest.mark.parametrize(("server", "client"), PAIRS)
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_pair
@each_kind
def test_each_request_is_one_exchange(conversations, made, server, client, kind):
    asked = Counter(each.path for each in made)
    seen = {path: len(conversations.spans[path, kind]) for path in asked}
    assert seen == asked


@each_pair
@each_kind
def test_each_exchange_is_right(conversations, made, server, client, kind):
    port = conversations.servers[server].port
    for each in set(made):
        for span in conversations.spans[each.path, kind]:
            attributes = span["attributes"]
            assert attributes["http.request.method"] == each.method == span["name"]
            status = attributes.get("http.response.status_code", 0)
            if attributes["wirespan.completeness"] == "gap":
                assert status in {0, each.status}
                # Of frames in one transfer, so much is captured and no more: see below.
                # A hundred answers at once, before the protocol is known, are more as well.
                assert "/large/" in each.path or client == "h2load", span
                continue
            assert status == each.status, span
            assert attributes["server.address"] == "127.0.0.1"
            assert attributes["server.port"] == port
            assert attributes["wirespan.completeness"] == "complete", span
            failed = each.status >= (400 if kind == "client" else 500)
            if each.status:
                assert span["status"] == ("error" if failed else "unset"), span
            assert span["start_time_unix_nano"] <= span["end_time_unix_nano"]


@each_pair
@each_kind
def test_bodies_are_counted(conversations, made, server, client, kind):
    for each in set(made):
        for span in conversations.spans[each.path, kind]:
            attributes = span["attributes"]
            if attributes["wirespan.completeness"] == "gap":
                continue
            if each.status:
                assert attributes["wirespan.response.size"] > each.body
            if each.method == "PUT":
                assert attributes["wirespan.request.size"] > BODY_BYTES


def test_of_a_load_only_the_first_answers_may_be_torn(conversations):
    """Until the protocol is known, 4 KiB of a transfer are captured."""
    for kind in KINDS:
        loads = [spans for (path, of), spans in conversations.spans.items() if of == kind and path]
        for spans in (each for each in loads if "h2load" in target_of(each[0])):
            began_ns = min(span["start_time_unix_nano"] for span in spans)
            for span in spans:
                if span["attributes"]["wirespan.completeness"] == "gap":
                    assert span["start_time_unix_nano"] < began_ns + 150_000_000


def test_large_bodies_are_seen_whole(conversations):
    """But for what crosses a socket in transfers of more than 128 KiB, which Node may write."""
    seen = Counter()
    for (server, client), made in conversations.made.items():
        for each in made:
            for kind in KINDS if "/large/" in each.path else ():
                for span in conversations.spans[each.path, kind]:
                    completeness = span["attributes"]["wirespan.completeness"]
                    seen["node" in {server, client}, completeness] += 1
    assert seen[False, "complete"]
    assert seen[True, "complete"] > seen[True, "gap"]
    # nginx and Node may also read as much at once.
    assert seen[False, "complete"] > 3 * seen[False, "gap"], seen


def test_the_version_is_that_of_the_connection(conversations):
    for (_, client), made in conversations.made.items():
        for each in made:
            for kind in KINDS:
                for span in conversations.spans[each.path, kind]:
                    version = span["attributes"]["network.protocol.version"]
                    upgraded = client == "curl-upgrade" and each.path.endswith("/0")
                    assert version == "2" or upgraded, span


def test_nothing_else_is_said(conversations):
    """No exchange of what was pushed, none that nobody made."""
    wanted = {each.path for made in conversations.made.values() for each in made}
    assert {path for path, _ in conversations.spans} <= wanted
    assert conversations.capture.exit_code == 0
    assert "Traceback" not in conversations.capture.summary, conversations.capture.summary
    assert "ring_full" not in conversations.capture.summary, conversations.capture.summary


def test_a_recording_says_the_same(conversations):
    assert replayed(conversations.recording) == conversations.capture.spans


def test_h2load_has_had_all_its_requests(conversations):
    loads = [made for (_, client), made in conversations.made.items() if client == "h2load"]
    assert loads
    assert {len(made) for made in loads} == {LOADED}


@each_kind
def test_what_a_client_gives_up_ends_then(conversations, kind):
    """A stream that its client has reset has no status, and ends with the reset."""
    given_up = [
        each for made in conversations.made.values() for each in made if each.path.endswith("/slow")
    ]
    assert {each.status for each in given_up} >= {0}
    for each in given_up:
        if each.status:
            continue
        (span,) = conversations.spans[each.path, kind]
        elapsed_s = (span["end_time_unix_nano"] - span["start_time_unix_nano"]) / 1e9
        assert 0.05 < elapsed_s < 2


def test_a_server_that_says_goodbye_finishes(binary):
    """GOAWAY ends the connection, not what is under way on it."""
    if binary is None:
        pytest.skip("Go is not here")
    with go_http2(binary) as server:
        url = f"http://127.0.0.1:{server.port}/pause"
        said = []
        with watch("--port", str(server.port)) as capture:
            asking = threading.Thread(
                target=lambda: said.extend(curl("--http2-prior-knowledge", "-o", "/dev/null", url))
            )
            asking.start()
            time.sleep(0.15)
            server.program.send_signal(signal.SIGTERM)
            asking.join(20)
            capture.wait_for(2, strict=False)
        assert [each["response_code"] for each in said] == [200]
        assert sorted(span["kind"] for span in capture.spans) == ["client", "server"]
        for span in capture.spans:
            assert span["attributes"]["http.response.status_code"] == 200
            assert span["attributes"]["wirespan.completeness"] == "complete"
            assert target_of(span) == "/pause"


def test_joined_late_nothing_is_wrong():
    """Half a header table is missing: what it holds stays unknown, and comes to be known."""
    asked = []
    with node_http2() as server:
        asking = threading.Thread(
            target=lambda: asked.extend(node_keeps_asking(server.port, "/late", 3))
        )
        asking.start()
        time.sleep(1)
        with watch("--port", str(server.port)) as capture:
            asking.join(20)
    methods = {each.path: each.method for each in asked}
    assert len(methods) > 100
    for kind in KINDS:
        spans = sorted(capture.of_kind(kind), key=lambda span: span["start_time_unix_nano"])
        assert len(spans) > 30
        for span in spans:
            attributes = span["attributes"]
            assert attributes["http.response.status_code"] == 200
            path = target_of(span)
            method = attributes.get("http.request.method")
            if path is not None and "/late/" in path:
                assert method == methods[path]
            assert method in {"GET", "POST"}, span
        known = [target_of(span) in methods for span in spans]
        assert all(known[-10:]), spans[-1]
