# SPDX-License-Identifier: Apache-2.0
"""Histograms against the SDK's, and quantiles against the sorted values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)

from exporters.histograms import MAX_SCALE, ExplicitHistogram, ExponentialHistogram, _index

BOUNDS = (0.005, 0.01, 0.1, 1.0, 10.0)
durations = st.one_of(
    st.floats(1e-9, 1e5),
    st.sampled_from((*BOUNDS, 2.0**-20, 0.5, 1.0, 2.0, 4.0, 1024.0)),
    st.just(0.0),
)
samples = st.lists(durations, max_size=60)
some = st.lists(durations, min_size=1, max_size=60)
sizes = st.sampled_from((2, 3, 7, 20, 160))


def explicit(values, bounds=BOUNDS):
    made = ExplicitHistogram(bounds)
    for value in values:
        made.record(value)
    return made


def exponential(values, max_size=160, scale=MAX_SCALE):
    made = ExponentialHistogram(max_size, scale)
    for value in values:
        made.record(value)
    return made


def sdk(aggregation, values):
    """The point that the SDK makes of them."""
    reader = InMemoryMetricReader()
    provider = MeterProvider(
        [reader],
        views=[View(instrument_name="x", aggregation=aggregation)],
        shutdown_on_exit=False,
    )
    histogram = provider.get_meter("test").create_histogram("x")
    for value in values:
        histogram.record(value)
    (group,) = reader.get_metrics_data().resource_metrics
    provider.shutdown()
    return group.scope_metrics[0].metrics[0].data.data_points[0]


def total(histogram):
    return (histogram.count, pytest.approx(histogram.sum), histogram.min, histogram.max)


def same(one, other):
    """Equal, but for the order in which the sum was made."""
    assert total(one) == total(other)
    assert one.counts == other.counts
    if isinstance(one, ExponentialHistogram):
        assert (one.scale, one.offset, one.zero_count) == (
            other.scale,
            other.offset,
            other.zero_count,
        )


@given(some)
def test_explicit_buckets_are_those_of_the_sdk(values):
    ours, theirs = explicit(values), sdk(ExplicitBucketHistogramAggregation(BOUNDS), values)
    assert ours.counts == list(theirs.bucket_counts)
    assert total(ours) == (theirs.count, theirs.sum, theirs.min, theirs.max)


@given(some, sizes)
def test_exponential_buckets_are_those_of_the_sdk(values, size):
    ours = exponential(values, size)
    theirs = sdk(ExponentialBucketHistogramAggregation(max_size=size), values)
    assert ours.zero_count == theirs.zero_count
    assert total(ours) == (theirs.count, theirs.sum, theirs.min, theirs.max)
    if not ours.counts:
        return
    # Its buckets begin where its first value above zero fell, and it may go one scale too far.
    assert ours.scale >= theirs.scale
    ours._lower(ours.scale - theirs.scale)
    counts = {
        index: number
        for index, number in enumerate(theirs.positive.bucket_counts, theirs.positive.offset)
        if number
    }
    mine = {index: number for index, number in enumerate(ours.counts, ours.offset) if number}
    # Where a value lies within 1e-11 of an end, its logarithm is no better than ours.
    if theirs.scale < 15:
        assert mine == counts
    else:
        assert sum(mine.values()) == sum(counts.values())
        assert all(min(abs(index - other) for other in mine) <= 1 for index in counts)


@given(st.floats(1e-300, 1e300))
def test_an_index_holds_its_value(value):
    index = _index(value)
    exponent = math.frexp(value)[1] - 1
    place = index - (exponent << MAX_SCALE)
    low, high = (2.0 ** ((place + more) / (1 << MAX_SCALE)) for more in (0, 1))
    scaled = math.ldexp(value, -exponent)
    assert low * (1 - 1e-14) <= scaled <= high * (1 + 1e-14)


@given(st.integers(-1074, 1023), st.integers(-5, MAX_SCALE))
def test_a_power_of_two_is_the_upper_end_of_its_bucket(exponent, scale):
    histogram = exponential([math.ldexp(1.0, exponent)], scale=scale)
    end = (exponent << scale) if scale >= 0 else -(-exponent >> -scale)
    assert histogram.offset + 1 == end
    assert histogram.scale == scale


@given(some, sizes)
def test_never_more_buckets_than_asked_for_and_no_coarser_than_needed(values, size):
    histogram = exponential(values, size)
    assert len(histogram.counts) <= size
    above = [value for value in values if value > 0]
    if above and histogram.scale < MAX_SCALE:
        finer = MAX_SCALE - histogram.scale - 1
        span = (_index(max(above)) >> finer) - (_index(min(above)) >> finer)
        assert span >= size
    assert not histogram.counts or (histogram.counts[0] and histogram.counts[-1])


@given(some, st.randoms(), sizes)
def test_order_does_not_matter(values, random, size):
    mixed = list(values)
    random.shuffle(mixed)
    same(exponential(values, size), exponential(mixed, size))


@given(samples, samples, sizes)
def test_merging_is_recording_both(first, second, size):
    for make in (explicit, lambda values: exponential(values, size)):
        merged, other = make(first), make(second)
        unchanged = other.copy()
        merged.merge(other)
        same(merged, make(first + second))
        same(other, unchanged)


@given(some, samples, sizes)
def test_what_came_since_is_what_was_recorded_since(first, second, size):
    for make in (explicit, lambda values: exponential(values, size)):
        now = make(first)
        then = now.copy()
        for value in second:
            now.record(value)
        found = now.since(then)
        assert found.count == len(second)
        assert found.sum == pytest.approx(sum(second), abs=1e-6)
        assert found.min > found.max
        found.merge(then)
        assert (found.counts, found.count) == (now.counts, now.count)
        if isinstance(now, ExponentialHistogram):
            assert found.zero_count == now.zero_count


@given(some, sizes)
def test_recording_all_at_once_is_the_same(values, size):
    for make in (explicit, lambda values: exponential(values, size)):
        histogram = make([])
        histogram.record_all(values)
        same(histogram, make(values))


def relative_error(histogram):
    """`sqrt(base) - 1`, as far as a double holds it."""
    half = math.ldexp(1.0, -histogram.scale - 1)
    return 2.0**half - 1 if half < 1024 else math.inf


@given(some, st.floats(0, 1), sizes)
def test_an_exponential_quantile_is_as_wrong_as_it_says_at_most(values, q, size):
    histogram = exponential(values, size)
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    allowed = exact * relative_error(histogram)
    assert abs(histogram.quantile(q) - exact) <= allowed * (1 + 1e-9) + exact * 1e-12


@given(some)
def test_quantiles_rise(values):
    histogram = exponential(values)
    found = [histogram.quantile(step / 20) for step in range(21)]
    assert found == pytest.approx(sorted(found))


def test_of_nothing_there_is_no_quantile():
    histogram = ExponentialHistogram()
    assert math.isnan(histogram.quantile(0.5))
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="no share"):
            histogram.quantile(share)


@given(samples)
def test_a_copy_is_equal_and_apart(values):
    for histogram in (explicit(values), exponential(values)):
        made = histogram.copy()
        assert made == histogram
        made.record(3.0)
        assert made.count == histogram.count + 1
        assert sum(made.counts) == sum(histogram.counts) + 1


def test_histograms_of_other_buckets_do_not_merge():
    with pytest.raises(ValueError, match="other buckets"):
        ExplicitHistogram((1.0,)).merge(ExplicitHistogram((2.0,)))
    with pytest.raises(ValueError, match="other buckets"):
        ExplicitHistogram((1.0,)).since(ExplicitHistogram((2.0,)))


def test_all_that_a_double_can_hold_fits_into_two_buckets():
    histogram = exponential([5e-324, 1.7e308], max_size=2)
    assert histogram.counts == [1, 1]
    assert relative_error(histogram) > 1e100
    assert histogram.quantile(1) == 1.7e308


@pytest.mark.parametrize(("size", "scale"), [(1, 20), (160, 21)])
def test_what_cannot_be_is_refused(size, scale):
    with pytest.raises(ValueError):
        ExponentialHistogram(size, scale)


def test_a_negative_duration_counts_as_zero():
    histogram = exponential([-1.0, 1.0])
    assert (histogram.zero_count, histogram.sum, histogram.min) == (1, 1.0, 0.0)
