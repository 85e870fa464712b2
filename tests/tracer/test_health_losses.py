# SPDX-License-Identifier: Apache-2.0
"""That nothing which is counted as lost is missing among the readings."""

from __future__ import annotations

import dataclasses

import pytest

from parsers.model import Completeness
from parsers.tally import Tally
from tests.exporters import samples
from tests.tracer.health_rig import Held, Rig
from tracer.connection import TableCounters
from tracer.discovery import Discovery
from tracer.events import Cause
from tracer.probes import LOST_KINDS, LOST_TEXTS
from tracer.procfs import ProcessTable
from tracer.routes import Routes
from tracer.source import Counter
from tracer.summary import REASONS, summarise
from tracer.tls_capture import TEXTS, degraded
from tracer.tls_files import TlsFiles


@pytest.mark.parametrize("field", dataclasses.fields(TableCounters), ids=lambda each: each.name)
def test_no_counter_of_the_table_is_forgotten(field):
    rig = Rig()
    counters = rig.pipeline.table.counters
    part_of = {"late": "opened", "reset": "closed", "refused": "closed"}

    def count():
        setattr(counters, field.name, 1234)
        if field.name in part_of:
            setattr(counters, part_of[field.name], 1234)

    assert list(rig.rise(count).values()) == [1234]


@pytest.mark.parametrize("field", dataclasses.fields(Tally), ids=lambda each: each.name)
def test_no_counter_of_the_sessions_is_forgotten(field):
    rig = Rig()
    value = {"http": 1234} if field.name == "parse_errors" else 1234
    rise = rig.rise(lambda: setattr(rig.pipeline.table.tally, field.name, value))
    assert list(rise.values()) == [1234]


@pytest.mark.parametrize("cause", Cause, ids=lambda each: each.name)
@pytest.mark.parametrize("field", Counter._fields)
def test_no_counter_of_the_kernel_is_forgotten(cause, field):
    rig = Rig()
    rise = rig.rise(lambda: rig.source.tally.update({cause: Counter(**{field: 1234})}))
    ((_, attributes),) = rise
    assert list(rise.values()) == [1234]
    assert ("cause", cause.name.lower()) in attributes
    assert ("loss", "true" if cause in REASONS else "false") in attributes


@pytest.mark.parametrize("kind", [*LOST_TEXTS.values(), "anything"])
def test_what_the_source_could_not_use_is_read(kind):
    rig = Rig()
    rig.source.lost = {kind: 3}
    assert rig.value("wirespan.kernel.unused", cause=kind) == 3


def test_every_record_that_the_kernel_half_may_lose_has_words_but_those_sent_again():
    assert set(LOST_KINDS) - set(LOST_TEXTS) == {"opens"}


@pytest.mark.parametrize("kind", Completeness)
def test_spans_are_counted_by_how_whole_they_are(kind):
    rig = Rig()
    rise = rig.rise(lambda: rig.gate.export([samples.span(completeness=kind)]))
    assert rise == {("wirespan.spans", (("completeness", kind.value),)): 1}


def test_failed_exchanges_are_counted():
    rig = Rig()
    rig.gate.export([samples.span(outline=samples.outline(error_type="500")), samples.span()])
    assert rig.value("wirespan.spans.failed") == 1


@pytest.mark.parametrize("name", Routes().counters())
def test_no_counter_of_routes_is_forgotten(name):
    rig = Rig()
    rise = rig.rise(lambda: rig.routes._counters.update({name: 7}))
    assert rise == {("wirespan.route.events", (("event", name),)): 7}


@pytest.mark.parametrize("name", ProcessTable().counters())
def test_no_counter_of_processes_is_forgotten(name):
    rig = Rig()
    rise = rig.rise(lambda: rig.processes._counters.update({name: 7}))
    assert rise == {("wirespan.process.events", (("event", name),)): 7}


def test_exporters_are_read_whatever_they_count():
    exporter = Held(spans_received=9, spans_sent=4, spans_dropped_queue=3, retries=2)
    rig = Rig(exporters={"otlp": exporter})
    rig.gate.failures["otlp"] = 2
    of = {"exporter": "otlp"}
    assert rig.value("wirespan.exporter.received", **of) == 9
    assert rig.value("wirespan.exporter.spans", outcome="sent", **of) == 4
    assert rig.value("wirespan.exporter.spans", outcome="dropped_queue", **of) == 3
    assert rig.value("wirespan.exporter.spans", outcome="dropped_fault", **of) == 2
    assert rig.value("wirespan.exporter.events", event="retries", **of) == 2
    assert rig.value("wirespan.queue.spans", **of) == 5
    assert rig.value("wirespan.queue.size", **of) == 900
    assert rig.value("wirespan.spool.spans", **of) == 7
    assert rig.value("wirespan.spool.size", **of) == 3000
    assert rig.value("wirespan.exporter.level", level="odd", **of) == 2


def test_all_that_a_summary_calls_lost_is_in_the_readings():
    """With a number of its own in each counter, each number of the summary is read as well."""
    rig = Rig(exporters={"otlp": Held(spans_refused=9001, spans_dropped_queue=9002)})
    numbers = iter(range(101, 9000))
    rig.source.tally = {
        cause: Counter(*(next(numbers) for _ in Counter._fields)) for cause in Cause
    }
    rig.source.lost = dict.fromkeys(LOST_TEXTS.values(), next(numbers))
    table = rig.pipeline.table
    for counters in (table.counters, table.tally):
        for field in dataclasses.fields(counters):
            value = next(numbers)
            one = {"http": value} if field.name == "parse_errors" else value
            setattr(counters, field.name, one)
    lines = summarise(
        rig.gate.seen,
        table,
        rig.source.tally,
        rig.gate.counters_by_exporter(),
        0.0,
        rig.source.lost,
    )
    words = " ".join(lines[1:]).replace(",", "").replace(":", " ").split()
    told = {int(word) for word in words if word.isdigit()}
    assert len(told) > 40
    assert told <= set(rig.values().values())


def test_what_looks_for_tls_tells_what_it_could_not_do():
    """Its counters reach the readings through `unused` where they are losses."""
    known = {**TlsFiles(None).counters, **Discovery(None)._counters}
    assert set(TEXTS) <= set(known)
    assert degraded(dict.fromkeys(TEXTS, 2)) == dict.fromkeys(TEXTS.values(), 2)
