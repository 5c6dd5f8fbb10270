"""Errors of ``sqlite3`` in fastdb's words."""

from __future__ import annotations

import re
import sqlite3
from typing import Final

from fastdb.exceptions import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotConnectedError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
)
from fastdb.exceptions_driver import from_driver

_BINDING: Final = (sqlite3.ProgrammingError, sqlite3.InterfaceError)

__all__ = ["is_busy", "translated"]

# SQLite reports all of these as plain SQLITE_ERROR; PEP 249 calls them programming errors.
# (`re` compiles it at the first error and keeps it.)
_PROGRAMMING: Final = (
    r"syntax error|incomplete input|unrecognized token|no such|already exists|already another"
    r"|has no column|ambiguous column|duplicate column|wrong number of arguments|values for"
    r"|misuse of|may not be|cannot be (?:dropped|altered|modified|used)|unknown|must (?:be|have)"
    r"|do not have the same number|no query solution|does not match|more than one primary key"
    r"|there is already"
)
_KINDS: Final = (
    (sqlite3.IntegrityError, IntegrityError),
    (sqlite3.OperationalError, OperationalError),
    (sqlite3.ProgrammingError, ProgrammingError),
    (sqlite3.DataError, DataError),
    (sqlite3.InternalError, InternalError),
    (sqlite3.NotSupportedError, NotSupportedError),
    (sqlite3.DatabaseError, DatabaseError),
    (sqlite3.InterfaceError, InterfaceError),
    (sqlite3.Warning, ProgrammingError),
)


def translated(error: Exception) -> Error:
    """Return `error`, one of sqlite3's, as one of ours that is also of its class."""
    message = str(error)
    if isinstance(error, sqlite3.OperationalError):
        kind: type[Error] = OperationalError
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code == sqlite3.SQLITE_ERROR and re.search(_PROGRAMMING, message):
            kind = ProgrammingError
    elif isinstance(error, _BINDING) and (
        "binding parameter" in message or "not supported" in message
    ):
        kind = DataError
    elif "closed database" in message:
        kind = NotConnectedError
    else:
        kind = next(
            (ours for theirs, ours in _KINDS if isinstance(error, theirs)),
            DataError,  # OverflowError, UnicodeEncodeError: values that cannot be bound
        )
    return from_driver(kind, error)


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether another connection holds a lock, so that waiting can help."""
    code = getattr(error, "sqlite_errorcode", 0)
    return bool(code & 0xFF == sqlite3.SQLITE_BUSY and code != sqlite3.SQLITE_BUSY_SNAPSHOT)
