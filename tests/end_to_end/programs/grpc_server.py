# SPDX-License-Identifier: Apache-2.0
"""grpcio's server with messages of plain bytes; prints the port that it listens on."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc

LARGE = 4 << 20


def echo(messages, _):
    yield next(messages)


def fail(code, *, late=False):
    def handle(messages, context):
        next(messages)
        if late:
            context.send_initial_metadata(())
        context.abort(code, "as asked")
        yield b""

    return handle


def download(messages, _):
    data = next(messages)
    for _ in range(int(data)):
        yield data


def upload(messages, _):
    yield str(sum(1 for _ in messages)).encode()


def chat(messages, _):
    yield from messages


def sleep(messages, context):
    data = next(messages)
    until_s = time.monotonic() + int(data) / 1000
    while time.monotonic() < until_s and context.is_active():
        time.sleep(0.005)
    yield data


METHODS = {
    "Echo": echo,
    "Before": echo,
    "Large": echo,
    "After": echo,
    "Missing": fail(grpc.StatusCode.NOT_FOUND),
    "Late": fail(grpc.StatusCode.NOT_FOUND, late=True),
    "Broken": fail(grpc.StatusCode.INTERNAL),
    "Download": download,
    "Upload": upload,
    "Chat": chat,
    "Sleep": sleep,
}

options = [
    ("grpc.max_receive_message_length", 2 * LARGE),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1),
    ("grpc.http2.max_ping_strikes", 0),
]
server = grpc.server(ThreadPoolExecutor(64), options=options)
handlers = {name: grpc.stream_stream_rpc_method_handler(each) for name, each in METHODS.items()}
for name in ("python", "go"):
    generic = grpc.method_handlers_generic_handler(f"wirespan.test.{name}", handlers)
    server.add_generic_rpc_handlers((generic,))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
