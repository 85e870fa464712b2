# SPDX-License-Identifier: Apache-2.0
"""Frames and fields of HTTP/2, written by hand."""

from __future__ import annotations

from parsers.http2 import Http2Parser
from parsers.http2_frames import DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM
from parsers.model import Kind, Message, Options
from parsers.reader import Reader

WHOLE = END_HEADERS | END_STREAM
GET, POST, HTTP, ROOT, OK = (bytes([0x80 | index]) for index in (2, 3, 6, 4, 8))
CLIENT, SERVER = Kind.REQUEST, Kind.RESPONSE


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", length: int = -1) -> bytes:
    size = len(payload) if length < 0 else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def indexed(index: int) -> bytes:
    assert index < 127
    return bytes([0x80 | index])


def integer(number: int, bits: int, flags: int = 0) -> bytes:
    limit = (1 << bits) - 1
    if number < limit:
        return bytes([flags | number])
    found = [flags | limit]
    number -= limit
    while number >= 128:
        found.append(number % 128 | 128)
        number //= 128
    return bytes([*found, number])


def literal(name: bytes, value: bytes, kind: int = 0) -> bytes:
    """Without Huffman; kind 0x40 is inserted."""
    return bytes([kind, len(name)]) + name + integer(len(value), 7) + value


def status(code: int) -> bytes:
    return literal(b":status", b"%d" % code)


def head(stream: int, block: bytes, *, ends: bool = True) -> bytes:
    return frame(HEADERS, WHOLE if ends else END_HEADERS, stream, block)


def get(stream: int, path: bytes = b"/", *, ends: bool = True) -> bytes:
    block = GET + HTTP + literal(b":path", path) + literal(b":authority", b"example.com")
    return head(stream, block, ends=ends)


def data(stream: int, payload: bytes = b"", *, ends: bool = True) -> bytes:
    return frame(DATA, END_STREAM if ends else 0, stream, payload)


def reset(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


class Talk:
    """A parser alone, and the messages it returns."""

    def __init__(self) -> None:
        self.parser = Http2Parser(Options())

    def say(self, kind: Kind, *frames: bytes, resumed: bool = False) -> list[Message | None]:
        reader = Reader(b"".join(frames))
        reader.resumed = resumed
        found = []
        while reader.position < reader.end:
            found.append(self.parser.parse(reader, kind, None))
            reader.resumed = False
        return found

    def ask(self, *frames: bytes, **options: bool) -> list[Message | None]:
        return self.say(CLIENT, *frames, **options)

    def answer(self, *frames: bytes, **options: bool) -> list[Message | None]:
        return self.say(SERVER, *frames, **options)

    @property
    def streams(self) -> list[int]:
        return list(self.parser._streams)
