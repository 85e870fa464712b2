# SPDX-License-Identifier: Apache-2.0
"""The exporter port: what the pipeline hands spans to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from tracer.span import Span


class Exporter(Protocol):
    """Takes spans. Called from the pipeline's thread only."""

    def export(self, spans: Sequence[Span]) -> None:
        """Take the spans of one batch; must not wait for a network or a disk."""
        ...

    def flush(self, timeout_s: float) -> bool:
        """Deliver what is queued; False if some is left when the time is up."""
        ...

    def close(self) -> None:
        """Let go of everything. Called once, after `flush`."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Totals since start by name: spans sent, refused, dropped and why."""
        ...
