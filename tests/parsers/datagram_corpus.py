# SPDX-License-Identifier: Apache-2.0
"""Plays conversations of datagrams (`udp` in tests/parsers/corpus.py) to one session."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from parsers.datagrams import PATIENCE_NS, DatagramSession
from parsers.model import Endpoint, Exchange, Kind, Options, Parser, Side, Transport
from parsers.tally import Tally
from tests.parsers.corpus import SERVER, START, STEP_NS, Case, Step, plain

CLIENT_PORT: Final = 40_000


class DatagramPlayer:
    """Plays steps to a session as the kernel would report them."""

    def __init__(
        self,
        parsers: list[type[Parser]],
        case: Case,
        side: Side,
        *,
        keep: bool = False,
        late: bool = False,
    ) -> None:
        self.tally = Tally()
        self.side = Side.SERVER if side is Side.UNKNOWN else side
        """Which socket is traced; `UNKNOWN` is the server's, of which nobody says so."""
        self.port = case.port
        found = [each for each in parsers if Transport.UDP in each.transports]
        self.session = DatagramSession(
            lambda: found, Options(), side, self.tally, late=late, keep=keep
        )
        connected = not any(step.peer for step in case.steps)
        local = self.port if self.side is Side.SERVER else CLIENT_PORT
        self.session.bind(local, self.end(1) if connected else Endpoint("", 0))
        self.positions = list(START)
        if not late:
            self.session.begin_at(*START)
        self.now_ns = 1_000_000_000
        self.fed: list[tuple[int, int, bytes]] = []
        """Direction, position and payload of what the session was given."""

    def end(self, number: int) -> Endpoint:
        """The other end that a case calls by a number."""
        if number >= 100:
            # A group that is asked, of which 1 is at its other end.
            return Endpoint(f"224.0.0.{number}", self.port)
        port = self.port if self.side is Side.CLIENT else CLIENT_PORT + number
        return Endpoint(f"10.0.0.{number}", port)

    def play(self, steps: Iterable[Step]) -> DatagramPlayer:
        for step in steps:
            self.now_ns += STEP_NS
            match step.what:
                case "transfer":
                    self.datagram(step)
                case "wait":
                    self.now_ns += int(step.seconds * 1e9)
                    self.session.idle(self.now_ns)
                    self.session.expire(self.now_ns - PATIENCE_NS)
                case _:
                    self.session.close(self.now_ns, None)
        return self

    def datagram(self, step: Step) -> None:
        direction = 0 if step.to_server is (self.side is Side.SERVER) else 1
        position = self.positions[direction]
        self.positions[direction] = (position + step.size) % 2**32
        if not step.seen:
            return
        self.fed.append((direction, position, step.data))
        if step.peer:
            self.session.peer = self.end(step.peer)
        self.session.feed(direction, self.now_ns, position, step.size, step.data, 1, 0)

    @property
    def exchanges(self) -> list[Exchange]:
        return self.session.done

    def described(self) -> list[dict[str, Any]]:
        return [self.describe(each) for each in self.session.done]

    def describe(self, exchange: Exchange) -> dict[str, Any]:
        """An exchange as a golden file has it: the same from both ends."""
        parser = self.session.parser
        assert parser is not None
        outline = parser.outline(exchange, Side.SERVER, SERVER)
        request, response = exchange.request, exchange.response
        assert request.kind is Kind.REQUEST
        extras: dict[str, Any] = {}
        if exchange.side is not None:
            extras["other_way"] = True
        if exchange.remote is not None:
            extras["with"] = exchange.remote.address
        return extras | {
            "name": outline.name,
            "attributes": {k: plain(v) for k, v in outline.attributes.items()},
            "error_type": outline.error_type,
            "completeness": exchange.completeness.value,
            "request_size": request.size,
            "response_size": None if response is None else response.size,
        }
