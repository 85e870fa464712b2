# SPDX-License-Identifier: Apache-2.0
"""What a run saw, what it lost, and what to do about it: the lines printed at its end."""

from __future__ import annotations

import textwrap
from collections import Counter as Count
from collections.abc import Iterable, Mapping
from typing import Final

from parsers.model import Completeness
from tracer.connections import ConnectionTable
from tracer.events import Cause
from tracer.source import Counter
from tracer.span import Span

WIDTH: Final = 80

REASONS: Final = {
    Cause.RING_FULL: "the ring buffer was full: filter more, or raise --buffer",
    Cause.SENDFILE: "sendfile: bodies without a user buffer",
    Cause.SPLICE: "splice: no user buffer",
    Cause.IO_URING: "io_uring: no system call names the buffer",
    Cause.COMPAT: "32-bit programs are not read",
    Cause.FAULT: "user memory that could not be read",
    Cause.DISCARDED: "thrown away by the program itself (MSG_TRUNC)",
    Cause.UNSEEN: "passed where no hook is (splice from a socket)",
    Cause.OTHER_CALL: "sent or received by a call that is not known",
    Cause.NO_STORAGE: "the kernel had no memory for the socket's state",
}
"""Causes of a loss, in words. The rest of `Cause` is no loss: nobody wanted those bytes."""


class Seen:
    """Counts of the spans that went by."""

    __slots__ = ("completeness", "errors", "kinds")

    def __init__(self) -> None:
        self.completeness: Count[Completeness] = Count()
        self.kinds: Count[str] = Count()
        self.errors = 0

    def add(self, spans: Iterable[Span]) -> None:
        """Count some more."""
        for span in spans:
            self.completeness[span.completeness] += 1
            self.kinds[span.kind.name.lower()] += 1
            self.errors += span.outline.error_type is not None


def summarise(
    seen: Seen,
    table: ConnectionTable,
    kernel: Mapping[Cause, Counter],
    exporters: Mapping[str, Mapping[str, int]],
    elapsed_s: float,
    unused: Mapping[str, int],
) -> list[str]:
    """The lines, each at most 80 columns."""
    total = sum(seen.completeness.values())
    first = f"{_count(total, 'exchange')} in {elapsed_s:.1f} s"
    if seen.kinds:
        kinds = (f"{count:,} {kind}" for kind, count in sorted(seen.kinds.items()))
        first += f" ({', '.join(kinds)})"
    if seen.errors:
        first += f", {seen.errors:,} failed"
    lines = [first]
    partial = [
        f"{count:,} {kind.value.replace('_', ' ')}"
        for kind, count in seen.completeness.items()
        if kind is not Completeness.COMPLETE
    ]
    if table.in_flight:
        partial.append(f"{table.in_flight:,} still waiting for a response")
    if partial:
        lines.append("not whole: " + ", ".join(sorted(partial)))
    lines.extend(_kernel_lines(kernel))
    lines.extend(f"{count:,} {text}" for text, count in unused.items() if count)
    lines.extend(_table_lines(table))
    for name, counters in exporters.items():
        lost = [
            f"{count:,} {key.replace('_', ' ')}"
            for key, count in sorted(counters.items())
            if count and ("drop" in key or "refused" in key)
        ]
        if lost:
            lines.append(f"{name}: " + ", ".join(lost))
    return [part for line in lines for part in _fold(line)]


def _kernel_lines(kernel: Mapping[Cause, Counter]) -> list[str]:
    if not kernel:
        # A recording says it at its end, and was not read so far.
        return []
    delivered = kernel.get(Cause.DELIVERED, Counter())
    lost = {cause: kernel[cause] for cause in REASONS if kernel.get(cause, Counter()).events}
    lines = [
        f"{_count(delivered.events, 'transfer')}, {_count(delivered.bytes, 'byte')}; "
        + ("not read:" if lost else "none lost")
    ]
    for cause, counter in lost.items():
        name = cause.name.lower().replace("_", " ")
        line = f"  {name}: {_count(counter.events, 'transfer')}, {_count(counter.bytes, 'byte')}"
        if cause is Cause.RING_FULL:
            began = (
                (counter.requests, "request"),
                (counter.responses, "response"),
                (counter.turns, "turn"),
            )
            line += "".join(f", {_count(count, noun)}" for count, noun in began if count)
        lines += [line, f"    {REASONS[cause]}"]
    return lines


def _table_lines(table: ConnectionTable) -> list[str]:
    counters = table.counters
    tally = table.tally
    connections: tuple[tuple[int, str], ...] = (
        (counters.unknown_protocol, "given up: the protocol is not known"),
        (counters.switched_protocol, "given up: switched to another protocol"),
        (counters.sealed, "encrypted, and nobody sees inside: `wirespan explain PID` says why"),
        (counters.no_parser, "without a parser for the transport"),
        (counters.evicted, "forgotten: there were too many"),
        (counters.quiet, "forgotten: silent for long"),
        (counters.overfull, "given up: all together held too much"),
        (counters.failed, "given up: the parser failed, which is a fault of wirespan or a plug-in"),
        (counters.unannounced, "first seen without their addresses"),
        (tally.demotions, "taken for a protocol that they do not speak"),
    )
    others: tuple[tuple[int, str, str], ...] = (
        (tally.unpaired_responses, "response", "whose request was not seen"),
        (tally.cut_requests, "request", "seen in part: the rest of the head is missing"),
        (tally.abandoned_requests, "request", "taken back: the connection speaks something else"),
        (sum(tally.parse_errors.values()), "parse error", ""),
        (tally.gap_bytes, "byte", "of messages missing"),
        (tally.overlap_bytes, "byte", "seen twice"),
        (tally.limits, "time", "a bound was reached: of a message, or of what may wait"),
        (counters.unreported, "exchange", "lost to a parser's failure"),
        (counters.unbound, "exchange", "inside a TLS library, their socket not known"),
    )
    lines = [f"{_count(count, 'connection')} {text}" for count, text in connections if count]
    lines += [f"{_count(count, noun)} {text}".rstrip() for count, noun, text in others if count]
    return lines


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _fold(line: str) -> list[str]:
    """Lines of at most 80 columns; what runs over is set in."""
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(
        line, WIDTH, subsequent_indent=indent + "  ", break_long_words=False, break_on_hyphens=False
    )
