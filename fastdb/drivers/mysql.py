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

    from fastdb.drivers.mysql_raw import DecodedResult, RawConnection
except ImportError as error:
    raise DriverNotInstalledError(
        f"MySQL and MariaDB need the package aiomysql ({error}): pip install 'fastdb-sql[mysql]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from fastdb._speedups import QueryPlan, Record

__all__ = ["MySQLDriver"]


class MySQLDriver(MySQLBaseDriver):
    """Open connections through aiomysql."""

    package: ClassVar[str] = "aiomysql"
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

    def is_usable(self, raw: Any, reading: bool) -> bool:
        """Return whether it is open and, unless a result is being read, nothing waits there."""
        usable: bool = raw.is_usable(reading)
        return usable

    def encoders(self, raw: Any) -> Mapping[Any, Any]:
        """Return the writers of literals in force: PyMySQL's global ones unless `conv` has some."""
        encoders: Mapping[Any, Any] = raw.encoders
        return encoders

    def exchange(
        self, raw: Any, sql: bytes, limit: int | None, plan: QueryPlan | None
    ) -> Awaitable[Any]:
        """Send a statement, read its first result and return it."""
        exchanged: Awaitable[Any] = raw.exchange(sql, limit, plan)
        return exchanged

    def before_commands(self, raw: Any, call: Callable[[], Awaitable[None]] | None) -> None:
        """Have something called before commands over the raw connection."""
        raw.buffer_rest = call

    async def rest_of_answer(self, raw: Any) -> bool:
        """Read and drop the answer to a statement that was cancelled."""
        whole: bool = await raw.rest_of_answer()
        return whole

    async def open_result(self, raw: Any, sql: bytes, plan: QueryPlan) -> Any:
        """Send a statement, read the head of its first result and return that, unbuffered."""
        return await raw.open_result(sql, plan)

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
        if type(result) is DecodedResult:
            if rows is result.rows:
                rows = result.take()  # the connection keeps its last result, not the rows
            if result.makes_records:
                return rows  # type: ignore[return-value]
        return super().records(plan, result, rows)
