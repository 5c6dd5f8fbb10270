"""A table of people, as the tests of sandboxes use it."""

from __future__ import annotations

import fastdb

NAMES = "SELECT name FROM people ORDER BY id"
INSERT = "INSERT INTO people (name) VALUES (:name)"


async def names(database: fastdb.Database) -> list[str]:
    """Return all names in the order of their keys."""
    return [record.name for record in await database.fetch_all(NAMES)]


async def add(database: fastdb.Database, name: str) -> None:
    """Insert a person."""
    await database.execute(INSERT, {"name": name})
