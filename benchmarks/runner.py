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

ROUNDS = 10

DRIVERS = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "mysql": "aiomysql"}


class Measurement:
    """The best times of one case, in seconds for one operation."""

    def __init__(self, case: Case) -> None:
        """Start with none."""
        self.case = case
        self.best: dict[str, float] = {}

    async def add_round(self, setting: Setting, *, counts: bool) -> None:
        """Let both sides work once; a round that does not count warms up."""
        works: dict[str, Work] = {"fastdb": self.case.ours, "driver": self.case.floor}
        for name, work in works.items():
            if self.case.writes:
                await setting.clear()
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            await work(setting, self.case.count)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            for key, seconds in ((f"{name}_wall", wall), (f"{name}_cpu", cpu)):
                if counts:
                    best = self.best.get(key, float("inf"))
                    self.best[key] = min(best, seconds / self.case.count)

    def result(self) -> dict[str, Any]:
        """Return the figures for the report."""
        return {
            "case": self.case.name,
            "title": self.case.title,
            "wall_ratio": self.best["fastdb_wall"] / self.best["driver_wall"],
            "cpu_ratio": self.best["fastdb_cpu"] / self.best["driver_cpu"],
            **self.best,
        }


async def pragmas_of(database: fastdb.Database) -> list[str]:
    """Return what makes another SQLite connection work as those of `database` do."""
    names = ("synchronous", "cache_size", "foreign_keys", "busy_timeout")
    return [f"PRAGMA {name} = {await database.fetch_val(f'PRAGMA {name}')}" for name in names]


async def run(url: str, names: list[str]) -> dict[str, Any]:
    """Measure the cases of `names`, or all."""
    measurements = [Measurement(case) for case in CASES if not names or case.name in names]
    async with fastdb.Database(url) as database:
        dialect = {"mariadb": "mysql"}.get(database.url.dialect, database.url.dialect)
        pragmas = await pragmas_of(database) if dialect == "sqlite" else []
        await make_tables(database)
        floor = await connect_floor(url, pragmas)
        try:
            setting = Setting(database, floor, dialect)
            # A noisy second then spoils a round of each case rather than every round of one.
            for number in range(ROUNDS + 1):
                for measurement in measurements:
                    await measurement.add_round(setting, counts=number > 0)
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
        "results": [measurement.result() for measurement in measurements],
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1], sys.argv[2:]))))
