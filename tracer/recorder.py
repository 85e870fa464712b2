# SPDX-License-Identifier: Apache-2.0
"""Writes a recording while a pipeline runs; the format is in tracer/recording.py.

A `Recorder` stands between the pipeline and its source, so that it hears what the pipeline
is told of processes, and is given each batch once it was processed, when sessions know which
bytes may be kept (tracer/redaction.py).

What is written is whole frames, at least one a second, so a recorder that is killed leaves a
file that replays up to its last second (and without what still waited to be decided, ten
seconds at most). If the file cannot be written any more, the run ends in order: `poll` says
that there will be no more, and `failure` says why.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tracer import __version__
from tracer.events import Action, Cause, OpenEvent
from tracer.recording import (
    BATCH,
    BATCH_ITEM,
    BINDING,
    BINDING_ITEM,
    COUNTERS_ITEM,
    END_ITEM,
    MAX_FRAME_BYTES,
    MAX_PROCESSES,
    PROCESS_ITEM,
    Header,
    RecordingError,
    pack_frame,
    pack_item,
    process_key,
)
from tracer.redaction import Redactor, SessionOf
from tracer.source import Batch, Counter, Source
from tracer.span import Process

FLUSH_NS: Final = 1_000_000_000
"""A frame is written when it is this old,"""
FLUSH_BYTES: Final = 1024 * 1024
"""or this large before compression."""


class Recorder:
    """A source that records what goes through it.

    Raises:
        RecordingError: the file exists and is not to be overwritten, or cannot be made.
    """

    def __init__(
        self,
        path: str | Path,
        source: Source,
        *,
        seed: int,
        snaplen: int,
        redact: bool = True,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.failure: RecordingError | None = None
        """Why nothing is recorded any more."""
        self.batches = 0
        """Batches written."""
        self._source = source
        self._redactor = Redactor() if redact else None
        self._items: list[bytes] = []
        self._items_bytes = 0
        self._flushed_ns = 0
        self._size = 0
        self._numbers: dict[Process, int] = {}
        self._bound: dict[tuple[int, int], Process] = {}
        self._next_number = 0
        self._told: list[bytes] = []
        """Items on processes that the batch being processed refers to."""
        self._held: deque[list[bytes]] = deque()
        """The same of batches that wait for redaction."""
        self._descriptor = self._create(overwrite=overwrite)
        header = Header(
            seed=seed,
            snaplen=snaplen,
            redacted=redact,
            created_unix_ns=time.time_ns(),
            wirespan=__version__,
        )
        self._write(header.pack())
        if self.failure is not None:
            raise self.failure

    # -- the source -------------------------------------------------------------------

    def poll(self, timeout_s: float) -> Batch | None:
        """The source's next batch; None as well once the file cannot be written."""
        if self.failure is not None:
            return None
        return self._source.poll(timeout_s)

    def process(self, tgid: int, opened: OpenEvent | None) -> Process:
        process = self._source.process(tgid, opened)
        key = process_key(tgid, opened)
        if self._bound.get(key) is not process:
            self._bind(key, process)
        return process

    def advise(
        self,
        cookie: int,
        action: Action,
        direction: int = 0,
        until: int = 0,
        *,
        whole: bool = False,
    ) -> None:
        self._source.advise(cookie, action, direction, until, whole=whole)

    def forget(self, cookie: int) -> None:
        self._source.forget(cookie)

    def counters(self) -> Mapping[Cause, Counter]:
        return self._source.counters()

    def unused(self) -> Mapping[str, int]:
        return self._source.unused()

    def close(self) -> None:
        """Write what is left and end the file. The source is left alone and must still be open."""
        if self._descriptor < 0:
            return
        if self._redactor is not None:
            for batch in self._redactor.drain():
                self._put_batch(batch)
        for item in self._told:
            self._put(item)
        self._put_counters()
        self._put(pack_item(END_ITEM, b""))
        self._flush()
        self._end_file()

    # -- the recording ----------------------------------------------------------------

    def write(self, batch: Batch, session_of: SessionOf) -> None:
        """Take one batch, right after it was processed. Never raises: see `failure`."""
        if self._descriptor < 0:
            return
        self._held.append(self._told)
        self._told = []
        if self._redactor is None:
            self._put_batch(batch)
        else:
            for each in self._redactor.take(batch, session_of):
                self._put_batch(each)
        age_ns = batch.now_ns - self._flushed_ns
        if self._items and (age_ns >= FLUSH_NS or self._items_bytes >= FLUSH_BYTES):
            self._put_counters()
            self._flush()
            self._flushed_ns = batch.now_ns

    def describe(self) -> str:
        """One sentence about the file, for the end of a run."""
        if self.failure is not None:
            return f"{self.failure}; what was written before can be replayed"
        text = f"{self.path}: {self.batches:,} batches, {self._size:,} bytes"
        if self._redactor is None:
            return f"{text}, not redacted: it holds every byte that was captured"
        undecided = self._redactor.undecided_bytes
        if undecided:
            text += (
                f"; {undecided:,} bytes were blanked before it was known whether they are"
                " needed, so a few spans may be missing in a replay"
            )
        return text

    @property
    def undecided_bytes(self) -> int:
        """Blanked because the bounds were reached before a parser had read them."""
        return self._redactor.undecided_bytes if self._redactor is not None else 0

    def _bind(self, key: tuple[int, int], process: Process) -> None:
        """Note that `process` is what this key was answered with."""
        number = self._numbers.get(process)
        if number is None:
            number = self._next_number
            self._next_number = (number + 1) % 2**32
            if len(self._numbers) >= MAX_PROCESSES:
                del self._numbers[next(iter(self._numbers))]
            self._numbers[process] = number
            fields = {
                "id": number,
                "pid": process.pid,
                "start_ns": process.start_ns,
                "resource": dict(process.resource),
            }
            body = json.dumps(fields, default=list).encode()
            self._told.append(pack_item(PROCESS_ITEM, body))
        self._bound.pop(key, None)
        if len(self._bound) >= MAX_PROCESSES:
            del self._bound[next(iter(self._bound))]
        self._bound[key] = process
        self._told.append(pack_item(BINDING_ITEM, BINDING.pack(*key, number)))

    def _put_batch(self, batch: Batch) -> None:
        for item in self._held.popleft():
            self._put(item)
        body = BATCH.pack(batch.now_ns, batch.unix_offset_ns) + batch.chunk
        if self._items_bytes + len(body) > MAX_FRAME_BYTES // 2:
            self._flush()
        if len(body) > MAX_FRAME_BYTES // 2:
            size = f"{len(body):,} bytes at once"
            self.failure = RecordingError(f"cannot record {size}: use a smaller --buffer")
            self._end_file()
            return
        self._put(pack_item(BATCH_ITEM, body))
        self.batches += 1

    def _put_counters(self) -> None:
        counters = self._source.counters().items()
        body = json.dumps({cause.name: list(counter) for cause, counter in counters})
        self._put(pack_item(COUNTERS_ITEM, body.encode()))

    def _put(self, item: bytes) -> None:
        self._items.append(item)
        self._items_bytes += len(item)

    def _flush(self) -> None:
        items = b"".join(self._items)
        self._items.clear()
        self._items_bytes = 0
        self._write(pack_frame(items))

    def _create(self, *, overwrite: bool) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        flags |= os.O_TRUNC if overwrite else os.O_EXCL
        try:
            descriptor = os.open(self.path, flags, 0o600)
            if overwrite:
                # An older file may have been open to others.
                os.fchmod(descriptor, 0o600)
        except FileExistsError:
            raise RecordingError(
                f"{self.path} exists: choose another name, or overwrite it with --force"
            ) from None
        except OSError as error:
            raise self._unwritable(error) from None
        return descriptor

    def _write(self, data: bytes) -> None:
        """Write all of `data`, or nothing and end the recording."""
        if self._descriptor < 0:
            return
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            self.failure = self._unwritable(error)
            self._drop_partial()
            self._end_file()
            return
        self._size += len(data)

    def _drop_partial(self) -> None:
        """Cut off a frame that is not whole; a reader would notice, so it may fail."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            return

    def _end_file(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        try:
            os.close(descriptor)
        except OSError as error:
            # Network file systems report a full disk only now.
            self.failure = self.failure or self._unwritable(error)

    def _unwritable(self, error: OSError) -> RecordingError:
        reason = error.strerror or str(error)
        return RecordingError(
            f"cannot write the recording {self.path}: {reason}."
            " Make room or permit it, or choose another place"
        )
