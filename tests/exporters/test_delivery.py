# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from exporters.attempts import Attempts
from exporters.delivery import Batch, Request, deliver, halves
from exporters.otlp_wire import RequestEncoder, SpanEncoder
from exporters.transport import Answer, Verdict
from tests.exporters import samples
from tests.exporters.backends import span_ids
from tests.exporters.scripted import BAD, BUSY, LARGE, Backend

PROCESSES = [samples.process("shop"), samples.process("stock", 7), samples.process("mail", 8)]


def batch(size):
    return [samples.span(n, process=samples.PROCESS) for n in range(1, size + 1)]


def encode(spans):
    return RequestEncoder().encode(SpanEncoder().encode(spans))


def request(spans):
    return Request(encode(spans), len(spans))


def attempts(backend, total_s=30.0):
    return Attempts(backend, 10.0, total_s, clock=lambda: backend.now, pause=backend.pause)


def result(backend, size, **settings):
    """Fates, and what is left by name."""
    done = deliver(attempts(backend, **settings), request(batch(size)), halves)
    return {name: count for name, count in done.fates.items() if count}, done.left


def test_an_accepted_request_is_sent_once():
    backend = Backend()
    assert result(backend, 3) == ({"spans_sent": 3}, [])
    assert backend.bodies == [encode(batch(3))]


def test_partial_success_counts_both():
    backend = Backend(Answer(Verdict.ACCEPTED, "partial success", "too old", rejected=2))
    assert result(backend, 5) == ({"spans_sent": 3, "spans_refused": 2}, [])


def test_what_is_refused_is_dropped_and_not_left():
    assert result(Backend(BAD), 3) == ({"spans_dropped_status": 3}, [])


def test_what_is_late_is_left():
    backend = Backend(*[BUSY] * 100)
    assert result(backend, 3) == ({}, [("spans_dropped_timeout", request(batch(3)))])


def test_what_is_stopped_is_left():
    backend = Backend()
    sender = attempts(backend)
    sender.stop()
    done = deliver(sender, request(batch(3)), halves)
    assert (done.fates, done.left) == ({}, [("spans_dropped_shutdown", request(batch(3)))])
    assert not backend.bodies


def test_what_is_too_large_goes_in_halves_in_order():
    backend = Backend(LARGE, LARGE)
    sender = attempts(backend)
    seven = batch(7)
    assert deliver(sender, request(seven), halves).fates["spans_sent"] == 7
    assert sender.counters["splits"] == 2
    assert backend.bodies[1:] == [encode(seven[i:j]) for i, j in [(0, 3), (0, 1), (1, 3), (3, 7)]]


def test_one_span_that_is_too_large_is_dropped_and_the_others_pass():
    assert result(Backend(LARGE, LARGE, LARGE), 4) == (
        {"spans_dropped_status": 1, "spans_sent": 3},
        [],
    )


def test_halves_share_the_time_of_the_whole():
    backend = Backend(LARGE, *[BUSY] * 100)
    fates, left = result(backend, 5)
    assert backend.now <= 1030
    assert not fates
    assert [name for name, _ in left] == ["spans_dropped_timeout"] * 2
    assert sum(request.items for _, request in left) == 5


def test_a_fault_of_ours_costs_one_request(caplog):
    backend = Backend(RuntimeError("boom"))
    sender = attempts(backend)
    assert deliver(sender, request(batch(2)), halves).fates == {"spans_dropped_error": 2}
    assert deliver(sender, request(batch(3)), halves).fates["spans_sent"] == 3
    assert "boom" in caplog.text


def test_a_body_that_is_none_costs_one_request(caplog):
    done = deliver(attempts(Backend(LARGE)), Request(b"\xff\xff", 2), halves)
    assert done.fates == {"spans_dropped_error": 2}


def test_a_backend_that_takes_no_spans_has_refused_them():
    backend = Backend(Answer(Verdict.UNSUPPORTED, "HTTP 404"))
    assert result(backend, 3) == ({"spans_dropped_status": 3}, [])


@given(st.lists(st.sampled_from(PROCESSES), min_size=2, max_size=12))
def test_a_batch_knows_its_spans_in_halves_too(processes):
    encoder = RequestEncoder()
    spans = SpanEncoder().encode(
        [samples.span(n, process=process) for n, process in enumerate(processes, 1)]
    )
    first, second = Batch.of(spans, encoder).halves(encoder)
    assert first.spans + second.spans == spans
    assert abs(first.items - second.items) <= 1
    for part in (first, second):
        assert part.body == encoder.encode(part.spans)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(PROCESSES), min_size=2, max_size=12))
def test_halves_have_all_spans_once_with_their_resources(processes):
    spans = [samples.span(n, process=process) for n, process in enumerate(processes, 1)]
    parts = halves(request(spans))
    messages = [ExportTraceServiceRequest.FromString(part.body) for part in parts]
    assert [len(span_ids(message)) for message in messages] == [part.items for part in parts]
    assert abs(parts[0].items - parts[1].items) <= 1
    found = {}
    for message in messages:
        for group in message.resource_spans:
            assert group.scope_spans
            for scope in group.scope_spans:
                assert scope.spans
                name = group.resource.attributes[0].value.string_value
                found |= {span.span_id: (name, group.schema_url) for span in scope.spans}
    whole = ExportTraceServiceRequest.FromString(encode(spans))
    schema_url = whole.resource_spans[0].schema_url
    assert found == {
        span.span_id: (span.process.resource["service.name"], schema_url) for span in spans
    }
