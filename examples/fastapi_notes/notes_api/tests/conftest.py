"""What tests ask for; fastdb's pytest plugin adds `database` and the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import ASGITransport, AsyncClient

from fastdb import Database
from notes_api.app import MIGRATIONS, create_app


@pytest.fixture(scope="session")
def fastdb_migrations() -> Path:
    """Return the migrations that make the databases of the tests."""
    return MIGRATIONS


@pytest.fixture
def app(database: Database) -> FastAPI:
    """Return the application on a database whose every change is taken back after the test."""
    return create_app(database)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """Provide a client for tests that are not async; the application's lifespan runs."""
    with TestClient(app) as client:
        yield client


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[AsyncClient]:
    """Provide a client for async tests, on the test's own event loop."""
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as http:
        yield http
