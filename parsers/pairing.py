# SPDX-License-Identifier: Apache-2.0
"""Which response answers which request.

By order where the protocol answers in order; parsers/correlation.py has those that carry an id.

Order alone cannot survive a loss, turns can: a client that waits for its responses before it
asks again gets, in each turn, the responses to the turn right before. So after a loss older
requests are given up and pairing goes on with the next turn. A client that does not wait
gives itself away when a response comes for a request that a later one has overtaken; and one
that sends several at once is not trusted until it has been seen to wait. After a loss there is
then no way to tell which response is whose, and none is joined until all is quiet.
An exchange that is reported with a gap is right, one joined wrongly is a lie.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Final

from parsers.correlation import EARLY_NS, Correlation
from parsers.model import Completeness, Exchange, Kind, Message, Parser
from parsers.tally import Tally

MAX_PENDING: Final = 32_768
"""Requests without a response on one connection: a pipeline of a bulk load holds ten thousand.
What they take counts into the bound of all sessions together."""
QUIET_NS: Final = 1_000_000_000
"""Silence after which requests and responses can no longer be out of step."""

COMPLETE: Final = Completeness.COMPLETE


class Pairing:
    """The requests of one connection that wait, and the exchanges that are done."""

    __slots__ = (
        "_asked_ns",
        "_deep",
        "_early",
        "_early_request",
        "_early_whole",
        "_expired",
        "_last_ns",
        "_lost_turn",
        "_missed_turn",
        "_muted_turn",
        "_overdue",
        "_overlaps",
        "_owed",
        "_proven",
        "_response_turn",
        "done",
        "fresh",
        "ids",
        "muted",
        "parser",
        "pending",
        "protocol",
        "reorders",
        "reported",
        "tally",
    )

    def __init__(self, tally: Tally, *, late: bool) -> None:
        self.tally = tally
        self.protocol = ""
        self.parser: Parser | None = None
        """Who can describe what is reported."""
        self.ids = Correlation(tally, self.report)
        """Where messages carry an id."""
        self.pending: deque[Message] = deque()
        self.done: list[Exchange] = []
        self.reported = 0
        """Exchanges so far."""
        self.fresh = late
        """Nothing was reported yet of a connection that is older than the tracer."""
        self.reorders = False
        """A response may be seen before its request."""
        self.muted = False
        """Requests and responses may be out of step: join none."""
        self._muted_turn = 0
        self._last_ns = 0
        """While muted: when a message was last seen."""
        self._lost_turn = 0
        """Responses to requests of turns before this may have been lost."""
        self._missed_turn = -1
        """Requests of this turn or before it were lost."""
        self._asked_ns = 0
        """When the latest request began."""
        self._overlaps = False
        """The client has asked before it had all its responses, or may have."""
        self._deep = False
        """Several requests have waited at once since anything was lost."""
        self._proven = False
        """Several have, and all had their responses before the next was asked."""
        self._owed = False
        """The responses to lost requests were not seen yet."""
        self._overdue = 0
        """How many of `pending`, the oldest, were reported; their responses may yet come."""
        self._early: Message | None = None
        """A response that was seen before its request."""
        self._early_request: Message | None = None
        """Its request, if that has come while the response is not whole."""
        self._early_whole = False
        self._expired: Message | None = None
        """What the response under way answers, if that was reported as unanswered."""
        self._response_turn = 0

    def __len__(self) -> int:
        return len(self.pending) - self._overdue + len(self.ids)

    @property
    def waits(self) -> bool:
        """Something is here that time or the other direction will settle."""
        return len(self) > 0 or self._early is not None or self.ids.waits

    def ask(self, request: Message) -> None:
        """A request has begun."""
        if self.muted:
            self._listen(request)
        if self._early is not None and self._meets_early(request):
            return
        pending = self.pending
        if self._owed:
            self._owed = False
            if (
                (self._deep or self._proven)
                and self._lost_turn <= self._missed_turn
                and request.first_ns - self._asked_ns < QUIET_NS
            ):
                # The responses to what was lost have not come, and it asks again.
                self._overlaps = True
            self._doubt(request.turn)
        self._asked_ns = request.first_ns
        if pending:
            if pending[-1].turn == request.turn:
                self._deep = True
            if len(pending) >= MAX_PENDING:
                self.tally.limits += 1
                self.give_up()
                self._mute(request.turn)
            elif self.fresh:
                # Joined while a client was sending several: there may be more before these.
                self._mute(request.turn)
        elif self._deep:
            self._proven = True
        pending.append(request)

    def claim(self, response: Message) -> Message | None:
        """The request that a response, which has begun, answers; it waits no longer."""
        pending = self.pending
        request = None
        if pending:
            request = pending.popleft()
            if pending and pending[0].turn != request.turn:
                self._overlaps = True
            if self._overdue:
                self._overdue -= 1
                self._expired = request
        elif (
            self.reorders
            and response.turn in {1, self._response_turn}
            and response.turn > self._missed_turn + 1
        ):
            # The kernel has counted no request since the last response, so none was lost.
            self.release_early()
            self._early = response
        else:
            # Its request was lost, and so may be those of the others in its turn.
            self._response_turn = 0
            self._owed = False
            return None
        self._response_turn = response.turn
        return request

    def answer(
        self, request: Message | None, response: Message, error_type: str | None = None
    ) -> None:
        """A response is whole, or will never be; `request` is what it claimed."""
        if request is None:
            request = self._request_of(response)
            if request is None:
                return
        if request is self._expired:
            self._expired = None
            self.tally.unpaired_responses += 1
            return
        if self.muted:
            self._last_ns = response.last_ns
            self.tally.unpaired_responses += 1
            self.report(request, None, Completeness.GAP)
            return
        completeness = COMPLETE
        if response.gap or request.gap:
            completeness = Completeness.GAP
        elif response.truncated or request.truncated:
            completeness = Completeness.TRUNCATED
        self.report(request, response, completeness, error_type)

    def _request_of(self, response: Message) -> Message | None:
        """The request that came after the response to it had begun."""
        if response is not self._early:
            self.tally.unpaired_responses += 1
            # Asked while it was under way: who knows whether not for this.
            self.give_up()
            return None
        request = self._early_request
        if request is None:
            self._early_whole = True
        else:
            self._early = self._early_request = None
        return request

    # -- losses -----------------------------------------------------------------------

    def lose_requests(self, turn: int) -> None:
        """Requests of `turn` or before it were lost."""
        self.ids.lose(Kind.REQUEST)
        self._missed_turn = turn
        if self._early_request is None:
            self.release_early()
        self._owed = True

    def lose_responses(self, turn: int) -> None:
        """Responses were lost, those to requests of turns before `turn` among them."""
        self.ids.lose(Kind.RESPONSE)
        self._lost_turn = turn
        self._doubt(turn)
        while self.pending and self.pending[0].turn < turn:
            self._give_up_oldest()

    def give_up(self) -> None:
        """Report all requests with their response lost."""
        while self.pending:
            self._give_up_oldest()
        self.ids.give_up()

    def expire(self, before_ns: int, error_type: str, now_ns: int = 0) -> None:
        """Report requests that began before `before_ns` as unanswered up to `now_ns`."""
        while len(self.pending) > self._overdue:
            request = self.pending[self._overdue]
            if request.first_ns >= before_ns:
                break
            self._overdue += 1
            request.last_ns = max(request.last_ns, now_ns)
            self._report_unanswered(request, error_type)
        self.ids.expire(before_ns, error_type, now_ns)

    def end(self, timestamp_ns: int, error_type: str) -> None:
        """The connection has ended: nothing will be answered any more."""
        self.release_early()
        waiting = list(self.pending)[self._overdue :]
        for request in waiting:
            request.last_ns = max(request.last_ns, timestamp_ns)
            self._report_unanswered(request, error_type)
        self._clear()
        self.ids.end(timestamp_ns, error_type)

    def abandon(self) -> None:
        """None of these were requests."""
        self.tally.abandoned_requests += len(self)
        self.release_early()
        self._clear()
        self.ids.clear()

    def rename_oldest(self, correlation_id: Hashable) -> None:
        """The connection speaks another protocol now, in which the oldest request has an id."""
        if len(self.pending) > self._overdue:
            request = self.pending[self._overdue]
            del self.pending[self._overdue]
            request.correlation_id = correlation_id
            self.ids.ask(request)

    def release_early(self, now_ns: int | None = None) -> None:
        """Stop waiting (after `EARLY_NS`) for the request of a response that was seen first."""
        early = self._early
        if early is None or self._early_request is not None:
            return
        if now_ns is None or now_ns - early.first_ns > EARLY_NS:
            self._early = None
            # If more of it is to come, it is counted when it is whole.
            self.tally.unpaired_responses += self._early_whole
            self._early_whole = False

    def report(
        self,
        request: Message,
        response: Message | None,
        completeness: Completeness,
        error_type: str | None = None,
    ) -> None:
        """An exchange is done."""
        if self.fresh:
            self.fresh = False
            if completeness is COMPLETE:
                completeness = Completeness.LATE_ATTACH
        self.reported += 1
        self.tally.exchanges += 1
        protocol = request.protocol or self.protocol
        exchange = Exchange(protocol, request, response, completeness, error_type)
        exchange.parser = self.parser
        self.done.append(exchange)

    def _report_unanswered(self, request: Message, error_type: str) -> None:
        if request.turn < self._lost_turn:
            # Its response may have been among what was lost: who knows whether it had none.
            self.report(request, None, Completeness.GAP)
        else:
            self.report(request, None, Completeness.UNANSWERED, error_type)

    def _meets_early(self, request: Message) -> bool:
        """Whether `request` is the one of the response that was seen first."""
        early = self._early
        if early is None or self._early_request is not None:
            return False
        late_ns = request.first_ns - early.first_ns
        if late_ns > EARLY_NS or request.turn != early.turn + 1:
            self.release_early()
            return False
        request.first_ns = min(request.first_ns, early.first_ns)
        self._early_request = request
        if self._early_whole:
            self._early_whole = False
            self.answer(None, early)
        return True

    def _doubt(self, turn: int) -> None:
        """After a loss: mute, unless the client is known to wait for its responses."""
        if self._deep and not self._proven:
            self._overlaps = True
        self._deep = False
        if self._overlaps:
            self._mute(turn)

    def _mute(self, turn: int) -> None:
        self.muted = True
        self._muted_turn = max(self._muted_turn, turn)

    def _listen(self, request: Message) -> None:
        """Speak again where `request` shows that both sides are in step."""
        quiet = self._last_ns and request.first_ns - self._last_ns > QUIET_NS
        waits = not self._overlaps and request.turn > self._muted_turn
        self._last_ns = request.first_ns
        if quiet or waits:
            self.give_up()
            self.muted = False
            self._last_ns = 0

    def _give_up_oldest(self) -> None:
        request = self.pending.popleft()
        if self._overdue:
            self._overdue -= 1
        else:
            self.report(request, None, Completeness.GAP)

    def _clear(self) -> None:
        self.pending.clear()
        self._overdue = 0
