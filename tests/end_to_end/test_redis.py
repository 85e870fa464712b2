# SPDX-License-Identifier: Apache-2.0
"""Redis with its clients: what the client made and the server ran was seen at both ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections import Counter
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import redis

from tests.end_to_end.captures import replayed
from tests.end_to_end.redis_servers import (
    CLIENTS,
    PASSWORD,
    UNCOUNTED,
    VALUE,
    array,
    redis_server,
)
from tests.rig import WIRESPAN, wait_until, watch
from tests.tracer.conversations import plain

pytestmark = pytest.mark.kernel

KINDS = ("client", "server")
BEGUN_TOO_SOON = {"cli": 1}
"""How many replies may be too long for what is captured before the protocol is known."""


def of(server, spans):
    return [each for each in spans if each["attributes"].get("server.port") == server.port]


def operations(spans):
    return Counter(each["attributes"]["db.operation.name"].lower() for each in spans)


@pytest.fixture(scope="module")
def talks(source):
    """A server for each client, and one capture of them all."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(redis_server()) for name in CLIENTS}
        before = {name: server.statistics() for name, server in servers.items()}
        ports = [flag for each in servers.values() for flag in ("--port", str(each.port))]
        with watch("--source", source, *ports) as capture:

            def noticed(server):
                """Both ends have reported something."""
                wait_until(
                    lambda: all(of(server, capture.of_kind(kind)) for kind in KINDS), "noticed"
                )

            for name, client in CLIENTS.items():
                client(servers[name], noticed)
            wanted = 2 * sum(sum(server.made.values()) for server in servers.values())
            capture.wait_for(wanted, timeout_s=3, strict=False)
        after = {name: server.statistics() for name, server in servers.items()}
        ran = {name: after[name] - before[name] - servers[name].others for name in servers}
        yield SimpleNamespace(servers=servers, ran=ran, capture=capture)


@pytest.fixture(params=CLIENTS)
def talk(request, talks):
    server = talks.servers[request.param]
    return SimpleNamespace(
        name=request.param,
        server=server,
        ran=talks.ran[request.param],
        spans={kind: of(server, talks.capture.of_kind(kind)) for kind in KINDS},
    )


def test_nothing_else_is_reported(talks):
    ours = sum(len(of(server, talks.capture.spans)) for server in talks.servers.values())
    assert len(talks.capture.spans) == ours
    assert not talks.capture.of_kind("internal")
    assert "none lost" in talks.capture.summary
    assert "Traceback" not in talks.capture.summary


def test_the_client_and_the_server_agree_on_what_was_made(talk):
    counted = talk.server.made - talk.server.unrun
    for name in UNCOUNTED:
        del counted[name]
    assert talk.ran == counted


@pytest.mark.parametrize("kind", KINDS)
def test_each_command_is_one_exchange(talk, kind):
    assert operations(talk.spans[kind]) == talk.server.made


@pytest.mark.parametrize("kind", KINDS)
def test_all_are_whole(talk, kind):
    gaps = [
        each
        for each in talk.spans[kind]
        if each["attributes"]["wirespan.completeness"] != "complete"
    ]
    assert len(gaps) <= BEGUN_TOO_SOON.get(talk.name, 0), Counter(each["name"] for each in gaps)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_those_that_the_server_gave(talk, kind):
    found = Counter(
        each["attributes"]["db.response.status_code"]
        for each in talk.spans[kind]
        if each["status"] == "error" and not each["name"].startswith("CLIENT")
    )
    assert found == talk.server.failed


@pytest.mark.parametrize("kind", KINDS)
def test_attributes_are_right(talk, kind):
    assert talk.spans[kind]
    for each in talk.spans[kind]:
        attributes = each["attributes"]
        operation = attributes["db.operation.name"]
        assert attributes["db.system.name"] == "redis"
        assert attributes["db.query.text"].split(" ...")[0].startswith(operation)
        assert each["name"].startswith(operation)
        if talk.name not in BEGUN_TOO_SOON:
            assert attributes["db.namespace"] == "0"
        shown = json.dumps(each)
        assert VALUE not in shown
        assert PASSWORD not in shown


def texts(spans):
    return {each["attributes"]["db.query.text"] for each in spans}


def test_both_ends_tell_the_same(talk):
    assert texts(talk.spans["client"]) == texts(talk.spans["server"])
    if talk.name == "pipeline":
        ours = [each["attributes"]["db.query.text"] for each in talk.spans["client"]]
        theirs = [each["attributes"]["db.query.text"] for each in talk.spans["server"]]
        assert ours == theirs
        keys = [text.split()[1] for text in ours if text.startswith("GET key:")]
        assert keys == [f"key:{index}" for index in range(500)]


def test_sizes_belong_to_their_commands(talk):
    """Each reply of the long pipeline is as long as the value of its key."""
    if talk.name != "pipeline":
        return
    for kind in KINDS:
        for each in talk.spans[kind]:
            text = each["attributes"]["db.query.text"]
            if not text.startswith("GET key:"):
                continue
            size = len(VALUE) * (int(text.removeprefix("GET key:")) % 40)
            assert each["attributes"]["wirespan.response.size"] == len(f"${size}") + 4 + size


def test_transactions_tell_how_many_they_ran(talk):
    if talk.name != "pipeline":
        return
    for kind in KINDS:
        found = Counter(
            each["attributes"].get("db.operation.batch.size")
            for each in talk.spans[kind]
            if each["name"] == "EXEC"
        )
        assert found == {3: 10, 2: 1, None: 1}


def test_the_database_is_known(talk):
    if talk.name == "cli":
        for kind in KINDS:
            (found,) = [each for each in talk.spans[kind] if each["name"] == "CONFIG SET"]
            assert found["attributes"]["db.namespace"] == "5"


def test_blocking_takes_as_long_as_it_blocks(talk):
    if not talk.name.startswith("redis-py"):
        return
    for kind in KINDS:
        (blocked,) = [each for each in talk.spans[kind] if each["name"] == "BLPOP"]
        pushed = next(each for each in talk.spans[kind] if each["name"] == "RPUSH")
        assert blocked["start_time_unix_nano"] < pushed["start_time_unix_nano"]
        assert blocked["end_time_unix_nano"] > pushed["start_time_unix_nano"]


def test_a_unix_socket_is_seen_at_both_ends(source):
    with redis_server() as server:
        processes = ["--pid", str(server.program.pid), "--pid", str(os.getpid())]
        with watch("--source", source, *processes, "--proto", "redis") as capture:
            with redis.Redis(unix_socket_path=server.path, protocol=2, db=3) as client:
                for index in range(23):
                    client.set(f"key:{index}", VALUE)
            capture.wait_for(2 * 26, timeout_s=3, strict=False)
    for kind in KINDS:
        found = operations(capture.of_kind(kind))
        assert found == {"client setinfo": 2, "select": 1, "set": 23}
    for span in capture.spans:
        attributes = span["attributes"]
        assert attributes["server.address"] == server.path
        assert "server.port" not in attributes
        if span["name"] == "SET":
            assert attributes["db.namespace"] == "3"


def test_connections_that_were_there_before(source):
    """A replica's link, a subscriber, MONITOR and a client: only what is asked is reported."""
    with ExitStack() as stack:
        server = stack.enter_context(redis_server())
        link = ["--replicaof", f"127.0.0.1 {server.port}", "--repl-ping-replica-period", "1"]
        replica = stack.enter_context(redis_server(*link))
        copy = stack.enter_context(redis.Redis(unix_socket_path=replica.path, protocol=2))
        wait_until(lambda: copy.info("replication")["master_link_status"] == "up", "linked")
        client = stack.enter_context(
            redis.Redis(port=server.port, protocol=2, single_connection_client=True)
        )
        client.select(2)
        listener = stack.enter_context(client.pubsub())
        listener.subscribe("news")
        assert listener.get_message(timeout=5)
        monitor = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        monitor.sendall(array("MONITOR"))
        assert monitor.recv(100) == b"+OK\r\n"
        with watch("--source", source, "--port", str(server.port)) as capture:
            for index in range(20):
                client.publish("news", VALUE)
                assert listener.get_message(timeout=5)["data"] == VALUE.encode()
                client.set(f"key:{index}", VALUE)
            # A replica says each second how far it has come.
            offset = copy.info("replication")["master_repl_offset"]
            wait_until(lambda: _acknowledged(server, offset), "acknowledged")
            client.select(3)
            client.get("key:1")
            listener.unsubscribe()
            assert listener.get_message(timeout=5)
    for kind in KINDS:
        spans = capture.of_kind(kind)
        assert operations(spans) == {
            "publish": 20,
            "set": 20,
            "select": 1,
            "get": 1,
            "unsubscribe": 1,
        }
        assert not [each for each in spans if each["status"] == "error"]
        found = {each["name"]: each["attributes"].get("db.namespace") for each in spans}
        assert found["SET"] is None
        assert found["GET"] == "3"
    assert not capture.of_kind("internal")


def _acknowledged(server, offset):
    with redis.Redis(unix_socket_path=server.path, protocol=2) as client:
        found = client.info("replication")["slave0"]
        return found["offset"] >= offset and found["lag"] <= 1


def _printed(path, server):
    """Whether both ends of a connection to `server` are in what was printed so far."""
    lines = (path.parent / "live").read_text().splitlines()
    ours = [line for line in lines if f'"server.port":{server.port}' in line]
    return all(any(f'"kind":"{kind}"' in line for line in ours) for kind in KINDS)


@pytest.fixture(scope="module")
def recorded(source, tmp_path_factory):
    """A recording, and what was printed meanwhile."""
    path = tmp_path_factory.mktemp("redis") / "a.wspan"
    with ExitStack() as stack:
        names = ("cli", "redis-py", "redis-py-resp3", "raw", "pipeline")
        servers = {name: stack.enter_context(redis_server()) for name in names}
        ports = [flag for each in servers.values() for flag in ("--port", str(each.port))]
        live = stack.enter_context((path.parent / "live").open("wb"))
        command = [WIRESPAN, "watch", "-o", "json", "--no-tls", "--source", source, *ports]
        command += ["-w", str(path)]
        with subprocess.Popen(command, stdout=live, stderr=subprocess.PIPE, text=True) as program:
            try:
                assert "Watching" in program.stderr.readline()
                for name, server in servers.items():
                    CLIENTS[name](server, lambda of: wait_until(lambda: _printed(path, of), "seen"))
                with redis.Redis(port=servers["cli"].port) as client:
                    client.config_set("requirepass", PASSWORD)
                    client.execute_command("AUTH", PASSWORD)
                    client.acl_setuser("bob", enabled=True, passwords=[f"+{PASSWORD}"])
                subprocess.run(["sleep", "0.3"], check=True)
                program.send_signal(2)
                summary = program.stderr.read()
            finally:
                program.kill()
    return path, (path.parent / "live").read_bytes(), summary


def test_a_replay_prints_the_same_bytes(recorded):
    path, live, summary = recorded
    assert live.count(b"\n") > 2000, summary
    assert replayed(path) == live


def test_no_value_and_no_password_is_recorded(recorded):
    path, live, summary = recorded
    everything = plain(path)
    assert b"key:17" in everything, "nothing was inflated"
    for secret in (VALUE, PASSWORD, "hello world"):
        for where in (path.read_bytes(), everything, live, summary.encode()):
            assert secret.encode() not in where
