# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.delivery import Request
from exporters.segments import HEAD, MAGIC, CorruptError, Segment, record

REQUESTS = [Request(b"first" * 50, 3), Request(b"", 1), Request(os.urandom(5000), 70)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "0000000000000001.spool"


def written(path, requests=REQUESTS):
    """A file with `requests`, and where each begins."""
    path.unlink(missing_ok=True)
    segment = Segment.create(path)
    offsets = []
    for request in requests:
        offsets.append(segment.size)
        segment.append(record(request))
    segment.close()
    return offsets


def read_all(segment):
    found = []
    while segment.cursor < segment.size:
        head = segment.head(segment.cursor)
        if head.waits:
            found.append(Request(segment.body(segment.cursor, head), head.spans))
        segment.cursor += head.whole
    return found


def test_what_was_written_is_read_after_a_restart(path):
    written(path)
    segment, torn = Segment.open(path)
    assert torn == 0
    assert segment.spans == 74
    assert read_all(segment) == REQUESTS
    segment.close()


def test_nobody_else_may_read_it(path):
    written(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_done_stays_done(path):
    offsets = written(path)
    segment, _ = Segment.open(path)
    segment.mark(offsets[1])
    segment.mark(offsets[0])
    segment.close()
    segment, torn = Segment.open(path)
    assert (segment.spans, torn) == (70, 0)
    assert read_all(segment) == REQUESTS[2:]
    segment.close()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_write_that_was_cut_short_anywhere_costs_only_itself(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("torn") / "x.spool"
    offsets = [*written(path), path.stat().st_size]
    end = data.draw(st.integers(0, offsets[-1]))
    os.truncate(path, end)
    segment, torn = Segment.open(path)
    whole = sum(offset <= end for offset in offsets[1:])
    assert torn == end - max((offset for offset in offsets if offset <= end), default=0)
    assert read_all(segment) == REQUESTS[:whole]
    more = Request(b"more", 9)
    segment.append(record(more))
    segment.close()
    segment, torn = Segment.open(path)
    assert torn == 0
    assert read_all(segment) == [*REQUESTS[:whole], more]
    segment.close()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_byte_may_be_wrong_and_nothing_wrong_is_read(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("wrong") / "x.spool"
    offsets = written(path)
    content = bytearray(path.read_bytes())
    place = data.draw(
        st.one_of(
            st.sampled_from(offsets).map(lambda offset: offset + 3),
            st.integers(0, len(content) - 1),
        )
    )
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        segment, _ = Segment.open(path)
    except CorruptError:
        assert place < len(MAGIC)
        return
    while segment.cursor < segment.size:
        head = segment.head(segment.cursor)
        try:
            request = Request(segment.body(segment.cursor, head), head.spans)
        except CorruptError:
            assert segment.cursor + HEAD.size <= place < segment.cursor + head.whole
        else:
            assert request in REQUESTS
        segment.cursor += head.whole
    segment.close()


@pytest.mark.parametrize("content", [b"wirespan spool 2\n", b"\x7fELF" * 100, bytes(4096)])
def test_a_file_of_somebody_else_is_left_alone(path, content):
    path.write_bytes(content)
    with pytest.raises(CorruptError):
        Segment.open(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"wire", MAGIC[:-1]])
def test_a_file_whose_creation_was_cut_short_is_begun_again(path, content):
    path.write_bytes(content)
    segment, torn = Segment.open(path)
    assert torn == len(content)
    segment.append(record(REQUESTS[0]))
    assert read_all(segment) == REQUESTS[:1]
    segment.close()


def test_a_write_that_fails_leaves_nothing_behind(path, monkeypatch):
    written(path, REQUESTS[:1])
    segment, _ = Segment.open(path)
    before = path.read_bytes()
    write = os.pwrite

    def full(fd, data, offset):
        if offset > segment.size + 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[:15], offset)

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        with pytest.raises(OSError, match="No space"):
            segment.append(record(REQUESTS[2]))
    assert path.read_bytes() == before
    segment.append(record(REQUESTS[2]))
    assert read_all(segment) == [REQUESTS[0], REQUESTS[2]]
    segment.close()


def test_a_body_that_grows_without_end_is_not_read(path, monkeypatch):
    monkeypatch.setattr("exporters.segments.MAX_BODY_BYTES", 1000)
    written(path, [Request(bytes(1001), 1)])
    segment, _ = Segment.open(path)
    with pytest.raises(CorruptError, match="too large"):
        segment.body(segment.cursor, segment.head(segment.cursor))
    segment.close()


def test_removed_it_is_gone(path):
    written(path)
    segment, _ = Segment.open(path)
    segment.remove()
    assert not path.exists()
    assert segment.is_gone
