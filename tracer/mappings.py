# SPDX-License-Identifier: Apache-2.0
"""The files that a process executes from, and how to reach them whatever has become of their names.

Formats: proc(5), statfs(2); Linux fs/proc/base.c (map_files), fs/proc/task_mmu.c (maps).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tracer.file_system import file_system

MAX_MAPS_BYTES: Final = 8 << 20
"""Of /proc/PID/maps: the 65530 mappings that the kernel allows by default have less."""

EXECUTABLE: Final = re.compile(
    rb"^([0-9a-f]+-[0-9a-f]+) [r-][w-]x[ps] [0-9a-f]+ ([0-9a-f]+:[0-9a-f]+) ([1-9]\d*) +(/.*)$",
    re.MULTILINE,
)
DELETED: Final = " (deleted)"

OVERLAYFS: Final = 0x794C7630
"""Shows one file of a layer under another device in each container, but with the same inode
number. Of others, such as tmpfs, FUSE and the subvolumes of Btrfs, each may have the same numbers
for files of its own. Linux include/uapi/linux/magic.h."""
BTRFS: Final = 0x9123683E
OTHER_DEVICE: Final = frozenset({OVERLAYFS, BTRFS})
"""Where maps shows a device that stat(2) does not."""


class Mapped(NamedTuple):
    """A file that is mapped to be executed."""

    addresses: str
    """Of one such mapping: `7f0a-7f0b`, the name of its link in map_files."""
    device: str
    inode: int
    path: str
    """In the process's own view, without ` (deleted)`."""


class Reached(NamedTuple):
    """A file as we can open it now."""

    path: Path
    identity: tuple[int, ...]
    """Equal for one file, whoever maps it: device, inode, and what else it takes."""
    content: tuple[int, int]
    """Size in bytes and time of change in nanoseconds."""


def read_mappings(folder: Path) -> list[Mapped]:
    """The files that the process of /proc/PID executes from, each once.

    Nothing for a kernel thread and a zombie.

    Raises:
        OSError: the process is gone, or may not be looked into.
    """
    with (folder / "maps").open("rb") as file:
        text = file.read(MAX_MAPS_BYTES)
    found: dict[tuple[bytes, bytes], Mapped] = {}
    for addresses, device, inode, path in EXECUTABLE.findall(text):
        if (device, inode) not in found:
            name = os.fsdecode(path).removesuffix(DELETED)
            found[device, inode] = Mapped(addresses.decode(), device.decode(), int(inode), name)
    return list(found.values())


def reach(folder: Path, mapped: Mapped) -> Reached | None:
    """The mapped file itself; None if it cannot be had.

    map_files needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN. Without, the file of that name is
    taken if it is the same one, so a deleted or replaced library is out of reach.
    """
    reached = reach_path(folder / "map_files" / mapped.addresses)
    if reached is not None:
        return reached
    path = Path(f"{folder}/root{mapped.path}")
    try:
        # A link there would lead on in our own root, not in that of the process.
        found = path.stat(follow_symlinks=False)
        device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
        is_same = device == mapped.device or _kind(path, found) in OTHER_DEVICE
        return _reached(path, found) if is_same and found.st_ino == mapped.inode else None
    except OSError:
        return None


def reach_path(path: Path) -> Reached | None:
    """A file by a path that leads to it; None if it cannot be had or is no regular file."""
    try:
        return _reached(path, path.stat())
    except OSError:
        return None


@contextmanager
def held(reached: Reached) -> Iterator[Reached]:
    """The same file under a path that leads to it and to no other for as long as this lasts.

    What a path of /proc/PID leads to may change at any time. The descriptor does not open the
    file, as to open a device may do something.

    Raises:
        OSError: it cannot be had; ESTALE if another file is there now, or it was changed.
    """
    descriptor = os.open(reached.path, os.O_PATH | os.O_CLOEXEC)
    try:
        now = reach_path(Path(f"/proc/self/fd/{descriptor}"))
        if now is None or now[1:] != reached[1:]:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), os.fspath(reached.path))
        yield now
    finally:
        os.close(descriptor)


def _reached(path: Path, found: os.stat_result) -> Reached | None:
    """Raises: OSError, the file is gone."""
    if not stat.S_ISREG(found.st_mode):
        return None
    content = (found.st_size, found.st_mtime_ns)
    is_layered = _kind(path, found) == OVERLAYFS
    return Reached(path, (0 if is_layered else found.st_dev, found.st_ino), content)


def _kind(path: Path, found: os.stat_result) -> int:
    """The type of a file system without a device of its own; 0 for others."""
    return file_system(path) if os.major(found.st_dev) == 0 else 0


def start_ticks(folder: Path) -> int | None:
    """When the process of /proc/PID began, in clock ticks since boot; None if it has ended."""
    try:
        content = (folder / "stat").read_bytes()
        fields = content.rpartition(b") ")[2].split()
        # A leader that has ended is a zombie while its threads go on.
        if fields[0] in {b"Z", b"X"} and len(list((folder / "task").iterdir())) <= 1:
            return None
        return int(fields[19])
    except (OSError, IndexError):
        return None
