# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import combinations_with_replacement

import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from parsers.http2_huffman import BLANKS, _blank, decode, encode, hide
from parsers.model import ParseError

LIBRARY = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


@given(st.binary(max_size=200))
def test_what_the_library_encodes_is_decoded(text):
    assert decode(LIBRARY.encode(text)) == text


@given(st.binary(max_size=200))
def test_encodes_as_the_library_does(text):
    assert encode(text) == LIBRARY.encode(text)


@given(st.text(max_size=60))
def test_usual_text(text):
    assert decode(encode(text.encode())) == text.encode()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff\xff\xff\xff", id="the end-of-string symbol"),
        pytest.param(b"\x00", id="padding of zeros"),
        pytest.param(encode(b"a") + b"\xff", id="a byte of padding"),
        pytest.param(b"\xff\xff", id="nothing but padding"),
        pytest.param(encode(b"\n")[:-1], id="half a symbol"),
    ],
)
def test_what_is_no_huffman_string_is_refused(data):
    with pytest.raises(ParseError):
        decode(data)


def bits(text: bytes) -> int:
    return sum(REQUEST_CODES_LENGTH[each] for each in text)


@given(st.binary(max_size=60), st.data())
def test_hidden_text_has_the_same_length_in_symbols_and_in_bits(text, data):
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, len(text)))
    hidden = hide(text, [(start, stop)])
    assert (len(hidden), len(encode(hidden))) == (len(text), len(encode(text)))
    assert (hidden[:start], hidden[stop:]) == (text[:start], text[stop:])
    assert decode(encode(hidden)) == hidden
    assert set(hidden[start:stop]) <= set(BLANKS.values())


@given(st.binary(min_size=1, max_size=30), st.randoms())
def test_hidden_text_depends_on_nothing_but_lengths(text, chance):
    other = bytearray(text)
    chance.shuffle(other)
    assert hide(text, [(0, len(text))]) == hide(bytes(other), [(0, len(text))])


@pytest.mark.parametrize("count", range(1, 5))
def test_every_sum_of_lengths_is_met(count):
    lengths = sorted(set(REQUEST_CODES_LENGTH))
    for chosen in combinations_with_replacement(lengths, count):
        blank = _blank(count, sum(chosen))
        assert (len(blank), bits(blank)) == (count, sum(chosen))


def test_stand_ins_end_no_part_of_a_url():
    assert not set(BLANKS.values()) & set(b'/?#&;@=:," \t\r\n')
    assert sorted(BLANKS) == sorted(set(REQUEST_CODES_LENGTH))
    assert all(REQUEST_CODES_LENGTH[symbol] == length for length, symbol in BLANKS.items())


def test_several_secrets():
    text = b"a=secret&b=1&c=hunter2"
    hidden = hide(text, [(2, 8), (15, 22)])
    assert hidden[:2] == b"a="
    assert hidden[8:15] == b"&b=1&c="
    assert b"secret" not in hidden
    assert b"hunter2" not in hidden
