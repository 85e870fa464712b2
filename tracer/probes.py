# SPDX-License-Identifier: Apache-2.0
"""The kernel as a source: loads the BPF programs, attaches them, drains the ring buffer.

The only module that knows their names and those of the maps (bpf/README.md). Nothing
is pinned: when this process ends, however it ends, the kernel lets go of everything.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final, Protocol, TypeVar

from tracer import events, libbpf, library_probes
from tracer.abi import check_abi
from tracer.btf import Btf
from tracer.capture import (
    MIN_RING_BYTES,
    Settings,
    check_settings,
    choose_source,
    descendants,
    has_atomics,
    has_loops,
)
from tracer.cgroups import unified_mount
from tracer.clock import unix_offset_ns
from tracer.errors import LoadError, refusal
from tracer.events import Action, Cause, OpenEvent
from tracer.kernel_filters import add_pids, fill_filters, is_traced
from tracer.libbpf import BpfObject, LibbpfError, Link, ProgramStats
from tracer.objects import NoObjectError, object_path
from tracer.ring import Ring
from tracer.source import Batch, Counter
from tracer.span import Process
from tracer.tls_capture import TlsCapture, degraded

__all__ = ("MIN_RING_BYTES", "KernelSource", "Settings")

SOCKET_PROGRAMS: Final = ("sock_send_length", "sock_recv_length")
SENDER_PROGRAMS: Final = ("recvmsg4", "recvmsg6")
SYSCALL_PROGRAMS: Final = ("sys_exit",)
COMMON_PROGRAMS: Final = ("inet_sock_set_state",)
FOLLOW_PROGRAMS: Final = ("sched_process_fork", "sched_process_exit")
ITERATORS: Final = ("find_listeners", "find_sockets")

IDLE_STEP_S: Final = 0.05
"""The longest that an event waits in the ring; the kernel wakes us only when that fills."""
BUSY_STEP_S: Final = 0.005
"""The same while the ring fills fast."""
BUSY_SHARE: Final = 16
"""Fast: more than one part in this many of the ring came with one batch."""
WAKE_SHARE: Final = 8
"""Filled to one part in this many, the kernel ends our sleep."""
SCRATCH_SLOTS: Final = 3
"""bpf/maps.h WS_SCRATCH_SLOTS."""
WHOLE_SHARE: Final = 4
"""One record takes no more than one part in this many of the ring."""

LOST_KINDS: Final = ("opens", "ends", "closes", "calls", "notices")
"""bpf/maps.h enum ws_lost."""
LOST_TEXTS: Final = {
    "ends": "ends of a stream found no room in the ring buffer",
    "closes": "ends of a connection found no room in the ring buffer",
    "calls": "calls into a TLS library whose beginning was not seen",
    "notices": "notices of a new process or library found no room",
}

T = TypeVar("T")


class Processes(Protocol):
    """Who knows processes: tracer/procfs.py."""

    def lookup(self, tgid: int, opened: OpenEvent | None) -> Process: ...


class KernelSource:
    """`tracer.source.Source` on the running kernel."""

    def __init__(self, settings: Settings, processes: Processes) -> None:
        """Load and attach everything.

        Raises:
            LoadError: it cannot be done here; says why and what mends it.
        """
        self._settings = settings
        self._processes = processes
        self._links: list[Link] = []
        self._tls: TlsCapture | None = None
        self._stats_fd: int | None = None
        self._step_s = IDLE_STEP_S
        self.degraded: list[str] = []
        """What could not be attached and can be done without, each with the consequence."""
        check_settings(settings)
        self.source_in_use = choose_source(settings.payload_source)
        self._object = _refusals(self._load)
        try:
            _refusals(self._attach)
            self._counters = self._object.map_fd("counters")
            self._lost = self._object.map_fd("lost")
            self._verdicts = self._object.map_fd("verdicts")
            self._cpus = libbpf.possible_cpus()
            self._mapped = mmap.mmap(self._object.map_fd(".bss"), mmap.PAGESIZE)
            self._variables = memoryview(self._mapped).cast("I")
            self._epoll = select.epoll()
            self._epoll.register(self._object.map_fd("events"), select.EPOLLIN)
            self._ring = Ring(
                self._object.map_fd("events"), settings.ring_bytes, self._pending_offset()
            )
            if self._settings.tls:
                self._start_tls()
                self.degraded += library_probes.limits()
        except BaseException:
            self._detach()
            raise

    def poll(self, timeout_s: float) -> Batch | None:
        """See `tracer.source.Source`; returns as soon as there is anything."""
        until_s = time.monotonic() + timeout_s
        while True:
            chunk = self._ring.take()
            left_s = until_s - time.monotonic()
            if chunk or left_s <= 0:
                break
            self._sleep(min(self._step_s, left_s))
        busy = len(chunk) * BUSY_SHARE > self._settings.ring_bytes
        self._step_s = BUSY_STEP_S if busy else IDLE_STEP_S
        # After the chunk was taken, so that no event in it is later.
        return Batch(chunk, time.clock_gettime_ns(time.CLOCK_BOOTTIME), unix_offset_ns())

    def _sleep(self, time_s: float) -> None:
        """Until the time has passed, or the ring buffer fills fast (bpf/emit.h wake_flag)."""
        index = self._bss["is_asleep"].offset // 4
        self._variables[index] = 1
        self._epoll.poll(time_s)
        self._variables[index] = 0

    def process(self, tgid: int, opened: OpenEvent | None) -> Process:
        return self._processes.lookup(tgid, opened)

    def advise(
        self,
        cookie: int,
        action: Action,
        direction: int = 0,
        until: int = 0,
        *,
        whole: bool = False,
    ) -> None:
        value = events.VERDICT_STRUCT.pack(action, direction, until & 0xFFFFFFFF, whole)
        # The map drops what was used least when it is full; more is captured then.
        with suppress(LibbpfError):
            libbpf.map_update(self._verdicts, cookie.to_bytes(8, "little"), value)
        self._renew_verdicts()

    def forget(self, cookie: int) -> None:
        libbpf.map_delete(self._verdicts, cookie.to_bytes(8, "little"))
        self._renew_verdicts()

    def counters(self) -> Mapping[Cause, Counter]:
        return {
            cause: Counter(*map(sum, zip(*self._per_cpu(self._counters, cause), strict=True)))
            for cause in Cause
        }

    def lost_records(self) -> Mapping[str, int]:
        """Records other than transfers that found no room: `opens` were sent again later."""
        size = 8 * self._cpus
        sums = {}
        for key, kind in enumerate(LOST_KINDS):
            values = libbpf.map_lookup(self._lost, key.to_bytes(4, "little"), size)
            sums[kind] = sum(struct.unpack(f"<{self._cpus}Q", values)) if values else 0
        return sums

    def unused(self) -> Mapping[str, int]:
        lost = self.lost_records()
        # An open record is sent again with the next transfer, so that none is lost.
        counts = {LOST_TEXTS[kind]: count for kind, count in lost.items() if kind in LOST_TEXTS}
        if self._tls is not None:
            counts.update(degraded(self._tls.discovery.counters()))
        return counts

    def program_stats(self) -> Mapping[str, ProgramStats]:
        """The kernel's own counts, by program; times only after `enable_stats`."""
        names = (*self._programs(), *(library_probes.PROGRAMS if self._settings.tls else ()))
        return {name: self._object.program_stats(name) for name in names}

    def enable_stats(self) -> None:
        """Have the kernel measure run times until `close`; costs all programs a little."""
        if self._stats_fd is None:
            self._stats_fd = libbpf.enable_stats()

    def close(self) -> None:
        if self._tls is not None:
            self._tls.close()
        self._ring.close()
        self._epoll.close()
        self._variables.release()
        self._mapped.close()
        self._detach()

    def prepare(self, program: str) -> None:
        """A program is about to be run: what it says through TLS is wanted from the start."""
        if self._tls is not None:
            self._tls.discovery.prepare(program)

    def _start_tls(self) -> None:
        def on_attached(is_go: bool) -> None:
            if is_go:
                self._variables[self._bss["has_go"].offset // 4] = 1
            self._step_up("tls_epoch")

        try:
            self._tls = TlsCapture(
                self._object,
                self._settings,
                is_traced=partial(is_traced, self._object),
                on_attached=on_attached,
            )
        except OSError as error:
            self._without_tls(error)

    def _renew_verdicts(self) -> None:
        """Have the kernel look at the verdicts again, see bpf/maps.h verdicts_epoch."""
        self._step_up("verdicts_epoch")

    def _step_up(self, name: str) -> None:
        index = self._bss[name].offset // 4
        self._variables[index] = (self._variables[index] + 1) & 0xFFFFFFFF

    def _detach(self) -> None:
        while self._links:
            self._links.pop().close()
        if self._stats_fd is not None:
            os.close(self._stats_fd)
            self._stats_fd = None
        self._object.close()

    def _programs(self) -> list[str]:
        """What is attached for good."""
        names = list(COMMON_PROGRAMS)
        names += SOCKET_PROGRAMS if self.source_in_use == "socket" else SYSCALL_PROGRAMS
        if self._settings.pids:
            names += FOLLOW_PROGRAMS if self._settings.follow else FOLLOW_PROGRAMS[1:]
        return names

    def _load(self) -> BpfObject:
        """Load the object; without TLS or the hook for senders if only that is refused."""
        try:
            return self._load_somehow()
        except LibbpfError as error:
            if not self._settings.tls or error.errno == errno.EPERM:
                raise
            self._settings = replace(self._settings, tls=False)
            opened = self._load_somehow()
            self._without_tls(error)
            return opened

    def _load_somehow(self) -> BpfObject:
        if self.source_in_use == "socket" and unified_mount() is not None:
            try:
                return self._load_with(SENDER_PROGRAMS)
            except LibbpfError as error:
                if error.errno not in {errno.EPERM, errno.EINVAL}:
                    raise
        return self._load_with(())

    def _without_tls(self, error: OSError) -> None:
        self.degraded.append(f"{library_probes.REFUSED} ({error.strerror})")

    def _load_with(self, senders: tuple[str, ...]) -> BpfObject:
        try:
            path = object_path()
        except NoObjectError as error:
            what, _, remedy = str(error).partition(". ")
            raise LoadError(what.rstrip("."), remedy) from None
        opened = BpfObject(path)
        try:
            types = Btf(opened.btf())
            check_abi(types)
            self._configure(opened, types)
            wanted = {*self._programs(), *senders, *ITERATORS}
            if self._settings.tls:
                wanted.update(library_probes.PROGRAMS)
            every = (
                *COMMON_PROGRAMS,
                *SOCKET_PROGRAMS,
                *SENDER_PROGRAMS,
                *SYSCALL_PROGRAMS,
                *FOLLOW_PROGRAMS,
                *library_probes.PROGRAMS,
            )
            for name in every:
                if name not in wanted:
                    opened.leave_out(name)
            if library_probes.has_many_places():
                for name in library_probes.PROGRAMS[:-1]:
                    opened.take_many_places(name)
            opened.load()
        except BaseException:
            opened.close()
            raise
        self._senders = senders
        self._bss = types.variables(".bss")
        return opened

    def _configure(self, opened: BpfObject, types: Btf) -> None:
        settings = self._settings
        # A record must find room in the ring, and others beside it.
        most = max(settings.snaplen, min(events.MAX_WHOLE, settings.ring_bytes // WHOLE_SHARE))
        constants: dict[str, int] = {
            "snaplen": settings.snaplen,
            "most": most,
            "first_bytes": settings.first_bytes,
            "wake_bytes": settings.ring_bytes // WAKE_SHARE,
            "by_syscall": self.source_in_use == "syscall",
            "atomics": has_atomics(),
            "loops": has_loops(),
            "exclude_self": settings.exclude_self,
            "trace_tls": settings.tls,
            "filter_pids": bool(settings.pids),
            "filter_comms": bool(settings.comms),
            "filter_ports": bool(settings.ports),
            "filter_cgroups": bool(settings.cgroups),
            "cgroups_count": len(settings.cgroups),
        }
        variables = types.variables(".rodata")
        for name, value in constants.items():
            variable = variables[name]
            opened.write_initial(
                ".rodata", variable.offset, value.to_bytes(variable.size, "little")
            )
        head = 8 + events.DATA_STRUCT.size + events.PEER_STRUCT.size
        opened.set_value_size("scratch", head + 2 * most)
        opened.set_max_entries("scratch", SCRATCH_SLOTS * libbpf.possible_cpus())
        opened.set_max_entries("events", settings.ring_bytes)
        if self.source_in_use == "socket":
            opened.set_max_entries("sockets_by_id", 1)  # its memory is taken at once
        if not settings.tls:
            for name in library_probes.MAPS:
                opened.set_max_entries(name, 1)

    def _attach(self) -> None:
        opened = self._object
        fill_filters(opened, self._settings)
        # Twice: what was open before gets its role from all the listeners; what came
        # between that and the hooks is caught by the second time.
        for iterator in ITERATORS:
            opened.run_iterator(iterator)
        self._links += [opened.attach(name) for name in self._programs()]
        if self._settings.pids and self._settings.follow:
            add_pids(opened, descendants(self._settings.pids))
        for iterator in ITERATORS:
            opened.run_iterator(iterator)
        if self.source_in_use == "socket":
            self._attach_senders()

    def _attach_senders(self) -> None:
        mount = unified_mount()
        try:
            if mount is None or not self._senders:
                raise LibbpfError(errno.ENOENT, "cgroup v2")
            fd = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._links += [self._object.attach_cgroup(name, fd) for name in self._senders]
            finally:
                os.close(fd)
        except OSError:
            self.degraded.append(
                "datagrams that an unconnected UDP socket receives carry no sender: the hook "
                "needs a mounted cgroup v2 and CAP_NET_ADMIN"
            )

    def _pending_offset(self) -> int:
        """Written by an iterator, see bpf/maps.h."""
        return self._variables[self._bss["pending_offset"].offset // 4]

    def _per_cpu(self, fd: int, key: int) -> Iterator[tuple[int, ...]]:
        value = libbpf.map_lookup(
            fd, key.to_bytes(4, "little"), events.COUNTER_STRUCT.size * self._cpus
        )
        assert value is not None
        return events.COUNTER_STRUCT.iter_unpack(value)


def _refusals(action: Callable[[], T]) -> T:
    """Run a step of the loading; what the kernel answers becomes a sentence."""
    try:
        return action()
    except LibbpfError as error:
        raise refusal(error, error.log) from None
