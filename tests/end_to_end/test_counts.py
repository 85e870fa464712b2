# SPDX-License-Identifier: Apache-2.0
"""Seen + dropped = made, exactly, at a steady load and when user space is far too slow."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from parsers.model import Completeness
from tests.end_to_end.counting import pace, watcher
from tests.end_to_end.servers import wrk_client
from tests.rig import nginx, running, wrk
from tracer.events import Cause
from tracer.span import SpanKind

pytestmark = [pytest.mark.kernel, pytest.mark.load]

STEADY_S = int(os.environ.get("WIRESPAN_LOAD_SECONDS", "5"))
"""The load at 10,000 a second; 30 gives the figure of the benchmark."""
SMALL_RING = 64 << 10
CONNECTIONS = 100


class Load(threading.Thread):
    """wrk in the background."""

    def __init__(self, port, **options):
        super().__init__()
        self.url = f"http://127.0.0.1:{port}/small"
        self.options = options
        self.answered = 0
        self.start()

    def run(self):
        self.answered = wrk(self.url, **self.options)

    def is_over(self):
        return not self.is_alive()


@pytest.mark.timeout(120)
def test_ten_thousand_requests_a_second_are_all_seen(source, record_property):
    with nginx() as server, watcher(payload_source=source, ports=(server.port,)) as seen:
        before = server.requests()
        load = Load(server.port, connections=CONNECTIONS, seconds=STEADY_S, delay_ms=8)
        pace([seen], load.is_over, 0)
        made = server.requests() - before
        seen.drain()
        print(f"{source}: {made:,} requests in {STEADY_S} s, {made / STEADY_S:,.0f} a second")
        assert seen.became("requests").keys() == {Cause.DELIVERED}, seen.story()
        assert seen.seen(SpanKind.SERVER) == made, seen.story()
        client = seen.seen(SpanKind.CLIENT)
        assert load.answered <= client <= load.answered + CONNECTIONS, seen.story()
        assert seen.became("requests") == {Cause.DELIVERED: made + client}, seen.story()
        whole = seen.spans[SpanKind.CLIENT, Completeness.COMPLETE]
        assert whole >= load.answered, seen.story()
        assert not seen.spans[SpanKind.CLIENT, Completeness.GAP]


@pytest.mark.parametrize("pause_s", [0.0, 0.05, 0.5])
def test_at_full_speed_seen_and_dropped_are_made(source, pause_s):
    settings = {"payload_source": source, "ring_bytes": SMALL_RING}
    with (
        nginx() as server,
        watcher(**settings, comms=("nginx",), ports=(server.port,)) as there,
        watcher(**settings, comms=("wrk",), ports=(server.port,)) as here,
    ):
        before = server.requests()
        load = Load(server.port, connections=50, seconds=2)
        pace([there, here], load.is_over, pause_s)
        made = server.requests() - before
        there.drain()
        here.drain()
        dropped = there.became("requests").get(Cause.RING_FULL, 0)
        print(f"{source}: {made:,} made, {there.seen(SpanKind.SERVER):,} seen, {dropped:,} dropped")
        assert there.became("requests").keys() <= {Cause.DELIVERED, Cause.RING_FULL}
        assert sum(there.became("requests").values()) == made, (made, there.story())
        assert there.seen(SpanKind.SERVER) + there.waiting + dropped == made, (made, there.story())
        sent = sum(here.became("requests").values())
        assert load.answered <= sent <= load.answered + 50, (load.answered, here.story())
        unseen = here.became("requests").get(Cause.RING_FULL, 0)
        assert here.seen(SpanKind.CLIENT) + here.waiting + unseen == sent, here.story()
        if pause_s:
            assert dropped, "this was no overload"


@pytest.mark.parametrize("pause_s", [0.0, 30.0], ids=["busy", "paused"])
def test_a_known_number_of_requests_is_accounted_for_at_both_ends(source, pause_s):
    number, clients = 5_000, 3
    settings = {"payload_source": source, "ring_bytes": SMALL_RING}
    with (
        nginx() as server,
        watcher(**settings, comms=("nginx",), ports=(server.port,)) as there,
        watcher(**settings, comms=("wrk",), ports=(server.port,)) as here,
        ThreadPoolExecutor(clients) as pool,
    ):
        runs = [pool.submit(wrk_client, server.port, number, "/small?n=") for _ in range(clients)]
        if not pause_s:
            pace([there, here], lambda: all(run.done() for run in runs), pause_s)
        made = [run.result() for run in runs]
        there.drain()
        here.drain()
        requests = sum(each.number for each in made)
        moved = sum(each.sent + each.received for each in made)
        assert requests == number * clients
        for watched, kind in ((there, SpanKind.SERVER), (here, SpanKind.CLIENT)):
            dropped = watched.became("requests").get(Cause.RING_FULL, 0)
            assert watched.seen(kind) + watched.waiting + dropped == requests, watched.story()
            assert sum(watched.became("requests").values()) == requests, watched.story()
            assert sum(watched.became("responses").values()) == requests, watched.story()
            assert sum(watched.became("bytes").values()) == moved, watched.story()
            assert watched.became("turns") == {}


HEAD_IN_TWO = """
import socket, sys
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for _ in range(int(sys.argv[2])):
    sock.sendall(b"GET /small HTTP/1.1\\r\\nHost: x\\r\\n")
    sock.sendall(b"X-More: " + b"y" * 700 + b"\\r\\n\\r\\n")
    answer = b""
    while not answer.endswith(b"x" * 64):
        answer += sock.recv(4096)
"""


def test_requests_of_which_a_part_was_dropped_are_counted_too(source):
    """The kernel delivered their first transfer, and had no room for the next."""
    number = 3_000
    settings = {"payload_source": source, "ring_bytes": SMALL_RING}
    with (
        nginx() as server,
        watcher(**settings, comms=("nginx",), ports=(server.port,)) as there,
        watcher(**settings, comms=(Path(sys.executable).name,), ports=(server.port,)) as here,
        running([sys.executable, "-c", HEAD_IN_TWO, str(server.port), str(number)]) as client,
    ):
        pace([there, here], lambda: client.poll() is not None, 0.02)
        assert client.returncode == 0
        there.drain()
        here.drain()
        for watched, kind in ((there, SpanKind.SERVER), (here, SpanKind.CLIENT)):
            # Of the last one the close may have been dropped as well.
            cut = watched.pipeline.table.tally.cut_requests + watched.begun
            dropped = watched.became("requests")[Cause.RING_FULL]
            assert watched.seen(kind) + watched.waiting + cut + dropped == number, watched.story()
