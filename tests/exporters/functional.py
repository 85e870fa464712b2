# SPDX-License-Identifier: Apache-2.0
"""An exporter whose backend is a function, and what its tests share."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from exporters.otlp import COUNTERS, OtlpExporter
from exporters.senders import MAX_SENDERS
from exporters.settings import OtlpSettings
from exporters.transport import ACCEPTED, Transport, Verdict
from tests.exporters import samples
from tests.exporters.backends import span_ids


class Backend:
    """Answers as `respond` says, on the threads that ask."""

    def __init__(self, respond=lambda spans: ACCEPTED):
        self.respond = respond
        self.spans = []
        self.requests = 0
        self.under_way = 0
        self.most = 0
        self.connections = 0
        self.lock = threading.Lock()

    def connect(self):
        self.connections += 1
        backend = self

        class Connection(Transport):
            aborted = threading.Event()

            def send(self, body, timeout_s):
                spans = span_ids(ExportTraceServiceRequest.FromString(body))
                with backend.lock:
                    backend.requests += 1
                    backend.under_way += 1
                    backend.most = max(backend.most, backend.under_way)
                try:
                    answer = backend.respond(spans)
                finally:
                    with backend.lock:
                        backend.under_way -= 1
                if answer.verdict is Verdict.ACCEPTED:
                    with backend.lock:
                        backend.spans += spans
                return answer

            def abort(self):
                self.aborted.set()

            def close(self):
                pass

        return Connection()


@contextmanager
def exporter(backend, spool=None, senders=MAX_SENDERS, **settings):
    values = {"batch_spans": 10, "queue_spans": 400, "schedule_delay_s": 0.01, **settings}
    made = OtlpExporter(OtlpSettings(**values), backend.connect, spool=spool, senders=senders)
    try:
        yield made
    finally:
        made.close()


def some(count, first=1):
    return [samples.span(n) for n in range(first, first + count)]


def ids(spans):
    return [span.span_id for span in spans]


def balance(made):
    """Zero: what came in minus what it became of it and where it is."""
    counters, levels = made.counters(), made.levels()
    fates = ("spans_sent", "spans_refused", "spans_dropped_")
    return (
        counters["spans_received"]
        + counters["spans_inherited"]
        - sum(counters[name] for name in COUNTERS if name.startswith(fates))
        - levels["queue_spans"]
        - levels["in_flight_spans"]
        - levels["spool_spans"]
    )


def wait_until(happened, timeout_s=5):
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, f"did not happen in {timeout_s} s"
        time.sleep(0.002)
