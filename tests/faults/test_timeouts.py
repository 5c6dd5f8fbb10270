"""Timeouts of every kind: the statement ends on the server, and the connection is used or replaced.

The bound for overshooting is far above what a busy machine needs, and far below the time that the
statement itself would take.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import fastdb
from fastdb.drivers import base
from tests.faults.conftest import Remote, eventually, is_whole
from tests.faults.proxy import Proxy

SLOW = (
    "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000000000) "
    "SELECT count(*) FROM s"
)


def slow(database: fastdb.Database) -> str:
    """Return a query that takes 20 seconds or more."""
    dialect = database.url.dialect
    return {"postgresql": "SELECT pg_sleep(20)", "mysql": "SELECT sleep(20)"}.get(dialect, SLOW)


async def with_timeout(database: fastdb.Database) -> None:
    await database.fetch_all(slow(database), timeout=0.1)


async def with_asyncio_timeout(database: fastdb.Database) -> None:
    async with asyncio.timeout(0.1):
        await database.fetch_all(slow(database))


async def with_wait_for(database: fastdb.Database) -> None:
    await asyncio.wait_for(database.fetch_all(slow(database)), 0.1)


async def on_a_held_connection(database: fastdb.Database) -> None:
    async with database.connection() as connection:
        with pytest.raises(TimeoutError):
            await connection.fetch_all(slow(database), timeout=0.1)
        assert await connection.fetch_val("SELECT 1") == 1
    raise TimeoutError


async def while_iterating(database: fastdb.Database) -> None:
    async for _ in database.iterate(slow(database), timeout=0.1):
        pass


WAYS: list[Callable[[fastdb.Database], Awaitable[None]]] = [
    with_timeout,
    with_asyncio_timeout,
    with_wait_for,
    on_a_held_connection,
    while_iterating,
]


@pytest.mark.parametrize("way", WAYS)
async def test_a_statement_that_takes_too_long_is_stopped(
    database: fastdb.Database, way: Callable[[fastdb.Database], Awaitable[None]]
) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await way(database)
    assert time.monotonic() - started < 5
    assert await database.fetch_val("SELECT 1") == 1
    assert is_whole(database)


async def test_command_timeout_stops_every_statement(database_url: str) -> None:
    async with fastdb.Database(database_url, command_timeout=1.0) as database:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await database.execute(slow(database))
            assert await database.fetch_val("SELECT 1") == 1
        # What a call says for itself wins.
        assert await database.fetch_val("SELECT 2", timeout=None) == 2


async def test_no_statement_goes_on_on_the_server(remote: Remote) -> None:
    async with fastdb.Database(remote.url, max_size=3) as database:
        results = await asyncio.gather(
            *(database.fetch_all(remote.sleep, timeout=0.1) for _ in range(6)),
            return_exceptions=True,
        )
        assert all(isinstance(result, TimeoutError) for result in results)
        await eventually(lambda: remote.running("sleep(20") == 0, "the end of the statements")
        assert is_whole(database)


async def test_a_timeout_inside_a_transaction_lets_it_go_on_or_ends_it(
    database: fastdb.Database,
) -> None:
    """SQLite and MySQL go on; PostgreSQL has failed the transaction, and says so."""
    await database.execute("CREATE TABLE notes (id integer)")
    if database.url.dialect == "postgresql" or database.url.driver == "asyncmy":
        with pytest.raises(fastdb.DatabaseError):
            async with database.transaction():
                await database.execute("INSERT INTO notes VALUES (1)")
                with pytest.raises(TimeoutError):
                    await database.fetch_all(slow(database), timeout=0.1)
                await database.execute("INSERT INTO notes VALUES (2)")
        expected = 0
    else:
        async with database.transaction():
            await database.execute("INSERT INTO notes VALUES (1)")
            with pytest.raises(TimeoutError):
                await database.fetch_all(slow(database), timeout=0.1)
            await database.execute("INSERT INTO notes VALUES (2)")
        expected = 2
    assert await database.fetch_val("SELECT count(*) FROM notes") == expected
    assert is_whole(database)


async def test_a_timeout_inside_a_savepoint_undoes_that_alone(database: fastdb.Database) -> None:
    await database.execute("CREATE TABLE notes (id integer)")
    survives = database.url.driver != "asyncmy"  # there it costs the connection
    try:
        async with database.transaction():
            await database.execute("INSERT INTO notes VALUES (1)")
            with pytest.raises(TimeoutError):
                async with database.transaction():
                    await database.execute("INSERT INTO notes VALUES (2)")
                    await database.fetch_all(slow(database), timeout=0.1)
            await database.execute("INSERT INTO notes VALUES (3)")
    except fastdb.OperationalError:
        assert not survives
    rows = await database.fetch_all("SELECT id FROM notes ORDER BY id")
    assert [row.id for row in rows] == ([1, 3] if survives else [])
    assert is_whole(database)


async def test_a_timeout_under_force_rollback_does_not_end_it(database_url: str) -> None:
    async with fastdb.Database(database_url) as database:
        await database.execute("CREATE TABLE notes (id integer)")
    async with fastdb.Database(database_url, force_rollback=True) as database:
        if database.url.driver == "asyncmy":
            return  # there it costs the connection
        await database.execute("INSERT INTO notes VALUES (1)")
        for way in (with_timeout, with_asyncio_timeout, with_wait_for):
            with pytest.raises(TimeoutError):
                await way(database)
            assert await database.fetch_val("SELECT count(*) FROM notes") == 1
    async with fastdb.Database(database_url) as database:
        assert await database.fetch_val("SELECT count(*) FROM notes") == 0


async def test_a_wait_for_a_lock_is_stopped(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=2) as database:
        await database.execute("CREATE TABLE notes (id integer primary key, text varchar(10))")
        await database.execute("INSERT INTO notes VALUES (1, 'a')")
        locked, done = asyncio.Event(), asyncio.Event()

        async def lock() -> None:
            async with database.transaction():
                await database.execute("UPDATE notes SET text = 'b'")
                locked.set()
                await done.wait()

        async def write() -> None:
            await database.execute("UPDATE notes SET text = 'c'", timeout=0.1)

        locking = asyncio.create_task(lock())
        await locked.wait()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await write()
        done.set()
        await locking
        assert await database.fetch_val("SELECT text FROM notes") == "b"
        assert is_whole(database)


async def test_a_wait_for_a_lock_by_a_savepoint_is_stopped(sqlite_url: str) -> None:
    """BEGIN travels with the savepoint, and nothing but that is given up."""
    async with fastdb.Database(sqlite_url) as database:
        await database.execute("CREATE TABLE notes (id integer)")
        async with fastdb.Database(sqlite_url) as other, other.transaction():
            await other.execute("INSERT INTO notes VALUES (1)")
            async with database.transaction():
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await database.transaction()
        assert await database.fetch_val("SELECT count(*) FROM notes") == 1
        assert database.pool.stats().opened == 1
        assert is_whole(database)


async def test_acquire_timeout(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=1, acquire_timeout=0.1) as database:
        done = asyncio.Event()

        async def hold() -> None:
            async with database.connection() as connection:
                await connection.fetch_val("SELECT 1")
                await done.wait()

        holding = asyncio.create_task(hold(), name="the holder")
        await eventually(lambda: database.pool.stats().leased == 1, "the lease")
        with pytest.raises(fastdb.PoolTimeoutError, match="the holder"):
            await database.fetch_val("SELECT 2")
        done.set()
        await holding
        assert await database.fetch_val("SELECT 3") == 3
        assert is_whole(database)


# -- a network that lets nothing through


async def in_task(call: Callable[[], Awaitable[Any]]) -> Any:
    """Await a call in a task of its own."""

    async def run() -> Any:
        return await call()

    return await asyncio.create_task(run())


async def test_a_silent_server_is_given_up_by_a_timeout(remote: Remote) -> None:
    async with fastdb.Database(remote.url, max_size=2) as database:
        await database.fetch_val("SELECT 1")
        remote.proxy.stall()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await database.fetch_val("SELECT 2", timeout=0.2)
        assert time.monotonic() - started < 3
        remote.proxy.resume()
        assert await database.fetch_val("SELECT 3") == 3
        await eventually(lambda: is_whole(database), "the return of all connections")


async def test_disconnecting_from_a_silent_server_ends_within_its_bound(remote: Remote) -> None:
    database = fastdb.Database(remote.url, min_size=3)
    await database.connect()

    async def ask() -> None:
        await database.fetch_all(remote.sleep)

    asking = [asyncio.create_task(ask()) for _ in range(2)]
    await eventually(lambda: remote.running("sleep(20") == 2, "the queries' start")
    remote.proxy.stall()
    started = time.monotonic()
    await database.disconnect(timeout=0.5)
    assert time.monotonic() - started < 5
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(result, fastdb.Error) for result in results)


async def test_connecting_to_a_silent_server_ends_within_its_bound(remote: Remote) -> None:
    remote.proxy.stall()
    option = "timeout" if remote.dialect == "postgresql" else "connect_timeout"
    options: dict[str, Any] = {option: 1.5}
    database = fastdb.Database(remote.url, **options)
    with pytest.raises(fastdb.ConnectionFailedError, match=r"no answer within 1\.5 s"):
        await database.connect()
    remote.proxy.resume()
    await database.connect()
    assert await database.fetch_val("SELECT 1") == 1
    await database.disconnect()


async def test_a_connect_that_is_given_up_ends_soon(remote: Remote) -> None:
    """It also does once the server has let us in, when a statement may be running there."""

    async def until_it_asks() -> None:
        await eventually(lambda: remote.connections() > 0, "the server's welcome")
        remote.proxy.stall()

    remote.proxy.latency = 0.05
    database = fastdb.Database(remote.url)
    stalling = asyncio.create_task(until_it_asks())
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await database.connect()
    assert time.monotonic() - started < 4
    await stalling
    remote.proxy.resume()
    await eventually(lambda: remote.connections() == 0, "the end of the connection")


async def test_acquire_timeout_covers_a_connection_that_is_opened(remote: Remote) -> None:
    async with fastdb.Database(remote.url, max_size=2, acquire_timeout=0.2) as database:
        async with database.connection():
            remote.proxy.stall()
            with pytest.raises(fastdb.PoolTimeoutError, match="opened within"):
                await in_task(lambda: database.fetch_val("SELECT 1"))
            # Opened for nobody, it serves whoever comes next.
            remote.proxy.resume()
            await eventually(lambda: database.pool.stats().idle == 1, "the connection")
            assert await in_task(lambda: database.fetch_val("SELECT 2")) == 2
        assert database.pool.stats().opened == 2


async def test_callers_with_less_time_than_connecting_takes_are_served_at_last(
    remote: Remote,
) -> None:
    async with fastdb.Database(remote.url, max_size=2) as database, database.connection():
        remote.proxy.latency = 0.05

        async def take() -> None:
            async with database.connection():  # needs no round trip, once there is a connection
                pass

        attempts = 0
        while database.pool.stats().opened == 1:
            attempts += 1
            assert attempts < 200
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await asyncio.create_task(take())
        assert attempts > 1
        await asyncio.create_task(take())
        assert database.pool.stats().opened == 2


@pytest.mark.parametrize(
    "moment",
    [
        "body",
        "query",
        "savepoint",
        "savepoint's begin",
        "savepoint's end",
        "iteration",
        "iteration body",
    ],
)
async def test_a_timeout_over_a_silent_network_ends_soon(
    remote: Remote, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that is undone waits for an answer that never comes."""
    monkeypatch.setattr(base, "PATIENCE", 20.0)  # which is for where no network is between

    async def body() -> None:
        async with database.transaction():
            await database.execute("INSERT INTO notes VALUES (1)")
            if moment == "body":
                remote.proxy.stall()
                await asyncio.sleep(20)
            elif moment == "query":
                remote.proxy.stall()
                await database.execute("INSERT INTO notes VALUES (2)")
            elif moment == "savepoint":
                async with database.transaction():
                    await database.execute("INSERT INTO notes VALUES (2)")
                    remote.proxy.stall()
                    await asyncio.sleep(20)
            elif moment == "savepoint's begin":
                remote.proxy.stall()
                await database.transaction()
            elif moment == "savepoint's end":
                async with database.transaction():
                    remote.proxy.stall()

    async def iterate() -> None:
        async for _ in database.iterate("SELECT * FROM notes", batch_size=10):
            remote.proxy.stall()
            if moment == "iteration body":
                await asyncio.sleep(20)

    async with fastdb.Database(remote.url, max_size=2) as database:
        await database.execute("CREATE TABLE notes (id integer)")
        if moment.startswith("iteration"):
            await database.execute_many(
                "INSERT INTO notes VALUES (:id)", [{"id": n} for n in range(50_000)]
            )
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await (iterate() if moment.startswith("iteration") else body())
        assert time.monotonic() - started < 3
        remote.proxy.resume()
        assert await database.fetch_val("SELECT count(*) FROM notes") in (0, 50_000)
        await eventually(lambda: is_whole(database), "the return of all connections")


async def test_a_disconnect_while_connections_are_opened(remote: Remote) -> None:
    database = fastdb.Database(remote.url, max_size=5)
    await database.connect()
    async with database.connection():
        remote.proxy.latency = 0.02

        async def ask() -> None:
            await database.fetch_val("SELECT 1")

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        asking[0].cancel()
        await eventually(lambda: len(remote.proxy.links) > 1, "the openings")
        asking[1].cancel()
        await database.disconnect(timeout=1)
        results = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[1], asyncio.CancelledError)
    assert isinstance(results[2], fastdb.NotConnectedError)
    assert isinstance(results[3], fastdb.NotConnectedError)
    await eventually(lambda: remote.connections() == 0, "the end of all connections")


async def test_no_order_to_kill_is_forgotten_while_the_server_answers(
    mysql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mysql_base = pytest.importorskip("fastdb.drivers.mysql_base")
    async with Proxy(mysql_url) as proxy, fastdb.Database(proxy.url) as database:
        proxy.latency = 0.02
        monkeypatch.setattr(mysql_base, "_KILL_SECONDS", 1.0)
        async with database.connection():
            lease = database.connection()._lease
            connection: Any = lease.leased()
            # They take longer than that together.
            orders = [connection._driver.order_kill(connection) for _ in range(40)]
            assert await asyncio.gather(*orders) == [True] * 40
