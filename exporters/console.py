# SPDX-License-Identifier: Apache-2.0
"""Spans for people: a line each, on a terminal, in a file or in a pipe.

    TIME           TOOK   PROCESS          STAT REQUEST                   SIZES PEER
    22:13:20.123 1.24ms ← nginx(4312)       200 GET /api/users/42   78/1.2K 10.0.0.5
    22:13:20.131  30.0s → python3(988)     ✗--- GET /cart [timeout]   78/- shop:8080
    22:13:20.140 4.10ms ← nginx(4312)      ~200 GET /events [gap]   78/118M 10.0.0.5

The arrow says which way the request went: `←` into the process, `→` out of it, `·` where
that is not known. `✗` marks an error, `~` an exchange that is not known in full; what is
in brackets says why. Sizes are of request and response, on the wire.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import Final, Literal, TextIO, get_args

from exporters.jsonlines import JsonLines
from exporters.lines import ASCII, UNICODE, UNLIMITED, Lines, Plan, compact, wide
from tracer.export import Exporter
from tracer.span import Span

Style = Literal["compact", "wide", "json"]
Color = Literal["auto", "always", "never"]

COMPACT_WIDTH: Final = 80
"""Of the compact style where there is no terminal to ask."""
MAX_COMPACT_WIDTH: Final = 120
"""On a wider terminal the eye would lose the line."""


class ConsoleExporter(Exporter):
    """Writes to a text stream and flushes it after each batch.

    `BrokenPipeError` passes through `export`, for the command line to end on: the reader
    (`| head`) has seen enough.
    """

    def __init__(
        self,
        stream: TextIO,
        style: Style = "compact",
        *,
        color: Color = "auto",
        width: int | None = None,
        header: bool | None = None,
        time_zone: tzinfo | None = None,
    ) -> None:
        """Width and header None: as the terminal is, and if it is one; zone None: local time."""
        terminal = stream.isatty()
        self._stream = stream
        self._style = style
        self._width = width
        self._terminal = terminal
        self._header = terminal if header is None else header
        self._color = color == "always" or (color == "auto" and terminal)
        self._time_zone = time_zone
        self._signs = UNICODE if _has_unicode(stream) else ASCII
        self._json = JsonLines()
        self._lines: Lines | None = None
        self._written = 0

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> ConsoleExporter:
        """An exporter to standard output; options are `style`, `color` and `width`.

        Raises:
            ValueError: an option is unknown or bad.
        """
        if strange := options.keys() - {"style", "color", "width"}:
            raise ValueError(f"no option is called {', '.join(sorted(strange))}")
        style: Style = options.get("style", "compact")  # type: ignore[assignment]
        color: Color = options.get("color", "auto")  # type: ignore[assignment]
        for name, value, known in (("style", style, Style), ("color", color, Color)):
            if value not in get_args(known):
                raise ValueError(f"{name}: {value!r} is none of {', '.join(get_args(known))}")
        width = options.get("width", "")
        if width and not (width.isascii() and width.isdigit()):
            raise ValueError(f"width: {width!r} is no number of columns")
        return cls(sys.stdout, style, color=color, width=int(width) if width else None)

    def export(self, spans: Sequence[Span]) -> None:
        if not spans:
            return
        if self._style == "json":
            lines = [self._json.line(span) for span in spans]
        else:
            layout = self._layout()
            lines = [layout.line(span) for span in spans]
            if self._header:
                lines.insert(0, layout.header())
                self._header = False
        # One write a line: where PYTHONUNBUFFERED is set, as in many containers, a large write
        # that a pipe takes only in part loses the rest.
        self._stream.writelines([line + "\n" for line in lines])
        self._stream.flush()
        self._written += len(spans)

    def flush(self, timeout_s: float) -> bool:
        self._stream.flush()
        return True

    def close(self) -> None:
        """Leave the stream open: it is not ours."""

    def counters(self) -> Mapping[str, int]:
        return {"spans_written": self._written}

    def _layout(self) -> Lines:
        """The layout for the terminal as wide as it is now."""
        plan = self._plan()
        if self._lines is None or self._lines.plan != plan:
            self._lines = Lines(
                plan, signs=self._signs, color=self._color, time_zone=self._time_zone
            )
        return self._lines

    def _plan(self) -> Plan:
        width = self._width
        if width is None and self._terminal:
            width = shutil.get_terminal_size().columns
            if self._style == "compact":
                width = min(width, MAX_COMPACT_WIDTH)
        if self._style == "compact":
            return compact(width or COMPACT_WIDTH)
        return wide(width or UNLIMITED)


def _has_unicode(stream: TextIO) -> bool:
    """Whether the stream can carry any character, as UTF-8 can."""
    try:
        "←✗…µ\U0001f600".encode(stream.encoding or "utf-8")
    except (LookupError, UnicodeEncodeError):
        return False
    return True
