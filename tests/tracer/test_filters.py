# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.model import Endpoint, Outline, Side, Transport
from tests.exporters import samples
from tracer.filters import (
    LatencyRange,
    SpanFilter,
    StatusRange,
    duration_ns,
    protocols_called,
    size_bytes,
)

MS = 1_000_000


def span(*, took_ns=MS, side=Side.SERVER, error_type=None, protocol="http", **attributes):
    values = {"http.request.method": "GET", "url.path": "/a", "http.response.status_code": 200}
    values |= {key.replace("__", "."): value for key, value in attributes.items()}
    kept = {key: value for key, value in values.items() if value is not None}
    return samples.span(
        peering=samples.peering(
            side, transport=Transport.TCP, local=Endpoint("", 0), remote=Endpoint("", 0)
        ),
        outline=Outline("GET", kept, error_type),
        start_unix_ns=0,
        end_unix_ns=took_ns,
        protocol=protocol,
    )


def wants(span, **flags):
    return SpanFilter(**flags).test()(span)


def test_empty_filter_is_no_test_at_all():
    assert SpanFilter().test() is None


def test_same_flag_twice_means_or_and_different_flags_mean_and():
    flags = {"methods": ["GET", "PUT"], "paths": ["/a*"]}
    assert wants(span(), **flags)
    assert wants(span(http__request__method="PUT", url__path="/abc"), **flags)
    assert not wants(span(http__request__method="POST"), **flags)
    assert not wants(span(url__path="/b"), **flags)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("http", {"http", "http2"}), ("http2", {"http2"}), ("httpd", set()), ("", set())],
)
def test_word_for_a_protocol_means_all_its_versions(word, meant):
    assert protocols_called(word, ["http", "http2", "redis"]) == meant


def test_protocol():
    assert wants(span(), protocols=["http", "redis"])
    assert not wants(span(protocol="dns"), protocols=["http", "redis"])


def test_side():
    assert wants(span(side=Side.CLIENT), sides=["client"])
    assert not wants(span(side=Side.SERVER), sides=["client"])
    assert not wants(span(side=Side.UNKNOWN), sides=["client", "server"])


def test_method_is_that_of_the_wire():
    assert wants(span(), methods=["get"])
    purge = {"http__request__method": "_OTHER", "http__request__method_original": "PURGE"}
    assert wants(span(**purge), methods=["purge"])
    assert not wants(span(**purge), methods=["GET"])


def test_path_of_a_client_is_in_its_url():
    client = {"url__path": None, "url__full": "https://shop:8443/api/x?q=/other"}
    assert wants(span(**client), paths=["/api/*"])
    assert not wants(span(**client), paths=["/other"])
    assert wants(span(url__path=None, url__full="http://shop"), paths=["/"])
    assert not wants(span(url__path=None), paths=["/", "*"]), "it has none"


def test_path_pattern_is_exact_and_knows_case():
    assert not wants(span(url__path="/api/users"), paths=["/api"])
    assert not wants(span(url__path="/API"), paths=["/api"])
    assert wants(span(url__path="/api/v1/users"), paths=["/api/*/users"])


def test_errors():
    assert wants(span(error_type="500"), errors=True)
    assert not wants(span(), errors=True)


@pytest.mark.parametrize(
    ("text", "wanted", "unwanted"),
    [
        ("404", [404], [403, 405]),
        ("5xx", [500, 599], [499, 200]),
        ("4XX", [400, 499], [500]),
        (" 4+ ", [400, 503, 599], [399]),
        ("5+", [500], [404]),
    ],
)
def test_statuses(text, wanted, unwanted):
    statuses = [StatusRange.parse(text)]
    for status in wanted:
        assert wants(span(http__response__status_code=status), statuses=statuses)
    for status in unwanted:
        assert not wants(span(http__response__status_code=status), statuses=statuses)


def test_exchange_without_a_response_has_no_status():
    assert not wants(span(http__response__status_code=None), statuses=[StatusRange.parse("1+")])


@pytest.mark.parametrize("text", ["", "abc", "44", "4040", "6xx", "0xx", "5x", "+4", "-404"])
def test_bad_status_is_told_apart_in_a_sentence(text):
    with pytest.raises(ValueError, match=r"is no status: write 404, 5xx or 4\+$"):
        StatusRange.parse(text)


@pytest.mark.parametrize(
    ("text", "above", "bound_ns"),
    [
        (">100ms", True, 100 * MS),
        ("100", True, 100 * MS),
        ("1s", True, 1000 * MS),
        ("<1.5s", False, 1500 * MS),
        (">= 20us", True, 20_000),
        ("<=2m", False, 120_000 * MS),
    ],
)
def test_latencies(text, above, bound_ns):
    assert LatencyRange.parse(text) == LatencyRange(above, bound_ns)


def test_latency_bounds_are_or_and_exclusive():
    latencies = [LatencyRange.parse("<1ms"), LatencyRange.parse(">5ms")]
    took = [0, MS - 1, MS, 5 * MS, 5 * MS + 1]
    assert [wants(span(took_ns=each), latencies=latencies) for each in took] == [
        True,
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("text", ["", ">", "<>5ms", "=5ms", ">abc", "5 parsecs", ">-5ms"])
def test_bad_latency_is_told_as_it_was_written(text):
    with pytest.raises(ValueError, match=r"is no latency: write '>100ms' or '<1s'$") as caught:
        LatencyRange.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10", 10_000 * MS),
        ("250ms", 250 * MS),
        ("1.5s", 1500 * MS),
        ("2 m", 120_000 * MS),
        ("1h", 3_600_000 * MS),
        ("7us", 7000),
        ("7µs", 7000),
        ("9ns", 9),
    ],
)
def test_durations(text, expected):
    assert duration_ns(text) == expected


@pytest.mark.parametrize("text", ["", "s", "-1s", "1e3", "1.s", "10 days", "9" * 400])
def test_bad_duration_is_a_sentence(text):
    with pytest.raises(ValueError, match=r"is no duration: write 250ms, 1.5s or 10m$"):
        duration_ns(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4096", 4096), ("4k", 4096), ("64KiB", 65536), ("16M", 1 << 24), ("1 GB", 1 << 30)],
)
def test_sizes(text, expected):
    assert size_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "k", "1.5M", "-4", "4t", "16ib", "9" * 40])
def test_bad_size_is_a_sentence(text):
    with pytest.raises(ValueError, match=r"is no size: write 4096, 64k or 16M$"):
        size_bytes(text)


@given(st.text(max_size=20))
@pytest.mark.parametrize("parse", [duration_ns, size_bytes, StatusRange.parse, LatencyRange.parse])
def test_no_text_brings_another_error_out(parse, text):
    try:
        parse(text)
    except ValueError as error:
        sentence = str(error)
    else:
        return
    assert sentence.startswith(repr(text))
