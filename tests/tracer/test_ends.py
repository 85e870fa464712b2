# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers.model import Endpoint, Side, Transport
from tracer.connection import NOWHERE, Connection
from tracer.ends import Ends
from tracer.span import Peering

A, B = Endpoint("10.0.0.1", 40_000), Endpoint("10.0.0.2", 80)
LOOP_A, LOOP_B = Endpoint("127.0.0.1", 40_000), Endpoint("127.0.0.1", 80)
TCP, UDP, UNIX = Transport.TCP, Transport.UDP, Transport.UNIX


class Sockets:
    def __init__(self, **options):
        self.connections = {}
        self.ends = Ends(self.connections, **options)

    def add(self, local, remote=NOWHERE, transport=TCP, netns=1, cookie=None):
        cookie = cookie or len(self.connections) + 1
        peering = Peering(Side.UNKNOWN, transport, local, remote, late=False)
        connection = Connection(cookie, peering, None, 1, None)
        connection.netns = netns
        self.connections[cookie] = connection
        self.ends.add(connection)
        return connection

    def other(self, connection):
        return self.ends.other(connection, connection.peering)


def test_the_other_end_has_the_addresses_the_other_way_round():
    sockets = Sockets()
    one, two = sockets.add(A, B), sockets.add(B, A)
    assert sockets.other(one) is two
    assert sockets.other(two) is one


def test_nobody_there():
    sockets = Sockets()
    assert sockets.other(sockets.add(A, B)) is None


def test_both_are_linked_whichever_comes_first_and_stay_so():
    sockets = Sockets()
    one, two = sockets.add(A, B), sockets.add(B, A)
    assert one.other is two
    assert two.other is one
    sockets.connections.clear()
    assert sockets.other(one) is two


def test_a_port_that_is_used_again_is_another_connection():
    sockets = Sockets()
    old_client, old_server = sockets.add(A, B), sockets.add(B, A)
    client = sockets.add(A, B)
    assert sockets.other(client) is None
    server = sockets.add(B, A)
    assert sockets.other(client) is server
    assert sockets.other(server) is client
    assert sockets.other(old_client) is old_server
    assert sockets.other(old_server) is old_client


def test_two_pairs_of_namespaces_with_the_same_addresses_are_not_mixed_up():
    sockets = Sockets()
    for netns in (1, 3):
        sockets.add(A, B, netns=netns)
    for netns in (2, 4):
        assert sockets.other(sockets.add(B, A, netns=netns)) is None


@pytest.mark.parametrize(("netns", "found"), [(1, True), (2, False)])
def test_loopback_belongs_to_its_namespace(netns, found):
    sockets = Sockets()
    one = sockets.add(LOOP_A, LOOP_B, netns=1)
    two = sockets.add(LOOP_B, LOOP_A, netns=netns)
    assert (sockets.other(one) is two) is found


def test_other_addresses_are_of_the_whole_machine():
    sockets = Sockets()
    one, two = sockets.add(A, B, netns=1), sockets.add(B, A, netns=2)
    assert sockets.other(one) is two


def test_a_datagram_socket_bound_to_any_address_is_found_in_its_namespace():
    sockets = Sockets()
    server = sockets.add(Endpoint("", 53), transport=UDP, netns=1)
    asked = Endpoint("10.0.0.1", 53)
    here = sockets.add(Endpoint("10.0.0.1", 5000), asked, UDP, netns=1)
    there = sockets.add(Endpoint("10.0.0.3", 5000), asked, UDP, netns=2)
    assert sockets.other(here) is server
    assert sockets.other(there) is None


def test_a_datagram_socket_at_that_address_comes_first():
    sockets = Sockets()
    sockets.add(Endpoint("", 53), transport=UDP)
    exact = sockets.add(Endpoint("10.0.0.1", 53), transport=UDP)
    client = sockets.add(Endpoint("10.0.0.1", 5000), Endpoint("10.0.0.1", 53), UDP)
    assert sockets.other(client) is exact


def test_without_addresses_there_is_no_other_end():
    sockets = Sockets()
    path = Endpoint("/run/a.sock", 0)
    assert sockets.other(sockets.add(path, path, UNIX)) is None
    assert sockets.other(sockets.add(NOWHERE, NOWHERE)) is None


def test_what_was_added_longest_ago_goes_first():
    sockets = Sockets(max_ends=2)
    sockets.add(A, B)
    for port in (1, 2):
        sockets.add(Endpoint("10.0.0.1", port), B)
    assert sockets.other(sockets.add(B, A)) is None


def test_a_forwarder_is_not_its_own_other_end():
    sockets = Sockets()
    server = sockets.add(Endpoint("", 53), transport=UDP)
    to_itself = Peering(Side.CLIENT, UDP, Endpoint("", 53), Endpoint("127.0.0.1", 53), late=False)
    assert sockets.ends.other(server, to_itself) is None


def test_any_address_is_only_that_of_this_machine():
    sockets = Sockets()
    sockets.add(Endpoint("", 53), transport=UDP)
    elsewhere = sockets.add(Endpoint("10.0.0.1", 5000), Endpoint("192.0.2.53", 53), UDP)
    assert sockets.other(elsewhere) is None


def test_inside_tls_it_is_what_the_other_socket_carries():
    sockets = Sockets()
    here, there = sockets.add(A, B), sockets.add(B, A)
    inner_here = sockets.add(NOWHERE, NOWHERE)
    inner_there = sockets.add(NOWHERE, NOWHERE)
    inner_here.carrier, inner_there.carrier = here.cookie, there.cookie
    here.carried = inner_here
    assert sockets.other(inner_here) is None
    there.carried = inner_there
    assert sockets.other(inner_here) is inner_there
    sockets.connections.clear()
    assert sockets.other(inner_there) is inner_here


def test_what_has_ended_is_found_no_more_and_still_linked():
    sockets = Sockets()
    one, two = sockets.add(A, B), sockets.add(B, A)
    for each in (one, two):
        sockets.ends.remove(each)
        del sockets.connections[each.cookie]
    assert not sockets.ends._cookies
    assert sockets.other(one) is two
    sockets.ends.remove(sockets.add(NOWHERE, NOWHERE))


def test_the_end_of_a_connection_does_not_take_away_the_next_with_its_addresses():
    sockets = Sockets()
    old = sockets.add(A, B)
    new = sockets.add(A, B)
    sockets.ends.remove(old)
    assert sockets.other(sockets.add(B, A)) is new
