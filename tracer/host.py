# SPDX-License-Identifier: Apache-2.0
"""The facts of a machine that decide what can be captured on it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from tracer.libbpf import libbpf_version
from tracer.objects import object_path
from tracer.probes import MIN_RING_BYTES, KernelSource, Settings
from tracer.procfs import ProcessTable

CAPABILITIES: Final = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
    "CAP_CHECKPOINT_RESTORE": 40,
}
"""Bits of CapEff, include/uapi/linux/capability.h."""

INITIAL_NAMESPACES: Final = {"pid": 4026531836, "user": 4026531837, "time": 4026531834}
"""Inodes that the kernel gives its first namespaces, include/linux/proc_ns.h."""

UNUSED_PORT: Final = 1
"""tcpmux, RFC 1078: historic."""


def _package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _try_capture() -> list[str]:
    """Load and attach everything for a moment; returns what could not be, with the consequence."""
    # The filter by a port that nobody uses: nothing that passes meanwhile is copied.
    settings = Settings(ring_bytes=MIN_RING_BYTES, ports=(UNUSED_PORT,))
    source = KernelSource(settings, ProcessTable())
    source.close()
    return source.degraded


@dataclass(slots=True, frozen=True, kw_only=True)
class Host:
    """Where the checks look; tests point it elsewhere."""

    root: Path = Path("/")
    machine: str = platform.machine()
    libbpf_version: Callable[[], tuple[int, int]] = libbpf_version
    find_object: Callable[[str], Path] = object_path
    package_version: Callable[[str], str | None] = _package_version
    try_capture: Callable[[], list[str]] = _try_capture

    def read(self, path: str) -> str:
        """What a file says; empty if it is not there or may not be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return ""

    def namespace(self, kind: str) -> int:
        """Inode of our own namespace of that kind; 0 if the kernel has no such kind."""
        try:
            link = str((self.root / f"proc/self/ns/{kind}").readlink())
        except OSError:
            return 0
        return int(link.rpartition("[")[2].rstrip("]"))

    def is_initial(self, kind: str) -> bool:
        return self.namespace(kind) in {0, INITIAL_NAMESPACES[kind]}

    def has_capability(self, name: str) -> bool:
        for line in self.read("proc/self/status").splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> CAPABILITIES[name] & 1)
        return False

    def mounts(self) -> Iterator[tuple[str, str, str]]:
        """Mount point, file system type and options of every mount."""
        for line in self.read("proc/self/mounts").splitlines():
            _, point, kind, options, *_ = line.split(" ")
            yield point, kind, options
