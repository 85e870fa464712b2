# SPDX-License-Identifier: Apache-2.0
"""`explain`: what of one process is seen."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import replace

from tracer import doctor
from tracer.diagnosis import State
from tracer.explain import explain as explain_process


def explain(arguments: Namespace) -> int:
    """Print what of a process is seen, what is not, and why.

    Raises:
        NoProcessError: there is no such process.
    """
    explanation = explain_process(arguments.pid)
    report = doctor.examine(trial=False)
    limits = [
        f"Lost here: {check.lost}. {check.remedy}"
        for check in report.checks
        if check.name == "tls" and check.state is not State.OK
    ]
    if not report.can_capture:
        limits = [report.sentence()]
    explanation = replace(explanation, notes=(*explanation.notes, *limits))
    text = explanation.json() if arguments.output == "json" else explanation.text()
    # Names may have what the terminal's encoding does not.
    encoding = sys.stdout.encoding or "ascii"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
    return 0
