"""The code of the README runs, on every database, and gives what its comments say."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fastdb
from fastdb.migrations.__main__ import main as migrations_program
from tests.documents import Block, blocks, run

README = Path(__file__).parent.parent / "README.md"


def python_blocks() -> list[Block]:
    """Return the Python blocks, the first program among them."""
    return [block for block in blocks(README) if block.language == "python"]


def is_program(source: str) -> bool:
    return "asyncio.run(" in source


async def test_the_fragments_run_in_order(
    database: fastdb.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # it is in the names of test databases
    migrations_program(["init"])
    namespace: dict[str, Any] = {"database": database}
    fragments = [block for block in python_blocks() if not is_program(block.source)]
    assert fragments
    for fragment in fragments:
        await run(fragment, README, namespace)


def test_the_first_program_runs(tmp_path: Path) -> None:
    (source,) = [block.source for block in python_blocks() if is_program(block.source)]
    (tmp_path / "program.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-W", "error", tmp_path / "program.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(fastdb.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[:2] == ["1 buy milk", "2 note 0"]
    with sqlite3.connect(tmp_path / "notes.db") as connection:
        assert connection.execute("SELECT count(*) FROM notes WHERE done").fetchone() == (10,)
    connection.close()


def test_the_first_program_is_short() -> None:
    (source,) = [block.source for block in python_blocks() if is_program(block.source)]
    body = source[source.index("async def main") : source.index("asyncio.run")]
    assert len(body.strip().splitlines()) <= 15
