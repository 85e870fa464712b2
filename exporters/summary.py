# SPDX-License-Identifier: Apache-2.0
"""A span in the few words that fit on a line of a terminal, whatever its protocol.

Only keys of the conventions are read (and the code of DNS, which has none there), so a
protocol needs nothing here to be shown well; what has none of them is shown by its span name.

OTel: https://opentelemetry.io/docs/specs/semconv/ 1.44.0
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from parsers.model import AttributeValue, Completeness, Endpoint, Outline, Side, Transport
from tracer.span import Span

STATUS_KEYS: Final = (
    "http.response.status_code",
    "rpc.response.status_code",
    "rpc.status_code",
    "db.response.status_code",
)
DNS_CODE: Final = "wirespan.dns.response.code"
DNS_FOUND: Final = "NOERROR"
OTHER: Final = "_OTHER"

NOTES: Final = {
    Completeness.COMPLETE: "",
    Completeness.TRUNCATED: "truncated",
    Completeness.GAP: "gap",
    Completeness.LATE_ATTACH: "late",
    Completeness.UNANSWERED: "unanswered",
}
Attributes = Mapping[str, AttributeValue]


class Request(NamedTuple):
    """What was asked."""

    verb: str
    """`GET`; empty where a protocol has none."""
    target: str
    """A path, a statement, a name."""


def request(outline: Outline) -> Request:
    """What `outline` was about."""
    attributes = outline.attributes
    if method := _text(attributes, "http.request.method"):
        if method == OTHER:
            method = _text(attributes, "http.request.method_original") or method
        return Request(method, _path(attributes))
    if statement := _text(attributes, "db.query.text"):
        return Request(_operation(outline), " ".join(statement.split()))
    if method := _text(attributes, "rpc.method"):
        if method == OTHER:
            method = _text(attributes, "rpc.method_original") or method
        return Request("", method)
    question = _text(attributes, "dns.question.name")
    if question and question not in outline.name:
        return Request(outline.name, question)
    return Request("", outline.name)


def _operation(outline: Outline) -> str:
    """What was done with a statement if it was not run: `Parse`, before its summary in the name."""
    gist = _text(outline.attributes, "db.query.summary")
    before = outline.name.removesuffix(gist) if gist else ""
    return before.rstrip() if before != outline.name else ""


def _path(attributes: Attributes) -> str:
    """The target of an HTTP request without its host, which has a column of its own."""
    path = _text(attributes, "url.path")
    query = _text(attributes, "url.query")
    if not path and (full := _text(attributes, "url.full")):
        try:
            url = urlsplit(full)
        except ValueError:  # unbalanced [ in the authority
            return full
        path, query = url.path or "/", url.query
    return f"{path}?{query}" if query else path


def status(outline: Outline) -> str:
    """The protocol's own word for how it went; empty if it has none."""
    for key in STATUS_KEYS:
        if code := _text(outline.attributes, key):
            return code
    code = _text(outline.attributes, DNS_CODE)
    return "" if code == DNS_FOUND else code


def is_statement(outline: Outline) -> bool:
    """Whether what was asked is a text whose beginning says most."""
    return "db.query.text" in outline.attributes


def gist(outline: Outline) -> str:
    """What to show of a statement where there is no room for its text; empty if none."""
    return _text(outline.attributes, "db.query.summary") if is_statement(outline) else ""


def counted(span: Span) -> str:
    """How many rows or messages there were: `7 rows`, `1/30 messages`; empty if nobody counts."""
    asked, answered = span.outline.counts
    numbers = []
    for key, count in ((asked, span.request_count), (answered, span.response_count)):
        if key:
            numbers.append(count)
    if not numbers or max(numbers) < 0:
        return ""
    unit = (answered or asked).replace("_", ".").rpartition(".")[2]
    if numbers == [1]:
        unit = unit.removesuffix("s")
    return "/".join([f"{each:,}" if each >= 0 else "-" for each in numbers]) + f" {unit}"


def notes(span: Span) -> list[str]:
    """What went wrong beyond the status, and what is not known for sure."""
    found: list[str] = []
    code = status(span.outline)
    error = span.outline.error_type
    if error and error != code:
        found.append(error.removeprefix("connection_"))
    if span.resends:
        found.append("resent" if span.resends == 1 else f"resent {span.resends}x")
    # An error without an answer says already that there was none.
    note = NOTES[span.completeness]
    if note and not (error and span.completeness is Completeness.UNANSWERED):
        found.append(note)
    return found


def peer(span: Span) -> str:
    """The other end, by the name the request gave it if there is one."""
    peering = span.peering
    attributes = span.outline.attributes
    if peering.transport is Transport.UNIX:
        return (peering.remote.address or peering.local.address) or "unix"
    if peering.side is Side.SERVER:
        # Its port is any; who it really was may be known.
        return span.outline.client_address or peering.remote.address
    if name := _text(attributes, "server.address"):
        port = _text(attributes, "server.port") or str(peering.remote.port or "")
        return _joined(name, port)
    return endpoint(peering.remote)


def ends(span: Span) -> tuple[str, str]:
    """Both addresses of the connection, the client's first."""
    peering = span.peering
    local, remote = endpoint(peering.local), endpoint(peering.remote)
    if peering.transport is Transport.UNIX:
        local, remote = local or "unix", remote or "unix"
    return (remote, local) if peering.side is Side.SERVER else (local, remote)


def endpoint(end: Endpoint) -> str:
    """Address and port in one."""
    return _joined(end.address, str(end.port or ""))


def protocol(span: Span) -> str:
    """`http/1.1`, or what else is known of the protocol."""
    attributes = span.outline.attributes
    version = _text(attributes, "network.protocol.version")
    if "rpc.system.name" in attributes:  # it is that of HTTP below
        version = ""
    return f"{span.protocol.rstrip('0123456789')}/{version}" if version else span.protocol


def _joined(address: str, port: str) -> str:
    if ":" in address and not address.startswith("["):
        address = f"[{address}]"
    return f"{address}:{port}" if port else address


def _text(attributes: Attributes, key: str) -> str:
    value = attributes.get(key)
    return "" if value is None else str(value)
