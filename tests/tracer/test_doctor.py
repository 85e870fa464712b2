# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tracer import doctor
from tracer.diagnosis import State
from tracer.doctor import USES
from tracer.errors import LoadError
from tracer.host import CAPABILITIES, INITIAL_NAMESPACES, Host
from tracer.objects import NoObjectError

HOOKS = (
    "btf_trace_sock_send_length",
    "btf_trace_sock_recv_length",
    "btf_trace_sys_exit",
    "btf_trace_inet_sock_set_state",
    "bpf_iter_task_file",
    "BPF_MAP_TYPE_RINGBUF",
)


class Machine:
    """A folder that looks like the / of a machine where everything is as it should be."""

    def __init__(self, root):
        self.root = root
        self.options = {
            "machine": "x86_64",
            "libbpf_version": lambda: (1, 1),
            "find_object": self.object,
            "package_version": lambda name: "1.0",
            "try_capture": list,
        }
        self.write("proc/sys/kernel/osrelease", "6.12.1-amd64\n")
        self.write("proc/sys/net/core/bpf_jit_enable", "1\n")
        self.write("proc/self/mounts", "proc /proc proc rw 0 0\nx /sys/fs/cgroup cgroup2 rw 0 0\n")
        self.write("sys/bus/event_source/devices/uprobe/type", "9\n")
        self.write("sys/kernel/security/lockdown", "[none] integrity confidentiality\n")
        self.write("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n")
        self.capabilities(*CAPABILITIES)
        self.hooks(*HOOKS)
        for kind, inode in INITIAL_NAMESPACES.items():
            self.namespace(kind, inode)

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def object(self, machine):
        path = self.root / f"wirespan.bpf.{machine}.o"
        path.write_bytes(bytes(2048))
        return path

    def capabilities(self, *names):
        bits = sum(1 << CAPABILITIES[name] for name in names)
        self.write(
            "proc/self/status", f"Name:\tx\nCapPrm:\t{2**41 - 1:016x}\nCapEff:\t{bits:016x}\n"
        )

    def hooks(self, *names):
        self.write("sys/kernel/btf/vmlinux", "\0" + "\0".join(names) + "\0")

    def namespace(self, kind, inode):
        link = self.root / f"proc/self/ns/{kind}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(f"{kind}:[{inode}]")

    def examine(self):
        return doctor.examine(Host(root=self.root, **self.options))

    def troubles(self):
        return {c.name: c for c in self.examine().checks if c.state is not State.OK}


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_good_machine_has_no_troubles(machine):
    report = machine.examine()
    assert machine.troubles() == {}
    assert report.can_capture
    assert report.sentence() == "Capture is possible here."


@pytest.mark.parametrize("release", ["5.10.0-30-amd64", "5.14.21", "4.19.0", "5.4"])
def test_kernel_below_the_floor_cannot_capture(machine, release):
    machine.write("proc/sys/kernel/osrelease", release)
    assert machine.troubles()["kernel"].state is State.MISSING
    assert "5.15" in machine.examine().sentence()


@pytest.mark.parametrize("release", ["5.15.0-91-generic", "6.1.0", "10.0.0-rc1", "6.18.44-fc-v657"])
def test_kernel_from_the_floor_on_is_good(machine, release):
    machine.write("proc/sys/kernel/osrelease", release)
    assert "kernel" not in machine.troubles()


def test_other_systems_are_told_so(machine):
    (machine.root / "proc/sys/kernel/osrelease").unlink()
    assert "not Linux" in machine.examine().sentence()


def test_no_btf_cannot_capture_and_hooks_are_not_guessed(machine):
    (machine.root / "sys/kernel/btf/vmlinux").unlink()
    assert "CONFIG_DEBUG_INFO_BTF" in machine.troubles()["btf"].remedy
    assert set(machine.troubles()) == {"btf"}


def test_kernel_without_socket_tracepoints_captures_at_syscall_exit(machine):
    machine.hooks(*(name for name in HOOKS if "length" not in name))
    trouble = machine.troubles()["payload"]
    assert trouble.state is State.DEGRADED
    assert "6.3" in trouble.remedy
    assert machine.examine().can_capture


def test_kernel_without_any_payload_source_cannot_capture(machine):
    machine.hooks(*(n for n in HOOKS if not n.startswith(("btf_trace_sock", "btf_trace_sys"))))
    assert machine.troubles()["payload"].state is State.MISSING


def test_name_inside_another_is_no_hook(machine):
    machine.hooks(*(f"{name}_x" for name in HOOKS))
    assert set(machine.troubles()) == {"payload", "lifecycle", "iterators", "ring buffer"}


@pytest.mark.parametrize(
    ("held", "state"),
    [
        ((), State.MISSING),
        (("CAP_BPF", *USES), State.MISSING),
        (("CAP_PERFMON", *USES), State.MISSING),
        (("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_DAC_READ_SEARCH"), State.DEGRADED),
        (("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_SYS_PTRACE"), State.DEGRADED),
        (("CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"), State.DEGRADED),
        (("CAP_SYS_ADMIN",), State.DEGRADED),
        (("CAP_BPF", "CAP_PERFMON", *USES), None),
        (("CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"), None),
    ],
)
def test_privileges_are_the_effective_ones(machine, held, state):
    machine.capabilities(*held)
    trouble = machine.troubles().get("privileges")
    assert (trouble and trouble.state) is state
    assert state is None or "sudo" in trouble.remedy


def test_container_without_privileges_is_told_how_to_start_it(machine):
    machine.capabilities()
    machine.namespace("pid", 4026532001)
    assert "--privileged --pid=host" in machine.examine().sentence()


def test_root_of_a_user_namespace_is_not_privileged(machine):
    machine.namespace("user", 4026532000)
    assert machine.troubles()["privileges"].state is State.MISSING


def test_kernel_without_uprobes_loses_what_goes_through_tls(machine):
    (machine.root / "sys/bus/event_source/devices/uprobe/type").unlink()
    assert "CONFIG_UPROBE_EVENTS" in machine.troubles()["tls"].remedy
    assert machine.examine().can_capture


def test_without_the_privilege_for_map_files_deleted_libraries_are_lost(machine):
    machine.capabilities(*(CAPABILITIES.keys() - {"CAP_CHECKPOINT_RESTORE", "CAP_SYS_ADMIN"}))
    assert "deleted or replaced" in machine.troubles()["tls"].lost
    assert "CAP_CHECKPOINT_RESTORE" in machine.troubles()["tls"].remedy
    machine.capabilities(*(CAPABILITIES.keys() - {"CAP_CHECKPOINT_RESTORE"}))
    assert machine.troubles() == {}


def test_lockdown_forbids_capture_only_for_confidentiality(machine):
    machine.write("sys/kernel/security/lockdown", "none [integrity] confidentiality")
    assert machine.examine().can_capture
    machine.write("sys/kernel/security/lockdown", "none integrity [confidentiality]")
    assert machine.troubles()["lockdown"].state is State.MISSING


def test_old_or_absent_libbpf_names_the_package(machine):
    machine.options["libbpf_version"] = lambda: (0, 8)
    assert "0.8 is older" in machine.troubles()["libbpf"].finding
    assert "libbpf1" in machine.troubles()["libbpf"].remedy

    def absent():
        raise LoadError("libbpf.so.1 cannot be loaded", "install it")

    machine.options["libbpf_version"] = absent
    assert machine.troubles()["libbpf"].finding == "libbpf.so.1 cannot be loaded"
    assert not machine.examine().can_capture


def test_missing_object_says_how_to_get_it(machine):
    def absent(machine):
        raise NoObjectError("There is none. Build it.")

    machine.options["find_object"] = absent
    assert machine.troubles()["object"].finding == "There is none"
    assert machine.troubles()["object"].remedy == "Build it."


def test_refusal_that_only_the_kernel_knows_of_is_told(machine):
    def refuse():
        raise LoadError("no permission to load BPF programs", "run with sudo")

    machine.options["try_capture"] = refuse
    assert machine.examine().sentence() == (
        "Capture is not possible here: no permission to load BPF programs. Run with sudo."
    )


def test_hooks_that_do_not_attach_are_a_limit(machine):
    machine.options["try_capture"] = lambda: ["datagrams carry no sender"]
    assert machine.troubles()["trial"].lost == "datagrams carry no sender"
    assert machine.examine().can_capture


def test_nothing_is_tried_where_it_cannot_succeed_or_is_not_asked_for(machine):
    tried = []
    machine.options["try_capture"] = lambda: tried.append(1) or []
    doctor.examine(Host(root=machine.root, **machine.options), trial=False)
    machine.capabilities()
    machine.examine()
    assert tried == []


def test_interpreted_programs_and_slow_clocks_are_told(machine):
    machine.write("proc/sys/net/core/bpf_jit_enable", "0")
    machine.write("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet")
    assert set(machine.troubles()) == {"jit", "clock"}
    assert machine.examine().can_capture


def test_container_is_told_what_it_cannot_see(machine):
    machine.namespace("pid", 4026532001)
    machine.namespace("time", 4026532002)
    assert "--pid=host" in machine.troubles()["processes"].remedy
    assert set(machine.troubles()) == {"processes", "clock"}


def test_kernel_without_time_namespaces_has_the_right_clock(machine):
    (machine.root / "proc/self/ns/time").unlink()
    assert machine.troubles() == {}


@pytest.mark.parametrize("option", ["hidepid=2", "hidepid=invisible", "hidepid=1"])
def test_hidden_processes_matter_only_without_the_privilege(machine, option):
    machine.write("proc/self/mounts", f"proc /proc proc rw,{option} 0 0\nx /c cgroup2 rw 0 0\n")
    assert machine.troubles() == {}
    machine.capabilities("CAP_BPF", "CAP_PERFMON")
    assert option in machine.troubles()["processes"].finding


def test_cgroup_version_1_loses_a_filter(machine):
    machine.write(
        "proc/self/mounts", "proc /proc proc rw 0 0\nx /sys/fs/cgroup/cpu cgroup rw 0 0\n"
    )
    assert "--cgroup" in machine.troubles()["cgroup v2"].lost


def test_absent_packages_are_told_one_by_one(machine):
    machine.options["package_version"] = {"grpcio": "1", "opentelemetry-sdk": "1"}.get
    lost = [c.lost for c in machine.examine().checks if c.name == "packages" and c.lost]
    assert lost == ["OTLP over HTTP", "replaying pcap and pcapng files"]
    assert machine.examine().sentence() == "Capture is possible here; there are 2 limits."


def test_nothing_readable_at_all_still_gives_a_report(tmp_path):
    report = doctor.examine(Host(root=tmp_path / "nowhere", package_version=lambda name: None))
    assert not report.can_capture


@pytest.mark.kernel
def test_real_kernel_takes_the_programs():
    (trial,) = (check for check in doctor.examine().checks if check.name == "trial")
    assert trial.state is not State.MISSING


def test_real_machine_gives_a_report():
    report = doctor.examine(trial=False)
    assert {"kernel", "privileges", "libbpf", "object"} <= {check.name for check in report.checks}
