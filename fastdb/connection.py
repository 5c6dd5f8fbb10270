"""Connection: one query from expression to records, and who may run it when.

A Connection stands for one task's use of the database. It leases a connection of the driver from
the pool while it is held (``async with``, an open transaction, a running query) and gives it back
after the last hold. Where several tasks use one Connection, their operations take turns.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from fastdb.drivers.base import DEFAULT_OPTIONS, to_its_end
from fastdb.exceptions import DatabaseError, NotConnectedError, TransactionError
from fastdb.iteration import iterate
from fastdb.lease import Lease
from fastdb.queries import (
    Queries,
    begin_query,
    check_batch_size,
    limited,
    note_failure,
    run_query,
    time_limit,
)
from fastdb.savepoints import StatementGuard, open_savepoint
from fastdb.transaction import Transaction, current_task, current_transaction
from fastdb.turns import Turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from types import TracebackType

    from fastdb._speedups import Record
    from fastdb.drivers.base import DriverConnection
    from fastdb.queries import Finish, Query, Services, Values

__all__ = ["Connection"]

logger = logging.getLogger("fastdb")

T = TypeVar("T")


class Connection(Queries):
    """One task's connection; nested uses in a task share it.

    Get it from :meth:`fastdb.Database.connection`. It may be handed to other tasks: their
    operations take turns, and a transaction of one makes the others wait (or nests, where it was
    started in a child of theirs).
    """

    __slots__ = (
        "__weakref__",
        "_entered",
        "_lease",
        "_services",
        "_turns",
    )

    def __init__(self, services: Services) -> None:
        """Make a connection that holds nothing yet."""
        self._services = services
        self._entered = 0
        self._turns = Turns(services.settings.acquire_timeout, services._waiting)
        task = current_task()
        self._lease = Lease(services, task.get_name() if task is not None else "no task")

    def __repr__(self) -> str:
        """Show whose connection it is and what is open on it."""
        state = "holding" if self._lease.connection is not None else "idle"
        count = len(self._turns.stack)
        return f"<Connection of {self._lease.holder.name!r} {state}, {count} transactions open>"

    # -- holding

    async def __aenter__(self) -> Connection:
        """Hold the connection until the outermost block is left."""
        await self._lease.hold()
        self._entered += 1
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Return the connection to the pool at the outermost exit."""
        if not self._entered:
            raise NotConnectedError("the connection is left more often than it was entered")
        self._lease.check_loop()
        self._entered -= 1
        await self._lease.unhold()

    @property
    def is_held(self) -> bool:
        """Whether a connection of the driver is leased, or being leased."""
        return self._lease.holds > 0

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction of the user's is open on the connection."""
        return self._turns.in_user_transaction

    @property
    def raw_connection(self) -> Any:
        """The driver's own connection object.

        The session counts as changed from now on, and is reset when it is returned.

        Raises:
            NotConnectedError: The connection is not held; use it inside ``async with``.
        """
        connection = self._lease.connection
        if connection is None:
            raise NotConnectedError(
                "the connection holds no driver connection; "
                "use `async with database.connection() as connection:`"
            )
        connection.dirty = True
        return connection.raw

    # -- transactions

    def _task_connection(self) -> Connection:
        return self

    def _carry_out_start(
        self, transaction: Transaction, run: Coroutine[Any, Any, Transaction]
    ) -> Coroutine[Any, Any, Transaction]:
        """Return what starts `transaction` where the connection lives: on the caller's loop."""
        return run

    def _carry_out_end(
        self, transaction: Transaction, run: Coroutine[Any, Any, T]
    ) -> Coroutine[Any, Any, T]:
        """Return what ends `transaction` where the connection lives: on the caller's loop."""
        return run

    def _inner_transaction(self, transaction: Transaction) -> Transaction | None:
        """Return the innermost transaction if it is not `transaction` itself."""
        innermost = self._turns.stack[-1] if self._turns.stack else None
        return None if innermost is transaction else innermost

    async def _push_transaction(self, transaction: Transaction) -> None:
        """Begin `transaction` inside those that are open. The caller has the turn."""
        connection = await self._usable()
        try:
            if not self._turns.stack:
                await connection.begin(transaction.options)
            else:
                if transaction.options != DEFAULT_OPTIONS and not (
                    # Under force_rollback an application's outermost transaction is a savepoint.
                    self._turns.base is not None and len(self._turns.stack) == 1
                ):
                    raise TransactionError(
                        "isolation, readonly, deferrable and begin belong to the outermost "
                        f"transaction; {self._turns.stack[-1]!r} is open already"
                    )
                await self._keep_base(connection)
                await open_savepoint(connection)
        except BaseException:
            if not self._turns.stack:
                await self._undo(connection)
            raise
        transaction._state = "open"
        transaction._holding = True
        self._turns.stack.append(transaction)

    async def _commit_transaction(self, transaction: Transaction) -> list[Callable[[], Any]]:
        """Commit the innermost transaction; return the callbacks that are due now.

        The caller has the turn.
        """
        connection = self._lease.leased()
        outermost = self._turns.stack[0] is transaction
        cancellation = None
        try:
            if outermost:
                await connection.commit()
            else:
                cancellation = await to_its_end(connection.release_savepoint(), connection)
        except BaseException:
            try:
                if outermost:
                    await self._undo(connection)
            finally:
                self._forget(transaction, "rolled back")
            raise
        callbacks, transaction._on_commit = transaction._on_commit, []
        self._forget(transaction, "committed")
        if self.in_transaction:
            self._turns.stack[-1]._on_commit += callbacks
            callbacks = []
        if cancellation is not None:
            raise cancellation
        return callbacks

    async def _roll_back_transaction(
        self, transaction: Transaction, cause: BaseException | None = None
    ) -> None:
        """Roll back `transaction` and those inside it, because of `cause`.

        The caller has the turn.
        """
        connection = self._lease.leased()
        bound = connection.patience(cause)
        index = self._turns.stack.index(transaction)
        cancellation = None
        try:
            if index == 0:
                if connection.is_alive() or connection.in_transaction:
                    cancellation = await to_its_end(connection.rollback(), connection, bound)
            else:
                for _ in self._turns.stack[index:]:
                    cancellation = (
                        await to_its_end(connection.rollback_to_savepoint(), connection, bound)
                        or cancellation
                    )
        except BaseException as error:
            # The server rolls back what loses its connection. That is no error of a rollback.
            alive = connection.is_alive()
            if index or not alive or connection.in_transaction:
                connection.terminate()
            if not isinstance(error, DatabaseError) or alive:
                raise
        finally:
            self._forget(transaction, "rolled back")
        if cancellation is not None:
            raise cancellation

    async def _roll_back_out_of_turn(self, transaction: Transaction) -> None:
        """Roll back a transaction whose block is left while others keep the connection."""
        connection = self._lease.leased()
        try:
            if self._turns.busy and not await self._outwait(connection):
                logger.warning("a connection is cut: its transaction was left while it was in use")
                connection.terminate()
                self._forget(transaction, "rolled back")
            else:
                self._turns.busy = True
                try:
                    if transaction in self._turns.stack:
                        await self._roll_back_transaction(transaction)
                finally:
                    self._turns.pass_on()
        finally:
            if transaction._holding:  # else an outer one took it along, and gave its hold up
                transaction._holding = False
                await self._lease.unhold()

    async def _outwait(self, connection: DriverConnection) -> bool:
        """Get the turn in spite of cancellations; return whether that is so.

        Only where cutting the connection would cost more than the transaction.
        """
        while connection.irreplaceable:
            try:
                await self._turns.take_next()
            except asyncio.CancelledError:
                continue
            except TransactionError:
                break
            return True
        return False

    def _forget(self, transaction: Transaction, state: str) -> None:
        """Take `transaction` and those inside it off the stack."""
        if transaction not in self._turns.stack:
            return  # an outer one was left out of turn meanwhile, and took it along
        index = self._turns.stack.index(transaction)
        for ended in self._turns.stack[index:]:
            ended._state = state if ended is transaction else "rolled back"
            ended._on_commit.clear()
            if ended is not transaction:
                ended._holding = False
                self._lease.holds -= 1  # what the inner one held; the outer one still holds
        del self._turns.stack[index:]
        self._turns.note_end()

    async def _undo(self, connection: DriverConnection) -> None:
        """Leave no transaction behind after BEGIN or COMMIT has failed."""
        try:
            if not connection.is_alive():
                connection.terminate()
            elif connection.in_transaction:
                await connection.rollback()
        except BaseException as error:
            if connection.in_transaction or not connection.is_alive():
                connection.terminate()
            if not isinstance(error, Exception):
                raise

    async def _start_base(self) -> None:
        """Begin the transaction that is rolled back in the end (``force_rollback``)."""
        transaction = self.transaction(force_rollback=True)
        await transaction.start()
        # No task's and no context's in particular: every task works inside it.
        transaction._task = None
        transaction._leave_context()
        self._turns.base = transaction
        self._lease.leased().precious = True

    async def _end_base(self) -> None:
        """Roll everything back. Whoever still holds the connection is refused from then on."""
        base, connection = self._turns.base, self._lease.connection
        try:
            if base is not None and base.is_open:  # pragma: no branch: this alone ends it
                await base._end(commit=False, task=current_task(), leaving=True)
        finally:
            self._lease.over = True
            if connection is not None:
                connection.precious = False
            await self._lease.give_back()

    def _cut(self) -> None:
        """Cut what is leased: whatever is under way on it fails."""
        if self._lease.connection is not None:  # pragma: no branch: given back at this moment
            self._lease.connection.terminate()

    # -- queries

    async def _take_turn(
        self, transaction: Transaction | None, task: asyncio.Task[Any] | None
    ) -> None:
        """Wait for a turn for work that was called for in `transaction`.

        Raises:
            TransactionError: It has ended meanwhile; outside of it, the work would be committed.
        """
        await self._turns.take(transaction, task)
        if (
            transaction is not None
            and not transaction.is_open
            and transaction is not self._turns.base  # with it, the connection has ended
        ):
            self._turns.pass_on()
            raise TransactionError(
                f"this was called for in a transaction that is already {transaction.state}; "
                "await it before the transaction ends"
            )

    async def _usable(self) -> DriverConnection:
        """Return the leased connection, or another where it was lost outside a transaction."""
        if self._lease.connection is None and not self._turns.stack:
            # Whoever was to replace it, while this one waited for its turn, did not get another.
            await self._lease.lease_anew()
        connection = self._lease.leased()
        if self._turns.stack or connection.is_still_alive():
            return connection
        await self._lease.replace()
        return self._lease.leased()

    def _perform(
        self,
        operation: str,
        query: Query,
        values: Values | None,
        timeout: float | None,
        finish: Finish | None = None,
    ) -> Coroutine[Any, Any, Any]:
        transaction = current_transaction(self) if self._turns.stack else None
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no event loop runs here
            task = None
        settings = self._services.settings
        seconds = settings.command_timeout if timeout is None else time_limit(timeout, settings)
        run = self._run(operation, query, values, finish, transaction, task)
        return run if seconds is None else limited(run, seconds)

    async def _run(
        self,
        operation: str,
        query: Query,
        values: Values | None,
        finish: Finish | None,
        transaction: Transaction | None,
        task: asyncio.Task[Any] | None,
    ) -> Any:
        services, turns, lease = self._services, self._turns, self._lease
        # A held connection that nobody else uses is the usual case: what its lease and its turns
        # would say for themselves is looked at here, and again at the end.
        pool, stack = lease.pool, turns.stack
        if lease.connection is None or pool is None or pool.loop is not asyncio.get_running_loop():
            if not lease.hold_at_once():
                await lease.hold()
        else:
            lease.holds += 1
        try:
            if turns.busy or transaction is not (stack[-1] if stack else None):
                await self._take_turn(transaction, task)
            else:
                turns.busy = True
            try:
                connection = lease.connection
                if connection is None or not (turns.stack or connection.is_still_alive()):
                    connection = await self._usable()
                if turns.base is not None:
                    return await self._run_inside_base(connection, operation, query, values, finish)
                # As run_query() does it, without one more coroutine in the way of every query.
                running, plan, given = begin_query(services, connection, operation, query, values)
                try:
                    result = await running
                except BaseException as error:
                    note_failure(connection, error)
                    raise
                connection.used_at = monotonic()
                return result if finish is None else finish(plan, given, result, connection)
            finally:
                if turns.queue:
                    turns.pass_on()
                else:
                    turns.busy = False
        finally:
            if lease.holds > 1:
                lease.holds -= 1
            elif not lease.unhold_at_once():
                await lease.unhold()

    async def _run_inside_base(
        self,
        connection: DriverConnection,
        operation: str,
        query: Query,
        values: Values | None,
        finish: Finish | None,
    ) -> Any:
        """Run one operation under ``force_rollback``."""
        self._refuse_control(query)
        return await self._guarded(
            connection,
            lambda: run_query(self._services, connection, operation, query, values, finish),
        )

    def _refuse_control(self, query: Query) -> None:
        """Refuse SQL that would end the transaction that is rolled back in the end.

        Raises:
            TransactionError: It begins or ends a transaction.
        """
        text = query if isinstance(query, str) else getattr(query, "text", None)
        if self._turns.base is None or not isinstance(text, str):
            return
        from fastdb.sql_text import transaction_control

        words = transaction_control(text, self._services._lexical())
        if words:
            raise TransactionError(
                f"cannot run {words!r} under force_rollback, where everything is rolled back in "
                "the end; use `database.transaction()`, which is a savepoint there"
            )

    async def _guarded(
        self, connection: DriverConnection, step: Callable[[], Coroutine[Any, Any, Any]]
    ) -> Any:
        """Run a step; under ``force_rollback``, keep its error from spoiling the base.

        Inside the user's own transactions errors do what they do without ``force_rollback``.
        """
        await self._keep_base(connection)
        if (
            self._turns.base is None
            or len(self._turns.stack) != 1
            or not connection.errors_spoil_transactions
        ):
            return await step()
        async with StatementGuard(connection):
            return await step()

    async def _keep_base(self, connection: DriverConnection) -> None:
        """Begin another transaction under ``force_rollback`` where SQL has ended the one there was.

        DDL does on MySQL, and a conflict that is resolved by ROLLBACK on SQLite.
        """
        if (
            self._turns.base is None
            or len(self._turns.stack) != 1
            or connection.in_transaction
            or not connection.is_alive(look=False)
        ):
            return
        logger.warning(
            "a statement has ended the transaction of force_rollback; "
            "what it committed stays, what follows is rolled back again"
        )
        await connection.rollback()  # what the driver remembers of it
        await connection.begin(DEFAULT_OPTIONS)

    def _run_sync(
        self, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> Coroutine[Any, Any, Any]:
        transaction = current_transaction(self) if self._turns.stack else None
        return self._run_over(function, args, transaction, current_task())

    async def _run_over(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        transaction: Transaction | None,
        task: asyncio.Task[Any] | None,
    ) -> Any:
        from fastdb.synchronous import run_over

        await self._lease.hold()
        try:
            await self._take_turn(transaction, task)
            try:
                connection = await self._usable()
                await self._keep_base(connection)
                connection.dirty = True
                joins = bool(self._turns.stack) or connection.in_transaction
                try:
                    return await run_over(
                        self._services._driver, connection, function, args, joins=joins
                    )
                except BaseException as error:
                    connection.suspect = True
                    if not isinstance(error, Exception):
                        connection.abandon_raw()
                    raise
            finally:
                self._turns.pass_on()
        finally:
            await self._lease.unhold()

    def iterate(
        self,
        query: Query,
        values: Values | None = None,
        *,
        batch_size: int | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Record, None]:
        """Yield the records one by one, in constant memory; other queries may run meanwhile.

        On MySQL, the first other query on this connection reads the rest into memory.

        Args:
            query: SQL with ``:name`` parameters, or a SQLAlchemy expression.
            values: One value for each parameter.
            batch_size: Records that are fetched at once, 500 by default.
            timeout: Seconds that one fetch may take.
        """
        size = check_batch_size(batch_size)
        transaction = current_transaction(self) if self._turns.stack else None
        seconds = time_limit(timeout, self._services.settings)
        return iterate(self, query, values, size, seconds, transaction, current_task())


async def end_in_time(connection: Connection, timeout: float | None) -> None:
    """End a forced rollback; after `timeout` seconds by cutting it, which the server undoes."""
    if timeout is None:
        await connection._end_base()
        return
    cutting = asyncio.get_running_loop().call_later(timeout, connection._cut)
    try:
        async with asyncio.timeout(timeout):
            await connection._end_base()
    except TimeoutError:
        logger.warning("the forced rollback took longer than %s s", timeout)
    finally:
        cutting.cancel()
