# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.model import ParseError
from parsers.reader import NeedMoreData, Reader
from parsers.redis_replies import MAX_DEPTH, MAX_LINE_BYTES, error_prefix, read_values

SIMPLE = [
    b"+OK\r\n",
    b"+\r\n",
    b"-ERR no\r\n",
    b":1\r\n",
    b":-12\r\n",
    b":+3\r\n",
    b"$0\r\n\r\n",
    b"$5\r\nhello\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"_\r\n",
    b"#t\r\n",
    b"#f\r\n",
    b",1.5\r\n",
    b",10\r\n",
    b",-1e10\r\n",
    b",inf\r\n",
    b",-inf\r\n",
    b",nan\r\n",
    b"(3492890328409238509324850943850943825024385\r\n",
    b"!21\r\nSYNTAX invalid syntax\r\n",
    b"=15\r\ntxt:Some string\r\n",
    b"*2\r\n:1\r\n$1\r\na\r\n",
    b"~1\r\n+a\r\n",
    b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n",
    b">2\r\n+a\r\n:1\r\n",
    b"|1\r\n+ttl\r\n:10\r\n$1\r\na\r\n",
    b"|0\r\n+a\r\n",
    b"*2\r\n:1\r\n|1\r\n+ttl\r\n:10\r\n:2\r\n",
    b"$?\r\n;4\r\nHell\r\n;1\r\no\r\n;0\r\n",
    b"*1\r\n$?\r\n;0\r\n",
    b"*?\r\n:1\r\n*1\r\n:2\r\n.\r\n",
    b"%?\r\n+a\r\n~?\r\n.\r\n.\r\n",
    b"*1\r\n" * MAX_DEPTH + b":1\r\n",
]

HOSTILE = [
    b"\r\n",
    b"hello\r\n",
    b":\r\n",
    b":a\r\n",
    b":1.5\r\n",
    b":" + b"1" * 30 + b"\r\n",
    b"$-5\r\n",
    b"$\r\n",
    b"$1_0\r\n",
    b"$+5\r\n",
    b"$99999999999999\r\n",
    b"*-5\r\n",
    b"*x\r\n",
    b"*" + b"9" * 5000 + b"\r\n",
    b"#x\r\n",
    b"#\r\n",
    b"_x\r\n",
    b",one\r\n",
    b"(1.5\r\n",
    b";4\r\nHell\r\n",
    b".\r\n",
    b"!-5\r\n",
    b"?1\r\n",
    b"x" * MAX_LINE_BYTES,
    b"+" + b"x" * MAX_LINE_BYTES,
]


def read(data, depth=1, *, marking=False):
    reader = Reader(data)
    reader.marking = marking
    stack = [1]
    return read_values(reader, stack, depth), stack, reader


@pytest.mark.parametrize("data", SIMPLE)
def test_every_type_is_passed_to_its_end(data):
    _, stack, reader = read(data + b"+next\r\n")
    assert stack == []
    assert reader.position == len(data)


@pytest.mark.parametrize("data", SIMPLE)
def test_it_comes_in_any_pieces(data):
    for step in (1, 2, 5):
        stack, rest, position = [1], b"", 0
        for at in range(0, len(data), step):
            if at + step <= position:
                continue
            rest += data[max(at, position) : at + step]
            reader = Reader(rest)
            try:
                read_values(reader, stack, 1)
            except NeedMoreData:
                continue
            position = at + step + max(-reader.available, 0)
            rest = rest[reader.position :]
        assert stack == []
        assert rest == b""


@pytest.mark.parametrize("data", HOSTILE)
def test_what_is_no_value_is_refused(data):
    with pytest.raises(ParseError):
        read(data)
    _, stack, reader = read(b"*2\r\n:1\r\n" + data)
    assert stack == [0, 1], "what came before it is passed"
    with pytest.raises(ParseError):
        read_values(reader, stack, 1)


@pytest.mark.parametrize("data", [b"+hidden\r\n", b":1\r\n", b";x\r\n", b"$1\r\na\r\n"])
def test_a_streamed_string_has_parts_only(data):
    _, stack, reader = read(b"$?\r\n" + data)
    with pytest.raises(ParseError):
        read_values(reader, stack, 1)


def test_depth_is_bounded():
    _, stack, reader = read(b"*1\r\n" * 10_000)
    assert len(stack) == MAX_DEPTH + 1
    with pytest.raises(ParseError):
        read_values(reader, stack, 1)


def test_values_need_not_be_there():
    _, stack, reader = read(b"*2\r\n$1000000\r\nabc")
    assert stack == [0, 1]
    assert reader.position == 4 + 10 + 1_000_002


@pytest.mark.parametrize(
    ("data", "depth", "prefix"),
    [
        (b"-ERR no\r\n", 1, "ERR"),
        (b"-ERR\r\n", 1, "ERR"),
        (b"-WRONGTYPE Operation\r\n", 1, "WRONGTYPE"),
        (b"-NO_SCRIPT2 x\r\n", 1, "NO_SCRIPT2"),
        (b"-my own\r\n", 1, "_OTHER"),
        (b"-\r\n", 1, "_OTHER"),
        (b"!11\r\nSYNTAX oops\r\n", 1, "SYNTAX"),
        (b"!3\r\nodd\r\n", 1, "_OTHER"),
        (b"!500\r\nLONG " + b"x" * 40, 1, "LONG"),
        (b"*1\r\n-ERR no\r\n", 1, ""),
        (b"*3\r\n+OK\r\n-ONE no\r\n-TWO no\r\n", 2, "ONE"),
        (b"*2\r\n!5\r\nONE x\r\n!5\r\nTWO x\r\n", 2, "ONE"),
        (b"*1\r\n*1\r\n-ERR no\r\n", 2, ""),
        (b"|1\r\n+a\r\n-ERR no\r\n-REAL x\r\n", 1, "REAL"),
        (b"+OK\r\n", 1, ""),
    ],
)
def test_the_first_error_that_counts_is_told(data, depth, prefix):
    assert read(data, depth)[0] == prefix


def test_a_long_error_is_told_when_enough_of_it_is_here():
    with pytest.raises(NeedMoreData):
        read(b"!500\r\nLONG")


def test_prefixes_have_an_end():
    assert error_prefix(b"A" * 32) == "A" * 32
    assert error_prefix(b"A" * 33) == "_OTHER"


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (b"$5\r\nhello\r\n", b"$5\r\n.....\r\n"),
        (b"$5\r\nhel", b"$5\r\n..."),
        (b"+OK\r\n", b"+OK\r\n"),
        (b"+secret\r\n", b"+......\r\n"),
        (b"-ERR value secret\r\n", b"-ERR ............\r\n"),
        (b"-secret\r\n", b"-......\r\n"),
        (b":42\r\n", b":00\r\n"),
        (b",4.2\r\n", b",000\r\n"),
        (b"(-42\r\n", b"(000\r\n"),
        (b"!10\r\nERR secret\r\n", b"!10\r\nERR ......\r\n"),
        (b"=8\r\ntxt:abcd\r\n", b"=8\r\n........\r\n"),
        (b"$?\r\n;2\r\nab\r\n;0\r\n", b"$?\r\n;2\r\n..\r\n;0\r\n"),
        (b"*2\r\n$1\r\na\r\n:7\r\n", b"*2\r\n$1\r\n.\r\n:0\r\n"),
    ],
)
def test_a_recording_keeps_no_values_and_reads_the_same(data, kept):
    prefix, stack, reader = read(data, marking=True)
    left = bytearray(data)
    for start, stop in reader.omitted:
        left[start:stop] = b"." * (stop - start)
    for start, substitute in reader.replaced:
        left[start : start + len(substitute)] = substitute
    assert bytes(left) == kept
    again = read(bytes(left).replace(b".", b"\xff"))
    assert (again[0], again[1], again[2].position) == (prefix, stack, reader.position)


SCALARS = st.one_of(
    st.binary(max_size=40).map(lambda v: b"$%d\r\n%s\r\n" % (len(v), v)),
    st.integers(-(2**63), 2**63 - 1).map(lambda n: b":%d\r\n" % n),
    st.floats().map(lambda n: b",%s\r\n" % repr(n).encode()),
    st.booleans().map(lambda v: b"#t\r\n" if v else b"#f\r\n"),
    st.sampled_from([b"_\r\n", b"$-1\r\n", b"*-1\r\n", b"+OK\r\n", b"-ERR x\r\n"]),
    st.lists(st.binary(min_size=1, max_size=9), max_size=4).map(
        lambda parts: (
            b"$?\r\n" + b"".join(b";%d\r\n%s\r\n" % (len(p), p) for p in parts) + b";0\r\n"
        )
    ),
)


def grown(values):
    several = st.lists(values, max_size=5)
    return st.one_of(
        st.builds(
            lambda tag, each: tag + b"%d\r\n" % len(each) + b"".join(each),
            st.sampled_from([b"*", b"~", b">"]),
            several,
        ),
        st.lists(st.tuples(values, values), max_size=3).map(
            lambda pairs: b"%%%d\r\n" % len(pairs) + b"".join(a + b for a, b in pairs)
        ),
        several.map(lambda each: b"*?\r\n" + b"".join(each) + b".\r\n"),
        st.builds(lambda key, of, value: b"|1\r\n" + key + of + value, values, values, values),
    )


@given(st.recursive(SCALARS, grown, max_leaves=12), st.lists(st.integers(1, 30), min_size=1))
def test_any_value_ends_where_it_ends_however_it_is_cut(data, cuts):
    stack, buffer, fed, skip, turn = [1], b"", 0, 0, 0
    while fed < len(data):
        piece = data[fed : fed + cuts[turn % len(cuts)]]
        fed += len(piece)
        turn += 1
        passed = min(skip, len(piece))
        skip -= passed
        buffer += piece[passed:]
        while buffer:
            reader = Reader(buffer)
            try:
                read_values(reader, stack, 1)
            except NeedMoreData:
                break
            skip = max(-reader.available, 0)
            buffer = buffer[reader.position :]
            assert stack or (not buffer and fed + skip == len(data))
    assert stack == []
    assert skip == 0


def test_time_is_linear_in_the_number_of_elements():
    def seconds(number):
        data = b"*%d\r\n" % number + b"$1\r\na\r\n" * number
        start = time.process_time()
        stack, position = [1], 0
        while stack:
            reader = Reader(data[position : position + 1400])
            read_values(reader, stack, 1)
            position += reader.position
        return time.process_time() - start

    once = min(seconds(20_000) for _ in range(3))
    assert min(seconds(80_000) for _ in range(3)) < 12 * once
