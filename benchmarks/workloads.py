"""The workloads: what an application does, with fastdb and with the bare driver.

Each pair does the same work on the same tables, those of :mod:`benchmarks.tables`. Core expressions
are built afresh at each call, as services do, unless the title says otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateTable, DropTable

from benchmarks.tables import (
    COLUMNS,
    TYPED_COLUMNS,
    by_attribute,
    by_name,
    converted_by_hand,
    read_table,
    typed_by_attribute,
    typed_table,
    values_of,
    write_table,
)

if TYPE_CHECKING:
    import fastdb
    from benchmarks.floors import Floor

__all__ = ["CASES", "SELECT", "Case", "Setting"]

#: How many tasks share a pool of ten connections.
TASKS = 50

BY_KEY = read_table.select().where(read_table.c.id == sa.bindparam("key"))
SELECT = f"SELECT {', '.join(COLUMNS)} FROM bench_read"
TYPED_SELECT = f"SELECT {', '.join(TYPED_COLUMNS)} FROM bench_typed"
INSERT = f"INSERT INTO bench_write ({', '.join(COLUMNS[1:])}) VALUES "
RAW_INSERT = f"{INSERT}(:{', :'.join(COLUMNS[1:])})"


@dataclass(frozen=True)
class Setting:
    """What the workloads work with.

    Attributes:
        database: fastdb's, connected.
        floor: The bare driver, connected to the same database.
        dialect: ``sqlite``, ``postgresql`` or ``mysql``.
    """

    database: fastdb.Database
    floor: Floor
    dialect: str

    def bare_sql(self, sql: str, count: int) -> str:
        """Return `sql` with a list of `count` parameters in the driver's own style."""
        marks = [self.floor.placeholder.format(n=n) for n in range(1, count + 1)]
        return f"{sql}({', '.join(marks)})"

    def raw_values(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values for plain SQL: sqlite3 takes datetimes as text."""
        if self.dialect == "sqlite":
            values["made"] = str(values["made"])
        return values

    def bare_args(self, values: dict[str, Any]) -> tuple[Any, ...]:
        """Return the arguments for the bare driver."""
        return tuple(self.raw_values(values).values())

    async def clear(self) -> None:
        """Empty the table that is written, as a new one."""
        await self.database.execute(DropTable(write_table))
        await self.database.execute(CreateTable(write_table))


Work = Callable[[Setting, int], Awaitable[list[float] | None]]


@dataclass(frozen=True)
class Case:
    """One workload.

    Attributes:
        name: Such as ``W1``.
        title: What is done.
        count: How often in one round.
        ours: Does it `count` times with fastdb; may return how long each took, in seconds.
        floor: Does it `count` times with the bare driver; returns the like.
        writes: Whether the table that is written is emptied before each round.
    """

    name: str
    title: str
    count: int
    ours: Work
    floor: Work
    writes: bool = False


# -- one row by key


async def core_row(setting: Setting, count: int) -> None:
    """W1."""
    for n in range(1, count + 1):
        await setting.database.fetch_one(read_table.select().where(read_table.c.id == n))


async def prepared_row(setting: Setting, count: int) -> None:
    """W1b."""
    for n in range(1, count + 1):
        await setting.database.fetch_one(BY_KEY, {"key": n})


async def raw_row(setting: Setting, count: int) -> None:
    """W2."""
    for n in range(1, count + 1):
        await setting.database.fetch_one(f"{SELECT} WHERE id = :id", {"id": n})


async def raw_row_held(setting: Setting, count: int) -> None:
    """W2h."""
    async with setting.database.connection() as connection:
        for n in range(1, count + 1):
            await connection.fetch_one(f"{SELECT} WHERE id = :id", {"id": n})


async def bare_row(setting: Setting, count: int) -> None:
    """W1, W1b, W2."""
    sql = setting.bare_sql(f"{SELECT} WHERE id = ", 1)
    for n in range(1, count + 1):
        await setting.floor.fetch_one(sql, (n,))


async def bare_row_held(setting: Setting, count: int) -> None:
    """W2h."""
    sql = setting.bare_sql(f"{SELECT} WHERE id = ", 1)
    for n in range(1, count + 1):
        await setting.floor.fetch_one_held(sql, (n,))


# -- many tasks


async def in_tasks(query: Callable[[int], Awaitable[Any]], count: int) -> list[float]:
    """Run `count` queries in `TASKS` tasks; return how long each took, waiting included."""
    latencies: list[float] = []

    async def work(first: int) -> None:
        for n in range(first, count + 1, TASKS):
            began = time.perf_counter()
            await query(n)
            latencies.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for first in range(1, TASKS + 1):
            group.create_task(work(first))
    return latencies


async def core_row_in_tasks(setting: Setting, count: int) -> list[float]:
    """W9."""

    def query(n: int) -> Awaitable[Any]:
        return setting.database.fetch_one(read_table.select().where(read_table.c.id == n))

    return await in_tasks(query, count)


async def bare_row_in_tasks(setting: Setting, count: int) -> list[float]:
    """W9."""
    sql = setting.bare_sql(f"{SELECT} WHERE id = ", 1)
    return await in_tasks(lambda n: setting.floor.fetch_one(sql, (n,)), count)


# -- many rows


def core_rows(limit: int, *, read: bool) -> Work:
    """W3, W4 through Core."""

    async def work(setting: Setting, count: int) -> None:
        for _ in range(count):
            query = read_table.select().where(read_table.c.id <= limit)
            records = await setting.database.fetch_all(query)
            if read:
                for record in records:
                    by_attribute(record)

    return work


def raw_rows(limit: int, *, read: bool) -> Work:
    """W3, W4 with plain SQL."""

    async def work(setting: Setting, count: int) -> None:
        for _ in range(count):
            records = await setting.database.fetch_all(f"{SELECT} WHERE id <= {limit}")
            if read:
                for record in records:
                    by_attribute(record)

    return work


def bare_rows(limit: int, *, read: bool) -> Work:
    """W3, W4."""

    async def work(setting: Setting, count: int) -> None:
        for _ in range(count):
            sql = f"{SELECT} WHERE id <= {limit}"
            rows = await setting.floor.fetch_all(sql, by_name=read)
            if read:
                for row in rows:
                    by_name(row)

    return work


async def typed_rows(setting: Setting, count: int) -> None:
    """W4t."""
    for _ in range(count):
        for record in await setting.database.fetch_all(typed_table.select()):
            typed_by_attribute(record)


async def bare_typed_rows(setting: Setting, count: int) -> None:
    """W4t."""
    convert = converted_by_hand(setting.dialect)
    for _ in range(count):
        for row in await setting.floor.fetch_all(TYPED_SELECT, by_name=True):
            convert(row)


async def iterate(setting: Setting, count: int) -> None:
    """W7."""
    for _ in range(count):
        async for _ in setting.database.iterate(SELECT):
            pass


async def bare_iterate(setting: Setting, count: int) -> None:
    """W7."""
    for _ in range(count):
        await setting.floor.iterate(SELECT)


# -- writing


async def core_insert(setting: Setting, count: int) -> None:
    """W5."""
    for n in range(count):
        await setting.database.execute(write_table.insert(), values_of(n))


async def bare_insert(setting: Setting, count: int) -> None:
    """W5."""
    sql = setting.bare_sql(INSERT, 5)
    for n in range(count):
        await setting.floor.insert(sql, setting.bare_args(values_of(n)))


async def raw_transaction(setting: Setting, count: int) -> None:
    """W8."""
    for n in range(count):
        async with setting.database.transaction():
            await setting.database.execute(RAW_INSERT, setting.raw_values(values_of(n)))


async def bare_transaction(setting: Setting, count: int) -> None:
    """W8."""
    sql = setting.bare_sql(INSERT, 5)
    for n in range(count):
        await setting.floor.insert_in_transaction(sql, setting.bare_args(values_of(n)))


async def core_insert_many(setting: Setting, count: int) -> None:
    """W6 through Core."""
    for _ in range(count):
        await setting.database.execute_many(write_table.insert(), map(values_of, range(1000)))


async def raw_insert_many(setting: Setting, count: int) -> None:
    """W6 with plain SQL."""
    for _ in range(count):
        rows = (setting.raw_values(values_of(n)) for n in range(1000))
        await setting.database.execute_many(RAW_INSERT, rows)


async def bare_insert_many(setting: Setting, count: int) -> None:
    """W6."""
    sql = setting.bare_sql(INSERT, 5)
    for _ in range(count):
        await setting.floor.insert_many(sql, [setting.bare_args(values_of(n)) for n in range(1000)])


CASES = (
    Case("W1", "fetch_one by key, new Core select", 300, core_row, bare_row),
    Case("W1b", "fetch_one by key, one Core select reused", 300, prepared_row, bare_row),
    Case("W2", "fetch_one by key, raw SQL", 300, raw_row, bare_row),
    Case("W2h", "the same on a held connection", 300, raw_row_held, bare_row_held),
    Case(
        "W3",
        "fetch_all, 1,000 rows, Core",
        5,
        core_rows(1_000, read=False),
        bare_rows(1_000, read=False),
    ),
    Case(
        "W3-raw",
        "fetch_all, 1,000 rows, raw SQL",
        5,
        raw_rows(1_000, read=False),
        bare_rows(1_000, read=False),
    ),
    Case(
        "W3-10k",
        "fetch_all, 10,000 rows, Core",
        1,
        core_rows(10_000, read=False),
        bare_rows(10_000, read=False),
    ),
    Case(
        "W3-10k-raw",
        "fetch_all, 10,000 rows, raw SQL",
        1,
        raw_rows(10_000, read=False),
        bare_rows(10_000, read=False),
    ),
    Case(
        "W4",
        "1,000 rows, every column read, Core",
        5,
        core_rows(1_000, read=True),
        bare_rows(1_000, read=True),
    ),
    Case(
        "W4-raw",
        "1,000 rows, every column read, raw SQL",
        5,
        raw_rows(1_000, read=True),
        bare_rows(1_000, read=True),
    ),
    Case("W4t", "1,000 typed rows, every column read, Core", 5, typed_rows, bare_typed_rows),
    Case("W5", "execute, one Core insert", 50, core_insert, bare_insert, writes=True),
    Case(
        "W6", "execute_many, 1,000 rows, Core", 1, core_insert_many, bare_insert_many, writes=True
    ),
    Case(
        "W6-raw",
        "execute_many, 1,000 rows, raw SQL",
        1,
        raw_insert_many,
        bare_insert_many,
        writes=True,
    ),
    Case("W7", "iterate, 10,000 rows", 1, iterate, bare_iterate),
    Case("W8", "transaction with one insert", 50, raw_transaction, bare_transaction, writes=True),
    Case("W9", "fetch_one by key in 50 tasks, Core", 1000, core_row_in_tasks, bare_row_in_tasks),
)
