# SPDX-License-Identifier: Apache-2.0
"""A folder that looks like /proc, with processes that map files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tracer.tls_libraries import Call, Hook, Library, Place


def device_of(number):
    """As /proc/PID/maps prints it."""
    return f"{os.major(number):02x}:{os.minor(number):02x}"


class MappingProc:
    """Processes by pid; each maps the files that it is given, executable."""

    def __init__(self, root):
        self.root = root
        root.mkdir(exist_ok=True)

    def add(self, pid, *files, ticks=1000, state="S", flags=0, deleted=(), has_map_files=True):
        folder = self.root / str(pid)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        middle = " ".join(str(n) for n in range(10, 22))
        (folder / "stat").write_text(
            f"{pid} (a) b) {state} 1 1 1 0 -1 {flags} {middle} {ticks} 0 0\n"
        )
        (folder / "fd").mkdir()
        (folder / "net").mkdir()
        (folder / "root").symlink_to("/")
        (folder / "map_files").mkdir()
        lines = ["7ffd0000-7ffe0000 rw-p 00000000 00:00 0 [stack]", "7fff-8000 r-xp 0 00:00 0"]
        for number, file in enumerate(files):
            addresses = f"{0x55000 + number:x}-{0x55001 + number:x}"
            found = file.stat() if file.exists() else None
            inode = found.st_ino if found else 1
            device = device_of(found.st_dev) if found else "00:00"
            tail = f"00000000 {device} {inode}         {file}{' (deleted)' * (file in deleted)}"
            lines += [f"{addresses} r--p {tail}", f"{addresses} r-xp {tail}"]
            if has_map_files:
                (folder / "map_files" / addresses).symlink_to(file)
        if files:
            (folder / "exe").symlink_to(files[0])
        (folder / "maps").write_text("\n".join(lines) + "\n")
        return folder

    def remove(self, pid):
        shutil.rmtree(self.root / str(pid))

    def sockets(self, pid, *rows):
        """Rows of (inode, table, local port, state)."""
        folder = self.root / str(pid)
        tables = {"tcp": ["  sl local rem st"], "tcp6": ["  sl local rem st"]}
        for number, (inode, table, port, state) in enumerate(rows):
            (folder / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
            if table in tables:
                tables[table].append(
                    f" {number}: 0100007F:{port:04X} 00:0 {state} 0:0 00:0 0 0 0 {inode} 1"
                )
        for table, lines in tables.items():
            (folder / "net" / table).write_text("\n".join(lines) + "\n")


class FakeAttacher:
    """Remembers what it was told to attach; `open` is how much of it was not closed.

    A path through a descriptor is told as what the descriptor leads to. `meanwhile` is called
    while it attaches.
    """

    def __init__(self):
        self.attached = []
        self.open = 0
        self.refuse = None
        self.stuck = None
        self.meanwhile = lambda: None

    def attach(self, path, hooks):
        if self.refuse is not None:
            raise self.refuse
        is_held = path.startswith("/proc/self/fd/")
        self.attached.append((str(Path(path).readlink()) if is_held else path, hooks))
        self.meanwhile()
        self.open += 1
        return self

    def close(self):
        self.open -= 1
        if self.stuck is not None:
            raise self.stuck


def examine_by_text(path, *, thorough=False):
    """As `tls_libraries.examine`, of a file whose text says what it is to be."""
    examine_by_text.calls += 1
    text = path.read_text(errors="replace")
    if text.startswith("tls"):
        return Library("OpenSSL", "3.0.0+", (Hook(Call.READ, Place.ENTRY, 64),))
    if text.startswith("linker"):
        return Library("linker", hooks=(Hook(Call.LOADED, Place.ENTRY, 32),))
    if text.startswith("reason"):
        return Library(reason=text)
    return Library()


examine_by_text.calls = 0
