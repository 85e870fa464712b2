# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from math import inf

import pytest

from exporters.map_model import Buckets, NodeKind, NodeName, ServiceMap, make_map
from tests.exporters import maps


def test_a_node_is_what_the_end_that_knows_most_says():
    name = NodeName("postgres")
    kinds = [(name, NodeKind.EXTERNAL), (name, NodeKind.DATABASE), (name, NodeKind.SERVICE)]
    (node,) = make_map(0, 1, kinds, []).nodes
    assert node.kind is NodeKind.DATABASE


def test_nodes_and_edges_come_in_order_of_names():
    found = maps.service_map(maps.edge("b", "c"), maps.edge("b", "a"), maps.edge("a", "z"))
    assert [node.name.name for node in found.nodes] == ["a", "b", "c", "z"]
    assert [edge.ends[:2] for edge in found.edges] == [
        (("a", ""), ("z", "")),
        (("b", ""), ("a", "")),
        (("b", ""), ("c", "")),
    ]


def test_equal_names_in_two_namespaces_are_two_nodes():
    kinds = [(NodeName("api", "a"), NodeKind.SERVICE), (NodeName("api", "b"), NodeKind.SERVICE)]
    assert [str(node.name) for node in make_map(0, 1, kinds, []).nodes] == ["a/api", "b/api"]


def test_a_rate_is_of_a_second_at_least():
    edge = maps.edge(count=10)
    assert ServiceMap(0, 1000, [], [edge]).rate(edge) == 10
    assert ServiceMap(0, 4 * maps.S, [], [edge]).rate(edge) == 2.5


def test_an_edge_without_exchanges_has_no_errors():
    assert maps.edge(count=0).error_share == 0
    assert maps.edge(count=4, errors=1).error_share == 0.25


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1, 1, (0.0, 1.0)),
        (10, 10, (0.0, 1.0)),
        (10.5, 11, (1.0, 2.0)),
        (5, 30, (0.0, 4.0)),
        (31, 31, (4.0, inf)),
        (-3, 5, (0.0, 1.0)),
    ],
)
def test_a_rank_lies_between_the_ends_of_its_bucket(low, high, expected):
    assert Buckets((1.0, 2.0, 4.0), (10, 10, 10)).between(low, high) == expected
