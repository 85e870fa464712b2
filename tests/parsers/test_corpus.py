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


def facts(player: Player) -> list[tuple]:
    """What was said about requests and responses that were joined and seen whole."""
    found = []
    for each in player.exchanges:
        told = describe(player.session, each)
        if each.response is None:
            continue
        whole = each.completeness in {Completeness.COMPLETE, Completeness.LATE_ATTACH}
        sizes = (told["request_size"], told["response_size"]) if whole else None
        found.append((json.dumps(told["attributes"], sort_keys=True), sizes))
    return found


def assert_true(found: list[tuple], truth: list[tuple]) -> None:
    """Everything found was so, in that order."""
    rest = iter(truth)
    for attributes, sizes in found:
        assert any(attributes == each and sizes in {None, made} for each, made in rest), (
            f"never was: {attributes} {sizes}"
        )


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
    for at in offsets(case):
        assert player(case, side).play(split(case.steps, at)).described() == case.golden, at


@pytest.mark.parametrize(("case", "side"), PLAYS)
def test_byte_by_byte_gives_the_same(case, side):
    assert player(case, side).play(bytewise(case.steps)).described() == case.golden


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
    requests = {each["attributes"].get("url.path") for each in case.golden}
    for each in told.described()[len(said) :]:
        assert each["attributes"].get("url.path") in requests
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
        assert_true(found, truth)


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
        assert_true(facts(player(case, side).play(steps)), truth)
