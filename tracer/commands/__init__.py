# SPDX-License-Identifier: Apache-2.0
"""What each subcommand does. Nothing here is imported before its command is asked for."""
