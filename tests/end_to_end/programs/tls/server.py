# SPDX-License-Identifier: Apache-2.0
"""HTTPS servers of Python: `server.py threads|asyncio CERTIFICATE KEY`. Prints the port.

`threads` is http.server over ssl's sockets; `asyncio` is uvicorn, whose TLS is in memory. The last
part of a path is the size of the answer, or `missing`; the header X-Peer is the client's port.
"""

from __future__ import annotations

import socket
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def answer_to(method: str, path: str) -> tuple[int, bytes]:
    """Status and body."""
    last = path.rpartition("/")[2]
    if last == "missing":
        return 404, b"missing\n"
    return (201, b"") if method == "PUT" else (200, b"x" * int(last))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, body = answer_to(self.command, self.path)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Peer", str(self.client_address[1]))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


def serve_by_threads(certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.request_queue_size = 64
    # The thread of a connection shakes hands, not the one that accepts.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    print(server.server_port, flush=True)
    server.serve_forever()


async def application(scope: dict, receive: object, send: object) -> None:
    """ASGI."""
    assert scope["type"] == "http"
    while (await receive()).get("more_body"):
        pass
    status, body = answer_to(scope["method"], scope["path"])
    headers = [
        (b"content-length", b"%d" % len(body)),
        (b"x-peer", b"%d" % scope["client"][1]),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve_by_asyncio(certificate: str, key: str) -> None:
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listener.getsockname()[1], flush=True)
    configuration = uvicorn.Config(
        application,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        loop="asyncio",
        http="h11",
        lifespan="off",
        log_level="error",
        timeout_keep_alive=60,
    )
    uvicorn.Server(configuration).run(sockets=[listener])


if __name__ == "__main__":
    serve = {"threads": serve_by_threads, "asyncio": serve_by_asyncio}[sys.argv[1]]
    serve(*sys.argv[2:])
