# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
import zlib
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tracer.conversations import Conversation, PlayedSource, batches_of, spans_of
from tracer import recording
from tracer.events import Cause, OpenEvent
from tracer.recorder import Recorder
from tracer.recording import (
    BATCH,
    BATCH_ITEM,
    END_ITEM,
    FRAME,
    MAGIC,
    PREFIX,
    PROCESS_ITEM,
    Header,
    RecordingError,
    open_source,
    pack_frame,
    pack_header,
    pack_item,
)
from tracer.source import Batch, Counter

GET = b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEADER = Header(seed=7, snaplen=4096, redacted=True, created_unix_ns=1, wirespan="1.0")


def talk(exchanges=20):
    talk = Conversation().open()
    for _ in range(exchanges):
        talk.recv(GET, after_ns=200_000_000).send(OK)
    return batches_of(talk.events, tail_ns=(200_000_000,))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.wspan"
    batches = talk()
    source = PlayedSource(batches)
    source.tally = {Cause.DELIVERED: Counter(1, 2, 3, 4, 5), Cause.SPLICE: Counter(6, 7)}
    recorder = Recorder(path, source, seed=2**64 - 1, snaplen=512, redact=False)
    spans_of(recorder, recorder)
    recorder.close()
    return path


def polled(source):
    return list(iter(partial(source.poll, 0), None))


def refusal(path):
    """What is said of a file that cannot be replayed to its end."""
    with pytest.raises(RecordingError) as caught, closing(open_source(path)) as source:
        polled(source)
    return str(caught.value)


def test_batches_come_back_as_they_were(path):
    source = open_source(path)
    assert polled(source) == talk()
    assert source.poll(0) is None
    assert source.seed == 2**64 - 1
    assert source.header.snaplen == 512
    assert not source.header.redacted
    source.close()


def test_counters_come_back(path):
    source = open_source(path)
    polled(source)
    assert source.counters() == {
        Cause.DELIVERED: Counter(1, 2, 3, 4, 5),
        Cause.SPLICE: Counter(6, 7),
    }
    source.close()


def test_advice_is_ignored(path):
    source = open_source(path)
    source.advise(1, recording.Action.STOP)
    source.forget(1)
    assert len(polled(source)) == len(talk())
    source.close()


def test_process_that_was_not_recorded_is_named_by_its_event(path):
    source = open_source(path)
    opened, *_ = Conversation(tgid=5).open().events
    process = source.process(5, opened)
    assert process.service_name == "server"
    assert source.process(5, opened) is process
    assert source.process(6, None).service_name == "unknown_service"
    source.close()


@given(st.data())
def test_file_cut_anywhere_replays_what_is_there_and_then_says_so(data):
    whole = recorded()
    path = Path(scratch())
    path.write_bytes(whole[: data.draw(st.integers(len(HEADER.pack()) + 50, len(whole) - 1))])
    seen = []
    cut = pytest.raises(RecordingError, match=r"ends in the middle.* batches before that")
    with closing(open_source(path)) as source, cut:
        # extend() keeps what came before the error.
        seen.extend(iter(partial(source.poll, 0), None))
    assert seen == talk()[: len(seen)]


@given(st.data())
def test_flipped_byte_anywhere_is_one_sentence(data):
    whole = bytearray(recorded())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    path = Path(scratch())
    path.write_bytes(whole)
    text = refusal(path)
    assert "\n" not in text
    assert str(path) in text


@given(st.binary(max_size=200))
def test_random_bytes_are_one_sentence(data):
    path = Path(scratch())
    path.write_bytes(data)
    text = refusal(path)
    assert str(path) in text
    assert "\n" not in text


@given(st.lists(st.tuples(st.integers(0, 8), st.binary(max_size=60)), max_size=5))
def test_well_formed_frames_of_nonsense_are_one_sentence(items):
    path = Path(scratch())
    frame = pack_frame(b"".join(pack_item(kind, body) for kind, body in items))
    path.write_bytes(HEADER.pack() + frame)
    ended = True
    with closing(open_source(path)) as source:
        try:
            polled(source)
        except RecordingError:
            ended = False
    assert not ended or END_ITEM in [kind for kind, _ in items]


@given(st.data())
def test_chunk_that_was_tampered_with_reaches_no_parser(data):
    """A checksum is no signature: whoever makes a file can make it fit."""
    batch = talk(2)[data.draw(st.integers(0, 4))]
    chunk = bytearray(batch.chunk)
    at = data.draw(st.integers(0, len(chunk) - 1))
    chunk[at] ^= data.draw(st.integers(1, 255))
    body = BATCH.pack(batch.now_ns, 0) + bytes(chunk)
    path = Path(scratch())
    items = pack_item(BATCH_ITEM, body) + pack_item(END_ITEM, b"")
    path.write_bytes(HEADER.pack() + pack_frame(items))
    with closing(open_source(path)) as source, suppress(RecordingError):
        spans_of(source)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: b"", "is empty"),
        (lambda: b"#!/bin/sh\n", "is no recording of wirespan, no pcap and no pcapng file"),
        (lambda: MAGIC, "cut in its header"),
        (lambda: MAGIC + PREFIX.pack(9, 0, 0, 0), "format 9, and this wirespan reads format 2"),
        (lambda: MAGIC + PREFIX.pack(2, 0, 2**32 - 1, 0), "header of .* is damaged"),
        (lambda: HEADER.pack()[:-1], "header of .* is damaged"),
        (lambda: pack_header(b"[]"), "header of .* is damaged"),
        (lambda: pack_header(json.dumps({"seed": 1}).encode()), "header of .* is damaged"),
        (HEADER.pack, "ends in the middle"),
        (lambda: HEADER.pack() + FRAME.pack(2**32 - 1, 5, 0), "is damaged"),
        (lambda: HEADER.pack() + FRAME.pack(5, 2**32 - 1, 0), "is damaged"),
        (lambda: HEADER.pack() + bomb(), "is damaged"),
        (lambda: HEADER.pack() + pack_frame(pack_item(PROCESS_ITEM, b"{}")), "is damaged"),
    ],
)
def test_file_that_cannot_be_replayed_is_one_sentence_with_a_remedy(tmp_path, make, says):
    path = tmp_path / "a"
    path.write_bytes(make())
    text = refusal(path)
    assert re.search(says, text)
    assert "\n" not in text


def test_recording_of_a_big_endian_machine_is_refused(tmp_path):
    path = tmp_path / "a"
    fields = {name: getattr(HEADER, name) for name in Header.__dataclass_fields__}
    path.write_bytes(pack_header(json.dumps(fields | {"byte_order": "big"}).encode()))
    with pytest.raises(RecordingError, match="big-endian"):
        open_source(path)


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_file_that_cannot_be_read_is_one_sentence(tmp_path, name):
    with pytest.raises(RecordingError, match="cannot read"):
        open_source(tmp_path / name)


def test_item_of_a_later_version_is_passed_over(tmp_path):
    path = tmp_path / "a"
    batch = Batch(b"", 5, 6)
    items = pack_item(99, b"future") + pack_item(BATCH_ITEM, BATCH.pack(5, 6))
    path.write_bytes(HEADER.pack() + pack_frame(items + pack_item(END_ITEM, b"")))
    with closing(open_source(path)) as source:
        assert polled(source) == [batch]


def test_processes_that_are_remembered_are_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr(recording, "MAX_PROCESSES", 10)
    source = PlayedSource([])
    path = tmp_path / "a"
    recorder = Recorder(path, source, seed=1, snaplen=1)
    for tgid in range(50):
        recorder.process(tgid, None)
    recorder.close()
    replayed = open_source(path)
    polled(replayed)
    assert len(replayed._by_id) == len(replayed._bound) == 10
    assert replayed.process(49, None).service_name == "service-49"
    replayed.close()


def test_process_is_found_by_its_start_and_without_it(tmp_path):
    source = PlayedSource([])
    path = tmp_path / "a"
    opened, *_ = Conversation(tgid=5).open().events
    recorder = Recorder(path, source, seed=1, snaplen=1)
    recorder.process(5, opened)
    recorder.close()
    replayed = open_source(path)
    polled(replayed)
    assert isinstance(opened, OpenEvent)
    assert replayed.process(5, opened).resource["process.command_args"] == ("a", "b")
    replayed.close()


_made: dict[str, bytes] = {}


def recorded():
    """A recording of `talk()`, made once."""
    if not _made:
        path = Path(scratch())
        source = PlayedSource(talk())
        recorder = Recorder(path, source, seed=1, snaplen=1, overwrite=True, redact=False)
        spans_of(recorder, recorder)
        recorder.close()
        _made["a"] = path.read_bytes()
    return _made["a"]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    global _folder  # noqa: PLW0603 - Hypothesis takes no fixture for each example
    _folder = tmp_path_factory.mktemp("recordings")


_folder = Path()


def scratch():
    return str(_folder / "scratch.wspan")


def bomb():
    """A small frame that would inflate to more than it says."""
    stored = zlib.compress(bytes(10_000_000))
    lengths = FRAME.pack(len(stored), 100, 0)[:8]
    return lengths + zlib.crc32(stored, zlib.crc32(lengths)).to_bytes(4, "little") + stored
