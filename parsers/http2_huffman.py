# SPDX-License-Identifier: Apache-2.0
"""The Huffman code of HPACK, and how to hide a secret that is written in it.

Spec: RFC 7541 section 5.2, appendix B.

Bytes are decoded by a table of states, one step a byte; a state is a node of the code's tree.
Steps are worked out when they are first taken: texts need few of the 65536.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from parsers.model import ParseError

EOS: Final = 256
SHORTEST_BITS: Final = 5
LONGEST_BITS: Final = 30
MAX_PADDING_BITS: Final = 7
_SPREAD: Final = LONGEST_BITS - SHORTEST_BITS

BLANKS: Final = {
    # The first of each length that ends no part of a URL; of the longest, any.
    length: next(
        symbol
        for symbol in (*range(0x30, 0x7F), *range(0x21, 0x30), *range(0x80, 0x100), 0x16, *range(9))
        if REQUEST_CODES_LENGTH[symbol] == length and symbol not in b'/?#&;@=:,"'
    )
    for length in sorted(set(REQUEST_CODES_LENGTH))
}
"""A symbol for each length of a code, to stand for a secret's."""


def _grow_tree() -> list[list[int]]:
    """The tree's inner nodes, each with its two children: a node, or a symbol below zero."""
    nodes = [[0, 0]]
    for symbol, (code, length) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)):
        node = 0
        for shift in range(length - 1, 0, -1):
            bit = code >> shift & 1
            if not nodes[node][bit]:
                nodes.append([0, 0])
                nodes[node][bit] = len(nodes) - 1
            node = nodes[node][bit]
        nodes[node][code & 1] = ~symbol
    return nodes


def _padded() -> frozenset[int]:
    """States in which a string may end: less than a byte of ones since the last symbol."""
    found = [0]
    for _ in range(MAX_PADDING_BITS):
        found.append(_NODES[found[-1]][1])
    return frozenset(state << 8 for state in found)


_NODES: Final = _grow_tree()
_ENDS: Final = _padded()
_steps: list[tuple[int, bytes] | None] = [None] * (len(_NODES) << 8)
"""By state and byte: the next state (times 256) and the symbols that have ended."""


def decode(data: bytes) -> bytes:
    """The text of a Huffman string.

    Raises:
        ParseError: it is none.
    """
    steps = _steps
    state = 0
    parts = []
    for byte in data:
        step = steps[state | byte]
        if step is None:
            step = _step(state, byte)
        state, symbols = step
        if symbols:
            parts.append(symbols)
    if state not in _ENDS:
        raise ParseError("Huffman string without its end")
    return b"".join(parts)


def _step(state: int, byte: int) -> tuple[int, bytes]:
    node = state >> 8
    symbols = b""
    for shift in range(7, -1, -1):
        node = _NODES[node][byte >> shift & 1]
        if node < 0:
            if ~node == EOS:
                raise ParseError("end of string inside a Huffman string")
            symbols += bytes((~node,))
            node = 0
    _steps[state | byte] = step = (node << 8, symbols)
    return step


def encode(text: bytes) -> bytes:
    """`text` as a Huffman string."""
    bits = "".join([f"{REQUEST_CODES[each]:0{REQUEST_CODES_LENGTH[each]}b}" for each in text])
    bits += "1" * (-len(bits) % 8)
    return int(bits or "0", 2).to_bytes(len(bits) // 8, "big")


def hide(text: bytes, secrets: Iterable[tuple[int, int]]) -> bytes:
    """`text` with other symbols in place of its secrets: as many, and as long when encoded.

    They say nothing of the secret but its length in symbols and in bits.
    """
    hidden = bytearray(text)
    for start, stop in secrets:
        bits = sum([REQUEST_CODES_LENGTH[each] for each in text[start:stop]])
        hidden[start:stop] = _blank(stop - start, bits)
    return bytes(hidden)


def _blank(count: int, bits: int) -> bytes:
    """`count` symbols of `bits` bits together; that there are some is known."""
    extra = bits - SHORTEST_BITS * count
    longest = extra // _SPREAD
    rest = extra % _SPREAD
    lengths = [LONGEST_BITS] * longest
    if rest:
        tail = _split(rest, count - longest)
        if not tail:
            # There is room for one more: let it share with the last of the longest.
            lengths.pop()
            tail = _split(rest + _SPREAD, 2)
        lengths += tail
    lengths += [SHORTEST_BITS] * (count - len(lengths))
    return bytes([BLANKS[length] for length in lengths])


def _split(extra: int, count: int) -> list[int]:
    """One or two lengths of codes that are `extra` bits longer than the shortest ones."""
    if SHORTEST_BITS + extra in BLANKS:
        return [SHORTEST_BITS + extra]
    if count < 2:
        return []
    rest = 2 * SHORTEST_BITS + extra
    length = next(each for each in BLANKS if rest - each in BLANKS)
    return [length, rest - length]
