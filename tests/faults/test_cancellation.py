"""Cancellation at every step of every operation, once and twice in a row.

A step is a turn of the event loop: an operation is started again and again, and cancelled one turn
later each time, until it ends before it is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import fastdb
from tests.faults.conftest import eventually, is_whole

#: Turns between two cancellations in a row; None: only one is sent.
AGAIN = [None, 0, 1, 3]

#: Where an operation takes more turns than this, the steps grow: what waits for a server takes
#: hundreds of turns in which nothing happens.
FINE = 40


async def cancelled_after(
    operation: Callable[[], Awaitable[Any]], turns: int, again: int | None
) -> bool:
    """Run `operation` in a task, and cancel that after `turns`; return whether it was in time."""

    async def run() -> Any:
        return await operation()

    task = asyncio.create_task(run())
    for _ in range(turns):
        if task.done():
            break
        await asyncio.sleep(0)
    in_time = task.cancel()
    if again is not None:
        for _ in range(again):
            await asyncio.sleep(0)
        task.cancel()
    done, _ = await asyncio.wait([task], timeout=20)
    assert done, f"cancelled after {turns} turns, it has not ended within 20 s"
    if not task.cancelled():
        task.result()  # done in time, or so near to its end that it was not to be stopped
    return in_time


async def steps(operation: Callable[[], Awaitable[Any]], again: int | None) -> AsyncIterator[int]:
    """Cancel `operation` after 0, 1, 2 … turns; yield each number, to be checked; at the end, stop.

    An operation is over when it was done in time three times running: the number of turns
    that a server takes to answer is not always the same.
    """
    turns = missed = 0
    while missed < 3:
        missed = 0 if await cancelled_after(operation, turns, again) else missed + 1
        yield turns
        turns += 1 if turns < FINE else turns // 8


@pytest.fixture
async def small(database_url: str) -> AsyncIterator[fastdb.Database]:
    """Provide a Database of two connections with a table ``notes`` (id, part)."""
    async with fastdb.Database(database_url, max_size=2) as database:
        await database.execute("CREATE TABLE notes (id integer, part integer)")
        yield database


async def check_whole(database: fastdb.Database) -> None:
    """Check that every place of the pool is there, and that each connection works, and is clean."""
    await eventually(lambda: is_whole(database), "the return of all connections")

    async def use(number: int) -> None:
        async with database.connection() as connection:
            assert int(await connection.fetch_val("SELECT :n + 0", {"n": number})) == number
            await gate.wait()

    size = 1 if database._driver.single_connection else 2
    gate = asyncio.Event()
    using = [asyncio.create_task(use(number)) for number in range(size)]
    await eventually(lambda: database.pool.stats().leased == size, "the use of all places")
    gate.set()
    await asyncio.gather(*using)
    assert is_whole(database)


async def parts(database: fastdb.Database) -> list[int]:
    """Return the parts that are there, and empty the table."""
    records = await database.fetch_all("SELECT part FROM notes ORDER BY part")
    await database.execute("DELETE FROM notes")
    return [record.part for record in records]


@pytest.mark.parametrize("again", AGAIN)
async def test_a_query(small: fastdb.Database, again: int | None) -> None:
    async def operation() -> None:
        assert int(await small.fetch_val("SELECT :n + 0", {"n": 7})) == 7

    async for _ in steps(operation, again):
        assert int(await small.fetch_val("SELECT :n + 0", {"n": 8})) == 8
    await check_whole(small)


@pytest.mark.parametrize("again", AGAIN)
async def test_an_acquisition_from_a_full_pool(small: fastdb.Database, again: int | None) -> None:
    async def hold() -> None:
        async with small.connection() as connection:
            await connection.fetch_val("SELECT 1")
            await asyncio.sleep(0.002)

    async def operation() -> None:
        async with small.connection() as connection:
            assert await connection.fetch_val("SELECT 2") == 2

    async for _ in steps(operation, again):
        await asyncio.gather(hold(), hold(), hold())
    holding = [asyncio.create_task(hold()) for _ in range(6)]
    for turns in range(12):
        await cancelled_after(operation, turns, again)
    await asyncio.gather(*holding)
    await check_whole(small)


@pytest.mark.parametrize("again", AGAIN)
@pytest.mark.parametrize("end", ["commit", "rollback", "error"])
async def test_a_transaction(small: fastdb.Database, again: int | None, end: str) -> None:
    committed = False

    async def operation() -> None:
        nonlocal committed
        committed = False
        try:
            async with small.transaction(force_rollback=end == "rollback"):
                await small.execute("INSERT INTO notes VALUES (1, 1)")
                await small.execute("INSERT INTO notes VALUES (1, 2)")
                if end == "error":
                    raise LookupError
        except LookupError:
            return
        committed = end == "commit"

    async for _ in steps(operation, again):
        there = await parts(small)
        assert there in ([], [1, 2])
        if committed:
            assert there == [1, 2]
        if end != "commit":
            assert there == []
    await check_whole(small)


@pytest.mark.parametrize("again", AGAIN)
async def test_a_commit_that_is_refused(sqlite_url: str, again: int | None) -> None:
    options: dict[str, Any] = {"foreign_keys": True, "max_size": 2}
    async with fastdb.Database(sqlite_url, **options) as database:
        await database.execute("CREATE TABLE notes (id integer primary key)")
        await database.execute(
            "CREATE TABLE links (note REFERENCES notes DEFERRABLE INITIALLY DEFERRED)"
        )

        async def operation() -> None:
            with contextlib.suppress(fastdb.IntegrityError):
                async with database.transaction():
                    await database.execute("INSERT INTO links VALUES (5)")

        for _ in range(10):  # where the thread is quick, few of the steps are before its end
            async for _ in steps(operation, again):
                assert await database.fetch_all("SELECT * FROM links") == []
        await check_whole(database)


@pytest.mark.parametrize("again", AGAIN)
async def test_a_nested_transaction(small: fastdb.Database, again: int | None) -> None:
    async def operation() -> None:
        async with small.transaction():
            await small.execute("INSERT INTO notes VALUES (1, 1)")
            async with small.transaction():
                await small.execute("INSERT INTO notes VALUES (1, 2)")
            async with small.transaction(force_rollback=True):
                await small.execute("INSERT INTO notes VALUES (1, 3)")
            await small.execute("INSERT INTO notes VALUES (1, 4)")

    async for _ in steps(operation, again):
        assert await parts(small) in ([], [1, 2, 4])
    await check_whole(small)


@pytest.mark.parametrize("again", AGAIN)
async def test_a_savepoint_whose_outer_transaction_goes_on(
    small: fastdb.Database, again: int | None
) -> None:
    async def inner() -> None:
        async with small.transaction():
            await small.execute("INSERT INTO notes VALUES (1, 2)")
            await small.execute("INSERT INTO notes VALUES (1, 3)")

    async def operation() -> None:
        async with small.transaction():
            await small.execute("INSERT INTO notes VALUES (1, 1)")
            try:
                await inner()
            except asyncio.CancelledError:
                # An application may go on, to write down what was stopped, for example; unless
                # the cancellation has cost the connection.
                with contextlib.suppress(fastdb.OperationalError):
                    await small.execute("INSERT INTO notes VALUES (1, 4)")
                raise
            await small.execute("INSERT INTO notes VALUES (1, 5)")

    async for _ in steps(operation, again):
        assert await parts(small) in ([], [1, 2, 3, 5])
    await check_whole(small)


@pytest.mark.parametrize("again", AGAIN)
async def test_an_iteration(small: fastdb.Database, again: int | None) -> None:
    await small.execute_many(
        "INSERT INTO notes VALUES (:id, :part)", [{"id": 1, "part": n} for n in range(30)]
    )

    async def operation() -> None:
        seen = 0
        async for record in small.iterate("SELECT part FROM notes ORDER BY part", batch_size=10):
            assert record.part == seen
            seen += 1
        assert seen == 30

    async for _ in steps(operation, again):
        assert await small.fetch_val("SELECT count(*) FROM notes") == 30
    await check_whole(small)


@pytest.mark.parametrize("again", AGAIN)
async def test_an_iteration_inside_a_transaction(small: fastdb.Database, again: int | None) -> None:
    await small.execute_many(
        "INSERT INTO notes VALUES (:id, :part)", [{"id": 1, "part": n} for n in range(30)]
    )

    async def operation() -> None:
        async with small.transaction():
            async for record in small.iterate("SELECT part FROM notes WHERE id = 1", batch_size=10):
                if record.part % 10 == 0:
                    await small.execute("INSERT INTO notes VALUES (2, 0)")
            await small.execute("DELETE FROM notes WHERE id = 2")

    async for _ in steps(operation, again):
        assert await small.fetch_val("SELECT count(*) FROM notes") == 30
    await check_whole(small)


@pytest.mark.parametrize("again", AGAIN)
async def test_execute_many(small: fastdb.Database, again: int | None) -> None:
    # Rows of two kinds make several batches.
    rows = [{"id": 1, "part": n} for n in range(100)]
    more = [{"part": n, "id": 1} for n in range(100, 120)]

    async def operation() -> None:
        await small.execute_many("INSERT INTO notes (id, part) VALUES (:id, :part)", rows + more)

    async for _ in steps(operation, again):
        assert await parts(small) in ([], list(range(120)))
    await check_whole(small)


@pytest.mark.parametrize("again", AGAIN)
async def test_connect(database_url: str, again: int | None) -> None:
    database = fastdb.Database(database_url, min_size=1, max_size=2)
    async for _ in steps(database.connect, again):
        # Tried again, it works, also where it was done in time.
        await database.connect()
        assert await database.fetch_val("SELECT 1") == 1
        await database.disconnect()
        assert not database.is_connected


@pytest.mark.parametrize("again", AGAIN)
@pytest.mark.parametrize("force_rollback", [False, True])
async def test_disconnect(database_url: str, again: int | None, force_rollback: bool) -> None:
    async with fastdb.Database(database_url) as keeper:
        await keeper.execute("CREATE TABLE notes (id integer, part integer)")
        # A database in memory is gone with its connection; this one is a file or on a server.
        database = fastdb.Database(database_url, force_rollback=force_rollback)

        async def operation() -> None:
            await database.disconnect()

        turns = missed = 0
        while missed < 3:
            await database.connect()
            async with database.transaction(force_rollback=not force_rollback):
                await database.execute("INSERT INTO notes VALUES (1, 1)")
            in_time = await cancelled_after(operation, turns, again)
            missed = 0 if in_time else missed + 1
            await database.disconnect()
            assert not database.is_connected
            assert await keeper.fetch_val("SELECT count(*) FROM notes") == 0
            turns += 1 if turns < FINE else turns // 8


@pytest.mark.parametrize("again", AGAIN)
async def test_a_held_connection_that_needs_a_reset(
    small: fastdb.Database, again: int | None
) -> None:
    async def operation() -> None:
        async with small.connection() as connection:
            assert connection.raw_connection is not None  # so it is reset when it is returned
            assert await connection.fetch_val("SELECT 1") == 1

    async for _ in steps(operation, again):
        assert await small.fetch_val("SELECT 2") == 2
    await check_whole(small)


@pytest.mark.parametrize("again", AGAIN)
async def test_on_commit_callbacks_are_called_once_or_not_at_all(
    small: fastdb.Database, again: int | None
) -> None:
    calls: list[int] = []

    async def operation() -> None:
        async with small.transaction() as transaction:
            await small.execute("INSERT INTO notes VALUES (1, 1)")
            transaction.on_commit(lambda: calls.append(1))

    async for _ in steps(operation, again):
        there = await parts(small)
        assert len(calls) <= len(there)
        calls.clear()
    await check_whole(small)


async def test_all_tasks_at_once_as_at_the_end_of_a_program(small: fastdb.Database) -> None:
    """``asyncio.run()`` cancels every task in the end, fastdb's own among them."""
    driver_tasks = {"fastdb-mysql-kill"}

    async def operation() -> None:
        with contextlib.suppress(LookupError):
            async with small.transaction():
                await small.execute("INSERT INTO notes VALUES (1, 1)")
                raise LookupError

    turns = 0
    while turns < 400:
        task = asyncio.create_task(operation())
        for _ in range(turns):
            await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for each in others:
            if each.get_name() not in driver_tasks:
                each.cancel()
        await asyncio.wait([task])
        assert await parts(small) == []
        turns += 1 if turns < FINE else turns // 8
    await check_whole(small)
