# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
import re
import shlex

import pytest

from tracer.arguments import build_parser, parse
from tracer.cli import COMMANDS
from tracer.usage import EXAMPLES


def subparsers():
    (action,) = build_parser()._subparsers._group_actions
    return action.choices


def shown(monkeypatch, parser, columns=80):
    monkeypatch.setenv("COLUMNS", str(columns))
    return parser.format_help()


def every_parser():
    return {"wirespan": build_parser(), **subparsers()}


@pytest.mark.parametrize("name", ["wirespan", *COMMANDS])
def test_help_fits_80_columns_and_has_examples_that_come_last(monkeypatch, name):
    text = shown(monkeypatch, every_parser()[name])
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "examples:\n" in text
    assert text.index("general:") < text.index("examples:")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_help_adapts_to_the_terminal_and_stays_readable(monkeypatch, columns):
    text = shown(monkeypatch, subparsers()["watch"], columns)
    body = text[: text.index("The same flag")]
    flags = [line for line in body.splitlines() if line.startswith("  -")]
    assert max(map(len, flags)) <= max(min(columns, 100), 60)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_mentions_every_flag_with_words(monkeypatch, name):
    parser = subparsers()[name]
    text = shown(monkeypatch, parser)
    for action in parser._actions:
        assert action.help, f"{name} {action.dest} has no help"
        for flag in action.option_strings:
            assert re.search(rf"(?m)^  (?:-\w, )?{flag}\b|^  {flag}\b", text), flag


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_tells_every_default_and_every_choice(monkeypatch, name):
    parser = subparsers()[name]
    text = " ".join(shown(monkeypatch, parser).split())
    for action in parser._actions:
        if not action.option_strings:
            continue
        for choice in action.choices or ():
            assert choice in text
        has_default = action.default is not None and action.nargs != 0
        if has_default and action.default not in ([], argparse.SUPPRESS):
            assert "default:" in action.help, action.dest


def test_every_command_is_listed_and_can_be_run(monkeypatch):
    text = shown(monkeypatch, build_parser())
    assert list(subparsers()) == list(COMMANDS)
    for name in COMMANDS:
        assert re.search(rf"(?m)^  {name} +\w", text)


def examples():
    for text in EXAMPLES.values():
        for line in text.replace("\\\n", "").splitlines():
            if match := re.match(r"  (?:sudo )?wirespan (.*)", line):
                words = re.split(r"   +| \| | > ", match[1])[0]
                yield words


@pytest.mark.parametrize("line", list(examples()))
def test_examples_are_understood(line):
    # Comments stand two spaces behind the command at least.
    words = shlex.split(re.split(r"  ", line)[0])
    if words == ["COMMAND", "--help"]:
        return
    assert parse(words).command in COMMANDS


def test_every_command_has_examples():
    assert set(EXAMPLES) == {"wirespan", *COMMANDS}
    assert len(list(examples())) >= 15
