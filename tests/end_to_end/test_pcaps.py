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
from tests.rig import wait_until, watch

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

NUMBER = 23
TIMES = {"wirespan.time_to_first_byte", "wirespan.rtt"}
SIDES = {
    *(
        "name",
        "status",
        "url.full",
        "url.path",
        "url.scheme",
        "user_agent.original",
        "client.address",
        "error.type",
    ),
    *("network.peer.address", "network.peer.port", "rpc.method", "rpc.method_original"),
}
"""What the two ends of an exchange may say differently."""
SIZES = {"wirespan.request.size", "wirespan.response.size"}
UNSURE = SIZES | {
    *("name", "status", "error.type", "wirespan.completeness"),
    *("wirespan.rpc.request.messages", "wirespan.rpc.response.messages"),
    *("db.response.returned_rows", "db.namespace"),
}
"""What may be less where bytes are missing."""
POSTGRESQL = ("plain", "pipelined", "copies", "asyncpg_all", "big")
REDIS = ("cli", "benchmark-P16", "pipeline", "redis-py-resp3", "raw")
WHOLE = 0.75
"""At least, of what is seen live."""
LOST = 0.01
CHANGED = 0.1
REORDERED_US = 5000
"""What network cards with several queues may do; nobody waits much longer for a frame."""
PCAP_HEADER_BYTES = 24
FRAME_HEADER = struct.Struct("<IIII")
"""Seconds, microseconds, bytes captured, bytes on the wire."""


@contextmanager
def http1(_):
    files = {"medium": bytes(3_000_000)}
    location = "location /medium { alias {home}/www/medium; }"
    servers.needs("nginx", "curl")
    with (
        servers.nginx_server(files=files, locations=location) as nginx,
        servers.python_server() as python,
    ):

        def talk(_):
            for server in (nginx, python):
                servers.python_client(server.port, NUMBER, "/python")
                servers.curl_client(server.port, 12, "/curl")
            base = f"http://127.0.0.1:{nginx.port}"
            for path in ("medium", "chunked", "missing"):
                servers.curl("-o", "/dev/null", f"{base}/{path}")
            servers.curl("-T", __file__, "-o", "/dev/null", f"{base}/put/x")
            head = f" HTTP/1.1\r\nHost: 127.0.0.1:{nginx.port}\r\n\r\n"
            pipelined = "".join(f"GET /p/{index}{head}" for index in range(NUMBER))
            servers.converse(nginx.port, pipelined.encode(), until=NUMBER)

        yield [nginx.port, python.port], talk


@contextmanager
def http2(folder):
    servers.needs("h2load")
    binary = http2_servers.build_http2(folder)
    with http2_servers.nginx_http2() as nginx, http2_servers.go_http2(binary) as go:

        def talk(_):
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

        def talk(_):
            grpc_servers.go_calls(binary, python.port)
            grpc_servers.python_calls(go.port)
            grpc_servers.web_calls(web.port, "text", "application/grpc-web-text")

        yield [python.port, go.port, web.port], talk


@contextmanager
def mysql(_):
    with mariadb_server() as server:

        def talk(_):
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
        yield [server.port], lambda _: [run_postgresql(server, name) for name in POSTGRESQL]


@contextmanager
def redis(_):
    with ExitStack() as stack:
        made = {name: stack.enter_context(redis_server()) for name in REDIS}

        def talk(live):
            def noticed(server):
                """Both ends have reported something, and more of each transfer is taken."""
                wait_until(
                    lambda: all(
                        server.port in map(port_of, live.of_kind(kind))
                        for kind in ("client", "server")
                    ),
                    "noticed",
                )

            for name, server in made.items():
                CLIENTS[name](server, noticed)

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
        with sniffed(path, every, "tcp port"), watch("--buffer", "128M", *flags) as live:
            for talk in talks.values():
                talk(live)
    again = replay(path)
    return SimpleNamespace(path=path, live=live, again=again, ports=ports, missing=missing)


@pytest.fixture(params=PROTOCOLS)
def seen(request, captured):
    """What was seen of one protocol: live at both ends, and in the file."""
    name = request.param
    if name in captured.missing:
        pytest.skip(captured.missing[name])

    def of(spans):
        found = [each for each in spans if port_of(each) in captured.ports[name]]
        return [each for each in found if not ends_cross(each)]

    again = of(captured.again)
    client, server = (of(captured.live.of_kind(kind)) for kind in ("client", "server"))
    assert client
    return SimpleNamespace(name=name, client=client, server=server, again=again)


def port_of(span):
    """The server's; a partial request of HTTP/2 does not say it but by the peer."""
    attributes = span["attributes"]
    return attributes.get("server.port", attributes["network.peer.port"])


def ends_cross(span):
    """Where both ends end a call at once, each process has seen another order than the wire."""
    attributes = span["attributes"]
    method = attributes.get("rpc.method", "").rpartition("/")[2]
    given_up = method == "Sleep" and attributes.get("rpc.response.status_code") != "OK"
    # The server is done before the client has said that it is.
    return given_up or method == "Download"


BEYOND = {"service.peer.name", "peer.service", "http.route", "url.template"}
"""Depends on what else was seen: the process at the other end, the paths of others."""


def is_whole(span):
    return span["attributes"]["wirespan.completeness"] == "complete"


def facts(span, but=frozenset()):
    """What a span says, but for some of it."""
    name = span["name"]
    if "http.request.method" in span["attributes"]:
        name = name.partition(" ")[0]
    said = {"name": name, "status": span["status"]} | span["attributes"]
    return {k: v for k, v in said.items() if k not in but | TIMES | BEYOND}


def told(span, but=frozenset()):
    """The same as something that can be counted."""
    return json.dumps(facts(span, but), sort_keys=True)


def untrue(spans, truth, but=frozenset()):
    """What spans say that none of `truth`, of which each counts once, bears out.

    A partial span may say less. A whole one may, of what was said on its connection before.
    """
    left = Counter(told(each, but) for each in truth)
    rest = []
    for span in spans:
        said = told(span, but)
        if left[said]:
            left[said] -= 1
        else:
            rest.append(span)
    others = [json.loads(said) for said in left.elements()]
    parts = [part_of(span, but) for span in rest]
    found = []
    # What says most has the first choice.
    for said in sorted(parts, key=len, reverse=True):
        at = next((i for i, other in enumerate(others) if is_part(said, other)), None)
        if at is None:
            found.append(nearest(said, others))
        else:
            del others[at]
    return found


def nearest(said, others):
    """Where a span that is not true differs from what is most like it."""
    found = [
        {k: (v, other.get(k)) for k, v in said.items() if other.get(k) != v} for other in others
    ]
    return said, min(found, key=len, default=None)


def part_of(span, but):
    """What must be true of a span although something may be missing; names depend on all."""
    if span["attributes"].get("db.system.name") == "mysql":
        # Which of those who speak it, the greeting says.
        but |= {"db.system.name", "db.system"}
    if is_whole(span):
        return facts(span, but | {"name"})
    said = facts(span, but | UNSURE)
    if "rpc.system.name" in said:
        return said
    # That it was gRPC may be what is missing.
    return {k: v for k, v in said.items() if not k.startswith(("http.", "url."))}


def is_part(said, other):
    return all(key in other and other[key] == value for key, value in said.items())


def test_nothing_lacks(captured):
    assert captured.live.exit_code == 0
    assert "Traceback" not in captured.live.summary, captured.live.summary
    every = [port for group in captured.ports.values() for port in group]
    assert all(port_of(each) in every for each in captured.again)
    assert {each["kind"] for each in captured.again} == {"client"}
    assert all(map(is_whole, captured.again))


@pytest.mark.parametrize(("end", "but"), [("client", frozenset()), ("server", SIDES)])
def test_the_capture_says_what_both_ends_saw(seen, end, but):
    live = getattr(seen, end)
    assert untrue(live, seen.again, but) == []
    # Live, 4 KiB of a transfer are taken until it is known what it speaks, and never more than
    # 128 KiB. So it may be that less is seen.
    assert sum(map(is_whole, live)) > WHOLE * len(seen.again)
    if len(live) != len(seen.again):
        assert not all(map(is_whole, live))


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
    changed = []
    for pair in zip(frames[::2], frames[1::2], strict=False):
        first, second = (FRAME_HEADER.unpack_from(each)[:2] for each in pair)
        soon = second[0] == first[0] and second[1] - first[1] < REORDERED_US
        changed += pair[::-1] if soon and random_.random() < CHANGED else pair
        if random_.random() < CHANGED:
            changed.append(random_.choice(pair))
    damaged = tmp_path / "damaged.pcap"
    damaged.write_bytes(header + b"".join(changed))
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
    assert sum(map(is_whole, found)) > len(found) // 2
    for name, ports in captured.ports.items():
        damaged, truth = (
            [s for s in some if port_of(s) in ports] for some in (found, captured.again)
        )
        # Where requests of a pipeline were lost, their responses may be counted with another.
        assert untrue(damaged, truth, SIZES) == [], name


def test_a_file_of_another_format_says_the_same(captured, tmp_path):
    servers.needs("editcap")
    other = tmp_path / "a.pcapng"
    subprocess.run(["editcap", "-F", "pcapng", str(captured.path), str(other)], check=True)
    assert other.read_bytes()[:4] == b"\n\r\r\n"
    assert replay(other) == captured.again
