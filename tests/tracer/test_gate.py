# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging

import pytest

from tests.exporters import samples
from tests.tracer.fakes import Kept
from tracer.gate import Gate


def spans(count):
    return [samples.span() for _ in range(count)]


def test_gate_stops_at_exactly_the_limit():
    kept = Kept()
    gate = Gate({"kept": kept}, 5)
    gate.export(spans(3))
    assert not gate.full
    gate.export(spans(4))
    assert gate.full
    gate.export(spans(4))
    assert len(kept.spans) == 5
    assert sum(gate.seen.kinds.values()) == 5


def test_gate_without_a_limit_is_never_full():
    gate = Gate({}, None)
    gate.export(spans(1000))
    assert not gate.full
    assert sum(gate.seen.completeness.values()) == 1000


def test_exporter_that_fails_is_counted_and_hinders_no_other(caplog):
    bad, good = Kept(ZeroDivisionError()), Kept()
    gate = Gate({"bad": bad, "good": good}, None)
    with caplog.at_level(logging.ERROR):
        gate.export(spans(3))
        gate.export(spans(2))
    assert len(good.spans) == 5
    assert gate.counters_by_exporter()["bad"]["spans_dropped_fault"] == 5
    assert gate.counters_by_exporter()["good"]["spans_dropped_fault"] == 0
    assert len(caplog.records) == 1


def test_exporter_that_loses_its_connection_does_not_end_the_run():
    bad, good = Kept(ConnectionResetError()), Kept()
    gate = Gate({"bad": bad, "good": good}, None)
    gate.export(spans(3))
    assert len(good.spans) == 3
    assert gate.counters_by_exporter()["bad"]["spans_dropped_fault"] == 3


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device")])
def test_output_that_cannot_be_written_ends_the_run(error):
    with pytest.raises(type(error)):
        Gate({"console": Kept(error)}, None).export(spans(1))


def test_what_cannot_be_printed_at_the_end_is_said_after_all_are_closed():
    class Drawing(Kept):
        def close(self):
            raise BrokenPipeError

    other = Kept()
    with pytest.raises(BrokenPipeError):
        Gate({"map": Drawing(), "other": other}, None).close()
    assert other.closed == 1
    Gate({"otlp": Drawing()}, None).close()


def test_gate_flushes_all_and_closes_once():
    one, two = Kept(ZeroDivisionError()), Kept()
    gate = Gate({"one": one, "two": two}, None)
    assert not gate.flush(2.0)
    assert 0 <= two.flushed_s <= 2.0
    gate.close()
    gate.close()
    assert (one.closed, two.closed) == (1, 1)
