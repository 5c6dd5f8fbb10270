from __future__ import annotations
import asyncio, gc, os, random
from typing import Any
import pytest
import fastdb
from tests.test_zz_review import TABLE, ids

SEEDS = range(int(os.environ.get("SEED0", "0")), int(os.environ.get("SEED0", "0")) + int(os.environ.get("SEEDS", "4")))

@pytest.mark.parametrize("seed", SEEDS)
async def test_fuzz(database_url: str, seed: int) -> None:
    rnd = random.Random(seed)
    problems: list[Any] = []
    async with fastdb.Database(database_url + ('?journal_mode=wal' if database_url.startswith('sqlite') else ''), max_size=3, acquire_timeout=20) as db:
        await db.execute("CREATE TABLE pairs (id INTEGER NOT NULL, part INTEGER NOT NULL)")
        await db.execute("CREATE TABLE src (id INTEGER PRIMARY KEY)")
        await db.execute_many("INSERT INTO src (id) VALUES (:id)", [{"id": n} for n in range(50)])
        async def ask(q: Any, n: int) -> None:
            a = await q.fetch_val("SELECT :n + 0", {"n": n})
            if a != n: problems.append(("crossed", n, a))
        async def iterate(q: Any, n: int) -> None:
            seen = []
            brk = rnd.random() < 0.4
            async for r in q.iterate("SELECT id FROM src ORDER BY id", batch_size=rnd.choice([1, 7, 100])):
                seen.append(r.id)
                if isinstance(q, fastdb.Connection) and rnd.random() < 0.1: await ask(q, n)
                if brk and len(seen) > 5: return
            if seen != list(range(50)): problems.append(("short", seen))
        async def pair(q: Any, n: int) -> None:
            async with q.transaction():
                await q.execute("INSERT INTO pairs (id, part) VALUES (:n, 1)", {"n": n})
                if rnd.random() < 0.5:
                    try:
                        async with q.transaction():
                            await q.execute("INSERT INTO pairs (id, part) VALUES (:n, 3)", {"n": n})
                            if rnd.random() < 0.5: raise ZeroDivisionError
                            await q.execute("INSERT INTO pairs (id, part) VALUES (:n, 4)", {"n": n})
                    except ZeroDivisionError: pass
                if rnd.random() < 0.3: await iterate(q, n)
                if rnd.random() < 0.2: await asyncio.sleep(0)
                if rnd.random() < 0.2: await q.execute_many("INSERT INTO pairs (id, part) VALUES (:n, :p)", [{"n": n, "p": 5}, {"n": n, "p": 6}])
                await q.execute("INSERT INTO pairs (id, part) VALUES (:n, 2)", {"n": n})
        async def shared(n: int) -> None:
            async with db.connection() as c:
                async with asyncio.TaskGroup() as g:
                    for k in range(3):
                        g.create_task(rnd.choice([pair, ask] if db.url.dialect == 'sqlite' else [pair, ask, iterate])(c, n * 10 + k + 1_000_000))
        async def bad(q: Any, n: int) -> None:
            with_tx = rnd.random() < .5
            try:
                if with_tx:
                    async with q.transaction(): await q.execute("SELECT nosuch FROM nowhere")
                else: await q.execute("SELECT nosuch FROM nowhere")
            except fastdb.DatabaseError: pass
        async def timed(q: Any, n: int) -> None:
            try:
                async with asyncio.timeout(rnd.random() * 0.01): await pair(q, n)
            except TimeoutError: pass
            try: await q.fetch_val("SELECT COUNT(*) FROM src", timeout=rnd.random() * 0.002)
            except fastdb.QueryTimeoutError: pass
        async def one(n: int) -> None:
            f = rnd.choice([ask, pair, pair, iterate, bad, timed, None])
            if f is None: await shared(n)
            else: await f(db, n)
        number = 0
        outcomes: dict[str, int] = {}
        for _ in range(25):
            tasks = []
            for _ in range(12):
                number += 1
                tasks.append(asyncio.create_task(one(number)))
            for task in tasks:
                if rnd.random() < 0.5:
                    if rnd.random() < 0.5: await asyncio.sleep(rnd.random() * 0.003)
                    task.cancel()
                    if rnd.random() < 0.4:
                        if rnd.random() < 0.5: await asyncio.sleep(rnd.random() * 0.001)
                        else: await asyncio.sleep(0)
                        task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                if not task.cancelled() and task.exception() is not None:
                    problems.append(repr(task.exception()))
                    sub = task.exception()
                    while sub is not None:
                        if isinstance(sub, ExceptionGroup): problems += [repr(e) for e in sub.exceptions]
                        sub = sub.__cause__
        del task, tasks
        for _ in range(100):
            gc.collect()
            await asyncio.sleep(0.02)
            if not db.pool.stats().leased: break
        stats = db.pool.stats()
        assert problems == [], (problems, stats)
        assert (stats.leased, stats.waiting, stats.idle) == (0, 0, stats.size), stats
        assert db._leases == 0 and not db.waiting
        rows = await db.fetch_all("SELECT id, part FROM pairs")
        by: dict[int, list[int]] = {}
        for r in rows: by.setdefault(r.id, []).append(r.part)
        for n, parts in by.items():
            assert 1 in parts and 2 in parts and (3 in parts) == (4 in parts) and (5 in parts) == (6 in parts), (n, parts)
        print(stats)
