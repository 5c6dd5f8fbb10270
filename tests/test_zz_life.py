from __future__ import annotations
import asyncio, random
from typing import Any
import pytest, fastdb
from tests.test_zz_review import TABLE, ids

@pytest.mark.parametrize("force", [False, True])
async def test_life_storm(database_url: str, force: bool) -> None:
    rnd = random.Random(1)
    async with fastdb.Database(database_url) as plain:
        await plain.execute(TABLE)
    database = fastdb.Database(database_url, force_rollback=force, min_size=2, max_size=3, acquire_timeout=5)
    odd: list[Any] = []
    async def query(n: int) -> None:
        try:
            assert await database.fetch_val("SELECT :n + 0", {"n": n}) == n
            async with database.transaction():
                await database.execute("INSERT INTO notes (id) VALUES (1)")
                raise ZeroDivisionError
        except (fastdb.Error, ZeroDivisionError) as e:
            if not isinstance(e, (ZeroDivisionError, fastdb.NotConnectedError, fastdb.TransactionError, fastdb.ConnectionFailedError)): odd.append(repr(e))
    for round in range(60):
        life = asyncio.create_task(database.connect())
        if rnd.random() < .6:
            await asyncio.sleep(rnd.random() * 0.01); life.cancel()
            if rnd.random() < .5: await asyncio.sleep(0); life.cancel()
        queries = [asyncio.create_task(query(n)) for n in range(4)]
        await asyncio.wait([life])
        pool = database._pool
        down = asyncio.create_task(database.disconnect(timeout=rnd.choice([0.001, 1])))
        if rnd.random() < .6:
            await asyncio.sleep(rnd.random() * 0.003); down.cancel()
            if rnd.random() < .5: await asyncio.sleep(0); down.cancel()
        await asyncio.wait([down, *queries])
        for t in [*queries]:
            assert not t.exception(), t.exception()
        for t in [life, down]:
            if not t.cancelled() and t.exception(): odd.append(repr(t.exception()))
        del queries, t, life, down
        await asyncio.wait_for(database.disconnect(timeout=2), 5)
        assert not database.is_connected
        assert database._leases == 0
        if pool is not None:
            for _ in range(50):
                if not pool._background and not pool._leased: break
                await asyncio.sleep(0.01)
            assert not pool._leased and not pool._background and not pool._idle, pool.stats()
    assert odd == []
    async with fastdb.Database(database_url) as plain:
        assert await ids(plain) == []
