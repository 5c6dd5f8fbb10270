"""The query cache, in both forms: never another answer than a fresh compile gives."""

from __future__ import annotations

import datetime
import decimal
import enum
import gc
import importlib
import random
import uuid
import weakref
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from fastdb.compiler import MISSING, Compiler
from fastdb.compiler_fingerprint import check_walk
from fastdb.exceptions import (
    DataError,
    EmptyQueryError,
    MissingParameterError,
    OptionError,
    ProgrammingError,
    QueryTypeError,
    UnknownParameterError,
)
from fastdb.sql_text import Lexical


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


class Shout(sa.types.TypeDecorator[str]):
    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value.upper()

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else f"{value}!"


class Uncacheable(sa.types.TypeDecorator[int]):
    impl = sa.Integer
    cache_ok = False

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value * self.factor


class Grumpy(sa.types.TypeDecorator[str]):
    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        raise LookupError("the user's own")


SQLiteDateTime: Any = sqlite.DATETIME
metadata = sa.MetaData()
t = sa.Table(
    "t",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(50)),
    sa.Column("amount", sa.Numeric(10, 2)),
    sa.Column("at", sa.DateTime),
    sa.Column("day", sa.Date),
    sa.Column("flag", sa.Boolean),
    sa.Column("color", sa.Enum(Color)),
    sa.Column("data", sa.JSON),
    sa.Column("loud", Shout(20)),
    sa.Column("uid", sa.Uuid),
    sa.Column("ratio", sa.Float),
    sa.Column("span", sa.Interval),
    sa.Column("raw", sa.LargeBinary),
)
u = sa.Table(
    "u",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("t_id", sa.ForeignKey("t.id")),
    sa.Column("n", sa.Integer, default=7, onupdate=8),
    sa.Column("made", sa.Integer, default=lambda: 70, onupdate=lambda: 80),
)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


postgresql_dialect: Any = PGDialect
DIALECTS: dict[str, Any] = {
    "sqlite": (lambda: SQLiteDialect_pysqlite(paramstyle="qmark"), "qmark"),
    "postgresql": (lambda: postgresql_dialect(paramstyle="numeric_dollar"), "numeric_dollar"),
    "mysql": (lambda: MySQLDialect_pymysql(paramstyle="format"), "format"),
}
UPSERTS: dict[str, Any] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
    "mysql": mysql.insert,
}


def make_compiler(dialect: str) -> Compiler:
    factory, paramstyle = DIALECTS[dialect]
    made = factory()
    return Compiler(lambda: made, lambda: Lexical(dialect), paramstyle)


PACKAGES = {"pure": "fastdb._fallback", "compiled": "fastdb._speedups"}


@pytest.fixture
def module(form: str) -> Any:
    return importlib.import_module(f"{PACKAGES[form]}.query_cache")


@pytest.fixture(params=sorted(DIALECTS))
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cache(module: Any) -> Any:
    return module.QueryCache(make_compiler("sqlite"))


# -- shapes: each makes a fresh expression; equal ones differ in the values only


def recursive(n: int) -> Any:
    numbers = sa.select(sa.literal(n).label("v")).cte("numbers", recursive=True)
    numbers = numbers.union_all(sa.select(numbers.c.v + n).where(numbers.c.v < n * 10))
    return sa.select(numbers.c.v)


def aliased(n: int) -> Any:
    a = t.alias()
    return sa.select(a.c.id, t.c.name).where(a.c.id == n, t.c.id == a.c.id)


def subquery(n: int) -> Any:
    inner = sa.select(t.c.id, t.c.loud).where(t.c.id > n).subquery()
    return sa.select(inner.c.loud, inner.c.id).where(inner.c.id < n + 5)


def bind_twice(n: int) -> Any:
    bind: Any = sa.bindparam("x", n)
    return sa.select(t.c.id).where(sa.or_(t.c.id == bind, t.c.id > bind))


def lateral(n: int) -> Any:
    inner = sa.select(u.c.n).where(u.c.t_id == t.c.id, u.c.n > n).lateral("x")
    return sa.select(t.c.id, inner.c.n).select_from(t.join(inner, sa.true()))


SHAPES: dict[str, Any] = {
    "by_key": lambda n: sa.select(t).where(t.c.id == n),
    "not_equal": lambda n: sa.select(t).where(t.c.id != n),
    "columns": lambda n: sa.select(t.c.name, t.c.id).where(t.c.id == n),
    "columns_other_order": lambda n: sa.select(t.c.id, t.c.name).where(t.c.id == n),
    "two_conditions": lambda n: sa.select(t.c.id).where(t.c.id > n, t.c.id < n + 9),
    "or": lambda n: sa.select(t.c.id).where(sa.or_(t.c.id == n, t.c.name == str(n))),
    "not": lambda n: sa.select(t.c.id).where(sa.not_(t.c.flag)).where(t.c.id == n),
    "null": lambda n: sa.select(t.c.id).where(t.c.name.is_(None)).where(t.c.id == n),
    "not_null": lambda n: sa.select(t.c.id).where(t.c.name.is_not(None)).where(t.c.id == n),
    "like": lambda n: sa.select(t.c.id).where(t.c.name.like(f"%{n}%")),
    "like_escape": lambda n: sa.select(t.c.id).where(t.c.name.like(f"{n}", escape="/")),
    "like_escape_other": lambda n: sa.select(t.c.id).where(t.c.name.like(f"{n}", escape="#")),
    "contains": lambda n: sa.select(t.c.id).where(t.c.name.contains(str(n), autoescape=True)),
    "in": lambda n: sa.select(t.c.id).where(t.c.id.in_([n, n + 1])),
    "in_lengths": lambda n: sa.select(t.c.id).where(t.c.id.in_(list(range(n)))),
    "in_empty": lambda n: sa.select(t.c.id).where(t.c.id.in_([])).where(t.c.id == n),
    "not_in": lambda n: sa.select(t.c.id).where(t.c.id.not_in([n, 5])),
    "not_in_empty": lambda n: sa.select(t.c.id).where(t.c.id.not_in([])).where(t.c.id == n),
    "in_enum": lambda n: sa.select(t.c.id).where(t.c.color.in_([Color.RED, Color.BLUE][: n % 3])),
    "in_decorated": lambda n: sa.select(t.c.id).where(t.c.loud.in_([f"a{n}", "b"])),
    "in_tuples": lambda n: sa.select(t.c.id).where(
        sa.tuple_(t.c.id, t.c.name).in_([(n, "a"), (2, "b")])
    ),
    "in_and_limit": lambda n: sa.select(t.c.id).where(t.c.id.in_([n, 2])).limit(n).offset(3),
    "in_select": lambda n: sa.select(t.c.id).where(
        t.c.id.in_(sa.select(u.c.t_id).where(u.c.n == n))
    ),
    "literal_execute": lambda n: sa.select(t.c.id).where(
        t.c.id == sa.bindparam("x", n, literal_execute=True)
    ),
    "limit": lambda n: sa.select(t.c.id).limit(n),
    "offset": lambda n: sa.select(t.c.id).offset(n),
    "limit_offset": lambda n: sa.select(t.c.id).limit(n).offset(n + 1),
    "order": lambda n: sa.select(t.c.id).order_by(t.c.name.desc()).where(t.c.id == n),
    "order_other": lambda n: sa.select(t.c.id).order_by(t.c.name.asc()).where(t.c.id == n),
    "order_nulls": lambda n: sa.select(t.c.id).order_by(t.c.name).limit(n),
    "group": lambda n: (
        sa.select(t.c.name, sa.func.count()).group_by(t.c.name).having(sa.func.count() > n)
    ),
    "distinct": lambda n: sa.select(t.c.name).distinct().where(t.c.id == n),
    "join": lambda n: sa.select(t.c.id, u.c.id).join(u, u.c.t_id == t.c.id).where(u.c.n == n),
    "outer_join": lambda n: (
        sa.select(t.c.id, u.c.id).outerjoin(u, u.c.t_id == t.c.id).where(u.c.n == n)
    ),
    "aliased": aliased,
    "subquery": subquery,
    "recursive": recursive,
    "lateral": lateral,
    "cte": lambda n: sa.select(sa.select(t.c.id).where(t.c.id == n).cte("c").c.id),
    "exists": lambda n: sa.select(t.c.id).where(
        sa.exists().where(u.c.t_id == t.c.id).where(u.c.n == n)
    ),
    "scalar_subquery": lambda n: sa.select(
        t.c.id, sa.select(sa.func.max(u.c.n)).where(u.c.n < n).scalar_subquery().label("m")
    ),
    "union": lambda n: sa.union(
        sa.select(t.c.id).where(t.c.id == n), sa.select(u.c.id).where(u.c.id == n + 1)
    ),
    "union_all": lambda n: sa.union_all(
        sa.select(t.c.id).where(t.c.id == n), sa.select(u.c.id).where(u.c.id == n + 1)
    ).order_by("id"),
    "window": lambda n: sa.select(
        sa.func.row_number().over(partition_by=t.c.name, order_by=t.c.id), t.c.id
    ).where(t.c.id > n),
    "window_rows": lambda n: sa.select(
        sa.func.sum(t.c.id).over(order_by=t.c.id, rows=(-2, 0))
    ).where(t.c.id > n),
    "window_rows_other": lambda n: sa.select(
        sa.func.sum(t.c.id).over(order_by=t.c.id, rows=(-3, 0))
    ).where(t.c.id > n),
    "case": lambda n: sa.select(sa.case((t.c.id > n, "big"), (t.c.id == 0, "nil"), else_="small")),
    "cast": lambda n: sa.select(sa.cast(t.c.id, sa.String(5))).where(t.c.id == n),
    "cast_length": lambda n: sa.select(sa.cast(t.c.id, sa.String(6))).where(t.c.id == n),
    "cast_variant": lambda n: sa.select(
        sa.cast(t.c.id, sa.String(5).with_variant(sa.Text(), "sqlite", "postgresql", "mysql"))
    ).where(t.c.id == n),
    "cast_variant_other": lambda n: sa.select(
        sa.cast(t.c.id, sa.String(5).with_variant(sa.CHAR(9), "sqlite", "postgresql", "mysql"))
    ).where(t.c.id == n),
    "type_coerce": lambda n: sa.select(sa.type_coerce(t.c.name, Shout)).where(t.c.id == n),
    "coerce_literal": lambda n: sa.select(sa.type_coerce(f"x{n}", Shout)),
    "label": lambda n: sa.select(t.c.id.label("foo")).where(t.c.id == n),
    "label_other": lambda n: sa.select(t.c.id.label("bar")).where(t.c.id == n),
    "literal": lambda n: sa.select(sa.literal(n), sa.literal(f"x{n}")),
    "literal_types": lambda n: sa.select(sa.literal(f"{n}"), sa.literal(n)),
    "literal_column": lambda n: sa.select(sa.literal_column("1 + 1")).where(t.c.id == n),
    "arithmetic": lambda n: sa.select(t.c.id + n, t.c.id * 2 - n),
    "concat": lambda n: sa.select(t.c.name + f"{n}"),
    "between": lambda n: sa.select(t.c.id).where(t.c.id.between(n, n + 2)),
    "function": lambda n: sa.select(sa.func.coalesce(t.c.name, f"d{n}")),
    "function_typed": lambda n: sa.select(sa.func.foo(t.c.name, type_=sa.Boolean)).where(
        t.c.id == n
    ),
    "function_typed_other": lambda n: sa.select(sa.func.foo(t.c.name, type_=sa.DateTime)).where(
        t.c.id == n
    ),
    "filter": lambda n: sa.select(sa.func.count(t.c.id).filter(t.c.id > n)),
    "extract": lambda n: sa.select(sa.extract("year", t.c.at)).where(t.c.id == n),
    "extract_other": lambda n: sa.select(sa.extract("month", t.c.at)).where(t.c.id == n),
    "datetime": lambda n: sa.select(t.c.at).where(
        t.c.at > datetime.datetime(2020, 1, n, tzinfo=None)
    ),
    "date": lambda n: sa.select(t.c.day).where(t.c.day == datetime.date(2020, 1, n)),
    "numeric": lambda n: sa.select(t.c.amount).where(t.c.amount == decimal.Decimal(n)),
    "enum": lambda n: sa.select(t.c.color).where(t.c.color == (Color.RED if n % 2 else Color.BLUE)),
    "json": lambda n: sa.select(t.c.data["a"].as_string()).where(t.c.id == n),
    "json_path": lambda n: sa.select(t.c.data[("a", f"b{n}")].as_integer()),
    "uuid": lambda n: sa.select(t.c.uid).where(t.c.uid == uuid.UUID(int=n)),
    "interval": lambda n: sa.select(t.c.span).where(t.c.span > datetime.timedelta(days=n)),
    "binary": lambda n: sa.select(t.c.raw).where(t.c.raw == bytes([n])),
    "bool": lambda n: sa.select(t.c.flag).where(t.c.flag == bool(n % 2)),
    "text": lambda n: sa.text("SELECT id, name FROM t WHERE id = :i").bindparams(i=n),
    "text_columns": lambda n: (
        sa.text("SELECT id, loud FROM t WHERE id = :i").bindparams(i=n).columns(t.c.id, t.c.loud)
    ),
    "text_typed": lambda n: (
        sa.text("SELECT id, loud FROM t WHERE id = :i")
        .bindparams(i=n)
        .columns(id=sa.Integer, loud=Shout)
    ),
    "text_where": lambda n: sa.select(t.c.id).where(sa.text("id = :i").bindparams(i=n)),
    "bind_twice": bind_twice,
    "bind_callable": lambda n: sa.select(t.c.id).where(
        t.c.id == sa.bindparam("x", callable_=lambda: n)
    ),
    "quoted_bind": lambda n: sa.select(t.c.id).where(t.c.id == sa.bindparam("a:b (c)%", n)),
    "prefix": lambda n: sa.select(t.c.id).prefix_with("/* one */").where(t.c.id == n),
    "prefix_other": lambda n: sa.select(t.c.id).prefix_with("/* two */").where(t.c.id == n),
    "between_symmetric": lambda n: sa.select(t.c.id).where(
        t.c.id.between(n, n + 2, symmetric=True)
    ),
    "regexp": lambda n: sa.select(t.c.id).where(t.c.name.regexp_match(f"x{n}")),
    "order_label": lambda n: sa.select(t.c.id.label("z")).where(t.c.id == n).order_by("z"),
    "order_label_other": lambda n: (
        sa.select(t.c.id.label("z")).where(t.c.id == n).order_by(sa.desc("z"))
    ),
    "correlated": lambda n: sa.select(t.c.id).where(
        sa.select(u.c.id).where(u.c.t_id == t.c.id, u.c.n == n).correlate(t).exists()
    ),
    "uncorrelated": lambda n: sa.select(t.c.id).where(
        sa.select(u.c.id).where(u.c.t_id == t.c.id, u.c.n == n).correlate(None).exists()
    ),
    "uncorrelated_except": lambda n: sa.select(t.c.id).where(
        sa.select(u.c.id).where(u.c.t_id == t.c.id, u.c.n == n).correlate_except(t).exists()
    ),
    "two_lists": lambda n: sa.select(t.c.id).where(
        t.c.id.in_(list(range(n))), t.c.id.not_in([n, n + 1])
    ),
    "list_of_dates": lambda n: sa.select(t.c.id).where(
        t.c.day.in_([datetime.date(2020, 1, n), datetime.date(2020, 2, n)]),
        t.c.flag.in_([True, False][:n]),
        t.c.ratio.in_([1.5, n, decimal.Decimal(n)]),
    ),
    "time_formats": lambda n: sa.select(
        sa.cast(t.c.at, SQLiteDateTime()),
        sa.literal(datetime.datetime(2020, 1, n, 1, 2, 3, 4), SQLiteDateTime()),
    ),
    "time_formats_other": lambda n: sa.select(
        sa.cast(t.c.at, SQLiteDateTime()),
        sa.literal(
            datetime.datetime(2020, 1, n, 1, 2, 3, 4), SQLiteDateTime(truncate_microseconds=True)
        ),
    ),
    "for_update": lambda n: sa.select(t.c.id).where(t.c.id == n).with_for_update(),
    "for_update_nowait": lambda n: (
        sa.select(t.c.id).where(t.c.id == n).with_for_update(nowait=True)
    ),
    "params": lambda n: sa.select(t.c.id).where(t.c.id == sa.bindparam("x")).params(x=n),
    "collate": lambda n: sa.select(sa.collate(t.c.name, "BINARY")).where(t.c.id == n),
    "collate_other": lambda n: sa.select(sa.collate(t.c.name, "C")).where(t.c.id == n),
    "op": lambda n: sa.select(t.c.id.op("%%")(n)),
    "op_other": lambda n: sa.select(t.c.id.op("&")(n)),
    "percent": lambda n: sa.select(sa.literal_column("'50%'")).where(t.c.id == n),
    "schema_free_table": lambda n: (
        sa.select(sa.column("a")).select_from(sa.table("z")).where(sa.column("a") == n)
    ),
    "typed_column": lambda n: sa.select(sa.column("a", Shout)).where(
        sa.column("b", Shout) == f"x{n}"
    ),
    "uncacheable": lambda n: sa.select(t.c.id).where(
        t.c.id == sa.bindparam("x", n, type_=Uncacheable(n))
    ),
    "values_construct": lambda n: sa.select(
        sa.values(sa.column("a", sa.Integer), name="v").data([(n,), (n + 1,)])
    ),
    "orm_entity": lambda n: sa.select(User).where(User.id == n),
    "orm_columns": lambda n: sa.select(User.name, User.id).where(User.name == f"{n}"),
    "update": lambda n: sa.update(t).where(t.c.id == n).values(name=f"x{n}"),
    "update_expression": lambda n: sa.update(t).where(t.c.id == n).values(ratio=t.c.ratio + n),
    "update_decorated": lambda n: sa.update(t).where(t.c.id == n).values(loud=f"x{n}"),
    "delete": lambda n: sa.delete(t).where(t.c.id == n),
    "delete_all": lambda n: sa.delete(t),
}


def oracle(statement: Any, dialect: str) -> tuple[str, tuple[Any, ...]]:
    """Return what SQLAlchemy itself makes of a statement, uncached."""
    made = DIALECTS[dialect][0]()
    compiled = statement.compile(dialect=made)
    parameters = compiled.construct_params(escape_names=False)
    state = compiled._process_parameters_for_postcompile(dict(parameters))
    processors = {**compiled._bind_processors, **state.processors}
    args = []
    for name in state.positiontup:
        value = state.parameters[name]
        processor = processors.get(name)
        args.append(value if processor is None else processor(value))
    return state.statement, tuple(args)


def converted(plan: Any, names: tuple[str, ...]) -> list[Any]:
    """Return what the plan's converters make of sample values."""
    converters = None if plan._result is None else plan._result.converters(names)
    if converters is None:
        return []
    found: list[Any] = []
    for converter in converters:
        try:
            found.append(None if converter is None else converter("1"))
        except Exception as exc:  # what a converter refuses is compared, too
            found.append(repr(exc))
    return found


def result_names(statement: Any, dialect: str) -> tuple[str, ...]:
    compiled = statement.compile(dialect=DIALECTS[dialect][0]())
    return tuple(entry.keyname for entry in compiled._result_columns)


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_each_shape_gives_what_a_fresh_compile_gives(module: Any, dialect: str, shape: str) -> None:
    cache = module.QueryCache(make_compiler(dialect))
    make = SHAPES[shape]
    for n in (1, 2, 3, 2):
        plan, args, given = cache.prepare(make(n))
        assert (plan.sql, args) == oracle(make(n), dialect)
        assert given is None
        names = result_names(make(n), dialect)
        fresh = module.QueryCache(make_compiler(dialect)).prepare(make(n))[0]
        assert converted(plan, names) == converted(fresh, names)


@pytest.mark.parametrize("seed", range(3))
def test_no_shape_takes_another_ones_plan(module: Any, dialect: str, seed: int) -> None:
    cache = module.QueryCache(make_compiler(dialect), maxsize=1024 if seed else 20)
    order = [(name, n) for name in SHAPES for n in (1, 2, 3)]
    random.Random(seed).shuffle(order)
    kept = [SHAPES[name](n) for name, n in order]
    for (name, n), statement in zip(order, kept, strict=True):
        for query in (SHAPES[name](n), statement, statement):
            plan, args, _ = cache.prepare(query)
            assert (plan.sql, args) == oracle(SHAPES[name](n), dialect), name


CACHEABLE = sorted(
    set(SHAPES)
    - {"cast_variant", "cast_variant_other", "uncacheable", "typed_column"}
    - {"type_coerce", "coerce_literal", "text_typed", "values_construct", "bool"}
    - {"time_formats", "time_formats_other"}
)


@pytest.mark.parametrize("shape", CACHEABLE)
def test_an_equal_expression_is_compiled_once(module: Any, shape: str) -> None:
    cache = module.QueryCache(make_compiler("sqlite"))
    cache.prepare(SHAPES[shape](1))
    cache.prepare(SHAPES[shape](2))
    assert cache.info().misses == 1
    assert cache.info().hits == 1


# -- inserts and updates: values

SELF_SERVICE: dict[str, Any] = {
    "insert": lambda n: (sa.insert(u), {"t_id": n}),
    "insert_key": lambda n: (sa.insert(u), {"t_id": n, "id": n}),
    "insert_other": lambda n: (sa.insert(t), {"name": f"x{n}"}),
    "insert_nothing": lambda n: (sa.insert(u), None),
    "insert_own": lambda n: (sa.insert(u).values(t_id=n), None),
    "insert_own_and_more": lambda n: (sa.insert(u).values(t_id=n), {"n": n}),
    "insert_override": lambda n: (sa.insert(u).values(t_id=n, n=3), {"n": n}),
    "insert_expression": lambda n: (sa.insert(u), {"t_id": sa.func.abs(n), "n": n}),
    "insert_column_key": lambda n: (sa.insert(u), {u.c.t_id: n}),
    "insert_returning": lambda n: (sa.insert(u).returning(u.c.n, u.c.id), {"t_id": n}),
    "insert_rows": lambda n: (sa.insert(u).values([{"t_id": n}, {"t_id": n + 1}]), None),
    "insert_select": lambda n: (
        sa.insert(u).from_select(["t_id"], sa.select(t.c.id).where(t.c.id == n)),
        None,
    ),
    "insert_types": lambda n: (
        sa.insert(t),
        {"amount": decimal.Decimal(n), "color": Color.RED, "data": {"n": n}, "loud": f"x{n}"},
    ),
    "update": lambda n: (sa.update(u).where(u.c.id == n), {"t_id": n}),
    "update_bind": lambda n: (
        sa.update(u).where(u.c.id == sa.bindparam("which")),
        {"which": n, "t_id": n + 1},
    ),
    "update_same_name": lambda n: (
        sa.update(u).where(u.c.id == sa.bindparam("id")),
        {"id": n, "t_id": n + 1},
    ),
    "update_expression": lambda n: (sa.update(u).where(u.c.id == n), {"n": u.c.n + n}),
    "update_override": lambda n: (sa.update(u).values(n=1).where(u.c.id == n), {"n": n}),
    "update_onupdate": lambda n: (sa.update(u).where(u.c.id == n), None),
    "select_bind": lambda n: (sa.select(t.c.id).where(t.c.id == sa.bindparam("x")), {"x": n}),
    "select_list": lambda n: (
        sa.select(t.c.id).where(t.c.id.in_(sa.bindparam("x", expanding=True))),
        {"x": list(range(n))},
    ),
    "select_set": lambda n: (
        sa.select(t.c.id).where(t.c.id.in_(sa.bindparam("x", expanding=True))),
        {"x": {n}},
    ),
    "select_default": lambda n: (sa.select(t.c.id).where(t.c.id == sa.bindparam("x", 4)), None),
    "delete_bind": lambda n: (sa.delete(t).where(t.c.id == sa.bindparam("x")), {"x": n}),
    "text_bind": lambda n: (sa.text("SELECT :x"), {"x": n}),
}


@pytest.mark.parametrize("shape", sorted(SELF_SERVICE))
def test_values_bind_alike_cached_and_uncached(module: Any, dialect: str, shape: str) -> None:
    cache = module.QueryCache(make_compiler(dialect))
    make = SELF_SERVICE[shape]
    kept = {n: make(n) for n in (1, 2, 3)}
    for n in (1, 2, 3, 2, 1):
        fresh = make_compiler(dialect)
        adapted = fresh.adapt(*make(n))
        variant, args, given = fresh.compile_expression(adapted.query, adapted.keys).arguments(
            adapted.values, None, None
        )
        for query, values in (make(n), kept[n], kept[n]):
            plan, cached_args, cached_given = cache.prepare(query, values)
            assert plan.sql == variant.parts.sql
            assert cached_args == args
            assert cached_given == given
            assert plan.key_sources == variant.parts.key_sources


def test_defaults_are_called_for_each_execution(module: Any) -> None:
    calls = iter(range(100))
    table = sa.Table(
        "d",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("a", sa.Integer, default=lambda: next(calls)),
        sa.Column("b", sa.Integer, default=lambda c: c.get_current_parameters()["a"] + 10),
        sa.Column("c", sa.Integer, default=sa.func.abs(-1)),
    )
    cache = module.QueryCache(make_compiler("sqlite"))
    query = sa.insert(table)
    assert cache.prepare(query)[1] == (0, 10, -1) or cache.prepare(query)[0].sql.count("?") == 3
    first = cache.prepare(query)[1]
    second = cache.prepare(query)[1]
    assert second[0] == first[0] + 1
    assert second[1] == second[0] + 10


def test_defaults_see_the_values_so_far(module: Any, dialect: str) -> None:
    seen: list[Any] = []

    def look(context: Any) -> int:
        parameters = context.current_parameters
        seen.append(
            (context.current_column.name, dict(parameters), context.isinsert, context.isupdate)
        )
        assert context.get_current_parameters() == parameters
        assert context.dialect.name == dialect
        return 5

    table = sa.Table(
        "d",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("a", sa.Integer, default=lambda: 3),
        sa.Column("b", sa.Integer, default=look, onupdate=look),
        sa.Column("c", sa.Integer, default=4),
        sa.Column("d", sa.Integer),
    )
    cache = module.QueryCache(make_compiler(dialect))
    for d in (1, 2):
        seen.clear()
        assert sorted(cache.prepare(sa.insert(table), {"d": d})[1]) == sorted((d, 3, 5, 4))
        ((name, parameters, isinsert, isupdate),) = seen
        assert (name, isinsert, isupdate) == ("b", True, False)
        assert (parameters["a"], parameters["b"], parameters["d"]) == (3, None, d)
        seen.clear()
        args = cache.prepare(sa.update(table).where(table.c.id == 7), {"d": d})[1]
        assert sorted(args) == sorted((d, 5, 7))
        assert [each[0] for each in seen] == ["b"]
        assert (seen[0][2], seen[0][3]) == (False, True)


def test_a_default_may_change_other_values(cache: Any) -> None:
    def change(context: Any) -> int:
        context.current_parameters["a"] = 9
        return 5

    table = sa.Table(
        "d",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("a", sa.Integer),
        sa.Column("b", sa.Integer, default=change),
        sa.Column("c", sa.Integer, default=lambda context: context.current_parameters["b"] + 1),
        sa.Column("d", sa.Integer, default=8),
    )
    for a in (1, 2):
        plan, args, _ = cache.prepare(sa.insert(table), {"a": a})
        assert args == (9, 5, 6, 8)
        assert plan.sql == "INSERT INTO d (a, b, c, d) VALUES (?, ?, ?, ?)"


def test_a_default_may_leave_the_key_to_the_server(cache: Any) -> None:
    calls = []
    table = sa.Table(
        "d",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, default=lambda: calls.append(1)),
    )
    for number in (1, 2):
        plan, args, given = cache.prepare(sa.insert(table))
        assert args == (None,)
        assert given == (MISSING,)
        assert plan.key_sources != (("given",),)
        assert len(calls) == number


# -- values that take a short way in the compiled form


class Text(str):
    pass


class Moment(datetime.datetime):
    pass


UTC = datetime.UTC
ODD_VALUES: dict[str, list[Any]] = {
    "flag": [True, False, None, 1, 0, 2, "x", 1.0, [], object()],
    "ratio": [1.5, 3, None, True, decimal.Decimal("1.25"), "2.5", "x", b"1", [], float("inf")],
    "amount": [1.5, 3, None, decimal.Decimal("1.25"), "2.5", "x"],
    "at": [
        datetime.datetime(1, 1, 1),
        datetime.datetime(9999, 12, 31, 23, 59, 59, 999999),
        datetime.datetime(2020, 1, 2, 3, 4, 5, 67, tzinfo=UTC),
        Moment(2020, 1, 2),
        datetime.date(2020, 1, 2),
        None,
        "2020-01-01",
        5,
    ],
    "day": [
        datetime.date(1, 1, 1),
        datetime.date(2020, 10, 20),
        datetime.datetime(2020, 1, 2, 3),
        Moment(2020, 1, 2),
        None,
        "x",
    ],
    "clock": [
        datetime.time(),
        datetime.time(23, 59, 58, 1, tzinfo=UTC),
        datetime.datetime(2020, 1, 2, 3),
        None,
        "x",
    ],
    "short": [datetime.datetime(2020, 1, 2, 3, 4, 5, 67), None, "x"],
    "name": ["x", Text("y"), None, 5, b"x"],
    "id": [1, True, None, "x", 10**30],
}
odd = sa.Table(
    "odd",
    sa.MetaData(),
    sa.Column("id", sa.Integer),
    sa.Column("name", sa.String(5)),
    sa.Column("flag", sa.Boolean),
    sa.Column("ratio", sa.Float),
    sa.Column("amount", sa.Numeric(10, 2)),
    sa.Column("at", sa.DateTime),
    sa.Column("day", sa.Date),
    sa.Column("clock", sa.Time),
    sa.Column(
        "short", sa.DateTime().with_variant(SQLiteDateTime(storage_format="%(year)d"), "sqlite")
    ),
)


def answer(function: Any) -> Any:
    try:
        found = function()
    except Exception as exc:
        return type(exc), str(exc)
    return [(type(each), each) for each in found]


@pytest.mark.parametrize("column", sorted(ODD_VALUES))
def test_odd_values_are_processed_as_sqlalchemy_does(
    module: Any, dialect: str, column: str
) -> None:
    made = DIALECTS[dialect][0]()
    processor = odd.c[column].type.dialect_impl(made).bind_processor(made)
    cache = module.QueryCache(make_compiler(dialect))
    queries = (
        (sa.insert(odd), lambda value: {column: value}),
        (sa.select(odd).where(odd.c[column] == sa.bindparam("v")), lambda value: {"v": value}),
        (
            sa.select(odd).where(odd.c[column].in_(sa.bindparam("v", expanding=True))),
            lambda value: {"v": [value]},
        ),
    )
    for value in ODD_VALUES[column]:
        expected = answer(lambda value=value: [value if processor is None else processor(value)])
        for query, values in queries:
            for _ in range(2):
                found = answer(lambda v=value, q=query, w=values: cache.prepare(q, w(v))[1])
                if isinstance(expected, tuple):
                    assert found[0] is DataError
                    assert found[1].endswith(expected[1])
                else:
                    assert found == expected
            found = answer(
                lambda v=value: next(cache.prepare_many(sa.insert(odd), [{column: v}] * 2, 9))[1][1]
            )
            assert (found[0] is DataError) if isinstance(expected, tuple) else found == expected


class Opposite(sa.Boolean):
    def bind_processor(self, dialect: Any) -> Any:
        return lambda value: None if value is None else int(not value)


class Lenient(sa.Boolean):
    def _strict_as_bool(self, value: Any) -> Any:
        return bool(value)


def test_subclasses_of_types_process_values_in_their_own_way(cache: Any) -> None:
    for _ in range(2):
        query = sa.select(sa.literal(True, Opposite()), sa.literal(False, Opposite()))
        assert cache.prepare(query)[1] == (0, 1)
        query = sa.select(sa.literal("yes", Lenient()), sa.literal(None, Lenient()))
        assert cache.prepare(query)[1] == (1, 0)


def test_text_on_sqlite_writes_subclasses_as_they_are(cache: Any) -> None:
    values = [Text("x"), True, 5, 1.5, b"x", None, datetime.datetime(1, 2, 3, tzinfo=UTC)]
    args = cache.prepare(
        "SELECT :a, :b, :c, :d, :e, :f, :g", dict(zip("abcdefg", values, strict=True))
    )[1]
    assert args == ("x", True, 5, 1.5, b"x", None, "0001-02-03 00:00:00.000000")
    assert [type(each) for each in args[:2]] == [Text, bool]


@pytest.mark.parametrize("kind", [tuple, set, iter])
def test_lists_may_be_any_iterable(cache: Any, kind: Any) -> None:
    query = sa.select(t.c.id).where(
        t.c.id.in_(sa.bindparam("a", expanding=True)), t.c.name.in_(["x", "y"])
    )
    assert cache.prepare(query, {"a": kind([1, 2, 3])})[1] == (1, 2, 3, "x", "y")


def test_lists_of_many_lengths_are_forgotten_again(cache: Any) -> None:
    query = sa.select(t.c.id).where(t.c.id.in_(sa.bindparam("a", expanding=True)))
    for size in (*range(200), *range(200)):
        plan, args, _ = cache.prepare(query, {"a": list(range(size))})
        assert args == tuple(range(size))
        assert plan.sql.count("?") == size


def test_a_client_made_key_is_given(cache: Any) -> None:
    table = sa.Table(
        "k",
        sa.MetaData(),
        sa.Column("id", sa.Uuid, primary_key=True, default=lambda: uuid.UUID(int=5)),
    )
    plan, args, given = cache.prepare(sa.insert(table))
    assert given == (uuid.UUID(int=5),)
    assert args == (uuid.UUID(int=5).hex,)
    assert plan.key_sources == (("given",),)


def test_a_null_key_asks_for_a_generated_one(cache: Any) -> None:
    plan, args, given = cache.prepare(sa.insert(u), {"id": None, "t_id": 1})
    assert given == (MISSING,)
    assert plan.key_sources == (("lastrowid",),)
    assert args[0] is None
    assert cache.prepare(sa.insert(u), {"id": 4, "t_id": 1})[0].key_sources == (("given",),)


# -- SQL text


def test_text_is_rendered_and_bound(module: Any) -> None:
    for dialect, expected in (
        ("sqlite", ("SELECT ?, ?, ?", (1, 2, 1))),
        ("postgresql", ("SELECT $1, $2, $1", (1, 2))),
        ("mysql", ("SELECT %s, %s, %s", (1, 2, 1))),
    ):
        cache = module.QueryCache(make_compiler(dialect))
        for _ in range(2):
            plan, args, given = cache.prepare("SELECT :a, :b, :a", {"a": 1, "b": 2})
            assert (plan.sql, args) == expected
            assert given is None
            assert plan.kind == "select"
            assert not plan.is_expression


def test_text_on_sqlite_takes_what_sqlite3_does_not_know(cache: Any) -> None:
    at = datetime.datetime(2020, 1, 2, 3, 4, 5)
    values = {
        "a": at,
        "b": at.date(),
        "c": at.time(),
        "d": datetime.timedelta(days=1),
        "e": decimal.Decimal("1.5"),
        "f": uuid.UUID(int=1),
    }
    args = cache.prepare("SELECT :a, :b, :c, :d, :e, :f", values)[1]
    assert args == (
        "2020-01-02 03:04:05.000000",
        "2020-01-02",
        "03:04:05.000000",
        "1970-01-02 00:00:00.000000",
        1.5,
        "0" * 31 + "1",
    )


# -- mistakes

WRONG: list[tuple[Any, Any, type[Exception], str]] = [
    (None, None, EmptyQueryError, "the query is None"),
    ("", None, EmptyQueryError, "the query is empty"),
    (" \n-- :x\n/* y */;", None, EmptyQueryError, "the query is empty"),
    (5, None, QueryTypeError, "not 'int'"),
    (b"SELECT 1", None, QueryTypeError, "not 'bytes'"),
    (t, None, QueryTypeError, "not 'Table'"),
    (t.c.id, None, QueryTypeError, "not 'Column'"),
    (
        "SELECT :id",
        None,
        MissingParameterError,
        "parameter 'id' has no value; the query takes 'id'",
    ),
    (
        "SELECT :id, :b",
        {"id": 1},
        MissingParameterError,
        "'b' has no value; the query takes 'id', 'b'",
    ),
    (
        "SELECT :id",
        {"id": 1, "x": 2},
        UnknownParameterError,
        "no parameter 'x'; the query takes 'id'",
    ),
    ("SELECT 1", {"x": 2}, UnknownParameterError, "the query takes no parameters"),
    ("SELECT :id", [1], QueryTypeError, "must be a mapping"),
    ("SELECT :id", "id", QueryTypeError, "must be a mapping"),
    (sa.insert(t), [{"name": "x"}], QueryTypeError, "execute_many"),
    (sa.insert(t), {"nme": "x"}, UnknownParameterError, "no parameter 'nme'"),
    (sa.insert(t), {"nme": sa.func.now()}, UnknownParameterError, "no parameter 'nme'"),
    (sa.insert(t), {5: "x"}, QueryTypeError, "names or columns"),
    (sa.update(t).where(t.c.id == 1), None, MissingParameterError, "sets no column"),
    (
        sa.update(t).where(t.c.id == sa.bindparam("i")),
        {"name": "x"},
        MissingParameterError,
        "'i' has no value",
    ),
    (
        sa.select(t).where(t.c.id == sa.bindparam("i")),
        None,
        MissingParameterError,
        "'i' has no value",
    ),
    (sa.select(t).where(t.c.id == 5), {"id": 1}, UnknownParameterError, "no parameter 'id'"),
    (sa.select(t).where(t.c.id == 5), {"id_1": 1}, UnknownParameterError, "no parameter 'id_1'"),
    (sa.text("SELECT :a"), {"b": 1}, MissingParameterError, "'a' has no value"),
    (
        sa.select(t).where(t.c.id.in_(sa.bindparam("i", expanding=True))),
        {"i": 5},
        QueryTypeError,
        "takes a list",
    ),
    (sa.select(t).where(t.c.color == sa.bindparam("c", 5, t.c.color.type)), None, DataError, "'c'"),
    (sa.insert(t), {"color": 5}, DataError, "'color'"),
    (sa.insert(t), {"at": "yesterday"}, DataError, "'at'"),
    (sa.insert(t), {"data": {1, 2}}, DataError, "'data'"),
    (sa.insert(t).values([{"name": "x"}]), {"id": 1}, ProgrammingError, "cannot be compiled"),
    (sa.select(sa.literal("x", Grumpy)), None, LookupError, "the user's own"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_mistakes_are_named(cache: Any, case: int) -> None:
    query, values, error, message = WRONG[case]
    for _ in range(2):
        with pytest.raises(error, match=message.replace("(", r"\(")):
            cache.prepare(query, values)


def test_both_forms_say_the_same(module: Any) -> None:
    messages = []
    for each in (module, importlib.import_module("fastdb._fallback.query_cache")):
        said = []
        for query, values, _, _ in WRONG:
            try:
                each.QueryCache(make_compiler("sqlite")).prepare(query, values)
            except Exception as exc:
                said.append((type(exc), str(exc)))
        messages.append(said)
    assert len(messages[0]) == len(WRONG)
    assert messages[0] == messages[1]


# -- many rows


def test_rows_of_the_same_keys_form_batches(module: Any, dialect: str) -> None:
    cache = module.QueryCache(make_compiler(dialect))
    rows = [{"t_id": 1, "n": 1}, {"n": 2, "t_id": 2}, {"id": 3}, {"id": 4}, {"t_id": 5, "n": 5}]
    batches = list(cache.prepare_many(sa.insert(u), rows, 100))
    assert [len(args) for _, args in batches] == [2, 2, 1]
    assert batches[0][1] == [(1, 1, 70), (2, 2, 70)]
    assert batches[1][1] == [(3, 7, 70), (4, 7, 70)]
    assert not any(plan.implicit_returning for plan, _ in batches)
    assert [len(args) for _, args in cache.prepare_many(sa.insert(u), rows[:2] * 5, 4)] == [4, 4, 2]
    text = list(
        cache.prepare_many("INSERT INTO u (n) VALUES (:n)", ({"n": i} for i in range(3)), 2)
    )
    assert [args for _, args in text] == [[(0,), (1,)], [(2,)]]
    assert list(cache.prepare_many(sa.insert(u), [], 10)) == []


def test_rows_are_not_read_ahead(cache: Any) -> None:
    read = []

    def rows() -> Any:
        for number in range(10):
            read.append(number)
            yield {"t_id": number}

    batches = cache.prepare_many(sa.insert(u), rows(), 2)
    assert read == []
    next(batches)
    assert len(read) <= 3


def test_rows_may_hold_expressions(cache: Any) -> None:
    rows = [{"t_id": 1}, {"t_id": sa.func.abs(-2)}, {"t_id": 3}]
    batches = list(cache.prepare_many(sa.insert(u), rows, 10))
    assert [len(args) for _, args in batches] == [1, 1, 1]
    assert "abs" in batches[1][0].sql


MANY: dict[str, tuple[Any, list[Any]]] = {
    "other_order": (sa.insert(u), [{"t_id": 1, "n": 2}, {"n": 3, "t_id": 4}]),
    "other_names": (sa.insert(u), [{"t_id": 1, "n": 2}, {"id": 3, "n": 4}, {"n": 1, "t_id": 5}]),
    "more_names": (sa.insert(u), [{"t_id": 1}, {"t_id": 2, "n": 3}, {"t_id": 4}]),
    "no_names": (sa.insert(u), [{}, {}, {"n": 1}]),
    "columns": (sa.insert(u), [{"n": 1}, {u.c.n: 2}, {"n": 3}]),
    "subclasses": (sa.insert(t), [{"name": "x"}, {"name": Text("y")}, {Text("name"): "z"}]),
    "expressions": (sa.insert(u), [{"n": 1}, {"n": sa.func.abs(2)}, {"n": u.c.n + 1}, {"n": 4}]),
    "own_values": (sa.insert(u).values(n=5), [{"t_id": 1}, {"t_id": 2}, {"n": 3}]),
    "where": (
        sa.update(u).where(u.c.id == sa.bindparam("which")),
        [{"which": 1, "n": 2}, {"which": 3, "n": 4}, {"which": 5, "t_id": 6}],
    ),
    "where_default": (
        sa.update(u).where(u.c.id == sa.bindparam("which", 9)),
        [{"n": 2}, {"n": 4, "which": 8}, {"n": 5}],
    ),
    "where_value": (sa.update(u).where(u.c.id == 3), [{"n": 2}, {"n": 4}]),
    "where_list": (
        sa.update(u).where(u.c.id.in_(sa.bindparam("ids", expanding=True))),
        [{"n": 1, "ids": [1]}, {"n": 2, "ids": [3]}, {"n": 4, "ids": [5, 6]}],
    ),
    "delete": (sa.delete(u).where(u.c.id == sa.bindparam("i")), [{"i": 1}, {"i": 2}]),
    "text": (sa.text("DELETE FROM u WHERE id = :i"), [{"i": 1}, {"i": 2}]),
    "types": (
        sa.insert(t),
        [{"color": each, "flag": True, "data": {"n": 1}} for each in (Color.RED, Color.BLUE, None)],
    ),
}


@pytest.mark.parametrize("case", sorted(MANY))
def test_many_rows_bind_as_each_alone(module: Any, dialect: str, case: str) -> None:
    query, rows = MANY[case]
    cache = module.QueryCache(make_compiler(dialect))
    together = [
        (plan.sql, args) for plan, batch in cache.prepare_many(query, rows, 100) for args in batch
    ]
    alone = []
    for row in rows:
        fresh = module.QueryCache(make_compiler(dialect))
        ((plan, batch),) = fresh.prepare_many(query, [row], 100)
        alone += [(plan.sql, args) for args in batch]
    assert together == alone
    assert cache.info().hits + cache.info().misses == len(rows)


def test_a_wrong_row_among_many_is_told(cache: Any) -> None:
    query = sa.update(u).where(u.c.id == sa.bindparam("which"))
    for row, error, message in (
        ({"n": 1}, MissingParameterError, "'which'"),
        ({"n": 1, "what": 1}, UnknownParameterError, "'what'"),
        ({"n": 1, "which": 1, "what": 1}, UnknownParameterError, "'what'"),
    ):
        with pytest.raises(error, match=message):
            list(cache.prepare_many(query, [{"n": 1, "which": 2}, row], 10))


@pytest.mark.parametrize("rows", [[5], [{"t_id": 1}, [1]]])
def test_a_row_that_is_no_mapping_is_named(cache: Any, rows: Any) -> None:
    with pytest.raises(QueryTypeError, match=f"row {len(rows) - 1} is"):
        list(cache.prepare_many(sa.insert(u), rows, 10))


# -- columns of the result


def test_records_are_read_by_the_columns_of_the_users_own_statement(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"))
    for _ in range(3):
        a, b = t.alias(), t.alias()
        label = t.c.name.label("foo")
        sub = sa.select(u.c.n).subquery()
        query = sa.select(a.c.id, b.c.id, t.c.id, label, sub.c.n, t.c.loud)
        plan, _, _ = cache.prepare(query)
        names = ("id", "id_1", "id_2", "foo", "n", "loud")
        record = plan.layout(names).record((1, 2, 3, "x", 5, "y"))
        assert record[a.c.id] == 1
        assert record[b.c.id] == 2
        assert record[t.c.id] == 3
        assert record[label] == "x"
        assert record[t.c.name] == "x"
        assert record[sub.c.n] == 5
        assert record[t.c.loud] == "y!"
        assert record[5] == "y!"
        with pytest.raises(KeyError):
            record[t.c.flag]
        with pytest.raises(KeyError):
            record[object()]
    assert cache.info().misses == 1


def test_mapped_attributes_and_text_columns_are_found(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"))
    plan, _, _ = cache.prepare(sa.select(User))
    record = plan.layout(("id", "name")).record((1, "x"))
    assert record[User.name] == "x"
    plan, _, _ = cache.prepare(sa.text("SELECT id, name FROM t"))
    record = plan.layout(("id", "name")).record((1, "x"))
    assert record[t.c.name] == "x"
    plan, _, _ = cache.prepare(sa.text("SELECT name, loud FROM t").columns(loud=Shout))
    record = plan.layout(("name", "loud")).record(("x", "y"))
    assert tuple(record) == ("x", "y!")
    assert record[t.c.loud] == "y!"


def test_a_layout_is_made_once_per_tuple_of_names(cache: Any) -> None:
    plan, _, _ = cache.prepare("SELECT 1 AS a")
    assert plan.layout(("a",)) is plan.layout(("a",))
    assert plan.layout(("b",)).names == ("b",)
    assert plan.layout(("a",)).names == ("a",)


# -- the cache as such


def test_it_counts_and_is_bounded(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"), maxsize=3)
    for number in range(5):
        cache.prepare(f"SELECT {number}")
    cache.prepare("SELECT 4")
    assert cache.info() == (1, 5, 2, 3, 3)
    assert cache.info()._fields == ("hits", "misses", "evictions", "maxsize", "currsize")
    cache.prepare("SELECT 2")
    cache.prepare("SELECT 9")
    cache.prepare("SELECT 2")
    assert cache.info().hits == 3, "the least recently used goes first"
    cache.clear()
    assert cache.info() == (0, 0, 0, 3, 0)


def test_it_may_be_off(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"), maxsize=0)
    query = sa.select(t.c.id)
    for _ in range(2):
        cache.prepare(query)
        cache.prepare("SELECT 1")
    assert cache.info() == (0, 4, 0, 0, 0)


@pytest.mark.parametrize("size", [-1, True, "5", None, 1.5])
def test_a_wrong_size_is_refused(module: Any, size: Any) -> None:
    with pytest.raises(OptionError, match="query cache"):
        module.QueryCache(make_compiler("sqlite"), size)


def test_it_does_not_keep_expressions_alive(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"))
    query = sa.insert(u).values([{"t_id": 1}, {"t_id": 2}])
    cache.prepare(query)
    cache.prepare(query)
    assert cache.info().hits == 1
    reference = weakref.ref(query)
    fresh = sa.select(t.c.id).where(t.c.id == 5)
    cache.prepare(sa.select(t.c.id).where(t.c.id == 4))
    cache.prepare(fresh)
    other = weakref.ref(fresh)
    del query, fresh
    gc.collect()
    assert other() is None
    assert reference() is None


def test_it_keeps_what_its_keys_name(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"))
    for number in range(50):
        table = sa.Table("same", sa.MetaData(), sa.Column(f"c{number}", sa.Integer))
        plan, _, _ = cache.prepare(sa.insert(table), {f"c{number}": number})
        assert plan.sql == f"INSERT INTO same (c{number}) VALUES (?)"
        plan, _, _ = cache.prepare(sa.select(table))
        assert f"c{number}" in plan.sql
        del table
        gc.collect()


def test_upserts(module: Any, dialect: str) -> None:
    cache = module.QueryCache(make_compiler(dialect))
    for n in (1, 2):
        insert = UPSERTS[dialect](u).values(t_id=n)
        if dialect == "mysql":
            query = insert.on_duplicate_key_update(n=insert.inserted.n + n)
            expected: Any = (("lastrowid",),)
        else:
            query = insert.on_conflict_do_update(
                index_elements=[u.c.id], set_={"n": insert.excluded.n + n}
            )
            expected = (("returning", 0),)
        plan, args, _ = cache.prepare(query)
        assert args == (n, 7, 70, n)
        assert plan.key_sources == expected
        assert plan.implicit_returning == (dialect != "mysql")


def test_plans_tell_what_they_are(module: Any) -> None:
    cache = module.QueryCache(make_compiler("postgresql"))
    plan, _, _ = cache.prepare(sa.insert(u), {"t_id": 1})
    assert (plan.verb, plan.kind, plan.returning) == ("INSERT", "insert", False)
    assert plan.implicit_returning
    assert plan.returns_rows
    plan, _, _ = cache.prepare(sa.insert(u).returning(u.c.n), {"t_id": 1})
    assert plan.returning
    assert not plan.implicit_returning
    assert plan.key_sources == (("none",),)
    plan, _, _ = cache.prepare(sa.schema.CreateTable(u))
    assert (plan.verb, plan.kind) == ("CREATE", "ddl")
    plan, _, _ = cache.prepare(sa.select(sa.func.set_config("a", "b", True)))
    assert plan.changes_session
    plan, _, _ = cache.prepare(sa.func.now())
    assert plan.kind == "select"
    assert "SELECT" in repr(plan)


# -- the walk of the compiled form, and its check


def test_the_check_of_a_walk_tells_what_is_wrong() -> None:
    def told(query: Any) -> Any:
        return str(query), sorted(query.compile().binds.values(), key=lambda bind: bind.key)

    assert check_walk(lambda query: None) == "an ordinary select() is not understood"
    assert "taken for different" in str(check_walk(lambda query: (id(query), [query])))
    assert "are not found" in str(check_walk(lambda query: ("same", [])))
    assert check_walk(told) is not None
    binds: Any = list(sa.bindparam(name, value) for name, value in (("a", 2), ("b", "y"), ("c", 2)))
    assert "taken for equal" in str(check_walk(lambda query: ("same", binds)))


def test_a_walk_that_fails_its_check_is_turned_off(
    module: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if hasattr(module, "check_walk"):
        monkeypatch.setattr(module, "check_walk", lambda walk: "all is different")
    cache = module.QueryCache(make_compiler("sqlite"))
    with caplog.at_level("WARNING", "fastdb"):
        for n in (1, 2, 3):
            assert cache.prepare(SHAPES["limit_offset"](n))[1] == (n, n + 1)
    assert cache.info().misses == 1
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (1 if hasattr(module, "check_walk") else 0)


def test_this_sqlalchemy_passes_the_check(module: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "fastdb"):
        module.QueryCache(make_compiler("sqlite")).prepare(SHAPES["by_key"](1))
    assert not caplog.records
