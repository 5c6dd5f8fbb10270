"""Answers are decoded as their bytes arrive, in pieces of any size, and whatever happens then."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import ssl
from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

import pymysql.err
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdb
from fastdb._speedups import ResultReader
from fastdb.drivers.base_wakeup import Wakeup
from fastdb.drivers.mysql_answers import AnswerLostError, AnswerProtocol
from fastdb.exceptions import ConnectionFailedError, InternalError
from tests.drivers.test_mysql_raw import COLUMNS, ONE, Server, raw_of
from tests.speedups.mysql_packets import (
    DECODERS,
    FULL,
    KNOWN,
    error,
    head,
    ok,
    packets,
    result,
    row,
)

#: A key, and its certificate for localhost.
CERTIFICATE = Path(__file__).with_name("certificate.pem")


class Line:
    """A protocol between a stream and nothing: what arrives is what a test says."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader()
        self.protocol = AnswerProtocol(asyncio.StreamReaderProtocol(self.reader), self.loop)

    def result(self, decoders: Any = DECODERS) -> ResultReader:
        return ResultReader(1, "utf8", True, decoders, KNOWN)

    def expect(self, result: ResultReader) -> asyncio.Task[None]:
        async def answer() -> None:
            await self.protocol.expect(result)

        return self.loop.create_task(answer())

    async def arrive(self, *pieces: bytes) -> None:
        """Let pieces arrive as the event loop brings them: outside of any task."""
        for piece in pieces:
            self.loop.call_soon(self.protocol.data_received, piece)
        await asyncio.sleep(0)


ANSWERS = [
    packets([ok(3, 7)]),
    packets([error()]),
    packets(result(COLUMNS, [ONE] * 5)),
    packets(result(COLUMNS, [row(b"2", b"x" * 300), row(None, None)])),
    packets([*head(COLUMNS), ONE, error()]),
    packets(result(COLUMNS, [])),
]


@settings(deadline=None, max_examples=300)
@given(
    answer=st.sampled_from(ANSWERS),
    cuts=st.lists(st.integers(0, 700)),
    after=st.binary(max_size=5),
)
def test_pieces_of_any_size_give_the_same(answer: bytes, cuts: list[int], after: bytes) -> None:
    async def arrive() -> None:
        whole = Line().result()
        whole.feed(answer)
        line = Line()
        received = line.result()
        task = line.expect(received)
        await asyncio.sleep(0)
        data = answer + after
        places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
        for start, end in pairwise(places):
            assert task.done() == (start >= len(answer))
            await line.arrive(data[start:end])
        assert task.done()
        assert received.ended
        for name in ("rows", "error", "names", "affected_rows", "server_status", "sequence"):
            assert getattr(received, name) == getattr(whole, name)
        line.reader.feed_eof()
        assert await line.reader.read() == after

    asyncio.run(arrive())


async def test_what_nobody_waits_for_goes_to_the_stream() -> None:
    line = Line()
    line.protocol.data_received(b"greeting")
    assert await line.reader.readexactly(8) == b"greeting"
    first = line.expect(line.result())
    await asyncio.sleep(0)
    line.protocol.data_received(packets([ok()]) + b"more")
    await first
    assert await line.reader.readexactly(4) == b"more"


async def test_a_packet_of_16_megabytes_is_put_together_once() -> None:
    """Pieces of a packet are kept apart until it is whole: copying them each time takes minutes."""
    text = b"x" * (FULL + 1000)
    answer = packets(result([("x", 253, 45)], [row(text)]))
    line = Line()
    received = line.result()
    task = line.expect(received)
    await asyncio.sleep(0)
    pieces = [answer[start : start + (1 << 12)] for start in range(0, len(answer), 1 << 12)]
    await line.arrive(*pieces)
    assert task.done()
    assert received.rows == [(text.decode(),)]


@pytest.mark.parametrize("cut", [0, 3, 4, 40, -1])
@pytest.mark.parametrize("way", ["eof", "closed", "reset"])
async def test_a_connection_that_ends_in_the_middle(cut: int, way: str) -> None:
    line = Line()
    task = line.expect(line.result())
    await asyncio.sleep(0)
    line.protocol.data_received(packets(result(COLUMNS, [ONE]))[:cut])
    reset = ConnectionResetError(104, "reset")
    if way == "eof":
        assert line.protocol.eof_received() is True
    else:
        line.protocol.connection_lost(reset if way == "reset" else None)
    with pytest.raises(AnswerLostError) as caught:
        await task
    assert caught.value.__cause__ is (reset if way == "reset" else None)
    # The stream knows, and nobody waits for what cannot come.
    if way == "reset":
        assert line.reader.exception() is reset
    else:
        assert await line.reader.read() == b""
    with pytest.raises(AnswerLostError):
        await line.expect(line.result())


async def test_an_answer_that_cannot_be_read() -> None:
    line = Line()
    task = line.expect(line.result())
    await asyncio.sleep(0)
    line.protocol.data_received(packets([ok()], 9) + b"rest")
    with pytest.raises(InternalError, match="number 9"):
        await task


@pytest.mark.parametrize("kind", [ZeroDivisionError, EOFError, AnswerLostError, StopIteration])
async def test_an_error_of_a_decoder_is_its_own(kind: type[Exception]) -> None:
    mine = kind("mine")

    def decode(text: str) -> Any:
        raise mine

    line = Line()
    task = line.expect(line.result({3: decode}))
    await asyncio.sleep(0)
    line.protocol.data_received(packets(result(COLUMNS, [ONE])))
    if kind is StopIteration:  # Python lets none out of a coroutine
        with pytest.raises(RuntimeError) as caught:
            await task
        assert caught.value.__cause__ is mine
    else:
        with pytest.raises(kind, match="mine"):
            await task


@pytest.mark.parametrize("early", range(len(packets([ok()])) + 1))
async def test_an_answer_whose_wait_was_cancelled_can_be_waited_for_again(early: int) -> None:
    answer = packets([ok()])
    line = Line()
    received = line.result()
    task = line.expect(received)
    await asyncio.sleep(0)
    if early:
        line.protocol.data_received(answer[:early])
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert line.protocol.is_reading(received) == (early < len(answer))
    if early < len(answer):
        waiting = line.protocol.wait()
        line.protocol.data_received(answer[early:])
        await waiting
    assert received.ended
    assert not line.protocol.is_reading(received)
    line.protocol.data_received(b"late")
    assert await line.reader.readexactly(4) == b"late"


async def test_a_cancellation_wins_over_an_answer_in_the_same_turn() -> None:
    for order in ("answer first", "cancellation first"):
        line = Line()
        received = line.result()
        task = line.expect(received)
        await asyncio.sleep(0)
        if order == "answer first":
            # While a task runs, as here, another one has to wait for the next turn.
            line.protocol.data_received(packets([ok()]))
            task.cancel("mine")
        else:
            task.cancel("mine")
            line.protocol.data_received(packets([ok()]))
        assert not task.done()
        with pytest.raises(asyncio.CancelledError, match="mine"):
            await task
        assert received.ended


# -- what a task awaits


def from_the_loop(function: Callable[..., Any], *args: Any) -> None:
    """Call a function as the event loop calls a transport: outside of any task."""
    asyncio.get_running_loop().call_soon(function, *args)


async def test_a_task_goes_on_in_the_same_turn() -> None:
    loop = asyncio.get_running_loop()
    wakeup = Wakeup(loop)
    order: list[str] = []

    async def wait() -> None:
        await wakeup
        order.append("task")

    def finish() -> None:
        wakeup.finish()
        order.append("finish")

    task = loop.create_task(wait())
    await asyncio.sleep(0)
    from_the_loop(finish)
    await task
    assert order == ["task", "finish"]


async def test_no_task_is_entered_while_another_runs() -> None:
    wakeup = Wakeup(asyncio.get_running_loop())
    order: list[str] = []

    async def wait() -> None:
        await wakeup
        order.append("task")

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    wakeup.finish()
    order.append("finish")
    await task
    assert order == ["finish", "task"]


async def test_a_wakeup_that_is_finished_is_not_waited_for() -> None:
    wakeup = Wakeup(asyncio.get_running_loop())
    wakeup.finish(ZeroDivisionError("over"))
    with pytest.raises(ZeroDivisionError, match="over"):
        await wakeup


async def test_a_task_keeps_its_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    wakeup = Wakeup(asyncio.get_running_loop())

    async def wait() -> str:
        variable.set("mine")
        await wakeup
        return variable.get()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    from_the_loop(wakeup.finish)
    assert await task == "mine"
    assert variable.get() == "none"


@pytest.mark.parametrize(
    "wrap",
    [
        asyncio.ensure_future,
        lambda wakeup: asyncio.wait_for(wakeup, 5),
        lambda wakeup: asyncio.gather(wakeup),
        lambda wakeup: asyncio.shield(wakeup),
    ],
    ids=["ensure_future", "wait_for", "gather", "shield"],
)
async def test_asyncio_takes_a_wakeup_for_an_awaitable(
    wrap: Callable[[Any], Coroutine[Any, Any, Any]],
) -> None:
    wakeup = Wakeup(asyncio.get_running_loop())
    from_the_loop(wakeup.finish)
    assert await wrap(wakeup) in (None, [None])


async def test_a_timeout_ends_the_wait() -> None:
    wakeup = Wakeup(asyncio.get_running_loop())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await wakeup
    wakeup.finish()  # nobody is woken any more
    assert not wakeup.cancel()


async def test_a_cancellation_without_a_message() -> None:
    task = asyncio.create_task(asyncio.wait_for(Wakeup(asyncio.get_running_loop()), 5))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("factory", ["asyncio", "uvloop"])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_event_loop_ends_it(
    mysql_url: str, factory: str, kind: type[BaseException]
) -> None:
    """A task that ends the program does so, though it runs where a transport looks out."""
    loops = {
        "asyncio": asyncio.new_event_loop,
        "uvloop": pytest.importorskip("uvloop").new_event_loop,
    }
    after: list[str] = []

    async def leave(database: fastdb.Database) -> None:
        await database.fetch_val("SELECT 1")
        raise kind("mine")

    async def run() -> None:
        database = fastdb.Database(mysql_url)
        await database.connect()
        tasks.append(asyncio.create_task(leave(database)))
        try:
            await asyncio.sleep(5)
            after.append("the loop went on")
        finally:
            await database.disconnect()

    tasks: list[asyncio.Task[None]] = []
    with (
        pytest.raises(kind, match="mine"),
        asyncio.Runner(loop_factory=loops[factory]) as runner,
    ):
        runner.run(run())
    assert isinstance(tasks[0].exception(), kind)
    assert after == []


# -- over sockets


class SlowServer(Server):
    """Send the bad answer in pieces that arrive one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 1

    async def send(self, writer: asyncio.StreamWriter) -> None:
        for start in range(0, len(self.answer), self.size):
            writer.write(self.answer[start : start + self.size])
            await writer.drain()
            await asyncio.sleep(0)


@pytest.mark.parametrize("size", [1, 3, 50, 1000])
@pytest.mark.parametrize("way", ["fetch_all", "iterate"])
async def test_an_answer_in_pieces(size: int, way: str) -> None:
    server = SlowServer()
    server.size = size
    rows = [row(b"%d" % n, b"x" * n) for n in range(9)]
    server.answer = packets([*result(COLUMNS, rows, status=0x0A), *result(COLUMNS, [ONE])])
    expected = [(n, "x" * n) for n in range(9)]
    async with fastdb.Database(await server.start(), max_size=1) as database:
        for _ in range(2):
            if way == "iterate":
                assert [each async for each in database.iterate("BAD", batch_size=2)] == expected
            else:
                assert await database.fetch_all("BAD") == expected
        assert database.pool.stats().opened == 1
    await server.stop()


async def test_a_wait_cancelled_between_two_pieces_closes_and_kills() -> None:
    server = Server()
    server.answer = packets(result(COLUMNS, [ONE]))[:-3]
    async with fastdb.Database(await server.start(), max_size=1) as database:
        async with database.connection() as connection:
            raw = raw_of(connection)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await connection.fetch_all("BAD")
            assert raw.closed
            async with asyncio.timeout(5):
                await server.release.wait()
            assert await connection.execute("DO 0") is None
        assert server.statements.count(b"KILL CONNECTION 7") == 1
    await server.stop()


async def test_a_connection_closed_while_an_answer_is_waited_for() -> None:
    server = Server()
    url = await server.start()
    async with fastdb.Database(url) as database, database.connection() as connection:
        raw = raw_of(connection)
        task = asyncio.create_task(connection.fetch_all("BAD"))
        await asyncio.sleep(0.05)
        raw.close()
        with pytest.raises(ConnectionFailedError, match="Lost connection"):
            await task
    await server.stop()


async def test_writing_that_has_to_wait_is_told_to_the_stream() -> None:
    server = Server()
    url = await server.start()
    async with fastdb.Database(url) as database, database.connection() as connection:
        raw = raw_of(connection)
        protocol = raw._writer.transport.get_protocol()
        assert isinstance(protocol, AnswerProtocol)
        protocol.pause_writing()
        draining = asyncio.create_task(raw._writer.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        protocol.resume_writing()
        await draining
    await server.stop()


async def test_a_connection_that_is_lost_before_the_statement() -> None:
    """Known to the event loop, but not yet looked at: nobody waits for an answer for ever."""
    server = Server()
    url = await server.start()
    async with fastdb.Database(url) as database, database.connection() as connection:
        raw = raw_of(connection)
        raw._writer.transport.abort()
        await asyncio.sleep(0)
        with pytest.raises(pymysql.err.OperationalError, match="Lost connection"):
            await raw.exchange(b"DO 0", None, None)
    await server.stop()


class TLSServer(Server):
    """Ask for TLS after the greeting, as real servers do."""

    def __init__(self) -> None:
        super().__init__()
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.tls.load_cert_chain(CERTIFICATE)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> str:
        self._listener.setblocking(False)
        self._tasks.append(asyncio.create_task(self._accept()))
        return f"mysql://user@127.0.0.1:{self._listener.getsockname()[1]}/app"

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            self._tasks.append(asyncio.create_task(self._upgrade(connection)))

    async def _upgrade(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, self.greeting(tls=True))
        # The wish for TLS and not a byte more: what follows it is TLS's own.
        assert len(await loop.sock_recv(connection, 36)) == 36
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, connection, ssl=self.tls
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            await self.talk(reader, writer, 3)
        finally:
            transport.abort()


async def test_answers_over_tls() -> None:
    server = TLSServer()
    rows = [row(b"%d" % n, b"x" * n) for n in range(0, 9000, 9)]
    server.answer = packets(result(COLUMNS, rows))
    url = f"{await server.start()}?ssl=require"
    async with fastdb.Database(url, max_size=1) as database:
        async with database.connection() as connection:
            raw = raw_of(connection)
            assert raw._writer.get_extra_info("cipher")
            for _ in range(3):
                found = await connection.fetch_all("BAD")
                assert [len(each.name) for each in found] == list(range(0, 9000, 9))
            assert [each.id async for each in connection.iterate("BAD")] == list(range(0, 9000, 9))
            # Closing reads what TLS still holds, within the task that closes.
            task = asyncio.create_task(connection.fetch_all("BAD"))
            await asyncio.sleep(0)
            raw.close()
            await asyncio.wait([task])
            assert isinstance(task.exception(), ConnectionFailedError)
        assert await database.execute("DO 0") is None
    await server.stop()


def test_answers_under_uvloop(mysql_url: str) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def run() -> None:
        async with fastdb.Database(mysql_url, max_size=2) as database:
            assert await database.fetch_val("SELECT :n", {"n": 7}) == 7
            found = await database.fetch_all("SELECT seq, REPEAT('x', seq) AS x FROM seq_1_to_2000")
            assert [len(each.x) for each in found] == list(range(1, 2001))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await database.execute("DO SLEEP(20)")
            assert [each.seq async for each in database.iterate("SELECT seq FROM seq_1_to_9")] == [
                *range(1, 10)
            ]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
