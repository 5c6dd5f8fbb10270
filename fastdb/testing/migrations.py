"""Test the migrations of a project, in a test module of one line.

::

    from fastdb.testing.migrations import *

The tests take the session fixtures ``fastdb_url``, ``fastdb_migrations`` (the folder; by default
``alembic.ini`` in the working directory, else ``migrations``) and ``fastdb_metadata`` (by default
the models that env.py names). Each makes databases of its own on the server that the URL names,
and drops them; the database of the URL itself is never opened. They are plain functions, which run
under every plugin for asynchronous tests, and without any. Tracebacks leave them out: pytest would
show their arguments, and the password of the URL.

A downgrade that raises ``NotImplementedError`` says that there is no way back; the tests of
downgrades go on with the next migration then.
"""

from __future__ import annotations

import asyncio
import secrets
import types
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import RevisionStep
from alembic.script import ScriptDirectory

from fastdb import migrations
from fastdb.database import Database
from fastdb.migrations import FailedMigrationError, MigrationError, SchemaDiffersError
from fastdb.migrations.commands import run_command
from fastdb.migrations.configuration import ATTRIBUTE, find, script_directory
from fastdb.migrations.environment import Run
from fastdb.testing import databases
from fastdb.testing.migrations_schema import read_schema, row_counts
from fastdb.url import DatabaseURL
from fastdb.url_text import driver_dialect

__all__ = [
    "test_a_downgrade_leaves_no_trace",
    "test_a_failing_migration_leaves_nothing",
    "test_each_migration_goes_up_down_and_up",
    "test_migrations_have_a_single_head",
    "test_migrations_upgrade_from_nothing",
    "test_models_and_migrations_agree",
]

T = TypeVar("T")


class InjectedError(Exception):
    """What a migration fails with that is made to fail."""


def test_migrations_have_a_single_head(fastdb_migrations: Any) -> None:
    """Fail where two migrations follow the same one, as after a merge of two branches of code."""
    __tracebackhide__ = True
    script = script_directory(_find(fastdb_migrations))
    heads = sorted(script.get_heads())
    if len(heads) > 1:
        _fail(
            f"there are {len(heads)} heads: {', '.join(map(repr, heads))}; bring them together "
            "with `merge heads`, or let one follow the other"
        )


def test_migrations_upgrade_from_nothing(
    fastdb_migrations: Any, fastdb_metadata: Any, fastdb_url: Any, tmp_path: Path
) -> None:
    """Fail where the migrations do not lead from an empty database to their heads."""
    __tracebackhide__ = True
    project = Project(fastdb_migrations, fastdb_metadata, fastdb_url, tmp_path)

    async def test() -> None:
        async with project.database() as database:
            await migrations.upgrade(database, "heads", config=project.config)
            if not await migrations.is_current(database, config=project.config):
                current = await migrations.current(database, config=project.config)
                _fail(f"after `upgrade heads` the database is at {current!r}")

    _complete(test())


def test_each_migration_goes_up_down_and_up(
    fastdb_migrations: Any, fastdb_metadata: Any, fastdb_url: Any, tmp_path: Path
) -> None:
    """Fail where a migration cannot be taken back, or not be done again after that."""
    __tracebackhide__ = True
    project = Project(fastdb_migrations, fastdb_metadata, fastdb_url, tmp_path)

    async def test() -> None:
        async with project.database() as database:
            for revision in project.revisions:
                await project.step(database, revision)
                if await project.step_back(database, revision):
                    try:
                        await project.step(database, revision)
                    except Exception as error:
                        error.add_note(f"{revision!r} was upgraded to, downgraded, upgraded again")
                        raise

    _complete(test())


def test_models_and_migrations_agree(
    fastdb_migrations: Any, fastdb_metadata: Any, fastdb_url: Any, tmp_path: Path
) -> None:
    """Fail where the migrations make another schema than the models say."""
    __tracebackhide__ = True
    project = Project(fastdb_migrations, fastdb_metadata, fastdb_url, tmp_path)

    async def test() -> None:
        async with project.database() as database:
            await migrations.upgrade(database, "heads", config=project.config)
            try:
                await migrations.check(database, config=project.config)
            except SchemaDiffersError as error:
                _fail(f"models and migrations differ: {error}")

    _complete(test())


def test_a_downgrade_leaves_no_trace(
    fastdb_migrations: Any, fastdb_metadata: Any, fastdb_url: Any, tmp_path: Path
) -> None:
    """Fail where a downgrade does not bring back the schema that was there before its upgrade."""
    __tracebackhide__ = True
    project = Project(fastdb_migrations, fastdb_metadata, fastdb_url, tmp_path)

    async def test() -> None:
        async with project.database() as database:
            await migrations.downgrade(database, "base", config=project.config)
            for revision in project.revisions:
                before = await read_schema(database)
                await project.step(database, revision)
                if not await project.step_back(database, revision):
                    continue
                after = await read_schema(database)
                if after != before:
                    _fail(f"the downgrade of {revision!r} {_difference(before, after)}")
                await project.step(database, revision)

    _complete(test())


def test_a_failing_migration_leaves_nothing(
    fastdb_migrations: Any, fastdb_metadata: Any, fastdb_url: Any, tmp_path: Path
) -> None:
    """Fail where a migration that fails at its end can be neither taken back nor done again.

    MySQL commits at DDL: there a failing migration may leave what its ``FailedMigrationError``
    tells of, and nothing else.
    """
    __tracebackhide__ = True
    project = Project(fastdb_migrations, fastdb_metadata, fastdb_url, tmp_path)

    async def test() -> None:
        async with project.database() as database:
            await migrations.downgrade(database, "base", config=project.config)
            for revision in project.revisions:
                await _fail_one(project, database, revision)

    _complete(test())


async def _fail_one(project: Project, database: Database, revision: str) -> None:
    """Let a migration fail, look what it leaves, and let it succeed."""
    position = await migrations.current(database, config=project.config)
    before = await _content(database)
    try:
        await project.step(database, revision, wrap=_failing)
    except Exception as error:
        cause, told = _cause(error), getattr(error, "stayed", ())
    else:
        _fail(f"the failure of {revision!r} is swallowed by env.py or the migration itself")
    after = await _content(database)
    if await migrations.current(database, config=project.config) != position:
        _fail(f"the database is at {revision!r}, although that failed")
    if after == before or told:
        if not isinstance(cause, InjectedError):
            raise cause  # it fails all by itself
        # What stays is all of it, since it was at its end; only the revision is to be noted.
        await project.step(database, revision, wrap=_doing_nothing if told else None)
        return
    difference = _difference(before, after)
    try:
        await project.step(database, revision)
    except Exception as error:
        again = f"a second run failed: {error}"
    else:
        async with project.database() as other:
            for earlier in project.revisions[: project.revisions.index(revision) + 1]:
                await project.step(other, earlier)
            wanted, found = await _content(other), await _content(database)
        if found == wanted:
            return
        again = f"a second run {_difference(wanted, found)}"
    _fail(
        f"{revision!r}, where it fails at its end, {difference}; {again}; what is committed on the "
        "way (autocommit_block(), COMMIT) should be a migration of its own that can be repeated, "
        "as with if_not_exists=True"
    )


class Project:
    """The migrations under test.

    Attributes:
        config: Alembic's configuration.
        revisions: The identifiers of the migrations, the oldest first.
    """

    def __init__(self, folder: Any, metadata: Any, url: Any, directory: Path) -> None:
        """Look where everything is; nothing is opened yet.

        Args:
            folder: What the fixture ``fastdb_migrations`` says.
            metadata: What the fixture ``fastdb_metadata`` says.
            url: What the fixture ``fastdb_url`` says.
            directory: For files of SQLite databases.
        """
        if not url:
            _fail(
                "the tests do not know where to make their databases: set FASTDB_TEST_URL, or "
                "override the session fixture fastdb_url"
            )
        self._url = DatabaseURL(url)
        self._directory = directory
        self.config = _find(folder)
        self.config.attributes[ATTRIBUTE] = Run(self._url, stands_for=self._url, metadata=metadata)
        script = script_directory(self.config)
        found = [made.revision for made in script.walk_revisions("base", "heads")]
        self.revisions = found[::-1]

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """Make an empty database, connect to it, and drop it in the end."""
        url = self._url_of_our_own()
        await databases.create(url, {})
        try:
            async with Database(url) as database:
                yield database
        finally:
            await databases.drop(url, {})

    def _url_of_our_own(self) -> DatabaseURL:
        url, mark = self._url, secrets.token_hex(6)
        if driver_dialect(url.dialect) == "sqlite":
            # What belongs to a `file:` URI, or to memory, is left with it.
            kept = {
                name: value
                for name, value in url.options.items()
                if name not in ("cache", "immutable", "mode", "uri", "vfs")
            }
            path = self._directory / f"{mark}.db"
            return url.replace(database=str(path), options=kept)
        # Roles that may make databases for tests may often make those that begin so.
        # 63 bytes are what names of PostgreSQL have.
        base = url.database.encode()[:34].decode(errors="ignore")
        return url.replace(database=f"test_{base}_migrations_{mark}")

    async def step(
        self,
        database: Database,
        revision: str,
        *,
        up: bool = True,
        wrap: Callable[[Any], Callable[..., None]] | None = None,
    ) -> None:
        """Run one migration, up or down.

        Args:
            database: Where.
            revision: Its identifier.
            up: Which way.
            wrap: Makes of its module what runs instead of its function.
        """

        def run(config: Config) -> None:
            script = ScriptDirectory.from_config(config)

            def steps(current: Any, context: Any) -> list[RevisionStep]:
                made = script.get_revision(revision)
                assert made is not None
                step = RevisionStep(script.revision_map, made, up)
                if wrap is not None:
                    step.migration_fn = wrap(made.module)
                return [step]

            with EnvironmentContext(config, script, fn=steps):
                script.run_env()

        await run_command(database, run, find(None, self.config))

    async def step_back(self, database: Database, revision: str) -> bool:
        """Take one migration back; return whether it has a way back."""
        try:
            await self.step(database, revision, up=False)
        except (NotImplementedError, FailedMigrationError) as error:
            if not isinstance(_cause(error), NotImplementedError):
                raise
            if stayed := getattr(error, "stayed", ()):
                _fail(f"the downgrade of {revision!r} gives up half-way: {'; '.join(stayed)}")
            return False
        return True


def _failing(module: types.ModuleType) -> Callable[..., None]:
    upgrade, error = module.upgrade, InjectedError("this migration is made to fail at its end")

    def run(*args: Any, **keywords: Any) -> None:
        upgrade(*args, **keywords)
        raise error

    # By its globals fastdb.migrations tells that it is a migration which failed, and which.
    return types.FunctionType(run.__code__, vars(module), "upgrade", None, run.__closure__)


def _doing_nothing(module: types.ModuleType) -> Callable[..., None]:
    return lambda *args, **keywords: None


def _cause(error: BaseException) -> BaseException:
    """Return what a migration raised."""
    if isinstance(error, FailedMigrationError) and error.__cause__ is not None:
        return error.__cause__
    return error


async def _content(database: Database) -> frozenset[str]:
    return await read_schema(database) | await row_counts(database)


def _difference(before: frozenset[str], after: frozenset[str]) -> str:
    """Say what is there that was not, and the other way round."""
    parts = []
    if left := sorted(after - before):
        parts.append(f"leaves {'; '.join(left)}")
    if lost := sorted(before - after):
        parts.append(f"loses {'; '.join(lost)}")
    return ", and ".join(parts) or "changes nothing"


def _find(folder: Any) -> Config:
    """Return Alembic's configuration for what the fixture ``fastdb_migrations`` says."""
    try:
        if folder is not None and Path(folder).is_file():
            return find(None, folder)
        return find(folder, None)
    except MigrationError as error:
        _fail(f"{error}; in tests, override the session fixture fastdb_migrations")


def _fail(message: str) -> NoReturn:
    pytest.fail(message, pytrace=False)


def _complete(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop in a thread of its own, whatever runs in this one."""
    __tracebackhide__ = True
    with ThreadPoolExecutor(1, "fastdb-testing") as executor:
        return executor.submit(partial(asyncio.run, coroutine)).result()
