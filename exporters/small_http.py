# SPDX-License-Identifier: Apache-2.0
"""A small HTTP server for what an agent tells about itself, over TCP or a Unix socket.

Problem: anybody may connect, at any time, and some of them are slow, many, or not HTTP at all;
none may hold up the pipeline, fill the memory or keep others out. Plan: one request for each
connection, on a thread of its own; a bounded number of connections, fewer of which are answered at
once; one deadline for the whole head of a request and one for the whole answer, which the
listening thread watches over. So a socket needs no timeout: it is shut down when its time is up.

Listeners are made elsewhere: exporters/tcp_listener.py, which also says by which names a server
may be asked, and exporters/agent_socket.py.

Spec: RFC 9110, RFC 9112 (7.1 chunked); http.server of the standard library
"""

from __future__ import annotations

import errno
import logging
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from itertools import chain
from socketserver import BaseServer, TCPServer, ThreadingMixIn
from typing import Final, NamedTuple, TypeAlias, cast
from urllib.parse import parse_qsl, urlsplit

from exporters.semconv import USER_AGENT
from exporters.tcp_listener import is_own_name, own_names

MAX_CONNECTIONS: Final = 16
"""Those who are told to come again included."""
MAX_ANSWERED: Final = 8
"""Requests that are answered at once: two Prometheus servers and a curl are three."""
HEAD_S: Final = 5.0
"""For a client to send the head of its request; it is one packet."""
ANSWER_S: Final = 30.0
"""To make the answer and for the client to take it: Prometheus gives up after ten."""
WATCH_S: Final = 0.2
"""How often overdue connections are looked for, and how long `close` waits for the thread."""
MAX_PARAMETERS: Final = 32

TEXT: Final = "text/plain; charset=utf-8"
METHODS: Final = "GET, HEAD"

COUNTERS: Final = ("answered", "busy", "failed", "refused")
"""`busy`: there was no room; `refused`: who asked may not, or not by that name."""

SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Why a connection cannot be accepted though it waits."""

logger = logging.getLogger(__name__)


class Request(NamedTuple):
    """The head of a request."""

    method: str
    """GET or HEAD."""
    path: str
    query: str
    """As it was written, without the question mark."""
    headers: Message

    def parameters(self) -> dict[str, str]:
        """The query in parts; of parts with the same name the last.

        Raises:
            ValueError: it has more than `MAX_PARAMETERS`.
        """
        return dict(parse_qsl(self.query, max_num_fields=MAX_PARAMETERS))


@dataclass(slots=True, kw_only=True)
class Answer:
    """What is sent back."""

    body: bytes | Iterable[bytes] = b""
    """In pieces if it is large: they are made as the client takes them, and not for HEAD."""
    content_type: str = TEXT
    status: HTTPStatus = HTTPStatus.OK
    length: int | None = None
    """Bytes of a body in pieces, where they are known."""
    headers: tuple[tuple[str, str], ...] = ()


Handler: TypeAlias = Callable[[Request], Answer]
"""Answers one path, on any thread. What it raises is an error 500 and logged, and so is what its
body raises before the first piece; later on the connection breaks off."""
Refusal: TypeAlias = Callable[[socket.socket], str]
"""Why who is connected may not ask; empty if they may."""


def words(status: HTTPStatus, text: str) -> Answer:
    """An answer in plain text."""
    headers = []
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("Allow", METHODS))
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append(("Retry-After", "1"))
    return Answer(body=f"{text}\n".encode(), status=status, headers=tuple(headers))


class SmallServer:
    """Answers at a listening socket, on threads of its own, until `close`."""

    def __init__(
        self,
        listener: socket.socket,
        routes: Mapping[str, Handler],
        *,
        name: str,
        bound_name: str = "",
        refusal: Refusal | None = None,
    ) -> None:
        """`routes` are handlers by path; `name` is for logs and the thread.

        The socket is the server's from now on. `bound_name`: what the user called its address.
        """
        self._server = _Server(listener, routes, name, own_names(listener, bound_name), refusal)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(WATCH_S,), name=name, daemon=True
        )
        self._thread.start()
        self._is_closed = False

    @property
    def address(self) -> object:
        """Where it listens, as `socket.getsockname` has it."""
        return self._server.server_address

    def counters(self) -> Mapping[str, int]:
        """Requests since start, by `COUNTERS`; each is in one of them. Any thread may ask."""
        return {name: self._server.counts[name] for name in COUNTERS}

    def close(self, grace_s: float = 0.0) -> None:
        """Listen no more, and break off what is under way after `grace_s`.

        Who has not asked yet is broken off at once. Takes `WATCH_S` longer than that.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.finish(grace_s)


@dataclass(slots=True)
class _Place:
    """One connection."""

    until_s: float
    """When it is broken off."""
    is_answered: bool = False


class _Server(ThreadingMixIn, TCPServer):
    """The places, and who gets one."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        listener: socket.socket,
        routes: Mapping[str, Handler],
        name: str,
        names: frozenset[str] | None,
        refusal: Refusal | None,
    ) -> None:
        # Not TCPServer's, which would make a socket itself.
        BaseServer.__init__(self, listener.getsockname(), _Exchange)
        # A client may have gone before it is accepted; to wait for the next would hold up all.
        listener.setblocking(False)
        self.socket = listener
        self.routes = routes
        self.name = name
        self.names = names
        self.refusal = refusal
        self.counts: Counter[str] = Counter()
        self._places: dict[socket.socket, _Place] = {}
        self._changed = threading.Condition()
        """Held to change `_places` or `counts`."""

    def get_request(self) -> tuple[socket.socket, object]:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in SCARCE:
                # It would be tried again at once, over and over.
                time.sleep(WATCH_S)
            raise

    def verify_request(self, request: object, client_address: object) -> bool:
        """Whether there is room for one more connection; it is closed at once if not."""
        with self._changed:
            if len(self._places) >= MAX_CONNECTIONS:
                self.counts["busy"] += 1
                return False
            place = _Place(time.monotonic() + HEAD_S)
            self._places[cast("socket.socket", request)] = place
            return True

    def process_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be had
            self.count("busy")
            self.shutdown_request(request)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """Whatever becomes of a connection, it ends here, and its place is free."""
        with self._changed:
            self._places.pop(cast("socket.socket", request), None)
            # Not later: its number may then be that of another one, which `break_off` would end.
            super().shutdown_request(request)
            self._changed.notify_all()

    def service_actions(self) -> None:
        self.break_off(time.monotonic())

    def break_off(self, now_s: float) -> None:
        """End the connections whose time is up; their threads see the end and leave."""
        with self._changed:
            for connection, place in self._places.items():
                if place.until_s <= now_s:
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)

    def begin_answer(self, connection: socket.socket) -> bool:
        """The head of a request is read; False if too many are being answered.

        Raises:
            ConnectionAbortedError: it came too late.
        """
        with self._changed:
            place = self._places[connection]
            now_s = time.monotonic()
            if place.until_s <= now_s:  # broken off in the midst of it, which looks like its end
                raise ConnectionAbortedError
            place.until_s = now_s + ANSWER_S
            answered = sum(each.is_answered for each in self._places.values())
            place.is_answered = answered < MAX_ANSWERED
            return place.is_answered

    def finish(self, grace_s: float) -> None:
        """Wait for answers that are under way, and end all that is left."""
        with self._changed:
            for place in self._places.values():
                if not place.is_answered:
                    place.until_s = 0.0
        self.break_off(0.0)
        with self._changed:
            self._changed.wait_for(lambda: not self._places, grace_s)
        self.break_off(float("inf"))

    def count(self, name: str) -> None:
        with self._changed:
            self.counts[name] += 1

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone away is no news; anything else is a fault of ours."""
        self.count("failed")
        error = sys.exception()
        if not isinstance(error, OSError):
            logger.error("%s: a request could not be answered", self.name, exc_info=error)


class _Exchange(BaseHTTPRequestHandler):
    """One request and its answer; then the connection is closed."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        server = self.server
        # Not before the head is read: who is cut off while they write never reads why.
        if server.refusal is not None and (why := server.refusal(self.connection)):
            self._send(words(HTTPStatus.FORBIDDEN, why))
        elif not server.begin_answer(self.connection):
            text = f"{MAX_ANSWERED} others are being answered: ask again"
            self._send(words(HTTPStatus.SERVICE_UNAVAILABLE, text))
        else:
            self._answer()

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that is none, in one line and not in HTML."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code = HTTPStatus.METHOD_NOT_ALLOWED
        self._send(words(HTTPStatus(code), HTTPStatus(code).phrase))

    def version_string(self) -> str:
        return USER_AGENT

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - http.server's name
        """Keep silent: every request would be a line."""

    def _answer(self) -> None:
        try:
            url = urlsplit(self.path)
            hosts = [*self.headers.get_all("Host", ()), *([url.netloc] if url.netloc else ())]
        except ValueError:  # brackets without an address
            self._send(words(HTTPStatus.BAD_REQUEST, "Bad Request"))
            return
        names = self.server.names
        if names is not None and not all(is_own_name(each, names) for each in hosts):
            text = "This server is asked by its address or as localhost, and by no other name."
            self._send(words(HTTPStatus.MISDIRECTED_REQUEST, text))
            return
        handler = self.server.routes.get(url.path)
        if handler is None:
            known = ", ".join(sorted(self.server.routes))
            self._send(words(HTTPStatus.NOT_FOUND, f"there are only: {known}"))
            return
        request = Request(self.command, url.path, url.query, self.headers)
        try:
            answer = handler(request)
            if self.command != "HEAD":
                answer = _begun(answer)
        except Exception:
            logger.exception("%s: a request could not be answered", self.server.name)
            text = "it could not be answered: the agent's log says why"
            answer = words(HTTPStatus.INTERNAL_SERVER_ERROR, text)
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        self.close_connection = True
        body = answer.body
        length = len(body) if isinstance(body, bytes) else answer.length
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Connection", "close")
        for name, value in answer.headers:
            self.send_header(name, value)
        is_head = self.command == "HEAD"
        # Who speaks HTTP/1.0 sees by the end of the connection where the body ends.
        is_chunked = length is None and self.request_version == "HTTP/1.1"
        if is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif length is not None and not is_head:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if not is_head:
            for piece in (body,) if isinstance(body, bytes) else body:
                if piece:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
            if is_chunked:
                self.wfile.write(b"0\r\n\r\n")
        self.server.count(_fate(answer.status))


def _begun(answer: Answer) -> Answer:
    """The same with the first piece of its body made."""
    if not isinstance(answer.body, bytes):
        pieces: Iterator[bytes] = iter(answer.body)
        answer.body = chain((next(pieces, b""),), pieces)
    return answer


def _fate(status: HTTPStatus) -> str:
    """Which of `COUNTERS`."""
    if status < HTTPStatus.BAD_REQUEST:
        return "answered"
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        return "busy"
    refused = {HTTPStatus.FORBIDDEN, HTTPStatus.MISDIRECTED_REQUEST}
    return "refused" if status in refused else "failed"
