# SPDX-License-Identifier: Apache-2.0
"""Where and how OTLP goes: flags over environment over defaults.

A bad flag is an error; a bad variable is a warning and the default, as OpenTelemetry asks.

OTel: https://opentelemetry.io/docs/specs/otel/protocol/exporter/ 1.60.0
      https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TypeAlias, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

logger = logging.getLogger(__name__)

Protocol: TypeAlias = Literal["grpc", "http/protobuf"]
Headers: TypeAlias = tuple[tuple[str, str], ...]

TRACES_PATH: Final = "/v1/traces"
DEFAULT_PORTS: Final = {"grpc": 4317, "http/protobuf": 4318}

TIMEOUT_S: Final = 10.0
QUEUE_SPANS: Final = 32_768
"""The specification's 2048 is for one program; a machine can bring that in a tenth of a second."""
QUEUE_BYTES: Final = 16 * 1024 * 1024
BATCH_SPANS: Final = 512
SCHEDULE_DELAY_S: Final = 5.0
EXPORT_TIMEOUT_S: Final = 30.0

LIKELY_SECONDS: Final = 100
"""OTEL_EXPORTER_OTLP_TIMEOUT below this was probably meant as seconds."""

T = TypeVar("T")


class SettingsError(ValueError):
    """A setting that cannot be meant, in words for the user."""


@dataclass(slots=True, frozen=True, kw_only=True)
class OtlpSettings:
    """All that the OTLP exporter can be told."""

    protocol: Protocol = "http/protobuf"
    endpoint: str = ""
    """HTTP: the whole URL. gRPC: what a channel is opened to. Empty: the default on localhost."""
    secure: bool = False
    """TLS; of the URL's scheme, or the reverse of OTEL_EXPORTER_OTLP_INSECURE."""
    headers: Headers = field(default=(), repr=False)
    """Often hold a token, so they are never shown."""
    gzip: bool = False
    timeout_s: float = TIMEOUT_S
    """For one attempt."""
    certificate: str | None = None
    """File of the authorities to check the server's certificate with; None: the system's."""
    client_key: str | None = None
    client_certificate: str | None = None
    queue_spans: int = QUEUE_SPANS
    queue_bytes: int = QUEUE_BYTES
    batch_spans: int = BATCH_SPANS
    schedule_delay_s: float = SCHEDULE_DELAY_S
    """How long spans wait for a batch to fill."""
    export_timeout_s: float = EXPORT_TIMEOUT_S
    """For one batch with all its retries."""

    def __post_init__(self) -> None:
        if not self.endpoint:
            port = DEFAULT_PORTS[self.protocol]
            where = f"localhost:{port}" if self.protocol == "grpc" else f"http://localhost:{port}"
            path = "" if self.protocol == "grpc" else TRACES_PATH
            object.__setattr__(self, "endpoint", where + path)
        if self.batch_spans > self.queue_spans:
            logger.warning(
                "A batch of %d spans does not fit into a queue of %d: batches have %d.",
                self.batch_spans,
                self.queue_spans,
                self.queue_spans,
            )
            object.__setattr__(self, "batch_spans", self.queue_spans)

    @property
    def target(self) -> str:
        """Host and port, without path or credentials: for log lines."""
        if self.protocol == "grpc":
            return self.endpoint
        return urlsplit(self.endpoint).netloc.rpartition("@")[2]

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], **overrides: Any) -> OtlpSettings:
        """Settings from `environ`; an override that is not None counts for more.

        Overrides have the names of the fields and are text or the field's type. The
        override `insecure` speaks of an endpoint without a scheme; `compression` is `gzip`
        or `none`. To an `endpoint` for HTTP the path /v1/traces is added if it lacks it.

        Raises:
            SettingsError: an override is bad, or a name is unknown.
        """
        known = {item.name for item in fields(cls)} - {"secure", "gzip"}
        known |= {"insecure", "compression"}
        if strange := overrides.keys() - known:
            raise SettingsError(f"no OTLP setting is called {', '.join(sorted(strange))}")
        reader = _Reader(environ, {k: v for k, v in overrides.items() if v is not None})
        protocol: Protocol = reader.otlp("protocol", _protocol) or "http/protobuf"
        insecure = reader.otlp("insecure", _boolean) or False
        endpoint, secure = _endpoint(reader, protocol, insecure)
        found: dict[str, Any] = {
            "headers": reader.otlp("headers", _headers),
            "gzip": reader.otlp("compression", _compression),
            "timeout_s": reader.otlp("timeout_s", _seconds, "TIMEOUT", _timeout),
            "certificate": reader.otlp("certificate", str),
            "client_key": reader.otlp("client_key", str),
            "client_certificate": reader.otlp("client_certificate", str),
            "queue_spans": reader.bsp("queue_spans", "MAX_QUEUE_SIZE", _count, _count),
            "queue_bytes": reader.override("queue_bytes", _count),
            "batch_spans": reader.bsp("batch_spans", "MAX_EXPORT_BATCH_SIZE", _count, _count),
            "schedule_delay_s": reader.bsp(
                "schedule_delay_s", "SCHEDULE_DELAY", _seconds, _milliseconds
            ),
            "export_timeout_s": reader.bsp(
                "export_timeout_s", "EXPORT_TIMEOUT", _seconds, _milliseconds
            ),
        }
        return cls(
            protocol=protocol,
            endpoint=endpoint,
            secure=secure,
            **{name: value for name, value in found.items() if value is not None},
        )


class _Reader:
    """Looks a setting up; None if it is nowhere, or bad in the environment."""

    def __init__(self, environ: Mapping[str, str], overrides: Mapping[str, Any]) -> None:
        self._environ = environ
        self._overrides = overrides

    def override(self, name: str, parse: Callable[[str], T]) -> T | None:
        value = self._overrides.get(name)
        if value is None:
            return None
        if name == "headers" and not isinstance(value, str):
            value = ",".join(f"{key}={text}" for key, text in dict(value).items())
        try:
            return parse(str(value))
        except ValueError as problem:
            raise SettingsError(f"{name}: {problem}") from None

    def variable(self, name: str, parse: Callable[[str], T]) -> T | None:
        value = self._environ.get(name, "").strip()
        if not value:  # the specification: empty is unset
            return None
        try:
            return parse(value)
        except ValueError as problem:
            logger.warning("%s is ignored: %s", name, problem)
            return None

    def otlp(
        self,
        name: str,
        parse: Callable[[str], T],
        suffix: str = "",
        parse_variable: Callable[[str], T] | None = None,
    ) -> T | None:
        """An override, else the variable for traces, else the one for all signals."""
        value = self.override(name, parse)
        for prefix in ("OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"):
            if value is None:
                variable = prefix + (suffix or name.upper())
                value = self.variable(variable, parse_variable or parse)
        return value

    def bsp(
        self,
        name: str,
        suffix: str,
        parse: Callable[[str], T],
        parse_variable: Callable[[str], T],
    ) -> T | None:
        value = self.override(name, parse)
        if value is None:
            value = self.variable(f"OTEL_BSP_{suffix}", parse_variable)
        return value


def _endpoint(reader: _Reader, protocol: Protocol, insecure: bool) -> tuple[str, bool]:
    """What to connect to (empty: the default), and whether by TLS."""
    if protocol == "grpc":
        found = reader.otlp("endpoint", lambda value: _target(value, insecure=insecure))
        return found or ("", False)

    def signal(value: str) -> str:
        url = _url(value)
        return url._replace(path=url.path or "/").geturl()

    def base(value: str) -> str:
        url = _url(value)
        return url._replace(path=url.path.rstrip("/") + TRACES_PATH).geturl()

    def flag(value: str) -> str:
        return signal(value) if _url(value).path.endswith(TRACES_PATH) else base(value)

    endpoint = (
        reader.override("endpoint", flag)
        or reader.variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", signal)
        or reader.variable("OTEL_EXPORTER_OTLP_ENDPOINT", base)
        or ""
    )
    return endpoint, endpoint.startswith("https:")


def _url(value: str) -> SplitResult:
    url = urlsplit(value)
    if url.scheme not in {"http", "https"} or not url.hostname:
        shown = repr(value) if "@" not in value else "this"  # before an @ may be a password
        raise ValueError(f"{shown} is no URL such as http://localhost:4318")
    try:
        _ = url.port
    except ValueError:
        # Not its own words, which may hold a part of a password.
        raise ValueError("the port is no number") from None
    return url._replace(fragment="")


def _target(value: str, *, insecure: bool) -> tuple[str, bool]:
    """gRPC: a URL, whose scheme decides about TLS, or any name that gRPC resolves."""
    if "://" in value and value.startswith(("http:", "https:")):
        url = _url(value)
        host = url.netloc.rpartition("@")[2]
        if url.port is None:
            host += ":443" if url.scheme == "https" else ":80"
        return host, url.scheme == "https"
    if re.search(r"\s", value):
        raise ValueError(f"{value!r} is no address such as localhost:4317")
    return value, not insecure


def _protocol(value: str) -> Protocol:
    match value:
        case "grpc" | "http/protobuf":
            return value
        case "http/json":
            raise ValueError("http/json is not spoken here: use grpc or http/protobuf")
    raise ValueError(f"{value!r} is neither grpc nor http/protobuf")


def _boolean(value: str) -> bool:
    if value.lower() not in {"true", "false"}:
        raise ValueError(f"{value!r} is neither true nor false")
    return value.lower() == "true"


def _compression(value: str) -> bool:
    if value not in {"gzip", "none"}:
        raise ValueError(f"{value!r} is neither gzip nor none")
    return value == "gzip"


def _count(value: str) -> int:
    number = int(value) if re.fullmatch(r"[0-9]{1,12}", value) else 0
    if number < 1:
        raise ValueError(f"{value!r} is no number of at least 1")
    return number


def _seconds(value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) or not float(value):
        raise ValueError(f"{value!r} is no number of seconds above 0")
    return float(value)


def _milliseconds(value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,12}", value) or not int(value):
        raise ValueError(f"{value!r} is no number of milliseconds above 0")
    return int(value) / 1000


def _timeout(value: str) -> float:
    seconds = _milliseconds(value)
    if int(value) < LIKELY_SECONDS:
        logger.warning(
            "The OTLP timeout of %s is taken as milliseconds, as the specification has it. "
            "If seconds were meant, set it to %s000.",
            value,
            value,
        )
    return seconds


_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_VALUE: Final = re.compile(r"[\x20-\x7e]*")


def _headers(value: str) -> Headers:
    """W3C Baggage without its metadata: `key=value,key=value`, values percent-encoded."""
    headers: list[tuple[str, str]] = []
    for position, pair in enumerate(value.split(","), 1):
        if not pair.strip():
            continue
        name, equals, text = pair.partition("=")
        name, text = unquote(name.strip()), unquote(text.strip())
        # The text stays out of the message: it may be half of a token.
        if not equals or not _TOKEN.fullmatch(name):
            raise ValueError(f"item {position} is no header such as api-key=secret")
        if not _VALUE.fullmatch(text):
            raise ValueError(f"the value of {name} has characters that no header may have")
        headers.append((name.lower(), text))
    return tuple(headers)
