# SPDX-License-Identifier: Apache-2.0
"""What both transports share; test_transport_http.py and _grpc.py meet real backends."""

from __future__ import annotations

import pytest

from exporters.settings import OtlpSettings
from exporters.transport import ACCEPTED, MAX_MESSAGE, Verdict, accepted, open_transport, shorten
from tests.exporters.backends import response


@pytest.mark.parametrize(
    ("protocol", "name"), [("grpc", "GrpcTransport"), ("http/protobuf", "HttpTransport")]
)
def test_the_protocol_decides(protocol, name):
    transport = open_transport(OtlpSettings(protocol=protocol))
    assert type(transport).__name__ == name
    transport.close()


@pytest.mark.parametrize("body", [b"", response()])
def test_an_empty_answer_is_success(body):
    assert accepted(body) == ACCEPTED


def test_a_negative_count_of_rejected_spans_is_none():
    assert accepted(response(-5, "odd")).rejected == 0


def test_what_is_not_otlp_is_accepted_with_a_warning():
    answer = accepted(b"\xff\xff")
    assert answer.verdict is Verdict.ACCEPTED
    assert answer.cause == "foreign answer"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (" a\n  b\t", "a b"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("x" * 1000, "x" * MAX_MESSAGE + "..."),
    ],
)
def test_words_fit_on_one_line_of_a_log(words, line):
    assert shorten(words) == line


def test_a_partial_success_of_metrics_is_read_as_well():
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsPartialSuccess,
        ExportMetricsServiceResponse,
    )

    partial = ExportMetricsPartialSuccess(rejected_data_points=7, error_message="too old")
    body = ExportMetricsServiceResponse(partial_success=partial).SerializeToString()
    answer = accepted(body)
    assert (answer.verdict, answer.rejected, answer.message) == (Verdict.ACCEPTED, 7, "too old")
