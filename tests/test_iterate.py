from __future__ import annotations

import asyncio
import contextlib

import pytest
import sqlalchemy as sa

import fastdb

metadata = sa.MetaData()
numbers = sa.Table(
    "numbers",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("flag", sa.Boolean),
)


@pytest.fixture
async def filled(database: fastdb.Database) -> fastdb.Database:
    await database.execute(sa.schema.CreateTable(numbers))
    await database.execute_many(
        numbers.insert(), [{"id": n, "flag": n % 2 == 0} for n in range(1200)]
    )
    return database


QUERY = sa.select(numbers).order_by(numbers.c.id)


@pytest.mark.parametrize("batch_size", [None, 1, 7, 5000])
async def test_yields_every_row(filled: fastdb.Database, batch_size: int | None) -> None:
    count = 1200 if batch_size != 1 else 30
    query = QUERY.limit(count)
    rows = [row async for row in filled.iterate(query, batch_size=batch_size)]
    assert [row.id for row in rows] == list(range(count))
    assert rows[1].flag is False
    assert filled.pool.stats().leased == 0


async def test_nothing_to_yield(filled: fastdb.Database) -> None:
    assert [row async for row in filled.iterate("SELECT * FROM numbers WHERE id < 0")] == []


async def test_takes_values(filled: fastdb.Database) -> None:
    query = "SELECT id FROM numbers WHERE id < :top ORDER BY id"
    assert [row.id async for row in filled.iterate(query, {"top": 3})] == [0, 1, 2]


async def test_queries_in_the_body_are_committed_one_by_one(filled: fastdb.Database) -> None:
    seen = 0
    async for row in filled.iterate(QUERY, batch_size=10):
        if row.id < 5:
            await filled.execute(numbers.delete().where(numbers.c.id == row.id + 10_000))
            await filled.execute("INSERT INTO numbers (id) VALUES (:n)", {"n": -1 - row.id})
        seen += 1
        if seen == 20:
            async with fastdb.Database(filled.url) as other:
                assert await other.fetch_val("SELECT COUNT(*) FROM numbers WHERE id < 0") == 5
    assert seen >= 1200


async def test_inside_a_transaction_with_other_queries(filled: fastdb.Database) -> None:
    async with filled.transaction(force_rollback=True):
        await filled.execute("INSERT INTO numbers (id) VALUES (5000)")
        ids = []
        async for row in filled.iterate(QUERY, batch_size=100):
            ids.append(row.id)
            if row.id % 300 == 0:
                assert (
                    await filled.fetch_val("SELECT id FROM numbers WHERE id = :id", {"id": row.id})
                    == row.id
                )
        assert ids == [*range(1200), 5000]
        assert filled.pool.stats().leased == 1


async def test_on_a_held_connection(filled: fastdb.Database) -> None:
    async with filled.connection() as connection:
        ids = []
        async for row in connection.iterate(QUERY, batch_size=100):
            ids.append(row.id)
            if row.id == 500:
                await connection.execute("INSERT INTO numbers (id) VALUES (-1)")
                async with fastdb.Database(filled.url) as other:
                    assert await other.fetch_val("SELECT id FROM numbers WHERE id = -1") == -1
        assert ids == list(range(1200))
        assert filled.pool.stats().leased == 1


async def test_transactions_in_the_body(filled: fastdb.Database) -> None:
    async with filled.connection() as connection:
        seen = 0
        async for row in connection.iterate(QUERY.limit(50), batch_size=7):
            async with connection.transaction():
                await connection.execute("INSERT INTO numbers (id) VALUES (:n)", {"n": -row.id - 1})
            seen += 1
        assert seen == 50
    assert await filled.fetch_val("SELECT COUNT(*) FROM numbers WHERE id < 0") == 50


async def test_break_frees_the_connection(filled: fastdb.Database) -> None:
    for _ in range(3):
        async for row in filled.iterate(QUERY, batch_size=10):
            if row.id == 15:
                break
    for _ in range(20):
        await asyncio.sleep(0.01)
        if not filled.pool.stats().leased:
            break
    assert filled.pool.stats().leased == 0
    assert await filled.fetch_val("SELECT 1") == 1


async def test_aclose_frees_the_connection_at_once(filled: fastdb.Database) -> None:
    rows = filled.iterate(QUERY, batch_size=10)
    assert (await anext(rows)).id == 0
    await rows.aclose()
    assert filled.pool.stats().leased == 0


async def test_break_inside_a_transaction(filled: fastdb.Database) -> None:
    async with filled.transaction():
        async for row in filled.iterate(QUERY, batch_size=10):
            if row.id == 15:
                break
        await filled.execute("INSERT INTO numbers (id) VALUES (-1)")
    assert await filled.fetch_val("SELECT COUNT(*) FROM numbers WHERE id < 0") == 1


async def test_an_exception_in_the_body(filled: fastdb.Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async for row in filled.iterate(QUERY, batch_size=10):
            assert 1 / row.id
    with pytest.raises(ZeroDivisionError):
        async with filled.transaction():
            async for row in filled.iterate(QUERY, batch_size=10):
                assert 1 / row.id
    await asyncio.sleep(0.01)
    assert await filled.fetch_val("SELECT 1") == 1


async def test_a_cancelled_task(filled: fastdb.Database) -> None:
    started = asyncio.Event()

    async def work() -> None:
        async for _ in filled.iterate(QUERY, batch_size=10):
            started.set()
            await asyncio.sleep(0.001)

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(50):
        await asyncio.sleep(0.01)
        if not filled.pool.stats().leased:
            break
    stats = filled.pool.stats()
    assert (stats.leased, stats.idle) == (0, stats.size)


async def test_bad_sql_is_told(filled: fastdb.Database) -> None:
    with pytest.raises(fastdb.ProgrammingError):
        async for _ in filled.iterate("SELECT nosuch FROM numbers"):
            pass
    assert filled.pool.stats().leased == 0


@pytest.mark.parametrize("size", [0, -1, "many", True])
async def test_bad_batch_sizes_are_told(filled: fastdb.Database, size: object) -> None:
    with pytest.raises(fastdb.OptionError, match="batch_size"):
        filled.iterate(QUERY, batch_size=size)  # type: ignore[arg-type]


async def test_without_a_further_connection_an_error_says_so(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        return  # SQLite iterates on the task's own connection
    async with fastdb.Database(database_url, max_size=1, acquire_timeout=0.1) as database:
        with pytest.raises(fastdb.PoolTimeoutError, match="iterate"):
            async for _ in database.iterate("SELECT 1 UNION SELECT 2"):
                await database.execute("SELECT 1")


async def test_returning_is_committed(filled: fastdb.Database) -> None:
    query = "INSERT INTO numbers (id) VALUES (-1), (-2) RETURNING id"
    rows = [row.id async for row in filled.iterate(query)]
    assert sorted(rows) == [-2, -1]
    async with fastdb.Database(filled.url) as other:
        assert await other.fetch_val("SELECT COUNT(*) FROM numbers WHERE id < 0") == 2


async def test_two_at_once_in_one_transaction(filled: fastdb.Database) -> None:
    if filled.url.dialect == "mysql":
        # The first other query reads the rest of the first into memory: it goes on as well.
        pass
    async with filled.transaction():
        first = filled.iterate(QUERY, batch_size=3)
        second = filled.iterate(QUERY, batch_size=4)
        pairs = []
        async for row in first:
            pairs.append((row.id, (await anext(second)).id))
            if len(pairs) == 50:
                break
        await first.aclose()
        await second.aclose()
    assert pairs == [(n, n) for n in range(50)]


async def test_iterate_beside_another_query(filled: fastdb.Database) -> None:
    async with filled.connection() as connection:
        slow = {
            "sqlite": "SELECT 1",
            "postgresql": "SELECT 1 FROM pg_sleep(0.1)",
            "mysql": "SELECT SLEEP(0.1) + 1",
        }[filled.url.dialect]
        query = asyncio.create_task(connection.fetch_val(slow))
        await asyncio.sleep(0.02)
        rows = [row async for row in connection.iterate("SELECT 1 AS n")]
        assert len(rows) == 1
        assert await query == 1
    assert filled.pool.stats().closed == {}


async def test_iterate_waits_for_another_tasks_transaction(filled: fastdb.Database) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def other(connection: fastdb.Connection) -> None:
        async with connection.transaction():
            entered.set()
            await leave.wait()

    async with filled.connection() as connection:
        task = asyncio.create_task(other(connection))
        await entered.wait()
        rows = connection.iterate("SELECT 1 AS n UNION ALL SELECT 2", batch_size=1)
        first = asyncio.create_task(anext(rows))
        await asyncio.sleep(0.02)
        leave.set()
        await first
        await connection.execute("INSERT INTO numbers (id) VALUES (-1)")
        async with fastdb.Database(filled.url) as second:
            assert await second.fetch_val("SELECT id FROM numbers WHERE id < 0") == -1
        await rows.aclose()
        await task


async def test_an_iteration_ends_with_its_transaction(filled: fastdb.Database) -> None:
    async with filled.transaction():
        rows = filled.iterate("SELECT id FROM numbers ORDER BY id", batch_size=2)
        assert (await anext(rows)).id == 0
    with pytest.raises(fastdb.TransactionError):
        async for _ in rows:
            pass
    assert filled.pool.stats().leased == 0


@pytest.mark.parametrize("ends", ["goes on", "is left"])
async def test_an_iteration_does_not_go_on_over_another_connection(
    server_url: str, ends: str
) -> None:
    own = "pg_backend_pid()" if server_url.startswith("postgres") else "connection_id()"
    kill = "SELECT pg_terminate_backend(:n)" if server_url.startswith("postgres") else "KILL :n"
    async with fastdb.Database(server_url) as database, fastdb.Database(server_url) as other:
        await database.execute(sa.schema.CreateTable(numbers))
        await database.execute_many(
            numbers.insert(), [{"id": n, "flag": True} for n in range(1200)]
        )
        async with database.connection() as connection:
            number = await connection.fetch_val(f"SELECT {own}")
            rows = connection.iterate("SELECT id FROM numbers ORDER BY id", batch_size=2)
            assert (await anext(rows)).id == 0
            # MySQL reads the rest into memory for this.
            assert await connection.fetch_val("SELECT 1") == 1
            await other.execute(kill, {"n": number})
            async with asyncio.timeout(30):
                while True:  # the held connection is replaced, outside of a transaction
                    try:
                        if await connection.fetch_val(f"SELECT {own}") != number:
                            break
                    except fastdb.Error:
                        pass
                    await asyncio.sleep(0.01)
            if ends == "is left":
                await rows.aclose()
            else:
                with pytest.raises(fastdb.NotConnectedError, match="iteration was lost"):
                    async for _ in rows:
                        pass
            assert await connection.fetch_val("SELECT 1") == 1
        assert database.pool.stats().leased == 0


async def test_a_lost_connection_does_not_hide_why_an_iteration_was_left(
    server_url: str,
) -> None:
    own = "pg_backend_pid()" if server_url.startswith("postgres") else "connection_id()"
    kill = "SELECT pg_terminate_backend(:n)" if server_url.startswith("postgres") else "KILL :n"
    query = f"SELECT {own} AS own FROM numbers AS a, numbers AS b"
    async with fastdb.Database(server_url) as database, fastdb.Database(server_url) as other:
        await database.execute(sa.schema.CreateTable(numbers))
        await database.execute_many(numbers.insert(), [{"id": n, "flag": True} for n in range(900)])
        with pytest.raises(ZeroDivisionError):
            async with contextlib.aclosing(database.iterate(query, batch_size=2)) as rows:
                async for row in rows:
                    await other.execute(kill, {"n": row.own})
                    await asyncio.sleep(0.05)
                    raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError):
            async with (
                database.transaction(),
                contextlib.aclosing(database.iterate(query, batch_size=2)) as rows,
            ):
                async for row in rows:
                    await other.execute(kill, {"n": row.own})
                    await asyncio.sleep(0.05)
                    raise ZeroDivisionError
        assert await database.fetch_val("SELECT count(*) FROM numbers") == 900
        assert database.pool.stats().leased == 0
