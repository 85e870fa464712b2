# SPDX-License-Identifier: Apache-2.0
"""A bounded spool on disk for requests that could not be delivered.

Requests go to the end of the newest file and come from the oldest. When there are more
bytes than allowed the oldest file goes, and its spans are counted. One process has a
spool; what it leaves behind, the next one finds.

A disk that fails costs the spans that were to be written and no more: the failure is
counted and logged, and the next request is tried again.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from exporters.delivery import Request
from exporters.environment import SettingsError
from exporters.rare_log import RareLog
from exporters.segments import MAGIC, SUFFIX, CorruptError, Head, Segment, record

SPOOL_BYTES: Final = 256 * 1024 * 1024
"""About five million spans: 40 minutes at 2,000 spans a second."""
SEGMENT_BYTES: Final = 4 * 1024 * 1024
"""What goes at once when there is too much; less if the bound is small."""
MIN_SEGMENTS: Final = 8
MAX_SEGMENTS: Final = 1024
READ_WAIT_S: Final = 0.1
"""How long a reader waits for a writer: on a disk that hangs it must go on with new spans."""
CLOSE_WAIT_S: Final = 0.2
READ_REST_S: Final = 5.0
"""How long nothing is read after a read has failed: descriptors may be scarce for a moment."""
MAX_READ_FAILURES: Final = 3
"""After so many in a row the file that could not be read is left out."""
LOCK: Final = "lock"
NAME: Final = re.compile(r"[0-9]{16}" + re.escape(SUFFIX))

COUNTERS: Final = (
    "spans_inherited",
    "spans_spooled",
    "spans_unspooled",
    "spans_dropped_spool_full",
    "spans_dropped_spool_corrupt",
    "spool_torn_bytes",
    "spool_files_skipped",
)
"""inherited + spooled = unspooled + dropped_spool_full + dropped_spool_corrupt + in the spool.

`inherited` were there at the start. `unspooled` got a backend's final word, which is counted
beside these. Of torn bytes and skipped files nobody knows how many spans there were. What could
not be written never was in the spool; who wanted to write it counts it.
"""


class Taken(NamedTuple):
    """A request that is under way, and where it lies."""

    segment: Segment
    offset: int
    head: Head
    request: Request


class Spool:
    """Requests on disk. Thread-safe; each method may wait for the disk, no property does."""

    def __init__(
        self, directory: Path, max_bytes: int = SPOOL_BYTES, log: RareLog | None = None
    ) -> None:
        """Open the spool in `directory`, which is made if it is not there.

        Raises:
            SettingsError: it cannot be used, or another process uses it.
        """
        self.directory = directory
        self.counters: Counter[str] = Counter()
        self.spans = 0
        """In the spool, with those that are under way."""
        self.bytes = 0
        """Of all its files."""
        self._max_bytes = max_bytes
        self._segment_bytes = min(
            max(SEGMENT_BYTES, max_bytes // MAX_SEGMENTS), max_bytes // MIN_SEGMENTS
        )
        self._log = log or RareLog()
        self._lock = threading.Lock()
        self._segments: deque[Segment] = deque()
        """The oldest first; what is written goes to the last."""
        self._returned: list[tuple[Segment, int, Head]] = []
        self._out = 0
        self._failures = 0
        self._rests_until = 0.0
        self._number = 0
        self._closed = False
        self._guard = _lock_directory(directory)
        try:
            self._open_segments()
        except OSError as problem:
            os.close(self._guard)
            raise SettingsError(f"cannot use the spool {directory}: {problem.strerror}") from None

    @property
    def waiting(self) -> int:
        """Spans that may be taken now."""
        return 0 if time.monotonic() < self._rests_until else self.spans - self._out

    def append(self, request: Request) -> bool:
        """Add `request` as the newest; False if it cannot be written, which is logged."""
        data = record(request)
        with self._lock:
            if self._closed:
                return False
            try:
                self._make_room(len(data))
                segment = self._newest(len(data))
                segment.append(data)
            except OSError as problem:
                self._log.say(
                    "spool",
                    f"OTLP: cannot write to the spool {self.directory}: {problem.strerror};"
                    f" {request.items} spans not written.",
                )
                return False
            self.bytes += len(data)
            segment.spans += request.items
            self.spans += request.items
            self.counters["spans_spooled"] += request.items
            return True

    def take(self) -> Taken | None:
        """The oldest request that waits; it is under way until `finish` or `put_back`."""
        if not self._lock.acquire(timeout=READ_WAIT_S):
            return None
        try:
            while not self._closed and (place := self._next()) is not None:
                segment, offset, head = place
                try:
                    body = segment.body(offset, head)
                except CorruptError as problem:
                    self._lose(segment, head.spans, problem)
                    self._mark(segment, offset)
                    continue
                except OSError:
                    self._returned.insert(0, place)
                    raise
                self._failures = 0
                segment.out += head.spans
                self._out += head.spans
                return Taken(segment, offset, head, Request(body, head.spans))
            self._rests_until = time.monotonic() + READ_WAIT_S  # nothing waits, or not for us
        except OSError as problem:
            self._rest(problem)
        finally:
            self._lock.release()
        return None

    def finish(self, taken: Taken, fates: Mapping[str, int]) -> bool:
        """The backend has had its final word, and `fates` count; not after `close`: False."""
        with self._lock:
            if self._closed:
                return False
            self.counters.update(fates)
            spans = self._came_back(taken)
            self.counters["spans_unspooled"] += spans
            self.spans -= spans
            if not taken.segment.is_gone:
                taken.segment.spans -= spans
                self._mark(taken.segment, taken.offset)
            return True

    def put_back(self, taken: Taken) -> None:
        """It was not delivered: it is the oldest again."""
        with self._lock:
            spans = self._came_back(taken)
            if taken.segment.is_gone:
                self.counters["spans_dropped_spool_full"] += spans
                self.spans -= spans
            elif not self._closed:
                self._returned.append(taken[:3])
                self._returned.sort(key=lambda place: (place[0].path, place[1]))

    def close(self) -> None:
        """Let go of the directory; what is in it stays."""
        got_it = self._lock.acquire(timeout=CLOSE_WAIT_S)
        self._closed = True
        if got_it:  # else a disk hangs; the descriptors go with the process
            for segment in self._segments:
                segment.close()
            guard, self._guard = self._guard, -1
            if guard >= 0:
                os.close(guard)
            self._lock.release()

    def _open_segments(self) -> None:
        for path in sorted(self.directory.glob("*" + SUFFIX)):
            if not NAME.fullmatch(path.name):
                continue
            self._number = max(self._number, int(path.stem))
            try:
                segment, torn = Segment.open(path)
            except (CorruptError, OSError) as problem:
                self.counters["spool_files_skipped"] += 1
                self._log.say("spool file", f"OTLP: {path} is left alone: {problem}.")
                continue
            if torn:
                self.counters["spool_torn_bytes"] += torn
                self._log.say(
                    "spool torn",
                    f"OTLP: {torn} bytes at the end of {path} were not whole; cut off.",
                )
            segment.close()
            self._segments.append(segment)
            self.bytes += segment.size
            self.spans += segment.spans
        self.counters["spans_inherited"] = self.spans
        for segment in list(self._segments):
            self._remove_if_done(segment)
        self._make_room(0)

    def _make_room(self, size: int) -> None:
        size += len(MAGIC)  # it may begin a file
        if size > self._max_bytes:
            raise OSError(0, "a request is larger than the spool may be")
        while self._segments and self.bytes + size > self._max_bytes:
            segment = self._segments.popleft()
            lost = segment.spans - segment.out
            self.counters["spans_dropped_spool_full"] += lost
            self.spans -= lost
            self._forget(segment)
            if lost:
                self._log.say(
                    "spool full",
                    f"OTLP: the spool {self.directory} is full; {lost} of the oldest spans"
                    " dropped. A larger one spans a longer outage.",
                )

    def _newest(self, size: int) -> Segment:
        """Where to write `size` bytes."""
        if self._segments:
            last = self._segments[-1]
            if last.size + size <= self._segment_bytes or last.size == len(MAGIC):
                return last
            last.close()
        self._number += 1
        segment = Segment.create(self.directory / f"{self._number:016}{SUFFIX}")
        self._segments.append(segment)
        self.bytes += segment.size
        return segment

    def _next(self) -> tuple[Segment, int, Head] | None:
        if self._returned:
            return self._returned.pop(0)
        for segment in list(self._segments):
            while segment.cursor < segment.size:
                offset = segment.cursor
                try:
                    head = segment.head(offset)
                except CorruptError as problem:
                    self._leave_out(segment, problem)
                    break
                segment.cursor += head.whole
                if head.waits:
                    return segment, offset, head
        return None

    def _rest(self, problem: OSError) -> None:
        self._rests_until = time.monotonic() + READ_REST_S
        self._failures += 1
        self._log.say("spool read", f"OTLP: cannot read the spool {self.directory}: {problem}.")
        if self._failures >= MAX_READ_FAILURES:
            self._failures = 0
            places = [place[0] for place in self._returned[:1]]
            unread = [each for each in self._segments if each.cursor < each.size]
            for segment in (places + unread)[:1]:
                self._leave_out(segment, problem)

    def _leave_out(self, segment: Segment, problem: Exception) -> None:
        segment.cursor = segment.size
        self._returned = [place for place in self._returned if place[0] is not segment]
        self._lose(segment, segment.spans - segment.out, problem)
        if isinstance(problem, CorruptError):
            self._remove_if_done(segment)  # else the next start may have more luck

    def _came_back(self, taken: Taken) -> int:
        spans = taken.request.items
        taken.segment.out -= spans
        self._out -= spans
        return spans

    def _lose(self, segment: Segment, spans: int, problem: Exception) -> None:
        segment.spans -= spans
        self.spans -= spans
        self.counters["spans_dropped_spool_corrupt"] += spans
        self._log.say(
            "spool corrupt", f"OTLP: {segment.path}: {problem}; {spans} spans cannot be read."
        )

    def _mark(self, segment: Segment, offset: int) -> None:
        try:
            segment.mark(offset)
        except OSError as problem:
            self._log.say(
                "spool mark",
                f"OTLP: cannot write to {segment.path}: {problem.strerror}; after a restart"
                " some spans are sent once more.",
            )
        if segment.cursor >= segment.size and segment is not self._segments[-1]:
            segment.close()  # the number of open files has a bound, too
        self._remove_if_done(segment)

    def _remove_if_done(self, segment: Segment) -> None:
        if not segment.spans and segment.size > len(MAGIC) and segment in self._segments:
            self._segments.remove(segment)
            self._forget(segment)

    def _forget(self, segment: Segment) -> None:
        self.bytes -= segment.size
        self._returned = [place for place in self._returned if place[0] is not segment]
        segment.remove()


def _lock_directory(directory: Path) -> int:
    """A descriptor that keeps other processes out as long as it is open."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as problem:
        raise SettingsError(f"cannot make the spool {directory}: {problem.strerror}") from None
    # It is not made private here: who names /tmp by mistake wants to keep it as it is.
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise SettingsError(
            f"the spool {directory} can be entered by others: what is in it may be confidential."
            f" Name a directory of its own, or: chmod 700 {directory}"
        )
    try:
        fd = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as problem:
        raise SettingsError(f"cannot use the spool {directory}: {problem.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with suppress(OSError):
            os.close(fd)
        raise SettingsError(
            f"the spool {directory} is in use by another wirespan: each needs its own"
        ) from None
    return fd
