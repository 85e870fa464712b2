# SPDX-License-Identifier: Apache-2.0
"""The ELF reader: on files laid by hand, on a compiled library, and on what runs this test."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import ssl
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.elf import (
    CHUNK_BYTES,
    MAX_HITS,
    MAX_SEGMENTS,
    OVERLAP_BYTES,
    SHT_DYNSYM,
    Elf,
    ElfError,
    ElfTooMuchError,
    Section,
)
from tracer.elf_scan import MAX_TABLE_BYTES

FUNC, OBJECT, IFUNC = 2, 1, 10
CODE = 0x400000
"""Where the code of a file laid by hand is in memory, and where in the file."""
CODE_AT = 0x200
UNDEFINED, TEXT = 0, 1

LIBRARY = """
int new_version(void) { return 2; }
int old_version(void) { return 1; }
__asm__(".symver new_version, versioned@@TWO");
__asm__(".symver old_version, versioned@ONE");
int exported(void) { return 3; }
int variable = 4;
__attribute__((visibility("hidden"), noinline)) int hidden(int x) { return x + exported(); }
static __attribute__((used, noinline)) int local(int x) { return x - exported(); }
extern int elsewhere(void);
int caller(int x) { return hidden(x) + local(x) + elsewhere(); }
"""
VERSIONS = "ONE { global: versioned; };\nTWO { global: exported; variable; caller; } ONE;\n"
NAMES = ["versioned", "exported", "variable", "hidden", "local", "elsewhere", "caller", "nothing"]


def lay(symbols=(), strings=b"\0", machine=62, tail=b"", kinds=(2, 3)):
    """An ELF file: one executable segment, `.symtab`, `.strtab`, `.shstrtab`, `.bss`."""
    names = b"\0.text\0.symtab\0.strtab\0.shstrtab\0.bss\0"
    table = b"".join(
        struct.pack("<IBBHQQ", name, kind, 0, section, address, 4)
        for name, kind, section, address in symbols
    )
    code = bytes(0x100)
    places, body = [], code
    for part in (table, strings, names):
        places.append(CODE_AT + len(body))
        body += part
    sections = [
        (0, 0, 0, 0, 0, 0),
        (1, 1, CODE, CODE_AT, len(code), 0),
        (7, kinds[0], 0, places[0], len(table), 3),
        (15, kinds[1], 0, places[1], len(strings), 0),
        (23, 3, 0, places[2], len(names), 0),
        (33, 8, 0, 1 << 40, 1 << 40, 0),
    ]
    headers = b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, 0, address, offset, size, link, 0, 1, 24)
        for name, kind, address, offset, size, link in sections
    )
    # The first segment is data at the same addresses in the file, to be told from the code.
    segments = struct.pack("<IIQQQQQQ", 1, 6, 0, 0x100000, 0, CODE_AT, CODE_AT, 4096)
    segments += struct.pack("<IIQQQQQQ", 1, 5, CODE_AT, CODE, 0, len(code), 0x1000, 4096)
    at = CODE_AT + len(body)
    head = struct.pack("<16sHHIQQQI", b"\x7fELF\2\1\1", 3, machine, 1, 0, 64, at, 0)
    head += struct.pack("<HHHHHH", 64, 56, 2, 64, len(sections), 4)
    return (head + segments).ljust(CODE_AT, b"\0") + body + headers + tail


@pytest.fixture
def elf(tmp_path):
    """Writes bytes into a file and opens it."""
    opened = []

    def write(data):
        path = tmp_path / f"file{len(opened)}"
        path.write_bytes(data)
        opened.append(Elf(path))
        return opened[-1]

    yield write
    for one in opened:
        one.close()


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler: neither gcc nor clang is installed")
    home = tmp_path_factory.mktemp("library")
    (home / "library.c").write_text(LIBRARY)
    (home / "versions").write_text(VERSIONS)
    options = ["-O1", "-fPIC", "-shared", "-nostdlib", "-Wl,--hash-style=gnu"]
    subprocess.run(
        [compiler, *options, "-Wl,--version-script=versions", "-o", "library.so", "library.c"],
        cwd=home,
        check=True,
    )
    return home / "library.so"


def without_sections(data):
    """The same file as sstrip leaves it: no section headers."""
    changed = bytearray(data)
    changed[0x28:0x30] = bytes(8)
    changed[0x3C:0x40] = bytes(4)
    return bytes(changed)


def mapped_offset(address):
    """Where in its file the kernel has what is at an address of this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        area, _, offset, *_ = line.split()
        low, high = (int(one, 16) for one in area.split("-"))
        if low <= address < high:
            return address - low + int(offset, 16)
    raise AssertionError(f"{address:#x} is not mapped")


def path_of_library(word):
    ssl.OPENSSL_VERSION  # noqa: B018 - the module has to be loaded
    for line in Path("/proc/self/maps").read_text().splitlines():
        if word in line and line.split()[-1].startswith("/"):
            return line.split()[-1]
    pytest.skip(f"this Python has no {word} in its memory")
    return None


def test_function_is_given_by_its_place_in_the_file(elf):
    file = elf(lay([(1, FUNC, TEXT, CODE + 0x20)], b"\0SSL_read\0"))
    assert file.machine == "x86_64"
    assert file.functions(["SSL_read", "SSL_write"]) == {"SSL_read": CODE_AT + 0x20}


def test_only_defined_functions_count(elf):
    strings = b"\0a\0b\0c\0d\0e\0f\0"
    rows = [
        (1, FUNC, UNDEFINED, CODE + 0x10),
        (3, FUNC, TEXT, 0),
        (5, OBJECT, TEXT, CODE + 0x10),
        (7, IFUNC, TEXT, CODE + 0x10),
        (9, FUNC, TEXT, 0x100010),  # in a segment that is not executable
        (11, FUNC, TEXT, CODE + 0x10),
    ]
    assert elf(lay(rows, strings)).functions(list("abcdef")) == {"f": CODE_AT + 0x10}


def test_definition_is_found_behind_an_undefined_symbol_of_the_same_name(elf):
    rows = [(1, FUNC, UNDEFINED, 0), (1, FUNC, TEXT, CODE + 8)]
    assert elf(lay(rows, b"\0name\0")).functions(["name"]) == {"name": CODE_AT + 8}


def test_name_can_be_the_tail_of_another(elf):
    strings = b"\0my_SSL_read\0other_SSL_read\0"
    rows = [(1, FUNC, TEXT, CODE + 0x10), (19, FUNC, TEXT, CODE + 0x20)]
    file = elf(lay(rows, strings))
    assert strings[19:] == b"SSL_read\0"
    assert file.functions(["SSL_read"]) == {"SSL_read": CODE_AT + 0x20}
    # A string alone is no function.
    assert file.functions(["other_SSL_read", "read"]) == {}


def test_number_that_spans_two_symbols_is_no_name(elf):
    # The name's place is 0x0100; that number is also where one name field ends and one begins.
    strings = b"\0".ljust(0x100, b"x") + b"name\0".ljust(0x200, b"\0")
    rows = [(0x0001_0000, OBJECT, TEXT, 0), (0x100, FUNC, TEXT, CODE + 4)]
    assert elf(lay(rows, strings)).functions(["name"]) == {"name": CODE_AT + 4}


def test_dynsym_without_a_hash_table_is_searched(elf):
    data = lay([(1, FUNC, TEXT, CODE + 4)], b"\0name\0", kinds=(SHT_DYNSYM, 3))
    assert elf(data).functions(["name"]) == {"name": CODE_AT + 4}


def test_name_of_half_the_table_is_an_error_and_no_endless_search(elf):
    with pytest.raises(ElfError, match="more than"):
        elf(lay([(1, FUNC, TEXT, CODE)], b"\0name" * 5000 + b"\0")).functions(["name"])


def test_hundreds_of_names_that_end_alike_are_no_obstacle(elf):
    strings = b"\0main\0" + b"".join(b"applet%d_main\0" % n for n in range(500))
    file = elf(lay([(1, FUNC, TEXT, CODE + 4)], strings))
    assert file.functions(["main"]) == {"main": CODE_AT + 4}


def test_symbols_of_one_name_have_a_bound(elf):
    rows = [(1, OBJECT, TEXT, CODE)] * (MAX_HITS + 1)
    with pytest.raises(ElfTooMuchError, match="more than"):
        elf(lay(rows, b"\0name\0")).functions(["name"])


def test_table_has_a_bound(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(lay())
    os.truncate(path, MAX_TABLE_BYTES + 1)
    with Elf(path) as file:
        assert len(file.read(1, MAX_TABLE_BYTES)) == MAX_TABLE_BYTES
        with pytest.raises(ElfTooMuchError, match="too many for one table"):
            file.read(0, MAX_TABLE_BYTES + 1)


def test_all_that_is_read_and_searched_has_one_bound(tmp_path):
    """Whichever way it is searched, and however many segments are at the same place."""
    path = tmp_path / "file"
    path.write_bytes(lay())
    os.truncate(path, 4 * CHUNK_BYTES)
    for look in (
        lambda file: file.contains(b"nothing"),
        lambda file: file.search(re.compile(b"nothing")),
        lambda file: list(file.positions(re.compile(b"nothing"), Section(0, 0, CHUNK_BYTES))),
        lambda file: file.read(0, 3 * CHUNK_BYTES),
    ):
        with (
            Elf(path, budget_bytes=6 * CHUNK_BYTES) as file,
            pytest.raises(ElfTooMuchError, match="would have to be searched"),
        ):
            [look(file) for _ in range(3)]


def test_hits_of_a_pattern_are_paid_for(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(lay(tail=b"x" * 10_000))
    with Elf(path, budget_bytes=5_000_000) as file, pytest.raises(ElfTooMuchError):
        list(file.positions(re.compile(b"x")))


def test_number_of_segments_has_a_bound(elf):
    data = bytearray(lay())
    struct.pack_into("<H", data, 0x38, MAX_SEGMENTS + 1)
    with pytest.raises(ElfTooMuchError, match="segments"):
        elf(bytes(data))


def test_addresses_and_offsets_are_of_the_segment(elf):
    file = elf(lay())
    assert file.offset_of(CODE + 0xFF) == CODE_AT + 0xFF
    assert file.offset_of(CODE + 0x100) is None  # only zeros in memory
    assert file.offset_of(CODE - 1) is None
    assert file.offset_of(0x100001) is None
    assert file.position_of(0x100001) == 1
    assert file.address_of(CODE_AT + 3) == CODE + 3
    assert file.address_of(1 << 40) is None
    assert [(one.is_executable, one.is_writable) for one in file.segments] == [
        (False, True),
        (True, False),
    ]


def test_sections_are_found_by_any_of_their_names(elf):
    file = elf(lay())
    assert file.section(".nothing", ".text") == Section(CODE, CODE_AT, 0x100)
    assert file.section(".tex", "text") is None
    assert file.section(".bss") is None
    assert file.section() is None


def test_many_sections_are_numbered_in_the_first(elf):
    data = bytearray(lay([(1, FUNC, TEXT, CODE + 4)], b"\0name\0"))
    (at,) = struct.unpack_from("<Q", data, 0x28)
    struct.pack_into("<HH", data, 0x3C, 0, 0xFFFF)
    struct.pack_into("<QI", data, at + 32, 6, 4)
    assert elf(bytes(data)).section(".text") == Section(CODE, CODE_AT, 0x100)


def test_other_machines_keep_their_number(elf):
    assert elf(lay(machine=183)).machine == "aarch64"
    assert elf(lay(machine=243)).machine == "machine 243"


def test_text_is_found_where_chunks_meet(elf):
    head = len(lay())
    for before in (CHUNK_BYTES - 4, CHUNK_BYTES + 9, CHUNK_BYTES + OVERLAP_BYTES - 13):
        tail = bytes(before - head) + b"OpenSSL 1.1.1w x" + bytes(CHUNK_BYTES)
        file = elf(lay(tail=tail))
        assert file.contains(b"OpenSSL 1.1.1w")
        assert not file.contains(b"OpenSSL 1.1.1w\0")
        pattern = re.compile(rb"OpenSSL (\d\.\d\.\d+[a-z]?)")
        found = file.search(pattern)
        assert found
        assert found[1] == b"1.1.1w"
        assert list(file.positions(pattern)) == [before]


def test_search_can_be_in_parts_of_the_file(elf):
    data = bytearray(lay(tail=b"text in the tail"))
    data[CODE_AT : CODE_AT + 12] = b"text in code"
    file = elf(bytes(data))
    code = file.section(".text")
    assert file.contains(b"text in code", code)
    assert not file.contains(b"text in the tail", code)
    assert file.contains(b"text in the tail")
    assert not file.search(re.compile(b"the tail"), code, *file.segments)


def test_compiled_library_has_what_it_defines(library):
    with Elf(library) as file:
        found = file.functions(NAMES)
    assert set(found) == {"versioned", "exported", "hidden", "local", "caller"}
    assert len(set(found.values())) == 5


def test_default_version_wins(library):
    with Elf(library) as file:
        found = file.functions(["versioned", "new_version", "old_version"])
        with_two = ctypes.CDLL(str(library), mode=os.RTLD_LAZY).versioned
    assert with_two() == 2
    address = ctypes.cast(with_two, ctypes.c_void_p).value
    assert found["versioned"] == mapped_offset(address)


def test_exported_functions_need_no_section_headers(library, elf):
    data = library.read_bytes()
    with Elf(library) as whole:
        expected = whole.functions(["versioned", "exported", "caller"])
    assert len(expected) == 3
    stripped = elf(without_sections(data))
    assert stripped.functions(NAMES) == expected
    assert stripped.section(".text") is None


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("/libssl", ["SSL_read", "SSL_write_ex", "SSL_set_fd", "SSL_free"]),
        ("/libc.so", ["fopen", "pthread_cond_wait", "pthread_create", "getaddrinfo", "qsort"]),
    ],
)
def test_offsets_are_those_of_the_dynamic_linker(word, names):
    path = path_of_library(word)
    loaded = ctypes.CDLL(path)
    expected = {
        name: mapped_offset(ctypes.cast(loaded[name], ctypes.c_void_p).value) for name in names
    }
    with Elf(path) as file:
        assert file.functions(names) == expected


def test_hash_table_and_search_agree_on_a_whole_library():
    with Elf(path_of_library("/libc.so")) as file:
        strings = file.section(".dynstr")
        names = set(file.read(strings.offset, strings.size).split(b"\0")) - {b""}
        hashed = {hit for hit in file._hashed(names) if hit[2].section}
        searched = {hit for hit in file._searched(names, SHT_DYNSYM) if hit[2].section}
    assert len(hashed) > 1000
    assert hashed == searched


def test_function_chosen_at_load_time_is_left_out():
    with Elf(path_of_library("/libc.so")) as file:
        kinds = {hit[2].info & 0xF for hit in file._hashed([b"strlen"])}
        if kinds != {IFUNC}:
            pytest.skip("strlen of this C library has one form for all processors")
        assert file.functions(["strlen"]) == {}


def test_what_is_no_64_bit_elf_file_is_an_error(tmp_path):
    good = lay()
    for data, reason in [
        (b"", "no ELF file"),
        (b"\x7fELF", "no ELF file"),
        (b"#!/bin/sh\n" * 100, "no ELF file"),
        (good[:4] + b"\1" + good[5:], "not a 64-bit little-endian"),
        (good[:5] + b"\2" + good[6:], "not a 64-bit little-endian"),
        (good[:100], "not in the file"),
        (good[:-1], "not in the file"),
        (good[:0x36] + b"\x40\0" + good[0x38:], "headers of 64 bytes instead of 56"),
    ]:
        path = tmp_path / "file"
        path.write_bytes(data)
        with pytest.raises(ElfError, match=reason):
            Elf(path)


def test_what_is_no_regular_file_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ElfError, match="not a regular file"):
            Elf(path)
    with pytest.raises(FileNotFoundError):
        Elf(tmp_path / "nothing")


def test_failed_open_leaves_no_file_open(tmp_path):
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(3):
        with pytest.raises(ElfError):
            Elf(tmp_path)
    with Elf(path_of_library("/libc.so")):
        pass
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


def test_file_cut_while_it_is_open_is_an_error(library, tmp_path):
    path = tmp_path / "library.so"
    path.write_bytes(library.read_bytes())
    with Elf(path) as file:
        os.truncate(path, 100)
        with pytest.raises(ElfError, match="cut while"):
            file.functions(["exported"])
        with pytest.raises(ElfError, match="cut while"):
            file.contains(b"nothing")


@st.composite
def damages(draw):
    """Changes as (place as a part of the file or from its beginning or end, bytes)."""
    place = st.integers(0, 0x400) | st.integers(-0x1000, -1) | st.floats(0, 0.999)
    value = st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8)])
    return draw(st.lists(st.tuples(place, value), min_size=1, max_size=4))


def damage(data, changes, cut):
    changed = bytearray(data)
    for place, value in changes:
        at = int(place * len(data)) if isinstance(place, float) else place % len(data)
        changed[at : at + len(value)] = value
    return bytes(changed[: int(len(data) * cut)])


@given(changes=damages(), cut=st.just(1.0) | st.floats(0, 1))
def test_damaged_file_is_an_error_or_understood(library, tmp_path_factory, changes, cut):
    path = tmp_path_factory.getbasetemp() / "damaged-library.so"
    path.write_bytes(damage(library.read_bytes(), changes, cut))
    try:
        with Elf(path) as file:
            for look in (
                lambda: file.functions(NAMES),
                lambda: file.section(".text", ".symtab"),
                lambda: file.dynamic,
                lambda: [file.offset_of(one.address) for one in file.segments],
                lambda: file.search(re.compile(rb"nothing \d"), *file.segments),
            ):
                try:
                    look()
                except ElfError:
                    continue
    except ElfError:
        pass
