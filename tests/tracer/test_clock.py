# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time

from tracer.clock import unix_offset_ns


class Clocks:
    """Two clocks that tick 100 ns a reading, and what interrupts them."""

    def __init__(self, offset_ns, delays=()):
        self.offset_ns = offset_ns
        self.now_ns = 1_000
        self.delays = iter(delays)

    def boottime(self):
        self.now_ns += 100 + next(self.delays, 0)
        return self.now_ns

    def unix(self):
        self.now_ns += 100
        return self.now_ns + self.offset_ns


def test_offset_is_the_distance_of_the_clocks():
    clocks = Clocks(10**18)
    assert unix_offset_ns(clocks.boottime, clocks.unix) == 10**18


def test_reading_torn_by_an_interrupt_is_left_out():
    clocks = Clocks(10**18, delays=[0, 5_000_000, 0, 0, 0, 7_000_000])
    assert unix_offset_ns(clocks.boottime, clocks.unix) == 10**18


def test_step_of_the_clock_is_followed_and_a_clock_before_1970_is_borne():
    clocks = Clocks(10**18)
    unix_offset_ns(clocks.boottime, clocks.unix)
    clocks.offset_ns = -(10**12)
    assert unix_offset_ns(clocks.boottime, clocks.unix) == -(10**12)


def test_real_offset_leads_to_now():
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + unix_offset_ns()
    assert abs(time.time_ns() - now) < 1_000_000_000
