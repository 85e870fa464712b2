# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.http_attributes import View, describe
from parsers.model import Endpoint, Outline, Side
from tracer.routes import Routes, path_of
from tracer.span import KIND_OF_SIDE, SpanKind

SERVER = SpanKind.SERVER
CLIENT = SpanKind.CLIENT


def outline_of(target, status=200, method="GET", side=Side.SERVER, host="shop", **fields):
    request = SimpleNamespace(
        method=method, target=target, version="1.1", fields={"host": host, **fields}
    )
    return describe(request, status, None, View(side, Endpoint("10.0.0.1", 80), redact=True))


def apply(routes, target, *args, owner="shop", side=Side.SERVER, **more):
    outline = outline_of(target, *args, side=side, **more)
    return routes.apply(outline, KIND_OF_SIDE[side], owner)


def route(routes, target, *args, **more):
    attributes = apply(routes, target, *args, **more).attributes
    return attributes.get("http.route", attributes.get("url.template"))


def held(routes):
    owners = [*routes._owners.values(), routes._shared]
    return (
        sum(owner.tree.nodes for owner in owners),
        sum(len(owner.routed) + len(owner.unknown) for owner in owners),
    )


def test_server_span_is_named_by_its_route():
    outline = outline_of("/users/4711?x=1")
    routed = Routes().apply(outline, SERVER, "shop")
    assert routed.name == "GET /users/{id}"
    assert routed.attributes == {**outline.attributes, "http.route": "/users/{id}"}
    assert routed.attributes["url.path"] == "/users/4711"
    assert outline.name == "GET"
    assert "http.route" not in outline.attributes


def test_client_span_is_named_by_its_template():
    outline = outline_of("/users/4711?x=1", side=Side.CLIENT)
    routed = Routes().apply(outline, CLIENT, "shop")
    assert routed.name == "GET /users/{id}"
    assert routed.attributes == {**outline.attributes, "url.template": "/users/{id}"}
    assert routed.attributes["url.full"] == "http://shop/users/4711?x=1"


def test_side_that_is_not_known_gets_the_route_of_a_server():
    assert "http.route" in apply(Routes(), "/users/1", side=Side.UNKNOWN).attributes


def test_rest_of_the_outline_stays():
    outline = outline_of("/x", 500, **{"x-forwarded-for": "203.0.113.9"})
    routed = Routes().apply(outline, SERVER, "shop")
    assert (routed.error_type, routed.client_address) == ("500", "203.0.113.9")
    assert routed.counts == outline.counts


def test_unknown_method_does_not_stand_in_the_name():
    assert apply(Routes(), "/users/1", 200, "BREW").name == "HTTP /users/{id}"


def test_same_outline_has_the_same_answer():
    routes = Routes(["/p/{x}"])
    for target, status in (("/users/1", 200), ("/p/1", 404), ("/nope", 404), ("*", 200)):
        outline = outline_of(target, status)
        routed = routes.apply(outline, SERVER, "shop")
        assert routes.apply(outline, SERVER, "shop") is routed
    assert routes.apply(outline, SERVER, "shop") is outline


def test_outline_of_two_services_has_an_answer_of_each():
    routes = Routes()
    outline = outline_of("/users/1")
    shop = routes.apply(outline, SERVER, "shop")
    stock = routes.apply(outline, SERVER, "stock")
    assert routes.apply(outline, SERVER, "shop") is shop is not stock
    assert routes.apply(outline, SERVER, "stock") is stock


def test_what_is_not_http_or_has_a_route_is_left_alone():
    routes = Routes(["/**"])
    for attributes in (
        {"rpc.system.name": "grpc", "rpc.method": "shop.Shop/Take"},
        {"db.system.name": "redis"},
        {},
        {"http.request.method": "GET", "url.path": "/a", "http.route": "/{x}"},
        {"http.request.method": "GET", "url.full": "http://a/a", "url.template": "/{x}"},
    ):
        outline = Outline("x", attributes, None)
        assert routes.apply(outline, SERVER, "shop") is outline
    assert held(routes) == (1, 0)
    assert not routes._owners


@pytest.mark.parametrize("side", [Side.SERVER, Side.CLIENT])
@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", "/", "/"),
        ("GET", "/?a=/b", "/"),
        ("GET", "http://shop", "/"),
        ("GET", "http://shop?a=/b", "/"),
        ("GET", "http://shop/users/1?a=/b", "/users/{id}"),
        ("GET", "http://u:p@shop:8080/users/1", "/users/{id}"),
        ("GET", "http://[::1]:8080/users/1", "/users/{id}"),
        ("GET", "//users//1//", "/users/{id}"),
        ("GET", "/users/1#a", "/users/{id}"),
        ("GET", "/redirect/http://x/y", "/redirect/http:/x/y"),
        ("OPTIONS", "*", None),
        ("CONNECT", "shop:443", None),
    ],
)
def test_forms_of_request_targets(side, method, target, expected):
    assert route(Routes(), target, 200, method, side=side) == expected


def test_path_that_is_not_known_has_no_route():
    outline = Outline("GET", {"http.request.method": "GET"}, None)
    assert path_of(outline.attributes) is None
    assert Routes(["/**"]).apply(outline, SERVER, "shop") is outline
    half = Outline("GET", {"http.request.method": "GET", "url.path": "/users/1"}, None)
    assert Routes(["/users/{x}"]).apply(half, CLIENT, "").attributes["url.template"] == "/users/{x}"
    assert path_of({"http.request.method": "GET", "url.path": "users"}) is None


REFUSALS = [0, 301, 308, 400, 401, 403, 404, 405, 429, 501, 502, 503, 504]


@pytest.mark.parametrize("side", [Side.SERVER, Side.CLIENT])
@pytest.mark.parametrize("status", REFUSALS)
def test_refused_paths_teach_nothing_and_get_what_is_known(status, side):
    routes = Routes()
    refused = apply(routes, "/users/1", status, side=side)
    assert refused.name == "GET"
    assert not {"http.route", "url.template"} & refused.attributes.keys()
    assert routes._owners["shop"].tree.routes() == []
    assert route(routes, "/users/2", 200) == "/users/{id}"
    assert route(routes, "/users/1", status, side=side) == "/users/{id}"
    assert route(routes, "/other", status) is None


@pytest.mark.parametrize("status", [101, 200, 204, 206, 302, 303, 304, 307, 409, 410, 422, 500])
def test_other_answers_teach(status):
    assert route(Routes(), "/users/1", status) == "/users/{id}"


def test_outline_that_had_no_route_gets_one_when_it_is_known():
    routes = Routes()
    outline = outline_of("/users/1", 404)
    assert routes.apply(outline, SERVER, "shop") is outline
    apply(routes, "/users/2")
    assert routes.apply(outline, SERVER, "shop").name == "GET /users/{id}"


def test_preflight_teaches_nothing():
    routes = Routes()
    assert route(routes, "/a", 204, "OPTIONS") is None
    assert route(routes, "/a", 200, "GET") == "/a"
    assert route(routes, "/a", 204, "OPTIONS") == "/a"


def test_web_socket_in_http2_has_a_route():
    fields = {":protocol": "websocket", ":scheme": "https"}
    assert apply(Routes(), "/chat/1", 200, "CONNECT", **fields).name == "CONNECT /chat/{id}"


def test_pattern_comes_first_whatever_the_answer():
    routes = Routes(["GET /users/{name}", "stock:/items/**"])
    for status in (200, *REFUSALS):
        assert route(routes, "/users/1", status) == "/users/{name}"
        assert route(routes, "/users/alice", status) == "/users/{name}"
    assert route(routes, "/users/1", 200, "POST") == "/users/{id}"
    assert route(routes, "/items/a/b", 200, owner="stock") == "/items/**"
    assert route(routes, "/items/a/b", 200) == "/items/a/b"
    assert route(routes, "/items/a", 200, owner="stock", side=Side.CLIENT) == "/items/**"


def test_pattern_that_is_no_pattern_is_an_error():
    with pytest.raises(ValueError, match="begins with /"):
        Routes(["users"])


def test_service_and_its_clients_share_what_was_learnt():
    routes = Routes()
    apply(routes, "/users/1")
    assert route(routes, "/users/2", 404, side=Side.CLIENT) == "/users/{id}"


def test_services_learn_alone():
    routes = Routes(fan_out=3)
    for name in "abcd":
        apply(routes, f"/users/{name}")
    assert route(routes, "/users/e") == "/users/*"
    assert route(routes, "/users/e", owner="stock") == "/users/e"
    assert routes.counters()["route_places_merged"] == 1


def test_merged_place_renames_what_was_routed_before():
    routes = Routes(fan_out=3)
    outline = outline_of("/users/a")
    assert routes.apply(outline, SERVER, "shop").name == "GET /users/a"
    for name in "bcd":
        apply(routes, f"/users/{name}")
    assert routes.apply(outline, SERVER, "shop").name == "GET /users/*"


def test_full_tree_is_counted():
    routes = Routes(max_nodes=5)
    for name in "abcdefgh":
        apply(routes, f"/{name}")
    assert route(routes, "/x/y/z") == "/**"
    assert routes.counters()["routes_cut"] == 5


def test_scanner_makes_few_routes_and_takes_no_name():
    routes = Routes()
    for i in range(200):
        apply(routes, f"/users/{i}")
        apply(routes, f"/orders/{i}/items")
    chance = random.Random(7)
    refused = set()
    answered = set()
    for _ in range(5000):
        path = "/" + "".join(chance.choices("abcdefghi0123-_./%", k=chance.randrange(1, 30)))
        refused.add(route(routes, path, 404))
        answered.add(route(routes, path, 200, owner="spa"))
    assert refused <= {None, "/users/{id}", "/orders/{id}/items"}
    assert routes._owners["shop"].tree.nodes == 6
    assert len(answered) < 1000
    for _ in range(5000):
        apply(routes, "/" + "".join(chance.choices("abcdefghi", k=9)))
    assert route(routes, "/users/1") == "/users/{id}"
    assert route(routes, "/orders/1/items") == "/orders/{id}/items"
    assert route(routes, "/cgi-bin/x") == "/*/x"


TARGETS = st.one_of(
    st.text(max_size=300),
    st.text("/ab01-.;?%*{}:@()\ud800\x00", max_size=80).map(lambda text: "/" + text),
    st.binary(max_size=60).map(lambda data: "/" + data.decode("utf-8", "surrogateescape")),
    st.binary(max_size=60).map(lambda data: "/" + data.decode("utf-8", "backslashreplace")),
)
SPANS = st.lists(
    st.tuples(
        TARGETS,
        st.sampled_from([0, 200, 302, 404, 500]),
        st.sampled_from(["GET", "POST", "OPTIONS", "CONNECT", "BREW"]),
        st.sampled_from(list(Side)),
        st.sampled_from(["", "shop", "stock"]),
    ),
    max_size=30,
)


@given(SPANS)
def test_any_text_keeps_raw_attributes_and_bounds(spans):
    bounds = {"max_owners": 2, "max_nodes": 12, "max_all_nodes": 20, "max_outlines": 7}
    routes = Routes(["/a/**", "POST /b/{x}"], **bounds, fan_out=3)
    again = Routes(["/a/**", "POST /b/{x}"], **bounds, fan_out=3)
    for target, status, method, side, owner in spans:
        outline = outline_of(target, status, method, side)
        routed = routes.apply(outline, KIND_OF_SIDE[side], owner)
        if routed is not outline:
            key = "url.template" if side is Side.CLIENT else "http.route"
            made = routed.attributes[key]
            assert routed.attributes == {**outline.attributes, key: made}
            assert routed.name == f"{outline.name} {made}"
            assert len(made) <= 255
            assert made.startswith("/")
            assert made.isprintable()
        assert routes.apply(outline, KIND_OF_SIDE[side], owner) is routed
        same = again.apply(outline_of(target, status, method, side), KIND_OF_SIDE[side], owner)
        assert (same.name, same.attributes) == (routed.name, routed.attributes)
        assert routes._outlines == held(routes)[1]
        assert routes._outlines <= 7
        assert len(routes._owners) <= 2
        again.apply(outline, KIND_OF_SIDE[side], owner)


@given(st.lists(TARGETS, max_size=20))
def test_route_of_a_route_is_the_route(targets):
    routes = Routes()
    for target in targets:
        made = route(routes, target)
        if made is not None:
            assert route(routes, made) == made
