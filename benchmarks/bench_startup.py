"""What a program pays before its first row: imports, and connecting to SQLite.

Each measurement is a process of its own, which tells the CPU time it took; both sides take turns.
What comes before on either side, ``import asyncio``, is not in it. The time that pytest-benchmark
tells is that of the whole process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.speedups.conftest import FORMS

ROOT = Path(__file__).parent.parent
VARIABLES = {"compiled": "FASTDB_REQUIRE_EXTENSIONS", "pure": "FASTDB_NO_EXTENSIONS"}
ROUNDS = 15
#: Seconds for a process that takes less than one.
TIMEOUT = 120.0

PROGRAM = """
import asyncio, sys, time
{before}
began = time.process_time()
{measured}
print(time.process_time() - began)
"""
FASTDB_QUERY = """
async def main():
    async with fastdb.Database("sqlite:///" + sys.argv[1]) as database:
        await database.fetch_one("SELECT 1")
asyncio.run(main())
"""
AIOSQLITE_QUERY = """
async def main():
    async with aiosqlite.connect(sys.argv[1]) as connection:
        async with connection.execute("SELECT 1") as cursor:
            await cursor.fetchone()
asyncio.run(main())
"""
IMPORTS = "import aiosqlite, fastdb"


class Start(NamedTuple):
    """What a program does first, and how it does without fastdb.

    Attributes:
        name: What is done.
        before: What both do unmeasured.
        ours: With fastdb.
        floor_name: What else is used.
        floor: With that.
        wanted_ratio: What ours may cost at most, as a part of the floor.
    """

    name: str
    before: str
    ours: str
    floor_name: str
    floor: str
    wanted_ratio: float | None = None


STARTS = (
    Start("import fastdb", "", "import fastdb", "import sqlalchemy", "import sqlalchemy", 0.15),
    Start(
        "SQLite: connect, first query, disconnect",
        # fastdb imports its driver when a Database is made, which is no part of connecting.
        f"{IMPORTS}; fastdb.Database('sqlite://')",
        FASTDB_QUERY,
        "aiosqlite",
        AIOSQLITE_QUERY,
        3.0,
    ),
    Start(
        "the same, imports included",
        "",
        f"import fastdb\n{FASTDB_QUERY}",
        "aiosqlite",
        f"import aiosqlite\n{AIOSQLITE_QUERY}",
    ),
)


def cpu_seconds(before: str, measured: str, form: str, database: Path) -> float:
    """Return the CPU time that `measured` takes in a new process, in seconds."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in (*VARIABLES.values(), "PYTHONDONTWRITEBYTECODE")
    }
    # Installed packages have bytecode, and so has an installed fastdb; a checkout may have none.
    environment["PYTHONPYCACHEPREFIX"] = str(database.parent / "bytecode")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before, measured=measured), str(database)],
        cwd=ROOT,
        env=environment | {VARIABLES[form]: "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    return float(done.stdout)


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.name)
@pytest.mark.parametrize("form_name", FORMS)
def bench_startup(
    start: Start,
    form_name: str,
    tmp_path: Path,
    benchmark: Any,
    report_micro: list[dict[str, Any]],
) -> None:
    ours: list[float] = []
    floor: list[float] = []
    database = tmp_path / "start.db"

    def take_floor() -> None:
        floor.append(cpu_seconds(start.before, start.floor, form_name, database))

    def take_ours() -> None:
        ours.append(cpu_seconds(start.before, start.ours, form_name, database))

    benchmark.group = f"Start of a program: {start.name}"
    benchmark.pedantic(take_ours, setup=take_floor, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats is None:  # --benchmark-disable
        return
    result = {
        "subject": "Start of a program (CPU time)",
        "operation": start.name,
        "form": form_name,
        "seconds": min(ours),
        "floor": start.floor_name,
        "floor_seconds": min(floor),
        "ratio": min(ours) / min(floor),
        "wanted_seconds": None,
        "wanted_ratio": start.wanted_ratio,
    }
    benchmark.extra_info |= result
    report_micro.append(result)
