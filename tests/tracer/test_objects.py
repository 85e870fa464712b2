# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tracer import objects


@pytest.fixture
def folders(tmp_path, monkeypatch):
    packaged, built = tmp_path / "packaged", tmp_path / "built"
    packaged.mkdir()
    built.mkdir()
    monkeypatch.setattr(objects, "PACKAGED", packaged)
    monkeypatch.setattr(objects, "BUILT", built)
    return packaged, built


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        ("x86_64", "wirespan.bpf.x86_64.o"),
        ("aarch64", "wirespan.bpf.aarch64.o"),
        ("arm64", "wirespan.bpf.aarch64.o"),
    ],
)
def test_object_is_found_where_make_leaves_it(folders, machine, name):
    (folders[1] / name).touch()
    assert objects.object_path(machine) == folders[1] / name


def test_object_of_the_wheel_comes_first(folders):
    for folder in folders:
        (folder / "wirespan.bpf.x86_64.o").touch()
    assert objects.object_path("x86_64").parent == folders[0]


def test_missing_object_says_how_to_get_it(folders):
    with pytest.raises(objects.NoObjectError, match=r"make bpf.*clang"):
        objects.object_path("x86_64")


def test_machine_without_an_object_is_named(folders):
    with pytest.raises(objects.NoObjectError, match="riscv64"):
        objects.object_path("riscv64")
