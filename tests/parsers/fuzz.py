# SPDX-License-Identifier: Apache-2.0
"""Feeds sessions with conversations of the corpus that were tampered with, until time is up.

    python tests/parsers/fuzz.py --seconds 60 [--protocol redis] [--seed 7]

Nothing may raise, hold more than its bounds, keep bytes that were never there, or take longer
for each byte the more there are. On a failure it prints the seed of the case: with `--seed` and
`--cases 1` that case is played again.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from parsers.datagram_pairing import MAX_ANSWERED, MAX_EARLY, PENDING_BYTES
from parsers.datagram_pairing import MAX_PENDING as MAX_PENDING_DATAGRAMS
from parsers.detection import PROBE_BYTES, PROBE_TRANSFERS
from parsers.framing import MAX_BUFFER_BYTES
from parsers.model import Endpoint, Side
from parsers.pairing import MAX_PENDING
from parsers.registry import Registry
from tests.parsers.corpus import Case, Player, Step, cases
from tests.parsers.datagram_corpus import DatagramPlayer

TIMES = 8
GROWTH = 3.0
"""How much longer a part of a long conversation may take than the same part alone."""
SLOW_S = 0.02
"""What takes less is not worth a second look."""
TRIES = 3
"""What is slow once may have been the machine."""
SERVER = Endpoint("10.0.0.1", 80)
STRANGER = 0.1
"""How often a conversation of one protocol goes on with one of another."""
MAX_DATAGRAM_BYTES = 1400
FLOOD = 0.01
FLOODED = 600
"""Times `TIMES`, more than may wait for an answer."""
PEERS = (0, 1, 1, 2, 3, 100)
"""Of datagrams: nobody knows, three others, and a group."""
PORTS = (53, 5353, 5355, 9999)


def by_protocol(*, udp: bool) -> dict[str, list[Case]]:
    """Cases by their folder."""
    found: dict[str, list[Case]] = {}
    for _, case in cases(udp=udp):
        found.setdefault(case.path.parent.name, []).append(case)
    return found


STREAMS = by_protocol(udp=False)
DATAGRAMS = by_protocol(udp=True)
PROTOCOLS = sorted({*STREAMS, *DATAGRAMS})
PARSERS = list(Registry.load().parsers.values())


def over_datagrams(random_: random.Random, protocol: str) -> bool:
    """Which of its cases to take, where there are both."""
    datagrams = len(DATAGRAMS.get(protocol, ()))
    return random_.randrange(len(STREAMS.get(protocol, ())) + datagrams) < datagrams


# -- streams ------------------------------------------------------------------------------


def tampered(random_: random.Random, protocol: str) -> list[Step]:
    """Steps of one or more cases, with some things done to them."""
    steps = []
    for _ in range(random_.randint(1, 4)):
        away = random_.random() < STRANGER
        home = random_.choice(list(STREAMS)) if away else protocol
        steps += random_.choice(STREAMS[home]).steps
    steps = [step for step in steps if step.what not in {"close", "reset"}]
    for _ in range(random_.randint(0, 12)):
        if not steps:
            break
        at = random_.randrange(len(steps))
        step = steps[at]
        match random_.randrange(9):
            case 0:
                del steps[at]
            case 1:
                steps.insert(at, step)
            case 2:
                steps.insert(random_.randrange(len(steps)), steps.pop(at))
            case 3 if step.size > 1:
                steps[at : at + 1] = step.cut(random_.randrange(1, step.size))
            case 4 if step.data:
                data = bytearray(step.data)
                for _ in range(random_.randint(1, 4)):
                    data[random_.randrange(len(data))] = random_.choice(b"\r\n :;\0\xff0aG")
                steps[at] = Step(step.what, step.to_server, bytes(data), step.size)
            case 5:
                cut = random_.randrange(len(step.data) + 1)
                steps[at] = Step(step.what, step.to_server, step.data[:cut], step.size)
            case 6:
                steps[at] = Step(step.what, step.to_server, step.data, step.size, seen=False)
            case 7:
                steps[at] = Step(step.what, not step.to_server, step.data, step.size)
            case _:
                data = random_.randbytes(random_.randrange(1, 200))
                size = len(data) + random_.choice([0, 0, 1, 5000, 2**31])
                steps.insert(at, Step(to_server=random_.random() < 0.5, data=data, size=size))
    return steps


def play(steps: list[Step], seed: int) -> float:
    """Feed them to a session; CPU seconds that it took."""
    random_ = random.Random(seed)
    player = Player(
        PARSERS,
        random_.choice(list(Side)),
        late=random_.random() < 0.3,
        keep=random_.random() < 0.3,
    )
    session = player.session
    start = time.process_time()
    for step in steps:
        player.play([step])
        assert session.buffered_bytes <= 2 * MAX_BUFFER_BYTES + PROBE_BYTES, "bytes held"
    taken = time.process_time() - start
    assert len(session._detection.held) <= PROBE_TRANSFERS, "transfers held"
    assert session.in_flight <= 2 * MAX_PENDING, "requests held"
    player.play([Step(random_.choice(["close", "reset"]))])
    assert session.in_flight == 0, "requests left"
    for exchange in player.exchanges:
        parser = exchange.parser or session.parser
        assert parser is not None
        assert parser.outline(exchange, session.side, SERVER).name
    assert_kept(player)
    return taken


def assert_kept(player: Player | DatagramPlayer) -> None:
    """Nothing is kept that was never there."""
    fed = sum(len(data) for _, _, data in player.fed)
    kept = sum(each.size for each in player.session.kept or () if not each.fate)
    assert kept <= fed, "more kept than there was"


# -- datagrams ----------------------------------------------------------------------------


def tampered_datagrams(random_: random.Random, protocol: str) -> list[Step]:
    """Datagrams of one or more cases, with some things done to them."""
    steps: list[Step] = []
    for _ in range(random_.randint(1, 4)):
        steps += random_.choice(DATAGRAMS[protocol]).steps
    steps = [step for step in steps if step.what != "close"]
    for _ in range(random_.randint(0, 12)):
        if not steps:
            break
        at = random_.randrange(len(steps))
        step = steps[at]
        other = random_.choice(steps)
        match random_.randrange(10):
            case 0:
                del steps[at]
            case 1:
                steps.insert(at, step)
            case 2:
                steps.insert(random_.randrange(len(steps)), steps.pop(at))
            case 3 if step.data:
                data = bytearray(step.data)
                for _ in range(random_.randint(1, 8)):
                    data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
                steps[at] = replace(step, data=bytes(data))
            case 4:
                # Captured in part, or never longer.
                data = step.data[: random_.randrange(len(step.data) + 1)]
                size = random_.choice([step.size, len(data)])
                steps[at] = replace(step, data=data, size=size)
            case 5:
                steps[at] = replace(step, seen=False)
            case 6:
                steps[at] = replace(step, peer=random_.choice(PEERS))
            case 7:
                steps[at] = replace(step, to_server=not step.to_server)
            case 8:
                # The head of one, the rest of another.
                cut = random_.randrange(len(step.data) + 1)
                data = step.data[:cut] + other.data[cut:]
                steps[at] = replace(step, data=data, size=len(data))
            case _:
                steps.insert(at, stranger(random_))
    if steps and random_.random() < FLOOD:
        step = random_.choice(steps)
        for _ in range(FLOODED):
            data = random_.randbytes(2) + step.data[2:]
            steps.append(replace(step, data=data, size=len(data)))
    return steps


def stranger(random_: random.Random) -> Step:
    """A datagram of no conversation, of another, or silence."""
    if random_.random() < STRANGER:
        return Step("wait", seconds=random_.choice([0.01, 1.0, 20.0]))
    step = random_.choice(random_.choice(random_.choice(list(STREAMS.values()))).steps)
    data = random_.choice([random_.randbytes(random_.randrange(1, 200)), step.data])
    data = data[:MAX_DATAGRAM_BYTES]
    return Step(
        to_server=random_.random() < 0.5,
        data=data,
        size=len(data) + random_.choice([0, 0, 0, 500]),
        peer=random_.choice(PEERS),
    )


def play_datagrams(steps: list[Step], seed: int) -> float:
    """Feed them to a session; CPU seconds that it took."""
    random_ = random.Random(seed)
    case = Case(Path(), steps, port=random_.choice(PORTS))
    player = DatagramPlayer(
        PARSERS,
        case,
        random_.choice(list(Side)),
        late=random_.random() < 0.3,
        keep=random_.random() < 0.3,
    )
    session = player.session
    start = time.process_time()
    for step in steps:
        player.play([step])
        assert session.in_flight <= MAX_PENDING_DATAGRAMS, "requests held"
    taken = time.process_time() - start
    assert session.buffered_bytes <= MAX_PENDING_DATAGRAMS * PENDING_BYTES, "bytes held"
    assert len(session._early or ()) <= MAX_EARLY, "responses held"
    assert len(session._answered) <= MAX_ANSWERED, "answers remembered"
    player.play([Step("close")])
    assert not session.unsettled, "requests left"
    for exchange in player.exchanges:
        assert session.parser is not None
        side = exchange.side or session.side
        assert session.parser.outline(exchange, side, exchange.remote or SERVER).name
    assert_kept(player)
    return taken


# -- all of them --------------------------------------------------------------------------


def attempt(seed: int, protocol: str | None) -> None:
    """Play one case, and once more several times in a row."""
    random_ = random.Random(seed)
    protocol = protocol or random_.choice(PROTOCOLS)
    if over_datagrams(random_, protocol):
        steps, feed = tampered_datagrams(random_, protocol), play_datagrams
    else:
        steps, feed = tampered(random_, protocol), play
    for _ in range(TRIES):
        once = feed(steps, seed)
        many = feed(steps * TIMES, seed)
        if many < max(SLOW_S, GROWTH * TIMES * max(once, SLOW_S / TIMES)):
            return
    raise AssertionError(f"{once} -> {many} s")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    arguments.add_argument("--cases", type=int, default=0, help="stop after so many")
    arguments.add_argument("--protocol", choices=PROTOCOLS, help="conversations of this alone")
    options = arguments.parse_args()
    until = time.monotonic() + options.seconds
    played = 0
    seed = options.seed
    while time.monotonic() < until and not (options.cases and played >= options.cases):
        seed = options.seed + played
        try:
            attempt(seed, options.protocol)
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}", file=sys.stderr)
            raise
        played += 1
    print(f"{played} cases played, the last with --seed {seed}: nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
