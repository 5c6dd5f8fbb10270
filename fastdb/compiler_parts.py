"""What every compiled query has in common: the parts of its plan, and what may be wrong with it."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from fastdb.exceptions import (
    DataError,
    EmptyQueryError,
    MissingParameterError,
    NotSupportedError,
    ProgrammingError,
    QueryTypeError,
    UnknownParameterError,
)

if TYPE_CHECKING:
    from fastdb.compiler_columns import ResultColumns

__all__ = [
    "MISSING",
    "KeySource",
    "PlanParts",
    "check_offset",
    "check_query",
    "check_row",
    "check_values",
    "missing_parameter",
    "name_row",
    "translate",
    "unknown_parameters",
]

KeySource = tuple[Any, ...]


class _Missing:
    """The type of :data:`MISSING`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = _Missing()
"""Stands for a key column's value that neither the user nor a client-side default gave."""


class PlanParts(NamedTuple):
    """What a :class:`~fastdb._speedups.QueryPlan` is made of; see there."""

    sql: str
    verb: str
    kind: str
    returning: bool
    implicit_returning: bool
    returns_rows: bool
    changes_session: bool
    implicit_commit: bool
    is_expression: bool
    key_sources: tuple[KeySource, ...] | None
    result: ResultColumns | None


# -- messages that both forms of the cache share


def _listed(names: Iterable[str]) -> str:
    listed = ", ".join(repr(name) for name in dict.fromkeys(names))
    return f"the query takes {listed}" if listed else "the query takes no parameters"


def missing_parameter(name: str, takes: Iterable[str]) -> MissingParameterError:
    """Return the error for a parameter without a value."""
    return MissingParameterError(f"the query parameter {name!r} has no value; {_listed(takes)}")


def unknown_parameters(names: Iterable[object], takes: Iterable[str]) -> UnknownParameterError:
    """Return the error for values that no parameter takes."""
    unknown = list(names)
    noun = "parameter" if len(unknown) == 1 else "parameters"
    listed = ", ".join(repr(name) for name in unknown)
    return UnknownParameterError(f"the query has no {noun} {listed}; {_listed(takes)}")


def check_values(values: object) -> None:
    """Refuse values that are no mapping."""
    if not isinstance(values, Mapping):
        raise QueryTypeError(
            f"values must be a mapping of names to values, not {type(values).__name__!r}: "
            f"{_shortened(values)}"
        )


def check_row(row: object, number: int) -> None:
    """Refuse a row of ``execute_many`` that is no mapping."""
    if not isinstance(row, Mapping):
        raise QueryTypeError(
            f"each row of values must be a mapping of names to values; row {number} is "
            f"{type(row).__name__!r}"
        )


def name_row(error: BaseException, number: int) -> None:
    """Let an error of ours about the values of ``execute_many`` name their row."""
    if type(error) in _ABOUT_VALUES and error.args:
        error.args = (f"row {number}: {error.args[0]}", *error.args[1:])


_ABOUT_VALUES = (DataError, MissingParameterError, UnknownParameterError)


def check_offset(value: datetime.datetime | datetime.time) -> None:
    """Refuse a moment whose offset a database without time zones would drop in silence.

    Zero is left: databases hold UTC by custom.

    Raises:
        DataError: The offset is another than zero, or unknown.
    """
    if value.tzinfo is not None and value.utcoffset() != _ZERO:
        raise DataError(
            f"the {type(value).__name__} {value} has another time zone than UTC, which the database"
            " does not keep; pass value.astimezone(datetime.UTC), or one without tzinfo"
        )


_ZERO = datetime.timedelta()


def _shortened(value: object) -> str:
    # Values may be secret: only the shape is shown.
    if isinstance(value, list | tuple):
        return "one mapping, or execute_many() for a list of them"
    return "pass a dict such as {'name': value}"


def check_query(query: object) -> None:
    """Refuse what is neither SQL nor a SQLAlchemy expression.

    Raises:
        EmptyQueryError: `query` is None.
        QueryTypeError: It is of any other wrong type.
    """
    if query is None:
        raise EmptyQueryError("the query is None; pass SQL text or a SQLAlchemy expression")
    raise QueryTypeError(
        f"the query must be SQL text or a SQLAlchemy expression, not {type(query).__name__!r}"
    )


def translate(exc: Exception) -> NoReturn:
    """Raise SQLAlchemy's error as one of ours; any other passes."""
    from sqlalchemy import exc as sa

    if not isinstance(exc, sa.SQLAlchemyError):
        raise exc
    message = str(exc).split("\n(Background on this error")[0]
    if isinstance(exc, sa.UnsupportedCompilationError):
        raise NotSupportedError(f"the dialect cannot express this query: {message}") from exc
    if message.startswith("Unconsumed column names"):
        names = message.partition(":")[2].strip().split(", ")
        raise UnknownParameterError(
            f"the table has no column {', '.join(map(repr, names))}"
        ) from exc
    raise ProgrammingError(f"the query cannot be compiled: {message}") from exc
