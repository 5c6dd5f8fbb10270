"""What tests ask for; fastdb's pytest plugin adds `database` and the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from httpx import ASGITransport, AsyncClient
from starlette.testclient import TestClient

from fastdb import Database
from notes_site import settings
from notes_site.app import MIGRATIONS, app


@pytest.fixture(scope="session")
def fastdb_migrations() -> Path:
    """Return the migrations that make the databases of the tests."""
    return MIGRATIONS


@pytest.fixture
def in_place(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the test's database in the place of the application's."""
    monkeypatch.setattr(settings, "database", database)


@pytest.fixture
def client(in_place: None) -> Iterator[TestClient]:
    """Provide a client for tests that are not async; the application's lifespan runs."""
    with TestClient(app) as client:
        yield client


@pytest.fixture
async def http(in_place: None) -> AsyncIterator[AsyncClient]:
    """Provide a client for async tests, on the test's own event loop."""
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as http:
        yield http
