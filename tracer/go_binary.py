# SPDX-License-Identifier: Apache-2.0
"""Go programs: their version, and where their functions begin and return.

The table of functions (pclntab) is what the Go runtime walks stacks with, so it is there after
`-s -w` and `strip` too. Its entries count from the start of Go's code. Since Go 1.26 the table
does not tell that start, and `.text` may begin with C code; so it is taken from the runtime's
moduledata, which points to the table and is believed if its bounds are those of the table.

No loop in Python goes over functions: the name's place is looked for as a number. Four functions of
a program of 127 MB take 55 ms, without section headers 130 ms.

Returns are given instruction by instruction, as a return probe (uretprobe) changes an address
on the stack, and Go moves stacks. For the same reason an entry may be reached twice in one call:
where the stack must grow, the function is begun again.

Formats: Go src/runtime/symtab.go (pcHeader, moduledata), src/debug/gosym/pclntab.go,
src/debug/buildinfo/buildinfo.go, src/cmd/link/internal/ld/pcln.go;
src/cmd/compile/abi-internal.md. Equal to `go tool objdump` on Go 1.24 and 1.26; read without
symbols to compare with: Go 1.19 and 1.21 to 1.25.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from struct import Struct
from typing import Final

from tracer.elf import Elf, ElfError, ElfTooMuchError, Section
from tracer.elf_scan import MAX_TABLE_BYTES

BUILDINFO_MAGIC: Final = b"\xff Go buildinf:"
BUILDINFO: Final = Struct("<14sBB16x")
"""Magic, pointer size, flags, and in Go to 1.17 pointers to the texts of version and modules."""
BUILDINFO_BIG_ENDIAN: Final = 1
BUILDINFO_INLINE: Final = 2
"""The texts follow the header, each after its length (since Go 1.18)."""
BUILDINFO_ALIGNMENT: Final = 16
MAX_VERSION_BYTES: Final = 127
"""What a length of one byte can say, and more than any version needs."""
VERSION: Final = re.compile(r"(?:devel )?go1\.(\d+)")

MAGIC_116: Final = 0xFFFFFFFA
MAGIC_118: Final = 0xFFFFFFF0
MAGIC_120: Final = 0xFFFFFFF1
TABLE: Final = re.compile(rb"[\xfa\xf0\xf1]\xff\xff\xff\0\0[\x01\x04]\x08")
"""How a table begins: magic, two zeros, size of an instruction, size of a pointer."""
HEADER_116: Final = Struct("<IHBBQQQQQQQ")
"""Functions, files, then offsets of: names, units, files, pcs, functions."""
HEADER_118: Final = Struct("<IHBBQQ8xQQQQQ")
"""The same with an address after the files, which Go 1.26 leaves empty."""
REGISTER_ABI: Final = {"x86_64": 17, "aarch64": 18}
"""The first Go 1.x whose functions take their arguments in registers."""

POINTER: Final = Struct("<Q")
U32: Final = Struct("<I")
RELA_BYTES: Final = 24
DT_RELA: Final = 7
DT_RELASZ: Final = 8
RELATIVE: Final = {"x86_64": 8, "aarch64": 1027}
"""R_X86_64_RELATIVE, R_AARCH64_RELATIVE: the addend is the address."""
MODULE_WORDS: Final = 64
"""How far into moduledata the bounds are looked for; in Go 1.18 to 1.26 they are at word 20."""

MAX_CANDIDATES: Final = 64
"""Places that look like a table, a build info or a moduledata, and are none."""
MAX_HITS: Final = 100_000
"""Numbers in the table that are a name's by accident."""
MAX_MISFITS: Final = 1024
"""Places where a pointer is found across two others."""
MAX_FUNCTION_BYTES: Final = 128 * 1024
MAX_RETURNS: Final = 256
"""Of one function; those of crypto/tls have some ten."""
ARM64_RET: Final = 0xD65F03C0
ARM64_BRANCH: Final = 0x54000000
ARM64_BRANCH_MASK: Final = 0xFF000010
"""B.cond (Arm ARM C6.2)."""
CHECK_INSTRUCTIONS: Final = 5
"""A function begins with a comparison of the stack pointer with its end and a branch to
runtime.morestack, if it has that at all (cmd/internal/obj/x86 stacksplit)."""
X86_BRANCHES: Final = frozenset({"jbe", "jb"})
X86_RETURNS: Final = frozenset({"ret", "repz ret"})


@dataclass(slots=True, frozen=True)
class GoFunction:
    """Places in the file where a function can be hooked."""

    entry: int
    begin: int
    """Behind the check of the stack, which runs twice if the stack has to grow; arguments and
    stack pointer are still as at the entry. What stands there the kernel mostly emulates (`push`),
    where it would have to step through a comparison: ten times as fast."""
    returns: tuple[int, ...]
    """All its RET instructions, in order; never none."""


def go_version(elf: Elf) -> str | None:
    """`go1.26.1`, `devel go1.27-abc...`; None where this is no Go program.

    Raises:
        ElfError: the file contradicts itself.
        OSError: it cannot be read.
    """
    section = elf.section(".go.buildinfo")
    areas = [section] if section else [one for one in elf.segments if one.is_writable]
    places = elf.positions(re.compile(re.escape(BUILDINFO_MAGIC)), *areas) if areas else iter(())
    for place in islice(places, MAX_CANDIDATES):
        address = elf.address_of(place)
        # Programs that read others' build info hold the magic as a text, anywhere.
        if address is not None and address % BUILDINFO_ALIGNMENT == 0:
            version = _version_at(elf, place, address).decode("utf-8", "replace")
            if VERSION.match(version):
                return version
    return None


def _version_at(elf: Elf, place: int, address: int) -> bytes:
    _, pointer_bytes, flags = BUILDINFO.unpack(elf.read(place, BUILDINFO.size))
    if flags & BUILDINFO_INLINE:
        place += BUILDINFO.size
        (size,) = elf.read(place, 1)
        return elf.read(place + 1, size) if size <= MAX_VERSION_BYTES else b""
    if pointer_bytes != POINTER.size or flags & BUILDINFO_BIG_ENDIAN:
        return b""
    pointers = _Pointers(elf)
    text = pointers.at(address + 16)
    size = pointers.word(text + POINTER.size)
    start = elf.position_of(pointers.at(text))
    return elf.read(start, size) if start is not None and size <= MAX_VERSION_BYTES else b""


def go_functions(elf: Elf, names: Collection[str]) -> dict[str, GoFunction]:
    """Those of the functions (`crypto/tls.(*Conn).Read`) that can be hooked.

    Empty for programs of Go before 1.17 (on arm64 before 1.18): there arguments are on the
    stack, and probes that read registers would report what happens to be in them. Left out is a
    function that was inlined or linked away, whose name is not unique, that never returns or in
    too many places, or whose instructions cannot all be read: half of its returns would be worse
    than none.

    Raises:
        ElfError: the file contradicts itself.
        OSError: it cannot be read.
    """
    version = VERSION.match(go_version(elf) or "")
    if version is None or int(version[1]) < REGISTER_ABI.get(elf.machine, sys.maxsize):
        return {}
    table = _find_table(elf)
    if table is None:
        return {}
    start = table.text_start()
    found = {}
    for name in names:
        bounds = table.bounds(name)
        if start is None or bounds is None or not 0 < bounds[1] - bounds[0] < MAX_FUNCTION_BYTES:
            continue
        entry = elf.offset_of(start + bounds[0])
        if entry is None:
            continue
        begin, returns = _places(elf.machine, elf.read(entry, bounds[1] - bounds[0]))
        if 0 < len(returns) <= MAX_RETURNS:
            found[name] = GoFunction(entry, entry + begin, tuple(entry + at for at in returns))
    return found


def _find_table(elf: Elf) -> _FunctionTable | None:
    section = elf.section(".gopclntab", ".data.rel.ro.gopclntab")
    if section is not None:
        return _FunctionTable(elf, section)
    # Only some linkers put it between code, and code is what takes long to search.
    for segment in sorted(elf.segments, key=lambda one: one.is_executable):
        for place in islice(elf.positions(TABLE, segment), MAX_CANDIDATES):
            # How long it is only sections say; nothing in it leads further than it goes.
            size = min(segment.offset + segment.size - place, MAX_TABLE_BYTES)
            address = place - segment.offset + segment.address
            try:
                return _FunctionTable(elf, Section(address, place, size))
            except ElfTooMuchError:
                raise
            except ElfError:
                continue
    return None


class _FunctionTable:
    """pclntab: for each function in order of its address where it begins and what it is.

    Raises:
        ElfError: here, if this is none.
    """

    def __init__(self, elf: Elf, area: Section) -> None:
        self._elf = elf
        self._address = area.address
        head = elf.read(area.offset, min(area.size, HEADER_118.size))
        if not TABLE.match(head) or len(head) < HEADER_118.size:
            raise ElfError("the function table of Go begins in a way that is not known")
        (self.magic,) = U32.unpack_from(head)
        is_old = self.magic == MAGIC_116
        header = HEADER_116 if is_old else HEADER_118
        *_, count, _, names, units, _, _, functions = header.unpack_from(head)
        self._layout = Struct("<QI" if is_old else "<II")
        """How the record of a function begins: its entry and the place of its name."""
        width = POINTER.size if is_old else U32.size
        size = (2 * count + 1) * width
        if not (count > 0 and names <= units <= functions <= functions + size <= area.size):
            raise ElfError("the function table of Go leads out of itself")
        data = elf.read(area.offset, area.size)
        self._data = data
        self._names = (names, units)
        self._records = functions
        """What the places of records count from."""
        self._begin = functions + size
        fields = memoryview(data)[functions : self._begin].cast("Q" if is_old else "I")
        self._entries = fields[::2]
        """Where the functions begin, and after the last one where it ends."""
        self._places = fields[1::2]

    def bounds(self, name: str) -> tuple[int, int] | None:
        """Where the one function of this name begins and where the next one does."""
        found = {
            index
            for place in self._name_places(name.encode() + b"\0")
            for index in self._indices(place)
        }
        if len(found) != 1:
            return None
        index = found.pop()
        return self._entries[index], self._entries[index + 1]

    def text_start(self) -> int | None:
        """The address that entries count from; None if nothing vouches for one."""
        if self.magic == MAGIC_116:
            return 0
        first, last = self._entries[0], self._entries[-1]
        pointers = _Pointers(self._elf)
        for module in islice(pointers.holders(self._address), MAX_CANDIDATES):
            words = [pointers.at(module + n * POINTER.size) for n in range(MODULE_WORDS)]
            for low, high, text in zip(words, words[1:], words[2:], strict=False):
                if text and low - text == first and high - text == last:
                    return text
        return None

    def _name_places(self, text: bytes) -> Iterator[int]:
        """Where in the table of names the text is a whole name: linkers write it once."""
        start, end = self._names
        at = self._elf.scan.find(self._data, b"\0" + text, start, end)
        if at >= 0:
            yield at + 1 - start

    def _indices(self, name_place: int) -> Iterator[int]:
        """Which functions have their name there.

        The place is looked for as a number, and each hit has to be in a record that the list
        of functions leads to.
        """
        field = U32.pack(name_place)
        before = self._layout.size - U32.size
        at = self._elf.scan.find(self._data, field, self._begin + before)
        for _ in range(MAX_HITS):
            if at < 0:
                return
            record = at - before
            entry, _ = self._layout.unpack_from(self._data, record)
            index = bisect_left(self._entries, entry)
            if (
                index < len(self._places)
                and self._entries[index] == entry
                and self._places[index] == record - self._records
            ):
                yield index
            at = self._elf.scan.find(self._data, field, at + 1)
        raise ElfTooMuchError("too many places look like a function of Go")


class _Pointers:
    """Pointers in data as the program has them: in the file, or in a relocation (PIE)."""

    def __init__(self, elf: Elf) -> None:
        self._elf = elf

    def at(self, address: int) -> int:
        """The pointer at an address; 0 where there is none."""
        row = self._find(self._targets, _pack(address))
        if row is not None and self._is_relative(row):
            return int(POINTER.unpack_from(self._rows, row * RELA_BYTES + 16)[0])
        return self.word(address)

    def word(self, address: int) -> int:
        """The eight bytes at an address in the file; 0 where there are none."""
        offset = self._elf.position_of(address)
        if offset is None or offset + POINTER.size > self._elf.size:
            return 0
        return int(POINTER.unpack(self._elf.read(offset, POINTER.size))[0])

    def holders(self, value: int) -> Iterator[int]:
        """Addresses in writable data where this pointer is."""
        data = [one for one in self._elf.segments if one.is_writable]
        pattern = re.compile(re.escape(_pack(value)))
        for place in self._elf.positions(pattern, *data) if data else ():
            address = self._elf.address_of(place)
            if address is not None and address % POINTER.size == 0:
                yield address
        row = self._find(self._addends, _pack(value))
        for _ in range(MAX_CANDIDATES):
            if row is None:
                return
            if self._is_relative(row):
                yield int(POINTER.unpack_from(self._rows, row * RELA_BYTES)[0])
            row = self._find(self._addends, _pack(value), row + 1)

    def _find(self, column: bytes, pointer: bytes, row: int = 0) -> int | None:
        """The next row of a column of pointers that holds this one."""
        at = self._elf.scan.find(column, pointer, row * POINTER.size)
        for _ in range(MAX_MISFITS):
            if at < 0:
                return None
            if at % POINTER.size == 0:
                return at // POINTER.size
            at = self._elf.scan.find(column, pointer, at + 1)
        return None

    def _is_relative(self, row: int) -> bool:
        (info,) = POINTER.unpack_from(self._rows, row * RELA_BYTES + 8)
        return bool(info == RELATIVE.get(self._elf.machine))

    @cached_property
    def _rows(self) -> bytes:
        """The relocations of the program: (address, kind, addend), each of eight bytes."""
        start = self._elf.position_of(self._elf.dynamic.get(DT_RELA, 0))
        size = self._elf.dynamic.get(DT_RELASZ, 0)
        return b"" if start is None else self._elf.read(start, size // RELA_BYTES * RELA_BYTES)

    @cached_property
    def _targets(self) -> bytes:
        return memoryview(self._rows).cast("Q")[0::3].tobytes()

    @cached_property
    def _addends(self) -> bytes:
        return memoryview(self._rows).cast("Q")[2::3].tobytes()


def _pack(pointer: int) -> bytes:
    """As it is in memory; a file that lies can lead past the end of the addresses."""
    return POINTER.pack(pointer & 0xFFFF_FFFF_FFFF_FFFF)


def _places(machine: str, code: bytes) -> tuple[int, list[int]]:
    """Where a function begins its work, and its RET instructions; none if some cannot be read."""
    if machine == "aarch64":
        words = memoryview(code)[: len(code) // U32.size * U32.size].cast("I")
        returns = [index * U32.size for index, word in enumerate(words) if word == ARM64_RET]
        for index, word in enumerate(words[:CHECK_INSTRUCTIONS]):
            if word & ARM64_BRANCH_MASK == ARM64_BRANCH:
                return (index + 1) * U32.size, returns
        return 0, returns
    # Loading it takes 50 ms, which only who meets a Go program shall pay.
    from capstone import CS_ARCH_X86, CS_MODE_64, Cs  # type: ignore[import-untyped]  # noqa: PLC0415

    begin = end = 0
    returns = []
    instructions = Cs(CS_ARCH_X86, CS_MODE_64).disasm_lite(code, 0)
    for number, (at, size, word, _) in enumerate(instructions):
        if word in X86_RETURNS:
            returns.append(at)
        end = at + size
        if not begin and number < CHECK_INSTRUCTIONS and word in X86_BRANCHES:
            begin = end
    return (begin, returns) if end == len(code) else (0, [])
