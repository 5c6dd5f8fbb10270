"""A private copy of a SQLite database: two writers on one file would wait for each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fastdb.database import Database
from fastdb.drivers.sqlite import SQLiteConnection

if TYPE_CHECKING:
    from fastdb.connection import Connection

__all__ = ["close_copy", "open_copy"]

#: Options of a file that the copy, which is in memory, has not.
_OF_FILES = frozenset(
    {"cache", "immutable", "journal_mode", "mode", "modeof", "nolock", "psow", "uri", "vfs", "wal"}
)


async def open_copy(database: Database) -> Database:
    """Return a connected Database in memory with all that `database` holds at this moment."""
    query = {key: value for key, value in database.url.options.items() if key not in _OF_FILES}
    options = {key: value for key, value in database.options.items() if key not in _OF_FILES}
    # The copy is written to by the thread of the original.
    query.pop("check_same_thread", None)
    options.pop("check_same_thread", None)
    copy = Database(database.url.replace(database="", options=query), **options)
    await copy.connect()
    try:
        copy.query_cache = database.query_cache
        await _fill(copy, database)
    except BaseException:
        await copy.disconnect()
        raise
    return copy


async def _fill(copy: Database, database: Database) -> None:
    source_pool, target_pool = database._ready_pool(), copy._ready_pool()
    target = await target_pool.acquire()
    try:
        source = await source_pool.acquire()
        try:
            await cast("SQLiteConnection", source).copy_to(cast("SQLiteConnection", target))
        finally:
            await source_pool.release(source)
    finally:
        await target_pool.release(target)


async def close_copy(copy: Database, owner: Connection) -> None:
    """Throw a copy away, whoever still holds `owner`, its connection."""
    connection, stack = owner._lease.connection, owner._turns.stack
    if connection is not None:
        connection.terminate()
    if stack:
        owner._forget(stack[0], "rolled back")
    try:
        await owner._lease.give_back()
    finally:
        await copy.disconnect()
