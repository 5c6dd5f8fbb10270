"""What the common ones of SQLAlchemy's processors do, so that the compiled core can do it itself.

A code is given to a processor only where it is known to be SQLAlchemy's own, and stands for what
it does with the values that it usually gets. Any other value still goes to the processor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ANY", "BOOLEAN", "DATE", "DATETIME", "FLAG", "NONE", "NUMBER", "TIME", "bind_code"]

NONE = 0
"""There is no processor."""
ANY = 1
"""The processor is called with every value."""
BOOLEAN = 2
"""True and False become 1 and 0; None stays."""
FLAG = 3
"""True, False and None stay."""
NUMBER = 4
"""A float that is a number and None stay."""
DATETIME = 5
"""A naive datetime becomes ``2020-01-31 12:30:00.000000``; None stays."""
DATE = 6
"""A date becomes ``2020-01-31``; None stays."""
TIME = 7
"""A naive time becomes ``12:30:00.000000``; None stays."""

_DAY = "%(year)04d-%(month)02d-%(day)02d"
_CLOCK = "%(hour)02d:%(minute)02d:%(second)02d.%(microsecond)06d"


def bind_code(type_: Any, dialect: Any, processor: Callable[[Any], Any] | None) -> int:
    """Return what a type's bind processor does."""
    from sqlalchemy.dialects import sqlite
    from sqlalchemy.engine import processors
    from sqlalchemy.types import Boolean

    from fastdb.compiler_sqlite import StoredNumber, written_by

    if processor is None:
        return NONE
    if processor is processors.to_float or isinstance(processor, StoredNumber):
        return NUMBER
    implementation = type_.dialect_impl(dialect)
    kind = type(implementation)
    if not kind.__module__.startswith(("sqlalchemy.", "fastdb.")):
        return ANY  # a class of the user's may have its own idea of each step
    if kind.bind_processor is Boolean.bind_processor:
        return FLAG if dialect.supports_native_boolean else BOOLEAN
    method = written_by(kind.bind_processor)
    for known, written, code in (
        (sqlite.DATETIME, f"{_DAY} {_CLOCK}", DATETIME),
        (sqlite.DATE, _DAY, DATE),
        (sqlite.TIME, _CLOCK, TIME),
    ):
        if method is known.bind_processor:
            return code if implementation._storage_format == written else ANY
    return ANY
