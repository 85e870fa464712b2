# SPDX-License-Identifier: Apache-2.0
"""The parsers that are installed, built-in and others alike, by entry point."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import entry_points
from typing import Final

from parsers.model import Options, Parser, Transport

GROUP: Final = "wirespan.parsers"


class UnknownParserError(Exception):
    """A parser was asked for by a name that no installed package provides."""


class Registry:
    """Parsers by name, and the order in which detection tries them."""

    def __init__(self, parsers: dict[str, type[Parser]], options: Options) -> None:
        self.parsers = parsers
        self.options = options
        self.encrypted_options = replace(options, encrypted=True)
        """The same for what is inside of TLS."""
        self.failures: dict[str, str] = {}
        """Plug-ins that could not be loaded, with the reason."""
        self._by_transport = {
            transport: [each for each in parsers.values() if transport in each.transports]
            for transport in Transport
        }

    @classmethod
    def load(cls, names: list[str] | None = None, options: Options | None = None) -> Registry:
        """Load the parsers called `names`, or all.

        Raises:
            UnknownParserError: one of `names` is not installed.
        """
        found = {point.name: point for point in entry_points(group=GROUP)}
        unknown = sorted(set(names or ()) - set(found))
        if unknown:
            raise UnknownParserError(
                f"no parser is called {', '.join(unknown)}: there are {', '.join(sorted(found))}"
            )
        parsers: dict[str, type[Parser]] = {}
        failures: dict[str, str] = {}
        for name, point in found.items():
            if names and name not in names:
                continue
            try:
                parser = point.load()
                # What is asked of every parser: of something else, it is told here.
                _ = parser.name, frozenset(parser.transports), frozenset(parser.ports), parser.probe
                _ = frozenset(getattr(parser, "refinements", ()))
                parsers[name] = parser
            except Exception as error:  # noqa: BLE001 - a stranger's plug-in must not end the agent
                failures[name] = f"{type(error).__name__}: {error}"
        registry = cls(parsers, options or Options())
        registry.failures = failures
        return registry

    def candidates(self, transport: Transport, port: int) -> list[type[Parser]]:
        """Parsers for a transport; one that knows the server's port comes first."""
        parsers = self._by_transport[transport]
        if len(parsers) > 1 and any(port in each.ports for each in parsers):
            return sorted(parsers, key=lambda each: port not in each.ports)
        return parsers
