"""Measure the workloads of one form of the core, beside the bare driver.

``python -m benchmarks.runner URL [CASE ...]`` runs in the form that ``FASTDB_NO_EXTENSIONS`` and
``FASTDB_REQUIRE_EXTENSIONS`` ask for, and prints JSON; ``--loop uvloop`` runs both sides on uvloop.
The URL names an empty database; the tables are made in it.

Wall times scatter by a factor of two on a machine that others use. So both sides take turns in one
process, and what counts is the ratio of the best rounds, and of the client's CPU time. Latencies
are the median of the rounds: the best one would hide what happens to some queries now and then.
Beside it stands the best round's p99 ÷ p50, which is nearer to what a quiet machine would show.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import time
from typing import TYPE_CHECKING, Any

import fastdb
from benchmarks.floors import connect_floor
from benchmarks.memory import held_bytes
from benchmarks.report import machine
from benchmarks.tables import make_tables
from benchmarks.workloads import CASES, SELECT, Setting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.workloads import Case, Work

ROUNDS = 10

DRIVERS = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "mysql": "aiomysql"}
LOOPS = ("asyncio", "uvloop")

#: The one workload that is weighed rather than timed.
MEMORY = "W10"
MEMORY_ROWS = 1_000


class Measurement:
    """The best times of one case, in seconds for one operation."""

    def __init__(self, case: Case) -> None:
        """Start with none."""
        self.case = case
        self.best: dict[str, float] = {}
        self.latencies: dict[str, list[float]] = {}

    async def add_round(self, setting: Setting, number: int) -> None:
        """Let both sides work once; round 0 does not count, but warms up."""
        works: list[tuple[str, Work]] = [("fastdb", self.case.ours), ("driver", self.case.floor)]
        # Who comes first may find a server, a disk or a cache in another state.
        for name, work in works if number % 2 else reversed(works):
            if self.case.writes:
                await setting.clear()
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            latencies = await work(setting, self.case.count)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if number == 0:
                continue
            for key, seconds in ((f"{name}_wall", wall), (f"{name}_cpu", cpu)):
                best = self.best.get(key, float("inf"))
                self.best[key] = min(best, seconds / self.case.count)
            if latencies is not None:
                for key, figure in percentiles(latencies).items():
                    self.latencies.setdefault(f"{name}_{key}", []).append(figure)

    def result(self) -> dict[str, Any]:
        """Return the figures for the report."""
        figures = self.best | {
            key: statistics.median(rounds) for key, rounds in self.latencies.items()
        }
        for side in ("fastdb", "driver"):
            if tails := self.latencies.get(f"{side}_p99_p50"):
                figures[f"{side}_best_p99_p50"] = min(tails)
        return {
            "case": self.case.name,
            "title": self.case.title,
            "wall_ratio": self.best["fastdb_wall"] / self.best["driver_wall"],
            "cpu_ratio": self.best["fastdb_cpu"] / self.best["driver_cpu"],
            **figures,
        }


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """Return ``p50`` and ``p99`` of a round, in seconds, and ``p99_p50``, the one by the other."""
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98], "p99_p50": cuts[98] / cuts[49]}


async def weigh(setting: Setting) -> dict[str, Any]:
    """Return the memory that the rows of both sides take, in bytes for one row.

    Plain SQL, so that both hold the same values, unconverted.
    """
    sql = f"{SELECT} WHERE id <= {MEMORY_ROWS}"
    ours = held_bytes(await setting.database.fetch_all(sql)) / MEMORY_ROWS
    driver = held_bytes(await setting.floor.fetch_all(sql, by_name=True)) / MEMORY_ROWS
    return {
        "case": MEMORY,
        "title": f"memory of a held row, {MEMORY_ROWS:,} rows",
        "bytes_ratio": ours / driver,
        "fastdb_bytes": ours,
        "driver_bytes": driver,
    }


async def pragmas_of(database: fastdb.Database) -> list[str]:
    """Return what makes another SQLite connection work as those of `database` do."""
    names = ("synchronous", "cache_size", "foreign_keys", "busy_timeout")
    return [f"PRAGMA {name} = {await database.fetch_val(f'PRAGMA {name}')}" for name in names]


async def run(url: str, names: Sequence[str] = (), rounds: int = ROUNDS) -> dict[str, Any]:
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
            for number in range(rounds + 1):
                for measurement in measurements:
                    await measurement.add_round(setting, number)
            weighed = [await weigh(setting)] if not names or MEMORY in names else []
        finally:
            await floor.close()
    return {
        "dialect": dialect,
        "form": "compiled" if fastdb.COMPILED else "pure",
        "machine": machine("SQLAlchemy", DRIVERS[dialect]),
        "rounds": rounds,
        "results": [measurement.result() for measurement in measurements],
        "memory": weighed,
    }


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loops of `name`; None makes asyncio's own."""
    if name == "asyncio":
        return None
    import uvloop

    return uvloop.new_event_loop


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runner", description=__doc__)
    known = [case.name for case in CASES] + [MEMORY]
    parser.add_argument("url", help="of an empty database")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"some of {', '.join(known)}")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    options = parser.parse_args()
    if unknown := set(options.cases) - set(known):
        parser.error(f"unknown cases {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        measured = runner.run(run(options.url, options.cases))
    print(json.dumps(measured | {"loop": options.loop}))


if __name__ == "__main__":
    main()
