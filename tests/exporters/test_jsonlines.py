# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.jsonlines import JsonLines
from parsers.model import Side
from tests.exporters import samples


def read(span):
    return json.loads(JsonLines().line(span))


def test_a_span_is_exactly_this():
    assert read(samples.span(0x2A)) == {
        "trace_id": "0000000000000000000000000000002a",
        "span_id": "000000000000002a",
        "parent_span_id": None,
        "name": "GET",
        "kind": "server",
        "start_time_unix_nano": 1_700_000_000_123_456_789,
        "end_time_unix_nano": 1_700_000_000_124_696_789,
        "status": "unset",
        "attributes": {
            "http.request.method": "GET",
            "url.path": "/api/users/42",
            "http.response.status_code": 200,
            "network.peer.address": "10.0.0.5",
            "network.peer.port": 43122,
            "client.address": "10.0.0.5",
            "wirespan.completeness": "complete",
            "wirespan.request.size": 78,
            "wirespan.response.size": 1234,
            "wirespan.time_to_first_byte": 0.0008,
            "wirespan.rtt": 0.000045,
        },
        "resource": {"service.name": "shop", "process.pid": 4312},
    }


def test_counts_and_resends():
    counted = samples.outline(attributes={}, counts=("asked", "rows"))
    attributes = read(samples.span(outline=counted, response_count=7, resends=2))["attributes"]
    assert (attributes["rows"], attributes["wirespan.request.resends"]) == (7, 2)
    assert "asked" not in attributes


def test_keys_come_in_this_order():
    assert list(read(samples.span())) == [
        "trace_id",
        "span_id",
        "parent_span_id",
        "name",
        "kind",
        "start_time_unix_nano",
        "end_time_unix_nano",
        "status",
        "attributes",
        "resource",
    ]


def test_a_parent_and_an_error():
    line = read(samples.span(parent_span_id=b"\xab" * 8, outline=samples.outline(error_type="500")))
    assert line["parent_span_id"] == "ab" * 8
    assert line["status"] == "error"
    assert line["attributes"]["error.type"] == "500"


@pytest.mark.parametrize(
    ("side", "kind"),
    [(Side.CLIENT, "client"), (Side.SERVER, "server"), (Side.UNKNOWN, "internal")],
)
def test_kinds(side, kind):
    assert read(samples.span(peering=samples.peering(side)))["kind"] == kind


@given(st.text(), st.text())
def test_any_text_comes_back_and_nothing_reaches_the_terminal(name, value):
    span = samples.span(outline=samples.outline(name, attributes={"k": value}))
    line = JsonLines().line(span)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["name"] == name
    assert json.loads(line)["attributes"]["k"] == value


def test_lists_and_numbers_keep_their_form():
    values = {"a": ["x", "y"], "b": True, "c": 1.5, "d": 3, "e": ("z",)}
    attributes = read(samples.span(outline=samples.outline(attributes=values)))["attributes"]
    assert {key: attributes[key] for key in values} == {**values, "e": ["z"]}


def test_what_json_has_no_number_for_is_text():
    values = {"a": float("nan"), "b": float("-inf"), "c": "NaN"}
    attributes = read(samples.span(outline=samples.outline(attributes=values)))["attributes"]
    assert {key: attributes[key] for key in values} == {"a": "nan", "b": "-inf", "c": "NaN"}
