"""env.py: Alembic's own command line over fastdb, and connections that others bring."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import create_async_engine

import fastdb
from fastdb.migrations import MigrationError
from tests.databases import dialect_of
from tests.migrations.conftest import Project


async def tables(url: str) -> list[str]:
    async with fastdb.Database(url) as database:
        return await database.run_sync(lambda c: sorted(sa.inspect(c).get_table_names()))


def configuration(project: Project, connection: object = None) -> Config:
    config = Config(str(project.root / "alembic.ini"))
    if connection is not None:
        config.attributes["connection"] = connection
    return config


async def test_alembics_command_line(database_url: str, notes_project: Project) -> None:
    run, url = notes_project.run, f"{database_url}?min_size=2&max_size=3&idle_timeout=9"
    run("alembic", "upgrade", "head", url=url)
    assert await tables(database_url) == ["alembic_version", "notes"]
    assert "b2" in run("alembic", "current", url=url).stdout
    assert "No new upgrade operations" in run("alembic", "check", url=url).stdout
    run("alembic", "downgrade", "-1", url=url)
    assert "a1" in run("alembic", "current", url=url).stdout
    behind = run("alembic", "revision", "--autogenerate", "-m", "x", url=url, status=255)
    assert "not up to date" in behind.stderr + behind.stdout
    run("alembic", "downgrade", "base", url=url)
    assert await tables(database_url) == ["alembic_version"]


async def test_autogenerate_finds_what_is_new(database_url: str, project: Project) -> None:
    project.run("alembic", "revision", "--autogenerate", "-m", "first", url=database_url)
    (made,) = (project.directory / "versions").glob("*.py")
    assert "op.create_table('notes'" in made.read_text()
    project.run("alembic", "upgrade", "head", url=database_url)
    project.run("alembic", "check", url=database_url)


@pytest.mark.parametrize(
    "url",
    ["sqlite:///x.db", "postgresql://u:p%25@nowhere/x?min_size=3", "mariadb://u:p%40%25@nowhere/x"],
)
def test_offline_sql(url: str, notes_project: Project) -> None:
    done = notes_project.run("alembic", "upgrade", "head", "--sql", url=url)
    assert "CREATE TABLE notes" in done.stdout
    assert "ALTER TABLE notes ADD" in done.stdout
    assert not (notes_project.root / "x.db").exists()


async def test_a_percent_sign_in_the_password(project: Project, postgresql_url: str) -> None:
    """The server trusts everyone; what counts is that nobody stumbles over the URL."""
    project.add_notes()
    url = fastdb.DatabaseURL(postgresql_url).replace(password="p%s@%(x)s")
    project.run("alembic", "upgrade", "head", url=str(url))
    assert "notes" in await tables(postgresql_url)


async def test_a_password_that_the_server_looks_at(
    notes_project: Project, secret_mysql_url: fastdb.DatabaseURL
) -> None:
    options = {"min_size": "2", "max_size": "3", "pool_recycle": "30", "charset": "utf8mb4"}
    for driver in ("aiomysql", "asyncmy"):
        url = secret_mysql_url.replace(driver=driver, options=options)
        notes_project.run("alembic", "upgrade", "+1", url=str(url).replace("%40", "@"))
        assert (
            "CREATE"
            in notes_project.run("alembic", "upgrade", "head", "--sql", url=str(url)).stdout
        )
    assert await tables(str(secret_mysql_url)) == ["alembic_version", "notes"]


async def test_dialects_have_other_names(server_url: str, notes_project: Project) -> None:
    names = {"postgresql": "postgres", "mysql": "mariadb"}
    dialect = dialect_of(server_url)
    url = server_url.replace(dialect, names[dialect], 1)
    told = notes_project.run("alembic", "upgrade", "head", "--sql", url=url).stdout
    assert "CREATE TABLE notes" in told
    notes_project.run("alembic", "upgrade", "a1", url=url)
    async with fastdb.Database(url) as database:
        where: Any = {"directory": notes_project.directory}
        await fastdb.migrations.upgrade(database, **where)
        assert await fastdb.migrations.is_current(database, **where)
        assert "CREATE TABLE notes" in await fastdb.migrations.sql(database, **where)
    assert await tables(server_url) == ["alembic_version", "notes"]


async def test_no_second_driver_is_imported(database_url: str, notes_project: Project) -> None:
    env = notes_project.directory / "env.py"
    env.write_text(
        env.read_text() + "\nimport sys\n"
        "assert not {'psycopg2', 'psycopg', 'MySQLdb'} & {*sys.modules}\n"
    )
    notes_project.run("alembic", "upgrade", "head", url=database_url)


async def test_inside_a_running_loop(
    database_url: str, notes_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_URL", database_url)
    command.upgrade(configuration(notes_project), "a1")
    assert "notes" in await tables(database_url)
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.connect() as connection:  # in a greenlet, with a connection to elsewhere
        await connection.run_sync(lambda _: command.upgrade(configuration(notes_project), "b2"))
    await engine.dispose()
    async with fastdb.Database(database_url) as database:
        assert await database.fetch_val("SELECT version_num FROM alembic_version") == "b2"


async def test_an_injected_connection_and_engine(notes_project: Project, tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    command.upgrade(configuration(notes_project, engine), "a1")
    with engine.connect() as connection:
        command.upgrade(configuration(notes_project, connection), "head")
        connection.rollback()
        assert connection.execute(sa.text("SELECT * FROM alembic_version")).all() == [("b2",)]
    engine.dispose()


def async_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    packages = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "mysql": "aiomysql"}
    if (package := packages.get(scheme)) is None:
        return url
    return f"{scheme}+{package}://{rest}"


async def test_an_injected_async_engine(database_url: str, notes_project: Project) -> None:
    engine = create_async_engine(async_url(database_url))
    async with engine.connect() as connection:
        await connection.execute(sa.text("SELECT 1"))
    command.upgrade(configuration(notes_project, engine), "a1")
    async with engine.connect() as connection:
        await connection.run_sync(lambda c: command.upgrade(configuration(notes_project, c), "b2"))
        await connection.commit()
    await engine.dispose()
    assert await tables(database_url) == ["alembic_version", "notes"]
    async with fastdb.Database(database_url) as database:
        assert await database.fetch_val("SELECT version_num FROM alembic_version") == "b2"


def test_an_async_engine_without_a_loop(notes_project: Project, sqlite_url: str) -> None:
    engine = create_async_engine(async_url(sqlite_url))
    command.upgrade(configuration(notes_project, engine), "head")
    assert "notes" in asyncio.run(tables(sqlite_url))


def test_a_database_of_fastdbs_is_no_connection_of_alembics(notes_project: Project) -> None:
    with pytest.raises(MigrationError, match=r"`await fastdb\.migrations\.upgrade\(database\)`"):
        command.upgrade(configuration(notes_project, fastdb.Database("sqlite://")), "head")


def test_what_cannot_be_used_as_a_connection_is_told(notes_project: Project) -> None:
    with pytest.raises(MigrationError, match="takes a Connection, Engine or AsyncEngine"):
        command.upgrade(configuration(notes_project, "sqlite://"), "head")


def several(project: Project, urls: dict[str, str]) -> None:
    (project.directory / "env.py").write_text(
        f"from fastdb.migrations import run_env\nrun_env({urls!r})\n"
    )
    upgrade = "op.execute(f'CREATE TABLE of_{engine_name} (id integer)')"
    project.add("a1", upgrade, arguments="engine_name")


async def test_several_databases(project: Project, tmp_path: Path) -> None:
    urls = {name: f"sqlite:///{tmp_path / name}.db" for name in ("one", "two")}
    several(project, urls)
    project.run("alembic", "upgrade", "head")
    for name, url in urls.items():
        assert await tables(url) == ["alembic_version", f"of_{name}"]
    script = project.run("alembic", "upgrade", "head", "--sql").stdout
    assert script.index("-- Database one") < script.index("CREATE TABLE of_one")
    assert script.index("CREATE TABLE of_one") < script.index("-- Database two")


async def test_migrations_of_several_databases_are_generated(
    project: Project, database_url: str, tmp_path: Path
) -> None:
    urls = {"my-app": f"sqlite:///{tmp_path / 'one.db'}", "two": database_url}
    (project.directory / "env.py").write_text(
        "import sqlalchemy as sa\nfrom fastdb.migrations import run_env\n"
        "app, two = sa.MetaData(), sa.MetaData()\n"
        "sa.Table('users', app, sa.Column('id', sa.Integer, primary_key=True))\n"
        "sa.Table('visits', two, sa.Column('id', sa.Integer, primary_key=True))\n"
        f"run_env({urls!r}, target_metadata={{'my-app': app, 'two': two}})\n"
    )
    project.run("alembic", "revision", "--autogenerate", "-m", "first")
    project.run("alembic", "upgrade", "head")
    project.run("alembic", "check")
    assert await tables(urls["my-app"]) == ["alembic_version", "users"]
    assert await tables(database_url) == ["alembic_version", "visits"]
    project.run("alembic", "revision", "-m", "by hand", "--rev-id", "b2")
    done = project.run("alembic", "upgrade", "head", status=255)
    assert "upgrade() of migration 'b2' does not ask which" in done.stdout + done.stderr
    done = project.run("alembic", "upgrade", "head", "--sql", status=255)
    assert "upgrade() of migration 'b2' does not ask which" in done.stdout + done.stderr
    project.run("alembic", "downgrade", "base")
    assert await tables(urls["my-app"]) == await tables(database_url) == ["alembic_version"]


async def test_one_of_several_databases(project: Project, tmp_path: Path) -> None:
    urls = {name: f"sqlite:///{tmp_path / name}.db" for name in ("one", "two")}
    several(project, urls)
    async with fastdb.Database(urls["two"]) as database:
        await fastdb.migrations.upgrade(database, directory=project.directory)
    assert await tables(urls["two"]) == ["alembic_version", "of_two"]
    assert not os.path.exists(tmp_path / "one.db")  # noqa: ASYNC240
    async with fastdb.Database("sqlite://") as database:
        with pytest.raises(MigrationError, match=r"in env\.py: 'one'"):
            await fastdb.migrations.upgrade(database, directory=project.directory)
    with pytest.raises(MigrationError, match="one connection is given"):
        command.upgrade(configuration(project, sa.create_engine("sqlite://")), "head")


def test_a_missing_url_is_told(notes_project: Project) -> None:
    done = notes_project.run("alembic", "upgrade", "head", status=255)
    assert "fill in DATABASE_URL" in done.stderr + done.stdout


def test_an_unreachable_server_is_told(notes_project: Project) -> None:
    done = notes_project.run(
        "alembic", "upgrade", "head", url="postgresql://u:secret@127.0.0.1:1/x", status=1
    )
    assert "ConnectionFailedError" in done.stderr
    assert "secret" not in done.stderr
