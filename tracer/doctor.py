# SPDX-License-Identifier: Apache-2.0
"""What this kernel, these privileges and these packages allow; what is lost; how to mend it.

Every check reads what a capture would need, and none changes anything. The kernel's own
type information tells which hooks it has, so versions only explain and do not decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from tracer.diagnosis import Check, Report, degraded, missing, ok
from tracer.errors import LoadError
from tracer.host import CAPABILITIES, Host
from tracer.objects import NoObjectError

FLOOR: Final = (5, 15)
"""The oldest kernel that has all that the kernel half calls (bpf_task_pt_regs)."""
LIBBPF_FLOOR: Final = (1, 0)
MAX_BTF_BYTES: Final = 64 << 20
"""Of a kernel's type information; a big one has 10 MiB."""

PROC_MOUNT: Final = ("/proc", "proc")
SLOW_CLOCKS: Final = frozenset({"acpi_pm", "hpet", "jiffies", "refined-jiffies"})

GRANT: Final = (
    "Run it with sudo, or as a service with AmbientCapabilities="
    "CAP_BPF CAP_PERFMON CAP_NET_ADMIN CAP_SYS_PTRACE CAP_DAC_READ_SEARCH CAP_CHECKPOINT_RESTORE."
)
GRANT_CONTAINER: Final = (
    "Run the container with --privileged --pid=host; in Kubernetes, privileged and hostPID."
)
USES: Final[Mapping[str, str]] = {
    "CAP_SYS_PTRACE": "executable and OTEL_SERVICE_NAME of other users' processes, whose service "
    "is then called by the thread's name",
    "CAP_DAC_READ_SEARCH": "OTEL_SERVICE_NAME of other users' processes, unless root asks",
    "CAP_NET_ADMIN": "who sent a datagram, on a socket that receives from many",
}
"""Privileges that capture works without, and what each is for."""


def examine(host: Host | None = None, *, trial: bool = True) -> Report:
    """Check all. The trial takes about a second, everything else some 10 ms."""
    host = host or Host()
    btf, btf_check = _read_btf(host)
    checks = [
        _kernel(host),
        btf_check,
        *(_hooks(btf) if btf else ()),
        _privileges(host),
        _tls(host),
        _lockdown(host),
        _libbpf(host),
        _object(host),
        _jit(host),
        _clock(host),
        _proc(host),
        _cgroup(host),
        *_packages(host),
    ]
    report = Report(tuple(checks))
    if trial and report.can_capture:
        return Report((*_trial(host), *checks))
    return report


def _trial(host: Host) -> Iterator[Check]:
    """What only the kernel can tell: seccomp and security modules may say no as well."""
    try:
        limits = host.try_capture()
    except LoadError as error:
        remedy = error.remedy[:1].upper() + error.remedy[1:]
        yield missing("trial", str(error).removesuffix(f": {error.remedy}"), remedy=f"{remedy}.")
        return
    if not limits:
        yield ok("trial", "the programs load and attach")
    for limit in limits:
        yield degraded("trial", "the programs load, and not all attach", lost=limit)


def _kernel(host: Host) -> Check:
    release = host.read("proc/sys/kernel/osrelease")
    finding = f"Linux {release} on {host.machine}"
    numbers = release.split("-")[0].split(".")
    version = tuple(int(part) for part in numbers[:2] if part.isdigit())
    if not release:
        return missing(
            "kernel",
            "this is not Linux, or /proc is not mounted",
            remedy="Replay recordings here, and capture on a Linux machine.",
        )
    if version < FLOOR:
        return missing(
            "kernel",
            f"{finding} is older than {'.'.join(map(str, FLOOR))}",
            lost="all capture: the helpers that find a call's buffers are not there",
            remedy="Boot a newer kernel; Debian 12 has 6.1, Ubuntu 22.04 has 5.15.",
        )
    return ok("kernel", finding)


def _read_btf(host: Host) -> tuple[bytes, Check]:
    """The kernel's type information and what is to say of it."""
    path = host.root / "sys/kernel/btf/vmlinux"
    try:
        with path.open("rb") as file:
            btf = file.read(MAX_BTF_BYTES)
    except PermissionError:
        finding, remedy = "the kernel's type information (BTF) may not be read", "Run it with sudo."
    except OSError:
        finding = "the kernel carries no type information: no /sys/kernel/btf/vmlinux"
        remedy = (
            "Boot a kernel with CONFIG_DEBUG_INFO_BTF, as distributions ship them. "
            "In a container, mount the host's /sys."
        )
    else:
        size = f"{len(btf) / 2**20:.1f} MiB"
        return btf, ok("btf", f"type information, {size}")
    return b"", missing(
        "btf",
        finding,
        lost="all capture: the compiled programs cannot be fitted to this kernel",
        remedy=remedy,
    )


def _hooks(btf: bytes) -> Iterator[Check]:
    def has(*names: str) -> bool:
        return all(b"\0" + name.encode() + b"\0" in btf for name in names)

    sockets = has("btf_trace_sock_send_length", "btf_trace_sock_recv_length")
    calls = has("btf_trace_sys_exit")
    if sockets:
        finding = "socket tracepoints" + (", and syscall exit as the second" if calls else "")
        yield ok("payload", finding)
    elif calls:
        yield degraded(
            "payload",
            "syscall exit; there are no socket tracepoints",
            lost="some speed: a hook runs on every system call of the machine, and what "
            "io_uring moves is not counted",
            remedy="Boot Linux 6.3 or newer.",
        )
    else:
        yield missing(
            "payload",
            "the kernel has neither socket tracepoints nor syscall exit",
            remedy="Boot a kernel with CONFIG_FTRACE_SYSCALLS, as distributions ship them.",
        )
    if has("btf_trace_inet_sock_set_state"):
        yield ok("lifecycle", "connects, resets and closes of TCP")
    else:
        yield degraded(
            "lifecycle",
            "the tracepoint of TCP's states is not there",
            lost="resets and closes: an exchange that they end shows as unanswered, and later",
        )
    if has("bpf_iter_task_file"):
        yield ok("iterators", "sockets older than wirespan")
    else:
        yield degraded(
            "iterators",
            "the kernel cannot list its sockets to BPF",
            lost="the role of connections older than wirespan, until their bytes tell it",
            remedy="Start wirespan before the programs that it watches.",
        )
    if has("BPF_MAP_TYPE_RINGBUF"):
        yield ok("ring buffer", "one queue for all processors")
    else:
        yield missing(
            "ring buffer",
            "the kernel has no BPF ring buffer",
            remedy="Boot Linux 5.15 or newer.",
        )


def _may(host: Host, name: str) -> bool:
    """Whether the privilege is held, or the one that includes it."""
    implied = name in {"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_CHECKPOINT_RESTORE"}
    return host.has_capability(name) or (implied and host.has_capability("CAP_SYS_ADMIN"))


def _privileges(host: Host) -> Check:
    lacking = [name for name in ("CAP_BPF", "CAP_PERFMON") if not _may(host, name)]
    if lacking:
        return missing(
            "privileges",
            f"this process lacks {' and '.join(lacking)}",
            lost="all capture: the kernel lets only the privileged watch it",
            remedy=GRANT if host.is_initial("pid") else GRANT_CONTAINER,
        )
    if not host.is_initial("user"):
        return missing(
            "privileges",
            "this is a user namespace, whose capabilities the kernel does not accept",
            remedy="Run it outside of the rootless container, or in a privileged one.",
        )
    losses = {name: lost for name, lost in USES.items() if not _may(host, name)}
    if losses:
        return degraded(
            "privileges",
            f"this process lacks {', '.join(losses)}",
            lost="; ".join(losses.values()),
            remedy=GRANT,
        )
    held = [name for name in CAPABILITIES if host.has_capability(name)]
    return ok("privileges", ", ".join(held))


def _tls(host: Host) -> Check:
    """Plaintext is read by uprobes in the files that processes map."""
    if not host.read("sys/bus/event_source/devices/uprobe/type"):
        return degraded(
            "tls",
            "the kernel has no uprobes",
            lost="what is sent and received through TLS",
            remedy="Boot a kernel with CONFIG_UPROBE_EVENTS, as distributions ship them. "
            "In a container, mount the host's /sys.",
        )
    if not _may(host, "CAP_CHECKPOINT_RESTORE"):
        return degraded(
            "tls",
            "uprobes; this process lacks CAP_CHECKPOINT_RESTORE",
            lost="TLS of processes whose library was deleted or replaced since they started, "
            "as by an update",
            remedy=GRANT,
        )
    return ok("tls", "uprobes, in deleted libraries too")


def _lockdown(host: Host) -> Check:
    modes = host.read("sys/kernel/security/lockdown").split()
    mode = next((mode.strip("[]") for mode in modes if mode.startswith("[")), "")
    if mode == "confidentiality":
        return missing(
            "lockdown",
            "the kernel is locked down in confidentiality mode",
            lost="all capture: BPF may not read memory",
            remedy="Boot with lockdown=integrity, or none.",
        )
    return ok("lockdown", mode or "none")


def _libbpf(host: Host) -> Check:
    remedy = "Install libbpf 1.0 or newer; on Debian and Ubuntu: apt-get install libbpf1."
    try:
        version = host.libbpf_version()
    except LoadError as error:
        finding = str(error).removesuffix(f": {error.remedy}")
        return missing("libbpf", finding, remedy=remedy)
    text = ".".join(map(str, version))
    if tuple(version) < LIBBPF_FLOOR:
        return missing("libbpf", f"libbpf {text} is older than 1.0", remedy=remedy)
    return ok("libbpf", f"libbpf {text}")


def _object(host: Host) -> Check:
    try:
        path = host.find_object(host.machine)
        size = path.stat().st_size
    except (NoObjectError, OSError) as error:
        finding, _, remedy = str(error).partition(". ")
        return missing("object", finding.rstrip("."), remedy=remedy)
    return ok("object", f"{path.name}, {size / 1024:.0f} KiB")


def _jit(host: Host) -> Check:
    if host.read("proc/sys/net/core/bpf_jit_enable") == "0":
        return degraded(
            "jit",
            "BPF programs are interpreted",
            lost="speed: every hook costs several times as much",
            remedy="sysctl net.core.bpf_jit_enable=1",
        )
    return ok("jit", "BPF programs run compiled")


def _clock(host: Host) -> Check:
    source = host.read("sys/devices/system/clocksource/clocksource0/current_clocksource")
    if not host.is_initial("time"):
        return degraded(
            "clock",
            "this is a time namespace, whose boot time is not the kernel's",
            lost="right times of spans, and the facts of processes",
            remedy="Run it outside of the time namespace.",
        )
    if source in SLOW_CLOCKS:
        return degraded(
            "clock",
            f"the clock source is {source}",
            lost="speed: reading it takes about a microsecond, once an event",
            remedy="Look in dmesg for why the kernel does not trust tsc.",
        )
    return ok("clock", source or "unknown source")


def _proc(host: Host) -> Check:
    if not host.is_initial("pid"):
        return degraded(
            "processes",
            "this is a container: /proc does not show the host's processes",
            lost="executable, container and OTEL_SERVICE_NAME of processes outside of it",
            remedy="Share the host's pid namespace: docker run --pid=host; in Kubernetes, hostPID.",
        )
    options = [options for point, kind, options in host.mounts() if (point, kind) == PROC_MOUNT]
    hidden = [
        option
        for option in (options[-1].split(",") if options else ())
        if option.startswith("hidepid=") and option not in {"hidepid=0", "hidepid=off"}
    ]
    if hidden and not host.has_capability("CAP_SYS_PTRACE"):
        return degraded(
            "processes",
            f"/proc hides other users' processes ({hidden[0]})",
            lost="their executable, container and OTEL_SERVICE_NAME",
            remedy=GRANT,
        )
    return ok("processes", "/proc shows the host's")


def _cgroup(host: Host) -> Check:
    for point, kind, _ in host.mounts():
        if kind == "cgroup2":
            return ok("cgroup v2", f"mounted on {point}")
    return degraded(
        "cgroup v2",
        "control groups of version 2 are not mounted",
        lost="the filter by container or unit (--cgroup), and who sent a datagram",
        remedy="mount -t cgroup2 none /sys/fs/cgroup/unified",
    )


OPTIONAL_PACKAGES: Final[Mapping[str, tuple[str, str]]] = {
    "opentelemetry-sdk": ("sending spans to a collector", "pip install wirespan"),
    "opentelemetry-exporter-otlp-proto-http": (
        "OTLP over HTTP",
        "pip install opentelemetry-exporter-otlp",
    ),
    "grpcio": ("OTLP over gRPC", "pip install opentelemetry-exporter-otlp"),
    "scapy": ("replaying pcap and pcapng files", "pip install 'wirespan[pcap]'"),
}
"""Distribution -> what it is for, and what installs it."""


def _packages(host: Host) -> Iterator[Check]:
    found = []
    for package, (purpose, remedy) in OPTIONAL_PACKAGES.items():
        version = host.package_version(package)
        if version is not None:
            found.append(f"{package} {version}")
            continue
        yield degraded(
            "packages",
            f"{package} is not installed",
            lost=purpose,
            remedy=remedy,
        )
    if found:
        yield ok("packages", ", ".join(found))
