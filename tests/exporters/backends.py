# SPDX-License-Identifier: Apache-2.0
"""OTLP backends on loopback that answer as they are told."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

PROTOBUF = "application/x-protobuf"


def response(rejected: int = 0, message: str = "") -> bytes:
    partial = ExportTracePartialSuccess(rejected_spans=rejected, error_message=message)
    return bytes(ExportTraceServiceResponse(partial_success=partial).SerializeToString())


@dataclass
class Reply:
    """What an HTTP backend says; DISCONNECT says nothing."""

    status: int = 200
    body: bytes = b""
    content_type: str = PROTOBUF
    headers: dict[str, str] = field(default_factory=dict)


DISCONNECT = Reply(0)


@dataclass
class Request:
    headers: Any
    body: bytes
    path: str
    client: tuple[str, int]

    @property
    def message(self) -> ExportTraceServiceRequest:
        body = self.body
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        return ExportTraceServiceRequest.FromString(body)


class HttpBackend:
    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.accepted: list[Request] = []
        """Those of them that were answered with 200."""
        self.replies: list[Reply] = []
        self.reply = Reply()
        """What is said when `replies` are used up."""
        self.delay_s = 0.0
        """What an answer takes."""
        self.release = threading.Event()
        """Answers wait for it."""
        self.release.set()
        self._connections: set[socket.socket] = set()
        backend = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = Request(self.headers, body, self.path, self.client_address)
                backend.requests.append(request)
                backend.release.wait(10)
                time.sleep(backend.delay_s)
                reply = backend.replies.pop(0) if backend.replies else backend.reply
                if reply.status == 200:
                    backend.accepted.append(request)
                if reply is DISCONNECT:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.content_type)
                self.send_header("Content-Length", str(len(reply.body)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

            def handle(self) -> None:
                backend._connections.add(self.connection)
                with contextlib.suppress(OSError, ValueError):  # closed under our hands
                    super().handle()
                backend._connections.discard(self.connection)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def get_request(self) -> tuple[socket.socket, Any]:
                sock, address = super().get_request()
                if context:
                    # The handshake is the handler's thread's, in its first read.
                    sock = context.wrap_socket(
                        sock, server_side=True, do_handshake_on_connect=False
                    )
                return sock, address

            def shutdown_request(self, request: Any) -> None:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)
                self.close_request(request)

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def url(self, scheme: str = "http") -> str:
        return f"{scheme}://localhost:{self.port}"

    def spans(self) -> list[bytes]:
        return span_ids(*(request.message for request in self.requests))

    def accepted_spans(self) -> list[bytes]:
        return span_ids(*(request.message for request in self.accepted))

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()


@contextlib.contextmanager
def http_backend(context: ssl.SSLContext | None = None, port: int = 0) -> Iterator[HttpBackend]:
    backend = HttpBackend(context, port)
    try:
        yield backend
    finally:
        backend.close()


class GrpcBackend:
    """Answers by `replies`: a response, a code, a code with words and RetryInfo, or a callable."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.bodies: list[bytes] = []
        self.metadata: list[dict[str, str]] = []
        self.replies: list[Any] = []
        self.reply: Any = b""
        """What is said when `replies` are used up."""
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        handler = grpc.unary_unary_rpc_method_handler(self._export)
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"Export": handler}),)
        )
        where = "localhost:0"
        if credentials:
            self.port = self._server.add_secure_port(where, credentials)
        else:
            self.port = self._server.add_insecure_port(where)
        self._server.start()

    def _export(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        self.bodies.append(body)
        self.metadata.append(dict(context.invocation_metadata()))
        reply = self.replies.pop(0) if self.replies else self.reply
        if callable(reply):
            reply = reply()
        if isinstance(reply, bytes):
            return reply
        code, details, *retry_s = reply if isinstance(reply, tuple) else (reply, "no")
        if retry_s:
            info = AnyMessage()
            seconds, nanos = divmod(int(retry_s[0] * 1e9), 10**9)
            info.Pack(RetryInfo(retry_delay=Duration(seconds=seconds, nanos=nanos)))
            status = Status(code=code.value[0], message=details, details=[info])
            context.set_trailing_metadata(
                (("grpc-status-details-bin", status.SerializeToString()),)
            )
        context.abort(code, details)
        return b""

    def close(self) -> None:
        self._server.stop(0).wait()


@contextlib.contextmanager
def grpc_backend(credentials: grpc.ServerCredentials | None = None) -> Iterator[GrpcBackend]:
    backend = GrpcBackend(credentials)
    try:
        yield backend
    finally:
        backend.close()


def span_ids(*messages: ExportTraceServiceRequest) -> list[bytes]:
    return [
        span.span_id
        for message in messages
        for group in message.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
