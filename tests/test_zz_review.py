from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import fastdb

TABLE = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(100))"


@pytest.fixture
async def notes(database: fastdb.Database) -> fastdb.Database:
    await database.execute(TABLE)
    return database


async def add(queries: Any, number: int) -> None:
    await queries.execute("INSERT INTO notes (id) VALUES (:id)", {"id": number})


async def ids(queries: Any) -> list[int]:
    return [row[0] for row in await queries.fetch_all("SELECT id FROM notes ORDER BY id")]


# database
async def test_connected_again_after_a_disconnect_inside_a_connection(
    notes: fastdb.Database,
) -> None:
    async with notes.connection():
        await notes.disconnect()
    await notes.connect()
    with pytest.raises(ZeroDivisionError):
        async with notes.transaction():
            await asyncio.wait_for(add(notes.connection(), 1), 5)
            await asyncio.wait_for(notes.execute("INSERT INTO notes (id) VALUES (2)"), 5)
            raise ZeroDivisionError
    assert await ids(notes) == []


async def test_a_forced_rollback_ends_what_still_holds_the_connection(database_url: str) -> None:
    database = fastdb.Database(database_url)
    async with database:
        await database.execute(TABLE)
    database.force_rollback = True
    await database.connect()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with database.connection() as connection:
            entered.set()
            await leave.wait()
            with pytest.raises(fastdb.NotConnectedError):
                await add(connection, 1)

    task = asyncio.create_task(work())
    await entered.wait()
    closing = asyncio.create_task(database.disconnect(timeout=0.2))
    await asyncio.sleep(0.05)
    leave.set()
    await asyncio.gather(task, closing)
    database.force_rollback = False
    async with database:
        assert await ids(database) == []


async def test_a_forced_rollback_lets_no_queued_statement_through(database_url: str) -> None:
    database = fastdb.Database(database_url)
    async with database:
        await database.execute(TABLE)
    database.force_rollback = True
    await database.connect()
    tasks = [asyncio.create_task(add(database, n)) for n in range(10)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(database.disconnect())
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(add(database, n)) for n in range(10, 20)]
    await asyncio.wait([*tasks, closing])
    await closing
    for task in tasks:
        assert task.exception() is None or isinstance(task.exception(), fastdb.NotConnectedError)
    database.force_rollback = False
    async with database:
        assert await ids(database) == []


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


async def test_force_rollback_on_another_loop_is_told(database_url: str) -> None:
    errors: list[BaseException] = []
    async with fastdb.Database(database_url, force_rollback=True) as database:

        def elsewhere() -> None:
            try:
                asyncio.run(asyncio.wait_for(database.execute("SELECT 1"), 2))
            except BaseException as error:
                errors.append(error)

        await asyncio.to_thread(elsewhere)
        assert isinstance(errors[0], fastdb.EventLoopError)
        assert await database.fetch_val("SELECT 1") == 1


# connection
async def test_a_lost_connection_is_replaced_in_a_full_pool(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=1, acquire_timeout=1) as database:
        async with database.connection() as connection:
            assert connection._driver_connection is not None
            connection._driver_connection.terminate()
            assert await connection.fetch_val("SELECT 1") == 1
            stats = database.pool.stats()
            assert (stats.leased, stats.size) == (1, 1)
        stats = database.pool.stats()
        assert (stats.leased, stats.idle) == (0, 1)


async def test_a_cancelled_hold_leaks_nothing(database: fastdb.Database) -> None:
    connection = database.connection()

    async def enter() -> None:
        async with connection:
            pass

    for steps in range(6):
        first = asyncio.create_task(enter())
        second = asyncio.create_task(enter())
        for _ in range(steps):
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([first, second])
        assert database.pool.stats().leased == 0


async def test_cancelled_hold_direct(database: fastdb.Database) -> None:
    async def setup(raw: Any) -> None:
        await gate.wait()

    gate = asyncio.Event()
    async with fastdb.Database(database.url, setup=setup) as db:
        connection = db.connection()
        tasks: list[asyncio.Task[None]] = []

        async def enter(which: int) -> None:
            async with connection:
                if which == 0:
                    pass
            if which == 0:
                tasks[1].cancel()

        tasks += [asyncio.create_task(enter(n)) for n in range(2)]
        await asyncio.sleep(0.01)
        gate.set()
        await asyncio.wait(tasks)
        assert db.pool.stats().leased == 0


async def test_iterate_beside_another_query(notes: fastdb.Database) -> None:
    async with notes.connection() as connection:
        slow = {
            "sqlite": "SELECT 1",
            "postgresql": "SELECT 1 FROM pg_sleep(0.1)",
            "mysql": "SELECT SLEEP(0.1) + 1",
        }[notes.url.dialect]
        query = asyncio.create_task(connection.fetch_val(slow))
        await asyncio.sleep(0.02)
        rows = [row async for row in connection.iterate("SELECT 1 AS n")]
        assert len(rows) == 1
        assert await query == 1
    assert notes.pool.stats().closed == {}


async def test_iterate_waits_for_another_tasks_transaction(notes: fastdb.Database) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def other(connection: fastdb.Connection) -> None:
        async with connection.transaction():
            entered.set()
            await leave.wait()

    async with notes.connection() as connection:
        task = asyncio.create_task(other(connection))
        await entered.wait()
        rows = connection.iterate("SELECT 1 AS n UNION ALL SELECT 2", batch_size=1)
        first = asyncio.create_task(anext(rows))
        await asyncio.sleep(0.02)
        leave.set()
        await first
        assert not connection._driver_connection.in_transaction
        await add(connection, 1)
        async with fastdb.Database(notes.url) as second:
            assert await ids(second) == [1]
        await rows.aclose()
        await task


# transaction
@pytest.mark.parametrize("depth", [1, 2])
async def test_a_swallowed_error_undoes_only_the_inner_block(
    notes: fastdb.Database, depth: int
) -> None:
    async with notes.transaction():
        await add(notes, 1)
        async with notes.transaction():
            await add(notes, 2)
            try:
                async with notes.transaction():
                    await add(notes, 3)
                    with pytest.raises(fastdb.DatabaseError):
                        await notes.execute("SELECT nosuch FROM nowhere")
            except fastdb.DatabaseError:
                assert notes.url.dialect == "postgresql"
        await add(notes, 4)
    expected = [1, 2, 4] if notes.url.dialect == "postgresql" else [1, 2, 3, 4]
    assert await ids(notes) == expected


async def cancel_after(task: asyncio.Task[Any], *steps: int) -> None:
    for count in steps:
        for _ in range(count):
            if task.done():
                break
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("second", [None, 0, 1, 2, 5])
async def test_cancelled_at_any_step(database_url: str, second: int | None) -> None:
    import random
    async with fastdb.Database(database_url, max_size=1, acquire_timeout=2) as database:
        await database.execute(TABLE)
        connection: list[Any] = []

        async def work() -> None:
            async with database.transaction():
                await add(database, 1)
                async with database.transaction():
                    await add(database, 2)
                await add(database, 3)

        done = 0
        for step in range(60):
            task = asyncio.create_task(work())
            for _ in range(step):
                await asyncio.sleep(0.0001)
            task.cancel()
            if second is not None:
                for _ in range(second):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait([task])
            rows = await ids(database)
            assert rows in ([], [1, 2, 3])
            await database.execute("DELETE FROM notes")
            stats = database.pool.stats()
            assert (stats.leased, stats.idle, stats.size, stats.waiting) == (0, 1, 1, 0)
            assert database._leases == 0


@pytest.mark.parametrize("second", [None, 0, 1, 3])
async def test_force_rollback_survives_cancellations(database_url: str, second: int | None) -> None:
    async with fastdb.Database(database_url) as plain:
        await plain.execute(TABLE)
    async with fastdb.Database(database_url, force_rollback=True, acquire_timeout=2) as database:
        async def work() -> None:
            await add(database, 1)
            async with database.transaction():
                await add(database, 2)
        for step in range(60):
            task = asyncio.create_task(work())
            for _ in range(step):
                await asyncio.sleep(0.0001)
            task.cancel()
            if second is not None:
                for _ in range(second):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait([task])
            assert await ids(database) in ([], [1], [1, 2])
            await database.execute("DELETE FROM notes")
    async with fastdb.Database(database_url) as plain:
        assert await ids(plain) == []


async def test_statement_after_its_transaction(notes: fastdb.Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with notes.transaction():
            task = asyncio.create_task(notes.execute("INSERT INTO notes (id) VALUES (1)"))
            raise ZeroDivisionError
    with pytest.raises(fastdb.TransactionError):
        await task
    assert await ids(notes) == []


async def test_iteration_outlives_its_transaction(notes: fastdb.Database) -> None:
    await notes.execute_many("INSERT INTO notes (id) VALUES (:id)", [{"id": n} for n in range(9)])
    async with notes.transaction():
        rows = notes.iterate("SELECT id FROM notes ORDER BY id", batch_size=2)
        assert (await anext(rows)).id == 0
    with pytest.raises(fastdb.TransactionError):
        async for _ in rows:
            pass
    assert notes.pool.stats().leased == 0


async def test_leaving_out_of_turn_twice_cancelled(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=1, acquire_timeout=2) as database:
        await database.execute(TABLE)
        for steps in range(12):
            inside, leave = asyncio.Event(), asyncio.Event()

            async def child(connection: fastdb.Connection) -> None:
                async with connection.transaction():
                    await add(connection, 2)
                    inside.set()
                    await leave.wait()

            async def work() -> None:
                async with database.connection() as connection, connection.transaction():
                    await add(connection, 1)
                    tasks.append(asyncio.create_task(child(connection)))
                    await inside.wait()

            tasks: list[asyncio.Task[None]] = []
            task = asyncio.create_task(work())
            await inside.wait()
            await asyncio.sleep(0.01)
            task.cancel()
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            leave.set()
            await asyncio.wait([task, *tasks])
            tasks.clear()
            stats = database.pool.stats()
            assert (stats.leased, stats.idle) == (0, stats.size)
            assert database._leases == 0
            assert await ids(database) in ([], [1, 2])
            await database.execute("DELETE FROM notes")


async def test_children_after_an_inner_ended_elsewhere(notes: fastdb.Database) -> None:
    async def child(connection: fastdb.Connection, number: int) -> None:
        async with connection.transaction():
            await add(connection, number)

    async with notes.connection() as connection, connection.transaction():
        inner = await asyncio.wait_for(connection.transaction().start(), 5)
        await asyncio.create_task(inner.rollback())
        async def end() -> None:
            await inner2.commit()
        inner2 = await connection.transaction()
        await asyncio.create_task(end())
        del inner, inner2, end
        await asyncio.wait_for(asyncio.create_task(child(connection, 1)), 2)
    assert await ids(notes) == [1]


# pool
async def test_disconnect_does_not_wait_for_vanished_holders(database_url: str) -> None:
    import gc
    database = fastdb.Database(database_url)
    await database.connect()
    leave = asyncio.Event()

    async def work() -> None:
        await database.transaction()
        await leave.wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(database.disconnect(timeout=None))
    await asyncio.sleep(0.05)
    leave.set()
    await task
    del task
    gc.collect()
    await asyncio.wait_for(closing, 3)


async def test_connect_cancelled_twice_leaves_none_open(database_url: str) -> None:
    raws: list[Any] = []
    gate = asyncio.Event()

    async def init(raw: Any) -> None:
        raws.append(raw)
        if len(raws) == 3:
            try:
                await gate.wait()
            finally:
                await gate.wait()

    database = fastdb.Database(database_url, min_size=3, init=init)
    task = asyncio.create_task(database.connect())
    while len(raws) < 3:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    opened = []
    from fastdb.pool import Pool
    task.cancel()
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.01)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.1)
    def closed(raw: Any) -> bool:
        if hasattr(raw, "is_closed"):
            return bool(raw.is_closed())
        if hasattr(raw, "closed"):
            return bool(raw.closed)
        return not raw._running if hasattr(raw, "_running") else raw._connection is None
    assert [closed(raw) for raw in raws] == [True] * 3


async def test_disconnect_inside_a_transaction(notes: fastdb.Database) -> None:
    with pytest.raises(fastdb.Error):
        async with notes.transaction():
            await add(notes, 1)
            await notes.disconnect()
    await notes.connect()
    assert await ids(notes) == []


async def test_memory_survives_cancellations() -> None:
    async with fastdb.Database("sqlite://") as database:
        await database.execute(TABLE)
        async def work() -> None:
            async with database.transaction():
                await add(database, 1)
        for step in range(50):
            task = asyncio.create_task(work())
            for _ in range(step % 25):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await ids(database)
            await database.execute("DELETE FROM notes")
