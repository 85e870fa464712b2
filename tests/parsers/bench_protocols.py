# SPDX-License-Identifier: Apache-2.0
"""The conversations that bench_parsers.py plays to every parser but that of HTTP/1.

A typical one is of exchanges as they come by the thousand; the worst is the input that takes
longest for its size of all that we know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hpack import Encoder

from tests.parsers.corpus import CORPUS, load

Transfer = tuple[int, int, bytes]
"""Direction, size, payload."""
Maker = Callable[[int], Iterator[Transfer]]

WHOLE = 128 * 1024
"""Captured of a transfer of these protocols."""


def up(data: bytes) -> Transfer:
    return 0, len(data), data[:WHOLE]


def down(data: bytes) -> Transfer:
    return 1, len(data), data[:WHOLE]


def steps(case: str) -> list[Transfer]:
    """The transfers of a conversation of the corpus."""
    found = [each for each in load(CORPUS / f"{case}.txt").steps if each.what == "transfer"]
    return [(0 if each.to_server else 1, each.size, each.data) for each in found]


def again(case: str, first: int, last: int) -> Maker:
    """Transfers of a case: those before `first` once, then up to `last` again and again."""

    def make(count: int) -> Iterator[Transfer]:
        found = steps(case)
        yield from found[:first]
        for _ in range(count):
            yield from found[first:last]

    return make


# -- HTTP/2 --------------------------------------------------------------------------


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload


def http2(path: str, *, grpc: bool = False) -> Maker:
    """A request and its response, each on a stream of its own; `%d` makes every path another."""

    def make(count: int) -> Iterator[Transfer]:
        asking, answering = Encoder(), Encoder()
        fields = [
            (":method", "POST" if grpc else "GET"),
            (":scheme", "http"),
            (":authority", "shop.example.com"),
            ("user-agent", "grpc-go/1.60" if grpc else "curl/8.5.0"),
            ("content-type" if grpc else "accept", "application/grpc" if grpc else "*/*"),
        ]
        answer = [(":status", "200"), ("content-type", fields[4][1] if grpc else "text/plain")]
        message = b"\0\0\0\0\x05hello"
        yield up(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        yield down(frame(4, 0, 0, b"") + frame(4, 1, 0, b""))
        for number in range(count):
            stream = 2 * number + 1
            target = path % number if "%" in path else path
            head = asking.encode([(":path", target), *fields])
            if grpc:
                yield up(frame(1, 4, stream, head) + frame(0, 1, stream, message))
                trailers = frame(1, 5, stream, answering.encode([("grpc-status", "0")]))
                body = frame(0, 0, stream, message) + trailers
            else:
                yield up(frame(1, 5, stream, head))
                body = frame(0, 1, stream, bytes(200))
            yield down(frame(1, 4, stream, answering.encode(answer)) + body)

    return make


def small_frames(size: int) -> Iterator[Transfer]:
    """Bodies in frames of one byte."""
    yield from http2("/")(1)
    yield up(frame(1, 4, 3, Encoder().encode([(":method", "POST"), (":path", "/")])))
    for _ in range(size // 8000):
        yield up(frame(0, 0, 3, b"x") * 800)


def small_messages(size: int) -> Iterator[Transfer]:
    """A gRPC stream of empty messages, each in a frame."""
    yield from http2("/s/m", grpc=True)(1)
    fields = [(":method", "POST"), (":path", "/s/m"), ("content-type", "application/grpc")]
    yield up(frame(1, 4, 3, Encoder().encode(fields)))
    for _ in range(size // 8400):
        yield up(frame(0, 0, 3, bytes(5)) * 600)


def full_of_fields(size: int) -> Iterator[Transfer]:
    """Heads of four thousand fields."""
    yield from http2("/")(1)
    for number in range(size // 4000):
        yield up(frame(1, 5, 2 * number + 3, b"\x82\x84" + b"\x90" * 3998))


# -- databases -----------------------------------------------------------------------


def packet(number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number % 256]) + payload


def mysql_texts(count: int) -> Iterator[Transfer]:
    """Every statement has other literals."""
    yield from steps("mysql/simple")[:3]
    for number in range(count):
        text = b"\x03UPDATE users SET name = 'n%d' WHERE id = %d" % (number, number)
        yield up(packet(0, text))
        yield down(packet(1, b"\0\1\0\2\0\0\0"))


def mysql_rows(size: int) -> Iterator[Transfer]:
    """One result of many rows, 16 KiB at a time."""
    found = steps("mysql/simple")
    yield from found[:4]
    columns, _, _ = found[4][2].partition(b"\x05\0\0\x04\xfe")
    yield down(columns + packet(4, b"\xfe\0\0\2\0"))
    number = 5
    for _ in range(size // 16384):
        rows = b""
        for _ in range(16384 // 16):
            rows += packet(number, b"\x0512345\x05hello")
            number += 1
        yield down(rows)


def postgresql_texts(count: int) -> Iterator[Transfer]:
    """Every statement has other literals."""
    found = steps("postgresql/simple")
    yield from found[:2]
    for number in range(count):
        text = b"SELECT id FROM items WHERE id = %d\0" % number
        yield up(b"Q" + (len(text) + 4).to_bytes(4, "big") + text)
        yield found[3]


def postgresql_rows(size: int) -> Iterator[Transfer]:
    """One result of many rows, 8 KiB at a time."""
    found = steps("postgresql/simple")
    yield from found[:3]
    head, _, _ = found[3][2].partition(b"D\0\0\0")
    yield down(head)
    row = b"D\0\0\0\x0f\0\1\0\0\0\x0512345"
    for _ in range(size // 8192):
        yield down(row * (8192 // len(row)))


# -- Redis ---------------------------------------------------------------------------


def redis_keys(count: int) -> Iterator[Transfer]:
    """Every command has another key."""
    for number in range(count):
        key = b"user:%d" % number
        yield up(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key))
        yield down(b"$5\r\nhello\r\n")


def redis_pipeline(count: int) -> Iterator[Transfer]:
    """Sixteen at a time, as redis-benchmark -P 16 sends them."""
    for _ in range(count // 16):
        yield up(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nhello\r\n" * 16)
        yield down(b"+OK\r\n" * 16)


def redis_array(size: int) -> Iterator[Transfer]:
    """One reply of very many elements."""
    yield up(b"*4\r\n$6\r\nLRANGE\r\n$1\r\nl\r\n$1\r\n0\r\n$2\r\n-1\r\n")
    yield down(b"*%d\r\n" % (size // 7))
    for _ in range(size // 16384):
        yield down(b"$1\r\na\r\n" * (16384 // 7))


def redis_nested(size: int) -> Iterator[Transfer]:
    """Arrays of one in arrays of one, as deep as they may be."""
    yield up(b"*1\r\n$4\r\nPING\r\n")
    yield down(b"+PONG\r\n")
    for _ in range(size // 80):
        yield up(b"*1\r\n$4\r\nPING\r\n")
        yield down(b"*1\r\n" * 16 + b":1\r\n")


# -- DNS -----------------------------------------------------------------------------


def dns(count: int) -> Iterator[Transfer]:
    """Questions about one name, with other transaction ids."""
    (_, _, question), (_, _, answer) = steps("dns/simple")
    for number in range(count):
        ident = (number % 65536).to_bytes(2, "big")
        yield up(ident + question[2:])
        yield down(ident + answer[2:])


def dns_names(count: int) -> Iterator[Transfer]:
    """Every question is about another name."""
    (_, _, question), (_, _, answer) = steps("dns/simple")
    for number in range(count):
        name = b"%04x" % (number % 65536)
        yield up(name[:2] + question[2:].replace(b"shop", name))
        yield down(name[:2] + answer[2:].replace(b"shop", name))


def dns_pointers(size: int) -> Iterator[Transfer]:
    """Answers of many records whose names are pointers."""
    (_, _, question), (_, _, answer) = steps("dns/simple")
    record = answer[len(question) : len(question) + 16]
    for number in range(size // 4000):
        ident = (number % 65536).to_bytes(2, "big")
        yield up(ident + question[2:])
        many = ident + answer[2:6] + (240).to_bytes(2, "big") + answer[8 : len(question)]
        yield down(many + record * 240)


# -- TLS -----------------------------------------------------------------------------


def tls_names(count: int) -> Iterator[Transfer]:
    """Handshakes, each with another name."""
    (_, size, hello), *rest = steps("tls/simple")[:4]
    for number in range(count):
        yield 0, size, hello.replace(b"shop", b"%04x" % (number % 65536))
        yield from rest


def tls_early_data(size: int) -> Iterator[Transfer]:
    """Records of one byte, and never an answer."""
    yield steps("tls/simple")[0]
    for _ in range(size // 6000):
        yield up(b"\x17\x03\x03\x00\x01x" * 1000)


TYPICAL: dict[str, tuple[str, Maker, int]] = {
    "http2 the same": ("http2", http2("/api/items?page=1"), 5_000),
    "http2 all different": ("http2", http2("/api/items/%d"), 2_000),
    "grpc unary": ("http2", http2("/shop.Items/Get", grpc=True), 4_000),
    "mysql query": ("mysql", again("mysql/simple", 3, 5), 8_000),
    "mysql other literals": ("mysql", mysql_texts, 4_000),
    "mysql prepared": ("mysql", again("mysql/prepared", 5, 7), 8_000),
    "postgresql query": ("postgresql", again("postgresql/simple", 2, 4), 8_000),
    "postgresql other literals": ("postgresql", postgresql_texts, 4_000),
    "postgresql extended": ("postgresql", again("postgresql/extended", 2, 4), 5_000),
    "redis the same": ("redis", again("redis/simple", 0, 4), 8_000),
    "redis other keys": ("redis", redis_keys, 8_000),
    "redis pipelined by 16": ("redis", redis_pipeline, 16_000),
    "tls handshake": ("tls", again("tls/simple", 0, 4), 2_000),
    "tls 1.2 handshake": ("tls", again("tls/tls-1.2", 0, 4), 2_000),
    "tls other names": ("tls", tls_names, 2_000),
    "dns the same": ("dns", dns, 8_000),
    "dns other names": ("dns", dns_names, 4_000),
}
"""Protocol, conversation, count."""
WORST: dict[str, tuple[str, Maker, int]] = {
    "http2 frames of 1 byte": ("http2", small_frames, 400_000),
    "http2 heads of 4000": ("http2", full_of_fields, 400_000),
    "grpc empty messages": ("http2", small_messages, 400_000),
    "mysql rows": ("mysql", mysql_rows, 2_000_000),
    "postgresql rows": ("postgresql", postgresql_rows, 2_000_000),
    "redis array": ("redis", redis_array, 2_000_000),
    "redis nested": ("redis", redis_nested, 400_000),
    "tls early data": ("tls", tls_early_data, 400_000),
    "dns pointers": ("dns", dns_pointers, 400_000),
}
