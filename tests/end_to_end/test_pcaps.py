# SPDX-License-Identifier: Apache-2.0
"""What tcpdump wrote beside a live capture replays to the exchanges that were seen live.

A capture has frames where the kernel has calls: loopback's segments hold up to 64 KiB and cut
messages elsewhere, and both directions come in the order of the wire.
"""

from __future__ import annotations

import json
import random
import struct
import subprocess
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest

from tests.end_to_end import grpc_servers, http2_servers, servers
from tests.end_to_end.captures import replay, sniffed
from tests.end_to_end.mariadb_servers import mariadb_server
from tests.end_to_end.postgresql_servers import postgresql_server
from tests.end_to_end.redis_servers import CLIENTS, redis_server
from tests.end_to_end.test_mysql import program as mysql_program
from tests.end_to_end.test_mysql import run as run_mysql
from tests.end_to_end.test_postgresql import run as run_postgresql
from tests.rig import watch

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

NUMBER = 23
TIMES = {"wirespan.time_to_first_byte", "wirespan.rtt"}
SIDES = {"url.full", "url.path", "url.scheme", "client.address", "error.type"}
PEERS = {"network.peer.address", "network.peer.port"}
POSTGRESQL = ("plain", "pipelined", "copies", "asyncpg_all", "big")
NOTICED_S = 0.2
REDIS = ("cli", "benchmark-P16", "pipeline", "redis-py-resp3", "raw")
PARTIAL = {"http2": 150, "grpc": 5, "redis": 1}
"""How many exchanges may be partial live."""
LOST = 0.01
PCAP_HEADER_BYTES = 24
FRAME_HEADER = struct.Struct("<IIII")
"""Seconds, microseconds, bytes captured, bytes on the wire."""


@contextmanager
def http1(_):
    pipelined = b"".join(b"GET /p/%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(NUMBER))
    files = {"medium": bytes(3_000_000)}
    location = "location /medium { alias {home}/www/medium; }"
    servers.needs("nginx", "curl")
    with (
        servers.nginx_server(files=files, locations=location) as nginx,
        servers.python_server() as python,
    ):

        def talk():
            for server in (nginx, python):
                servers.python_client(server.port, NUMBER, "/python")
                servers.curl_client(server.port, 12, "/curl")
            base = f"http://127.0.0.1:{nginx.port}"
            for path in ("medium", "chunked", "missing"):
                servers.curl("-o", "/dev/null", f"{base}/{path}")
            servers.curl("-T", __file__, "-o", "/dev/null", f"{base}/put/x")
            servers.converse(nginx.port, pipelined, until=NUMBER)

        yield [nginx.port, python.port], talk


@contextmanager
def http2(folder):
    servers.needs("h2load")
    binary = http2_servers.build_http2(folder)
    with http2_servers.nginx_http2() as nginx, http2_servers.go_http2(binary) as go:

        def talk():
            for server in (nginx, go):
                http2_servers.h2load_asks(server.port, f"/{server.name}")
            http2_servers.go_asks(binary, nginx.port, "/client")
            http2_servers.curl_asks(go.port, "/curl", "--http2-prior-knowledge")

        yield [nginx.port, go.port], talk


@contextmanager
def grpc(folder):
    binary = http2_servers.build_grpc(folder)
    with (
        grpc_servers.python_grpc() as python,
        grpc_servers.go_grpc(binary) as go,
        grpc_servers.python_web() as web,
    ):

        def talk():
            grpc_servers.go_calls(binary, python.port)
            grpc_servers.python_calls(go.port)
            grpc_servers.web_calls(web.port, "text", "application/grpc-web-text")

        yield [python.port, go.port, web.port], talk


@contextmanager
def mysql(_):
    with mariadb_server() as server:

        def talk():
            for name in ("pymysql", "connector"):
                mysql_program(name, server)
            for name in ("command-line", "slap"):
                run_mysql(name, server)

        yield [server.port], talk


@contextmanager
def postgresql(_):
    with postgresql_server() as server:
        for name in POSTGRESQL:
            server.create(name)
        yield [server.port], lambda: [run_postgresql(server, name) for name in POSTGRESQL]


@contextmanager
def redis(_):
    with ExitStack() as stack:
        made = {name: stack.enter_context(redis_server()) for name in REDIS}

        def talk():
            for name, server in made.items():
                # Until it is known what a connection speaks.
                CLIENTS[name](server, lambda _: time.sleep(NOTICED_S))

        yield [server.port for server in made.values()], talk


PROTOCOLS = {
    "http1": http1,
    "http2": http2,
    "grpc": grpc,
    "mysql": mysql,
    "postgresql": postgresql,
    "redis": redis,
}


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """All protocols in one live capture and one file; why some of them are not there."""
    folder = tmp_path_factory.mktemp("pcaps")
    path = folder / "all.pcap"
    talks, ports, missing = {}, {}, {}
    with ExitStack() as stack:
        for name, make in PROTOCOLS.items():
            try:
                ports[name], talks[name] = stack.enter_context(make(folder))
            except pytest.skip.Exception as reason:
                missing[name] = str(reason)
        every = [port for group in ports.values() for port in group]
        flags = [flag for port in every for flag in ("--port", str(port))]
        with sniffed(path, every), watch("--buffer", "128M", *flags) as live:
            for talk in talks.values():
                talk()
    again = replay(path)
    return SimpleNamespace(path=path, live=live, again=again, ports=ports, missing=missing)


@pytest.fixture(params=PROTOCOLS)
def seen(request, captured):
    """What was seen of one protocol: live at both ends, and in the file."""
    name = request.param
    if name in captured.missing:
        pytest.skip(captured.missing[name])

    def of(spans):
        return [each for each in spans if port_of(each) in captured.ports[name]]

    again = of(captured.again)
    client, server = (of(captured.live.of_kind(kind)) for kind in ("client", "server"))
    assert client
    return SimpleNamespace(name=name, client=client, server=server, again=again)


def port_of(span):
    """The server's; a partial request of HTTP/2 does not say it but by the peer."""
    attributes = span["attributes"]
    return attributes.get("server.port", attributes["network.peer.port"])


def is_whole(span):
    return span["attributes"]["wirespan.completeness"] == "complete"


def told(span, but=TIMES):
    """What a span says, as something that can be counted."""
    attributes = {k: v for k, v in span["attributes"].items() if k not in but}
    return json.dumps([span["name"], attributes], sort_keys=True), span["status"]


def test_nothing_lacks(captured):
    assert captured.live.exit_code == 0
    assert "Traceback" not in captured.live.summary, captured.live.summary
    every = [port for group in captured.ports.values() for port in group]
    assert all(port_of(each) in every for each in captured.again)
    assert {each["kind"] for each in captured.again} == {"client"}
    assert len(captured.again) == len(captured.live.of_kind("client"))


def test_the_capture_says_what_the_client_saw(seen):
    live = Counter(told(each) for each in seen.client if is_whole(each))
    again = Counter(told(each) for each in seen.again)
    assert live - again == Counter()
    # The kernel takes no more than 4 KiB of a transfer until it is known what it speaks, and
    # never more than 128 KiB. Frames are all there.
    partial = [each for each in seen.client if not is_whole(each)]
    rest = again - live
    assert rest.total() == len(partial) <= PARTIAL.get(seen.name, 0), partial[:3]
    assert all(is_whole(each) for each in seen.again)


def test_the_capture_says_what_the_server_saw(seen):
    def common(spans):
        but = TIMES | SIDES | PEERS
        return Counter(told(each, but)[0] for each in spans)

    live = common(each for each in seen.server if is_whole(each))
    again = common(seen.again)
    assert live - again == Counter()
    partial = sum(not is_whole(each) for each in seen.server)
    assert (again - live).total() == partial <= PARTIAL.get(seen.name, 0)


def frames_of(path):
    """The header of a pcap file, and its frames with theirs."""
    data = path.read_bytes()
    at = PCAP_HEADER_BYTES
    frames = []
    while at < len(data):
        size = FRAME_HEADER.size + FRAME_HEADER.unpack_from(data, at)[2]
        frames.append(data[at : at + size])
        at += size
    return data[:PCAP_HEADER_BYTES], frames


def test_frames_that_come_twice_or_out_of_order_change_nothing(captured, tmp_path):
    header, frames = frames_of(captured.path)
    random_ = random.Random(7)
    for _ in range(len(frames) // 20):
        at = random_.randrange(1, len(frames) - 1)
        frames[at : at + 2] = frames[at + 1], frames[at]
        at = random_.randrange(len(frames))
        frames.insert(at, frames[at])
    damaged = tmp_path / "damaged.pcap"
    damaged.write_bytes(header + b"".join(frames))
    assert Counter(map(told, replay(damaged))) == Counter(map(told, captured.again))


def test_frames_that_are_missing_say_nothing_wrong(captured, tmp_path):
    header, frames = frames_of(captured.path)
    random_ = random.Random(7)
    kept = [frame for frame in frames if random_.random() > LOST]
    damaged = tmp_path / "damaged.pcap"
    damaged.write_bytes(header + b"".join(kept))
    found = replay(damaged)
    assert len(found) > len(captured.again) // 2
    assert {each["kind"] for each in found} == {"client"}
    whole = [told(each) for each in found if is_whole(each)]
    assert len(whole) > len(found) // 2
    assert Counter(whole) - Counter(map(told, captured.again)) == Counter()


def test_a_file_of_another_format_says_the_same(captured, tmp_path):
    servers.needs("editcap")
    other = tmp_path / "a.pcapng"
    subprocess.run(["editcap", "-F", "pcapng", str(captured.path), str(other)], check=True)
    assert other.read_bytes()[:4] == b"\n\r\r\n"
    assert replay(other) == captured.again
