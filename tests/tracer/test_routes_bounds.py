# SPDX-License-Identifier: Apache-2.0
"""How many routes, owners and outlines there can be."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.model import Outline, Side
from tests.tracer.test_routes import apply, held, outline_of, route
from tracer.route_tree import MAX_NODES
from tracer.routes import MAX_ALL_NODES, Routes
from tracer.span import KIND_OF_SIDE, SpanKind

CLIENT = SpanKind.CLIENT
SERVER = SpanKind.SERVER


def test_outlines_are_bounded():
    routes = Routes(max_outlines=10)
    apply(routes, "/users/0")
    for i in range(24):
        apply(routes, f"/users/{i}" if i % 2 else f"/{i}", 200 if i % 2 else 404)
    assert held(routes)[1] == routes._outlines == 5
    assert routes.counters()["route_outlines_forgotten"] == 20


def test_owner_that_was_not_used_for_longest_makes_room():
    routes = Routes(max_owners=2)
    seen = outline_of("/a")
    routes.apply(seen, SERVER, "a")
    apply(routes, "/b", owner="b")
    apply(routes, "/c", owner="c")
    routes.apply(seen, SERVER, "b")
    assert list(routes._owners) == ["c", "b"]
    assert routes.counters()["route_owners_forgotten"] == 1


def test_owner_whose_outlines_are_all_known_counts_as_used():
    routes = Routes(max_owners=2)
    seen = outline_of("/a")
    for i in range(10):
        routes.apply(seen, SERVER, "busy")
        apply(routes, "/a", owner=f"host{i}")
    assert "busy" in routes._owners
    assert len(routes._owners) == 2


def words(chance, number=2):
    return "".join("/" + "".join(chance.choices("ghijklmnop", k=6)) for _ in range(number))


def bound(max_nodes=MAX_NODES, max_all_nodes=MAX_ALL_NODES):
    return 6 * max_all_nodes + 8 * max_nodes


def test_host_that_is_asked_takes_no_place_of_another():
    routes = Routes(max_owners=4)
    for i in range(20):
        apply(routes, "/users/1", owner=f"host{i}", side=Side.CLIENT)
    assert list(routes._owners) == ["host0", "host1"]
    for name in "abcde":
        apply(routes, "/users/1", owner=name)
    assert list(routes._owners) == ["b", "c", "d", "e"]
    assert routes.counters()["route_paths_shared"] == 18


def test_hosts_that_came_late_share_what_is_learnt():
    routes = Routes(max_owners=2, fan_out=3)
    for i in range(10):
        apply(routes, f"/users/{'ghijklmnop'[i]}", owner=f"host{i}", side=Side.CLIENT)
    for owner in ("host9", "new"):
        assert route(routes, "/users/x", owner=owner, side=Side.CLIENT) == "/users/*"
        assert route(routes, "/orders/7", owner=owner, side=Side.CLIENT) == "/orders/{id}"
    assert route(routes, "/users/x", owner="host0", side=Side.CLIENT) == "/users/x"


def test_patterns_of_one_host_are_not_of_those_that_share_its_tree():
    routes = Routes(["late:/a/{x}"], max_owners=2)
    apply(routes, "/", owner="first", side=Side.CLIENT)
    outline = outline_of("/a/b", side=Side.CLIENT)
    made = [routes.apply(outline, CLIENT, owner).name for owner in ("late", "later", "late")]
    assert made == ["GET /a/{x}", "GET /a/b", "GET /a/{x}"]


@pytest.mark.parametrize("hosts", [300, 3000, 100_000])
def test_crawl_makes_few_routes(hosts):
    routes = Routes()
    chance = random.Random(3)
    for i in range(200):
        apply(routes, f"/shop/{i}/item")
    names = {
        routes.apply(
            Outline(
                "GET",
                {
                    "http.request.method": "GET",
                    "http.response.status_code": 200,
                    "url.full": f"http://h{i % hosts}{words(chance)}",
                },
                None,
            ),
            CLIENT,
            f"h{i % hosts}",
        ).name
        for i in range(100_000)
    }
    assert len(names) < 5300
    assert routes._grown < MAX_ALL_NODES
    assert "shop" in routes._owners
    assert route(routes, "/shop/1/item") == "/shop/{id}/item"
    apply(routes, "/mine/1", owner="new")
    assert routes._owners["new"].tree.routes() == ["/mine/{id}"]


def test_when_all_nodes_were_made_nobody_gets_a_tree_and_each_has_its_share():
    routes = Routes(max_owners=4, max_all_nodes=24)
    apply(routes, "/a/b/c", owner="small")
    for i in "ghijklmnopqrstuvw":
        apply(routes, f"/{i}", owner="large")
    assert routes._grown < 24
    for i in "ghijklmn":
        apply(routes, f"/x/{i}", owner="large")
    assert routes._grown == 24
    apply(routes, "/users/1", owner="late")
    assert list(routes._owners) == ["small", "large"]
    assert route(routes, "/y", owner="large") == "/**"
    assert route(routes, "/g", owner="large") == "/g"
    assert route(routes, "/a/y", owner="small") == "/a/y"
    assert [route(routes, f"/a/{i}", owner="small") for i in "gh"] == ["/a/g", "/a/**"]
    assert route(routes, "/users/2", owner="late") == "/users/{id}"


@given(
    seed=st.integers(0, 2**32),
    letters=st.integers(2, 26),
    owners=st.integers(1, 60),
    depth=st.integers(1, 5),
    kinds=st.sampled_from([[Side.CLIENT], [Side.SERVER], [Side.CLIENT, Side.SERVER]]),
)
def test_no_sequence_makes_more_routes_than_the_bound(seed, letters, owners, depth, kinds):
    bounds = {"max_nodes": 6, "max_all_nodes": 12}
    routes = Routes(**bounds, max_owners=3, fan_out=3)
    chance = random.Random(seed)
    made = set()
    for _ in range(400):
        path = "".join(
            "/" + chr(ord("a") + chance.randrange(letters))
            for _ in range(chance.randrange(1, depth + 1))
        )
        outline = Outline("GET", {"http.request.method": "GET", "url.path": path}, None)
        outline.attributes["http.response.status_code"] = 200
        owner = f"host{chance.randrange(owners)}"
        routed = routes.apply(outline, KIND_OF_SIDE[chance.choice(kinds)], owner)
        made.add(routed.name)
    assert len(made) <= bound(**bounds)
    assert len(routes._owners) <= 3
    assert held(routes)[0] <= 12 * 3 + 8 * 6
