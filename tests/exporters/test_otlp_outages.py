# SPDX-License-Identifier: Apache-2.0
"""The exporter while its backend fails, in all the ways in which a backend can."""

from __future__ import annotations

import socket
import time

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from exporters.spool import Spool
from tests.exporters.backends import (
    DISCONNECT,
    Reply,
    grpc_backend,
    http_backend,
    response,
    span_ids,
)
from tests.exporters.functional import balance, ids, some, wait_until


def load(sender, count, first=1):
    """Exports in bursts of 10, and waits only for a disk that is behind."""
    for number in range(first, first + count, 10):
        wait_until(lambda: sender.levels()["queue_spans"] <= sender.settings.queue_spans - 10)
        sender.export(some(10, number))
        time.sleep(0.001)


def check_whole(sender, received, count):
    """All of `count` have arrived, and exactly once."""
    counters = sender.counters()
    assert sorted(received) == ids(some(count)), counters
    assert counters["spans_received"] == counters["spans_sent"] == count
    assert counters["spans_spooled"] == counters["spans_unspooled"]


REPLIES = {
    "503": Reply(503),
    "429": Reply(429, b"slow down", "text/plain"),
    "502": Reply(502, b"<html>", "text/html"),
    "reset": DISCONNECT,
}


@pytest.mark.usefixtures("short_pauses")
class TestOutages:
    @pytest.mark.parametrize("kind", REPLIES)
    @pytest.mark.parametrize("spooling", [True, False])
    def test_nothing_is_lost(self, backend, exporter, spool, kind, spooling):
        # With a spool most of it does not fit into the queue.
        sender = exporter(
            backend.url(),
            spool=spool if spooling else None,
            senders=4,
            batch_spans=10,
            queue_spans=200 if spooling else 1000,
        )
        load(sender, 100)
        wait_until(lambda: len(backend.accepted_spans()) == 100)
        backend.reply = REPLIES[kind]
        load(sender, 500, 101)
        assert (sender.levels()["spool_spans"] > 200) == spooling
        backend.reply = Reply()
        wait_until(lambda: not sender.levels()["spool_spans"])
        assert sender.flush(5)
        check_whole(sender, backend.accepted_spans(), 600)

    def test_one_that_outlasts_the_time_of_a_batch_costs_nothing_either(self, backend, exporter):
        backend.reply = Reply(503)
        sender = exporter(
            backend.url(), senders=4, batch_spans=10, queue_spans=1000, export_timeout_s=0.05
        )
        load(sender, 500)
        wait_until(lambda: len(backend.requests) >= 10)
        backend.reply = Reply()
        assert sender.flush(5)
        check_whole(sender, backend.accepted_spans(), 500)

    def test_a_backend_that_is_gone_and_comes_back_gets_all(self, exporter, spool):
        with http_backend() as before:
            port = before.port
            sender = exporter(before.url(), spool=spool, senders=4, batch_spans=10, queue_spans=200)
            load(sender, 100)
            wait_until(lambda: len(before.accepted_spans()) == 100)
        load(sender, 500, 101)
        assert sender.levels()["spool_spans"] > 200
        with http_backend(port=port) as after:
            wait_until(lambda: not sender.levels()["spool_spans"])
            assert sender.flush(5)
            check_whole(sender, before.accepted_spans() + after.accepted_spans(), 600)
            sender.close()

    def test_one_that_wants_to_be_left_alone_is(self, backend, exporter, spool):
        backend.replies.append(Reply(503, headers={"Retry-After": "1"}))
        sender = exporter(backend.url(), spool=spool, senders=4, batch_spans=10, queue_spans=200)
        began = time.monotonic()
        load(sender, 10)
        wait_until(lambda: sender.counters()["retries"])
        load(sender, 490, 11)
        assert len(backend.requests) == 1
        wait_until(lambda: not sender.levels()["spool_spans"])
        assert sender.flush(5)
        assert time.monotonic() - began >= 1
        check_whole(sender, backend.accepted_spans(), 500)

    @pytest.mark.parametrize(
        ("reply", "lost"), [(Reply(400), 10), (Reply(500), 10), (Reply(200, response(4, "old")), 4)]
    )
    def test_what_is_refused_is_counted_and_never_spooled(
        self, backend, exporter, spool, reply, lost
    ):
        backend.replies += [reply] * 20
        sender = exporter(backend.url(), spool=spool, senders=4, batch_spans=10, queue_spans=1000)
        load(sender, 500)
        assert sender.flush(5)
        counters = sender.counters()
        assert counters["spans_sent"] == 500 - 20 * lost
        assert counters["spans_refused"] + counters["spans_dropped_status"] == 20 * lost
        assert counters["spans_spooled"] == counters["retries"] == 0
        assert len(backend.spans()) == 500

    def test_a_slow_one_gets_all_by_several_connections(self, backend, exporter):
        backend.delay_s = 0.05
        sender = exporter(backend.url(), senders=4, batch_spans=10, queue_spans=1000)
        load(sender, 400)
        assert sender.flush(5)
        check_whole(sender, backend.accepted_spans(), 400)
        assert len({request.client for request in backend.requests}) == 4
        assert sender.levels()["senders"] == 4

    @pytest.mark.parametrize(
        "reply",
        [
            grpc.StatusCode.UNAVAILABLE,
            (grpc.StatusCode.UNAVAILABLE, "overload", 0.05),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "quota", 0.05),
        ],
    )
    def test_grpc_too(self, exporter, spool, reply):
        with grpc_backend() as backend:
            sender = exporter(
                f"http://localhost:{backend.port}",
                protocol="grpc",
                spool=spool,
                senders=4,
                batch_spans=10,
                queue_spans=200,
            )
            backend.reply = reply
            load(sender, 500)
            refused = len(backend.bodies)
            assert 1 <= refused < 20
            assert sender.levels()["spool_spans"] > 200
            backend.reply = b""
            wait_until(lambda: not sender.levels()["spool_spans"])
            assert sender.flush(5)
            received = {*span_ids(*map(ExportTraceServiceRequest.FromString, backend.bodies))}
            check_whole(sender, received, 500)
            sender.close()

    @pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
    def test_a_backend_that_hangs_delays_the_end_by_no_more_than_a_second(
        self, exporter, spool, tmp_path, protocol
    ):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            endpoint = f"http://localhost:{silent.getsockname()[1]}"
            sender = exporter(endpoint, protocol=protocol, spool=spool, senders=4, batch_spans=100)
            for first in range(1, 20_001, 1000):
                sender.export(some(1000, first))
            began = time.monotonic()
            assert not sender.flush(0.2)
            sender.close()
            assert time.monotonic() - began < 1.5
        assert sender.levels()["spool_spans"] == 20_000
        assert balance(sender) == 0
        again = Spool(tmp_path / "spool")
        assert again.spans == 20_000
        again.close()
