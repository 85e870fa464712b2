# SPDX-License-Identifier: Apache-2.0
"""Checks of a machine and the report of them: what was found, what is lost, what mends it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import Enum
from textwrap import fill
from typing import Final

WIDTH: Final = 80
"""Columns of the text report."""
STATE_COLUMN: Final = 10
NAME_COLUMN: Final = 13


class State(Enum):
    """How a check ended."""

    OK = "ok"
    DEGRADED = "degraded"
    """Capture works, and something is lost."""
    MISSING = "missing"
    """Capture is not possible."""


@dataclass(slots=True, frozen=True)
class Check:
    """One thing that capture needs or is better with."""

    name: str
    state: State
    finding: str
    """What was found."""
    lost: str = ""
    """What does not work because of it; empty if nothing."""
    remedy: str = ""
    """What mends it; empty if there is nothing to mend."""


@dataclass(slots=True, frozen=True)
class Report:
    """All checks of one machine."""

    checks: tuple[Check, ...]

    @property
    def can_capture(self) -> bool:
        return not self._having(State.MISSING)

    def sentence(self) -> str:
        """The verdict and, where it is no, what to do first."""
        missing = self._having(State.MISSING)
        if missing:
            first, others = missing[0], len(missing) - 1
            more = f" There {_count(others, 'more reason')}." if others else ""
            return f"Capture is not possible here: {first.finding}. {first.remedy}{more}"
        limits = len(self._having(State.DEGRADED))
        if limits:
            return f"Capture is possible here; there {_count(limits, 'limit')}."
        return "Capture is possible here."

    def text(self) -> str:
        """The report for a terminal."""
        lines = [fill(self.sentence(), WIDTH), ""]
        for check in self.checks:
            lines.append(_row(check.state.value, check.name, check.finding))
            if check.lost:
                lines.append(_row("", "lost", check.lost))
            if check.remedy:
                lines.append(_row("", "remedy", check.remedy))
        return "\n".join(lines)

    def json(self) -> str:
        """The report for a program: one object on one line."""
        checks = [asdict(check) | {"state": check.state.value} for check in self.checks]
        return json.dumps(
            {"can_capture": self.can_capture, "sentence": self.sentence(), "checks": checks},
            ensure_ascii=False,
        )

    def _having(self, state: State) -> list[Check]:
        return [check for check in self.checks if check.state is state]


def ok(name: str, finding: str) -> Check:
    """What was found, and nothing is wrong with it."""
    return Check(name, State.OK, finding)


def degraded(name: str, finding: str, *, lost: str, remedy: str = "") -> Check:
    """What works less well than it could."""
    return Check(name, State.DEGRADED, finding, lost, remedy)


def missing(name: str, finding: str, *, lost: str = "all capture", remedy: str) -> Check:
    """What makes capture impossible."""
    return Check(name, State.MISSING, finding, lost, remedy)


def _count(number: int, noun: str) -> str:
    return f"is 1 {noun}" if number == 1 else f"are {number} {noun}s"


def _row(state: str, name: str, text: str) -> str:
    head = f"{state:<{STATE_COLUMN}}{name:<{NAME_COLUMN}}"
    return fill(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
