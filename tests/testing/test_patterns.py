"""The tests of applications, as users of `databases` write them, run as they are written.

Each project is written into a folder and tested by pytest in a process of its own, as its user
does it; the user's warnings are errors.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from fastapi import FastAPI
from fastapi.testclient import TestClient

import fastdb
from fastdb.testing import DatabaseTestClient
from tests.databases import Session, dialect_of

COUNT = 39  # tests of the project

SETTINGS = """
import fastdb as databases
import sqlalchemy
from starlette.config import Config

config = Config(".env")

TESTING = config("TESTING", cast=bool, default=False)
DATABASE_URL = config("DATABASE_URL", cast=databases.DatabaseURL)
TEST_DATABASE_URL = DATABASE_URL.replace(database="test_" + DATABASE_URL.database)

# Use 'force_rollback' during testing, to ensure we do not persist database changes
# between each test case.
if TESTING:
    database = databases.Database(TEST_DATABASE_URL, force_rollback=True)
else:
    database = databases.Database(DATABASE_URL)

metadata = sqlalchemy.MetaData()
notes = sqlalchemy.Table(
    "notes",
    metadata,
    sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
    sqlalchemy.Column("text", sqlalchemy.String(length=100)),
    sqlalchemy.Column("completed", sqlalchemy.Boolean),
    sqlalchemy.CheckConstraint("text <> ''", name="text_is_not_empty"),
)
"""

STARLETTE = """
import asyncio
import contextlib

from settings import database, notes
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


@contextlib.asynccontextmanager
async def lifespan(app):
    await database.connect()
    yield
    await database.disconnect()


async def list_notes(request):
    results = await database.fetch_all(notes.select().order_by(notes.c.id))
    return JSONResponse([{"text": r["text"], "completed": r["completed"]} for r in results])


async def add_note(request):
    data = await request.json()
    query = notes.insert().values(text=data["text"], completed=data["completed"])
    await database.execute(query)
    return JSONResponse(data)


@database.transaction()
async def add_all(rows):
    for row in rows:
        await database.execute(notes.insert(), row)


async def add_many(request):
    await add_all(await request.json())
    return JSONResponse({})


async def add_in_tasks(request):
    rows = await request.json()
    await asyncio.gather(*(database.execute(notes.insert(), row) for row in rows))
    return JSONResponse({})


async def add_and_leave_open(request):
    transaction = await database.transaction()
    await database.execute(notes.insert(), await request.json())
    return JSONResponse({"open": transaction.is_open})


app = Starlette(
    routes=[
        Route("/notes", endpoint=list_notes, methods=["GET"]),
        Route("/notes", endpoint=add_note, methods=["POST"]),
        Route("/many", endpoint=add_many, methods=["POST"]),
        Route("/tasks", endpoint=add_in_tasks, methods=["POST"]),
        Route("/open", endpoint=add_and_leave_open, methods=["POST"]),
    ],
    lifespan=lifespan,
)
"""

FASTAPI = """
import asyncio
from contextlib import asynccontextmanager

from fastapi import FastAPI
from pydantic import BaseModel
from settings import database, notes


class Note(BaseModel):
    text: str
    completed: bool


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with database:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/notes", response_model=list[Note])
async def list_notes():
    return await database.fetch_all(notes.select().order_by(notes.c.id))


@app.post("/notes")
async def add_note(note: Note):
    await database.execute(notes.insert().values(text=note.text, completed=note.completed))
    return {**note.model_dump()}


@app.post("/many")
@database.transaction()
async def add_many(rows: list[Note]):
    for row in rows:
        await database.execute(notes.insert(), row.model_dump())
    return {}


@app.post("/tasks")
async def add_in_tasks(rows: list[Note]):
    await asyncio.gather(*(database.execute(notes.insert(), r.model_dump()) for r in rows))
    return {}


@app.post("/open")
async def add_and_leave_open(note: Note):
    transaction = await database.transaction()
    await database.execute(notes.insert(), note.model_dump())
    return {"open": transaction.is_open}
"""

# What makes the test database: the page uses sqlalchemy_utils, over a second, synchronous driver.
CONFTEST = """
import asyncio

import pytest
from starlette.config import environ

# This sets `os.environ`, but provides some additional protection.
# If we placed it below the application import, it would raise an error
# informing us that 'TESTING' had already been read from the environment.
environ["TESTING"] = "True"

import fastapi_app
import settings
import starlette_app
from fastdb import Database
from fastdb.testing import DatabaseTestClient
from httpx import ASGITransport, AsyncClient
from starlette.testclient import TestClient


async def create(url):
    assert not await DatabaseTestClient.database_exists(url), "Test database already exists."
    await DatabaseTestClient.create_database(url)
    async with Database(url) as database:
        await database.create_all(settings.metadata)


@pytest.fixture(scope="session", autouse=True)
def create_test_database():
    url = settings.TEST_DATABASE_URL
    asyncio.run(create(url))  # Create the test database and the tables.
    yield  # Run the tests.
    asyncio.run(DatabaseTestClient.drop_database(url))  # Drop the test database.


@pytest.fixture(params=[starlette_app.app, fastapi_app.app], ids=["starlette", "fastapi"])
def app(request):
    return request.param


@pytest.fixture
def client(app):
    # Our fixture is created within a context manager. This ensures that
    # application lifespan runs for every test case.
    with TestClient(app) as test_client:
        yield test_client


@pytest.fixture
async def async_client(app):
    # The transport runs no lifespan: the test connects, and disconnects.
    async with settings.database:
        transport = ASGITransport(app)
        async with AsyncClient(transport=transport, base_url="http://test") as async_client:
            yield async_client
"""

TESTS = """
import pytest

NOTE = {"text": "write tests", "completed": False}
MORE = [{"text": f"note {n}", "completed": True} for n in range(5)]


@pytest.mark.parametrize("time", range(3))
def test_add_note(client, time):
    assert client.get("/notes").json() == []
    assert client.post("/notes", json=NOTE).status_code == 200
    assert client.get("/notes").json() == [NOTE]


@pytest.mark.parametrize("time", range(2))
def test_a_transaction(client, time):
    assert client.get("/notes").json() == []
    client.post("/many", json=MORE)
    # The second is refused: nothing of it is kept, and nothing else is spoilt.
    with pytest.raises(Exception, match="text_is_not_empty"):
        client.post("/many", json=[NOTE, {"text": "", "completed": True}])
    assert client.get("/notes").json() == MORE


@pytest.mark.parametrize("time", range(2))
def test_child_tasks(client, time):
    assert client.get("/notes").json() == []
    client.post("/tasks", json=MORE)
    found = client.get("/notes").json()
    assert sorted(note["text"] for note in found) == [note["text"] for note in MORE]


@pytest.mark.parametrize("time", range(2))
def test_that_ends_inside_an_open_transaction(client, time):
    assert client.get("/notes").json() == []
    assert client.post("/open", json=NOTE).json() == {"open": True}


def test_the_database_is_the_one_for_tests(client):
    from settings import database

    assert database.is_connected
    assert "test_" in database.url.database
"""

ASYNC_TESTS = """
import asyncio

import pytest
from settings import database, notes

NOTE = {"text": "write tests", "completed": False}
MORE = [{"text": f"note {n}", "completed": True} for n in range(5)]


@pytest.mark.parametrize("time", range(3))
async def test_the_test_and_the_application_see_the_same(async_client, time):
    assert await database.fetch_all(notes.select()) == []
    await database.execute(notes.insert(), NOTE)
    assert (await async_client.get("/notes")).json() == [NOTE]
    await asyncio.gather(*(async_client.post("/notes", json=note) for note in MORE))
    assert await database.fetch_val("SELECT count(*) FROM notes") == 6


@pytest.mark.parametrize("time", range(2))
async def test_that_ends_inside_an_open_transaction(async_client, time):
    assert await database.fetch_all(notes.select()) == []
    transaction = await database.transaction()
    assert (await async_client.post("/notes", json=NOTE)).status_code == 200
    assert transaction.is_open


async def test_a_rollback_of_the_tests_own(async_client):
    async with database.transaction(force_rollback=True):
        await async_client.post("/notes", json=NOTE)
        assert (await async_client.get("/notes")).json() == [NOTE]
    assert (await async_client.get("/notes")).json() == []


@pytest.mark.parametrize("time", range(2))
async def test_a_task_that_is_cancelled(async_client, time):
    assert await database.fetch_all(notes.select()) == []
    task = asyncio.create_task(async_client.post("/many", json=MORE))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert await database.fetch_val("SELECT count(*) FROM notes") in (0, 5)
"""

UNITTEST = """
import unittest

from settings import database, notes

NOTE = {"text": "write tests", "completed": False}


class NotesTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        await database.connect()
        self.addAsyncCleanup(database.disconnect)

    async def check(self):
        self.assertEqual(await database.fetch_all(notes.select()), [])
        await database.execute(notes.insert(), NOTE)
        async with database.transaction():
            await database.execute(notes.update().values(completed=True))
        self.assertEqual((await database.fetch_one(notes.select())).completed, True)

    async def test_one(self):
        await self.check()

    async def test_another(self):
        await self.check()

    async def test_that_fails_and_leaves_a_transaction_open(self):
        await database.transaction()
        await self.check()
"""

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""

# Each worker of pytest-xdist has a database of its own. It is made lazily: pytest-xdist's own
# process imports the settings, too, and runs no fixture that would drop it.
CLIENT_SETTINGS = SETTINGS.replace(
    "databases.Database(TEST_DATABASE_URL, force_rollback=True)",
    """DatabaseTestClient(
        DATABASE_URL, force_rollback=True, use_existing=True, lazy_setup=True
    )""",
).replace("import sqlalchemy", "import sqlalchemy\nfrom fastdb.testing import DatabaseTestClient")
CLIENT_CONFTEST = re.sub(
    r"async def create.*?(?=@pytest.fixture\(params)",
    """
async def create_tables():
    async with DatabaseTestClient(settings.DATABASE_URL) as client:
        await client.create_all(settings.metadata)


@pytest.fixture(scope="session", autouse=True)
def create_test_database():
    asyncio.run(create_tables())
    yield
    asyncio.run(DatabaseTestClient.drop_database(settings.database.test_db_url))


""",
    CONFTEST,
    flags=re.DOTALL,
)
# One database, made beforehand, serves all workers.
SHARED_CONFTEST = re.sub(
    r"async def create.*?(?=@pytest.fixture\(params)", "", CONFTEST, flags=re.DOTALL
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the folder of the application; pytest runs there."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def real(database_url: str, project: Path) -> Iterator[fastdb.DatabaseURL]:
    """Provide the URL of a real database with one note, which must be all there is in the end."""
    server = dialect_of(database_url) != "sqlite"
    url = fastdb.DatabaseURL(f"sqlite:///{project}/notes.db")
    if server:
        url = fastdb.DatabaseURL(database_url)
        url = url.replace(database=f"{url.database}_patterns")
        with Session(database_url) as session:
            session.run(f"CREATE DATABASE {url.database}")
    try:
        asyncio.run(add_real_note(url))
        yield url
        assert asyncio.run(real_notes(url)) == ["a real one"]
        assert others(url) == set()
    finally:
        if server:
            with Session(database_url) as session:
                for name in {url.database, *others(url)}:
                    session.run(f"DROP DATABASE {name}")


async def add_real_note(url: fastdb.DatabaseURL) -> None:
    async with fastdb.Database(url) as database:
        await database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(100))")
        await database.execute("INSERT INTO notes VALUES (1, 'a real one')")


async def real_notes(url: fastdb.DatabaseURL) -> list[str]:
    async with fastdb.Database(url) as database:
        return [note.text for note in await database.fetch_all("SELECT text FROM notes")]


def others(url: fastdb.DatabaseURL) -> set[str]:
    """Return the names of the databases that tests have made beside the real one."""
    if url.dialect == "sqlite":
        return {path.name for path in Path(url.database).parent.glob("*.db*")} - {"notes.db"}
    query = "SELECT schema_name FROM information_schema.schemata"
    if url.dialect == "postgresql":
        query = "SELECT datname FROM pg_database"
    with Session(str(url)) as session:
        names = {str(name) for (name,) in session.run(query)}
    return {name for name in names if url.database in name} - {url.database}


def run_project(
    folder: Path, url: fastdb.DatabaseURL, settings: str, conftest: str, *options: str
) -> None:
    """Write the project and run its tests, all of which must pass."""
    # The page's way to the name of the test database is one for a file in the working directory.
    given = "sqlite:///notes.db" if url.dialect == "sqlite" else str(url)
    files = {
        "settings.py": settings,
        "starlette_app.py": STARLETTE,
        "fastapi_app.py": FASTAPI,
        "conftest.py": conftest,
        "test_client.py": TESTS,
        "test_async.py": ASYNC_TESTS,
        "test_unittest.py": UNITTEST,
        "pytest.ini": INI,
        ".env": f"DATABASE_URL={given}\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text.lstrip())
    unwanted = ("PYTEST_", "TESTING", "DATABASE_URL")
    env = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:pytest_alembic",
            *options,
        ],
        cwd=folder,
        env=env | {"PYTHONPATH": str(Path(fastdb.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"\b{COUNT} passed\b", done.stdout), done.stdout


def test_the_page_as_it_is_written(real: fastdb.DatabaseURL, project: Path) -> None:
    run_project(project, real, SETTINGS, CONFTEST, "-p", "no:xdist")


def test_handlers_of_startup_and_shutdown(database_url: str) -> None:
    database = fastdb.Database(database_url, force_rollback=True)
    application = FastAPI(on_startup=[database.connect], on_shutdown=[database.disconnect])

    @application.get("/")
    async def one() -> int:
        return int(await database.fetch_val("SELECT 1"))

    for _ in range(2):
        with TestClient(application) as client:
            assert client.get("/").json() == 1
            assert database.is_connected
        assert not database.is_connected


def test_workers_with_a_database_each(real: fastdb.DatabaseURL, project: Path) -> None:
    run_project(project, real, CLIENT_SETTINGS, CLIENT_CONFTEST, "-n", "3")


def test_workers_that_share_a_database(real: fastdb.DatabaseURL, project: Path) -> None:
    """Transactions that are never committed do not see each other; nor do they wait for long."""
    folder, slash, name = real.database.rpartition("/")
    url = real.replace(database=f"{folder}{slash}test_{name}")
    asyncio.run(create_shared(url))
    try:
        try:
            run_project(project, real, SETTINGS, SHARED_CONFTEST, "-n", "3")
        except AssertionError as error:
            # InnoDB's locks on what others have inserted may end in a deadlock, which it tells.
            if "(1213, 'Deadlock found" not in str(error):
                raise
        assert asyncio.run(shared_is_empty(url))
    finally:
        asyncio.run(DatabaseTestClient.drop_database(url))


async def create_shared(url: fastdb.DatabaseURL) -> None:
    definition: dict[str, Any] = {}
    exec(SETTINGS[SETTINGS.index("metadata =") :], {"sqlalchemy": sqlalchemy}, definition)
    await DatabaseTestClient.create_database(url)
    async with fastdb.Database(url) as database:
        await database.create_all(definition["metadata"])


async def shared_is_empty(url: fastdb.DatabaseURL) -> bool:
    async with fastdb.Database(url) as database:
        return bool(await database.fetch_val("SELECT count(*) FROM notes") == 0)
