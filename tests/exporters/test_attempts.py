# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import time

import pytest

from exporters.attempts import MAX_RETRY_AFTER_S, Attempts, Fate, Outage
from exporters.transport import ACCEPTED, Answer, Verdict
from tests.exporters.scripted import BAD, BUSY, LARGE, Backend


def asked(seconds):
    return Answer(Verdict.RETRY, "HTTP 503", retry_after_s=seconds)


def attempts(backend, total_s=30.0):
    return Attempts(backend, 10.0, total_s, clock=lambda: backend.now, pause=backend.pause)


def test_an_accepted_request_is_sent_once():
    backend = Backend()
    assert attempts(backend).send(b"body", 3) == (Fate.ACCEPTED, 0)
    assert backend.bodies == [b"body"]


def test_pauses_grow_and_jitter():
    backend = Backend(*[BUSY] * 6)
    sender = attempts(backend, total_s=100)
    assert sender.send(b"body", 3) == (Fate.ACCEPTED, 0)
    assert sender.counters == {"requests": 7, "retries": 6}
    for (pause_s, was_asked), middle in zip(backend.pauses, [1, 2, 4, 8, 10, 10], strict=True):
        assert 0.8 * middle <= pause_s <= 1.2 * middle
        assert not was_asked


def test_two_agents_do_not_come_back_together():
    backends = [Backend(BUSY) for _ in range(20)]
    for backend in backends:
        attempts(backend).send(b"body", 1)
    assert len({backend.pauses[0] for backend in backends}) > 1


def test_what_is_refused_is_never_tried_again(caplog):
    backend = Backend(BAD)
    assert attempts(backend).send(b"body", 3, "points") == (Fate.REFUSED, 0)
    assert caplog.messages == ["OTLP: HTTP 400: no such field; 3 points dropped. Mend it."]


def test_partial_success_is_never_tried_again(caplog):
    backend = Backend(Answer(Verdict.ACCEPTED, "partial success", "too old", rejected=2))
    assert attempts(backend).send(b"body", 5, "points") == (Fate.ACCEPTED, 2)
    assert "2 of 5 points refused" in caplog.text


def test_a_backend_cannot_refuse_more_than_it_was_given():
    backend = Backend(Answer(Verdict.ACCEPTED, "partial success", rejected=1 << 40))
    assert attempts(backend).send(b"body", 5).rejected == 5


@pytest.mark.parametrize(("items", "fate"), [(2, Fate.TOO_LARGE), (1, Fate.REFUSED)])
def test_one_item_cannot_be_made_smaller(items, fate):
    assert attempts(Backend(LARGE)).send(b"body", items) == (fate, 0)


def test_time_is_bounded_with_all_retries(caplog):
    backend = Backend(*[BUSY] * 100)
    assert attempts(backend).send(b"body", 3).fate is Fate.EXPIRED
    assert backend.now <= 1030
    assert len(backend.answers) > 90


def test_an_attempt_gets_no_more_time_than_is_left():
    backend = Backend(BUSY, BUSY, call_s=9)
    assert attempts(backend, total_s=12).send(b"body", 1).fate is Fate.EXPIRED
    assert backend.timeouts[0] == 10
    assert backend.timeouts[1] < 3


def test_requests_may_share_the_time_of_one():
    backend = Backend(*[BUSY] * 100)
    sender = attempts(backend)
    assert sender.send(b"body", 1, "spans", backend.now + 5).fate is Fate.EXPIRED
    assert backend.now <= 1005
    assert sender.send(b"body", 1, "spans", backend.now) == (Fate.EXPIRED, 0)


def test_the_backend_says_how_long_to_wait():
    backend = Backend(asked(7))
    assert attempts(backend).send(b"body", 1) == (Fate.ACCEPTED, 0)
    assert backend.pauses == [(7, True)]


def test_waits_grow_from_what_the_backend_said():
    backend = Backend(asked(3), asked(3), BUSY)
    attempts(backend, total_s=100).send(b"body", 1)
    assert [was_asked for _, was_asked in backend.pauses] == [True, True, False]
    first, second, third = [pause_s for pause_s, _ in backend.pauses]
    assert (first, second) == (3, 6)
    assert 8 <= third <= 12


def test_at_once_for_ever_is_no_busy_loop():
    backend = Backend(*[asked(0)] * 1000)
    attempts(backend).send(b"body", 1)
    assert len(backend.bodies) < 10


def test_a_wait_longer_than_there_is_time_ends_it_and_holds_the_next():
    backend = Backend(asked(60))
    sender = attempts(backend)
    assert sender.send(b"body", 2) == (Fate.EXPIRED, 0)
    assert backend.pauses == []
    sender.hold()
    assert backend.pauses == [(60, True)]
    sender.hold()
    assert len(backend.pauses) == 1


def test_a_pause_that_a_request_had_no_time_for_holds_the_next():
    backend = Backend(BUSY)
    sender = attempts(backend, total_s=0.5)
    assert sender.send(b"body", 2) == (Fate.EXPIRED, 0)
    assert backend.pauses == []
    sender.hold()
    ((pause_s, was_asked),) = backend.pauses
    assert 0.8 <= pause_s <= 1.2
    assert not was_asked
    sender.hold()
    assert len(backend.pauses) == 1


@pytest.mark.parametrize(
    ("total_s", "fate", "times"), [(30, Fate.EXPIRED, 0), (90, Fate.ACCEPTED, 1)]
)
def test_a_request_in_hand_heeds_what_the_backend_has_asked_of_another(total_s, fate, times):
    backend, outage = Backend(), Outage()
    other = Backend(asked(60))
    settings = {"clock": lambda: backend.now, "pause": backend.pause, "outage": outage}
    Attempts(other, 10.0, 30.0, **settings).send(b"body", 1)
    assert Attempts(backend, 10.0, total_s, **settings).send(b"body", 1).fate is fate
    assert len(backend.bodies) == times
    assert backend.pauses == [(60, True)] * times


def test_a_backend_that_takes_no_such_signal_is_not_asked_again():
    backend = Backend(Answer(Verdict.UNSUPPORTED, "HTTP 404"))
    assert attempts(backend).send(b"body", 2) == (Fate.UNSUPPORTED, 0)
    assert len(backend.bodies) == 1


def test_nobody_can_silence_the_agent_for_good():
    backend = Backend(asked(1e9))
    sender = attempts(backend)
    sender.send(b"body", 1)
    sender.hold()
    assert backend.pauses == [(MAX_RETRY_AFTER_S, True)]


def test_after_stop_nothing_is_tried_again():
    backend = Backend(BUSY)
    sender = Attempts(backend, 10, 30, pause=lambda *_: sender.stop())
    assert sender.send(b"body", 4) == (Fate.STOPPED, 0)
    assert sender.send(b"body", 4) == (Fate.STOPPED, 0)


def test_hurry_cuts_one_pause_short_but_none_that_was_asked_for():
    backend = Backend(BUSY)
    sender = Attempts(backend, 10, 30)
    sender.hurry()
    began = time.monotonic()
    sender.send(b"body", 1)
    assert sender.counters["requests"] == 2
    assert time.monotonic() - began < 0.5
    sender.hurry()
    backend.answers.append(asked(0.1))
    began = time.monotonic()
    sender.send(b"body", 1)
    assert sender.counters["requests"] == 4
    assert time.monotonic() - began >= 0.1


class TestSeveralSenders:
    """To one backend: each answer is given by hand, on the thread that asks for it."""

    def setup_method(self):
        self.outage = Outage()
        self.asked = []
        self.answers = {}
        self.calls = threading.Condition()
        self.threads = []
        self.outcomes = {}
        self.pause_s = 0.0
        self.senders = {}

    def sender(self, name, total_s=20.0):
        test = self

        class Backend:
            def send(self, body, timeout_s):
                with test.calls:
                    test.asked.append(name)
                    test.calls.notify_all()
                    test.calls.wait_for(lambda: test.answers.get(name), 10)
                    return test.answers[name].pop(0)

        self.senders[name] = Attempts(
            Backend(),
            10,
            total_s,
            outage=self.outage,
            pause=lambda *_: time.sleep(test.pause_s),
        )
        return self.senders[name]

    def start(self, name, *, hold=False, **settings):
        sender = self.sender(name, **settings)

        def work():
            if hold:
                sender.hold()
            self.outcomes[name] = sender.send(b"", 1)

        thread = threading.Thread(target=work)
        self.threads.append(thread)
        thread.start()

    def answer(self, name, answer):
        with self.calls:
            self.answers.setdefault(name, []).append(answer)
            self.calls.notify_all()

    def wait_for(self, names):
        with self.calls:
            assert self.calls.wait_for(lambda: sorted(self.asked) == sorted(names), 5), self.asked

    def teardown_method(self):
        for sender in self.senders.values():
            sender.stop()
        for name in self.senders:
            self.answer(name, ACCEPTED)
        for thread in self.threads:
            thread.join(5)
            assert not thread.is_alive()

    def end(self):
        for thread in self.threads:
            thread.join(5)
        return {name: outcome.fate for name, outcome in self.outcomes.items()}

    def test_one_tries_while_the_others_wait(self):
        for name in "abc":
            self.start(name)
        self.wait_for("abc")
        self.answer("b", BUSY)
        self.wait_for("abbc")
        self.answer("a", BUSY)
        self.answer("c", BUSY)
        for _ in range(3):
            self.answer("b", BUSY)
        self.wait_for("abbbbbc")
        self.answer("b", ACCEPTED)
        self.wait_for("aabbbbbcc")
        self.answer("a", ACCEPTED)
        self.answer("c", ACCEPTED)
        assert self.end() == dict.fromkeys("abc", Fate.ACCEPTED)

    def test_a_request_that_is_tried_again_does_not_block_the_others(self):
        self.pause_s = 0.3
        self.start("a")
        self.wait_for("a")
        self.answer("a", BUSY)
        self.start("b")
        self.wait_for("ab")
        self.answer("b", ACCEPTED)
        self.threads[1].join(5)
        assert "a" not in self.outcomes
        self.start("c", hold=True)
        self.wait_for("aabc")

    def test_when_it_gives_up_one_that_waits_takes_over(self):
        self.start("a")
        self.start("b")
        self.wait_for("ab")
        self.answer("a", BUSY)
        self.wait_for("aab")
        self.answer("b", BUSY)
        time.sleep(0.02)
        assert self.asked.count("b") == 1
        self.senders["a"].stop()
        self.answer("a", BUSY)
        self.wait_for("aabb")
        self.answer("b", ACCEPTED)
        assert self.end() == {"a": Fate.STOPPED, "b": Fate.ACCEPTED}

    def test_one_more_may_try_something_new_but_not_again(self):
        self.start("a")
        self.wait_for("a")
        self.answer("a", BUSY)
        self.wait_for("aa")
        for name in "bcd":
            self.start(name, hold=True)
        with self.calls:
            assert self.calls.wait_for(lambda: len(self.asked) == 3, 5)
        second = self.asked[-1]
        self.answer(second, BUSY)
        with self.calls:
            assert not self.calls.wait_for(lambda: len(self.asked) > 3, 0.05)
        self.answer("a", BUSY)
        with self.calls:
            assert self.calls.wait_for(lambda: len(self.asked) == 4, 5)
        assert self.asked[-1] == "a"
        self.answer("a", ACCEPTED)
        self.wait_for(f"aaabcd{second}")

    def test_when_something_new_passes_it_is_no_outage(self):
        self.pause_s = 0.2
        self.start("a")
        self.wait_for("a")
        self.answer("a", BUSY)
        while not self.outage.is_on:
            time.sleep(0.001)
        for name in "bcd":
            self.start(name, hold=True)
        with self.calls:
            assert self.calls.wait_for(lambda: len(self.asked) == 2, 5)
        self.answer(self.asked[-1], ACCEPTED)
        self.wait_for("abcd")

    def test_nothing_new_is_taken_meanwhile_but_by_two(self):
        self.start("a", total_s=0.1)  # less than any pause
        self.wait_for("a")
        self.answer("a", BUSY)
        self.threads[0].join(5)
        assert self.outage.is_on
        for name in "bcd":
            self.start(name, hold=True)
        with self.calls:
            assert self.calls.wait_for(lambda: len(self.asked) == 3, 5)
            assert not self.calls.wait_for(lambda: len(self.asked) > 3, 0.05)
        prober = self.asked[-1]
        self.answer(prober, ACCEPTED)
        self.wait_for("abcd")

    def test_who_has_nothing_to_send_lets_another_try(self):
        self.outage.claim(self)
        self.outage.give_up(self)
        idle, other = self.sender("idle"), self.sender("other")
        idle.hold()
        other.hold()
        self.start("b", hold=True)
        time.sleep(0.02)
        assert not self.asked
        idle.rest()
        self.wait_for("b")

    def test_one_that_has_a_request_need_not_wait_for_one_that_has_none(self):
        self.outage.claim(self)
        self.outage.give_up(self)
        self.sender("idle").hold()
        self.start("b", hold=True)
        self.wait_for("b")
        self.answer("b", BUSY)
        self.wait_for("bb")

    def test_a_refusal_is_an_answer_too(self):
        self.outage.claim(self)
        self.outage.give_up(self)
        self.start("a")
        self.wait_for("a")
        self.answer("a", BAD)
        self.threads[0].join(5)
        assert not self.outage.is_on

    def test_stop_wakes_those_that_wait(self):
        self.start("a")
        self.start("b")
        self.wait_for("ab")
        self.answer("a", BUSY)
        self.wait_for("aab")
        self.answer("b", BUSY)
        while not self.outage._waiting:
            time.sleep(0.001)
        self.start("c", hold=True)
        time.sleep(0.02)
        self.senders["b"].stop()
        self.senders["c"].stop()
        self.threads[1].join(5)
        self.threads[2].join(5)
        assert self.outcomes["b"].fate is self.outcomes["c"].fate is Fate.STOPPED
