# SPDX-License-Identifier: Apache-2.0
"""Packets of MySQL, made by the specification for the tests of its parser."""

from __future__ import annotations

import struct
from typing import Final

from parsers.model import Kind, Message, Options
from parsers.mysql import MysqlParser
from parsers.reader import Reader

CAPABILITIES: Final = 0xFA28F
"""PROTOCOL_41, CONNECT_WITH_DB, SECURE_CONNECTION, PLUGIN_AUTH and what all clients set."""
LENENC_AUTH: Final = 1 << 21
DEPRECATE_EOF: Final = 1 << 24


def packet(sequence: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([sequence & 0xFF]) + payload


def text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def greeting(
    version: bytes = b"8.0.36", capabilities: int = CAPABILITIES | LENENC_AUTH | DEPRECATE_EOF
) -> bytes:
    low, high = capabilities & 0xFFFF, capabilities >> 16
    fixed = struct.pack("<I8sxHBHHB10x", 17, b"SALTSALT", low, 45, 2, high, 21)
    return packet(0, b"\x0a" + version + b"\0" + fixed + b"saltsaltsalt\0" + b"some_plugin\0")


def login(
    database: bytes = b"shop",
    capabilities: int = CAPABILITIES,
    auth: bytes = b"\4HASH",
    sequence: int = 1,
) -> bytes:
    fixed = struct.pack("<IIB23x", capabilities, 1 << 24, 45)
    return packet(sequence, fixed + b"carol\0" + auth + database + b"\0some_plugin\0")


def ok(sequence: int = 1, status: int = 2, rest: bytes = b"", head: int = 0) -> bytes:
    return packet(sequence, struct.pack("<BBBHH", head, 0, 0, status, 0) + rest)


def eof(sequence: int, status: int = 2) -> bytes:
    return packet(sequence, struct.pack("<BHH", 0xFE, 0, status))


def error(sequence: int, code: int = 1064, state: bytes = b"#42000") -> bytes:
    return packet(sequence, b"\xff" + struct.pack("<H", code) + state + b"near 'secret'")


def query(sql: bytes) -> bytes:
    return packet(0, b"\3" + sql)


def command(code: int, rest: bytes = b"") -> bytes:
    return packet(0, bytes([code]) + rest)


def execute(number: int, rest: bytes = b"") -> bytes:
    return command(0x17, struct.pack("<IBI", number, 0, 1) + rest)


def definition(sequence: int, name: bytes = b"a") -> bytes:
    names = b"".join(map(text, (b"shop", b"t", b"t", name, name)))
    return packet(sequence, b"\3def" + names + b"\x0c" + bytes(12))


def rows(number: int, *, first: int = 1, deprecated: bool = False, status: int = 2) -> bytes:
    """A result set of one column."""
    parts = [packet(first, b"\1"), definition(first + 1)]
    parts += [] if deprecated else [eof(first + 2, status)]
    for _ in range(number):
        parts.append(packet(first + len(parts), b"\6secret"))
    last = first + len(parts)
    parts.append(ok(last, status, head=0xFE) if deprecated else eof(last, status))
    return b"".join(parts)


def prepared(number: int, columns: int, parameters: int, *, deprecated: bool = False) -> bytes:
    parts = [packet(1, struct.pack("<BIHHBH", 0, number, columns, parameters, 0, 0))]
    for count in (parameters, columns):
        for _ in range(count):
            parts.append(definition(1 + len(parts)))
        if count and not deprecated:
            parts.append(eof(1 + len(parts)))
    return b"".join(parts)


class Talker:
    """A parser that is fed by hand, with what waits for a response."""

    def __init__(self, *, redact: bool = True, before: MysqlParser | None = None) -> None:
        self.parser = MysqlParser(Options(redact=redact, before=before))
        self.waiting: list[Message] = []
        self.reader = Reader()

    def asks(self, data: bytes, **flags: bool) -> Message | None:
        self.reader = Reader(data)
        for name, value in flags.items():
            setattr(self.reader, name, value)
        message = self.parser.parse(self.reader, Kind.REQUEST, None)
        if message is not None:
            self.waiting.append(message)
        return message

    def answers(self, data: bytes, **flags: bool) -> Message | None:
        self.reader = Reader(data)
        for name, value in flags.items():
            setattr(self.reader, name, value)
        request = self.waiting[0] if self.waiting else None
        message = self.parser.parse(self.reader, Kind.RESPONSE, request)
        if message is not None and not message.open and self.waiting:
            del self.waiting[0]
        return message

    def logs_in(self, **options: int) -> Talker:
        self.answers(greeting())
        self.asks(login(**options))
        self.answers(ok(2))
        return self
