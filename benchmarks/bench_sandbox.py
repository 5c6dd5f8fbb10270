"""What isolation costs a test on PostgreSQL: a shared sandbox, as the fixture ``database`` opens.

A test of one insert in a transaction and one select, on an event loop that is not the sandbox's.
Beside it stands what isolates a test without a sandbox: 30 tables, made before it and dropped
after it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import sqlalchemy as sa

import fastdb
from fastdb.testing import Sandbox, shut_down

#: What a sandboxed test may take, in seconds.
WANTED = 1.5e-3
ROUNDS = 50
#: Tests of one round.
TESTS = 20
#: How often the tables are made and dropped.
FLOOR_ROUNDS = 5

metadata = sa.MetaData()
tables = [
    sa.Table(
        f"notes_{number}",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("text", sa.String(100), index=True),
    )
    for number in range(30)
]


async def one_test(database: fastdb.Database) -> None:
    """Write and read as a small test does."""
    async with database.transaction():
        await database.execute(tables[0].insert().values(text="a"))
    assert len(await database.fetch_all(tables[0].select())) == 1


async def make_and_drop(url: str) -> list[float]:
    """Return how long each making and dropping of the tables took; leave them there."""
    seconds = []
    async with fastdb.Database(url) as database:
        for _ in range(FLOOR_ROUNDS):
            began = time.perf_counter()
            await database.create_all(metadata)
            await database.drop_all(metadata)
            seconds.append(time.perf_counter() - began)
        await database.create_all(metadata)
    return seconds


@pytest.mark.parametrize("dialect", ["postgresql"])
def bench_sandboxed_test(
    dialect: str, empty_database: str, benchmark: Any, report_micro: list[dict[str, Any]]
) -> None:
    with asyncio.Runner() as runner:
        floor = runner.run(make_and_drop(empty_database))
        database = fastdb.Database(empty_database)

        def run_tests() -> None:
            for _ in range(TESTS):
                sandbox = Sandbox(database, shared=True).open()
                runner.run(one_test(database))
                sandbox.close()

        benchmark.group = f"Sandbox on {dialect}, {TESTS} times"
        try:
            benchmark.pedantic(run_tests, rounds=ROUNDS, warmup_rounds=1)
        finally:
            shut_down(database)
    if benchmark.stats is None:  # --benchmark-disable
        return
    seconds = benchmark.stats.stats.min / TESTS
    result = {
        "subject": "Isolation of a test on PostgreSQL",
        "operation": "a sandboxed test, with an insert in a transaction and a select",
        "form": "compiled" if fastdb.COMPILED else "pure",
        "seconds": seconds,
        "floor": f"create_all + drop_all of {len(tables)} tables",
        "floor_seconds": min(floor),
        "ratio": seconds / min(floor),
        "wanted_seconds": WANTED,
        "wanted_ratio": None,
    }
    benchmark.extra_info |= result
    report_micro.append(result)
