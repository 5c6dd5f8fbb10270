"""The migrations lead where the tables are, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastdb import migrations
from notes_site.app import MIGRATIONS
from notes_site.tables import metadata

if TYPE_CHECKING:
    import sqlalchemy

    from fastdb import Database


def table_names(connection: sqlalchemy.Connection) -> set[str]:
    """Return the names of all tables."""
    import sqlalchemy

    return set(sqlalchemy.inspect(connection).get_table_names())


async def test_there_is_one_head(database_committed: Database) -> None:
    (head,) = await migrations.heads(database_committed, directory=MIGRATIONS)
    assert await migrations.current(database_committed, directory=MIGRATIONS) == (head,)


async def test_migrations_and_tables_agree(database_committed: Database) -> None:
    await migrations.check(database_committed, directory=MIGRATIONS)


async def test_down_and_up_again(database_committed: Database) -> None:
    await migrations.downgrade(database_committed, "base", directory=MIGRATIONS)
    assert await database_committed.run_sync(table_names) <= {"alembic_version"}
    await migrations.upgrade(database_committed, directory=MIGRATIONS)
    assert await database_committed.run_sync(table_names) == {*metadata.tables, "alembic_version"}
