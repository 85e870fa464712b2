# SPDX-License-Identifier: Apache-2.0
"""Protocol parsers: bytes in, messages and exchanges out; no I/O, no clock."""
