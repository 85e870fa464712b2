# SPDX-License-Identifier: Apache-2.0
"""Readable conversations, and how to play them to a session.

A case is a text file; a line is one transfer, `>` from client to server, `<` from server to
client, with Python's escapes. In front of the text may stand

    ~       the transfer was made and lost: nobody saw it
    @1000   it moved 1000 bytes more than the text, and those were not captured

and `{x*50}` in the text means fifty times `x`. Other lines: `#` a comment, and the directives

    side client|server|both    whose socket is traced (both: the case holds for either)
    snaplen 64                 how much of a transfer is captured
    late                       the connection is older than the tracer
    eof > | eof <              that side has finished sending
    wait 2.5                   seconds in which nothing happens
    close | reset              the end of the connection
    refused                    no parser may take it
    udp                        each line is a datagram; `[2]` in front of its text says with whom
    port 53                    of the server's socket, for datagrams
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from parsers.detection import TURN_START
from parsers.model import Endpoint, Exchange, Options, Parser, Side, Transport
from parsers.session import EOF, Session
from parsers.tally import Tally

CORPUS: Final = Path(__file__).parents[1] / "corpus"
SNAPLEN: Final = 4096
STEP_NS: Final = 10_000
"""From one transfer to the next."""
SERVER: Final = Endpoint("10.0.0.1", 80)
REPEAT: Final = re.compile(r"\{(.)\*(\d+)\}")
START: Final = (4_294_967_000, 1000)
"""Positions of both directions at first, client's and server's: one of them will wrap."""


@dataclass(frozen=True)
class Step:
    """One transfer, or something else that happens."""

    what: str = "transfer"
    to_server: bool = True
    data: bytes = b""
    size: int = 0
    seen: bool = True
    seconds: float = 0.0
    peer: int = 0
    """Who is at the other end of a datagram; 0 if its record does not say."""

    def cut(self, at: int) -> tuple[Step, Step]:
        """Two transfers that together moved the same; what was not captured stays so."""
        return (
            replace(self, data=self.data[:at], size=at),
            replace(self, data=self.data[at:], size=self.size - at),
        )


@dataclass
class Case:
    """A conversation of the corpus."""

    path: Path
    steps: list[Step] = field(default_factory=list)
    sides: tuple[Side, ...] = (Side.SERVER, Side.CLIENT, Side.UNKNOWN)
    late: bool = False
    refused: bool = False
    udp: bool = False
    port: int = 53

    @property
    def golden(self) -> list[dict[str, Any]]:
        return json.loads(self.path.with_suffix(".json").read_text())


SIDES: Final = {
    "both": (Side.SERVER, Side.CLIENT, Side.UNKNOWN),
    "client": (Side.CLIENT,),
    "server": (Side.SERVER,),
}


def load(path: Path) -> Case:
    case = Case(path)
    snaplen = SNAPLEN
    for line in path.read_text().splitlines():
        word, _, rest = line.partition(" ")
        match word:
            case ">" | "<" | ">~" | "<~":
                case.steps.append(_transfer(word, rest, snaplen))
            case "" | "#":
                pass
            case "side":
                case.sides = SIDES[rest]
            case "snaplen":
                snaplen = int(rest)
            case "late":
                case.late = True
            case "refused":
                case.refused = True
            case "udp":
                case.udp = True
            case "port":
                case.port = int(rest)
            case "eof":
                case.steps.append(Step("eof", to_server=rest == ">"))
            case "wait":
                case.steps.append(Step("wait", seconds=float(rest)))
            case "close" | "reset":
                case.steps.append(Step(word))
            case _:
                raise ValueError(f"{path.name}: {line}")
    return case


def cases(*, udp: bool = False) -> Iterator[tuple[str, Case]]:
    """Conversations over streams, or of datagrams."""
    for path in sorted(CORPUS.rglob("*.txt")):
        case = load(path)
        if case.udp is udp:
            yield f"{path.parent.name}-{path.stem}", case


def _transfer(word: str, text: str, snaplen: int) -> Step:
    more = peer = 0
    if text.startswith("["):
        number, _, text = text.partition("] ")
        peer = int(number[1:])
    if text.startswith("@"):
        number, _, text = text.partition(" ")
        more = int(number[1:])
    text = REPEAT.sub(lambda match: match[1] * int(match[2]), text)
    data = text.encode("latin-1").decode("unicode_escape").encode("latin-1")
    return Step(
        to_server=word[0] == ">",
        data=data[:snaplen],
        size=len(data) + more,
        seen=not word.endswith("~"),
        peer=peer,
    )


class Outcome(NamedTuple):
    session: Session
    exchanges: list[Exchange]
    tally: Tally


class Player:
    """Plays steps to one session as the kernel would report them."""

    def __init__(
        self,
        parsers: list[type[Parser]],
        side: Side,
        *,
        late: bool = False,
        keep: bool = False,
        options: Options | None = None,
    ) -> None:
        self.tally = Tally()
        self.client_sends = 0 if side is not Side.CLIENT else 1
        """The direction in which requests go, seen from the traced process."""
        streams = [each for each in parsers if Transport.TCP in each.transports]
        self.session = Session(
            lambda: streams, options or Options(), side, self.tally, late=late, keep=keep
        )
        self.positions = list(START)
        if not late:
            ingress, egress = START if self.client_sends == 0 else reversed(START)
            self.session.begin_at(ingress, egress)
        self.now_ns = 1_000_000_000
        self.turn = 0
        self.turned: bool | None = None
        self.fed: list[tuple[int, int, bytes]] = []
        """Direction, position and payload of what the session was given."""

    def play(self, steps: Iterable[Step]) -> Player:
        for step in steps:
            self.now_ns += STEP_NS
            match step.what:
                case "transfer":
                    self.transfer(step)
                case "eof":
                    self.feed(step.to_server, 0, b"", EOF)
                case "wait":
                    self.now_ns += int(step.seconds * 1e9)
                    self.session.idle(self.now_ns)
                case _:
                    self.close("connection_reset" if step.what == "reset" else None)
        return self

    def transfer(self, step: Step) -> None:
        flags = 0
        if step.to_server is not self.turned:
            self.turned = step.to_server
            self.turn += 1
            flags = TURN_START
        if step.seen:
            self.feed(step.to_server, step.size, step.data, flags)
        index = 0 if step.to_server else 1
        self.positions[index] = (self.positions[index] + step.size) % 2**32

    def feed(self, to_server: bool, size: int, data: bytes, flags: int) -> None:
        direction = self.client_sends if to_server else 1 - self.client_sends
        position = self.positions[0 if to_server else 1]
        self.fed.append((direction, position, data))
        self.session.feed(direction, self.now_ns, position, size, data, self.turn, flags)

    def close(self, reason: str | None) -> None:
        self.now_ns += STEP_NS
        for to_server in (True, False):
            self.feed(to_server, 0, b"", 0)
        self.session.close(self.now_ns, reason)

    @property
    def exchanges(self) -> list[Exchange]:
        return self.session.done

    def numbers(self) -> list[Any]:
        """What each exchange is known by at both ends of its connection."""
        requests = [each.request for each in self.session.done]
        return [
            each.position if each.correlation_id is None else each.correlation_id
            for each in requests
        ]

    def described(self) -> list[dict[str, Any]]:
        return [describe(self.session, each) for each in self.session.done]


def describe(session: Session, exchange: Exchange) -> dict[str, Any]:
    """An exchange as a golden file has it: the same from both sides and however it was cut."""
    assert session.parser is not None
    parser = exchange.parser or session.parser
    outline = parser.outline(exchange, Side.SERVER, SERVER)
    response = exchange.response
    request = exchange.request
    extras: dict[str, Any] = {}
    if exchange.protocol != parser.name:
        extras["protocol"] = exchange.protocol
    if request.resends:
        extras["resends"] = request.resends
    for key, message in zip(outline.counts, (request, response), strict=True):
        if key and message is not None and message.count >= 0:
            extras[key] = message.count
    return extras | {
        "name": outline.name,
        "attributes": {k: plain(v) for k, v in outline.attributes.items()},
        "error_type": outline.error_type,
        "completeness": exchange.completeness.value,
        "request_size": request.size,
        "response_size": None if response is None else response.size,
    }


def plain(value: Any) -> Any:
    """An attribute's value as JSON has it."""
    return list(value) if isinstance(value, tuple) else value
