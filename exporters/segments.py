# SPDX-License-Identifier: Apache-2.0
r"""Files of requests: the format of a spool on disk.

    file    "wirespan spool 1\n", then records
    record  mark       1 byte    "+": to be sent, "-": done (changed in place)
            spans      4 bytes   little endian, as all numbers
            size       4 bytes   of the body
            body CRC   4 bytes   CRC-32
            head CRC   4 bytes   CRC-32 of spans, size and body CRC
            body       an ExportTraceServiceRequest, as zlib has it (RFC 1950)

A process that is killed in the middle of a write leaves a record that is not whole. What
follows the last whole one is cut off when the file is opened next. Nothing is forced to
the disk: what was written is safe from the end of the process, not from a power failure,
after which the CRCs tell what arrived.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from exporters.delivery import Request

MAGIC: Final = b"wirespan spool 1\n"
SUFFIX: Final = ".spool"
LEVEL: Final = 1
"""As on the wire: higher levels take three times as long for little more."""
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
"""A request that is larger was not made by us (OTLP: what clients may send)."""

HEAD: Final = Struct("<cIIII")
CHECKED: Final = Struct("<III")
WAITS: Final = b"+"
DONE: Final = b"-"


class CorruptError(Exception):
    """A record is not what was written."""


class Head(NamedTuple):
    """What is known of a record before its body is read."""

    spans: int
    size: int
    crc: int
    waits: bool

    @property
    def whole(self) -> int:
        """Bytes of the record with its head."""
        return HEAD.size + self.size


def record(request: Request) -> bytes:
    """The bytes of a record that waits to be sent."""
    body = zlib.compress(request.body, LEVEL)
    checked = (request.items, len(body), zlib.crc32(body))
    return HEAD.pack(WAITS, *checked, zlib.crc32(CHECKED.pack(*checked))) + body


class Segment:
    """One file. Not thread-safe."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        """Bytes up to the end of the last whole record."""
        self.cursor = len(MAGIC)
        """Where the next record to be read begins."""
        self.spans = 0
        """That wait or are under way."""
        self.out = 0
        """Those of them that are under way."""
        self.is_gone = False
        self._fd: int | None = None

    @classmethod
    def create(cls, path: Path) -> Segment:
        """A new file, open for `append`.

        Raises:
            OSError: there is no room, or the like.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        segment = cls(path, 0)
        segment._fd = fd
        try:
            segment.append(MAGIC)
        except OSError:
            segment.remove()
            raise
        return segment

    @classmethod
    def open(cls, path: Path) -> tuple[Segment, int]:
        """The file at `path`, and how many bytes of it were not whole and are cut off.

        Raises:
            CorruptError: it is no file of ours.
            OSError: it cannot be read or cut.
        """
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            found = os.fstat(fd).st_size
            begin = os.pread(fd, len(MAGIC), 0)
            if begin != MAGIC:
                _check_short(begin)
                begin = b""
            segment = cls(path, len(begin))
            segment._fd = fd
            if not begin:
                os.ftruncate(fd, 0)
                segment.append(MAGIC)
                return segment, found
            while segment.size < found:
                try:
                    head = segment.head(segment.size)
                except CorruptError:
                    break
                if segment.size + head.whole > found:
                    break
                segment.size += head.whole
                segment.spans += head.spans if head.waits else 0
            if found > segment.size:
                os.ftruncate(fd, segment.size)
        except BaseException:
            os.close(fd)
            raise
        return segment, found - segment.size

    def append(self, data: bytes) -> None:
        """Write `data` at the end, whole or not at all.

        Raises:
            OSError: there is no room, or the like.
        """
        fd = self._descriptor()
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(fd, data[written:], self.size + written)
        except OSError:
            with suppress(OSError):  # if this fails too, the next `open` cuts it off
                os.ftruncate(fd, self.size)
            raise
        self.size += len(data)

    def head(self, offset: int) -> Head:
        """The head of the record at `offset`.

        Raises:
            CorruptError: there is none.
            OSError: it cannot be read.
        """
        found = os.pread(self._descriptor(), HEAD.size, offset)
        if len(found) == HEAD.size:
            mark, spans, size, crc, head_crc = HEAD.unpack(found)
            if zlib.crc32(CHECKED.pack(spans, size, crc)) == head_crc and spans:
                return Head(spans, size, crc, mark == WAITS)
        raise CorruptError("no record begins there")

    def body(self, offset: int, head: Head) -> bytes:
        """The body of the record at `offset`.

        Raises:
            CorruptError: it is not what was written.
            OSError: it cannot be read.
        """
        found = os.pread(self._descriptor(), head.size, offset + HEAD.size)
        if len(found) != head.size or zlib.crc32(found) != head.crc:
            raise CorruptError("the body is not what was written")
        decompressor = zlib.decompressobj()
        try:
            body = decompressor.decompress(found, MAX_BODY_BYTES)
        except zlib.error as problem:
            raise CorruptError(str(problem)) from None
        if not decompressor.eof:
            raise CorruptError("the body is too large")
        return body

    def mark(self, offset: int) -> None:
        """The record at `offset` is done, and stays so if the process is killed.

        Raises:
            OSError: it cannot be written.
        """
        os.pwrite(self._descriptor(), DONE, offset)

    def close(self) -> None:
        """Let go of the file; it is opened again if need be."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with suppress(OSError):
                os.close(fd)

    def remove(self) -> None:
        """Delete the file."""
        self.is_gone = True
        with suppress(OSError):
            self.path.unlink()
        self.close()

    def _descriptor(self) -> int:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        return self._fd


def _check_short(begin: bytes) -> None:
    """Raise for a file that is not ours; ours may have been killed while it was created."""
    if not MAGIC.startswith(begin):
        raise CorruptError("it does not begin as a spool does")
