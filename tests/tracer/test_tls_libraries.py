# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import os
import re
import shutil
import struct
import time
from pathlib import Path

import pytest

from tracer import tls_libraries
from tracer.elf import MAX_SEGMENTS, ElfError, ElfTooMuchError, Section
from tracer.go_binary import GoFunction
from tracer.openssl_internals import WriteInternal
from tracer.tls_libraries import GO, OPENSSL, Call, Hook, Library, Place, examine, release_inside

ENTRY, RETURN = Place.ENTRY, Place.RETURN
LABEL = b"c ap traffic\0"


class FakeElf:
    """An executable file with these functions and this data."""

    machine = "x86_64"

    def __init__(self, functions=(), data=b"", strings=b""):
        names = (
            functions
            if isinstance(functions, dict)
            else {name: 64 + n for n, name in enumerate(functions)}
        )
        self.all_functions = names
        self.data = strings + data
        self.strings = strings
        self.size = len(self.data)
        self.searched = 0

    def __call__(self, path, **options):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def functions(self, names):
        return {name: at for name, at in self.all_functions.items() if name in names}

    def address_of(self, offset):
        return None  # it has no code

    def section(self, *names):
        is_there = self.strings and {".dynstr", ".gnu.version_d"} & set(names)
        return Section(0, 0, len(self.strings)) if is_there else None

    def read(self, offset, size):
        return self.data[offset : offset + size]

    def contains(self, text, *areas):
        self.searched += not areas
        return text in (self.strings if areas else self.data)

    def search(self, pattern):
        self.searched += 1
        return pattern.search(self.data)


@pytest.fixture
def look(monkeypatch):
    """Examine a file with these functions and this data."""

    def look(functions=(), data=b"", strings=b"", *, go=None, go_table=None, **options):
        elf = FakeElf(functions, data, strings)
        elf.machine = options.pop("machine", "x86_64")
        monkeypatch.setattr(tls_libraries, "Elf", elf)
        monkeypatch.setattr(tls_libraries, "go_version", lambda elf: go)
        monkeypatch.setattr(tls_libraries, "go_functions", lambda elf, names: go_table or {})
        library = examine(Path("x"), **options)
        look.elf = elf
        return library

    return look


def test_functions_that_exist_are_hooked_and_no_others(look):
    library = look({"SSL_read": 100, "SSL_write": 200, "SSL_set_fd": 300, "SSL_peek": 400})
    assert library.kind == "OpenSSL"
    assert library.hooks == (
        Hook(Call.READ, ENTRY, 100),
        Hook(Call.READ, RETURN, 100),
        Hook(Call.WRITE, ENTRY, 200),
        Hook(Call.WRITE, RETURN, 200),
        Hook(Call.SET_FD, ENTRY, 300),
    )


def test_functions_inside_of_the_public_ones_are_hooked_instead_of_them(look, monkeypatch):
    names = {name: 64 * n for n, name in enumerate(OPENSSL, 1)}
    monkeypatch.setattr(tls_libraries, "read_internal", lambda elf, functions: 7)
    inner = WriteInternal(9, has_flags=False)
    monkeypatch.setattr(tls_libraries, "write_internal", lambda elf, functions: inner)
    hooks = look(names).hooks
    data = {Call.READ, Call.WRITE, Call.READ_EX, Call.WRITE_EX, Call.WRITE_EX2}
    assert [hook for hook in hooks if hook.call in data] == [
        Hook(Call.READ_EX, ENTRY, 7),
        Hook(Call.READ_EX, RETURN, 7),
        Hook(Call.WRITE_EX, ENTRY, 9),
        Hook(Call.WRITE_EX, RETURN, 9),
    ]
    assert len({hook.offset for hook in hooks}) == len(OPENSSL) - 5 + 2
    monkeypatch.setattr(
        tls_libraries, "write_internal", lambda elf, functions: WriteInternal(9, has_flags=True)
    )
    assert Hook(Call.WRITE_EX2, RETURN, 9) in look(names).hooks


def test_each_side_goes_back_to_its_public_functions(look, monkeypatch):
    monkeypatch.setattr(tls_libraries, "read_internal", lambda elf, functions: 7)
    entries = {hook.call: hook.offset for hook in look(OPENSSL).hooks if hook.place is ENTRY}
    assert entries[Call.READ_EX] == 7
    assert Call.READ not in entries
    assert {Call.WRITE, Call.WRITE_EX, Call.WRITE_EX2} <= entries.keys()


def test_two_names_of_one_address_are_hooked_once(look):
    library = look({"SSL_read": 1, "SSL_write": 2, "SSL_connect": 3, "SSL_do_handshake": 3})
    assert [hook.offset for hook in library.hooks if hook.call is Call.HANDSHAKE] == [3, 3]


@pytest.mark.parametrize("names", [["SSL_read"], ["SSL_write", "SSL_read_ex"], []])
def test_half_a_library_is_none(look, names):
    assert look(names) == Library()


def test_library_that_hands_on_to_gnutls_is_not_hooked_too(look):
    assert look(OPENSSL, strings=b"\0gnutls_record_recv\0SSL_read\0") == Library()


@pytest.mark.parametrize(
    ("names", "data", "strings", "kind", "version"),
    [
        (["SSL_CTX_set_custom_verify"], b"", b"", "BoringSSL", ""),
        (["SSL_CTX_set_custom_verify"], b"AWS-LC 1.5", b"", "BoringSSL", "AWS-LC"),
        ([], b"/deps/boringssl/ssl/ssl_lib.cc", b"", "BoringSSL", ""),
        ([], b"OpenSSL 3.0.19 27 Jan 2026, boringssl", b"", "OpenSSL", "3.0.19"),
        ([], b"OpenSSL 3.0 x\0OpenSSL 3.0.19 27 Jan 2026\0", b"", "OpenSSL", "3.0.19"),
        ([], b"OpenSSL 1.1.1w  11 Sep 2023", b"", "OpenSSL", "1.1.1w"),
        ([], b"OpenSSL 1.1.1v+quic  1 Aug 2023", b"", "OpenSSL", "1.1.1v+quic"),
        ([], b"LibreSSL 3.8.2", b"", "OpenSSL", "LibreSSL 3.8.2"),
        ([], b"", b"\0OPENSSL_3.0.0\0OPENSSL_3.0.3\0OPENSSL_3.0.1\0", "OpenSSL", "3.0.3+"),
        ([], b"", b"\0OPENSSL_3.2.0\0OPENSSL_3.10.0\0", "OpenSSL", "3.10.0+"),
        ([], b"", b"", "OpenSSL", ""),
    ],
)
def test_kind_and_version(look, names, data, strings, kind, version):
    library = look(["SSL_read", "SSL_write", *names], data, strings)
    assert (library.kind, library.version) == (kind, version)


def test_gnutls(look):
    names = {"gnutls_record_recv": 1, "gnutls_record_send": 2, "gnutls_deinit": 3}
    library = look(names, b"Enabled GnuTLS 3.7.9 logging")
    assert (library.kind, library.version) == ("GnuTLS", "3.7.9")
    assert library.hooks[-1] == Hook(Call.FREE, ENTRY, 3)
    assert look(names, strings=b"\0GNUTLS_3_7_7\0GNUTLS_3_6_9\0").version == "3.7.7+"


def test_linker_is_hooked_and_a_program_with_one_inside_is_not(look):
    assert look({"_dl_debug_state": 8}) == Library("linker", hooks=(Hook(Call.LOADED, ENTRY, 8),))
    assert look({"_dl_debug_state": 8, "main": 9}) == Library()


def test_go_functions_are_hooked_at_each_of_their_returns(look):
    table = {
        name: GoFunction(100 * n - 9, 100 * n, (100 * n + 7, 100 * n + 9))
        for n, name in enumerate(GO, 1)
    }
    library = look(go="go1.26.1", go_table=table)
    assert (library.kind, library.version) == ("Go", "1.26.1")
    assert library.hooks[:3] == (
        Hook(Call.READ, ENTRY, 100, is_go=True),
        Hook(Call.READ, RETURN, 107, is_go=True),
        Hook(Call.READ, RETURN, 109, is_go=True),
    )
    # What is written is known when it begins.
    assert [hook for hook in library.hooks if hook.call is Call.WRITE] == [
        Hook(Call.WRITE, ENTRY, 200, is_go=True)
    ]
    assert len(library.hooks) == 10


@pytest.mark.parametrize(
    ("go", "machine", "is_old"),
    [
        ("go1.16.15", "x86_64", True),
        ("go1.17", "x86_64", False),
        ("go1.17", "aarch64", True),
        ("devel go1.27-3f2", "aarch64", False),
    ],
)
def test_go_before_registers_says_so(look, go, machine, is_old):
    table = {name: GoFunction(1, 1, (2,)) for name in GO}
    library = look(data=b"crypto/tls.(*Conn).Write", go=go, go_table=table, machine=machine)
    assert (library.kind == "") == is_old
    assert ("passes arguments on the stack" in library.reason) == is_old


def test_go_without_tls_is_nothing(look):
    assert look(go="go1.26.1") == Library()
    assert look(go="go1.9") == Library()


def test_go_whose_functions_cannot_be_found_says_why(look):
    assert "format" in look(data=b"crypto/tls.(*Conn).Write", go="go1.99").reason
    assert "obfuscated" in look(data=LABEL, go="go1.26").reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"/rustls-0.23.12/src/ aws-lc BoringSSL", "rustls 0.23.12: its functions"),
        (b"third_party/boringssl-with-bazel", "BoringSSL, linked in without its symbols"),
        (b"OpenSSL 3.0.1 14 Dec 2021", "OpenSSL 3.0.1, linked in without its symbols"),
        (b"mbedtls_x509", "mbedTLS: it is not supported"),
        (b"", "TLS of a library that is not known"),
    ],
)
def test_tls_without_functions_is_told_by_its_text(look, data, reason):
    assert look(data=LABEL + data).reason.startswith(reason)
    assert look(data=b"client finished" + data).reason.startswith(reason)
    assert look(data=data) == Library()


@pytest.mark.parametrize("name", list(tls_libraries.FOREIGN))
def test_other_libraries_are_told_by_a_function(look, name):
    library = look([name], LABEL)
    assert (library.kind, library.hooks) == ("", ())
    assert library.reason == tls_libraries.FOREIGN[name]


def test_data_is_searched_only_when_asked_for_and_not_of_giants(look, monkeypatch):
    assert look(data=LABEL, thorough=False) == Library()
    assert look.elf.searched == 0
    assert look(["SSL_read", "SSL_write"], thorough=False).hooks
    assert look.elf.searched == 0
    monkeypatch.setattr(tls_libraries, "MAX_MODULE_BYTES", 5)
    assert look(data=LABEL) == Library()


def test_what_is_no_program_is_nothing_and_what_cannot_be_read_an_error(tmp_path, monkeypatch):
    path = tmp_path / "x"
    for content in (b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(100)):
        path.write_bytes(content)
        assert examine(path) == Library()
        assert release_inside(path) == ""
    with pytest.raises(FileNotFoundError):
        examine(tmp_path / "absent")

    def damaged(elf):
        raise ElfError("damaged")

    monkeypatch.setattr(tls_libraries, "go_version", damaged)
    monkeypatch.setattr(tls_libraries, "Elf", FakeElf())
    assert examine(path) == Library()


def test_file_that_would_take_too_long_says_so(monkeypatch):
    def endless(elf):
        raise ElfTooMuchError("too much of it")

    monkeypatch.setattr(tls_libraries, "go_version", endless)
    monkeypatch.setattr(tls_libraries, "Elf", FakeElf())
    assert examine(Path("x")) == Library(reason="it is not examined: too much of it")


@pytest.mark.parametrize("thorough", [True, False])
def test_file_that_lies_about_its_segments_takes_a_moment(tmp_path, thorough):
    """Each of its segments is all of a large file."""
    size = 256 << 20
    count = MAX_SEGMENTS
    head = struct.pack("<16sHHIQQQI", b"\x7fELF\2\1\1", 2, 62, 1, 0, 64, 0, 0)
    head += struct.pack("<HHHHHH", 64, 56, count, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 6, 0, 0x400000, 0, size, size, 4096)
    path = tmp_path / "hostile"
    path.write_bytes(head + segment * count)
    os.truncate(path, size)
    began = time.process_time()
    library = examine(path, thorough=thorough)
    assert time.process_time() - began < 10
    assert library.reason.startswith("it is not examined: more than")


def test_calls_are_those_of_the_kernel_half():
    source = Path(__file__).parents[2] / "bpf" / "by_library.h"
    named = re.findall(r"^\tWS_TLS_(\w+) =\s+(\d+),", source.read_text(), re.MULTILINE)
    kernel = {name: int(number) for name, number in named}
    have_programs = {Call.FRESH, Call.SET_FD, Call.FREE, Call.LOADED}
    wanted = {call.name: call.value for call in Call if call not in have_programs}
    assert wanted == {name: number for name, number in kernel.items() if name in wanted}


# Real files, where they are installed.


def system(name):
    """A library of this system by its name."""
    for folder in ("/lib64", "/usr/lib64", "/lib", "/usr/lib", *Path("/usr/lib").glob("*-linux-*")):
        if (path := Path(folder) / name).exists():
            return path
    pytest.skip(f"there is no {name} here")
    return None


def installed(package, pattern):
    """A file of an installed distribution."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else []
    for folder in folders or ():
        for path in sorted(Path(folder).glob(pattern)):
            return path
    pytest.skip(f"there is no {pattern} in {package}")
    return None


def program(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return Path(path).resolve()


def test_openssl_of_this_system():
    library = examine(system("libssl.so.3"))
    assert library.kind == "OpenSSL"
    assert library.version.startswith("3.")
    calls = {hook.call for hook in library.hooks}
    assert {Call.HANDSHAKE, Call.FRESH, Call.SET_FD, Call.FREE} <= calls
    assert {Call.READ, Call.READ_EX} & calls
    assert {Call.WRITE, Call.WRITE_EX, Call.WRITE_EX2} & calls
    assert release_inside(system("libcrypto.so.3")).startswith("3.")
    assert examine(system("libcrypto.so.3")) == Library()


def test_vendored_openssl_with_a_name_of_its_own():
    library = examine(installed("psycopg_binary", "../psycopg_binary.libs/libssl-*"))
    assert library.kind == "OpenSSL"
    assert library.hooks


def test_gnutls_of_this_system():
    assert examine(system("libgnutls.so.30")).kind == "GnuTLS"


def test_linker_of_this_system():
    loaders = [*Path("/lib64").glob("ld-linux*.so*"), *Path("/lib").glob("ld-*.so*")]
    if not loaders:
        pytest.skip("no dynamic linker where it is on most systems")
    assert examine(loaders[0]).kind == "linker"
    assert examine(system("libc.so.6")) == Library()


def test_nss_of_this_system_is_no_openssl_for_all_its_name():
    assert examine(system("libssl3.so")).reason.startswith("NSS")


def test_boringssl_in_grpc_has_no_symbols():
    library = examine(installed("grpc", "_cython/cygrpc*.so"))
    assert library.reason == "BoringSSL, linked in without its symbols"


def test_user_of_a_library_is_nothing():
    import _ssl

    if not getattr(_ssl, "__file__", None):
        pytest.skip("ssl is inside of this Python")
    assert examine(Path(_ssl.__file__)) == Library()


def test_node_has_openssl_inside_and_takes_no_time():
    path = program("node")
    examine(path)  # from disk, the first time
    began = time.process_time()
    library = examine(path)
    assert time.process_time() - began < 1
    assert library.kind == "OpenSSL" or system("libssl.so.3")


def test_go_program():
    path = program("go")
    library = examine(path)
    assert library.kind == "Go"
    assert all(hook.is_go for hook in library.hooks)
    assert {Call.READ, Call.WRITE, Call.BEGIN} == {hook.call for hook in library.hooks}


def test_java_says_why():
    for path in sorted(Path("/usr/lib/jvm").glob("*/lib/server/libjvm.so")):
        assert examine(path).reason.startswith("Java")
        return
    pytest.skip("Java is not installed")
