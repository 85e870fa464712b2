# SPDX-License-Identifier: Apache-2.0
"""What an exchange with PostgreSQL means.

OTel: semantic conventions 1.44.0, database client spans and PostgreSQL. Beyond them:

* `db.operation.name` is the protocol's message where that is not simply a statement that is run:
  a start-up, or a preparation (Parse, Describe) without an Execute.
* `wirespan.postgresql.transaction`: `idle`, `in_transaction` or `failed`, by the ReadyForQuery
  that ended the exchange; missing where none did (in the middle of a pipeline).
* `error.type` is `batch_aborted` for what the server has skipped after another's error.
* `db.response.returned_rows` counts rows that were sent, not rows that were changed.
"""

from __future__ import annotations

from typing import Final

from parsers.cache import Cache
from parsers.model import AttributeValue, Endpoint, Exchange, Outline
from parsers.postgresql_messages import (
    PREPARES,
    RUNS,
    PostgresqlRequest,
    PostgresqlResponse,
    Prefix,
)
from parsers.sql import Dialect, Statement, describe

DEFAULT_PORT: Final = 5432
SYSTEM: Final = "postgresql"
BATCH_ABORTED: Final = "batch_aborted"
COUNTS: Final = ("", "db.response.returned_rows")
TRANSACTION: Final = {
    ord("I"): "idle",
    ord("T"): "in_transaction",
    ord("E"): "failed",
}
SUCCESSES: Final = ("00", "01")
"""Classes of SQLSTATE that are no errors (semantic conventions, PostgreSQL)."""
ENTRY_BYTES: Final = 1024
"""An outline without the texts in it, about."""

_by_text: Cache[object, Outline] = Cache()
"""By the statement as it came and all else that an outline depends on."""
_by_meaning: Cache[object, Outline] = Cache()
"""By what is said of the statement: what differs in values only is one outline."""


def outline(exchange: Exchange, server: Endpoint, *, redact: bool) -> Outline:
    """The outline, the same object for the same meaning."""
    request = exchange.request
    response = exchange.response
    assert isinstance(request, PostgresqlRequest)
    status = ""
    transaction = 0
    error_type = exchange.error_type
    if isinstance(response, PostgresqlResponse):
        status = response.status
        transaction = response.transaction
        if response.aborted:
            error_type = BATCH_ABORTED
        elif status and status[:2] not in SUCCESSES:
            error_type = status
    text = request.text
    # Of a unit whose end was lost nobody knows whether it was to be executed.
    operation = "" if request.gap and request.operation in PREPARES else request.operation
    rest = (operation, request.database, status, transaction, error_type, server)
    if text is None:
        return _find(None, rest)
    whole = not isinstance(text, Prefix)
    key = (text, whole, redact, rest)
    found = _by_text.get(key)
    if found is None:
        # Which encoding the client has chosen is not known; UTF-8 is what nearly all have.
        said = describe(
            text.decode("utf-8", "replace"),
            Dialect.POSTGRESQL,
            redact=redact,
            whole=whole,
        )
        found = _find(said, rest)
        _by_text.keep(key, found, ENTRY_BYTES + len(text))
    return found


def _find(said: Statement | None, rest: tuple[str, str, str, int, str | None, Endpoint]) -> Outline:
    key = (said, rest)
    found = _by_meaning.get(key)
    if found is None:
        found = _make(said, *rest)
        _by_meaning.keep(key, found, ENTRY_BYTES + (len(said.text) if said else 0))
    return found


def _make(
    said: Statement | None,
    operation: str,
    database: str,
    status: str,
    transaction: int,
    error_type: str | None,
    server: Endpoint,
) -> Outline:
    attributes: dict[str, AttributeValue] = {"db.system.name": SYSTEM}
    if database:
        attributes["db.namespace"] = database
    summary = ""
    if said is not None:
        summary = said.summary
        if said.text:
            attributes["db.query.text"] = said.text
        if summary:
            attributes["db.query.summary"] = summary
    runs = operation in RUNS or not operation
    if not runs:
        attributes["db.operation.name"] = operation
    if status:
        attributes["db.response.status_code"] = status
    if transaction in TRANSACTION:
        attributes["wirespan.postgresql.transaction"] = TRANSACTION[transaction]
    attributes["server.address"] = server.address
    port = server.port if server.port != DEFAULT_PORT else 0
    if port:
        attributes["server.port"] = port
    name = summary
    if not summary or not runs:
        target = summary or database or (f"{server.address}:{server.port}" if server.port else "")
        name = f"{operation} {target}".strip() or SYSTEM
    return Outline(name, attributes, error_type, counts=COUNTS)
