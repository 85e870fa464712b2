# SPDX-License-Identifier: Apache-2.0
"""Recordings: the format of the file, and the source that replays one.

A file is a header and *frames*; all numbers are little endian:

    magic (8 bytes)  version u16  flags u16  length u32  crc32 u32   header: JSON
    stored u32  plain u32  crc32 u32   frame: `stored` bytes of zlib, `plain` when inflated
    ...

A frame holds *items*, each `type u8, length u32` and a body: batches with their chunks as
the ring buffer had them, processes, the binding of a process to what it was asked by, and
counters. The last frame ends with an END item, so a file that was cut knows it. Items of an
unknown type are passed over. A checksum covers what stands before and behind it, and no length
is believed beyond a bound.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from struct import Struct
from typing import Any, Final, Protocol, Self

from tracer.chunks import is_sound
from tracer.events import Action, Cause, OpenEvent
from tracer.source import Batch, Counter, Source
from tracer.span import Process

MAGIC: Final = b"\x89WSPAN\r\n"
"""Not text, and broken by whatever converts line ends."""
VERSION: Final = 2
PREFIX: Final = Struct("<HHII")
FRAME: Final = Struct("<III")
ITEM: Final = Struct("<BI")
BATCH: Final = Struct("<Qq")
BINDING: Final = Struct("<IQI")

BATCH_ITEM: Final = 1
PROCESS_ITEM: Final = 2
BINDING_ITEM: Final = 3
COUNTERS_ITEM: Final = 4
END_ITEM: Final = 5

MAX_HEADER_BYTES: Final = 64 * 1024
MAX_FRAME_BYTES: Final = 256 * 1024 * 1024
"""Stored or inflated. A batch is in one frame, and is no larger than the ring buffer."""
MAX_PROCESSES: Final = 65_536
"""Remembered at a time; writer and reader forget the oldest alike."""

PCAP_MAGICS: Final = (
    b"\xa1\xb2\xc3\xd4",
    b"\xd4\xc3\xb2\xa1",
    b"\xa1\xb2\x3c\x4d",
    b"\x4d\x3c\xb2\xa1",
    b"\x0a\x0d\x0d\x0a",
)
"""pcap in both byte orders, with micro- and nanoseconds; pcapng."""
GZIP_MAGIC: Final = b"\x1f\x8b"
MAGIC_BYTES: Final = 8


class RecordingError(Exception):
    """A file cannot be replayed or written; `str()` says why and what to do."""


class ReplaySource(Source, Protocol):
    """A source that reads a file, and gives the same spans each time."""

    seed: int
    """Of the ids of its spans."""


@dataclass(slots=True, frozen=True)
class Header:
    """What a recording says of itself."""

    seed: int
    """Of the ids of its spans."""
    snaplen: int
    """Bytes captured of a transfer at most, but for sockets that were wanted whole."""
    redacted: bool
    created_unix_ns: int
    wirespan: str
    """The version that wrote it."""
    byte_order: str = sys.byteorder

    def pack(self) -> bytes:
        """Magic, prefix and JSON."""
        names = type(self).__dataclass_fields__
        return pack_header(json.dumps({name: getattr(self, name) for name in names}).encode())

    @classmethod
    def read(cls, file: BufferedReader, path: Path) -> Self:
        """Read what `pack` wrote, past the magic.

        Raises:
            RecordingError: it is damaged, or nothing for this version.
        """
        prefix = file.read(PREFIX.size)
        if len(prefix) < PREFIX.size:
            raise RecordingError(f"{path} is cut in its header, so there is nothing to replay")
        version, _flags, length, checksum = PREFIX.unpack(prefix)
        if version != VERSION:
            raise RecordingError(
                f"{path} is a recording of format {version}, and this wirespan reads format"
                f" {VERSION}: use the version that wrote it, or record again"
            )
        body = file.read(length) if length <= MAX_HEADER_BYTES else b""
        if len(body) != length or zlib.crc32(body, zlib.crc32(prefix[:8])) != checksum:
            body = b""
        try:
            header = cls(**json.loads(body))
        except (ValueError, TypeError):
            raise RecordingError(
                f"the header of {path} is damaged, so nothing of it can be replayed:"
                " copy the file again from where it was made, or record again"
            ) from None
        if header.byte_order != "little":
            raise RecordingError(
                f"{path} was recorded on a {header.byte_order}-endian machine,"
                " and only little-endian ones are supported"
            )
        return header


def pack_header(body: bytes) -> bytes:
    """A whole header."""
    prefix = PREFIX.pack(VERSION, 0, len(body), 0)[:8]
    checksum = zlib.crc32(body, zlib.crc32(prefix))
    return MAGIC + prefix + checksum.to_bytes(4, "little") + body


def pack_item(kind: int, body: bytes) -> bytes:
    """One item, as it stands in a frame."""
    return ITEM.pack(kind, len(body)) + body


def pack_frame(items: bytes) -> bytes:
    """A whole frame."""
    stored = zlib.compress(items, 1)
    lengths = FRAME.pack(len(stored), len(items), 0)[:8]
    checksum = zlib.crc32(stored, zlib.crc32(lengths))
    return lengths + checksum.to_bytes(4, "little") + stored


class RecordingSource:
    """Replays a recording: the same batches, the same processes, no privilege.

    `poll` raises `RecordingError` where the file is cut or damaged, after all that came
    before it was delivered; the source can then be asked for everything but batches.
    """

    def __init__(self, path: Path, file: BufferedReader) -> None:
        self._path = path
        self._file = file
        file.read(len(MAGIC))
        self.header = Header.read(file, path)
        self.seed = self.header.seed
        self._batches = 0
        self._counters: dict[Cause, Counter] = {}
        self._by_id: dict[int, Process] = {}
        self._bound: dict[tuple[int, int], Process] = {}
        self._unknown: dict[tuple[int, int], Process] = {}
        self._stream = self._read()

    def poll(self, timeout_s: float) -> Batch | None:
        """The next recorded batch.

        Raises:
            RecordingError: there is no more although the recording did not end here.
        """
        batch = next(self._stream, None)
        self._batches += batch is not None
        return batch

    def process(self, tgid: int, opened: OpenEvent | None) -> Process:
        """What the live run was told at this point."""
        key = process_key(tgid, opened)
        found = self._bound.get(key) or self._bound.get((tgid, 0))
        if found is not None:
            return found
        unknown = self._unknown.get(key)
        if unknown is None:
            name = opened.comm.decode("utf-8", "replace") if opened is not None else ""
            resource = {"service.name": name or "unknown_service"}
            unknown = Process(tgid, key[1], resource)
            _remember(self._unknown, key, unknown)
        return unknown

    def advise(
        self,
        cookie: int,
        action: Action,
        direction: int = 0,
        until: int = 0,
        *,
        whole: bool = False,
    ) -> None:
        """The past takes no advice."""

    def forget(self, cookie: int) -> None:
        """See `advise`."""

    def counters(self) -> Mapping[Cause, Counter]:
        """The last that were recorded before the batch that was polled last."""
        return self._counters

    def unused(self) -> Mapping[str, int]:
        """Only the live source knew it."""
        return {}

    def close(self) -> None:
        self._stream.close()
        self._file.close()

    def _read(self) -> Generator[Batch, None, None]:
        while True:
            items = self._frame()
            position = 0
            while position < len(items):
                try:
                    kind, length = ITEM.unpack_from(items, position)
                    position += ITEM.size + length
                    batch = self._take(kind, items[position - length : position])
                except (ValueError, TypeError, KeyError, AttributeError, struct.error):
                    raise self._damaged() from None
                if position > len(items):
                    raise self._damaged()
                if kind == END_ITEM:
                    return
                if batch is not None:
                    yield batch

    def _frame(self) -> bytes:
        """The items of the next frame."""
        head = self._file.read(FRAME.size)
        if len(head) < FRAME.size:
            raise self._cut()
        stored_length, length, checksum = FRAME.unpack(head)
        if max(stored_length, length) > MAX_FRAME_BYTES:
            raise self._damaged()
        stored = self._file.read(stored_length)
        if len(stored) < stored_length:
            raise self._cut()
        if zlib.crc32(stored, zlib.crc32(head[:8])) != checksum:
            raise self._damaged()
        inflate = zlib.decompressobj()
        try:
            items = inflate.decompress(stored, length or 1)
        except zlib.error:
            raise self._damaged() from None
        if len(items) != length or not inflate.eof:
            raise self._damaged()
        return items

    def _take(self, kind: int, body: bytes) -> Batch | None:
        """Take one item in; a batch is handed on."""
        if kind == BATCH_ITEM:
            now_ns, unix_offset_ns = BATCH.unpack_from(body)
            chunk = body[BATCH.size :]
            if not is_sound(chunk):
                raise ValueError("chunk")
            return Batch(chunk, now_ns, unix_offset_ns)
        if kind == PROCESS_ITEM:
            fields = json.loads(body)
            resource = {str(name): _value(value) for name, value in fields["resource"].items()}
            if "service.name" not in resource:
                raise ValueError("service.name")
            process = Process(int(fields["pid"]), int(fields["start_ns"]), resource)
            _remember(self._by_id, int(fields["id"]), process)
        elif kind == BINDING_ITEM:
            tgid, start_ns, number = BINDING.unpack(body)
            _remember(self._bound, (tgid, start_ns), self._by_id[number])
        elif kind == COUNTERS_ITEM:
            counters = json.loads(body).items()
            self._counters = {Cause[name]: Counter(*map(int, row)) for name, row in counters}
        return None

    def _cut(self) -> RecordingError:
        return RecordingError(
            f"{self._path} ends in the middle: the recorder was killed, or the file was cut."
            f" The {self._batches:,} batches before that are whole and were replayed"
        )

    def _damaged(self) -> RecordingError:
        return RecordingError(
            f"{self._path} is damaged: the {self._batches:,} batches before the damage were"
            " replayed. For the rest, copy the file again from where it was made"
        )


def open_source(path: str | Path) -> ReplaySource:
    """The source that reads this file: a recording, a pcap or a pcapng file, or one gzipped.

    Raises:
        RecordingError: the file cannot be read, or is none of these.
    """
    path = Path(path)
    try:
        file = path.open("rb")
        magic = file.peek(MAGIC_BYTES)[:MAGIC_BYTES]
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        if magic == MAGIC:
            return RecordingSource(path, file)
        if magic.startswith((*PCAP_MAGICS, GZIP_MAGIC)):
            # scapy takes its time to import.
            from tracer.pcap import PcapSource  # noqa: PLC0415

            return PcapSource(path, file)
    except BaseException:
        file.close()
        raise
    file.close()
    raise foreign(path, magic)


def foreign(path: Path, magic: bytes) -> RecordingError:
    """What to say of a file that is nothing we read."""
    what = "is no recording of wirespan, no pcap and no pcapng file" if magic else "is empty"
    return RecordingError(
        f"{path} {what}: give a file that `wirespan record -w FILE` or `tcpdump -w FILE` wrote"
    )


def process_key(tgid: int, opened: OpenEvent | None) -> tuple[int, int]:
    """What a process is asked for by: its id, and its start where the event tells it."""
    return tgid, 0 if opened is None else opened.process_start_ns


def _value(value: Any) -> Any:
    """An attribute's value as it was before it went through JSON."""
    if isinstance(value, list):
        return tuple(str(each) for each in value)
    if not isinstance(value, str | bool | int | float):
        raise TypeError("attribute")
    return value


def _remember(table: dict[Any, Process], key: object, process: Process) -> None:
    """Put a process into a bounded table, as the newest."""
    table.pop(key, None)
    if len(table) >= MAX_PROCESSES:
        del table[next(iter(table))]
    table[key] = process
