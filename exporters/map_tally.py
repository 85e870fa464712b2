# SPDX-License-Identifier: Apache-2.0
"""What went over one edge of the service map in one slot of time, added up.

Spans come by the hundred, so each measure is one pass of its own over all of them: that costs a
third of what a method call for each span would. Durations are counted by the logarithm of their
nanoseconds; for quantiles they become the exponential histogram that OpenTelemetry has.

OTel: https://opentelemetry.io/docs/specs/otel/metrics/data-model/ 1.60.0, ExponentialHistogram
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from math import log2
from operator import mul
from typing import Final

from exporters.histograms import ExponentialHistogram
from exporters.map_model import Buckets, Latency, NodeKind
from parsers.model import Completeness
from tracer.span import Span

SCALE: Final = 4
"""Sixteen buckets for each power of two: a quantile is at most 2.2 % wrong."""
MAX_BUCKETS: Final = 64 << SCALE
"""All that 64 bits of nanoseconds can fall into, so the scale never changes."""
MAX_NS: Final = (1 << 63) - 1
RTT_EACH: Final = 8
"""Of how many exchanges one is asked for the round-trip time, which TCP has smoothed already."""

_COMPLETE: Final = Completeness.COMPLETE
_PER_OCTAVE: Final = float(1 << SCALE)


class Tally:
    """Sums; `durations` and `rtts` are counts by bucket."""

    __slots__ = (
        "client_kind",
        "count",
        "durations",
        "errors",
        "first_ns",
        "generation",
        "incomplete",
        "last_ns",
        "max_ns",
        "request_bytes",
        "response_bytes",
        "rtt_min_us",
        "rtts",
        "server_kind",
        "unnamed",
    )

    def __init__(self, generation: int = 0) -> None:
        self.generation = generation
        """Of the snapshot after which it was made: an older one is read by others."""
        self.client_kind = NodeKind.USER
        self.server_kind = NodeKind.USER
        self.unnamed = False
        """The client is known by its address only."""
        self.count = 0
        self.errors = 0
        self.incomplete = 0
        self.request_bytes = 0
        self.response_bytes = 0
        self.first_ns = MAX_NS
        self.last_ns = 0
        self.max_ns = 0
        self.rtt_min_us = 0
        self.durations: Counter[int] = Counter()
        self.rtts: Counter[int] = Counter()

    def add(self, spans: Sequence[Span]) -> None:
        """Add some spans at least."""
        starts = [span.start_unix_ns for span in spans]
        ends = [span.end_unix_ns for span in spans]
        took = [end - start for start, end in zip(starts, ends, strict=True)]
        if min(took) < 1:
            took = [max(1, duration) for duration in took]
        self.count += len(spans)
        self.errors += sum([1 for span in spans if span.outline.error_type is not None])
        self.incomplete += sum([1 for span in spans if span.completeness is not _COMPLETE])
        self.request_bytes += sum([span.request_bytes for span in spans])
        self.response_bytes += sum([span.response_bytes for span in spans])
        self.first_ns = min(self.first_ns, min(starts))  # noqa: PLW3301  # flat, it would copy
        self.last_ns = max(self.last_ns, max(ends))  # noqa: PLW3301
        self.max_ns = max(self.max_ns, max(took))  # noqa: PLW3301
        self.durations.update(_bucket_of_each(took))
        rtts = [span.rtt_us for span in spans[::RTT_EACH] if span.rtt_us > 0]
        if rtts:
            least = min(rtts)
            self.rtt_min_us = min(self.rtt_min_us or least, least)
            self.rtts.update(_bucket_of_each(rtts))

    def merge(self, other: Tally) -> None:
        """Add all of `other`."""
        self.client_kind = max(self.client_kind, other.client_kind)
        self.server_kind = max(self.server_kind, other.server_kind)
        self.unnamed = self.unnamed or other.unnamed
        self.count += other.count
        self.errors += other.errors
        self.incomplete += other.incomplete
        self.request_bytes += other.request_bytes
        self.response_bytes += other.response_bytes
        self.first_ns = min(self.first_ns, other.first_ns)
        self.last_ns = max(self.last_ns, other.last_ns)
        self.max_ns = max(self.max_ns, other.max_ns)
        if other.rtt_min_us:
            self.rtt_min_us = min(self.rtt_min_us or other.rtt_min_us, other.rtt_min_us)
        self.durations.update(other.durations)
        self.rtts.update(other.rtts)

    def copy(self, generation: int = 0) -> Tally:
        """Another one that is equal."""
        made = Tally(generation)
        made.merge(self)
        return made

    def latency(self) -> Latency:
        """Quantiles and distribution; there must be spans."""
        histogram = _histogram(self.durations)
        histogram.max = float(self.max_ns)
        histogram.min = 0.0
        return Latency(
            histogram.quantile(0.5) / 1e9,
            histogram.quantile(0.95) / 1e9,
            histogram.quantile(0.99) / 1e9,
            self.max_ns / 1e9,
            _buckets(self.durations),
        )

    def rtt_median_s(self) -> float | None:
        """Of the round-trip times that were asked for; None if TCP knew none."""
        if not self.rtts:
            return None
        return max(_histogram(self.rtts).quantile(0.5), float(self.rtt_min_us)) / 1e6

    def rtt_min_s(self) -> float | None:
        """The smallest of them."""
        return self.rtt_min_us / 1e6 if self.rtt_min_us else None


def _bucket_of_each(values: Iterable[int]) -> Iterator[int]:
    """The buckets of whole numbers above zero."""
    return map(int, map(mul, map(log2, values), repeat(_PER_OCTAVE)))


def _histogram(counts: Mapping[int, int]) -> ExponentialHistogram:
    """The same as the histogram that knows quantiles; without extremes."""
    made = ExponentialHistogram(MAX_BUCKETS, SCALE)
    low = min(counts)
    made.offset = low
    made.counts = [counts.get(bucket, 0) for bucket in range(low, max(counts) + 1)]
    made.count = sum(made.counts)
    return made


def _buckets(counts: Mapping[int, int]) -> Buckets:
    used = sorted(counts)
    upper_s = tuple([float(f"{2 ** ((bucket + 1) / _PER_OCTAVE) / 1e9:.6g}") for bucket in used])
    return Buckets(upper_s, tuple([counts[bucket] for bucket in used]))
