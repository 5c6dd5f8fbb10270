"""A result of MySQL or MariaDB that is read piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastdb.drivers.base import DriverCursor
from fastdb.exceptions import ConnectionFailedError, Error

if TYPE_CHECKING:
    from fastdb._speedups import QueryPlan, Record
    from fastdb.drivers.mysql_connection import MySQLConnection

__all__ = ["MySQLCursor"]


class MySQLCursor(DriverCursor):
    """A result that stays on the server until it is fetched.

    Another statement on the connection first reads the rest of it into memory.
    """

    __slots__ = ("_connection", "_error", "_head", "_plan", "_read", "_result", "_rows")

    def __init__(self, connection: MySQLConnection, plan: QueryPlan, result: Any) -> None:
        self._connection = connection
        self._result: Any = result if result.unbuffered_active else None
        self._plan = plan
        self._head: Any = result  # which knows the columns after its end, too
        self._rows: list[Any] = []
        self._read = 0
        self._error: Error | None = None

    @property
    def active(self) -> bool:
        """Whether rows are still to come from the server."""
        return self._result is not None

    async def fetch(self, size: int) -> list[Record]:
        """Return up to `size` further records; an empty list at the end."""
        size = max(size, 1)
        rows = self._rows[self._read : self._read + size]
        self._read += len(rows)
        if self._read >= len(self._rows):
            self._rows, self._read = [], 0
        if len(rows) < size:
            if self._result is not None:
                rows += await self._connection.read_rows(self, self._result, size - len(rows))
            elif self._error is not None and not rows:
                error, self._error = self._error, None
                raise error
        return self._connection.records(self._plan, self._head, rows)

    async def buffer_rest(self) -> None:
        """Read what is left into memory, so that the connection can do something else."""
        try:
            while self._result is not None:
                self._rows += await self._connection.read_rows(self, self._result, 1000)
        except Error as error:
            # It belongs to this result, and is told to who fetches it.
            self._error = error
            if not self._connection.is_open:
                raise
        except BaseException:  # cancelled: the connection is cut
            self._error = _cut_off()
            raise

    async def close(self) -> None:
        """Give the result up; the connection is then ready for other statements."""
        self._rows, self._read, self._error = [], 0, None
        if self._result is not None:
            await self._connection.abandon(self, self._result)

    def detach(self) -> None:
        """Note that nothing more comes from the server."""
        self._result = None

    def cut_off(self) -> None:
        """Note that the connection is closed; what is here already is not the whole."""
        self._result = None
        self._error = _cut_off()


def _cut_off() -> Error:
    return ConnectionFailedError("the connection was closed before the end of the result")
