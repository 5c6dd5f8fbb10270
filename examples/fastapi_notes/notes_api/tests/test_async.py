"""Async tests: the test and the application see the same rows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from httpx import ASGITransport, AsyncClient

from notes_api.app import create_app
from notes_api.tables import notes

if TYPE_CHECKING:
    from fastdb import Database


async def test_the_application_sees_what_the_test_has_written(
    database: Database, http: AsyncClient
) -> None:
    await database.execute(notes.insert(), {"text": "from the test"})
    (note,) = (await http.get("/notes")).json()
    assert note["text"] == "from the test"


async def test_the_test_sees_what_the_application_has_written(
    database: Database, http: AsyncClient
) -> None:
    key = (await http.post("/notes", json={"text": "buy milk"})).json()["id"]
    await http.post(f"/notes/{key}/done")
    assert await database.fetch_one(notes.select()) == (key, "buy milk", True)


async def test_requests_at_the_same_time(database: Database, http: AsyncClient) -> None:
    requests = [{"text": f"note {n}", "tags": ["home"]} for n in range(20)]
    answers = await asyncio.gather(*(http.post("/notes", json=note) for note in requests))
    assert {answer.status_code for answer in answers} == {201}
    assert await database.fetch_val("SELECT count(*) FROM tags") == 20


async def test_requests_that_really_commit(database_committed: Database) -> None:
    """On a database of the test's own, where each request has a connection of its own."""
    transport = ASGITransport(create_app(database_committed))
    async with AsyncClient(transport=transport, base_url="http://test") as http:
        requests = [{"text": f"note {n}"} for n in range(20)]
        await asyncio.gather(*(http.post("/notes", json=note) for note in requests))
    assert await database_committed.fetch_val("SELECT count(*) FROM notes") == 20
