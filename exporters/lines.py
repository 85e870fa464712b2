# SPDX-License-Identifier: Apache-2.0
"""A span as one line of columns that fits a width.

The request gets what the other columns leave. Where that is little, the peer gives way
first; what is too long loses its middle, or its end if it is a statement.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final, NamedTuple

from exporters import summary
from exporters.layout import (
    columns,
    duration,
    left,
    right,
    shorten_end,
    shorten_middle,
    shorten_path,
    size,
)
from parsers.model import Completeness, Outline, Side
from tracer.printable import printable
from tracer.span import Span

TIME: Final = len("22:13:20.123")
LATENCY: Final = len("1.23ms")
STATUS: Final = 1 + len("23505")
"""The mark, and a status; longer ones than SQL's are noted behind the request."""
STATUS_NARROW: Final = 1 + len("200")
SIZES: Final = len("999K/999K")
ADDRESS: Final = len("255.255.255.255:65535")
ENDS: Final = 2 * ADDRESS - len("65535")
"""Both ends of most connections; those of IPv6 may lose their middle."""
TRACE_ID: Final = 32
PROTOCOL: Final = len("postgresql")

NARROW: Final = 116
"""Below this many columns each counts: with all aligned the request would have fewer than 32."""
MAX_WIDTH: Final = 1000
"""Beyond it nothing is cut and only what is short is padded."""
UNLIMITED: Final = 1 << 30
WHO: Final = 22
WHO_NARROW: Final = 16
MIN_PEER: Final = 9
MIN_REQUEST: Final = 6
MIN_NOTE: Final = 12
"""What a note may have before the target is cut for it: most errors' names and the brackets."""
GOOD_REQUEST: Final = 40
"""Columns are added only as long as the request keeps this many."""
LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})

RED: Final = "31"
GREEN: Final = "32"
YELLOW: Final = "33"
BLUE: Final = "34"
MAGENTA: Final = "35"
CYAN: Final = "36"
BOLD: Final = "1"
DIM: Final = "2"


class Signs(NamedTuple):
    """Characters beyond ASCII, or what stands for them."""

    into: dict[Side, str]
    to: str
    error: str
    partial: str
    ellipsis: str
    micro: str


UNICODE: Final = Signs(
    {Side.SERVER: "←", Side.CLIENT: "→", Side.UNKNOWN: "·"}, "→", "✗", "~", "…", "µ"
)
ASCII: Final = Signs(
    {Side.SERVER: "<", Side.CLIENT: ">", Side.UNKNOWN: "-"}, ">", "!", "~", "..", "u"
)


@dataclass(slots=True, frozen=True, kw_only=True)
class Plan:
    """Which columns there are, and how wide."""

    width: int
    who: int
    first_byte: bool = False
    rtt: bool = False
    protocol: bool = False
    trace_id: bool = False
    addresses: bool = False
    """Both ends in place of the peer."""
    counts: bool = False
    """How many rows or messages there were, behind the request."""
    aligned: bool = True
    """Sizes and peer begin at the same column in each line."""

    @property
    def boundless(self) -> bool:
        return self.width > MAX_WIDTH


def compact(width: int) -> Plan:
    """Time, latency, process, status, request, sizes, peer."""
    if width < NARROW:
        return Plan(width=width, who=WHO_NARROW, aligned=False)
    return Plan(width=width, who=WHO)


def wide(width: int) -> Plan:
    """As many columns as there is room for."""
    if width < NARROW:
        return compact(width)
    room = width - GOOD_REQUEST - (TIME + LATENCY + WHO + STATUS + SIZES + ADDRESS + 8)
    chosen: dict[str, bool] = {}
    for name, needed in (
        ("protocol", PROTOCOL + 1),
        ("trace_id", TRACE_ID + 1),
        ("first_byte", LATENCY + 1),
        ("rtt", LATENCY + 1),
        ("addresses", ENDS - ADDRESS),
    ):
        chosen[name] = room >= needed
        if chosen[name]:
            room -= needed
    return Plan(width=width, who=WHO, counts=True, **chosen)


class Cell(NamedTuple):
    """Text that has its width already, and how to paint it."""

    text: str
    paint: str = ""


class Words(NamedTuple):
    """What was asked, and what there is to say of it."""

    verb: str
    target: str
    note: str
    ends: bool = False
    """What is too long loses its end, not its middle."""


class Lines:
    """Turns spans into lines."""

    def __init__(
        self, plan: Plan, *, signs: Signs, color: bool, time_zone: tzinfo | None = None
    ) -> None:
        self.plan = plan
        self._signs = signs
        self._ascii = signs is ASCII
        self._color = color
        self._time_zone = time_zone
        self._second = -1
        self._clock = ""

    def header(self) -> str:
        """The names of the columns."""
        plan = self.plan
        head = [Cell("TIME".ljust(TIME)), Cell("TOOK".rjust(LATENCY))]
        if plan.first_byte:
            head.append(Cell("TTFB".rjust(LATENCY)))
        if plan.rtt:
            head.append(Cell("RTT".rjust(LATENCY)))
        head.append(Cell("  PROCESS".ljust(plan.who + 2)))
        if plan.protocol:
            head.append(Cell("PROTO".ljust(PROTOCOL)))
        head.append(Cell("STAT".rjust(STATUS if plan.aligned else STATUS_NARROW)))
        peer = f"CLIENT{self._signs.to}SERVER" if plan.addresses else "PEER"
        line = self._compose(
            head, Words("", "REQUEST", ""), "", self._tail("SIZES", peer, "TRACE ID")
        )
        return _paint(line, DIM) if self._color else line

    def line(self, span: Span) -> str:
        """`span`, without the line's end."""
        plan = self.plan
        paint, head = self._head(span)
        verb, target = map(self._clean, summary.request(span.outline))
        notes = summary.notes(span)
        code = summary.status(span.outline)
        if len(code) >= STATUS and code not in notes:
            notes.append(code)
        note = f" [{self._clean(', '.join(notes))}]" if notes else ""
        if plan.counts and not note and (counted := summary.counted(span)):
            note = f" ({self._clean(counted)})"
        request = Words(f"{verb} " if verb and target else verb, target, note)
        answer = "-" if span.completeness is Completeness.UNANSWERED else size(span.response_bytes)
        sizes = f"{size(span.request_bytes)}/{answer}"
        trace_id = span.trace_id.hex()
        peer = self._ends(span) if plan.addresses else self._peer(span)
        tail = self._tail(sizes, peer, trace_id)
        if summary.is_statement(span.outline):
            request = self._statement(span.outline, request, self._room(head, tail), peer)
        if not plan.aligned:
            wanted = max(MIN_REQUEST, sum(map(columns, request[:3])))
            lacking = wanted - self._room(head, tail)
            if lacking > 0 and columns(peer) > MIN_PEER:
                peer = shorten_middle(
                    peer, max(MIN_PEER, columns(peer) - lacking), self._signs.ellipsis
                )
                tail = self._tail(sizes, peer, trace_id)
        return self._compose(head, request, paint, tail)

    def _statement(self, outline: Outline, request: Words, room: int, peer: str) -> Words:
        """A statement that would lose too much is told by what it does and to what."""
        if not self.plan.aligned:
            room += max(0, columns(peer) - MIN_PEER)
        lacking = sum(map(columns, request[:3])) - room
        gist = self._clean(summary.gist(outline))
        bearable = room // 4 if self.plan.aligned else 0
        if gist and lacking > bearable and room < GOOD_REQUEST:
            request = request._replace(target=gist)
        return request._replace(ends=True)

    def _head(self, span: Span) -> tuple[str, list[Cell]]:
        """The cells before the request, and the paint of the verdict."""
        plan = self.plan
        side = span.peering.side
        took = duration(span.end_unix_ns - span.start_unix_ns, self._signs.micro)
        cells = [Cell(self._time(span.start_unix_ns), DIM), Cell(right(took, LATENCY))]
        if plan.first_byte:
            cells.append(Cell(self._duration(span.first_byte_ns)))
        if plan.rtt:
            cells.append(Cell(self._duration(span.rtt_us * 1000)))
        cells.append(Cell(self._signs.into[side], MAGENTA if side is Side.SERVER else BLUE))
        cells.append(Cell(left(self._who(span), plan.who), BOLD))
        if plan.protocol:
            protocol = self._clean(summary.protocol(span))
            cells.append(Cell(left(shorten_end(protocol, PROTOCOL), PROTOCOL), DIM))
        verdict = self._verdict(span)
        cells.append(verdict)
        return verdict.paint, cells

    def _verdict(self, span: Span) -> Cell:
        """Mark and status."""
        failed = span.outline.error_type is not None
        partial = span.completeness is not Completeness.COMPLETE
        mark = self._signs.error if failed else self._signs.partial if partial else ""
        status = self._clean(summary.status(span.outline))
        long = len(status) >= STATUS
        if failed:
            paint = RED
        elif partial or long or status.startswith("4"):
            paint = YELLOW
        else:
            paint = CYAN if status.startswith("3") else GREEN
        if long or not status:
            if span.completeness is Completeness.UNANSWERED:
                status = "---"
            else:
                status = "ERR" if failed else "" if long else "ok"
        return Cell(right(mark + status, STATUS if self.plan.aligned else STATUS_NARROW), paint)

    def _compose(self, head: list[Cell], request: Words, paint: str, tail: str) -> str:
        """The whole line; the request is cut or padded to what the others leave."""
        ellipsis = self._signs.ellipsis
        room = max(MIN_REQUEST, self._room(head, tail))
        verb, target, note, ends = request
        verb = shorten_end(verb, room, ellipsis)
        left_over = room - columns(verb)
        kept = max(MIN_REQUEST, left_over - max(MIN_NOTE, left_over * 2 // 5))
        note = shorten_end(note, max(0, left_over - min(kept, columns(target))), ellipsis)
        shorten = shorten_end if ends else shorten_path
        target = shorten(target, left_over - columns(note), ellipsis)
        shown = columns(verb) + columns(target) + columns(note)
        padding = " " * ((GOOD_REQUEST if self.plan.boundless else room) - shown)
        tail = tail.rstrip()
        cells = [*head, Cell(verb + target)]
        if self._color:
            line = " ".join([_paint(*cell) for cell in cells]) + _paint(note, paint)
            return line + padding + " " + _paint(tail, DIM)
        return " ".join([cell.text for cell in cells]) + note + padding + " " + tail

    def _room(self, head: list[Cell], tail: str) -> int:
        """Columns for the request."""
        taken = sum([columns(cell.text) + 1 for cell in head]) + 1 + columns(tail)
        return self.plan.width - taken

    def _tail(self, sizes: str, peer: str, trace_id: str) -> str:
        plan = self.plan
        if not plan.aligned:
            return f"{sizes} {peer}"
        cells = [right(sizes, SIZES)]
        if plan.trace_id:
            cells.append(trace_id.ljust(TRACE_ID))
        cells.append(left(peer, ENDS if plan.addresses else ADDRESS))
        return " ".join(cells)

    def _who(self, span: Span) -> str:
        pid = f"({span.process.pid})"
        name = self._clean(span.process.service_name)
        return shorten_middle(name, self.plan.who - len(pid), self._signs.ellipsis) + pid

    def _peer(self, span: Span) -> str:
        peer = self._clean(summary.peer(span))
        host, colon, port = peer.rpartition(":")
        if not self.plan.aligned and host in LOOPBACK_HOSTS:  # columns are dear
            return colon + port
        if self.plan.aligned and not self.plan.boundless:
            return shorten_middle(peer, ADDRESS, self._signs.ellipsis)
        return peer

    def _ends(self, span: Span) -> str:
        client, server = map(self._clean, summary.ends(span))
        if columns(client) + columns(server) >= ENDS and not self.plan.boundless:
            half = (ENDS - 1) // 2
            client = shorten_middle(client, half, self._signs.ellipsis)
            server = shorten_middle(server, half, self._signs.ellipsis)
        return f"{client}{self._signs.to}{server}"

    def _time(self, unix_ns: int) -> str:
        second, rest = divmod(unix_ns, 1_000_000_000)
        if second != self._second:
            moment = datetime.fromtimestamp(second, UTC).astimezone(self._time_zone)
            self._clock = moment.strftime("%H:%M:%S")
            self._second = second
        return f"{self._clock}.{rest // 1_000_000:03}"

    def _duration(self, nanoseconds: int) -> str:
        """A measure, or a dash where there was nothing to measure."""
        return right(duration(nanoseconds, self._signs.micro) if nanoseconds else "-", LATENCY)

    def _clean(self, text: str) -> str:
        return printable(text, ascii_only=self._ascii)


def _paint(text: str, paint: str = "") -> str:
    return f"\x1b[{paint}m{text}\x1b[0m" if paint and text else text
