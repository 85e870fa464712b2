# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from struct import pack

import pytest

from tracer.elf import Elf, Section
from tracer.openssl_internals import WriteInternal, read_internal, write_internal

BASE = 0x400000
"""Address of the first byte of the file."""
STUB, PUBLIC, OTHER = 0x1000, 0x2000, 0x3000
READ, WRITE = 0x100, 0x200
PLT = Section(BASE + 0x300, 0x300, 0x80)

X86_HEAD = bytes.fromhex("4883ec08")  # sub $8, %rsp
X86_TAIL = bytes.fromhex("31d2 85c0 0f48c2 4883c408 c3")  # clamps the result and returns
X86_SHIFT = bytes.fromhex("4989c8 31c9")  # mov %rcx, %r8; xor %ecx, %ecx
ARM64_HEAD = pack("<II", 0xA9BF7BFD, 0x910003FD)  # stp x29, x30, [sp, #-16]!; mov x29, sp
ARM64_TAIL = pack("<IIII", 0x7100001F, 0x1A9FA000, 0xA8C17BFD, 0xD65F03C0)
ARM64_SHIFT = pack("<II", 0xAA0303E4, 0xD2800003)  # mov x4, x3; mov x3, #0


class FakeElf:
    """A file with code at some offsets, and nothing in between."""

    size = 0x4000

    def __init__(self, machine="x86_64"):
        self.machine = machine
        self.code = bytearray(self.size)

    def address_of(self, offset):
        return BASE + offset

    def offset_of(self, address):
        return address - BASE if 0 <= address - BASE < self.size else None

    def section(self, name):
        return PLT if name == ".plt.sec" else None

    def read(self, offset, size):
        assert 0 <= offset <= offset + size <= self.size
        return bytes(self.code[offset : offset + size])

    def put(self, offset, *parts):
        """Instructions, and addresses in the file to call."""
        for part in parts:
            made = part
            if isinstance(part, int) and self.machine == "x86_64":
                made = b"\xe8" + pack("<i", part - offset - 5)
            elif isinstance(part, int):
                made = pack("<I", 0x94000000 | (part - offset) // 4 & 0x3FFFFFF)
            self.code[offset : offset + len(made)] = made
            offset += len(made)


def x86(head=X86_HEAD, target=READ, tail=X86_TAIL, public=READ):
    elf = FakeElf()
    elf.put(STUB, head, target, tail)
    elf.put(PUBLIC, bytes.fromhex("4883ec18 85d2 7821"), public, X86_TAIL)
    return elf


def read_of(elf):
    return read_internal(elf, {"SSL_read": PUBLIC, "SSL_read_ex": STUB})


def write_of(elf, name="SSL_write_ex"):
    return write_internal(elf, {"SSL_write": PUBLIC, name: STUB})


@pytest.mark.parametrize(
    "head",
    [
        X86_HEAD,
        b"",
        bytes.fromhex("f30f1efa 55 4889e5"),  # endbr64; push %rbp; mov %rsp, %rbp
        bytes.fromhex("f30f1efa 53 4883ec10"),
    ],
)
def test_what_the_stub_calls_is_the_internal_function(head):
    assert read_of(x86(head)) == READ
    assert write_of(x86(head)) == WriteInternal(READ, has_flags=False)


def test_room_for_flags_is_told_by_the_registers():
    head = X86_SHIFT + X86_HEAD
    assert write_of(x86(head, WRITE, public=WRITE)) == WriteInternal(WRITE, has_flags=True)


def test_newer_stub_has_flags_by_its_name_and_the_older_one_is_not_looked_at():
    elf = x86(target=WRITE, public=WRITE)
    elf.put(OTHER, X86_SHIFT, b"\xeb\xd9")  # SSL_write_ex only jumps
    functions = {"SSL_write": PUBLIC, "SSL_write_ex": OTHER, "SSL_write_ex2": STUB}
    assert write_internal(elf, functions) == WriteInternal(WRITE, has_flags=True)


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        (bytes.fromhex("48837f3000 7405"), X86_TAIL),  # looks into the object first
        (bytes.fromhex("4889fb be01000000"), X86_TAIL),  # has arguments of its own
        (X86_HEAD, bytes.fromhex("e800000000") + X86_TAIL),  # calls two
        (X86_HEAD, bytes.fromhex("ffd0") + X86_TAIL),  # and through a pointer
        (X86_HEAD, b"\xeb\x00" + X86_TAIL),
        (X86_HEAD, b"\x90" * 300),  # does not return
        (X86_HEAD + b"\xc3", b""),  # does nothing
        (X86_HEAD, b"\x06" * 300),  # is no code
    ],
)
def test_function_that_does_more_is_no_stub(head, tail):
    assert read_of(x86(head, tail=tail)) is None
    assert write_of(x86(head, tail=tail)) is None


def test_function_that_is_called_through_a_pointer_is_not_known():
    elf = x86(target=bytes.fromhex("ffd0"), public=bytes.fromhex("ffd0"))
    assert read_of(elf) is None


def test_public_function_that_calls_another_one_vouches_for_nothing():
    assert read_of(x86(public=WRITE)) is None
    assert write_of(x86(public=WRITE)) is None


def test_function_of_another_library_is_no_internal_one():
    assert read_of(x86(target=0x310, public=0x310)) is None
    assert read_of(x86(target=0x380, public=0x380)) == 0x380


def test_target_outside_of_the_file_is_none():
    assert read_of(x86(target=0x10000, public=0x10000)) is None


def test_without_the_functions_there_is_none():
    elf = x86()
    assert read_internal(elf, {}) is None
    assert read_internal(elf, {"SSL_read_ex": STUB}) is None
    assert read_internal(elf, {"SSL_read": PUBLIC}) is None
    assert write_internal(elf, {"SSL_write": PUBLIC}) is None


def test_function_at_the_end_of_the_file_is_read_as_far_as_it_goes():
    elf = x86()
    elf.put(elf.size - 8, X86_HEAD)
    assert read_internal(elf, {"SSL_read": PUBLIC, "SSL_read_ex": elf.size - 8}) is None


def arm64(head=ARM64_HEAD, target=READ, tail=ARM64_TAIL):
    elf = FakeElf("aarch64")
    elf.put(STUB, head, target, tail)
    elf.put(PUBLIC, ARM64_HEAD, pack("<I", 0x37F80122), READ, ARM64_TAIL)  # tbnz w2, #31
    return elf


def test_arm64():
    assert read_of(arm64()) == READ
    assert write_of(arm64()) == WriteInternal(READ, has_flags=False)
    assert write_of(arm64(ARM64_SHIFT + ARM64_HEAD)) == WriteInternal(READ, has_flags=True)
    signed = pack("<I", 0xD503233F)  # paciasp
    assert read_of(arm64(signed + ARM64_HEAD, tail=pack("<I", 0xD65F0BFF))) == READ


def test_arm64_calls_forward_and_backward():
    elf = arm64(target=OTHER)
    elf.put(PUBLIC, OTHER, ARM64_TAIL)
    assert read_of(elf) == OTHER


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        (pack("<I", 0xF9401800), ARM64_TAIL),  # ldr x0, [x0, #48]
        (ARM64_HEAD, pack("<I", 0x14000001) + ARM64_TAIL),  # b
        (ARM64_HEAD, pack("<I", 0x94000001) + ARM64_TAIL),  # bl
    ],
)
def test_arm64_function_that_does_more_is_no_stub(head, tail):
    assert read_of(arm64(head, tail=tail)) is None


def test_machine_that_is_not_known_has_none():
    elf = x86()
    elf.machine = "machine 243"
    assert read_of(elf) is None


# Real files, where they are installed.

NAMES = ("SSL_read", "SSL_read_ex", "SSL_write", "SSL_write_ex", "SSL_write_ex2")


def internals(path):
    with Elf(path) as elf:
        functions = elf.functions(NAMES)
        return read_internal(elf, functions), write_internal(elf, functions), functions


def wheel(package, pattern):
    """A library in the wheel of a distribution."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for path in sorted(Path(folder).glob(pattern)):
            return path
    pytest.skip(f"there is no {pattern} in {package}")
    return None


def test_openssl_of_this_system():
    for path in sorted(Path("/usr/lib").glob("*-linux-*/libssl.so.3")):
        read, write, functions = internals(path)
        assert None not in {read, write}
        assert {read, write.offset}.isdisjoint(functions.values())
        assert write.has_flags == ("SSL_write_ex2" in functions)
        return
    pytest.skip("there is no libssl.so.3 here")


@pytest.mark.parametrize(
    ("package", "pattern"),
    [
        ("psycopg_binary", "../psycopg_binary.libs/libssl-*"),
        ("mysql.connector", "../vendor/libssl.so.3"),
        ("cryptography", "hazmat/bindings/_rust.abi3.so"),
    ],
)
def test_openssl_with_flags(package, pattern):
    read, write, functions = internals(wheel(package, pattern))
    assert {read, write.offset}.isdisjoint(functions.values())
    assert write.has_flags


def test_internal_function_with_a_symbol_is_the_one_that_was_found():
    path = wheel("mysql.connector", "../vendor/libssl.so.3")
    with Elf(path) as elf:
        named = elf.functions(["ssl_read_internal", "ssl_write_internal"])
    if not named:
        pytest.skip("this libssl has no symbols of its own functions")
    read, write, _ = internals(path)
    assert named == {"ssl_read_internal": read, "ssl_write_internal": write.offset}


def test_node_has_put_them_into_its_public_functions():
    path = shutil.which("node")
    if path is None:
        pytest.skip("node is not installed")
    with Elf(path) as elf:
        named = elf.functions(["ssl_read_internal", "ssl_write_internal"])
    read, write, _ = internals(path)
    assert read in {None, named.get("ssl_read_internal")}
    assert write is None or write.offset == named.get("ssl_write_internal")
