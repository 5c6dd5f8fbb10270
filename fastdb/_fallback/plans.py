"""Query plans in plain Python; see :mod:`fastdb._speedups.plans`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastdb._fallback.records import RecordLayout

if TYPE_CHECKING:
    from fastdb.compiler_columns import ResultColumns
    from fastdb.compiler_parts import PlanParts

__all__ = ["QueryPlan"]


class QueryPlan:
    """One distinct SQL text, and all that is known of it.

    Attributes:
        sql: The text as the driver takes it.
        verb: Its main verb in upper case, after CTEs; empty where unknown.
        kind: ``select`` (rows are expected), ``insert``, ``update``, ``delete``, ``ddl`` or
            ``other``.
        returning: Its author asked for RETURNING.
        implicit_returning: RETURNING was added, for the key only.
        returns_rows: It is a select, or has RETURNING.
        changes_session: It changes the session's state.
        implicit_commit: It commits the transaction (MySQL).
        is_expression: It was compiled from a SQLAlchemy expression.
        key_sources: For an insert through SQLAlchemy, where each primary key column is found:
            ``("given",)``, ``("returning", position)``, ``("lastrowid",)`` or ``("none",)``.
    """

    __slots__ = (
        "_layout",
        "_result",
        "_shared",
        "changes_session",
        "implicit_commit",
        "implicit_returning",
        "is_expression",
        "key_sources",
        "kind",
        "returning",
        "returns_rows",
        "sql",
        "verb",
    )

    def __init__(self, parts: PlanParts) -> None:
        self.sql = parts.sql
        self.verb = parts.verb
        self.kind = parts.kind
        self.returning = parts.returning
        self.implicit_returning = parts.implicit_returning
        self.returns_rows = parts.returns_rows
        self.changes_session = parts.changes_session
        self.implicit_commit = parts.implicit_commit
        self.is_expression = parts.is_expression
        self.key_sources = parts.key_sources
        self._result = parts.result
        self._shared: QueryPlan | None = None  # the plan of which this is a copy
        self._layout: tuple[tuple[str, ...], RecordLayout] | None = None  # behind its names

    def layout(self, names: tuple[str, ...]) -> RecordLayout:
        """Return the layout of the records whose columns the driver calls `names`."""
        known = self._layout
        if known is not None and names == known[0]:
            return known[1]
        result = self._result
        if result is None:
            layout = RecordLayout(names)
        elif self._shared is not None:
            layout = self._shared.layout(names).for_columns(result.locator(names))
        else:
            layout = RecordLayout(names, result.converters(names), result.locator(names))
        # Names and layout at once: threads may run one plan, for tables that change.
        self._layout = names, layout
        return layout

    def for_columns(self, result: ResultColumns) -> QueryPlan:
        """Return the plan for an equal expression whose columns are other objects."""
        copy = QueryPlan.__new__(QueryPlan)
        for name in QueryPlan.__slots__:
            setattr(copy, name, getattr(self, name))
        copy._result = result
        copy._shared = self
        copy._layout = None
        return copy

    def __repr__(self) -> str:
        return f"<QueryPlan {self.verb or 'unknown'}: {self.sql!r}>"
