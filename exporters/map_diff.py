# SPDX-License-Identifier: Apache-2.0
"""What has changed between two service maps, as after a deploy: beyond what chance makes.

Two maps of the same system are never equal. What is told, and what is not, follows these rules:

- an edge is new or gone if it is in one map only. Where the other map's rate would have brought
  fewer than three exchanges, that may be chance, and it is called rare.
- a rate has changed if it differs by a fifth of itself, and by more than three standard
  deviations of what independent arrivals (Poisson) would show.
- the share of errors has changed if it differs by a quarter of itself, and by more than three
  standard deviations of the difference of two proportions.
- p95 has changed if it differs by a fifth of itself, and the ranges in which it lies with 95 %
  confidence do not overlap. They follow from the ranks of the order statistics, and that of fewer
  than 113 exchanges has no upper end.

Requests are no independent arrivals, so bursts can look like a change; a longer time evens out.

Source: NIST/SEMATECH e-Handbook of Statistical Methods, sections 7.3.3 (two proportions) and
7.2.6.2 (percentiles)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from exporters.layout import columns, duration, left, right, shorten_middle
from exporters.map_formats import VERSION, edge_object, ends_object, json_lines
from exporters.map_model import Ends, MapEdge, ServiceMap
from exporters.map_text import DIM, GREEN, PROTOCOL, RED, YELLOW, Look, rate_text, share_text

What: TypeAlias = Literal["rate", "errors", "p95"]

SIGMAS: Final = 3.0
"""Chance does that once in 370 times."""
RANK_SIGMAS: Final = 2.0
"""Of each of two ranges that must not overlap, which together is more than three."""
MIN_RATE_FACTOR: Final = 1.2
MIN_ERROR_FACTOR: Final = 1.25
MIN_P95_FACTOR: Final = 1.2
MIN_EXPECTED: Final = 3.0
"""None of three is what one in twenty sees."""
P95: Final = 0.95
WHO_SHARE: Final = 0.5
"""Of the width, for the ends of an edge."""


class Change(NamedTuple):
    """A figure of an edge that is in both maps; rates a second, shares of 1, seconds."""

    what: What
    before: MapEdge
    after: MapEdge
    old: float
    new: float

    @property
    def worse(self) -> bool:
        return self.new > self.old


class Lone(NamedTuple):
    """An edge of one map only."""

    edge: MapEdge
    rate: float
    rare: bool
    """That it is not in the other may be chance."""


@dataclass(slots=True, frozen=True)
class MapDiff:
    """What differs; each list begins with what matters most."""

    before: ServiceMap
    after: ServiceMap
    new: Sequence[Lone]
    gone: Sequence[Lone]
    changed: Sequence[Change]
    alike: int
    """Edges of both maps without a change."""


def compare(before: ServiceMap, after: ServiceMap) -> MapDiff:
    """What has changed from one map to the other, by the rules above."""
    old = {edge.ends: edge for edge in before.edges}
    new = {edge.ends: edge for edge in after.edges}
    both = [(edge, new[ends]) for ends, edge in old.items() if ends in new]
    changed = [change for pair in both for change in _changes(before, after, *pair)]
    touched = {change.before.ends for change in changed}
    order: tuple[What, ...] = ("errors", "p95", "rate")
    changed.sort(key=lambda each: (order.index(each.what), -_factor(each), each.before.ends))
    return MapDiff(
        before,
        after,
        _lone(after, old, before.seconds),
        _lone(before, new, after.seconds),
        changed,
        len(both) - len(touched),
    )


def _lone(service_map: ServiceMap, other: dict[Ends, MapEdge], other_seconds: float) -> list[Lone]:
    """Edges that the other map, of so many seconds, does not have; the busiest first."""
    found = []
    for edge in service_map.edges:
        if edge.ends not in other:
            rate = service_map.rate(edge)
            found.append(Lone(edge, rate, rate * other_seconds < MIN_EXPECTED))
    return sorted(found, key=lambda lone: (-lone.rate, lone.edge.ends))


def _changes(
    first: ServiceMap, second: ServiceMap, before: MapEdge, after: MapEdge
) -> Iterator[Change]:
    old, new = first.rate(before), second.rate(after)
    deviation = sqrt(before.count / first.seconds**2 + after.count / second.seconds**2)
    if _far(old, new, MIN_RATE_FACTOR) and abs(new - old) > SIGMAS * deviation:
        yield Change("rate", before, after, old, new)
    old, new = before.error_share, after.error_share
    if _far(old, new, MIN_ERROR_FACTOR) and _proportions_differ(before, after):
        yield Change("errors", before, after, old, new)
    old, new = before.latency.p95_s, after.latency.p95_s
    if _far(old, new, MIN_P95_FACTOR):
        (low_a, high_a), (low_b, high_b) = p95_range(before), p95_range(after)
        if high_a < low_b or high_b < low_a:
            yield Change("p95", before, after, old, new)


def _far(old: float, new: float, factor: float) -> bool:
    return max(old, new) >= factor * min(old, new) and old != new


def _proportions_differ(before: MapEdge, after: MapEdge) -> bool:
    """The z-test of two proportions, with the pooled one for the deviation."""
    if not before.count or not after.count:
        return False
    pooled = (before.errors + after.errors) / (before.count + after.count)
    deviation = sqrt(max(0.0, pooled * (1 - pooled)) * (1 / before.count + 1 / after.count))
    return abs(after.error_share - before.error_share) > SIGMAS * deviation


def p95_range(edge: MapEdge) -> tuple[float, float]:
    """Seconds between which the p95 of what the edge's exchanges are a sample of lies."""
    count = sum(edge.latency.buckets.counts)
    middle = P95 * count
    reach = RANK_SIGMAS * sqrt(count * P95 * (1 - P95))
    return edge.latency.buckets.between(middle - reach, middle + reach + 1)


def to_json(diff: MapDiff) -> str:
    """`before` and `after` (their times), `new`, `gone`, `changed`, `alike`; edges as in a map."""
    made = {
        "version": VERSION,
        "before": _period(diff.before),
        "after": _period(diff.after),
        "new": [{**edge_object(diff.after, each.edge), "rare": each.rare} for each in diff.new],
        "gone": [{**edge_object(diff.before, each.edge), "rare": each.rare} for each in diff.gone],
        "changed": [
            {
                **ends_object(each.before.ends),
                "what": each.what,
                "before": each.old,
                "after": each.new,
            }
            for each in diff.changed
        ],
        "alike": diff.alike,
    }
    return json_lines(made)


def _period(service_map: ServiceMap) -> dict[str, Any]:
    return {
        "start_time_unix_nano": service_map.start_unix_ns,
        "end_time_unix_nano": service_map.end_unix_ns,
    }


class _Row(NamedTuple):
    word: str
    paint: str
    ends: Ends
    figures: str


def to_text(diff: MapDiff, look: Look) -> str:
    """A line each, the legend behind; at most `look.width` columns."""
    rows = list(_rows(diff, look))
    lines = []
    for word, each in (("before", diff.before), ("after", diff.after)):
        count = each.totals[0]
        period = look.period(each.start_unix_ns, each.end_unix_ns)
        lines.append(f"{word:<6} {period}: {count:,} exchanges, {len(each.edges)} edges")
    if rows:
        lines.append("")
        lines += _table(rows, look)
    lines.append("")
    what = f"{diff.alike} edge{' is' if diff.alike == 1 else 's are'} alike"
    lines.append(f"{what if rows else 'Nothing has changed'}, but for what may be chance.")
    if any(each.rare for each in (*diff.new, *diff.gone)):
        lines.append("rare: so few exchanges that it may be chance.")
    return "".join(f"{line}\n" for line in lines)


def _rows(diff: MapDiff, look: Look) -> Iterator[_Row]:
    for word, paint, lone in (("new", GREEN, diff.new), ("gone", YELLOW, diff.gone)):
        for each in lone:
            latency = duration(round(each.edge.latency.p95_s * 1e9), look.signs.micro)
            figures = f"{rate_text(each.rate)}/s, p95 {latency}"
            if each.edge.errors:
                figures += f", {share_text(each.edge.errors, each.edge.count)} failed"
            yield _Row(
                word,
                DIM if each.rare else paint,
                each.edge.ends,
                figures + (", rare" if each.rare else ""),
            )
    for change in diff.changed:
        paint = YELLOW if change.what == "rate" else RED if change.worse else GREEN
        old, new = (
            _figure(change.what, edge, value, look)
            for edge, value in ((change.before, change.old), (change.after, change.new))
        )
        yield _Row(
            change.what, paint, change.before.ends, f"{old} {look.signs.to} {new}{_times(change)}"
        )


def _figure(what: What, edge: MapEdge, value: float, look: Look) -> str:
    if what == "rate":
        return f"{rate_text(value)}/s"
    if what == "errors":
        return share_text(edge.errors, edge.count)
    return duration(round(value * 1e9), look.signs.micro)


def _factor(change: Change) -> float:
    """By how much, whichever way."""
    low, high = sorted((change.old, change.new))
    return high / low if low else inf


def _times(change: Change) -> str:
    factor = _factor(change)
    if factor == inf:
        return ""
    sign = "x" if change.worse else "/"
    return f" ({sign}{factor:.3g})"


def _table(rows: Sequence[_Row], look: Look) -> Iterator[str]:
    ellipsis = look.signs.ellipsis
    names = [_names(row.ends, look) for row in rows]
    protocols = [shorten_middle(look.clean(row.ends.protocol), PROTOCOL, ellipsis) for row in rows]
    protocol_width = max(map(columns, protocols))
    room = min(int(look.width * WHO_SHARE), look.width - protocol_width - 20)
    who = min(max(10, room), max(map(columns, names)))
    for row, name, protocol in zip(rows, names, protocols, strict=True):
        short = shorten_middle(name, who, look.signs.ellipsis)
        figures = shorten_middle(
            row.figures, max(8, look.width - who - protocol_width - 9), look.signs.ellipsis
        )
        line = f" {left(short, who)} {left(protocol, protocol_width)} {figures}"
        yield look.paint(right(row.word, 6), row.paint) + line


def _names(ends: Ends, look: Look) -> str:
    client, server = map(look.clean, map(str, ends[:2]))
    return f"{client} {look.signs.to} {server}"
