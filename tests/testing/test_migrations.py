"""Tests of migrations in one import, in projects that are as they should be and in others."""

from __future__ import annotations

import asyncio
import inspect
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import fastdb.testing.migrations
from tests.databases import Session, dialect_of
from tests.migrations.conftest import NOTES, Project

CONFTEST = """
import os, pytest

@pytest.fixture(scope="session")
def fastdb_url():
    return os.environ.get("TEST_URL")

@pytest.fixture(scope="session")
def fastdb_migrations():
    return "migrations"

@pytest.fixture(scope="session")
def fastdb_metadata():
    return None
"""
Run = Callable[..., tuple[set[str], str]]
NAMES = (
    "test_a_downgrade_leaves_no_trace",
    "test_a_failing_migration_leaves_nothing",
    "test_each_migration_goes_up_down_and_up",
    "test_migrations_have_a_single_head",
    "test_migrations_upgrade_from_nothing",
    "test_models_and_migrations_agree",
)
DROP_NOTES = 'op.drop_table("notes")'
SCOPE = ("-o", "asyncio_default_fixture_loop_scope=function")
PLAIN = ("-p", "no:asyncio", "-p", "no:anyio", "-p", "no:xdist", "-p", "no:randomly")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Provide a project whose tests are the one import."""
    project = Project(tmp_path / "project")
    (project.root / "conftest.py").write_text(CONFTEST)
    (project.root / "test_schema.py").write_text("from fastdb.testing.migrations import *\n")
    return project


def run_pytest(project: Project, url: str, *options: str) -> tuple[set[str], str]:
    """Run the project's tests by pytest; return the names of those that fail, and what is told."""
    done = project.run(
        "pytest", "-q", "-rA", "-p", "no:cacheprovider", *(options or PLAIN), url=url, status=None
    )
    told = done.stdout + done.stderr
    assert done.returncode in (0, 1), told
    outcomes = re.findall(r"^(PASSED|FAILED) \S+::(\w+)", told, re.MULTILINE)
    results = {name: outcome for outcome, name in outcomes}
    assert sorted(results) == list(NAMES), told
    return {name for name, outcome in results.items() if outcome == "FAILED"}, told


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Provide the project's tests without a pytest of their own, which takes longer than they."""

    def run(project: Project, url: str, **fixtures: Any) -> tuple[set[str], str]:
        monkeypatch.setenv("TEST_URL", url)
        monkeypatch.chdir(project.root)
        values = {
            "fastdb_url": url,
            "fastdb_migrations": "migrations",
            "fastdb_metadata": None,
            "tmp_path": tmp_path,
            **fixtures,
        }
        told = {}
        for name in NAMES:
            test = getattr(fastdb.testing.migrations, name)
            wanted = inspect.signature(test).parameters
            try:
                test(**{name: values[name] for name in wanted})
            except (Exception, pytest.fail.Exception) as error:
                told[name] = "".join(traceback.format_exception(error))
        return set(told), "\n".join(told.values())

    return run


def databases(url: str) -> list[str]:
    """Return the databases of a server that such tests have left beside the one of `url`."""
    if dialect_of(url) == "sqlite":
        return []
    beginning = f"test_{fastdb.DatabaseURL(url).database}_migrations_"
    with Session(url) as session:
        query = "SHOW DATABASES"
        if session.dialect == "postgresql":
            query = "SELECT datname FROM pg_database"
        return [name for (name,) in session.run(query) if name.startswith(beginning)]


def tables(url: str) -> list[str]:
    async def read() -> list[str]:
        async with fastdb.Database(url) as database:
            return await database.run_sync(lambda c: sa.inspect(c).get_table_names())

    return asyncio.run(read())


def test_a_project_as_it_should_be_passes(database_url: str, project: Project) -> None:
    project.add_notes()
    failed, told = run_pytest(project, database_url)
    assert not failed, told
    assert databases(database_url) == []
    if dialect_of(database_url) == "sqlite":
        assert not (project.root.parent / "test.db").exists()
    else:
        assert tables(database_url) == []


@pytest.mark.parametrize(
    "options",
    [
        ("--asyncio-mode=auto", *SCOPE, "-p", "no:anyio"),
        ("--asyncio-mode=strict", *SCOPE, "-p", "no:anyio"),
        ("-p", "no:asyncio", "-p", "anyio"),
        ("-n", "2", *SCOPE),
    ],
    ids=["asyncio-auto", "asyncio-strict", "anyio", "xdist"],
)
def test_it_runs_under_every_plugin(
    options: tuple[str, ...], sqlite_url: str, project: Project
) -> None:
    project.add_notes()
    failed, told = run_pytest(project, sqlite_url, *options)
    assert not failed, told


def test_it_runs_beside_tests_of_a_running_loop(sqlite_url: str, project: Project) -> None:
    project.add_notes()
    (project.root / "test_schema.py").write_text(
        "from fastdb.testing.migrations import *\n"
        "import asyncio, pytest\n\n"
        "@pytest.fixture(autouse=True)\n"
        "async def on_a_loop():\n"
        "    yield asyncio.get_running_loop()\n"
    )
    failed, told = run_pytest(project, sqlite_url, "--asyncio-mode=auto", *SCOPE)
    assert not failed, told


def test_two_heads_fail(database_url: str, project: Project, run: Run) -> None:
    project.add_notes()
    project.add("c3", "pass", after="a1")
    failed, told = run(project, database_url)
    assert "there are 2 heads: 'b2', 'c3'" in told
    assert "merge heads" in told
    assert "test_migrations_have_a_single_head" in failed
    assert "test_migrations_upgrade_from_nothing" not in failed


def test_a_migration_that_does_not_run_fails(database_url: str, project: Project, run: Run) -> None:
    project.add_notes()
    project.add("c3", "op.drop_table('nowhere')", after="b2")
    failed, told = run(project, database_url)
    assert failed == {*NAMES} - {"test_migrations_have_a_single_head"}
    assert "nowhere" in told
    assert databases(database_url) == []


def test_a_downgrade_that_forgets_a_table_fails(
    database_url: str, project: Project, run: Run
) -> None:
    project.add_notes()
    project.add("c3", "op.create_table('forgotten', sa.Column('id', sa.Integer))", after="b2")
    failed, told = run(project, database_url)
    assert "the downgrade of 'c3' leaves" in told
    assert "forgotten" in told
    assert failed == {
        "test_a_downgrade_leaves_no_trace",
        "test_each_migration_goes_up_down_and_up",
        "test_models_and_migrations_agree",
    }


def test_a_downgrade_that_forgets_what_can_be_repeated_fails(
    database_url: str, project: Project, run: Run
) -> None:
    project.add_notes()
    project.add("c3", "op.execute('CREATE OR REPLACE VIEW seen AS SELECT 1 AS one')", after="b2")
    if dialect_of(database_url) == "sqlite":
        path = project.directory / "versions" / "c3.py"
        path.write_text(path.read_text().replace("OR REPLACE VIEW", "VIEW IF NOT EXISTS"))
    failed, told = run(project, database_url)
    assert failed == {"test_a_downgrade_leaves_no_trace"}, told
    assert "the downgrade of 'c3' leaves view seen" in told


def test_models_that_differ_fail(database_url: str, project: Project, run: Run) -> None:
    project.add("a1", NOTES, DROP_NOTES)
    failed, told = run(project, database_url)
    assert failed == {"test_models_and_migrations_agree"}
    assert "models and migrations differ" in told
    assert "add_column" in told


def test_models_of_the_fixture_take_the_place_of_the_environments(
    sqlite_url: str, project: Project, run: Run
) -> None:
    project.add("a1", NOTES, DROP_NOTES)
    metadata = sa.MetaData()
    sa.Table("notes", metadata, sa.Column("id", sa.Integer, primary_key=True))
    failed, told = run(project, sqlite_url, fastdb_metadata=metadata)
    assert not failed, told


def test_a_migration_that_commits_on_its_way_fails(
    postgresql_url: str, project: Project, run: Run
) -> None:
    project.add_notes()
    project.add(
        "c3",
        "with op.get_context().autocommit_block():\n"
        "        op.execute('CREATE TABLE kept (x int)')",
        "op.drop_table('kept')",
        after="b2",
    )
    failed, told = run(project, postgresql_url)
    assert failed == {"test_a_failing_migration_leaves_nothing", "test_models_and_migrations_agree"}
    assert "'c3', where it fails at its end, leaves" in told
    assert "table kept" in told
    assert "a second run failed" in told


def test_a_migration_that_commits_and_can_be_repeated_passes(
    postgresql_url: str, project: Project, run: Run
) -> None:
    project.add_notes()
    project.add(
        "c3",
        "with op.get_context().autocommit_block():\n"
        "        op.create_index('by_text', 'notes', ['text'], postgresql_concurrently=True, "
        "if_not_exists=True)",
        "op.drop_index('by_text')",
        after="b2",
    )
    env = project.directory / "env.py"
    env.write_text(
        env.read_text().replace("run_env(", 'sa.Index("by_text", notes.c.text)\nrun_env(')
    )
    failed, told = run(project, postgresql_url)
    assert not failed, told


def test_rows_that_are_committed_on_the_way_fail(
    server_url: str, project: Project, run: Run
) -> None:
    project.add_notes()
    insert = "op.execute(\"INSERT INTO notes (text) VALUES ('a')\")"
    if dialect_of(server_url) == "mysql":
        insert = "op.execute(\"INSERT INTO notes (id, text) VALUES (NULL, 'a')\")"
    project.add("c3", f"with op.get_context().autocommit_block():\n        {insert}", after="b2")
    failed, told = run(project, server_url)
    assert failed == {"test_a_failing_migration_leaves_nothing"}, told
    assert "leaves 1 rows in" in told
    assert "a second run leaves 2 rows in" in told


def test_a_migration_without_a_way_back_is_passed_over(
    database_url: str, project: Project, run: Run
) -> None:
    project.add_notes()
    project.add("c3", "op.execute('DELETE FROM notes')", "raise NotImplementedError", after="b2")
    project.add("d4", "pass", after="c3")
    failed, told = run(project, database_url)
    assert not failed, told


def test_branches_and_dependencies(database_url: str, project: Project, run: Run) -> None:
    """Migrations run in their order, each once, whatever follows or needs whatever."""
    project.add_notes()
    made = "op.create_table('{0}', sa.Column('id', sa.Integer))"
    project.add("c3", made.format("c"), "op.drop_table('c')", after="a1")
    project.add("d4", "op.execute('INSERT INTO c VALUES (1)')", "op.execute('DELETE FROM c')")
    change(project, "d4", "down_revision = None", "down_revision = 'c3'")
    project.add("e5", "op.drop_table('c')", made.format("c"))
    change(project, "e5", "down_revision = None", "down_revision = ('b2', 'd4')")
    failed, told = run(project, database_url)
    assert not failed, told
    project.add("f6", "op.execute('DELETE FROM notes')")
    change(project, "f6", "down_revision = None", "down_revision = None\ndepends_on = 'b2'")
    failed, told = run(project, database_url)
    assert failed == {"test_migrations_have_a_single_head"}, told


def change(project: Project, revision: str, old: str, new: str) -> None:
    path = project.directory / "versions" / f"{revision}.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_one_of_several_databases(database_url: str, project: Project, run: Run) -> None:
    project.add_notes()
    env = project.directory / "env.py"
    env.write_text(
        env.read_text().replace(
            'run_env(os.environ.get("TEST_URL", ""), target_metadata=metadata)',
            'run_env({"one": os.environ["TEST_URL"], "two": "sqlite:///two.db"}, '
            'target_metadata={"one": metadata, "two": sa.MetaData()})',
        )
    )
    for path in (project.directory / "versions").iterdir():
        text = path.read_text()
        path.write_text(re.sub(r"(up|down)grade\(\)", r"\1grade(engine_name)", text))
    failed, told = run(project, database_url)
    assert not failed, told
    assert not (project.root / "two.db").exists()


def test_what_is_missing_is_told(sqlite_url: str, project: Project, run: Run) -> None:
    failed, told = run(project, "")
    assert failed == {*NAMES} - {"test_migrations_have_a_single_head"}
    assert "set FASTDB_TEST_URL, or override the session fixture fastdb_url" in told
    failed, told = run(project, sqlite_url, fastdb_migrations="elsewhere")
    assert failed == {*NAMES}
    assert "no folder of migrations 'elsewhere'" in told
    assert "override the session fixture fastdb_migrations" in told


def test_the_defaults_are_those_of_the_commands(
    sqlite_url: str, project: Project, run: Run
) -> None:
    project.add_notes()
    for value in (None, "alembic.ini"):
        failed, told = run(project, sqlite_url, fastdb_migrations=value)
        assert not failed, told


def test_an_unreachable_server_is_told(project: Project) -> None:
    project.add_notes()
    failed, told = run_pytest(project, "postgresql://u:secret@127.0.0.1:1/x")
    assert failed == {*NAMES} - {"test_migrations_have_a_single_head"}
    assert "ConnectionFailedError" in told
    assert "secret" not in told


def test_dialects_have_other_names(server_url: str, project: Project, run: Run) -> None:
    project.add_notes()
    names = {"postgresql": "postgres", "mysql": "mariadb"}
    dialect = dialect_of(server_url)
    failed, told = run(project, server_url.replace(dialect, names[dialect], 1))
    assert not failed, told
    assert databases(server_url) == []
