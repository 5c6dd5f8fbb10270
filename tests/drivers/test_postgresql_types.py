"""Values of every type, there and back through the PostgreSQL driver."""

from __future__ import annotations

import datetime
import decimal
import enum
import ipaddress
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from fastdb import DatabaseURL, Record
from fastdb._speedups import QueryCache
from fastdb.compiler import Compiler
from fastdb.drivers.postgresql import PostgreSQLDriver
from fastdb.drivers.postgresql_connection import PostgreSQLConnection
from fastdb.exceptions import DataError

UTC = datetime.UTC
EAST = datetime.timezone(datetime.timedelta(hours=2))
NAIVE = datetime.datetime(2024, 2, 29, 12, 30, 0, 123456)
AWARE = NAIVE.replace(tzinfo=UTC)
IDENTITY = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Mood(enum.Enum):
    SAD = "very sad"
    HAPPY = "very happy"


def values_of(moods: type[enum.Enum]) -> list[str]:
    return [mood.value for mood in moods]


class Doubled(sa.TypeDecorator[int]):
    impl = sa.Integer
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value * 2

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return value // 2


def bits(text: str) -> Any:
    return getattr(pg, "BitString", str)(text)


INSIDE = pg.Range(1, 5, bounds="[)")

CASES: list[tuple[Any, list[Any]]] = [
    (sa.Boolean(), [True, False]),
    (sa.SmallInteger(), [-5]),
    (sa.Integer(), [2**31 - 1]),
    (sa.BigInteger(), [-(2**63)]),
    (sa.Float(), [1.5, float("inf")]),
    (sa.Float(asdecimal=True), [decimal.Decimal("1.5")]),
    (sa.REAL(), [0.5]),
    (sa.Double(), [0.1]),
    (sa.Numeric(10, 2), [decimal.Decimal("12.30")]),
    (sa.Numeric(), [decimal.Decimal("1E+30"), decimal.Decimal("0.10")]),
    (sa.Numeric(10, 2, asdecimal=False), [12.5]),
    (sa.String(20), ["", "naïve 'quoted' 😀"]),
    (sa.Text(), ["a\nb"]),
    (sa.CHAR(3), ["abc"]),
    (sa.LargeBinary(), [b"", b"\0\xff"]),
    (sa.Date(), [datetime.date(2024, 2, 29)]),
    (sa.DateTime(), [NAIVE]),
    (sa.DateTime(timezone=True), [AWARE, NAIVE.replace(tzinfo=EAST)]),
    (sa.Time(), [NAIVE.time()]),
    (sa.Time(timezone=True), [NAIVE.time().replace(tzinfo=EAST)]),
    (sa.Interval(), [datetime.timedelta(days=-3, seconds=1, microseconds=5)]),
    (pg.INTERVAL(), [datetime.timedelta(hours=30)]),
    (sa.Enum(Mood, name="mood"), [Mood.SAD, Mood.HAPPY]),
    (sa.Enum(Mood, name="mood_value", values_callable=values_of), [Mood.SAD]),
    (sa.Enum(Mood, native_enum=False), [Mood.HAPPY]),
    (sa.Enum("a", "b", name="letter"), ["a"]),
    (sa.JSON(), [{"a": [1, None, "é"]}, [], "text", "null", 5, False]),
    (pg.JSON(), [{"b": {}}]),
    (pg.JSONB(), [{"a": [1, {"b": None}]}, "text", 1.5]),
    (sa.Uuid(), [IDENTITY]),
    (sa.Uuid(as_uuid=False), [str(IDENTITY)]),
    (pg.UUID(), [IDENTITY]),
    (sa.ARRAY(sa.Integer), [[], [1, None, 3]]),
    (sa.ARRAY(sa.Integer, dimensions=2), [[[1, 2], [3, 4]]]),
    (pg.ARRAY(sa.Text), [["a,b", '"', "NULL", None]]),
    (pg.ARRAY(sa.Enum(Mood, name="array_mood")), [[Mood.SAD, None, Mood.HAPPY]]),
    (pg.ARRAY(sa.Uuid), [[IDENTITY]]),
    (pg.ARRAY(pg.JSONB), [[{"a": 1}, [2], None]]),
    (pg.ARRAY(sa.Numeric(asdecimal=False)), [[1.5]]),
    (pg.ARRAY(pg.INT4RANGE), [[INSIDE]]),
    (pg.INET(), [ipaddress.ip_interface("10.0.0.1/8"), ipaddress.ip_address("::1")]),
    (pg.CIDR(), [ipaddress.ip_network("10.0.0.0/8")]),
    (pg.MACADDR(), ["08:00:2b:01:02:03"]),
    (pg.MACADDR8(), ["08:00:2b:01:02:03:04:05"]),
    (pg.INT4RANGE(), [INSIDE, pg.Range(empty=True), pg.Range(None, 5), pg.Range(1, None)]),
    (pg.NUMRANGE(), [pg.Range(decimal.Decimal("1.5"), decimal.Decimal(3), bounds="(]")]),
    (pg.DATERANGE(), [pg.Range(datetime.date(2024, 1, 1), datetime.date(2024, 2, 1))]),
    (pg.TSRANGE(), [pg.Range(NAIVE, None)]),
    (pg.TSTZRANGE(), [pg.Range(AWARE, None)]),
    (pg.INT8MULTIRANGE(), [[INSIDE, pg.Range(8, 9)], []]),
    (pg.BIT(3), [bits("101")]),
    (pg.BIT(varying=True), [bits("0101101001"), bits("")]),
    (pg.TSVECTOR(), ["'cat' 'fat'"]),
    (pg.OID(), [5]),
    (pg.HSTORE(), [{"a": "1", "b": None}, {}]),
    (pg.CITEXT(), ["Text"]),
    (Doubled(), [21]),
]


class Client:
    def __init__(self, driver: PostgreSQLDriver, connection: PostgreSQLConnection) -> None:
        self.connection = connection
        self.cache = QueryCache(
            Compiler(driver.sqlalchemy_dialect, driver.lexical, "numeric_dollar")
        )

    async def all(self, query: Any, values: Any = None) -> list[Record]:
        plan, args, _ = self.cache.prepare(query, values)
        return await self.connection.fetch_all(plan, args)

    async def val(self, query: Any, values: Any = None) -> Any:
        (record,) = await self.all(query, values)
        return record[0]

    async def make(self, metadata: sa.MetaData) -> None:
        """Create what `metadata` holds, by the SQL that SQLAlchemy would run."""
        statements: list[str] = []
        dialect = self.cache_dialect
        engine = sa.create_mock_engine(
            sa.make_url("postgresql+asyncpg://"),
            lambda sql, *args, **kwargs: statements.append(str(sql.compile(dialect=dialect))),
        )
        metadata.create_all(engine, checkfirst=False)
        for statement in statements:
            await self.connection.raw.execute(statement)

    cache_dialect: Any = None


async def open_client(url: str, **options: Any) -> Client:
    driver = PostgreSQLDriver(DatabaseURL(url), options)
    connection = await driver.connect()
    client = Client(driver, connection)
    client.cache_dialect = driver.sqlalchemy_dialect()
    await connection.raw.execute(
        "CREATE EXTENSION IF NOT EXISTS hstore; CREATE EXTENSION IF NOT EXISTS citext"
    )
    return client


@pytest.fixture
async def client(postgresql_url: str) -> AsyncIterator[Client]:
    client = await open_client(postgresql_url)
    yield client
    await client.connection.close()


def table_of(type_: Any) -> sa.Table:
    return sa.Table(
        "holders",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("value", type_),
    )


async def test_the_dialect_knows_the_servers_version(postgresql_url: str) -> None:
    driver = PostgreSQLDriver(DatabaseURL(postgresql_url), {})
    dialect = driver.sqlalchemy_dialect()
    connection = await driver.connect()
    assert dialect is driver.sqlalchemy_dialect()
    version = connection.raw.get_server_version()
    assert str(getattr(dialect, "server_version_info", None)).startswith(f"({version.major},")
    await connection.close()


@pytest.mark.parametrize(("type_", "values"), CASES, ids=lambda each: repr(each)[:50])
async def test_values_round_trip(client: Client, type_: Any, values: list[Any]) -> None:
    table = table_of(type_)
    await client.make(table.metadata)
    for value in values:
        key = await client.val(sa.insert(table), {"value": value})
        query = sa.select(table.c.value).where(table.c.id == key)
        got = await client.val(query)
        assert got == value
        assert type(got) is type(value) or isinstance(got, type(value))
        if not isinstance(table.c.value.type, sa.JSON):
            # SQLAlchemy 2.0 takes what is compared with a bit string for plain text.
            other = sa.literal(value, type_) if isinstance(type_, pg.BIT) else value
            same = sa.select(table.c.id).where(table.c.value == other)
            assert await client.val(same) == key
            listed = sa.select(table.c.id).where(table.c.value.in_([other]))
            assert await client.val(listed) == key
    rows = [{"value": value} for value in values]
    await client.connection.execute_many(client.cache.prepare_many(sa.insert(table), rows, 100))
    assert await client.val(sa.select(sa.func.count()).select_from(table)) == 2 * len(values)
    if not isinstance(type_, Doubled):
        key = await client.val(sa.insert(table), {"value": None})
        assert await client.val(sa.select(table.c.value).where(table.c.id == key)) is None


async def test_json_null_and_sql_null(client: Client) -> None:
    table = sa.Table(
        "holders",
        sa.MetaData(),
        sa.Column("plain", sa.JSON),
        sa.Column("none", sa.JSON(none_as_null=True)),
        sa.Column("jsonb", pg.JSONB),
    )
    await client.make(table.metadata)
    await client.connection.raw.execute("TRUNCATE holders")
    plan, args, _ = client.cache.prepare(
        sa.insert(table), {"plain": None, "none": None, "jsonb": sa.JSON.NULL}
    )
    await client.connection.execute(plan, args)
    raw = await client.all("SELECT plain::text, none::text, jsonb::text FROM holders")
    assert raw == [("null", None, "null")]
    assert await client.all(sa.select(table)) == [(None, None, None)]


async def test_json_paths(client: Client) -> None:
    table = table_of(pg.JSONB())
    await client.make(table.metadata)
    await client.val(sa.insert(table), {"value": {"a": [10, {"b": "deep"}], "n": 5}})
    value = table.c.value
    found = sa.select(
        value["a"][0],
        value[("a", 1, "b")].astext,
        value["n"].as_integer(),
        value.has_key("a"),
        value.contains({"n": 5}),
    )
    assert await client.all(found) == [(10, "deep", 5, True, True)]


async def test_raw_sql_gives_json_as_it_stands(client: Client) -> None:
    row = (await client.all("""SELECT '{"a": 1}'::json AS j, '[1]'::jsonb AS b"""))[0]
    assert row == ('{"a": 1}', "[1]")
    typed = sa.text("""SELECT '{"a": 1}'::json AS j""").columns(j=sa.JSON)
    assert await client.val(typed) == {"a": 1}


@pytest.mark.parametrize("format", ["text", "binary"])
async def test_codecs_of_the_user_decode_json_once(postgresql_url: str, format: str) -> None:
    def encode(value: Any) -> Any:
        text = json.dumps(value)
        return text if format == "text" else b"\1" + text.encode()

    def decode(value: Any) -> Any:
        return json.loads(value if format == "text" else value[1:])

    async def init(raw: asyncpg.Connection) -> None:
        await raw.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=encode, decoder=decode, format=format
        )

    client = await open_client(postgresql_url, init=init)
    table = table_of(pg.JSONB())
    await client.make(table.metadata)
    for value in ({"a": 1}, "text", [None]):
        key = await client.val(sa.insert(table), {"value": value})
        assert await client.val(sa.select(table.c.value).where(table.c.id == key)) == value
        kind = "SELECT jsonb_typeof(value) FROM holders WHERE id = :id"
        kinds = {dict: "object", str: "string", list: "array"}
        assert await client.val(kind, {"id": key}) == kinds[type(value)]
    assert await client.val("SELECT :v::jsonb", {"v": {"raw": True}}) == {"raw": True}
    plain = sa.select(sa.cast(sa.literal({"b": 2}, sa.JSON), sa.JSON))
    assert await client.val(plain) == {"b": 2}
    await client.connection.close()


async def test_builtin_codec_of_hstore(postgresql_url: str) -> None:
    async def init(raw: asyncpg.Connection) -> None:
        await raw.execute("CREATE EXTENSION IF NOT EXISTS hstore")
        await raw.set_builtin_type_codec("hstore", codec_name="pg_contrib.hstore")

    client = await open_client(postgresql_url, init=init)
    table = table_of(pg.HSTORE())
    await client.make(table.metadata)
    await client.val(sa.insert(table), {"value": {"a": None}})
    assert await client.val(sa.select(table.c.value)) == {"a": None}
    await client.connection.close()


async def test_what_the_users_codec_raises_passes_unchanged(postgresql_url: str) -> None:
    def decode(text: str) -> Any:
        raise ZeroDivisionError(text)

    async def init(raw: asyncpg.Connection) -> None:
        await raw.set_type_codec("int8", schema="pg_catalog", encoder=str, decoder=decode)

    client = await open_client(postgresql_url, init=init)
    with pytest.raises(ZeroDivisionError):
        await client.val("SELECT 5::bigint")
    assert await client.val("SELECT 5::int") == 5
    await client.connection.close()


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (sa.Integer(), "five"),
        (sa.String(), 5),
        (sa.DateTime(), AWARE),
        (sa.Integer(), 2**40),
        (sa.Uuid(as_uuid=False), "nonsense"),
        (pg.INET(), "nowhere"),
        (sa.Numeric(4, 2), decimal.Decimal("12345")),
    ],
    ids=repr,
)
async def test_values_of_a_wrong_type_are_data_errors(
    client: Client, type_: Any, value: Any
) -> None:
    table = table_of(type_)
    await client.make(table.metadata)
    with pytest.raises(DataError):
        await client.val(sa.insert(table), {"value": value})
    assert await client.val("SELECT 1") == 1


async def test_money_is_text(client: Client) -> None:
    table = table_of(pg.MONEY())
    await client.make(table.metadata)
    await client.val(sa.insert(table), {"value": "12.50"})
    assert "12" in await client.val(sa.select(table.c.value))


async def test_literals_and_functions(client: Client) -> None:
    table = table_of(sa.Integer())
    await client.make(table.metadata)
    await client.val(sa.insert(table), {"value": 5})
    value = table.c.value
    query = sa.select(
        sa.literal(7),
        sa.literal("text"),
        sa.literal(True),
        sa.literal(NAIVE),
        sa.literal(IDENTITY),
        value + 1,
        sa.func.coalesce(value, 0),
        sa.func.round(sa.cast(value, sa.Numeric) / 2, 1),
        sa.case((value > 3, "big"), else_="small"),
        sa.func.lower("ABC"),
        sa.literal([1, 2], sa.ARRAY(sa.Integer)),
        sa.literal({"a": 1}, pg.JSONB),
        sa.literal(INSIDE, pg.INT4RANGE),
        sa.literal(datetime.timedelta(1)) + sa.literal(NAIVE),
    )
    (row,) = await client.all(query)
    assert row == (
        *(7, "text", True, NAIVE, IDENTITY, 6, 5, decimal.Decimal("2.5"), "big", "abc"),
        *([1, 2], {"a": 1}, INSIDE, NAIVE + datetime.timedelta(1)),
    )


MOMENTS = """
    SELECT moment, moment::timestamptz, ARRAY[moment, NULL], ARRAY[moment::timestamptz],
        tsrange(moment, NULL), tstzrange(NULL, moment), ROW(moment, 1)
    FROM (VALUES
        ('2024-02-29 12:30:00.123456'::timestamp), ('1999-12-31 23:59:59.999999'), ('0001-01-02'),
        ('9999-12-31 23:59:59.999999'), ('infinity'), ('-infinity'), (NULL), ('1900-03-01')
    ) AS moments (moment)
"""


async def test_timestamps_are_those_of_asyncpg(client: Client, postgresql_url: str) -> None:
    bare = await asyncpg.connect(postgresql_url)
    for raw in (bare, client.connection.raw):
        await raw.execute("SET TIME ZONE 'Asia/Kolkata'")
    expected = await bare.fetch(MOMENTS)
    found = await client.connection.raw.fetch(MOMENTS)
    assert list(map(repr, found)) == list(map(repr, expected))
    assert list(map(tuple, await client.all(MOMENTS))) == list(map(tuple, expected))
    sent = [NAIVE, AWARE, NAIVE.date(), datetime.datetime.max, datetime.datetime.min, None]
    for value in [*sent, NAIVE.replace(tzinfo=EAST), "text", 5]:
        for type_ in ("timestamp", "timestamptz", "timestamp[]", "tsrange"):
            argument = [value] if type_ == "timestamp[]" else value
            if type_ == "tsrange":
                argument = asyncpg.Range(value)
            answers = []
            for raw in (bare, client.connection.raw):
                try:
                    answers.append(repr(await raw.fetchval(f"SELECT $1::{type_}::text", argument)))
                except asyncpg.DataError as error:
                    answers.append(str(error))
            assert answers[0] == answers[1]
    await bare.close()


async def test_timestamps_that_no_datetime_can_be(client: Client) -> None:
    for sql in ("SELECT '20000-01-01'::timestamp", "SELECT '0044-03-15 BC'::timestamptz"):
        with pytest.raises(OverflowError, match="date value out of range"):
            await client.connection.raw.fetchval(sql)
    assert await client.connection.raw.fetchval("SELECT 1") == 1


async def test_timestamps_are_copied(client: Client) -> None:
    raw = client.connection.raw
    await raw.execute("CREATE TEMP TABLE moments (naive timestamp, aware timestamptz)")
    await raw.copy_records_to_table("moments", records=[(NAIVE, AWARE), (None, None)])
    assert list(map(tuple, await raw.fetch("SELECT * FROM moments"))) == [
        (NAIVE, AWARE),
        (None, None),
    ]


async def test_the_users_codec_of_timestamps_takes_precedence(postgresql_url: str) -> None:
    async def init(raw: asyncpg.Connection) -> None:
        await raw.set_type_codec(
            "timestamp",
            schema="pg_catalog",
            encoder=lambda value: value,
            decoder=lambda value: value,
            format="tuple",
        )

    client = await open_client(postgresql_url, init=init)
    raw = client.connection.raw
    assert await raw.fetchval("SELECT '2000-01-01 00:00:01'::timestamp") == (1_000_000,)
    assert await raw.fetchval("SELECT $1::timestamp::text", (1_000_000,)) == "2000-01-01 00:00:01"
    assert await raw.fetchval("SELECT '2000-01-01 00:00:01Z'::timestamptz") == datetime.datetime(
        2000, 1, 1, 0, 0, 1, tzinfo=UTC
    )
    await raw.reset_type_codec("timestamp", schema="pg_catalog")
    assert await raw.fetchval("SELECT $1::timestamp", NAIVE) == NAIVE
    await client.connection.close()


async def test_an_asyncpg_without_these_codecs_keeps_its_own(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = client.connection.raw
    await raw.reset_type_codec("timestamp", schema="pg_catalog")
    with monkeypatch.context() as patch:
        patch.setattr(type(raw), "get_settings", lambda self: object())
        raw.speed_up()
    assert await raw.fetchval("SELECT $1::timestamp", NAIVE) == NAIVE
