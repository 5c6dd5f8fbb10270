"""The PostgreSQL driver, over a real server."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from fastdb import DatabaseURL, Record
from fastdb._speedups import QueryCache
from fastdb.compiler import Compiler
from fastdb.drivers.base import DriverCursor, Outcome, TransactionOptions
from fastdb.drivers.postgresql import PostgreSQLDriver
from fastdb.drivers.postgresql_connection import PostgreSQLConnection
from fastdb.drivers.postgresql_errors import translate
from fastdb.drivers.postgresql_options import connect_arguments
from fastdb.exceptions import (
    ConnectionFailedError,
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    OptionError,
    ProgrammingError,
    TransactionError,
)
from tests.faults.proxy import Proxy

PLAIN = TransactionOptions()


class Client:
    """A driver, the cache that plans for it, and connections that are closed in the end."""

    def __init__(self, url: str, **options: Any) -> None:
        parsed = DatabaseURL(url)
        self.driver = PostgreSQLDriver(parsed, {**parsed.options, **options})
        self.cache = QueryCache(
            Compiler(self.driver.sqlalchemy_dialect, self.driver.lexical, "numeric_dollar")
        )
        self.connections: list[PostgreSQLConnection] = []

    async def connect(self) -> PostgreSQLConnection:
        connection = await self.driver.connect()
        self.connections.append(connection)
        return connection

    async def close(self) -> None:
        for connection in self.connections:
            await connection.close()

    async def all(self, on: PostgreSQLConnection, query: Any, values: Any = None) -> list[Record]:
        plan, args, _ = self.cache.prepare(query, values)
        return await on.fetch_all(plan, args)

    async def one(self, on: PostgreSQLConnection, query: Any, values: Any = None) -> Record | None:
        plan, args, _ = self.cache.prepare(query, values)
        return await on.fetch_one(plan, args)

    async def val(self, on: PostgreSQLConnection, query: Any, values: Any = None) -> Any:
        record = await self.one(on, query, values)
        assert record is not None
        return record[0]

    async def run(self, on: PostgreSQLConnection, query: Any, values: Any = None) -> Outcome:
        plan, args, _ = self.cache.prepare(query, values)
        return await on.execute(plan, args)

    async def many(
        self, on: PostgreSQLConnection, query: Any, rows: Any, batch_size: int = 1000
    ) -> None:
        await on.execute_many(self.cache.prepare_many(query, rows, batch_size))

    async def cursor(
        self, on: PostgreSQLConnection, query: Any, values: Any = None, hold: bool = False
    ) -> DriverCursor:
        plan, args, _ = self.cache.prepare(query, values)
        return await on.open_cursor(plan, args, hold=hold)


Open = Callable[..., Client]


@pytest.fixture
async def open_client(postgresql_url: str) -> AsyncIterator[Open]:
    clients: list[Client] = []

    def make(url: str = postgresql_url, **options: Any) -> Client:
        clients.append(Client(url, **options))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
async def client(open_client: Open) -> Client:
    return open_client()


@pytest.fixture
async def connection(client: Client) -> PostgreSQLConnection:
    return await client.connect()


@pytest.fixture
async def notes(client: Client, connection: PostgreSQLConnection) -> str:
    await client.run(
        connection, "CREATE TABLE notes (id serial PRIMARY KEY, text varchar(100) UNIQUE)"
    )
    return "notes"


async def activity(client: Client, on: PostgreSQLConnection, condition: str) -> int:
    count: int = await client.val(
        on, f"SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {condition}"
    )
    return count


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await check():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def cancelled(operation: Any, after: Awaitable[object]) -> None:
    """Cancel `operation` once `after` is done."""
    task = asyncio.ensure_future(operation)
    await after
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- queries


async def test_fetches_records_in_order(client: Client, connection: PostgreSQLConnection) -> None:
    rows = await client.all(connection, "SELECT n, n * 2 AS twice FROM generate_series(1, 3) AS n")
    assert [(row.n, row["twice"]) for row in rows] == [(1, 2), (2, 4), (3, 6)]
    assert await client.all(connection, "SELECT 1 WHERE false") == []
    assert isinstance(rows[0], Record)


async def test_fetch_one_gives_the_first_row_or_none(
    client: Client, connection: PostgreSQLConnection
) -> None:
    row = await client.one(connection, "SELECT n FROM generate_series(:low, 9) AS n", {"low": 4})
    assert row == (4,)
    assert await client.one(connection, "SELECT 1 WHERE false") is None
    assert await client.val(connection, "SELECT 1") == 1


async def test_fetching_runs_statements_without_rows(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    insert = "INSERT INTO notes (text) VALUES (:text)"
    assert await client.all(connection, insert, {"text": "a"}) == []
    assert await client.one(connection, insert, {"text": "b"}) is None
    assert await client.val(connection, "SELECT count(*) FROM notes") == 2


async def test_fetch_one_of_returning_runs_the_whole_statement(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    query = "INSERT INTO notes (text) SELECT n::text FROM generate_series(1, 5) n RETURNING id"
    assert await client.one(connection, query) == (1,)
    assert await client.val(connection, "SELECT count(*) FROM notes") == 5


async def test_execute_tells_the_rowcount(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    two = {"a": "a", "b": "b"}
    insert = await client.run(connection, "INSERT INTO notes (text) VALUES (:a), (:b)", two)
    assert insert == Outcome([], 2, None)
    update = await client.run(connection, "UPDATE notes SET text = text || '!'")
    assert update.rowcount == 2
    delete = await client.run(connection, "DELETE FROM notes WHERE text = :text", {"text": "a!"})
    assert delete.rowcount == 1
    assert (await client.run(connection, "DELETE FROM notes WHERE false")).rowcount == 0
    assert (await client.run(connection, "CREATE TABLE other (id int)")).rowcount == -1


async def test_execute_returns_rows(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    query = "INSERT INTO notes (text) VALUES ('a'), ('b') RETURNING id, text"
    outcome = await client.run(connection, query)
    assert [tuple(row) for row in outcome.rows] == [(1, "a"), (2, "b")]
    assert outcome.rowcount == 2
    select = await client.run(connection, "SELECT :n::int", {"n": 7})
    assert select.rows == [(7,)]
    shown = await client.run(connection, "SHOW server_version")
    assert len(shown.rows) == 1


async def test_execute_returns_what_a_procedure_returns(
    client: Client, connection: PostgreSQLConnection
) -> None:
    await client.run(
        connection,
        "CREATE PROCEDURE double(INOUT n int) LANGUAGE plpgsql AS $$ BEGIN n := n * 2; END $$",
    )
    assert (await client.run(connection, "CALL double(:n)", {"n": 21})).rows == [(42,)]
    assert await client.one(connection, "CALL double(4)") == (8,)


async def test_execute_runs_several_statements(
    client: Client, connection: PostgreSQLConnection
) -> None:
    outcome = await client.run(
        connection,
        "CREATE TABLE a (x int); INSERT INTO a VALUES (1), (2); -- the second; and last\n ;",
    )
    assert outcome.rowcount == 2
    assert (await client.run(connection, "SELECT 1; DELETE FROM a")).rowcount == 2
    assert (await client.run(connection, "SELECT ';' AS a; -- done;")).rows == [(";",)]


async def test_several_statements_with_rows_or_arguments_are_refused(
    client: Client, connection: PostgreSQLConnection
) -> None:
    with pytest.raises(ProgrammingError, match="multiple commands"):
        await client.all(connection, "SELECT 1; SELECT 2")
    with pytest.raises(ProgrammingError, match="multiple commands"):
        await client.run(connection, "SELECT :a::int; SELECT 2", {"a": 1})


# -- many


async def test_one_batch_needs_no_transaction(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    await client.many(
        connection, "INSERT INTO notes (text) VALUES (:t)", [{"t": str(n)} for n in range(50)]
    )
    assert await client.val(connection, "SELECT count(DISTINCT xmin::text) FROM notes") == 1
    assert await client.val(connection, "SELECT count(*) FROM notes") == 50


async def test_no_rows_do_nothing(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    await client.many(connection, "INSERT INTO notes (text) VALUES (:t)", [])
    assert not connection.in_transaction


# 2,000 rows of 2 kB are more than asyncpg sends at once: the server has run most when it fails.
def named(value: object) -> str:
    """Name a parameter alike in every worker of a run."""
    return re.sub(r" object at \w+", "", str(value))


@pytest.mark.parametrize("bad", [{"t": "0"}, {"t": 5}], ids=["on the server", "in the client"])
@pytest.mark.parametrize("batch_size", [5000, 300], ids=["one batch", "several"])
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a transaction"])
async def test_many_is_all_or_nothing(
    client: Client,
    connection: PostgreSQLConnection,
    inside: bool,
    batch_size: int,
    bad: dict[str, Any],
) -> None:
    await client.run(connection, "CREATE TABLE wide (t text, fill text)")
    await client.run(connection, "CREATE UNIQUE INDEX ON wide (t)")
    if inside:
        await connection.begin(PLAIN)
        await client.run(connection, "INSERT INTO wide (t) VALUES ('before')")
    rows = [{"t": str(n), "fill": "x" * 2000} for n in range(2000)]
    with pytest.raises((IntegrityError, DataError)):
        await client.many(
            connection,
            "INSERT INTO wide (t, fill) VALUES (:t, :fill)",
            [*rows, {**bad, "fill": ""}],
            batch_size,
        )
    assert connection.in_transaction is inside
    assert await client.val(connection, "SELECT count(*) FROM wide") == inside
    if inside:
        await connection.commit()
    assert await client.val(connection, "SELECT count(*) FROM wide") == inside


async def test_many_rolls_back_where_the_rows_fail(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    def rows() -> Iterator[dict[str, str]]:
        for n in range(10):
            yield {"t": str(n)}
        raise ZeroDivisionError("of the user")

    with pytest.raises(ZeroDivisionError, match="of the user"):
        await client.many(connection, "INSERT INTO notes (text) VALUES (:t)", rows(), 3)
    assert not connection.in_transaction
    assert await client.val(connection, "SELECT count(*) FROM notes") == 0


async def test_many_of_several_batches_commits(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    rows = [{"t": str(n)} for n in range(10)]
    await client.many(connection, "INSERT INTO notes (text) VALUES (:t)", rows, 3)
    await connection.begin(PLAIN)
    more = [{"t": str(n)} for n in range(10, 20)]
    await client.many(connection, "INSERT INTO notes (text) VALUES (:t)", more, 3)
    await connection.commit()
    assert await client.val(connection, "SELECT count(*) FROM notes") == 20


async def test_cancelled_many_ends_though_asyncpg_swallows_it(
    client: Client, connection: PostgreSQLConnection
) -> None:
    await client.run(connection, "CREATE TABLE wide (t text)")
    rows = [{"t": "x" * 2000} for _ in range(20000)]
    other = await client.connect()
    pid = connection.raw.get_server_pid()

    async def running() -> bool:
        return await activity(client, other, f"pid = {pid} AND query LIKE 'INSERT%'") == 1

    async with asyncio.timeout(20):
        await cancelled(
            client.many(connection, "INSERT INTO wide VALUES (:t)", rows, 20000),
            eventually(running),
        )
    assert not connection.in_transaction
    await eventually(lambda: gone(client, other, pid, connection))
    assert await client.val(other, "SELECT count(*) FROM wide") == 0


async def gone(
    client: Client, other: PostgreSQLConnection, pid: int, connection: PostgreSQLConnection
) -> bool:
    return (
        connection.is_alive()
        or await activity(client, other, f"pid = {pid} AND state <> 'idle'") == 0
    )


# -- cursors


async def read(cursor: DriverCursor, size: int) -> list[int]:
    pieces = []
    while records := await cursor.fetch(size):
        assert len(records) <= size
        pieces += [record[0] for record in records]
    assert await cursor.fetch(size) == []
    await cursor.close()
    return pieces


SERIES = "SELECT n FROM generate_series(1, :last::int) AS n"


@pytest.mark.parametrize("last", [0, 5, 6, 7])
@pytest.mark.parametrize("how", ["own", "held", "inside"])
async def test_cursors_give_every_row(
    client: Client, connection: PostgreSQLConnection, how: str, last: int
) -> None:
    if how == "inside":
        await connection.begin(PLAIN)
    cursor = await client.cursor(connection, SERIES, {"last": last}, hold=how == "held")
    assert connection.in_transaction is (how != "held")
    assert await read(cursor, 3) == list(range(1, last + 1))
    assert connection.in_transaction is (how == "inside")
    if how == "inside":
        await connection.rollback()
    open_ones = "SELECT count(*) FROM pg_cursors WHERE name LIKE 'fastdb%'"
    assert await client.val(connection, open_ones) == 0


@pytest.mark.parametrize("how", ["own", "held", "inside"])
async def test_other_queries_run_between_pieces(
    client: Client, connection: PostgreSQLConnection, notes: str, how: str
) -> None:
    if how == "inside":
        await connection.begin(PLAIN)
    cursor = await client.cursor(connection, SERIES, {"last": 10}, hold=how == "held")
    seen = []
    while records := await cursor.fetch(4):
        seen += [record.n for record in records]
        for record in records:
            insert = "INSERT INTO notes (text) VALUES (:t)"
            await client.run(connection, insert, {"t": str(record.n)})
    assert seen == list(range(1, 11))
    await cursor.close()
    assert await client.val(connection, "SELECT count(*) FROM notes") == 10


@pytest.mark.parametrize("how", ["own", "held", "inside"])
async def test_a_closed_cursor_frees_its_table(
    client: Client, connection: PostgreSQLConnection, notes: str, how: str
) -> None:
    await client.run(
        connection, "INSERT INTO notes (text) SELECT n::text FROM generate_series(1, 20) n"
    )
    if how == "inside":
        await connection.begin(PLAIN)
    cursor = await client.cursor(connection, "SELECT * FROM notes;", hold=how == "held")
    assert len(await cursor.fetch(5)) == 5
    await cursor.close()
    await cursor.close()
    await client.run(connection, "ALTER TABLE notes ADD COLUMN more int")
    assert await cursor.fetch(5) == []


@pytest.mark.parametrize("hold", [False, True])
async def test_returning_outside_a_transaction_is_committed(
    client: Client, connection: PostgreSQLConnection, notes: str, hold: bool
) -> None:
    query = "INSERT INTO notes (text) SELECT n::text FROM generate_series(1, 9) n RETURNING id"
    cursor = await client.cursor(connection, query, hold=hold)
    assert len(await cursor.fetch(2)) == 2
    await cursor.close()
    assert not connection.in_transaction
    other = await client.connect()
    assert await client.val(other, "SELECT count(*) FROM notes") == 9


@pytest.mark.parametrize(
    "query",
    [
        "SELECT id FROM notes FOR UPDATE",
        "WITH gone AS (DELETE FROM notes RETURNING id) SELECT id FROM gone",
        "SHOW server_version",
        "EXPLAIN SELECT 1",
        "CALL answer(1)",
    ],
)
async def test_what_cannot_be_held_is_read_whole(
    client: Client, connection: PostgreSQLConnection, notes: str, query: str
) -> None:
    await client.run(connection, "INSERT INTO notes (text) VALUES ('a')")
    await client.run(connection, "CREATE PROCEDURE answer(INOUT n int) LANGUAGE sql AS 'SELECT 42'")
    cursor = await client.cursor(connection, query, hold=True)
    assert len(await cursor.fetch(5)) == 1
    assert await cursor.fetch(5) == []
    await cursor.close()
    assert not connection.in_transaction


@pytest.mark.parametrize("how", ["own", "held", "inside"])
async def test_a_failing_cursor_is_rolled_back(
    client: Client, connection: PostgreSQLConnection, how: str
) -> None:
    if how == "inside":
        await connection.begin(PLAIN)
    with pytest.raises(ProgrammingError, match="nowhere"):
        await client.cursor(connection, "SELECT * FROM nowhere", hold=how == "held")
    assert connection.in_transaction is (how == "inside")
    await connection.rollback()
    if how == "inside":
        await connection.begin(PLAIN)
    with pytest.raises(DataError, match="division"):
        cursor = await client.cursor(
            connection, "SELECT 1 / (5 - n) FROM generate_series(1, 9) n", hold=how == "held"
        )
        await cursor.fetch(2)
        await cursor.fetch(9)
    assert connection.in_transaction is (how == "inside")


async def test_a_held_cursor_outlives_transactions(
    client: Client, connection: PostgreSQLConnection
) -> None:
    cursor = await client.cursor(connection, SERIES, {"last": 6}, hold=True)
    assert len(await cursor.fetch(2)) == 2
    await connection.begin(PLAIN)
    assert len(await cursor.fetch(2)) == 2
    with contextlib.suppress(ProgrammingError):
        await client.run(connection, "SELECT * FROM nowhere")
    await cursor.close()  # cannot be: the transaction has failed
    await connection.rollback()
    assert connection.dirty
    await connection.reset()
    assert await client.val(connection, "SELECT count(*) FROM pg_cursors") <= 1


async def test_a_cursor_whose_transaction_ended_is_closed(
    client: Client, connection: PostgreSQLConnection
) -> None:
    await connection.begin(PLAIN)
    cursor = await client.cursor(connection, SERIES, {"last": 6})
    await cursor.fetch(2)
    await connection.rollback()
    with pytest.raises(DatabaseError):
        await cursor.fetch(2)
    await cursor.close()


async def test_converters_fail_unchanged(client: Client, connection: PostgreSQLConnection) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")

    class Failing(sqlalchemy.TypeDecorator):  # type: ignore[misc,name-defined]
        impl = sqlalchemy.Integer
        cache_ok = True

        def process_result_value(self, value: Any, dialect: Any) -> Any:
            raise ValueError(value)

    query = sqlalchemy.text("SELECT 1 AS n").columns(n=Failing())
    with pytest.raises(ValueError, match="1") as caught:
        await client.all(connection, query)
    assert type(caught.value) is ValueError
    cursor = await client.cursor(connection, query)
    with pytest.raises(ValueError, match="1") as caught:
        await cursor.fetch(1)
    assert type(caught.value) is ValueError
    assert not connection.in_transaction
    assert await client.val(connection, "SELECT 1") == 1


# -- transactions


async def test_commit_and_rollback(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    for keep in (True, False):
        await connection.begin(PLAIN)
        assert connection.in_transaction
        await client.run(connection, f"INSERT INTO notes (text) VALUES ('{keep}')")
        await (connection.commit() if keep else connection.rollback())
        assert not connection.in_transaction
    assert await client.all(connection, "SELECT text FROM notes") == [("True",)]
    await connection.rollback()


async def test_savepoints_nest(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    insert = "INSERT INTO notes (text) VALUES (:t)"
    await connection.begin(PLAIN)
    await connection.savepoint()
    await client.run(connection, insert, {"t": "kept"})
    await connection.savepoint()
    with pytest.raises(IntegrityError):
        await client.run(connection, insert, {"t": "kept"})
    await connection.rollback_to_savepoint()
    await connection.release_savepoint()
    await connection.savepoint()
    await client.run(connection, insert, {"t": "undone"})
    await connection.rollback_to_savepoint()
    await connection.commit()
    assert await client.all(connection, "SELECT text FROM notes") == [("kept",)]


async def test_a_savepoint_that_cannot_be_released_is_rolled_back(
    client: Client, connection: PostgreSQLConnection
) -> None:
    await connection.begin(PLAIN)
    await connection.savepoint()
    with pytest.raises(ProgrammingError):
        await client.run(connection, "SELECT * FROM nowhere")
    with pytest.raises(InternalError) as caught:
        await connection.release_savepoint()
    assert isinstance(caught.value, asyncpg.InFailedSQLTransactionError)
    assert await client.val(connection, "SELECT 1") == 1
    await connection.commit()


async def test_asyncpg_knows_of_the_transaction(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    await connection.begin(PLAIN)
    async with connection.raw.transaction():
        await connection.raw.execute("INSERT INTO notes (text) VALUES ('raw')")
        assert len([row async for row in connection.raw.cursor("SELECT 1")]) == 1
    await connection.rollback()
    assert await client.val(connection, "SELECT count(*) FROM notes") == 0


async def test_a_commit_that_became_a_rollback_raises(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    await connection.begin(PLAIN)
    with pytest.raises(ProgrammingError):
        await client.run(connection, "SELECT * FROM nowhere")
    with pytest.raises(InternalError, match="rolled it back") as caught:
        await connection.commit()
    assert isinstance(caught.value, asyncpg.InFailedSQLTransactionError)
    assert not connection.in_transaction
    await connection.begin(PLAIN)
    await connection.commit()


async def test_a_failed_commit_leaves_the_connection_clean(
    client: Client, connection: PostgreSQLConnection
) -> None:
    await client.run(
        connection,
        "CREATE TABLE pair (id int PRIMARY KEY, other int REFERENCES pair INITIALLY DEFERRED)",
    )
    await connection.begin(PLAIN)
    await client.run(connection, "INSERT INTO pair VALUES (1, 2)")
    with pytest.raises(IntegrityError) as caught:
        await connection.commit()
    assert isinstance(caught.value, asyncpg.ForeignKeyViolationError)
    assert not connection.in_transaction
    await connection.begin(PLAIN)
    await connection.commit()
    assert await client.val(connection, "SELECT count(*) FROM pair") == 0


async def test_a_textual_transaction_is_seen_and_ended(
    client: Client, connection: PostgreSQLConnection
) -> None:
    await client.run(connection, "BEGIN")
    assert connection.in_transaction
    with pytest.raises(TransactionError, match="cannot begin"):
        await connection.begin(PLAIN)
    await connection.rollback()
    assert not connection.in_transaction
    await client.run(connection, "BEGIN")
    await connection.commit()
    assert not connection.in_transaction
    await connection.begin(PLAIN)
    await client.run(connection, "COMMIT")
    await connection.rollback()
    await connection.begin(PLAIN)
    await connection.rollback()


@pytest.mark.parametrize(
    "name", ["serializable", "REPEATABLE READ", "read_committed", "Read-Uncommitted"]
)
async def test_isolation_levels(
    client: Client, connection: PostgreSQLConnection, name: str
) -> None:
    await connection.begin(TransactionOptions(isolation=name))
    shown = await client.val(connection, "SHOW transaction_isolation")
    assert shown == name.lower().replace("_", " ").replace("-", " ")
    await connection.rollback()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            TransactionOptions(isolation="snapshot"),
            "no isolation level 'snapshot'; it has READ COMM",
        ),
        (TransactionOptions(begin="immediate"), "no begin='immediate'"),
        (TransactionOptions(deferrable=True), "deferrable=True has an effect only"),
        (TransactionOptions("serializable", None, True), "deferrable=True has an effect only"),
    ],
)
async def test_what_postgresql_does_not_know_is_refused(
    connection: PostgreSQLConnection, options: TransactionOptions, message: str
) -> None:
    with pytest.raises(NotSupportedError, match=message):
        await connection.begin(options)
    assert not connection.in_transaction


async def test_readonly_and_deferrable(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    await connection.begin(TransactionOptions("serializable", True, True))
    assert await client.val(connection, "SHOW transaction_deferrable") == "on"
    with pytest.raises(InternalError) as caught:
        await client.run(connection, "INSERT INTO notes (text) VALUES ('a')")
    assert isinstance(caught.value, asyncpg.ReadOnlySQLTransactionError)
    await connection.rollback()


async def test_explicit_falses_are_said_to_the_server(open_client: Open) -> None:
    client = open_client(
        server_settings={
            "default_transaction_read_only": True,
            "default_transaction_deferrable": "on",
        }
    )
    connection = await client.connect()
    assert await client.val(connection, "SHOW transaction_read_only") == "on"
    await connection.begin(TransactionOptions(readonly=False, deferrable=False))
    assert await client.val(connection, "SHOW transaction_read_only") == "off"
    assert await client.val(connection, "SHOW transaction_deferrable") == "off"
    await connection.commit()
    assert await client.val(connection, "SHOW transaction_read_only") == "on"


async def test_serialization_failure_is_operational(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    other = await client.connect()
    for each in (connection, other):
        await each.begin(TransactionOptions(isolation="serializable"))
        await client.val(each, "SELECT count(*) FROM notes")
    for each, text in ((connection, "a"), (other, "b")):
        await client.run(each, "INSERT INTO notes (text) VALUES (:t)", {"t": text})
    await connection.commit()
    with pytest.raises(OperationalError) as caught:
        await other.commit()
    assert isinstance(caught.value, asyncpg.SerializationError)
    assert not other.in_transaction


# -- errors


@pytest.mark.parametrize(
    ("query", "kind", "driver_kind"),
    [
        ("INSERT INTO notes (id) VALUES (1), (1)", IntegrityError, asyncpg.UniqueViolationError),
        ("INSERT INTO notes (id) VALUES (NULL)", IntegrityError, asyncpg.NotNullViolationError),
        ("SELECT 1 / 0", DataError, asyncpg.DivisionByZeroError),
        ("SELECT 'x'::int", DataError, asyncpg.InvalidTextRepresentationError),
        ("SELEC 1", ProgrammingError, asyncpg.PostgresSyntaxError),
        ("SELECT nothing", ProgrammingError, asyncpg.UndefinedColumnError),
        ("SELECT 'a\0b'", ProgrammingError, asyncpg.PostgresError),
        ("VACUUM nowhere", ProgrammingError, asyncpg.UndefinedTableError),
        ("RELEASE SAVEPOINT x", InternalError, asyncpg.NoActiveSQLTransactionError),
        ("DO 'BEGIN RAISE ''of the user''; END'", InternalError, asyncpg.RaiseError),
        ("SELECT pg_terminate_backend(pg_backend_pid())", ConnectionFailedError, Exception),
        ("SELECT '0044-03-15 BC'::date", DataError, ValueError),
        ("SELECT '20000-01-01'::timestamp", DataError, OverflowError),
    ],
)
async def test_errors_of_the_server(
    client: Client,
    connection: PostgreSQLConnection,
    notes: str,
    query: str,
    kind: type[Exception],
    driver_kind: type[Exception],
) -> None:
    with pytest.raises(kind) as caught:
        await client.run(connection, query)
    assert isinstance(caught.value, driver_kind)
    assert isinstance(caught.value.__cause__, driver_kind)
    if kind is ConnectionFailedError:
        assert not connection.is_alive()
    else:
        assert await client.val(connection, "SELECT 1") == 1


async def test_errors_keep_what_asyncpg_tells(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    insert = "INSERT INTO notes (text) VALUES (:t)"
    await client.run(connection, insert, {"t": "a"})
    with pytest.raises(asyncpg.UniqueViolationError) as caught:
        await client.run(connection, insert, {"t": "a"})
    assert isinstance(caught.value, IntegrityError)
    error: Any = caught.value
    assert error.sqlstate == "23505"
    assert error.constraint_name == "notes_text_key"
    assert "(text)=(a)" in error.detail
    assert error.as_dict()["table_name"] == "notes"
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), str(copied)) == (type(error), str(error))


async def test_errors_of_the_client(client: Client, connection: PostgreSQLConnection) -> None:
    with pytest.raises(DataError, match=r"\$1"):
        await client.all(connection, "SELECT :n::int", {"n": "one"})
    assert not connection.in_transaction
    plan, _, _ = client.cache.prepare("SELECT 1")
    with pytest.raises(ProgrammingError, match="expects 0 arguments"):
        await connection.fetch_all(plan, (1,))
    sleeping = asyncio.ensure_future(client.all(connection, "SELECT pg_sleep(0.2)"))
    await asyncio.sleep(0.05)
    with pytest.raises(InterfaceError, match="in progress"):
        await client.all(connection, "SELECT 1")
    await sleeping
    with pytest.raises(ProgrammingError):
        await client.all(connection, "SELECT '\ud800'")


async def test_a_lost_connection_is_told(client: Client, connection: PostgreSQLConnection) -> None:
    other = await client.connect()
    await connection.begin(PLAIN)
    await other.raw.fetchval("SELECT pg_terminate_backend($1)", connection.raw.get_server_pid())
    with pytest.raises(ConnectionFailedError):
        for _ in range(2):
            await client.all(connection, "SELECT 1")
    with pytest.raises(ConnectionFailedError, match="closed"):
        await connection.commit()
    await connection.rollback()
    assert not connection.in_transaction
    assert not connection.is_alive()
    with pytest.raises(ConnectionFailedError):
        await connection.check()
    with pytest.raises(ConnectionFailedError):
        await connection.begin(PLAIN)
    await connection.close()


# -- statements that the schema left behind


async def test_altered_tables_are_read_anew(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    other = await client.connect()
    query = "SELECT * FROM notes"
    await client.run(connection, "INSERT INTO notes (text) VALUES ('a')")
    for each in (connection, other):
        assert await client.all(each, query) == [(1, "a")]
    await connection.raw.execute("ALTER TABLE notes ADD COLUMN more int DEFAULT 5")
    for each in (connection, other):
        assert await client.all(each, query) == [(1, "a", 5)]
    await connection.raw.execute("ALTER TABLE notes DROP COLUMN more")
    assert await client.one(other, query) == (1, "a")
    cursor = await client.cursor(other, query)
    assert await cursor.fetch(1) == [(1, "a")]
    await cursor.close()
    await connection.raw.execute("ALTER TABLE notes ADD COLUMN more int")
    await other.begin(PLAIN)
    cursor = await client.cursor(other, query)
    assert await cursor.fetch(2) == [(1, "a", None)]
    await other.commit()


@pytest.mark.parametrize("inside", [False, True])
async def test_changed_column_types_reach_every_connection(
    client: Client, connection: PostgreSQLConnection, notes: str, inside: bool
) -> None:
    other = await client.connect()
    insert = "INSERT INTO notes (text) VALUES (:t)"
    await client.run(other, insert, {"t": "5"})
    await client.many(other, insert, [{"t": "6"}])
    readers = [await client.connect(), await client.connect()]
    same = "SELECT id FROM notes WHERE text = :t"
    for reader in readers:
        assert await client.one(reader, same, {"t": "5"}) == (1,)
        assert await client.all(reader, same, {"t": "6"}) == [(2,)]
    if inside:
        await connection.begin(PLAIN)
    await client.run(connection, "ALTER TABLE notes ALTER COLUMN text TYPE int USING text::int")
    if inside:
        await connection.commit()
    await client.run(other, insert, {"t": 7})
    batch = [{"t": 8}]
    writer = await client.connect()
    await client.many(writer, insert, batch)
    assert await client.one(readers[0], same, {"t": 5}) == (1,)
    assert await client.all(readers[1], same, {"t": 6}) == [(2,)]
    assert await client.all(other, "SELECT text FROM notes") == [(5,), (6,), (7,), (8,)]


async def test_a_type_made_anew_elsewhere_is_found(
    client: Client, open_client: Open, connection: PostgreSQLConnection
) -> None:
    async def make(on: PostgreSQLConnection) -> None:
        await on.raw.execute(
            "DROP TABLE IF EXISTS moods; DROP TYPE IF EXISTS mood;"
            "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TABLE moods (mood mood)"
        )

    await make(connection)
    insert = "INSERT INTO moods VALUES (:m)"
    count = "SELECT count(*) FROM moods WHERE mood = :m"
    await client.run(connection, insert, {"m": "sad"})
    assert await client.val(connection, count, {"m": "sad"}) == 1
    elsewhere = await open_client().connect()
    await make(elsewhere)
    assert await client.val(connection, count, {"m": "sad"}) == 0
    await client.run(connection, insert, {"m": "sad"})
    await make(elsewhere)
    await client.many(connection, insert, [{"m": "sad"}])
    assert await client.val(connection, count, {"m": "sad"}) == 1


async def test_a_type_that_is_gone_is_told(
    client: Client, open_client: Open, connection: PostgreSQLConnection
) -> None:
    await connection.raw.execute("CREATE TYPE mood AS ENUM ('sad')")
    query = "SELECT :m::mood::text"
    assert await client.val(connection, query, {"m": "sad"}) == "sad"
    elsewhere = await open_client().connect()
    await elsewhere.raw.execute("DROP TYPE mood")
    with pytest.raises(ProgrammingError, match='"mood" does not exist'):
        await client.val(connection, query, {"m": "sad"})


async def test_a_composite_changed_elsewhere_is_found_at_the_next_attempt(
    client: Client, open_client: Open, connection: PostgreSQLConnection
) -> None:
    await connection.raw.execute(
        "CREATE TYPE pair AS (a int, b int); CREATE TABLE pairs (p pair);"
        "INSERT INTO pairs VALUES (ROW(1, 2))"
    )
    query = "SELECT p FROM pairs"
    assert tuple(await client.val(connection, query)) == (1, 2)
    elsewhere = await open_client().connect()
    await elsewhere.raw.execute("ALTER TYPE pair ADD ATTRIBUTE c int")
    await elsewhere.raw.execute("UPDATE pairs SET p.c = 3")
    with pytest.raises(OperationalError) as caught:
        await client.val(connection, query)
    assert isinstance(caught.value, asyncpg.OutdatedSchemaCacheError)
    assert tuple(await client.val(connection, query)) == (1, 2, 3)


async def test_in_a_transaction_an_outdated_plan_is_operational(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    query = "SELECT * FROM notes"
    await client.all(connection, query)
    await connection.raw.execute("ALTER TABLE notes ADD COLUMN more int")
    await connection.begin(PLAIN)
    with pytest.raises(OperationalError) as caught:
        await client.all(connection, query)
    assert isinstance(caught.value, asyncpg.InvalidCachedStatementError)
    await connection.rollback()
    await connection.begin(PLAIN)
    assert await client.all(connection, query) == []
    await connection.commit()


# -- prepared statements without asyncpg's own layers


async def test_loggers_hear_of_prepared_statements(
    client: Client, connection: PostgreSQLConnection
) -> None:
    heard: list[str] = []
    query = "SELECT CAST(:n AS int)"
    assert await client.one(connection, query, {"n": 1}) == (1,)
    with connection.raw.query_logger(lambda record: heard.append(record.query)):
        assert await client.one(connection, query, {"n": 2}) == (2,)
        assert await client.all(connection, query, {"n": 3}) == [(3,)]
        await asyncio.sleep(0)
    assert heard == ["SELECT CAST($1 AS int)"] * 2


@pytest.mark.parametrize("name", ["_execute", "fetchrow"])
def test_tracing_tools_see_prepared_statements(postgresql_url: str, name: str) -> None:
    # As they do it: one of their own functions in the place of asyncpg's, before all else.
    program = f"""
import asyncio, asyncpg, fastdb
traced = []
method = asyncpg.Connection.{name}
async def trace(self, query, *args, **kwargs):
    traced.append(query)
    return await method(self, query, *args, **kwargs)
asyncpg.Connection.{name} = trace
async def main():
    async with fastdb.Database({postgresql_url!r}) as database:
        traced.clear()
        for n in range(3):
            await database.fetch_one("SELECT CAST(:n AS int)", {{"n": n}})
asyncio.run(main())
print(len(traced))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "3"


async def test_tools_that_begin_to_trace_see_prepared_statements(
    client: Client, connection: PostgreSQLConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "SELECT CAST(:n AS int)"
    await client.one(connection, query, {"n": 1})
    traced: list[str] = []
    method = asyncpg.Connection._execute

    async def trace(self: Any, query: str, *args: Any, **kwargs: Any) -> Any:
        traced.append(query)
        return await method(self, query, *args, **kwargs)

    monkeypatch.setattr(asyncpg.Connection, "_execute", trace)
    assert await client.one(connection, query, {"n": 2}) == (2,)
    assert traced == ["SELECT CAST($1 AS int)"]


async def test_without_a_statement_cache_nothing_is_prepared(open_client: Open) -> None:
    client = open_client(statement_cache_size=0)
    connection = await client.connect()
    for n in range(3):
        assert await client.one(connection, "SELECT CAST(:n AS int)", {"n": n}) == (n,)
        assert connection.raw.prepared("SELECT CAST($1 AS int)") is None


async def test_prepared_statements_do_not_overlap(
    client: Client, connection: PostgreSQLConnection
) -> None:
    query = "SELECT pg_sleep(:s)"
    await client.one(connection, query, {"s": 0.0})
    first = asyncio.create_task(client.one(connection, query, {"s": 0.2}))
    await asyncio.sleep(0)
    with pytest.raises(InterfaceError, match="another operation is in progress"):
        await client.one(connection, query, {"s": 0.0})
    await first
    await client.one(connection, query, {"s": 0.0})


async def test_counts_of_prepared_changes(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    for text in ("a", "b", "c"):
        await client.run(connection, "INSERT INTO notes (text) VALUES (:t)", {"t": text})
    change = "UPDATE notes SET text = text || 'x' WHERE id <= :n"
    counts = [(await client.run(connection, change, {"n": n})).rowcount for n in (1, 2, 0)]
    assert counts == [1, 2, 0]


async def test_a_statement_of_the_sessions_own_that_has_changed_is_not_run_again(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    await connection.raw.execute("PREPARE mine AS SELECT * FROM notes; EXECUTE mine")
    await connection.raw.execute("ALTER TABLE notes ADD COLUMN more int")
    script = "INSERT INTO notes (text) VALUES ('once'); COMMIT; EXECUTE mine"
    with pytest.raises(OperationalError, match="cached statement plan"):
        await client.run(connection, script)
    assert await client.val(connection, "SELECT count(*) FROM notes") == 1


# -- cancellation


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("how", ["all", "one", "run", "cursor"])
async def test_cancelled_statements_end_on_the_server(
    client: Client, connection: PostgreSQLConnection, how: str, inside: bool
) -> None:
    other = await client.connect()
    pid = connection.raw.get_server_pid()
    if inside:
        await connection.begin(PLAIN)

    async def sleep() -> None:
        query = "SELECT pg_sleep(60)"
        if how == "cursor":
            await (await client.cursor(connection, query)).fetch(1)
        else:
            await getattr(client, how)(connection, query)

    async def sleeping() -> bool:
        return await activity(client, other, f"pid = {pid} AND wait_event = 'PgSleep'") == 1

    await cancelled(sleep(), eventually(sleeping))
    assert not await sleeping()
    assert connection.suspect
    assert connection.is_alive()
    assert connection.in_transaction is inside
    await connection.rollback()
    await connection.check()
    assert await client.val(connection, "SELECT 1") == 1


async def test_cancelled_at_any_moment(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    async def work(n: int) -> None:
        await connection.begin(PLAIN)
        await connection.savepoint()
        await client.run(connection, "INSERT INTO notes (text) VALUES (:t)", {"t": f"{n}"})
        await connection.release_savepoint()
        await connection.commit()

    for n in range(40):
        task = asyncio.ensure_future(work(n))
        for _ in range(n % 20):
            await asyncio.sleep(0)
        await asyncio.sleep(0.0001 * (n % 7))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if connection.in_transaction:
            await connection.rollback()
        assert connection.is_alive()
        answer = await client.one(connection, "SELECT :n::int AS n", {"n": n})
        assert answer == (n,)
        assert not connection.in_transaction


async def test_a_second_cancellation_cuts_the_connection(
    client: Client, connection: PostgreSQLConnection
) -> None:
    task = asyncio.ensure_future(client.all(connection, "SELECT pg_sleep(60)"))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not connection.is_alive()


async def test_an_abandoned_coroutine_cuts_the_connection(
    client: Client, connection: PostgreSQLConnection
) -> None:
    plan, args, _ = client.cache.prepare("SELECT pg_sleep(60)")
    coroutine = connection.fetch_all(plan, args)
    coroutine.send(None)
    coroutine.close()
    assert not connection.is_alive()


# -- the connection's life


async def test_a_connection_that_was_ended_is_not_alive(
    client: Client, connection: PostgreSQLConnection
) -> None:
    assert connection.is_alive()
    # By another process, so that this one's event loop sees nothing of it.
    pid = connection.raw.get_server_pid()
    url = client.driver._arguments.keywords
    script = (
        "import asyncio, asyncpg\n"
        "async def main():\n"
        f"    other = await asyncpg.connect(**{url!r})\n"
        f"    await other.fetchval('SELECT pg_terminate_backend({pid}, 5000)')\n"
        "    await other.close()\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: ASYNC221
    assert not connection.raw.is_closed()
    assert not connection.is_alive()


async def test_unread_notifications_do_not_end_a_connection(
    client: Client, connection: PostgreSQLConnection
) -> None:
    heard: list[str] = []
    await connection.raw.add_listener("news", lambda *args: heard.append(args[-1]))
    url = client.driver._arguments.keywords
    script = (
        "import asyncio, asyncpg\n"
        "async def main():\n"
        f"    other = await asyncpg.connect(**{url!r})\n"
        "    await other.execute(\"NOTIFY news, 'hello'\")\n"
        "    await other.close()\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: ASYNC221
    assert connection.is_alive()
    await connection.check()
    await asyncio.sleep(0)
    assert heard == ["hello"]


async def test_close_and_terminate(client: Client, connection: PostgreSQLConnection) -> None:
    other = await client.connect()
    await connection.close()
    await connection.close()
    assert not connection.is_alive()
    other.terminate()
    other.terminate()
    assert not other.is_alive()
    assert not other.in_transaction
    await other.close()


async def test_reset_brings_the_session_back(open_client: Open) -> None:
    calls: list[int] = []

    async def init(raw: Any) -> None:
        calls.append(raw.get_server_pid())
        await raw.execute("CREATE TEMP TABLE mine (id int); PREPARE one AS SELECT 1")
        await raw.execute("SET extra_float_digits = 1")
        await raw.set_type_codec(
            "int4", schema="pg_catalog", encoder=str, decoder=lambda text: f"<{text}>"
        )

    client = open_client(init=init)
    connection = await client.connect()
    fresh = "SELECT current_user::text, current_setting('work_mem'), current_setting('search_path')"
    before = await client.one(connection, fresh)
    await connection.raw.execute(
        "SET work_mem = '5MB'; SET search_path = pg_catalog; SET ROLE pg_monitor;"
        "CREATE TEMP TABLE theirs (id int); SELECT pg_advisory_lock(1); PREPARE two AS SELECT 2"
    )
    await connection.raw.add_listener("news", print)
    await connection.raw.set_type_codec(
        "int8", schema="pg_catalog", encoder=str, decoder=lambda text: f"[{text}]"
    )
    await connection.begin(PLAIN)
    await connection.reset()
    assert not connection.in_transaction
    assert await client.one(connection, fresh) == before
    assert len(calls) == 2
    held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    assert await client.all(connection, held) == []
    temporary = "SELECT relname FROM pg_class WHERE relpersistence = 't' AND relname = 'theirs'"
    assert await client.all(connection, temporary) == []
    assert await client.all(connection, "SELECT * FROM pg_listening_channels()") == []
    assert await client.all(
        connection, "SELECT name FROM pg_prepared_statements WHERE from_sql"
    ) == [("one",)]
    assert await client.one(connection, "SELECT 7, 7::bigint") == ("<7>", 7)
    await connection.reset()


async def test_a_lost_connection_fails_calmly(
    client: Client, connection: PostgreSQLConnection
) -> None:
    await connection.begin(PLAIN)
    await connection.savepoint()
    cursor = await client.cursor(connection, SERIES, {"last": 9})
    await connection.rollback_to_savepoint()
    await connection.savepoint()
    connection.terminate()
    await connection.rollback_to_savepoint()
    await connection.rollback()
    await cursor.close()
    client.driver.schema_changes += 1
    with pytest.raises(ConnectionFailedError):
        await client.run(connection, "SELECT 1")
    with pytest.raises(ConnectionFailedError):
        await connection.reset()
    other = await client.connect()
    await other.begin(PLAIN)
    other.terminate()
    with pytest.raises(
        ConnectionFailedError, match="cannot commit; the connection is closed and the"
    ) as caught:
        await other.commit()
    assert isinstance(caught.value, asyncpg.InterfaceError)
    await other.rollback()
    other = await client.connect()
    held = await client.cursor(other, SERIES, {"last": 9}, hold=True)
    other.terminate()
    with pytest.raises(ConnectionFailedError):
        await held.fetch(1)
    await held.close()


async def test_a_server_that_does_not_answer_is_cut(
    client: Client, connection: PostgreSQLConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await client.connect()
    await other.begin(PLAIN)
    await client.run(other, "SAVEPOINT x")

    async def silence(*args: Any, **kwargs: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(asyncpg.Connection, "execute", silence)
    monkeypatch.setattr(asyncpg.Connection, "close", silence)
    with pytest.raises(ConnectionFailedError, match="did not answer within 5 s"):
        await connection.check()
    assert not connection.is_alive()
    with pytest.raises(TimeoutError):
        await other.rollback()
    assert not other.is_alive()
    await other.close()


def test_errors_of_asyncpgs_own(connection_closed: Any) -> None:
    base = asyncpg.exceptions._base
    for error, kind in [
        (base.DataError("bad"), DataError),
        (asyncpg.UnsupportedServerFeatureError("old"), NotSupportedError),
        (ConnectionResetError("gone"), ConnectionFailedError),
        (asyncpg.InternalClientError("confused"), ConnectionFailedError),
        (asyncpg.PostgresConnectionError("gone"), ConnectionFailedError),
    ]:
        assert isinstance(translate(error, connection_closed), kind)
    own = ZeroDivisionError()
    connection_closed.codecs.add(("int4", "pg_catalog"))
    assert translate(own, connection_closed) is own


async def test_a_confused_asyncpg_is_an_internal_error(connection: PostgreSQLConnection) -> None:
    error = translate(asyncpg.InternalClientError("confused"), connection.raw)
    assert isinstance(error, InternalError)


@pytest.fixture
async def connection_closed(connection: PostgreSQLConnection) -> Any:
    connection.terminate()
    return connection.raw


# -- connecting


async def test_init_failing_leaves_no_connection(
    client: Client, open_client: Open, connection: PostgreSQLConnection
) -> None:
    async def init(raw: Any) -> None:
        raise ZeroDivisionError("of the user")

    bad = open_client(init=init, application_name="doomed")
    with pytest.raises(ZeroDivisionError, match="of the user"):
        await bad.connect()

    async def none_left() -> bool:
        return await activity(client, connection, "application_name = 'doomed'") == 0

    await eventually(none_left)


async def test_cancelled_connects_leave_no_connection(
    client: Client, open_client: Open, connection: PostgreSQLConnection
) -> None:
    doomed = open_client(application_name="doomed")
    for n in range(30):
        task = asyncio.ensure_future(doomed.connect())
        for _ in range(n):
            await asyncio.sleep(0)
        await asyncio.sleep(0.0003 * (n % 10))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await doomed.close()

    async def none_left() -> bool:
        return await activity(client, connection, "application_name = 'doomed'") == 0

    await eventually(none_left)


async def test_a_wrong_database_is_told_with_the_target(postgresql_url: str) -> None:
    url = str(DatabaseURL(postgresql_url).replace(database="fastdb_nowhere"))
    with pytest.raises(ConnectionFailedError, match="'fastdb_nowhere'") as caught:
        await Client(url).connect()
    assert isinstance(caught.value, asyncpg.InvalidCatalogNameError)
    assert str(DatabaseURL(url).hostname) in str(caught.value)


async def test_a_wrong_port_is_told_with_the_target() -> None:
    with pytest.raises(ConnectionFailedError) as caught:
        await Client("postgresql://me:secret@127.0.0.1:1/db").connect()
    message = str(caught.value)
    assert message.startswith(
        "cannot connect to PostgreSQL at 127.0.0.1:1 as user 'me' to database 'db': "
    )
    assert "secret" not in message
    assert isinstance(caught.value.__cause__, OSError)


@contextlib.asynccontextmanager
async def serving(answer: bytes | None) -> AsyncIterator[int]:
    """Serve a host that sends `answer` to whatever it is told; None says nothing."""
    handlers = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        with contextlib.suppress(OSError):
            await reader.read(100)
            if answer is not None:
                writer.write(answer)
            await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*[handler for handler in handlers if handler is not None])


async def test_a_silent_server_is_given_up() -> None:
    async with serving(None) as port:
        with pytest.raises(ConnectionFailedError, match=r"no answer within 0\.2 s"):
            await Client(f"postgresql://me@127.0.0.1:{port}/db?timeout=0.2").connect()


async def test_a_wrong_password_is_told() -> None:
    error = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0\0"
    message = b"E" + (len(error) + 4).to_bytes(4, "big") + error
    async with serving(message) as port:
        url = f"postgresql://me:secret@127.0.0.1:{port}/db?sslmode=disable"
        with pytest.raises(ConnectionFailedError, match="password authentication failed") as caught:
            await Client(url).connect()
    assert isinstance(caught.value, asyncpg.InvalidPasswordError)
    assert "secret" not in str(caught.value)
    assert f"127.0.0.1:{port} as user 'me' to database 'db'" in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"ssl": True},
        {"ssl": "true"},
        {"ssl": "require"},
        {"ssl": ssl.create_default_context()},
        {"sslmode": "require"},
        {"sslmode": "prefer", "ssl": True},
        {"sslrootcert": "system"},
    ],
    ids=named,
)
async def test_asking_for_tls_never_ends_in_plaintext(options: dict[str, Any]) -> None:
    async with serving(b"N") as port:
        with pytest.raises(ConnectionFailedError, match="SSL"):
            await Client(f"postgresql://me@127.0.0.1:{port}/db", **options).connect()


async def test_tls_over_a_unix_socket_is_refused(
    client: Client, connection: PostgreSQLConnection, open_client: Open
) -> None:
    directory = (await client.val(connection, "SHOW unix_socket_directories")).split(",")[0].strip()
    port = await client.val(connection, "SHOW port")
    keywords = client.driver._arguments.keywords
    url = f"postgresql:///{keywords['database']}?host={directory}&port={port}"
    login = {"user": keywords["user"], "password": keywords.get("password", "")}
    plain = await open_client(url, **login).connect()
    assert await client.val(plain, "SELECT inet_client_addr() IS NULL")
    libpq = await open_client(url, sslmode="require", **login).connect()
    assert libpq.is_alive()
    with pytest.raises(ConnectionFailedError, match="unix sockets never have"):
        await open_client(url, ssl=True, **login).connect()


async def test_several_hosts_are_tried_in_order(postgresql_url: str, open_client: Open) -> None:
    url = DatabaseURL(postgresql_url)
    client = open_client(str(url.replace(hosts=[("127.0.0.1", 1), (url.hostname or "", url.port)])))
    assert await client.val(await client.connect(), "SELECT 1") == 1
    assert "127.0.0.1:1, " in client.driver._arguments.target


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_the_password_may_be_a_callable(open_client: Open, kind: str) -> None:
    asked: list[int] = []

    def plain() -> str:
        asked.append(1)
        return "secret"

    async def awaited() -> str:
        return plain()

    client = open_client(password=plain if kind == "plain" else awaited)
    await client.connect()
    await client.connect()
    assert asked == [1, 1]


async def test_options_reach_the_server(open_client: Open, postgresql_url: str) -> None:
    url = str(
        DatabaseURL(postgresql_url).replace(
            options={
                "application_name": "my app",
                "options": "-c work_mem=5MB",
                "statement_cache_size": "0",
            }
        )
    )
    client = open_client(url, server_settings={"search_path": "pg_catalog", "jit": False})
    connection = await client.connect()
    for name, value in {
        "application_name": "my app",
        "work_mem": "5MB",
        "search_path": "pg_catalog",
        "jit": "off",
    }.items():
        assert await client.val(connection, f"SHOW {name}") == value


async def test_without_statement_cache_nothing_stays_prepared(open_client: Open) -> None:
    client = open_client(statement_cache_size=0)
    connection = await client.connect()
    await client.run(connection, "CREATE TABLE t (id int)")
    await client.many(connection, "INSERT INTO t VALUES (:id)", [{"id": 1}, {"id": 2}])
    for hold in (True, False):
        cursor = await client.cursor(connection, "SELECT id FROM t WHERE id > :n", {"n": 0}, hold)
        assert await read(cursor, 1) == [1, 2]
    await client.run(connection, "UPDATE t SET id = id + :n", {"n": 1})
    assert await client.all(connection, "SELECT id FROM t WHERE id > :n", {"n": 0}) == [(2,), (3,)]
    assert await client.all(connection, "SELECT name FROM pg_prepared_statements") == []


# -- options


def arguments(url: str = "postgresql://h/d", **options: Any) -> dict[str, Any]:
    parsed = DatabaseURL(url)
    return connect_arguments(parsed, {**parsed.options, **options}).keywords


def test_urls_become_arguments() -> None:
    assert arguments("postgresql://u:p%40@h:1/d") == {
        "host": ["h"],
        "port": [1],
        "user": "u",
        "password": "p@",
        "database": "d",
    }
    assert arguments("postgresql://a,b:2/d") == {
        "host": ["a", "b"],
        "port": [5432, 2],
        "database": "d",
    }
    assert arguments("postgresql:///d?host=/run/pg&port=6&user=u") == {
        "host": ["/run/pg"],
        "port": [6],
        "user": "u",
        "database": "d",
    }
    assert arguments("postgresql://[::1]:5/d")["host"] == ["::1"]
    assert arguments("postgresql://") == {}
    assert arguments("postgresql://:7/d") == {"port": [7], "database": "d"}


def test_keywords_win_over_the_url() -> None:
    given = arguments(
        "postgresql://u:p@h:1/d?timeout=5",
        host="other",
        port="2",
        user="me",
        password="",
        database="mine",
        timeout=1.5,
    )
    assert given == {
        "host": ["other"],
        "port": [2],
        "user": "me",
        "password": "",
        "database": "mine",
        "timeout": 1.5,
    }


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("timeout", "2.5", 2.5),
        ("statement_cache_size", "0", 0),
        ("max_cached_statement_lifetime", "10", 10),
        ("max_cacheable_statement_size", "10", 10),
        ("direct_tls", "yes", True),
        ("direct_tls", "off", False),
        ("target_session_attrs", "read_write", "read-write"),
        ("krbsrvname", "postgres", "postgres"),
        ("gsslib", "gssapi", "gssapi"),
        ("passfile", "/x", "/x"),
    ],
)
def test_texts_of_a_url_are_converted(name: str, text: str, value: object) -> None:
    assert arguments(f"postgresql://h/d?{name}={text}")[name] == value


def test_other_names_of_options() -> None:
    assert arguments(prepared_statement_cache_size=0)["statement_cache_size"] == 0
    assert arguments(connect_timeout="3")["timeout"] == 3.0
    assert "timeout" not in arguments(connect_timeout="0")
    with pytest.raises(OptionError, match="mean the same"):
        arguments(timeout=1, connect_timeout=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": 1}, "unknown option 'colour'; .* statement_cache_size"),
        ({"loop": None}, "'loop' is not taken: .* running event loop"),
        ({"record_class": dict}, "'record_class' is not taken"),
        ({"connection_class": dict}, "'connection_class' is not taken"),
        ({"dsn": "x"}, "'dsn' is not taken"),
        ({"timeout": "soon"}, "timeout is 'soon'"),
        ({"timeout": 0}, "above 0"),
        ({"statement_cache_size": -1}, "whole number"),
        ({"statement_cache_size": True}, "whole number"),
        ({"direct_tls": "perhaps"}, "true or false"),
        ({"target_session_attrs": "best"}, "one of any, primary"),
        ({"sslmode": "yes"}, "one of disable, allow"),
        ({"ssl": "perhaps"}, "ssl is 'perhaps'"),
        ({"ssl": False, "sslmode": "require"}, "contradict"),
        ({"ssl": True, "sslmode": "disable"}, "contradict"),
        ({"ssl": ssl.create_default_context(), "sslmode": "disable"}, "forbids"),
        ({"ssl": ssl.create_default_context(), "sslcert": "x"}, "SSLContext"),
        ({"sslrootcert": "system", "sslmode": "require"}, "verify-full"),
        ({"sslnegotiation": "quick"}, "one of postgres, direct"),
        ({"ssl": True, "sslcert": "/nowhere.crt"}, "cannot use sslcert"),
        ({"server_settings": "a=b"}, "must be a mapping"),
        ({"server_settings": {"a": None}}, "maps names to strings"),
        ({"password": 5}, "'int'"),
        ({"init": 5}, "async callable"),
        ({"user": 5}, "user is 5; it must be a string"),
        ({"host": 5}, "host is 5"),
        ({"host": "a,b", "port": "1,2,3"}, "2 hosts but 3 ports"),
    ],
    ids=named,
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        arguments("postgresql://h/d", **options)


def test_option_names_are_asyncpgs_and_ours() -> None:
    names = PostgreSQLDriver.option_names()
    assert {"host", "ssl", "server_settings", "sslmode", "sslrootcert", "init"} <= names
    assert not {"loop", "record_class", "command_timeout", "dsn"} & names


def test_tls_options() -> None:
    context = ssl.create_default_context()
    assert arguments(ssl=context)["ssl"] is context
    assert arguments(ssl=True)["ssl"] is True
    assert arguments(ssl=False)["ssl"] == "disable"
    assert arguments(ssl="VERIFY_CA")["ssl"] == "verify-ca"
    assert arguments(ssl=True, sslmode="verify-full")["ssl"] is True
    assert arguments(ssl="require", sslmode="verify-full")["ssl"] == "verify-full"
    assert arguments(sslrootcert="system")["ssl"] is True
    files = arguments(ssl=True, sslrootcert="/ca.crt", sslcert="/me.crt", sslkey="/me.key")
    assert files["ssl"] == "verify-full"
    assert files["dsn"] == "postgresql://?sslcert=%2Fme.crt&sslkey=%2Fme.key&sslrootcert=%2Fca.crt"
    direct = arguments(ssl=context, sslnegotiation="direct")
    assert direct["dsn"] == "postgresql://?sslnegotiation=direct"
    own = arguments(ssl=True, ssl_min_protocol_version="TLSv1.3", sslnegotiation="postgres")
    assert own["ssl"].minimum_version is ssl.TLSVersion.TLSv1_3
    assert arguments(sslrootcert=Path("/ca.crt"), ssl=True)["ssl"] == "verify-full"
    with pytest.raises(OptionError, match=r"nowhere|sslcrl"):
        arguments(sslrootcert="system", sslcrl="/nowhere.crl")
    with pytest.raises(OptionError, match="TLSv9"):
        arguments(ssl=True, ssl_min_protocol_version="TLSv9")


def test_tls_without_a_host_goes_to_localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGHOST", raising=False)
    assert arguments("postgresql:///d", ssl=True)["host"] == ["localhost"]
    assert "host" not in arguments("postgresql:///d")


async def test_missing_certificates_are_an_option_error() -> None:
    client = Client("postgresql://h/d?sslmode=verify-ca&sslrootcert=/nowhere.crt")
    with pytest.raises((OptionError, ConnectionFailedError), match=r"nowhere|No such file"):
        await client.connect()


def test_a_list_of_revoked_certificates_is_asked() -> None:
    listed = str(Path(__file__).with_name("certificate.pem"))
    context = arguments(sslrootcert="system", sslcrl=listed)["ssl"]
    assert context.verify_flags & ssl.VERIFY_CRL_CHECK_CHAIN


# -- what goes wrong seldom


async def test_what_asyncpg_finds_wrong_with_its_options(open_client: Open) -> None:
    client = open_client(sslnegotiation="direct")
    with pytest.raises(OptionError, match="direct TLS requires"):
        await client.connect()


async def test_a_batch_after_a_change_of_the_schema(
    client: Client, connection: PostgreSQLConnection, notes: str
) -> None:
    insert = "INSERT INTO notes (text) VALUES (:text)"
    await client.many(connection, insert, [{"text": "a"}])
    await client.run(await client.connect(), "ALTER TABLE notes ALTER text TYPE text")
    await client.many(connection, insert, [{"text": "x" * 200}])
    assert await client.val(connection, "SELECT max(length(text)) FROM notes") == 200


async def test_an_internal_error_is_told_and_not_run_again(
    client: Client, connection: PostgreSQLConnection
) -> None:
    await client.run(connection, "CREATE TABLE runs (n int)")
    failing = (
        "DO $$ BEGIN INSERT INTO runs VALUES (1); "
        "RAISE EXCEPTION 'broken' USING ERRCODE = 'XX000'; END $$"
    )
    with pytest.raises(InternalError, match="broken"):
        await client.run(connection, failing)
    assert await client.val(connection, "SELECT 1") == 1


async def test_a_held_cursor_whose_close_is_cancelled(
    postgresql_url: str, open_client: Open
) -> None:
    async with Proxy(postgresql_url) as proxy:
        client = open_client(proxy.url)
        connection = await client.connect()
        cursor = await client.cursor(connection, "SELECT generate_series(1, 100)", hold=True)
        assert len(await cursor.fetch(5)) == 5
        proxy.stall()
        closing = asyncio.create_task(cursor.close())
        await asyncio.sleep(0.05)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert connection.dirty
        assert not connection.is_alive()


async def test_a_connect_that_fails_after_it_was_cancelled(
    postgresql_url: str, open_client: Open
) -> None:
    async with Proxy(postgresql_url) as proxy:
        client = open_client(proxy.url)
        proxy.stall()
        connecting = asyncio.create_task(client.connect())
        await asyncio.sleep(0.05)
        connecting.cancel()
        proxy.budget = 5
        proxy.resume()
        with pytest.raises(asyncio.CancelledError):
            await connecting

        async def ended() -> bool:
            return not client.driver._abandoned

        await eventually(ended)
