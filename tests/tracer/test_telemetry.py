# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from tracer.telemetry import Reading


def test_reading_has_no_attributes_unless_it_says_so():
    bare = Reading("wirespan.batches", "counter", "{batch}", "Batches", 3)
    assert bare.attributes == ()
    assert bare == Reading("wirespan.batches", "counter", "{batch}", "Batches", 3, ())


def test_readings_of_one_name_are_told_apart_by_their_attributes():
    given = [
        Reading("process.cpu.time", "counter", "s", "CPU time", 1.5, (("cpu.mode", mode),))
        for mode in ("user", "system")
    ]
    assert len({(each.name, each.attributes) for each in given}) == 2
