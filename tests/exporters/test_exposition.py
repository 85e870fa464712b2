# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporters import exposition as module
from exporters.exposition import Exposition, buckets_of, identity_of
from exporters.histograms import ExponentialHistogram
from tests.exporters.meters import AGENT, SHOP, duration, edge, exemplar, histogram, metric, of


def text_of(*metrics):
    return b"".join(Exposition(metrics).pages(generate_latest)).decode()


def samples_of(*metrics):
    """Values by name and labels, as a reader of the text finds them."""
    found = {}
    for family in parse_text(text_of(*metrics)):
        for sample in family.samples:
            key = sample.name, *sorted(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def names_of(*metrics):
    return {name for name, *_ in samples_of(*metrics)}


@pytest.mark.parametrize(
    ("name", "kind", "unit", "expected"),
    [
        ("wirespan.kernel.events", "counter", "{event}", "wirespan_kernel_events_total"),
        ("process.cpu.time", "counter", "s", "process_cpu_time_seconds_total"),
        ("process.memory.usage", "gauge", "By", "process_memory_usage_bytes"),
        ("wirespan.size.bytes", "gauge", "By", "wirespan_size_bytes"),
        ("some.share", "gauge", "1", "some_share_ratio"),
        ("some.count", "counter", "1", "some_count_total"),
        ("some.time", "gauge", "ms", "some_time_milliseconds"),
        ("some.rate", "gauge", "{request}/s", "some_rate"),
        ("odd--name", "gauge", "", "odd_name"),
        ("1st", "gauge", "", "_1st"),
        ("ürt", "gauge", "", "rt"),
        ("already_total", "counter", "{x}", "already_total"),
        (
            "traces_service_graph_request_total",
            "counter",
            "{request}",
            "traces_service_graph_request_total",
        ),
        (
            "traces_service_graph_request_failed_total",
            "counter",
            "{request}",
            "traces_service_graph_request_failed_total",
        ),
    ],
)
def test_names_are_made_as_the_specification_has_it(name, kind, unit, expected):
    assert names_of(of({}, metric(name, kind, unit, 3))) == {expected}


@pytest.mark.parametrize("end", ["", "_seconds"])
@pytest.mark.parametrize("side", ["server", "client"])
def test_histograms_of_the_service_graph_are_called_as_grafana_asks(side, end):
    name = f"traces_service_graph_request_{side}"
    found = names_of(of(AGENT, metric(name + end, "histogram", "s", histogram(0.5))))
    suffixes = {"_seconds_bucket", "_seconds_sum", "_seconds_count"}
    assert found - {"target_info"} == {name + suffix for suffix in suffixes}


def test_type_unit_and_meaning_are_told():
    text = text_of(of({}, metric("a.time", "counter", "s", 1, description="One\nand \\ two.")))
    assert "# HELP a_time_seconds_total One\\nand \\\\ two.\n" in text
    assert "# TYPE a_time_seconds_total counter\n" in text


def test_service_is_the_job_and_the_instance_of_its_series():
    found = samples_of(of(SHOP, metric("a", "gauge", "", ({"http.route": "/x"}, 3))))
    identity = ("instance", "host:7"), ("job", "demo/shop")
    assert found == {
        ("a", ("http_route", "/x"), *identity): 3,
        ("target_info", *identity, ("service_version", "1.2")): 1,
    }


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ({}, {}),
        ({"service.name": "a"}, {"job": "a"}),
        ({"service.name": "a", "service.namespace": "n"}, {"job": "n/a"}),
        ({"service.namespace": "n"}, {}),
        ({"service.instance.id": "i"}, {"instance": "i"}),
    ],
)
def test_identity_is_what_the_resource_tells(resource, expected):
    assert identity_of(resource) == expected


@pytest.mark.parametrize("name", ["traces_service_graph_request_total", "process.cpu.time"])
def test_series_of_the_agent_leave_job_and_instance_to_the_scrape(name):
    more = metric("wirespan.info", "gauge", "{agent}", 1)
    found = samples_of(of(AGENT, metric(name, "counter", "", (edge("a", "b"), 1)), more))
    assert all(dict(labels).keys().isdisjoint({"job", "instance"}) for _, *labels in found)
    target = ("host_name", "host"), ("service_instance_id", "4f"), ("service_name", "wirespan")
    assert ("target_info", *target) in found


def test_what_is_said_of_a_service_by_us_is_still_the_services():
    told = metric("wirespan.exchanges.incomplete", "counter", "{exchange}", 2)
    found = samples_of(of(SHOP, told), of({**SHOP, "service.name": "b"}, told))
    values = {dict(labels)["job"]: value for (name, *labels), value in found.items() if value == 2}
    assert values == {"demo/shop": 2, "demo/b": 2}


def test_labels_that_mean_something_to_prometheus_are_kept_under_another_name():
    attributes = {"job": "x", "instance": "y", "le": "z", "__name__": "n", "0": "zero"}
    (labels,) = [
        dict(labels)
        for name, *labels in samples_of(of(SHOP, metric("a", "gauge", "", (attributes, 1))))
        if name == "a"
    ]
    assert labels == {
        "job": "demo/shop",
        "instance": "host:7",
        "exported_job": "x",
        "exported_instance": "y",
        "exported_le": "z",
        "key__name__": "n",
        "key_0": "zero",
    }


def test_keys_that_become_one_label_have_their_values_joined():
    attributes = {"a.b": "1", "a_b": "2"}
    assert samples_of(of({}, metric("x", "gauge", "", (attributes, 1)))) == {
        ("x", ("a_b", "1;2")): 1
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "true"),
        (False, "false"),
        (7, "7"),
        (0.5, "0.5"),
        (("a", 'b"'), '["a","b\\""]'),
        ('\n\\"ü', '\n\\"ü'),
        ("odd \udcff byte", "odd ? byte"),
    ],
)
def test_values_of_attributes_become_text(value, expected):
    ((_, (_, text)),) = samples_of(of({}, metric("x", "gauge", "", ({"a": value}, 1))))
    assert text == expected


def test_series_that_become_one_are_added_up():
    other = {**SHOP, "service.version": "2"}
    found = samples_of(
        of(SHOP, metric("n", "counter", "", 2), duration(histogram(0.05, 5))),
        of(other, metric("n", "counter", "", 3), duration(histogram(0.5))),
    )
    identity = ("instance", "host:7"), ("job", "demo/shop")
    assert found["n_total", *identity] == 5
    name = "http_server_request_duration_seconds"
    assert found[f"{name}_count", *identity] == 3
    assert found[f"{name}_bucket", *identity, ("le", "1.0")] == 2
    assert found["target_info", *identity, ("service_version", "2")] == 1


def test_metric_whose_name_is_that_of_another_kind_is_left_out_and_counted():
    exposition = Exposition(
        [
            of({}, metric("a.b", "gauge", "", 1)),
            of({}, metric("a_b", "histogram", "", histogram(1))),
        ]
    )
    text = b"".join(exposition.pages(generate_latest)).decode()
    assert [family.type for family in parse_text(text)] == ["gauge"]
    assert exposition.clashes == 1


def test_buckets_are_cumulative_and_include_their_ends():
    found = samples_of(of({}, duration(histogram(0.05, 0.1, 0.5, 7))))
    name = "http_server_request_duration_seconds"
    assert found == {
        (f"{name}_bucket", ("le", "0.1")): 2,
        (f"{name}_bucket", ("le", "1.0")): 3,
        (f"{name}_bucket", ("le", "+Inf")): 4,
        (f"{name}_count",): 4,
        (f"{name}_sum",): pytest.approx(7.65),
    }


def openmetrics_of(*metrics):
    return b"".join(Exposition(metrics).pages(openmetrics.generate_latest)).decode()


@pytest.mark.parametrize(("value", "le"), [(0.05, "0.1"), (0.1, "0.1"), (0.5, "1.0"), (7, "+Inf")])
def test_exemplar_is_in_the_bucket_of_its_value(value, le):
    text = openmetrics_of(of(SHOP, duration(({}, histogram(value), exemplar(value, 0x1A)))))
    (found,) = [
        sample
        for family in parse_openmetrics(text)
        for sample in family.samples
        if sample.exemplar is not None
    ]
    assert found.labels["le"] == le
    assert found.exemplar.value == value
    assert found.exemplar.labels == {"trace_id": f"{0x1A:032x}", "span_id": f"{0x1A:016x}"}
    assert str(found.exemplar.timestamp) == "1700000000.123456789"


def test_exemplar_of_a_counter_is_told():
    text = openmetrics_of(of({}, metric("n", "counter", "", ({}, 3, exemplar()))))
    assert "n_total 3.0 # {span_id=" in text


def test_everything_at_once_is_openmetrics():
    """The parser of the reference implementation takes it, units and infos included."""
    text = openmetrics_of(
        of(SHOP, duration(({"http.route": "/"}, histogram(0.5), exemplar(0.5)))),
        of(
            AGENT,
            metric("process.cpu.time", "counter", "s", ({"cpu.mode": "user"}, 1.5)),
            metric("process.memory.usage", "gauge", "By", 1 << 26),
            metric("wirespan.info", "gauge", "{agent}", ({"version": "1"}, 1)),
            metric("traces_service_graph_request_total", "counter", "", (edge("a", "b"), 1)),
            metric("traces_service_graph_request_server", "histogram", "s", histogram(1.0)),
        ),
    )
    families = {family.name: family for family in parse_openmetrics(text)}
    assert families["target"].type == "info"
    assert families["process_cpu_time_seconds"].unit == "seconds"
    assert families["process_memory_usage_bytes"].unit == "bytes"
    assert families["http_server_request_duration_seconds"].type == "histogram"
    assert families["traces_service_graph_request"].type == "counter"


durations = st.one_of(st.just(0.0), st.floats(1e-9, 1000))


@given(st.lists(durations, min_size=1))
def test_buckets_of_exponential_histograms_are_exact(values):
    found = buckets_of(histogram(*values, bounds=None), "s")
    assert [end for end, _ in found] == [2.0**power for power in range(-14, 7)] + [inf]
    assert [count for _, count in found] == [
        sum(value <= end for value in values) for end, _ in found
    ]


@given(st.lists(durations, min_size=1), st.integers(2, 12), st.integers(-6, 4))
def test_buckets_never_hold_what_is_above_them_however_coarse_the_histogram_is(values, size, scale):
    made = ExponentialHistogram(size, scale)
    for value in values:
        made.record(value)
    found = buckets_of(made, "s")
    counts = [count for _, count in found]
    assert counts == sorted(counts)
    assert counts[-1] == len(values)
    for end, count in found:
        assert count <= sum(value <= end for value in values)


def test_what_is_no_duration_has_wider_buckets():
    found = buckets_of(histogram(1.0, 5.0, 1e6, bounds=None), "By")
    assert [end for end, _ in found][:3] == [1, 4, 16]
    assert dict(found)[16.0] == 2
    assert dict(found)[2.0**20] == 3
    assert len(found) == 17


@pytest.mark.parametrize("encode", [generate_latest, openmetrics.generate_latest])
@pytest.mark.parametrize("part", [1, 2, 7])
def test_what_is_written_in_parts_is_the_same(monkeypatch, encode, part):
    """Help that looks like a head or an end, too."""
    points = [({"n": str(n)}, histogram(0.5), exemplar(0.5)) for n in range(5)]
    odd = metric("a", "counter", "", *[({"n": str(n)}, n) for n in range(9)], description="# EOF")
    metrics = [of({**SHOP, "service.name": name}, duration(*points), odd) for name in "xyz"]
    whole = b"".join(Exposition(metrics).pages(encode))
    monkeypatch.setattr(module, "PART", part)
    pieces = list(Exposition(metrics).pages(encode))
    assert b"".join(pieces) == whole
    assert max(each.count(b"\n") for each in pieces) <= max(part, 3)
    assert whole.count(b"# TYPE") == 3


texts = st.text(max_size=12)


@given(
    st.lists(
        st.tuples(
            st.dictionaries(texts, st.one_of(texts, st.booleans(), st.integers(), st.lists(texts))),
            texts,
            st.sampled_from(["counter", "gauge"]),
            st.dictionaries(texts, texts, max_size=3),
            st.integers(0, 1000),
        ),
        max_size=5,
    )
)
def test_whatever_is_said_both_forms_can_be_written_and_read(given_metrics):
    metrics = [
        of(resource, metric(name, kind, "s", (attributes, value)))
        for resource, name, kind, attributes, value in given_metrics
    ]
    for family in parse_text(text_of(*metrics)):
        assert family.samples
    assert openmetrics_of(*metrics).endswith("# EOF\n")
