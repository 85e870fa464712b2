# SPDX-License-Identifier: Apache-2.0
"""Captures of DNS replay to the exchanges that were live."""

from __future__ import annotations

import struct
import warnings

import dns.message
import dns.rrset
import pytest

from parsers.model import Completeness, Options, Side
from parsers.registry import Registry
from tracer.pipeline import Pipeline
from tracer.recording import open_source
from tracer.span import SpanKind

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    scapy_utils = pytest.importorskip("scapy.utils", reason="scapy is not installed")
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether

START = 1_700_000_000.25


def query(number=1, kind="A", name="shop.example."):
    return dns.message.make_query(name, kind, id=number).to_wire()


def reply(number=1, kind="A", name="shop.example."):
    message = dns.message.make_response(dns.message.from_wire(query(number, kind, name)))
    if kind == "A":
        message.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "10.1.2.3"))
    return message.to_wire()


class Wire:
    """Frames, each a millisecond after the last."""

    def __init__(self, ip=None):
        self.ip = ip or (lambda a, b: IP(src=f"10.0.0.{a}", dst=f"10.0.0.{b}"))
        self.frames = []
        self.at = START

    def move(self, source, destination, data, *, after=0.001, times=1):
        self.at += after
        for _ in range(times):
            head = UDP(sport=source[1], dport=destination[1])
            frame = Ether() / self.ip(source[0], destination[0]) / head / data
            frame.time = self.at
            self.at += 1e-5
            self.frames.append(frame)
        return self


CLIENT, SERVER = (2, 40_000), (1, 53)


def spans_of(tmp_path, frames):
    path = tmp_path / "a.pcap"
    scapy_utils.wrpcap(str(path), frames)
    spans = []

    class Collected:
        def export(self, batch):
            spans.extend(batch)

    source = open_source(path)
    registry = Registry.load(["dns", "dns-tcp", "http1"], Options())
    pipeline = Pipeline(source, registry, [Collected()], seed=1)
    pipeline.run()
    source.close()
    return spans, pipeline


def told(spans):
    return [
        (
            span.outline.attributes["dns.question.name"],
            span.outline.attributes["wirespan.dns.question.type"],
            span.outline.attributes.get("dns.answers"),
            span.completeness.value,
        )
        for span in spans
    ]


ANSWERED = ("shop.example", "A", ("10.1.2.3",), "complete")


@pytest.mark.parametrize("family", [4, 6])
def test_question_and_answer(tmp_path, family):
    ip = None
    if family == 6:

        def ip(a, b):
            return IPv6(src=f"2001:db8::{a}", dst=f"2001:db8::{b}")

    wire = Wire(ip).move(CLIENT, SERVER, query()).move(SERVER, CLIENT, reply())
    spans, pipeline = spans_of(tmp_path, wire.frames)
    assert told(spans) == [ANSWERED]
    (span,) = spans
    address = "10.0.0.1" if family == 4 else "2001:db8::1"
    assert span.kind is SpanKind.CLIENT
    assert span.peering.remote == (address, 53)
    assert span.attributes()["server.address"] == address
    assert span.attributes()["network.transport"] == "udp"
    assert span.end_unix_ns - span.start_unix_ns == pytest.approx(1_010_000, abs=5000)
    assert span.start_unix_ns == pytest.approx((START + 0.001) * 1e9, abs=5000)
    assert pipeline.names.of("10.1.2.3") == "shop.example"


@pytest.mark.parametrize(
    ("client", "server"),
    [
        ((2, 40_000), (1, 53)),
        ((2, 500), (1, 5353)),
        ((2, 40_000), (1, 5399)),
        ((2, 5399), (1, 40_000)),
        ((2, 53), (1, 53)),
    ],
)
def test_who_asks_is_the_client_whatever_the_ports(tmp_path, client, server):
    wire = Wire().move(client, server, query()).move(server, client, reply())
    ((span,), _) = spans_of(tmp_path, wire.frames)
    assert span.kind is SpanKind.CLIENT
    assert (span.peering.local.port, span.peering.remote.port) == (client[1], server[1])
    assert span.peering.local.address == "10.0.0.2"


def test_capture_that_begins_with_an_answer(tmp_path):
    wire = Wire().move(SERVER, CLIENT, reply(9), after=1).move(CLIENT, SERVER, query(1), after=1)
    spans, pipeline = spans_of(tmp_path, wire.move(SERVER, CLIENT, reply(1)).frames)
    assert told(spans) == [ANSWERED]
    assert spans[0].kind is SpanKind.CLIENT
    assert pipeline.table.tally.unpaired_responses == 1


def test_both_may_ask(tmp_path):
    one, other = (1, 53), (2, 53)
    wire = Wire().move(one, other, query(1)).move(other, one, query(2, name="b.example."))
    wire.move(one, other, reply(2, name="b.example.")).move(other, one, reply(1))
    spans, _ = spans_of(tmp_path, wire.frames)
    assert [
        (span.peering.side, each[0]) for span, each in zip(spans, told(spans), strict=True)
    ] == [
        (Side.SERVER, "b.example"),
        (Side.CLIENT, "shop.example"),
    ]


def test_frames_that_were_captured_twice_are_no_resends(tmp_path):
    wire = Wire().move(CLIENT, SERVER, query(), times=2).move(SERVER, CLIENT, reply(), times=2)
    spans, pipeline = spans_of(tmp_path, wire.frames)
    assert told(spans) == [ANSWERED]
    assert spans[0].resends == 0
    assert pipeline.table.tally.unpaired_responses == 0


def test_resends_and_silence(tmp_path):
    wire = Wire().move(CLIENT, SERVER, query()).move(CLIENT, SERVER, query(), after=5)
    wire.move((3, 999), SERVER, query(5, name="other.example."), after=40)
    wire.move(SERVER, (3, 999), reply(5, name="other.example."))
    spans, _ = spans_of(tmp_path, wire.frames)
    silent, other = spans
    assert silent.completeness is Completeness.UNANSWERED
    assert silent.outline.error_type == "timeout"
    assert silent.resends == 1
    assert other.outline.attributes["dns.answers"] == ("10.1.2.3",)


def test_truncated_over_udp_and_again_over_tcp(tmp_path):
    cut = bytearray(reply(kind="TXT"))
    cut[2] |= 2
    wire = Wire().move(CLIENT, SERVER, query(kind="TXT")).move(SERVER, CLIENT, bytes(cut))
    sequence = [100, 900]

    def tcp(side, data=b"", flags="A"):
        ports = (41_000, 53) if side == 0 else (53, 41_000)
        head = TCP(
            sport=ports[0], dport=ports[1], flags=flags, seq=sequence[side], ack=sequence[1 - side]
        )
        wire.at += 0.001
        frame = Ether() / wire.ip(*((2, 1) if side == 0 else (1, 2))) / head / data
        frame.time = wire.at
        sequence[side] += len(data) + ("S" in flags)
        wire.frames.append(frame)

    tcp(0, flags="S")
    tcp(1, flags="SA")
    for side, data in ((0, query(kind="TXT")), (1, reply(kind="TXT"))):
        tcp(side, struct.pack("!H", len(data)) + data, "PA")
    spans, _ = spans_of(tmp_path, wire.frames)
    attributes = [span.attributes() for span in spans]
    assert [each["network.transport"] for each in attributes] == ["udp", "tcp"]
    assert [each.get("wirespan.dns.response.truncated") for each in attributes] == [True, None]
    assert {each["server.port"] for each in attributes} == {53}
