# SPDX-License-Identifier: Apache-2.0
"""Every conversation of datagrams in the corpus, played whole and in every broken way.

Datagrams cannot be cut in two, but they can be lost, come twice, late, or be captured in part.
WIRESPAN_WRITE_GOLDEN=1 writes the .json files anew; read them before you believe them.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from itertools import combinations

import pytest

from parsers.model import Completeness, Side
from parsers.registry import Registry
from parsers.stream import POSITION_MASK
from tests.parsers.corpus import Step, cases
from tests.parsers.datagram_corpus import DatagramPlayer

CASES = dict(cases(udp=True))
PARSERS = list(Registry.load().parsers.values())
PLAYS = [
    pytest.param(case, side, id=f"{name}-{side.name.lower()}")
    for name, case in CASES.items()
    for side in case.sides
]
ONCE = [pytest.param(case, case.sides[0], id=name) for name, case in CASES.items()]
IN_TIME = [
    each for each in ONCE if each.id not in {"dns-unanswered", "dns-resent", "dns-response-first"}
]
"""In the others time decides that an answer is to nothing any more."""
CUTTABLE = {"dns.answers"}
"""Attributes of which there is less where less was captured."""
BLANK = 0xFF
MAX_LOSSES = 100
SEEDS = 200


def play(case, side, steps=None, **options):
    steps = case.steps if steps is None else steps
    return DatagramPlayer(PARSERS, case, side, **options).play(steps)


def facts(player):
    """What was said of requests that were joined with a response."""
    found = []
    for exchange in player.exchanges:
        told = player.describe(exchange)
        if exchange.response is not None:
            whole = exchange.completeness is Completeness.COMPLETE
            sizes = (told["request_size"], told["response_size"]) if whole else None
            found.append(
                (told["attributes"], sizes, told.get("with"), exchange.side or player.session.side)
            )
    return found


def agrees(found, truth):
    attributes, sizes, *ends = found
    if sizes is not None:
        return found == truth
    kept = {k: v for k, v in attributes.items() if k not in CUTTABLE}
    return ends == list(truth[2:]) and kept.items() <= dict_of(truth[0]).items()


def dict_of(attributes):
    return {k: v for k, v in attributes.items() if k not in CUTTABLE}


def assert_so(found, truth):
    left = list(truth)
    for each in found:
        index = next((i for i, was in enumerate(left) if agrees(each, was)), None)
        assert index is not None, f"never was: {each}"
        del left[index]


@pytest.mark.parametrize(("case", "side"), PLAYS)
def test_conversation_gives_its_exchanges(case, side):
    told = play(case, side)
    if os.environ.get("WIRESPAN_WRITE_GOLDEN") and side is case.sides[0]:
        case.path.with_suffix(".json").write_text(json.dumps(told.described(), indent=2) + "\n")
    assert told.described() == case.golden
    if case.refused:
        assert told.session.opaque == "unknown"
        assert not case.golden


@pytest.mark.parametrize(("case", "side"), PLAYS)
def test_losing_any_datagrams_joins_nothing_wrongly(case, side):
    truth = facts(play(case, side))
    transfers = [i for i, each in enumerate(case.steps) if each.what == "transfer"]
    losses = [*combinations(transfers, 1), *combinations(transfers, 2)]
    random_ = random.Random(case.path.name)
    for lost in random_.sample(losses, min(len(losses), MAX_LOSSES)):
        steps = [
            replace(each, seen=each.seen and i not in lost) for i, each in enumerate(case.steps)
        ]
        assert_so(facts(play(case, side, steps)), truth)


@pytest.mark.parametrize(("case", "side"), PLAYS)
def test_datagrams_that_come_twice_change_nothing_that_is_said(case, side):
    truth = facts(play(case, side))
    for index, step in enumerate(case.steps):
        if step.what == "transfer":
            steps = [*case.steps[: index + 1], step, *case.steps[index + 1 :]]
            found = facts(play(case, side, steps))
            assert found == truth


@pytest.mark.parametrize(("case", "side"), IN_TIME)
def test_any_order_joins_nothing_wrongly(case, side):
    truth = facts(play(case, side))
    random_ = random.Random(case.path.name)
    for _ in range(30):
        steps = list(case.steps)
        for _ in range(random_.randrange(1, 4)):
            at = random_.randrange(len(steps))
            steps.insert(random_.randrange(len(steps)), steps.pop(at))
        assert_so(facts(play(case, side, steps)), truth)


@pytest.mark.parametrize(("case", "side"), ONCE)
def test_capturing_less_says_less_and_nothing_else(case, side):
    truth = facts(play(case, side))
    longest = max(len(each.data) for each in case.steps)
    for snaplen in {*range(1, min(longest, 120)), *range(1, longest, 61)}:
        steps = [replace(each, data=each.data[:snaplen]) for each in case.steps]
        for found in facts(play(case, side, steps)):
            assert any(is_less(found, was) for was in truth), found


def is_less(found, truth):
    attributes, _, *ends = found
    for key, value in attributes.items():
        was = truth[0].get(key)
        if key in CUTTABLE:
            if was is None or value != was[: len(value)]:
                return False
        elif key == "wirespan.dns.response.code" and was not in {value, "BADVERS"}:
            # Its upper bits are at the end.
            return False
        elif key != "wirespan.dns.response.code" and value != was:
            return False
    return ends == list(truth[2:])


@pytest.mark.parametrize(("case", "side"), ONCE)
def test_joined_late_gives_nothing_that_was_not(case, side):
    truth = facts(play(case, side))
    for start in range(1, len(case.steps)):
        assert_so(facts(play(case, side, case.steps[start:], late=True)), truth)


@pytest.mark.parametrize(("case", "side"), ONCE)
def test_garbage_in_between_changes_nothing(case, side):
    truth = play(case, side)
    random_ = random.Random(case.path.name)
    steps = []
    for index, step in enumerate(case.steps):
        steps.append(step)
        if index and truth.session.parser is not None:
            data = random_.randbytes(random_.randrange(1, 80))
            to_server = random_.random() < 0.5
            steps.append(Step(to_server=to_server, data=data, size=len(data), peer=step.peer))
    assert facts(play(case, side, steps)) == facts(truth)


@pytest.mark.parametrize(("case", "side"), PLAYS)
def test_what_is_kept_of_it_says_the_same(case, side):
    assert_kept_says_the_same(case, side, case.steps)
    assert play(case, side, keep=True).described() == case.golden


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_kept_of_tampered_datagrams_says_the_same(seed):
    random_ = random.Random(seed)
    case = random_.choice(list(CASES.values()))
    steps = [
        tampered(each, random_) for each in case.steps for _ in range(random_.choice((1, 1, 2)))
    ]
    assert_kept_says_the_same(case, random_.choice(case.sides), steps)


def tampered(step, random_):
    """A datagram with some bytes changed, cut off or added."""
    if step.what != "transfer":
        return step
    data = bytearray(step.data)
    for _ in range(random_.choice((0, 0, 1, 1, 3)) if data else 0):
        data[random_.randrange(len(data))] = random_.choice((0, 1, 0x0C, 0xC0, 0xFF, 0x80))
    if random_.random() < 0.1:
        del data[random_.randrange(len(data) + 1) :]
    if random_.random() < 0.1:
        data += random_.randbytes(9)
    size = max(len(data), step.size if random_.random() < 0.1 else 0)
    return replace(step, data=bytes(data), size=size)


def assert_kept_says_the_same(case, side, steps):
    """What a recording keeps replays to the same, and nothing secret is in it."""
    kept = play(case, side, steps, keep=True)
    transfers = [step for step in steps if step.what == "transfer" and step.seen]
    blanked = []
    for (direction, position, data), step in zip(kept.fed, transfers, strict=True):
        left = bytearray([BLANK] * len(data))
        for each in kept.session.kept:
            start = each.position - position & POSITION_MASK
            if each.direction == direction and start < len(data):
                assert not each.fate
                left[start : start + each.size] = data[start : start + each.size]
        blanked.append(replace(step, data=bytes(left)))
        if steps is case.steps:
            assert b"secret" not in left
    rest = iter(blanked)
    steps = [next(rest) if step.what == "transfer" and step.seen else step for step in steps]
    again = play(case, side, steps)
    assert again.described() == kept.described()
    assert again.tally == kept.tally
    assert again.session.opaque == kept.session.opaque


def test_sides_are_those_of_the_case():
    assert {side for case in CASES.values() for side in case.sides} == set(Side)
