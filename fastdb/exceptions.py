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
:func:`from_driver`), so that handlers written for either catch them.

``ConnectionFailedError`` and ``QueryTimeoutError`` make errors that are also of the built-in. The
classes themselves are not: asyncmy's errors, which are compiled, cannot share a class with it.
"""

from __future__ import annotations

from contextlib import suppress
from types import GetSetDescriptorType, MemberDescriptorType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable
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
    "from_driver",
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
        made = _with_builtin(cls)
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
        made = _with_builtin(cls)
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


def _with_builtin(cls: type[_E]) -> type[_E]:
    """Return the class that is instantiated for `cls`."""
    return cast("type[_E]", _BUILTIN.get(cls, cls))


_merged: dict[tuple[type[Error], type[BaseException]], type[Error]] = {}

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: set on classes that Python code made


def from_driver(kind: type[Error], error: BaseException) -> Error:
    """Return `error` as an instance of both `kind` and its own class.

    Raise the result ``from error``. Its class is made once per pair. It carries the driver's
    attributes and methods, reads as the original does (``str``, ``args``), and pickles.

    The class has the driver's ``__name__``, since programs and error trackers look for
    ``"UniqueViolationError"``, and shows both parents in a traceback:
    ``fastdb.exceptions.IntegrityError[asyncpg.exceptions.UniqueViolationError]``. An error of
    fastdb's own keeps its class; one that `kind` derives from becomes plain `kind`.

    Args:
        kind: The class of this module that fits best.
        error: The driver's exception.
    """
    state = _state(error)
    state.pop("__notes__", None)  # they are shown with the cause
    if isinstance(error, Error):
        return _rebuild_as(type(error), error.args, state)
    return _rebuild(kind, type(error), error.args, state)


def _merged_class(kind: type[Error], driver_class: type[BaseException]) -> type[Error]:
    merged = _merged.get((kind, driver_class))
    if merged is None:
        # Of two threads that come here at once, both take what the first one stored.
        merged = _merged.setdefault((kind, driver_class), _merge(kind, driver_class))
    return merged


def _merge(kind: type[Error], driver_class: type[BaseException]) -> type[Error]:
    first = _with_builtin(kind)
    if issubclass(first, driver_class):
        return first
    metaclass: Callable[..., Any] = type(driver_class)
    for base in first.__mro__:
        # Where layouts or method orders conflict, the built-in that `kind` has gives way.
        if not issubclass(base, Error):
            continue
        namespace: dict[str, Any] = {
            # asyncpg's metaclass refuses a class of a known name in a module of asyncpg's.
            "__module__": __name__,
            "__qualname__": f"{base.__qualname__}[{_full_name(driver_class)}]",
            "__doc__": driver_class.__doc__,
            "__reduce_ex__": _reduce_ex,
            # OSError's, which some kinds have, would come before that of a driver without one.
            "__str__": driver_class.__str__,
            "_origin": (kind, driver_class),
        }
        try:
            # The driver's class comes first: its methods are those that its users know.
            merged: type[Error] = metaclass(driver_class.__name__, (driver_class, base), namespace)
            return merged
        except Exception:  # a metaclass or __init_subclass__ may refuse in its own way
            continue
    return first


def _full_name(driver_class: type[BaseException]) -> str:
    if driver_class.__module__ == "builtins":
        return driver_class.__qualname__
    return f"{driver_class.__module__}.{driver_class.__qualname__}"


def _state(error: BaseException) -> dict[str, Any]:
    """Return every attribute, those in slots and in C structures (``errno``) included."""
    state = {}
    for cls in type(error).__mro__[:-1]:
        if cls is BaseException:  # its members are args, and what belongs to the raised instance
            continue
        for name, member in vars(cls).items():
            if (
                isinstance(member, MemberDescriptorType | GetSetDescriptorType)
                and name not in ("__dict__", "__weakref__")
                and name not in state
            ):
                with suppress(Exception):  # an attribute that was never set
                    value = member.__get__(error, type(error))
                    # None is what a C structure shows for unset, and is not to be set: an OSError
                    # whose filename was set to None says so.
                    if value is not None or cls.__flags__ & _HEAP_TYPE:
                        state[name] = value
    return state | vars(error)


def _rebuild(
    kind: type[Error],
    driver_class: type[BaseException],
    args: tuple[Any, ...],
    state: dict[str, Any],
) -> Error:
    return _rebuild_as(_merged_class(kind, driver_class), args, state)


def _rebuild_as(cls: type[Error], args: tuple[Any, ...], state: dict[str, Any]) -> Error:
    # The driver's __new__ and __init__ may want other arguments than `args`: neither is run again.
    builtin: type[BaseException] = cls
    while builtin.__flags__ & _HEAP_TYPE and builtin.__base__ is not None:
        builtin = builtin.__base__
    # Without arguments OSError does not take the driver's for an errno; groups insist on theirs.
    group = issubclass(cls, BaseExceptionGroup)
    error = builtin.__new__(cls, *args) if group else builtin.__new__(cls)
    # BaseException's own setter: a driver's class may refuse changes (asyncpg's warnings do).
    BaseException.__setattr__(error, "args", args)
    for name, value in state.items():
        with suppress(AttributeError, TypeError):  # read-only
            BaseException.__setattr__(error, name, value)
    return error


def _reduce_ex(self: Any, protocol: int) -> tuple[Any, ...]:
    kind, driver_class = self._origin
    return _rebuild, (kind, driver_class, self.args, _state(self))
