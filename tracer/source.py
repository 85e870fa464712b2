# SPDX-License-Identifier: Apache-2.0
"""The source port: where the pipeline gets chunks of events from.

Three sources: the kernel (tracer/probes.py), a recording (tracer/recording.py), and a
packet capture (tracer/pcap.py). Everything the pipeline decides is a function of the
batches and of the process facts, never of the clock on the wall: that is what makes a
replay give the same spans as the live run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from tracer.events import Action, Cause, OpenEvent
from tracer.span import Process


class Batch(NamedTuple):
    """What one poll brought."""

    chunk: bytes
    """Records as in the ring buffer (tracer/events.py); empty when time merely passed."""
    now_ns: int
    """CLOCK_BOOTTIME when the chunk was taken: no event in it is later."""
    unix_offset_ns: int
    """Add it to a CLOCK_BOOTTIME to get nanoseconds since 1970, as known at `now_ns`."""


class Counter(NamedTuple):
    """`struct ws_counter`."""

    events: int = 0
    bytes: int = 0
    requests: int = 0
    responses: int = 0
    turns: int = 0


class Source(Protocol):
    """A stream of batches."""

    def poll(self, timeout_s: float) -> Batch | None:
        """The next batch, after at most `timeout_s`; None when there will be no more."""
        ...

    def process(self, tgid: int, opened: OpenEvent | None) -> Process:
        """Facts of the process `tgid`; `opened` is the record that named it, if any.

        Never fails: a process that is gone is described by what the event says.
        """
        ...

    def advise(
        self,
        cookie: int,
        action: Action,
        direction: int = 0,
        until: int = 0,
        *,
        whole: bool = False,
    ) -> None:
        """Tell the kernel what is wanted of a connection; elsewhere it has no effect.

        `whole`: more than the snap length of each transfer, from here on and until it is said
        otherwise, whatever becomes of `action`.
        """
        ...

    def forget(self, cookie: int) -> None:
        """Take back what `advise` said."""
        ...

    def counters(self) -> Mapping[Cause, Counter]:
        """What became of every transfer so far."""
        ...

    def unused(self) -> Mapping[str, int]:
        """What came and could not be used, apart from transfers: counts by what it was."""
        ...

    def close(self) -> None:
        """Detach and let go of everything."""
        ...
