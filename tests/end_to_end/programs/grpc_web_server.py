# SPDX-License-Identifier: Apache-2.0
"""gRPC-Web over HTTP/1.1 with nothing but the standard library; prints its port.

The path ends with what is done: Echo, Missing, Download, Huge; anything else is refused.
"""

import base64
import http.server


def frame(data, flag=0):
    return bytes([flag]) + len(data).to_bytes(4, "big") + data


def trailers(code):
    return frame(f"grpc-status:{code}\r\ngrpc-message:as asked\r\n".encode(), 0x80)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        content_type = self.headers["Content-Type"]
        is_text = "-text" in content_type
        message = base64.b64decode(data) if is_text else data
        method = self.path.rpartition("/")[2]
        parts = {
            "Echo": [message, trailers(0)],
            "Missing": [trailers(5)],
            "Download": [*[frame(b"part")] * 7, trailers(0)],
            "Huge": [frame(b"L" * 1_000_000), trailers(0)],
        }.get(method, [])
        if is_text:
            parts = [base64.b64encode(part) for part in parts]
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        if not parts:
            self.send_header("grpc-status", "7")
        if method in {"Download", "Huge"}:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in parts:
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        else:
            body = b"".join(parts)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
