# SPDX-License-Identifier: Apache-2.0
"""Log lines about what may go wrong a thousand times a second."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

LOG_INTERVAL_S: Final = 30.0
MAX_CAUSES: Final = 64


class RareLog:
    """Passes on one line for each cause every 30 s, and counts what it keeps back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._silent_until: dict[str, float] = {}
        self._kept_back: Counter[str] = Counter()
        self._lock = threading.Lock()

    def say(self, cause: str, text: str) -> None:
        """Warn with `text`, unless something was said of `cause` a moment ago."""
        with self._lock:
            now = self._clock()
            if now < self._silent_until.get(cause, now):
                self._kept_back[cause] += 1
                return
            if len(self._silent_until) >= MAX_CAUSES:
                self._silent_until.clear()
                self._kept_back.clear()
            self._silent_until[cause] = now + LOG_INTERVAL_S
            times = self._kept_back.pop(cause, 0)
        logger.warning("%s%s", text, f" ({times} more like it)" if times else "")
