"""Alembic's commands from inside an application, on the pool of its Database."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import Script, ScriptDirectory

from fastdb.migrations.configuration import ATTRIBUTE, find, script_directory
from fastdb.migrations.environment import Run
from fastdb.migrations.errors import MigrationError, named
from fastdb.migrations.locks import alone_in_process
from fastdb.migrations.safety import is_joining, run_safely
from fastdb.url_text import driver_dialect

if TYPE_CHECKING:
    import sqlalchemy

    from fastdb.database import Database

__all__ = [
    "check",
    "current",
    "downgrade",
    "heads",
    "history",
    "is_current",
    "revision",
    "sql",
    "stamp",
    "upgrade",
]

T = TypeVar("T")
Where = str | Path | None


async def run_command(
    database: Database,
    function: Callable[[Config], T],
    config: Config,
    *,
    reads: bool = False,
) -> T:
    """Run one of Alembic's commands over a connection of `database`.

    Args:
        database: A connected Database.
        function: Runs the project's env.py.
        config: Ours, of :func:`fastdb.migrations.configuration.find`.
        reads: Whether nothing is changed; then nothing is locked.
    """
    script_directory(config)
    async with database.connection() as connection:
        joins = is_joining(connection)

        def work(synchronous: sqlalchemy.Connection) -> T:
            config.attributes["connection"] = synchronous
            run = config.attributes.get(ATTRIBUTE, Run(database.url))
            config.attributes[ATTRIBUTE] = run._replace(url=database.url, joins=joins)
            with named():
                return function(config)

        dialect = driver_dialect(database.url.dialect)
        return await run_safely(connection, dialect, work, reads=reads, alone=True)


async def upgrade(
    database: Database,
    revision: str = "head",
    *,
    directory: Where = None,
    config: Config | Where = None,
) -> None:
    """Migrate the database up to a revision; wait for others who do that now.

    Inside a transaction it joins that, and its rollback takes the migrations back; MySQL, which
    commits at DDL, refuses that.

    Args:
        database: A connected Database, whatever URL env.py names.
        revision: ``head``, ``heads``, an identifier, or relative: ``+1``.
        directory: The folder of the migrations; without it and `config`, ``alembic.ini`` in the
            working directory, else ``migrations``.
        config: Alembic's configuration, or its file.

    Raises:
        MigrationError: There are no migrations or no such revision, or several heads.
        FailedMigrationError: A migration failed on MySQL, which keeps what it has done so far.
            Elsewhere the migration's own error passes, and nothing stays.
    """
    found = find(directory, config)
    await run_command(database, partial(command.upgrade, revision=revision), found)


async def downgrade(
    database: Database,
    revision: str,
    *,
    directory: Where = None,
    config: Config | Where = None,
) -> None:
    """Migrate the database down to a revision, ``base`` or ``-1``; else as :func:`upgrade`."""
    found = find(directory, config)
    await run_command(database, partial(command.downgrade, revision=revision), found)


async def stamp(
    database: Database,
    revision: str = "head",
    *,
    purge: bool = False,
    directory: Where = None,
    config: Config | Where = None,
) -> None:
    """Note that the database is at a revision, without migrating.

    Args:
        database: A connected Database.
        revision: The revision.
        purge: Forget first where it was, also at a revision that no file has.
        directory: The folder of the migrations.
        config: Alembic's configuration, or its file.

    Raises:
        MigrationError: There are no migrations, or no such revision.
    """
    found = find(directory, config)
    await run_command(database, partial(command.stamp, revision=revision, purge=purge), found)


def _read_current(config: Config) -> tuple[str, ...]:
    found: tuple[str, ...] = ()

    def note(revisions: tuple[str, ...], context: Any) -> list[Any]:
        nonlocal found
        found = tuple(sorted(revisions))
        return []

    script = ScriptDirectory.from_config(config)
    with EnvironmentContext(config, script, fn=note, dont_mutate=True):
        script.run_env()
    return found


async def current(
    database: Database,
    *,
    directory: Where = None,
    config: Config | Where = None,
) -> tuple[str, ...]:
    """Return the revisions that the database is at: usually one, none before the first upgrade."""
    return await run_command(database, _read_current, find(directory, config), reads=True)


async def heads(
    database: Database,
    *,
    directory: Where = None,
    config: Config | Where = None,
) -> tuple[str, ...]:
    """Return the newest revisions of the folder: usually one, none where it is empty."""
    script = script_directory(find(directory, config))
    with named():
        return tuple(sorted(script.get_heads()))


async def is_current(
    database: Database,
    *,
    directory: Where = None,
    config: Config | Where = None,
) -> bool:
    """Return whether the database is at the newest revisions; nothing is locked or changed."""
    found = find(directory, config)
    newest = await heads(database, config=found)
    return await current(database, config=found) == newest


async def history(
    database: Database,
    *,
    directory: Where = None,
    config: Config | Where = None,
) -> tuple[Script, ...]:
    """Return the migrations of the folder, the newest first, as Alembic's ``Script`` objects."""
    script = script_directory(find(directory, config))
    with named():
        return tuple(script.walk_revisions())


async def revision(
    database: Database,
    message: str,
    autogenerate: bool = True,
    *,
    directory: Where = None,
    config: Config | Where = None,
) -> Path:
    """Write a new migration and return its path.

    Args:
        database: A connected Database, at the newest revision.
        message: What the migration does.
        autogenerate: Whether it gets what distinguishes the models from the database; it wants
            to be read before it is used.
        directory: The folder of the migrations.
        config: Alembic's configuration, or its file.

    Raises:
        MigrationError: The database is behind, there are several heads, or env.py has no models.
    """

    def write(config: Config) -> Path:
        made = command.revision(config, message, autogenerate=autogenerate)
        if isinstance(made, list):
            made = made[0]
        if made is None:
            raise MigrationError("env.py has let no migration be made")
        return Path(made.path)

    return await run_command(database, write, find(directory, config))


async def check(
    database: Database,
    *,
    directory: Where = None,
    config: Config | Where = None,
) -> None:
    """Raise where the schema of the database is not what the models say.

    Raises:
        SchemaDiffersError: They differ.
        MigrationError: The database is behind the migrations.
    """
    await run_command(database, command.check, find(directory, config))


async def sql(
    database: Database,
    revisions: str = "base:head",
    *,
    directory: Where = None,
    config: Config | Where = None,
) -> str:
    """Return migrations as SQL for the dialect of the database, which is not asked anything.

    Args:
        database: A Database; it need not be connected.
        revisions: From and to, such as ``base:head``; where the second is the older one, the SQL
            of the downgrade.
        directory: The folder of the migrations.
        config: Alembic's configuration, or its file.

    Raises:
        MigrationError: There is no such revision.
    """
    found = find(directory, config)
    script = script_directory(found)
    found.attributes[ATTRIBUTE] = Run(database.url)
    async with alone_in_process(joins=False):
        with named():
            function = command.downgrade if _goes_down(script, revisions) else command.upgrade
            function(found, revisions, sql=True)
    assert found.output_buffer is not None
    return str(getattr(found.output_buffer, "getvalue")())  # noqa: B009


def _goes_down(script: ScriptDirectory, revisions: str) -> bool:
    """Return whether ``from:to`` leads from a revision to an older one."""
    start, colon, end = revisions.partition(":")
    if not colon or start == "base" or start == end:
        return False
    if end == "base":
        return True
    (target,) = script.get_revisions(end)[:1] or (None,)
    older = {made.revision for made in script.walk_revisions("base", start)}
    return target is not None and target.revision in older
