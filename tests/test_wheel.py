# SPDX-License-Identifier: Apache-2.0
"""What is installed on a target, which has neither the checkout nor a compiler."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from tracer import __version__
from tracer.objects import BUILT, MACHINES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel unpacked into it, as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    assert Path(wheel).name == f"wirespan-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed, code):
    # -I -S: neither this checkout nor anything else that is installed here.
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(installed)!r}); {code}",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_wheel_holds_the_three_packages_and_nothing_of_the_checkout(installed):
    assert {path.name for path in installed.iterdir()} == {
        "tracer",
        "parsers",
        "exporters",
        f"wirespan-{__version__}.dist-info",
    }


def test_every_module_is_in_the_wheel(installed):
    for package in ("tracer", "parsers", "exporters"):
        for path in (ROOT / package).rglob("*.py"):
            assert (installed / path.relative_to(ROOT)).exists()
        assert (installed / package / "py.typed").exists()


def test_wheel_carries_the_object_of_every_machine(installed):
    if not list(BUILT.glob("*.o")):
        pytest.skip("the BPF object was not built: there is no clang")
    for machine in set(MACHINES.values()):
        code = f"from tracer.objects import object_path; print(object_path({machine!r}))"
        path = Path(run(installed, code))
        assert path.is_relative_to(installed)
        assert path.read_bytes()[:4] == b"\x7fELF"


def test_parsers_need_nothing_but_the_standard_library(installed):
    code = "import parsers.http1, parsers.session; print(parsers.http1.__file__)"
    assert run(installed, code).startswith(str(installed))


def test_licences_of_both_halves_are_in_the_wheel(installed):
    licences = installed / f"wirespan-{__version__}.dist-info" / "licenses"
    assert (licences / "LICENSE").exists()
    assert (licences / "bpf" / "LICENSE.BSD-2-Clause").exists()
    assert (licences / "bpf" / "LICENSE.GPL-2.0").exists()
