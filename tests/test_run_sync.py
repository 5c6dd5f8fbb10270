"""SQLAlchemy's synchronous tools over a connection of fastdb's."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
import sqlalchemy as sa

import fastdb
from tests.faults.conftest import eventually, is_whole

metadata = sa.MetaData()
notes = sa.Table(
    "notes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("text", sa.String(100)),
    sa.Column("data", sa.JSON),
)
links = sa.Table(
    "links", metadata, sa.Column("note", sa.ForeignKey(notes.c.id)), sa.Column("to", sa.Text)
)


@pytest.fixture
async def made(database: fastdb.Database) -> fastdb.Database:
    """Provide a Database with the tables of `metadata`."""
    await database.create_all(metadata)
    return database


def names(connection: sa.Connection) -> list[str]:
    return sorted(sa.inspect(connection).get_table_names())


def insert(connection: sa.Connection, text: str) -> int:
    result = connection.execute(notes.insert().values(text=text, data={"x": [text]}))
    assert result.inserted_primary_key is not None
    key: int = result.inserted_primary_key[0]
    return key


async def texts(database: fastdb.Database) -> list[str]:
    records = await database.fetch_all(sa.select(notes.c.text).order_by(notes.c.id))
    return [record.text for record in records]


async def test_tables_are_made_and_dropped(database: fastdb.Database) -> None:
    assert await database.run_sync(names) == []
    await database.create_all(metadata)
    await database.create_all(metadata)  # those that are there are left alone
    assert await database.run_sync(names) == ["links", "notes"]
    await database.drop_all(metadata, tables=[links])
    assert await database.run_sync(names) == ["notes"]
    async with database.connection() as connection:
        await connection.drop_all(metadata)
        assert await connection.run_sync(names) == []
    assert is_whole(database)


async def test_what_it_returns_and_raises_passes(made: fastdb.Database) -> None:
    def fail(connection: sa.Connection) -> None:
        insert(connection, "undone")
        raise LookupError("mine")

    assert await made.run_sync(lambda connection, *args: args, 1, 2) == (1, 2)
    with pytest.raises(LookupError, match="mine"):
        await made.run_sync(fail)
    with pytest.raises(sa.exc.DBAPIError):
        await made.run_sync(lambda connection: connection.execute(sa.text("SELECT nonsense")))
    assert await texts(made) == []
    assert is_whole(made)


async def test_what_is_left_uncommitted_is_committed_at_the_end(made: fastdb.Database) -> None:
    key = await made.run_sync(insert, "kept")
    record = await made.fetch_one(sa.select(notes).where(notes.c.id == key))
    assert record == (key, "kept", {"x": ["kept"]})
    # JSON is read by the same types on the way back, and plain SQL is as it was.
    read = await made.run_sync(lambda connection: connection.execute(sa.select(notes.c.data)).all())
    assert read == [({"x": ["kept"]},)]
    assert type(await made.fetch_val("SELECT data FROM notes")) is str


async def test_commits_and_rollbacks_of_its_own(made: fastdb.Database) -> None:
    def work(connection: sa.Connection) -> None:
        insert(connection, "first")
        connection.commit()
        insert(connection, "second")
        connection.rollback()
        with connection.begin_nested():
            insert(connection, "third")
        nested = connection.begin_nested()
        insert(connection, "fourth")
        nested.rollback()

    await made.run_sync(work)
    assert await texts(made) == ["first", "third"]
    async with made.transaction(force_rollback=True):
        await made.run_sync(work)
        assert await texts(made) == ["first", "third", "first", "third"]
    assert await texts(made) == ["first", "third"]
    assert is_whole(made)


async def test_inside_a_transaction_it_joins_that(made: fastdb.Database) -> None:
    with pytest.raises(LookupError):
        async with made.transaction():
            await made.execute(notes.insert(), {"text": "before"})
            assert await made.run_sync(
                lambda connection: connection.execute(sa.select(notes.c.text)).all()
            ) == [("before",)]
            await made.run_sync(insert, "inside")
            assert await texts(made) == ["before", "inside"]
            raise LookupError
    assert await texts(made) == []
    async with made.transaction():
        await made.run_sync(insert, "kept")
        with pytest.raises(sa.exc.IntegrityError):
            await made.run_sync(
                lambda connection: connection.execute(
                    sa.text("INSERT INTO notes (id, text) SELECT id, 'twice' FROM notes")
                )
            )
        await made.execute(notes.insert(), {"text": "after"})
    assert await texts(made) == ["kept", "after"]


async def test_a_serializable_transaction_is_joined(made: fastdb.Database) -> None:
    async with made.transaction(isolation="serializable"):
        await made.run_sync(insert, "kept")
    assert await texts(made) == ["kept"]


async def test_under_force_rollback_nothing_stays(database_url: str) -> None:
    async with fastdb.Database(database_url) as database:
        await database.create_all(metadata)
    async with fastdb.Database(database_url, force_rollback=True) as database:
        await database.run_sync(insert, "never kept")
        with pytest.raises(sa.exc.DBAPIError):
            await database.run_sync(lambda connection: connection.execute(sa.text("nonsense")))
        assert await texts(database) == ["never kept"]
    async with fastdb.Database(database_url) as database:
        assert await texts(database) == []


async def test_tables_made_under_force_rollback(database_url: str) -> None:
    """MySQL commits at DDL, which ends the forced transaction; what follows is in another one."""
    async with fastdb.Database(database_url, force_rollback=True) as database:
        for _ in range(2):
            await database.create_all(metadata)
            await database.run_sync(insert, "never kept")
    async with fastdb.Database(database_url) as database:
        await database.create_all(metadata)
        assert await texts(database) == []


async def test_tables_made_in_a_transaction(database: fastdb.Database) -> None:
    """PostgreSQL and SQLite undo it; MySQL commits, and the transaction can be left anyway."""
    async with database.transaction(force_rollback=database.url.dialect != "mysql"):
        await database.create_all(metadata)
        await database.execute(notes.insert(), {"text": "a"})
    there = await database.run_sync(names)
    assert there == (["links", "notes"] if database.url.dialect == "mysql" else [])
    assert is_whole(database)


async def test_autocommit_and_isolation_levels_of_sqlalchemys(made: fastdb.Database) -> None:
    def work(connection: sa.Connection) -> None:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        insert(connection, "kept")
        connection.rollback()
        connection.execution_options(isolation_level="SERIALIZABLE")
        insert(connection, "undone")
        connection.rollback()

    await made.run_sync(work)
    assert await texts(made) == ["kept"]


async def test_other_tasks_wait_for_their_turn(made: fastdb.Database) -> None:
    async with made.connection() as connection:

        async def write(number: int) -> None:
            await connection.execute(notes.insert(), {"text": f"task {number}"})

        def work(synchronous: sa.Connection) -> None:
            for _ in range(5):
                insert(synchronous, "sync")
            synchronous.rollback()

        await asyncio.gather(connection.run_sync(work), *(write(n) for n in range(5)))
    assert sorted(await texts(made)) == [f"task {n}" for n in range(5)]


async def test_cancelled_it_leaves_nothing(made: fastdb.Database) -> None:
    def work(connection: sa.Connection) -> None:
        for text in whole:
            insert(connection, text)

    whole = [f"{number}" for number in range(50)]
    for turns in (0, 1, 2, 5, 10, 20, 40, 80):
        task = asyncio.create_task(in_task(made, work))
        for _ in range(turns):
            await asyncio.sleep(0)
        in_time = task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() == in_time
        await eventually(lambda: is_whole(made), "the return of the connection")
        # A cancellation that reaches the COMMIT itself comes too late to undo it.
        assert await texts(made) in ([[], whole] if in_time else [whole])
        await made.execute(notes.delete())


async def in_task(database: fastdb.Database, function: Any) -> None:
    await database.run_sync(function)


async def test_no_session_setting_stays(made: fastdb.Database) -> None:
    if made.url.dialect != "postgresql":
        return
    await made.run_sync(lambda connection: connection.execute(sa.text("SET work_mem = '1MB'")))
    assert await made.fetch_val("SHOW work_mem") != "1MB"


async def test_what_is_no_synchronous_function_is_told(database: fastdb.Database) -> None:
    async def wrong(connection: sa.Connection) -> None: ...

    functions: list[Any] = [wrong, 7]
    for function in functions:
        with pytest.raises(fastdb.OptionError, match="run_sync takes a synchronous function"):
            await database.run_sync(function)


async def test_without_greenlet_the_way_out_is_told(
    database: fastdb.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "greenlet", None)
    with pytest.raises(fastdb.DriverNotInstalledError, match=r"fastdb-sql\[migrations\]"):
        await database.run_sync(names)
    assert is_whole(database)


async def test_tables_of_mysql_stay_that_were_made_before_an_error(mysql_url: str) -> None:
    def make_and_fail(connection: sa.Connection) -> None:
        metadata.create_all(connection)
        raise ZeroDivisionError

    async with fastdb.Database(mysql_url) as database:
        async with database.transaction():
            with pytest.raises(ZeroDivisionError):
                await database.run_sync(make_and_fail)
        assert await database.run_sync(names) == ["links", "notes"]


async def test_nothing_is_left_to_commit_where_sqlalchemy_begins_nothing(
    made: fastdb.Database,
) -> None:
    def work(connection: sa.Connection) -> None:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        insert(connection, "a")
        connection.commit()
        connection.rollback()

    await made.run_sync(work)
    assert await texts(made) == ["a"]
