"""Write statements for MySQL's text protocol, values as literals in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fastdb.exceptions import DataError

__all__ = ["StatementWriter"]

_KINDS = frozenset(("bool", "int", "float", "None", "str", "bytes", "datetime", "date", "time"))


class StatementWriter:
    """Write statements as bytes, with their arguments as literals.

    Args:
        known: Pairs of an encoder that need not be called and its kind: "bool", "int", "float",
            "None", "str", "bytes", "datetime", "date" or "time".
        literal: Writes any value, given the encoders and whether backslashes escape. What is
            written without it is what it would write.
    """

    __slots__ = ("_literal",)

    def __init__(
        self,
        known: tuple[tuple[Callable[..., Any], str], ...],
        literal: Callable[[Any, Mapping[Any, Callable[..., Any]], bool], str],
    ) -> None:
        for _, kind in known:
            if kind not in _KINDS:
                raise KeyError(kind)
        self._literal = literal

    def statement(
        self,
        sql: str,
        args: Iterable[Any],
        encoders: Mapping[Any, Callable[..., Any]],
        encoding: str,
        backslashes: bool,
    ) -> bytes:
        """Return `sql`, in "format" style, with the literals of `args`.

        Args:
            sql: The statement.
            args: A value for each ``%s``.
            encoders: A writer for each type.
            encoding: The codec of the connection's charset.
            backslashes: Whether a backslash escapes in strings (not so under
                ``NO_BACKSLASH_ESCAPES``).

        Raises:
            DataError: A value is of a type, or is itself, none that MySQL takes, or the charset
                has no such character.
        """
        return self._written(sql, args, encoders, encoding, backslashes)

    def rows(
        self,
        group: str,
        rows: Sequence[Iterable[Any]],
        start: int,
        size: int,
        encoders: Mapping[Any, Callable[..., Any]],
        encoding: str,
        backslashes: bool,
    ) -> tuple[bytes, int]:
        """Return `group` with the literals of row after row, commas between, from `start` on.

        Args:
            group: The part of a statement that is repeated, in "format" style.
            rows: The arguments of each.
            start: The first row to write.
            size: The number of bytes to stay below; one row is written in any case.
            encoders: A writer for each type.
            encoding: The codec of the connection's charset.
            backslashes: Whether a backslash escapes in strings.

        Returns:
            The text, and the first row that is not in it.

        Raises:
            DataError: As :meth:`statement` does.
        """
        parts: list[bytes] = []
        total = 0
        while start < len(rows):
            part = self._written(group, rows[start], encoders, encoding, backslashes)
            if parts and total + len(part) > size:
                break
            parts.append(part)
            total += len(part) + 1
            start += 1
        return b",".join(parts), start

    def _written(
        self,
        sql: str,
        args: Iterable[Any],
        encoders: Mapping[Any, Callable[..., Any]],
        encoding: str,
        backslashes: bool,
    ) -> bytes:
        literal = self._literal
        text = sql % tuple([literal(value, encoders, backslashes) for value in args])
        try:
            return text.encode(encoding)
        except UnicodeEncodeError as error:
            raise DataError(
                f"{text[error.start : error.end]!r} cannot be sent in the connection's charset,"
                f" {encoding}"
            ) from error
