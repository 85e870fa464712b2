# SPDX-License-Identifier: Apache-2.0
"""How errors of the machine are told."""

from __future__ import annotations

import errno

import pytest

from tracer.errors import LoadError, refusal


def test_error_says_what_failed_and_how_to_mend_it():
    error = LoadError("no permission", "run with sudo", "the log")
    assert str(error) == "no permission: run with sudo"
    assert error.remedy == "run with sudo"
    assert error.log == "the log"


@pytest.mark.parametrize(
    ("number", "log", "says"),
    [
        (errno.EPERM, "raise RLIMIT_MEMLOCK", "no permission to load BPF programs: run with sudo"),
        (errno.EACCES, "BEGIN PROG LOAD LOG .. processed 9 insns", "verifier rejects a program"),
        (errno.EINVAL, "", "the kernel refuses: Invalid argument: please report it"),
    ],
)
def test_what_the_kernel_answers_becomes_a_sentence(number, log, says):
    said = refusal(OSError(number, "Invalid argument"), log)
    assert says in str(said)
    assert "MEMLOCK" not in said.log
