# SPDX-License-Identifier: Apache-2.0
"""Every shape that an HTTP/1.1 exchange takes, with each server: sizes and pairing are right."""

from __future__ import annotations

import gzip
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.end_to_end.conftest import SERVERS
from tests.end_to_end.servers import (
    BIG_BYTES,
    MARGIN_NS,
    ZIPPED,
    ask,
    counting_connection,
    curl,
    nginx_server,
    python_server,
)
from tests.rig import watch

pytestmark = pytest.mark.kernel

DEEP = 10
UPLOAD = 2_000_000
KEPT_ALIVE = 7
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass
class Done:
    """What a client did on one connection."""

    paths: list
    method: str
    status: int = 200
    sent: int = 0
    received: int = 0
    began_ns: int = 0
    ended_ns: int = 0


def counted(port, method, paths, **options):
    """Requests one after the other on one connection of http.client."""
    connection = counting_connection(port)
    statuses = {ask(connection, method, path, **options) for path in paths}
    done = Done(paths, method, statuses.pop(), connection.sock.sent, connection.sock.received)
    assert not statuses
    connection.close()
    return done


def keep_alive(port, path):
    return counted(port, "GET", [f"{path}/{index}" for index in range(KEPT_ALIVE)])


def not_found(port, path):
    return counted(port, "GET", [f"/missing{path}"])


def head(port, path):
    return counted(port, "HEAD", [f"{path}/{index}" for index in range(3)])


def head_of_big(port, path):
    return counted(port, "HEAD", [f"/big?{path}"])


def chunked_response(port, path):
    return counted(port, "GET", [f"/chunked{path}/{i}" for i in range(3)], headers=ACCEPTING)


def chunked_request(port, path):
    return counted(port, "PUT", [f"/put{path}/{i}" for i in range(3)], body=chunks(1_000))


def chunks(largest):
    return [b"one", b"x" * largest, b"three"]


def large_chunks_up(port, path):
    """A chunk may end in the part of a transfer that is not captured."""
    return counted(port, "PUT", [f"/put{path}/{i}" for i in range(3)], body=chunks(100_000))


def large_chunks_down(port, path):
    paths = [f"/chunked/large{path}/{index}" for index in range(3)]
    return counted(port, "GET", paths, headers=ACCEPTING)


def chunked_both_ways(port, path):
    """A GET with a body, which is unusual and allowed."""
    return counted(port, "GET", [f"/chunked{path}"], body=chunks(1_000), headers=ACCEPTING)


def big_down(port, path):
    done = counted(port, "GET", [f"/big?{path}"])
    assert done.received > BIG_BYTES
    return done


def big_up(port, path):
    done = counted(port, "PUT", [f"/put{path}"], body=bytes(BIG_BYTES))
    assert done.sent > BIG_BYTES
    return done


def pipelined(port, path):
    """Ten requests in one write, and again ten."""
    done = Done([f"{path}/{index}" for index in range(2 * DEEP)], "GET")
    requests = [
        f"GET {each} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode() for each in done.paths
    ]
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        for half in (requests[:DEEP], requests[DEEP:]):
            sock.sendall(b"".join(half))
            wanted = received.count(b"hello\n") + DEEP
            while received.count(b"hello\n") < wanted:
                received += sock.recv(65536)
    done.sent, done.received = sum(map(len, requests)), len(received)
    return done


def continued(port, path, file):
    url = f"http://127.0.0.1:{port}/put{path}"
    headers = ["-H", "Expect: 100-continue"]
    (said,) = curl("-T", str(file), *headers, "-o", "/dev/null", url)
    sent = said["size_request"] + said["size_upload"]
    # The interim response is none of the response.
    received = said["size_header"] + said["size_download"] - len(CONTINUE)
    return Done([f"/put{path}"], "PUT", said["response_code"], sent, received)


ACCEPTING = {"Accept-Encoding": "gzip"}
SHAPES = {
    each.__name__: each
    for each in (
        keep_alive,
        not_found,
        head,
        head_of_big,
        chunked_response,
        chunked_request,
        chunked_both_ways,
        large_chunks_up,
        large_chunks_down,
        big_down,
        big_up,
        pipelined,
        continued,
    )
}
VARIANTS = ("nginx-no-sendfile", "nginx-workers", "python-workers", "nginx-proxy")


@pytest.fixture(scope="module")
def variants(servers):
    """Servers with other settings, beside the usual ones."""
    with ExitStack() as stack:
        found = {
            "nginx-no-sendfile": stack.enter_context(nginx_server(sendfile="off")),
            "nginx-workers": stack.enter_context(nginx_server(workers=2)),
            "python-workers": stack.enter_context(python_server(workers=3)),
        }
        proxy = (
            f"location ~ .* {{ proxy_pass http://127.0.0.1:{servers['python'].port};"
            " proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off;"
            " proxy_set_header Connection ''; }"
        )
        found["nginx-proxy"] = stack.enter_context(nginx_server(locations=proxy))
        yield servers | found


@pytest.fixture(scope="module")
def conversations(source, variants, tmp_path_factory):
    """All shapes with all servers, in one capture."""
    upload = tmp_path_factory.mktemp("upload") / "body"
    upload.write_bytes(bytes(UPLOAD))
    ports = [flag for each in variants.values() for flag in ("--port", str(each.port))]
    found = {}

    def run(server):
        for shape, make in SHAPES.items():
            path = f"/{server}-{shape}"
            extra = (upload,) if make is continued else ()
            began_ns = time.time_ns()
            found[server, shape] = done = make(variants[server].port, path, *extra)
            done.began_ns, done.ended_ns = began_ns, time.time_ns()

    # Fourteen bodies of 30 MB within a second or two are more than the default buffer takes.
    with (
        watch("--source", source, "--buffer", "256M", *ports) as capture,
        ThreadPoolExecutor(3) as pool,
    ):
        list(pool.map(run, variants))
    spans = {}
    for span in capture.spans:
        spans.setdefault((target_of(span), span["kind"]), []).append(span)
    return SimpleNamespace(done=found, spans=spans, capture=capture)


def target_of(span):
    attributes = span["attributes"]
    if span["kind"] == "client":
        return "/" + attributes["url.full"].split("/", 3)[3]
    query = attributes.get("url.query")
    return attributes["url.path"] + (f"?{query}" if query else "")


def test_nothing_is_lost_or_invented(conversations):
    wanted = {path for done in conversations.done.values() for path in done.paths}
    assert {target for target, _ in conversations.spans} == wanted
    assert conversations.capture.exit_code == 0
    assert "Traceback" not in conversations.capture.summary, conversations.capture.summary
    unknown = conversations.capture.summary.count("was not seen")
    assert not unknown, conversations.capture.summary
    assert "ring_full" not in conversations.capture.summary, conversations.capture.summary


def test_the_servers_did_as_they_were_asked(conversations):
    for (_, shape), done in conversations.done.items():
        assert done.status in ({404} if shape == "not_found" else {200, 201, 204})


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("server", SERVERS + VARIANTS)
@pytest.mark.parametrize("kind", ["client", "server"])
def test_each_shape_is_right(conversations, variants, server, shape, kind):
    if server not in variants:
        pytest.skip(f"{server} is not installed")
    done = conversations.done[server, shape]
    spans = []
    for path in done.paths:
        there = [
            span
            for span in conversations.spans.get((path, kind), [])
            if span["attributes"]["server.port"] == variants[server].port
        ]
        assert len(there) == 1, (path, there)
        spans += there
    # A chunk that ends where nothing was captured of the call hides how the next begins.
    is_whole = "large_chunks" not in shape
    for span in spans:
        attributes = span["attributes"]
        assert attributes["http.request.method"] == done.method
        assert attributes["http.response.status_code"] == done.status
        if is_whole:
            assert attributes["wirespan.completeness"] == "complete"
        assert span["start_time_unix_nano"] >= done.began_ns - MARGIN_NS
        assert span["start_time_unix_nano"] <= span["end_time_unix_nano"]
        assert span["end_time_unix_nano"] <= done.ended_ns + MARGIN_NS
    sizes = [
        sum(span["attributes"][f"wirespan.{which}.size"] for span in spans)
        for which in ("request", "response")
    ]
    assert sizes == [done.sent, done.received]
    if done.status >= 400:
        assert spans[0]["status"] == ("error" if kind == "client" else "unset")


def test_pipelined_requests_take_their_turn(conversations, servers):
    for server in servers:
        paths = conversations.done[server, "pipelined"].paths
        for kind in ("client", "server"):
            ends = [conversations.spans[path, kind][0]["end_time_unix_nano"] for path in paths]
            assert ends == sorted(ends)


def test_a_proxy_is_a_client_too(conversations, variants):
    upstream = variants["python"].port
    for shape in SHAPES:
        for path in conversations.done["nginx-proxy", shape].paths:
            kinds = {
                (span["kind"], span["resource"]["service.name"], span["attributes"]["server.port"])
                for kind in ("client", "server")
                for span in conversations.spans[path, kind]
            }
            assert ("client", "nginx", upstream) in kinds
            assert ("server", "server", upstream) in kinds


def test_workers_are_told_apart(conversations, variants):
    """nginx's master accepts nothing; each exchange is of the worker that had it."""
    for server in ("nginx-workers", "python-workers"):
        master = variants[server].program.pid
        pids = {
            span["resource"]["process.pid"]
            for (_, kind), spans in conversations.spans.items()
            for span in spans
            if kind == "server" and span["attributes"]["server.port"] == variants[server].port
        }
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        wanted = {int(pid) for pid in children} | (
            {master} if server == "python-workers" else set()
        )
        assert pids
        assert pids <= wanted


def test_gzip_is_what_makes_nginx_send_chunks(servers):
    connection = counting_connection(servers["nginx"].port)
    connection.request("GET", "/chunked/x", headers=ACCEPTING)
    with connection.getresponse() as response:
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert gzip.decompress(response.read()) == ZIPPED
    connection.close()
