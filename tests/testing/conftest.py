"""What the tests of sandboxes have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import fastdb
from tests.testing.people import INSERT, names


@pytest.fixture
async def people(database: fastdb.Database) -> AsyncIterator[fastdb.Database]:
    """Provide a database with a table ``people`` of one row, which stays the only one."""
    key = {
        "sqlite": "INTEGER PRIMARY KEY",
        "mysql": "integer PRIMARY KEY AUTO_INCREMENT",
        "postgresql": "serial PRIMARY KEY",
    }[database.url.dialect]
    await database.execute(f"CREATE TABLE people (id {key}, name varchar(50) NOT NULL UNIQUE)")
    await database.execute(INSERT, {"name": "Ada"})
    yield database
    assert await names(database) == ["Ada"]


@pytest.fixture(params=[False, True], ids=["own", "shared"])
def shared(request: pytest.FixtureRequest) -> bool:
    """Return whether the sandbox is a shared one, once for each."""
    chosen: bool = request.param
    return chosen
