# SPDX-License-Identifier: Apache-2.0
r"""HTTP/1.0 and HTTP/1.1: messages, and how long their bodies are.

Spec: RFC 9110, RFC 9112; OTel: HTTP spans 1.44.0 (parsers/http_attributes.py).

Bodies are skipped, not read: their length comes from the head (RFC 9112 section 6.3),
with the method of the request that is answered (HEAD, CONNECT). Only chunk sizes and
trailers are read on the way; and bodies of gRPC-Web, which end with the status of the call
(parsers/grpc_web.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar, Final

from parsers.grpc_calls import Call, describe_call, find_status, is_grpc_web_text
from parsers.grpc_web import MAX_UNIT_BYTES, WebBody
from parsers.http_attributes import ABSOLUTE_FORM, KNOWN_METHODS, View, describe
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
from parsers.reader import UNTIL_CLOSE as ENDLESS
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
    body: WebBody | None = field(default=None, init=False)
    """Where it is read: that of gRPC-Web."""


@dataclass(slots=True)
class WebRequest(HttpRequest):
    """A call of gRPC-Web."""

    protocol: ClassVar[str] = "grpc"


@dataclass(slots=True)
class HttpResponse(Message):
    """A response, interim ones among them."""

    kind: ClassVar[Kind] = Kind.RESPONSE
    head: ResponseHead
    body: WebBody | None = field(default=None, init=False)


_outlines: dict[object, Outline] = {}
"""By request head and everything else they depend on: exchanges that mean the same share one."""


class Http1Parser:
    """HTTP/1.x on one connection."""

    name: ClassVar[str] = "http"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP, Transport.UNIX})
    ports: ClassVar[frozenset[int]] = frozenset({80, 8080})
    whole: ClassVar[bool] = False
    refinements: ClassVar[frozenset[str]] = frozenset({"grpc"})

    __slots__ = ("_methods", "_open_request", "_open_response", "_redact", "_scheme")

    def __init__(self, options: Options) -> None:
        self._redact = options.redact
        self._scheme = "https" if options.encrypted else "http"
        self._methods = KNOWN_METHODS if options.http_methods is None else options.http_methods
        self._open_request: HttpRequest | None = None
        """The message whose body is being read, while it is open."""
        self._open_response: HttpResponse | None = None

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
        under_way: HttpRequest | HttpResponse | None
        if kind is REQUEST:
            under_way = self._open_request
            if under_way is not None and under_way.open:
                _read_on(reader, under_way)
                return None
            if reader.data[reader.position] in b"\r\n":
                pass_empty_lines(reader)
                return None
            asked = recall(request_heads, reader) or read_request(reader)
            message = WebRequest(asked) if asked.web else HttpRequest(asked)
            length = asked.length
        else:
            under_way = self._open_response
            if under_way is not None and under_way.open:
                _read_on(reader, under_way)
                return None
            answer = recall(response_heads, reader) or read_response(reader)
            message = HttpResponse(answer)
            length = answer.length
            if answer.status < OK:
                if answer.status == SWITCHING_PROTOCOLS:
                    message.switches_to = answer.fields.get("upgrade", "unknown").lower()
                    if message.switches_to == "h2c":
                        # The answer comes on stream 1 (RFC 7540 section 3.2).
                        message.switches_to = "http2"
                        message.interim = True
                        message.correlation_id = 1
                else:
                    message.interim = True
            elif isinstance(request, HttpRequest) and request.head.frames:
                if request.head.method == "HEAD":
                    length = 0
                elif answer.status < OK + 100:
                    # What a tunnel carries is TLS, or not for us: its parser finds out.
                    message.switches_to = "tls"
                    length = 0
        if reader.lost:
            message.truncated = True
        elif message.head.web and length not in {0, UNCLEAR} and _is_plain(message.head):
            self._begin_body(reader, message, length)
        elif length > 0:
            reader.skip(length)
        elif length == CHUNKED:
            self._hold(message)
        elif length == UNTIL_CLOSE:
            reader.skip_to_close()
        elif length == UNCLEAR:
            reader.lose()
        return message

    def _hold(self, message: HttpRequest | HttpResponse) -> None:
        """More of it is to be read."""
        message.open = True
        if isinstance(message, HttpRequest):
            self._open_request = message
        else:
            self._open_response = message

    def _begin_body(self, reader: Reader, message: HttpRequest | HttpResponse, length: int) -> None:
        """Read a body in which messages are counted and a status is looked for."""
        self._hold(message)
        message.body = body = WebBody(text=is_grpc_web_text(message.head.web))
        if length != CHUNKED:
            body.left = length if length > 0 else ENDLESS
            _read_body(reader, message, body)

    def outline(self, exchange: Exchange, side: Side, server: Endpoint) -> Outline:
        """HTTP client or server span, by the conventions."""
        request = exchange.request
        response = exchange.response
        assert isinstance(request, HttpRequest)
        head = request.head
        if head.web:
            return _describe_call(exchange, head, side, server)
        status = response.head.status if isinstance(response, HttpResponse) else 0
        error = exchange.error_type
        key = (head, status, error, side, server, self._redact, self._methods, self._scheme)
        outline = _outlines.get(key)
        if outline is None:
            viewed = View(side, server, self._redact, self._methods, self._scheme)
            outline = describe(head, status, error, viewed)
            if len(head.target) <= MAX_CACHED_HEAD_BYTES:
                if len(_outlines) >= MAX_OUTLINES:
                    _outlines.clear()
                _outlines[key] = outline
        return outline


def _is_plain(head: RequestHead | ResponseHead) -> bool:
    """A body can be read as it is, and is worth it: it has no coding, and its status is inside."""
    fields = head.fields
    coding = fields.get("content-encoding", "identity").lower()
    return coding == "identity" and not ("grpc-status" in fields and isinstance(head, ResponseHead))


def _read_on(reader: Reader, message: HttpRequest | HttpResponse) -> None:
    """More of a body."""
    body = message.body
    if body is None or not body.left:
        _read_chunk(reader, message)
    elif not _read_body(reader, message, body):
        reader.wait(MAX_UNIT_BYTES)


def _read_body(reader: Reader, message: HttpRequest | HttpResponse, body: WebBody) -> int:
    """More of a body, or of a chunk of it, that is not skipped; returns how much."""
    size = body.read(reader, body.left)
    body.left -= size
    if not body.left:
        if message.head.length == CHUNKED:
            reader.skip(2)
        else:
            _end_body(message)
    return size


def _end_body(message: HttpRequest | HttpResponse) -> None:
    message.open = False
    if message.body is not None:
        message.count = message.body.count
        message.gap = message.gap or message.body.missed


def _describe_call(exchange: Exchange, head: RequestHead, side: Side, server: Endpoint) -> Outline:
    """The outline of a call of gRPC-Web."""
    path = head.target
    absolute = None if path.startswith("/") else ABSOLUTE_FORM.fullmatch(path)
    if absolute is not None:
        path = absolute[3]
    fields = head.fields
    call = Call(path, fields.get("host", ""), fields.get("grpc-timeout", ""), head.version)
    grpc_status = ""
    http_status = seen = 0
    response = exchange.response
    if isinstance(response, HttpResponse):
        http_status = response.head.status
        grpc_status = response.head.fields.get("grpc-status", "")
        body = response.body
        if body is not None:
            grpc_status = grpc_status or body.status
            # Only of what was seen to its end can be said that it has no status.
            seen = http_status if response.count >= 0 else 0
        elif not (response.head.web and response.head.length) and not response.truncated:
            seen = http_status
    status = find_status(grpc_status, seen, None)
    return describe_call(call, status, exchange.error_type, side, server, http_status)


def _read_chunk(reader: Reader, message: HttpRequest | HttpResponse) -> None:
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
        if message.body is not None:
            message.body.left = size
            _read_body(reader, message, message.body)
        else:
            # The CRLF behind the data is skipped with it.
            reader.skip(size + 2)
        return
    for _ in range(MAX_TRAILERS):
        start = reader.position
        line = reader.line(MAX_LINE_BYTES)
        if not line:
            _end_body(message)
            return
        if reader.marking:
            reader.omit(start, start + len(line))
    raise ParseError(f"more than {MAX_TRAILERS} trailers")
