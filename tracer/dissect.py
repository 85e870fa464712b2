# SPDX-License-Identifier: Apache-2.0
"""From a captured frame to its TCP segment or UDP datagram.

Link types: https://www.tcpdump.org/linktypes.html; IPv4: RFC 791; IPv6: RFC 8200; TCP: RFC 9293.

By hand and not by scapy's layers, which take 90 us a frame where these few fields take 3.
Tunnels (GRE, VXLAN, IP in IP) are not looked into. Checksums are not verified: a capture on
the sending host has them before the network card fills them in. Every frame that is not used
is counted under a name.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, Final, NamedTuple

NULL: Final = 0
ETHERNET: Final = 1
RAW: Final = frozenset({12, 14, 101, 228, 229})
"""IP without anything before it: 12 and 14 are what BSDs call 101; one IP version only."""
LOOP: Final = 108
LINUX_SLL: Final = 113
LINUX_SLL2: Final = 276

IPV4: Final = 0x0800
IPV6: Final = 0x86DD
VLAN_TAGS: Final = frozenset({0x8100, 0x88A8, 0x9100})
MAX_TAGS: Final = 4
SLL_BYTES: Final = 16
SLL2_BYTES: Final = 20

TCP: Final = 6
UDP: Final = 17
FRAGMENT: Final = 44
AUTHENTICATION: Final = 51
EXTENSIONS: Final = frozenset({0, 43, 60, 135, 139, 140})
"""Hop-by-hop, routing, destination options, mobility, HIP, shim6: length in 8-byte units."""
MAX_EXTENSIONS: Final = 16

MAX_FRAGMENTED: Final = 256
"""IP datagrams of which some fragments are held."""
MAX_DATAGRAM_BYTES: Final = 65_535
MAX_FRAGMENTS: Final = 128
"""Of one datagram."""

IPV4_HEADER: Final = Struct("!BxHHHxBxx4s4s")
IPV6_HEADER: Final = Struct("!IHBx16s16s")
TCP_HEADER: Final = Struct("!HHIIBBxxxxxx")
UDP_HEADER: Final = Struct("!HHHxx")
MAPPED: Final = bytes(10) + b"\xff\xff"


class Segment(NamedTuple):
    """A TCP segment."""

    timestamp_ns: int
    source: tuple[bytes, int]
    """Address (16 bytes, IPv4 mapped) and port."""
    destination: tuple[bytes, int]
    sequence: int
    acknowledgment: int
    flags: int
    data: bytes
    """As much of the payload as was captured."""
    size: int
    """Bytes of payload on the wire."""


class Datagram(NamedTuple):
    """A UDP datagram."""

    timestamp_ns: int
    source: tuple[bytes, int]
    destination: tuple[bytes, int]
    data: bytes
    size: int


@dataclass(slots=True)
class Pieces:
    """The fragments of one IP datagram that have come."""

    parts: dict[int, bytes] = field(default_factory=dict)
    """By offset in bytes."""
    size: int = -1
    """Of the whole payload; -1 until the last fragment has come."""

    def add(self, offset: int, data: bytes, *, more: bool) -> bytes | None:
        """Add a fragment; the whole payload when nothing is missing.

        Raises:
            ValueError: fragments overlap, or there are too many.
        """
        known = self.parts.get(offset)
        if known is not None:
            if known != data:
                raise ValueError("overlap")
            return None
        self.parts[offset] = data
        if not more:
            self.size = offset + len(data)
        if len(self.parts) > MAX_FRAGMENTS or offset + len(data) > MAX_DATAGRAM_BYTES:
            raise ValueError("too many or too long")
        if self.size < 0 or sum(map(len, self.parts.values())) < self.size:
            return None
        whole = bytearray()
        for start, part in sorted(self.parts.items()):
            if start != len(whole):
                raise ValueError("overlap")
            whole += part
        return bytes(whole)


class Dissector:
    """Takes frames apart; keeps the fragments that wait for others."""

    def __init__(self) -> None:
        self.unused: Counter[str] = Counter()
        """Frames that nothing was made of, by reason."""
        self._pieces: dict[tuple[bytes, bytes, int, int], Pieces] = {}

    def dissect(
        self, link_type: int, frame: bytes, wire_bytes: int, timestamp_ns: int
    ) -> Segment | Datagram | None:
        """The segment or datagram in a frame; None if there is none, which is counted."""
        try:
            kind, offset = _network(link_type, frame)
            if kind == IPV4:
                return self._ipv4(frame, offset, wire_bytes, timestamp_ns)
            if kind == IPV6:
                return self._ipv6(frame, offset, wire_bytes, timestamp_ns)
        except _Unused as reason:
            self.unused[str(reason)] += 1
            return None
        except (IndexError, ValueError, _ShortError):
            self.unused["cut_header"] += 1
            return None
        self.unused["not_ip"] += 1
        return None

    def _ipv4(
        self, frame: bytes, offset: int, wire_bytes: int, timestamp_ns: int
    ) -> Segment | Datagram | None:
        first, length, identity, fragment, protocol, source, destination = _unpack(
            IPV4_HEADER, frame, offset
        )
        header = (first & 0x0F) * 4
        if first >> 4 != 4 or header < IPV4_HEADER.size:
            raise _Unused("bad_ip_header")
        # Zero where the network card was to cut it into segments.
        size = (length or wire_bytes - offset) - header
        ends = (MAPPED + source, MAPPED + destination)
        data = frame[offset + header : offset + header + max(size, 0)]
        if fragment & 0x3FFF:
            key = (*ends, protocol, identity)
            at, more = (fragment & 0x1FFF) * 8, bool(fragment & 0x2000)
            whole = self._defragment(key, at, data, size, more=more)
            if whole is None:
                return None
            data, size = whole, len(whole)
        return self._transport(protocol, data, size, ends, timestamp_ns)

    def _ipv6(
        self, frame: bytes, offset: int, wire_bytes: int, timestamp_ns: int
    ) -> Segment | Datagram | None:
        first, length, header, source, destination = _unpack(IPV6_HEADER, frame, offset)
        if first >> 28 != 6:
            raise _Unused("bad_ip_header")
        start = offset + IPV6_HEADER.size
        size = length or wire_bytes - start
        data = frame[start : start + max(size, 0)]
        ends = (source, destination)
        for _ in range(MAX_EXTENSIONS):
            if header in EXTENSIONS:
                skip = (data[1] + 1) * 8
            elif header == AUTHENTICATION:
                skip = (data[1] + 2) * 4
            elif header == FRAGMENT:
                skip = 8
                place = int.from_bytes(data[2:4], "big")
                if place & 0xFFF9:
                    key = (*ends, data[0], int.from_bytes(data[4:8], "big"))
                    rest = self._defragment(
                        key, place & 0xFFF8, data[8:], size - 8, more=bool(place & 1)
                    )
                    if rest is None:
                        return None
                    header, data, size = data[0], rest, len(rest)
                    continue
            else:
                return self._transport(header, data, size, ends, timestamp_ns)
            header, data, size = data[0], data[skip:], size - skip
        raise _Unused("bad_ip_header")

    def _defragment(
        self, key: tuple[bytes, bytes, int, int], offset: int, data: bytes, size: int, *, more: bool
    ) -> bytes | None:
        if len(data) < size:
            raise _Unused("cut_fragment")
        pieces = self._pieces.get(key)
        if pieces is None:
            if len(self._pieces) >= MAX_FRAGMENTED:
                oldest = next(iter(self._pieces))
                self.unused["incomplete_fragments"] += len(self._pieces.pop(oldest).parts)
            pieces = self._pieces[key] = Pieces()
        try:
            whole = pieces.add(offset, data, more=more)
        except ValueError:
            self.unused["bad_fragment"] += len(self._pieces.pop(key).parts)
            return None
        if whole is not None:
            del self._pieces[key]
        return whole

    def finish(self) -> None:
        """There will be no more frames: count the fragments that wait."""
        for pieces in self._pieces.values():
            self.unused["incomplete_fragments"] += len(pieces.parts)
        self._pieces.clear()

    def _transport(
        self, protocol: int, data: bytes, size: int, ends: tuple[bytes, bytes], timestamp_ns: int
    ) -> Segment | Datagram:
        if protocol == TCP:
            source, destination, sequence, acknowledgment, words, flags = _unpack(
                TCP_HEADER, data, 0
            )
            header = (words >> 4) * 4
            if header < TCP_HEADER.size or header > size:
                raise _Unused("bad_tcp_header")
            return Segment(
                timestamp_ns,
                (ends[0], source),
                (ends[1], destination),
                sequence,
                acknowledgment,
                flags,
                data[header:],
                size - header,
            )
        if protocol == UDP:
            source, destination, length = _unpack(UDP_HEADER, data, 0)
            length = min(length or size, size) - UDP_HEADER.size
            if length < 0:
                raise _Unused("bad_udp_header")
            payload = data[UDP_HEADER.size : UDP_HEADER.size + length]
            return Datagram(
                timestamp_ns, (ends[0], source), (ends[1], destination), payload, length
            )
        raise _Unused("not_tcp_or_udp")


class _Unused(Exception):  # noqa: N818 - not an error: the frame is of no use here
    """Why nothing is made of a frame."""


class _ShortError(Exception):
    """The frame ends before a header does."""


def _unpack(header: Struct, data: bytes, offset: int) -> tuple[Any, ...]:
    if len(data) - offset < header.size:
        raise _ShortError
    return header.unpack_from(data, offset)


def _network(link_type: int, frame: bytes) -> tuple[int, int]:
    """EtherType, and where the IP header begins."""
    if link_type == ETHERNET:
        return _untagged(frame, 12)
    if link_type == LINUX_SLL:
        return _untagged(frame, SLL_BYTES - 2)
    if link_type == LINUX_SLL2:
        kind = int.from_bytes(frame[0:2], "big")
        if kind in VLAN_TAGS:
            return _untagged(frame, SLL2_BYTES + 2)
        return kind, SLL2_BYTES
    if link_type in RAW:
        return _by_version(frame, 0)
    if link_type in {NULL, LOOP}:
        # The address family's number is each system's own; the IP header says its version.
        return _by_version(frame, 4)
    raise _Unused(f"link_type_{link_type}")


def _untagged(frame: bytes, offset: int) -> tuple[int, int]:
    """The EtherType at `offset`, or behind the VLAN tags there."""
    for _ in range(MAX_TAGS):
        kind = frame[offset] << 8 | frame[offset + 1]
        offset += 2
        if kind not in VLAN_TAGS:
            return kind, offset
        offset += 2
    raise _Unused("too_many_vlan_tags")


def _by_version(frame: bytes, offset: int) -> tuple[int, int]:
    return {4: IPV4, 6: IPV6}.get(frame[offset] >> 4, 0), offset
