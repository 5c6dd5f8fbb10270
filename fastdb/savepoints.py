"""Savepoints that a cancellation leaves either open or undone, never in doubt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastdb.drivers.base import to_its_end

if TYPE_CHECKING:
    from types import TracebackType

    from fastdb.drivers.base import DriverConnection

__all__ = ["StatementGuard", "open_savepoint"]


async def open_savepoint(connection: DriverConnection) -> None:
    """Open a savepoint; where that is cancelled, none is left."""
    if not connection.remote:
        await connection.savepoint()  # which may wait for a lock, and is stopped as a query is
        return
    cancellation = await to_its_end(connection.savepoint(), connection)
    if cancellation is not None:
        await to_its_end(connection.rollback_to_savepoint(), connection)
        raise cancellation


class StatementGuard:
    """A savepoint around one statement."""

    __slots__ = ("_connection",)

    def __init__(self, connection: DriverConnection) -> None:
        """Guard a statement on `connection`."""
        self._connection = connection

    async def __aenter__(self) -> None:
        """Open the savepoint."""
        await open_savepoint(self._connection)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the savepoint, or go back to it after an error."""
        connection = self._connection
        if not connection.in_transaction:
            return
        if exc_type is None:
            run = connection.release_savepoint()
        else:
            run = connection.rollback_to_savepoint()
        try:
            cancellation = await to_its_end(run, connection)
        except BaseException as error:
            if exc_type is None:
                raise
            connection.terminate()
            if not isinstance(error, Exception):
                raise
        else:
            if cancellation is not None:
                raise cancellation
