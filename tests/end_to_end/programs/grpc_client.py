# SPDX-License-Identifier: Apache-2.0
"""grpcio's client: `grpc_client.py PORT NAME`. Prints as JSON what it has called and got."""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

LARGE = 4 << 20

OPTIONS = [
    ("grpc.max_receive_message_length", 2 * LARGE),
    ("grpc.keepalive_time_ms", 40),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.use_local_subchannel_pool", 1),
]


def connect():
    return grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}", options=OPTIONS)


channel = connect()
service = f"/wirespan.test.{sys.argv[2]}"
calls = []


def note(method, error, sent, received, began_s):
    status = "OK" if error is None else error.code().name
    seconds = time.monotonic() - began_s
    said = {"method": method, "status": status, "sent": sent, "received": received}
    calls.append(said | {"seconds": seconds})


def unary(method, data, **options):
    began_s = time.monotonic()
    error = None
    try:
        channel.unary_unary(f"{service}/{method}")(data, **options)
    except grpc.RpcError as raised:
        error = raised
    note(method, error, 1, int(error is None), began_s)


def stream(method, *messages):
    began_s = time.monotonic()
    error, received = None, 0
    try:
        for _ in channel.stream_stream(f"{service}/{method}")(iter(messages)):
            received += 1
    except grpc.RpcError as raised:
        error = raised
    note(method, error, len(messages), received, began_s)


def cancelled():
    began_s = time.monotonic()
    call = channel.unary_unary(f"{service}/Sleep").future(b"3000")
    threading.Timer(0.1, call.cancel).start()
    try:
        call.result()
    except grpc.FutureCancelledError:
        note("Sleep", call, 1, 0, began_s)


for _ in range(5):
    unary("Echo", b"hello")
# Until its protocol is known, only the first bytes of a connection's transfers are captured.
time.sleep(0.2)
unary("Echo", b"")
for method in ("Missing", "Late", "Broken", "Nothing"):
    unary(method, b"x")
unary("Echo", b"z" * 10_000, compression=grpc.Compression.Gzip)
stream("Download", b"7")
stream("Upload", b"a", b"b", b"c")
stream("Chat", b"a", b"b", b"c", b"d")
unary("Sleep", b"3000", timeout=0.15)
cancelled()
with ThreadPoolExecutor(50) as pool:
    list(pool.map(lambda _: unary("Sleep", b"30"), range(50)))

channel.close()
channel = connect()
unary("Before", b"x")
time.sleep(0.2)
unary("Large", b"L" * LARGE)
unary("After", b"x")
print(json.dumps(calls))
channel.close()
