# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
import threading
import time

import pytest
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from exporters import sdk
from exporters.environment import SettingsError
from exporters.sampling import Sampled
from exporters.sdk import COUNTERS, SdkExporter, load
from tests.exporters import samples
from tests.exporters.backends import Reply, http_backend

IN_MEMORY = "opentelemetry.sdk.trace.export.in_memory_span_exporter:InMemorySpanExporter"
OFFICIAL = "opentelemetry.exporter.otlp.proto.http.trace_exporter:OTLPSpanExporter"


class Told(SpanExporter):
    """Does as it is told."""

    def __init__(self):
        self.batches = []
        self.result = SpanExportResult.SUCCESS
        self.problem = None
        self.flushed = True
        self.entered = threading.Event()
        self.release = threading.Event()
        self.release.set()
        self.shutdowns = 0
        self.pause_s = 0.0

    def export(self, spans):
        self.entered.set()
        self.release.wait(10)
        time.sleep(self.pause_s)
        if self.problem:
            raise self.problem
        self.batches.append(spans)
        return self.result

    def force_flush(self, timeout_millis=30000):
        if isinstance(self.flushed, Exception):
            raise self.flushed
        return self.flushed

    def shutdown(self):
        self.shutdowns += 1
        if self.problem:
            raise self.problem


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("OTEL_TRACES_SAMPLER", "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_SCHEDULE_DELAY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def make(request, told):
    def make(exporter=told, **changes):
        made = SdkExporter(exporter, **changes)

        def end():
            told.release.set()
            made.close()

        request.addfinalizer(end)
        return made

    return make


def spans(number):
    return [samples.span(n) for n in range(1, number + 1)]


def counted(exporter):
    return {name: value for name, value in exporter.counters().items() if value}


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# ---- exporters of others ----


def test_the_exporter_in_memory():
    exporter = SdkExporter.from_options({"class": IN_MEMORY})
    exporter.export(spans(3))
    assert exporter.flush(5)
    finished = exporter.exporter.get_finished_spans()
    assert [each.context.span_id for each in finished] == [1, 2, 3]
    assert {each.resource.attributes["service.name"] for each in finished} == {"shop"}
    exporter.close()
    assert exporter.exporter._stopped


def test_the_console_exporter(make):
    out = io.StringIO()
    exporter = make(ConsoleSpanExporter(out=out))
    exporter.export(spans(1))
    assert exporter.flush(5)
    shown = json.loads(out.getvalue())
    assert shown["name"] == "GET"
    assert shown["resource"]["attributes"]["service.name"] == "shop"
    assert shown["attributes"]["wirespan.request.size"] == 78


def test_the_official_otlp_exporter_set_up_by_its_own_variables(monkeypatch):
    with http_backend() as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url())
        exporter = SdkExporter.from_options({"class": OFFICIAL})
        exporter.export(spans(2))
        assert exporter.flush(5)
        exporter.close()
        (request,) = backend.requests
        assert [each[-1] for each in backend.spans()] == [1, 2]
        assert request.message.resource_spans[0].scope_spans[0].scope.name == "wirespan"
    assert counted(exporter) == {"spans_received": 2, "spans_sent": 2, "requests": 1}


def test_the_official_otlp_exporter_that_is_refused(monkeypatch, caplog):
    with http_backend() as backend:
        backend.replies.append(Reply(400))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url())
        exporter = SdkExporter.from_options({"class": OFFICIAL})
        exporter.export(spans(2))
        exporter.flush(5)
        exporter.close()
    assert counted(exporter) == {"spans_received": 2, "spans_refused": 2, "requests": 1}
    assert "2 spans are lost" in caplog.text


# ---- batches ----


def test_a_full_batch_goes_at_once_and_the_rest_after_the_delay(make, told):
    exporter = make(batch_spans=2, schedule_delay_s=3600)
    exporter.export(spans(3))
    wait_for(lambda: told.batches)
    assert [len(batch) for batch in told.batches] == [2]
    assert exporter.levels() == {"queue_spans": 1}
    assert exporter.flush(5)
    assert [len(batch) for batch in told.batches] == [2, 1]


def test_a_batch_is_no_larger_than_the_queue(make, told):
    make(queue_spans=2, schedule_delay_s=3600).export(spans(2))
    wait_for(lambda: told.batches)


def test_flush_waits_for_all_batches(make, told):
    told.pause_s = 0.01
    exporter = make(batch_spans=2, schedule_delay_s=3600)
    exporter.export(spans(6))
    assert exporter.flush(5)
    assert len(told.batches) == 3


def test_a_flush_does_not_take_the_end_of_an_earlier_one_for_its_own(make, told):
    gate = threading.Event()
    told.force_flush = lambda _: gate.wait(10)
    exporter = make(schedule_delay_s=3600)
    assert not exporter.flush(0.01)
    before = exporter._hurry_until
    exporter.export(spans(1))
    seen = []

    def flush():
        seen.append((exporter.flush(5), len(told.batches)))

    thread = threading.Thread(target=flush)
    thread.start()
    wait_for(lambda: exporter._hurry_until != before)
    gate.set()
    thread.join(5)
    assert seen == [(True, 1)]


def test_what_waits_goes_after_the_delay(make, told):
    make(schedule_delay_s=0.001).export(spans(1))
    wait_for(lambda: told.batches)


def test_a_full_queue_drops_its_oldest_spans(make, told, caplog):
    told.release.clear()
    exporter = make(queue_spans=4, batch_spans=2, schedule_delay_s=3600)
    exporter.export(spans(2))
    assert told.entered.wait(5)
    exporter.export(spans(6))
    told.release.set()
    assert exporter.flush(5)
    ids = [span.context.span_id for batch in told.batches for span in batch]
    assert ids == [1, 2, 3, 4, 5, 6]
    assert counted(exporter)["spans_dropped_queue"] == 2
    assert "queue is full" in caplog.text


def test_the_environment_sets_queue_and_batches(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "3")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    exporter = SdkExporter.from_options({"class": IN_MEMORY})
    exporter.export(spans(5))
    assert exporter.flush(5)
    exporter.close()
    assert counted(exporter)["spans_sent"] == 3
    assert counted(exporter)["spans_dropped_queue"] == 2


# ---- exporters that misbehave ----


@pytest.mark.parametrize(
    "problem", [OSError("no room"), SystemExit("no room"), KeyboardInterrupt("no room")]
)
def test_one_that_raises_loses_its_batch_only(make, told, caplog, problem):
    exporter = make()
    told.problem = problem
    exporter.export(spans(2))
    assert exporter.flush(5)
    told.problem = None
    exporter.export(spans(3))
    assert exporter.flush(5)
    assert counted(exporter)["spans_dropped_error"] == 2
    assert counted(exporter)["spans_sent"] == 3
    assert "no room" in caplog.text


@pytest.mark.parametrize("result", [SpanExportResult.FAILURE, None])
def test_one_that_does_not_succeed_is_believed(make, told, result):
    told.result = result
    exporter = make()
    exporter.export(spans(2))
    assert exporter.flush(5)
    assert counted(exporter) == {"spans_received": 2, "spans_refused": 2, "requests": 1}


@pytest.mark.parametrize(
    ("answer", "done"), [(True, True), (None, True), (False, False), (OSError("x"), False)]
)
def test_its_own_flush_counts(make, told, answer, done):
    told.flushed = answer
    assert make().flush(5) is done


def test_one_that_hangs_holds_nobody_up(make, told, monkeypatch):
    monkeypatch.setattr(sdk, "CLOSE_S", 0.1)
    told.release.clear()
    exporter = make(batch_spans=1, queue_spans=10)
    exporter.export(spans(1))
    assert told.entered.wait(5)
    start = time.monotonic()
    exporter.export(spans(3))
    assert not exporter.flush(0.01)
    exporter.close()
    assert time.monotonic() - start < 5
    before = counted(exporter)
    assert before == {"spans_received": 4, "spans_dropped_shutdown": 4, "requests": 1}
    told.release.set()
    exporter._thread.join(5)
    assert counted(exporter) == before


def test_one_that_waits_is_told_of_the_shutdown(make, told):
    told.release.clear()
    told.shutdown = told.release.set
    exporter = make(batch_spans=1)
    exporter.export(spans(1))
    assert told.entered.wait(5)
    exporter.close()
    assert not exporter._thread.is_alive()
    assert counted(exporter)["spans_sent"] == 1


def test_one_that_cannot_shut_down_is_let_go(make, told, caplog):
    told.problem = RuntimeError("never")
    make().close()
    assert "could not shut down" in caplog.text


def test_close_is_once_and_what_comes_later_is_counted(make, told):
    exporter = make()
    exporter.close()
    exporter.close()
    exporter.export(spans(2))
    assert told.shutdowns == 1
    assert exporter.flush(0)
    assert counted(exporter) == {"spans_received": 2, "spans_dropped_shutdown": 2}


def test_an_attribute_that_is_none_costs_its_span_only(make, told, caplog):
    exporter = make()
    strange = samples.span(outline=samples.outline(attributes={"x": None}))
    exporter.export([*spans(2), strange])
    assert exporter.flush(5)
    assert [len(batch) for batch in told.batches] == [2]
    assert counted(exporter)["spans_dropped_encoding"] == 1
    assert "parser" in caplog.text


def test_a_batch_of_such_spans_is_no_request(make, told):
    exporter = make()
    exporter.export([samples.span(outline=samples.outline(attributes={"x": None}))])
    assert exporter.flush(5)
    assert not told.batches


def test_counters_are_all_there_from_the_start(make):
    assert tuple(make().counters()) == COUNTERS


# ---- options ----


def test_a_sampler_is_put_in_front_if_one_is_asked_for():
    exporter = SdkExporter.from_options({"class": IN_MEMORY, "sample": "0.5", "slow": "2"})
    assert isinstance(exporter, Sampled)
    assert exporter.policy.slow_s == 2
    assert isinstance(exporter.exporter, SdkExporter)
    assert isinstance(exporter.exporter.exporter, InMemorySpanExporter)
    exporter.close()


MODULE = """
from opentelemetry.sdk.trace.export import SpanExporter

class Picky(SpanExporter):
    def __init__(self, endpoint): ...

class Other: ...

function = print
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "strange_exporters.py").write_text(MODULE)
    (tmp_path / "broken_exporters.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is no class such as"),
        ("json", "is no class such as"),
        ("json.JSONEncoder", "is no class such as"),
        ("os:system('x')", "is no class such as"),
        ("acme.exporters:Exporter", "cannot be imported (ModuleNotFoundError"),
        ("broken_exporters:Exporter", "cannot be imported (ZeroDivisionError"),
        ("strange_exporters:Missing", "no Missing in strange_exporters"),
        ("strange_exporters:Other", "is no SpanExporter"),
        ("strange_exporters:function", "is no SpanExporter"),
        ("strange_exporters:Picky", "cannot be made without arguments (TypeError"),
    ],
)
def test_a_class_that_is_of_no_use_is_an_error_that_says_why(module, name, words):
    with pytest.raises(SettingsError) as error:
        load(name)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "class=package.module:Class is missing"),
        ({"class": IN_MEMORY, "colour": "red"}, "no option is called colour"),
        ({"class": IN_MEMORY, "sample": "2"}, "sample: '2'"),
    ],
)
def test_bad_options_are_errors_and_start_nothing(options, words):
    before = threading.active_count()
    with pytest.raises(SettingsError) as error:
        SdkExporter.from_options(options)
    assert words in str(error.value)
    assert threading.active_count() == before
