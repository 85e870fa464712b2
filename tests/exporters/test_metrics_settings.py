# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging

import pytest

from exporters.environment import SettingsError
from exporters.metrics_settings import MetricsSettings
from exporters.temporality import Temporality

PREFIX = "OTEL_EXPORTER_OTLP_METRICS_"


def settings(options=None, **environ):
    return MetricsSettings.from_options(options or {}, environ)


def ways(options=None, **environ):
    made = settings(options, **environ)
    return made.otlp is not None, made.prometheus


def test_by_default_metrics_go_by_otlp_to_localhost():
    made = settings()
    assert made.otlp.signal == "metrics"
    assert made.otlp.endpoint == "http://localhost:4318/v1/metrics"
    assert made.otlp.schedule_delay_s == 60
    assert made.otlp.export_timeout_s == 30
    assert made.prometheus == ""
    assert made.temporality is Temporality.CUMULATIVE
    assert made.exponential is False


@pytest.mark.parametrize(
    ("options", "environ", "wanted"),
    [
        ({}, {"OTEL_METRICS_EXPORTER": "none"}, (False, "")),
        ({}, {"OTEL_METRICS_EXPORTER": "otlp"}, (True, "")),
        ({}, {"OTEL_METRICS_EXPORTER": "prometheus"}, (False, ":9464")),
        ({}, {"OTEL_METRICS_EXPORTER": "otlp,prometheus"}, (True, ":9464")),
        ({"prometheus": ":9000"}, {}, (True, ":9000")),
        ({"prometheus": ":9000"}, {"OTEL_METRICS_EXPORTER": "none"}, (False, ":9000")),
        ({"otlp": "false"}, {"OTEL_METRICS_EXPORTER": "prometheus"}, (False, ":9464")),
        ({"prometheus": ":9000", "endpoint": "http://c:4318"}, {}, (True, ":9000")),
        ({"prometheus": ":9000", "otlp": "true"}, {}, (True, ":9000")),
        ({"otlp": "true"}, {"OTEL_METRICS_EXPORTER": "none"}, (True, "")),
        ({"otlp": "false"}, {"OTEL_METRICS_EXPORTER": "otlp"}, (False, "")),
    ],
)
def test_which_ways_are_open(options, environ, wanted):
    assert ways(options, **environ) == wanted


def test_options_of_otlp_are_its_settings():
    made = settings(
        {
            "endpoint": "collector:4317",
            "protocol": "grpc",
            "headers": "api-key=secret",
            "compression": "gzip",
        }
    ).otlp
    assert (made.endpoint, made.protocol, made.gzip) == ("collector:4317", "grpc", True)
    assert made.headers == (("api-key", "secret"),)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"colour": "red"}, "colour"),
        ({"otlp": "maybe"}, "otlp"),
        ({"endpoint": "nonsense"}, "endpoint"),
        ({"protocol": "smoke"}, "protocol"),
    ],
)
def test_a_bad_option_is_an_error_in_words(options, words):
    with pytest.raises(SettingsError, match=words):
        settings(options)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("delta", Temporality.DELTA),
        ("Cumulative", Temporality.CUMULATIVE),
        ("lowMemory", Temporality.LOW_MEMORY),
    ],
)
def test_temporality(value, wanted):
    assert settings(**{PREFIX + "TEMPORALITY_PREFERENCE": value}).temporality is wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("explicit_bucket_histogram", False), ("base2_exponential_bucket_histogram", True)],
)
def test_aggregation(value, wanted):
    assert settings(**{PREFIX + "DEFAULT_HISTOGRAM_AGGREGATION": value}).exponential is wanted


@pytest.mark.parametrize("name", ["TEMPORALITY_PREFERENCE", "DEFAULT_HISTOGRAM_AGGREGATION"])
def test_a_bad_variable_is_a_warning_and_the_default(name, caplog):
    with caplog.at_level(logging.WARNING):
        assert settings(**{PREFIX + name: "round"}) == settings()
    assert "'round'" in caplog.text
