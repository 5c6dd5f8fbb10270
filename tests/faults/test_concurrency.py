"""Many tasks, several event loops, threads and forked processes over one Database."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

import fastdb
from fastdb.holders import MAX_TASKS
from tests.faults.conftest import Remote, eventually, is_whole

#: Seconds that tell a hang from work.
FAR = 60.0


@pytest.fixture
async def notes(database_url: str) -> AsyncIterator[fastdb.Database]:
    """Provide a Database of five connections with a table ``notes`` (id)."""
    async with fastdb.Database(database_url, max_size=5) as database:
        await database.execute("CREATE TABLE notes (id integer primary key)")
        yield database


async def echo(database: fastdb.Database | fastdb.Connection, number: int) -> int:
    answer = await database.fetch_val("SELECT :number + 0", {"number": number})
    assert isinstance(answer, int)
    return answer


async def insert(database: fastdb.Database | fastdb.Connection, number: int) -> None:
    await database.execute("INSERT INTO notes (id) VALUES (:id)", {"id": number})


async def ids(database: fastdb.Database) -> list[int]:
    return [record.id for record in await database.fetch_all("SELECT id FROM notes ORDER BY id")]


async def hold(database: fastdb.Database, entered: asyncio.Event, leave: asyncio.Event) -> None:
    async with database.connection():
        entered.set()
        await leave.wait()


# -- many tasks, few connections


@pytest.mark.parametrize("min_size", [1, 5])
async def test_a_thousand_tasks_on_five_connections(database_url: str, min_size: int) -> None:
    async with fastdb.Database(database_url, min_size=min_size, max_size=5) as database:
        served: list[int] = []
        most = 0

        async def work(number: int) -> int:
            nonlocal most
            async with database.connection() as connection:
                served.append(number)
                most = max(most, database.pool.stats().leased)
                return await echo(connection, number)

        async with asyncio.timeout(FAR):
            answers = await asyncio.gather(*(work(number) for number in range(1000)))
        assert answers == list(range(1000))
        # The first in the pool goes on at once, all the others in the order in which they came.
        assert served == list(range(1000))
        stats = database.pool.stats()
        assert most <= 5
        assert stats.opened <= 5
        assert stats.waiting == 0
        assert stats.wait_time > 0
        await eventually(lambda: is_whole(database), "a whole pool")


async def test_a_thousand_single_queries_cross_no_answers(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=5) as database:
        async with asyncio.timeout(FAR):
            for _ in range(3):
                numbers = list(range(1000))
                assert await asyncio.gather(*(echo(database, each) for each in numbers)) == numbers
        assert database.pool.stats().opened <= 5


async def test_a_thousand_transactions_keep_their_sum(notes: fastdb.Database) -> None:
    await insert(notes, 0)
    await notes.execute("CREATE TABLE counters (value integer)")
    await notes.execute("INSERT INTO counters VALUES (0)")

    async def work(number: int) -> None:
        async with notes.transaction():
            await notes.execute("UPDATE counters SET value = value + 1")
            assert await echo(notes, number) == number

    count = 300
    async with asyncio.timeout(FAR):
        await asyncio.gather(*(work(number) for number in range(count)))
    assert await notes.fetch_val("SELECT value FROM counters") == count
    await eventually(lambda: is_whole(notes), "a whole pool")


async def test_nobody_starves_beside_a_busy_task(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=1) as database:
        done = asyncio.Event()
        turns = 0

        async def busy() -> None:
            nonlocal turns
            while not done.is_set():
                await database.fetch_val("SELECT 1")
                turns += 1

        tasks = [asyncio.create_task(busy()) for _ in range(3)]
        async with asyncio.timeout(FAR):
            for number in range(100):
                before = turns
                assert await echo(database, number) == number
                # Each of the others was in front once; whoever came back stood behind.
                assert turns - before <= 6
        done.set()
        await asyncio.gather(*tasks)


async def test_whoever_opens_a_connection_is_overtaken_by_nobody(remote: Remote) -> None:
    """Connecting takes long here: a connection that is returned meanwhile goes to the first."""
    async with fastdb.Database(remote.url, max_size=2) as database:
        entered, leave = asyncio.Event(), asyncio.Event()
        holder = asyncio.create_task(hold(database, entered, leave))
        await entered.wait()
        remote.proxy.latency = 0.1
        order: list[str] = []

        async def work(name: str) -> None:
            async with database.connection():
                order.append(name)

        first = asyncio.create_task(work("first"))
        await eventually(lambda: database.pool.stats().opening == 1, "a second connection")
        second = asyncio.create_task(work("second"))
        await asyncio.sleep(0)
        leave.set()
        await holder
        third = asyncio.create_task(work("third"))
        async with asyncio.timeout(FAR):
            await asyncio.gather(first, second, third)
        assert order == ["first", "second", "third"]
        remote.proxy.latency = 0
        await eventually(
            lambda: database.pool.stats().idle == database.pool.stats().size == 2, "both idle"
        )


@pytest.mark.parametrize("cancelled", [(), (0,), (1, 2), (0, 2, 4), (0, 1, 2, 3)])
@pytest.mark.parametrize("steps", range(4))
async def test_a_release_and_an_acquisition_at_once_overtake_nobody(
    database_url: str, cancelled: tuple[int, ...], steps: int
) -> None:
    async with fastdb.Database(database_url, max_size=1) as database:
        entered, leave = asyncio.Event(), asyncio.Event()
        order: list[Any] = []

        async def work(name: Any) -> None:
            async with database.connection():
                order.append(name)
                await asyncio.sleep(0)

        async def come_back() -> None:
            await hold(database, entered, leave)
            await work("again")  # in the very step of the release

        holder = asyncio.create_task(come_back())
        await entered.wait()
        waiters = [asyncio.create_task(work(number)) for number in range(5)]
        await asyncio.sleep(0)
        assert database.pool.stats().waiting == 5
        leave.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        for number in cancelled:
            waiters[number].cancel()
        late = asyncio.create_task(work("late"))
        async with asyncio.timeout(FAR):
            await asyncio.wait([*waiters, holder, late])
        numbers = [each for each in order if isinstance(each, int)]
        assert numbers == sorted(numbers)
        assert set(numbers) >= set(range(5)) - set(cancelled)
        assert set(order[-2:]) == {"again", "late"}
        assert is_whole(database)


# -- gather, on one Database, on one Connection, in a transaction


async def test_gather_on_one_connection(notes: fastdb.Database) -> None:
    async with notes.connection() as connection:
        async with asyncio.timeout(FAR):
            assert await asyncio.gather(*(echo(connection, n) for n in range(200))) == list(
                range(200)
            )
            await asyncio.gather(*(insert(connection, n) for n in range(50)))
        assert notes.pool.stats().leased == 1
    assert await ids(notes) == list(range(50))


@pytest.mark.parametrize("way", ["gather", "wait_for", "task group", "create_task", "shield"])
async def test_methods_called_in_a_transaction_belong_to_it(
    notes: fastdb.Database, way: str
) -> None:
    values = [{"id": number} for number in range(10)]
    sql = "INSERT INTO notes (id) VALUES (:id)"
    with pytest.raises(ZeroDivisionError):
        async with notes.transaction():
            if way == "gather":
                await asyncio.gather(*(notes.execute(sql, each) for each in values))
            elif way == "wait_for":
                for each in values:
                    await asyncio.wait_for(notes.execute(sql, each), FAR)
            elif way == "task group":
                async with asyncio.TaskGroup() as group:
                    for each in values:
                        group.create_task(notes.execute(sql, each))
            elif way == "create_task":
                for task in [asyncio.create_task(notes.execute(sql, each)) for each in values]:
                    await task
            else:
                for each in values:
                    await asyncio.shield(notes.execute(sql, each))
            assert len(await notes.fetch_all("SELECT id FROM notes")) == 10
            raise ZeroDivisionError
    assert await ids(notes) == []
    assert is_whole(notes)


async def test_children_do_not_join_by_accident(notes: fastdb.Database) -> None:
    """Tasks made inside a transaction see nothing of it, and are not rolled back with it."""
    if notes.url.dialect == "sqlite":
        await notes.execute("PRAGMA journal_mode = wal")  # else a writer lets nobody read
    seen: list[list[int]] = []

    async def child() -> None:
        seen.append(await ids(notes))

    async def grandchild() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    with pytest.raises(ZeroDivisionError):
        async with notes.transaction():
            await insert(notes, 1)
            await asyncio.gather(child(), child())
            await asyncio.create_task(child())
            await asyncio.create_task(grandchild())
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
            assert await ids(notes) == [1]
            raise ZeroDivisionError
    assert seen == [[]] * 5
    assert is_whole(notes)


async def test_a_child_writes_on_its_own(notes: fastdb.Database) -> None:
    if notes.url.dialect == "sqlite":
        return  # it has one writer at a time: the child would wait for its parent

    with pytest.raises(ZeroDivisionError):
        async with notes.transaction():
            await insert(notes, 1)
            await asyncio.create_task(insert(notes, 2))
            async with asyncio.TaskGroup() as group:
                group.create_task(insert(notes, 3))
            raise ZeroDivisionError
    assert await ids(notes) == [2, 3]


async def test_a_child_that_outlives_its_parents_transaction(notes: fastdb.Database) -> None:
    """What was called in a transaction and comes after its end is told, never committed."""
    leave = asyncio.Event()

    async def later(run: Coroutine[Any, Any, Any]) -> None:
        await leave.wait()
        await run

    async with notes.connection() as connection:
        async with notes.transaction():
            task = asyncio.create_task(
                later(notes.execute("INSERT INTO notes (id) VALUES (:id)", {"id": 1}))
            )
        leave.set()
        with pytest.raises(fastdb.TransactionError, match="already committed"):
            await task
        assert await echo(connection, 1) == 1
    assert await ids(notes) == []


async def test_two_transactions_on_one_connection_take_turns(notes: fastdb.Database) -> None:
    """Each is whole: what one rolls back takes nothing of the other's with it."""

    async def work(connection: fastdb.Connection, number: int) -> None:
        async with connection.transaction():
            await insert(connection, number)
            await asyncio.sleep(0)
            await insert(connection, 1000 + number)
            if number % 2:
                raise ZeroDivisionError

    async with notes.connection() as connection:
        async with asyncio.timeout(FAR):
            results = await asyncio.gather(
                *(asyncio.create_task(work(connection, n)) for n in range(20)),
                return_exceptions=True,
            )
    assert [type(result) for result in results] == [type(None), ZeroDivisionError] * 10
    assert await ids(notes) == [*range(0, 20, 2), *range(1000, 1020, 2)]
    assert is_whole(notes)


async def test_children_that_are_handed_the_connection_nest_one_by_one(
    notes: fastdb.Database,
) -> None:
    async def work(connection: fastdb.Connection, number: int) -> None:
        async with connection.transaction():
            await insert(connection, number)
            await asyncio.sleep(0)
            if number % 2:
                raise ZeroDivisionError

    async with notes.connection() as connection:
        async with connection.transaction(force_rollback=True):
            async with asyncio.timeout(FAR):
                results = await asyncio.gather(
                    *(work(connection, n) for n in range(20)), return_exceptions=True
                )
            assert [type(result) for result in results] == [type(None), ZeroDivisionError] * 10
            assert await ids(notes) == list(range(0, 20, 2))
        assert await ids(notes) == []


# -- deadlocks by design


@pytest.mark.parametrize("way", ["connection", "transaction", "iterate", "query"])
async def test_a_task_that_waits_for_what_it_holds_is_told(database_url: str, way: str) -> None:
    options: dict[str, Any] = {"max_size": 1, "acquire_timeout": 0.2}
    async with fastdb.Database(database_url, **options) as database:

        async def work() -> None:
            if way == "iterate":
                async for _ in database.iterate("SELECT 1"):
                    await asyncio.create_task(echo(database, 1))
            elif way == "query":
                async with database.connection():
                    await asyncio.gather(asyncio.create_task(echo(database, 1)))
            else:
                async with getattr(database, way)():
                    await asyncio.create_task(echo(database, 1))

        holder = asyncio.create_task(work(), name="the one that holds")
        async with asyncio.timeout(FAR):
            with pytest.raises(fastdb.PoolTimeoutError, match=r"the one that holds") as caught:
                await holder
        assert str(caught.value).count("the one that holds") == 1
        assert "test_concurrency.py" not in str(caught.value)  # debug mode is off
        assert await echo(database, 2) == 2
        assert is_whole(database)


@pytest.mark.parametrize("way", ["connection", "transaction", "by hand", "iterate", "waited"])
async def test_debug_mode_says_where_the_holders_leased(database_url: str, way: str) -> None:
    async with fastdb.Database(database_url, max_size=1, acquire_timeout=0.2) as database:
        asyncio.get_running_loop().set_debug(True)

        async def lease_here() -> None:
            if way == "transaction":
                async with database.transaction():
                    await asyncio.create_task(echo(database, 1))
            elif way == "by hand":
                transaction = await database.transaction()
                try:
                    await asyncio.create_task(echo(database, 1))
                finally:
                    await transaction.rollback()
            elif way == "iterate":
                async for _ in database.iterate("SELECT 1"):
                    await asyncio.create_task(echo(database, 1))
            else:
                async with database.connection():
                    await asyncio.create_task(echo(database, 1))

        async def deeper() -> None:
            await lease_here()

        entered, leave = asyncio.Event(), asyncio.Event()
        before = asyncio.create_task(hold(database, entered, leave))
        await entered.wait()
        if way != "waited":
            leave.set()
            await before
        holder = asyncio.create_task(deeper(), name="the one that holds")
        await asyncio.sleep(0.01)
        leave.set()
        with pytest.raises(fastdb.PoolTimeoutError) as caught:
            await holder
        await before
        line = lease_here.__code__.co_firstlineno
        message = str(caught.value)
        place, _, name = message.partition(f"{__file__}:")[2].partition(" in ")
        assert line < int(place) < line + 20, message
        assert name.startswith("lease_here"), message
        assert "the one that holds" in message


async def test_single_queries_are_named_as_holders(database_url: str) -> None:
    options: dict[str, Any] = {"timeout": 20} if database_url.startswith("sqlite") else {}
    async with (
        fastdb.Database(database_url, max_size=1, acquire_timeout=0.2, **options) as database,
        fastdb.Database(database_url) as other,
    ):
        await database.execute("CREATE TABLE notes (id integer primary key)")
        await insert(database, 1)
        async with other.transaction():
            await other.execute("UPDATE notes SET id = 2")

            async def wait_for_the_lock() -> None:
                await database.execute("UPDATE notes SET id = 3")

            lasting = asyncio.create_task(wait_for_the_lock(), name="the lasting query")
            await asyncio.sleep(0.01)
            with pytest.raises(fastdb.PoolTimeoutError, match="'the lasting query'") as caught:
                await echo(database, 1)
            assert "wait_for_the_lock" in str(caught.value)
        await lasting


async def test_among_very_many_tasks_single_queries_are_only_counted(database_url: str) -> None:
    leave = asyncio.Event()

    async def setup(raw: Any) -> None:
        if holding.done():
            await leave.wait()

    holding: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with fastdb.Database(
        database_url, max_size=1, acquire_timeout=0.2, setup=setup
    ) as database:
        holding.set_result(None)
        lasting = asyncio.create_task(echo(database, 1), name="the lasting query")
        others = [asyncio.create_task(leave.wait()) for _ in range(MAX_TASKS)]
        await asyncio.sleep(0)
        with pytest.raises(fastdb.PoolTimeoutError, match="held by 1 single query") as caught:
            await echo(database, 1)
        assert "the lasting query" not in str(caught.value)
        leave.set()
        await asyncio.wait([*others, lasting])


async def test_many_tasks_that_wait_in_vain_are_all_told(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=2, acquire_timeout=0.2) as database:
        events = [(asyncio.Event(), asyncio.Event()) for _ in range(2)]
        holders = [
            asyncio.create_task(hold(database, *each), name=f"holder {number}")
            for number, each in enumerate(events)
        ]
        for entered, _ in events:
            await entered.wait()
        async with asyncio.timeout(FAR):
            results = await asyncio.gather(
                *(echo(database, n) for n in range(200)), return_exceptions=True
            )
        for result in results:
            assert isinstance(result, fastdb.PoolTimeoutError)
            assert "holder 0" in str(result)
            assert "holder 1" in str(result)
        assert database.pool.stats().waiting == 0
        for _, leave in events:
            leave.set()
        await asyncio.gather(*holders)
        assert await echo(database, 1) == 1


# -- threads and event loops


def in_thread(function: Callable[[], Any]) -> Any:
    """Run `function` in a thread; fail where it hangs."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(function())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(FAR)
    assert not thread.is_alive(), "the thread hangs"
    return result[0]


def on_another_loop(use: Callable[[], Awaitable[Any]]) -> Any:
    """Await what `use` gives on an event loop in a thread; return what that raises."""

    async def work() -> None:
        await use()

    return in_thread(lambda: asyncio.run(work()))


def uses(database: fastdb.Database) -> list[Callable[[], Coroutine[Any, Any, Any]]]:
    """Return what may be asked of a Database, each as a call."""

    async def iterated() -> list[Any]:
        return [record async for record in database.iterate("SELECT 1")]

    async def connected() -> None:
        async with database.connection() as connection:
            await connection.execute("SELECT 1")

    async def in_transaction() -> None:
        async with database.transaction():
            await database.execute("SELECT 1")

    return [
        lambda: echo(database, 1),
        lambda: database.execute_many("SELECT :a", [{"a": 1}]),
        iterated,
        connected,
        in_transaction,
        database.connect,
        database.disconnect,
    ]


@pytest.mark.parametrize("force_rollback", [False, True])
async def test_another_thread_is_told(database_url: str, force_rollback: bool) -> None:
    async with fastdb.Database(database_url, force_rollback=force_rollback) as database:
        for use in uses(database):
            background = [asyncio.create_task(echo(database, n)) for n in range(20)]
            async with asyncio.timeout(FAR):
                result = await asyncio.to_thread(on_another_loop, use)
                assert isinstance(result, fastdb.EventLoopError), (use, result)
                assert await asyncio.gather(*background) == list(range(20))
        assert database.is_connected
        assert await echo(database, 7) == 7


async def test_what_is_open_may_not_be_ended_elsewhere(notes: fastdb.Database) -> None:
    transaction = await notes.transaction()
    await insert(notes, 1)
    connection = notes.connection()
    rows = notes.iterate("SELECT 1 AS n UNION SELECT 2 UNION SELECT 3", batch_size=1)
    assert (await anext(rows)).n == 1

    async def leave() -> None:
        await connection.__aexit__(None, None, None)

    async def next_row() -> None:
        await anext(rows)

    async with connection:
        for use in (
            transaction.commit,
            transaction.rollback,
            lambda: transaction.__aexit__(None, None, None),
            lambda: notes.transaction().start(),
            leave,
            lambda: echo(connection, 1),
            next_row,
        ):
            result = await asyncio.to_thread(on_another_loop, use)
            assert isinstance(result, fastdb.EventLoopError | fastdb.TransactionError), result
        assert transaction.is_open
        assert await notes.fetch_val("SELECT count(*) FROM notes") == 1
    # The iteration was broken off by its error; its connection is the transaction's.
    await transaction.rollback()
    assert await ids(notes) == []


async def test_figures_may_be_asked_for_by_any_thread(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=2) as database:
        over = threading.Event()

        def watch() -> int:
            most = 0
            while not over.is_set():
                stats = database.pool.stats()
                assert 0 <= stats.idle <= 2
                most = max(most, stats.waiting)
            return most

        watching = asyncio.create_task(asyncio.to_thread(watch))
        for _ in range(5):
            await asyncio.gather(*(echo(database, n) for n in range(100)))
        over.set()
        assert await watching <= 100


def test_two_threads_connect_one_database_at_once(database_url: str) -> None:
    for _ in range(5):
        database = fastdb.Database(database_url)
        barrier = threading.Barrier(2)
        results: list[Any] = []

        async def work(database: fastdb.Database, barrier: threading.Barrier) -> int:
            await asyncio.to_thread(barrier.wait)
            await database.connect()
            try:
                await asyncio.to_thread(barrier.wait)
                return await echo(database, 5)
            finally:
                await database.disconnect()

        def run(
            database: fastdb.Database = database,
            barrier: threading.Barrier = barrier,
            results: list[Any] = results,
        ) -> None:
            try:
                results.append(asyncio.run(work(database, barrier)))
            except fastdb.EventLoopError as error:
                results.append(error)
                barrier.wait()  # the other one goes on, too
            except BaseException as error:
                results.append(error)

        threads = [threading.Thread(target=run, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(FAR)
            assert not thread.is_alive()
        assert sorted(type(each).__name__ for each in results) == ["EventLoopError", "int"]
        assert not database.is_connected


def test_each_thread_with_a_database_of_its_own(database_url: str) -> None:
    async def work(start: int) -> bool:
        async with fastdb.Database(database_url, max_size=2) as database:
            numbers = list(range(start, start + 200))
            return await asyncio.gather(*(echo(database, each) for each in numbers)) == numbers

    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(asyncio.run(work(n * 1000))))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FAR)
        assert not thread.is_alive()
    assert results == [True] * 4


TWO_LOOPS = """
    import asyncio, sys, fastdb

    database = fastdb.Database(sys.argv[1], max_size=2)
    left = []

    async def refused(run):
        try:
            await run
        except (fastdb.EventLoopError, fastdb.TransactionError):
            return
        raise AssertionError("this should have been refused")

    async def first():
        await database.connect()
        await database.execute("CREATE TABLE looped (id integer primary key)")
        left.append(await database.transaction())
        await database.execute("INSERT INTO looped VALUES (1)")

    async def second():
        await refused(database.fetch_val("SELECT 1"))
        await refused(left[0].commit())
        await database.connect()
        assert await database.fetch_val("SELECT 2") == 2
        await refused(left[0].commit())
        async with asyncio.timeout(20):
            # What was not committed is gone with its connection, and locks nothing.
            await database.execute("INSERT INTO looped VALUES (1)")
            await database.execute("DROP TABLE looped")
        # and this loop, too, ends without disconnect()

    async def third():
        await database.disconnect()
        assert not database.is_connected

    asyncio.run(first())
    asyncio.run(second())
    asyncio.run(third())
    asyncio.run(third())
    print("whole")
"""


def run_program(program: str, url: str) -> None:
    """Run a program by itself: what it leaves unclosed is reported when that is collected."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program), url],
        capture_output=True,
        text=True,
        timeout=2 * FAR,
        check=False,
    )
    assert done.stdout.strip() == "whole", done.stderr


def test_one_database_on_one_loop_after_another(database_url: str) -> None:
    run_program(TWO_LOOPS, database_url)


# -- forks


def forked(work: Callable[[], Any]) -> Any:
    """Run `work` in a forked process and return what it returned; its end is ``os._exit``."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        code = 1
        try:
            os.close(reader)
            signal.alarm(int(FAR))
            gc.collect()
            os.write(writer, repr(work()).encode())
            code = 0
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        text = stream.read().decode()
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), text


def serves_alone(database: fastdb.Database) -> Callable[[], list[Any]]:
    """Return what a forked process does: use the Database of its parent, then connect anew."""

    async def work() -> list[Any]:
        results: list[Any] = []
        assert database.is_connected
        for use in (
            lambda: echo(database, 1),
            lambda: database.transaction().start(),
            lambda: database.connection().__aenter__(),
        ):
            try:
                results.append(await use())
            except fastdb.Error as error:
                results.append(type(error).__name__)
        try:
            await database.connect()
            results.append(await asyncio.gather(*(echo(database, n) for n in range(50))))
            await database.disconnect()
        except fastdb.NotSupportedError as error:
            results.append(str(error))
            await database.disconnect()
        results.append(database.is_connected)
        return results

    return lambda: asyncio.run(work())


async def test_a_fork_has_connections_of_its_own(database_url: str) -> None:
    async with fastdb.Database(database_url, min_size=2, max_size=2) as database:
        await database.execute("CREATE TABLE notes (id integer primary key)")
        async with database.transaction():
            await insert(database, 1)
            before = database.pool.stats()
            for _ in range(2):
                code, text = await asyncio.to_thread(forked, serves_alone(database))
                assert code == 0, text
                assert text.startswith("['EventLoopError', 'EventLoopError', 'EventLoopError', ")
                assert str(list(range(50))) in text or "forked" in text
                assert text.endswith("False]")
            # The parent's transaction and connections are as they were.
            await insert(database, 2)
            other = asyncio.create_task(echo(database, 3))
            async with asyncio.timeout(FAR):
                assert await other == 3
        assert await ids(database) == [1, 2]
        assert database.pool.stats().opened == before.opened
        assert not database.pool.stats().closed


async def test_an_iteration_that_a_fork_leaves_goes_on_in_its_parent(database_url: str) -> None:
    async with fastdb.Database(database_url) as database, database.connection() as connection:
        rows = connection.iterate("SELECT 1 AS n UNION ALL SELECT 2", batch_size=1)
        assert (await anext(rows)).n == 1

        def leave() -> str:
            with pytest.raises(fastdb.EventLoopError):
                asyncio.run(rows.aclose())
            return "left"

        code, text = await asyncio.to_thread(forked, leave)
        assert (code, text) == (0, "'left'")
        assert [record.n async for record in rows] == [2]


async def test_a_fork_that_forgets_everything_disturbs_nothing(database_url: str) -> None:
    """Whatever is collected in the child, the parent's sockets and selector are its own."""
    database = fastdb.Database(database_url, min_size=2, max_size=2)
    await database.connect()
    try:
        transaction = await database.transaction()
        raw = database.connection().raw_connection

        def work() -> str:
            nonlocal transaction, raw
            pool = database.pool
            pool._leased.clear()
            pool._idle.clear()
            database._forget_pool()
            from fastdb import pool_forks

            pool_forks._inherited.clear()
            del transaction, raw, pool
            gc.collect()
            return "done"

        code, text = forked(work)
        assert (code, text) == (0, "'done'")
        async with asyncio.timeout(FAR):
            assert await echo(database, 4) == 4
            assert await asyncio.create_task(echo(database, 5)) == 5
            await transaction.rollback()
        assert not database.pool.stats().closed
    finally:
        await database.disconnect()


async def test_a_connection_that_is_closed_while_a_fork_lives_is_closed(
    remote: Remote, server_url: str
) -> None:
    # Not through the proxy, whose sockets the fork keeps.
    async with fastdb.Database(server_url, min_size=2) as database:
        assert await echo(database, 1) == 1
        reader, writer = os.pipe()
        process = os.fork()
        if not process:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        try:
            database.pool.abandon()  # without a good-bye
            await eventually(lambda: remote.connections() == 0, "the end of the connections")
        finally:
            os.close(reader)
            os.close(writer)
            await asyncio.to_thread(os.waitpid, process, 0)


def in_child(database: fastdb.Database, queue: Any) -> None:
    queue.put(serves_alone(database)())


async def test_a_process_of_multiprocessing(database_url: str) -> None:
    context = multiprocessing.get_context("fork")
    async with fastdb.Database(database_url) as database:
        queue = context.SimpleQueue()
        process = context.Process(target=in_child, args=(database, queue))
        process.start()
        await asyncio.to_thread(process.join, FAR)
        assert process.exitcode == 0
        assert queue.get()[:3] == ["EventLoopError"] * 3
        async with asyncio.timeout(FAR):
            assert await asyncio.gather(*(echo(database, n) for n in range(50))) == list(range(50))
        assert not database.pool.stats().closed


PROGRAM = """
    import asyncio, os, sys, fastdb

    database = fastdb.Database(sys.argv[1], min_size=2, max_size=2)
    kept = []

    async def main():
        await database.connect()
        await database.execute("CREATE TABLE forked (id integer primary key)")
        transaction = await database.transaction()
        await database.execute("INSERT INTO forked VALUES (1)")
        kept.append((transaction, database.connection().raw_connection))
        child = os.fork()
        if not child:
            raise SystemExit(0)  # the normal end of a program
        assert await asyncio.to_thread(os.waitpid, child, 0) == (child, 0)
        async with asyncio.timeout(60):
            await database.execute("INSERT INTO forked VALUES (2)")
            await transaction.commit()
            numbers = await asyncio.gather(
                *(database.fetch_val("SELECT :n + 0", {"n": n}) for n in range(50))
            )
            assert numbers == list(range(50))
            assert await database.fetch_val("SELECT count(*) FROM forked") == 2
            assert not database.pool.stats().closed
            await database.disconnect()
        print("whole")

    asyncio.run(main())
"""


def test_the_normal_end_of_a_fork_disturbs_nothing(database_url: str) -> None:
    run_program(PROGRAM, database_url)


async def test_a_fork_of_a_thread_while_queries_run(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=3) as database:
        over = False

        async def work(number: int) -> None:
            while not over:
                assert await echo(database, number) == number

        tasks = [asyncio.create_task(work(number)) for number in range(6)]
        await asyncio.sleep(0.01)
        for _ in range(5):
            code, text = await asyncio.to_thread(forked, lambda: "done")
            assert (code, text) == (0, "'done'")
        over = True
        async with asyncio.timeout(FAR):
            await asyncio.gather(*tasks)
        assert not database.pool.stats().closed
