# SPDX-License-Identifier: Apache-2.0
"""DNS, over UDP and over TCP; mDNS and LLMNR, which have the same messages.

Spec: RFC 1035; 7766 (TCP), 5452 section 9 (what an answer must repeat), 5936 and 1995 (zone
transfers), 6762 (mDNS), 4795 (LLMNR). OTel: the attributes `dns.question.name` and
`dns.answers` of semantic conventions 1.44.0, which have no spans for DNS; the rest is ours.

A message is known by its id and its question: an id alone has 16 bits, and one socket asks for
A and AAAA at once. Where an answer has no question, as some errors do, its id must do.

The span's name has the question's type and not its name: there are as many names as hosts, and
crawlers and mail filters ask for more than anybody could group by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from parsers.cache import Cache
from parsers.dns_numbers import CLASSES as CLASS_NAMES
from parsers.dns_numbers import TYPES, code_name, error_of
from parsers.dns_wire import (
    AXFR,
    CLASSES,
    HEADER,
    IXFR,
    MAX_CODE,
    OPCODES,
    QUERY,
    RESERVED_BIT,
    RESPONSE_BIT,
    TOP_BIT,
    Content,
    ShortError,
    decode,
    looks_like_netbios,
)
from parsers.model import (
    AttributeValue,
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

LENGTH_BYTES: Final = 2
"""In front of each message on TCP."""
MAX_ASKED: Final = 1024
"""Questions of one socket that are remembered for answers that do not repeat them."""
MAX_TRANSFERS: Final = 16
"""Zone transfers at once on one connection; of more, the oldest looks answered by its next
message."""
MAX_PROBED: Final = 8
"""Messages at the start of a connection that are looked at to find out whether they are any."""
MAX_CACHED_BYTES: Final = 512
"""Larger messages repeat themselves less."""
OUTLINE_BYTES: Final = 1024
"""What an outline takes, about."""
ADDRESS_BYTES: Final = 100
"""What an address in it takes, about."""
IN: Final = 1
TRANSFERS: Final = frozenset({AXFR, IXFR})
"""What is asked for a zone, whose addresses are no answers."""

REQUEST: Final = Kind.REQUEST
RESPONSE: Final = Kind.RESPONSE


@dataclass(slots=True)
class DnsQuery(Message):
    """A question, or anything else that is asked."""

    kind: ClassVar[Kind] = Kind.REQUEST
    content: Content


@dataclass(slots=True)
class DnsResponse(Message):
    """An answer."""

    kind: ClassVar[Kind] = Kind.RESPONSE
    content: Content


class Transfer:
    """A zone transfer: many messages answer one question."""

    __slots__ = ("differs", "message", "seen", "serial")

    def __init__(self) -> None:
        self.message: DnsQuery | DnsResponse | None = None
        self.serial = -1
        self.seen = 0
        """How often that serial number came."""
        self.differs = False
        """Older ones came: these are changes and not a zone."""

    def ends(self, content: Content) -> bool:
        """Whether `content` is the last message: the first record is also the last.

        Changes begin with it too (RFC 1995 section 4), and one alone says there are none.
        """
        first = self.serial < 0
        for serial in content.serials:
            if self.serial < 0:
                self.serial = serial
            self.seen += serial == self.serial
            self.differs |= serial != self.serial
        if content.code or not self.seen:
            return True
        if first and content.answers == 1 and content.type == IXFR:
            return True
        return self.seen > 1 + self.differs


_contents: Cache[bytes, Content] = Cache()
"""By all bytes of a message but its id."""
_outlines: Cache[object, Outline] = Cache()


class _Dns:
    """What both parsers do."""

    name: ClassVar[str] = "dns"
    whole: ClassVar[bool] = False
    _transport: ClassVar[str | None] = None
    """`network.transport`, where the connection does not say it."""

    __slots__ = ("_asked",)

    def __init__(self, options: Options) -> None:
        self._asked: dict[int, tuple[str, int, int]] | None = None
        """The latest question by id."""

    def _message(self, data: bytes, content: Content, kind: Kind) -> DnsQuery | DnsResponse:
        number = data[0] << 8 | data[1]
        key = content.key
        message: DnsQuery | DnsResponse
        if kind is REQUEST:
            message = DnsQuery(content)
            if key is not None:
                if self._asked is None or len(self._asked) >= MAX_ASKED:
                    self._asked = {}
                self._asked[number] = key
        else:
            message = DnsResponse(content)
            if not content.questions and number and self._asked:
                key = self._asked.get(number, key)
        message.correlation_id = number, key
        message.truncated = content.cut
        return message

    def outline(self, exchange: Exchange, side: Side, server: Endpoint) -> Outline:
        """What was asked for, and what came of it."""
        request, response = exchange.request, exchange.response
        assert isinstance(request, DnsQuery)
        query = request.content
        code = -1
        addresses: tuple[str, ...] = ()
        truncated = False
        if response is not None:
            assert isinstance(response, DnsResponse)
            answer = response.content
            code, truncated = answer.code, answer.is_truncated
            if query.opcode == QUERY and query.type not in TRANSFERS:
                addresses = answer.addresses
        key = (
            query.name, query.type, query.klass, query.opcode, query.questions, code, addresses,
            truncated, side, server, exchange.error_type, self._transport,
        )  # fmt: skip
        outline = _outlines.get(key)
        if outline is not None:
            return outline
        attributes: dict[str, AttributeValue] = {}
        if query.name:
            attributes["dns.question.name"] = query.name
        if addresses:
            attributes["dns.answers"] = addresses
        attributes.update(_details(query, code, truncated=truncated))
        if server.address:
            attributes["server.address"] = server.address
            if server.port:
                attributes["server.port"] = server.port
        if self._transport is not None:
            attributes["network.transport"] = self._transport
        error = exchange.error_type
        if error is None and code >= 0:
            error = error_of(code, serves=side is Side.SERVER)
        counts = ("", "wirespan.dns.response.records") if query.type in TRANSFERS else ("", "")
        made = Outline(_name(query), attributes, error, counts=counts)
        return _outlines.keep(key, made, OUTLINE_BYTES + ADDRESS_BYTES * len(addresses))


class DnsParser(_Dns):
    """DNS on one UDP socket: one datagram is one message."""

    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.UDP})
    ports: ClassVar[frozenset[int]] = frozenset({53, 5353, 5355})

    __slots__ = ()

    @staticmethod
    def probe(head: bytes, kind: Kind) -> Likeness:
        """Certain if all of it is a message with a question or a record; there is no more."""
        return _likeness(head, kind)

    def parse(self, reader: Reader, kind: Kind, request: Message | None) -> Message | None:
        """The datagram."""
        data = reader.data
        if reader.end < HEADER.size or (data[2] >= 0x80) is (kind is REQUEST):
            raise ParseError("no message of this kind")
        if reader.marking or reader.cut:
            content = decode(data, reader.omit if reader.marking else None, cut=reader.cut)
            if reader.marking and content.end < reader.end:
                reader.omit(content.end, reader.end)
        else:
            content = _recalled(data)
        reader.position = reader.end
        return self._message(data, content, kind)


class DnsTcpParser(_Dns):
    """DNS on one TCP connection: a length comes before each message."""

    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP})
    ports: ClassVar[frozenset[int]] = frozenset({53})
    whole: ClassVar[bool] = True
    _transport: ClassVar[str | None] = "tcp"

    __slots__ = ("_transfers",)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._transfers: dict[int, Transfer] = {}
        """By id; an answer's later messages need not have a question."""

    @staticmethod
    def probe(head: bytes, kind: Kind) -> Likeness:
        """Certain if the length leads exactly behind a message, and so do those that follow."""
        best = Likeness.SHORT
        position = 0
        for _ in range(MAX_PROBED):
            data = head[position + LENGTH_BYTES :]
            if not data:
                break
            size = head[position] << 8 | head[position + 1]
            if size < HEADER.size:
                return Likeness.NO
            likeness = _likeness(data[:size], kind, size - len(data))
            if likeness is Likeness.NO:
                return Likeness.NO
            best = max(best, likeness)
            position += LENGTH_BYTES + size
        return best

    def parse(self, reader: Reader, kind: Kind, request: Message | None) -> Message | None:
        """One message."""
        size = reader.u16()
        if size < HEADER.size:
            raise ParseError(f"a message of {size} bytes")
        base = reader.position
        missing = max(size - reader.available, 0) if reader.cut else 0
        data = reader.take(size - missing)
        if len(data) < HEADER.size:
            reader.skip(missing)
            return None
        if (data[2] >= 0x80) is (kind is REQUEST):
            raise ParseError("no message of this kind")
        if data[2] >> 3 & 15 not in OPCODES:
            # DNS Stateful Operations, for one: of this length, and of another format.
            reader.position = base
            reader.skip(size)
            return None
        try:
            content = self._content(reader, data, base, missing)
        except ShortError:
            if not missing:
                raise
            reader.position = base
            reader.skip(size)
            return None
        if missing:
            reader.skip(missing)
        return self._next(data, content, kind)

    @staticmethod
    def _content(reader: Reader, data: bytes, base: int, missing: int) -> Content:
        if not reader.marking:
            return decode(data, cut=True) if missing else _recalled(data)
        content = decode(
            data, lambda start, stop: reader.omit(base + start, base + stop), cut=missing > 0
        )
        if content.end < len(data):
            reader.omit(base + content.end, base + len(data))
        return content

    def _next(self, data: bytes, content: Content, kind: Kind) -> Message:
        """The message that these bytes are, or that they are another part of."""
        transfers = self._transfers
        number = data[0] << 8 | data[1]
        if kind is REQUEST:
            transfers.pop(number, None)
            if content.type in TRANSFERS:
                if len(transfers) >= MAX_TRANSFERS:
                    del transfers[next(iter(transfers))]
                transfers[number] = Transfer()
            return self._message(data, content, kind)
        transfer = transfers.get(number)
        if transfer is None:
            return self._message(data, content, kind)
        message = transfer.message
        if message is None:
            transfer.message = message = self._message(data, content, kind)
            message.count = 0
        elif not message.open:
            # The rest of it was lost, and what comes now is nobody's.
            del transfers[number]
            return self._message(data, content, kind)
        message.count += content.answers
        message.open = not transfer.ends(content)
        if not message.open:
            del transfers[number]
        return message


def _recalled(data: bytes) -> Content:
    """What a message says, from memory if it said it before."""
    known = data[2:]
    content = _contents.get(known)
    if content is None:
        content = decode(data)
        if len(data) <= MAX_CACHED_BYTES:
            _contents.keep(known, content, 2 * len(data) + 512)
    return content


def _likeness(data: bytes, kind: Kind, missing: int = 0) -> Likeness:
    """How much these bytes, `missing` less than they say, look like a message."""
    if len(data) < HEADER.size:
        if missing <= 0:
            return Likeness.NO
        wrong = len(data) > 2 and (data[2] >= 0x80) is (kind is REQUEST)
        return Likeness.NO if wrong else Likeness.SHORT
    _, flags, questions, answers, authorities, additions = HEADER.unpack_from(data)
    if bool(flags & RESPONSE_BIT) is (kind is REQUEST) or flags & RESERVED_BIT:
        return Likeness.NO
    if flags & 15 > (0 if kind is REQUEST else MAX_CODE):
        return Likeness.NO
    # The shortest question has 5 bytes, the shortest record 11.
    least = HEADER.size + 5 * questions + 11 * (answers + authorities + additions)
    if least > len(data) + max(missing, 0):
        return Likeness.NO
    try:
        content = decode(data, cut=True) if missing > 0 else _recalled(data)
    except ShortError:
        return Likeness.SHORT if missing > 0 else Likeness.NO
    except ParseError:
        return Likeness.NO
    if content.end < len(data) or (questions and content.klass & ~TOP_BIT not in CLASSES):
        return Likeness.NO
    if looks_like_netbios(content):
        return Likeness.NO
    if missing > 0:
        return Likeness.LIKELY if questions else Likeness.SHORT
    # A header alone is a few bytes of which most are zero.
    return Likeness.CERTAIN if questions or answers else Likeness.LIKELY


def _name(query: Content) -> str:
    kind = TYPES.get(query.type, "") if query.opcode == QUERY else OPCODES[query.opcode]
    return f"DNS {kind}" if kind else "DNS"


def _details(query: Content, code: int, *, truncated: bool) -> dict[str, AttributeValue]:
    """What the conventions have no attribute for."""
    found: dict[str, AttributeValue] = {}
    if query.opcode != QUERY:
        found["wirespan.dns.opcode"] = OPCODES[query.opcode]
    if query.questions:
        found["wirespan.dns.question.type"] = TYPES.get(query.type, f"TYPE{query.type}")
        klass = query.klass & ~TOP_BIT
        if klass != IN:
            found["wirespan.dns.question.class"] = CLASS_NAMES.get(klass, f"CLASS{klass}")
    if query.questions > 1:
        found["wirespan.dns.question.count"] = query.questions
    if code >= 0:
        found["wirespan.dns.response.code"] = code_name(code)
    if truncated:
        found["wirespan.dns.response.truncated"] = True
    return found
