"""SQL text, compiled: its arguments are picked from the values by name."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from fastdb.compiler_parts import (
    PlanParts,
    check_offset,
    check_values,
    missing_parameter,
    unknown_parameters,
)
from fastdb.exceptions import DataError, EmptyQueryError
from fastdb.sql_text import classify, is_blank, render

if TYPE_CHECKING:
    import datetime
    import decimal
    from collections.abc import Callable, Mapping

    from fastdb.sql_text import Lexical

__all__ = ["CompiledText", "compile_text", "refuse_nan", "sqlite_argument"]


class CompiledText:
    """SQL text in the form that the driver takes.

    Attributes:
        parts: What the plan is made of.
        names: The parameters' names in the order of the arguments.
        takes: The parameters' names, each once.
        adapt: Brings one argument into a form that the driver takes, or None.
    """

    __slots__ = ("adapt", "names", "parts", "takes")

    def __init__(
        self,
        parts: PlanParts,
        names: tuple[str, ...],
        adapt: Callable[[Any], Any] | None,
    ) -> None:
        self.parts = parts
        self.names = names
        self.takes = tuple(dict.fromkeys(names))
        self.adapt = adapt

    def arguments(self, values: Mapping[str, Any] | None) -> tuple[Any, ...]:
        """Return the arguments for `values`.

        Raises:
            MissingParameterError: A parameter has no value.
            UnknownParameterError: A value has no parameter.
        """
        if values is None:
            if self.names:
                raise missing_parameter(self.names[0], self.takes)
            return ()
        if type(values) is not dict:
            check_values(values)
        for name in self.takes:
            if name not in values:
                raise missing_parameter(name, self.takes)
        if len(values) != len(self.takes):
            raise unknown_parameters(
                [name for name in values if name not in self.takes], self.takes
            )
        if self.adapt is None:
            return tuple([values[name] for name in self.names])
        adapt = self.adapt
        return tuple([adapt(values[name]) for name in self.names])


def compile_text(sql: str, lexical: Lexical, paramstyle: str) -> CompiledText:
    """Compile SQL text; see :meth:`fastdb.compiler.Compiler.compile_text`."""
    kind = classify(sql, lexical)
    if not kind.verb and is_blank(sql, lexical):
        raise EmptyQueryError("the query is empty; it holds no statement")
    rendered = render(sql, lexical, paramstyle)
    parts = PlanParts(
        rendered.sql,
        kind.verb,
        kind.kind,
        kind.returning,
        False,
        kind.kind == "select" or kind.returning,
        kind.changes_session,
        kind.implicit_commit,
        False,
        None,
        None,
    )
    adapt = sqlite_argument if lexical.dialect == "sqlite" else None
    return CompiledText(parts, rendered.names, adapt)


_SQLITE_NATIVE = frozenset({str, int, float, bool, bytes, type(None)})


def sqlite_argument(value: Any) -> Any:
    """Return a value in the form in which sqlite3 takes it."""
    if type(value) in _SQLITE_NATIVE:
        if value != value:
            refuse_nan()
        return value
    form = _sqlite_forms().get(type(value))
    return value if form is None else form(value)


@cache
def _sqlite_forms() -> dict[type, Callable[[Any], Any]]:
    """Return the forms in which SQLAlchemy stores what sqlite3 does not know.

    So rows that were written by raw SQL and by expressions compare.
    """
    import datetime
    import decimal
    import uuid

    epoch = datetime.datetime(1970, 1, 1)
    return {
        datetime.datetime: _sqlite_datetime,
        datetime.date: lambda value: f"{value.year:04d}-{value.month:02d}-{value.day:02d}",
        datetime.time: _sqlite_time,
        datetime.timedelta: lambda value: _sqlite_datetime(epoch + value),
        decimal.Decimal: _sqlite_decimal,
        uuid.UUID: lambda value: value.hex,
    }


def _sqlite_decimal(value: decimal.Decimal) -> float:
    from decimal import Decimal

    if value.is_nan():
        refuse_nan()
    number = float(value)
    if value.is_finite() and Decimal(repr(number)) != value:
        raise DataError(
            f"SQLite keeps some 15 digits of a number, and {value} has more; pass a str or a float"
        )
    return number


def refuse_nan() -> NoReturn:
    """Say that SQLite would store NULL for it."""
    raise DataError("SQLite has no NaN, and would store NULL for it")


def _sqlite_time(value: datetime.time) -> str:
    check_offset(value)
    return f"{value.hour:02d}:{value.minute:02d}:{value.second:02d}.{value.microsecond:06d}"


def _sqlite_datetime(value: datetime.datetime) -> str:
    check_offset(value)
    return (
        f"{value.year:04d}-{value.month:02d}-{value.day:02d} "
        f"{value.hour:02d}:{value.minute:02d}:{value.second:02d}.{value.microsecond:06d}"
    )
