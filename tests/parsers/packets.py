# SPDX-License-Identifier: Apache-2.0
"""A small protocol of datagrams for tests: `?id text` asks and `!id text` answers.

Without an id there is none; `?-` is a request that nothing answers, `!+` an answer that is
followed by another.
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

MARKS = {Kind.REQUEST: b"?", Kind.RESPONSE: b"!"}


@dataclass(slots=True)
class Ask(Message):
    kind: ClassVar[Kind] = Kind.REQUEST
    text: str


@dataclass(slots=True)
class Tell(Message):
    kind: ClassVar[Kind] = Kind.RESPONSE
    text: str


class PacketParser:
    name: ClassVar[str] = "packets"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.UDP})
    ports: ClassVar[frozenset[int]] = frozenset({7777})
    whole: ClassVar[bool] = False

    def __init__(self, options: Options) -> None:
        pass

    @staticmethod
    def probe(head: bytes, kind: Kind) -> Likeness:
        if not head.startswith(MARKS[kind]):
            return Likeness.NO
        return Likeness.CERTAIN if b" " in head else Likeness.LIKELY

    def parse(self, reader: Reader, kind: Kind, request: Message | None) -> Message | None:
        mark = reader.take(1)
        if mark != MARKS[kind]:
            raise ParseError(f"mark {mark!r}")
        number, _, text = reader.take(reader.available).partition(b" ")
        if text == b"nothing":
            return None
        if reader.cut:
            reader.lose()
        message = (Ask if kind is Kind.REQUEST else Tell)(text.decode())
        message.gap = text == b"gap"
        message.one_way = number == b"-"
        message.interim = number == b"+"
        if number.isdigit():
            message.correlation_id = int(number)
        return message

    def outline(self, exchange: Exchange, side: Side, server: Endpoint) -> Outline:
        return Outline("packet", {}, None)


class OtherParser(PacketParser):
    """Another, which takes nothing of it."""

    name: ClassVar[str] = "others"
    ports: ClassVar[frozenset[int]] = frozenset({9999})

    @staticmethod
    def probe(head: bytes, kind: Kind) -> Likeness:
        return Likeness.NO
