"""Shared sandboxes: one connection for every task, thread and event loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

import fastdb
from fastdb.testing import OwnershipError, Sandbox, shut_down
from tests.testing.people import INSERT, NAMES, add, names


def elsewhere(run: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine on an event loop in another thread, and block until its end."""
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(asyncio.run(run()))
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def host_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "fastdb-sandbox"]


async def host_threads_are_gone() -> bool:
    for _ in range(200):
        if not host_threads():
            return True
        await asyncio.sleep(0.05)
    return False


@pytest.fixture(autouse=True)
async def no_host_is_left() -> AsyncIterator[None]:
    yield
    gc.collect()
    assert await host_threads_are_gone()


@pytest.fixture
def prepared_url(database_url: str) -> str:
    """Return the URL of a database with the table, which nobody is connected to."""
    dialect = fastdb.DatabaseURL(database_url).dialect
    key = {
        "sqlite": "INTEGER PRIMARY KEY",
        "mysql": "integer PRIMARY KEY AUTO_INCREMENT",
        "postgresql": "serial PRIMARY KEY",
    }[dialect]

    async def prepare() -> None:
        async with fastdb.Database(database_url) as database:
            await database.execute(
                f"CREATE TABLE people (id {key}, name varchar(50) NOT NULL UNIQUE)"
            )
            await database.execute(INSERT, {"name": "Ada"})

    elsewhere(prepare)
    return database_url


def application(database: fastdb.Database) -> Starlette:
    """Return an application that connects in its lifespan and commits in its routes."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await database.connect()
        yield
        await database.disconnect()

    async def create(request: Request) -> JSONResponse:
        async with database.transaction():
            await add(database, request.path_params["name"])
        return JSONResponse(await names(database))

    async def fail(request: Request) -> JSONResponse:
        async with database.transaction():
            await add(database, "nobody")
            raise ZeroDivisionError

    routes = [Route("/add/{name}", create, methods=["POST"]), Route("/fail", fail)]
    return Starlette(routes=routes, lifespan=lifespan)


# -- whom it serves


async def test_a_client_that_blocks_the_tests_loop(people: fastdb.Database) -> None:
    async with Sandbox(people, shared=True):
        await add(people, "Bob")
        with TestClient(application(people)) as client:
            assert client.post("/add/Cleo").json() == ["Ada", "Bob", "Cleo"]
            with pytest.raises(ZeroDivisionError):
                client.get("/fail")
        assert people.is_connected
        assert await names(people) == ["Ada", "Bob", "Cleo"]


def test_a_test_that_is_not_async(prepared_url: str) -> None:
    database = fastdb.Database(prepared_url)
    for _ in range(2):
        with Sandbox(database, shared=True) as sandbox, TestClient(application(database)) as client:
            assert sandbox.is_open
            assert client.post("/add/Bob").json() == ["Ada", "Bob"]
        assert not database.is_connected
        assert not host_threads()


async def test_many_threads_at_once(people: fastdb.Database) -> None:
    async def work(number: int) -> None:
        for step in range(5):
            async with people.transaction():
                await add(people, f"{number}.{step}")
                async with people.transaction(force_rollback=True):
                    await add(people, f"never {number}")
            await asyncio.sleep(0)

    async with Sandbox(people, shared=True):
        threads = [asyncio.to_thread(elsewhere, partial(work, number)) for number in range(6)]
        await asyncio.gather(*threads, *(work(number) for number in range(6, 10)))
        assert len(await names(people)) == 1 + 10 * 5


async def test_queries_are_those_of_any_connection(people: fastdb.Database) -> None:
    async def use() -> None:
        rows = ({"name": f"n{number:04}"} for number in range(1200))
        await people.execute_many(INSERT, rows)
        assert await people.fetch_val("SELECT count(*) FROM people") == 1201
        seen = [record.name async for record in people.iterate(NAMES, batch_size=500)]
        assert seen == ["Ada", *(f"n{number:04}" for number in range(1200))]
        async for record in people.iterate(NAMES, batch_size=600):
            assert record.name == "Ada"
            await people.execute("UPDATE people SET name = 'Eve' WHERE name = 'Ada'")
            break
        result = await people.execute_result("DELETE FROM people WHERE name <> 'Eve'")
        assert result.rowcount == 1200
        async with people.connection() as connection, people.connection() as again:
            assert connection is again
            assert await connection.fetch_all(NAMES) == [("Eve",)]
        assert await people.run_sync(lambda c: c.exec_driver_sql(NAMES).scalars().all()) == ["Eve"]

    async with Sandbox(people, shared=True):
        await asyncio.to_thread(elsewhere, use)
        await people.execute("UPDATE people SET name = 'Ada'")
        await people.execute("DELETE FROM people WHERE name <> 'Ada'")
        await use()


async def test_rows_are_made_in_the_callers_thread(people: fastdb.Database) -> None:
    threads = []

    def rows() -> Iterator[dict[str, str]]:
        threads.append(threading.current_thread())
        yield {"name": "Bob"}

    async with Sandbox(people, shared=True):
        await people.execute_many(INSERT, rows())
    assert threads == [threading.current_thread()]


async def test_context_variables_are_the_callers(people: fastdb.Database) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")

    def read(connection: Any) -> str:
        return tenant.get()

    async with Sandbox(people, shared=True):
        tenant.set("a")
        assert await people.run_sync(read) == "a"


async def test_callbacks_run_in_the_callers_thread(people: fastdb.Database) -> None:
    calls: list[Any] = []

    async def callback() -> None:
        calls.append((threading.current_thread(), asyncio.get_running_loop()))

    async def use() -> tuple[Any, Any]:
        async with people.transaction() as transaction:
            transaction.on_commit(callback)
            await add(people, "Bob")
        return threading.current_thread(), asyncio.get_running_loop()

    async with Sandbox(people, shared=True) as sandbox:
        mine = await use()
        await people.execute("DELETE FROM people WHERE name = 'Bob'")
        theirs = await asyncio.to_thread(elsewhere, use)
        assert calls == [mine, theirs]
        assert sandbox.on_commit_calls == [callback, callback]


async def test_the_drivers_own_connection(people: fastdb.Database) -> None:
    async def use() -> None:
        async with people.connection() as connection:
            raw = connection.raw_connection
            match people.url.dialect:
                case "postgresql":
                    assert await raw.fetchval("SELECT count(*) FROM people") == 1
                    async with raw.transaction():
                        await raw.copy_records_to_table(
                            "people", records=[("Bob",)], columns=["name"]
                        )
                        cursor = raw.cursor(NAMES)
                        assert [record["name"] async for record in cursor] == ["Ada", "Bob"]
                    statement = await raw.prepare(NAMES)
                    assert len(await statement.fetch()) == 2
                    assert raw.is_in_transaction()
                case "mysql":
                    async with raw.cursor() as cursor:
                        await cursor.execute("INSERT INTO people (name) VALUES ('Bob')")
                        assert cursor.rowcount == 1
                        await cursor.execute(NAMES)
                        assert [row[0] async for row in cursor] == ["Ada", "Bob"]
                case "sqlite":
                    async with raw.execute("INSERT INTO people (name) VALUES ('Bob')") as cursor:
                        assert cursor.rowcount == 1
                    await raw.commit()
                    async with raw.execute(NAMES) as cursor:
                        assert [row[0] async for row in cursor] == ["Ada", "Bob"]
        assert await names(people) == ["Ada", "Bob"]

    async with Sandbox(people, shared=True):
        await use()
    async with Sandbox(people, shared=True):
        await asyncio.to_thread(elsewhere, use)


# -- transactions of several loops


async def test_another_loops_transaction_is_waited_for(people: fastdb.Database) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    async def hold() -> None:
        async with people.transaction():
            await add(people, "Bob")
            begun.set()
            await asyncio.to_thread(goes_on.wait)

    async with Sandbox(people, shared=True):
        thread = asyncio.create_task(asyncio.to_thread(elsewhere, hold))
        await asyncio.to_thread(begun.wait)
        adding = asyncio.create_task(add(people, "Cleo"))
        await asyncio.sleep(0.1)
        assert not adding.done()
        goes_on.set()
        await asyncio.gather(thread, adding)
        assert await names(people) == ["Ada", "Bob", "Cleo"]


async def test_a_transaction_whose_task_has_ended_is_not_waited_for(
    people: fastdb.Database,
) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    async def leave_open() -> None:
        await people.transaction()
        await add(people, "Bob")
        begun.set()
        await asyncio.to_thread(goes_on.wait)

    async with Sandbox(people, shared=True):
        thread = asyncio.create_task(asyncio.to_thread(elsewhere, leave_open))
        await asyncio.to_thread(begun.wait)
        adding = asyncio.create_task(add(people, "Cleo"))
        await asyncio.sleep(0.1)
        assert not adding.done()
        goes_on.set()
        await asyncio.gather(thread, adding)
        await add(people, "Dan")


async def test_a_wait_for_another_loop_is_bounded(prepared_url: str) -> None:
    database = fastdb.Database(prepared_url, acquire_timeout=0.2)
    begun, goes_on = threading.Event(), threading.Event()

    async def hold() -> None:
        async with database.transaction():
            begun.set()
            await asyncio.to_thread(goes_on.wait)

    async with Sandbox(database, shared=True):
        thread = asyncio.create_task(asyncio.to_thread(elsewhere, hold))
        await asyncio.to_thread(begun.wait)
        with pytest.raises(fastdb.TransactionError, match="waited"):
            await database.fetch_all(NAMES)
        goes_on.set()
        await thread
        assert await names(database) == ["Ada"]


# -- faults


async def check_that_a_cancelled_statement_ends_it(database: fastdb.Database) -> None:
    """Check what holds where a cancelled statement takes its connection along."""
    with pytest.raises(OwnershipError, match="was ended before"):
        async with Sandbox(database, shared=True):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await database.execute("SELECT sleep(30)")
            with pytest.raises(OwnershipError, match="has ended"):
                await names(database)


async def test_a_cancelled_caller_waits_for_its_end(people: fastdb.Database) -> None:
    """Whenever the cancellation comes, the connection and the transactions stay in order."""
    if people.url.driver == "asyncmy":
        await check_that_a_cancelled_statement_ends_it(people)
        return
    chance = random.Random(11)

    async def work(number: int) -> None:
        async with people.transaction():
            await add(people, f"n{number}")
            async with people.transaction():
                await add(people, f"m{number}")
        # On MySQL, an iteration that is cancelled as it begins takes the connection along.
        if people.url.dialect != "mysql":
            async with aclosing(people.iterate(NAMES, batch_size=2)) as records:
                async for _ in records:
                    await people.fetch_val("SELECT 1")
        async with people.connection():
            await people.execute_many(INSERT, [{"name": f"o{number}"}, {"name": f"p{number}"}])

    async with Sandbox(people, shared=True):
        for number in range(60):
            task = asyncio.create_task(work(number))
            await asyncio.sleep(chance.random() * 0.01)
            task.cancel()
            if chance.random() < 0.3:
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait((task,))
            connection = people.connection()
            assert not connection.in_transaction
            assert not connection._turns.busy
            here = set(await names(people))
            assert (f"n{number}" in here) == (f"m{number}" in here)
            assert (f"o{number}" in here) == (f"p{number}" in here)
        holds = 0 if people.url.dialect == "sqlite" else 1  # that of the base
        assert people.connection()._lease.holds == holds


async def test_timeouts_hold_from_both_sides(people: fastdb.Database) -> None:
    if people.url.driver == "asyncmy":
        await check_that_a_cancelled_statement_ends_it(people)
        return
    slow = {
        "postgresql": "SELECT pg_sleep(30)",
        "mysql": "SELECT sleep(30)",
        "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT max(i) FROM n",
    }[people.url.dialect]
    async with Sandbox(people, shared=True):
        await add(people, "Bob")
        with pytest.raises(fastdb.QueryTimeoutError):
            await people.execute(slow, timeout=0.1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await people.execute(slow)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(people.execute(slow), 0.1)
        assert await names(people) == ["Ada", "Bob"]


async def test_a_caller_whose_loop_is_closed_meanwhile(people: fastdb.Database) -> None:
    def abandon() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(add(people, "Bob"))
        loop.call_later(0.0, loop.stop)
        loop.run_forever()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()

    async with Sandbox(people, shared=True):
        await asyncio.to_thread(abandon)
        gc.collect()
        await add(people, "Cleo")
        assert "Cleo" in await names(people)


async def test_a_fork_is_refused(people: fastdb.Database) -> None:
    async with Sandbox(people, shared=True):
        reader, writer = os.pipe()
        process = os.fork()
        if not process:
            message = b"no error"
            try:
                run = names(people)
                with pytest.raises(OwnershipError):
                    run.send(None)
            except BaseException as error:
                message = repr(error).encode()
            else:
                message = b"refused"
            finally:
                os.write(writer, message)
                os._exit(0)
        assert (await asyncio.to_thread(os.waitpid, process, 0))[1] == 0
        assert os.read(reader, 1000) == b"refused"
        os.close(reader)
        os.close(writer)
        assert await names(people) == ["Ada"]


# -- whose sandbox it is


async def test_after_its_end_strangers_are_told(prepared_url: str) -> None:
    database = fastdb.Database(prepared_url)
    async with Sandbox(database, shared=True) as sandbox:
        pass

    async def use() -> None:
        await names(database)

    with pytest.raises(OwnershipError) as caught:
        elsewhere(use)
    assert sandbox.name in str(caught.value)
    async with database:
        assert await names(database) == ["Ada"]


async def test_two_at_once_serve_only_those_who_are_in_one(people: fastdb.Database) -> None:
    first_open, second_open, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with Sandbox(people, shared=True) as sandbox:
            await add(people, "Bob")
            first_open.set()
            await second_open.wait()
            assert await names(people) == ["Ada", "Bob"]

            async def use() -> list[str]:
                return await names(people)

            with pytest.raises(OwnershipError, match="several shared sandboxes are open"):
                await asyncio.get_running_loop().create_task(use(), context=contextvars.Context())
            lent = asyncio.get_running_loop().create_task(use(), context=contextvars.Context())
            sandbox.allow(lent)
            assert await lent == ["Ada", "Bob"]
            done.set()

    async def second() -> None:
        await first_open.wait()
        async with Sandbox(people, shared=True):
            second_open.set()
            assert await names(people) == ["Ada"]
            await add(people, "Cleo")
            await done.wait()

    await asyncio.gather(first(), second())


async def test_it_is_lent_to_a_task_of_another_loop(people: fastdb.Database) -> None:
    async with Sandbox(people, shared=True) as sandbox:
        tasks: list[asyncio.Task[list[str]]] = []
        started, lent = threading.Event(), threading.Event()

        async def use() -> list[str]:
            await asyncio.to_thread(lent.wait)
            return await names(people)

        async def other() -> list[str]:
            tasks.append(asyncio.create_task(use()))
            started.set()
            return await tasks[0]

        thread = asyncio.create_task(asyncio.to_thread(elsewhere, other))
        await asyncio.to_thread(started.wait)
        sandbox.allow(tasks[0])
        lent.set()
        await add(people, "Bob")
        assert (await thread)[0] == "Ada"


async def test_unboxed_in_another_loop(people: fastdb.Database) -> None:
    real = fastdb.Database(people.url)

    async def use() -> list[str]:
        with sandbox.unboxed():
            async with real:
                outside = await names(real)
            assert not real.is_connected
        return outside

    async with Sandbox(real, shared=True) as sandbox:
        await add(real, "Bob")
        await real.disconnect()  # the sandbox's, which stays
        assert real.is_connected

    sandbox = Sandbox(real, shared=True)
    sandbox.open()
    try:
        assert await asyncio.to_thread(elsewhere, lambda: add(real, "Cleo")) is None
        assert await asyncio.to_thread(elsewhere, use) == ["Ada"]
        assert await asyncio.to_thread(elsewhere, lambda: names(real)) == ["Ada", "Cleo"]
    finally:
        sandbox.close()
        shut_down(real)


# -- its life


def test_what_serves_it_is_kept_for_the_next(prepared_url: str) -> None:
    database = fastdb.Database(prepared_url)
    seen = set()
    for number in range(3):
        sandbox = Sandbox(database, shared=True).open(name=f"test {number}")
        assert repr(sandbox) == f"<Sandbox of test {number} shared open>"
        elsewhere(lambda: add(database, "Bob"))
        assert elsewhere(lambda: names(database)) == ["Ada", "Bob"]
        seen.add(host_threads()[0])
        with pytest.raises(fastdb.TransactionError, match="cannot shut down"):
            shut_down(database)
        sandbox.close()
        with pytest.raises(fastdb.TransactionError, match="is not open"):
            sandbox.close()
        with pytest.raises(OwnershipError, match=f"the sandbox of test {number} has ended"):
            elsewhere(lambda: names(database))
    assert len(seen) == 1
    shut_down(database)
    assert not host_threads()
    shut_down(database)


async def test_it_lives_as_long_as_the_database_is_connected(people: fastdb.Database) -> None:
    seen = set()
    for _ in range(2):
        async with Sandbox(people, shared=True):
            seen.add(host_threads()[0])
    assert len(seen) == 1
    await people.disconnect()
    assert await host_threads_are_gone()
    await people.connect()


def test_a_database_that_is_gone_takes_it_along(prepared_url: str) -> None:
    def use() -> None:
        database = fastdb.Database(prepared_url)
        Sandbox(database, shared=True).open().close()

    use()
    gc.collect()
    deadline = time.monotonic() + 30
    while host_threads() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not host_threads()


def test_a_server_that_is_not_there(prepared_url: str) -> None:
    url = fastdb.DatabaseURL(prepared_url)
    wrong = "sqlite:////nowhere/at/all.db" if url.dialect == "sqlite" else url.replace(port=9)
    database = fastdb.Database(wrong)
    sandbox = Sandbox(database, shared=True)
    with pytest.raises(fastdb.Error), sandbox:
        raise AssertionError("it was opened")
    assert not sandbox.is_open
    assert not host_threads()
    with pytest.raises(fastdb.NotConnectedError):
        elsewhere(lambda: names(database))


async def test_an_opening_that_is_cancelled_leaves_nothing(people: fastdb.Database) -> None:
    chance = random.Random(5)
    for _ in range(25):

        async def use() -> None:
            async with Sandbox(people, shared=True):
                await add(people, "Bob")

        task = asyncio.create_task(use())
        await asyncio.sleep(chance.random() * 0.02)
        task.cancel()
        await asyncio.wait((task,))
        assert await names(people) == ["Ada"]
    async with Sandbox(people, shared=True):
        pool = people._choice.pool() if people._choice is not None else None
        assert people.url.dialect == "sqlite" or pool is None or pool.stats().size <= 2


async def test_a_database_in_memory(tmp_path: object) -> None:
    async with fastdb.Database("sqlite://") as database:
        await database.execute("CREATE TABLE people (id INTEGER PRIMARY KEY, name text)")
        async with Sandbox(database, shared=True) as sandbox:
            await add(database, "Bob")
            assert await asyncio.to_thread(elsewhere, lambda: names(database)) == ["Bob"]
            with sandbox.unboxed():
                assert await names(database) == []
        with pytest.raises(fastdb.OptionError, match="async with"):
            Sandbox(database, shared=True).open()
        assert await names(database) == []


async def test_a_connection_that_is_lost_ends_it(server_url: str) -> None:
    async with fastdb.Database(server_url) as database:
        is_postgresql = database.url.dialect == "postgresql"
        own = "SELECT pg_backend_pid()" if is_postgresql else "SELECT connection_id()"
        kill = "SELECT pg_terminate_backend({})" if is_postgresql else "KILL {}"
        with pytest.raises(OwnershipError, match="was ended before"):
            async with Sandbox(database, shared=True) as sandbox:
                number = await database.fetch_val(own)
                with sandbox.unboxed():
                    await database.execute(kill.format(number))
                await asyncio.sleep(0.2)
                with pytest.raises(fastdb.Error):
                    await database.fetch_val("SELECT 1")
        async with Sandbox(database, shared=True):
            assert await database.fetch_val("SELECT 1") == 1
