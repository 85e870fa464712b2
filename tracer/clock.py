# SPDX-License-Identifier: Apache-2.0
"""From CLOCK_BOOTTIME, which the kernel stamps events with, to the time of day.

The distance between the two is no constant: NTP steps and slews one of them, and
CLOCK_MONOTONIC would stop in suspend besides. So it is measured again for every batch,
and a span's times use the distance as it was when its events came.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

ATTEMPTS: Final = 3
"""One reading in many is torn apart by an interrupt; the tightest of three is not."""


def _boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def unix_offset_ns(
    boottime_ns: Callable[[], int] = _boottime_ns, unix_ns: Callable[[], int] = time.time_ns
) -> int:
    """What to add to a CLOCK_BOOTTIME to get nanoseconds since 1970; takes about 1 us."""
    best_offset = best_width = -1
    for _ in range(ATTEMPTS):
        before = boottime_ns()
        unix = unix_ns()
        after = boottime_ns()
        width = after - before
        if best_width < 0 or width < best_width:
            best_width = width
            best_offset = unix - (before + after) // 2
    return best_offset
