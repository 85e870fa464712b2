# SPDX-License-Identifier: Apache-2.0
"""Between the pipeline and its exporters: none can hinder another, and what passes is counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Final

from tracer.export import Exporter
from tracer.span import Span
from tracer.summary import Seen

PRINTING: Final = ("console", "map")
"""Exporters to standard output: when nobody reads it any more, the run is over."""

log = logging.getLogger(__name__)


class Gate(Exporter):
    """Hands spans on until there were enough, and counts them."""

    def __init__(self, exporters: Mapping[str, Exporter], limit: int | None) -> None:
        self.exporters = dict(exporters)
        self.lacking: list[str] = []
        """What could not be had and is not needed, in sentences."""
        self.seen = Seen()
        self.full = False
        self.failures: dict[str, int] = {}
        """Spans that an exporter let fall by raising, by its name."""
        self._left = limit
        self._closed = False

    def export(self, spans: Sequence[Span]) -> None:
        if self._left is not None:
            spans = spans[: self._left]
            self._left -= len(spans)
            self.full = self._left == 0
        if not spans:
            return
        self.seen.add(spans)
        for name, exporter in self.exporters.items():
            try:
                exporter.export(spans)
            except OSError as error:
                if name in PRINTING:
                    raise  # nobody reads it any more, or there is no room
                self._failed(name, len(spans), error)
            except Exception as error:  # noqa: BLE001 - logged; the other exporters go on
                self._failed(name, len(spans), error)

    def flush(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        done = True
        for name, exporter in self.exporters.items():
            try:
                done &= exporter.flush(max(0.0, deadline - time.monotonic()))
            except Exception as error:  # noqa: BLE001 - as in `export`
                self._failed(name, 0, error)
                done = False
        return done

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            unwritten = None
            for name, exporter in self.exporters.items():
                try:
                    exporter.close()
                except OSError as error:
                    if name in PRINTING:
                        unwritten = error
                    else:
                        self._failed(name, 0, error)
                except Exception as error:  # noqa: BLE001 - as in `export`
                    self._failed(name, 0, error)
            if unwritten is not None:
                raise unwritten

    def _failed(self, name: str, spans: int, error: Exception) -> None:
        """An exporter has let `spans` fall."""
        if name not in self.failures:
            log.error("exporter %s has failed", name, exc_info=error)
        self.failures[name] = self.failures.get(name, 0) + spans

    def counters(self) -> Mapping[str, int]:
        return {}

    def counters_by_exporter(self) -> dict[str, Mapping[str, int]]:
        """Of each exporter, and what it let fall by raising."""
        return {
            name: {**each.counters(), "spans_dropped_fault": self.failures.get(name, 0)}
            for name, each in self.exporters.items()
        }
