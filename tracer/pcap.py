# SPDX-License-Identifier: Apache-2.0
"""A source that reads a pcap or pcapng file, gzipped or not, through scapy's file readers.

The clock of its events begins one second before the second of the first frame, and the offset
of every batch adds what is missing, so spans carry the time at which the capture was made. A
batch ends after `BATCH_NS` of the capture's time; where the capture is silent for longer, an
empty batch says that time passed.

A file names no processes. The service is the client's address: each client machine is a
service of its own (`service.name` and `host.ip`), and the servers it called are its peers.

Formats: https://www.tcpdump.org/manpages/pcap-savefile.5.txt,
https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html
"""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Callable, Generator, Mapping
from hashlib import blake2b
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, NamedTuple

from parsers.model import AttributeValue, Kind, Likeness, Parser, Transport
from parsers.registry import Registry
from tracer.assembler import Assembler
from tracer.dissect import Datagram, Dissector
from tracer.events import Action, Cause, OpenEvent, address_text, chunk_of
from tracer.recording import GZIP_MAGIC, RecordingError
from tracer.source import Batch, Counter
from tracer.span import Process

BATCH_NS: Final = 100_000_000
BATCH_FRAMES: Final = 512
SECOND_NS: Final = 1_000_000_000
MAX_FRAME_BYTES: Final = 256 * 1024
"""libpcap's own limit (MAXIMUM_SNAPLEN)."""
MAX_BLOCK_BYTES: Final = 16 * 1024 * 1024
"""Of pcapng, and what is read at once."""
MAX_PROCESSES: Final = 65_536


class Frame(NamedTuple):
    """One captured frame."""

    link_type: int
    data: bytes
    wire_bytes: int
    unix_ns: int


class _File:
    """What scapy reads from: no read is longer than a bound, and a cut is told from an end."""

    name = "capture"

    def __init__(self, file: BufferedReader | gzip.GzipFile) -> None:
        self._file = file
        self.cut = False
        """The last read got less than it asked for, and something."""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_BLOCK_BYTES:
            raise _DamageError("it says of a frame that it is larger than any")
        try:
            data = self._file.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise _DamageError("the compressed data ends or breaks off") from None
        self.cut = 0 < len(data) < size
        return data

    def close(self) -> None:
        self._file.close()


class _DamageError(Exception):
    """Why a file cannot be read to its end."""


class PcapSource:
    """Replays a capture: each connection once, as its client saw it.

    `poll` raises `RecordingError` where the file is cut or damaged, after all that came
    before it was delivered.
    """

    def __init__(self, path: Path, file: BufferedReader) -> None:
        self._path = path
        plain: BufferedReader | gzip.GzipFile = file
        if file.peek(2)[:2] == GZIP_MAGIC:
            plain = gzip.GzipFile(fileobj=file)
        self._raw = file
        self._file = _File(plain)
        self._reader = self._open_reader()
        self._dissector = Dissector()
        self._assembler = Assembler(_guesser(Transport.TCP), _guesser(Transport.UDP))
        self._processes: dict[int, Process] = {}
        self._frames = 0
        self._damage = ""
        """Why there are no more frames; empty if the file simply ended."""
        self._base_ns = 0
        """Nanoseconds since 1970 at which the clock of the events is zero."""
        self._first = self._next_frame()
        self.seed = _seed(self._first)
        self._stream = self._read()

    def poll(self, timeout_s: float) -> Batch | None:
        """The next batch.

        Raises:
            RecordingError: there is no more although the capture did not end here.
        """
        return next(self._stream, None)

    def process(self, tgid: int, opened: OpenEvent | None) -> Process:
        """The client's machine as a service."""
        process = self._processes.get(tgid)
        if process is None:
            address = address_text(opened.local) if opened is not None else ""
            resource: dict[str, AttributeValue] = {"service.name": address or "unknown_service"}
            if address:
                resource["host.ip"] = (address,)
            process = Process(tgid, 0, resource)
            if len(self._processes) >= MAX_PROCESSES:
                del self._processes[next(iter(self._processes))]
            self._processes[tgid] = process
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
        """The past takes no advice."""

    def forget(self, cookie: int) -> None:
        """See `advise`."""

    def counters(self) -> Mapping[Cause, Counter]:
        return self._assembler.counters()

    def unused(self) -> Mapping[str, int]:
        frames = self._dissector.unused + self._assembler.unused
        return {f"frames not used: {reason.replace('_', ' ')}": n for reason, n in frames.items()}

    def close(self) -> None:
        self._stream.close()
        self._file.close()
        self._raw.close()

    # -- batches ----------------------------------------------------------------------

    def _read(self) -> Generator[Batch, None, None]:
        frame, self._first = self._first, None
        if frame is None:
            self._complain()
            return
        self._base_ns = (frame.unix_ns // SECOND_NS - 1) * SECOND_NS
        now_ns = begun_ns = frame.unix_ns - self._base_ns
        count = 0
        while frame is not None:
            # A clock that was set back while capturing must not make time negative.
            at_ns = max(frame.unix_ns - self._base_ns, 1)
            if at_ns - now_ns > BATCH_NS:
                yield self._batch(now_ns)
                now_ns = begun_ns = at_ns - 1
                count = BATCH_FRAMES
            if at_ns - begun_ns >= BATCH_NS or count >= BATCH_FRAMES:
                self._assembler.settle(now_ns)
                yield self._batch(now_ns)
                begun_ns, count = at_ns, 0
            now_ns = max(now_ns, at_ns)
            count += 1
            self._take(frame, at_ns)
            frame = self._next_frame()
        self._dissector.finish()
        self._assembler.finish()
        yield self._batch(now_ns)
        self._complain()

    def _take(self, frame: Frame, at_ns: int) -> None:
        found = self._dissector.dissect(frame.link_type, frame.data, frame.wire_bytes, at_ns)
        if found is None:
            return
        if isinstance(found, Datagram):
            self._assembler.datagram(found)
        else:
            self._assembler.segment(found)

    def _batch(self, now_ns: int) -> Batch:
        return Batch(chunk_of(self._assembler.take_events()), now_ns, self._base_ns)

    # -- the file ---------------------------------------------------------------------

    def _open_reader(self) -> Callable[[], Frame]:
        """A function that reads the next frame; EOFError at the end."""
        try:
            # Here and not above, so that recordings replay without it.
            from scapy.error import Scapy_Exception  # noqa: PLC0415
            from scapy.utils import RawPcapNgReader, RawPcapReader  # noqa: PLC0415
        except ImportError:
            raise RecordingError(
                f"{self._path} is a packet capture, and to read one scapy is needed:"
                " install it with `pip install 'wirespan[pcap]'` or `apt install python3-scapy`"
            ) from None
        # It would warn of damage on standard error in its own words.
        logging.getLogger("scapy").setLevel(logging.CRITICAL)
        try:
            reader: Any = RawPcapReader(self._file)
        except (Scapy_Exception, EOFError, _DamageError):
            raise RecordingError(
                f"{self._path} has no readable pcap or pcapng header: copy the file again,"
                " or capture again with `tcpdump -w FILE`"
            ) from None
        self._file.cut = False
        if isinstance(reader, RawPcapNgReader):
            return lambda: self._frame_of_pcapng(reader)
        return lambda: self._frame_of_pcap(reader)

    def _frame_of_pcap(self, reader: Any) -> Frame:
        data, header = reader._read_packet(MAX_FRAME_BYTES)  # noqa: SLF001 - its only raw access
        if header.caplen > MAX_FRAME_BYTES:
            raise _DamageError(f"it says of a frame that it has {header.caplen:,} bytes")
        if len(data) < header.caplen:
            raise _DamageError("it was cut in the middle of a frame")
        unix_ns = header.sec * SECOND_NS + header.usec * (1 if reader.nano else 1000)
        # The upper bits may say how long the frame check sequence is.
        return Frame(reader.linktype & 0xFFFF, data, header.wirelen, unix_ns)

    def _frame_of_pcapng(self, reader: Any) -> Frame:
        data, header = reader._read_packet(MAX_FRAME_BYTES)  # noqa: SLF001 - see above
        unix_ns = self._base_ns
        if header.tshigh is not None:
            ticks = header.tshigh << 32 | header.tslow
            unix_ns = ticks * SECOND_NS // header.tsresol
        return Frame(header.linktype, data, header.wirelen, unix_ns)

    def _next_frame(self) -> Frame | None:
        """The next frame; None at the end, or where the file is damaged."""
        try:
            frame = self._reader()
        except EOFError:
            self._damage = "it was cut in the middle of a frame" if self._file.cut else ""
            return None
        except _DamageError as damage:
            self._damage = str(damage)
            return None
        self._frames += 1
        return frame

    def _complain(self) -> None:
        """Say so if the file did not end where it should."""
        if self._damage:
            raise RecordingError(
                f"{self._path} cannot be read to its end: {self._damage}. The"
                f" {self._frames:,} frames before that were replayed"
            )


def _guesser(transport: Transport) -> Callable[[bytes], bool | None]:
    """Tells requests from responses by what the installed parsers say of the first bytes."""
    parsers = Registry.load().candidates(transport, 0)

    def is_request(head: bytes) -> bool | None:
        for parser in parsers:
            asks = _likely(parser, head, Kind.REQUEST)
            if asks != _likely(parser, head, Kind.RESPONSE):
                return asks
        return None

    return is_request


def _likely(parser: type[Parser], head: bytes, kind: Kind) -> bool:
    return parser.probe(head, kind) >= Likeness.LIKELY


def _seed(frame: Frame | None) -> int:
    """The same for the same capture, and another for another."""
    text = b"" if frame is None else frame.data + frame.unix_ns.to_bytes(16, "little")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
