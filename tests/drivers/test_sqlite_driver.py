from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import aiosqlite
import pytest

from fastdb._speedups import QueryCache, Record
from fastdb.compiler import Compiler
from fastdb.drivers import sqlite_worker
from fastdb.drivers.base import Outcome, TransactionOptions
from fastdb.drivers.sqlite import SQLiteConnection, SQLiteCursor, SQLiteDriver
from fastdb.exceptions import (
    ConnectionFailedError,
    DatabaseError,
    DataError,
    IntegrityError,
    NotConnectedError,
    NotSupportedError,
    OperationalError,
    OptionError,
    ProgrammingError,
)
from fastdb.url import DatabaseURL
from tests.descriptors import open_descriptors

ENDLESS = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
ENDLESS_INSERT = f"INSERT INTO notes (id) {ENDLESS}"


def make_driver(url: str, **options: Any) -> SQLiteDriver:
    parsed = DatabaseURL(url)
    return SQLiteDriver(parsed, {**parsed.options, **options})


class Client:
    """A connection that takes SQL with values, as fastdb's own does."""

    def __init__(self, driver: SQLiteDriver, connection: SQLiteConnection) -> None:
        self.connection = connection
        self.queries = QueryCache(Compiler(driver.sqlalchemy_dialect, driver.lexical, "qmark"))

    @classmethod
    async def open(cls, url: str, **options: Any) -> Client:
        driver = make_driver(url, **options)
        return cls(driver, await driver.connect())

    @property
    def raw(self) -> aiosqlite.Connection:
        return cast("aiosqlite.Connection", self.connection.raw)

    async def execute(self, query: Any, **values: Any) -> Outcome:
        plan, args, _ = self.queries.prepare(query, values or None)
        return await self.connection.execute(plan, args)

    async def fetch_all(self, query: Any, **values: Any) -> list[Record]:
        plan, args, _ = self.queries.prepare(query, values or None)
        return await self.connection.fetch_all(plan, args)

    async def fetch_one(self, query: Any, **values: Any) -> Record | None:
        plan, args, _ = self.queries.prepare(query, values or None)
        return await self.connection.fetch_one(plan, args)

    async def fetch_val(self, query: Any, **values: Any) -> Any:
        record = await self.fetch_one(query, **values)
        return None if record is None else record[0]

    async def execute_many(self, query: Any, rows: Any, size: int = 100) -> None:
        await self.connection.execute_many(self.queries.prepare_many(query, rows, size))

    async def cursor(self, query: Any, **values: Any) -> SQLiteCursor:
        plan, args, _ = self.queries.prepare(query, values or None)
        return await self.connection.open_cursor(plan, args, hold=False)

    async def begin(self, **options: Any) -> None:
        await self.connection.begin(TransactionOptions(**options))

    async def notes(self) -> int:
        return cast("int", await self.fetch_val("SELECT count(*) FROM notes"))


@pytest.fixture
async def client(sqlite_url: str) -> AsyncIterator[Client]:
    client = await Client.open(sqlite_url)
    await client.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT UNIQUE)")
    yield client
    await client.connection.close()


@pytest.fixture
async def other(client: Client, sqlite_url: str) -> AsyncIterator[Client]:
    other = await Client.open(sqlite_url)
    yield other
    await other.connection.close()


@pytest.fixture
def unknown_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_worker, "KNOWN_LAYOUT", False)


def worker_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fastdb-sqlite"]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def open_files() -> int:
    gc.collect()  # what an earlier test left behind is not to be closed in between
    return open_descriptors()


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread does."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def started(
    client: Client, operation: Callable[..., Awaitable[Any]], *args: Any
) -> asyncio.Task[Any]:
    """Return the task of an operation whose job is running on the thread."""
    task = asyncio.ensure_future(operation(*args))
    await until(lambda: client.connection._worker._current is not None)
    await asyncio.sleep(0.005)
    return task


# -- queries


async def test_rows_become_records(client: Client) -> None:
    await client.execute("INSERT INTO notes (text) VALUES (:a), (:b)", a="one", b="two")
    assert [(r.id, r.text) for r in await client.fetch_all("SELECT * FROM notes")] == [
        (1, "one"),
        (2, "two"),
    ]
    assert tuple(await client.fetch_one("SELECT * FROM notes ORDER BY id DESC") or ()) == (2, "two")
    assert await client.fetch_all("SELECT * FROM notes WHERE id = :id", id=9) == []
    assert await client.fetch_one("SELECT * FROM notes WHERE id = :id", id=9) is None


async def test_fetch_works_for_any_statement(client: Client) -> None:
    assert await client.fetch_all("INSERT INTO notes (text) VALUES ('a')") == []
    assert await client.fetch_one("UPDATE notes SET text = 'b'") is None
    assert await client.fetch_val("INSERT INTO notes (text) VALUES ('x'), ('y') RETURNING id") == 2
    assert not client.connection.in_transaction
    assert await client.notes() == 3


async def test_first_row_holds_no_lock(client: Client, other: Client) -> None:
    await client.execute("INSERT INTO notes (text) VALUES ('a'), ('b'), ('c'), ('d')")
    assert await client.fetch_val("SELECT id FROM notes ORDER BY id") == 1
    await other.execute("DELETE FROM notes")  # in rollback-journal mode a reader would block it


async def test_result_of_each_kind_of_statement(client: Client) -> None:
    async def outcome(sql: str) -> tuple[list[tuple[Any, ...]], int, int | None]:
        result = await client.execute(sql)
        return [tuple(row) for row in result.rows], result.rowcount, result.lastrowid

    assert await outcome("INSERT INTO notes (text) VALUES ('a')") == ([], 1, 1)
    assert await outcome("INSERT INTO notes (text) VALUES ('b'), ('c')") == ([], 2, 3)
    assert await outcome("INSERT INTO notes (text) VALUES ('d') RETURNING text") == (
        [("d",)],
        1,
        4,
    )
    assert await outcome("UPDATE notes SET text = text || '!' WHERE id > 2") == ([], 2, None)
    assert await outcome("UPDATE notes SET text = 'z' WHERE id > 99") == ([], 0, None)
    assert await outcome("UPDATE notes SET text = 'z' WHERE id = 1 RETURNING id") == (
        [(1,)],
        1,
        None,
    )
    assert await outcome("DELETE FROM notes WHERE id IN (3, 4)") == ([], 2, None)
    assert await outcome(
        "WITH gone AS (SELECT 2 AS id) DELETE FROM notes WHERE id IN (SELECT id FROM gone)"
    ) == ([], 1, None)
    assert await outcome("SELECT id FROM notes") == ([(1,)], -1, None)
    assert await outcome("CREATE TABLE more (id INTEGER)") == ([], -1, None)
    assert await outcome("PRAGMA user_version") == ([(0,)], -1, None)


async def test_row_id_is_never_an_older_one(client: Client) -> None:
    async def lastrowid(sql: str) -> int | None:
        return (await client.execute(sql)).lastrowid

    await client.execute("CREATE TABLE keyed (k TEXT PRIMARY KEY) WITHOUT ROWID")
    await client.execute("CREATE TABLE twin (id INTEGER PRIMARY KEY)")
    assert await lastrowid("INSERT INTO notes (text) VALUES ('a')") == 1
    assert await lastrowid("INSERT OR IGNORE INTO notes (text) VALUES ('a')") is None
    assert await lastrowid("INSERT INTO notes (text) VALUES ('a') ON CONFLICT DO NOTHING") is None
    upsert = "INSERT INTO notes (text) VALUES ('{}') ON CONFLICT (text) DO UPDATE SET text = 'b'"
    assert await lastrowid(upsert.format("a")) is None
    assert await lastrowid(upsert.format("c")) == 2
    assert await lastrowid("INSERT INTO keyed VALUES ('x')") is None
    assert await lastrowid("INSERT INTO twin VALUES (2)") == 2  # the same as before, but its own
    assert await lastrowid("REPLACE INTO twin VALUES (2)") == 2


async def test_row_id_after_inserts_elsewhere(client: Client) -> None:
    await client.execute("CREATE TABLE keyed (k TEXT PRIMARY KEY) WITHOUT ROWID")
    await client.raw.execute("INSERT INTO notes (id) VALUES (70)")
    assert (await client.execute("INSERT INTO keyed VALUES ('x')")).lastrowid is None
    await client.execute_many("INSERT INTO notes (id) VALUES (:id)", [{"id": 80}])
    assert (await client.execute("INSERT INTO keyed VALUES ('y')")).lastrowid is None


async def test_expressions_with_processors_and_regexp(client: Client) -> None:
    import datetime

    import sqlalchemy as sa

    table = sa.Table(
        "events",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("day", sa.Date),
        sa.Column("name", sa.String),
    )
    await client.execute(sa.schema.CreateTable(table))
    day = datetime.date(2024, 2, 29)
    await client.execute(table.insert(), day=day, name="leap")
    record = await client.fetch_one(table.select().where(table.c.name.regexp_match("^le")))
    assert record is not None
    assert record.day == day
    assert record[table.c.name] == "leap"


async def test_dates_that_sqlite3_reads_itself(sqlite_url: str) -> None:
    import datetime

    import sqlalchemy as sa

    sqlite3.register_converter("day", lambda text: datetime.date.fromisoformat(text.decode()))
    client = await Client.open(f"{sqlite_url}?detect_types={sqlite3.PARSE_DECLTYPES}")
    await client.execute("CREATE TABLE days (day day)")
    await client.execute("INSERT INTO days VALUES ('2024-02-29')")
    days = sa.table("days", sa.column("day", sa.Date))
    assert await client.fetch_val(days.select()) == datetime.date(2024, 2, 29)
    await client.connection.close()


async def test_row_factory_of_the_user_is_for_the_user(client: Client) -> None:
    client.raw.row_factory = cast("Any", lambda cursor, row: {"row": row})
    assert tuple(await client.fetch_one("SELECT 1 AS a") or ()) == (1,)
    cursor = await client.raw.execute("SELECT 1 AS a")
    assert await cursor.fetchone() == {"row": (1,)}
    many = await client.cursor("SELECT 1 AS a")
    assert [r.a for r in await many.fetch(5)] == [1]


# -- errors


@pytest.mark.parametrize(
    ("sql", "values", "kind", "theirs"),
    [
        ("SELEC 1", {}, ProgrammingError, sqlite3.OperationalError),
        ("SELECT * FROM nowhere", {}, ProgrammingError, sqlite3.OperationalError),
        ("SELECT nothing FROM notes", {}, ProgrammingError, sqlite3.OperationalError),
        ("CREATE TABLE notes (id)", {}, ProgrammingError, sqlite3.OperationalError),
        # sqlite3 raises its Warning up to some 3.11, its ProgrammingError later.
        ("SELECT 1; SELECT 2", {}, ProgrammingError, Exception),
        ("INSERT INTO notes (id) VALUES (1), (1)", {}, IntegrityError, sqlite3.IntegrityError),
        ("SELECT :n", {"n": 2**64}, DataError, OverflowError),
        ("SELECT :n", {"n": object()}, DataError, sqlite3.Error),
        ("SELECT :n", {"n": "\ud800"}, DataError, UnicodeEncodeError),
        ("SELECT abs(-9223372036854775808)", {}, DatabaseError, sqlite3.DatabaseError),
        ("COMMIT", {}, OperationalError, sqlite3.OperationalError),
    ],
)
async def test_errors_are_of_both_classes(
    client: Client, sql: str, values: dict[str, Any], kind: type[Exception], theirs: type[Exception]
) -> None:
    for operation in (client.execute, client.fetch_all, client.fetch_one, client.cursor):
        with pytest.raises(kind) as caught:
            await operation(sql, **values)
        assert isinstance(caught.value, theirs)
        assert caught.value.__cause__ is not None
        assert not isinstance(caught.value.__cause__, kind)
    with pytest.raises(kind):
        await client.execute_many(sql, [values])
    assert not client.connection.in_transaction
    assert await client.fetch_val("SELECT 1") == 1


async def test_error_codes_are_kept(client: Client) -> None:
    await client.execute("INSERT INTO notes (id) VALUES (1)")
    with pytest.raises(sqlite3.IntegrityError) as caught:
        await client.execute("INSERT INTO notes (id) VALUES (1)")
    assert caught.value.sqlite_errorname == "SQLITE_CONSTRAINT_PRIMARYKEY"


async def test_exceptions_of_converters_pass_unchanged(client: Client) -> None:
    import sqlalchemy as sa

    class Odd(sa.types.TypeDecorator[str]):
        impl = sa.String
        cache_ok = True

        def process_result_value(self, value: Any, dialect: Any) -> str:
            raise LookupError(value)

    query = sa.select(sa.literal_column("1", Odd()).label("x"))
    for operation in (client.execute, client.fetch_all, client.fetch_one):
        with pytest.raises(LookupError):
            await operation(query)
    cursor = await client.cursor(query)
    with pytest.raises(LookupError):
        await cursor.fetch(1)
    await cursor.close()
    assert await client.fetch_val("SELECT 1") == 1


async def test_closed_connection_says_so(client: Client) -> None:
    raw = client.raw
    await client.connection.close()
    await client.connection.close()
    client.connection.terminate()
    assert not client.connection.is_alive()
    assert not client.connection.in_transaction
    for operation in (client.notes, client.begin, client.connection.commit):
        with pytest.raises(NotConnectedError, match="connection is closed"):
            await operation()
    await client.connection.rollback()
    await client.connection.rollback_to_savepoint()
    with pytest.raises(NotConnectedError, match="connection is closed"):
        await raw.execute("SELECT 1")
    with pytest.raises(NotConnectedError, match="connection is closed"):
        _ = raw.in_transaction


async def test_connection_that_the_user_closed(client: Client) -> None:
    await client.raw.close()
    assert not client.connection.is_alive()
    assert not client.connection.in_transaction
    with pytest.raises(NotConnectedError, match="connection is closed"):
        await client.notes()
    await client.connection.close()


# -- execute_many


def rows(count: int) -> Iterator[dict[str, int]]:
    return ({"id": number} for number in range(1, count + 1))


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
async def test_execute_many_in_batches(client: Client, count: int) -> None:
    await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(count))
    assert await client.notes() == count
    assert not client.connection.in_transaction


@pytest.mark.parametrize("count", [50, 250])
async def test_execute_many_is_all_or_nothing(client: Client, count: int) -> None:
    await client.execute("INSERT INTO notes (id) VALUES (:id)", id=count)
    with pytest.raises(IntegrityError):
        await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(count))
    assert await client.notes() == 1
    assert not client.connection.in_transaction


@pytest.mark.parametrize("count", [50, 250])
async def test_execute_many_inside_a_transaction(client: Client, count: int) -> None:
    await client.begin()
    await client.execute("INSERT INTO notes (id) VALUES (:id)", id=count)
    with pytest.raises(IntegrityError):
        await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(count))
    assert await client.notes() == 1
    await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(count - 1))
    assert client.connection.in_transaction
    await client.connection.commit()
    assert await client.notes() == count


async def test_execute_many_undoes_all_when_the_rows_fail(client: Client) -> None:
    def failing() -> Iterator[dict[str, int]]:
        yield from rows(250)
        raise LookupError("no more")

    with pytest.raises(LookupError):
        await client.execute_many("INSERT INTO notes (id) VALUES (:id)", failing())
    assert await client.notes() == 0
    assert not client.connection.in_transaction


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO notes (id) VALUES (:id) RETURNING id",
        "WITH new AS (SELECT :id AS id) INSERT INTO notes (id) SELECT id FROM new",
        "/* a comment that is long enough */ INSERT INTO notes (id) VALUES (:id)",
    ],
)
async def test_execute_many_of_what_sqlite3_refuses(client: Client, sql: str) -> None:
    await client.execute_many(sql, rows(150))
    assert await client.notes() == 150
    await client.execute_many("SELECT :id", rows(3))


# -- cursors


async def test_cursors_side_by_side_with_other_statements(client: Client) -> None:
    await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(10))
    first = await client.cursor("SELECT id FROM notes ORDER BY id")
    second = await client.cursor("SELECT id FROM notes ORDER BY id DESC")
    assert [r.id for r in await first.fetch(3)] == [1, 2, 3]
    await client.execute("UPDATE notes SET text = 'seen' WHERE id = 1")
    assert [r.id for r in await second.fetch(2)] == [10, 9]
    assert [r.id for r in await first.fetch(100)] == [4, 5, 6, 7, 8, 9, 10]
    assert await first.fetch(100) == []
    await first.close()
    await second.close()
    await second.close()
    assert await second.fetch(1) == []


async def test_cursor_whose_last_fetch_was_full(client: Client) -> None:
    await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(4))
    cursor = await client.cursor("SELECT id FROM notes")
    assert [len(await cursor.fetch(2)) for _ in range(4)] == [2, 2, 0, 0]


async def test_closed_cursor_lets_others_write(client: Client, other: Client) -> None:
    await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(1000))
    cursor = await client.cursor("SELECT id FROM notes")
    await cursor.fetch(1)
    await cursor.close()
    await other.execute("DELETE FROM notes")


async def test_cursor_over_changes_has_made_them_all(client: Client) -> None:
    cursor = await client.cursor("INSERT INTO notes (text) VALUES ('a'), ('b') RETURNING id")
    assert not client.connection.in_transaction
    assert [r.id for r in await cursor.fetch(1)] == [1]
    await cursor.close()
    assert await client.notes() == 2
    nothing = await client.cursor("UPDATE notes SET text = NULL")
    assert await nothing.fetch(1) == []


async def test_cursor_fails_in_the_middle(client: Client) -> None:
    await client.execute("INSERT INTO notes (text) VALUES ('[1]'), ('[2]'), ('[3]'), ('oops')")
    cursor = await client.cursor("SELECT json(text) FROM notes")
    with pytest.raises(DatabaseError, match="malformed JSON"):
        await cursor.fetch(10)
    assert await cursor.fetch(1) == []


async def test_commit_and_rollback_beside_an_open_cursor(client: Client) -> None:
    await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(5))
    await client.begin()
    cursor = await client.cursor("SELECT id FROM notes ORDER BY id")
    await cursor.fetch(1)
    await client.execute("DELETE FROM notes WHERE id = 5")
    await client.connection.commit()
    assert await client.notes() == 4
    assert [r.id for r in await cursor.fetch(2)] == [2, 3]
    await cursor.close()


# -- transactions


async def test_commit_rollback_and_savepoints(client: Client, other: Client) -> None:
    insert = "INSERT INTO notes (text) VALUES (:text)"
    connection = client.connection
    await client.begin()
    assert connection.in_transaction
    await client.execute(insert, text="kept")
    await connection.savepoint()
    await client.execute(insert, text="undone")
    await connection.savepoint()
    await client.execute(insert, text="undone, too")
    await connection.release_savepoint()
    await connection.rollback_to_savepoint()
    assert await other.notes() == 0
    await connection.commit()
    assert not connection.in_transaction
    assert [r.text for r in await other.fetch_all("SELECT text FROM notes")] == ["kept"]
    await client.begin()
    await client.execute(insert, text="gone")
    await connection.rollback()
    await connection.rollback()
    assert await client.notes() == 1


async def test_begins_immediate_unless_told(client: Client, sqlite_url: str) -> None:
    other = await Client.open(sqlite_url, timeout=0)
    await client.begin()
    assert await client.notes() == 0
    with pytest.raises(OperationalError, match="locked"):
        await other.begin(begin="immediate")
    assert not other.connection.in_transaction
    await other.begin(begin="deferred")
    assert await other.notes() == 0
    await other.connection.rollback()
    await client.connection.rollback()
    await client.begin(begin="EXCLUSIVE")
    with pytest.raises(OperationalError, match="locked"):
        await other.notes()
    await client.connection.rollback()
    await other.connection.close()


async def insert_many(client: Client) -> None:
    await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(2))


async def insert_in_savepoint(client: Client) -> None:
    await client.connection.savepoint()
    await client.execute("INSERT INTO notes (id) VALUES (1)")
    await client.connection.release_savepoint()


async def insert_returning_in_pieces(client: Client) -> None:
    cursor = await client.cursor("INSERT INTO notes (id) VALUES (1) RETURNING id")
    assert [record.id for record in await cursor.fetch(10)] == [1]
    await cursor.close()


async def read_in_pieces_and_insert(client: Client) -> None:
    cursor = await client.cursor("SELECT count(*) AS count FROM notes")
    assert [record.count for record in await cursor.fetch(10)] == [0]
    await cursor.close()
    await client.execute("INSERT INTO notes (id) VALUES (1)")


async def insert_on_the_raw_connection(client: Client) -> None:
    assert client.raw.in_transaction
    await client.raw.execute("INSERT INTO notes (id) VALUES (1)")


@pytest.mark.parametrize(
    "first",
    [
        insert_many,
        insert_in_savepoint,
        insert_returning_in_pieces,
        read_in_pieces_and_insert,
        insert_on_the_raw_connection,
    ],
)
async def test_begin_travels_with_the_first_statement(
    client: Client, other: Client, first: Callable[[Client], Awaitable[None]]
) -> None:
    await client.begin()
    assert client.connection.in_transaction
    await other.begin(begin="immediate")  # nothing is locked yet
    await other.connection.rollback()
    await first(client)
    assert client.connection.in_transaction
    assert await other.notes() == 0
    await client.connection.rollback()
    assert not client.connection.in_transaction
    assert await client.notes() == 0
    await client.begin()
    await first(client)
    await client.connection.commit()
    assert await other.notes() in (1, 2)


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_transaction_without_a_statement_locks_nothing(
    client: Client, other: Client, end: str
) -> None:
    await other.begin(begin="exclusive")
    await client.begin()
    with pytest.raises(OperationalError, match="a transaction is open"):
        await client.begin()
    await getattr(client.connection, end)()
    assert not client.connection.in_transaction
    await other.connection.rollback()
    with pytest.raises(OperationalError, match="cannot commit"):
        await client.connection.commit()


async def test_begin_that_fails_is_tried_again(client: Client, sqlite_url: str) -> None:
    other = await Client.open(sqlite_url, busy_timeout=20)
    await client.begin(begin="immediate")
    await other.begin()
    insert = "INSERT INTO notes (id) VALUES (1)"
    for attempt in (other.execute(insert), other.connection.savepoint(), other.raw.execute(insert)):
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            await attempt
    await client.connection.rollback()
    await other.execute(insert)
    assert await client.notes() == 0
    await other.connection.commit()
    assert await client.notes() == 1
    await other.connection.close()


async def test_cancelled_while_the_first_statement_waits_to_begin(
    client: Client, other: Client
) -> None:
    await client.begin(begin="immediate")
    await other.begin()
    await cancel(await started(other, other.execute, "INSERT INTO notes (id) VALUES (1)"))
    await other.connection.rollback()
    assert not other.connection.in_transaction
    await client.connection.rollback()
    assert await other.notes() == 0


async def test_commit_of_nothing_on_a_lost_connection_fails(client: Client) -> None:
    await client.begin()
    client.connection.terminate()
    with pytest.raises(NotConnectedError):
        await client.connection.commit()
    await client.connection.rollback()
    with pytest.raises(NotConnectedError):
        await client.begin()


async def test_readonly_is_kept_for_the_transaction(client: Client) -> None:
    await client.begin(readonly=True)
    assert await client.notes() == 0
    with pytest.raises(OperationalError, match="readonly"):
        await client.execute("INSERT INTO notes (id) VALUES (1)")
    await client.connection.commit()
    await client.execute("INSERT INTO notes (id) VALUES (1)")
    await client.begin(readonly=True)
    await client.connection.rollback()
    await client.execute("INSERT INTO notes (id) VALUES (2)")
    await client.execute("PRAGMA query_only = 1")
    await client.begin(readonly=True)
    await client.connection.commit()
    assert await client.fetch_val("PRAGMA query_only") == 1


@pytest.mark.parametrize("isolation", ["SERIALIZABLE", "serializable"])
async def test_serializable_is_what_it_is(client: Client, isolation: str) -> None:
    await client.begin(isolation=isolation, deferrable=False, readonly=False)
    await client.connection.rollback()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"isolation": "read_committed"}, NotSupportedError, "'read_committed'"),
        ({"isolation": "READ UNCOMMITTED"}, NotSupportedError, "shared cache"),
        ({"isolation": "snapshot"}, NotSupportedError, "'snapshot'"),
        ({"deferrable": True}, NotSupportedError, "deferrable"),
        ({"begin": "later"}, OptionError, "'later'.*'deferred', 'immediate', 'exclusive'"),
    ],
)
async def test_what_sqlite_cannot_do_is_refused(
    client: Client, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        await client.begin(**options)
    assert not client.connection.in_transaction


async def test_read_uncommitted_in_a_shared_cache(sqlite_url: str) -> None:
    driver = make_driver(sqlite_url, cache="shared")
    writer = Client(driver, await driver.connect())
    reader = Client(driver, await driver.connect())
    await writer.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY)")
    await writer.begin()
    await writer.execute("INSERT INTO notes (id) VALUES (1)")
    await reader.begin(isolation="read-uncommitted", readonly=True)
    assert await reader.notes() == 1
    await reader.connection.rollback()
    assert await reader.fetch_val("PRAGMA read_uncommitted") == 0
    with pytest.raises(OperationalError, match="locked"):
        await reader.notes()
    await writer.connection.close()
    await reader.connection.close()


async def test_a_transaction_that_sqlite_rolled_back(client: Client) -> None:
    await client.execute(
        "CREATE TRIGGER no BEFORE INSERT ON notes WHEN new.text = 'bad' "
        "BEGIN SELECT RAISE(ROLLBACK, 'not this'); END"
    )
    connection = client.connection
    await client.begin()
    await client.execute("INSERT INTO notes (text) VALUES ('good')")
    await connection.savepoint()
    with pytest.raises(IntegrityError, match="not this"):
        await client.execute("INSERT INTO notes (text) VALUES ('bad')")
    assert not connection.in_transaction
    # Outside a transaction, this would be committed at once.
    for operation in (client.execute, client.fetch_one, client.cursor):
        with pytest.raises(OperationalError, match="no longer open"):
            await operation("INSERT INTO notes (text) VALUES ('stray')")
    with pytest.raises(OperationalError, match="no longer open"):
        await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(2))
    for step in (connection.savepoint, connection.release_savepoint):
        with pytest.raises(OperationalError, match="no longer open"):
            await step()
    await connection.rollback_to_savepoint()
    with pytest.raises(OperationalError, match="cannot commit"):
        await connection.commit()
    await connection.rollback()
    assert await client.notes() == 0
    await client.execute("INSERT INTO notes (text) VALUES ('again')")
    assert await client.notes() == 1


async def test_failed_commit_leaves_it_to_the_caller(sqlite_url: str) -> None:
    client = await Client.open(sqlite_url, foreign_keys=True)
    await client.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
    await client.execute("CREATE TABLE b (a INTEGER REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
    await client.begin()
    await client.execute("INSERT INTO b VALUES (1)")
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        await client.connection.commit()
    assert client.connection.in_transaction
    await client.connection.rollback()
    assert await client.fetch_val("SELECT count(*) FROM b") == 0
    await client.connection.close()


async def test_begin_inside_a_transaction_of_the_user(client: Client) -> None:
    await client.execute("BEGIN")
    with pytest.raises(OperationalError, match="a transaction is open"):
        await client.begin()
    assert client.connection.in_transaction
    await client.connection.rollback()
    assert not client.connection.in_transaction


# -- waiting for locks


async def test_waits_for_a_lock_and_gets_it(client: Client, other: Client) -> None:
    await client.begin(begin="immediate")
    waiting = asyncio.ensure_future(other.execute("INSERT INTO notes (id) VALUES (1)"))
    beginning = await started(other, asyncio.sleep, 0)
    await beginning
    assert not waiting.done()
    await client.connection.commit()
    assert (await waiting).lastrowid == 1


async def test_wait_for_a_lock_ends(client: Client, sqlite_url: str) -> None:
    other = await Client.open(sqlite_url, busy_timeout=20)
    await client.begin(begin="exclusive")
    for attempt in (
        other.begin(begin="immediate"),
        other.notes(),
        other.execute("INSERT INTO notes (id) VALUES (1)"),
        other.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(2)),
        other.cursor("SELECT * FROM notes"),
    ):
        with pytest.raises(OperationalError, match="database is locked"):
            await attempt
        assert not other.connection.in_transaction
    await client.connection.rollback()
    assert await other.notes() == 0
    await other.connection.close()


async def test_cancelled_wait_for_a_lock_does_nothing(client: Client, other: Client) -> None:
    await client.begin(begin="exclusive")
    begin = partial(other.begin, begin="immediate")
    for operation, args in (
        (begin, ()),
        (other.execute, ("INSERT INTO notes (id) VALUES (1)",)),
        (other.execute_many, ("INSERT INTO notes (id) VALUES (:id)", rows(2))),
    ):
        await cancel(await started(other, operation, *args))
        assert other.connection._worker._current is None
        assert not other.connection.in_transaction
    await client.connection.commit()
    assert await other.notes() == 0


async def test_commit_waits_for_readers(client: Client, other: Client) -> None:
    await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(1000))
    reading = await other.cursor("SELECT * FROM notes")
    await reading.fetch(1)
    await client.begin()
    await client.execute("DELETE FROM notes")
    await cancel(await started(client, client.connection.commit))
    assert client.connection.in_transaction
    committing = await started(client, client.connection.commit)
    await reading.close()
    await committing
    assert await other.notes() == 0


async def test_busy_timeout_as_sqlite_tells_it(sqlite_url: str) -> None:
    async def init(raw: aiosqlite.Connection) -> None:
        await raw.execute("PRAGMA busy_timeout = 4321")

    for options, milliseconds in (
        ({}, 5000),
        ({"timeout": "1.5"}, 1500),
        ({"busy_timeout": "700"}, 700),
        ({"init": init}, 4321),
    ):
        client = await Client.open(sqlite_url, **options)
        cursor = await client.raw.execute("PRAGMA busy_timeout")
        assert await cursor.fetchone() == (milliseconds,)
        assert await client.fetch_val("PRAGMA busy_timeout") == milliseconds
        await client.connection.close()


async def test_deferred_transaction_leaves_waiting_to_sqlite(client: Client, other: Client) -> None:
    await other.begin(begin="deferred")
    assert await other.notes() == 0
    await client.begin(begin="immediate")
    with pytest.raises(OperationalError, match="locked"):  # at once: waiting cannot help
        await other.execute("INSERT INTO notes (id) VALUES (1)")
    await other.connection.rollback()
    await client.connection.rollback()
    await other.execute("INSERT INTO notes (id) VALUES (1)")


# -- cancellation


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_cancelled_query_stops(client: Client, in_transaction: bool) -> None:
    if in_transaction:
        await client.begin()
        await client.execute("INSERT INTO notes (id) VALUES (1)")
    for operation in (client.execute, client.fetch_all, client.fetch_one, client.cursor):
        await cancel(await started(client, operation, ENDLESS))
        assert client.connection._worker._current is None
        assert await client.fetch_val("SELECT 1") == 1
    assert client.connection.in_transaction is in_transaction
    await client.connection.rollback()


async def test_cancelled_write_rolls_its_transaction_back(client: Client) -> None:
    await client.begin()
    await client.execute("INSERT INTO notes (id) VALUES (1)")
    await cancel(await started(client, client.execute, ENDLESS_INSERT))
    assert not client.connection.in_transaction
    with pytest.raises(OperationalError, match="no longer open"):
        await client.notes()
    await client.connection.rollback()
    assert await client.notes() == 0


async def test_job_that_did_not_start_is_dropped(client: Client) -> None:
    release = threading.Event()
    await client.raw.create_function("wait", 0, release.wait)
    held = asyncio.ensure_future(client.raw.execute("SELECT wait()"))
    await asyncio.sleep(0)
    dropped = asyncio.ensure_future(client.execute("INSERT INTO notes (id) VALUES (1)"))
    await asyncio.sleep(0)
    dropped.cancel()
    await asyncio.sleep(0)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await dropped
    await held
    assert await client.notes() == 0


@pytest.mark.parametrize("user_cursor", [False, True])
async def test_cancellation_spares_open_cursors(client: Client, user_cursor: bool) -> None:
    await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(200))
    if user_cursor:
        theirs = await client.raw.execute("SELECT id FROM notes ORDER BY id")
        assert await theirs.fetchone() == (1,)
    cursor = await client.cursor("SELECT id FROM notes ORDER BY id")
    assert [r.id for r in await cursor.fetch(1)] == [1]
    await cancel(await started(client, client.fetch_all, ENDLESS))
    assert [r.id for r in await cursor.fetch(2)] == [2, 3]
    assert await client.notes() == 200
    await cursor.close()
    await cancel(await started(client, client.fetch_all, ENDLESS))
    if user_cursor:
        assert await theirs.fetchone() == (2,)
        await theirs.close()


async def test_progress_handler_of_the_user_is_kept(client: Client) -> None:
    calls = []
    await client.raw.set_progress_handler(lambda: calls.append(1), 1000)
    await cancel(await started(client, client.fetch_all, ENDLESS))
    count = len(calls)
    assert count > 0
    await cancel(await started(client, client.fetch_all, ENDLESS))
    assert len(calls) > count


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_cancelled_execute_many_leaves_nothing(client: Client, in_transaction: bool) -> None:
    if in_transaction:
        await client.begin()
        await client.execute("INSERT INTO notes (text) VALUES ('before')")

    def endless() -> Iterator[dict[str, int]]:
        number = 1
        while True:
            number += 1
            yield {"id": number}

    insert = "INSERT INTO notes (id) VALUES (:id)"
    for size in (100_000, 10):
        task = asyncio.ensure_future(client.execute_many(insert, endless(), size))
        await asyncio.sleep(0.02)
        await cancel(task)
        assert client.connection._worker._current is None
        # An interrupted write may have taken the transaction with it.
        if not in_transaction or not client.connection.in_transaction:
            break
        assert await client.notes() == 1
    await client.connection.rollback()
    assert await client.notes() == 0
    assert not client.connection.in_transaction


async def test_cancelled_begin_and_savepoint_are_undone(client: Client) -> None:
    connection = client.connection
    for _ in range(30):
        task = asyncio.ensure_future(client.begin(begin="immediate"))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
            await connection.rollback()
        assert not connection.in_transaction
    await client.begin()
    for _ in range(30):
        task = asyncio.ensure_future(connection.savepoint())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
            await connection.release_savepoint()
        assert connection._session.savepoints == 0
    await connection.rollback()


async def test_rollback_is_not_stopped_by_a_cancellation(client: Client) -> None:
    await client.begin()
    await client.execute("INSERT INTO notes (id) VALUES (1)")
    task = asyncio.ensure_future(client.connection.rollback())
    await asyncio.sleep(0)
    await cancel(task)
    assert not client.connection.in_transaction
    assert await client.notes() == 0


async def test_cancellation_storm(client: Client) -> None:
    await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(10))
    cursor = await client.cursor("SELECT id FROM notes ORDER BY id")
    loop = asyncio.get_running_loop()
    for number in range(150):
        sql = ENDLESS if number % 3 else "SELECT count(*) FROM notes"
        task = asyncio.ensure_future(client.fetch_val(sql))
        loop.call_later(number % 7 / 2000, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            assert await task == 10
        # Neither an answer nor an interruption of the cancelled one arrives here.
        assert await client.fetch_val("SELECT :n", n=number) == number
    assert [r.id for r in await cursor.fetch(20)] == list(range(1, 11))


async def test_second_cancellation_gives_the_connection_up(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_worker, "_PATIENCE", 0.005)
    release = threading.Event()
    await client.raw.create_function("wait", 0, release.wait)
    task = await started(client, client.fetch_all, "SELECT wait()")
    task.cancel()
    await asyncio.sleep(0.002)
    assert not task.done()
    await cancel(task)
    assert not client.connection.is_alive()
    release.set()
    with pytest.raises(NotConnectedError):
        await client.notes()


async def test_second_cancellation_spares_a_job_that_ends(client: Client) -> None:
    task = await started(client, client.fetch_all, ENDLESS)
    task.cancel()
    await asyncio.sleep(0)
    await cancel(task)
    assert client.connection.is_alive()
    assert await client.notes() == 0


async def test_memory_survives_a_second_cancellation() -> None:
    client = await Client.open("sqlite://")
    release = threading.Event()
    await client.raw.create_function("wait", 0, release.wait)
    task = await started(client, client.fetch_all, "SELECT wait()")
    task.cancel()
    await asyncio.sleep(0.002)
    task.cancel()
    await asyncio.sleep(0.002)
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await client.fetch_val("SELECT 1") == 1
    await client.connection.close()


# -- the raw connection


async def test_raw_connection_interleaved_with_ours(client: Client) -> None:
    raw = client.raw
    assert isinstance(raw, aiosqlite.Connection)
    threads = set()
    await raw.create_function("thread", 0, lambda: threads.add(threading.get_ident()))

    async def ours(number: int) -> None:
        await client.fetch_all("SELECT thread()")
        await client.execute("INSERT INTO notes (id) VALUES (:id)", id=number)

    async def theirs(number: int) -> None:
        await raw.execute_fetchall("SELECT thread()")
        await raw.execute("INSERT INTO notes (id) VALUES (?)", (number,))

    for number in range(50):
        await asyncio.gather(ours(2 * number), theirs(2 * number + 1))
    assert await client.notes() == 100
    assert len(threads) == 1
    async with raw.execute("SELECT id FROM notes ORDER BY id") as cursor:
        assert [row[0] async for row in cursor] == list(range(100))
    with pytest.raises(sqlite3.OperationalError):
        await raw.execute("SELEC")


async def test_backup_and_iterdump_over_the_raw_connection(client: Client) -> None:
    await client.execute("INSERT INTO notes (text) VALUES ('copied')")
    copy = await Client.open("sqlite://")
    await client.raw.backup(copy.raw)
    assert await copy.fetch_val("SELECT text FROM notes") == "copied"
    await copy.connection.close()
    assert any(["copied" in line async for line in client.raw.iterdump()])


async def test_transaction_that_the_raw_connection_ended(client: Client) -> None:
    await client.begin()
    await client.raw.commit()
    with pytest.raises(OperationalError, match="on the raw"):
        await client.execute("INSERT INTO notes (id) VALUES (1)")
    await client.connection.rollback()


# -- opening, resetting and closing


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file::memory:?cache=shared"]
)
async def test_memory_lives_on_one_connection(url: str) -> None:
    driver = make_driver(url)
    assert driver.single_connection
    client = Client(driver, await driver.connect())
    await client.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY)")
    await client.begin()
    await client.execute("INSERT INTO notes (id) VALUES (1)")
    await client.cursor("SELECT * FROM notes")
    await client.connection.reset()
    assert await client.notes() == 0
    await client.connection.close()


async def test_named_memory_is_shared(tmp_path: Path) -> None:
    url = "sqlite:///file:fastdb_named?mode=memory&cache=shared&uri=true"
    first = await Client.open(url)
    await first.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY)")
    second = await Client.open(url)
    assert await second.notes() == 0
    await first.connection.close()
    await second.connection.close()
    assert not any("fastdb_named" in name for name in names_in(Path()))


async def test_relative_paths_are_of_the_first_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "c").mkdir()
    for url in ("sqlite:///x.db", "sqlite:///file:y.db", "sqlite:///z.db?mode=rwc"):
        driver = make_driver(url)
        monkeypatch.chdir(tmp_path / "a b")
        first = Client(driver, await driver.connect())
        await first.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY)")
        monkeypatch.chdir(tmp_path / "c")
        second = Client(driver, await driver.connect())
        assert await second.notes() == 0
        await first.connection.close()
        await second.connection.close()
    assert names_in(tmp_path / "a b") == {"x.db", "y.db", "z.db"}
    assert names_in(tmp_path / "c") == set()


async def test_parameters_of_sqlites_uri(client: Client, sqlite_url: str) -> None:
    for url in (f"{sqlite_url}?mode=ro", sqlite_url.replace("///", "///file:") + "?mode=ro"):
        reader = await Client.open(url)
        with pytest.raises(OperationalError, match="readonly"):
            await reader.execute("INSERT INTO notes (id) VALUES (1)")
        await reader.connection.close()
    reader = await Client.open(sqlite_url, immutable=True)
    assert await reader.notes() == 0
    await reader.connection.close()


async def test_odd_file_names(tmp_path: Path) -> None:
    for name in ("a b.db", "a?b.db", "a%41.db", "a#b.db", "ü.db"):
        for options in ({}, {"mode": "rwc"}):
            url = str(DatabaseURL("sqlite://").replace(database=str(tmp_path / name)))
            client = await Client.open(url, **options)
            await client.execute("CREATE TABLE IF NOT EXISTS notes (id)")
            await client.connection.close()
        assert name in names_in(tmp_path)
    assert len(names_in(tmp_path)) == 5


async def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, but long enough to look like one" * 20)
    threads, files = worker_threads(), open_files()
    for path, reason in (
        (tmp_path / "missing" / "x.db", "unable to open"),
        (tmp_path, "unable to open"),
        (tmp_path / "text", "not a database"),
    ):
        with pytest.raises(ConnectionFailedError, match=f"{path}.*{reason}") as caught:
            await make_driver(f"sqlite:///{path}").connect()
        assert isinstance(caught.value, sqlite3.DatabaseError)
    with pytest.raises(ConnectionFailedError, match="null"):
        await make_driver("sqlite:///a%00b").connect()
    assert (worker_threads(), open_files()) == (threads, files)


async def test_settings_of_the_session(sqlite_url: str) -> None:
    client = await Client.open(f"{sqlite_url}?foreign_keys=true&wal=1&synchronous=NORMAL")
    assert await client.fetch_val("PRAGMA foreign_keys") == 1
    assert await client.fetch_val("PRAGMA journal_mode") == "wal"
    assert await client.fetch_val("PRAGMA synchronous") == 1
    await client.connection.close()
    client = await Client.open(sqlite_url, journal_mode="truncate", foreign_keys=False)
    assert await client.fetch_val("PRAGMA foreign_keys") == 0
    assert await client.fetch_val("PRAGMA journal_mode") == "truncate"
    await client.connection.close()
    with pytest.raises(OptionError, match="journal_mode 'wal' is not possible"):
        await make_driver("sqlite://", wal=True).connect()


async def test_options_of_sqlite3(sqlite_url: str) -> None:
    class Mine(sqlite3.Connection):
        pass

    client = await Client.open(
        sqlite_url,
        factory=Mine,
        cached_statements="5",
        check_same_thread="true",
        isolation_level=None,
        iter_chunk_size=3,
    )
    assert isinstance(client.raw._conn, Mine)
    assert client.raw.isolation_level is None
    assert (await client.raw.execute("SELECT 1")).iter_chunk_size == 3
    await cancel(await started(client, client.fetch_all, ENDLESS))
    await client.connection.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nonsense": 1}, "'nonsense'.*busy_timeout.*wal"),
        ({"ssl": True}, "'ssl'"),
        ({"isolation_level": "DEFERRED"}, "isolation_level is 'DEFERRED'.*fastdb begins"),
        ({"timeout": "soon"}, "timeout is 'soon'"),
        ({"timeout": -1}, "timeout is -1"),
        ({"timeout": "nan"}, "timeout is 'nan'"),
        ({"timeout": 1, "busy_timeout": 1}, "mean the same"),
        ({"busy_timeout": "1.5"}, "busy_timeout is '1.5'"),
        ({"busy_timeout": True}, "busy_timeout is True"),
        ({"uri": "perhaps"}, "uri is 'perhaps'"),
        ({"journal_mode": "fast"}, "journal_mode is 'fast'.*'wal'"),
        ({"journal_mode": "delete", "wal": True}, "contradict"),
        ({"synchronous": 7}, "synchronous is 7"),
        ({"factory": dict}, "factory is"),
        ({"init": "x"}, "init is 'x'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_driver("sqlite://", **options)
    assert options.keys() - {"nonsense", "ssl"} <= SQLiteDriver.option_names()


async def test_init_runs_on_new_and_reset_connections(client: Client, sqlite_url: str) -> None:
    seen: list[aiosqlite.Connection] = []

    async def init(raw: aiosqlite.Connection) -> None:
        seen.append(raw)
        await raw.create_function("answer", 0, lambda: 42)

    other = await Client.open(sqlite_url, init=init)
    await other.begin()
    await other.execute("INSERT INTO notes (id) VALUES (1)")
    await other.cursor("SELECT * FROM notes")
    await other.raw.execute("CREATE TEMP TABLE scratch (id)")
    old = other.raw
    other.connection.dirty = True
    await other.connection.reset()
    assert not other.connection.dirty
    assert seen == [old, other.raw]
    assert other.raw is not old
    assert not other.connection.in_transaction
    assert await other.fetch_val("SELECT answer()") == 42
    assert await other.notes() == 0
    with pytest.raises(ProgrammingError, match="no such table"):
        await other.execute("SELECT * FROM scratch")
    await other.connection.check()
    await other.connection.close()


async def test_failed_or_cancelled_connect_leaves_nothing(client: Client, sqlite_url: str) -> None:
    async def fail(raw: aiosqlite.Connection) -> None:
        await raw.execute("SELECT 1")
        raise LookupError

    async def hang(raw: aiosqlite.Connection) -> None:
        await asyncio.Event().wait()

    threads, files = worker_threads(), open_files()
    with pytest.raises(LookupError):
        await make_driver(sqlite_url, init=fail).connect()
    task = asyncio.ensure_future(make_driver(sqlite_url, init=hang).connect())
    await asyncio.sleep(0.01)
    await cancel(task)
    for _ in range(30):
        task = asyncio.ensure_future(make_driver(sqlite_url).connect())
        await asyncio.sleep(0)
        await cancel(task)
    assert (worker_threads(), open_files()) == (threads, files)


async def test_closing_ends_threads_and_files(sqlite_url: str) -> None:
    threads, files = worker_threads(), open_files()
    driver = make_driver(sqlite_url)
    for _ in range(5):
        connections = [await driver.connect() for _ in range(4)]
        assert len(worker_threads()) == len(threads) + 4
        await asyncio.gather(*(connection.close() for connection in connections))
    assert (worker_threads(), open_files()) == (threads, files)


async def test_terminate_ends_what_runs(client: Client) -> None:
    before = open_files()
    task = await started(client, client.fetch_all, ENDLESS)
    thread = client.connection._worker.thread
    client.connection.terminate()
    client.connection.terminate()
    assert not client.connection.is_alive()
    with pytest.raises(NotConnectedError):
        await task
    await until(lambda: not thread.is_alive())
    await asyncio.sleep(0.01)
    assert open_files() < before


async def test_cancelled_close_still_closes(client: Client) -> None:
    task = await started(client, client.raw.execute, ENDLESS)
    thread = client.connection._worker.thread
    closing = asyncio.ensure_future(client.connection.close())
    await asyncio.sleep(0.005)
    await cancel(closing)
    with pytest.raises(sqlite3.OperationalError):
        await task
    await until(lambda: not thread.is_alive())


async def test_forgotten_connection_ends_its_thread(sqlite_url: str) -> None:
    threads = worker_threads()
    client = await Client.open(sqlite_url)
    await client.fetch_all("SELECT 1")
    thread = next(thread for thread in worker_threads() if thread not in threads)
    clients = [client]
    del client
    with pytest.warns(ResourceWarning):
        clients.clear()
    gc.collect()
    await until(lambda: not thread.is_alive())


def test_driver_outlives_its_loop(sqlite_url: str) -> None:
    driver = make_driver(sqlite_url)

    async def use() -> int:
        client = Client(driver, await driver.connect())
        value = await client.fetch_val("SELECT 1")
        await client.connection.close()
        return cast("int", value)

    files = open_files()
    assert [asyncio.run(use()) for _ in range(3)] == [1, 1, 1]
    assert open_files() <= files


def test_works_under_uvloop(sqlite_url: str) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def use() -> None:
        client = await Client.open(sqlite_url)
        await cancel(await started(client, client.fetch_all, ENDLESS))
        assert await client.fetch_val("SELECT 1") == 1
        await client.connection.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(use())


def test_undisconnected_program_exits(tmp_path: Path) -> None:
    program = (
        "import asyncio\n"
        "from fastdb.drivers.sqlite import SQLiteDriver\n"
        "from fastdb.url import DatabaseURL\n"
        f"driver = SQLiteDriver(DatabaseURL('sqlite:///{tmp_path}/x.db'), {{}})\n"
        "async def main():\n"
        "    global connection\n"
        "    connection = await driver.connect()\n"
        "    await connection.check()\n"
        "asyncio.run(main())\n"
        "print('done')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stdout.strip()) == (0, "done"), run.stderr


# -- systems and packages of other kinds


@pytest.mark.parametrize("missing", ["eventfd", "add_reader"])
async def test_without_readable_descriptors(
    sqlite_url: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise NotImplementedError

    if missing == "eventfd":
        monkeypatch.delattr(os, "eventfd", raising=False)
    else:
        monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", refuse)
    client = await Client.open(sqlite_url)
    assert await client.fetch_val("SELECT 1") == 1
    await cancel(await started(client, client.fetch_all, ENDLESS))
    assert await client.fetch_val("SELECT 2") == 2
    await client.connection.close()


def test_missing_package_is_named() -> None:
    program = (
        "import sys\n"
        "sys.modules['aiosqlite'] = None\n"
        "from fastdb.drivers import load_driver\n"
        "from fastdb.exceptions import DriverNotInstalledError\n"
        "try:\n"
        "    load_driver('sqlite')\n"
        "except DriverNotInstalledError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert "pip install aiosqlite" in run.stdout, run.stderr


def test_known_layout_is_recognised() -> None:
    assert sqlite_worker.KNOWN_LAYOUT is aiosqlite.__version__.startswith("0.22.")


@pytest.mark.usefixtures("unknown_layout")
class TestUnknownLayout:
    async def test_jobs_run_on_the_thread_of_aiosqlite(self, sqlite_url: str) -> None:
        client = await Client.open(sqlite_url)
        assert type(client.raw) is aiosqlite.Connection
        await client.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY)")
        await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(250))
        assert await client.notes() == 250
        threads = set()
        await client.raw.create_function("thread", 0, lambda: threads.add(threading.get_ident()))
        await client.raw.execute_fetchall("SELECT thread()")
        await client.fetch_all("SELECT thread()")
        assert len(threads) == 1
        await cancel(await started(client, client.fetch_all, ENDLESS))
        await client.begin()
        await client.execute("INSERT INTO notes (id) VALUES (999)")
        await client.connection.reset()
        assert await client.notes() == 250
        await client.connection.close()
        with pytest.raises(NotConnectedError):
            await client.notes()

    async def test_connections_that_end_otherwise(self, sqlite_url: str) -> None:
        count = threading.active_count()
        with pytest.raises(ConnectionFailedError):
            await make_driver("sqlite:////nowhere/at/all.db").connect()
        closed = await Client.open(sqlite_url)
        await closed.raw.close()
        with pytest.raises(NotConnectedError):
            await closed.fetch_all("SELECT 1")
        await closed.connection.close()
        terminated = await Client.open(sqlite_url)
        task = await started(terminated, terminated.fetch_all, ENDLESS)
        terminated.connection.terminate()
        with pytest.raises((OperationalError, NotConnectedError)):
            await task
        await until(lambda: threading.active_count() == count)

    async def test_a_connect_that_is_cancelled_leaves_no_thread(self, sqlite_url: str) -> None:
        count = threading.active_count()
        for url in (sqlite_url, "sqlite:////nowhere/at/all.db"):
            for turns in range(6):
                task = asyncio.ensure_future(make_driver(url).connect())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionFailedError):
                    await (await task).close()
        await until(lambda: threading.active_count() == count)

    async def test_a_close_that_is_cancelled_still_closes(self, sqlite_url: str) -> None:
        client = await Client.open(sqlite_url)
        task = await started(client, client.fetch_all, ENDLESS)
        thread = client.connection._worker.thread
        closing = asyncio.ensure_future(client.connection.close())
        await asyncio.sleep(0.005)
        await cancel(closing)
        with pytest.raises((OperationalError, NotConnectedError)):
            await task
        await until(lambda: not thread.is_alive())


# -- jobs of others in a transaction that is due


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_job_of_others_stays_in_its_transaction(
    client: Client, other: Client, end: str
) -> None:
    for number in range(20):
        await client.begin()
        forgotten = asyncio.ensure_future(
            client.raw.execute(f"INSERT INTO notes (id) VALUES ({number})")
        )
        await asyncio.sleep(0)  # it is posted, and nobody waits for it any more
        forgotten.cancel()
        await getattr(client.connection, end)()
        assert not client.connection.in_transaction
        assert not client.raw.in_transaction
        await asyncio.wait([forgotten])
    assert await other.notes() == (20 if end == "commit" else 0)


async def test_a_job_of_others_that_waits_to_begin_leaves_no_transaction(
    client: Client, other: Client
) -> None:
    await other.begin(begin="immediate")
    await client.begin()
    waiting = asyncio.ensure_future(client.raw.execute("INSERT INTO notes (id) VALUES (1)"))
    await until(lambda: client.connection._worker._current is not None or waiting.done())
    waiting.cancel()
    ending = asyncio.ensure_future(client.connection.rollback())
    await asyncio.sleep(0.02)
    await other.connection.rollback()
    await ending
    assert not client.connection.in_transaction
    await client.execute("INSERT INTO notes (id) VALUES (2)")
    assert [record.id for record in await other.fetch_all("SELECT id FROM notes")] == [2]


async def test_closing_where_nothing_can_be_begun(client: Client, sqlite_url: str) -> None:
    other = await Client.open(sqlite_url, busy_timeout=20)
    thread = other.connection._worker.thread
    await client.begin(begin="exclusive")
    await other.begin()
    await other.raw.close()
    thread.join(10)
    assert not thread.is_alive()
    assert not other.connection.is_alive()
    await client.connection.rollback()


# -- ends of things


async def test_foreign_keys_may_be_off_in_the_url(sqlite_url: str) -> None:
    client = await Client.open(f"{sqlite_url}?foreign_keys=off")
    assert await client.fetch_val("PRAGMA foreign_keys") == 0
    await client.connection.close()


async def test_a_raw_connection_that_is_closed_says_so(client: Client) -> None:
    raw = client.raw
    await client.connection.close()
    with pytest.raises(NotConnectedError, match="closed"):
        await raw.execute("SELECT 1")


async def test_a_second_begin_is_refused(client: Client) -> None:
    await client.raw.execute("BEGIN")
    with pytest.raises(DatabaseError, match="transaction"):
        await client.begin()
        await client.execute("SELECT 1")
    await client.raw.rollback()


async def test_a_cursor_that_was_closed_gives_nothing_more(client: Client) -> None:
    cursor = await client.cursor("SELECT 1 UNION ALL SELECT 2")
    await cursor.fetch(1)
    await cursor.close()
    assert await cursor.fetch(1) == []
    memory = await Client.open("sqlite://")
    cursor = await memory.cursor("SELECT 1 UNION ALL SELECT 2")
    await memory.connection.reset()
    with pytest.raises(OperationalError, match="the cursor is closed: the connection was reset"):
        await cursor.fetch(1)
    await memory.connection.close()


async def test_many_rows_of_what_changes_the_session(client: Client) -> None:
    plan_of = "ATTACH :name AS other"
    with pytest.raises(DatabaseError):
        await client.execute_many(plan_of, [{"name": "/nowhere/x"}, {"name": "/nowhere/y"}])
    assert await client.notes() == 0


async def test_a_thread_that_cannot_be_started_leaves_nothing(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = open_files()

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            await make_driver(sqlite_url).connect()
    assert open_files() == files
    client = await Client.open(sqlite_url)
    assert await client.fetch_val("SELECT 1") == 1
    await client.connection.close()


async def test_a_setting_that_a_locked_file_cannot_take(sqlite_url: str) -> None:
    locking = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    locking.execute("CREATE TABLE notes (id INTEGER)")
    locking.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ConnectionFailedError, match="locked"):
        await make_driver(sqlite_url, wal=True, busy_timeout=10).connect()
    locking.close()


# -- what goes wrong seldom


async def test_a_closed_connection_of_sqlite3_is_told(client: Client) -> None:
    raw: Any = client.raw
    await raw._execute(raw._conn.close)  # behind the back of aiosqlite, too
    assert not client.connection.in_transaction
    with pytest.raises(NotConnectedError, match="closed database"):
        await client.fetch_all("SELECT 1")


async def test_a_cursor_of_a_closed_raw_connection_says_so(client: Client) -> None:
    cursor = await client.raw.cursor()
    await client.connection.close()
    with pytest.raises(NotConnectedError, match="connection is closed"):
        await cursor.execute("SELECT 1")


async def test_the_raw_connection_is_stopped_from_a_thread(client: Client) -> None:
    thread = client.connection._worker.thread
    await asyncio.to_thread(client.raw.stop)
    await until(lambda: not thread.is_alive())
    assert not client.connection.is_alive()


async def test_connects_while_the_file_is_locked(client: Client, sqlite_url: str) -> None:
    locking = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    locking.execute("BEGIN EXCLUSIVE")
    late = await Client.open(sqlite_url, busy_timeout=50)
    with pytest.raises(OperationalError, match="locked"):
        await late.notes()
    locking.execute("COMMIT")
    locking.close()
    assert await late.notes() == 0
    await late.connection.close()


async def test_a_copy_of_what_is_no_database_any_more(client: Client, tmp_path: Path) -> None:
    copy = await Client.open(f"sqlite:///{tmp_path / 'copy.db'}")
    (tmp_path / "test.db").write_bytes(b"no database" * 1000)
    with pytest.raises(DatabaseError):
        await client.connection.copy_to(copy.connection)
    await copy.connection.close()


async def test_sqlite_waits_for_several_files(client: Client, sqlite_url: str) -> None:
    async def attach(raw: aiosqlite.Connection) -> None:
        await raw.execute("ATTACH ? AS other", (f"{sqlite_url.removeprefix('sqlite:///')}2",))

    several = await Client.open(sqlite_url, init=attach, busy_timeout=2000)
    assert await several.fetch_val("PRAGMA busy_timeout") == 2000
    await several.connection.close()


async def test_a_lock_that_comes_between_an_insert_and_a_look_at_its_row_id(
    client: Client, sqlite_url: str
) -> None:
    locking = sqlite3.connect(
        sqlite_url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False
    )
    locked = threading.Event()

    def lock(sql: str) -> None:
        if sql.startswith("SELECT rowid FROM") and not locked.is_set():
            locked.set()
            locking.execute("BEGIN EXCLUSIVE")

    async def trace(raw: aiosqlite.Connection) -> None:
        await raw.set_trace_callback(lock)

    traced = await Client.open(sqlite_url, init=trace)
    for _ in range(2):
        await traced.execute("DELETE FROM notes")
        inserting = asyncio.ensure_future(traced.execute("INSERT INTO notes (id) VALUES (7)"))
        if not locked.is_set():
            await asyncio.wait((inserting,), timeout=0.1)
        if locking.in_transaction:
            locking.execute("COMMIT")
        assert (await inserting).lastrowid == 7
    assert locked.is_set()
    locking.close()
    await traced.connection.close()


async def test_what_is_wrong_once_the_lock_is_there_is_told(client: Client, other: Client) -> None:
    await other.begin(begin="immediate")
    await other.execute("DROP TABLE notes")
    waiting = await started(client, client.execute, "INSERT INTO notes (id) VALUES (1)")
    await other.connection.commit()
    with pytest.raises(ProgrammingError, match="no such table"):
        await waiting


async def test_a_transaction_that_could_not_begin_is_committed(
    client: Client, sqlite_url: str
) -> None:
    short = await Client.open(sqlite_url, busy_timeout=50)
    await client.begin(begin="immediate")
    await short.begin()
    with pytest.raises(OperationalError, match="locked"):
        await short.raw.execute("INSERT INTO notes (id) VALUES (1)")
    await short.connection.commit()  # of nothing
    assert not short.connection.in_transaction
    await client.connection.rollback()
    assert await short.notes() == 0
    await short.connection.close()


async def test_a_row_that_nobody_asked_for_is_not_converted(sqlite_url: str) -> None:
    sqlite3.register_converter("seldom", lambda text: 1 / int(text))
    client = await Client.open(f"{sqlite_url}?detect_types={sqlite3.PARSE_DECLTYPES}")
    await client.execute("CREATE TABLE rare (x seldom)")
    await client.execute("INSERT INTO rare VALUES (1), (0)")
    assert await client.fetch_val("SELECT x FROM rare") == 1.0
    with pytest.raises(ZeroDivisionError):
        await client.fetch_all("SELECT x FROM rare")
    await client.connection.close()


async def test_moments_that_sqlite3_writes_itself(sqlite_url: str) -> None:
    import datetime

    import sqlalchemy as sa

    sqlite3.register_converter("moment", lambda text: text.decode())
    client = await Client.open(f"{sqlite_url}?detect_types={sqlite3.PARSE_DECLTYPES}")
    await client.execute("CREATE TABLE moments (at TEXT)")
    moments = sa.table("moments", sa.column("at", sa.TIMESTAMP))
    deprecated = pytest.warns(DeprecationWarning, match="adapter")  # since CPython 3.12
    with deprecated if sys.version_info >= (3, 12) else contextlib.nullcontext():
        await client.execute(moments.insert(), at=datetime.datetime(2024, 1, 2, 3, 4))
    assert await client.fetch_val("SELECT at FROM moments") == "2024-01-02 03:04:00"
    await client.connection.close()


async def test_many_rows_that_fail_beside_an_open_cursor(client: Client) -> None:
    await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(20))
    cursor = await client.cursor("SELECT id FROM notes ORDER BY id")
    assert len(await cursor.fetch(5)) == 5
    with pytest.raises(IntegrityError):
        await client.execute_many("INSERT INTO notes (id) VALUES (:id)", rows(5))
    assert len(await cursor.fetch(50)) == 15
    assert await client.notes() == 20


async def test_the_row_id_of_an_insert_whose_table_is_not_seen(client: Client) -> None:
    for _ in range(2):
        await client.execute("DELETE FROM notes")
        assert (await client.execute("INSERT INTO/**/notes (id) VALUES (3)")).lastrowid == 3


async def test_a_rollback_that_fails_ends_the_connection(client: Client) -> None:
    await client.begin(begin="immediate")
    await client.execute("INSERT INTO notes (id) VALUES (1)")
    raw: Any = client.raw
    await raw._execute(raw._conn.close)
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        await client.connection.rollback()
    assert not client.connection.is_alive()
