# SPDX-License-Identifier: Apache-2.0
"""Protobuf by hand: the few wire types that OTLP attributes are made of.

Spec: https://protobuf.dev/programming-guides/encoding/
OTel: https://github.com/open-telemetry/opentelemetry-proto 1.11.0, common/v1/common.proto
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final, TypeVar

from parsers.model import AttributeValue

MAX_KEYS: Final = 1024
MAX_VARINTS: Final = 4096

K = TypeVar("K")
V = TypeVar("V")


class Cache(dict[K, V]):
    """Computes what it misses, and forgets everything when it is full."""

    __slots__ = ("_compute", "_limit")

    def __init__(self, compute: Callable[[K], V], limit: int) -> None:
        super().__init__()
        self._compute = compute
        self._limit = limit

    def __missing__(self, key: K) -> V:
        if len(self) >= self._limit:
            self.clear()
        value = self[key] = self._compute(key)
        return value


def _varint(number: int) -> bytes:
    if 0 <= number < 0x80:
        return bytes((number,))
    if 0 <= number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    if 0 <= number < 0x20_0000:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    number &= 0xFFFF_FFFF_FFFF_FFFF
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


_varints: Final[Cache[int, bytes]] = Cache(_varint, MAX_VARINTS)
varint: Final = _varints.__getitem__
"""Base 128, least significant group first; negative numbers as 64-bit two's complement."""


def message(tag: int, body: bytes) -> bytes:
    """A field of length-delimited wire type; `tag` holds number and type, below 128."""
    return b"%c%b%b" % (tag, varint(len(body)), body)


def text(tag: int, value: str) -> bytes:
    """A string field; nothing for the empty string, as proto3 has it."""
    return message(tag, utf8(value)) if value else b""


def utf8(value: str) -> bytes:
    """UTF-8; what has none (a lone surrogate) is spelt out, since protobuf refuses it."""
    try:
        return value.encode()
    except UnicodeEncodeError:
        return value.encode(errors="backslashreplace")


INT64: Final = range(-(1 << 63), 1 << 63)
DOUBLE: Final = Struct("<d")


def any_value(value: AttributeValue) -> bytes:
    """The body of an AnyValue; an integer that 64 bits cannot hold becomes a string."""
    if isinstance(value, str):
        return message(0x0A, utf8(value))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + varint(value) if value in INT64 else any_value(str(value))
    if isinstance(value, float):
        return b"\x21" + DOUBLE.pack(value)
    return message(0x2A, b"".join(message(0x0A, any_value(item)) for item in value))


def _key(key: str) -> bytes:
    return text(0x0A, key)


key_name: Final[Cache[str, bytes]] = Cache(_key, MAX_KEYS)
"""The `key` field of a KeyValue."""


def key_value(tag: int, key: str, value: AttributeValue) -> bytes:
    """A KeyValue message as field `tag`."""
    return message(tag, key_name[key] + message(0x12, any_value(value)))
