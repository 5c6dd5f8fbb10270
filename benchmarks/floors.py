"""The bare drivers, used as their own documentation uses them: the floor of each benchmark."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Floor", "connect_floor"]

#: As fastdb's pool by default. One more connection is held, for W2h.
POOL_SIZE = 10


class Floor(ABC):
    """One bare driver.

    SQL comes with the driver's own parameters; what writes is committed before it returns.
    """

    #: How parameter `n` (from 1) stands in the SQL.
    placeholder = "?"

    @abstractmethod
    async def fetch_one(self, sql: str, args: Sequence[Any]) -> Any:
        """Return one row, through the pool where the driver has one."""

    @abstractmethod
    async def fetch_one_held(self, sql: str, args: Sequence[Any]) -> Any:
        """Return one row on a connection that is held."""

    @abstractmethod
    async def fetch_all(self, sql: str, *, by_name: bool) -> Sequence[Any]:
        """Return every row; with `by_name`, of the kind that reads its columns by name."""

    @abstractmethod
    async def insert(self, sql: str, args: Sequence[Any]) -> Any:
        """Insert one row; return its generated key."""

    @abstractmethod
    async def insert_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Insert many rows, all or nothing."""

    @abstractmethod
    async def iterate(self, sql: str) -> int:
        """Count the rows of a stream."""

    @abstractmethod
    async def insert_in_transaction(self, sql: str, args: Sequence[Any]) -> None:
        """Begin, insert one row, commit."""

    @abstractmethod
    async def close(self) -> None:
        """Close everything."""


class Aiosqlite(Floor):
    """One connection of aiosqlite, as its README has it; it has no pool, so tasks share this one.

    A queue of several connections would be slower: each of their threads has to be woken.
    """

    def __init__(self, connection: Any) -> None:
        """Take the connection over."""
        self.connection = connection

    @classmethod
    async def connect(cls, url: str, pragmas: Sequence[str]) -> Aiosqlite:
        """Open the file of `url`, with the same `pragmas` as fastdb's connections."""
        import aiosqlite

        connection = await aiosqlite.connect(urlsplit(url).path.removeprefix("/"))
        for pragma in pragmas:
            await connection.execute(pragma)
        return cls(connection)

    async def fetch_one(self, sql: str, args: Sequence[Any]) -> Any:
        async with self.connection.execute(sql, args) as cursor:
            return await cursor.fetchone()

    fetch_one_held = fetch_one

    async def fetch_all(self, sql: str, *, by_name: bool) -> Sequence[Any]:
        async with self.connection.execute(sql) as cursor:
            if by_name:
                cursor.row_factory = sqlite3.Row
            rows: Sequence[Any] = await cursor.fetchall()
            return rows

    async def insert(self, sql: str, args: Sequence[Any]) -> Any:
        async with self.connection.execute(sql, args) as cursor:
            key = cursor.lastrowid
        await self.connection.commit()
        return key

    async def insert_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        await self.connection.executemany(sql, rows)
        await self.connection.commit()

    async def iterate(self, sql: str) -> int:
        count = 0
        async with self.connection.execute(sql) as cursor:
            async for _ in cursor:
                count += 1
        return count

    async def insert_in_transaction(self, sql: str, args: Sequence[Any]) -> None:
        await self.connection.execute("BEGIN IMMEDIATE")
        await self.connection.execute(sql, args)
        await self.connection.commit()

    async def close(self) -> None:
        await self.connection.close()


class Asyncpg(Floor):
    """A pool of asyncpg."""

    placeholder = "${n}"

    def __init__(self, pool: Any, held: Any) -> None:
        """Take the pool and a connection of it over."""
        self.pool = pool
        self.held = held

    @classmethod
    async def connect(cls, url: str) -> Asyncpg:
        """Open a pool."""
        import asyncpg

        pool = await asyncpg.create_pool(url, min_size=1, max_size=POOL_SIZE + 1)
        return cls(pool, await pool.acquire())

    async def fetch_one(self, sql: str, args: Sequence[Any]) -> Any:
        return await self.pool.fetchrow(sql, *args)

    async def fetch_one_held(self, sql: str, args: Sequence[Any]) -> Any:
        return await self.held.fetchrow(sql, *args)

    async def fetch_all(self, sql: str, *, by_name: bool) -> Sequence[Any]:
        rows: Sequence[Any] = await self.pool.fetch(sql)
        return rows

    async def insert(self, sql: str, args: Sequence[Any]) -> Any:
        return await self.pool.fetchval(f"{sql} RETURNING id", *args)

    async def insert_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        await self.pool.executemany(sql, rows)

    async def iterate(self, sql: str) -> int:
        count = 0
        async with self.pool.acquire() as connection, connection.transaction():
            async for _ in connection.cursor(sql):
                count += 1
        return count

    async def insert_in_transaction(self, sql: str, args: Sequence[Any]) -> None:
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(sql, *args)

    async def close(self) -> None:
        await self.pool.release(self.held)
        await self.pool.close()


class Aiomysql(Floor):
    """A pool of aiomysql; ``DictCursor`` for results of many rows."""

    placeholder = "%s"

    def __init__(self, pool: Any, held: Any) -> None:
        """Take the pool and a connection of it over."""
        self.pool = pool
        self.held = held

    @classmethod
    async def connect(cls, url: str) -> Aiomysql:
        """Open a pool."""
        import aiomysql

        parts = urlsplit(url)
        pool = await aiomysql.create_pool(
            minsize=1,
            maxsize=POOL_SIZE + 1,
            host=parts.hostname,
            port=parts.port or 3306,
            user=unquote(parts.username or "root"),
            password=unquote(parts.password or ""),
            db=parts.path.strip("/"),
            charset="utf8mb4",
            autocommit=True,
        )
        return cls(pool, await pool.acquire())

    async def fetch_one(self, sql: str, args: Sequence[Any]) -> Any:
        async with self.pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(sql, args)
            return await cursor.fetchone()

    async def fetch_one_held(self, sql: str, args: Sequence[Any]) -> Any:
        async with self.held.cursor() as cursor:
            await cursor.execute(sql, args)
            return await cursor.fetchone()

    async def fetch_all(self, sql: str, *, by_name: bool) -> Sequence[Any]:
        # Where many rows are read, its users take dicts, even to pass them on unread.
        from aiomysql import DictCursor

        async with self.pool.acquire() as connection, connection.cursor(DictCursor) as cursor:
            await cursor.execute(sql)
            rows: Sequence[Any] = await cursor.fetchall()
            return rows

    async def insert(self, sql: str, args: Sequence[Any]) -> Any:
        async with self.pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(sql, args)
            return cursor.lastrowid

    async def insert_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        async with self.pool.acquire() as connection, connection.cursor() as cursor:
            await connection.begin()
            await cursor.executemany(sql, rows)
            await connection.commit()

    async def iterate(self, sql: str) -> int:
        from aiomysql import SSCursor

        count = 0
        async with self.pool.acquire() as connection, connection.cursor(SSCursor) as cursor:
            await cursor.execute(sql)
            async for _ in cursor:
                count += 1
        return count

    async def insert_in_transaction(self, sql: str, args: Sequence[Any]) -> None:
        async with self.pool.acquire() as connection, connection.cursor() as cursor:
            await connection.begin()
            await cursor.execute(sql, args)
            await connection.commit()

    async def close(self) -> None:
        self.pool.release(self.held)
        self.pool.close()
        await self.pool.wait_closed()


async def connect_floor(url: str, pragmas: Sequence[str] = ()) -> Floor:
    """Open the bare driver that serves `url`; `pragmas` are SQLite's."""
    match urlsplit(url).scheme:
        case "sqlite":
            return await Aiosqlite.connect(url, pragmas)
        case "postgresql":
            return await Asyncpg.connect(url)
        case _:
            return await Aiomysql.connect(url)
