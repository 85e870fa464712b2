# SPDX-License-Identifier: Apache-2.0
"""Readings on their way to a backend that is told what to answer."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from exporters import metrics_reader
from exporters.instruments import Instrument, Metric, Point, ResourceMetrics
from exporters.metrics_reader import COUNTERS, MetricsReader
from exporters.metrics_settings import MetricsSettings
from exporters.settings import OtlpSettings
from exporters.transport import Answer, Verdict
from tests.exporters.functional import wait_until
from tests.exporters.scripted import BAD, BUSY, LARGE, Backend

COUNT = Instrument("x.count", "counter", "{x}", "")
NONE_HERE = Answer(Verdict.UNSUPPORTED, "HTTP 404", "404 page not found", remedy="Try that.")


class Source:
    """Points that count how often they were read."""

    def __init__(self, points=2):
        self.points = points
        self.readings = 0

    def __call__(self):
        self.readings += 1
        points = [Point((("n", n),), 10 * self.readings, 100) for n in range(self.points)]
        return [ResourceMetrics({"service.name": "shop"}, [Metric(COUNT, points)])]


@pytest.fixture
def make(request):
    """Makes readers that read when they are asked to, and closes them."""

    def made(source, backend, interval_s=100.0, export_timeout_s=30.0, **environ):
        settings = MetricsSettings.from_options({}, environ)
        otlp = dataclasses.replace(
            settings.otlp, schedule_delay_s=interval_s, export_timeout_s=export_timeout_s
        )
        reader = MetricsReader(source, settings, otlp, backend)
        request.addfinalizer(reader.close)
        return reader

    return made


def values(body):
    message = ExportMetricsServiceRequest.FromString(body)
    return [
        point.as_int
        for resource in message.resource_metrics
        for metric in resource.scope_metrics[0].metrics
        for point in metric.sum.data_points
    ]


def counts(reader):
    return {name: count for name, count in reader.counters().items() if count}


def test_flush_reads_and_sends_at_once(make):
    backend = Backend()
    reader = make(Source(), backend)
    assert reader.flush(5)
    assert reader.flush(5)
    assert [values(body) for body in backend.bodies] == [[10, 10], [20, 20]]
    assert counts(reader) == {"exports": 2, "points_sent": 4, "requests": 2}


def test_readings_come_by_themselves(make):
    backend = Backend()
    reader = make(Source(), backend, interval_s=0.01)
    wait_until(lambda: len(backend.bodies) >= 3)
    reader.close()
    assert counts(reader)["exports"] >= 3


def test_nothing_is_sent_where_there_is_nothing(make):
    backend = Backend()
    reader = make(list, backend)
    assert reader.flush(5)
    assert backend.bodies == []
    assert counts(reader) == {"exports": 1}


def test_what_a_refused_export_said_is_in_the_next(make):
    backend = Backend(BAD)
    reader = make(Source(), backend)
    assert not reader.flush(5)
    assert reader.flush(5)
    assert values(backend.bodies[-1]) == [20, 20]
    assert counts(reader) == {
        "exports": 2,
        "exports_failed": 1,
        "points_dropped_status": 2,
        "points_sent": 2,
        "requests": 2,
    }


def test_deltas_that_could_not_be_sent_are_part_of_the_next(make):
    backend = Backend(BAD)
    reader = make(Source(), backend, OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta")
    results = [reader.flush(5) for _ in range(3)]
    assert results == [False, True, True]
    assert [values(body) for body in backend.bodies] == [[10, 10], [20, 20], [10, 10]]


def test_a_busy_backend_is_tried_again(make):
    backend = Backend(dataclasses.replace(BUSY, retry_after_s=0.0))
    reader = make(Source(), backend)
    assert reader.flush(5)
    assert backend.bodies[0] == backend.bodies[1]
    assert counts(reader) == {"exports": 1, "points_sent": 2, "requests": 2, "retries": 1}


def test_a_backend_that_stays_busy_gets_the_next_reading(make):
    backend = Backend(BUSY)
    reader = make(Source(), backend, export_timeout_s=0.1)
    assert not reader.flush(5)
    assert counts(reader) == {
        "exports": 1,
        "exports_failed": 1,
        "points_dropped_timeout": 2,
        "requests": 1,
    }


def test_what_is_too_large_is_sent_in_parts(make):
    backend = Backend(LARGE)
    reader = make(Source(9), backend)
    assert reader.flush(5)
    parts = [values(body) for body in backend.bodies[1:]]
    assert len(parts) >= 2
    assert sum(map(len, parts)) == 9
    assert counts(reader) | {"requests": 0} == {
        "exports": 1,
        "points_sent": 9,
        "requests": 0,
        "splits": 1,
    }


def test_one_point_that_is_too_large_is_dropped(make):
    backend = Backend(LARGE)
    reader = make(Source(1), backend)
    assert not reader.flush(5)
    assert counts(reader)["points_dropped_status"] == 1


def test_points_that_the_backend_threw_away_are_counted(make):
    backend = Backend(Answer(Verdict.ACCEPTED, "partial success", "no", rejected=1))
    reader = make(Source(), backend)
    assert reader.flush(5)
    assert counts(reader) == {
        "exports": 1,
        "points_refused": 1,
        "points_sent": 1,
        "requests": 1,
    }


def test_a_backend_that_takes_no_metrics_is_left_alone(make, caplog):
    backend = Backend(NONE_HERE)
    source = Source()
    reader = make(source, backend)
    with caplog.at_level(logging.WARNING):
        assert [reader.flush(5) for _ in range(3)] == [True] * 3
    assert len(backend.bodies) == source.readings == 1
    assert caplog.messages == [
        "OTLP: HTTP 404: 404 page not found; 2 data points dropped. Try that."
    ]
    assert counts(reader) == {
        "exports": 1,
        "exports_unsupported": 2,
        "points_dropped_status": 2,
        "requests": 1,
    }


def test_a_backend_that_took_no_metrics_is_asked_again_later(make, monkeypatch):
    monkeypatch.setattr(metrics_reader, "UNSUPPORTED_REST_S", 0.1)
    backend = Backend(NONE_HERE, NONE_HERE)
    reader = make(Source(), backend)
    began = time.monotonic()
    while not reader.counters()["points_sent"]:
        assert time.monotonic() - began < 5
        assert reader.flush(5)
        time.sleep(0.005)
    assert time.monotonic() - began >= 0.2
    assert reader.counters()["requests"] == 3
    assert values(backend.bodies[-1]) == [30, 30]


def test_a_backend_that_has_taken_metrics_is_not_given_up(make):
    backend = Backend()
    reader = make(Source(), backend)
    assert reader.flush(5)
    backend.answers.append(NONE_HERE)
    assert [reader.flush(5) for _ in range(2)] == [False, True]


def test_a_source_that_fails_is_read_again(make, caplog):
    backend = Backend()
    source = Source()
    failures = [RuntimeError("not now")]

    def collect():
        if failures:
            raise failures.pop()
        return source()

    reader = make(collect, backend)
    assert [reader.flush(5) for _ in range(2)] == [False, True]
    assert "not now" in caplog.text
    assert counts(reader)["exports_failed"] == 1


class Stuck(Backend):
    """Answers when it is aborted."""

    def __init__(self):
        super().__init__()
        self.called = threading.Event()
        self.aborted = threading.Event()
        self.closed = False

    def send(self, body, timeout_s):
        self.called.set()
        self.aborted.wait(10)
        return BUSY

    def abort(self):
        self.aborted.set()

    def close(self):
        self.closed = True


def test_flush_gives_up_when_its_time_is_up_and_close_ends_what_is_under_way(make):
    backend = Stuck()
    reader = make(Source(), backend)
    assert not reader.flush(0.05)
    assert backend.called.is_set()
    began = time.monotonic()
    reader.close()
    assert time.monotonic() - began < 1
    assert backend.closed
    assert counts(reader)["points_dropped_shutdown"] == 2
    assert not reader.flush(5)


def test_close_does_not_wait_for_what_nothing_wakes(make, monkeypatch):
    monkeypatch.setattr(metrics_reader, "CLOSE_S", 0.01)
    backend = Stuck()
    backend.abort = lambda: None
    reader = make(Source(), backend)
    reader.flush(0.01)
    assert backend.called.wait(5)
    reader.close()
    assert not backend.closed
    backend.aborted.set()


def test_a_flush_during_an_export_waits_for_another(make):
    backend = Backend()
    entered, go = threading.Event(), threading.Event()
    source = Source()

    def collect():
        entered.set()
        go.wait(5)
        return source()

    reader = make(collect, backend, interval_s=0.001)
    assert entered.wait(5)
    threading.Timer(0.02, go.set).start()
    assert reader.flush(5)
    assert len(backend.bodies) >= 2


def test_counters_are_all_there_from_the_start(make):
    assert tuple(make(list, Backend()).counters()) == COUNTERS


def test_settings_of_a_signal_come_from_its_variables(make):
    made = OtlpSettings.from_environment({"OTEL_METRIC_EXPORT_INTERVAL": "1500"}, "metrics")
    assert made.schedule_delay_s == 1.5
