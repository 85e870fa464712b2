# SPDX-License-Identifier: Apache-2.0
"""Errors whose cause is the machine, told together with what mends them."""

from __future__ import annotations


class LoadError(Exception):
    """The probes cannot be used here; `str()` says what failed and how to mend it."""

    def __init__(self, what: str, remedy: str, log: str = "") -> None:
        super().__init__(f"{what}: {remedy}")
        self.remedy = remedy
        """What the user can do, as half a sentence."""
        self.log = log
        """What libbpf and the verifier said; empty if they were not asked."""
