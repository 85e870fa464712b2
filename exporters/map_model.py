# SPDX-License-Identifier: Apache-2.0
"""What a service map is: the terms that its maker, its renderers and the diff share.

Nodes are those who ask and answer, edges who asks whom in which protocol: an exchange that was
seen from both ends is counted once, as exporters/edges.py says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

MIN_SECONDS: Final = 1.0
"""A rate of what took no time says nothing: less than this counts as this."""


class NodeKind(IntEnum):
    """What a node is; where two ends of it say different things, the greater one is right."""

    USER = 1
    """Clients of which nothing is known, taken together."""
    EXTERNAL = 2
    """Not observed itself: what the other end knows is its name or address."""
    SERVICE = 3
    """A process on this machine, or several that are called the same."""
    DATABASE = 4

    @property
    def label(self) -> str:
        """In lower case, as JSON has it."""
        return self.name.lower()


class NodeName(NamedTuple):
    """What identifies a node."""

    name: str
    namespace: str = ""
    """`service.namespace`, mostly empty."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Node(NamedTuple):
    """A node of the map."""

    name: NodeName
    kind: NodeKind


class Ends(NamedTuple):
    """What identifies an edge."""

    client: NodeName
    server: NodeName
    protocol: str
    """As `Span.protocol` has it: http, grpc, postgresql, ..."""


class Buckets(NamedTuple):
    """A distribution: how many were not above `upper_s[i]` seconds, and above the one before."""

    upper_s: tuple[float, ...]
    """In rising order."""
    counts: tuple[int, ...]

    def between(self, low_rank: float, high_rank: float) -> tuple[float, float]:
        """Seconds from which and up to which the values of two ranks can be.

        Ranks begin at 1; the value of a rank below that may be as small as nothing, of one
        above the number of values as large as anything.
        """
        low, high, seen, before = 0.0, float("inf"), 0, 0.0
        for upper, count in zip(self.upper_s, self.counts, strict=True):
            if seen < low_rank <= seen + count:
                low = before
            if seen < high_rank <= seen + count:
                high = upper
            seen += count
            before = upper
        if low_rank > seen:
            low = before
        return low, high


class Latency(NamedTuple):
    """How long exchanges took, in seconds."""

    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float
    buckets: Buckets


@dataclass(slots=True, frozen=True, kw_only=True)
class MapEdge:
    """An edge with what went over it in the time of the map."""

    ends: Ends
    seen_by: str
    """`client`, `server` or `both`: whose spans there were."""
    count: int
    errors: int
    incomplete: int
    """Exchanges that are not known in full, see `Completeness`."""
    request_bytes: int
    response_bytes: int
    latency: Latency
    """As the client saw it, where its spans were seen; else as the server did."""
    server_latency: Latency | None
    """As the server saw it, where the client's view is known too."""
    rtt_min_s: float | None
    """Of the smoothed round-trip times of connections; None where TCP knew none."""
    rtt_median_s: float | None
    first_unix_ns: int
    """Start of the first exchange."""
    last_unix_ns: int
    """End of the last exchange."""

    @property
    def error_share(self) -> float:
        """From 0 to 1."""
        return self.errors / self.count if self.count else 0.0


@dataclass(slots=True, frozen=True)
class ServiceMap:
    """Nodes in order of names, and edges in order of their ends."""

    start_unix_ns: int
    end_unix_ns: int
    nodes: Sequence[Node]
    edges: Sequence[MapEdge]

    @property
    def seconds(self) -> float:
        """How long the map's time is, for rates."""
        return max(MIN_SECONDS, (self.end_unix_ns - self.start_unix_ns) / 1e9)

    def rate(self, edge: MapEdge) -> float:
        """Exchanges a second."""
        return edge.count / self.seconds

    @property
    def totals(self) -> tuple[int, int, int]:
        """Exchanges, those that failed, those that are not known in full."""
        return (
            sum([edge.count for edge in self.edges]),
            sum([edge.errors for edge in self.edges]),
            sum([edge.incomplete for edge in self.edges]),
        )


def make_map(
    start_unix_ns: int,
    end_unix_ns: int,
    kinds: Iterable[tuple[NodeName, NodeKind]],
    edges: Iterable[MapEdge],
) -> ServiceMap:
    """A map in order; a node that is named twice has the greater of its kinds."""
    found: dict[NodeName, NodeKind] = {}
    for name, kind in kinds:
        found[name] = max(kind, found.get(name, kind))
    nodes = [Node(name, kind) for name, kind in sorted(found.items())]
    ordered = sorted(edges, key=lambda edge: edge.ends)
    return ServiceMap(start_unix_ns, end_unix_ns, nodes, ordered)
