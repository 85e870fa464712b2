# SPDX-License-Identifier: Apache-2.0
"""Microseconds that sessions and parsers take, and whether they grow as they should.

    python tests/parsers/bench_parsers.py

Prints CPU time for each exchange, the best of some rounds. It fails where twice the input
takes much more than twice the time, never because a machine is slow.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from parsers.datagrams import DatagramSession
from parsers.detection import TURN_START
from parsers.model import Endpoint, Options, Side, Transport
from parsers.registry import Registry
from parsers.session import Session
from parsers.tally import Tally
from tests.parsers import bench_protocols

ROUNDS = 5
SNAPLEN = 4096
GROWTH = 3.0
"""Time of twice the input over that of the input: 2 is linear, 4 quadratic."""

SERVER = Endpoint("10.0.0.1", 80)
Transfer = tuple[int, int, bytes]
"""Direction, size, payload."""

REQUEST = (
    b"GET /api/v1/items/%d?page=1 HTTP/1.1\r\nHost: shop.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: application/json\r\n"
    b"Accept-Encoding: gzip, deflate\r\nCookie: session=0123456789abcdef\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n"
)


def whole(direction: int, data: bytes) -> Transfer:
    return direction, len(data), data[:SNAPLEN]


def repeated(count: int) -> Iterator[Transfer]:
    """Heads that were seen before."""
    for _ in range(count):
        yield whole(0, REQUEST % 1)
        yield whole(1, RESPONSE % 12 + b"hello world\n")


def unique(count: int) -> Iterator[Transfer]:
    """No two heads are the same."""
    for number in range(count):
        yield whole(0, REQUEST % number)
        yield whole(1, RESPONSE % (100_000 + number) + bytes(100_000 + number))


def pipelined(count: int) -> Iterator[Transfer]:
    """Ten at a time."""
    for _ in range(count // 10):
        yield whole(0, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 10)
        yield whole(1, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" * 10)


def chunked(count: int) -> Iterator[Transfer]:
    """Responses of four chunks in three transfers."""
    for _ in range(count):
        yield whole(0, REQUEST % 1)
        yield whole(1, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        yield whole(1, b"5\r\nhello\r\n5\r\nhello\r\n")
        yield whole(1, b"400\r\n" + bytes(1024) + b"\r\n0\r\n\r\n")


def large(count: int) -> Iterator[Transfer]:
    """Bodies of 1 MiB in transfers of 64 KiB."""
    for _ in range(count):
        yield whole(0, REQUEST % 1)
        yield whole(1, RESPONSE % (1 << 20))
        for _ in range(16):
            yield 1, 65536, bytes(SNAPLEN)


def lossy(count: int) -> Iterator[Transfer]:
    """Every tenth response is not captured."""
    for number in range(count):
        yield whole(0, REQUEST % 1)
        if number % 10:
            yield whole(1, RESPONSE % 0)
        else:
            yield 1, 300, b""


def bytewise_head(size: int) -> Iterator[Transfer]:
    """One head of `size` bytes, byte by byte."""
    head = b"GET / HTTP/1.1\r\nX: " + b"a" * size
    for at in range(len(head)):
        yield 0, 1, head[at : at + 1]


def bytewise_lines(size: int) -> Iterator[Transfer]:
    """Lines that never end a head, a few bytes at a time."""
    yield whole(0, b"GET / HTTP/1.1\r\n")
    for _ in range(size // 4):
        yield 0, 4, b"a:\r\n"


def empty_lines(size: int) -> Iterator[Transfer]:
    yield whole(0, REQUEST % 1)
    for _ in range(size // 100):
        yield 0, 100, b"\r\n" * 50


def tiny_chunks(size: int) -> Iterator[Transfer]:
    yield whole(0, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(size // 4096):
        yield whole(0, b"1\r\na\r\n" * 682)


def many_fields(size: int) -> Iterator[Transfer]:
    yield whole(0, REQUEST % 1)
    yield whole(1, RESPONSE % 0)
    for number in range(size // 4000):
        yield whole(0, b"GET /%d HTTP/1.1\r\n" % number + b"Host: a\r\n" * 440 + b"\r\n")


def hostile_lines(size: int) -> Iterator[Transfer]:
    """First lines that almost are one."""
    yield whole(0, REQUEST % 1)
    yield whole(1, RESPONSE % 0)
    for _ in range(size // 4000):
        yield whole(0, b"GET /" + b"HTTP/1." * 570 + b"\n")
        yield whole(1, RESPONSE % 0)


def unanswered(size: int) -> Iterator[Transfer]:
    """Requests that nobody answers."""
    for _ in range(size // 200):
        yield whole(0, REQUEST % 1)


PARSERS = {each.name: each for each in reversed(Registry.load().parsers.values())}
TYPICAL: dict[str, tuple[str, Callable[[int], Iterator[Transfer]], int]] = {
    "http repeated heads": ("http", repeated, 20_000),
    "http unique heads": ("http", unique, 4_000),
    "http pipelined by ten": ("http", pipelined, 20_000),
    "http chunked": ("http", chunked, 10_000),
    "http 1 MiB bodies": ("http", large, 2_000),
    "http lossy": ("http", lossy, 10_000),
}
WORST: dict[str, tuple[str, Callable[[int], Iterator[Transfer]], int]] = {
    "http byte by byte head": ("http", bytewise_head, 20_000),
    "http lines without end": ("http", bytewise_lines, 60_000),
    "http empty lines": ("http", empty_lines, 2_000_000),
    "http tiny chunks": ("http", tiny_chunks, 400_000),
    "http many fields": ("http", many_fields, 400_000),
    "http almost first lines": ("http", hostile_lines, 400_000),
    "http unanswered": ("http", unanswered, 2_000_000),
}
TYPICAL |= bench_protocols.TYPICAL
WORST |= bench_protocols.WORST


def laid_out(make: Callable[[int], Iterator[Transfer]], count: int) -> list[tuple]:
    """Arguments for `Session.feed`, so that only sessions are measured."""
    calls = []
    positions = [0, 0]
    turn = last = -1
    for number, (direction, size, data) in enumerate(make(count)):
        turn += direction != last
        flags = TURN_START if direction != last else 0
        last = direction
        # Payload is a new object each time, as it is when cut out of a chunk.
        copy = bytes(bytearray(data))
        calls.append((direction, number * 1000, positions[direction], size, copy, turn + 1, flags))
        positions[direction] = (positions[direction] + size) % 2**32
    return calls


def seconds(protocol: str, calls: list[tuple]) -> tuple[float, int]:
    """CPU time of a session that is fed `calls`, and the exchanges it saw and described.

    Where it has given the connection up, as after a TLS handshake, another goes on.
    """
    parser = PARSERS[protocol]
    session_type = DatagramSession if Transport.UDP in parser.transports else Session

    def begin() -> Session | DatagramSession:
        return session_type(lambda: [parser], Options(), Side.SERVER, Tally(), late=False)

    session = begin()
    feed, done = session.feed, session.done
    exchanges = 0
    start = time.process_time()
    for call in calls:
        feed(*call)
        if done:
            exchanges += len(done)
            for each in done:
                session.parser.outline(each, Side.SERVER, SERVER)
            done.clear()
        if session.opaque is not None:
            session = begin()
            feed, done = session.feed, session.done
    return time.process_time() - start, exchanges


def best(protocol: str, make: Callable[[int], Iterator[Transfer]], count: int) -> tuple[float, int]:
    calls = laid_out(make, count)
    return min(seconds(protocol, calls) for _ in range(ROUNDS))


def main() -> int:
    print(f"{'typical':<26}{'exchanges':>10}{'us each':>10}")
    for name, (protocol, make, count) in TYPICAL.items():
        taken, exchanges = best(protocol, make, count)
        print(f"{name:<26}{exchanges:>10}{taken / max(exchanges, 1) * 1e6:>10.2f}")
    print(f"\n{'worst':<26}{'size':>10}{'ms':>10}{'twice':>10}{'ratio':>8}")
    failed = []
    for name, (protocol, make, count) in WORST.items():
        once, _ = best(protocol, make, count)
        twice, _ = best(protocol, make, 2 * count)
        ratio = twice / once
        print(f"{name:<26}{count:>10}{once * 1e3:>10.1f}{twice * 1e3:>10.1f}{ratio:>8.2f}")
        if ratio > GROWTH:
            failed.append(name)
    if failed:
        print(f"grows faster than its input: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
