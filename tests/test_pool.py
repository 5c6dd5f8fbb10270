from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from typing import Any

import pytest

import fastdb
from fastdb.drivers.base import DriverConnection
from tests.faults.proxy import Proxy


async def hold(database: fastdb.Database, entered: asyncio.Event, leave: asyncio.Event) -> None:
    async with database.connection():
        entered.set()
        await leave.wait()


async def select(database: fastdb.Database) -> Any:
    """Select from a task of one's own, which is none that holds a connection."""
    return await database.fetch_val("SELECT 1")


async def test_connect_opens_min_size(database_url: str) -> None:
    async with fastdb.Database(database_url, min_size=3, max_size=5) as database:
        stats = database.pool.stats()
        assert (stats.size, stats.idle, stats.opened) == (3, 3, 3)
        assert (stats.min_size, stats.max_size) == (3, 5)


async def test_min_size_zero_still_makes_one(database_url: str) -> None:
    async with fastdb.Database(database_url, min_size=0) as database:
        assert database.pool.stats().size == 1


async def test_idle_connections_are_taken_last_in_first_out(database_url: str) -> None:
    async with fastdb.Database(database_url, min_size=3, reset="never") as database:
        seen = set()
        for _ in range(5):
            async with database.connection() as connection:
                seen.add(id(connection.raw_connection))
        assert len(seen) == 1


async def test_waiters_are_served_first_in_first_out(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=1) as database:
        order: list[int] = []

        async def work(number: int) -> None:
            async with database.connection():
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(work(number) for number in range(20)))
        assert order == list(range(20))
        stats = database.pool.stats()
        assert (stats.size, stats.waits) == (1, 19)


async def test_who_comes_later_overtakes_nobody(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=1) as database:
        entered, leave = asyncio.Event(), asyncio.Event()
        holder = asyncio.create_task(hold(database, entered, leave))
        await entered.wait()
        order: list[str] = []

        async def work(name: str) -> None:
            await database.execute("SELECT 1")
            order.append(name)

        first = asyncio.create_task(work("first"))
        await asyncio.sleep(0)
        leave.set()
        await asyncio.gather(holder, first, work("second"))
        assert order == ["first", "second"]


async def test_acquire_timeout_names_the_holders(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=1, acquire_timeout=0.02) as database:
        entered, leave = asyncio.Event(), asyncio.Event()
        holder = asyncio.create_task(hold(database, entered, leave), name="the holder")
        await entered.wait()
        with pytest.raises(fastdb.PoolTimeoutError, match=r"max_size=1 .*the holder") as caught:
            await database.execute("SELECT 1")
        assert isinstance(caught.value, TimeoutError)
        leave.set()
        await holder
        assert await database.fetch_val("SELECT 1") == 1
        assert database.pool.stats().waiting == 0


async def test_every_waiter_has_a_deadline_of_its_own(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=1, acquire_timeout=0.2) as database:
        ended: list[str] = []

        async def wait(name: str) -> None:
            try:
                await database.execute("SELECT 1")
            except fastdb.PoolTimeoutError:
                ended.append(f"{name} timed out")
            except asyncio.CancelledError:
                ended.append(f"{name} was cancelled")
            else:
                ended.append(f"{name} was served")

        for _ in range(2):  # the second time, the timer has run out before
            entered, leave = asyncio.Event(), asyncio.Event()
            holder = asyncio.create_task(hold(database, entered, leave))
            await entered.wait()
            first = asyncio.create_task(wait("first"))
            cancelled = asyncio.create_task(wait("cancelled"))
            await asyncio.sleep(0.05)
            second = asyncio.create_task(wait("second"))
            cancelled.cancel()
            await asyncio.wait([first, second, cancelled])
            assert database.pool.stats().waiting == 0
            last = asyncio.create_task(wait("last"))
            await asyncio.sleep(0)
            leave.set()
            await asyncio.gather(holder, last)
        assert (
            ended
            == [
                "cancelled was cancelled",
                "first timed out",
                "second timed out",
                "last was served",
            ]
            * 2
        )


async def test_a_short_time_to_wait_is_waited_whole(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=1, acquire_timeout=0.009) as database:
        entered, leave = asyncio.Event(), asyncio.Event()
        holder = asyncio.create_task(hold(database, entered, leave))
        await entered.wait()
        waiting = asyncio.create_task(database.fetch_val("SELECT 1"))
        await asyncio.sleep(0)
        database.pool._expire()  # as for one who came earlier
        assert database.pool.stats().waiting == 1
        with pytest.raises(fastdb.PoolTimeoutError):
            await waiting
        leave.set()
        await holder


async def test_a_cancelled_waiter_loses_nobodys_place(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=1) as database:
        for steps in range(8):
            entered, leave = asyncio.Event(), asyncio.Event()
            holder = asyncio.create_task(hold(database, entered, leave))
            await entered.wait()
            cancelled = asyncio.create_task(database.fetch_val("SELECT 1"))
            patient = asyncio.create_task(database.fetch_val("SELECT 2"))
            await asyncio.sleep(0)
            leave.set()
            for _ in range(steps):
                await asyncio.sleep(0)
            cancelled.cancel()
            assert await patient == 2
            await asyncio.wait([holder, cancelled])
            stats = database.pool.stats()
            assert (stats.leased, stats.waiting) == (0, 0)
            assert stats.idle == stats.size


async def test_a_storm_of_cancellations_leaks_nothing(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=3) as database:
        crossed: list[tuple[int, Any]] = []

        async def work(number: int) -> None:
            answer = await database.fetch_val("SELECT :number + 0", {"number": number})
            if answer != number:
                crossed.append((number, answer))

        for start in range(0, 300, 30):
            tasks = [asyncio.create_task(work(number)) for number in range(start, start + 30)]
            for position, task in enumerate(tasks):
                if position % 3 == 0:
                    await asyncio.sleep(0)
                if position % 2 == 0:
                    task.cancel()
            await asyncio.wait(tasks)
        assert crossed == []
        assert await asyncio.gather(
            *(database.fetch_val("SELECT :n + 0", {"n": n}) for n in range(9))
        ) == list(range(9))
        stats = database.pool.stats()
        assert (stats.leased, stats.waiting, stats.idle) == (0, 0, stats.size)
        assert stats.size <= 3


async def test_idle_timeout_closes_down_to_min_size(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=4, idle_timeout=0.05) as database:
        async with asyncio.TaskGroup() as group:
            entered = [asyncio.Event() for _ in range(4)]
            leave = asyncio.Event()
            for event in entered:
                group.create_task(hold(database, event, leave))
            for event in entered:
                await event.wait()
            leave.set()
        assert database.pool.stats().size == 4
        for _ in range(100):
            await asyncio.sleep(0.02)
            if database.pool.stats().size == 1:
                break
        stats = database.pool.stats()
        assert stats.size == 1
        assert stats.closed == {"idle_timeout": 3}
        assert await database.fetch_val("SELECT 1") == 1


async def test_max_lifetime_replaces_connections(database_url: str) -> None:
    async with fastdb.Database(database_url, max_lifetime=0.03) as database:
        await asyncio.sleep(0.05)
        assert await database.fetch_val("SELECT 1") == 1
        stats = database.pool.stats()
        # How many it were by now depends on the machine.
        assert set(stats.closed) == {"max_lifetime"}
        assert stats.opened - stats.closed["max_lifetime"] == stats.size


async def test_max_queries_replaces_connections(database_url: str) -> None:
    async with fastdb.Database(database_url, max_queries=3) as database:
        for _ in range(7):
            assert await database.fetch_val("SELECT 1") == 1
        assert database.pool.stats().closed == {"max_queries": 2}


async def test_setup_and_init_are_awaited(database_url: str) -> None:
    calls: list[str] = []

    async def init(raw: Any) -> None:
        calls.append("init")

    async def setup(raw: Any) -> None:
        calls.append("setup")

    async with fastdb.Database(database_url, init=init, setup=setup) as database:
        await database.execute("SELECT 1")
        await database.execute("SELECT 1")
    assert calls == ["init", "setup", "setup"]


async def test_errors_of_setup_pass_and_leak_nothing(database_url: str) -> None:
    async def setup(raw: Any) -> None:
        raise ZeroDivisionError

    async with fastdb.Database(database_url, setup=setup, max_size=1) as database:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await database.execute("SELECT 1")
        assert database.pool.stats().leased == 0


async def test_errors_of_init_pass_unchanged(database_url: str) -> None:
    async def init(raw: Any) -> None:
        raise ZeroDivisionError

    database = fastdb.Database(database_url, init=init)
    with pytest.raises(ZeroDivisionError):
        await database.connect()
    assert not database.is_connected


async def test_disconnect_waits_for_connections_in_use(database_url: str) -> None:
    database = fastdb.Database(database_url)
    await database.connect()
    entered, leave = asyncio.Event(), asyncio.Event()
    holder = asyncio.create_task(hold(database, entered, leave))
    await entered.wait()
    closing = asyncio.create_task(database.disconnect())
    await asyncio.sleep(0.02)
    assert not closing.done()
    leave.set()
    await holder
    await closing
    assert not database.is_connected


async def test_disconnect_is_bounded(database_url: str) -> None:
    database = fastdb.Database(database_url)
    await database.connect()
    entered, leave = asyncio.Event(), asyncio.Event()
    holder = asyncio.create_task(hold(database, entered, leave))
    await entered.wait()
    await asyncio.wait_for(database.disconnect(timeout=0.05), 5)
    leave.set()
    await holder
    with pytest.raises(fastdb.NotConnectedError):
        await database.execute("SELECT 1")


async def test_only_connections_in_use_are_told_to_be_cut(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = fastdb.Database(database_url)
    await database.connect()
    await database.fetch_val("SELECT 1")
    await database.disconnect(timeout=0)
    assert "in use" not in caplog.text
    await database.connect()
    entered, leave = asyncio.Event(), asyncio.Event()
    holder = asyncio.create_task(hold(database, entered, leave))
    await entered.wait()
    await database.disconnect(timeout=0)
    assert "1 connections were still in use" in caplog.text
    leave.set()
    await holder


async def test_disconnect_inside_ones_own_connection(database_url: str) -> None:
    database = fastdb.Database(database_url)
    await database.connect()
    async with database.connection() as connection:
        await connection.execute("SELECT 1")
        await asyncio.wait_for(database.disconnect(), 5)
    assert not database.is_connected


async def test_waiters_are_told_of_a_disconnect(database_url: str) -> None:
    database = fastdb.Database(database_url, max_size=1)
    await database.connect()
    entered, leave = asyncio.Event(), asyncio.Event()
    holder = asyncio.create_task(hold(database, entered, leave))
    await entered.wait()
    waiter = asyncio.create_task(database.execute("SELECT 1"))
    await asyncio.sleep(0)
    closing = asyncio.create_task(database.disconnect())
    with pytest.raises(fastdb.NotConnectedError, match="disconnected"):
        await waiter
    leave.set()
    await asyncio.gather(holder, closing)


async def test_stats_count(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=2) as database:
        async with database.connection():
            stats = database.pool.stats()
            assert (stats.leased, stats.idle, stats.size) == (1, 0, 1)
        assert database.pool.stats().idle == 1


async def test_a_place_that_came_free_is_not_opened_after_a_disconnect(database_url: str) -> None:
    database = fastdb.Database(database_url, max_size=1)
    await database.connect()
    pool = database.pool

    async def ask() -> None:
        await database.execute("SELECT 1")

    async with database.connection() as connection:
        waiter = asyncio.create_task(ask())
        await asyncio.sleep(0)
        assert pool.stats().waiting == 1
        connection._lease.leased().terminate()
    await database.disconnect()
    with pytest.raises(fastdb.NotConnectedError):
        await waiter
    assert pool.stats().opened == 1


async def test_disconnect_does_not_wait_for_vanished_holders(database_url: str) -> None:
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
    await asyncio.wait_for(closing, 5)


async def test_connect_cancelled_twice_leaves_none_open(database_url: str) -> None:
    opened: list[Any] = []
    gate = asyncio.Event()

    async def init(raw: Any) -> None:
        opened.append(raw)
        if len(opened) == 2:
            await gate.wait()
        while len(opened) == 3 and raw is opened[2] and not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await gate.wait()

    database = fastdb.Database(database_url, min_size=3, init=init)
    connect = database._driver.connect
    connections: list[DriverConnection] = []

    async def noting() -> DriverConnection:
        connections.append(await connect())
        return connections[-1]

    database._driver.connect = noting  # type: ignore[method-assign]
    task = asyncio.create_task(database.connect())
    for _ in range(500):
        await asyncio.sleep(0.01)
        if len(opened) == 3 and connections:
            break
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.01)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(500):
        await asyncio.sleep(0.01)
        if [connection.is_alive() for connection in connections] == [False, False]:
            break
    assert [connection.is_alive() for connection in connections] == [False, False]


async def test_no_cancellation_of_connect_is_lost(database_url: str) -> None:
    for step in range(60):
        database = fastdb.Database(database_url)
        task = asyncio.create_task(database.connect())
        await asyncio.sleep(step * 0.0003)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        await database.disconnect()


async def test_a_database_in_memory_survives_cancellations() -> None:
    async with fastdb.Database("sqlite://") as database:
        await database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY)")

        async def work() -> None:
            async with database.transaction():
                await database.execute("INSERT INTO notes (id) VALUES (1)")

        for step in range(50):
            task = asyncio.create_task(work())
            for _ in range(step % 25):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await database.execute("DELETE FROM notes")


async def test_a_closed_pool_lends_nothing(database_url: str) -> None:
    database = fastdb.Database(database_url)
    await database.connect()
    pool = database.pool
    pool.check_loop()  # it is the pool's own
    await database.disconnect()
    with pytest.raises(fastdb.NotConnectedError, match="disconnected"):
        await pool.acquire()


async def test_a_waiter_that_was_cancelled_does_not_hinder_a_disconnect(database_url: str) -> None:
    database = fastdb.Database(database_url, max_size=1)
    await database.connect()
    async with database.connection():
        waiter = asyncio.create_task(select(database))
        while database.pool.stats().waiting == 0:  # noqa: ASYNC110
            await asyncio.sleep(0)
        waiter.cancel()
        await database.disconnect()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert not database.is_connected


async def test_a_waiter_that_is_served_while_the_pool_closes_is_told(database_url: str) -> None:
    database = fastdb.Database(database_url, max_size=1)
    await database.connect()
    pool = database.pool
    async with database.connection():
        waiter = asyncio.create_task(select(database))
        while pool.stats().waiting == 0:  # noqa: ASYNC110
            await asyncio.sleep(0)
    # The connection was handed over above, and the waiter has not run since.
    await database.disconnect()
    with pytest.raises(fastdb.NotConnectedError, match="disconnected"):
        await waiter
    assert pool.stats().leased == 0


async def test_a_connection_used_meanwhile_is_closed_when_its_own_time_is_over(
    database_url: str,
) -> None:
    async with fastdb.Database(database_url, min_size=0, max_size=1, idle_timeout=0.2) as database:
        await database.execute("SELECT 1")
        await asyncio.sleep(0.1)
        await database.execute("SELECT 1")
        async with asyncio.timeout(30):
            while database.pool.stats().size:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        stats = database.pool.stats()
        assert stats.closed == {"idle_timeout": stats.opened}


async def test_cleaning_that_does_not_end_is_cut_by_a_disconnect(database_url: str) -> None:
    cleaning = asyncio.Event()
    count = 0

    async def init(raw: Any) -> None:
        nonlocal count
        count += 1
        if count > 1:  # the second time is after the reset
            cleaning.set()
            await asyncio.Event().wait()

    # A connection of SQLite is replaced, not reset: `init` blocks there, too.
    database = fastdb.Database(database_url, max_size=1, reset="always", init=init)
    await database.connect()
    query = asyncio.create_task(database.fetch_val("SELECT 1"))
    await cleaning.wait()
    pool = database.pool
    await database.disconnect(timeout=0.05)
    assert await query == 1
    stats = pool.stats()
    assert (stats.idle, stats.leased) == (0, 0)


async def test_an_init_that_swallows_its_cancellation_leaves_no_connection(
    database_url: str,
) -> None:
    entered = asyncio.Event()
    count = 0

    async def init(raw: Any) -> None:
        nonlocal count
        count += 1
        if count > 1:
            entered.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    database = fastdb.Database(database_url, max_size=2, init=init)
    await database.connect()
    pool = database.pool
    async with database.connection():
        second = asyncio.create_task(select(database))
        await entered.wait()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await database.disconnect(timeout=0.05)
    assert (pool.stats().idle, pool.stats().leased) == (0, 0)


async def test_a_connection_that_does_not_close_in_good_order_is_cut(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fastdb.pool.CLEANUP_TIMEOUT", 0.05)
    caplog.set_level(logging.DEBUG, "fastdb")
    async with (
        Proxy(postgresql_url) as proxy,
        fastdb.Database(proxy.url, max_queries=1) as database,
    ):
        async with database.connection() as connection:
            await connection.execute("SELECT 1")
            proxy.stall()
        async with asyncio.timeout(30):
            while "did not close in good order" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        proxy.resume()
        assert await database.fetch_val("SELECT 1") == 1


async def test_two_tasks_on_one_connection_lease_once(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=3) as database, database.connection():
        shared = fastdb.Connection(database)
        values = await asyncio.gather(*(shared.fetch_val("SELECT 1") for _ in range(3)))
        assert values == [1, 1, 1]
        assert database.pool.stats().opened == 2


async def test_who_comes_later_is_not_told_of_an_earlier_failure(sqlite_url: str) -> None:
    """An opening that began before a server was back fails whoever waited for it, no one else."""
    async with fastdb.Database(sqlite_url, max_size=2) as database, database.connection():
        pool = database.pool
        failing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        open_connection = pool._open_connection
        pool._open_connection = lambda: failing

        async def ask() -> Any:
            return await database.fetch_val("SELECT 1")

        first = asyncio.create_task(ask())
        await asyncio.sleep(0)
        assert pool.stats().opening == 1
        first.cancel()
        later = asyncio.create_task(ask())
        await asyncio.sleep(0)
        pool._open_connection = open_connection
        failing.set_exception(fastdb.ConnectionFailedError("the server is not there yet"))
        assert await later == 1
        assert first.cancelled()


async def test_who_is_cancelled_as_the_time_is_over_is_not_told(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=1, acquire_timeout=0.05) as database:
        async with database.connection() as connection:
            await connection.execute("SELECT 1")
            waiting = asyncio.create_task(select(database))
            await asyncio.sleep(0)
            # Both are due in one turn of the event loop, the cancellation first.
            asyncio.get_running_loop().call_later(0.01, waiting.cancel)
            time.sleep(0.1)  # noqa: ASYNC251
            await asyncio.wait([waiting])
            assert waiting.cancelled()
        assert database.pool.stats().waiting == 0
        assert await select(database) == 1


async def test_an_old_connection_that_nobody_needs_is_not_replaced(database_url: str) -> None:
    options: dict[str, Any] = {"min_size": 0, "max_lifetime": 0.05}
    async with fastdb.Database(database_url, **options) as database:
        async with asyncio.timeout(5):
            while not database.pool.stats().closed.get("max_lifetime"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert database.pool.stats().size == 0


async def test_a_query_that_is_a_task_of_its_own_is_named_among_the_holders(
    server_url: str,
) -> None:
    function = "pg_sleep" if server_url.startswith("postgres") else "sleep"
    async with fastdb.Database(server_url, max_size=1, acquire_timeout=0.05) as database:
        holding = asyncio.create_task(database.execute(f"SELECT {function}(20)"), name="holder")
        await asyncio.sleep(0)
        with pytest.raises(fastdb.PoolTimeoutError, match=r"held by task 'holder'$"):
            await select(database)
        holding.cancel()
        await asyncio.wait([holding])
