# SPDX-License-Identifier: Apache-2.0
"""Probes inside of TLS libraries come and go under load, and the programs do not notice.

How much slower they are is for tests/bench_tls.py.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.end_to_end.test_lifecycle import all_objects, held_by
from tests.end_to_end.tls_servers import (
    TLS_PROGRAMS,
    nginx_tls,
    node_tls,
    web_servers,
)
from tests.rig import READY, WIRESPAN, running, wait_until
from tracer.tls_libraries import examine

pytestmark = [pytest.mark.kernel, pytest.mark.tls_matrix]

GROWTH_KIB = {"nginx": 8 << 10, "python": 16 << 10, "uvicorn": 16 << 10}
"""That a server may have in memory beyond what it had."""
LATE_GROWTH_KIB = 96 << 10
"""The same of Node and Go, which collect garbage late."""
WARM_UP = 1_500
"""Exchanges before memory is compared."""
PAUSE_S = 0.001
"""After each ask, for each server: the agents are to start as well."""
CODE_BYTES = 4
"""Compared at each probe; a breakpoint is no longer."""


def family(program):
    """A process and its children: nginx serves in those."""
    path = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    return [program.pid, *map(int, path.read_text().split())]


def resident_kib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def open_files(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@cache
def probed(path):
    """Where functions of a file are hooked, and which bytes are there."""
    content = {}
    with path.open("rb") as file:
        for hook in examine(path).hooks:
            file.seek(hook.offset)
            content[hook.offset] = file.read(CODE_BYTES)
    return content


def changed_code(pid):
    """Names of the files of which a process has functions that are not as they are in the file."""
    folder = Path(f"/proc/{pid}")
    changed = set()
    with (folder / "mem").open("rb", buffering=0) as memory:
        for line in (folder / "maps").read_text().splitlines():
            addresses, rights, first, _, _, *name = line.split(maxsplit=5)
            if "x" not in rights or not name or not name[0].startswith("/"):
                continue
            start, end = (int(each, 16) for each in addresses.split("-"))
            shift = start - int(first, 16)
            for offset, content in probed(Path(name[0])).items():
                if start <= offset + shift < end:
                    memory.seek(offset + shift)
                    if memory.read(CODE_BYTES) != content:
                        changed.add(name[0])
    return changed


@dataclass
class Client:
    """A running steady.py."""

    program: subprocess.Popen

    def finish(self):
        """What it says once it has asked for what it was to ask."""
        output, _ = self.program.communicate(timeout=60)
        assert self.program.returncode == 0
        return json.loads(output)


@contextmanager
def steady(tls_files, server, least, pause_s):
    command = [sys.executable, str(TLS_PROGRAMS / "steady.py"), str(server.port)]
    command += [str(tls_files.ca), str(least), str(pause_s)]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        yield Client(program)


@dataclass
class State:
    """Of a server and its children."""

    pids: list[int]
    resident_kib: int
    files: list[int]


def state_of(server):
    pids = family(server.program)
    return State(pids, sum(map(resident_kib, pids)), list(map(open_files, pids)))


def agents_come_and_go(number, flags, pids, how):
    """Start and end so many, one after the other; what each held in the kernel is gone then."""
    command = [WIRESPAN, "watch", "-o", "none", *flags]
    for _ in range(number):
        with running(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as agent:
            assert agent.stderr.readline().startswith(READY)
            held = held_by(agent.pid)
            wait_until(lambda: all(map(changed_code, pids)), "all of them are probed")
            agent.send_signal(how)
            assert agent.wait(20) == (-how if how == signal.SIGKILL else 0)
        wait_until(
            lambda held=held: not held & all_objects(), "the kernel lets go of what it has held"
        )


def have_others(pids, before):
    """Wait until the code of processes is as in their files; whether others probe them too."""
    try:
        wait_until(lambda: not any(map(changed_code, pids)), "their code is as it was")
    except AssertionError:
        if any(each[0] == "link" for each in all_objects() - before):
            return True
        raise
    return False


def check_harm(tls_files, servers, agents, exchanges, how):
    """Load all servers while agents come and go; each client makes so many exchanges or more."""
    for server in servers.values():
        with steady(tls_files, server, WARM_UP, 0) as client:
            client.finish()
    before = {name: state_of(server) for name, server in servers.items()}
    objects = all_objects()
    pids = [pid for name in servers for pid in before[name].pids[name == "nginx" :]]
    flags = [flag for server in servers.values() for flag in ("--port", str(server.port))]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(steady(tls_files, server, exchanges, PAUSE_S * len(servers)))
            for server in servers.values()
        ]
        has_others = any(map(changed_code, pids))
        agents_come_and_go(agents, flags, pids, how)
        has_others = has_others or have_others(pids, objects)
        said = dict(zip(servers, [each.finish() for each in clients], strict=True))
    for name, server in servers.items():
        print(f"{name}: {said[name]}")
        assert said[name]["wrong"] == []
        assert said[name]["asked"] >= exchanges
        assert server.program.poll() is None
        check_state(name, server, before[name])
    if "nginx" in servers:
        log = Path(servers["nginx"].program.args[-1])
        assert log.read_text() == ""
    if has_others:
        pytest.skip("another capture probes these programs: whether their code is restored is open")


def check_state(name, server, before):
    """The same processes, with the same number of files open and about as much memory."""
    wait_until(lambda: state_of(server).files == before.files, f"{name} closes its connections")
    after = state_of(server)
    assert after.pids == before.pids
    growth_kib = after.resident_kib - before.resident_kib
    print(f"{name}: {before.resident_kib:,} KiB, {growth_kib:+,} KiB")
    assert growth_kib <= GROWTH_KIB.get(name, LATE_GROWTH_KIB)


@pytest.fixture(scope="module")
def two_servers(tls_files):
    """Of one TLS is in a library, of the other in the program."""
    with nginx_tls(tls_files) as nginx, node_tls(tls_files) as node:
        yield {"nginx": nginx, "node": node}


@pytest.mark.timeout(120)
def test_ten_agents_do_no_harm(tls_files, two_servers):
    check_harm(tls_files, two_servers, 10, 5_000, signal.SIGINT)


@pytest.mark.timeout(120)
def test_agents_that_are_killed_do_no_harm(tls_files, two_servers):
    check_harm(tls_files, two_servers, 3, 1_000, signal.SIGKILL)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_to_no_kind_of_server(tls_files, tls_binaries, how):
    with web_servers(tls_files, tls_binaries) as servers:
        # OpenSSL's takes one connection at a time.
        servers.pop("openssl", None)
        check_harm(tls_files, servers, 10, 5_000, how)
