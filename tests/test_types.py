"""Types of SQLAlchemy, their bind and result processors, on each server."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

import fastdb


class Color(enum.Enum):
    RED = "red paint"
    BLUE = "blue paint"


class Reversed(sa.TypeDecorator[str]):
    """Store strings backwards."""

    impl = sa.String(100)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value[::-1]

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value[::-1]


class Point:
    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    __hash__ = None  # type: ignore[assignment]


class PointType(sa.TypeDecorator[Point]):
    """Store points as JSON, NULL as a point of its own."""

    impl = sa.JSON
    cache_ok = True

    def process_bind_param(self, value: Point | None, dialect: Any) -> Any:
        return None if value is None else [value.x, value.y]

    def process_result_value(self, value: Any, dialect: Any) -> Point:
        return Point(0, 0) if value is None else Point(*value)


NOW = datetime.datetime(2026, 2, 3, 4, 5, 6, 789012)
DAY = datetime.timedelta(days=3, hours=4, minutes=5, seconds=6, microseconds=7000)
UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")

CASES: dict[str, tuple[sa.types.TypeEngine[Any], list[Any]]] = {
    "integer": (sa.Integer(), [0, -5, 2**31 - 1]),
    "bigint": (sa.BigInteger(), [2**63 - 1, -(2**63)]),
    "smallint": (sa.SmallInteger(), [-(2**15)]),
    "boolean": (sa.Boolean(), [True, False]),
    "string": (sa.String(100), ["", "a'b\"c\\d%e:f?g", "Grüße 🎉", "x" * 100]),
    "text": (sa.Text(), ["line\nline", "y" * 10_000]),
    "float": (sa.Float(53), [0.0, 1.5, -2.25e10]),
    "numeric": (sa.Numeric(20, 4), [decimal.Decimal("12345.6789"), decimal.Decimal("-0.0001")]),
    "numeric as float": (sa.Numeric(10, 2, asdecimal=False), [1.25]),
    "date": (sa.Date(), [datetime.date(2026, 2, 3)]),
    "datetime": (sa.DateTime(), [NOW.replace(microsecond=0)]),
    "time": (sa.Time(), [datetime.time(4, 5, 6)]),
    "interval": (sa.Interval(second_precision=6), [DAY.__class__(days=3, hours=4, seconds=6)]),
    "enum by name": (sa.Enum(Color, name="color_name"), [Color.RED, Color.BLUE]),
    "enum by value": (
        sa.Enum(Color, name="color_value", values_callable=lambda e: [m.value for m in e]),
        [Color.RED, Color.BLUE],
    ),
    "enum of strings": (sa.Enum("a", "b", name="letters"), ["a", "b"]),
    "enum without a native type": (
        sa.Enum(Color, name="color_plain", native_enum=False),
        [Color.RED],
    ),
    "json": (sa.JSON(), [{"a": [1, 2.5, None, "x"], "b": {"c": True}}, [], "text", 7, False]),
    "binary": (sa.LargeBinary(), [b"", b"\x00\xff'\\%", bytes(range(256))]),
    "uuid": (sa.Uuid(), [UUID]),
    "uuid as string": (sa.Uuid(as_uuid=False), [str(UUID)]),
    "decorated": (Reversed(), ["abc", ""]),
    "decorated json": (PointType(), [Point(3, 4)]),
    "pickle": (sa.PickleType(), [{"any": (1, 2)}]),
    "variant": (sa.String(50).with_variant(sa.Text(), "sqlite"), ["v"]),
}


async def table_of(database: fastdb.Database, kind: sa.types.TypeEngine[Any]) -> sa.Table:
    table = sa.Table(
        "things", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("v", kind)
    )
    if database.url.dialect == "postgresql":
        item = getattr(kind, "item_type", kind)
        if isinstance(item, sa.Enum) and item.native_enum:
            values = ", ".join(f"'{value}'" for value in item.enums)
            await database.execute(f"CREATE TYPE {item.name} AS ENUM ({values})")
    await database.execute(sa.schema.CreateTable(table))
    return table


@pytest.mark.parametrize("case", CASES)
async def test_round_trip(database: fastdb.Database, case: str) -> None:
    kind, values = CASES[case]
    table = await table_of(database, kind)
    null = Point(0, 0) if case == "decorated json" else None
    for number, value in enumerate([*values, None], 1):
        expected = null if value is None else value
        assert await database.execute(table.insert(), {"id": number, "v": value}) == number
        query = table.select().where(table.c.id == number)
        row = await database.fetch_one(query)
        assert row is not None
        assert row.v == expected
        assert isinstance(row.v, type(expected))
        assert row["v"] == row[1] == row._mapping["v"] == row[table.c.v] == expected
        assert tuple(row) == tuple(row.values()) == (number, expected)
        assert (await database.fetch_val(query, column="v")) == expected
        if value is not None and case not in ("json", "decorated json", "float", "pickle"):
            found = await database.fetch_val(sa.select(table.c.id).where(table.c.v == value))
            assert found == number
    await database.execute_many(
        table.insert(), [{"id": n, "v": value} for n, value in enumerate(values, 100)]
    )
    rows = [
        row.v
        async for row in database.iterate(
            table.select().where(table.c.id >= 100).order_by(table.c.id)
        )
    ]
    assert rows == values
    if len(values) > 1 and case not in ("json", "decorated json", "float", "pickle"):
        query = sa.select(sa.func.count()).where(table.c.v.in_(values))
        assert await database.fetch_val(query) == 2 * len(values)


async def test_microseconds(database: fastdb.Database) -> None:
    from sqlalchemy.dialects import mysql

    kind = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    table = await table_of(database, kind)
    await database.execute(table.insert(), {"v": NOW})
    assert await database.fetch_val(sa.select(table.c.v)) == NOW
    assert await database.fetch_val(sa.select(table.c.v).where(table.c.v == NOW)) == NOW


async def test_text_columns_convert_raw_sql(database: fastdb.Database) -> None:
    table = await table_of(database, sa.JSON())
    await database.execute(table.insert(), {"v": {"a": 1}})
    raw = await database.fetch_val("SELECT v FROM things")
    assert json.loads(raw) == {"a": 1}
    query = sa.text("SELECT v FROM things").columns(v=sa.JSON())
    assert await database.fetch_val(query) == {"a": 1}
    row = await database.fetch_one(sa.text("SELECT id, v FROM things").columns(v=sa.JSON()))
    assert row is not None
    assert (row.id, row.v) == (1, {"a": 1})


async def test_json_paths(database: fastdb.Database) -> None:
    table = await table_of(database, sa.JSON())
    await database.execute(table.insert(), {"v": {"a": {"b": 5}, "s": "text"}})
    query = sa.select(table.c.v["a"]["b"].as_integer(), table.c.v["s"].as_string())
    row = await database.fetch_one(query)
    assert row is not None
    assert tuple(row) == (5, "text")


async def test_exceptions_of_a_type_pass_unchanged(database: fastdb.Database) -> None:
    class Refusing(sa.TypeDecorator[str]):
        impl = sa.String(100)
        cache_ok = True

        def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
            if value == "bad bind":
                raise ZeroDivisionError
            return value

        def process_result_value(self, value: str | None, dialect: Any) -> str | None:
            if value == "bad result":
                raise ZeroDivisionError
            return value

    table = await table_of(database, Refusing())
    with pytest.raises(ZeroDivisionError):
        await database.execute(table.insert(), {"v": "bad bind"})
    await database.execute(table.insert(), {"v": "bad result"})
    with pytest.raises(ZeroDivisionError):
        await database.fetch_all(table.select())
    with pytest.raises(ZeroDivisionError):
        async for _ in database.iterate(table.select()):
            pass
    await asyncio_settle(database)
    assert await database.fetch_val("SELECT 1") == 1


async def asyncio_settle(database: fastdb.Database) -> None:
    import asyncio

    for _ in range(50):
        if not database.pool.stats().leased:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a connection is still leased")


async def test_defaults(database: fastdb.Database) -> None:
    calls: list[int] = []

    def counted() -> int:
        calls.append(1)
        return len(calls)

    table = sa.Table(
        "things",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("scalar", sa.Integer, default=7),
        sa.Column("called", sa.Integer, default=counted, onupdate=lambda: 1000),
        sa.Column(
            "context", sa.Integer, default=lambda c: c.get_current_parameters()["scalar"] * 2
        ),
        sa.Column("sql", sa.String(10), default=sa.func.lower("ABC")),
        sa.Column("server", sa.Integer, server_default="5"),
    )
    await database.execute(sa.schema.CreateTable(table))
    await database.execute(table.insert())
    await database.execute(table.insert(), {"scalar": 8})
    await database.execute_many(table.insert(), [{"scalar": 1}, {"scalar": 2}])
    rows = await database.fetch_all(table.select().order_by(table.c.id))
    assert [tuple(row)[1:] for row in rows] == [
        (7, 1, 14, "abc", 5),
        (8, 2, 16, "abc", 5),
        (1, 3, 2, "abc", 5),
        (2, 4, 4, "abc", 5),
    ]
    assert await database.execute(table.update().values(scalar=0)) == 4
    assert await database.fetch_val(sa.select(table.c.called)) == 1000


POSTGRESQL: dict[str, tuple[Any, list[Any]]] = {
    "jsonb": (postgresql.JSONB(), [{"a": [1, None]}, []]),
    "integer array": (sa.ARRAY(sa.Integer), [[1, 2, 3], []]),
    "text array": (postgresql.ARRAY(sa.Text), [["a", "b'c", None]]),
    "nested array": (postgresql.ARRAY(sa.Integer, dimensions=2), [[[1, 2], [3, 4]]]),
    "enum array": (
        postgresql.ARRAY(sa.Enum(Color, name="color_array")),
        [[Color.RED, Color.BLUE]],
    ),
    "uuid array": (postgresql.ARRAY(sa.Uuid()), [[UUID]]),
    "uuid": (postgresql.UUID(as_uuid=True), [UUID]),
    "aware datetime": (sa.DateTime(timezone=True), [NOW.replace(tzinfo=datetime.UTC)]),
    "interval": (postgresql.INTERVAL(), [DAY]),
    "numeric": (sa.Numeric(), [decimal.Decimal("1e-20"), decimal.Decimal("NaN")]),
    "bytea": (postgresql.BYTEA(), [b"\x00\xff"]),
    "int range": (
        postgresql.INT4RANGE(),
        [postgresql.Range(1, 5), postgresql.Range(None, 3)],
    ),
    "text search": (postgresql.TSVECTOR(), ["'a' 'b'"]),
}


@pytest.mark.parametrize("case", POSTGRESQL)
async def test_postgresql_round_trip(postgresql_url: str, case: str) -> None:
    kind, values = POSTGRESQL[case]
    async with fastdb.Database(postgresql_url) as database:
        table = await table_of(database, kind)
        for value in [*values, None]:
            await database.execute(table.delete())
            await database.execute(table.insert(), {"v": value})
            found = await database.fetch_val(sa.select(table.c.v))
            if value is not None and value != value:
                assert found != found
            else:
                assert found == value
        await database.execute_many(table.insert(), [{"v": value} for value in values])


async def test_naive_declaration_over_timestamptz(postgresql_url: str) -> None:
    """The declared type does not cast the parameter: the column's own type decides."""
    aware = NOW.replace(tzinfo=datetime.UTC)
    async with fastdb.Database(postgresql_url) as database:
        await database.execute("CREATE TABLE things (id SERIAL PRIMARY KEY, v TIMESTAMPTZ)")
        table = sa.Table(
            "things",
            sa.MetaData(),
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("v", sa.DateTime),
        )
        assert await database.execute(table.insert(), {"v": aware}) == 1
        assert await database.fetch_val(sa.select(table.c.v).where(table.c.v == aware)) == aware


async def test_literals_keep_their_types(database: fastdb.Database) -> None:
    row = await database.fetch_one(
        sa.select(
            sa.literal(5).label("i"),
            sa.literal("s").label("s"),
            (sa.literal(5) + sa.literal(6)).label("sum"),
            sa.func.coalesce(sa.null(), sa.literal(7)).label("c"),
            sa.case((sa.literal(1) == sa.literal(1), sa.literal(8)), else_=sa.literal(9)).label(
                "k"
            ),
        )
    )
    assert row is not None
    assert tuple(row) == (5, "s", 11, 7, 8)
    start = sa.select(sa.literal(1).label("n")).cte("counter", recursive=True)
    counter = start.union_all(sa.select(start.c.n + 1).where(start.c.n < 5))
    rows = await database.fetch_all(sa.select(counter.c.n).order_by(counter.c.n))
    assert [row.n for row in rows] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "value", [object(), {"a": 1}, 2**70, float, {1, 2}], ids=lambda v: type(v).__name__
)
async def test_values_that_no_column_takes(database: fastdb.Database, value: Any) -> None:
    await database.execute("CREATE TABLE things (v BIGINT)")
    with pytest.raises(fastdb.DatabaseError):
        await database.execute("INSERT INTO things (v) VALUES (:v)", {"v": value})
    assert await database.fetch_all("SELECT v FROM things") == []
    assert database.pool.stats().leased == 0
