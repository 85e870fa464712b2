# SPDX-License-Identifier: Apache-2.0
"""How errors of the machine are told."""

from __future__ import annotations

from tracer.errors import LoadError


def test_error_says_what_failed_and_how_to_mend_it():
    error = LoadError("no permission", "run with sudo", "the log")
    assert str(error) == "no permission: run with sudo"
    assert error.remedy == "run with sudo"
    assert error.log == "the log"
