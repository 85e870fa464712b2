# SPDX-License-Identifier: Apache-2.0
"""The route of an HTTP request: `GET /users/{id}` and not `GET /users/4711`.

OTel: HTTP spans 1.44.0, `http.route` of servers and `url.template` of clients; both must be of low
cardinality and never the path itself. The route is in the program and not on the wire, so it is
what the user says (tracer/route_patterns.py), else what the paths of the service have taught
(tracer/route_tree.py). A service and those who call it share what was learnt.

Only an answer that shows that a program has the path teaches: a scanner gets 404 for its
guesses, or is sent away, and must not make routes. Such requests get a route only if it is known
by then.

Hosts that are asked can be any number: a crawler asks one after the other. So an owner gets a tree
of its own only as long as there is room, and none any more once all trees that ever were have had
`MAX_ALL_NODES` nodes. Those that come later share one tree: ids are found there as well, and
words soon are too many and become `*`. A service on this machine takes the place of an owner that
is not in use; a host that is only asked takes none.

So there are never more than `6 * MAX_ALL_NODES + 8 * MAX_NODES` routes besides the user's own,
whatever comes: places in trees, those that grow later, and each with `**` behind it.

What comes out is a function of the outlines that went in before: no clock, no chance. A replay
has the same routes as the live run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from parsers.model import AttributeValue, Outline
from tracer.route_patterns import RoutePatterns
from tracer.route_segments import split
from tracer.route_tree import FAN_OUT, MAX_NODES, RouteTree
from tracer.span import SpanKind

MAX_OWNERS: Final = 256
"""With a tree of their own: services and servers, of which a machine has tens."""
MAX_ALL_NODES: Final = 32_768
"""Ever made in trees of owners, about 250 bytes each. Once there are so many, no owner gets a tree,
and those that have one grow only up to their share of as many again."""
PART_OF_HOSTS: Final = 2
"""One in so many owners and nodes: beyond it there is room for services on this machine only."""
MAX_OUTLINES: Final = 8192
"""That are remembered with their route: as many as the parsers share."""

METHOD: Final = "http.request.method"
STATUS: Final = "http.response.status_code"
ROUTE: Final = "http.route"
TEMPLATE: Final = "url.template"

OF_NO_PATH: Final = frozenset(
    {0, 301, 308, 400, 401, 403, 404, 405, 407, 408, 414, 421, 426, 429, 431, 444}
    | {501, 502, 503, 504, 505, 511}
)
"""Answers that are given for any path, whether or not a program has it: none, a redirect to
another spelling or host, a refusal before the path was looked at, a proxy's. 302, 303 and 307 do
teach: they are how a program answers a form."""
FOR_ANY_PATH: Final = frozenset({"OPTIONS", "TRACE"})
"""Methods that are answered for any path as well: by what is in front of the program."""
ORIGIN: Final = re.compile(r"[^:/?#]*://[^/?#]*")


Key: TypeAlias = Outline | tuple[str, Outline]
"""With the owner's name where owners share a tree: patterns may be of one of them only."""


class Owner:
    """What is known of one service, or of those that share a tree."""

    __slots__ = ("routed", "tree", "unknown", "used")

    def __init__(self, tree: RouteTree) -> None:
        self.tree = tree
        self.routed: dict[Key, Outline] = {}
        self.unknown: set[Key] = set()
        """Outlines that had no route when they were looked at last."""
        self.used = False
        """Again, since it was new or last considered for removal."""


class Routes:
    """Adds routes to the outlines of HTTP exchanges.

    Raises:
        ValueError: a pattern cannot be understood; in words for the user.
    """

    __slots__ = (
        "_counters",
        "_fan_out",
        "_grown",
        "_max_all_nodes",
        "_max_nodes",
        "_max_outlines",
        "_max_owners",
        "_outlines",
        "_owners",
        "_patterns",
        "_shared",
    )

    def __init__(
        self,
        patterns: Sequence[str] = (),
        *,
        max_owners: int = MAX_OWNERS,
        max_nodes: int = MAX_NODES,
        max_all_nodes: int = MAX_ALL_NODES,
        max_outlines: int = MAX_OUTLINES,
        fan_out: int = FAN_OUT,
    ) -> None:
        self._patterns = RoutePatterns(patterns) if patterns else None
        self._max_owners = max_owners
        self._max_nodes = max_nodes
        self._max_all_nodes = max_all_nodes
        self._max_outlines = max_outlines
        self._fan_out = fan_out
        self._owners: dict[str, Owner] = {}
        """By name, the one that was looked at last at the end."""
        self._shared = Owner(RouteTree(max_nodes, fan_out))
        """Of all that came too late for a tree of their own."""
        self._grown = 0
        """Nodes ever made in trees of owners, those that were forgotten too."""
        self._outlines = 0
        """In `routed` and `unknown` of all owners."""
        self._counters = {
            "route_owners_forgotten": 0,
            "route_paths_shared": 0,
            "route_outlines_forgotten": 0,
            "route_places_merged": 0,
            "routes_cut": 0,
        }

    def apply(self, outline: Outline, kind: SpanKind, owner: str) -> Outline:
        """The outline with its route, and named by it; the same one for the same one.

        It is returned as it is if it is not of HTTP, has a route already or has none. `owner` is
        the name of the service that has the path: on the client's side of the one that was
        asked. A route changes where a place turns out to hold values; from then on the outline
        is another.
        """
        known = self._owners.get(owner)
        if known is not None:
            found = known.routed.get(outline)
            if found is not None:
                known.used = True
                return found
            if outline in known.unknown:
                known.used = True
                return outline
        return self._apply(outline, kind, owner)

    def counters(self) -> Mapping[str, int]:
        """Totals since start by name: what was forgotten, merged or cut, as a bound was met."""
        return self._counters

    def _apply(self, outline: Outline, kind: SpanKind, name: str) -> Outline:
        attributes = outline.attributes
        method = attributes.get(METHOD)
        if not isinstance(method, str) or ROUTE in attributes or TEMPLATE in attributes:
            return outline
        owner = self._owner(name, kind)
        key: Key = outline
        if owner is self._shared:
            key = (name, outline)
            found = owner.routed.get(key)
            if found is not None:
                return found
            if key in owner.unknown:
                return outline
            self._counters["route_paths_shared"] += 1
        path = path_of(attributes)
        route = None
        if path is not None:
            segments = split(path)
            if self._patterns is not None:
                route = self._patterns.find(segments, method, name)
            if route is None:
                teaches = attributes.get(STATUS, 0) not in OF_NO_PATH and method not in FOR_ANY_PATH
                route = self._learn(owner, segments) if teaches else owner.tree.find(segments)
        if self._outlines >= self._max_outlines:
            self._forget_outlines()
        self._outlines += 1
        if route is None:
            owner.unknown.add(key)
            return outline
        attribute = TEMPLATE if kind is SpanKind.CLIENT else ROUTE
        routed = Outline(
            f"{outline.name} {route}",
            {**attributes, attribute: route},
            outline.error_type,
            outline.client_address,
            outline.counts,
        )
        owner.routed[key] = routed
        return routed

    def _learn(self, owner: Owner, segments: list[str]) -> str:
        """The route of a path that the owner has, by what its paths have taught."""
        tree = owner.tree
        before = changes, merged, cut, grown = tree.changes, tree.merged, tree.cut, tree.grown
        route = tree.learn(segments)
        if (tree.changes, tree.merged, tree.cut, tree.grown) == before:
            return route
        if tree.changes != changes:
            self._outlines -= len(owner.unknown)
            owner.unknown.clear()
            if tree.merged != merged:
                self._outlines -= len(owner.routed)
                owner.routed.clear()
                self._counters["route_places_merged"] += tree.merged - merged
        self._counters["routes_cut"] += tree.cut - cut
        if owner is not self._shared and tree.grown != grown:
            self._count_grown(tree.grown - grown)
        return route

    def _count_grown(self, nodes: int) -> None:
        self._grown += nodes
        if self._grown - nodes < self._max_all_nodes <= self._grown:
            for owner in self._owners.values():
                owner.tree.limit(self._max_all_nodes // self._max_owners)

    def _owner(self, name: str, kind: SpanKind) -> Owner:
        owners = self._owners
        owner = owners.pop(name, None)
        if owner is None:
            asked = kind is SpanKind.CLIENT
            part = PART_OF_HOSTS if asked else 1
            if self._grown * part >= self._max_all_nodes:
                return self._shared
            if len(owners) * part >= self._max_owners:
                if asked:
                    return self._shared
                self._forget_owner()
            owner = Owner(RouteTree(self._max_nodes, self._fan_out))
            owners[name] = owner
            self._count_grown(owner.tree.grown)
            return owner
        owner.used = True
        owners[name] = owner
        return owner

    def _forget_owner(self) -> None:
        """The first that was not used since it was last considered, else the first."""
        owners = self._owners
        for _ in range(len(owners)):
            name = next(iter(owners))
            owner = owners.pop(name)
            if not owner.used:
                break
            owner.used = False
            owners[name] = owner
        else:
            owner = owners.pop(next(iter(owners)))
        self._outlines -= len(owner.routed) + len(owner.unknown)
        self._counters["route_owners_forgotten"] += 1

    def _forget_outlines(self) -> None:
        """All of them: those in use come back at once."""
        for owner in (self._shared, *self._owners.values()):
            owner.routed.clear()
            owner.unknown.clear()
        self._counters["route_outlines_forgotten"] += self._outlines
        self._outlines = 0


def path_of(attributes: Mapping[str, AttributeValue]) -> str | None:
    """The path that was asked for, as it is on the wire; None where there is none."""
    full = attributes.get("url.full")
    path: AttributeValue | None
    if isinstance(full, str):
        origin = ORIGIN.match(full)
        path = full[origin.end() :] if origin else full
    else:
        path = attributes.get("url.path")
    if not isinstance(path, str):
        return None
    if "?" in path or "#" in path:
        path = path.partition("?")[0].partition("#")[0]
    if not path:
        # CONNECT has no path, nor has `OPTIONS *`.
        return None if attributes[METHOD] in {"CONNECT", "OPTIONS"} else "/"
    return path if path.startswith("/") else None
