# SPDX-License-Identifier: Apache-2.0
"""A running agent answers questions over a Unix socket, in HTTP.

    curl --unix-socket /run/wirespan/agent.sock http://agent/map?style=text

What it tells is what the traced programs said, so only root and the agent's own user may ask: the
socket's mode keeps others away, and the kernel says who is at the other end. A socket of an agent
that died is replaced, that of one that lives never. How many are answered at once, and for how
long, is exporters/small_http.py's.

Source: unix(7), SO_PEERCRED
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from exporters.small_http import Answer, Handler, Request, SmallServer, words
from exporters.tcp_listener import BACKLOG

DEFAULT_PATH: Final = "/run/wirespan/agent.sock"
MAX_PATH: Final = 107
"""Bytes that the kernel takes (unix(7): sun_path, with its zero)."""
ASK_S: Final = 15.0
GRACE_S: Final = 1.0
"""For those who are being answered when the agent ends."""
PROBE_S: Final = 5.0
"""To find out whether an agent listens."""
LOCK_S: Final = 3.0
"""For another agent that is just starting in the same directory."""

_UCRED: Final = struct.Struct("3i")
"""`struct ucred`: process, user, group."""

Reply: TypeAlias = tuple[str, bytes]
"""Content type and body."""
Question: TypeAlias = Callable[[Mapping[str, str]], Reply]
"""Answers a query; a ValueError is the asker's fault, in words for them."""


class AgentSocketError(ValueError):
    """The socket cannot be had, or the agent does not answer, in words for the user."""


class NoAgentError(AgentSocketError):
    """No agent runs there."""


class AgentSocket:
    """Answers by path, on threads of its own, from when it is made until `close`."""

    def __init__(self, path: str, routes: Mapping[str, Question]) -> None:
        """Listen at `path`; its directory is made, but not the one above.

        Raises:
            AgentSocketError: another agent listens there, or the path cannot be used.
        """
        self._path = path
        listener, self._identity = _listen(path)
        self._server = SmallServer(
            listener,
            {name: _handler(question) for name, question in routes.items()},
            name="Agent socket",
            refusal=_refusal,
        )
        self._is_closed = False

    def counters(self) -> Mapping[str, int]:
        """Requests that were answered, failed, and refused since start."""
        counts = self._server.counters()
        return {
            "requests_answered": counts["answered"],
            "requests_failed": counts["failed"],
            "requests_refused": counts["refused"] + counts["busy"],
        }

    def close(self) -> None:
        """Stop listening and remove the socket; who is being answered gets the answer."""
        if self._is_closed:
            return
        self._is_closed = True
        self._server.close(GRACE_S)
        if _identity(self._path) == self._identity:
            with suppress(OSError):
                Path(self._path).unlink()


class _Identity(NamedTuple):
    """Which file it is, whatever its name."""

    device: int
    inode: int


def _handler(question: Question) -> Handler:
    """As the server has them."""

    def answer(request: Request) -> Answer:
        try:
            content_type, body = question(request.parameters())
        except ValueError as error:
            return words(HTTPStatus.BAD_REQUEST, str(error))
        return Answer(body=body, content_type=content_type)

    return answer


def _refusal(connection: socket.socket) -> str:
    """Only root and the agent's own user may ask, by what the kernel says of who it is."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(credentials)
    return "" if uid in {0, os.geteuid()} else "only root and the agent's own user may ask"


def _listen(path: str) -> tuple[socket.socket, _Identity | None]:
    """A socket that listens at `path`, and which file that is.

    Raises:
        AgentSocketError: there can be none.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise AgentSocketError(f"{path}: a socket's path has at most {MAX_PATH} bytes")
    directory = Path(path).absolute().parent
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileExistsError):
            directory.mkdir(0o700)
        with _locked(directory):
            _remove_dead(path)
            listener.bind(path)
            # Nobody can connect before it listens, so nobody can before its mode is right.
            Path(path).chmod(0o600)
            identity = _identity(path)
            listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise AgentSocketError(f"{path}: no socket can be made: {error.strerror}") from error
    except AgentSocketError:
        listener.close()
        raise
    return listener, identity


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Alone with the directory's socket: two agents that start at once must not both take it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        give_up_s = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= give_up_s:
                    raise AgentSocketError(
                        f"{directory} is locked by another program: use another --socket"
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _remove_dead(path: str) -> None:
    """Remove the socket of an agent that has died.

    Raises:
        AgentSocketError: the agent lives, or it is no socket.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AgentSocketError(f"{path} is there and no socket: use another --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
        except BlockingIOError:  # it listens, and many are waiting
            raise _taken(path) from None
        else:
            raise _taken(path)


def _taken(path: str) -> AgentSocketError:
    return AgentSocketError(f"another agent listens at {path}: end it, or use another --socket")


def _identity(path: str) -> _Identity | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return _Identity(found.st_dev, found.st_ino)


class _Connection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("agent", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: str, target: str, *, timeout_s: float = ASK_S) -> bytes:
    """What the agent at `path` answers to GET `target`, `/map?since=60`.

    Raises:
        NoAgentError: no agent runs there.
        AgentSocketError: it may not be asked, or does not answer, or does not understand.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise AgentSocketError(f"{path}: a socket's path has at most {MAX_PATH} bytes")
    connection = _Connection(path, timeout_s)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        body = response.read()
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
        raise NoAgentError(
            f"no agent listens at {path}: `wirespan agent` starts one, or name its --socket"
        ) from error
    except PermissionError as error:
        raise AgentSocketError(
            f"{path} may not be opened: be root, or the user that the agent runs as"
        ) from error
    except TimeoutError as error:
        raise AgentSocketError(
            f"the agent at {path} has not answered in {timeout_s:g} s"
        ) from error
    except (OSError, HTTPException) as error:
        reason = errno.errorcode.get(error.errno or 0, "") if isinstance(error, OSError) else ""
        raise AgentSocketError(
            f"the agent at {path} broke off: {reason or type(error).__name__}"
        ) from error
    finally:
        connection.close()
    if response.status != 200:
        words = body[:1000].decode(errors="replace").strip()
        raise AgentSocketError(f"the agent at {path} answers {response.status}: {words}")
    return body
