# SPDX-License-Identifier: Apache-2.0
"""The retry policy of one request: attempts, pauses and halves until its fate is known.

Several senders may share one backend. Then they share an `Outage` too: while the backend
fails, one of them tries again and the others wait for how that ends, so that four senders
are hardly more of a burden to a backend in trouble than one. One more may try a request of
its own, once: if that passes, it was the other's request that failed and not the backend.

OTel: https://opentelemetry.io/docs/specs/otlp/#failures 1.11.0
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Final, NamedTuple, Protocol, TypeVar

from exporters.rare_log import RareLog
from exporters.transport import Answer, Transport, Verdict

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S: Final = 1.0
MAX_BACKOFF_S: Final = 10.0
JITTER: Final = 0.2
"""Share of a pause: machines that lost one backend must not come back all at once."""
MAX_RETRY_AFTER_S: Final = 300.0
"""However long a backend asks for, it is tried again after this."""


class Fate(Enum):
    """What became of a request in the end."""

    ACCEPTED = "accepted"
    TOO_LARGE = "too large"
    """Refused for its size; in halves it may pass, as it has more than one item."""
    REFUSED = "refused"
    UNSUPPORTED = "unsupported"
    """Refused for its kind: so will all others be."""
    EXPIRED = "expired"
    """Time was up, and the backend had said nothing final."""
    STOPPED = "stopped"
    FAILED = "failed"
    """By a fault of ours, which is in the log."""


class Outcome(NamedTuple):
    """The end of a request."""

    fate: Fate
    rejected: int
    """Items of an accepted request that the backend threw away (partial success)."""


class Part(Protocol):
    """A request, or a part of one that was too large."""

    @property
    def body(self) -> bytes:
        """What is sent."""
        ...

    @property
    def items(self) -> int:
        """How many spans, or data points, are in it."""
        ...


P = TypeVar("P", bound=Part)


class Outage:
    """What the senders to one backend know together. Thread-safe."""

    def __init__(self) -> None:
        self.not_before = 0.0
        """The backend wants to be left alone until then, by the senders' clock."""
        self.answers = 0
        """Final words of the backend; threads may lose a count, but never all."""
        self._changed = threading.Condition()
        self._failing = False
        self._prober: object = None
        self._second: object = None
        self._idle: set[object] = set()
        """Those of the two that have no request yet: they give way to one who has."""
        self._waiting = 0
        """Senders that wait with a request in hand; they come before those without."""

    @property
    def is_on(self) -> bool:
        """Whether the last that was heard of the backend is that it fails."""
        return self._failing

    def claim(self, sender: object) -> bool:
        """The backend fails `sender`; True if it is the one to try again."""
        with self._changed:
            self._failing = True
            if self._prober is None or self._prober in self._idle:
                self._prober = sender
            return self._prober is sender

    def begin(self, sender: object) -> None:
        """`sender` has a request."""
        if self._idle:
            with self._changed:
                self._idle.discard(sender)

    def give_up(self, sender: object) -> None:
        """`sender` tries no more; another may."""
        with self._changed:
            self._idle.discard(sender)
            if self._prober is sender:
                self._prober = None
                self._changed.notify_all()
            if self._second is sender:
                self._second = None
                self._changed.notify_all()

    def end(self) -> None:
        """The backend has answered."""
        self.answers += 1
        if self._failing:  # without the lock: mostly there is nothing to end
            with self._changed:
                self._failing = False
                self._prober = self._second = None
                self._idle.clear()
                self._changed.notify_all()

    def wait(self, sender: object, timeout_s: float, stop: threading.Event) -> None:
        """With a request in hand: until it is over, `sender` is to try, or time is up."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(
                lambda: not self._failing or self._prober is None or stop.is_set(), timeout_s
            )
            self._waiting -= 1
            if self._failing and self._prober is None:
                self._prober = sender

    def enter(self, sender: object, stop: threading.Event) -> None:
        """With nothing in hand: until it is over, or `sender` is one to try."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    not self._failing
                    or sender in {self._prober, self._second}
                    or (None in {self._prober, self._second} and not self._waiting)
                    or stop.is_set()
                )
            )
            if not self._failing:
                return
            self._idle.add(sender)
            if self._prober is None:
                self._prober = sender
            elif self._second is None and self._prober is not sender:
                self._second = sender

    def wake(self) -> None:
        """Let those that wait look at their `stop`."""
        with self._changed:
            self._changed.notify_all()


class Attempts:
    """Sends requests, one after the other, on one thread; the short methods are for others."""

    def __init__(
        self,
        transport: Transport,
        timeout_s: float,
        total_s: float,
        *,
        log: RareLog | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float, bool], None] | None = None,
        outage: Outage | None = None,
    ) -> None:
        """`timeout_s` is for one attempt, `total_s` for a request with all its retries.

        `pause` waits so many seconds; its second argument says whether the backend has
        asked for them. Senders to the same backend are given the same `outage`.
        """
        self.total_s = total_s
        self.clock = clock
        self.counters: Counter[str] = Counter()
        """`requests`, `retries` and `splits`, as they happen."""
        self.answers = 0
        """Those of `Outage.answers` that were for us."""
        self._transport = transport
        self._timeout_s = timeout_s
        self._log = log or RareLog(clock)
        self._pause = pause or self._wait
        self._outage = outage or Outage()
        self._not_before = 0.0
        """When the pause ends that the last request had no time for."""
        self._hurry = threading.Event()
        self._stop = threading.Event()

    def send(
        self, body: bytes, items: int, noun: str = "spans", deadline: float | None = None
    ) -> Outcome:
        """See `body` through; `items` and `noun` say in the log what is in it.

        `deadline` (by `clock`) is for requests that share the time of one.
        """
        if deadline is None:
            deadline = self.clock() + self.total_s
        self._outage.begin(self)
        try:
            return self._send(body, items, noun, deadline)
        finally:
            self._outage.give_up(self)

    def send_all(
        self,
        whole: P,
        split: Callable[[P], Sequence[P]],
        noun: str = "spans",
        deadline: float | None = None,
    ) -> Iterator[tuple[P, Outcome]]:
        """See `whole` through, by `split` in as many parts as it takes; never raises.

        Gives each part with what became of it, which is never `Fate.TOO_LARGE`.
        """
        if deadline is None:
            deadline = self.clock() + self.total_s
        parts = [whole]
        while parts:
            part = parts.pop()
            try:
                outcome = self.send(part.body, part.items, noun, deadline)
                if outcome.fate is Fate.TOO_LARGE:
                    parts += reversed(split(part))
                    self.counters["splits"] += 1
                    continue
            except Exception:
                # Not known to happen; if it does, the next part must still be sent.
                logger.exception("OTLP: %d %s could not be delivered", part.items, noun)
                outcome = Outcome(Fate.FAILED, 0)
            yield part, outcome

    def hold(self) -> None:
        """Wait for the end of a pause, or while another sender tries whether the backend is back.

        To be called before a request is taken from where it waits: it is better off there.
        Who takes nothing after it calls `rest`.
        """
        self._outage.enter(self, self._stop)
        left_s = self._outage.not_before - self.clock()
        if left_s > 0:
            self._pause(left_s, True)
        left_s = self._not_before - self.clock()
        if left_s > 0:
            self._pause(left_s, False)
        self._not_before = 0.0

    def rest(self) -> None:
        """There is nothing to send; if it was our turn to try, it is another's."""
        self._outage.give_up(self)

    def hurry(self) -> None:
        """Cut the present pause short, or the next one: once. Not one the backend asked for."""
        self._hurry.set()

    def calm(self) -> None:
        """Take back `hurry` if no pause has come of it."""
        self._hurry.clear()

    def stop(self) -> None:
        """Give up whatever is under way, for good."""
        self._stop.set()
        self._hurry.set()
        self._outage.wake()

    def _send(self, body: bytes, items: int, noun: str, deadline: float) -> Outcome:
        wait_s = self._outage.not_before - self.clock()
        if wait_s > 0:  # asked of another, after our `hold`
            if self.clock() + wait_s >= deadline:
                return Outcome(Fate.EXPIRED, 0)
            self._pause(wait_s, True)
        backoff_s = FIRST_BACKOFF_S
        retried = False
        while True:
            left_s = deadline - self.clock()
            if self._stop.is_set():
                return Outcome(Fate.STOPPED, 0)
            if left_s <= 0:
                return Outcome(Fate.EXPIRED, 0)
            answer = self._transport.send(body, min(self._timeout_s, left_s))
            self.counters["requests"] += 1
            if answer.verdict is not Verdict.RETRY:
                self.answers += 1
                self._not_before = 0.0
                self._outage.end()
                return self._final(answer, items, noun)
            if self._stop.is_set():
                return Outcome(Fate.STOPPED, 0)
            asked = answer.retry_after_s is not None
            if answer.retry_after_s is None:
                pause_s = backoff_s * random.uniform(1 - JITTER, 1 + JITTER)
            else:
                # From the second time on our own backoff counts as well: "at once" may be
                # all that a broken backend ever says.
                wish_s = min(answer.retry_after_s, MAX_RETRY_AFTER_S)
                pause_s = max(wish_s, backoff_s) if retried else wish_s
                backoff_s = max(backoff_s, pause_s)
                self._outage.not_before = self.clock() + pause_s
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
            first = self._outage.claim(self)
            if self.clock() + pause_s >= deadline:
                if asked:
                    self._warn(answer, f"it wants to be left alone for {pause_s:g} s")
                else:
                    # Whoever sends next must not come at once: that would be a busy loop.
                    self._not_before = self.clock() + pause_s
                    self._warn(answer, f"{items} {noun} not delivered in {self.total_s:g} s")
                return Outcome(Fate.EXPIRED, 0)
            self._warn(answer, "will be tried again")
            self.counters["retries"] += 1
            retried = True
            if first:
                self._pause(pause_s, asked)
            else:
                self._outage.wait(self, deadline - self.clock(), self._stop)
                wait_s = self._outage.not_before - self.clock()
                if wait_s > 0:  # what the backend asks for counts for all of us
                    self._pause(min(wait_s, max(0.0, deadline - self.clock())), True)

    def _final(self, answer: Answer, items: int, noun: str) -> Outcome:
        match answer.verdict:
            case Verdict.ACCEPTED:
                rejected = min(answer.rejected, items)
                if answer.cause:
                    self._warn(answer, f"{rejected} of {items} {noun} refused")
                return Outcome(Fate.ACCEPTED, rejected)
            case Verdict.TOO_LARGE if items > 1:
                self._warn(answer, f"{items} {noun} are too many for one request")
                return Outcome(Fate.TOO_LARGE, 0)
        self._warn(answer, f"{items} {noun} dropped")
        is_unsupported = answer.verdict is Verdict.UNSUPPORTED
        return Outcome(Fate.UNSUPPORTED if is_unsupported else Fate.REFUSED, 0)

    def _warn(self, answer: Answer, consequence: str) -> None:
        parts = [f"OTLP: {answer.cause}"]
        if answer.message:
            parts.append(f": {answer.message}")
        parts.append(f"; {consequence}.")
        if answer.remedy:
            parts.append(f" {answer.remedy}")
        self._log.say(answer.cause, "".join(parts))

    def _wait(self, pause_s: float, asked: bool) -> None:
        if asked:
            self._stop.wait(pause_s)
        else:
            self._hurry.wait(pause_s)
            self._hurry.clear()
