# SPDX-License-Identifier: Apache-2.0
"""Which processes map which files with TLS inside, and when their functions are hooked.

A uprobe belongs to a file and works in every process that maps it, now and later. So each file
is examined once and attached once, whoever maps it, by device and inode. It is reached through
/proc/PID/map_files, which leads to the very file that is mapped: through mount namespaces, and
where it was deleted or replaced since.

All of it happens in one thread, for examining reads files and detaching waits for the kernel.
The kernel half tells of processes that call exec and load libraries; what it does not tell of
(their end, children that never call exec, static musl, notices that were lost) is found by looking
at /proc now and then.

Formats: proc(5); Linux fs/proc/base.c (map_files), fs/proc/task_mmu.c (maps).
"""

from __future__ import annotations

import heapq
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from glob import iglob
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from tracer.mappings import reach, reach_path, read_mappings, start_ticks
from tracer.tls_files import Attacher, Attachment, TlsFile, TlsFiles

__all__ = ["Attacher", "Attachment", "Discovery", "TlsFile"]

MAX_PROCESSES: Final = 16384
MAX_NOTICES: Final = 16384
"""That wait to be looked at. When there are more, all of /proc is looked at instead."""
MAX_PINNED: Final = 256
"""Of one list of places."""

LOOKS_S: Final = (0.01, 0.1, 1.0)
"""From a notice to the looks that follow. One start of a program brings several notices, and
right after exec there may be nothing to see."""
CHECK_S: Final = 5.0
"""Between looks for processes that have ended."""
CHECK_MOST: Final = 1024
"""Processes looked at each time, some 10 µs each."""
RESCAN_S: Final = 30.0
"""Between looks at processes of which no linker tells."""
PAUSE_SHARE: Final = 3.0
"""After work the thread owes a rest of this many times as long."""
CREDIT_S: Final = 0.5
"""It may owe so much before it rests: who has just loaded a library will use it soon."""
MAX_PAUSE_S: Final = 1.0
"""For one rest."""
MAX_FAULTS_TOLD: Final = 3
WAIT_S: Final = 10.0
"""For the thread to prepare a program."""
CLOSE_S: Final = 3.0
"""For the thread to end with the file that it is at."""

PLACES: Final = tuple(
    f"{folder}/{name}"
    for folder in ("/lib*", "/usr/lib*", "/usr/local/lib*", "/lib/*-linux-*", "/usr/lib/*-linux-*")
    for name in ("libssl.so*", "libgnutls.so*", "ld-linux*.so*", "ld-musl*.so*")
)
"""Hooked from the start on, so that the first connection of a new process is seen."""
NEIGHBOURS: Final = ("../lib/libssl.so*", "../lib/libgnutls.so*")
"""Of a program that brings its own libraries (conda), from its folder."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Mapper:
    """A process that was looked at."""

    start_ticks: int
    fingerprint: int | None = None
    """Of what it maps; None if some of it could not be reached."""
    is_unfinished: bool = False
    """Some of it could not be examined or hooked just then."""
    files: frozenset[tuple[int, ...]] = frozenset()
    """Those of the hooked files that it maps, by identity."""


class Discovery:
    """Keeps the files hooked that processes do TLS with.

    `wants` says of a host pid whether it counts. All work is done by `step`, in the thread that
    `start` starts; `notice` may be called from any thread and never waits.
    """

    def __init__(
        self,
        attacher: Attacher,
        *,
        wants: Callable[[int], bool] = lambda _: True,
        root: Path = Path("/proc"),
        clock: Callable[[], float] = time.monotonic,
        places: Sequence[str] = PLACES,
        own_pid: int | None = None,
    ) -> None:
        self._wants = wants
        self._root = root
        self._clock = clock
        self._places = places
        self._own_pid = os.getpid() if own_pid is None else own_pid
        self._notices: SimpleQueue[int | Callable[[], None]] = SimpleQueue()
        self._overflown = True
        """All processes are to be looked at, as at the start."""
        self._due: list[tuple[float, int, float]] = []
        """A heap of when to look at whom, and after which delay that is."""
        self._waiting: set[tuple[int, float]] = set()
        """Processes in `_due`, with the delay that they are in it for."""
        self._mappers: dict[int, Mapper] = {}
        self._unchecked: list[int] = []
        """What is left of this round of checks."""
        self._files = TlsFiles(attacher)
        self._check_s = self._rescan_s = clock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._counters = {
            "processes_over": 0,
            "processes_denied": 0,
            "notices_dropped": 0,
            "faults": 0,
        }

    def start(self) -> None:
        """Hook the well-known places and look at all processes, in a thread from now on."""
        self._notices.put(lambda: self._pin_all(self._places))
        thread = threading.Thread(target=self._run, name="discovery", daemon=True)
        thread.start()
        self._thread = thread

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until all processes have been looked at once; whether they have."""
        return self._ready.wait(timeout_s)

    def notice(self, tgid: int) -> None:
        """A process has called exec or loaded a library. Any thread, never waits."""
        if self._notices.qsize() >= MAX_NOTICES:
            self._counters["notices_dropped"] += 1
            self._overflown = True
            return
        self._notices.put(tgid)

    def prepare(self, executable: str) -> None:
        """Hook a program that is about to be run, and keep it hooked. Waits for that."""
        self._in_thread(lambda: self._prepare(executable))

    def pin(self, path: Path) -> None:
        """Hook a file, and keep it hooked. Waits for that."""
        self._in_thread(lambda: self._pin(path))

    def files(self) -> list[TlsFile]:
        """What is hooked, and what should be; any thread may read it."""
        return self._files.listed()

    def counters(self) -> Mapping[str, int]:
        """Totals since start by name."""
        return {**self._files.counters, **self._counters}

    def close(self) -> bool:
        """End the thread and detach all; whether that could be done.

        Else the thread waits for a mount whose server is gone: the kernel detaches at our end.
        """
        self._stop.set()
        if self._thread is not None:
            self._notices.put(lambda: None)
            self._thread.join(CLOSE_S)
            if self._thread.is_alive():
                return False
            self._thread = None
        self._files.close()
        return True

    def step(self) -> None:
        """Do what is due: notices, looks, checks. Never waits for anything to happen."""
        with suppress(Empty):
            for _ in range(MAX_NOTICES):
                self._take(self._notices.get_nowait())
        now = self._clock()
        while self._due and self._due[0][0] <= now and not self._stop.is_set():
            _, tgid, delay_s = heapq.heappop(self._due)
            self._waiting.discard((tgid, delay_s))
            self._look(tgid)
        if self._overflown or now >= self._rescan_s:
            everyone, self._overflown = self._overflown, False
            self._rescan_s = now + RESCAN_S
            self._look_at_all(everyone=everyone)
            self._ready.set()
        if now >= self._check_s:
            self._check_s = now + CHECK_S
            self._check()

    def _run(self) -> None:
        owed_s = 0.0
        ended_s = time.monotonic()
        while not self._stop.is_set():
            try:
                began_s = time.monotonic()
                owed_s = max(owed_s - (began_s - ended_s), 0.0)
                is_first = not self._ready.is_set()
                self.step()
                ended_s = time.monotonic()
                # The look at everyone at the start is paid for: whoever waited for it goes on.
                owed_s = 0.0 if is_first else owed_s + (ended_s - began_s) * PAUSE_SHARE
                owed_s = min(owed_s, CREDIT_S + MAX_PAUSE_S)
                if owed_s > CREDIT_S:
                    self._stop.wait(owed_s - CREDIT_S)
                due_s = min(self._check_s, self._rescan_s, *(each[0] for each in self._due[:1]))
                with suppress(Empty):
                    self._take(self._notices.get(timeout=max(due_s - self._clock(), 0.001)))
            except Exception as error:  # noqa: BLE001 - logged
                self._fault(error)

    def _fault(self, error: Exception) -> None:
        """What nobody foresaw must end neither the capture nor, unsaid, the discovery."""
        self._counters["faults"] += 1
        if self._counters["faults"] <= MAX_FAULTS_TOLD:
            log.error("looking for TLS libraries has failed", exc_info=error)

    def _in_thread(self, action: Callable[[], None]) -> None:
        if self._thread is None:
            action()
            return
        done = threading.Event()

        def act() -> None:
            try:
                action()
            finally:
                done.set()

        self._notices.put(act)
        done.wait(WAIT_S)

    def _take(self, notice: int | Callable[[], None]) -> None:
        if callable(notice):
            notice()
            return
        now = self._clock()
        if len(self._due) + len(LOOKS_S) > MAX_NOTICES:
            self._counters["notices_dropped"] += 1
            self._overflown = True
            return
        if (notice, LOOKS_S[0]) not in self._waiting:
            self._look_at_program(notice)
        for delay_s in LOOKS_S:
            if (notice, delay_s) not in self._waiting:
                self._waiting.add((notice, delay_s))
                heapq.heappush(self._due, (now + delay_s, notice, delay_s))

    def _counts(self, tgid: int) -> bool:
        return tgid != self._own_pid and self._wants(tgid)

    def _look_at_program(self, tgid: int) -> None:
        """Hook what a process executes at once: a Go client's first request comes soon."""
        path = self._root / str(tgid) / "exe"
        if self._counts(tgid) and (reached := reach_path(path)) is not None:
            self._files.see(reached, _name(path))

    def _look_at_all(self, *, everyone: bool) -> None:
        """At those of whom no linker tells or who were not finished with, or at everyone."""
        for folder in self._root.iterdir():
            name = folder.name
            if self._stop.is_set():
                return
            if name.isdecimal():
                mapper = self._mappers.get(int(name))
                files = frozenset() if mapper is None or mapper.is_unfinished else mapper.files
                if everyone or not self._files.are_linked(files):
                    try:
                        self._look(int(name))
                    except Exception as error:  # noqa: BLE001 - one process hides no others
                        self._fault(error)

    def _look(self, tgid: int) -> None:
        """Hook what a process maps, and note that it does."""
        if not self._counts(tgid):
            return
        folder = self._root / str(tgid)
        mapper = self._recheck(tgid)
        if mapper is None:
            ticks = start_ticks(folder)
            if ticks is None:
                return
            if len(self._mappers) >= MAX_PROCESSES:
                self._counters["processes_over"] += 1
                return
            mapper = self._mappers[tgid] = Mapper(ticks)
        try:
            mappings = read_mappings(folder)
        except PermissionError:
            if mapper.fingerprint is None:
                self._counters["processes_denied"] += 1
            mapper.fingerprint = 0  # counted once
            return
        except OSError:
            return  # it has ended
        fingerprint: int | None = hash(tuple(each[1:] for each in mappings))
        if mapper.fingerprint == fingerprint:
            return
        found = set()
        mapper.is_unfinished = False
        for mapping in mappings:
            if self._stop.is_set():
                return
            reached = reach(folder, mapping)
            if reached is None:
                self._files.counters["files_unreachable"] += 1
                fingerprint = None
                continue
            counts = self._files.see(reached, mapping.path)
            if counts:
                found.add(reached.identity)
            elif counts is None:
                mapper.is_unfinished = True
                fingerprint = None
        mapper.fingerprint = fingerprint
        files = frozenset(found)
        self._files.use(tgid, mapper.files, files)
        mapper.files = files

    def _recheck(self, tgid: int) -> Mapper | None:
        """The process as it is known, if it lives and is the same; else it is forgotten."""
        mapper = self._mappers.get(tgid)
        if mapper is not None and start_ticks(self._root / str(tgid)) != mapper.start_ticks:
            self._files.use(tgid, mapper.files, frozenset())
            del self._mappers[tgid]
            return None
        return mapper

    def _check(self) -> None:
        """Forget processes that have ended, and detach what nobody maps any more."""
        if not self._unchecked:
            self._unchecked = list(self._mappers)
        for tgid in self._unchecked[-CHECK_MOST:]:
            self._recheck(tgid)
        del self._unchecked[-CHECK_MOST:]
        now = self._clock()
        if self._files.idle(now):
            # A child that never called exec may have outlived who started it.
            self._look_at_all(everyone=False)
            for identity in self._files.idle(now):
                self._files.detach(identity)

    def _pin_all(self, places: Sequence[str]) -> None:
        for place in places:
            for path in islice(iglob(place), MAX_PINNED):  # noqa: PTH207 - no one root
                self._pin(Path(path))

    def _pin(self, path: Path) -> None:
        reached = reach_path(path)
        if reached is not None:
            self._files.pin(reached, _name(path))

    def _prepare(self, executable: str) -> None:
        for program in programs(executable):
            self._pin(program)
            self._pin_all([f"{program.parent}/{each}" for each in NEIGHBOURS])


def programs(executable: str) -> Iterator[Path]:
    """The file behind a command's name, and the interpreter that its first line names."""
    for _ in range(3):  # a script, env, an interpreter
        found = shutil.which(executable)
        if found is None:
            return
        path = Path(found).resolve()
        yield path
        try:
            with path.open("rb") as file:
                first = file.read(256)
        except OSError:
            return
        if not first.startswith(b"#!"):
            return
        words = os.fsdecode(first[2:].partition(b"\n")[0]).split()
        if len(words) > 1 and words[0].endswith("/env"):
            words = [each for each in words[1:] if not each.startswith("-") and "=" not in each]
        if not words:
            return
        executable = words[0]


def _name(path: Path) -> str:
    """The file behind a link, for a person."""
    try:
        return str(path.readlink() if path.name == "exe" else path.resolve())
    except OSError:
        return str(path)
