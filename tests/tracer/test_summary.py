# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import pytest

from parsers.model import Completeness, Side
from parsers.tally import Tally
from tests.exporters import samples
from tests.tracer.fakes import GET, Conversation, Table
from tracer.connection import TableCounters
from tracer.events import Cause
from tracer.source import Counter
from tracer.summary import REASONS, WIDTH, Seen, summarise

DELIVERED = {Cause.DELIVERED: Counter(events=4, bytes=500)}
NO_LOSS = {"opened", "late", "closed", "reset", "refused", "encrypted", "unparsed_bytes"}
"""Counters of the table that tell of no loss."""


def seen_of(*spans):
    seen = Seen()
    seen.add(spans)
    return seen


def lines(seen=None, table=None, kernel=DELIVERED, exporters=None, unused=None):
    table = table or Table()
    return summarise(seen or Seen(), table.table, kernel, exporters or {}, 12.34, unused or {})


def test_uneventful_run_is_two_lines():
    seen = seen_of(samples.span(), samples.span(peering=samples.peering(Side.CLIENT)))
    assert lines(seen) == [
        "2 exchanges in 12.3 s (1 client, 1 server)",
        "4 transfers, 500 bytes; none lost",
    ]


def test_one_is_not_many():
    kernel = {Cause.DELIVERED: Counter(events=1, bytes=1)}
    assert lines(seen_of(samples.span()), kernel=kernel) == [
        "1 exchange in 12.3 s (1 server)",
        "1 transfer, 1 byte; none lost",
    ]


def test_errors_and_what_is_not_whole_are_counted():
    table = Table()
    table.feed(Conversation().open().recv(GET))
    seen = seen_of(
        samples.span(outline=samples.outline(error_type="500")),
        samples.span(completeness=Completeness.GAP),
        samples.span(completeness=Completeness.LATE_ATTACH),
    )
    found = lines(seen, table)
    assert found[0].endswith(", 1 failed")
    assert found[1] == "not whole: 1 gap, 1 late attach, 1 still waiting for a response"


def test_ring_that_was_full_says_what_began_there_and_what_to_do():
    full = Counter(events=1200, bytes=3_400_000, requests=300, responses=1, turns=0)
    assert lines(kernel={**DELIVERED, Cause.RING_FULL: full})[1:] == [
        "4 transfers, 500 bytes; not read:",
        "  ring full: 1,200 transfers, 3,400,000 bytes, 300 requests, 1 response",
        "    the ring buffer was full: filter more, or raise --buffer",
    ]


@pytest.mark.parametrize("cause", list(REASONS))
def test_every_cause_of_a_loss_is_named_with_a_reason(cause):
    big = Counter(events=10**12, bytes=10**15, requests=10**9, responses=10**9, turns=10**9)
    found = lines(kernel={**DELIVERED, cause: big})
    assert any(cause.name.lower().replace("_", " ") in line for line in found)
    assert REASONS[cause].split(":", maxsplit=1)[0] in " ".join(map(str.strip, found))
    assert all(len(line) <= WIDTH for line in found)


def test_what_nobody_wanted_is_no_loss():
    unwanted = {Cause.STOPPED: Counter(5, 5), Cause.SKIPPED: Counter(5, 5)}
    assert lines(kernel=DELIVERED | unwanted)[1] == "4 transfers, 500 bytes; none lost"


def test_every_counter_of_the_table_has_its_line():
    for field in dataclasses.fields(TableCounters):
        table = Table()
        setattr(table.table.counters, field.name, 1234)
        found = [line for line in lines(table=table) if "1,234" in line]
        assert bool(found) == (field.name not in NO_LOSS), field.name


def test_every_counter_of_the_sessions_has_its_line():
    for field in dataclasses.fields(Tally):
        if field.name == "exchanges":
            continue
        table = Table()
        value = {"http": 1200, "dns": 34} if field.name == "parse_errors" else 1234
        setattr(table.table.tally, field.name, value)
        assert any("1,234" in line for line in lines(table=table)), field.name


def test_lines_fit_a_terminal_whatever_happened():
    table = Table()
    for counters in (table.table.counters, table.table.tally):
        for field in dataclasses.fields(counters):
            value = {"http": 10**12} if field.name == "parse_errors" else 10**12
            setattr(counters, field.name, value)
    seen = seen_of()
    for kind in Completeness:
        seen.completeness[kind] = 10**12
    seen.kinds.update(client=10**12, server=10**12, internal=10**12)
    seen.errors = 10**12
    kernel = dict.fromkeys(Cause, Counter(10**12, 10**15, 10**12, 10**12, 10**12))
    names = ("queue", "status", "timeout", "shutdown", "encoding", "error", "fault")
    exporters = {"otlp": {f"spans_dropped_{name}": 10**12 for name in names}}
    lost = {"ends of a connection found no room in the ring buffer": 10**12}
    found = lines(seen, table, kernel, exporters, unused=lost)
    assert max(map(len, found)) <= WIDTH
    assert len(found) > 30


def test_exporters_tell_what_they_dropped_and_only_that():
    counters = {"spans_sent": 7, "spans_dropped_queue": 5, "spans_refused": 2, "retries": 9}
    found = lines(exporters={"otlp": counters, "console": {"spans_written": 12}})
    assert found[2:] == ["otlp: 5 spans dropped queue, 2 spans refused"]


def test_what_the_source_could_not_use_is_told():
    assert lines(unused={"frames not used: not ip": 4, "other": 0})[2:] == [
        "4 frames not used: not ip"
    ]


def test_transfers_that_nobody_counted_are_not_said_to_be_none():
    assert lines(kernel={}) == ["0 exchanges in 12.3 s"]
