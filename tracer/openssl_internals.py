# SPDX-License-Identifier: Apache-2.0
"""The functions of OpenSSL that all reads and writes pass, which no symbol names.

BIO_f_ssl (`openssl s_server -www`, programs with BIO_new_ssl_connect) does not call SSL_read
but ssl_read_internal, as SSL_read and SSL_read_ex do themselves. Of these SSL_read_ex is little
more than the call, so its machine code tells where ssl_read_internal is. It is believed if
SSL_read_ex hands on its arguments as they came, calls nothing else before it returns, and
SSL_read calls the same function.

Where a compiler has put ssl_read_internal into its callers (Node at -O3) there is no such call.
There the public functions are all that can be hooked, and BIO_f_ssl is not seen.

Equal to the symbols of builds that have them: of OpenSSL 3.0.7, 3.1.4 and 3.2.2 on x86-64 and
arm64, of 3.5.8 on x86-64.

Formats: OpenSSL ssl/ssl_lib.c, ssl/bio_ssl.c; System V ABI for x86-64 3.2.3 and AAPCS64 6.8.2,
for the registers of arguments; Arm Architecture Reference Manual for A-profile C6.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Final, NamedTuple

from tracer.elf import Elf

MAX_STUB_BYTES: Final = 256
"""Of a function, looked at; SSL_read with a canary on its stack has some 70 to its RET."""
TRAMPOLINES: Final = (".plt", ".plt.sec", ".plt.got")
"""Calls that lead there are of other libraries, or of functions that another may replace."""

X86_PREFACE: Final = re.compile(
    r"endbr64|nop|push r\w+|mov rbp, rsp|sub rsp, \w+|xor ecx, ecx|mov ecx, 0"
)
"""What a function may begin with that hands on its arguments; ecx is that of the flags."""
X86_SHIFT: Final = "mov r8, rcx"
"""The fourth argument becomes the fifth."""
X86_RETURNS: Final = frozenset({"ret", "repz ret"})
ARM64_PREFACE: Final[tuple[tuple[int, int], ...]] = (
    (0xFFFFF01F, 0xD503201F),  # HINT: NOP, BTI, PACIASP
    (0xFFC07FFF, 0xA9807BFD),  # STP x29, x30, [sp, #-N]!
    (0xFFC003FF, 0xD10003FF),  # SUB sp, sp, #N
    (0xFFC07FFF, 0xA9007BFD),  # STP x29, x30, [sp, #N]
    (0xFFC003FF, 0x910003FD),  # ADD x29, sp, #N
    (0x7FFFFFFF, 0x52800003),  # MOV x3, #0
    (0x7FFFFFFF, 0x2A1F03E3),  # MOV x3, xzr
)
"""Mask and value of the same."""
ARM64_SHIFT: Final = 0xAA0303E4
"""MOV x4, x3."""
ARM64_RETURNS: Final = frozenset({0xD65F03C0, 0xD65F0BFF, 0xD65F0FFF})
"""RET, RETAA, RETAB."""
ARM64_BRANCH_MASK: Final = 0xFC000000
ARM64_B: Final = 0x14000000
ARM64_BL: Final = 0x94000000
WORD_BYTES: Final = 4


class WriteInternal(NamedTuple):
    """ssl_write_internal."""

    offset: int
    """Into the file, bytes."""
    has_flags: bool
    """OpenSSL 3.3 on: flags come before the place for the count."""


class _Kind(Enum):
    """What an instruction does, as far as it matters."""

    PREFACE = auto()
    SHIFT = auto()
    CALL = auto()
    JUMP = auto()
    """What follows in the file does not follow when it runs."""
    RETURN = auto()
    OTHER = auto()


class _Step(NamedTuple):
    kind: _Kind
    target: int = 0
    """The address that it calls."""


def read_internal(elf: Elf, functions: Mapping[str, int]) -> int | None:
    """Where ssl_read_internal(ssl, buffer, length, *count) begins in the file.

    `functions` has what is known of the file, by name. None if nothing vouches for a place.

    Raises:
        ElfError, OSError: as Elf.
    """
    target, _ = _handed_on(elf, functions.get("SSL_read_ex"))
    return _confirmed(elf, target, functions.get("SSL_read"))


def write_internal(elf: Elf, functions: Mapping[str, int]) -> WriteInternal | None:
    """Likewise ssl_write_internal(ssl, buffer, length, *count), or (..., flags, *count)."""
    newer = functions.get("SSL_write_ex2")
    if newer is not None:  # SSL_write_ex only calls it
        target, has_flags = _handed_on(elf, newer)[0], True
    else:
        target, has_flags = _handed_on(elf, functions.get("SSL_write_ex"))
    offset = _confirmed(elf, target, functions.get("SSL_write"))
    return None if offset is None else WriteInternal(offset, has_flags)


def _handed_on(elf: Elf, function: int | None) -> tuple[int, bool]:
    """Whom a function calls with the arguments it got, and whether it makes room for flags.

    0 if it does anything else. A function with others put into it has a first call as well,
    of something else altogether; but by then it has looked at its arguments.
    """
    steps = _steps(elf, function)
    kinds = [step.kind for step in steps]
    if kinds.count(_Kind.CALL) != 1 or _Kind.JUMP in kinds or kinds[-1] is not _Kind.RETURN:
        return 0, False
    at = kinds.index(_Kind.CALL)
    if not {*kinds[:at]} <= {_Kind.PREFACE, _Kind.SHIFT}:
        return 0, False
    return steps[at].target, _Kind.SHIFT in kinds[:at]


def _confirmed(elf: Elf, target: int, caller: int | None) -> int | None:
    """Where in the file it is, if the caller calls it too and it is no trampoline."""
    if _Step(_Kind.CALL, target) not in _steps(elf, caller):
        return None
    areas = map(elf.section, TRAMPOLINES)
    if any(area and 0 <= target - area.address < area.size for area in areas):
        return None
    return elf.offset_of(target)


def _steps(elf: Elf, function: int | None) -> list[_Step]:
    """The instructions of a function up to its first return, if that is near."""
    address = None if function is None else elf.address_of(function)
    if function is None or address is None:
        return []
    code = elf.read(function, min(MAX_STUB_BYTES, elf.size - function))
    decode = {"x86_64": _x86_steps, "aarch64": _arm64_steps}.get(elf.machine)
    steps = []
    for step in decode(code, address) if decode is not None else ():
        steps.append(step)
        if step.kind is _Kind.RETURN:
            break
    return steps


def _x86_steps(code: bytes, address: int) -> Iterator[_Step]:
    # Loading it takes 50 ms, which only who meets OpenSSL or a Go program shall pay.
    from capstone import CS_ARCH_X86, CS_MODE_64, Cs  # type: ignore[import-untyped]  # noqa: PLC0415

    for _, _, word, operands in Cs(CS_ARCH_X86, CS_MODE_64).disasm_lite(code, address):
        text = f"{word} {operands}".rstrip()
        if word == "call":
            # Through a pointer: 0 is nobody's address.
            yield _Step(_Kind.CALL, int(operands, 16) if operands.startswith("0x") else 0)
        elif word in X86_RETURNS:
            yield _Step(_Kind.RETURN)
        elif word == "jmp":
            yield _Step(_Kind.JUMP)
        elif text == X86_SHIFT:
            yield _Step(_Kind.SHIFT)
        else:
            yield _Step(_Kind.PREFACE if X86_PREFACE.fullmatch(text) else _Kind.OTHER)


def _arm64_steps(code: bytes, address: int) -> Iterator[_Step]:
    words = memoryview(code)[: len(code) // WORD_BYTES * WORD_BYTES].cast("I")
    for index, word in enumerate(words):
        branch = word & ARM64_BRANCH_MASK
        if branch == ARM64_BL:
            distance = (word & ~ARM64_BRANCH_MASK) * WORD_BYTES
            distance -= (distance & 1 << 27) << 1  # 26 bits with a sign
            yield _Step(_Kind.CALL, address + index * WORD_BYTES + distance)
        elif word in ARM64_RETURNS:
            yield _Step(_Kind.RETURN)
        elif branch == ARM64_B:
            yield _Step(_Kind.JUMP)
        elif word == ARM64_SHIFT:
            yield _Step(_Kind.SHIFT)
        else:
            is_preface = any(word & mask == value for mask, value in ARM64_PREFACE)
            yield _Step(_Kind.PREFACE if is_preface else _Kind.OTHER)
