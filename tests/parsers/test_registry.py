# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import pytest

from parsers import registry
from parsers.http1 import Http1Parser
from parsers.model import Options, Transport
from parsers.registry import GROUP, Registry, UnknownParserError
from tests.parsers.lines import LineParser


@pytest.fixture
def installed(monkeypatch):
    """Entry points as if these were installed; one of them does not load."""
    points = [
        EntryPoint("http1", "parsers.http1:Http1Parser", GROUP),
        EntryPoint("lines", "tests.parsers.lines:LineParser", GROUP),
        EntryPoint("broken", "tests.parsers.lines:NoSuchParser", GROUP),
        EntryPoint("strange", "collections:OrderedDict", GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    return points


def test_http1_is_installed_as_a_plug_in():
    assert "http1" in {point.name for point in entry_points(group=GROUP)}
    assert Registry.load().parsers["http1"] is Http1Parser


def test_parser_that_does_not_load_is_named_and_the_others_work(installed):
    loaded = Registry.load()
    assert set(loaded.parsers) == {"http1", "lines"}
    assert loaded.failures.keys() == {"broken", "strange"}
    assert "AttributeError" in loaded.failures["broken"]


def test_only_the_named_are_loaded(installed):
    loaded = Registry.load(["lines"])
    assert loaded.parsers == {"lines": LineParser}
    assert loaded.failures == {}


def test_unknown_name_says_which_there_are(installed):
    with pytest.raises(UnknownParserError, match="no parser is called gopher, smb: .*http1, lines"):
        Registry.load(["smb", "http1", "gopher"])


def test_options_are_handed_on():
    assert Registry.load(options=Options(redact=False)).options.redact is False
    assert Registry.load().options.redact is True


def test_parser_that_knows_the_port_is_tried_first():
    both = Registry({"http1": Http1Parser, "lines": LineParser}, Options())
    assert both.candidates(Transport.TCP, 7777) == [LineParser, Http1Parser]
    assert both.candidates(Transport.TCP, 80) == [Http1Parser, LineParser]
    assert both.candidates(Transport.TCP, 1) == [Http1Parser, LineParser]


def test_parser_is_tried_on_its_transports_only():
    both = Registry({"http1": Http1Parser, "lines": LineParser}, Options())
    assert both.candidates(Transport.UNIX, 0) == [Http1Parser]
    assert both.candidates(Transport.UDP, 80) == []
