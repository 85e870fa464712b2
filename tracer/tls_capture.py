# SPDX-License-Identifier: Apache-2.0
"""Looks inside TLS libraries for as long as a capture runs.

Joins the probes (tracer/library_probes.py), who knows which files to probe
(tracer/discovery.py), and the kernel's notices that a process began or has loaded a library.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tracer.capture import Settings
from tracer.cgroups import unified_mount
from tracer.discovery import Discovery
from tracer.kernel_filters import COMM_BYTES
from tracer.libbpf import BpfObject
from tracer.library_probes import (
    EXEC_PROGRAM,
    PROGRAMS,
    Attachment,
    LibraryProbes,
    has_many_places,
)
from tracer.tls_libraries import Hook

READY_S: Final = 5.0
"""For a first look at all processes; a machine with thousands takes a second or two. What takes
longer goes on behind the capture: of those processes what is said first is missed, as it is of
any that began before us."""
NOTICE_S: Final = 0.2
"""Between looks at whether to end."""
CLOSE_S: Final = 3.0
"""For a thread to end, or an attachment that is being made."""
RESERVE: Final = 256
"""Descriptors that are left for all else: exporters, recordings, /proc. A quarter if that is
less."""
PROC: Final = Path("/proc")


log = logging.getLogger(__name__)


class Guard:
    """Lets attachments through as long as there are descriptors, and none after `close`."""

    def __init__(self, probes: LibraryProbes, limit: int) -> None:
        self._probes = probes
        self._limit = limit - min(RESERVE, limit // 4)
        self._lock = threading.Lock()
        self._is_closed = False

    def attach(self, path: str, hooks: Sequence[Hook]) -> Attachment:
        """Raises: OSError, also EMFILE where too few descriptors would be left."""
        with self._lock:
            if self._is_closed:
                raise OSError(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))
            # Before Linux 6.6 each probe has two, a link and a perf event.
            needed = 2 * (len(PROGRAMS) if has_many_places() else len(hooks))
            if len(os.listdir("/proc/self/fd")) + needed > self._limit:  # noqa: PTH208 - names only
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return self._probes.attach(path, hooks)

    def close(self) -> bool:
        """Let none through any more; whether none is under way."""
        self._is_closed = True
        is_free = self._lock.acquire(timeout=CLOSE_S)
        if is_free:
            self._lock.release()
        return is_free


class TlsCapture:
    """TLS libraries are probed until `close`."""

    def __init__(
        self,
        opened: BpfObject,
        settings: Settings,
        *,
        is_traced: Callable[[int], bool],
        on_attached: Callable[[bool], None],
    ) -> None:
        """Probe what processes use now, and go on doing so.

        `is_traced` says of a pid whether the kernel's filter by pid lets it pass; `on_attached`
        is told of each new file, and whether it is a Go program.
        """
        self._object = opened
        self._ending = threading.Event()
        limit = raise_limit()
        with ExitStack() as undo:
            self._probes = LibraryProbes(opened, on_attached)
            undo.callback(self._probes.close)
            undo.callback(opened.attach(EXEC_PROGRAM).close)
            self._guard = Guard(self._probes, limit)
            self.discovery = Discovery(self._guard, wants=_wants(settings, is_traced))
            undo.callback(self._close_discovery)
            self.discovery.start()
            self._thread = threading.Thread(target=self._pass_on, name="notices", daemon=True)
            undo.callback(self._end_thread)
            self._thread.start()
            self.discovery.wait_ready(READY_S)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Detach from everything.

        What waits for a mount whose server is gone is left: the kernel detaches it when we end.
        """
        self._undo.close()

    def _close_discovery(self) -> None:
        if self.discovery.close():
            return
        log.warning(
            "a file cannot be read, its mount does not answer: the probes of TLS libraries are "
            "taken away only when this process ends"
        )
        if not self._guard.close():
            # The thread is inside of libbpf, and will use what it has when it comes back.
            self._object.is_abandoned = True

    def _end_thread(self) -> None:
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _pass_on(self) -> None:
        while not self._ending.is_set():
            for tgid in self._probes.wait(NOTICE_S):
                self.discovery.notice(tgid)


def raise_limit() -> int:
    """Allow ourselves as many open files as we may; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard


def _wants(settings: Settings, is_traced: Callable[[int], bool]) -> Callable[[int], bool]:
    """Whose libraries are probed: those who pass the filters that are about processes."""
    comms = {os.fsencode(comm)[: COMM_BYTES - 1] for comm in settings.comms}
    mount = unified_mount()
    folders = tuple(f"{path}".rstrip("/") + "/" for path in settings.cgroups)

    def wants(tgid: int) -> bool:
        folder = PROC / str(tgid)
        try:
            if settings.pids and not is_traced(tgid):
                return False
            if comms and (folder / "comm").read_bytes().rstrip(b"\n") not in comms:
                return False
            if not folders:
                return True
            group = (folder / "cgroup").read_text(errors="surrogateescape")
        except OSError:
            return False
        own = [line[3:] for line in group.splitlines() if line.startswith("0::")]
        return bool(own) and f"{mount}{own[0].rstrip('/')}/".startswith(folders)

    return wants


def degraded(counters: Mapping[str, int]) -> dict[str, int]:
    """Counts of what was not probed, in words."""
    return {TEXTS[name]: count for name, count in counters.items() if count and name in TEXTS}


TEXTS: Final = {
    "files_over": "files with TLS inside lost their probes to others: too many",
    "postponed": "attempts to probe a file with TLS inside failed: too many files are open",
    "processes_over": "processes were not looked at for TLS: too many",
    "faults": "failures while looking for TLS libraries",
}
