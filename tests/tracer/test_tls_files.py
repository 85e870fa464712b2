# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from tests.tracer.fake_proc import FakeAttacher, examine_by_text
from tracer import tls_files
from tracer.errors import LoadError
from tracer.mappings import reach_path
from tracer.tls_files import LINGER_S, MAX_FILES, TlsFiles

NOBODY = frozenset()


@pytest.fixture
def attacher():
    return FakeAttacher()


@pytest.fixture
def files(attacher, monkeypatch):
    monkeypatch.setattr(tls_files, "examine", examine_by_text)
    return TlsFiles(attacher)


@pytest.fixture
def library(tmp_path):
    path = tmp_path / "libany.so"
    path.write_text("tls")
    return path


def see(files, path):
    return files.see(reach_path(path), str(path))


def test_file_is_attached_once_whoever_leads_to_it(files, attacher, library, tmp_path):
    (tmp_path / "other").hardlink_to(library)
    assert see(files, library)
    assert see(files, tmp_path / "other")
    assert [path for path, _ in attacher.attached] == [str(library)]
    assert files.counters["files_attached"] == 1


def test_file_without_hooks_is_examined_once_and_not_attached(files, attacher, tmp_path):
    path = tmp_path / "plain"
    path.write_text("no such thing")
    assert not see(files, path)
    path.chmod(0o755)
    examined = examine_by_text.calls
    assert not see(files, path)
    assert examine_by_text.calls == examined
    assert attacher.attached == []


def test_file_is_detached_a_while_after_its_last_process(files, attacher, library):
    see(files, library)
    used = frozenset({reach_path(library).identity})
    files.use(1, NOBODY, used)
    files.use(2, NOBODY, used)
    files.use(1, used, NOBODY)
    assert files.idle(0) == []
    files.use(2, used, NOBODY)
    assert files.idle(100) == []
    assert files.idle(100 + LINGER_S - 1) == []
    (identity,) = files.idle(100 + LINGER_S)
    files.detach(identity)
    assert attacher.open == 0
    assert files.listed() == []
    assert files.counters["files_detached"] == 1


def test_process_that_comes_back_in_time_keeps_it(files, library):
    see(files, library)
    used = frozenset({reach_path(library).identity})
    files.idle(0)
    files.use(1, NOBODY, used)
    files.use(1, used, NOBODY)
    assert files.idle(LINGER_S) == []
    assert files.idle(2 * LINGER_S)


def test_pinned_file_stays(files, library):
    files.pin(reach_path(library), "x")
    files.idle(0)
    assert files.idle(1000) == []


def test_file_written_anew_in_place_is_examined_and_attached_anew(files, attacher, library):
    see(files, library)
    library.write_text("tls and more")
    assert see(files, library)
    assert attacher.open == 1
    assert len(attacher.attached) == 2
    assert files.counters["files_detached"] == 1
    library.write_text("no longer")
    assert not see(files, library)
    assert attacher.open == 0


def test_users_of_a_file_written_anew_stay(files, library):
    files.pin(reach_path(library), "x")
    files.use(7, NOBODY, frozenset({reach_path(library).identity}))
    library.write_text("tls and more")
    see(files, library)
    (file,) = files.listed()
    assert (file.users, file.pinned) == ({7}, True)


def test_refusal_is_told_once_with_the_remedy_and_ends_nothing(files, attacher, library, caplog):
    attacher.refuse = OSError(errno.EPERM, "Operation not permitted")
    with caplog.at_level(logging.WARNING):
        assert see(files, library)
        assert see(files, library)
        files.detach(reach_path(library).identity)
        assert see(files, library)
    (record,) = caplog.records
    assert str(library) in record.getMessage()
    assert "Operation not permitted; run with sudo" in record.getMessage()
    assert files.listed()[0].error == "Operation not permitted"
    assert files.counters["failed"] == 2
    assert files.counters["files_attached"] == files.counters["files_detached"] == 0


def test_refusal_that_brings_its_own_remedy(files, attacher, library, caplog):
    attacher.refuse = LoadError("the kernel has no uprobes", "boot another")
    see(files, library)
    assert files.listed()[0].error == "the kernel has no uprobes: boot another"


def test_file_that_is_gone_before_it_is_attached_may_come_again(files, attacher, library):
    attacher.refuse = FileNotFoundError(errno.ENOENT, "No such file")
    assert not see(files, library)
    assert files.listed() == []
    assert files.counters["failed"] == 0
    attacher.refuse = None
    assert see(files, library)


def test_file_whose_process_has_ended_is_attached_by_its_name(files, attacher, library, tmp_path):
    link = tmp_path / "exe"
    link.symlink_to(library)
    reached = reach_path(link)
    link.unlink()
    assert files.see(reached, str(library))
    assert attacher.attached[-1][0] == str(library)
    files.detach(reached.identity)
    library.unlink()
    assert files.see(reached, str(library)) is None


def test_path_that_leads_to_another_file_meanwhile_is_not_followed(files, attacher, tmp_path):
    """A process has mapped something else there, or called exec."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("tls one")
    two.write_text("tls two")
    link = tmp_path / "exe"
    link.symlink_to(one)
    reached = reach_path(link)
    link.unlink()
    link.symlink_to(two)
    assert files.see(reached, "x") is None
    assert attacher.attached == []


def test_file_is_attached_that_was_examined_though_the_path_leads_elsewhere(
    files, attacher, library, tmp_path, monkeypatch
):
    link = tmp_path / "exe"
    link.symlink_to(library)
    other = tmp_path / "libc"
    other.write_text("nothing of the kind")

    def examine(path, *, thorough):
        link.unlink()
        link.symlink_to(other)
        return examine_by_text(path)

    monkeypatch.setattr(tls_files, "examine", examine)
    assert see(files, link)
    assert [path for path, _ in attacher.attached] == [str(library)]


def test_file_that_is_changed_while_it_is_attached_is_detached_at_once(files, attacher, library):
    attacher.meanwhile = lambda: library.write_text("tls, but elsewhere in it")
    assert see(files, library) is None
    assert attacher.open == 0
    assert files.listed() == []
    attacher.meanwhile = lambda: None
    assert see(files, library)
    assert attacher.open == 1


def test_file_that_is_known_and_unchanged_is_not_opened(files, library, tmp_path, monkeypatch):
    plain = tmp_path / "plain"
    plain.write_text("no such thing")
    see(files, library)
    see(files, plain)

    def refuse(reached):
        raise AssertionError("opened")

    monkeypatch.setattr(tls_files, "held", refuse)
    assert see(files, library)
    assert not see(files, plain)


def test_descriptors_are_closed(files, library, tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    see(files, library)
    (tmp_path / "plain").write_text("no such thing")
    see(files, tmp_path / "plain")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_want_of_descriptors_is_not_remembered(files, attacher, library, caplog, number):
    attacher.refuse = OSError(number, "Too many open files")
    assert see(files, library) is None
    assert see(files, library) is None
    assert files.listed() == []
    assert len(caplog.records) == 1
    assert files.counters["postponed"] == 2
    attacher.refuse = None
    assert see(files, library)


def test_end_of_the_capture_is_no_refusal(files, attacher, library, caplog):
    attacher.refuse = OSError(errno.ESHUTDOWN, "ended")
    assert see(files, library) is None
    assert caplog.records == []


def test_file_with_too_many_places_is_not_hooked_and_says_why(
    files, attacher, library, caplog, monkeypatch
):
    monkeypatch.setattr(tls_files, "MAX_HOOKS", 0)
    with caplog.at_level(logging.INFO):
        assert see(files, library) is False
        examined = examine_by_text.calls
        assert see(files, library) is False
    assert examine_by_text.calls == examined
    assert "1 places would have to be hooked, more than 0" in caplog.text
    assert attacher.attached == []


def test_unreadable_file_is_tried_again(files, library, monkeypatch):
    def refuse(path, *, thorough):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tls_files, "examine", refuse)
    assert not see(files, library)
    monkeypatch.setattr(tls_files, "examine", examine_by_text)
    assert see(files, library)


@pytest.fixture
def three(files, tmp_path, monkeypatch):
    """Three files, and room for two of them."""
    monkeypatch.setattr(tls_files, "MAX_FILES", 2)
    paths = [tmp_path / name for name in ("one", "two", "three")]
    for path in paths:
        path.write_text(f"tls {path.name}")
    return paths


def names(files):
    return [Path(each.path).name for each in files.listed()]


def used(files, path, *tgids):
    for tgid in tgids:
        files.use(tgid, NOBODY, frozenset({reach_path(path).identity}))


def test_file_that_the_fewest_use_makes_room_and_is_counted(files, attacher, three):
    one, two, other = three
    see(files, one)
    used(files, one, 1, 2)
    see(files, two)
    used(files, two, 3)
    assert see(files, other)
    assert names(files) == ["one", "three"]
    assert attacher.open == 2
    assert files.counters["files_over"] == 1


def test_file_that_is_idle_longest_makes_room(files, three):
    one, two, other = three
    for path in (one, two):
        see(files, path)
    used(files, one, 1)
    files.idle(10)
    files.use(1, frozenset({reach_path(one).identity}), NOBODY)
    files.idle(20)
    see(files, other)
    assert names(files) == ["one", "three"]


def test_pinned_files_make_no_room(files, attacher, three):
    for path in three[:2]:
        files.pin(reach_path(path), str(path))
    assert see(files, three[2]) is False
    assert names(files) == ["one", "two"]
    assert attacher.open == 2
    assert files.counters["files_over"] == 1


def test_number_of_verdicts_is_bounded_and_counted(files, library, tmp_path, monkeypatch):
    monkeypatch.setattr(tls_files, "MAX_VERDICTS", 1)
    other = tmp_path / "other"
    other.write_text("tls too")
    see(files, library)
    see(files, other)
    assert files.counters["verdicts_evicted"] == 1
    assert see(files, library)
    assert MAX_FILES > 1


def test_linker_is_known_as_such(files, library, tmp_path):
    linker = tmp_path / "ld.so"
    linker.write_text("linker")
    see(files, library)
    see(files, linker)
    assert not files.are_linked(frozenset({reach_path(library).identity}))
    assert files.are_linked(frozenset({reach_path(linker).identity, (os.getpid(), 0)}))


def test_probes_that_cannot_be_taken_away_are_told_and_forgotten(files, attacher, library, caplog):
    see(files, library)
    attacher.stuck = OSError(errno.EIO, "Input/output error")
    files.close()
    assert "not taken away" in caplog.text
    assert files.listed() == []
