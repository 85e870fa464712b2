# SPDX-License-Identifier: Apache-2.0
r"""HTTP/1.0 and HTTP/1.1: messages, and how long their bodies are.

Spec: RFC 9110, RFC 9112; OTel: HTTP spans 1.44.0 (parsers/http_attributes.py).

Bodies are skipped, never read: their length comes from the head (RFC 9112 section 6.3),
with the method of the request that is answered (HEAD, CONNECT). Only chunk sizes and
trailers are read on the way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Final

from parsers.http_attributes import KNOWN_METHODS, View, describe
from parsers.http_heads import (
    CHUNKED,
    MAX_CACHED_HEAD_BYTES,
    MAX_LINE_BYTES,
    OK,
    REQUEST_LINE,
    STATUS_LINE,
    TARGET,
    TOKEN,
    UNCLEAR,
    UNTIL_CLOSE,
    RequestHead,
    ResponseHead,
    pass_empty_lines,
    read_request,
    read_response,
    recall,
    request_heads,
    response_heads,
)
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

MAX_TRAILERS: Final = 512
MAX_CHUNK_LINE_BYTES: Final = 4096
PROBE_URL_BYTES: Final = 1024
MAX_OUTLINES: Final = 4096

REQUEST_LINE_START: Final = re.compile(rb"%b{1,32}(?: %b*(?: ([HTP/1.0]*))?)?" % (TOKEN, TARGET))
VERSIONS: Final = (b"HTTP/1.1", b"HTTP/1.0")
STATUS_EXAMPLE: Final = b"HTTP/1.1 200"
CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)

SWITCHING_PROTOCOLS: Final = 101
REQUEST: Final = Kind.REQUEST


@dataclass(slots=True)
class HttpRequest(Message):
    """A request."""

    kind: ClassVar[Kind] = Kind.REQUEST
    head: RequestHead


@dataclass(slots=True)
class HttpResponse(Message):
    """A response, interim ones among them."""

    kind: ClassVar[Kind] = Kind.RESPONSE
    head: ResponseHead


_outlines: dict[object, Outline] = {}
"""By request head and everything else they depend on: exchanges that mean the same share one."""


class Http1Parser:
    """HTTP/1.x on one connection."""

    name: ClassVar[str] = "http"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP, Transport.UNIX})
    ports: ClassVar[frozenset[int]] = frozenset({80, 8080})
    whole: ClassVar[bool] = False

    __slots__ = ("_chunked_request", "_chunked_response", "_methods", "_redact")

    def __init__(self, options: Options) -> None:
        self._redact = options.redact
        self._methods = KNOWN_METHODS if options.http_methods is None else options.http_methods
        self._chunked_request: Message | None = None
        """The message whose chunks are being read, while it is open."""
        self._chunked_response: Message | None = None

    @staticmethod
    def probe(head: bytes, kind: Kind) -> Likeness:
        """Certain once the first line is there; likely while it can still become one."""
        request = kind is REQUEST
        line, ended, _ = (head.lstrip(b"\r\n") if request else head).partition(b"\n")
        line = line.removesuffix(b"\r")
        whole = (REQUEST_LINE if request else STATUS_LINE).fullmatch(line)
        if ended:
            return Likeness.CERTAIN if whole else Likeness.NO
        if whole:
            return Likeness.LIKELY
        if not line:
            return Likeness.SHORT
        if not request:
            rest = STATUS_EXAMPLE[len(line) :]
            return Likeness.SHORT if rest and STATUS_LINE.fullmatch(line + rest) else Likeness.NO
        start = REQUEST_LINE_START.fullmatch(line)
        if start is None or not any(each.startswith(start[1] or b"") for each in VERSIONS):
            return Likeness.NO
        # Nothing but a long URL fills the space between a method and its version.
        return Likeness.LIKELY if len(line) >= PROBE_URL_BYTES else Likeness.SHORT

    def parse(self, reader: Reader, kind: Kind, request: Message | None) -> Message | None:
        """A head with its body skipped, or the next chunk of a body."""
        message: HttpRequest | HttpResponse
        if kind is REQUEST:
            chunked = self._chunked_request
            if chunked is not None and chunked.open:
                _read_chunk(reader, chunked)
                return None
            if reader.data[reader.position] in b"\r\n":
                pass_empty_lines(reader)
                return None
            asked = recall(request_heads, reader) or read_request(reader)
            message = HttpRequest(asked)
            length = asked.length
        else:
            chunked = self._chunked_response
            if chunked is not None and chunked.open:
                _read_chunk(reader, chunked)
                return None
            answer = recall(response_heads, reader) or read_response(reader)
            message = HttpResponse(answer)
            length = answer.length
            if answer.status < OK:
                if answer.status == SWITCHING_PROTOCOLS:
                    message.switches_to = answer.fields.get("upgrade", "unknown").lower()
                else:
                    message.interim = True
            elif isinstance(request, HttpRequest) and request.head.frames:
                if request.head.method == "HEAD":
                    length = 0
                elif answer.status < OK + 100:
                    message.switches_to = "tunnel"
                    length = 0
        if reader.lost:
            message.truncated = True
        elif length > 0:
            reader.skip(length)
        elif length == CHUNKED:
            message.open = True
            if kind is REQUEST:
                self._chunked_request = message
            else:
                self._chunked_response = message
        elif length == UNTIL_CLOSE:
            reader.skip_to_close()
        elif length == UNCLEAR:
            reader.lose()
        return message

    def outline(self, exchange: Exchange, side: Side, server: Endpoint) -> Outline:
        """HTTP client or server span, by the conventions."""
        request = exchange.request
        response = exchange.response
        assert isinstance(request, HttpRequest)
        head = request.head
        status = response.head.status if isinstance(response, HttpResponse) else 0
        key = (head, status, exchange.error_type, side, server, self._redact, self._methods)
        outline = _outlines.get(key)
        if outline is None:
            viewed = View(side, server, self._redact, self._methods)
            outline = describe(head, status, exchange.error_type, viewed)
            if len(head.target) <= MAX_CACHED_HEAD_BYTES:
                if len(_outlines) >= MAX_OUTLINES:
                    _outlines.clear()
                _outlines[key] = outline
        return outline


def _read_chunk(reader: Reader, message: Message) -> None:
    """One chunk, or the last with the trailers behind it (RFC 9112 section 7.1)."""
    start = reader.position
    line = reader.line(MAX_CHUNK_LINE_BYTES)
    match = CHUNK_SIZE.fullmatch(line)
    if match is None:
        raise ParseError(f"chunk size {line[:32]!r}")
    if reader.marking:
        # The semicolon stays: without it a replay would refuse the size.
        extension = line.find(b";") + 1
        if extension:
            reader.omit(start + extension, start + len(line))
    size = int(match[1], 16)
    if size:
        # The CRLF behind the data is skipped with it.
        reader.skip(size + 2)
        return
    for _ in range(MAX_TRAILERS):
        start = reader.position
        line = reader.line(MAX_LINE_BYTES)
        if not line:
            message.open = False
            return
        if reader.marking:
            reader.omit(start, start + len(line))
    raise ParseError(f"more than {MAX_TRAILERS} trailers")
