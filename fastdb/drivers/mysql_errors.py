"""The errors of MySQL and MariaDB by their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastdb import exceptions
from fastdb.exceptions import ConnectionFailedError, QueryTimeoutError
from fastdb.exceptions_driver import from_driver

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "DEADLOCK",
    "FATAL",
    "INTERRUPTED",
    "UNKNOWN_COMMAND",
    "is_server_error",
    "number_of",
    "translate",
]

UNKNOWN_COMMAND = 1047
INTERRUPTED = 1317
DEADLOCK = 1213

#: After these the server closes the connection.
FATAL = frozenset({1053, 1152, 1153, 1158, 1159, 1160, 1161, 1927, 4031})


def _numbers(kind: type[exceptions.Error], numbers: Iterable[int]) -> dict[int, Any]:
    return dict.fromkeys(numbers, kind)


# https://mariadb.com/kb/en/mariadb-error-codes/ and MySQL's server error reference
_KINDS: dict[int, type[exceptions.Error]] = {
    # the client's own: gone, lost, out of step, TLS
    **_numbers(
        ConnectionFailedError,
        (2001, 2002, 2003, 2005, 2006, 2012, 2013, 2014, 2026, 2055, 2059),
    ),
    **_numbers(ConnectionFailedError, FATAL - {1153}),
    # no such table, column, function, database, key column; syntax; exists already
    **_numbers(
        exceptions.ProgrammingError,
        (1007, 1008, 1049, 1050, 1051, 1054, 1060, 1061, 1064, 1065, 1072, 1091, 1109, 1110),
    ),
    **_numbers(exceptions.ProgrammingError, (1136, 1146, 1149, 1305, 1318)),
    **_numbers(
        exceptions.OperationalError, (1040, 1044, 1045, 1095, 1142, 1143, 1203, 1205, 1213, 1226)
    ),
    **_numbers(exceptions.OperationalError, (1290, INTERRUPTED, 1792, 1836)),
    **_numbers(
        exceptions.IntegrityError,
        (1022, 1048, 1062, 1169, 1215, 1216, 1217, 1364, 1451, 1452, 1557, 1586, 1761, 1762),
    ),
    **_numbers(exceptions.IntegrityError, (3819, 4025)),
    **_numbers(
        exceptions.DataError,
        (1153, 1230, 1264, 1265, 1292, 1366, 1367, 1406, 1411, 1416, 1441, 1690, 3140, 3141),
    ),
    **_numbers(exceptions.DataError, (4038,)),
    **_numbers(QueryTimeoutError, (1969, 3024)),
    **_numbers(exceptions.NotSupportedError, (1235, 1289)),
}

#: The class of an unknown number is the driver's.
_CLASSES = (
    "DataError",
    "IntegrityError",
    "ProgrammingError",
    "NotSupportedError",
    "InternalError",
    "OperationalError",
)


def number_of(error: BaseException) -> int | None:
    """Return the error's number, or None where it has none."""
    number = error.args[0] if error.args else None
    return number if isinstance(number, int) and number else None


def is_server_error(error: BaseException, base: type[BaseException]) -> bool:
    """Return whether the server reported the error, so that the protocol is in step."""
    number = number_of(error)
    return isinstance(error, base) and number is not None and not 2000 <= number < 3000


def translate(error: BaseException, kind: type[exceptions.Error] | None = None) -> exceptions.Error:
    """Return the driver's error as one of ours, with its number as ``errno``.

    Args:
        error: The driver's error.
        kind: The class of ours; by default the one for its number, else its own class's.
    """
    number = number_of(error)
    kind = kind or _KINDS.get(number or 0) or _by_class(error)
    translated = from_driver(kind, error)
    for name, value in (("errno", number), ("sqlstate", getattr(error, "sqlstate", None))):
        if value is not None:
            setattr(translated, name, value)
    return translated


def _by_class(error: BaseException) -> type[exceptions.Error]:
    for base in type(error).__mro__:
        if base.__name__ == "InterfaceError":  # the drivers say so of a closed connection
            return ConnectionFailedError
        if base.__name__ in _CLASSES:
            kind: type[exceptions.Error] = getattr(exceptions, base.__name__)
            return kind
    if isinstance(error, (OSError, EOFError)):
        return ConnectionFailedError
    return exceptions.InternalError
