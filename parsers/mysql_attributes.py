# SPDX-License-Identifier: Apache-2.0
"""What an exchange with MySQL or MariaDB means in the words of the semantic conventions.

OTel: database spans and MySQL 1.44.0. Commands of the protocol that carry no SQL are named like
the conventions name operations of other databases: `db.operation.name` is the command.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from parsers.cache import Cache
from parsers.model import AttributeValue, Endpoint, Outline
from parsers.mysql_queries import MAX_CACHED_BYTES, Query
from parsers.mysql_wire import (
    COMMANDS,
    CONNECT,
    QUERY,
    STMT_BULK_EXECUTE,
    STMT_EXECUTE,
)
from parsers.sql import Dialect, Statement, describe

DEFAULT_PORT: Final = 3306
COUNTS: Final = ("", "db.response.returned_rows")
RUNS: Final = frozenset({QUERY, STMT_EXECUTE, STMT_BULK_EXECUTE})
"""Commands that run their text: the span is named by it."""
OUTLINE_BYTES: Final = 1500
"""What an outline takes besides its text, about."""


class Asked(NamedTuple):
    """What an outline depends on besides text and outcome."""

    command: int
    system: str
    namespace: str
    server: Endpoint
    redact: bool


Key = tuple[Asked, Query | Statement | None, int, str, str | None]

_by_query: Final[Cache[Key, Outline]] = Cache()
_by_statement: Final[Cache[Key, Outline]] = Cache()
"""Texts that differ in their values only share one."""


def outline_of(
    asked: Asked, query: Query | None, code: int, sqlstate: str, error_type: str | None
) -> Outline:
    """The outline, the same for all exchanges that mean the same."""
    key = (asked, query, code, sqlstate, error_type)
    outline = _by_query.get(key)
    if outline is not None:
        return outline
    statement = None
    size = OUTLINE_BYTES
    if query is not None:
        statement = describe(query.text, Dialect.MYSQL, redact=asked.redact, whole=query.whole)
        size += 2 * len(query.text)
    shape = (asked, statement, code, sqlstate, error_type)
    outline = _by_statement.get(shape)
    if outline is None:
        outline = _describe(asked, statement, code, sqlstate, error_type)
        _by_statement.keep(shape, outline, size)
    if size <= OUTLINE_BYTES + 2 * MAX_CACHED_BYTES:
        _by_query.keep(key, outline, size)
    return outline


def _describe(
    asked: Asked, statement: Statement | None, code: int, sqlstate: str, error_type: str | None
) -> Outline:
    server = asked.server
    attributes: dict[str, AttributeValue] = {"db.system.name": asked.system}
    if asked.namespace:
        attributes["db.namespace"] = asked.namespace
    summary = ""
    if statement is not None:
        if statement.text:
            attributes["db.query.text"] = statement.text
        if asked.command in RUNS and statement.summary:
            attributes["db.query.summary"] = summary = statement.summary
    operation = ""
    if asked.command != QUERY:
        operation = "COM_CONNECT" if asked.command == CONNECT else COMMANDS[asked.command].name
        attributes["db.operation.name"] = operation
    if code:
        attributes["db.response.status_code"] = error_type = str(code)
        if sqlstate:
            attributes["wirespan.mysql.sqlstate"] = sqlstate
    target = asked.namespace
    if server.address:
        attributes["server.address"] = server.address
        if server.port not in {0, DEFAULT_PORT}:
            attributes["server.port"] = server.port
        target = target or (f"{server.address}:{server.port}" if server.port else server.address)
    name = summary or f"{operation} {target}".strip() or asked.system
    return Outline(name, attributes, error_type, counts=COUNTS)
