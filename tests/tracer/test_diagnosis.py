# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

from tracer.diagnosis import Report, degraded, missing, ok

GOOD = ok("kernel", "Linux 6.1")
SLOW = degraded("clock", "the clock is slow", lost="speed", remedy="Buy another.")
NO_BTF = missing("btf", "there is no BTF", remedy="Boot a kernel that has it.")
NO_ROOT = missing("privileges", "not root", remedy="Run it with sudo.")


def test_capture_is_possible_unless_something_is_missing():
    assert Report((GOOD, SLOW)).can_capture
    assert not Report((GOOD, NO_BTF)).can_capture


def test_sentence_names_the_first_reason_and_what_to_do():
    assert Report((GOOD, NO_BTF)).sentence() == (
        "Capture is not possible here: there is no BTF. Boot a kernel that has it."
    )


def test_sentence_counts_what_it_leaves_out():
    assert Report((NO_ROOT, NO_BTF)).sentence().endswith("sudo. There is 1 more reason.")
    assert Report((NO_ROOT, NO_BTF, NO_BTF)).sentence().endswith("There are 2 more reasons.")
    assert Report((SLOW,)).sentence() == "Capture is possible here; there is 1 limit."
    assert Report((SLOW, SLOW)).sentence().endswith("there are 2 limits.")


def test_text_gives_each_check_with_loss_and_remedy():
    assert Report((GOOD, SLOW)).text() == (
        "Capture is possible here; there is 1 limit.\n"
        "\n"
        "ok        kernel       Linux 6.1\n"
        "degraded  clock        the clock is slow\n"
        "          lost         speed\n"
        "          remedy       Buy another."
    )


def test_text_fits_eighty_columns():
    long = degraded("packages", "word " * 60, lost="word " * 60, remedy="word " * 60)
    lines = Report((long,)).text().splitlines()
    assert max(map(len, lines)) <= 80
    text = " " * 23 + "word"
    assert sum(line.startswith(text) for line in lines) >= 9
    assert " ".join(" ".join(lines).split()).count("word") == 180


def test_json_is_one_line_and_says_the_same():
    text = Report((SLOW, NO_ROOT)).json()
    assert "\n" not in text
    assert json.loads(text) == {
        "can_capture": False,
        "sentence": "Capture is not possible here: not root. Run it with sudo.",
        "checks": [
            {
                "name": "clock",
                "state": "degraded",
                "finding": "the clock is slow",
                "lost": "speed",
                "remedy": "Buy another.",
            },
            {
                "name": "privileges",
                "state": "missing",
                "finding": "not root",
                "lost": "all capture",
                "remedy": "Run it with sudo.",
            },
        ],
    }
