"""MySQL and MariaDB through aiomysql."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from fastdb.drivers.mysql_base import MySQLBaseDriver
from fastdb.exceptions import DriverNotInstalledError

try:
    import aiomysql
    import pymysql.converters
    import pymysql.err
    from aiomysql.connection import Connection, MySQLResult
    from pymysql.charset import charset_by_name
    from pymysql.protocol import EOFPacketWrapper
except ImportError as error:
    raise DriverNotInstalledError(
        f"MySQL and MariaDB need the package aiomysql ({error}): pip install 'fastdb-sql[mysql]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MySQLDriver"]

_SSL = 1 << 11
_MULTI_STATEMENTS = 1 << 16


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
        # Only a server that breaks the protocol asks: the handshake says that we send no file.
        self.connection.close()
        raise pymysql.err.OperationalError(
            2068, "the server asked for a local file; the connection was closed"
        )


class _Connection(Connection):  # type: ignore[misc]
    """aiomysql's connection, with its gaps closed."""

    _ssl_context: Any

    def __init__(self, *, tls_required: bool, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._tls_required = tls_required
        self.client_flag &= ~_MULTI_STATEMENTS
        self.server_status = 0
        self.server_thread_id = (0,)
        encoders = {key: value for key, value in self.decoders.items() if type(key) is not int}
        if encoders:
            self.encoders = encoders

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


class MySQLDriver(MySQLBaseDriver):
    """Open connections through aiomysql."""

    converters = pymysql.converters
    base_error = pymysql.err.MySQLError
    operational_error = pymysql.err.OperationalError
    charset_by_name: ClassVar[Any] = staticmethod(charset_by_name)
    connect_function: ClassVar[Any] = staticmethod(aiomysql.connect)

    def make_raw(self, arguments: dict[str, Any]) -> Any:
        """Return an ``aiomysql.Connection``, not yet connected."""
        return _Connection(tls_required=self.settings.tls_required, **arguments)

    async def connect_raw(self, raw: Any) -> None:
        """Connect it."""
        await raw._connect()

    async def close_raw(self, raw: Any) -> None:
        """Say goodbye to the server, close, and wait for the socket's end."""
        writer = raw._writer
        await raw.ensure_closed()
        await writer.wait_closed()

    def thread_id(self, raw: Any) -> int:
        """Return the server's number for the connection, 0 before it is known."""
        number: int = raw.server_thread_id[0]
        return number

    def transport(self, raw: Any) -> asyncio.Transport | None:
        """Return asyncio's transport, or None where the connection is closed."""
        writer = raw._writer
        return None if writer is None else writer.transport

    def forget_transport(self, raw: Any) -> None:
        """Note in the package's connection that it is closed."""
        raw._writer = raw._reader = None

    def at_eof(self, raw: Any) -> bool:
        """Return whether the peer has closed the connection, or it failed."""
        reader = raw._reader
        return reader is None or reader._eof or reader.exception() is not None

    def has_unread(self, raw: Any) -> bool:
        """Return whether bytes of the peer's wait to be read."""
        return bool(raw._reader._buffer)

    def encoders(self, raw: Any) -> Mapping[Any, Any]:
        """Return the writers of literals in force: PyMySQL's global ones unless `conv` has some."""
        encoders: Mapping[Any, Any] = raw.encoders
        return encoders

    async def read_result(self, raw: Any, unbuffered: bool, limit: int | None) -> None:
        """Read a statement's first result into ``raw._result``."""
        await raw._read_query_result(unbuffered, limit)

    async def read_unbuffered(self, result: Any, size: int) -> list[Any]:
        """Return up to `size` further rows of an unbuffered result."""
        rows: list[Any] = []
        while len(rows) < size:
            row = await result._read_rowdata_packet_unbuffered()
            if row is None:
                break
            rows.append(row)
        return rows
