# SPDX-License-Identifier: Apache-2.0
"""The BTF reader on a hand-laid blob; on the real object, tests/tracer/test_abi.py."""

from __future__ import annotations

import struct

import pytest

from tracer.btf import Btf, Field

INT, PTR, ARRAY, STRUCT, ENUM, TYPEDEF, CONST, FUNC, PROTO, VAR, DATASEC = (
    1,
    2,
    3,
    4,
    6,
    8,
    10,
    12,
    13,
    14,
    15,
)


class Writer:
    def __init__(self):
        self.names = b"\0"
        self.types = b""
        self.count = 0

    def name(self, text):
        if not text:
            return 0
        self.names += text.encode() + b"\0"
        return len(self.names) - len(text) - 1

    def add(self, kind, name, size_or_type, tail=b"", length=0):
        self.types += struct.pack("<III", self.name(name), kind << 24 | length, size_or_type) + tail
        self.count += 1
        return self.count

    def struct(self, name, size, members):
        tail = b"".join(
            struct.pack("<III", self.name(text), kind, offset * 8) for text, kind, offset in members
        )
        return self.add(STRUCT, name, size, tail, len(members))

    def raw(self):
        head = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.names)
        )
        return head + self.types + self.names


@pytest.fixture
def btf():
    writer = Writer()
    u8 = writer.add(INT, "char", 1, bytes(4))
    u32 = writer.add(INT, "unsigned int", 4, bytes(4))
    alias = writer.add(TYPEDEF, "__u32", writer.add(CONST, "", u32))
    pointer = writer.add(PTR, "", u32)
    array = writer.add(ARRAY, "", 0, struct.pack("<III", u8, u32, 16))
    writer.add(ENUM, "cause", 4, bytes(8), 1)
    writer.add(FUNC, "f", writer.add(PROTO, "", 0, bytes(8), 1))
    inner = writer.struct("inner", 8, [("x", alias, 0), ("y", u32, 4)])
    writer.struct("outer", 40, [("one", inner, 0), ("where", pointer, 8), ("comm", array, 16)])
    variable = writer.add(VAR, "snaplen", alias, bytes(4))
    writer.add(DATASEC, ".rodata", 8, struct.pack("<III", variable, 4, 4), 1)
    return Btf(writer.raw())


def test_members_come_with_offset_and_size(btf):
    assert btf.struct("outer") == [
        Field("one", 0, 8),
        Field("where", 8, 8),
        Field("comm", 16, 16),
    ]
    assert btf.struct_size("outer") == 40


def test_typedefs_and_qualifiers_are_seen_through(btf):
    assert btf.struct("inner") == [Field("x", 0, 4), Field("y", 4, 4)]


def test_unknown_struct_is_none(btf):
    assert btf.struct("nothing") is None
    assert btf.struct_size("nothing") == 0


def test_variables_of_a_section_are_found_by_name(btf):
    assert btf.variables(".rodata") == {"snaplen": Field("snaplen", 4, 4)}
    assert btf.variables(".bss") == {}


def test_other_bytes_are_no_btf():
    with pytest.raises(ValueError, match="not BTF"):
        Btf(b"\x7fELF" + bytes(40))


def test_circle_of_typedefs_ends():
    writer = Writer()
    writer.add(TYPEDEF, "a", 1)
    writer.struct("s", 4, [("x", 1, 0)])
    with pytest.raises(ValueError, match="does not end"):
        Btf(writer.raw()).struct("s")
