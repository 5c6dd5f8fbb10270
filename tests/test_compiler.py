"""Compiling: keys of inserts, defaults, PostgreSQL's casts, SQLAlchemy's errors."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.dialects.mysql import mariadb
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from fastdb._speedups import QueryCache
from fastdb.compiler import (
    Compiler,
    mysql_statement_compiler,
    postgresql_statement_compiler,
    sqlite_dialect,
)
from fastdb.compiler_fingerprint import fingerprint
from fastdb.compiler_parts import MISSING
from fastdb.exceptions import (
    DataError,
    EmptyQueryError,
    NotSupportedError,
    ProgrammingError,
    QueryTypeError,
    UnknownParameterError,
)
from fastdb.sql_text import Lexical

metadata = sa.MetaData()
t = sa.Table(
    "t",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(20)),
    sa.Column("n", sa.Integer),
    sa.Column("amount", sa.Numeric(10, 2)),
    sa.Column("at", sa.DateTime),
    sa.Column("day", sa.Date),
    sa.Column("tags", postgresql.ARRAY(sa.Integer)),
    sa.Column("data", postgresql.JSONB),
    sa.Column("email", sa.String(20), unique=True),
)
pair = sa.Table(
    "pair",
    metadata,
    sa.Column("a", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("b", sa.String(5), primary_key=True, default="B"),
)
keyless = sa.Table("keyless", metadata, sa.Column("x", sa.Integer))
made = sa.Table(
    "made",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True, default=sa.func.make_key()),
    sa.Column("x", sa.Integer),
)
keyless_made = sa.Table(
    "keyless_made",
    metadata,
    sa.Column("name", sa.String(36), default=sa.func.make_key()),
    sa.Column("x", sa.Integer),
)
serial = sa.Table(
    "serial",
    metadata,
    sa.Column("id", sa.Integer, sa.Sequence("serial_seq"), primary_key=True),
    sa.Column("x", sa.Integer),
)
server = sa.Table(
    "server",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.text("make_key()")),
    sa.Column("x", sa.Integer),
)

PGDialectUntyped: Any = PGDialect
DDL: Any = sa.DDL


def postgresql_dialect() -> Any:
    dialect = PGDialectUntyped(paramstyle="numeric_dollar")
    dialect.statement_compiler = postgresql_statement_compiler()
    return dialect


def mariadb_dialect() -> Any:
    dialect = mariadb.loader("pymysql")(paramstyle="format")
    dialect.insert_returning = dialect.delete_returning = True
    dialect.supports_sequences = True
    return dialect


DIALECTS: dict[str, tuple[Any, str, str]] = {
    "sqlite": (lambda: SQLiteDialect_pysqlite(paramstyle="qmark"), "sqlite", "qmark"),
    "postgresql": (postgresql_dialect, "postgresql", "numeric_dollar"),
    "mysql": (lambda: MySQLDialect_pymysql(paramstyle="format"), "mysql", "format"),
    "mariadb": (mariadb_dialect, "mysql", "format"),
}


def compiler_for(name: str) -> Compiler:
    factory, lexical, paramstyle = DIALECTS[name]
    dialect = factory()
    return Compiler(lambda: dialect, lambda: Lexical(lexical), paramstyle)


def prepare(name: str, query: Any, values: Any = None) -> Any:
    return QueryCache(compiler_for(name)).prepare(query, values)


def sql(name: str, query: Any, values: Any = None) -> str:
    return " ".join(prepare(name, query, values)[0].sql.split())


LASTROWID = (("lastrowid",),)
RETURNING = (("returning", 0),)
GIVEN = (("given",),)
NONE = (("none",),)


def upsert(name: str) -> Any:
    if name in ("mysql", "mariadb"):
        query: Any = mysql.insert(t).values(email="e")
        return query.on_duplicate_key_update(name="x")
    insert: Any = sqlite.insert if name == "sqlite" else postgresql.insert
    return insert(t).values(email="e").on_conflict_do_nothing()


@pytest.mark.parametrize(
    ("query", "values", "expected"),
    [
        (sa.insert(t), {"n": 1}, (LASTROWID, RETURNING, LASTROWID, LASTROWID)),
        (sa.insert(t), {"n": 1, "id": 5}, (GIVEN, GIVEN, GIVEN, GIVEN)),
        (sa.insert(t), None, (LASTROWID, RETURNING, LASTROWID, LASTROWID)),
        (sa.insert(t).inline(), {"n": 1}, (LASTROWID, RETURNING, LASTROWID, LASTROWID)),
        (
            sa.insert(t).values([{"n": 1}, {"n": 2}]),
            None,
            (RETURNING, RETURNING, LASTROWID, RETURNING),
        ),
        (
            sa.insert(t).from_select(["n"], sa.select(keyless.c.x)),
            None,
            (RETURNING, RETURNING, LASTROWID, RETURNING),
        ),
        (sa.insert(made), {"x": 1}, (RETURNING, RETURNING, NONE, RETURNING)),
        (sa.insert(server), {"x": 1}, (RETURNING, RETURNING, NONE, RETURNING)),
        (sa.insert(t), {"id": sa.func.five()}, (LASTROWID, RETURNING, LASTROWID, LASTROWID)),
        (sa.insert(t).values(id=sa.bindparam("k")), {"k": 3}, (GIVEN, GIVEN, GIVEN, GIVEN)),
    ],
)
def test_where_the_key_comes_from(query: Any, values: Any, expected: Any) -> None:
    found = tuple(prepare(name, query, values)[0].key_sources for name in DIALECTS)
    # MariaDB tells the first row's id of several, too: either way is right.
    assert found[:3] == expected[:3]
    assert found[3] in (expected[3], LASTROWID)


@pytest.mark.parametrize("name", DIALECTS)
def test_the_key_of_an_upsert(name: str) -> None:
    plan, _, given = prepare(name, upsert(name))
    assert plan.key_sources == (LASTROWID if name == "mysql" else RETURNING)
    assert given == (MISSING,)
    assert plan.implicit_returning == (name != "mysql")
    assert not plan.returning


@pytest.mark.parametrize("name", DIALECTS)
def test_composite_and_missing_keys(name: str) -> None:
    plan, _, given = prepare(name, sa.insert(pair), {"a": 1})
    assert plan.key_sources == (("given",), ("given",))
    assert given == (1, "B")
    plan, _, given = prepare(name, sa.insert(keyless), {"x": 1})
    assert plan.key_sources is None
    assert given is None
    assert not plan.returns_rows


def test_a_table_may_refuse_returning() -> None:
    quiet = sa.Table(
        "quiet",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("x", sa.Integer),
        implicit_returning=False,
    )
    query = sa.insert(quiet).values([{"x": 1}])
    assert "RETURNING" not in sql("postgresql", query)
    assert "RETURNING" not in sql("sqlite", query)


def test_sequences() -> None:
    assert "nextval('serial_seq')" in sql("postgresql", sa.insert(serial), {"x": 1})
    assert prepare("postgresql", sa.insert(serial), {"x": 1})[0].key_sources == RETURNING
    assert "serial_seq" not in sql("sqlite", sa.insert(serial), {"x": 1})
    assert "nextval" in sql("mariadb", sa.insert(serial), {"x": 1})
    cache = QueryCache(compiler_for("postgresql"))
    (batch,) = cache.prepare_many(sa.insert(serial), [{"x": 1}, {"x": 2}], 10)
    assert "nextval" in batch[0].sql
    assert batch[1] == [(1,), (2,)]


def test_a_user_returning_stays_the_users() -> None:
    plan, _, given = prepare("postgresql", sa.insert(t).returning(t.c.name, t.c.id), {"n": 1})
    assert plan.returning
    assert not plan.implicit_returning
    assert plan.key_sources == (("returning", 1),)
    assert given == (MISSING,)
    plan, _, _ = prepare("postgresql", sa.update(t).values(n=1).returning(t.c.id))
    assert plan.returning
    assert plan.returns_rows
    assert plan.key_sources is None


def test_defaults_of_every_kind() -> None:
    seen: list[Any] = []

    def contextual(context: Any) -> str:
        seen.append((dict(context.get_current_parameters()), context.current_column.name))
        assert context.isinsert
        assert context.dialect is context.compiled.dialect
        return f"{context.get_current_parameters()['a']}!"

    table = sa.Table(
        "d",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("a", sa.Integer, default=1, onupdate=2),
        sa.Column("b", sa.String, default=contextual),
        sa.Column("c", sa.DateTime, default=sa.func.now(), onupdate=sa.func.now()),
        sa.Column("d", sa.Integer, default=lambda: 4, onupdate=lambda: 5),
    )
    plan, args, _ = prepare("sqlite", sa.insert(table))
    assert args == (1, "1!", 4)
    assert "CURRENT_TIMESTAMP" in plan.sql
    assert seen[0][0]["a"] == 1
    assert seen[0][1] == "b"
    assert prepare("sqlite", sa.insert(table), {"a": 7, "d": 8})[1] == (7, "7!", 8)
    rows = sa.insert(table).values([{"a": 1}, {"a": 2}])
    assert prepare("sqlite", rows)[1] == (1, "1!", 4, 2, "2!", 4)
    assert prepare("sqlite", sa.update(table), {"b": "x"})[1] == (2, "x", 5)
    plan, args, _ = prepare("sqlite", sa.update(table))
    assert "CURRENT_TIMESTAMP" in plan.sql
    assert args == (2, 5)


def test_errors_of_a_default_pass_unchanged() -> None:
    def fail() -> None:
        raise LookupError("mine")

    table = sa.Table("d", sa.MetaData(), sa.Column("a", sa.Integer, default=fail))
    with pytest.raises(LookupError, match=r"^mine$"):
        prepare("sqlite", sa.insert(table))


def test_ddl_is_compiled_without_parameters() -> None:
    for name in DIALECTS:
        plan, args, given = prepare(name, sa.schema.CreateTable(keyless))
        assert (plan.kind, args, given) == ("ddl", (), None)
        assert plan.implicit_commit == (name in ("mysql", "mariadb"))
        assert prepare(name, sa.schema.DropTable(keyless))[0].verb == "DROP"
    assert sql("mysql", DDL("CREATE TABLE x (a int default '5%%')")).count("%%") == 1


def test_schemas_are_translated() -> None:
    query = sa.select(keyless.c.x)
    mapped = query.execution_options(schema_translate_map={None: "other"})
    cache = QueryCache(compiler_for("postgresql"))
    assert "FROM keyless" in cache.prepare(query)[0].sql
    assert "FROM other.keyless" in cache.prepare(mapped)[0].sql
    values = sa.insert(keyless).execution_options(schema_translate_map={None: "other"})
    assert "INTO other.keyless" in cache.prepare(values, {"x": 1})[0].sql


def test_lambdas_and_functions() -> None:
    limit = 5
    query = sa.lambda_stmt(lambda: sa.select(t.c.id).where(t.c.id == limit))
    assert prepare("sqlite", query)[1] == (5,)
    assert sql("sqlite", sa.func.count()) == "SELECT count(*) AS count_1"


def test_what_stands_for_an_expression() -> None:
    class Stands:
        def __clause_element__(self) -> Any:
            return sa.select(t.c.id)

    assert sql("sqlite", Stands()) == sql("sqlite", sa.select(t.c.id))


def test_values_of_a_further_table_of_an_update() -> None:
    query = sa.update(t).where(t.c.id == pair.c.a)
    plan, args, _ = prepare("mysql", query, {t.c.n: 1, pair.c.b: "x"})
    assert "SET pair.b=%s, t.n=%s" in plan.sql
    assert args == ("x", 1)


def test_a_server_makes_the_keys_of_many_rows() -> None:
    cache = QueryCache(compiler_for("postgresql"))
    (batch,) = cache.prepare_many(sa.insert(made), [{"x": 1}, {"x": 2}], 10)
    assert "make_key()" in batch[0].sql
    assert batch[1] == [(1,), (2,)]


@pytest.mark.parametrize("name", ["sqlite", "postgresql", "mysql"])
def test_a_default_of_the_server_is_left_to_it_in_many_rows(name: str) -> None:
    for table in (made, keyless_made):
        ((plan, rows),) = QueryCache(compiler_for(name)).prepare_many(
            sa.insert(table), [{"x": 1}, {"x": 2}], 10
        )
        assert "make_key()" in plan.sql
        assert rows == [(1,), (2,)]


def test_a_column_that_orders_what_many_rows_return() -> None:
    marked = sa.Table(
        "marked",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("x", sa.Integer),
        sa.insert_sentinel("place"),
    )
    query = sa.insert(marked).returning(marked.c.id, sort_by_parameter_order=True)
    ((plan, rows),) = QueryCache(compiler_for("postgresql")).prepare_many(query, [{"x": 5}], 10)
    assert "(x, place)" in plan.sql
    assert rows == [(5, 0)]


def test_a_key_that_is_returned_twice() -> None:
    plan, _, _ = prepare("postgresql", sa.insert(t).returning(t.c.id, t.c.id), {"n": 1})
    assert plan.key_sources in ((("none",),), (("returning", 0),), (("lastrowid",),))


def test_a_missing_value_is_false() -> None:
    assert not MISSING


def test_what_is_no_expression_has_no_fingerprint() -> None:
    assert fingerprint(object()) is None


def test_columns_are_found_by_their_lineage() -> None:
    alias = t.alias()
    plan, _, _ = prepare("sqlite", sa.select(alias.c.id, alias.c.name))
    record = plan.layout(("id", "name")).record((5, "x"))
    assert (record[t.c.id], record[t.c.name]) == (5, "x")
    keys: list[Any] = [t.c.n, sa.column("other"), [5]]
    for key in keys:
        with pytest.raises((KeyError, TypeError)):
            record[key]


def test_texts_with_columns_of_many_names() -> None:
    plan, _, _ = prepare("sqlite", sa.text("SELECT * FROM t").columns(at=sa.DateTime))
    for number in range(200):
        record = plan.layout(("at", f"x{number}")).record(("2024-01-02 00:00:00.000000", 1))
        assert record[0] == datetime.datetime(2024, 1, 2)


class Joined(sa.types.UserDefinedType[str]):
    """A literal of the user's own, which is no plain string."""

    cache_ok = True

    def literal_processor(self, dialect: Any) -> Any:
        return lambda value: f"concat('{value}')"


def test_literals_of_mysql_are_the_same_under_every_sql_mode() -> None:
    dialect: Any = MySQLDialect_pymysql(paramstyle="format")
    dialect.statement_compiler = mysql_statement_compiler(dialect.statement_compiler)

    def literal(value: str, type_: Any) -> str:
        bind: Any = sa.bindparam("x", value, type_, literal_execute=True)
        compiler = Compiler(lambda: dialect, lambda: Lexical("mysql"), "format")
        return QueryCache(compiler).prepare(sa.select(bind))[0].sql

    assert "'it''s 5 %%'" in literal("it's 5 %", sa.String())
    hexadecimal = b"it's\\5 %".hex()
    assert f"_utf8mb4 X'{hexadecimal}'" in literal("it's\\5 %", sa.String())
    assert r"concat('a\\b')" in literal("a\\b", Joined())


def test_numbers_that_sqlite_cannot_keep() -> None:
    numbers = sa.Table(
        "numbers", sa.MetaData(), sa.Column("x", sa.Float), sa.Column("y", sa.Numeric(10, 2))
    )
    query = sa.insert(numbers)
    dialect = sqlite_dialect()(paramstyle="qmark")
    cache = QueryCache(Compiler(lambda: dialect, lambda: Lexical("sqlite"), "qmark"))
    values = {"x": decimal.Decimal("1.5"), "y": decimal.Decimal("2")}
    assert cache.prepare(query, values)[1] == (1.5, 2.0)
    for nan in (decimal.Decimal("sNaN"), decimal.Decimal("NaN"), float("nan")):
        with pytest.raises(DataError, match="no NaN"):
            cache.prepare(query, {"x": nan})


def test_sqlalchemys_errors_become_ours() -> None:
    with pytest.raises(ProgrammingError, match="conflicts") as caught:
        prepare(
            "sqlite",
            sa.select(t).where(
                t.c.id == sa.bindparam("x", 1, unique=True), t.c.n == sa.bindparam("x_1", 2)
            ),
        )
    assert isinstance(caught.value.__cause__, sa.exc.CompileError)
    with pytest.raises(NotSupportedError):
        prepare("sqlite", sa.select(sa.cast(t.c.tags, postgresql.ARRAY(sa.Integer))))
    with pytest.raises(UnknownParameterError, match="'nope'"):
        prepare("sqlite", sa.insert(t), {"nope": 1})
    with pytest.raises(UnknownParameterError, match="the table has no column 'nope'"):
        prepare("sqlite", sa.insert(t).values(nope=1))
    with pytest.raises(ProgrammingError):
        prepare("sqlite", sa.insert(t).values([{"n": 1}]), {"n": sa.func.abs(1)})
    copied = sa.insert(t).from_select(["n"], sa.select(t.c.n))
    with pytest.raises(ProgrammingError, match="already inserts from a SELECT"):
        prepare("sqlite", copied, {"name": sa.func.lower("X")})
    with pytest.raises(EmptyQueryError, match="None"):
        compiler_for("sqlite").adapt(None, None)
    with pytest.raises(QueryTypeError, match="'list'"):
        compiler_for("sqlite").adapt([], None)


# -- PostgreSQL's casts

AWARE = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
CASTS: list[tuple[Any, str]] = [
    (sa.select(sa.literal(5)), "$1::INTEGER"),
    (sa.select(sa.type_coerce(sa.literal(5), sa.BigInteger)), "$1::"),
    (
        sa.select(t.c.id).where(sa.tuple_(t.c.id, t.c.n) == sa.tuple_(1, 2)),
        "($1::INTEGER, $2::INTEGER)",
    ),
    (sa.select(sa.literal(5_000_000_000)), "$1::BIGINT"),
    (sa.select(sa.literal(datetime.date(2020, 1, 1))), "$1::DATE"),
    (sa.select(sa.literal(True)), "$1::BOOLEAN"),
    (sa.select(sa.literal(decimal.Decimal("1.5"))), "$1::NUMERIC"),
    (sa.select(sa.literal(decimal.Decimal("1.55"), sa.Numeric(5, 1))), "$1::NUMERIC "),
    (sa.select(sa.literal(AWARE)), "$1::TIMESTAMP WITH TIME ZONE"),
    (sa.select(sa.literal([1], postgresql.ARRAY(sa.Integer))), "$1::INTEGER[]"),
    (sa.select(sa.literal(5).label("x")), "$1::INTEGER"),
    (sa.select(sa.literal(5) + sa.literal(6)), "$1::INTEGER + $2::INTEGER"),
    (sa.select(-sa.literal(5)), "-$1::INTEGER"),
    (sa.select(t.c.n * decimal.Decimal(2)), "t.n * $1::NUMERIC"),
    (sa.select(t.c.day + datetime.timedelta(1)), "t.day + $1::INTERVAL"),
    (sa.select(sa.func.round(decimal.Decimal("1.5"))), "round($1::NUMERIC)"),
    (sa.select(sa.func.length(t.c.name) > 5), "length(t.name) > $1::INTEGER"),
    (sa.select(sa.func.coalesce(t.c.name, 5)), "coalesce(t.name, $1::INTEGER)"),
    (sa.select(sa.case((t.c.n > 1, 1), else_=0)), "THEN $2::INTEGER ELSE $3::INTEGER"),
    (sa.select(sa.func.concat("a", t.c.name)), "concat($1::VARCHAR, t.name)"),
    (sa.select(sa.func.json_build_object("a", 1)), "($1::VARCHAR, $2::INTEGER)"),
    (sa.select(postgresql.array([1, 2])), "ARRAY[$1::INTEGER, $2::INTEGER]"),
    (sa.select(sa.cast(sa.literal("5"), sa.Integer)), "CAST($1::VARCHAR AS INTEGER)"),
    (sa.select(t.c.data[0]), "[$1::INTEGER]"),
    (sa.select(sa.extract("year", sa.literal(AWARE))), "FROM $1::TIMESTAMP WITH TIME ZONE"),
    (
        sa.select(sa.values(sa.column("a", sa.Integer), name="v").data([(1,)])),
        "VALUES ($1::INTEGER)",
    ),
]
UNCAST: list[Any] = [
    sa.select(sa.literal("x")),
    sa.select(t).where(t.c.n == 5, t.c.n + 1 > 2, t.c.n.in_([1, 2])),
    sa.select(t).where(t.c.at > AWARE, t.c.at.between(AWARE, AWARE)),
    sa.select(sa.func.coalesce(t.c.at, AWARE), sa.func.nullif(t.c.n, 5)),
    sa.select(sa.case((t.c.n > 1, t.c.at), else_=AWARE)),
    sa.select(sa.case((t.c.n == 1, "a"), else_="b")),
    sa.select(sa.case((t.c.n == 1, "a"))),
    sa.select(t.c.id).where(sa.case({1: t.c.n}, value=t.c.id) > 5),
    sa.select(t).where(sa.func.now() > AWARE),
    sa.select(t).where(t.c.amount > decimal.Decimal(1)),
    sa.select(postgresql.array([t.c.n, 2])),
    sa.select(t).where(t.c.n == sa.any_(t.c.tags), sa.literal(5) == sa.any_(t.c.tags)),
    sa.select(t).limit(5).offset(2),
    sa.select(t.c.data["a"]),
    sa.select(sa.func.lower("X")),
    sa.select(sa.cast(5, sa.Integer)),
    sa.select(sa.literal(None)),
    sa.update(t).values(at=AWARE, n=t.c.n + 1).where(t.c.id == 5),
    sa.insert(t).values(n=5, at=AWARE),
    sa.insert(t).values([{"n": 5}, {"n": 6}]),
    postgresql.insert(t).values(n=5).on_conflict_do_update(index_elements=["id"], set_={"n": 6}),
]


@pytest.mark.parametrize("case", range(len(CASTS)))
def test_binds_that_nothing_tells_are_cast(case: int) -> None:
    query, expected = CASTS[case]
    assert expected in sql("postgresql", query)


@pytest.mark.parametrize("case", range(len(UNCAST)))
def test_binds_beside_a_column_are_not_cast(case: int) -> None:
    assert "::" not in sql("postgresql", UNCAST[case])


def test_every_bind_is_cast_alike_through_the_cache() -> None:
    cache = QueryCache(compiler_for("postgresql"))
    for query, _ in CASTS:
        assert cache.prepare(query)[0].sql == prepare("postgresql", query)[0].sql
