"""A sandbox: a test uses the database as it is, and nothing of it stays."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastdb.database import Database
from fastdb.exceptions import EventLoopError, OptionError, TransactionError
from fastdb.options import boolean
from fastdb.testing.ownership import (
    Choice,
    OwnershipError,
    Unboxed,
    ended,
    enter_box,
    innermost,
    leave_box,
    opening_place,
)
from fastdb.testing.sandbox_connection import SandboxConnection, refuse
from fastdb.testing.sandbox_shared import SharedConnection
from fastdb.testing.sandbox_sqlite import close_copy, open_copy

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from fastdb._speedups import QueryPlan
    from fastdb.connection import Connection
    from fastdb.drivers.base import TransactionOptions
    from fastdb.pool import Pool
    from fastdb.sql_text import Classification
    from fastdb.testing.host import Host

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

    A shared sandbox also serves the tasks, threads and event loops that were started elsewhere,
    such as that of Starlette's TestClient. Its connection lives on an event loop in a thread of
    its own, so that it goes on while the test blocks its own loop. Tests that are not async open
    it by ``with``; so may others.

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
            shared: Serve every task that is in no other sandbox, whatever thread or event loop it
                runs in.

        Raises:
            OptionError: `database` is none, or has `force_rollback`, which does without.
        """
        if not isinstance(database, Database):
            raise OptionError(f"a sandbox is one of a Database, not of {database!r}")
        self.database = database
        self.is_shared = boolean("shared", shared)
        self.name = opening_place(1)
        self.on_commit_calls: list[Callable[[], Any]] = []
        self.transaction_options: list[TransactionOptions] = []
        self._state = "new"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner: SandboxConnection | None = None
        self._copy: Database | None = None
        self._host: Host | None = None
        self._pool: Pool | None = None
        self._enters = True
        self._lost = ""

    def __repr__(self) -> str:
        """Show the test and the state."""
        shared = "shared " if self.is_shared else ""
        return f"<Sandbox of {self.name} {shared}{self._state}>"

    @property
    def is_open(self) -> bool:
        """Whether the database can be used in the sandbox."""
        return self._state == "open"

    @property
    def needs_pool(self) -> bool:
        """Whether the database must stay connected, since it was when the sandbox was opened."""
        return self.is_open and self._pool is not None and self._pool is self.database._pool

    def connection(self) -> Connection:
        """Return the connection that all tasks in the sandbox share.

        Raises:
            OwnershipError: The sandbox has ended.
        """
        # Another thread may use it at this moment: its state is looked at in turn.
        self._check_open()
        assert self._owner is not None
        return self._owner

    # -- opened and left by a task

    async def __aenter__(self) -> Sandbox:
        """Open the sandbox for this context, and for the tasks that are started in it.

        Raises:
            TransactionError: It was opened before, or one of this database is open here.
        """
        self._begin_to_open()
        database, choice = self.database, Choice.of(self.database)
        self._loop = asyncio.get_running_loop()
        pool = database._pool
        # A shared one does without the database's own pool, which may be another loop's.
        self._enters = (
            not self.is_shared or pool is None or pool.loop is self._loop or pool.loop.is_closed()
        )
        try:
            if self._enters:
                await choice.enter(database)
            try:
                await (self._open_shared(choice) if self.is_shared else self._open(database))
            except BaseException:
                if self._enters:
                    await choice.leave(database)
                raise
        except BaseException:
            self._state = "failed"
            raise
        self._begin_use()
        enter_box(self)
        return self

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
        self._begin_to_close()
        choice = Choice.of(self.database)
        try:
            if self._host is None:
                await self._close()
            else:
                await self._close_shared(choice, self._host)
        finally:
            if self._enters:
                await choice.leave(self.database)
        self._tell(exc_type)

    async def _open_shared(self, choice: Choice) -> None:
        host = self._host = choice.host(self.database)
        try:
            if self.database._driver.single_connection and self.database._pool is not None:
                # It is nowhere but on its own connection.
                self._copy = await open_copy(self.database, host)
                self._owner = SharedConnection(self, self._copy, host)
            else:
                await host.run(self._open_there(host), undo=self._close)
        except BaseException:
            await choice.leave_host(self.database)
            raise

    async def _close_shared(self, choice: Choice, host: Host) -> None:
        try:
            await host.run(self._close(), cancellable=False)
        finally:
            await choice.leave_host(self.database)

    # -- opened and closed by whoever runs no event loop

    def open(self, name: str | None = None) -> Sandbox:
        """Open a shared sandbox, and block until it is open; for fixtures that are not async.

        The database is not connected for it. The connection that serves it is kept for the next
        one, until ``fastdb.testing.shut_down(database)``.

        Args:
            name: What errors are to name it by; the running test's, if it is left out.

        Raises:
            OptionError: It is no shared one.
            TransactionError: It was opened before.
        """
        if name is not None:
            self.name = name
        self._open_and_block(keep=True)
        return self

    def close(self) -> None:
        """End a shared sandbox, take everything back, and block until that is done.

        Raises:
            OwnershipError: It was ended before, by the server or by SQL.
        """
        self._close_and_block(None)

    def __enter__(self) -> Sandbox:
        """Open a shared sandbox as :meth:`open` does, and keep no connection after it."""
        self._open_and_block(keep=False)
        enter_box(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it as :meth:`close` does."""
        self._close_and_block(exc_type)

    def _open_and_block(self, *, keep: bool) -> None:
        if not self.is_shared:
            raise OptionError(
                "a sandbox that is not shared belongs to an async test; use `async with`, or "
                "Sandbox(database, shared=True)"
            )
        database = self.database
        if database._driver.single_connection and database._pool is not None:
            raise OptionError(
                "a database in memory is copied by the event loop that it is connected on; "
                "open the sandbox by `async with` there"
            )
        self._begin_to_open()
        choice = Choice.of(database)
        host = self._host = choice.host(database, keep=keep)
        try:
            host.call(self._open_there(host))
        except BaseException:
            self._state = "failed"
            choice.leave_host_and_block(database)
            raise
        self._begin_use()

    def _close_and_block(self, exc_type: type[BaseException] | None) -> None:
        host = self._host
        if host is None and self.is_open:
            raise TransactionError(f"{self!r} was opened by `async with`, and is left with it")
        self._begin_to_close()
        assert host is not None
        choice = Choice.of(self.database)
        try:
            host.call(self._close())
        finally:
            choice.leave_host_and_block(self.database)
        self._tell(exc_type)

    # -- what all ways have in common

    def _begin_to_open(self) -> None:
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

    async def _open_there(self, host: Host) -> None:
        await host.connect()
        await self._open(host.database)

    async def _open(self, database: Database) -> None:
        """Open it on a connection of `database`'s, on the loop of that."""
        if database._driver.dialect == "sqlite":
            self._copy = database = await open_copy(database)
        if self._host is None:
            owner = SandboxConnection(self, database)
        else:
            owner = SharedConnection(self, database, self._host)
        if self._copy is None:
            await owner._start_base()
        self._owner = owner

    def _begin_use(self) -> None:
        """Let it be used from now on."""
        self._pool = self.database._pool
        self._state = "open"
        if self.is_shared:
            Choice.of(self.database).share(self)

    def _begin_to_close(self) -> None:
        """Let nobody use it from now on."""
        if not self.is_open:
            raise TransactionError(f"{self!r} cannot be left; it is not open")
        self._state = "ended"
        self._pool = None
        leave_box(self)
        if self.is_shared:
            Choice.of(self.database).end_sharing(self)

    def drop_if_abandoned(self) -> bool:
        """End a shared sandbox whose event loop was closed before it was left; return whether."""
        loop, host = self._loop, self._host
        if loop is None or host is None or not self.is_open or not loop.is_closed():
            return False
        self._begin_to_close()
        choice = Choice.of(self.database)
        try:
            host.call(self._close())
        finally:
            choice.leave_host_and_block(self.database)
        return True

    def _tell(self, exc_type: type[BaseException] | None) -> None:
        if self._lost and exc_type is None:
            raise OwnershipError(f"the sandbox of {self.name} was ended before: {self._lost}")

    async def _close(self) -> None:
        """Take everything back, on the loop where it is open."""
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
            task: A task of the same event loop; of any, if the sandbox is shared.

        Raises:
            OptionError: It is no task.
            EventLoopError: It is one of another event loop.
            OwnershipError: The sandbox has ended.
        """
        if not isinstance(task, asyncio.Task):
            raise OptionError(f"a sandbox is lent to a task, not to {task!r}")
        self._check_open()
        if not self.is_shared and task.get_loop() is not self._loop:
            raise EventLoopError("a sandbox is lent to tasks of its own event loop only")
        Choice.of(self.database).lend(self, task)

    def unboxed(self) -> Unboxed:
        """Return a ``with`` block that uses the real database; what it commits stays.

        So do tasks that are started in the block. On PostgreSQL and MySQL, rows that the sandbox
        has written are locked for the block, which would wait for them without end.
        """
        return Unboxed(self)

    # -- what holds

    def _check(self) -> None:
        """Refuse use of a sandbox that has ended.

        Raises:
            OwnershipError: It has.
        """
        self._check_open()
        lost = self._ended_by(self._owner)
        if lost:
            raise OwnershipError(f"the sandbox of {self.name} has ended: {lost}")

    def _check_open(self) -> None:
        if self._state not in ("opening", "open"):
            raise OwnershipError(ended(self.name))

    def _note_end(self, owner: SandboxConnection) -> None:
        """Keep in mind what has ended the transaction before the sandbox ends it."""
        self._lost = self._ended_by(owner)

    def _ended_by(self, owner: SandboxConnection | None) -> str:
        """Return what ended the transaction that everything takes place in; "" where it is open."""
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
        if self._owner is not None:
            self._owner.note_statement(kind)
        if self._copy is None:
            refuse(kind, sql, self.database._driver.lexical(), self.name)
