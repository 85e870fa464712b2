# SPDX-License-Identifier: Apache-2.0
"""Go programs: what the toolchain here builds, compared with its own tools, and tables by hand."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.elf import Elf, ElfError
from tracer.go_binary import MAX_RETURNS, GoFunction, go_functions, go_version

TLS = [f"crypto/tls.(*Conn).{name}" for name in ("Read", "Write")] + [
    f"crypto/tls.(*Conn).{side}Handshake" for side in ("client", "server")
]
PATTERN = r"^crypto/tls\.\(\*Conn\)\.(Read|Write|clientHandshake|serverHandshake)$"

PROGRAM = """package main

import (
	"crypto/tls"
	"net"
)

func main() {
	near, far := net.Pipe()
	go tls.Server(near, nil).Read(make([]byte, 1))
	tls.Client(far, nil).Write([]byte("x"))
}
"""
WITH_C = """package main

// static int one(void) { return 1; }
import "C"

var one = C.one()
"""

BUILDS = {
    "plain": ({"CGO_ENABLED": "0"}, []),
    "stripped": ({"CGO_ENABLED": "0"}, ["-ldflags=-s -w"]),
    "pie": ({"CGO_ENABLED": "0"}, ["-buildmode=pie"]),
    "cgo": ({"CGO_ENABLED": "1"}, []),
    "cgo-pie": ({"CGO_ENABLED": "1"}, ["-buildmode=pie"]),
    "arm64-pie": ({"CGO_ENABLED": "0", "GOARCH": "arm64"}, ["-buildmode=pie"]),
}
"""Variables of the environment and arguments of `go build`."""
WITH_SYMBOLS = [name for name in BUILDS if name != "stripped"]

BUILD_S = 50.0
"""The standard library may have to be compiled first."""


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """Builds the program in one of the ways and returns where it is; each is built once."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("needs the Go toolchain: go is not installed")
    home = tmp_path_factory.mktemp("go")
    (home / "go.mod").write_text("module example\n\ngo 1.20\n")
    (home / "main.go").write_text(PROGRAM)
    (home / "with_c.go").write_text(WITH_C)

    def build(name):
        variables, arguments = BUILDS[name]
        if variables["CGO_ENABLED"] == "1" and shutil.which("gcc") is None:
            pytest.skip("needs gcc for a Go program with C in it")
        if not (home / name).exists():
            own = {"GOTOOLCHAIN": "local", "GOPROXY": "off", "GOARCH": "amd64", "GOFLAGS": ""}
            subprocess.run(
                [go, "build", *arguments, "-buildvcs=false", "-o", name, "."],
                cwd=home,
                env={**os.environ, "GOOS": "linux", **own, **variables},
                check=True,
                timeout=BUILD_S,
            )
        return home / name

    return build


def functions_of(path, names=tuple(TLS)):
    with Elf(path) as elf:
        return go_functions(elf, names)


def go_tool(*arguments):
    return subprocess.run(
        ["go", "tool", *arguments], check=True, capture_output=True, text=True
    ).stdout


def without_sections(path):
    """A copy of the file as sstrip leaves it: no section headers."""
    changed = bytearray(path.read_bytes())
    changed[0x28:0x30] = bytes(8)
    changed[0x3C:0x40] = bytes(4)
    copy = path.with_name(path.name + "-without-sections")
    copy.write_bytes(changed)
    return copy


@pytest.mark.parametrize("name", BUILDS)
def test_version_is_that_of_the_toolchain(program, name):
    path = program(name)
    expected = subprocess.run(
        ["go", "version", path], check=True, capture_output=True, text=True
    ).stdout.split(": ")[1]
    for one in (path, without_sections(path)):
        with Elf(one) as elf:
            assert go_version(elf) == expected.strip()


@pytest.mark.parametrize("name", WITH_SYMBOLS)
def test_functions_begin_where_the_symbols_are(program, name):
    path = program(name)
    rows = (line.split(maxsplit=2) for line in go_tool("nm", str(path)).splitlines())
    expected = {row[2]: int(row[0], 16) for row in rows if len(row) == 3 and row[2] in TLS}
    assert len(expected) == 4
    with Elf(path) as elf:
        found = go_functions(elf, TLS)
        assert {key: elf.address_of(one.entry) for key, one in found.items()} == expected


@pytest.mark.parametrize("name", WITH_SYMBOLS)
def test_returns_are_those_of_the_disassembler(program, name):
    path = program(name)
    expected = {}
    for line in go_tool("objdump", "-s", PATTERN, str(path)).splitlines():
        if line.startswith("TEXT "):
            returns = expected.setdefault(line.split()[1].removesuffix("(SB)"), [])
        elif re.search(r"\tRET\b", line):
            returns.append(int(line.split()[1], 16))
    assert len(expected) == 4
    with Elf(path) as elf:
        found = go_functions(elf, TLS)
        addresses = {
            key: [elf.address_of(place) for place in one.returns] for key, one in found.items()
        }
    assert addresses == expected
    code = b"\xc3" if "arm64" not in name else struct.pack("<I", 0xD65F03C0)
    data = path.read_bytes()
    assert all(data.startswith(code, at) for one in found.values() for at in one.returns)


@pytest.mark.parametrize("name", BUILDS)
def test_work_of_real_functions_begins_behind_the_check(program, name):
    path = program(name)
    data = path.read_bytes()
    for one in functions_of(path, ("crypto/tls.(*Conn).Read", "crypto/tls.(*Conn).Write")).values():
        assert one.entry < one.begin <= one.entry + 32
        if name == "arm64-pie":
            (branch,) = struct.unpack_from("<I", data, one.begin - 4)
            assert branch & 0xFF00001F == 0x54000009  # B.LS
        else:
            assert data[one.begin] == 0x55  # push rbp
            is_short = data[one.begin - 2] == 0x76  # JBE
            assert is_short or data[one.begin - 6 : one.begin - 4] == b"\x0f\x86"
        assert all(place > one.begin for place in one.returns)


def test_stripped_program_has_what_the_whole_one_has(program):
    found = functions_of(program("stripped"))
    assert len(found) == 4
    assert found == functions_of(program("plain"))


@pytest.mark.parametrize("name", BUILDS)
def test_sections_are_not_needed(program, name):
    path = program(name)
    assert functions_of(without_sections(path)) == functions_of(path)


@pytest.mark.parametrize("name", ["pie", "cgo-pie", "arm64-pie"])
def test_pointers_can_be_in_relocations_alone(program, name):
    # Linkers are free to leave out of the file what the dynamic linker will write there.
    path = program(name)
    data = bytearray(path.read_bytes())
    with Elf(path) as elf:
        module = elf.section(".go.module")
    if module is None:
        pytest.skip("this Go toolchain gives moduledata no section: it is older than 1.26")
    assert any(data[module.offset : module.offset + module.size])
    data[module.offset : module.offset + module.size] = bytes(module.size)
    copy = path.with_name(name + "-relocated")
    copy.write_bytes(data)
    assert functions_of(copy) == functions_of(path)


def test_table_of_go_1_18_is_read_likewise(program):
    path = program("plain")
    data = bytearray(path.read_bytes())
    with Elf(path) as elf:
        at = elf.section(".gopclntab").offset
    assert data[at] == 0xF1
    data[at] = 0xF0
    copy = path.with_name("plain-1.18")
    copy.write_bytes(data)
    assert functions_of(copy) == functions_of(path)


def test_functions_that_are_not_there_are_left_out(program):
    names = ["crypto/tls.(*Conn).Nothing", "tls.(*Conn).Read", "", "main.main"]
    assert set(functions_of(program("plain"), names)) == {"main.main"}


def test_other_programs_are_no_go_programs():
    with Elf(os.path.realpath(sys.executable)) as elf:
        assert go_version(elf) is None
        assert go_functions(elf, TLS) == {}


# Laid by hand ---------------------------------------------------------------------------------

TEXT, DATA = 0x401000, 0x600000
FIRST = b"\x48\x83\xf8\x01\x74\x02\xf3\xc3\xc2\x08\x00\xc3" + b"\xcc" * 4
"""cmp, je, repz ret, ret 8, ret, and what fills up to the next function."""
SECOND = b"\xc3\x06\xc3\xcc"
"""A byte between that is no instruction in 64-bit mode."""
THIRD = b"\xeb\xfe\x90\x90"
"""Never returns."""
FIRST_RETURNS = (6, 8, 11)


def lay(version="go1.17.3", *, names=("first", "second", "third"), machine=62, code=None, at=DATA):
    """An ELF file without sections, with build info and function table of Go 1.16 and 1.17."""
    bodies = code or (FIRST, SECOND, THIRD)
    name_table, places = b"\0", {}
    for name in names:
        if name not in places:
            places[name] = len(name_table)
            name_table += name.encode() + b"\0"
    address, offset = TEXT, (2 * len(bodies) + 1) * 8
    rows = records = b""
    for name, body in zip(names, bodies, strict=True):
        rows += struct.pack("<QQ", address, offset + len(records))
        records += struct.pack("<QI28x", address, places[name])
        address += len(body)
    rows += struct.pack("<Q", address)
    head = struct.calcsize("<IHBBQQQQQQQ")
    end = -(head + len(name_table)) % 8 + head + len(name_table)
    table = struct.pack(
        "<IHBBQQQQQQQ", 0xFFFFFFFA, 0, 1, 8, len(bodies), 0, head, end, end, end, end
    )
    table = (table + name_table).ljust(end, b"\0") + rows + records
    text = b"".join(bodies).ljust(0x100, b"\xcc") + table

    info = b"\xff Go buildinf:" + bytes([8, 0]) + struct.pack("<QQ", at + 32, 0)
    data = info + struct.pack("<QQ", at + 48, len(version)) + version.encode()
    start = 0x1000
    segments = struct.pack("<IIQQQQQQ", 1, 5, start, TEXT, 0, len(text), len(text), 4096)
    segments += struct.pack("<IIQQQQQQ", 1, 6, start + len(text), at, 0, len(data), len(data), 4096)
    header = struct.pack("<16sHHIQQQI", b"\x7fELF\2\1\1", 2, machine, 1, TEXT, 64, 0, 0)
    header += struct.pack("<HHHHHH", 64, 56, 2, 64, 0, 0)
    return (header + segments).ljust(start, b"\0") + text + data


@pytest.fixture
def understood(tmp_path):
    """What is read from the bytes of a program: version and functions."""

    def read(data, names=("first", "second", "third")):
        path = tmp_path / "program"
        path.write_bytes(data)
        with Elf(path) as elf:
            return go_version(elf), go_functions(elf, names)

    return read


def test_table_of_go_1_17_is_read(understood):
    version, found = understood(lay())
    assert version == "go1.17.3"
    expected = GoFunction(0x1000, 0x1000, tuple(0x1000 + at for at in FIRST_RETURNS))
    assert found == {"first": expected}


def test_function_is_left_out_if_not_all_of_it_can_be_decoded_or_it_never_returns(understood):
    _, found = understood(lay())
    assert set(found) == {"first"}
    _, found = understood(lay(code=(FIRST, SECOND[:1] + SECOND[2:], THIRD[2:] + b"\xc3")))
    assert set(found) == {"first", "second", "third"}


CHECKED = b"\x49\x3b\x66\x10\x76\x02\x55\xc3" + b"\xe8\0\0\0\0" + b"\xcc" * 3
"""cmp rsp, [r14+16]; jbe; push rbp; ret; call morestack."""


def test_work_begins_behind_the_check_of_the_stack(understood):
    _, found = understood(lay(code=(CHECKED, FIRST, FIRST)))
    assert (found["first"].entry, found["first"].begin) == (0x1000, 0x1006)
    assert found["first"].returns == (0x1007,)
    # A branch of another kind, and one that comes late, are no check.
    assert found["second"].begin == found["second"].entry
    late = b"\x90" * 5 + CHECKED
    _, found = understood(lay(code=(late, FIRST, FIRST)))
    assert found["first"].begin == found["first"].entry


def test_work_begins_behind_the_check_on_arm64_too(understood):
    # LDR x16, [x28, 16]; CMP sp, x16; B.LS; STR x30, [sp, -16]!; RET
    words = (0xF9400B90, 0xEB3063FF, 0x54000089, 0xF81F0FFE, 0xD65F03C0)
    checked = struct.pack("<5I", *words)
    plain = struct.pack("<5I", *[0xD503201F] * 4, 0xD65F03C0)
    _, found = understood(lay("go1.18", machine=183, code=(checked, plain, plain)))
    assert (found["first"].entry, found["first"].begin) == (0x1000, 0x100C)
    assert found["first"].returns == (0x1010,)
    assert found["second"].begin == found["second"].entry


def test_function_with_too_many_returns_is_left_out(understood):
    most = b"\xc3" * MAX_RETURNS
    _, found = understood(lay(code=(most, FIRST, most + b"\xc3")))
    assert set(found) == {"first", "second"}
    assert len(found["first"].returns) == MAX_RETURNS


def test_places_that_only_look_like_a_table_cost_little(tmp_path):
    """None of them is read to the end of its segment."""
    data = bytearray(lay())
    tail = struct.pack("<IHBB64x", 0xFFFFFFFA, 0, 1, 8) * 60 + bytes(1 << 20)
    size = len(data) + len(tail) - struct.unpack_from("<Q", data, 64 + 56 + 8)[0]
    struct.pack_into("<QQ", data, 64 + 56 + 32, size, size)
    path = tmp_path / "hostile"
    path.write_bytes(data + tail)
    with Elf(path, budget_bytes=20 << 20) as elf:
        assert set(go_functions(elf, ["first"])) == {"first"}


def test_go_before_registers_has_no_functions(understood):
    assert understood(lay("go1.16.15")) == ("go1.16.15", {})
    assert understood(lay("go1.17", machine=183)) == ("go1.17", {})
    assert understood(lay("go1.18", machine=40)) == ("go1.18", {})
    ret = struct.pack("<II", 0xD503201F, 0xD65F03C0)
    _, found = understood(lay("go1.18", machine=183, code=(ret, ret, ret)))
    assert found["second"] == GoFunction(0x1008, 0x1008, (0x100C,))


def test_name_of_two_functions_is_left_out(understood):
    body = b"\xc3\xcc\xcc\xcc"
    _, found = understood(lay(names=("first", "second", "first"), code=(body, body, body)))
    assert set(found) == {"second"}


def test_development_version_counts_as_what_it_becomes(understood):
    version, found = understood(lay("devel go1.27-0123abc Mon Jan 5"))
    assert version == "devel go1.27-0123abc Mon Jan 5"
    assert set(found) == {"first"}
    assert understood(lay("unknown")) == (None, {})


def test_magic_in_a_text_is_no_build_info(understood):
    # Programs that read build infos hold it; a build info is aligned.
    assert understood(lay(at=DATA + 16))[0] == "go1.17.3"
    assert understood(lay(at=DATA + 8)) == (None, {})


def test_table_without_a_moduledata_has_no_start(understood, program):
    path = program("plain")
    data = bytearray(path.read_bytes())
    with Elf(path) as elf:
        pointer = struct.pack("<Q", elf.section(".gopclntab").address)
    assert pointer in data
    version, found = understood(data.replace(pointer, bytes(8)), TLS)
    assert version
    assert found == {}


def test_table_that_leads_out_of_itself_is_an_error(program, tmp_path):
    path = program("plain")
    data = bytearray(path.read_bytes())
    with Elf(path) as elf:
        at = elf.section(".gopclntab").offset
    for place, value in [(8, 1 << 60), (8, 0), (32, 1 << 62), (64, 1 << 40)]:
        broken = data.copy()
        struct.pack_into("<Q", broken, at + place, value)
        (tmp_path / "broken").write_bytes(broken)
        with pytest.raises(ElfError, match="leads out of itself"):
            functions_of(tmp_path / "broken")
    data[at : at + 4] = bytes(4)
    (tmp_path / "broken").write_bytes(data)
    with pytest.raises(ElfError, match="not known"):
        functions_of(tmp_path / "broken")


def test_segments_at_the_end_of_the_addresses_lead_nowhere(program):
    path = without_sections(program("pie"))
    data = bytearray(path.read_bytes())
    (count,) = struct.unpack_from("<H", data, 0x38)
    for at in range(64, 64 + 56 * count, 56):
        if data[at] == 1:
            struct.pack_into("<Q", data, at + 16, (1 << 64) - 0x1000)
    copy = path.with_name("pie-at-the-end")
    copy.write_bytes(data)
    assert functions_of(copy) == {}


VALUES = st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8)])


def look_at(path, names):
    """Reads all that is to be read; whatever leaves it but ElfError fails the test."""
    try:
        with Elf(path) as elf:
            go_version(elf)
            for one in go_functions(elf, names).values():
                assert 0 < one.entry < elf.size
                assert one.returns
    except ElfError:
        pass


@given(
    changes=st.lists(
        st.tuples(st.integers(0, 0xFF) | st.integers(0x1000, len(lay()) - 1), VALUES), max_size=4
    ),
    end=st.just(len(lay())) | st.integers(0, len(lay())),
)
def test_damaged_program_is_an_error_or_understood(tmp_path_factory, changes, end):
    data = bytearray(lay())
    for at, value in changes:
        data[at : at + len(value)] = value
    path = tmp_path_factory.getbasetemp() / "damaged-program"
    path.write_bytes(data[:end])
    look_at(path, ["first", "second", "third"])


PARTS = {
    # What of a real file decides where things are looked for, and how much of it.
    "": 0x400,
    ".gopclntab": 0x48,
    ".go.buildinfo": 0x40,
    ".go.module": 0x200,
    ".dynamic": 0x100,
    ".rela": 0x1000,
}


@given(
    has_sections=st.booleans(),
    changes=st.lists(
        st.sampled_from(list(PARTS)).flatmap(
            lambda part: st.tuples(st.just(part), st.integers(0, PARTS[part] - 8), VALUES)
        ),
        max_size=3,
    ),
)
def test_damaged_position_independent_program_likewise(program, has_sections, changes):
    path = program("pie")
    damaged = path.with_name("pie-damaged")
    if not damaged.exists():
        damaged.write_bytes(path.read_bytes())
    with Elf(path) as elf:
        sections = {part: elf.section(part) for part in PARTS if part}
    starts = {"": 0} | {part: one.offset for part, one in sections.items() if one}
    places = [(starts[part] + at, value) for part, at, value in changes if part in starts]
    if not has_sections:
        places += [(0x28, bytes(8)), (0x3C, bytes(4))]
    with damaged.open("r+b", buffering=0) as file, path.open("rb") as whole:
        for at, value in places:
            file.seek(at)
            file.write(value)
        try:
            look_at(damaged, TLS)
        finally:
            for at, value in places:
                whole.seek(at)
                file.seek(at)
                file.write(whole.read(len(value)))
