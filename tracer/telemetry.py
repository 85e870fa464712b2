# SPDX-License-Identifier: Apache-2.0
"""What the agent says about itself: one number with its name, for whoever shows numbers.

The terms are OpenTelemetry's, without its classes: who makes readings (tracer/health.py) knows
no exporter, and who shows them knows nothing of pipelines and kernels.

OTel: https://opentelemetry.io/docs/specs/otel/metrics/data-model/ 1.60.0
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, TypeAlias

ReadingKind: TypeAlias = Literal["counter", "gauge"]


class Reading(NamedTuple):
    """One value at the time it was asked for."""

    name: str
    """With dots, `wirespan.kernel.events`: ours under `wirespan.`, others as in the conventions."""
    kind: ReadingKind
    """`counter`: a total since the start, which never falls. `gauge`: what is so now."""
    unit: str
    """UCUM: `s`, `By`, `{span}`, `1`."""
    description: str
    """One sentence without a full stop at its end."""
    value: int | float
    attributes: tuple[tuple[str, str], ...] = ()
    """In order of keys. Name and attributes together are unique among the readings."""


Readings: TypeAlias = Callable[[], Iterable[Reading]]
"""Gives all readings as they are now. May be called from any thread, also while the agent ends."""
