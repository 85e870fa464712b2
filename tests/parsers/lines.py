# SPDX-License-Identifier: Apache-2.0
"""A small protocol for tests: `>id text` asks and `<id text` answers, one line each.

Without an id messages are joined by order. `!` in front makes the parser misbehave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from parsers.model import (
    Endpoint,
    Exchange,
    Kind,
    Likeness,
    Message,
    Options,
    Outline,
    ParseError,
    Side,
    Transport,
)
from parsers.reader import Reader

MARKS = {Kind.REQUEST: b">", Kind.RESPONSE: b"<"}


@dataclass(slots=True)
class Line(Message):
    text: str


class LineParser:
    name: ClassVar[str] = "lines"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP})
    ports: ClassVar[frozenset[int]] = frozenset({7777})
    whole: ClassVar[bool] = True

    def __init__(self, options: Options) -> None:
        pass

    @staticmethod
    def probe(head: bytes, kind: Kind) -> Likeness:
        if not head.startswith(MARKS[kind]):
            return Likeness.NO
        return Likeness.CERTAIN if b"\n" in head else Likeness.SHORT

    def parse(self, reader: Reader, kind: Kind, request: Message | None) -> Message | None:
        if reader.data[reader.position : reader.position + 1] == b"!":
            return None
        line = reader.line(1000)
        if line[:1] != MARKS[kind]:
            raise ParseError(f"line {line!r}")
        number, _, text = line[1:].partition(b" ")
        message = Line(text.decode())
        if number:
            message.correlation_id = int(number)
        return message

    def outline(self, exchange: Exchange, side: Side, server: Endpoint) -> Outline:
        return Outline("line", {}, None)
