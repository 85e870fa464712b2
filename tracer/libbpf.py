# SPDX-License-Identifier: Apache-2.0
"""libbpf 1.x by ctypes: the functions that the loader uses, and no others.

API: libbpf/src/libbpf.h, libbpf/src/bpf.h, stable since 1.0.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Sequence
from ctypes import c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracer.errors import LoadError

LIBRARY: Final = "libbpf.so.1"
INSTALL: Final = "install libbpf 1.0 or newer; on Debian and Ubuntu: apt-get install libbpf1"

MAX_LOG_CHARACTERS: Final = 1 << 20
"""What is kept of libbpf's words, from the end: there the verifier gives its reason."""
LEVEL_WARN: Final = 0
"""`enum libbpf_print_level`."""
VA_LIST_BYTES: Final = 32
"""Of the larger of the two kinds: 24 on x86-64, 32 on arm64; both are passed by address."""
STATS_RUN_TIME: Final = 0
"""`enum bpf_stats_type`."""

PROTOTYPES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "bpf_object__open_file": (c_void_p, (c_char_p, c_void_p)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__btf": (c_void_p, (c_void_p,)),
    "bpf_object__find_program_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_object__find_map_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_program__set_autoload": (c_int, (c_void_p, c_bool)),
    "bpf_program__set_expected_attach_type": (c_int, (c_void_p, c_int)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__attach": (c_void_p, (c_void_p,)),
    "bpf_program__attach_cgroup": (c_void_p, (c_void_p, c_int)),
    "bpf_program__attach_iter": (c_void_p, (c_void_p, c_void_p)),
    "bpf_program__attach_uprobe_opts": (
        c_void_p,
        (c_void_p, c_int, c_char_p, c_size_t, c_void_p),
    ),
    "bpf_link__fd": (c_int, (c_void_p,)),
    "bpf_link__destroy": (c_int, (c_void_p,)),
    "bpf_iter_create": (c_int, (c_int,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__initial_value": (c_void_p, (c_void_p, c_void_p)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map__set_value_size": (c_int, (c_void_p, c_uint32)),
    "bpf_map_update_elem": (c_int, (c_int, c_char_p, c_char_p, c_uint64)),
    "bpf_map_lookup_elem": (c_int, (c_int, c_char_p, c_char_p)),
    "bpf_map_delete_elem": (c_int, (c_int, c_char_p)),
    "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_enable_stats": (c_int, (c_int,)),
    "btf__raw_data": (c_void_p, (c_void_p, c_void_p)),
    "libbpf_num_possible_cpus": (c_int, ()),
    "libbpf_set_print": (c_void_p, (c_void_p,)),
}

BPF_SYSCALL: Final = {"x86_64": 321, "aarch64": 280}
LINK_CREATE: Final = 28
TRACE_UPROBE_MULTI: Final = 48
UPROBE_MULTI_RETURN: Final = 1
"""include/uapi/linux/bpf.h, asm/unistd.h"""

_log: list[str] = []


class LibbpfError(OSError):
    """A call into libbpf failed; `log` is what libbpf said about it."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(number, f"{what}: {os.strerror(number)}")
        self.log = "".join(_log)


class ProgramStats(NamedTuple):
    """What the kernel counts of a program (`struct bpf_prog_info`)."""

    run_time_ns: int
    """0 unless statistics are on, see `enable_stats`."""
    run_count: int
    recursion_misses: int
    """Times the program was not run, since it was running on that CPU already."""


class _ProgramInfo(ctypes.Structure):
    """`struct bpf_prog_info` up to the last member used."""

    _fields_ = (
        ("before", ctypes.c_uint8 * 192),
        ("run_time_ns", c_uint64),
        ("run_count", c_uint64),
        ("recursion_misses", c_uint64),
    )


class _LinkCreate(ctypes.Structure):
    """The part of `union bpf_attr` that BPF_LINK_CREATE takes for BPF_TRACE_UPROBE_MULTI."""

    _fields_ = (
        ("program", c_uint32),
        ("target", c_uint32),
        ("attach_type", c_uint32),
        ("flags", c_uint32),
        ("path", c_char_p),
        ("offsets", c_void_p),
        ("reference_counters", c_void_p),
        ("cookies", c_void_p),
        ("count", c_uint32),
        ("uprobe_flags", c_uint32),
        ("pid", c_uint32),
        ("pad", c_uint32),
    )


class _UprobeOptions(ctypes.Structure):
    """`struct bpf_uprobe_opts`."""

    _fields_ = (
        ("size", c_size_t),
        ("reference_counter_offset", c_size_t),
        ("cookie", c_uint64),
        ("is_return", c_bool),
        ("function", c_char_p),
    )


def _print(level: int, message: int, arguments: int) -> int:
    if level == LEVEL_WARN:
        _log.append(_format(message, arguments))
        if sum(map(len, _log)) > MAX_LOG_CHARACTERS:
            _log[:] = ["".join(_log)[-MAX_LOG_CHARACTERS:]]
    return 0


def _format(message: int, arguments: int) -> str:
    """`vsnprintf`; formatting uses the argument list up, so each time gets a copy."""
    vsnprintf = ctypes.CDLL(None).vsnprintf
    vsnprintf.argtypes = (c_void_p, c_size_t, c_void_p, c_void_p)
    original = ctypes.string_at(arguments, VA_LIST_BYTES)
    size = vsnprintf(None, 0, message, ctypes.create_string_buffer(original)) + 1
    text = ctypes.create_string_buffer(max(size, 1))
    vsnprintf(text, size, message, ctypes.create_string_buffer(original))
    return text.value.decode(errors="replace")


_PRINTER = ctypes.CFUNCTYPE(c_int, c_int, c_void_p, c_void_p)(_print)
"""Kept here, for libbpf does not keep it."""


def _open_library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError as error:
        raise LoadError(f"{LIBRARY} cannot be loaded ({error})", INSTALL) from None


def libbpf_version() -> tuple[int, int]:
    """Of the library that is installed.

    Raises:
        LoadError: there is none.
    """
    library = _open_library()
    return library.libbpf_major_version(), library.libbpf_minor_version()


@cache
def _library() -> ctypes.CDLL:
    library = _open_library()
    for name, (result, arguments) in PROTOTYPES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise LoadError(f"{LIBRARY} is too old, it has no {name}", INSTALL) from None
        function.restype = result
        function.argtypes = arguments
    library.libbpf_set_print(_PRINTER)
    return library


def _checked(result: int | None, what: str, *, is_pointer: bool = False) -> int:
    """`result`, unless it says that the call failed (libbpf 1.x: NULL or -1, and errno)."""
    if result is None or (not is_pointer and result < 0):
        number = ctypes.get_errno() or (-result if result is not None else errno.EINVAL)
        raise LibbpfError(number, what)
    return result


class Link:
    """A program at its hook, until `close`; the kernel undoes it if we die."""

    def __init__(self, pointer: int) -> None:
        self._pointer: int | None = pointer

    @property
    def fd(self) -> int:
        return int(_library().bpf_link__fd(self._pointer))

    def close(self) -> None:
        if self._pointer is not None:
            _library().bpf_link__destroy(self._pointer)
            self._pointer = None


class MultiLink:
    """A program at many places of one file, until `close`: one wait for the kernel, not many."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


class BpfObject:
    """An object file: open, configure, load, attach."""

    is_abandoned = False
    """A thread may be inside of it for ever: `close` leaves it to the end of the process."""

    def __init__(self, path: Path) -> None:
        del _log[:]
        self._lib = _library()
        self._pointer: int | None = _checked(
            self._lib.bpf_object__open_file(str(path).encode(), None),
            f"open {path}",
            is_pointer=True,
        )

    def btf(self) -> bytes:
        """The types of the object."""
        size = c_uint32()
        btf = self._lib.bpf_object__btf(self._pointer)
        data = self._lib.btf__raw_data(btf, ctypes.byref(size)) if btf else None
        return ctypes.string_at(data, size.value) if data else b""

    def write_initial(self, map_name: str, offset: int, data: bytes) -> None:
        """Write into a data section before it is loaded."""
        size = c_size_t()
        start = self._lib.bpf_map__initial_value(self._map(map_name), ctypes.byref(size))
        if start is None or offset + len(data) > size.value:
            raise LibbpfError(errno.EINVAL, f"set {len(data)} bytes of {map_name} at {offset}")
        ctypes.memmove(start + offset, data, len(data))

    def set_max_entries(self, map_name: str, number: int) -> None:
        _checked(
            self._lib.bpf_map__set_max_entries(self._map(map_name), number), f"size {map_name}"
        )

    def set_value_size(self, map_name: str, size_bytes: int) -> None:
        _checked(
            self._lib.bpf_map__set_value_size(self._map(map_name), size_bytes), f"size {map_name}"
        )

    def leave_out(self, program_name: str) -> None:
        """Do not load a program."""
        program = self._program(program_name)
        _checked(self._lib.bpf_program__set_autoload(program, False), program_name)

    def load(self) -> None:
        """Create the maps and have the programs verified."""
        _checked(self._lib.bpf_object__load(self._pointer), "load the BPF programs")

    def attach(self, program_name: str) -> Link:
        """Attach a program to the hook that its section names."""
        pointer = self._lib.bpf_program__attach(self._program(program_name))
        return Link(_checked(pointer, f"attach {program_name}", is_pointer=True))

    def attach_cgroup(self, program_name: str, cgroup_fd: int) -> Link:
        pointer = self._lib.bpf_program__attach_cgroup(self._program(program_name), cgroup_fd)
        return Link(_checked(pointer, f"attach {program_name}", is_pointer=True))

    def attach_uprobe(
        self, program_name: str, path: str, offset: int, *, is_return: bool, cookie: int
    ) -> Link:
        """Attach to an instruction of a file, in every process that maps it."""
        options = _UprobeOptions(ctypes.sizeof(_UprobeOptions), 0, cookie, is_return, None)
        pointer = self._lib.bpf_program__attach_uprobe_opts(
            self._program(program_name), -1, os.fsencode(path), offset, ctypes.byref(options)
        )
        return Link(_checked(pointer, f"attach {program_name} to {path}", is_pointer=True))

    def take_many_places(self, program_name: str) -> None:
        """Load a program so that `attach_uprobes` can attach it, and `attach_uprobe` cannot.

        Linux 6.6, 89ae89f53d20 ("bpf: Add multi uprobe link").
        """
        program = self._program(program_name)
        _checked(
            self._lib.bpf_program__set_expected_attach_type(program, TRACE_UPROBE_MULTI),
            program_name,
        )

    def attach_uprobes(
        self, program_name: str, path: str, places: Sequence[tuple[int, int]], *, is_return: bool
    ) -> MultiLink:
        """Attach to instructions of a file: offset and cookie of each."""
        count = len(places)
        offsets, cookies = zip(*places, strict=True)
        fd = _checked(self._lib.bpf_program__fd(self._program(program_name)), program_name)
        arrays = (c_uint64 * count)(*offsets), (c_uint64 * count)(*cookies)
        request = _LinkCreate(
            program=fd,
            attach_type=TRACE_UPROBE_MULTI,
            path=os.fsencode(path),
            offsets=ctypes.addressof(arrays[0]),
            cookies=ctypes.addressof(arrays[1]),
            count=count,
            uprobe_flags=UPROBE_MULTI_RETURN if is_return else 0,
        )
        # libbpf 1.1 cannot say this, but the kernel can be asked without it.
        syscall = ctypes.CDLL(None, use_errno=True).syscall
        result = syscall(
            BPF_SYSCALL[platform.machine()],
            LINK_CREATE,
            ctypes.byref(request),
            ctypes.sizeof(request),
        )
        return MultiLink(_checked(result, f"attach {program_name} to {path}"))

    def run_iterator(self, program_name: str) -> None:
        """Run an iterator program over everything it iterates."""
        pointer = self._lib.bpf_program__attach_iter(self._program(program_name), None)
        link = Link(_checked(pointer, f"attach {program_name}", is_pointer=True))
        try:
            fd = _checked(self._lib.bpf_iter_create(link.fd), f"run {program_name}")
            try:
                while os.read(fd, 4096):
                    pass
            finally:
                os.close(fd)
        finally:
            link.close()

    def map_fd(self, name: str) -> int:
        return _checked(self._lib.bpf_map__fd(self._map(name)), name)

    def program_stats(self, name: str) -> ProgramStats:
        """What the kernel has counted of a loaded program."""
        known = _ProgramInfo()
        size = c_uint32(ctypes.sizeof(known))
        fd = _checked(self._lib.bpf_program__fd(self._program(name)), name)
        _checked(
            self._lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(known), ctypes.byref(size)), name
        )
        return ProgramStats(known.run_time_ns, known.run_count, known.recursion_misses)

    def close(self) -> None:
        if self._pointer is not None and not self.is_abandoned:
            self._lib.bpf_object__close(self._pointer)
            self._pointer = None

    def _map(self, name: str) -> int:
        pointer = self._lib.bpf_object__find_map_by_name(self._pointer, name.encode())
        return _checked(pointer, f"find map {name}", is_pointer=True)

    def _program(self, name: str) -> int:
        pointer = self._lib.bpf_object__find_program_by_name(self._pointer, name.encode())
        return _checked(pointer, f"find program {name}", is_pointer=True)


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Raises: LibbpfError, E2BIG if the map is full."""
    _checked(_library().bpf_map_update_elem(fd, key, value, 0), "update a map")


def map_delete(fd: int, key: bytes) -> None:
    """A key that is not there is no error."""
    _library().bpf_map_delete_elem(fd, key)


def map_lookup(fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """The value, None if there is none; `value_bytes` counts all CPUs of a per-CPU map."""
    value = ctypes.create_string_buffer(value_bytes)
    if _library().bpf_map_lookup_elem(fd, key, value) < 0:
        return None
    return value.raw


def possible_cpus() -> int:
    """How many values a per-CPU map has."""
    return _checked(_library().libbpf_num_possible_cpus(), "count the CPUs")


def enable_stats() -> int:
    """Have the kernel measure every program until the returned descriptor is closed."""
    return _checked(_library().bpf_enable_stats(STATS_RUN_TIME), "switch BPF statistics on")
