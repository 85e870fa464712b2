# SPDX-License-Identifier: Apache-2.0
"""No exporter: spans are made, counted and let go. For measuring, and for `--export none`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tracer.export import Exporter
from tracer.span import Span


class NoneExporter(Exporter):
    """Takes everything and sends nothing."""

    def __init__(self) -> None:
        self._discarded = 0

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> NoneExporter:
        """An exporter to nowhere.

        Raises:
            ValueError: there is an option; it has none.
        """
        if options:
            raise ValueError(f"no option is called {', '.join(sorted(options))}")
        return cls()

    def export(self, spans: Sequence[Span]) -> None:
        self._discarded += len(spans)

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self) -> None:
        """Nothing to let go of."""

    def counters(self) -> Mapping[str, int]:
        return {"spans_discarded": self._discarded}
