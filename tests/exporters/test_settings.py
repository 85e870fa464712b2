# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from exporters.environment import SettingsError
from exporters.settings import OtlpSettings

GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


def read(environ=None, **overrides):
    prefixed = {
        f"OTEL_{'' if k.startswith('BSP') else 'EXPORTER_OTLP_'}{k}": v
        for k, v in (environ or {}).items()
    }
    return OtlpSettings.from_environment(prefixed, **overrides)


def test_defaults_are_those_of_the_specification():
    settings = read()
    assert settings.protocol == "http/protobuf"
    assert settings.endpoint == "http://localhost:4318/v1/traces"
    assert not settings.secure
    assert not settings.gzip
    assert settings.headers == ()
    assert settings.timeout_s == 10
    assert settings.batch_spans == 512
    assert settings.schedule_delay_s == 5
    assert settings.export_timeout_s == 30


def test_default_of_grpc_is_its_own_port_in_the_clear():
    settings = read({"PROTOCOL": "grpc"})
    assert (settings.endpoint, settings.secure) == ("localhost:4317", False)


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({"ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces"),
        ({"ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({"ENDPOINT": "http://c/base"}, "http://c/base/v1/traces"),
        ({"ENDPOINT": "http://c/base/?k=v"}, "http://c/base/v1/traces?k=v"),
        ({"TRACES_ENDPOINT": "http://c:4318"}, "http://c:4318/"),
        ({"TRACES_ENDPOINT": "http://c/mine"}, "http://c/mine"),
        ({"ENDPOINT": "http://a", "TRACES_ENDPOINT": "http://b/x"}, "http://b/x"),
        ({"ENDPOINT": "http://[::1]:4318"}, "http://[::1]:4318/v1/traces"),
        ({"ENDPOINT": ""}, "http://localhost:4318/v1/traces"),
    ],
)
def test_only_the_general_endpoint_gets_a_path(environ, endpoint):
    assert read(environ).endpoint == endpoint


@pytest.mark.parametrize(
    ("flag", "endpoint"),
    [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("https://c/base", "https://c/base/v1/traces"),
        ("http://c/v1/traces", "http://c/v1/traces"),
    ],
)
def test_an_endpoint_flag_may_or_may_not_have_the_path(flag, endpoint):
    assert read({"TRACES_ENDPOINT": "http://other"}, endpoint=flag).endpoint == endpoint


@pytest.mark.parametrize(
    ("value", "insecure", "expected"),
    [
        ("http://c:4317", None, ("c:4317", False)),
        ("https://c:4317", "true", ("c:4317", True)),
        ("https://c", None, ("c:443", True)),
        ("http://[::1]:4317", None, ("[::1]:4317", False)),
        ("c:4317", None, ("c:4317", True)),
        ("c:4317", "TRUE", ("c:4317", False)),
        ("unix:///run/c.sock", "true", ("unix:///run/c.sock", False)),
        ("dns:///c:4317", "true", ("dns:///c:4317", False)),
    ],
)
def test_scheme_then_insecure_decide_about_tls_of_grpc(value, insecure, expected):
    environ = {"PROTOCOL": "grpc", "ENDPOINT": value}
    if insecure:
        environ["INSECURE"] = insecure
    settings = read(environ)
    assert (settings.endpoint, settings.secure) == expected


def test_names_out_of_a_list_are_taken_in_any_case():
    settings = read({"PROTOCOL": "GRPC", "COMPRESSION": "Gzip"})
    assert (settings.protocol, settings.gzip) == ("grpc", True)


def test_insecure_does_not_concern_a_url():
    assert read({"ENDPOINT": "https://c", "INSECURE": "true"}).secure


def test_variables_for_traces_come_before_those_for_all_signals():
    settings = read(
        {
            "PROTOCOL": "http/protobuf",
            "TRACES_PROTOCOL": "grpc",
            "HEADERS": "a=1",
            "TRACES_HEADERS": "b=2",
            "COMPRESSION": "none",
            "TRACES_COMPRESSION": "gzip",
            "TIMEOUT": "1000",
            "TRACES_TIMEOUT": "2500",
            "CERTIFICATE": "/a",
            "TRACES_CERTIFICATE": "/b",
        }
    )
    assert settings.protocol == "grpc"
    assert settings.headers == (("b", "2"),)
    assert settings.gzip
    assert settings.timeout_s == 2.5
    assert settings.certificate == "/b"


def test_flags_come_before_the_environment():
    settings = read(
        {"PROTOCOL": "grpc", "TIMEOUT": "1000", "HEADERS": "a=1", "BSP_MAX_QUEUE_SIZE": "9"},
        protocol="http/protobuf",
        timeout_s=3,
        headers={"b": "2"},
        queue_spans="1000",
        compression="gzip",
    )
    assert settings.protocol == "http/protobuf"
    assert settings.timeout_s == 3
    assert settings.headers == (("b", "2"),)
    assert settings.queue_spans == 1000
    assert settings.gzip


def test_a_flag_that_was_not_given_leaves_the_environment_alone():
    assert read({"TIMEOUT": "1000"}, timeout_s=None).timeout_s == 1


def test_batch_variables_are_milliseconds_and_counts():
    settings = read(
        {
            "BSP_MAX_QUEUE_SIZE": "2048",
            "BSP_MAX_EXPORT_BATCH_SIZE": "100",
            "BSP_SCHEDULE_DELAY": "200",
            "BSP_EXPORT_TIMEOUT": "1500",
        }
    )
    assert settings.queue_spans == 2048
    assert settings.batch_spans == 100
    assert settings.schedule_delay_s == 0.2
    assert settings.export_timeout_s == 1.5


def test_a_batch_larger_than_the_queue_is_cut_with_a_warning(caplog):
    assert read({"BSP_MAX_QUEUE_SIZE": "100"}).batch_spans == 100
    assert "does not fit" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("PROTOCOL", "http/json", "protocol"),
        ("PROTOCOL", "smtp", "protocol"),
        ("ENDPOINT", "localhost:4318", "endpoint"),
        ("TRACES_ENDPOINT", "ftp://c", "endpoint"),
        ("ENDPOINT", "http://c:99999", "endpoint"),
        ("COMPRESSION", "zstd", "gzip"),
        ("TIMEOUT", "10s", "timeout_s"),
        ("TIMEOUT", "-5", "timeout_s"),
        ("TIMEOUT", "0", "timeout_s"),
        ("INSECURE", "yes", "secure"),
        ("HEADERS", "nonsense", "headers"),
        ("HEADERS", "a=%0d%0aEvil: yes", "headers"),
        ("BSP_MAX_QUEUE_SIZE", "0", "queue_spans"),
        ("BSP_MAX_EXPORT_BATCH_SIZE", "many", "batch_spans"),
        ("BSP_SCHEDULE_DELAY", "1.5", "schedule_delay_s"),
    ],
)
def test_a_bad_variable_is_a_warning_and_the_default(caplog, name, value, field):
    assert getattr(read({name: value}), field) == getattr(read(), field)
    assert f"{name} is ignored" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("protocol", "http/json"),
        ("endpoint", "localhost:4318"),
        ("compression", "zstd"),
        ("timeout_s", "soon"),
        ("insecure", "1"),
        ("headers", "nonsense"),
        ("queue_spans", "-1"),
        ("colour", "red"),
    ],
)
def test_a_bad_flag_is_an_error_that_names_it(name, value):
    with pytest.raises(SettingsError, match=name):
        read(**{name: value})


def test_a_bad_variable_for_traces_falls_back_to_the_general_one(caplog):
    assert read({"TRACES_TIMEOUT": "x", "TIMEOUT": "2000"}).timeout_s == 2


def test_header_values_are_percent_decoded_and_names_lower_case():
    settings = read({"HEADERS": "Api-Key=a%20b%3D, x=1,,y="})
    assert settings.headers == (("api-key", "a b="), ("x", "1"), ("y", ""))


def test_secrets_are_not_shown(caplog):
    settings = read({"HEADERS": "api-key=s3cret", "ENDPOINT": "http://me:s3cret@c"})
    assert "s3cret" not in settings.target
    assert "s3cret" not in repr(settings.headers and settings).replace(settings.endpoint, "")
    read({"HEADERS": "s3cret"})
    read({"ENDPOINT": "c://me:s3cret@c"})
    assert "is ignored" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_timeout_that_was_meant_as_seconds_is_pointed_out(caplog):
    assert read({"TIMEOUT": "10"}).timeout_s == 0.01
    assert "milliseconds" in caplog.text
    assert "10000" in caplog.text


class TestMetrics:
    def test_defaults_are_those_of_the_specification(self):
        settings = read(signal="metrics")
        assert settings.signal == "metrics"
        assert settings.endpoint == "http://localhost:4318/v1/metrics"
        assert settings.schedule_delay_s == 60
        assert settings.export_timeout_s == 30
        assert OtlpSettings(signal="metrics").endpoint == settings.endpoint

    @pytest.mark.parametrize(
        ("environ", "endpoint"),
        [
            ({"ENDPOINT": "http://c/base/"}, "http://c/base/v1/metrics"),
            ({"METRICS_ENDPOINT": "http://c/mine"}, "http://c/mine"),
            ({"METRICS_ENDPOINT": "http://c"}, "http://c/"),
            ({"TRACES_ENDPOINT": "http://c/mine"}, "http://localhost:4318/v1/metrics"),
        ],
    )
    def test_only_the_general_endpoint_gets_a_path(self, environ, endpoint):
        assert read(environ, signal="metrics").endpoint == endpoint

    @pytest.mark.parametrize(
        "flag", ["http://c", "http://c/", "http://c/v1/traces", "http://c/v1/metrics"]
    )
    def test_one_endpoint_flag_serves_both_signals(self, flag):
        assert read(endpoint=flag, signal="metrics").endpoint == "http://c/v1/metrics"
        assert read(endpoint=flag).endpoint == "http://c/v1/traces"

    def test_their_own_variables_come_first_and_those_for_traces_do_not_count(self):
        settings = read(
            {
                "PROTOCOL": "http/protobuf",
                "METRICS_PROTOCOL": "grpc",
                "TRACES_PROTOCOL": "http/protobuf",
                "HEADERS": "a=1",
                "METRICS_HEADERS": "b=2",
                "TRACES_COMPRESSION": "gzip",
                "METRICS_TIMEOUT": "2500",
                "METRICS_INSECURE": "true",
                "METRICS_ENDPOINT": "c:4317",
            },
            signal="metrics",
        )
        assert (settings.protocol, settings.endpoint) == ("grpc", "c:4317")
        assert settings.headers == (("b", "2"),)
        assert not settings.secure
        assert not settings.gzip
        assert settings.timeout_s == 2.5

    def test_their_pace_has_variables_of_its_own(self, caplog):
        environ = {
            "OTEL_METRIC_EXPORT_INTERVAL": "10000",
            "OTEL_METRIC_EXPORT_TIMEOUT": "5000",
            "OTEL_BSP_SCHEDULE_DELAY": "1",
            "OTEL_BSP_EXPORT_TIMEOUT": "2",
            "OTEL_BSP_MAX_QUEUE_SIZE": "none of theirs",
        }
        settings = OtlpSettings.from_environment(environ, signal="metrics")
        assert (settings.schedule_delay_s, settings.export_timeout_s) == (10, 5)
        assert not caplog.records

    def test_flags_come_before_the_environment(self):
        environ = {"OTEL_METRIC_EXPORT_INTERVAL": "10000"}
        settings = OtlpSettings.from_environment(environ, "metrics", schedule_delay_s="15")
        assert settings.schedule_delay_s == 15
