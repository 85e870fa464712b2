# SPDX-License-Identifier: Apache-2.0
"""Where metrics are served for Prometheus to fetch: as a flag says it, and as the environment does.

OTel: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ 1.60.0,
Prometheus Exporter
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from exporters.environment import SettingsError

DEFAULT_HOST: Final = "127.0.0.1"
"""Metrics name services and hosts; who wants them on the network must say so."""
DEFAULT_PORT: Final = 9464
"""As OTEL_EXPORTER_PROMETHEUS_PORT has it."""

logger = logging.getLogger(__name__)


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `:PORT`, `PORT`, or `HOST` alone; IPv6 in brackets.

    Port 0 is any that is free.

    Raises:
        SettingsError: it is none of these.
    """
    text = text.strip()
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = ("", text) if text.isdigit() else (text, str(DEFAULT_PORT))
    is_bracketed = host.startswith("[") and host.endswith("]")
    if is_bracketed:
        host = host[1:-1]
    if is_bracketed is not _is_ipv6(host) or any(each in "[]/ " for each in host):
        raise SettingsError(
            f"{text!r} is no address to listen on: it is HOST:PORT, :PORT or PORT, and an IPv6"
            " address stands in brackets, [::1]:9464"
        )
    return host or DEFAULT_HOST, _port(port, text)


def default_address(environ: Mapping[str, str]) -> str:
    """Where the variables of OpenTelemetry want it; a bad one is a warning and the default."""
    host = environ.get("OTEL_EXPORTER_PROMETHEUS_HOST", "").strip()
    port = environ.get("OTEL_EXPORTER_PROMETHEUS_PORT", "").strip()
    address = f"[{host}]:{port}" if _is_ipv6(host) else f"{host}:{port}"
    try:
        parse_address(address if port else f"{address}{DEFAULT_PORT}")
    except SettingsError as error:
        logger.warning("OTEL_EXPORTER_PROMETHEUS_HOST and _PORT are not used: %s.", error)
        return f"{DEFAULT_HOST}:{DEFAULT_PORT}"
    return address if port else f"{address}{DEFAULT_PORT}"


def _is_ipv6(host: str) -> bool:
    return ":" in host


def _port(port: str, text: str) -> int:
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise SettingsError(f"{text!r} has no port from 0 to 65535 to listen on")
    return int(port)
