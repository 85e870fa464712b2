# SPDX-License-Identifier: Apache-2.0
"""Several threads, a queue and a spool; the backend is a function."""

from __future__ import annotations

import random
import threading
import time

import pytest

from exporters.environment import SettingsError
from exporters.otlp import OtlpExporter
from exporters.senders import MAX_SENDERS
from exporters.settings import OtlpSettings
from exporters.spool import Spool
from exporters.transport import ACCEPTED, Answer, Verdict
from tests.exporters.functional import Backend, balance, exporter, ids, some, wait_until
from tests.exporters.scripted import BAD, BUSY, LARGE

pytestmark = pytest.mark.usefixtures("short_pauses")


def test_one_sender_and_a_spare_do_while_there_is_no_backlog():
    backend = Backend()
    with exporter(backend) as made:
        for first in range(1, 100, 10):
            made.export(some(10, first))
            assert made.flush(5)
        assert made.levels()["senders"] == backend.connections == 2
    assert len(backend.spans) == 100


def test_a_slow_backend_gets_more_connections_but_not_too_many():
    backend = Backend(lambda spans: time.sleep(0.02) or ACCEPTED)
    with exporter(backend) as made:
        made.export(some(400))
        assert made.flush(5)
        assert made.levels()["senders"] == backend.connections == MAX_SENDERS
        assert backend.most == MAX_SENDERS
    assert sorted(backend.spans) == ids(some(400))


def test_a_connection_that_cannot_be_had_leaves_the_others_to_it(caplog):
    backend = Backend(lambda spans: time.sleep(0.002) or ACCEPTED)
    connections = []

    def connect():
        if connections:
            raise SettingsError("cannot read key.pem: no such file")
        connections.append(1)
        return backend.connect()

    made = OtlpExporter(OtlpSettings(batch_spans=10), connect)
    made.export(some(100))
    assert made.flush(5)
    made.close()
    assert len(backend.spans) == 100
    assert len(caplog.messages) == 1
    assert "cannot have another connection" in caplog.text


def test_while_the_backend_is_down_one_sender_tries():
    down = threading.Event()
    concurrent = []

    def respond(spans):
        if down.is_set():
            concurrent.append(backend.under_way)
            time.sleep(0.002)
            return BUSY
        time.sleep(0.005)
        return ACCEPTED

    backend = Backend(respond)
    with exporter(backend) as made:
        made.export(some(200))
        wait_until(lambda: made.levels()["senders"] == MAX_SENDERS)
        assert made.flush(5)
        down.set()
        made.export(some(200, 201))
        wait_until(lambda: len(concurrent) > 10)
        assert set(concurrent[MAX_SENDERS + 1 :]) == {1}
        assert made.levels()["queue_spans"] >= 200 - 10 * MAX_SENDERS
        down.clear()
        assert made.flush(5)
        assert balance(made) == 0
    assert sorted(backend.spans) == ids(some(400))


def test_a_request_that_is_tried_again_does_not_block_the_others():
    def respond(spans):
        return BUSY if (1).to_bytes(8, "big") in spans and not over.is_set() else ACCEPTED

    over = threading.Event()
    backend = Backend(respond)
    with exporter(backend) as made:
        for first in range(1, 400, 10):
            made.export(some(10, first))
            time.sleep(0.001)
        wait_until(lambda: len(backend.spans) >= 390)
        over.set()
        assert made.flush(5)
    assert sorted(backend.spans) == ids(some(400))


def test_a_first_request_that_hangs_does_not_hold_up_the_others():
    leave = threading.Event()
    first = (1).to_bytes(8, "big")
    backend = Backend(lambda spans: (first not in spans or leave.wait(10)) and ACCEPTED)
    with exporter(backend) as made:
        made.export(some(10))
        wait_until(lambda: backend.under_way)
        made.export(some(100, 11))
        wait_until(lambda: len(backend.spans) == 100)
        leave.set()
        assert made.flush(5)
    assert sorted(backend.spans) == ids(some(110))


class TestAnOutageThatOutlastsTheTimeOfABatch:
    """And there is no spool."""

    def setup_method(self):
        self.down = threading.Event()
        self.down.set()
        self.backend = Backend(lambda spans: BUSY if self.down.is_set() else ACCEPTED)

    def test_costs_nothing_that_the_queue_can_hold(self):
        with exporter(self.backend, export_timeout_s=0.03) as made:
            for first in range(1, 401, 10):
                made.export(some(10, first))
                time.sleep(0.01)
            assert made.counters()["spans_sent"] == 0
            self.down.clear()
            assert made.flush(5)
            assert made.counters()["spans_sent"] == made.counters()["spans_received"] == 400
            assert balance(made) == 0
        assert sorted(self.backend.spans) == ids(some(400))

    def test_costs_the_oldest_that_it_cannot_hold(self):
        with exporter(self.backend, queue_spans=100, export_timeout_s=0.03) as made:
            for first in range(1, 401, 10):
                made.export(some(10, first))
                time.sleep(0.005)
            wait_until(lambda: balance(made) == 0)
            self.down.clear()
            assert made.flush(5)
            counters = made.counters()
            assert 100 <= counters["spans_sent"] <= 100 + 10 * MAX_SENDERS
            assert counters["spans_sent"] + counters["spans_dropped_queue"] == 400
        assert set(ids(some(100 - 10 * MAX_SENDERS, 301 + 10 * MAX_SENDERS))) <= {
            *self.backend.spans
        }

    def test_is_not_met_by_a_busy_loop(self, monkeypatch):
        monkeypatch.setattr("exporters.attempts.FIRST_BACKOFF_S", 0.2)
        with exporter(self.backend, export_timeout_s=0.01) as made:
            made.export(some(10))
            time.sleep(0.3)
            assert 2 <= self.backend.requests <= 3 * MAX_SENDERS
            assert balance(made) == 0

    def test_may_be_announced_by_the_backend(self):
        later = Answer(Verdict.RETRY, "HTTP 503", retry_after_s=0.3)
        self.backend.respond = lambda spans: later if self.backend.requests == 1 else ACCEPTED
        with exporter(self.backend, export_timeout_s=0.05) as made:
            began = time.monotonic()
            made.export(some(100))
            wait_until(lambda: made.counters()["spans_sent"] == 100)
            assert time.monotonic() - began >= 0.3
            assert balance(made) == 0


@pytest.mark.parametrize("poisoned", [1, 2, 6])
def test_batches_that_never_pass_while_others_do_are_given_up(poisoned):
    poison = {*ids(some(10 * poisoned))}
    backend = Backend(lambda spans: BUSY if poison & {*spans} else ACCEPTED)
    with exporter(backend, queue_spans=20_000, export_timeout_s=0.03) as made:
        number = 1
        while made.counters()["spans_dropped_timeout"] < 10 * poisoned:
            assert number < 20_000
            made.export(some(10, number))
            number += 10
            time.sleep(0.005)
        assert made.flush(5)
        assert made.counters()["spans_dropped_timeout"] == 10 * poisoned
        assert balance(made) == 0
    assert sorted(backend.spans) == ids(some(number - 1))[10 * poisoned :]


def test_of_a_batch_in_halves_only_what_is_not_done_is_sent_again():
    late = (6).to_bytes(8, "big")
    up = threading.Event()

    def respond(spans):
        if len(spans) == 10:
            return LARGE
        return BUSY if late in spans and not up.is_set() else ACCEPTED

    backend = Backend(respond)
    with exporter(backend, senders=1, export_timeout_s=0.03) as made:
        made.export(some(10))
        wait_until(lambda: made.counters()["spans_sent"] == 5)
        wait_until(lambda: backend.requests > 6)
        up.set()
        assert made.flush(5)
        assert made.counters()["spans_sent"] == 10
    assert backend.spans == ids(some(10))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("with_spool", [False, True])
def test_whatever_the_backend_does_each_span_has_one_fate(tmp_path, with_spool, seed):
    schedule = random.Random(seed)
    moods = [
        lambda: ACCEPTED,
        lambda: ACCEPTED,
        lambda: BUSY,
        lambda: BUSY,
        lambda: BAD,
        lambda: LARGE,
        lambda: Answer(Verdict.ACCEPTED, "partial", "", rejected=2),
        lambda: Answer(Verdict.RETRY, "HTTP 429", retry_after_s=0.01),
        lambda: time.sleep(0.01) or ACCEPTED,
        lambda: 1 / 0,
    ]
    mood = [moods[0]]
    spool = Spool(tmp_path / "spool", 40_000) if with_spool else None
    backend = Backend(lambda spans: mood[0]())
    values = {"queue_spans": 60, "export_timeout_s": 0.05}
    with exporter(backend, spool, **values) as made:
        number = 1
        for _ in range(60):
            mood[0] = schedule.choice(moods)
            count = schedule.choice([1, 7, 30, 90])
            made.export(some(count, number))
            number += count
            time.sleep(schedule.choice([0, 0.001, 0.01]))
        if schedule.random() < 0.5:
            mood[0] = moods[0]
            made.flush(5)
            wait_until(lambda: not made.levels()["in_flight_spans"])
        made.close()
        counters = made.counters()
        assert counters["spans_received"] == number - 1
        assert balance(made) == 0
        assert made.levels()["queue_spans"] == made.levels()["in_flight_spans"] == 0
        assert len(backend.spans) == len(set(backend.spans))
        assert len(backend.spans) == counters["spans_sent"] + counters["spans_refused"]
        if spool is not None:
            inside = counters["spans_spooled"] - counters["spans_unspooled"]
            inside -= counters["spans_dropped_spool_full"]
            assert inside == made.levels()["spool_spans"]
