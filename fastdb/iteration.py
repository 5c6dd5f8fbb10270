"""Iterations on a Connection: a result that is read in pieces, in turns with other work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastdb.exceptions import NotConnectedError
from fastdb.queries import limited, note_session

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fastdb._speedups import Record
    from fastdb.connection import Connection
    from fastdb.drivers.base import DriverConnection, DriverCursor
    from fastdb.queries import Query, Values
    from fastdb.transaction import Transaction

__all__ = ["iterate"]


async def iterate(
    on: Connection,
    query: Query,
    values: Values | None,
    size: int,
    seconds: float | None,
    transaction: Transaction | None,
    task: asyncio.Task[Any] | None,
) -> AsyncGenerator[Record, None]:
    """Yield the records of a query one by one, other work taking its turns in between.

    Args:
        on: The connection that the iteration holds until it is left.
        query: SQL with ``:name`` parameters, or a SQLAlchemy expression.
        values: One value for each parameter.
        size: Records that are fetched at once.
        seconds: What one fetch may take.
        transaction: The transaction that it was called for in, if any.
        task: The task that called for it.
    """
    connection: DriverConnection
    cursor: DriverCursor

    async def open_cursor() -> tuple[DriverConnection, DriverCursor]:
        await on._take_turn(transaction, task)
        try:
            usable = await on._usable()
            on._refuse_control(query)
            note_session(usable, plan)
            hold = not usable.in_transaction
            return usable, await on._guarded(
                usable, lambda: usable.open_cursor(plan, args, hold=hold)
            )
        finally:
            on._turns.pass_on()

    async def fetch() -> Any:
        await on._take_turn(transaction, task)
        try:
            if on._lease.connection is not connection:
                raise NotConnectedError("the connection of the iteration was lost")
            return await on._guarded(connection, lambda: cursor.fetch(size))
        finally:
            on._turns.pass_on()

    async def close() -> None:
        await on._turns.take(transaction, task)
        try:
            if on._lease.connection is connection:
                await on._guarded(connection, cursor.close)
        finally:
            on._turns.pass_on()

    await on._lease.hold()
    try:
        on._services._log_query(query, values)
        plan, args, _ = on._services.query_cache.prepare(query, values)
        connection, cursor = await limited(open_cursor(), seconds)
        try:
            while records := await limited(fetch(), seconds):
                for record in records:
                    yield record
                on._lease.check_loop()
        except BaseException as cause:
            on._lease.check_loop()  # elsewhere there is nothing to be done
            # Left early, cancelled or failed: whatever is wrong shows when it is returned.
            try:
                async with asyncio.timeout(connection.patience(cause)):
                    await close()
            except BaseException as error:
                connection.suspect = True
                if not connection.in_transaction:
                    connection.terminate()
                if not isinstance(error, Exception):
                    raise
            raise
        await close()
    finally:
        if on._lease.is_elsewhere():
            on._lease.unhold_from_elsewhere()
        else:
            await on._lease.unhold()
