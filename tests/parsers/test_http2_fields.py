# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from parsers import http2_fields
from parsers.http2_fields import (
    MAX_FIELDS,
    MAX_LIST_CHARS,
    MAX_TABLE_BYTES,
    READ_FIELDS,
    Decoder,
)
from parsers.http2_huffman import decode, encode
from parsers.model import ParseError
from tests.parsers.http2_bytes import indexed, integer, literal

NAMES = st.sampled_from([*sorted(READ_FIELDS), "cookie", "authorization", "x-a", "accept", "via"])
VALUES = st.one_of(
    st.sampled_from(["", "GET", "200", "/", "a", "secret"]),
    # Behind a `@` would stand a host, and before it a secret.
    st.text(st.characters(exclude_characters="@=", exclude_categories=["Cs"]), max_size=40),
    st.just("x" * 90),
)
BLOCKS = st.lists(st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=8), max_size=12)
"""Fields, and whether each is never to be inserted."""


def first_of_each(fields: list[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in fields:
        if name in http2_fields.LISTS and name in found:
            found[name] += ", " + value
        elif name in READ_FIELDS:
            found.setdefault(name, value)
    return found


@settings(deadline=None)
@given(BLOCKS, st.lists(st.sampled_from([0, 40, 100, 300, 4096, 60000])), st.booleans())
def test_all_that_an_encoder_says_is_understood(blocks, sizes, huffman):
    encoder = Encoder()
    decoder = Decoder()
    marking = Decoder()
    for number, block in enumerate(blocks):
        if number < len(sizes):
            encoder.header_table_size = sizes[number]
        fields = [(name, value) for name, value, _ in block]
        data = encoder.encode([(n, v, never) for n, v, never in block], huffman=huffman)
        for each in (decoder, marking):
            found = each.read(data, marking=each is marking)
            assert found.fields == first_of_each(fields)
            assert not found.partial
    # The same table, to the byte.
    table = encoder.header_table
    assert decoder._size == table._current_size
    assert len(decoder._entries) == len(table.dynamic_entries)


@settings(deadline=None)
@given(BLOCKS, st.integers(0, 11), st.lists(st.sampled_from([0, 100, 300, 4096, 60000])))
def test_a_listener_who_came_late_says_nothing_wrong(blocks, missed, sizes):
    encoder = Encoder()
    decoder = Decoder()
    decoder.forget()
    for number, block in enumerate(blocks):
        if number < len(sizes):
            encoder.header_table_size = sizes[number]
        data = encoder.encode([(n, v, never) for n, v, never in block])
        if number < missed:
            continue
        truth = [(name, value) for name, value, _ in block]
        found = decoder.read(data)
        if not found.partial:
            assert found.fields == first_of_each(truth)
        for name, value in found.fields.items():
            if name in http2_fields.LISTS:
                assert set(value.split(", ")) <= {
                    p for n, v in truth if n == name for p in v.split(", ")
                }
            else:
                assert (name, value) in truth


@settings(deadline=None)
@given(BLOCKS, st.booleans())
def test_blanked_blocks_say_the_same_and_hide_what_is_not_read(blocks, huffman):
    encoder = Encoder()
    decoder, again = Decoder(), Decoder()
    for block in blocks:
        fields = [(name, "sEcReT" if name not in READ_FIELDS else v, n) for name, v, n in block]
        data = encoder.encode(fields, huffman=huffman)
        found = decoder.read(data, marking=True)
        kept = bytearray(data)
        for start, stop, substitute in found.marks:
            kept[start:stop] = substitute or b"\xff" * (stop - start)
        assert b"sEcReT" not in kept
        assert encode(b"sEcReT") not in kept
        replayed = again.read(bytes(kept))
        assert replayed.fields == found.fields
    assert decoder._size == again._size


def test_an_index_counts_from_the_newest():
    decoder = Decoder()
    decoder.forget()
    found = decoder.read(indexed(62))
    assert (found.fields, found.partial) == ({}, True)
    decoder.read(literal(b":path", b"/one", 0x40))
    decoder.read(literal(b":path", b"/two", 0x40))
    assert decoder.read(indexed(62)).fields == {":path": "/two"}
    assert decoder.read(indexed(63)).fields == {":path": "/one"}
    assert decoder.read(indexed(64)).partial


def test_a_name_inserted_before_stays_unknown_with_any_value():
    decoder = Decoder()
    decoder.forget()
    found = decoder.read(b"\x7e\x03abc")
    assert (found.fields, found.partial) == ({}, True)
    assert decoder.read(indexed(62)).partial
    assert decoder.read(indexed(62)).fields == {}


def test_what_is_forgotten_is_unknown():
    decoder = Decoder()
    decoder.read(literal(b":path", b"/one", 0x40))
    decoder.forget()
    assert decoder.read(indexed(62)).partial


def test_tables_with_one_history_share_what_is_kept():
    block = literal(b":path", b"/shared", 0x40)
    one, other = Decoder(), Decoder()
    assert one.read(block) is other.read(block)
    assert one.read(indexed(62)) is other.read(indexed(62))
    one.read(literal(b":path", b"/else", 0x40))
    assert one.read(indexed(62)).fields == {":path": "/else"}
    assert other.read(indexed(62)).fields == {":path": "/shared"}


def test_an_entry_larger_than_the_table_empties_it():
    decoder = Decoder()
    decoder.read(literal(b":path", b"/one", 0x40))
    decoder.read(b"\x3f\x21" + literal(b"x-large", b"y" * 100, 0x40))
    assert decoder._size == 0
    assert decoder.read(indexed(62)).partial


def test_a_table_is_bounded_whatever_its_encoder_chooses():
    decoder = Decoder()
    decoder.read(integer(1 << 30, 5, 0x20))
    for number in range(2000):
        decoder.read(literal(b"x", b"%d" % number + b"y" * 100, 0x40))
    assert decoder._size <= MAX_TABLE_BYTES


def test_a_size_update_stands_first():
    Decoder().read(b"\x20\x3f\x21" + indexed(2))
    for before in (indexed(2), literal(b"x", b"y", 0x40), literal(b"x", b"y")):
        with pytest.raises(ParseError, match="size update"):
            Decoder().read(before + b"\x20")


def test_lists_are_joined_within_bounds():
    decoder = Decoder()
    decoder.read(literal(b"x-forwarded-for", b"a" * 1000, 0x40))
    found = decoder.read(indexed(62) * MAX_FIELDS)
    assert len(found.fields["x-forwarded-for"]) <= MAX_LIST_CHARS + 1002


def test_large_blocks_and_strings_are_not_kept():
    path = b"/" + b"a" * 5000
    decoder = Decoder()
    block = b"\x04" + integer(len(encode(path)), 7, 0x80) + encode(path)
    assert decoder.read(block).fields == {":path": path.decode()}
    assert decoder.read(block) is not decoder.read(block)
    name = encode(b"n" * 5000)
    decoder.read(b"\x00" + integer(len(name), 7, 0x80) + name + b"\x01v")
    assert len(decoder._entries) == 0


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"\x80", "index 0"),
        (b"\xff", "ends inside a field"),
        (b"\xff\xff", "ends inside a field"),
        (b"\x00", "ends inside a field"),
        (b"\x00\x05ab", "ends inside a string"),
        (b"\x04\x02/", "ends inside a string"),
        (b"\x04", "ends inside a field"),
        (b"\xff" * 5 + b"\x80\x01", "31 bits"),
        (b"\xff\x80\x80\x80\x80\x7f", "31 bits"),
        (b"\x7f\x80\x80\x80\x80\x80\x80", "31 bits"),
        (b"\x82" * (MAX_FIELDS + 1), "fields"),
        (b"\x04\x84\xff\xff\xff\xff", "end of string"),
        (b"\x40\x84\xff\xff\xff\xff\x01a", "end of string"),
        (b"\x40\x01x\x81\x00", "without its end"),
    ],
)
def test_what_is_no_block_is_refused(block, reason):
    with pytest.raises(ParseError, match=reason):
        Decoder().read(block)


def test_five_bytes_of_an_integer_are_enough_for_31_bits():
    decoder = Decoder()
    assert decoder.read(integer((1 << 31) - 1, 7, 0x80)).partial


SECRETS = [
    (literal(b"authorization", b"Bearer x"), [b"Bearer x"]),
    (literal(b":path", b"/a?token=abc&b=1"), [b"abc"]),
    (literal(b":path", b"/a?b=1"), []),
    (literal(b":authority", b"user:pass@example.com"), [b"user:pass"]),
    (literal(b"host", b"user:pass@example.com"), [b"user:pass"]),
    (literal(b":authority", b"example.com"), []),
    (literal(b"user-agent", b"curl"), []),
    (indexed(2), []),
]


@pytest.mark.parametrize(("block", "secrets"), SECRETS)
def test_plain_secrets_are_left_out(block, secrets):
    found = Decoder().read(block, marking=True)
    assert [block[a:b] for a, b, _ in found.marks] == secrets
    assert not any(substitute for _, _, substitute in found.marks)
    assert not Decoder().read(block).marks


def test_coded_secrets_are_written_over():
    text = b"/a?token=abcdef&b=1"
    raw = encode(text)
    block = b"\x04" + integer(len(raw), 7, 0x80) + raw
    ((start, stop, substitute),) = Decoder().read(block, marking=True).marks
    assert block[start:stop] == raw
    assert len(substitute) == len(raw)
    hidden = decode(substitute)
    assert hidden.startswith(b"/a?token=")
    assert hidden.endswith(b"&b=1")
    assert b"abcdef" not in hidden
    assert len(hidden) == len(text)


def test_a_value_that_nobody_reads_may_be_anything():
    block = b"\x00\x01x\x84\xff\xff\xff\xff"
    assert Decoder().read(block).fields == {}
    found = Decoder().read(block, marking=True)
    assert found.marks == [(4, 8, b"")]
