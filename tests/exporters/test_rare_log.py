# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging

import pytest

from exporters.rare_log import LOG_INTERVAL_S, MAX_CAUSES, RareLog


class TestRareLog:
    def setup_method(self):
        self.now = 0.0
        self.log = RareLog(lambda: self.now)

    @pytest.fixture(autouse=True)
    def lines(self, caplog):
        caplog.set_level(logging.WARNING)
        return caplog

    def test_one_line_a_cause_and_interval(self, lines):
        for _ in range(5):
            self.log.say("a", "a is down")
        self.log.say("b", "b is down")
        self.now = LOG_INTERVAL_S
        self.log.say("a", "a is still down")
        assert lines.messages == ["a is down", "b is down", "a is still down (4 more like it)"]

    def test_causes_are_bounded(self):
        for n in range(1000):
            self.log.say(f"{n}", "down")
        assert len(self.log._silent_until) <= MAX_CAUSES
