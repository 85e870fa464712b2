# SPDX-License-Identifier: Apache-2.0
"""Conversations of real HTTP/2 peers (the h2 library), as a session sees them."""

from __future__ import annotations

import random
from collections import Counter
from urllib.parse import urlsplit

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import Decoder, Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from parsers.http1 import Http1Parser
from parsers.http2 import Http2Parser
from parsers.http2_frames import PREFACE
from parsers.model import Completeness, Kind, Options, ParseError, Side
from parsers.reader import NeedMoreData, Reader
from tests.parsers import corpus
from tests.parsers.corpus import Player, Step
from tests.parsers.http2_bytes import (
    CLIENT,
    GET,
    HTTP,
    SERVER,
    Talk,
    frame,
    get,
    head,
    indexed,
    literal,
)

PARSERS = [Http1Parser, Http2Parser]
COOKIE = "session=secret-and-never-kept"


class Peers:
    """A client and a server of the h2 library, and what they did."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.steps: list[Step] = []
        self.truth: dict[int, tuple] = {}
        """Method, path, status and error, by stream."""
        self.client.initiate_connection()
        self.server.initiate_connection()
        self.deliver()

    def deliver(self) -> None:
        """Move what both have to say, until they are silent."""
        said = True
        while said:
            said = self.flush(to_server=True)
            said = self.flush(to_server=False) or said

    def flush(self, *, to_server: bool) -> bool:
        sender, receiver = (self.client, self.server) if to_server else (self.server, self.client)
        data = sender.data_to_send()
        if not data:
            return False
        receiver.receive_data(data)
        self.steps.append(Step(to_server=to_server, data=data, size=len(data)))
        return True

    def ask(self, path: str, method: str = "GET", body: int = -1, **fields: str) -> int:
        number = self.client.get_next_available_stream_id()
        head = [
            (":method", method),
            (":path", path),
            (":scheme", "http"),
            (":authority", "example.com"),
            ("user-agent", "test/1"),
            ("cookie", COOKIE),
            *((key.replace("_", "-"), value) for key, value in fields.items()),
        ]
        self.client.send_headers(number, head, end_stream=body < 0)
        self.truth[number] = (method, path, 0, None)
        if body >= 0:
            self.send(self.client, number, body)
        return number

    def send(self, peer: H2Connection, number: int, size: int, *, ends: bool = True) -> None:
        padding = self.random.choice([None, None, 0, 9])
        peer.send_data(number, b"\0\0\0\0" * (size // 4) + b"x" * (size % 4), ends, padding)

    def answer(
        self, number: int, status: int = 200, body: int = -1, trailers: bool = False, **fields: str
    ) -> None:
        head = [(":status", str(status)), ("date", "now"), ("set-cookie", COOKIE), *fields.items()]
        self.server.send_headers(number, head, end_stream=body < 0)
        if body >= 0:
            self.send(self.server, number, body, ends=not trailers)
            if trailers:
                self.server.send_headers(number, [("server-timing", "a")], end_stream=True)
        method, path, _, error = self.truth[number]
        error = error or (str(status) if status >= 500 else None)
        self.truth[number] = (method, path, status, error)


def play(steps, side: Side = Side.SERVER, **options) -> Player:
    return Player(PARSERS, side, **options).play(steps)


def seen(player: Player) -> list[tuple]:
    found = []
    for each in player.exchanges:
        outline = each.parser.outline(each, Side.SERVER, corpus.SERVER)
        of = outline.attributes
        path = of.get("url.path", "") + ("?" + of["url.query"] if "url.query" in of else "")
        status = of.get("http.response.status_code", 0)
        found.append((of["http.request.method"], path, status, outline.error_type))
    return found


def pieces(steps: list[Step], chance: random.Random) -> list[Step]:
    """The same bytes in other transfers."""
    found = []
    for step in steps:
        rest = step
        while rest.size > 1 and chance.random() < 0.6:
            part, rest = rest.cut(chance.randrange(1, rest.size))
            found.append(part)
        found.append(rest)
    return found


def converse(seed: int) -> Peers:
    """Some streams at once, all of which are answered or reset."""
    peers = Peers(seed)
    chance = peers.random
    if chance.random() < 0.5:
        for peer in (peers.client, peers.server):
            size = chance.choice([0, 60, 200, 4096, 20000])
            peer.update_settings({SettingCodes.HEADER_TABLE_SIZE: size})
        peers.deliver()
    waiting: list[int] = []
    for _ in range(chance.randrange(3, 20)):
        if chance.random() < 0.6 or not waiting:
            path = chance.choice(["/", "/a", f"/{chance.random()}", f"/?q={chance.random()}"])
            method = chance.choice(["GET", "POST", "PUT"])
            body = chance.choice([-1, 0, 1, 100, 3000])
            extra = {"x_extra": "y" * chance.choice([1, 1, 1, 300, 17000])}
            waiting.append(peers.ask(path, method, body, **extra))
            if chance.random() < 0.5:
                peers.flush(to_server=True)
            continue
        peers.flush(to_server=True)
        number = waiting.pop(chance.randrange(len(waiting)))
        method, path, _, _ = peers.truth[number]
        if chance.random() < 0.15:
            peers.server.reset_stream(number, ErrorCodes.INTERNAL_ERROR)
            peers.truth[number] = (method, path, 0, "INTERNAL_ERROR")
        elif chance.random() < 0.15:
            peers.client.reset_stream(number, ErrorCodes.CANCEL)
        else:
            status = chance.choice([200, 204, 404, 500, 599])
            extra = {"x-extra": "z" * chance.choice([1, 1, 1, 300, 17000])}
            body = chance.choice([-1, 0, 1, 100, 3000])
            trailers = chance.random() < 0.3
            peers.answer(number, status, body, trailers, **extra)
        if chance.random() < 0.7:
            peers.deliver()
    peers.deliver()
    for number in waiting:
        peers.answer(number, 200, 10)
        peers.deliver()
    return peers


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from([Side.SERVER, Side.CLIENT, Side.UNKNOWN]))
def test_every_exchange_of_real_peers_is_seen_and_no_other(seed, side):
    peers = converse(seed)
    truth = Counter(peers.truth.values())
    whole = play(peers.steps, side)
    assert Counter(seen(whole)) == truth
    split = play(pieces(peers.steps, peers.random), side)
    assert Counter(seen(split)) == truth
    sizes = [(each.request.size, each.response and each.response.size) for each in whole.exchanges]
    assert sizes == [
        (each.request.size, each.response and each.response.size) for each in split.exchanges
    ]
    for told in (whole, split):
        assert {each.completeness for each in told.exchanges} == {Completeness.COMPLETE}
        assert not told.tally.parse_errors
        assert not told.tally.unpaired_responses
        assert not told.session.in_flight
        assert not told.session.parser._streams


def frames(steps: list[Step]) -> list[Step]:
    """The same bytes, every frame in a transfer of its own."""
    found = []
    for step in steps:
        rest = step
        while rest.size:
            size = 24 if rest.data.startswith(b"PRI") else 9 + int.from_bytes(rest.data[:3], "big")
            part, rest = rest.cut(size)
            found.append(part)
    return found


def described(player: Player, side: Side = Side.SERVER) -> dict[int, tuple[dict, object]]:
    """What was said of each stream, and how whole it was."""
    found = {}
    for each in player.exchanges:
        outline = each.parser.outline(each, side, corpus.SERVER)
        assert each.request.correlation_id not in found
        found[each.request.correlation_id] = (dict(outline.attributes), each.completeness)
    return found


def assert_subset(found: dict, truth: dict) -> None:
    for number, (attributes, completeness) in found.items():
        whole = dict(truth[number][0])
        if "url.full" in whole and "url.path" in attributes:
            # Of a client's address no more than this was seen.
            whole["url.path"] = urlsplit(whole.pop("url.full")).path
        assert attributes.items() <= whole.items(), number
        if completeness is Completeness.COMPLETE:
            assert attributes == whole


@pytest.mark.parametrize("side", [Side.SERVER, Side.CLIENT])
@pytest.mark.parametrize("seed", range(5))
def test_joined_late_at_any_frame_nothing_wrong_is_said(seed, side):
    peers = converse(seed)
    truth = described(play(peers.steps, side), side)
    steps = frames(peers.steps)
    heard = 0
    for start in range(1, len(steps)):
        told = play(steps[start:], side, late=True)
        told.play([Step("close")])
        found = described(told, side)
        assert_subset(found, truth)
        heard += len(found)
    assert heard


@pytest.mark.parametrize("side", [Side.SERVER, Side.CLIENT])
@pytest.mark.parametrize("seed", range(5))
def test_with_any_frames_lost_nothing_wrong_is_said(seed, side):
    peers = converse(seed)
    truth = described(play(peers.steps, side), side)
    steps = pieces(peers.steps, peers.random)
    for _ in range(12):
        chance = peers.random.choice([0.01, 0.1, 0.3])
        broken = [
            Step(each.what, each.to_server, each.data, each.size, peers.random.random() > chance)
            for each in steps
        ]
        told = play([*broken, Step("close")], side)
        assert_subset(described(told, side), truth)


def recorded(steps: list[Step], side: Side = Side.SERVER) -> list[Step]:
    """The steps as a recording has them: what no parser has read or wants kept is blank."""
    told = Player(PARSERS, side, keep=True).play(steps)
    blank = {(d, p): bytearray(b"\xff" * len(data)) for d, p, data in told.fed}
    for note in told.session.kept:
        for (direction, position), data in blank.items():
            offset = (note.position - position + 2**31) % 2**32 - 2**31
            original = next(x for d, p, x in told.fed if (d, p) == (direction, position))
            a, b = max(offset, 0), min(offset + note.size, len(data))
            if direction == note.direction and a < b and not note.fate:
                source = note.substitute or original[a:b]
                data[a:b] = source[a - offset : b - offset] if note.substitute else source
    fed = iter(bytes(data) for data in blank.values())
    assert len(blank) == len(told.fed) == len(steps)
    return [Step(each.what, each.to_server, next(fed), each.size) for each in steps]


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1 << 30))
def test_a_recording_holds_no_secret_and_says_the_same(seed):
    peers = converse(seed)
    for _ in range(3):
        number = peers.ask(f"/?token=hunter2-{seed}&a=1&sig={seed:x}", authorization="Bearer xyz")
        peers.deliver()
        peers.answer(number, 200, 5)
        peers.deliver()
    steps = pieces(peers.steps, peers.random)
    truth = described(play(steps))
    kept = recorded(steps)
    again = play(kept)
    assert described(again) == truth
    assert not again.tally.parse_errors
    # Others can read it, too, and find nothing.
    client = b"".join(step.data for step in kept if step.to_server)
    fields = [f for f in headers_in(client) if f[0] in {b"cookie", b"authorization", b":path"}]
    assert fields
    for name, value in fields:
        assert b"secret" not in value, name
        assert b"Bearer" not in value
        assert b"hunter2" not in value


def headers_in(data: bytes) -> list[tuple[bytes, bytes]]:
    """All fields of one direction, by the hpack library."""
    decoder = Decoder(max_header_list_size=1 << 20)
    decoder.max_allowed_table_size = 1 << 20
    found = []
    position = 24 if data.startswith(b"PRI") else 0
    block = b""
    while position < len(data):
        size = int.from_bytes(data[position : position + 3], "big")
        kind, flags = data[position + 3], data[position + 4]
        payload = data[position + 9 : position + 9 + size]
        position += 9 + size
        if kind in {1, 9}:
            block += payload
            if flags & 4:
                found += decoder.decode(block, raw=True)
                block = b""
    return found


def prefixed(sizes: list[int]) -> bytes:
    return b"".join(b"\0" + size.to_bytes(4, "big") + b"\0" * size for size in sizes)


GRPC_HEAD = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/pkg.Service/Method"),
    (":authority", "example.com:50051"),
    ("content-type", "application/grpc+proto"),
    ("te", "trailers"),
    ("grpc-timeout", "1S"),
]


def stream_data(peers: Peers, peer: H2Connection, number: int, data: bytes, *, ends: bool) -> None:
    """Payload in frames of any size, padded or not."""
    chance = peers.random
    while data:
        size = chance.choice([1, 3, 5, 7, 50, 4000])
        part, data = data[:size], data[size:]
        peer.send_data(number, part, ends and not data, chance.choice([None, None, 0, 3]))
        if chance.random() < 0.2:
            peers.deliver()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.lists(st.sampled_from([0, 1, 4, 5, 100, 5000]), min_size=1, max_size=5),
    st.lists(st.sampled_from([0, 1, 4, 5, 100, 5000]), max_size=5),
    st.sampled_from(["0", "5", "13"]),
)
def test_grpc_calls_are_calls_and_their_messages_are_counted(seed, sent, answered, status):
    peers = Peers(seed)
    for number in (1, 3):
        peers.client.send_headers(number, GRPC_HEAD)
        stream_data(peers, peers.client, number, prefixed(sent), ends=True)
        peers.deliver()
        head = [(":status", "200"), ("content-type", "application/grpc")]
        end = [("grpc-status", status), ("grpc-message", "no")]
        if answered:
            peers.server.send_headers(number, head)
            stream_data(peers, peers.server, number, prefixed(answered), ends=False)
            peers.server.send_headers(number, end, end_stream=True)
        else:
            peers.server.send_headers(number, head + end, end_stream=True)
        peers.deliver()
    for told in (play(peers.steps), play(pieces(peers.steps, peers.random))):
        assert len(told.exchanges) == 2
        for each in told.exchanges:
            assert each.protocol == "grpc"
            assert (each.request.count, each.response.count) == (len(sent), len(answered))
            outline = each.parser.outline(each, Side.CLIENT, corpus.SERVER)
            assert outline.name == "pkg.Service/Method"
            names = {"0": "OK", "5": "NOT_FOUND", "13": "INTERNAL"}
            assert outline.attributes["rpc.response.status_code"] == names[status]
            assert outline.error_type == (None if status == "0" else names[status])


# -- frames ---------------------------------------------------------------------------


def test_the_preface_begins_anew():
    talk = Talk()
    talk.ask(head(1, literal(b":path", b"/old", 0x40)), resumed=True)
    found = talk.ask(PREFACE, get(3), resumed=True)
    assert found[0] is None
    assert found[1].correlation_id == 3
    (request,) = talk.ask(head(5, GET + indexed(62)))
    assert request.head.partial


def test_a_preface_comes_from_clients_and_as_a_whole():
    with pytest.raises(NeedMoreData):
        Talk().ask(PREFACE[:20])
    with pytest.raises(ParseError, match="preface"):
        Talk().ask(PREFACE[:20] + b"....")
    with pytest.raises(ParseError, match="frame of"):
        Talk().answer(PREFACE)


def test_frames_are_as_large_as_the_other_side_allows():
    large = frame(0, 0, 1, bytes(20000))
    with pytest.raises(ParseError, match="20000"):
        Talk().answer(large)
    talk = Talk()
    talk.ask(frame(4, 0, 0, b"\0\3\0\0\0\1" + b"\0\5" + (1 << 15).to_bytes(4, "big")))
    assert talk.answer(large) == [None]
    with pytest.raises(ParseError, match="20000"):
        talk.ask(large)
    # What was lost may have allowed it.
    assert Talk().answer(large, resumed=True) == [None]
    # A server may speak before the client's preface.
    talk = Talk()
    talk.answer(frame(4, 0, 0, b"\0\5" + (1 << 15).to_bytes(4, "big")))
    talk.ask(PREFACE)
    assert talk.ask(large) == [None]


@pytest.mark.parametrize(
    ("kind", "frames"),
    [
        (CLIENT, frame(0, 0, 0, b"abc")),
        (CLIENT, frame(1, 5, 0, GET)),
        (CLIENT, frame(2, 0, 1, bytes(4))),
        (CLIENT, frame(3, 0, 0, bytes(4))),
        (CLIENT, frame(3, 0, 1, bytes(5))),
        (CLIENT, frame(4, 0, 1, b"")),
        (CLIENT, frame(4, 0, 0, bytes(5))),
        (CLIENT, frame(4, 1, 0, bytes(6))),
        (CLIENT, frame(5, 4, 1, bytes(4) + GET)),
        (SERVER, frame(5, 4, 1, bytes(3))),
        (CLIENT, frame(6, 0, 0, bytes(7))),
        (CLIENT, frame(7, 0, 0, bytes(7))),
        (CLIENT, frame(8, 0, 0, bytes(3))),
        (CLIENT, frame(9, 4, 1, GET)),
        (CLIENT, frame(1, 0xD, 1, b"\x09" + GET)),
        (CLIENT, frame(1, 0x25, 1, bytes(4))),
        (CLIENT, frame(1, 1, 1, GET) + frame(6, 0, 0, bytes(8))),
        (CLIENT, frame(1, 1, 1, GET) + frame(9, 4, 3, HTTP)),
        (CLIENT, frame(1, 1, 1, GET) + frame(9, 0, 1) * 70),
        (CLIENT, frame(1, 1, 1, bytes(16000)) + frame(9, 0, 1, bytes(16000)) * 9),
    ],
)
def test_what_no_peer_sends_is_refused(kind, frames):
    with pytest.raises(ParseError):
        Talk().say(kind, frames)


def test_a_block_is_bounded_where_frames_are_not():
    with pytest.raises(ParseError, match="200000"):
        Talk().ask(frame(1, 5, 1, b"", length=200000), resumed=True)


def test_half_a_block_is_waited_for():
    block = get(1)[9:]
    frames = frame(1, 1, 1, block[:9]) + frame(9, 4, 1, block[9:])
    for size in range(1, len(frames)):
        with pytest.raises(NeedMoreData):
            Talk().ask(frames[:size])


def test_frames_that_nobody_reads():
    talk = Talk()
    frames = (
        frame(2, 0, 3, bytes(5)),
        frame(4, 1, 0),
        frame(4, 0, 0, bytes(6 * 40)),
        frame(6, 0, 0, bytes(8)),
        frame(7, 0, 0, bytes(8)),
        frame(8, 0, 0, b"\0\0\0\1"),
        frame(0xFA, 0xFF, 7, b"abc"),
    )
    assert talk.ask(*frames) == [None] * len(frames)


def marks(*frames: bytes, kind: Kind = CLIENT) -> bytes:
    """The frames as they may be kept."""
    reader = Reader(b"".join(frames))
    reader.marking = True
    parser = Http2Parser(Options())
    while reader.position < reader.end:
        parser.parse(reader, kind, None)
    kept = bytearray(reader.data)
    for start, stop in reader.omitted:
        kept[start:stop] = b"-" * (stop - start)
    for start, text in reader.replaced:
        kept[start : start + len(text)] = text
    return bytes(kept)


def test_payload_and_padding_are_not_kept():
    padded = frame(1, 0xD, 1, b"\4" + GET + HTTP + b"\x84" + b"pad!")
    assert marks(padded) == padded.replace(b"pad!", b"----")
    body = frame(0, 1, 1, b"body")
    assert marks(body) == body.replace(b"body", b"----")
    away = frame(7, 0, 0, bytes(8) + b"debug")
    assert b"debug" not in marks(away)


def test_secrets_in_several_frames_are_not_kept():
    block = GET + HTTP + literal(b":path", b"/?token=abcdef") + literal(b"cookie", b"secret")
    for at in range(1, len(block)):
        parts = frame(1, 1, 1, block[:at]), frame(9, 4, 1, block[at:])
        kept = marks(*parts)
        text = kept[9 : 9 + at] + kept[18 + at :]
        assert text == block.replace(b"abcdef", b"------").replace(b"secret", b"------")


def test_coded_secrets_in_several_frames_are_written_over():
    block = Encoder().encode(
        [(":method", "GET"), (":path", "/?token=abcdef"), ("cookie", "secret")]
    )
    whole = marks(frame(1, 5, 1, block))[9:]
    assert len(whole) == len(block)
    assert whole != block
    for at in range(1, len(block)):
        kept = marks(frame(1, 1, 1, block[:at]), frame(9, 4, 1, block[at:]))
        assert kept[9 : 9 + at] + kept[18 + at :] == whole
