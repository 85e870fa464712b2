# SPDX-License-Identifier: Apache-2.0
"""Probes inside TLS libraries: which program goes to which place, and what the kernel notices.

Together with tracer/probes.py the only module that knows the names of programs and maps
(bpf/README.md).
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from struct import Struct
from typing import Final

from tracer.capture import has_safe_returns, kernel_version
from tracer.libbpf import BpfObject, Link, MultiLink
from tracer.ring import Ring
from tracer.tls_libraries import Call, Hook, Place

EXEC_PROGRAM: Final = "sched_process_exec"
PROGRAMS: Final = (
    "tls_enter",
    "tls_exit",
    "tls_fresh",
    "tls_set_fd",
    "tls_free",
    "go_enter",
    "go_exit",
    "library_loaded",
    EXEC_PROGRAM,
)
MAPS: Final = ("objects", "carried", "goroutines")
"""Those that have no use without, and whose memory is taken at once."""
MULTI_FLOOR: Final = (6, 6)
"""Older kernels take one link for each place, and a tenth of a second to end each of them."""
DETACHERS: Final = 32
"""Threads that detach; each only waits."""
NOTICE_BYTES: Final = 65536
"""bpf/maps.h WS_NOTICE_BYTES."""
NOTICE_STRUCT: Final = Struct("<8xII")
"""A record header, then a `ws_notice`."""

PROGRAM_OF_CALL: Final = {
    **dict.fromkeys((Call.FRESH, Call.CONNECT, Call.ACCEPT), "tls_fresh"),
    Call.SET_FD: "tls_set_fd",
    Call.FREE: "tls_free",
    Call.LOADED: "library_loaded",
}
"""Those that are not told apart by the attach cookie."""


REFUSED: Final = "what is inside TLS is not seen: the kernel refuses the probes"
UNSAFE: Final = (
    "TLS of C libraries is not seen: on Linux 6.11 to 6.13 their probes can end a process that "
    "runs under seccomp, as in containers; boot 6.14 or newer"
)

AnyLink = Link | MultiLink


def limits() -> list[str]:
    """What this kernel keeps us from, with the consequence."""
    return [] if has_safe_returns() else [UNSAFE]


def has_many_places() -> bool:
    """Whether one link can have many places, so that the programs are loaded for that."""
    return kernel_version() >= MULTI_FLOOR


class Attachment:
    """All probes of one file, until `close`."""

    def __init__(self, links: list[AnyLink]) -> None:
        self._links = links

    def close(self) -> None:
        """Detach. The kernel waits for a grace period each time, so all at once."""
        links, self._links = self._links[::-1], []
        if links:
            with ThreadPoolExecutor(min(len(links), DETACHERS)) as pool:
                list(pool.map(_close, links))


class LibraryProbes:
    """The kernel's end of `tracer.discovery`: attaches, and says which process has changed."""

    def __init__(self, opened: BpfObject, on_attached: Callable[[bool], None]) -> None:
        """`on_attached` is told after each file whether it is a Go program."""
        self._object = opened
        self._on_attached = on_attached
        notices = opened.map_fd("notices")
        self._epoll = select.epoll()
        self._epoll.register(notices, select.EPOLLIN)
        self._ring = Ring(notices, NOTICE_BYTES)

    def attach(self, path: str, hooks: Sequence[Hook]) -> Attachment:
        """Attach to all `hooks` of a file, or to none.

        Raises:
            LibbpfError: an OSError; the kernel refuses.
        """
        places: dict[tuple[str, bool], list[tuple[int, int]]] = {}
        if not has_safe_returns():
            hooks = [hook for hook in hooks if hook.is_go or hook.call is Call.LOADED]
        # Returns first, or a call that begins in between would never end.
        for hook in sorted(hooks, key=lambda hook: hook.place is not Place.RETURN):
            is_return = hook.place is Place.RETURN
            program = _program(hook, is_return=is_return)
            where = places.setdefault((program, is_return and not hook.is_go), [])
            where.append((hook.offset, hook.call))
        links: list[AnyLink] = []
        try:
            for (program, is_return), where in places.items():
                links += self._attach(program, path, where, is_return=is_return)
        except OSError:
            Attachment(links).close()
            raise
        self._on_attached(any(hook.is_go for hook in hooks))
        return Attachment(links)

    def _attach(
        self, program: str, path: str, places: list[tuple[int, int]], *, is_return: bool
    ) -> Iterator[AnyLink]:
        if has_many_places():
            yield self._object.attach_uprobes(program, path, places, is_return=is_return)
            return
        for offset, cookie in places:
            yield self._object.attach_uprobe(
                program, path, offset, is_return=is_return, cookie=cookie
            )

    def wait(self, timeout_s: float) -> list[int]:
        """Processes that began or have loaded libraries, once there are any or time is up."""
        self._epoll.poll(timeout_s)
        chunk = self._ring.take()
        return [tgid for tgid, _ in NOTICE_STRUCT.iter_unpack(chunk)]

    def close(self) -> None:
        self._ring.close()
        self._epoll.close()


def _close(link: AnyLink) -> None:
    link.close()


def _program(hook: Hook, *, is_return: bool) -> str:
    known = PROGRAM_OF_CALL.get(hook.call)
    if known is not None:
        return known
    return f"{'go' if hook.is_go else 'tls'}_{'exit' if is_return else 'enter'}"
