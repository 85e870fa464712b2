# SPDX-License-Identifier: Apache-2.0
"""What becomes of requests with spans: halves, and a name for every outcome.

Those made of the queue's spans know what they are made of; those that come out of the
spool are no more than bytes.

OTel: https://opentelemetry.io/docs/specs/otlp/#failures 1.11.0
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

from exporters.attempts import Attempts, Fate, Part
from exporters.otlp_wire import EncodedSpan, RequestEncoder

TIMEOUT: Final = "spans_dropped_timeout"
SHUTDOWN: Final = "spans_dropped_shutdown"

P = TypeVar("P", bound=Part)


class Request(NamedTuple):
    """An ExportTraceServiceRequest."""

    body: bytes
    items: int
    """How many spans are in it."""


class Batch(NamedTuple):
    """A request, and the spans that it was made of."""

    body: bytes
    spans: list[EncodedSpan]

    @property
    def items(self) -> int:
        return len(self.spans)

    @classmethod
    def of(cls, spans: list[EncodedSpan], encoder: RequestEncoder) -> Batch:
        """The request with `spans`."""
        return cls(encoder.encode(spans), spans)

    def halves(self, encoder: RequestEncoder) -> tuple[Batch, Batch]:
        """The first spans and the others."""
        middle = len(self.spans) // 2
        return Batch.of(self.spans[:middle], encoder), Batch.of(self.spans[middle:], encoder)


@dataclass(slots=True)
class Delivered(Generic[P]):
    """What is known at the end of a delivery: all spans are in `fates` or in `left`."""

    fates: Counter[str] = field(default_factory=Counter)
    """Spans by the name of the counter that they are to be added to."""
    left: list[tuple[str, P]] = field(default_factory=list)
    """What may be delivered later; if nobody keeps it, the name is what it counts as."""


def deliver(attempts: Attempts, whole: P, split: Callable[[P], Sequence[P]]) -> Delivered[P]:
    """See `whole` through to its outcomes, in parts if it is too large; never raises."""
    delivered: Delivered[P] = Delivered()
    fates = delivered.fates
    for part, outcome in attempts.send_all(whole, split):
        match outcome.fate:
            case Fate.ACCEPTED:
                fates["spans_sent"] += part.items - outcome.rejected
                fates["spans_refused"] += outcome.rejected
            case Fate.EXPIRED:
                delivered.left.append((TIMEOUT, part))
            case Fate.STOPPED:
                delivered.left.append((SHUTDOWN, part))
            case Fate.FAILED:
                fates["spans_dropped_error"] += part.items
            case _:
                fates["spans_dropped_status"] += part.items
    return delivered


def halves(request: Request) -> tuple[Request, Request]:
    """The first spans of `request` and the others, each with the resource that they have.

    It is rare, so it may take its time.

    Raises:
        google.protobuf.message.DecodeError: the body is no request.
    """
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415
        ExportTraceServiceRequest,
    )

    first, second = ExportTraceServiceRequest(), ExportTraceServiceRequest()
    middle = left = request.items // 2
    for group in ExportTraceServiceRequest.FromString(request.body).resource_spans:
        for scope in group.scope_spans:
            cut = min(left, len(scope.spans))
            left -= cut
            for message, spans in ((first, scope.spans[:cut]), (second, scope.spans[cut:])):
                if spans:
                    message.resource_spans.add(
                        resource=group.resource, schema_url=group.schema_url
                    ).scope_spans.add(scope=scope.scope, schema_url=scope.schema_url, spans=spans)
    return (
        Request(first.SerializeToString(), middle),
        Request(second.SerializeToString(), request.items - middle),
    )
