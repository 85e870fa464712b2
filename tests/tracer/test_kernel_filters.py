# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from tracer import kernel_filters
from tracer.capture import Settings
from tracer.errors import LoadError
from tracer.kernel_filters import add_pids, fill_filters, is_traced

FDS = Path("/proc/self/fd")


class Maps:
    """Stands for the object: a map's descriptor is its name."""

    def __init__(self, monkeypatch):
        self.written = {}
        monkeypatch.setattr(kernel_filters.libbpf, "map_update", self.update)
        monkeypatch.setattr(kernel_filters.libbpf, "map_lookup", self.lookup)

    def map_fd(self, name):
        return name

    def update(self, name, key, value):
        if name == "cgroups":
            # The map takes a descriptor that is open now.
            value = str(Path(f"/proc/self/fd/{int.from_bytes(value, 'little')}").readlink())
        self.written.setdefault(name, {})[key] = value

    def lookup(self, name, key, size):
        return self.written.get(name, {}).get(key)


@pytest.fixture
def maps(monkeypatch):
    return Maps(monkeypatch)


def test_keys_are_laid_out_as_the_kernel_compares_them(maps, tmp_path):
    settings = Settings(
        pids=(258,), comms=("nginx", "a-name-of-20-letters"), ports=(443,), cgroups=(tmp_path,)
    )
    fill_filters(maps, settings)
    assert maps.written == {
        "pids": {b"\x02\x01\0\0": b"\1"},
        "comms": {b"nginx".ljust(16, b"\0"): b"\1", b"a-name-of-20-le\0": b"\1"},
        "ports": {b"\xbb\x01": b"\1"},
        "cgroups": {b"\0\0\0\0": str(tmp_path)},
    }


def test_descriptors_of_control_groups_are_closed_again(maps, tmp_path):
    before = len(list(FDS.iterdir()))
    fill_filters(maps, Settings(cgroups=(tmp_path, tmp_path)))
    assert len(list(FDS.iterdir())) == before


def test_control_group_that_is_not_there_is_named(maps):
    with pytest.raises(LoadError, match="/nowhere"):
        fill_filters(maps, Settings(cgroups=(Path("/nowhere"),)))


def test_process_is_traced_once_it_was_added(maps):
    add_pids(maps, [7])
    assert is_traced(maps, 7)
    assert not is_traced(maps, 8)
