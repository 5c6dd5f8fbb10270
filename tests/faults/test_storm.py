"""Random cancellations of everything at once: what they leave is whole, and nobody's but ours."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable

import fastdb
from tests.faults.conftest import STORM, Remote, eventually, is_whole

#: Tasks that work at the same time, over a pool of POOL connections.
WORKERS = 16
POOL = 4

#: Sum of the accounts in the bank.
ACCOUNTS = 6
MONEY = 600


class Storm:
    """Workers whose operations are cancelled at random, and what they know must be there.

    Attributes:
        goal: Cancellations that are to be sent.
        sent: Cancellations that reached an operation that was not over.
        committed: Keys whose transaction ended without an error.
        refused: Keys whose transaction was cancelled before its COMMIT was called for.
    """

    def __init__(self, database: fastdb.Database, seed: int) -> None:
        self.database = database
        self.random = random.Random(seed)
        self.goal = 0
        self.sent = 0
        self.committed: set[int] = set()
        self.refused: set[int] = set()
        self._key = 0

    async def rage(self, cancellations: int) -> None:
        """Work until so many operations were cancelled."""
        self.goal = cancellations
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work())

    @property
    def is_over(self) -> bool:
        """Whether enough went wrong."""
        return self.sent >= self.goal

    async def _work(self) -> None:
        operations: list[Callable[[], Awaitable[None]]] = [
            self.ask,
            self.ask,
            self.hold,
            self.write,
            self.write_nested,
            self.iterate,
            self.write_many,
            self.transfer,
        ]
        while not self.is_over:
            await self._cancel_one(self.random.choice(operations))

    async def _cancel_one(self, operation: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await operation()

        task = asyncio.create_task(run())
        if self.random.random() < 0.5:
            for _ in range(self.random.randrange(30)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(self.random.random() * 0.01)
        self.sent += task.cancel()
        if self.random.random() < 0.2:
            for _ in range(self.random.randrange(4)):
                await asyncio.sleep(0)
            self.sent += task.cancel()
        done, _ = await asyncio.wait([task], timeout=60)
        assert done, "a cancelled operation has not ended"
        if not task.cancelled():
            task.result()

    def key(self) -> int:
        self._key += 1
        return self._key

    # -- the operations

    async def ask(self) -> None:
        number = self.random.randrange(1 << 30)
        assert int(await self.database.fetch_val("SELECT :n + 0", {"n": number})) == number

    async def hold(self) -> None:
        async with self.database.connection() as connection:
            for _ in range(3):
                number = self.random.randrange(1 << 30)
                records = await connection.fetch_all("SELECT :n + 0 AS n", {"n": number})
                assert [int(record.n) for record in records] == [number]

    async def iterate(self) -> None:
        parts = [
            record.part
            async for record in self.database.iterate(
                "SELECT part FROM series ORDER BY part", batch_size=7
            )
        ]
        assert parts == list(range(40))

    async def write(self) -> None:
        key = self.key()
        ending = False
        try:
            async with self.database.transaction():
                await self._write_part(key, 1)
                await self._write_part(key, 2)
                ending = True
        finally:
            if not ending:
                self.refused.add(key)
        self.committed.add(key)

    async def write_nested(self) -> None:
        key = self.key()
        ending = False
        try:
            async with self.database.transaction():
                await self._write_part(key, 1)
                async with self.database.transaction(force_rollback=True):
                    await self._write_part(key, 3)
                async with self.database.transaction():
                    await self._write_part(key, 2)
                ending = True
        finally:
            if not ending:
                self.refused.add(key)
        self.committed.add(key)

    async def _write_part(self, key: int, part: int) -> None:
        await self.database.execute(
            "INSERT INTO notes (id, part) VALUES (:key, :part)", {"key": key, "part": part}
        )

    async def write_many(self) -> None:
        key = self.key()
        await self.database.execute_many(
            "INSERT INTO notes (id, part) VALUES (:key, :part)",
            [{"key": key, "part": 1}, {"key": key, "part": 2}],
        )
        self.committed.add(key)

    async def transfer(self) -> None:
        # In one order: whoever locks the rows in another one makes a deadlock.
        first, second = sorted(self.random.sample(range(ACCOUNTS), 2))
        amount = self.random.randrange(-5, 6)
        async with self.database.transaction():
            for account, change in ((first, -amount), (second, amount)):
                await self.database.execute(
                    "UPDATE accounts SET money = money + :change WHERE id = :account",
                    {"change": change, "account": account},
                )

    # -- before and after

    async def set_up(self) -> None:
        await self.database.execute("CREATE TABLE notes (id integer, part integer)")
        await self.database.execute("CREATE TABLE series (part integer)")
        await self.database.execute_many(
            "INSERT INTO series VALUES (:part)", [{"part": part} for part in range(40)]
        )
        await self.database.execute("CREATE TABLE accounts (id integer primary key, money integer)")
        await self.database.execute_many(
            "INSERT INTO accounts VALUES (:id, :money)",
            [{"id": account, "money": MONEY // ACCOUNTS} for account in range(ACCOUNTS)],
        )

    async def check(self) -> None:
        """Check what is there, and that the pool has lost no place and no connection its peace."""
        database = self.database
        await eventually(lambda: is_whole(database), "the return of all connections")
        stats = database.pool.stats()
        assert stats.opened - sum(stats.closed.values()) == stats.size <= POOL
        assert await database.fetch_val("SELECT sum(money) FROM accounts") == MONEY
        there: dict[int, list[int]] = {}
        for record in await database.fetch_all("SELECT id, part FROM notes ORDER BY id, part"):
            there.setdefault(record.id, []).append(record.part)
        assert all(parts == [1, 2] for parts in there.values())
        assert self.committed <= there.keys()
        assert self.refused.isdisjoint(there.keys())
        holding = [asyncio.create_task(self.hold()) for _ in range(3 * POOL)]
        await asyncio.gather(*holding)


async def test_cancellations(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=POOL) as database:
        storm = Storm(database, random.getrandbits(32))
        await storm.set_up()
        await storm.rage(STORM)
        await storm.check()


async def test_cancellations_and_killed_backends(remote: Remote) -> None:
    """The sum of the accounts is kept, and no answer is another's, while connections are cut."""
    async with fastdb.Database(remote.url, max_size=POOL) as database:
        storm = Lossy(database, random.getrandbits(32))
        await storm.set_up()
        async with asyncio.TaskGroup() as group:
            raging = group.create_task(storm.rage(STORM // 2))
            rounds = 0
            while not raging.done():
                await asyncio.sleep(0.02)
                rounds += 1
                if rounds % 2:
                    remote.proxy.cut(reset=rounds % 4 == 1)
                else:
                    await asyncio.to_thread(remote.kill_all)
        await storm.check()
        await eventually(
            lambda: remote.connections() == database.pool.stats().size, "the end of what was cut"
        )


class Lossy(Storm):
    """A storm in which connections are lost, too.

    Attributes:
        lost: Operations that failed for that reason.
    """

    lost = 0

    @property
    def is_over(self) -> bool:
        """Whether enough went wrong, in both ways."""
        return super().is_over and self.lost >= 20

    async def _work(self) -> None:
        while not self.is_over:
            try:
                await super()._work()
            except fastdb.OperationalError:
                self.lost += 1

    async def check(self) -> None:
        """Check, where a first query may still meet a connection that was cut just now."""
        await asyncio.sleep(0.05)
        await super().check()


async def test_cancelled_connects_and_disconnects(remote: Remote) -> None:
    """Whatever half-way a connect or disconnect is stopped at, no connection stays behind."""
    remote.proxy.latency = 0.001
    database = fastdb.Database(remote.url, min_size=2, max_size=3)

    async def cancelled(operation: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await operation()

        task = asyncio.create_task(run())
        await asyncio.sleep(random.random() * 0.03)
        task.cancel()
        for _ in range(random.randrange(3)):
            await asyncio.sleep(random.choice([0, 0, 0.002]))
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    for _ in range(STORM // 100):
        await cancelled(database.connect)
        if random.random() < 0.3:
            await database.connect()
            assert await database.fetch_val("SELECT 1") == 1
        await cancelled(database.disconnect)
    await database.connect()
    assert await database.fetch_val("SELECT 1") == 1
    await database.disconnect()
    await eventually(lambda: remote.connections() == 0, "the end of all connections")
    await eventually(lambda: not remote.proxy.links, "the end of all links")
    gc.collect()  # what was left open without being closed says so now
