# SPDX-License-Identifier: Apache-2.0
"""The threads that deliver: from the queue to the backend, or to the spool and from there.

Two senders do as long as they keep up: one would, if no request ever hung. A backend that
takes a second for an answer gets more of them, each with its own connection. While the
backend fails one of them tries again, another once, and the rest leave spans where they are
(exporters/attempts.py). A batch that has used up its time goes back to the queue as the
oldest, or to the spool: an outage costs what finds no room, and only that.

With a spool there is one more thread. It moves the oldest spans from the queue to the disk
before the queue is full, so the pipeline waits for no disk and there is no second backlog
in memory. If the disk is too slow, or fails, the queue drops its oldest as without a spool.
Senders take from the spool what they can besides new spans, and one of them never does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Final

from exporters.attempts import Attempts, Outage
from exporters.delivery import TIMEOUT, Batch, Delivered, P, Request, deliver, halves
from exporters.environment import SettingsError
from exporters.otlp_wire import EncodedSpan, RequestEncoder
from exporters.queue import SpanQueue
from exporters.rare_log import RareLog
from exporters.settings import OtlpSettings
from exporters.spool import Spool
from exporters.transport import Transport

logger = logging.getLogger(__name__)

MAX_SENDERS: Final = 4
"""With batches of 512 this makes 2,000 spans a second if an answer takes one."""
SPARE_SENDERS: Final = 2
"""With fewer one request that hangs would be all that happens until its time is up."""
CLOSE_S: Final = 0.75
"""How long `close` waits: half of it for attempts to give up, all of it for the spool. With
what the spool takes to close it is less than a second."""
DISK_REST_S: Final = 5.0
"""How long the queue keeps its spans after the spool could not be written."""

MAX_ROUNDS: Final = 3
"""How often spans may use up the time of a request while others pass: it is then for
themselves that they fail, and they must not be in the way of others for ever."""
MAX_SUSPECTS: Final = 64

SPOOL_ERROR: Final = "spans_dropped_spool_error"


class Sender:
    """A thread, its connection, and what it has in hand."""

    def __init__(
        self, transport: Transport, attempts: Attempts, work: Callable[[Sender], None], number: int
    ) -> None:
        self.transport = transport
        self.attempts = attempts
        self.encoder = RequestEncoder()
        self.batch: list[EncodedSpan] | None = None
        self.thread = threading.Thread(
            target=work, args=(self,), name=f"otlp-{number}", daemon=True
        )


class Senders:
    """Delivers what is in `queue` until `close`."""

    def __init__(
        self,
        settings: OtlpSettings,
        queue: SpanQueue,
        connect: Callable[[], Transport],
        *,
        spool: Spool | None = None,
        log: RareLog | None = None,
        maximum: int = MAX_SENDERS,
    ) -> None:
        """`connect` makes a transport for one thread.

        Raises:
            SettingsError: `connect` does.
        """
        self._settings = settings
        self._queue = queue
        self._connect = connect
        self._spool = spool
        self._log = log or RareLog()
        self._maximum = maximum
        self._outage = Outage()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._readers = 0
        """Senders that have a request of the spool."""
        self._rounds: Counter[Hashable] = Counter()
        self._senders: list[Sender] = []
        self._add(connect())
        self._spooler = threading.Thread(target=self._work_spooler, name="otlp-spool", daemon=True)
        if spool is not None:
            self._spooler.start()

    def __len__(self) -> int:
        return len(self._senders)

    def hurry(self) -> None:
        """Cut pauses short that no backend has asked for: the present one, or the next."""
        for sender in list(self._senders):
            sender.attempts.hurry()

    def calm(self) -> None:
        """Take back `hurry` where no pause has come of it."""
        for sender in list(self._senders):
            sender.attempts.calm()

    def counters(self) -> Counter[str]:
        """`requests`, `retries` and `splits`."""
        total: Counter[str] = Counter()
        for sender in list(self._senders):
            # By name: another thread may add a first one while this one reads.
            for name in ("requests", "retries", "splits"):
                total[name] += sender.attempts.counters[name]
        return total

    def close(self) -> None:
        """End all threads; what they had goes to the spool, or back to the queue to be counted.

        Takes a little more than `CLOSE_S` at most.
        """
        deadline = time.monotonic() + CLOSE_S
        with self._lock:
            self._closing.set()
        self._queue.end()
        for sender in self._senders:
            sender.attempts.stop()
            sender.transport.abort()
        half = deadline - CLOSE_S / 2 if self._spool else deadline
        for sender in self._senders:
            sender.thread.join(max(0.0, half - time.monotonic()))
            if not sender.thread.is_alive():
                sender.transport.close()
            elif batch := sender.batch:  # stuck where nothing can wake it, as in name resolution
                self._queue.seize(batch)
        if self._spool is not None:
            self._spooler.join(max(0.0, deadline - time.monotonic()))
            if len(self._queue) and not self._spooler.is_alive():
                spooler = threading.Thread(target=self._work_spooler, daemon=True)
                spooler.start()
                spooler.join(max(0.0, deadline - time.monotonic()))

    def _add(self, transport: Transport) -> None:
        settings = self._settings
        attempts = Attempts(
            transport,
            settings.timeout_s,
            settings.export_timeout_s,
            log=self._log,
            outage=self._outage,
        )
        sender = Sender(transport, attempts, self._work, len(self._senders) + 1)
        sender.thread.start()
        self._senders.append(sender)

    def _grow(self) -> None:
        with self._lock:
            if (
                len(self._senders) >= self._maximum
                or (self._outage.is_on and len(self._senders) >= SPARE_SENDERS)
                or self._queue.has_takers
                or self._closing.is_set()
            ):
                return
            try:
                self._add(self._connect())
            except (SettingsError, RuntimeError) as problem:  # no certificate any more; no thread
                self._log.say("no sender", f"OTLP: cannot have another connection: {problem}.")

    # ---- on a sender's thread ----

    def _work(self, sender: Sender) -> None:
        attempts = sender.attempts
        while True:
            attempts.hold()
            batch = self._queue.take(self._settings.schedule_delay_s, self._may_read)
            if batch is None:
                attempts.rest()
                return
            if batch:
                if self._queue.has_backlog or len(self._senders) < SPARE_SENDERS:
                    self._grow()
                sender.batch = batch
                self._send(sender, batch)
                sender.batch = None
            elif not self._send_spooled(sender):
                attempts.rest()

    def _send(self, sender: Sender, batch: list[EncodedSpan]) -> None:
        fates: Counter[str] = Counter()
        back: list[EncodedSpan] = []
        try:
            encoder = sender.encoder
            whole = Batch.of(batch, encoder)
            delivered, passed = self._deliver(sender, whole, lambda part: part.halves(encoder))
            if delivered.left and not self._queue.claim(batch):
                return
            fates = delivered.fates
            for name, part in delivered.left:
                if self._spooled(Request(part.body, part.items)):
                    continue
                if name is not TIMEOUT:
                    fates[name if self._spool is None else SPOOL_ERROR] += part.items
                elif passed and self._is_hopeless(part.spans[0][1]):
                    fates[TIMEOUT] += part.items
                else:
                    back += part.spans
        except Exception:
            # Not known to happen; if it does, the next batch must still be sent.
            logger.exception("OTLP: %d spans could not be delivered", len(batch))
            fates, back = Counter(spans_dropped_error=len(batch)), []
        self._queue.settle(batch, fates, back)

    def _spooled(self, request: Request) -> bool:
        if self._spool is None or not self._spool.append(request):
            return False
        self._queue.wake()
        return True

    def _deliver(
        self, sender: Sender, whole: P, split: Callable[[P], Sequence[P]]
    ) -> tuple[Delivered[P], bool]:
        """What became of `whole`, and whether the backend has answered others meanwhile."""
        outage, attempts = self._outage, sender.attempts
        before = outage.answers - attempts.answers
        delivered = deliver(attempts, whole, split)
        return delivered, outage.answers - attempts.answers > before

    def _may_read(self) -> bool:
        return (
            self._spool is not None
            and self._readers < max(1, self._maximum - 1)
            and self._spool.waiting > 0
        )

    def _send_spooled(self, sender: Sender) -> bool:
        """Send the oldest request of the spool; False if there is none for us."""
        spool = self._spool
        if spool is None:
            return False
        with self._lock:
            if not self._may_read():
                return False
            self._readers += 1
        try:
            taken = spool.take()
            if taken is None:
                return False
            self._grow()  # one is to be there for new spans
            delivered, passed = self._deliver(sender, taken.request, halves)
            fates, left = delivered.fates, delivered.left
            is_late = passed and not fates and all(name is TIMEOUT for name, _ in left)
            if is_late and self._is_hopeless((taken.segment.path, taken.offset)):
                fates[TIMEOUT] += taken.request.items
                left.clear()
            if not fates:
                spool.put_back(taken)
            elif spool.finish(taken, fates):
                for _, request in left:
                    if not self._spooled(request):
                        self._queue.count({SPOOL_ERROR: request.items})
            return True
        except Exception:
            logger.exception("OTLP: a request of the spool could not be sent")
            return False
        finally:
            with self._lock:
                self._readers -= 1

    def _is_hopeless(self, key: Hashable) -> bool:
        """Others have passed and this has not: whether that has now happened too often."""
        with self._lock:
            if len(self._rounds) >= MAX_SUSPECTS:
                self._rounds.clear()
            self._rounds[key] += 1
            if self._rounds[key] < MAX_ROUNDS:
                return False
            del self._rounds[key]
            return True

    # ---- on the spooler's thread ----

    def _work_spooler(self) -> None:
        spool = self._spool
        encoder = RequestEncoder()
        while spool is not None and (batch := self._queue.take_overflow()) is not None:
            fates: Counter[str] = Counter()
            try:
                if not spool.append(Request(encoder.encode(batch), len(batch))):
                    if not self._closing.is_set():
                        # In memory they may be sent yet.
                        self._queue.seize(batch)
                        self._closing.wait(DISK_REST_S)
                        continue
                    fates[SPOOL_ERROR] += len(batch)
            except Exception:
                logger.exception("OTLP: %d spans could not be spooled", len(batch))
                fates["spans_dropped_error"] += len(batch)
            self._queue.settle(batch, fates)
            self._queue.wake()
