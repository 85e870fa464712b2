# SPDX-License-Identifier: Apache-2.0
"""What the README says of protocols, held against the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from parsers.registry import Registry
from tests.parsers.corpus import CORPUS, cases

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PARSERS = {each.name: each for each in Registry.load().parsers.values()}


def table(title: str) -> dict[str, list[str]]:
    """The rows of the table below a heading, by the name in the first column."""
    section = re.split(rf"^#+ {title}$", README, flags=re.MULTILINE)[1]
    section = re.split(r"^#", section, flags=re.MULTILINE)[0]
    rows = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        match = re.match(r"`([a-z0-9]+)`", cells[0])
        if line.startswith("|") and match:
            rows[match[1]] = cells
    return rows


def names_in(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def golden_attributes(protocol: str) -> set[str]:
    """Keys of all attributes that the corpus shows for a protocol."""
    found: set[str] = set()
    for _, case in (*cases(), *cases(udp=True)):
        folder = case.path.parent.name
        for exchange in case.golden:
            if exchange.get("protocol", folder) == protocol:
                found |= set(exchange["attributes"])
                found |= {key for key in exchange if "." in key}
    return found


def test_table_of_protocols_names_the_parsers_that_are_installed():
    assert set(table("Protocols")) == set(PARSERS) | {"grpc"}


@pytest.mark.parametrize("protocol", sorted(PARSERS))
def test_transports_are_those_of_the_parser(protocol):
    said = table("Protocols")[protocol][1].lower()
    transports = {
        transport.name.lower()
        for parser in Registry.load().parsers.values()
        if parser.name == protocol
        for transport in parser.transports
    }
    assert set(re.findall(r"tcp|udp|unix", said)) == transports


@pytest.mark.parametrize("protocol", sorted({*PARSERS, "grpc"}))
def test_table_of_attributes_is_what_the_corpus_shows(protocol):
    assert names_in(table("Attributes")[protocol][1]) == golden_attributes(protocol)


def test_golden_files_are_valid():
    for path in CORPUS.rglob("*.json"):
        assert isinstance(json.loads(path.read_text()), list)
