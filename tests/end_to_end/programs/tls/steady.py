# SPDX-License-Identifier: Apache-2.0
"""Asks over TLS all the time: `steady.py PORT CA LEAST PAUSE`.

Four threads, each with a connection that it renews now and then; after each answer one rests for
PAUSE seconds. It ends once its input is closed and it has asked LEAST times, and prints as JSON
how often it asked, on how many connections, which answers were wrong, and how long the longest
took.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import threading
import time

THREADS = 4
ASKS_OF_CONNECTION = 25
SIZES = (0, 100, 20_480)
MOST_WRONG = 20

port, authority = int(sys.argv[1]), sys.argv[2]
least, pause_s = int(sys.argv[3]), float(sys.argv[4])
context = ssl.create_default_context(cafile=authority)
is_over = threading.Event()
lock = threading.Lock()
said = {"asked": 0, "connections": 0, "wrong": [], "longest_s": 0.0}


def wrong(what: str) -> None:
    with lock:
        if len(said["wrong"]) < MOST_WRONG:
            said["wrong"].append(what)


def ask_on_one_connection(thread: int) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
    for index in range(ASKS_OF_CONNECTION):
        size = SIZES[(thread + index) % len(SIZES)]
        began_s = time.monotonic()
        connection.request("GET", f"/steady/{thread}/{index}/{size}")
        with connection.getresponse() as response:
            body = response.read()
        took_s = time.monotonic() - began_s
        if response.status != 200 or body != b"x" * size:
            wrong(f"{response.status}, {len(body)} bytes for {size}")
        with lock:
            said["asked"] += 1
            said["longest_s"] = max(said["longest_s"], took_s)
        time.sleep(pause_s)
    connection.close()
    with lock:
        said["connections"] += 1


def ask_on(thread: int) -> None:
    while not is_over.is_set() or said["asked"] < least:
        try:
            ask_on_one_connection(thread)
        except (OSError, http.client.HTTPException) as error:
            wrong(repr(error))
            if len(said["wrong"]) >= MOST_WRONG:
                return


threads = [threading.Thread(target=ask_on, args=(index,)) for index in range(THREADS)]
for each in threads:
    each.start()
sys.stdin.read()
is_over.set()
for each in threads:
    each.join()
print(json.dumps(said))
