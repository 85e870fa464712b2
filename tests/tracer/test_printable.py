# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.printable import printable


@given(st.text())
def test_printable_text_stays_and_the_rest_is_spelt_out(text):
    shown = printable(text)
    assert shown.isprintable()
    assert text != shown or text.isprintable()
    assert printable(text, ascii_only=True).isascii()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("a\x7fb\x9bc", "a\\x7fb\\x9bc"),
        ("ev\u202eil", "ev\\u202eil"),
        ("\udcff", "\\udcff"),
        ("é日", "é日"),
    ],
)
def test_what_a_terminal_would_obey_is_spelt_out(text, shown):
    assert printable(text) == shown
