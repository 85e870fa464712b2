# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tracer.argument_values import ratio, seconds, since, spool_bytes


@pytest.mark.parametrize(
    ("text", "share"),
    [("0.1", "0.1"), ("10%", "0.1"), ("1", "1.0"), ("0", "0.0"), ("2.5%", "0.025")],
)
def test_a_share_is_a_number_or_a_percentage(text, share):
    assert ratio(text) == share


@pytest.mark.parametrize("text", ["1.1", "-0.1", "110%", "some", "", "%", "nan"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError, match="no share such as 0.1 or 10%"):
        ratio(text)


def test_times_as_exporters_read_them():
    assert seconds("500ms") == "0.5"
    assert seconds("2s") == "2"
    assert since("5m") == since("-5m") == 300_000_000_000


def test_a_spool_has_room_for_a_request():
    assert spool_bytes("256M") == 256 << 20
    with pytest.raises(ValueError, match="at least 1M"):
        spool_bytes("4k")
