# SPDX-License-Identifier: Apache-2.0
"""Where the compiled BPF object lies: inside the wheel, or in the checkout it was built in."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

PACKAGED: Final = Path(__file__).parent / "bpf"
"""Where a wheel carries the objects, see pyproject.toml."""
BUILT: Final = Path(__file__).parents[1] / "bpf" / ".output"
"""Where `make -C bpf` leaves them."""

MACHINES: Final = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
"""uname's and others' words for the machines that an object exists for."""


class NoObjectError(Exception):
    """There is no BPF object for this machine; the sentence says what to do."""


def object_path(machine: str | None = None) -> Path:
    """The BPF object for `machine`, which is this one by default.

    Raises:
        NoObjectError: none was built for it.
    """
    machine = machine or platform.machine()
    known = MACHINES.get(machine)
    if known is None:
        raise NoObjectError(
            f"wirespan has no BPF object for {machine}: it captures on x86_64 and aarch64. "
            "Recordings can be replayed here."
        )
    name = f"wirespan.bpf.{known}.o"
    for folder in (PACKAGED, BUILT):
        path = folder / name
        if path.is_file():
            return path
    raise NoObjectError(
        f"The BPF object {name} is in neither {PACKAGED} nor {BUILT}. "
        "In a checkout, `make bpf` builds it (it needs clang); otherwise install the wheel again."
    )
