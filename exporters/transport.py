# SPDX-License-Identifier: Apache-2.0
"""One attempt to hand a request to a backend, and what its answer means.

OTel: https://opentelemetry.io/docs/specs/otlp/ 1.11.0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from exporters.settings import PATHS, OtlpSettings, Signal

MAX_MESSAGE: Final = 300
"""Characters of a backend's words that are passed on to the log."""

UNSUPPORTED: Final[Mapping[Signal, str]] = {
    "traces": "Is it an OTLP receiver? With HTTP the path is part of the endpoint; most want"
    f" {PATHS['traces']}.",
    "metrics": "Jaeger and Tempo take traces only: let Prometheus scrape metrics from wirespan,"
    " or set OTEL_EXPORTER_OTLP_METRICS_ENDPOINT to a Collector, or to Prometheus (path"
    " /api/v1/otlp/v1/metrics).",
}
"""What to do about a backend that takes no such signal."""
TOO_LARGE: Final[Mapping[Signal, str]] = {
    "traces": "Lower OTEL_BSP_MAX_EXPORT_BATCH_SIZE or raise the backend's limit.",
    "metrics": "Raise the backend's limit.",
}
"""What to do about requests that are too large for a backend."""


class Verdict(Enum):
    """What to do about an answer."""

    ACCEPTED = "accepted"
    RETRY = "retry"
    REFUSED = "refused"
    """Would be refused again: never retried."""
    TOO_LARGE = "too large"
    """Refused for its size: in halves it may pass."""
    UNSUPPORTED = "unsupported"
    """Refused for its kind: the backend takes no such signal, or not at this address."""


@dataclass(slots=True, frozen=True)
class Answer:
    """How one attempt ended."""

    verdict: Verdict
    cause: str = ""
    """A few words that are the same each time, such as `HTTP 503`; empty on success."""
    message: str = ""
    """What else is known, for the log."""
    rejected: int = 0
    """Spans, or data points, of an accepted request that the backend threw away."""
    retry_after_s: float | None = None
    """How long the backend asks to be left alone."""
    remedy: str = ""
    """What the user may do about it."""


class Transport(Protocol):
    """A connection to a backend, used by one thread; `abort` is for the others."""

    def send(self, body: bytes, timeout_s: float) -> Answer:
        """Make one attempt; never raises for what a network or a backend does."""
        ...

    def abort(self) -> None:
        """Make a `send` that is under way come back soon, and later ones fail."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


def open_transport(settings: OtlpSettings) -> Transport:
    """The transport that `settings` ask for. Does not connect yet.

    Raises:
        SettingsError: a certificate or key cannot be used.
    """
    # Imported here, since either costs tens of milliseconds that `wirespan watch` need not pay.
    if settings.protocol == "grpc":
        from exporters.transport_grpc import GrpcTransport  # noqa: PLC0415

        return GrpcTransport(settings)
    from exporters.transport_http import HttpTransport  # noqa: PLC0415

    return HttpTransport(settings)


def accepted(response: bytes) -> Answer:
    """Read an ExportTraceServiceResponse, or the one for metrics: its numbers are the same."""
    if not response:  # all there is to say in the usual case
        return ACCEPTED
    from google.protobuf.message import DecodeError  # noqa: PLC0415
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415
        ExportTraceServiceResponse,
    )

    try:
        partial = ExportTraceServiceResponse.FromString(response).partial_success
    except DecodeError:
        return Answer(
            Verdict.ACCEPTED,
            "foreign answer",
            "accepted, but not answered as OTLP does",
            remedy="Check that the endpoint is an OTLP receiver.",
        )
    if partial.rejected_spans <= 0 and not partial.error_message:
        return ACCEPTED
    return Answer(
        Verdict.ACCEPTED,
        "partial success",
        shorten(partial.error_message),
        rejected=max(0, partial.rejected_spans),
    )


ACCEPTED: Final = Answer(Verdict.ACCEPTED)


def shorten(text: str) -> str:
    """A backend's words, fit for one line of a log."""
    words = " ".join(text.split())
    if not words.isprintable():
        words = words.encode("unicode_escape").decode()
    return words if len(words) <= MAX_MESSAGE else words[:MAX_MESSAGE] + "..."
