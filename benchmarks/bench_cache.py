"""The query cache: from a query and its values to SQL text and arguments.

The floor of raw SQL is an ``lru_cache`` by the text and a tuple of the values, that of an
expression which is used again a dict by identity and the same. A fresh expression has SQLAlchemy's
own cache of compiled queries for its floor, with the parameters and their processors, as its
connections use it. Building the expression is not measured.
"""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from benchmarks.operations import Form, Loop, Measure, Operation, statement

if TYPE_CHECKING:
    from collections.abc import Callable

SUBJECT = "Query cache"

TEXT = "SELECT id, title FROM bench_read WHERE id = :id AND score > :score"
NUMBERS = [3, 1, 4, 1, 5]
ROWS = 1_000


def make_cache(form: Form) -> Any:
    """Return a query cache, as a Database on PostgreSQL makes it."""
    from fastdb.compiler import Compiler
    from fastdb.drivers import load_driver
    from fastdb.url import DatabaseURL

    driver = load_driver("postgresql")(DatabaseURL("postgresql://localhost/bench"), {})
    compiler = Compiler(driver.sqlalchemy_dialect, driver.lexical, driver.paramstyle)
    return form.module("query_cache").QueryCache(compiler)


# -- raw SQL, and an expression that is used again


def raw(form: Form) -> Loop:
    code = "prepare(sql, {'id': 5, 'score': 7})"
    return statement(code, prepare=make_cache(form).prepare, sql=TEXT)


def reused(form: Form) -> Loop:
    return statement(
        "prepare(query, {'key': 5})", prepare=make_cache(form).prepare, query=query_by_key()
    )


def query_by_key() -> Any:
    """Return an expression with one parameter, ``key``."""
    import sqlalchemy as sa

    from benchmarks.tables import read_table

    return read_table.select().where(read_table.c.id == sa.bindparam("key"))


def looked_up(form: Form) -> Loop:
    @lru_cache(1024)
    def plan_of(sql: str) -> tuple[str, Callable[[Any], tuple[Any, ...]]]:
        return sql.replace(":id", "$1").replace(":score", "$2"), itemgetter("id", "score")

    code = "sql, arguments = plan_of(text); arguments({'id': 5, 'score': 7})"
    return statement(code, plan_of=plan_of, text=TEXT)


def looked_up_by_identity(form: Form) -> Loop:
    query = query_by_key()
    plans = {id(query): ("SELECT 1", itemgetter("key"))}
    code = "sql, argument = plans[id(query)]; (argument({'key': 5}),)"
    return statement(code, plans=plans, query=query)


# -- fresh expressions


def fresh_select() -> Any:
    from benchmarks.tables import read_table

    return read_table.select().where(read_table.c.id == 5)


def fresh_insert() -> Any:
    from benchmarks.tables import write_table

    return write_table.insert()


def fresh_in() -> Any:
    from benchmarks.tables import read_table

    return read_table.select().where(read_table.c.id.in_(NUMBERS))


def prepared(form: Form) -> Loop:
    return statement("prepare(given)", prepare=make_cache(form).prepare)


def prepared_values(form: Form) -> Loop:
    from benchmarks.tables import values_of

    return statement(
        "prepare(given, values)", prepare=make_cache(form).prepare, values=values_of(5)
    )


def compiled(form: Form) -> Loop:
    return statement("prepare(given, None)", prepare=SQLAlchemyCache().prepare)


def compiled_values(form: Form) -> Loop:
    from benchmarks.tables import values_of

    return statement(
        "prepare(given, values)", prepare=SQLAlchemyCache().prepare, values=values_of(5)
    )


class SQLAlchemyCache:
    """What SQLAlchemy's connections do with an expression, up to the driver's call."""

    def __init__(self) -> None:
        """Begin with an empty cache."""
        from sqlalchemy.dialects.postgresql.base import PGDialect

        make: Any = PGDialect
        self._dialect = make(paramstyle="numeric_dollar")
        self._cache: dict[Any, Any] = {}

    def prepare(self, query: Any, values: dict[str, Any] | None) -> tuple[str, list[Any]]:
        """Return SQL text and arguments."""
        found, extracted, *_ = query._compile_w_cache(
            self._dialect, compiled_cache=self._cache, column_keys=sorted(values or ())
        )
        sql, names = found.string, found.positiontup
        params = found.construct_params(values, extracted_parameters=extracted)
        if found.post_compile_params:
            expanded = found._process_parameters_for_postcompile(params)
            sql, names = expanded.statement, expanded.positiontup
            params = params | expanded.additional_parameters
        processors = found._bind_processors
        return sql, [
            processors[name](params[name]) if name in processors else params[name] for name in names
        ]


# -- many rows


def typical_rows() -> list[dict[str, Any]]:
    """Return rows for an insert."""
    from benchmarks.tables import values_of

    return [values_of(n) for n in range(ROWS)]


def many(form: Form) -> Loop:
    code = "for plan, args in prepare_many(given, rows, 1000): pass"
    return statement(code, prepare_many=make_cache(form).prepare_many, rows=typical_rows())


def many_tuples(form: Form) -> Loop:
    rows = typical_rows()
    code = "list(map(arguments, rows))"
    return statement(code, arguments=itemgetter(*rows[0]), rows=rows)


OPERATIONS = (
    Operation(
        "raw SQL and values",
        raw,
        "lru_cache and itemgetter",
        looked_up,
        turns=5_000,
        wanted_seconds=0.4e-6,
    ),
    Operation(
        "an expression used again",
        reused,
        "dict by identity and itemgetter",
        looked_up_by_identity,
        turns=5_000,
        wanted_seconds=0.5e-6,
    ),
    Operation(
        "a fresh select by key, on top of its build",
        prepared,
        "SQLAlchemy's cache",
        compiled,
        fresh_select,
        turns=200,
        wanted_seconds=3e-6,
    ),
    Operation(
        "insert(t) and 5 values, on top of its build",
        prepared_values,
        "SQLAlchemy's cache",
        compiled_values,
        fresh_insert,
        turns=200,
        wanted_seconds=1.2e-6,
    ),
    Operation(
        "IN with 5 values, on top of its build",
        prepared,
        "SQLAlchemy's cache",
        compiled,
        fresh_in,
        turns=200,
        wanted_seconds=2e-6,
    ),
    Operation(
        "insert(t) and 1,000 rows, for a row",
        many,
        "itemgetter",
        many_tuples,
        fresh_insert,
        turns=5,
        size=ROWS,
    ),
)


def bench_cache(operation: Operation, form: str, measure: Measure) -> None:
    measure(SUBJECT, operation, form)
