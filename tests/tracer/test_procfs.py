# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tracer import events
from tracer.procfs import MAX_READ_BYTES, TICK_NS, ProcessTable

ID = "0123456789abcdef" * 4
HOST = {"host.name": "box", "os.type": "linux"}


def opened(tgid, ticks, *, comm=b"nginx", cgroup_id=0):
    return events.OpenEvent(
        role=2,
        transport=1,
        flags=0,
        tgid=tgid,
        cookie=1,
        timestamp_ns=0,
        process_start_ns=ticks * TICK_NS + 123,
        cgroup_id=cgroup_id,
        netns=0,
        egress_position=0,
        ingress_position=0,
        local_port=80,
        remote_port=1,
        local=bytes(16),
        remote=bytes(16),
        comm=comm,
        path=b"",
    )


class FakeProc:
    """A folder that looks like /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(
        self,
        pid,
        *,
        ticks=1000,
        comm="nginx",
        exe="/usr/sbin/nginx",
        cmdline=b"nginx: worker process\0",
        environ=b"",
        cgroup="0::/\n",
    ):
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        middle = " ".join(str(n) for n in range(4, 22))
        (folder / "stat").write_text(f"{pid} ({comm}) S {middle} {ticks} 0 0\n")
        (folder / "exe").unlink(missing_ok=True)
        (folder / "exe").symlink_to(exe)
        (folder / "cmdline").write_bytes(cmdline)
        (folder / "environ").write_bytes(environ)
        (folder / "cgroup").write_text(cgroup)
        return folder

    def remove(self, pid):
        for file in (self.root / str(pid)).iterdir():
            file.unlink()
        (self.root / str(pid)).rmdir()


@pytest.fixture
def proc(tmp_path):
    return FakeProc(tmp_path)


@pytest.fixture
def table(proc):
    return ProcessTable(root=proc.root, host=HOST)


def test_process_is_described_by_the_conventions_keys(proc, table):
    proc.add(
        7,
        environ=b"PATH=/bin\0OTEL_RESOURCE_ATTRIBUTES=service.version=2,team=a%2Cb\0",
        cgroup=f"0::/system.slice/docker-{ID}.scope\n",
    )
    process = table.lookup(7, opened(7, 1000))
    created = process.resource["process.creation.time"]
    assert created.endswith("Z")
    assert process.pid == 7
    assert process.start_ns == 1000 * TICK_NS + 123
    assert {k: v for k, v in process.resource.items() if not k.startswith("telemetry.")} == {
        "service.name": "nginx",
        "service.instance.id": "box:7",
        "service.version": "2",
        "team": "a,b",
        "host.name": "box",
        "os.type": "linux",
        "container.id": ID,
        "process.pid": 7,
        "process.creation.time": created,
        "process.executable.name": "nginx",
        "process.executable.path": "/usr/sbin/nginx",
        "process.command": "nginx:",
    }
    assert process.resource["telemetry.sdk.name"] == "wirespan"
    assert process.resource["telemetry.sdk.language"] == "python"


def test_no_other_variable_and_no_argument_leaks(proc, table):
    proc.add(
        7,
        exe="/usr/bin/python3.11",
        cmdline=b"python3\0/srv/shop.py\0--password\0hunter2\0",
        environ=b"SECRET=hunter2\0OTEL_EXPORTER_OTLP_HEADERS=hunter2\0OTEL_SERVICE_NAME_X=hunter2\0",
    )
    process = table.lookup(7, None)
    assert process.service_name == "shop"
    assert "hunter2" not in repr(process)


def test_target_names_itself_and_its_instance(proc, table):
    proc.add(
        7,
        environ=b"OTEL_SERVICE_NAME=cart\0"
        b"OTEL_RESOURCE_ATTRIBUTES=service.name=no,service.instance.id=i-1,host.name=vm\0",
    )
    resource = table.lookup(7, None).resource
    assert resource["service.name"] == "cart"
    assert resource["service.instance.id"] == "i-1"
    assert resource["host.name"] == "vm"


def test_target_cannot_lie_about_what_is_measured(proc, table):
    proc.add(
        7, environ=b"OTEL_RESOURCE_ATTRIBUTES=process.pid=1,telemetry.sdk.name=opentelemetry\0"
    )
    resource = table.lookup(7, None).resource
    assert resource["process.pid"] == 7
    assert resource["telemetry.sdk.name"] == "wirespan"


def test_bad_resource_variable_is_void_and_counted(proc, table):
    proc.add(7, environ=b"OTEL_RESOURCE_ATTRIBUTES=service.name=shop,broken\0")
    assert table.lookup(7, None).service_name == "nginx"
    assert table.counters()["resource_variables_void"] == 1


def test_configured_name_wins(proc):
    proc.add(7, environ=b"OTEL_SERVICE_NAME=cart\0")
    table = ProcessTable(root=proc.root, host=HOST, service_names={"nginx": "edge"})
    assert table.lookup(7, None).service_name == "edge"


def test_configured_name_is_looked_up_by_comm_too(proc):
    proc.add(7, comm="edge-proxy", cmdline=b"edge-proxy\0")
    table = ProcessTable(root=proc.root, host=HOST, service_names={"edge-proxy": "edge"})
    assert table.lookup(7, None).service_name == "edge"


def test_process_that_cannot_be_understood_is_described_by_its_event(proc, monkeypatch, caplog):
    def fail(*_):
        raise IndexError

    proc.add(7)
    monkeypatch.setattr(ProcessTable, "_read", fail)
    table = ProcessTable(root=proc.root, host=HOST)
    assert table.lookup(7, opened(7, 1000)).pid == 7
    assert table.counters()["processes_strange"] == 1
    assert "process 7 could not be understood" in caplog.text


def test_one_process_is_one_object_and_is_read_once(proc, table):
    proc.add(7)
    first = table.lookup(7, opened(7, 1000))
    assert table.lookup(7, opened(7, 1000)) is first
    assert table.lookup(7, None) is first
    assert table.counters()["processes_read"] == 1


def test_start_off_by_one_tick_is_the_same_process(proc, table):
    proc.add(7)
    assert table.lookup(7, opened(7, 1001)) is table.lookup(7, opened(7, 999))
    assert table.counters()["processes_read"] == 1


def test_facts_outlive_the_process(proc, table):
    proc.add(7)
    first = table.lookup(7, opened(7, 1000))
    proc.remove(7)
    assert table.lookup(7, opened(7, 1000)) is first
    assert table.lookup(7, None) is first


def test_reused_pid_is_another_process(proc, table):
    proc.add(7)
    first = table.lookup(7, opened(7, 1000))
    proc.add(7, ticks=2000, exe="/usr/bin/redis-server", cmdline=b"redis-server\0")
    second = table.lookup(7, opened(7, 2000, comm=b"redis-server"))
    assert second.service_name == "redis-server"
    assert table.lookup(7, opened(7, 1000)) is first
    assert table.lookup(7, None) is second


def test_reused_pid_is_noticed_without_an_event(proc, table, monkeypatch):
    proc.add(7)
    table.lookup(7, None)
    proc.add(7, ticks=2000, exe="/usr/bin/redis-server", cmdline=b"redis-server\0")
    later = time.monotonic_ns() + 2_000_000_000
    monkeypatch.setattr(time, "monotonic_ns", lambda: later)
    assert table.lookup(7, None).service_name == "redis-server"


def test_successor_of_a_process_that_is_gone_does_not_lend_its_name(proc, table):
    proc.add(7, ticks=2000, exe="/usr/bin/redis-server", environ=b"OTEL_SERVICE_NAME=cache\0")
    process = table.lookup(7, opened(7, 1000, comm=b"curl"))
    assert process.service_name == "curl"
    assert "process.executable.path" not in process.resource
    assert table.counters()["processes_gone"] == 1


def test_process_replaced_while_it_is_read_does_not_lend_its_name(proc, table, monkeypatch):
    proc.add(7)
    real = table._environ

    def replace(folder):
        proc.add(7, ticks=2000, environ=b"OTEL_SERVICE_NAME=successor\0")
        return real(folder)

    monkeypatch.setattr(table, "_environ", replace)
    process = table.lookup(7, opened(7, 1000, comm=b"curl"))
    assert process.service_name == "curl"
    assert table.counters()["processes_gone"] == 1


def test_exec_makes_another_program_of_the_same_process(proc, table):
    proc.add(7, comm="sh", exe="/bin/dash", cmdline=b"sh\0")
    assert table.lookup(7, opened(7, 1000, comm=b"sh")).service_name == "sh"
    proc.add(7)
    served = table.lookup(7, opened(7, 1000, comm=b"nginx"))
    assert served.service_name == "nginx"
    assert table.lookup(7, None) is served


def test_event_without_a_name_means_the_process_that_is_known(proc, table):
    proc.add(7)
    first = table.lookup(7, opened(7, 1000))
    assert table.lookup(7, opened(7, 1000, comm=b"")) is first


def test_process_gone_before_it_was_read_is_called_by_its_comm(table):
    process = table.lookup(9, opened(9, 5, comm=b"curl"))
    assert process.service_name == "curl"
    assert process.resource["process.executable.name"] == "curl"
    assert table.lookup(9, opened(9, 5, comm=b"curl")) is process


def test_comm_that_may_be_cut_is_no_executable_name(table):
    process = table.lookup(9, opened(9, 5, comm=b"a-very-long-nam"))
    assert process.service_name == "a-very-long-nam"
    assert "process.executable.name" not in process.resource


def test_neighbours_in_the_control_group_tell_of_one_that_is_gone(proc, table):
    proc.add(7, cgroup=f"0::/docker/{ID}\n")
    proc.add(8, cgroup="0::/system.slice/shop.service\n")
    table.lookup(7, opened(7, 1000, cgroup_id=4242))
    table.lookup(8, opened(8, 1000, cgroup_id=4343))
    assert table.lookup(9, opened(9, 1000, cgroup_id=4242)).resource["container.id"] == ID
    assert table.lookup(10, opened(10, 1000, comm=b"x", cgroup_id=4343)).service_name == "shop"


def test_nothing_known_at_all_still_gives_a_process(table):
    assert table.lookup(9, None).service_name == "unknown_service:unknown"


def test_deleted_executable_keeps_its_name(proc, table):
    proc.add(7, exe="/usr/sbin/nginx (deleted)")
    assert table.lookup(7, None).resource["process.executable.path"] == "/usr/sbin/nginx"


def test_executable_in_memory_is_called_by_its_comm(proc, table):
    proc.add(7, comm="runner", exe="/memfd:x (deleted)", cmdline=b"")
    process = table.lookup(7, opened(7, 1000, comm=b"runner"))
    assert process.service_name == "runner"
    assert "process.executable.path" not in process.resource


def test_comm_with_parentheses_does_not_confuse_the_start_time(proc, table):
    proc.add(7, comm="a) S 1 (b")
    process = table.lookup(7, None)
    assert process.start_ns == 1000 * TICK_NS
    assert table.counters()["processes_read"] == 1


def test_names_that_are_not_utf8_do_not_fail(proc, table):
    proc.add(7, cmdline=b"\xff\0", environ=b"OTEL_SERVICE_NAME=\xff\0\xff=\xff\0")
    assert table.lookup(7, opened(7, 1000, comm=b"\xff")).service_name == "�"


def test_environment_is_read_up_to_a_bound(proc, table):
    proc.add(7, environ=b"X=" + b"x" * MAX_READ_BYTES + b"\0OTEL_SERVICE_NAME=far\0")
    assert table.lookup(7, None).service_name == "nginx"


def test_forbidden_environment_is_counted(proc, table, monkeypatch):
    proc.add(7)
    real = Path.open

    def forbid(self, *args, **kwargs):
        if self.name == "environ":
            raise PermissionError(13, "no", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", forbid)
    assert table.lookup(7, None).service_name == "nginx"
    assert table.counters()["environments_denied"] == 1


def test_table_is_bounded_and_forgets_the_oldest(proc):
    table = ProcessTable(root=proc.root, host=HOST, capacity=3)
    for pid in range(1, 11):
        table.lookup(pid, opened(pid, 5))
    assert len(table._known) == 3
    assert len(table._newest) == 3
    assert table.counters()["processes_evicted"] == 7
    assert set(table._newest) == {8, 9, 10}


def test_real_child_is_described(tmp_path):
    script = tmp_path / "orders.py"
    script.write_text("import sys; print(flush=True); sys.stdin.read()\n")
    child = subprocess.Popen(
        [sys.executable, str(script), "hunter2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OTEL_RESOURCE_ATTRIBUTES": "service.namespace=shop"},
    )
    with child:
        child.stdout.readline()
        process = ProcessTable().lookup(child.pid, None)
        child.stdin.close()
    assert process.service_name == "orders"
    assert process.resource["service.namespace"] == "shop"
    assert process.resource["process.pid"] == child.pid
    age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - process.start_ns
    assert 0 <= age_ns < 60_000_000_000
    assert "hunter2" not in repr(process)
