"""The connection of a sandbox: what the application does there is taken back in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fastdb.connection import Connection
from fastdb.drivers.base import DEFAULT_OPTIONS
from fastdb.exceptions import TransactionError
from fastdb.sql_text import classify, transaction_control
from fastdb.testing.deferred import DeferredConstraints

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from fastdb._speedups import QueryPlan
    from fastdb.database import Database
    from fastdb.drivers.base import Batch, DriverConnection
    from fastdb.drivers.postgresql_connection import PostgreSQLConnection
    from fastdb.pool import Pool
    from fastdb.queries import Query, Services
    from fastdb.sql_text import Classification, Lexical
    from fastdb.testing.sandbox import Sandbox
    from fastdb.transaction import Transaction

__all__ = ["SandboxConnection"]


class SandboxConnection(Connection):
    """The Connection that every task in a sandbox shares.

    Where the sandbox lives in a transaction that is rolled back, that is the base of the turns, as
    under ``force_rollback``; a private copy needs none, and commits really happen there.
    """

    __slots__ = ("_deferred", "_sandbox")

    def __init__(self, sandbox: Sandbox, database: Database) -> None:
        """Make the connection of `sandbox`, which leases it from the pool of `database`."""
        super().__init__(cast("Services", SandboxServices(sandbox, database)))
        self._sandbox = sandbox
        self._deferred = DeferredConstraints() if database._driver.dialect == "postgresql" else None

    @property
    def raw_connection(self) -> Any:
        """The driver's own connection object; what is done with it is not looked at."""
        if self._deferred is not None:
            self._deferred.forget()
        return super().raw_connection

    def note_statement(self, kind: QueryPlan | Classification) -> None:
        """Take note of what is to run."""
        if self._deferred is not None:
            self._deferred.note_statement(kind)

    def _postgresql(self) -> PostgreSQLConnection:
        return cast("PostgreSQLConnection", self._lease.leased())

    async def _start_base(self) -> None:
        await super()._start_base()
        if self._deferred is not None:
            try:
                await self._deferred.check_always(self._postgresql())
            except BaseException:
                await self._end_base()
                raise

    def _inside_base(self, transaction: Transaction) -> bool:
        """Return whether the application would take `transaction` for the outermost one."""
        base, stack = self._turns.base, self._turns.stack
        return base is not None and len(stack) > 1 and stack[1] is transaction

    def _refuse_control(self, query: Query) -> None:
        """Leave it to the look at the prepared query, which knows the sandbox's name."""

    async def _keep_base(self, connection: DriverConnection) -> None:
        """Refuse to go on where the transaction of the sandbox has ended."""
        self._sandbox._check()

    async def _usable(self) -> DriverConnection:
        self._sandbox._check()
        return await super()._usable()

    async def _push_transaction(self, transaction: Transaction) -> None:
        self._sandbox._check()
        if transaction.options != DEFAULT_OPTIONS and not self.in_transaction:
            self._sandbox.transaction_options.append(transaction.options)
            transaction._options = DEFAULT_OPTIONS
        await super()._push_transaction(transaction)
        if self._deferred is not None and self._inside_base(transaction):
            try:
                await self._deferred.defer(self._postgresql())
            except BaseException as error:
                await self._roll_back_transaction(transaction, error)
                raise

    async def _commit_transaction(self, transaction: Transaction) -> list[Callable[[], Any]]:
        if self._deferred is not None and self._inside_base(transaction):
            try:
                await self._deferred.check(self._postgresql())
            except BaseException as error:
                await self._roll_back_transaction(transaction, error)
                raise
        callbacks = await super()._commit_transaction(transaction)
        self._sandbox.on_commit_calls += callbacks
        return callbacks

    async def _roll_back_transaction(
        self, transaction: Transaction, cause: BaseException | None = None
    ) -> None:
        if transaction is self._turns.base:
            self._sandbox._note_end(self)
        await super()._roll_back_transaction(transaction, cause)

    def _run_sync(
        self, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> Coroutine[Any, Any, Any]:
        lexical = self._services._driver.lexical()

        def checked(connection: Any, *args: Any) -> Any:
            from sqlalchemy import event

            def before(conn: Any, cursor: Any, statement: str, *more: Any) -> None:
                self._sandbox._check_statement(classify(statement, lexical), statement)

            event.listen(connection, "before_cursor_execute", before)
            return function(connection, *args)

        return super()._run_sync(checked, args)


class SandboxServices:
    """What a Connection needs of its Database, with a look at what is to run."""

    def __init__(self, sandbox: Sandbox, database: Database) -> None:
        """Stand for `database` in `sandbox`."""
        self._sandbox = sandbox
        self._database = database
        self.query_cache = CheckedQueries(sandbox, database)

    def _ready_pool(self) -> Pool:
        self._sandbox._check()
        return self._database._ready_pool()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


class CheckedQueries:
    """The query cache of a Database, which refuses what a sandbox cannot take back."""

    def __init__(self, sandbox: Sandbox, database: Database) -> None:
        """Look at what `sandbox` prepares."""
        self._sandbox = sandbox
        self._database = database

    def prepare(
        self, query: Any, values: Mapping[Any, Any] | None = None
    ) -> tuple[QueryPlan, tuple[Any, ...], tuple[Any, ...] | None]:
        """Prepare a query, after a look at the sandbox and at the query."""
        self._sandbox._check()
        prepared = self._database.query_cache.prepare(query, values)
        self._sandbox._check_statement(prepared[0], prepared[0].sql)
        return prepared

    def prepare_many(self, query: Any, rows: Any, batch_size: int) -> Iterator[Batch]:
        """Prepare batches of a query, each after the same looks."""
        self._sandbox._check()
        for plan, batch in self._database.query_cache.prepare_many(query, rows, batch_size):
            self._sandbox._check_statement(plan, plan.sql)
            yield plan, batch


def refuse(kind: QueryPlan | Classification, sql: str, lexical: Lexical, name: str) -> None:
    """Refuse a statement that would commit, or end, the transaction that a sandbox lives in.

    Args:
        kind: What is known of the statement.
        sql: Its text.
        lexical: The rules of that.
        name: Of the sandbox.

    Raises:
        TransactionError: It is one.
    """
    words = transaction_control(sql, lexical)
    if words:
        raise TransactionError(
            f"cannot run {words} in the sandbox of {name}, whose transaction is rolled back "
            "in the end; use `database.transaction()`, which is a savepoint there"
        )
    if kind.implicit_commit:
        raise TransactionError(
            f"cannot run {kind.verb} in the sandbox of {name}: it commits implicitly on MySQL, "
            "and could not be rolled back; run it before the sandbox is opened, or on the real "
            "database inside `with sandbox.unboxed():`"
        )
