# SPDX-License-Identifier: Apache-2.0
"""Spans added up to a service map, by edge and by slot of time.

The pipeline's thread adds, any thread may ask for a map. Spans wait until there are some
thousands: added up together they cost a third of what each alone would. A map is made of sums
that nobody changes any more: who asks takes references under the lock, and what the pipeline adds
afterwards it adds to copies. So the pipeline never waits for a map to be made.

Slots are of ten seconds, after ten minutes of one minute, and go when they are too old. Time is
that of the data, so that a recording makes the same map as its capture did.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Final

from exporters.edges import DATABASE, USER, edge_of, is_counted
from exporters.map_assembly import Cell, Role, Slot, assemble
from exporters.map_model import Ends, NodeKind, NodeName, ServiceMap
from exporters.map_tally import Tally
from exporters.protobuf import Cache
from tracer.span import DB_SYSTEM, Span, SpanKind

SLOT_NS: Final = 10_000_000_000
FINE_SLOTS: Final = 60
"""Older ones are put together by `COARSE`."""
COARSE: Final = 6
KEPT_S: Final = 3600.0
ALWAYS_NS: Final = 1 << 63
"""A slot that has no end."""

MAX_PENDING: Final = 2048
"""Spans that wait to be added up: a millisecond of work."""
MAX_EDGES: Final = 4096
"""What would be one more is counted as one edge of `other`."""
MAX_TALLIES: Final = 12_288
"""Of all edges in all slots: fifty edges, seen from both ends, for an hour. One has one to nine
KiB, as durations scatter. Beyond it the oldest slot goes early."""
MAX_UNNAMED: Final = 32
"""Clients of one server that are shown by their addresses; if there are more, none is."""
MAX_ADDRESSES: Final = 16_384
"""Whose being public is remembered."""
MAX_NAME: Final = 256
"""Names come from the wire, too. A domain name is shorter (RFC 1035 section 2.3.4)."""

OTHER: Final = Ends(NodeName("other"), NodeName("other"), "other")


class Collector:
    """Takes spans, gives maps."""

    def __init__(
        self, kept_s: float | None = KEPT_S, *, clock: Callable[[], int] = time.time_ns
    ) -> None:
        """`kept_s` None: all is kept, in one slot. The clock gives nanoseconds since 1970."""
        self.counts: dict[str, int] = {
            "spans_mapped": 0,
            "spans_without_edge": 0,
            "spans_dropped_old": 0,
            "spans_mapped_as_other": 0,
            "tallies_dropped_early": 0,
            "map_restarts": 0,
        }
        self._clock = clock
        self._slot_ns = ALWAYS_NS if kept_s is None else SLOT_NS
        self._kept_slots = 1 if kept_s is None else max(1, round(kept_s * 1e9 / SLOT_NS))
        self._lock = threading.Lock()
        self._pending: list[Span] = []
        self._slots: dict[int, Slot] = {}
        """By number; one that is older than the fine ones stands for `COARSE`."""
        self._newest = -1
        self._generation = 0
        self._tallies = 0
        self._old_spans = 0
        """That were too old, one after the other."""
        self._kept_ns = 0
        """Before it slots have been dropped."""
        self._made_ns = clock()
        self._first_ns = ALWAYS_NS
        self._last_ns = 0
        self._edges: dict[Ends, int] = {}
        """With the latest slot that each is in."""
        self._unnamed: dict[NodeName, dict[str, int]] = {}
        """Addresses of clients without a name by server, with the latest slot of each."""
        self._crowded: dict[NodeName, int] = {}
        """Servers that had more of them than are shown, with the latest slot where it was so."""
        self._public: Cache[str, bool] = Cache(_is_public, MAX_ADDRESSES)

    def begin(self) -> None:
        """Capture begins now, and with it the time of a map of live data."""
        with self._lock:
            self._made_ns = self._clock()

    def add(self, spans: Sequence[Span]) -> None:
        """Take some spans."""
        with self._lock:
            self._pending += spans
            if len(self._pending) >= MAX_PENDING:
                self._fold()

    def snapshot(self, since_s: float | None = None) -> ServiceMap:
        """The map of the last `since_s` seconds, or of all that is kept.

        It begins where a slot does, so up to ten seconds earlier, or a minute if that is more
        than ten minutes ago. While data comes live it ends now, else with the latest span.
        """
        with self._lock:
            self._fold()
            self._generation += 1
            live = not self._last_ns or self._last_ns >= self._made_ns
            end_ns = max(self._clock(), self._last_ns) if live else self._last_ns
            start_ns = max(self._made_ns if live else self._first_ns, self._kept_ns)
            slots = {number: dict(slot) for number, slot in self._slots.items()}
            crowded = frozenset(self._crowded)
            newest = self._newest
        span_ns = self._slot_ns * self._kept_slots
        if since_s is not None:
            span_ns = min(span_ns, round(since_s * 1e9))
        wanted_ns = end_ns - span_ns
        chosen: list[Slot] = []
        for number, slot in sorted(slots.items()):
            width = COARSE if _is_coarse(number, newest) else 1
            if (number + width) * self._slot_ns > wanted_ns:
                if not chosen:
                    wanted_ns = min(wanted_ns, number * self._slot_ns)
                chosen.append(slot)
        return assemble(min(end_ns, max(start_ns, wanted_ns)), end_ns, chosen, crowded)

    def counters(self) -> Mapping[str, int]:
        """Totals since start; of spans that wait it is not known yet where they belong."""
        return dict(self.counts)

    def _fold(self) -> None:
        """Add up what waits."""
        spans, self._pending = self._pending, []
        if not spans:
            return
        ends = [span.end_unix_ns for span in spans]
        first, last = min(ends) // self._slot_ns, max(ends) // self._slot_ns
        if self._is_set_back(last):
            self._restart()
            self._made_ns = min(ends)
        elif last <= self._newest - self._kept_slots:
            self._old_spans += len(spans)
            if self._old_spans < MAX_PENDING:
                self.counts["spans_dropped_old"] += len(spans)
                return
            self._restart()
        self._old_spans = 0
        self._last_ns = max(self._last_ns, max(ends))  # noqa: PLW3301  # flat, it would copy
        self._first_ns = min(self._first_ns, *[span.start_unix_ns for span in spans])
        if last > self._newest:
            self._newest = last
            self._age()
        if first == last:
            self._fold_slot(first, spans)
            return
        parts: defaultdict[int, list[Span]] = defaultdict(list)
        for span, end in zip(spans, ends, strict=True):
            parts[end // self._slot_ns].append(span)
        for number, part in parts.items():
            self._fold_slot(number, part)

    def _is_set_back(self, last: int) -> bool:
        """Whether the newest slot is one that the clock has yet to come to, and `last` is not.

        A recording of a machine whose clock was ahead has all its spans there.
        """
        ahead = self._clock() // self._slot_ns + 1
        return last <= ahead < self._newest

    def _restart(self) -> None:
        """The clock was set back, or so many are too old that it must have been.

        What was ahead is no time any more.
        """
        self.counts["map_restarts"] += 1
        for number in list(self._slots):
            self.counts["tallies_dropped_early"] += len(self._slots[number])
            self._drop(number)
        self._newest, self._first_ns, self._last_ns, self._kept_ns = -1, ALWAYS_NS, 0, 0

    def _fold_slot(self, number: int, spans: list[Span]) -> None:
        if number <= self._newest - self._kept_slots:
            self.counts["spans_dropped_old"] += len(spans)
            return
        if _is_coarse(number, self._newest):
            number -= number % COARSE
        groups: defaultdict[tuple[object, ...], list[Span]] = defaultdict(list)
        for span in spans:
            groups[
                span.process,
                span.peer,
                span.peer_name,
                span.twin,
                span.kind,
                span.protocol,
                DB_SYSTEM in span.outline.attributes,
            ].append(span)
        for group in groups.values():
            span = group[0]
            edge = edge_of(span)
            if edge is None:
                self.counts["spans_without_edge"] += len(group)
                continue
            self.counts["spans_mapped"] += len(group)
            client = NodeName(_short(edge.client), _short(edge.client_namespace))
            server = NodeName(_short(edge.server), _short(edge.server_namespace))
            ends = Ends(client, server, edge.protocol)
            seen = NodeKind.EXTERNAL if span.peer is None else NodeKind.SERVICE
            own_is_client = span.kind is SpanKind.CLIENT
            kinds = (NodeKind.SERVICE, seen) if own_is_client else (seen, NodeKind.SERVICE)
            if edge.connection_type == DATABASE:
                kinds = (kinds[0], NodeKind.DATABASE)
            role = Role.CLIENT if own_is_client else Role.SERVER
            if not is_counted(span):
                role = Role.TWIN
            if own_is_client or span.peer_name or span.peer is not None:
                self._put(number, ends, role, kinds, group)
                continue
            for name, part in self._by_address(server, number, group).items():
                kind = NodeKind.EXTERNAL if name else NodeKind.USER
                named = ends._replace(client=NodeName(name or USER))
                self._put(number, named, role, (kind, kinds[1]), part, unnamed=bool(name))

    def _by_address(
        self, server: NodeName, number: int, spans: Iterable[Span]
    ) -> dict[str, list[Span]]:
        """Spans of clients without a name by address, or by the empty string for the public."""
        if len(self._unnamed) >= MAX_EDGES and server not in self._unnamed:
            return {"": list(spans)}
        known = self._unnamed.setdefault(server, {})
        parts: defaultdict[str, list[Span]] = defaultdict(list)
        for span in spans:
            parts[span.peering.remote.address].append(span)
        found: defaultdict[str, list[Span]] = defaultdict(list)
        for address, part in parts.items():
            if address not in known:
                if self._public[address]:
                    found[""] += part
                    continue
                if len(known) >= MAX_UNNAMED:
                    self._crowded[server] = number
                    found[""] += part
                    continue
            known[address] = number
            found[address] = part
        return found

    def _put(
        self,
        number: int,
        ends: Ends,
        role: Role,
        kinds: tuple[NodeKind, NodeKind],
        spans: Sequence[Span],
        *,
        unnamed: bool = False,
    ) -> None:
        """Add `spans`, all of one edge and role, to their tally in a slot."""
        known = self._edges.get(ends)
        if known is None and len(self._edges) >= MAX_EDGES:
            self.counts["spans_mapped_as_other"] += len(spans)
            ends, kinds, unnamed = OTHER, (NodeKind.EXTERNAL, NodeKind.EXTERNAL), False
        else:
            self._edges[ends] = max(known or 0, number)
        tally = self._tally(number, Cell(ends, role))
        tally.client_kind = max(tally.client_kind, kinds[0])
        tally.server_kind = max(tally.server_kind, kinds[1])
        tally.unnamed = unnamed
        tally.add(spans)

    def _tally(self, number: int, cell: Cell) -> Tally:
        """The tally of a cell, for changing: what a snapshot has taken is copied first."""
        slot = self._slots.setdefault(number, {})
        tally = slot.get(cell)
        if tally is None:
            if self._tallies >= MAX_TALLIES and len(self._slots) > 1:
                oldest = min(self._slots)
                if oldest != number:
                    self.counts["tallies_dropped_early"] += len(self._slots[oldest])
                    self._drop(oldest)
            self._tallies += 1
            tally = slot[cell] = Tally(self._generation)
        elif tally.generation != self._generation:
            tally = slot[cell] = tally.copy(self._generation)
        return tally

    def _age(self) -> None:
        """Put together what need not be told apart any more, and drop what is too old."""
        oldest = self._newest - self._kept_slots + 1
        for number in sorted(self._slots):
            if number < oldest and number + COARSE <= oldest:
                self._drop(number)
            elif number % COARSE and _is_coarse(number, self._newest):
                slot = self._slots.pop(number)
                self._tallies -= len(slot)
                for cell, tally in slot.items():
                    self._tally(number - number % COARSE, cell).merge(tally)
        self._edges = {ends: last for ends, last in self._edges.items() if last >= oldest}
        self._crowded = {name: last for name, last in self._crowded.items() if last >= oldest}
        for server, known in list(self._unnamed.items()):
            left = {address: last for address, last in known.items() if last >= oldest}
            if left:
                self._unnamed[server] = left
            else:
                del self._unnamed[server]

    def _drop(self, number: int) -> None:
        self._tallies -= len(self._slots.pop(number))
        width = COARSE if _is_coarse(number, self._newest) else 1
        self._kept_ns = max(self._kept_ns, (number + width) * self._slot_ns)


def _is_coarse(number: int, newest: int) -> bool:
    """Whether the slot is so old that it is put together with its neighbours.

    All of them at once: one minute is never half fine and half coarse.
    """
    return number - number % COARSE + COARSE <= newest - FINE_SLOTS


def _is_public(address: str) -> bool:
    """Whether it is anywhere on the Internet; also what is no address at all."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return True
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_global


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"
