# SPDX-License-Identifier: Apache-2.0
"""Which exporters a command has, by its flags and the environment.

The variables that say what is exported at all are read here; what each exporter makes of its
own it knows itself.

OTel: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
      1.60.0, "Exporter selection"
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from typing import Final
from urllib.parse import quote

from tracer.argument_groups import SOCKET
from tracer.export import Exporter
from tracer.gate import Gate
from tracer.plugins import ExporterError, load_helper, make_exporter
from tracer.routes import Routes
from tracer.telemetry import Reading

NO_SOCKET: Final = "none"
BESIDE: Final = {
    "metrics": "an agent has metrics anyway, see --prometheus and --no-metrics",
    "map": "use --map, or `wirespan map`",
    "sdk": "name the class itself, module:Class",
}
"""Exporters that spans are not sent to, and what to say instead."""


def make_gate(arguments: Namespace, output: str | None) -> Gate:
    """The exporters that the flags ask for.

    Raises:
        ExporterError: one of them cannot be had.
    """
    gate = Gate({}, getattr(arguments, "count", None))
    try:
        for name, plugin, options in _wanted(arguments, output):
            try:
                gate.exporters[name] = make_exporter(plugin, options)
            except ExporterError as error:
                if options.get("socket") != SOCKET:
                    raise
                # Nobody has asked for it, and spans are worth more.
                gate.lacking.append(f"{error}; going on without `wirespan map`")
    except ExporterError:
        gate.close()
        raise
    return gate


def _wanted(arguments: Namespace, output: str | None) -> Iterable[tuple[str, str, dict[str, str]]]:
    """Name, entry point and options of each exporter."""
    if output not in {None, "none"}:
        yield "console", "console", {"style": str(output), "color": arguments.color}
    if getattr(arguments, "map", False):
        yield "map", "map", {"style": "text", "color": arguments.color}
    names = export_names(arguments)
    if "otlp" not in names and _spool_options(arguments):
        raise ExporterError("--spool is for OTLP, and nothing is sent by it: leave it out")
    for name in names:
        if ":" in name:
            yield name, "sdk", {"class": name} | _sampling_options(arguments)
        elif name == "otlp":
            yield name, name, _otlp_options(arguments) | _spool_options(arguments)
        else:
            yield name, name, {}
    if arguments.command != "agent":
        return
    yield "metrics", "metrics", _metrics_options(arguments, sends="otlp" in names)
    if arguments.socket != NO_SOCKET:
        yield "map", "map", {"socket": arguments.socket}


def export_names(arguments: Namespace) -> list[str]:
    """The exporters of spans that are named; a flag of OTLP means that too.

    Raises:
        ExporterError: one of them is none of spans.
    """
    names = list(arguments.export)
    for name in names:
        if name in BESIDE:
            raise ExporterError(f"--export {name}: it takes no spans; {BESIDE[name]}")
    if not names and arguments.export_default:
        chosen = load_helper("agent").exporters_from_environment(os.environ, "traces")
        names = list(arguments.export_default if chosen is None else chosen)
    names = list(dict.fromkeys(names))
    if _endpoint_options(arguments) and "otlp" not in names:
        names.append("otlp")
    return names


def observe(gate: Gate, readings: Callable[[], Iterable[Reading]]) -> None:
    """Give the agent's health to the exporters that want it."""
    for exporter in gate.exporters.values():
        take = getattr(exporter, "observe", None)
        if take is not None:
            take(readings)


def make_routes(arguments: Namespace) -> Routes:
    """The routes that the flags name.

    Raises:
        ExporterError: a pattern cannot be understood.
    """
    try:
        return Routes(getattr(arguments, "route", ()))
    except ValueError as error:
        raise ExporterError(f"--route: {error}") from None


def map_exporter(style: str, color: str, since_ns: int | None) -> Exporter:
    """What draws a map when it is closed.

    Raises:
        ExporterError: it cannot be had.
    """
    options = {"style": style, "color": color}
    if since_ns is not None:
        options["since"] = f"{since_ns / 1e9:f}"
    return make_exporter("map", options)


def _otlp_options(arguments: Namespace) -> dict[str, str]:
    return _endpoint_options(arguments) | _sampling_options(arguments)


def _endpoint_options(arguments: Namespace) -> dict[str, str]:
    options = {
        "endpoint": arguments.endpoint,
        "protocol": arguments.protocol,
        "compression": arguments.compression,
    }
    if arguments.header:
        # As the environment variable has them, so a comma in a value is no separator.
        options["headers"] = ",".join(
            f"{quote(key)}={quote(value)}" for key, value in arguments.header
        )
    return _given(options)


def _sampling_options(arguments: Namespace) -> dict[str, str]:
    return _given({"sample": arguments.sample, "slow": arguments.slow})


def _spool_options(arguments: Namespace) -> dict[str, str]:
    size = getattr(arguments, "spool_size", None)
    folder = getattr(arguments, "spool", None)
    return _given({"spool": folder, "spool_bytes": str(size) if folder and size else None})


def _metrics_options(arguments: Namespace, *, sends: bool) -> dict[str, str]:
    options = {"prometheus": arguments.prometheus}
    is_said = bool(os.environ.get("OTEL_METRICS_EXPORTER"))
    if not arguments.metrics or not (sends or is_said):
        options["otlp"] = "false"
    return _endpoint_options(arguments) | _given(options)


def _given(options: Mapping[str, str | None]) -> dict[str, str]:
    return {key: value for key, value in options.items() if value is not None}
