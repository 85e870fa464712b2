# SPDX-License-Identifier: Apache-2.0
"""Distributions of durations in constant room: two kinds of histograms.

Explicit buckets are those that somebody has chosen beforehand, and every backend takes them.
Exponential ones need no choice: the ends of their buckets are powers of
`base = 2 ** (2 ** -scale)`, and the scale goes down by itself until all that was seen fits into
`max_size` buckets. Seven orders of magnitude fit into 160 buckets at scale 2, which is a quantile
that is at most 9 % wrong; one order at scale 5, which is 1.1 %.

In both a bucket holds what is above its lower end and up to its upper end. Both are not
thread-safe, and take finite numbers only.

OTel: https://opentelemetry.io/docs/specs/otel/metrics/data-model/ 1.60.0, sections Histogram and
ExponentialHistogram
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, floor, frexp, inf, ldexp, log2, nan
from typing import Final, TypeAlias

MAX_SIZE: Final = 160
"""Buckets of an exponential histogram: what the specification proposes."""
MAX_SCALE: Final = 20
"""A finer index would not fit into the 32 bits that OTLP has for it."""
STEPS: Final = 1 << MAX_SCALE
"""Buckets from one power of two to the next, at that scale."""


@dataclass(slots=True)
class ExplicitHistogram:
    """Counts by buckets whose upper ends, in rising order, are `bounds`."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    """One more than there are bounds: the last is of what is above them all."""
    count: int = field(default=0, init=False)
    sum: float = field(default=0.0, init=False)
    min: float = field(default=inf, init=False)
    """Above `max` where it is not known."""
    max: float = field(default=-inf, init=False)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def record(self, value: float) -> None:
        """Add one measurement."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.count += 1
        self.sum += value
        if value < self.min:  # noqa: PLR1730  # a call takes three times as long
            self.min = value
        if value > self.max:  # noqa: PLR1730
            self.max = value

    def record_all(self, values: Sequence[float]) -> None:
        """Add some measurements at least; for many of them this is much faster."""
        counts, bounds = self.counts, self.bounds
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self.count += len(values)
        self.sum += sum(values)
        self.min = min(self.min, min(values))  # noqa: PLW3301  # flat, it would copy them
        self.max = max(self.max, max(values))  # noqa: PLW3301

    def merge(self, other: ExplicitHistogram) -> None:
        """Add all measurements of `other`.

        Raises:
            ValueError: it has other buckets.
        """
        self._check(other)
        self.counts = [own + more for own, more in zip(self.counts, other.counts, strict=True)]
        self.count += other.count
        self.sum += other.sum
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)

    def since(self, earlier: ExplicitHistogram) -> ExplicitHistogram:
        """What has been added after this was equal to `earlier`; without extremes.

        Raises:
            ValueError: it has other buckets.
        """
        self._check(earlier)
        found = ExplicitHistogram(self.bounds)
        found.counts = [now - then for now, then in zip(self.counts, earlier.counts, strict=True)]
        found.count = self.count - earlier.count
        found.sum = self.sum - earlier.sum
        return found

    def copy(self) -> ExplicitHistogram:
        """Another one that is equal."""
        made = ExplicitHistogram(self.bounds)
        made.counts = self.counts.copy()
        made.count, made.sum, made.min, made.max = self.count, self.sum, self.min, self.max
        return made

    def _check(self, other: ExplicitHistogram) -> None:
        if other.bounds != self.bounds:
            raise ValueError("histograms of other buckets cannot be put together")


@dataclass(slots=True)
class ExponentialHistogram:
    """Counts by buckets that grow by a constant factor.

    The bucket of `counts[i]` ends at `base ** (offset + i + 1)`. What it becomes does not depend
    on the order of the measurements or on how they were merged. Negative measurements are taken
    as zero: durations have none.
    """

    max_size: int = MAX_SIZE
    scale: int = MAX_SCALE
    """Never above `MAX_SCALE`; falls as needed and never rises."""
    offset: int = field(default=0, init=False)
    counts: list[int] = field(default_factory=list, init=False)
    """Of what is above zero; begins and ends with a bucket that is not empty."""
    zero_count: int = field(default=0, init=False)
    count: int = field(default=0, init=False)
    sum: float = field(default=0.0, init=False)
    min: float = field(default=inf, init=False)
    """Above `max` where it is not known."""
    max: float = field(default=-inf, init=False)

    def __post_init__(self) -> None:
        if self.max_size < 2:  # what is below one and what is above never share a bucket
            raise ValueError(f"{self.max_size} buckets are too few")
        if self.scale > MAX_SCALE:
            raise ValueError(f"a scale of {self.scale} is above {MAX_SCALE}")

    def record(self, value: float) -> None:
        """Add one measurement."""
        self.count += 1
        if value <= 0:
            self.zero_count += 1
            value = 0.0
        else:
            index = _index(value) >> (MAX_SCALE - self.scale)
            place = index - self.offset
            if 0 <= place < len(self.counts):
                self.counts[place] += 1
            else:
                self._add(index, [1])
        self.sum += value
        if value < self.min:  # noqa: PLR1730  # a call takes three times as long
            self.min = value
        if value > self.max:  # noqa: PLR1730
            self.max = value

    def record_all(self, values: Sequence[float]) -> None:
        """Add some measurements at least; for many of them this is faster."""
        for value in values:
            if value <= 0:
                self.zero_count += 1
                continue
            index = _index(value) >> (MAX_SCALE - self.scale)
            place = index - self.offset
            if 0 <= place < len(self.counts):
                self.counts[place] += 1
            else:
                self._add(index, [1])
        self.count += len(values)
        low, high = min(values), max(values)
        self.sum += sum(values) if low >= 0 else sum([value for value in values if value > 0])
        self.min = min(self.min, max(low, 0.0))
        self.max = max(self.max, max(high, 0.0))  # noqa: PLW3301  # as above

    def merge(self, other: ExponentialHistogram) -> None:
        """Add all measurements of `other`."""
        if other.counts:
            offset, counts = other.offset, other.counts
            if other.scale < self.scale:
                self._lower(self.scale - other.scale)
            else:
                offset, counts = _lowered(offset, counts, other.scale - self.scale)
            self._add(offset, counts)
        self.zero_count += other.zero_count
        self.count += other.count
        self.sum += other.sum
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)

    def since(self, earlier: ExponentialHistogram) -> ExponentialHistogram:
        """What has been added after this was equal to `earlier`; without extremes."""
        found = ExponentialHistogram(self.max_size, self.scale)
        counts = self.counts.copy()
        if earlier.counts:
            offset, then = _lowered(earlier.offset, earlier.counts, earlier.scale - self.scale)
            for place, number in enumerate(then, offset - self.offset):
                counts[place] -= number
        found.offset, found.counts = _trimmed(self.offset, counts)
        found.zero_count = self.zero_count - earlier.zero_count
        found.count = self.count - earlier.count
        found.sum = self.sum - earlier.sum
        return found

    def quantile(self, q: float) -> float:
        """The value that a share `q` of all is not above: the middle of its bucket.

        It is wrong by `sqrt(base) - 1` of itself at most. Not a number if there are no values.

        Raises:
            ValueError: `q` is not from 0 to 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"{q} is no share from 0 to 1")
        if not self.count:
            return nan
        rank = max(1, ceil(q * self.count))
        seen = self.zero_count
        if rank <= seen:
            return 0.0
        for index, number in enumerate(self.counts, self.offset):  # noqa: B007
            seen += number
            if rank <= seen:
                break
        exponent = ldexp(index + 0.5, -self.scale)
        whole = floor(exponent)
        middle = inf if whole >= 1024 else ldexp(2.0 ** (exponent - whole), whole)
        return min(max(middle, self.min), self.max) if self.min <= self.max else middle

    def copy(self) -> ExponentialHistogram:
        """Another one that is equal."""
        made = ExponentialHistogram(self.max_size, self.scale)
        made.offset, made.counts = self.offset, self.counts.copy()
        made.zero_count, made.count, made.sum = self.zero_count, self.count, self.sum
        made.min, made.max = self.min, self.max
        return made

    def _add(self, offset: int, counts: list[int]) -> None:
        """Add buckets of the same scale; they must not begin or end with an empty one."""
        if not self.counts:
            self.offset, self.counts = offset, counts.copy()
            return
        low = min(offset, self.offset)
        high = max(offset + len(counts), self.offset + len(self.counts)) - 1
        change = 0
        while (high >> change) - (low >> change) >= self.max_size:
            change += 1
        self._lower(change)
        offset, counts = _lowered(offset, counts, change)
        before = self.offset - offset
        if before > 0:
            self.counts[:0] = [0] * before
            self.offset = offset
        place = offset - self.offset
        after = place + len(counts) - len(self.counts)
        if after > 0:
            self.counts += [0] * after
        for number in counts:
            self.counts[place] += number
            place += 1

    def _lower(self, change: int) -> None:
        """Make the scale smaller by `change`."""
        if change:
            self.offset, self.counts = _lowered(self.offset, self.counts, change)
            self.scale -= change


Histogram: TypeAlias = ExplicitHistogram | ExponentialHistogram


def _index(value: float) -> int:
    """The bucket at `MAX_SCALE` of a value above zero.

    Exact at powers of two; elsewhere a value that is within 1e-15 of an end may fall on either
    side of it. All other scales are shifts of this, so that they agree with each other.
    """
    fraction, exponent = frexp(value)
    whole = (exponent - 1) * STEPS
    if fraction == 0.5:
        return whole - 1
    part = int((log2(fraction) + 1) * STEPS)
    return whole + part if part < STEPS else whole + STEPS - 1


def _lowered(offset: int, counts: list[int], change: int) -> tuple[int, list[int]]:
    """Offset and counts at a scale that is smaller by `change`."""
    if not change or not counts:
        return offset, counts
    low = offset >> change
    found = [0] * ((offset + len(counts) - 1 >> change) - low + 1)
    for index, number in enumerate(counts, offset):
        found[(index >> change) - low] += number
    return low, found


def _trimmed(offset: int, counts: list[int]) -> tuple[int, list[int]]:
    """The same without empty buckets at either end."""
    used = [place for place, number in enumerate(counts) if number]
    if not used:
        return 0, []
    return offset + used[0], counts[used[0] : used[-1] + 1]
