"""Compile queries, once each: SQL text by our own scanner, expressions by SQLAlchemy.

This is the slow half of :class:`~fastdb._speedups.QueryCache`, shared by its two forms. What it
makes is kept by the cache and bound to new values again and again.

Its parts are imported by the functions that need them: a program pays for the scanner at the first
text, and for SQLAlchemy, with all that knows it, at the first expression.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Dialect

    from fastdb.compiler_expression import CompiledExpression
    from fastdb.compiler_statement import Adapted
    from fastdb.compiler_text import CompiledText
    from fastdb.sql_text import Lexical

__all__ = ["Compiler", "postgresql_statement_compiler"]


class Compiler:
    """Compile queries for one database.

    Args:
        dialect_factory: Gives SQLAlchemy's dialect; called when the first expression comes.
        lexical_factory: Gives the rules of the server's SQL; called when the first query comes.
        paramstyle: ``qmark``, ``numeric_dollar`` or ``format``.
    """

    def __init__(
        self,
        dialect_factory: Callable[[], Dialect],
        lexical_factory: Callable[[], Lexical],
        paramstyle: str,
    ) -> None:
        self._dialect_factory = dialect_factory
        self._lexical_factory = lexical_factory
        self._paramstyle = paramstyle

    def compile_text(self, sql: str) -> CompiledText:
        """Compile SQL text with ``:name`` parameters.

        Raises:
            EmptyQueryError: There is no statement in it.
        """
        from fastdb.compiler_text import compile_text

        return compile_text(sql, self._lexical_factory(), self._paramstyle)

    def adapt(self, query: Any, values: Any) -> Adapted:
        """Bring an expression and its values into the form that the cache works with.

        Raises:
            EmptyQueryError: `query` is None.
            QueryTypeError: `query` is no executable expression, or `values` is no mapping.
        """
        from fastdb.compiler_statement import adapt

        return adapt(query, values)

    def compile_expression(
        self,
        query: Any,
        keys: tuple[str, ...] | None = None,
        many: bool = False,
        cache_key: Any = None,
    ) -> CompiledExpression:
        """Compile a statement of SQLAlchemy's.

        Args:
            query: The statement, as :meth:`adapt` gives it.
            keys: For an insert or update, the names for which there will be values.
            many: The statement will run for many rows, and nobody asks for keys.
            cache_key: SQLAlchemy's key, where the result is to serve equal statements.

        Raises:
            UnknownParameterError: A name of `keys` is neither a column nor a parameter.
        """
        from fastdb.compiler_statement import compile_statement

        dialect, lexical = self._dialect_factory(), self._lexical_factory()
        return compile_statement(query, keys, many, cache_key, dialect, lexical)


def mysql_statement_compiler(base: Any) -> Any:
    """Return the compiler class for MySQL: its literals are safe whatever the session's mode."""
    from fastdb.compiler_mysql import safe_literals

    return safe_literals(base)


def sqlite_dialect() -> Any:
    """Return the dialect class for SQLite: it refuses what would be stored as another moment."""
    from fastdb.compiler_sqlite import FastdbDialect

    return FastdbDialect


def postgresql_statement_compiler() -> Any:
    """Return the compiler class for PostgreSQL: it casts binds whose type nothing else tells."""
    from fastdb.compiler_postgresql import CastingCompiler

    return CastingCompiler
