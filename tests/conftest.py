# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the kernel marker, Hypothesis' settings, and an end to every run."""

from __future__ import annotations

import os
import sys
import threading
from functools import cache

import pytest
from hypothesis import HealthCheck, settings

from tracer import doctor
from tracer.errors import LoadError
from tracer.host import Host

# No deadlines: the machines that run this are shared, and a slow one is no bug.
settings.register_profile("default", deadline=None, max_examples=60)
settings.register_profile(
    "fuzz",
    deadline=None,
    max_examples=20_000,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")


@cache
def why_no_kernel() -> str:
    """Why eBPF programs cannot be loaded here; empty if they can.

    Only what the machine lacks is a reason. Programs that the verifier rejects are none:
    then the tests must fail.
    """
    report = doctor.examine(trial=False)
    if not report.can_capture:
        return report.sentence()
    try:
        Host().try_capture()
    except LoadError as error:
        if "permission" in str(error):
            return f"Capture is not possible here: {error}."
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kernel") is not None and why_no_kernel():
        pytest.skip(why_no_kernel())


def threads_left() -> list[str]:
    return [
        thread.name
        for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.main_thread()
    ]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if threads_left():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name in threads_left():
        terminalreporter.write_line(f"a test left a thread behind that never ends: {name}")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Python would wait for such a thread for ever, and with it whoever waits for the tests."""
    if threads_left():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(pytest.ExitCode.TESTS_FAILED)
