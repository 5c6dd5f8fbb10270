"""Migrations from inside an application."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.config import Config

import fastdb
from fastdb import migrations
from fastdb.migrations import MigrationError
from fastdb.testing import Sandbox
from tests.databases import dialect_of
from tests.faults.conftest import is_whole
from tests.migrations.conftest import NOTES, Project


async def tables(database: fastdb.Database) -> list[str]:
    return await database.run_sync(lambda c: sorted(sa.inspect(c).get_table_names()))


async def test_up_and_down(database: fastdb.Database, notes_project: Project) -> None:
    where: Any = {"directory": notes_project.directory}
    assert await migrations.heads(database, **where) == ("b2",)
    assert await migrations.current(database, **where) == ()
    assert await tables(database) == []  # asking makes nothing
    assert not await migrations.is_current(database, **where)
    await migrations.upgrade(database, **where)
    assert await migrations.current(database, **where) == ("b2",)
    assert await migrations.is_current(database, **where)
    await migrations.check(database, **where)
    await migrations.downgrade(database, "-1", **where)
    assert await migrations.current(database, **where) == ("a1",)
    await migrations.downgrade(database, "base", **where)
    assert await tables(database) == ["alembic_version"]
    await migrations.stamp(database, "head", **where)
    assert await migrations.current(database, **where) == ("b2",)
    scripts = await migrations.history(database, **where)
    assert [script.revision for script in scripts] == ["b2", "a1"]
    assert is_whole(database)


async def test_revision_and_check(database: fastdb.Database, project: Project) -> None:
    where: Any = {"config": project.root / "alembic.ini"}
    with pytest.raises(migrations.SchemaDiffersError, match="add_table") as caught:
        await migrations.check(database, **where)
    assert caught.value.diffs[0][0] == "add_table"
    path = await migrations.revision(database, "first notes", **where)
    assert path.parent == project.directory / "versions"
    assert "op.create_table('notes'" in path.read_text()
    with pytest.raises(MigrationError, match="run `upgrade head` first"):
        await migrations.revision(database, "second", **where)
    with pytest.raises(MigrationError, match="run `upgrade head` first"):
        await migrations.check(database, **where)
    await migrations.upgrade(database, **where)
    await migrations.check(database, **where)
    empty = await migrations.revision(database, "by hand", autogenerate=False, **where)
    assert "pass" in empty.read_text()
    assert is_whole(database)


async def test_sql(database: fastdb.Database, notes_project: Project) -> None:
    where: Any = {"directory": notes_project.directory}
    up = await migrations.sql(database, "base:head", **where)
    assert "CREATE TABLE notes" in up
    assert "ALTER TABLE notes ADD" in up
    assert "CREATE TABLE" not in await migrations.sql(database, "a1:b2", **where)
    assert "DROP TABLE notes" in await migrations.sql(database, "a1:base", **where)
    assert await tables(database) == []


async def test_a_rollback_takes_it_back(
    server_url: str, sqlite_url: str, notes_project: Project
) -> None:
    where: Any = {"directory": notes_project.directory}
    urls = [sqlite_url] if server_url.startswith("mysql") else [sqlite_url, server_url]
    for url in urls:
        async with fastdb.Database(url) as database:
            async with database.transaction(force_rollback=True):
                await migrations.upgrade(database, **where)
                assert await migrations.is_current(database, **where)
                await migrations.downgrade(database, "a1", **where)
                assert await migrations.current(database, **where) == ("a1",)
            assert await tables(database) == []
            async with database.transaction():
                await migrations.upgrade(database, **where)
            assert await tables(database) == ["alembic_version", "notes"]
            await migrations.downgrade(database, "base", **where)
        async with fastdb.Database(url, force_rollback=True) as database:
            await migrations.upgrade(database, **where)
            assert await migrations.is_current(database, **where)
        async with fastdb.Database(url) as database:
            assert await migrations.current(database, **where) == ()
            assert is_whole(database)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
async def test_a_sandbox_takes_it_back(
    server_url: str, sqlite_url: str, notes_project: Project, shared: bool
) -> None:
    where: Any = {"directory": notes_project.directory}
    for url in (sqlite_url, server_url):
        database = fastdb.Database(url)
        async with Sandbox(database, shared=shared):
            if dialect_of(url) == "mysql":
                with pytest.raises(MigrationError, match="outside of transactions"):
                    await migrations.upgrade(database, **where)
            else:
                await migrations.upgrade(database, **where)
                await migrations.check(database, **where)
                await database.execute("INSERT INTO notes (id) VALUES (1)")
                async with database.transaction(force_rollback=True):
                    await migrations.downgrade(database, "base", **where)
                    assert await tables(database) == ["alembic_version"]
                assert await migrations.is_current(database, **where)
                assert await database.fetch_all("SELECT id FROM notes") == [(1,)]
                await asyncio.create_task(migrations.downgrade(database, "a1", **where))
            assert "CREATE TABLE notes" in await migrations.sql(database, **where)
        async with database:
            assert await tables(database) == []
            assert is_whole(database)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
async def test_autocommit_blocks_are_refused_in_a_sandbox(
    postgresql_url: str, project: Project, shared: bool
) -> None:
    project.add(
        "a1",
        f"{NOTES}\n    with op.get_context().autocommit_block():\n        op.execute('SELECT 1')",
    )
    database = fastdb.Database(postgresql_url)
    async with Sandbox(database, shared=shared):
        with pytest.raises(MigrationError, match=r"autocommit_block\(\) would commit"):
            await migrations.upgrade(database, directory=project.directory)
        assert await tables(database) == []


async def test_mysql_refuses_to_migrate_in_a_transaction(
    mysql_url: str, notes_project: Project
) -> None:
    where: Any = {"directory": notes_project.directory}
    async with fastdb.Database(mysql_url) as database:
        async with database.transaction():
            with pytest.raises(MigrationError, match="outside of transactions"):
                await migrations.upgrade(database, **where)
            assert await migrations.current(database, **where) == ()
        assert await tables(database) == []


async def test_autocommit_blocks(database: fastdb.Database, project: Project) -> None:
    project.add(
        "a1",
        f"{NOTES}\n    with op.get_context().autocommit_block():\n        op.execute('SELECT 1')",
    )
    where: Any = {"directory": project.directory}
    if database.url.dialect != "mysql":
        with pytest.raises(MigrationError, match=r"autocommit_block\(\) would commit"):
            async with database.transaction():
                await migrations.upgrade(database, **where)
        assert await tables(database) == []
    if database.url.dialect == "sqlite":
        with pytest.raises(MigrationError, match="no meaning on SQLite"):
            await migrations.upgrade(database, **where)
        assert await tables(database) == []
    else:
        await migrations.upgrade(database, **where)
        assert await tables(database) == ["alembic_version", "notes"]
    assert is_whole(database)


async def test_an_index_is_created_concurrently(postgresql_url: str, project: Project) -> None:
    project.add(
        "a1",
        f"{NOTES}\n    with op.get_context().autocommit_block():\n"
        '        op.create_index("by_id", "notes", ["id"], postgresql_concurrently=True)',
    )
    async with fastdb.Database(postgresql_url) as database:
        await migrations.upgrade(database, directory=project.directory)
        indexes = await database.run_sync(lambda c: sa.inspect(c).get_indexes("notes"))
        assert [index["name"] for index in indexes] == ["by_id"]


async def test_where_the_migrations_are(
    notes_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    async with fastdb.Database("sqlite://") as database:
        monkeypatch.chdir(tmp_path / "empty")
        with pytest.raises(MigrationError, match="migrations init` makes them"):
            await migrations.upgrade(database)
        with pytest.raises(MigrationError, match="no folder of migrations 'x'"):
            await migrations.upgrade(database, directory="x")
        with pytest.raises(MigrationError, match=r"no file 'x\.ini'"):
            await migrations.upgrade(database, config="x.ini")
        with pytest.raises(MigrationError, match="give one"):
            await migrations.upgrade(database, directory="x", config="x.ini")
        config = Config(str(notes_project.root / "alembic.ini"))
        await migrations.upgrade(database, "a1", config=config)
        assert "connection" not in config.attributes
        monkeypatch.chdir(notes_project.root)
        await migrations.upgrade(database, "b2")
        os.unlink("alembic.ini")
        assert await migrations.is_current(database)


async def test_errors_name_the_way_out(database: fastdb.Database, notes_project: Project) -> None:
    where: Any = {"directory": notes_project.directory}
    with pytest.raises(MigrationError, match="`history` lists"):
        await migrations.upgrade(database, "nonsense", **where)
    with pytest.raises(MigrationError, match="`history` lists"):
        await migrations.downgrade(database, "nonsense", **where)
    with pytest.raises(MigrationError, match="`history` lists"):
        await migrations.sql(database, "nonsense:head", **where)
    notes_project.add("c3", "pass", after="a1")
    with pytest.raises(MigrationError, match="`merge heads`"):
        await migrations.upgrade(database, **where)
    assert await migrations.heads(database, **where) == ("b2", "c3")
    await migrations.upgrade(database, "heads", **where)
    assert await migrations.current(database, **where) == ("b2", "c3")
    await migrations.stamp(database, "b2", purge=True, **where)
    (notes_project.directory / "versions" / "b2.py").unlink()
    with pytest.raises(MigrationError, match="--purge"):
        await migrations.upgrade(database, **where)
    assert is_whole(database)


@pytest.mark.parametrize("template", ["generic", "async", "multidb"])
async def test_an_env_of_alembics_own_is_refused(template: str, notes_project: Project) -> None:
    import alembic

    source = Path(alembic.__file__).parent / "templates" / template / "env.py"
    (notes_project.directory / "env.py").write_text(source.read_text())
    async with fastdb.Database("sqlite://") as database:
        with pytest.raises(MigrationError, match="import run_env"):
            await migrations.upgrade(database, directory=notes_project.directory)
        assert await tables(database) == []


async def test_an_env_that_takes_its_engine_from_elsewhere_is_refused(project: Project) -> None:
    (project.directory / "env.py").write_text(
        "from alembic import context\nfrom elsewhere import get_engine\n"
        "with get_engine().connect() as connection:\n"
        "    context.configure(connection=connection)\n"
    )
    async with fastdb.Database("sqlite://") as database:
        with pytest.raises(MigrationError, match="import run_env"):
            await migrations.upgrade(database, directory=project.directory)


async def test_a_database_that_is_not_connected_is_told(notes_project: Project) -> None:
    with pytest.raises(fastdb.NotConnectedError, match="connect"):
        await migrations.upgrade(fastdb.Database("sqlite://"), directory=notes_project.directory)
