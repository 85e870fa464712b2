# SPDX-License-Identifier: Apache-2.0
"""From what a user calls a container or control group to what the kernel can filter by."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MIN_ID_CHARS: Final = 8
"""Shorter ones are as good as ambiguous; runtimes print 12."""
MAX_DIRECTORIES: Final = 100_000
ID: Final = re.compile(rf"[0-9a-f]{{{MIN_ID_CHARS},64}}")


class NoCgroupError(Exception):
    """What was asked for is not a control group that can be filtered by."""


def unified_mount(mounts: Path = Path("/proc/self/mounts")) -> Path | None:
    """Where cgroup v2 is mounted; on hybrid hosts it is not /sys/fs/cgroup itself."""
    for line in mounts.read_text().splitlines():
        _, where, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            return Path(where.replace("\\040", " "))
    return None


def resolve_cgroup(path: str, mount: Path | None = None) -> Path:
    """The directory of a control group given as a path in the hierarchy or in the file system.

    Raises:
        NoCgroupError: there is no cgroup v2, or no such group in it.
    """
    mount = _mount(mount).resolve()
    for candidate in (Path(path).resolve(), (mount / path.lstrip("/")).resolve()):
        if candidate.is_dir() and candidate.is_relative_to(mount):
            return candidate
    raise NoCgroupError(
        f"there is no control group {path} under {mount}: `systemd-cgls` or `find {mount} -type d`"
        " lists them"
    )


def resolve_container(
    container: str, mount: Path | None = None, proc: Path = Path("/proc")
) -> tuple[list[Path], list[int]]:
    """The cgroup v2 directories of a container, or, where it has none, its processes.

    `container` is an id or the beginning of one.

    Raises:
        NoCgroupError: it is no id, or nothing here carries it, or several do.
    """
    if not ID.fullmatch(container):
        raise NoCgroupError(
            f"{container!r} is no container id: give {MIN_ID_CHARS} to 64 hexadecimal digits,"
            " as `docker ps` or `crictl ps` print them"
        )
    unified = mount or unified_mount()
    if unified is not None:
        found = {
            path: id_ for path in _directories(unified) if (id_ := _id_in(path.name, container))
        }
        _only_one(set(found.values()), container)
        if found:
            return sorted(found), []
    members = dict(_members(container, proc))
    _only_one(set(members.values()), container)
    if not members:
        raise NoCgroupError(
            f"no container here has an id that begins with {container}: `docker ps`,"
            " `podman ps` or `crictl ps` print those that run"
        )
    return [], sorted(members)


def _mount(mount: Path | None) -> Path:
    mount = mount or unified_mount()
    if mount is None:
        raise NoCgroupError(
            "cgroup v2 is not mounted here, so the kernel cannot filter by control group: use"
            " --pid or --comm, or mount it (mount -t cgroup2 none /sys/fs/cgroup/unified)"
        )
    return mount


def _directories(root: Path) -> Iterator[Path]:
    for count, (name, _, _) in enumerate(os.walk(root)):
        if count >= MAX_DIRECTORIES:
            return
        yield Path(name)


def _id_in(name: str, container: str) -> str | None:
    """The id in the name of a control group, if it begins with `container`.

    `docker-ID.scope`, `cri-containerd-ID.scope`, `libpod-ID.scope`, or the id alone; not
    `libpod-conmon-ID.scope`, which holds the runtime's monitor.
    """
    if "-conmon-" in name:
        return None
    match = re.fullmatch(rf"(?:.*[^0-9a-f])?({container}[0-9a-f]*)(?:\.scope)?", name)
    return match[1] if match else None


def _only_one(ids: set[str], container: str) -> None:
    if len(ids) > 1:
        raise NoCgroupError(
            f"{len(ids)} containers have an id that begins with {container}: "
            + ", ".join(sorted(each[:16] for each in ids)[:5])
        )


def _members(container: str, proc: Path) -> Iterator[tuple[int, str]]:
    """Processes whose cgroup v1 path has the id in it, with the whole id."""
    for entry in proc.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            text = (entry / "cgroup").read_text()
        except OSError:
            continue  # it has ended meanwhile
        names = {name for line in text.splitlines() for name in line.split("/")[1:]}
        for name in names:
            if id_ := _id_in(name, container):
                yield int(entry.name), id_
                break
