"""Results of PostgreSQL that are read piece by piece."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import asyncpg

from fastdb.drivers.base import DriverCursor

if TYPE_CHECKING:
    from fastdb._speedups import QueryPlan, Record
    from fastdb.drivers.base import Args
    from fastdb.drivers.postgresql_connection import PostgreSQLConnection

__all__ = ["BufferedCursor", "HeldCursor", "PortalCursor", "records_of"]

_names = itertools.count(1)


def records_of(plan: QueryPlan, rows: list[Any]) -> list[Record]:
    """Make the records of asyncpg's rows."""
    if not rows:
        return []
    records: list[Record] = plan.layout(tuple(rows[0].keys())).records(rows)
    return records


class BufferedCursor(DriverCursor):
    """A result that was read whole, because the server cannot hold it open."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records
        self._position = 0

    async def fetch(self, size: int) -> list[Record]:
        """Return up to `size` further records."""
        start = self._position
        self._position += size
        return self._records[start : self._position]

    async def close(self) -> None:
        """Forget the rest."""
        self._records = []


class PortalCursor(DriverCursor):
    """A portal of the extended protocol, which lives as long as its transaction.

    Where the transaction is its own, it is committed with the last row or at :meth:`close`.
    """

    def __init__(
        self, connection: PostgreSQLConnection, plan: QueryPlan, portal: Any, own_transaction: bool
    ) -> None:
        self._connection = connection
        self._plan = plan
        self._portal = portal
        self._own_transaction = own_transaction

    @classmethod
    async def open(
        cls, connection: PostgreSQLConnection, plan: QueryPlan, args: Args, *, own_transaction: bool
    ) -> PortalCursor:
        """Bind a portal, in the transaction that is open."""
        cursor = cls(connection, plan, None, own_transaction)
        try:
            # Not from the cache of statements: one that no longer fits the schema would fail
            # here and take the transaction with it.
            statement = await connection.raw.prepare(plan.sql)
            cursor._portal = await statement.cursor(*args)
        except BaseException as error:
            await cursor._fail(error)
        return cursor

    async def fetch(self, size: int) -> list[Record]:
        """Return up to `size` further records."""
        if self._portal is None:
            return []
        try:
            rows = await self._portal.fetch(size)
        except BaseException as error:
            await self._fail(error)
        try:
            records = records_of(self._plan, rows)
        except BaseException:  # the user's converter
            await self._roll_back()
            raise
        if len(rows) < size:
            await self.close()
        return records

    async def close(self) -> None:
        """Close the portal: an open one keeps its tables from being altered."""
        portal, self._portal = self._portal, None
        if portal is None:
            return
        connection = self._connection
        if connection.in_transaction:
            try:
                await portal._close_portal(None)
            except BaseException as error:
                await self._fail(error)
        if self._own_transaction:
            self._own_transaction = False
            await connection.commit()

    async def _fail(self, error: BaseException) -> None:
        try:
            await self._connection.fail(error, self._plan.sql)
        finally:
            await self._roll_back()

    async def _roll_back(self) -> None:
        self._portal = None
        if self._own_transaction:
            self._own_transaction = False
            await self._connection.rollback()


class HeldCursor(DriverCursor):
    """A cursor ``WITH HOLD``: the server keeps the result, outside any transaction."""

    def __init__(self, connection: PostgreSQLConnection, plan: QueryPlan, name: str) -> None:
        self._connection = connection
        self._plan = plan
        self._name = name
        self._open = True
        self._statement: Any = None
        self._size = 0

    @classmethod
    async def open(
        cls, connection: PostgreSQLConnection, plan: QueryPlan, args: Args
    ) -> DriverCursor:
        """Declare a cursor; read the result whole where the server will not hold it."""
        if plan.verb not in ("SELECT", "VALUES", "TABLE"):
            return BufferedCursor(await connection.fetch_all(plan, args))
        name = f"fastdb_cursor_{next(_names)}"
        sql = f"DECLARE {name} NO SCROLL CURSOR WITH HOLD FOR {plan.sql}"
        raw = connection.raw
        try:
            # prepare() keeps texts that never come again out of the cache of statements.
            await (await raw.prepare(sql)).fetch(*args)
        except asyncpg.FeatureNotSupportedError:
            # FOR UPDATE, or a WITH that changes data. Nothing was done, nothing is open.
            return BufferedCursor(await connection.fetch_all(plan, args))
        except BaseException as error:
            cursor = cls(connection, plan, name)
            await cursor._fail(error)
        return cls(connection, plan, name)

    async def fetch(self, size: int) -> list[Record]:
        """Return up to `size` further records."""
        if not self._open:
            return []
        try:
            if self._statement is None or size != self._size:
                self._statement = await self._connection.raw.prepare(
                    f"FETCH FORWARD {size:d} FROM {self._name}"
                )
                self._size = size
            rows = await self._statement.fetch()
        except BaseException as error:
            await self._fail(error)
        if len(rows) < size:
            await self.close()
        return records_of(self._plan, rows)

    async def close(self) -> None:
        """Close the cursor; in a failed transaction, leave that to the session's reset."""
        if not self._open:
            return
        self._open = False
        self._statement = None
        connection = self._connection
        if connection.raw.is_closed():
            return
        try:
            await connection.raw.execute(f"CLOSE {self._name}")
        except asyncpg.PostgresError:
            connection.dirty = True
        except BaseException as error:
            await self._fail(error)

    async def _fail(self, error: BaseException) -> None:
        # It may be open or not: a reset closes every cursor.
        self._connection.dirty = True
        await self._connection.fail(error, self._plan.sql)
