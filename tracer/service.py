# SPDX-License-Identifier: Apache-2.0
"""What a process is called: service name, container and unit, from what /proc says of it.

Nothing here reads a file. Of an environment only the two variables that OpenTelemetry
defines are looked at, and of a command line only argv[0] and the name of the program
that an interpreter runs: the rest may hold secrets.

Spec: OpenTelemetry 1.60.0, Resource SDK, "Specifying resource information via an
environment variable"; semantic conventions 1.44.0, `service`, `container`, `k8s`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

MAX_ATTRIBUTES: Final = 128
"""Of one environment variable: OTEL_ATTRIBUTE_COUNT_LIMIT's default."""
MAX_NAME_CHARS: Final = 255
"""A longer service name is cut: it labels metrics."""

COMM_CHARS: Final = 15
"""The kernel keeps no more of a program's name."""
CONTAINER: Final = re.compile(r"(?:^|[-:])(?P<id>[0-9a-f]{64})(?:\.scope)?$")
"""The last part of `docker-<id>.scope`, `kubepods-…:cri-containerd:<id>`, or `<id>` alone."""
POD: Final = re.compile(r"pod(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})")
"""systemd writes the dashes of a pod's uid as underscores."""
NAMELESS_UNIT: Final = re.compile(r"^(?:user@\d+|run-[ru]?[0-9a-f]+)$")
"""Units that say nothing of what runs in them: sessions, and systemd-run's own names."""
MOUNTED_BY_RUNTIME: Final = re.compile(
    r"/(?:overlay-)?containers/(?P<id>[0-9a-f]{64})/\S+ /etc/(?:hostname|hosts|resolv\.conf) "
)
"""Docker and podman mount these files from a folder named by the container."""

VERSION_TAIL: Final = re.compile(r"[-_]v?\d+(?:\.\d+)+.*$")
STRAY_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class ResourceVariableError(ValueError):
    """OTEL_RESOURCE_ATTRIBUTES cannot be read, so all of it is void."""


class Grouping(NamedTuple):
    """What a process's control groups tell."""

    container_id: str = ""
    pod_uid: str = ""
    unit: str = ""
    """systemd service without `.service`."""


def parse_resource_attributes(text: str) -> dict[str, str]:
    """Read the value of OTEL_RESOURCE_ATTRIBUTES, `key=value,key=value`.

    An unescaped `=` inside a value is let pass, as the SDKs of the traced programs do:
    otherwise one service would have two names.

    Raises:
        ResourceVariableError: some of it is wrong, and then all of it counts for nothing.
    """
    attributes: dict[str, str] = {}
    for pair in text.split(","):
        if not pair.strip():
            continue
        key, equals, value = pair.partition("=")
        key = key.strip()
        if not key or not equals:
            raise ResourceVariableError(f"no key=value: {pair!r}")
        attributes[_decoded(key)] = _decoded(value.strip())
        if len(attributes) > MAX_ATTRIBUTES:
            raise ResourceVariableError(f"more than {MAX_ATTRIBUTES} attributes")
    return attributes


def _decoded(text: str) -> str:
    if STRAY_PERCENT.search(text):
        raise ResourceVariableError(f"percent sign with no two hex digits: {text!r}")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError as error:
        raise ResourceVariableError(f"not UTF-8: {text!r}") from error


def read_grouping(cgroup: str) -> Grouping:
    """Read /proc/PID/cgroup, of v1 and of v2."""
    container_id = pod_uid = unit = ""
    for line in cgroup.splitlines():
        path = line.split(":", 2)[-1]
        found = _read_path(path)
        # The hierarchies of v1 may know different parts of the same answer.
        container_id = container_id or found.container_id
        pod_uid = pod_uid or found.pod_uid
        unit = unit or found.unit
    return Grouping(container_id, pod_uid, unit)


def mounted_container(mountinfo: str) -> str:
    """The container that /proc/PID/mountinfo tells of, where a namespace hides the cgroup."""
    match = MOUNTED_BY_RUNTIME.search(mountinfo)
    return match["id"] if match else ""


def _read_path(path: str) -> Grouping:
    container_id = pod_uid = unit = ""
    for part in path.split("/"):
        if match := POD.search(part):
            pod_uid = match["uid"].replace("_", "-")
        if (match := CONTAINER.search(part)) and "conmon" not in part:
            # Containers nest; the last is the process's own, and what is outside of
            # it (containerd.service) is not what runs inside.
            container_id, unit = match["id"], ""
        elif part.endswith(".service"):
            name = part.removesuffix(".service")
            if not NAMELESS_UNIT.match(name):
                unit = re.sub(r"\\x([0-9a-f]{2})", lambda code: chr(int(code[1], 16)), name)
    return Grouping(container_id, pod_uid, unit)


class Interpreter(NamedTuple):
    """How a command line names the program that an interpreter runs."""

    suffixes: tuple[str, ...]
    valued: frozenset[str] = frozenset()
    """Options whose value is the next argument."""
    named: frozenset[str] = frozenset()
    """Options whose value names the program."""
    inline: frozenset[str] = frozenset()
    """Options after which there is program text instead of a name."""
    has_main_class: bool = False


PYTHON: Final = Interpreter(
    (".py", ".pyc", ".pyz"),
    valued=frozenset({"-W", "-X", "--check-hash-based-pycs"}),
    named=frozenset({"-m"}),
    inline=frozenset({"-c"}),
)
NODE: Final = Interpreter(
    (".js", ".mjs", ".cjs", ".ts"),
    valued=frozenset(
        {"-r", "--require", "--import", "--loader", "--experimental-loader", "-C", "--conditions"}
    ),
    inline=frozenset({"-e", "--eval", "-p", "--print", "-pe"}),
)
JAVA: Final = Interpreter(
    (".jar",),
    valued=frozenset(
        {
            "-cp",
            "-classpath",
            "--class-path",
            "-p",
            "--module-path",
            "--upgrade-module-path",
            "--add-modules",
            "--add-opens",
            "--add-exports",
            "--add-reads",
        }
    ),
    named=frozenset({"-jar", "-m", "--module"}),
    has_main_class=True,
)
RUBY: Final = Interpreter(
    (".rb", ".ru"), valued=frozenset({"-r", "-I", "-C"}), inline=frozenset({"-e"})
)
PERL: Final = Interpreter((".pl",), valued=frozenset({"-I"}), inline=frozenset({"-e", "-E"}))
PHP: Final = Interpreter(
    (".php",), valued=frozenset({"-d", "-c"}), named=frozenset({"-f"}), inline=frozenset({"-r"})
)
DOTNET: Final = Interpreter((".dll",), valued=frozenset({"--runtimeconfig", "--depsfile"}))

INTERPRETERS: Final = (
    (re.compile(r"^(?:python|pypy)[\d.]*$"), PYTHON),
    (re.compile(r"^node(?:js)?[\d.]*$"), NODE),
    (re.compile(r"^java$"), JAVA),
    (re.compile(r"^j?ruby[\d.]*$"), RUBY),
    (re.compile(r"^perl[\d.]*$"), PERL),
    (re.compile(r"^php[\d.]*$"), PHP),
    (re.compile(r"^dotnet$"), DOTNET),
)
MAIN_CLASS: Final = re.compile(r"^(?:[\w$]+[./])*[A-Z][\w$]*$")


def program_name(executable: str, argv: Sequence[str], comm: str = "") -> str:
    """What an operator calls the program: the executable's name, or what an interpreter runs.

    `python3 -m http.server` is `http.server`, `java -jar shop-1.2.jar` is `shop`. An argument
    is taken for a program only if it looks like one; any other may be a secret.

    A program with several names (`redis-server` is a link to `redis-check-rdb` in Debian, most
    commands one to `busybox`) has the one it was called by, where `comm` and argv[0] agree on it.
    """
    for pattern, interpreter in INTERPRETERS:
        if pattern.match(executable):
            return _program(interpreter, argv) or _title(executable, argv) or executable
    if comm and not executable.startswith(comm) and argv:
        called = PurePosixPath(argv[0].partition(" ")[0]).name
        if called[:COMM_CHARS] == comm:
            return called
    return executable


def _program(interpreter: Interpreter, argv: Sequence[str]) -> str:
    arguments = iter(argv[1:])
    for argument in arguments:
        if argument in interpreter.named:
            return _base_name(next(arguments, ""), interpreter)
        if argument in interpreter.inline:
            return ""
        if argument in interpreter.valued:
            next(arguments, None)
        elif not argument.startswith("-"):
            is_path = "/" in argument or argument.endswith(interpreter.suffixes)
            is_class = interpreter.has_main_class and MAIN_CLASS.match(argument)
            return _base_name(argument, interpreter) if is_path or is_class else ""
    return ""


def _base_name(program: str, interpreter: Interpreter) -> str:
    path = PurePosixPath(program)
    if path.name in {"__main__.py", "__init__.py"}:
        path = path.parent
    if path.suffix in interpreter.suffixes:
        return VERSION_TAIL.sub("", path.name.removesuffix(path.suffix))
    if interpreter.has_main_class:
        return path.name.rpartition(".")[2]
    return path.name


def _title(executable: str, argv: Sequence[str]) -> str:
    """First word of a title written over argv ("gunicorn: master [shop]"), else ""."""
    if not argv or " " not in argv[0]:
        return ""
    words = argv[0].split()
    word = PurePosixPath(words[0].rstrip(":")).name if words else ""
    return "" if word == executable or not word.isprintable() else word


def command(executable: str, argv: Sequence[str]) -> str:
    """argv[0] as `process.command`, without what a program wrote behind it as its title."""
    if not argv:
        return ""
    first = argv[0]
    if " " in first and PurePosixPath(first).name != executable:
        return first.split()[0] if first.split() else ""
    return first


def service_name(
    *,
    configured: str = "",
    environ: Mapping[str, str],
    attributes: Mapping[str, str],
    unit: str = "",
    program: str = "",
    comm: str = "",
) -> str:
    """The first that is known, in the order that the specification and operators expect."""
    own = environ.get("OTEL_SERVICE_NAME", "").strip()
    if "$(" in own:  # Kubernetes leaves a reference that it cannot resolve as it is
        own = ""
    name = configured or own or attributes.get("service.name", "") or unit or program
    return (name or f"unknown_service:{comm or 'unknown'}")[:MAX_NAME_CHARS]
