# SPDX-License-Identifier: Apache-2.0
"""What an HTTP exchange means in the words of the semantic conventions.

OTel: https://opentelemetry.io/docs/specs/semconv/http/http-spans/ (1.44.0, stable).

The span name is the method alone: a path is no name, and the route, which is not on the wire, is
added by who knows it (tracer/routes.py).
Passwords in URLs and values of query parameters that are known to carry secrets become
`REDACTED`; their keys stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, Protocol

from parsers.model import AttributeValue, Endpoint, Outline, Side

KNOWN_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
OTHER: Final = "_OTHER"
REDACTED: Final = "REDACTED"
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
MAX_PORT: Final = 65535
MAX_HOST_CHARS: Final = 255

JOINT: Final = "(?:[_-]|%5f|%2d)?"
"""Between the words of a key, as it is or percent-encoded."""
SENSITIVE: Final = (
    # The conventions' own list.
    "AWSAccessKeyId|Signature|sig|X-Goog-Signature|"
    "X-Amz-(?:Signature|Credential|Security-Token)|"
    # What applications put into URLs although they should not.
    f"(?:access|auth|id|refresh|session){JOINT}token|token|api{JOINT}key|"
    f"client{JOINT}secret|secret|passw(?:or)?d|pwd|jwt|code{JOINT}verifier"
)
SECRET_PARAMETER: Final = re.compile(rf"(?i)(?<![^?&;])((?:{SENSITIVE})=)[^&;#\s]+")
CREDENTIALS: Final = re.compile(r"(?<=//)[^/?#\s]*@")
SECRET_BYTES: Final = re.compile(
    SECRET_PARAMETER.pattern.encode() + rb"|(?:(?<=//)|(?<=^CONNECT ))[^/?#\s]*@"
)
SCHEME: Final = r"[a-zA-Z][a-zA-Z0-9+.\-]*"
ABSOLUTE_FORM: Final = re.compile(rf"({SCHEME})://([^/?#]*)(.*)", re.DOTALL)
HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:/?#\s\[\]@]+)(?::([0-9]{1,5}))?")
FORWARDED_PAIR: Final = re.compile(r"(?i)(?:^|[;,])\s*(for|host|proto)=(?:\"([^\"]*)\"|([^;,\s]*))")
CLIENT: Final = re.compile(
    r"\[([0-9A-Fa-f:.%]+)\](?::\d+)?|(?!_|unknown\b)([^:\s\[\]]+)(?::\d+)?|([0-9A-Fa-f:.%]+)"
)
"""A node of RFC 7239 section 6, but neither `unknown` nor a made-up name."""


class Request(Protocol):
    """A request's head."""

    @property
    def method(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def fields(self) -> Mapping[str, str]: ...


class View(NamedTuple):
    """Who looks at the exchange, and how openly."""

    side: Side
    server: Endpoint
    """The server's end of the socket, for requests that do not name their host."""
    redact: bool
    methods: frozenset[str] = KNOWN_METHODS
    """Methods that may become the name of a span."""
    scheme: str = "http"
    """What a request means that names none (RFC 9112 section 3.3): https inside of TLS."""


def describe(
    request: Request, status: int, error_type: str | None, view: View, *, partial: bool = False
) -> Outline:
    """The outline of an exchange; `status` is 0 if there was no response.

    Of a head that is `partial` some fields are unknown: what those might say is left out.
    """
    serves = view.side is not Side.CLIENT
    method = request.method if request.method in view.methods else OTHER
    attributes: dict[str, AttributeValue] = {"http.request.method": method}
    if method != request.method:
        attributes["http.request.method_original"] = request.method
    target = _target(request, view)
    known = not partial or _says_all(request, serves=serves)
    if serves:
        if request.target or not partial:
            attributes["url.path"] = target.path
        if target.query:
            attributes["url.query"] = target.query
        if known:
            attributes["url.scheme"] = target.scheme
    elif known:
        attributes["url.full"] = target.full
    elif request.target:
        # Half of an address is none, and says more than nothing.
        attributes["url.path"] = target.path
    if status:
        attributes["http.response.status_code"] = status
    if target.host and known:
        attributes["server.address"] = target.host
        if target.port:
            attributes["server.port"] = target.port
    attributes["network.protocol.version"] = request.version
    client = None
    if serves:
        agent = request.fields.get("user-agent")
        if agent is not None:
            attributes["user_agent.original"] = agent
        if known:
            client = _client(request.fields)
    # 4xx is the client's error only.
    if error_type is None and status >= (500 if serves else 400):
        error_type = str(status)
    name = "HTTP" if method == OTHER else method
    return Outline(name, attributes, error_type, client)


def secret_ranges(line: bytes) -> Iterator[tuple[int, int]]:
    """Where a request line holds secrets."""
    for match in SECRET_BYTES.finditer(line):
        parameter = match.end(1)
        if parameter < 0:
            # Not the `@`: without it the line would have another form.
            yield match.start(), match.end() - 1
        else:
            yield parameter, match.end()


def _says_all(request: Request, *, serves: bool) -> bool:
    """Whether the fields that are known of a partial head say where the request goes."""
    # For a server an unknown field may be one of a proxy's, which overrides the others.
    return not serves and bool(request.target) and {"host", ":scheme"} <= request.fields.keys()


class _Target(NamedTuple):
    """The parts of the target URI (RFC 9112 section 3.3)."""

    scheme: str
    host: str
    port: int
    path: str
    query: str
    full: str


def _target(request: Request, view: View) -> _Target:
    fields = request.fields
    target = request.target
    scheme = fields.get(":scheme", view.scheme)
    authorities = [fields.get("host", "")]
    absolute = None if target.startswith("/") else ABSOLUTE_FORM.fullmatch(target)
    if absolute is not None:
        scheme = absolute[1].lower()
        # It overrides Host (RFC 9112 section 3.2.2).
        authorities.insert(0, absolute[2].rpartition("@")[2])
        path = absolute[3] or "/"
    elif request.method == "CONNECT" and ":protocol" not in fields:
        authorities = [target]
        path = ""
    else:
        path = target
    if view.side is not Side.CLIENT and _is_forwarded(fields):
        forwarded = _forwarded(fields.get("forwarded", ""))
        proto = forwarded.get("proto") or _first(fields.get("x-forwarded-proto", ""))
        if re.fullmatch(SCHEME, proto):
            scheme = proto.lower()
        authorities.insert(0, _first(fields.get("x-forwarded-host", "")))
        authorities.insert(0, forwarded.get("host", ""))
    host, port, authority = _authority(authorities, scheme, view.server)
    if view.redact and ("=" in path or "@" in path):
        path = SECRET_PARAMETER.sub(rf"\1{REDACTED}", CREDENTIALS.sub(_hide_credentials, path))
    if absolute is not None:
        origin = target[: absolute.start(3)]
        if view.redact:
            origin = CREDENTIALS.sub(_hide_credentials, origin)
        full = origin + path
    else:
        # `OPTIONS *` asks about the server as a whole: its URI has no path.
        full = f"{scheme}://{authority}{path if path != '*' else ''}"
    path, _, query = path.partition("?")
    return _Target(scheme, host, port, path, query, full)


def _authority(authorities: list[str], scheme: str, server: Endpoint) -> tuple[str, int, str]:
    """Host, port and both together: of the first that is usable, else the socket's."""
    for authority in authorities:
        match = HOST.fullmatch(authority) if len(authority) <= MAX_HOST_CHARS else None
        if match is None:
            continue
        port = int(match[2]) if match[2] else DEFAULT_PORTS.get(scheme, 0)
        if port <= MAX_PORT:
            return match[1].strip("[]"), port, authority
    host, port = server
    authority = f"[{host}]" if ":" in host else host
    if port and port != DEFAULT_PORTS.get(scheme):
        authority = f"{authority}:{port}"
    return host, port, authority


def _hide_credentials(_: re.Match[str]) -> str:
    return f"{REDACTED}:{REDACTED}@"


def _is_forwarded(fields: Mapping[str, str]) -> bool:
    return "forwarded" in fields or "x-forwarded-host" in fields or "x-forwarded-proto" in fields


def _first(value: str) -> str:
    """Of a list that every proxy has added to, what the first has said."""
    return value.partition(",")[0].strip()


def _forwarded(value: str) -> dict[str, str]:
    """The first of each parameter of a Forwarded field (RFC 7239)."""
    found: dict[str, str] = {}
    for match in FORWARDED_PAIR.finditer(value):
        found.setdefault(match[1].lower(), match[2] or match[3] or "")
    return found


def _client(fields: Mapping[str, str]) -> str | None:
    """Who asked, as the proxies in between say it; without a port."""
    if "forwarded" not in fields and "x-forwarded-for" not in fields:
        return None
    value = _forwarded(fields.get("forwarded", "")).get("for", "")
    match = CLIENT.fullmatch(value or _first(fields.get("x-forwarded-for", "")))
    if match is None:
        return None
    return match[1] or match[2] or match[3]
