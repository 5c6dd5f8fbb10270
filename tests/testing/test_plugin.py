"""The pytest plugin, in runs of pytest of their own."""

from __future__ import annotations

import importlib.metadata
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import Session, dialect_of, drop_databases

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
def project(url: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Provide a project with a table, whose tests run on a database of each backend."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FASTDB_TEST_URL", url)
    return Project(pytester, url)


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


COMMITTED = """
import asyncio
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

@pytest.mark.parametrize("number", range(2))
async def test_transactions_are_committed(database_committed, number):
    database = database_committed
    await use(database)
    # On another connection, another Database, too.
    async with database.connection(), type(database).__mro__[1](database.url) as other:
        assert await count(other) == 1
    async with database:
        await database.execute(INSERT)
    assert await count(database) == 2

@pytest.mark.parametrize("number", range(2))
@pytest.mark.asyncio(loop_scope="module")
async def test_the_loop_outlives_the_test(database_committed, number):
    await use(database_committed)

@pytest.mark.asyncio(loop_scope="module")
async def test_it_is_left_in_a_transaction(database_committed):
    await database_committed.transaction()
    await database_committed.execute(INSERT)

async def test_so_it_is_on_a_loop_that_ends(database_committed):
    await database_committed.transaction()
    await database_committed.execute(INSERT)

async def test_several_loops_use_it(database_committed, query_counter):
    database = database_committed

    async def index(request):
        await database.execute(INSERT)
        return JSONResponse(await count(database))

    with query_counter(5):
        await database.execute(INSERT)
        client = TestClient(Starlette(routes=[Route("/", index)]))
        assert [client.get("/").json() for _ in range(2)] == [2, 3]

def test_a_client_with_a_loop_that_goes_on(database_committed):
    async def index(request):
        await database_committed.execute(INSERT)
        return JSONResponse(await count(database_committed))

    client = TestClient(Starlette(routes=[Route("/", index)]))
    client.__enter__()
    assert [client.get("/").json() for _ in range(2)] == [1, 2]

async def test_both_can_be_used(database, database_committed, query_counter):
    with query_counter(2):
        await database.execute(INSERT)
        assert await count(database_committed) == 0
"""


def test_database_committed(project: Project) -> None:
    project.write("test_it", NOTES, COMMITTED)
    project.run(passed=9)
    assert len(project.templates()) == 1


COUNTER = """
async def test_what_counts(database, query_counter):
    with query_counter() as counter:
        await database.execute(INSERT)
        assert counter.count == 1
        async with database.transaction():
            async with database.transaction():
                await database.execute_many(notes.insert(), [{"text": "b"}, {"text": "c"}])
            async with database.connection() as connection:
                assert len([note async for note in connection.iterate(notes.select())]) == 3
        await database.execute_many(notes.insert(), [])
        with pytest.raises(Exception):
            await database.execute("SELECT nothing FROM nowhere")
    assert counter.count == 4
    await count(database)
    assert repr(counter) == "<QueryCounter of 4 queries>"
    assert [sql.split()[0] for sql in counter.queries] == ["INSERT", "INSERT", "SELECT", "SELECT"]

async def test_nested_counters(database, query_counter):
    with query_counter(2):
        await count(database)
        with query_counter(1):
            await count(database)

async def test_what_was_raised_is_told(database, query_counter):
    with pytest.raises(ZeroDivisionError):
        with query_counter(1):
            1 / 0

async def test_another_database(tmp_path, query_counter):
    import fastdb
    from fastdb.testing import Sandbox

    async with fastdb.Database(f"sqlite:///{tmp_path}/other.db") as other:
        await other.execute("CREATE TABLE t (a)")
        async with Sandbox(other):
            with query_counter(2, database=other):
                await other.execute("INSERT INTO t VALUES (1)")
                await other.fetch_all("SELECT * FROM t")
        with query_counter(1, database=other):
            await other.fetch_all("SELECT * FROM t")
    with pytest.raises(fastdb.OptionError, match="not of 3"):
        with query_counter(database=3):
            pass

async def test_too_many(database, query_counter):
    with query_counter(1):
        await database.execute("SELECT 1")
        await database.execute("SELECT 2")

async def test_none(database, query_counter):
    with query_counter(1):
        pass

async def test_of_nothing(query_counter):
    with query_counter(1):
        pass
"""


def test_query_counter(project: Project) -> None:
    project.write("test_it", NOTES, COUNTER)
    output = project.run(passed=4, failed=3)
    told = output.partition("AssertionError: 2 queries ran, 1 expected:\n")[2].splitlines()[:2]
    assert [line.split()[1:] for line in told] == [["1.", "SELECT", "1"], ["2.", "SELECT", "2"]]
    assert "AssertionError: 0 queries ran, 1 expected" in output
    assert "query_counter knows no database" in output


# -- templates


def test_workers_make_the_template_once_and_have_a_clone_each(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, urls = project.path / "log", project.path / "urls"
    monkeypatch.setenv("LOG", str(log))
    add_migrations(project, MAKE_NOTES, f"{LOG}; op.execute(\"INSERT INTO notes VALUES (7, 'b')\")")
    project.write(
        "test_it",
        NOTES,
        f"""
@pytest.mark.parametrize("number", range(8))
async def test_each(database, fastdb_worker_url, worker_id, number):
    open({str(urls)!r}, "a").write(f"{{worker_id}} {{fastdb_worker_url}}\\n")
    assert await count(database) == 1
    await database.execute(INSERT)
""",
    )
    project.run("-n", "3", passed=8)
    assert log.read_text() == "made\n"
    pairs = [line.split() for line in urls.read_text().splitlines()]
    clones = dict(pairs)
    assert len(pairs) == 8
    assert len(set(clones.values())) == len(clones) > 1
    assert all(f"_fastdb_{worker}_" in url for worker, url in clones.items())
    before = project.templates()
    # The next run takes the same one, and a change of the migrations another.
    project.run(passed=8)
    assert log.read_text() == "made\n"
    assert project.templates() == before
    add_migrations(project, MAKE_NOTES, f"{LOG}; op.execute(\"INSERT INTO notes VALUES (8, 'b')\")")
    project.run(passed=8)
    assert log.read_text() == "made\nmade\n"
    assert set(before) < set(project.templates())


def test_another_metadata_makes_another_template(project: Project) -> None:
    project.write("test_it", NOTES, NOTHING)
    seen = set()
    for size in (50, 51, 52, 53, 54, 50):
        project.write("conftest", CONFTEST.replace("String(50)", f"String({size})"))
        project.run(passed=1)
        seen |= set(project.templates())
    # Few are kept, the newest of them.
    assert len(seen) == 5
    assert len(project.templates()) == 4


def test_what_a_killed_run_left_is_dropped(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = project.path / "killed"
    monkeypatch.setenv("KILLED", str(killed))
    kill = "os.kill(os.getpid(), 9)"
    first = f"if not os.path.exists(os.environ['KILLED']): open(os.environ['KILLED'], 'w'); {kill}"
    add_migrations(project, MAKE_NOTES, first)
    killing = f"import os\n\nasync def test_nothing(database, database_committed):\n    {kill}\n"
    project.write("test_it", killing)
    project.run()  # is killed while it makes the template
    assert killed.exists()
    half_made = project.databases()
    assert len(half_made) == 1
    project.run()  # is killed in the test
    left = project.databases()
    assert len(left) == 3
    assert not set(half_made) & set(left) or dialect_of(project.url) == "mysql"
    project.write("test_it", NOTES, NOTHING)
    project.run(passed=1)
    assert len(project.templates()) == 1


def test_nobody_elses_database_is_touched(project: Project) -> None:
    name = f"{project.name}_fastdb_main_0123abcd"
    if project.is_sqlite:
        with sqlite3.connect(project.path / f"{name}.db") as connection:
            connection.execute("CREATE TABLE mine (a)")
        connection.close()
    else:
        with project.session() as session:
            session.run(f"CREATE DATABASE {name}")
    project.write("test_it", NOTES, NOTHING)
    project.run(passed=1)
    assert "main_0123abcd" in project.databases()
    if project.is_sqlite:
        assert not (project.path / "app.db").exists()
    else:
        with project.session() as session:
            session.run(f"DROP DATABASE {name}")


def test_without_metadata_or_migrations_it_is_empty(project: Project) -> None:
    project.write("conftest", "")
    project.write(
        "test_it",
        "from sqlalchemy import inspect\n"
        "async def test_empty(database):\n"
        "    tables = await database.run_sync(lambda c: inspect(c).get_table_names())\n"
        "    assert tables == []\n",
    )
    project.run(passed=1)


def test_a_failing_migration_is_shown_and_leaves_nothing(project: Project) -> None:
    add_migrations(project, MAKE_NOTES, "raise RuntimeError('my own mistake')")
    project.write("test_it", NOTES, NOTHING)
    output = project.run(errors=1)
    assert "RuntimeError: my own mistake" in output or "my own mistake" in output
    assert project.databases() == []


def test_a_template_in_use_is_copied_all_the_same(postgresql_url: str, project: Project) -> None:
    if dialect_of(project.url) != "postgresql":
        return
    project.write("test_it", NOTES, NOTHING)
    project.run(passed=1)
    (template,) = project.templates()
    name = f"{project.name}_fastdb_{template}"
    with project.session() as session:
        session.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    with Session(project.url.rpartition("/")[0] + "/" + name):
        project.run(passed=1)
    assert project.templates() == [template]


# -- what goes wrong is told


def test_a_role_that_may_not_create_databases(
    server_url: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    role = f"plugin_{secrets.token_hex(4)}"
    plain = server_url.replace("+asyncmy", "")
    is_postgresql = dialect_of(plain) == "postgresql"
    scheme, _, rest = server_url.partition("://")
    host = rest.rpartition("@")[2].partition("/")[0]
    with Session(plain) as session:
        create = f"CREATE ROLE {role} LOGIN" if is_postgresql else f"CREATE USER {role}@'%'"
        session.run(create + (" PASSWORD 'x'" if is_postgresql else " IDENTIFIED BY 'x'"))
        try:
            monkeypatch.setenv("FASTDB_TEST_URL", f"{scheme}://{role}:x@{host}/{role}")
            project = Project(pytester, f"{plain.rpartition('/')[0]}/{role}")
            project.write("test_it", NOTES, NOTHING)
            output = project.run(errors=1)
            assert "cannot make the template of databases for tests" in output
            assert "must be allowed to create databases" in output
            assert "Traceback" not in output
            assert project.databases() == []
        finally:
            session.run(f"DROP ROLE {role}" if is_postgresql else f"DROP USER {role}@'%'")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "set the environment variable FASTDB_TEST_URL"),
        ("nothing", "cannot use the fixture fastdb_url"),
        ("oracle://localhost/app", "oracle"),
        ("postgresql://localhost/app?colour=red", "colour"),
        ("sqlite:////no/such/folder/app.db", "there is no folder '/no/such/folder'"),
        ("postgresql://postgres:secret@127.0.0.1:1/app", "for databases of tests"),
        ("mysql://root:secret@127.0.0.1:1/app", "for databases of tests"),
    ],
)
def test_a_url_that_does_not_serve(
    nowhere: Project, monkeypatch: pytest.MonkeyPatch, url: str, told: str
) -> None:
    monkeypatch.setenv("FASTDB_TEST_URL", url)
    nowhere.write("test_it", NOTES, NOTHING)
    output = nowhere.run(errors=1)
    assert told in output
    assert "Traceback" not in output
    assert "secret" not in output


@pytest.mark.parametrize(
    ("fixtures", "told"),
    [
        ({"fastdb_metadata": "metadata", "fastdb_migrations": "'.'"}, "both return something"),
        ({"fastdb_metadata": "Base"}, "return its `.metadata`"),
        ({"fastdb_metadata": "3"}, "return one, or None"),
        ({"fastdb_migrations": "3"}, "return the path of a folder"),
        ({"fastdb_migrations": "'nowhere'"}, "it has no env.py"),
    ],
)
def test_fixtures_that_return_something_else(
    nowhere: Project, monkeypatch: pytest.MonkeyPatch, fixtures: dict[str, str], told: str
) -> None:
    monkeypatch.setenv("FASTDB_TEST_URL", nowhere.url)
    nowhere.write(
        "conftest",
        CONFTEST.replace("def fastdb_metadata", "def unused"),
        "class Base:\n    metadata = metadata\n",
        *(
            f"@pytest.fixture(scope='session')\ndef {name}():\n    return {value}\n"
            for name, value in fixtures.items()
        ),
    )
    nowhere.write("test_it", NOTES, NOTHING)
    output = nowhere.run(errors=1)
    assert told in output
    assert "Traceback" not in output
