# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from exporters.environment import SettingsError
from exporters.prometheus_address import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    default_address,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (DEFAULT_HOST, DEFAULT_PORT)),
        (":9000", (DEFAULT_HOST, 9000)),
        ("9000", (DEFAULT_HOST, 9000)),
        ("0.0.0.0:9000", ("0.0.0.0", 9000)),
        ("localhost", ("localhost", DEFAULT_PORT)),
        (" localhost:0 ", ("localhost", 0)),
        ("[::1]:9000", ("::1", 9000)),
        ("[fe80::1%eth0]:9000", ("fe80::1%eth0", 9000)),
    ],
)
def test_address_may_lack_what_has_a_default(text, expected):
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        ":", "host:", "host:port", "host:65536", ":-1", "::1", "::1:9464", "[::1]", "[host]:9464",
        "http://localhost:9464", "localhost:9464/metrics", "a b:9464", "host:\uff19",
    ],
)  # fmt: skip
def test_address_that_is_none_is_refused_in_words(text):
    with pytest.raises(SettingsError, match="listen on"):
        parse_address(text)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "127.0.0.1:9464"),
        ({"OTEL_EXPORTER_PROMETHEUS_HOST": "0.0.0.0"}, "0.0.0.0:9464"),
        ({"OTEL_EXPORTER_PROMETHEUS_PORT": "9000"}, "127.0.0.1:9000"),
        (
            {"OTEL_EXPORTER_PROMETHEUS_HOST": "::1", "OTEL_EXPORTER_PROMETHEUS_PORT": "9000"},
            "[::1]:9000",
        ),
        (
            {"OTEL_EXPORTER_PROMETHEUS_HOST": " ", "OTEL_EXPORTER_PROMETHEUS_PORT": ""},
            "127.0.0.1:9464",
        ),
    ],
)
def test_variables_of_opentelemetry_are_the_default(environ, expected, caplog):
    assert parse_address(default_address(environ)) == parse_address(expected)
    assert not caplog.records


@pytest.mark.parametrize("port", ["many", "70000"])
def test_bad_variable_is_a_warning_and_the_default(port, caplog):
    found = default_address({"OTEL_EXPORTER_PROMETHEUS_PORT": port})
    assert parse_address(found) == (DEFAULT_HOST, DEFAULT_PORT)
    assert "OTEL_EXPORTER_PROMETHEUS_HOST and _PORT are not used" in caplog.text
