# SPDX-License-Identifier: Apache-2.0
"""What the tests of the spool share."""

from __future__ import annotations

import random

from exporters.delivery import Request


def request_of(number, size=1000):
    """A request that cannot be compressed."""
    return Request(random.Random(number).randbytes(size), number)


def balance(spool):
    """Zero."""
    counters = spool.counters
    return (
        counters["spans_inherited"]
        + counters["spans_spooled"]
        - counters["spans_unspooled"]
        - counters["spans_dropped_spool_full"]
        - counters["spans_dropped_spool_corrupt"]
        - spool.spans
    )


def files(directory):
    return sorted(directory.glob("*.spool"))
