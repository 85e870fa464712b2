# SPDX-License-Identifier: Apache-2.0
"""The structs of the compiled objects against their Python twins."""

from __future__ import annotations

import struct

import pytest

from tracer import abi
from tracer.abi import ABI, check_abi
from tracer.btf import Btf
from tracer.errors import LoadError
from tracer.objects import BUILT


def btf_of(path):
    """The .BTF section of an ELF file, found as libbpf finds it."""
    raw = path.read_bytes()
    offset = struct.unpack_from("<Q", raw, 40)[0]
    size, number, names_index = struct.unpack_from("<HHH", raw, 58)
    sections = [struct.unpack_from("<IIQQQQ", raw, offset + i * size) for i in range(number)]
    names = sections[names_index][4]
    for name, _, _, _, start, length in sections:
        if raw[names + name :].startswith(b".BTF\0"):
            return Btf(raw[start : start + length])
    raise AssertionError("no .BTF section")


@pytest.fixture(params=["x86_64", "aarch64"])
def types(request):
    path = BUILT / f"wirespan.bpf.{request.param}.o"
    if not path.exists():
        pytest.skip(f"{path.name} is not built: `make -C bpf` builds it")
    return btf_of(path)


def test_objects_agree_with_their_twins(types):
    check_abi(types)


@pytest.mark.parametrize("name", ABI)
def test_every_struct_is_held_against_its_twin(types, monkeypatch, name):
    layout = ABI[name]
    for wrong in (layout.format + "B", layout.format.replace("Q", "I", 1), "<Q"):
        monkeypatch.setitem(abi.ABI, name, struct.Struct(wrong))
        if struct.Struct(wrong).format == layout.format:
            continue
        with pytest.raises(LoadError, match=f"disagree about struct {name}"):
            check_abi(types)


def test_struct_that_the_object_lacks_is_told(types, monkeypatch):
    monkeypatch.setitem(abi.ABI, "ws_novelty", struct.Struct("<Q"))
    with pytest.raises(LoadError, match="ws_novelty"):
        check_abi(types)


def test_settings_are_where_the_loader_expects_them(types):
    assert {"snaplen", "by_syscall", "exclude_self", "filter_pids"} <= set(
        types.variables(".rodata")
    )
    assert "trace_tls" in types.variables(".rodata")
    assert {"pending_offset", "tls_epoch", "has_go"} <= set(types.variables(".bss"))
