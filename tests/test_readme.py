"""The code of the README runs, on every database, and gives what its comments say.

``expression  # -> value`` is checked against ``repr(expression)``, after awaiting it.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fastdb
from fastdb.migrations.__main__ import main as migrations_program

README = Path(__file__).parent.parent / "README.md"


def python_blocks() -> list[tuple[int, str]]:
    """Return each Python block with the number of the line before its first."""
    text = README.read_text()
    return [
        (text.count("\n", 0, match.start(1)), match[1])
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def is_program(source: str) -> bool:
    return "asyncio.run(" in source


async def run(source: str, before: int, namespace: dict[str, Any]) -> None:
    """Run statements, which may await, one by one."""
    lines = source.splitlines()
    for statement in ast.parse(source).body:
        line = statement.end_lineno or 1
        where = f"{README.name}:{before + line}"
        expression = isinstance(statement, ast.Expr)
        tree = ast.Expression(statement.value) if isinstance(statement, ast.Expr) else None
        code = compile(
            tree or ast.Module([statement], []),
            where,
            "eval" if expression else "exec",
            ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        )
        found = eval(code, namespace)
        if inspect.iscoroutine(found):
            found = await found
        _, arrow, expected = lines[line - 1].partition("  # -> ")
        if arrow:
            assert repr(found) == expected, where


async def test_the_fragments_run_in_order(
    database: fastdb.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # it is in the names of test databases
    migrations_program(["init"])
    namespace: dict[str, Any] = {"database": database}
    fragments = [block for block in python_blocks() if not is_program(block[1])]
    assert fragments
    for before, source in fragments:
        await run(source, before, namespace)


def test_the_first_program_runs(tmp_path: Path) -> None:
    (source,) = [source for _, source in python_blocks() if is_program(source)]
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
    ((_, source),) = [block for block in python_blocks() if is_program(block[1])]
    body = source[source.index("async def main") : source.index("asyncio.run")]
    assert len(body.strip().splitlines()) <= 15
