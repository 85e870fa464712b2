# SPDX-License-Identifier: Apache-2.0
"""What the parser says of a handshake, held against what the library that made it says."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest
import trustme

from parsers.model import Side
from parsers.registry import Registry
from tests.parsers.corpus import Player
from tests.parsers.tls_bytes import down, up

PARSERS = list(Registry.load().parsers.values())


@pytest.fixture(scope="module")
def contexts():
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("shop.example.com").configure_cert(server)
    server.set_alpn_protocols(["http/1.1"])
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    client.set_alpn_protocols(["h2", "http/1.1"])
    return client, server


def shake_hands(client, server, session=None):
    """A handshake in memory: the client's end of it, and its transfers."""
    asking, answering = [(ssl.MemoryBIO(), ssl.MemoryBIO()) for _ in range(2)]
    name = "shop.example.com"
    ends = (
        client.wrap_bio(*asking, server_hostname=name, session=session),
        server.wrap_bio(*answering, server_side=True),
    )
    steps = []
    for _ in range(6):
        for end, (_, sent), (received, _), make in (
            (ends[0], asking, answering, up),
            (ends[1], answering, asking, down),
        ):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
                end.read(1)
            data = sent.read()
            received.write(data)
            if data:
                steps.append(make(data))
    return ends[0], steps


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_says_what_the_library_says(contexts, version):
    client, server = contexts
    client.maximum_version = version
    session = None
    for resumed in (False, True):
        end, steps = shake_hands(client, server, session)
        assert end.session_reused is resumed
        (told,) = Player(PARSERS, Side.SERVER).play(steps).described()
        found = told["attributes"]
        assert found["tls.client.server_name"] == "shop.example.com"
        assert "TLSv" + found["tls.protocol.version"] == end.version()
        assert found["tls.resumed"] is resumed
        assert found["wirespan.tls.offered_protocols"] == ["h2", "http/1.1"]
        if version is ssl.TLSVersion.TLSv1_3:
            assert found["tls.cipher"] == end.cipher()[0]
            assert "tls.next_protocol" not in found
        else:
            assert found["tls.next_protocol"] == end.selected_alpn_protocol()
        session = end.session
