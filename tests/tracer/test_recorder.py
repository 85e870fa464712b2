# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import stat
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.model import Likeness, Message, Options, Outline, ParseError, Transport
from parsers.registry import Registry
from tests.tracer.conversations import (
    CLIENT,
    MS,
    SERVER,
    Collected,
    Conversation,
    PlayedSource,
    batches_of,
    plain,
    spans_of,
)
from tracer import recorder as recorder_module
from tracer.events import MAX_WHOLE, DataEvent, walk
from tracer.pipeline import Pipeline
from tracer.recorder import Recorder
from tracer.recording import RecordingError, open_source
from tracer.source import Batch

SECRET = b"hunter2-SECRET"


def record(path, batches, **options):
    """Record a run; its spans and the recorder, closed."""
    source = PlayedSource(batches)
    recorder = Recorder(path, source, seed=source.seed, snaplen=4096, overwrite=True, **options)
    spans = spans_of(recorder, recorder, redact=options.get("redact", True))
    recorder.close()
    return spans, recorder


def replay(path, **options):
    source = open_source(path)
    try:
        return spans_of(source, **options)
    finally:
        source.close()


def assert_replays(path, events, spans=None, **options):
    live, recorder = record(path, batches_of(events, **options))
    assert replay(path) == live
    if spans is not None:
        assert len(live) == spans
    assert recorder.undecided_bytes == 0
    assert SECRET[4:] not in plain(path)
    return live


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.wspan"


GET = b"GET /a HTTP/1.1\r\nHost: example.com\r\nCookie: " + SECRET + b"\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_replay_gives_the_same_spans(path):
    talk = Conversation().open().recv(GET).send(OK).recv(GET).send(OK).close()
    assert_replays(path, talk.events, 2)


def test_head_split_over_reads_is_kept_once_it_is_parsed(path):
    talk = Conversation().open()
    for at in range(0, len(GET), 7):
        talk.recv(GET[at : at + 7])
    talk.send(OK[:5]).send(OK[5:])
    (span,) = assert_replays(path, talk.close().events, 1)
    assert span[6]["url.path"] == "/a"


def test_transfers_of_a_socket_that_is_wanted_whole_replay_to_their_last_message(path):
    talk = Conversation(snaplen=MAX_WHOLE).open()
    for _ in range(3):
        talk.recv(GET * 1500).send(OK * 1500)
    assert len(GET * 1500) > 20 * 4096, "the snap length in the header"
    assert_replays(path, talk.events, 4500)


def test_batches_are_held_while_a_head_is_incomplete_and_no_longer(path):
    talk = Conversation().open().recv(GET[:20]).recv(GET[20:]).send(OK)
    batches = batches_of(talk.events)
    source = PlayedSource(batches[:-1])
    recorder = Recorder(path, source, seed=1, snaplen=4096)
    written = []
    write = recorder.write

    def counted(batch, session_of):
        write(batch, session_of)
        written.append(recorder.batches)

    recorder.write = counted
    spans_of(recorder, recorder)
    recorder.close()
    assert written[:4] == [1, 1, 3, 4]


def test_secret_in_a_query_is_blanked_and_the_span_is_the_same(path):
    head = b"GET /a?token=" + SECRET + b"&b=2 HTTP/1.1\r\nHost: x\r\n\r\n"
    (span,) = assert_replays(path, Conversation().open().recv(head).send(OK).events, 1)
    assert span[6]["url.query"] == "token=REDACTED&b=2"


def test_password_in_an_absolute_url_is_blanked(path):
    head = b"GET http://me:" + SECRET + b"@host/a HTTP/1.1\r\nHost: x\r\n\r\n"
    talk = Conversation(role=CLIENT).open().send(head).recv(OK)
    (span,) = assert_replays(path, talk.events, 1)
    assert span[6]["url.full"] == "http://REDACTED:REDACTED@host/a"


@pytest.mark.parametrize(
    "head",
    [
        b"CONNECT me:" + SECRET + b"@host:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: me:" + SECRET + b"@host\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: x\r\nX-Forwarded-Host: me:" + SECRET + b"@h\r\n\r\n",
    ],
)
def test_password_where_none_belongs_is_blanked(path, head):
    assert_replays(path, Conversation(role=CLIENT).open().send(head).recv(OK).events, 1)


def test_bodies_are_not_kept(path):
    body = b"\n" + SECRET * 20 + b"\r\nGET / HTTP/1.1\r\n\r\n"
    length = str(len(body)).encode()
    ask = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\n" + body
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n" + body
    talk = Conversation().open().recv(ask + ask).send(answer[:90]).send(answer[90:] + answer)
    assert_replays(path, talk.events, 2)


def test_chunked_bodies_and_trailers_are_not_kept(path):
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(SECRET) * n, SECRET * n) for n in range(1, 9))
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunks
        + b"0\r\nX-Sum: "
        + SECRET
        + b"\r\n\r\n"
    )
    talk = Conversation().open()
    for _ in range(3):
        talk.recv(GET)
        for at in range(0, len(answer), 50):
            talk.send(answer[at : at + 50])
    assert_replays(path, talk.close().events, 3)


def test_body_until_close_is_not_kept(path):
    talk = Conversation(role=CLIENT).open().send(GET)
    talk.recv(b"HTTP/1.0 200 OK\r\n\r\n" + SECRET).recv(SECRET).eof().close()
    assert_replays(path, talk.events, 1)


def test_long_body_costs_next_to_nothing(path):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n"
    talk = Conversation().open().recv(GET).send(answer + os.urandom(4000), size=len(answer) + 4000)
    left = 4_000_000 - 4000
    while left:
        size = min(left, 4000)
        talk.send(os.urandom(size))
        left -= size
    assert_replays(path, talk.events, 1, per_batch=10)
    assert path.stat().st_size < 40_000


def test_unknown_protocol_is_not_kept(path):
    talk = Conversation().open().recv(b"EHLO " + SECRET + b"\r\n").send(b"250 " + SECRET + b"\r\n")
    talk.recv(b"MAIL FROM:<" + SECRET + b">\r\n")
    assert_replays(path, talk.events, 0)


def test_what_follows_an_upgrade_is_not_kept(path):
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n" + SECRET
    talk = Conversation().open().recv(GET).send(switch).recv(SECRET).send(SECRET)
    assert_replays(path, talk.events, 1)


def test_late_attach_inside_a_body_is_not_kept_and_the_next_exchange_is(path):
    talk = Conversation(late=True).open().send(SECRET + b"\r\n" + SECRET).recv(GET).send(OK)
    talk.recv(GET).send(OK)
    assert_replays(path, talk.events, 2)


def test_connection_of_unknown_role_is_turned_alike(path):
    talk = Conversation(role=0, late=True).open().send(GET).recv(OK).send(GET).recv(OK)
    spans = assert_replays(path, talk.events, 2)
    assert {span[2].name for span in spans} == {"CLIENT"}


def test_head_that_is_never_finished_is_not_kept(path):
    talk = Conversation().open().recv(GET).send(OK[:20]).close(reason=1)
    talk2 = Conversation(cookie=2).open().recv(GET[:-2]).close()
    assert_replays(path, [*talk.events, *talk2.events], 1)


def test_head_longer_than_the_snap_length_replays_truncated(path):
    head = GET[:-2] + b"X-Long: " + b"x" * 5000 + b"\r\n\r\n"
    talk = Conversation().open().recv(head).send(OK).recv(GET).send(OK)
    spans = assert_replays(path, talk.events, 2)
    assert [span[6]["wirespan.completeness"] for span in spans] == ["truncated", "complete"]


def test_lost_transfer_replays_as_lost(path):
    talk = Conversation().open().recv(GET).send(OK[:20]).send(OK[20:], seen=False).recv(GET)
    talk.send(OK, seen=False).recv(GET).send(OK).close()
    assert_replays(path, talk.events, 3)


def test_garbage_between_exchanges_replays_alike(path):
    talk = Conversation().open().recv(GET).send(OK)
    talk.recv(SECRET + b"\r\nnonsense\r\n\r\n" + GET).send(OK).recv(GET).send(OK)
    assert_replays(path, talk.events, 2)


def test_unredacted_recording_keeps_every_byte(path):
    talk = Conversation().open().recv(b"EHLO " + SECRET).recv(GET).send(OK)
    live, recorder = record(path, batches_of(talk.events), redact=False)
    assert SECRET in plain(path)
    assert replay(path, redact=False) == live
    assert "not redacted" in recorder.describe()


def test_held_bytes_are_bounded_in_time_and_what_is_blanked_for_it_is_counted(path, monkeypatch):
    talk = Conversation().open().recv(GET[:20]).recv(GET[20:], after_ns=11_000 * MS).send(OK)
    other = Conversation(cookie=2, now_ns=talk.now_ns - 500 * MS).open().recv(GET).send(OK)
    events = [*talk.events, *other.events]
    live, recorder = record(path, batches_of(events))
    assert len(live) == 2
    assert recorder.undecided_bytes == 20
    assert "20 bytes were blanked" in recorder.describe()


def test_held_bytes_are_bounded_in_size(path, monkeypatch):
    monkeypatch.setattr("tracer.redaction.HOLD_BYTES", 2000)
    talk = Conversation().open().recv(GET[:20])
    other = Conversation(cookie=2, now_ns=talk.now_ns).open()
    for _ in range(10):
        other.recv(GET).send(OK)
    talk.now_ns = other.now_ns
    talk.recv(GET[20:]).send(OK)
    live, recorder = record(path, batches_of([*talk.events, *other.events]))
    assert len(live) == 11
    assert recorder.undecided_bytes == 20


def test_processes_are_those_that_the_live_run_was_told_of(path):
    class Renaming(PlayedSource):
        calls = 0

        def process(self, tgid, opened):
            self.calls += 1
            self.processes.clear()
            process = super().process(tgid, opened)
            process.resource["service.name"] = f"name-{self.calls}"
            return process

    events = []
    for cookie in range(1, 5):
        talk = Conversation(cookie=cookie, now_ns=cookie * 10**10).open().recv(GET).send(OK)
        events += talk.events
    source = Renaming(batches_of(events))
    recorder = Recorder(path, source, seed=42, snaplen=4096)
    live = spans_of(recorder, recorder)
    recorder.close()
    assert len({span[-1]["service.name"] for span in live}) == 4
    assert replay(path) == live


class PinMessage(Message):
    def __init__(self, kind, text):
        super().__init__()
        self.kind = kind
        self.text = text


class PinParser:
    """A toy: `PIN 1234\n`, a length before it, of which nothing but digits may be blanked."""

    name = "pin"
    transports = frozenset({Transport.TCP})
    ports = frozenset()

    def __init__(self, options):
        pass

    @staticmethod
    def probe(head, kind):
        word = head[1:5]
        if word in {b"PIN ", b"OK 8", b"OK 0"}:
            return Likeness.CERTAIN
        return (
            Likeness.SHORT if b"PIN ".startswith(word) or b"OK ".startswith(word) else Likeness.NO
        )

    def parse(self, reader, kind, request):
        text = reader.take(reader.u8())
        word, _, digits = text.partition(b" ")
        if not digits.isdigit():
            raise ParseError(f"{digits!r}")
        if reader.marking:
            reader.replace(reader.position - len(digits), b"0" * len(digits))
        return PinMessage(kind, word)

    def outline(self, exchange, side, server):
        return Outline(exchange.request.text.decode(), {}, None)


def pin_spans(source, writer=None):
    collected = Collected()
    registry = Registry({"pin": PinParser}, Options())
    Pipeline(source, registry, [collected], seed=42, writer=writer).run()
    return collected.spans


@pytest.mark.parametrize("at_once", [1, 2, 5, 7, 100])
def test_what_a_parser_replaces_is_written_instead_and_replays(path, at_once):
    talk = Conversation().open()
    for _ in range(3):
        for direction, text in enumerate((b"\x0cPIN 73911357", b"\x07OK 8642")):
            for start in range(0, len(text), at_once):
                talk.move(direction, text[start : start + at_once])
    source = PlayedSource(batches_of(talk.events, per_batch=2))
    recorder = Recorder(path, source, seed=42, snaplen=4096)
    live = pin_spans(recorder, recorder)
    recorder.close()
    assert [span[5] for span in live] == ["PIN"] * 3
    replayed = open_source(path)
    chunks = []
    poll = replayed.poll
    replayed.poll = lambda timeout_s: keep(chunks, poll(timeout_s))
    assert pin_spans(replayed) == live
    replayed.close()
    events = [event for chunk in chunks for event in walk(chunk) if isinstance(event, DataEvent)]
    said = [b"".join(each.data for each in events if each.direction == way) for way in (0, 1)]
    assert said == [b"\x0cPIN 00000000" * 3, b"\x07OK 0000" * 3]


def keep(chunks, batch):
    if batch is not None:
        chunks.append(batch.chunk)
    return batch


def test_counters_are_replayed(path):
    source = PlayedSource(batches_of(Conversation().open().recv(GET).events))
    expected = source.tally
    record(path, source.batches)
    with_counters = open_source(path)
    while with_counters.poll(0):
        pass
    assert dict(with_counters.counters()).keys() == expected.keys()
    with_counters.close()


def test_file_is_for_its_owner_only(path):
    path.write_text("old")
    path.chmod(0o644)
    record(path, [])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_existing_file_is_not_overwritten_unasked(path):
    path.write_text("precious")
    with pytest.raises(RecordingError, match=r"exists: choose another name.*--force"):
        Recorder(path, PlayedSource([]), seed=1, snaplen=1)
    assert path.read_text() == "precious"


def test_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(RecordingError, match=r"cannot write the recording .*No such file"):
        Recorder(tmp_path / "no" / "a", PlayedSource([]), seed=1, snaplen=1)


def test_frames_are_on_disk_within_a_second(path):
    talk = Conversation().open()
    for _ in range(40):
        talk.recv(GET, after_ns=50 * MS).send(OK, after_ns=50 * MS)
    batches = batches_of(talk.events)
    recorder = Recorder(path, PlayedSource(batches), seed=42, snaplen=4096)
    spans_of(recorder, recorder)
    # Not closed: as if the process had been killed here.
    source = open_source(path)
    seen = []
    with pytest.raises(RecordingError, match="ends in the middle"):
        seen.extend(iter(partial(source.poll, 0), None))
    source.close()
    assert batches[-1].now_ns - seen[-1].now_ns <= 2 * recorder_module.FLUSH_NS
    recorder.close()


def test_full_disk_ends_the_run_with_a_sentence_and_a_file_that_replays(path, monkeypatch):
    talk = Conversation().open()
    for _ in range(50):
        talk.recv(GET, after_ns=100 * MS).send(OK)
    written = 0
    real_write = os.write

    def write(descriptor, data):
        nonlocal written
        if written > 600:
            raise OSError(28, "No space left on device")
        count = real_write(descriptor, data[:100])
        written += count
        return count

    source = PlayedSource(batches_of(talk.events))
    recorder = Recorder(path, source, seed=42, snaplen=4096)
    monkeypatch.setattr(os, "write", write)
    spans = spans_of(recorder, recorder)
    recorder.close()
    monkeypatch.undo()
    assert source.batches
    assert 0 < len(spans) < 50
    assert "No space left on device" in recorder.describe()
    reader = open_source(path)
    with pytest.raises(RecordingError, match="ends in the middle"):
        list(iter(partial(reader.poll, 0), None))
    reader.close()


# -- any conversation ---------------------------------------------------------------------

secret = st.integers(1, 3).map(lambda n: SECRET * n)
fields = st.lists(
    st.sampled_from(
        [
            b"Authorization: Bearer %s\r\n",
            b"Cookie: a=%s; b=%s\r\n",
            b"X-Folded: one\r\n  %s\r\n",
            b"X-Empty:\r\n",
            b"User-Agent: curl/8\r\n",
            b"X-Forwarded-For: 10.9.8.7\r\n",
            b"Set-Cookie:%s\r\n",
            b"x-api-key : %s\n",
        ]
    ),
    max_size=4,
).map(lambda lines: b"".join(lines).replace(b"%s", SECRET))
targets = st.sampled_from(
    [
        b"/",
        b"/a?token=%s",
        b"/a?x=1&password=%s&y=2",
        b"http://u:%s@h/p?api_key=%s",
        b"/a;jwt=%s",
    ]
).map(lambda target: target.replace(b"%s", SECRET))


@st.composite
def bodies(draw):
    """Fields that frame a body, and the body."""
    payload = SECRET * draw(st.integers(0, 4)) + draw(st.sampled_from([b"", b"\n", b"\r\n\r\n"]))
    if draw(st.booleans()):
        size = draw(st.integers(1, 60))
        parts = [payload[at : at + size] for at in range(0, len(payload), size)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        trailer = draw(st.sampled_from([b"", b"X-T: " + SECRET + b"\r\n"]))
        return b"Transfer-Encoding: chunked\r\n", chunks + b"0\r\n" + trailer + b"\r\n"
    return b"Content-Length: %d\r\n" % len(payload), payload


@st.composite
def exchanges(draw):
    method = draw(st.sampled_from([b"GET", b"POST", b"HEAD"]))
    framing, body = (b"", b"") if method != b"POST" else draw(bodies())
    head = method + b" " + draw(targets) + b" HTTP/1.1\r\nHost: h\r\n" + draw(fields) + framing
    request = head + b"\r\n" + body
    framing, body = draw(bodies())
    status = draw(st.sampled_from([b"200 OK", b"404 Not Found", b"500 Oops"]))
    response = b"HTTP/1.1 " + status + b"\r\n" + draw(fields) + framing + b"\r\n"
    if method != b"HEAD":
        response += body
    if draw(st.integers(0, 5)) == 0:
        response = b"HTTP/1.1 100 Continue\r\n\r\n" + response
    return request, response


def pieces(draw, data):
    """Cut anywhere; now and then in many places."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    edges = [0, *cuts, len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


@st.composite
def conversations(draw, *, losses):
    talk = Conversation(
        cookie=draw(st.integers(1, 2**64 - 1)),
        role=draw(st.sampled_from([SERVER, CLIENT, 0])),
        late=draw(st.booleans()),
        snaplen=draw(st.sampled_from([4096, 4096, 96, 250])),
    ).open()
    ask, answer = (talk.recv, talk.send) if draw(st.booleans()) else (talk.send, talk.recv)
    if talk.role == SERVER:
        ask, answer = talk.recv, talk.send
    elif talk.role == CLIENT:
        ask, answer = talk.send, talk.recv
    for number in range(draw(st.integers(1, 4))):
        # What tells the protocol is whole: see the limits in tracer/redaction.py.
        lossy = losses and number > 0
        batch = draw(st.lists(exchanges(), min_size=1, max_size=3))
        kind = draw(st.integers(0, 12)) if number or not losses else -1
        if kind == 0:
            answer(draw(st.binary(max_size=40)) + SECRET)
        elif kind == 1:
            ask(SECRET + b"\r\n" + SECRET + b"\r\n\r\n")
        for say, part in ((ask, 0), (answer, 1)):
            for piece in pieces(draw, b"".join(each[part] for each in batch)):
                seen = not lossy or draw(st.integers(0, 9)) > 0
                say(piece, seen=seen, after_ns=draw(st.sampled_from([1000, MS, 2_000 * MS])))
    end = draw(st.integers(0, 3))
    if end:
        talk.close(reason=end - 1)
    return talk


def talks(*, losses):
    return st.lists(
        conversations(losses=losses), min_size=1, max_size=2, unique_by=lambda talk: talk.cookie
    )


@given(talks(losses=False), st.integers(1, 4))
def test_any_conversation_replays_to_the_same_spans_and_leaks_nothing(talks, per_batch):
    events = [event for talk in talks for event in talk.events]
    check(events, per_batch)


@given(talks(losses=True), st.integers(1, 4))
def test_any_lossy_conversation_replays_to_the_same_spans_and_leaks_nothing(talks, per_batch):
    events = [event for talk in talks for event in talk.events]
    check(events, per_batch)


@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=80)), max_size=12))
def test_random_bytes_replay_alike_and_are_not_kept(moves):
    talk = Conversation(late=len(moves) % 2 == 0).open()
    for out, data in moves:
        talk.move(int(out), data + SECRET)
    check(talk.events, 1)


def check(events, per_batch):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.wspan"
        live, recorder = record(path, batches_of(events, per_batch))
        if not recorder.undecided_bytes:
            assert replay(path) == live
        assert SECRET[4:] not in plain(path)


def test_batches_without_events_are_recorded_too(path):
    batches = [Batch(b"", n * 200 * MS, n) for n in range(1, 6)]
    record(path, batches)
    source = open_source(path)
    seen = []
    while (batch := source.poll(0)) is not None:
        seen.append(batch)
    source.close()
    assert seen == batches
