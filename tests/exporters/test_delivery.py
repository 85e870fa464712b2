# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging

import pytest

from exporters.delivery import LOG_INTERVAL_S, MAX_CAUSES, MAX_RETRY_AFTER_S, Delivery, RareLog
from exporters.otlp_wire import RequestEncoder
from exporters.transport import ACCEPTED, Answer, Verdict
from tests.exporters import samples

BUSY = Answer(Verdict.RETRY, "HTTP 503")
BAD = Answer(Verdict.REFUSED, "HTTP 400", "no such field", remedy="Mend it.")
LARGE = Answer(Verdict.TOO_LARGE, "HTTP 413")


def batch(size):
    return [(samples.PROCESS, b"\x0a\x02%02d" % n) for n in range(size)]


class Backend:
    """Gives the answers it was told, then accepts; time passes only in pauses and calls."""

    def __init__(self, *answers, call_s=0.0):
        self.answers = list(answers)
        self.call_s = call_s
        self.now = 1000.0
        self.pauses = []
        self.bodies = []
        self.timeouts = []

    def send(self, body, timeout_s):
        self.bodies.append(body)
        self.timeouts.append(timeout_s)
        self.now += min(self.call_s, timeout_s)
        answer = self.answers.pop(0) if self.answers else ACCEPTED
        if isinstance(answer, Exception):
            raise answer
        return answer

    def pause(self, pause_s, asked):
        self.pauses.append((pause_s, asked))
        self.now += pause_s

    def delivery(self, total_s=30.0):
        return Delivery(self, 10.0, total_s, clock=lambda: self.now, pause=self.pause)


def outcome(delivery):
    return {name: count for name, count in delivery.counters.items() if count}


def test_an_accepted_batch_is_sent_once():
    backend = Backend()
    delivery = backend.delivery()
    delivery.deliver(batch(3))
    assert outcome(delivery) == {"requests": 1, "spans_sent": 3}
    assert backend.bodies == [RequestEncoder().encode(batch(3))]


def test_pauses_grow_and_jitter():
    backend = Backend(BUSY, BUSY, BUSY, BUSY)
    delivery = backend.delivery(total_s=100)
    delivery.deliver(batch(3))
    assert outcome(delivery) == {"requests": 5, "retries": 4, "spans_sent": 3}
    for (pause_s, asked), middle in zip(backend.pauses, [1, 2, 4, 8], strict=True):
        assert 0.8 * middle <= pause_s <= 1.2 * middle
        assert not asked
    assert len(set(backend.bodies)) == 1


def test_two_agents_do_not_come_back_together():
    backends = [Backend(BUSY) for _ in range(20)]
    for backend in backends:
        backend.delivery().deliver(batch(1))
    assert len({backend.pauses[0] for backend in backends}) > 1


def test_what_is_refused_is_never_tried_again(caplog):
    backend = Backend(BAD)
    delivery = backend.delivery()
    delivery.deliver(batch(3))
    assert outcome(delivery) == {"requests": 1, "spans_dropped_status": 3}
    assert caplog.messages == ["OTLP: HTTP 400: no such field; 3 spans dropped. Mend it."]


def test_partial_success_counts_both_and_is_never_tried_again(caplog):
    backend = Backend(Answer(Verdict.ACCEPTED, "partial success", "too old", rejected=2))
    delivery = backend.delivery()
    delivery.deliver(batch(5))
    assert outcome(delivery) == {"requests": 1, "spans_sent": 3, "spans_refused": 2}
    assert "2 of 5 spans refused" in caplog.text


def test_a_backend_cannot_refuse_more_spans_than_it_was_given():
    backend = Backend(Answer(Verdict.ACCEPTED, "partial success", rejected=1 << 40))
    delivery = backend.delivery()
    delivery.deliver(batch(5))
    assert outcome(delivery) == {"requests": 1, "spans_refused": 5}


def test_time_is_bounded_with_all_retries():
    backend = Backend(*[BUSY] * 100)
    delivery = backend.delivery(total_s=30)
    delivery.deliver(batch(3))
    assert backend.now <= 1030
    assert outcome(delivery)["spans_dropped_timeout"] == 3
    assert len(backend.answers) > 90


def test_an_attempt_gets_no_more_time_than_is_left():
    backend = Backend(BUSY, BUSY, call_s=9)
    delivery = backend.delivery(total_s=12)
    delivery.deliver(batch(1))
    assert backend.timeouts[0] == 10
    assert backend.timeouts[1] < 3
    assert outcome(delivery)["spans_dropped_timeout"] == 1


def test_the_backend_says_how_long_to_wait():
    backend = Backend(Answer(Verdict.RETRY, "HTTP 429", retry_after_s=7))
    delivery = backend.delivery()
    delivery.deliver(batch(1))
    assert backend.pauses == [(7, True)]
    assert outcome(delivery) == {"requests": 2, "retries": 1, "spans_sent": 1}


def test_waits_grow_from_what_the_backend_said():
    asked = Answer(Verdict.RETRY, "gRPC UNAVAILABLE", retry_after_s=3)
    backend = Backend(asked, asked, BUSY)
    backend.delivery(total_s=100).deliver(batch(1))
    assert [asked for _, asked in backend.pauses] == [True, True, False]
    first, second, third = [pause_s for pause_s, _ in backend.pauses]
    assert (first, second) == (3, 6)
    assert 8 <= third <= 12


def test_at_once_for_ever_is_no_busy_loop():
    backend = Backend(*[Answer(Verdict.RETRY, "HTTP 503", retry_after_s=0)] * 1000)
    backend.delivery(total_s=30).deliver(batch(1))
    assert len(backend.bodies) < 10


def test_a_wait_longer_than_the_batch_has_drops_it_and_holds_the_next():
    backend = Backend(Answer(Verdict.RETRY, "HTTP 503", retry_after_s=60))
    delivery = backend.delivery(total_s=30)
    delivery.deliver(batch(2))
    assert outcome(delivery) == {"requests": 1, "spans_dropped_timeout": 2}
    assert backend.pauses == []
    delivery.hold()
    assert backend.pauses == [(60, True)]
    delivery.hold()
    assert len(backend.pauses) == 1


def test_nobody_can_silence_the_agent_for_good():
    backend = Backend(Answer(Verdict.RETRY, "HTTP 503", retry_after_s=1e9))
    delivery = backend.delivery()
    delivery.deliver(batch(1))
    delivery.hold()
    assert backend.pauses == [(MAX_RETRY_AFTER_S, True)]


def test_what_is_too_large_goes_in_halves_in_order():
    backend = Backend(LARGE, LARGE)
    delivery = backend.delivery()
    delivery.deliver(batch(7))
    assert outcome(delivery) == {"requests": 5, "splits": 2, "spans_sent": 7}
    encode = RequestEncoder().encode
    seven = batch(7)
    assert backend.bodies[1:] == [encode(seven[i:j]) for i, j in [(0, 3), (0, 1), (1, 3), (3, 7)]]


def test_one_span_that_is_too_large_is_dropped_and_the_others_pass():
    backend = Backend(LARGE, LARGE, LARGE)
    delivery = backend.delivery()
    delivery.deliver(batch(4))
    assert outcome(delivery) == {
        "requests": 5,
        "splits": 2,
        "spans_dropped_status": 1,
        "spans_sent": 3,
    }


def test_after_stop_nothing_is_tried_again():
    backend = Backend(BUSY)
    delivery = backend.delivery()
    backend.pause = lambda *_: delivery.stop()
    delivery._pause = backend.pause
    delivery.deliver(batch(4))
    assert outcome(delivery) == {"requests": 1, "retries": 1, "spans_dropped_shutdown": 4}


def test_a_fault_of_ours_costs_one_batch(caplog):
    backend = Backend(RuntimeError("boom"))
    delivery = backend.delivery()
    delivery.deliver(batch(2))
    delivery.deliver(batch(3))
    assert outcome(delivery) == {"requests": 1, "spans_dropped_error": 2, "spans_sent": 3}
    assert "boom" in caplog.text


class TestRareLog:
    def setup_method(self):
        self.now = 0.0
        self.log = RareLog(lambda: self.now)

    @pytest.fixture(autouse=True)
    def lines(self, caplog):
        caplog.set_level(logging.WARNING)
        return caplog

    def test_one_line_a_cause_and_interval(self, lines):
        for _ in range(5):
            self.log.say("a", "a is down")
        self.log.say("b", "b is down")
        self.now = LOG_INTERVAL_S
        self.log.say("a", "a is still down")
        assert lines.messages == ["a is down", "b is down", "a is still down (4 more like it)"]

    def test_causes_are_bounded(self):
        for n in range(1000):
            self.log.say(f"{n}", "down")
        assert len(self.log._silent_until) <= MAX_CAUSES
