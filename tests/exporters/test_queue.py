# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import time

from exporters.queue import SpanQueue
from tests.exporters import samples
from tests.exporters.functional import wait_until


def spans(*numbers, size=10):
    return [(samples.PROCESS, b"%0*d" % (size, n)) for n in numbers]


def numbers(batch):
    return [int(body) for _, body in batch]


def queue(max_spans=100, max_bytes=10_000, batch_spans=4, batch_bytes=1000):
    return SpanQueue(max_spans, max_bytes, batch_spans, batch_bytes)


def test_spans_come_out_as_they_went_in_and_in_batches():
    q = queue()
    assert q.put(spans(*range(6))) == 0
    assert numbers(q.take(0)) == [0, 1, 2, 3]
    assert numbers(q.take(0)) == [4, 5]
    assert q.take(0) == []


def test_the_oldest_go_when_there_are_too_many():
    q = queue(max_spans=5)
    assert q.put(spans(0, 1, 2)) == 0
    assert q.put(spans(3, 4, 5, 6)) == 2
    assert numbers(q.take(0)) == [2, 3, 4, 5]


def test_a_batch_larger_than_the_queue_leaves_its_end():
    q = queue(max_spans=3)
    assert q.put(spans(*range(10))) == 7
    assert numbers(q.take(0)) == [7, 8, 9]


def test_the_oldest_go_when_they_are_too_large():
    q = queue(max_bytes=100)
    assert q.put(spans(0, 1, size=40)) == 0
    assert q.put(spans(2, size=30)) == 1
    assert numbers(q.take(0)) == [1, 2]
    assert q.put(spans(3, size=101)) == 1
    assert q.put(spans(4, size=100)) == 0


def test_a_batch_ends_before_it_is_too_large():
    q = queue(batch_bytes=100)
    q.put(spans(0, 1, 2, size=40))
    assert numbers(q.take(0)) == [0, 1]
    assert numbers(q.take(0)) == [2]


def test_a_span_larger_than_a_batch_goes_alone():
    q = queue(batch_bytes=100)
    q.put(spans(0, size=500) + spans(1))
    assert numbers(q.take(0)) == [0]
    assert numbers(q.take(0)) == [1]


def test_a_full_batch_need_not_wait():
    q = queue()
    threading.Timer(0.02, lambda: q.put(spans(*range(4)))).start()
    started = time.monotonic()
    assert numbers(q.take(10)) == [0, 1, 2, 3]
    assert time.monotonic() - started < 5


def test_a_short_batch_waits_for_more():
    q = queue()
    started = time.monotonic()
    q.put(spans(1))
    assert numbers(q.take(0.05)) == [1]
    assert time.monotonic() - started >= 0.05


def test_drain_hurries_and_waits_for_what_is_in_flight():
    q = queue()
    q.put(spans(*range(6)))
    taken = []

    def work():
        while (batch := q.take(10)) is not None:
            taken.extend(numbers(batch))
            q.settle(batch)

    thread = threading.Thread(target=work)
    thread.start()
    assert q.drain(5)
    assert taken == list(range(6))
    q.put(spans(6))
    assert q.drain(5)
    assert taken == list(range(7))
    q.close()
    thread.join()


def test_drain_gives_up_in_time():
    q = queue()
    q.put(spans(1))
    batch = q.take(0)
    assert not q.drain(0.01)
    q.settle(batch)
    assert q.drain(0.01)


def test_close_says_what_was_left_and_wakes_the_taker():
    q = queue()
    q.put(spans(1, 2))
    taken = []
    thread = threading.Thread(target=lambda: taken.append(q.take(10)))
    thread.start()
    assert q.close() == 2
    thread.join(5)
    assert taken == [None]
    assert q.take(10) is None


def test_spans_wait_no_longer_than_the_linger_whoever_takes():
    q = queue()
    started = time.monotonic()
    q.put(spans(1))
    threads = [threading.Thread(target=q.take, args=(0.05,)) for _ in range(3)]
    for thread in threads:
        time.sleep(0.01)
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(q) == 0
    assert q.in_flight == 1
    assert time.monotonic() - started < 2


def test_what_is_left_after_a_batch_waits_for_more():
    q = queue()
    q.put(spans(*range(6)))
    q.take(10)
    started = time.monotonic()
    assert numbers(q.take(0.05)) == [4, 5]
    assert time.monotonic() - started >= 0.04


def test_batches_settle_in_any_order_and_their_fates_count():
    q = queue()
    q.put(spans(*range(8)))
    first, second = q.take(0), q.take(0)
    assert q.in_flight == 8
    assert q.settle(second, {"spans_sent": 4})
    assert q.in_flight == 4
    assert not q.drain(0)
    assert q.settle(first, {"spans_sent": 3, "spans_refused": 1})
    assert not q.settle(first, {"spans_sent": 100})
    assert q.fates == {"spans_sent": 7, "spans_refused": 1}
    assert q.drain(0)


def test_work_elsewhere_comes_after_a_batch_that_is_due():
    q = queue()
    q.put(spans(*range(6)))
    assert numbers(q.take(10, lambda: True)) == [0, 1, 2, 3]
    assert q.take(10, lambda: True) == []
    assert len(q) == 2


def test_a_taker_that_is_woken_looks_elsewhere():
    q = queue()
    there = []
    taken = []
    thread = threading.Thread(target=lambda: taken.append(q.take(10, lambda: bool(there))))
    thread.start()
    wait_until(lambda: q.has_takers)
    there.append(1)
    q.wake()
    thread.join(5)
    assert taken == [[]]


class TestWhatComesBack:
    def test_is_the_oldest_and_need_not_wait_again(self):
        q = queue()
        q.put(spans(*range(6)))
        batch = q.take(0)
        assert q.settle(batch, {"spans_sent": 2}, batch[2:])
        assert (len(q), q.in_flight, q.bytes) == (4, 0, 40)
        assert numbers(q.take(10)) == [2, 3]
        assert numbers(q.take(0)) == [4, 5]

    def test_is_taken_in_turn_with_what_has_not_been_tried(self):
        q = queue()
        q.put(spans(*range(8)))
        first, second = q.take(0), q.take(0)
        q.settle(first, back=first)
        q.settle(second, back=second)
        q.put(spans(*range(8, 12)))
        assert [numbers(q.take(0))[0] for _ in range(3)] == [0, 8, 4]
        assert not q

    def test_goes_first_if_there_is_no_room(self):
        q = queue(max_spans=6)
        q.put(spans(*range(4)))
        batch = q.take(0)
        q.put(spans(*range(4, 9)))
        q.settle(batch, back=batch)
        assert q.fates == {"spans_dropped_queue": 3}
        assert numbers(q.take(0)) == [3]
        assert numbers(q.take(0)) == [4, 5, 6, 7]

    def test_is_bounded_in_bytes_too(self):
        q = queue(max_bytes=100)
        q.put(spans(0, 1, size=40))
        batch = q.take(0)
        q.put(spans(2, size=40))
        q.settle(batch, back=batch)
        assert q.fates == {"spans_dropped_queue": 1}
        assert q.bytes == 80

    def test_at_the_end_is_all_left_to_who_ends_it(self):
        q = queue(max_spans=4)
        q.put(spans(*range(4)))
        batch = q.take(0)
        q.put(spans(*range(4, 8)))
        q.end()
        q.settle(batch, back=batch)
        assert q.close() == 8
        assert q.fates == {}

    def test_wakes_a_taker(self):
        q = queue()
        q.put(spans(1))
        batch = q.take(0)
        taken = []
        thread = threading.Thread(target=lambda: taken.append(q.take(10)))
        thread.start()
        wait_until(lambda: q.has_takers)
        q.settle(batch, back=batch)
        thread.join(5)
        assert taken == [batch]

    def test_does_not_come_back_to_a_queue_that_was_closed(self):
        q = queue()
        q.put(spans(1))
        batch = q.take(0)
        assert q.close() == 1
        assert not q.settle(batch, back=batch)
        assert len(q) == q.bytes == 0


def test_takers_wait_while_all_that_drain_waits_for_is_in_flight():
    q = queue()
    q.put(spans(*range(4)))
    batch = q.take(0)
    takes = []

    def work():
        while (taken := q.take(10)) is not None:
            takes.append(taken)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert not q.drain(0.1)
    assert not takes
    q.settle(batch)
    assert q.drain(1)
    q.close()
    for thread in threads:
        thread.join(5)


class TestOverflow:
    def test_is_taken_from_the_oldest_once_the_queue_is_half_full(self):
        q = queue(max_spans=20)
        taken = []
        thread = threading.Thread(target=lambda: taken.append(q.take_overflow()))
        thread.start()
        q.put(spans(*range(10)))
        thread.join(0.03)
        assert not taken
        q.put(spans(10))
        thread.join(5)
        assert numbers(taken[0]) == [0, 1, 2, 3]
        assert (q.in_flight, len(q)) == (4, 7)

    def test_is_measured_in_bytes_too(self):
        q = queue(max_bytes=100)
        q.put(spans(0, 1, size=26))
        assert numbers(q.take_overflow()) == [0, 1]

    def test_is_none_while_somebody_waits_to_send(self):
        q = queue(max_spans=6)
        thread = threading.Thread(target=q.take, args=(10,))
        thread.start()
        wait_until(lambda: q.has_takers)
        q.put(spans(1, 2, 3))
        assert not q._overflows()
        q.close()
        thread.join(5)

    def test_at_the_end_all_is_and_then_nothing(self):
        q = queue()
        q.put(spans(*range(6)))
        q.end()
        assert q.take(10) is None
        assert numbers(q.take_overflow()) == [0, 1, 2, 3]
        assert numbers(q.take_overflow()) == [4, 5]
        assert q.take_overflow() is None


class TestSeizing:
    def test_puts_a_batch_back_as_the_oldest_and_its_fates_count_no_more(self):
        q = queue()
        q.put(spans(*range(8)))
        batch = q.take(0)
        q.seize(batch)
        assert (len(q), q.in_flight, q.bytes) == (8, 0, 80)
        assert not q.claim(batch)
        assert not q.settle(batch, {"spans_sent": 4})
        assert q.fates == {}
        assert numbers(q.take(0)) == [0, 1, 2, 3]

    def test_a_batch_that_was_claimed_is_not_seized(self):
        q = queue()
        q.put(spans(1))
        batch = q.take(0)
        assert q.claim(batch)
        q.seize(batch)
        assert len(q) == 0
        assert q.settle(batch, {"spans_sent": 1})


def test_close_counts_what_is_in_flight_and_hears_no_more_of_it():
    q = queue()
    q.put(spans(*range(6)))
    batch = q.take(0)
    assert q.close() == 6
    assert not q.settle(batch, {"spans_sent": 4})
    assert q.fates == {}
