# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.environment import SettingsError
from exporters.tcp_listener import is_own_name, listen_tcp, own_names

LOCAL = frozenset({"localhost"})


def test_it_listens_at_any_port_that_is_free():
    with (
        listen_tcp("127.0.0.1", 0, "It") as listener,
        socket.create_connection(listener.getsockname(), timeout=5),
    ):
        pass


def test_a_port_that_is_taken_is_refused_with_a_remedy():
    with listen_tcp("127.0.0.1", 0, "It") as listener:
        port = listener.getsockname()[1]
        with pytest.raises(SettingsError) as refused:
            listen_tcp("127.0.0.1", port, "It")
    assert str(refused.value) == (
        f"It cannot be served at 127.0.0.1:{port}: something listens there already"
        " (`ss -ltnp` says what); end it, or choose another port"
    )


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("192.0.2.1", "this machine has no such address"),
        ("host.invalid", "no address of that name is known"),
        (f"{'x' * 70}.invalid", "no address of that name is known"),
    ],
)
def test_an_address_of_others_is_refused_with_the_reason(host, why):
    with pytest.raises(SettingsError, match=f"It cannot be served at {host}:0: {why}"):
        listen_tcp(host, 0, "It")


def test_no_name_service_is_asked_to_listen(monkeypatch):
    monkeypatch.setattr(socket, "getfqdn", lambda *_: pytest.fail("asked for a name"))
    monkeypatch.setattr(socket, "gethostbyaddr", lambda *_: pytest.fail("asked for a name"))
    listen_tcp("127.0.0.1", 0, "It").close()


@pytest.mark.parametrize(
    ("host", "bound_name", "expected"),
    [
        ("127.0.0.1", "", {"localhost"}),
        ("127.3.4.5", "127.3.4.5", {"localhost", "127.3.4.5"}),
        ("127.0.0.1", "Box", {"localhost", "box"}),
        ("0.0.0.0", "", None),
    ],
)
def test_names_matter_on_loopback_addresses(host, bound_name, expected):
    with listen_tcp(host, 0, "It") as listener:
        assert own_names(listener, bound_name) == expected


def test_names_matter_on_the_loopback_address_of_ipv6():
    try:
        listener = listen_tcp("::1", 0, "It")
    except SettingsError as error:
        pytest.skip(str(error))
    with listener:
        assert own_names(listener, "::1") == {"localhost", "::1"}


def test_names_do_not_matter_on_a_unix_socket(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "a.sock"))
        assert own_names(listener, "") is None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LocalHost:9464", True),
        ("localhost.:80", True),
        (" 127.0.0.1 ", True),
        ("127.0.0.1:9464", True),
        ("192.0.2.7", True),
        ("[::1]", True),
        ("[::1]:9464", True),
        ("box", False),
        ("localhost.evil.example", False),
        ("evil.example:9464", False),
        ("127.0.0.1.evil.example", False),
        ("[::1].evil.example", False),
        ("[evil.example]", False),
        ("::1", False),
        ("", False),
        (":80", False),
        ("localhost@evil.example", False),
    ],
)
def test_addresses_and_names_of_this_machine_are_its_own(host, expected):
    assert is_own_name(host, LOCAL) is expected


@given(
    st.from_regex(r"[a-z][a-z0-9-]{0,9}(\.[a-z][a-z0-9-]{0,9}){1,3}(:[0-9]{1,5})?", fullmatch=True)
)
def test_a_name_with_dots_is_never_its_own(host):
    assert not is_own_name(host, LOCAL)
