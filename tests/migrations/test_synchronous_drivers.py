"""Alembic and create_all() by synchronous drivers, as the pages of `databases` have it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import alembic
import pytest
import sqlalchemy as sa

import fastdb
from tests.databases import dialect_of
from tests.migrations.conftest import PASSWORD, Project

MODELS = """
import sqlalchemy as sa

metadata = sa.MetaData()
notes = sa.Table(
    "notes", metadata,
    sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.String(50)),
)
"""


def env_of_alembic(project: Project, url: str) -> None:
    """Let env.py be Alembic's own, with the lines of the recipe filled in.

    Args:
        project: Where.
        url: What is given to ``set_main_option()``, as code.
    """
    (project.root / "models.py").write_text(MODELS)
    source = Path(alembic.__file__).parent / "templates" / "generic" / "env.py"
    text = source.read_text()
    for old, new in (
        (
            "config = context.config\n",
            "config = context.config\n"
            "import os\nimport fastdb as databases\nfrom models import metadata\n"
            "DATABASE_URL = databases.DatabaseURL(os.environ['TEST_URL'])\n"
            f"config.set_main_option('sqlalchemy.url', {url})\n",
        ),
        ("target_metadata = None", "target_metadata = metadata"),
        ("fileConfig(config.config_file_name)", "pass"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (project.directory / "env.py").write_text(text)
    (project.root / "alembic.ini").write_text(
        "[alembic]\nscript_location = %(here)s/migrations\npath_separator = os\n"
        "prepend_sys_path = .\n"
    )


def tables(url: str) -> list[str]:
    async def read() -> list[str]:
        async with fastdb.Database(url) as database:
            return await database.run_sync(lambda c: sorted(sa.inspect(c).get_table_names()))

    return asyncio.run(read())


def test_the_recipe_of_the_pages(database_url: str, notes_project: Project) -> None:
    """To the letter, for plain URLs."""
    mysql = dialect_of(database_url) == "mysql"
    url = "DATABASE_URL.replace(driver='pymysql')" if mysql else "DATABASE_URL"
    env_of_alembic(notes_project, f"str({url})")
    notes_project.run("alembic", "upgrade", "head", url=database_url)
    notes_project.run("alembic", "check", url=database_url)
    assert tables(database_url) == ["alembic_version", "notes"]


def test_create_all_as_the_pages_have_it(database_url: str) -> None:
    url = fastdb.DatabaseURL(database_url)
    if url.dialect == "mysql":
        with pytest.raises(fastdb.InvalidURLError, match="driver='pymysql'"):
            url.replace(dialect="pymysql")
        url = url.replace(driver="pymysql")
    metadata = sa.MetaData()
    sa.Table("notes", metadata, sa.Column("id", sa.Integer, primary_key=True))
    engine = sa.create_engine(str(url))
    metadata.create_all(engine)
    engine.dispose()
    assert tables(database_url) == ["notes"]


def follow(project: Project, url: str, plain_url: str) -> None:
    """Do what people do with ``alembic_url`` and ``sync_url``."""
    env_of_alembic(project, "DATABASE_URL.alembic_url")
    project.run("alembic", "upgrade", "head", url=url)
    project.run("alembic", "check", url=url)
    engine = sa.create_engine(fastdb.DatabaseURL(url).sync_url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE notes"))
    engine.dispose()
    assert tables(plain_url) == ["alembic_version"]


@pytest.mark.parametrize("dialect", ["mysql", "mariadb"])
def test_mysql_by_any_url(
    dialect: str, secret_mysql_url: fastdb.DatabaseURL, notes_project: Project
) -> None:
    options = {"min_size": "1", "pool_recycle": "30", "charset": "utf8mb4"}
    url = secret_mysql_url.replace(scheme=f"{dialect}+aiomysql", options=options)
    follow(notes_project, str(url), str(secret_mysql_url))
    bare = str(url).replace("%40", "@")
    assert "%25s@x" in bare
    assert fastdb.DatabaseURL(bare).sync_url == url.sync_url


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg2", "psycopg"])
def test_postgresql_by_any_url(driver: str, postgresql_url: str, notes_project: Project) -> None:
    options = {"min_size": "2", "ssl": "false", "command_timeout": "3", "statement_cache_size": "0"}
    url = fastdb.DatabaseURL(postgresql_url).replace(
        driver=driver, password=PASSWORD, options=options
    )
    follow(notes_project, str(url), postgresql_url)


def test_sqlite_by_any_url(tmp_path: Path, notes_project: Project) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/a%25b c.db?foreign_keys=true&max_size=3&timeout=9"
    follow(notes_project, url, url)
    assert (tmp_path / "a%b c.db").exists()
