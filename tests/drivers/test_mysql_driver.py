"""The drivers of MySQL and MariaDB against a real server: aiomysql and asyncmy alike."""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import datetime
import enum
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiomysql
import asyncmy.errors
import pymysql.converters
import pymysql.err
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from fastdb import exceptions
from fastdb._speedups import QueryCache
from fastdb.compiler import Compiler
from fastdb.drivers.asyncmy import AsyncmyDriver
from fastdb.drivers.base import DriverCursor, Outcome, TransactionOptions
from fastdb.drivers.mysql import MySQLDriver
from fastdb.drivers.mysql_base import MySQLBaseDriver, _learn_version
from fastdb.drivers.mysql_batches import InsertShape, insert_shape
from fastdb.drivers.mysql_connection import MySQLConnection
from fastdb.drivers.mysql_errors import translate
from fastdb.exceptions import (
    ConnectionFailedError,
    DataError,
    Error,
    IntegrityError,
    NotSupportedError,
    OperationalError,
    OptionError,
    ProgrammingError,
    QueryTimeoutError,
)
from fastdb.url import DatabaseURL
from tests.faults.proxy import Proxy

DRIVERS: dict[str, type[MySQLBaseDriver]] = {"aiomysql": MySQLDriver, "asyncmy": AsyncmyDriver}
PLAIN = TransactionOptions()


class Session:
    """A driver connection with the query cache in front of it."""

    def __init__(self, driver: MySQLBaseDriver, connection: MySQLConnection) -> None:
        self.connection = connection
        self.cache = QueryCache(Compiler(driver.sqlalchemy_dialect, driver.lexical, "format"))

    async def rows(self, query: Any, values: Any = None) -> list[tuple[Any, ...]]:
        plan, args, _ = self.cache.prepare(query, values)
        return [tuple(each) for each in await self.connection.fetch_all(plan, args)]

    async def one(self, query: Any, values: Any = None) -> Any:
        plan, args, _ = self.cache.prepare(query, values)
        return await self.connection.fetch_one(plan, args)

    async def value(self, query: Any, values: Any = None) -> Any:
        return (await self.one(query, values))[0]

    async def run(self, query: Any, values: Any = None) -> Outcome:
        plan, args, _ = self.cache.prepare(query, values)
        return await self.connection.execute(plan, args)

    async def many(self, query: Any, rows: Any, batch_size: int = 1000) -> None:
        await self.connection.execute_many(self.cache.prepare_many(query, rows, batch_size))

    async def cursor(self, query: Any, values: Any = None) -> DriverCursor:
        plan, args, _ = self.cache.prepare(query, values)
        return await self.connection.open_cursor(plan, args, hold=False)

    async def thread_id(self) -> int:
        number: int = await self.value("SELECT connection_id()")
        return number


Opener = Callable[..., Awaitable[Session]]


@pytest.fixture(params=sorted(DRIVERS))
def driver_class(request: pytest.FixtureRequest) -> type[MySQLBaseDriver]:
    return DRIVERS[request.param]


@pytest.fixture
def make(driver_class: type[MySQLBaseDriver], mysql_url: str) -> Callable[..., MySQLBaseDriver]:
    def make(url: str | None = None, **options: Any) -> MySQLBaseDriver:
        parsed = DatabaseURL(url or mysql_url)
        return driver_class(parsed, {**parsed.options, **options})

    return make


@pytest.fixture
async def opener(make: Callable[..., MySQLBaseDriver]) -> AsyncIterator[Opener]:
    opened: list[MySQLConnection] = []

    async def open_session(**options: Any) -> Session:
        driver = make(**options)
        connection = await driver.connect()
        opened.append(connection)
        return Session(driver, connection)

    yield open_session
    for connection in opened:
        await connection.close()


@pytest.fixture
async def session(opener: Opener) -> Session:
    return await opener()


@pytest.fixture
async def observer(opener: Opener) -> Session:
    """Return a second session, to look at what the first one does."""
    return await opener()


@pytest.fixture
async def notes(session: Session) -> Session:
    """Return a session with the table ``notes``."""
    await session.run(
        "CREATE TABLE notes (id INT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(50) UNIQUE,"
        " n INT NOT NULL DEFAULT 0, CHECK (n < 1000))"
    )
    return session


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        # Only the server knows; there is no event to wait for.
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def is_running(observer: Session, text: str) -> bool:
    count = await observer.value(
        "SELECT count(*) FROM information_schema.processlist"
        " WHERE id <> connection_id() AND db = database() AND info LIKE :text",
        {"text": f"%{text}%"},
    )
    return bool(count)


async def cancelled(observer: Session, work: Awaitable[Any], text: str) -> None:
    """Start `work`, cancel it once the server runs it, and see it gone from there."""
    task = asyncio.ensure_future(work)
    await eventually(lambda: is_running(observer, text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def gone() -> bool:
        return not await is_running(observer, text)

    await eventually(gone)


# -- values


class Size(enum.IntEnum):
    SMALL = 1


class Word(str, enum.Enum):  # noqa: UP042 (the older way, with a __str__ of its own)
    QUOTED = "it's"

    def __str__(self) -> str:
        return "something else"


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, 1),
        (-(2**63), -(2**63)),
        (2**64 - 1, 2**64 - 1),
        (0.1, 0.1),
        (-1.5e300, -1.5e300),
        (5e-324, 5e-324),
        (Decimal("-0.10"), Decimal("-0.10")),
        (Decimal("1E+3"), 1000),  # a literal without a point is an integer
        (Decimal("1000.0"), Decimal("1000.0")),
        ("", ""),
        ("it's \\ \" 100% %s \0\n\x1a é 😀", "it's \\ \" 100% %s \0\n\x1a é 😀"),
        (b"", b""),
        (b"\x00'\\\xff%", b"\x00'\\\xff%"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (Size.SMALL, 1),
        (Word.QUOTED, "it's"),
        (uuid.UUID(int=5), str(uuid.UUID(int=5))),
    ],
)
async def test_a_value_arrives_as_it_was_sent(session: Session, value: Any, expected: Any) -> None:
    got = await session.value("SELECT :value", {"value": value})
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("DATETIME(6)", datetime.datetime(1, 2, 3, 4, 5, 6, 7)),
        ("DATETIME(6)", datetime.datetime(9999, 12, 31, 23, 59, 59, 999999)),
        ("DATETIME", datetime.datetime(2024, 2, 29)),
        ("DATE", datetime.date(2024, 2, 29)),
        ("TIME(6)", datetime.timedelta(hours=-30, microseconds=5)),
        ("TIME", datetime.timedelta(hours=838, minutes=59, seconds=59)),
    ],
)
async def test_a_moment_arrives_as_it_was_sent(session: Session, kind: str, value: Any) -> None:
    await session.run(f"CREATE TABLE moments (at {kind})")
    await session.run("INSERT INTO moments VALUES (:at)", {"at": value})
    assert await session.value("SELECT at FROM moments") == value


async def test_a_time_of_day_is_read_as_a_timedelta(session: Session) -> None:
    await session.run("CREATE TABLE moments (at TIME(6))")
    await session.run("INSERT INTO moments VALUES (:at)", {"at": datetime.time(1, 2, 3, 4)})
    found = await session.value("SELECT at FROM moments")
    assert found == datetime.timedelta(hours=1, minutes=2, seconds=3, microseconds=4)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (Decimal("NaN"), "NaN"),
        (Decimal("1E+100000"), "65 digits"),
        pytest.param(10**5000, "digits", id="long"),
        ({"a": 1}, "dict"),
        (object(), r"builtins.object to MySQL; it takes None, .*conv=.*my.*conversions, object: "),
        (Colour.RED, "Colour"),
        ([], "empty list"),
        ("\ud800", "charset"),
    ],
)
async def test_a_value_that_cannot_be_sent_is_refused(
    session: Session, value: Any, named: str
) -> None:
    with pytest.raises(DataError, match=named):
        await session.value("SELECT :value", {"value": value})
    assert session.connection.is_alive()


async def test_a_sequence_is_written_as_a_list(session: Session) -> None:
    query = "SELECT 2 IN :few AND 'b' IN :names"
    assert await session.value(query, {"few": [1, 2], "names": ("a", "b")}) == 1


async def test_strings_follow_the_sessions_sql_mode(session: Session) -> None:
    text = "a\\'b"
    for mode in ("NO_BACKSLASH_ESCAPES", "", "ANSI_QUOTES,NO_BACKSLASH_ESCAPES"):
        await session.run(f"SET sql_mode = '{mode}'")
        assert await session.value("SELECT :text", {"text": text}) == text


async def test_a_charset_without_a_character_refuses_it(opener: Opener) -> None:
    session = await opener(charset="latin1")
    assert await session.value("SELECT :text", {"text": "é€"}) == "é€"
    with pytest.raises(DataError, match="cp1252"):
        await session.value("SELECT :text", {"text": "😀"})


async def test_pymysqls_encoders_are_honoured(
    mysql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        pymysql.converters.encoders, Colour, lambda value, mapping=None: f"'{value.name}'"
    )
    driver = MySQLDriver(DatabaseURL(mysql_url), {})
    session = Session(driver, await driver.connect())
    try:
        assert await session.value("SELECT :colour", {"colour": Colour.RED}) == "RED"
    finally:
        await session.connection.close()


async def test_conv_holds_encoders_and_decoders(
    opener: Opener, driver_class: type[MySQLBaseDriver]
) -> None:
    conversions = dict(driver_class.converters.conversions)
    conversions[Colour] = lambda value, mapping=None: str(value.value)
    conversions[246] = str
    session = await opener(conv=conversions)
    assert await session.rows("SELECT :a, 1.50", {"a": Colour.RED}) == [(1, "1.50")]


async def test_an_encoder_that_gives_no_text_is_told(opener: Opener) -> None:
    class Mine:
        pass

    def encode(value: Any, mapping: Any) -> Any:
        return 5

    session = await opener(conv={**pymysql.converters.conversions, Mine: encode})
    with pytest.raises(DataError, match="encoder of Mine gave int"):
        await session.value("SELECT :x", {"x": Mine()})


async def test_a_struct_time_is_a_moment(session: Session) -> None:
    moment = time.struct_time((2024, 2, 29, 1, 2, 3, 0, 0, 0))
    assert await session.value("SELECT :x", {"x": moment}) == "2024-02-29 01:02:03"


async def test_an_error_of_the_users_encoder_passes(
    opener: Opener, driver_class: type[MySQLBaseDriver]
) -> None:
    def refuse(value: Any, mapping: Any = None) -> str:
        raise LookupError("no such colour")

    session = await opener(conv={**driver_class.converters.conversions, Colour: refuse})
    with pytest.raises(LookupError, match="no such colour"):
        await session.value("SELECT :a", {"a": Colour.RED})
    assert session.connection.is_alive()


async def test_an_error_of_the_users_decoder_passes_and_closes(
    opener: Opener, driver_class: type[MySQLBaseDriver]
) -> None:
    def refuse(value: Any) -> Any:
        raise LookupError("no such number")

    session = await opener(conv={**driver_class.converters.conversions, 246: refuse})
    with pytest.raises(LookupError, match="no such number"):
        await session.value("SELECT 1.5")
    assert not session.connection.is_alive()


async def test_a_decoder_that_fails_does_not_hide_a_cancellation(
    opener: Opener, driver_class: type[MySQLBaseDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(value: Any) -> Any:
        raise LookupError("no such number")

    def too_late(*args: Any, **options: Any) -> asyncio.Future[bool]:
        killed = asyncio.get_running_loop().create_future()
        killed.set_result(True)
        return killed

    session = await opener(conv={**driver_class.converters.conversions, 246: refuse})
    await session.connection.begin(TransactionOptions())
    monkeypatch.setattr(session.connection._driver, "order_kill", too_late)
    asking = asyncio.create_task(session.value("SELECT 1.5 + sleep(0.02)"))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not session.connection.is_open


# -- results


async def test_names_are_those_of_the_result(session: Session) -> None:
    record = await session.one("SELECT 1 AS id, 2 AS id, 'é' AS `größe`")
    assert list(record.keys()) == ["id", "id", "größe"]
    assert tuple(record.values()) == (1, 2, "é")


async def test_the_kinds_of_columns(session: Session) -> None:
    await session.run(
        "CREATE TABLE kinds (b BIT(10), j JSON, d DECIMAL(10,2), y YEAR, f FLOAT, blb BLOB,"
        " u BIGINT UNSIGNED)"
    )
    await session.run(
        "INSERT INTO kinds VALUES (5, :json, 1.5, 2024, 0.5, 'x', 18446744073709551615)",
        {"json": '{"a": 1}'},
    )
    expected = (b"\x00\x05", '{"a": 1}', Decimal("1.50"), 2024, 0.5, b"x", 2**64 - 1)
    assert await session.rows("SELECT * FROM kinds") == [expected]


async def test_what_a_statement_gives(notes: Session) -> None:
    insert = "INSERT INTO notes (text) VALUES (:text)"
    assert await notes.run(insert, {"text": "a"}) == Outcome([], 1, 1)
    assert (await notes.run("UPDATE notes SET n = 5")).rowcount == 1
    # Matched, not changed.
    assert await notes.run("UPDATE notes SET n = 5") == Outcome([], 1, None)
    assert await notes.run("INSERT IGNORE INTO notes (text) VALUES ('a')") == Outcome([], 0, None)
    assert await notes.run("DELETE FROM notes WHERE id = 99") == Outcome([], 0, None)
    outcome = await notes.run("SELECT text FROM notes UNION SELECT 'b'")
    assert [tuple(each) for each in outcome.rows] == [("a",), ("b",)]
    assert outcome.rowcount == 2
    assert await notes.one("SELECT 1 FROM notes WHERE id = 99") is None


async def test_returning_on_mariadb(notes: Session) -> None:
    table = sa.table("notes", sa.column("id"), sa.column("text"))
    outcome = await notes.run(sa.insert(table).values(text="a").returning(table.c.id))
    assert [tuple(each) for each in outcome.rows] == [(1,)]
    assert outcome.lastrowid is None


async def test_a_call_gives_the_first_result(notes: Session) -> None:
    await notes.run("CREATE PROCEDURE two() BEGIN SELECT 1 AS a; SELECT 2 AS b; END")
    assert await notes.rows("CALL two()") == [(1,)]
    assert await notes.value("SELECT 3") == 3
    cursor = await notes.cursor("CALL two()")
    assert [tuple(each) for each in await cursor.fetch(10)] == [(1,)]
    assert await notes.value("SELECT 4") == 4


async def test_an_error_within_a_result_raises(notes: Session) -> None:
    await notes.many(
        "INSERT INTO notes (text) VALUES (:text)", [{"text": str(n)} for n in range(3)]
    )
    query = "SELECT IF(text = '2', (SELECT 1 UNION SELECT 2), 0) FROM notes ORDER BY id"
    for fetch in (notes.rows, notes.one):
        with pytest.raises(OperationalError) as caught:
            await fetch(query)
        assert caught.value.args[0] == 1242
    cursor = await notes.cursor(query)
    with pytest.raises(OperationalError):
        while await cursor.fetch(1):
            pass
    await cursor.close()
    assert await notes.value("SELECT 1") == 1


async def test_a_value_of_more_than_one_packet(session: Session) -> None:
    assert len(await session.value("SELECT repeat('x', 16 * 1024 * 1024 - 1)")) == 2**24 - 1


async def test_a_statement_too_large_is_refused(session: Session) -> None:
    with pytest.raises(DataError, match="max_allowed_packet"):
        await session.value("SELECT :text", {"text": "x" * (17 << 20)})
    assert session.connection.is_alive()


async def test_several_statements_in_one_are_refused(notes: Session) -> None:
    with pytest.raises(ProgrammingError):
        await notes.run("SELECT 1; DROP TABLE notes")
    assert await notes.rows("SELECT * FROM notes") == []


async def test_local_files_are_not_read(notes: Session) -> None:
    with pytest.raises(exceptions.DatabaseError):
        await notes.run("LOAD DATA LOCAL INFILE '/etc/hostname' INTO TABLE notes (text)")
    assert await notes.rows("SELECT * FROM notes") == []


# -- execute_many


@pytest.mark.parametrize(
    ("sql", "parts"),
    [
        ("INSERT INTO t VALUES (%s)", ("INSERT INTO t VALUES ", "(%s)", "")),
        (
            "insert into t (`values (`, b) value ('%%)\\'', f(%s, \"(\"))"
            " ON DUPLICATE KEY UPDATE b=1",
            (
                "insert into t (`values (`, b) value ",
                "('%%)\\'', f(%s, \"(\"))",
                " ON DUPLICATE KEY UPDATE b=1",
            ),
        ),
        ("REPLACE t VALUES (/* ) */ %s);", ("REPLACE t VALUES ", "(/* ) */ %s)", ";")),
        (
            "INSERT INTO t VALUES (%s) RETURNING id",
            ("INSERT INTO t VALUES ", "(%s)", " RETURNING id"),
        ),
        ("INSERT INTO t VALUES (%s), (%s)", None),
        ("INSERT INTO t VALUES (%s) ON DUPLICATE KEY UPDATE b = %s", None),
        ("INSERT INTO t SELECT %s", None),
        ("INSERT INTO t SET a = %s", None),
        ("INSERT INTO t VALUES ((SELECT max(a) FROM t), %s)", None),
        ("INSERT INTO t VALUES (@a := @a + 1, %s)", None),
        ("INSERT INTO t VALUES (LAST_INSERT_ID(), %s)", None),
        ("INSERT INTO value (a) VALUES (%s)", None),
        ("INSERT INTO t VALUES (/*! %s */)", None),
        ("INSERT INTO t VALUES (%s", None),
        ("INSERT INTO t VALUES (%s))", None),
        ("UPDATE t SET a = %s", None),
        ("", None),
    ],
)
def test_a_single_row_insert_is_recognised(sql: str, parts: tuple[str, str, str] | None) -> None:
    assert insert_shape(sql, True) == (None if parts is None else InsertShape(*parts))


def test_a_single_row_insert_without_backslash_escapes() -> None:
    assert insert_shape("INSERT INTO t VALUES ('\\', %s)", False) is not None
    assert insert_shape("INSERT INTO t VALUES ('\\', %s)", True) is None


async def statements(session: Session) -> int:
    row = await session.rows("SHOW SESSION STATUS LIKE 'Questions'")
    return int(row[0][1])


async def test_rows_of_an_insert_travel_together(notes: Session) -> None:
    before = await statements(notes)
    rows = ({"text": f"100% 'é{n}"} for n in range(2500))
    await notes.many("INSERT INTO notes (text, n) VALUES (:text, 7 % 4)", rows)
    # START TRANSACTION, three batches, COMMIT, and the question itself
    assert await statements(notes) - before == 6
    assert await notes.rows("SELECT count(*), max(n), max(text) FROM notes") == [
        (2500, 3, "100% 'é999")
    ]
    assert not notes.connection.in_transaction


async def test_rows_beyond_the_size_of_a_packet(session: Session) -> None:
    await session.run("CREATE TABLE big (t LONGTEXT)")
    await session.many("INSERT INTO big VALUES (:t)", [{"t": "x" * (3 << 20)} for _ in range(4)])
    assert await session.rows("SELECT count(*), sum(length(t)) FROM big") == [(4, 4 * (3 << 20))]


async def test_a_batch_through_core(notes: Session) -> None:
    table = sa.table("notes", sa.column("id"), sa.column("text"), sa.column("n"))
    await notes.many(sa.insert(table), [{"text": "a", "n": 1}, {"text": "b"}, {"text": "c"}])
    assert await notes.rows("SELECT text, n FROM notes ORDER BY id") == [
        ("a", 1),
        ("b", 0),
        ("c", 0),
    ]
    await notes.many(
        sa.update(table).where(table.c.text == sa.bindparam("key")).values(n=sa.bindparam("size")),
        [{"key": "b", "size": 5}, {"key": "c", "size": 6}],
    )
    assert await notes.rows("SELECT n FROM notes ORDER BY id") == [(1,), (5,), (6,)]


async def test_a_batch_is_all_or_nothing(notes: Session) -> None:
    rows = [{"text": str(n % 1500)} for n in range(2000)]
    with pytest.raises(IntegrityError):
        await notes.many("INSERT INTO notes (text) VALUES (:text)", rows)
    assert await notes.rows("SELECT * FROM notes") == []
    assert not notes.connection.in_transaction


async def test_a_batch_in_a_transaction_is_all_or_nothing(notes: Session) -> None:
    await notes.connection.begin(PLAIN)
    await notes.run("INSERT INTO notes (text) VALUES ('kept')")
    rows = [{"text": str(n % 1500)} for n in range(2000)]
    with pytest.raises(IntegrityError):
        await notes.many("INSERT INTO notes (text) VALUES (:text)", rows)
    await notes.many("INSERT INTO notes (text) VALUES (:text)", [{"text": "too"}], batch_size=1)
    await notes.connection.commit()
    assert await notes.rows("SELECT text FROM notes ORDER BY id") == [("kept",), ("too",)]


async def test_several_statements_of_a_batch_in_a_transaction(notes: Session) -> None:
    await notes.connection.begin(PLAIN)
    await notes.many(
        sa.insert(sa.table("notes", sa.column("text"), sa.column("n"))),
        [{"text": "a"}, {"n": 5}, {"text": "b", "n": 6}],
    )
    assert await notes.value("SELECT count(*) FROM notes") == 3
    await notes.connection.rollback()
    assert await notes.value("SELECT count(*) FROM notes") == 0


async def test_a_reset_gives_up_an_open_cursor(session: Session) -> None:
    cursor = await session.cursor(HUGE)
    assert len(await cursor.fetch(1)) == 1
    await session.connection.reset()
    assert await session.value("SELECT 1") == 1


async def test_an_error_of_the_users_rows_undoes_the_batch(notes: Session) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        for number in range(10):
            if number == 8:
                raise LookupError("no more")
            yield {"text": str(number)}

    with pytest.raises(LookupError, match="no more"):
        await notes.many("INSERT INTO notes (text) VALUES (:text)", rows(), batch_size=2)
    assert await notes.rows("SELECT * FROM notes") == []


async def test_no_rows_do_nothing(notes: Session) -> None:
    await notes.many("INSERT INTO notes (text) VALUES (:text)", [])
    assert await notes.rows("SELECT * FROM notes") == []


# -- cursors


SEQUENCE = (
    "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 900) SELECT n FROM s"
)
HUGE = f"SELECT a.n, repeat('x', 500) FROM ({SEQUENCE}) a, ({SEQUENCE}) b, ({SEQUENCE}) c"


async def test_a_cursor_gives_every_row(session: Session) -> None:
    cursor = await session.cursor(SEQUENCE)
    sizes = []
    while records := await cursor.fetch(400):
        sizes.append(len(records))
    assert sizes == [400, 400, 100]
    await cursor.close()
    assert session.connection.is_alive()


async def test_another_statement_reads_the_rest_into_memory(notes: Session) -> None:
    first = await notes.cursor(SEQUENCE)
    assert [tuple(each) for each in await first.fetch(2)] == [(1,), (2,)]
    second = await notes.cursor("SELECT 10 UNION SELECT 11")
    assert notes.connection.is_alive()
    await notes.run("INSERT INTO notes (text) VALUES ('between')")
    assert [tuple(each) for each in await first.fetch(1)] == [(3,)]
    assert [tuple(each) for each in await second.fetch(5)] == [(10,), (11,)]
    assert len(await first.fetch(5000)) == 897
    assert await first.fetch(1) == []


async def test_a_cursor_that_is_given_up_keeps_the_transaction(notes: Session) -> None:
    await notes.connection.begin(PLAIN)
    await notes.run("INSERT INTO notes (text) VALUES ('kept')")
    cursor = await notes.cursor(HUGE)
    assert len(await cursor.fetch(3)) == 3
    await cursor.close()
    assert await notes.value("SELECT count(*) FROM notes") == 1
    await notes.connection.commit()
    assert await notes.value("SELECT count(*) FROM notes") == 1
    assert notes.connection.is_alive()


async def test_a_cursor_whose_close_is_cancelled_leaves_no_kill_to_what_follows(
    notes: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, killing = notes.connection, asyncio.Event()

    async def kill(*args: Any, **options: Any) -> bool:
        killing.set()
        return await asyncio.Event().wait()

    await connection.begin(TransactionOptions())
    cursor = await notes.cursor(HUGE)
    await cursor.fetch(1)
    monkeypatch.setattr(connection._driver, "kill", kill)
    closing = asyncio.create_task(cursor.close())
    await killing.wait()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not connection.is_open


async def test_a_statement_without_rows_through_a_cursor(notes: Session) -> None:
    cursor = await notes.cursor("INSERT INTO notes (text) VALUES ('a')")
    assert await cursor.fetch(5) == []
    await cursor.close()
    assert await notes.value("SELECT count(*) FROM notes") == 1


async def test_a_cancelled_fetch_ends_the_statement(session: Session, observer: Session) -> None:
    rows = f"SELECT IF(n = 200, sleep(61), repeat('x', 1000)) FROM ({SEQUENCE}) s"
    cursor = await session.cursor(rows)
    assert len(await cursor.fetch(5)) == 5
    await cancelled(observer, cursor.fetch(500), "sleep(61)")
    assert not session.connection.is_alive()
    await cursor.close()


# -- transactions


async def test_a_transaction_commits_or_rolls_back(notes: Session) -> None:
    connection = notes.connection
    for end, count in ((connection.rollback, 0), (connection.commit, 1)):
        await connection.begin(PLAIN)
        assert connection.in_transaction
        await notes.run("INSERT INTO notes (text) VALUES ('a')")
        await end()
        assert not connection.in_transaction
        assert await notes.value("SELECT count(*) FROM notes") == count
    await connection.rollback()  # none is open: nothing to do


async def test_savepoints_nest(notes: Session) -> None:
    connection = notes.connection
    await connection.begin(PLAIN)
    for text, ends in (("a", "release"), ("b", "back"), ("c", "release")):
        await connection.savepoint()
        await notes.run("INSERT INTO notes (text) VALUES (:text)", {"text": text})
        if ends == "back":
            await connection.savepoint()
            await connection.release_savepoint()
            await connection.rollback_to_savepoint()
        else:
            await connection.release_savepoint()
    await connection.commit()
    assert await notes.rows("SELECT text FROM notes ORDER BY text") == [("a",), ("c",)]
    with pytest.raises(OperationalError, match="none is open"):
        await connection.release_savepoint()


@pytest.mark.parametrize("name", ["read committed", "READ_COMMITTED", "Read-Committed"])
async def test_isolation_levels_do_what_they_say(
    notes: Session, observer: Session, name: str
) -> None:
    count = "SELECT count(*) FROM notes"
    for isolation, seen in ((name, 1), ("repeatable read", 1)):
        await notes.connection.begin(TransactionOptions(isolation=isolation))
        before = await notes.value(count)
        await observer.run("INSERT INTO notes (text) VALUES (:text)", {"text": isolation})
        after = await notes.value(count)
        assert after - before == (seen if isolation == name else 0)
        await notes.connection.commit()


async def test_a_read_only_transaction_refuses_writes(notes: Session) -> None:
    await notes.connection.begin(TransactionOptions(readonly=True))
    with pytest.raises(OperationalError) as caught:
        await notes.run("INSERT INTO notes (text) VALUES ('a')")
    assert caught.value.args[0] == 1792
    await notes.connection.rollback()
    await notes.connection.begin(TransactionOptions(readonly=False, deferrable=False))
    await notes.run("INSERT INTO notes (text) VALUES ('a')")
    await notes.connection.commit()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (TransactionOptions(deferrable=True), "deferrable"),
        (TransactionOptions(begin="immediate"), "begin="),
        (TransactionOptions(isolation="snapshot"), "'snapshot'.*SERIALIZABLE"),
    ],
)
async def test_options_of_other_databases_are_refused(
    session: Session, options: TransactionOptions, named: str
) -> None:
    with pytest.raises(NotSupportedError, match=named):
        await session.connection.begin(options)
    assert not session.connection.in_transaction


async def test_ddl_ends_a_transaction_and_is_named(notes: Session) -> None:
    connection = notes.connection
    await connection.begin(PLAIN)
    await connection.savepoint()
    await notes.run("CREATE TABLE more (id INT)")
    assert not connection.in_transaction
    for end in (connection.release_savepoint, connection.savepoint):
        with pytest.raises(OperationalError, match="already committed by the statement CREATE"):
            await end()
    await connection.commit()  # as it is: programs that make tables in a transaction go on
    await connection.begin(PLAIN)
    await notes.run("COMMIT")
    with pytest.raises(OperationalError, match="already committed by the statement COMMIT"):
        await connection.commit()


async def test_ddl_that_fails_ends_a_transaction_too(notes: Session) -> None:
    await notes.connection.begin(PLAIN)
    with pytest.raises(ProgrammingError):
        await notes.run("CREATE TABLE notes (id INT)")
    assert not notes.connection.in_transaction
    await notes.connection.rollback()


async def test_a_deadlock_ends_the_transaction(notes: Session, observer: Session) -> None:
    await notes.many("INSERT INTO notes (text) VALUES (:t)", [{"t": "a"}, {"t": "b"}])
    update = "UPDATE notes SET n = n + 1 WHERE text = :t"
    for each in (notes, observer):
        await each.connection.begin(PLAIN)
    await notes.run(update, {"t": "a"})
    await observer.run(update, {"t": "b"})
    results = await asyncio.gather(
        notes.run(update, {"t": "b"}), observer.run(update, {"t": "a"}), return_exceptions=True
    )
    loser, winner = (
        (notes, observer) if isinstance(results[0], BaseException) else (observer, notes)
    )
    error = next(each for each in results if isinstance(each, BaseException))
    assert isinstance(error, OperationalError)
    assert error.args[0] == 1213
    assert winner.connection.in_transaction
    assert not loser.connection.in_transaction
    # What followed would be committed one by one.
    with pytest.raises(OperationalError, match=r"rolled back by the server \(error 1213\)"):
        await loser.run(update, {"t": "a"})
    with pytest.raises(OperationalError, match="cannot commit"):
        await loser.connection.commit()
    await winner.connection.rollback()
    await loser.run(update, {"t": "a"})


# -- errors


@pytest.mark.parametrize(
    ("sql", "kind", "driver_kind", "number"),
    [
        ("SELECT * FROM nowhere", ProgrammingError, "ProgrammingError", 1146),
        ("SELECT nothing FROM notes", ProgrammingError, "OperationalError", 1054),
        ("SELEC 1", ProgrammingError, "ProgrammingError", 1064),
        ("SELECT nofunction_x(1)", ProgrammingError, "OperationalError", 1305),
        ("INSERT INTO notes (id) VALUES (1)", IntegrityError, "IntegrityError", 1062),
        ("INSERT INTO notes (n) VALUES (NULL)", IntegrityError, "IntegrityError", 1048),
        ("INSERT INTO notes (n) VALUES (5000)", IntegrityError, "OperationalError", None),
        ("UPDATE notes SET n = 99999999999", DataError, "DataError", 1264),
        ("UPDATE notes SET text = repeat('x', 60)", DataError, "DataError", 1406),
        ("UPDATE notes SET n = 'x'", DataError, "DataError", None),
        (
            "SET STATEMENT max_statement_time = 0.05 FOR"
            " SELECT SUM(SQRT(seq)) FROM seq_1_to_1000000000",
            QueryTimeoutError,
            "OperationalError",
            1969,
        ),
    ],
)
async def test_an_error_is_of_both_classes(
    notes: Session, sql: str, kind: Any, driver_kind: str, number: int | None
) -> None:
    await notes.run("INSERT INTO notes (id, text) VALUES (1, 'one')")
    with pytest.raises(kind) as caught:
        await notes.run(sql)
    error = caught.value
    if number is not None:
        assert error.args[0] == error.errno == number
    package = (
        pymysql.err if isinstance(notes.connection.raw, aiomysql.Connection) else asyncmy.errors
    )
    assert isinstance(error.__cause__, getattr(package, driver_kind, package.MySQLError))
    assert isinstance(error, type(error.__cause__))
    assert notes.connection.is_alive()
    assert await notes.value("SELECT 1") == 1


async def test_a_killed_connection_is_told(session: Session, observer: Session) -> None:
    number = await session.thread_id()
    await observer.run(f"KILL {number}")

    async def noticed() -> bool:
        return not session.connection.is_alive()

    await eventually(noticed)
    with pytest.raises(ConnectionFailedError):
        await session.value("SELECT 1")
    with pytest.raises(ConnectionFailedError):
        await session.connection.check()
    assert not session.connection.in_transaction
    await session.connection.close()


async def test_a_killed_statement_leaves_the_connection(
    session: Session, observer: Session
) -> None:
    number = await session.thread_id()
    task = asyncio.ensure_future(session.run("SELECT sleep(63) FROM (SELECT 1) one"))
    await eventually(lambda: is_running(observer, "sleep(63)"))
    assert not session.connection.is_alive()  # busy
    await observer.run(f"KILL QUERY {number}")
    with contextlib.suppress(OperationalError):  # sleep() itself ends with 1 instead
        await task
    assert session.connection.is_alive()
    assert await session.value("SELECT 1") == 1


# -- cancelling


async def test_a_cancelled_statement_ends_on_the_server(
    session: Session, observer: Session
) -> None:
    await cancelled(observer, session.rows("SELECT sleep(64)"), "sleep(64)")
    assert not session.connection.is_alive()
    with pytest.raises(ConnectionFailedError):
        await session.value("SELECT 1")
    session.connection.terminate()


async def test_a_cancelled_transaction_is_rolled_back(notes: Session, observer: Session) -> None:
    await notes.connection.begin(PLAIN)
    await notes.run("INSERT INTO notes (text) VALUES ('a')")
    await cancelled(observer, notes.rows("SELECT sleep(65)"), "sleep(65)")
    # aiomysql's survives its statement; asyncmy's is closed.
    await notes.connection.rollback()
    assert not notes.connection.in_transaction
    await observer.run("INSERT INTO notes (text) VALUES ('a')")  # waits for no lock


async def test_many_cancelled_at_once(opener: Opener, observer: Session) -> None:
    sessions = [await opener() for _ in range(5)]
    work = asyncio.gather(*(each.rows("SELECT sleep(66)") for each in sessions))
    await cancelled(observer, work, "sleep(66)")
    assert not any(each.connection.is_alive() for each in sessions)


async def test_terminating_ends_the_statement_on_the_server(
    session: Session, observer: Session
) -> None:
    task = asyncio.ensure_future(session.rows("SELECT sleep(67)"))
    await eventually(lambda: is_running(observer, "sleep(67)"))
    session.connection.terminate()
    with pytest.raises(ConnectionFailedError):
        await task

    async def gone() -> bool:
        return not await is_running(observer, "sleep(67)")

    await eventually(gone)


async def test_a_cancelled_connect_leaves_nothing(
    make: Callable[..., MySQLBaseDriver], observer: Session
) -> None:
    driver = make(init_command="SELECT sleep(68)")
    await cancelled(observer, driver.connect(), "sleep(68)")


async def test_a_connect_that_takes_too_long(make: Callable[..., MySQLBaseDriver]) -> None:
    hung_up = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        hung_up.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        driver = make(f"mysql://u@127.0.0.1:{port}/x", connect_timeout="0.05")
        with pytest.raises(ConnectionFailedError, match=f"127.0.0.1:{port}.*no answer within"):
            await driver.connect()
        await hung_up.wait()


# -- the connection's life


async def test_reset_brings_the_session_back(opener: Opener, mysql_url: str) -> None:
    runs: list[Any] = []

    async def init(raw: Any) -> None:
        runs.append(raw)
        await raw.query("SET @from_init = 1")

    session = await opener(
        init=init, init_command="SET @from_command = 2", time_zone="+03:00", sql_mode="ANSI"
    )
    question = (
        "SELECT @mine, @from_init, @from_command, @@time_zone, @@sql_mode, @@autocommit,"
        " @@collation_connection, database()"
    )
    before = await session.rows(question)
    assert before[0][:4] == (None, 1, 2, "+03:00")
    assert "ANSI_QUOTES" in before[0][4]
    cursor = await session.cursor(HUGE)
    await cursor.fetch(1)
    await cursor.close()
    await session.run(
        "SET @mine = 1, @from_init = 0, @from_command = 0, sql_mode = 'NO_BACKSLASH_ESCAPES',"
        " autocommit = 0, time_zone = '+00:00', NAMES latin1"
    )
    session.connection.raw._encoding = "latin1"  # what set_charset() does beside
    await session.run("USE information_schema")
    await session.run("START TRANSACTION")
    await session.connection.reset()
    assert await session.rows(question) == before
    assert not session.connection.in_transaction
    assert runs == [session.connection.raw] * 2
    assert await session.value("SELECT '\u20ac\U0001f600'") == "\u20ac\U0001f600"


async def test_reset_without_a_database(opener: Opener, mysql_url: str) -> None:
    url = str(DatabaseURL(mysql_url).replace(database=""))
    session = await opener(url=url)
    await session.connection.reset()
    first = await session.thread_id()
    await session.run("USE information_schema")
    await session.connection.reset()
    assert await session.value("SELECT database()") is None
    assert await session.thread_id() != first


async def test_a_server_that_cannot_reset(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Servers before MySQL 5.7.3 and MariaDB 10.2.4 say 1047; so does any to this number.
    monkeypatch.setattr("fastdb.drivers.mysql_connection._COM_RESET_CONNECTION", 0xC7)
    first = await session.thread_id()
    await session.run("SET @mine = 1")
    await session.connection.reset()
    assert await session.value("SELECT @mine") is None
    assert await session.thread_id() != first


async def test_a_server_that_does_not_answer_a_ping_is_given_up(
    make: Callable[..., MySQLBaseDriver], mysql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastdb.drivers.mysql_connection.PING_SECONDS", 0.05)
    async with Proxy(mysql_url) as proxy:
        connection = await make(proxy.url).connect()
        await connection.check()
        proxy.stall()
        with pytest.raises(ConnectionFailedError, match=r"a ping within 0\.05 seconds"):
            await connection.check()
        assert not connection.is_alive()
        proxy.resume()


async def test_an_error_in_the_rest_of_a_result_is_told_to_who_fetches_it(session: Session) -> None:
    await session.run("CREATE TABLE numbers (n INT)")
    await session.run(f"INSERT INTO numbers {SEQUENCE}")
    failing = (
        "SELECT n, (SELECT m.n FROM numbers m WHERE m.n = 5 OR m.n = numbers.n - 890) FROM numbers"
    )
    cursor = await session.cursor(failing)
    assert len(await cursor.fetch(2)) == 2
    assert await session.value("SELECT 1") == 1
    with pytest.raises(OperationalError, match="more than 1 row"):
        while await cursor.fetch(100):
            pass
    assert await session.value("SELECT 1") == 1


async def test_check_asks_the_server(session: Session) -> None:
    await session.connection.check()
    assert session.connection.is_alive()


async def test_close_leaves_no_connection(session: Session, observer: Session) -> None:
    number = await session.thread_id()
    await session.connection.close()
    await session.connection.close()
    session.connection.terminate()
    assert not session.connection.is_alive()

    async def gone() -> bool:
        query = "SELECT count(*) FROM information_schema.processlist WHERE id = :id"
        return not await observer.value(query, {"id": number})

    await eventually(gone)


async def test_close_with_an_open_cursor(session: Session, observer: Session) -> None:
    cursor = await session.cursor(HUGE)
    await cursor.fetch(1)
    await session.connection.close()

    async def gone() -> bool:
        return not await is_running(observer, "repeat('x', 500)")

    await eventually(gone)


async def test_an_init_that_fails_leaves_no_connection(
    make: Callable[..., MySQLBaseDriver],
) -> None:
    raws: list[Any] = []

    async def init(raw: Any) -> None:
        raws.append(raw)
        raise LookupError("not today")

    driver = make(init=init)
    with pytest.raises(LookupError, match="not today"):
        await driver.connect()
    assert driver.transport(raws[0]) is None


# -- connecting


@pytest.mark.parametrize("secret", ["wrong", "näh"])
async def test_a_wrong_password_is_told_without_it(
    make: Callable[..., MySQLBaseDriver], mysql_url: str, secret: str
) -> None:
    url = str(DatabaseURL(mysql_url).replace(username="nobody_known", password=secret))
    driver = make(url)
    with pytest.raises(ConnectionFailedError, match=r"'nobody_known'.*Access denied") as caught:
        await driver.connect()
    error: Any = caught.value
    assert error.errno == 1045
    assert secret not in str(error)
    assert isinstance(error, driver.operational_error)
    assert str(error).startswith("(1045, ")
    assert isinstance(error, ConnectionError) == isinstance(driver, MySQLDriver)


async def test_a_wrong_port_and_a_wrong_database(
    make: Callable[..., MySQLBaseDriver], mysql_url: str
) -> None:
    with pytest.raises(
        ConnectionFailedError, match=r"127.0.0.1:1 .*refused|127.0.0.1:1 .*111"
    ) as caught:
        await make("mysql://root@127.0.0.1:1/x").connect()
    assert isinstance(caught.value, make("mysql://h/x").operational_error)
    url = str(DatabaseURL(mysql_url).replace(database="fastdb_not_there"))
    with pytest.raises(ConnectionFailedError, match="'fastdb_not_there'"):
        await make(url).connect()


async def test_a_password_may_be_asked_for(opener: Opener, mysql_url: str) -> None:
    password = DatabaseURL(mysql_url).password or ""
    asked = []

    def plain() -> str:
        asked.append("plain")
        return password

    async def awaited() -> str:
        asked.append("awaited")
        return password

    for each in (plain, awaited):
        assert await (await opener(password=each)).value("SELECT 1") == 1
    assert asked == ["plain", "awaited"]


async def test_tls_that_is_asked_for_is_had_or_refused(
    make: Callable[..., MySQLBaseDriver], session: Session
) -> None:
    offered = (await session.rows("SHOW VARIABLES LIKE 'have_ssl'"))[0][1] == "YES"
    for options in ({"ssl": "require"}, {"ssl_mode": "REQUIRED"}, {"sslmode": "require"}):
        driver = make(**options)
        if offered:
            connection = await driver.connect()
            cipher = await Session(driver, connection).rows("SHOW STATUS LIKE 'Ssl_cipher'")
            assert cipher[0][1]
            await connection.close()
        else:
            with pytest.raises(ConnectionFailedError, match="TLS"):
                await driver.connect()
    for mode in ("PREFERRED", "disable"):
        connection = await make(ssl_mode=mode).connect()
        await connection.close()


@pytest.mark.parametrize(
    ("options", "context", "required"),
    [
        ({}, None, False),
        ({"ssl": False}, None, False),
        ({"ssl": "false"}, None, False),
        ({"ssl": True}, (ssl.CERT_REQUIRED, True), True),
        ({"ssl": "true"}, (ssl.CERT_REQUIRED, True), True),
        ({"ssl": "require"}, (ssl.CERT_NONE, False), True),
        ({"ssl": {}}, (ssl.CERT_NONE, False), True),
        ({"ssl": {"verify_mode": True}}, (ssl.CERT_REQUIRED, True), True),
        ({"sslmode": "prefer"}, (ssl.CERT_NONE, False), False),
        ({"ssl_mode": "VERIFY_CA"}, (ssl.CERT_REQUIRED, False), True),
        ({"sslmode": "verify-full"}, (ssl.CERT_REQUIRED, True), True),
        ({"ssl_check_hostname": "false", "ssl": True}, (ssl.CERT_REQUIRED, False), True),
        ({"ssl_mode": "verify-ca", "ssl_check_hostname": True}, (ssl.CERT_REQUIRED, True), True),
    ],
)
def test_what_an_option_of_tls_means(
    make: Callable[..., MySQLBaseDriver],
    options: dict[str, Any],
    context: tuple[ssl.VerifyMode, bool] | None,
    required: bool,
) -> None:
    settings = make(**options).settings
    found = settings.tls and (settings.tls.verify_mode, settings.tls.check_hostname)
    assert (found, settings.tls_required) == (context, required)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"colour": 1}, "unknown option 'colour'.*charset"),
        ({"charset": "gbk"}, "'gbk'"),
        ({"charset": "klingon"}, "'klingon'"),
        ({"autocommit": False}, "autocommit"),
        ({"local_infile": "true"}, "local_infile"),
        ({"cursorclass": object}, "cursorclass"),
        ({"loop": None}, "loop"),
        ({"client_flag": 1 << 16}, "MULTI_STATEMENTS"),
        ({"client_flag": str(1 << 7)}, "LOCAL_FILES"),
        ({"client_flag": 1 << 24}, "client_flag"),
        ({"port": "many"}, "port"),
        ({"port": 0}, "port"),
        ({"port": 3306.0}, "port is 3306.0; it must be a whole number"),
        ({"host": "a,b"}, "MySQL connects to one host"),
        ({"connect_timeout": "soon"}, "connect_timeout is 'soon'"),
        ({"use_unicode": 5}, "use_unicode is 5; it must be true or false"),
        ({"connect_timeout": 0}, "connect_timeout"),
        ({"use_unicode": "maybe"}, "use_unicode"),
        ({"conv": 5}, "conv"),
        ({"password": 5}, "password"),
        ({"init": 5}, "init"),
        ({"sql_mode": "a'b"}, "quote"),
        ({"host": 5}, "host"),
        ({"db": "a", "database": "b"}, "'db' and 'database'"),
        ({"ssl": 5}, "ssl is of type int"),
        ({"ssl": "maybe"}, "^ssl is 'maybe'"),
        ({"ssl_mode": "maybe"}, "^ssl_mode is 'maybe'"),
        ({"ssl": {"colour": 1}}, "'colour' in ssl"),
        ({"ssl": "require", "ssl_mode": "REQUIRED"}, "both"),
        ({"ssl": False, "ssl_mode": "REQUIRED"}, "ssl is False"),
        ({"ssl_mode": "DISABLED", "ssl_ca": "x"}, "disabled"),
        ({"ssl_ca": "/nowhere"}, "TLS cannot be used"),
        ({"ssl_key": "/nowhere"}, "without ssl_cert"),
    ],
)
def test_a_bad_option_is_refused_by_name(
    make: Callable[..., MySQLBaseDriver], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(OptionError, match=named):
        make(**options)


def test_options_may_come_as_strings(make: Callable[..., MySQLBaseDriver]) -> None:
    settings = make(
        "mysql://u:p@h/d?port=3307&autocommit=true&local_infile=0&unix_socket=/s&connect_timeout=2",
    ).settings
    assert settings.arguments["port"] == 3307
    assert settings.arguments["unix_socket"] == "/s"
    assert (settings.connect_timeout, settings.password) == (2.0, "p")
    assert settings.place == "/s as user 'u' to database 'd'"


def test_a_host_that_is_a_path_is_a_socket(make: Callable[..., MySQLBaseDriver]) -> None:
    settings = make("mysql://u@h/d", host="/run/it.sock", password=None).settings
    assert settings.arguments["unix_socket"] == "/run/it.sock"
    assert settings.password == ""


@pytest.mark.parametrize("text", ["+01:00", "'+01:00'", '"+01:00"'])
def test_sql_modes_may_be_quoted(make: Callable[..., MySQLBaseDriver], text: str) -> None:
    quoted = text.replace("+01:00", "ANSI_QUOTES")
    assert make(sql_mode=quoted).settings.sql_mode in ("ANSI_QUOTES", "'ANSI_QUOTES'")


def test_tls_with_files(make: Callable[..., MySQLBaseDriver]) -> None:
    certificate = Path(__file__).parent / "certificate.pem"
    for options, expected in (
        ({"ssl": {"ca": str(certificate)}}, (ssl.CERT_REQUIRED, True)),
        ({"sslmode": "require", "ssl_ca": str(certificate)}, (ssl.CERT_REQUIRED, False)),
        ({"sslmode": "require", "ssl_cipher": "ECDHE+AESGCM"}, (ssl.CERT_NONE, False)),
    ):
        context = make(**options).settings.tls
        assert context is not None
        assert (context.verify_mode, context.check_hostname) == expected
    with pytest.raises(OptionError, match="TLS cannot be used"):
        make(ssl="require", ssl_cert="/nowhere.crt")


def test_an_ssl_context_is_taken_as_it_is(make: Callable[..., MySQLBaseDriver]) -> None:
    context = ssl.create_default_context()
    assert make(ssl=context).settings.tls is context
    with pytest.raises(OptionError, match="SSLContext"):
        make(ssl=context, ssl_ca="x")


# -- the dialect


async def test_the_dialect_knows_the_server(opener: Opener, session: Session) -> None:
    version: str = await session.value("SELECT version()")
    dialect: Any = session.connection._driver.sqlalchemy_dialect()
    again: Any = session.connection._driver.sqlalchemy_dialect()
    assert dialect is again
    assert dialect.is_mariadb == ("MariaDB" in version)
    assert dialect.insert_returning == dialect.is_mariadb
    assert ".".join(map(str, dialect.server_version_info[:2])) == ".".join(version.split(".")[:2])


async def test_the_lexical_rules_follow_the_sql_mode(opener: Opener) -> None:
    session = await opener(sql_mode="ANSI_QUOTES,NO_BACKSLASH_ESCAPES")
    lexical = session.connection._driver.lexical()
    assert lexical.ansi_quotes
    assert lexical.no_backslash_escapes
    table = sa.table("select", sa.column("a"))
    assert '"select"' in str(
        sa.select(table).compile(dialect=session.connection._driver.sqlalchemy_dialect())
    )


def test_a_scheme_of_mariadb_chooses_its_dialect(mysql_url: str) -> None:
    url = mysql_url.replace("mysql://", "mariadb://", 1)
    assert MySQLDriver(DatabaseURL(url), {}).sqlalchemy_dialect().name == "mariadb"


async def test_types_go_there_and_back(session: Session) -> None:
    table = sa.Table(
        "kinds",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("flag", sa.Boolean),
        sa.Column("at", sa.DateTime),
        sa.Column("day", sa.Date),
        sa.Column("time", sa.Time),
        sa.Column("span", sa.Interval),
        sa.Column("price", sa.Numeric(10, 2)),
        sa.Column("data", sa.JSON),
        sa.Column("blob", sa.LargeBinary),
        sa.Column("colour", sa.Enum(Colour)),
        sa.Column("key", sa.Uuid),
    )
    values = {
        "id": 1,
        "flag": True,
        "at": datetime.datetime(2024, 1, 2, 3, 4, 5),
        "day": datetime.date(2024, 1, 2),
        "time": datetime.time(3, 4, 5),
        "span": datetime.timedelta(days=400, seconds=5),
        "price": Decimal("9.90"),
        "data": {"a": ["é\\'\""]},
        "blob": b"\x00\xff'",
        "colour": Colour.RED,
        "key": uuid.UUID(int=7),
    }
    await session.run(sa.schema.CreateTable(table))
    await session.run(sa.insert(table), values)
    record = await session.one(sa.select(table).where(table.c.key == values["key"]))
    assert dict(record.items()) == values


# -- errors without a number


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (pymysql.err.InterfaceError("closed"), ConnectionFailedError),
        (asyncmy.errors.InterfaceError("closed"), ConnectionFailedError),
        (EOFError("gone"), ConnectionFailedError),
        (LookupError("odd"), exceptions.InternalError),
    ],
)
def test_errors_that_have_no_number(error: Exception, kind: type[exceptions.Error]) -> None:
    assert isinstance(translate(error), kind)


@pytest.mark.parametrize(("version", "needs_alias"), [("8.0.19", False), ("8.0.20", True)])
def test_a_dialect_learns_the_version_of_mysql(version: str, needs_alias: bool) -> None:
    table = sa.table("t", sa.column("id"), sa.column("n"))
    query = mysql.insert(table).values(id=1, n=2)
    query = query.on_duplicate_key_update(n=query.inserted.n)
    dialect: Any = mysql.dialect()
    _learn_version(dialect, version)
    assert (" AS new " in str(query.compile(dialect=dialect))) is needs_alias


# -- what goes wrong seldom


async def test_an_option_file_that_cannot_be_read(
    make: Callable[..., MySQLBaseDriver], tmp_path: Path
) -> None:
    path = tmp_path / "my.cnf"
    path.write_text("no section")
    with pytest.raises(configparser.MissingSectionHeaderError):
        await make(read_default_file=str(path)).connect()


def test_statements_are_killed_from_each_event_loop(
    make: Callable[..., MySQLBaseDriver], mysql_url: str
) -> None:
    driver = make()

    async def work() -> None:
        observer = Session(driver, await driver.connect())
        session = Session(driver, await driver.connect())
        await cancelled(observer, session.rows("SELECT sleep(69)"), "sleep(69)")
        await session.connection.close()
        await observer.connection.close()

    for _ in range(2):
        asyncio.run(work())


async def test_a_cursor_that_cannot_be_killed_is_cut(
    make: Callable[..., MySQLBaseDriver], mysql_url: str
) -> None:
    async with Proxy(mysql_url) as proxy:
        driver = make(proxy.url)
        session = Session(driver, await driver.connect())
        cursor = await session.cursor(HUGE)
        await cursor.fetch(1)
        proxy.refuses = True
        await cursor.close()
        assert not session.connection.is_open


async def test_a_transaction_whose_statement_cannot_be_killed_is_cut(
    make: Callable[..., MySQLBaseDriver], mysql_url: str
) -> None:
    async with Proxy(mysql_url) as proxy:
        driver = make(proxy.url)
        session = Session(driver, await driver.connect())
        await session.connection.begin(PLAIN)
        task = asyncio.ensure_future(session.rows("SELECT sleep(5)"))
        await asyncio.sleep(0.05)
        proxy.refuses = True
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not session.connection.is_open


async def test_a_connection_lost_where_the_rest_of_a_result_is_read(
    make: Callable[..., MySQLBaseDriver], mysql_url: str
) -> None:
    async with Proxy(mysql_url) as proxy:
        driver = make(proxy.url)
        session = Session(driver, await driver.connect())
        cursor = await session.cursor(HUGE)
        await cursor.fetch(1)
        proxy.cut_after(100_000)
        with pytest.raises(ConnectionFailedError):
            await session.value("SELECT 1")
        with pytest.raises(ConnectionFailedError):  # what was read is not the whole
            while await cursor.fetch(1000):
                pass
        assert not session.connection.is_open


async def test_a_ping_reads_the_rest_of_a_result(session: Session) -> None:
    cursor = await session.cursor(SEQUENCE)
    assert len(await cursor.fetch(2)) == 2
    await session.connection.check()
    assert len(await cursor.fetch(1000)) == 898


async def test_a_query_that_is_left_half_way_closes_the_connection(session: Session) -> None:
    plan, args, _ = session.cache.prepare("SELECT sleep(0.2)")
    running: Any = session.connection.fetch_all(plan, args).__await__()
    next(running)
    running.close()
    assert not session.connection.is_open


async def test_a_socket_that_somebody_closed_is_no_connection(session: Session) -> None:
    transport = session.connection._driver.transport(session.connection.raw)
    assert transport is not None
    transport.get_extra_info("socket")._sock.close()
    assert not session.connection.is_alive()


async def test_a_batch_that_commits_implicitly_and_fails(notes: Session) -> None:
    await notes.connection.begin(PLAIN)
    with pytest.raises(Error, match=r"[Aa]lready exists"):
        await notes.many("CREATE TABLE twice (id INT) /* :n */", [{}, {}])
    await notes.connection.rollback()
    assert await notes.value("SELECT count(*) FROM twice") == 0


async def test_a_savepoint_that_the_users_sql_removed_is_told(notes: Session) -> None:
    connection = notes.connection
    for end in (connection.release_savepoint, connection.rollback_to_savepoint):
        await connection.begin(PLAIN)
        await connection.savepoint()
        await notes.run("COMMIT AND CHAIN")
        with pytest.raises(OperationalError, match="commits implicitly removed it"):
            await end()
        await connection.rollback()


def test_a_time_to_read_that_is_none(mysql_url: str) -> None:
    url = DatabaseURL(mysql_url)
    assert DRIVERS["asyncmy"](url, {"read_timeout": "2.5"}).settings.arguments[
        "read_timeout"
    ] == pytest.approx(2.5)
    with pytest.raises(OptionError, match="read_timeout is"):
        DRIVERS["asyncmy"](url, {"read_timeout": "long"})


async def test_a_password_may_be_bytes(
    make: Callable[..., MySQLBaseDriver], observer: Session
) -> None:
    await observer.run("CREATE USER 'fastdb_bytes'@'%' IDENTIFIED BY 'p\u00e4ss'")
    try:
        name = await observer.value("SELECT database()")
        await observer.run(f"GRANT ALL ON {name}.* TO 'fastdb_bytes'@'%'")
        driver = make(user="fastdb_bytes", password="p\u00e4ss".encode())
        connection = await driver.connect()
        assert await Session(driver, connection).value("SELECT 1") == 1
        await connection.close()
    finally:
        await observer.run("DROP USER 'fastdb_bytes'@'%'")
