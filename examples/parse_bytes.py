# SPDX-License-Identifier: Apache-2.0
"""Parsers without the tracer: no kernel, no root, no sockets, just bytes.

A session is told what moved on one connection and hands out exchanges. Here the second half
of the response's body was never captured, and a request stays without an answer.
"""

from __future__ import annotations

from functools import partial

from parsers.model import Endpoint, Side, Transport
from parsers.registry import Registry
from parsers.session import Session
from parsers.tally import Tally

INGRESS, EGRESS = 0, 1
TURN_START = 8
SERVER = Endpoint("192.0.2.1", 80)

REQUEST = b"GET /basket?item=3&token=abc HTTP/1.1\r\nHost: shop.example\r\n\r\n"
RESPONSE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2000\r\n\r\n<html>"

# direction, milliseconds, position in the stream, bytes moved, bytes captured, turn
TRANSFERS = [
    (INGRESS, 0, 0, len(REQUEST), REQUEST, 1),
    (EGRESS, 25, 0, len(RESPONSE), RESPONSE, 2),
    (EGRESS, 31, len(RESPONSE), 1994, b"", 2),
    (INGRESS, 40, len(REQUEST), len(REQUEST), REQUEST, 3),
]


def main() -> None:
    """Feed a session and print what it understood."""
    registry = Registry.load(["http1"])
    candidates = partial(registry.candidates, Transport.TCP, SERVER.port)
    tally = Tally()
    session = Session(candidates, registry.options, Side.UNKNOWN, tally, late=False)
    session.begin_at(0, 0)
    turn_before = 0
    for direction, milliseconds, position, size, data, turn in TRANSFERS:
        flags = TURN_START if turn != turn_before else 0
        turn_before = turn
        session.feed(direction, milliseconds * 1_000_000, position, size, data, turn, flags)
    session.close(50_000_000, "connection_reset")
    for exchange in session.done:
        assert session.parser is not None
        outline = session.parser.outline(exchange, session.side, SERVER)
        print(outline.name, exchange.completeness.value, outline.error_type or "no error")
        for key, value in outline.attributes.items():
            print(f"    {key} = {value}")
        if exchange.response is not None:
            took_ns = exchange.response.last_ns - exchange.request.first_ns
            print(f"    took {took_ns / 1e6:.0f} ms, {exchange.response.size} bytes of response")
    print(f"bytes that were needed and missing: {tally.gap_bytes}")


if __name__ == "__main__":
    main()
