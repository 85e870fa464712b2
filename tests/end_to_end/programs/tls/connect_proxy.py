# SPDX-License-Identifier: Apache-2.0
"""A proxy that knows CONNECT alone and passes on what follows; prints its port."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


def copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def tunnel(client: socket.socket) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        part = client.recv(4096)
        if not part:
            return
        head += part
    method, where, _ = head.split(b" ", 2)
    assert method == b"CONNECT", method
    host, _, port = where.decode().rpartition(":")
    with client, socket.create_connection((host, int(port))) as server:
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = threading.Thread(target=copy, args=(server, client), daemon=True)
        back.start()
        copy(client, server)
        back.join()


listener = socket.create_server(("127.0.0.1", 0), backlog=64)
print(listener.getsockname()[1], flush=True)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=tunnel, args=(accepted,), daemon=True).start()
