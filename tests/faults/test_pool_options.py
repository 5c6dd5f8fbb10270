"""What each option of the pool does, seen from the server and in ``stats()``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import fastdb
from tests.faults.conftest import Remote, eventually, is_whole

#: Seconds that tell a hang from work.
FAR = 60.0


async def lease(database: fastdb.Database, count: int) -> None:
    """Lease `count` connections at once, and give them back."""
    all_leased = asyncio.Barrier(count)

    async def work() -> None:
        async with database.connection() as connection:
            await connection.fetch_val("SELECT 1")
            await all_leased.wait()

    async with asyncio.timeout(FAR):
        await asyncio.gather(*(work() for _ in range(count)))


def accounts_balance(database: fastdb.Database) -> bool:
    """Return whether every connection that was opened is either open or was closed for a reason."""
    stats = database.pool.stats()
    return stats.opened - sum(stats.closed.values()) == stats.size == stats.idle + stats.leased


# -- sizes


async def test_min_size_and_max_size_seen_from_the_server(remote: Remote) -> None:
    async with fastdb.Database(remote.url, min_size=3, max_size=5) as database:
        assert remote.connections() == 3
        most = 0

        async def work(number: int) -> int:
            nonlocal most
            async with database.connection() as connection:
                answer = await connection.fetch_val("SELECT :n + 0", {"n": number})
                stats = database.pool.stats()
                most = max(most, stats.size + stats.opening)
                if number % 20 == 0:
                    assert remote.connections() <= 5
                assert isinstance(answer, int)
                return answer

        async with asyncio.timeout(FAR):
            assert await asyncio.gather(*(work(n) for n in range(100))) == list(range(100))
        assert most == 5
        # The last of them may have been served by others before their own was open.
        await eventually(lambda: database.pool.stats().size == 5, "five connections")
        assert remote.connections() == 5
        assert database.pool.stats().opened == remote.proxy.accepted == 5
    await eventually(lambda: remote.connections() == 0, "the end of the connections")


async def test_max_size_counts_what_is_being_opened(remote: Remote) -> None:
    async with fastdb.Database(remote.url, max_size=3) as database:
        remote.proxy.latency = 0.05
        tasks = [asyncio.create_task(database.fetch_val("SELECT 1")) for _ in range(50)]
        async with asyncio.timeout(FAR):
            assert await asyncio.gather(*tasks) == [1] * 50
        await eventually(lambda: database.pool.stats().opening == 0, "the end of connecting")
        assert remote.proxy.accepted <= 3
        assert accounts_balance(database)


async def test_places_of_connections_that_fail_to_open_come_back(remote: Remote) -> None:
    async with fastdb.Database(remote.url, max_size=3) as database:
        remote.proxy.refuses = True
        remote.proxy.cut()
        async with asyncio.timeout(FAR):
            results = await asyncio.gather(
                *(database.fetch_val("SELECT 1") for _ in range(30)), return_exceptions=True
            )
        assert all(isinstance(each, fastdb.Error) for each in results)
        stats = database.pool.stats()
        assert (stats.size, stats.opening, stats.waiting) == (0, 0, 0)
        remote.proxy.refuses = False
        await lease(database, 3)
        assert is_whole(database)
        assert accounts_balance(database)


# -- the life of a connection


async def test_connections_opened_together_do_not_expire_together(database_url: str) -> None:
    async with fastdb.Database(
        database_url, min_size=10, max_size=10, max_lifetime=1000
    ) as database:
        await lease(database, 10)
        ends = sorted(connection.expires_at for connection in database.pool._idle)
        assert len(set(ends)) == 10
        assert ends[-1] - ends[0] > 1
        assert all(connection.used_at < connection.expires_at for connection in database.pool._idle)


async def test_max_lifetime_replaces_what_idles(remote: Remote) -> None:
    async with fastdb.Database(remote.url, min_size=3, max_lifetime=0.3) as database:
        before = set(remote.connection_ids())
        assert len(before) == 3
        await eventually(lambda: before.isdisjoint(remote.connection_ids()), "other connections")
        await eventually(lambda: remote.connections() >= 3, "as many as before")
        assert set(database.pool.stats().closed) == {"max_lifetime"}
        assert await database.fetch_val("SELECT 1") == 1
        await eventually(lambda: database.pool.stats().opening == 0, "the end of connecting")
        assert accounts_balance(database)


async def test_max_lifetime_ends_nothing_that_is_leased(database_url: str) -> None:
    async with fastdb.Database(database_url, max_lifetime=0.1) as database:
        async with database.transaction():
            for _ in range(5):
                await asyncio.sleep(0.05)
                assert await database.fetch_val("SELECT 1") == 1
            assert database.pool.stats().size == 1
            assert database.pool.stats().closed == {}
        # It is too old when it comes back.
        assert database.pool.stats().closed == {"max_lifetime": 1}
        assert await database.fetch_val("SELECT 1") == 1


async def test_a_lifetime_shorter_than_connecting_starves_nobody(remote: Remote) -> None:
    async with fastdb.Database(remote.url, max_size=2, max_lifetime=0.001) as database:
        remote.proxy.latency = 0.01
        async with asyncio.timeout(FAR):
            answers = await asyncio.gather(*(database.fetch_val(f"SELECT {n}") for n in range(10)))
        assert answers == list(range(10))


async def test_idle_timeout_seen_from_the_server(remote: Remote) -> None:
    async with fastdb.Database(
        remote.url, min_size=2, max_size=6, idle_timeout=0.2, max_lifetime=1000
    ) as database:
        await lease(database, 6)
        assert remote.connections() == 6
        await eventually(lambda: remote.connections() == 2, "the end of four")
        stats = database.pool.stats()
        assert (stats.size, stats.idle, stats.closed) == (2, 2, {"idle_timeout": 4})
        await asyncio.sleep(0.5)
        assert remote.connections() == 2  # the least that is kept
        await lease(database, 6)
        await eventually(lambda: remote.connections() == 2, "the end of four again")
        assert accounts_balance(database)


async def test_what_is_used_does_not_idle(database_url: str) -> None:
    async with fastdb.Database(
        database_url, min_size=0, max_size=2, idle_timeout=5, max_queries=None
    ) as database:
        for _ in range(20):
            await lease(database, 2)
        assert database.pool.stats().closed == {}
        assert database.pool.stats().opened == 2


async def test_max_queries_counts_leases(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=2, max_queries=5) as database:
        async with asyncio.timeout(FAR):
            answers = await asyncio.gather(*(database.fetch_val(f"SELECT {n}") for n in range(100)))
        assert answers == list(range(100))
        stats = database.pool.stats()
        assert stats.closed == {"max_queries": stats.opened - stats.size}
        assert stats.opened >= 20
        assert accounts_balance(database)


@pytest.mark.parametrize("how", ["kill", "cut", "hang up"])
async def test_an_idle_connection_is_looked_at_before_it_is_lent(remote: Remote, how: str) -> None:
    async with fastdb.Database(remote.url, min_size=3, max_size=3) as database:
        if how == "kill":
            remote.kill_all()
            await eventually(lambda: remote.connections() == 0, "the end of the connections")
        else:
            remote.proxy.cut(reset=how == "cut")
        await asyncio.sleep(0.05)
        await lease(database, 3)
        stats = database.pool.stats()
        assert stats.closed == {"lost": 3}
        assert stats.opened == 6
        assert is_whole(database)


# -- waiting


async def test_figures_of_those_who_wait(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=2) as database:
        await lease(database, 2)
        assert database.pool.stats().waits == 0
        async with database.connection():
            entered, leave = asyncio.Event(), asyncio.Event()

            async def hold() -> None:
                async with database.connection():
                    entered.set()
                    await leave.wait()

            holder = asyncio.create_task(hold())
            await entered.wait()
            waiters = [asyncio.create_task(self_contained(database)) for _ in range(4)]
            await asyncio.sleep(0.05)
            stats = database.pool.stats()
            assert (stats.size, stats.idle, stats.leased, stats.waiting) == (2, 0, 2, 4)
            waiters[1].cancel()
            await asyncio.sleep(0)
            assert database.pool.stats().waiting == 3
            leave.set()
            await holder
            await asyncio.wait(waiters)
        stats = database.pool.stats()
        assert (stats.size, stats.idle, stats.leased, stats.waiting) == (2, 2, 0, 0)
        assert stats.waits == 4
        assert stats.wait_time >= 4 * 0.04
        assert (stats.min_size, stats.max_size) == (1, 2)


async def self_contained(database: fastdb.Database) -> None:
    async with database.connection():
        await asyncio.sleep(0)


@pytest.mark.parametrize("seconds", [0, 0.05])
async def test_acquire_timeout(database_url: str, seconds: float) -> None:
    async with fastdb.Database(database_url, max_size=1, acquire_timeout=seconds) as database:
        async with database.connection():
            for _ in range(3):
                async with asyncio.timeout(FAR):
                    with pytest.raises(fastdb.PoolTimeoutError, match="max_size=1"):
                        await asyncio.create_task(self_contained(database))
        assert database.pool.stats().waiting == 0
        await self_contained(database)  # what idles is taken without a wait
        assert is_whole(database)


# -- sessions

STATE = {
    "sqlite": ("PRAGMA cache_size = 4321", "PRAGMA cache_size"),
    "postgresql": ("SET statement_timeout = 4321000", "SHOW statement_timeout"),
    "mysql": ("SET @state = 4321", "SELECT @state"),
}


@pytest.mark.parametrize("reset", ["auto", "always", "never"])
@pytest.mark.parametrize("way", ["query", "raw", "function"])
async def test_reset(database_url: str, reset: str, way: str) -> None:
    async with fastdb.Database(database_url, max_size=1, reset=reset) as database:
        change, show = STATE[database.url.dialect]
        before = await database.fetch_val(show)
        async with database.connection() as connection:
            if way == "raw":
                raw: Any = connection.raw_connection
                if database.url.dialect == "mysql":
                    async with raw.cursor() as cursor:
                        await cursor.execute(change)
                else:
                    await raw.execute(change)
            else:
                await connection.execute(change)
            changed = await connection.fetch_val(show)
            assert changed != before
            if way == "function":
                # As a function of the user's would do it: the text shows nothing.
                lent = connection._lease.leased()
                lent.dirty = False
        # A session whose change cannot be seen is reset by "always" alone.
        is_reset = reset == "always" or (reset == "auto" and way != "function")
        assert (await database.fetch_val(show) == before) == is_reset
        stats = database.pool.stats()
        assert (stats.size, stats.leased, stats.opened) == (1, 0, 1)


async def test_a_reset_that_fails_closes_the_connection(remote: Remote) -> None:
    async with fastdb.Database(remote.url, max_size=1) as database:
        async with database.connection() as connection:
            assert connection.raw_connection is not None  # it has to be reset
            remote.proxy.cut()
            await asyncio.sleep(0.05)
        await eventually(lambda: database.pool.stats().size == 0, "the end of the connection")
        assert sum(database.pool.stats().closed.values()) == 1
        assert await database.fetch_val("SELECT 1") == 1
        assert accounts_balance(database)


# -- the end


async def test_every_connection_is_closed_for_a_reason(database_url: str) -> None:
    database = fastdb.Database(database_url, min_size=2, max_size=4)
    await database.connect()
    pool = database.pool
    await lease(database, 4)
    entered = asyncio.Event()

    async def hold() -> None:
        async with database.connection():
            entered.set()
            await asyncio.sleep(0.05)

    holder = asyncio.create_task(hold())
    await entered.wait()
    async with asyncio.timeout(FAR):
        await database.disconnect()
        await holder
    stats = pool.stats()
    assert (stats.size, stats.idle, stats.leased) == (0, 0, 0)
    assert stats.closed == {"disconnect": stats.opened}


async def test_connections_that_are_cut_are_counted_once(database_url: str) -> None:
    database = fastdb.Database(database_url, max_size=3)
    await database.connect()
    pool = database.pool
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with database.connection():
            entered.set()
            await leave.wait()

    holder = asyncio.create_task(hold())
    await entered.wait()
    async with asyncio.timeout(FAR):
        await database.disconnect(timeout=0.05)
        leave.set()
        await holder
    stats = pool.stats()
    assert (stats.size, stats.idle, stats.leased) == (0, 0, 0)
    assert stats.closed == {"disconnect": stats.opened}
