# SPDX-License-Identifier: Apache-2.0
"""From spans to series."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters import span_metrics
from exporters.series import IDLE_NS, SeriesStore, Service
from exporters.span_metrics import INCOMPLETE, SpanMetrics
from parsers.model import Completeness, Side
from tests.exporters import samples
from tracer.span import SpanKind

SECOND = 1_000_000_000
CART = samples.process("cart", 2)
SQL = samples.outline("SELECT", attributes={"db.system.name": "postgresql"})


class Subject:
    def __init__(self, **options):
        self.store = SeriesStore(**options)
        self.graph = Service({"service.name": "wirespan"})
        self.metrics = SpanMetrics(self.store, self.graph)

    def record(self, *spans):
        self.metrics.record(spans)

    def points(self):
        """Points by service, metric and the values of their attributes."""
        self.metrics.settle()
        groups = {group.resource["service.name"]: group.metrics for group in self.store.collect()}
        groups["wirespan"] = self.graph.metrics()
        return {
            (service, metric.instrument.name, *(value for _, value in point.attributes)): point
            for service, metrics in groups.items()
            for metric in metrics
            for point in metric.points
        }

    def values(self):
        """The same, of histograms how many values and their sum."""
        return {
            key: point.value
            if isinstance(point.value, int)
            else (point.value.count, point.value.sum)
            for key, point in self.points().items()
        }


@pytest.fixture
def subject():
    return Subject()


def span(seconds=0.5, **changes):
    return samples.span(end_unix_ns=samples.START_NS + round(seconds * SECOND), **changes)


def client(seconds=0.5, **changes):
    values = {"peering": samples.peering(Side.CLIENT), "peer_name": "cart"}
    return span(seconds, **{**values, **changes})


def test_a_server_span_is_a_request_of_its_service_and_of_the_graph(subject):
    subject.record(span(0.5))
    assert subject.values() == {
        ("shop", "http.server.request.duration", "GET", 200): (1, 0.5),
        ("wirespan", "traces_service_graph_request_total", "user", "virtual_node", "shop"): 1,
        ("wirespan", "traces_service_graph_request_server", "user", "virtual_node", "shop"): (
            1,
            0.5,
        ),
    }


def test_both_ends_of_an_exchange_are_one_request_of_the_graph(subject):
    shop = samples.PROCESS
    subject.record(client(0.5, peer=CART), span(0.25, process=CART, peer=shop, peer_name="shop"))
    assert subject.values() == {
        ("shop", "http.client.request.duration", "GET", 200): (1, 0.5),
        ("cart", "http.server.request.duration", "GET", 200): (1, 0.25),
        ("wirespan", "traces_service_graph_request_total", "shop", "", "cart"): 1,
        ("wirespan", "traces_service_graph_request_client", "shop", "", "cart"): (1, 0.5),
        ("wirespan", "traces_service_graph_request_server", "shop", "", "cart"): (1, 0.25),
    }


def test_a_failed_request_to_a_database(subject):
    failed = samples.outline("SELECT", "23505", attributes=dict(SQL.attributes))
    subject.record(
        client(1, outline=SQL, peer_name="pg"), client(2, outline=failed, peer_name="pg")
    )
    edge = "shop", "database", "pg"
    assert subject.values() == {
        ("shop", "db.client.operation.duration", "postgresql"): (1, 1.0),
        ("shop", "db.client.operation.duration", "postgresql", "23505"): (1, 2.0),
        ("wirespan", "traces_service_graph_request_total", *edge): 2,
        ("wirespan", "traces_service_graph_request_failed_total", *edge): 1,
        ("wirespan", "traces_service_graph_request_client", *edge): (2, 3.0),
        ("wirespan", "traces_service_graph_request_server", *edge): (2, 3.0),
    }


def test_no_spans_are_no_series(subject):
    subject.record()
    assert subject.values() == {}


def test_nobody_knows_who_asked(subject):
    subject.record(span(kind=SpanKind.INTERNAL))
    assert subject.values() == {}


def test_outlines_that_differ_in_nothing_a_metric_has_are_one_series(subject):
    for number in range(5):
        outline = samples.outline(
            attributes={"http.request.method": "GET", "url.path": f"/{number}"}
        )
        subject.record(span(1, outline=outline))
    assert subject.values()["shop", "http.server.request.duration", "GET"] == (5, 5.0)


def test_an_outline_that_both_ends_share_is_two_series(subject):
    shared = samples.outline()
    subject.record(span(outline=shared), client(outline=shared, process=samples.PROCESS))
    names = {key[1] for key in subject.values() if key[0] == "shop"}
    assert names == {"http.server.request.duration", "http.client.request.duration"}


def test_a_lost_response_is_a_request_without_duration(subject):
    lost = span(completeness=Completeness.GAP, response_bytes=0)
    subject.record(lost, lost)
    edge = "user", "virtual_node", "shop"
    values = subject.values()
    assert values["shop", INCOMPLETE.name, "http", "gap"] == 2
    assert values["wirespan", "traces_service_graph_request_total", *edge] == 2
    for key in (
        ("shop", "http.server.request.duration", "GET", 200),
        ("wirespan", "traces_service_graph_request_server", *edge),
    ):
        assert values[key] == (0, 0.0)


def test_a_gap_with_a_response_has_a_duration(subject):
    subject.record(span(1, completeness=Completeness.GAP))
    assert subject.values()["shop", "http.server.request.duration", "GET", 200] == (1, 1.0)


def test_no_answer_is_an_error_and_recorded(subject):
    timeout = samples.outline(error_type="timeout")
    subject.record(span(1, completeness=Completeness.UNANSWERED, response_bytes=0, outline=timeout))
    key = "shop", "http.server.request.duration", "timeout", "GET", 200
    assert subject.values()[key] == (1, 1.0)


def test_no_answer_that_nobody_expects_is_not_recorded(subject):
    outline = samples.outline(attributes={"dns.question.name": "printer.local"})
    subject.record(
        client(
            completeness=Completeness.UNANSWERED,
            response_bytes=0,
            outline=outline,
            protocol="dns",
        )
    )
    values = subject.values()
    assert values["shop", INCOMPLETE.name, "dns", "unanswered"] == 1
    assert values["shop", "dns.lookup.duration"] == (0, 0.0)


def test_what_has_no_histogram_anyway_is_not_incomplete(subject):
    subject.record(span(kind=SpanKind.INTERNAL, completeness=Completeness.GAP, response_bytes=0))
    assert subject.values() == {}


def test_the_exemplar_is_the_latest_span(subject):
    spans = [client(seconds, peer=CART) for seconds in (1, 2, 3)]
    subject.record(*spans[:2])
    subject.record(spans[2])
    for point in subject.points().values():
        if not isinstance(point.value, int):
            last = spans[2]
            assert point.exemplar == (3.0, last.trace_id, last.span_id, last.end_unix_ns)
        else:
            assert point.exemplar is None


def test_counting_began_before_the_first_span_ended(subject):
    subject.record(span(1))
    assert {point.start_unix_ns for point in subject.points().values()} == {samples.START_NS}


class Strange:
    """What no attribute can be."""

    def __iter__(self):
        raise RuntimeError("strange")


def test_a_span_that_cannot_be_understood_is_left_out_alone(subject, caplog):
    strange = samples.outline(attributes={"http.request.method": Strange()})
    with caplog.at_level(logging.WARNING):
        subject.record(span(outline=strange, protocol="odd"), span(1))
    assert subject.metrics.failed == 1
    assert "fault of the parser for odd" in caplog.text
    assert subject.values()["shop", "http.server.request.duration", "GET", 200] == (1, 1.0)


def test_durations_do_not_wait_for_long(subject, monkeypatch):
    monkeypatch.setattr(span_metrics, "MAX_UNSETTLED", 3)
    for _ in range(3):
        subject.record(span(1))
    (group,) = subject.store.collect()
    assert group.metrics[0].points[0].value.count == 3


def test_series_that_were_forgotten_begin_anew(subject):
    subject.record(span(1), client(1))
    subject.points()
    late = samples.START_NS + 2 * IDLE_NS
    newer = samples.span(start_unix_ns=late, end_unix_ns=late + SECOND)
    subject.record(newer)
    subject.points()
    subject.record(newer)
    values = subject.values()
    # The first of the two came into the series that was there, and kept it.
    assert values["shop", "http.server.request.duration", "GET", 200] == (3, 3.0)
    assert not any("client" in key[1] for key in values)
    assert subject.store.counters["series_forgotten"] == 4
    subject.record(client(1, start_unix_ns=late, process=samples.PROCESS))
    point = subject.points()["shop", "http.client.request.duration", "GET", 200]
    assert (point.value.count, point.start_unix_ns) == (1, late)


@given(
    st.lists(
        st.tuples(
            st.sampled_from((SpanKind.SERVER, SpanKind.CLIENT, SpanKind.INTERNAL)),
            st.integers(0, 10**11),
            st.sampled_from((samples.PROCESS, CART)),
            st.sampled_from((None, "500")),
            st.sampled_from((None, CART)),
            st.sampled_from(tuple(Completeness)),
            st.integers(0, 1),
        ),
        max_size=60,
    ),
    st.integers(1, 20),
    st.integers(1, 4),
    st.booleans(),
)
def test_no_span_is_lost_whatever_the_batches_and_caches(facts, batch, plans, exponential):
    spans = [
        samples.span(
            kind=kind,
            end_unix_ns=samples.START_NS + duration,
            process=process,
            outline=samples.outline(error_type=error),
            peer=peer,
            peer_name="x",
            completeness=completeness,
            response_bytes=size,
        )
        for kind, duration, process, error, peer, completeness, size in facts
    ]
    subject = Subject(exponential=exponential)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(span_metrics, "MAX_PLANS", plans)
        patch.setattr(span_metrics, "MAX_EDGES", plans)
        patch.setattr(span_metrics, "MAX_UNSETTLED", 7)
        for start in range(0, len(spans), batch):
            subject.record(*spans[start : start + batch])
    values = subject.values()
    known = [each for each in spans if each.kind is not SpanKind.INTERNAL]
    incomplete = sum(value for key, value in values.items() if key[1] == INCOMPLETE.name)
    durations = [value for key, value in values.items() if "request.duration" in key[1]]
    assert sum(count for count, _ in durations) + incomplete == len(known)
    requests = [each for each in known if each.kind is SpanKind.CLIENT or each.peer is None]
    total = "traces_service_graph_request_total"
    assert sum(value for key, value in values.items() if key[1] == total) == len(requests)
    failed = [each for each in requests if each.outline.error_type]
    total = "traces_service_graph_request_failed_total"
    assert sum(value for key, value in values.items() if key[1] == total) == len(failed)
