# SPDX-License-Identifier: Apache-2.0
"""Python's http.server, threaded or with forked workers; prints the port that it listens on."""

from __future__ import annotations

import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

BIG = 30_000_000
PIECE = bytes(100_000)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.read_body()
        if self.path.startswith("/chunked"):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Trailer", "X-Sum")
            self.end_headers()
            for piece in (b"one", b"and two", b"x" * (100_000 if "large" in self.path else 1_000)):
                self.wfile.write(b"%x;name=value\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\nX-Sum: 3\r\n\r\n")
        elif self.path.startswith("/big"):
            self.send_response(200)
            self.send_header("Content-Length", str(BIG))
            self.end_headers()
            for _ in range(BIG // len(PIECE) if self.command == "GET" else 0):
                self.wfile.write(PIECE)
        else:
            self.answer(404 if self.path.startswith("/missing") else 200, b"hello\n")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.answer(200, b"%d\n" % self.read_body())

    def do_POST(self) -> None:
        self.do_PUT()

    def read_body(self) -> int:
        received = 0
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                received += len(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        while (left := int(self.headers.get("Content-Length", 0)) - received) > 0:
            received += len(self.rfile.read(min(left, 1 << 20)))
        return received

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    server = (HTTPServer if workers else ThreadingHTTPServer)(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    for _ in range(workers):
        if os.fork() == 0:
            server.serve_forever()
    if workers:
        os.wait()
    server.serve_forever()


if __name__ == "__main__":
    main()
