"""Which of fastdb's errors an asyncpg error is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from fastdb.exceptions import (
    ConnectionFailedError,
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
)
from fastdb.exceptions_driver import from_driver

if TYPE_CHECKING:
    from fastdb.drivers.postgresql_raw import TaggedConnection

__all__ = ["translate"]

#: The first two characters of an SQLSTATE (PostgreSQL's appendix A, "Error Codes") -> class.
_BY_CLASS: dict[str, type[Error]] = {
    "03": ProgrammingError,  # statement not yet complete
    "08": OperationalError,  # connection; on a connection that lives, of a foreign server
    "09": InternalError,  # triggered action
    "0A": NotSupportedError,
    "0B": InternalError,  # invalid transaction initiation
    "0L": ProgrammingError,  # grantor
    "0P": ProgrammingError,  # role
    "0Z": InternalError,  # diagnostics
    "20": ProgrammingError,  # CASE
    "21": ProgrammingError,  # cardinality
    "22": DataError,
    "23": IntegrityError,
    "24": InternalError,  # cursor state
    "25": InternalError,  # transaction state
    "26": OperationalError,  # prepared statement unknown: PgBouncer
    "27": OperationalError,
    "28": OperationalError,  # authorization
    "2B": InternalError,
    "2D": InternalError,
    "2F": InternalError,
    "34": OperationalError,  # cursor name
    "38": InternalError,
    "39": InternalError,
    "3B": InternalError,  # savepoint
    "3D": ProgrammingError,  # database
    "3F": ProgrammingError,  # schema
    "40": OperationalError,  # serialization, deadlock
    "42": ProgrammingError,
    "44": IntegrityError,  # WITH CHECK OPTION
    "53": OperationalError,
    "54": OperationalError,
    "55": OperationalError,
    "57": OperationalError,
    "58": OperationalError,
    "72": OperationalError,  # snapshot too old
    "F0": InternalError,
    "HV": OperationalError,  # foreign data wrapper
    "P0": InternalError,  # PL/pgSQL: RAISE
    "XX": InternalError,
}

#: The server ends the connection, or cannot take one.
_CONNECTION_STATES = frozenset({"57P01", "57P02", "57P03"})

#: asyncpg's decoders raise these for values that Python cannot hold, such as a date before Christ.
_VALUE_ERRORS = (ArithmeticError, LookupError, TypeError, ValueError)


def translate(error: Exception, raw: TaggedConnection, sql: str = "") -> Exception:
    """Return `error` as one of :mod:`fastdb.exceptions`, or itself where the user's code made it.

    Args:
        error: What asyncpg raised.
        raw: The connection on which it did.
        sql: The statement that was run.
    """
    kind = _kind(error, raw, sql)
    return error if kind is None else from_driver(kind, error)


def _kind(error: Exception, raw: TaggedConnection, sql: str) -> type[Error] | None:
    if isinstance(error, UnicodeEncodeError) and error.object == sql:
        return ProgrammingError
    if isinstance(error, asyncpg.PostgresError):
        return _server_kind(error, raw, sql)
    if isinstance(error, asyncpg.InterfaceError):
        return _client_kind(error, raw)
    if isinstance(error, asyncpg.OutdatedSchemaCacheError):
        return OperationalError  # the next attempt finds the new schema
    if isinstance(error, asyncpg.InternalClientError):
        # The server's farewell, come unasked, also looks like a breach of the protocol to asyncpg.
        return ConnectionFailedError if raw.is_closed() else InternalError
    if isinstance(error, OSError) and raw.is_closed():
        return ConnectionFailedError
    if isinstance(error, _VALUE_ERRORS) and not raw.codecs:
        return DataError
    return None


def _server_kind(error: Any, raw: TaggedConnection, sql: str) -> type[Error]:
    state: str = error.sqlstate or ""
    if "\0" in sql:
        return ProgrammingError  # the server takes NUL for the end, and the rest for rubbish
    if state in _CONNECTION_STATES or (raw.is_closed() and state[:2] in ("08", "25", "57")):
        return ConnectionFailedError
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return OperationalError  # 0A000, yet trying again helps
    return _BY_CLASS.get(state[:2], DatabaseError)


def _client_kind(error: Any, raw: TaggedConnection) -> type[Error]:
    if isinstance(error, ValueError):  # asyncpg's client-side DataError
        return DataError
    if isinstance(
        error, asyncpg.UnsupportedClientFeatureError | asyncpg.UnsupportedServerFeatureError
    ):
        return NotSupportedError
    if raw.is_closed():
        return ConnectionFailedError
    if str(error).startswith(("the server expects", "the number of query arguments")):
        return ProgrammingError
    return InterfaceError
