# SPDX-License-Identifier: Apache-2.0
"""The exporter as a whole, against real backends."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from exporters.environment import SettingsError
from exporters.otlp import COUNTERS, OtlpExporter
from exporters.settings import OtlpSettings
from exporters.transport import ACCEPTED
from tests.exporters import samples
from tests.exporters.backends import (
    DISCONNECT,
    Reply,
    free_port,
    grpc_backend,
    response,
)
from tests.exporters.functional import balance, ids, some, wait_until


def counts(exporter):
    return {name: count for name, count in exporter.counters().items() if count}


def attempts(exporter):
    """Of its first sender."""
    return exporter._senders._senders[0].attempts


def test_flush_sends_what_is_queued(backend, exporter):
    spans = some(3)
    sender = exporter(backend.url())
    sender.export(spans)
    assert sender.flush(5)
    assert backend.spans() == ids(spans)
    assert counts(sender) == {"spans_received": 3, "spans_sent": 3, "requests": 1}


def test_grpc_too(exporter):
    with grpc_backend() as backend:
        sender = exporter(f"http://localhost:{backend.port}", protocol="grpc")
        sender.export(some(3))
        assert sender.flush(5)
        assert len(backend.bodies) == 1
        assert counts(sender) == {"spans_received": 3, "spans_sent": 3, "requests": 1}
        sender.close()


def test_a_full_batch_goes_without_flush(backend, exporter):
    sender = exporter(backend.url(), batch_spans=10)
    sender.export(some(25))
    wait_until(lambda: len(backend.spans()) == 20)
    assert [len(r.message.resource_spans[0].scope_spans[0].spans) for r in backend.requests] == [
        10,
        10,
    ]
    assert sender.flush(5)
    assert len(backend.spans()) == 25


def test_a_short_batch_goes_after_the_delay(backend, exporter):
    sender = exporter(backend.url(), schedule_delay_s=0.02)
    sender.export(some(1))
    wait_until(backend.spans)


def test_a_flush_with_nothing_to_do_is_at_once_and_sends_nothing(backend, exporter):
    sender = exporter(backend.url())
    sender.export([])
    assert sender.flush(0.5)
    assert not backend.requests


def test_a_full_queue_drops_the_oldest_and_never_blocks(backend, exporter, caplog):
    backend.release.clear()
    sender = exporter(backend.url(), queue_spans=20, batch_spans=5)
    sender.export(some(5))
    wait_until(lambda: backend.requests)
    started = time.monotonic()
    for first in range(6, 106, 10):
        sender.export(some(10, first))
    assert time.monotonic() - started < 2
    assert counts(sender) == {"spans_received": 105, "spans_dropped_queue": 80}
    assert "80 of the oldest" not in caplog.text
    assert sum("is full" in line for line in caplog.messages) == 1
    backend.release.set()
    assert sender.flush(5)
    assert backend.spans() == ids(some(5) + some(20, 86))
    assert balance(sender) == 0


def test_the_queue_is_bounded_in_bytes_too(backend, exporter):
    backend.release.clear()
    sender = exporter(backend.url(), queue_bytes=10_000, batch_spans=1000)
    sender.export(some(100))
    dropped = sender.counters()["spans_dropped_queue"]
    assert 60 < dropped < 90
    backend.release.set()
    assert sender.flush(5)
    assert sender.counters()["spans_sent"] == 100 - dropped


def test_mixed_answers_are_counted_by_name(backend, exporter):
    backend.replies += [
        Reply(200, response(4, "too old")),
        Reply(400),
        Reply(413),
        Reply(),
        Reply(413),
    ]
    sender = exporter(backend.url(), batch_spans=10)
    sender.export(some(22))
    assert sender.flush(5)
    # 10: 4 are refused; 10: all are; 2: in halves, of which one passes.
    assert counts(sender) == {
        "spans_received": 22,
        "spans_sent": 7,
        "spans_refused": 4,
        "spans_dropped_status": 11,
        "requests": 5,
        "splits": 1,
    }


def test_a_flush_cuts_a_pause_short(backend, exporter):
    backend.replies.append(Reply(503))
    sender = exporter(backend.url(), batch_spans=1)
    attempts(sender)._pause = lambda pause_s, asked: attempts(sender)._wait(1000, asked)
    sender.export(some(1))
    wait_until(lambda: sender.counters()["retries"])
    assert sender.flush(5)
    assert counts(sender) == {
        "spans_received": 1,
        "spans_sent": 1,
        "requests": 2,
        "retries": 1,
    }


def test_a_flush_does_not_cut_what_the_backend_asked_for(backend, exporter):
    backend.replies.append(Reply(503, headers={"Retry-After": "20"}))
    sender = exporter(backend.url())
    sender.export(some(1))
    assert not sender.flush(0.1)
    assert len(backend.requests) == 1


def test_an_outage_ends(backend, exporter):
    sender = exporter(backend.url())
    attempts(sender)._pause = lambda *_: None
    backend.replies += [Reply(503), DISCONNECT, Reply(429), Reply(502)]
    spans = some(3)
    sender.export(spans)
    assert sender.flush(5)
    assert backend.requests[-1].message == backend.requests[0].message
    assert counts(sender) == {
        "spans_received": 3,
        "spans_sent": 3,
        "requests": 4,  # the disconnect was of a kept connection: at once once more
        "retries": 3,
    }


def test_a_flush_to_nowhere_ends_in_time_and_close_counts_the_rest(exporter, caplog):
    port = free_port()
    sender = exporter(f"http://localhost:{port}", batch_spans=10)
    sender.export(some(35))
    started = time.monotonic()
    assert not sender.flush(0.1)
    sender.close()
    assert time.monotonic() - started < 1
    assert not any(each.thread.is_alive() for each in sender._senders._senders)
    assert sender.counters()["spans_dropped_shutdown"] == 35
    assert balance(sender) == 0
    assert (
        f"OTLP: connection refused at localhost:{port}: [Errno 111] Connection refused; "
        "will be tried again. Is a collector listening there?"
    ) in caplog.messages


def test_close_does_not_wait_for_a_backend_that_sleeps(backend, exporter):
    backend.release.clear()
    sender = exporter(backend.url(), batch_spans=5)
    sender.export(some(12))
    wait_until(lambda: backend.requests)
    started = time.monotonic()
    sender.close()
    assert time.monotonic() - started < 1
    assert counts(sender)["spans_dropped_shutdown"] == 12


def test_a_sender_that_nothing_can_wake_is_left_behind(monkeypatch):
    monkeypatch.setattr("exporters.senders.CLOSE_S", 0.02)
    leave = threading.Event()

    class Stuck:
        def send(self, body, timeout_s):
            leave.wait(10)
            return ACCEPTED

        abort = close = lambda self: None

    sender = OtlpExporter(OtlpSettings(batch_spans=2), Stuck)
    sender.export(some(5))
    wait_until(lambda: sender._queue.in_flight)
    sender.close()
    assert counts(sender) == {"spans_received": 5, "spans_dropped_shutdown": 5}
    leave.set()
    for each in sender._senders._senders:
        each.thread.join(5)
    assert counts(sender) == {"spans_received": 5, "spans_dropped_shutdown": 5}


def test_closing_twice_and_exporting_after_it_harm_nobody(backend, exporter):
    sender = exporter(backend.url())
    sender.close()
    sender.close()
    sender.export(some(2))
    assert counts(sender) == {"spans_received": 2, "spans_dropped_shutdown": 2}


def test_a_span_that_cannot_be_laid_out_costs_only_itself(backend, exporter, caplog):
    good = some(4)
    bad = samples.span(outline=samples.outline(attributes={"odd": None}))
    sender = exporter(backend.url())
    sender.export([*good[:2], bad, *good[2:]])
    assert sender.flush(5)
    assert backend.spans() == ids(good)
    assert counts(sender) == {
        "spans_received": 5,
        "spans_sent": 4,
        "spans_dropped_encoding": 1,
        "requests": 1,
    }
    assert "fault of the parser for http" in caplog.text


def test_every_counter_is_there_from_the_start(backend, exporter):
    assert exporter(backend.url()).counters() == dict.fromkeys(COUNTERS, 0)


class TestFromOptions:
    def test_options_come_before_the_environment(self, backend, monkeypatch):
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "123")
        sender = OtlpExporter.from_options({"endpoint": backend.url(), "batch_spans": "7"})
        assert sender.settings.schedule_delay_s == 0.123
        assert sender.settings.batch_spans == 7
        sender.close()

    def test_a_spool_is_had_by_its_directory(self, backend, tmp_path):
        options = {"endpoint": backend.url(), "spool": str(tmp_path / "a" / "b")}
        sender = OtlpExporter.from_options({**options, "spool_bytes": "2000000"})
        with pytest.raises(SettingsError, match="in use"):
            OtlpExporter.from_options(options)
        sender.close()
        OtlpExporter.from_options(options).close()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"spool_bytes": "2000000"}, "no use without"),
            ({"spool": "/tmp/x", "spool_bytes": "10"}, "at least"),
            ({"spool": "/tmp/x", "spool_bytes": "2M"}, "'2M' is no number"),
            ({"spool": "/proc/nowhere"}, "cannot make the spool"),
            ({"spool": "/"}, "confidential"),
        ],
    )
    def test_a_bad_spool_is_an_error(self, options, words):
        with pytest.raises(SettingsError, match=words):
            OtlpExporter.from_options(options)

    def test_settings_that_are_bad_leave_the_spool_to_others(self, tmp_path):
        options = {"spool": str(tmp_path / "spool"), "endpoint": "https://localhost"}
        with pytest.raises(SettingsError, match="cannot use"):
            OtlpExporter.from_options({**options, "certificate": "/no/such/file"})
        OtlpExporter.from_options(options).close()

    def test_a_bad_option_is_an_error(self):
        with pytest.raises(SettingsError, match="compression"):
            OtlpExporter.from_options({"compression": "lzma"})


@pytest.mark.parametrize("module", ["exporters.otlp", "exporters.console"])
def test_importing_an_exporter_does_not_import_a_transport(module):
    heavy = "{'grpc', 'google.protobuf', 'http.client', 'opentelemetry', 'requests'}"
    code = f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
