"""Which sandbox a task works in: the context says it, or somebody has lent it one."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Protocol

from fastdb.exceptions import InterfaceError, TransactionError
from fastdb.transaction import current_task

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from fastdb.connection import Connection
    from fastdb.database import Database
    from fastdb.pool import Pool
    from fastdb.testing.host import Host

__all__ = [
    "Choice",
    "OwnershipError",
    "Unboxed",
    "ended",
    "enter_box",
    "innermost",
    "leave_box",
    "opening_place",
]


class OwnershipError(InterfaceError, RuntimeError):
    """Report use of the database by a task whose sandbox has ended; the message names it."""


class Box(Protocol):
    """What decides, in the contexts that are inside it, on the connection of a task."""

    @property
    def database(self) -> Database:
        """The database it is about; it leaves others alone."""

    @property
    def is_open(self) -> bool:
        """Whether it is a sandbox that has not ended."""

    @property
    def needs_pool(self) -> bool:
        """Whether the database must stay connected, since it was when the sandbox was opened."""

    def connection(self) -> Connection | None:
        """Return the connection to use; None is the task's own."""


class SharedBox(Box, Protocol):
    """A shared sandbox, in which tasks work that nothing else says anything about."""

    @property
    def name(self) -> str:
        """What errors name it by."""

    def drop_if_abandoned(self) -> bool:
        """End it where its event loop was closed before it was left; return whether."""


# The boxes that this context is in, the outermost first. Child tasks get a copy of it.
boxes: contextvars.ContextVar[tuple[Box, ...]] = contextvars.ContextVar(
    "fastdb_sandboxes", default=()
)


def enter_box(box: Box) -> None:
    """Let this context be in `box`."""
    boxes.set((*boxes.get(), box))


def leave_box(box: Box) -> None:
    """Let this context be in `box` no longer."""
    boxes.set(tuple(other for other in boxes.get() if other is not box))


def innermost(database: Database) -> Box | None:
    """Return the innermost box about `database` that this context is in."""
    for box in reversed(boxes.get()):
        if box.database is database:
            return box
    return None


class Unboxed:
    """A block in which the tasks of a sandbox use the real database."""

    is_open = False

    def __init__(self, sandbox: Box) -> None:
        """Stand for a block in `sandbox`."""
        self.database = sandbox.database
        self._sandbox = sandbox

    @property
    def needs_pool(self) -> bool:
        """Whether the database must stay connected: the block is over before the sandbox is."""
        return self._sandbox.needs_pool

    def connection(self) -> None:
        """Return None: the task has a connection of its own."""

    def __enter__(self) -> None:
        """Use the real database from now on."""
        enter_box(self)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Use the sandbox again."""
        leave_box(self)


class Choice:
    """What a Database asks for the connection of a task, from its first sandbox on.

    It also connects the database for its sandboxes, where nobody else has, and disconnects it
    after the last of them.
    """

    def __init__(self, database: Database) -> None:
        """Choose for `database`, in which no sandbox is open yet."""
        # The Database refers to this one.
        self._database = weakref.ref(database)
        self._lent: weakref.WeakKeyDictionary[asyncio.Task[Any], Box] = weakref.WeakKeyDictionary()
        self._open = 0
        self._connected_here = False
        self._changing: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # Of the shared sandboxes, which any thread may open.
        self._shared: tuple[SharedBox, ...] = ()
        self._last_shared = ""
        self._hosting = threading.Lock()
        self._host: Host | None = None
        self._guests = 0
        self._keeps_host = False

    @classmethod
    def of(cls, database: Database) -> Choice:
        """Return the one that chooses for `database`; it is put there with the first sandbox."""
        choice = database._choice
        if not isinstance(choice, cls):
            choice = cls(database)
            database._choose_by(choice)
        return choice

    # -- what the Database asks

    def connection(self) -> Connection | None:
        """Return the connection of the sandbox that the caller is in; None outside of any.

        Raises:
            OwnershipError: That sandbox has ended, or it is not clear which it is.
        """
        box = self._box()
        if box is not None:
            return box.connection()
        database = self._database()
        if self._last_shared and database is not None and database._pool is None:
            raise OwnershipError(ended(self._last_shared))
        return None

    def is_sandboxed(self) -> bool:
        """Return whether the caller uses the connection of an open sandbox."""
        try:
            box = self._box()
        except OwnershipError:
            return True
        return box is not None and box.is_open

    def stays_connected(self) -> bool:
        """Return whether ``disconnect()`` by the caller is to do nothing.

        So it is where that would end the sandbox that the caller is in.
        """
        database = self._database()
        inside = [box for box in boxes.get() if box.database is database]
        return self.is_sandboxed() or any(box.needs_pool for box in inside)

    def pool(self) -> Pool | None:
        """Return the pool that serves the shared sandboxes, where the caller is in one."""
        host = self._host
        return host.database._pool if host is not None and self.is_sandboxed() else None

    async def disconnected(self) -> None:
        """End what lives as long as the database is connected."""
        if not self._keeps_host:
            await self._end_host()

    # -- which sandbox it is

    def _box(self) -> Box | None:
        database = self._database()
        if database is None:
            return None
        box = innermost(database)
        if isinstance(box, Unboxed):
            return box
        if self._lent:
            task = current_task()
            if task is not None and task in self._lent:
                return self._lent[task]
        if box is not None or not self._shared:
            return box
        shared = [box for box in self._shared if not box.drop_if_abandoned()]
        if len(shared) > 1:
            names = ", ".join(box.name for box in shared)
            raise OwnershipError(
                f"several shared sandboxes are open ({names}), and this task was started in none "
                "of them; lend it one by `sandbox.allow(task)`"
            )
        return shared[0] if shared else None

    def lend(self, box: Box, task: asyncio.Task[Any]) -> None:
        """Let `task` work in `box`."""
        self._lent[task] = box

    def share(self, box: SharedBox) -> None:
        """Let tasks that are in no sandbox work in `box`."""
        with self._hosting:
            self._shared = (*self._shared, box)

    def end_sharing(self, box: SharedBox) -> None:
        """Let them work in `box` no longer."""
        with self._hosting:
            self._shared = tuple(other for other in self._shared if other is not box)
            self._last_shared = box.name

    # -- connecting

    async def enter(self, database: Database) -> None:
        """Connect the database for a sandbox, if it is not connected."""
        async with self._change():
            before = database._pool
            await database._connect()
            if database._pool is not before:
                self._connected_here = True
            self._open += 1

    async def leave(self, database: Database) -> None:
        """Disconnect after the last sandbox, if the first has connected."""
        self._open -= 1
        async with self._change():
            if self._connected_here and not self._open:
                self._connected_here = False
                await database._disconnect(10.0, current_task())

    def _change(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if self._changing is None or self._loop is not loop:
            if self._loop is not None and self._loop.is_closed():
                # What sandboxes it had are gone with it.
                self._open, self._connected_here = 0, False
            self._changing, self._loop = asyncio.Lock(), loop
        return self._changing

    # -- where shared sandboxes live

    def host(self, database: Database, *, keep: bool = False) -> Host:
        """Return the host of the shared sandboxes of `database`; it is started if need be.

        Whoever gets it leaves it by :meth:`leave_host`.

        Args:
            database: The one that this chooses for.
            keep: Whether it outlives them, until :meth:`shut_down`.
        """
        from fastdb.testing.host import Host

        with self._hosting:
            if self._host is None or not self._host.is_running:
                self._host = Host(database)
            self._keeps_host = self._keeps_host or keep
            self._guests += 1
            return self._host

    async def leave_host(self, database: Database) -> None:
        """Use the host no longer; end it, if nobody is to use it any more."""
        with self._hosting:
            self._guests -= 1
        if not self._keeps_host and database._pool is None:
            await self._end_host()

    def leave_host_and_block(self, database: Database) -> None:
        """Do :meth:`leave_host` where no event loop runs, or where it may be blocked."""
        with self._hosting:
            self._guests -= 1
        if not self._keeps_host and database._pool is None:
            host = self._take_host()
            if host is not None:
                host.end_from_thread()

    def shut_down(self) -> None:
        """End the host, and block until it has ended.

        Raises:
            TransactionError: A shared sandbox is open.
        """
        if self._guests:
            raise TransactionError(
                f"cannot shut down; {self._guests} shared sandboxes are open; close them first"
            )
        self._keeps_host = False
        host = self._take_host()
        if host is not None:
            host.end_from_thread()

    async def _end_host(self) -> None:
        host = self._take_host()
        if host is not None:
            await host.end()

    def _take_host(self) -> Host | None:
        """Return the host for whoever is to end it; None where it is in use."""
        with self._hosting:
            host = None if self._guests else self._host
            if host is not None:
                self._host = None
            return host


def ended(name: str) -> str:
    """Return the message about a sandbox that has ended."""
    return (
        f"the sandbox of {name} has ended; a task that was started in it must not "
        "outlive it: await it, or cancel it, before the end"
    )


def opening_place(depth: int) -> str:
    """Return the name of the running test as pytest has it, else file and line of the caller.

    Args:
        depth: How many callers of this function are no concern of the user's.
    """
    test = os.environ.get("PYTEST_CURRENT_TEST")
    if test:
        return test.rpartition(" (")[0] or test
    frame = sys._getframe(depth + 1)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
