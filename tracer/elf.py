# SPDX-License-Identifier: Apache-2.0
"""Executable files: where their functions are, and what texts they hold.

A file may be Node's: 100 MB and two tables of 75,000 and 110,000 symbols. So no loop in Python
goes over symbols. Those of `.dynsym` are looked up through its GNU hash table, as the dynamic
linker does it, which works without section headers too. `.symtab` has none: there the name is
looked for in the string table, and its place then among the symbols' name fields.
`functions` with 14 names on Node takes 10 ms.

The file is read with pread and not mapped: a mapped library that somebody truncates while it is
read (`cp` over it does) would end the agent with SIGBUS, while a read just comes back short.
Each number that comes from the file may be wrong; what leads out of the file is an ElfError.

Formats: System V gABI chapters 4 and 5, ELF-64 Object File Format 1.5, LSB 5.0 10.7 (versions);
glibc elf/dl-lookup.c (GNU hash table).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator
from functools import cached_property
from struct import Struct
from typing import Final, NamedTuple, Self

from tracer.elf_scan import HIT_BYTES, LOOK_BYTES, MAX_TABLE_BYTES, ElfError, ElfTooMuchError, Scan

__all__ = ["Elf", "ElfError", "ElfTooMuchError", "Section", "Segment"]

HEADER: Final = Struct("<18xH12xQQ6xHHHHH")
SEGMENT: Final = Struct("<IIQQ8xQ16x")
SECTION: Final = Struct("<II8xQQQI20x")
SYMBOL: Final = Struct("<IBxHQ8x")
DYNAMIC: Final = Struct("<QQ")
HASH_HEAD: Final = Struct("<IIII")
U16: Final = Struct("<H")
U32: Final = Struct("<I")

IDENT: Final = b"\x7fELF\2\1"
"""Magic, ELFCLASS64, ELFDATA2LSB."""
MACHINES: Final = {62: "x86_64", 183: "aarch64"}
"""e_machine in the words of uname."""

PT_LOAD: Final = 1
PT_DYNAMIC: Final = 2
PF_X: Final = 1
PF_W: Final = 2
SHT_SYMTAB: Final = 2
SHT_NOBITS: Final = 8
SHT_DYNSYM: Final = 11
SHN_XINDEX: Final = 0xFFFF
STT_FUNC: Final = 2
DT_STRTAB: Final = 5
DT_SYMTAB: Final = 6
DT_GNU_HASH: Final = 0x6FFFFEF5
DT_VERSYM: Final = 0x6FFFFFF0
VERSYM_HIDDEN: Final = 0x8000

MAX_FILE_BYTES: Final = 4 * 1024 * 1024 * 1024
"""A search goes over all of a file, at 3 GB a second."""
MAX_SEGMENTS: Final = 128
"""Linkers make about ten; each is looked at for each address."""
PATTERN_WEIGHT: Final = 4
"""A pattern takes so many times as long to find as a text."""
MAX_SECTIONS: Final = 65_536
MAX_DYNAMIC_BYTES: Final = 64 * 1024
MAX_CHAIN: Final = 4096
"""Symbols in one bucket of the hash table; linkers aim at a few."""
MAX_TAILS: Final = 1024
"""Places where a name is found in a table of strings: programs have hundreds of `..._main`."""
MAX_HITS: Final = 16
"""Symbols that have one name, or look as if they had it by accident."""
CHUNK_BYTES: Final = 1024 * 1024
"""Searches hold this much of the file, and not all of it."""
OVERLAP_BYTES: Final = 4096
"""What one match of a pattern may be long."""


class Section(NamedTuple):
    """A part of the file by its name."""

    address: int
    offset: int
    size: int


class Segment(NamedTuple):
    """A part of the file that is loaded (PT_LOAD), without what is only zeros in memory."""

    address: int
    offset: int
    size: int
    is_executable: bool
    is_writable: bool


class _SectionHeader(NamedTuple):
    name: int
    type: int
    link: int
    section: Section


class _Symbol(NamedTuple):
    name: int
    info: int
    section: int
    address: int


_Hit = tuple[bytes, int, _Symbol]
"""A name, and the symbol that has it, with its number in the table."""


class Elf:
    """One open ELF file; a context manager.

    Raises:
        ElfError: here and from each method, where the file is none that can be used, or
            ElfTooMuchError, where more than `budget_bytes` would be read and searched.
        OSError: likewise, where it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, budget_bytes: int = LOOK_BYTES) -> None:
        self.scan: Final = Scan(budget_bytes)
        # Without O_NONBLOCK the open of a pipe would wait for somebody to write to it.
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._read_headers(path)
        except BaseException:
            self.close()
            raise

    def _read_headers(self, path: str | os.PathLike[str]) -> None:
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            raise ElfError(f"{path} is not a regular file")
        self.size = status.st_size
        """Bytes of the file."""
        if self.size > MAX_FILE_BYTES:
            raise ElfTooMuchError(f"it has {self.size} bytes, more than are searched")
        if self.size < HEADER.size or self.read(0, 4) != IDENT[:4]:
            raise ElfError(f"{path} is no ELF file")
        if self.read(0, len(IDENT)) != IDENT:
            raise ElfError(f"{path} is not a 64-bit little-endian ELF file")
        machine, segments, sections, *sizes = HEADER.unpack(self.read(0, HEADER.size))
        self.machine = MACHINES.get(machine, f"machine {machine}")
        """`x86_64`, `aarch64`, or the number of any other."""
        if sizes[1] > MAX_SEGMENTS:
            raise ElfTooMuchError(f"it has {sizes[1]} segments, more than {MAX_SEGMENTS}")
        headers = self._table(SEGMENT, segments, *sizes[:2])
        self.segments = tuple(
            Segment(address, offset, size, bool(flags & PF_X), bool(flags & PF_W))
            for kind, flags, offset, address, size in headers
            if kind == PT_LOAD
        )
        """What is loaded, in the order of the file."""
        self._dynamic_areas = [
            Section(address, offset, size)
            for kind, _, offset, address, size in headers
            if kind == PT_DYNAMIC
        ]
        self._sections, self._names = self._read_sections(sections, *sizes[2:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes of the file from `offset` on, neither more nor fewer."""
        if not (0 <= offset <= offset + size <= self.size):
            raise ElfError(f"{size} bytes at {offset:#x} are not in the file")
        if size > MAX_TABLE_BYTES:
            raise ElfTooMuchError(f"{size} bytes at {offset:#x} are too many for one table")
        self.scan.spend(size)
        data = os.pread(self._file, size, offset)
        if len(data) != size:
            raise ElfError("the file was cut while it was read")
        return data

    def section(self, *names: str) -> Section | None:
        """The first section that has one of the names, and bytes in the file."""
        wanted = tuple(name.encode() + b"\0" for name in names)
        for header in self._sections:
            if header.type != SHT_NOBITS and self._names.startswith(wanted, header.name):
                return header.section
        return None

    def offset_of(self, address: int) -> int | None:
        """Where in the file the instruction at `address` is: what uprobes take."""
        return self.position_of(address, only_code=True)

    def position_of(self, address: int, *, only_code: bool = False) -> int | None:
        """Where in the file the byte at `address` is, code or data."""
        for one in self.segments:
            if (one.is_executable or not only_code) and 0 <= address - one.address < one.size:
                offset = address - one.address + one.offset
                return offset if offset < self.size else None
        return None

    def address_of(self, offset: int) -> int | None:
        """Where the byte at `offset` of the file is in memory, before relocation."""
        for one in self.segments:
            if one.offset <= offset < one.offset + one.size:
                return offset - one.offset + one.address
        return None

    @cached_property
    def dynamic(self) -> dict[int, int]:
        """The values of the dynamic section (PT_DYNAMIC) by tag; of several the first."""
        values: dict[int, int] = {}
        for area in self._dynamic_areas[:1]:
            size = min(area.size, MAX_DYNAMIC_BYTES) // DYNAMIC.size * DYNAMIC.size
            for tag, value in DYNAMIC.iter_unpack(self.read(area.offset, size)):
                if tag == 0:
                    break
                values.setdefault(tag, value)
        return values

    def contains(self, text: bytes, *areas: Section | Segment) -> bool:
        """Whether the text is anywhere in the areas; without any, in the file."""
        return any(text in chunk for _, chunk, _ in self._chunks(areas, max(len(text) - 1, 0)))

    def search(
        self, pattern: re.Pattern[bytes], *areas: Section | Segment
    ) -> re.Match[bytes] | None:
        """The first match in the areas; without any, in the file.

        Its positions count from anywhere, so its groups are what is of use; `positions` has
        places. A match may have 4 KiB; anchors and looks behind see the edges of chunks.
        """
        return next((match for _, match in self._matches(pattern, areas)), None)

    def positions(self, pattern: re.Pattern[bytes], *areas: Section | Segment) -> Iterator[int]:
        """Where in the file the matches begin; else as `search`."""
        return (start + match.start() for start, match in self._matches(pattern, areas))

    def functions(self, names: Collection[str]) -> dict[str, int]:
        """Where in the file the functions begin, of those names that it defines.

        Of a name with several versions it is the default one (`SSL_read@@OPENSSL_3.0.0`).
        A function that the program chooses when it is loaded (STT_GNU_IFUNC) is left out, as
        its symbol is the chooser. A visibility of "hidden" does not matter: it ends where
        linking does, and static libraries are often built with it.
        """
        found: dict[bytes, int] = {}
        wanted = [name.encode() for name in names if name and "\0" not in name]
        for look_up in (self._exported, self._searched):
            for name, _, symbol in look_up([one for one in wanted if one not in found]):
                if symbol.info & 0xF == STT_FUNC and symbol.section and symbol.address:
                    offset = self.offset_of(symbol.address)
                    if offset is not None:
                        found.setdefault(name, offset)
        return {name.decode(): offset for name, offset in found.items()}

    def _exported(self, names: Collection[bytes]) -> Iterator[_Hit]:
        """What `.dynsym` has of the names, hidden versions last."""
        has_hash = DT_GNU_HASH in self.dynamic
        hits = self._hashed(names) if has_hash else self._searched(names, SHT_DYNSYM)
        if DT_VERSYM not in self.dynamic:
            yield from hits
            return
        versions = self._dynamic_position(DT_VERSYM)
        hidden = []
        for hit in hits:
            (version,) = U16.unpack(self.read(versions + hit[1] * U16.size, U16.size))
            if version & VERSYM_HIDDEN:
                hidden.append(hit)
            else:
                yield hit
        yield from hidden

    def _hashed(self, names: Collection[bytes]) -> Iterator[_Hit]:
        """What the GNU hash table leads to."""
        start = self._dynamic_position(DT_GNU_HASH)
        symbols = self._dynamic_position(DT_SYMTAB)
        strings = self._dynamic_position(DT_STRTAB)
        buckets, first, bloom, _ = HASH_HEAD.unpack(self.read(start, HASH_HEAD.size))
        table = start + HASH_HEAD.size + bloom * 8
        chains = table + buckets * U32.size
        for name in names if buckets else ():
            wanted = _gnu_hash(name)
            bucket = self._number(table + wanted % buckets * U32.size)
            if bucket < first:
                continue
            for index in range(bucket, bucket + MAX_CHAIN):
                value = self._number(chains + (index - first) * U32.size)
                # The lowest bit says that the bucket ends here.
                if value | 1 == wanted | 1:
                    data = self.read(symbols + index * SYMBOL.size, SYMBOL.size)
                    symbol = _Symbol._make(SYMBOL.unpack(data))
                    if self.read(strings + symbol.name, len(name) + 1) == name + b"\0":
                        yield name, index, symbol
                if value & 1:
                    break
            else:
                raise ElfError("a bucket of the hash table does not end")

    def _searched(self, names: Collection[bytes], kind: int = SHT_SYMTAB) -> Iterator[_Hit]:
        """What `.symtab` or `.dynsym` has of the names, found without a hash table."""
        header = next((one for one in self._sections if one.type == kind), None)
        if header is None or not names:
            return
        if header.link >= len(self._sections):
            raise ElfError(f"a symbol table names section {header.link} for its strings")
        symbols, strings = header.section, self._sections[header.link].section
        texts = self.read(strings.offset, strings.size)
        table = self.read(symbols.offset, symbols.size // SYMBOL.size * SYMBOL.size)
        numbers = memoryview(table).cast("I")[:: SYMBOL.size // U32.size].tobytes()
        for name in names:
            # Linkers let a name be the tail of a longer one, so it may begin anywhere.
            for place in self.scan.places(texts, name + b"\0", MAX_TAILS):
                for at in self.scan.places(numbers, U32.pack(place), MAX_HITS):
                    index, misfit = divmod(at, U32.size)
                    if not misfit:
                        symbol = SYMBOL.unpack_from(table, index * SYMBOL.size)
                        yield name, index, _Symbol._make(symbol)

    def _dynamic_position(self, tag: int) -> int:
        """Where in the file the table is that the dynamic section names."""
        position = self.position_of(self.dynamic.get(tag, 0))
        if position is None:
            raise ElfError(f"what the dynamic section has for tag {tag:#x} is not in the file")
        return position

    def _number(self, offset: int) -> int:
        (value,) = U32.unpack(self.read(offset, U32.size))
        return int(value)

    def _table(
        self, layout: Struct, offset: int, entry_bytes: int, count: int
    ) -> list[tuple[int, ...]]:
        if count and entry_bytes != layout.size:
            raise ElfError(f"headers of {entry_bytes} bytes instead of {layout.size}")
        return list(layout.iter_unpack(self.read(offset, count * layout.size) if count else b""))

    def _read_sections(
        self, offset: int, entry_bytes: int, count: int, names: int
    ) -> tuple[list[_SectionHeader], bytes]:
        """The section headers and the table of their names; neither if there are none."""
        if not offset:
            return [], b""
        if not count or names == SHN_XINDEX:
            # Numbers that do not fit are in the first header (gABI 4, "Section Header").
            (first,) = self._table(SECTION, offset, entry_bytes, 1)
            count = count or first[4]
            names = first[5] if names == SHN_XINDEX else names
        if count > MAX_SECTIONS:
            raise ElfError(f"{count} sections")
        headers = [
            _SectionHeader(name, kind, link, Section(address, place, size))
            for name, kind, address, place, size, link in self._table(
                SECTION, offset, entry_bytes, count
            )
        ]
        if names >= len(headers):
            return headers, b""
        area = headers[names].section
        return headers, self.read(area.offset, area.size)

    def _matches(
        self, pattern: re.Pattern[bytes], areas: Collection[Section | Segment]
    ) -> Iterator[tuple[int, re.Match[bytes]]]:
        for start, chunk, own in self._chunks(areas, OVERLAP_BYTES):
            self.scan.spend(PATTERN_WEIGHT * len(chunk))
            for match in pattern.finditer(chunk):
                # What begins in the overlap is whole only in the next chunk.
                if match.start() >= own:
                    break
                self.scan.spend(HIT_BYTES)
                yield start, match

    def _chunks(
        self, areas: Collection[Section | Segment], overlap: int
    ) -> Iterator[tuple[int, bytes, int]]:
        """(place in the file, bytes, how many of them are not in the next chunk again)."""
        for area in areas or (Section(0, 0, self.size),):
            start, end = area.offset, area.offset + area.size
            while start < end:
                chunk = self.read(start, min(CHUNK_BYTES + overlap, end - start))
                own = len(chunk) if start + len(chunk) == end else CHUNK_BYTES
                yield start, chunk, own
                start += own


def _gnu_hash(name: bytes) -> int:
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value
