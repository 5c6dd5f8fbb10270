"""Memory: bounded whatever the queries, and none left by what is over."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

import fastdb
from tests.faults.conftest import STORM, eventually, is_whole

THINGS = sa.Table(
    "things",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("v", sa.String(50)),
)


@pytest.fixture
def traced() -> Iterator[Callable[[], int]]:
    """Provide what counts the bytes that Python's allocators have lent."""

    def lent() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    yield lent
    tracemalloc.stop()


# -- bounded caches

SIZE = 64
#: How many distinct queries; most kinds cost a compilation each, and get fewer.
QUERIES = 200_000 if STORM >= 100_000 else 4_000
#: Bytes by which full caches may differ: entries are of different sizes.
SLACK = 300_000


def texts(number: int) -> tuple[Any, Any]:
    return f"SELECT {number} AS c{number}, :v AS v", {"v": 1}


def expressions(number: int) -> tuple[Any, Any]:
    column: Any = sa.literal_column(str(number)).label(f"c{number}")
    return sa.select(column).where(THINGS.c.id == number), None


def lists(number: int) -> tuple[Any, Any]:
    return sa.select(THINGS).where(THINGS.c.id.in_(range(1 + number % 125))), None


REUSED = sa.select(THINGS).where(THINGS.c.id.in_(sa.bindparam("ids", expanding=True)))


def lists_of_one_expression(number: int) -> tuple[Any, Any]:
    return REUSED, {"ids": range(1 + number % 125)}


def literals(number: int) -> tuple[Any, Any]:
    bind = sa.bindparam("x", f"v{number}", sa.String, literal_execute=True)
    return sa.select(THINGS).where(THINGS.c.v == bind), None


def keys(number: int) -> tuple[Any, Any]:
    names = [f"k{number % 3_001}", "v"]
    table = sa.table("things", *[sa.column(name) for name in names])
    return table.insert(), dict.fromkeys(names, 1)


@pytest.mark.parametrize(
    "make", [texts, expressions, lists, lists_of_one_expression, literals, keys]
)
def test_the_query_cache_is_bounded(
    database_url: str, traced: Callable[[], int], make: Callable[[int], tuple[Any, Any]]
) -> None:
    """A second half of distinct queries needs no more memory than the first."""
    cache = fastdb.Database(database_url, query_cache_size=SIZE).query_cache
    count = QUERIES if make is texts else QUERIES // 8
    for number in range(count // 2):
        cache.prepare(*make(number))
    before = traced()
    for number in range(count // 2, count):
        cache.prepare(*make(number))
    assert traced() - before < SLACK
    assert cache.info().currsize <= SIZE


async def test_layouts_and_statements_are_bounded(database_url: str) -> None:
    """Neither the driver's statements nor the classes of records grow with the texts."""
    warm = 3_000  # more than the classes of records that are kept for all databases
    async with fastdb.Database(database_url, query_cache_size=SIZE) as database:
        blocks = []
        for part in (range(warm), range(warm, warm + QUERIES // 4)):
            for number in part:
                row = await database.fetch_one(f"SELECT {number} AS c{number}, 1 AS d{number}")
                assert row is not None
                assert row.keys() == [f"c{number}", f"d{number}"]
            gc.collect()
            # Not bytes: a dict out of which as much goes as comes in grows at times, too.
            blocks.append(sys.getallocatedblocks())
        assert blocks[1] - blocks[0] < QUERIES // 4
        assert database.query_cache.info().currsize <= SIZE


# -- nothing left behind

Operation = Callable[[fastdb.Database], Awaitable[Any]]


async def fetch_raw(database: fastdb.Database) -> None:
    await database.fetch_all("SELECT * FROM things WHERE id > :id", {"id": 0})


async def fetch_core(database: fastdb.Database) -> None:
    await database.fetch_all(sa.select(THINGS).where(THINGS.c.id > 0))


async def fetch_in_a_task(database: fastdb.Database) -> None:
    await asyncio.create_task(database.fetch_val("SELECT 1"))


async def fetch_in_many_tasks(database: fastdb.Database) -> None:
    await asyncio.gather(*[database.fetch_val("SELECT 1") for _ in range(5)])


async def execute_many(database: fastdb.Database) -> None:
    rows = [{"id": n, "v": "x"} for n in range(100, 110)]
    async with database.transaction(force_rollback=True):
        await database.execute_many(THINGS.insert(), rows)


async def iterate(database: fastdb.Database) -> None:
    async for _ in database.iterate("SELECT * FROM things"):
        pass


async def iterate_a_part(database: fastdb.Database) -> None:
    async with contextlib.aclosing(database.iterate("SELECT * FROM things")) as rows:
        async for _ in rows:
            break


async def hold_a_connection(database: fastdb.Database) -> None:
    async with database.connection() as connection, connection.transaction():
        await connection.execute(THINGS.update().where(THINGS.c.id == 1), {"v": "z"})


async def commit_in_a_savepoint(database: fastdb.Database) -> None:
    async with database.transaction(), database.transaction():
        await database.fetch_val("SELECT 1")


async def leave_a_transaction_by_an_error(database: fastdb.Database) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with database.transaction():
            await database.fetch_val("SELECT 1")
            raise ZeroDivisionError


async def fail(database: fastdb.Database, query: Any, values: Any = None) -> None:
    with contextlib.suppress(fastdb.DatabaseError):
        await database.execute(query, values)
        raise AssertionError("it did not fail")


async def fail_by_syntax(database: fastdb.Database) -> None:
    await fail(database, "SELECT FROM WHERE")


async def fail_by_a_constraint(database: fastdb.Database) -> None:
    await fail(database, THINGS.insert(), {"id": 1})


async def fail_for_a_parameter(database: fastdb.Database) -> None:
    await fail(database, "SELECT :a", {"b": 1})


async def fail_for_a_row(database: fastdb.Database) -> None:
    with contextlib.suppress(fastdb.MissingParameterError):
        await database.execute_many("INSERT INTO things (id) VALUES (:id)", [{"id": 9}, {}])


async def fail_to_connect(database: fastdb.Database) -> None:
    url = database.url
    other = url.replace(database="/nosuch/x") if url.dialect == "sqlite" else url.replace(port=1)
    with contextlib.suppress(fastdb.OperationalError):
        await fastdb.Database(other).connect()


async def cancel(database: fastdb.Database) -> None:
    slow = {
        "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT count(*) FROM n",
        "postgresql": "SELECT pg_sleep(20)",
    }.get(database.url.dialect, "SELECT sleep(20)")
    task = asyncio.create_task(database.fetch_val(slow))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def cancel_at_once(database: fastdb.Database) -> None:
    task = asyncio.create_task(database.fetch_val("SELECT 1"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def run_out_of_time(database: fastdb.Database) -> None:
    with contextlib.suppress(fastdb.QueryTimeoutError):
        await database.fetch_val("SELECT 1", timeout=0)


async def connect_and_disconnect(database: fastdb.Database) -> None:
    async with fastdb.Database(database.url) as other:
        await other.fetch_val("SELECT 1")


OPERATIONS: list[Operation] = [
    fetch_raw,
    fetch_core,
    fetch_in_a_task,
    fetch_in_many_tasks,
    execute_many,
    iterate,
    iterate_a_part,
    hold_a_connection,
    commit_in_a_savepoint,
    leave_a_transaction_by_an_error,
    fail_by_syntax,
    fail_by_a_constraint,
    fail_for_a_parameter,
    fail_for_a_row,
    fail_to_connect,
    cancel,
    cancel_at_once,
    run_out_of_time,
    connect_and_disconnect,
]


def kinds_of_objects() -> Counter[type]:
    """Return how many objects there are of each class."""
    gc.collect()
    objects = [
        each
        for each in gc.get_objects()
        if type(each) is not asyncio.TimerHandle or not each.cancelled()
    ]
    kinds = Counter[type](map(type, objects))
    # asyncio forgets cancelled timers, with their contexts, by the 100 only, and CPython's sqlite3
    # the references to closed cursors by the 200.
    for kind in (weakref.ref, contextvars.Context, Counter):
        del kinds[kind]
    return kinds


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_no_object_is_left_behind(database: fastdb.Database, operation: Operation) -> None:
    """What stays after a round of an operation stays once, not once for each time."""
    await database.execute(sa.schema.CreateTable(THINGS))
    await database.execute_many(THINGS.insert(), [{"id": n, "v": "x"} for n in range(1, 20)])
    times = 10
    kinds: list[Counter[type]] = []
    for _ in range(6):
        for _ in range(times):
            await operation(database)
        await eventually(lambda: is_whole(database), "the return of every connection")
        await asyncio.sleep(0.02)  # what is closed is closed in later turns of the loop
        kinds.append(kinds_of_objects())
    # The first rounds fill caches; an object for each time would be `times` a round.
    grown = {kind: count - kinds[2][kind] for kind, count in kinds[-1].items()}
    assert sum(grown.values()) < 2 * times, {k: n for k, n in grown.items() if n > 1}


# -- constant memory


@pytest.mark.parametrize("where", ["database", "connection", "transaction"])
async def test_iterating_takes_constant_memory(database: fastdb.Database, where: str) -> None:
    """A million rows, in CI a tenth of that, pass in the memory of some batches."""
    count = STORM * 10
    await database.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY, t VARCHAR(100))")
    filler = [{"n": n, "t": f"{n:0100}"} for n in range(1000)]
    await database.execute_many("INSERT INTO numbers (n, t) VALUES (:n, :t)", filler)
    query = f"SELECT a.n * 1000 + b.n AS n, b.t AS t FROM numbers a, numbers b LIMIT {count}"
    async with contextlib.AsyncExitStack() as stack:
        source: Any = database
        if where == "connection":
            source = await stack.enter_async_context(database.connection())
        elif where == "transaction":
            await stack.enter_async_context(database.transaction())
        async with contextlib.aclosing(source.iterate(query)) as rows:  # what is made once
            async for _ in rows:
                break
        gc.collect()
        tracemalloc.start()
        try:
            seen = 0
            before = tracemalloc.get_traced_memory()[0]
            async for row in source.iterate(query):
                assert len(row.t) == 100
                seen += 1
            peak = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
    assert seen == count
    assert peak < 4_000_000 < count * 100  # the texts alone would take more
