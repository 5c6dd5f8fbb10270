"""The pytest plugin, in runs of pytest of their own."""

from __future__ import annotations

import importlib.metadata
import os
import secrets
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastdb
from tests.databases import Session, dialect_of, drop_databases, end_connections

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest
import sqlalchemy as sa

metadata = sa.MetaData()
notes = sa.Table(
    "notes", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("text", sa.String(50), index=True),
)

@pytest.fixture(scope="session")
def fastdb_metadata():
    return metadata
"""

NOTES = """
import asyncio
import pytest
from conftest import notes

INSERT = notes.insert().values(text="a")

async def count(database):
    return len(await database.fetch_all(notes.select()))

async def use(database):
    '''Add one row to none, in a transaction.'''
    assert await count(database) == 0
    async with database.transaction():
        await database.execute(INSERT)
    assert await asyncio.create_task(count(database)) == 1
"""

USES = {
    "auto": (
        "asyncio_mode = auto",
        """
@pytest.mark.parametrize("number", range(3))
async def test_database(database, number):
    assert database.is_connected
    await use(database)
""",
    ),
    "strict": (
        "asyncio_mode = strict",
        """
import pytest_asyncio

@pytest_asyncio.fixture
async def row(database):
    await database.execute(INSERT)

@pytest.mark.parametrize("number", range(2))
@pytest.mark.asyncio
async def test_function_scope(database, number):
    await use(database)

@pytest.mark.asyncio
async def test_async_fixtures_share_it(database, row):
    assert await count(database) == 1

@pytest.mark.parametrize("number", range(2))
@pytest.mark.asyncio(loop_scope="class")
class TestClass:
    async def test_class_scope(self, database, number):
        await use(database)

@pytest.mark.parametrize("number", range(2))
@pytest.mark.asyncio(loop_scope="module")
async def test_module_scope(database, number):
    await use(database)

@pytest.mark.parametrize("number", range(2))
@pytest.mark.asyncio(loop_scope="session")
async def test_session_scope(database, number):
    await use(database)
""",
    ),
    "anyio": (
        "asyncio_mode = strict",
        """
pytestmark = pytest.mark.anyio

@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def row(database):
    await database.execute(INSERT)

@pytest.mark.parametrize("number", range(3))
async def test_database(database, number):
    await use(database)

async def test_async_fixtures_share_it(database, row):
    assert await count(database) == 1
""",
    ),
    "unittest": (
        "asyncio_mode = strict",
        """
import unittest

class Case(unittest.IsolatedAsyncioTestCase):
    @pytest.fixture(autouse=True)
    def _database(self, database):
        self.database = database

    async def asyncSetUp(self):
        await self.database.execute(INSERT)

    async def test_one(self):
        assert await count(self.database) == 1
        await self.database.execute(INSERT)

    async def test_another(self):
        assert await count(self.database) == 1
        await self.database.execute(INSERT)
""",
    ),
    "client": (
        "asyncio_mode = auto",
        """
import contextlib
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

@pytest.fixture
def application(database):
    async def index(request):
        async with database.transaction():
            await database.execute(INSERT)
        return JSONResponse(await count(database))

    @contextlib.asynccontextmanager
    async def lifespan(application):
        async with database:
            yield

    return Starlette(routes=[Route("/", index)], lifespan=lifespan)

@pytest.mark.parametrize("number", range(2))
def test_client(application, query_counter, number):
    with TestClient(application) as client, query_counter(4):
        assert [client.get("/").json() for _ in range(2)] == [1, 2]

async def test_a_client_that_blocks_the_loop_of_the_test(application, database, query_counter):
    await use(database)
    with query_counter(2), TestClient(application) as client:
        assert client.get("/").json() == 2
    assert await count(database) == 2
""",
    ),
}

SETTINGS = """
[pytest]
{}
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


class Project:
    """A folder with tests, and what is left of its runs on the server.

    Attributes:
        url: What FASTDB_TEST_URL is.
        path: The folder.
    """

    def __init__(self, pytester: pytest.Pytester, url: str) -> None:
        self.url = url
        self.path = pytester.path
        self.is_sqlite = dialect_of(url) == "sqlite"
        self._pytester = pytester
        self.configure("asyncio_mode = auto")
        self.write("conftest", CONFTEST)

    def configure(self, *settings: str) -> None:
        """Write pytest.ini."""
        (self.path / "pytest.ini").write_text(SETTINGS.format("\n".join(settings)))

    def write(self, name: str, *parts: str) -> None:
        """Write a module."""
        (self.path / f"{name}.py").write_text("\n".join(parts))

    def run(self, *args: str, **outcomes: int) -> str:
        """Run pytest; check what became of the tests, and return what it printed."""
        result = self._pytester.runpytest_subprocess("-p", "no:randomly", *args)
        if outcomes:
            result.assert_outcomes(**outcomes)
        return str(result.stdout)

    @property
    def name(self) -> str:
        """The database in the URL; of SQLite without the suffix."""
        return self.url.rpartition("/")[2].removesuffix(".db")

    def databases(self) -> list[str]:
        """Return what stands beside the user's database, without the common beginning."""
        start = f"{self.name}_fastdb_"
        if self.is_sqlite:
            found = [path.stem for path in self.path.glob(f"{start}*.db")]
        else:
            with self.session() as session:
                if session.dialect == "postgresql":
                    rows = session.run("SELECT datname FROM pg_database")
                else:
                    rows = session.run("SHOW DATABASES")
            found = [name for (name,) in rows if name.startswith(start)]
        return sorted(name.removeprefix(start) for name in found)

    def templates(self) -> list[str]:
        """Return the templates; nothing else may be left."""
        names = self.databases()
        assert all(name.startswith("template_") for name in names), names
        return names

    def session(self) -> Session:
        """Return a connection to the server."""
        base = self.url.replace("+asyncmy", "").rpartition("/")[0]
        return Session(f"{base}/{'postgres' if dialect_of(self.url) == 'postgresql' else ''}")


@pytest.fixture
def url(database_url: str, pytester: pytest.Pytester) -> Iterator[str]:
    """Provide the URL of a database that is not there; drop what is made in its name."""
    if dialect_of(database_url) == "sqlite":
        yield f"sqlite:///{pytester.path / 'app.db'}"
        return
    name = f"plugin_{secrets.token_hex(4)}"
    base = database_url.rpartition("/")[0]
    yield f"{base}/{name}"
    drop_databases(database_url.replace("+asyncmy", ""), name)


@pytest.fixture
def project(
    url: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    """Provide a project with a table, whose tests run on a database of each backend."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FASTDB_TEST_URL", url)
    yield Project(pytester, url)


@pytest.fixture
def nowhere(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Provide a project without a URL."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID", "FASTDB_TEST_URL"):
        monkeypatch.delenv(name, raising=False)
    return Project(pytester, f"sqlite:///{pytester.path / 'app.db'}")


def add_migrations(project: Project, *bodies: str) -> Path:
    """Write a folder of migrations, which `fastdb_migrations` returns; each has a body."""
    folder = project.path / "migrations"
    (folder / "versions").mkdir(parents=True, exist_ok=True)
    (folder / "env.py").write_text("from fastdb.migrations import run_env\nrun_env('')\n")
    (folder / "script.py.mako").write_text("")
    for number, body in enumerate(bodies):
        before = f"r{number - 1}" if number else None
        (folder / "versions" / f"r{number}.py").write_text(
            "import os\nimport sqlalchemy as sa\nfrom alembic import op\n"
            f"revision = 'r{number}'\ndown_revision = {before!r}\n"
            f"def upgrade():\n    {body}\n"
        )
    fixture = "@pytest.fixture(scope='session')\ndef fastdb_migrations():\n    return 'migrations'"
    project.write("conftest", CONFTEST.replace("fastdb_metadata", "unused"), fixture)
    return folder


MAKE_NOTES = (
    "op.create_table('notes', sa.Column('id', sa.Integer, primary_key=True), "
    "sa.Column('text', sa.String(50)))"
)
LOG = "open(os.environ['LOG'], 'a').write('made\\n')"
NOTHING = "async def test_nothing(database):\n    await use(database)\n"


# -- where nobody asks for it


def test_the_plugin_is_installed() -> None:
    (entry,) = importlib.metadata.entry_points(group="pytest11", name="fastdb")
    assert entry.value == "_fastdb_pytest", "install the project again: pip install -e ."


def test_it_is_silent_where_it_is_not_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_imported(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("fastdb")
            packages = {name.partition(".")[0] for name in sys.modules}
            assert packages.isdisjoint(
                {"fastdb", "sqlalchemy", "aiosqlite", "asyncpg", "aiomysql", "pymysql", "alembic"}
            )
        """
    )
    command = ("-W", "error", "--strict-markers", "--strict-config", "-p", "no:randomly", "-q")
    # Other plugins have their say in what is shown, and warn of what is left unset.
    others = ("-p", "no:asyncio", "-p", "no:cov", "-p", "no:benchmark", "-p", "no:hypothesispytest")
    result = pytester.runpytest_subprocess(*command, *others)
    result.assert_outcomes(passed=1)
    assert "fastdb" not in str(result.stdout)
    assert not str(result.stderr)


# -- the fixtures, under each plugin for async tests


@pytest.mark.parametrize("style", USES)
def test_database(project: Project, style: str) -> None:
    setting, tests = USES[style]
    project.configure(setting)
    project.write("test_it", NOTES, tests)
    passed = {"auto": 3, "strict": 9, "anyio": 4, "unittest": 2, "client": 3}[style]
    project.run(passed=passed)
    assert len(project.templates()) == 1
