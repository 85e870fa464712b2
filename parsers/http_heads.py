# SPDX-License-Identifier: Apache-2.0
r"""The heads of HTTP/1.x messages.

Spec: RFC 9110 section 5, RFC 9112 sections 2 to 6.

Where real servers are more lenient than the RFC, so is this: a bare LF ends a line (nginx,
Apache, Node, Go), a line may be folded (obs-fold), empty lines may stand before a request.
A head whose length makes no sense (two lengths, a length that is no number) is reported all
the same, since its server will answer it; but what follows it is not guessed.

Heads repeat endlessly on a keep-alive connection, so a parsed head is kept by its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from parsers.grpc_calls import is_grpc_web
from parsers.http_attributes import secret_ranges
from parsers.model import Kind, ParseError
from parsers.reader import Reader

MAX_LINE_BYTES: Final = 64 * 1024
MAX_HEAD_BYTES: Final = 128 * 1024
"""Twice what the most generous common server takes (Tomcat and IIS stop at 64 KiB)."""
MAX_LENGTH_DIGITS: Final = 18
MAX_CACHED_HEADS: Final = 2048
MAX_CACHED_HEAD_BYTES: Final = 2048
TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
"""RFC 9110 section 5.6.2."""
TARGET: Final = rb"[!-~\x80-\xff]"
"""More than RFC 3986 allows, as servers do: UTF-8 as it is, for one."""
REQUEST_LINE: Final = re.compile(rb"(%b{1,32}) (%b+) HTTP/1\.([01])" % (TOKEN, TARGET))
STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [^\r\n]*)?")
READ_FIELDS: Final = frozenset(
    {
        b"content-length",
        b"forwarded",
        b"host",
        b"transfer-encoding",
        b"upgrade",
        b"user-agent",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
    }
)
"""Fields whose value is used; no other value is kept."""
WEB: Final = b"application/grpc"
WEB_FIELDS: Final = frozenset(
    {b"content-encoding", b"content-type", b"grpc-status", b"grpc-timeout", *READ_FIELDS}
)
"""Those of a head that has to do with gRPC, which few do."""
LISTS: Final = frozenset({"forwarded", "transfer-encoding", "x-forwarded-for"})
"""Those that mean the same when they are sent in several lines (RFC 9110 section 5.3)."""

FIELDS, FIELDS_WITH_WEB = (
    re.compile(
        rb"\n(" + b"|".join(sorted(names)) + rb")[ \t]*:([^\n]*(?:\n[ \t]+[^\n]*)*)",
        re.IGNORECASE,
    )
    for names in (READ_FIELDS, WEB_FIELDS)
)
"""With obs-fold (RFC 9112 section 5.2)."""
FOLD: Final = re.compile(r"[ \t\r]*\n[ \t]+")
LINE: Final = re.compile(rb"\n(?:(%b+)[ \t]*:)?([^\n]*(?:\n[ \t]+[^\n]*)*)" % TOKEN)
"""Any line but the first: the name of the field, if it is one, and everything else."""

CUT_AUTHORITY: Final = re.compile(rb"(?<=://)[^/?#\s]*$")
"""At the end of a line that was cut."""

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
UNCLEAR: Final = -3
"""The head contradicts itself: nobody knows where the next one begins."""

OK: Final = 200
BODILESS: Final = frozenset({204, 304})

REQUEST: Final = Kind.REQUEST


@dataclass(slots=True, eq=False)
class Head:
    """What a head says. Shared by all messages with the same bytes."""

    version: str
    """`1.0` or `1.1`."""
    fields: dict[str, str]
    """Values of `READ_FIELDS`, by lower-case name."""
    length: int
    """Bytes of body, or `CHUNKED`, `UNTIL_CLOSE`, `UNCLEAR`."""
    web: str = field(default="", init=False)
    """The content type, if it is one of gRPC-Web."""
    omitted: list[tuple[int, int]] | None = field(default=None, init=False, repr=False)
    """Which bytes of it must not be kept, once somebody has asked."""


@dataclass(slots=True, eq=False)
class RequestHead(Head):
    r"""``GET /path HTTP/1.1\r\n...``."""

    method: str
    target: str
    frames: bool
    """The method decides how the response is framed (HEAD, CONNECT)."""


@dataclass(slots=True, eq=False)
class ResponseHead(Head):
    r"""``HTTP/1.1 200 OK\r\n...``; the length is what it is unless the request decides."""

    status: int


AnyHead = TypeVar("AnyHead", RequestHead, ResponseHead)

request_heads: dict[bytes, RequestHead] = {}
response_heads: dict[bytes, ResponseHead] = {}
_fields: dict[bytes, tuple[dict[str, str], int]] = {}


def pass_empty_lines(reader: Reader) -> None:
    """Those before a request line, which belong to no message (RFC 9112 section 2.2)."""
    data = reader.data
    position = reader.position
    while position < reader.end and data[position] in b"\r\n":
        position += 1
    reader.position = position


def recall(heads: dict[bytes, AnyHead], reader: Reader) -> AnyHead | None:
    """The head that comes next, if one with the same bytes was parsed before."""
    data = reader.data
    start = reader.position
    stop = data.find(b"\r\n\r\n", start) + 4
    if stop < 4:
        return None
    head = heads.get(data[start:stop])
    if head is None:
        return None
    if reader.marking:
        _omit(reader, head, start, data[start:stop])
    reader.position = stop
    return head


def _remember(heads: dict[bytes, AnyHead], raw: bytes, head: AnyHead) -> None:
    """Keep `head` for the next with the same bytes, which then costs one look-up."""
    if len(raw) <= MAX_CACHED_HEAD_BYTES:
        if len(heads) >= MAX_CACHED_HEADS:
            heads.clear()
        heads[raw] = head


def read_request(reader: Reader) -> RequestHead:
    """The head of a request, whose first byte is not of an empty line."""
    start = reader.position
    raw, line = _read_lines(reader, start, REQUEST)
    fields, length = _read_fields(raw)
    if length == UNTIL_CLOSE:
        # Without a length it has no body; with an unknown coding nobody knows.
        length = UNCLEAR if "transfer-encoding" in fields else 0
    method = line[1].decode()
    target = line[2].decode("utf-8", "backslashreplace")
    frames = method in {"CONNECT", "HEAD"}
    head = RequestHead("1." + line[3].decode(), fields, length, method, target, frames)
    if method == "POST":
        head.web = _read_web(fields)
    if reader.marking:
        _omit(reader, head, start, raw)
    if not reader.lost:
        _remember(request_heads, raw, head)
    return head


def read_response(reader: Reader) -> ResponseHead:
    """The head of a response."""
    start = reader.position
    raw, line = _read_lines(reader, start, Kind.RESPONSE)
    fields, length = _read_fields(raw)
    status = int(line[2])
    if status < OK or status in BODILESS:
        length = 0
    head = ResponseHead("1." + line[1].decode(), fields, length, status)
    head.web = _read_web(fields)
    if reader.marking:
        _omit(reader, head, start, raw)
    if not reader.lost:
        _remember(response_heads, raw, head)
    return head


def _read_lines(reader: Reader, start: int, kind: Kind) -> tuple[bytes, re.Match[bytes]]:
    """The bytes of a head with the empty line that ends it, and its first line matched.

    Of a head whose end was not captured, the lines that were.
    """
    data = reader.data
    pattern = REQUEST_LINE if kind is REQUEST else STATUS_LINE
    stop = data.find(b"\n", start)
    if stop < 0:
        return _read_partial_line(reader, start, kind)
    line = data[start:stop].removesuffix(b"\r")
    match = pattern.fullmatch(line)
    if match is None:
        raise ParseError(f"first line {line[:64]!r}")
    if reader.cut and data.find(b"\n\r\n", start) < 0 and data.find(b"\n\n", start) < 0:
        _lose_rest(reader)
        return data[start : data.rfind(b"\n", start) + 1], match
    reader.position = start
    return reader.head(MAX_HEAD_BYTES), match


def _read_partial_line(reader: Reader, start: int, kind: Kind) -> tuple[bytes, re.Match[bytes]]:
    """A first line without its end: a request's method and the start of its URL can be used."""
    line = b""
    match = None
    if reader.cut and kind is REQUEST:
        # What could yet turn out to be a password is no host.
        line = CUT_AUTHORITY.sub(b"", reader.data[start:])
        match = REQUEST_LINE.fullmatch(line + b" HTTP/1.1")
    if match is None:
        reader.wait(MAX_LINE_BYTES)
    _lose_rest(reader)
    return line, match


def _lose_rest(reader: Reader) -> None:
    reader.lose()
    reader.position = reader.end


def _read_fields(raw: bytes) -> tuple[dict[str, str], int]:
    """The fields that are used, and the length of the body as far as they say it.

    Where every path is another, the lines below it still repeat: they are kept as well.
    """
    block = raw[raw.find(b"\n") :]
    known = _fields.get(block)
    if known is None:
        known = _parse_fields(block)
        if len(block) <= MAX_CACHED_HEAD_BYTES:
            if len(_fields) >= MAX_CACHED_HEADS:
                _fields.clear()
            _fields[block] = known
    return known


def _parse_fields(raw: bytes) -> tuple[dict[str, str], int]:
    """See `_read_fields`; `raw` begins with the end of the first line."""
    fields: dict[str, str] = {}
    lengths: set[str] = set()
    for match in (FIELDS_WITH_WEB if WEB in raw else FIELDS).finditer(raw):
        name = match[1].decode().lower()
        value = match[2].decode("utf-8", "backslashreplace").strip()
        if "\n" in value:
            value = FOLD.sub(" ", value)
        if name == "content-length":
            lengths.update(part.strip() for part in value.split(","))
        elif name in LISTS and name in fields:
            fields[name] += ", " + value
        else:
            fields.setdefault(name, value)
    coding = fields.get("transfer-encoding", "identity").lower()
    if coding == "identity":
        fields.pop("transfer-encoding", None)
    else:
        chunked = coding.rpartition(",")[2].strip() == "chunked"
        return fields, CHUNKED if chunked else UNTIL_CLOSE
    if not lengths:
        return fields, UNTIL_CLOSE
    text = lengths.pop()
    if lengths or not (text.isascii() and text.isdigit()) or len(text) > MAX_LENGTH_DIGITS:
        return fields, UNCLEAR
    return fields, int(text)


def _read_web(fields: dict[str, str]) -> str:
    """The content type, if it is one of gRPC-Web."""
    content_type = fields.get("content-type", "").lower()
    return content_type if is_grpc_web(content_type) else ""


def _omit(reader: Reader, head: Head, start: int, raw: bytes) -> None:
    """Tell the reader which bytes of the head `raw`, at `start`, must not be kept."""
    if head.omitted is None:
        head.omitted = list(_omitted(raw))
    for a, b in head.omitted:
        reader.omit(start + a, start + b)
    if reader.lost:
        # A line that was cut: its value may be a secret whose name is known or not.
        reader.omit(start + len(raw), reader.end)


def _omitted(raw: bytes) -> Iterator[tuple[int, int]]:
    """Of the fields keep the names, and only the values that are used."""
    yield from secret_ranges(raw.partition(b"\n")[0])
    read = WEB_FIELDS if WEB in raw else READ_FIELDS
    for match in LINE.finditer(raw):
        name = (match[1] or b"").lower()
        if name in {b"host", b"x-forwarded-host"} and b"@" in match[2]:
            # Not the `@`: without it the value would be a host.
            yield match.start(2), raw.rindex(b"@", *match.span(2))
        elif name not in read:
            start, stop = match.span(2)
            while stop > start and raw[stop - 1] in b"\r\n":
                # Without its end the line would run into the next.
                stop -= 1
            yield start, stop
