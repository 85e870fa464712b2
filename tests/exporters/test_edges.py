# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from exporters.edges import DATABASE, USER, VIRTUAL, edge_of, is_counted
from parsers.model import Side
from tests.exporters import samples

SHOP = samples.process("shop", **{"service.namespace": "demo"})
STOCK = samples.process("stock")
DB = samples.outline(attributes={"db.system.name": "postgresql"})


def span(side=Side.CLIENT, **changes):
    return samples.span(peering=samples.peering(side), process=SHOP, **changes)


def test_both_ends_of_an_exchange_are_one_edge_and_counted_once():
    client = span(peer=STOCK, peer_name="stock")
    server = samples.span(process=STOCK, peer=SHOP, peer_name="shop")
    assert edge_of(client) == edge_of(server) == ("shop", "demo", "stock", "", "", "http")
    assert is_counted(client)
    assert not is_counted(server)


def test_a_server_whose_client_is_known_but_not_parsed_counts():
    assert is_counted(samples.span(process=STOCK, peer=SHOP, peer_name="shop", twin=False))


def test_a_server_whose_client_is_elsewhere_counts():
    server = span(Side.SERVER)
    assert edge_of(server) == (USER, "", "shop", "demo", VIRTUAL, "http")
    assert is_counted(server)


def test_a_named_client_and_a_named_server_elsewhere():
    assert edge_of(span(Side.SERVER, peer_name="worker.example")).client == "worker.example"
    edge = edge_of(span(peer_name="api.example"))
    assert (edge.server, edge.connection_type) == ("api.example", VIRTUAL)


def test_a_database_is_one_whether_it_is_seen_or_not():
    assert edge_of(span(outline=DB, peer_name="db.example")).connection_type == DATABASE
    assert edge_of(span(outline=DB, peer=STOCK, peer_name="stock")).connection_type == DATABASE


def test_where_nobody_knows_who_asked_there_is_no_edge():
    assert edge_of(span(Side.UNKNOWN)) is None
