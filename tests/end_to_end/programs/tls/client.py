# SPDX-License-Identifier: Apache-2.0
"""HTTPS clients of Python: `client.py http.client|requests|aiohttp|wait`.

Reads a job as one line of JSON, and prints as JSON what it has asked and got;
tests/end_to_end/tls_clients.py says what is in both. `wait` has all libraries in memory, and does
nothing until its input ends.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import sys
import threading
from concurrent.futures import ThreadPoolExecutor


def said(path: str, status: int, length: int, peer: str | None, local: int = 0) -> dict:
    return {
        "path": path,
        "status": status,
        "length": length,
        "peer": int(peer or 0),
        "local": local,
    }


def pause() -> None:
    print("paused", flush=True)
    sys.stdin.readline()


class HttpClient:
    """http.client, over a socket of ssl."""

    def __init__(self, job: dict) -> None:
        context = ssl.create_default_context(cafile=job["ca"])
        self.connection = http.client.HTTPSConnection(
            "127.0.0.1", job["port"], timeout=30, context=context
        )

    def ask(self, method: str, path: str, size: int) -> dict:
        if self.connection.sock is None:
            self.connection.connect()
        local = self.connection.sock.getsockname()[1]
        self.connection.request(method, path, b"y" * size if size else None)
        with self.connection.getresponse() as response:
            body = response.read()
        return said(path, response.status, len(body), response.headers["X-Peer"], local)


class Requests:
    """requests, and so urllib3."""

    def __init__(self, job: dict) -> None:
        import requests

        self.session = requests.Session()
        # The environment may name another authority.
        self.session.trust_env = False
        self.session.verify = job["ca"]
        self.url = f"https://127.0.0.1:{job['port']}"

    def ask(self, method: str, path: str, size: int) -> dict:
        body = b"y" * size if size else None
        response = self.session.request(method, self.url + path, data=body, timeout=30)
        return said(
            path, response.status_code, len(response.content), response.headers.get("X-Peer")
        )


def with_threads(kind: type, job: dict) -> list[dict]:
    """One thread a connection."""
    number = job["connections"]
    barrier = threading.Barrier(number, pause if job["pause"] else None)

    def run(index: int) -> list[dict]:
        connection = kind(job)
        share = job["asks"][index::number]
        first = [connection.ask(*each) for each in share[: job["pause"]]]
        barrier.wait()
        return first + [connection.ask(*each) for each in share[job["pause"] :]]

    with ThreadPoolExecutor(number) as pool:
        return [each for done in pool.map(run, range(number)) for each in done]


async def with_asyncio(job: dict) -> list[dict]:
    """aiohttp, all connections on one event loop; its TLS is in memory."""
    import aiohttp

    context = ssl.create_default_context(cafile=job["ca"])
    number = job["connections"]
    connectors = [aiohttp.TCPConnector(limit=1, ssl=context) for _ in range(number)]
    sessions = [aiohttp.ClientSession(connector=each) for each in connectors]

    async def run(index: int, asks: list) -> list[dict]:
        done = []
        for method, path, size in asks:
            url = f"https://127.0.0.1:{job['port']}{path}"
            body = b"y" * size if size else None
            async with sessions[index].request(method, url, data=body) as response:
                connection = response.connection
                local = connection.transport.get_extra_info("sockname")[1] if connection else 0
                length = len(await response.read())
            peer = response.headers.get("X-Peer")
            done.append(said(path, response.status, length, peer, local))
        return done

    async def run_all(part: slice) -> list[dict]:
        shares = [job["asks"][index::number][part] for index in range(number)]
        done = await asyncio.gather(*(run(index, each) for index, each in enumerate(shares)))
        return [each for share in done for each in share]

    done = []
    if job["pause"]:
        done = await run_all(slice(0, job["pause"]))
        await asyncio.get_running_loop().run_in_executor(None, pause)
    done += await run_all(slice(job["pause"], None))
    for each in sessions:
        await each.close()
    return done


def wait() -> None:
    import ctypes
    from contextlib import suppress

    import psycopg  # noqa: F401

    with suppress(OSError):
        ctypes.CDLL("libgnutls.so.30")
    print("waiting", flush=True)
    sys.stdin.read()


def main(how: str) -> None:
    if how == "wait":
        wait()
        return
    job = json.loads(sys.stdin.readline())
    if how == "aiohttp":
        done = asyncio.run(with_asyncio(job))
    else:
        done = with_threads({"http.client": HttpClient, "requests": Requests}[how], job)
    print(json.dumps(done))


if __name__ == "__main__":
    main(sys.argv[1])
