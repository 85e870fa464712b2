# SPDX-License-Identifier: Apache-2.0
"""The traffic of every protocol against the detection of every other: no false claim."""

from __future__ import annotations

import pytest

from parsers.registry import Registry
from tests.parsers.corpus import CORPUS, Case, Player, cases

PARSERS = Registry.load().parsers
CASES = list(cases())
SPEAKS = {"grpc": {"http2", "http"}, "grpc-web": {"http2", "http"}, "others": set()}
"""Folders of the corpus that are not called like their parser."""
MIXED = {
    "http-connect": "tls",
    "http2-upgrade": "http",
    "mysql-tls": "tls",
    "postgresql-ssl-accepted": "tls",
    "tls-upgrade-mysql": "mysql",
    "tls-upgrade-postgresql": "postgresql",
}
"""Conversations that begin or end in another protocol than their folder says."""


def spoken(name: str, case: Case) -> set[str]:
    """The protocols of a conversation."""
    folder = case.path.parent.name
    return SPEAKS.get(folder, {folder}) | {MIXED.get(name, "")}


PLAYS = [
    pytest.param(case, parser, id=f"{name}-{parser}")
    for name, case in CASES
    for parser in sorted(PARSERS)
    if PARSERS[parser].name not in spoken(name, case)
]


@pytest.mark.parametrize(("case", "parser"), PLAYS)
def test_no_parser_claims_what_is_not_its_own(case, parser):
    """Alone, so that no better one takes it first."""
    for side in case.sides:
        for late in (False, True):
            told = Player([PARSERS[parser]], side, late=late).play(case.steps)
            assert told.session.parser is None, (side, late)
            assert told.exchanges == []


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, id=name) for name, case in CASES if not case.refused],
)
def test_all_together_leave_it_to_the_right_one(name, case):
    for side in case.sides:
        told = Player(list(PARSERS.values()), side, late=case.late).play(case.steps)
        if told.session.parser is not None:
            assert told.session.parser.name in spoken(name, case)


def test_every_parser_has_a_corpus_with_cases_to_refuse():
    for parser in PARSERS.values():
        assert list((CORPUS / parser.name).glob("*.txt")), parser.name
        assert list((CORPUS / parser.name).glob("almost-*.txt")), parser.name
