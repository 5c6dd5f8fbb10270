"""The driver over aiomysql reads results with our decoder, from servers good and bad."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiomysql
import pymysql.converters
import pymysql.err
import pytest
import sqlalchemy
from aiomysql.connection import Connection
from pymysql.constants import CLIENT

import fastdb
from fastdb.drivers import mysql_hook
from fastdb.drivers.base import DriverConnection
from fastdb.drivers.mysql_hook import UNKNOWN_HOOK
from fastdb.drivers.mysql_raw import DecodedResult
from fastdb.exceptions import ConnectionFailedError, DataError, InternalError, OperationalError
from tests.speedups.mysql_packets import (
    Column,
    error,
    head,
    number,
    ok,
    packets,
    result,
    row,
)

COLUMNS: list[Column] = [("id", 3, 63), ("name", 253, 45)]
FACTS: list[Column] = [("x", 253, 45)] * 7
ONE = row(b"1", b"one")


class Server:
    """Answer like a server to everything but the statement ``BAD``."""

    def __init__(self) -> None:
        self.answer = b""
        self.close_after = False
        self.statements: list[bytes] = []
        self.release = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"mysql://user@127.0.0.1:{port}/app"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0)

    def greeting(self, *, tls: bool = False) -> bytes:
        greeting = b"\x0a10.11.1-MariaDB\0" + (7).to_bytes(4, "little") + b"12345678\0"
        greeting += b"\xff\xff" if tls else b"\xff\xf7"  # capabilities
        # charset, status, length of the salt
        greeting += b"\x2d" + b"\2\0" + b"\x08\0" + b"\x15" + b"\0" * 10
        return packets([greeting + b"123456789012\0mysql_native_password\0"], 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.greeting())
        await self.talk(reader, writer, 2)

    async def talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sequence: int
    ) -> None:
        self._writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._payload(reader)
            writer.write(packets([ok()], sequence))
            while True:
                statement = (await self._payload(reader))[1:]
                self.statements.append(statement)
                if statement.startswith(b"BAD"):
                    await self.send(writer)
                    if self.close_after:
                        writer.close()
                        return
                elif statement.startswith(b"SELECT @@"):
                    texts = (b"", b"16777216", b"utf8mb4", b"utf8mb4_bin", b"h", b"1", b"10.11.1")
                    writer.write(packets(result(FACTS, [row(*texts)])))
                elif statement.startswith(b"KILL"):
                    writer.write(packets([ok()]))
                    self.release.set()
                else:
                    writer.write(packets([ok()]))

    async def send(self, writer: asyncio.StreamWriter) -> None:
        writer.write(self.answer)

    async def _payload(self, reader: asyncio.StreamReader) -> bytes:
        header = await reader.readexactly(4)
        return await reader.readexactly(int.from_bytes(header[:3], "little"))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    yield server
    await server.stop()


@pytest.fixture
async def database(server: Server) -> AsyncIterator[fastdb.Database]:
    async with fastdb.Database(await server.start(), max_size=1) as database:
        yield database


def raw_of(connection: fastdb.Connection) -> Any:
    return connection.raw_connection


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastdb.drivers.mysql_raw.UNKNOWN_HOOK", "its version is 9")


@pytest.fixture(params=["ours", "aiomysql's"])
def decoder(request: pytest.FixtureRequest) -> str:
    """Let each of the two decoders read the answers."""
    name: str = request.param
    if name == "aiomysql's":
        request.getfixturevalue("unknown")
    return name


HOSTILE: list[tuple[str, bytes, str]] = [
    ("length", packets([*head(COLUMNS), b"\x01" + b"1" + b"\xfe" + b"\xff" * 8]), "a value has"),
    ("row", packets([*head(COLUMNS), b"\x011"]), "ends before its last value"),
    ("columns", packets([number(70000)]), "a result has 70000 columns"),
    ("end", packets([*head(COLUMNS), b"\xfe"]), "no status"),
    ("number", packets([ok()], 9), "has the number 9 instead of 1"),
    ("empty", packets([b""]), "a packet is empty"),
]


@pytest.mark.parametrize(
    ("answer", "message"), [each[1:] for each in HOSTILE], ids=[each[0] for each in HOSTILE]
)
@pytest.mark.parametrize("way", ["fetch_all", "fetch_one", "execute", "iterate"])
async def test_a_lying_server_is_told_and_left(
    server: Server, database: fastdb.Database, answer: bytes, message: str, way: str
) -> None:
    server.answer = answer
    async with database.connection() as connection:
        raw = raw_of(connection)
        with pytest.raises(InternalError, match=message):
            if way == "iterate":
                async for _ in connection.iterate("BAD"):
                    pass
            else:
                await getattr(connection, way)("BAD")
        assert raw.closed
    assert await database.execute("DO 0") is None


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("way", ["fetch_all", "iterate"])
async def test_a_server_that_asks_for_a_file_is_left(
    server: Server, database: fastdb.Database, way: str
) -> None:
    server.answer = packets([b"\xfb/etc/passwd"])
    async with database.connection() as connection:
        raw = raw_of(connection)
        with pytest.raises(OperationalError, match="asked for a local file"):
            if way == "iterate":
                async for _ in connection.iterate("BAD"):
                    pass
            else:
                await connection.fetch_all("BAD")
        assert raw.closed


async def read(connection: fastdb.Connection, way: str) -> list[fastdb.Record]:
    if way == "iterate":
        return [each async for each in connection.iterate("BAD")]
    records: list[fastdb.Record] = await getattr(connection, way)("BAD")
    return records


@pytest.mark.parametrize("cut", [0, 3, 4, 40, -1])
@pytest.mark.parametrize("way", ["fetch_all", "iterate"])
async def test_a_connection_lost_in_the_middle(
    server: Server, database: fastdb.Database, cut: int, way: str
) -> None:
    server.answer = packets(result(COLUMNS, [ONE]))[:cut]
    server.close_after = True
    async with database.connection() as connection:
        with pytest.raises(ConnectionFailedError, match="Lost connection") as caught:
            await read(connection, way)
        assert isinstance(caught.value, pymysql.err.OperationalError)
        assert caught.value.args[0] == 2013


@pytest.mark.parametrize("way", ["fetch_all", "iterate"])
async def test_a_packet_that_lies_about_16_megabytes(
    server: Server, database: fastdb.Database, way: str
) -> None:
    server.answer = packets(head(COLUMNS)) + b"\xff\xff\xff\x05abc"
    server.close_after = True
    async with database.connection() as connection:
        with pytest.raises(ConnectionFailedError, match="Lost connection"):
            await read(connection, way)


async def test_a_server_that_shuts_down_says_so_out_of_turn(
    server: Server, database: fastdb.Database
) -> None:
    server.answer = packets([error(1053, "Server shutdown in progress")], 0)
    with pytest.raises(ConnectionFailedError, match="Lost connection"):
        await database.fetch_all("BAD")


async def test_a_text_of_another_charset(server: Server, database: fastdb.Database) -> None:
    server.answer = packets(result(COLUMNS, [row(b"1", b"\xff")]))
    with pytest.raises(DataError, match="none of the connection's charset"):
        await database.fetch_all("BAD")
    assert await database.execute("DO 0") is None


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("way", ["fetch_all", "iterate"])
async def test_an_error_after_some_rows(
    server: Server, database: fastdb.Database, way: str
) -> None:
    server.answer = packets([*head(COLUMNS), ONE, ONE, error(1317, "Query was interrupted")])
    async with database.connection() as connection:
        raw = raw_of(connection)
        with pytest.raises(OperationalError, match="interrupted"):
            if way == "iterate":
                async for _ in connection.iterate("BAD"):
                    pass
            else:
                await connection.fetch_all("BAD")
        # Nothing is wrong with the connection.
        assert await connection.execute("DO 0") is None
        assert connection.raw_connection is raw


@pytest.mark.parametrize("batch_size", [1, 2, 100])
@pytest.mark.parametrize("rows", [0, 1, 2, 5])
async def test_several_results(
    server: Server, database: fastdb.Database, rows: int, batch_size: int
) -> None:
    answer = result(COLUMNS, [ONE] * rows, status=0x0A)
    answer += result([("other", 3, 63)], [row(b"7")], status=0x0A)
    answer.append(ok())
    server.answer = packets(answer)
    async with database.connection() as connection:
        raw = raw_of(connection)
        assert await connection.fetch_all("BAD") == [(1, "one")] * rows
        assert await connection.execute("DO 0") is None
        found = [tuple(each) async for each in connection.iterate("BAD", batch_size=batch_size)]
        assert found == [(1, "one")] * rows
        assert await connection.execute("DO 0") is None
        assert connection.raw_connection is raw
        assert not raw._unread


@pytest.mark.parametrize("answer", [result(COLUMNS, [ONE]), [*head(COLUMNS), ONE, error()]])
async def test_bytes_after_the_answer_are_not_the_next_one(
    server: Server, database: fastdb.Database, answer: list[bytes]
) -> None:
    server.answer = packets(answer) + packets([ok(5)])
    async with database.connection() as connection:
        raw = raw_of(connection)
        if answer[-1] == error():
            with pytest.raises(fastdb.Error, match="wrong"):
                await connection.fetch_all("BAD")
        else:
            assert await connection.fetch_all("BAD") == [(1, "one")]
        assert raw.closed
    assert await database.execute("DO 0") is None


@pytest.mark.parametrize("way", ["fetch_all", "iterate"])
async def test_a_cancelled_read_closes_and_kills(
    server: Server, database: fastdb.Database, way: str
) -> None:
    server.answer = packets([*head(COLUMNS), ONE])
    async with database.connection() as connection:
        raw = raw_of(connection)
        task = asyncio.create_task(asyncio.wait_for(read(connection, way), 0.05))
        with pytest.raises(TimeoutError):
            await task
        assert raw.closed
        async with asyncio.timeout(5):
            await server.release.wait()
    assert server.statements.count(b"KILL CONNECTION 7") == 1


# -- a real server


async def test_the_decoder_is_in_use(mysql_url: str) -> None:
    assert not UNKNOWN_HOOK
    async with fastdb.Database(mysql_url) as database, database.connection() as connection:
        records = await connection.fetch_all("SELECT 1 AS one")
        last = raw_of(connection)._result
        assert isinstance(last, DecodedResult)
        assert last.makes_records
        # What was handed out is not held.
        assert last.rows == []
        assert records[0].one == 1


async def test_a_row_of_more_than_16_megabytes(mysql_url: str) -> None:
    async with fastdb.Database(mysql_url) as database:
        sql = "SELECT REPEAT('a', 9000000) AS a, 7 AS n, REPEAT('b', 9000000) AS b"
        for _ in range(2):
            record = await database.fetch_one(sql)
            assert record is not None
            assert (len(record.a), record.n, len(record.b)) == (9000000, 7, 9000000)
            assert (record.a[-1], record.b[0]) == ("a", "b")
        found = [len(each.b) async for each in database.iterate(f"{sql} UNION ALL {sql}")]
        assert found == [9000000, 9000000]


@pytest.mark.parametrize("size", [0xFFFFFF - 6, 0xFFFFFF - 5, 0xFFFFFF - 4, 0xFFFFFF - 3])
async def test_rows_around_the_size_of_a_packet(mysql_url: str, size: int) -> None:
    # The length of the first value takes four bytes, that of the second one and one more.
    async with fastdb.Database(mysql_url) as database:
        half = size // 2
        sql = f"SELECT CONCAT('x', REPEAT('a', {half - 1})) AS a, REPEAT('b', {size - half}) AS b"
        record = await database.fetch_one(sql)
        assert record is not None
        assert (len(record.a), len(record.b)) == (half, size - half)
        assert await database.fetch_val("SELECT 1") == 1


@pytest.mark.parametrize("size", [0xFFFFFF - 2, 0xFFFFFF - 1])
async def test_statements_around_the_size_of_a_packet(mysql_url: str, size: int) -> None:
    async with fastdb.Database(mysql_url, max_size=1) as database:
        sql = "SELECT LENGTH(:text) AS n"
        text = "x" * (size - len("SELECT LENGTH('') AS n"))
        assert await database.fetch_val(sql, {"text": text}) == len(text)
        assert [each.n async for each in database.iterate(sql, {"text": text})] == [len(text)]
        await database.execute("CREATE TABLE large (id INT AUTO_INCREMENT PRIMARY KEY, t LONGTEXT)")
        text = "x" * (size - len("INSERT INTO large (t) VALUES ('')"))
        for key in (1, 2):
            sql = "INSERT INTO large (t) VALUES (:text)"
            assert await database.execute(sql, {"text": text}) == key
        assert await database.fetch_val("SELECT COUNT(*) FROM large") == 2
        assert database.pool.stats().opened == 1


async def test_an_error_in_the_middle_of_a_result(mysql_url: str) -> None:
    async with fastdb.Database(mysql_url, max_size=1) as database:
        sql = (
            "SELECT seq, REPEAT('x', 100), IF(seq < 3000, 1, (SELECT seq FROM seq_1_to_2)) AS n"
            " FROM seq_1_to_5000"
        )
        with pytest.raises(fastdb.Error, match="more than 1 row"):
            await database.fetch_all(sql)
        found = 0
        with pytest.raises(fastdb.Error, match="more than 1 row"):
            async for _ in database.iterate(sql, batch_size=100):
                found += 1
        assert 2000 < found < 3000
        assert await database.fetch_val("SELECT 1") == 1


async def test_results_of_a_procedure(mysql_url: str) -> None:
    async with fastdb.Database(mysql_url, max_size=1) as database:
        await database.execute(
            "CREATE PROCEDURE two() BEGIN SELECT 1 AS one UNION ALL SELECT 2; SELECT 'b' AS b; END"
        )
        for _ in range(2):
            assert await database.fetch_all("CALL two()") == [(1,), (2,)]
            assert [each.one async for each in database.iterate("CALL two()")] == [1, 2]
        await database.execute("DROP PROCEDURE two")


async def test_cursors_of_aiomysql_work_on_the_same_connection(mysql_url: str) -> None:
    async with fastdb.Database(mysql_url) as database, database.connection() as connection:
        if raw := raw_of(connection):
            for kind in (aiomysql.Cursor, aiomysql.DictCursor, aiomysql.SSCursor):
                assert await connection.fetch_val("SELECT 1") == 1
                async with raw.cursor(kind) as cursor:
                    await cursor.execute("SELECT 5 AS five")
                    assert list(await cursor.fetchall()) in ([(5,)], [{"five": 5}])


async def test_a_query_drops_the_rest_of_a_cursor_of_aiomysql(mysql_url: str) -> None:
    async with (
        fastdb.Database(mysql_url, max_size=1) as database,
        database.transaction(),
        database.connection() as connection,
    ):
        raw = raw_of(connection)
        async with raw.cursor(aiomysql.SSCursor) as cursor:
            await cursor.execute("SELECT seq FROM seq_1_to_5000")
            assert await cursor.fetchone() == (1,)
            with pytest.warns(UserWarning, match="left incomplete"):
                assert await connection.fetch_val("SELECT 7") == 7
        assert await connection.fetch_val("SELECT 8") == 8
        assert raw_of(connection) is raw


async def test_a_command_of_aiomysql_reads_the_rest_of_an_iteration(mysql_url: str) -> None:
    """No row is dropped when the raw connection is used in the body, as with our own queries."""
    async with fastdb.Database(mysql_url) as database, database.connection() as connection:
        raw = raw_of(connection)
        seen = 0
        async for record in connection.iterate("SELECT seq FROM seq_1_to_5000", batch_size=10):
            seen += 1
            assert record.seq == seen
            if seen in (1, 2, 4000):
                async with raw.cursor() as cursor:
                    await cursor.execute("SELECT 7")
                    assert await cursor.fetchall() in ([(7,)], ((7,),))
                await raw.ping()
        assert seen == 5000
        assert await connection.fetch_val("SELECT 1") == 1
        # Left early, it is given up, and what the user does next finds nothing of it.
        rows = connection.iterate("SELECT seq FROM seq_1_to_5000", batch_size=10)
        assert (await anext(rows)).seq == 1
        await rows.aclose()
        await raw.query("SELECT 8")
        assert raw._result.rows == ((8,),)


@pytest.mark.parametrize("number", [1969, 3024, 1317])
async def test_dropping_the_rest_forgives_that_its_time_is_over(
    server: Server, database: fastdb.Database, number: int
) -> None:
    server.answer = packets([*head(COLUMNS), ONE, ONE, error(number, "over")])
    async with database.connection() as connection:
        raw = raw_of(connection)
        rows = connection.iterate("BAD", batch_size=1)
        await anext(rows)
        finish = raw._result._finish_unbuffered_query()
        if number == 1317:
            with pytest.raises(pymysql.err.OperationalError):
                await finish
        else:
            await finish
        assert not raw._result.unbuffered_active
        await rows.aclose()


async def test_decoders_of_the_users(mysql_url: str) -> None:
    conv = {**pymysql.converters.conversions, 3: lambda text: f"<{text}>"}
    async with fastdb.Database(mysql_url, conv=conv) as database:
        await database.execute("CREATE TABLE notes (id INT, text TEXT, price DECIMAL(5,2))")
        await database.execute("INSERT INTO notes VALUES (1, 'a', 2.5), (NULL, NULL, NULL)")
        found = await database.fetch_all("SELECT id, text FROM notes")
        assert found == [("<1>", "a"), (None, None)]


async def test_a_decoder_of_the_users_that_fails(mysql_url: str) -> None:
    def wrong(text: Any) -> Any:
        raise ZeroDivisionError(text)

    conv = {**pymysql.converters.conversions, 10: wrong}
    async with fastdb.Database(mysql_url, conv=conv, max_size=1) as database:
        with pytest.raises(ZeroDivisionError):
            await database.fetch_all("SELECT DATE'2024-01-01' FROM seq_1_to_2000")
        assert await database.fetch_val("SELECT 'x'") == "x"


@pytest.mark.parametrize("charset", ["latin1", "koi8r", "utf8mb3", "cp1251"])
async def test_charsets_of_the_connection(mysql_url: str, charset: str) -> None:
    text = {"koi8r": "мир", "cp1251": "мир"}.get(charset, "größe")
    async with fastdb.Database(mysql_url, charset=charset) as database:
        record = await database.fetch_one(f"SELECT :text AS `{text}`", {"text": text})
        assert record is not None
        assert dict(record) == {text: text}


# -- an aiomysql that is not known


@pytest.mark.usefixtures("unknown")
async def test_an_unknown_aiomysql_decodes_itself(mysql_url: str) -> None:
    async with fastdb.Database(mysql_url, max_size=1) as database:
        async with database.connection() as connection:
            assert await connection.fetch_all("SELECT 1 AS a, 'b' AS b") == [(1, "b")]
            assert not isinstance(raw_of(connection)._result, DecodedResult)
            assert await connection.fetch_one("SELECT 1 WHERE 0") is None
        found = [each.seq async for each in database.iterate("SELECT seq FROM seq_1_to_9")]
        assert found == list(range(1, 10))
        assert (await database.execute_result("SELECT 7 AS n")).rows[0].n == 7
        first = await database.fetch_one("SELECT seq FROM seq_1_to_9 ORDER BY seq")
        assert first is not None
        assert first.seq == 1


def nothing(*_: Any) -> None:
    """Stand where aiomysql has a coroutine."""


CHANGES: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (lambda patch: patch.setattr(aiomysql, "__version__", "0.4.0"), "its version is 0.4.0"),
    (
        lambda patch: patch.setattr(mysql_hook, "TEXT_TYPES", {1}),
        "it decodes other types as texts",
    ),
    (
        lambda patch: patch.setattr(CLIENT, "CAPABILITIES", 1 << 24),
        "it asks for results without EOF packets",
    ),
    (
        lambda patch: patch.setattr(Connection, "_read_packet", nothing),
        "its Connection._read_packet() does not use _next_seq_id",
    ),
    (lambda patch: patch.delattr(Connection, "next_result"), "next_result()"),
    (
        lambda patch: patch.setattr(Connection, "_close_on_cancel", nothing),
        "its Connection._close_on_cancel() does not use close",
    ),
    (lambda patch: patch.delattr(Connection, "_ensure_alive"), "_ensure_alive()"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES, ids=range(len(CHANGES)))
def test_what_is_not_known_of_aiomysql_is_named(
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[pytest.MonkeyPatch], None],
    reason: str,
) -> None:
    assert mysql_hook._unknown_hook() == ""
    change(monkeypatch)
    assert reason in mysql_hook._unknown_hook()


def test_it_is_logged_at_import() -> None:
    code = (
        "import logging, aiomysql; logging.basicConfig(); aiomysql.__version__ = '0.4.0'; "
        "import fastdb.drivers.mysql"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert logging.getLevelName(logging.WARNING) in done.stderr
    assert "does not know this aiomysql: its version is 0.4.0" in done.stderr


# -- what goes wrong seldom


class Script(Server):
    """Answer what a test says, in a transaction."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: list[bytes | None] = []
        self.waits_for_kill = False
        self.host = b"h"
        self.version = b"10.11.1"
        self.others_are_elsewhere = False

    async def talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sequence: int
    ) -> None:
        self._writers.append(writer)
        host = self.host
        if self.others_are_elsewhere:
            self.host = b"another"
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._payload(reader)
            writer.write(packets([ok()], sequence))
            while True:
                statement = await self._payload(reader)
                self.statements.append(statement[1:])
                if statement[1:].startswith(b"SELECT @@"):
                    facts = (b"", b"16777216", b"utf8mb4", b"utf8mb4_bin", host, b"1", self.version)
                    writer.write(packets(result(FACTS, [row(*facts)])))
                elif statement[1:].startswith(b"KILL"):
                    writer.write(packets([ok()]))
                    self.release.set()
                elif statement[1:].startswith(b"START"):
                    writer.write(packets([ok(status=3)]))
                else:
                    if self.waits_for_kill and statement[1:].startswith(b"BAD"):
                        await self.release.wait()
                    reply = self.replies.pop(0) if self.replies else packets([ok(status=3)])
                    if reply is None:
                        await self.release.wait()
                        return
                    writer.write(reply)
                    if not reply:
                        writer.close()
                        return


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    script = Script()
    yield script
    await script.stop()


INTERRUPTED = packets([error(1317, "Query execution was interrupted")])


@asynccontextmanager
async def cancelled_in_transaction(script: Script) -> AsyncIterator[DriverConnection]:
    """Cancel a statement in a transaction, and provide its connection."""
    async with (
        fastdb.Database(await script.start(), max_size=1) as database,
        database.connection() as connection,
    ):
        await connection.transaction().start()
        await cancel_bad(script, connection)
        yield connection._lease.leased()
        script.release.set()


async def cancel_bad(script: Script, connection: fastdb.Connection) -> None:
    task = asyncio.create_task(connection.fetch_all("BAD"))
    while b"BAD" not in script.statements:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("late", [0, 1, 2])
async def test_a_kill_that_comes_late_hits_nothing_of_the_users(script: Script, late: int) -> None:
    script.waits_for_kill = True
    script.replies = [INTERRUPTED, *[INTERRUPTED] * late]
    async with cancelled_in_transaction(script) as connection:
        assert connection.in_transaction == (late < 2)
        assert script.statements.count(b"DO 0") == min(late + 1, 2)


async def test_further_results_of_a_killed_statement_are_not_read_for_others(
    script: Script,
) -> None:
    script.waits_for_kill = True
    script.replies = [packets(result(COLUMNS, [ONE], status=0x0B))]
    async with cancelled_in_transaction(script) as connection:
        assert not connection.is_alive()
        assert b"DO 0" not in script.statements


async def test_another_servers_statement_is_not_killed(script: Script) -> None:
    """Behind a load balancer, a connection's number may be another server's."""
    script.others_are_elsewhere = script.waits_for_kill = True
    async with cancelled_in_transaction(script) as connection:
        assert not any(each.startswith(b"KILL") for each in script.statements)
        assert not connection.is_alive()


async def test_a_server_that_ends_the_connection_with_its_error(script: Script) -> None:
    script.replies = [packets([error(1053, "Server shutdown in progress")])]
    async with fastdb.Database(await script.start()) as database, database.connection() as one:
        with pytest.raises(ConnectionFailedError, match="shutdown"):
            await one.fetch_all("BAD")
        assert not one._lease.leased().is_alive()


@pytest.mark.parametrize("lost", [True, False])
async def test_whether_a_transaction_goes_on_that_the_server_does_not_say(
    script: Script, lost: bool
) -> None:
    """After an error the server is asked; that may fail, or be cancelled."""
    script.replies = [packets([error(1205, "Lock wait timeout exceeded")]), b""]
    async with fastdb.Database(await script.start()) as database, database.connection() as one:
        await one.transaction().start()
        if lost:
            with pytest.raises(OperationalError, match="timeout exceeded"):
                await one.fetch_all("BAD")
        else:
            raw = raw_of(one)
            asked = asyncio.Event()
            answer = asyncio.get_running_loop().create_future()
            read = raw._read_ok_packet

            async def read_late() -> None:
                asked.set()
                await answer
                await read()

            raw._read_ok_packet = read_late
            task = asyncio.create_task(one.fetch_all("BAD"))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not one._lease.leased().is_alive()


async def test_a_rollback_that_the_server_refuses_cuts_the_connection(script: Script) -> None:
    refused = packets([error(1062, "Duplicate entry")])
    script.replies = [refused, packets([error(1105, "Unknown error")]), packets([ok(status=3)])]
    async with fastdb.Database(await script.start()) as database, database.connection() as one:
        with pytest.raises(fastdb.IntegrityError):
            await one.execute_many("UPDATE t SET x = :x", [{"x": 1}, {"x": 2}])
        assert not one._lease.leased().is_alive()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_commit_that_fails_and_cannot_be_undone_cuts_the_connection(
    script: Script, cancelled: bool
) -> None:
    refused = packets([error(1062, "Duplicate entry")])
    async with fastdb.Database(await script.start()) as database, database.connection() as one:
        transaction = await one.transaction().start()
        script.replies = [refused, None if cancelled else packets([error(1105, "Unknown error")])]
        committing = asyncio.create_task(transaction.commit())
        if cancelled:
            while b"ROLLBACK" not in script.statements:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            committing.cancel()
        with pytest.raises(asyncio.CancelledError if cancelled else fastdb.IntegrityError):
            await committing
        assert not one._lease.leased().is_alive()
        assert transaction.state == "rolled back"


@pytest.mark.usefixtures("unknown")
async def test_an_answer_that_aiomysql_cannot_read(
    server: Server, database: fastdb.Database
) -> None:
    server.answer = packets([b"\0\xfe\x01\x02\x03\x04\x05"])
    with pytest.raises(InternalError, match="answer cannot be read"):
        await database.fetch_all("BAD")
    assert await database.execute("DO 0") is None


async def test_a_version_older_than_any_that_sqlalchemy_knows(script: Script) -> None:
    script.version = b"4.0.30"
    async with fastdb.Database(await script.start()) as database:
        assert await database.fetch_all(sqlalchemy.select(sqlalchemy.literal(1))) == []


@pytest.mark.usefixtures("unknown")
async def test_an_unknown_aiomysql_is_read_in_pieces(mysql_url: str) -> None:
    async with fastdb.Database(mysql_url) as database:
        rows = database.iterate("SELECT seq FROM seq_1_to_10", batch_size=4)
        assert [record.seq async for record in rows] == list(range(1, 11))


async def test_the_second_result_of_a_call_is_cancelled(mysql_url: str) -> None:
    async with fastdb.Database(mysql_url) as database, database.connection() as one:
        await one.execute("CREATE PROCEDURE twice() BEGIN SELECT 1; SELECT sleep(71); END")
        raw = raw_of(one)
        transaction = await one.transaction().start()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(one.fetch_all("CALL twice()"), 0.3)
        assert raw.closed
        with suppress(fastdb.Error):
            await transaction.rollback()
        assert await database.fetch_val("SELECT 1") == 1


async def test_dropping_the_rest_reads_it_to_its_end(mysql_url: str) -> None:
    async with fastdb.Database(mysql_url) as database, database.connection() as connection:
        rows = connection.iterate("SELECT seq FROM seq_1_to_5000", batch_size=1)
        await anext(rows)
        raw = raw_of(connection)
        await raw._result._finish_unbuffered_query()
        assert not raw._result.unbuffered_active
        await rows.aclose()
        assert await connection.fetch_val("SELECT 1") == 1
