# SPDX-License-Identifier: Apache-2.0
"""The routes of one service, learnt from paths that it has answered.

A tree of segments, with ids already replaced (tracer/route_segments.py). What is left are words of
the program, which are few, and values that look like words (names of users), which are many: a
place that has more than `fan_out` different ones holds values. It becomes `*`, and what followed
each of them is merged. A word that has far more than its share of the paths at such a place
stays: it is a route in use, and a scanner's guesses must not take its name. `{id}` stays too, so
that no route changes its name only because its neighbours did.

Bounded in nodes, and in those ever made, so that no sequence of paths makes many routes: of one
tree at most `2 * (TIMES_GROWN + 1) * max_nodes` in its life, each place with and without `**`. When
they are used up, places where merging frees the most become `*` early; when that helps no more,
a new path gets what is known of its first segments, and `**`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tracer.route_segments import ID, REST, generalise

MAX_NODES: Final = 600
"""Of one service; a large API has some hundred routes. About 250 bytes each."""
TIMES_GROWN: Final = 2
"""A tree has no more than so many times its bound of nodes in its life: a name that a route had
before its place was merged is still one that a backend must keep."""
FAN_OUT: Final = 40
"""Words at one place. Few programs spell out more, few values have so few."""
MIN_FAN_OUT: Final = 8
"""So many are values if the tree is full, or behind many values."""
MANY_VALUES: Final = 3
"""So many `*` and ids. Few words are behind them, and much of what a scanner makes up."""
MAX_ROUTE_CHARS: Final = 255
USUAL_SHARES: Final = 4
"""A word that has so many times what each would have if all had the same stays a word."""
MIN_PATHS: Final = 32
"""Of a word that stays: of fewer its share says nothing."""
CUT_SEGMENTS: Final = 2
"""Known ones that stand before `**` when the tree is full."""
ANY: Final = "*"
ROOT: Final = "/"
NO_WORDS: Final = frozenset({ID, REST})
"""Each is one child, however many values there are."""


class Node:
    """What stands at one place of a path."""

    __slots__ = ("any", "children", "ends", "is_rest", "paths", "route")

    def __init__(self, route: str, *, is_rest: bool = False) -> None:
        self.route = route
        self.children: dict[str, Node] = {}
        """By word or by segment with `{id}`."""
        self.any: Node | None = None
        """Where the place holds values: the one for all that is not in `children`."""
        self.ends = False
        """A path that was answered ended here."""
        self.is_rest = is_rest
        """It is `**`, and nothing comes behind it."""
        self.paths = 0
        """How many have come by: those that were learnt, not requests."""

    def words(self) -> list[str]:
        return [key for key in self.children if key not in NO_WORDS]


class RouteTree:
    """The routes of one service."""

    __slots__ = (
        "_fan_out",
        "_max_grown",
        "_max_nodes",
        "_root",
        "_stiff",
        "changes",
        "cut",
        "grown",
        "merged",
        "nodes",
    )

    def __init__(self, max_nodes: int = MAX_NODES, fan_out: int = FAN_OUT) -> None:
        self._max_nodes = max_nodes
        self._max_grown = max_nodes * TIMES_GROWN
        self._fan_out = fan_out
        self._root = Node("")
        self._stiff = False
        """It is full, and merging helps no more."""
        self.nodes = 1
        self.grown = 1
        """Nodes ever made."""
        self.changes = 0
        """How often a route became known or places were merged."""
        self.merged = 0
        """Places that became `*`. A path that was known before may have another route since."""
        self.cut = 0
        """Paths whose route ends in `**` because the tree was full."""

    def find(self, segments: Sequence[str]) -> str | None:
        """The route of a path if it is known."""
        node = self._root
        for segment in segments:
            child = node.children.get(segment) or self._step(node, segment)
            if child is None:
                return None
            node = child
            if node.is_rest:
                break
        return (node.route or ROOT) if node.ends else None

    def learn(self, segments: Sequence[str]) -> str:
        """The route of a path that the service has."""
        node = self._root
        node.paths += 1
        for segment in segments:
            child = node.children.get(segment) or self._step(node, segment)
            if child is None:
                if self.grown >= self._max_grown:
                    return self._cut(segments)
                if self.nodes >= self._max_nodes:
                    return self.learn(segments) if self._make_room() else self._cut(segments)
                child = self._grow(node, segment)
            child.paths += 1
            node = child
            if node.is_rest:
                break
        if not node.ends:
            node.ends = True
            self.changes += 1
        return node.route or ROOT

    def limit(self, grown: int) -> None:
        """From now on make new nodes only as long as it has made less than so many."""
        self._max_grown = min(self._max_grown, grown)

    def routes(self) -> list[str]:
        """All that are known."""
        return [node.route or ROOT for node in self._walk() if node.ends]

    @staticmethod
    def _key(node: Node, segment: str) -> str:
        """As what `segment` stands in the tree below `node`."""
        key = generalise(segment)
        # So that there is room for "/**" behind each.
        return key if len(node.route) + len(key) + 4 <= MAX_ROUTE_CHARS else REST

    def _step(self, node: Node, segment: str) -> Node | None:
        """Where `segment`, which is no word that is known there, leads to."""
        key = self._key(node, segment)
        return node.children.get(key) or (node.any if key not in NO_WORDS else None)

    def _grow(self, node: Node, segment: str) -> Node:
        """The new child of `node` for `segment`."""
        key = self._key(node, segment)
        child = self._add(node, key)
        limit = self._limit(node)
        if node.any is None and len(node.children) > limit:
            words = node.words()
            if len(words) > limit:
                self._merge_words(node, words, len(words))
                return self._step(node, segment) or child
        return child

    def _limit(self, node: Node) -> int:
        """How many different words are words there."""
        route = node.route
        if route.count("/*") + route.count("/{id}") < MANY_VALUES:
            return self._fan_out
        return min(self._fan_out, MIN_FAN_OUT)

    def _add(self, node: Node, key: str) -> Node:
        child = node.children[key] = self._make(node, key)
        return child

    def _add_any(self, node: Node) -> Node:
        node.any = self._make(node, ANY)
        return node.any

    def _make(self, node: Node, key: str) -> Node:
        self.nodes += 1
        self.grown += 1
        return Node(f"{node.route}/{key}", is_rest=key == REST)

    def _merge_words(self, node: Node, words: list[str], values: int) -> None:
        """The place holds values, about so many."""
        into = node.any or self._add_any(node)
        passed = into.paths + sum([node.children[word].paths for word in words])
        for word in words:
            child = node.children[word]
            if child.paths >= MIN_PATHS and child.paths * values >= USUAL_SHARES * passed:
                continue
            del node.children[word]
            self._merge(into, child)
        self.merged += 1
        self.changes += 1

    def _merge(self, into: Node, other: Node) -> None:
        """Add all of `other`, which is no part of the tree any more."""
        self.nodes -= 1
        into.ends |= other.ends
        into.paths += other.paths
        for key, child in other.children.items():
            known = into.children.get(key) or (into.any if key not in NO_WORDS else None)
            self._merge(known or self._add(into, key), child)
        if other.any is not None:
            self._merge(into.any or self._add_any(into), other.any)
        words = into.words()
        if words and (into.any is not None or len(words) > self._limit(into)):
            self._merge_words(into, words, self._fan_out)

    def _make_room(self) -> bool:
        """Merge where it frees the most, until a quarter is free; whether that was worth it."""
        while not self._stiff and self.nodes > self._max_nodes * 3 // 4:
            best = max(self._walk(), key=self._freed)
            if not self._freed(best):
                break
            words = best.words()
            self._merge_words(best, words, len(words))
        self._stiff = self._stiff or self.nodes > self._max_nodes * 7 // 8
        return self.nodes < self._max_nodes

    @staticmethod
    def _freed(node: Node) -> int:
        """About how many nodes merging its children frees; 0 if they are too few for values."""
        words = node.words()
        if node.any is not None or len(words) < MIN_FAN_OUT:
            return 0
        below = [word for each in words for word in node.children[each].words()]
        return len(words) - 1 + len(below) - len(set(below))

    def _cut(self, segments: Sequence[str]) -> str:
        self.cut += 1
        node = self._root
        for segment in segments[:CUT_SEGMENTS]:
            child = node.children.get(segment) or self._step(node, segment)
            if child is None or child.is_rest:
                break
            node = child
        return f"{node.route}/{REST}"

    def _walk(self) -> Iterator[Node]:
        nodes = [self._root]
        while nodes:
            node = nodes.pop()
            yield node
            nodes.extend(node.children.values())
            if node.any is not None:
                nodes.append(node.any)
