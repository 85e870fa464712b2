# SPDX-License-Identifier: Apache-2.0
"""The filters that the kernel half applies: who is in its maps (bpf/filter.h)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from tracer import libbpf
from tracer.capture import Settings
from tracer.errors import LoadError
from tracer.libbpf import BpfObject

YES: Final = b"\1"
COMM_BYTES: Final = 16
"""TASK_COMM_LEN, with the NUL at the end."""


def fill_filters(opened: BpfObject, settings: Settings) -> None:
    """Tell the kernel half who is traced.

    Raises:
        LoadError: a control group cannot be opened.
    """
    add_pids(opened, settings.pids)
    fd = opened.map_fd("comms")
    for comm in settings.comms:
        name = comm.encode()[: COMM_BYTES - 1]
        libbpf.map_update(fd, name.ljust(COMM_BYTES, b"\0"), YES)
    fd = opened.map_fd("ports")
    for port in settings.ports:
        libbpf.map_update(fd, port.to_bytes(2, "little"), YES)
    fd = opened.map_fd("cgroups")
    for index, path in enumerate(settings.cgroups):
        try:
            cgroup = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise LoadError(
                f"the control group {path} cannot be opened ({error.strerror})",
                "name a directory under the mount of cgroup v2",
            ) from None
        try:
            libbpf.map_update(fd, index.to_bytes(4, "little"), cgroup.to_bytes(4, "little"))
        finally:
            os.close(cgroup)


def add_pids(opened: BpfObject, pids: Iterable[int]) -> None:
    """Let some more processes pass."""
    fd = opened.map_fd("pids")
    for pid in pids:
        libbpf.map_update(fd, pid.to_bytes(4, "little"), YES)


def is_traced(opened: BpfObject, tgid: int) -> bool:
    """Whether the filter by pid lets a process pass: one that was asked for, or its child."""
    return libbpf.map_lookup(opened.map_fd("pids"), tgid.to_bytes(4, "little"), 1) is not None
