# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import http.client
import logging
import shutil
import socket
import subprocess
import threading
import tracemalloc

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporters import prometheus, small_http
from exporters.environment import SettingsError
from exporters.prometheus import (
    COUNTERS,
    PrometheusEndpoint,
    takes_gzip,
    takes_openmetrics,
)
from tests.exporters.meters import AGENT, SHOP, duration, edge, exemplar, histogram, metric, of
from tests.rig import wait_until

METRICS = [
    of(SHOP, duration(({"http.request.method": "GET"}, histogram(0.05, 0.5), exemplar(0.05)))),
    of(
        AGENT,
        metric(
            "traces_service_graph_request_total",
            "counter",
            "{request}",
            (edge("shop", "db", "database"), 3),
        ),
        metric("process.memory.usage", "gauge", "By", 1 << 26),
    ),
]
PROMETHEUS_ACCEPTS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3_ACCEPTS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.fixture
def serve(monkeypatch):
    """Endpoints that are closed at the end, soon."""
    monkeypatch.setattr(small_http, "WATCH_S", 0.02)
    made = []

    def make(collect=lambda: METRICS, address=":0"):
        made.append(PrometheusEndpoint(collect, address))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ask(endpoint, path="/metrics", method="GET", **headers):
    """The answer with its body read."""
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    answer.body = answer.read()
    connection.close()
    return answer


def test_who_says_nothing_gets_text(serve):
    answer = ask(serve())
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Content-Encoding"] is None
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    names = {family.name for family in parse_text(answer.body.decode())}
    assert names == {
        "target_info",
        "http_server_request_duration_seconds",
        "traces_service_graph_request",
        "process_memory_usage_bytes",
    }
    assert b"# {" not in answer.body


@pytest.mark.parametrize("accept", [PROMETHEUS_ACCEPTS, PROMETHEUS_3_ACCEPTS])
def test_prometheus_gets_openmetrics_with_exemplars(serve, accept):
    answer = ask(serve(), Accept=accept)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0;")
    families = list(parse_openmetrics(answer.body.decode()))
    exemplars = [
        sample.exemplar.labels
        for family in families
        for sample in family.samples
        if sample.exemplar is not None
    ]
    assert exemplars == [{"trace_id": f"{1:032x}", "span_id": f"{1:016x}"}]


@pytest.mark.parametrize("accept", ["", PROMETHEUS_ACCEPTS])
def test_who_asks_for_gzip_gets_the_same_compressed(serve, accept):
    endpoint = serve()
    answer = ask(endpoint, **{"Accept": accept, "Accept-Encoding": "deflate, gzip;q=0.5"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.body) == ask(endpoint, Accept=accept).body


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PROMETHEUS_ACCEPTS, True),
        (PROMETHEUS_3_ACCEPTS, True),
        ("application/openmetrics-text", True),
        ('Application/OpenMetrics-Text; Version="1.0.0"', True),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;version=x", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False),
        ("text/plain", False),
        ("*/*", False),
        ("", False),
        (";;,,=;=", False),
    ],
)
def test_openmetrics_is_for_who_asks_for_it(accept, expected):
    assert takes_openmetrics(accept) is expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [("gzip", True), ("br, GZIP;q=0.1", True), ("gzip;q=0", False), ("identity", False)],
)
def test_gzip_is_for_who_asks_for_it(accept, expected):
    assert takes_gzip(accept) is expected


def test_each_scrape_sees_what_is_there_then(serve):
    now = []
    endpoint = serve(lambda: now)
    assert ask(endpoint).body == b""
    now += METRICS
    assert b"process_memory_usage_bytes" in ask(endpoint).body
    assert endpoint.counters() == {**dict.fromkeys(COUNTERS, 0), "scrapes": 2}


def test_other_paths_say_where_the_metrics_are(serve):
    endpoint = serve()
    assert ask(endpoint, "/healthz").body == b"ok\n"
    front = ask(endpoint, "/")
    assert front.status == 200
    assert b"/metrics" in front.body
    for path in ("/metrics/", "/other", "/../etc/passwd"):
        answer = ask(endpoint, path)
        assert answer.status == 404
        assert b"/metrics" in answer.body
    assert ask(endpoint, "/metrics?name[]=x").status == 200


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz"])
def test_head_has_headers_only_and_collects_nothing(serve, path):
    endpoint = serve(lambda: pytest.fail("collected"))
    answer = ask(endpoint, path, "HEAD")
    assert answer.status == 200
    assert answer.body == b""


def test_metrics_that_fail_are_an_error_that_is_logged_and_counted(serve, caplog):
    def collect():
        raise ZeroDivisionError

    endpoint = serve(collect)
    with caplog.at_level(logging.ERROR):
        answer = ask(endpoint)
    assert answer.status == 500
    assert b"ZeroDivisionError" not in answer.body
    assert "Prometheus: the metrics could not be written" in caplog.text
    assert endpoint.counters()["scrapes_failed"] == 1
    caplog.clear()
    assert ask(endpoint).status == 500
    assert not caplog.records
    assert endpoint.counters()["scrapes_failed"] == 2
    assert ask(endpoint, "/healthz").status == 200


def test_metrics_left_out_are_counted(serve):
    one, other = metric("a.b", "gauge", "", 1), metric("a_b", "counter", "", 1)
    endpoint = serve(
        lambda: [of({}, one, metric("a_b", "histogram", "", histogram(1.0))), of({}, other)]
    )
    assert ask(endpoint).status == 200
    assert endpoint.counters()["metrics_clashing"] >= 1


def test_one_scrape_waits_for_the_other_and_gives_up_in_the_end(serve, monkeypatch):
    monkeypatch.setattr(prometheus, "TURN_S", 0.05)
    began, go_on = threading.Event(), threading.Event()

    def collect():
        began.set()
        assert go_on.wait(10)
        return METRICS

    endpoint = serve(collect)
    answers = []
    first = threading.Thread(target=lambda: answers.append(ask(endpoint)))
    first.start()
    assert began.wait(10)
    busy = ask(endpoint)
    assert (busy.status, busy.headers["Retry-After"]) == (503, "1")
    assert ask(endpoint, "/healthz").status == 200
    go_on.set()
    first.join()
    assert answers[0].status == 200
    assert endpoint.counters() == {
        **dict.fromkeys(COUNTERS, 0), "scrapes": 1, "scrapes_busy": 1
    }  # fmt: skip


def test_client_that_takes_nothing_keeps_no_other_from_scraping(serve):
    """His answer does not fit into the socket, and his thread waits."""
    many = [({"n": str(number)}, histogram(0.5, bounds=None)) for number in range(4000)]
    endpoint = serve(lambda: [of(SHOP, duration(*many))])
    places = endpoint._server._server._places
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        wait_until(lambda: endpoint.counters()["scrapes"] == 1, "the answer is made")
        assert ask(endpoint, **{"Accept-Encoding": "gzip"}).status == 200
        wait_until(lambda: len(places) == 1, "the other has gone")
        assert endpoint.counters()["scrapes"] == 2


def test_large_page_is_never_in_memory_as_a_whole(serve):
    """Neither as samples nor as text, and in whatever form it is taken."""
    many = [({"n": str(number)}, histogram(0.5, bounds=None)) for number in range(2000)]
    metrics = [of(SHOP, duration(*many))]
    endpoint = serve(lambda: metrics)
    tracemalloc.start()
    try:
        answer = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=30)
        answer.request("GET", "/metrics")
        response = answer.getresponse()
        length = 0
        while piece := response.read(1 << 16):
            length += len(piece)
        answer.close()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert length == int(response.headers["Content-Length"])
    assert peak < length


def test_name_that_is_not_this_machines_is_refused_and_counted(serve):
    endpoint = serve()
    assert ask(endpoint, Host="evil.example").status == 421
    wait_until(lambda: endpoint.counters()["scrapes_refused"] == 1, "it is counted")
    assert ask(endpoint, Host=f"localhost:{endpoint.port}").status == 200


def test_name_that_it_was_bound_to_is_its_own(serve, monkeypatch):
    def lookup(host, port, **_):
        assert host == "box"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    with monkeypatch.context() as names:
        names.setattr(socket, "getaddrinfo", lookup)
        endpoint = serve(address="box:0")
    assert endpoint.url == f"http://box:{endpoint.port}/metrics"
    assert ask(endpoint, Host=f"box:{endpoint.port}").status == 200


def test_address_that_cannot_be_had_is_refused_in_words(serve):
    endpoint = serve()
    where = f"127.0.0.1:{endpoint.port}"
    with pytest.raises(SettingsError, match=f"Prometheus cannot be served at {where}: something"):
        PrometheusEndpoint(lambda: METRICS, where)


def test_ipv6_is_served_and_named(serve):
    try:
        endpoint = serve(address="[::1]:0")
    except SettingsError as error:
        pytest.skip(str(error))
    assert endpoint.url == f"http://[::1]:{endpoint.port}/metrics"
    with socket.create_connection(("::1", endpoint.port), timeout=10) as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert client.recv(20).startswith(b"HTTP/1.1 200")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's prometheus is not installed")
def test_promtool_finds_nothing_wrong(serve):
    text = ask(serve()).body
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=30
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
