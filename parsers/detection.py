# SPDX-License-Identifier: Apache-2.0
"""Which protocol a connection speaks, decided from the first bytes of both directions.

The transfers looked at are held and handed back with the choice, so that the first request
is parsed too. A parser is chosen when it is certain of one direction and the other does not
speak against it, or when both are likely. Ports prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from parsers.model import Kind, Likeness, Parser, Side
from parsers.stream import POSITION_MASK

TURN_START: Final = 8
"""`enum ws_data_flag`: the first transfer of its turn."""

PROBE_BYTES: Final = 32 * 1024
"""Held of a connection before giving up: both directions' first transfers, whatever the snap
length."""
PROBE_TRANSFERS: Final = 256
"""A request line may come byte by byte."""
PROBE_TURNS: Final = 32
"""How many turns of a connection that was joined late may begin with nothing known."""

Candidates = Callable[[], list[type[Parser]]]
"""The parsers to try, likeliest first."""


class Transfer(NamedTuple):
    """What one socket call moved."""

    direction: int
    """0 the traced process receives, 1 it sends."""
    timestamp_ns: int
    position: int
    """Of the first byte, modulo 2**32."""
    size: int
    data: bytes
    """The first bytes of it, as many as were captured."""
    turn: int
    flags: int


class Choice(NamedTuple):
    """A parser, and what each direction (ingress, egress) carries."""

    parser: type[Parser]
    kinds: tuple[Kind, Kind]
    begun: tuple[bool, bool]
    """Whether a message begins with the first bytes held of each direction."""


class Detection:
    """The undecided state of a session."""

    __slots__ = (
        "_candidates",
        "_ends",
        "_heads",
        "_side",
        "_turns",
        "held",
        "held_bytes",
        "joined",
    )

    def __init__(self, candidates: Candidates, side: Side, *, late: bool) -> None:
        self._candidates = candidates
        self._side = side
        self._turns = 0
        self.joined = late
        """What comes first may be the middle of a message."""
        self.held: list[Transfer] = []
        self.held_bytes = 0
        """Payload that is held."""
        self._heads = [b"", b""]
        """The first bytes of both directions, as far as they are in one piece."""
        self._ends = [-1, -1]
        """Where the next piece of a head would be; -2 when there can be none."""

    def offer(self, transfer: Transfer) -> Choice | None:
        """Look at one more transfer; the choice, if it decides."""
        if self.joined and not self.held:
            # Only a turn's first bytes are worth a look.
            if self._turns and not transfer.flags & TURN_START:
                return None
            self._turns += 1
        likeness, choice = self._look(transfer)
        if likeness is Likeness.NO and self.joined and len(self.held) > 1:
            # What was held was the end of something; a turn may begin anew.
            self.release()
            if transfer.flags & TURN_START:
                likeness, choice = self._look(transfer)
        if choice is not None:
            return choice
        full = self.held_bytes > PROBE_BYTES or len(self.held) > PROBE_TRANSFERS
        if full or likeness is Likeness.NO:
            self.release()
            if not self.joined:
                self._turns = PROBE_TURNS
        return None

    @property
    def failed(self) -> bool:
        """No parser fits, and more bytes would not change it."""
        return not self.held and self._turns >= PROBE_TURNS

    def release(self) -> list[Transfer]:
        """Hold no more; what was held."""
        held, self.held = self.held, []
        self.held_bytes = 0
        self._heads = [b"", b""]
        self._ends = [-1, -1]
        return held

    def span(self, direction: int) -> int:
        """How many of the last bytes of a direction are held."""
        held = [each for each in self.held if each.direction == direction]
        if not held:
            return 0
        return held[-1].position + held[-1].size - held[0].position & POSITION_MASK

    def _look(self, transfer: Transfer) -> tuple[Likeness, Choice | None]:
        """How well the best parser fits what is held with one more transfer."""
        self._hold(transfer)
        best = Likeness.NO
        for candidate in self._candidates():
            for kinds in _orientations(self._side):
                likeness, begun = self._fit(candidate, kinds)
                if likeness is Likeness.CERTAIN:
                    return likeness, Choice(candidate, kinds, begun)
                best = max(best, likeness)
        return best, None

    def _hold(self, transfer: Transfer) -> None:
        self.held.append(transfer)
        self.held_bytes += len(transfer.data)
        direction = transfer.direction
        if self._ends[direction] in {-1, transfer.position}:
            self._heads[direction] += transfer.data
            end = transfer.position + transfer.size & POSITION_MASK
            self._ends[direction] = end if len(transfer.data) == transfer.size else -2
        else:
            self._ends[direction] = -2

    def _fit(
        self, parser: type[Parser], kinds: tuple[Kind, Kind]
    ) -> tuple[Likeness, tuple[bool, bool]]:
        """How well a parser fits both directions together, and where it fits."""
        best = Likeness.SHORT
        begun = [False, False]
        for direction, head in enumerate(self._heads):
            if not head:
                continue
            likeness = parser.probe(head, kinds[direction])
            if likeness is Likeness.NO:
                return Likeness.NO, (False, False)
            begun[direction] = likeness >= Likeness.LIKELY
            best = max(best, likeness)
        ingress, egress = begun
        return Likeness.CERTAIN if ingress and egress else best, (ingress, egress)


def _orientations(side: Side) -> tuple[tuple[Kind, Kind], ...]:
    """What ingress and egress may carry: one answer where the kernel saw the role."""
    server = (Kind.REQUEST, Kind.RESPONSE)
    client = (Kind.RESPONSE, Kind.REQUEST)
    if side is Side.SERVER:
        return (server,)
    if side is Side.CLIENT:
        return (client,)
    return (server, client)
