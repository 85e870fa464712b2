# SPDX-License-Identifier: Apache-2.0
"""The files that are hooked: each examined once, attached once, detached when nobody maps it."""

from __future__ import annotations

import errno
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from tracer.errors import LoadError
from tracer.mappings import Reached, held, reach_path
from tracer.tls_libraries import Hook, Library, examine

MAX_FILES: Final = 1024
"""Hooked at one time; for more, those with the fewest processes go."""
MAX_HOOKS: Final = 1024
"""In one file; OpenSSL takes some 20, and so does a Go program."""
MAX_VERDICTS: Final = 4096
"""Files whose examination is remembered; the one that was met longest ago goes first."""
LINGER_S: Final = 10.0
"""A file stays hooked for so long without a process: commands are run again and again."""

REMEDIES: Final[Mapping[int, str]] = {
    errno.EPERM: "run with sudo, or grant CAP_PERFMON and CAP_SYS_ADMIN",
    errno.EACCES: "run with sudo, or grant CAP_PERFMON and CAP_SYS_ADMIN",
    errno.EIO: "its file system does not take uprobes; put the program on another",
    errno.EOPNOTSUPP: "its file system does not take uprobes; put the program on another",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOMEM: "the kernel has no memory for more probes",
}
LATER: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""What may not be so the next time."""
GONE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ESTALE, errno.ESHUTDOWN})
"""The file, or we are about to end; nothing to tell of."""

log = logging.getLogger(__name__)


class Attachment(Protocol):
    """The probes of one file."""

    def close(self) -> None:
        """Take them away; may wait for the kernel."""
        ...


class Attacher(Protocol):
    """Puts probes into files."""

    def attach(self, path: str, hooks: Sequence[Hook]) -> Attachment:
        """Attach all `hooks` or none.

        Raises:
            OSError: the kernel does not take them.
        """
        ...


@dataclass(slots=True)
class TlsFile:
    """A file that is hooked, or should be."""

    path: str
    """As the first process that maps it knows it."""
    library: Library
    content: tuple[int, int]
    """Size in bytes and time of change in nanoseconds, when it was examined."""
    attachment: Attachment | None = None
    error: str = ""
    """Why it could not be hooked."""
    users: set[int] = field(default_factory=set)
    """Processes that map it."""
    pinned: bool = False
    """Stays hooked though nobody maps it."""
    idle_s: float | None = None
    """When it was first seen without a process."""


class TlsFiles:
    """What is hooked and who maps it, by the identity of the file. For one thread."""

    def __init__(self, attacher: Attacher) -> None:
        self._attacher = attacher
        self._files: dict[tuple[int, ...], TlsFile] = {}
        self._verdicts: OrderedDict[tuple[int, ...], Library] = OrderedDict()
        self._told: set[str] = set()
        """Files of which an error was logged."""
        self.counters: Final = {
            "files_attached": 0,
            "files_detached": 0,
            "failed": 0,
            "postponed": 0,
            "files_unreachable": 0,
            "files_over": 0,
            "verdicts_evicted": 0,
        }
        """Totals since start."""

    def listed(self) -> list[TlsFile]:
        """All of them; any thread may ask."""
        return list(self._files.values())

    def are_linked(self, identities: frozenset[tuple[int, ...]]) -> bool:
        """Whether one of them is a dynamic linker that tells of what it loads."""
        files = (self._files[each] for each in identities if each in self._files)
        return any(each.library.kind == "linker" and not each.error for each in files)

    def use(
        self, tgid: int, before: frozenset[tuple[int, ...]], after: frozenset[tuple[int, ...]]
    ) -> None:
        """A process maps `after`, and no longer `before`."""
        for identity in before - after:
            if identity in self._files:
                self._files[identity].users.discard(tgid)
        for identity in after:
            if identity in self._files:  # else another took its place meanwhile
                self._files[identity].users.add(tgid)
                self._files[identity].idle_s = None

    def see(self, reached: Reached, name: str) -> bool | None:
        """Examine a file, hook it if there is something to hook; whether it counts.

        None if that was not possible now and is to be tried again. A file that is known and
        unchanged is not opened.
        """
        file = self._files.get(reached.identity)
        if file is not None and file.content == reached.content:
            return True
        key = (*reached.identity, *reached.content)
        library = self._verdicts.get(key)
        if library is not None:
            self._verdicts.move_to_end(key)
            if not library.hooks:
                self._drop(reached.identity)
                return False
        with ExitStack() as stack:
            try:
                there = stack.enter_context(held(self._leading(reached, name)))
                if library is None:
                    library = self._examine(there, name)
            except OSError as error:
                log.debug("%s cannot be examined: %s", name, error)
                return None  # not remembered: the process may just have ended
            # If it is known, it was written anew in place: the functions are elsewhere now.
            former = self._drop(there.identity)
            if not library.hooks:
                return False
            file = TlsFile(name, library, there.content)
            if former is not None:
                file.users, file.pinned = former.users, former.pinned
            return self._hook(file, there)

    def pin(self, reached: Reached, name: str) -> None:
        """Hook a file if there is something to hook, and keep it hooked."""
        if self.see(reached, name):
            self._files[reached.identity].pinned = True

    def _leading(self, reached: Reached, name: str) -> Reached:
        """Who led to it may have ended: perhaps it still has the name that it had."""
        if reach_path(reached.path) is None:
            named = reach_path(Path(name))
            if named is not None and named.identity == reached.identity:
                return reached._replace(path=named.path)
        return reached

    def _examine(self, there: Reached, name: str) -> Library:
        """Raises: OSError, it cannot be read."""
        library = examine(there.path, thorough=False)
        if len(library.hooks) > MAX_HOOKS:
            reason = f"{len(library.hooks)} places would have to be hooked, more than {MAX_HOOKS}"
            library = replace(library, hooks=(), reason=reason)
        if library.reason:
            log.info("TLS in %s is not seen: %s", name, library.reason)
        self._verdicts[*there.identity, *there.content] = library
        if len(self._verdicts) > MAX_VERDICTS:
            self._verdicts.popitem(last=False)
            self.counters["verdicts_evicted"] += 1
        return library

    def _hook(self, file: TlsFile, there: Reached) -> bool | None:
        """As `see`, of a file that is held and has hooks."""
        try:
            file.attachment = self._attacher.attach(str(there.path), file.library.hooks)
        except (OSError, LoadError) as error:
            number = error.errno if isinstance(error, OSError) else None
            if number in GONE:
                return None
            said = error.strerror if isinstance(error, OSError) else None
            file.error = said or str(error)
            self.counters["postponed" if number in LATER else "failed"] += 1
            self._tell(file, number)
            if number in LATER:
                return None
        else:
            self.counters["files_attached"] += 1
            now = reach_path(there.path)
            if now is None or now.content != there.content:
                # Somebody writes to it: what is hooked now is anything.
                self._take_away(file)
                return None
        if len(self._files) >= MAX_FILES and not self._make_room():
            self._take_away(file)
            return False
        self._files[there.identity] = file
        return True

    def _make_room(self) -> bool:
        """Detach what the fewest processes use, of these what has been idle longest."""
        self.counters["files_over"] += 1

        def use(identity: tuple[int, ...]) -> tuple[int, float]:
            file = self._files[identity]
            return len(file.users), float("inf") if file.idle_s is None else file.idle_s

        found = min(
            (each for each in self._files if not self._files[each].pinned), key=use, default=None
        )
        if found is not None:
            self.detach(found)
        return found is not None

    def _tell(self, file: TlsFile, number: int | None) -> None:
        """Log an error, of each file once."""
        if file.path not in self._told and len(self._told) < MAX_VERDICTS:
            self._told.add(file.path)
            remedy = REMEDIES.get(number or 0, "")
            log.warning(
                "TLS in %s is not seen, the kernel refuses probes: %s%s",
                file.path,
                file.error,
                f"; {remedy}" if remedy else "",
            )

    def _take_away(self, file: TlsFile) -> None:
        attachment, file.attachment = file.attachment, None
        if attachment is None:
            return
        self.counters["files_detached"] += 1
        try:
            attachment.close()
        except OSError as error:
            log.warning("the probes of %s were not taken away in order: %s", file.path, error)

    def detach(self, identity: tuple[int, ...]) -> None:
        self._drop(identity)

    def _drop(self, identity: tuple[int, ...]) -> TlsFile | None:
        """Detach a file, if it is hooked."""
        file = self._files.pop(identity, None)
        if file is not None:
            self._take_away(file)
        return file

    def idle(self, now_s: float) -> list[tuple[int, ...]]:
        """Those that have had no process for long enough."""
        found = []
        for identity, file in self._files.items():
            if file.users or file.pinned:
                continue
            if file.idle_s is None:
                file.idle_s = now_s
            if now_s - file.idle_s >= LINGER_S:
                found.append(identity)
        return found

    def close(self) -> None:
        """Detach all."""
        while self._files:
            self.detach(next(iter(self._files)))
