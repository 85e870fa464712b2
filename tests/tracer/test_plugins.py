# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from tracer import plugins
from tracer.plugins import ExporterError, exporter_names, make_exporter


class Good:
    def __init__(self, options):
        self.options = options

    @classmethod
    def from_options(cls, options):
        return cls(options)


class Picky:
    @classmethod
    def from_options(cls, options):
        raise ValueError("color: 'pink' is none of auto, always, never")


class Broken:
    @classmethod
    def from_options(cls, options):
        return {}["nowhere"]


class Headless:
    """Has no from_options."""


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    here = __name__
    classes = ["Good", "Picky", "Broken", "Headless", "Missing"]
    points = [EntryPoint(each.lower(), f"{here}:{each}", plugins.GROUP) for each in classes]
    points.append(EntryPoint("absent", "no_such_package_of_ours:Thing", plugins.GROUP))

    def entry_points(group, name=None):
        assert group == "wirespan.exporters"
        return [point for point in points if name in {None, point.name}]

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    monkeypatch.setitem(
        __import__("sys").modules,
        here,
        __import__("types").SimpleNamespace(
            Good=Good, Picky=Picky, Broken=Broken, Headless=Headless
        ),
    )


def test_exporter_is_made_from_its_options():
    exporter = make_exporter("good", {"a": "b"})
    assert isinstance(exporter, Good)
    assert exporter.options == {"a": "b"}


def test_names_are_sorted():
    assert exporter_names() == ["absent", "broken", "good", "headless", "missing", "picky"]


def test_unknown_exporter_is_told_what_is_installed():
    with pytest.raises(ExporterError, match="no exporter is called nonsense: installed are absent"):
        make_exporter("nonsense", {})


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("picky", "exporter picky: color: 'pink' is none of auto, always, never"),
        ("absent", "exporter absent: No module named 'no_such_package_of_ours'"),
        ("broken", r"exporter broken \(.*:Broken\) has failed: KeyError: 'nowhere'"),
        ("headless", r"exporter headless \(.*\) has failed: AttributeError: .*from_options"),
        ("missing", r"exporter missing \(.*:Missing\) has failed: AttributeError"),
    ],
)
def test_exporter_that_cannot_be_had_is_a_sentence(name, sentence):
    with pytest.raises(ExporterError, match=f"^{sentence}"):
        make_exporter(name, {})
