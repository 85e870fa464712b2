# SPDX-License-Identifier: Apache-2.0
"""What kind of file system a file is on, which Python has no function for.

Format: statfs(2).
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

STATFS_BYTES: Final = 256
"""Room for a struct statfs, which begins with the type, a long, and has 120 bytes."""
statfs: Final = ctypes.CDLL(None, use_errno=True).statfs


def file_system(path: Path) -> int:
    """The type of the file system that a file is on (Linux include/uapi/linux/magic.h).

    Raises:
        OSError: nothing leads to the file any more.
    """
    result = ctypes.create_string_buffer(STATFS_BYTES)
    if statfs(os.fsencode(path), result):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(path))
    return int.from_bytes(result.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder)
