"""The application: `uvicorn --factory notes_api.app:create_app`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel, Field

from fastdb import Database, migrations
from notes_api import settings
from notes_api.tables import notes, tags

MIGRATIONS = Path(__file__).parent / "migrations"
logger = logging.getLogger("notes_api")


class NewNote(BaseModel):
    """A note as a client sends it."""

    text: str = Field(max_length=200)
    tags: list[str] = []


class Note(NewNote):
    """A note as the application sends it."""

    id: int
    done: bool


def get_database(request: Request) -> Database:
    """Return the application's database, for its routes."""
    database: Database = request.app.state.database
    return database


Data = Annotated[Database, Depends(get_database)]


def create_app(database: Database | None = None) -> FastAPI:
    """Make the application.

    Args:
        database: What it works on; tests give theirs.
    """
    database = Database(settings.DATABASE_URL) if database is None else database

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with database:
            # Several replicas may start at once: the first migrates, the others wait for it.
            if not await migrations.is_current(database, directory=MIGRATIONS):
                await migrations.upgrade(database, directory=MIGRATIONS)
            yield

    app = FastAPI(lifespan=lifespan)
    app.state.database = database
    app.post("/notes", status_code=201)(add_note)
    app.get("/notes")(list_notes)
    app.post("/notes/{key}/done")(finish_note)
    app.delete("/notes/{key}", status_code=204)(delete_note)
    return app


async def add_note(note: NewNote, database: Data) -> Note:
    """Add a note and its tags: all of it or nothing."""
    async with database.transaction() as transaction:
        key = await database.execute(notes.insert(), {"text": note.text})
        rows = [{"note_id": key, "name": name} for name in note.tags]
        await database.execute_many(tags.insert(), rows)
        transaction.on_commit(lambda: logger.info("note %d was added", key))
    return Note(id=key, done=False, **note.model_dump())


async def list_notes(database: Data, tag: str | None = None) -> list[Note]:
    """List the notes, or those with a tag, in two queries however many they are."""
    query = sa.select(notes).order_by(notes.c.id)
    if tag is not None:
        query = query.where(notes.c.id.in_(sa.select(tags.c.note_id).where(tags.c.name == tag)))
    found = await database.fetch_all(query)
    names: dict[int, list[str]] = {note.id: [] for note in found}
    of_found = tags.select().where(tags.c.note_id.in_(names)).order_by(tags.c.name)
    for row in await database.fetch_all(of_found):
        names[row.note_id].append(row.name)
    return [Note(**note._asdict(), tags=names[note.id]) for note in found]


async def finish_note(key: int, database: Data) -> None:
    """Mark a note as done."""
    query = notes.update().where(notes.c.id == key)
    if not await database.execute(query, {"done": True}):
        raise HTTPException(404, f"there is no note {key}")


async def delete_note(key: int, database: Data) -> None:
    """Delete a note and its tags."""
    async with database.transaction():
        await database.execute(tags.delete().where(tags.c.note_id == key))
        if not await database.execute(notes.delete().where(notes.c.id == key)):
            raise HTTPException(404, f"there is no note {key}")
