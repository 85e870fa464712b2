# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from exporters.map_assembly import Cell, Role, assemble
from exporters.map_model import Ends, NodeKind, NodeName
from exporters.map_tally import Tally
from tests.exporters import samples

T = samples.START_NS
ENDS = Ends(NodeName("shop"), NodeName("stock"), "grpc")


def tally(count, took_ns=1000, *, unnamed=False, kinds=(NodeKind.SERVICE, NodeKind.SERVICE)):
    made = Tally()
    made.add([samples.span(start_unix_ns=T, end_unix_ns=T + took_ns)] * count)
    made.client_kind, made.server_kind = kinds
    made.unnamed = unnamed
    return made


def assembled(*slots, crowded=()):
    return assemble(T, T + 1, slots, frozenset(map(NodeName, crowded)))


@pytest.mark.parametrize(
    ("counts", "count", "seen_by", "served"),
    [
        ({Role.CLIENT: 3}, 3, "client", None),
        ({Role.SERVER: 3}, 3, "server", None),
        ({Role.TWIN: 3}, 3, "server", None),
        ({Role.CLIENT: 3, Role.TWIN: 2}, 3, "both", 2),
        ({Role.CLIENT: 3, Role.SERVER: 4}, 7, "both", 4),
        ({Role.SERVER: 4, Role.TWIN: 2}, 4, "server", None),
        ({Role.CLIENT: 3, Role.SERVER: 4, Role.TWIN: 2}, 7, "both", 6),
    ],
)
def test_each_exchange_counts_once_whoever_saw_it(counts, count, seen_by, served):
    (edge,) = assembled({Cell(ENDS, role): tally(n) for role, n in counts.items()}).edges
    assert (edge.count, edge.seen_by) == (count, seen_by)
    own = edge.server_latency
    assert (None if own is None else sum(own.buckets.counts)) == served


def test_slots_add_up_and_stay_as_they_are():
    slots = [{Cell(ENDS, Role.CLIENT): tally(n)} for n in (1, 2, 3)]
    assert [edge.count for edge in assembled(*slots).edges] == [6]
    assert [edge.count for edge in assembled(*slots).edges] == [6]
    assert [slot[Cell(ENDS, Role.CLIENT)].count for slot in slots] == [1, 2, 3]


def test_a_node_is_the_most_that_any_slot_says_of_it():
    unseen = (NodeKind.SERVICE, NodeKind.EXTERNAL)
    found = assembled(
        {Cell(ENDS, Role.CLIENT): tally(1)}, {Cell(ENDS, Role.CLIENT): tally(1, kinds=unseen)}
    )
    assert {node.kind for node in found.nodes} == {NodeKind.SERVICE}


def test_of_a_crowd_no_address_is_shown():
    kinds = (NodeKind.EXTERNAL, NodeKind.SERVICE)
    slot = {
        Cell(Ends(NodeName(f"10.0.0.{n}"), NodeName(server), "http"), Role.SERVER): tally(
            1, unnamed=True, kinds=kinds
        )
        for n in range(3)
        for server in ("stock", "shop")
    }
    found = assembled(slot, crowded=["stock"])
    assert [(str(edge.ends.client), str(edge.ends.server), edge.count) for edge in found.edges] == [
        ("10.0.0.0", "shop", 1),
        ("10.0.0.1", "shop", 1),
        ("10.0.0.2", "shop", 1),
        ("user", "stock", 3),
    ]
    assert {node.kind for node in found.nodes if node.name.name == "user"} == {NodeKind.USER}
