"""What Database and Connection share: the query methods, and how one query runs."""

from __future__ import annotations

import asyncio
import inspect
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from fastdb.coroutines import coroutine_function
from fastdb.drivers.base import DEFAULT_OPTIONS, TransactionOptions
from fastdb.exceptions import DatabaseError, OptionError, QueryTimeoutError, QueryTypeError
from fastdb.options import boolean, check_timeout
from fastdb.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping

    from sqlalchemy import MetaData
    from sqlalchemy.sql import ClauseElement

    from fastdb._speedups import QueryCache, QueryPlan, Record
    from fastdb.connection import Connection
    from fastdb.drivers.base import Batch, Driver, DriverConnection, Outcome
    from fastdb.options import Options
    from fastdb.pool import Pool
    from fastdb.sql_text import Lexical

    Query = str | ClauseElement
    Values = Mapping[Any, Any]
    Given = tuple[Any, ...] | None
    Finish = Callable[[Any, Given, Any, DriverConnection], Any]

__all__ = ["ExecuteResult", "Queries", "Services"]

T = TypeVar("T")

logger = logging.getLogger("fastdb")

#: Rows of ``iterate`` that are fetched at once, and rows of ``execute_many`` in one batch.
BATCH_SIZE = 500
MANY_BATCH_SIZE = 1000


class ExecuteResult(NamedTuple):
    """All that one executed statement gave, alike on every database.

    Attributes:
        rowcount: Rows matched or changed; -1 where the driver does not know.
        lastrowid: The key that the server generated for this statement; None on PostgreSQL.
        inserted_primary_key: Each column of the first inserted row's primary key, of an insert
            through SQLAlchemy Core; otherwise None.
        rows: The records that the statement returned.
    """

    rowcount: int
    lastrowid: int | None
    inserted_primary_key: tuple[Any, ...] | None
    rows: list[Record]


class Services(Protocol):
    """What a Connection needs of its Database."""

    @property
    def _driver(self) -> Driver:
        """The driver, which made the connections."""

    @property
    def query_cache(self) -> QueryCache:
        """The compiled queries."""

    @property
    def settings(self) -> Options:
        """The options that are not the driver's."""

    @property
    def _query_level(self) -> int:
        """The level at which queries are logged."""

    @property
    def _waiting(self) -> dict[asyncio.Task[Any], Transaction]:
        """For which transaction a task waits."""

    def _ready_pool(self) -> Pool:
        """Return the pool, after checking that it is open and on this event loop."""

    def _note_lease(self, change: int) -> None:
        """Count the Connections that hold a lease."""

    def _lexical(self) -> Lexical:
        """Return the lexical rules of the server's SQL."""

    def _log_query(self, query: Query, values: object) -> None:
        """Write a query to the log."""


class Queries:
    """The methods that Database and Connection share.

    Each query method is a plain one that returns a coroutine: the connection is chosen by the task
    that calls the method, whichever task runs the coroutine.
    """

    __slots__ = ()

    def _perform(
        self,
        operation: str,
        query: Query,
        values: Values | None,
        timeout: float | None,
        finish: Finish | None = None,
    ) -> Coroutine[Any, Any, Any]:
        raise NotImplementedError

    def _task_connection(self) -> Connection:
        raise NotImplementedError

    @coroutine_function
    def fetch_all(
        self, query: Query, values: Values | None = None, *, timeout: float | None = None
    ) -> Coroutine[Any, Any, list[Record]]:
        """Return every record.

        Args:
            query: SQL with ``:name`` parameters, or a SQLAlchemy expression.
            values: One value for each parameter.
            timeout: Seconds until the query is cancelled on the server.

        Raises:
            MissingParameterError: A parameter of the query has no value.
            QueryTimeoutError: `timeout` ran out.
        """
        return self._perform("fetch_all", query, values, timeout)

    @coroutine_function
    def fetch_one(
        self, query: Query, values: Values | None = None, *, timeout: float | None = None
    ) -> Coroutine[Any, Any, Record | None]:
        """Return the first record, or None where the query yields nothing.

        The driver may still read the whole result: add ``LIMIT 1`` to large queries.

        Args:
            query: SQL with ``:name`` parameters, or a SQLAlchemy expression.
            values: One value for each parameter.
            timeout: Seconds until the query is cancelled on the server.

        Raises:
            MissingParameterError: A parameter of the query has no value.
            QueryTimeoutError: `timeout` ran out.
        """
        return self._perform("fetch_one", query, values, timeout)

    @coroutine_function
    def fetch_val(
        self,
        query: Query,
        values: Values | None = None,
        column: Any = 0,
        *,
        timeout: float | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Return one column of the first record, or None where the query yields nothing.

        Args:
            query: SQL with ``:name`` parameters, or a SQLAlchemy expression.
            values: One value for each parameter.
            column: A position, a name, or a SQLAlchemy column.
            timeout: Seconds until the query is cancelled on the server.
        """

        def finish(
            plan: QueryPlan, given: Given, record: Record | None, connection: DriverConnection
        ) -> Any:
            return None if record is None else record[column]

        return self._perform("fetch_one", query, values, timeout, finish)

    @coroutine_function
    def execute(
        self, query: Query, values: Values | None = None, *, timeout: float | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Run one statement; return what its kind has to tell.

        An insert gives the key of the (first) new row, an update or delete the number of rows,
        ``RETURNING`` and a select the first column of the first row, DDL None. Raw SQL inserts
        give the last row id on SQLite and MySQL, None on PostgreSQL.

        Args:
            query: SQL with ``:name`` parameters, or a SQLAlchemy expression.
            values: One value for each parameter, or for each column of an insert or update.
            timeout: Seconds until the statement is cancelled on the server.
        """
        return self._perform("execute", query, values, timeout, returned_value)

    @coroutine_function
    def execute_result(
        self, query: Query, values: Values | None = None, *, timeout: float | None = None
    ) -> Coroutine[Any, Any, ExecuteResult]:
        """Run one statement; return row count, keys and rows.

        Args:
            query: SQL with ``:name`` parameters, or a SQLAlchemy expression.
            values: One value for each parameter, or for each column of an insert or update.
            timeout: Seconds until the statement is cancelled on the server.
        """
        return self._perform("execute", query, values, timeout, whole_result)

    @coroutine_function
    def execute_many(
        self, query: Query, values: Iterable[Values], *, timeout: float | None = None
    ) -> Coroutine[Any, Any, None]:
        """Run a statement once for each mapping of `values`, all or nothing.

        The rows are sent in batches, in as few round trips as the driver can: in a transaction
        of their own, or in a savepoint inside one that is open.

        Args:
            query: SQL with ``:name`` parameters, or a SQLAlchemy expression.
            values: Mappings; neighbours with the same keys form a batch.
            timeout: Seconds until the whole is cancelled and undone.
        """
        return self._perform("execute_many", query, check_rows(values), timeout)

    @coroutine_function
    def run_sync(self, function: Callable[..., T], *args: Any) -> Coroutine[Any, Any, T]:
        """Call ``function(connection, *args)`` with a synchronous Connection of SQLAlchemy.

        It runs over this connection of fastdb's, inside the transaction that is open there, if
        one is; otherwise what it has not committed itself is committed at the end. An exception
        rolls back what was not committed, and passes::

            def table_names(connection: sqlalchemy.Connection) -> list[str]:
                return sqlalchemy.inspect(connection).get_table_names()

            await database.run_sync(table_names)

        Needs the package greenlet: ``pip install fastdb-sql[migrations]``.

        Args:
            function: A synchronous function; it may do all that the Connection allows.
            args: Its further arguments.

        Raises:
            DriverNotInstalledError: greenlet is missing.
        """
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise OptionError(f"run_sync takes a synchronous function, not {function!r}")
        return self._task_connection()._run_sync(function, args)

    @coroutine_function
    def create_all(self, metadata: MetaData, **options: Any) -> Coroutine[Any, Any, None]:
        """Create the tables of `metadata` that are not there, as ``metadata.create_all()`` does.

        Args:
            metadata: Of SQLAlchemy.
            options: Of ``MetaData.create_all``: ``tables`` and ``checkfirst``.
        """
        return self.run_sync(partial(metadata.create_all, **options))

    @coroutine_function
    def drop_all(self, metadata: MetaData, **options: Any) -> Coroutine[Any, Any, None]:
        """Drop the tables of `metadata` that are there, as ``metadata.drop_all()`` does.

        Args:
            metadata: Of SQLAlchemy.
            options: Of ``MetaData.drop_all``: ``tables`` and ``checkfirst``.
        """
        return self.run_sync(partial(metadata.drop_all, **options))

    def transaction(
        self,
        *,
        force_rollback: bool = False,
        isolation: str | None = None,
        readonly: bool | None = None,
        deferrable: bool | None = None,
        begin: str | None = None,
        isolation_level: str | None = None,
    ) -> Transaction:
        """Return a transaction on this connection, or on that of the task that starts it.

        Use it as ``async with database.transaction():``, as a decorator of async functions, or by
        hand: ``transaction = await database.transaction()``.

        Args:
            force_rollback: Roll back in the end, whatever happens.
            isolation: The isolation level, such as ``serializable`` or ``read committed``.
            readonly: Whether the transaction only reads.
            deferrable: PostgreSQL: wait for a snapshot that cannot fail to serialize.
            begin: SQLite: ``deferred``, ``immediate`` or ``exclusive``.
            isolation_level: Another name of `isolation`.
        """
        options = transaction_options(isolation, readonly, deferrable, begin, isolation_level)
        return Transaction(
            self._task_connection,
            options,
            force_rollback=boolean("force_rollback", force_rollback),
        )


def begin_query(
    services: Services,
    connection: DriverConnection,
    operation: str,
    query: Query,
    values: Any,
) -> tuple[Awaitable[Any], QueryPlan | None, Given]:
    """Begin one operation on a connection that is the caller's alone.

    Returns:
        What runs it, its plan (None of ``execute_many``), and the given key of an insert. Who
        awaits it hands what it raises to :func:`note_failure`, and what it gives to the finish.
    """
    if logger.isEnabledFor(services._query_level):
        services._log_query(query, values)
    if operation == "execute_many":
        batches = services.query_cache.prepare_many(query, values, MANY_BATCH_SIZE)
        return connection.execute_many(noting_session(connection, batches)), None, None
    plan, args, given = services.query_cache.prepare(query, values)
    if plan.changes_session:
        connection.dirty = True
    return getattr(connection, operation)(plan, args), plan, given


def note_failure(connection: DriverConnection, error: BaseException) -> None:
    """Have a connection looked into when it is returned, where an operation failed as none should.

    What the server refused leaves the session as it was.
    """
    if not isinstance(error, DatabaseError) or not connection.is_alive():
        connection.suspect = True


async def run_query(
    services: Services,
    connection: DriverConnection,
    operation: str,
    query: Query,
    values: Any,
    finish: Finish | None,
) -> Any:
    """Run one operation on a connection that is the caller's alone."""
    running, plan, given = begin_query(services, connection, operation, query, values)
    try:
        result = await running
    except BaseException as error:
        note_failure(connection, error)
        raise
    return result if finish is None else finish(plan, given, result, connection)


def note_session(connection: DriverConnection, plan: QueryPlan) -> None:
    """Remember that the session may differ from a fresh one."""
    if plan.changes_session:
        connection.dirty = True


def noting_session(connection: DriverConnection, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield `batches`, noting what each does to the session."""
    for plan, rows in batches:
        note_session(connection, plan)
        yield plan, rows


async def limited(run: Coroutine[Any, Any, Any], seconds: float | None) -> Any:
    """Await `run`, cancelled after `seconds`.

    Raises:
        QueryTimeoutError: The time ran out.
    """
    if seconds is None:
        return await run
    try:
        async with asyncio.timeout(seconds) as scope:
            return await run
    except TimeoutError as error:
        if not scope.expired() or isinstance(error, DatabaseError):
            raise
        raise QueryTimeoutError(
            f"the query took longer than {seconds:g} s and was cancelled"
        ) from (error)
    finally:
        run.close()  # where the scope had expired before the first step


def returned_value(
    plan: QueryPlan, given: Given, outcome: Outcome, connection: DriverConnection
) -> Any:
    """Return what ``execute`` gives (see :meth:`Queries.execute`)."""
    rows = outcome.rows
    if plan.key_sources and not plan.returning:
        key = inserted_key(plan, given, outcome)
        return None if key is None else key[0]
    if plan.returns_rows or rows:
        return rows[0][0] if rows else None
    if plan.kind == "insert":
        if outcome.lastrowid is None and connection.counts_inserts:
            return outcome.rowcount
        return outcome.lastrowid
    if plan.kind in ("update", "delete"):
        return outcome.rowcount
    return None


def whole_result(
    plan: QueryPlan, given: Given, outcome: Outcome, connection: DriverConnection
) -> ExecuteResult:
    """Return what ``execute_result`` gives."""
    key = inserted_key(plan, given, outcome) if plan.key_sources else None
    rows = [] if plan.implicit_returning else outcome.rows
    # SQLite counts no rows of a select; here they all are.
    rowcount = len(rows) if outcome.rowcount < 0 and plan.returns_rows else outcome.rowcount
    return ExecuteResult(rowcount, outcome.lastrowid, key, rows)


def inserted_key(plan: QueryPlan, given: Given, outcome: Outcome) -> tuple[Any, ...] | None:
    """Return the primary key of the first inserted row; None where nothing was inserted."""
    assert plan.key_sources is not None
    assert given is not None
    rows = outcome.rows
    if outcome.rowcount == 0:
        return None
    key: list[Any] = []
    for source, value in zip(plan.key_sources, given, strict=True):
        match source:
            case ("given",):
                key.append(value)
            case ("returning", position):
                key.append(rows[0][position])
            case ("lastrowid",):
                key.append(outcome.lastrowid)
            case _:
                key.append(None)
    return tuple(key)


def transaction_options(
    isolation: str | None,
    readonly: bool | None,
    deferrable: bool | None,
    begin: str | None,
    isolation_level: str | None,
) -> TransactionOptions:
    """Return the options of a transaction, `isolation_level` being another name of `isolation`."""
    if all(each is None for each in (isolation, readonly, deferrable, begin, isolation_level)):
        return DEFAULT_OPTIONS
    if isolation is not None and isolation_level is not None:
        raise OptionError("isolation and isolation_level mean the same; give one of them")
    for name, value in (("isolation", isolation or isolation_level), ("begin", begin)):
        if value is not None and not isinstance(value, str):
            raise OptionError(f"{name} is {value!r}; it must be a string")
    return TransactionOptions(
        isolation or isolation_level,
        None if readonly is None else boolean("readonly", readonly),
        None if deferrable is None else boolean("deferrable", deferrable),
        begin,
    )


def time_limit(timeout: float | None, settings: Options) -> float | None:
    """Return the seconds that a query may take: its own, else those of every query."""
    return settings.command_timeout if timeout is None else check_timeout(timeout)


def check_batch_size(batch_size: int | None) -> int:
    """Return the rows to fetch at once.

    Raises:
        OptionError: It is no positive number.
    """
    if batch_size is None:
        return BATCH_SIZE
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise OptionError(f"batch_size is {batch_size!r}; it must be a whole number above 0")
    return batch_size


def check_rows(values: Any) -> Any:
    """Return the rows of ``execute_many``.

    Raises:
        QueryTypeError: `values` is no iterable of mappings.
    """
    if (
        isinstance(values, str | bytes)
        or not hasattr(values, "__iter__")
        or hasattr(values, "keys")
    ):
        raise QueryTypeError(
            f"execute_many takes an iterable of mappings as values, not {type(values).__name__!r}"
        )
    return values
