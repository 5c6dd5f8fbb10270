"""The connection of a shared sandbox: on a loop of its own, it serves tasks of every loop.

What a caller asks for is prepared in its task, so that the connection knows the task and the
transaction that it is in, and is then carried out on the host's loop.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from fastdb.queries import check_batch_size
from fastdb.testing.ownership import Choice
from fastdb.testing.remote import Remote
from fastdb.testing.sandbox_connection import SandboxConnection
from fastdb.turns import Turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from types import TracebackType

    from fastdb._speedups import Record
    from fastdb.database import Database
    from fastdb.queries import Finish, Query, Values
    from fastdb.testing.host import Host
    from fastdb.testing.sandbox import Sandbox
    from fastdb.transaction import Transaction

__all__ = ["SharedConnection", "shut_down"]

T = TypeVar("T")


class SharedConnection(SandboxConnection):
    """The Connection of a sandbox that tasks of every thread and event loop share."""

    __slots__ = ("_host",)

    def __init__(self, sandbox: Sandbox, database: Database, host: Host) -> None:
        """Make the connection of `sandbox` from the pool of `database`, on the loop of `host`."""
        super().__init__(sandbox, database)
        self._host = host
        self._turns = SharedTurns(host, database)

    def _run_there(
        self,
        run: Coroutine[Any, Any, T],
        undo: Callable[[], Coroutine[Any, Any, Any]] | None = None,
    ) -> Coroutine[Any, Any, T]:
        return self._host.run(run, undo=undo)

    # -- holding

    async def __aenter__(self) -> SandboxConnection:
        """Hold the connection until the outermost block is left."""
        hold = super().__aenter__
        release = super().__aexit__
        await self._run_there(hold(), lambda: release(None, None, None))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the hold up."""
        release = super().__aexit__(None, None, None)
        await self._host.run(release, cancellable=False)

    @property
    def raw_connection(self) -> Any:
        """What stands for the driver's own connection object, which lives on another loop."""
        raw = super().raw_connection
        return raw if self._host.is_here() else Remote(self._host, raw)

    # -- transactions

    def _carry_out_start(
        self, transaction: Transaction, run: Coroutine[Any, Any, Transaction]
    ) -> Coroutine[Any, Any, Transaction]:
        return self._start_there(transaction, run)

    async def _start_there(
        self, transaction: Transaction, run: Coroutine[Any, Any, Transaction]
    ) -> Transaction:
        def undo() -> Coroutine[Any, Any, Any]:
            return transaction._finish(self, False, transaction.task, True)

        try:
            return await self._run_there(run, undo)
        except BaseException:
            transaction._leave_context()  # that of the caller, of which `run` had a copy
            raise

    def _carry_out_end(
        self, transaction: Transaction, run: Coroutine[Any, Any, T]
    ) -> Coroutine[Any, Any, T]:
        return self._end_there(transaction, run)

    async def _end_there(self, transaction: Transaction, run: Coroutine[Any, Any, T]) -> T:
        try:
            return await self._run_there(run)
        finally:
            if not transaction.is_open:
                transaction._leave_context()

    # -- queries

    def _perform(
        self,
        operation: str,
        query: Query,
        values: Any,
        timeout: float | None,
        finish: Finish | None = None,
    ) -> Coroutine[Any, Any, Any]:
        if operation == "execute_many":
            values = list(values)  # the caller's code, which is to run in the caller's thread
        return self._run_there(super()._perform(operation, query, values, timeout, finish))

    def _run_sync(
        self, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> Coroutine[Any, Any, Any]:
        return self._run_there(super()._run_sync(function, args))

    def iterate(
        self,
        query: Query,
        values: Values | None = None,
        *,
        batch_size: int | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Record, None]:
        """Yield the records one by one, as :meth:`fastdb.Connection.iterate` does."""
        records = super().iterate(query, values, batch_size=batch_size, timeout=timeout)
        return self._iterate_there(records, check_batch_size(batch_size))

    async def _iterate_there(
        self, records: AsyncGenerator[Record, None], size: int
    ) -> AsyncGenerator[Record, None]:
        async def next_batch() -> list[Record]:
            batch: list[Record] = []
            async for record in records:
                batch.append(record)
                if len(batch) == size:
                    break
            return batch

        async with aclosing(RemoteGenerator(self._host, records)):
            while batch := await self._run_there(next_batch()):
                for record in batch:
                    yield record
                if len(batch) < size:
                    break


class RemoteGenerator:
    """An async generator of the host's loop, to be closed by tasks of others."""

    def __init__(self, host: Host, generator: AsyncGenerator[Any, None]) -> None:
        """Stand for `generator`."""
        self._host = host
        self._generator = generator

    async def aclose(self) -> None:
        """Close it, whatever happens to the caller."""
        await self._host.run(_close(self._generator), cancellable=False)


async def _close(generator: AsyncGenerator[Any, None]) -> None:
    await generator.aclose()


class SharedTurns(Turns):
    """The turns on a connection whose callers are tasks of several loops."""

    __slots__ = ("_host",)

    def __init__(self, host: Host, database: Database) -> None:
        """Begin with a free connection of `database`, on the loop of `host`."""
        super().__init__(database.settings.acquire_timeout, database._waiting)
        self._host = host

    async def _wait_for_either(self, ended: asyncio.Future[None], owner: asyncio.Task[Any]) -> None:
        gone: asyncio.Future[None] = self._host.loop.create_future()

        def note() -> None:
            if not gone.done():
                gone.set_result(None)

        def tell(task: object) -> None:
            if self._host.is_running:
                self._host.loop.call_soon_threadsafe(note)

        try:
            owner.get_loop().call_soon_threadsafe(owner.add_done_callback, tell)
        except RuntimeError:  # its loop is closed
            return
        await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)


def shut_down(database: Database) -> None:
    """End the thread and the connections that shared sandboxes of `database` have left.

    They are kept from one ``open()`` to the next. Blocks until they are closed; does nothing where
    there are none.

    Raises:
        TransactionError: A shared sandbox is open.
    """
    Choice.of(database).shut_down()
