"""aiomysql's connection, whose results our own decoder reads.

aiomysql awaits the header and the body of each packet, and takes rows apart in Python. Here what
has come is handed to :class:`fastdb._speedups.ResultReader` at once: the answer to a statement by
the event loop itself (:mod:`fastdb.drivers.mysql_answers`), rows of an unbuffered result out of the
stream. That is done for an aiomysql whose workings are known (:mod:`fastdb.drivers.mysql_hook`);
any other one decodes itself.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING, Any, NoReturn

import pymysql.err
from aiomysql.connection import Connection, MySQLResult
from pymysql.protocol import EOFPacketWrapper

from fastdb._speedups import ResultReader
from fastdb.drivers.mysql_answers import AnswerLostError, AnswerProtocol
from fastdb.drivers.mysql_exchange import COM_QUERY
from fastdb.drivers.mysql_hook import CONVERTERS, UNKNOWN_HOOK
from fastdb.exceptions import Error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastdb._speedups import QueryPlan

__all__ = ["DecodedResult", "RawConnection"]

_SSL = 1 << 11
_MULTI_STATEMENTS = 1 << 16
_LARGEST_PACKET = 0xFFFFFF

#: The length of a packet, its number 0, and its command.
_HEAD = Struct("<iB")

#: Bytes taken from the stream at once. What lacks more is waited for in one piece.
_CHUNK = 1 << 18

#: Rows dropped at once.
_DROPPED_ROWS = 1000


class _Result(MySQLResult):  # type: ignore[misc]
    """A result that notes the status in its last packet, and can stop decoding rows."""

    connection: Any
    limit: int | None = None

    def _check_packet_is_eof(self, packet: Any) -> bool:
        if not packet.is_eof_packet():
            return False
        end = EOFPacketWrapper(packet)
        self.warning_count = end.warning_count
        self.has_next = end.has_next
        # aiomysql leaves it out, but a SELECT can begin a transaction (autocommit=0).
        self.server_status = end.server_status & 0xFFFF
        return True

    async def _read_rowdata_packet(self) -> None:
        connection, limit = self.connection, self.limit
        rows: list[Any] = []
        while not self._check_packet_is_eof(packet := await connection._read_packet()):
            if limit is None or len(rows) < limit:
                rows.append(self._read_row_from_packet(packet))
        self.connection = None
        self.affected_rows = len(rows)
        self.rows = tuple(rows)

    async def _read_load_local_packet(self, first_packet: Any) -> None:
        _refuse_file(self.connection)


def _refuse_file(connection: Any) -> NoReturn:
    # Only a server that breaks the protocol asks: the handshake says that we send no file.
    connection.close()
    raise pymysql.err.OperationalError(
        2068, "the server asked for a local file; the connection was closed"
    )


def _lost_connection(reason: str = "") -> Exception:
    error: Exception = pymysql.err.OperationalError(
        2013, f"Lost connection to MySQL server during query{reason}"
    )
    return error


class DecodedResult(ResultReader):
    """A result of our decoder, where aiomysql expects one of its own."""

    connection: Any = None
    unbuffered_active = False

    async def _finish_unbuffered_query(self) -> None:
        """Drop the rest: aiomysql does so before it sends another command."""
        try:
            while self.unbuffered_active:
                await self.connection.read_rows(self, _DROPPED_ROWS)
        except pymysql.err.OperationalError as error:
            if error.args[0] not in (1969, 3024):  # the statement's time was over; so is it
                raise


class RawConnection(Connection):  # type: ignore[misc]
    """aiomysql's connection, with its gaps closed."""

    _affected_rows: Any
    _result: Any
    _ssl_context: Any
    _writer: Any = None  # __del__ asks for it, also where __init__ has failed

    def __init__(self, *, tls_required: bool, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._tls_required = tls_required
        self.client_flag &= ~_MULTI_STATEMENTS
        self.server_status = 0
        self.server_thread_id = (0,)
        # What was taken from the stream and belongs to what follows.
        self._unread = b""
        self._unread_from = 0
        self._answers: AnswerProtocol | None = None
        # Called before a command of the user's, while a result of ours is read in pieces.
        self.buffer_rest: Callable[[], Awaitable[None]] | None = None
        # What reads the answer to a statement that was cancelled.
        self._unawaited: DecodedResult | None = None
        encoders = {key: value for key, value in self.decoders.items() if type(key) is not int}
        if encoders:
            self.encoders = encoders

    async def _connect(self) -> None:
        self._unread = b""
        self._answers = None
        await super()._connect()
        # As it stands after the change to TLS, of which asyncio makes another transport.
        transport = self._writer.transport
        stream = transport.get_protocol()
        if not UNKNOWN_HOOK and isinstance(stream, asyncio.StreamReaderProtocol):
            self._answers = AnswerProtocol(stream, asyncio.get_running_loop())
            transport.set_protocol(self._answers)

    async def _execute_command(self, command: int, sql: bytes | str) -> None:
        if self.buffer_rest is not None:
            await self.buffer_rest()
        await super()._execute_command(command, sql)

    async def _get_server_information(self) -> None:
        await super()._get_server_information()
        if self._ssl_context is not None and not self.server_capabilities & _SSL:
            # aiomysql would go on in plaintext.
            if self._tls_required:
                raise pymysql.err.OperationalError(
                    2026, "TLS is asked for, but the server does not offer it"
                )
            self._ssl_context = None
            self.client_flag &= ~_SSL

    async def _read_query_result(self, unbuffered: bool = False, limit: int | None = None) -> None:
        self._result = None
        result = _Result(self)
        result.limit = limit
        if unbuffered:
            try:
                await result.init_unbuffered_query()
            except BaseException:
                result.unbuffered_active = False
                result.connection = None
                raise
        else:
            await result.read()
        self._result = result
        self._affected_rows = result.affected_rows
        if result.server_status is not None:
            self.server_status = result.server_status

    async def _read_bytes(self, num_bytes: int) -> bytes:
        start = b""
        if self._unread:
            end = self._unread_from + num_bytes
            start = self._unread[self._unread_from : end]
            self._unread_from = end
            if end >= len(self._unread):
                self._unread = b""
            if len(start) == num_bytes:
                return start
        rest: bytes = await super()._read_bytes(num_bytes - len(start))
        return start + rest if start else rest

    async def exchange(self, sql: bytes, limit: int | None, plan: QueryPlan | None) -> Any:
        """Send a statement, read its first result and return it.

        Cancelled, the connection is either closed or still to be closed, unless
        :meth:`rest_of_answer` brings it in step again.
        """
        self._ensure_alive()
        last, answers = self._result, self._answers
        if (
            answers is None
            or len(sql) + 1 >= _LARGEST_PACKET
            or self._unread
            or self._reader._buffer
            or (last is not None and (last.unbuffered_active or last.has_next))
        ):
            await self._execute_command(COM_QUERY, sql)
            if UNKNOWN_HOOK:
                await self._read_query_result(False, limit)
            else:
                await self._read_result(False, limit, plan)
            return self._result
        self._result = None
        self._next_seq_id = 1
        result = self._new_result(limit, plan)
        try:
            answer = answers.expect(result)
            self._writer.write(_HEAD.pack(len(sql) + 1, COM_QUERY) + sql)
            await answer
        except asyncio.CancelledError:
            self._unawaited = result
            raise
        except AnswerLostError as error:
            raise self._lost(error.__cause__) from error
        except Error as error:
            raise self._out_of_step(result, error) from error
        self._settle(result, stray=bool(self._reader._buffer))
        self._keep(result)
        return result

    async def rest_of_answer(self) -> bool:
        """Drop the answer to the statement that was cancelled; return whether all of it came."""
        result, self._unawaited = self._unawaited, None
        answers = self._answers
        if result is None or answers is None:
            return False  # pragma: no cover: aiomysql has closed what was cancelled elsewhere
        if answers.is_reading(result):
            with suppress(AnswerLostError, Error):
                await answers.wait()
        # A CALL may have answered with several results, which nobody has asked for either.
        whole: bool = result.ended and not result.has_next and not result.wants_file
        if whole:
            self._next_seq_id = result.sequence
        return whole

    async def open_result(self, sql: bytes, plan: QueryPlan) -> Any:
        """Send a statement, read the head of its first result and return that, unbuffered."""
        await self._execute_command(COM_QUERY, sql)
        if UNKNOWN_HOOK:
            await self._read_query_result(True)
        else:
            await self._read_result(True, None, plan)
        return self._result

    def is_usable(self, reading: bool) -> bool:
        """Return whether it is open and, unless a result is being read, nothing waits there."""
        reader = self._reader
        if reader is None or self._writer.transport.is_closing():
            return False
        if reader._eof or reader.exception() is not None:
            return False
        return reading or not (self._unread or reader._buffer)

    def _new_result(self, limit: int | None, plan: QueryPlan | None) -> DecodedResult:
        return DecodedResult(
            self._next_seq_id,  # a statement of 16 MB and more was several packets itself
            self._encoding,
            self.use_unicode,
            self.decoders,
            CONVERTERS,
            None if plan is None else plan.layout,
            -1 if limit is None else limit,
        )

    async def _read_result(
        self, unbuffered: bool, limit: int | None, plan: QueryPlan | None
    ) -> None:
        """Read a result into ``_result`` by our decoder, or its head only."""
        self._result = None
        result = self._new_result(limit, plan)
        await self._read_into(result, 0 if unbuffered else -1)
        self._keep(result)

    def _keep(self, result: DecodedResult) -> None:
        """Let aiomysql find the result where it looks for its own."""
        self._result = result
        if result.ended:
            rows = result.names is not None
            self._affected_rows = len(result.rows) if rows else result.affected_rows
            self.server_status = result.server_status or 0
        else:
            result.connection = self
            result.unbuffered_active = True

    async def read_rows(self, result: DecodedResult, size: int) -> list[Any]:
        """Return up to `size` further rows of an unbuffered result."""
        try:
            await self._read_into(result, size)
        finally:
            if result.ended:
                result.unbuffered_active = False
                result.connection = None
        return result.take()

    async def _read_into(self, result: DecodedResult, size: int) -> None:
        """Have `result` read its packets until it ends or has `size` rows; raise its error."""
        data, position = self._unread, self._unread_from
        self._unread = b""
        if not data:
            data, position = await self._receive(4), 0
        while True:
            try:
                position = result.feed(data, position, size)
            except Error as error:
                raise self._out_of_step(result, error) from error
            if not result.missing:
                break
            data, position = data[position:] + await self._receive(result.missing), 0
        stray = position < len(data)
        if stray and (not result.ended or result.has_next):
            self._unread, self._unread_from = data, position
            stray = False
        self._settle(result, stray=stray)

    def _settle(self, result: DecodedResult, *, stray: bool) -> None:
        """Go on after what was read of a result; raise its error.

        Args:
            result: It has ended, or its head or some of its rows were read.
            stray: Something came behind it that is not its own.
        """
        self._next_seq_id = result.sequence
        if stray and not result.has_next:
            # Nobody asked for more. It would be taken for the answer to the next command.
            self.close()
        if result.error is not None:
            pymysql.err.raise_mysql_exception(result.error)
        if result.wants_file:
            _refuse_file(self)

    def _out_of_step(self, result: DecodedResult, error: Error) -> Exception:
        """Close, as nothing that follows can be understood; return the error to raise."""
        self.close()
        return _lost_connection() if result.lost else error

    def _lost(self, error: BaseException | None) -> Exception:
        """Close; return the error to raise."""
        self.close()
        return _lost_connection(f" ({error})" if isinstance(error, OSError) else "")

    async def _receive(self, missing: int) -> bytes:
        """Return what the stream has, of which `missing` bytes may be all that follows."""
        try:
            if missing > _CHUNK:
                received: bytes = await self._reader.readexactly(missing)
            else:
                received = await self._reader.read(_CHUNK)
                if not received:
                    raise EOFError
        except asyncio.CancelledError:
            self._close_on_cancel()
            raise
        except (EOFError, OSError) as error:
            raise self._lost(error) from error
        return received
