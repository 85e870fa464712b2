# SPDX-License-Identifier: Apache-2.0
"""What the senders do with a spool; the backend is a function."""

from __future__ import annotations

import random
import threading
import time

import pytest

from exporters.spool import Spool
from exporters.transport import ACCEPTED, Answer, Verdict
from tests.exporters.functional import Backend, balance, exporter, ids, some, wait_until
from tests.exporters.scripted import BAD, BUSY, LARGE

pytestmark = pytest.mark.usefixtures("short_pauses")


def test_what_would_not_fit_into_the_queue_is_spooled_and_sent_when_it_is_over(spool):
    down = threading.Event()
    down.set()
    backend = Backend(lambda spans: BUSY if down.is_set() else ACCEPTED)
    with exporter(backend, spool) as made:
        for first in range(1, 3001, 50):
            made.export(some(50, first))
            wait_until(lambda: made.levels()["queue_spans"] <= 200)
        assert made.levels()["spool_spans"] > 2500
        assert made.counters()["spans_dropped_queue"] == 0
        wait_until(lambda: balance(made) == 0)
        down.clear()
        wait_until(lambda: made.levels()["spool_spans"] == 0)
        assert made.flush(5)
        assert balance(made) == 0
        counters = made.counters()
        assert counters["spans_sent"] == 3000
        assert counters["spans_unspooled"] == counters["spans_spooled"] > 2500
    assert sorted(backend.spans) == ids(some(3000))


def test_what_has_used_up_its_retries_is_spooled(spool):
    down = threading.Event()
    down.set()
    backend = Backend(lambda spans: BUSY if down.is_set() else ACCEPTED)
    with exporter(backend, spool, export_timeout_s=0.02) as made:
        made.export(some(5))
        wait_until(lambda: made.counters()["spans_spooled"] == 5)
        down.clear()
        wait_until(lambda: made.counters()["spans_sent"] == 5)
        assert balance(made) == 0
        assert made.counters()["spans_dropped_timeout"] == 0


def test_the_spool_is_sent_oldest_first_and_new_spans_do_not_wait_for_it(spool):
    release = threading.Event()
    order = []

    def respond(spans):
        order.append(int.from_bytes(spans[0], "big"))
        if order[-1] > 1000:
            time.sleep(0.02)
        return ACCEPTED if release.is_set() else BUSY

    backend = Backend(respond)
    with exporter(backend, spool, export_timeout_s=0.01) as made:
        for first in range(1001, 1801, 100):
            made.export(some(100, first))
            wait_until(lambda: made.levels()["queue_spans"] <= 200)
        wait_until(lambda: made.levels()["spool_spans"] >= 550)
        release.set()
        wait_until(lambda: made.levels()["queue_spans"] < 10)
        assert made.levels()["spool_spans"] > 300
        began = time.monotonic()
        for number in range(1, 5):
            made.export(some(1, number))
            wait_until(lambda number=number: number in order)
        assert time.monotonic() - began < 0.5
        assert made.levels()["spool_spans"] > 100
        wait_until(lambda: made.levels()["spool_spans"] == 0)
        assert balance(made) == 0


def test_what_is_refused_is_never_spooled(spool):
    backend = Backend(lambda spans: random.choice([BAD, Answer(Verdict.ACCEPTED, "p", "", 3)]))
    with exporter(backend, spool) as made:
        made.export(some(100))
        assert made.flush(5)
        assert made.counters()["spans_spooled"] == 0
        assert balance(made) == 0


def test_a_flush_that_is_late_says_so_and_close_spools_the_rest(spool, tmp_path, caplog):
    backend = Backend(lambda spans: BUSY)
    with exporter(backend, spool) as made:
        made.export(some(150))
        assert not made.flush(0.05)
        began = time.monotonic()
        made.close()
        assert time.monotonic() - began < 1
        assert made.levels()["spool_spans"] == made.counters()["spans_spooled"] == 150
        assert balance(made) == 0
        assert "150 spans are in the spool" in caplog.text
    backend.respond = lambda spans: ACCEPTED
    with exporter(backend, Spool(tmp_path / "spool")) as again:
        wait_until(lambda: again.levels()["spool_spans"] == 0)
        assert again.counters()["spans_inherited"] == again.counters()["spans_sent"] == 150
        assert balance(again) == 0
    assert sorted(backend.spans) == ids(some(150))


@pytest.mark.parametrize("hangs", ["wakes", "stuck"])
def test_close_spools_what_a_backend_that_hangs_has_in_hand(spool, hangs):
    leave = threading.Event()
    backend = Backend(lambda spans: leave.wait(20) and ACCEPTED)
    with exporter(backend, spool) as made:
        made.export(some(200))
        wait_until(lambda: backend.under_way)
        began = time.monotonic()
        if hangs == "wakes":
            threading.Timer(0.1, leave.set).start()
            backend.respond = lambda spans: leave.wait(20) and BUSY
        made.close()
        assert time.monotonic() - began < 1
        final = made.counters(), made.levels()
        assert final[1]["spool_spans"] + final[0]["spans_sent"] == 200
        assert balance(made) == 0
        leave.set()
        for sender in made._senders._senders:
            sender.thread.join(5)
        assert (made.counters(), made.levels()) == final


def test_a_disk_that_is_full_leaves_an_exporter_without_a_spool(spool, monkeypatch):
    down = threading.Event()
    down.set()
    backend = Backend(lambda spans: BUSY if down.is_set() else ACCEPTED)
    monkeypatch.setattr(spool, "append", lambda request: False)
    with exporter(backend, spool) as made:
        for first in range(1, 1001, 50):
            made.export(some(50, first))
        assert made.counters()["spans_dropped_queue"] >= 560
        assert made.counters()["spans_dropped_spool_error"] == 0
        assert made.levels()["queue_spans"] > 350
        wait_until(lambda: balance(made) == 0)
        down.clear()
        assert made.flush(5)
        assert balance(made) == 0
        assert made.counters()["spans_sent"] >= 350


def test_what_a_full_disk_cannot_take_stays_in_the_queue(spool, monkeypatch):
    monkeypatch.setattr(spool, "append", lambda request: False)
    down = threading.Event()
    down.set()
    backend = Backend(lambda spans: BUSY if down.is_set() else ACCEPTED)
    with exporter(backend, spool, export_timeout_s=0.02) as made:
        made.export(some(50))
        wait_until(lambda: backend.requests > 10)
        down.clear()
        assert made.flush(5)
        assert made.counters()["spans_sent"] == 50


def test_a_disk_that_is_full_at_the_end_is_counted(spool, monkeypatch):
    monkeypatch.setattr(spool, "append", lambda request: False)
    with exporter(Backend(lambda spans: BUSY), spool) as made:
        made.export(some(100))
        made.close()
        assert made.counters()["spans_dropped_spool_error"] == 100
        assert balance(made) == 0


def test_a_disk_that_hangs_holds_neither_export_nor_close_up(spool, monkeypatch):
    leave = threading.Event()
    monkeypatch.setattr(spool, "append", lambda request: leave.wait(20))
    with exporter(Backend(lambda spans: BUSY), spool) as made:
        began = time.monotonic()
        for first in range(1, 2001, 100):
            made.export(some(100, first))
        assert time.monotonic() - began < 1
        made.close()
        assert time.monotonic() - began < 2
        assert made.counters()["spans_dropped_shutdown"] > 0
        assert balance(made) == 0
        leave.set()


def test_what_is_too_large_is_halved_after_the_spool_too(spool):
    answers = []

    def respond(spans):
        if not answers:
            return BUSY
        return LARGE if len(spans) > 3 else ACCEPTED

    backend = Backend(respond)
    with exporter(backend, spool, export_timeout_s=0.01) as made:
        made.export(some(10))
        wait_until(lambda: made.counters()["spans_spooled"] >= 10)
        answers.append(1)
        wait_until(lambda: made.counters()["spans_sent"] == 10)
        assert balance(made) == 0
    assert backend.spans == ids(some(10))


def test_a_request_that_never_passes_while_others_do_is_given_up(spool, caplog):
    def respond(spans):
        if not up:
            return BUSY
        return BUSY if (1).to_bytes(8, "big") in spans else ACCEPTED

    up = []
    backend = Backend(respond)
    with exporter(backend, spool, export_timeout_s=0.03) as made:
        made.export(some(10))
        wait_until(lambda: made.counters()["spans_spooled"] == 10)
        up.append(1)
        number = 11
        while made.levels()["spool_spans"]:
            assert number < 10_000
            made.export(some(10, number))
            number += 10
            time.sleep(0.005)
        assert made.flush(5)
        assert made.counters()["spans_dropped_timeout"] == 10
        assert made.counters()["spans_sent"] == number - 11
        assert balance(made) == 0


def test_a_request_is_kept_as_long_as_none_passes(spool):
    backend = Backend(lambda spans: BUSY)
    with exporter(backend, spool, export_timeout_s=0.01) as made:
        made.export(some(10))
        wait_until(lambda: backend.requests > 20)
        assert made.counters()["spans_dropped_timeout"] == 0
        wait_until(lambda: balance(made) == 0)


def test_of_a_spooled_request_only_what_is_not_done_is_spooled_again(spool):
    def respond(spans):
        if not up:
            return BUSY
        if len(spans) == 10:
            return LARGE
        if up == [1] and spans[0] == (6).to_bytes(8, "big"):
            return BUSY
        return ACCEPTED

    up = []
    backend = Backend(respond)
    with exporter(backend, spool, export_timeout_s=0.05) as made:
        made.export(some(10))
        wait_until(lambda: made.counters()["spans_spooled"] == 10)
        up.append(1)
        wait_until(lambda: made.counters()["spans_spooled"] == 15)
        assert made.counters()["spans_unspooled"] == 10
        up.append(2)
        wait_until(lambda: made.counters()["spans_sent"] == 10)
        assert balance(made) == 0
    assert backend.spans == ids(some(10))
