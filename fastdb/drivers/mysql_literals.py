"""Values as SQL literals.

MySQL's text protocol has no parameters: the client writes them into the statement. The drivers'
own writers are not used as they stand: aiomysql 0.3.2 calls ``escape_bytes_prefixed``, which
PyMySQL 1.2 replaced by a string, so that any ``bytes`` ends in a TypeError; older ones write
``bytes`` as an escaped string, which is unsafe to mix with text, and negative intervals wrongly.
"""

from __future__ import annotations

import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from fastdb._speedups import StatementWriter
from fastdb.compiler_parts import check_offset
from fastdb.exceptions import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    Encoders = Mapping[Any, Callable[..., Any]]

__all__ = ["Literals", "statement_writer"]


def _boolean(value: Any) -> str:
    return "1" if value else "0"


def _integer(value: Any) -> str:
    try:
        return int.__repr__(value)
    except ValueError:  # more digits than sys.set_int_max_str_digits() allows
        raise DataError("cannot send an integer of thousands of digits to MySQL") from None


def _float(value: Any) -> str:
    text = float.__repr__(value)
    if text in ("inf", "-inf", "nan"):
        raise DataError(f"cannot send the float {text} to MySQL, which has no such value")
    # The exponent makes the literal a DOUBLE; without it the server reads a DECIMAL.
    return text if "e" in text else f"{text}e0"


def _decimal(value: Any) -> str:
    if not value.is_finite():
        raise DataError(f"cannot send the Decimal {value} to MySQL, which has no such value")
    if abs(value.adjusted()) > 1000:
        raise DataError(f"cannot send {value!r} to MySQL; a DECIMAL has 65 digits at most")
    return format(value, "f")


def _binary(value: Any) -> str:
    # Hexadecimal is safe under every charset and sql_mode; _binary keeps it a string where the
    # server would take a plain X'..' for a number.
    return f"_binary X'{bytes(value).hex()}'"


def _null(value: Any) -> str:
    return "NULL"


def _datetime(value: Any) -> str:
    check_offset(value)
    return f"'{_day(value)} {_clock(value)}'"


def _date(value: Any) -> str:
    return f"'{_day(value)}'"


def _time(value: Any) -> str:
    check_offset(value)
    return f"'{_clock(value)}'"


def _day(value: Any) -> str:
    return f"{value.year:04}-{value.month:02}-{value.day:02}"


def _clock(value: Any) -> str:
    text = f"{value.hour:02}:{value.minute:02}:{value.second:02}"
    return f"{text}.{value.microsecond:06}" if value.microsecond else text


def _interval(value: Any) -> str:
    sign = "-" if value.days < 0 else ""
    size = abs(value)
    minutes, seconds = divmod(size.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{sign}{hours + size.days * 24:02}:{minutes:02}:{seconds:02}"
    return f"'{text}.{size.microseconds:06}'" if size.microseconds else f"'{text}'"


def _struct_time(value: Any) -> str:
    return _datetime(datetime.datetime(*value[:6]))


def _string(value: Any, backslashes: bool) -> str:
    text = str.__str__(value)  # an Enum's or a subclass's own __str__ is not its value
    if backslashes:
        text = text.replace("\\", "\\\\")
    # A doubled quote is right under either rule.
    return "'" + text.replace("'", "''") + "'"


# The names that PyMySQL and asyncmy give their writers, and what stands in for each; the kind is
# what StatementWriter knows.
_REPLACED: dict[str, tuple[Callable[[Any], str], str]] = {
    "escape_int": (_integer, "int"),
    "escape_None": (_null, "None"),
    "escape_float": (_float, "float"),
    "escape_bool": (_boolean, "bool"),
    "escape_datetime": (_datetime, "datetime"),
    "escape_date": (_date, "date"),
    "escape_bytes": (_binary, "bytes"),
    "escape_bytes_prefixed": (_binary, "bytes"),
    "escape_time": (_time, "time"),
    "escape_timedelta": (_interval, ""),
    "escape_struct_time": (_struct_time, ""),
    "Decimal2Literal": (_decimal, ""),
    "decimal2literal": (_decimal, ""),
}
_STRINGS = ("escape_str", "escape_string")
_SEQUENCES = ("escape_sequence", "escape_set", "escape_dict", "escape_not_supported")


def statement_writer(converters: ModuleType, careful: str | None = None) -> StatementWriter:
    """Return what writes statements with literals, by the encoders of a driver's package.

    An encoder that a user put in place of the package's own is honoured; the package's own are
    replaced by those of this module.

    Args:
        converters: ``pymysql.converters`` or ``asyncmy.converters``.
        careful: For a session that may have been given another charset than is known here: the
            codec of the one that is.
    """
    literals = Literals(converters, careful)
    return StatementWriter(literals.known, literals.literal)


class Literals:
    """Write any value as a literal."""

    def __init__(self, converters: ModuleType, careful: str | None = None) -> None:
        self._module = converters.__name__
        self._replaced: dict[int, Callable[[Any], str]] = {}
        known: list[tuple[Callable[..., Any], str]] = []
        for name in _STRINGS:
            # asyncmy and PyMySQL have not all of the names.
            if callable(theirs := getattr(converters, name, None)):  # pragma: no branch: versions
                known.append((theirs, "str"))
        self._strings = {id(theirs) for theirs, _ in known}
        self._careful = careful
        if careful is not None:
            known.clear()  # StatementWriter knows the plain way
        for name, (function, kind) in _REPLACED.items():
            if callable(theirs := getattr(converters, name, None)):
                self._replaced[id(theirs)] = function
                if kind:
                    known.append((theirs, kind))
        self._sequences = {
            id(theirs) for name in _SEQUENCES if callable(theirs := getattr(converters, name, None))
        }
        self.known = tuple(known)

    def literal(self, value: Any, encoders: Encoders, backslashes: bool) -> str:
        """Return the literal of a value.

        Raises:
            DataError: It is of a type, or is itself, none that MySQL takes.
        """
        encoder = encoders.get(type(value))
        if encoder is None:
            found = self._inherited(value, encoders)
            if isinstance(found, str):
                return found
            encoder = found
        key = id(encoder)
        if key in self._strings:
            careful = None if self._careful is None else self._in_hexadecimal(value, backslashes)
            return _string(value, backslashes) if careful is None else careful
        function = self._replaced.get(key)
        if function is not None:
            return function(value)
        if key in self._sequences:
            return self._sequence(value, encoders, backslashes)
        text = encoder(value, encoders)
        if not isinstance(text, str):
            raise DataError(
                f"the encoder of {type(value).__name__} gave {type(text).__name__}; it must give"
                " the SQL literal as a str"
            )
        return text

    def _in_hexadecimal(self, value: Any, backslashes: bool) -> str | None:
        """Return a literal for a string with bytes that another charset could read otherwise."""
        text = str.__str__(value)
        if not backslashes or "\\" not in text or text.isascii():
            return None
        try:
            text.encode(self._careful or "utf8")
        except UnicodeEncodeError:
            return None  # StatementWriter tells it
        # A backslash could be taken for the end of a character, and doubles the next no longer.
        return f"_utf8mb4 X'{text.encode().hex()}'"

    def _sequence(self, value: Any, encoders: Encoders, backslashes: bool) -> str:
        if not isinstance(value, (tuple, list, set, frozenset)):
            raise self._unknown(value)
        if not value:
            raise DataError(f"cannot send an empty {type(value).__name__} to MySQL; '()' is no SQL")
        return "(" + ",".join([self.literal(item, encoders, backslashes) for item in value]) + ")"

    def _inherited(self, value: Any, encoders: Encoders) -> Callable[..., Any] | str:
        for base in type(value).__mro__[1:-1]:
            encoder = encoders.get(base)
            if encoder is not None:
                return encoder
        if isinstance(value, (bytearray, memoryview)):
            return encoders.get(bytes) or _binary(value)
        if isinstance(value, UUID):
            return f"'{value}'"
        raise self._unknown(value)

    def _unknown(self, value: Any) -> DataError:
        kind = type(value)
        if isinstance(value, Enum):
            advice = "send its .value or .name"
        else:
            advice = (
                "it takes None, bool, int, float, Decimal, str, bytes, date, datetime, time,"
                " timedelta, UUID and lists of these; for another type give an encoder:"
                f" conv={{**{self._module}.conversions, {kind.__name__}: ...}}"
            )
        return DataError(
            f"cannot send a value of type {kind.__module__}.{kind.__qualname__} to MySQL; {advice}"
        )
