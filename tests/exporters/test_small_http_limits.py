# SPDX-License-Identifier: Apache-2.0
"""Nobody takes more of it than there is for them."""

from __future__ import annotations

import errno
import http.client
import threading
import time

import pytest

from exporters import small_http
from exporters.small_http import MAX_ANSWERED, MAX_CONNECTIONS, Answer
from exporters.tcp_listener import listen_tcp
from tests.exporters.small_servers import (
    GET,
    ask,
    connected,
    empty,
    is_ended,
    said,
    serve,
    settled,
)
from tests.rig import wait_until

__all__ = ["serve"]


def test_connections_are_few_and_those_beyond_are_ended_at_once(serve):
    server = serve()
    clients = [connected(server) for _ in range(MAX_CONNECTIONS)]
    try:
        wait_until(lambda: len(server._server._places) == MAX_CONNECTIONS, "all are taken")
        with connected(server) as late:
            assert is_ended(late)
        settled(server, busy=1)
    finally:
        for client in clients:
            client.close()
    wait_until(lambda: empty(server), "all have gone")
    assert ask(server).status == 200


def test_requests_beyond_what_is_answered_at_once_are_told_to_come_again(serve):
    go_on, entered = threading.Event(), threading.Semaphore(0)

    def slow(request):
        entered.release()
        assert go_on.wait(10)
        return Answer()

    server = serve(slow=slow)
    clients = [connected(server) for _ in range(MAX_ANSWERED)]
    try:
        for client in clients:
            client.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
            assert entered.acquire(timeout=10)
        answer = ask(server)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert answer.body == b"8 others are being answered: ask again\n"
    finally:
        go_on.set()
        answers = [said(client, b"") for client in clients]
        for client in clients:
            client.close()
    assert all(b" 200 " in each for each in answers)
    settled(server, answered=MAX_ANSWERED, busy=1)
    assert ask(server).status == 200


def test_where_no_thread_can_be_had_the_place_is_free_again(serve, monkeypatch, caplog):
    server = serve()
    start = threading.Thread.start

    def fail(self):
        if "process_request_thread" in self.name:
            raise RuntimeError("can't start new thread")
        start(self)

    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", fail)
        for _ in range(MAX_CONNECTIONS + 1):
            with connected(server) as client:
                assert is_ended(client)
    assert empty(server)
    assert ask(server).status == 200
    settled(server, busy=MAX_CONNECTIONS + 1, answered=1)
    assert not caplog.records


def test_where_no_descriptor_can_be_had_it_is_tried_again_a_little_later(serve):
    server = serve()
    listener, tried = server._server.socket, []

    class Scarce:
        def accept(self):
            tried.append(time.monotonic())
            raise OSError(errno.EMFILE, "Too many open files")

    server._server.socket = Scarce()
    with connected(server) as client:
        wait_until(lambda: len(tried) >= 3, "it was tried again")
        server._server.socket = listener
        assert b" 200 " in said(client, GET)
    assert tried[2] - tried[0] >= 2 * small_http.WATCH_S


def test_who_says_nothing_is_let_go(serve, monkeypatch):
    monkeypatch.setattr(small_http, "HEAD_S", 0.05)
    server = serve()
    with connected(server) as client:
        assert is_ended(client)
    settled(server)


@pytest.mark.parametrize("begin", [b"", b"GET /echo HTTP/1.1\r\n"])
def test_there_is_one_deadline_for_a_head_however_much_of_it_comes(serve, monkeypatch, begin):
    """Nor is what came until then taken for a request."""
    monkeypatch.setattr(small_http, "HEAD_S", 0.2)
    asked = []
    server = serve(echo=asked.append)
    with connected(server) as client:
        client.sendall(begin)

        def is_cut_off():
            try:
                client.sendall(b"a: b\r\n" if begin else b"G")
            except (BrokenPipeError, ConnectionResetError):
                return True
            return False

        wait_until(is_cut_off, "it was broken off", 5)
    wait_until(lambda: empty(server), "it has gone")
    assert server.counters()["answered"] == 0
    assert not asked


def test_those_who_trickle_keep_others_out_for_a_moment_only(serve, monkeypatch):
    monkeypatch.setattr(small_http, "HEAD_S", 0.3)
    server = serve()
    clients = [connected(server) for _ in range(MAX_CONNECTIONS)]
    over = threading.Event()

    def trickle():
        while not over.wait(0.02):
            for client in clients:
                try:
                    client.send(b"G")
                except OSError:
                    continue

    trickling = threading.Thread(target=trickle)
    trickling.start()

    def is_answered():
        try:
            return ask(server).status == 200
        except (http.client.HTTPException, OSError):
            return False

    try:
        wait_until(is_answered, "there is room", 3)
    finally:
        over.set()
        trickling.join()
        for client in clients:
            client.close()


def test_who_takes_nothing_of_the_answer_is_let_go_and_holds_up_nobody(serve, monkeypatch):
    monkeypatch.setattr(small_http, "ANSWER_S", 0.5)
    server = serve(big=lambda _: Answer(body=bytes(8 << 20)))
    with connected(server) as client:
        client.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        wait_until(lambda: not empty(server), "it is being answered")
        assert ask(server).status == 200
        wait_until(lambda: empty(server), "it was broken off", 5)
    settled(server, answered=1, failed=1)


def test_close_ends_the_thread_and_what_is_under_way_and_frees_the_port(serve):
    server = serve()
    host, port = server.address
    with connected(server) as client:
        wait_until(lambda: not empty(server), "it is taken")
        server.close(10.0)
        assert is_ended(client)
    assert not server._thread.is_alive()
    server.close()
    assert ask(serve(listen_tcp(host, port, "It"))).status == 200


@pytest.mark.parametrize("grace_s", [0.0, 10.0])
def test_close_waits_for_answers_as_long_as_it_is_told(serve, grace_s):
    entered, go_on = threading.Event(), threading.Event()

    def slow(request):
        entered.set()
        assert go_on.wait(10)
        return Answer(body=b"late")

    server = serve(slow=slow)
    with connected(server) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        assert entered.wait(10)
        closing = threading.Thread(target=server.close, args=(grace_s,))
        closing.start()
        if not grace_s:
            closing.join()
        go_on.set()
        assert said(client, b"").endswith(b"late" if grace_s else b"")
        closing.join()
        if not grace_s:
            assert is_ended(client)
