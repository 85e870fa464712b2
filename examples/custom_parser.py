# SPDX-License-Identifier: Apache-2.0
r"""A parser of one's own: a beanstalkd-like job queue, in less than a hundred lines.

``put 120 9\r\n123456789\r\n`` asks, and ``INSERTED 42\r\n`` answers; ``reserve\r\n`` is answered by
``RESERVED 42 9\r\n123456789\r\n``. To install it, a package of yours says in its pyproject.toml

    [project.entry-points."wirespan.parsers"]
    jobs = "acme_jobs:JobsParser"

Spec: https://raw.githubusercontent.com/beanstalkd/beanstalkd/master/doc/protocol.txt
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Final

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

MAX_LINE_BYTES: Final = 224
"""The longest line that the server takes."""

FIRST_LINE: Final = {
    Kind.REQUEST: re.compile(rb"(put)(?: \d+){0,3} (\d{1,9})|(reserve|delete \d+|release \d+)"),
    Kind.RESPONSE: re.compile(rb"(RESERVED) \d+ (\d{1,9})|(INSERTED \d+|DELETED|RELEASED|[A-Z_]+)"),
}
ERRORS: Final = {"OUT_OF_MEMORY", "INTERNAL_ERROR", "BAD_FORMAT", "UNKNOWN_COMMAND", "NOT_FOUND"}


@dataclass(slots=True)
class JobMessage(Message):
    r"""``put 120 9\r\n...`` or ``INSERTED 42\r\n``."""

    word: str
    """What is asked, or what came of it."""


class JobsParser:
    """The queue's protocol on one connection; it has nothing to remember."""

    name: ClassVar[str] = "jobs"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP})
    ports: ClassVar[frozenset[int]] = frozenset({11300})
    whole: ClassVar[bool] = True

    def __init__(self, options: Options) -> None:
        """No option concerns it: job bodies are never read."""

    @staticmethod
    def probe(head: bytes, kind: Kind) -> Likeness:
        """A word alone could be anything, so both sides must look like it."""
        line, ended, _ = head.partition(b"\r\n")
        if not ended:
            return Likeness.SHORT if len(line) < MAX_LINE_BYTES else Likeness.NO
        return Likeness.LIKELY if FIRST_LINE[kind].fullmatch(line) else Likeness.NO

    def parse(self, reader: Reader, kind: Kind, request: Message | None) -> Message:
        """A line, and the job behind it where there is one."""
        line = reader.line(MAX_LINE_BYTES)
        match = FIRST_LINE[kind].fullmatch(line)
        if match is None:
            raise ParseError(f"line {line[:32]!r}")
        if match[2]:
            reader.skip(int(match[2]) + 2)
        return JobMessage((match[1] or match[3].partition(b" ")[0]).decode())

    def outline(self, exchange: Exchange, side: Side, server: Endpoint) -> Outline:
        """A messaging span, named after the command."""
        request, response = exchange.request, exchange.response
        assert isinstance(request, JobMessage)
        attributes = {"messaging.system": "beanstalkd", "messaging.operation.name": request.word}
        error = exchange.error_type
        if error is None and isinstance(response, JobMessage) and response.word in ERRORS:
            error = response.word
        return Outline(request.word, attributes, error)
