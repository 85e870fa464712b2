# SPDX-License-Identifier: Apache-2.0
"""Exporters by name: built-in ones come through the same door as a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Final

from tracer.export import Exporter

GROUP: Final = "wirespan.exporters"
HELPERS: Final = "wirespan.commands"
"""Modules beside the exporters that a command calls by name, as it may not import them."""


class ExporterError(Exception):
    """An exporter is not installed, or does not take what it was told."""


def exporter_names() -> list[str]:
    """The exporters that are installed."""
    return sorted(point.name for point in entry_points(group=GROUP))


def make_exporter(name: str, options: Mapping[str, str]) -> Exporter:
    """The exporter called `name`, set up with `options`, which are its own to understand.

    Raises:
        ExporterError: there is no such exporter, or it refuses the options.
    """
    for point in entry_points(group=GROUP, name=name):
        try:
            exporter: Exporter = point.load().from_options(options)
        except (ImportError, ValueError) as error:
            raise ExporterError(f"exporter {name}: {error}") from error
        except Exception as error:
            # A stranger's: whatever it is, the user can only mend or leave out the plug-in.
            raise ExporterError(
                f"exporter {name} ({point.value}) has failed: {type(error).__name__}: {error}"
            ) from error
        return exporter
    known = ", ".join(exporter_names()) or "none"
    raise ExporterError(f"no exporter is called {name}: installed are {known}")


def load_helper(name: str) -> Any:
    """The module that does for the command `name` what belongs to exporters.

    Raises:
        ExporterError: it is not installed.
    """
    for point in entry_points(group=HELPERS, name=name):
        return point.load()
    raise ExporterError(f"the command {name} is not installed in full: install wirespan again")
