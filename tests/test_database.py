from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest
import sqlalchemy

import fastdb
from fastdb import core, interfaces


async def test_life_is_idempotent(database_url: str) -> None:
    database = fastdb.Database(database_url)
    assert not database.is_connected
    await database.disconnect()
    await database.connect()
    await database.connect()
    assert database.is_connected
    assert await database.fetch_val("SELECT 1") == 1
    await database.disconnect()
    await database.disconnect()
    assert not database.is_connected


async def test_connects_again(database_url: str) -> None:
    database = fastdb.Database(database_url)
    for number in range(3):
        async with database:
            assert await database.fetch_val("SELECT :n + 0", {"n": number}) == number


async def test_concurrent_connect_makes_one_pool(database_url: str) -> None:
    database = fastdb.Database(database_url)
    await asyncio.gather(*(database.connect() for _ in range(5)))
    pool = database.pool
    assert pool.stats().opened == 1
    await asyncio.gather(*(database.disconnect() for _ in range(5)))
    assert not database.is_connected


async def test_use_before_connect_is_told(database_url: str) -> None:
    database = fastdb.Database(database_url)
    uses: list[Any] = [
        lambda: database.execute("SELECT 1"),
        lambda: database.fetch_all("SELECT 1"),
        lambda: database.fetch_one("SELECT 1"),
        lambda: database.fetch_val("SELECT 1"),
        lambda: database.execute_many("SELECT 1", [{}]),
        lambda: anext(database.iterate("SELECT 1")),
        lambda: database.transaction().start(),
        lambda: database.connection().__aenter__(),
    ]
    for use in uses:
        with pytest.raises(fastdb.NotConnectedError, match="connect"):
            await use()
    await database.connect()
    await database.disconnect()
    for use in uses:
        with pytest.raises(fastdb.NotConnectedError, match="connect"):
            await use()


async def test_urls_of_every_type(database_url: str) -> None:
    for url in (database_url, fastdb.DatabaseURL(database_url)):
        database = fastdb.Database(url)
        assert str(database.url) == database_url
    async with fastdb.Database(sqlalchemy.make_url(database_url)) as database:
        assert await database.fetch_val("SELECT 1") == 1


def test_options_are_kept(database_url: str) -> None:
    database = fastdb.Database(database_url, min_size=1, max_size=3)
    assert database.options == {"min_size": 1, "max_size": 3}


def test_repr_masks_the_password() -> None:
    database = fastdb.Database("postgresql://user:secret@localhost/db")
    assert "secret" not in repr(database)
    assert "********" in repr(database)


def test_unknown_option_is_refused_by_name(database_url: str) -> None:
    with pytest.raises(fastdb.OptionError, match=r"'shoe_size'.*max_size"):
        fastdb.Database(database_url, shoe_size=43)
    joint = "&" if "?" in database_url else "?"
    with pytest.raises(fastdb.OptionError, match="'shoe_size'"):
        fastdb.Database(f"{database_url}{joint}shoe_size=43")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuch://localhost/db", "'nosuch'.*'postgresql'"),
        ("postgresql+aiopg://localhost/db", "'postgresql\\+aiopg'.*'postgresql\\+asyncpg'"),
        ("postgresql+psycopg://localhost/db", "asyncpg"),
        ("mysql+pymysql://localhost/db", "aiomysql"),
    ],
)
def test_unknown_scheme_names_the_one_that_serves(url: str, message: str) -> None:
    with pytest.raises(fastdb.OptionError, match=message):
        fastdb.Database(url)


@pytest.mark.parametrize("url", [None, 7, "", "no url at all", b"sqlite://"])
def test_what_is_no_url_is_refused(url: Any) -> None:
    with pytest.raises(fastdb.InvalidURLError):
        fastdb.Database(url)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_size": -1}, "min_size is -1"),
        ({"max_size": 0}, "max_size is 0"),
        ({"min_size": 5, "max_size": 2}, "min_size is 5"),
        ({"max_size": "many"}, "max_size is 'many'"),
        ({"reset": "sometimes"}, "reset is 'sometimes'"),
        ({"acquire_timeout": "soon"}, "acquire_timeout is 'soon'"),
        ({"maxsize": 3, "max_size": 3}, "mean the same"),
        ({"max_overflow": 3}, "max_overflow needs pool_size"),
        ({"log_values": "perhaps"}, "log_values is 'perhaps'"),
        ({"query_cache_size": -1}, "query_cache_size is -1; it must not be negative"),
        ({"command_timeout": -1}, "command_timeout is -1; it must be 0 or more seconds"),
        ({"max_size": 2.5}, "max_size is 2.5; it must be a whole number"),
        ({"reset": 5}, "reset is 5; it must be a string"),
        ({"setup": 3}, "setup is 3"),
    ],
)
def test_bad_values_of_options_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(fastdb.OptionError, match=message):
        fastdb.Database("sqlite://", **options)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, (1, 10)),
        ({"minsize": 2, "maxsize": 4}, (2, 4)),
        ({"pool_size": 5, "max_overflow": 3}, (1, 8)),
        ({"pool_size": 5}, (1, 5)),
        ({"min_size": 20}, (20, 20)),
        ({"min_size": "2", "max_size": "3"}, (2, 3)),
    ],
)
def test_sizes_and_their_aliases(options: dict[str, Any], sizes: tuple[int, int]) -> None:
    settings = fastdb.Database("sqlite://", **options).settings
    assert (settings.min_size, settings.max_size) == sizes
    query = "&".join(f"{name}={value}" for name, value in options.items())
    settings = fastdb.Database(f"sqlite://?{query}").settings
    assert (settings.min_size, settings.max_size) == sizes


def test_other_aliases_and_precedence() -> None:
    settings = fastdb.Database(
        "sqlite://?pool_recycle=7&max_size=3", max_inactive_connection_lifetime=9.0, max_size=4
    ).settings
    assert settings.max_lifetime == 7
    assert settings.idle_timeout == 9
    assert settings.max_size == 4


@pytest.mark.parametrize(
    ("query", "options", "name", "value"),
    [
        ("acquire_timeout=none", {}, "acquire_timeout", None),
        ("command_timeout=", {}, "command_timeout", None),
        ("max_lifetime=-1", {}, "max_lifetime", None),
        ("idle_timeout=0", {}, "idle_timeout", None),
        ("max_queries=5", {"max_queries": None}, "max_queries", None),
        ("echo=on", {}, "echo", True),
        ("echo=off", {}, "echo", False),
        ("reset=Always", {}, "reset", "always"),
    ],
)
def test_values_of_options_that_have_several_spellings(
    query: str, options: dict[str, Any], name: str, value: object
) -> None:
    settings = fastdb.Database(f"sqlite://?{query}", **options).settings
    assert getattr(settings, name) == value


async def test_names_where_users_of_the_predecessor_look(database_url: str) -> None:
    assert core.Database is fastdb.Database
    assert core.DatabaseURL is fastdb.DatabaseURL
    assert core.Connection is fastdb.Connection
    assert core.Transaction is fastdb.Transaction
    assert interfaces.Record is fastdb.Record
    assert fastdb.core is core
    assert fastdb.interfaces is interfaces


async def test_another_event_loop_is_told(database: fastdb.Database) -> None:
    errors: list[BaseException] = []

    async def use() -> None:
        for call in (
            lambda: database.execute("SELECT 1"),
            lambda: database.connection().__aenter__(),
            lambda: database.connect(),
            lambda: database.disconnect(),
        ):
            try:
                await call()
            except BaseException as error:
                errors.append(error)

    thread = threading.Thread(target=lambda: asyncio.run(use()))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert [type(error) for error in errors] == [fastdb.EventLoopError] * 4
    assert "another event loop" in str(errors[0])
    assert await database.fetch_val("SELECT 1") == 1


def test_a_database_outlives_its_event_loop(database_url: str) -> None:
    database = fastdb.Database(database_url)

    async def use(disconnect: bool) -> Any:
        await database.connect()
        value = await database.fetch_val("SELECT 1")
        if disconnect:
            await database.disconnect()
        return value

    assert asyncio.run(use(disconnect=True)) == 1
    assert asyncio.run(use(disconnect=True)) == 1


@pytest.mark.parametrize("disconnects", [False, True])
def test_a_loop_that_ended_without_disconnect_is_left_behind(
    sqlite_url: str, disconnects: bool
) -> None:
    database = fastdb.Database(sqlite_url)

    async def first() -> None:
        await database.connect()
        await database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY)")

    async def second() -> Any:
        if disconnects:
            await database.disconnect()
            assert not database.is_connected
        async with database:
            return await database.fetch_val("SELECT count(*) FROM notes")

    asyncio.run(first())
    assert asyncio.run(second()) == 0


async def test_a_query_called_outside_of_a_task_has_a_connection_of_its_own(
    database: fastdb.Database,
) -> None:
    called: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    async with database.transaction():
        # The loop calls it: there is no task whose transaction it could belong to.
        asyncio.get_running_loop().call_soon(
            lambda: called.set_result(database.fetch_val("SELECT 1"))
        )
        query = await called
        leased = database.pool.stats().leased
        assert await query == 1
        assert leased == 1
        assert database.pool.stats().opened == 2


def test_calls_outside_of_a_running_loop(database_url: str) -> None:
    loop = asyncio.new_event_loop()
    try:
        database = fastdb.Database(database_url)
        loop.run_until_complete(database.connect())
        assert loop.run_until_complete(database.fetch_val("SELECT 1")) == 1
        loop.run_until_complete(database.disconnect())
    finally:
        loop.close()


async def test_log(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="fastdb"):
        async with fastdb.Database(database_url) as database:
            await database.fetch_val("SELECT :n + 0", {"n": 4711})
    messages = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert messages[0][0] == "INFO"
    assert messages[0][1].startswith("connected to ")
    assert messages[-1][1].startswith("disconnected from ")
    assert ("DEBUG", "SELECT :n + 0") in messages
    assert not any("4711" in message for _, message in messages)


async def test_log_values_and_echo(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fastdb"):
        async with fastdb.Database(database_url, log_values=True, echo=True) as database:
            await database.fetch_val("SELECT :n + 0", {"n": 4711})
    assert any("4711" in record.getMessage() for record in caplog.records)


async def test_query_cache_size(database_url: str) -> None:
    async with fastdb.Database(database_url, query_cache_size=4) as database:
        for number in range(20):
            assert await database.fetch_val(f"SELECT {number}") == number
        info = database.query_cache.info()
        assert info.maxsize == 4
        assert info.currsize <= 4
        assert info.evictions >= 16


# -- force_rollback


async def table(database: fastdb.Database) -> None:
    await database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY)")


async def test_force_rollback_leaves_nothing(database_url: str) -> None:
    async with fastdb.Database(database_url) as database:
        await table(database)
    database = fastdb.Database(database_url, force_rollback=True)
    for _ in range(2):
        async with database:
            await database.execute("INSERT INTO notes (id) VALUES (1)")
            async with database.transaction():
                await database.execute("INSERT INTO notes (id) VALUES (2)")
            transaction = await database.transaction()
            await database.execute("INSERT INTO notes (id) VALUES (3)")
            await transaction.commit()
            assert len(await database.fetch_all("SELECT * FROM notes")) == 3
    async with fastdb.Database(database_url) as database:
        assert await database.fetch_all("SELECT * FROM notes") == []


async def test_force_rollback_as_a_block_and_as_a_setting(database_url: str) -> None:
    database = fastdb.Database(database_url)
    async with database:
        await table(database)
    assert not database.force_rollback
    assert database.force_rollback == False  # noqa: E712
    with database.force_rollback():
        assert database.force_rollback
        async with database:
            await database.execute("INSERT INTO notes (id) VALUES (1)")
    assert not database.force_rollback
    database.force_rollback = True
    async with database:
        await database.execute("INSERT INTO notes (id) VALUES (1)")
    database.force_rollback = False
    async with database:
        assert await database.fetch_all("SELECT * FROM notes") == []


async def test_force_rollback_spans_tasks(database_url: str) -> None:
    async with fastdb.Database(database_url) as database:
        await table(database)
    async with fastdb.Database(database_url, force_rollback=True) as database:

        async def work(number: int) -> None:
            async with database.transaction():
                await database.execute("INSERT INTO notes (id) VALUES (:id)", {"id": number})
                await asyncio.sleep(0)
                assert (
                    await database.fetch_val("SELECT id FROM notes WHERE id = :id", {"id": number})
                    == number
                )

        await asyncio.gather(*(work(number) for number in range(10)))
        assert len(await database.fetch_all("SELECT * FROM notes")) == 10
        assert database.pool.stats().size == 1
    async with fastdb.Database(database_url) as database:
        assert await database.fetch_all("SELECT * FROM notes") == []


async def test_errors_do_not_poison_force_rollback(database_url: str) -> None:
    async with fastdb.Database(database_url) as database:
        await table(database)
    async with fastdb.Database(database_url, force_rollback=True) as database:
        await database.execute("INSERT INTO notes (id) VALUES (1)")
        with pytest.raises(fastdb.IntegrityError):
            await database.execute("INSERT INTO notes (id) VALUES (1)")
        with pytest.raises(fastdb.DatabaseError):
            await database.execute("SELECT * FROM nosuch")
        with pytest.raises(fastdb.DatabaseError):
            async for _ in database.iterate("SELECT * FROM nosuch"):
                pass
        with pytest.raises(fastdb.IntegrityError):
            await database.execute_many("INSERT INTO notes (id) VALUES (:id)", [{"id": 1}])
        assert [row.id for row in await database.fetch_all("SELECT * FROM notes")] == [1]
    async with fastdb.Database(database_url) as database:
        assert await database.fetch_all("SELECT * FROM notes") == []


async def test_force_rollback_disconnects_in_another_task(database_url: str) -> None:
    async with fastdb.Database(database_url) as database:
        await table(database)
    database = fastdb.Database(database_url, force_rollback=True)
    await asyncio.create_task(database.connect())
    await asyncio.create_task(database.execute("INSERT INTO notes (id) VALUES (1)"))
    unfinished = await asyncio.create_task(database.transaction().start())
    await database.execute("INSERT INTO notes (id) VALUES (2)")
    assert unfinished.is_open
    await asyncio.create_task(database.disconnect())
    assert unfinished.state == "rolled back"
    async with fastdb.Database(database_url) as database:
        assert await database.fetch_all("SELECT * FROM notes") == []


async def test_queries_that_come_while_a_forced_rollback_connects(database_url: str) -> None:
    database = fastdb.Database(database_url, force_rollback=True, acquire_timeout=5)
    stay = asyncio.Event()

    async def connect_and_stay() -> None:
        await database.connect()
        await stay.wait()

    connecting = asyncio.create_task(connect_and_stay())
    while not database.is_connected:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert await database.fetch_val("SELECT 1") == 1
    stay.set()
    await connecting
    await database.disconnect()


async def test_force_rollback_that_cannot_begin_leaves_nothing_connected(database_url: str) -> None:
    async def setup(raw: Any) -> None:
        raise ZeroDivisionError

    database = fastdb.Database(database_url, force_rollback=True, setup=setup)
    with pytest.raises(ZeroDivisionError):
        await database.connect()
    assert not database.is_connected
    assert repr(database.force_rollback) == "True"


async def test_a_forced_rollback_is_not_waited_for_beyond_the_bound(
    server_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = fastdb.Database(server_url, force_rollback=True)
    await database.connect()
    await database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY)")
    function = "pg_sleep" if server_url.startswith("postgres") else "sleep"
    sleeping = asyncio.create_task(database.execute(f"SELECT {function}(60)"))
    await asyncio.sleep(0.05)
    await database.disconnect(timeout=0.05)
    assert "the forced rollback took longer than 0.05 s" in caplog.text
    with pytest.raises(fastdb.Error):
        await sleeping
    assert not database.is_connected


async def test_a_forced_rollback_without_a_bound(database_url: str) -> None:
    database = fastdb.Database(database_url, force_rollback=True)
    await database.connect()
    await database.execute("SELECT 1")
    await database.disconnect(timeout=None)
    assert not database.is_connected


async def test_statements_that_end_the_forced_transaction_are_told(postgresql_url: str) -> None:
    async with fastdb.Database(postgresql_url) as plain:
        await plain.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY)")
        for sql in ("ROLLBACK", "COMMIT; BEGIN", "COMMIT; BEGIN; SELECT 1 / 0"):
            database = fastdb.Database(postgresql_url, force_rollback=True)
            await database.connect()
            await database.execute("INSERT INTO notes VALUES (1)")
            with pytest.raises(fastdb.TransactionError, match="under force_rollback"):
                await database.execute(sql)
            await database.disconnect()
            assert not database.is_connected
        assert await plain.fetch_val("SELECT count(*) FROM notes") == 0


async def test_a_statement_cancelled_at_any_moment_leaves_the_forced_transaction(
    postgresql_url: str,
) -> None:
    async with fastdb.Database(postgresql_url) as plain:
        await plain.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY)")
        async with fastdb.Database(postgresql_url, force_rollback=True) as database:
            for moment in range(120):
                insert = database.execute("INSERT INTO notes VALUES (:id)", {"id": moment})
                task = asyncio.create_task(insert)
                for _ in range(moment):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                count = await database.fetch_val(
                    "SELECT count(*) FROM notes WHERE id = :id", {"id": moment}
                )
                # Cancelled on its way back, the statement may have been done already.
                assert count in ((0, 1) if task.cancelled() else (1,))
        assert await plain.fetch_val("SELECT count(*) FROM notes") == 0


def test_two_event_loops_that_connect_at_once(sqlite_url: str) -> None:
    arrived = threading.Barrier(2)

    async def init(raw: Any) -> None:
        await asyncio.to_thread(arrived.wait)

    database = fastdb.Database(sqlite_url, init=init)
    told: list[str] = []

    async def use() -> None:
        try:
            await database.connect()
        except fastdb.EventLoopError as error:
            told.append(str(error))
        else:
            # The other one is refused before this ends.
            while not told:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await database.disconnect()

    threads = [threading.Thread(target=lambda: asyncio.run(use())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1
    assert "another event loop" in told[0]


def test_an_end_without_any_event_loop_is_told(sqlite_url: str) -> None:
    database = fastdb.Database(sqlite_url)

    async def begin() -> fastdb.Transaction:
        await database.connect()
        return await database.transaction().start()

    with asyncio.Runner() as runner:
        transaction = runner.run(begin())
        with pytest.raises(fastdb.EventLoopError, match="no event loop runs here"):
            transaction.commit().send(None)
        runner.run(transaction.commit())
        runner.run(database.disconnect())


async def test_an_iteration_that_is_left_on_another_event_loop(server_url: str) -> None:
    async with fastdb.Database(server_url) as database:
        rows = database.iterate("SELECT 1 AS n UNION ALL SELECT 2", batch_size=1)
        assert (await anext(rows)).n == 1
        assert database.pool.stats().leased == 1
        await asyncio.to_thread(lambda: asyncio.run(rows.aclose()))
        async with asyncio.timeout(5):
            while database.pool.stats().leased:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert await database.fetch_val("SELECT 3") == 3
