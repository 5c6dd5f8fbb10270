"""A connection that is cut, killed, dropped or cut off in the middle of a result."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

import fastdb
from tests.faults.conftest import OwnServer, Remote, eventually, is_whole

#: Rows that take several packets, of which a cut lets only some through.
ROWS = 5_000


def series(dialect: str, count: int = ROWS) -> str:
    """Return a query of `count` rows, each with 200 further characters."""
    if dialect == "postgresql":
        return f"SELECT n, repeat('x', 200) AS text FROM generate_series(1, {count}) AS s(n)"
    # A recursion may be 1,000 deep at most, unless a setting says otherwise.
    return (
        "WITH RECURSIVE d AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM d WHERE n < 99) "
        "SELECT a.n * 100 + b.n + 1 AS n, repeat('x', 200) AS text FROM d AS a, d AS b "
        f"ORDER BY 1 LIMIT {count}"
    )


def in_task(database: fastdb.Database, query: str) -> asyncio.Task[Any]:
    """Run a query in a task of its own, and on a connection of its own."""

    async def ask() -> Any:
        return await database.fetch_val(query)

    return asyncio.create_task(ask())


@pytest.mark.parametrize("how", ["reset", "end", "kill"])
async def test_an_idle_connection_that_was_lost_is_replaced_unseen(
    remote: Remote, how: str
) -> None:
    async with fastdb.Database(remote.url) as database:
        assert await database.fetch_val("SELECT 1") == 1
        if how == "kill":
            assert remote.kill_all() == 1
        else:
            assert remote.proxy.cut(reset=how == "reset") == 1
        await asyncio.sleep(0.05)
        assert await database.fetch_val("SELECT 2") == 2
        stats = database.pool.stats()
        assert stats.size == 1
        assert stats.opened == 2
        assert stats.closed == {"lost": 1}


async def test_all_idle_connections_lost_at_once_cost_no_error(remote: Remote) -> None:
    async with fastdb.Database(remote.url, min_size=5) as database:
        assert remote.proxy.cut() == 5
        await asyncio.sleep(0.05)
        answers = await asyncio.gather(
            *(database.fetch_val("SELECT :n + 0", {"n": n}) for n in range(20))
        )
        assert [int(answer) for answer in answers] == list(range(20))
        await eventually(lambda: is_whole(database), "returning all connections")


@pytest.mark.parametrize("how", ["reset", "end", "kill"])
async def test_a_cut_under_a_running_query_costs_one_error(remote: Remote, how: str) -> None:
    async with fastdb.Database(remote.url, max_size=2) as database:
        query = asyncio.create_task(database.fetch_all(remote.sleep))
        await eventually(lambda: remote.running("sleep(20") == 1, "the query's start")
        if how == "kill":
            remote.kill_all()
        else:
            remote.proxy.cut(reset=how == "reset")
        with pytest.raises(fastdb.OperationalError):
            await query
        for n in range(5):
            assert int(await database.fetch_val("SELECT :n + 0", {"n": n})) == n
        assert is_whole(database)


@pytest.mark.parametrize("size", [1, 100, 5_000, 200_000])
async def test_a_result_that_is_cut_off_is_never_taken_for_a_whole(
    remote: Remote, size: int
) -> None:
    async with fastdb.Database(remote.url) as database:
        query = series(remote.dialect)
        assert len(await database.fetch_all(query)) == ROWS
        remote.proxy.cut_after(size)
        with pytest.raises(fastdb.OperationalError):
            await database.fetch_all(query)
        assert len(await database.fetch_all(query)) == ROWS
        assert is_whole(database)


@pytest.mark.parametrize("size", [1, 20_000, 300_000])
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a transaction"])
async def test_an_iteration_that_is_cut_off_says_so(
    remote: Remote, size: int, inside: bool
) -> None:
    seen = 0

    async def iterate() -> None:
        nonlocal seen
        remote.proxy.cut_after(size)
        async for record in database.iterate(series(remote.dialect), batch_size=50):
            seen += 1
            assert record.n == seen

    async with fastdb.Database(remote.url) as database:
        await database.fetch_val("SELECT 1")
        with pytest.raises(fastdb.OperationalError):
            if inside:
                async with database.transaction():
                    await iterate()
            else:
                await iterate()
        assert seen < ROWS
        assert await database.fetch_val("SELECT 1") == 1
        assert is_whole(database)


@pytest.mark.parametrize("reason", ["disconnect", "cancelled query"])
async def test_an_iteration_whose_body_costs_the_connection_says_so(
    remote: Remote, reason: str
) -> None:
    """What is in memory already is not taken for the whole."""
    seen = 0

    async def spoil(connection: fastdb.Database | fastdb.Connection) -> None:
        if reason == "disconnect":
            await asyncio.create_task(database.disconnect(timeout=0.05))
            return
        remote.proxy.stall()  # on MySQL, the query would first have the rest read into memory
        with pytest.raises(TimeoutError):
            await connection.fetch_val("SELECT 1", timeout=0.1)
        remote.proxy.resume()

    async def iterate(connection: fastdb.Database | fastdb.Connection) -> None:
        nonlocal seen
        async for _ in connection.iterate(series(remote.dialect), batch_size=50):
            seen += 1
            if seen == 60:
                await spoil(connection)

    async def iterate_on_a_held_connection() -> None:
        async with database.connection() as connection:
            await iterate(connection)

    database = fastdb.Database(remote.url)
    await database.connect()
    with pytest.raises(fastdb.Error):
        await (iterate(database) if reason == "disconnect" else iterate_on_a_held_connection())
    assert seen < ROWS
    await database.disconnect()


@pytest.mark.parametrize("moment", ["statement", "commit", "body"])
async def test_a_transaction_that_is_cut_is_not_there(remote: Remote, moment: str) -> None:
    async with fastdb.Database(remote.url) as database:
        await database.execute("CREATE TABLE notes (id int primary key)")

        async def body() -> None:
            async with database.transaction():
                await database.execute("INSERT INTO notes VALUES (1)")
                await database.execute("INSERT INTO notes VALUES (2)")
                remote.proxy.cut()
                if moment == "statement":
                    await database.execute("INSERT INTO notes VALUES (3)")
                elif moment == "body":
                    raise LookupError
            raise AssertionError("the commit has passed")

        expected = LookupError if moment == "body" else fastdb.OperationalError
        with pytest.raises(expected):
            await body()
        await eventually(lambda: remote.connections() == 0, "the server's end of the connection")
        assert await database.fetch_val("SELECT count(*) FROM notes") == 0
        assert is_whole(database)


async def test_a_transaction_does_not_go_on_over_another_connection(remote: Remote) -> None:
    async with fastdb.Database(remote.url) as database:
        await database.execute("CREATE TABLE notes (id int primary key)")
        with pytest.raises(fastdb.DatabaseError):
            async with database.transaction():
                await database.execute("INSERT INTO notes VALUES (1)")
                remote.proxy.cut()
                for n in (2, 3):
                    with pytest.raises(fastdb.DatabaseError):
                        await database.execute(f"INSERT INTO notes VALUES ({n})")
        await eventually(lambda: remote.connections() == 0, "the server's end of the connection")
        assert await database.fetch_val("SELECT count(*) FROM notes") == 0


async def test_a_held_connection_is_replaced_outside_a_transaction(remote: Remote) -> None:
    async with (
        fastdb.Database(remote.url, max_size=1) as database,
        database.connection() as connection,
    ):
        assert await connection.fetch_val("SELECT 1") == 1
        remote.proxy.cut()
        await asyncio.sleep(0.05)
        assert await connection.fetch_val("SELECT 2") == 2
        async with connection.transaction():
            assert await connection.fetch_val("SELECT 3") == 3


@pytest.mark.parametrize("fault", ["cancelled", "refused"])
async def test_who_waited_for_a_connection_that_was_lost_gets_another(
    remote: Remote, fault: str
) -> None:
    """Also where whoever came before has failed to lease it."""
    async with (
        fastdb.Database(remote.url, max_size=2) as database,
        database.connection() as connection,
    ):
        running, first, second = (
            asyncio.create_task(connection.fetch_val(query))
            for query in (remote.sleep, "SELECT 1", "SELECT 2")
        )
        await eventually(lambda: remote.running("sleep(20") == 1, "the query's start")
        remote.proxy.refuses = fault == "refused"
        remote.proxy.latency = 0.02
        accepted = remote.proxy.accepted
        remote.proxy.cut()
        await eventually(lambda: remote.proxy.accepted > accepted, "the next connect")
        if fault == "cancelled":
            first.cancel()
        results = await asyncio.gather(running, first, second, return_exceptions=True)
        assert isinstance(results[0], fastdb.DatabaseError)
        if fault == "cancelled":
            assert isinstance(results[1], asyncio.CancelledError)
            assert results[2] == 2
        else:
            assert isinstance(results[1], fastdb.ConnectionFailedError)
            assert isinstance(results[2], fastdb.ConnectionFailedError)
        remote.proxy.refuses = False
        assert await connection.fetch_val("SELECT 3") == 3


async def test_execute_many_that_is_cut_leaves_nothing(remote: Remote) -> None:
    async with fastdb.Database(remote.url) as database:
        await database.execute("CREATE TABLE notes (id int primary key, text text)")
        rows = [{"id": n, "text": "x" * 1000} for n in range(5_000)]
        remote.proxy.latency = 0.01
        many = asyncio.create_task(
            database.execute_many("INSERT INTO notes VALUES (:id, :text)", rows)
        )
        await asyncio.sleep(0.05)
        remote.proxy.cut()
        remote.proxy.latency = 0.0
        with pytest.raises(fastdb.OperationalError):
            await many
        await eventually(lambda: remote.connections() == 0, "the server's end of the connection")
        assert await database.fetch_val("SELECT count(*) FROM notes") == 0


async def test_a_server_that_drops_idle_connections_is_not_noticed(remote: Remote) -> None:
    options: dict[str, Any]
    if remote.dialect == "mysql":
        options = {"init_command": "SET SESSION wait_timeout = 1"}
    else:
        options = {"server_settings": {"idle_session_timeout": "1000"}}
    async with fastdb.Database(remote.url, **options) as database:
        for n in range(2):
            assert await database.fetch_val("SELECT 1") == 1
            await eventually(lambda: remote.connections() == 0, "the server's drop")
            await eventually(lambda: not remote.proxy.links, "the news of it")
            assert database.pool.stats().opened == n + 1


async def test_a_network_that_hangs_up_while_connecting(remote: Remote) -> None:
    remote.proxy.refuses = True
    database = fastdb.Database(remote.url)
    with pytest.raises(fastdb.ConnectionFailedError):
        await database.connect()
    assert not database.is_connected
    remote.proxy.refuses = False
    await database.connect()
    assert await database.fetch_val("SELECT 1") == 1
    await database.disconnect()
    await eventually(lambda: remote.connections() == 0, "the end of all connections")


@pytest.mark.parametrize("size", [1, 30, 90, 400])
async def test_a_handshake_that_is_cut_off(remote: Remote, size: int) -> None:
    async with fastdb.Database(remote.url, max_size=3) as database:
        async with database.connection():
            # The only connection is held: a query of another task has to make one.
            remote.proxy.budget = size
            with contextlib.suppress(fastdb.OperationalError):
                assert await in_task(database, "SELECT 2") == 2  # the handshake was that short
            assert remote.proxy.accepted == 2
            remote.proxy.budget = None
        assert await database.fetch_val("SELECT 3") == 3
        assert is_whole(database)


async def test_capacity_is_back_as_soon_as_the_network_is(remote: Remote) -> None:
    async with fastdb.Database(remote.url, min_size=3, max_size=3) as database:
        remote.proxy.stop_listening()
        remote.proxy.cut()
        await asyncio.sleep(0.05)
        for _ in range(5):
            with pytest.raises(fastdb.ConnectionFailedError):
                await database.fetch_val("SELECT 1")
        await remote.proxy.listen()
        answers = await asyncio.gather(*(database.fetch_val("SELECT 1") for _ in range(12)))
        assert answers == [1] * 12
        assert is_whole(database)


async def test_waiters_are_told_when_the_server_goes_away(remote: Remote) -> None:
    async with fastdb.Database(remote.url, max_size=2, acquire_timeout=20) as database:
        running = [asyncio.create_task(database.fetch_all(remote.sleep)) for _ in range(2)]
        await eventually(lambda: remote.running("sleep(20") == 2, "the queries' start")
        waiting = [asyncio.create_task(database.fetch_val("SELECT 1")) for _ in range(5)]
        await eventually(lambda: database.pool.stats().waiting == 5, "the wait")
        remote.proxy.stop_listening()
        remote.proxy.cut()
        results = await asyncio.gather(*running, *waiting, return_exceptions=True)
        assert all(isinstance(result, fastdb.OperationalError) for result in results)
        assert database.pool.stats().size == 0
        await remote.proxy.listen()
        assert await database.fetch_val("SELECT 1") == 1


async def fails(database: fastdb.Database) -> bool:
    """Return whether a query fails because there is no server."""
    try:
        await database.fetch_val("SELECT 1")
    except fastdb.OperationalError:
        return True
    return False


async def test_a_server_that_is_started_again(own_server: OwnServer) -> None:
    process = own_server.process
    async with fastdb.Database(own_server.url, max_size=4) as database:
        for end in (process.crash, process.shut_down):
            await asyncio.gather(*(database.fetch_val("SELECT 1") for _ in range(4)))
            await asyncio.to_thread(end)
            # PostgreSQL's backends outlive their postmaster for a moment.
            await eventually(lambda: fails(database), "the end of the server's processes")
            process.start_again()
            answers = await asyncio.gather(*(database.fetch_val("SELECT 1") for _ in range(20)))
            assert answers == [1] * 20
            assert is_whole(database)


async def test_queries_all_the_while_that_a_server_is_started_again(own_server: OwnServer) -> None:
    process = own_server.process
    good = failed = 0
    ended = asyncio.Event()

    async def ask(database: fastdb.Database, number: int) -> None:
        nonlocal good, failed
        while not ended.is_set():
            try:
                answer = int(await database.fetch_val("SELECT :n + 0", {"n": number}))
            except fastdb.OperationalError:
                failed += 1
                await asyncio.sleep(0.01)
            else:
                assert answer == number
                good += 1

    async with fastdb.Database(own_server.url, max_size=4) as database:
        asking = [asyncio.create_task(ask(database, number)) for number in range(8)]
        await eventually(lambda: good > 100, "answers before")
        await asyncio.to_thread(process.crash)
        await eventually(lambda: failed > 0, "errors")
        process.start_again()
        before, since = good, time.monotonic()
        await eventually(lambda: good > before + 100, "answers again")
        assert time.monotonic() - since < 10
        ended.set()
        await asyncio.gather(*asking)
        assert is_whole(database)
