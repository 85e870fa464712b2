# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from examples import parse_bytes


def test_example_prints_what_its_bytes_mean(capsys):
    parse_bytes.main()
    told = capsys.readouterr().out
    assert told.startswith("GET complete no error\n")
    assert "GET unanswered connection_reset\n" in told
    assert "    url.query = item=3&token=REDACTED\n" in told
    assert "    took 31 ms, 2048 bytes of response\n" in told
    assert told.endswith("missing: 0\n")
