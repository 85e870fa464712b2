# SPDX-License-Identifier: Apache-2.0
"""Unix sockets, IPv6 and network namespaces: the addresses are right."""

from __future__ import annotations

import os
import secrets
import subprocess
from contextlib import ExitStack, contextmanager

import pytest

from tests.end_to_end.servers import curl
from tests.rig import free_port, nginx, running, wait_until, watch

pytestmark = pytest.mark.kernel

NUMBER = 23
COMMS = ("--comm", "nginx", "--comm", "curl")


@pytest.fixture(scope="module")
def server():
    """One nginx that listens on every kind of address."""
    port = free_port()
    listen = f"listen [::1]:{port}; listen unix:{{home}}/http.socket;"
    with nginx(extra_listen=listen, workers=2) as made:
        made.port6 = port
        made.path = str(made.home / "http.socket")
        yield made


def urls_of(base):
    """Arguments of one curl for 23 requests that no other test makes."""
    token = secrets.token_hex(4)
    urls = [f"{base}/small?{token}-{index}" for index in range(NUMBER)]
    return [part for url in urls for part in ("-o", "/dev/null", url)], token


def spans_with(capture, token):
    """Client spans and server spans of a token."""
    found = {"client": [], "server": [], "internal": []}
    for span in capture.spans:
        attributes = span["attributes"]
        if token in attributes.get("url.full", "") + attributes.get("url.query", ""):
            found[span["kind"]].append(span)
    return found["client"], found["server"]


def check(spans, kind, said, service):
    assert len(spans) == NUMBER
    for span in spans:
        assert span["kind"] == kind
        assert span["resource"]["service.name"] == service
        assert span["attributes"]["http.response.status_code"] == 200
        assert span["attributes"]["wirespan.completeness"] == "complete"
    sizes = [
        sum(span["attributes"][f"wirespan.{which}.size"] for span in spans)
        for which in ("request", "response")
    ]
    sent = sum(each["size_request"] for each in said)
    received = sum(each["size_header"] + each["size_download"] for each in said)
    assert sizes == [sent, received]


def test_ipv6(source, server):
    arguments, token = urls_of(f"http://[::1]:{server.port6}")
    with watch("--source", source, "--port", str(server.port6)) as capture:
        said = curl(*arguments)
    clients, servers = spans_with(capture, token)
    check(clients, "client", said, "curl")
    check(servers, "server", said, "nginx")
    for span in capture.spans:
        assert span["attributes"]["network.peer.address"] == "::1"
        assert span["attributes"]["server.port"] == server.port6
    assert {s["attributes"]["network.peer.port"] for s in servers} == {said[0]["local_port"]}
    assert all(s["attributes"]["client.address"] == "::1" for s in servers)


def test_unix_sockets(source, server):
    arguments, token = urls_of("http://localhost")
    with watch("--source", source, *COMMS) as capture:
        said = curl("--unix-socket", server.path, *arguments)
    clients, servers = spans_with(capture, token)
    check(clients, "client", said, "curl")
    check(servers, "server", said, "nginx")
    for span in clients + servers:
        assert span["attributes"]["network.transport"] == "unix"
        assert "network.peer.port" not in span["attributes"]


@contextmanager
def namespaces():
    """Two network namespaces with a wire between them; yields names and addresses."""
    token = secrets.token_hex(3)
    left, right = f"wspan-{token}-a", f"wspan-{token}-b"
    run = lambda *command: subprocess.run(command, check=True, capture_output=True)  # noqa: E731
    with ExitStack() as stack:
        for name in (left, right):
            run("ip", "netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
        ends = ["type", "veth", "peer", "name", "wire", "netns", right]
        run("ip", "link", "add", "wire", "netns", left, *ends)
        for name, address in ((left, "198.18.7.1/30"), (right, "198.18.7.2/30")):
            run("ip", "-n", name, "addr", "add", address, "dev", "wire")
            run("ip", "-n", name, "link", "set", "wire", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield left, right


def within(namespace, *command):
    return ["ip", "netns", "exec", namespace, *command]


KEEPS_ALIVE = """
import http.client, sys
connection = http.client.HTTPConnection("198.18.7.1", int(sys.argv[1]), timeout=20)
for line in sys.stdin:
    connection.request("GET", line.strip())
    print(len(connection.getresponse().read()), flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")
def test_two_namespaces_and_connections_that_were_there_before(source, tmp_path):
    (tmp_path / "index").write_text("x" * 100)
    port = free_port()
    serve = ["-m", "http.server", str(port), "--bind", "198.18.7.1", "--protocol", "HTTP/1.1"]
    with namespaces() as (left, right), ExitStack() as stack:
        python = "/usr/bin/python3"
        options = {"cwd": tmp_path, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        stack.enter_context(running(within(left, python, *serve), **options))
        probe = ["curl", "-s", "-o", "/dev/null", f"http://198.18.7.1:{port}/index"]
        wait_until(lambda: not subprocess.call(within(right, *probe)), "the server listens")
        older = stack.enter_context(
            running(
                within(right, python, "-c", KEEPS_ALIVE, str(port)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        )
        stack.callback(older.stdin.close)
        stack.callback(older.stdout.close)

        def ask(path):
            older.stdin.write(f"{path}\n")
            return int(older.stdout.readline())

        assert ask("/index?before") == 100
        with watch("--source", source, "--port", str(port)) as capture:
            token = secrets.token_hex(4)
            for index in range(NUMBER):
                subprocess.run(
                    within(right, *probe[:-1], f"{probe[-1]}?{token}-{index}"), check=True
                )
            assert ask("/index?first") == 100
            assert ask("/index?second") == 100
    clients, servers = spans_with(capture, token)
    assert len(clients) == len(servers) == NUMBER
    for span in clients:
        assert span["attributes"]["network.peer.address"] == "198.18.7.1"
        assert span["resource"]["service.name"] == "curl"
    for span in servers:
        assert span["attributes"]["network.peer.address"] == "198.18.7.2"
        assert span["attributes"]["client.address"] == "198.18.7.2"
        assert span["attributes"]["server.address"] == "198.18.7.1"
        assert span["resource"]["service.name"] == "http.server"
    assert spans_with(capture, "before") == ([], [])
    for which, wanted in (("first", "late_attach"), ("second", "complete")):
        clients, servers = spans_with(capture, which)
        assert len(clients) == len(servers) == 1
        for span in clients + servers:
            assert span["attributes"]["wirespan.completeness"] == wanted
            assert span["attributes"]["http.response.status_code"] == 200
        assert clients[0]["attributes"]["network.peer.address"] == "198.18.7.1"
        assert servers[0]["attributes"]["network.peer.address"] == "198.18.7.2"
