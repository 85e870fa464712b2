# SPDX-License-Identifier: Apache-2.0
"""The Python twin against the header itself; the object's BTF is compared where it is loaded."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tracer.fakes import moved, opened
from tracer import events
from tracer.events import (
    DISCARDED,
    CloseEvent,
    DataEvent,
    OpenEvent,
    address_bytes,
    address_text,
    chunk_of,
    walk,
)

HEADER = (Path(__file__).parents[2] / "bpf" / "events.h").read_text()
CODE = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
FORMATS = {"__u8": "B", "__u16": "H", "__u32": "I", "__u64": "Q", "char": "s"}
CONSTANTS = {name: int(value) for name, value in re.findall(r"#define (WS_\w+) (\d+)", HEADER)}


def enum(name):
    (body,) = re.findall(rf"enum {name} {{(.*?)}};", CODE, flags=re.DOTALL)
    return {
        member.removeprefix("WS_"): int(value)
        for member, value in re.findall(r"(WS_\w+) = (\d+)", body)
    }


def struct_format(name):
    """Of a struct of the header, as Python's struct module has it; nothing is padded."""
    (body,) = re.findall(rf"struct {name} {{(.*?)}};", CODE, flags=re.DOTALL)
    found = "<"
    for kind, _, length in re.findall(r"(\w+) (\w+)(?:\[(\w+)\])?;", body):
        count = CONSTANTS.get(length) or (int(length) if length else 0)
        found += f"{count}s" if count else FORMATS[kind]
    return found


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("ws_open", events.OPEN_STRUCT),
        ("ws_data", events.DATA_STRUCT),
        ("ws_peer", events.PEER_STRUCT),
        ("ws_close", events.CLOSE_STRUCT),
        ("ws_counter", events.COUNTER_STRUCT),
        ("ws_verdict", events.VERDICT_STRUCT),
    ],
)
def test_structs_are_those_of_the_header(name, twin):
    assert twin.format == struct_format(name)
    assert f"_Static_assert(sizeof(struct {name}) == {twin.size}," in HEADER


def test_enums_are_those_of_the_header():
    def members(twin):
        return {member.name: int(member) for member in twin}

    causes = enum("ws_cause")
    assert causes.pop("CAUSES") == len(events.Cause)
    assert members(events.Cause) == causes
    assert members(events.Action) == enum("ws_action")
    assert members(events.CloseReason) == enum("ws_close_reason")
    assert enum("ws_type") == {name: getattr(events, name) for name in ("OPEN", "DATA", "CLOSE")}
    assert enum("ws_direction") == {"INGRESS": events.INGRESS, "EGRESS": events.EGRESS}
    assert enum("ws_open_flag") == {"LATE": events.LATE, "INNER": events.INNER}
    assert "#define WS_INNER_BIT (1ULL << 62)" in CODE
    assert events.INNER_BIT == 1 << 62
    flags = enum("ws_data_flag")
    assert flags.items() >= {"EOF": 1, "TURN_START": 8}.items()
    assert flags == {name: getattr(events, name) for name in flags}
    assert CONSTANTS["WS_MAX_SNAPLEN"] == events.MAX_SNAPLEN
    assert CONSTANTS["WS_MAX_WHOLE"] == events.MAX_WHOLE


U8, U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
ADDRESS = st.binary(min_size=16, max_size=16)
OPENS = st.builds(
    OpenEvent, role=U8, transport=U8, flags=U8, tgid=U32, cookie=U64, timestamp_ns=U64,
    process_start_ns=U64, cgroup_id=U64, carrier=U64, netns=U32,
    egress_position=U32, ingress_position=U32, local_port=U16, remote_port=U16, local=ADDRESS,
    remote=ADDRESS,
    comm=st.sampled_from([b"", b"nginx", b"x" * 16]),
    path=st.sampled_from([b"", b"/run/x.sock", b"\0abstract", b"\0a\0b", b"/" * 108]),
)  # fmt: skip
DATAS = st.builds(
    DataEvent, direction=U8, cookie=U64, timestamp_ns=U64, position=U32, size=U32, turn=U32,
    data=st.binary(max_size=40), flags=st.integers(0, 255).map(lambda flags: flags & ~2), cause=U8,
    unseen=U32, tgid=U32, tid=U32, rtt_us=U32, syscall=U16,
)  # fmt: skip
CLOSES = st.builds(
    CloseEvent, reason=U8, turns=U32, cookie=U64, timestamp_ns=U64, egress_position=U32,
    ingress_position=U32,
)  # fmt: skip


@given(st.lists(st.one_of(OPENS, DATAS, CLOSES), max_size=8))
def test_events_survive_a_chunk(made):
    chunk = chunk_of(made)
    assert len(chunk) % 8 == 0
    assert list(walk(chunk)) == made


def test_peer_of_a_datagram_stands_before_its_payload():
    event = moved(data=b"abc", peer=(address_bytes("10.0.0.53"), 53))
    (found,) = walk(chunk_of([event]))
    assert found.peer == (address_bytes("10.0.0.53"), 53)
    assert found.data == b"abc"
    assert found == replace(event, flags=events.HAS_PEER)


def test_discarded_records_are_passed_over():
    chunk = bytearray(chunk_of([opened(1), opened(2)]))
    chunk[:4] = (int.from_bytes(chunk[:4], "little") | DISCARDED).to_bytes(4, "little")
    assert [event.cookie for event in walk(bytes(chunk))] == [2]


@pytest.mark.parametrize("text", ["", "10.0.0.1", "255.255.255.255", "::1", "2001:db8::5"])
def test_addresses_as_text_and_back(text):
    assert len(address_bytes(text)) == 16
    assert address_text(address_bytes(text)) == text


def test_mapped_address_is_written_as_ipv4():
    assert address_text(address_bytes("::ffff:192.0.2.1")) == "192.0.2.1"
