"""Async databases for latency-sensitive services: PostgreSQL, MySQL, MariaDB and SQLite.

Pytest takes a package that has a plugin for tests, and warns where it was imported before; it need
not: PYTEST_DONT_REWRITE.
"""

from fastdb import core, interfaces
from fastdb._speedups import COMPILED, Record
from fastdb.connection import Connection
from fastdb.database import Database
from fastdb.exceptions import (
    ColumnNotFoundError,
    ConnectionFailedError,
    DatabaseError,
    DataError,
    DriverNotInstalledError,
    EmptyQueryError,
    Error,
    EventLoopError,
    IntegrityError,
    InterfaceError,
    InternalError,
    InvalidURLError,
    MissingParameterError,
    NotConnectedError,
    NotSupportedError,
    OperationalError,
    OptionError,
    PoolTimeoutError,
    ProgrammingError,
    QueryTimeoutError,
    QueryTypeError,
    TransactionError,
    UnknownParameterError,
    URLTypeError,
    Warning,
)
from fastdb.queries import ExecuteResult
from fastdb.transaction import Transaction
from fastdb.url import DatabaseURL

__version__ = "0.1.0"

__all__ = [
    "COMPILED",
    "ColumnNotFoundError",
    "Connection",
    "ConnectionFailedError",
    "DataError",
    "Database",
    "DatabaseError",
    "DatabaseURL",
    "DriverNotInstalledError",
    "EmptyQueryError",
    "Error",
    "EventLoopError",
    "ExecuteResult",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "InvalidURLError",
    "MissingParameterError",
    "NotConnectedError",
    "NotSupportedError",
    "OperationalError",
    "OptionError",
    "PoolTimeoutError",
    "ProgrammingError",
    "QueryTimeoutError",
    "QueryTypeError",
    "Record",
    "Transaction",
    "TransactionError",
    "URLTypeError",
    "UnknownParameterError",
    "Warning",
    "__version__",
    "core",
    "interfaces",
]
