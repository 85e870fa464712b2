# SPDX-License-Identifier: Apache-2.0
"""OTLP over gRPC: the bytes pass through as they are.

OTel: https://opentelemetry.io/docs/specs/otlp/#otlpgrpc 1.11.0
Spec: google/rpc/error_details.proto (RetryInfo)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from exporters.environment import SettingsError
from exporters.semconv import USER_AGENT
from exporters.settings import DEFAULT_PORTS, OtlpSettings, Signal
from exporters.transport import (
    TOO_LARGE,
    UNSUPPORTED,
    Answer,
    Transport,
    Verdict,
    accepted,
    shorten,
)

METHODS: Final[Mapping[Signal, str]] = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
DETAILS: Final = "grpc-status-details-bin"

RETRYABLE: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""RESOURCE_EXHAUSTED too, if the answer says when to come again."""

OPTIONS: Final = (
    ("grpc.primary_user_agent", USER_AGENT),
    ("grpc.enable_retries", 0),  # retries are counted, so they are made in one place: ours
    ("grpc.initial_reconnect_backoff_ms", 1000),
    # gRPC's two minutes would outlast the time a batch has by far.
    ("grpc.max_reconnect_backoff_ms", 5000),
)

REMEDIES: Final = {
    grpc.StatusCode.UNAUTHENTICATED: "Set OTEL_EXPORTER_OTLP_HEADERS to what the backend wants.",
    grpc.StatusCode.PERMISSION_DENIED: "Set OTEL_EXPORTER_OTLP_HEADERS to what the backend wants.",
    grpc.StatusCode.DEADLINE_EXCEEDED: "Is the backend overloaded, or a firewall in between?",
}


class GrpcTransport(Transport):
    """Calls Export of the signal's service."""

    def __init__(self, settings: OtlpSettings) -> None:
        self._signal: Signal = settings.signal
        self._target = settings.target
        self._secure = settings.secure
        compression = grpc.Compression.Gzip if settings.gzip else grpc.Compression.NoCompression
        if settings.secure:
            self._channel = grpc.secure_channel(
                settings.endpoint, _credentials(settings), OPTIONS, compression
            )
        else:
            self._channel = grpc.insecure_channel(settings.endpoint, OPTIONS, compression)
        self._metadata = settings.headers
        self._export: Callable[..., bytes] = self._channel.unary_unary(METHODS[settings.signal])

    def send(self, body: bytes, timeout_s: float) -> Answer:
        try:
            response = self._export(body, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as problem:
            # Every error of a call is the call as well, which the stubs cannot express.
            return self._judge(cast("grpc.Call", problem))
        except ValueError:  # the channel was closed before the call could begin
            return Answer(Verdict.RETRY, f"closed at {self._target}")
        return accepted(response)

    def abort(self) -> None:
        self._channel.close()

    def close(self) -> None:
        self._channel.close()

    def _judge(self, problem: grpc.Call) -> Answer:
        code = problem.code()
        words = shorten(problem.details() or "")
        wait_s = _retry_delay(problem)
        remedy = REMEDIES.get(code, "")
        verdict = Verdict.RETRY if code in RETRYABLE else Verdict.REFUSED
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            if wait_s is not None:
                verdict = Verdict.RETRY
            elif "larger than max" in words:  # grpc-go and grpc-core say it so
                verdict = Verdict.TOO_LARGE
                remedy = TOO_LARGE[self._signal]
        if code is grpc.StatusCode.UNIMPLEMENTED:
            verdict, remedy = Verdict.UNSUPPORTED, UNSUPPORTED[self._signal]
        if code is grpc.StatusCode.UNAVAILABLE:
            remedy = self._unavailable(words)
        return Answer(
            verdict,
            f"gRPC {code.name} at {self._target}",
            words,
            retry_after_s=wait_s if verdict is Verdict.RETRY else None,
            remedy=remedy,
        )

    def _unavailable(self, words: str) -> str:
        if "refused" in words:
            return "Is a collector listening there?"
        if "CERTIFICATE_VERIFY_FAILED" in words:
            return "Set OTEL_EXPORTER_OTLP_CERTIFICATE to the authority's certificate."
        if self._target.endswith(f":{DEFAULT_PORTS['http/protobuf']}"):
            return "Port 4318 mostly speaks HTTP: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf."
        if self._secure:
            return "Without TLS, the endpoint is http://... or OTEL_EXPORTER_OTLP_INSECURE=true."
        return ""


def _retry_delay(problem: grpc.Call) -> float | None:
    """Seconds from a RetryInfo in the status details."""
    for key, value in problem.trailing_metadata() or ():
        if key != DETAILS:
            continue
        try:
            for detail in Status.FromString(value).details:
                info = RetryInfo()
                if detail.Is(RetryInfo.DESCRIPTOR) and detail.Unpack(info):
                    delay = info.retry_delay
                    return max(0.0, float(delay.seconds + delay.nanos / 1e9))
        except DecodeError:
            return None
    return None


def _credentials(settings: OtlpSettings) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_read(settings.certificate),
        private_key=_read(settings.client_key),
        certificate_chain=_read(settings.client_certificate),
    )


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as problem:
        raise SettingsError(f"cannot read {path}: {problem.strerror}") from None
