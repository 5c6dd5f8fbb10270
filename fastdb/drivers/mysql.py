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
    from pymysql.charset import charset_by_name

    from fastdb.drivers.mysql_raw import UNKNOWN_HOOK, DecodedResult, RawConnection
except ImportError as error:
    raise DriverNotInstalledError(
        f"MySQL and MariaDB need the package aiomysql ({error}): pip install 'fastdb-sql[mysql]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastdb._speedups import QueryPlan, Record

__all__ = ["MySQLDriver"]


class MySQLDriver(MySQLBaseDriver):
    """Open connections through aiomysql."""

    converters = pymysql.converters
    base_error = pymysql.err.MySQLError
    operational_error = pymysql.err.OperationalError
    charset_by_name: ClassVar[Any] = staticmethod(charset_by_name)
    connect_function: ClassVar[Any] = staticmethod(aiomysql.connect)

    def make_raw(self, arguments: dict[str, Any]) -> Any:
        """Return an ``aiomysql.Connection``, not yet connected."""
        return RawConnection(tls_required=self.settings.tls_required, **arguments)

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
        return bool(raw._unread or raw._reader._buffer)

    def encoders(self, raw: Any) -> Mapping[Any, Any]:
        """Return the writers of literals in force: PyMySQL's global ones unless `conv` has some."""
        encoders: Mapping[Any, Any] = raw.encoders
        return encoders

    async def read_result(
        self, raw: Any, unbuffered: bool, limit: int | None, plan: QueryPlan | None
    ) -> None:
        """Read a statement's first result into ``raw._result``."""
        if UNKNOWN_HOOK:
            await raw._read_query_result(unbuffered, limit)
        else:
            await raw.read_result(unbuffered, limit, plan)

    async def read_unbuffered(self, result: Any, size: int) -> list[Any]:
        """Return up to `size` further rows of an unbuffered result."""
        rows: list[Any] = []
        if isinstance(result, DecodedResult):
            if result.unbuffered_active:
                rows = await result.connection.read_rows(result, size)
            return rows
        while len(rows) < size:
            row = await result._read_rowdata_packet_unbuffered()
            if row is None:
                break
            rows.append(row)
        return rows

    def names(self, result: Any) -> tuple[str, ...] | None:
        """Return the names of a result's columns, None where it has none."""
        return result.names if isinstance(result, DecodedResult) else super().names(result)

    def records(self, plan: QueryPlan, result: Any, rows: Sequence[Any]) -> list[Record]:
        """Return the records of some of a result's rows, which may be records already."""
        if isinstance(result, DecodedResult):
            if rows is result.rows:
                rows = result.take()  # the connection keeps its last result, not the rows
            if result.makes_records:
                return rows  # type: ignore[return-value]
        return super().records(plan, result, rows)
