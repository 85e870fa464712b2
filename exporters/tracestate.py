# SPDX-License-Identifier: Apache-2.0
"""Consistent probability sampling: thresholds, and how W3C tracestate carries them.

Of every trace 56 bits are random (R). A sampler with threshold T keeps those with R >= T, so
two that never met agree, and whoever keeps more keeps all that the other does. A kept span
says `ot=th:T` in its tracestate, from which a backend knows how many such spans there were:
2**56 / (2**56 - T).

OTel: https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/ 1.60.0
      https://opentelemetry.io/docs/specs/otel/trace/tracestate-handling/
Spec: https://www.w3.org/TR/trace-context-2/ 3.3 (tracestate), 5.2 (random trace ids)
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Final

BITS: Final = 56
DIGITS: Final = BITS // 4
NEVER: Final = 1 << BITS
"""The threshold that no randomness reaches."""
PRECISION: Final = 4
"""Hexadecimal digits after leading `f`s, as the specification recommends to SDKs."""

MAX_MEMBERS: Final = 32
"""Members of a tracestate (W3C 3.3.1.1); the last ones go first."""
MAX_VALUE: Final = 256
"""Characters of one member's value."""

_RANDOMNESS: Final = re.compile(r"(?:^|,)\s*ot=(?:[^,]*;)?rv:([0-9a-f]{14})(?=[;,\s]|$)")


def threshold_of(ratio: float) -> int:
    """T for a ratio from 0 to 1; NEVER below 2**-56, the least that can be said.

    It has no more digits than `digits` will show, so that what is done is what is said.
    """
    if ratio < 2.0**-BITS:
        return NEVER
    exact = NEVER - Fraction(ratio) * NEVER
    shown = min(DIGITS, PRECISION + math.frexp(ratio)[1] // -4)
    unit = 1 << (BITS - 4 * shown)
    return math.floor(exact / unit + Fraction(1, 2)) * unit


def digits(threshold: int) -> str:
    """The value of `th`: hexadecimal without trailing zeros."""
    return f"{threshold:0{DIGITS}x}".rstrip("0") or "0"


def randomness(trace_id: bytes, trace_state: str = "") -> bytes:
    """R, as seven bytes that compare as numbers do: what `rv` says, else of the trace id."""
    if trace_state and (explicit := _RANDOMNESS.search(trace_state)):
        return bytes.fromhex(explicit[1])
    return trace_id[9:]


def with_threshold(trace_state: str, th: str) -> str:
    """`trace_state` that says `th` and nothing older; an empty `th` says nothing.

    Other members and the other keys of OpenTelemetry's own stay. Its member comes first, as
    W3C wants of the one changed last. Should it grow too long, it says nothing of `th`.
    """
    if not trace_state:
        return f"ot=th:{th}" if th else ""
    members = [member.strip() for member in trace_state.split(",")]
    others = [member for member in members if member and not member.startswith("ot=")]
    own = [
        item
        for member in members
        if member.startswith("ot=")
        for item in member[3:].split(";")
        if item and not item.startswith("th:")
    ]
    value = ";".join([f"th:{th}", *own] if th else own)
    if len(value) > MAX_VALUE:
        value = ";".join(own)
    if value:
        others.insert(0, f"ot={value}")
    return ",".join(others[:MAX_MEMBERS])
