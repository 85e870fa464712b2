# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer import dissect
from tracer.dissect import Datagram, Dissector, Segment

A, B = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
A6, B6 = bytes(15) + b"\1", bytes(15) + b"\2"


def tcp(data=b"payload", options=b""):
    words = 5 + len(options) // 4
    return struct.pack("!HHIIBBHHH", 1000, 80, 7, 9, words << 4, 0x18, 0, 0, 0) + options + data


def udp(data=b"payload", length=None):
    return struct.pack("!HHHH", 1000, 53, 8 + len(data) if length is None else length, 0) + data


def ipv4(payload, protocol=6, *, length=None, identity=1, fragment=0, options=b""):
    total = 20 + len(options) + len(payload) if length is None else length
    first = 0x40 | (5 + len(options) // 4)
    header = struct.pack("!BBHHHBBH", first, 0, total, identity, fragment, 64, protocol, 0)
    return header + A + B + options + payload


def ipv6(payload, header=6, length=None):
    length = len(payload) if length is None else length
    return struct.pack("!IHBB", 6 << 28, length, header, 64) + A6 + B6 + payload


def taken(frame, link_type=101, wire_bytes=None):
    dissector = Dissector()
    found = dissector.dissect(link_type, frame, wire_bytes or len(frame), 5)
    return found, dict(dissector.unused)


MAPPED_A = bytes(10) + b"\xff\xff" + A
MAPPED_B = bytes(10) + b"\xff\xff" + B


def test_segment_of_ipv4():
    found, unused = taken(ipv4(tcp()))
    assert found == Segment(5, (MAPPED_A, 1000), (MAPPED_B, 80), 7, 9, 0x18, b"payload", 7)
    assert unused == {}


def test_datagram_of_ipv6():
    found, _ = taken(ipv6(udp(), 17))
    assert found == Datagram(5, (A6, 1000), (B6, 53), b"payload", 7)


def test_options_of_ip_and_tcp_are_passed_over():
    found, _ = taken(ipv4(tcp(options=b"\1" * 12), options=b"\1" * 8))
    assert found.data == b"payload"


def test_padding_of_a_short_ethernet_frame_is_no_payload():
    frame = bytes(12) + b"\x08\x00" + ipv4(tcp(b"")) + b"\xaa" * 6
    found, _ = taken(frame, dissect.ETHERNET)
    assert (found.data, found.size) == (b"", 0)


def test_cut_frame_knows_its_size_on_the_wire():
    whole = ipv4(tcp(b"x" * 1000))
    found, _ = taken(whole[:100], wire_bytes=len(whole))
    assert (len(found.data), found.size) == (60, 1000)


@pytest.mark.parametrize("frame", [ipv4(tcp(), length=0), ipv6(tcp(), length=0)])
def test_length_that_was_left_to_the_card_is_that_of_the_frame(frame):
    found, _ = taken(frame)
    assert (found.data, found.size) == (b"payload", 7)


def test_ipv6_extension_headers_are_passed_over():
    hop = b"\x3c\x00" + bytes(6)
    destination = b"\x33\x01" + bytes(14)
    authentication = b"\x06\x04" + bytes(22)
    found, _ = taken(ipv6(hop + destination + authentication + tcp(), 0))
    assert found.data == b"payload"


def test_ipv4_fragments_are_joined_in_any_order():
    whole = tcp(bytes(range(200)) * 10)
    dissector = Dissector()
    parts = [
        ipv4(whole[at : at + 512], fragment=at // 8 | (0x2000 if at + 512 < len(whole) else 0))
        for at in range(0, len(whole), 512)
    ]
    found = [dissector.dissect(101, part, len(part), 5) for part in [*parts[::-1], parts[0]]]
    (segment,) = [each for each in found if each is not None]
    assert segment.data == bytes(range(200)) * 10
    assert not dissector.unused


def test_ipv6_fragments_are_joined():
    whole = tcp(b"x" * 100)
    parts = [
        ipv6(struct.pack("!BBHI", 6, 0, at | (at == 0), 9) + whole[at : at + 64], 44)
        for at in (0, 64)
    ]
    dissector = Dissector()
    found = [dissector.dissect(101, part, len(part), 5) for part in parts]
    assert found[0] is None
    assert found[1].data == b"x" * 100


def test_ipv6_datagram_in_one_fragment_needs_no_other():
    found, _ = taken(ipv6(struct.pack("!BBHI", 6, 0, 0, 9) + tcp(), 44))
    assert found.data == b"payload"


def test_overlapping_fragments_are_dropped_and_counted():
    dissector = Dissector()
    for part in (
        ipv4(bytes(16), fragment=0x2000),
        ipv4(bytes(16), fragment=1 | 0x2000),
        ipv4(bytes(16), fragment=3),
    ):
        assert dissector.dissect(101, part, len(part), 5) is None
    assert dissector.unused["bad_fragment"] == 3


def test_fragments_that_never_become_whole_are_bounded_and_counted():
    dissector = Dissector()
    for identity in range(dissect.MAX_FRAGMENTED + 10):
        part = ipv4(bytes(16), identity=identity, fragment=0x2000)
        dissector.dissect(101, part, len(part), 5)
    assert dissector.unused["incomplete_fragments"] == 10
    dissector.finish()
    assert dissector.unused["incomplete_fragments"] == dissect.MAX_FRAGMENTED + 10


def test_cut_fragment_is_counted():
    part = ipv4(bytes(100), fragment=0x2000)
    assert taken(part[:60], wire_bytes=120) == (None, {"cut_fragment": 1})


@pytest.mark.parametrize(
    ("frame", "link_type", "reason"),
    [
        (b"", 1, "cut_header"),
        (bytes(13), 1, "cut_header"),
        (bytes(12) + b"\x08\x06" + bytes(28), 1, "not_ip"),
        (bytes(12) + b"\x81\x00\x00\x01" * 5, 1, "too_many_vlan_tags"),
        (ipv4(tcp())[:30], 101, "cut_header"),
        (ipv4(b"", 1), 101, "not_tcp_or_udp"),
        (b"\x41" + ipv4(tcp())[1:], 101, "bad_ip_header"),
        (ipv4(struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 0x10, 0, 0, 0, 0)), 101, "bad_tcp_header"),
        (ipv4(udp(length=3), 17), 101, "bad_udp_header"),
        (b"\x15" * 40, 101, "not_ip"),
        (bytes(60), 147, "link_type_147"),
    ],
)
def test_frame_without_use_is_counted_by_reason(frame, link_type, reason):
    assert taken(frame, link_type) == (None, {reason: 1})


@given(
    st.sampled_from([0, 1, 12, 101, 108, 113, 276, 9]),
    st.sampled_from([b"", ipv4(tcp()), ipv6(tcp(), 44), ipv4(udp(), 17), bytes(12) + b"\x81\0"]),
    st.binary(max_size=80),
)
def test_no_frame_is_too_odd(link_type, begin, rest):
    dissector = Dissector()
    found = dissector.dissect(link_type, begin + rest, len(begin + rest), 5)
    pieces = sum(len(each.parts) for each in dissector._pieces.values())
    assert (found is not None) + dissector.unused.total() + pieces == 1
    if found is not None:
        assert found.size >= 0
