# SPDX-License-Identifier: Apache-2.0
"""The demo's shop as what backends are told of: recorded or live, and who calls whom in it."""

from __future__ import annotations

import importlib
import signal
import subprocess
from collections import Counter
from contextlib import contextmanager, suppress

import pytest

from tests.end_to_end.backend_servers import ROOT
from tests.rig import WIRESPAN, running, wait_until

RECORDING = ROOT / "examples" / "demo.wspan"
EDGES = {
    # Four customers, each with a request of its own.
    ("curl", "nginx"): 4,
    ("nginx", "shop"): 4,
    # GET and SET of a page that is not in the cache, GET of one that is, DEL at an order.
    ("shop", "redis-server"): 4,
    ("shop", "dnsmasq"): 1,
    # The page that is not in the cache, and two orders.
    ("shop", "stock"): 3,
    # Start-up, two statements to prepare, three to run.
    ("stock", "postgres"): 6,
}
SERVICES = {name for edge in EDGES for name in edge}
REQUESTS = sum(EDGES.values())


def forget_settings(patch):
    """Whatever the environment says of proxies; spans are sent soon."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        patch.delenv(name, raising=False)
        patch.delenv(name.upper(), raising=False)
    patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")


def replay(receiver_flags, *flags):
    """Send the demo's recording."""
    command = [WIRESPAN, "replay", str(RECORDING), "-o", "none", *receiver_flags, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "drop" not in done.stderr
    return done.stderr


@contextmanager
def agent(*flags):
    """A running agent; ends with all sent."""
    with running([WIRESPAN, "agent", *flags], stderr=subprocess.PIPE, text=True) as program:
        line = program.stderr.readline()
        assert line.startswith("Capturing"), line + program.stderr.read()
        yield
        program.send_signal(signal.SIGTERM)
        _, words = program.communicate(timeout=30)
    assert program.returncode == 0, words
    assert "Traceback" not in words
    assert "drop" not in words


def shop_again(stack):
    """The demo's shop with all its servers, and what to call for its four customers."""
    with pytest.MonkeyPatch.context() as patch:  # scripts, and no package
        patch.syspath_prepend(str(ROOT / "examples"))
        demo = importlib.import_module("demo")
    site = demo.Site()
    if demo.start(site, stack):
        pytest.skip("the demo lacks a server, see above")

    def go_shopping():
        for step in demo.story(site):
            demo.visit(site, step)

    return site, go_shopping


def only(ports):
    """Flags for an agent that is to see nothing else that runs on this machine."""
    return [word for port in ports for word in ("--port", str(port))]


def check_pairs(spans):
    """Each server's span is the child of a client's, as the edges are."""
    found = Counter()
    for each in spans.values():
        assert each["tags"]["wirespan.completeness"] == "complete"
        if each["tags"]["span.kind"] == "server":
            (parent,) = (spans[parent] for parent in each["parents"])
            assert parent["tags"]["span.kind"] == "client"
            assert parent["traceID"] == each["traceID"]
            assert parent["operationName"] == each["operationName"]
            found[parent["service"], each["service"]] += 1
    assert found == EDGES
    assert len(spans) == 2 * REQUESTS


def drawn(ask):
    """The edges that a backend has, once it has as many requests as there were."""
    with suppress(AssertionError):
        wait_until(lambda: sum(ask().values()) >= REQUESTS, "all edges")
    return ask()
