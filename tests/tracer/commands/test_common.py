# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import os
import signal
from argparse import Namespace

import pytest

from parsers.http1 import Http1Parser
from parsers.model import Options
from parsers.registry import Registry, UnknownParserError
from tests.tracer.fakes import FakeSource, Kept
from tracer.arguments import parse
from tracer.commands.common import (
    METHODS_VARIABLE,
    Interruptible,
    finish,
    load_registry,
    log_to_stderr,
    span_filter,
)
from tracer.events import Cause
from tracer.gate import Gate
from tracer.pipeline import Pipeline
from tracer.source import Counter

REGISTRY = Registry({"http1": Http1Parser}, Options())


def test_filter_flags_become_a_filter():
    arguments = parse(["watch", "--proto", "http1", "--method", "PUT", "--errors"])
    made = span_filter(arguments, REGISTRY)
    assert list(made.protocols) == ["http"], "by the parser's name or its protocol's"
    assert (made.methods, made.errors) == (["PUT"], True)
    assert span_filter(parse(["watch"]), REGISTRY).test() is None


def named(name, *more):
    parser = type(name, (Http1Parser,), {"name": name})
    parser.refinements = frozenset(more)
    return parser


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (["http"], ["http", "http2", "http3"]),
        (["http1"], ["http"]),
        (["http2"], ["http2"]),
        (["h3"], ["http3"]),
        (["grpc"], ["grpc"]),
        (["dns", "http1"], ["dns", "http"]),
        (["dns-tcp"], ["dns"]),
    ],
)
def test_protocol_is_meant_by_its_name_its_parsers_or_that_without_a_version(asked, meant):
    parsers = {
        "http1": named("http"),
        "http2": named("http2", "grpc"),
        "h3": named("http3", "grpc"),
        "dns": named("dns"),
        "dns-tcp": named("dns"),
    }
    flags = [part for name in asked for part in ("--proto", name)]
    made = span_filter(parse(["watch", *flags]), Registry(parsers, Options()))
    assert made.protocols == meant


def test_unknown_protocol_names_those_of_messages_too():
    registry = Registry({"http2": named("http2", "grpc")}, Options())
    with pytest.raises(UnknownParserError, match="there are grpc, http2"):
        span_filter(parse(["watch", "--proto", "2"]), registry)


def test_unknown_protocol_is_told_what_there_is():
    with pytest.raises(
        UnknownParserError, match="no protocol is called htp: there are grpc, http$"
    ):
        span_filter(parse(["watch", "--proto", "htp"]), REGISTRY)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_is_a_request_and_what_was_there_comes_back(number):
    before = signal.getsignal(number)
    with Interruptible() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        assert interrupt.requested
    assert signal.getsignal(number) is before


def test_finish_delivers_and_says_what_there_was(capsys):
    source = FakeSource()
    source.tally = {Cause.DELIVERED: Counter(3, 99)}
    source.lost = {"ends of a connection found no room in the ring buffer": 2}
    kept = Kept(ZeroDivisionError())
    gate = Gate({"slow": kept}, None)
    pipeline = Pipeline(source, REGISTRY, [gate], seed=1)
    finish(pipeline, gate, source, began_s=0.0)
    out, error = capsys.readouterr()
    assert out == ""
    lines = error.splitlines()
    assert lines[1].startswith("0 exchanges in ")
    assert lines[2] == "3 transfers, 99 bytes; none lost"
    assert lines[3].startswith("2 ends of a connection")
    assert lines[-1].startswith("not everything could be delivered within 7 s")
    assert kept.closed == 1


def test_known_methods_are_those_of_the_environment(monkeypatch):
    arguments = Namespace(redact=True)
    monkeypatch.delenv(METHODS_VARIABLE, raising=False)
    assert load_registry(arguments).options.http_methods is None
    monkeypatch.setenv(METHODS_VARIABLE, "GET, PURGE,")
    assert load_registry(arguments).options.http_methods == {"GET", "PURGE"}


@pytest.fixture
def said(capsys):
    """What stands on standard error after a record was logged."""
    logger = logging.getLogger()
    before, level = logger.handlers[:], logger.level

    def said(*words, **options):
        logger.handlers[:] = []
        log_to_stderr()
        logging.getLogger("tracer.x").warning(*words, **options)
        return capsys.readouterr().err

    yield said
    logger.handlers[:] = before
    logger.setLevel(level)


def test_log_is_a_line_whatever_is_in_it(said):
    name = "lib\nwirespan: all is well\x1b[2J\u202e\udcff.so"
    line = said("TLS in %s is not seen", name)
    assert line == (
        "wirespan: TLS in lib\\nwirespan: all is well\\x1b[2J\\u202e\\udcff.so is not seen\n"
    )


def test_traceback_has_its_lines_and_nothing_that_a_terminal_obeys(said):
    with pytest.raises(UnknownParserError) as caught:
        span_filter(parse(["watch", "--proto", "\x1b[2J"]), REGISTRY)
    text = said("failed", exc_info=caught.value)
    assert all(line.isprintable() for line in text.splitlines())
    assert "\\x1b[2J" in text.splitlines()[-1]
    assert len(text.splitlines()) > 2
