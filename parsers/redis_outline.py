# SPDX-License-Identifier: Apache-2.0
"""What a command of Redis means in the words of the semantic conventions.

OTel: https://opentelemetry.io/docs/specs/semconv/db/redis/ (1.44.0).
"""

from __future__ import annotations

from typing import Final

from parsers.model import AttributeValue, Endpoint, Outline
from parsers.redis_commands import Command
from parsers.redis_replies import OTHER_ERROR

DEFAULT_PORT: Final = 6379


def describe(
    command: Command,
    namespace: str | None,
    error: str,
    batch: int,
    error_type: str | None,
    server: Endpoint,
) -> Outline:
    """The outline of a command: `error` begins its reply, `batch` is what EXEC ran or -1."""
    attributes: dict[str, AttributeValue] = {
        "db.system.name": "redis",
        "db.operation.name": command.name,
    }
    if namespace is not None:
        attributes["db.namespace"] = namespace
    attributes["db.query.text"] = command.text
    if command.procedure:
        attributes["db.stored_procedure.name"] = command.procedure
    if batch >= 0 and batch != 1:
        attributes["db.operation.batch.size"] = batch
    if error and error != OTHER_ERROR:
        attributes["db.response.status_code"] = error
    if server.address:
        attributes["server.address"] = server.address
        if server.port and server.port != DEFAULT_PORT:
            attributes["server.port"] = server.port
    name = f"{command.name} {command.procedure}" if command.procedure else command.name
    return Outline(name, attributes, error_type or error or None)
