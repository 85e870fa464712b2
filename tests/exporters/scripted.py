# SPDX-License-Identifier: Apache-2.0
"""A backend without a network, whose time passes only in calls and pauses."""

from __future__ import annotations

from exporters.transport import ACCEPTED, Answer, Transport, Verdict

BUSY = Answer(Verdict.RETRY, "HTTP 503")
BAD = Answer(Verdict.REFUSED, "HTTP 400", "no such field", remedy="Mend it.")
LARGE = Answer(Verdict.TOO_LARGE, "HTTP 413")


class Backend(Transport):
    """Gives the answers it was told, then accepts."""

    def __init__(self, *answers, call_s=0.0):
        self.answers = list(answers)
        self.call_s = call_s
        self.now = 1000.0
        self.pauses = []
        self.bodies = []
        self.timeouts = []

    def send(self, body, timeout_s):
        self.bodies.append(body)
        self.timeouts.append(timeout_s)
        self.now += min(self.call_s, timeout_s)
        answer = self.answers.pop(0) if self.answers else ACCEPTED
        if isinstance(answer, Exception):
            raise answer
        return answer

    def pause(self, pause_s, asked):
        self.pauses.append((pause_s, asked))
        self.now += pause_s

    def abort(self):
        pass

    def close(self):
        pass
