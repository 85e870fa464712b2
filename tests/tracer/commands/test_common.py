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
from tests.exporters import samples
from tests.tracer.fakes import FakeSource
from tracer.arguments import parse
from tracer.commands import common
from tracer.commands.common import (
    METHODS_VARIABLE,
    Gate,
    Interruptible,
    export_names,
    finish,
    load_registry,
    log_to_stderr,
    make_gate,
    span_filter,
)
from tracer.events import Cause
from tracer.pipeline import Pipeline
from tracer.plugins import ExporterError
from tracer.source import Counter

REGISTRY = Registry({"http1": Http1Parser}, Options())


class Kept:
    """An exporter that keeps spans, and fails if told to."""

    def __init__(self, error=None):
        self.spans = []
        self.error = error
        self.closed = 0
        self.flushed_s = None

    def export(self, spans):
        if self.error is not None:
            raise self.error
        self.spans += spans

    def flush(self, timeout_s):
        self.flushed_s = timeout_s
        return self.error is None

    def close(self):
        self.closed += 1

    def counters(self):
        return {"spans_sent": len(self.spans)}


@pytest.fixture
def made(monkeypatch):
    """Exporters that `make_gate` made: name, options, exporter."""
    found = []

    def make(name, options):
        if name == "bad":
            raise ExporterError("no exporter is called bad")
        found.append((name, options, Kept()))
        return found[-1][2]

    monkeypatch.setattr(common, "make_exporter", make)
    return found


def spans(count):
    return [samples.span() for _ in range(count)]


def test_gate_stops_at_exactly_the_limit():
    kept = Kept()
    gate = Gate({"kept": kept}, 5)
    gate.export(spans(3))
    assert not gate.full
    gate.export(spans(4))
    assert gate.full
    gate.export(spans(4))
    assert len(kept.spans) == 5
    assert sum(gate.seen.kinds.values()) == 5


def test_gate_without_a_limit_is_never_full():
    gate = Gate({}, None)
    gate.export(spans(1000))
    assert not gate.full
    assert sum(gate.seen.completeness.values()) == 1000


def test_exporter_that_fails_is_counted_and_hinders_no_other(caplog):
    bad, good = Kept(ZeroDivisionError()), Kept()
    gate = Gate({"bad": bad, "good": good}, None)
    with caplog.at_level(logging.ERROR):
        gate.export(spans(3))
        gate.export(spans(2))
    assert len(good.spans) == 5
    assert gate.counters_by_exporter()["bad"]["spans_dropped_fault"] == 5
    assert gate.counters_by_exporter()["good"]["spans_dropped_fault"] == 0
    assert len(caplog.records) == 1


def test_exporter_that_loses_its_connection_does_not_end_the_run():
    bad, good = Kept(ConnectionResetError()), Kept()
    gate = Gate({"bad": bad, "good": good}, None)
    gate.export(spans(3))
    assert len(good.spans) == 3
    assert gate.counters_by_exporter()["bad"]["spans_dropped_fault"] == 3


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device")])
def test_output_that_cannot_be_written_ends_the_run(error):
    with pytest.raises(type(error)):
        Gate({"console": Kept(error)}, None).export(spans(1))


def test_gate_flushes_all_and_closes_once():
    one, two = Kept(ZeroDivisionError()), Kept()
    gate = Gate({"one": one, "two": two}, None)
    assert not gate.flush(2.0)
    assert 0 <= two.flushed_s <= 2.0
    gate.close()
    gate.close()
    assert (one.closed, two.closed) == (1, 1)


def test_output_flags_make_a_console(made):
    make_gate(parse(["watch", "-o", "wide", "--color", "never"]), "wide")
    assert [(name, options) for name, options, _ in made] == [
        ("console", {"style": "wide", "color": "never"})
    ]


def test_no_output_is_no_console(made):
    arguments = parse(["watch", "-o", "none"])
    assert make_gate(arguments, arguments.output).exporters == {}
    assert made == []


def test_flags_of_otlp_reach_it_as_it_understands_them(made):
    line = "agent --endpoint http://h:1 --protocol grpc --compression gzip --header x-y=z"
    arguments = parse([*line.split(), "--header", "api-key=a=b, c%"])
    make_gate(arguments, None)
    ((name, options, _),) = made
    assert name == "otlp"
    assert options == {
        "endpoint": "http://h:1",
        "protocol": "grpc",
        "compression": "gzip",
        "headers": "x-y=z,api-key=a%3Db%2C%20c%25",
    }


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("agent", ["otlp"]),
        ("agent --export prom", ["prom"]),
        ("agent --export prom --export otlp --export prom", ["prom", "otlp"]),
        ("watch", []),
        ("watch --endpoint http://h:1", ["otlp"]),
        ("watch --export prom --header a=b", ["prom", "otlp"]),
    ],
)
def test_exporters_are_those_named_and_those_meant(line, names):
    assert export_names(parse(line.split())) == names


def test_exporters_made_before_one_that_cannot_be_are_closed(made):
    with pytest.raises(ExporterError):
        make_gate(parse(["watch", "--export", "otlp", "--export", "bad"]), "compact")
    assert [exporter.closed for _, _, exporter in made] == [1, 1]


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
    assert lines[-1].startswith("not everything could be delivered within 8 s")
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
