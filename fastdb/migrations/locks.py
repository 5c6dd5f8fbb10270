"""One migration at a time: on a database, and in a process.

Whoever starts a migration waits until the others have ended, and then finds nothing left to do.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Final

from fastdb.connection import Connection
from fastdb.exceptions import Error, OperationalError
from fastdb.migrations.errors import MigrationError

__all__ = ["alone_in_process", "begin_immediate", "locked"]

logger = logging.getLogger("fastdb.migrations")

#: Seconds to wait for the migrations of others.
WAIT_SECONDS: Final = 600.0
#: The same inside a transaction, for whose end those others may be waiting in turn.
JOINED_SECONDS: Final = 30.0
#: Seconds between two looks.
PAUSE: Final = 0.05
#: Of PostgreSQL's advisory locks, which are each database's own; "fsdbmigr".
KEY: Final = 0x66736462_6D696772

# `alembic.context` and `alembic.op` stand for one run in the whole process.
_alembic = threading.Lock()


async def _until(attempt: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Repeat `attempt` until it succeeds.

    A server-side wait would be a statement, and hold a snapshot that a CREATE INDEX CONCURRENTLY
    of the migration that is waited for waits for.
    """
    start = monotonic()
    told = False
    while not await attempt():
        if not told:
            told = True
            logger.info("waiting for another migration to end")
        if monotonic() - start > seconds:
            raise MigrationError(
                f"another migration of this database has not ended within {seconds:g} s; "
                "see what holds its lock, and try again"
            )
        await asyncio.sleep(PAUSE)


@asynccontextmanager
async def alone_in_process(*, joins: bool) -> AsyncIterator[None]:
    """Keep Alembic, whose state is global, to ourselves.

    Args:
        joins: Whether a transaction is open, for whose locks another migration may be waiting.
    """

    async def attempt() -> bool:
        return _alembic.acquire(blocking=False)

    await _until(attempt, JOINED_SECONDS if joins else WAIT_SECONDS)
    try:
        yield
    finally:
        _alembic.release()


@asynccontextmanager
async def locked(connection: Connection, dialect: str, *, joins: bool) -> AsyncIterator[None]:
    """Hold the lock of migrations on a PostgreSQL or MySQL database.

    Args:
        connection: Held by the caller for as long.
        dialect: ``postgresql`` or ``mysql``.
        joins: Whether a transaction is open, until whose end the lock is then held.
    """
    if dialect == "postgresql":
        name = "pg_try_advisory_xact_lock" if joins else "pg_try_advisory_lock"
        take, release = f"SELECT {name}({KEY})", f"SELECT pg_advisory_unlock({KEY})"
    else:
        # GET_LOCK's names are the whole server's, and 64 characters long at most.
        lock = "CONCAT('fastdb.migrations ', SHA1(DATABASE()))"
        take, release = f"SELECT GET_LOCK({lock}, 0)", f"SELECT RELEASE_LOCK({lock})"

    async def attempt() -> bool:
        return bool(await connection.fetch_val(take))

    await _until(attempt, JOINED_SECONDS if joins else WAIT_SECONDS)
    try:
        yield
    except BaseException:
        if not (joins and dialect == "postgresql"):
            # A connection that is lost has lost its lock, too.
            with suppress(Error):
                await connection.fetch_val(release)
        raise
    if not (joins and dialect == "postgresql"):
        await connection.fetch_val(release)


@asynccontextmanager
async def begin_immediate(connection: Connection) -> AsyncIterator[None]:
    """Hold SQLite's write lock in a transaction, for which migrations of others are waited."""
    transaction = connection.transaction(begin="immediate")

    async def attempt() -> bool:
        nonlocal transaction
        try:
            await transaction.start()
        except OperationalError as error:
            # SQLITE_BUSY: the wait that `busy_timeout` allows is over.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != 5:
                raise
            transaction = connection.transaction(begin="immediate")
            return False
        return True

    await _until(attempt, WAIT_SECONDS)
    try:
        yield
    except BaseException:
        with suppress(Error):
            await transaction.rollback()
        raise
    await transaction.commit()
