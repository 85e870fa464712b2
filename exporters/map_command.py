# SPDX-License-Identifier: Apache-2.0
"""`wirespan map` without a pipeline: two maps compared, and the map of a running agent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from exporters import map_diff
from exporters.agent_socket import DEFAULT_PATH, AgentSocketError, NoAgentError, ask
from exporters.map_formats import Style, from_json, render
from exporters.map_model import ServiceMap
from exporters.map_text import Color, look_of

__all__ = ["MapError", "NoAgentError", "diff", "from_agent"]

STANDARD_INPUT: Final = "-"
MAX_BYTES: Final = 256 << 20
"""Of a map's file: 4096 edges with all their buckets have a tenth of that."""


class MapError(ValueError):
    """A map cannot be had, in words for the user."""


def diff(
    before: str,
    after: str,
    *,
    style: Style = "text",
    width: int | None = None,
    color: Color = "auto",
) -> str:
    """What has changed between the maps in two JSON files; `-` is standard input.

    Width None: as the terminal of standard output is.

    Raises:
        MapError: a file cannot be read or is no map, or the style is none of text and json.
    """
    if style not in {"text", "json"}:
        raise MapError(f"a difference is text or json, and not {style}")
    if before == after == STANDARD_INPUT:
        raise MapError("only one of two maps can come from standard input")
    try:
        found = map_diff.compare(_read(before), _read(after))
    except ArithmeticError as error:
        raise MapError("a map has numbers that no machine counts to") from error
    if style == "json":
        return map_diff.to_json(found)
    return map_diff.to_text(found, look_of(sys.stdout, width=width, color=color))


def from_agent(
    socket: str = DEFAULT_PATH,
    *,
    style: Style = "text",
    since_s: float | None = None,
    width: int | None = None,
    color: Color = "auto",
) -> str:
    """The map of the agent that listens at `socket`: of the last hour, or of `since_s` seconds.

    It is rendered here, for this terminal.

    Raises:
        NoAgentError: no agent runs there.
        AgentSocketError: it may not be asked, or its answer is not understood.
    """
    query = {"style": "json"}
    if since_s is not None:
        query["since"] = f"{since_s:.9f}"
    body = ask(socket, f"/map?{urlencode(query)}")
    try:
        found = from_json(body)
    except ValueError as error:
        raise AgentSocketError(
            f"what the agent at {socket} answers {error}: is it of another version?"
        ) from error
    return render(found, style, look_of(sys.stdout, width=width, color=color))


def _read(name: str) -> ServiceMap:
    """The map in a file."""
    shown = "standard input" if name == STANDARD_INPUT else name
    try:
        if name == STANDARD_INPUT:
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise MapError(f"{shown}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise MapError(f"{shown} is too large for a service map")
    try:
        return from_json(data)
    except ValueError as error:
        raise MapError(f"{shown} {error}") from error
