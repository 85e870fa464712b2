# SPDX-License-Identifier: Apache-2.0
"""What to capture, and what this machine's kernel can do of it."""

from __future__ import annotations

import platform
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tracer.btf import MAGIC
from tracer.errors import LoadError
from tracer.events import MAX_SNAPLEN

KERNEL_BTF: Final = Path("/sys/kernel/btf/vmlinux")
KERNEL_FLOOR: Final = (5, 15)
ARM64_ATOMICS_FLOOR: Final = (5, 18)
"""Compare-and-exchange in the arm64 JIT, see bpf/compat.h."""
UNSAFE_RETURNS: Final = ((6, 11), (6, 14))
"""From one version to before the other, see `has_safe_returns`."""
LOOPS_FLOOR: Final = (5, 17)
"""bpf_loop."""

SOCKET_HOOKS: Final = ("sock_send_length", "sock_recv_length")
"""The tracepoints that the socket source needs, Linux 6.3."""

MIN_RING_BYTES: Final = 64 << 10
MAX_RING_BYTES: Final = 1 << 30
MAX_COMMS: Final = 64
MAX_PORTS: Final = 1024
MAX_CGROUPS: Final = 32
"""These three: bpf/maps.h."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Settings:
    """What to capture. Filters of different kinds must all pass, of one kind any."""

    snaplen: int = 4096
    """Bytes copied of each transfer, at most."""
    ring_bytes: int = 16 << 20
    """A power of two."""
    payload_source: Literal["auto", "socket", "syscall"] = "auto"
    pids: tuple[int, ...] = ()
    """Process ids as the first pid namespace counts them."""
    follow: bool = True
    """Children of `pids` too."""
    comms: tuple[str, ...] = ()
    """Names of thread group leaders, of which the kernel keeps 15 bytes."""
    ports: tuple[int, ...] = ()
    """Local or remote."""
    cgroups: tuple[Path, ...] = ()
    """Directories of cgroup v2; what is below them too."""
    tls: bool = True
    """Look inside TLS libraries."""
    exclude_self: bool = True
    first_bytes: int = 0
    """Of a connection whose protocol is not known yet, captured beyond `snaplen`."""


def check_settings(settings: Settings) -> None:
    """Refuse what the kernel half has no room for.

    Raises:
        LoadError: says which, and what is possible.
    """
    ring = settings.ring_bytes
    if not 1 <= settings.snaplen <= MAX_SNAPLEN:
        raise LoadError(f"snaplen {settings.snaplen} is not possible", f"take 1 to {MAX_SNAPLEN}")
    if not MIN_RING_BYTES <= ring <= MAX_RING_BYTES or ring & (ring - 1):
        raise LoadError(
            f"a ring buffer of {ring} bytes is not possible",
            f"take a power of two from {MIN_RING_BYTES} to {MAX_RING_BYTES}",
        )
    for what, values, limit in (
        ("process names", settings.comms, MAX_COMMS),
        ("ports", settings.ports, MAX_PORTS),
        ("control groups", settings.cgroups, MAX_CGROUPS),
    ):
        if len(values) > limit:
            raise LoadError(f"{len(values)} {what} to filter by are too many", f"at most {limit}")


def kernel_version() -> tuple[int, int]:
    """Major and minor; the floor if the release is called otherwise, so that the load decides."""
    major, _, rest = platform.release().partition(".")
    digits = rest.partition(".")[0].partition("-")[0]
    try:
        return int(major), int(digits)
    except ValueError:
        return KERNEL_FLOOR


def has_atomics() -> bool:
    """Whether the JIT compiles compare-and-exchange."""
    return platform.machine() != "aarch64" or kernel_version() >= ARM64_ATOMICS_FLOOR


def choose_source(asked: str) -> Literal["socket", "syscall"]:
    """Which payload source this kernel can do and the user wants.

    Raises:
        LoadError: it can do none, or not the one that is asked for.
    """
    if kernel_version() < KERNEL_FLOOR:
        raise LoadError(
            f"Linux {platform.release()} is too old", "it must be 5.15 or newer, with BTF"
        )
    try:
        types = KERNEL_BTF.read_bytes()
    except FileNotFoundError:
        raise LoadError(
            f"the kernel carries no type information, there is no {KERNEL_BTF}",
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions ship them",
        ) from None
    except OSError as error:
        raise LoadError(
            f"{KERNEL_BTF} cannot be read ({error.strerror})", "run with sudo"
        ) from None
    if int.from_bytes(types[:2], sys.byteorder) != MAGIC:
        raise LoadError(
            f"{KERNEL_BTF} holds no type information",
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions ship them",
        )
    has_hooks = all(f"\0btf_trace_{name}\0".encode() in types for name in SOCKET_HOOKS)
    if asked == "socket" and not has_hooks:
        raise LoadError(
            "this kernel has no socket tracepoints, which came with Linux 6.3",
            "take the other payload source, syscall",
        )
    return "socket" if has_hooks and asked != "syscall" else "syscall"


def has_safe_returns() -> bool:
    """Whether a return probe does no harm to a process with a seccomp filter.

    On x86-64 Linux 6.11 ends them by a system call of its own, which filters did not know and
    denied, so that the process was killed. 6.14 lets it pass (cf6cb56ef244, "seccomp:
    passthrough uretprobe systemcall without filtering").
    """
    floor, fixed = UNSAFE_RETURNS
    return platform.machine() != "x86_64" or not floor <= kernel_version() < fixed


def has_loops() -> bool:
    """Whether there is bpf_loop, with which the programs load faster."""
    return kernel_version() >= LOOPS_FLOOR


def descendants(pids: tuple[int, ...]) -> tuple[int, ...]:
    """The children, grandchildren, ... of `pids` that live now."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                after_name = (folder / "stat").read_text(errors="replace").rpartition(")")[2]
                children.setdefault(int(after_name.split()[1]), []).append(int(folder.name))
    found: list[int] = []
    queue = list(pids)
    while queue:
        for child in children.get(queue.pop(), ()):
            found.append(child)
            queue.append(child)
    return tuple(found)
