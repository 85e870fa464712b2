# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from exporters.instruments import Instrument, Metric, Point


def test_an_instrument_is_known_by_identity_so_that_it_keys_caches():
    one = Instrument("a", "counter", "1", "")
    assert one != Instrument("a", "counter", "1", "")
    assert Metric(one, [Point((), 1, 0)]).points[0].exemplar is None
