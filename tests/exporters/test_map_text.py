# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import itertools
import re
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.layout import columns
from exporters.map_model import NodeKind
from exporters.map_text import (
    ASCII,
    UNICODE,
    Look,
    look_of,
    rate_text,
    share_text,
    text,
)
from tests.exporters import maps

COLOR = re.compile(r"\x1b\[\d+m")


def shown(service_map, width=80, *, color=False, signs=UNICODE):
    return text(service_map, Look(width, color, signs, UTC)).splitlines()


def tree(service_map, width=80, **options):
    """The names with their branches, without figures."""
    lines = shown(service_map, width, **options)
    lines = lines[next(n for n, line in enumerate(lines) if "RATE/s" in line) + 1 :]
    end = lines.index("") if "" in lines else len(lines)
    return [named(line) if "─" in line else line for line in lines[:end]]


def named(line):
    return re.match(r"[│ ]*[├└]─ \S+( [↑↓])?", line)[0]


def test_the_map_of_a_shop_at_80_columns():
    assert shown(maps.shop()) == [
        "22:13:20 to 22:15:00 (1m40s): 4,415 exchanges between 8 nodes, 26 failed,",
        "  2 not whole",
        "",
        "                           RATE/s  ERR    P50    P95    P99 BYTES/s PROTOCOL",
        "user",
        "└─ nginx                     12.0 0.2% 2.90ms 2.90ms 2.90ms  79/588 http",
        "   └─ shop                   11.0 2.0% 1.00ms 1.00ms 1.00ms  79/588 http",
        "      ├─ redis               11.0    - 60.0µs 60.0µs 60.0µs  79/588 redis",
        "      ├─ stock               5.00    - 1.00ms 1.00ms 1.00ms  79/588 grpc",
        "      │  ├─ postgres         5.00 0.2% 1.00ms 1.00ms 1.00ms  79/588 postgresql",
        "      │  └─ shop ↑           0.03    - 1.00ms 1.00ms 1.00ms  79/588 http",
        "      └─ mail.example.com°   0.07    -  210ms  210ms  210ms  79/588 http",
        "cron",
        "└─ postgres                  0.05    -  1.50s  1.50s  1.50s  79/588 postgresql",
        "",
        "° not observed itself: another machine, or not looked at",
        "↑ what it asks is shown above",
    ]


def test_who_asks_whom_is_a_tree():
    assert tree(maps.shop()) == [
        "user",
        "└─ nginx",
        "   └─ shop",
        "      ├─ redis",
        "      ├─ stock",
        "      │  ├─ postgres",
        "      │  └─ shop ↑",
        "      └─ mail.example.com°",
        "cron",
        "└─ postgres",
    ]


def test_signs_are_explained_where_they_are_used():
    assert shown(maps.shop())[-2:] == [
        "° not observed itself: another machine, or not looked at",
        "↑ what it asks is shown above",
    ]
    assert shown(maps.service_map(maps.edge()))[-1].startswith("└─ stock")


def test_a_shared_node_has_its_calls_below_the_first_that_asks():
    found = maps.service_map(
        maps.edge("a", "shared", count=10), maps.edge("b", "shared"), maps.edge("shared", "db")
    )
    assert tree(found) == [
        "b",
        "└─ shared",
        "   └─ db",
        "a",
        "└─ shared ↑",
    ]


def test_a_cycle_without_a_root_begins_where_most_is_asked():
    found = maps.service_map(
        maps.edge("a", "b"), maps.edge("b", "c", count=900), maps.edge("c", "a")
    )
    assert tree(found) == ["b", "└─ c", "   └─ a", "      └─ b ↑"]


def test_who_asks_itself_is_a_root_all_the_same():
    found = maps.service_map(maps.edge("a", "a"), maps.edge("a", "b"))
    assert tree(found) == ["a", "├─ a ↑", "└─ b"]


def test_protocols_to_one_server_are_lines_with_its_calls_below_the_last():
    found = maps.service_map(
        maps.edge("a", "b", "http"), maps.edge("a", "b", "grpc", count=900), maps.edge("b", "c")
    )
    assert tree(found) == ["a", "├─ b", "└─ b", "   └─ c"]
    assert [line.split()[-1] for line in shown(found)[4:6]] == ["grpc", "http"]


def test_each_line_to_a_node_above_says_so():
    found = maps.service_map(
        maps.edge("a", "b", count=900), maps.edge("b", "a", "http"), maps.edge("b", "a", "grpc")
    )
    assert tree(found) == ["a", "└─ b", "   ├─ a ↑", "   └─ a ↑"]


def test_what_is_too_deep_goes_on_as_a_tree_of_its_own():
    names = [f"service-{number:02}" for number in range(30)]
    pairs = itertools.pairwise(names)
    lines = tree(maps.service_map(*[maps.edge(*pair) for pair in pairs]))
    assert lines[0] == "service-00"
    assert sum(line.endswith("↓") for line in lines) == sum("─" not in line for line in lines) - 1
    for name in names:
        assert any(name in line for line in lines)
    assert shown(maps.service_map(maps.edge(*names[:2])))[-1] != lines[-1]


def test_the_deepest_chain_needs_no_recursion():
    chain = [maps.edge(f"s{n}", f"s{n + 1}") for n in range(4000)]
    assert len(tree(maps.service_map(*chain), 1000)) >= 4000


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("signs", [UNICODE, ASCII])
def test_no_line_is_wider_than_the_terminal(width, signs):
    long = maps.service_map(
        *maps.shop().edges, maps.edge("x" * 300, "日本語" * 40, "a-new-protocol", count=10**9)
    )
    lines = shown(long, width, signs=signs)
    assert max(map(columns, lines)) <= width
    assert all(line == line.rstrip() for line in lines)
    if signs is ASCII:
        assert all(line.isascii() for line in lines)


def test_columns_are_aligned_and_more_width_shows_more():
    for width in (80, 200):
        lines = shown(maps.shop(), width)
        header = next(line for line in lines if "RATE/s" in line)
        rows = [line for line in lines if "─ " in line]
        for title in ("RATE/s", "ERR", "P95"):
            end = header.index(title) + len(title)
            assert all(row[end - 1] != " " and row[end] == " " for row in rows)
        column = header.index("PROTOCOL")
        assert all(row[column - 1] == " " and row[column] != " " for row in rows)
    assert {"COUNT", "SRV50", "SRV95", "RTT", "PART", "LAST", "MAX"} <= set(header.split())


def test_the_servers_own_time_stands_beside_the_clients():
    found = maps.service_map(
        maps.edge("a", "b", seconds=0.009, server_latency=maps.latency(0.002)),
        maps.edge("a", "c", seconds=0.009),
        maps.edge("user", "a", seconds=0.009, seen_by="server"),
    )
    lines = shown(found, 200)
    assert [line.count("2.00ms") for line in lines if "─ b" in line] == [2]
    assert [line.count("9.00ms") for line in lines if "─ a" in line] == [4 + 2]
    assert [line.split()[8:10] for line in lines if "─ c" in line] == [["9.00ms", "-"]]


def test_failures_are_red_and_few_of_them_yellow():
    lines = shown(maps.shop(), color=True)
    (line,) = (each for each in lines if "shop" in each and "2.0%" in each)
    assert "\x1b[31m2.0%\x1b[0m" in line
    (line,) = (each for each in lines if "nginx" in each)
    assert "\x1b[33m0.2%\x1b[0m" in line
    assert [COLOR.sub("", each) for each in lines] == shown(maps.shop())


def test_a_terminal_obeys_no_name():
    found = maps.service_map(maps.edge("\x1b[31mevil\n", "\u202eabc", "gr\rpc"))
    lines = shown(found, 120)
    assert "\x1b" not in "".join(lines)
    assert any("\\u202eabc" in line for line in lines)
    assert len(lines) == len(shown(maps.service_map(maps.edge("a", "b")), 120))


def test_an_empty_map_is_a_sentence():
    assert shown(maps.service_map()) == ["22:13:20 to 22:15:00 (1m40s): nothing was seen"]


def test_the_headline_counts_what_there_is():
    (line,) = shown(maps.service_map(maps.edge(count=1)))[:1]
    assert line == "22:13:20 to 22:15:00 (1m40s): 1 exchange between 2 nodes"
    (line,) = shown(maps.service_map(maps.edge("a", "a", count=2)))[:1]
    assert line == "22:13:20 to 22:15:00 (1m40s): 2 exchanges within one node"


@given(st.lists(st.tuples(*[st.sampled_from("abcdefgh")] * 2), max_size=25), st.integers(40, 130))
def test_every_edge_is_a_line_whatever_the_graph(pairs, width):
    found = maps.service_map(*[maps.edge(*pair) for pair in set(pairs)])
    lines = shown(found, width)
    assert sum("─ " in line for line in lines) == len(set(pairs))
    assert max(map(columns, lines)) <= width


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (0.001, "<0.01"),
        (0.014, "0.01"),
        (1.8, "1.80"),
        (9.999, "10.0"),
        (99.96, "100"),
        (999.6, "1.00K"),
        (45_678, "45.7K"),
        (2.5e6, "2.50M"),
        (3e12, "3000G"),
    ],
)
def test_rates_have_three_digits(value, words):
    assert rate_text(value) == words


@pytest.mark.parametrize(
    ("errors", "count", "words"),
    [(0, 0, "-"), (0, 9, "-"), (1, 10_000, "<0.1%"), (1, 100, "1.0%"), (3, 3, "100%")],
)
def test_shares_are_in_per_cent(errors, count, words):
    assert share_text(errors, count) == words


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_look_is_as_the_stream_is(monkeypatch):
    monkeypatch.setenv("COLUMNS", "133")
    assert look_of(Terminal()) == Look(133, True, UNICODE)
    assert look_of(Terminal(), width=50, color="never") == Look(50, False, UNICODE)
    assert look_of(io.StringIO()) == Look(80, False, UNICODE)
    assert look_of(io.StringIO(), color="always").color
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert look_of(ascii_only).signs is ASCII


def test_kinds_have_their_mark_in_every_alphabet():
    found = maps.service_map(maps.edge("a", "b"), kinds={"b": NodeKind.EXTERNAL})
    assert any("└─ b° " in line for line in shown(found))
    assert any("`- b* " in line for line in shown(found, signs=ASCII))
