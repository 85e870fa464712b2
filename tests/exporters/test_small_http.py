# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import http.client
import logging
import socket

import pytest

from exporters.small_http import MAX_PARAMETERS, Answer
from exporters.tcp_listener import listen_tcp
from tests.exporters.small_servers import ask, connected, echo, said, serve, settled

__all__ = ["serve"]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_request_is_answered_by_its_path(serve, tmp_path, kind):
    listener = None
    if kind == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "a.sock"))
        listener.listen()
    server = serve(listener)
    answer = ask(server, "/echo?b=2&a=%20x")
    assert (answer.status, answer.body) == (200, b"[('a', ' x'), ('b', '2')]")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert answer.headers["Connection"] == "close"
    settled(server, answered=1)


def test_what_is_not_there_names_what_is(serve):
    server = serve(other=echo)
    for target in ("/", "/echo/", "/../etc/passwd"):
        answer = ask(server, target)
        assert (answer.status, answer.body) == (404, b"there are only: /echo, /other\n")
    settled(server, failed=3)


def test_handlers_are_told_what_was_asked_and_say_all_of_the_answer(serve):
    def handler(request):
        assert (request.method, request.path) == ("GET", "/all")
        assert (request.query, request.headers["Accept"]) == ("a=1", "x/y")
        return Answer(content_type="x/y", status=202, headers=(("Vary", "Accept"),))

    answer = ask(serve(all=handler), "/all?a=1", Accept="x/y")
    assert (answer.status, answer.body) == (202, b"")
    assert (answer.headers["Content-Type"], answer.headers["Vary"]) == ("x/y", "Accept")


def test_too_many_parameters_are_an_error_of_the_handler(serve, caplog):
    many = "&".join(f"k{n}=1" for n in range(MAX_PARAMETERS + 1))
    assert ask(serve(), f"/echo?{many}").status == 500
    assert "It: a request could not be answered" in caplog.text


@pytest.mark.parametrize("length", [None, 6])
def test_a_body_may_come_in_pieces(serve, length):
    server = serve(pieces=lambda _: Answer(body=iter((b"ab", b"", b"cdef")), length=length))
    answer = ask(server, "/pieces")
    assert answer.body == b"abcdef"
    chunked = None if length else "chunked"
    assert answer.headers["Transfer-Encoding"] == chunked
    assert answer.headers["Content-Length"] == (str(length) if length else None)
    with connected(server) as client:
        old = said(client, b"GET /pieces HTTP/1.0\r\n\r\n")
    assert b"chunked" not in old
    assert old.endswith(b"\r\n\r\nabcdef")


def test_head_has_headers_only_and_makes_no_body(serve):
    def pieces():
        pytest.fail("made")
        yield b""

    server = serve(pieces=lambda _: Answer(body=pieces()))
    for target in ("/pieces", "/echo"):
        answer = ask(server, target, "HEAD")
        assert (answer.status, answer.body) == (200, b"")


def test_a_fault_before_the_first_piece_is_an_error_that_is_logged(serve, caplog):
    def fails(request):
        raise ZeroDivisionError

    def pieces():
        yield b"" + bytes(1 // 0)

    server = serve(fails=fails, pieces=lambda _: Answer(body=pieces()))
    for target in ("/fails", "/pieces"):
        caplog.clear()
        answer = ask(server, target)
        assert answer.status == 500
        assert b"ZeroDivision" not in answer.body
        assert caplog.messages == ["It: a request could not be answered"]
    settled(server, failed=2)


def test_a_fault_later_on_breaks_the_answer_off_for_all_to_see(serve, caplog):
    def pieces():
        yield b"ab"
        raise ZeroDivisionError

    server = serve(pieces=lambda _: Answer(body=pieces()))
    with pytest.raises(http.client.IncompleteRead):
        ask(server, "/pieces")
    settled(server, failed=1)
    assert caplog.messages == ["It: a request could not be answered"]
    assert ask(server).status == 200


def test_a_client_that_goes_away_is_counted_and_not_logged(serve, caplog):
    server = serve(big=lambda _: Answer(body=bytes(8 << 20)))
    with connected(server) as client:
        client.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        client.recv(100)
    settled(server, failed=1)
    assert not caplog.records


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_nothing_but_get_and_head_is_allowed(serve, method):
    answer = ask(serve(), method=method)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "data",
    [b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n",
     b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b"\x00\xff\r\n\r\n",
     b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"", b"GET http://[/ HTTP/1.1\r\n\r\n"],
)  # fmt: skip
def test_strange_requests_harm_nobody(serve, data, capfd, caplog):
    server = serve()
    with connected(server) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = said(client, b"")
    assert b" 200 " not in answer
    assert ask(server).status == 200
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_who_may_not_ask_is_told_why(serve):
    server = serve(refusal=lambda connection: f"not you: {connection.family.name}")
    answer = ask(server)
    assert (answer.status, answer.body) == (403, b"not you: AF_INET\n")
    settled(server, refused=1)


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:9464", 200), ("localhost", 200), ("box:1", 200), ("evil.example:9464", 421)],
)
def test_what_is_bound_to_loopback_answers_to_its_own_names_only(serve, host, status):
    server = serve(bound_name="Box")
    answer = ask(server, Host=host)
    assert answer.status == status
    settled(server, **{"answered" if status == 200 else "refused": 1})


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /echo HTTP/1.0\r\n\r\n", b" 200 "),
        (b"GET /echo HTTP/1.0\r\nHost: evil.example\r\n\r\n", b" 421 "),
        (b"GET /echo HTTP/1.1\r\nHost: localhost\r\nhost: evil.example\r\n\r\n", b" 421 "),
        (b"GET http://evil.example/echo HTTP/1.1\r\nHost: localhost\r\n\r\n", b" 421 "),
        (b"GET http://localhost/echo HTTP/1.1\r\nHost: localhost\r\n\r\n", b" 200 "),
    ],
)
def test_names_are_looked_for_wherever_they_stand(serve, data, status):
    with connected(serve()) as client:
        assert status in said(client, data).partition(b"\r\n")[0]


def test_what_is_bound_to_all_addresses_answers_to_any_name(serve):
    server = serve(listen_tcp("0.0.0.0", 0, "It"))
    assert ask(server, Host="metrics.example").status == 200


def test_answers_are_no_lines_of_a_log(serve, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    ask(serve())
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
