# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from tracer.file_system import file_system

PROC_SUPER_MAGIC = 0x9FA0


def test_file_system_is_that_of_the_file(tmp_path):
    assert file_system(Path("/proc/self/stat")) == PROC_SUPER_MAGIC
    assert file_system(tmp_path) not in {0, PROC_SUPER_MAGIC}


def test_file_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        file_system(tmp_path / "absent")
