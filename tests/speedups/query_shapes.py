"""Expressions of every shape, what SQLAlchemy itself makes of them, and any number at random."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import random
import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from fastdb.compiler import Compiler
from fastdb.sql_text import Lexical

#: Equal to `String(5)` for SQLAlchemy's cache.
Text5 = sa.String(5).with_variant(sa.Text(), "sqlite", "postgresql", "mysql")


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
    # -- each of these differs from another one in a single detail
    "is_distinct": lambda n: sa.select(t.c.id).where(t.c.id.is_distinct_from(n)),
    "is_not_distinct": lambda n: sa.select(t.c.id).where(t.c.id.is_not_distinct_from(n)),
    "other_table": lambda n: sa.select(u).where(u.c.id == n),
    "other_column": lambda n: sa.select(t).where(t.c.ratio == n),
    "column_twice": lambda n: sa.select(t.c.id, t.c.id).where(t.c.id == n),
    "nested_and": lambda n: sa.select(t.c.id).where(
        sa.or_(t.c.flag, sa.and_(t.c.id == n, t.c.name == "x"))
    ),
    "nested_or": lambda n: sa.select(t.c.id).where(
        sa.and_(t.c.flag, sa.or_(t.c.id == n, t.c.name == "x"))
    ),
    "literal_string": lambda n: sa.select(sa.literal(str(n))),
    "literal_number": lambda n: sa.select(sa.literal(n)),
    "literal_ratio": lambda n: sa.select(sa.literal(n / 2)),
    "literal_moment": lambda n: sa.select(sa.literal(datetime.datetime(2020, 1, n))),
    "literal_day": lambda n: sa.select(sa.literal(datetime.date(2020, 1, n))),
    "literal_null": lambda n: sa.select(sa.literal(None, sa.Integer), sa.literal(n)),
    "literal_enum": lambda n: sa.select(sa.literal(Color.RED, sa.Enum(Color)), sa.literal(n)),
    "literal_enum_strings": lambda n: sa.select(
        sa.literal("RED", sa.Enum("RED", "BLUE", name="color")), sa.literal(n)
    ),
    "cast_numeric": lambda n: sa.select(sa.cast(t.c.id, sa.Numeric(10, 2))).where(t.c.id == n),
    "cast_numeric_scale": lambda n: sa.select(sa.cast(t.c.id, sa.Numeric(10, 3))).where(
        t.c.id == n
    ),
    "cast_numeric_float": lambda n: sa.select(
        sa.cast(t.c.id, sa.Numeric(10, 2, asdecimal=False))
    ).where(t.c.id == n),
    "cast_decorated": lambda n: sa.select(sa.cast(t.c.name, Shout(5))).where(t.c.id == n),
    "coerce_other": lambda n: sa.select(sa.type_coerce(t.c.name, sa.String)).where(t.c.id == n),
    "label_of_function": lambda n: sa.select(sa.func.max(t.c.id).label("a")).where(t.c.id < n),
    "label_of_function_other": lambda n: sa.select(sa.func.max(t.c.id).label("b")).where(
        t.c.id < n
    ),
    "function_other": lambda n: sa.select(sa.func.ifnull(t.c.name, f"d{n}")),
    "function_swapped": lambda n: sa.select(sa.func.coalesce(f"d{n}", t.c.name)),
    "function_packaged": lambda n: sa.select(sa.func.pack.foo(t.c.name)).where(t.c.id == n),
    "function_named": lambda n: sa.select(sa.func.foo(t.c.name)).where(t.c.id == n),
    "function_of_nothing": lambda n: sa.select(sa.func.now(), sa.literal(n)),
    "table_valued": lambda n: sa.select(
        sa.func.json_each(f"[{n}]").table_valued("key", "value", name="each")
    ),
    "table_valued_typed": lambda n: sa.select(
        sa.func.json_each(f"[{n}]").table_valued("key", sa.column("value", Shout), name="each")
    ),
    "within_group": lambda n: sa.select(sa.func.percentile_cont(0.5).within_group(t.c.ratio)).where(
        t.c.id > n
    ),
    "window_partition": lambda n: sa.select(
        sa.func.row_number().over(partition_by=t.c.id, order_by=t.c.name), t.c.id
    ).where(t.c.id > n),
    "window_range": lambda n: sa.select(
        sa.func.sum(t.c.id).over(order_by=t.c.id, range_=(-2, 0))
    ).where(t.c.id > n),
    "nulls_first": lambda n: sa.select(t.c.id).order_by(t.c.name.nulls_first()).where(t.c.id == n),
    "nulls_last": lambda n: sa.select(t.c.id).order_by(t.c.name.nulls_last()).where(t.c.id == n),
    "order_two": lambda n: sa.select(t.c.id).order_by(t.c.name, t.c.id).where(t.c.id == n),
    "order_two_swapped": lambda n: sa.select(t.c.id).order_by(t.c.id, t.c.name).where(t.c.id == n),
    "group_two": lambda n: sa.select(t.c.id).group_by(t.c.id, t.c.name).where(t.c.id == n),
    "suffix": lambda n: sa.select(t.c.id).suffix_with("/* end */").where(t.c.id == n),
    "prefix_of_dialect": lambda n: (
        sa.select(t.c.id).prefix_with("/* one */", dialect="sqlite").where(t.c.id == n)
    ),
    "hint": lambda n: sa.select(t.c.id).with_hint(t, "USE INDEX (x)", "mysql").where(t.c.id == n),
    "statement_hint": lambda n: sa.select(t.c.id).with_statement_hint("FOO").where(t.c.id == n),
    "select_from": lambda n: sa.select(sa.func.count()).select_from(t).where(t.c.id == n),
    "select_from_other": lambda n: sa.select(sa.func.count()).select_from(u).where(u.c.id == n),
    "full_join": lambda n: (
        sa.select(t.c.id).select_from(t.outerjoin(u, u.c.t_id == t.c.id)).where(u.c.n == n)
    ),
    "inner_join": lambda n: (
        sa.select(t.c.id).select_from(t.join(u, u.c.t_id == t.c.id)).where(u.c.n == n)
    ),
    "join_by_key": lambda n: sa.select(t.c.id).join_from(t, u).where(u.c.n == n),
    "self_join": lambda n: (
        lambda a, b: sa.select(a.c.id, b.c.id).join_from(a, b, a.c.id == b.c.id).where(b.c.id == n)
    )(t.alias("a"), t.alias("b")),
    "self_join_swapped": lambda n: (
        lambda a, b: sa.select(b.c.id, a.c.id).join_from(a, b, a.c.id == b.c.id).where(a.c.id == n)
    )(t.alias("a"), t.alias("b")),
    "alias_named": lambda n: (lambda a: sa.select(a.c.id).where(a.c.id == n))(t.alias("one")),
    "alias_named_other": lambda n: (lambda a: sa.select(a.c.id).where(a.c.id == n))(t.alias("two")),
    "cte_named": lambda n: sa.select(sa.select(t.c.id).where(t.c.id == n).cte("d").c.id),
    "cte_twice": lambda n: (lambda c: sa.select(c.c.id, c.alias("again").c.id))(
        sa.select(t.c.id).where(t.c.id == n).cte("c")
    ),
    "cte_nested": lambda n: sa.select(
        sa.select(t.c.id).where(t.c.id == n).cte("c", nesting=True).c.id
    ),
    "add_cte": lambda n: sa.select(u.c.id).add_cte(sa.select(t.c.id).where(t.c.id == n).cte("c")),
    "intersect": lambda n: sa.intersect(
        sa.select(t.c.id).where(t.c.id == n), sa.select(u.c.id).where(u.c.id == n + 1)
    ),
    "except": lambda n: sa.except_(
        sa.select(t.c.id).where(t.c.id == n), sa.select(u.c.id).where(u.c.id == n + 1)
    ),
    "union_of_three": lambda n: sa.union(*[sa.select(t.c.id).where(t.c.id == n)] * 3),
    "union_limit": lambda n: sa.union(sa.select(t.c.id), sa.select(u.c.id)).limit(n),
    "any_subquery": lambda n: sa.select(t.c.id).where(
        t.c.id == sa.any_(sa.select(u.c.id).where(u.c.n == n).scalar_subquery())
    ),
    "all_subquery": lambda n: sa.select(t.c.id).where(
        t.c.id == sa.all_(sa.select(u.c.id).where(u.c.n == n).scalar_subquery())
    ),
    "fetch": lambda n: sa.select(t.c.id).order_by(t.c.id).fetch(n),
    "json_string": lambda n: sa.select(t.c.data["a"].as_integer()).where(t.c.id == n),
    "json_index": lambda n: sa.select(t.c.data[1].as_string()).where(t.c.id == n),
    "negative": lambda n: sa.select(-t.c.id).where(t.c.id == n),
    "divided": lambda n: sa.select(t.c.id / n),
    "floor_divided": lambda n: sa.select(t.c.id // n),
    "bitwise": lambda n: sa.select(t.c.id.bitwise_and(n)),
    "case_value": lambda n: sa.select(sa.case({n: "one", n + 1: "two"}, value=t.c.id)),
    "case_no_else": lambda n: sa.select(sa.case((t.c.id > n, "big"), (t.c.id == 0, "nil"))),
    "distinct_function": lambda n: sa.select(sa.func.count(sa.distinct(t.c.id))).where(t.c.id > n),
    "quoted_name": lambda n: sa.select(sa.column(sa.sql.quoted_name("a", True))).where(
        sa.column("b") == n
    ),
    "quoted_label": lambda n: sa.select(t.c.id.label(sa.sql.quoted_name("foo", True))).where(
        t.c.id == n
    ),
    "quoted_alias": lambda n: (lambda a: sa.select(a.c.id).where(a.c.id == n))(
        t.alias(sa.sql.quoted_name("one", True))
    ),
    "quoted_cte": lambda n: sa.select(
        sa.select(t.c.id).where(t.c.id == n).cte(sa.sql.quoted_name("c", True)).c.id
    ),
    "quoted_function": lambda n: sa.select(
        sa.Function(sa.sql.quoted_name("foo", True), t.c.name)
    ).where(t.c.id == n),
    "quoted_table": lambda n: (
        sa.select(sa.column("a"))
        .select_from(sa.table(sa.sql.quoted_name("z", True)))
        .where(sa.column("a") == n)
    ),
    "table_in_schema": lambda n: (
        sa.select(sa.column("a")).select_from(sa.table("z", schema="s")).where(sa.column("a") == n)
    ),
    "table_in_quoted_schema": lambda n: (
        sa.select(sa.column("a"))
        .select_from(sa.table("z", schema=sa.sql.quoted_name("s", True)))
        .where(sa.column("a") == n)
    ),
    "plain_name": lambda n: sa.select(sa.column("a")).where(sa.column("b") == n),
    "literal_bind": lambda n: sa.select(sa.column("a", is_literal=True)).where(sa.column("b") == n),
    "named_bind": lambda n: sa.select(t.c.id).where(t.c.id == sa.bindparam("y", n)),
    "named_bind_other": lambda n: sa.select(t.c.id).where(t.c.id == sa.bindparam("z", n)),
    "unique_bind": lambda n: sa.select(t.c.id).where(
        t.c.id == sa.bindparam("y", n, unique=True), t.c.id > sa.bindparam("y", n + 1, unique=True)
    ),
    "one_name_two_values": lambda n: (
        sa.update(t)
        .where(t.c.id == sa.bindparam("y", n))
        .values(name=sa.func.foo(sa.bindparam("y", n + 1)))
    ),
    "typed_bind": lambda n: sa.select(t.c.id).where(t.c.id == sa.bindparam("y", n, sa.Float)),
    "decorated_bind": lambda n: sa.select(t.c.id).where(
        t.c.name == sa.bindparam("y", f"{n}", Shout)
    ),
    "null_bind": lambda n: sa.select(t.c.id).where(
        t.c.id == sa.bindparam("y", None, sa.Integer), t.c.id < n
    ),
    "label_style": lambda n: (
        sa.select(t.c.id, u.c.id)
        .where(t.c.id == n)
        .set_label_style(sa.LABEL_STYLE_TABLENAME_PLUS_COL)
    ),
    "default_label_style": lambda n: sa.select(t.c.id, u.c.id).where(t.c.id == n),
    "translated_schema": lambda n: (
        sa.select(t.c.id)
        .where(t.c.id == n)
        .execution_options(schema_translate_map={None: "elsewhere"})
    ),
    "options": lambda n: sa.select(t.c.id).where(t.c.id == n).execution_options(mine=n),
    "update_two": lambda n: sa.update(t).where(t.c.id == n).values(name="x", ratio=n),
    "update_two_swapped": lambda n: sa.update(t).where(t.c.id == n).values(ratio=n, name="x"),
    "update_ordered": lambda n: (
        sa.update(t).where(t.c.id == n).ordered_values((t.c.ratio, n), (t.c.name, "x"))
    ),
    "update_null": lambda n: sa.update(t).where(t.c.id == n).values(name=None),
    "update_select": lambda n: (
        sa.update(t).where(t.c.id == n).values(ratio=sa.select(u.c.n).scalar_subquery())
    ),
    "delete_in": lambda n: sa.delete(t).where(t.c.id.in_([n, n + 1])),
    "deep": lambda n: sa.select(functools.reduce(lambda a, b: -(a + b), [t.c.id, *range(n + 90)])),
    "wide": lambda n: sa.select(*[(t.c.id + each).label(f"c{each}") for each in range(40 + n)]),
}


def oracle(statement: Any, dialect: str) -> tuple[str, tuple[Any, ...]]:
    """Return what SQLAlchemy itself makes of a statement, uncached."""
    made = DIALECTS[dialect][0]()
    schemas = statement.get_execution_options().get("schema_translate_map")
    options = {"schema_translate_map": schemas, "render_schema_translate": True} if schemas else {}
    compiled = statement.compile(dialect=made, **options)
    parameters = compiled.construct_params(escape_names=False)
    state = compiled._process_parameters_for_postcompile(dict(parameters))
    processors = {**compiled._bind_processors, **state.processors}
    args = []
    for name in state.positiontup:
        value = state.parameters[name]
        processor = processors.get(name)
        args.append(value if processor is None else processor(value))
    return state.statement, tuple(args)


# -- any expressions, in which much differs in one detail only

TYPES = [
    *(sa.Integer(), sa.String(), sa.String(5), sa.String(6), sa.Text(), sa.Numeric(10, 2)),
    *(sa.Numeric(10, 3), sa.Numeric(asdecimal=False), sa.Float(), sa.Boolean(), sa.DateTime()),
    *(sa.DateTime(timezone=True), Shout(), Shout(5), Text5, sa.JSON(), sa.Enum(Color)),
    *(sa.Enum("RED", "BLUE", name="other"), sa.LargeBinary()),
]
NAMES = ["a", "b", sa.sql.quoted_name("a", True), sa.sql.quoted_name("b", False)]
VALUES = [0, 1, 2, "a", "%", True, False, 1.5, None, datetime.date(2020, 1, 2)]


class Maker:
    """Make expressions at random; makers of the same seed make equal ones."""

    def __init__(self, seed: object) -> None:
        self._random = random.Random(str(seed))

    def pick(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def some(self, make: Any, most: int) -> list[Any]:
        return [make() for _ in range(self._random.randint(1, most))]

    def chance(self) -> bool:
        return self._random.random() < 0.3

    def column(self) -> Any:
        make = self.pick(
            lambda: self.pick(*t.c, *u.c),
            lambda: sa.column(self.pick(*NAMES), self.pick(*TYPES)),
            lambda: sa.literal_column(self.pick("1", "a", "'%'"), self.pick(*TYPES)),
        )
        return make()

    def bind(self) -> Any:
        make = self.pick(
            lambda: sa.literal(self.pick(*VALUES)),
            lambda: sa.bindparam(self.pick(*NAMES), self.pick(1, 2), sa.Integer),
            lambda: sa.bindparam(None, "x", sa.String, unique=True),
        )
        return make()

    def term(self, depth: int = 2) -> Any:
        if not depth or self.chance():
            return self.pick(self.column, self.bind)()
        inner = functools.partial(self.term, depth - 1)
        make = self.pick(
            lambda: inner() + inner(),
            lambda: inner().op("&")(inner()),
            lambda: inner().op("|", precedence=self.pick(0, 9))(inner()),
            lambda: getattr(sa.func, self.pick("max", "foo"))(inner()),
            lambda: sa.func.coalesce(inner(), inner()),
            lambda: sa.func.foo(inner(), type_=self.pick(*TYPES)),
            lambda: sa.cast(inner(), self.pick(*TYPES)),
            lambda: sa.type_coerce(inner(), self.pick(*TYPES)),
            lambda: sa.collate(inner(), self.pick("x", "y")),
            lambda: sa.case((self.condition(depth - 1), inner()), else_=inner()),
            lambda: sa.func.sum(inner()).over(partition_by=self.column(), order_by=self.column()),
            lambda: sa.select(inner()).scalar_subquery(),
        )
        return make()

    def condition(self, depth: int = 2) -> Any:
        if depth and self.chance():
            parts = [self.condition(depth - 1), self.condition(depth - 1)]
            return self.pick(sa.and_, sa.or_, lambda one, _: sa.not_(one))(*parts)
        make = self.pick(
            lambda: self.term(depth) == self.term(depth),
            lambda: self.term(depth) < self.term(depth),
            lambda: self.term(depth).is_(None),
            lambda: self.column().in_(self.pick([], [1], [2, 3])),
            lambda: self.column().not_in(self.pick([1], sa.select(u.c.id))),
            lambda: self.column().like(self.pick("x%", "y%"), escape=self.pick(None, "/")),
            lambda: self.column().between(self.pick(1, 2), 5),
            lambda: sa.exists().where(self.column() == u.c.id),
        )
        return make()

    def select(self) -> Any:
        found = self.some(
            self.pick(self.column, self.term, lambda: self.term().label(self.pick(*NAMES))), 3
        )
        query = sa.select(*found)
        if self.chance():
            query = query.select_from(self.pick(t, u, t.join(u), t.outerjoin(u), t.alias()))
        if not self.chance():
            query = query.where(*self.some(self.condition, 2))
        if self.chance():
            query = query.group_by(*self.some(self.column, 2)).having(self.condition())
        if self.chance():
            query = query.order_by(
                *self.some(lambda: self.pick(sa.asc, sa.desc, sa.nulls_last)(self.column()), 2)
            )
        if self.chance():
            query = query.limit(self.pick(1, 2))
        if self.chance():
            query = query.offset(self.pick(1, 2))
        if self.chance():
            query = query.distinct()
        if self.chance():
            query = query.with_for_update(nowait=self.pick(True, False), of=self.pick(None, t))
        if self.chance():
            query = query.prefix_with(self.pick("/* a */", "/* b */"))
        return query

    def statement(self) -> Any:
        make = self.pick(
            self.select,
            self.select,
            lambda: self.pick(sa.union, sa.union_all)(self.select(), self.select()),
            lambda: sa.select(self.select().subquery(self.pick(None, *NAMES))),
            lambda: sa.select(self.select().cte(self.pick(None, *NAMES))),
            lambda: sa.update(t).where(self.condition()).values(name=self.term()),
            lambda: sa.delete(u).where(self.condition()),
        )
        return make()
