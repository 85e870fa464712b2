# SPDX-License-Identifier: Apache-2.0
"""Encoded spans between the pipeline's thread and those that send them.

Bounded in spans and in bytes; when it is full the oldest go, for what happened last is
what somebody looks for. Where there is a spool, its thread takes the oldest before that:
as soon as the queue is half full and nobody waits to send from it.

Every batch that was taken is in flight until its fates are counted, in one step, so that
what was put is at each moment queued, in flight, or in `fates`. Spans of it that have none
yet may come back. They are the oldest again, so if there is no room it is they who go, and
takers get them and others in turn: it may be for themselves that they could not be sent.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from exporters.otlp_wire import EncodedSpan

OVERFLOW_SHARE: Final = 0.5
"""How full the queue is when its oldest go to the spool: the rest is time for the disk."""


class SpanQueue:
    """One thread puts, any take, any wait."""

    def __init__(self, max_spans: int, max_bytes: int, batch_spans: int, batch_bytes: int) -> None:
        self._max_spans = max_spans
        self._max_bytes = max_bytes
        self._batch_spans = batch_spans
        self._batch_bytes = batch_bytes
        self._spans: deque[EncodedSpan] = deque()
        self._back: deque[EncodedSpan] = deque()
        """Spans that came back; they are older than `_spans`."""
        self._was_back = False
        """Whether those were the last to be taken."""
        self._bytes = 0
        self._in_flight: dict[int, list[EncodedSpan]] = {}
        self._claimed: set[int] = set()
        self._since = 0.0
        """When the first of `_spans` came, or those before it were taken."""
        self._takers = 0
        self._hurried = False
        self._ending = False
        self._closed = False
        self._changed = threading.Condition()
        self.fates: Counter[str] = Counter()
        """What became of batches, as `settle` was told."""

    def __len__(self) -> int:
        return len(self._back) + len(self._spans)

    @property
    def bytes(self) -> int:
        """Of the spans that are queued."""
        return self._bytes

    @property
    def in_flight(self) -> int:
        """Spans that were taken and not settled."""
        with self._changed:
            return sum(map(len, self._in_flight.values()))

    @property
    def has_backlog(self) -> bool:
        """Whether there is a full batch and nobody to take it."""
        return len(self) >= self._batch_spans and not self._takers

    @property
    def has_takers(self) -> bool:
        """Whether somebody waits in `take`."""
        return self._takers > 0

    def put(self, spans: Sequence[EncodedSpan]) -> int:
        """Append `spans`; returns how many of the oldest had to go."""
        size = sum([len(body) for _, body in spans])
        with self._changed:
            if not self._spans:
                self._since = time.monotonic()
            self._spans.extend(spans)
            self._bytes += size
            dropped = self._shrink()
            # Fewer than a batch can wait for the linger to pass.
            if len(self._spans) >= self._batch_spans or self._overflows():
                self._changed.notify_all()
        return dropped

    def take(
        self, linger_s: float, elsewhere: Callable[[], bool] = bool
    ) -> list[EncodedSpan] | None:
        """A batch: at once if it is full or hurried, else when its first waited for `linger_s`.

        Empty if nothing has come in `linger_s`, or nothing is due and there is work
        `elsewhere`; None when there will be no more. What it gives is in flight until
        `settle`.
        """
        began = time.monotonic()
        with self._changed:
            self._takers += 1
            while not (is_due := self._is_due(linger_s)) and not elsewhere():
                left_s = (self._since if self._spans else began) + linger_s - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
            self._takers -= 1
            if self._overflows():
                self._changed.notify_all()
            if self._closed or self._ending:
                return None
            return self._cut() if is_due else []

    def take_overflow(self) -> list[EncodedSpan] | None:
        """A batch of the oldest spans, once there are too many or no others are to come.

        Then None when all are taken. What it gives is in flight until `settle`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ending or self._overflows())
            self._was_back = False
            return self._cut() or None

    def settle(
        self,
        batch: list[EncodedSpan],
        fates: Mapping[str, int] | None = None,
        back: Sequence[EncodedSpan] = (),
    ) -> bool:
        """The fates of `batch` are known but for `back`; they count unless `seize` was faster.

        What is in `back` waits again, as the oldest.
        """
        with self._changed:
            self._claimed.discard(id(batch))
            if self._in_flight.pop(id(batch), None) is None:
                return False
            self.fates.update(fates or {})
            if back:
                self._put_back(back)
            self._settle_hurry()
            return True

    def claim(self, batch: list[EncodedSpan]) -> bool:
        """From now on nobody else may `seize` it; False if somebody has."""
        with self._changed:
            if id(batch) not in self._in_flight:
                return False
            self._claimed.add(id(batch))
            return True

    def count(self, fates: Mapping[str, int]) -> None:
        """Add fates of spans that were never in the queue."""
        with self._changed:
            self.fates.update(fates)

    def drain(self, timeout_s: float) -> bool:
        """Hurry, and wait until nothing is queued or in flight; False if time ran out."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
            return self._changed.wait_for(self._is_empty, timeout_s)

    def end(self) -> None:
        """`take` gives no more, and `take_overflow` all that is left."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def seize(self, batch: list[EncodedSpan]) -> None:
        """Put `batch` back if it is in flight, from a thread that nothing can wake."""
        with self._changed:
            if id(batch) in self._in_flight and id(batch) not in self._claimed:
                del self._in_flight[id(batch)]
                self._put_back(batch)

    def close(self) -> int:
        """Take no more and give no more; returns how many spans were queued or in flight.

        What becomes of those counts no more.
        """
        with self._changed:
            self._closed = True
            left = len(self) + sum(map(len, self._in_flight.values()))
            self._back.clear()
            self._spans.clear()
            self._in_flight.clear()
            self._bytes = 0
            self._changed.notify_all()
            return left

    def wake(self) -> None:
        """Let takers look again whether there is work elsewhere."""
        with self._changed:
            self._changed.notify_all()

    def _cut(self) -> list[EncodedSpan]:
        self._was_back = bool(self._back) and not (self._was_back and self._spans)
        source = self._back if self._was_back else self._spans
        batch: list[EncodedSpan] = []
        size = 0
        while source and len(batch) < self._batch_spans:
            size += len(source[0][1])
            if batch and size > self._batch_bytes:
                break
            batch.append(source.popleft())
            self._bytes -= len(batch[-1][1])
        if not self._was_back:
            self._since = time.monotonic()
        if batch:
            self._in_flight[id(batch)] = batch
        self._settle_hurry()
        return batch

    def _put_back(self, spans: Sequence[EncodedSpan]) -> None:
        self._back.extend(spans)
        self._bytes += sum([len(body) for _, body in spans])
        # At the end no more are put, and who ends it sees to what is left.
        if not self._ending and (dropped := self._shrink()):
            self.fates["spans_dropped_queue"] += dropped
        self._changed.notify_all()

    def _shrink(self) -> int:
        dropped = 0
        while len(self) > self._max_spans or self._bytes > self._max_bytes:
            oldest = (self._back or self._spans).popleft()
            self._bytes -= len(oldest[1])
            dropped += 1
        return dropped

    def _is_due(self, linger_s: float) -> bool:
        if self._closed or self._ending or self._back:  # which have waited
            return True
        count = len(self._spans)
        return count > 0 and (
            self._hurried
            or count >= self._batch_spans
            or time.monotonic() >= self._since + linger_s
        )

    def _overflows(self) -> bool:
        return not self._takers and (
            len(self) > OVERFLOW_SHARE * self._max_spans
            or self._bytes > OVERFLOW_SHARE * self._max_bytes
        )

    def _is_empty(self) -> bool:
        return not len(self) and not self._in_flight

    def _settle_hurry(self) -> None:
        if self._is_empty():
            self._hurried = False
            self._changed.notify_all()
