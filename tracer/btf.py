# SPDX-License-Identifier: Apache-2.0
"""The few types of BTF that the loader asks an object for: structs and variables.

Format: Linux Documentation/bpf/btf.rst.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

MAGIC: Final = 0xEB9F
HEADER: Final = Struct("<HBBIIIII")
TYPE: Final = Struct("<III")
MEMBER: Final = Struct("<III")
ARRAY: Final = Struct("<III")
VARIABLE: Final = Struct("<III")

KIND_INT: Final = 1
KIND_PTR: Final = 2
KIND_ARRAY: Final = 3
KIND_STRUCT: Final = 4
KIND_UNION: Final = 5
KIND_ENUM: Final = 6
KIND_TYPEDEF: Final = 8
KIND_VOLATILE: Final = 9
KIND_CONST: Final = 10
KIND_FUNC_PROTO: Final = 13
KIND_VAR: Final = 14
KIND_DATASEC: Final = 15
KIND_DECL_TAG: Final = 17
KIND_ENUM64: Final = 19

POINTER_BYTES: Final = 8
MAX_DEPTH: Final = 32
"""Typedefs and qualifiers in a row, as the kernel allows (MAX_RESOLVE_DEPTH)."""


class Field(NamedTuple):
    """A member of a struct, or a variable of a section."""

    name: str
    offset: int
    size: int


class _Type(NamedTuple):
    kind: int
    name: str
    length: int
    """Number of members, parameters, variables, ..."""
    size_or_type: int
    start: int
    """Where what follows the common head begins."""


class Btf:
    """Types of one object, read from its raw BTF."""

    def __init__(self, raw: bytes) -> None:
        magic, _, _, head, type_offset, type_size, name_offset, name_size = HEADER.unpack_from(raw)
        if magic != MAGIC:
            raise ValueError(f"not BTF of this machine's byte order: it begins with {magic:#x}")
        self._raw = raw
        self._names = raw[head + name_offset : head + name_offset + name_size]
        self._types: list[_Type] = [_Type(0, "", 0, 0, 0)]
        position = head + type_offset
        end = position + type_size
        while position < end:
            name, bits, size_or_type = TYPE.unpack_from(raw, position)
            kind = bits >> 24 & 0x1F
            length = bits & 0xFFFF
            position += TYPE.size
            self._types.append(_Type(kind, self._name(name), length, size_or_type, position))
            position += _tail_bytes(kind, length)

    def struct(self, name: str) -> list[Field] | None:
        """The members of a struct in order, None if there is no such struct."""
        found = self._find(KIND_STRUCT, name)
        if found is None:
            return None
        fields = []
        for index in range(found.length):
            text, kind, bits = MEMBER.unpack_from(self._raw, found.start + index * MEMBER.size)
            fields.append(Field(self._name(text), bits // 8, self._size(kind)))
        return fields

    def struct_size(self, name: str) -> int:
        found = self._find(KIND_STRUCT, name)
        return found.size_or_type if found else 0

    def variables(self, section: str) -> dict[str, Field]:
        """The variables of a data section such as `.rodata`."""
        found = self._find(KIND_DATASEC, section)
        variables = {}
        for index in range(found.length if found else 0):
            assert found is not None
            kind, offset, size = VARIABLE.unpack_from(
                self._raw, found.start + index * VARIABLE.size
            )
            name = self._types[kind].name
            variables[name] = Field(name, offset, size)
        return variables

    def _find(self, kind: int, name: str) -> _Type | None:
        for one in self._types:
            if one.kind == kind and one.name == name:
                return one
        return None

    def _size(self, number: int) -> int:
        factor = 1
        for _ in range(MAX_DEPTH):
            one = self._types[number]
            if one.kind in {KIND_TYPEDEF, KIND_VOLATILE, KIND_CONST}:
                number = one.size_or_type
            elif one.kind == KIND_ARRAY:
                number, _, count = ARRAY.unpack_from(self._raw, one.start)
                factor *= count
            else:
                return factor * (POINTER_BYTES if one.kind == KIND_PTR else one.size_or_type)
        raise ValueError(f"type {number} does not end")

    def _name(self, offset: int) -> str:
        return self._names[offset : self._names.index(b"\0", offset)].decode()


def _tail_bytes(kind: int, length: int) -> int:
    """Bytes that follow the common head of a type."""
    match kind:
        case 1 | 14 | 17:  # INT, VAR, DECL_TAG
            return 4
        case 3:  # ARRAY
            return ARRAY.size
        case 4 | 5 | 15 | 19:  # STRUCT, UNION, DATASEC, ENUM64
            return 12 * length
        case 6 | 13:  # ENUM, FUNC_PROTO
            return 8 * length
        case _:
            return 0
