# SPDX-License-Identifier: Apache-2.0
"""Which spans a user wants to see: the same flag twice means or, different flags and."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from tracer.span import Span, SpanKind

DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*(ns|us|µs|ms|s|m|h)?")
LATENCY: Final = re.compile(r"(>=?|<=?)?\s*(.*)")
NS_OF_UNIT: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
STATUS: Final = re.compile(r"([1-5])xx|([1-5])\+|([1-5][0-9][0-9])")
SIZE: Final = re.compile(r"([0-9]{1,15})\s*(?:([kmg])i?)?b?", re.IGNORECASE)
KIND_OF_NAME: Final = {"client": SpanKind.CLIENT, "server": SpanKind.SERVER}

Test = Callable[[Span], bool]


def duration_ns(text: str, default_unit: str = "s") -> int:
    """`250ms`, `1.5s`, `10m` in nanoseconds.

    Raises:
        ValueError: it is no duration.
    """
    match = DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration: write 250ms, 1.5s or 10m")
    return int(float(match[1]) * NS_OF_UNIT[match[2] or default_unit])


def size_bytes(text: str) -> int:
    """`4096`, `64k`, `16M` in bytes.

    Raises:
        ValueError: it is no size.
    """
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size: write 4096, 64k or 16M")
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[(match[2] or "").lower()]


def protocols_called(word: str, known: Iterable[str]) -> set[str]:
    """Those of the known protocols that a user means: `http` is both `http` and `http2`."""
    return {name for name in known if word in {name, name.rstrip("0123456789")}}


@dataclass(slots=True, frozen=True)
class StatusRange:
    """HTTP statuses from `low` to `high`."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> StatusRange:
        """`404`, `5xx` (500 to 599), `4+` (400 and above).

        Raises:
            ValueError: it is neither.
        """
        match = STATUS.fullmatch(text.strip().lower())
        if match is None:
            raise ValueError(f"{text!r} is no status: write 404, 5xx or 4+")
        if match[3]:
            return cls(int(match[3]), int(match[3]))
        if match[1]:
            return cls(int(match[1]) * 100, int(match[1]) * 100 + 99)
        return cls(int(match[2]) * 100, 599)


@dataclass(slots=True, frozen=True)
class LatencyRange:
    """Durations above or below a bound."""

    above: bool
    bound_ns: int

    @classmethod
    def parse(cls, text: str) -> LatencyRange:
        """`>100ms`, `<1s`; a bare duration means above, a bare number milliseconds.

        Raises:
            ValueError: it is none of these.
        """
        match = LATENCY.fullmatch(text.strip())
        try:
            bound_ns = duration_ns(match[2] if match else text, "ms")
        except ValueError:
            raise ValueError(f"{text!r} is no latency: write '>100ms' or '<1s'") from None
        return cls(above=not (match and (match[1] or "").startswith("<")), bound_ns=bound_ns)


@dataclass(slots=True, frozen=True)
class SpanFilter:
    """What the filter flags ask for; an empty one asks for nothing."""

    protocols: Sequence[str] = ()
    """As spans name them; see `protocols_called`."""
    sides: Sequence[str] = ()
    methods: Sequence[str] = ()
    paths: Sequence[str] = ()
    """Shell patterns (`/api/*`)."""
    statuses: Sequence[StatusRange] = ()
    latencies: Sequence[LatencyRange] = ()
    errors: bool = False
    """Only what failed."""

    def test(self) -> Test | None:
        """A predicate, or None if everything is wanted."""
        tests: list[Test] = []
        if self.protocols:
            protocols = frozenset(self.protocols)
            tests.append(lambda span: span.protocol in protocols)
        if self.sides:
            kinds = frozenset(KIND_OF_NAME[side] for side in self.sides)
            tests.append(lambda span: span.kind in kinds)
        if self.methods:
            methods = frozenset(method.upper() for method in self.methods)
            tests.append(lambda span: str(_method(span)).upper() in methods)
        if self.paths:
            tests.append(self._has_path)
        if self.statuses:
            tests.append(self._has_status)
        if self.latencies:
            tests.append(self._has_latency)
        if self.errors:
            tests.append(lambda span: span.outline.error_type is not None)
        if not tests:
            return None
        return lambda span: all(each(span) for each in tests)

    def _has_path(self, span: Span) -> bool:
        path = _attribute(span, "url.path")
        if path is None:
            full = str(_attribute(span, "url.full") or "")
            if not full:
                return False
            path = "/" + full.partition("://")[2].partition("/")[2].partition("?")[0]
        return any(fnmatchcase(str(path), pattern) for pattern in self.paths)

    def _has_status(self, span: Span) -> bool:
        status = _attribute(span, "http.response.status_code")
        return isinstance(status, int) and any(
            each.low <= status <= each.high for each in self.statuses
        )

    def _has_latency(self, span: Span) -> bool:
        duration = span.end_unix_ns - span.start_unix_ns
        return any(
            duration > each.bound_ns if each.above else duration < each.bound_ns
            for each in self.latencies
        )


def _attribute(span: Span, key: str) -> object:
    return span.outline.attributes.get(key)


def _method(span: Span) -> object:
    """As it was sent: the conventions call one that they do not list `_OTHER`."""
    original = _attribute(span, "http.request.method_original")
    return original or _attribute(span, "http.request.method")
