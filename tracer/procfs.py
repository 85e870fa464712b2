# SPDX-License-Identifier: Apache-2.0
"""Facts of processes: /proc is read once per process, and what it said outlives the process.

A pid is reused, sometimes within seconds, and a process may be gone by the time its event
is read (curl lives for 10 ms). So the identity is pid and start time, as the kernel put it
into the event; /proc is believed only if it shows the same start before and after; and a
process that is gone is described by what the event and its neighbours in the control group
tell.

Formats: Linux Documentation/filesystems/proc.rst, proc(5).
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Final

from parsers.model import AttributeValue
from tracer import __version__, service
from tracer.clock import unix_offset_ns
from tracer.events import OpenEvent
from tracer.span import Process

MAX_PROCESSES: Final = 4096
"""Processes remembered; the one that was asked for longest ago goes first."""
MAX_CGROUPS: Final = 1024
"""Control groups remembered, for processes that were gone before they were read."""
MAX_READ_BYTES: Final = 256 * 1024
"""Of one file in /proc; a longer environment is read up to here."""
RECHECK_NS: Final = 1_000_000_000
"""How long a pid is trusted to be the same process when no event gives its start."""
COMM_BYTES: Final = 15
"""TASK_COMM_LEN without its NUL: a name this long has probably been cut."""

TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""Field 22 of /proc/PID/stat counts these."""

OWN_PREFIXES: Final = ("process.", "telemetry.")
"""What a traced program says of these does not count: they are measured."""

ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""uname's words in those of the attribute `host.arch`."""


log = logging.getLogger(__name__)


class NoProcessError(Exception):
    """There is no such process, or it ended while it was being read."""


@dataclass(slots=True)
class Known:
    """A process in the table, with what tells it from its successors."""

    process: Process
    start_ticks: int
    comm: bytes
    checked_ns: int
    """CLOCK_MONOTONIC when /proc last showed this start time."""


@dataclass(slots=True, frozen=True)
class Stat:
    """What is of interest in /proc/PID/stat."""

    comm: bytes
    start_ticks: int


class ProcessTable:
    """The processes that were seen, by pid and start time."""

    def __init__(
        self,
        *,
        root: Path = Path("/proc"),
        service_names: Mapping[str, str] | None = None,
        host: Mapping[str, AttributeValue] | None = None,
        capacity: int = MAX_PROCESSES,
    ) -> None:
        self._root = root
        self._service_names = dict(service_names or {})
        """Configured: program name -> service.name."""
        self._host = dict(host_attributes() if host is None else host)
        self._capacity = capacity
        self._known: OrderedDict[tuple[int, int], Known] = OrderedDict()
        self._newest: dict[int, Known] = {}
        """The process that a pid belongs to now, as far as is known."""
        self._groupings: OrderedDict[int, service.Grouping] = OrderedDict()
        self._counters = {
            "processes_read": 0,
            "processes_gone": 0,
            "processes_strange": 0,
            "processes_evicted": 0,
            "environments_denied": 0,
            "resource_variables_void": 0,
        }

    def lookup(self, tgid: int, opened: OpenEvent | None) -> Process:
        """Facts of process `tgid`; `opened` says which one, where a pid had several."""
        known = self._newest.get(tgid)
        if opened is None:
            if known is not None and self._still(tgid, known):
                return known.process
        else:
            ticks = opened.process_start_ns // TICK_NS
            if known is None or abs(known.start_ticks - ticks) > 1:
                known = self._known.get((tgid, ticks))
            # Another name at the same start: it has called exec, and is a new program.
            if known is not None and opened.comm in {known.comm, b""}:
                self._known.move_to_end((tgid, known.start_ticks))
                return known.process
        return self._learn(tgid, opened)

    def counters(self) -> Mapping[str, int]:
        """Totals since start by name."""
        return self._counters

    def _still(self, tgid: int, known: Known) -> bool:
        """Whether `tgid` is the process it was; one that is gone counts as the same."""
        now = time.monotonic_ns()
        if now - known.checked_ns > RECHECK_NS:
            known.checked_ns = now
            try:
                return self._stat(tgid).start_ticks == known.start_ticks
            except NoProcessError:
                pass
        return True

    def _learn(self, tgid: int, opened: OpenEvent | None) -> Process:
        try:
            known = self._read(tgid, opened)
            self._counters["processes_read"] += 1
        except NoProcessError:
            known = self._infer(tgid, opened)
            self._counters["processes_gone"] += 1
        except Exception:
            # Any program may write anything where this reads; none may end the agent so.
            log.exception("what /proc says of process %d could not be understood", tgid)
            known = self._infer(tgid, opened)
            self._counters["processes_strange"] += 1
        self._remember(tgid, known)
        return known.process

    def _remember(self, tgid: int, known: Known) -> None:
        key = (tgid, known.start_ticks)
        self._known[key] = known
        self._known.move_to_end(key)
        newest = self._newest.get(tgid)
        if newest is None or newest.start_ticks <= known.start_ticks:
            self._newest[tgid] = known
        while len(self._known) > self._capacity:
            (old_tgid, _), old = self._known.popitem(last=False)
            if self._newest.get(old_tgid) is old:
                del self._newest[old_tgid]
            self._counters["processes_evicted"] += 1

    def _read(self, tgid: int, opened: OpenEvent | None) -> Known:
        folder = self._root / str(tgid)
        before = self._stat(tgid)
        if opened is not None:
            ticks = opened.process_start_ns // TICK_NS
            if abs(before.start_ticks - ticks) > 1:
                raise NoProcessError(tgid)
        path = _link(folder / "exe").removesuffix(" (deleted)")
        argv = _strings(_content(folder / "cmdline"))
        environ = self._environ(folder)
        grouping = service.read_grouping(_text(folder / "cgroup"))
        if not grouping.container_id:
            mounted = service.mounted_container(_text(folder / "mountinfo"))
            grouping = grouping._replace(container_id=mounted)
        if self._stat(tgid).start_ticks != before.start_ticks:
            raise NoProcessError(tgid)
        if opened is not None and opened.cgroup_id:
            self._groupings[opened.cgroup_id] = grouping
            self._groupings.move_to_end(opened.cgroup_id)
            if len(self._groupings) > MAX_CGROUPS:
                self._groupings.popitem(last=False)
        comm = opened.comm if opened is not None else before.comm
        start_ns = opened.process_start_ns if opened else before.start_ticks * TICK_NS
        resource = self._resource(
            tgid,
            start_ns=start_ns,
            comm=comm,
            path="" if path.startswith("/memfd:") else path,
            argv=argv,
            environ=environ,
            grouping=grouping,
        )
        return Known(
            Process(tgid, start_ns, resource), before.start_ticks, comm, time.monotonic_ns()
        )

    def _infer(self, tgid: int, opened: OpenEvent | None) -> Known:
        """Describe a process that /proc has no longer."""
        comm = opened.comm if opened is not None else b""
        start_ns = opened.process_start_ns if opened is not None else 0
        cgroup_id = opened.cgroup_id if opened is not None else 0
        resource = self._resource(
            tgid,
            start_ns=start_ns,
            comm=comm,
            path="",
            argv=[],
            environ={},
            grouping=self._groupings.get(cgroup_id, service.Grouping()),
        )
        process = Process(tgid, start_ns, resource)
        return Known(process, start_ns // TICK_NS, comm, time.monotonic_ns())

    def _environ(self, folder: Path) -> dict[str, str]:
        """The two variables of OpenTelemetry; the others are dropped unread."""
        try:
            content = _read_bytes(folder / "environ")
        except PermissionError:
            self._counters["environments_denied"] += 1
            return {}
        except OSError:
            return {}
        environ = {}
        for variable in content.split(b"\0"):
            name, _, value = variable.partition(b"=")
            if name in {b"OTEL_SERVICE_NAME", b"OTEL_RESOURCE_ATTRIBUTES"}:
                environ[name.decode()] = value.decode(errors="replace")
        return environ

    def _resource(
        self,
        pid: int,
        *,
        start_ns: int,
        comm: bytes,
        path: str,
        argv: list[str],
        environ: Mapping[str, str],
        grouping: service.Grouping,
    ) -> dict[str, AttributeValue]:
        attributes: dict[str, str] = {}
        try:
            attributes = service.parse_resource_attributes(
                environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
            )
        except service.ResourceVariableError:
            self._counters["resource_variables_void"] += 1
        title = comm.decode(errors="replace")
        executable = PurePosixPath(path).name or title
        program = service.program_name(executable, argv, title)
        resource: dict[str, AttributeValue] = {
            "service.name": service.service_name(
                configured=self._service_names.get(program) or self._service_names.get(title, ""),
                environ=environ,
                attributes=attributes,
                unit=grouping.unit,
                program=program,
                comm=title,
            ),
            "service.instance.id": f"{self._host.get('host.name', 'localhost')}:{pid}",
        }
        resource.update(self._host)
        if grouping.container_id:
            resource["container.id"] = grouping.container_id
        if grouping.pod_uid:
            resource["k8s.pod.uid"] = grouping.pod_uid
        resource.update(
            (key, value)
            for key, value in attributes.items()
            if key != "service.name" and not key.startswith(OWN_PREFIXES)
        )
        resource["process.pid"] = pid
        if start_ns:
            resource["process.creation.time"] = _iso_time(start_ns)
        if path or (executable and len(comm) < COMM_BYTES):
            resource["process.executable.name"] = executable
        if path:
            resource["process.executable.path"] = path
        if named := service.command(executable, argv):
            resource["process.command"] = named
        resource["telemetry.sdk.name"] = "wirespan"
        resource["telemetry.sdk.language"] = "python"
        resource["telemetry.sdk.version"] = __version__
        return resource

    def _stat(self, tgid: int) -> Stat:
        content = _content(self._root / str(tgid) / "stat")
        # The name stands in parentheses and may hold any byte, a parenthesis too.
        name, _, rest = content.partition(b"(")[2].rpartition(b") ")
        fields = rest.split()
        if len(fields) < 20:
            raise NoProcessError(tgid)
        return Stat(name, int(fields[19]))  # field 22, of which 3 is the first here


def host_attributes() -> dict[str, AttributeValue]:
    """The attributes that all processes of this machine share."""
    attributes: dict[str, AttributeValue] = {"host.name": platform.node() or "localhost"}
    if machine_id := _text(Path("/etc/machine-id")).strip():
        attributes["host.id"] = machine_id
    machine = platform.machine()
    attributes["host.arch"] = ARCHITECTURES.get(machine, machine)
    attributes["os.type"] = "linux"
    return attributes


def _read_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_READ_BYTES)


def _content(path: Path) -> bytes:
    """What the file says; nothing if it is gone or forbidden, which callers must expect."""
    try:
        return _read_bytes(path)
    except OSError:
        return b""


def _text(path: Path) -> str:
    return _content(path).decode(errors="replace")


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _strings(content: bytes) -> list[str]:
    if not content:
        return []
    return [part.decode(errors="replace") for part in content.rstrip(b"\0").split(b"\0")]


def _iso_time(boottime_ns: int) -> str:
    unix_ms = (boottime_ns + unix_offset_ns()) // 1_000_000
    moment = datetime.fromtimestamp(unix_ms / 1000, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
