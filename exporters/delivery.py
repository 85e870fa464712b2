# SPDX-License-Identifier: Apache-2.0
"""What becomes of a batch: attempts, pauses, halves, and a number for every outcome.

OTel: https://opentelemetry.io/docs/specs/otlp/#failures 1.11.0
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from exporters.otlp_wire import EncodedSpan, RequestEncoder
from exporters.transport import Answer, Transport, Verdict

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S: Final = 1.0
MAX_BACKOFF_S: Final = 10.0
JITTER: Final = 0.2
"""Share of a pause: machines that lost one backend must not come back all at once."""
MAX_RETRY_AFTER_S: Final = 300.0
"""However long a backend asks for, it is tried again after this."""

LOG_INTERVAL_S: Final = 30.0
MAX_CAUSES: Final = 64


class RareLog:
    """Passes on one line for each cause every 30 s, and counts what it keeps back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._silent_until: dict[str, float] = {}
        self._kept_back: Counter[str] = Counter()
        self._lock = threading.Lock()

    def say(self, cause: str, text: str) -> None:
        with self._lock:
            now = self._clock()
            if now < self._silent_until.get(cause, now):
                self._kept_back[cause] += 1
                return
            if len(self._silent_until) >= MAX_CAUSES:
                self._silent_until.clear()
                self._kept_back.clear()
            self._silent_until[cause] = now + LOG_INTERVAL_S
            times = self._kept_back.pop(cause, 0)
        logger.warning("%s%s", text, f" ({times} more like it)" if times else "")


class Delivery:
    """Sends batches, one after the other, on one thread."""

    def __init__(
        self,
        transport: Transport,
        timeout_s: float,
        total_s: float,
        *,
        log: RareLog | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float, bool], None] | None = None,
    ) -> None:
        self._transport = transport
        self._timeout_s = timeout_s
        self._total_s = total_s
        self._log = log or RareLog(clock)
        self._clock = clock
        self._encoder = RequestEncoder()
        self._pause = pause or self._wait
        self._hurry = threading.Event()
        self._stop = threading.Event()
        self._not_before = 0.0
        self.counters: Counter[str] = Counter()

    def deliver(self, batch: Sequence[EncodedSpan]) -> None:
        """See `batch` through to one of the counted outcomes."""
        deadline = self._clock() + self._total_s
        parts = [batch]
        while parts:
            part = parts.pop()
            try:
                verdict = self._deliver(part, deadline)
            except Exception:
                # Not known to happen; if it does, the next batch must still be sent.
                logger.exception("OTLP: %d spans could not be delivered", len(part))
                verdict = self._drop("error", part)
            if verdict is Verdict.TOO_LARGE:
                middle = len(part) // 2
                parts += (part[middle:], part[:middle])
                self.counters["splits"] += 1

    def hold(self) -> None:
        """Wait as long as the backend asked for; spans are better off in the queue meanwhile."""
        left = self._not_before - self._clock()
        if left > 0:
            self._pause(left, True)

    def hurry(self) -> None:
        """Cut the present pause short, or the next one: once. Not one the backend asked for."""
        self._hurry.set()

    def calm(self) -> None:
        """Take back `hurry` if no pause has come of it."""
        self._hurry.clear()

    def stop(self) -> None:
        """Give up whatever is under way."""
        self._stop.set()
        self._hurry.set()

    def _deliver(self, spans: Sequence[EncodedSpan], deadline: float) -> Verdict:
        body = self._encoder.encode(spans)
        backoff_s = FIRST_BACKOFF_S
        retried = False
        while True:
            left_s = deadline - self._clock()
            if self._stop.is_set():
                return self._drop("shutdown", spans)
            if left_s <= 0:
                return self._drop("timeout", spans)
            answer = self._transport.send(body, min(self._timeout_s, left_s))
            self.counters["requests"] += 1
            match answer.verdict:
                case Verdict.ACCEPTED:
                    return self._accept(answer, len(spans))
                case Verdict.TOO_LARGE if len(spans) > 1:
                    self._warn(answer, f"{len(spans)} spans are sent in halves")
                    return Verdict.TOO_LARGE
                case Verdict.TOO_LARGE | Verdict.REFUSED:
                    self._warn(answer, f"{len(spans)} spans dropped")
                    return self._drop("status", spans)
            if self._stop.is_set():
                return self._drop("shutdown", spans)
            asked = answer.retry_after_s is not None
            if answer.retry_after_s is None:
                pause_s = backoff_s * random.uniform(1 - JITTER, 1 + JITTER)
            else:
                # From the second time on our own backoff counts as well: "at once" may be
                # all that a broken backend ever says.
                wish_s = min(answer.retry_after_s, MAX_RETRY_AFTER_S)
                pause_s = max(wish_s, backoff_s) if retried else wish_s
                backoff_s = max(backoff_s, pause_s)
                self._not_before = self._clock() + pause_s
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
            if self._clock() + pause_s >= deadline:
                self._warn(answer, f"{len(spans)} spans dropped after {self._total_s:g} s")
                return self._drop("timeout", spans)
            self._warn(answer, "will be tried again")
            self.counters["retries"] += 1
            retried = True
            self._pause(pause_s, asked)

    def _accept(self, answer: Answer, spans: int) -> Verdict:
        rejected = min(answer.rejected, spans)
        self.counters["spans_sent"] += spans - rejected
        self.counters["spans_refused"] += rejected
        if answer.cause:
            self._warn(answer, f"{rejected} of {spans} spans refused")
        return Verdict.ACCEPTED

    def _drop(self, why: str, spans: Sequence[EncodedSpan]) -> Verdict:
        self.counters[f"spans_dropped_{why}"] += len(spans)
        return Verdict.REFUSED

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
