"""Who may use a shared connection when.

The transactions that are open on a connection form a path, the *stack*. Work of a task goes on in
the innermost one, unless that belongs to another task: then the work waits until it has ended, so
that nothing slips into a transaction by accident. Operations never overlap: they take turns, first
come, first served.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from fastdb.exceptions import TransactionError

if TYPE_CHECKING:
    from fastdb.transaction import Transaction

__all__ = ["Turns"]


class Turns:
    """The turns on one connection, and the transactions that are open on it.

    Attributes:
        stack: The open transactions, the outermost first.
        base: The transaction that stands for the whole database under ``force_rollback``: every
            task works inside it.
        busy: Whether an operation is running.
        queue: Those that wait for their turn.
    """

    __slots__ = ("_ended", "_timeout", "_waiting", "base", "busy", "queue", "stack")

    def __init__(
        self, timeout: float | None, waiting: dict[asyncio.Task[Any], Transaction]
    ) -> None:
        """Begin with a free connection.

        Args:
            timeout: Seconds that a wait may take; None waits for ever.
            waiting: For which transaction a task waits, on any connection of the database.
        """
        self.stack: list[Transaction] = []
        self.base: Transaction | None = None
        self.busy = False
        self._timeout = timeout
        self.queue: deque[asyncio.Future[None]] = deque()
        self._ended: list[asyncio.Future[None]] = []
        self._waiting = waiting

    @property
    def in_user_transaction(self) -> bool:
        """Whether a transaction other than the base is open."""
        return len(self.stack) > (self.base is not None)

    def take_at_once(self, transaction: Transaction | None) -> bool:
        """Take the turn for work in `transaction`, the innermost one, where nobody has it."""
        stack = self.stack
        if self.busy or transaction is not (stack[-1] if stack else None):
            return False
        self.busy = True
        return True

    async def take(self, transaction: Transaction | None, task: asyncio.Task[Any] | None) -> None:
        """Wait until the connection is free for work in `transaction` by `task`.

        Raises:
            TransactionError: Another task's transaction on this connection did not end within
                ``acquire_timeout``, or never can.
        """
        while True:
            await self.take_next()
            # Ending the base ends all that is open inside it, whoever began it.
            blocker = None if self.is_base(transaction) else self._blocker(transaction, task)
            if blocker is None:
                return
            self.pass_on()
            await self._wait_for_end(blocker, task)

    async def take_next(self) -> None:
        """Wait until no operation runs, whatever transactions are open.

        Raises:
            TransactionError: The connection stayed busy for ``acquire_timeout``.
        """
        if self.busy:
            await self._wait_for_turn()
        else:
            self.busy = True

    def is_base(self, transaction: Transaction | None) -> bool:
        """Return whether `transaction` is the base, which only ``disconnect()`` works in."""
        return transaction is not None and transaction is self.base

    def pass_on(self) -> None:
        """Let the next operation run."""
        while self.queue:
            turn = self.queue.popleft()
            if not turn.done():
                turn.set_result(None)  # the connection stays busy, for the next one
                return
        self.busy = False

    def _blocker(
        self, transaction: Transaction | None, task: asyncio.Task[Any] | None
    ) -> Transaction | None:
        """Return another task's open transaction below `transaction`, if there is one."""
        stack = self.stack
        if not stack or stack[-1] is transaction:
            return None
        if transaction is None or transaction not in stack:
            first = 0 if self.base is None else 1
        else:
            first = stack.index(transaction) + 1
        for inner in stack[first:]:
            owner = inner.task
            if owner is not None and owner is not task:
                return inner
        return None

    async def _wait_for_turn(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queue.append(turn)
        try:
            async with asyncio.timeout(self._timeout):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.pass_on()
            if isinstance(error, TimeoutError):
                raise TransactionError(
                    f"the connection was busy with another task's query for {self._timeout:g} s"
                ) from None
            raise

    async def _wait_for_end(self, blocker: Transaction, task: asyncio.Task[Any] | None) -> None:
        owner = last = blocker.task
        assert owner is not None  # otherwise it would block nobody
        while last is not None and (next_blocker := self._waiting.get(last)) is not None:
            last = next_blocker.task
            if last is not None and last is task:
                raise TransactionError(
                    f"this would wait for ever: {blocker!r} is open on the same connection, and "
                    f"its task waits for a transaction of {last.get_name()!r}, which is this one"
                )
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended.append(ended)
        if task is not None:
            self._waiting[task] = blocker
        try:
            async with asyncio.timeout(self._timeout):
                # A task that ends without ending its transaction is waited for no longer.
                await self._wait_for_either(ended, owner)
        except TimeoutError:
            raise TransactionError(
                f"waited {self._timeout:g} s for {blocker!r}, which is "
                "open on the same connection; end it, or give the other task a connection of "
                "its own"
            ) from None
        finally:
            if task is not None:
                self._waiting.pop(task, None)
            if ended in self._ended:
                self._ended.remove(ended)

    async def _wait_for_either(self, ended: asyncio.Future[None], owner: asyncio.Task[Any]) -> None:
        await asyncio.wait((ended, owner), return_when=asyncio.FIRST_COMPLETED)

    def note_end(self) -> None:
        """Let those go on who wait for a transaction to end."""
        ended, self._ended = self._ended, []
        for future in ended:
            future.set_result(None)
