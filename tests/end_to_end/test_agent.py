# SPDX-License-Identifier: Apache-2.0
"""`agent`, and how the commands end: OTLP arrives, no span is about sending spans."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.end_to_end.servers import ask, counting_connection
from tests.exporters.backends import grpc_backend, http_backend
from tests.rig import WIRESPAN, nginx, running, wait_until, watch

pytestmark = pytest.mark.kernel

NUMBER = 500
DEADLINE_S = 10.0


@pytest.fixture(scope="module")
def server():
    with nginx() as made:
        yield made


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def agent(*flags, source="auto"):
    """A running agent; its words are read when it has ended."""
    command = [WIRESPAN, "agent", "--no-tls", "--no-metrics", "--socket", "none"]
    command += ["--source", source, *flags]
    with running(command, stderr=subprocess.PIPE, text=True) as program:
        line = program.stderr.readline()
        assert line.startswith("Capturing"), line + program.stderr.read()
        yield program


def end(program, number=signal.SIGTERM):
    """Its exit code, its words and how long it took."""
    began_s = time.monotonic()
    program.send_signal(number)
    _, words = program.communicate(timeout=20)
    return program.returncode, words, time.monotonic() - began_s


def ask_many(port, number=NUMBER):
    connection = counting_connection(port)
    for index in range(number):
        ask(connection, "GET", f"/small?{index}")
    connection.close()


def spans_of(messages):
    """Kind, server port, service name and path of everything that arrived."""
    found = []
    for message in messages:
        for group in message.resource_spans:
            resource = {each.key: each.value for each in group.resource.attributes}
            for scope in group.scope_spans:
                for span in scope.spans:
                    attributes = {each.key: each.value for each in span.attributes}
                    found.append((span, attributes, resource))
    return found


def check(messages, port, number=NUMBER):
    found = spans_of(messages)
    about = [each for each in found if each[1]["server.port"].int_value == port]
    servers = [each for each in about if each[0].kind == 2]
    clients = [each for each in about if each[0].kind == 3]
    assert len(servers) == len(clients) == number
    assert len({each[0].span_id for each in about}) == 2 * number
    assert {each[1]["url.query"].string_value for each in servers} == {
        str(i) for i in range(number)
    }
    assert {each[2]["service.name"].string_value for each in servers} == {"nginx"}
    for span, attributes, resource in about:
        assert attributes["http.response.status_code"].int_value == 200
        assert attributes["wirespan.completeness"].string_value == "complete"
        assert span.start_time_unix_nano < span.end_time_unix_nano
        assert resource["telemetry.sdk.name"].string_value == "wirespan"
    return found


def test_http_backend_gets_all_and_none_about_itself(source, server):
    with http_backend() as backend:
        # Of the backend's port too, and nothing else that runs on this machine.
        ports = ("--port", str(server.port), "--port", str(backend.port))
        with agent("--endpoint", backend.url(), *ports, source=source) as program:
            ask_many(server.port)
            # Sent as they come, long before the end.
            wait_until(lambda: backend.requests, "something is sent")
            time.sleep(0.5)
            code, words, _ = end(program)
        found = check([each.message for each in backend.requests], server.port)
        ports = {each[1]["server.port"].int_value for each in found}
    assert code == 0, words
    assert backend.port not in ports
    assert "Traceback" not in words
    assert "drop" not in words


def test_grpc_backend_gets_all(source, server):
    flags = ("--protocol", "grpc", "--port", str(server.port))
    with grpc_backend() as backend:
        endpoint = ("--endpoint", f"http://localhost:{backend.port}")
        with agent(*flags, *endpoint, source=source) as program:
            ask_many(server.port)
            code, words, _ = end(program)
        check([ExportTraceServiceRequest.FromString(body) for body in backend.bodies], server.port)
    assert code == 0, words
    assert "Traceback" not in words


def test_a_connection_to_the_backend_that_is_older_than_the_probes_is_excluded(source, server):
    """Two agents with one backend: each leaves out its own connection, at both ends."""
    with http_backend() as backend:
        flags = ("--endpoint", backend.url(), "--port", str(backend.port))
        with agent(*flags, source=source) as program:
            time.sleep(0.3)
            code, words, _ = end(program)
        assert code == 0, words
        assert backend.requests == []


def test_the_end_flushes_within_its_deadline_whatever_the_backend_does(server):
    with http_backend() as backend:
        backend.release.clear()
        flags = ("--endpoint", backend.url(), "--port", str(server.port))
        with agent(*flags) as program:
            ask_many(server.port, 50)
            code, words, took_s = end(program)
            backend.release.set()
    assert took_s < DEADLINE_S
    assert code == 0
    assert "Traceback" not in words
    assert "could be delivered" in words or "drop" in words


def test_a_backend_that_is_not_there_is_counted(server):
    flags = ("--endpoint", "http://127.0.0.1:9", "--port", str(server.port))
    with agent(*flags) as program:
        ask_many(server.port, 50)
        time.sleep(0.3)
        code, words, took_s = end(program)
    assert took_s < DEADLINE_S
    assert code == 0
    assert "Traceback" not in words
    assert "100 exchanges" in words
    assert "drop" in words or "delivered" in words


def test_count_stops(server):
    with watch("--port", str(server.port), "-c", "7") as capture:
        ask_many(server.port, 20)
        wait_until(lambda: capture.program.poll() is not None, "it stops by itself")
    assert capture.program.returncode == 0
    assert len(capture.spans) == 7
    assert "7 exchanges" in capture.summary


@pytest.mark.parametrize(
    ("script", "wanted"), [("exit 0", 0), ("exit 42", 42), ("kill -TERM $$", 128 + 15)]
)
def test_the_exit_code_of_a_command_is_ours(server, script, wanted):
    fetch = f"curl -s -o /dev/null http://127.0.0.1:{server.port}/small?child; {script}"
    command = [WIRESPAN, "watch", "-o", "json", "--", "sh", "-c", fetch]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == wanted, done.stderr
    (line,) = done.stdout.splitlines()
    span = json.loads(line)
    assert span["kind"] == "client"
    assert span["attributes"]["url.full"].endswith("/small?child")
    assert "1 exchange in" in done.stderr


def test_a_command_that_is_not_there(server):
    done = subprocess.run(
        [WIRESPAN, "watch", "--", "/no/such/program"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 127
    assert "cannot run /no/such/program" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_prints_a_summary(source, server):
    with watch("--source", source, "--port", str(server.port)) as capture:
        ask_many(server.port, 23)
    assert capture.exit_code == 0
    assert "46 exchanges" in capture.summary
    assert "23 client, 23 server" in capture.summary
    assert "none lost" in capture.summary


def test_a_reader_that_leaves_ends_it_without_a_word(server):
    command = [WIRESPAN, "watch", "-o", "compact", "--color", "never", "--port", str(server.port)]
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert "Watching" in program.stderr.readline()
        ask_many(server.port, 1)
        assert "/small" in program.stdout.readline()
        program.stdout.close()
        ask_many(server.port, 50)
        wait_until(lambda: program.poll() is not None, "it notices")
        words = program.stderr.read()
    assert program.returncode == 0
    assert "Traceback" not in words
    assert "Error" not in words


def test_for_stops_by_itself(server):
    command = [WIRESPAN, "watch", "--for", "300ms", "--port", str(server.port)]
    began_s = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0
    assert 0.3 < time.monotonic() - began_s < 10
    assert "0 exchanges" in done.stderr
