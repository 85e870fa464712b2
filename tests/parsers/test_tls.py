# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.model import Completeness, Endpoint, Exchange, Kind, Options, ParseError, Side
from parsers.reader import NeedMoreData, Reader
from parsers.registry import Registry
from parsers.tls import TlsParser
from tests.parsers.corpus import Player, Step
from tests.parsers.tls_bytes import (
    CHANGE,
    NEWEST,
    RANDOM,
    SEALED,
    alert,
    alpn,
    client_hello,
    down,
    message,
    name_of,
    record,
    server_hello,
    up,
)

PARSERS = list(Registry.load().parsers.values())
SERVER = Endpoint("10.0.0.1", 443)
HELLO = record(client_hello(name_of(b"shop.example.com"), alpn(b"h2", b"http/1.1")))
NEW = record(server_hello(NEWEST)) + CHANGE + SEALED
OLD = record(server_hello(alpn(b"h2"), suite=0xC02F))
CERTIFICATE = record(message(11, b"certificate"))
DONE = record(message(14, b""))
KEY = record(message(16, b"key")) + CHANGE + record(bytes(40))
TICKET = record(message(4, b"ticket"))
FINISHED = CHANGE + record(bytes(40))


def play(*steps, parsers=PARSERS, side=Side.SERVER, **options):
    return Player(parsers, side, **options).play(steps)


def told(player):
    """The only exchange, as a golden file has it."""
    (found,) = player.described()
    return found


def attributes(*steps):
    return told(play(*steps))["attributes"]


def said(*steps):
    found = told(play(*steps, Step("close")))
    return found["error_type"], found["completeness"]


# -- what is said of a handshake ----------------------------------------------------------


def test_handshake_of_tls_1_3():
    player = play(up(HELLO), down(NEW), up(CHANGE + SEALED), down(SEALED))
    assert told(player) == {
        "name": "TLS handshake",
        "attributes": {
            "tls.client.server_name": "shop.example.com",
            "tls.protocol.name": "tls",
            "tls.protocol.version": "1.3",
            "tls.cipher": "TLS_AES_128_GCM_SHA256",
            "tls.resumed": False,
            "wirespan.tls.offered_protocols": ["h2", "http/1.1"],
            "server.address": "shop.example.com",
            "server.port": 80,
        },
        "error_type": None,
        "completeness": "complete",
        "request_size": len(HELLO) + len(SEALED),
        "response_size": len(NEW) - len(CHANGE + SEALED),
    }
    assert player.session.opaque == "encrypted"


def test_handshake_of_tls_1_2():
    flight = OLD + CERTIFICATE + DONE
    player = play(up(HELLO), down(flight), up(KEY), down(FINISHED), up(SEALED))
    found = told(player)
    assert found["attributes"]["tls.protocol.version"] == "1.2"
    assert found["attributes"]["tls.cipher"] == "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
    assert found["attributes"]["tls.next_protocol"] == "h2"
    assert found["attributes"]["tls.resumed"] is False
    assert (found["request_size"], found["response_size"]) == (len(HELLO), len(flight + CHANGE))
    assert player.session.opaque == "encrypted"


@pytest.mark.parametrize(
    ("answer", "resumed"),
    [
        (OLD + FINISHED, True),
        (OLD + TICKET + FINISHED, True),
        (record(server_hello(block=b"") + message(4, b"ticket")) + FINISHED, True),
        (OLD + CERTIFICATE + DONE + FINISHED, False),
        (record(server_hello(block=b"") + message(11, b"certificate")) + FINISHED, False),
        (record(server_hello(NEWEST, (41, b"\0\0"))), True),
        (record(server_hello(NEWEST)), False),
    ],
)
def test_resumption(answer, resumed):
    assert attributes(up(HELLO), down(answer), up(SEALED))["tls.resumed"] is resumed


def test_resumption_is_not_guessed_from_what_is_encrypted():
    assert "tls.resumed" not in attributes(up(HELLO), down(OLD + SEALED))


def test_resumption_is_not_guessed_after_a_loss():
    lost = replace(down(CERTIFICATE + DONE), seen=False)
    found = told(play(up(HELLO), down(OLD), lost, up(KEY), down(FINISHED)))
    assert "tls.resumed" not in found["attributes"]
    assert found["completeness"] == "gap"


def test_hello_retry_request():
    retry = record(
        server_hello(
            NEWEST,
            random=bytes.fromhex(
                "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"
            ),
        )
    )
    start = up(HELLO), down(retry + CHANGE), up(CHANGE + HELLO)
    found = told(play(*start, Step("close")))
    assert found["attributes"]["tls.protocol.version"] == "1.3"
    assert "tls.resumed" not in found["attributes"]
    assert found["error_type"] == "connection_closed"
    assert attributes(*start, down(NEW), up(SEALED))["tls.resumed"] is False


@pytest.mark.parametrize(
    ("version", "name", "number"),
    [
        (b"\3\0", "ssl", "3"),
        (b"\3\1", "tls", "1.0"),
        (b"\3\2", "tls", "1.1"),
        (b"\3\3", "tls", "1.2"),
    ],
)
def test_old_versions(version, name, number):
    answer = record(server_hello(block=b"", version=version, suite=10))
    found = attributes(up(HELLO), down(answer + FINISHED))
    assert (found["tls.protocol.name"], found["tls.protocol.version"]) == (name, number)


def test_without_a_name_the_address_is_what_is_known():
    found = attributes(up(record(client_hello())), down(NEW), up(SEALED))
    assert "tls.client.server_name" not in found
    assert "wirespan.tls.offered_protocols" not in found
    assert found["server.address"] == "10.0.0.1"


def test_handshakes_of_the_same_facts_share_one_outline():
    def outlines(server):
        for hello in (HELLO, HELLO.replace(RANDOM, bytes(32))):
            player = play(up(hello), down(NEW), up(SEALED))
            (exchange,) = player.exchanges
            yield exchange.parser.outline(exchange, Side.CLIENT, server)

    first, second = outlines(SERVER)
    assert first is second
    other, _ = outlines(Endpoint("", 0))
    assert other is not first
    assert "server.port" not in other.attributes
    (nameless,) = play(up(record(client_hello())), down(NEW), up(SEALED)).exchanges
    outline = nameless.parser.outline(nameless, Side.CLIENT, Endpoint("", 0))
    assert "server.address" not in outline.attributes


# -- what goes wrong ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ([down(alert(40))], "handshake_failure"),
        ([down(alert(201))], "alert_201"),
        ([down(alert(0, level=1))], "close_notify"),
        ([down(alert(112, level=1)), down(alert(70))], "protocol_version"),
        ([up(alert(0, level=1))], "close_notify"),
        ([down(OLD + CERTIFICATE + DONE), up(alert(42))], "bad_certificate"),
        ([down(OLD + CERTIFICATE + DONE), up(KEY), down(alert(51))], "decrypt_error"),
        (
            [down(OLD + CERTIFICATE + DONE), up(alert(41, level=1)), up(alert(40))],
            "handshake_failure",
        ),
        ([down(OLD + alert(41, level=1) + alert(80))], "internal_error"),
        ([down(NEW), up(alert(48))], "unknown_ca"),
        ([down(record(server_hello(NEWEST)) + alert(80))], "internal_error"),
        ([down(NEW), up(CHANGE + record(bytes(19), kind=23))], "encrypted_alert"),
    ],
)
def test_alert_is_the_error(steps, error):
    assert said(up(HELLO), *steps) == (error, "complete")


def test_early_data_may_be_as_short_as_an_alert():
    short = record(bytes(19), kind=23)
    assert said(up(HELLO + CHANGE + short), down(NEW), up(short)) == (None, "complete")


@pytest.mark.parametrize("steps", [[], [down(NEW)], [down(OLD + CERTIFICATE)]])
def test_end_before_the_handshake_is_over(steps):
    complete = "complete" if steps else "unanswered"
    assert said(up(HELLO), *steps) == ("connection_closed", complete)


def test_server_that_does_not_speak_tls():
    player = play(up(HELLO), down(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Step("close"))
    assert player.exchanges == []
    assert player.session.opaque == "unknown"
    assert player.tally.abandoned_requests == 1


def test_hello_that_was_cut_says_what_it_has():
    cut = Step(data=HELLO[:80], size=len(HELLO))
    found = told(play(cut, down(NEW), up(SEALED)))
    assert found["attributes"]["tls.client.server_name"] == "shop.example.com"
    assert found["attributes"]["tls.cipher"] == "TLS_AES_128_GCM_SHA256"
    assert found["completeness"] == "gap"


def test_large_hello_in_pieces():
    data = client_hello((21, bytes(20_000)), name_of(b"shop.example.com"))
    sent = record(data[:16384]) + record(data[16384:])
    pieces = [up(sent[i : i + 1448]) for i in range(0, len(sent), 1448)]
    found = told(play(*pieces, down(NEW), up(SEALED)))
    assert found["attributes"]["tls.client.server_name"] == "shop.example.com"
    assert found["request_size"] == len(sent) + len(SEALED)


# -- connections that are encrypted already -----------------------------------------------


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(
    "steps",
    [
        [up(SEALED), down(SEALED)],
        [up(SEALED + SEALED)],
        [down(SEALED + SEALED)],
        [down(CHANGE + record(bytes(40)))],
        [down(b"middle"), up(SEALED), down(SEALED)],
        [up(KEY), down(FINISHED)],
        [down(NEW), up(SEALED)],
    ],
)
def test_late_connection_is_given_up_at_once(steps, side):
    player = play(*steps, side=side, late=True)
    assert player.session.opaque == "encrypted"
    assert player.exchanges == []
    assert player.tally.parse_errors == {}


@pytest.mark.parametrize("kind", Kind)
def test_record_that_nobody_expects_ends_the_reading(kind):
    for data in (SEALED, CHANGE, record(bytes(40)), alert(40) if kind is Kind.REQUEST else SEALED):
        found = TlsParser(Options()).parse(Reader(data), kind, None)
        assert (found.interim, found.switches_to) == (True, "encrypted")


def test_what_a_recording_keeps_of_a_record_is_enough_to_know_it_again():
    reader = Reader(SEALED + SEALED)
    reader.marking = True
    TlsParser(Options()).parse(reader, Kind.REQUEST, None)
    assert reader.omitted == [(9, 45)]
    assert reader.position == 50


# -- upgrades -----------------------------------------------------------------------------

CONNECT = up(b"CONNECT shop.example.com:443 HTTP/1.1\r\nHost: shop.example.com\r\n\r\n")
AGREED = down(b"HTTP/1.1 200 OK\r\n\r\n")


def bytewise(steps):
    return [
        replace(step, data=step.data[i : i + 1], size=1)
        for step in steps
        for i in range(len(step.data))
    ]


@pytest.mark.parametrize("side", [Side.SERVER, Side.CLIENT])
def test_tls_through_a_tunnel(side):
    steps = [CONNECT, AGREED, up(HELLO), down(NEW), up(CHANGE + SEALED), down(SEALED)]
    whole = play(*steps, side=side)
    assert [each.protocol for each in whole.exchanges] == ["http", "tls"]
    assert whole.session.opaque == "encrypted"
    assert play(*bytewise(steps), side=side).described() == whole.described()


@pytest.mark.parametrize(
    "steps",
    [[up(b"SSH-2.0-OpenSSH\r\n")], [down(b"220 ready\r\n")], [up(b"\x16"), up(b"GET / HTTP")]],
)
def test_something_else_through_a_tunnel(steps):
    player = play(CONNECT, AGREED, *steps)
    assert [each.protocol for each in player.exchanges] == ["http"]
    assert player.session.opaque == "unknown"
    assert player.tally.parse_errors == {}


def test_request_that_ends_the_answer_to_connect_was_none():
    cut = Step(to_server=False, data=b"HTTP/1.1 200 OK\r\nX: ", size=500)
    player = play(CONNECT, cut, up(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Step("close"))
    assert [each.protocol for each in player.exchanges] == ["http"]
    assert isinstance(player.session.parser, TlsParser)
    assert player.tally.abandoned_requests == 1


# -- anything -----------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(Kind), st.binary(min_size=1, max_size=120)), max_size=6))
def test_any_bytes_raise_nothing_else(pieces):
    parser = TlsParser(Options())
    for kind, data in pieces:
        for head in (b"", b"\x16\3\1", HELLO[:50], record(server_hello(NEWEST))[:60]):
            reader = Reader(head + data, cut=len(data) % 2 == 1)
            try:
                found = parser.parse(reader, kind, None)
            except (ParseError, NeedMoreData):
                continue
            assert reader.position > 0
            if found is not None and found.kind is Kind.REQUEST:
                exchange = Exchange("tls", found, None, Completeness.COMPLETE)
                assert parser.outline(exchange, Side.CLIENT, SERVER).name
