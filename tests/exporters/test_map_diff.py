# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import random
from datetime import UTC

import pytest

from exporters.layout import columns
from exporters.map_collector import Collector
from exporters.map_diff import compare, p95_range, to_json, to_text
from exporters.map_text import ASCII, UNICODE, Look
from tests.exporters import maps, samples
from tests.exporters.maps import S, client_span, edge, service_map

LOOK = Look(80, False, UNICODE, UTC)


def changes(before, after, **options):
    found = compare(service_map(before, **options), service_map(after, **options))
    return [(change.what, change.old, change.new) for change in found.changed]


def test_equal_maps_are_alike():
    found = compare(maps.shop(), maps.shop())
    assert not found.new
    assert not found.gone
    assert not found.changed
    assert found.alike == len(maps.shop().edges)


def test_new_and_gone_edges_begin_with_the_busiest():
    before = service_map(edge("a", "b"), edge("a", "old", count=5), edge("a", "older", count=50))
    after = service_map(edge("a", "b"), edge("a", "new"))
    found = compare(before, after)
    assert [each.edge.ends.server.name for each in found.new] == ["new"]
    assert [each.edge.ends.server.name for each in found.gone] == ["older", "old"]
    assert found.alike == 1


def test_an_edge_in_another_protocol_is_another_edge():
    found = compare(service_map(edge(protocol="http")), service_map(edge(protocol="grpc")))
    assert len(found.new) == len(found.gone) == 1


@pytest.mark.parametrize(("count", "rare"), [(2, True), (3, False)])
def test_an_edge_that_chance_may_have_spared_is_rare(count, rare):
    found = compare(service_map(edge(count=count)), service_map())
    assert [each.rare for each in found.gone] == [rare]


def test_a_rate_of_a_short_time_is_compared_with_that_of_a_long_one():
    before, after = edge(count=1000), edge(count=10_000)
    assert not compare(service_map(before), service_map(after, seconds=1000)).changed
    (change,) = compare(service_map(before), service_map(after, seconds=500)).changed
    assert (change.what, change.old, change.new, change.worse) == ("rate", 10, 20, True)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (100, 100, False),
        (100, 130, False),  # two deviations
        (100, 160, True),
        (100_000, 110_000, False),  # sure, and a tenth
        (100_000, 125_000, True),
        (160, 100, True),
        (1, 8, False),
    ],
)
def test_a_rate_has_to_change_beyond_noise(before, after, told):
    found = changes(edge(count=before), edge(count=after))
    assert [what for what, *_ in found if what == "rate"] == ["rate"] * told


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ((1000, 0), (1000, 3), False),
        ((1000, 0), (1000, 20), True),
        ((1000, 20), (1000, 0), True),
        ((1000, 10), (1000, 20), False),
        ((100_000, 1000), (100_000, 1200), False),
        ((100_000, 1000), (100_000, 1400), True),
        ((10, 0), (10, 10), True),
        ((10, 10), (10, 10), False),
    ],
)
def test_a_share_of_errors_has_to_change_beyond_noise(before, after, told):
    (count_a, errors_a), (count_b, errors_b) = before, after
    found = changes(edge(count=count_a, errors=errors_a), edge(count=count_b, errors=errors_b))
    assert [what for what, *_ in found] == ["errors"] * told


@pytest.mark.parametrize(
    ("before", "after", "count", "told"),
    [
        (0.001, 0.002, 1000, True),
        (0.002, 0.001, 1000, True),
        (0.001, 0.0011, 1000, False),
        (0.001, 0.002, 20, False),
        (0.001, 0.002, 100, False),
        (0.001, 0.002, 120, True),
    ],
)
def test_p95_has_to_change_beyond_noise(before, after, count, told):
    found = changes(edge(seconds=before, count=count), edge(seconds=after, count=count))
    assert [what for what, *_ in found] == ["p95"] * told


def test_the_range_of_p95_holds_the_true_one_as_often_as_it_says():
    chance = random.Random(7)
    shop = samples.process("shop")
    true_s = 1.645  # of the normal distribution's logarithm
    hits = 0
    for _ in range(200):
        collector = Collector(None)
        collector.add(
            [
                client_span(shop, "db", took_ns=round(1e6 * 2.718281828 ** chance.gauss(0, 1)))
                for _ in range(300)
            ]
        )
        low, high = p95_range(collector.snapshot().edges[0])
        hits += low <= 1e-3 * 2.718281828**true_s <= high
    assert hits >= 186


def test_two_halves_of_the_same_traffic_are_alike():
    chance = random.Random(4)
    shop, found = samples.process("shop"), []
    for half in range(2):
        collector = Collector(None)
        collector.add(
            [
                client_span(
                    shop,
                    f"db{chance.randrange(12)}",
                    took_ns=round(1e6 * 2.718281828 ** chance.gauss(0, 1)),
                    end_ns=maps.START_NS + half * 100 * S + chance.randrange(100 * S),
                    outline=samples.outline(error_type="500" if chance.random() < 0.03 else None),
                )
                for _ in range(6000)
            ]
        )
        found.append(collector.snapshot())
    result = compare(*found)
    assert not result.new
    assert not result.gone
    assert len(result.changed) <= 1


def test_what_fails_comes_before_what_is_slow_before_what_is_busy():
    before = service_map(edge("a", "b", count=1000), edge("c", "d", count=1000))
    after = service_map(
        edge("a", "b", count=3000, seconds=0.01), edge("c", "d", count=1000, errors=500)
    )
    assert [each.what for each in compare(before, after).changed] == ["errors", "p95", "rate"]
    assert compare(before, after).alike == 0


def scene():
    before = service_map(
        edge("shop", "redis", "redis", count=5000),
        edge("shop", "old", "http", count=1),
        edge("shop", "stock", count=1000),
        edge("nginx", "shop", "http", count=1000, errors=1),
    )
    after = service_map(
        edge("shop", "payments", "http", count=1230, seconds=0.0031, errors=12),
        edge("shop", "redis", "redis", count=5000),
        edge("shop", "stock", count=1000, seconds=0.004),
        edge("nginx", "shop", "http", count=4000, errors=400),
    )
    return compare(before, after)


def test_the_difference_as_text():
    assert to_text(scene(), LOOK).splitlines() == [
        "before 22:13:20 to 22:15:00 (1m40s): 7,001 exchanges, 4 edges",
        "after  22:13:20 to 22:15:00 (1m40s): 11,230 exchanges, 4 edges",
        "",
        "   new shop → payments http 12.3/s, p95 3.10ms, 1.0% failed",
        "  gone shop → old      http 0.01/s, p95 1.00ms, rare",
        "errors nginx → shop    http 0.1% → 10% (x100)",
        "   p95 shop → stock    grpc 1.00ms → 4.00ms (x4)",
        "  rate nginx → shop    http 10.0/s → 40.0/s (x4)",
        "",
        "1 edge is alike, but for what may be chance.",
        "rare: so few exchanges that it may be chance.",
    ]


def test_equal_maps_in_a_sentence():
    lines = to_text(compare(maps.shop(), maps.shop()), LOOK).splitlines()
    assert lines[-1] == "Nothing has changed, but for what may be chance."
    assert len(lines) == 4


def test_what_got_worse_is_red_and_what_got_better_green():
    assert "\x1b[31merrors\x1b[0m" in to_text(scene(), Look(80, True, UNICODE, UTC))
    better = compare(scene().after, scene().before)
    assert "\x1b[32merrors\x1b[0m" in to_text(better, Look(80, True, UNICODE, UTC))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width):
    long = compare(
        service_map(edge("x" * 300, "日本語" * 50, "a-new-protocol", count=5000)),
        service_map(edge("\x1b[31mevil", "y", count=5000)),
    )
    lines = to_text(long, Look(width, False, ASCII, UTC)).splitlines()
    assert max(map(columns, lines[3:-2])) <= width
    assert "\x1b" not in "".join(lines)


def test_the_difference_as_json():
    found = json.loads(to_json(scene()))
    assert found.keys() == {"version", "before", "after", "new", "gone", "changed", "alike"}
    assert found["alike"] == 1
    assert found["new"][0]["server"] == "payments"
    assert found["new"][0]["rate"] == 12.3
    assert [each["rare"] for each in found["gone"]] == [True]
    assert found["changed"][0] == {
        "client": "nginx",
        "client_namespace": "",
        "server": "shop",
        "server_namespace": "",
        "protocol": "http",
        "what": "errors",
        "before": 0.001,
        "after": 0.1,
    }
    assert found["before"]["start_time_unix_nano"] == maps.START_NS
