# SPDX-License-Identifier: Apache-2.0
"""TLS: the core of the matrix, gRPC, databases, and what is peculiar to a library.

The whole matrix is in test_tls_matrix.py, which `make test-tls` runs.
"""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace

import pytest

from tests.end_to_end.captures import replay
from tests.end_to_end.tls_cells import (
    KINDS,
    Cell,
    captured,
    cell_name,
    check_cell,
    check_rest,
    check_schemes,
    make_cells,
    sort_spans,
    spans_of,
    wrong_calls,
    wrong_statements,
)
from tests.end_to_end.tls_clients import asks_of, command_of, program_client
from tests.end_to_end.tls_databases import CELLS as DATABASE_CELLS
from tests.end_to_end.tls_databases import databases, run
from tests.end_to_end.tls_grpc import calls, server_of
from tests.end_to_end.tls_servers import (
    built,
    mapped,
    openssl_files,
)
from tests.rig import WIRESPAN, watch

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

PAIRS = [
    ("nginx", "curl"),
    ("nginx", "wget"),
    ("nginx", "go-stripped"),
    ("python", "requests"),
    ("python", "http.client"),
    ("python", "gnutls-cli"),
    ("uvicorn", "aiohttp"),
    ("uvicorn", "curl-tls1.2"),
    ("node", "node-https"),
    ("node", "node-fetch"),
    ("node", "curl"),
    ("go", "go"),
    ("go", "aiohttp"),
    ("go-stripped", "node-fetch"),
    ("go-stripped", "go-stripped"),
    ("openssl", "curl"),
    ("openssl", "http.client"),
    ("nginx", "curl/2"),
    ("nginx", "h2load"),
    ("node-http2", "node-http2"),
    ("node-http2", "go-stripped/2"),
    ("go", "go/2"),
    ("go-stripped", "nghttp"),
]
GRPC = [("go", "go"), ("go-stripped", "go-stripped"), ("go", "python"), ("python", "go")]
"""Servers and clients; the TLS of `python` has no symbols, so only the other end is seen."""
BUSY = 400
"""Asks."""
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def matrix(tls_files, tls_binaries, tls_servers, tmp_path_factory):
    """All pairs, in one capture."""
    recording = tmp_path_factory.mktemp("recorded") / "tls.wspan"
    return captured(PAIRS, tls_servers, tls_binaries, tls_files, recording)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@each_kind
def test_each_exchange_is_right(matrix, pair, kind):
    check_cell(matrix, pair, kind)


@each_kind
def test_the_scheme_is_https(matrix, kind):
    check_schemes(matrix, kind)


def test_nothing_else_is_said(matrix):
    check_rest(matrix)


@each_kind
def test_what_calls_functions_that_have_no_name_is_seen(bio, kind):
    """OpenSSL's BIO_f_ssl reads and writes past SSL_read and SSL_write."""
    assert not bio.wrong(kind), "\n".join(bio.wrong(kind))


def test_a_recording_says_the_same(matrix):
    assert replay(matrix.recording) == matrix.capture.spans
    kept = matrix.recording.read_bytes()
    assert b"x" * 90 not in kept
    assert b"y" * 90 not in kept


def test_an_answer_that_comes_before_the_writer_returns_is_not_mistaken(
    tls_files, tls_binaries, tls_servers, tmp_path
):
    """Go reads in another goroutine, while the one that has written is yet to go on."""
    if not tls_binaries:
        pytest.skip("go is not installed")
    server, client = tls_servers["python"], "go"
    asks = asks_of(cell_name("busy", client), BUSY)
    recording = tmp_path / "tls.wspan"
    with watch("-w", str(recording), "--port", str(server.port), tls=True) as capture:
        done = program_client(command_of(client, tls_binaries), 8)(tls_files, server.port, asks)
        capture.wait_for(2 * BUSY, timeout_s=3, strict=False)
    cell = Cell(server, client, asks, {each.path: each for each in done})
    sort_spans({("busy", client): cell}, capture, spans_of(recording))
    for kind in KINDS:
        assert not cell.wrong(kind), "\n".join(cell.wrong(kind))


@pytest.fixture(scope="module")
def bio(tls_files, tmp_path_factory):
    """s_server with files of its own, asked by curl."""
    recording = tmp_path_factory.mktemp("bio") / "tls.wspan"
    pair = ("openssl-files", "curl")
    with (
        openssl_files(tls_files, cell_name(*pair), 23) as server,
        watch("-w", str(recording), "--port", str(server.port), tls=True) as capture,
    ):
        cells = make_cells([pair], {server.name: server}, {}, tls_files)
    assert sort_spans(cells, capture, spans_of(recording)) == []
    return cells[pair]


@pytest.fixture(scope="module")
def grpc(tls_files, tmp_path_factory):
    """All pairs, one after the other, in one capture; what is said of a process as well."""
    folder = tmp_path_factory.mktemp("grpc")
    recording = folder / "grpc.wspan"
    grpc_binaries = built(folder, "grpc", modules=True)
    if not grpc_binaries:
        pytest.skip("grpc-go cannot be built here")
    made, ports = {}, {}
    with mapped(*grpc_binaries.values()):
        flags = ["--buffer", "64M", "-w", str(recording), "-p", str(os.getpid())]
        with watch(*flags, tls=True) as capture:
            for name, client in GRPC:
                with server_of(name, grpc_binaries, tls_files) as server:
                    ports[name, client] = server.port
                    cell = f"{name}.{client}"
                    made[name, client] = calls(client, grpc_binaries, tls_files, server.port, cell)
                    if name == "python":
                        explained = explain(server.program.pid)
    recorded = spans_of(recording)
    return SimpleNamespace(
        made=made, ports=ports, spans=capture.spans, recorded=recorded, explained=explained
    )


def explain(pid):
    command = [WIRESPAN, "explain", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


@pytest.mark.parametrize("pair", GRPC, ids="-".join)
@each_kind
def test_each_call_is_right(grpc, pair, kind):
    end = pair[0] if kind == "server" else pair[1]
    port = grpc.ports[pair]
    if end == "python":
        of_it = [span for span in grpc.spans if span["attributes"].get("server.port") == port]
        assert [span for span in of_it if span["kind"] == kind] == []
    else:
        wrong = wrong_calls(grpc.made[pair], grpc.spans, grpc.recorded, kind, port)
        assert not wrong, "\n".join(wrong)


def test_what_has_no_symbols_is_named(grpc):
    assert "cygrpc" in grpc.explained, grpc.explained
    assert "symbols" in grpc.explained, grpc.explained


@pytest.fixture(scope="module")
def statements(tls_files):
    """All clients of all databases, in one capture."""
    made = {}
    with databases(tls_files) as tls_servers, mapped():
        flags = [flag for each in tls_servers.values() for flag in ("--port", str(each.port))]
        with watch("--buffer", "64M", *flags, tls=True) as capture:
            for name, client in DATABASE_CELLS:
                if name not in tls_servers:
                    continue
                try:
                    made[name, client] = run(tls_servers[name], client, tls_files)
                except pytest.skip.Exception as why:
                    made[name, client] = str(why)
    return SimpleNamespace(made=made, tls_servers=tls_servers, capture=capture)


@pytest.mark.parametrize("pair", DATABASE_CELLS, ids="-".join)
@each_kind
def test_each_statement_is_right(statements, pair, kind):
    made = statements.made.get(pair, f"{pair[0]} is not installed")
    if isinstance(made, str):
        pytest.skip(made)
    server = statements.tls_servers[pair[0]]
    wrong = wrong_statements(made, server, statements.capture.spans, kind)
    assert not wrong, "\n".join(wrong)
