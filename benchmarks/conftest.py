"""Servers for the benchmarks, and where their results go."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.databases import ServerDatabase, drop_databases
from tests.servers import servers

RESULTS = Path(__file__).parent.parent / ".benchmarks" / "workloads.json"

reports = pytest.StashKey[list[dict[str, Any]]]()


@pytest.fixture(scope="session")
def server_urls() -> Iterator[dict[str, str]]:
    """Find or start a server of each dialect; return the administrators' URLs."""
    with servers() as found:
        yield {dialect: server.url for dialect, server in found.items()}


@pytest.fixture
def empty_database(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URL of an empty database of `dialect`, dropped afterwards."""
    if dialect == "sqlite":
        # As services run it: what is measured is less the disk's.
        yield f"sqlite:///{tmp_path / 'bench.db'}?journal_mode=wal&synchronous=normal"
        return
    admin = request.getfixturevalue("server_urls")[dialect]
    name = f"fastdb_bench_{secrets.token_hex(4)}"
    database = ServerDatabase(admin, name)
    yield database.url
    database.close()
    drop_databases(admin, name)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Return the list that takes what was measured."""
    return request.config.stash.setdefault(reports, [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table, and write the JSON."""
    measured = config.stash.get(reports, [])
    if not measured:
        return
    order = ["sqlite", "postgresql", "mysql"]
    measured.sort(key=lambda each: (order.index(each["dialect"]), each["form"]))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(measured, indent=1))
    for kind, title in (("wall", "time"), ("cpu", "CPU time of the client")):
        terminalreporter.section(f"fastdb ÷ bare driver, best of rounds: {title}")
        for line in table(measured, kind):
            terminalreporter.write_line(line)
    terminalreporter.write_line(f"written to {os.path.relpath(RESULTS)}")


def table(measured: list[dict[str, Any]], kind: str) -> list[str]:
    """Return the ratios of ``wall`` or ``cpu`` as the lines of a Markdown table."""
    columns = [f"{each['dialect']}, {each['form']}" for each in measured]
    cells: dict[str, dict[str, str]] = {}
    for column, each in zip(columns, measured, strict=True):
        for result in each["results"]:
            row = cells.setdefault(f"{result['case']} {result['title']}", {})
            row[column] = f"{result[f'{kind}_ratio']:.2f}"
    lines = [f"| workload | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for title, row in cells.items():
        lines.append(f"| {title} | {' | '.join(row.get(column, '') for column in columns)} |")
    return lines
