"""Servers for the benchmarks, the way that operations are measured, and where results go.

Everything that measures takes pytest-benchmark's fixture, so that its options choose among it, and
its JSON has all of it.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.operations import EITHER, Form, Loop, Measure, Operation
from benchmarks.report import Section, machine, micro_tables, workload_tables, write_json
from tests.databases import ServerDatabase, drop_databases
from tests.servers import servers
from tests.speedups.conftest import FORMS

#: How often both sides of an operation take turns.
ROUNDS = 200

PACKAGES = ("SQLAlchemy", "aiosqlite", "asyncpg", "aiomysql", "PyMySQL", "pytest-benchmark")

workload_results = pytest.StashKey[list[dict[str, Any]]]()
micro_results = pytest.StashKey[list[dict[str, Any]]]()


@pytest.fixture(autouse=True)
def unhurried() -> None:
    """Turn off what ends a test that hangs: it would end a long measurement, too."""
    faulthandler.cancel_dump_traceback_later()


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
def report_workloads(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Return the list that takes what the workloads gave."""
    return request.config.stash.setdefault(workload_results, [])


@pytest.fixture
def report_micro(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Return the list that takes what everything else gave."""
    return request.config.stash.setdefault(micro_results, [])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the operations of a module, each in the forms that there are."""
    if {"operation", "form"} <= set(metafunc.fixturenames):
        pairs = [
            pytest.param(operation, form, id=f"{operation.name}-{form}")
            for operation in metafunc.module.OPERATIONS
            for form in operation.forms
            if form in (*FORMS, EITHER)
        ]
        metafunc.parametrize(("operation", "form"), pairs)


@pytest.fixture
def measure(benchmark: Any, report_micro: list[dict[str, Any]]) -> Measure:
    """Return what measures an operation and its floor, in rounds that take turns."""

    def measure(subject: str, operation: Operation, name: str) -> None:
        with ExitStack() as closing:
            form = Form(name, closing)
            ours, floor = operation.ours(form), operation.floor(form)
            floor_times: list[float] = []

            def take_turns() -> tuple[tuple[Iterable[Any]], dict[str, Any]]:
                gc.collect()
                floor_times.append(timed(floor, operation.inputs(operation.turns)))
                return (operation.inputs(operation.turns),), {}

            benchmark.group = f"{subject}, {operation.turns * operation.size:,} times"
            # Only what the rounds leave behind is collected, and only between them.
            gc.freeze()
            gc.disable()
            closing.callback(gc.unfreeze)
            closing.callback(gc.enable)
            benchmark.pedantic(ours, setup=take_turns, rounds=ROUNDS, warmup_rounds=1)
        if benchmark.stats is None:  # --benchmark-disable
            return
        times = operation.turns * operation.size
        seconds = benchmark.stats.stats.min / times
        floor_seconds = min(floor_times[1:]) / times  # the first round warmed up
        result = {
            "subject": subject,
            "operation": operation.name,
            "form": name,
            "seconds": seconds,
            "floor": operation.floor_name,
            "floor_seconds": floor_seconds,
            "ratio": seconds / floor_seconds,
            "wanted_seconds": operation.wanted_seconds,
            "wanted_ratio": operation.wanted_ratio,
        }
        benchmark.extra_info |= result
        report_micro.append(result)

    return measure


def timed(loop: Loop, inputs: Iterable[Any]) -> float:
    """Return how long the loop takes, in seconds."""
    began = time.perf_counter()
    loop(inputs)
    return time.perf_counter() - began


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the tables, and write the JSON."""
    workloads, micro = config.stash.get(workload_results, []), config.stash.get(micro_results, [])
    paths = []
    sections: list[Section] = []
    if workloads:
        sections += workload_tables(workloads)
        paths.append(write_json("workloads", workloads))
    if micro:
        sections += micro_tables(micro)
        paths.append(write_json("micro", {"machine": machine(*PACKAGES), "results": micro}))
    for title, lines in sections:
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
    for path in paths:
        terminalreporter.write_line(f"written to {os.path.relpath(path)}")
