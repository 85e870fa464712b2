# SPDX-License-Identifier: Apache-2.0
"""The rules of the tree that import-linter and ruff cannot say."""

from __future__ import annotations

import ast
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tracer", "parsers", "exporters")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SOURCES = sorted(
    path
    for folder in (*PACKAGES, "bpf", "examples", "tests")
    for pattern in ("*.py", "*.c", "*.h", "*.sh")
    for path in (ROOT / folder).rglob(pattern)
    if ".output" not in path.parts
)

LINES = 400
LONGEST = 600
LONG_WITH_REASON = {
    "tracer/connections.py": "the table is one state machine; its hot loop alone takes 70 lines",
}
"""Files of more than 400 lines, and why it is better not to cut them."""

NO_TEST_OF_ITS_OWN = {
    "parsers/model.py": "types; every parser's test uses them",
    "tracer/export.py": "a port: it only says what exporters look like",
    "tracer/source.py": "a port: it only says what sources look like",
}
"""Modules without a test file, and why."""

EXPORTERS_MAY_IMPORT = {
    "tracer",
    "tracer.span",
    "tracer.export",
    "tracer.printable",
    "tracer.telemetry",
    "parsers.model",
}
LIBBPF_MAY_BE_IMPORTED_BY = {
    "tracer/probes.py",
    "tracer/kernel_filters.py",
    "tracer/library_probes.py",
    "tracer/tls_capture.py",
    "tracer/host.py",
}
"""The loader with its parts, and the check that asks for the version."""


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def imports_of(path):
    """Modules that a file imports: `a.b` for `from a.b import c`, and `a.b.c` if that is one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (ROOT / inner.replace(".", "/")).with_suffix(".py").exists()
                yield inner if is_module else node.module


def protocol_modules():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = project["entry-points"]["wirespan.parsers"].values()
    return {name.partition(":")[0] for name in names}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_has_a_test_file(path):
    if path.name == "__init__.py" or name_of(path) in NO_TEST_OF_ITS_OWN:
        return
    folder = ROOT / "tests" / path.relative_to(ROOT).parent
    mirrored = [folder / f"test_{path.name}", *folder.glob(f"test_{path.stem}_*.py")]
    assert any(file.exists() for file in mirrored), f"{name_of(path)} needs {name_of(mirrored[0])}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_file_is_short_enough_to_read(path):
    lines = path.read_text().count("\n")
    assert lines <= LONGEST
    if path.is_relative_to(ROOT / "tests") or name_of(path) in LONG_WITH_REASON:
        return
    assert lines <= LINES, f"{name_of(path)}: cut it, or give a reason in LONG_WITH_REASON"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_file_names_its_licence(path):
    head = "".join(path.read_text().splitlines(keepends=True)[:2])
    is_kernel = path.suffix in {".c", ".h"} and "bpf" in path.relative_to(ROOT).parts
    expected = "GPL-2.0-only OR BSD-2-Clause" if is_kernel else "Apache-2.0"
    assert f"SPDX-License-Identifier: {expected}" in head


@pytest.mark.parametrize("path", list((ROOT / "exporters").rglob("*.py")), ids=name_of)
def test_exporters_know_only_spans_and_the_port(path):
    ours = {name for name in imports_of(path) if name.partition(".")[0] in {"tracer", "parsers"}}
    assert ours <= EXPORTERS_MAY_IMPORT


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_loader_knows_libbpf(path):
    if name_of(path) not in LIBBPF_MAY_BE_IMPORTED_BY:
        assert "tracer.libbpf" not in set(imports_of(path))


def test_no_protocol_imports_another():
    protocols = protocol_modules()
    for module in protocols:
        path = ROOT / (module.replace(".", "/") + ".py")
        assert set(imports_of(path)) & protocols <= {module}


def test_exceptions_are_still_needed():
    for name in (*LONG_WITH_REASON, *NO_TEST_OF_ITS_OWN, *LIBBPF_MAY_BE_IMPORTED_BY):
        assert (ROOT / name).exists(), f"{name} is excepted and not there"
    for name in LONG_WITH_REASON:
        assert (ROOT / name).read_text().count("\n") > LINES


@pytest.mark.parametrize("group", ["wirespan.parsers", "wirespan.exporters"])
def test_entry_points_are_installed_as_declared(group):
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    installed = {point.name: point.value for point in entry_points(group=group)}
    assert declared[group].items() <= installed.items()
    for point in entry_points(group=group):
        if point.name in declared[group]:
            assert isinstance(point.load(), type)
