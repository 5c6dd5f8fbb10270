"""MySQL and MariaDB through asyncmy, an optional second driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from fastdb.drivers.mysql_base import MySQLBaseDriver
from fastdb.drivers.mysql_exchange import COM_QUERY
from fastdb.exceptions import DriverNotInstalledError

try:
    import asyncmy
    import asyncmy.converters
    from asyncmy import errors
    from asyncmy.charset import charset_by_name
    from asyncmy.connection import Connection
except ImportError as error:
    raise DriverNotInstalledError(
        f"the scheme mysql+asyncmy needs the package asyncmy ({error}):"
        " pip install 'fastdb-sql[asyncmy]'"
    ) from error

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping
    from types import ModuleType

    from fastdb._speedups import QueryPlan

__all__ = ["AsyncmyDriver"]

_SSL = 1 << 11
_MULTI_STATEMENTS = 1 << 16


class _Connection(Connection):
    """asyncmy's connection, with its gaps closed."""

    _client_flag: int
    _ssl_context: Any
    server_capabilities: int
    server_status: int
    server_thread_id: tuple[int, ...]

    def __init__(self, *, tls_required: bool, **arguments: Any) -> None:
        super().__init__(**arguments)  # type: ignore[no-untyped-call]
        self._tls_required = tls_required
        self._client_flag &= ~_MULTI_STATEMENTS
        self.server_thread_id = (0,)

    async def _get_server_information(self) -> None:
        await super()._get_server_information()  # type: ignore[misc]
        if self._ssl_context is not None and not self.server_capabilities & _SSL:
            if self._tls_required:
                raise errors.OperationalError(
                    2026, "TLS is asked for, but the server does not offer it"
                )
            self._ssl_context = None
            self._client_flag &= ~_SSL


class AsyncmyDriver(MySQLBaseDriver):
    """Open connections through asyncmy."""

    package: ClassVar[str] = "asyncmy"
    converters: ClassVar[ModuleType] = asyncmy.converters
    base_error = errors.MySQLError
    operational_error = errors.OperationalError
    charset_by_name: ClassVar[Any] = staticmethod(charset_by_name)
    connect_function: ClassVar[Any] = staticmethod(asyncmy.connect)
    database_argument: ClassVar[str] = "database"
    # asyncmy's own table is hidden in C; a copy of it is a part of this one.
    _default_encoders: ClassVar[dict[Any, Any]] = {
        key: value for key, value in asyncmy.converters.conversions.items() if type(key) is not int
    }

    def make_raw(self, arguments: dict[str, Any]) -> Any:
        """Return an ``asyncmy.Connection``, not yet connected."""
        return _Connection(tls_required=self.settings.tls_required, **arguments)

    async def connect_raw(self, raw: Any) -> None:
        """Connect it."""
        await raw.connect()

    async def close_raw(self, raw: Any) -> None:
        """Say goodbye to the server, close, and wait for the socket's end."""
        await raw.ensure_closed()

    def thread_id(self, raw: Any) -> int:
        """Return the server's number for the connection, 0 before it is known."""
        number: int = raw.server_thread_id[0]
        return number

    def transport(self, raw: Any) -> asyncio.Transport | None:
        """Return asyncio's transport, or None where the connection is closed."""
        transport: asyncio.Transport | None = raw._transport
        return transport

    def forget_transport(self, raw: Any) -> None:
        """Note in the package's connection that it is closed."""
        raw._transport = None
        raw._connected = False

    def is_usable(self, raw: Any, reading: bool) -> bool:
        """Return whether it is open and, unless a result is being read, nothing waits there."""
        transport = raw._transport
        if transport is None or transport.is_closing() or raw._stream_broken:
            return False
        protocol = raw._proto
        return reading or protocol.length <= protocol.pos

    def encoders(self, raw: Any) -> Mapping[Any, Any]:
        """Return the writers of literals in force: those of `conv`, or of ``conversions``."""
        encoders: Mapping[Any, Any] = raw._encoders or self._default_encoders
        return encoders

    async def exchange(
        self, raw: Any, sql: bytes, limit: int | None, plan: QueryPlan | None
    ) -> Any:
        """Send a statement, read its first result and return it."""
        await raw._execute_command(COM_QUERY, sql)
        await raw._read_query_result(False)
        return raw._result

    async def open_result(self, raw: Any, sql: bytes, plan: QueryPlan) -> Any:
        """Send a statement, read the head of its first result and return that, unbuffered."""
        await raw._execute_command(COM_QUERY, sql)
        await raw._read_query_result(True)
        return raw._result

    async def read_unbuffered(self, result: Any, size: int) -> list[Any]:
        """Return up to `size` further rows of an unbuffered result."""
        rows: list[Any] = []
        while len(rows) < size:
            row = await result._read_rowdata_packet_unbuffered()
            if row is None:
                break
            rows.append(row)
            # The package has parsed what was in its buffer: take that without a coroutine each.
            rows += result._take_pending_rows(size - len(rows))
        return rows

    def after_reset(self, raw: Any) -> None:
        """Forget prepared statements, too: the server dropped them."""
        super().after_reset(raw)
        raw._stmt_cache.clear()
