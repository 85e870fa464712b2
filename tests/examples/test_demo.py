# SPDX-License-Identifier: Apache-2.0
"""The recording that is carried for machines where nothing can be captured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WIRESPAN = str(Path(sys.executable).parent / "wirespan")


def replay(*flags):
    command = [WIRESPAN, "replay", str(ROOT / "examples" / "demo.wspan"), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_carried_recording_shows_every_hop_from_both_ends():
    spans = [json.loads(line) for line in replay("-o", "json").stdout.splitlines()]
    kinds = [span["kind"] for span in spans]
    assert kinds.count("client") == kinds.count("server") == len(spans) / 2
    services = {span["resource"]["service.name"] for span in spans}
    assert services == {"nginx", "shop", "stock", "curl"}
    assert {span["attributes"]["wirespan.completeness"] for span in spans} == {"complete"}


def test_carried_recording_tells_nothing_of_the_machine_it_was_made_on():
    for line in replay("-o", "json").stdout.splitlines():
        resource = json.loads(line)["resource"]
        assert not [key for key in resource if key.startswith("host.")]
        assert not [value for value in resource.values() if str(value).startswith("/")]


def test_carried_recording_holds_no_secret():
    assert "token=REDACTED" in replay("--path", "/api/orders", "-o", "json").stdout
    assert "4111" not in replay("-o", "json").stdout


def test_recording_is_read_from_a_pipe():
    recording = (ROOT / "examples" / "demo.wspan").read_bytes()
    command = [WIRESPAN, "replay", "-", "-o", "json"]
    piped = subprocess.run(command, input=recording, capture_output=True, check=True)
    assert piped.stdout.decode() == replay("-o", "json").stdout
