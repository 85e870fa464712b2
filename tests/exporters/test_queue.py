# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import time

from exporters.queue import SpanQueue
from tests.exporters import samples


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
    q.put(spans(1))
    started = time.monotonic()
    assert numbers(q.take(0.05)) == [1]
    assert time.monotonic() - started >= 0.05


def test_drain_hurries_and_waits_for_what_is_in_flight():
    q = queue()
    q.put(spans(*range(6)))
    taken = []

    def work():
        while (batch := q.take(10)) is not None:
            taken.extend(numbers(batch))
            q.settle()

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
    q.take(0)
    assert not q.drain(0.01)
    q.settle()
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
