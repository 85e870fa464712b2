# SPDX-License-Identifier: Apache-2.0
"""What a span adds to its edge of the service graph."""

from __future__ import annotations

import pytest

from exporters.service_graph import (
    CLIENT_SECONDS,
    FAILED,
    REQUESTS,
    SERVER_SECONDS,
    edge_metrics,
)
from parsers.model import Side
from tests.exporters import samples
from tracer.span import SpanKind

SHOP = samples.process("shop", 1, **{"service.namespace": "front"})
CART = samples.process("cart", 2)
SQL = {"db.system.name": "postgresql"}


def client(**changes):
    values = {"process": SHOP, "peering": samples.peering(Side.CLIENT), "peer_name": "cart"}
    return samples.span(**{**values, **changes})


def server(**changes):
    return samples.span(**{"process": CART, "peer_name": "shop", **changes})


def labels(span):
    return dict(edge_metrics(span).labels)


def test_seen_from_both_ends_the_client_counts_and_each_has_its_duration():
    asks = edge_metrics(client(peer=CART))
    answers = edge_metrics(server(peer=SHOP))
    assert asks.labels == answers.labels
    assert asks[1:] == ((REQUESTS,), (CLIENT_SECONDS,))
    assert answers[1:] == ((), (SERVER_SECONDS,))


def test_labels_are_those_of_tempo_with_namespaces_where_there_are_some():
    assert labels(client(peer=CART)) == {
        "client": "shop",
        "client_service_namespace": "front",
        "connection_type": "",
        "server": "cart",
    }
    other = samples.process("cart", 3, **{"service.namespace": "back"})
    assert labels(client(peer=other))["server_service_namespace"] == "back"


@pytest.mark.parametrize("span", [client(peer=CART), client(), server(), server(peer=SHOP)])
def test_labels_are_in_order(span):
    found = edge_metrics(span).labels
    assert list(found) == sorted(found)


def test_a_server_that_is_not_seen_takes_as_long_as_its_client_waits():
    found = edge_metrics(client(peer_name="api.example.org"))
    assert found.counters == (REQUESTS,)
    assert set(found.histograms) == {CLIENT_SECONDS, SERVER_SECONDS}
    assert dict(found.labels)["connection_type"] == "virtual_node"


def test_a_database_is_one_and_takes_as_long_as_its_client_waits():
    found = edge_metrics(client(peer_name="pg", outline=samples.outline(attributes=SQL)))
    assert dict(found.labels)["connection_type"] == "database"
    assert dict(found.labels)["server"] == "pg"
    assert set(found.histograms) == {CLIENT_SECONDS, SERVER_SECONDS}


def test_a_client_that_is_not_seen_is_the_user_and_the_server_counts():
    found = edge_metrics(server(peer_name=""))
    assert found[1:] == ((REQUESTS,), (SERVER_SECONDS,))
    assert dict(found.labels) == {
        "client": "user",
        "connection_type": "virtual_node",
        "server": "cart",
    }


def test_an_error_is_a_failed_request_where_requests_are_counted():
    failed = samples.outline(error_type="500")
    assert edge_metrics(client(peer=CART, outline=failed)).counters == (REQUESTS, FAILED)
    assert edge_metrics(server(peer=SHOP, outline=failed)).counters == ()


def test_an_exchange_of_which_nobody_knows_who_asked_has_no_edge():
    assert edge_metrics(samples.span(kind=SpanKind.INTERNAL)) is None
