from __future__ import annotations

import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

import fastdb

metadata = sa.MetaData()
notes = sa.Table(
    "notes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("text", sa.String(100), unique=True),
    sa.Column("completed", sa.Boolean, default=False),
    sa.Column("version", sa.Integer, default=1, onupdate=lambda: 99),
)
tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("token", sa.String(36), primary_key=True, default=lambda: str(uuid.uuid4())),
    sa.Column("n", sa.Integer),
)
pairs = sa.Table(
    "pairs",
    metadata,
    sa.Column("a", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("b", sa.Integer, primary_key=True, autoincrement=False),
)
keyless = sa.Table("keyless", metadata, sa.Column("n", sa.Integer))


@pytest.fixture
async def tables(database: fastdb.Database) -> fastdb.Database:
    for table in metadata.sorted_tables:
        await database.execute(sa.schema.CreateTable(table))
    return database


async def test_ddl_gives_none(database: fastdb.Database) -> None:
    assert await database.execute(sa.schema.CreateTable(notes)) is None
    assert await database.execute("CREATE TABLE other (n INTEGER)") is None
    assert await database.execute("DROP TABLE other") is None


async def test_core_insert_gives_the_generated_key(tables: fastdb.Database) -> None:
    assert await tables.execute(notes.insert(), {"text": "a"}) == 1
    assert await tables.execute(notes.insert().values(text="b")) == 2
    assert await tables.execute(sa.insert(notes).values({"text": "c"}), {"completed": True}) == 3
    async with tables.transaction():
        assert await tables.execute(notes.insert(), {"text": "d"}) == 4
    row = await tables.fetch_one(notes.select().where(notes.c.id == 3))
    assert row is not None
    assert (row.text, row.completed, row.version) == ("c", True, 1)


async def test_core_insert_gives_the_given_key(tables: fastdb.Database) -> None:
    assert await tables.execute(notes.insert(), {"id": 70, "text": "a"}) == 70
    assert await tables.execute(tokens.insert(), {"token": "t", "n": 1}) == "t"
    assert await tables.execute(pairs.insert(), {"a": 3, "b": 4}) == 3
    made = await tables.execute(tokens.insert(), {"n": 2})
    assert isinstance(made, str)
    assert made == await tables.fetch_val("SELECT token FROM tokens WHERE n = 2")


async def test_several_rows_give_the_first_ones_key(tables: fastdb.Database) -> None:
    query = notes.insert().values([{"text": "a"}, {"text": "b"}])
    assert await tables.execute(query) == 1
    assert await tables.fetch_val("SELECT COUNT(*) FROM notes") == 2


async def test_raw_insert(tables: fastdb.Database) -> None:
    query = "INSERT INTO notes (text) VALUES (:text)"
    expected: Any = {"sqlite": 1, "mysql": 1, "postgresql": None}[tables.url.dialect]
    if tables.url.dialect == "postgresql":
        assert await tables.execute(query, {"text": "a"}) is None
    else:
        assert await tables.execute(query, {"text": "a"}) == expected
    without = {"sqlite": 1, "mysql": 1, "postgresql": None}[tables.url.dialect]
    assert await tables.execute("INSERT INTO keyless (n) VALUES (5)") == without


async def test_core_insert_without_a_key(tables: fastdb.Database) -> None:
    expected = {"sqlite": 1, "mysql": 1, "postgresql": None}[tables.url.dialect]
    assert await tables.execute(keyless.insert(), {"n": 5}) == expected


async def test_update_and_delete_give_the_rowcount(tables: fastdb.Database) -> None:
    await tables.execute_many(notes.insert(), [{"text": f"n{n}"} for n in range(5)])
    assert await tables.execute("UPDATE notes SET completed = :c", {"c": True}) == 5
    assert await tables.execute(notes.update().where(notes.c.id < 3), {"completed": True}) == 2
    assert await tables.fetch_val("SELECT version FROM notes WHERE id = 1") == 99
    assert await tables.execute(notes.update().where(notes.c.id < 3), {"completed": True}) == 2
    assert await tables.execute(notes.delete().where(notes.c.id == 1)) == 1
    assert await tables.execute("DELETE FROM notes WHERE id = 1") == 0
    assert await tables.execute("DELETE FROM notes") == 4


async def test_select_gives_the_first_column_of_the_first_row(tables: fastdb.Database) -> None:
    assert await tables.execute("SELECT 7, 8") == 7
    assert await tables.execute("SELECT id FROM notes") is None
    assert await tables.execute(sa.select(sa.literal_column("5"))) == 5


async def test_returning(tables: fastdb.Database) -> None:
    raw = "INSERT INTO notes (text) VALUES (:text) RETURNING text, id"
    assert await tables.execute(raw, {"text": "a"}) == "a"
    core = notes.insert().returning(notes.c.text, notes.c.completed)
    assert await tables.execute(core, {"text": "b"}) == "b"
    row = await tables.fetch_one(core, {"text": "c"})
    assert row is not None
    assert (row.text, row.completed) == ("c", False)
    if tables.url.dialect != "mysql":
        query = notes.update().where(notes.c.id == 1).values(text="z").returning(notes.c.text)
        assert await tables.execute(query) == "z"
        deleted = await tables.fetch_all(notes.delete().returning(notes.c.id))
        assert sorted(row.id for row in deleted) == [1, 2, 3]


async def test_nothing_inserted_gives_none(tables: fastdb.Database) -> None:
    first: Any
    match tables.url.dialect:
        case "sqlite":
            first = sqlite.insert(notes).on_conflict_do_nothing()
        case "postgresql":
            first = postgresql.insert(notes).on_conflict_do_nothing()
        case _:
            first = notes.insert().prefix_with("IGNORE")
    assert await tables.execute(first, {"text": "a"}) == 1
    assert await tables.execute(first, {"text": "a"}) is None
    result = await tables.execute_result(first, {"text": "a"})
    assert (result.rowcount, result.inserted_primary_key) == (0, None)


async def test_upsert(tables: fastdb.Database) -> None:
    query: Any
    match tables.url.dialect:
        case "sqlite":
            insert = sqlite.insert(notes)
            query = insert.on_conflict_do_update(
                index_elements=["text"], set_={"version": insert.excluded.version}
            )
        case "postgresql":
            pg_insert = postgresql.insert(notes)
            query = pg_insert.on_conflict_do_update(
                index_elements=["text"], set_={"version": pg_insert.excluded.version}
            )
        case _:
            my_insert = mysql.insert(notes)
            query = my_insert.on_duplicate_key_update(version=my_insert.inserted.version)
    await tables.execute(query, {"text": "a", "version": 1})
    await tables.execute(query, {"text": "a", "version": 2})
    rows = await tables.fetch_all("SELECT text, version FROM notes")
    assert [tuple(row) for row in rows] == [("a", 2)]


async def test_the_rowcount_never_echoes_an_older_key(tables: fastdb.Database) -> None:
    async with tables.connection() as connection:
        await connection.execute(notes.insert(), {"id": 50, "text": "a"})
        assert await connection.execute("UPDATE notes SET version = 2 WHERE id = 1") == 0
        result = await connection.execute_result("DELETE FROM notes WHERE id = 1")
        assert (result.rowcount, result.lastrowid, result.rows) == (0, None, [])
        assert result.inserted_primary_key is None


async def test_the_whole_story(tables: fastdb.Database) -> None:
    result = await tables.execute_result(notes.insert(), {"text": "a"})
    assert result.rowcount == 1
    assert result.inserted_primary_key == (1,)
    assert result.rows == []
    assert result.lastrowid == (None if tables.url.dialect == "postgresql" else 1)
    result = await tables.execute_result(pairs.insert(), {"a": 1, "b": 2})
    assert result.inserted_primary_key == (1, 2)
    result = await tables.execute_result("SELECT 1 AS one, 2 AS two")
    assert [tuple(row) for row in result.rows] == [(1, 2)]
    assert result.rowcount == 1
    result = await tables.execute_result(notes.insert().returning(notes.c.id), {"text": "b"})
    assert [row.id for row in result.rows] == [2]


async def test_sql_expressions_as_values(tables: fastdb.Database) -> None:
    await tables.execute(notes.insert(), {"text": sa.func.lower("ABC")})
    await tables.execute(notes.update(), {"version": notes.c.version + 10})
    row = await tables.fetch_one(notes.select())
    assert row is not None
    assert (row.text, row.version) == ("abc", 11)


async def test_values_fill_bindparams(tables: fastdb.Database) -> None:
    await tables.execute_many(notes.insert(), [{"text": f"n{n}"} for n in range(5)])
    query = notes.select().where(notes.c.id == sa.bindparam("wanted"))
    for wanted in (2, 3):
        row = await tables.fetch_one(query, {"wanted": wanted})
        assert row is not None
        assert row.id == wanted
    update = notes.update().where(notes.c.id == sa.bindparam("wanted"))
    assert await tables.execute(update, {"wanted": 2, "text": "changed"}) == 1
    delete = notes.delete().where(notes.c.id.in_(sa.bindparam("ids", expanding=True)))
    assert await tables.execute(delete, {"ids": [1, 2, 77]}) == 2
    text = sa.text("SELECT COUNT(*) FROM notes WHERE id > :low")
    assert await tables.fetch_val(text, {"low": 3}) == 2


async def test_in_with_lists_of_any_length(tables: fastdb.Database) -> None:
    await tables.execute_many(notes.insert(), [{"text": f"n{n}"} for n in range(5)])
    for wanted in ([], [1], [1, 2, 3], list(range(200)), [2], []):
        rows = await tables.fetch_all(notes.select().where(notes.c.id.in_(wanted)))
        assert sorted(row.id for row in rows) == [n for n in wanted if 1 <= n <= 5]


@pytest.mark.parametrize("core", [True, False])
async def test_parameters_are_checked(tables: fastdb.Database, core: bool) -> None:
    query: Any = "SELECT * FROM notes WHERE id = :id AND text = :text"
    if core:
        query = notes.select().where(
            notes.c.id == sa.bindparam("id"), notes.c.text == sa.bindparam("text")
        )
    with pytest.raises(fastdb.MissingParameterError, match="'text' has no value"):
        await tables.fetch_all(query, {"id": 1})
    with pytest.raises(fastdb.MissingParameterError):
        await tables.fetch_all(query)
    with pytest.raises(fastdb.UnknownParameterError, match="'texd'"):
        await tables.fetch_all(query, {"id": 1, "text": "x", "texd": "x"})
    for wrong in ([1, 2], 7, "x", {1: 2}):
        with pytest.raises(fastdb.ProgrammingError):
            await tables.fetch_all(query, wrong)  # type: ignore[arg-type]
    assert await tables.fetch_all(query, {"id": 1, "text": "x"}) == []


async def test_unknown_columns_are_told(tables: fastdb.Database) -> None:
    with pytest.raises(fastdb.UnknownParameterError, match="'nosuch'"):
        await tables.execute(notes.insert(), {"nosuch": 1})
    with pytest.raises(fastdb.UnknownParameterError, match="'nosuch'"):
        await tables.execute(notes.update(), {"nosuch": 1})


@pytest.mark.parametrize("query", [7, b"SELECT 1", ["SELECT 1"], object()])
async def test_what_is_no_query_is_told(database: fastdb.Database, query: Any) -> None:
    with pytest.raises(fastdb.QueryTypeError):
        await database.execute(query)
    with pytest.raises(fastdb.QueryTypeError):
        await database.fetch_all(query)


@pytest.mark.parametrize("query", [None, "", "   ", "-- nothing\n", "/* nothing */"])
async def test_an_empty_query_is_told(database: fastdb.Database, query: Any) -> None:
    with pytest.raises(fastdb.EmptyQueryError):
        await database.execute(query)


async def test_bad_sql_is_told_with_the_drivers_class(tables: fastdb.Database) -> None:
    for bad in ("SELEKT 1", "SELECT nosuch FROM notes", "SELECT * FROM nosuch"):
        with pytest.raises(fastdb.ProgrammingError) as caught:
            await tables.fetch_all(bad)
        cause = caught.value.__cause__
        assert cause is not None
        assert isinstance(caught.value, type(cause))
        assert type(cause).__module__.split(".")[0] in ("sqlite3", "asyncpg", "pymysql", "asyncmy")


async def test_constraints_are_told_with_the_drivers_class(tables: fastdb.Database) -> None:
    await tables.execute(notes.insert(), {"id": 1, "text": "a"})
    for duplicate in ({"id": 1, "text": "b"}, {"id": 2, "text": "a"}):
        with pytest.raises(fastdb.IntegrityError) as caught:
            await tables.execute(notes.insert(), duplicate)
        assert isinstance(caught.value, type(caught.value.__cause__))
    assert await tables.fetch_val("SELECT COUNT(*) FROM notes") == 1


async def test_fetch_val(tables: fastdb.Database) -> None:
    await tables.execute(notes.insert(), {"text": "a"})
    query = notes.select()
    assert await tables.fetch_val(query) == 1
    assert await tables.fetch_val(query, column=1) == "a"
    assert await tables.fetch_val(query, column="text") == "a"
    assert await tables.fetch_val(query, column=notes.c.completed) is False
    assert await tables.fetch_val(query, None, -1) == 1
    assert await tables.fetch_val(notes.select().where(notes.c.id == 9)) is None
    with pytest.raises(fastdb.ColumnNotFoundError, match="nosuch"):
        await tables.fetch_val(query, column="nosuch")
    with pytest.raises(IndexError):
        await tables.fetch_val(query, column=20)


async def test_fetch_one_of_many_leaves_the_connection_usable(tables: fastdb.Database) -> None:
    await tables.execute_many(notes.insert(), [{"text": f"n{n}"} for n in range(500)])
    for _ in range(3):
        row = await tables.fetch_one(notes.select().order_by(notes.c.id))
        assert row is not None
        assert row.id == 1
    assert await tables.fetch_one("SELECT * FROM notes WHERE id = 0") is None


async def test_literal_percent_colon_and_question_mark(database: fastdb.Database) -> None:
    cast = {"sqlite": "'1'", "postgresql": "'1'::text", "mysql": "'1'"}[database.url.dialect]
    query = f"SELECT '100%', 'a:b', '%s ?', {cast}, :x || '' -- :nothing % ?"
    if database.url.dialect == "mysql":
        query = f"SELECT '100%', 'a:b', '%s ?', {cast}, CONCAT(:x, '') # :nothing % ?"
    row = await database.fetch_one(query, {"x": "50% :y ?"})
    assert row is not None
    assert tuple(row) == ("100%", "a:b", "%s ?", "1", "50% :y ?")
    like = sa.select(sa.literal("a%b").like("a%%b"), sa.literal_column("'7%'", sa.String))
    row = await database.fetch_one(like)
    assert row is not None
    assert row[1] == "7%"


async def test_execute_many(tables: fastdb.Database) -> None:
    rows = [{"text": f"n{n}"} for n in range(2500)]
    await tables.execute_many(notes.insert(), (row for row in rows))
    assert await tables.fetch_val("SELECT COUNT(*) FROM notes") == 2500
    assert await tables.fetch_val("SELECT COUNT(*) FROM notes WHERE version = 1") == 2500
    await tables.execute_many(
        "UPDATE notes SET version = :v WHERE id = :id", [{"v": n, "id": n} for n in range(1, 4)]
    )
    rows_ = await tables.fetch_all("SELECT version FROM notes WHERE id < 4 ORDER BY id")
    assert [row.version for row in rows_] == [1, 2, 3]
    await tables.execute_many(notes.insert(), [])
    await tables.execute_many("DELETE FROM notes WHERE id = :id", [])
    assert await tables.fetch_val("SELECT COUNT(*) FROM notes") == 2500


async def test_execute_many_takes_rows_of_different_keys(tables: fastdb.Database) -> None:
    await tables.execute_many(
        notes.insert(),
        [{"text": "a"}, {"id": 40, "text": "b"}, {"id": 41, "text": "c", "version": 7}],
    )
    rows = await tables.fetch_all(notes.select().order_by(notes.c.id))
    assert [(row.text, row.version) for row in rows] == [("a", 1), ("b", 1), ("c", 7)]


@pytest.mark.parametrize("count", [3, 1500])
async def test_execute_many_is_all_or_nothing(tables: fastdb.Database, count: int) -> None:
    rows = [{"id": n, "text": f"n{n}"} for n in range(1, count)]
    with pytest.raises(fastdb.IntegrityError):
        await tables.execute_many(notes.insert(), [*rows, {"id": 1, "text": "again"}])
    assert await tables.fetch_val("SELECT COUNT(*) FROM notes") == 0
    async with tables.transaction():
        await tables.execute(notes.insert(), {"id": 5000, "text": "kept"})
        with pytest.raises(fastdb.IntegrityError):
            await tables.execute_many(notes.insert(), [*rows, {"id": 1, "text": "again"}])
        await tables.execute_many(notes.insert(), rows[:2])
    assert await tables.fetch_val("SELECT COUNT(*) FROM notes") == 1 + min(2, len(rows))


@pytest.mark.parametrize("values", [None, 7, "abc", {"text": "a"}, [7], [["a"]], ["a"]])
async def test_execute_many_wants_mappings(tables: fastdb.Database, values: Any) -> None:
    with pytest.raises(fastdb.QueryTypeError):
        await tables.execute_many(notes.insert(), values)
    assert await tables.fetch_val("SELECT COUNT(*) FROM notes") == 0
    assert tables.pool.stats().leased == 0


async def test_errors_of_the_rows_iterable_pass(tables: fastdb.Database) -> None:
    def rows() -> Any:
        yield {"text": "a"}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await tables.execute_many(notes.insert(), rows())
    assert await tables.fetch_val("SELECT COUNT(*) FROM notes") == 0


async def test_duplicate_column_names(database: fastdb.Database) -> None:
    row = await database.fetch_one("SELECT 1 AS id, 2 AS id")
    assert row is not None
    assert list(row.keys()) == ["id", "id"]
    assert list(row.values()) == [1, 2]
    assert row.id == 1
    assert row[1] == 2


async def test_columns_of_joins_and_aliases(tables: fastdb.Database) -> None:
    await tables.execute_many(notes.insert(), [{"text": "a"}, {"text": "b"}])
    for _ in range(2):
        other = notes.alias()
        query = (
            sa.select(notes.c.id, other.c.id, notes.c.text.label("label"))
            .select_from(notes.join(other, other.c.id == notes.c.id + 1))
            .order_by(notes.c.id)
        )
        row = await tables.fetch_one(query)
        assert row is not None
        assert (row[notes.c.id], row[other.c.id], row[notes.c.text]) == (1, 2, "a")
        assert row.label == "a"


async def test_the_same_query_object_again(tables: fastdb.Database) -> None:
    query = notes.insert()
    for n in range(5):
        assert await tables.execute(query, {"text": f"n{n}"}) == n + 1
    select = notes.select().where(notes.c.id == sa.bindparam("id"))
    for n in range(1, 5):
        row = await tables.fetch_one(select, {"id": n})
        assert row is not None
        assert row.text == f"n{n - 1}"
    for n in range(1, 5):
        row = await tables.fetch_one(notes.select().where(notes.c.id == n))
        assert row is not None
        assert row.text == f"n{n - 1}"
    assert tables.query_cache.info().hits > 0


async def test_a_key_that_only_the_server_knows(mysql_url: str) -> None:
    made = sa.Table(
        "made",
        sa.MetaData(),
        sa.Column("id", sa.String(36), primary_key=True, server_default=sa.text("(uuid())")),
        sa.Column("n", sa.Integer),
        implicit_returning=False,
    )
    async with fastdb.Database(mysql_url) as database:
        await database.execute(sa.schema.CreateTable(made))
        result = await database.execute_result(made.insert(), {"n": 1})
        assert result.rowcount == 1
        assert result.inserted_primary_key in ((None,), None)
        assert len(await database.fetch_val(sa.select(made.c.id))) == 36


async def test_a_time_out_of_the_users_own_is_not_the_querys(database: fastdb.Database) -> None:
    class Slow(sa.TypeDecorator[Any]):
        impl = sa.Integer
        cache_ok = True

        def process_bind_param(self, value: Any, dialect: Any) -> Any:
            return value

        def process_result_value(self, value: Any, dialect: Any) -> Any:
            raise TimeoutError("mine")

    query = sa.select(sa.type_coerce(sa.literal(1), Slow()).label("n"))
    with pytest.raises(TimeoutError, match="mine") as caught:
        await database.fetch_all(query, timeout=30)
    assert not isinstance(caught.value, fastdb.Error)
    assert await database.fetch_val("SELECT 1") == 1
