# SPDX-License-Identifier: Apache-2.0
"""Field blocks of HTTP/2, read by somebody who only listens: HPACK without an answer.

Spec: RFC 7541; RFC 9113 sections 4.3 and 8.3.

* What was inserted before the listener came, or while bytes were lost, is unknown. Indexes count
  from the newest entry, so those inserted since are found all the same, and an index behind the
  oldest known one gives an unknown field. Entries are dropped only from that end: an index can
  never find a wrong one.
* Only the values of `READ_FIELDS` are decoded and kept. Of others nothing is kept but their
  size, which the table must know (section 4.1).
* Blocks repeat. What a block says depends on it and on the table, so both together are the key
  under which it is kept, with what it does to the table; a table is named by a number that is
  the same for all tables with the same history.
"""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import Final, NamedTuple

from hpack.table import HeaderTable

from parsers.cache import Cache
from parsers.http2_huffman import decode, encode, hide
from parsers.http_attributes import secret_ranges
from parsers.model import ParseError

DEFAULT_TABLE_BYTES: Final = 4096
"""SETTINGS_HEADER_TABLE_SIZE before anybody has said otherwise (RFC 9113 section 6.5.2)."""
MAX_TABLE_BYTES: Final = 64 * 1024
"""What browsers and proxies allow. Of a larger table the oldest entries count as unknown."""
MAX_FIELDS: Final = 4096
"""In a block. Servers accept about a hundred; a byte may stand for one."""
MAX_INTEGER: Final = 1 << 31
MAX_INTEGER_SHIFT: Final = 28
"""Five bytes of continuation: more than MAX_INTEGER needs."""
MAX_LIST_CHARS: Final = 16 * 1024
"""Of a field that came in several lines, as they are put together."""
MAX_CACHED_BYTES: Final = 2048
"""A block or string of more is not kept: it will hardly come again."""
MAX_SHARED_CHANGES: Final = 16
"""Blocks that have changed a table, after which no other connection is likely to have the same:
what changes it further is not kept."""
BLOCK_BYTES: Final = 600
"""About what a block that is kept takes beside its bytes."""

READ_FIELDS: Final = frozenset(
    {
        ":authority",
        ":method",
        ":path",
        ":protocol",
        ":scheme",
        ":status",
        "content-type",
        "forwarded",
        "grpc-status",
        "grpc-timeout",
        "host",
        "user-agent",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    }
)
LISTS: Final = frozenset({"forwarded", "x-forwarded-for"})
"""Those that mean the same when they are sent in several lines (RFC 9110 section 5.3)."""
AUTHORITIES: Final = frozenset({":authority", "host", "x-forwarded-host"})
_READ: Final = {each.encode(): each for each in READ_FIELDS}

ENTRY_BYTES: Final = 32
"""What an entry takes beside its name and value (RFC 7541 section 4.1)."""


class Name(NamedTuple):
    """The name of a field."""

    key: str
    """Empty if nobody reads it."""
    size: int


class Entry(NamedTuple):
    """One of a table; of one that nobody reads nothing but its size."""

    name: Name
    value: str
    size: int


UNKNOWN: Final = Entry(Name("?", 0), "", ENTRY_BYTES)
"""Inserted where nobody saw it."""
STATIC: Final = [UNKNOWN] + [
    Entry(Name(_READ.get(name, ""), len(name)), value.decode() if name in _READ else "", 0)
    for name, value in HeaderTable.STATIC_TABLE
]
"""RFC 7541 appendix A, by index."""

Change = Entry | int
"""What a block does to a table: an entry inserted, or another maximum size."""
Mark = tuple[int, int, bytes]
"""A range of a block that must not be kept, and what stands for it; blank if nothing does."""


class Block:
    """What a field block says. Shared by all with the same bytes and the same table."""

    __slots__ = ("changes", "fields", "head", "marks", "next_table", "partial")

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        """Values of `READ_FIELDS`."""
        self.partial = False
        """Some fields are unknown."""
        self.changes: list[Change] = []
        self.next_table = 0
        self.marks: list[Mark] = []
        self.head: object = None
        """What a reader has made of it."""


_NEW: Final = 0
"""The table of a connection that has just begun."""
_JOINED: Final = 1
"""The table of one that was joined late."""
_tables: Final = count(2)

_blocks: Cache[tuple[int, bytes], Block] = Cache()
_marked_blocks: Cache[tuple[int, bytes], Block] = Cache()
"""With the ranges that must not be kept."""
_names: Cache[bytes, Name] = Cache()
_coded_names: Cache[bytes, Name] = Cache()
_coded_values: Cache[bytes, str] = Cache()


class Decoder:
    """The table of one direction."""

    __slots__ = ("_capacity", "_changes", "_entries", "_size", "_table")

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        """The newest is the last."""
        self._capacity = DEFAULT_TABLE_BYTES
        self._size = 0
        self._changes = 0
        self._table = _NEW

    def forget(self) -> None:
        """Blocks were lost, or came before the listener: so did inserts and size updates."""
        self._entries.clear()
        self._capacity = MAX_TABLE_BYTES
        self._size = 0
        self._changes = 0
        self._table = _JOINED

    def read(self, block: bytes, *, marking: bool = False) -> Block:
        """What `block` says.

        Raises:
            ParseError: it is no field block.
        """
        cache = _marked_blocks if marking else _blocks
        key = (self._table, block)
        known = cache.get(key)
        if known is not None:
            if known.changes:
                for change in known.changes:
                    self._apply(change)
                self._changes += 1
                self._table = known.next_table
            return known
        found = _Walk(self, block, marking=marking).block
        if found.changes:
            self._changes += 1
            self._table = found.next_table = next(_tables)
            if self._changes > MAX_SHARED_CHANGES:
                return found
        if len(block) <= MAX_CACHED_BYTES:
            held = sum(map(len, found.fields.values()))
            cache.keep(key, found, BLOCK_BYTES + 2 * len(block) + held)
        return found

    def entry(self, index: int) -> Entry:
        """The entry at `index` of both tables together (RFC 7541 section 2.3.3)."""
        if index < len(STATIC):
            return STATIC[index]
        index -= len(STATIC)
        entries = self._entries
        return entries[-1 - index] if index < len(entries) else UNKNOWN

    def insert(self, entry: Entry) -> None:
        """Add the newest entry; one larger than the table empties it (section 4.4)."""
        self._entries.append(entry)
        self._size += entry.size
        if self._size > self._capacity:
            self._evict()

    def resize(self, capacity: int) -> None:
        """The encoder has chosen another maximum size."""
        self._capacity = min(capacity, MAX_TABLE_BYTES)
        self._evict()

    def _apply(self, change: Change) -> None:
        if isinstance(change, int):
            self.resize(change)
        else:
            self.insert(change)

    def _evict(self) -> None:
        entries = self._entries
        while self._size > self._capacity:
            self._size -= entries.popleft().size


class _Walk:
    """One pass over a block."""

    __slots__ = ("_data", "_decoder", "_marking", "_position", "block")

    def __init__(self, decoder: Decoder, data: bytes, *, marking: bool) -> None:
        self.block = Block()
        self._decoder = decoder
        self._data = data
        self._marking = marking
        self._position = 0
        try:
            self._read_fields()
        except IndexError:
            raise ParseError("a field block ends inside a field") from None

    def _read_fields(self) -> None:
        data = self._data
        end = len(data)
        block = self.block
        entry = self._decoder.entry
        number = 0
        updates = 0
        while self._position < end:
            first = data[self._position]
            if first & 0x80:
                # Indexed (section 6.1); nearly all fields are.
                if first == 0x80:
                    raise ParseError("index 0")
                if first < 0xFF:
                    self._position += 1
                    found = entry(first & 0x7F)
                else:
                    found = entry(self._integer(first, 0x7F))
                key = found[0][0]
                if key:
                    self._add(key, found[1])
            elif first & 0x40:
                # Literal, to be inserted (section 6.2.1).
                name = self._name(first, 0x3F)
                inserted = self._value(name, inserts=True)
                self._decoder.insert(inserted)
                block.changes.append(inserted)
            elif first & 0x20:
                # Another maximum size, which stands at the beginning (sections 4.2, 6.3).
                if number > updates:
                    raise ParseError("size update behind a field")
                updates += 1
                capacity = self._integer(first, 0x1F)
                self._decoder.resize(capacity)
                block.changes.append(capacity)
            else:
                # Literal, not to be inserted (sections 6.2.2, 6.2.3).
                self._value(self._name(first, 0x0F), inserts=False)
            number += 1
            if number > MAX_FIELDS:
                raise ParseError(f"more than {MAX_FIELDS} fields")

    def _integer(self, first: int, mask: int) -> int:
        """Section 5.1; `first` is the byte at the position."""
        number = first & mask
        self._position += 1
        if number < mask:
            return number
        data = self._data
        for shift in range(0, MAX_INTEGER_SHIFT + 1, 7):
            byte = data[self._position]
            self._position += 1
            number += (byte & 0x7F) << shift
            if byte < 0x80:
                if number > MAX_INTEGER:
                    break
                return number
        raise ParseError("integer of more than 31 bits")

    def _string(self) -> tuple[bytes, bool]:
        """A string as it stands, and whether it is Huffman coded (section 5.2)."""
        data = self._data
        first = data[self._position]
        size = self._integer(first, 0x7F)
        start = self._position
        self._position = stop = start + size
        if stop > len(data):
            raise ParseError("a field block ends inside a string")
        return data[start:stop], first >= 0x80

    def _name(self, first: int, mask: int) -> Name:
        index = self._integer(first, mask)
        if index:
            return self._decoder.entry(index).name
        raw, coded = self._string()
        known = (_coded_names if coded else _names).get(raw)
        if known is not None:
            return known
        text = decode(raw) if coded else raw
        name = Name(_READ.get(text, ""), len(text))
        if len(raw) <= MAX_CACHED_BYTES:
            (_coded_names if coded else _names).keep(raw, name, 2 * len(raw) + ENTRY_BYTES)
        return name

    def _value(self, name: Name, *, inserts: bool) -> Entry:
        """The value of a literal, and what it would be in the table."""
        raw, coded = self._string()
        read = name.key
        value = ""
        size = len(raw)
        if read and name is not UNKNOWN.name:
            known = _coded_values.get(raw) if coded else None
            if known is None:
                text = decode(raw) if coded else raw
                value = text.decode("utf-8", "backslashreplace")
                if coded and len(raw) <= MAX_CACHED_BYTES and value.isascii():
                    _coded_values.keep(raw, value, len(raw) + len(value))
                size = len(text)
            else:
                value = known
                size = len(value)
        elif coded and inserts:
            size = len(decode(raw))
        if read:
            self._add(read, value)
        if self._marking:
            self._mark(read, raw, coded=coded)
        return Entry(name, value, ENTRY_BYTES + name.size + size)

    def _add(self, key: str, value: str) -> None:
        block = self.block
        fields = block.fields
        if key == "?":
            block.partial = True
        elif key not in fields:
            fields[key] = value
        elif key in LISTS and len(fields[key]) < MAX_LIST_CHARS:
            fields[key] += ", " + value

    def _mark(self, key: str, raw: bytes, *, coded: bool) -> None:
        """Say which bytes of the string just read must not be kept."""
        start = self._position - len(raw)
        try:
            text = decode(raw) if coded else raw
        except ParseError:
            # Of a value that nobody decodes, nobody says so either.
            self.block.marks.append((start, self._position, b""))
            return
        if not key or key == "?":
            secrets = [(0, len(text))]
        elif key == ":path":
            secrets = list(secret_ranges(text))
        elif key in AUTHORITIES:
            # Not the `@`: without it the value would be a host.
            secrets = [(0, max(text.rfind(b"@"), 0))]
        else:
            return
        secrets = [each for each in secrets if each[1] > each[0]]
        if secrets and coded:
            self.block.marks.append((start, self._position, encode(hide(text, secrets))))
        else:
            self.block.marks += [(start + a, start + b, b"") for a, b in secrets]
