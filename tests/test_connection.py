from __future__ import annotations

import asyncio
from typing import Any

import pytest

import fastdb


@pytest.fixture
async def notes(database: fastdb.Database) -> fastdb.Database:
    await database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(100))")
    return database


async def test_one_object_in_one_task(database: fastdb.Database) -> None:
    async with database.connection() as outer:
        async with database.connection() as inner:
            assert inner is outer
            assert inner.raw_connection is outer.raw_connection
        assert await outer.fetch_val("SELECT 1") == 1
        assert database.pool.stats().leased == 1
    assert database.pool.stats().leased == 0


async def test_another_in_each_task(database: fastdb.Database) -> None:
    async def mine() -> fastdb.Connection:
        async with database.connection() as connection:
            await asyncio.sleep(0)
            return connection

    async with database.connection() as connection:
        first, second = await asyncio.gather(mine(), mine())
    assert len({id(connection), id(first), id(second)}) == 3


async def test_not_entered_it_leases_for_each_call(database: fastdb.Database) -> None:
    connection = database.connection()
    assert await connection.fetch_val("SELECT 1") == 1
    assert database.pool.stats().leased == 0
    with pytest.raises(fastdb.NotConnectedError, match="async with"):
        _ = connection.raw_connection


async def test_outside_of_a_task(database_url: str) -> None:
    database = fastdb.Database(database_url)
    error: list[BaseException] = []

    def call() -> None:
        try:
            database.connection()
        except fastdb.Error as exc:
            error.append(exc)

    await database.connect()
    asyncio.get_running_loop().call_soon(call)
    await asyncio.sleep(0)
    assert isinstance(error[0], fastdb.NotConnectedError)
    await database.disconnect()


async def test_database_methods_use_the_held_connection(database: fastdb.Database) -> None:
    async with database.connection():
        await database.execute("CREATE TEMPORARY TABLE mine (n INTEGER)")
        await database.execute("INSERT INTO mine VALUES (7)")
        assert await database.fetch_val("SELECT n FROM mine") == 7
        assert database.pool.stats().size == 1


async def test_gather_on_one_connection_takes_turns(database: fastdb.Database) -> None:
    async with database.connection() as connection:
        answers = await asyncio.gather(
            *(connection.fetch_val("SELECT :n + 0", {"n": n}) for n in range(30))
        )
    assert answers == list(range(30))


async def test_cancelled_turns_block_nobody(database: fastdb.Database) -> None:
    async with database.connection() as connection:
        tasks = [
            asyncio.create_task(connection.fetch_val("SELECT :n + 0", {"n": n})) for n in range(30)
        ]
        await asyncio.sleep(0)
        for task in tasks[1::2]:
            task.cancel()
        await asyncio.wait(tasks)
        for n, task in enumerate(tasks):
            assert task.cancelled() or task.result() == n
        assert await connection.fetch_val("SELECT 1") == 1


async def test_error_leaves_the_connection_usable(notes: fastdb.Database) -> None:
    async with notes.connection() as connection:
        with pytest.raises(fastdb.DatabaseError):
            await connection.execute("SELECT nosuch FROM nowhere")
        await connection.execute("INSERT INTO notes (id) VALUES (1)")
        with pytest.raises(fastdb.IntegrityError):
            await connection.execute("INSERT INTO notes (id) VALUES (1)")
        assert await connection.fetch_val("SELECT COUNT(*) FROM notes") == 1
    stats = notes.pool.stats()
    assert (stats.closed, stats.leased) == ({}, 0)


async def test_timeout_stops_the_query(database: fastdb.Database) -> None:
    slow = {
        "sqlite": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) "
        "SELECT count(*) FROM c",
        "postgresql": "SELECT pg_sleep(30)",
        "mysql": "SELECT SLEEP(30)",
    }[database.url.dialect]
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(fastdb.QueryTimeoutError, match="longer than") as caught:
        await database.fetch_all(slow, timeout=0.1)
    assert isinstance(caught.value, TimeoutError)
    with pytest.raises(fastdb.QueryTimeoutError):
        async with database.connection() as connection:
            await connection.execute(slow, timeout=0.1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await database.fetch_one(slow)
    assert loop.time() - began < 20
    assert await database.fetch_val("SELECT 1") == 1
    stats = database.pool.stats()
    assert (stats.leased, stats.idle) == (0, stats.size)


async def test_command_timeout(database_url: str) -> None:
    async with fastdb.Database(database_url, command_timeout=0.1) as database:
        slow = {
            "sqlite": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) "
            "SELECT count(*) FROM c",
            "postgresql": "SELECT pg_sleep(30)",
            "mysql": "SELECT SLEEP(30)",
        }[database.url.dialect]
        with pytest.raises(fastdb.QueryTimeoutError):
            await database.execute(slow)
        assert await database.fetch_val("SELECT 1", timeout=5) == 1


# -- the session


SET = {
    "sqlite": ("PRAGMA cache_size = 77", "PRAGMA cache_size", 77),
    "postgresql": ("SET work_mem = '77kB'", "SHOW work_mem", "77kB"),
    "mysql": ("SET SESSION wait_timeout = 777", "SELECT @@session.wait_timeout", 777),
}


@pytest.mark.parametrize("reset", ["auto", "always"])
async def test_a_changed_session_is_reset(database_url: str, reset: str) -> None:
    async with fastdb.Database(database_url, max_size=1, reset=reset) as database:
        change, look, changed = SET[database.url.dialect]
        before = await database.fetch_val(look)
        async with database.connection() as connection:
            await connection.execute(change)
            assert await connection.fetch_val(look) == changed
        assert await database.fetch_val(look) == before


async def test_reset_never_keeps_the_session(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=1, reset="never") as database:
        change, look, changed = SET[database.url.dialect]
        await database.execute(change)
        assert await database.fetch_val(look) == changed


async def test_init_runs_again_after_a_reset(database_url: str) -> None:
    calls: list[Any] = []

    async def init(raw: Any) -> None:
        calls.append(raw)

    async with fastdb.Database(database_url, max_size=1, init=init) as database:
        await database.execute(SET[database.url.dialect][0])
        await database.fetch_val("SELECT 1")
        await database.fetch_val("SELECT 1")
        assert len(calls) == 2


async def test_raw_connection_is_the_drivers(database: fastdb.Database) -> None:
    async with database.connection() as connection:
        raw = connection.raw_connection
        assert type(raw).__module__.split(".")[0] in ("asyncpg", "aiomysql", "aiosqlite", "fastdb")
        packages = {base.__module__.split(".")[0] for base in type(raw).__mro__}
        assert packages & {"asyncpg", "aiomysql", "aiosqlite", "asyncmy"}


async def test_a_transaction_left_open_by_raw_sql_is_rolled_back(notes: fastdb.Database) -> None:
    async with notes.connection() as connection:
        await connection.execute("BEGIN")
        await connection.execute("INSERT INTO notes (id) VALUES (1)")
    assert await notes.fetch_all("SELECT id FROM notes") == []


async def test_leaving_more_often_than_entering_is_told(database: fastdb.Database) -> None:
    with pytest.raises(fastdb.NotConnectedError, match="left more often"):
        await database.connection().__aexit__(None, None, None)


async def test_a_held_connection_on_another_loop_is_told(database: fastdb.Database) -> None:
    errors: list[BaseException] = []

    async with database.connection() as connection:

        def elsewhere() -> None:
            try:
                asyncio.run(asyncio.wait_for(connection.execute("SELECT 1"), 2))
            except BaseException as error:
                errors.append(error)

        await asyncio.to_thread(elsewhere)
        assert isinstance(errors[0], fastdb.EventLoopError)
        assert await connection.fetch_val("SELECT 1") == 1


async def test_a_lost_connection_is_replaced_in_a_full_pool(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=1, acquire_timeout=1) as database:
        async with database.connection() as connection:
            assert connection._lease.connection is not None
            connection._lease.connection.terminate()
            assert await connection.fetch_val("SELECT 1") == 1
            stats = database.pool.stats()
            assert (stats.leased, stats.size) == (1, 1)
        stats = database.pool.stats()
        assert (stats.leased, stats.idle) == (0, 1)


async def test_a_wait_for_anothers_lease_that_is_cancelled_leaks_nothing(database_url: str) -> None:
    gate = asyncio.Event()

    async def setup(raw: Any) -> None:
        await gate.wait()

    async with fastdb.Database(database_url, setup=setup) as database:
        connection = database.connection()

        async def first() -> None:
            async with connection:
                pass
            waiter.cancel()

        async def second() -> None:
            async with connection:
                pass

        leaser = asyncio.create_task(first())
        waiter = asyncio.create_task(second())
        await asyncio.sleep(0.01)
        gate.set()
        await asyncio.wait([leaser, waiter])
        assert database.pool.stats().leased == 0


async def test_readable_repr(database: fastdb.Database) -> None:
    task = asyncio.current_task()
    assert task is not None
    async with database.connection() as connection, connection.transaction():
        name = task.get_name()
        assert repr(connection) == f"<Connection of {name!r} holding, 1 transactions open>"
    assert repr(connection) == f"<Connection of {name!r} idle, 0 transactions open>"


async def test_a_changed_session_of_a_connection_nobody_holds_is_reset(database_url: str) -> None:
    change, query, value = {
        "sqlite": ("PRAGMA cache_size = 77", "PRAGMA cache_size", 77),
        "postgresql": ("SET work_mem = '77kB'", "SHOW work_mem", "77kB"),
        "mysql": ("SET sort_buffer_size = 77824", "SELECT @@sort_buffer_size", 77824),
    }[fastdb.Database(database_url).url.dialect]
    async with fastdb.Database(database_url, max_size=1) as database:
        async with database.connection() as held:
            await held.execute(change)
            assert await held.fetch_val(query) == value
        shared = fastdb.Connection(database)
        await shared.execute(change)
        assert await shared.fetch_val(query) != value
        assert database.pool.stats().leased == 0
