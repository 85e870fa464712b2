# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tracer.argument_groups import SOCKET
from tracer.arguments import MAP_NS, parse


def test_an_agent_answers_at_its_socket_and_sends_metrics():
    arguments = parse(["agent"])
    assert (arguments.socket, arguments.metrics) == (SOCKET, True)
    assert (arguments.prometheus, arguments.spool, arguments.sample) == (None, None, None)


def test_a_map_is_of_what_there_is():
    arguments = parse(["map"])
    assert (arguments.file, arguments.diff, arguments.live) == (None, None, False)
    assert (arguments.socket, arguments.duration_ns) == (SOCKET, MAP_NS)
    assert parse(["map", "a", "--since", "5m"]).file == "a"
    assert parse(["map", "--diff", "a", "b"]).diff == ["a", "b"]


@pytest.mark.parametrize("command", ["watch", "agent", "replay f", "map"])
def test_whatever_shows_routes_can_be_told_some(command):
    line = [*command.split(), "--route", "/users/{id}", "--route", "/a/**"]
    assert parse(line).route == ["/users/{id}", "/a/**"]


def test_a_recording_knows_no_routes():
    with pytest.raises(SystemExit):
        parse(["record", "-w", "f", "--route", "/a"])
