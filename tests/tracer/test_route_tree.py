# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.route_segments import split
from tracer.route_tree import MAX_ROUTE_CHARS, TIMES_GROWN, RouteTree


def learn(tree, *paths):
    return [tree.learn(split(path)) for path in paths]


def find(tree, path):
    return tree.find(split(path))


def count(node):
    below = [*node.children.values(), *([node.any] if node.any else [])]
    return 1 + sum(map(count, below))


def names(number, prefix="n"):
    """So many words; without digits, that no segment is an id."""
    letters = "ghijklmnop"
    return [prefix + "".join(letters[int(d)] for d in f"{i:05}") for i in range(number)]


def test_words_and_ids_are_routes_at_once():
    tree = RouteTree()
    assert learn(tree, "/", "/users", "/users/7", "/users/8/orders") == [
        "/",
        "/users",
        "/users/{id}",
        "/users/{id}/orders",
    ]
    assert tree.routes() == ["/", "/users", "/users/{id}", "/users/{id}/orders"]


def test_only_what_a_path_has_ended_at_is_known():
    tree = RouteTree()
    learn(tree, "/users/7/orders")
    assert find(tree, "/users/9/orders") == "/users/{id}/orders"
    assert find(tree, "/users/9") is None
    assert find(tree, "/users") is None
    assert find(tree, "/") is None
    assert find(tree, "/users/7/orders/1") is None
    assert find(tree, "/users/alice/orders") is None


def test_looking_up_teaches_nothing():
    tree = RouteTree()
    learn(tree, "/a")
    for name in names(100):
        assert find(tree, f"/{name}") is None
    assert (tree.nodes, tree.changes, tree.merged) == (2, 1, 0)


def test_place_with_many_words_holds_values():
    tree = RouteTree(fan_out=10)
    people = names(30)
    first = learn(tree, *[f"/users/{name}/orders" for name in people])
    assert first[9] == f"/users/{people[9]}/orders"
    assert set(first[10:]) == {"/users/*/orders"}
    assert find(tree, f"/users/{people[0]}/orders") == "/users/*/orders"
    assert find(tree, "/users/nobody/orders") == "/users/*/orders"
    assert tree.merged == 1
    assert tree.nodes == 4 == count(tree._root)


def test_star_that_was_asked_for_makes_no_values():
    tree = RouteTree(fan_out=3)
    assert learn(tree, "/*", "/a", "/b") == ["/*", "/a", "/b"]
    assert learn(tree, "/c", "/*", "/d/*") == ["/*", "/*", "/*/*"]


def test_what_followed_values_is_merged():
    tree = RouteTree(fan_out=3)
    learn(tree, "/a/x", "/b/y/z", "/c/x/7", "/d")
    assert sorted(tree.routes()) == ["/*", "/*/x", "/*/x/{id}", "/*/y/z"]
    assert tree.nodes == count(tree._root)


def test_merging_makes_places_of_values_below():
    tree = RouteTree(fan_out=3)
    learn(tree, "/a/e", "/a/f", "/b/g", "/b/h", "/c", "/d")
    assert sorted(tree.routes()) == ["/*", "/*/*"]
    assert tree.nodes == count(tree._root) == 3


def test_merging_keeps_places_of_values_below():
    tree = RouteTree(fan_out=3)
    learn(tree, "/a/e", "/a/f", "/a/g", "/a/h", "/b/i", "/c", "/d")
    assert sorted(tree.routes()) == ["/*", "/*/*"]


def test_ids_keep_their_name_beside_values():
    tree = RouteTree(fan_out=3)
    learn(tree, "/users/7", "/users/a", "/users/b", "/users/c", "/users/d")
    assert sorted(tree.routes()) == ["/users/*", "/users/{id}"]
    assert learn(tree, "/users/8/x", "/users/e/x") == ["/users/{id}/x", "/users/*/x"]


def test_routes_in_use_keep_their_name_when_a_scanner_is_answered():
    tree = RouteTree()
    learn(tree, *[f"/users/{i}" for i in range(500)], *[f"/api/{i}/x" for i in range(500)])
    learn(tree, *[f"/{name}" for name in names(1000)])
    assert sorted(tree.routes()) == ["/*", "/api/{id}/x", "/users/{id}"]


def test_names_of_users_do_not_stay_because_each_is_used_much():
    tree = RouteTree()
    for _ in range(100):
        learn(tree, *[f"/users/{name}" for name in names(40)])
    learn(tree, "/users/another")
    assert tree.routes() == ["/users/*"]


def test_full_tree_merges_where_that_frees_the_most():
    tree = RouteTree(max_nodes=200)
    kinds = names(8, "kind")
    for space in names(30, "space"):
        learn(tree, *[f"/api/namespaces/{space}/{kind}/7" for kind in kinds])
    assert sorted(tree.routes()) == [f"/api/namespaces/*/{kind}/{{id}}" for kind in kinds]
    assert tree.cut == 0


def test_new_paths_of_a_full_tree_keep_their_first_segments():
    tree = RouteTree(max_nodes=22)
    for a in names(3, "a"):
        learn(tree, *[f"/{a}/{b}/c" for b in names(3, "b")])
    known = set(tree.routes())
    assert learn(tree, "/aggggg/bggggg/new/x") == ["/aggggg/bggggg/**"]
    assert learn(tree, "/aggggg/new/x") == ["/aggggg/**"]
    assert learn(tree, "/new/x") == ["/**"]
    assert tree.cut == 3
    assert find(tree, "/new/x") is None
    assert known <= set(tree.routes())
    assert learn(tree, *known) == list(known)
    assert tree.nodes <= 22


def test_tree_that_was_merged_again_and_again_grows_no_more():
    tree = RouteTree(max_nodes=80, fan_out=10)
    routes = set()
    for depth in range(20):
        routes.update(learn(tree, *["/1" * depth + f"/{name}" for name in names(11)]))
    assert tree.merged > 10
    assert tree.nodes < 60
    assert len(routes) <= 80 * TIMES_GROWN
    assert learn(tree, "/1" * 20 + "/x", "/1/x") == ["/{id}/{id}/**", "/{id}/*"]


def test_behind_many_values_few_words_are_values():
    tree = RouteTree(fan_out=10)
    for a, b, c in zip(names(11, "a"), names(11, "b"), names(11, "c"), strict=True):
        learn(tree, f"/{a}", f"/a/{b}", f"/a/a/{c}")
    assert tree.routes() == ["/*", "/*/*", "/*/*/*"]
    learn(tree, *[f"/a/a/a/{name}" for name in names(9)])
    assert tree.routes() == ["/*", "/*/*", "/*/*/*", "/*/*/*/*"]


def test_routes_are_no_longer_than_their_bound():
    tree = RouteTree()
    word = "w" * 60
    (route,) = learn(tree, f"/{word}" * 10)
    assert route == f"/{word}" * 4 + "/**"
    assert len(route) <= MAX_ROUTE_CHARS
    assert learn(tree, f"/{word}" * 5, route) == [route, route]
    assert find(tree, f"/{word}" * 9) == route


def test_any_number_of_random_paths_makes_few_routes():
    chance = random.Random(7)
    tree = RouteTree()
    routes = set()
    for _ in range(20_000):
        path = "".join(chance.choices("abcdefghij/-_.0123", k=chance.randrange(2, 40)))
        routes.update(learn(tree, path))
    assert len(routes) < 1000
    assert tree.nodes == count(tree._root) <= 600


@pytest.mark.parametrize("max_nodes", [10, 100])
def test_paths_made_to_fill_the_tree_do_not_get_past_its_bound(max_nodes):
    tree = RouteTree(max_nodes, 5)
    chance = random.Random(7)
    routes = set()
    for i in range(20_000):
        # Never wider than the bound at one place, so that little is merged.
        path = "".join(f"/{chance.choice('ghijk')}{'x' * (i % 7)}" for _ in range(i % 9))
        routes.update(learn(tree, path))
    # Made nodes, those made by the last merge, and cut ones.
    assert len(routes) <= max_nodes * (TIMES_GROWN + 2)
    assert tree.nodes == count(tree._root) <= max_nodes + 5


PATHS = st.lists(
    st.lists(st.sampled_from([*"abcdefgh", "1", "*", "**", "{id}", "x" * 64]), max_size=6).map(
        lambda segments: "/" + "/".join(segments)
    ),
    max_size=60,
)


@given(PATHS, st.integers(2, 40), st.integers(1, 6))
def test_every_sequence_keeps_the_bounds_and_the_count(paths, max_nodes, fan_out):
    tree = RouteTree(max_nodes, fan_out)
    routes = set()
    for path in paths:
        (route,) = learn(tree, path)
        routes.add(route)
        assert route.startswith("/")
        assert len(route) <= MAX_ROUTE_CHARS
        assert tree.nodes == count(tree._root) <= max_nodes + 1
        assert find(tree, path) == route or (tree.cut and route.endswith("/**"))
    assert len(routes) <= max_nodes * (TIMES_GROWN + 2)
    again = RouteTree(max_nodes, fan_out)
    learn(again, *paths)
    assert again.routes() == tree.routes()


@given(PATHS, st.integers(1, 6))
def test_route_of_a_route_is_the_route(paths, fan_out):
    tree = RouteTree(fan_out=fan_out)
    for path in paths:
        (route,) = learn(tree, path)
        merged = tree.merged
        assert learn(tree, route) == [route] or tree.merged != merged


def test_limit_stops_growth_and_keeps_what_is_known():
    tree = RouteTree()
    learn(tree, "/a/b", "/c")
    tree.limit(5)
    tree.limit(100)
    assert learn(tree, "/d", "/e", "/a/b", "/a/e") == ["/d", "/**", "/a/b", "/a/**"]
    assert (tree.grown, tree.cut) == (5, 2)


@given(st.integers(0, 2**32), st.integers(2, 26), st.integers(1, 6))
def test_all_routes_of_a_life_are_bounded(seed, letters, depth):
    tree = RouteTree(8, fan_out=3)
    chance = random.Random(seed)
    made = set()
    for _ in range(300):
        path = [chr(ord("a") + chance.randrange(letters)) for _ in range(chance.randint(1, depth))]
        made.add(tree.learn(path))
    assert len(made) <= 2 * (TIMES_GROWN + 1) * 8
