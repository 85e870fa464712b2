# SPDX-License-Identifier: Apache-2.0
"""Every exchange that is seen from both ends is one trace, whatever it is carried by.

Each request says something that no other says, which is how the tests know whose is whose;
wirespan does not look at it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace

import aiohttp
import pytest

from tests.end_to_end.dns_servers import node_client, unbound
from tests.end_to_end.redis_servers import redis_py, redis_server
from tests.end_to_end.servers import nginx_server
from tests.end_to_end.test_networks import namespaces, within
from tests.rig import free_port, is_listening, running, wait_until, watch

pytestmark = [pytest.mark.kernel, pytest.mark.load]

PROXY = "location /via {{ proxy_pass http://127.0.0.1:{upstream}/; proxy_http_version 1.1; }}"


def said_by(span):
    """What only this exchange says."""
    attributes = span["attributes"]
    for key in ("url.query", "db.query.text", "dns.question.name"):
        if key in attributes:
            return attributes[key]
    return attributes["url.full"].partition("?")[2]


def assert_joined(spans, number):
    """Each of `number` exchanges is a client's span and below it a server's."""
    assert len({span["span_id"] for span in spans}) == len(spans)
    clients = {span["span_id"]: span for span in spans if span["kind"] == "client"}
    servers = [span for span in spans if span["kind"] == "server"]
    assert len(clients) == len(servers) == number
    assert not any(span["parent_span_id"] for span in clients.values())
    assert len({span["trace_id"] for span in clients.values()}) == number
    for server in servers:
        client = clients.pop(server["parent_span_id"])
        assert said_by(server) == said_by(client)
        assert server["trace_id"] == client["trace_id"]
        for one, other in ((server, client), (client, server)):
            name = other["resource"]["service.name"]
            assert one["attributes"]["peer.service"] == name


async def ask_at_once(urls, **options):
    """All of `urls`, as many connections as there are, and each again on one that is open."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask(url):
            async with session.get(url, **options) as answer:
                await answer.read()

        await asyncio.gather(*map(ask, urls))


def unlike(base, number):
    return [f"{base}?{secrets.token_hex(8)}" for _ in range(number)]


@pytest.fixture(scope="module")
def servers(tls_files):
    """nginx in clear with HTTP/2 beside it, and one in front of it over TLS."""
    http2, tls = free_port(), free_port()
    with ExitStack() as stack:
        plain = stack.enter_context(
            nginx_server(extra_listen=f"listen 127.0.0.1:{http2} http2;", workers=2)
        )
        front = stack.enter_context(
            nginx_server(
                extra_listen=(
                    f"listen 127.0.0.1:{tls} ssl; ssl_certificate {tls_files.certificate};"
                    f" ssl_certificate_key {tls_files.key};"
                ),
                locations=PROXY.format(upstream=plain.port),
            )
        )
        yield SimpleNamespace(plain=plain.port, http2=http2, front=front.port, tls=tls)


def test_connections_at_the_same_time(source, servers):
    urls = unlike(f"http://127.0.0.1:{servers.plain}/small", 100)
    with watch("--source", source, "--port", str(servers.plain)) as capture:
        asyncio.run(ask_at_once(urls))
        asyncio.run(ask_at_once(urls[:50]))
    assert_joined(capture.spans, 150)


def test_a_pipeline(source, servers):
    targets = [
        url.partition(str(servers.plain))[2] for url in unlike(f"x{servers.plain}/small", 40)
    ]
    asked = b"".join(
        f"GET {target} HTTP/1.1\r\nHost: x.example\r\n\r\n".encode() for target in targets
    )
    with (
        watch("--source", source, "--port", str(servers.plain)) as capture,
        socket.create_connection(("127.0.0.1", servers.plain), timeout=10) as client,
    ):
        for start in range(0, len(asked), 700):  # cut anywhere
            client.sendall(asked[start : start + 700])
        answered = b""
        while answered.count(b"HTTP/1.1 200") < len(targets):
            answered += client.recv(65536)
    assert_joined(capture.spans, len(targets))


def test_streams_of_http2(source, servers, tmp_path):
    urls = unlike(f"http://127.0.0.1:{servers.http2}/small", 100)
    (tmp_path / "urls").write_text("\n".join(urls))
    command = ["h2load", "-n100", "-c2", "-m50", "-i", str(tmp_path / "urls")]
    with watch("--source", source, "--port", str(servers.http2)) as capture:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    # Each of the two connections asks for the first urls.
    assert_joined(capture.spans, 100)


def test_a_proxy_is_two_hops(source, servers):
    urls = unlike(f"http://127.0.0.1:{servers.front}/via/small", 40)
    ports = ("--port", str(servers.front), "--port", str(servers.plain))
    with watch("--source", source, *ports) as capture:
        asyncio.run(ask_at_once(urls))
    assert_joined(capture.spans, 80)
    inner = [
        span
        for span in capture.of_kind("client")
        if span["attributes"]["peer.service"] == span["resource"]["service.name"] == "nginx"
    ]
    assert len(inner) == 40


def test_inside_tls(source, servers, tls_files):
    context = ssl.create_default_context(cafile=str(tls_files.ca))
    urls = unlike(f"https://localhost:{servers.tls}/small", 40)
    with watch("--source", source, "--port", str(servers.tls), tls=True) as capture:
        asyncio.run(ask_at_once(urls, ssl=context))
    assert_joined(capture.spans, 40)


ENDS = """
import socket, struct, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = listener.accept()
    with client:
        while asked := client.recv(9000):
            if b"/reset" in asked:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if b"/ok" not in asked:
                break
            client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
"""


@contextmanager
def ending_server():
    """Answers `/ok`, resets at `/reset`, and else closes."""
    port = free_port()
    with running([sys.executable, "-c", ENDS, str(port)]) as program:
        wait_until(lambda: is_listening(port), "the server listens")
        yield port, program


def test_what_ends_without_an_answer_is_one_exchange_all_the_same(source):
    targets = [
        target
        for how in ("/reset", "/close")
        for before in ([], ["/ok"], ["/ok", "/ok"])
        for target in [*before, how]
    ]
    with (
        ending_server() as (port, _),
        watch("--source", source, "--port", str(port)) as capture,
    ):
        client = None
        for number, target in enumerate(targets):
            client = client or socket.create_connection(("127.0.0.1", port), timeout=10)
            asked = f"GET {target}?{number} HTTP/1.1\r\nHost: api.shop.example\r\n\r\n"
            client.sendall(asked.encode())
            with suppress(ConnectionResetError):
                client.recv(9000)
            if target != "/ok":
                client.close()
                client = None
    assert_joined(capture.spans, len(targets))
    failed = [span for span in capture.of_kind("client") if span["status"] == "error"]
    assert len(failed) == 6


def test_a_server_that_is_killed_is_still_who_was_asked(source):
    with (
        ending_server() as (port, program),
        watch("--source", source, "--port", str(port)) as capture,
        socket.create_connection(("127.0.0.1", port), timeout=10) as client,
    ):
        client.sendall(b"GET /ok?1 HTTP/1.1\r\nHost: x.example\r\n\r\n")
        client.recv(9000)
        program.kill()
        program.wait()
        with suppress(OSError):
            client.sendall(b"GET /ok?2 HTTP/1.1\r\nHost: x.example\r\n\r\n")
            client.recv(9000)
    names = {span["attributes"]["peer.service"] for span in capture.of_kind("client")}
    assert len(names) == 1
    assert names != {"x.example"}


REUSES = """
import socket, struct, sys
for path in sys.argv[3:]:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.bind(("127.0.0.1", int(sys.argv[2])))
    client.connect(("127.0.0.1", int(sys.argv[1])))
    client.sendall(b"GET %s HTTP/1.1\\r\\nHost: x.example\\r\\n\\r\\n" % path.encode())
    client.recv(9000)
    client.close()
"""


def test_a_port_that_is_used_again_at_once(source, servers):
    targets = unlike("/small", 200)
    with watch("--source", source, "--port", str(servers.plain)) as capture:
        command = [sys.executable, "-c", REUSES, str(servers.plain), str(free_port())]
        subprocess.run([*command, *targets], check=True, timeout=30)
    assert_joined(capture.spans, len(targets))


def test_a_pipeline_of_redis(source):
    with (
        redis_server() as server,
        watch("--source", source, "--port", str(server.port)) as capture,
        redis_py(server, single=False) as client,
    ):
        # Before more is sent at once than is captured of what is not known yet.
        client.get(secrets.token_hex(8))
        wait_until(lambda: len(capture.spans) >= 2, "both ends were seen")
        pipeline = client.pipeline(transaction=False)
        for _ in range(200):
            pipeline.get(secrets.token_hex(8))
        pipeline.execute()
    found = [s for s in capture.spans if s["attributes"]["db.operation.name"] == "GET"]
    assert_joined(found, 201)


def test_a_resolver_with_one_socket(source):
    with unbound() as server:
        with watch("--source", source, "--port", str(server.port)) as capture:
            node_client(server.port, 50)
        assert_joined(capture.spans, 50)


ASKS = """
import http.client, sys
for path in sys.argv[2:]:
    connection = http.client.HTTPConnection("198.18.7.1", int(sys.argv[1]), timeout=20)
    connection.request("GET", path)
    connection.getresponse().read()
    connection.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")
def test_two_namespaces(source, tmp_path):
    (tmp_path / "index").write_text("x" * 100)
    port = free_port()
    targets = unlike("/index", 20)
    serve = ["-m", "http.server", str(port), "--bind", "198.18.7.1", "--protocol", "HTTP/1.1"]
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    with namespaces() as (left, right), ExitStack() as stack:
        command = within(left, sys.executable, *serve)
        stack.enter_context(running(command, cwd=tmp_path, **quiet))
        probe = within(right, "curl", "-s", f"http://198.18.7.1:{port}/index")
        wait_until(lambda: not subprocess.call(probe, **quiet), "the server listens")
        with watch("--source", source, "--port", str(port)) as capture:
            ask = within(right, sys.executable, "-c", ASKS, str(port), *targets)
            subprocess.run(ask, check=True)
    assert_joined(capture.spans, len(targets))
