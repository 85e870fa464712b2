# SPDX-License-Identifier: Apache-2.0
"""Servers that the tests of a module share."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.end_to_end.servers import (
    build_go_server,
    go_server,
    nginx_server,
    node_server,
    python_server,
)
from tests.end_to_end.tls_servers import authority, built, mapped, web_servers

SOURCES = ("socket", "syscall")
SERVERS = ("nginx", "python", "node", "go")


@pytest.fixture(scope="session", params=SOURCES)
def source(request):
    """Both ways of taking payload."""
    return request.param


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    """All servers by name; one that cannot be had here is missing."""
    found = {}
    with ExitStack() as stack:
        binary = None
        for name in SERVERS:
            try:
                if name == "go":
                    binary = build_go_server(tmp_path_factory.mktemp("go"))
                make = {
                    "nginx": nginx_server,
                    "python": python_server,
                    "node": node_server,
                    "go": lambda binary=binary: go_server(binary),
                }[name]
                found[name] = stack.enter_context(make())
            except pytest.skip.Exception:
                continue
        yield found


@pytest.fixture(scope="module")
def tls_files():
    """A certificate authority's files, and a server's."""
    with authority() as made:
        yield made


@pytest.fixture(scope="module")
def tls_binaries(tmp_path_factory):
    """Go programs, whole and stripped; none where Go is not."""
    return built(tmp_path_factory.mktemp("go"))


@pytest.fixture(scope="module")
def tls_servers(tls_files, tls_binaries):
    """Servers over TLS by name; one that cannot be had here is missing."""
    with web_servers(tls_files, tls_binaries) as found, mapped(*tls_binaries.values()):
        yield found
