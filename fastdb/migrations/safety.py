"""Run a migration so that it happens once, and as a whole where the server can do that."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from fastdb.connection import Connection
from fastdb.exceptions import Error, OperationalError
from fastdb.migrations.errors import MigrationError
from fastdb.migrations.locks import alone_in_process, begin_immediate, locked

if TYPE_CHECKING:
    import sqlalchemy

__all__ = ["is_joining", "run_safely"]

T = TypeVar("T")


def is_joining(connection: Connection) -> bool:
    """Return whether a transaction is open on a held connection, the user's or a forced one."""
    return bool(connection._turns.stack)


async def run_safely(
    connection: Connection,
    dialect: str,
    work: Callable[[sqlalchemy.Connection], T],
    *,
    reads: bool,
    alone: bool = False,
) -> T:
    """Call ``work(sqlalchemy_connection)`` under the lock of migrations, in a transaction.

    On SQLite the transaction is around all of it, with foreign keys off: a migration there copies
    tables and drops the old ones, which otherwise would delete what refers to them.

    Args:
        connection: Held by the caller. An open transaction is joined.
        dialect: ``postgresql``, ``mysql`` or ``sqlite``.
        work: Migrates, or reads.
        reads: Whether it only reads: then nothing is locked.
        alone: Whether `work` runs Alembic, of which a process can run one at a time.

    Raises:
        MigrationError: A transaction is open on MySQL; a migration on SQLite broke foreign keys.
    """
    joins = is_joining(connection)

    async def run() -> T:
        if not alone:
            return await connection.run_sync(work)
        async with alone_in_process(joins=joins):
            return await connection.run_sync(work)

    if reads:
        if joins or dialect != "sqlite":
            return await run()
        async with connection.transaction(readonly=True):
            return await run()
    if dialect == "sqlite":
        if joins:
            return await run()
        async with _foreign_keys_off(connection), begin_immediate(connection):
            before = await _violations(connection)
            result = await run()
            await _check_foreign_keys(connection, before)
            return result
    if dialect == "mysql" and joins:
        raise MigrationError(
            "a transaction is open, and MySQL would commit it at the first CREATE or ALTER; "
            "migrate outside of transactions and without force_rollback"
        )
    async with locked(connection, dialect, joins=joins):
        return await run()


@asynccontextmanager
async def _foreign_keys_off(connection: Connection) -> AsyncIterator[None]:
    """Turn enforcement off for what follows; inside a transaction the pragma does nothing."""
    enforced = await connection.fetch_val("PRAGMA foreign_keys")
    if not enforced:
        yield
        return
    await connection.execute("PRAGMA foreign_keys = OFF")
    try:
        yield
    except BaseException:
        with suppress(Error):
            await connection.execute("PRAGMA foreign_keys = ON")
        raise
    await connection.execute("PRAGMA foreign_keys = ON")


async def _violations(connection: Connection) -> Counter[tuple[str, str]] | None:
    """Return how many rows of a table refer to nothing in another; None where nobody can tell."""
    try:
        found = await connection.fetch_all("PRAGMA foreign_key_check")
    except OperationalError:  # a foreign key refers to columns that are not unique
        return None
    return Counter((record[0], record[2]) for record in found)


async def _check_foreign_keys(
    connection: Connection, before: Counter[tuple[str, str]] | None
) -> None:
    """Refuse what broke foreign keys; what was broken before is not the migration's fault."""
    after = await _violations(connection)
    if before is None or after is None:
        return
    if broken := after - before:
        places = ", ".join(
            f"{count} of {table!r} to {parent!r}" for (table, parent), count in broken.items()
        )
        raise MigrationError(
            f"the migration is rolled back: it leaves rows that refer to nothing: {places}; "
            "let it delete or change them"
        )
