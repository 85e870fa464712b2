# SPDX-License-Identifier: Apache-2.0
"""grpcio over TLS: `grpc_talk.py server CERTIFICATE KEY` or `grpc_talk.py client`.

Both say what programs/tls/grpc says, and do the same. Their TLS is BoringSSL inside of a library
without symbols.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc


def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
    port = context.peer().rpartition(":")[2]
    context.send_initial_metadata((("x-peer", port),))
    if not data.strip():
        context.abort(grpc.StatusCode.NOT_FOUND, "as asked")
    return b"x" * int(data)


class Handler(grpc.GenericRpcHandler):
    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(answer)


def serve(certificate: str, key: str) -> None:
    pair = (Path(key).read_bytes(), Path(certificate).read_bytes())
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


def call() -> None:
    job = json.loads(sys.stdin.readline())
    secured = grpc.ssl_channel_credentials(Path(job["ca"]).read_bytes())
    done = []
    with grpc.secure_channel(f"127.0.0.1:{job['port']}", secured) as channel:
        for name, sent, size in zip(job["names"], job["sent"], job["sizes"], strict=True):
            data = f"{'' if size < 0 else size:>{sent or 1}}".encode()
            said = {"name": name, "status": "OK", "length": 0, "peer": 0}
            method = channel.unary_unary(f"/{name}")
            try:
                body, finished = method.with_call(data, timeout=20)
                said["length"] = len(body)
            except grpc.RpcError as error:
                finished = error
                said["status"] = error.code().name
            peer = dict(finished.initial_metadata() or ()).get("x-peer")
            done.append(said | {"peer": int(peer or 0)})
    print(json.dumps(done))


if __name__ == "__main__":
    {"server": serve, "client": call}[sys.argv[1]](*sys.argv[2:])
