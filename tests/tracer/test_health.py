# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from exporters.none import NoneExporter
from parsers.model import Completeness
from tests.exporters import samples
from tests.tracer.fakes import GET, OFFSET_NS, OK, Conversation, FakeSource
from tests.tracer.health_rig import Held, Rig
from tracer.events import Cause, chunk_of
from tracer.health import KERNEL_S
from tracer.probes import KernelSource, Settings
from tracer.readings import MEASURES
from tracer.source import Batch, Counter
from tracer.span import Process


def full_rig():
    """One in which everything that can be read is there."""
    source = FakeSource()
    source.tally = dict.fromkeys(Cause, Counter(1, 2, 3, 4, 5))
    source.lost = {"notices found no room": 3}
    source.source_in_use = "socket"
    stats = {"sock_send_length": SimpleNamespace(run_time_ns=9, run_count=3, recursion_misses=0)}
    source.program_stats = lambda: stats
    rig = Rig(source, {"otlp": Held(spans_received=3, spans_sent=1, requests=4)})
    rig.gate.export([samples.span(), samples.span(completeness=Completeness.GAP)])
    rig.pipeline.table.tally.parse_errors["http"] = 1
    return rig


def test_readings_are_those_of_the_table_and_each_is_given_once():
    rig = full_rig()
    rig.health._failures["test"] = 1
    rig.pipeline.table.connections[1] = SimpleNamespace(session=None)
    found = rig.health.readings()
    assert {each.name for each in found} == set(MEASURES)
    assert len({(each.name, each.attributes) for each in found}) == len(found)
    for each in found:
        measure = MEASURES[each.name]
        assert (each.kind, each.unit, each.description) == measure[:3]
        assert tuple(key for key, _ in each.attributes) == measure.attributes, each.name
        assert all(isinstance(value, str) for _, value in each.attributes)


def test_running_pipeline_is_read_as_it_is():
    conversation = Conversation().open().recv(GET)
    rig = Rig()
    rig.source.batches.append(batch_of(conversation))
    assert rig.pipeline.step(0)
    assert rig.value("wirespan.batches") == 1
    assert rig.value("wirespan.batch.size") == rig.pipeline.chunk_bytes > 0
    assert rig.value("wirespan.connections", protocol="http") == 1
    assert rig.value("wirespan.connections.opened", late="false") == 1
    assert rig.value("wirespan.requests.waiting") == 1
    assert rig.value("wirespan.buffered.size") > 0
    assert rig.value("wirespan.spans.made") == 0
    conversation.send(OK)
    rig.source.batches.append(batch_of(conversation))
    assert rig.pipeline.step(0)
    assert rig.value("wirespan.requests.waiting") == 0
    assert rig.value("wirespan.exchanges") == 1
    assert rig.value("wirespan.spans.made") == 1
    assert rig.value("wirespan.spans", completeness="complete") == 1


def batch_of(conversation):
    events, conversation.events = conversation.events, []
    return Batch(chunk_of(events), events[-1].timestamp_ns, OFFSET_NS)


def test_connections_without_a_parser_are_told_from_those_not_decided():
    rig = Rig()
    rig.pipeline.table.connections[1] = SimpleNamespace(session=None)
    session = SimpleNamespace(parser=None, buffered_bytes=40, in_flight=0, streams=())
    rig.pipeline.table.connections[2] = SimpleNamespace(session=session, in_flight=0)
    assert rig.value("wirespan.connections", protocol="none") == 1
    assert rig.value("wirespan.connections", protocol="unknown") == 1
    assert rig.value("wirespan.buffered.size") == 40


def test_programs_are_read_as_the_kernel_measures_them():
    rig = full_rig()
    assert rig.value("wirespan.kernel.program.runs", program="sock_send_length") == 3
    assert rig.value("wirespan.kernel.program.time", program="sock_send_length") == 9e-9


def test_time_of_programs_is_not_told_where_the_kernel_does_not_measure_it():
    source = FakeSource()
    idle = SimpleNamespace(run_time_ns=0, run_count=0, recursion_misses=2)
    source.program_stats = lambda: {"sys_exit": idle}
    rig = Rig(source)
    assert rig.value("wirespan.kernel.program.misses", program="sys_exit") == 2
    assert rig.value("wirespan.kernel.program.time", program="sys_exit") is None
    assert rig.value("wirespan.kernel.program.runs", program="sys_exit") is None


def test_agent_tells_what_it_costs_and_what_it_is():
    rig = Rig(unix_s=lambda: 1.7e9)
    values = rig.values()
    by_name = {name: value for (name, _), value in values.items()}
    (info,) = [dict(attributes) for name, attributes in values if name == "wirespan.info"]
    assert info["python"] == ".".join(map(str, sys.version_info[:3]))
    assert by_name["wirespan.start.time"] == 1.7e9
    assert by_name["process.memory.usage"] > 1 << 20
    assert by_name["wirespan.threads"] >= 1
    assert by_name["wirespan.files"] >= 3
    before = rig.value("process.cpu.time", **{"cpu.mode": "user"})
    until_s = time.process_time() + 0.05
    while time.process_time() < until_s:
        pass
    spent_s = rig.value("process.cpu.time", **{"cpu.mode": "user"}) - before
    assert 0 < spent_s < 60
    assert spent_s <= sum(os.times()[:2])


def test_kernel_is_asked_once_a_second_at_most():
    asked = []
    source = FakeSource()
    source.counters = lambda: asked.append(1) or {Cause.DELIVERED: Counter(len(asked))}
    rig = Rig(source)
    for _ in range(5):
        rig.health.readings()
    assert len(asked) == 1
    rig.now_s += KERNEL_S
    rig.health.readings()
    assert len(asked) == 2


def test_closed_source_is_never_asked_and_its_last_word_stays():
    source = FakeSource()
    source.tally = {Cause.DELIVERED: Counter(5)}
    rig = Rig(source)
    rig.values()
    source.tally = {Cause.DELIVERED: Counter(8)}
    rig.health.close()
    source.tally = {Cause.DELIVERED: Counter(1000)}
    of = {"cause": "delivered", "loss": "false"}
    assert rig.value("wirespan.kernel.events", **of) == 8
    rig.health.close()
    assert rig.value("wirespan.kernel.events", **of) == 8


def test_counter_never_falls_and_gauge_may():
    rig = Rig()
    counters = rig.pipeline.table.counters
    counters.opened = 5
    rig.pipeline.table.connections[1] = SimpleNamespace(session=None)
    assert rig.value("wirespan.connections.opened", late="false") == 5
    counters.late = 1
    del rig.pipeline.table.connections[1]
    assert rig.value("wirespan.connections.opened", late="false") == 5
    assert rig.value("wirespan.connections", protocol="none") is None
    counters.opened = 9
    assert rig.value("wirespan.connections.opened", late="false") == 8


def test_part_that_fails_is_left_out_counted_and_logged_once(caplog):
    class Broken(NoneExporter):
        def counters(self):
            raise ZeroDivisionError

    rig = Rig(exporters={"own": Broken()})
    assert rig.value("wirespan.health.failures", part="exporters") == 1
    assert rig.value("wirespan.health.failures", part="exporters") == 2
    assert rig.value("wirespan.batches") == 0
    assert [record.message for record in caplog.records] == [
        "readings of the agent's own health lack exporters"
    ]


def test_kernel_that_fails_to_answer_leaves_what_it_said_last(caplog):
    rig = Rig()
    rig.source.tally = {Cause.DELIVERED: Counter(5)}
    rig.values()

    def counters():
        raise OSError

    rig.source.counters = counters
    assert rig.value("wirespan.kernel.events", cause="delivered", loss="false") == 5
    assert rig.value("wirespan.health.failures", part="kernel") == 2
    assert len(caplog.records) == 1


def test_readings_are_whole_while_the_pipeline_works():
    """Dictionaries grow while another thread reads them."""
    rig = Rig(exporters={"own": Held(spans_sent=1)})
    tally, table = rig.pipeline.table.tally, rig.pipeline.table
    stop = threading.Event()
    idle = SimpleNamespace(session=None)

    def work():
        number = 0
        while not stop.is_set():
            number += 1
            tally.parse_errors[f"p{number % 500}"] = number
            table.connections[number] = idle
            table.connections.pop(number - 100, None)
            if number % 500 == 0:
                tally.parse_errors = {}

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(100):
            rig.values()
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)
    assert not rig.health._failures


@pytest.mark.kernel
def test_running_kernel_is_read_and_what_is_sent_is_counted():
    source = KernelSource(
        Settings(pids=(os.getpid(),), exclude_self=False, tls=False),
        SimpleNamespace(lookup=lambda tgid, opened: Process(tgid, 0, {})),
    )
    try:
        source.enable_stats()
        rig = Rig(source)
        of = {"cause": "delivered", "loss": "false"}
        assert rig.value("wirespan.kernel.events", **of) is not None
        before = rig.value("wirespan.kernel.size", **of)
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname()) as client,
        ):
            other, _ = server.accept()
            with other:
                for _ in range(10):
                    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    other.recv(100)
        assert rig.value("wirespan.kernel.size", **of) - before >= 10 * 27
        values = rig.values()
        spent = [v for (name, _), v in values.items() if name == "wirespan.kernel.program.time"]
        assert sum(spent) > 0
        assert rig.value("wirespan.info") is None
        (info,) = [dict(labels) for name, labels in values if name == "wirespan.info"]
        assert info["source"] == source.source_in_use
        assert not rig.health._failures
        rig.health.close()
    finally:
        source.close()
    assert rig.value("wirespan.kernel.size", **of) - before >= 10 * 27
    assert not rig.health._failures
