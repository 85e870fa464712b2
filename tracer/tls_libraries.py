# SPDX-License-Identifier: Apache-2.0
"""Which functions of one file carry TLS plaintext, and why there are none where there is TLS.

A file is judged by the functions that it defines, never by its name: wheels carry
`libssl-6a9b88ec.so.3`, Node has OpenSSL inside, and NSS calls its library libssl3.so. A
program that only uses a library does not define its functions and has no TLS of its own.

What has TLS and no function to hook is told from its read-only data: every implementation
of TLS 1.3 holds the label "c ap traffic" (RFC 8446 7.1), and of TLS 1.2 "client finished"
(RFC 5246 7.4.9), and nothing else does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from pathlib import Path
from typing import Final, NamedTuple

from tracer.elf import Elf, ElfError, ElfTooMuchError
from tracer.elf_scan import LOOK_BYTES, SEARCH_BYTES
from tracer.go_binary import GoFunction, go_functions, go_version
from tracer.openssl_internals import read_internal, write_internal

MAX_STRINGS_BYTES: Final = 1 << 20
"""Of .dynstr, looked through for symbol versions; that of libssl has 20 KiB."""
MAX_MODULE_BYTES: Final = 256 << 20
"""A larger file is not searched for text; its functions are looked up all the same."""


class Call(IntEnum):
    """What a hooked function does; the cookie of its probe."""

    READ = 1
    """(object, buffer, length) -> count"""
    WRITE = 2
    """(object, buffer, length) -> count"""
    READ_EX = 3
    """(object, buffer, length, *count) -> 1 on success"""
    WRITE_EX = 4
    """(object, buffer, length, *count) -> 1 on success"""
    HANDSHAKE = 5
    """(object): moves records and no data"""
    SENDFILE = 6
    """(object, fd, offset, size, flags) -> count"""
    FRESH = 7
    """(object): a connection begins on it"""
    SET_FD = 8
    """(object, fd)"""
    FREE = 9
    """(object)"""
    LOADED = 10
    """(): the dynamic linker has loaded or unloaded something"""
    WRITTEN = 12
    """(object): moves bytes of which another call has told"""
    CONNECT = 13
    """(object): a connection begins on it, as the client"""
    ACCEPT = 14
    """(object): the same, as the server"""
    BEGIN = 15
    """(object): a handshake that is the first thing done with it"""
    WRITE_EX2 = 11
    """(object, buffer, length, flags, *count) -> 1 on success"""


class Place(Enum):
    """Where in a function a probe sits."""

    ENTRY = auto()
    RETURN = auto()
    """A return probe at the entry; in Go an ordinary probe at each RET instruction."""


class Hook(NamedTuple):
    """One probe."""

    call: Call
    place: Place
    offset: int
    """Into the file, bytes."""
    is_go: bool = False


@dataclass(slots=True, frozen=True)
class Library:
    """What one file has of TLS."""

    kind: str = ""
    """OpenSSL, BoringSSL, GnuTLS, Go or linker; empty where nothing is hooked."""
    version: str = ""
    """As the file says it; ends with + where only a lower bound is known, empty if not known."""
    hooks: tuple[Hook, ...] = ()
    reason: str = ""
    """Why there is no hook though there is TLS; empty if there is none."""


NOTHING: Final = Library()

OPENSSL: Final[Mapping[str, Call]] = {
    "SSL_read": Call.READ,
    "SSL_write": Call.WRITE,
    "SSL_read_ex": Call.READ_EX,
    "SSL_write_ex": Call.WRITE_EX,
    "SSL_write_ex2": Call.WRITE_EX2,
    "SSL_do_handshake": Call.HANDSHAKE,
    "SSL_connect": Call.HANDSHAKE,
    "SSL_accept": Call.HANDSHAKE,
    "SSL_sendfile": Call.SENDFILE,
    "SSL_set_connect_state": Call.CONNECT,
    "SSL_set_accept_state": Call.ACCEPT,
    "SSL_set_bio": Call.FRESH,
    "SSL_set_fd": Call.SET_FD,
    "SSL_set_rfd": Call.SET_FD,
    "SSL_set_wfd": Call.SET_FD,
    "SSL_free": Call.FREE,
}
"""OpenSSL, LibreSSL, BoringSSL and AWS-LC: ssl.h. SSL_peek consumes nothing and is left out.
SSL_read_early_data and SSL_write_early_data call SSL_read_ex and SSL_write_ex."""
OPENSSL_READS: Final = frozenset({"SSL_read", "SSL_read_ex"})
OPENSSL_WRITES: Final = frozenset({"SSL_write", "SSL_write_ex", "SSL_write_ex2"})
"""Those that need no hook of their own where the function inside of them is hooked."""
GNUTLS: Final[Mapping[str, Call]] = {
    "gnutls_record_recv": Call.READ,
    "gnutls_record_recv_seq": Call.READ,
    "gnutls_record_send": Call.WRITE,
    "gnutls_record_send2": Call.WRITE,
    "gnutls_record_uncork": Call.WRITTEN,
    "gnutls_handshake": Call.BEGIN,
    "gnutls_transport_set_int2": Call.SET_FD,
    "gnutls_deinit": Call.FREE,
}
GO: Final[Mapping[str, Call]] = {
    "crypto/tls.(*Conn).Read": Call.READ,
    "crypto/tls.(*Conn).Write": Call.WRITE,
    "crypto/tls.(*Conn).clientHandshake": Call.BEGIN,
    "crypto/tls.(*Conn).serverHandshake": Call.BEGIN,
}
GO_NAME: Final = b"crypto/tls.(*Conn).Write"
"""In the function table of every Go program with TLS in it, stripped or not."""
GO_FLOOR: Final = {"x86_64": 17, "aarch64": 18}
"""Minor version since which arguments are in registers (Go ABIInternal)."""

RETURNING: Final = frozenset(
    {
        *(Call.READ, Call.WRITE, Call.READ_EX, Call.WRITE_EX, Call.WRITE_EX2),
        *(Call.HANDSHAKE, Call.BEGIN, Call.SENDFILE, Call.WRITTEN),
    }
)
"""Calls whose end is of interest as well."""

LINKER: Final = "_dl_debug_state"
"""What the dynamic linkers of glibc and musl call when their list of libraries has changed."""
MAIN: Final = "main"
"""A program with the linker inside, linked statically, is no linker of others."""
BORINGSSL: Final = "SSL_CTX_set_custom_verify"
"""Only BoringSSL and AWS-LC have it; a linker may have left it out."""
BORINGSSL_PATHS: Final = (b"boringssl", b"BoringSSL")
"""In the names of source files that its errors tell."""

FOREIGN: Final[Mapping[str, str]] = {
    "SSL_ImportFD": "NSS: it reads and writes through PR_Read and PR_Write, which serve files too",
    "JNI_CreateJavaVM": "Java: JSSE does TLS in bytecode, which has no functions to hook",
    "mbedtls_ssl_read": "mbedTLS: it is not supported",
    "wolfSSL_read": "wolfSSL: it is not supported",
    "s2n_recv": "s2n-tls: it is not supported",
    "br_ssl_engine_recvapp_buf": "BearSSL: it is not supported",
    "ptls_receive": "picotls: it is not supported",
}
"""A function that only this library defines -> why its TLS is not seen."""

TLS_LABELS: Final = (b"c ap traffic", b"client finished")
INSIDE: Final[tuple[tuple[bytes, str], ...]] = (
    (b"rustls", "rustls{}: its functions have no stable names and arguments"),
    *((path, "BoringSSL{}, linked in without its symbols") for path in BORINGSSL_PATHS),
    (b"OpenSSL ", "OpenSSL{}, linked in without its symbols"),
    (b"GnuTLS ", "GnuTLS{}, linked in without its symbols"),
    (b"mbedtls", "mbedTLS{}: it is not supported"),
    (b"wolfSSL", "wolfSSL{}: it is not supported"),
    (b"s2n_", "s2n-tls{}: it is not supported"),
)
"""Text in a file with TLS inside -> whose it is. rustls first: it may stand on AWS-LC."""

VERSIONS: Final[Mapping[str, re.Pattern[bytes]]] = {
    "rustls": re.compile(rb"rustls-(\d+\.\d+\.\d+)"),
    "OpenSSL": re.compile(
        rb"OpenSSL (\d+\.\d+\.\d+[a-z]*(?:[-+][a-z]+\d*)?) +\d+ [A-Z][a-z]{2} \d{4}"
    ),
    "LibreSSL": re.compile(rb"(LibreSSL \d+\.\d+\.\d+)"),
    "GnuTLS": re.compile(rb"GnuTLS (\d+\.\d+\.\d+)"),
}
"""rustls by the path of its crate in messages of panics; OpenSSL with its date of release."""
SYMBOL_VERSION: Final = re.compile(rb"\0(?:OPENSSL|GNUTLS)_(\d+)[._](\d+)[._](\d+)(?=\0)")
"""OPENSSL_3.0.3, GNUTLS_3_7_7: the release that brought a function."""


def examine(path: Path, *, thorough: bool = True) -> Library:
    """What to hook in a file, by its functions.

    Without `thorough` its data is not searched: then there are no versions but Go's and those
    of symbols, and no reasons but those that functions tell. That takes a millisecond, and some
    10 ms where there is a table of 100,000 symbols; the search takes as much for each 10 MB.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with Elf(path, budget_bytes=SEARCH_BYTES if thorough else LOOK_BYTES) as elf:
            return _examine(elf, thorough=thorough)
    except ElfTooMuchError as error:
        return Library(reason=f"it is not examined: {error}")
    except ElfError:
        return NOTHING


def release_inside(path: Path) -> str:
    """The release of OpenSSL that a file names, as libcrypto does; empty if none.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with Elf(path) as elf:
            return _found(elf.search, "OpenSSL")
    except ElfError:
        return ""


def _examine(elf: Elf, *, thorough: bool) -> Library:
    if (go := go_version(elf)) is not None and (library := _go(elf, go)) is not None:
        return library
    wanted = {*OPENSSL, *GNUTLS, LINKER, MAIN, BORINGSSL, *FOREIGN}
    functions = elf.functions(wanted)
    search = elf.search if thorough and elf.size <= MAX_MODULE_BYTES else None
    if {"SSL_read", "SSL_write"} <= functions.keys() and not _is_wrapper(elf):
        kind = "BoringSSL" if BORINGSSL in functions else "OpenSSL"
        version = _openssl_version(kind, elf, search)
        if not version and search is not None and any(map(elf.contains, BORINGSSL_PATHS)):
            kind = "BoringSSL"
        return Library(kind, version, tuple(_openssl_hooks(elf, functions)))
    if {"gnutls_record_recv", "gnutls_record_send"} <= functions.keys():
        version = _found(search, "GnuTLS") or _symbol_version(elf)
        return Library("GnuTLS", version, tuple(_hooks(functions, GNUTLS)))
    if LINKER in functions and MAIN not in functions:
        return Library("linker", hooks=(Hook(Call.LOADED, Place.ENTRY, functions[LINKER]),))
    for name, reason in FOREIGN.items():
        if name in functions:
            return Library(reason=reason)
    if search is not None and any(map(elf.contains, TLS_LABELS)):
        return Library(reason=_inside(elf, go))
    return NOTHING


def _hooks(functions: Mapping[str, int], calls: Mapping[str, Call]) -> Iterator[Hook]:
    """The probes of those functions that exist, each address once."""
    taken: set[int] = set()
    for name, call in calls.items():
        offset = functions.get(name)
        # Two names of one function: linkers fold what compiles to the same code.
        if offset is None or offset in taken:
            continue
        taken.add(offset)
        yield Hook(call, Place.ENTRY, offset)
        if call in RETURNING:
            yield Hook(call, Place.RETURN, offset)


def _openssl_hooks(elf: Elf, functions: Mapping[str, int]) -> Iterator[Hook]:
    """As `_hooks`, by the functions inside of the public ones where these can be had."""
    left = dict(functions)
    calls: dict[str, Call] = {}
    read, write = read_internal(elf, functions), write_internal(elf, functions)
    if read is not None:
        left = {name: offset for name, offset in left.items() if name not in OPENSSL_READS}
        left["ssl_read_internal"], calls["ssl_read_internal"] = read, Call.READ_EX
    if write is not None:
        left = {name: offset for name, offset in left.items() if name not in OPENSSL_WRITES}
        calls["ssl_write_internal"] = Call.WRITE_EX2 if write.has_flags else Call.WRITE_EX
        left["ssl_write_internal"] = write.offset
    return _hooks(left, calls | dict(OPENSSL))


def _is_wrapper(elf: Elf) -> bool:
    """Whether SSL_read only calls GnuTLS, where the same bytes are seen (libgnutls-openssl)."""
    names = elf.section(".dynstr")
    return names is not None and elf.contains(b"\0gnutls_record_recv\0", names)


def _go(elf: Elf, version: str) -> Library | None:
    """A Go program's crypto/tls; None if it has none."""
    number = version.removeprefix("go")
    minor = re.search(r"go1\.(\d+)", version)
    floor = GO_FLOOR.get(elf.machine, GO_FLOOR["aarch64"])
    if minor is not None and int(minor[1]) < floor:
        if not elf.contains(GO_NAME):
            return None
        reason = f"Go {number} passes arguments on the stack: build it with 1.{floor} or newer"
        return Library(reason=reason)
    functions = go_functions(elf, GO)
    hooks = tuple(_go_hooks(functions))
    if {Call.READ, Call.WRITE} <= {hook.call for hook in hooks}:
        return Library("Go", number, hooks)
    if elf.contains(GO_NAME):
        reason = (
            "its function table is of a format that is not known, or a function has too many ends"
        )
        return Library(reason=f"Go {number}: {reason}")
    return None


def _go_hooks(functions: Mapping[str, GoFunction]) -> Iterator[Hook]:
    for name, call in GO.items():
        if name in functions:
            function = functions[name]
            yield Hook(call, Place.ENTRY, function.begin, is_go=True)
            # What is written is known when it begins: a probe less, each some microseconds.
            for offset in function.returns if call is not Call.WRITE else ():
                yield Hook(call, Place.RETURN, offset, is_go=True)


Search = Callable[[re.Pattern[bytes]], re.Match[bytes] | None]


def _openssl_version(kind: str, elf: Elf, search: Search | None) -> str:
    if kind == "BoringSSL":  # has no releases
        return "AWS-LC" if search is not None and elf.contains(b"AWS-LC") else ""
    return _symbol_version(elf) or _found(search, "OpenSSL") or _found(search, "LibreSSL")


def _found(search: Search | None, name: str) -> str:
    match = search(VERSIONS[name]) if search is not None and name in VERSIONS else None
    return match[1].decode() if match else ""


def _symbol_version(elf: Elf) -> str:
    """The newest version among a library's symbols: it is that release or a later one.

    libssl does not say its version otherwise; that text is in libcrypto.
    """
    strings = elf.section(".dynstr")
    if strings is None or elf.section(".gnu.version_d") is None:
        return ""
    content = elf.read(strings.offset, min(strings.size, MAX_STRINGS_BYTES))
    found = [tuple(map(int, match.groups())) for match in SYMBOL_VERSION.finditer(content)]
    return ".".join(map(str, max(found))) + "+" if found else ""


def _inside(elf: Elf, go: str | None) -> str:
    """Whose TLS it is that a file has inside without functions to hook."""
    if go is not None:
        return f"Go {go.removeprefix('go')}: the names of its functions are obfuscated"
    for text, reason in INSIDE:
        if elf.contains(text):
            name = reason.partition("{}")[0]
            version = _found(elf.search, name)
            return reason.format(f" {version}" if version else "")
    return "TLS of a library that is not known, linked in without symbols"
