# SPDX-License-Identifier: Apache-2.0
"""What sessions could not turn into an exchange, by name."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """What sessions could not turn into an exchange, by name. Shared by many sessions."""

    exchanges: int = 0
    unpaired_responses: int = 0
    """Responses whose request was not seen, or was given up before."""
    abandoned_requests: int = 0
    """Requests of connections that turned out to speak something else."""
    cut_requests: int = 0
    """Requests whose head had begun when the rest of it was lost."""
    gap_bytes: int = 0
    """Bytes that were needed and not captured."""
    overlap_bytes: int = 0
    """Bytes that came twice: two threads that wrote to one socket at once."""
    parse_errors: dict[str, int] = field(default_factory=dict)
    """By protocol."""
    demotions: int = 0
    """Connections whose protocol was taken back."""
    limits: int = 0
    """Times that a buffer, a retry or a queue reached its bound."""
