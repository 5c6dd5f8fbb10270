"""The workloads on every server, in both forms of the core.

Each form runs in a process of its own, beside the bare driver.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FORMS = {"compiled": "FASTDB_REQUIRE_EXTENSIONS", "pure": "FASTDB_NO_EXTENSIONS"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql"])
def bench_workloads(
    dialect: str, form: str, empty_database: str, report: list[dict[str, Any]]
) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in FORMS.values()}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.runner", empty_database],
        cwd=ROOT,
        env=environment | {FORMS[form]: "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    measured = json.loads(done.stdout)
    assert (measured["dialect"], measured["form"]) == (dialect, form)
    report.append(measured)
