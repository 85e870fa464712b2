# SPDX-License-Identifier: Apache-2.0
"""Where and how OTLP goes, for spans and for metrics: flags, else environment, else defaults.

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

from exporters.environment import Reader, SettingsError, boolean, count, milliseconds, seconds

logger = logging.getLogger(__name__)

Protocol: TypeAlias = Literal["grpc", "http/protobuf"]
Signal: TypeAlias = Literal["traces", "metrics"]
Headers: TypeAlias = tuple[tuple[str, str], ...]

PATHS: Final[Mapping[Signal, str]] = {"traces": "/v1/traces", "metrics": "/v1/metrics"}
DEFAULT_PORTS: Final = {"grpc": 4317, "http/protobuf": 4318}

MAX_REQUEST_BYTES: Final = 3_500_000
"""Many gRPC servers refuse requests above 4 MiB."""
TIMEOUT_S: Final = 10.0
QUEUE_SPANS: Final = 32_768
"""The specification's 2048 is for one program; a machine can bring that in a tenth of a second."""
QUEUE_BYTES: Final = 16 * 1024 * 1024
BATCH_SPANS: Final = 512
SCHEDULE_DELAY_S: Final = 5.0
EXPORT_TIMEOUT_S: Final = 30.0
INTERVAL_S: Final = 60.0
"""From one reading of metrics to the next."""

DELAYS: Final[Mapping[Signal, str]] = {
    "traces": "OTEL_BSP_SCHEDULE_DELAY",
    "metrics": "OTEL_METRIC_EXPORT_INTERVAL",
}
TIMEOUTS: Final[Mapping[Signal, str]] = {
    "traces": "OTEL_BSP_EXPORT_TIMEOUT",
    "metrics": "OTEL_METRIC_EXPORT_TIMEOUT",
}

LIKELY_SECONDS: Final = 100
"""OTEL_EXPORTER_OTLP_TIMEOUT below this was probably meant as seconds."""

T = TypeVar("T")


@dataclass(slots=True, frozen=True, kw_only=True)
class OtlpSettings:
    """All that an OTLP exporter of one signal can be told."""

    signal: Signal = "traces"
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
    """How long spans wait for a batch to fill; for metrics, from one reading to the next."""
    export_timeout_s: float = EXPORT_TIMEOUT_S
    """For one batch, or one reading, with all its retries."""

    def __post_init__(self) -> None:
        if not self.endpoint:
            port = DEFAULT_PORTS[self.protocol]
            where = f"localhost:{port}" if self.protocol == "grpc" else f"http://localhost:{port}"
            path = "" if self.protocol == "grpc" else PATHS[self.signal]
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
    def from_environment(
        cls, environ: Mapping[str, str], signal: Signal = "traces", **overrides: Any
    ) -> OtlpSettings:
        """Settings for `signal` from `environ`; an override that is not None counts for more.

        Overrides have the names of the fields and are text or the field's type. The
        override `insecure` speaks of an endpoint without a scheme; `compression` is `gzip`
        or `none`. To an `endpoint` for HTTP the signal's path, such as /v1/traces, is added
        if it lacks it, and takes the place of another signal's.

        Raises:
            SettingsError: an override is bad, or a name is unknown.
        """
        known = {item.name for item in fields(cls)} - {"secure", "gzip", "signal"}
        known |= {"insecure", "compression"}
        if strange := overrides.keys() - known:
            raise SettingsError(f"no OTLP setting is called {', '.join(sorted(strange))}")
        reader = _Otlp(environ, overrides, signal)
        protocol: Protocol = reader.otlp("protocol", _protocol) or "http/protobuf"
        insecure = reader.otlp("insecure", boolean) or False
        endpoint, secure = _endpoint(reader, protocol, insecure)
        found: dict[str, Any] = {
            "headers": reader.otlp("headers", _headers),
            "gzip": reader.otlp("compression", _compression),
            "timeout_s": reader.otlp("timeout_s", seconds, "TIMEOUT", _timeout),
            "certificate": reader.otlp("certificate", str),
            "client_key": reader.otlp("client_key", str),
            "client_certificate": reader.otlp("client_certificate", str),
            "queue_spans": reader.bsp("queue_spans", "MAX_QUEUE_SIZE"),
            "queue_bytes": reader.override("queue_bytes", count),
            "batch_spans": reader.bsp("batch_spans", "MAX_EXPORT_BATCH_SIZE"),
            "schedule_delay_s": reader.pace("schedule_delay_s", DELAYS),
            "export_timeout_s": reader.pace("export_timeout_s", TIMEOUTS),
        }
        if signal == "metrics" and found["schedule_delay_s"] is None:
            found["schedule_delay_s"] = INTERVAL_S
        return cls(
            signal=signal,
            protocol=protocol,
            endpoint=endpoint,
            secure=secure,
            **{name: value for name, value in found.items() if value is not None},
        )


class _Otlp(Reader):
    """Knows which variables hold what for one signal."""

    def __init__(
        self, environ: Mapping[str, str], overrides: Mapping[str, Any], signal: Signal
    ) -> None:
        super().__init__(environ, overrides)
        self.signal: Final = signal
        self.path: Final = PATHS[signal]
        self.own: Final = f"OTEL_EXPORTER_OTLP_{signal.upper()}_"

    def override(self, name: str, parse: Callable[[str], T]) -> T | None:
        value = self._overrides.get(name)
        if name == "headers" and value is not None and not isinstance(value, str):
            text = ",".join(f"{key}={text}" for key, text in dict(value).items())
            return Reader({}, {name: text}).override(name, parse)
        return super().override(name, parse)

    def otlp(
        self,
        name: str,
        parse: Callable[[str], T],
        suffix: str = "",
        parse_variable: Callable[[str], T] | None = None,
    ) -> T | None:
        """An override, else the variable for the signal, else the one for all signals."""
        suffix = suffix or name.upper()
        variables = self.own + suffix, "OTEL_EXPORTER_OTLP_" + suffix
        return self.first(name, parse, *variables, parse_variable=parse_variable)

    def bsp(self, name: str, suffix: str) -> int | None:
        """A number that only batches of spans have."""
        variables = (f"OTEL_BSP_{suffix}",) if self.signal == "traces" else ()
        return self.first(name, count, *variables)

    def pace(self, name: str, variables: Mapping[Signal, str]) -> float | None:
        return self.first(name, seconds, variables[self.signal], parse_variable=milliseconds)


def _endpoint(reader: _Otlp, protocol: Protocol, insecure: bool) -> tuple[str, bool]:
    """What to connect to (empty: the default), and whether by TLS."""
    if protocol == "grpc":
        found = reader.otlp("endpoint", lambda value: _target(value, insecure=insecure))
        return found or ("", False)

    def signal(value: str) -> str:
        url = _url(value)
        return url._replace(path=url.path or "/").geturl()

    def base(value: str) -> str:
        url = _url(value)
        return url._replace(path=url.path.rstrip("/") + reader.path).geturl()

    def flag(value: str) -> str:
        url = _url(value)
        path = url.path
        for known in PATHS.values():  # one flag may be meant for both signals
            path = path.removesuffix(known)
        return base(url._replace(path=path).geturl())

    endpoint = (
        reader.override("endpoint", flag)
        or reader.variable(reader.own + "ENDPOINT", signal)
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
    match value.lower():
        case "grpc" | "http/protobuf" as protocol:
            return protocol
        case "http/json":
            raise ValueError("http/json is not spoken here: use grpc or http/protobuf")
    raise ValueError(f"{value!r} is neither grpc nor http/protobuf")


def _compression(value: str) -> bool:
    if value.lower() not in {"gzip", "none"}:
        raise ValueError(f"{value!r} is neither gzip nor none")
    return value.lower() == "gzip"


def _timeout(value: str) -> float:
    meant = milliseconds(value)
    if int(value) < LIKELY_SECONDS:
        logger.warning(
            "The OTLP timeout of %s is taken as milliseconds, as the specification has it. "
            "If seconds were meant, set it to %s000.",
            value,
            value,
        )
    return meant


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
