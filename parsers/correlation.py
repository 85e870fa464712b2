# SPDX-License-Identifier: Apache-2.0
"""Which response answers which request, where the protocol numbers them.

Streams of HTTP/2, transactions of DNS: both messages of an exchange carry the same id, many are
under way at once, and their parts come interleaved. An exchange is done when both messages are
whole, or when one of them says that nothing more will come (`Message.ends`).

A loss cannot join what does not belong together here. What is in flight then is marked, since
nobody knows whose bytes were lost.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from parsers.model import Completeness, Kind, Message
from parsers.tally import Tally

MAX_OPEN: Final = 4096
"""Exchanges under way on one connection. Servers allow 100 to 1000 streams."""
MAX_EARLY: Final = 256
"""Responses that wait for their request."""
EARLY_NS: Final = 20_000_000
"""How long before its request's event a response may be seen: two threads of a client on
two CPUs may report in either order."""
ANSWERED_NS: Final = 10_000_000_000
"""How long the rest of a request is waited for that has been answered already."""

Report = Callable[[Message, Message | None, Completeness, str | None], None]


class Pair:
    """A request and, once it has begun, its response."""

    __slots__ = ("request", "response")

    def __init__(self, request: Message, response: Message | None) -> None:
        self.request = request
        self.response = response

    @property
    def completeness(self) -> Completeness:
        """What is known of it as it stands."""
        request, response = self.request, self.response
        if request.gap or (response is not None and response.gap):
            return Completeness.GAP
        if request.truncated or (response is not None and response.truncated):
            return Completeness.TRUNCATED
        return Completeness.COMPLETE


class Correlation:
    """The exchanges of one connection that are under way, by id."""

    __slots__ = ("_early", "_pairs", "_report", "_tally")

    def __init__(self, tally: Tally, report: Report) -> None:
        self._pairs: dict[Hashable, Pair] = {}
        self._early: dict[Hashable, Message] = {}
        """Responses that were seen before their request."""
        self._report = report
        self._tally = tally

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def waits(self) -> bool:
        """Something is here that time or the other direction will settle."""
        return bool(self._pairs or self._early)

    @property
    def answers(self) -> bool:
        """A response has been joined to a request and is not reported yet."""
        return any(pair.response is not None for pair in self._pairs.values())

    def ask(self, request: Message) -> None:
        """A request has begun."""
        key = request.correlation_id
        known = self._pairs.get(key)
        if known is not None:
            if known.response is None:
                known.request.resends += 1
                return
            self._give_up(key, known)
        elif len(self._pairs) >= MAX_OPEN:
            self._tally.limits += 1
            self.give_up()
        early = self._early.pop(key, None) if self._early else None
        if early is not None:
            if request.first_ns - early.first_ns > EARLY_NS:
                self._tally.unpaired_responses += 1
                early = None
            else:
                request.first_ns = min(request.first_ns, early.first_ns)
        self._pairs[key] = Pair(request, early)

    def claim(self, response: Message) -> None:
        """A response has begun."""
        key = response.correlation_id
        pair = self._pairs.get(key)
        if pair is not None and pair.response is None:
            pair.response = response
        elif len(self._early) < MAX_EARLY:
            self._tally.unpaired_responses += key in self._early
            self._early[key] = response
        else:
            self._tally.limits += 1
            self._tally.unpaired_responses += 1

    def settle(self, message: Message) -> None:
        """A message is whole, or says that its exchange has ended."""
        key = message.correlation_id
        pair = self._pairs.get(key)
        if pair is None or (pair.request is not message and pair.response is not message):
            return
        response = pair.response
        if not message.ends and (response is None or response.open or pair.request.open):
            return
        del self._pairs[key]
        self._report(pair.request, response, pair.completeness, None)

    def lose(self, kind: Kind) -> None:
        """Bytes of one direction were lost, of whatever is under way there."""
        for pair in self._pairs.values():
            response = pair.response
            if kind is Kind.RESPONSE:
                if response is None:
                    # Its response may be what was lost.
                    pair.request.gap = True
                elif response.open:
                    response.gap = True
            elif pair.request.open or (response is not None and response.open):
                # Or the client has ended it, in what was lost.
                pair.request.gap = True

    def give_up(self) -> None:
        """Report everything as it is: the rest will not be seen."""
        for key, pair in list(self._pairs.items()):
            self._give_up(key, pair)
        self._tally.unpaired_responses += len(self._early)
        self._early.clear()

    def idle(self, now_ns: int) -> None:
        """Time has passed: stop waiting for what would have come by now."""
        for key, early in list(self._early.items()):
            if now_ns - early.first_ns > EARLY_NS:
                del self._early[key]
                self._tally.unpaired_responses += 1
        for key, pair in list(self._pairs.items()):
            response = pair.response
            if response is None or response.open:
                continue
            if now_ns - max(response.last_ns, pair.request.last_ns) > ANSWERED_NS:
                self._give_up(key, pair)

    def expire(self, before_ns: int, error_type: str, now_ns: int = 0) -> None:
        """Report as unanswered up to `now_ns` what was last added to before `before_ns`."""
        for key, pair in list(self._pairs.items()):
            if pair.response is None and pair.request.last_ns < before_ns:
                del self._pairs[key]
                pair.request.last_ns = max(pair.request.last_ns, now_ns)
                self._report_unanswered(pair.request, error_type)

    def end(self, timestamp_ns: int, error_type: str) -> None:
        """The connection has ended: nothing will be answered any more."""
        pairs = list(self._pairs.values())
        self._pairs.clear()
        for pair in pairs:
            request, response = pair.request, pair.response
            if response is None:
                request.last_ns = max(request.last_ns, timestamp_ns)
                self._report_unanswered(request, error_type)
            elif response.open:
                # Where bytes were lost its end may have been among them.
                reason = None if request.gap or response.gap else error_type
                self._report(request, response, pair.completeness, reason)
            else:
                request.gap = request.gap or request.open
                self._report(request, response, pair.completeness, None)
        self._tally.unpaired_responses += len(self._early)
        self._early.clear()

    def clear(self) -> int:
        """Forget everything, for none of these were requests; how many they are."""
        number = len(self._pairs)
        self._pairs.clear()
        self._early.clear()
        return number

    def _give_up(self, key: Hashable, pair: Pair) -> None:
        del self._pairs[key]
        self._report(pair.request, pair.response, Completeness.GAP, None)

    def _report_unanswered(self, request: Message, error_type: str) -> None:
        if request.gap:
            self._report(request, None, Completeness.GAP, None)
        else:
            self._report(request, None, Completeness.UNANSWERED, error_type)
