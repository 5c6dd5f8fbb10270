"""What the tests of sandboxes, and of the pytest plugin, have in common."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import fastdb
from tests.databases import dialect_of, drop_databases
from tests.testing.people import INSERT, names
from tests.testing.spare import Spare


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


@pytest.fixture
def spare(database_url: str, tmp_path: Path) -> Iterator[Spare]:
    """Provide a name on each backend; drop afterwards what was made in it."""
    if dialect_of(database_url) == "sqlite":
        yield Spare(f"sqlite:///{tmp_path / 'app.db'}")
        return
    yield from beside(database_url)


@pytest.fixture
def mysql_spare(mysql_url: str) -> Iterator[Spare]:
    """Provide a name on MySQL alone."""
    yield from beside(mysql_url)


def beside(url: str) -> Iterator[Spare]:
    name = f"plugin_{secrets.token_hex(4)}"
    yield Spare(f"{url.rpartition('/')[0]}/{name}")
    drop_databases(url.replace("+asyncmy", ""), name)
