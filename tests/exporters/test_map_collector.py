# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading

import pytest

from exporters import map_collector
from exporters.map_collector import COARSE, FINE_SLOTS, MAX_UNNAMED, SLOT_NS, Collector
from exporters.map_model import NodeKind, NodeName
from parsers.model import Completeness, Side
from tests.exporters import samples
from tests.exporters.maps import S, client_span, server_span

SHOP, STOCK, POSTGRES = (
    samples.process(name, pid) for pid, name in enumerate(["shop", "stock", "postgres"], 100)
)
SQL = samples.outline("SELECT", attributes={"db.system.name": "postgresql"})
T = samples.START_NS // (COARSE * SLOT_NS) * COARSE * SLOT_NS
"""Where a minute begins."""


class Clock:
    def __init__(self, now_ns):
        self.now_ns = now_ns

    def __call__(self):
        return self.now_ns


def collected(*spans, **options):
    made = Collector(options.pop("kept_s", None), clock=Clock(T + 10**18), **options)
    made.add(spans)
    return made


def snapshot(*spans):
    return collected(*spans).snapshot()


def edges(service_map):
    return {
        (edge.ends.client.name, edge.ends.server.name, edge.ends.protocol): edge
        for edge in service_map.edges
    }


def kinds(service_map):
    return {node.name.name: node.kind for node in service_map.nodes}


def at(seconds, client=SHOP, server="api.example.com", **changes):
    return client_span(client, server, end_ns=T + int(seconds * S), **changes)


def twin_span(server, client, **changes):
    """What the server saw of an exchange of which there is the client's span too."""
    span = server_span(server, client, **changes)
    span.twin = True
    return span


def test_what_both_ends_saw_is_one_exchange():
    found = snapshot(
        client_span(SHOP, STOCK, took_ns=2_000_000),
        twin_span(STOCK, SHOP, took_ns=1_000_000),
    )
    (edge,) = found.edges
    assert (edge.count, edge.seen_by) == (1, "both")
    assert edge.latency.p50_s == pytest.approx(0.002, rel=0.03)
    assert edge.server_latency.p50_s == pytest.approx(0.001, rel=0.03)
    assert kinds(found) == {"shop": NodeKind.SERVICE, "stock": NodeKind.SERVICE}


def test_what_the_server_alone_saw_counts_with_its_time():
    (edge,) = snapshot(server_span(STOCK, took_ns=1_000_000)).edges
    assert (edge.count, edge.seen_by, edge.server_latency) == (1, "server", None)
    assert edge.latency.p50_s == pytest.approx(0.001, rel=0.03)


def test_the_servers_view_counts_where_the_clients_spans_were_filtered_away():
    (edge,) = snapshot(twin_span(STOCK, SHOP), twin_span(STOCK, SHOP)).edges
    assert (edge.count, edge.seen_by) == (2, "server")


def test_views_of_one_edge_add_up():
    named = server_span(STOCK, took_ns=3_000_000)
    named.peer_name = "shop"
    (edge,) = snapshot(client_span(SHOP, STOCK), twin_span(STOCK, SHOP), named).edges
    assert (edge.count, edge.seen_by) == (2, "both")
    assert sum(edge.server_latency.buckets.counts) == 2


def test_a_server_that_was_not_seen_is_external():
    found = snapshot(client_span(SHOP, "api.example.com"))
    assert kinds(found) == {"shop": NodeKind.SERVICE, "api.example.com": NodeKind.EXTERNAL}


@pytest.mark.parametrize(
    "span",
    [
        client_span(SHOP, POSTGRES, outline=SQL),
        client_span(SHOP, "postgres", outline=SQL),
        server_span(POSTGRES, SHOP, outline=SQL),
    ],
)
def test_who_answers_queries_is_a_database(span):
    assert kinds(snapshot(span)) == {"shop": NodeKind.SERVICE, "postgres": NodeKind.DATABASE}


def test_protocols_are_edges_of_their_own():
    found = snapshot(
        client_span(SHOP, STOCK, protocol="grpc"), client_span(SHOP, STOCK, protocol="http")
    )
    assert list(edges(found)) == [("shop", "stock", "grpc"), ("shop", "stock", "http")]


def test_processes_of_one_name_are_one_node_and_namespaces_tell_apart():
    again = samples.process("shop", 9)
    other = samples.process("shop", 10, **{"service.namespace": "test"})
    found = snapshot(*[client_span(each, STOCK) for each in (SHOP, again, other)])
    assert [(str(edge.ends.client), edge.count) for edge in found.edges] == [
        ("shop", 2),
        ("test/shop", 1),
    ]


def test_a_span_of_which_nobody_knows_who_asked_is_counted_and_not_shown():
    made = collected(samples.span(peering=samples.peering(Side.UNKNOWN)))
    assert not made.snapshot().edges
    assert made.counters()["spans_without_edge"] == 1
    assert made.counters()["spans_mapped"] == 0


def test_a_private_address_says_who_asks():
    found = snapshot(server_span(STOCK, address="10.0.0.7"), server_span(STOCK, address="::1"))
    assert kinds(found) == {
        "10.0.0.7": NodeKind.EXTERNAL,
        "::1": NodeKind.EXTERNAL,
        "stock": NodeKind.SERVICE,
    }


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860::1", "::ffff:8.8.8.8", "", "/run/x"])
def test_public_clients_and_those_without_an_address_are_users(address):
    found = snapshot(server_span(STOCK, address=address))
    assert kinds(found) == {"user": NodeKind.USER, "stock": NodeKind.SERVICE}


@pytest.mark.parametrize("address", ["::ffff:10.1.2.3", "fe80::1%eth0", "127.0.0.1"])
def test_private_addresses_are_known_in_every_notation(address):
    assert address in kinds(snapshot(server_span(STOCK, address=address)))


def test_clients_beyond_a_bound_are_all_users():
    spans = [server_span(STOCK, address=f"10.0.0.{n}") for n in range(MAX_UNNAMED)]
    assert len(snapshot(*spans).edges) == MAX_UNNAMED
    made = collected(*spans, server_span(SHOP, address="10.0.0.1"))
    made.add([server_span(STOCK, address="10.0.1.1")])
    found = made.snapshot()
    assert edges(found).keys() == {("user", "stock", "http"), ("10.0.0.1", "shop", "http")}
    assert edges(found)["user", "stock", "http"].count == MAX_UNNAMED + 1
    assert kinds(found)["user"] is NodeKind.USER


def test_edges_beyond_the_bound_are_one(monkeypatch):
    monkeypatch.setattr(map_collector, "MAX_EDGES", 3)
    made = collected(*[client_span(SHOP, f"host{n}") for n in range(5)])
    found = made.snapshot()
    assert edges(found)["other", "other", "other"].count == 2
    assert len(found.edges) == 4
    assert made.counters()["spans_mapped_as_other"] == 2


def test_servers_with_unnamed_clients_are_bounded(monkeypatch):
    monkeypatch.setattr(map_collector, "MAX_EDGES", 2)
    processes = [samples.process(f"p{n}", n) for n in range(4)]
    made = collected(*[server_span(each) for each in processes])
    assert sum(edge.count for edge in made.snapshot().edges) == 4
    assert len(made._unnamed) == 2


def test_names_are_cut_where_nobody_would_read_on():
    found = snapshot(client_span(SHOP, "x" * 5000))
    (name,) = kinds(found).keys() - {"shop"}
    assert len(name) == map_collector.MAX_NAME


def test_adds_up_in_parts_as_at_once(monkeypatch):
    spans = [at(n / 10, took_ns=10_000 + n * 777, rtt_us=0) for n in range(400)]
    whole = collected(*spans, kept_s=3600).snapshot()
    monkeypatch.setattr(map_collector, "MAX_PENDING", 7)
    parts = collected(kept_s=3600)
    for number in range(0, 400, 3):
        parts.add(spans[number : number + 3])
    assert parts.snapshot() == whole


def test_waiting_spans_are_bounded():
    made = collected()
    for _ in range(3):
        made.add([client_span(SHOP, STOCK)] * 1000)
        assert len(made._pending) < map_collector.MAX_PENDING


def test_a_snapshot_does_not_change_any_more():
    made = collected(at(0), at(0, completeness=Completeness.GAP), kept_s=3600)
    before = made.snapshot()
    counts = [edge.count for edge in before.edges]
    taken = {number: dict(slot) for number, slot in made._slots.items()}
    made.add([at(0), at(5)])
    assert [edge.count for edge in made.snapshot().edges] == [4]
    assert [edge.count for edge in before.edges] == counts == [2]
    assert [tally.count for slot in taken.values() for tally in slot.values()] == [2]


def test_a_recording_ends_with_its_last_span():
    found = collected(at(0), at(40)).snapshot()
    assert found.end_unix_ns == T + 40 * S
    assert found.start_unix_ns == T - 1_000_000


def test_live_data_ends_now():
    clock = Clock(T)
    made = Collector(clock=clock)
    made.add([at(1)])
    clock.now_ns = T + 30 * S
    found = made.snapshot()
    assert (found.start_unix_ns, found.end_unix_ns) == (T, T + 30 * S)
    assert found.rate(found.edges[0]) == pytest.approx(1 / 30)


def test_live_time_begins_with_the_capture():
    clock = Clock(T)
    made = Collector(clock=clock)
    clock.now_ns = T + 5 * S
    made.begin()
    made.add([at(6)])
    clock.now_ns = T + 15 * S
    found = made.snapshot()
    assert (found.start_unix_ns, found.end_unix_ns) == (T + 5 * S, T + 15 * S)


def test_an_idle_machine_has_an_empty_map():
    clock = Clock(T)
    made = Collector(clock=clock)
    clock.now_ns = T + 60 * S
    found = made.snapshot(30)
    assert not found.edges
    assert (found.start_unix_ns, found.end_unix_ns) == (T + 30 * S, T + 60 * S)


def test_since_leaves_out_what_is_older():
    made = collected(*[at(n * 10 + 5, server=f"host{n}") for n in range(10)], kept_s=3600)
    names = [edge.ends.server.name for edge in made.snapshot(25).edges]
    assert names == ["host7", "host8", "host9"]
    found = made.snapshot(25)
    assert found.start_unix_ns == T + 70 * S
    assert len(made.snapshot().edges) == len(made.snapshot(10_000).edges) == 10


def test_since_counts_from_now_where_data_is_live():
    clock = Clock(T)
    made = Collector(clock=clock)
    made.add([at(5)])
    clock.now_ns = T + 120 * S
    assert not made.snapshot(60).edges
    assert made.snapshot(120).edges


def test_an_hour_is_kept_and_no_more():
    made = collected(at(5, server="old"), kept_s=3600)
    made.add([at(3590, server="new")])
    assert len(made.snapshot().edges) == 2
    made.add([at(3700, server="new")])
    assert [edge.ends.server.name for edge in made.snapshot().edges] == ["new"]
    assert all(ends.server.name != "old" for ends in made._edges)


def test_what_comes_much_too_late_is_counted():
    made = collected(at(4000), kept_s=3600)
    made.snapshot()
    made.add([at(10)])
    assert sum(edge.count for edge in made.snapshot().edges) == 1
    assert made.counters()["spans_dropped_old"] == 1


def test_what_comes_late_falls_into_its_slot():
    made = collected(at(2000), kept_s=3600)
    made.snapshot()
    made.add([at(35), at(1000), at(1990)])
    assert sum(edge.count for edge in made.snapshot().edges) == 4
    assert sum(edge.count for edge in made.snapshot(30).edges) == 2


def test_without_a_bound_everything_is_kept():
    made = collected(at(0), at(100_000), at(50))
    assert sum(edge.count for edge in made.snapshot().edges) == 3


def test_old_slots_become_minutes():
    made = collected(kept_s=3600)
    for number in range(200):
        made.add([at(number * 10 + 1)])
        made.snapshot()
    assert len(made._slots) <= FINE_SLOTS + COARSE + 200 // COARSE
    assert made._tallies == sum(map(len, made._slots.values()))
    (edge,) = made.snapshot().edges
    assert edge.count == 200
    found = made.snapshot(1000)
    assert sum(edge.count for edge in found.edges) == pytest.approx(100, abs=COARSE)
    assert found.edges[0].count == (T + 2000 * S - found.start_unix_ns) // (10 * S)


def test_tallies_are_bounded_and_the_map_says_how_far_back_it_goes(monkeypatch):
    monkeypatch.setattr(map_collector, "MAX_TALLIES", 20)
    made = collected(kept_s=3600)
    for number in range(5):
        made.add([at(number * 10 + 1, server=f"host{n}") for n in range(8)])
        found = made.snapshot()
    assert made._tallies <= 20
    assert made.counters()["tallies_dropped_early"] == 24
    assert sum(edge.count for edge in found.edges) == 16
    assert found.start_unix_ns == T + 30 * S


def test_a_crowd_is_forgotten_with_its_hour():
    made = collected(kept_s=3600)
    made.add([server_span(STOCK, address=f"10.0.1.{n}", end_ns=T) for n in range(40)])
    assert edges(made.snapshot()).keys() == {("user", "stock", "http")}
    made.add([server_span(STOCK, address="10.0.0.1", end_ns=T + 4000 * S)])
    made.snapshot()
    made.add([server_span(STOCK, address="10.0.0.2", end_ns=T + 4001 * S)])
    assert {"10.0.0.1", "10.0.0.2"} <= {client for client, _, _ in edges(made.snapshot())}
    assert list(made._unnamed) == [NodeName("stock")]
    assert not made._crowded


def test_maps_are_taken_while_spans_come():
    made = collected(kept_s=3600)
    done = threading.Event()
    seen = []

    def look():
        while not done.is_set():
            seen.append(sum(edge.count for edge in made.snapshot().edges))

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(300):
        made.add([at(number / 3, server=f"host{n}") for n in range(30)])
    done.set()
    reader.join()
    assert seen == sorted(seen)
    assert sum(edge.count for edge in made.snapshot().edges) == 9000
