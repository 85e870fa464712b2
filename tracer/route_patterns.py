# SPDX-License-Identifier: Apache-2.0
r"""Routes as a user writes them down, and which of them a path belongs to.

`[METHOD ][SERVICE:]/path`, for example `/users/{id}`, `GET /users/{id}`, `shop:/files/**`. In the
path stands for

- one segment: `{id}`, `:id`, `<id>`, `<int:id>` or `*`; in braces with text around it as well:
  `/reports/{name}.pdf`. What is said of a value's form (`{id:[0-9]+}`) is not looked at;
- the rest, none or more segments: `**`, `{path...}`, `{*path}`, `{path:path}`, `<path:name>`,
  `*path`, at the end only.

These are the forms of the common frameworks, so that their route tables can be pasted. The most
specific pattern wins: segment by segment, text before text with a parameter before a parameter
before `*` before the rest; then the one that says both service and method, the service, the
method. Slashes at the end, doubled ones and matrix parameters do not count.

Patterns are a tree, and looking a path up visits each of its nodes at most once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from tracer.route_segments import MAX_SEGMENTS, split

MAX_PATTERNS: Final = 1000
"""More are a generated list: each new path may cost a visit of all."""
MAX_PATTERN_CHARS: Final = 255

PATTERN: Final = re.compile(r"(?:([A-Z]+)[ \t]+)?(?:([^\s/]+):)?(/\S*)")
REST_FORM: Final = re.compile(
    r"\*\*|\{\*\w*\}|\{\w+\.\.\.\}|\{\w+:(?:path|\.\*|\.\+|\*)\}|<path:\w+>|\*\w+"
)
PARAMETER: Final = re.compile(
    r":\w+[?]?|<(?:\w+(?:\([^()<>/]*\))?:)?\w+>|\{[\w-]+[?]?(?::[^{}/]*)?\}"
)
AFFIXED: Final = re.compile(r"([^{}<>*]*)\{[\w-]+(?::[^{}/]*)?\}([^{}<>*]*)")
SPECIAL: Final = re.compile(r"[{}<>*]")

Scope = tuple[str, str]
"""Service and method; empty for any."""


class _Node:
    __slots__ = ("affixed", "any", "ends", "parameter", "rest", "words")

    def __init__(self) -> None:
        self.words: dict[str, _Node] = {}
        self.affixed: dict[tuple[str, str], _Node] = {}
        """By the text before and behind the parameter; most text first."""
        self.parameter: _Node | None = None
        self.any: _Node | None = None
        self.rest: dict[Scope, str] = {}
        self.ends: dict[Scope, str] = {}


class RoutePatterns:
    """All patterns of a user.

    Raises:
        ValueError: one cannot be understood, or two say the same; in words for the user.
    """

    __slots__ = ("_root",)

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._root = _Node()
        for number, pattern in enumerate(patterns):
            if number == MAX_PATTERNS:
                raise ValueError(
                    f"more than {MAX_PATTERNS} routes: put * or ** in the place of what differs"
                )
            self._add(pattern)

    def find(self, segments: Sequence[str], method: str, service: str) -> str | None:
        """The route of a path as the user has written it, without method and service."""
        scopes = ((service, method), (service, ""), ("", method), ("", ""))
        return _find(self._root, segments, 0, scopes)

    def _add(self, pattern: str) -> None:
        match = PATTERN.fullmatch(pattern.strip())
        if match is None:
            raise ValueError(
                f"route {pattern!r}: write a path that begins with /, such as /users/{{id}}, "
                "if need be with method and service before it: GET shop:/users/{id}"
            )
        route = match[3]
        if route.startswith("//"):
            raise ValueError(
                f"route {pattern!r}: leave out scheme and host; a route is a path alone"
            )
        if len(route) > MAX_PATTERN_CHARS:
            raise ValueError(
                f"route {pattern[:40]!r}...: longer than {MAX_PATTERN_CHARS} characters; "
                "end it earlier with **"
            )
        if "?" in PARAMETER.sub("", route) or "#" in route:
            raise ValueError(f"route {pattern!r}: leave out the query; a route is a path alone")
        segments = split(route)
        if route.count("/") >= MAX_SEGMENTS and len(segments) >= MAX_SEGMENTS:
            raise ValueError(
                f"route {pattern!r}: {MAX_SEGMENTS} segments or more; end it earlier with **"
            )
        scope = (match[2] or "", match[1] or "")
        node = self._root
        rest = bool(segments) and REST_FORM.fullmatch(segments[-1]) is not None
        for segment in segments[:-1] if rest else segments:
            node = _child(node, segment, pattern)
        known = (node.rest if rest else node.ends).setdefault(scope, route)
        if known != route:
            raise ValueError(f"routes {known!r} and {route!r} are of the same paths: remove one")


def _child(node: _Node, segment: str, pattern: str) -> _Node:
    """The child of `node` for one segment of a pattern."""
    if segment == "*":
        node.any = node.any or _Node()
        return node.any
    if PARAMETER.fullmatch(segment):
        node.parameter = node.parameter or _Node()
        return node.parameter
    affixed = AFFIXED.fullmatch(segment)
    if affixed is not None:
        child = node.affixed.setdefault((affixed[1], affixed[2]), _Node())
        node.affixed = dict(
            sorted(node.affixed.items(), key=lambda item: -len(item[0][0]) - len(item[0][1]))
        )
        return child
    if REST_FORM.fullmatch(segment):
        raise ValueError(
            f"route {pattern!r}: {segment} stands for the rest and can only be the last segment; "
            "write * for one segment"
        )
    if SPECIAL.search(segment):
        raise ValueError(
            f"route {pattern!r}: {segment} is not understood; write {{name}} for one value in a "
            "segment, * for a segment, ** for the rest"
        )
    return node.words.setdefault(segment, _Node())


def _find(
    node: _Node, segments: Sequence[str], position: int, scopes: Sequence[Scope]
) -> str | None:
    if position == len(segments):
        found = _choose(node.ends, scopes)
    else:
        segment = segments[position]
        found = None
        for child in _children(node, segment):
            found = _find(child, segments, position + 1, scopes)
            if found is not None:
                break
    return _choose(node.rest, scopes) if found is None and node.rest else found


def _children(node: _Node, segment: str) -> list[_Node]:
    """Where `segment` may lead to, the most specific first."""
    found = [node.words[segment]] if segment in node.words else []
    for (before, behind), child in node.affixed.items():
        if (
            len(segment) > len(before) + len(behind)
            and segment.startswith(before)
            and segment.endswith(behind)
        ):
            found.append(child)
    if node.parameter is not None:
        found.append(node.parameter)
    if node.any is not None:
        found.append(node.any)
    return found


def _choose(routes: dict[Scope, str], scopes: Sequence[Scope]) -> str | None:
    if routes:
        for scope in scopes:
            if scope in routes:
                return routes[scope]
    return None
