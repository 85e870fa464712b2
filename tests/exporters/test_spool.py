# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
import random
import signal
import stat
import subprocess
import sys

import pytest

from exporters.environment import SettingsError
from exporters.segments import HEAD, MAGIC, record
from exporters.spool import COUNTERS, Spool
from tests.exporters.spools import balance, files, request_of


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def opened(directory, request):
    """Opens the spool, and closes it in the end."""

    def make(**settings):
        spool = Spool(directory, **settings)
        request.addfinalizer(spool.close)
        return spool

    return make


def counts(spool):
    return {name: spool.counters[name] for name in COUNTERS if spool.counters[name]}


def take_all(spool):
    found = []
    while (taken := spool.take()) is not None:
        found.append(taken.request)
        assert spool.finish(taken, {})
    return found


def test_the_oldest_comes_first(opened, directory):
    spool = opened()
    requests = [request_of(n) for n in range(1, 8)]
    for request in requests:
        assert spool.append(request)
    assert spool.spans == spool.waiting == 28
    assert spool.bytes == sum(path.stat().st_size for path in files(directory))
    assert take_all(spool) == requests
    assert counts(spool) == {"spans_spooled": 28, "spans_unspooled": 28}
    assert spool.spans == spool.bytes == 0
    assert not files(directory)


def test_fates_count_with_the_spans_that_have_them(opened):
    spool = opened()
    spool.append(request_of(3))
    taken = spool.take()
    assert spool.finish(taken, {"spans_sent": 2, "spans_refused": 1})
    assert spool.counters["spans_sent"] == 2
    assert spool.counters["spans_refused"] == 1
    spool.append(request_of(3))
    taken = spool.take()
    spool.close()
    assert not spool.finish(taken, {"spans_sent": 3})
    assert spool.counters["spans_sent"] == 2


def test_what_was_put_back_is_the_oldest_again(opened):
    spool = opened()
    for number in range(1, 5):
        spool.append(request_of(number))
    first, second, third = spool.take(), spool.take(), spool.take()
    assert spool.waiting == 4
    spool.put_back(third)
    spool.put_back(first)
    spool.finish(second, {})
    assert [request.items for request in take_all(spool)] == [1, 3, 4]
    assert balance(spool) == spool.spans == 0


def test_a_restart_finds_what_was_not_done(opened, directory):
    spool = opened(max_bytes=20_000)
    for number in range(1, 11):
        spool.append(request_of(number))
    for _ in range(3):
        spool.finish(spool.take(), {})
    under_way = spool.take()
    spool.close()
    assert not spool.finish(under_way, {})
    assert not spool.append(request_of(1))
    assert spool.take() is None
    again = opened(max_bytes=20_000)
    assert counts(again) == {"spans_inherited": 49}
    again.append(request_of(11))
    assert [request.items for request in take_all(again)] == [*range(4, 12)]
    assert not files(directory)


def test_over_the_bound_the_oldest_go_and_are_counted(opened, directory, caplog):
    spool = opened(max_bytes=20_000)
    for number in range(1, 101):
        assert spool.append(request_of(number))
        assert sum(path.stat().st_size for path in files(directory)) == spool.bytes <= 20_000
    left = [request.items for request in take_all(spool)]
    assert left == [*range(101 - len(left), 101)]
    assert len(left) > 15
    assert counts(spool)["spans_dropped_spool_full"] == 5050 - sum(left)
    assert balance(spool) == 0
    assert len(caplog.messages) == 1
    assert "is full" in caplog.text


def test_a_smaller_bound_holds_at_once(opened, directory):
    spool = opened(max_bytes=50_000)
    for number in range(1, 31):
        spool.append(request_of(number))
    spool.close()
    again = opened(max_bytes=10_000)
    assert sum(path.stat().st_size for path in files(directory)) <= 10_000
    assert balance(again) == 0
    assert take_all(again)[-1].items == 30


def test_what_goes_while_it_is_under_way_is_counted_once(opened):
    spool = opened(max_bytes=20_000)
    spool.append(request_of(1))
    spool.append(request_of(2))
    delivered, failed = spool.take(), spool.take()
    for number in range(3, 60):
        spool.append(request_of(number))
    assert delivered.segment.is_gone
    assert balance(spool) == 0
    assert spool.finish(delivered, {})
    spool.put_back(failed)
    assert balance(spool) == 0
    assert counts(spool)["spans_unspooled"] == 1
    assert 2 not in [request.items for request in take_all(spool)]


def test_a_request_larger_than_the_spool_is_not_written_and_costs_no_other(opened, caplog):
    spool = opened(max_bytes=5000)
    spool.append(request_of(1))
    assert not spool.append(request_of(2, size=6000))
    assert "larger than the spool" in caplog.text
    assert [request.items for request in take_all(spool)] == [1]


class TestADiskThatFails:
    def test_costs_what_was_to_be_written(self, opened, monkeypatch, caplog):
        spool = opened()
        spool.append(request_of(1))

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.pwrite", full)
            assert not spool.append(request_of(2))
            assert not spool.append(request_of(3))
        assert spool.append(request_of(4))
        assert len(caplog.messages) == 1
        assert "No space left" in caplog.text
        assert [request.items for request in take_all(spool)] == [1, 4]
        assert balance(spool) == 0

    def test_that_cannot_be_read_is_left_in_peace_and_tried_again(self, opened, monkeypatch):
        monkeypatch.setattr("exporters.spool.READ_REST_S", 0.01)
        spool = opened()
        spool.append(request_of(1))

        def broken(*_):
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("os.pread", broken)
            assert spool.take() is None
            assert spool.waiting == 0
        assert spool.take().request.items == 1

    def test_for_long_costs_the_file_that_cannot_be_read(self, opened, monkeypatch, directory):
        monkeypatch.setattr("exporters.spool.READ_REST_S", 0)
        spool = opened(max_bytes=16_000)
        for number in range(1, 4):
            spool.append(request_of(number))
        read, first = os.pread, files(directory)[0].stat().st_ino

        def broken(fd, size, offset):
            if os.fstat(fd).st_ino == first:
                raise OSError(errno.EIO, "Input/output error")
            return read(fd, size, offset)

        monkeypatch.setattr("os.pread", broken)
        assert [spool.take() for _ in range(3)] == [None] * 3
        assert [request.items for request in take_all(spool)] == [2, 3]
        assert counts(spool)["spans_dropped_spool_corrupt"] == 1
        assert balance(spool) == 0

    def test_to_mark_what_is_done_is_logged(self, opened, monkeypatch, caplog):
        spool = opened()
        spool.append(request_of(1))
        spool.append(request_of(2))
        taken = spool.take()

        def broken(*_):
            raise OSError(errno.EROFS, "Read-only file system")

        with monkeypatch.context() as patch:
            patch.setattr("os.pwrite", broken)
            assert spool.finish(taken, {})
        assert "sent once more" in caplog.text
        assert [request.items for request in take_all(spool)] == [2]

    def test_for_ever_does_not_hold_readers_up(self, opened, monkeypatch):
        monkeypatch.setattr("exporters.spool.READ_WAIT_S", 0.01)
        monkeypatch.setattr("exporters.spool.CLOSE_WAIT_S", 0.01)
        spool = opened()
        spool.append(request_of(1))
        with spool._lock:
            assert spool.take() is None
            assert spool.spans == 1
            spool.close()


class TestBadFiles:
    def test_a_torn_end_is_cut_off_and_counted(self, opened, directory, caplog):
        spool = opened()
        spool.append(request_of(1))
        spool.append(request_of(2))
        spool.close()
        (path,) = files(directory)
        os.truncate(path, path.stat().st_size - 1)
        again = opened()
        torn = HEAD.size + 1000
        assert torn <= counts(again)["spool_torn_bytes"] < torn + 30
        assert "not whole" in caplog.text
        assert [request.items for request in take_all(again)] == [1]

    def test_a_wrong_body_costs_one_request(self, opened, directory, caplog):
        spool = opened()
        for number in range(1, 4):
            spool.append(request_of(number))
        spool.close()
        (path,) = files(directory)
        content = bytearray(path.read_bytes())
        content[len(MAGIC) + len(record(request_of(1))) + HEAD.size + 5] ^= 1
        path.write_bytes(content)
        again = opened()
        assert [request.items for request in take_all(again)] == [1, 3]
        assert counts(again)["spans_dropped_spool_corrupt"] == 2
        assert balance(again) == 0
        assert not files(directory)

    def test_a_head_that_changes_under_us_costs_the_rest_of_its_file(self, opened, directory):
        spool = opened(max_bytes=30_000)
        for number in range(1, 8):
            spool.append(request_of(number))
        first, *_ = files(directory)
        with first.open("r+b") as file:
            file.seek(len(MAGIC) + 2)
            file.write(b"\xff")
        assert [request.items for request in take_all(spool)] == [4, 5, 6, 7]
        assert counts(spool)["spans_dropped_spool_corrupt"] == 6
        assert balance(spool) == 0

    def test_files_of_others_are_left_alone_and_counted(self, opened, directory):
        spool = opened()
        spool.append(request_of(1))
        spool.close()
        foreign = directory / "0000000000000009.spool"
        foreign.write_bytes(b"wirespan spool 2\n and so on")
        (directory / "0000000000000003.spool").mkdir()
        (directory / "notes.txt").write_text("mine")
        again = opened()
        assert counts(again) == {"spans_inherited": 1, "spool_files_skipped": 2}
        again.append(request_of(2, size=5_000_000))
        assert [request.items for request in take_all(again)] == [1, 2]
        assert foreign.read_bytes() == b"wirespan spool 2\n and so on"

    def test_restarts_do_not_multiply_files(self, opened, directory):
        for number in range(1, 6):
            spool = opened()
            spool.append(request_of(number))
            spool.close()
        assert len(files(directory)) == 1


class TestTheDirectory:
    def test_is_made_private(self, opened, directory):
        opened().append(request_of(1))
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        for path in directory.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_that_others_can_enter_is_refused_and_not_changed(self, directory):
        directory.mkdir()
        directory.chmod(0o755)
        with pytest.raises(SettingsError, match="chmod 700"):
            Spool(directory)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755

    def test_that_is_none_is_refused(self, directory):
        directory.write_text("")
        with pytest.raises(SettingsError, match="cannot make"):
            Spool(directory)

    def test_is_used_by_one(self, opened, directory):
        spool = opened()
        with pytest.raises(SettingsError, match="in use"):
            Spool(directory)
        spool.close()
        opened()

    def test_may_be_elsewhere_when_it_is_read(self, opened, directory, tmp_path):
        spool = opened()
        spool.append(request_of(1))
        spool.close()
        directory.rename(tmp_path / "other")
        moved = Spool(tmp_path / "other")
        assert [request.items for request in take_all(moved)] == [1]
        moved.close()


WRITER = """
import sys
from pathlib import Path
from exporters.delivery import Request
from exporters.spool import Spool
spool = Spool(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    spool.append(Request(number.to_bytes(4, "big") * 20_000, number))
    print(number, flush=True)
"""


def test_a_process_that_is_killed_while_it_writes_loses_no_whole_request(opened, directory):
    for _ in range(3):
        before = len(files(directory))
        program = subprocess.Popen(
            [sys.executable, "-c", WRITER, directory], stdout=subprocess.PIPE, text=True
        )
        for line in program.stdout:
            if int(line) > 50 * random.random():
                break
        program.send_signal(signal.SIGKILL)
        said = [int(line), *map(int, program.stdout.read().split())]
        program.stdout.close()
        program.wait()
        assert before == 0
        spool = opened()
        found = take_all(spool)
        numbers = [request.items for request in found]
        assert numbers == [*range(1, len(numbers) + 1)]
        assert len(numbers) >= said[-1]
        assert all(r.body == r.items.to_bytes(4, "big") * 20_000 for r in found)
        spool.close()
