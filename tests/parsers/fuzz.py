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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from parsers.detection import PROBE_BYTES, PROBE_TRANSFERS
from parsers.framing import MAX_BUFFER_BYTES
from parsers.model import Endpoint, Side
from parsers.pairing import MAX_PENDING
from parsers.registry import Registry
from tests.parsers.corpus import Player, Step, cases

TIMES = 8
GROWTH = 3.0
"""How much longer a part of a long conversation may take than the same part alone."""
SLOW_S = 0.02
"""What takes less is not worth a second look."""
SERVER = Endpoint("10.0.0.1", 80)

CASES = {
    folder: [case.steps for _, case in cases() if case.path.parent.name == folder]
    for folder in sorted({case.path.parent.name for _, case in cases()})
}
"""Of each protocol."""
STRANGER = 0.1
"""How often a conversation of one protocol goes on with one of another."""
PARSERS = list(Registry.load().parsers.values())


def tampered(random_: random.Random, protocol: str | None) -> list[Step]:
    """Steps of one or more cases, with some things done to them."""
    home = CASES[protocol or random_.choice(list(CASES))]
    steps = []
    for _ in range(random_.randint(1, 4)):
        away = random_.random() < STRANGER
        steps += random_.choice(random_.choice(list(CASES.values())) if away else home)
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
    fed = sum(len(data) for _, _, data in player.fed)
    kept = sum(each.size for each in session.kept or () if not each.fate)
    assert kept <= fed, "more kept than there was"
    return taken


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    arguments.add_argument("--cases", type=int, default=0, help="stop after so many")
    arguments.add_argument("--protocol", choices=list(CASES), help="conversations of this alone")
    options = arguments.parse_args()
    until = time.monotonic() + options.seconds
    played = 0
    seed = options.seed
    while time.monotonic() < until and not (options.cases and played >= options.cases):
        seed = options.seed + played
        try:
            steps = tampered(random.Random(seed), options.protocol)
            once = play(steps, seed)
            many = play(steps * TIMES, seed)
            if many > SLOW_S:
                assert many < GROWTH * TIMES * max(once, SLOW_S / TIMES), f"{once} -> {many} s"
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}", file=sys.stderr)
            raise
        played += 1
    print(f"{played} cases played, the last with --seed {seed}: nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
