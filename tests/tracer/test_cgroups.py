# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tracer.cgroups import NoCgroupError, resolve_cgroup, resolve_container, unified_mount

DOCKER = "3f" * 32
CONTAINERD = "ab12" * 16
PODMAN = "c0ffee00" * 8


@pytest.fixture
def mount(tmp_path):
    """A unified hierarchy with containers of several runtimes."""
    root = tmp_path / "cgroup"
    for path in (
        f"system.slice/docker-{DOCKER}.scope/init",
        "system.slice/nginx.service",
        f"kubepods.slice/kubepods-pod12345678_1234.slice/cri-containerd-{CONTAINERD}.scope",
        f"machine.slice/libpod-{PODMAN}.scope/container",
        f"machine.slice/libpod-conmon-{PODMAN}.scope",
        "docker/" + "5a5a5a5a" * 8,
    ):
        (root / path).mkdir(parents=True)
    return root


@pytest.fixture
def proc(tmp_path):
    """/proc of a machine with cgroup v1: processes by pid, with the paths of their groups."""
    root = tmp_path / "proc"

    def add(pid, *paths):
        (root / str(pid)).mkdir(parents=True)
        lines = [f"{number}:cpu{number}:{path}" for number, path in enumerate(paths, 1)]
        (root / str(pid) / "cgroup").write_text("\n".join(lines) + "\n")

    root.mkdir()
    (root / "self").mkdir()
    (root / "999").mkdir()
    return root, add


def mounts(tmp_path, *lines):
    path = tmp_path / "mounts"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_mount_is_found_on_unified_and_on_hybrid_hosts(tmp_path):
    unified = mounts(tmp_path, "proc /proc proc rw 0 0", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0")
    assert str(unified_mount(unified)) == "/sys/fs/cgroup"
    hybrid = mounts(
        tmp_path,
        "tmpfs /sys/fs/cgroup tmpfs rw 0 0",
        "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0",
        "cgroup2 /sys/fs/cgroup/my\\040unified cgroup2 rw 0 0",
    )
    assert str(unified_mount(hybrid)) == "/sys/fs/cgroup/my unified"
    assert unified_mount(mounts(tmp_path, "proc /proc proc rw 0 0")) is None


@pytest.mark.parametrize("path", ["system.slice/nginx.service", "/system.slice/nginx.service"])
def test_group_by_its_path_in_the_hierarchy(mount, path):
    assert resolve_cgroup(path, mount) == mount / "system.slice/nginx.service"


def test_group_by_its_path_in_the_file_system(mount):
    path = mount / "system.slice"
    assert resolve_cgroup(str(path), mount) == path


@pytest.mark.parametrize("path", ["nowhere.slice", "/etc", "../..", "system.slice/../../.."])
def test_what_is_no_group_is_refused_with_a_remedy(mount, path):
    with pytest.raises(NoCgroupError, match=r"there is no control group .*systemd-cgls"):
        resolve_cgroup(path, mount)


def test_group_where_there_is_no_hierarchy(monkeypatch):
    monkeypatch.setattr("tracer.cgroups.unified_mount", lambda: None)
    with pytest.raises(NoCgroupError, match=r"cgroup v2 is not mounted here.*--pid"):
        resolve_cgroup("system.slice")


@pytest.mark.parametrize("chars", [8, 12, 64])
@pytest.mark.parametrize(
    ("container", "expected"),
    [
        (DOCKER, f"system.slice/docker-{DOCKER}.scope"),
        (
            CONTAINERD,
            f"kubepods.slice/kubepods-pod12345678_1234.slice/cri-containerd-{CONTAINERD}.scope",
        ),
        (PODMAN, f"machine.slice/libpod-{PODMAN}.scope"),
        ("5a5a5a5a" * 8, "docker/" + "5a5a5a5a" * 8),
    ],
)
def test_container_by_the_beginning_of_its_id(mount, container, chars, expected):
    assert resolve_container(container[:chars], mount) == ([mount / expected], [])


def test_middle_of_an_id_is_not_the_beginning_of_one(mount, proc):
    root, _ = proc
    with pytest.raises(NoCgroupError, match="no container here"):
        resolve_container("12" + "ab12" * 3, mount, root)


def test_ambiguous_beginning_names_the_candidates(mount):
    (mount / f"docker/{DOCKER[:10] + '0' * 54}").mkdir()
    with pytest.raises(NoCgroupError, match=r"2 containers .*begins with 3f3f3f3f: 3f3f.*, 3f3f"):
        resolve_container("3f3f3f3f", mount)
    found, _ = resolve_container(DOCKER[:12], mount)
    assert found == [mount / f"system.slice/docker-{DOCKER}.scope"]


@pytest.mark.parametrize("container", ["", "my-nginx", "3f3f3f3", DOCKER + "0", "3F3F3F3F3F3F"])
def test_what_is_no_id_is_told_where_ids_are_printed(mount, container):
    with pytest.raises(NoCgroupError, match=r"is no container id.*docker ps"):
        resolve_container(container, mount)


def test_container_without_a_unified_group_is_its_processes(mount, proc):
    root, add = proc
    other = "deadbeef" * 8
    add(10, f"/docker/{other}")
    add(12, "/", f"/system.slice/docker-{other}.scope/init")
    add(13, f"/docker/{'0' * 64}")
    assert resolve_container(other[:12], mount, root) == ([], [10, 12])


def test_processes_of_two_containers_are_ambiguous_too(mount, proc):
    root, add = proc
    add(10, "/docker/" + "deadbeef" * 8)
    add(11, "/docker/" + "deadbeef" + "0" * 56)
    with pytest.raises(NoCgroupError, match="2 containers"):
        resolve_container("deadbeef", mount, root)


def test_unknown_container_is_a_sentence(mount, proc):
    root, _ = proc
    with pytest.raises(NoCgroupError, match="no container here has an id that begins with 0bad"):
        resolve_container("0bad0bad", mount, root)
