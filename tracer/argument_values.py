# SPDX-License-Identifier: Apache-2.0
"""Values of flags: what they may say, and the sentence for what they may not."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final, TypeVar

from tracer.capture import MAX_RING_BYTES, MIN_RING_BYTES
from tracer.events import MAX_SNAPLEN
from tracer.filters import duration_ns, size_bytes

T = TypeVar("T")

MAX_PORT: Final = 65535
MIN_SNAPLEN: Final = 64
MIN_SPOOL_BYTES: Final = 1 << 20


def checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """`parse` with its ValueError said as argparse says it, in its own words."""

    def checked(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def positive(text: str) -> int:
    """A number of at least 1."""
    if not text.isdecimal() or not int(text):
        raise ValueError(f"{text!r} is no positive number")
    return int(text)


def duration(text: str) -> int:
    """Nanoseconds of `10s`, `5m`."""
    nanoseconds = duration_ns(text)
    if not nanoseconds:
        raise ValueError(f"{text!r} is no time at all")
    return nanoseconds


def port(text: str) -> int:
    """A port that can be connected to."""
    if not text.isdecimal() or not 0 < int(text) <= MAX_PORT:
        raise ValueError(f"{text!r} is no port: 1 to {MAX_PORT}")
    return int(text)


def snaplen(text: str) -> int:
    """Bytes that may be copied of a call."""
    size = size_bytes(text)
    if not MIN_SNAPLEN <= size <= MAX_SNAPLEN:
        raise ValueError(f"{text} is out of range: {MIN_SNAPLEN} to {MAX_SNAPLEN} bytes")
    return size


def ring_bytes(text: str) -> int:
    """A size that a ring buffer may have."""
    size = size_bytes(text)
    if not MIN_RING_BYTES <= size <= MAX_RING_BYTES or size & (size - 1):
        raise ValueError(f"{text} will not do: a power of two from 64k to 1G")
    return size


def pair(text: str) -> tuple[str, str]:
    """Key and value of `KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"{text!r} is no KEY=VALUE")
    return key, value


def ratio(text: str) -> str:
    """A share, `0.1` or `10%`, as the number that it is."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"{text!r} is no share such as 0.1 or 10%")
    return repr(share)


def spool_bytes(text: str) -> int:
    """Room for spans on disk."""
    size = size_bytes(text)
    if size < MIN_SPOOL_BYTES:
        raise ValueError(f"{text} is too little: at least 1M")
    return size


def seconds(text: str) -> str:
    """Seconds of `500ms`, `2s`, as exporters read them."""
    return f"{duration(text) / 1e9:.9f}".rstrip("0").rstrip(".")


def since(text: str) -> int:
    """Nanoseconds of `5m`, or of `=-5m` as others write it."""
    return duration(text.removeprefix("-"))
