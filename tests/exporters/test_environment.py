# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from exporters import environment
from exporters.environment import Reader, SettingsError, exporters_from_environment


def test_a_flag_comes_before_the_variables_in_their_order():
    environ = {"A": "1", "B": "2"}
    assert Reader(environ, {"x": "9"}).first("x", int, "A", "B") == 9
    assert Reader(environ, {"x": None}).first("x", int, "A", "B") == 1
    assert Reader(environ).first("x", int, "B", "A") == 2
    assert Reader(environ).first("x", int, "C") is None


def test_a_bad_flag_is_an_error_that_names_it():
    with pytest.raises(SettingsError, match="x: 'soon' is no number of seconds"):
        Reader({"A": "1"}, {"x": "soon"}).first("x", environment.seconds, "A")


def test_a_bad_variable_is_a_warning_and_the_next_one(caplog):
    reader = Reader({"A": "many", "B": "2"})
    assert reader.first("x", environment.count, "A", "B") == 2
    assert "A is ignored: 'many'" in caplog.text


def test_an_empty_variable_is_unset(caplog):
    assert Reader({"A": " "}).variable("A", environment.count) is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (environment.boolean, "TRUE", True),
        (environment.boolean, "false", False),
        (environment.count, "12", 12),
        (environment.seconds, "1.5", 1.5),
        (environment.milliseconds, "1500", 1.5),
        (environment.ratio, "0", 0.0),
        (environment.ratio, "1", 1.0),
        (environment.ratio, ".25", 0.25),
        (environment.ratio, "1e-3", 0.001),
        (environment.ratio, "0.10", 0.1),
    ],
)
def test_values(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (environment.boolean, "1"),
        (environment.boolean, "yes"),
        (environment.count, "0"),
        (environment.count, "-3"),
        (environment.count, "1" * 13),
        (environment.seconds, "0"),
        (environment.seconds, "inf"),
        (environment.milliseconds, "1.5"),
        (environment.milliseconds, "0"),
        (environment.ratio, "1.1"),
        (environment.ratio, "-0.1"),
        (environment.ratio, "nan"),
        (environment.ratio, "10%"),
        (environment.ratio, "."),
        (environment.ratio, ""),
    ],
)
def test_bad_values_are_named(parse, text):
    with pytest.raises(ValueError, match=repr(text)):
        parse(text)


@pytest.mark.parametrize(
    ("environ", "traces", "metrics"),
    [
        ({}, None, None),
        ({"OTEL_TRACES_EXPORTER": "", "OTEL_METRICS_EXPORTER": " "}, None, None),
        ({"OTEL_TRACES_EXPORTER": "none"}, (), None),
        ({"OTEL_TRACES_EXPORTER": "otlp, console,otlp"}, ("otlp", "console"), None),
        ({"OTEL_METRICS_EXPORTER": "Prometheus,OTLP"}, None, ("prometheus", "otlp")),
    ],
)
def test_the_environment_chooses_exporters(environ, traces, metrics):
    assert exporters_from_environment(environ, "traces") == traces
    assert exporters_from_environment(environ, "metrics") == metrics


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_TRACES_EXPORTER", "otlp,prometheus"),
        ("OTEL_TRACES_EXPORTER", "none,otlp"),
        ("OTEL_METRICS_EXPORTER", "statsd"),
    ],
)
def test_an_unknown_exporter_is_a_warning_and_the_default(caplog, name, value):
    signal = "metrics" if "METRICS" in name else "traces"
    assert exporters_from_environment({name: value}, signal) is None
    assert f"{name} is ignored" in caplog.text


@pytest.mark.parametrize(("value", "warnings"), [("true", 1), ("False", 0), ("", 0)])
def test_a_disabled_sdk_does_not_disable_the_agent(caplog, value, warnings):
    environ = {"OTEL_SDK_DISABLED": value, "OTEL_TRACES_EXPORTER": "otlp"}
    assert exporters_from_environment(environ, "traces") == ("otlp",)
    assert exporters_from_environment(environ, "metrics") is None
    assert len(caplog.records) == warnings
