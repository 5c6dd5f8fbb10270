"""SQLAlchemy's dialect of SQLite, which refuses values that would be stored as others.

SQLite has no time zones, no NaN (it stores NULL) and no decimals: a float keeps some 15 digits.

Imported only through :func:`fastdb.compiler.sqlite_dialect`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal, localcontext
from math import isinf
from typing import Any

from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine.processors import to_float
from sqlalchemy.types import TIMESTAMP
from sqlalchemy.util import memoized_property

from fastdb.compiler_parts import check_offset
from fastdb.compiler_text import refuse_nan
from fastdb.exceptions import DataError

__all__ = ["FastdbDialect", "StoredNumber", "written_by"]

#: SQLAlchemy's bind processor that each of ours goes on to.
_THEIRS: dict[Any, Any] = {}


def _checking(base: Any) -> Any:
    """Return a class like `base` that checks time zones."""

    class Checking(base):  # type: ignore[misc]
        def bind_processor(self, dialect: Any) -> Callable[[Any], Any] | None:
            process = super().bind_processor(dialect)
            if process is None:
                return None

            def checked(value: Any) -> Any:
                if isinstance(value, datetime.datetime | datetime.time):
                    check_offset(value)
                return process(value)

            return checked

    Checking.__name__ = Checking.__qualname__ = base.__name__
    _THEIRS[Checking.bind_processor] = base.bind_processor
    return Checking


#: SQLAlchemy's classes -> ours. A subclass of the user's has its own idea of time zones.
_TYPES: dict[Any, Any] = {
    base: _checking(base)
    for base in (sqlite.DATETIME, sqlite.TIME, SQLiteDialect_pysqlite.colspecs[TIMESTAMP])
}


class StoredNumber:
    """Bring a number into the form that SQLite stores: a bind processor.

    Args:
        scale: The digits behind the point that are read back as a decimal, if any.
    """

    def __init__(self, scale: int | None) -> None:
        self.scale = scale

    def __call__(self, value: Any) -> Any:
        """Return the float."""
        if isinstance(value, Decimal) and value.is_nan():
            refuse_nan()  # float() takes no signalling one
        number = to_float(value)
        if number is None:
            return None
        if number != number:
            refuse_nan()
        if isinstance(value, Decimal) and value.is_finite() and not self._keeps(value, number):
            raise DataError(f"SQLite keeps some 15 digits of a number; {value} needs more")
        return number

    def _keeps(self, value: Decimal, number: float) -> bool:
        """Return whether `value` is read back from `number`."""
        if isinf(number):
            return False
        if self.scale is None:
            return True
        with localcontext(prec=len(value.as_tuple().digits) + self.scale + 400):
            return round(Decimal(repr(number)), self.scale) == round(value, self.scale)


class FastdbCompiler(SQLiteCompiler):
    """Compile for SQLite, with our processors of numbers."""

    @memoized_property
    def _bind_processors(self) -> Any:
        found = dict(super()._bind_processors)
        for bind, name in self.bind_names.items():
            if found.get(name) is to_float:
                type_: Any = bind.type.dialect_impl(self.dialect)
                scale = None
                if getattr(type_, "asdecimal", False):
                    scale = type_._effective_decimal_return_scale
                found[name] = StoredNumber(scale)
        return found


class FastdbDialect(SQLiteDialect_pysqlite):
    """Compile for ``?`` parameters."""

    supports_statement_cache = True
    statement_compiler = FastdbCompiler

    def type_descriptor(self, typeobj: Any) -> Any:
        """Return the type that stands for `typeobj` on SQLite."""
        type_: Any = super().type_descriptor(typeobj)  # type: ignore[no-untyped-call]
        ours = _TYPES.get(type(type_))
        return type_ if ours is None else type_.adapt(ours)


def written_by(method: Any) -> Any:
    """Return SQLAlchemy's method that writes what `method`, a ``bind_processor``, lets pass."""
    return _THEIRS.get(method, method)
