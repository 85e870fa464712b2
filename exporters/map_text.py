# SPDX-License-Identifier: Apache-2.0
"""A service map as a tree for people: who asks whom, and how that goes.

    13:25:48 to 13:29:08 (3m20s): 1,204 exchanges between 5 nodes, 5 failed

                      RATE/s  ERR    P50    P95    P99   BYTES/s PROTOCOL
    user
    └─ nginx            6.02    -  812µs 3.04ms 4.10ms 1.1K/7.4K http
       └─ shop          6.02 0.4%  790µs 2.92ms 4.02ms 1.0K/7.2K http
          ├─ stock      2.01 1.2%  445µs 1.69ms 1.90ms    132/98 grpc
          │  └─ shop ↑  0.08    -  301µs  660µs  672µs      8/12 http
          └─ redis      6.02    - 61.0µs  120µs  140µs  300/1.2K redis

An exchange that was seen from both ends is one between two nodes, where a list of spans has two.

A node that many ask has its own calls below the first of them only; the others refer to it. A
tree can be deeper than a terminal is wide, and a graph has cycles: what does not fit is printed
as a tree of its own.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final, Literal, NamedTuple, TextIO, TypeAlias

from exporters.layout import columns, duration, left, right, shorten_end, shorten_middle, size
from exporters.map_model import MapEdge, Node, NodeKind, NodeName, ServiceMap
from tracer.printable import printable

Color: TypeAlias = Literal["auto", "always", "never"]

DEFAULT_WIDTH: Final = 80
"""Where there is no terminal to ask."""
MIN_TREE: Final = 24
"""Columns that the tree gets before figures get theirs."""
MIN_NAME: Final = 12
"""Where the indent leaves a name less, the tree is continued elsewhere."""
INDENT: Final = 3
PROTOCOL: Final = len("postgresql")
BAD_SHARE: Final = 0.01
"""Errors beyond this share are red, fewer yellow."""

RED: Final = "31"
GREEN: Final = "32"
YELLOW: Final = "33"
CYAN: Final = "36"
BOLD: Final = "1"
DIM: Final = "2"


class MapSigns(NamedTuple):
    """Characters beyond ASCII, or what stands for them."""

    branch: str
    last: str
    down: str
    unseen: str
    above: str
    below: str
    to: str
    ellipsis: str
    micro: str


UNICODE: Final = MapSigns("├─ ", "└─ ", "│  ", "°", "↑", "↓", "→", "…", "µ")
ASCII: Final = MapSigns("|- ", "`- ", "|  ", "*", "^", "v", "->", "..", "u")


@dataclass(slots=True, frozen=True)
class Look:
    """How text is to look."""

    width: int = DEFAULT_WIDTH
    color: bool = False
    signs: MapSigns = UNICODE
    time_zone: tzinfo | None = None
    """None: local time."""

    def clean(self, text: str) -> str:
        """`text` of others, without what a terminal would obey."""
        return printable(text, ascii_only=self.signs is ASCII)

    def paint(self, text: str, code: str) -> str:
        """`text` in a colour, if there are any."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and code and text.strip() else text

    def clock(self, unix_ns: int) -> str:
        """The time of day."""
        moment = datetime.fromtimestamp(unix_ns // 1_000_000_000, UTC)
        return moment.astimezone(self.time_zone).strftime("%H:%M:%S")

    def period(self, start_unix_ns: int, end_unix_ns: int) -> str:
        """`13:25:48 to 13:29:08 (3m20s)`."""
        took = duration(max(0, end_unix_ns - start_unix_ns), self.signs.micro)
        return f"{self.clock(start_unix_ns)} to {self.clock(end_unix_ns)} ({took})"


def look_of(stream: TextIO, *, width: int | None = None, color: Color = "auto") -> Look:
    """The look that suits `stream`; width None: as its terminal is."""
    terminal = stream.isatty()
    if width is None:
        width = shutil.get_terminal_size().columns if terminal else DEFAULT_WIDTH
    signs = UNICODE
    try:
        "".join(UNICODE).encode(stream.encoding or "utf-8")
        "\U0001f600".encode(stream.encoding or "utf-8")
    except (LookupError, UnicodeEncodeError):
        signs = ASCII
    return Look(width, color == "always" or (color == "auto" and terminal), signs)


class Figure(NamedTuple):
    """A column of figures."""

    title: str
    width: int
    rank: int
    """The columns with the smallest ones are there first when room is scarce."""
    cell: Callable[[ServiceMap, MapEdge, Look], str]


def _seconds(value: float | None, look: Look) -> str:
    return "-" if value is None else duration(round(value * 1e9), look.signs.micro)


def rate_text(value: float) -> str:
    """A rate in at most five columns."""
    if value < 0.01:
        return "<0.01" if value else "0"
    for unit in ("", "K", "M", "G"):
        if value < 9.995:
            return f"{value:.2f}{unit}"
        if value < 99.95:
            return f"{value:.1f}{unit}"
        if value < 999.5 or unit == "G":
            break
        value /= 1000
    return f"{value:.0f}{unit}"


def share_text(errors: int, count: int) -> str:
    """Errors in per cent, in at most five columns; a dash where there are none."""
    share = 100 * errors / count if count else 0.0
    if not share:
        return "-"
    if share < 0.1:
        return "<0.1%"
    return f"{share:.0f}%" if share >= 9.95 else f"{share:.1f}%"


def _bytes(service_map: ServiceMap, edge: MapEdge, _: Look) -> str:
    seconds = service_map.seconds
    asked, answered = edge.request_bytes / seconds, edge.response_bytes / seconds
    return f"{size(round(asked))}/{size(round(answered))}"


def _server(which: str) -> Callable[[ServiceMap, MapEdge, Look], str]:
    """A quantile of the server's own view, where it is known at all."""

    def cell(_: ServiceMap, edge: MapEdge, look: Look) -> str:
        own = edge.latency if edge.seen_by == "server" else edge.server_latency
        return _seconds(getattr(own, which) if own else None, look)

    return cell


FIGURES: Final = (
    Figure("COUNT", 7, 8, lambda _, edge, __: _count(edge.count)),
    Figure("RATE/s", 6, 1, lambda whole, edge, _: rate_text(whole.rate(edge))),
    Figure("ERR", 5, 2, lambda _, edge, __: share_text(edge.errors, edge.count)),
    Figure("P50", 6, 5, lambda _, edge, look: _seconds(edge.latency.p50_s, look)),
    Figure("P95", 6, 3, lambda _, edge, look: _seconds(edge.latency.p95_s, look)),
    Figure("P99", 6, 6, lambda _, edge, look: _seconds(edge.latency.p99_s, look)),
    Figure("MAX", 6, 11, lambda _, edge, look: _seconds(edge.latency.max_s, look)),
    Figure("SRV50", 6, 9, _server("p50_s")),
    Figure("SRV95", 6, 10, _server("p95_s")),
    Figure("RTT", 6, 12, lambda _, edge, look: _seconds(edge.rtt_median_s, look)),
    Figure("PART", 5, 13, lambda _, edge, __: share_text(edge.incomplete, edge.count)),
    Figure("BYTES/s", 9, 7, _bytes),
    Figure("LAST", 8, 14, lambda _, edge, look: look.clock(edge.last_unix_ns)),
    Figure("PROTOCOL", PROTOCOL, 4, lambda _, edge, __: edge.ends.protocol),
)
"""In the order of the columns; each takes one more for the gap before it."""


def _count(number: int) -> str:
    return f"{number:,}" if number < 1_000_000 else f"{number / 1e6:.3g}M"


def text(service_map: ServiceMap, look: Look) -> str:
    """The whole map; each line ends with a line feed and has at most `look.width` columns."""
    return "".join(f"{line}\n" for line in _Tree(service_map, look).lines())


class _Line(NamedTuple):
    """A line of the tree: a root has no edge."""

    prefix: str
    node: Node
    mark: str
    edge: MapEdge | None


class _Tree:
    """Walks the graph and lays out the lines."""

    def __init__(self, service_map: ServiceMap, look: Look) -> None:
        self._map = service_map
        self._look = look
        self._nodes = {node.name: node for node in service_map.nodes}
        self._calls: defaultdict[NodeName, list[MapEdge]] = defaultdict(list)
        for edge in service_map.edges:
            self._calls[edge.ends.client].append(edge)
        for edges in self._calls.values():
            volume: dict[NodeName, int] = defaultdict(int)
            for edge in edges:
                volume[edge.ends.server] += edge.count
            edges.sort(key=lambda edge: (-volume[edge.ends.server], edge.ends.server, -edge.count))
        self._widths = {
            figure.title: max(
                map(
                    columns,
                    [figure.title, *[self._words(figure, edge) for edge in self._map.edges]],
                )
            )
            for figure in FIGURES
        }
        room = look.width - MIN_TREE
        chosen: list[Figure] = []
        for figure in sorted(FIGURES, key=lambda figure: figure.rank):
            if room < self._widths[figure.title] + 1:
                break
            chosen.append(figure)
            room -= self._widths[figure.title] + 1
        self._figures = [figure for figure in FIGURES if figure in chosen]
        self._room = MIN_TREE + room

    def _words(self, figure: Figure, edge: MapEdge) -> str:
        found = self._look.clean(figure.cell(self._map, edge, self._look))
        return shorten_middle(found, figure.width, self._look.signs.ellipsis)

    def lines(self) -> Iterator[str]:
        """From the headline to the legend."""
        look = self._look
        yield from self._headline()
        if not self._map.edges:
            return
        lines = list(self._walk())
        width = min(self._room, max(self._width(line) for line in lines))
        yield ""
        titles = [self._aligned(figure, figure.title) for figure in self._figures]
        yield look.paint(" ".join([" " * width, *titles]).rstrip(), DIM)
        for line in lines:
            yield self._line(line, width)
        legend = list(self._legend(lines))
        if legend:
            yield ""
            short = (shorten_end(line, look.width, look.signs.ellipsis) for line in legend)
            yield from (look.paint(line, DIM) for line in short)

    def _headline(self) -> Iterator[str]:
        service_map, look = self._map, self._look
        count, errors, incomplete = service_map.totals
        facts = [("nothing was seen", "")]
        if count:
            nodes = len(service_map.nodes)
            where = "within one node" if nodes == 1 else f"between {nodes:,} nodes"
            facts = [(f"{count:,} exchange{'' if count == 1 else 's'}", ""), (where, "")]
        if errors:
            facts.append((f"{errors:,} failed", RED))
        if incomplete:
            facts.append((f"{incomplete:,} not whole", YELLOW))
        line = look.period(service_map.start_unix_ns, service_map.end_unix_ns) + ":"
        used, gap = len(line), " "
        for number, (fact, paint) in enumerate(facts, 1):
            comma = "," if 1 < number < len(facts) else ""
            if used + len(gap) + len(fact) + len(comma) > look.width:
                yield line
                line, used, gap = " ", 1, " "
            line += gap + look.paint(fact, paint) + comma
            used += len(gap) + len(fact) + len(comma)
        yield line

    def _walk(self) -> Iterator[_Line]:
        """Depth first; each node's calls once, below the first line that leads there."""
        others = [edge.ends for edge in self._map.edges if edge.ends.server != edge.ends.client]
        asked = {ends.server for ends in others}
        volume = {name: sum([edge.count for edge in edges]) for name, edges in self._calls.items()}
        waiting = sorted(volume, key=lambda name: (name in asked, -volume[name], name))
        shown: set[NodeName] = set()
        deferred: list[NodeName] = []
        while deferred or waiting:
            name = deferred.pop(0) if deferred else waiting.pop(0)
            if name not in shown:
                shown.add(name)
                yield _Line("", self._nodes[name], "", None)
                yield from self._below(name, shown, deferred)

    def _below(
        self, root: NodeName, shown: set[NodeName], deferred: list[NodeName]
    ) -> Iterator[_Line]:
        """The tree below `root`; where it gets too deep, what goes on is `deferred`."""
        signs = self._look.signs
        stack = [("", iter(self._branches(root)))]
        while stack:
            indent, branches = stack[-1]
            branch = next(branches, None)
            if branch is None:
                stack.pop()
                continue
            edge, is_last_to, is_last = branch
            server = edge.ends.server
            inner = indent + (" " * INDENT if is_last else signs.down)
            mark = ""
            descend = False
            if server in shown and server in self._calls:
                mark = signs.above
            elif is_last_to and server in self._calls:
                if server in deferred or len(inner) + INDENT + MIN_NAME > self._room:
                    mark = signs.below
                    if server not in deferred:
                        deferred.append(server)
                else:
                    shown.add(server)
                    descend = True
            prefix = indent + (signs.last if is_last else signs.branch)
            yield _Line(prefix, self._nodes[server], mark, edge)
            if descend:
                stack.append((inner, iter(self._branches(server))))

    def _branches(self, name: NodeName) -> list[tuple[MapEdge, bool, bool]]:
        """The calls of a node: each with whether it is the last to its server, and of all."""
        edges = self._calls[name]
        servers: Sequence[NodeName | None] = [*[edge.ends.server for edge in edges[1:]], None]
        return [
            (edge, edge.ends.server != following, following is None)
            for edge, following in zip(edges, servers, strict=True)
        ]

    def _suffix(self, line: _Line) -> str:
        unseen = self._look.signs.unseen if line.node.kind is NodeKind.EXTERNAL else ""
        return unseen + (f" {line.mark}" if line.mark else "")

    def _width(self, line: _Line) -> int:
        name = self._look.clean(str(line.node.name))
        return len(line.prefix) + columns(name) + len(self._suffix(line))

    def _line(self, line: _Line, width: int) -> str:
        look = self._look
        suffix = self._suffix(line)
        name = look.clean(str(line.node.name))
        used = len(line.prefix) + len(suffix)
        name = shorten_middle(name, width - used, look.signs.ellipsis)
        padding = " " * (width - used - columns(name))
        paint = {NodeKind.SERVICE: BOLD, NodeKind.DATABASE: CYAN}.get(line.node.kind, "")
        drawn = look.paint(line.prefix, DIM) + look.paint(name, paint) + look.paint(suffix, DIM)
        if line.edge is None:
            return drawn
        cells = [self._cell(figure, line.edge) for figure in self._figures]
        return " ".join([drawn + padding, *cells]).rstrip()

    def _cell(self, figure: Figure, edge: MapEdge) -> str:
        look = self._look
        found = self._words(figure, edge)
        paint = DIM if found == "-" else ""
        if figure.title == "ERR" and edge.errors:
            paint = RED if edge.error_share >= BAD_SHARE else YELLOW
        return look.paint(self._aligned(figure, found), paint)

    def _aligned(self, figure: Figure, found: str) -> str:
        return (left if figure.title == "PROTOCOL" else right)(found, self._widths[figure.title])

    def _legend(self, lines: Sequence[_Line]) -> Iterator[str]:
        signs = self._look.signs
        if any(line.node.kind is NodeKind.EXTERNAL for line in lines):
            yield f"{signs.unseen} not observed itself: another machine, or not looked at"
        marks = {line.mark for line in lines}
        if signs.above in marks:
            yield f"{signs.above} what it asks is shown above"
        if signs.below in marks:
            yield f"{signs.below} what it asks is shown below"
        if any(figure.title == "SRV50" for figure in self._figures):
            yield "SRV50, SRV95: as the server saw it; what the others have more is the way there"
