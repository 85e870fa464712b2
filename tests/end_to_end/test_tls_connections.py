# SPDX-License-Identifier: Apache-2.0
"""TLS: whose connection it is. Many on one event loop, joined late, and through a proxy."""

from __future__ import annotations

import contextlib
import os
from collections import Counter, defaultdict
from types import SimpleNamespace

import pytest

from tests.end_to_end.tls_cells import KINDS, path_in, ports_of, shortened, spans_of
from tests.end_to_end.tls_clients import (
    Ask,
    asks_of,
    command_of,
    curl_once,
    paused,
    program_client,
)
from tests.end_to_end.tls_servers import (
    connect_proxy,
    mapped,
    python_tls,
)
from tests.rig import watch

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

JOINED = [
    ("nginx", "http.client"),
    ("python", "requests"),
    ("uvicorn", "aiohttp"),
    ("node", "node-https"),
    ("go", "go"),
    ("go-stripped", "go-stripped"),
]
WAITING = {"python", "go", "go-stripped"}
"""Ends of `JOINED` where a thread waits inside of a call to read when the capture begins: nothing
tells where it wants the data."""
JOINED_AFTER = 4
"""Asks of each of two connections."""
CONNECTIONS = 50
ROUNDS = 6
LENGTHS = (10, 200_000, 100, 1_000, 20_000, 66_000, 5_000)
"""Of bodies, bytes."""

each_kind = pytest.mark.parametrize("kind", KINDS)


def many_asks():
    """As many rounds of all connections; how long, differs from one to the next."""
    made = []
    for index in range(ROUNDS * CONNECTIONS):
        length = LENGTHS[index % len(LENGTHS)]
        if index % 3 == 2:
            made.append(Ask("PUT", f"/many/{index}/put", length))
        else:
            made.append(Ask("GET", f"/many/{index}/{length}", 0))
    return made


def wrong_ports(asks, asked, recorded, port, kind, unknown=0):
    """Bindings that are wrong or missing; of the first so many asks they may be missing."""
    ports = ports_of(recorded)
    complaints = []
    for index, ask in enumerate(asks):
        allowed = [[(asked[ask.path].peer, port)]]
        if index < unknown:
            allowed += [[(0, 0)], [(0, port)]]
        if ports[ask.path, kind] not in allowed:
            complaints.append(f"{ask.path} ({kind}): {ports[ask.path, kind]} for {allowed[0]}")
    return shortened(complaints)


@pytest.fixture(scope="module")
def crowds(tls_files, tls_binaries, tmp_path_factory):
    """Fifty connections on one event loop, from their beginning (0) and joined after a round."""
    folder = tmp_path_factory.mktemp("crowd")
    found = {}
    asks = many_asks()
    for joined in (0, 1):
        recording = folder / f"{joined}.wspan"
        with python_tls(tls_files, "asyncio") as server, mapped():
            # Not --port: what has no peer yet has no port.
            flags = ["--buffer", "128M", "-w", str(recording), "-p", str(os.getpid())]
            command = command_of("aiohttp", tls_binaries)
            where = (tls_files, server.port, asks)
            if joined:
                with (
                    paused(command, *where, CONNECTIONS, after=joined) as client,
                    watch(*flags, tls=True) as capture,
                ):
                    asked = client.finish()
            else:
                with watch(*flags, tls=True) as capture:
                    asked = program_client(command, CONNECTIONS)(*where)
        found[joined] = SimpleNamespace(
            asks=asks[joined * CONNECTIONS :],
            asked={each.path: each for each in asked},
            recorded=spans_of(recording),
            capture=capture,
            port=server.port,
        )
    return found


@each_kind
def test_on_one_event_loop_no_connection_is_taken_for_another(crowds, kind):
    crowd = crowds[0]
    assert len({each.peer for each in crowd.asked.values()}) == CONNECTIONS
    wrong = wrong_ports(crowd.asks, crowd.asked, crowd.recorded, crowd.port, kind)
    assert not wrong, "\n".join(wrong)


@each_kind
def test_joined_late_only_the_first_of_a_connection_may_have_no_peer(crowds, kind):
    crowd = crowds[1]
    where = (crowd.asks, crowd.asked, crowd.recorded, crowd.port, kind)
    wrong = wrong_ports(*where, unknown=CONNECTIONS)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("joined", [0, 1])
@each_kind
def test_all_that_a_crowd_asks_is_seen(crowds, joined, kind):
    crowd = crowds[joined]
    spans = crowd.capture.of_kind(kind)
    seen = Counter(path_in(span["attributes"]) for span in spans)
    assert seen == {ask.path: 1 for ask in crowd.asks}
    wanted = {ask.path: (ask.method, ask.status) for ask in crowd.asks}
    for span in spans:
        attributes = span["attributes"]
        shown = (attributes["http.request.method"], attributes["http.response.status_code"])
        assert shown == wanted[path_in(attributes)]
        assert attributes["wirespan.completeness"] in {"complete", *["late_attach"] * joined}, span


@pytest.fixture(scope="module")
def joined(tls_files, tls_binaries, tls_servers, tmp_path_factory):
    """Clients that are half through when the capture begins."""
    recording = tmp_path_factory.mktemp("joined") / "tls.wspan"
    asked = {}
    with contextlib.ExitStack() as stack:
        clients = {}
        for name, client in JOINED:
            if name not in tls_servers:
                continue
            try:
                command = command_of(client, tls_binaries)
            except pytest.skip.Exception:
                continue
            asks = asks_of(f"joined-{name}")
            where = (tls_files, tls_servers[name].port, asks, 2, JOINED_AFTER)
            clients[name, client] = stack.enter_context(paused(command, *where))
        with watch("-w", str(recording), "-p", str(os.getpid()), tls=True) as capture:
            for pair, client in clients.items():
                asked[pair] = {each.path: each for each in client.finish()}
    return SimpleNamespace(asked=asked, capture=capture, recorded=spans_of(recording))


@pytest.mark.parametrize("pair", JOINED, ids="-".join)
@each_kind
def test_in_the_middle_of_a_connection_what_follows_is_seen(joined, tls_servers, pair, kind):
    if pair not in joined.asked:
        pytest.skip(f"{' or '.join(pair)} is not installed")
    asks = asks_of(f"joined-{pair[0]}")[2 * JOINED_AFTER :]
    by_path = defaultdict(list)
    for span in joined.capture.of_kind(kind):
        if f"/joined-{pair[0]}/" in path_in(span["attributes"]):
            by_path[path_in(span["attributes"])].append(span["attributes"])
    waits = (pair[0] if kind == "server" else pair[1]) in WAITING
    for index, ask in enumerate(asks):
        if index < 2 and waits and not by_path[ask.path]:
            continue
        (attributes,) = by_path[ask.path]
        assert attributes["http.request.method"] == ask.method
        status = attributes.get("http.response.status_code")
        if status is None and waits and kind == "client":
            # The first answer is missing, so nobody can tell which request the next one is to.
            continue
        assert status == ask.status
        # The second is the first to be seen where the first is not.
        allowed = {"complete", "late_attach"} if index < 2 + 2 * waits else {"complete"}
        assert attributes["wirespan.completeness"] in allowed, attributes
    port = tls_servers[pair[0]].port
    asks = [ask for ask in asks if by_path[ask.path]]
    wrong = wrong_ports(asks, joined.asked[pair], joined.recorded, port, kind, unknown=2)
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def tunnelled(tls_files, tls_servers):
    """Curl through a proxy, to a server that it finds behind it."""
    if "nginx" not in tls_servers:
        pytest.skip("nginx is not installed")
    target = tls_servers["nginx"]
    asks = asks_of("tunnel")
    with connect_proxy() as proxy:
        through = ("-x", f"http://127.0.0.1:{proxy.port}", "--http1.1")
        with watch("--port", str(proxy.port), "--port", str(target.port), tls=True) as capture:
            asked = curl_once(tls_files, target.port, asks, *through, version="1")
    return SimpleNamespace(
        asks=asks, asked=asked, capture=capture, proxy=proxy.port, target=target.port
    )


@each_kind
def test_inside_of_a_tunnel_each_exchange_is_seen(tunnelled, kind):
    peers = {each.path: each.peer for each in tunnelled.asked}
    spans = [
        span["attributes"]
        for span in tunnelled.capture.of_kind(kind)
        if span["attributes"]["http.request.method"] != "CONNECT"
    ]
    seen = {
        path_in(each): (
            each["http.request.method"],
            each["http.response.status_code"],
            each["wirespan.completeness"],
            each["network.peer.port"],
        )
        for each in spans
    }
    assert len(seen) == len(spans)
    assert seen == {
        ask.path: (
            *(ask.method, ask.status, "complete"),
            peers[ask.path] if kind == "server" else tunnelled.proxy,
        )
        for ask in tunnelled.asks
    }


@each_kind
def test_the_way_into_a_tunnel_is_an_exchange_of_its_own(tunnelled, kind):
    (span,) = [each for each in tunnelled.capture.of_kind(kind) if each["name"] == "CONNECT"]
    assert span["attributes"]["http.response.status_code"] == 200
    other = tunnelled.proxy if kind == "client" else span["attributes"]["network.peer.port"]
    assert span["attributes"]["network.peer.port"] == other
