"""The pytest plugin, in runs of pytest of their own."""

from __future__ import annotations

import importlib.metadata
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastdb.testing.plugin import Workshop
from fastdb.testing.plugin_schema import Schema
from tests.databases import ServerDatabase, Session, drop_databases
from tests.testing.spare import Spare

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
    """A folder with tests.

    Attributes:
        path: The folder.
    """

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.path = pytester.path
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
        without = [f"-pno:{name}" for name in ("randomly", "benchmark", "cov", "hypothesispytest")]
        with pytest.MonkeyPatch.context() as patch:
            for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"):
                patch.delenv(name, raising=False)
            result = self._pytester.runpytest_subprocess(*without, *args)
        if outcomes:
            result.assert_outcomes(**outcomes)
        return str(result.stdout)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Provide a project with a table, without a URL."""
    monkeypatch.delenv("FASTDB_TEST_URL", raising=False)
    return Project(pytester)


@pytest.fixture
def beside(spare: Spare, monkeypatch: pytest.MonkeyPatch) -> Spare:
    """Let tests of projects run beside a database of each backend."""
    monkeypatch.setenv("FASTDB_TEST_URL", spare.url)
    return spare


def open_workshop(url: str, folder: Path) -> Workshop:
    return Workshop(url, lambda: Schema(None, None), lambda: folder)


@contextmanager
def new_role(url: str, *, may_create: bool) -> Iterator[str]:
    """Yield a URL for a role that owns nothing, of a database of its name, which is not there."""
    role = f"plugin_{secrets.token_hex(4)}"
    scheme, _, rest = url.partition("://")
    host = rest.rpartition("@")[2].partition("/")[0]
    plain = url.replace("+asyncmy", "")
    with Session(plain) as session:
        if session.dialect == "postgresql":
            session.run(f"CREATE ROLE {role} LOGIN PASSWORD 'x'" + " CREATEDB" * may_create)
        else:
            session.run(f"CREATE USER {role}@'%' IDENTIFIED BY 'x'")
            if may_create:
                session.run(rf"GRANT ALL PRIVILEGES ON `%\_fastdb\_%`.* TO {role}@'%'")
    try:
        yield f"{scheme}://{role}:x@{host}/{role}"
    finally:
        drop_databases(plain, role)
        with Session(plain) as session:
            end = "" if session.dialect == "postgresql" else "@'%'"
            session.run(f"DROP {'USER' if end else 'ROLE'} {role}{end}")


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
    others = ("asyncio", "cov", "benchmark", "hypothesispytest", "pytest_alembic")
    result = pytester.runpytest_subprocess(*command, *(f"-pno:{name}" for name in others))
    result.assert_outcomes(passed=1)
    assert "fastdb" not in str(result.stdout)
    assert not str(result.stderr)


def test_fastdb_is_imported_as_ever(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import fastdb.database

        def test_no_asserts_are_rewritten():
            assert type(fastdb.database.__spec__.loader).__name__ != "AssertionRewritingHook"
        """
    )
    pytester.runpytest_subprocess("-p", "no:randomly").assert_outcomes(passed=1)


def test_a_program_may_import_fastdb_before_it_runs_pytest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing():\n    pass\n")
    program = (
        "import fastdb, pytest; raise SystemExit(pytest.main(['-W', 'error', '-p', 'no:cov']))"
    )
    others = ["-pno:asyncio", "-pno:randomly", "-pno:benchmark", "-pno:hypothesispytest"]
    path = pytester.makepyfile(program=program.replace("'no:cov'", f"'no:cov', *{others}"))
    result = pytester.runpython(path)
    result.assert_outcomes(passed=1)
    assert result.ret == 0


# -- the fixtures, under each plugin for async tests


@pytest.mark.parametrize("style", USES)
def test_database(project: Project, beside: Spare, style: str) -> None:
    setting, tests = USES[style]
    project.configure(setting)
    project.write("test_it", NOTES, tests)
    passed = {"auto": 3, "strict": 9, "anyio": 4, "unittest": 2, "client": 3}[style]
    project.run(passed=passed)
    assert len(beside.templates()) == 1


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


def test_database_committed(project: Project, beside: Spare) -> None:
    project.write("test_it", NOTES, COMMITTED)
    project.run(passed=9)
    assert len(beside.templates()) == 1


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


def test_query_counter(project: Project, beside: Spare) -> None:
    project.write("test_it", NOTES, COUNTER)
    output = project.run(passed=4, failed=3)
    told = output.partition("AssertionError: 2 queries ran, 1 expected:\n")[2].splitlines()[:2]
    assert [line.split()[1:] for line in told] == [["1.", "SELECT", "1"], ["2.", "SELECT", "2"]]
    assert "AssertionError: 0 queries ran, 1 expected" in output
    assert "query_counter knows no database" in output


# -- templates


def test_workers_make_the_template_once_and_have_a_clone_each(
    project: Project, beside: Spare, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, urls = project.path / "log", project.path / "urls"
    monkeypatch.setenv("LOG", str(log))
    row = "op.execute(\"INSERT INTO notes VALUES (7000, 'b')\")"
    add_migrations(
        project,
        MAKE_NOTES,
        f"with open(os.environ['LOG'], 'a') as log: log.write('made')\n    {row}",
    )
    project.write(
        "test_it",
        NOTES,
        f"""
@pytest.mark.parametrize("number", range(8))
async def test_each(database, fastdb_worker_url, worker_id, number):
    with open({str(urls)!r}, "a") as urls:
        urls.write(f"{{worker_id}} {{fastdb_worker_url}}\\n")
    assert await count(database) == 1
    await database.execute(INSERT)
""",
    )
    project.run("-n", "3", passed=8)
    assert log.read_text() == "made"
    pairs = [line.split() for line in urls.read_text().splitlines()]
    clones = dict(pairs)
    assert len(pairs) == 8
    assert len(set(clones.values())) == len(clones) > 1
    assert all(f"_fastdb_{worker}_" in url for worker, url in clones.items())
    (template,) = beside.templates()
    # The next run takes the same one.
    project.run(passed=8)
    assert log.read_text() == "made"
    assert beside.templates() == [template]


def test_a_run_that_is_killed_in_a_test(project: Project, beside: Spare, tmp_path: Path) -> None:
    kill = "os.kill(os.getpid(), 9)"
    killing = f"import os\n\nasync def test_it(database, database_committed):\n    {kill}\n"
    project.write("test_it", killing)
    project.run()
    assert len(beside.databases()) == 3
    open_workshop(beside.url, tmp_path).close()
    assert len(beside.templates()) == 1


def test_a_run_that_is_killed_while_it_makes_the_template(
    project: Project, beside: Spare, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = project.path / "killed"
    monkeypatch.setenv("KILLED", str(killed))
    mark = "open(os.environ['KILLED'], 'w'); os.kill(os.getpid(), 9)"
    add_migrations(project, MAKE_NOTES, f"if not os.path.exists(os.environ['KILLED']): {mark}")
    project.write("test_it", NOTES, NOTHING)
    project.run()
    assert killed.exists()
    assert len(beside.databases()) == 1
    project.run(passed=1)
    assert len(beside.templates()) == 1


def test_without_metadata_or_migrations_it_is_empty(project: Project, beside: Spare) -> None:
    project.write("conftest", "")
    project.write(
        "test_it",
        "from sqlalchemy import inspect\n"
        "async def test_empty(database):\n"
        "    tables = await database.run_sync(lambda c: inspect(c).get_table_names())\n"
        "    assert tables == []\n",
    )
    project.run(passed=1)


def test_a_failing_migration_is_shown_and_leaves_nothing(project: Project, beside: Spare) -> None:
    add_migrations(project, MAKE_NOTES, "raise RuntimeError('my own mistake')")
    project.write("test_it", NOTES, NOTHING)
    output = project.run(errors=1)
    assert "my own mistake" in output
    assert "in upgrade" in output
    assert beside.databases() == []


def test_one_run_on_several_servers(
    project: Project, sqlite_url: str, postgresql_database: ServerDatabase, mysql_url: str
) -> None:
    name = f"plugin_{secrets.token_hex(4)}"
    bases = [url.rpartition("/")[0] for url in (postgresql_database.url, mysql_url)]
    urls = [sqlite_url, *(f"{base}/{name}" for base in bases)]
    several = f"@pytest.fixture(scope='session', params={urls!r})\ndef fastdb_url(request):\n"
    project.write("conftest", CONFTEST, several + "    return request.param\n")
    project.write("test_it", NOTES, NOTHING, NOTHING.replace("test_nothing", "test_again"))
    try:
        project.run("-pno:cacheprovider", passed=6)
    finally:
        for url in urls[1:]:
            drop_databases(url.rpartition("/")[0] + "/postgres" * ("postgresql" in url), name)


@pytest.mark.parametrize("option", ["-v", "-pno:cacheprovider"])
def test_a_url_in_memory(project: Project, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    monkeypatch.setenv("FASTDB_TEST_URL", "sqlite://")
    project.write("test_it", NOTES, NOTHING)
    project.run(option, passed=1)
    folder = project.path / ".pytest_cache" / "d" / "fastdb"
    kept = [path.name for path in folder.glob("memory_fastdb_template_*.db")]
    assert len(kept) == (option == "-v")


# -- what goes wrong is told


def test_a_role_that_may_not_create_databases(
    project: Project, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_role(server_url, may_create=False) as url:
        monkeypatch.setenv("FASTDB_TEST_URL", url)
        project.write("test_it", NOTES, NOTHING)
        output = project.run(errors=1)
    assert "cannot make the template of databases for tests" in output
    assert "must be allowed to create databases" in output
    assert "Traceback" not in output


def test_a_role_that_may_create_databases_and_nothing_else(
    project: Project, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_role(server_url, may_create=True) as url:
        monkeypatch.setenv("FASTDB_TEST_URL", url)
        project.write(
            "test_it",
            NOTES,
            NOTHING,
            NOTHING.replace("database", "database_committed").replace("test_n", "test_another_n"),
        )
        project.run(passed=2)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "set the environment variable FASTDB_TEST_URL"),
        ("nothing", "cannot use what fastdb_url returns"),
        ("oracle://localhost/app", "oracle"),
        ("postgresql://localhost/app?colour=red", "colour"),
        ("sqlite:////no/such/folder/app.db", "there is no folder '/no/such/folder'"),
        ("postgresql://postgres:secret@127.0.0.1:1/app", "for databases of tests"),
        ("mysql://root:secret@127.0.0.1:1/app", "for databases of tests"),
    ],
)
def test_a_url_that_does_not_serve(
    project: Project, monkeypatch: pytest.MonkeyPatch, url: str, told: str
) -> None:
    monkeypatch.setenv("FASTDB_TEST_URL", url)
    project.write("test_it", NOTES, NOTHING)
    output = project.run(errors=1)
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
    project: Project, monkeypatch: pytest.MonkeyPatch, fixtures: dict[str, str], told: str
) -> None:
    monkeypatch.setenv("FASTDB_TEST_URL", f"sqlite:///{project.path}/app.db")
    project.write(
        "conftest",
        CONFTEST.replace("def fastdb_metadata", "def unused"),
        "class Base:\n    metadata = metadata\n",
        *(
            f"@pytest.fixture(scope='session')\ndef {name}():\n    return {value}\n"
            for name, value in fixtures.items()
        ),
    )
    project.write("test_it", NOTES, NOTHING)
    output = project.run(errors=1)
    assert told in output
    assert "Traceback" not in output
