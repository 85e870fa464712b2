# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.tracer.fake_proc import MappingProc
from tracer import mappings
from tracer.mappings import Mapped, held, reach, reach_path, read_mappings, start_ticks


@pytest.fixture
def proc(tmp_path):
    return MappingProc(tmp_path / "proc")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "lib one.so"
    path.write_bytes(b"x")
    return path


def test_executable_files_are_listed_once_with_their_names(proc, file):
    (mapped,) = read_mappings(proc.add(5, file, deleted=[file]))
    found = file.stat()
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    assert mapped == Mapped("55000-55001", device, found.st_ino, str(file))


def test_memory_without_a_file_is_no_mapping(proc):
    assert read_mappings(proc.add(5)) == []


def test_process_that_is_gone_is_an_error(proc):
    with pytest.raises(OSError):
        read_mappings(proc.root / "5")


def test_file_is_reached_through_its_mapping_though_its_name_is_another_now(proc, file, tmp_path):
    folder = proc.add(5, file)
    (mapped,) = read_mappings(folder)
    moved = tmp_path / "moved"
    file.rename(moved)
    file.write_bytes(b"newer")
    link = folder / "map_files" / mapped.addresses
    link.unlink()
    link.symlink_to(moved)
    reached = reach(folder, mapped)
    assert reached.path.read_bytes() == b"x"
    assert reached.identity == reach_path(moved).identity


def test_without_map_files_the_name_is_believed_only_if_the_inode_is_the_same(proc, file, tmp_path):
    folder = proc.add(5, file, has_map_files=False)
    (mapped,) = read_mappings(folder)
    assert reach(folder, mapped).path.read_bytes() == b"x"
    other = tmp_path / "other"
    other.write_bytes(b"y")
    other.rename(file)
    assert reach(folder, mapped) is None
    file.unlink()
    assert reach(folder, mapped) is None


def test_without_map_files_a_link_is_not_followed(proc, file, tmp_path):
    """It would lead on in our own root."""
    folder = proc.add(5, file, has_map_files=False)
    (mapped,) = read_mappings(folder)
    file.rename(tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")
    assert reach(folder, mapped) is None


def test_without_map_files_the_device_has_to_be_the_same_where_maps_has_that_of_stat(
    proc, file, monkeypatch
):
    folder = proc.add(5, file, has_map_files=False)
    (mapped,) = read_mappings(folder)
    monkeypatch.setattr(mappings, "file_system", lambda path: TMPFS)
    assert reach(folder, mapped)
    mapped = mapped._replace(device="ff:7f")
    assert reach(folder, mapped) is None
    for kind in (OVERLAYFS, BTRFS):
        monkeypatch.setattr(mappings, "_kind", lambda path, found, kind=kind: kind)
        assert reach(folder, mapped)


def test_without_map_files_a_device_by_the_name_is_none(proc, file):
    folder = proc.add(5, file, has_map_files=False)
    (mapped,) = read_mappings(folder)
    null = Path("/dev/null").stat()
    device = f"{os.major(null.st_dev):02x}:{os.minor(null.st_dev):02x}"
    assert reach(folder, Mapped(mapped.addresses, device, null.st_ino, "/dev/null")) is None


def test_held_file_is_the_same_whatever_becomes_of_the_path(file, tmp_path):
    with held(reach_path(file)) as there:
        file.rename(tmp_path / "moved")
        file.write_bytes(b"newer")
        assert there.path.read_bytes() == b"x"
        assert reach_path(there.path).content == there.content


def test_other_or_changed_file_is_not_held(file, tmp_path):
    reached = reach_path(file)
    file.write_bytes(b"longer")
    with pytest.raises(OSError, match="Stale"), held(reached):
        pass
    reached = reach_path(file)
    (tmp_path / "other").write_bytes(b"longer")
    (tmp_path / "other").rename(file)
    with pytest.raises(OSError, match="Stale"), held(reached):
        pass
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(OSError, match="Stale"), held(reached):
        pass
    file.unlink()
    with pytest.raises(FileNotFoundError), held(reached):
        pass


def test_devices_and_directories_are_never_opened(tmp_path):
    assert reach_path(Path("/dev/null")) is None
    assert reach_path(tmp_path) is None


def test_two_names_of_one_file_are_one_identity_and_two_files_are_two(file, tmp_path):
    (tmp_path / "link").hardlink_to(file)
    (tmp_path / "copy").write_bytes(b"x")
    os.utime(tmp_path / "copy", ns=(0, file.stat().st_mtime_ns))
    identity = reach_path(file).identity
    assert reach_path(tmp_path / "link").identity == identity
    assert reach_path(tmp_path / "copy").identity != identity


OVERLAYFS, BTRFS, TMPFS, FUSE, EXT4 = 0x794C7630, 0x9123683E, 0x01021994, 0x65735546, 0xEF53


@pytest.fixture
def on(file, monkeypatch):
    """Reach the file as one of such a device and file system."""
    real = Path.stat

    def on(device, kind):
        def stat(path, **options):
            values = list(real(path, **options))
            values[2] = os.makedev(*device)
            return os.stat_result(values, {"st_mtime_ns": 7})

        monkeypatch.setattr(Path, "stat", stat)
        monkeypatch.setattr(mappings, "file_system", lambda path: kind)
        return reach_path(file)

    return on


def test_layer_of_containers_is_one_file_under_any_device(on):
    assert on((0, 51), OVERLAYFS).identity == on((0, 52), OVERLAYFS).identity


def test_file_of_a_layer_is_the_same_when_it_was_written_anew(on, file):
    before = on((0, 51), OVERLAYFS)
    file.write_bytes(b"longer")
    after = on((0, 51), OVERLAYFS)
    assert before.identity == after.identity
    assert before.content != after.content


@pytest.mark.parametrize("kind", [TMPFS, FUSE, BTRFS, 0])
def test_mounts_that_number_files_alike_have_files_of_their_own(on, kind):
    assert on((0, 51), kind).identity != on((0, 52), kind).identity
    assert on((0, 51), kind).identity == on((0, 51), kind).identity


def test_disks_have_files_of_their_own(on):
    assert on((8, 1), EXT4).identity != on((8, 2), EXT4).identity
    assert on((8, 1), EXT4).identity != on((0, 1), OVERLAYFS).identity


def test_file_whose_file_system_cannot_be_told_any_more_is_gone(file, monkeypatch):
    def gone(path):
        raise FileNotFoundError

    monkeypatch.setattr(mappings, "file_system", gone)
    monkeypatch.setattr(mappings.os, "major", lambda device: 0)
    assert reach_path(file) is None


def test_real_mounts_of_tmpfs_with_the_same_numbers_are_told_apart(file, tmp_path):
    folder = tmp_path / "mounted"
    folder.mkdir()
    script = 'mount -t tmpfs none "$0" && cp -p "$1" "$0/x" && echo && read line'
    command = ["unshare", "-m", "sh", "-c", script, str(folder), str(file)]
    processes = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    try:
        if any(each.stdout.readline() != b"\n" for each in processes):
            pytest.skip("file systems cannot be mounted here")
        paths = [Path(f"/proc/{each.pid}/root{folder}/x") for each in processes]
        one, two = (reach_path(each) for each in paths)
        assert paths[0].stat().st_ino == paths[1].stat().st_ino
        assert one.content == two.content
        assert one.identity != two.identity
    finally:
        for each in processes:
            each.communicate(b"\n", timeout=10)


def test_start_is_read_behind_a_name_with_parentheses(proc):
    assert start_ticks(proc.add(5, ticks=4711)) == 4711
    assert start_ticks(proc.root / "6") is None


def test_zombie_has_ended_unless_it_has_threads_that_go_on(proc):
    folder = proc.add(5, state="Z", ticks=7)
    (folder / "task" / "5").mkdir(parents=True)
    assert start_ticks(folder) is None
    (folder / "task" / "6").mkdir()
    assert start_ticks(folder) == 7


def test_real_process_that_has_ended_and_was_not_waited_for():
    process = subprocess.Popen(["true"])
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert start_ticks(Path(f"/proc/{process.pid}")) is None
        assert start_ticks(Path("/proc/self")) > 0
    finally:
        process.wait()
