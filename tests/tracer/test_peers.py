# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers.model import Endpoint, Side, Transport
from tests.exporters import samples
from tracer.names import Names
from tracer.peers import Peers, is_address

REMOTE = Endpoint("10.9.8.7", 5432)


def name(attributes=None, *, side=Side.CLIENT, peer=None, names=None, **ends):
    ends = {"remote": REMOTE} | ends
    span = samples.span(
        peering=samples.peering(side, **ends),
        outline=samples.outline(attributes=attributes or {}),
    )
    known = Names()
    for address, text in (names or {}).items():
        known.learn(text, [address])
    return Peers(known).name(span, peer)


@pytest.mark.parametrize("side", [Side.CLIENT, Side.SERVER])
def test_a_service_that_is_seen_has_its_own_name(side):
    attributes = {"server.address": "proxy.example"}
    assert name(attributes, side=side, peer=samples.process("stock")) == "stock"


def test_a_server_is_called_as_the_request_calls_it():
    attributes = {"server.address": "api.example"}
    assert name(attributes, names={"10.9.8.7": "other.example"}) == "api.example"


@pytest.mark.parametrize("asked", ["10.9.8.7", "::1", "[::1]", ""])
def test_an_address_is_no_name_where_one_was_resolved(asked):
    assert name({"server.address": asked}, names={"10.9.8.7": "db.example"}) == "db.example"


def test_a_database_without_a_name_is_called_as_it_calls_itself():
    attributes = {"db.system.name": "postgresql", "db.namespace": "shop"}
    assert name(attributes) == "shop (postgresql)"
    assert name(attributes, names={"10.9.8.7": "db.example"}) == "db.example"


def test_a_number_names_no_database():
    attributes = {"db.system.name": "redis", "db.namespace": "0"}
    assert name(attributes) == "redis at 10.9.8.7:5432"


def test_an_address_is_the_last_resort():
    assert name() == "10.9.8.7:5432"
    assert name(remote=Endpoint("fd00::1", 80)) == "[fd00::1]:80"
    assert name(remote=Endpoint("", 0)) == "unknown"


def test_a_unix_socket_is_called_by_its_path():
    end = Endpoint("/run/app.sock", 0)
    assert name(transport=Transport.UNIX, local=end, remote=end) == "/run/app.sock"


def test_a_client_has_a_name_or_none():
    assert name(side=Side.SERVER) == ""
    assert name(side=Side.SERVER, names={"10.9.8.7": "worker.example"}) == "worker.example"


@pytest.mark.parametrize(
    ("text", "expected"), [("10.0.0.1", True), ("[fd00::1]", True), ("a.example", False)]
)
def test_addresses_are_told_from_names(text, expected):
    assert is_address(text) is expected
