# SPDX-License-Identifier: Apache-2.0
"""OTLP over HTTP/1.1: protobuf in a POST, on one connection that is kept open.

OTel: https://opentelemetry.io/docs/specs/otlp/#otlphttp 1.11.0
Spec: RFC 9110 10.2.3 (Retry-After), 15 (status codes)
"""

from __future__ import annotations

import base64
import email.utils
import http.client
import ipaddress
import math
import socket
import ssl
import time
import urllib.request
import zlib
from contextlib import suppress
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from exporters.environment import SettingsError
from exporters.semconv import USER_AGENT
from exporters.settings import DEFAULT_PORTS, OtlpSettings
from exporters.transport import (
    MAX_MESSAGE,
    TOO_LARGE,
    UNSUPPORTED,
    Answer,
    Transport,
    Verdict,
    accepted,
    shorten,
)

RETRYABLE: Final = frozenset({429, 502, 503, 504})
NOT_HERE: Final = frozenset({404, 405})
"""Not Found, Method Not Allowed: nothing takes the signal at this path."""
MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024
GZIP_LEVEL: Final = 1
"""Spans shrink to a tenth at once; higher levels take three times as long for little more."""
GZIP_FORMAT: Final = 31  # zlib.h deflateInit2: 15 bits of window, + 16 for a gzip header

REMEDIES: Final = {
    401: "Set OTEL_EXPORTER_OTLP_HEADERS to what the backend wants.",
    403: "Set OTEL_EXPORTER_OTLP_HEADERS to what the backend wants.",
    415: "The backend does not take protobuf: check that it is an OTLP receiver.",
}


class HttpTransport(Transport):
    """POSTs to one URL."""

    def __init__(self, settings: OtlpSettings) -> None:
        self._settings = settings
        url = urlsplit(settings.endpoint)
        self._tls = _tls(settings) if settings.secure else None
        self._headers = {
            "Content-Type": "application/x-protobuf",
            "User-Agent": USER_AGENT,
            **({"Content-Encoding": "gzip"} if settings.gzip else {}),
            **_authorization(url),
            **{name.title(): text for name, text in settings.headers},
        }
        self._url = url
        self._path = url._replace(scheme="", netloc="").geturl()
        self._proxy = _proxy(url)
        if self._proxy and self._tls is None:  # RFC 9112 3.2.2: absolute form
            self._path = url._replace(netloc=settings.target).geturl()
            self._headers |= _authorization(self._proxy, "Proxy-Authorization")
        self._connection: http.client.HTTPConnection | None = None
        self._aborted = False

    def send(self, body: bytes, timeout_s: float) -> Answer:
        if self._settings.gzip:
            body = zlib.compress(body, GZIP_LEVEL, GZIP_FORMAT)
        reused = self._connection is not None
        try:
            return self._attempt(body, timeout_s)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as problem:
            self._disconnect()
            if not reused or self._aborted:
                return self._unreachable(problem)
        except (OSError, http.client.HTTPException) as problem:
            self._disconnect()
            return self._unreachable(problem)
        # A server may close an idle connection at any time: that says nothing of its health.
        try:
            return self._attempt(body, timeout_s)
        except (OSError, http.client.HTTPException) as problem:
            self._disconnect()
            return self._unreachable(problem)

    def abort(self) -> None:
        self._aborted = True
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with suppress(OSError):  # wakes a thread that waits in recv()
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._disconnect()

    def _attempt(self, body: bytes, timeout_s: float) -> Answer:
        deadline = time.monotonic() + timeout_s
        connection = self._connection
        if connection is None:
            connection = self._connect(timeout_s)
            self._connection = connection
        elif connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        connection.request("POST", self._path, body, self._headers)
        sock = connection.sock
        if sock is not None:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
        response = connection.getresponse()
        with response:
            content = response.read(MAX_RESPONSE_BYTES)
            if not response.isclosed():  # more than anybody should answer
                self._disconnect()
        if response.will_close:
            self._disconnect()
        return self._judge(response, content)

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        end = self._proxy or self._url
        host, port = end.hostname or "", end.port
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls)
        if self._proxy:
            connection.set_tunnel(
                self._url.hostname or "",
                self._url.port,
                _authorization(self._proxy, "Proxy-Authorization"),
            )
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _judge(self, response: http.client.HTTPResponse, content: bytes) -> Answer:
        status = response.status
        form = response.headers.get_content_type()
        if 200 <= status < 300:
            return accepted(content if form == "application/x-protobuf" else b"")
        remedy = REMEDIES.get(status, "")
        if status == 413:
            verdict, remedy = Verdict.TOO_LARGE, TOO_LARGE[self._settings.signal]
        elif status in NOT_HERE:
            verdict, remedy = Verdict.UNSUPPORTED, UNSUPPORTED[self._settings.signal]
        elif status in RETRYABLE:
            verdict = Verdict.RETRY
        else:
            verdict = Verdict.REFUSED
        message = _words(form, content)
        if 300 <= status < 400:
            remedy = f"Set the endpoint to {shorten(response.headers.get('Location', 'that'))}."
        return Answer(
            verdict,
            f"HTTP {status}",
            message or shorten(response.reason),
            retry_after_s=retry_after(response.headers.get("Retry-After"), time.time()),
            remedy=remedy,
        )

    def _unreachable(self, problem: Exception) -> Answer:
        where = self._settings.target
        match problem:
            case ConnectionRefusedError():
                cause, remedy = "connection refused", "Is a collector listening there?"
            case TimeoutError():
                cause, remedy = "timeout", "Is the backend overloaded, or a firewall in between?"
            case socket.gaierror():
                cause, remedy = "unknown host", "Check the name in the endpoint."
            case ssl.SSLCertVerificationError():
                cause = "certificate not trusted"
                remedy = "Set OTEL_EXPORTER_OTLP_CERTIFICATE to the authority's certificate."
            case ssl.SSLError():
                cause, remedy = "TLS failed", "Does the backend speak TLS at this port?"
            case http.client.HTTPException() | ConnectionError():
                cause, remedy = "disconnected", ""
            case _:
                cause, remedy = "unreachable", ""
        if cause == "disconnected" and self._url.port == DEFAULT_PORTS["grpc"]:
            remedy = "Port 4317 mostly speaks gRPC: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc."
        return Answer(Verdict.RETRY, f"{cause} at {where}", shorten(str(problem)), remedy=remedy)


def retry_after(value: str | None, now_unix_s: float) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    # A date has whole seconds: round up, so as not to come too early.
    return float(max(0, math.ceil(moment - now_unix_s)))


def _words(form: str, content: bytes) -> str:
    """What an error's body says: a google.rpc.Status, or text."""
    if form == "application/x-protobuf" and content:
        from google.protobuf.message import DecodeError  # noqa: PLC0415
        from google.rpc.status_pb2 import Status  # noqa: PLC0415

        with suppress(DecodeError):
            return shorten(Status.FromString(content).message)
        return ""
    if form in {"text/plain", "application/json"}:
        return shorten(content[: 4 * MAX_MESSAGE].decode(errors="replace"))
    return ""


def _tls(settings: OtlpSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.certificate)
    except (OSError, ssl.SSLError) as problem:
        raise SettingsError(f"cannot use {settings.certificate}: {problem}") from None
    if settings.client_certificate:
        try:
            context.load_cert_chain(settings.client_certificate, settings.client_key)
        except (OSError, ssl.SSLError) as problem:
            pair = f"{settings.client_certificate} with key {settings.client_key}"
            raise SettingsError(f"cannot use {pair}: {problem}") from None
    return context


def _authorization(url: SplitResult, header: str = "Authorization") -> dict[str, str]:
    """Basic credentials from the URL, if it has any (RFC 7617)."""
    if url.username is None:
        return {}
    pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return {header: "Basic " + base64.b64encode(pair.encode()).decode()}


def _proxy(url: SplitResult) -> SplitResult | None:
    """The proxy that the environment names for `url`; never one for this machine itself."""
    host = url.hostname or ""
    proxy = urllib.request.getproxies().get(url.scheme)
    if not proxy or host == "localhost" or _is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
