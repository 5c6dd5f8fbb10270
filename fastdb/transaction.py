"""Transactions: a state machine over a tree of them on each connection.

The transactions that are open on one connection form a path: the outermost, a savepoint inside
it, and so on (``Turns.stack``). Which of them a task works in is known by its
context: a context variable holds those that were started there. Contexts are copied to child tasks,
so a child that is handed a connection works in its parent's transaction.

States: new → starting → open → ending → committed | rolled back; a start that fails ends as
``failed``.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import weakref
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from fastdb.coroutines import coroutine_function
from fastdb.drivers.base import TransactionOptions
from fastdb.exceptions import OptionError, TransactionError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import TracebackType

    from fastdb.connection import Connection

__all__ = ["Transaction"]

logger = logging.getLogger("fastdb")

P = ParamSpec("P")
T = TypeVar("T")

# The transactions that were started in this context, the outermost first. Contexts are kept by
# every timer and callback that was set up in them: a strong reference would keep an abandoned
# transaction, and its connection, for as long.
_path: contextvars.ContextVar[tuple[weakref.ref[Transaction], ...]] = contextvars.ContextVar(
    "fastdb_transactions", default=()
)


def current_transaction(connection: Connection) -> Transaction | None:
    """Return the innermost open transaction on `connection` that this context is in."""
    for reference in reversed(_path.get()):
        transaction = reference()
        if (
            transaction is not None
            and transaction.is_open
            and transaction._connection is connection
        ):
            return transaction
    return None


def current_task() -> asyncio.Task[Any] | None:
    """Return the running task; None outside of any, also where no event loop runs."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


class Transaction:
    """A transaction, or a savepoint where one is open already.

    Use it as ``async with database.transaction():``, as ``@database.transaction()`` on an async
    function, or by hand: ``transaction = await database.transaction()``, then ``commit()`` or
    ``rollback()``.
    """

    def __init__(
        self,
        connection: Callable[[], Connection],
        options: TransactionOptions,
        *,
        force_rollback: bool = False,
    ) -> None:
        """Describe a transaction; it starts later.

        Args:
            connection: Gives the connection of the task that starts the transaction.
            options: How the outermost transaction begins.
            force_rollback: Roll back in the end, whatever happens.
        """
        self._choose_connection = connection
        self._options = options
        self._force_rollback = force_rollback
        self._connection: Connection | None = None
        self._task: weakref.ref[asyncio.Task[Any]] | None = None
        self._holding = False  # whether a hold on the connection is still this one's
        self._state = "new"
        self._awaited = False
        self._on_commit: list[Callable[[], Any]] = []

    @property
    def state(self) -> str:
        """The state in words, as messages show it."""
        return self._state

    @property
    def is_open(self) -> bool:
        """Whether statements can run in the transaction."""
        return self._state == "open"

    @property
    def options(self) -> TransactionOptions:
        """How the transaction was asked to begin."""
        return self._options

    @property
    def task(self) -> asyncio.Task[Any] | None:
        """The task that started the transaction, while it lives and is not done."""
        task = self._task() if self._task is not None else None
        if task is None or task.done() or task.get_loop().is_closed():
            return None
        return task

    def __repr__(self) -> str:
        """Show the state and the task that started the transaction."""
        task = self.task
        started_by = f" started by {task.get_name()!r}" if task is not None else ""
        return f"<Transaction {self._state}{started_by}>"

    def on_commit(self, callback: Callable[[], Any]) -> None:
        """Call `callback` after the outermost transaction has committed; await what it returns.

        It is not called where this transaction or an outer one is rolled back.
        """
        if not callable(callback):
            raise OptionError(f"on_commit takes a callable, not {callback!r}")
        if self._state not in ("new", "starting", "open"):
            raise TransactionError(
                f"cannot add an on_commit callback; the transaction is already {self._state}"
            )
        self._on_commit.append(callback)

    # -- the three ways to use it; each takes the caller's task and context when it is called,
    #    not when its coroutine first runs, so that wait_for(transaction.start(), 1) is right

    @coroutine_function
    def start(self) -> Coroutine[Any, Any, Transaction]:
        """Begin the transaction, or open a savepoint where the connection is in one.

        Raises:
            TransactionError: It was started before, or would wait for ever.
        """
        if self._state != "new":
            raise TransactionError(
                f"cannot start; the transaction is already {self._state}; make a new one"
            )
        connection = self._connection = self._choose_connection()
        task = current_task()
        self._task = weakref.ref(task) if task is not None else None
        parent = current_transaction(connection)
        self._state = "starting"
        outer = [reference for reference in _path.get() if _goes_on(reference())]
        _path.set((*outer, weakref.ref(self)))
        return connection._carry_out_start(self, self._start(connection, parent))

    @coroutine_function
    def commit(self) -> Coroutine[Any, Any, None]:
        """Commit the transaction, or release its savepoint; one that is forced back is rolled back.

        Raises:
            TransactionError: It is not open, or an inner one still is.
            DatabaseError: The server refused; everything is rolled back.
        """
        return self._end(commit=not self._force_rollback, task=current_task())

    @coroutine_function
    def rollback(self) -> Coroutine[Any, Any, None]:
        """Undo what happened since the transaction was started.

        Raises:
            TransactionError: It is not open, or an inner one still is.
        """
        return self._end(commit=False, task=current_task())

    def __await__(self) -> Generator[Any, Any, Transaction]:
        """Start the transaction."""
        starting = self.start()
        self._awaited = True
        return starting.__await__()

    def __aenter__(self) -> Coroutine[Any, Any, Transaction]:
        """Start the transaction, unless ``await`` has: ``async with await transaction():``."""
        return self._started() if self.is_open and self._awaited else self.start()

    async def _started(self) -> Transaction:
        self._awaited = False  # a second block is a mistake
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit, or roll back after an exception; nothing where it was ended inside the block."""
        if self._state != "open":
            return
        if exc_type is None and not self._force_rollback:
            await self._end(commit=True, task=current_task(), leaving=True)
            return
        try:
            await self._end(commit=False, task=current_task(), leaving=True, cause=exc)
        except Exception as error:
            if exc is None:
                raise
            # The reason why the block was left matters more; the connection is closed by now.
            logger.warning("a transaction could not be rolled back: %r", error)

    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]]
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        """Make each call of an async function run in a transaction of its own."""
        if not callable(function) or inspect.isasyncgenfunction(function):
            raise OptionError(f"a transaction decorates async functions; {function!r} is not one")

        @functools.wraps(function)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            async with Transaction(
                self._choose_connection, self._options, force_rollback=self._force_rollback
            ):
                result = function(*args, **kwargs)
                if not inspect.isawaitable(result):
                    raise OptionError(
                        "a transaction decorates async functions; "
                        f"{function!r} returned {type(result).__name__!r}"
                    )
                return await result

        return wrapper

    # -- how it is done

    async def _start(self, connection: Connection, parent: Transaction | None) -> Transaction:
        try:
            if not connection._lease.hold_at_once():
                await connection._lease.hold()
            try:
                if not connection._turns.take_at_once(parent):
                    await connection._take_turn(parent, self.task)
                try:
                    await connection._push_transaction(self)
                finally:
                    connection._turns.pass_on()
            except BaseException:
                await connection._lease.unhold()
                raise
        except BaseException:
            self._state = "failed"
            self._leave_context()
            raise
        return self

    async def _end(
        self,
        *,
        commit: bool,
        task: asyncio.Task[Any] | None,
        leaving: bool = False,
        cause: BaseException | None = None,
    ) -> None:
        verb = "commit" if commit else "roll back"
        connection = self._connection
        if self._state != "open" or connection is None:
            raise TransactionError(f"cannot {verb}; the transaction is {self._state_in_words()}")
        callbacks = await connection._carry_out_end(
            self, self._finish(connection, commit, task, leaving, cause)
        )
        if callbacks:
            await _call_all(callbacks)

    async def _finish(
        self,
        connection: Connection,
        commit: bool,
        task: asyncio.Task[Any] | None,
        leaving: bool,
        cause: BaseException | None = None,
    ) -> list[Callable[[], Any]]:
        """Commit or roll back; return the callbacks that are due now."""
        verb = "commit" if commit else "roll back"
        connection._lease.check_loop()
        callbacks: list[Callable[[], Any]] = []
        try:
            if not connection._turns.take_at_once(self):
                await connection._turns.take(self, task)
        except BaseException:
            # Somebody else's turn never ended, or the caller was cancelled in the wait. By hand
            # it can be tried again; at the end of a block nobody would.
            if leaving and self._state == "open":
                self._state = "ending"
                self._leave_context()
                await connection._roll_back_out_of_turn(self)
            raise
        ended = False
        try:
            if self._state != "open":  # ended by another task while this one waited
                raise TransactionError(
                    f"cannot {verb}; the transaction is {self._state_in_words()}"
                )
            inner = connection._inner_transaction(self)
            if inner is not None and not leaving:
                raise TransactionError(
                    f"cannot {verb}; an inner transaction is still open: {inner!r}; end it first"
                )
            self._state = "ending"
            self._leave_context()
            ended = True
            if commit and inner is None:
                callbacks = await connection._commit_transaction(self)
            else:
                await connection._roll_back_transaction(self, cause)
                if commit:
                    raise TransactionError(
                        f"cannot commit; an inner transaction was left open: {inner!r}; "
                        "everything is rolled back"
                    )
        finally:
            connection._turns.pass_on()
            if ended and self._holding:
                self._holding = False
                if not connection._lease.unhold_at_once():
                    await connection._lease.unhold()
        return callbacks

    def _state_in_words(self) -> str:
        if self._state == "new":
            return "not started"
        return f"already {self._state}"

    def _leave_context(self) -> None:
        path = _path.get()
        if path and path[-1]() is self:
            _path.set(path[:-1])


def _goes_on(transaction: Transaction | None) -> bool:
    return transaction is not None and transaction._state in ("starting", "open")


async def _call_all(callbacks: list[Callable[[], Any]]) -> None:
    """Call every callback, also after one has failed; then raise what failed."""
    errors: list[Exception] = []
    for callback in callbacks:
        try:
            result = callback()
            if inspect.isawaitable(result):
                await result
        except Exception as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup("several on_commit callbacks failed", errors)
