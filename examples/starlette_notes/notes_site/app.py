"""The application: `uvicorn notes_site.app:app`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import fastdb
from fastdb import migrations
from notes_site import settings
from notes_site.tables import notebooks, notes

MIGRATIONS = Path(__file__).parent / "migrations"


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Connect while the application runs; refuse to start on a database that is behind."""
    async with settings.database as database:
        if not await migrations.is_current(database, directory=MIGRATIONS):
            raise RuntimeError("the database is behind; run `alembic upgrade head`")
        yield


async def notebook_key(request: Request, parameter: str = "name") -> int:
    """Return the key of the notebook that the path names."""
    name = request.path_params[parameter]
    query = sa.select(notebooks.c.id).where(notebooks.c.name == name)
    key: int | None = await settings.database.fetch_val(query)
    if key is None:
        raise HTTPException(404, f"there is no notebook {name!r}")
    return key


async def grow(key: int, by: int) -> None:
    """Count notes that were added to a notebook."""
    query = notebooks.update().where(notebooks.c.id == key)
    await settings.database.execute(query.values(size=notebooks.c.size + by))


async def list_notebooks(request: Request) -> Response:
    """List the notebooks."""
    query = sa.select(notebooks.c.name, notebooks.c.size).order_by(notebooks.c.name)
    found = await settings.database.fetch_all(query)
    return JSONResponse([notebook._asdict() for notebook in found])


async def add_notebook(request: Request) -> Response:
    """Add a notebook, unless there is one of its name."""
    given = await request.json()
    try:
        await settings.database.execute(notebooks.insert(), {"name": given["name"]})
    except fastdb.IntegrityError:
        raise HTTPException(409, f"there is a notebook {given['name']!r}") from None
    return JSONResponse({"name": given["name"], "size": 0}, status_code=201)


async def add_notes(request: Request) -> Response:
    """Add notes to a notebook: all of them or none."""
    texts = await request.json()
    async with settings.database.transaction():
        key = await notebook_key(request)
        # First what locks the notebook's row: two requests that both refer to it, and only then
        # want to change it, would wait for each other.
        await grow(key, len(texts))
        rows = [{"notebook_id": key, "text": text} for text in texts]
        await settings.database.execute_many(notes.insert(), rows)
    return JSONResponse({"added": len(texts)}, status_code=201)


async def merge(request: Request) -> Response:
    """Move all notes of one notebook into another, and remove it."""
    async with settings.database.transaction(isolation="serializable"):
        source, target = await notebook_key(request), await notebook_key(request, "into")
        moving = notes.update().where(notes.c.notebook_id == source)
        moved = await settings.database.execute(moving, {"notebook_id": target})
        await grow(target, moved)
        await settings.database.execute(notebooks.delete().where(notebooks.c.id == source))
    return JSONResponse({"moved": moved})


async def export(request: Request) -> Response:
    """Send the notes of a notebook as text, in constant memory however many they are."""
    key = await notebook_key(request)
    query = sa.select(notes.c.text).where(notes.c.notebook_id == key).order_by(notes.c.id)

    async def lines() -> AsyncIterator[str]:
        async for note in settings.database.iterate(query):
            yield f"{note.text}\n"

    return StreamingResponse(lines(), media_type="text/plain")


app = Starlette(
    routes=[
        Route("/notebooks", list_notebooks, methods=["GET"]),
        Route("/notebooks", add_notebook, methods=["POST"]),
        Route("/notebooks/{name}/notes", add_notes, methods=["POST"]),
        Route("/notebooks/{name}/notes", export, methods=["GET"]),
        Route("/notebooks/{name}/merge/{into}", merge, methods=["POST"]),
    ],
    lifespan=lifespan,
)
