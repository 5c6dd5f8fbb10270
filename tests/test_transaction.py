from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

import fastdb


@pytest.fixture
async def notes(database: fastdb.Database) -> fastdb.Database:
    await database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(100))")
    return database


async def add(queries: Any, number: int, text: str = "x") -> None:
    await queries.execute(
        "INSERT INTO notes (id, text) VALUES (:id, :text)", {"id": number, "text": text}
    )


async def ids(queries: Any) -> list[int]:
    return [row[0] for row in await queries.fetch_all("SELECT id FROM notes ORDER BY id")]


async def test_block_commits(notes: fastdb.Database) -> None:
    async with notes.transaction() as transaction:
        assert transaction.is_open
        await add(notes, 1)
    assert transaction.state == "committed"
    assert await ids(notes) == [1]


async def test_block_rolls_back_after_exception(notes: fastdb.Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with notes.transaction():
            await add(notes, 1)
            raise ZeroDivisionError
    assert await ids(notes) == []


async def test_low_level(notes: fastdb.Database) -> None:
    transaction = await notes.transaction()
    await add(notes, 1)
    await transaction.rollback()
    transaction = await notes.transaction()
    await add(notes, 2)
    await transaction.commit()
    assert await ids(notes) == [2]
    assert notes.pool.stats().leased == 0


async def test_start_returns_the_transaction(notes: fastdb.Database) -> None:
    transaction = notes.transaction()
    assert await transaction.start() is transaction
    await transaction.rollback()


async def test_nested_are_savepoints(notes: fastdb.Database) -> None:
    async with notes.transaction():
        await add(notes, 1)
        with pytest.raises(ZeroDivisionError):
            async with notes.transaction():
                await add(notes, 2)
                async with notes.transaction():
                    await add(notes, 3)
                raise ZeroDivisionError
        async with notes.transaction():
            await add(notes, 4)
    assert await ids(notes) == [1, 4]


async def test_error_in_savepoint_leaves_the_outer_usable(notes: fastdb.Database) -> None:
    async with notes.transaction():
        await add(notes, 1)
        with pytest.raises(fastdb.IntegrityError):
            async with notes.transaction():
                await add(notes, 1)
        await add(notes, 2)
    assert await ids(notes) == [1, 2]


async def test_force_rollback_block(notes: fastdb.Database) -> None:
    async with notes.transaction(force_rollback=True):
        await add(notes, 1)
        assert await ids(notes) == [1]
    transaction = await notes.transaction(force_rollback=True)
    await add(notes, 2)
    await transaction.commit()
    assert await ids(notes) == []


async def test_decorator_runs_each_call_in_a_transaction(notes: fastdb.Database) -> None:
    @notes.transaction()
    async def insert(number: int, fail: bool = False) -> int:
        await add(notes, number)
        if fail:
            raise ZeroDivisionError
        return number * 10

    assert await insert(1) == 10
    with pytest.raises(ZeroDivisionError):
        await insert(2, fail=True)
    assert sorted(await asyncio.gather(insert(3), insert(4))) == [30, 40]
    assert await ids(notes) == [1, 3, 4]


async def test_decorator_applied_before_connect(database_url: str) -> None:
    database = fastdb.Database(database_url)

    @database.transaction()
    async def recurse(depth: int) -> int:
        return depth if depth == 0 else await recurse(depth - 1) + 1

    async with database:
        assert await recurse(3) == 3


async def test_rollback_inside_the_block_ends_it(notes: fastdb.Database) -> None:
    async with notes.transaction() as transaction:
        await add(notes, 1)
        await transaction.rollback()
        await add(notes, 2)
    assert await ids(notes) == [2]


async def test_commit_inside_the_block_ends_it(notes: fastdb.Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with notes.transaction() as transaction:
            await add(notes, 1)
            await transaction.commit()
            raise ZeroDivisionError
    assert await ids(notes) == [1]


async def test_ending_twice_is_an_error(notes: fastdb.Database) -> None:
    transaction = await notes.transaction()
    await transaction.commit()
    with pytest.raises(
        fastdb.TransactionError, match="cannot commit; the transaction is already committed"
    ):
        await transaction.commit()
    with pytest.raises(
        fastdb.TransactionError, match="cannot roll back; the transaction is already committed"
    ):
        await transaction.rollback()


async def test_starting_twice_is_an_error(notes: fastdb.Database) -> None:
    async with notes.transaction() as transaction:
        with pytest.raises(fastdb.TransactionError, match=r"cannot start; .* already open"):
            await transaction.start()


async def test_a_block_of_an_awaited_transaction_ends_it(notes: fastdb.Database) -> None:
    async with await notes.transaction() as transaction:
        await add(notes, 1)
        with pytest.raises(fastdb.TransactionError, match="already open"):
            async with transaction:
                pass
    assert transaction.state == "committed"
    assert await ids(notes) == [1]


async def test_ending_one_that_was_not_started_is_an_error(notes: fastdb.Database) -> None:
    with pytest.raises(fastdb.TransactionError, match="not started"):
        await notes.transaction().commit()


async def test_ending_the_outer_before_the_inner_is_an_error(notes: fastdb.Database) -> None:
    outer = await notes.transaction()
    inner = await notes.transaction()
    with pytest.raises(fastdb.TransactionError, match="an inner transaction is still open"):
        await outer.commit()
    with pytest.raises(fastdb.TransactionError, match="an inner transaction is still open"):
        await outer.rollback()
    await inner.rollback()
    await outer.rollback()
    assert notes.pool.stats().leased == 0


async def test_inner_left_open_rolls_the_block_back(notes: fastdb.Database) -> None:
    with pytest.raises(fastdb.TransactionError, match="an inner transaction was left open"):
        async with notes.transaction():
            await add(notes, 1)
            inner = await notes.transaction()
            await add(notes, 2)
    assert inner.state == "rolled back"
    assert await ids(notes) == []
    stats = notes.pool.stats()
    assert (stats.leased, stats.idle) == (0, stats.size)


async def test_on_commit_runs_after_the_outermost_commit(notes: fastdb.Database) -> None:
    calls: list[str] = []

    async def async_call() -> None:
        calls.append(f"async sees {await ids(notes)}")

    async with notes.transaction() as outer:
        outer.on_commit(lambda: calls.append("outer"))
        async with notes.transaction() as inner:
            inner.on_commit(async_call)
            await add(notes, 1)
        with pytest.raises(ZeroDivisionError):
            async with notes.transaction() as undone:
                undone.on_commit(lambda: calls.append("undone"))
                raise ZeroDivisionError
        assert calls == []
    assert calls == ["outer", "async sees [1]"]
    async with notes.transaction(force_rollback=True) as undone:
        undone.on_commit(lambda: calls.append("undone"))
    assert len(calls) == 2


async def test_on_commit_errors_pass_and_the_rest_still_runs(notes: fastdb.Database) -> None:
    calls: list[str] = []
    with pytest.raises(ZeroDivisionError):
        async with notes.transaction() as transaction:
            transaction.on_commit(lambda: 1 / 0)
            transaction.on_commit(lambda: calls.append("ran"))
            await add(notes, 1)
    assert calls == ["ran"]
    assert await ids(notes) == [1]


async def test_isolation_of_a_nested_transaction_is_refused(notes: fastdb.Database) -> None:
    async with notes.transaction():
        with pytest.raises(fastdb.TransactionError, match="belong to the outermost"):
            await notes.transaction(isolation="serializable")


async def test_serializable_and_its_alias(notes: fastdb.Database) -> None:
    async with notes.transaction(isolation="serializable"):
        await add(notes, 1)
    async with notes.transaction(isolation_level="SERIALIZABLE"):
        await add(notes, 2)
    with pytest.raises(fastdb.OptionError, match="mean the same"):
        notes.transaction(isolation="serializable", isolation_level="serializable")
    assert await ids(notes) == [1, 2]


async def test_unknown_isolation_is_refused_and_leaks_nothing(notes: fastdb.Database) -> None:
    with pytest.raises(fastdb.Error, match="snapshotty"):
        await notes.transaction(isolation="snapshotty")
    stats = notes.pool.stats()
    assert (stats.leased, stats.idle) == (0, stats.size)
    assert await ids(notes) == []


async def test_readonly_refuses_writes(notes: fastdb.Database) -> None:
    with pytest.raises(fastdb.DatabaseError):
        async with notes.transaction(readonly=True):
            await add(notes, 1)
    await add(notes, 2)
    assert await ids(notes) == [2]


# -- which task's


async def test_a_child_task_does_not_join(notes: fastdb.Database) -> None:
    async def child() -> list[int]:
        return await ids(notes)

    async with notes.transaction(readonly=None):
        before = await asyncio.create_task(child())
    assert before == []


async def test_methods_belong_to_the_task_that_calls_them(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=2) as database:
        await database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(100))")
        with pytest.raises(ZeroDivisionError):
            async with database.transaction():
                await asyncio.wait_for(
                    database.execute("INSERT INTO notes (id) VALUES (1)"), timeout=5
                )
                await asyncio.gather(
                    database.execute("INSERT INTO notes (id) VALUES (2)"),
                    database.execute_many(
                        "INSERT INTO notes (id) VALUES (:id)", [{"id": 3}, {"id": 4}]
                    ),
                    asyncio.create_task(database.execute("INSERT INTO notes (id) VALUES (5)")),
                )
                assert await asyncio.wait_for(ids(database.connection()), 5) == [1, 2, 3, 4, 5]
                raise ZeroDivisionError
        assert await ids(database) == []


async def test_commit_and_start_work_in_wait_for(notes: fastdb.Database) -> None:
    transaction = notes.transaction()
    await asyncio.wait_for(transaction.start(), 5)
    await add(notes, 1)
    inner = await asyncio.wait_for(notes.transaction().start(), 5)
    await add(notes, 2)
    await asyncio.wait_for(inner.rollback(), 5)
    await asyncio.wait_for(transaction.commit(), 5)
    assert await ids(notes) == [1]
    assert notes.pool.stats().leased == 0


async def test_a_transaction_may_be_ended_by_another_task(notes: fastdb.Database) -> None:
    async def begin() -> fastdb.Transaction:
        transaction = await notes.transaction()
        await add(notes, 1)
        return transaction

    transaction = await asyncio.create_task(begin())
    await transaction.commit()
    assert await ids(notes) == [1]
    assert notes.pool.stats().leased == 0


async def test_a_child_that_is_handed_the_connection_nests(notes: fastdb.Database) -> None:
    async def child(connection: fastdb.Connection, number: int) -> None:
        async with connection.transaction():
            await add(connection, number)
            await asyncio.sleep(0)

    async with notes.connection() as connection:
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await asyncio.gather(*(child(connection, number) for number in range(5)))
                assert await ids(connection) == [0, 1, 2, 3, 4]
                raise ZeroDivisionError
    assert await ids(notes) == []


async def test_statements_wait_for_another_tasks_transaction(notes: fastdb.Database) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def child(connection: fastdb.Connection) -> None:
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await add(connection, 1)
                entered.set()
                await leave.wait()
                raise ZeroDivisionError

    async with notes.connection() as connection, connection.transaction():
        task = asyncio.create_task(child(connection))
        await entered.wait()
        insert = asyncio.create_task(connection.execute("INSERT INTO notes (id) VALUES (2)"))
        await asyncio.sleep(0.01)
        assert not insert.done()
        leave.set()
        await insert
        await task
    assert await ids(notes) == [2]


async def test_sibling_transactions_on_one_connection_queue(notes: fastdb.Database) -> None:
    order: list[str] = []

    async def work(connection: fastdb.Connection, name: str) -> None:
        async with connection.transaction():
            order.append(f"{name} in")
            await add(connection, len(order))
            await asyncio.sleep(0.01)
            order.append(f"{name} out")

    async with notes.connection() as connection:
        await asyncio.gather(work(connection, "a"), work(connection, "b"))
    assert order == ["a in", "a out", "b in", "b out"]


async def test_a_wait_for_a_transaction_is_bounded(database_url: str) -> None:
    async with fastdb.Database(database_url, acquire_timeout=0.05) as database:
        release = asyncio.Event()
        started = asyncio.Event()

        async def child(connection: fastdb.Connection) -> None:
            async with connection.transaction():
                started.set()
                await release.wait()

        async with database.connection() as connection:
            task = asyncio.create_task(child(connection), name="the child")
            await started.wait()
            with pytest.raises(fastdb.TransactionError, match="the child"):
                await connection.execute("SELECT 1")
            release.set()
            await task
            assert await connection.fetch_val("SELECT 1") == 1


async def test_a_wait_that_can_never_end_is_told(database_url: str) -> None:
    async with fastdb.Database(database_url, max_size=2) as database:
        a_open, b_open = asyncio.Event(), asyncio.Event()

        async def a(mine: fastdb.Connection, other: fastdb.Connection) -> None:
            async with mine.transaction(readonly=True):
                a_open.set()
                await b_open.wait()
                await other.execute("SELECT 1")

        async def b(other: fastdb.Connection) -> None:
            async with database.connection() as second:
                task = asyncio.create_task(a(other, second))
                async with second.transaction(readonly=True):
                    await a_open.wait()
                    b_open.set()
                    await asyncio.sleep(0.01)
                    with pytest.raises(fastdb.TransactionError, match="wait for ever"):
                        await other.execute("SELECT 1")
                await task

        async with database.connection() as first:
            await asyncio.create_task(b(first))


# -- cancellation and failures


async def test_a_cancelled_block_rolls_back(notes: fastdb.Database) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with notes.transaction():
            await add(notes, 1)
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ids(notes) == []
    stats = notes.pool.stats()
    assert (stats.leased, stats.idle) == (0, stats.size)


async def test_cancelled_anywhere_it_is_whole_or_not_there(notes: fastdb.Database) -> None:
    async def work(number: int) -> None:
        async with notes.transaction():
            await add(notes, number)
            async with notes.transaction():
                await add(notes, number + 1000)

    for number in range(40):
        task = asyncio.create_task(work(number))
        for _ in range(number):
            await asyncio.sleep(0)
        if number % 3 == 0:
            await asyncio.sleep(number / 20_000)
        task.cancel()
        await asyncio.wait([task])
    found = await ids(notes)
    assert {number for number in found if number < 1000} == {
        number - 1000 for number in found if number >= 1000
    }
    stats = notes.pool.stats()
    assert (stats.leased, stats.waiting) == (0, 0)
    assert stats.idle == stats.size


async def test_an_abandoned_transaction_gives_its_connection_back(notes: fastdb.Database) -> None:
    async def forget() -> None:
        await notes.transaction()
        await add(notes, 1)

    await asyncio.create_task(forget())
    import gc

    for _ in range(3):
        gc.collect()
        await asyncio.sleep(0.01)
    assert notes.pool.stats().leased == 0
    assert await ids(notes) == []


async def test_readable_repr(notes: fastdb.Database) -> None:
    async with notes.transaction() as transaction:
        assert "open" in repr(transaction)
    assert "committed" in repr(transaction)
    assert sys.getrefcount(transaction) < 10


async def test_connected_again_after_a_disconnect_inside_a_connection(
    notes: fastdb.Database,
) -> None:
    async with notes.connection():
        await notes.disconnect()
    await notes.connect()
    with pytest.raises(ZeroDivisionError):
        async with notes.transaction():
            await asyncio.wait_for(add(notes.connection(), 1), 5)
            await asyncio.wait_for(notes.execute("INSERT INTO notes (id) VALUES (2)"), 5)
            raise ZeroDivisionError
    assert await ids(notes) == []


async def test_a_forced_rollback_ends_what_still_holds_the_connection(database_url: str) -> None:
    database = fastdb.Database(database_url)
    async with database:
        await database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(100))")
    database.force_rollback = True
    await database.connect()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with database.connection() as connection:
            entered.set()
            await leave.wait()
            with pytest.raises(fastdb.NotConnectedError):
                await add(connection, 1)

    task = asyncio.create_task(work())
    await entered.wait()
    closing = asyncio.create_task(database.disconnect(timeout=0.2))
    await asyncio.sleep(0.05)
    leave.set()
    await asyncio.gather(task, closing)
    database.force_rollback = False
    async with database:
        assert await ids(database) == []


async def test_a_forced_rollback_lets_no_queued_statement_through(database_url: str) -> None:
    database = fastdb.Database(database_url)
    async with database:
        await database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(100))")
    database.force_rollback = True
    await database.connect()
    tasks = [asyncio.create_task(add(database, n)) for n in range(10)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(database.disconnect())
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(add(database, n)) for n in range(10, 20)]
    await asyncio.wait([*tasks, closing])
    await closing
    for task in tasks:
        assert task.exception() is None or isinstance(task.exception(), fastdb.NotConnectedError)
    database.force_rollback = False
    async with database:
        assert await ids(database) == []


async def test_force_rollback_on_another_loop_is_told(database_url: str) -> None:
    errors: list[BaseException] = []
    async with fastdb.Database(database_url, force_rollback=True) as database:

        def elsewhere() -> None:
            try:
                asyncio.run(asyncio.wait_for(database.execute("SELECT 1"), 2))
            except BaseException as error:
                errors.append(error)

        await asyncio.to_thread(elsewhere)
        assert isinstance(errors[0], fastdb.EventLoopError)
        assert await database.fetch_val("SELECT 1") == 1


async def test_disconnect_inside_a_transaction(notes: fastdb.Database) -> None:
    with pytest.raises(fastdb.Error):
        async with notes.transaction():
            await add(notes, 1)
            await notes.disconnect()
    await notes.connect()
    assert await ids(notes) == []


async def test_force_rollback_survives_cancellations(notes: fastdb.Database) -> None:
    sandbox = fastdb.Database(notes.url, force_rollback=True)

    async def work() -> None:
        await add(sandbox, 1)
        async with sandbox.transaction():
            await add(sandbox, 2)

    await sandbox.connect()
    for step in range(40):
        task = asyncio.create_task(work())
        for _ in range(step):
            await asyncio.sleep(0.0001)
        task.cancel()
        await asyncio.wait([task])
        if notes.url.dialect == "mysql":
            # Its connection, with all that was done, may end with the statement: then it is told.
            if not task.cancelled() and isinstance(task.exception(), fastdb.DatabaseError):
                break
            continue
        assert await ids(sandbox) in ([], [1], [1, 2])
        await sandbox.execute("DELETE FROM notes")
    await sandbox.disconnect()
    assert await ids(notes) == []


@pytest.mark.parametrize("depth", [1, 2])
async def test_a_swallowed_error_undoes_only_the_inner_block(
    notes: fastdb.Database, depth: int
) -> None:
    async with notes.transaction():
        await add(notes, 1)
        async with notes.transaction():
            await add(notes, 2)
            try:
                async with notes.transaction():
                    await add(notes, 3)
                    with pytest.raises(fastdb.DatabaseError):
                        await notes.execute("SELECT nosuch FROM nowhere")
            except fastdb.DatabaseError:
                assert notes.url.dialect == "postgresql"
        await add(notes, 4)
    expected = [1, 2, 4] if notes.url.dialect == "postgresql" else [1, 2, 3, 4]
    assert await ids(notes) == expected


@pytest.mark.parametrize("again", [None, 0, 1, 2, 5])
async def test_cancelled_at_any_step_it_is_whole_or_not_there(
    database_url: str, again: int | None
) -> None:
    async with fastdb.Database(database_url, max_size=1, acquire_timeout=5) as database:
        await database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(100))")

        async def work() -> None:
            async with database.transaction():
                await add(database, 1)
                async with database.transaction():
                    await add(database, 2)
                await add(database, 3)

        for step in range(40):
            task = asyncio.create_task(work())
            for _ in range(step):
                await asyncio.sleep(0.0001)
            task.cancel()
            if again is not None:
                for _ in range(again):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait([task])
            assert await ids(database) in ([], [1, 2, 3])
            await database.execute("DELETE FROM notes")
            stats = database.pool.stats()
            assert (stats.leased, stats.idle, stats.size, stats.waiting) == (0, 1, 1, 0)


async def test_a_statement_never_runs_after_its_transaction(notes: fastdb.Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with notes.transaction():
            task = asyncio.create_task(notes.execute("INSERT INTO notes (id) VALUES (1)"))
            raise ZeroDivisionError
    with pytest.raises(fastdb.TransactionError):
        await task
    assert await ids(notes) == []


async def test_cancelled_twice_while_a_child_holds_the_turn(database_url: str) -> None:
    async def child(connection: fastdb.Connection, inside: asyncio.Event) -> None:
        async with connection.transaction():
            await add(connection, 2)
            inside.set()
            await asyncio.sleep(0.005)

    async def work(inside: asyncio.Event, children: list[asyncio.Task[None]]) -> None:
        async with database.connection() as connection, connection.transaction():
            await add(connection, 1)
            children.append(asyncio.create_task(child(connection, inside)))
            await inside.wait()

    async with fastdb.Database(database_url, max_size=1, acquire_timeout=5) as database:
        await database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(100))")
        for steps in range(12):
            inside = asyncio.Event()
            children: list[asyncio.Task[None]] = []
            task = asyncio.create_task(work(inside, children))
            await inside.wait()
            await asyncio.sleep(0.001)
            task.cancel()
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task, *children])
            stats = database.pool.stats()
            assert (stats.leased, stats.idle) == (0, stats.size)
            assert await ids(database) in ([], [1, 2])
            await database.execute("DELETE FROM notes")


async def test_a_child_nests_after_an_inner_one_was_ended_elsewhere(
    notes: fastdb.Database,
) -> None:
    async def child(connection: fastdb.Connection) -> None:
        async with connection.transaction():
            await add(connection, 1)

    async def end(transactions: list[fastdb.Transaction]) -> None:
        await transactions.pop().commit()

    async with notes.connection() as connection, connection.transaction():
        await asyncio.create_task(end([await connection.transaction()]))
        await asyncio.wait_for(child(connection), 5)
    assert await ids(notes) == [1]


async def test_a_decorated_function_that_is_not_async_is_told(notes: fastdb.Database) -> None:
    @notes.transaction()  # type: ignore[arg-type]
    def not_async() -> int:
        return 7

    with pytest.raises(fastdb.OptionError, match=r"not_async.* returned 'int'"):
        await not_async()
    with pytest.raises(fastdb.OptionError, match="decorates async functions"):
        notes.transaction()(7)  # type: ignore[arg-type]
    assert notes.pool.stats().leased == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isolation": 5}, "isolation is 5"),
        ({"begin": 5}, "begin is 5"),
        ({"readonly": "perhaps"}, "readonly is 'perhaps'"),
        ({"deferrable": object}, "deferrable is"),
        ({"force_rollback": "perhaps"}, "force_rollback is 'perhaps'"),
    ],
)
async def test_options_of_wrong_types_are_told(
    notes: fastdb.Database, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(fastdb.OptionError, match=message):
        notes.transaction(**options)
    async with notes.connection() as connection:
        with pytest.raises(fastdb.OptionError, match=message):
            connection.transaction(**options)


async def test_strings_of_the_environment_mean_what_they_say(notes: fastdb.Database) -> None:
    async with notes.transaction(readonly="no", force_rollback="no"):  # type: ignore[arg-type]
        await add(notes, 1)
    assert await ids(notes) == [1]


async def test_a_database_in_memory_outlives_a_block_that_is_left_while_it_is_in_use() -> None:
    slow = (
        "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000000) "
        "SELECT count(*) FROM s"
    )
    async with fastdb.Database("sqlite://") as database:
        await database.execute("CREATE TABLE notes (id integer)")
        leaving = asyncio.Event()

        async def leave() -> None:
            async with database.connection() as connection, database.transaction():
                await connection.execute("INSERT INTO notes VALUES (1)")
                beside.append(asyncio.create_task(connection.fetch_val(slow)))
                await asyncio.sleep(0)
                leaving.set()
                raise LookupError

        beside: list[asyncio.Task[int]] = []
        task = asyncio.create_task(leave())
        await leaving.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await beside[0] == 1_000_000
        assert await database.fetch_val("SELECT count(*) FROM notes") == 0


async def test_on_commit_takes_callables_while_the_transaction_is_open(
    notes: fastdb.Database,
) -> None:
    async with notes.transaction() as transaction:
        with pytest.raises(fastdb.OptionError, match="on_commit takes a callable, not 5"):
            transaction.on_commit(5)  # type: ignore[arg-type]
    with pytest.raises(fastdb.TransactionError, match="already committed"):
        transaction.on_commit(print)


async def test_every_error_of_on_commit_is_told(notes: fastdb.Database) -> None:
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(ExceptionGroup, match="several on_commit callbacks failed") as caught:
        async with notes.transaction() as transaction:
            await add(notes, 1)
            transaction.on_commit(lambda: fail(ZeroDivisionError()))
            transaction.on_commit(lambda: fail(KeyError()))
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError, KeyError]
    assert await ids(notes) == [1]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_rollback_that_fails_hides_no_error_of_the_block(
    database_url: str, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    async with fastdb.Database(database_url, acquire_timeout=0.05) as database:
        await database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(100))")
        started = asyncio.Event()

        async def child(connection: fastdb.Connection) -> None:
            async with connection.transaction():
                started.set()
                await asyncio.Event().wait()

        # The child's transaction does not end, so that the end of the block has no turn.
        with pytest.raises(ZeroDivisionError if fails else fastdb.TransactionError):
            async with (
                database.connection() as connection,
                connection.transaction(force_rollback=True),
            ):
                await add(connection, 1)
                task = asyncio.create_task(child(connection))
                await started.wait()
                if fails:
                    raise ZeroDivisionError
        assert ("could not be rolled back" in caplog.text) is fails
        assert await ids(database) == []
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await ids(database) == []
        assert database.pool.stats().leased == 0


async def test_a_savepoint_that_is_gone_cannot_be_rolled_back_to(notes: fastdb.Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with notes.transaction():
            await add(notes, 1)
            async with notes.transaction():
                await notes.execute("COMMIT")
                raise ZeroDivisionError
    assert await ids(notes) == [1]
    stats = notes.pool.stats()
    assert (stats.leased, stats.idle) == (0, stats.size)


async def test_a_commit_by_hand_can_be_tried_again_after_a_childs_turn(database_url: str) -> None:
    async with fastdb.Database(database_url, acquire_timeout=0.05) as database:
        await database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(100))")
        started, release = asyncio.Event(), asyncio.Event()

        async def child(connection: fastdb.Connection) -> None:
            async with connection.transaction():
                started.set()
                await release.wait()

        async with database.connection() as connection:
            transaction = await connection.transaction()
            await add(connection, 1)
            task = asyncio.create_task(child(connection))
            await started.wait()
            with pytest.raises(fastdb.TransactionError, match="end it"):
                await transaction.commit()
            release.set()
            await task
            await transaction.commit()
        assert await ids(database) == [1]


async def test_who_waits_in_a_chain_is_served_at_last(notes: fastdb.Database) -> None:
    order: list[str] = []
    opened = [asyncio.Event() for _ in range(2)]
    release = asyncio.Event()

    async def first(shared: fastdb.Connection) -> None:
        async with shared.transaction():
            opened[0].set()
            await release.wait()
            order.append("first")

    async def second(shared: fastdb.Connection, other: fastdb.Connection) -> None:
        async with other.transaction(readonly=True):
            opened[1].set()
            await shared.execute("SELECT 1")
            order.append("second")

    async with notes.connection() as shared:
        other = fastdb.Connection(notes)
        tasks = [asyncio.create_task(first(shared))]
        await opened[0].wait()
        tasks.append(asyncio.create_task(second(shared, other)))
        await opened[1].wait()
        third = asyncio.create_task(other.fetch_val("SELECT 1"))
        await asyncio.sleep(0.02)
        assert order == []
        release.set()
        assert await third == 1
        await asyncio.gather(*tasks)
        assert order == ["first", "second"]


async def test_a_statement_of_no_task_waits_for_a_tasks_transaction(
    notes: fastdb.Database,
) -> None:
    loop = asyncio.get_running_loop()
    called: asyncio.Future[Any] = loop.create_future()
    opened, release = asyncio.Event(), asyncio.Event()

    async def child(shared: fastdb.Connection) -> None:
        async with shared.transaction():
            opened.set()
            await release.wait()
            await add(shared, 1)

    async with notes.connection() as shared:
        task = asyncio.create_task(child(shared))
        await opened.wait()
        # The loop calls it, in a context of its own: no task's transaction is the statement's.
        loop.call_soon(lambda: called.set_result(shared.fetch_val("SELECT count(*) FROM notes")))
        counting = asyncio.create_task(await called)
        await asyncio.sleep(0.02)
        assert not counting.done()
        release.set()
        assert await counting == 1
        await task


async def test_a_wait_for_anothers_query_is_bounded(server_url: str) -> None:
    function = "pg_sleep" if server_url.startswith("postgres") else "sleep"
    async with (
        fastdb.Database(server_url, acquire_timeout=0.05) as database,
        database.connection() as connection,
    ):
        sleeping = asyncio.create_task(connection.execute(f"SELECT {function}(60)"))
        await asyncio.sleep(0.02)
        with pytest.raises(fastdb.TransactionError, match=r"busy with another .* for 0\.05 s"):
            await connection.execute("SELECT 1")
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
        assert await connection.fetch_val("SELECT 1") == 1


async def test_a_turn_that_comes_with_a_cancellation_is_passed_on(
    database: fastdb.Database,
) -> None:
    async with database.connection() as connection:
        turns = connection._turns
        assert turns.take_at_once(None)
        first = asyncio.create_task(connection.fetch_val("SELECT 1"))
        second = asyncio.create_task(connection.fetch_val("SELECT 2"))
        await asyncio.sleep(0)
        assert len(turns.queue) == 2
        turns.pass_on()  # it is the first one's now,
        first.cancel()  # who does not want it any more
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == 2
        assert await connection.fetch_val("SELECT 3") == 3


async def test_a_database_in_memory_that_stays_in_use_is_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    endless = (
        "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s) SELECT count(*) FROM s"
    )
    async with fastdb.Database("sqlite://", acquire_timeout=0.05) as database:
        with pytest.raises(LookupError):
            async with database.connection() as connection, database.transaction():
                beside = asyncio.create_task(connection.fetch_val(endless))
                await asyncio.sleep(0.01)
                raise LookupError
        assert "a connection is cut" in caplog.text
        with pytest.raises(fastdb.Error):
            await beside
        assert await database.fetch_val("SELECT 1") == 1


async def test_an_outer_block_takes_along_an_inner_one_that_waits_for_its_turn() -> None:
    slow = (
        "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000000) "
        "SELECT count(*) FROM s"
    )
    async with fastdb.Database("sqlite://") as database:
        await database.execute("CREATE TABLE notes (id integer)")
        connection = database.connection()
        inside = asyncio.Event()
        beside: list[asyncio.Task[int]] = []
        children: list[asyncio.Task[None]] = []

        async def inner() -> None:
            async with connection.transaction():
                await connection.execute("INSERT INTO notes VALUES (2)")
                beside.append(asyncio.create_task(connection.fetch_val(slow)))
                await asyncio.sleep(0)
                inside.set()
                await asyncio.Event().wait()

        async def outer() -> None:
            async with connection, connection.transaction():
                await connection.execute("INSERT INTO notes VALUES (1)")
                children.append(asyncio.create_task(inner()))
                await inside.wait()
                raise LookupError

        leaving = asyncio.create_task(outer())
        await inside.wait()
        for task in (leaving, leaving, children[0], children[0], children[0]):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([leaving, *children])
        assert await beside[0] == 1_000_000
        assert await database.fetch_val("SELECT count(*) FROM notes") == 0
        assert database.pool.stats().leased == 0
        async with connection:
            assert connection.raw_connection is not None
            assert database.pool.stats().leased == 1
        assert database.pool.stats().leased == 0
        assert not connection.is_held
