# SPDX-License-Identifier: Apache-2.0
"""Services, their series, and the bounds."""

from __future__ import annotations

import pytest

from exporters import series
from exporters.histograms import ExplicitHistogram, ExponentialHistogram
from exporters.instruments import Exemplar, Instrument
from exporters.series import IDLE_NS, OTHER, OVERFLOW, SWEEP_NS, SeriesStore, Service, identity_of
from tests.exporters import samples
from tracer.span import Process

SECONDS = Instrument("x.duration", "histogram", "s", "", (0.1, 1.0))
COUNT = Instrument("x.count", "counter", "{x}", "")
NOW = samples.START_NS


def process(pid=1, service="shop", **resource):
    own = {"host.name": "node", "service.instance.id": f"node:{pid}", "process.pid": pid}
    return Process(pid, 1, {"service.name": service, **own, **resource})


def attributes(number):
    return (("n", number),)


@pytest.fixture
def store():
    return SeriesStore()


def test_workers_of_one_server_are_one_service_instance(store):
    first, second = (store.service(process(pid)) for pid in (1, 2))
    assert first is second
    assert first.resource["service.instance.id"] == "node"


def test_the_resource_is_without_what_only_a_process_has(store):
    workers = process(
        7,
        **{"process.executable.name": "nginx", "host.arch": "amd64", "telemetry.sdk.name": "w"},
    )
    assert store.service(workers).resource == {
        "service.name": "shop",
        "service.instance.id": "node",
        "host.name": "node",
        "host.arch": "amd64",
        "telemetry.sdk.name": "w",
    }


@pytest.mark.parametrize(
    "other",
    [
        process(service="cart"),
        process(**{"service.namespace": "back"}),
        process(**{"service.instance.id": "mine"}),
        process(**{"container.id": "0123456789abcdef"}),
    ],
    ids=["name", "namespace", "instance", "container"],
)
def test_what_tells_services_apart(store, other):
    assert store.service(process()) is not store.service(other)


def test_an_instance_id_that_somebody_has_set_stays(store):
    service = store.service(process(**{"service.instance.id": "shop-7"}))
    assert service.resource["service.instance.id"] == "shop-7"


def test_an_instance_id_without_a_process_stays(store):
    service = store.service(process(**{"service.instance.id": "node:80", "process.pid": 7}))
    assert service.resource["service.instance.id"] == "node:80"


def test_containers_of_one_service_on_one_host_are_instances(store):
    service = store.service(process(**{"container.id": "0123456789abcdef0123"}))
    assert service.resource["service.instance.id"] == "node:0123456789ab"


def test_the_process_seen_last_says_what_a_service_is(store):
    service = store.service(process(1, **{"service.version": "1"}))
    assert store.service(process(2, **{"service.version": "2"})) is service
    assert service.resource["service.version"] == "2"


def test_a_series_is_found_again_and_begins_when_it_was_first_asked_for(store):
    service = store.service(process())
    found = store.find(service, COUNT, attributes(1), NOW)
    assert store.find(service, COUNT, attributes(1), NOW + 5) is found
    assert found.start_unix_ns == NOW
    assert store.find(service, COUNT, attributes(2), NOW) is not found
    assert store.find(service, SECONDS, attributes(1), NOW) is not found


def test_histograms_are_of_the_kind_that_was_asked_for():
    exponential = SeriesStore(exponential=True)
    for store, kind in ((SeriesStore(), ExplicitHistogram), (exponential, ExponentialHistogram)):
        service = store.service(process())
        assert isinstance(store.find(service, SECONDS, (), NOW).value, kind)
    service = store.service(process())
    assert store.find(service, COUNT, (), NOW).value == 0
    unbounded = Instrument("y", "histogram", "s", "")
    assert isinstance(SeriesStore().find(service, unbounded, (), NOW).value, ExponentialHistogram)


def test_too_many_series_share_one(store, monkeypatch):
    monkeypatch.setattr(series, "MAX_SERIES", 4)
    service = store.service(process())
    found = [store.find(service, COUNT, attributes(n), NOW) for n in range(6)]
    assert len(set(found)) == 4
    assert found[3:] == [found[3]] * 3
    assert found[3].attributes == OVERFLOW
    assert store.find(service, COUNT, attributes(2), NOW) is found[2]
    assert store.counters["series_overflowed"] == 3
    # Another instrument has its own room, and so has another service.
    assert store.find(service, SECONDS, attributes(9), NOW).attributes == attributes(9)
    other = store.service(process(service="cart"))
    assert store.find(other, COUNT, attributes(9), NOW).attributes == attributes(9)


def test_too_many_series_of_all_services_share_one_in_each(store, monkeypatch):
    monkeypatch.setattr(series, "MAX_SERIES_TOTAL", 3)
    services = [store.service(process(service=name)) for name in "ab"]
    for service in services:
        for number in range(3):
            store.find(service, COUNT, attributes(number), NOW)
    kept = [set(service.series[COUNT]) for service in services]
    assert kept == [{attributes(0), attributes(1), attributes(2)}, {OVERFLOW}]


def test_too_many_services_share_one(store, monkeypatch):
    monkeypatch.setattr(series, "MAX_SERVICES", 2)
    services = [store.service(process(service=name)) for name in "abcd"]
    assert services[2] is services[3]
    assert services[2].resource == OTHER
    assert store.counters["services_overflowed"] == 2
    store.find(services[3], COUNT, (), NOW)
    assert [group.resource for group in store.collect()] == [OTHER]


def test_a_collection_is_a_copy(store):
    service = store.service(process())
    histogram = store.find(service, SECONDS, attributes(1), NOW)
    histogram.value.record(0.5)
    histogram.exemplar = Exemplar(0.5, b"t" * 16, b"s" * 8, NOW)
    counter = store.find(service, COUNT, (), NOW)
    counter.value += 2
    (group,) = store.collect()
    histogram.value.record(0.5)
    counter.value += 1
    by_name = {metric.instrument.name: metric.points for metric in group.metrics}
    (point,) = by_name["x.duration"]
    assert (point.attributes, point.value.count, point.start_unix_ns) == (attributes(1), 1, NOW)
    assert point.exemplar.value == 0.5
    assert by_name["x.count"][0].value == 2
    assert group.resource["service.name"] == "shop"


def test_a_service_without_series_is_not_collected(store):
    store.service(process())
    assert store.collect() == []


def test_idle_series_are_forgotten_and_begin_anew(store):
    service = store.service(process())
    old, new = (store.find(service, COUNT, attributes(n), NOW) for n in range(2))
    later = NOW + IDLE_NS + SWEEP_NS
    new.updated_ns = later
    assert store.forget(later)
    assert store.find(service, COUNT, attributes(1), later) is new
    assert store.find(service, COUNT, attributes(0), later) is not old
    assert store.counters["series_forgotten"] == 1
    assert store.counters["services_forgotten"] == 0


def test_a_series_is_kept_for_a_quarter_of_an_hour(store):
    series_kept = store.find(store.service(process()), COUNT, (), NOW)
    assert not store.forget(NOW + IDLE_NS)
    assert store.find(store.service(process()), COUNT, (), NOW) is series_kept


def test_idle_services_are_forgotten(store):
    member = process()
    service = store.service(member)
    store.find(service, COUNT, (), NOW)
    assert store.forget(NOW + 2 * IDLE_NS)
    assert store.counters["services_forgotten"] == 1
    assert store.service(member) is not service
    assert store.collect() == []


def test_what_is_forgotten_makes_room(store, monkeypatch):
    monkeypatch.setattr(series, "MAX_SERIES_TOTAL", 1)
    service = store.service(process())
    store.find(service, COUNT, attributes(0), NOW)
    assert store.forget(NOW + 2 * IDLE_NS)
    service = store.service(process())
    assert store.find(service, COUNT, attributes(1), NOW).attributes == attributes(1)


def test_series_of_other_owners_are_forgotten_too(store):
    graph = Service({"service.name": "wirespan"})
    store.find(graph, COUNT, (), NOW)
    assert store.forget(NOW + 2 * IDLE_NS, graph)
    assert graph.metrics() == []


def test_looking_for_idle_series_is_done_once_a_minute(store):
    service = store.service(process())
    assert not store.forget(NOW)
    store.find(service, COUNT, (), NOW - 2 * IDLE_NS)
    assert not store.forget(NOW + SWEEP_NS - 1)
    assert store.forget(NOW + SWEEP_NS)


def test_identity_is_namespace_name_and_instance():
    assert identity_of({"service.name": "a", "service.namespace": "n"}) == ("n", "a", "")
