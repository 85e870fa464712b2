# SPDX-License-Identifier: Apache-2.0
"""The counters of sessions."""

from __future__ import annotations

from parsers.tally import Tally


def test_counters_begin_at_nothing_and_are_not_shared():
    one, other = Tally(), Tally()
    one.parse_errors["http"] = 1
    one.exchanges += 1
    assert other == Tally()
    assert other.parse_errors == {}
