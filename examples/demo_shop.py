# SPDX-License-Identifier: Apache-2.0
"""The two services of the demo: `shop` answers HTTP, `stock` answers gRPC. Neither knows wirespan.

The shop looks the stock up by name and keeps what it is told in Redis; the stock keeps what there
is in PostgreSQL. What is not given on the command line the services do without.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import grpc

HOST: Final = "127.0.0.1"
STOCK_NAME: Final = "stock.internal"
SHOP_NAME: Final = "shop.example"
FRESH_S: Final = 60
"""How long a page may come from the cache."""
TIMEOUT_S: Final = 10.0
NO_PROXY: Final = [("grpc.enable_http_proxy", 0)]
LOOK: Final = "SELECT n FROM stock WHERE id = %s"
TAKE: Final = "UPDATE stock SET n = n - 1 WHERE id = %s"
SCHEMA: Final = (
    "CREATE TABLE stock (id INT PRIMARY KEY, n INT CHECK (n >= 0))",
    "INSERT INTO stock VALUES (7, 1)",
)


class SoldOut(Exception):  # noqa: N818 - no error, only an answer
    """There is nothing left to take."""


class Memory:
    """What is in stock, where there is no database."""

    def __init__(self) -> None:
        self._available = 1

    def look(self, product: int) -> dict[str, Any]:
        """What there is of `product`."""
        return {"product": product, "available": self._available}

    def take(self, product: int) -> dict[str, Any]:
        """One of `product`."""
        if not self._available:
            raise SoldOut
        self._available -= 1
        return self.look(product)


class Database:
    """What is in stock; the variables PGHOST, PGPORT and so on say where."""

    def __init__(self) -> None:
        import psycopg  # noqa: PLC0415 - optional

        self._driver = psycopg

    @cached_property
    def _connection(self) -> Any:
        # Prepared the first time and not, as usual, the fifth: the demo is short.
        return self._driver.connect(autocommit=True, prepare_threshold=0)

    def look(self, product: int) -> dict[str, Any]:
        """What there is of `product`."""
        (available,) = self._connection.execute(LOOK, (product,)).fetchone()
        return {"product": product, "available": available}

    def take(self, product: int) -> dict[str, Any]:
        """One of `product`."""
        try:
            self._connection.execute(TAKE, (product,))
        except self._driver.errors.CheckViolation as error:
            raise SoldOut from error
        return {"product": product, "taken": 1}


def stock(port: int) -> None:
    """Answer `shop.Stock/Look` and `shop.Stock/Take`."""
    shelves = Database() if "PGPORT" in os.environ else Memory()

    def answer(method: Callable[[int], Any]) -> grpc.RpcMethodHandler[Any, Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                return method(request["product"])
            except SoldOut:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "sold out")

        return grpc.unary_unary_rpc_method_handler(
            call, request_deserializer=json.loads, response_serializer=_encoded
        )

    # One worker: the connection to the database is not to be shared.
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    methods = {"Look": answer(shelves.look), "Take": answer(shelves.take)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Stock", methods),))
    server.add_insecure_port(f"{HOST}:{port}")
    server.start()
    server.wait_for_termination()


class Stock:
    """The stock, as the shop sees it."""

    def __init__(self, port: int, dns_port: int) -> None:
        self._port = port
        self._resolver: Any = None
        if dns_port:
            import dns.resolver  # noqa: PLC0415 - optional

            self._resolver = dns.resolver.Resolver(configure=False)
            self._resolver.nameservers, self._resolver.port = [HOST], dns_port

    @cached_property
    def _channel(self) -> grpc.Channel:
        return grpc.insecure_channel(f"ipv4:{self._address()}:{self._port}", NO_PROXY)

    def _address(self) -> str:
        return str(self._resolver.resolve(STOCK_NAME, "A")[0]) if self._resolver else HOST

    def ask(self, method: str, product: int) -> dict[str, Any]:
        """Call it."""
        call = self._channel.unary_unary(
            f"/shop.Stock/{method}", request_serializer=_encoded, response_deserializer=json.loads
        )
        try:
            found: dict[str, Any] = call({"product": product}, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise SoldOut from error
            raise
        return found


class Shop(http.server.BaseHTTPRequestHandler):
    """Answers JSON."""

    protocol_version = "HTTP/1.1"
    stock: Stock
    cache: Any = None

    def do_GET(self) -> None:
        """`/api/products/7`."""
        number = int(self.path.rsplit("/", 1)[1])
        key = f"product:{number}"
        if self.cache and (page := self.cache.get(key)):
            self._answer(200, page)
            return
        page = _encoded(self.stock.ask("Look", number))
        if self.cache:
            self.cache.set(key, page, ex=FRESH_S)
        self._answer(200, page)

    def do_POST(self) -> None:
        """`/api/orders?product=7`."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        number = int(parse_qs(urlsplit(self.path).query)["product"][0])
        try:
            order = self.stock.ask("Take", number)
        except SoldOut:
            self._answer(409, _encoded({"error": "sold out"}))
            return
        if self.cache:
            self.cache.delete(f"product:{number}")
        self._answer(201, _encoded(order))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: what happened is for the tracer to tell."""


def shop(port: int, stock_port: int, redis_port: int, dns_port: int) -> None:
    """Answer HTTP."""
    Shop.stock = Stock(stock_port, dns_port)
    if redis_port:
        import redis  # noqa: PLC0415 - optional

        # No greeting by the library's name and version: two commands less to read.
        with warnings.catch_warnings(action="ignore"):  # how to say so has changed
            Shop.cache = redis.Redis(HOST, redis_port, protocol=2, lib_name=None, lib_version=None)
    http.server.ThreadingHTTPServer((HOST, port), Shop).serve_forever()


def _encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def main() -> None:
    """Be one of the services."""
    parser = argparse.ArgumentParser()
    parser.add_argument("service", choices=["shop", "stock"])
    parser.add_argument("port", type=int)
    for name in ("stock", "redis", "dns"):
        parser.add_argument(f"--{name}", type=int, default=0, metavar="PORT")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        if given.service == "stock":
            stock(given.port)
        else:
            shop(given.port, given.stock, given.redis, given.dns)


if __name__ == "__main__":
    main()
