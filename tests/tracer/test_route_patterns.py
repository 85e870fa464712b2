# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.route_patterns import MAX_PATTERN_CHARS, MAX_PATTERNS, RoutePatterns
from tracer.route_segments import MAX_SEGMENTS, split


def find(patterns, path, method="GET", service="shop"):
    return RoutePatterns(patterns).find(split(path), method, service)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/", "/"),
        ("/users", "/users"),
        ("/users", "/users/"),
        ("/users/", "/users"),
        ("/users/{id}", "/users/alice"),
        ("/users/{user-id}", "/users/alice"),
        ("/users/{id:[0-9]+}", "/users/4"),
        ("/users/{id?}", "/users/4"),
        ("/users/:id", "/users/alice"),
        ("/users/<id>", "/users/alice"),
        ("/users/<int:id>", "/users/4"),
        ("/users/<string(length=2):lang>", "/users/en"),
        ("/users/*", "/users/alice"),
        ("/users/*/orders", "/users/alice/orders"),
        ("/reports/{name}.pdf", "/reports/may.pdf"),
        ("/jobs/{id}:cancel", "/jobs/4:cancel"),
        ("/Products({key})", "/Products(4)"),
        ("/files/**", "/files/a/b/c"),
        ("/files/**", "/files"),
        ("/files/{path...}", "/files/a/b"),
        ("/files/{*path}", "/files/a/b"),
        ("/files/{path:path}", "/files/a/b"),
        ("/files/{path:.*}", "/files/a/b"),
        ("/files/<path:name>", "/files/a/b"),
        ("/files/*path", "/files/a/b"),
        ("/**", "/"),
        ("/a;x=1/b", "/a/b;y=2"),
    ],
)
def test_route_is_the_pattern_as_it_is_written(pattern, path):
    assert find([pattern], path) == pattern


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/users", "/"),
        ("/users", "/users/1"),
        ("/users/{id}", "/users"),
        ("/users/{id}", "/users/1/orders"),
        ("/users/*", "/users/1/orders"),
        ("/Users", "/users"),
        ("/reports/{name}.pdf", "/reports/.pdf"),
        ("/reports/{name}.pdf", "/reports/may.txt"),
        ("/files/**", "/file"),
    ],
)
def test_paths_of_another_form_do_not_match(pattern, path):
    assert find([pattern], path) is None


def test_most_specific_pattern_wins_whatever_the_order():
    patterns = [
        "/**",
        "/a/**",
        "/a/*",
        "/a/{id}",
        "/a/{id}.txt",
        "/a/b-{id}.txt",
        "/a/b-1.txt",
        "/{x}/c",
        "/a/{id}/c",
    ]
    for order in (patterns, patterns[::-1]):
        assert find(order, "/a/b-1.txt") == "/a/b-1.txt"
        assert find(order, "/a/b-2.txt") == "/a/b-{id}.txt"
        assert find(order, "/a/c.txt") == "/a/{id}.txt"
        assert find(order, "/a/c") == "/a/{id}"
        assert find(order, "/b/c") == "/{x}/c"
        assert find(order, "/a/b/c") == "/a/{id}/c"
        assert find(order, "/a/b/d") == "/a/**"
        assert find(order, "/b/d") == "/**"
    assert find(["/a/*", "/a/**"], "/a/b") == "/a/*"


def test_less_specific_pattern_is_taken_where_the_other_leads_nowhere():
    assert find(["/users/me", "/{kind}/{id}/items"], "/users/me/items") == "/{kind}/{id}/items"
    assert find(["POST /users/me", "/users/{id}"], "/users/me") == "/users/{id}"


def test_method_and_service_restrict():
    patterns = ["/x/{any}", "GET /x/{get}", "shop:/x/{shop}", "GET shop:/x/{both}"]
    assert find(patterns, "/x/1", "GET", "shop") == "/x/{both}"
    assert find(patterns, "/x/1", "PUT", "shop") == "/x/{shop}"
    assert find(patterns, "/x/1", "GET", "stock") == "/x/{get}"
    assert find(patterns, "/x/1", "PUT", "stock") == "/x/{any}"
    assert find(["GET /x"], "/x", "PUT") is None
    assert find(["[::1]:/x", "api.example.com:/x/**"], "/x", service="[::1]") == "/x"
    assert find(["api.example.com:/x/**"], "/x/y", service="api.example.com") == "/x/**"


@pytest.mark.parametrize(
    ("pattern", "remedy"),
    [
        ("", "begins with /"),
        ("users", "begins with /"),
        ("get /users", "begins with /"),
        ("GET", "begins with /"),
        ("/a b", "begins with /"),
        ("http://shop/users", "leave out scheme and host"),
        ("/users?id={id}", "leave out the query"),
        ("/users#top", "leave out the query"),
        ("/a/**/b", "last segment"),
        ("/a/{path...}/b", "last segment"),
        ("/{a}-{b}", "{name} for one value"),
        ("/{a", "{name} for one value"),
        ("/a*b", "{name} for one value"),
        ("/{}", "{name} for one value"),
        ("/" + "a" * MAX_PATTERN_CHARS, "end it earlier"),
        ("/a" * MAX_SEGMENTS, "end it earlier"),
        ("/a" * (MAX_SEGMENTS + 5), "end it earlier"),
    ],
)
def test_errors_name_the_pattern_and_say_what_to_write(pattern, remedy):
    with pytest.raises(ValueError) as error:
        RoutePatterns([pattern])
    assert remedy in str(error.value)
    assert pattern[:40] in str(error.value)


def test_two_patterns_of_the_same_paths_are_refused():
    with pytest.raises(ValueError, match="remove one"):
        RoutePatterns(["/users/{id}", "/users/:name"])
    RoutePatterns(["/users/{id}", "/users/{id}", "POST /users/{name}", "shop:/users/{name}"])


def test_too_many_patterns_are_refused():
    RoutePatterns([f"/{i}" for i in range(MAX_PATTERNS)])
    with pytest.raises(ValueError, match="in the place of what differs"):
        RoutePatterns([f"/{i}" for i in range(MAX_PATTERNS + 1)])


def test_no_path_is_looked_up_in_more_than_the_nodes_of_the_tree():
    choices = ("a", "{x}", "*")
    patterns = ["/" + "/".join(choices[(i >> d) % 3] for d in range(22)) + "/z" for i in range(999)]
    patterns = RoutePatterns(dict.fromkeys(patterns))
    start = time.perf_counter()
    assert patterns.find(["a"] * 23, "GET", "") is None
    assert time.perf_counter() - start < 1


@given(
    st.lists(st.text("ab*{}:<>/.?# GET", max_size=12).map(lambda text: "/" + text), max_size=4),
    st.text("ab*{}:<>/.", max_size=12),
)
def test_any_text_is_a_pattern_or_an_error_in_words(patterns, path):
    try:
        found = find(patterns, path)
    except ValueError:
        return
    assert found is None or any(found in pattern for pattern in patterns)
