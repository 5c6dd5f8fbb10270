"""One run of migrations over a synchronous Connection of SQLAlchemy, or into a script."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import sqlalchemy
from sqlalchemy import event

from fastdb.migrations.errors import FailedMigrationError, MigrationError
from fastdb.url import DatabaseURL
from fastdb.url_text import driver_dialect

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

__all__ = ["Target", "migrate", "write_sql"]

logger = logging.getLogger("fastdb.migrations")

_DDL = re.compile(r"\s*(ALTER|ANALYZE|CREATE|DROP|GRANT|OPTIMIZE|RENAME|REVOKE|TRUNCATE)\b", re.I)
_READ = re.compile(r"\s*(SELECT|SHOW|DESC|DESCRIBE|EXPLAIN|SET)\b", re.I)
_DROP = re.compile(r"\s*DROP\s+TABLE\s+(?:IF\s+EXISTS\s+)?[\"'`\[]?([^\"'`\]\s;]+)", re.I)


class Target(NamedTuple):
    """A database that env.py names.

    Attributes:
        name: Of several databases, its own.
        url: Where it is, as env.py has it.
        metadata: Its models.
        options: Further ones of Alembic's ``context.configure``.
    """

    name: str | None
    url: Any
    metadata: Any
    options: dict[str, Any]

    def address(self) -> DatabaseURL:
        """Return the URL.

        Raises:
            MigrationError: env.py has none.
        """
        if self.url is None:
            raise MigrationError(
                "env.py gives no URL of a database; fill in DATABASE_URL there, or in the "
                "environment or the settings that it is read from"
            )
        return DatabaseURL(self.url)

    def configure_options(self, dialect: str) -> dict[str, Any]:
        """Return what ``context.configure`` gets on this dialect."""
        options = {"target_metadata": self.metadata, **self.options}
        if dialect == "sqlite":
            options.setdefault("render_as_batch", True)
        if self.name is not None:
            options.setdefault("upgrade_token", f"{self.name}_upgrades")
            options.setdefault("downgrade_token", f"{self.name}_downgrades")
        return options

    def run_options(self) -> dict[str, Any]:
        """Return what the functions of a migration get."""
        return {} if self.name is None else {"engine_name": self.name}


def write_sql(target: Target) -> None:
    """Write the migrations as SQL: to standard output, or where Alembic was told to."""
    from alembic import context

    dialect = driver_dialect(target.address().dialect)
    options = target.configure_options(dialect)
    if dialect == "sqlite":
        options.setdefault("transactional_ddl", True)
    options.setdefault("literal_binds", True)
    options.setdefault("dialect_opts", {"paramstyle": "named"})
    context.configure(dialect_name=dialect, **options)
    if target.name is not None:
        context.static_output(f"-- Database {target.name}")
        _check_arguments(context.get_context())
    with context.begin_transaction():
        context.run_migrations(**target.run_options())


def migrate(
    connection: sqlalchemy.Connection,
    target: Target,
    *,
    ours: bool = False,
    joins: bool = False,
) -> None:
    """Run what Alembic has been asked for.

    Args:
        connection: Of SQLAlchemy.
        target: What env.py says of the database.
        ours: Whether it is a connection of fastdb's, with the transactions of fastdb.
        joins: Whether it takes place in a transaction of the user's.
    """
    from alembic import context

    dialect = connection.dialect.name
    options = target.configure_options(dialect)
    progress = Progress(connection, options.get("version_table", "alembic_version"))
    callbacks = options.get("on_version_apply") or ()
    callbacks = callbacks if isinstance(callbacks, (list, tuple)) else (callbacks,)
    options["on_version_apply"] = [*callbacks, progress.note_version]
    if ours and dialect == "sqlite":
        options.setdefault("transactional_ddl", True)  # fastdb begins before DDL, unlike sqlite3
    context.configure(connection=connection, **options)
    migration = context.get_context()
    if target.name is not None:
        _check_arguments(migration)
    if ours and (joins or dialect == "sqlite"):
        _refuse_autocommit(migration, joins=joins)
    with progress.watched(guard_drops=joins and dialect == "sqlite"):
        try:
            with context.begin_transaction():
                context.run_migrations(**target.run_options())
        except Exception as error:
            progress.tell(error, atomic=bool(migration.impl.transactional_ddl))
            raise


def _refuse_autocommit(migration: MigrationContext, *, joins: bool) -> None:
    """Let ``autocommit_block()`` say that the transaction around it cannot be committed."""
    if joins:
        message = (
            "autocommit_block() would commit the transaction that the migration takes place in; "
            "migrate outside of it"
        )
    else:
        message = (
            "autocommit_block() has no meaning on SQLite, where all migrations are one "
            "transaction; leave it out there: `if op.get_context().dialect.name != 'sqlite'`"
        )

    def refuse() -> NoReturn:
        raise MigrationError(message)

    setattr(migration, "autocommit_block", refuse)  # noqa: B010


def _check_arguments(migration: MigrationContext) -> None:
    """Refuse migrations that do not ask which of several databases they are for."""
    attribute = "_migrations_fn"
    found = getattr(migration, attribute)

    def steps(heads: Any, context: Any) -> Iterator[Any]:
        for step in found(heads, context):
            try:
                inspect.signature(step.migration_fn).bind(engine_name="")
            except TypeError as error:
                name = step.migration_fn.__name__
                raise MigrationError(
                    f"{name}() of migration {step.revision.revision!r} does not ask which of the "
                    f"databases in env.py it is for; let it be `def {name}(engine_name)`"
                ) from error
            yield step

    setattr(migration, attribute, steps)


class Progress:
    """What a run has done so far."""

    def __init__(self, connection: sqlalchemy.Connection, version_table: str) -> None:
        """Stand at the beginning.

        Args:
            connection: Of SQLAlchemy.
            version_table: Where Alembic keeps the revision; statements there are no migration's.
        """
        self._connection = connection
        self._version: str | None = None
        self._version_table = version_table
        self._statements: list[str] = []
        self._committed = False

    def note_version(self, *, ctx: Any, step: Any, heads: set[str], run_args: Any) -> None:
        """Take note of a revision that is done; Alembic calls this."""
        self._version = ", ".join(sorted(heads)) or "base"
        self._statements.clear()
        self._committed = False
        verb = "upgraded" if step.is_upgrade else "downgraded"
        logger.info("%s; the database is at %s", verb, self._version)

    @contextmanager
    def watched(self, *, guard_drops: bool) -> Iterator[None]:
        """Watch the statements of a block.

        Args:
            guard_drops: Refuse to drop tables whose dropping would empty others.
        """

        def note(
            connection: Any, cursor: Any, statement: str, args: Any, context: Any, many: bool
        ) -> None:
            if self._version_table not in statement and not _READ.match(statement):
                self._statements.append(" ".join(statement.split()))

        def look(
            connection: Any, cursor: Any, statement: str, args: Any, context: Any, many: bool
        ) -> None:
            if guard_drops and (found := _DROP.match(statement)):
                self._guard_drop(found[1])
            if self._version_table not in statement and _DDL.match(statement):
                self._committed = True  # by MySQL, even where the statement fails

        event.listen(self._connection, "before_cursor_execute", look)
        event.listen(self._connection, "after_cursor_execute", note)
        try:
            yield
        finally:
            event.remove(self._connection, "before_cursor_execute", look)
            event.remove(self._connection, "after_cursor_execute", note)

    def _guard_drop(self, table: str) -> None:
        """Refuse to drop a table that others refer to, where SQLite then changes those."""
        run = self._connection.exec_driver_sql
        if not run("PRAGMA foreign_keys").scalar():
            return
        children = run(
            "SELECT m.name FROM sqlite_master AS m, pragma_foreign_key_list(m.name) AS f "
            "WHERE m.type = 'table' AND lower(f.\"table\") = lower(?) "
            "AND lower(m.name) <> lower(?)",
            (table, table),
        ).scalars()
        if names := ", ".join(sorted({repr(name) for name in children})):
            raise MigrationError(
                f"the migration drops or copies {table!r}, to which {names} refer: inside an open "
                "transaction foreign keys cannot be turned off, and their rows would be deleted "
                "or changed; migrate outside of the transaction"
            )

    def tell(self, error: Exception, *, atomic: bool) -> None:
        """Say at an error what it leaves behind.

        Raises:
            FailedMigrationError: The server has kept a part.
        """
        revision = _failing_revision(error.__traceback__)
        if revision is None:
            return
        if atomic:
            error.add_note(f"migration {revision!r} failed; nothing of it was kept")
            return
        # DDL commits what was before it, and what comes after it is committed one by one.
        stayed = tuple(self._statements) if self._committed else ()
        if self._version is None:
            position = "the revision is as before"
        else:
            position = f"the database is at revision {self._version!r}"
        cause = getattr(error, "orig", error)
        if stayed:
            rest = f"of {revision!r} stayed: {'; '.join(stayed)}; undo it by hand before going on"
        else:
            rest = f"of {revision!r} stayed: nothing"
        raise FailedMigrationError(
            f"migration {revision!r} failed: {cause}; {position}, and {rest}",
            revision,
            stayed,
        ) from error


def _failing_revision(traceback: TracebackType | None) -> str | None:
    """Return the revision in whose file an error happened."""
    while traceback is not None:
        names = traceback.tb_frame.f_globals
        if "down_revision" in names and isinstance(revision := names.get("revision"), str):
            return revision
        traceback = traceback.tb_next
    return None
