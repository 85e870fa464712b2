# SPDX-License-Identifier: Apache-2.0
"""The Python twin of bpf/events.h: the only module that knows the event layout.

A *chunk* is bytes as they lie in the ring buffer: records one after the other, each
with the kernel's 8-byte record header (length and flags as u32, page offset as u32)
and padded to 8 bytes. Recordings keep chunks as they are, and the pcap source makes
them, so that everything behind a source is the same for all.

Layout: bpf/events.h; record header: Linux Documentation/bpf/ringbuf.rst.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import Final

OPEN: Final = 1
DATA: Final = 2
CLOSE: Final = 3

INGRESS: Final = 0
EGRESS: Final = 1

LATE: Final = 1
INNER: Final = 2

INNER_BIT: Final = 1 << 62
"""In the cookies of what is no socket but the plaintext of a TLS object."""

EOF: Final = 1
HAS_PEER: Final = 2
PLAINTEXT: Final = 4
TURN_START: Final = 8
CUT_WAITED: Final = 16
CUT_REFUSED: Final = 32
CUT_LOST: Final = 64

MAX_SNAPLEN: Final = 16384
MAX_WHOLE: Final = 131072
"""Captured of a transfer of a socket that is wanted whole, at most."""

RECORD_HEADER_BYTES: Final = 8
BUSY: Final = 1 << 31
DISCARDED: Final = 1 << 30
LENGTH_MASK: Final = DISCARDED - 1

OPEN_STRUCT: Final = Struct("<BBBBIQQQQQIIIHH16s16s16s108sI")
DATA_STRUCT: Final = Struct("<BBBBIQQIIIIIIIHH")
PEER_STRUCT: Final = Struct("<16sHHI")
CLOSE_STRUCT: Final = Struct("<BBHIQQII")
COUNTER_STRUCT: Final = Struct("<QQQQQ")
VERDICT_STRUCT: Final = Struct("<IIII")

RECORD_DATA_STRUCT: Final = Struct("<II" + DATA_STRUCT.format[1:])
"""A record header with a `ws_data` behind it, for one unpack on the hot path."""


class CloseReason(IntEnum):
    """`enum ws_close_reason`."""

    CLOSED = 0
    RESET = 1
    TIMED_OUT = 2
    REFUSED = 3


class Cause(IntEnum):
    """`enum ws_cause`: what became of a transfer."""

    DELIVERED = 0
    RING_FULL = 1
    SENDFILE = 2
    SPLICE = 3
    IO_URING = 4
    COMPAT = 5
    FAULT = 6
    DISCARDED = 7
    UNSEEN = 8
    OTHER_CALL = 9
    STOPPED = 10
    SKIPPED = 11
    NO_STORAGE = 12
    CIPHERTEXT = 13


class Action(IntEnum):
    """`enum ws_action`: what user space wants of a connection."""

    FULL = 0
    STOP = 1
    SKIP = 2
    ANNOUNCE = 3


@dataclass(slots=True, frozen=True, kw_only=True)
class OpenEvent:
    """`struct ws_open`: first sight of a socket."""

    role: int
    transport: int
    flags: int
    tgid: int
    cookie: int
    timestamp_ns: int
    process_start_ns: int
    cgroup_id: int
    carrier: int = 0
    """Where `flags` has INNER: cookie of the socket, 0 while it is not known."""
    netns: int
    egress_position: int
    ingress_position: int
    local_port: int
    remote_port: int
    local: bytes
    remote: bytes
    comm: bytes
    path: bytes

    @classmethod
    def unpack_from(cls, chunk: bytes, offset: int) -> OpenEvent:
        """Read one from `chunk`; `offset` is past the record header."""
        (
            _type,
            role,
            transport,
            flags,
            tgid,
            cookie,
            timestamp_ns,
            process_start_ns,
            cgroup_id,
            carrier,
            netns,
            egress_position,
            ingress_position,
            local_port,
            remote_port,
            local,
            remote,
            comm,
            path,
            _pad,
        ) = OPEN_STRUCT.unpack_from(chunk, offset)
        return cls(
            role=role,
            transport=transport,
            flags=flags,
            tgid=tgid,
            cookie=cookie,
            timestamp_ns=timestamp_ns,
            process_start_ns=process_start_ns,
            cgroup_id=cgroup_id,
            carrier=carrier,
            netns=netns,
            egress_position=egress_position,
            ingress_position=ingress_position,
            local_port=local_port,
            remote_port=remote_port,
            local=local,
            remote=remote,
            comm=comm.split(b"\0", 1)[0],
            path=_unix_path(path),
        )

    def pack(self) -> bytes:
        return OPEN_STRUCT.pack(
            OPEN,
            self.role,
            self.transport,
            self.flags,
            self.tgid,
            self.cookie,
            self.timestamp_ns,
            self.process_start_ns,
            self.cgroup_id,
            self.carrier,
            self.netns,
            self.egress_position,
            self.ingress_position,
            self.local_port,
            self.remote_port,
            self.local,
            self.remote,
            self.comm,
            self.path,
            0,
        )


@dataclass(slots=True, frozen=True, kw_only=True)
class DataEvent:
    """`struct ws_data` with its payload: one transfer, or a gap of known length."""

    direction: int
    cookie: int
    timestamp_ns: int
    position: int
    size: int
    turn: int
    data: bytes = b""
    flags: int = 0
    cause: int = 0
    unseen: int = 0
    tgid: int = 0
    tid: int = 0
    rtt_us: int = 0
    syscall: int = 0
    peer: tuple[bytes, int] | None = None
    """Address (16 bytes) and port of the other end of a datagram."""

    @classmethod
    def unpack_from(cls, chunk: bytes, offset: int) -> DataEvent:
        """Read one from `chunk`; `offset` is past the record header."""
        (
            _type,
            direction,
            flags,
            cause,
            captured,
            cookie,
            timestamp_ns,
            position,
            size,
            turn,
            unseen,
            tgid,
            tid,
            rtt_us,
            syscall,
            _pad,
        ) = DATA_STRUCT.unpack_from(chunk, offset)
        start = offset + DATA_STRUCT.size
        peer = None
        if flags & HAS_PEER:
            address, port, _, _ = PEER_STRUCT.unpack_from(chunk, start)
            peer = (address, port)
            start += PEER_STRUCT.size
        return cls(
            direction=direction,
            cookie=cookie,
            timestamp_ns=timestamp_ns,
            position=position,
            size=size,
            turn=turn,
            data=chunk[start : start + captured],
            flags=flags,
            cause=cause,
            unseen=unseen,
            tgid=tgid,
            tid=tid,
            rtt_us=rtt_us,
            syscall=syscall,
            peer=peer,
        )

    def pack(self) -> bytes:
        flags = self.flags & ~HAS_PEER
        peer = b""
        if self.peer is not None:
            flags |= HAS_PEER
            peer = PEER_STRUCT.pack(self.peer[0], self.peer[1], 0, 0)
        head = DATA_STRUCT.pack(
            DATA,
            self.direction,
            flags,
            self.cause,
            len(self.data),
            self.cookie,
            self.timestamp_ns,
            self.position,
            self.size,
            self.turn,
            self.unseen,
            self.tgid,
            self.tid,
            self.rtt_us,
            self.syscall,
            0,
        )
        return head + peer + self.data


@dataclass(slots=True, frozen=True, kw_only=True)
class CloseEvent:
    """`struct ws_close`: a TCP socket reached its end."""

    reason: int
    turns: int
    cookie: int
    timestamp_ns: int
    egress_position: int
    ingress_position: int

    @classmethod
    def unpack_from(cls, chunk: bytes, offset: int) -> CloseEvent:
        """Read one from `chunk`; `offset` is past the record header."""
        _type, reason, _pad, turns, cookie, timestamp_ns, egress, ingress = (
            CLOSE_STRUCT.unpack_from(chunk, offset)
        )
        return cls(
            reason=reason,
            turns=turns,
            cookie=cookie,
            timestamp_ns=timestamp_ns,
            egress_position=egress,
            ingress_position=ingress,
        )

    def pack(self) -> bytes:
        return CLOSE_STRUCT.pack(
            CLOSE,
            self.reason,
            0,
            self.turns,
            self.cookie,
            self.timestamp_ns,
            self.egress_position,
            self.ingress_position,
        )


Event = OpenEvent | DataEvent | CloseEvent


def chunk_of(events: list[Event]) -> bytes:
    """Lay events out as the ring buffer would."""
    parts = []
    for event in events:
        body = event.pack()
        parts.append(len(body).to_bytes(4, "little") + b"\0\0\0\0")
        parts.append(body)
        parts.append(b"\0" * (-len(body) % 8))
    return b"".join(parts)


def walk(chunk: bytes) -> Iterator[Event]:
    """Yield the events of `chunk`; the slow way, for tests and tools."""
    offset = 0
    end = len(chunk)
    while offset + RECORD_HEADER_BYTES < end:
        word = int.from_bytes(chunk[offset : offset + 4], "little")
        start = offset + RECORD_HEADER_BYTES
        if not word & DISCARDED:
            kind = chunk[start]
            if kind == DATA:
                yield DataEvent.unpack_from(chunk, start)
            elif kind == OPEN:
                yield OpenEvent.unpack_from(chunk, start)
            elif kind == CLOSE:
                yield CloseEvent.unpack_from(chunk, start)
        offset = start + ((word & LENGTH_MASK) + 7 & ~7)


def _unix_path(path: bytes) -> bytes:
    """Cut the padding off; an abstract name begins with a NUL that is part of it."""
    if path.startswith(b"\0"):
        return path.rstrip(b"\0")
    return path.split(b"\0", 1)[0]


@lru_cache(maxsize=16384)
def address_text(address: bytes) -> str:
    """`::ffff:1.2.3.4` as `1.2.3.4`, the rest as IPv6; "" for the unspecified one."""
    if address == bytes(16):
        return ""
    parsed = ipaddress.IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)


def address_bytes(text: str) -> bytes:
    """The inverse of `address_text`."""
    if not text:
        return bytes(16)
    parsed = ipaddress.ip_address(text)
    if isinstance(parsed, ipaddress.IPv4Address):
        return bytes(10) + b"\xff\xff" + parsed.packed
    return parsed.packed
