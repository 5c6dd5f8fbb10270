"""Which sandbox a task works in: the context says it, or somebody has lent it one."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import weakref
from typing import TYPE_CHECKING, Protocol

from fastdb.exceptions import InterfaceError
from fastdb.transaction import current_task

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from fastdb.connection import Connection
    from fastdb.database import Database

__all__ = [
    "Choice",
    "OwnershipError",
    "Unboxed",
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

    def connection(self) -> Connection | None:
        """Return the connection to use; None is the task's own."""


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

    def __init__(self, database: Database) -> None:
        """Stand for a block about `database`."""
        self.database = database

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

    @classmethod
    def of(cls, database: Database) -> Choice:
        """Return the one that chooses for `database`; it is put there with the first sandbox."""
        choice = database._choice
        if not isinstance(choice, cls):
            choice = cls(database)
            database._choose_by(choice)
        return choice

    def _box(self) -> Box | None:
        database = self._database()
        if database is None:
            return None
        box = innermost(database)
        if self._lent and not isinstance(box, Unboxed):
            task = current_task()
            if task is not None:
                return self._lent.get(task, box)
        return box

    def connection(self) -> Connection | None:
        """Return the connection of the sandbox that the caller is in; None outside of any.

        Raises:
            OwnershipError: That sandbox has ended.
        """
        box = self._box()
        return None if box is None else box.connection()

    def stays_connected(self) -> bool:
        """Return whether the caller is in a sandbox, which its ``disconnect()`` must not end."""
        database = self._database()
        inside = [box for box in boxes.get() if box.database is database]
        lent = self._box()
        return any(box.is_open for box in inside) or (lent is not None and lent.is_open)

    def lend(self, box: Box, task: asyncio.Task[Any]) -> None:
        """Let `task` work in `box`."""
        self._lent[task] = box

    async def enter(self, database: Database) -> None:
        """Connect the database for a sandbox, if it is not connected."""
        async with self._change():
            before = database._pool
            await database.connect()
            if database._pool is not before:
                self._connected_here = True
            self._open += 1

    async def leave(self, database: Database) -> None:
        """Disconnect after the last sandbox, if the first has connected."""
        self._open -= 1
        async with self._change():
            if self._connected_here and not self._open:
                self._connected_here = False
                await database.disconnect()

    def _change(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if self._changing is None or self._loop is not loop:
            if self._loop is not None and self._loop.is_closed():
                # What sandboxes it had are gone with it.
                self._open, self._connected_here = 0, False
            self._changing, self._loop = asyncio.Lock(), loop
        return self._changing


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
