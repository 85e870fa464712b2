# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tracer.fake_proc import FakeAttacher, MappingProc, examine_by_text
from tracer import discovery, tls_files
from tracer.discovery import (
    CHECK_S,
    CREDIT_S,
    LOOKS_S,
    MAX_PAUSE_S,
    RESCAN_S,
    Discovery,
    programs,
)
from tracer.tls_files import LINGER_S


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def proc(tmp_path):
    return MappingProc(tmp_path / "proc")


@pytest.fixture
def attacher():
    return FakeAttacher()


@pytest.fixture
def make(proc, attacher, clock, monkeypatch):
    monkeypatch.setattr(tls_files, "examine", examine_by_text)
    made = []

    def make(**options):
        made.append(
            Discovery(
                attacher, root=proc.root, clock=clock, **{"places": (), "own_pid": 1, **options}
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def file(tmp_path):
    def file(name, text):
        path = tmp_path / name
        path.write_text(text)
        return path

    return file


def users(found):
    return {Path(each.path).name: each.users for each in found.files()}


def later(found, clock, seconds):
    """Let time pass in steps, as the thread would."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now = min(end, clock.now + 0.5)
        found.step()


def test_processes_of_before_the_start_are_found_and_files_shared(make, proc, attacher, file):
    library, program = file("libssl", "tls"), file("program", "plain")
    proc.add(10, program, library)
    proc.add(11, program, library)
    found = make()
    found.step()
    assert users(found) == {"libssl": {10, 11}}
    assert [path for path, _ in attacher.attached] == [str(library)]


def test_own_process_and_unwanted_ones_are_left_out(make, proc, file):
    library = file("libssl", "tls")
    for pid in (1, 10, 11):
        proc.add(pid, library)
    found = make(wants=lambda pid: pid != 11)
    found.step()
    found.notice(1)
    found.notice(11)
    found.step()
    assert users(found) == {"libssl": {10}}


def test_program_is_hooked_at_the_notice_and_its_libraries_soon_after(make, proc, clock, file):
    found = make()
    found.step()
    proc.add(10, file("go", "tls go"), file("libssl", "tls"))
    found.notice(10)
    found.step()
    assert set(users(found)) == {"go"}
    clock.now += LOOKS_S[0]
    found.step()
    assert users(found) == {"go": {10}, "libssl": {10}}


def test_process_that_shows_nothing_yet_is_looked_at_again(make, proc, clock, file):
    found = make()
    found.step()
    proc.add(10)
    found.notice(10)
    later(found, clock, LOOKS_S[0])
    proc.add(10, file("libssl", "tls"))
    later(found, clock, LOOKS_S[2])
    assert users(found) == {"libssl": {10}}


def test_library_loaded_later_is_found_by_the_linkers_notice(make, proc, clock, file):
    linker, library = file("ld.so", "linker"), file("libssl", "tls")
    proc.add(10, linker)
    found = make()
    found.step()
    assert users(found) == {"ld.so": {10}}
    proc.add(10, linker, library)
    found.notice(10)
    found.step()
    clock.now += LOOKS_S[0]
    found.step()
    assert users(found)["libssl"] == {10}


def test_without_a_linker_to_tell_it_is_found_now_and_then(make, proc, clock, file):
    program, linker = file("program", "plain"), file("ld.so", "linker")
    proc.add(10, program)
    proc.add(11, linker)
    found = make()
    found.step()
    proc.add(10, program, file("libssl", "tls"))
    proc.add(11, linker, file("libother", "tls other"))
    later(found, clock, RESCAN_S - 1)
    assert set(users(found)) == {"ld.so"}
    later(found, clock, 2)
    assert users(found) == {"ld.so": {11}, "libssl": {10}}


def test_many_notices_of_one_process_are_few_looks(make, proc, clock, file, monkeypatch):
    found = make()
    found.step()
    proc.add(10, file("libssl", "tls"))
    looked = []
    real = discovery.read_mappings
    monkeypatch.setattr(
        discovery, "read_mappings", lambda folder: looked.append(folder) or real(folder)
    )
    for _ in range(500):
        found.notice(10)
    later(found, clock, 2)
    assert len(looked) == len(LOOKS_S)


def test_file_is_detached_when_all_its_processes_have_ended(make, proc, attacher, clock, file):
    library = file("libssl", "tls")
    for pid in (10, 11):
        proc.add(pid, library)
    found = make()
    found.step()
    proc.remove(10)
    later(found, clock, LINGER_S + 2 * CHECK_S)
    assert users(found) == {"libssl": {11}}
    proc.remove(11)
    later(found, clock, 2 * CHECK_S)
    assert users(found) == {"libssl": set()}
    later(found, clock, LINGER_S + 2 * CHECK_S)
    assert found.files() == []
    assert attacher.open == 0


def test_child_without_exec_that_outlives_its_parent_keeps_the_file(make, proc, clock, file):
    library = file("libssl", "tls")
    proc.add(10, library)
    found = make()
    found.step()
    proc.remove(10)
    proc.add(11, library)
    later(found, clock, LINGER_S + 2 * CHECK_S)
    assert users(found) == {"libssl": {11}}
    assert found.counters()["files_detached"] == 0


def test_pid_that_belongs_to_another_process_now_is_looked_at_anew(make, proc, clock, file):
    proc.add(10, file("libssl", "tls"), ticks=1)
    found = make()
    found.step()
    proc.add(10, file("libgnutls", "tls other"), ticks=2)
    found.notice(10)
    later(found, clock, 1)
    assert users(found) == {"libssl": set(), "libgnutls": {10}}


def test_exec_leaves_what_the_program_before_it_mapped(make, proc, clock, file):
    proc.add(10, file("libssl", "tls"))
    found = make()
    found.step()
    proc.add(10, file("libgnutls", "tls other"))
    found.notice(10)
    later(found, clock, 1)
    assert users(found) == {"libssl": set(), "libgnutls": {10}}


def test_too_many_notices_become_a_look_at_everyone(make, proc, clock, file, monkeypatch):
    monkeypatch.setattr(discovery, "MAX_NOTICES", 4)
    found = make()
    found.step()
    library = file("libssl", "tls")
    for pid in range(10, 20):
        proc.add(pid, library)
        found.notice(pid)
    assert found.counters()["notices_dropped"] == 6
    found.step()
    assert users(found)["libssl"] == set(range(10, 20))


def test_number_of_processes_is_bounded_and_counted(make, proc, file, monkeypatch):
    monkeypatch.setattr(discovery, "MAX_PROCESSES", 2)
    for pid in (10, 11, 12):
        proc.add(pid, file("libssl", "tls"))
    found = make()
    found.step()
    assert len(users(found)["libssl"]) == 2
    assert found.counters()["processes_over"] == 1


def test_unreachable_file_is_counted_and_tried_again(make, proc, file):
    library = file("libssl", "tls")
    proc.add(10, library, has_map_files=False)
    library.unlink()
    found = make()
    found.step()
    assert found.counters()["files_unreachable"] == 1
    proc.add(10, file("libssl", "tls"))
    found.notice(10)
    found._overflown = True
    found.step()
    assert users(found) == {"libssl": {10}}


def test_forbidden_process_is_counted_once(make, proc, clock, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    proc.add(10)
    monkeypatch.setattr(discovery, "read_mappings", refuse)
    found = make()
    found.step()
    later(found, clock, 2 * RESCAN_S)
    assert found.counters()["processes_denied"] == 1


def test_file_that_could_not_be_hooked_is_tried_again_though_the_linker_would_tell(
    make, proc, attacher, clock, file
):
    linker = file("ld.so", "linker")
    proc.add(10, linker)
    found = make()
    found.step()
    attacher.refuse = OSError(errno.EMFILE, "Too many open files")
    proc.add(10, linker, file("libssl", "tls"))
    found.notice(10)
    later(found, clock, 2)
    assert set(users(found)) == {"ld.so"}
    attacher.refuse = None
    later(found, clock, RESCAN_S)
    assert users(found)["libssl"] == {10}
    attempts = len(attacher.attached)
    later(found, clock, 2 * RESCAN_S)
    assert len(attacher.attached) == attempts


def test_process_that_ends_at_any_step_is_no_fault(make, proc, file, monkeypatch, caplog):
    """Whichever of its files is asked for next, it is gone."""
    library = file("libssl", "tls")
    steps = ("start_ticks", "read_mappings", "reach", "reach_path")
    for number, name in enumerate(steps, 10):
        real = getattr(discovery, name)

        def end(*arguments, number=number, real=real):
            if (proc.root / str(number)).exists() and f"/{number}" in str(arguments[0]):
                proc.remove(number)
            return real(*arguments)

        proc.add(number, library)
        with monkeypatch.context() as patch:
            patch.setattr(discovery, name, end)
            found = make()
            found.notice(number)
            found.step()
        assert not (proc.root / str(number)).exists()
        assert found.counters()["faults"] == 0
    assert "has failed" not in caplog.text


def test_file_that_loses_its_place_while_its_process_is_looked_at_is_no_fault(
    make, proc, file, monkeypatch
):
    monkeypatch.setattr(tls_files, "MAX_FILES", 1)
    proc.add(10, file("libssl", "tls"), file("libgnutls", "tls other"))
    found = make()
    found.step()
    assert found.counters()["faults"] == 0
    assert users(found) == {"libgnutls": {10}}


def test_thread_that_waits_for_a_dead_mount_is_left_with_what_it_has(
    make, proc, attacher, file, monkeypatch
):
    monkeypatch.setattr(discovery, "CLOSE_S", 0.05)
    mount, is_read = threading.Event(), threading.Event()

    def read(path, *, thorough):
        if "slow" in path.read_text():
            is_read.set()
            mount.wait(30)
        return examine_by_text(path)

    monkeypatch.setattr(tls_files, "examine", read)
    proc.add(10, file("libssl", "tls"))
    found = make()
    found.start()
    assert found.wait_ready(10)
    try:
        proc.add(11, file("remote", "tls slow"))
        found.notice(11)
        assert is_read.wait(10)
        assert not found.close()
        assert attacher.open == 1
    finally:
        mount.set()
    found._thread.join(10)
    assert found.close()
    assert attacher.open == 0


def test_places_are_hooked_in_the_thread_as_their_mount_may_be_dead(make, attacher, file, tmp_path):
    file("libssl.so.3", "tls")
    names = []
    attacher.meanwhile = lambda: names.append(threading.current_thread().name)
    found = make(places=(f"{tmp_path}/libssl.so*",))
    found.start()
    assert found.wait_ready(10)
    assert names == ["discovery"]


def test_pinned_files_and_well_known_places_stay_hooked(make, clock, file, tmp_path):
    place, other = file("libssl.so.3", "tls"), file("program", "tls other")
    found = make(places=(f"{tmp_path}/libssl.so*",))
    found._pin_all(found._places)
    found.pin(other)
    later(found, clock, 5 * LINGER_S)
    assert set(users(found)) == {place.name, other.name}


def test_prepared_program_is_hooked_with_its_interpreter_and_neighbours(
    make, file, tmp_path, monkeypatch
):
    for folder in ("bin", "lib"):
        (tmp_path / folder).mkdir()
    for name, text in {
        "bin/tool": f"#!{tmp_path}/bin/env -S runtime --flag\n",
        "bin/env": "plain",
        "bin/runtime": "tls runtime",
        "lib/libssl.so.3": "tls",
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert [path.name for path in programs("tool")] == ["tool", "runtime"]
    assert list(programs("absent")) == []
    found = make()
    found.prepare("tool")
    found.prepare("absent")
    assert set(users(found)) == {"runtime", "libssl.so.3"}
    assert all(each.pinned for each in found.files())


def test_fault_with_one_process_hides_no_others_and_is_counted(
    make, proc, file, monkeypatch, caplog
):
    real = discovery.read_mappings

    def read(folder):
        if folder.name == "10":
            raise ZeroDivisionError
        return real(folder)

    monkeypatch.setattr(discovery, "read_mappings", read)
    for pid in (10, 11, 12):
        proc.add(pid, file("libssl", "tls"))
    found = make()
    found.step()
    assert users(found) == {"libssl": {11, 12}}
    assert found.counters()["faults"] == 1
    assert "ZeroDivisionError" in caplog.text


def test_close_detaches_all_and_may_be_called_twice(make, proc, attacher, file):
    proc.add(10, file("libssl", "tls"))
    found = make()
    found.start()
    assert found.wait_ready(10)
    assert attacher.open == 1
    found.close()
    found.close()
    assert attacher.open == 0


def test_caller_waits_for_what_it_prepares_while_the_thread_runs(make, attacher, file):
    found = make()
    found.start()
    found.pin(file("libssl", "tls"))
    assert attacher.open == 1


def rests_of(found, clock, monkeypatch, spent):
    """How long the thread rests, if its steps take so long and what passes between is 0 or more."""
    rests = []
    steps = iter(spent)

    def step():
        seconds, pause = next(steps, (0, 0))
        clock.now += seconds
        found._ready.set()
        found._notices.put(lambda: setattr(clock, "now", clock.now + pause))
        if not seconds:
            found._stop.set()

    def rest(seconds):
        rests.append(pytest.approx(seconds))
        clock.now += seconds

    monkeypatch.setattr(discovery, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(found, "step", step)
    monkeypatch.setattr(found._stop, "wait", rest)
    found._run()
    return rests


def test_look_at_everyone_at_the_start_is_not_rested_from(make, clock, monkeypatch):
    assert rests_of(make(), clock, monkeypatch, [(5, 0), (0.1, 0)]) == []


def test_little_work_now_and_then_needs_no_rest(make, clock, monkeypatch):
    assert rests_of(make(), clock, monkeypatch, [(1, 0), *[(0.1, 0.3)] * 50]) == []


def test_much_work_takes_a_quarter_of_the_time(make, clock, monkeypatch):
    began = clock.now
    rests = rests_of(make(), clock, monkeypatch, [(1, 0), *[(0.1, 0)] * 100])
    assert rests[0] == 3 * 0.1 * 2 - CREDIT_S
    worked, passed = 100 * 0.1, clock.now - began - 1
    assert worked / passed == pytest.approx(0.25, rel=0.1)


def test_one_rest_is_bounded(make, clock, monkeypatch):
    assert rests_of(make(), clock, monkeypatch, [(1, 0), (100, 0)]) == [MAX_PAUSE_S]


# Real processes.


@pytest.fixture
def real(attacher, monkeypatch):
    """A discovery of the true /proc that looks at the processes it is told of."""
    wanted = set()
    found = Discovery(attacher, wants=wanted.__contains__, places=())
    found.start()
    found.wanted = wanted
    yield found
    found.close()


@pytest.fixture
def python():
    """Start Python with a program that reads a line before each step, and end it at last."""
    started = []

    def python(program):
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield python
    for process in started:
        process.kill()
        process.communicate()


def kinds(found, pid):
    return {each.library.kind for each in found.files() if pid in each.users}


def await_kinds(found, pid, wanted):
    end = time.monotonic() + 10
    while time.monotonic() < end and not wanted <= kinds(found, pid):
        time.sleep(0.005)
    return kinds(found, pid)


def libraries_of_ssl():
    """libssl and libcrypto as this Python has them mapped."""
    import ssl

    assert ssl.OPENSSL_VERSION
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if "r-xp" in line and "/" in line}
    return {
        name: Path(path)
        for name in ("libssl", "libcrypto")
        for path in paths
        if Path(path).name.startswith(name + ".") and Path(path).exists()
    }


def test_real_python_that_loads_ssl_after_its_start(real, python):
    if "libssl" not in libraries_of_ssl():
        pytest.skip("this Python has no libssl of its own file")
    process = python("input('1'); import ssl; print(flush=True); input('2')")
    process.stdout.read(1)
    real.wanted.add(process.pid)
    real.notice(process.pid)
    assert await_kinds(real, process.pid, {"linker"}) == {"linker"}
    process.stdin.write("\n")
    process.stdin.flush()
    process.stdout.readline()
    real.notice(process.pid)
    assert await_kinds(real, process.pid, {"OpenSSL"}) == {"linker", "OpenSSL"}
    process.kill()
    process.wait()
    real.notice(process.pid)
    end = time.monotonic() + 10
    while kinds(real, process.pid) and time.monotonic() < end:
        time.sleep(0.005)
    assert kinds(real, process.pid) == set()


def test_real_library_that_was_deleted_after_it_was_mapped(real, python, attacher, tmp_path):
    libraries = libraries_of_ssl()
    if set(libraries) != {"libssl", "libcrypto"}:
        pytest.skip("this Python has no libssl of its own file")
    for path in libraries.values():
        shutil.copy(path, tmp_path)
    process = python(
        "import ctypes, os, sys\n"
        f"for path in {[str(tmp_path / libraries[name].name) for name in ('libcrypto', 'libssl')]}:"
        "\n  ctypes.CDLL(path, ctypes.RTLD_GLOBAL); os.unlink(path)\n"
        "print(flush=True); input()"
    )
    process.stdout.readline()
    try:
        next(Path(f"/proc/{process.pid}/map_files").iterdir()).stat()
    except PermissionError:
        pytest.skip("map_files needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN")
    real.wanted.add(process.pid)
    real.notice(process.pid)
    assert "OpenSSL" in await_kinds(real, process.pid, {"OpenSSL"})
    (deleted,) = (each for each in real.files() if each.path.startswith(str(tmp_path)))
    assert deleted.library.kind == "OpenSSL"
    paths = [path for path, _ in attacher.attached]
    assert f"{deleted.path} (deleted)" in paths
    assert list(tmp_path.iterdir()) == []
