"""python -m fastdb.migrations."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

import fastdb
from tests.migrations.conftest import Project

MODULE = "fastdb.migrations"


def clear(project: Project) -> None:
    """Leave nothing but an empty folder."""
    (project.root / "alembic.ini").unlink()
    project.directory.rename(project.root.parent / "away")


def test_init_and_what_follows(project: Project, database_url: str) -> None:
    clear(project)
    told = project.run(MODULE, "init").stdout
    env = project.directory / "env.py"
    assert "line 10: DATABASE_URL" in told
    assert "line 11: metadata" in told
    (project.root / "models.py").write_text(
        "import sqlalchemy as sa\nmetadata = sa.MetaData()\n"
        "sa.Table('notes', metadata, sa.Column('id', sa.Integer, primary_key=True))\n"
    )
    env.write_text(env.read_text().replace("metadata = None", "from models import metadata"))
    environment: Any = {"DATABASE_URL": database_url}
    project.run(MODULE, "revision", "--autogenerate", "-m", "first", **environment)
    done = project.run(MODULE, "upgrade", "head", **environment)
    assert "Running upgrade" in done.stderr
    project.run(MODULE, "check", **environment)

    async def names() -> list[str]:
        async with fastdb.Database(database_url) as database:
            return await database.run_sync(lambda c: sorted(sa.inspect(c).get_table_names()))

    assert asyncio.run(names()) == ["alembic_version", "notes"]
    before = env.read_text()
    again = project.run(MODULE, "init", status=1)
    assert "already exists" in again.stderr
    assert env.read_text() == before


def test_init_takes_what_alembics_takes(project: Project) -> None:
    clear(project)
    assert "generic" in project.run(MODULE, "list_templates").stdout
    project.run(MODULE, "-c", "other.ini", "init", "made")
    assert "/made" in (project.root / "other.ini").read_text()
    assert "run_env" in (project.root / "made" / "env.py").read_text()
    project.run(MODULE, "-c", "third.ini", "init", "-t", "async", "theirs")
    assert "async_engine_from_config" in (project.root / "theirs" / "env.py").read_text()


def test_init_leaves_an_alembic_ini_alone(project: Project) -> None:
    before = (project.root / "alembic.ini").read_text()
    told = project.run(MODULE, "init", "elsewhere").stdout
    assert "script_location = elsewhere" in told
    assert (project.root / "alembic.ini").read_text() == before
    assert (project.root / "elsewhere" / "versions").is_dir()


def test_without_migrations_the_way_out_is_told(project: Project) -> None:
    clear(project)
    done = project.run(MODULE, "upgrade", "head", status=1)
    assert "`python -m fastdb.migrations init` makes them" in done.stderr


def test_a_folder_is_enough(notes_project: Project, sqlite_url: str) -> None:
    (notes_project.root / "alembic.ini").unlink()
    notes_project.run(MODULE, "upgrade", "head", url=sqlite_url)
    assert "b2" in notes_project.run(MODULE, "current", url=sqlite_url).stdout
    done = notes_project.run(MODULE, "upgrade", "nonsense", url=sqlite_url, status=1)
    assert "`history` lists" in done.stderr


def test_the_template_is_one_of_alembics(project: Project, tmp_path: Path) -> None:
    template = project.run(MODULE, "template").stdout.strip()
    command.init(Config(str(tmp_path / "made.ini")), str(tmp_path / "made"), template=template)
    assert "run_env(" in (tmp_path / "made" / "env.py").read_text()


def test_a_configuration_that_is_named_and_missing_is_told(
    notes_project: Project, sqlite_url: str
) -> None:
    for options, more in ((("-c", "x.ini"), ""), ((), "x.ini")):
        environment = {"ALEMBIC_CONFIG": more} if more else {}
        done = notes_project.run(
            MODULE, *options, "upgrade", "head", url=sqlite_url, status=1, **environment
        )
        assert "FAILED: there is no file 'x.ini'" in done.stderr


def test_what_goes_wrong_is_told_in_one_line(notes_project: Project, sqlite_url: str) -> None:
    for url, told in (
        ("postgresql://u:secret@127.0.0.1:1/x", "cannot connect to PostgreSQL at 127.0.0.1:1"),
        ("oracle://u:secret@h/x", "unknown scheme 'oracle'"),
        ("nonsense", "does not begin with a scheme"),
        (f"{sqlite_url}?speed=7", "'speed'"),
    ):
        done = notes_project.run(MODULE, "upgrade", "head", url=url, status=1)
        assert done.stderr.splitlines()[-1].startswith("FAILED: ")
        assert "Traceback" not in done.stderr
        assert "secret" not in done.stderr
        assert told in done.stderr
    done = notes_project.run(MODULE, "downgrade", "-1", url=sqlite_url, status=1)
    assert "`current` tells where" in done.stderr
    done = notes_project.run(MODULE, "--raiseerr", "downgrade", "-1", url=sqlite_url, status=1)
    assert "Traceback" in done.stderr
