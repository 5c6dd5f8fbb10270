"""Both forms of the query cache give the same answer to the same question, whatever it is."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from fastdb._speedups import COMPILED
from fastdb.compiler import Compiler
from fastdb.sql_text import Lexical

DIALECTS: dict[str, tuple[Any, str]] = {
    "sqlite": (SQLiteDialect_pysqlite(paramstyle="qmark"), "qmark"),
    "postgresql": (PGDialect(paramstyle="numeric_dollar"), "numeric_dollar"),  # type: ignore[no-untyped-call]
    "mysql": (MySQLDialect_pymysql(paramstyle="format"), "format"),
}
FORMS = ["fastdb._speedups", "fastdb._fallback"] if COMPILED else ["fastdb._fallback"] * 2


def caches(dialect: str) -> list[Any]:
    compiled_for, paramstyle = DIALECTS[dialect]
    return [
        import_module(f"{form}.query_cache").QueryCache(
            Compiler(lambda: compiled_for, lambda: Lexical(dialect), paramstyle), 8
        )
        for form in FORMS
    ]


CACHES = {dialect: caches(dialect) for dialect in DIALECTS}


def answer(cache: Any, query: Any, values: Any) -> Any:
    """Return all that a cache says of a query, errors in words."""
    try:
        plan, args, given_values = cache.prepare(query, values)
    except Exception as error:
        return type(error).__name__, str(error)
    told = (plan.sql, plan.verb, plan.kind, plan.returning, plan.implicit_returning)
    flags = (plan.returns_rows, plan.changes_session, plan.implicit_commit, plan.is_expression)
    return told, flags, plan.key_sources, args, repr(given_values)


def many_answers(cache: Any, query: Any, rows: Any) -> Any:
    try:
        return [(plan.sql, args) for plan, args in cache.prepare_many(query, rows, 3)]
    except Exception as error:
        return type(error).__name__, str(error)


# fmt: off
FRAGMENTS = [
    "SELECT ", "INSERT INTO t VALUES (", ")", ":a", ":b", " :a ", "::int", "\\:a", "'", '"', "`",
    "--", "\n", "/*", "*/", "$$", "$x$", "E'", "\\", "%", "?", "#", "[", "]", ",", " RETURNING ",
    "WITH x AS (", "UPDATE t SET a = ", " WHERE ", "SET x = 1", ";", "é", "\x00", "@>", ":=", " ",
]
# fmt: on
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)
scalars = st.one_of(st.none(), st.integers(), st.text(max_size=3), st.booleans())
values = st.one_of(
    st.none(),
    st.dictionaries(st.sampled_from(["a", "b", "c"]), scalars, max_size=3),
    st.lists(scalars, max_size=2),
    st.dictionaries(st.integers(), scalars, max_size=1),
)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(text=texts, given_values=values)
def test_plain_sql(dialect: str, text: str, given_values: Any) -> None:
    first, second = CACHES[dialect]
    for _ in range(2):  # once compiled, once out of the cache
        assert answer(first, text, given_values) == answer(second, text, given_values)


table = sa.Table(
    "t",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("a", sa.String(20)),
    sa.Column("b", sa.Integer, default=7, onupdate=8),
    sa.Column("c", sa.Boolean),
)
conditions = st.recursive(
    st.one_of(
        st.integers(0, 5).map(lambda n: table.c.b == n),
        st.text("xy%", max_size=2).map(lambda text: table.c.a.like(text)),
        st.lists(st.integers(0, 5), max_size=4).map(lambda found: table.c.id.in_(found)),
        st.just(table.c.c.is_(None)),
        st.just(table.c.a == sa.bindparam("a")),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: sa.and_(*pair)),
        st.tuples(inner, inner).map(lambda pair: sa.or_(*pair)),
        inner.map(sa.not_),
    ),
    max_leaves=5,
)
selects = st.builds(
    lambda condition, limit, descending: (
        sa.select(table)
        .where(condition)
        .order_by(table.c.id.desc() if descending else table.c.id)
        .limit(limit)
    ),
    conditions,
    st.one_of(st.none(), st.integers(0, 9)),
    st.booleans(),
)
expressions = st.one_of(
    selects,
    conditions.map(lambda condition: table.delete().where(condition)),
    conditions.map(lambda condition: table.update().where(condition).values(c=True)),
    st.just(table.insert()),
    st.integers().map(lambda n: table.insert().values(b=n)),
    st.tuples(selects, selects).map(lambda pair: sa.union_all(*pair)),
    selects.map(lambda query: sa.select(sa.func.count()).select_from(query.subquery())),
)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(query=expressions, given_values=values)
def test_expressions(dialect: str, query: Any, given_values: Any) -> None:
    first, second = CACHES[dialect]
    for _ in range(2):
        assert answer(first, query, given_values) == answer(second, query, given_values)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(
    query=st.one_of(texts, st.just(table.insert()), st.just(table.update())),
    rows=st.lists(values, max_size=7),
)
def test_many_rows(dialect: str, query: Any, rows: Any) -> None:
    first, second = CACHES[dialect]
    assert many_answers(first, query, rows) == many_answers(second, query, rows)
