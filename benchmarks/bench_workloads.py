"""The workloads on every server, in both forms of the core, and on both event loops.

Each form runs in a process of its own, beside the bare driver. The time that pytest-benchmark
tells is that of the whole process; the figures are in the report, and in its ``extra_info``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FORMS = {"compiled": "FASTDB_REQUIRE_EXTENSIONS", "pure": "FASTDB_NO_EXTENSIONS"}
#: Seconds for a process that takes one minute or two.
TIMEOUT = 1_800.0
COLUMNS = [("compiled", "asyncio"), ("pure", "asyncio")]
if find_spec("uvloop") is not None:
    COLUMNS.append(("compiled", "uvloop"))


@pytest.mark.parametrize(("form", "loop"), COLUMNS)
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql"])
def bench_workloads(
    dialect: str,
    form: str,
    loop: str,
    empty_database: str,
    benchmark: Any,
    report_workloads: list[dict[str, Any]],
) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in FORMS.values()}

    def run() -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.runner", empty_database, "--loop", loop],
            cwd=ROOT,
            env=environment | {FORMS[form]: "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=TIMEOUT,
        )
        measured: dict[str, Any] = json.loads(done.stdout)
        return measured

    benchmark.group = "The process of all workloads"
    measured = benchmark.pedantic(run)
    assert (measured["dialect"], measured["form"], measured["loop"]) == (dialect, form, loop)
    benchmark.extra_info |= measured
    report_workloads.append(measured)
