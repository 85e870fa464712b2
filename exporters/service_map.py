# SPDX-License-Identifier: Apache-2.0
"""The service map as an exporter: for a command that prints it, and for a running agent.

With a `style` the map is written when the run ends. With a `socket` whoever asks there gets the
map of the last hour, or of less with `since`:

    curl --unix-socket /run/wirespan/agent.sock 'http://agent/map?style=text&since=300'
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TextIO, get_args

from exporters.agent_socket import AgentSocket, Reply
from exporters.environment import Reader, count, seconds
from exporters.map_collector import KEPT_S, Collector
from exporters.map_formats import STYLES, Style, render
from exporters.map_text import DEFAULT_WIDTH, Color, Look, look_of
from tracer.export import Exporter
from tracer.span import Span
from tracer.telemetry import Readings

OPTIONS: Final = frozenset({"socket", "style", "width", "color", "since"})
MIN_WIDTH: Final = 40
MAX_WIDTH: Final = 1000
CONTENT_TYPES: Final[Mapping[str, str]] = {
    "text": "text/plain; charset=utf-8",
    "json": "application/json",
    "mermaid": "text/plain; charset=utf-8",
    "dot": "text/vnd.graphviz; charset=utf-8",
}


class MapExporter(Exporter):
    """Collects spans to a map; writes it when closed, or gives it to who asks."""

    def __init__(
        self,
        *,
        style: Style | None = None,
        stream: TextIO | None = None,
        width: int | None = None,
        color: Color = "auto",
        since_s: float | None = None,
        socket: str | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`stream` None: standard output as it is when the map is written.

        Raises:
            ValueError: the socket cannot be had, in words for the user.
        """
        kept_s = KEPT_S if socket else since_s
        self.collector = Collector(kept_s, clock=clock)
        self._style = style
        self._stream = stream
        self._width = width
        self._color: Color = color
        self._since_s = since_s
        self._socket = AgentSocket(socket, {"/map": self.answer}) if socket else None

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> MapExporter:
        """An exporter that has at least a `style` or a `socket`.

        `style` is text, json, mermaid or dot; `width` in columns, `color` and `since` (seconds)
        are for it. `socket` is a path.

        Raises:
            ValueError: an option is unknown or bad, or the socket cannot be had.
        """
        if strange := options.keys() - OPTIONS:
            raise ValueError(f"no option is called {', '.join(sorted(strange))}")
        if not options.get("style") and not options.get("socket"):
            raise ValueError("a style or a socket is needed, or nobody would see the map")
        reader = _reader(options)
        return cls(
            style=_style(options["style"]) if options.get("style") else None,
            width=_width(reader),
            color=_color(options.get("color") or "auto"),
            since_s=reader.override("since", seconds),
            socket=options.get("socket") or None,
        )

    def observe(self, readings: Readings) -> None:
        """Capture begins: rates are of the time from now on."""
        self.collector.begin()

    def export(self, spans: Sequence[Span]) -> None:
        self.collector.add(spans)

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self) -> None:
        """Give the socket up, and write the map if a style was given."""
        if self._socket is not None:
            self._socket.close()
        if self._style is None:
            return
        style, self._style = self._style, None
        stream = self._stream or sys.stdout
        look = look_of(stream, width=self._width, color=self._color)
        found = render(self.collector.snapshot(self._since_s), style, look)
        # A line at a time, as exporters/console.py does, for pipes that take only a part.
        stream.writelines(found.splitlines(keepends=True))
        stream.flush()

    def counters(self) -> Mapping[str, int]:
        if self._socket is None:
            return self.collector.counters()
        return {**self.collector.counters(), **self._socket.counters()}

    def answer(self, query: Mapping[str, str]) -> Reply:
        """The map for who asks over the socket; keys as the options have them.

        Raises:
            ValueError: one of them is unknown or bad.
        """
        if strange := query.keys() - {"style", "since", "width", "color"}:
            known = "style, since, width, color"
            raise ValueError(f"{', '.join(sorted(strange))}: there are only {known}")
        style = _style(query.get("style", "json"))
        reader = _reader(query)
        since_s = reader.override("since", seconds)
        look = Look(
            _width(reader) or DEFAULT_WIDTH, _color(query.get("color", "never")) == "always"
        )
        found = render(self.collector.snapshot(since_s), style, look)
        return CONTENT_TYPES[style], found.encode(errors="backslashreplace")


def _style(value: str) -> Style:
    if value not in STYLES:
        raise ValueError(f"style: {value!r} is none of {', '.join(STYLES)}")
    return value  # type: ignore[return-value]  # it is one of the literals


def _color(value: str) -> Color:
    if value not in get_args(Color):
        raise ValueError(f"color: {value!r} is none of {', '.join(get_args(Color))}")
    return value  # type: ignore[return-value]  # it is one of the literals


def _reader(options: Mapping[str, str]) -> Reader:
    """Of options alone; an empty one is none."""
    return Reader({}, {name: value for name, value in options.items() if value})


def _width(reader: Reader) -> int | None:
    columns = reader.override("width", count)
    return None if columns is None else min(MAX_WIDTH, max(MIN_WIDTH, columns))
