"""The result columns of an expression: their converters, and where each one stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastdb.compiler_converters import result_converter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ResultColumns", "result_columns", "unlabelled"]

#: Tuples of names for which converters are kept.
_MAX_CONVERTERS = 64


class ResultColumns:
    """The columns that an expression yields: their converters, and where each stands."""

    __slots__ = ("_converters", "_dialect", "_entries", "_ordered", "_own", "plain")

    def __init__(self, entries: Sequence[Any], ordered: bool, dialect: Any) -> None:
        self._entries = entries
        self._ordered = ordered
        self._dialect = dialect
        self._own: Callable[[], Sequence[Any] | None] | None = None
        self._converters: dict[tuple[str, ...], Any] = {}
        #: Every column is one of a Table: an equal expression has the very same columns.
        self.plain = all(_is_table_column(entry) for entry in entries)

    def for_query(self, query: Any, *, at_once: bool) -> ResultColumns:
        """Return the same for an equal expression, which has columns of its own.

        Args:
            query: The statement.
            at_once: Look at its columns now, so as not to keep the statement alive.
        """
        columns = ResultColumns.__new__(ResultColumns)
        columns._entries = self._entries
        columns._ordered = self._ordered
        columns._dialect = self._dialect
        columns._own = _own_columns(query, at_once)
        columns._converters = self._converters
        columns.plain = self.plain
        return columns

    def _matched(self, names: tuple[str, ...]) -> list[Any]:
        """Return the entry of each column that the driver names, or None for an unknown one."""
        entries = self._entries
        if self._ordered and len(entries) == len(names):
            return list(entries)
        by_name: dict[str, Any] = {}
        for entry in entries:
            by_name.setdefault(entry.keyname, entry)
        return [by_name.get(name) for name in names]

    def converters(self, names: tuple[str, ...]) -> list[Callable[[Any], Any] | None] | None:
        """Return what turns each column's value into the user's, or None where nothing does."""
        try:
            known: list[Callable[[Any], Any] | None] | None = self._converters[names]
        except KeyError:
            pass
        else:
            return known
        found: list[Callable[[Any], Any] | None] = [
            None if entry is None else result_converter(entry.type, self._dialect)
            for entry in self._matched(names)
        ]
        known = found if any(converter is not None for converter in found) else None
        if len(self._converters) >= _MAX_CONVERTERS:
            self._converters.clear()
        self._converters[names] = known
        return known

    def locator(self, names: tuple[str, ...]) -> Callable[[object], int | None]:
        """Return a function from a column to its position among `names`."""
        return _Locator(names, self._matched, self._own if self._ordered else None)


class _Locator:
    """Find a column among those of a result; nothing is worked out before the first question."""

    __slots__ = ("_by_name", "_lineage", "_matched", "_names", "_own", "_positions")

    def __init__(
        self,
        names: tuple[str, ...],
        matched: Callable[[tuple[str, ...]], list[Any]],
        own: Callable[[], Sequence[Any] | None] | None,
    ) -> None:
        self._names = names
        self._matched = matched
        self._own = own
        self._positions: dict[Any, int] | None = None
        self._lineage: list[tuple[Any, int]] = []
        self._by_name: dict[str, int | None] = {}

    def _work_out(self) -> dict[Any, int]:
        positions: dict[Any, int] = {}
        lineage: list[tuple[Any, int]] = []
        matched = self._matched(self._names)
        for place, entry in enumerate(matched):
            if entry is not None:
                for column in _result_objects(entry):
                    positions.setdefault(column, place)
                    lineage.append((column, place))
        own = self._own() if self._own is not None else None
        if own is not None and len(own) == len(matched):
            for place, column in enumerate(own):
                for element in unlabelled(column):
                    positions.setdefault(element, place)
                    lineage.append((element, place))
        bound = {place for column, place in lineage if getattr(column, "table", None) is not None}
        by_name: dict[str, int | None] = {}
        for place, name in enumerate(self._names):
            if place not in bound:
                by_name[name] = None if name in by_name else place
        # Whoever finds the positions finds all of it: records are shared by threads.
        self._lineage, self._by_name = lineage, by_name
        self._positions = positions
        return positions

    def __call__(self, key: object) -> int | None:
        positions = self._positions
        if positions is None:
            positions = self._work_out()
        clause = getattr(key, "__clause_element__", None)
        if clause is not None:
            key = clause()
        try:
            place = positions.get(key)
        except TypeError:  # not hashable, so no column
            return None
        if place is not None:
            return place
        shares = getattr(key, "shares_lineage", None)
        if shares is None:
            return None
        found = {where for column, where in self._lineage if shares(column)}
        if len(found) == 1:
            return found.pop()
        # Text tells no more of its columns than their names.
        for name in (getattr(key, "name", None), getattr(key, "key", None)):
            if isinstance(name, str) and self._by_name.get(name) is not None:
                return self._by_name[name]
        return None


def _is_table_column(entry: Any) -> bool:
    from sqlalchemy.schema import Column, Table
    from sqlalchemy.sql.elements import ColumnElement

    # Of `-table.c.x`, too, the first one is the table's.
    columns = [each for each in entry.objects if isinstance(each, ColumnElement)]
    return bool(columns) and all(
        type(column) is Column and isinstance(column.table, Table) for column in columns
    )


def unlabelled(column: Any) -> list[Any]:
    """Return a column, and what stands under its labels."""
    from sqlalchemy.sql.elements import Label

    found = [column]
    while isinstance(column, Label):
        column = column.element
        found.append(column)
    return found


def _result_objects(entry: Any) -> list[Any]:
    from sqlalchemy.sql.elements import ColumnElement

    found: list[Any] = []
    for thing in entry.objects:
        if isinstance(thing, ColumnElement):
            found += unlabelled(thing)
    return found


def result_columns(compiled: Any, dialect: Any) -> ResultColumns | None:
    """Return the columns that a statement compiled by SQLAlchemy yields, if any."""
    entries = getattr(compiled, "_result_columns", None)
    if not entries:
        return None
    ordered = bool(compiled._ordered_columns or compiled._textual_ordered_columns)
    return ResultColumns(entries, ordered, dialect)


def _own_columns(query: Any, at_once: bool) -> Callable[[], Sequence[Any] | None]:
    """Return a function that tells the columns of a statement, in order."""
    if not at_once:
        return lambda: _selected(query)
    columns = _selected(query)
    return lambda: columns


def _selected(query: Any) -> Sequence[Any] | None:
    try:
        return tuple(query._all_selected_columns)
    except (AttributeError, NotImplementedError):  # pragma: no cover: none of SQLAlchemy's own
        return None
