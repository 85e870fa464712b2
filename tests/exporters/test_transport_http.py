# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import email.utils
import socket
import threading
import time

import pytest
from google.rpc.status_pb2 import Status

from exporters.environment import SettingsError
from exporters.otlp_wire import RequestEncoder, SpanEncoder
from exporters.settings import OtlpSettings
from exporters.transport import Verdict, open_transport
from exporters.transport_http import retry_after
from tests.exporters import samples
from tests.exporters.backends import DISCONNECT, Reply, free_port, http_backend, response

BODY = RequestEncoder().encode(SpanEncoder().encode([samples.span(7)]))


@pytest.fixture
def backend():
    with http_backend() as made:
        yield made


@pytest.fixture
def connect(request):
    """Makes transports that are closed at the end."""

    def make(endpoint, **overrides):
        settings = OtlpSettings.from_environment({}, endpoint=endpoint, **overrides)
        transport = open_transport(settings)
        request.addfinalizer(transport.close)
        return transport

    return make


def test_a_request_is_what_otlp_asks_for(backend, connect):
    transport = connect(backend.url(), headers="api-key=a%20b")
    answer = transport.send(BODY, 5)
    assert answer.verdict is Verdict.ACCEPTED
    assert not answer.cause
    (request,) = backend.requests
    assert request.path == "/v1/traces"
    assert request.body == BODY
    assert request.headers["Content-Type"] == "application/x-protobuf"
    assert request.headers["Api-Key"] == "a b"
    assert request.headers["User-Agent"].startswith("wirespan/")
    assert request.headers["Content-Encoding"] is None


def test_gzip(backend, connect):
    connect(backend.url(), compression="gzip").send(BODY * 20, 5)
    (request,) = backend.requests
    assert request.headers["Content-Encoding"] == "gzip"
    assert len(request.body) < len(BODY)
    assert request.message.resource_spans


def test_one_connection_serves_many_requests(backend, connect):
    transport = connect(backend.url())
    backend.replies += [Reply(), Reply(503, b"busy", "text/plain"), Reply(200, response(1, "x"))]
    for _ in range(5):
        transport.send(BODY, 5)
    assert len({request.client for request in backend.requests}) == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_retryable_codes(backend, connect, status):
    backend.replies.append(Reply(status))
    answer = connect(backend.url()).send(BODY, 5)
    assert answer.verdict is Verdict.RETRY
    assert answer.cause == f"HTTP {status}"


@pytest.mark.parametrize("status", [300, 301, 400, 401, 403, 408, 500, 501, 505, 599])
def test_all_other_codes_are_final(backend, connect, status):
    backend.replies.append(Reply(status, headers={"Retry-After": "5"}))
    assert connect(backend.url()).send(BODY, 5).verdict is Verdict.REFUSED


def test_413_is_a_matter_of_size(backend, connect):
    backend.replies.append(Reply(413))
    assert connect(backend.url()).send(BODY, 5).verdict is Verdict.TOO_LARGE


def test_retry_after_is_read(backend, connect):
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    backend.replies += [
        Reply(503, headers={"Retry-After": "17"}),
        Reply(429, headers={"Retry-After": soon}),
        Reply(503, headers={"Retry-After": "soon"}),
    ]
    transport = connect(backend.url())
    assert transport.send(BODY, 5).retry_after_s == 17
    assert 25 <= transport.send(BODY, 5).retry_after_s <= 30
    assert transport.send(BODY, 5).retry_after_s is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        (" 120 ", 120),
        ("9" * 400, 999_999_999),
        ("-1", None),
        ("1.5", None),
        ("\u0663", None),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Thu, 99 Jan 1970", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after(value, 100.0) == seconds


def test_partial_success(backend, connect):
    backend.replies.append(Reply(200, response(3, "span too old\x1b[31m")))
    answer = connect(backend.url()).send(BODY, 5)
    assert answer.verdict is Verdict.ACCEPTED
    assert answer.rejected == 3
    assert answer.message == "span too old\\x1b[31m"


def test_a_warning_without_rejected_spans(backend, connect):
    backend.replies.append(Reply(200, response(0, "deprecated")))
    answer = connect(backend.url()).send(BODY, 5)
    assert (answer.verdict, answer.rejected) == (Verdict.ACCEPTED, 0)
    assert answer.message == "deprecated"


def test_an_answer_that_is_not_otlp_is_pointed_out(backend, connect):
    backend.replies.append(Reply(200, b"\xff\xff<html>"))
    answer = connect(backend.url()).send(BODY, 5)
    assert answer.verdict is Verdict.ACCEPTED
    assert "OTLP receiver" in answer.remedy


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(400, Status(message="bad span").SerializeToString()), "bad span"),
        (Reply(400, b"bad\n\x07span", "text/plain"), "bad \\x07span"),
        (Reply(400, b"<html>", "text/html"), "Bad Request"),
        (Reply(400, b"\xff\xff\xff"), "Bad Request"),
        (Reply(400, b"x" * 5000, "text/plain"), "x" * 300 + "..."),
    ],
)
def test_the_backend_has_its_say_in_one_line(backend, connect, reply, words):
    backend.replies.append(reply)
    assert connect(backend.url()).send(BODY, 5).message == words


def test_a_redirect_is_not_followed_but_named(backend, connect):
    backend.replies.append(Reply(308, headers={"Location": "https://c/v1/traces"}))
    assert "https://c/v1/traces" in connect(backend.url()).send(BODY, 5).remedy


def test_a_refused_connection_says_so(connect):
    port = free_port()
    answer = connect(f"http://localhost:{port}").send(BODY, 5)
    assert answer.verdict is Verdict.RETRY
    assert answer.cause == f"connection refused at localhost:{port}"
    assert answer.remedy == "Is a collector listening there?"


@pytest.fixture
def no_names(monkeypatch):
    """Name resolution fails, without asking anybody."""

    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)


def test_an_unknown_host_is_tried_again(connect, no_names):
    answer = connect("http://collector.invalid:4318").send(BODY, 5)
    assert answer.verdict is Verdict.RETRY
    assert answer.cause == "unknown host at collector.invalid:4318"


def test_a_disconnect_without_answer_is_tried_again(backend, connect):
    backend.replies.append(DISCONNECT)
    answer = connect(backend.url()).send(BODY, 5)
    assert answer.verdict is Verdict.RETRY
    assert "disconnected" in answer.cause


def test_a_kept_connection_that_has_gone_stale_costs_nothing(backend, connect):
    transport = connect(backend.url())
    backend.replies += [Reply(), DISCONNECT, Reply()]
    assert transport.send(BODY, 5).verdict is Verdict.ACCEPTED
    assert transport.send(BODY, 5).verdict is Verdict.ACCEPTED
    assert len(backend.requests) == 3


def test_a_backend_that_closes_after_each_answer(backend, connect):
    transport = connect(backend.url())
    backend.replies += [Reply(headers={"Connection": "close"}) for _ in range(3)]
    answers = [transport.send(BODY, 5) for _ in range(3)]
    assert [answer.verdict for answer in answers] == [Verdict.ACCEPTED] * 3
    assert len({request.client for request in backend.requests}) == 3


def test_a_slow_backend_times_out(backend, connect):
    backend.release.clear()
    started = time.monotonic()
    answer = connect(backend.url()).send(BODY, 0.1)
    assert time.monotonic() - started < 2
    assert answer.verdict is Verdict.RETRY
    assert "timeout" in answer.cause


def test_abort_ends_a_request_that_waits(backend, connect):
    backend.release.clear()
    transport = connect(backend.url())
    answers = []
    thread = threading.Thread(target=lambda: answers.append(transport.send(BODY, 10)))
    thread.start()
    while not backend.requests:
        time.sleep(0.001)
    transport.abort()
    thread.join(5)
    assert answers[0].verdict is Verdict.RETRY


def test_a_peer_that_speaks_something_else(connect):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            sock, _ = listener.accept()
            with sock:
                sock.recv(10)
                sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        transport = connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert transport.send(BODY, 5).verdict is Verdict.RETRY
        thread.join()


def test_credentials_of_the_url_are_sent_as_basic(backend, connect):
    connect(f"http://me:p%40ss@localhost:{backend.port}").send(BODY, 5)
    assert backend.requests[0].headers["Authorization"] == "Basic bWU6cEBzcw=="


def test_a_header_counts_for_more_than_the_url(backend, connect):
    connect(f"http://me:x@localhost:{backend.port}", headers="authorization=Bearer t").send(BODY, 5)
    assert backend.requests[0].headers.get_all("Authorization") == ["Bearer t"]


def test_a_proxy_gets_the_absolute_form(backend, connect, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://u:p@127.0.0.1:{backend.port}")
    connect("http://collector.invalid:4318").send(BODY, 5)
    (request,) = backend.requests
    assert request.path == "http://collector.invalid:4318/v1/traces"
    assert request.headers["Host"] == "collector.invalid:4318"
    assert request.headers["Proxy-Authorization"] == "Basic dTpw"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_collector_on_this_machine_needs_no_proxy(backend, connect, monkeypatch, host):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert connect(f"http://{host}:{backend.port}").send(BODY, 5).verdict is Verdict.ACCEPTED


def test_no_proxy_is_heeded(connect, monkeypatch, no_names):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", ".invalid")
    assert "unknown host" in connect("http://collector.invalid:4318").send(BODY, 5).cause


class TestTls:
    def test_a_server_of_our_authority_is_trusted(self, pki, connect):
        with http_backend(pki.context()) as backend:
            transport = connect(backend.url("https"), certificate=pki.authority)
            assert transport.send(BODY, 5).verdict is Verdict.ACCEPTED
            assert transport.send(BODY, 5).verdict is Verdict.ACCEPTED

    def test_any_other_is_not(self, pki, connect):
        with http_backend(pki.context()) as backend:
            answer = connect(backend.url("https")).send(BODY, 5)
            assert answer.verdict is Verdict.RETRY
            assert "not trusted" in answer.cause
            assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in answer.remedy
            assert not backend.requests

    def test_a_client_shows_its_certificate(self, pki, connect):
        with http_backend(pki.context(mutual=True)) as backend:
            transport = connect(
                backend.url("https"),
                certificate=pki.authority,
                client_certificate=pki.client,
                client_key=pki.client_key,
            )
            assert transport.send(BODY, 5).verdict is Verdict.ACCEPTED

    def test_without_one_it_is_sent_away(self, pki, connect):
        with http_backend(pki.context(mutual=True)) as backend:
            transport = connect(backend.url("https"), certificate=pki.authority)
            assert transport.send(BODY, 5).verdict is Verdict.RETRY
            assert not backend.requests

    def test_a_backend_without_tls_is_pointed_out(self, backend, connect):
        answer = connect(backend.url("https")).send(BODY, 1)
        assert answer.verdict is Verdict.RETRY
        assert answer.cause.startswith(("TLS failed", "timeout", "disconnected"))

    def test_a_missing_certificate_is_named_at_once(self, connect):
        with pytest.raises(SettingsError, match=r"/nowhere/ca\.pem"):
            connect("https://c", certificate="/nowhere/ca.pem")

    def test_a_key_that_does_not_fit_is_named_at_once(self, pki, connect):
        with pytest.raises(SettingsError, match=r"client\.pem"):
            connect("https://c", client_certificate=pki.client, client_key=pki.authority)


def test_metrics_go_to_their_own_path(backend, connect):
    answer = connect(backend.url(), signal="metrics").send(BODY, 5)
    assert answer.verdict is Verdict.ACCEPTED
    assert [request.path for request in backend.requests] == ["/v1/metrics"]


@pytest.mark.parametrize("status", [404, 405])
def test_a_backend_that_takes_no_such_signal_is_no_riddle(backend, connect, status):
    backend.replies += [Reply(status)] * 2
    metrics = connect(backend.url(), signal="metrics").send(BODY, 5)
    traces = connect(backend.url()).send(BODY, 5)
    assert metrics.verdict is traces.verdict is Verdict.UNSUPPORTED
    assert "traces only" in metrics.remedy
    assert "/v1/traces" in traces.remedy
