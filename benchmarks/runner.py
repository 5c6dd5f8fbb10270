"""Measure the workloads of one form of the core, beside the bare driver.

``python -m benchmarks.runner URL [CASE ...]`` runs in the form that ``FASTDB_NO_EXTENSIONS`` and
``FASTDB_REQUIRE_EXTENSIONS`` ask for, and prints JSON. The URL names an empty database; the tables
are made in it.

Wall times scatter by a factor of two on a machine that others use. So both sides take turns in one
process, and what counts is the ratio of the best rounds, and of the client's CPU time.
"""

from __future__ import annotations

import asyncio
import gc
import json
import platform
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import fastdb
from benchmarks.floors import connect_floor
from benchmarks.workloads import CASES, Setting, make_tables

if TYPE_CHECKING:
    from benchmarks.workloads import Case, Work

ROUNDS = 7

DRIVERS = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "mysql": "aiomysql"}


async def measure(case: Case, setting: Setting, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return the best wall and CPU time of one operation, in seconds, for both sides."""
    works: dict[str, Work] = {"fastdb": case.ours, "driver": case.floor}
    best = {f"{name}_{kind}": float("inf") for name in works for kind in ("wall", "cpu")}
    for number in range(rounds + 1):
        for name, work in works.items():
            if case.writes:
                await setting.clear()
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            await work(setting, case.count)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if number:  # the first one warms up
                for kind, seconds in (("wall", wall), ("cpu", cpu)):
                    key = f"{name}_{kind}"
                    best[key] = min(best[key], seconds / case.count)
    return {
        "case": case.name,
        "title": case.title,
        "wall_ratio": best["fastdb_wall"] / best["driver_wall"],
        "cpu_ratio": best["fastdb_cpu"] / best["driver_cpu"],
        **best,
    }


async def pragmas_of(database: fastdb.Database) -> list[str]:
    """Return what makes another SQLite connection work as those of `database` do."""
    names = ("synchronous", "cache_size", "foreign_keys", "busy_timeout")
    return [f"PRAGMA {name} = {await database.fetch_val(f'PRAGMA {name}')}" for name in names]


async def run(url: str, names: list[str]) -> dict[str, Any]:
    """Measure the cases of `names`, or all."""
    results = []
    async with fastdb.Database(url) as database:
        dialect = {"mariadb": "mysql"}.get(database.url.dialect, database.url.dialect)
        pragmas = await pragmas_of(database) if dialect == "sqlite" else []
        await make_tables(database)
        floor = await connect_floor(url, pragmas)
        try:
            setting = Setting(database, floor, dialect)
            for case in CASES:
                if not names or case.name in names:
                    results.append(await measure(case, setting))
        finally:
            await floor.close()
    return {
        "dialect": dialect,
        "form": "compiled" if fastdb.COMPILED else "pure",
        "machine": {
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "platform": platform.platform(),
            "fastdb": fastdb.__version__,
            **{name: version(name) for name in ("SQLAlchemy", DRIVERS[dialect])},
        },
        "rounds": ROUNDS,
        "results": results,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1], sys.argv[2:]))))
