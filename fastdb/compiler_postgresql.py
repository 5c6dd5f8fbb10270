"""SQLAlchemy's PostgreSQL compiler with casts where the server could not infer a bind's type.

asyncpg asks the server for the type of every ``$1``. Beside a column the server takes the
column's type, which is what a user wants: a DateTime column may well be a ``timestamptz``. A bind
that stands alone it takes for text, or refuses. Imported only through
:func:`fastdb.compiler.postgresql_statement_compiler`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import types
from sqlalchemy.dialects.postgresql.base import PGCompiler
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import (
    BindParameter,
    ClauseList,
    CollectionAggregate,
    Grouping,
    Label,
    TypeCoerce,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CastingCompiler"]

_STRING = re.compile(r"'(?:[^']|'')*+'")

# Functions whose parameters are of no type at all: they cannot tell that a bind is text.
_TYPELESS = frozenset(
    {"array_agg", "array_fill", "concat", "concat_ws", "format", "json_agg", "json_build_array"}
    | {"json_build_object", "json_object_agg", "jsonb_agg", "jsonb_build_array"}
    | {"jsonb_build_object", "jsonb_object_agg", "num_nonnulls", "num_nulls", "pg_typeof"}
    | {"to_json", "to_jsonb", "unnest"}
)
# Functions whose parameters are all of one type: a column tells it for the others.
_ALIKE = frozenset({"coalesce", "greatest", "least", "nullif"})


def _bare(element: Any) -> Any:
    """Return what stands inside labels, parentheses and type coercions."""
    while isinstance(element, Grouping | Label):
        element = element.element
    if isinstance(element, TypeCoerce):
        inner = _bare(element.typed_expression)
        return inner if isinstance(inner, BindParameter) else element
    return element


def _binds(element: Any) -> list[Any]:
    element = _bare(element)
    if isinstance(element, BindParameter):
        return [element]
    if isinstance(element, ClauseList):  # the bounds of BETWEEN, the parts of a list
        return [bind for clause in element.clauses for bind in _binds(clause)]
    return []


class CastingCompiler(PGCompiler):
    """Render ``$1::INTEGER`` for binds whose type nothing else tells."""

    _untold: set[int]
    _untold_text: set[int]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what SQLAlchemy's compiler takes; the statement is compiled in here."""
        self._untold = set()
        self._untold_text = set()
        self._in_values = False
        super().__init__(*args, **kwargs)

    # -- places in which nothing tells the type

    def _mark(self, elements: Iterable[Any], text: bool = False) -> None:
        for element in elements:
            for bind in _binds(element):
                (self._untold_text if text else self._untold).add(id(bind))

    def _label_select_column(self, select: Any, column: Any, *args: Any, **kwargs: Any) -> Any:
        # An INSERT … SELECT casts to the column's type by itself, but from text it would not.
        self._mark([column])
        parent: Any = super()
        return parent._label_select_column(select, column, *args, **kwargs)

    def visit_function(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Render a function; what its arguments are, only a column can tell."""
        clauses = list(getattr(func, "clauses", ()))
        name = str(getattr(func, "name", "")).lower()
        told = {clause.type._type_affinity for clause in map(_bare, clauses) if not _binds(clause)}
        for clause in clauses:
            for bind in _binds(clause):
                if name not in _ALIKE or bind.type._type_affinity not in told:
                    self._mark([bind], text=name in _TYPELESS)
        parent: Any = super()
        return parent.visit_function(func, *args, **kwargs)

    def visit_case(self, clause: Any, **kwargs: Any) -> Any:
        """Render CASE; one column among its results tells the type of all."""
        results = [result for _, result in clause.whens]
        if clause.else_ is not None:
            results.append(clause.else_)
        self._mark_alike(results)
        if clause.value is not None:
            self._mark_alike([clause.value, *(when for when, _ in clause.whens)])
        parent: Any = super()
        return parent.visit_case(clause, **kwargs)

    def _mark_alike(self, elements: list[Any]) -> None:
        told = {
            element.type._type_affinity for element in map(_bare, elements) if not _binds(element)
        }
        for element in elements:
            for bind in _binds(element):
                if bind.type._type_affinity not in told:
                    self._mark([bind])

    def visit_array(self, element: Any, **kwargs: Any) -> Any:
        """Render ARRAY; one column among its elements tells the type of all."""
        self._mark_alike(list(element.clauses))
        parent: Any = super()
        return parent.visit_array(element, **kwargs)

    def _render_values(self, element: Any, **kwargs: Any) -> Any:
        parent: Any = super()
        self._in_values = True
        try:
            return parent._render_values(element, **kwargs)
        finally:
            self._in_values = False

    def visit_tuple(self, clauselist: Any, **kwargs: Any) -> Any:
        """Render a row; nothing tells the types of those in VALUES."""
        parent: Any = super()
        if self._in_values:
            self._mark(clauselist.clauses)
        return parent.visit_tuple(clauselist, **kwargs)

    def visit_unary(self, unary: Any, *args: Any, **kwargs: Any) -> Any:
        """Render a unary operator; ``- $1`` could be of any type."""
        if unary.operator is operators.neg:
            self._mark([unary.element])
        parent: Any = super()
        return parent.visit_unary(unary, *args, **kwargs)

    def visit_extract(self, extract: Any, **kwargs: Any) -> Any:
        """Render EXTRACT; its argument could be of several types."""
        self._mark([extract.expr])
        parent: Any = super()
        return parent.visit_extract(extract, **kwargs)

    def visit_cast(self, cast: Any, **kwargs: Any) -> Any:
        """Render CAST; without one of its own the bind would take the target's type."""
        bind = _bare(cast.clause)
        if isinstance(bind, BindParameter) and (
            bind.type._type_affinity is not cast.type._type_affinity
        ):
            self._mark([bind], text=True)
        parent: Any = super()
        return parent.visit_cast(cast, **kwargs)

    def visit_binary(self, binary: Any, *args: Any, **kwargs: Any) -> Any:
        """Render an operator; a column on one side tells the type of the other."""
        left, right = binary.left, binary.right
        for side, other in ((left, right), (right, left)):
            other = _bare(other)
            if isinstance(other, CollectionAggregate):
                continue  # ANY and ALL tell the type of an array's elements
            for bind in _binds(side):
                if _binds(other) or not _tells(other, bind):
                    self._mark([bind])
        parent: Any = super()
        return parent.visit_binary(binary, *args, **kwargs)

    # -- the cast itself

    def visit_bindparam(self, bindparam: Any, *args: Any, **kwargs: Any) -> Any:
        """Render a bind, with a cast where nothing else tells its type."""
        parent: Any = super()
        rendered = parent.visit_bindparam(bindparam, *args, **kwargs)
        if kwargs.get("literal_binds") or bindparam.expanding or bindparam.literal_execute:
            return rendered
        key = id(bindparam)
        if key not in self._untold and key not in self._untold_text:
            return rendered
        name = self._cast_name(bindparam, key in self._untold_text)
        if name is None or "::" in rendered or rendered.startswith("CAST("):
            return rendered
        return f"{rendered}::{name}"

    def render_literal_value(self, value: Any, type_: Any) -> Any:
        """Return a literal that no session reads otherwise."""
        literal = super().render_literal_value(value, type_)  # type: ignore[no-untyped-call]
        if "\\" in literal and _STRING.fullmatch(literal):
            # Expressions are compiled once for all sessions: in this form a string is the same
            # whatever standard_conforming_strings has been set to.
            return "E" + literal.replace("\\", "\\\\")
        return literal

    def _cast_name(self, bindparam: Any, text: bool) -> str | None:
        implementation = bindparam.type.dialect_impl(self.dialect)
        if implementation._has_bind_expression or implementation._isnull:
            return None
        if isinstance(implementation, types.JSON.JSONPathType):
            return None
        if isinstance(implementation, types.JSON.JSONIndexType):
            # Both json -> text and json -> integer exist.
            return "INTEGER" if isinstance(implementation, types.JSON.JSONIntIndexType) else None
        affinity = implementation._type_affinity
        if affinity is types.String or isinstance(implementation, types.Enum):
            # An enumeration and a domain take text, and a length would cut the value.
            return "VARCHAR" if text else None
        if affinity is types.Numeric and not isinstance(implementation, types.Float):
            return "NUMERIC"  # a scale would round the value
        rendered: str = self.dialect.type_compiler_instance.process(
            implementation, identifier_preparer=self.preparer
        )
        return rendered


def _tells(other: Any, bind: Any) -> bool:
    """Return whether the server can take a bind's type from what stands on the other side."""
    type_ = getattr(other, "type", None)
    if type_ is None:  # pragma: no cover: other SQLAlchemy
        return True
    if type_._isnull:
        return False
    return bool(type_._type_affinity is bind.type._type_affinity)
