# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from parsers.model import Kind, Likeness, Options
from parsers.redis import RedisParser
from parsers.redis_probe import probe_request, probe_response

NO, SHORT, LIKELY, CERTAIN = Likeness

REQUESTS = [
    (b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", CERTAIN),
    (b"*2\r\n$3\r\nget\r\n", CERTAIN),
    (b"*2\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n", CERTAIN),
    (b"*1\r\n$9\r\nFT.SEARCH\r\n", LIKELY),
    (b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n", CERTAIN),
    (b"*1\r\n$4\r\nPING\r\nGET a\r\n", CERTAIN),
    (b"*1\r\n$4\r\nPING\r\n\r\n", CERTAIN),
    (b"*1\r\n$4\r\nPING\r\nhowdy", NO),
    (b"*1\r\n$4\r\nPING\r\n+OK\r\n", NO),
    (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\n\xff\xff", CERTAIN),
    (b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", NO),
    (b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n", NO),
    (b"*3\r\n$10\r\ninvalidate\r\n", NO),
    (b"*40\r\n$3\r\nDEL\r\n" + b"$1\r\na\r\n" * 39 + b"x", CERTAIN),
    (b"*2\r\n$3\r\nGET\r\n:1\r\n", NO),
    (b"*2\r\n$3\r\nGET\r\n$?\r\n", NO),
    (b"*2\r\n$3\r\nGETA", NO),
    (b"*1\r\n$0\r\n\r\n", NO),
    (b"*1\r\n$3\r\nG T\r\n", NO),
    (b"*1\r\n$40\r\n" + b"x" * 40, NO),
    (b"*0\r\n", NO),
    (b"*-1\r\n", NO),
    (b"*9999999\r\n", NO),
    (b"*999999999\r\n", NO),
    (b"*?\r\n", NO),
    (b"* OK IMAP4rev1\r\n", NO),
    (b"*x", NO),
    (b"*", SHORT),
    (b"*2\r\n$3", SHORT),
    (b"*2\r\n$3\r\nGE", SHORT),
    (b"GET key\r\n", LIKELY),
    (b"set key value\r\n", LIKELY),
    (b"GET key\n", LIKELY),
    (b"PING\r\n", SHORT),
    (b"QUIT\r\n", SHORT),
    (b"AUTH PLAIN\r\n", SHORT),
    (b"PING\r\nGET a\r\n", LIKELY),
    (b"PING\r\nPONG\r\n", NO),
    (b"PONG\r\n", NO),
    (b"GE", SHORT),
    (b"GET", SHORT),
    (b"GET ke", SHORT),
    (b"GETA ke", NO),
    (b"HELO", NO),
    (b"GET / HTTP/1.1\r\n", NO),
    (b"CONNECT {}\r\n", NO),
    (b'INFO {"server_id":"a"}\r\n', NO),
    (b"PUB foo 5\r\n", NO),
    (b"USER ada\r\n", NO),
    (b"TYPE I\x00\r\n", NO),
    (b"TIME flies like an arrow\n", NO),
    (b"set " + b"a " * 20 + b"\n", NO),
    (b"set k " + b"x" * 2000, NO),
    (b"\r\n", NO),
    (b"", SHORT),
    (b"\x16\x03\x01\x02\x00", NO),
    (b"SSH-2.0-OpenSSH\r\n", NO),
    (b'{"GET": 1}\r\n', NO),
]

RESPONSES = [
    (b"+OK\r\n", LIKELY),
    (b"+PONG\r\n", CERTAIN),
    (b"+OK\r\n+PONG\r\n", CERTAIN),
    (b"+OK\r\n$1\r\na\r\n:1\r\n", LIKELY),
    (b"+OK\r\n+OK POP3\r\n", NO),
    (b"+OK POP3 ready\r\n", NO),
    (b"+OK POP3", NO),
    (b"+", SHORT),
    (b"+O", SHORT),
    (b"+OK\r", SHORT),
    (b"+OX", NO),
    (b'+1700000000.123456 [0 lua] "GET"\r\n', LIKELY),
    (b"+17000", SHORT),
    (b"+1700000000.1", SHORT),
    (b"+1 agreed\r\n", NO),
    (b"+FULLRESYNC " + b"0" * 40 + b" 1\r\n", LIKELY),
    (b"+Background saving started\r\n", LIKELY),
    (b"+Background " + b"x" * 200, NO),
    (b"-ERR no\r\n", LIKELY),
    (b"-ERR\r\n", LIKELY),
    (b"-MOVED 1 a:1\r\n", LIKELY),
    (b"-ERR 'Unknown Protocol Operation'\r\n", NO),
    (b"- one\r\n", NO),
    (b"-----BEGIN", NO),
    (b"-", SHORT),
    (b"-ER", SHORT),
    (b"-ERR ", SHORT),
    (b":1\r\n", LIKELY),
    (b":\r\n", NO),
    (b":", SHORT),
    (b":1", SHORT),
    (b":irc.example.com NOTICE\r\n", NO),
    (b"$5\r\nhello\r\n", LIKELY),
    (b"$5\r\nhello\r\nworld\r\n", NO),
    (b"$-1\r\n", LIKELY),
    (b"$-", SHORT),
    (b"$?\r\n;1\r\n", LIKELY),
    (b"$5", SHORT),
    (b"$ ls\r\n", NO),
    (b"_\r\n", LIKELY),
    (b"#t\r\n", LIKELY),
    (b"# Server\r\n", NO),
    (b",1.5\r\n", LIKELY),
    (b"(12\r\n", LIKELY),
    (b"!5\r\nERR x\r\n", LIKELY),
    (b"=5\r\ntxt:a\r\n", LIKELY),
    (b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", LIKELY),
    (b"*0\r\n", LIKELY),
    (b"*-1\r\n", LIKELY),
    (b"*?\r\n:1\r\n", LIKELY),
    (b"*1\r\n*1\r\n:1\r\n", LIKELY),
    (b"*1\r\n*1\r\n", LIKELY),
    (b"*1\r\n*1\r\nx\r\n", NO),
    (b"*1\r\n" * 40, NO),
    (b"*1\r\nhello\r\n", NO),
    (b"%1\r\n+OK\r\n", LIKELY),
    (b">3\r\n$7\r\nmessage\r\n", LIKELY),
    (b"*3\r\n$9\r\nsubscribe\r\n", LIKELY),
    (b"*3\r\n$8\r\nREPLCONF\r\n", SHORT),
    (b"*3\r\n$3\r\nSET\r\n", NO),
    (b"* OK IMAP4rev1\r\n", NO),
    (b"*", SHORT),
    (b"*1", SHORT),
    (b"", SHORT),
    (b"INFO {}\r\n", NO),
    (b"HTTP/1.1 200 OK\r\n", NO),
    (b"220 mail\r\n", NO),
    (b"VALUE a 0 1\r\n", NO),
    (b"STORED\r\n", NO),
    (b"\x15\x03\x03\x00\x02", NO),
    (b"[1, 2]\r\n", NO),
]


@pytest.mark.parametrize(("head", "likeness"), REQUESTS)
def test_requests(head, likeness):
    assert probe_request(head) is likeness


@pytest.mark.parametrize(("head", "likeness"), RESPONSES)
def test_responses(head, likeness):
    assert probe_response(head) is likeness


@pytest.mark.parametrize(("head", "likeness"), REQUESTS)
def test_less_of_a_request_is_no_objection(head, likeness):
    if likeness is not NO:
        for size in range(len(head)):
            assert probe_request(head[:size]) is not NO, head[:size]


@pytest.mark.parametrize(("head", "likeness"), RESPONSES)
def test_less_of_a_response_is_no_objection(head, likeness):
    if likeness is not NO:
        for size in range(len(head)):
            assert probe_response(head[:size]) is not NO, head[:size]


def test_the_parser_asks_for_its_direction():
    parser = RedisParser(Options())
    assert parser.probe(b"", Kind.REQUEST) is SHORT
    assert parser.probe(b"*1\r\n$4\r\nPING\r\n", Kind.REQUEST) is CERTAIN
    assert parser.probe(b"*1\r\n$4\r\nPING\r\n", Kind.RESPONSE) is NO
    assert parser.probe(b"+PONG\r\n", Kind.RESPONSE) is CERTAIN
