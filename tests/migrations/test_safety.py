"""A migration happens once, and as a whole where the server can do that."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import fastdb
from fastdb import migrations
from fastdb.migrations import FailedMigrationError, MigrationError, locks
from tests.databases import dialect_of
from tests.faults.conftest import eventually, is_whole
from tests.migrations.conftest import NOTES, Project
from tests.migrations.test_commands import tables

FAILS = f"""{NOTES}
    op.execute("INSERT INTO notes (id) VALUES (1)")
    op.execute("SELECT * FROM nowhere")"""


async def test_a_failed_migration_leaves_nothing(
    database: fastdb.Database, project: Project
) -> None:
    project.add("a1", 'op.create_table("first", sa.Column("id", sa.Integer))')
    project.add("b2", FAILS, after="a1")
    where: Any = {"directory": project.directory}
    if database.url.dialect == "mysql":
        with pytest.raises(FailedMigrationError, match=r"'b2' failed.*at revision 'a1'") as failed:
            await migrations.upgrade(database, **where)
        assert failed.value.revision == "b2"
        assert [sql[:18] for sql in failed.value.stayed] == [
            "CREATE TABLE notes",
            "INSERT INTO notes ",
        ]
        assert isinstance(failed.value.__cause__, sa.exc.ProgrammingError)
        assert await migrations.current(database, **where) == ("a1",)
        assert await database.fetch_all("SELECT * FROM notes") == [(1,)]
    else:
        with pytest.raises(sa.exc.DBAPIError, match="nowhere") as caught:
            await migrations.upgrade(database, **where)
        told = "".join(traceback.format_exception(caught.value))
        assert "migration 'b2' failed; nothing of it was kept" in told
        assert await tables(database) == []
    await eventually(lambda: is_whole(database), "the return of the connection")


def test_from_the_command_line_too(database_url: str, project: Project) -> None:
    project.add("a1", FAILS)
    done = project.run("alembic", "upgrade", "head", url=database_url, status=1)
    assert "nowhere" in done.stderr
    if database_url.startswith("mysql"):
        assert "stayed: CREATE TABLE notes" in done.stderr
    else:
        assert "nothing of it was kept" in done.stderr

        async def read() -> list[str]:
            async with fastdb.Database(database_url) as database:
                return await tables(database)

        assert asyncio.run(read()) == []


async def test_of_a_failed_migration_without_ddl_nothing_stays(
    mysql_url: str, project: Project
) -> None:
    project.add("a1", NOTES)
    insert = 'op.execute("INSERT INTO notes (id) VALUES (1)")'
    project.add("b2", f"{insert}\n    op.execute('SELECT * FROM nowhere')", after="a1")
    project.add("c3", f"{insert}\n    op.execute('DROP TABLE nowhere')", after="a1")
    where: Any = {"directory": project.directory}
    async with fastdb.Database(mysql_url) as database:
        await migrations.upgrade(database, "a1", **where)
        with pytest.raises(FailedMigrationError, match="as before, and of 'b2' stayed: nothing"):
            await migrations.upgrade(database, "b2", **where)
        assert await database.fetch_all("SELECT * FROM notes") == []
        with pytest.raises(FailedMigrationError, match="of 'c3' stayed: INSERT INTO notes"):
            await migrations.upgrade(database, "c3", **where)
        assert await database.fetch_all("SELECT * FROM notes") == [(1,)]


async def test_ten_at_once_migrate_once(
    database_url: str, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.add("a1", NOTES)
    project.add("b2", "op.execute('INSERT INTO notes (id) VALUES (7)')", after="a1")
    where: Any = {"directory": project.directory}

    async def start() -> None:
        async with fastdb.Database(database_url) as database:
            await migrations.upgrade(database, **where)

    with caplog.at_level(logging.INFO, "fastdb.migrations"):
        await asyncio.gather(*(start() for _ in range(10)))
    messages = [record.message for record in caplog.records if "upgraded" in record.message]
    assert messages == ["upgraded; the database is at a1", "upgraded; the database is at b2"]
    async with fastdb.Database(database_url) as database:
        assert await database.fetch_all("SELECT id FROM notes") == [(7,)]


REPLICA = """
import asyncio, logging, sys
import fastdb
from fastdb import migrations

async def main():
    async with fastdb.Database(sys.argv[1]) as database:
        sys.stdin.read()  # until all are started
        await migrations.upgrade(database)
        assert await migrations.is_current(database)

logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
asyncio.run(main())
"""


def start_replicas(project: Project, url: str, number: int) -> list[str]:
    """Let processes upgrade at once; return what they tell of it."""
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", REPLICA, url],
            cwd=project.root,
            env=os.environ | {"PYTHONPATH": str(Path(fastdb.__file__).parent.parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(number)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    told: list[str] = []
    for process in started:
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        told += [line for line in out.splitlines() if line.startswith("upgraded")]
    return told


def test_processes_that_start_at_once_migrate_once(database_url: str, project: Project) -> None:
    sleep = {"sqlite": "SELECT 1", "postgresql": "SELECT pg_sleep(0.5)", "mysql": "DO SLEEP(0.5)"}
    project.add("a1", f"{NOTES}\n    op.execute({sleep[dialect_of(database_url)]!r})")
    project.add("b2", "op.execute('INSERT INTO notes (id) VALUES (7)')", after="a1")
    told = start_replicas(project, database_url, 10)
    assert told == ["upgraded; the database is at a1", "upgraded; the database is at b2"]


def test_processes_that_wait_let_an_index_be_created_concurrently(
    postgresql_url: str, project: Project
) -> None:
    """It waits for every snapshot, and so for a statement that would wait for the lock."""
    project.add("a1", NOTES)
    project.add(
        "b2",
        "with op.get_context().autocommit_block():\n"
        "        op.execute('SELECT pg_sleep(0.5)')\n"
        '        op.create_index("by_id", "notes", ["id"], postgresql_concurrently=True)',
        after="a1",
    )
    told = start_replicas(project, postgresql_url, 10)
    assert told == ["upgraded; the database is at a1", "upgraded; the database is at b2"]


async def test_a_lock_that_others_keep_is_told(
    server_url: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.add("a1", NOTES)
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.2)
    async with fastdb.Database(server_url) as database, fastdb.Database(server_url) as other:
        dialect = database.url.dialect
        async with other.connection() as connection, locks.locked(connection, dialect, joins=False):
            with pytest.raises(MigrationError, match="has not ended within"):
                await migrations.upgrade(database, directory=project.directory)
            assert await migrations.current(database, directory=project.directory) == ()
        await migrations.upgrade(database, directory=project.directory)
        assert is_whole(database)


async def test_a_writer_is_waited_for_on_sqlite(sqlite_url: str, project: Project) -> None:
    """Longer than `busy_timeout` allows."""
    project.add("a1", NOTES)
    async with (
        fastdb.Database(sqlite_url, busy_timeout=1) as database,
        fastdb.Database(sqlite_url) as other,
    ):
        async with other.transaction(begin="immediate"):
            task = asyncio.create_task(migrations.upgrade(database, directory=project.directory))
            await asyncio.sleep(0.2)
            assert not task.done()
        await task
        assert await tables(database) == ["alembic_version", "notes"]


async def test_cancelled_it_leaves_nothing_and_no_lock(database_url: str, project: Project) -> None:
    project.add("a1", NOTES)
    where: Any = {"directory": project.directory}
    for turns in (0, 1, 3, 10, 30, 100, 300):
        async with fastdb.Database(database_url) as database:
            task = asyncio.create_task(migrations.upgrade(database, **where))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await eventually(lambda: is_whole(database), "the return of the connection")
            if database.url.dialect == "mysql":
                await database.execute("DROP TABLE IF EXISTS notes")
                await database.execute("DROP TABLE IF EXISTS alembic_version")
            else:
                made = await tables(database)
                assert made in ([], ["alembic_version", "notes"])
                assert await migrations.current(database, **where) == (("a1",) if made else ())
                if made:
                    await database.execute("DROP TABLE notes")
                    await database.execute("DROP TABLE alembic_version")
    async with fastdb.Database(database_url) as database:
        await migrations.upgrade(database, **where)
        assert await migrations.is_current(database, **where)


PARENTS = """
    op.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY, name TEXT)")
    op.execute("CREATE TABLE children (parent INTEGER REFERENCES parents ON DELETE CASCADE)")
    op.execute("INSERT INTO parents VALUES (1, 'a')")
    op.execute("INSERT INTO children VALUES (1)")"""
COPY = """with op.batch_alter_table("parents") as batch:
        batch.alter_column("name", type_=sa.String(9), nullable=False)"""


async def test_copying_a_table_spares_its_children(sqlite_url: str, project: Project) -> None:
    project.add("a1", PARENTS)
    project.add("b2", COPY, after="a1")
    where: Any = {"directory": project.directory}
    for url in (sqlite_url, "sqlite://"):
        async with fastdb.Database(url, foreign_keys=True) as database:
            await migrations.upgrade(database, "a1", **where)
            with pytest.raises(MigrationError, match="'children' refer"):
                async with database.transaction():
                    await migrations.upgrade(database, **where)
            assert await database.fetch_all("SELECT * FROM children") == [(1,)]
            await migrations.upgrade(database, **where)
            assert await database.fetch_all("SELECT * FROM children") == [(1,)]
            assert await database.fetch_val("PRAGMA foreign_keys") == 1
            with pytest.raises(fastdb.IntegrityError):
                await database.execute("INSERT INTO children VALUES (7)")


async def test_broken_foreign_keys_are_refused(sqlite_url: str, project: Project) -> None:
    project.add("a1", PARENTS)
    project.add("b2", "op.execute('DELETE FROM parents')", after="a1")
    project.add("c3", "pass", after="a1")
    where: Any = {"directory": project.directory}
    async with fastdb.Database(sqlite_url) as database:
        await migrations.upgrade(database, "a1", **where)
        with pytest.raises(MigrationError, match="1 of 'children' to 'parents'"):
            await migrations.upgrade(database, "b2", **where)
        assert await migrations.current(database, **where) == ("a1",)
        await database.execute("INSERT INTO children VALUES (9)")  # broken before
        await migrations.upgrade(database, "c3", **where)
        assert await migrations.current(database, **where) == ("c3",)


async def test_foreign_keys_are_on_again_after_a_failure(project: Project) -> None:
    project.add("a1", FAILS)
    async with fastdb.Database("sqlite://", foreign_keys=True) as database:
        with pytest.raises(sa.exc.DBAPIError):
            await migrations.upgrade(database, directory=project.directory)
        assert await database.fetch_val("PRAGMA foreign_keys") == 1
        assert await tables(database) == []
