# SPDX-License-Identifier: Apache-2.0
"""The exporters' part of `make bench`: what a span costs on its way out.

Each part on its own, on the same spans, and the whole agent with all of them: capture bytes
to gzip'd OTLP requests, metrics and map. Process CPU time; the median of some rounds.
"""

from __future__ import annotations

import statistics
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from bench import Encoding, Prepared, conversation

from exporters.metrics import MetricsExporter
from exporters.otlp_wire import EncodedSpan, RequestEncoder
from exporters.sampling import sampled
from exporters.service_map import MapExporter
from exporters.settings import BATCH_SPANS
from exporters.transport_http import GZIP_FORMAT, GZIP_LEVEL
from parsers.registry import Registry
from tracer.pipeline import Pipeline
from tracer.span import Span

ROUNDS = 7


class Sending(Encoding):
    """What the OTLP exporter does with spans, but for the network."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = RequestEncoder()
        self.waiting: list[EncodedSpan] = []

    def export(self, spans: Sequence[Span]) -> None:
        self.waiting += self.encoder.encode(spans)
        while len(self.waiting) >= BATCH_SPANS:
            batch, self.waiting = self.waiting[:BATCH_SPANS], self.waiting[BATCH_SPANS:]
            body = zlib.compress(self.requests.encode(batch), GZIP_LEVEL, GZIP_FORMAT)
            self.bytes += len(body)


class Keeping(Sending):
    """Keeps the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Sequence[Span]] = []

    def export(self, spans: Sequence[Span]) -> None:
        self.batches.append(spans)


def measuring() -> MetricsExporter:
    return MetricsExporter.from_options({"otlp": "false", "prometheus": "127.0.0.1:0"})


def drawing() -> Any:
    return MapExporter(since_s=3600)


def sampling() -> Any:
    return sampled(Keeping(), {"sample": "0.1"}, {})


def cost(make: Callable[[], Any], batches: Iterable[Sequence[Span]]) -> float:
    """Microseconds a span, of the later rounds: caches are warm, as they are in an agent."""
    exporter = make()
    costs = []
    for _ in range(ROUNDS):
        before = time.process_time()
        count = 0
        for spans in batches:
            exporter.export(spans)
            count += len(spans)
        costs.append((time.process_time() - before) / count * 1e6)
    exporter.close()
    return statistics.median(costs)


def bench_parts() -> None:
    """Each exporter alone."""
    print("\nExporters, us a span")
    for unique in (False, True):
        keeping = Keeping()
        Pipeline(
            Prepared(conversation(50, 400, unique=unique)), Registry.load(), [keeping], seed=1
        ).run()
        name = "every request different" if unique else "requests that repeat"
        parts = {
            "to gzip'd OTLP bytes": Sending,
            "metrics": measuring,
            "map": drawing,
            "sampling at 10 %": sampling,
        }
        found = ", ".join(
            f"{what} {cost(make, keeping.batches):.1f}" for what, make in parts.items()
        )
        print(f"  {name:<24} {found}")


def bench_agent() -> None:
    """From ring-buffer bytes to gzip'd requests, metrics and map."""
    print("The whole agent with metrics and map, us an HTTP/1 exchange")
    for unique in (False, True):
        batches = conversation(50, 400, unique=unique)
        costs = []
        for _ in range(ROUNDS):
            exporters = [Sending(), measuring(), drawing()]
            pipeline = Pipeline(Prepared(batches), Registry.load(), exporters, seed=1)
            before = time.process_time()
            pipeline.run()
            costs.append((time.process_time() - before) / pipeline.spans_made * 1e6)
            for each in exporters:
                each.close()
        name = "every request different" if unique else "requests that repeat"
        print(f"  {name:<24} {statistics.median(costs):.1f} (best {min(costs):.1f})")


if __name__ == "__main__":
    bench_parts()
    bench_agent()
