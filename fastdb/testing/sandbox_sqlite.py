"""A private copy of a SQLite database: two writers on one file would wait for each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from fastdb.database import Database
from fastdb.drivers.sqlite import SQLiteConnection

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fastdb.connection import Connection
    from fastdb.drivers.base import DriverConnection
    from fastdb.testing.host import Host

__all__ = ["close_copy", "open_copy"]

T = TypeVar("T")

#: Options of a file that the copy, which is in memory, has not.
_OF_FILES = frozenset(
    {"cache", "immutable", "journal_mode", "mode", "modeof", "nolock", "psow", "uri", "vfs", "wal"}
)


async def open_copy(database: Database, host: Host | None = None) -> Database:
    """Return a connected Database in memory with all that `database` holds at this moment.

    Args:
        database: Connected on the running event loop.
        host: Where the copy is to live; on the running event loop, if it is left out.
    """
    query = {key: value for key, value in database.url.options.items() if key not in _OF_FILES}
    options = {key: value for key, value in database.options.items() if key not in _OF_FILES}
    # The copy is written to by the thread of the original.
    query.pop("check_same_thread", None)
    options.pop("check_same_thread", None)
    copy = Database(database.url.replace(database="", options=query), **options)
    if host is None:
        copy.query_cache = database.query_cache

    async def lease() -> DriverConnection:
        await copy.connect()
        try:
            return await copy._ready_pool().acquire()
        except BaseException:
            await copy.disconnect()
            raise

    async def release() -> None:
        await copy._ready_pool().release(target)

    async def give_up() -> None:
        await release()
        await copy.disconnect()

    def there(run: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        return run if host is None else host.run(run, undo=copy.disconnect, cancellable=False)

    target = await there(lease())
    try:
        source_pool = database._ready_pool()
        source = await source_pool.acquire()
        try:
            await cast("SQLiteConnection", source).copy_to(cast("SQLiteConnection", target))
        finally:
            await source_pool.release(source)
    except BaseException:
        await there(give_up())
        raise
    try:
        await there(release())
    except BaseException:
        await there(copy.disconnect())
        raise
    return copy


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
