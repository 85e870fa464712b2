# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import struct
import sys
import tracemalloc
import warnings
from contextlib import closing

import pytest

from tests.tracer.conversations import spans_of
from tracer.events import walk
from tracer.recording import RecordingError, open_source

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    scapy_utils = pytest.importorskip("scapy.utils", reason="scapy is not installed")
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import CookedLinux, CookedLinuxV2, Dot1Q, Ether, Loopback

START = 1_700_000_000.25
GET = b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Net:
    """Frames of one TCP connection, as two well-behaved ends would send them."""

    def __init__(self, below=lambda client: Ether(), ip=None, client=40001, server=80, isn=1000):
        self.below = below
        self.ip = ip or (lambda a, b: IP(src=f"10.0.0.{a}", dst=f"10.0.0.{b}"))
        self.ports = (client, server)
        self.sequence = [isn, 0xFFFFFFF0]
        self.at = START
        self.frames = []

    def frame(self, side, data=b"", flags="A", *, keep=True, after=0.001):
        self.at += after
        client = side == 0
        source, destination = self.ports if client else self.ports[::-1]
        head = TCP(
            sport=source,
            dport=destination,
            seq=self.sequence[side],
            ack=self.sequence[1 - side] if "A" in flags else 0,
            flags=flags,
        )
        frame = self.below(client) / self.ip(2 - side, 1 + side) / head / data
        frame.time = self.at
        step = len(data) + ("S" in flags) + ("F" in flags)
        self.sequence[side] = (self.sequence[side] + step) % 2**32
        if keep:
            self.frames.append(frame)
        return frame

    def shake(self):
        self.frame(0, flags="S")
        self.frame(1, flags="SA", after=0.010)
        self.frame(0, after=0.020)
        return self

    def ask(self, data=GET, **more):
        self.frame(0, data, "PA", **more)
        return self

    def answer(self, data=OK, **more):
        self.frame(1, data, "PA", **more)
        return self

    def part(self):
        self.frame(0, flags="FA")
        self.frame(1, flags="FA")
        self.frame(0)
        return self


def capture(path, frames, writer=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (writer or scapy_utils.wrpcap)(str(path), frames, **options)
    return path


def replay(path):
    source = open_source(path)
    try:
        return spans_of(source)
    finally:
        source.close()


def unused(path):
    source = open_source(path)
    while source.poll(0) is not None:
        pass
    source.close()
    return {
        text.removeprefix("frames not used: ").replace(" ", "_"): count
        for text, count in source.unused().items()
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.pcap"


def test_each_exchange_is_one_client_span_with_the_captures_times(path):
    net = Net().shake().ask().answer().ask().answer().part()
    spans = replay(capture(path, net.frames))
    assert [span[2].name for span in spans] == ["CLIENT", "CLIENT"]
    attributes = spans[0][6]
    assert attributes["url.full"] == "http://example.com/a"
    assert attributes["http.response.status_code"] == 200
    assert attributes["network.peer.address"] == "10.0.0.1"
    assert attributes["network.peer.port"] == 80
    assert attributes["wirespan.completeness"] == "complete"
    assert attributes["wirespan.rtt"] == pytest.approx(0.030, abs=1e-5)
    assert spans[0][3] == pytest.approx((START + 0.032) * 1e9, abs=2000)
    assert spans[0][4] - spans[0][3] == pytest.approx(1e6, abs=2000)
    assert spans[0][-1] == {"service.name": "10.0.0.2", "host.ip": ("10.0.0.2",)}


LAYERS = {
    "ethernet": lambda client: Ether(),
    "vlan": lambda client: Ether() / Dot1Q(vlan=5),
    "two vlan tags": lambda client: Ether(type=0x88A8) / Dot1Q(vlan=5) / Dot1Q(vlan=6),
    "linux cooked": lambda client: CookedLinux(pkttype=4 if client else 0),
    "linux cooked 2": lambda client: CookedLinuxV2(pkttype=4 if client else 0),
    "loopback": lambda client: Loopback(),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("writer", ["wrpcap", "wrpcapng"])
def test_link_layer_is_seen_through(path, name, writer):
    net = Net(LAYERS[name]).shake().ask().answer()
    capture(path, net.frames, getattr(scapy_utils, writer))
    assert len(replay(path)) == 1


@pytest.mark.parametrize("writer", ["wrpcap", "wrpcapng"])
def test_raw_ip_is_read(path, writer):
    net = Net().shake().ask().answer()
    frames = [frame[IP] for frame in net.frames]
    for frame, original in zip(frames, net.frames, strict=True):
        frame.time = original.time
    assert len(replay(capture(path, frames, getattr(scapy_utils, writer)))) == 1


def test_ipv6_is_read(path):
    net = Net(ip=lambda a, b: IPv6(src=f"fd00::{a}", dst=f"fd00::{b}")).shake().ask().answer()
    (span,) = replay(capture(path, net.frames))
    assert span[6]["network.peer.address"] == "fd00::1"


@pytest.mark.parametrize("options", [{"nano": True}, {"endianness": ">"}, {"endianness": "<"}])
def test_every_variant_of_pcap_is_read(path, options):
    (span,) = replay(capture(path, Net().shake().ask().answer().frames, **options))
    assert span[3] == pytest.approx((START + 0.032) * 1e9, abs=2000)


def test_gzipped_capture_is_read(path):
    capture(path, Net().shake().ask().answer().frames)
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert len(replay(path)) == 1


def test_two_replays_give_the_same_ids(path):
    capture(path, Net().shake().ask().answer().frames)
    assert replay(path) == replay(path)


def test_late_attach_says_so(path):
    (first, second) = replay(capture(path, Net().ask().answer().ask().answer().frames))
    assert first[6]["wirespan.completeness"] == "late_attach"
    assert second[6]["wirespan.completeness"] == "complete"


@pytest.mark.parametrize("ports", [(40000, 50051), (50051, 40000), (80, 40000)])
def test_without_a_syn_the_payload_says_who_is_the_client(path, ports):
    (span,) = replay(capture(path, Net(client=ports[0], server=ports[1]).ask().answer().frames))
    assert span[2].name == "CLIENT"
    assert span[6]["network.peer.port"] == ports[1]


def test_lost_response_is_a_gap_and_the_next_exchange_is_right(path):
    net = Net().shake().ask().answer(keep=False).ask(GET.replace(b"/a", b"/b")).answer().part()
    first, second = replay(capture(path, net.frames))
    assert first[6]["wirespan.completeness"] == "gap"
    assert second[6]["url.full"].endswith("/b")
    assert second[6]["wirespan.completeness"] == "complete"


def test_loss_inside_a_body_is_none(path):
    body = b"x" * 3000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n"
    net = Net().shake().ask().answer(head + body[:1000]).answer(body[1000:2000], keep=False)
    net.answer(body[2000:]).ask().answer().part()
    first, second = replay(capture(path, net.frames))
    assert first[6]["wirespan.completeness"] == "complete"
    assert first[6]["wirespan.response.size"] == len(head) + 3000
    assert second[6]["wirespan.completeness"] == "complete"


def test_snap_length_cuts_no_more_than_it_must(path):
    body = b"x" * 3000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + body
    net = Net().shake().ask().answer(answer).ask().answer().part()
    parts = [struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 200, 1)]
    for frame in net.frames:
        raw = bytes(frame)
        sec, usec = divmod(int(frame.time * 1e6), 1_000_000)
        parts.append(struct.pack("<IIII", sec, usec, min(len(raw), 200), len(raw)) + raw[:200])
    path.write_bytes(b"".join(parts))
    first, second = replay(path)
    assert first[6]["wirespan.response.size"] == len(answer)
    assert second[6]["wirespan.completeness"] == "complete"


def test_datagrams_are_events_with_their_peer(path):
    ask = Ether() / IP(src="10.0.0.2", dst="10.0.0.1") / UDP(sport=5353, dport=53) / b"question"
    tell = Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=53, dport=5353) / b"answer"
    for at, frame in enumerate((ask, tell)):
        frame.time = START + at / 100
    source = open_source(capture(path, [ask, tell]))
    events = list(walk(source.poll(0).chunk))
    source.close()
    assert [type(event).__name__ for event in events] == ["OpenEvent", "DataEvent", "DataEvent"]
    assert [(event.direction, event.data) for event in events[1:]] == [
        (1, b"question"),
        (0, b"answer"),
    ]
    assert {event.peer[1] for event in events[1:]} == {53}


def test_silence_passes_as_an_empty_batch_and_no_event_is_later_than_its_batch(path):
    net = Net().shake().ask().answer().ask(after=5).answer()
    source = open_source(capture(path, net.frames))
    batches = []
    while (batch := source.poll(0)) is not None:
        batches.append(batch)
    source.close()
    assert sorted(batch.now_ns for batch in batches) == [batch.now_ns for batch in batches]
    for batch in batches:
        for event in walk(batch.chunk):
            assert 0 < event.timestamp_ns <= batch.now_ns
    silent = [batch for batch in batches if not batch.chunk]
    later = [batch for batch in batches if batch.chunk and batch.now_ns > 5_000_000_000]
    assert silent
    assert later[0].now_ns - silent[0].now_ns < 10_000_000


def test_frames_that_are_not_used_are_counted_by_reason(path):
    other = [
        Ether(type=0x0806) / b"arp",
        Ether() / IP(proto=1) / b"icmp",
        Ether() / IP() / b"",
        Ether() / IP() / TCP(flags="A"),
    ]
    for frame in other:
        frame.time = START
    frames = [*other, *Net().shake().ask().answer().frames]
    capture(path, frames)
    assert unused(path) == {"not_ip": 1, "not_tcp_or_udp": 2, "unknown_connection": 1}


def test_foreign_link_type_is_counted_not_fatal(path):
    capture(path, Net().shake().frames, linktype=105)
    assert unused(path) == {"link_type_105": 3}


@pytest.mark.parametrize("writer", ["wrpcap", "wrpcapng"])
def test_cut_file_replays_up_to_the_cut_and_then_says_so(path, writer):
    net = Net().shake()
    for _ in range(50):
        net.ask().answer()
    capture(path, net.frames, getattr(scapy_utils, writer))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + 3])
    source = open_source(path)
    with pytest.raises(RecordingError, match=r"was cut in the middle.*frames before that"):
        spans_of(source)
    source.close()
    assert 40 < source._frames < 60


def test_cut_gzip_replays_up_to_the_cut_and_then_says_so(path):
    net = Net().shake()
    for _ in range(50):
        net.ask().answer()
    capture(path, net.frames)
    path.write_bytes(gzip.compress(path.read_bytes())[:-30])
    source = open_source(path)
    with pytest.raises(RecordingError, match="cannot be read to its end"):
        spans_of(source)
    source.close()


def test_absurd_frame_length_is_damage_and_costs_no_memory(path):
    capture(path, Net().shake().frames)
    data = bytearray(path.read_bytes())
    data[24 + 8 : 24 + 12] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(data)
    tracemalloc.start()
    damage = pytest.raises(RecordingError, match="cannot be read to its end")
    with closing(open_source(path)) as source, damage:
        source.poll(0)
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("size", [2, 4, 10, 23])
def test_header_alone_is_not_enough(path, size):
    capture(path, Net().shake().frames)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(RecordingError):
        open_source(path)


def test_empty_capture_has_no_spans(path):
    capture(path, [], linktype=1)
    if path.stat().st_size < 24:
        path.write_bytes(b"\xd4\xc3\xb2\xa1\x02\0\x04\0" + bytes(8) + b"\0\0\4\0\1\0\0\0")
    assert replay(path) == []


def test_without_scapy_one_sentence_says_what_to_install(path, monkeypatch):
    capture(path, Net().shake().frames)
    monkeypatch.setitem(sys.modules, "scapy.utils", None)
    with pytest.raises(RecordingError, match=r"scapy is needed.*pip install 'wirespan\[pcap\]'"):
        open_source(path)
