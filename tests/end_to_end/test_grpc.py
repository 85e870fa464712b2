# SPDX-License-Identifier: Apache-2.0
"""gRPC and gRPC-Web: each call that a client has made is a span at both ends, and says the same."""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from tests.end_to_end.grpc_servers import (
    PART,
    SERVICE,
    TIMEOUT_S,
    connect_calls,
    connect_web,
    go_calls,
    go_grpc,
    python_calls,
    python_grpc,
    python_web,
    web_calls,
)
from tests.end_to_end.http2_servers import build_grpc, replayed
from tests.rig import watch

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

KINDS = ("client", "server")
PAIRS = [(server, client) for server in ("python", "go") for client in ("python", "go")]
WEB = {
    ("python-web", "binary", "1.1"): "application/grpc-web+proto",
    ("python-web", "text", "1.1"): "application/grpc-web-text",
    ("connect", "connect", "1.1"): None,
    ("connect", "connect", "2"): None,
}
SERVER_ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE"}
EARLY = {"DEADLINE_EXCEEDED", "CANCELLED"}
"""Ends of calls that the client has given up."""
ON_THEIR_OWN = {"Before", "Large", "After", "Huge"}
"""Calls that are looked at alone, all but the last on a second connection. grpcio writes and reads
a large message in transfers of which 128 KiB are captured and the rest, with frames in it, is
not."""


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    """None where it cannot be built."""
    try:
        return build_grpc(tmp_path_factory.mktemp("grpc"))
    except pytest.skip.Exception as why:
        print(why)
        return None


@pytest.fixture(scope="module")
def conversations(binary, tmp_path_factory):
    """All clients with all servers, one after the other, in one capture."""
    made, ports = {}, {}
    recording = tmp_path_factory.mktemp("recorded") / "grpc.wspan"
    with ExitStack() as stack:
        servers = {
            "python": stack.enter_context(python_grpc()),
            "python-web": stack.enter_context(python_web()),
        }
        if binary is not None:
            servers["go"] = stack.enter_context(go_grpc(binary))
            servers["connect"] = stack.enter_context(connect_web(binary))
        flags = [flag for each in servers.values() for flag in ("--port", str(each.port))]
        with watch("--buffer", "128M", "-w", str(recording), *flags) as capture:
            for server, client in PAIRS:
                if server in servers and (client == "python" or binary is not None):
                    port = servers[server].port
                    calls = python_calls(port) if client == "python" else go_calls(binary, port)
                    made[server, client, "2"] = calls
            for (server, client, version), content_type in WEB.items():
                if server not in servers:
                    continue
                port = servers[server].port
                if content_type is None:
                    calls = connect_calls(binary, port, version)
                else:
                    calls = web_calls(port, client, content_type)
                made[server, client, version] = calls
    ports = {name: server.port for name, server in servers.items()}
    return SimpleNamespace(
        made=made, ports=ports, spans=capture.spans, capture=capture, recording=recording
    )


def pick(conversations, server, client, version, kind):
    """What the client has called, and the spans of it."""
    key = (server, client, version)
    if key not in conversations.made:
        pytest.skip(f"{server} with {client}: what is written in Go cannot be built here")
    spans = [
        span
        for span in conversations.spans
        if span["kind"] == kind
        and span["attributes"].get("server.port") == conversations.ports[server]
        and span["attributes"]["network.protocol.version"] == version
        and service_of(span) == SERVICE + client
        and method_of(span) not in ON_THEIR_OWN
    ]
    return [each for each in conversations.made[key] if each.method not in ON_THEIR_OWN], spans


def path_of(span):
    attributes = span["attributes"]
    return attributes.get("rpc.method_original") or attributes.get("rpc.method", "")


def service_of(span):
    return path_of(span).partition("/")[0]


def method_of(span):
    return path_of(span).partition("/")[2]


def status_of(span):
    return span["attributes"].get("rpc.response.status_code")


each_call = pytest.mark.parametrize(
    ("server", "client", "version"), [*((*pair, "2") for pair in PAIRS), *WEB]
)
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_call
@each_kind
def test_each_call_is_one_span_with_its_status(conversations, server, client, version, kind):
    made, spans = pick(conversations, server, client, version, kind)
    called = Counter((each.method, each.status) for each in made)
    seen = Counter((method_of(span), status_of(span)) for span in spans)
    assert seen == called


@each_call
@each_kind
def test_messages_are_counted(conversations, server, client, version, kind):
    made, spans = pick(conversations, server, client, version, kind)
    called = Counter(
        (each.method, each.sent, each.received) for each in made if each.status == "OK"
    )
    seen = Counter(
        (
            method_of(span),
            span["attributes"]["wirespan.rpc.request.messages"],
            span["attributes"]["wirespan.rpc.response.messages"],
        )
        for span in spans
        if status_of(span) == "OK"
    )
    assert seen == called


@each_call
@each_kind
def test_each_span_is_right(conversations, server, client, version, kind):
    _, spans = pick(conversations, server, client, version, kind)
    assert spans
    for span in spans:
        attributes = span["attributes"]
        status = status_of(span)
        assert attributes["rpc.system.name"] == "grpc"
        assert attributes["server.address"] == "127.0.0.1"
        assert attributes["wirespan.completeness"] == "complete", span
        failed = status != "OK" if kind == "client" else status in SERVER_ERRORS
        assert span["status"] == ("error" if failed else "unset"), span
        assert attributes.get("error.type") == (status if failed else None)
        unknown = status == "UNIMPLEMENTED" and kind == "server"
        assert attributes["rpc.method"] == ("_OTHER" if unknown else path_of(span))
        assert span["name"] == ("grpc" if unknown else path_of(span))
        assert "http.request.method" not in attributes
        if status not in EARLY:
            # What fails may be answered before its message has come.
            assert attributes["wirespan.rpc.request.messages"] in ({0, 1} if failed else {1, 3, 4})


@pytest.mark.parametrize(("server", "client"), PAIRS)
@each_kind
def test_what_is_given_up_ends_then(conversations, server, client, kind):
    made, spans = pick(conversations, server, client, "2", kind)
    wanted = {each.status: each.seconds for each in made if each.status in EARLY}
    assert set(wanted) == EARLY
    for span in spans:
        status = status_of(span)
        if status in EARLY:
            elapsed_s = (span["end_time_unix_nano"] - span["start_time_unix_nano"]) / 1e9
            assert elapsed_s == pytest.approx(wanted[status], abs=0.06)
        timeout = span["attributes"].get("wirespan.rpc.timeout")
        limited = status == "DEADLINE_EXCEEDED"
        assert timeout == (pytest.approx(TIMEOUT_S, rel=0.1) if limited else None)


@pytest.mark.parametrize(("server", "client"), PAIRS)
@each_kind
def test_calls_at_once_are_told_apart(conversations, server, client, kind):
    """Fifty that take 30 ms each, on one connection."""
    _, spans = pick(conversations, server, client, "2", kind)
    ours = [span for span in spans if (method_of(span), status_of(span)) == ("Sleep", "OK")]
    assert len(ours) == 50
    assert len({span["attributes"]["network.peer.port"] for span in ours}) == 1
    began = sorted(span["start_time_unix_nano"] for span in ours)
    ended = sorted(span["end_time_unix_nano"] for span in ours)
    assert began[-1] < ended[0] + 200_000_000
    for span in ours:
        elapsed_s = (span["end_time_unix_nano"] - span["start_time_unix_nano"]) / 1e9
        assert 0.025 < elapsed_s < 1


@pytest.mark.parametrize(("server", "client"), PAIRS)
@each_kind
def test_compressed_messages_are_counted(conversations, server, client, kind):
    _, spans = pick(conversations, server, client, "2", kind)
    echoes = [span["attributes"] for span in spans if method_of(span) == "Echo"]
    assert {each["wirespan.rpc.request.messages"] for each in echoes} == {1}
    assert max(each["wirespan.request.size"] for each in echoes) < 1000


@pytest.mark.parametrize(("server", "client"), PAIRS)
@each_kind
def test_a_large_message_is_one(conversations, server, client, kind):
    key = (server, client, "2")
    if key not in conversations.made:
        pytest.skip("what is written in Go cannot be built here")
    spans = {
        method_of(span): span["attributes"]
        for span in conversations.spans
        if service_of(span) == SERVICE + client
        and span["kind"] == kind
        and span["attributes"].get("server.port") == conversations.ports[server]
        and method_of(span) in ON_THEIR_OWN
    }
    assert {"Before", "Large"} <= set(spans)
    large = spans["Large"]
    if large["wirespan.completeness"] == "gap":
        assert "python" in {server, client}
        assert large.get("rpc.response.status_code") in {None, "OK"}
        assert large.get("wirespan.rpc.request.messages") in {None, 1}
        assert large.get("wirespan.rpc.response.messages") in {None, 1}
    else:
        assert large["rpc.response.status_code"] == "OK"
        assert large["wirespan.rpc.request.messages"] == 1
        assert large["wirespan.rpc.response.messages"] == 1
        assert large["wirespan.request.size"] > 4 << 20
        assert large["wirespan.response.size"] > 4 << 20
        assert spans["After"]["rpc.response.status_code"] == "OK"


@pytest.mark.parametrize("form", ["binary", "text"])
@each_kind
def test_a_status_behind_what_was_not_captured_is_unknown(conversations, form, kind):
    """Of HTTP/1, 4 KiB of a transfer are captured, so trailers may lie behind that.

    A megabyte of base64 has to be read to be passed over; a message of known length has not, but
    its receiver may read the trailers in one with the end of it.
    """
    (span,) = [
        span
        for span in conversations.spans
        if path_of(span) == f"{SERVICE}{form}/Huge" and span["kind"] == kind
    ]
    attributes = span["attributes"]
    known = status_of(span) is not None
    assert known or (form, kind) != ("binary", "server")
    assert not known or form == "binary"
    assert status_of(span) == ("OK" if known else None)
    assert attributes["wirespan.completeness"] == ("complete" if known else "gap")
    assert attributes.get("wirespan.rpc.response.messages") == (1 if known else None)
    assert span["status"] == "unset"


def test_nothing_else_is_said(conversations):
    made = sum(len(calls) for calls in conversations.made.values())
    assert Counter(span["kind"] for span in conversations.spans) == {"client": made, "server": made}
    assert conversations.capture.exit_code == 0
    assert "Traceback" not in conversations.capture.summary, conversations.capture.summary


def test_a_recording_says_the_same(conversations):
    assert replayed(conversations.recording) == conversations.spans
    kept = conversations.recording.read_bytes()
    assert b"LLLL" not in kept
    assert base64.b64encode(PART) not in kept


def test_joined_late_nothing_is_wrong(binary):
    """The header table that a connection began with is unknown: so may the method be."""
    if binary is None:
        pytest.skip("what is written in Go cannot be built here")
    made = []
    with go_grpc(binary) as server:
        calling = threading.Thread(
            target=lambda: made.extend(go_calls(binary, server.port, "busy"))
        )
        calling.start()
        time.sleep(0.7)
        with watch("--port", str(server.port)) as capture:
            calling.join(20)
    assert len(made) > 100
    statuses = {"Echo": "OK", "Missing": "NOT_FOUND"}
    for kind in KINDS:
        spans = capture.of_kind(kind)
        assert len(spans) > 50
        for span in spans:
            attributes = span["attributes"]
            method = attributes.get("rpc.method")
            status = attributes.get("rpc.response.status_code")
            if method is not None:
                service, _, name = method.partition("/")
                assert service == SERVICE + "go"
                assert status in {None, statuses[name]}
            assert attributes.get("http.response.status_code", 200) == 200
