# SPDX-License-Identifier: Apache-2.0
"""OpenSSL and GnuTLS called as C programs call them, and the certificate that they take."""

from __future__ import annotations

import ctypes
import select
import tempfile
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_size_t, c_void_p
from functools import cache
from pathlib import Path

import pytest
import trustme

TLS_1_2 = 0x0303
TLS_1_3 = 0x0304
WANT_READ = 2
WANT_WRITE = 3
PARTIAL_WRITE = 1
MOVING_BUFFER = 2
SET_MODE = 33
SET_MIN_VERSION = 123
SET_MAX_VERSION = 124
FILETYPE_PEM = 1
EARLY_DATA_ACCEPTED = 2
TICKET_CALLBACK = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)
NAME_CALLBACK = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p)
INFO_CALLBACK = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_int)
SET_NAME_CALLBACK = 53
SET_NAME = 55
HANDSHAKE_DONE = 0x20

PROTOTYPES = {
    "TLS_client_method": (c_void_p, ()),
    "TLS_server_method": (c_void_p, ()),
    "SSL_CTX_new": (c_void_p, (c_void_p,)),
    "SSL_CTX_free": (None, (c_void_p,)),
    "SSL_CTX_ctrl": (c_long, (c_void_p, c_int, c_long, c_void_p)),
    "SSL_CTX_callback_ctrl": (c_long, (c_void_p, c_int, c_void_p)),
    "SSL_CTX_use_certificate_chain_file": (c_int, (c_void_p, c_char_p)),
    "SSL_CTX_use_PrivateKey_file": (c_int, (c_void_p, c_char_p, c_int)),
    "SSL_CTX_set_cipher_list": (c_int, (c_void_p, c_char_p)),
    "SSL_CTX_set_max_early_data": (c_int, (c_void_p, ctypes.c_uint32)),
    "SSL_CTX_sess_set_new_cb": (None, (c_void_p, c_void_p)),
    "SSL_new": (c_void_p, (c_void_p,)),
    "SSL_free": (None, (c_void_p,)),
    "SSL_clear": (c_int, (c_void_p,)),
    "SSL_ctrl": (c_long, (c_void_p, c_int, c_long, c_void_p)),
    "SSL_set_fd": (c_int, (c_void_p, c_int)),
    "SSL_set_bio": (None, (c_void_p, c_void_p, c_void_p)),
    "SSL_set_connect_state": (None, (c_void_p,)),
    "SSL_set_accept_state": (None, (c_void_p,)),
    "SSL_set_session": (c_int, (c_void_p, c_void_p)),
    "SSL_set_info_callback": (None, (c_void_p, c_void_p)),
    "SSL_get1_session": (c_void_p, (c_void_p,)),
    "SSL_SESSION_free": (None, (c_void_p,)),
    "SSL_do_handshake": (c_int, (c_void_p,)),
    "SSL_read": (c_int, (c_void_p, c_void_p, c_int)),
    "SSL_peek": (c_int, (c_void_p, c_void_p, c_int)),
    "SSL_write": (c_int, (c_void_p, c_char_p, c_int)),
    "SSL_read_ex": (c_int, (c_void_p, c_void_p, c_size_t, POINTER(c_size_t))),
    "SSL_write_ex": (c_int, (c_void_p, c_char_p, c_size_t, POINTER(c_size_t))),
    "SSL_read_early_data": (c_int, (c_void_p, c_void_p, c_size_t, POINTER(c_size_t))),
    "SSL_write_early_data": (c_int, (c_void_p, c_char_p, c_size_t, POINTER(c_size_t))),
    "SSL_get_early_data_status": (c_int, (c_void_p,)),
    "SSL_shutdown": (c_int, (c_void_p,)),
    "SSL_get_error": (c_int, (c_void_p, c_int)),
    "BIO_new": (c_void_p, (c_void_p,)),
    "BIO_s_mem": (c_void_p, ()),
    "BIO_f_ssl": (c_void_p, ()),
    "BIO_push": (c_void_p, (c_void_p, c_void_p)),
    "BIO_ctrl": (c_long, (c_void_p, c_int, c_long, c_void_p)),
    "BIO_read": (c_int, (c_void_p, c_void_p, c_int)),
    "BIO_write": (c_int, (c_void_p, c_char_p, c_int)),
    "ERR_clear_error": (None, ()),
}


class _Functions:
    """Of libssl and libcrypto, by their names in C."""

    def __init__(self, *libraries):
        for name, (result, arguments) in PROTOTYPES.items():
            function = next(getattr(each, name) for each in libraries if hasattr(each, name))
            function.restype, function.argtypes = result, list(arguments)
            setattr(self, name, function)


@cache
def openssl():
    """The library that Python's ssl has loaded too; without it, the test is skipped."""
    try:
        return _Functions(ctypes.CDLL("libssl.so.3"), ctypes.CDLL("libcrypto.so.3"))
    except OSError as error:
        pytest.skip(f"OpenSSL 3 cannot be loaded: {error}")


@cache
def certificate_path():
    """A certificate for `localhost`, with its key in the same file."""
    path = Path(_folder().name) / "server.pem"
    issued = trustme.CA().issue_cert("localhost")
    parts = [issued.private_key_pem, *issued.cert_chain_pems]
    path.write_bytes(b"".join(part.bytes() for part in parts))
    return str(path)


@cache
def _folder():
    return tempfile.TemporaryDirectory()


class Context:
    """An SSL_CTX, for one side."""

    def __init__(self, *, server, version=0, ciphers="", mode=0):
        lib = openssl()
        self.server = server
        self.pointer = lib.SSL_CTX_new(
            lib.TLS_server_method() if server else lib.TLS_client_method()
        )
        if server:
            path = certificate_path().encode()
            assert lib.SSL_CTX_use_certificate_chain_file(self.pointer, path) == 1
            assert lib.SSL_CTX_use_PrivateKey_file(self.pointer, path, FILETYPE_PEM) == 1
        if version:
            self.control(SET_MIN_VERSION, version)
            self.control(SET_MAX_VERSION, version)
        if ciphers:
            assert lib.SSL_CTX_set_cipher_list(self.pointer, ciphers.encode()) == 1
        if mode:
            self.control(SET_MODE, mode)

    def set_name_callback(self, callback):
        """Called when the client's hello has come; kept alive by who made it."""
        pointer = ctypes.cast(callback, c_void_p)
        assert openssl().SSL_CTX_callback_ctrl(self.pointer, SET_NAME_CALLBACK, pointer) == 1

    def control(self, command, number, pointer=None):
        return openssl().SSL_CTX_ctrl(self.pointer, command, number, pointer)


@cache
def context(*, server, version=0, ciphers="", mode=0):
    """One for each set of options."""
    return Context(server=server, version=version, ciphers=ciphers, mode=mode)


class WantsMoreError(Exception):
    """The call would block; `args` has SSL_get_error's number."""


class End:
    """An SSL object on a descriptor, or on memory where `sock` is only named for `pump`."""

    def __init__(self, made_of, sock=None, *, memory=False):
        lib = self.lib = openssl()
        self.sock = sock
        self.pointer = lib.SSL_new(made_of.pointer)
        if made_of.server:
            lib.SSL_set_accept_state(self.pointer)
        else:
            lib.SSL_set_connect_state(self.pointer)
        self.incoming = self.outgoing = None
        if memory:
            self.give_memory()
        elif sock is not None:
            self.set_fd(sock)

    def give_memory(self):
        self.incoming = self.lib.BIO_new(self.lib.BIO_s_mem())
        self.outgoing = self.lib.BIO_new(self.lib.BIO_s_mem())
        self.lib.SSL_set_bio(self.pointer, self.incoming, self.outgoing)

    def set_fd(self, sock):
        self.sock = sock
        assert self.lib.SSL_set_fd(self.pointer, sock.fileno()) == 1

    def set_name(self, name):
        """Ask for this server."""
        assert self.lib.SSL_ctrl(self.pointer, SET_NAME, 0, name.encode()) == 1

    def check(self, result):
        if result <= 0:
            error = self.lib.SSL_get_error(self.pointer, result)
            self.lib.ERR_clear_error()
            raise WantsMoreError(error)
        return result

    def handshake(self):
        self.check(self.lib.SSL_do_handshake(self.pointer))

    def read(self, size=65536):
        room = ctypes.create_string_buffer(size)
        count = self.check(self.lib.SSL_read(self.pointer, room, size))
        return room.raw[:count]

    def peek(self, size=65536):
        room = ctypes.create_string_buffer(size)
        count = self.check(self.lib.SSL_peek(self.pointer, room, size))
        return room.raw[:count]

    def write(self, data):
        return self.check(self.lib.SSL_write(self.pointer, data, len(data)))

    def read_ex(self, size=65536):
        room, count = ctypes.create_string_buffer(size), c_size_t(77)
        self.check(self.lib.SSL_read_ex(self.pointer, room, size, byref(count)))
        return room.raw[: count.value]

    def write_ex(self, data):
        count = c_size_t(77)
        self.check(self.lib.SSL_write_ex(self.pointer, data, len(data), byref(count)))
        return count.value

    def shutdown(self):
        return self.lib.SSL_shutdown(self.pointer)

    def free(self):
        if self.pointer is not None:
            self.lib.SSL_free(self.pointer)
            self.pointer = None

    # -- memory ----------------------------------------------------------------------

    def take_out(self):
        """The records that wait to be sent."""
        room = ctypes.create_string_buffer(1 << 18)
        size = self.lib.BIO_read(self.outgoing, room, len(room))
        return room.raw[: max(size, 0)]

    def put_in(self, records):
        assert self.lib.BIO_write(self.incoming, records, len(records)) == len(records)

    def flush(self):
        """Send what waits, in one call."""
        if records := self.take_out():
            self.sock.sendall(records)

    def fill(self):
        """Receive what has come, in one call."""
        self.put_in(self.sock.recv(1 << 18))


def shake(client, server):
    """The whole handshake of two ends that work on descriptors, in one thread."""
    ends = [client, server]
    for end in ends:
        end.sock.setblocking(False)
    _take_turns(ends)
    for end in ends:
        end.sock.setblocking(True)


def shake_memory(client, server):
    """The same of two ends that work on memory."""
    waiting = [client, server]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.handshake()
                waiting.remove(end)
            except WantsMoreError:
                pass
            end.flush()
            other = server if end is client else client
            if other in waiting and is_readable(other.sock):
                other.fill()
        if not waiting:
            return
    raise AssertionError("no end of the handshake")


def is_readable(sock):
    return bool(select.select([sock], [], [], 0)[0])


def _take_turns(ends):
    waiting = list(ends)
    for _ in range(1000):
        for end in list(waiting):
            try:
                end.handshake()
                waiting.remove(end)
            except WantsMoreError:
                pass
        if not waiting:
            return
    raise AssertionError("no end of the handshake")
