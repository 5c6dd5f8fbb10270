"""Input at the edges: right, or a clear error, and never another value in silence."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import mysql

import fastdb

DOUBLE: Any = sa.Double()
LARGE_TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
LARGE_BINARY = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
EAST = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
NOON = datetime.datetime(2026, 7, 1, 12, 30, 15)


def dialect(database: fastdb.Database) -> str:
    return database.url.dialect


async def make_table(database: fastdb.Database, kind: Any) -> sa.Table:
    table = sa.Table(
        "things",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("v", kind),
    )
    await database.execute(sa.schema.DropTable(table, if_exists=True))
    options = " CHARACTER SET utf8mb4" if dialect(database) == "mysql" else ""
    create = str(
        sa.schema.CreateTable(table).compile(dialect=database._driver.sqlalchemy_dialect())
    )
    await database.execute(create.rstrip() + options)
    return table


WAYS = ["raw", "core", "raw batch", "core batch"]
RAW = "INSERT INTO things (id, v) VALUES (:id, :v)"


async def store(database: fastdb.Database, table: sa.Table, way: str, value: Any) -> None:
    await database.execute("DELETE FROM things")
    query: Any = RAW if way.startswith("raw") else table.insert()
    if way.endswith("batch"):
        await database.execute_many(query, [{"id": n, "v": value} for n in range(2)])
    else:
        await database.execute(query, {"id": 0, "v": value})


async def check_kept(
    database: fastdb.Database, table: sa.Table, way: str, value: Any, expected: Any = ...
) -> None:
    """Store a value in one way, and read it in every way."""
    expected = value if expected is ... else expected
    await store(database, table, way, value)
    raw, core = "SELECT v FROM things", sa.select(table.c.v)
    for query in (raw, core) if way.startswith("core") else (raw,):
        found = [await database.fetch_val(query), (await database.fetch_all(query))[-1].v]
        async for row in database.iterate(query):
            found.append(row.v)
        for each in found:
            if query is raw and isinstance(expected, (bool, Decimal, datetime.datetime)):
                continue  # a database may keep it as something else
            assert each == expected
            assert type(each) is type(expected)


async def check_refused(
    database: fastdb.Database, table: sa.Table, way: str, value: Any
) -> fastdb.Error:
    """Store a value that cannot be kept: an error, and nothing is stored."""
    with pytest.raises(fastdb.DatabaseError) as caught:
        await store(database, table, way, value)
    assert await database.fetch_all("SELECT v FROM things") == []
    assert await database.fetch_val("SELECT 1") == 1
    return caught.value


# -- texts and bytes


@pytest.mark.parametrize("way", WAYS)
async def test_nul_in_a_text(database: fastdb.Database, way: str) -> None:
    table = await make_table(database, sa.String(100))
    for value in ("\0", "a\0b", "a\0'; -- ", "ä\0\\"):
        if dialect(database) == "postgresql":  # its texts hold no NUL
            assert isinstance(await check_refused(database, table, way, value), fastdb.DataError)
        else:
            await check_kept(database, table, way, value)


@pytest.mark.parametrize("way", WAYS)
async def test_characters_of_four_bytes(database: fastdb.Database, way: str) -> None:
    table = await make_table(database, sa.String(100))
    for value in ("🎉", "a🎉b\\🎉'", "𐍈" * 100, "\U0010ffff", "e\u0301 \u200f \ufeff \uffff"):
        await check_kept(database, table, way, value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", ["x", "ä'", "a\\%"])
async def test_ten_megabytes_of_text(database: fastdb.Database, way: str, text: str) -> None:
    table = await make_table(database, LARGE_TEXT)
    value = text * (10_000_000 // len(text.encode()))
    if dialect(database) == "mysql" and text != "x":
        value = value[: len(value) // 2]  # escaped, it must stay below max_allowed_packet
    await check_kept(database, table, way, value)


@pytest.mark.parametrize("way", WAYS)
async def test_ten_megabytes_of_bytes(database: fastdb.Database, way: str) -> None:
    table = await make_table(database, LARGE_BINARY)
    value = bytes(range(256)) * 40_000
    if dialect(database) == "mysql":
        # As hexadecimal it takes twice the room, and servers are often set to less.
        limit = await database.fetch_val("SELECT @@max_allowed_packet")
        if limit < 2 * len(value) + 1000:
            error = await check_refused(database, table, way, value)
            assert "max_allowed_packet" in str(error)
            assert str(limit) in str(error)
            value = value[: limit // 2 - 1000]
    await check_kept(database, table, way, value)


# -- numbers


@pytest.mark.parametrize("way", WAYS)
async def test_integers_of_64_bits_and_beyond(database: fastdb.Database, way: str) -> None:
    table = await make_table(database, sa.BigInteger())
    for value in (2**63 - 1, -(2**63), 2**53 + 1, 0, -1):
        await check_kept(database, table, way, value)
    for value in (2**63, -(2**63) - 1, 2**64, 10**30, 10**5000):
        await check_refused(database, table, way, value)


async def test_unsigned_integers_of_64_bits(mysql_url: str) -> None:
    async with fastdb.Database(mysql_url) as database:
        table = await make_table(database, mysql.BIGINT(unsigned=True))
        for way in WAYS:
            for value in (2**64 - 1, 2**63, 0):
                await check_kept(database, table, way, value)
            for value in (2**64, -1):
                await check_refused(database, table, way, value)


@pytest.mark.parametrize("way", WAYS)
async def test_floats_at_their_edges(database: fastdb.Database, way: str) -> None:
    table = await make_table(database, DOUBLE)
    values = [1.7976931348623157e308, 2.2250738585072014e-308, 0.1 + 0.2, 1e22, 123456789.123456789]
    for value in [*values, *[-value for value in values], 3.0, -0.0]:
        await check_kept(database, table, way, value)
    for value in (math.inf, -math.inf):
        if dialect(database) == "mysql":
            await check_refused(database, table, way, value)
        else:
            await check_kept(database, table, way, value)
    if dialect(database) == "postgresql":
        await store(database, table, way, math.nan)
        assert math.isnan(await database.fetch_val("SELECT v FROM things"))
    else:
        assert "nan" in str(await check_refused(database, table, way, math.nan)).lower()


@pytest.mark.parametrize("way", WAYS)
async def test_nan_among_the_values_of_a_list(database: fastdb.Database, way: str) -> None:
    """A NaN in a list, or of a parameter without a type, is no NULL either."""
    if dialect(database) == "postgresql":
        return
    table = await make_table(database, DOUBLE)
    queries = [
        sa.select(table).where(table.c.v.in_([1.0, math.nan])),
        sa.select(sa.literal(math.nan)),
    ]
    for query in queries:
        with pytest.raises(fastdb.DataError):
            await database.fetch_all(query)
    with pytest.raises(fastdb.DataError):
        await database.fetch_all("SELECT :v", {"v": math.nan})


@pytest.mark.parametrize("way", ["core", "core batch"])
async def test_decimals_through_core(database: fastdb.Database, way: str) -> None:
    table = await make_table(database, sa.Numeric(30, 10))
    for text in ("1234567.8901", "-0.0000000001", "0", "99999.9999999999"):
        await check_kept(database, table, way, Decimal(text))
    exact = Decimal("12345678901234567890.0123456789")
    if dialect(database) == "sqlite":
        assert "15 digits" in str(await check_refused(database, table, way, exact))
    else:
        await check_kept(database, table, way, exact)
    third = Decimal(1) / 3
    await check_kept(database, table, way, third, round(third, 10))
    for value in (Decimal("1e400"), Decimal("-1e30")):
        if dialect(database) != "sqlite" or value > 0:
            await check_refused(database, table, way, value)


async def test_decimals_through_raw_sql(database: fastdb.Database) -> None:
    kinds = {"sqlite": "NUMERIC", "postgresql": "NUMERIC", "mysql": "DECIMAL(65, 30)"}
    await database.execute(f"CREATE TABLE things (id INTEGER, v {kinds[dialect(database)]})")
    exact = ["12345678901234567890123456789012345.012345678901234567890123456789", "1e-30"]
    if dialect(database) == "postgresql":
        exact += ["1e-1000", "123e1000", "NaN", "Infinity"]
    for text in exact:
        values = {"id": 1, "v": Decimal(text)}
        await database.execute("DELETE FROM things")
        if dialect(database) == "sqlite" and len(text) > 20:
            with pytest.raises(fastdb.DataError, match="15 digits"):
                await database.execute(RAW, values)
            continue
        await database.execute(RAW, values)
        found = await database.fetch_val("SELECT v FROM things")
        if dialect(database) == "sqlite":
            found = Decimal(repr(found))
        assert found == Decimal(text) or (found != found and text == "NaN")
    if dialect(database) != "postgresql":
        for text in ("NaN", "sNaN"):
            with pytest.raises(fastdb.DatabaseError):
                await database.execute(RAW, {"id": 1, "v": Decimal(text)})


# -- moments


@pytest.mark.parametrize("way", WAYS)
async def test_moments_with_a_time_zone(database: fastdb.Database, way: str) -> None:
    table = await make_table(database, sa.DateTime(timezone=True))
    for zone in (datetime.UTC, EAST, datetime.timezone(-datetime.timedelta(hours=9))):
        moment = NOON.replace(tzinfo=zone)
        if dialect(database) == "postgresql":
            await store(database, table, way, moment)
            found = await database.fetch_val("SELECT v FROM things")
            assert found == moment
            assert found.tzinfo is not None
        elif zone is datetime.UTC:  # kept without saying so, as is the custom
            await store(database, table, way, moment)
            assert await database.fetch_val(sa.select(table.c.v)) == NOON
        else:
            error = await check_refused(database, table, way, moment)
            assert "time zone" in str(error)
            assert isinstance(error, fastdb.DataError)
    query = sa.select(table).where(table.c.v.in_([NOON.replace(tzinfo=EAST)]))
    if dialect(database) == "postgresql":
        assert await database.fetch_all(query) == []
    else:
        with pytest.raises(fastdb.DataError):
            await database.fetch_all(query)


@pytest.mark.parametrize("way", WAYS)
async def test_times_of_day_with_a_time_zone(database: fastdb.Database, way: str) -> None:
    table = await make_table(database, sa.Time(timezone=True))
    clock = NOON.replace(tzinfo=EAST).timetz()
    if dialect(database) == "postgresql":
        await check_kept(database, table, way, clock)
    else:
        error = await check_refused(database, table, way, clock)
        assert "time zone" in str(error)


@pytest.mark.parametrize("way", ["core", "core batch"])
async def test_the_first_and_the_last_moment(database: fastdb.Database, way: str) -> None:
    table = await make_table(database, sa.DateTime())
    last = datetime.datetime(9999, 12, 31, 23, 59, 59)
    for value in (datetime.datetime(1000, 1, 1), last, datetime.datetime(1969, 12, 31, 23, 59, 59)):
        await check_kept(database, table, way, value)


# -- many columns, many parameters


@pytest.mark.parametrize("form", ["raw", "core"])
@pytest.mark.parametrize("count", [1600, 2000, 4096, 5000])
async def test_many_columns(database: fastdb.Database, count: int, form: str) -> None:
    query: Any = "SELECT " + ", ".join(f"{n} AS c{n}" for n in range(count))
    if form == "core":
        query = sa.select(*[sa.literal(n, sa.Integer).label(f"c{n}") for n in range(count)])
    limits = {"sqlite": 2000, "postgresql": 1600, "mysql": 4096}
    try:
        row = await database.fetch_one(query)
    except fastdb.DatabaseError as error:
        assert count > limits[dialect(database)], error  # noqa: PT017
        assert "column" in str(error) or "entries" in str(error)  # noqa: PT017
    else:
        assert row is not None
        assert tuple(row) == tuple(range(count))
        assert row[f"c{count - 1}"] == row[-1] == getattr(row, f"c{count - 1}") == count - 1
        assert row.keys() == [f"c{n}" for n in range(count)]
    assert await database.fetch_val("SELECT 1") == 1


@pytest.mark.parametrize(
    ("count", "form"),
    [(n, form) for n in (32766, 32768, 65536) for form in ("raw", "core", "insert")]
    + [(300_000, "raw")],
)
async def test_parameters_up_to_the_limit_and_beyond(
    database: fastdb.Database, count: int, form: str
) -> None:
    table = await make_table(database, sa.Integer())
    await database.execute(RAW, {"id": -1, "v": count - 1})
    values: Any = None
    query: Any = sa.select(table.c.id).where(table.c.v.in_(list(range(count))))
    if form == "raw":
        names = ",".join(f":p{n}" for n in range(count))
        query = f"SELECT id FROM things WHERE v IN ({names})"
        values = {f"p{n}": n for n in range(count)}
    elif form == "insert":
        query = table.insert().values([{"id": n, "v": n} for n in range(count // 2)])
    stored = 1
    try:
        found = await database.fetch_all(query, values)
    except fastdb.DatabaseError as error:
        assert count > 32766, error  # noqa: PT017
        assert "arguments" in str(error) or "variables" in str(error), error  # noqa: PT017
    else:
        if form == "insert":
            stored = 1 + count // 2
        else:
            assert [row.id for row in found] == [-1]
    assert await database.fetch_val("SELECT count(*) FROM things") == stored


# -- names

NAMES = [
    "a b",
    "1",
    "select",
    "keys",
    "values",
    "get",
    "_x",
    "__class__",
    "_mapping",
    "naïve",
    "列",
    "a.b",
    "a-b",
    "a%b",
    "%s",
    "%(a)s",
    "a:b",
    ":a",
    "a?b",
    "$1",
    "(a)",
    "[a]",
    "it's",
    'a"b',
    "a`b",
    "A",
    "a\\b",
    "None",
    "self",
    "x" * 60,
]


@pytest.mark.parametrize("name", NAMES)
async def test_odd_names_of_columns(database: fastdb.Database, name: str) -> None:
    preparer: Any = database._driver.sqlalchemy_dialect().identifier_preparer
    quoted = preparer.quote_identifier(name)
    if dialect(database) == "mysql":
        quoted = quoted.replace("%%", "%")
    row = await database.fetch_one(f"SELECT 1 AS one, :v AS {quoted}", {"v": "x"})
    assert row is not None
    check_odd_name(row, name)
    table = sa.Table(
        "odd",
        sa.MetaData(),
        sa.Column("one", sa.Integer, primary_key=True),
        sa.Column(name, sa.String(9)),
    )
    await database.execute(sa.schema.CreateTable(table))
    await database.execute(table.insert(), {"one": 1, name: "w"})
    await database.execute_many(table.insert(), [{"one": 2, name: "y"}, {"one": 3, name: "z"}])
    assert await database.execute(table.update().where(table.c[name] == "w"), {name: "x"}) == 1
    row = await database.fetch_one(table.select().where(table.c[name].in_(["x"])))
    assert row is not None
    check_odd_name(row, name)
    assert row[table.c[name]] == "x"
    async for each in database.iterate(table.select().where(table.c.one == 3)):
        assert each[name] == each[1] == "z"
    found = await database.fetch_all(
        sa.text(f"SELECT {quoted.replace(':', chr(92) + ':')} FROM odd")
    )
    assert sorted(row[0] for row in found) == ["x", "y", "z"]


def check_odd_name(row: Any, name: str) -> None:
    assert row.keys() == ["one", name]
    assert (row[name], row[1], row._mapping[name]) == ("x", "x", "x")
    assert tuple(row) == tuple(row.values()) == (1, "x")
    assert dict(row) == row._asdict() == {"one": 1, name: "x"}
    if name.isidentifier() and name not in {"keys", "values", "get"} and not name.startswith("_"):
        assert getattr(row, name) == "x"


async def test_a_column_without_a_name(database: fastdb.Database) -> None:
    names = {"sqlite": '""', "mysql": "``", "postgresql": '"?column?"'}
    row = await database.fetch_one(f"SELECT 1 AS one, 'x' AS {names[dialect(database)]}")
    assert row is not None
    name = "?column?" if dialect(database) == "postgresql" else ""
    assert (row[name], row[1], row.keys()) == ("x", "x", ["one", name])


async def test_names_that_stand_twice(database: fastdb.Database) -> None:
    row = await database.fetch_one("SELECT 1 AS a, 2 AS a, 3 AS b, 4 AS a")
    assert row is not None
    assert tuple(row) == (1, 2, 3, 4)
    assert (row.a, row["a"], row.b, row[-1]) == (1, 1, 3, 4)
    one = sa.select(sa.literal(1).label("a"), sa.literal(2).label("b")).subquery()
    two = sa.select(sa.literal(3).label("a"), sa.literal(4).label("b")).subquery()
    for row in await database.fetch_all(sa.select(one, two)):
        assert [row[each] for each in (one.c.a, one.c.b, two.c.a, two.c.b)] == [1, 2, 3, 4]


# -- what looks like a parameter

TEXTS: dict[str, list[tuple[str, dict[str, Any], Any]]] = {
    "sqlite": [
        ("SELECT '100%:x?' || :v", {"v": "%"}, "100%:x?%"),
        ("SELECT 5 AS [a:x], :v", {"v": 1}, 5),
        ("SELECT 1 /* :x ? % */ + :v -- :y\n + 1", {"v": 1}, 3),
        ("""SELECT '{"a": {"b": 7}}' ->> '$.a.b'""", {}, 7),
        ("""SELECT json_extract('{"a:x": 7}', '$."a:x"')""", {}, 7),
        ("SELECT '\\' || :v", {"v": "x"}, "\\x"),
        ("SELECT 'it''s :x' || :v", {"v": "?"}, "it's :x?"),
        ("SELECT 7 % :v", {"v": 4}, 3),
        ("SELECT :v\\:\\:int", {"v": 4}, fastdb.DatabaseError),
    ],
    "postgresql": [
        ("SELECT '100%:x?' || :v", {"v": "%"}, "100%:x?%"),
        ("SELECT :v::int + 1", {"v": 4}, 5),
        ("SELECT 1 /* :x /* ? */ % */ + :v -- :y\n + 1", {"v": 1}, 3),
        ("""SELECT '{"a": 1}'::jsonb ? :v""", {"v": "a"}, True),
        ("""SELECT '{"a": 1}'::jsonb ?| ARRAY['b', 'a']""", {}, True),
        ("""SELECT '{"a": {"b": ":x"}}'::jsonb #>> '{a,b}'""", {}, ":x"),
        ("""SELECT '{"a": 1}'::jsonb @> :v::jsonb""", {"v": '{"a": 1}'}, True),
        ("""SELECT '{"a": 1}'::jsonb @? '$.a'""", {}, True),
        ("SELECT $$:x ? % 'y'$$ || :v", {"v": "!"}, ":x ? % 'y'!"),
        ("SELECT $q$ $$ :x $q$ || :v", {"v": "!"}, " $$ :x !"),
        (r"SELECT E'it\'s :x' || :v", {"v": "!"}, "it's :x!"),
        (r"SELECT '\' || :v", {"v": "!"}, "\\!"),
        ("SELECT (ARRAY[1, 2, 3])[:low:3]", {"low": 2}, [2, 3]),
        ("SELECT 7 % :v", {"v": 4}, 3),
        ("SELECT U&'d\\0061t:x' || :v", {"v": "!"}, "dat:x!"),
        ('SELECT 5 AS "a:x"', {}, 5),
    ],
    "mysql": [
        ("SELECT CONCAT('100%:x?', :v)", {"v": "%"}, "100%:x?%"),
        ('SELECT CONCAT("a:x", :v)', {"v": "%s"}, "a:x%s"),
        (r"SELECT CONCAT('it\'s :x', :v)", {"v": "!"}, "it's :x!"),
        ("SELECT 1 /* :x ? % */ + :v # :y\n + 1 -- :z\n", {"v": 1}, 3),
        ("SELECT 1 --:v\n", {"v": 1}, 2),
        ("SELECT @fastdb := :v", {"v": 3}, 3),
        ("""SELECT JSON_VALUE('{"a:x": 7}', '$."a:x"')""", {}, "7"),
        ("SELECT DATE_FORMAT('2026-02-03', '%d:%i')", {}, "03:00"),
        ("SELECT 7 % :v", {"v": 4}, 3),
        ("SELECT 5 AS `a:x`", {}, 5),
        ("SELECT /*!50000 :v + */ 1", {"v": 4}, 5),
    ],
}


@pytest.mark.parametrize("place", range(max(map(len, TEXTS.values()))))
async def test_what_looks_like_a_parameter(database: fastdb.Database, place: int) -> None:
    cases = TEXTS[dialect(database)]
    sql, values, expected = cases[place % len(cases)]
    if expected is fastdb.DatabaseError:
        with pytest.raises(fastdb.DatabaseError):
            await database.fetch_val(sql, values)
        return
    assert await database.fetch_val(sql, values) == expected
    async for row in database.iterate(sql, values):
        assert row[0] == expected
    if any(mark in sql for mark in ("::", ":x", ":low", "@", "'\\'", ":v\n", ":=", "U&", "\\'")):
        return  # text() has rules of its own
    assert await database.fetch_val(sa.text(sql), values) == expected


# -- rows that are wrong


@pytest.mark.parametrize("form", ["raw", "text", "core"])
async def test_a_wrong_row_of_many_is_named(database: fastdb.Database, form: str) -> None:
    table = await make_table(database, sa.Integer())
    query: Any = RAW
    if form == "text":
        query = sa.text(RAW)
    if form == "core":
        values: dict[str, Any] = {"id": sa.bindparam("id"), "v": sa.bindparam("other") + 1}
        query = table.insert().values(values)
    name = "other" if form == "core" else "v"
    rows = [{"id": n, name: n} for n in range(10)]
    del rows[7][name]
    with pytest.raises(fastdb.MissingParameterError, match=rf"row 7: .*'{name}'"):
        await database.execute_many(query, rows)
    rows[7] = {"id": 7, name: 7, "stranger": 7}
    with pytest.raises(fastdb.UnknownParameterError, match=r"row 7: .*stranger"):
        await database.execute_many(query, rows)
    assert await database.fetch_all(table.select()) == []


async def test_an_error_of_the_users_is_not_renamed(database: fastdb.Database) -> None:
    mine = fastdb.ProgrammingError("mine")

    def rows() -> Any:
        yield {"id": 1, "v": 1}
        raise mine

    await make_table(database, sa.Integer())
    with pytest.raises(fastdb.ProgrammingError) as caught:
        await database.execute_many(RAW, rows())
    assert caught.value is mine
    assert str(mine) == "mine"


# -- any value

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_MOMENTS = st.datetimes(datetime.datetime(1000, 1, 1), datetime.datetime(9999, 12, 31))
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "i": st.none() | st.integers(-(2**63), 2**63 - 1),
            "f": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            "s": st.none() | _TEXT,
            "b": st.none() | st.binary(max_size=60),
            "d": st.none() | _MOMENTS,
            "n": st.none()
            | st.decimals(-99999, 99999, allow_nan=False, allow_infinity=False, places=6),
        }
    ),
    min_size=1,
    max_size=4,
)
MANY = sa.Table(
    "many",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("i", sa.BigInteger),
    sa.Column("f", DOUBLE),
    sa.Column("s", sa.Unicode(100)),
    sa.Column("b", sa.LargeBinary),
    sa.Column("d", sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")),
    sa.Column("n", sa.Numeric(20, 6)),
    mysql_default_charset="utf8mb4",
)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(rows=ROWS)
async def test_any_values_come_back(database: fastdb.Database, rows: list[dict[str, Any]]) -> None:
    await database.execute(sa.schema.CreateTable(MANY, if_not_exists=True))
    await database.execute(MANY.delete())
    if dialect(database) == "postgresql":
        for row in rows:
            row["s"] = None if row["s"] is None else row["s"].replace("\0", "")
    raw = "INSERT INTO many (id, i, f, s, b, d, n) VALUES (:id, :i, :f, :s, :b, :d, :n)"
    numbered = [{"id": number, **row} for number, row in enumerate(rows)]
    for row in numbered:
        await database.execute(MANY.insert(), row)
        await database.execute(raw, row | {"id": row["id"] + 100})
    await database.execute_many(MANY.insert(), [row | {"id": row["id"] + 200} for row in numbered])
    await database.execute_many(raw, [row | {"id": row["id"] + 300} for row in numbered])
    expected = [tuple(row[name] for name in "ifsbdn") for row in rows]
    query = MANY.select().order_by(MANY.c.id)
    assert [tuple(row)[1:] for row in await database.fetch_all(query)] == expected * 4
    streamed = [tuple(row)[1:] async for row in database.iterate(query, batch_size=3)]
    assert streamed == expected * 4
    plain = await database.fetch_all("SELECT i, f, s, b FROM many ORDER BY id")
    assert [tuple(row) for row in plain] == [row[:4] for row in expected] * 4
    for number, row in enumerate(rows):
        for name in ("i", "s", "b", "d"):
            if row[name] is not None:
                found = sa.select(MANY.c.id).where(MANY.c[name] == row[name])
                assert number in [each.id for each in await database.fetch_all(found)]
