# SPDX-License-Identifier: Apache-2.0
"""A TCP socket that listens, and the names by which it may be asked.

What is bound to a loopback address is for programs of this machine. A browser is one of them, and
a page from elsewhere whose own name suddenly means 127.0.0.1 may read all that it can fetch from
there (DNS rebinding). Such a request names the page's host, so only addresses and names that are
surely this machine's are taken there. On other addresses any name may be right.

Spec: RFC 9110 7.2 (Host), 15.5.20 (421); RFC 6761 6.3 (localhost)
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import Final, cast

from exporters.environment import SettingsError

BACKLOG: Final = 16
"""Connections that wait to be accepted."""

REMEDIES: Final = {
    errno.EADDRINUSE: "something listens there already (`ss -ltnp` says what); end it, or"
    " choose another port",
    errno.EADDRNOTAVAIL: "this machine has no such address; 0.0.0.0 is all that it has",
    errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE; choose another one",
}
"""Of what may keep a server from listening."""


def listen_tcp(host: str, port: int, what: str) -> socket.socket:
    """A socket that listens; port 0 is any that is free.

    Raises:
        SettingsError: there can be none; says why, what helps, and that it is for `what`.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return _listening(family, address)
    except (socket.gaierror, UnicodeError):
        raise SettingsError(
            f"{what} cannot be served at {where}: no address of that name is known;"
            " it must be one of this machine's own"
        ) from None
    except OSError as error:
        number = error.errno or 0
        remedy = REMEDIES.get(number, os.strerror(number))
        raise SettingsError(f"{what} cannot be served at {where}: {remedy}") from None


def _listening(family: socket.AddressFamily, address: object) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(cast("tuple[str, int]", address))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def own_names(listener: socket.socket, bound_name: str) -> frozenset[str] | None:
    """By which names it may be asked besides its address; None: by any."""
    if listener.family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    host = listener.getsockname()[0].partition("%")[0]
    if not ipaddress.ip_address(host).is_loopback:
        return None
    return frozenset({"localhost", bound_name.lower()} - {""})


def is_own_name(host: str, names: frozenset[str]) -> bool:
    """Whether a Host header is an IP address or one of `names`, with any port or none."""
    host = host.strip().lower()
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return _is_address(name) and (not rest or rest.startswith(":"))
    name = host.partition(":")[0].removesuffix(".")
    return name in names or _is_address(name)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
