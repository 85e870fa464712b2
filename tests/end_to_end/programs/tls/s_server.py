# SPDX-License-Identifier: Apache-2.0
"""OpenSSL's s_server, and HTTP for it: `s_server.py CERTIFICATE KEY`. Prints the port.

s_server writes what it has decrypted to its output, and encrypts what it reads; here, both are
pipes. It has one connection at a time, so each has one exchange. The last part of a path is the
size of the answer, or `missing`.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from typing import IO

REASONS = {200: "OK", 201: "Created", 404: "Not Found"}


def answer(request: IO[bytes], response: IO[bytes]) -> bool:
    """One exchange; False when s_server has ended."""
    line = request.readline()
    if not line:
        return False
    _, path, _ = line.decode().split()
    length = 0
    while header := request.readline().strip():
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    request.read(length)
    last = path.rpartition("/")[2]
    status, body = (404, b"missing\n") if last == "missing" else (201, b"")
    if last.isdigit():
        status, body = 200, b"x" * int(last)
    head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Length: {len(body)}\r\n"
    response.write(f"{head}Connection: close\r\n\r\n".encode() + body)
    response.flush()
    return True


with socket.create_server(("127.0.0.1", 0)) as probe:
    port = probe.getsockname()[1]
command = ["openssl", "s_server", "-quiet", "-accept", f"127.0.0.1:{port}"]
command += ["-cert", sys.argv[1], "-key", sys.argv[2]]
with subprocess.Popen(
    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
) as server:
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            continue
        break
    print(port, flush=True)
    while answer(server.stdout, server.stdin):
        pass
