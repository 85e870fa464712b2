# SPDX-License-Identifier: Apache-2.0
"""Names and numbers that every OpenTelemetry exporter here shares.

OTel: https://opentelemetry.io/docs/specs/semconv/ 1.44.0, opentelemetry-proto 1.11.0 (trace.proto)
"""

from __future__ import annotations

from typing import Final

from tracer import __version__

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
"""Which edition of the conventions the attribute keys follow."""
SCOPE_NAME: Final = "wirespan"
SCOPE_VERSION: Final = __version__
USER_AGENT: Final = f"wirespan/{__version__}"
"""As OTLP asks: name of the exporter and its version."""

STATUS_ERROR: Final = 2
"""STATUS_CODE_ERROR; success stays unset, as instrumentation must leave it."""

FLAGS_LOCAL: Final = 0x103
"""Sampled and random (W3C trace flags, level 2), the parent known not to be in another process."""
FLAGS_REMOTE: Final = 0x303
"""The same, the parent in another process."""
