"""A sandbox: a test uses the database as it is, and nothing of it stays."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastdb.database import Database
from fastdb.exceptions import EventLoopError, NotSupportedError, OptionError, TransactionError
from fastdb.options import boolean
from fastdb.testing.ownership import (
    Choice,
    OwnershipError,
    Unboxed,
    enter_box,
    innermost,
    leave_box,
    opening_place,
)
from fastdb.testing.sandbox_connection import SandboxConnection, refuse
from fastdb.testing.sandbox_sqlite import close_copy, open_copy

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from fastdb._speedups import QueryPlan
    from fastdb.connection import Connection
    from fastdb.drivers.base import TransactionOptions
    from fastdb.sql_text import Classification

__all__ = ["Sandbox"]


class Sandbox:
    """Let a test use a database on a connection of its own, and take everything back.

    ::

        async with Sandbox(database) as sandbox:
            await application.sign_up("Ada")  # with commits and all
        # nobody has signed up

    Everything that is called in the block works there, child tasks included. On PostgreSQL and
    MySQL it is one transaction that is rolled back: the application's own transactions are
    savepoints in it, and an error spoils nothing but its own statement. On SQLite it is a private
    copy in memory, in which all happens as it does elsewhere; files that `init` attaches are the
    real ones. Any number of sandboxes may be open at once, each in its own task. Sequences and
    AUTO_INCREMENT counters are not set back.

    Attributes:
        database: The database.
        name: The test, or where the sandbox was opened; errors name it.
        on_commit_calls: The callbacks of ``Transaction.on_commit`` that were due, in order: when
            the application's outermost transaction was committed.
        transaction_options: What the application's outermost transactions asked for
            (``isolation``, ``readonly`` …), where they did; it is not applied.
    """

    def __init__(self, database: Database, *, shared: bool = False) -> None:
        """Describe a sandbox; it is opened by ``async with``, once.

        Args:
            database: Any Database. It is connected where it is not, and then disconnected.
            shared: Not there yet.

        Raises:
            OptionError: `database` is none, or has `force_rollback`, which does without.
            NotSupportedError: A shared sandbox is asked for.
        """
        if not isinstance(database, Database):
            raise OptionError(f"a sandbox is one of a Database, not of {database!r}")
        if boolean("shared", shared):
            raise NotSupportedError(
                "sandboxes that are shared with other threads and event loops are not supported "
                "yet; use Database(force_rollback=True) there"
            )
        self.database = database
        self.name = opening_place(1)
        self.on_commit_calls: list[Callable[[], Any]] = []
        self.transaction_options: list[TransactionOptions] = []
        self._state = "new"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner: SandboxConnection | None = None
        self._copy: Database | None = None

    def __repr__(self) -> str:
        """Show the test and the state."""
        return f"<Sandbox of {self.name} {self._state}>"

    @property
    def is_open(self) -> bool:
        """Whether the database can be used in the sandbox."""
        return self._state == "open"

    def connection(self) -> Connection:
        """Return the connection that all tasks in the sandbox share.

        Raises:
            OwnershipError: The sandbox has ended.
        """
        self._check()
        assert self._owner is not None
        return self._owner

    async def __aenter__(self) -> Sandbox:
        """Open the sandbox for this context, and for the tasks that are started in it.

        Raises:
            TransactionError: It was opened before, or one of this database is open here.
        """
        database = self.database
        if self._state != "new":
            raise TransactionError(f"{self!r} was opened before; make a new one")
        outer = innermost(database)
        if outer is not None and outer.is_open:
            raise TransactionError(
                f"{outer!r} is open here already; use that one, or open this one inside "
                "`with sandbox.unboxed():`"
            )
        if database.force_rollback or database._global is not None:
            raise OptionError(
                "the database has force_rollback, which takes everything back as well; "
                "use one of them"
            )
        self._state = "opening"
        self._loop = asyncio.get_running_loop()
        choice = Choice.of(database)
        try:
            await choice.enter(database)
            try:
                self._owner = await self._open()
            except BaseException:
                await choice.leave(database)
                raise
        except BaseException:
            self._state = "failed"
            raise
        self._state = "open"
        enter_box(self)
        return self

    async def _open(self) -> SandboxConnection:
        if self.database._driver.dialect != "sqlite":
            owner = SandboxConnection(self, self.database)
            await owner._start_base()
            return owner
        self._copy = await open_copy(self.database)
        return SandboxConnection(self, self._copy)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the sandbox and take everything back.

        Raises:
            OwnershipError: It was ended before, by the server or by SQL.
        """
        if not self.is_open:
            raise TransactionError(f"{self!r} cannot be left; it is not open")
        lost = self._ended_by()
        self._state = "ended"
        leave_box(self)
        try:
            await self._close()
        finally:
            await Choice.of(self.database).leave(self.database)
        if lost and exc_type is None:
            raise OwnershipError(f"the sandbox of {self.name} was ended before: {lost}")

    async def _close(self) -> None:
        # Contexts, which timers keep, hold the sandbox. It holds no more than its name from now on.
        owner, self._owner = self._owner, None
        copy, self._copy = self._copy, None
        assert owner is not None
        try:
            if copy is None:
                await owner._end_base()
            else:
                await close_copy(copy, owner)
        finally:
            # Whoever still has it is told of the sandbox, not of a forced rollback.
            owner._lease.over = False

    # -- what is lent, and what is let out

    def allow(self, task: asyncio.Task[Any]) -> None:
        """Let a task that was started elsewhere work in the sandbox, but not its child tasks.

        Args:
            task: A task of the same event loop.

        Raises:
            OptionError: It is no task.
            EventLoopError: It is one of another event loop.
            OwnershipError: The sandbox has ended.
        """
        if not isinstance(task, asyncio.Task):
            raise OptionError(f"a sandbox is lent to a task, not to {task!r}")
        self._check()
        if task.get_loop() is not self._loop:
            raise EventLoopError("a sandbox is lent to tasks of its own event loop only")
        Choice.of(self.database).lend(self, task)

    def unboxed(self) -> Unboxed:
        """Return a ``with`` block that uses the real database; what it commits stays.

        So do tasks that are started in the block. On PostgreSQL and MySQL, rows that the sandbox
        has written are locked for the block, which would wait for them without end.
        """
        return Unboxed(self.database)

    # -- what holds

    def _check(self) -> None:
        """Refuse use of a sandbox that has ended.

        Raises:
            OwnershipError: It has.
        """
        if self._state not in ("opening", "open"):
            raise OwnershipError(
                f"the sandbox of {self.name} has ended; a task that was started in it must not "
                "outlive it: await it, or cancel it, before the end"
            )
        lost = self._ended_by()
        if lost:
            raise OwnershipError(f"the sandbox of {self.name} has ended: {lost}")

    def _ended_by(self) -> str:
        """Return what ended the transaction that everything takes place in; "" where it is open."""
        owner = self._owner
        connection = owner._lease.connection if owner is not None else None
        if owner is None or owner._turns.base is None or connection is None:
            return ""
        if connection.in_transaction:
            return ""
        return connection.ended_by or (
            "its transaction was ended by a statement, or its connection was lost"
        )

    def _check_statement(self, kind: QueryPlan | Classification, sql: str) -> None:
        """Refuse what cannot be taken back; a private copy bears everything."""
        if self._copy is None:
            refuse(kind, sql, self.database._driver.lexical(), self.name)
