# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from parsers.model import Outline
from tracer.routes import Routes
from tracer.span import SpanKind

CORPUS = Path(__file__).with_name("routes_corpus.txt").read_text(encoding="utf-8")
ROWS = [tuple(line.split()) for line in CORPUS.splitlines() if line and line[0] != "#"]


def test_corpus_is_whole():
    assert len(ROWS) >= 120
    assert all(len(row) == 2 for row in ROWS)
    assert len(dict(ROWS)) == len(ROWS)


@pytest.mark.parametrize(("path", "route"), ROWS)
def test_route_of_first_request(path, route):
    outline = Outline(
        "GET",
        {"http.request.method": "GET", "url.path": path, "http.response.status_code": 200},
        None,
    )
    routed = Routes().apply(outline, SpanKind.SERVER, "shop")
    assert routed.attributes["http.route"] == route
    assert routed.name == f"GET {route}"


def test_all_of_them_together_are_all_known():
    routes = Routes(fan_out=100)
    for _ in range(2):
        for path, route in ROWS:
            outline = Outline(
                "GET",
                {"http.request.method": "GET", "url.path": path, "http.response.status_code": 200},
                None,
            )
            routed = routes.apply(outline, SpanKind.SERVER, "shop")
            assert routed.attributes["http.route"] == route
