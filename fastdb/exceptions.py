"""Every error that fastdb raises, with PEP 249's names.

The tree (the built-in that a class also derives from in brackets)::

    fastdb.Error
    ├── InterfaceError                    a mistake in the use of fastdb itself
    │   ├── InvalidURLError               [ValueError]
    │   │   └── URLTypeError              [TypeError]   no URL at all, or no such keyword
    │   ├── OptionError                   [ValueError]  unknown scheme, driver or option, bad value
    │   ├── DriverNotInstalledError       [ImportError] names the extra to install
    │   ├── NotConnectedError             [RuntimeError] before connect() or after disconnect()
    │   ├── EventLoopError                [RuntimeError] used from another event loop or thread
    │   ├── TransactionError              [RuntimeError] ended twice, out of order, never startable
    │   ├── ColumnNotFoundError           [KeyError]    a record has no column of that name
    │   └── PoolTimeoutError              [TimeoutError] no connection within acquire_timeout
    └── DatabaseError                     reported by the driver or the server
        ├── DataError
        ├── OperationalError
        │   ├── ConnectionFailedError     [ConnectionError] cannot connect, or connection lost
        │   └── QueryTimeoutError         [TimeoutError]
        ├── IntegrityError
        ├── InternalError
        ├── ProgrammingError
        │   ├── QueryTypeError            [TypeError]   neither SQL nor an expression; bad values
        │   ├── EmptyQueryError           [ValueError]
        │   ├── MissingParameterError     [ValueError]
        │   └── UnknownParameterError     [ValueError]
        └── NotSupportedError

Errors of a driver are raised as a class made of one of these and the driver's own (see
:func:`fastdb.exceptions_driver.from_driver`), so that handlers written for either catch them.

``ConnectionFailedError`` and ``QueryTimeoutError`` make errors that are also of the built-in. The
classes themselves are not: asyncmy's errors, which are compiled, cannot share a class with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "ColumnNotFoundError",
    "ConnectionFailedError",
    "DataError",
    "DatabaseError",
    "DriverNotInstalledError",
    "EmptyQueryError",
    "Error",
    "EventLoopError",
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
    "TransactionError",
    "URLTypeError",
    "UnknownParameterError",
    "Warning",
]


_E = TypeVar("_E", bound="Error")


class Warning(Exception):  # PEP 249 asks for this name
    """Report something of importance that is no error (PEP 249)."""


class Error(Exception):
    """Base of every error of fastdb."""


class InterfaceError(Error):
    """Report a mistake in the use of fastdb rather than in the database."""


class InvalidURLError(InterfaceError, ValueError):
    """Report a database URL that cannot be read."""


class URLTypeError(InvalidURLError, TypeError):
    """Report something that is no database URL at all, or a keyword that no part of one has."""


class OptionError(InterfaceError, ValueError):
    """Report an unknown scheme, driver or option, or a value that it does not take."""


class DriverNotInstalledError(InterfaceError, ImportError):
    """Report that the driver's package is missing; the message names the extra to install."""


class NotConnectedError(InterfaceError, RuntimeError):
    """Report use of a Database before ``connect()`` or after ``disconnect()``."""


class EventLoopError(InterfaceError, RuntimeError):
    """Report use of a Database from another event loop than the one it is connected on."""


class TransactionError(InterfaceError, RuntimeError):
    """Report a transaction that is ended twice, out of order, or cannot be started."""


class ColumnNotFoundError(InterfaceError, KeyError):
    """Report a column name that a record does not have; the message lists those it has."""

    # KeyError shows the repr of its argument; this one carries a sentence.
    __str__ = Exception.__str__


class PoolTimeoutError(InterfaceError, TimeoutError):
    """Report that no connection came free within ``acquire_timeout``."""


class DatabaseError(Error):
    """Base of what the driver or the server reports."""


class DataError(DatabaseError):
    """Report a value that the column or the protocol cannot take."""


class OperationalError(DatabaseError):
    """Report trouble in the database's operation: connection, locks, resources."""


class ConnectionFailedError(OperationalError):
    """Report that the server cannot be reached, or that the connection to it is lost."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make one that is a ``ConnectionError``, too."""
        made = with_builtin(cls)
        return super(ConnectionFailedError, made).__new__(made, *args, **kwargs)


class _ConnectionFailedError(ConnectionFailedError, ConnectionError):
    __doc__ = ConnectionFailedError.__doc__
    __qualname__ = ConnectionFailedError.__qualname__

    def __reduce__(self) -> tuple[Any, ...]:
        return ConnectionFailedError, *super().__reduce__()[1:]


class QueryTimeoutError(OperationalError):
    """Report a query that was stopped because its timeout ran out."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make one that is a ``TimeoutError``, too."""
        made = with_builtin(cls)
        return super(QueryTimeoutError, made).__new__(made, *args, **kwargs)


class _QueryTimeoutError(QueryTimeoutError, TimeoutError):
    __doc__ = QueryTimeoutError.__doc__
    __qualname__ = QueryTimeoutError.__qualname__

    def __reduce__(self) -> tuple[Any, ...]:
        return QueryTimeoutError, *super().__reduce__()[1:]


class IntegrityError(DatabaseError):
    """Report a violated constraint."""


class InternalError(DatabaseError):
    """Report an internal error of the database."""


class ProgrammingError(DatabaseError):
    """Report wrong SQL, an unknown table, or wrong parameters."""


class QueryTypeError(ProgrammingError, TypeError):
    """Report a query that is neither SQL nor an expression, or values that are no mapping."""


class EmptyQueryError(ProgrammingError, ValueError):
    """Report a query without a statement."""


class MissingParameterError(ProgrammingError, ValueError):
    """Report a parameter of the query that has no value."""


class UnknownParameterError(ProgrammingError, ValueError):
    """Report a value for a parameter that the query does not have."""


class NotSupportedError(DatabaseError):
    """Report something that this database or driver cannot do."""


_BUILTIN: Final[dict[type[Error], type[Error]]] = {
    ConnectionFailedError: _ConnectionFailedError,
    QueryTimeoutError: _QueryTimeoutError,
}
for _kind, _class in _BUILTIN.items():
    _class.__name__ = _kind.__name__  # tracebacks and error trackers show the public one


def with_builtin(cls: type[_E]) -> type[_E]:
    """Return the class that is instantiated for `cls`."""
    return cast("type[_E]", _BUILTIN.get(cls, cls))
