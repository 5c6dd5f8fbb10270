"""Sandbox: a test sees its own rows, commits as it likes, and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import random
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import sqlalchemy as sa

import fastdb
from fastdb.testing import DatabaseTestClient, OwnershipError, Sandbox
from tests.testing.people import INSERT, NAMES, add, names


def in_no_sandbox(run: Callable[[], Any]) -> asyncio.Task[Any]:
    """Start a task as one that was started before the test."""
    return asyncio.get_running_loop().create_task(run(), context=contextvars.Context())


async def test_nothing_of_a_test_stays(people: fastdb.Database) -> None:
    async with Sandbox(people) as sandbox:
        assert sandbox.is_open
        await add(people, "Bob")
        await people.execute_many(INSERT, [{"name": "Cleo"}, {"name": "Dan"}])
        assert await names(people) == ["Ada", "Bob", "Cleo", "Dan"]
        assert await in_no_sandbox(lambda: names(people)) == ["Ada"]
        assert [record.name async for record in people.iterate(NAMES)][1:2] == ["Bob"]
    assert not sandbox.is_open
    assert repr(sandbox) == f"<Sandbox of {sandbox.name} ended>"


async def test_child_tasks_inherit_it(people: fastdb.Database, shared: bool) -> None:
    async with Sandbox(people, shared=shared):
        async with asyncio.TaskGroup() as group:
            for name in ("Bob", "Cleo"):
                group.create_task(add(people, name))
        await asyncio.gather(add(people, "Dan"), add(people, "Eve"))
        await asyncio.wait_for(add(people, "Flo"), 30)
        assert sorted(await names(people)) == ["Ada", "Bob", "Cleo", "Dan", "Eve", "Flo"]


async def test_transactions_of_several_tasks_take_turns(
    people: fastdb.Database, shared: bool
) -> None:
    async def move(name: str) -> None:
        async with people.transaction():
            before = len(await names(people))
            await add(people, name)
            await asyncio.sleep(0)
            assert len(await names(people)) == before + 1

    async with Sandbox(people, shared=shared):
        await asyncio.gather(*(move(f"n{number}") for number in range(10)))
        assert len(await names(people)) == 11


async def test_commits_and_rollbacks_are_those_of_the_application(
    people: fastdb.Database, shared: bool
) -> None:
    async with Sandbox(people, shared=shared):
        async with people.transaction():
            await add(people, "Bob")
            with pytest.raises(ZeroDivisionError):
                async with people.transaction():
                    await add(people, "lost")
                    raise ZeroDivisionError
        async with people.transaction(force_rollback=True):
            await add(people, "lost")
        transaction = await people.transaction()
        await add(people, "Cleo")
        await transaction.commit()
        assert not people.connection().in_transaction
        assert await names(people) == ["Ada", "Bob", "Cleo"]


async def test_options_of_the_outermost_transaction_are_recorded(
    people: fastdb.Database, shared: bool
) -> None:
    async with Sandbox(people, shared=shared) as sandbox:
        async with people.transaction(isolation="repeatable read", readonly=True):
            await add(people, "Bob")  # they are not applied
        with pytest.raises(fastdb.TransactionError, match="belong to the outermost"):
            async with people.transaction(), people.transaction(readonly=True):
                pass
        async with people.transaction():
            pass
        (options,) = sandbox.transaction_options
        assert (options.isolation, options.readonly) == ("repeatable read", True)


async def test_on_commit_runs_when_the_application_commits(
    people: fastdb.Database, shared: bool
) -> None:
    calls = []

    def sent() -> None:
        calls.append("sent")

    async with Sandbox(people, shared=shared) as sandbox:
        async with people.transaction():
            async with people.transaction() as inner:
                inner.on_commit(sent)
            assert calls == []
        assert calls == ["sent"]
        assert sandbox.on_commit_calls == [sent]
        async with people.transaction(force_rollback=True) as undone:
            undone.on_commit(sent)
        assert sandbox.on_commit_calls == [sent]
    assert calls == ["sent"]


async def test_an_error_spoils_nothing_else(people: fastdb.Database, shared: bool) -> None:
    async with Sandbox(people, shared=shared):
        await add(people, "Bob")
        for _ in range(2):
            with pytest.raises(fastdb.IntegrityError):
                await add(people, "Ada")
            with pytest.raises(fastdb.DatabaseError):
                await people.fetch_all("SELECT nothing FROM nowhere")
        with pytest.raises(fastdb.IntegrityError):
            async with people.transaction():
                await add(people, "lost")
                await add(people, "Ada")
        assert await names(people) == ["Ada", "Bob"]


async def test_deferred_constraints_are_checked_at_the_commit(
    postgresql_url: str, shared: bool
) -> None:
    async with fastdb.Database(postgresql_url) as database:
        await database.execute("CREATE TABLE a (id integer PRIMARY KEY)")
        await database.execute(
            "CREATE TABLE b (a integer REFERENCES a DEFERRABLE INITIALLY DEFERRED)"
        )

        async with Sandbox(database, shared=shared):
            for _ in range(2):
                with pytest.raises(fastdb.IntegrityError, match="foreign key"):
                    async with database.transaction():
                        await database.execute("INSERT INTO b VALUES (1)")
                assert await database.fetch_all("SELECT * FROM b") == []
                # What is deferred is so again.
                async with database.transaction():
                    await database.execute("INSERT INTO b VALUES (2)")
                    await database.execute("INSERT INTO a VALUES (2)")
                await database.execute("DELETE FROM b")
                await database.execute("DELETE FROM a")


async def test_deferred_constraints_are_checked_at_once_outside_of_transactions(
    postgresql_url: str, shared: bool
) -> None:
    async with fastdb.Database(postgresql_url) as database:
        await database.execute("CREATE TABLE a (id integer PRIMARY KEY)")
        await database.execute(
            "CREATE TABLE b (a integer REFERENCES a DEFERRABLE INITIALLY DEFERRED)"
        )
        async with Sandbox(database, shared=shared):
            for _ in range(2):
                with pytest.raises(fastdb.IntegrityError, match="foreign key"):
                    await database.execute("INSERT INTO b VALUES (1)")
                with pytest.raises(ZeroDivisionError):
                    async with database.transaction():
                        await database.execute("INSERT INTO b VALUES (1)")
                        raise ZeroDivisionError
            assert await database.fetch_all("SELECT * FROM b") == []


async def test_constraints_that_the_test_has_deferred_itself(
    postgresql_url: str, shared: bool
) -> None:
    async with (
        fastdb.Database(postgresql_url) as database,
        Sandbox(database, shared=shared),
    ):
        await database.execute("CREATE TABLE a (id integer PRIMARY KEY)")
        await database.execute("CREATE TABLE b (a integer REFERENCES a DEFERRABLE)")
        await database.execute(
            "CREATE TABLE c (a integer REFERENCES a DEFERRABLE INITIALLY DEFERRED)"
        )
        with pytest.raises(fastdb.IntegrityError, match="foreign key"):
            await database.execute("INSERT INTO b VALUES (1)")
        for table in ("b", "c"):
            with pytest.raises(fastdb.IntegrityError, match="foreign key"):
                async with database.transaction():
                    await database.execute("SET CONSTRAINTS ALL DEFERRED")
                    await database.execute(f"INSERT INTO {table} VALUES (1)")
        async with database.transaction():
            await database.execute("INSERT INTO c VALUES (1)")
            await database.execute("INSERT INTO a VALUES (1)")
        assert await database.fetch_all("SELECT * FROM c") == [(1,)]


async def test_the_applications_own_life_does_not_end_the_tests(
    people: fastdb.Database, shared: bool
) -> None:
    async with Sandbox(people, shared=shared):
        async with people:
            await add(people, "Bob")
        assert people.is_connected
        assert await names(people) == ["Ada", "Bob"]


async def test_it_connects_and_disconnects_where_nobody_else_does(
    database_url: str, shared: bool
) -> None:
    database = fastdb.Database(database_url)
    for _ in range(2):
        async with Sandbox(database, shared=shared):
            assert database.is_connected
            await database.disconnect()
            assert await database.fetch_val("SELECT 1") == 1
        assert not database.is_connected

    async def use() -> None:
        async with Sandbox(database, shared=shared):
            assert await database.fetch_val("SELECT 1") == 1

    await asyncio.gather(*(use() for _ in range(12)))
    assert not database.is_connected


def test_a_loop_that_ended_with_one_open(database_url: str, shared: bool) -> None:
    # In a process of its own: nobody can close the sockets of the first loop any more.
    code = """
import asyncio, sys
import fastdb
from fastdb.testing import Sandbox

database = fastdb.Database(sys.argv[1])

shared = sys.argv[2] == "True"

async def abandon():
    await Sandbox(database, shared=shared).__aenter__()

async def use():
    async with Sandbox(database, shared=shared):
        assert await database.fetch_val("SELECT 1") == 1
    assert not database.is_connected

asyncio.run(abandon())
asyncio.run(use())
print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, database_url, str(shared)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "fine\n", done.stderr


async def test_a_database_that_cannot_be_connected(database_url: str, shared: bool) -> None:
    url = fastdb.DatabaseURL(database_url)
    wrong = "sqlite:////nowhere/at/all.db" if url.dialect == "sqlite" else url.replace(port=9)
    database = fastdb.Database(wrong)
    with pytest.raises(fastdb.Error):
        await Sandbox(database, shared=shared).__aenter__()
    assert not database.is_connected
    with pytest.raises(fastdb.NotConnectedError):
        await database.fetch_all("SELECT 1")


async def test_no_connection_to_be_had(people: fastdb.Database) -> None:
    full = fastdb.Database(people.url, max_size=1, acquire_timeout=0.1)
    async with full, full.connection():
        sandbox = Sandbox(full)
        with pytest.raises(fastdb.PoolTimeoutError):
            await sandbox.__aenter__()
        assert not sandbox.is_open
        assert await full.fetch_val("SELECT 1") == 1
    async with Sandbox(full):
        assert await names(full) == ["Ada"]


async def test_a_task_that_outlives_its_sandbox_is_told_so(
    people: fastdb.Database, shared: bool
) -> None:
    ended = asyncio.Event()

    async def late(use: Callable[[], Any]) -> None:
        await ended.wait()
        await use()

    async def in_a_transaction() -> None:
        async with people.transaction():
            await add(people, "late")

    async def on(connection: fastdb.Connection) -> None:
        await connection.execute(INSERT, {"name": "late"})

    async def iteration() -> None:
        async for _ in people.iterate(NAMES):
            pass

    async with Sandbox(people, shared=shared) as sandbox:
        connection = people.connection()
        uses = [
            lambda: add(people, "late"),
            lambda: names(people),
            in_a_transaction,
            iteration,
            lambda: on(connection),
            lambda: people.execute_many(INSERT, [{"name": "late"}]),
        ]
        tasks = [asyncio.create_task(late(use)) for use in uses]
        await asyncio.sleep(0)
    ended.set()
    for error in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(error, OwnershipError)
        assert f"the sandbox of {sandbox.name} has ended" in str(error)
    test = "test_a_task_that_outlives_its_sandbox_is_told_so"
    assert sandbox.name.startswith(f"tests/testing/test_sandbox.py::{test}[")
    assert issubclass(OwnershipError, fastdb.Error)


async def test_what_a_late_task_left_open_is_rolled_back(
    people: fastdb.Database, shared: bool
) -> None:
    opened, ended = asyncio.Event(), asyncio.Event()

    async def late() -> None:
        async with people.connection(), people.transaction() as transaction:
            await add(people, "late")
            async with people.transaction():
                opened.set()
                await ended.wait()
            assert transaction.state == "rolled back"
            with pytest.raises(OwnershipError):
                await names(people)

    async with Sandbox(people, shared=shared):
        task = asyncio.create_task(late())
        await opened.wait()
    assert await names(people) == ["Ada"]
    ended.set()
    await task
    assert people.pool.stats().leased == 0


async def test_outside_of_pytest_the_place_names_it(
    people: fastdb.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    assert Sandbox(people).name.startswith(f"{__file__}:")


async def test_a_hundred_sandboxes_at_once(people: fastdb.Database, shared: bool) -> None:
    async def test(number: int) -> None:
        async with Sandbox(people, shared=shared):
            async with people.transaction():
                await add(people, f"n{number}")
            with pytest.raises(fastdb.IntegrityError):
                await add(people, f"n{number}")
            await asyncio.gather(*(add(people, f"n{number}.{child}") for child in range(3)))
            assert sorted(await names(people)) == [
                "Ada",
                f"n{number}",
                *(f"n{number}.{child}" for child in range(3)),
            ]
            if number % 3 == 0:
                raise ZeroDivisionError

    results = await asyncio.gather(*(test(number) for number in range(100)), return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [ZeroDivisionError] * 34
    assert people.pool.stats().leased == 0
    assert people.pool.stats().size <= 10


async def test_cancelled_sandboxes_leave_nothing(people: fastdb.Database, shared: bool) -> None:
    async def test(number: int) -> None:
        async with Sandbox(people, shared=shared):
            while True:
                async with people.transaction():
                    await add(people, f"n{number}")
                await people.execute(
                    "DELETE FROM people WHERE name = :name", {"name": f"n{number}"}
                )

    tasks = [asyncio.create_task(test(number)) for number in range(12)]
    for number, task in enumerate(tasks):
        await asyncio.sleep(0.003 * (number % 4))
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {asyncio.CancelledError}
    assert await names(people) == ["Ada"]
    assert people.pool.stats().leased == 0


async def test_nothing_stays_of_a_storm(people: fastdb.Database, shared: bool) -> None:
    chance = random.Random(7)

    async def child(name: str) -> None:
        async with people.transaction():
            await add(people, name)
            if chance.random() < 0.3:
                raise ValueError
            with contextlib.suppress(fastdb.IntegrityError):
                async with people.transaction():
                    await add(people, name)

    async def test(number: int) -> None:
        async with Sandbox(people, shared=shared):
            for step in range(4):
                prefix = f"n{number}.{step}"
                match chance.randrange(4):
                    case 0:
                        children = (child(f"{prefix}.{each}") for each in range(3))
                        await asyncio.gather(*children, return_exceptions=True)
                    case 1:
                        with pytest.raises(fastdb.DatabaseError):
                            await people.execute("SELECT nothing FROM nowhere")
                    case 2:
                        task = asyncio.create_task(child(prefix))
                        await asyncio.sleep(chance.random() * 0.005)
                        task.cancel()
                        await asyncio.wait((task,))
                    case 3:
                        transaction = await people.transaction()
                        await add(people, prefix)
                        if chance.random() < 0.5:
                            break  # and never end it
                        await transaction.commit()
                seen = await names(people)
                assert all(name == "Ada" or name.startswith(f"n{number}.") for name in seen)
            if chance.random() < 0.2:
                raise ZeroDivisionError

    tasks = [asyncio.create_task(test(number)) for number in range(150)]
    for task in chance.sample(tasks, 30):
        await asyncio.sleep(0.01)
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = {type(result) for result in results}
    if people.url.driver == "asyncmy":
        # A cancelled statement takes the connection, and the sandbox, along.
        kinds.discard(OwnershipError)
    assert kinds == {type(None), ZeroDivisionError, asyncio.CancelledError}, [
        str(each) for each in results if isinstance(each, fastdb.Error)
    ]
    assert await names(people) == ["Ada"]
    assert people.pool.stats().leased == 0


async def test_one_in_another_is_refused_except_unboxed(
    people: fastdb.Database, shared: bool
) -> None:
    async with Sandbox(people, shared=shared) as outer:
        with pytest.raises(fastdb.TransactionError, match="is open here already"):
            async with Sandbox(people, shared=shared):
                pass
        with outer.unboxed():
            async with Sandbox(people, shared=shared):
                await add(people, "inner")
        assert await names(people) == ["Ada"]


async def test_it_is_opened_once(people: fastdb.Database, shared: bool) -> None:
    sandbox = Sandbox(people, shared=shared)
    with pytest.raises(fastdb.TransactionError, match="it is not open"):
        await sandbox.__aexit__(None, None, None)
    async with sandbox:
        pass
    with pytest.raises(fastdb.TransactionError, match="was opened before"):
        await sandbox.__aenter__()


async def test_wrong_arguments(database_url: str) -> None:
    with pytest.raises(fastdb.OptionError, match="a Database, not of 'sqlite://'"):
        Sandbox("sqlite://")  # type: ignore[arg-type]
    with pytest.raises(fastdb.OptionError, match="shared"):
        Sandbox(fastdb.Database(database_url), shared="yes, please")  # type: ignore[arg-type]
    with pytest.raises(fastdb.OptionError, match="belongs to an async test"):
        Sandbox(fastdb.Database(database_url)).open()
    with pytest.raises(fastdb.OptionError, match="use one of them"):
        await Sandbox(fastdb.Database(database_url, force_rollback=True)).__aenter__()


async def test_two_databases_have_each_their_own(people: fastdb.Database, shared: bool) -> None:
    async with fastdb.Database(people.url) as other, Sandbox(people, shared=shared):
        await add(people, "Bob")
        assert await names(other) == ["Ada"]
        async with Sandbox(other, shared=shared):
            assert await names(other) == ["Ada"]
            assert await names(people) == ["Ada", "Bob"]


async def test_one_of_a_test_client(people: fastdb.Database, shared: bool) -> None:
    client = DatabaseTestClient(people.url, test_prefix="", drop_database=True)
    async with Sandbox(client, shared=shared):
        async with client:
            await add(client, "Bob")
        assert await names(client) == ["Ada", "Bob"]
    assert not client.is_connected


async def test_its_connection_is_collected_after_its_end(
    people: fastdb.Database, shared: bool
) -> None:
    async def use() -> weakref.ref[fastdb.Connection]:
        async with Sandbox(people, shared=shared):
            await asyncio.create_task(names(people))
            return weakref.ref(people.connection())

    reference = await use()
    gc.collect()
    assert reference() is None


# -- lent and let out


async def test_a_task_that_was_started_elsewhere_is_allowed(people: fastdb.Database) -> None:
    allowed = asyncio.Event()

    async def elsewhere() -> list[str]:
        await allowed.wait()
        await add(people, "Bob")
        await people.disconnect()
        return await names(people)

    async def after(event: asyncio.Event) -> list[str]:
        await event.wait()
        return await names(people)

    async with Sandbox(people) as sandbox:
        task = in_no_sandbox(elsewhere)
        sandbox.allow(task)
        allowed.set()
        assert await task == ["Ada", "Bob"]
        assert await names(people) == ["Ada", "Bob"]

        ended = asyncio.Event()
        task = in_no_sandbox(lambda: after(ended))
        sandbox.allow(task)

    ended.set()
    with pytest.raises(OwnershipError):
        await task
    assert await in_no_sandbox(lambda: names(people)) == ["Ada"]
    with pytest.raises(OwnershipError):
        sandbox.allow(asyncio.current_task())  # type: ignore[arg-type]


async def test_only_tasks_of_the_loop_are_allowed(people: fastdb.Database) -> None:
    async with Sandbox(people) as sandbox:
        with pytest.raises(fastdb.OptionError, match="lent to a task"):
            sandbox.allow(names)  # type: ignore[arg-type]

        async def elsewhere() -> None:
            sandbox.allow(asyncio.current_task())  # type: ignore[arg-type]

        with pytest.raises(fastdb.EventLoopError, match="its own event loop"):
            await asyncio.to_thread(asyncio.run, elsewhere())


async def test_unboxed_is_the_real_database(people: fastdb.Database, shared: bool) -> None:
    async with Sandbox(people, shared=shared) as sandbox:
        with sandbox.unboxed():
            await add(people, "real")
            assert await names(people) == ["Ada", "real"]
            assert await asyncio.create_task(names(people)) == ["Ada", "real"]
            async with people.transaction():
                await people.execute("DELETE FROM people WHERE name = 'real'")
            await people.disconnect()  # still the test's
        await add(people, "Bob")
        assert (await names(people))[-1] == "Bob"
        others = await in_no_sandbox(lambda: names(people))
        assert ("Bob" in others) == shared


# -- what cannot be taken back


@pytest.mark.parametrize("sql", ["BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK", "commit"])
async def test_sql_that_ends_the_transaction_is_refused(
    server_url: str, sql: str, shared: bool
) -> None:
    async with fastdb.Database(server_url) as database, Sandbox(database, shared=shared):
        with pytest.raises(fastdb.TransactionError, match=f"cannot run {sql.split()[0].upper()}"):
            await database.execute(sql)
        assert await database.fetch_val("SELECT 1") == 1
        if fastdb.DatabaseURL(server_url).dialect == "postgresql":
            await database.execute("SAVEPOINT one")  # these end nothing


async def test_implicit_commits_are_refused_on_mysql(mysql_url: str, shared: bool) -> None:
    table = sa.Table("made", sa.MetaData(), sa.Column("id", sa.Integer))
    async with fastdb.Database(mysql_url) as database, Sandbox(database, shared=shared) as sandbox:
        with pytest.raises(
            fastdb.TransactionError, match=r"cannot run CREATE in .*sandbox\.unboxed"
        ):
            await database.execute("CREATE TABLE made (id integer)")
        with pytest.raises(fastdb.TransactionError, match="cannot run TRUNCATE"):
            await database.execute("TRUNCATE made")
        with pytest.raises(fastdb.TransactionError, match="cannot run CREATE"):
            await database.create_all(table.metadata)
        await database.execute("CREATE TEMPORARY TABLE made (id integer)")
        await database.execute_many("INSERT INTO made VALUES (:id)", [{"id": 1}, {"id": 2}])
        assert (
            await database.run_sync(lambda sync: sync.scalar(sa.text("SELECT count(*) FROM made")))
            == 2
        )
        with sandbox.unboxed():
            await database.create_all(table.metadata)
            await database.drop_all(table.metadata)


async def test_ddl_is_taken_back_where_it_can_be(people: fastdb.Database, shared: bool) -> None:
    if people.url.dialect == "mysql":
        return  # it commits at DDL, which is refused (above)
    table = sa.Table("made", sa.MetaData(), sa.Column("id", sa.Integer))
    async with Sandbox(people, shared=shared):
        await people.create_all(table.metadata)
        await people.execute(table.insert(), {"id": 1})
        assert await people.fetch_val(table.select()) == 1
    assert await people.run_sync(lambda sync: sa.inspect(sync).get_table_names()) == ["people"]


async def test_a_commit_behind_its_back_ends_it(server_url: str, shared: bool) -> None:
    async with fastdb.Database(server_url) as database:
        await database.execute("CREATE TABLE made (id integer)")

        async def test() -> None:
            async with Sandbox(database, shared=shared):
                raw: Any = database.connection().raw_connection
                if database.url.dialect == "postgresql":
                    await raw.execute("COMMIT")
                else:
                    async with raw.cursor() as cursor:
                        await cursor.execute("COMMIT")
                with pytest.raises(OwnershipError, match="ended"):
                    await database.execute("INSERT INTO made VALUES (1)")

        with pytest.raises(OwnershipError, match="was ended before"):
            await test()
        assert await database.fetch_all("SELECT * FROM made") == []
        assert database.pool.stats().leased == 0


async def test_a_deadlock_ends_it_on_mysql(mysql_url: str, shared: bool) -> None:
    async with fastdb.Database(mysql_url) as database:
        await database.execute("CREATE TABLE numbers (id integer PRIMARY KEY, n integer)")
        await database.execute("INSERT INTO numbers VALUES (1, 0), (2, 0)")
        update = "UPDATE numbers SET n = n + 1 WHERE id = :id"
        has_first = [asyncio.Event(), asyncio.Event()]

        async def test(number: int) -> str:
            async with Sandbox(database, shared=shared):
                await database.execute(update, {"id": number + 1})
                has_first[number].set()
                await has_first[1 - number].wait()
                try:
                    await database.execute(update, {"id": 2 - number})
                except fastdb.OperationalError:
                    with pytest.raises(
                        OwnershipError, match=r"rolled back by the server \(error 1213"
                    ):
                        await database.execute(update, {"id": number + 1})
                    return "deadlock"
                return "fine"

        results = await asyncio.gather(test(0), test(1), return_exceptions=True)
        (error,) = [result for result in results if result != "fine"]
        assert isinstance(error, OwnershipError)
        assert "was ended before: its transaction was rolled back by the server" in str(error)
        assert await database.fetch_all("SELECT n FROM numbers") == [(0,), (0,)]


# -- SQLite's private copy


async def test_options_of_a_file_do_not_matter_to_the_copy(sqlite_url: str, shared: bool) -> None:
    url = f"{sqlite_url}?journal_mode=wal"
    async with fastdb.Database(url, foreign_keys=True, check_same_thread=True) as database:
        await database.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        await database.execute("CREATE TABLE b (a INTEGER REFERENCES a)")
        async with Sandbox(database, shared=shared):
            with pytest.raises(fastdb.IntegrityError):
                await database.execute("INSERT INTO b VALUES (1)")


async def test_pages_of_another_size_are_copied(sqlite_url: str, shared: bool) -> None:
    async with fastdb.Database(sqlite_url) as database:
        async with database.connection():
            await database.execute("PRAGMA page_size = 8192")
            await database.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        async with Sandbox(database, shared=shared):
            assert await database.fetch_val("PRAGMA page_size") == 8192
            assert await database.fetch_all("SELECT * FROM a") == []


async def test_a_database_in_memory_is_copied_too(shared: bool) -> None:
    async with fastdb.Database("sqlite://") as database:
        await database.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        async with Sandbox(database, shared=shared) as sandbox:
            await database.execute("INSERT INTO a VALUES (1)")
            with sandbox.unboxed():
                assert await database.fetch_all("SELECT * FROM a") == []
        assert await database.fetch_all("SELECT * FROM a") == []


# -- with pytest's fixtures


@pytest.fixture
async def boxed(people: fastdb.Database) -> AsyncIterator[fastdb.Database]:
    async with Sandbox(people):
        yield people


@pytest.mark.parametrize("time", [1, 2])
async def test_a_fixture_opens_it_for_the_test(boxed: fastdb.Database, time: int) -> None:
    await add(boxed, "Bob")
    assert await names(boxed) == ["Ada", "Bob"]
