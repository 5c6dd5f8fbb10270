"""What the drivers of MySQL and MariaDB share: options, dialect, connecting and killing."""

from __future__ import annotations

import asyncio
import inspect
import logging
from abc import abstractmethod
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from fastdb.drivers.base import CANCEL_SECONDS, Driver
from fastdb.drivers.mysql_connection import MySQLConnection
from fastdb.drivers.mysql_errors import number_of, translate
from fastdb.drivers.mysql_exchange import MySQLExchange, ServerFacts
from fastdb.drivers.mysql_literals import statement_writer
from fastdb.drivers.mysql_options import OWN_NAMES, Settings, check_charset, read_settings
from fastdb.exceptions import ConnectionFailedError, DatabaseError, Error, OptionError
from fastdb.sql_text import Lexical
from fastdb.url_secrets import Secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import ModuleType

    from sqlalchemy.engine import Dialect

    from fastdb._speedups import QueryPlan, Record, StatementWriter
    from fastdb.url import DatabaseURL

__all__ = ["MySQLBaseDriver"]

_log = logging.getLogger("fastdb")

_KILL_SECONDS = 5.0


class _KillOrder(NamedTuple):
    command: str
    server: tuple[str, int] | None
    done: asyncio.Future[bool]


class MySQLBaseDriver(Driver):
    """Open connections to one database of MySQL or MariaDB."""

    dialect: ClassVar[str] = "mysql"
    paramstyle: ClassVar[str] = "format"
    #: The package's own writers of literals, table of charsets, errors and ``connect``.
    converters: ClassVar[ModuleType]
    charset_by_name: ClassVar[Any]
    base_error: ClassVar[type[Exception]]
    operational_error: ClassVar[type[Exception]]
    connect_function: ClassVar[Any]
    database_argument: ClassVar[str] = "db"

    def __init__(self, url: DatabaseURL, options: Mapping[str, Any]) -> None:
        """Check `options`; nothing is connected yet."""
        self.settings: Settings = read_settings(url, options, self.option_names())
        self.encoding_of(self.settings.arguments["charset"])
        self.writer = statement_writer(self.converters)
        self._careful_writers: dict[str, StatementWriter] = {}
        self._mariadb_scheme = str(url.scheme).startswith("mariadb")
        self._facts: ServerFacts | None = None
        self._compiled_for: tuple[ServerFacts | None, Dialect] | None = None
        self._orders: deque[_KillOrder] = deque()
        self._killer: asyncio.Task[None] | None = None

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Return the names of the options that the driver takes."""
        parameters = inspect.signature(cls.connect_function).parameters
        refused = {"cursor_cls", "cursorclass", "loop", "query_callback", "sock"}
        return (frozenset(parameters) - refused) | OWN_NAMES

    @property
    def converts(self) -> bool:
        """Whether decoders of the user's may raise anything."""
        return "conv" in self.settings.arguments

    def lexical(self) -> Lexical:
        """Return the lexical rules of the server's SQL, known once a connection was made."""
        mode = (self._facts.sql_mode if self._facts else self.settings.sql_mode) or ""
        modes = set(mode.strip("'").upper().split(","))
        return Lexical(
            "mysql",
            ansi_quotes=bool(modes & {"ANSI_QUOTES", "ANSI"}),
            no_backslash_escapes="NO_BACKSLASH_ESCAPES" in modes,
        )

    def sqlalchemy_dialect(self) -> Dialect:
        """Return SQLAlchemy's dialect for the server's version and sql_mode."""
        if self._compiled_for is not None and self._compiled_for[0] is self._facts:
            return self._compiled_for[1]
        # pymysql.py imports no driver; its preparer doubles the % that the "format" style needs.
        from sqlalchemy.dialects.mysql import mariadb, pymysql

        from fastdb.compiler import mysql_statement_compiler

        if self._mariadb_scheme:
            dialect: Any = mariadb.loader("pymysql")(paramstyle="format")
        else:
            dialect = pymysql.MySQLDialect_pymysql(paramstyle="format")
        dialect.statement_compiler = mysql_statement_compiler(dialect.statement_compiler)
        lexical = self.lexical()
        dialect._backslash_escapes = not lexical.no_backslash_escapes
        if self._facts is not None:
            _learn_version(dialect, self._facts.version)
        if lexical.ansi_quotes:  # after the version, which brings MariaDB's own preparer
            dialect._server_ansiquotes = True
            dialect.identifier_preparer = dialect.preparer(dialect, server_ansiquotes=True)
        self._compiled_for = (self._facts, dialect)
        result: Dialect = dialect
        return result

    # -- connecting

    async def connect(self) -> MySQLConnection:
        """Open a connection; cancelled or failed half-way, it leaves none behind."""
        password = await self._password()
        task = asyncio.current_task()
        assert task is not None
        cancellations = task.cancelling()
        try:
            async with asyncio.timeout(self.settings.connect_timeout):
                connection = await self._open(password, self._arguments(password))
        except TimeoutError as error:
            raise self._refused(
                2003, f"no answer within {self.settings.connect_timeout:g} seconds", error
            ) from error
        if task.cancelling() > cancellations:
            # The wait_for() of CPython 3.11, which both packages call, loses one that comes
            # together with what it waits for.
            connection.terminate()
            raise asyncio.CancelledError
        try:
            if self._facts is None and connection.facts is not None:
                self._facts = connection.facts
            await connection._initialize()
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _open(self, password: Any, arguments: dict[str, Any]) -> MySQLConnection:
        connection: MySQLConnection | None = None
        raw: Any = None
        try:
            raw = self.make_raw(arguments)
            await self.connect_raw(raw)
            connection = self.make_connection(raw)
            await connection.prepare()
        except BaseException as error:
            if connection is None and raw is not None:
                await self._give_up(raw, error)
            elif connection is not None:
                connection.terminate()
            if isinstance(error, (self.base_error, OSError, EOFError, DatabaseError)):
                raise self._refused(number_of(error), _reason(error), error) from error
            raise
        return connection

    async def _give_up(self, raw: Any, error: BaseException) -> None:
        """Leave nothing behind of a connection that failed or was cancelled half-way."""
        thread_id = self.thread_id(raw)
        transport = self.transport(raw)
        if transport is not None:  # pragma: no cover: the known versions of both close it
            transport.abort()
            raw.close()
        self.forget_transport(raw)
        if isinstance(error, asyncio.CancelledError) and thread_id:
            # init_command may be running.
            connection = self.make_connection(raw)
            await self.kill(connection, seconds=CANCEL_SECONDS)

    def _refused(self, number: int | None, reason: str, cause: BaseException) -> Error:
        """Return the one error of a connect that failed: where to, as whom, and why."""
        message = f"cannot connect to {self.settings.place}: {reason}"
        kind: type[BaseException] = type(cause)
        if not issubclass(kind, self.base_error) or isinstance(cause, Error):
            kind = self.operational_error
        error = translate(kind(number or 2003, message), ConnectionFailedError)
        sqlstate = getattr(cause, "sqlstate", None)
        if sqlstate is not None:
            error.sqlstate = sqlstate  # type: ignore[attr-defined]
        return error

    async def _password(self) -> Secret:
        return _as_sent(await self._given_password())

    async def _given_password(self) -> Any:
        password = self.settings.password
        if callable(password):
            given = password()
            return await given if inspect.isawaitable(given) else given
        return password

    def _arguments(self, password: Secret) -> dict[str, Any]:
        settings = self.settings
        arguments = dict(settings.arguments, password=password, autocommit=True)
        arguments[self.database_argument] = settings.database
        arguments["connect_timeout"] = settings.connect_timeout
        if settings.sql_mode is not None:
            arguments["sql_mode"] = settings.sql_mode
        if settings.tls is not None:
            arguments["ssl"] = settings.tls
        return arguments

    # -- killing what was given up

    def order_kill(
        self, connection: MySQLExchange, query_only: bool = False
    ) -> asyncio.Future[bool]:
        """Have a connection, or only its statement, killed over a connection of its own."""
        loop = asyncio.get_running_loop()
        if self._killer is not None and self._killer.get_loop() is not loop:
            self._killer = None
            self._orders.clear()
        thread_id, server = connection.kill_target
        what = "QUERY" if query_only else "CONNECTION"
        order = _KillOrder(f"KILL {what} {thread_id}", server, loop.create_future())
        self._orders.append(order)
        if self._killer is None or self._killer.done():
            self._killer = loop.create_task(self._kill_ordered(), name="fastdb-mysql-kill")
        return order.done

    async def kill(
        self,
        connection: MySQLExchange,
        *,
        query_only: bool = False,
        seconds: float = _KILL_SECONDS + 1,
    ) -> bool:
        """Kill and wait for it, `seconds` at most; return whether the server has done it."""
        if asyncio.current_task() is self._killer:
            return False  # it was cancelled itself, and would wait for itself
        done = self.order_kill(connection, query_only)
        await asyncio.wait([done], timeout=seconds)
        return done.done() and not done.cancelled() and done.result()

    async def _kill_ordered(self) -> None:
        connection: MySQLConnection | None = None
        try:
            async with asyncio.timeout(_KILL_SECONDS) as scope:
                password = await self._password()
                arguments = self._arguments(password)
                for name in ("init_command", "sql_mode", self.database_argument):
                    arguments.pop(name, None)
                connection = await self._open(password, arguments)
                facts = connection.facts
                assert facts is not None
                while self._orders:
                    # For each: a server that answers gets through however many there are.
                    scope.reschedule(asyncio.get_running_loop().time() + _KILL_SECONDS)
                    order = self._orders[0]
                    # Behind a load balancer the number may be another server's: somebody else's.
                    killed = order.server in (None, (facts.hostname, facts.port))
                    if killed:
                        with suppress(DatabaseError):  # it is gone already
                            await connection._run(order.command.encode())
                    self._orders.popleft()
                    order.done.set_result(killed)
        except Exception as error:
            _log.debug("cannot kill a statement that was given up: %r", error)
        finally:
            while self._orders:
                self._orders.popleft().done.set_result(False)
            if connection is not None:
                connection.terminate()

    def careful_writer(self, encoding: str) -> StatementWriter:
        """Return the writer for a session that may have another charset than is known."""
        writer = self._careful_writers.get(encoding)
        if writer is None:
            writer = statement_writer(self.converters, encoding)
            self._careful_writers[encoding] = writer
        return writer

    def encoding_of(self, name: str) -> str:
        """Return Python's codec for a charset of the server.

        Raises:
            OptionError: There is none, or the charset cannot be used.
        """
        check_charset(name)
        try:
            encoding: str = self.charset_by_name(name).encoding
            "x".encode(encoding)
        except (AttributeError, KeyError, LookupError):
            raise OptionError(
                f"the charset {name!r} is unknown, or Python has no codec for it; use 'utf8mb4'"
            ) from None
        return encoding

    # -- what differs between the packages

    @abstractmethod
    def make_raw(self, arguments: dict[str, Any]) -> Any:
        """Return the package's connection, not yet connected."""

    @abstractmethod
    async def connect_raw(self, raw: Any) -> None:
        """Connect it."""

    @abstractmethod
    async def close_raw(self, raw: Any) -> None:
        """Say goodbye to the server, close, and wait for the socket's end."""

    def make_connection(self, raw: Any) -> MySQLConnection:
        """Wrap the package's connection."""
        return MySQLConnection(self, raw)

    @abstractmethod
    def thread_id(self, raw: Any) -> int:
        """Return the server's number for the connection, 0 before it is known."""

    @abstractmethod
    def transport(self, raw: Any) -> Any:
        """Return asyncio's transport, or None where the connection is closed."""

    @abstractmethod
    def forget_transport(self, raw: Any) -> None:
        """Note in the package's connection that it is closed."""

    @abstractmethod
    def is_usable(self, raw: Any, reading: bool) -> bool:
        """Return whether it is open and, unless a result is being read, nothing waits there.

        The socket itself is not looked at.
        """

    @abstractmethod
    def encoders(self, raw: Any) -> Mapping[Any, Any]:
        """Return the writers of literals in force, by type."""

    @abstractmethod
    def exchange(
        self, raw: Any, sql: bytes, limit: int | None, plan: QueryPlan | None
    ) -> Awaitable[Any]:
        """Send a statement, read its first result and return it.

        Rows above `limit` may be dropped. With a plan, rows may be its records already.
        """

    def before_commands(self, raw: Any, call: Callable[[], Awaitable[None]] | None) -> None:
        """Have `call` called before each command over the raw connection, where it can be done.

        Args:
            raw: The package's connection.
            call: What reads an open result into memory; None where none is open.
        """

    async def rest_of_answer(self, raw: Any) -> bool:
        """Read and drop the answer to a statement that was cancelled.

        Returns:
            Whether the connection can go on; otherwise it has to be closed.
        """
        return False  # pragma: no cover: asyncmy closes what is cancelled before this is asked

    @abstractmethod
    async def open_result(self, raw: Any, sql: bytes, plan: QueryPlan) -> Any:
        """Send a statement, read the head of its first result and return that, unbuffered."""

    @abstractmethod
    async def read_unbuffered(self, result: Any, size: int) -> list[Any]:
        """Return up to `size` further rows of an unbuffered result."""

    def names(self, result: Any) -> tuple[str, ...] | None:
        """Return the names of a result's columns, None where it has none."""
        description = result.description
        return None if description is None else tuple([column[0] for column in description])

    def records(self, plan: QueryPlan, result: Any, rows: Sequence[Any]) -> list[Record]:
        """Return the records of some of a result's rows, which may be records already."""
        records: list[Record] = plan.layout(self.names(result) or ()).records(rows)
        return records

    def after_reset(self, raw: Any) -> None:
        """Undo in the package's connection what ``set_charset`` and ``autocommit`` changed."""
        name = self.settings.arguments["charset"]
        raw._charset, raw._encoding = name, self.charset_by_name(name).encoding
        raw.autocommit_mode = True


def _as_sent(password: Any) -> Secret:
    if isinstance(password, bytes):
        return Secret(password.decode("latin-1"))
    # The drivers send Latin-1, but servers know the UTF-8 of a password: the one decoded as the
    # other goes over the wire as it should. Bytes of a URL that are no UTF-8 stay what they are.
    with suppress(UnicodeEncodeError):  # it holds the password
        return Secret(str(password).encode("utf-8", "surrogateescape").decode("latin-1"))
    password = None
    raise OptionError("the password holds half of a surrogate pair, which no charset has")


def _reason(error: BaseException) -> str:
    text = error.args[-1] if error.args else error
    cause = error.__cause__
    # aiomysql names the host, but not what is wrong with it; asyncmy does.
    return str(text) if cause is None or str(cause) in str(text) else f"{text} ({cause})"


def _learn_version(dialect: Any, version: str) -> None:
    """Tell a dialect its server, as its own ``initialize()`` does with a connection."""
    try:
        info = dialect._parse_server_version(version)
    except NotImplementedError:
        return
    if dialect.is_mariadb:
        return
    dialect.supports_for_update_of = info >= (8,)
    dialect.use_mysql_for_share = info >= (8, 0, 1)
    dialect._requires_alias_for_on_duplicate_key = info >= (8, 0, 20)
    dialect.server_version_info = info
    # In SQLAlchemy 2.0 these follow from the version.
    with suppress(AttributeError):
        dialect._support_default_function = info >= (8, 0, 13)
        dialect._support_float_cast = info >= (8, 0, 17)
