# SPDX-License-Identifier: Apache-2.0
"""What of one process is seen, what is not, and why: each file with TLS inside, and its sockets.

Only reads /proc and the files that the process maps, needs no eBPF, and goes as far as the
privileges of who asks; what could not be read is said as well.

Formats: proc(5), proc_pid_net(5); Linux include/linux/sched.h (PF_KTHREAD).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from itertools import islice
from pathlib import Path, PurePosixPath
from textwrap import fill
from typing import Final

from tracer.diagnosis import WIDTH
from tracer.mappings import Mapped, held, reach, read_mappings, start_ticks
from tracer.printable import printable
from tracer.procfs import NoProcessError, ProcessTable
from tracer.tls_libraries import Hook, Library, Place, examine, release_inside

COLUMN: Final = 10
"""Of the text: what the lines behind it are about."""
MAX_SOCKETS: Final = 65536
"""Open files looked at, for sockets."""
MAX_NET_BYTES: Final = 8 << 20
"""Of each table of sockets of a network namespace: some 50,000 TCP sockets."""
MAX_PORTS: Final = 8
"""Named in the text."""

PF_KTHREAD: Final = 0x00200000
ELFCLASS32: Final = 1
ESTABLISHED: Final = "01"
LISTEN: Final = "0A"
"""Linux include/net/tcp_states.h, as /proc/net/tcp prints them."""

NO_MAPS: Final = "what it has mapped may not be read"
NO_FILE: Final = "it may not be read, or was deleted or replaced since"
NO_SOCKETS: Final = "its open files may not be read"
SUDO: Final = "what may not be read here, root may read: run with sudo"
PROTECTED: Final = (
    "a security module, or the user namespace that it or wirespan is in, protects it from root too"
)
BITS_32: Final = "it is a 32-bit program, of whose sockets transfers are counted and not seen"
NO_LINKER: Final = (
    "it has no dynamic linker that tells what it loads, so a library that it loads later is "
    "found within 30 seconds"
)


class Sight(Enum):
    """What wirespan can see of the TLS in a file."""

    SEEN = "seen"
    NOT_SEEN = "not seen"
    UNKNOWN = "unknown"


ORDER: Final = tuple(Sight)
"""Of findings."""


@dataclass(slots=True, frozen=True)
class Finding:
    """One file that a process maps, with TLS inside."""

    sight: Sight
    path: str
    """In the process's own view."""
    kind: str = ""
    version: str = ""
    how: str = ""
    """What is hooked, or why nothing is."""

    def sentence(self) -> str:
        name = f"{self.kind} {self.version}".strip()
        return f"{name}: {self.how}" if name else self.how


@dataclass(slots=True, frozen=True)
class Sockets:
    """The sockets of a process."""

    listening: tuple[int, ...] = ()
    """TCP ports."""
    connections: int = 0
    """TCP connections that are established."""
    others: int = 0
    """Unix, UDP and all other sockets."""

    def sentence(self) -> str:
        ports = ", ".join(map(str, self.listening[:MAX_PORTS]))
        more = ", ..." if len(self.listening) > MAX_PORTS else ""
        parts = [f"listens on {ports}{more}"] if ports else []
        if self.connections:
            parts.append(_count(self.connections, "TCP connection"))
        if self.others:
            parts.append(_count(self.others, "other"))
        return ", ".join(parts) or "none"


@dataclass(slots=True, frozen=True)
class Explanation:
    """All that is known of one process."""

    pid: int
    name: str
    """Its service.name."""
    executable: str = ""
    container: str = ""
    is_kernel_thread: bool = False
    findings: tuple[Finding, ...] = ()
    sockets: Sockets | None = None
    """None if they may not be read."""
    notes: tuple[str, ...] = ()
    """What limits what is seen, or what was read."""

    def sentence(self) -> str:
        """The answer in short."""
        who = f"{self.name}({self.pid})"
        if self.is_kernel_thread:
            return f"{who} is a kernel thread: it maps no files and has no TLS."
        if NO_MAPS in self.notes:
            return f"Whether TLS of {who} is seen is not known: it may not be looked into."
        sights = {each.sight for each in self.findings}
        if not sights:
            return (
                f"{who} has no TLS in what it maps now. What its sockets carry in the clear "
                "is seen."
            )
        if sights == {Sight.SEEN}:
            return f"TLS of {who} is seen."
        if Sight.SEEN in sights:
            return f"TLS of {who} is seen in part."
        if Sight.NOT_SEEN in sights:
            return f"TLS of {who} is not seen. What its sockets carry in the clear is."
        return f"Whether TLS of {who} is seen is not known."

    def text(self) -> str:
        """For a terminal."""
        lines = [fill(printable(self.sentence()), WIDTH), ""]
        if self.executable:
            lines.append(_row("program", _short(self.executable)))
        if self.container:
            lines.append(_row("container", self.container))
        if self.sockets is not None:
            lines.append(_row("sockets", self.sockets.sentence()))
        for finding in self.findings:
            lines.append(_row(finding.sight.value, _short(finding.path)))
            lines.append(_row("", finding.sentence()))
        lines += [_row("note", each) for each in self.notes]
        return "\n".join(lines).rstrip()

    def json(self) -> str:
        """For a program: one object on one line."""
        fields = asdict(self) | {"sentence": self.sentence()}
        fields["findings"] = [asdict(each) | {"sight": each.sight.value} for each in self.findings]
        # In ASCII: a name may have bytes that are no text, and characters that a terminal obeys.
        return json.dumps(fields)


def explain(pid: int, *, root: Path = Path("/proc"), is_root: bool | None = None) -> Explanation:
    """Look at a process; `is_root` says whether we are.

    Raises:
        NoProcessError: there is none, or it has ended.
    """
    is_root = os.geteuid() == 0 if is_root is None else is_root
    folder = root / str(pid)
    began = start_ticks(folder)
    if began is None:
        ended = (folder / "stat").exists()
        raise NoProcessError(
            f"process {pid} has ended, and its parent has not asked for its status yet"
            if ended
            else f"there is no process {pid}: `ps -e` lists them"
        )
    resource = ProcessTable(root=root, host={}).lookup(pid, None).resource
    notes: list[str] = []
    findings: tuple[Finding, ...] = ()
    sockets = None
    is_kernel_thread = _is_kernel_thread(folder)
    if not is_kernel_thread:
        if _is_32_bit(folder / "exe"):
            notes.append(BITS_32)
        try:
            mappings = read_mappings(folder)
        except OSError:
            notes.append(NO_MAPS)
        else:
            libraries = [(each, _library(folder, each)) for each in mappings]
            found = _findings(folder, libraries)
            findings = tuple(sorted(found, key=lambda each: ORDER.index(each.sight)))
            is_open = any(library is None for _, library in libraries)
            kinds = {library.kind for _, library in libraries if library is not None}
            if len(mappings) > 1 and "linker" not in kinds and not is_open:
                notes.append(NO_LINKER)
        try:
            sockets = _sockets(folder)
        except OSError:
            notes.append(NO_SOCKETS)
    if {NO_MAPS, NO_SOCKETS} & set(notes) or Sight.UNKNOWN in {each.sight for each in findings}:
        notes.append(PROTECTED if is_root else SUDO)
    if start_ticks(folder) != began:
        raise NoProcessError(f"process {pid} has ended while it was looked at")
    return Explanation(
        pid,
        str(resource["service.name"]),
        str(resource.get("process.executable.path", "")),
        str(resource.get("container.id", "")),
        is_kernel_thread,
        findings,
        sockets,
        tuple(notes),
    )


def _library(folder: Path, mapped: Mapped) -> Library | None:
    """What a mapped file has of TLS; None if it cannot be read."""
    reached = reach(folder, mapped)
    if reached is None:
        return None
    try:
        with held(reached) as there:
            return examine(there.path)
    except OSError:
        return None


def _findings(folder: Path, libraries: list[tuple[Mapped, Library | None]]) -> Iterator[Finding]:
    for mapped, library in libraries:
        if library is None:
            if not _is_no_file(mapped.path):
                yield Finding(Sight.UNKNOWN, mapped.path, how=NO_FILE)
        elif library.reason:
            yield Finding(Sight.NOT_SEEN, mapped.path, how=library.reason)
        elif library.hooks and library.kind != "linker":
            version = library.version
            if library.kind == "OpenSSL" and (version.endswith("+") or not version):
                version = _release(folder, mapped, [each for each, _ in libraries]) or version
            how = _how(library.hooks)
            yield Finding(Sight.SEEN, mapped.path, library.kind, version, how)


def _is_no_file(path: str) -> bool:
    """Memory and devices that maps shows as files."""
    return path.startswith(("/memfd:", "/dev/", "/SYSV", "/anon_hugepage", "/["))


def _release(folder: Path, mapped: Mapped, mappings: list[Mapped]) -> str:
    """Of a libssl, by the libcrypto from the same folder, which says it."""
    home = PurePosixPath(mapped.path).parent
    for each in mappings:
        path = PurePosixPath(each.path)
        if path.parent == home and path.name.startswith("libcrypto"):
            reached = reach(folder, each)
            if reached is None:
                return ""
            try:
                with held(reached) as there:
                    return release_inside(there.path)
            except OSError:
                return ""
    return ""


def _how(hooks: tuple[Hook, ...]) -> str:
    functions = len({hook.offset for hook in hooks if hook.place is Place.ENTRY})
    if any(hook.is_go for hook in hooks):
        returns = sum(hook.place is Place.RETURN for hook in hooks)
        ends = _count(returns, "return")
        return f"{_count(functions, 'function')} with {ends}, by Go's function table"
    return f"{_count(functions, 'function')}, by its symbols"


def _is_kernel_thread(folder: Path) -> bool:
    try:
        fields = (folder / "stat").read_bytes().rpartition(b") ")[2].split()
        return bool(int(fields[6]) & PF_KTHREAD)  # field 9, of which 3 is the first here
    except (OSError, IndexError, ValueError):
        return False


def _is_32_bit(executable: Path) -> bool:
    try:
        with executable.open("rb") as file:
            head = file.read(5)
    except OSError:
        return False
    return head[:4] == b"\x7fELF" and head[4:] == bytes([ELFCLASS32])


def _sockets(folder: Path) -> Sockets:
    """The sockets among the open files.

    Raises:
        OSError: they may not be read.
    """
    inodes = set()
    for link in islice((folder / "fd").iterdir(), MAX_SOCKETS):
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            inodes.add(target[len("socket:[") : -1])
    listening: set[int] = set()
    connections = tcp = 0
    for port, state in _tcp(folder, inodes):
        tcp += 1
        connections += state == ESTABLISHED
        if state == LISTEN:
            listening.add(port)
    return Sockets(tuple(sorted(listening)), connections, len(inodes) - tcp)


def _tcp(folder: Path, inodes: set[str]) -> Iterator[tuple[int, str]]:
    """Local port and state of those sockets that are TCP."""
    for table in ("tcp", "tcp6"):
        try:
            with (folder / "net" / table).open() as file:
                lines = file.read(MAX_NET_BYTES).splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 9 and fields[9] in inodes:
                yield int(fields[1].rpartition(":")[2], 16), fields[3]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _short(path: str) -> str:
    """A path that fits on a line, by its end; whole in JSON."""
    path = printable(path)
    room = WIDTH - COLUMN
    while len(path) > room and "/" in path.removeprefix(".../"):
        path = ".../" + path.removeprefix(".../").partition("/")[2]
    return path


def _row(head: str, text: str) -> str:
    return fill(
        printable(text),
        WIDTH,
        initial_indent=f"{head:<{COLUMN}}",
        subsequent_indent=" " * COLUMN,
        break_long_words=False,
        break_on_hyphens=False,
    )
