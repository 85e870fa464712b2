# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracer.fake_proc import MappingProc, examine_by_text
from tracer import explain as module
from tracer.explain import (
    BITS_32,
    NO_LINKER,
    NO_MAPS,
    NO_SOCKETS,
    PROTECTED,
    SUDO,
    Explanation,
    Finding,
    Sight,
    Sockets,
    explain,
)
from tracer.procfs import NoProcessError
from tracer.tls_libraries import Call, Hook, Library, Place

LONG = "/srv/a-long-name/of-a-folder/" * 4 + "libssl-6a9b88ec.so.3"


@pytest.fixture
def proc(tmp_path):
    return MappingProc(tmp_path / "proc")


@pytest.fixture
def file(tmp_path):
    def file(name, text):
        path = tmp_path / name
        path.write_text(text)
        return path

    return file


@pytest.fixture
def look(proc, monkeypatch):
    monkeypatch.setattr(module, "examine", examine_by_text)

    def look(pid=10, **options):
        return explain(pid, root=proc.root, **options)

    return look


def test_each_file_is_told_with_what_is_seen_of_it_and_the_seen_first(look, proc, file):
    reason = "reason: it has no symbols"
    proc.add(10, file("program", reason), file("libssl", "tls"), file("ld.so", "linker"))
    told = look()
    assert [(each.sight, Path(each.path).name) for each in told.findings] == [
        (Sight.SEEN, "libssl"),
        (Sight.NOT_SEEN, "program"),
    ]
    assert told.findings[0].sentence() == "OpenSSL 3.0.0+: 1 function, by its symbols"
    assert told.findings[1].sentence() == reason
    assert told.notes == ()
    assert told.sentence() == "TLS of program(10) is seen in part."


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["plain"], "has no TLS in what it maps now"),
        (["tls"], "is seen."),
        (["reason"], "is not seen."),
        (["tls", "reason"], "is seen in part."),
    ],
)
def test_sentence_is_the_answer(look, proc, file, texts, sentence):
    proc.add(10, *(file(f"file{n}", text) for n, text in enumerate(texts)))
    assert sentence in look().sentence()


def test_version_of_libssl_is_that_of_the_libcrypto_beside_it(
    look, proc, file, tmp_path, monkeypatch
):
    paths = file("libssl-1.so", "tls"), file("libcrypto-1.so", "plain")
    proc.add(10, *paths)
    monkeypatch.setattr(module, "release_inside", lambda path: "3.0.19")
    assert look().findings[0].version == "3.0.19"
    (tmp_path / "other").mkdir()
    elsewhere = file("other/libcrypto-1.so", "plain")
    proc.add(10, paths[0], elsewhere)
    assert look().findings[0].version == "3.0.0+"


def test_file_that_cannot_be_reached_is_unknown(look, proc, file):
    library = file("libssl", "tls")
    proc.add(10, library, deleted=[library], has_map_files=False)
    library.unlink()
    told = look(is_root=False)
    assert [each.sight for each in told.findings] == [Sight.UNKNOWN]
    assert told.notes == (SUDO,)
    assert "not known" in told.sentence()


def test_memory_that_looks_like_a_file_is_nothing(look, proc):
    proc.add(10, Path("/memfd:jit"), Path("/dev/zero"))
    assert look().findings == ()


def test_process_without_a_linker_says_that_later_libraries_take_time(look, proc, file):
    proc.add(10, file("program", "plain"), file("libssl", "tls"))
    assert look().notes == (NO_LINKER,)
    proc.add(10, file("static", "plain"))
    assert look().notes == ()


def test_program_of_32_bits_is_told(look, proc, tmp_path):
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF\x01\x01")
    proc.add(10, program)
    assert BITS_32 in look().notes


def test_kernel_thread_has_no_tls(look, proc):
    proc.add(10, flags=0x00200040)
    told = look()
    assert told.is_kernel_thread
    assert "kernel thread" in told.sentence()
    assert told.sockets is None
    assert told.notes == ()


def test_what_may_not_be_read_is_said(look, proc, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    proc.add(10)
    monkeypatch.setattr(module, "read_mappings", refuse)
    monkeypatch.setattr(module, "_sockets", refuse)
    told = look(is_root=False)
    assert told.notes == (NO_MAPS, NO_SOCKETS, SUDO)
    assert "may not be looked into" in told.sentence()
    assert look(is_root=True).notes[-1] == PROTECTED


def test_process_that_is_gone_or_a_zombie_is_an_error(look, proc):
    with pytest.raises(NoProcessError, match="there is no process 99: "):
        look(99)
    folder = proc.add(10, state="Z")
    (folder / "task" / "10").mkdir(parents=True)
    with pytest.raises(NoProcessError, match="process 10 has ended"):
        look()


def test_process_that_ends_meanwhile_is_an_error(look, proc, monkeypatch):
    proc.add(10)
    monkeypatch.setattr(module, "_sockets", lambda folder: proc.remove(10))
    with pytest.raises(NoProcessError, match="while it was looked at"):
        look()


def test_sockets_are_counted_by_what_they_are(look, proc, file):
    proc.add(10, file("program", "plain"))
    proc.sockets(
        10,
        (100, "tcp", 443, "0A"),
        (101, "tcp6", 80, "0A"),
        (102, "tcp", 443, "01"),
        (103, "tcp6", 80, "01"),
        (104, "tcp", 443, "08"),
        (105, "unix", 0, ""),
    )
    sockets = look().sockets
    assert sockets == Sockets(listening=(80, 443), connections=2, others=1)
    assert sockets.sentence() == "listens on 80, 443, 2 TCP connections, 1 other"


def test_sockets_in_words():
    assert Sockets().sentence() == "none"
    assert Sockets(connections=1).sentence() == "1 TCP connection"
    assert Sockets(listening=tuple(range(1, 99))).sentence().endswith("7, 8, ...")


def test_go_is_told_by_its_returns():
    hooks = [Hook(Call.READ, Place.ENTRY, 1, True), Hook(Call.READ, Place.RETURN, 2, True)]
    library = Library("Go", "1.26", (*hooks, Hook(Call.READ, Place.RETURN, 3, True)))
    assert module._how(library.hooks) == "1 function with 2 returns, by Go's function table"


def test_text_fits_80_columns_and_json_has_everything():
    told = Explanation(
        4711,
        "shop",
        LONG,
        "0123456789abcdef" * 4,
        findings=(
            Finding(Sight.SEEN, LONG, "OpenSSL", "3.0.19", "16 functions, by its symbols"),
            Finding(Sight.NOT_SEEN, "/usr/bin/x", how="rustls 0.23.1: " + "a reason " * 20),
        ),
        sockets=Sockets((443,), 3, 2),
        notes=("something to know " * 10,),
    )
    text = told.text()
    assert max(map(len, text.splitlines())) <= 80
    assert "...folder/libssl" not in text
    assert text.count("libssl-6a9b88ec.so.3") == 2
    found = json.loads(told.json())
    assert found["findings"][0]["path"] == LONG
    assert found["findings"][1]["sight"] == "not seen"
    assert found["sentence"] == "TLS of shop(4711) is seen in part."
    assert found["sockets"] == {"listening": [443], "connections": 3, "others": 2}


def test_real_process_with_ssl_and_a_socket():
    program = (
        "import socket, ssl; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen();"
        "print(s.getsockname()[1], flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        port = int(process.stdout.readline())
        told = explain(process.pid)
    finally:
        process.communicate("\n")
    assert Path(told.executable).exists()
    assert told.sockets.listening == (port,)
    assert told.notes == () or os.geteuid() != 0
    assert {each.sight for each in told.findings} <= {Sight.SEEN, Sight.NOT_SEEN}
    with pytest.raises(NoProcessError):
        explain(process.pid)


HOSTILE = "/lib\nwirespan: all is well\x1b[2J\u202e\udcff.so"


def test_names_cannot_write_on_the_terminal_nor_into_the_next_line():
    told = Explanation(
        7,
        HOSTILE,
        executable=HOSTILE,
        container=HOSTILE,
        findings=(Finding(Sight.SEEN, HOSTILE, "OpenSSL", HOSTILE, HOSTILE),),
    )
    text = told.text()
    assert all(line.isprintable() for line in text.splitlines())
    assert not any(line.startswith("wirespan: all") for line in text.splitlines())
    assert text.count("\\x1b[2J") == 6
    line = told.json()
    assert line.isprintable()
    assert line.isascii()
    assert json.loads(line)["executable"] == HOSTILE


def test_file_that_is_another_by_now_is_not_examined(look, proc, file, monkeypatch):
    library, other = file("libssl", "tls"), file("other", "reason")
    folder = proc.add(10, library)
    real = module.reach

    def reach(*arguments):
        reached = real(*arguments)
        link = next((folder / "map_files").iterdir())
        link.unlink()
        link.symlink_to(other)
        return reached

    monkeypatch.setattr(module, "reach", reach)
    assert [each.sight for each in look().findings] == [Sight.UNKNOWN]
