# SPDX-License-Identifier: Apache-2.0
"""The binding itself: what it finds, and what it says when it does not."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
from types import SimpleNamespace

import pytest

from tracer import libbpf, library_probes
from tracer.errors import LoadError
from tracer.objects import NoObjectError, object_path

needs_libbpf = pytest.mark.skipif(
    ctypes.util.find_library("bpf") is None, reason="libbpf is not installed"
)

ARGUMENTS = {
    "set_max_entries": (1,),
    "attach_uprobe": ("/bin/sh", 0),
    "attach_uprobes": ("/bin/sh", [(0, 1)]),
}
"""Of calls that take more than a name."""


@pytest.fixture
def no_cache():
    """The library is opened once a process; these tests want it opened anew."""
    libbpf._library.cache_clear()
    yield
    libbpf._library.cache_clear()


def test_missing_library_says_what_to_install(monkeypatch, no_cache):
    monkeypatch.setattr(libbpf, "LIBRARY", "libbpf.so.0.nowhere")
    for call in (libbpf.libbpf_version, libbpf.possible_cpus):
        with pytest.raises(LoadError, match=r"cannot be loaded.*apt-get install libbpf1"):
            call()


@needs_libbpf
def test_library_without_a_function_is_too_old(monkeypatch, no_cache):
    monkeypatch.setitem(libbpf.PROTOTYPES, "bpf_object__from_the_future", (ctypes.c_int, ()))
    with pytest.raises(LoadError, match=r"too old.*bpf_object__from_the_future"):
        libbpf.possible_cpus()


@needs_libbpf
def test_version_is_that_of_the_library():
    major, minor = libbpf.libbpf_version()
    assert major == 1
    assert minor >= 0


@needs_libbpf
def test_failure_carries_errno_and_what_libbpf_said(tmp_path):
    path = tmp_path / "not-an-object"
    path.write_bytes(b"\x7fELF but not really, and long enough to be looked at")
    with pytest.raises(libbpf.LibbpfError) as caught:
        libbpf.BpfObject(path)
    assert caught.value.errno
    assert str(path) in str(caught.value)
    assert "libbpf: " in caught.value.log


@needs_libbpf
def test_missing_file_is_enoent(tmp_path):
    with pytest.raises(libbpf.LibbpfError) as caught:
        libbpf.BpfObject(tmp_path / "nothing")
    assert caught.value.errno == errno.ENOENT


@needs_libbpf
@pytest.mark.parametrize(
    "attempt", [*ARGUMENTS, "map_fd", "leave_out", "attach", "take_many_places"]
)
def test_unknown_name_is_an_error(attempt):
    try:
        path = object_path()
    except NoObjectError as error:
        pytest.skip(str(error))
    opened = libbpf.BpfObject(path)
    arguments = ARGUMENTS.get(attempt, ())
    options = {"is_return": False} if "uprobe" in attempt else {}
    if attempt == "attach_uprobe":
        options["cookie"] = 1
    with pytest.raises(libbpf.LibbpfError, match="no_such_thing"):
        getattr(opened, attempt)("no_such_thing", *arguments, **options)
    opened.close()
    opened.close()


@pytest.mark.kernel
@pytest.mark.parametrize("place", ["no file", "a folder"])
def test_probe_that_cannot_be_is_an_error(capturing, tmp_path, place):
    opened = capturing(tls=True).source._object
    path = tmp_path if place == "a folder" else tmp_path / "nothing"
    if library_probes.has_many_places():
        with pytest.raises(libbpf.LibbpfError, match="attach tls_enter") as caught:
            opened.attach_uprobes("tls_enter", str(path), [(0, 1)], is_return=False)
    else:
        with pytest.raises(libbpf.LibbpfError, match="attach tls_enter") as caught:
            opened.attach_uprobe("tls_enter", str(path), 0, is_return=False, cookie=1)
    assert caught.value.errno


def test_object_that_a_thread_may_be_inside_of_is_not_freed():
    freed = []
    opened = libbpf.BpfObject.__new__(libbpf.BpfObject)
    opened._pointer = 1
    opened._lib = SimpleNamespace(bpf_object__close=freed.append)
    opened.is_abandoned = True
    opened.close()
    assert freed == []
    opened.is_abandoned = False
    opened.close()
    opened.close()
    assert freed == [1]
