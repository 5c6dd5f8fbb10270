"""aiomysql's connection, whose results our own decoder reads.

aiomysql awaits the header and the body of each packet, and takes rows apart in Python. Here what
the stream holds is taken at once and handed to :class:`fastdb._speedups.ResultReader`. That is done
for an aiomysql whose workings are known (:data:`UNKNOWN_HOOK`); any other one decodes itself.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any, NoReturn

import aiomysql
import pymysql.converters
import pymysql.err
from aiomysql.connection import TEXT_TYPES, Connection, MySQLResult
from pymysql.constants import CLIENT
from pymysql.protocol import EOFPacketWrapper

from fastdb._speedups import ResultReader
from fastdb.exceptions import Error

if TYPE_CHECKING:
    from fastdb._speedups import QueryPlan

__all__ = ["UNKNOWN_HOOK", "DecodedResult", "RawConnection"]

_log = logging.getLogger("fastdb")

_SSL = 1 << 11
_MULTI_STATEMENTS = 1 << 16
_DEPRECATE_EOF = 1 << 24

#: Bytes taken from the stream at once. What lacks more is waited for in one piece.
_CHUNK = 1 << 18

#: Rows dropped at once.
_DROPPED_ROWS = 1000

#: PyMySQL's own converters, whose values our decoder makes itself.
_CONVERTERS = (
    (pymysql.converters.through, "as is"),
    (int, "int"),
    (float, "float"),
    (pymysql.converters.convert_datetime, "datetime"),
    (pymysql.converters.convert_date, "date"),
    (pymysql.converters.convert_timedelta, "time"),
)
_TEXT_TYPES = frozenset((15, 16, 249, 250, 251, 252, 253, 254, 255))


def _unknown_hook() -> str:
    """Return what about the installed aiomysql our decoder does not know, or nothing."""
    version = str(aiomysql.__version__)
    if not version.startswith(("0.2.", "0.3.")):
        return f"its version is {version}"
    if frozenset(TEXT_TYPES) != _TEXT_TYPES:
        return "it decodes other types as texts"
    if CLIENT.CAPABILITIES & _DEPRECATE_EOF:
        return "it asks for results without EOF packets"
    for name, used in (
        ("_connect", "_reader"),
        ("_execute_command", "_next_seq_id"),
        ("_read_bytes", "readexactly"),
        ("_read_packet", "_next_seq_id"),
        ("_read_query_result", "init_unbuffered_query"),
        ("next_result", "_read_query_result"),
    ):
        function = getattr(Connection, name, None)
        if not inspect.iscoroutinefunction(function) or used not in function.__code__.co_names:
            return f"its Connection.{name}() does not use {used}"
    return ""


UNKNOWN_HOOK = _unknown_hook()
if UNKNOWN_HOOK:
    _log.warning(
        "aiomysql decodes rows itself, which takes longer: fastdb's decoder does not know this"
        " aiomysql: %s",
        UNKNOWN_HOOK,
    )


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

    def __init__(self, *, tls_required: bool, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._tls_required = tls_required
        self.client_flag &= ~_MULTI_STATEMENTS
        self.server_status = 0
        self.server_thread_id = (0,)
        # What was taken from the stream and belongs to what follows.
        self._unread = b""
        self._unread_from = 0
        encoders = {key: value for key, value in self.decoders.items() if type(key) is not int}
        if encoders:
            self.encoders = encoders

    async def _connect(self) -> None:
        self._unread = b""
        await super()._connect()

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

    async def read_result(
        self, unbuffered: bool, limit: int | None, plan: QueryPlan | None
    ) -> None:
        """Read a result into ``_result`` by our decoder, or its head only."""
        self._result = None
        result = DecodedResult(
            self._next_seq_id,
            self._encoding,
            self.use_unicode,
            self.decoders,
            _CONVERTERS,
            None if plan is None else plan.layout,
            -1 if limit is None else limit,
        )
        await self._read_into(result, 0 if unbuffered else -1)
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
                # The answer was not read to its end: nothing that follows can be understood.
                self.close()
                if result.lost:
                    raise pymysql.err.OperationalError(
                        2013, "Lost connection to MySQL server during query"
                    ) from error
                raise
            if not result.missing:
                break
            data, position = data[position:] + await self._receive(result.missing), 0
        self._next_seq_id = result.sequence
        if position < len(data):
            if result.ended and not result.has_next:
                # Nobody asked for more. It would be taken for the answer to the next command.
                self.close()
            else:
                self._unread, self._unread_from = data, position
        if result.error is not None:
            pymysql.err.raise_mysql_exception(result.error)
        if result.wants_file:
            _refuse_file(self)

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
            self.close()
            reason = f" ({error})" if isinstance(error, OSError) else ""
            raise pymysql.err.OperationalError(
                2013, f"Lost connection to MySQL server during query{reason}"
            ) from error
        return received
