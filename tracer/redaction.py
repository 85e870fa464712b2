# SPDX-License-Identifier: Apache-2.0
"""Which payload bytes a recording may keep: those that a parser has read, and no other.

Problem: whether bytes may be kept is known once they are parsed, which is often when a later
transfer arrives (a head that came in two reads), and a recording must replay to the same
spans. Plan: sessions note what they keep (`Session.kept`), batches are held until no session
may still keep more of them, and then every byte that nobody kept is blanked where it stands.

Blanked, not cut out: sizes decide what a session does with a transfer, so the replay must see
the same ones. Compression makes a run of one byte cost nothing. The blank is 0xFF because it
may stand in a URL, in a field value and in a chunk of a body without changing what is around
it, and because no protocol begins with it, so that bytes that no parser wanted are refused
again on replay. What a parser wanted and could not use (half a head, then nothing) is cut off,
and a flag of its transfer says what became of it. Behind a payload, where records are rounded
up, stands what the ring buffer held before: zeros take its place.

What is held is bounded in time and size; what is written undecided for that is counted. One
more limit: where half a head, of which the rest was lost, is all that told the protocol of a
connection, a replay does not find it out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from parsers.datagrams import DatagramSession
from parsers.stream import HELD, WAITED, Kept
from tracer.chunks import Payload, cut, payloads
from tracer.connection import AnySession
from tracer.source import Batch

BLANK: Final = b"\xff"
HOLD_NS: Final = 10_000_000_000
"""Time of the events that a batch waits for its last bytes to be parsed."""
HOLD_BYTES: Final = 32 * 1024 * 1024
"""Chunks that wait."""
HALF: Final = 1 << 31
"""Positions wrap at 2**32: what is less than half of it ahead is ahead."""

SessionOf = Callable[[int], AnySession | None]
"""The session that a cookie's events went to, or None if they went to none."""


Part = tuple[int, int, bytes]
"""Where what is kept of a transfer begins and ends, and what begins with what stands in for it."""


class Held(deque[tuple[int, int, int]]):
    """Transfers of one direction that are not written yet: batch number, position, size."""

    def undecided_since(self, size: int) -> int | None:
        """The first batch that holds some of the last `size` bytes; None if none does."""
        if not size or not self:
            return None
        last = self[-1]
        cutoff = last[1] + last[2] - size
        since = None
        total = 0
        for number, position, length in reversed(self):
            # By position and by count, whichever goes back further: after a loss positions
            # jump, and bytes that came twice are counted once.
            if total >= size and _ahead(position + length, cutoff) <= 0:
                break
            since = number
            total += length
        return since


def _ahead(position: int, origin: int) -> int:
    """How far `position` is from `origin`, negative if it is before it."""
    return (position - origin + HALF) % (2 * HALF) - HALF


def _fate(unread: deque[Kept], position: int, size: int) -> tuple[int, int] | None:
    """The first of `unread` that is part of a transfer; forgets what is behind."""
    while unread:
        start = _ahead(unread[0].position, position)
        stop = start + unread[0].size
        if start >= size:
            return None
        if stop > size:
            # Only in the transfer that made it so does it show.
            return max(start, 0), WAITED
        fate = unread.popleft().fate
        if stop > 0:
            return max(start, 0), fate
    return None


@dataclass(slots=True)
class Direction:
    """One direction of a connection that has transfers in held batches."""

    held: Held = field(default_factory=Held)
    kept: deque[tuple[int, int, bytes]] = field(default_factory=deque)
    """Position and size of what may be kept, in order, and what to keep in its place if not it."""
    unread: deque[Kept] = field(default_factory=deque)
    """What must not be kept, but for what became of it."""
    probed: deque[Kept] = field(default_factory=deque)
    """The same of what was held to find out the protocol: if nothing else became of it."""
    undecided_since: int | None = None
    """The first held batch of which more may yet be kept."""
    undecided_bytes: int = 0
    """How many of the last bytes those are."""
    end: int = 0
    """Position of the end of the latest transfer."""
    written: int = -1
    """Position up to which transfers were written; -1 if none was."""
    datagrams: bool = False
    """Each transfer is one, decided at once."""

    def note(self, kept: Kept) -> None:
        """Take one of a session's notes, in order."""
        position, size, substitute = kept.position, kept.size, kept.substitute
        if kept.fate:
            (self.probed if kept.fate == HELD else self.unread).append(kept)
            return
        if self.kept and not substitute:
            start, length, before = self.kept[-1]
            if (start + length) % (2 * HALF) == position and not before:
                self.kept[-1] = (start, length + size, b"")
                return
        self.kept.append((position, size, substitute))

    def parts(self, position: int, size: int) -> list[Part]:
        """What to keep of the transfer at `position`, relative to it; forgets what is behind.

        Of bytes that come twice the session saw the first.
        """
        if self.datagrams:
            return self._parts_of_datagram(position, size)
        found = []
        kept = self.kept
        again = max(_ahead(self.written, position), 0) if self.written >= 0 else 0
        if again < size:
            self.written = (position + size) % (2 * HALF)
        while kept:
            start = _ahead(kept[0][0], position)
            stop = start + kept[0][1]
            if start >= size:
                break
            if stop > again:
                begin = max(start, again)
                found.append((begin, min(stop, size), kept[0][2][begin - start :]))
            if stop > size:
                break
            kept.popleft()
        return found

    def _parts_of_datagram(self, position: int, size: int) -> list[Part]:
        """The same of a datagram: notes come in the order of the transfers, positions may not.

        Two threads that work on one socket are told in either order.
        """
        found = []
        kept = self.kept
        while kept:
            place, length, substitute = kept[0]
            start = _ahead(place, position)
            stop = start + length
            if stop <= 0 or start >= size:
                break
            begin = max(start, 0)
            found.append((begin, min(stop, size), substitute[begin - start :]))
            if stop > size:
                break
            kept.popleft()
        return found

    def unread_from(self, position: int, size: int) -> tuple[int, int] | None:
        """Where the unread part of the transfer at `position` begins, and its flag."""
        return _fate(self.unread, position, size)

    def was_probed(self, position: int, size: int) -> bool:
        """Whether the transfer at `position` was held to find out the protocol."""
        return _fate(self.probed, position, size) is not None

    def undecided_at(self) -> int:
        """Position of the first undecided byte."""
        return (self.end - self.undecided_bytes) % (2 * HALF)

    def wait_in_vain(self) -> None:
        """There will be no more: what is undecided stays so."""
        if self.undecided_since is not None:
            self.unread.append(Kept(0, self.undecided_at(), self.undecided_bytes, WAITED))
        self.undecided_since = None


Connection = tuple[Direction, Direction]
"""Ingress and egress."""


class Redactor:
    """Holds batches until it is known what may be kept of them, and blanks the rest."""

    def __init__(self) -> None:
        self.undecided_bytes = 0
        """Blanked although they might have been kept later: the bounds were reached."""
        self._batches: deque[Batch] = deque()
        self._first = 0
        """Number of the oldest held batch."""
        self._held_bytes = 0
        self._connections: dict[int, Connection] = {}
        self._waiting: set[int] = set()
        """Cookies of connections that may keep more of what is held."""

    def take(self, batch: Batch, session_of: SessionOf) -> Iterator[Batch]:
        """Take a batch right after its events went to their sessions; yield what is decided."""
        number = self._first + len(self._batches)
        touched = self._waiting
        connections = self._connections
        for each in payloads(batch.chunk):
            connection = connections.get(each.cookie)
            if connection is None:
                connection = connections[each.cookie] = (Direction(), Direction())
            direction = connection[each.direction]
            direction.held.append((number, each.position, each.size))
            direction.end = each.position + each.size
            touched.add(each.cookie)
        self._batches.append(batch)
        self._held_bytes += len(batch.chunk)
        self._waiting = {cookie for cookie in touched if self._ask(cookie, session_of(cookie))}
        yield from self._release(self._decided(number + 1))
        while self._batches and (
            self._held_bytes > HOLD_BYTES or batch.now_ns - self._batches[0].now_ns > HOLD_NS
        ):
            yield from self._release(self._first + 1)

    def drain(self) -> Iterator[Batch]:
        """There will be no more: yield all that is held."""
        for connection in self._connections.values():
            for direction in connection:
                direction.wait_in_vain()
        self._waiting.clear()
        yield from self._release(self._first + len(self._batches))

    def _ask(self, cookie: int, session: AnySession | None) -> bool:
        """Collect what a session has kept; whether it may keep more of what is held."""
        connection = self._connections.get(cookie)
        if connection is None:
            return False
        if session is not None and session.kept:
            for kept in session.kept:
                connection[kept.direction].note(kept)
            session.kept.clear()
        waits = False
        datagrams = isinstance(session, DatagramSession)
        for number, direction in enumerate(connection):
            direction.datagrams |= datagrams
            size = session.undecided(number) if session is not None else 0
            direction.undecided_since = direction.held.undecided_since(size)
            direction.undecided_bytes = size
            waits |= direction.undecided_since is not None
        return waits

    def _decided(self, end: int) -> int:
        """One past the number of the last batch of which no session may keep more."""
        for cookie in self._waiting:
            for direction in self._connections[cookie]:
                if direction.undecided_since is not None:
                    end = min(end, direction.undecided_since)
        return end

    def _release(self, end: int) -> Iterator[Batch]:
        while self._first < end:
            batch = self._batches.popleft()
            self._first += 1
            self._held_bytes -= len(batch.chunk)
            if batch.chunk:
                batch = batch._replace(chunk=self._blank(batch.chunk, self._first))
            yield batch

    def _blank(self, chunk: bytes, end: int) -> bytes:
        """Blank what nobody kept of a chunk whose number is the one before `end`."""
        redacted = bytearray(chunk)
        connections = self._connections
        seen = set()
        for each in payloads(chunk):
            connection = connections[each.cookie]
            seen.add(each.cookie)
            direction = connection[each.direction]
            direction.held.popleft()
            parts = direction.parts(each.position, each.size)
            unread = direction.unread_from(each.position, each.size)
            since = direction.undecided_since
            forced = since is not None and since < end
            if unread is None and forced:
                at = _ahead(direction.undecided_at(), each.position)
                unread = (max(at, 0), WAITED) if at < each.size else None
            if direction.was_probed(each.position, each.size) and not (parts or unread):
                unread = 0, WAITED
            size = each.captured
            redacted[each.offset + size : each.end] = bytes(each.end - each.offset - size)
            whole = parts and parts[0][0] == 0 and parts[0][1] >= size and not parts[0][2]
            if unread is None and (whole or not size):
                continue
            lost = size - _blank_payload(redacted, chunk, each, parts)
            if unread is not None:
                cut(redacted, each, min(unread[0], size), unread[1])
            if forced:
                self.undecided_bytes += lost
        for cookie in seen:
            self._let_go(cookie)
        return bytes(redacted)

    def _let_go(self, cookie: int) -> None:
        """Forget a connection of which nothing is held; of another, what is written."""
        connection = self._connections[cookie]
        waits = False
        for direction in connection:
            since = direction.undecided_since
            if since is not None and since < self._first:
                since = self._first if direction.held else None
                direction.undecided_since = since
            waits |= since is not None
        if not waits:
            self._waiting.discard(cookie)
        if not connection[0].held and not connection[1].held:
            del self._connections[cookie]


def _blank_payload(redacted: bytearray, chunk: bytes, payload: Payload, parts: list[Part]) -> int:
    """Blank a payload but for `parts`; how many bytes were kept."""
    base, captured = payload.offset, payload.captured
    redacted[base : base + captured] = BLANK * captured
    saved = 0
    for start, stop, substitute in parts:
        end = min(stop, captured)
        if end > start:
            kept = substitute[: end - start] or chunk[base + start : base + end]
            redacted[base + start : base + end] = kept
            saved += end - start
    return saved
