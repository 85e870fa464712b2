# SPDX-License-Identifier: Apache-2.0
"""The kernel's side of the world: capture, connections, spans, the command line."""

from typing import Final

__version__: Final = "0.1.0"
