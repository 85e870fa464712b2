# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
import struct

import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.dns import MAX_ASKED, MAX_TRANSFERS, DnsParser, DnsTcpParser, Transfer
from parsers.dns_wire import decode
from parsers.model import (
    Completeness,
    Endpoint,
    Exchange,
    Kind,
    Likeness,
    Options,
    ParseError,
    Side,
)
from parsers.reader import NeedMoreData, Reader

REQUEST, RESPONSE = Kind.REQUEST, Kind.RESPONSE
SERVER = Endpoint("10.0.0.1", 53)
NO, SHORT, LIKELY, CERTAIN = Likeness


def query(name="shop.example.", kind="A", klass="IN", **options):
    options.setdefault("id", 7)
    return dns.message.make_query(name, kind, klass, **options).to_wire()


def reply(wire, *rrsets, code=0, flags=0):
    message = dns.message.make_response(dns.message.from_wire(wire))
    message.set_rcode(code)
    message.flags |= flags
    for each in rrsets:
        message.answer.append(dns.rrset.from_text("shop.example.", 60, "IN", *each))
    return message.to_wire(max_size=65535)


def framed(data):
    return struct.pack("!H", len(data)) + data


def read(parser, data, kind, **options):
    reader = Reader(data, **options)
    return parser.parse(reader, kind, None), reader


def outline(asked, answered=None, *, side=Side.CLIENT, parser=DnsParser, error=None, server=SERVER):
    made = parser(Options())
    wrap = framed if parser is DnsTcpParser else bytes
    request, _ = read(made, wrap(asked), REQUEST)
    response = None if answered is None else read(made, wrap(answered), RESPONSE)[0]
    exchange = Exchange("dns", request, response, Completeness.COMPLETE, error)
    return made.outline(exchange, side, server)


# -- attributes ---------------------------------------------------------------------------


def test_all_of_an_ordinary_outline():
    first, second = ("A", "10.1.2.3"), ("A", "10.1.2.4")
    told = outline(query(), reply(query(), first, second))
    assert told.name == "DNS A"
    assert told.attributes == {
        "dns.question.name": "shop.example",
        "dns.answers": ("10.1.2.3", "10.1.2.4"),
        "wirespan.dns.question.type": "A",
        "wirespan.dns.response.code": "NOERROR",
        "server.address": "10.0.0.1",
        "server.port": 53,
    }
    assert told.error_type is None
    assert told.client_address is None
    assert told.counts == ("", "")


@pytest.mark.parametrize(
    ("asked", "key", "value"),
    [
        (query("."), "dns.question.name", "."),
        (query("xn--bcher-kva.example."), "dns.question.name", "xn--bcher-kva.example"),
        (query("Shop.Example."), "dns.question.name", "Shop.Example"),
        (query(kind="HTTPS"), "wirespan.dns.question.type", "HTTPS"),
        (query(kind="TYPE4711"), "wirespan.dns.question.type", "TYPE4711"),
        (query(klass="CH"), "wirespan.dns.question.class", "CH"),
        (query(), "wirespan.dns.question.class", None),
        (query(), "wirespan.dns.question.count", None),
        (query(), "wirespan.dns.opcode", None),
        (query()[:2] + b"\x21" + query()[3:], "wirespan.dns.opcode", "NOTIFY"),
        (query()[:2] + b"\x29" + query()[3:], "wirespan.dns.opcode", "UPDATE"),
        (query(), "wirespan.dns.response.code", None),
        (query(), "network.transport", None),
    ],
)
def test_attributes_of_a_question(asked, key, value):
    assert outline(asked).attributes.get(key) == value


@pytest.mark.parametrize(
    ("code", "flags", "key", "value"),
    [
        (3, 0, "wirespan.dns.response.code", "NXDOMAIN"),
        (2, 0, "wirespan.dns.response.code", "SERVFAIL"),
        (0, 0x200, "wirespan.dns.response.truncated", True),
        (0, 0, "wirespan.dns.response.truncated", None),
        (0, 0, "dns.answers", None),
    ],
)
def test_attributes_of_an_answer(code, flags, key, value):
    answered = reply(query(), code=code, flags=flags)
    assert outline(query(), answered).attributes.get(key) == value


@pytest.mark.parametrize(
    ("code", "side", "error"),
    [
        (3, Side.CLIENT, None),
        (2, Side.CLIENT, "try_again"),
        (2, Side.SERVER, "try_again"),
        (5, Side.CLIENT, "refused"),
        (5, Side.SERVER, None),
    ],
)
def test_errors(code, side, error):
    assert outline(query(), reply(query(), code=code), side=side).error_type == error


def test_records_of_anything_but_a_query_are_no_answers():
    asked = query()[:2] + b"\x29" + query()[3:]
    answered = reply(query(), ("A", "10.0.0.1"))
    answered = answered[:2] + b"\xa8" + answered[3:]
    assert "dns.answers" not in outline(asked, answered).attributes


def test_silence_is_the_error_that_the_session_names():
    assert outline(query(), error="timeout").error_type == "timeout"


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (query(kind="AAAA"), "DNS AAAA"),
        (query(kind="TYPE4711"), "DNS"),
        (query()[:2] + b"\x21" + query()[3:], "DNS NOTIFY"),
        (query()[:4] + bytes(8), "DNS"),
    ],
)
def test_span_names(asked, name):
    assert outline(asked).name == name


def test_address_of_a_server_that_listens_on_all_is_not_known():
    attributes = outline(query(), server=Endpoint("", 53)).attributes
    assert "server.address" not in attributes
    assert "server.port" not in attributes
    assert "server.port" not in outline(query(), server=Endpoint("10.0.0.1", 0)).attributes


def test_transport_is_told_where_the_connection_does_not():
    assert outline(query(), parser=DnsTcpParser).attributes["network.transport"] == "tcp"


def test_same_meaning_has_the_same_outline():
    first, second = query(id=1), query(id=2)
    assert outline(first, reply(first)) is outline(second, reply(second))
    assert outline(first, reply(first)) is not outline(first, reply(first), side=Side.SERVER)
    assert outline(first) is not outline(first, parser=DnsTcpParser)


# -- ids ----------------------------------------------------------------------------------


def test_id_and_question_together_are_the_id():
    parser = DnsParser(Options())
    asked, _ = read(parser, query("Shop.Example."), REQUEST)
    answered, _ = read(parser, reply(query()), RESPONSE)
    other, _ = read(parser, reply(query(kind="AAAA")), RESPONSE)
    assert asked.correlation_id == answered.correlation_id == (7, ("shop.example", 1, 1))
    assert other.correlation_id != asked.correlation_id


def test_answer_without_a_question_is_known_by_its_id():
    parser = DnsParser(Options())
    bare = b"\0\7\x81\x81" + bytes(8)
    unknown, _ = read(parser, bare, RESPONSE)
    asked, _ = read(parser, query(), REQUEST)
    answered, _ = read(parser, bare, RESPONSE)
    assert unknown.correlation_id == (7, None)
    assert answered.correlation_id == asked.correlation_id


def test_questions_that_are_remembered_are_bounded():
    parser = DnsParser(Options())
    for number in range(MAX_ASKED + 3):
        read(parser, query(id=number), REQUEST)
    assert len(parser._asked) <= MAX_ASKED


# -- datagrams ----------------------------------------------------------------------------


@pytest.mark.parametrize("parser", [DnsParser, DnsTcpParser])
def test_kinds_are_told_apart(parser):
    wrap = framed if parser is DnsTcpParser else bytes
    for data, kind in ((query(), RESPONSE), (reply(query()), REQUEST)):
        assert parser.probe(wrap(data), kind) is NO
        with pytest.raises(ParseError):
            read(parser(Options()), wrap(data), kind)


def test_all_of_a_datagram_is_consumed():
    for data, kind in ((query(), REQUEST), (reply(query()), RESPONSE), (query() + b"x", REQUEST)):
        message, reader = read(DnsParser(Options()), data, kind)
        assert message.kind is kind
        assert reader.available == 0


@pytest.mark.parametrize("size", range(12))
def test_less_than_a_header_is_nothing(size):
    assert DnsParser.probe(query()[:size], REQUEST) is NO
    with pytest.raises(ParseError):
        read(DnsParser(Options()), query()[:size], REQUEST)


def test_bytes_behind_a_message_are_not_kept():
    reader = Reader(query() + b"secret")
    reader.marking = True
    DnsParser(Options()).parse(reader, REQUEST, None)
    assert reader.omitted == [(len(query()), len(query()) + 6)]


def test_what_repeats_is_read_once():
    parser = DnsParser(Options())
    first, _ = read(parser, query("once.example.", id=1), REQUEST)
    second, _ = read(parser, query("once.example.", id=2), REQUEST)
    assert first.content is second.content
    large = query("large.example.", use_edns=0, pad=1024)
    first, _ = read(parser, large, REQUEST)
    second, _ = read(parser, large, REQUEST)
    assert first.content is not second.content


@pytest.mark.parametrize(
    ("data", "kind", "likeness"),
    [
        (query(), REQUEST, CERTAIN),
        (query(use_edns=0, want_dnssec=True), REQUEST, CERTAIN),
        (reply(query(), ("A", "10.0.0.1")), RESPONSE, CERTAIN),
        (reply(query(), code=3), RESPONSE, CERTAIN),
        (b"\0\7\x81\x81" + bytes(8), RESPONSE, LIKELY),
        (b"\0\7\1\0" + bytes(8), REQUEST, LIKELY),
        (query() + b"\0", REQUEST, NO),
        (query()[:3] + b"\x40" + query()[4:], REQUEST, NO),
        (query()[:3] + b"\1" + query()[4:], REQUEST, NO),
        (reply(query())[:3] + b"\x8c" + reply(query())[4:], RESPONSE, NO),
        (query()[:-1] + b"\2", REQUEST, NO),
        (query()[:7] + b"\1" + query()[8:], REQUEST, NO),
        (query()[:12] + b"\x41" + query()[13:], REQUEST, NO),
        (query()[:-3], REQUEST, NO),
    ],
)
def test_probe_of_datagrams(data, kind, likeness):
    assert DnsParser.probe(data, kind) is likeness


def test_random_datagrams_are_none():
    random_ = random.Random(1)
    for _ in range(20_000):
        data = random_.randbytes(random_.randrange(13, 80))
        assert DnsParser.probe(data, REQUEST) is NO
        assert DnsParser.probe(data, RESPONSE) is NO


# -- streams ------------------------------------------------------------------------------


@given(st.integers(0, 60))
def test_probe_of_a_stream_grows_with_it(size):
    for data, kind in (
        (framed(query()), REQUEST),
        (framed(reply(query(), ("A", "10.0.0.1"))), RESPONSE),
    ):
        likeness = DnsTcpParser.probe(data[:size], kind)
        assert likeness is (CERTAIN if size >= len(data) else likeness)
        assert likeness is not NO


def test_probe_of_several_messages_looks_at_them_all():
    two = framed(query()) + framed(query(kind="AAAA"))
    assert DnsTcpParser.probe(two, REQUEST) is CERTAIN
    assert DnsTcpParser.probe(two * 20, REQUEST) is CERTAIN
    assert DnsTcpParser.probe(framed(query()) + b"\0\1\0", REQUEST) is NO
    assert DnsTcpParser.probe(framed(query()) + b"HELO there you", REQUEST) is NO


@pytest.mark.parametrize("step", [-1, 1])
def test_length_must_be_exact(step):
    wire = query()
    wrong = struct.pack("!H", len(wire) + step) + wire
    assert DnsTcpParser.probe(wrong + bytes(20), REQUEST) is NO


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\3\1\2\0\1\0\1\xfc\3\3aaaaaaaaaaaaaaaa",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"220 mail.example ESMTP\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"\0\0\0\x08\4\xd2\x16\x2f",
        b"\0\0\0\x54\0\3\0\0user\0alice\0database\0shop\0",
        b"J\0\0\0\n8.0.36\0\x0b\0\0\0abcdefgh\0",
        b'{"a": 1, "b": [1, 2, 3]}',
    ],
)
def test_streams_of_others_are_refused(head):
    for kind in Kind:
        assert DnsTcpParser.probe(head, kind) is NO


def test_messages_one_after_the_other():
    reader = Reader(framed(query()) + framed(query(kind="AAAA"))[:10])
    parser = DnsTcpParser(Options())
    first = parser.parse(reader, REQUEST, None)
    assert first.content.type == 1
    assert reader.position == len(framed(query()))
    with pytest.raises(NeedMoreData):
        parser.parse(reader, REQUEST, None)


def test_length_below_a_header_is_an_error():
    with pytest.raises(ParseError, match="11 bytes"):
        read(DnsTcpParser(Options()), b"\0\x0b" + bytes(20), REQUEST)


def test_counts_that_promise_more_than_is_there_are_an_error():
    wrong = query()[:7] + b"\1" + query()[8:]
    for data in (query()[:-3], wrong):
        with pytest.raises(ParseError):
            read(DnsTcpParser(Options()), framed(data), REQUEST)


def test_all_of_a_message_without_a_tail_may_be_kept():
    reader = Reader(framed(query()))
    reader.marking = True
    DnsTcpParser(Options()).parse(reader, REQUEST, None)
    assert not reader.omitted


def test_end_that_was_not_captured_is_passed_over():
    answered = framed(reply(query(), ("A", "10.0.0.1"), ("A", "10.0.0.2")))
    message, reader = read(DnsTcpParser(Options()), answered[:-3], RESPONSE, cut=True)
    assert message.truncated
    assert message.content.addresses == ("10.0.0.1",)
    assert reader.position == len(answered)
    for size in (5, 20):
        message, reader = read(DnsTcpParser(Options()), answered[:size], RESPONSE, cut=True)
        assert message is None
        assert reader.position == len(answered)


def test_what_has_another_format_is_passed_over():
    stateful = framed(b"\0\7\x30\0" + bytes(8) + b"\0\1\0\x08abcdefgh")
    message, reader = read(DnsTcpParser(Options()), stateful, REQUEST)
    assert message is None
    assert reader.available == 0


def test_text_is_not_kept():
    answered = framed(reply(query(kind="TXT"), ("TXT", '"secret"')) + b"tail")
    reader = Reader(answered)
    reader.marking = True
    DnsTcpParser(Options()).parse(reader, RESPONSE, None)
    omitted = [answered[start:stop] for start, stop in reader.omitted]
    assert omitted == [b"\6secret", b"tail"]


# -- zone transfers -----------------------------------------------------------------------

SOA = b"\0\0\6\0\1\0\0\0\0\0\x16\0\0"
NEW = SOA + struct.pack("!5I", 9, 1, 1, 1, 1)
OLD = SOA + struct.pack("!5I", 5, 1, 1, 1, 1)
HOST = b"\1h\0\0\1\0\1\0\0\0\0\0\4\x0a\0\0\1"
PIECES = {"N": NEW, "O": OLD, "h": HOST}


def zone(records, number=1, *, kind=None, code=0):
    asked = b"" if kind is None else b"\0" + struct.pack("!HH", kind, 1)
    head = struct.pack("!HHHHHH", number, 0x8400 | code, bool(asked), len(records), 0, 0)
    return framed(head + asked + b"".join(PIECES[each] for each in records))


def ask(kind, number=1):
    head = struct.pack("!HHHHHH", number, 0, 1, 0, 0, 0)
    return framed(head + b"\0" + struct.pack("!HH", kind, 1))


@pytest.mark.parametrize(
    ("kind", "messages"),
    [
        (252, ["NhhN"]),
        (252, ["N", "h", "hhh", "hN"]),
        (252, ["N", "N"]),
        (251, ["N"]),
        (251, ["NhhN"]),
        (251, ["NO", "hNhN"]),
        (251, ["NOhNh", "N"]),
        (251, ["NOhOh", "OhNhh", "hhN"]),
        (252, [""]),
        (252, ["hh"]),
    ],
)
def test_transfer_ends_with_the_record_that_it_began_with(kind, messages):
    parser = DnsTcpParser(Options())
    request, _ = read(parser, ask(kind), REQUEST)
    told = []
    for index, records in enumerate(messages):
        data = zone(records, kind=kind if index == 0 else None)
        told.append(read(parser, data, RESPONSE)[0])
        assert told[-1].open is (index < len(messages) - 1)
    assert all(each is told[0] for each in told)
    assert told[0].correlation_id == request.correlation_id
    assert told[0].count == sum(map(len, messages))
    assert not parser._transfers


def test_transfer_that_is_refused_ends_at_once():
    parser = DnsTcpParser(Options())
    read(parser, ask(252), REQUEST)
    message, _ = read(parser, zone("", kind=252, code=5), RESPONSE)
    assert not message.open
    assert parser.outline(
        Exchange("dns", read(parser, ask(252), REQUEST)[0], message, Completeness.COMPLETE),
        Side.CLIENT,
        SERVER,
    ).counts == ("", "wirespan.dns.response.records")


def test_rest_of_a_transfer_that_was_given_up_is_nobodys():
    parser = DnsTcpParser(Options())
    read(parser, ask(252), REQUEST)
    message, _ = read(parser, zone("N", kind=252), RESPONSE)
    message.open = False
    rest, _ = read(parser, zone("h"), RESPONSE)
    assert rest is not message
    assert not rest.open


def test_other_answers_in_between_are_their_own():
    parser = DnsTcpParser(Options())
    read(parser, ask(252), REQUEST)
    read(parser, framed(query()), REQUEST)
    message, _ = read(parser, zone("N", kind=252), RESPONSE)
    other, _ = read(parser, framed(reply(query())), RESPONSE)
    assert other is not message
    assert read(parser, zone("N"), RESPONSE)[0] is message


def test_transfers_at_once_are_bounded():
    parser = DnsTcpParser(Options())
    for number in range(MAX_TRANSFERS + 4):
        read(parser, ask(252, number), REQUEST)
    assert len(parser._transfers) == MAX_TRANSFERS
    message, _ = read(parser, zone("N", 0, kind=252), RESPONSE)
    assert not message.open


def test_addresses_of_a_zone_are_no_answers():
    told = outline(ask(252)[2:], zone("NhN", kind=252)[2:], parser=DnsTcpParser)
    assert "dns.answers" not in told.attributes
    assert told.name == "DNS AXFR"


def test_transfer_that_does_not_begin_as_it_must_ends():
    assert Transfer().ends(decode(zone("h")[2:]))
