# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.tracer.fakes import Kept
from tracer.arguments import parse
from tracer.commands import outputs
from tracer.commands.outputs import export_names, make_gate, make_routes, map_exporter, observe
from tracer.gate import Gate
from tracer.plugins import ExporterError


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("OTEL_TRACES_EXPORTER", raising=False)
    monkeypatch.delenv("OTEL_METRICS_EXPORTER", raising=False)


@pytest.fixture
def made(monkeypatch):
    """Exporters that `make_gate` made: name, options, exporter."""
    found = []

    def make(name, options):
        if name == "bad":
            raise ExporterError("no exporter is called bad")
        found.append((name, options, Kept()))
        return found[-1][2]

    monkeypatch.setattr(outputs, "make_exporter", make)
    return found


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
    name, options, _ = made[0]
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


def options_of(made, line):
    make_gate(parse(line.split()), None)
    return {name: options for name, options, _ in made}


def test_an_agent_has_metrics_and_a_map(made):
    assert options_of(made, "agent --endpoint http://h:1/v1/traces") == {
        "otlp": {"endpoint": "http://h:1/v1/traces"},
        "metrics": {"endpoint": "http://h:1/v1/traces"},
        "map": {"socket": "/run/wirespan/agent.sock"},
    }


def test_metrics_go_where_they_are_asked_for(made):
    line = "agent --no-metrics --prometheus 9464 --socket none"
    assert options_of(made, line) == {
        "otlp": {},
        "metrics": {"otlp": "false", "prometheus": "9464"},
    }
    made.clear()
    assert options_of(made, "agent --export none --socket none") == {
        "none": {},
        "metrics": {"otlp": "false"},
    }


def test_what_is_sampled_and_kept_on_disk(made):
    line = "agent --sample 10% --slow 250ms --spool /s --spool-size 1G --no-metrics --socket none"
    assert options_of(made, line)["otlp"] == {
        "sample": "0.1",
        "slow": "0.25",
        "spool": "/s",
        "spool_bytes": str(1 << 30),
    }


def test_an_sdk_exporter_is_named_by_its_class(made):
    options = options_of(made, "agent --export a.b:C --sample 0.5 --no-metrics --socket none")
    assert options["sdk"] == {"class": "a.b:C", "sample": "0.5"}


def test_variables_name_exporters_and_flags_win(made, monkeypatch):
    off = {"otlp": "false"}
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    assert options_of(made, "agent --socket none") == {"console": {}, "metrics": off}
    made.clear()
    assert options_of(made, "agent --socket none --export otlp") == {"otlp": {}, "metrics": {}}
    made.clear()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert options_of(made, "agent --socket none") == {"metrics": off}


@pytest.mark.parametrize("name", ["metrics", "map", "sdk"])
def test_what_takes_no_spans_is_refused_with_a_remedy(made, name):
    with pytest.raises(ExporterError, match=f"--export {name}: it takes no spans; "):
        make_gate(parse(["agent", "--export", name]), None)
    assert made == []


def test_a_spool_for_nothing_is_refused(made):
    with pytest.raises(ExporterError, match="--spool is for OTLP"):
        make_gate(parse(["agent", "--export", "none", "--spool", "/s"]), None)


def test_metrics_may_go_where_spans_do_not(made, monkeypatch):
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    assert options_of(made, "agent --export none --socket none")["metrics"] == {}


def test_a_map_at_the_end_comes_after_the_lines(made):
    make_gate(parse(["watch", "--map"]), "compact")
    assert [(name, options) for name, options, _ in made][1:] == [
        ("map", {"style": "text", "color": "auto"})
    ]


def test_a_map_of_the_last_minutes(made):
    map_exporter("dot", "never", 300_000_000_000)
    assert made[0][:2] == ("map", {"style": "dot", "color": "never", "since": "300.000000"})


def test_a_route_that_is_none_is_said():
    with pytest.raises(ExporterError, match="--route: "):
        make_routes(parse(["watch", "--route", ""]))


def test_health_is_given_to_those_who_take_it():
    class Curious(Kept):
        def observe(self, readings):
            self.readings = readings

    curious = Curious()
    readings = list
    observe(Gate({"plain": Kept(), "curious": curious}, None), readings)
    assert curious.readings is readings
