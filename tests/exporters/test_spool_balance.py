# SPDX-License-Identifier: Apache-2.0
"""Whatever is done with a spool, in whatever order, its counters balance."""

from __future__ import annotations

import random
import tempfile
import threading
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from exporters.spool import Spool
from tests.exporters.spools import balance, files, request_of


def test_writers_and_readers_may_be_many(spool):
    spool._max_bytes = 100_000
    found = []
    done = threading.Event()

    def write(first):
        for number in range(first, first + 100):
            spool.append(request_of(number, size=500))

    def read():
        while not done.is_set() or spool.spans:
            if (taken := spool.take()) is None:
                continue
            if random.random() < 0.3:
                spool.put_back(taken)
            else:
                found.append(taken.request.items)
                spool.finish(taken, {})

    writers = [threading.Thread(target=write, args=(first,)) for first in (1, 1001)]
    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join(10)
    assert balance(spool) == spool.spans == 0
    assert len(found) == len(set(found))
    assert sum(found) == spool.counters["spans_unspooled"]


class SpoolMachine(RuleBasedStateMachine):
    """Whatever happens, each span is in one place, and requests are never mixed up."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.directory = Path(self.folder.name) / "spool"
        self.spool = Spool(self.directory, 6000)
        self.number = 0
        self.known = {}
        self.taken = []

    @rule(size=st.integers(0, 1500))
    def append(self, size):
        self.number += 1
        request = request_of(self.number, size)
        self.known[request.items] = request
        assert self.spool.append(request)

    @rule()
    def take(self):
        taken = self.spool.take()
        if taken is not None:
            assert taken.request == self.known[taken.request.items]
            self.taken.append(taken)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def finish(self, data):
        taken = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        assert self.spool.finish(taken, {})
        del self.known[taken.request.items]

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def put_back(self, data):
        self.spool.put_back(self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1))))

    @rule(torn=st.booleans())
    def restart(self, torn):
        self.spool.close()
        spans, gone = self.spool.spans, 0
        for taken in self.taken:
            if taken.segment.is_gone:
                gone += taken.request.items
        paths = files(self.directory)
        if torn and paths:
            with paths[-1].open("ab") as file:
                file.write(b"+\x01\x00")
        self.taken.clear()
        self.spool = Spool(self.directory, 6000)
        assert self.spool.counters["spans_inherited"] == spans - gone
        assert self.spool.counters["spool_torn_bytes"] == (3 if torn and paths else 0)

    @invariant()
    def balanced(self):
        assert balance(self.spool) == 0
        assert self.spool.spans >= self.spool.waiting >= 0
        assert self.spool.bytes <= 6000
        assert self.spool.bytes == sum(path.stat().st_size for path in files(self.directory))

    def teardown(self):
        self.spool.close()
        self.folder.cleanup()


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
