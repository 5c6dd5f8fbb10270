"""The benchmarks do what they say, on both sides, and their verdicts are right."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import fastdb
from benchmarks import bench_cache, instructions
from benchmarks.counting import LAYOUTS, turns_of
from benchmarks.floors import connect_floor
from benchmarks.instructions import (
    Acceptance,
    Base,
    Comparison,
    Counted,
    Stop,
    cost,
    find_base,
    judge,
    parse_dumps,
    parse_trailer,
    trailers,
)
from benchmarks.memory import held_bytes
from benchmarks.operations import EITHER, Form, Operation, all_operations, statement
from benchmarks.report import duration, micro_tables, workload_tables
from benchmarks.runner import loop_factory, percentiles, run
from benchmarks.tables import (
    COLUMNS,
    by_attribute,
    by_name,
    converted_by_hand,
    make_tables,
    read_table,
    typed_by_attribute,
    typed_table,
    typed_values_of,
    values_of,
    write_table,
)
from benchmarks.workloads import CASES, SELECT, TYPED_SELECT, Setting
from tests.speedups.conftest import FORMS

OPERATIONS = all_operations()


# -- workloads


@pytest.fixture
async def setting(database_url: str) -> Any:
    """Return both sides on one database."""
    async with fastdb.Database(database_url) as database:
        await make_tables(database)
        floor = await connect_floor(database_url)
        try:
            yield Setting(database, floor, database.url.dialect)
        finally:
            await floor.close()


async def test_every_workload_runs_on_both_sides(setting: Setting) -> None:
    for case in CASES:
        for work in (case.ours, case.floor):
            await setting.clear()
            await work(setting, 1)


async def test_both_sides_read_the_same(setting: Setting) -> None:
    records = await setting.database.fetch_all(read_table.select())
    rows = await setting.floor.fetch_all(SELECT, by_name=True)
    # SQLite stores times as text; only a Core expression makes them again.
    unconverted = await setting.database.fetch_all(SELECT)
    assert sorted(map(by_attribute, unconverted)) == sorted(map(by_name, rows))
    assert sorted(records) == [(n, *values_of(n).values()) for n in range(1, len(rows) + 1)]


async def test_the_conversions_by_hand_are_those_of_core(setting: Setting) -> None:
    records = await setting.database.fetch_all(typed_table.select())
    rows = await setting.floor.fetch_all(TYPED_SELECT, by_name=True)
    by_hand = sorted(map(converted_by_hand(setting.dialect), rows), key=lambda row: row[0])
    ours = sorted(map(typed_by_attribute, records), key=lambda row: row[0])
    assert ours == by_hand == [(n, *typed_values_of(n).values()) for n in range(1, len(rows) + 1)]
    assert [list(map(type, row)) for row in ours] == [list(map(type, row)) for row in by_hand]


@pytest.mark.parametrize("name", ["W5", "W6", "W8"])
async def test_both_sides_write_the_same(setting: Setting, name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    written = []
    for work in (case.ours, case.floor):
        await setting.clear()
        await work(setting, 2)
        records = await setting.database.fetch_all(write_table.select())
        written.append(sorted(tuple(record)[1:] for record in records))
    assert written[0] == written[1]
    assert len(written[0]) == (2_000 if name == "W6" else 2)


async def test_rows_are_of_the_kind_that_was_asked_for(setting: Setting) -> None:
    sql = f"{SELECT} WHERE id <= 2"
    for row in await setting.floor.fetch_all(sql, by_name=True):
        assert tuple(row[name] for name in COLUMNS) == tuple(dict(row).values())
    assert len(await setting.floor.fetch_all(sql, by_name=False)) == 2


async def test_tasks_tell_of_each_query(setting: Setting) -> None:
    (case,) = [case for case in CASES if case.name == "W9"]
    for work in (case.ours, case.floor):
        latencies = await work(setting, 120)
        assert latencies is not None
        assert len(latencies) == 120
        assert min(latencies) > 0


async def test_the_runner_reports_each_case(sqlite_url: str) -> None:
    measured = await run(sqlite_url, ["W1", "W9", "W10"], rounds=2)
    assert [result["case"] for result in measured["results"]] == ["W1", "W9"]
    for result in measured["results"]:
        assert result["wall_ratio"] == result["fastdb_wall"] / result["driver_wall"]
        assert result["cpu_ratio"] == result["fastdb_cpu"] / result["driver_cpu"]
    for side in ("fastdb", "driver"):
        assert measured["results"][1][f"{side}_p99"] >= measured["results"][1][f"{side}_p50"] > 0
    (weighed,) = measured["memory"]
    assert weighed["bytes_ratio"] == weighed["fastdb_bytes"] / weighed["driver_bytes"]
    assert measured["form"] == ("compiled" if fastdb.COMPILED else "pure")
    titles = [title for title, _ in workload_tables([measured | {"loop": "asyncio"}])]
    assert len(titles) == 4


def test_the_runner_names_an_unknown_case() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.runner", "sqlite://", "W99"],
        cwd=instructions.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "unknown cases W99; known are W1, " in done.stderr


def test_uvloop_is_taken_where_it_is_named() -> None:
    import uvloop

    assert loop_factory("asyncio") is None
    factory = loop_factory("uvloop")
    assert factory is not None
    loop = factory()
    loop.close()
    assert isinstance(loop, uvloop.Loop)


def test_percentiles_are_of_the_queries() -> None:
    cuts = percentiles([n / 1000 for n in range(101)])
    assert cuts == pytest.approx({"p50": 0.05, "p99": 0.099, "p99_p50": 1.98})


def test_memory_counts_each_object_once() -> None:
    text, number = "a" * 1000, 12345.5
    rows = [(text, number), (text, number)]
    shared = sys.getsizeof(text) + sys.getsizeof(number)
    assert held_bytes(rows) == sys.getsizeof(rows) + 2 * sys.getsizeof(rows[0]) + shared
    assert held_bytes([object]) == sys.getsizeof([object])  # a class is no part of a row


# -- operations


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_and_its_floor_run(name: str, closing: ExitStack) -> None:
    operation = OPERATIONS[name]
    for form_name in operation.forms:
        if form_name in (*FORMS, EITHER):
            operation.ours(Form(form_name, closing))(operation.inputs(2))
    if operation.floor_name != "asyncpg.Record's":
        operation.floor(Form(EITHER, closing))(operation.inputs(2))


def test_a_record_of_asyncpg_is_the_floor(postgresql_url: str, closing: ExitStack) -> None:
    operation = OPERATIONS['record["x"]']
    operation.floor(Form(EITHER, closing))(operation.inputs(2))


@pytest.mark.parametrize("form_name", FORMS)
@pytest.mark.parametrize("name", [operation.name for operation in bench_cache.OPERATIONS])
def test_what_is_timed_is_found_in_the_cache(
    form_name: str, name: str, closing: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, operation = Form(form_name, closing), OPERATIONS[name]
    cache = bench_cache.make_cache(form)
    monkeypatch.setattr(bench_cache, "make_cache", lambda form: cache)
    operation.ours(form)(operation.inputs(10))
    info = cache.info()
    assert info.misses <= 2
    assert info.hits >= 8


def test_inputs_are_fresh_where_they_have_to_be() -> None:
    inputs = list(OPERATIONS["IN with 5 values, on top of its build"].inputs(3))
    assert len({id(query) for query in inputs}) == 3
    assert list(OPERATIONS["record.x"].inputs(3)) == [None] * 3


def test_a_statement_runs_for_each_input() -> None:
    seen: list[Any] = []
    statement("append(given)\nappend(n)", append=seen.append, n=7)([1, 2])
    assert seen == [1, 7, 2, 7]
    assert gc.isenabled()


def test_tables_tell_what_is_wanted_of_the_compiled_form() -> None:
    result = {
        "subject": "Things",
        "operation": "doing it",
        "form": "compiled",
        "seconds": 3e-6,
        "floor": "not doing it",
        "floor_seconds": 6e-9,
        "ratio": 500.0,
        "wanted_seconds": 2e-6,
        "wanted_ratio": None,
    }
    pure = result | {"form": "pure"}
    met = result | {"wanted_seconds": None, "wanted_ratio": 600.0}
    ((title, lines),) = micro_tables([result, pure, met])
    assert title == "Things, best of rounds"
    row = "| doing it | {} | 3.00 µs | not doing it | 6.0 ns | 500.00 | {} |"
    assert lines[2:] == [
        row.format("compiled", "≤ 2.00 µs: more"),
        row.format("pure", ""),
        row.format("compiled", "≤ 600.00"),
    ]
    assert [duration(1.5), duration(2.5e-3)] == ["1.50 s", "2.50 ms"]


# -- the count of instructions

DUMP = """\
# callgrind format
version: 1
creator: callgrind-3.19.0
pid: 5526
cmd:  python -m benchmarks.counting
part: 2


desc: I1 cache:
desc: Timerange: Basic block 1 - 2
desc: Trigger: Client Request: {label}

positions: line
events: Ir
summary: 999

fn=(1) PyObject_Malloc
16 400

totals: {total}
"""
TURNS = 400


def operation(name: str, size: int = 1) -> Operation:
    def loop(form: Form) -> Any:
        return statement("pass")

    return Operation(name, loop, "nothing", loop, size=size)


def test_dumps_give_the_totals_of_loops() -> None:
    dumps = [
        DUMP.format(label="0 400 a fresh select, on top", total=1000),
        DUMP.format(label='2 1200 record["x"]', total=2500),
        DUMP.format(label="0 400 x", total=1).replace("Client Request: 0 400 x", "Program end"),
        "version: 1\n",
    ]
    assert parse_dumps(dumps) == {
        ("a fresh select, on top", 0, 400): 1000,
        ('record["x"]', 2, 1200): 2500,
    }


def test_a_cost_is_the_median_of_the_layouts() -> None:
    doing = operation("doing", size=20)
    turns = turns_of(doing)
    totals = {}
    for layout, each in enumerate((100, 103, 90)[:LAYOUTS]):
        # What a loop costs whatever its turns falls out.
        totals["doing", layout, turns] = 5000 + each * turns * 20
        totals["doing", layout, 3 * turns] = 5000 + each * 3 * turns * 20
    assert cost(doing, totals) == 100
    del totals["doing", 1, turns]
    with pytest.raises(Stop, match="callgrind has no figure for"):
        cost(doing, totals)


@pytest.mark.parametrize(
    ("before", "now", "failed"),
    [
        (1000.0, 1020.0, False),
        (1000.0, 1020.1, True),
        (1000.0, 500.0, False),
        (None, 1000.0, False),
    ],
)
def test_two_percent_more_fail(before: float | None, now: float, failed: bool) -> None:
    assert Comparison("doing", before, now).failed is failed


def test_what_was_accepted_may_be_more() -> None:
    accepted = (Acceptance("doing", 0.05, "safer"), Acceptance("doing", 0.1, "shorter"))
    assert not Comparison("doing", 1000, 1000 * 1.05 * 1.1 * 1.019, accepted).failed
    assert Comparison("doing", 1000, 1000 * 1.05 * 1.1 * 1.021, accepted).failed
    assert Comparison("doing", 1000, 1100, accepted).cells() == [
        "doing",
        "1,000.0",
        "1,100.0",
        "+10.00%",
        "accepted +5.0%: safer; accepted +10.0%: shorter",
    ]


def test_trailers_are_read() -> None:
    assert parse_trailer("record[0] +5 %: checks negative positions: all") == Acceptance(
        "record[0]", 0.05, "checks negative positions: all"
    )
    text = " a fresh select by key, on top of its build +2.5%: why not "
    assert parse_trailer(text) == Acceptance(
        "a fresh select by key, on top of its build", 0.025, "why not"
    )


@pytest.mark.parametrize("text", ["record[0]", "x +5 %", "x +5 %:", "x -5 %: y", "+5 %: y", "x 5"])
def test_unclear_trailers_are_none(text: str) -> None:
    assert parse_trailer(text) is None


class Repository:
    """A git repository with commits that change nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *words: str) -> str:
        environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        environment |= {
            f"GIT_{who}_{what}": "someone@example.org"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        return subprocess.check_output(
            ["git", *words], cwd=self.folder, env=environment, text=True
        ).strip()

    def commit(self, message: str) -> str:
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    folder = tmp_path / "repository"
    folder.mkdir()
    return Repository(folder)


def test_no_repository_and_a_first_commit_have_no_base(
    repository: Repository, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert find_base(empty) is None
    repository.commit("first")
    assert find_base(repository.folder) is None


def test_the_history_of_another_project_is_no_base(repository: Repository) -> None:
    repository.commit("first")
    repository.commit("second")
    unpacked = repository.folder / "unpacked"
    unpacked.mkdir()
    assert find_base(unpacked) is None


def test_the_base_on_main_is_the_parent(repository: Repository) -> None:
    first = repository.commit("first")
    repository.commit("second")
    base = find_base(repository.folder)
    assert base == Base(first, "HEAD's parent: HEAD itself is on main")


def test_the_base_of_a_branch_is_where_it_left_main(repository: Repository) -> None:
    first = repository.commit("first")
    repository.git("checkout", "--quiet", "-b", "branch")
    repository.commit("second")
    repository.commit("third")
    assert find_base(repository.folder) == Base(first, "where HEAD left main")


def test_the_base_of_a_clone_is_where_it_left_origin(
    repository: Repository, tmp_path: Path
) -> None:
    first = repository.commit("first")
    repository.git("clone", "--quiet", ".", str(tmp_path / "clone"))
    clone = Repository(tmp_path / "clone")
    clone.commit("second")
    clone.commit("third")
    # Its own main is ahead of the other's.
    assert find_base(clone.folder) == Base(first, "where HEAD left origin/main")


def test_a_shallow_clone_has_no_base(repository: Repository, tmp_path: Path) -> None:
    repository.commit("first")
    second = repository.commit("second")
    source = repository.folder.as_uri()
    repository.git("clone", "--quiet", "--depth=1", source, str(tmp_path / "clone"))
    assert find_base(tmp_path / "clone") is None
    assert find_base(tmp_path / "clone", "HEAD") == Base(second, "named by --base")


def test_a_base_that_is_no_commit_is_refused(repository: Repository) -> None:
    repository.commit("first")
    with pytest.raises(Stop, match="'nothing' is no commit"):
        find_base(repository.folder, "nothing")


def test_nothing_to_compare_with_is_said_and_passes(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.commit("first")
    assert instructions.check(repository.folder, None)
    assert "nothing was compared" in capsys.readouterr().out


def test_trailers_are_those_since_the_base(repository: Repository) -> None:
    repository.commit("first\n\nInstructions: old +1 %: long ago")
    first = repository.git("rev-parse", "HEAD")
    repository.commit("second\n\nText.\n\nInstructions: a +1 %: one\nInstructions: b +2 %: two")
    repository.commit("third\n\nInstructions: c +3 %: no trailer\n\nas text follows")
    repository.commit("fourth")
    assert trailers(repository.folder, first) == ["a +1 %: one", "b +2 %: two"]


@pytest.mark.parametrize(
    ("trailer", "passes"),
    [
        ("", False),
        ("Instructions: doing +30 %: it does more", True),
        ("Instructions: doing +10 %: it does more", False),
        ("Instructions: doing +30 %", False),
        ("Instructions: other +30 %: it does more", False),
    ],
)
def test_the_verdict(
    repository: Repository, capsys: pytest.CaptureFixture[str], trailer: str, passes: bool
) -> None:
    first = repository.commit("first")
    repository.commit(f"second\n\n{trailer}")
    before = Counted({"doing": 100.0, "gone": 1.0}, {"new": "AttributeError: no new"})
    now = Counted({"doing": 130.0, "new": 5.0}, {})
    assert judge(repository.folder, first, before, now) is passes
    printed = capsys.readouterr().out
    assert "| new |  | 5.0 |  | new |" in printed
    assert "the commit before cannot do 'new': AttributeError: no new" in printed
    assert "+30.00%" in printed
    assert ("more instructions than before" in printed) is not passes
    assert ("not understood" in printed) is trailer.endswith("30 %")
    assert ("no operation 'other'" in printed) is ("other" in trailer)


def test_what_this_checkout_cannot_do_fails(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    first = repository.commit("first")
    before, now = Counted({"doing": 1.0}, {}), Counted({}, {"doing": "TypeError: odd"})
    assert not judge(repository.folder, first, before, now)
    assert "this checkout cannot do 'doing': TypeError: odd" in capsys.readouterr().out


def test_the_checkout_is_copied_as_it_stands(repository: Repository, tmp_path: Path) -> None:
    folder = repository.folder
    (folder / ".gitignore").write_text("*.so\n")
    for name in ("kept", "changed", "removed"):
        (folder / name).write_text("committed")
    repository.git("add", ".")
    commit = repository.commit("first")
    (folder / "changed").write_text("here")
    (folder / "new").write_text("here")
    (folder / "core.so").write_text("built")
    (folder / "removed").unlink()
    instructions.copy_checkout(folder, tmp_path / "now")
    instructions.copy_commit(folder, commit, tmp_path / "before")
    assert contents(tmp_path / "now") == {
        ".gitignore": "*.so\n",
        "kept": "committed",
        "changed": "here",
        "new": "here",
    }
    assert contents(tmp_path / "before") == {
        ".gitignore": "*.so\n",
        "kept": "committed",
        "changed": "committed",
        "removed": "committed",
    }


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_missing_valgrind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(Stop, match=r"valgrind is missing .* apt-get install valgrind"):
        instructions.need_valgrind()


def test_missing_headers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "false")
    with pytest.raises(Stop, match="it needs valgrind's headers"):
        instructions.make_library(tmp_path)
    monkeypatch.setenv("CC", str(tmp_path / "nothing"))
    with pytest.raises(Stop, match="no C compiler"):
        instructions.make_library(tmp_path)


def test_the_environment_chooses_no_other_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSTARTUP", "x")
    monkeypatch.setenv("FASTDB_NO_EXTENSIONS", "1")
    monkeypatch.setenv("SOMETHING", "else")
    environment = instructions.clean_environment(PYTHONHASHSEED="0")
    assert environment["SOMETHING"] == "else"
    mine = {
        name: value for name, value in environment.items() if name.startswith(("PYTHON", "FAST"))
    }
    assert mine == {"FASTDB_REQUIRE_EXTENSIONS": "1", "PYTHONHASHSEED": "0"}
