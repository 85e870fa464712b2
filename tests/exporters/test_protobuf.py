# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue

from exporters.protobuf import Cache, any_value, key_value, message, text, utf8, varint


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (16_383, "ff7f"),
        (16_384, "808001"),
        (2_097_151, "ffff7f"),
        (2_097_152, "80808001"),
        (-1, "ffffffffffffffffff01"),
    ],
)
def test_varints(number, encoded):
    assert varint(number).hex() == encoded


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_varints_are_those_of_the_official_classes(number):
    assert any_value(number) == AnyValue(int_value=number).SerializeToString()


@given(st.text(st.characters(codec="utf-8")), st.lists(st.text(st.characters(codec="utf-8"))))
def test_key_values_are_those_of_the_official_classes(key, items):
    array = ArrayValue(values=[AnyValue(string_value=item) for item in items])
    expected = KeyValue(key=key, value=AnyValue(array_value=array)).SerializeToString()
    assert key_value(0x4A, key, items) == message(0x4A, expected)


def test_proto3_leaves_an_empty_string_out():
    assert text(0x0A, "") == b""
    assert text(0x0A, "a") == b"\n\x01a"


def test_a_lone_surrogate_is_spelt_out():
    assert utf8("a\ud800") == b"a\\ud800"


def test_a_bool_is_no_number():
    assert any_value(True) == AnyValue(bool_value=True).SerializeToString()
    assert any_value(1) == AnyValue(int_value=1).SerializeToString()


def test_a_cache_forgets_everything_when_it_is_full():
    computed = []

    def compute(number):
        computed.append(number)
        return str(number)

    cache = Cache(compute, 2)
    assert [cache[n] for n in (1, 2, 1, 3, 1)] == ["1", "2", "1", "3", "1"]
    assert computed == [1, 2, 3, 1]
    assert set(cache) == {1, 3}
