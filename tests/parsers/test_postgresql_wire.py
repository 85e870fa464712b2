# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers.model import ParseError
from parsers.postgresql_wire import MAX_MESSAGE_BYTES, header
from parsers.reader import NeedMoreData, Reader


def test_a_length_counts_itself_and_not_the_tag():
    reader = Reader(b"xxQ\0\0\0\x09abcde")
    reader.position = 2
    assert header(reader) == (ord("Q"), 12)
    assert reader.position == 7


@pytest.mark.parametrize("size", [0, 3, MAX_MESSAGE_BYTES + 1, 0xFFFFFFFF])
def test_no_message_is_as_short_or_as_long(size):
    with pytest.raises(ParseError):
        header(Reader(b"Q" + size.to_bytes(4, "big")))


def test_half_a_header():
    with pytest.raises(NeedMoreData):
        header(Reader(b"Q\0\0\0"))
