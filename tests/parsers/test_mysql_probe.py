# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
import struct

import pytest

from parsers.model import Likeness
from parsers.mysql_probe import probe_request, probe_response
from tests.parsers.mysql_bytes import (
    CAPABILITIES,
    command,
    definition,
    eof,
    error,
    execute,
    greeting,
    login,
    ok,
    packet,
    prepared,
    query,
    rows,
)

NO, SHORT, LIKELY, CERTAIN = Likeness

REQUESTS = [
    (b"", SHORT),
    (b"\x09", SHORT),
    (b"\x09\0\0", SHORT),
    (b"\0\0\0", NO),
    (b"\x09\0\0\0", SHORT),
    (b"\x09\0\0\0\3", SHORT),
    (b"\x09\0\0\0\3SEL", SHORT),
    (b"\xff\xff\xff\0\3INSERT INTO t", CERTAIN),
    (query(b"SELECT 1"), CERTAIN),
    (query(b"  (select 1)"), CERTAIN),
    (query(b"select 1\0"), CERTAIN),
    (query(b"select\0 1"), NO),
    (query(b"\0\0\0"), NO),
    (query(b"/* a */ -- b\n# c\nselect 1"), CERTAIN),
    (packet(0, b"\3/* " + b"a" * 500)[:40], SHORT),
    (query(b"hello there"), NO),
    (query(b"SELECTION 1"), NO),
    (query(b"SELECT \1"), NO),
    (query(b"x"), NO),
    (query(b"\0\1SELECT 1"), CERTAIN),
    (query(b"\0\1"), NO),
    (query(b"\0\1SELECT 1")[:7], SHORT),
    (query(b"\0\1\0\1"), NO),
    (query(b"\1\1\0\1\x08\0\1nxxxxxxxxSELECT 1"), LIKELY),
    (query(b"\1\1\0\0\x08\0\1nxxxxxxxxSELECT 1"), NO),
    (query(b"\1\1"), NO),
    (query(b"\1\1\0\1\x08\0\1nxxxxxxxxSELECT 1")[:7], SHORT),
    (query(b"\xfb\1\0\1"), NO),
    (query(b"SELECT 1") + query(b"SELECT 2"), CERTAIN),
    (query(b"SELECT 1") + b"\1\0", CERTAIN),
    (query(b"SELECT 1") + packet(1, b"\3SELECT 2"), NO),
    (query(b"SELECT 1") + b"garbage", NO),
    (query(b"SELECT 1") * 9, CERTAIN),
    (command(0x16, b"SELECT ?"), CERTAIN),
    (command(0x0E), LIKELY),
    (command(0x0E, b"x"), NO),
    (command(0x0E) + command(1), LIKELY),
    (command(0x0F), NO),
    (command(0x55), NO),
    (command(2, b"shop"), LIKELY),
    (command(2, b"shop\1"), NO),
    (command(2, b"shop")[:6], SHORT),
    (execute(1, b"values"), LIKELY),
    (execute(1)[:9], SHORT),
    (execute(1)[:12], SHORT),
    (command(0x17, struct.pack("<IBI", 1, 0, 2)), NO),
    (command(0xFA, struct.pack("<IH", 1, 128) + b"x"), LIKELY),
    (command(0xFA, struct.pack("<IH", 1, 1) + b"x"), NO),
    (command(0x18, bytes(100))[:9], NO),
    (login(), CERTAIN),
    (login()[:3], SHORT),
    (login()[:30], SHORT),
    (login() + b"x", NO),
    (login(capabilities=0x200)[:36], CERTAIN),
    (login(capabilities=0), NO),
    (packet(1, bytes(31)), NO),
    (packet(1, struct.pack("<IIB23x", 0xA00, 1, 45)), CERTAIN),
    (packet(1, struct.pack("<IIB23x", 0x200, 1, 45)), NO),
    (packet(1, struct.pack("<IIB23s", 0x200, 1, 45, b"x" * 23) + bytes(9)), NO),
    (packet(1, struct.pack("<IIB23s", 0x200, 1, 45, b"x" * 23) + bytes(9))[:30], NO),
    (login(sequence=2), CERTAIN),
    (login(sequence=2)[:4], SHORT),
    (login(sequence=2)[:30], SHORT),
    (login(sequence=2, capabilities=CAPABILITIES | 0x800)[:36], CERTAIN),
    (login(sequence=2) + b"x", NO),
    (login(sequence=2, capabilities=CAPABILITIES & ~0x8000), NO),
    (login(sequence=2, capabilities=CAPABILITIES & ~0x200), NO),
    (login(sequence=2)[:28] + b"x" + login(sequence=2)[29:], NO),
    (packet(2, struct.pack("<IIB23x", CAPABILITIES | 0x800, 1, 45)), NO),
    (packet(2, bytes(40)), NO),
    (packet(2, login()[4:] + bytes(70_000)), NO),
    (query(b"SELECT 1") + login(sequence=2), NO),
    (login(sequence=3), NO),
    (packet(2, b"\3SELECT 1"), NO),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60), NO),
    (b"\x16\x03\x01\x00\x03\x01\x00\x01\xfc\x03\x03SELECT", NO),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\4", NO),
    (b"GET / HTTP/1.1\r\n", NO),
    (bytes(20), NO),
    (struct.pack("<IIII", 58, 3, 0, 2013) + bytes(42), NO),
    (struct.pack("<IIII", 58, 23, 0, 2013) + bytes(42), NO),
    (struct.pack(">IHHI", 26, 18, 3, 1) + bytes(18), NO),
    (b'{"query": "SELECT 1"}\n', NO),
]
RESPONSES = [
    (b"", SHORT),
    (b"\x4a\0", SHORT),
    (b"\0\0\0", NO),
    (b"\0\0\0\1\0", NO),
    (greeting(), CERTAIN),
    (greeting(b"5.5.5-10.11.6-MariaDB"), CERTAIN),
    (greeting()[:8], SHORT),
    (greeting()[:20], SHORT),
    (greeting()[:40], SHORT),
    (greeting() + b"x", NO),
    (greeting(b"no number"), NO),
    (greeting(b"8.0\x7f"), NO),
    (greeting(b"8" * 300), NO),
    (greeting().replace(b"SALTSALT\0", b"SALTSALT\1"), NO),
    (packet(0, b"\x0a" + b"x" * 40)[:9], SHORT),
    (packet(0, b"\x0b8.0\0" + bytes(40)), NO),
    (packet(0, b"\x0a8.0\0" + bytes(4)), NO),
    (error(0, 1040, b"#08004"), CERTAIN),
    (error(0, 1129, b""), LIKELY),
    (error(1, 1129, b""), NO),
    (error(1), CERTAIN),
    (error(1)[:6], SHORT),
    (error(1)[:10], SHORT),
    (error(1)[:20], LIKELY),
    (error(1) + b"x", NO),
    (error(1, 99), NO),
    (error(1, 1064, b"#\x01\x02\x03\x04\x05"), NO),
    (packet(1, b"\xff\xff\xff\1\1\3\0\0\0"), LIKELY),
    (packet(0, b"\xff\xff\xff\1\1\3\0\0\0"), NO),
    (packet(1, b"\xff\1"), NO),
    (ok(), LIKELY),
    (ok()[:7], SHORT),
    (ok(rest=b"Rows matched: 1"), LIKELY),
    (packet(1, bytes(7)), SHORT),
    (packet(1, bytes(4)), SHORT),
    (b"\0\0\2\1\0", NO),
    (b"\0\0\2\1" + bytes(9), NO),
    (prepared(1, 0, 0), LIKELY),
    (prepared(1, 1, 1), LIKELY),
    (packet(1, bytes(100))[:40], SHORT),
    (packet(1, b"\0\0\1a") + packet(2, b"\0\0\1b") + eof(3), LIKELY),
    (packet(1, b"\0\0\1a") + packet(3, b"\0\0\1b"), NO),
    (packet(1, b"\0\0\1a") + b"\1", SHORT),
    (eof(1), LIKELY),
    (eof(1)[:7], NO),
    (packet(2, b"\xfesome_plugin\0"), NO),
    (packet(1, b"\xfb/tmp/a.csv"), LIKELY),
    (packet(1, b"\xfb"), NO),
    (definition(1), LIKELY),
    (definition(1)[:6], SHORT),
    (packet(1, b"\3dex" + bytes(30)), NO),
    (packet(1, b"Uptime: 12  Threads: 1  Questions: 3"), LIKELY),
    (packet(1, b"Updated"), NO),
    (rows(3), CERTAIN),
    (rows(3, deprecated=True), CERTAIN),
    (rows(3)[:5], SHORT),
    (rows(3)[:7], SHORT),
    (rows(3)[:10], SHORT),
    (packet(1, b"\xfc\1\1") + definition(2), CERTAIN),
    (packet(1, b"\xfc\1\1")[:5], SHORT),
    (packet(1, b"\xfd\1\1\1"), NO),
    (packet(1, b"\xfc\1"), NO),
    (packet(1, b"\1\2"), NO),
    (packet(1, b"\1\1\1"), NO),
    (packet(1, b"\1\1") + definition(2), CERTAIN),
    (packet(1, b"\1\0") + packet(2, b"\1a") + ok(3, head=0xFE), LIKELY),
    (packet(1, b"\1") + definition(3), NO),
    (packet(1, b"\1") + packet(2, b"other"), NO),
    (packet(1, b"hello"), NO),
    (b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x64\0\4\0\0\xff\xff", NO),
    (b"HTTP/1.1 200 OK\r\n", NO),
    (b"+OK\r\n", NO),
    (b"SSH-2.0-OpenSSH\r\n", NO),
    (b"220 mail ESMTP\r\n", NO),
    (b"VALUE a 0 5\r\nhello\r\nEND\r\n", NO),
    (b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03", NO),
    (struct.pack(">II", 32, 1) + bytes(28), NO),
]


@pytest.mark.parametrize(("head", "likeness"), REQUESTS)
def test_requests(head, likeness):
    assert probe_request(head) is likeness


@pytest.mark.parametrize(("head", "likeness"), RESPONSES)
def test_responses(head, likeness):
    assert probe_response(head) is likeness


def test_what_is_certain_was_never_refused_before():
    for probe, table in ((probe_request, REQUESTS), (probe_response, RESPONSES)):
        for head, likeness in table:
            if likeness is CERTAIN:
                assert all(probe(head[:size]) is not NO for size in range(len(head)))


def test_random_bytes_are_neither():
    random_ = random.Random(7)
    for _ in range(20_000):
        head = random_.randbytes(random_.randrange(5, 60))
        assert probe_request(head) <= SHORT
        assert probe_response(head) <= SHORT
