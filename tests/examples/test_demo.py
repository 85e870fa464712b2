# SPDX-License-Identifier: Apache-2.0
"""The demo: live where something can be captured, else the recording that is carried."""

from __future__ import annotations

import http.client
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "examples" / "demo.py")
WIRESPAN = str(Path(sys.executable).parent / "wirespan")
LIVE_S = 40
SEEN = {
    " 200 GET /api/products/7 ": "",
    " POST /api/orders?": "",
    " OK shop.Stock/Look ": "",
    " GET product:7 ": "the shop has no cache (Redis)",
    " DNS A stock.internal ": "no name is looked up (DNS)",
    " Parse UPDATE stock ": "the stock is kept in memory",
    "✗23514 UPDATE stock ": "the stock is kept in memory",
    " nginx(": "customers ask the shop without a proxy",
    "─ stock ": "",
    "http://localhost:16686/dependencies": "",
}
"""What lines show, and what the demo says where they cannot."""


def replay(*flags):
    command = [WIRESPAN, "replay", str(ROOT / "examples" / "demo.wspan"), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=True)


@cache
def spans():
    return [json.loads(line) for line in replay("-o", "json").stdout.splitlines()]


@contextmanager
def demo(prefix=()):
    """The demo in a session of its own, and after it a check that it left nothing behind."""
    home = Path(tempfile.mkdtemp(prefix="wirespan-test-"))
    home.chmod(0o755)
    program = subprocess.Popen(
        [*prefix, sys.executable, DEMO],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"COLUMNS": "80", "PYTHONIOENCODING": "utf-8", "TMPDIR": str(home)},
    )
    try:
        yield program
        program.wait(LIVE_S)
        with pytest.raises(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        assert list(home.iterdir()) == []
    finally:
        program.stdout.close()
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()
        shutil.rmtree(home)


def test_carried_recording_shows_every_hop_from_both_ends():
    found = spans()
    kinds = [span["kind"] for span in found]
    assert kinds.count("client") == kinds.count("server") == len(found) / 2
    services = {span["resource"]["service.name"] for span in found}
    assert services == {"curl", "nginx", "shop", "stock", "redis-server", "dnsmasq", "postgres"}
    assert {span["attributes"]["wirespan.completeness"] for span in found} == {"complete"}


def test_carried_recording_joins_both_ends_of_every_hop():
    by_id = {span["span_id"]: span for span in spans()}
    assert len(by_id) == len(spans())
    joined = []
    for span in spans():
        parent = by_id.get(span["parent_span_id"])
        assert (parent is None) is (span["kind"] == "client")
        if parent is not None:
            assert parent["trace_id"] == span["trace_id"]
            ends = [each["resource"]["service.name"] for each in (parent, span)]
            assert [each["attributes"]["peer.service"] for each in (span, parent)] == ends
            joined.append(tuple(ends))
    assert set(joined) == {
        ("curl", "nginx"),
        ("nginx", "shop"),
        ("shop", "stock"),
        ("shop", "redis-server"),
        ("shop", "dnsmasq"),
        ("stock", "postgres"),
    }


def test_carried_recording_has_every_protocol():
    found = [span["attributes"] for span in spans()]
    keys = {key for attributes in found for key in attributes}
    assert {"http.request.method", "rpc.method", "dns.question.name"} <= keys
    systems = {attributes.get("db.system.name") for attributes in found}
    assert systems == {None, "redis", "postgresql"}
    refused = [each for each in found if each.get("db.response.status_code") == "23514"]
    assert [each["db.query.text"] for each in refused] == [
        "UPDATE stock SET n = n - ? WHERE id = $1"
    ] * 2


def test_carried_recording_tells_nothing_of_the_machine_it_was_made_on():
    for span in spans():
        resource = span["resource"]
        assert not [key for key in resource if key.startswith("host.")]
        assert not [value for value in resource.values() if str(value).startswith("/")]


def test_carried_recording_is_small_and_holds_no_secret():
    assert (ROOT / "examples" / "demo.wspan").stat().st_size < 100_000
    assert "token=REDACTED" in replay("--path", "/api/orders", "-o", "json").stdout
    shown = replay("-o", "json", "--no-redact").stdout
    assert "4111" not in shown
    assert "hunter2" not in shown


def test_recording_is_read_from_a_pipe():
    recording = (ROOT / "examples" / "demo.wspan").read_bytes()
    command = [WIRESPAN, "replay", "-", "-o", "json"]
    piped = subprocess.run(command, input=recording, capture_output=True, check=True)
    assert piped.stdout.decode() == replay("-o", "json").stdout


def test_without_privileges_the_demo_says_why_and_replays():
    prefix = []
    if not os.geteuid():
        if not shutil.which("setpriv"):
            pytest.skip("setpriv is not installed")
        prefix = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    elif subprocess.run([WIRESPAN, "doctor", "--quiet"], check=False).returncode == 0:
        pytest.skip("this user may capture")
    with demo(prefix) as program:
        shown = program.stdout.read()
    assert program.returncode == 0, shown
    assert "CAP_BPF" in shown or "Capture is not possible" in shown
    assert shown.index("4. The same again") < shown.index("44 exchanges") < shown.index("Next:")
    assert [text for text in SEEN if text not in shown] == []


@pytest.mark.kernel
def test_live_demo_shows_every_protocol_under_its_step():
    with demo() as program:
        shown = program.stdout.read()
    if "the demo's customers use it" in shown:
        pytest.skip("curl is not installed")
    assert program.returncode == 0, shown
    assert "none lost" in shown
    for text, excuse in SEEN.items():
        assert text in shown or (excuse and excuse in shown), shown
    assert max(map(len, shown.splitlines())) <= 80
    steps = re.split(r"^(?=\d\. )", shown, flags=re.MULTILINE)[1:]
    assert [step[:2] for step in steps] == ["1.", "2.", "3.", "4."]
    assert "shop.Stock/Look" in steps[0]
    assert [step.count("→ curl(") for step in steps] == [1, 1, 1, 1]
    assert " 201 POST" in steps[2]
    assert "✗409 POST" in steps[3]


@pytest.mark.kernel
def test_demo_that_is_told_to_end_ends_everything():
    with demo() as program:
        for line in program.stdout:
            if line.startswith("$ ") or "customers use it" in line:
                break
        program.send_signal(signal.SIGTERM)
    assert program.returncode in {128 + signal.SIGTERM, 1}


def test_shop_goes_on_without_what_is_not_installed(monkeypatch, capfd):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    script = importlib.import_module("demo")
    servers = importlib.import_module("demo_servers")

    def which(program):
        raise servers.Missing(f"{program} is not installed")

    monkeypatch.setattr(servers, "which", which)
    site = script.Site()
    with ExitStack() as stack:
        assert script.start(site, stack)
        assert len(site.ports) == 2
        statuses = []
        for step in script.story(site):
            connection = http.client.HTTPConnection("127.0.0.1", site.front, timeout=10)
            stack.callback(connection.close)
            connection.request("POST" if step.form else "GET", step.path, step.form)
            statuses.append(connection.getresponse().status)
        assert statuses == [200, 200, 201, 409]
    script.introduce(site)
    script.explain(site)
    shown = capfd.readouterr().out
    for excuse in filter(None, SEEN.values()):
        assert f"is not installed, so {excuse}.\n" in shown
    assert "three programs" in shown
    assert "  curl -> shop -> stock\n" in shown
    assert "SQLSTATE" not in shown
