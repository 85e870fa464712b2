# SPDX-License-Identifier: Apache-2.0
"""Redis servers of the end-to-end tests, the clients that talk to them, and what both count."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis
from redis.connection import PythonRespSerializer

from parsers.redis_commands import SUBCOMMANDS
from tests.end_to_end.servers import needs
from tests.rig import free_port, running, wait_until

PASSWORD: Final = "xyzzypa55word"
VALUE: Final = "xyzzyva1ue"
"""Stands in everything that must not be shown or kept."""
UNCOUNTED: Final = frozenset({"info", "client setinfo", "client", "replconf"})
"""What asking for the statistics adds, and replicas say all the time."""


@dataclass
class RedisServer:
    """A running server. Its Unix socket is for questions that are not part of the test."""

    port: int
    path: str
    program: subprocess.Popen[Any]
    made: Counter[str] = field(default_factory=Counter)
    """Commands of a client by name in lower case, as the client counts them."""
    failed: Counter[str] = field(default_factory=Counter)
    """Errors among the replies, by prefix; but for what libraries say of themselves."""
    unrun: Counter[str] = field(default_factory=Counter)
    """Commands that were answered, and that the server does not count."""
    others: Counter[str] = field(default_factory=Counter)
    """Commands that did not come through the port."""

    def statistics(self) -> Counter[str]:
        """Commands that it ran or rejected, as it counts them."""
        with redis.Redis(unix_socket_path=self.path, protocol=2) as client:
            told = client.info("commandstats")
        found: Counter[str] = Counter()
        for name, numbers in told.items():
            word = name.removeprefix("cmdstat_").replace("|", " ")
            found[word] = numbers["calls"] + numbers["rejected_calls"]
        for name in UNCOUNTED:
            del found[name]
        return found


@contextmanager
def redis_server(*flags: str) -> Iterator[RedisServer]:
    """Run redis-server on a free port and a Unix socket."""
    needs("redis-server", "redis-cli", "redis-benchmark")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="wirespan-redis-") as folder:
        path = str(Path(folder) / "redis.sock")
        command = ["redis-server", "--port", str(port), "--unixsocket", path, "--dir", folder]
        command += ["--bind", "127.0.0.1", "--save", "", "--loglevel", "warning"]
        command += ["--repl-diskless-sync-delay", "0", *flags]
        with running(command, stdout=subprocess.DEVNULL) as program:
            wait_until(lambda: _answers(path), "redis-server answers")
            yield RedisServer(port, path, program)


Noticed = Callable[[RedisServer], None]
"""Returns when the capture has seen that the server's newest connection speaks Redis."""


class CountingPacker(PythonRespSerializer):
    """Counts the commands that redis-py lays out, those of its own among them."""

    def __init__(self, made: Counter[str]) -> None:
        super().__init__(6000, lambda value: value if isinstance(value, bytes) else _encoded(value))
        self.made = made

    def pack(self, *words: Any) -> Any:
        name = str(words[0])
        if len(words) > 1 and (name.encode(), str(words[1]).encode()) in SUBCOMMANDS:
            name = f"{name} {words[1]}"
        self.made[name.lower()] += 1
        return super().pack(*words)


def _encoded(value: Any) -> bytes:
    return value.tobytes() if isinstance(value, memoryview) else str(value).encode()


def redis_py(server: RedisServer, *, single: bool = True, **options: Any) -> redis.Redis:
    """A client whose commands are counted."""
    packer = CountingPacker(server.made)
    options = {"port": server.port, "protocol": 2, "command_packer": packer} | options
    pool = redis.ConnectionPool(**options)
    return redis.Redis(connection_pool=pool, single_connection_client=single)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
        except OSError:
            return False
        return True


def cli(server: RedisServer, *arguments: str, commands: str = "") -> str:
    """Run redis-cli; what it prints."""
    command = ["redis-cli", "-p", str(server.port), *arguments]
    done = subprocess.run(
        command, input=commands, capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout


def cli_client(server: RedisServer, _: Noticed) -> None:
    """redis-cli with RESP2 and RESP3, an error among its commands."""
    lines = [f"set key:{index} {VALUE}" for index in range(20)]
    cli(server, commands="\n".join([*lines, "get key:1", "lpush key:1 x", "PING"]))
    cli(server, "-3", "HSET", "h", "f", VALUE, "g", VALUE)
    cli(server, "-3", "HGETALL", "h")
    cli(server, "-n", "5", "CONFIG", "SET", "requirepass", "")
    # It asks for help before it reads commands.
    server.made = Counter(
        {"command docs": 1, "set": 20, "get": 1, "lpush": 1, "ping": 1, "hello": 2, "hset": 1}
        | {"hgetall": 1, "select": 1, "config set": 1}
    )
    server.failed = Counter({"WRONGTYPE": 1})


def benchmark_client(server: RedisServer, pipeline: int) -> None:
    """redis-benchmark: four connections, `pipeline` commands at a time."""
    number = 1600
    command = ["redis-benchmark", "-p", str(server.port), "-P", str(pipeline), "-c", "4"]
    command += ["-n", str(number), "-r", "1000", "-q", "-t", "set,get,lpush"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=30)
    # It asks for two settings first.
    server.made = Counter({"set": number, "get": number, "lpush": number, "config get": 2})


def pipeline_client(server: RedisServer, noticed: Noticed) -> None:
    """redis-py: a pipeline of a thousand commands, and transactions."""
    # The pool has one connection, which all of this takes in turn.
    with redis_py(server, single=False) as client:
        client.ping()
        noticed(server)
        pipeline = client.pipeline(transaction=False)
        for index in range(500):
            pipeline.set(f"key:{index}", VALUE * (index % 40))
            pipeline.get(f"key:{index}")
        assert len(pipeline.execute()) == 1000
        for _ in range(10):
            with client.pipeline() as transaction:
                transaction.incr("n").incr("n").get("n")
                transaction.execute()
        with client.pipeline() as transaction:
            transaction.set("text", VALUE).lpush("text", VALUE)
            transaction.execute(raise_on_error=False)
        with client.pipeline() as transaction:
            transaction.watch("n")
            client_of_another_mind(server)
            transaction.multi()
            transaction.get("n")
            with suppress(redis.WatchError):
                transaction.execute()
    server.failed = Counter({"WRONGTYPE": 1})
    server.unrun = Counter({"get": 1})


def client_of_another_mind(server: RedisServer) -> None:
    """Somebody who changes the key that is watched; not through the port."""
    with redis.Redis(unix_socket_path=server.path, protocol=2) as client:
        client.set("n", 0)
    server.others["set"] += 1


def redis_py_client(server: RedisServer, noticed: Noticed, protocol: int) -> None:
    """redis-py: blocking pops, scripts, large values, subscriptions and pushes."""
    with (
        redis_py(server, protocol=protocol) as client,
        redis_py(server, protocol=protocol) as other,
    ):
        client.ping()
        noticed(server)
        waiting = threading.Thread(target=lambda: client.blpop(["jobs", "more"], timeout=5))
        waiting.start()
        wait_until(lambda: _blocked(server), "BLPOP waits")
        other.rpush("jobs", VALUE)
        waiting.join()
        digest = client.script_load("return ARGV[1]")
        assert client.evalsha(digest, 1, "k", VALUE)
        with suppress(redis.exceptions.NoScriptError):
            client.evalsha("0" * 40, 0)
        client.eval("return {KEYS[1], ARGV[1]}", 1, "k", VALUE)
        # Before the large value: the server then reads more at once than is captured.
        client.rpush("list", *[VALUE] * 20_000)
        assert len(client.lrange("list", 0, -1)) == 20_000
        client.set("big", VALUE * 100_000)
        assert len(client.get("big")) == len(VALUE) * 100_000
        client.hset("hash", mapping={"field": VALUE, "other": VALUE})
        client.hgetall("hash")
        listener = other.pubsub()
        listener.subscribe("news", "sport")
        listener.psubscribe("n*")
        for _ in range(3):
            assert listener.get_message(timeout=5)
        client.publish("news", VALUE)
        for _ in range(2):
            assert listener.get_message(timeout=5)["data"] == VALUE.encode()
        listener.unsubscribe()
        for _ in range(2):
            assert listener.get_message(timeout=5)["type"] == "unsubscribe"
        listener.close()
    server.failed = Counter({"NOSCRIPT": 1})


def _blocked(server: RedisServer) -> bool:
    with redis.Redis(unix_socket_path=server.path, protocol=2) as client:
        return client.info("clients")["blocked_clients"] == 1


def array(*words: str) -> bytes:
    """A request."""
    parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
    return f"*{len(parts)}\r\n{''.join(parts)}".encode()


def raw_client(server: RedisServer, noticed: Noticed) -> None:
    """A socket: CLIENT REPLY, inline commands, a value in two pieces, many arguments."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        stream = sock.makefile("rb")

        def ask(data: bytes, replies: int = 1) -> list[bytes]:
            sock.sendall(data)
            return [stream.readline() for _ in range(replies)]

        assert ask(b"SET greeting 'hello world'\r\n") == [b"+OK\r\n"]
        noticed(server)
        assert ask(b"EXISTS greeting\r\n") == [b":1\r\n"]
        skipped = array("CLIENT", "REPLY", "SKIP") + array("SET", "a", "1") + array("INCR", "a")
        assert ask(skipped) == [b":2\r\n"]
        ask(array("CLIENT", "REPLY", "OFF") + array("INCR", "a") * 5, 0)
        assert ask(array("CLIENT", "REPLY", "ON")) == [b"+OK\r\n"]
        assert ask(array("INCR", "a")) == [b":8\r\n"]
        whole = array("SET", "cut", VALUE * 10)
        sock.sendall(whole[:-1])
        assert ask(whole[-1:]) == [b"+OK\r\n"]
        pairs = [word for index in range(2500) for word in (f"many:{index}", VALUE)]
        assert ask(array("MSET", *pairs)) == [b"+OK\r\n"]
        assert ask(array("AUTH", PASSWORD))[0].startswith(b"-ERR")
        assert ask(array("FOO", VALUE))[0].startswith(b"-ERR")
        assert ask(array("QUIT")) == [b"+OK\r\n"]
    server.made = Counter(
        {"set": 3, "exists": 1, "incr": 7, "client reply": 3, "mset": 1, "auth": 1, "foo": 1}
        | {"quit": 1}
    )
    server.failed = Counter({"ERR": 2})
    server.unrun = Counter({"foo": 1})


def replicated(server: RedisServer, _: Noticed) -> None:
    """A replica, which follows while somebody writes."""
    with ExitStack() as stack:
        replica = stack.enter_context(redis_server("--replicaof", f"127.0.0.1 {server.port}"))
        client = stack.enter_context(redis_py(server))
        copy = stack.enter_context(redis.Redis(unix_socket_path=replica.path, protocol=2))
        wait_until(lambda: copy.info("replication")["master_link_status"] == "up", "linked")
        for index in range(50):
            client.set(f"key:{index}", VALUE)
        assert client.wait(1, 5000) == 1
        assert copy.get("key:49") == VALUE.encode()
    # The replica's own, before it is sent what others change.
    server.made += Counter({"ping": 1, "replconf": 2, "psync": 1})


CLIENTS: Final[dict[str, Callable[[RedisServer, Noticed], None]]] = {
    "cli": cli_client,
    "benchmark": lambda server, _: benchmark_client(server, 1),
    "benchmark-P16": lambda server, _: benchmark_client(server, 16),
    "pipeline": pipeline_client,
    "redis-py": lambda server, noticed: redis_py_client(server, noticed, 2),
    "redis-py-resp3": lambda server, noticed: redis_py_client(server, noticed, 3),
    "raw": raw_client,
    "replica": replicated,
}
