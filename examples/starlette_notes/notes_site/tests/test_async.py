"""Async tests: the test and the application see the same rows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from httpx import ASGITransport, AsyncClient

from notes_site import settings
from notes_site.app import app
from notes_site.tables import notebooks, notes

if TYPE_CHECKING:
    from fastdb import Database


async def test_the_application_sees_what_the_test_has_written(
    database: Database, http: AsyncClient
) -> None:
    await database.execute(notebooks.insert(), {"name": "from the test"})
    assert (await http.get("/notebooks")).json() == [{"name": "from the test", "size": 0}]


async def test_the_test_sees_what_the_application_has_written(
    database: Database, http: AsyncClient
) -> None:
    await http.post("/notebooks", json={"name": "home"})
    await http.post("/notebooks/home/notes", json=["buy milk"])
    assert await database.fetch_val(notes.select(), column="text") == "buy milk"


async def test_a_long_notebook_is_sent_in_pieces(database: Database, http: AsyncClient) -> None:
    key = await database.execute(notebooks.insert(), {"name": "long"})
    rows = [{"notebook_id": key, "text": f"note {n}"} for n in range(2_000)]
    await database.execute_many(notes.insert(), rows)
    async with http.stream("GET", "/notebooks/long/notes") as answer:
        lines = [line async for line in answer.aiter_lines()]
    assert lines == [row["text"] for row in rows]


async def test_notebooks_that_really_grow_at_the_same_time(
    database_committed: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a database of the test's own, where each request has a connection of its own."""
    monkeypatch.setattr(settings, "database", database_committed)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as http:
        await http.post("/notebooks", json={"name": "home"})
        requests = [http.post("/notebooks/home/notes", json=["a", "b"]) for _ in range(10)]
        await asyncio.gather(*requests)
        assert (await http.get("/notebooks")).json() == [{"name": "home", "size": 20}]
