# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: freethreading_compatible=True
# (binding: see records.pyx)
"""Query plans: what is known of one SQL text."""

cimport cython

from fastdb._speedups.records import RecordLayout

__all__ = ["QueryPlan"]


cdef class QueryPlan:
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

    def __init__(self, parts):
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

    cpdef object layout(self, tuple names):
        """Return the layout of the records whose columns the driver calls `names`."""
        cdef tuple known
        with cython.critical_section(self):
            known = self._layout
        if known is not None and (known[0] is names or known[0] == names):
            return known[1]
        result = self._result
        if self._shared is not None:
            layout = self._shared.layout(names).for_columns(Locator(result, self._query, names))
        elif result is None:
            layout = RecordLayout(names)
        else:
            layout = RecordLayout(names, result.converters(names), result.locator(names))
        # Names and layout at once: threads may run one plan, for tables that change.
        known = (names, layout)
        with cython.critical_section(self):
            self._layout, known = known, self._layout  # what it was goes later
        return layout

    cdef QueryPlan for_columns(self, object result, object query):
        """Return the plan for an equal expression whose columns are other objects.

        They are those of `result`, or of `query` where it is given.
        """
        cdef QueryPlan copy = QueryPlan.__new__(QueryPlan)
        copy.sql = self.sql
        copy.verb = self.verb
        copy.kind = self.kind
        copy.returning = self.returning
        copy.implicit_returning = self.implicit_returning
        copy.returns_rows = self.returns_rows
        copy.changes_session = self.changes_session
        copy.implicit_commit = self.implicit_commit
        copy.is_expression = self.is_expression
        copy.key_sources = self.key_sources
        copy._result = result
        copy._shared = self
        copy._query = query
        return copy

    def __repr__(self):
        return f"<QueryPlan {self.verb or 'unknown'}: {self.sql!r}>"


cdef class Locator:
    """Find a column among those of a result; most results are never asked for one."""

    cdef object result
    cdef object query
    cdef object names
    cdef object locate

    def __init__(self, result, query, names):
        self.result = result
        self.query = query
        self.names = names

    def __call__(self, column):
        cdef object locate, result, query
        with cython.critical_section(self):
            locate, result, query = self.locate, self.result, self.query
        if locate is None:
            if query is not None:
                result = result.for_query(query, at_once=False)
            locate = result.locator(self.names)
            with cython.critical_section(self):
                self.locate, self.result, self.query = locate, None, None
        return locate(column)
