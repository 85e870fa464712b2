# SPDX-License-Identifier: Apache-2.0
"""Every conversation of the corpus, played whole and in every broken way.

WIRESPAN_WRITE_GOLDEN=1 writes the .json files anew; read them before you believe them.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from itertools import combinations

import pytest

from parsers.http1 import Http1Parser
from parsers.model import Completeness, Side
from parsers.registry import Registry
from tests.parsers.corpus import Case, Player, Step, cases, describe

CASES = dict(cases())
PARSERS = list(Registry.load().parsers.values()) or [Http1Parser]
ENDS = {"close", "reset"}
PLAYS = [
    pytest.param(case, side, id=f"{name}-{side.name.lower()}")
    for name, case in CASES.items()
    for side in case.sides
]
ONCE = [pytest.param(case, case.sides[0], id=name) for name, case in CASES.items()]
IN_STEP = [
    each for each in PLAYS if "overlapping" not in each.id and "response-first" not in each.id
]
"""Where a client asks before it has its responses, one who joins cannot know what he missed."""
FEW_BYTES = 3000
"""A case of more is not split everywhere."""


def player(case: Case, side: Side, **options) -> Player:
    return Player(PARSERS, side, late=options.pop("late", case.late), **options)


def split(steps: list[Step], at: int) -> list[Step]:
    """The steps with every transfer of more than `at` bytes in two."""
    pieces: list[Step] = []
    for step in steps:
        pieces += step.cut(at) if step.size > at else [step]
    return pieces


def bytewise(steps: list[Step]) -> list[Step]:
    """The steps with all that was captured in transfers of one byte."""
    pieces: list[Step] = []
    for step in steps:
        rest = step
        for _ in range(min(len(step.data), step.size - 1)):
            first, rest = rest.cut(1)
            pieces.append(first)
        pieces.append(rest)
    return pieces


def offsets(case: Case) -> list[int]:
    longest = max(len(step.data) for step in case.steps)
    everywhere = range(1, longest + 1)
    if longest <= FEW_BYTES:
        return list(everywhere)
    return sorted({*everywhere[:200], *everywhere[-100:], *everywhere[::97]})


UNSURE = {"db.system.name"}
"""Attributes that one who joins late may put more broadly."""
NAMED_BY = ("url.path", "url.full", "db.query.text", "dns.question.name", "rpc.method")
"""Attributes that say what was asked."""

Fact = tuple[dict, tuple | None]


def facts(player: Player) -> list[Fact]:
    """What was said about requests and responses that were joined and seen whole."""
    found = []
    for each in player.exchanges:
        told = describe(player.session, each)
        if each.response is None:
            continue
        whole = each.completeness in {Completeness.COMPLETE, Completeness.LATE_ATTACH}
        sizes = (told["request_size"], told["response_size"]) if whole else None
        found.append((told["attributes"], sizes))
    return found


def agrees(found: Fact, truth: Fact) -> bool:
    """Whether everything found was so; what depends on bytes that were lost may be missing."""
    attributes, sizes = found
    return sizes in {None, truth[1]} and all(
        truth[0].get(key) == value for key, value in attributes.items() if key not in UNSURE
    )


def assert_true(player: Player, truth: list[Fact]) -> None:
    """Everything found was so: in that order, unless the protocol answers in any."""
    assert_so(facts(player), truth, ordered=not by_id(player))


def assert_so(found: list[Fact], truth: list[Fact], *, ordered: bool) -> None:
    left = list(truth)
    for each in found:
        index = next((i for i, was in enumerate(left) if agrees(each, was)), None)
        assert index is not None, f"never was: {each}"
        del left[0 if ordered else index : index + 1]


def by_id(player: Player) -> bool:
    return any(each.request.correlation_id is not None for each in player.exchanges)


@pytest.mark.parametrize(("case", "side"), PLAYS)
def test_conversation_gives_its_exchanges(case, side):
    told = player(case, side).play(case.steps)
    if os.environ.get("WIRESPAN_WRITE_GOLDEN") and side is case.sides[0]:
        text = json.dumps(told.described(), indent=2)
        case.path.with_suffix(".json").write_text(text + "\n")
    assert told.described() == case.golden
    if case.refused:
        assert told.session.opaque == "unknown"
        assert not case.golden


@pytest.mark.parametrize(("case", "side"), ONCE)
def test_any_split_gives_the_same(case, side):
    whole = player(case, side).play(case.steps)
    for at in offsets(case):
        told = player(case, side).play(split(case.steps, at))
        assert told.described() == case.golden, at
        assert told.numbers() == whole.numbers(), at


@pytest.mark.parametrize(("case", "side"), PLAYS)
def test_byte_by_byte_gives_the_same(case, side):
    told = player(case, side).play(bytewise(case.steps))
    assert told.described() == case.golden
    # Whichever end it was seen from, and however it was cut, it is the same exchange.
    for each in case.sides:
        assert told.numbers() == player(case, each).play(case.steps).numbers()


@pytest.mark.parametrize(("case", "side"), ONCE)
def test_cut_short_gives_a_prefix(case, side):
    steps = bytewise([each for each in case.steps if each.what not in ENDS])
    told = player(case, side)
    for step in steps:
        told.play([step])
        found = told.described()
        assert found == case.golden[: len(found)]


@pytest.mark.parametrize(("case", "side"), PLAYS)
def test_garbage_after_it_changes_nothing_that_was_said(case, side):
    told = player(case, side).play(each for each in case.steps if each.what not in ENDS)
    said = told.described()
    truth = facts(told)
    random_ = random.Random(case.path.name)
    for _ in range(50):
        data = random_.randbytes(random_.randrange(1, 300))
        told.play([Step(to_server=random_.random() < 0.5, data=data, size=len(data))])
    told.play([Step("close")])
    assert told.described()[: len(said)] == said
    for key in NAMED_BY:
        asked = {each["attributes"].get(key) for each in case.golden}
        for each in told.described()[len(said) :]:
            assert each["attributes"].get(key) in asked | {None}
    assert facts(told)[: len(truth)] == truth
    assert told.session.buffered_bytes < 300 * 50 * 2


@pytest.mark.parametrize(("case", "side"), IN_STEP)
def test_joined_late_gives_nothing_that_was_not(case, side):
    truth = facts(player(case, side).play(case.steps))
    pieces: list[Step] = []
    for step in case.steps:
        pieces += step.cut(step.size // 2) if step.size > 1 else [step]
    for start in range(1, len(pieces)):
        told = player(case, side, late=True).play(pieces[start:])
        found = facts(told)
        if pieces[start].to_server is pieces[start - 1].to_server:
            # A turn that had begun before: that is what `late_attach` warns of.
            first = [each.completeness for each in told.exchanges if each.response is not None]
            found = found[first[:1] == [Completeness.LATE_ATTACH] :]
        assert_so(found, truth, ordered=not by_id(told))


@pytest.mark.parametrize(("case", "side"), PLAYS)
def test_losing_any_transfers_joins_nothing_wrongly(case, side):
    truth = facts(player(case, side).play(case.steps))
    transfers = [i for i, each in enumerate(case.steps) if each.what == "transfer"]
    if "overlapping" in case.path.name:
        # Before it has asked too early once, a client that does so is like any other.
        transfers.pop(0)
    losses = [*combinations(transfers, 1)]
    if "response-first" not in case.path.name:
        # There a second loss hides what the first has shown.
        losses += combinations(transfers, 2)
    random_ = random.Random(case.path.name)
    for lost in random_.sample(losses, min(len(losses), 200)):
        steps = [
            replace(each, seen=each.seen and i not in lost) for i, each in enumerate(case.steps)
        ]
        assert_true(player(case, side).play(steps), truth)
