# SPDX-License-Identifier: Apache-2.0
"""TLS: each server with each client, over HTTP/1, HTTP/2 and gRPC, with both ways of capturing."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from tests.end_to_end.tls_cells import (
    KINDS,
    captured,
    check_cell,
    check_rest,
    check_schemes,
    spans_of,
    wrong_calls,
)
from tests.end_to_end.tls_grpc import calls, server_of
from tests.end_to_end.tls_servers import built, mapped, web_servers
from tests.rig import watch

pytestmark = [pytest.mark.kernel, pytest.mark.tls_matrix, pytest.mark.timeout(300)]

GO = ("go", "go-stripped")
SERVERS = ("nginx", "python", "uvicorn", "node", "node-http2", *GO, "openssl")
CLIENTS = ("curl", "curl-tls1.2", "wget", "gnutls-cli", "requests", "http.client", "aiohttp")
CLIENTS += ("node-https", "node-fetch", *GO)
HTTP2_SERVERS = ("nginx", "node-http2", *GO)
HTTP2_CLIENTS = ("curl/2", "nghttp", "h2load", "node-http2", "go/2", "go-stripped/2")
PAIRS = [(server, client) for server in SERVERS for client in CLIENTS]
PAIRS += [(server, client) for server in HTTP2_SERVERS for client in HTTP2_CLIENTS]
GRPC = [(server, client) for server in (*GO, "python") for client in (*GO, "python")]
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def matrix(source, tls_files, tmp_path_factory):
    """All pairs, in one capture."""
    folder = tmp_path_factory.mktemp("matrix")
    binaries = built(folder)
    with web_servers(tls_files, binaries) as servers, mapped(*binaries.values()):
        return captured(
            PAIRS, servers, binaries, tls_files, folder / "tls.wspan", "--source", source
        )


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@each_kind
def test_each_exchange_is_right(matrix, pair, kind):
    check_cell(matrix, pair, kind)


@each_kind
def test_the_scheme_is_https(matrix, kind):
    check_schemes(matrix, kind)


def test_nothing_else_is_said(matrix):
    check_rest(matrix)


@pytest.fixture(scope="module")
def grpc(source, tls_files, tmp_path_factory):
    """All pairs, one after the other, in one capture."""
    folder = tmp_path_factory.mktemp("grpc")
    recording = folder / "grpc.wspan"
    binaries = built(folder, "grpc", modules=True)
    if not binaries:
        pytest.skip("grpc-go cannot be built here")
    made, ports = {}, {}
    flags = ["--source", source, "--buffer", "64M", "-w", str(recording), "-p", str(os.getpid())]
    with mapped(*binaries.values()), watch(*flags, tls=True) as capture:
        for name, client in GRPC:
            with server_of(name, binaries, tls_files) as server:
                ports[name, client] = server.port
                made[name, client] = calls(
                    client, binaries, tls_files, server.port, f"{name}.{client}"
                )
    return SimpleNamespace(
        made=made, ports=ports, spans=capture.spans, recorded=spans_of(recording)
    )


@pytest.mark.parametrize("pair", GRPC, ids="-".join)
@each_kind
def test_each_call_is_right(grpc, pair, kind):
    """But for grpcio, whose TLS has no symbols."""
    end = pair[0] if kind == "server" else pair[1]
    port = grpc.ports[pair]
    if end == "python":
        of_it = [span for span in grpc.spans if span["attributes"].get("server.port") == port]
        assert [span for span in of_it if span["kind"] == kind] == []
    else:
        wrong = wrong_calls(grpc.made[pair], grpc.spans, grpc.recorded, kind, port)
        assert not wrong, "\n".join(wrong)
