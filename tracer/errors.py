# SPDX-License-Identifier: Apache-2.0
"""Errors whose cause is the machine, told together with what mends them."""

from __future__ import annotations

import errno
from typing import Final

REPORT: Final = "please report it with the log that follows"


class LoadError(Exception):
    """The probes cannot be used here; `str()` says what failed and how to mend it."""

    def __init__(self, what: str, remedy: str, log: str = "") -> None:
        super().__init__(f"{what}: {remedy}")
        self.remedy = remedy
        """What the user can do, as half a sentence."""
        self.log = log
        """What libbpf and the verifier said; empty if they were not asked."""


def refusal(error: OSError, log: str) -> LoadError:
    """What the kernel has answered, as a sentence; `log` is what libbpf said about it."""
    if "processed" in log and "BEGIN PROG LOAD LOG" in log:
        return LoadError(f"the kernel's verifier rejects a program ({error.strerror})", REPORT, log)
    if error.errno in {errno.EPERM, errno.EACCES}:
        return LoadError(
            "no permission to load BPF programs",
            "run with sudo, or grant CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_PTRACE "
            "and CAP_DAC_READ_SEARCH",
            # Not libbpf's own words, which blame RLIMIT_MEMLOCK.
        )
    return LoadError(f"the kernel refuses: {error.strerror}", REPORT, log)
