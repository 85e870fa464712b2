# SPDX-License-Identifier: Apache-2.0
"""Which answer is to which request, where a socket has many at its other end.

Messages are joined by who asked, whom, and `correlation_id`. A request that is sent again before
its answer has come is the same request, resent. What never gets an answer is reported. Answers
that nobody asked for, second copies among them, are counted and join nothing.

What an answer must repeat: RFC 5452 section 9 (of DNS).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable
from functools import lru_cache
from typing import Final

from parsers.correlation import EARLY_NS
from parsers.model import Completeness, Endpoint, Exchange, Kind, Message, Parser, Side
from parsers.tally import Tally

MAX_PENDING: Final = 4096
"""Requests without an answer on one socket."""
PENDING_BYTES: Final = 512
"""What such a request takes here, about."""
MAX_EARLY: Final = 64
"""Answers of one socket that were seen before their request."""
MAX_ANSWERED: Final = 64
"""Answered requests of one socket that are remembered, so that a second answer is known."""
GROUP_PORTS: Final = frozenset({5353, 5355})
"""Where questions come that were asked of everybody (RFC 6762, RFC 4795)."""

NOBODY: Final = Endpoint("", 0)
REQUEST: Final = Kind.REQUEST
INGRESS: Final = 0
EGRESS: Final = 1

Key = tuple[int, Endpoint, Hashable]
"""Direction of the request, the other end, and the id."""


class DatagramPairing:
    """The requests of one socket that wait, and the exchanges that are done."""

    __slots__ = (
        "_answered",
        "_answering",
        "_early",
        "_local_port",
        "_lost_ns",
        "_pending",
        "_tally",
        "done",
        "parser",
        "remote",
        "side",
    )

    def __init__(self, side: Side, tally: Tally) -> None:
        self.side = side
        """What the socket was on in the first message that told."""
        self.parser: Parser | None = None
        self.done: list[Exchange] = []
        self.remote = NOBODY
        """Who the socket is connected to, if it is."""
        self._local_port = 0
        self._tally = tally
        self._pending: dict[Key, tuple[Message, Endpoint]] = {}
        """What was asked, and whom; by when it was sent last."""
        self._early: dict[Key, Message] | None = None
        self._answered: dict[Key, None] = {}
        self._answering = False
        """An exchange was whole: it is that protocol."""
        self._lost_ns = [-1, -1]
        """When datagrams of a direction were last missed."""

    def _ask(self, direction: int, peer: Endpoint, request: Message) -> None:
        if request.one_way:
            self._report(direction, peer, request, None, Completeness.COMPLETE)
            return
        # Whoever of a group answers does so from an address of his own.
        asked = NOBODY if direction == EGRESS and _is_group(peer.address) else peer
        key = (direction, asked, request.correlation_id)
        pending = self._pending
        if key in pending:
            first, _ = pending.pop(key)
            if request.correlation_id is not None:
                first.resends += 1
                first.last_ns = request.last_ns
                pending[key] = first, peer
                return
            # Which of the two an answer is to, nobody could tell.
            self._report(direction, peer, first, None, Completeness.GAP)
        early = self._early.pop(key, None) if self._early else None
        if early is not None and request.first_ns - early.first_ns <= EARLY_NS:
            request.first_ns = min(request.first_ns, early.first_ns)
            self._join(key, peer, request, early)
            return
        if early is not None:
            self._tally.unpaired_responses += 1
        if len(pending) >= MAX_PENDING:
            self._tally.limits += 1
            oldest = next(iter(pending))
            lost, remote = pending.pop(oldest)
            self._report(oldest[0], remote, lost, None, Completeness.GAP)
        pending[key] = request, peer

    def _answer(self, asked: int, peer: Endpoint, response: Message) -> None:
        """An answer has come for who asked in the direction `asked`."""
        key = (asked, peer, response.correlation_id)
        pending = self._pending
        found = pending.pop(key, None)
        if found is None and pending:
            found = self._elsewhere(key)
        if found is not None:
            request, remote = found
            if remote is NOBODY or (asked == EGRESS and _is_group(remote.address)):
                remote = peer
            self._join(key, remote, request, response)
        elif key in self._answered:
            self._tally.unpaired_responses += 1
        else:
            if self._early is None:
                self._early = {}
            if len(self._early) >= MAX_EARLY or key in self._early:
                del self._early[key if key in self._early else next(iter(self._early))]
                self._tally.unpaired_responses += 1
            self._early[key] = response

    def _elsewhere(self, key: Key) -> tuple[Message, Endpoint] | None:
        """The request with that id, where the other end of it or of the answer is not known."""
        direction, peer, correlation_id = key
        if peer is not NOBODY:
            return self._pending.pop((direction, NOBODY, correlation_id), None)
        same = [
            each for each in self._pending if each[0] == direction and each[2] == correlation_id
        ]
        return self._pending.pop(same[0]) if len(same) == 1 else None

    def _join(self, key: Key, peer: Endpoint, request: Message, response: Message) -> None:
        answered = self._answered
        if len(answered) >= MAX_ANSWERED:
            del answered[next(iter(answered))]
        answered[key] = None
        self._answering = True
        completeness = Completeness.COMPLETE
        if request.gap or response.gap:
            completeness = Completeness.GAP
        elif request.truncated or response.truncated:
            completeness = Completeness.TRUNCATED
        self._report(key[0], peer, request, response, completeness)

    def _report(
        self,
        direction: int,
        peer: Endpoint,
        request: Message,
        response: Message | None,
        completeness: Completeness,
        error_type: str | None = None,
    ) -> None:
        assert self.parser is not None
        self._tally.exchanges += 1
        side = side_of(direction, REQUEST)
        protocol = (response.protocol if response else "") or request.protocol or self.parser.name
        self.done.append(
            Exchange(
                protocol,
                request,
                response,
                completeness,
                error_type,
                None if side is self.side else side,
                None if peer == self.remote else peer,
            )
        )

    def _report_unanswered(self, key: Key, error_type: str) -> None:
        request, peer = self._pending.pop(key)
        direction = key[0]
        group = direction == EGRESS and _is_group(peer.address)
        if direction == INGRESS and self._local_port in GROUP_PORTS:
            # It was asked of all, and this one had nothing to say.
            return
        if self._lost_ns[1 - direction] >= request.first_ns:
            # The answer may have been what was missed.
            self._report(direction, peer, request, None, Completeness.GAP)
        else:
            # That nobody of a group answers is how it says no.
            error = None if group else error_type
            self._report(direction, peer, request, None, Completeness.UNANSWERED, error)

    # -- time and ends ----------------------------------------------------------------

    def idle(self, now_ns: int) -> None:
        """Time has passed: the request of an answer that came early will not come."""
        early = self._early
        while early:
            key, response = next(iter(early.items()))
            if now_ns - response.first_ns <= EARLY_NS:
                break
            del early[key]
            self._tally.unpaired_responses += 1

    def expire(self, before_ns: int, now_ns: int = 0) -> None:
        """Give up, at `now_ns`, requests that were last sent before `before_ns`."""
        pending = self._pending
        while pending:
            key = next(iter(pending))
            request = pending[key][0]
            if request.last_ns >= before_ns:
                break
            request.last_ns = max(request.last_ns, now_ns)
            self._report_unanswered(key, "timeout")

    def close(self, timestamp_ns: int, reason: str | None) -> None:
        """The socket is gone."""
        self._drop_early()
        for key in list(self._pending):
            request = self._pending[key][0]
            request.last_ns = max(request.last_ns, timestamp_ns)
            self._report_unanswered(key, reason or "connection_closed")

    def _abandon(self) -> None:
        """None of these were requests."""
        self._tally.abandoned_requests += len(self._pending)
        self._pending.clear()

    def _leave(self) -> None:
        """Report what waits: no answer to it will be seen."""
        self._drop_early()
        for (direction, _, _), (request, peer) in self._pending.items():
            self._report(direction, peer, request, None, Completeness.GAP)
        self._pending.clear()

    def _drop_early(self) -> None:
        if self._early:
            self._tally.unpaired_responses += len(self._early)
            self._early.clear()

    # -- what others ask --------------------------------------------------------------

    @property
    def unsettled(self) -> bool:
        """Something waits for an answer, for its request, or for time."""
        return bool(self._pending or self._early)

    @property
    def in_flight(self) -> int:
        """Requests without an answer so far."""
        return len(self._pending)

    @property
    def buffered_bytes(self) -> int:
        """About what is held: no payload, but one who floods a server makes many wait."""
        return len(self._pending) * PENDING_BYTES


def side_of(direction: int, kind: Kind) -> Side:
    """What a socket is that moves such a message in that direction."""
    return Side.CLIENT if (direction == EGRESS) is (kind is REQUEST) else Side.SERVER


@lru_cache(maxsize=1024)
def _is_group(address: str) -> bool:
    """Whether many hear what is sent there."""
    if not address:
        return False
    parsed = ipaddress.ip_address(address)
    return parsed.is_multicast or str(parsed) == "255.255.255.255"
