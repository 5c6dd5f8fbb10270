"""``force_rollback`` leaves nothing behind, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest

import fastdb
from fastdb.savepoints import StatementGuard
from tests.faults.conftest import Remote, eventually

#: Seconds that tell a hang from work.
FAR = 60.0

SLEEPS = {
    "postgresql": "SELECT pg_sleep(20)",
    "mysql": "SELECT sleep(20)",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT max(i) FROM n",
}


@pytest.fixture
async def url(database_url: str) -> str:
    """Return the URL of a database with an empty table ``notes``."""
    async with fastdb.Database(database_url) as database:
        await database.execute("CREATE TABLE notes (id integer primary key)")
    return database_url


async def insert(database: fastdb.Database | fastdb.Connection, number: int) -> None:
    await database.execute("INSERT INTO notes (id) VALUES (:id)", {"id": number})


async def ids(database: fastdb.Database) -> list[int]:
    return [record.id for record in await database.fetch_all("SELECT id FROM notes ORDER BY id")]


async def left(url: str) -> list[int]:
    """Return what another Database sees in the table."""
    async with fastdb.Database(url) as database:
        return await ids(database)


async def test_many_tasks_with_errors_and_cancellations(url: str) -> None:
    async with fastdb.Database(url, force_rollback=True) as database:
        await insert(database, 0)

        async def work(number: int) -> None:
            if number % 5 == 0:
                await database.execute("SELECT * FROM nosuch")
            elif number % 5 == 1:
                await insert(database, 0)
            elif number % 5 == 2:
                async with database.transaction():
                    await insert(database, number)
                    await asyncio.sleep(0)
                    raise ZeroDivisionError
            elif number % 5 == 3:
                async with database.transaction():
                    await insert(database, number)
                    async with database.transaction():
                        await insert(database, 1000 + number)
            else:
                await insert(database, number)

        async with asyncio.timeout(FAR):
            tasks = [asyncio.create_task(work(number)) for number in range(200)]
            await asyncio.sleep(0.01)
            for task in tasks[100::3]:
                task.cancel()
            await asyncio.wait(tasks)
            for number, task in enumerate(tasks):
                if task.cancelled():
                    continue
                error = task.exception()
                expected: dict[int, Any] = {
                    0: fastdb.DatabaseError,
                    1: fastdb.IntegrityError,
                    2: ZeroDivisionError,
                    3: type(None),
                    4: type(None),
                }
                assert isinstance(error, expected[number % 5]), (number, error)
            found = set(await ids(database))
            for number, task in enumerate(tasks):
                if number % 5 in (3, 4) and not task.cancelled():
                    assert number in found
                if number % 5 == 3:
                    assert (number in found) == (1000 + number in found)
        assert database.pool.stats().opened == 1
    assert await left(url) == []


@pytest.mark.parametrize("where", ["alone", "task", "gather", "connection", "nested"])
async def test_an_error_poisons_nothing_that_follows(url: str, where: str) -> None:
    async with fastdb.Database(url, force_rollback=True) as database:
        await insert(database, 1)

        async def fail(database: fastdb.Database | fastdb.Connection) -> None:
            for query in ("SELECT * FROM nosuch", "INSERT INTO notes VALUES (1)", "SELEKT 1"):
                with pytest.raises(fastdb.DatabaseError):
                    await database.fetch_all(query)
                with pytest.raises(fastdb.DatabaseError):
                    await database.execute_many(query.replace("(1)", "(:id)"), [{"id": 1}] * 3)
                with pytest.raises(fastdb.DatabaseError):
                    async for _ in database.iterate(query):
                        pass

        if where == "alone":
            await fail(database)
        elif where == "task":
            await asyncio.create_task(fail(database))
        elif where == "gather":
            await asyncio.gather(*(fail(database) for _ in range(5)))
        elif where == "connection":
            async with database.connection() as connection:
                await fail(connection)
        else:
            with contextlib.suppress(ZeroDivisionError):
                async with database.transaction(), database.transaction():
                    with pytest.raises(fastdb.DatabaseError):
                        await database.execute("SELECT * FROM nosuch")
                    raise ZeroDivisionError
        assert await ids(database) == [1]
        await insert(database, 2)
        async with database.transaction():
            await insert(database, 3)
        assert await ids(database) == [1, 2, 3]
    assert await left(url) == []


async def test_ddl(url: str) -> None:
    """On MySQL DDL commits at once; what follows it is rolled back all the same."""
    async with fastdb.Database(url, force_rollback=True) as database:
        await database.execute("CREATE TABLE made (id integer primary key)")
        await database.execute("INSERT INTO made VALUES (1)")
        await insert(database, 1)
        async with database.transaction():
            await insert(database, 2)
        async with database.transaction(force_rollback=True):
            await insert(database, 3)
        await database.execute_many("INSERT INTO notes VALUES (:id)", [{"id": 4}, {"id": 5}])
        assert await ids(database) == [1, 2, 4, 5]
    async with fastdb.Database(url) as database:
        assert await ids(database) == []
        if database.url.dialect == "mysql":
            assert await database.fetch_all("SELECT * FROM made") == []
        else:
            with pytest.raises(fastdb.DatabaseError):
                await database.fetch_all("SELECT * FROM made")


async def test_what_ends_the_transaction_behind_our_back_is_logged(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with fastdb.Database(url, force_rollback=True) as database:
        await insert(database, 1)
        if database.url.dialect == "postgresql":
            return  # nothing but COMMIT and ROLLBACK does there
        with caplog.at_level(logging.WARNING, logger="fastdb"):
            if database.url.dialect == "mysql":
                await database.execute("CREATE TABLE made (id integer)")
            else:
                with pytest.raises(fastdb.IntegrityError):
                    await database.execute("INSERT OR ROLLBACK INTO notes VALUES (1)")
            await insert(database, 2)
            async with database.transaction():
                await insert(database, 3)
        assert "ended the transaction of force_rollback" in caplog.text
    expected = [1] if url.startswith("mysql") else []
    assert await left(url) == expected


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT",
        "rollback",
        "/* now */ Commit;",
        "BEGIN",
        "END",
        "ROLLBACK AND CHAIN",
        "START TRANSACTION",
        "INSERT INTO notes VALUES (7); COMMIT",
    ],
)
@pytest.mark.parametrize("way", ["execute", "fetch_all", "execute_many", "iterate", "in a block"])
async def test_transaction_control_sent_as_text_leaves_nothing(
    url: str, statement: str, way: str
) -> None:
    async with fastdb.Database(url, force_rollback=True) as database:
        await insert(database, 1)
        with pytest.raises(fastdb.Error):
            if way == "execute_many":
                await database.execute_many(statement, [{}])
            elif way == "iterate":
                async for _ in database.iterate(statement):
                    pass
            elif way == "in a block":
                async with database.transaction():
                    await database.execute(statement)
            else:
                await getattr(database, way)(statement)
        await insert(database, 2)
        async with database.transaction():
            await insert(database, 3)
        assert await ids(database) == [1, 2, 3]
    assert await left(url) == []


async def test_savepoints_sent_as_text(url: str) -> None:
    """On PostgreSQL one ends with its statement, which has a savepoint of its own around it."""
    async with fastdb.Database(url, force_rollback=True) as database:
        await insert(database, 1)
        await database.execute("SAVEPOINT here")
        if database.url.dialect == "postgresql":
            with pytest.raises(fastdb.DatabaseError):
                await database.execute("ROLLBACK TO SAVEPOINT here")
        else:
            await database.execute("ROLLBACK TO SAVEPOINT here")
        async with database.transaction():
            await database.execute("SAVEPOINT here")
            await insert(database, 2)
            await database.execute("ROLLBACK TO SAVEPOINT here")
            await database.execute("RELEASE SAVEPOINT here")
        assert await ids(database) == [1]
    assert await left(url) == []


async def test_savepoints_sent_as_text_in_a_transaction(url: str) -> None:
    async with (
        fastdb.Database(url, force_rollback=True) as database,
        database.transaction(),
    ):
        await insert(database, 1)
        await database.execute("SAVEPOINT here")
        await insert(database, 2)
        await database.execute("ROLLBACK TO SAVEPOINT here")
        await database.execute("RELEASE SAVEPOINT here")
        assert await ids(database) == [1]
    assert await left(url) == []


async def test_nested_and_explicit_commits(url: str) -> None:
    async with fastdb.Database(url, force_rollback=True) as database:
        called: list[int] = []
        outer = await database.transaction()
        outer.on_commit(lambda: called.append(1))
        await insert(database, 1)
        inner = await database.transaction()
        await insert(database, 2)
        await inner.rollback()
        inner = await database.transaction()
        await insert(database, 3)
        await inner.commit()
        assert called == []
        await outer.commit()
        assert called == [1]  # as far as the application can tell, it is committed
        again = await database.transaction(isolation=None)
        await insert(database, 4)
        await again.rollback()

        @database.transaction()
        async def decorated(number: int) -> None:
            await insert(database, number)
            if number % 2:
                raise ZeroDivisionError

        await asyncio.gather(*(decorated(n) for n in range(10, 20)), return_exceptions=True)
        assert await ids(database) == [1, 3, 10, 12, 14, 16, 18]
    assert await left(url) == []


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("where", ["query", "transaction", "nested", "iterate", "execute_many"])
async def test_a_cancelled_body(url: str, where: str, times: int) -> None:
    database = fastdb.Database(url, force_rollback=True)
    sleep = SLEEPS[database.url.dialect]
    started = asyncio.Event()

    async def body() -> None:
        async with database:
            await insert(database, 1)
            async with contextlib.AsyncExitStack() as stack:
                if where in ("transaction", "nested"):
                    await stack.enter_async_context(database.transaction())
                if where == "nested":
                    await insert(database, 2)
                    await stack.enter_async_context(database.transaction())
                await insert(database, 3)
                asyncio.get_running_loop().call_later(0.05, started.set)
                if where == "iterate":
                    async for _ in database.iterate(sleep):
                        pass
                elif where == "execute_many":
                    many = ({"id": number} for number in range(10, 1_000_000))
                    await database.execute_many("INSERT INTO notes VALUES (:id)", many)
                else:
                    await database.execute(sleep)

    task = asyncio.create_task(body())
    await started.wait()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.001)
    async with asyncio.timeout(FAR):
        with pytest.raises(asyncio.CancelledError):
            await task
    await database.disconnect()
    assert not database.is_connected
    assert await left(url) == []
    async with database:
        await insert(database, 1)
        assert await ids(database) == [1]
    assert await left(url) == []


async def test_cancelled_at_any_step(url: str) -> None:
    database = fastdb.Database(url, force_rollback=True)

    async def body() -> None:
        async with database:
            await insert(database, 1)
            async with database.transaction():
                await insert(database, 2)
                async for _ in database.iterate("SELECT id FROM notes"):
                    await insert(database, 3)
                    break

    for step in range(0, 90, 3):
        task = asyncio.create_task(body())
        for _ in range(step):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(FAR):
            await asyncio.wait([task])
            await database.disconnect()
    assert await left(url) == []


async def test_every_part_in_a_task_of_its_own(url: str) -> None:
    database = fastdb.Database(url, force_rollback=True)
    for _ in range(3):
        await asyncio.create_task(database.connect())
        await asyncio.gather(*(asyncio.create_task(insert(database, n)) for n in range(20)))
        transaction = await asyncio.create_task(database.transaction().start())
        await asyncio.create_task(transaction.commit())
        unfinished = await asyncio.create_task(database.transaction().start())
        async with asyncio.timeout(FAR):
            assert len(await asyncio.create_task(ids(database))) == 20
            await asyncio.create_task(database.disconnect())
        assert unfinished.state == "rolled back"
        with pytest.raises(fastdb.NotConnectedError):
            await insert(database, 1)
        with pytest.raises(fastdb.Error):
            await unfinished.commit()
    assert await left(url) == []


async def test_connected_and_disconnected_again_and_again(url: str) -> None:
    database = fastdb.Database(url)
    for number in range(30):
        if number % 3 == 0:
            with database.force_rollback():
                await database.connect()
            assert not database.force_rollback
        else:
            database.force_rollback = True
            await database.connect()
            database.force_rollback = False  # what counts is how it was connected
        await insert(database, 1)
        await database.connect()  # it is: nothing happens
        assert await ids(database) == [1]
        await database.disconnect()
        await database.disconnect()
    assert await left(url) == []


async def test_tasks_that_connect_and_disconnect_at_once(url: str) -> None:
    database = fastdb.Database(url, force_rollback=True)

    async def work() -> None:
        await database.connect()
        with contextlib.suppress(fastdb.Error):
            await insert(database, 1)
        await database.disconnect()

    for _ in range(5):
        async with asyncio.timeout(FAR):
            await asyncio.gather(*(work() for _ in range(10)))
        await database.disconnect()
        assert await left(url) == []


async def test_iterate_and_execute_many(url: str) -> None:
    async with fastdb.Database(url, force_rollback=True) as database:
        rows = [{"id": number} for number in range(2500)]
        await database.execute_many("INSERT INTO notes VALUES (:id)", rows)
        found = []
        async for record in database.iterate("SELECT id FROM notes ORDER BY id", batch_size=100):
            found.append(record.id)
            if record.id % 500 == 0:
                await insert(database, 10_000 + record.id)
            if record.id >= 2000:
                break
        assert found == list(range(2001))
        with pytest.raises(fastdb.IntegrityError):
            await database.execute_many("INSERT INTO notes VALUES (:id)", [{"id": -1}, *rows[:1]])
        assert await database.fetch_val("SELECT count(*) FROM notes") == 2505

        async def read() -> int:
            return len([1 async for _ in database.iterate("SELECT id FROM notes", batch_size=50)])

        async with asyncio.timeout(FAR):
            assert await asyncio.gather(*(read() for _ in range(4))) == [2505] * 4
    assert await left(url) == []


# -- lost connections, and bounds


@pytest.mark.parametrize("moment", ["idle", "query", "transaction", "disconnect"])
async def test_a_lost_connection(remote: Remote, moment: str) -> None:
    remote.session.run("CREATE TABLE notes (id integer primary key)")
    database = fastdb.Database(remote.url, force_rollback=True)
    await database.connect()
    await insert(database, 1)
    transaction = await database.transaction() if moment == "transaction" else None
    await insert(database, 2)
    if moment == "query":
        task = asyncio.create_task(database.execute(remote.sleep))
        await eventually(lambda: remote.running("sleep(20)") == 1, "the query")
        remote.proxy.cut()
        with pytest.raises(fastdb.Error):
            await task
    else:
        remote.proxy.cut()
    if moment != "disconnect":
        for _ in range(3):
            with pytest.raises(fastdb.Error):
                await insert(database, 3)
            with pytest.raises(fastdb.Error):
                async with database.transaction():
                    await insert(database, 4)
        if transaction is not None:
            with pytest.raises(fastdb.Error):
                await transaction.commit()
    async with asyncio.timeout(FAR):
        await database.disconnect()
    if moment != "query":  # the server does not look after its client while it sleeps
        await eventually(lambda: remote.connections() == 0, "the end of the connection")
    assert remote.session.run("SELECT id FROM notes") in ([], ())
    await database.connect()
    await insert(database, 5)
    assert await ids(database) == [5]
    await database.disconnect()
    assert remote.session.run("SELECT id FROM notes") in ([], ())


@pytest.mark.parametrize("busy", [False, True])
async def test_disconnecting_from_a_silent_server_is_bounded_as_a_whole(
    remote: Remote, busy: bool
) -> None:
    remote.session.run("CREATE TABLE notes (id integer primary key)")
    database = fastdb.Database(remote.url, force_rollback=True)
    await database.connect()
    await insert(database, 1)
    task = asyncio.create_task(database.execute(remote.sleep)) if busy else None
    if task is not None:
        await eventually(lambda: remote.running("sleep(20)") == 1, "the query")
    remote.proxy.stall()
    loop = asyncio.get_running_loop()
    before = loop.time()
    await database.disconnect(timeout=3)
    # Twice the bound would be six seconds; what is between is a slow machine.
    assert loop.time() - before < 5
    remote.proxy.resume()
    if task is not None:
        with pytest.raises(fastdb.Error):
            await task
    await eventually(lambda: remote.session.run("SELECT id FROM notes") in ([], ()), "the end")


async def test_disconnecting_while_a_task_keeps_the_connection_busy(url: str) -> None:
    database = fastdb.Database(url, force_rollback=True)
    await database.connect()
    await insert(database, 1)
    task = asyncio.create_task(database.execute(SLEEPS[database.url.dialect]))
    await asyncio.sleep(0.05)
    loop = asyncio.get_running_loop()
    before = loop.time()
    await database.disconnect(timeout=1)
    assert loop.time() - before < 5
    with pytest.raises(fastdb.Error):
        await task
    assert await left(url) == []


@pytest.mark.parametrize("failed", [False, True], ids=["after success", "after an error"])
@pytest.mark.parametrize("how", ["cut", "cancelled"])
async def test_a_savepoint_around_a_statement_that_cannot_be_ended(
    remote: Remote, failed: bool, how: str
) -> None:
    """The statement's own error is the one to tell, and nobody goes on with the connection."""
    async with fastdb.Database(remote.url) as database, database.connection() as connection:
        with contextlib.suppress(fastdb.Error):
            async with connection.transaction():
                driver_connection = connection._lease.leased()
                guard = StatementGuard(driver_connection)
                await guard.__aenter__()
                error = (ValueError, ValueError(), None) if failed else (None, None, None)
                leaving = asyncio.ensure_future(guard.__aexit__(*error))
                if how == "cut":
                    remote.proxy.cut()
                    if failed:
                        await leaving
                    else:
                        with pytest.raises(fastdb.OperationalError):
                            await leaving
                else:
                    remote.proxy.stall()
                    await asyncio.sleep(0.05)
                    leaving.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await leaving
                    remote.proxy.resume()
                assert not driver_connection.is_alive()
