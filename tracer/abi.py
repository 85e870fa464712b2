# SPDX-License-Identifier: Apache-2.0
"""Holds the structs of a BPF object against their Python twins, before anything is loaded."""

from __future__ import annotations

import struct
from typing import Final

from tracer import events
from tracer.btf import Btf
from tracer.errors import LoadError

ABI: Final = {
    "ws_open": events.OPEN_STRUCT,
    "ws_data": events.DATA_STRUCT,
    "ws_peer": events.PEER_STRUCT,
    "ws_close": events.CLOSE_STRUCT,
    "ws_counter": events.COUNTER_STRUCT,
    "ws_verdict": events.VERDICT_STRUCT,
}


def check_abi(types: Btf) -> None:
    """Hold the object's structs against tracer/events.py.

    Raises:
        LoadError: they differ.
    """
    for name, layout in ABI.items():
        fields = types.struct(name)
        found = [(field.offset, field.size) for field in fields or ()]
        if found != _layout(layout) or types.struct_size(name) != layout.size:
            raise LoadError(
                f"the BPF object and this program disagree about struct {name}",
                "they are of different versions; build or install both again",
            )


def _layout(layout: struct.Struct) -> list[tuple[int, int]]:
    """Offset and size of each field of a `<` format."""
    fields = []
    offset = 0
    count = ""
    for character in layout.format[1:]:
        if character.isdigit():
            count += character
            continue
        repeat = 1 if character == "s" else int(count or 1)
        unit = f"<{count}s" if character == "s" else f"<{character}"
        count = ""
        for _ in range(repeat):
            fields.append((offset, struct.calcsize(unit)))
            offset += struct.calcsize(unit)
    return fields
