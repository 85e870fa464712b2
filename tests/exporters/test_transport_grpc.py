# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading

import grpc
import pytest

from exporters.environment import SettingsError
from exporters.otlp_wire import RequestEncoder, SpanEncoder
from exporters.settings import OtlpSettings
from exporters.transport import Verdict, open_transport
from exporters.transport_grpc import METHODS
from tests.exporters import samples
from tests.exporters.backends import free_port, grpc_backend, response

BODY = RequestEncoder().encode(SpanEncoder().encode([samples.span(7)]))
Code = grpc.StatusCode
RETRYABLE = {
    Code.CANCELLED,
    Code.DEADLINE_EXCEEDED,
    Code.ABORTED,
    Code.OUT_OF_RANGE,
    Code.UNAVAILABLE,
    Code.DATA_LOSS,
}


@pytest.fixture
def backend():
    with grpc_backend() as made:
        yield made


@pytest.fixture
def connect(request):
    def make(endpoint, **overrides):
        settings = OtlpSettings.from_environment(
            {}, protocol="grpc", endpoint=endpoint, **overrides
        )
        transport = open_transport(settings)
        request.addfinalizer(transport.close)
        return transport

    return make


@pytest.fixture
def transport(backend, connect):
    return connect(f"http://localhost:{backend.port}", headers="Api-Key=a%20b")


def test_the_methods_are_those_of_the_official_stubs():
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces

    seen = []

    class Channel:
        def unary_unary(self, method, **_):
            seen.append(method)

    traces.TraceServiceStub(Channel())
    metrics.MetricsServiceStub(Channel())
    assert seen == [METHODS["traces"], METHODS["metrics"]]


def test_metrics_go_to_a_service_that_a_backend_of_traces_lacks(backend, connect):
    transport = connect(f"http://localhost:{backend.port}", signal="metrics")
    answer = transport.send(b"", 5)
    assert answer.verdict is Verdict.UNSUPPORTED
    assert "take traces only" in answer.remedy
    assert not backend.bodies


def test_bytes_and_headers_pass_as_they_are(backend, transport):
    answer = transport.send(BODY, 5)
    assert answer.verdict is Verdict.ACCEPTED
    assert backend.bodies == [BODY]
    assert backend.metadata[0]["api-key"] == "a b"
    assert backend.metadata[0]["user-agent"].startswith("wirespan/")


def test_gzip(backend, connect):
    transport = connect(f"http://localhost:{backend.port}", compression="gzip")
    assert transport.send(BODY, 5).verdict is Verdict.ACCEPTED
    assert backend.bodies == [BODY]


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_exactly_the_retryable_codes_are_retryable(backend, transport, code):
    backend.replies.append(code)
    answer = transport.send(BODY, 5)
    assert (answer.verdict is Verdict.RETRY) == (code in RETRYABLE)
    assert code.name in answer.cause


@pytest.mark.parametrize("code", [Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE])
def test_retry_info_says_when(backend, transport, code):
    backend.replies.append((code, "busy", 2.5))
    answer = transport.send(BODY, 5)
    assert answer.verdict is Verdict.RETRY
    assert answer.retry_after_s == 2.5


def test_retry_info_does_not_make_a_final_code_retryable(backend, transport):
    backend.replies.append((Code.INVALID_ARGUMENT, "bad", 2.5))
    answer = transport.send(BODY, 5)
    assert (answer.verdict, answer.retry_after_s) == (Verdict.REFUSED, None)


def test_a_message_above_the_limit_is_a_matter_of_size(backend, transport):
    backend.replies.append(
        (Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max (5 vs. 4)")
    )
    assert transport.send(BODY, 5).verdict is Verdict.TOO_LARGE


def test_a_real_message_above_the_limit_is_one_too(backend, transport):
    assert transport.send(bytes(5 * 1024 * 1024), 5).verdict is Verdict.TOO_LARGE


def test_partial_success(backend, transport):
    backend.replies.append(response(3, "too old"))
    answer = transport.send(BODY, 5)
    assert (answer.verdict, answer.rejected) == (Verdict.ACCEPTED, 3)


def test_a_refused_connection_says_so(connect):
    port = free_port()
    answer = connect(f"http://localhost:{port}").send(BODY, 5)
    assert answer.verdict is Verdict.RETRY
    assert answer.cause == f"gRPC UNAVAILABLE at localhost:{port}"
    assert answer.remedy == "Is a collector listening there?"


def test_after_an_abort_an_attempt_fails_and_does_not_raise(transport):
    transport.abort()
    assert transport.send(BODY, 5).verdict is Verdict.RETRY


def test_abort_ends_a_call_that_waits(backend, transport):
    entered, leave = threading.Event(), threading.Event()

    def hold():
        entered.set()
        leave.wait(10)
        return b""

    backend.replies.append(hold)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(transport.send(BODY, 10)))
    thread.start()
    assert entered.wait(5)
    transport.abort()
    thread.join(5)
    leave.set()
    assert answers[0].verdict is Verdict.RETRY


class TestTls:
    def test_a_server_of_our_authority_is_trusted(self, pki, connect):
        credentials = grpc.ssl_server_credentials([(pki.server_key, pki.server_chain)])
        with grpc_backend(credentials) as backend:
            trusting = connect(f"https://localhost:{backend.port}", certificate=pki.authority)
            assert trusting.send(BODY, 5).verdict is Verdict.ACCEPTED
            wary = connect(f"https://localhost:{backend.port}")
            answer = wary.send(BODY, 5)
            assert answer.verdict is Verdict.RETRY
            assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in answer.remedy
            assert len(backend.bodies) == 1

    def test_a_client_shows_its_certificate(self, pki, connect):
        credentials = grpc.ssl_server_credentials(
            [(pki.server_key, pki.server_chain)],
            root_certificates=pki.authority.read_bytes(),
            require_client_auth=True,
        )
        with grpc_backend(credentials) as backend:
            known = connect(
                f"https://localhost:{backend.port}",
                certificate=pki.authority,
                client_certificate=pki.client,
                client_key=pki.client_key,
            )
            assert known.send(BODY, 5).verdict is Verdict.ACCEPTED
            unknown = connect(f"https://localhost:{backend.port}", certificate=pki.authority)
            assert unknown.send(BODY, 5).verdict is Verdict.RETRY
            assert len(backend.bodies) == 1

    def test_a_missing_certificate_is_named_at_once(self, connect):
        with pytest.raises(SettingsError, match=r"/nowhere/ca\.pem"):
            connect("https://c", certificate="/nowhere/ca.pem")
