"""What a project's env.py calls: run_env()."""

from __future__ import annotations

import asyncio
import contextvars
import logging.config
import threading
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy
from sqlalchemy.util import await_only

from fastdb.database import Database
from fastdb.migrations.configuration import ATTRIBUTE
from fastdb.migrations.errors import MigrationError
from fastdb.migrations.run import Target, migrate, write_sql
from fastdb.migrations.safety import run_safely
from fastdb.url import DatabaseURL
from fastdb.url_text import driver_dialect

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["Run", "run_env"]

#: Options of the pool, of whose connections a migration needs one.
_OF_POOLS = frozenset(
    {"max_overflow", "max_size", "maxsize", "min_size", "minsize", "pool_size", "pool_recycle"}
)


class Run(NamedTuple):
    """A run that fastdb itself has started, as env.py finds it in ``Config.attributes``.

    Attributes:
        url: Of the database that it is for, whatever env.py names.
        joins: Whether it takes place in a transaction of the user's.
        stands_for: Which of several databases in env.py it is, where that is not said by `url`.
        metadata: The models, instead of those of env.py.
    """

    url: DatabaseURL
    joins: bool = False
    stands_for: DatabaseURL | None = None
    metadata: Any = None


def run_env(
    url: str | DatabaseURL | sqlalchemy.URL | Mapping[str, str | DatabaseURL | sqlalchemy.URL],
    *,
    target_metadata: Any = None,
    **configure_options: Any,
) -> None:
    """Run the migrations that Alembic has been asked for.

    All that an ``env.py`` has to do::

        from fastdb.migrations import run_env

        from app.models import metadata
        from app.settings import DATABASE_URL

        run_env(DATABASE_URL, target_metadata=metadata)

    The driver of the URL does the work, in an event loop of its own; where one is running already,
    in another thread, for which that loop waits. A connection in
    ``config.attributes["connection"]`` (a Connection, Engine or AsyncEngine of SQLAlchemy) is used
    instead of the URL.

    Args:
        url: The database, or several by their names: ``{"app": …, "statistics": …}``. The
            migrations of several have functions ``upgrade(engine_name)``, as those of Alembic's
            template ``multidb``.
        target_metadata: The models, for ``--autogenerate`` and ``check``; of several databases,
            by the names of those.
        configure_options: Whatever else Alembic's ``context.configure`` takes. Batch mode is on
            for SQLite.

    Raises:
        MigrationError: There is no URL, or it is not clear which of several is meant.
        FailedMigrationError: A migration failed on MySQL, which keeps what it has done so far.
    """
    from alembic import context

    config = context.config
    run: Run | None = config.attributes.get(ATTRIBUTE)
    given = config.attributes.get("connection")
    if run is None and given is None:
        _configure_logging(config)
    targets = _targets(url, target_metadata, configure_options)
    if run is not None:
        targets = [_target_of(run, targets)]
    if context.is_offline_mode():
        for target in targets:
            write_sql(target)
    elif given is not None:
        if len(targets) > 1:
            raise MigrationError(
                "one connection is given, and env.py has several databases: "
                f"{', '.join(repr(target.name) for target in targets)}; give none, or use "
                "`fastdb.migrations.upgrade(database)`, which knows them by their URLs"
            )
        _migrate_over(given, targets[0], run)
    else:
        for target in targets:
            _complete(partial(_migrate_own, target))


def _targets(url: Any, metadata: Any, options: dict[str, Any]) -> list[Target]:
    """Return the databases that env.py names."""
    if not isinstance(url, Mapping):
        return [Target(None, url or None, metadata, options)]
    if not url:
        raise MigrationError("run_env() in env.py is given a mapping without any database")
    if isinstance(metadata, Mapping):
        if unknown := metadata.keys() - url.keys():
            raise MigrationError(
                f"target_metadata names {', '.join(map(repr, sorted(unknown)))}, but the "
                f"databases are {', '.join(map(repr, url))}"
            )
        return [Target(name, one, metadata.get(name), options) for name, one in url.items()]
    return [Target(name, one, metadata, options) for name, one in url.items()]


def _target_of(run: Run, targets: list[Target]) -> Target:
    """Return the target that a database of the application's is."""
    found = targets
    if len(targets) > 1:
        url = run.stands_for or run.url
        found = [target for target in targets if _address(target.address()) == _address(url)]
        if len(found) != 1:
            raise MigrationError(
                f"{url!r} is none of the databases in env.py: "
                f"{', '.join(f'{target.name!r} ({target.address()!r})' for target in targets)}"
            )
    target = found[0]._replace(url=run.url)
    return target if run.metadata is None else target._replace(metadata=run.metadata)


def _address(url: DatabaseURL) -> tuple[Any, ...]:
    return driver_dialect(url.dialect), url.hostname, url.port, url.database


def _migrate_over(given: Any, target: Target, run: Run | None) -> None:
    """Migrate over what Alembic's configuration brings."""
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    if isinstance(given, sqlalchemy.Connection):
        migrate(given, target, ours=run is not None, joins=run is not None and run.joins)
    elif isinstance(given, AsyncEngine):
        _complete(partial(_migrate_engine, given, target))
    elif isinstance(given, AsyncConnection):
        if not _in_greenlet():
            raise MigrationError(
                "an AsyncConnection is given, but not from within its run_sync(); use "
                "`await connection.run_sync(...)` and give what that hands over"
            )
        migrate(given.sync_connection, target)  # type: ignore[arg-type]
    elif isinstance(given, Database):
        raise MigrationError(
            "a fastdb.Database is no connection of Alembic's; migrate it with "
            "`await fastdb.migrations.upgrade(database)`"
        )
    elif callable(getattr(given, "connect", None)):
        # An Engine, or what stands for one, as that of pytest-alembic around an open connection.
        with given.connect() as connection:
            migrate(connection, target)
    else:
        raise MigrationError(
            'config.attributes["connection"] takes a Connection, Engine or AsyncEngine of '
            f"SQLAlchemy, not {given!r}"
        )


async def _migrate_engine(engine: AsyncEngine, target: Target) -> None:
    """Migrate over an AsyncEngine, whose pool may have connections of another event loop."""
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import StaticPool

    sync = engine.sync_engine
    if isinstance(sync.pool, StaticPool):  # a database in memory is that one connection
        await _migrate_connection(engine.connect(), target)
        return
    copy = AsyncEngine(sqlalchemy.Engine(sync.pool.recreate(), sync.dialect, sync.url))
    try:
        await _migrate_connection(copy.connect(), target)
    finally:
        await copy.dispose()


async def _migrate_connection(connection: AsyncConnection, target: Target) -> None:
    async with connection:
        await connection.run_sync(migrate, target)


async def _migrate_own(target: Target) -> None:
    """Migrate over a connection that fastdb opens."""
    from alembic import context

    url = target.address()
    query = {name: value for name, value in url.options.items() if name not in _OF_POOLS}
    # `current` and the like change nothing, and wait for nobody.
    reads = bool(getattr(context, "_proxy").context_opts.get("dont_mutate"))  # noqa: B009
    async with (
        Database(url.replace(options=query)) as database,
        database.connection() as connection,
    ):
        work = partial(migrate, target=target, ours=True)
        await run_safely(connection, driver_dialect(url.dialect), work, reads=reads)


def _in_greenlet() -> bool:
    import greenlet

    return bool(getattr(greenlet.getcurrent(), "__sqlalchemy_greenlet_provider__", False))


def _complete(make: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run what `make` returns to its end, whether an event loop is running or not."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(make())
        return
    if _in_greenlet():
        await_only(make())
        return
    errors: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(make())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def _configure_logging(config: Config) -> None:
    """Set up logging from the command line's alembic.ini; an application has its own."""
    name = config.config_file_name
    if config.cmd_opts is None or name is None or not config.file_config.has_section("loggers"):
        return
    logging.config.fileConfig(name, disable_existing_loggers=False)
