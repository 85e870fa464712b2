# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import pytest

from tracer.readings import MEASURES, reading

NAME = re.compile(r"^(wirespan|process)(\.[a-z][a-z_]*)+$")
UNIT = re.compile(r"^(s|By|\{[a-z_]+\})$")


@pytest.mark.parametrize("name", MEASURES)
def test_names_units_and_meanings_are_as_the_conventions_ask(name):
    kind, unit, description, attributes = MEASURES[name]
    assert NAME.match(name)
    assert UNIT.match(unit)
    assert kind in {"counter", "gauge"}
    assert description[0].isupper()
    assert not description.endswith(".")
    assert list(attributes) == sorted(set(attributes))


def test_no_two_names_become_one_where_dots_are_underscores():
    assert len({name.replace(".", "_") for name in MEASURES}) == len(MEASURES)


def test_reading_has_what_the_table_says_of_its_name():
    found = reading("process.cpu.time", 1.5, ("cpu.mode", "user"))
    kind, unit, description, _ = MEASURES["process.cpu.time"]
    assert found == ("process.cpu.time", kind, unit, description, 1.5, (("cpu.mode", "user"),))


def test_name_that_is_not_in_the_table_cannot_be_given():
    with pytest.raises(KeyError):
        reading("wirespan.other", 1)
