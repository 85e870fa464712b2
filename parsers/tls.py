# SPDX-License-Identifier: Apache-2.0
"""TLS: the part of the handshake that is in clear.

Spec: RFC 8446 (TLS 1.3), RFC 5246 (TLS 1.2), RFC 6066 section 3 (server name), RFC 7301 (ALPN).
OTel: https://opentelemetry.io/docs/specs/semconv/registry/attributes/tls/ (1.44.0).

A ClientHello is the request, the ServerHello the response; then the connection goes on with what
nobody can read, and is given up as `encrypted`. Where each version hides what follows:

* In TLS 1.3 nearly all behind the ServerHello is encrypted. The handshake is over with the client's
  first record that is. Alerts before it are in clear with some clients (OpenSSL), and of those that
  are not the length tells: no other message of a handshake is as short. A HelloRetryRequest says
  version and suite as the ServerHello will, and is taken for it.
* Up to TLS 1.2 the response goes on to the server's ChangeCipherSpec, so that an alert of either
  side until then is the error of the exchange: a certificate that is refused. Whether a session was
  resumed shows by what follows the ServerHello: its end, or a certificate (RFC 5246 section 7.3,
  RFC 5077 section 3.1).
* The first bytes may be any record where the connection is older than the tracer: then it is
  encrypted, and there is no exchange.

Both messages have the one id there is, so that either can end the exchange.
SSL 2.0, DTLS and QUIC are not read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final

from parsers.cache import Cache
from parsers.model import (
    AttributeValue,
    Endpoint,
    Exchange,
    Kind,
    Message,
    Options,
    Outline,
    Side,
    Transport,
)
from parsers.reader import Reader
from parsers.tls_names import CLOSE_NOTIFY, TLS_1_2, VERSIONS, alert_name, suite_name
from parsers.tls_probe import probe
from parsers.tls_wire import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    CLIENT_HELLO,
    HANDSHAKE,
    HEADER_BYTES,
    SERVER_HELLO,
    ClientHello,
    ServerHello,
    is_header,
    is_hello,
    protocol_names,
    read_client_hello,
    read_header,
    read_server_hello,
    server_name,
)

ENCRYPTED: Final = "encrypted"
"""What a connection speaks behind the handshake, as far as its socket shows."""
UNKNOWN: Final = "unknown"
"""What it speaks if it was to go on with TLS and does not."""
HANDSHAKE_ID: Final = 0
NEW_SESSION_TICKET: Final = 4
FATAL: Final = 2
SEALED_ALERT_BYTES: Final = 19
"""An alert, the type of its contents, and what AEAD adds (RFC 8446 section 5.2)."""
SEALED_ALERT: Final = "encrypted_alert"
KEPT_BYTES: Final = 4
"""Of a record that is passed over: a recording that has them is recognised again."""

_outlines: Cache[tuple[object, ...], Outline] = Cache()
"""By everything they depend on: handshakes that mean the same share one."""


@dataclass(slots=True)
class TlsRequest(Message):
    """A ClientHello."""

    kind: ClassVar[Kind] = Kind.REQUEST
    hello: ClientHello | None
    alert: str = field(default="", init=False)
    """Why the client has given the handshake up."""


@dataclass(slots=True)
class TlsResponse(Message):
    """A ServerHello and what follows it in clear, or an alert in its place."""

    kind: ClassVar[Kind] = Kind.RESPONSE
    hello: ServerHello | None
    resumed: bool | None = field(default=None, init=False)
    """Whether it goes on with an earlier session; None if that does not show."""
    alert: str = field(default="", init=False)
    """Why the server has given the handshake up."""

    @property
    def is_newest(self) -> bool:
        """It is of TLS 1.3 or newer, which encrypts what follows."""
        return self.hello is not None and self.hello.version > TLS_1_2


class TlsParser:
    """TLS on one connection."""

    name: ClassVar[str] = "tls"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP, Transport.UNIX})
    ports: ClassVar[frozenset[int]] = frozenset({443, 8443})
    whole: ClassVar[bool] = True

    __slots__ = ("_asked", "_begun", "_broken", "_early_data", "_over", "_reply")

    def __init__(self, options: Options) -> None:
        self._begun = False
        """Something of it was TLS."""
        self._asked: TlsRequest | None = None
        self._reply: TlsResponse | None = None
        self._over = False
        """Of the handshake nothing more can be read."""
        self._early_data = False
        """The client has sent something encrypted before it had an answer."""
        self._broken = False
        """Bytes were lost."""

    probe = staticmethod(probe)

    def parse(self, reader: Reader, kind: Kind, request: Message | None) -> Message | None:
        """A hello, an alert, or a record that follows or is passed over."""
        if not self._begun:
            data = reader.data
            at = reader.position
            if not is_header(*data[at : at + 3].ljust(3, b"\3")):
                # Nothing but the protocol before it has said that this would be TLS.
                return _leave(reader, kind, UNKNOWN)
        if reader.resumed:
            self._broken = True
        if self._over:
            return _leave(reader, kind, ENCRYPTED)
        asks = kind is Kind.REQUEST
        message = self._parse_request(reader) if asks else self._parse_response(reader)
        self._begun = True
        return message

    def outline(self, exchange: Exchange, side: Side, server: Endpoint) -> Outline:
        """One for all handshakes of the same facts."""
        request = exchange.request
        reply = exchange.response
        assert isinstance(request, TlsRequest)
        answer, resumed, alert = None, None, request.alert
        if isinstance(reply, TlsResponse):
            answer, resumed, alert = reply.hello, reply.resumed, reply.alert or alert
        key = (request.hello, answer, resumed, alert or exchange.error_type, server)
        outline = _outlines.get(key)
        if outline is None:
            outline = _describe(request.hello, answer, resumed, key[3], server)
            size = 1000 + 2 * sum(map(len, request.hello or ()))
            _outlines.keep(key, outline, size)
        return outline

    # -- the client -------------------------------------------------------------------

    def _parse_request(self, reader: Reader) -> Message | None:
        request = self._asked
        if request is not None:
            return self._follow(reader, request)
        if not is_hello(reader.data, reader.position, CLIENT_HELLO):
            return _leave(reader, Kind.REQUEST, ENCRYPTED)
        hello, whole = read_client_hello(reader)
        request = TlsRequest(hello)
        request.correlation_id = HANDSHAKE_ID
        if not whole:
            request.truncated = True
            reader.lose()
        self._asked = request
        return request

    def _follow(self, reader: Reader, request: TlsRequest) -> TlsRequest | None:
        """What the client sends behind its hello: part of the request where it ends it."""
        kind, length = read_header(reader)
        if kind == ALERT and length == 2:
            alert = _read_alert(reader)
            if not alert:
                return None
            request.alert = alert
        else:
            _pass_over(reader, length)
            if kind != APPLICATION_DATA:
                return None
            reply = self._reply
            if reply is None or not reply.is_newest:
                self._early_data = True
                return None
            if length == SEALED_ALERT_BYTES and not self._early_data and not self._broken:
                request.alert = SEALED_ALERT
        self._end(request)
        return request

    def _end(self, message: TlsRequest | TlsResponse) -> None:
        """The handshake is over with this message."""
        message.ends = True
        message.open = False
        self._over = True

    # -- the server -------------------------------------------------------------------

    def _parse_response(self, reader: Reader) -> Message | None:
        reply = self._reply
        if reply is not None:
            return self._read_on(reader, reply)
        if not is_hello(reader.data, reader.position, SERVER_HELLO):
            return self._refuse(reader)
        hello, rest = read_server_hello(reader)
        reply = TlsResponse(hello)
        reply.correlation_id = HANDSHAKE_ID
        reply.open = True
        if reply.is_newest:
            reply.resumed = hello.resumed
        elif rest:
            reply.resumed = reader.u8() == NEW_SESSION_TICKET
            rest -= 1
        reader.skip(rest)
        self._reply = reply
        return reply

    def _refuse(self, reader: Reader) -> Message | None:
        """An alert in place of the ServerHello; any other record means that it was missed."""
        start = reader.position
        kind, length = read_header(reader)
        if kind != ALERT or length != 2:
            reader.position = start
            return _leave(reader, Kind.RESPONSE, ENCRYPTED)
        alert = _read_alert(reader)
        if not alert:
            # A warning: the ServerHello follows.
            return None
        reply = TlsResponse(None)
        reply.correlation_id = HANDSHAKE_ID
        reply.alert = alert
        self._end(reply)
        return reply

    def _read_on(self, reader: Reader, reply: TlsResponse) -> TlsResponse | None:
        """What the server sends behind its hello: part of the response if it is in clear."""
        if reply.is_newest and is_hello(reader.data, reader.position, SERVER_HELLO):
            # The one that follows a HelloRetryRequest.
            hello, rest = read_server_hello(reader)
            reader.skip(rest)
            reply.resumed = hello.resumed
            return None
        kind, length = read_header(reader)
        if kind == ALERT and length == 2:
            alert = _read_alert(reader)
            if alert:
                reply.alert = alert
                self._end(reply)
            return reply
        if reply.is_newest:
            _pass_over(reader, length)
            return None
        if reply.resumed is None and not self._broken:
            if kind == CHANGE_CIPHER_SPEC:
                reply.resumed = True
            elif kind == HANDSHAKE and length:
                reply.resumed = reader.u8() == NEW_SESSION_TICKET
                length -= 1
        _pass_over(reader, length)
        if kind != HANDSHAKE:
            reply.open = False
            self._over = True
        return reply


def _read_alert(reader: Reader) -> str:
    """The name of an alert that ends the handshake; empty for one that does not."""
    level = reader.u8()
    number = reader.u8()
    return alert_name(number) if level == FATAL or number == CLOSE_NOTIFY else ""


def _leave(reader: Reader, kind: Kind, name: str) -> Message:
    """A message that is none: from here on the connection speaks `name`."""
    if name == ENCRYPTED:
        _, length = read_header(reader)
        _pass_over_last(reader, length)
    else:
        reader.skip(reader.available)
    message: Message = TlsRequest(None) if kind is Kind.REQUEST else TlsResponse(None)
    message.interim = True
    message.switches_to = name
    return message


def _pass_over(reader: Reader, length: int) -> None:
    """Pass over the contents of a record, but for the first bytes."""
    kept = min(length, KEPT_BYTES, reader.available)
    reader.take(kept)
    reader.skip(length - kept)


def _pass_over_last(reader: Reader, length: int) -> None:
    """The same of the last record that is read, with the header behind it if that is here."""
    stop = reader.position + length
    _pass_over(reader, length)
    if stop + HEADER_BYTES <= reader.end:
        reader.take(HEADER_BYTES)


def _describe(
    asked: ClientHello | None,
    answer: ServerHello | None,
    resumed: bool | None,
    error_type: str | None,
    server: Endpoint,
) -> Outline:
    attributes: dict[str, AttributeValue] = {}
    name = server_name(asked.server_name) if asked is not None else ""
    offered = protocol_names(asked.offered) if asked is not None else ()
    if name:
        attributes["tls.client.server_name"] = name
    protocol, version = VERSIONS.get(answer.version if answer is not None else 0, ("tls", ""))
    attributes["tls.protocol.name"] = protocol
    if version:
        attributes["tls.protocol.version"] = version
    if answer is not None:
        attributes["tls.cipher"] = suite_name(answer.suite)
        chosen = protocol_names(answer.protocol)
        if chosen:
            attributes["tls.next_protocol"] = chosen[0].lower()
    if resumed is not None:
        attributes["tls.resumed"] = resumed
    if offered:
        attributes["wirespan.tls.offered_protocols"] = offered
    if name or server.address:
        attributes["server.address"] = name or server.address
    if server.port:
        attributes["server.port"] = server.port
    return Outline("TLS handshake", attributes, error_type)
