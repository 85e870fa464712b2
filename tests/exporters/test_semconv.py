# SPDX-License-Identifier: Apache-2.0
"""Our names and numbers against those of the official packages."""

from __future__ import annotations

from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags, Status

from exporters import semconv
from tracer import __version__


def test_the_number_of_an_error():
    assert semconv.STATUS_ERROR == Status.STATUS_CODE_ERROR


def test_flags_are_sampled_and_say_where_the_parent_is():
    known = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
    remote = SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
    assert known | 3 == semconv.FLAGS_LOCAL
    assert known | remote | 3 == semconv.FLAGS_REMOTE


def test_the_scope_is_this_program():
    assert ("wirespan", __version__) == (semconv.SCOPE_NAME, semconv.SCOPE_VERSION)
    assert f"wirespan/{__version__}" == semconv.USER_AGENT


def test_the_schema_is_named_by_its_address():
    host, _, edition = semconv.SCHEMA_URL.rpartition("/")
    assert host == "https://opentelemetry.io/schemas"
    assert all(part.isdigit() for part in edition.split("."))
