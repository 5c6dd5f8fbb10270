"""PostgreSQL through asyncpg."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Final

from fastdb.drivers.base import Driver
from fastdb.exceptions import (
    ConnectionFailedError,
    DriverNotInstalledError,
    OptionError,
)
from fastdb.exceptions_driver import from_driver

try:
    import asyncpg
except ImportError as exc:
    raise DriverNotInstalledError(
        "PostgreSQL needs the package asyncpg; install it with `pip install fastdb-sql[postgresql]`"
    ) from exc

from fastdb.drivers.postgresql_connection import LEXICAL, PostgreSQLConnection
from fastdb.drivers.postgresql_options import OPTION_NAMES, connect_arguments
from fastdb.drivers.postgresql_raw import TaggedConnection
from fastdb.drivers.postgresql_wakeup import PromptLoop
from fastdb.url_secrets import revealed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from sqlalchemy.engine import Dialect

    from fastdb.sql_text import Lexical
    from fastdb.url import DatabaseURL

__all__ = ["PostgreSQLDriver"]

#: Seconds that a cancelled connect may go on in the background, and that its caller waits for it.
_CONNECT_PATIENCE: Final = 2.0
_CANCEL_PATIENCE: Final = 0.1


class PostgreSQLDriver(Driver):
    """Open connections to one database of PostgreSQL.

    Attributes:
        schema_changes: How often a statement may have changed types that prepared statements use.
        codecs: The types, by name and schema, to which ``init`` gives a codec of its own.
    """

    dialect: ClassVar[str] = "postgresql"
    package: ClassVar[str] = "asyncpg"
    paramstyle: ClassVar[str] = "numeric_dollar"
    streams_apart: ClassVar[bool] = True

    def __init__(self, url: DatabaseURL, options: Mapping[str, Any]) -> None:
        """Check `options`."""
        self._arguments = connect_arguments(url, options)
        self._dialect: Dialect | None = None
        self._server_version: tuple[int, ...] = ()
        self._abandoned: set[asyncio.Task[TaggedConnection]] = set()
        self._requests: set[asyncio.Task[None]] = set()
        self.schema_changes = 0
        self.codecs: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Return what asyncpg.connect takes, libpq's TLS options, and ``init``."""
        return OPTION_NAMES

    def lexical(self) -> Lexical:
        """Return the rules, which no setting of the server changes."""
        return LEXICAL

    def sqlalchemy_dialect(self) -> Dialect:
        """Return the dialect, made for the version of the server that was connected to."""
        if self._dialect is None:
            from fastdb.drivers.postgresql_dialect import make_dialect

            self._dialect = make_dialect(self._server_version, self)
        return self._dialect

    @classmethod
    def dialect_parts(cls, base: type[Any]) -> dict[str, Any]:
        """Return what reads and writes JSON without codecs that SQLAlchemy would set."""
        from fastdb.drivers.postgresql_dialect import synchronous_parts

        return synchronous_parts(base)

    async def connect(self) -> PostgreSQLConnection:
        """Open a connection and run ``init`` on it."""
        arguments = self._arguments
        try:
            raw = await self._connect(arguments.keywords)
        except asyncpg.ClientConfigurationError as error:
            raise from_driver(OptionError, error) from error
        except (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            OSError,
        ) as error:
            self._refuse(error)
        try:
            if arguments.requires_tls and raw.transport.get_extra_info("ssl_object") is None:
                raise ConnectionFailedError(
                    f"ssl asks for TLS, but the connection to {arguments.target} has none; "
                    "unix sockets never have"
                )
            self._note_version(raw)
            raw.speed_up()
            await self.run_init(raw)
            self.codecs |= raw.codecs
        except BaseException:
            raw.terminate()
            raise
        return PostgreSQLConnection(raw, self)

    async def _connect(self, keywords: dict[str, Any]) -> TaggedConnection:
        """Open a connection of asyncpg, which one cancelled half-way would leave open."""
        loop = asyncio.get_running_loop()
        task: asyncio.Task[TaggedConnection] = loop.create_task(
            asyncpg.connect(
                **revealed(keywords), loop=PromptLoop(loop), connection_class=TaggedConnection
            )
        )
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # It ends on its own, soon where a server answers; then it is closed.
            self._abandoned.add(task)
            task.add_done_callback(self._drop)
            loop.call_later(_CONNECT_PATIENCE, task.cancel)
            await asyncio.wait((task,), timeout=_CANCEL_PATIENCE)
            raise

    def see_through(self, requests: list[asyncio.Task[None]], seconds: float) -> None:
        """Let requests to the server end in the background, where they do so in time."""
        for request in requests:
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)
            request.get_loop().call_later(seconds, request.cancel)

    def _drop(self, task: asyncio.Task[TaggedConnection]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled() and task.exception() is None:
            task.result().terminate()

    def _note_version(self, raw: TaggedConnection) -> None:
        version = raw.get_server_version()
        known = (version.major, version.minor, version.micro)
        if known != self._server_version and self._dialect is not None:
            from fastdb.drivers.postgresql_dialect import set_version

            set_version(self._dialect, known)
        self._server_version = known

    async def run_init(self, raw: TaggedConnection) -> None:
        """Await the user's ``init``; what it raises passes unchanged."""
        if self._arguments.init is not None:
            await self._arguments.init(raw)

    def _refuse(self, error: Exception) -> NoReturn:
        target = self._arguments.target
        if isinstance(error, TimeoutError):
            seconds = self._arguments.keywords.get("timeout", 60)
            reason = f"no answer within {seconds:g} s" if seconds else "no answer"
        else:
            reason = str(error)
        message = f"cannot connect to {target}: {reason}"
        if isinstance(error, OSError):
            raise ConnectionFailedError(message) from error
        failed = from_driver(ConnectionFailedError, error)
        failed.args = (message,)
        raise failed from error
