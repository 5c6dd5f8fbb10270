"""Transactions whose BEGIN or COMMIT fails, or becomes something else, on real servers."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

import fastdb
from tests.faults.conftest import Remote, eventually, is_whole


@pytest.fixture
async def notes(database_url: str) -> AsyncIterator[fastdb.Database]:
    """Provide a Database of three connections with a table ``notes`` (id)."""
    async with fastdb.Database(database_url, max_size=3) as database:
        await database.execute("CREATE TABLE notes (id integer primary key)")
        yield database


async def ids(database: fastdb.Database) -> list[int]:
    return [record.id for record in await database.fetch_all("SELECT id FROM notes ORDER BY id")]


# -- COMMIT


async def defer_a_violation(database: fastdb.Database) -> None:
    """Do, in a transaction, what its COMMIT will refuse: a foreign key that leads nowhere."""
    await database.execute("INSERT INTO notes VALUES (1)")
    await database.execute("INSERT INTO children VALUES (99)")


@pytest.fixture
async def family(database_url: str) -> AsyncIterator[fastdb.Database]:
    """Provide a Database with a deferred foreign key, where the server has such."""
    options = {"foreign_keys": True} if database_url.startswith("sqlite") else {}
    async with fastdb.Database(database_url, max_size=1, **options) as database:
        await database.execute("CREATE TABLE notes (id integer primary key)")
        if database.url.dialect != "mysql":
            await database.execute(
                "CREATE TABLE children (parent integer REFERENCES notes (id) "
                "DEFERRABLE INITIALLY DEFERRED)"
            )
        yield database


@pytest.mark.parametrize("way", ["block", "by hand", "decorator", "nested"])
async def test_a_commit_that_is_refused_rolls_back_and_frees_the_connection(
    family: fastdb.Database, way: str
) -> None:
    if family.url.dialect == "mysql":
        return  # it has no deferred constraints
    called: list[int] = []

    async def work() -> None:
        if way == "block":
            async with family.transaction() as transaction:
                transaction.on_commit(lambda: called.append(1))
                await defer_a_violation(family)
        elif way == "by hand":
            transaction = await family.transaction()
            transaction.on_commit(lambda: called.append(1))
            await defer_a_violation(family)
            await transaction.commit()
        elif way == "decorator":
            await family.transaction()(defer_a_violation)(family)
        else:
            async with family.transaction() as transaction:
                transaction.on_commit(lambda: called.append(1))
                async with family.transaction():
                    await defer_a_violation(family)

    for _ in range(3):
        with pytest.raises(fastdb.IntegrityError):
            await work()
        assert is_whole(family)
        assert await ids(family) == []
        assert not called
    async with family.transaction():
        await family.execute("INSERT INTO notes VALUES (2)")
    assert await ids(family) == [2]


async def test_a_commit_that_became_a_rollback_raises(notes: fastdb.Database) -> None:
    """PostgreSQL rolls back at COMMIT after an error that the application has swallowed."""

    async def work() -> None:
        async with notes.transaction():
            await notes.execute("INSERT INTO notes VALUES (1)")
            with contextlib.suppress(fastdb.IntegrityError):
                await notes.execute("INSERT INTO notes VALUES (1)")

    if notes.url.dialect == "postgresql":
        with pytest.raises(fastdb.DatabaseError):
            await work()
        assert await ids(notes) == []
    else:
        await work()
        assert await ids(notes) == [1]
    assert is_whole(notes)


async def test_write_skew_fails_one_of_the_two(notes: fastdb.Database) -> None:
    """Two serializable transactions that each read what the other writes are not both committed."""
    if notes.url.dialect == "sqlite":
        return  # there, only one can write at a time
    both = asyncio.Barrier(2)

    async def work(number: int) -> None:
        async with notes.transaction(isolation="serializable"):
            await notes.fetch_val("SELECT count(*) FROM notes")
            await both.wait()
            await notes.execute("INSERT INTO notes VALUES (:id)", {"id": number})

    results = await asyncio.gather(work(1), work(2), return_exceptions=True)
    failed = [result for result in results if result is not None]
    assert len(failed) == 1
    assert isinstance(failed[0], fastdb.OperationalError)
    assert len(await ids(notes)) == 1
    assert is_whole(notes)


async def test_a_deadlock_fails_one_and_lets_the_other_through(notes: fastdb.Database) -> None:
    if notes.url.dialect == "sqlite":
        return  # there, only one can write at a time
    await notes.execute_many("INSERT INTO notes VALUES (:id)", [{"id": n} for n in (10, 20)])
    both = asyncio.Barrier(2)

    async def work(first: int, second: int) -> None:
        async with notes.transaction():
            await notes.execute("UPDATE notes SET id = id + 1 WHERE id = :id", {"id": first})
            await both.wait()
            await notes.execute("UPDATE notes SET id = id + 2 WHERE id = :id", {"id": second})

    results = await asyncio.gather(work(10, 20), work(20, 10), return_exceptions=True)
    failed = [result for result in results if result is not None]
    assert len(failed) == 1
    assert isinstance(failed[0], fastdb.OperationalError)
    assert await ids(notes) in ([11, 22], [12, 21])
    assert is_whole(notes)


async def test_after_a_deadlock_nothing_is_committed_in_pieces(notes: fastdb.Database) -> None:
    """MySQL has rolled back the transaction; what the application goes on with is refused."""
    if notes.url.dialect == "sqlite":
        return  # there, only one can write at a time
    await notes.execute_many("INSERT INTO notes VALUES (:id)", [{"id": n} for n in (10, 20)])
    both = asyncio.Barrier(2)

    async def work(first: int, second: int) -> None:
        async with notes.transaction():
            await notes.execute("UPDATE notes SET id = id + 1 WHERE id = :id", {"id": first})
            await both.wait()
            with contextlib.suppress(fastdb.OperationalError):
                await notes.execute("UPDATE notes SET id = id + 2 WHERE id = :id", {"id": second})
            await notes.execute("INSERT INTO notes VALUES (:id)", {"id": first * 10})

    results = await asyncio.gather(work(10, 20), work(20, 10), return_exceptions=True)
    assert sum(isinstance(result, fastdb.DatabaseError) for result in results) == 1
    assert await ids(notes) in ([11, 22, 100], [12, 21, 200])
    assert is_whole(notes)


@pytest.mark.parametrize("silent", [False, True])
async def test_a_commit_whose_answer_is_lost_raises(remote: Remote, silent: bool) -> None:
    """Nobody knows whether it has happened; it is not said that it has."""
    async with fastdb.Database(remote.url) as database:
        await database.execute("CREATE TABLE notes (id integer primary key)")
        transaction = await database.transaction()
        await database.execute("INSERT INTO notes VALUES (1)")
        if silent:
            remote.proxy.stall()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await transaction.commit()
            remote.proxy.resume()
        else:
            remote.proxy.cut_after(0)
            with pytest.raises(fastdb.OperationalError):
                await transaction.commit()
        assert not transaction.is_open
        await eventually(lambda: is_whole(database), "the return of the connection")
        await eventually(lambda: len(remote.proxy.links) <= 1, "the end of the old connection")
        assert await ids(database) in ([], [1])


# -- BEGIN


async def test_a_begin_that_fails_leaks_nothing(remote: Remote) -> None:
    async with fastdb.Database(remote.url, max_size=1) as database:
        for _ in range(3):
            await database.fetch_val("SELECT 1")
            async with database.connection():
                remote.proxy.cut_after(0)
                with pytest.raises(fastdb.OperationalError):
                    async with database.transaction():
                        raise AssertionError("this is never begun")
            assert is_whole(database)
        async with database.transaction():
            assert await database.fetch_val("SELECT 1") == 1


async def test_a_begin_over_a_silent_network_can_be_given_up(remote: Remote) -> None:
    async with fastdb.Database(remote.url, max_size=1) as database, database.connection():
        await database.fetch_val("SELECT 1")
        remote.proxy.stall()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), database.transaction():
                raise AssertionError("this is never begun")
        remote.proxy.resume()
        async with database.transaction():
            assert await database.fetch_val("SELECT 2") == 2


async def test_a_locked_sqlite_file_fails_the_first_statement_and_leaks_nothing(
    sqlite_url: str,
) -> None:
    async with (
        fastdb.Database(sqlite_url, busy_timeout=50) as database,
        fastdb.Database(sqlite_url) as other,
    ):
        await database.execute("CREATE TABLE notes (id integer primary key)")
        async with other.transaction(begin="exclusive"):
            for _ in range(3):
                with pytest.raises(fastdb.OperationalError, match="locked"):
                    async with database.transaction():
                        await database.execute("INSERT INTO notes VALUES (1)")
                assert is_whole(database)
        assert await ids(database) == []


# -- decorated functions


async def test_recursion_of_a_decorated_function(notes: fastdb.Database) -> None:
    @notes.transaction()
    async def insert(number: int) -> None:
        await notes.execute("INSERT INTO notes VALUES (:id)", {"id": number})
        if number == 3:
            raise LookupError
        with contextlib.suppress(LookupError):
            await insert(number + 1)

    await insert(0)
    assert await ids(notes) == [0, 1, 2]
    assert is_whole(notes)


async def test_concurrent_calls_of_a_decorated_function(notes: fastdb.Database) -> None:
    @notes.transaction()
    async def insert(number: int) -> int:
        await notes.execute("INSERT INTO notes VALUES (:id)", {"id": number})
        await asyncio.sleep(0)
        if number % 3 == 0:
            raise LookupError(number)
        return number

    results = await asyncio.gather(*(insert(n) for n in range(30)), return_exceptions=True)
    for number, result in enumerate(results):
        assert isinstance(result, LookupError) if number % 3 == 0 else result == number
    assert await ids(notes) == [n for n in range(30) if n % 3]
    assert is_whole(notes)


# -- money


async def test_bank_transfers_keep_their_sum(notes: fastdb.Database) -> None:
    """Tasks move money at random, fail at random, and are cancelled at random."""
    await notes.execute("CREATE TABLE accounts (id integer primary key, money integer)")
    await notes.execute_many(
        "INSERT INTO accounts VALUES (:id, 100)", [{"id": account} for account in range(5)]
    )
    made = 0

    async def transfer() -> None:
        nonlocal made
        source, target = random.sample(range(5), 2)
        async with notes.transaction():
            for account, change in ((source, -10), (target, 10)):
                await notes.execute(
                    "UPDATE accounts SET money = money + :change WHERE id = :id",
                    {"change": change, "id": account},
                )
                if random.random() < 0.1:
                    raise LookupError
            if await notes.fetch_val("SELECT min(money) FROM accounts") < 0:
                raise ValueError("an account is overdrawn")
        made += 1

    async def work() -> None:
        for _ in range(20):
            task = asyncio.create_task(transfer())
            if random.random() < 0.3:
                await asyncio.sleep(random.random() * 0.01)
                task.cancel()
            with contextlib.suppress(
                # A deadlock, or an overdraft that two did together, is the application's to retry.
                LookupError,
                ValueError,
                fastdb.OperationalError,
                asyncio.CancelledError,
            ):
                await task

    await asyncio.gather(*(work() for _ in range(8)))
    assert made > 0
    assert await notes.fetch_val("SELECT sum(money) FROM accounts") == 500
    await eventually(lambda: is_whole(notes), "the return of all connections")


async def test_an_inner_rollback_that_the_end_of_its_outer_transaction_overtakes(
    remote: Remote,
) -> None:
    async with fastdb.Database(remote.url, acquire_timeout=0.2) as database:
        connection = database.connection()
        entered, leave = asyncio.Event(), asyncio.Event()

        async def inner() -> None:
            async with connection.transaction():
                entered.set()
                await leave.wait()
                raise LookupError

        with pytest.raises(fastdb.TransactionError, match="busy"):
            async with connection, connection.transaction():
                task = asyncio.create_task(inner())
                await entered.wait()
                remote.proxy.stall()
                leave.set()
                await asyncio.sleep(0.05)
        with pytest.raises(LookupError):
            await task
        remote.proxy.resume()
        assert int(await database.fetch_val("SELECT 1")) == 1
        await eventually(lambda: is_whole(database), "the return of the connection")
