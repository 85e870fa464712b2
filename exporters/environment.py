# SPDX-License-Identifier: Apache-2.0
"""How settings are read: flags over environment over defaults.

A bad flag is an error; a bad variable is a warning and the default, as OpenTelemetry asks.
Names out of a list are taken in any case.

`OTEL_SDK_DISABLED` makes the SDK inside a program do nothing. The agent is no such SDK: it
is started for nothing but telemetry, and often inherits the variable from a shell or a
service manager that wants instrumented programs to be quiet. So it is not obeyed, but a
warning says so; to send nothing is what `OTEL_TRACES_EXPORTER=none` is for.

OTel: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ 1.60.0
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

TRACES_EXPORTERS: Final = frozenset({"otlp", "console"})
METRICS_EXPORTERS: Final = frozenset({"otlp", "prometheus"})
"""What OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER may ask for here, besides `none`."""


class SettingsError(ValueError):
    """A setting that cannot be meant, in words for the user."""


class Reader:
    """Looks a setting up; None if it is nowhere, or bad in the environment."""

    def __init__(
        self, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None
    ) -> None:
        self._environ = environ
        self._overrides = overrides or {}

    def override(self, name: str, parse: Callable[[str], T]) -> T | None:
        """A flag's value.

        Raises:
            SettingsError: it is bad.
        """
        value = self._overrides.get(name)
        if value is None:
            return None
        try:
            return parse(str(value))
        except ValueError as problem:
            raise SettingsError(f"{name}: {problem}") from None

    def variable(self, name: str, parse: Callable[[str], T]) -> T | None:
        """A variable's value; None with a warning if it is bad."""
        value = self._environ.get(name, "").strip()
        if not value:  # the specification: empty is unset
            return None
        try:
            return parse(value)
        except ValueError as problem:
            logger.warning("%s is ignored: %s", name, problem)
            return None

    def first(
        self,
        name: str,
        parse: Callable[[str], T],
        *variables: str,
        parse_variable: Callable[[str], T] | None = None,
    ) -> T | None:
        """An override, else the first of `variables` that is set and good."""
        value = self.override(name, parse)
        for variable in variables:
            if value is None:
                value = self.variable(variable, parse_variable or parse)
        return value


def exporters_from_environment(environ: Mapping[str, str], signal: str) -> tuple[str, ...] | None:
    """The exporters that OTEL_TRACES_EXPORTER or OTEL_METRICS_EXPORTER names.

    None: it does not say, so the caller's default stands. Empty: `none`. What is unknown is a
    warning.
    """
    reader = Reader(environ)
    if signal == "metrics":
        return reader.variable(
            "OTEL_METRICS_EXPORTER", lambda value: _exporters(value, METRICS_EXPORTERS)
        )
    if reader.variable("OTEL_SDK_DISABLED", boolean):
        logger.warning(
            "OTEL_SDK_DISABLED is ignored: it is about SDKs inside programs. To export no spans,"
            " set OTEL_TRACES_EXPORTER=none."
        )
    return reader.variable(
        "OTEL_TRACES_EXPORTER", lambda value: _exporters(value, TRACES_EXPORTERS)
    )


def _exporters(value: str, known: frozenset[str]) -> tuple[str, ...]:
    """Names in the order given, each once."""
    names = dict.fromkeys(name.strip() for name in value.lower().split(",") if name.strip())
    if strange := names.keys() - known - {"none"}:
        shown = ", ".join(map(repr, sorted(strange)))
        raise ValueError(f"no exporter is called {shown}: there are {_list(known | {'none'})}")
    if "none" in names and len(names) > 1:
        raise ValueError(f"{value!r} asks for none and for another")
    return tuple(name for name in names if name != "none")


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def boolean(value: str) -> bool:
    """`true` or `false`, in any case."""
    if value.lower() not in {"true", "false"}:
        raise ValueError(f"{value!r} is neither true nor false")
    return value.lower() == "true"


def count(value: str) -> int:
    """A whole number of at least 1."""
    number = int(value) if re.fullmatch(r"[0-9]{1,12}", value) else 0
    if number < 1:
        raise ValueError(f"{value!r} is no number of at least 1")
    return number


def seconds(value: str) -> float:
    """Seconds above 0; fractions are welcome."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) or not float(value):
        raise ValueError(f"{value!r} is no number of seconds above 0")
    return float(value)


def milliseconds(value: str) -> float:
    """Milliseconds above 0, as seconds."""
    if not re.fullmatch(r"[0-9]{1,12}", value) or not int(value):
        raise ValueError(f"{value!r} is no number of milliseconds above 0")
    return int(value) / 1000


def ratio(value: str) -> float:
    """A share from 0 to 1."""
    number = float(value) if _NUMBER.fullmatch(value) else -1.0
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{value!r} is no ratio from 0 to 1, such as 0.1")
    return number


_NUMBER: Final = re.compile(r"([0-9]{1,9}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE]-?[0-9]{1,3})?")
