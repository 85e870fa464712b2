# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters import layout


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0.00µs"),
        (999, "1.00µs"),
        (87_000, "87.0µs"),
        (999_499, "999µs"),
        (999_500, "1.00ms"),
        (1_240_000, "1.24ms"),
        (34_500_000, "34.5ms"),
        (999_499_999, "999ms"),
        (999_500_000, "1.00s"),
        (30_000_000_000, "30.0s"),
        (99_960_000_000, "1m40s"),
        (754_000_000_000, "12m34s"),
        (7_200_000_000_000, "2h00m"),
        (-1_240_000, "-1.24ms"),
    ],
)
def test_durations(nanoseconds, text):
    assert layout.duration(nanoseconds) == text


@given(st.integers(0, 86_400_000_000_000))
def test_a_duration_up_to_a_day_has_six_columns(nanoseconds):
    assert len(layout.duration(nanoseconds)) <= 6


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0K"),
        (1234, "1.2K"),
        (10_189, "10K"),
        (123_456_789, "118M"),
        (1 << 40, "1.0T"),
    ],
)
def test_sizes(number, text):
    assert layout.size(number) == text


@given(st.integers(0, 1 << 64))
def test_a_size_has_four_columns(number):
    assert len(layout.size(number)) <= 4


def test_the_middle_goes_first():
    assert layout.shorten_middle("/api/users/42", 9) == "/api…s/42"
    assert layout.shorten_middle("/api/users/42", 13) == "/api/users/42"
    assert layout.shorten_middle("/api/users/42", 9, "..") == "/api../42"


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (30, "/api/orders?id=7&token=x"),
        (16, "/api/orders?id=…"),
        (12, "/api/orders…"),
        (8, "/api…rs…"),
        (1, "…"),
    ],
)
def test_of_a_path_the_query_goes_first(width, shown):
    assert layout.shorten_path("/api/orders?id=7&token=x", width) == shown


def test_a_path_without_a_query_loses_its_middle():
    assert layout.shorten_path("/api/orders/7", 9) == layout.shorten_middle("/api/orders/7", 9)


def test_wide_characters_count_twice_and_accents_not_at_all():
    assert layout.columns("日本") == 4
    assert layout.columns("e\u0301") == 1
    assert layout.shorten_middle("日本語日本語", 7) == "日…本語"
    assert layout.left("日", 4) == "日  "
    assert layout.right("日", 4) == "  日"


@given(st.text(), st.integers(0, 30), st.sampled_from(["…", ".."]))
def test_shortened_text_fits(text, width, ellipsis):
    assert layout.columns(layout.shorten_path(text, width, ellipsis)) <= width
    for shorten in (layout.shorten_middle, layout.shorten_end):
        assert layout.columns(shorten(text, width, ellipsis)) <= width
