# SPDX-License-Identifier: Apache-2.0
"""Encoded spans between the pipeline's thread and the one that sends them.

Bounded in spans and in bytes; when it is full the oldest go, for what happened last is
what somebody looks for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from exporters.otlp_wire import EncodedSpan


class SpanQueue:
    """One thread puts, one takes, any waits."""

    def __init__(self, max_spans: int, max_bytes: int, batch_spans: int, batch_bytes: int) -> None:
        self._max_spans = max_spans
        self._max_bytes = max_bytes
        self._batch_spans = batch_spans
        self._batch_bytes = batch_bytes
        self._spans: deque[EncodedSpan] = deque()
        self._bytes = 0
        self._in_flight = 0
        self._hurried = False
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._spans)

    def put(self, spans: Sequence[EncodedSpan]) -> int:
        """Append `spans`; returns how many of the oldest had to go."""
        size = sum([len(body) for _, body in spans])
        with self._changed:
            self._spans.extend(spans)
            self._bytes += size
            dropped = 0
            while len(self._spans) > self._max_spans or self._bytes > self._max_bytes:
                self._bytes -= len(self._spans.popleft()[1])
                dropped += 1
            if len(self._spans) >= self._batch_spans:  # fewer can wait for the linger to pass
                self._changed.notify_all()
        return dropped

    def take(self, linger_s: float) -> list[EncodedSpan] | None:
        """A batch: at once if it is full or hurried, else what has come in `linger_s`.

        Empty if nothing has; None when the queue is closed. What it gives is in flight
        until `settle`.
        """
        with self._changed:
            self._changed.wait_for(self._is_due, linger_s)
            if self._closed:
                return None
            batch: list[EncodedSpan] = []
            size = 0
            while self._spans and len(batch) < self._batch_spans:
                size += len(self._spans[0][1])
                if batch and size > self._batch_bytes:
                    break
                batch.append(self._spans.popleft())
                self._bytes -= len(batch[-1][1])
            self._in_flight = len(batch)
            self._settle_hurry()
            return batch

    def settle(self) -> None:
        """The fate of the batch in flight is known and counted."""
        with self._changed:
            self._in_flight = 0
            self._settle_hurry()

    def drain(self, timeout_s: float) -> bool:
        """Hurry, and wait until nothing is queued or in flight; False if time ran out."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
            return self._changed.wait_for(self._is_empty, timeout_s)

    def close(self) -> int:
        """Take no more and give no more; returns how many spans were left in it."""
        with self._changed:
            self._closed = True
            left = len(self._spans)
            self._spans.clear()
            self._bytes = 0
            self._changed.notify_all()
            return left

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def _is_due(self) -> bool:
        return self._closed or self._hurried or len(self._spans) >= self._batch_spans

    def _is_empty(self) -> bool:
        return not self._spans and not self._in_flight

    def _settle_hurry(self) -> None:
        if self._is_empty():
            self._hurried = False
            self._changed.notify_all()
