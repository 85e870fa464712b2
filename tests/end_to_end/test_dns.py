# SPDX-License-Identifier: Apache-2.0
"""Real name servers with real clients: each question is one exchange at both ends, and right."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import dns.message
import dns.query
import pytest

import tracer.connection
import tracer.connections
from parsers.model import Completeness, Side
from tests.end_to_end.captures import replay, sniffed
from tests.end_to_end.counting import watcher
from tests.end_to_end.dns_servers import (
    ADDRESS,
    ADDRESS6,
    BIG_NUMBER,
    HOST,
    Asked,
    dig,
    dig_client,
    dnsmasq,
    dnspython_client,
    names_of,
    node_client,
    unbound,
)
from tests.end_to_end.servers import needs
from tests.rig import running, watch

pytestmark = pytest.mark.kernel

NUMBER = 23
CLIENTS = {
    "dig": lambda port: dig_client(port, NUMBER),
    "digtcp": lambda port: dig_client(port, NUMBER, "+tcp", "+keepopen", client="digtcp"),
    "py": lambda port: dnspython_client(port, NUMBER),
    "pytcp": lambda port: dnspython_client(port, NUMBER, tcp=True, client="pytcp"),
    "node": lambda port: node_client(port, NUMBER),
}


@pytest.fixture(scope="module")
def name_servers():
    """An authority, and a forwarder that asks it."""
    needs("dig")
    with unbound() as authority, dnsmasq(authority.port) as forwarder:
        yield SimpleNamespace(authority=authority, forwarder=forwarder)


@pytest.fixture(scope="module")
def asked(source, name_servers):
    """Everything that is asked in order, in one capture."""
    authority, forwarder = name_servers.authority, name_servers.forwarder
    ports = [part for each in (authority, forwarder) for part in ("--port", str(each.port))]
    before = authority.statistics()
    logged = forwarder.logged("query[")
    with watch("--source", source, *ports) as capture:
        with ThreadPoolExecutor(3) as pool:
            results = pool.map(lambda each: each(authority.port), CLIENTS.values())
            made = dict(zip(CLIENTS, results, strict=True))
        made["fwd"] = dig_client(forwarder.port, NUMBER, client="fwd")
        made["other"] = others(authority.port)
        capture.wait_for((len(CLIENTS) * 2 + 4) * NUMBER + 12, timeout_s=3, strict=False)
    after = authority.statistics()
    return SimpleNamespace(
        made=made,
        capture=capture,
        counted={key: after[key] - before.get(key, 0) for key in after},
        forwarded=forwarder.logged("query[") - logged,
    )


def others(port):
    """Answers of all kinds, by dig."""
    dig(port, "none.example", "MX")
    dig(port, "private.example")
    assert "TCP" in dig(port, "+noedns", "big.example")
    dig(port, "+noedns", "+ignore", "big.example")
    assert "(UDP)" in dig(port, "+bufsize=4096", "big.example")
    return Asked()


def spans_of(asked, name, kind):
    found = [
        span
        for span in asked.capture.spans
        if span["kind"] == kind and span["attributes"]["dns.question.name"].startswith(f"{name}-")
    ]
    return sorted(found, key=lambda span: int(question(span).split("-")[1].split(".")[0]))


def question(span):
    return span["attributes"]["dns.question.name"]


def answers_of(span):
    return span["attributes"].get("dns.answers")


def test_nothing_is_lost_and_nothing_fails(asked):
    capture = asked.capture
    assert capture.exit_code == 0
    assert "Traceback" not in capture.summary, capture.summary
    assert "none lost" in capture.summary
    assert "parse error" not in capture.summary
    assert "whose request" not in capture.summary
    assert {span["attributes"]["wirespan.completeness"] for span in capture.spans} == {"complete"}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("kind", ["client", "server"])
def test_each_question_is_one_exchange_at_each_end(asked, client, kind):
    made = asked.made[client]
    found = spans_of(asked, client, kind)
    assert [question(span) for span in found] == [name for name, _ in made.names]
    address = ADDRESS6 if made.names[0][1] == "AAAA" else ADDRESS
    for span, (_, type_) in zip(found, made.names, strict=True):
        attributes = span["attributes"]
        assert span["name"] == f"DNS {type_}"
        assert answers_of(span) == [address]
        assert attributes["wirespan.dns.question.type"] == type_
        assert attributes["wirespan.dns.response.code"] == "NOERROR"
        assert attributes["network.transport"] == made.transport
        assert span["status"] == "unset"


@pytest.mark.parametrize("client", CLIENTS)
def test_both_ends_agree_on_sizes_and_ports(asked, name_servers, client):
    ours, theirs = spans_of(asked, client, "client"), spans_of(asked, client, "server")
    for one, other in zip(ours, theirs, strict=True):
        for which in ("request", "response"):
            key = f"wirespan.{which}.size"
            assert one["attributes"][key] == other["attributes"][key]
        assert one["attributes"]["server.port"] == name_servers.authority.port
        assert one["attributes"]["server.address"] == HOST
        assert one["attributes"]["network.peer.port"] == name_servers.authority.port
        assert other["attributes"]["client.address"] == HOST
        assert other["attributes"]["network.peer.port"] not in {0, name_servers.authority.port}
    sizes = [size for size in asked.made[client].sizes if size]
    prefix = 2 if asked.made[client].transport == "tcp" else 0
    if sizes:
        assert [one["attributes"]["wirespan.response.size"] - prefix for one in ours] == sizes


def test_processes_are_named(asked):
    services = {
        client: {span["resource"]["service.name"] for span in spans_of(asked, client, "client")}
        for client in ("dig", "digtcp", "node")
    }
    assert services["dig"] == services["digtcp"] == {"dig"}
    assert services["node"] == {"node"}
    servers = {span["resource"]["service.name"] for span in spans_of(asked, "dig", "server")}
    assert servers == {"unbound"}


def test_forwarder_serves_and_asks(asked, name_servers):
    clients, servers = spans_of(asked, "fwd", "client"), spans_of(asked, "fwd", "server")
    assert len(clients) == len(servers) == 2 * NUMBER
    by_service = {}
    for span in clients + servers:
        by_service.setdefault((span["resource"]["service.name"], span["kind"]), []).append(span)
    assert {key: len(found) for key, found in by_service.items()} == {
        ("dig", "client"): NUMBER,
        ("dnsmasq", "server"): NUMBER,
        ("dnsmasq", "client"): NUMBER,
        ("unbound", "server"): NUMBER,
    }
    assert asked.forwarded == NUMBER
    for span in by_service["dnsmasq", "client"]:
        assert span["attributes"]["server.port"] == name_servers.authority.port
    for span in by_service["dnsmasq", "server"]:
        assert span["attributes"]["server.port"] == name_servers.forwarder.port


def test_server_counts_as_many(asked):
    served = [
        span for span in asked.capture.spans
        if span["kind"] == "server" and span["resource"]["service.name"] == "unbound"
    ]  # fmt: skip
    over_tcp = [span for span in served if span["attributes"]["network.transport"] == "tcp"]
    assert len(served) == asked.counted["total.num.queries"]
    assert len(over_tcp) == asked.counted["num.query.tcp"]
    by_code = {}
    for span in served:
        code = span["attributes"]["wirespan.dns.response.code"]
        by_code[code] = by_code.get(code, 0) + 1
    counted = {
        key.rpartition(".")[2]: number
        for key, number in asked.counted.items()
        if key.startswith("num.answer.rcode.") and number and not key.endswith("nodata")
    }
    assert by_code == counted


def test_answers_of_all_kinds(asked):
    def only(name, transport="udp", kind="client"):
        return [
            span["attributes"] | {"status": span["status"]}
            for span in asked.capture.spans
            if span["kind"] == kind
            and question(span) == name
            and span["attributes"]["network.transport"] == transport
        ]

    (none,) = only("none.example")
    assert none["wirespan.dns.response.code"] == "NXDOMAIN"
    assert none["wirespan.dns.question.type"] == "MX"
    assert none["status"] == "unset"
    (private,) = only("private.example")
    assert private["wirespan.dns.response.code"] == "REFUSED"
    assert (private["status"], private["error.type"]) == ("error", "refused")
    (served,) = only("private.example", kind="server")
    assert served["status"] == "unset"
    cut, ignored, whole = only("big.example")
    assert cut["wirespan.dns.response.truncated"] is True
    assert ignored["wirespan.dns.response.truncated"] is True
    assert "wirespan.dns.response.truncated" not in whole
    assert len(whole["dns.answers"]) == 32 < BIG_NUMBER
    assert whole["wirespan.response.size"] > 512
    (again,) = only("big.example", "tcp")
    assert len(again["dns.answers"]) == 32


# -- one socket, many others --------------------------------------------------------------


def test_one_socket_that_asks_two_servers(source, name_servers):
    authority, forwarder = name_servers.authority.port, name_servers.forwarder.port
    token = secrets.token_hex(4)
    flags = ("--port", str(authority), "--port", str(forwarder))
    with watch("--source", source, *flags) as capture:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            for index in range(NUMBER):
                query = dns.message.make_query(f"{token}-{index}.shop.example", "A")
                for port in (authority, forwarder):
                    dns.query.udp(query, HOST, port=port, timeout=5, sock=sock)
            local_port = sock.getsockname()[1]
        capture.wait_for(6 * NUMBER, timeout_s=2, strict=False)
    own = [span for span in capture.of_kind("client") if "dnsmasq" not in service(span)]
    assert len(own) == 2 * NUMBER
    assert len({question(span) for span in own}) == NUMBER
    ports = [span["attributes"]["server.port"] for span in own]
    assert ports.count(authority) == ports.count(forwarder) == NUMBER
    servers = capture.of_kind("server")
    direct = [s for s in servers if s["attributes"]["network.peer.port"] == local_port]
    assert len(direct) == 2 * NUMBER


def service(span):
    return span["resource"]["service.name"]


def test_one_socket_that_serves_many(source):
    """A server of a few lines, unconnected and bound to any address, with 40 clients at once."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, ExitStack() as stack:
        server.bind(("", 0))
        port = server.getsockname()[1]
        clients = []
        with watch("--source", source, "--port", str(port)) as capture:
            for index in range(40):
                sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                sock.connect((HOST, port))
                clients.append(sock)
                # All with the same id.
                query = dns.message.make_query(f"peer-{index % 5}.shop.example", "A", id=7)
                sock.send(query.to_wire())
            heard = [server.recvfrom(4096) for _ in clients]
            for data, peer in reversed(heard):
                answer = dns.message.make_response(dns.message.from_wire(data))
                server.sendto(answer.to_wire(), peer)
            for sock in clients:
                sock.recv(4096)
            ports = {sock.getsockname()[1] for sock in clients}
            capture.wait_for(80, timeout_s=2, strict=False)
    servers, ours = capture.of_kind("server"), capture.of_kind("client")
    assert len(servers) == len(ours) == 40
    assert {span["attributes"]["network.peer.port"] for span in servers} == ports
    assert all("server.address" not in span["attributes"] for span in servers)
    assert all(span["attributes"]["client.address"] == HOST for span in servers)
    assert all(span["attributes"]["server.port"] == port for span in ours)


# -- glibc --------------------------------------------------------------------------------


@contextmanager
def network():
    """A network namespace with a resolver's configuration of its own."""
    needs("ip", "getent")
    name = f"wirespan-{secrets.token_hex(3)}"
    folder = Path("/etc/netns") / name
    subprocess.run(["ip", "netns", "add", name], check=True)
    folder.mkdir(parents=True)
    (folder / "resolv.conf").write_text(
        f"nameserver {HOST}\nsearch none.example shop.example\noptions timeout:1 attempts:3\n"
    )
    try:
        subprocess.run(["ip", "netns", "exec", name, "ip", "link", "set", "lo", "up"], check=True)
        yield ("ip", "netns", "exec", name)
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        with suppress(OSError):
            folder.parent.rmdir()
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_glibc_asks_for_both_addresses_on_one_socket(source):
    with network() as prefix, unbound(53, prefix) as server:
        with watch("--source", source, "--port", "53", "--comm", "getent") as capture:
            for index in range(NUMBER):
                name = f"glibc-{index}.shop.example."
                said = subprocess.run(
                    [*prefix, "getent", "ahosts", name], capture_output=True, check=True, text=True
                ).stdout
                assert ADDRESS in said
                assert ADDRESS6 in said
            searched = subprocess.run(
                [*prefix, "getent", "ahosts", "search"], capture_output=True, check=True
            ).stdout
            assert ADDRESS.encode() in searched
            capture.wait_for(2 * NUMBER + 4, timeout_s=2, strict=False)
        counted = server.statistics()["total.num.queries"]
    spans = capture.of_kind("client")
    assert len(spans) == len(capture.spans) == counted == 2 * NUMBER + 4
    whole = [span for span in spans if question(span).startswith("glibc-")]
    for type_, address in (("A", ADDRESS), ("AAAA", ADDRESS6)):
        found = [s for s in whole if s["attributes"]["wirespan.dns.question.type"] == type_]
        assert len({question(span) for span in found}) == len(found) == NUMBER
        assert all(answers_of(span) == [address] for span in found)
    assert all(span["attributes"]["server.address"] == HOST for span in spans)
    searched = [span for span in spans if question(span).startswith("search")]
    assert [question(span).partition(".")[2] for span in searched] == [
        "none.example", "none.example", "shop.example", "shop.example",
    ]  # fmt: skip
    assert all(span["status"] == "unset" for span in searched), "a search list is no error"


# -- nobody answers -----------------------------------------------------------------------


def test_silence_is_reported_with_its_resends(monkeypatch):
    monkeypatch.setattr(tracer.connection, "PATIENCE_NS", 2_000_000_000)
    spans = []
    with network() as prefix, unbound(53, prefix), watcher(ports=(53,)) as seen:
        monkeypatch.setattr(seen, "export", spans.extend)
        with running([*prefix, "getent", "ahosts", "silent.example."]) as getent:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and (getent.poll() is None or len(spans) < 4):
                seen.step()
        seen.drain()
    assert sorted((span.peering.side, span.outline.name) for span in spans) == [
        (side, name) for side in (Side.CLIENT, Side.SERVER) for name in ("DNS A", "DNS AAAA")
    ]
    for span in spans:
        assert span.completeness is Completeness.UNANSWERED
        assert span.outline.error_type == "timeout"
        assert span.resends == 2
        assert "wirespan.dns.response.code" not in span.outline.attributes
        assert span.end_unix_ns - span.start_unix_ns > 1_900_000_000


def test_names_of_addresses_are_learnt(name_servers):
    port = name_servers.authority.port
    name, _ = names_of("learn", 1)[0]
    with watcher(ports=(port,)) as seen:
        dig(port, name)
        seen.drain()
    assert seen.pipeline.names.of(ADDRESS) == name


def test_socket_that_speaks_again_after_long_is_known_again(source, monkeypatch, name_servers):
    monkeypatch.setattr(tracer.connections, "SPENT_QUIET_NS", 300_000_000)
    port = name_servers.authority.port
    spans = []
    with watcher(ports=(port,), payload_source=source) as seen:
        monkeypatch.setattr(seen, "export", spans.extend)
        script = AGAIN.format(host=HOST, port=port)
        with running([sys.executable, "-c", script]) as client:
            while client.poll() is None:
                seen.step()
        seen.drain()
    table = seen.pipeline.table
    asked = [span for span in spans if span.peering.side is Side.CLIENT]
    assert len(asked) == 3
    assert {span.peering.remote for span in asked} == {(HOST, port)}
    assert table.counters.unannounced == 0
    assert table.counters.opened > 3, "its record came again"


AGAIN = """
import socket, time
import dns.message
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.connect(("{host}", {port}))
    for index in range(3):
        sock.send(dns.message.make_query("again-%d.shop.example" % index, "A").to_wire())
        sock.recv(4096)
        time.sleep(0.8)
"""


# -- recordings and captures --------------------------------------------------------------


def facts(spans):
    """What does not depend on who watches, of the exchanges of dig."""
    return sorted(
        (
            question(span),
            span["attributes"]["network.transport"],
            span["attributes"]["wirespan.dns.response.code"],
            span["attributes"].get("wirespan.dns.response.truncated", False),
            tuple(answers_of(span) or ()),
            span["attributes"]["wirespan.request.size"],
            span["attributes"]["wirespan.response.size"],
            span["attributes"]["wirespan.completeness"],
        )
        for span in spans
    )


def test_recording_capture_and_another_dissector_say_the_same(source, name_servers, tmp_path):
    needs("tshark")
    port = name_servers.authority.port
    recording, frames = tmp_path / "a.wspan", tmp_path / "a.pcap"
    with sniffed(frames, [port]):
        flags = ("--port", str(port), "--source", source, "-w", str(recording))
        with watch(*flags) as capture:
            dig_client(port, NUMBER, client="rec")
            dig_client(port, NUMBER, "+tcp", client="rectcp")
            others(port)
            capture.wait_for(4 * NUMBER + 12, timeout_s=2, strict=False)
    assert replay(recording) == capture.spans
    ours = capture.of_kind("client")
    assert len(ours) == 2 * NUMBER + 6
    assert facts(replay(frames)) == facts(ours) == facts(capture.of_kind("server"))
    command = ["tshark", "-r", str(frames), "-d", f"udp.port=={port},dns"]
    command += ["-d", f"tcp.port=={port},dns", "-Y", "dns", "-T", "fields"]
    command += ["-e", "dns.flags.response", "-e", "dns.qry.name"]
    text = subprocess.run(command, capture_output=True, check=True, text=True, timeout=30).stdout
    rows = [line.split("\t") for line in text.splitlines()]
    names = sorted(name for response, name in rows if response in {"0", "False"})
    assert names == sorted(question(span) for span in ours)
    assert len(rows) == 2 * len(ours)
