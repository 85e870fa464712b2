# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ipaddress
import string
import struct

import dns.message
import dns.name
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.dns_wire import (
    MAX_ADDRESSES,
    MAX_POINTERS,
    Content,
    ShortError,
    decode,
    looks_like_netbios,
    read_name,
    skip_name,
)
from parsers.model import ParseError

HEADER = bytes(12)
NAMES = st.lists(
    st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=63),
    min_size=1,
    max_size=3,
).map(".".join)


def question(name="shop.example.", kind="A", **options):
    return dns.message.make_query(name, kind, **options)


def answer(query, *rrsets, section="answer"):
    message = dns.message.make_response(query)
    for each in rrsets:
        getattr(message, section).append(dns.rrset.from_text(*each))
    return message


# -- whole messages -----------------------------------------------------------------------


@given(NAMES, st.sampled_from(["A", "AAAA", "TXT", "SOA"]), st.booleans())
def test_questions_are_as_another_library_writes_them(name, kind, edns):
    query = question(name + ".", kind, use_edns=0 if edns else None)
    wire = query.to_wire()
    content = decode(wire)
    assert content.name == name
    assert content.type == query.question[0].rdtype
    assert content.klass == 1
    assert content.key == (name.lower(), content.type, 1)
    assert content.end == len(wire)
    assert not content.is_response
    assert not content.cut


@given(NAMES, st.lists(st.ip_addresses(), max_size=10))
def test_addresses_are_as_another_library_writes_them(name, addresses):
    message = answer(question(name + "."))
    for address in addresses:
        kind = "A" if address.version == 4 else "AAAA"
        message.answer.append(dns.rrset.from_text(name + ".", 60, "IN", kind, str(address)))
    wire = message.to_wire(max_size=65535)
    content = decode(wire)
    assert content.is_response
    assert content.answers == len(addresses)
    told = [ipaddress.ip_address(text) for text in content.addresses]
    assert told == addresses
    assert content.end == len(wire)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_a_parse_error(data):
    for cut in (False, True):
        try:
            content = decode(data, cut=cut)
        except ParseError:
            continue
        assert content.end <= len(data)


@given(st.data())
def test_changed_messages_are_messages_or_parse_errors(data):
    soa = ("example.", 60, "IN", "SOA", "ns.example. admin.example. 7 1 1 1 1")
    wire = bytearray(
        answer(question(use_edns=0), soa, ("a.example.", 1, "IN", "A", "1.2.3.4")).to_wire()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    omitted = []
    try:
        content = decode(bytes(wire), lambda a, b: omitted.append((a, b)))
    except ParseError:
        return
    assert all(0 <= start <= stop <= len(wire) for start, stop in omitted)
    blank = bytearray(wire)
    for start, stop in omitted:
        blank[start:stop] = b"\xff" * (stop - start)
    again = decode(bytes(blank))
    assert told(again) == told(content)


def told(content):
    return {name: getattr(content, name) for name in Content.__slots__}


def test_what_is_not_used_is_omitted():
    query = question("txt.example.", "TXT", use_edns=0)
    message = answer(query, ("txt.example.", 60, "IN", "TXT", '"secret"'))
    wire = message.to_wire()
    omitted = []
    decode(wire, lambda start, stop: omitted.append(wire[start:stop]))
    assert b"".join(omitted) == b"\6secret"


def test_serial_numbers_are_read_and_the_rest_of_a_soa_is_not():
    soa = ("example.", 60, "IN", "SOA", "secret.example. admin.example. 77 1 2 3 4")
    wire = answer(question(), soa).to_wire()
    kept = bytearray(wire)

    def omit(start, stop):
        kept[start:stop] = bytes(stop - start)

    assert decode(wire, omit).serials == (77,)
    assert b"secret" not in kept


def test_addresses_are_bounded():
    texts = [f"10.0.{index // 250}.{index % 250}" for index in range(100)]
    wire = answer(question(), ("shop.example.", 60, "IN", "A", *texts)).to_wire(max_size=65535)
    content = decode(wire)
    assert len(content.addresses) == MAX_ADDRESSES
    assert content.answers == 100


def test_addresses_of_other_sections_are_no_answers():
    extra = ("ns.example.", 60, "IN", "A", "10.0.0.1")
    assert decode(answer(question(), extra, section="additional").to_wire()).addresses == ()


def test_addresses_of_a_wrong_length_are_none():
    wire = question().to_wire()
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\3abc"
    message = wire[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + wire[12:] + record
    assert decode(message).addresses == ()


def test_upper_bits_of_the_code_are_in_the_options():
    message = answer(question(use_edns=0))
    message.use_edns(0)
    message.set_rcode(23)
    assert decode(message.to_wire()).code == 23


def test_answer_without_a_question_says_what_it_is_to():
    record = b"\4host\5local\0\0\1\x80\1\0\0\0\x78\0\4\x0a\0\0\7"
    content = decode(b"\0\0\x84\0\0\0\0\1\0\0\0\0" + record)
    assert content.key == ("host.local", 1, 1)
    assert content.name == ""
    assert content.questions == 0


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no whole header"),
        (HEADER[:11], "no whole header"),
        (b"\0\0\x78\0" + bytes(8), "opcode 15"),
        (b"\0\0\x08\0" + bytes(8), "opcode 1"),
        (HEADER[:4] + b"\xff\xff" + bytes(6), "65535 questions"),
        (HEADER[:4] + b"\0\1" + bytes(6) + b"\4sho", "no whole question"),
        (HEADER[:4] + b"\0\1" + bytes(6) + b"\0\0\1\0", "no whole question"),
        (HEADER[:4] + b"\0\2" + bytes(6) + b"\0\0\1\0\1", "no whole question"),
        (HEADER[:6] + b"\0\1" + bytes(4) + b"\0\0\1\0\1", "no whole record"),
        (HEADER[:6] + b"\0\1" + bytes(4) + b"\0\0\1\0\1\0\0\0\0\0\4abc", "no whole record"),
        (HEADER[:6] + b"\0\1" + bytes(4) + b"\xc0\x0c" + bytes(10), "does not go back"),
        (HEADER[:6] + b"\0\1" + bytes(4) + b"\1a\xc0\x0c" + bytes(10), "does not go back"),
        (HEADER[:6] + b"\0\1" + bytes(4) + b"\x80" + bytes(10), "label of type 2"),
    ],
)
def test_what_is_no_message(data, why):
    with pytest.raises(ParseError, match=why):
        decode(data)


def test_end_that_was_not_captured():
    wire = answer(question(), ("shop.example.", 60, "IN", "A", "10.0.0.1", "10.0.0.2")).to_wire()
    omitted = []
    content = decode(wire[:-2], lambda *each: omitted.append(each), cut=True)
    assert content.cut
    assert len(content.addresses) == content.answers == 1
    assert omitted == [(len(wire) - 4, len(wire) - 2)]
    with pytest.raises(ShortError):
        decode(wire[:20], cut=True)


def test_truncated_answer_may_have_fewer_records_than_it_says():
    wire = bytearray(answer(question(), ("shop.example.", 60, "IN", "A", "10.0.0.1")).to_wire())
    wire[2] |= 2
    wire[7] = 9
    content = decode(bytes(wire))
    assert content.is_truncated
    assert content.answers == 1
    assert not content.cut


# -- names --------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8))
def test_names_are_escaped_so_that_they_can_be_read_back(labels):
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    text, end = read_name(HEADER + wire, 12)
    assert end == 12 + len(wire) == skip_name(HEADER + wire, 12)
    assert dns.name.from_text(text).labels == (*labels, b"")


def test_pointers_are_followed_back():
    data = HEADER + b"\7example\0\4shop\xc0\x0c\3www\xc0\x15"
    assert read_name(data, 12) == ("example", 21)
    assert read_name(data, 21) == ("shop.example", 28)
    assert read_name(data, 28) == ("www.shop.example", 34)
    assert skip_name(data, 28) == 34


@pytest.mark.parametrize(
    "name",
    [
        b"\xc0\x0c",
        b"\xc0\xff",
        b"\1a\xc0\x0c",
        b"\xc0\x00",
        b"\x40a\0",
        b"\x80a\0",
        (b"\x3f" + b"a" * 63) * 4 + b"\0",
    ],
)
def test_names_that_are_none(name):
    with pytest.raises(ParseError):
        read_name(HEADER + name, 12)


def test_chains_of_pointers_are_bounded():
    data = (
        HEADER
        + b"\1a\0\0"
        + b"".join(
            struct.pack("!H", 0xC000 | (12 if index == 0 else 14 + 2 * index))
            for index in range(MAX_POINTERS + 5)
        )
    )
    last = len(data) - 2
    with pytest.raises(ParseError, match="pointers"):
        read_name(data, last)
    assert read_name(data, 16 + 2 * 3)[0] == "a"


def test_longest_name():
    wire = b"".join(bytes([size]) + b"a" * size for size in (63, 63, 63, 61)) + b"\0"
    assert len(wire) == 255
    text, _ = read_name(HEADER + wire, 12)
    assert len(text) == 253
    assert skip_name(HEADER + wire, 12) == 12 + 255
    longer = b"".join(bytes([size]) + b"a" * size for size in (63, 63, 63, 62)) + b"\0"
    for read in (read_name, skip_name):
        with pytest.raises(ParseError, match="255"):
            read(HEADER + longer, 12)


@pytest.mark.parametrize(
    ("name", "kind", "is_netbios"),
    [
        ("CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 33, True),
        ("FHEPFCELEHFCEPFFFACACACACACACABL.SCOPE", 32, True),
        ("CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 1, False),
        ("_sip._tcp.example", 33, False),
        ("ckaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 33, False),
    ],
)
def test_netbios(name, kind, is_netbios):
    wire = dns.message.make_query(name + ".", "A").to_wire()
    wire = wire[:-4] + struct.pack("!HH", kind, 1)
    assert looks_like_netbios(decode(wire)) is is_netbios
