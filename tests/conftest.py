"""Databases for the tests.

``--backends=sqlite,postgresql,mysql`` (the default: these three) chooses what ``database_url`` and
``database`` run over; ``asyncmy`` is a fourth, the MySQL server through the other driver. Tests
that ask for one server by name (``postgresql_url``) are left out with it. A backend that is asked
for and cannot be had fails the run.

Each worker of a run has one fresh database on each server, dropped with the run. A test that used
one leaves it empty: what the test made, whatever its name, is dropped afterwards, and connections
that the test left open are ended. On SQLite each test has a file of its own.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

import fastdb
from tests.databases import DIALECTS, ServerDatabase, ServerError, drop_databases
from tests.servers import Server, given_url, servers

BACKENDS = {"sqlite": None, "postgresql": "postgresql", "mysql": "mysql", "asyncmy": "mysql"}
DEFAULT_BACKENDS = "sqlite,postgresql,mysql"

# A shared machine is slow at times; CI repeats its examples, so that a red run can be repeated.
settings.register_profile("fastdb", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "fastdb")

cleanup = pytest.StashKey[ExitStack]()
found = pytest.StashKey[dict[str, Server]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backends",
        default=DEFAULT_BACKENDS,
        help=f"comma-separated, of {', '.join(BACKENDS)} (default: {DEFAULT_BACKENDS})",
    )


def chosen_backends(config: pytest.Config) -> list[str]:
    names = [name.strip() for name in config.getoption("--backends").split(",") if name.strip()]
    if not names or not set(names) <= set(BACKENDS):
        raise pytest.UsageError(f"--backends takes some of {', '.join(BACKENDS)}, not {names}")
    return list(dict.fromkeys(names))


def chosen_dialects(config: pytest.Config) -> list[str]:
    dialects = {BACKENDS[name] for name in chosen_backends(config)}
    return [dialect for dialect in DIALECTS if dialect in dialects]


def run_prefix() -> str:
    """Return what the names of this run's databases begin with."""
    return f"fastdb_test_{os.environ['FASTDB_TEST_RUN']}_"


def pytest_configure(config: pytest.Config) -> None:
    required = os.environ.get("FASTDB_REQUIRE_EXTENSIONS", "") not in ("", "0")
    if required and not fastdb.COMPILED:
        raise pytest.UsageError("FASTDB_REQUIRE_EXTENSIONS is set, but the pure form is running")
    dialects = chosen_dialects(config)
    # The workers of pytest-xdist inherit what the controller puts into the environment.
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    config.stash[cleanup] = stack = ExitStack()
    try:
        config.stash[found] = stack.enter_context(servers(dialects))
    except ServerError as exc:
        raise pytest.UsageError(str(exc)) from exc
    os.environ["FASTDB_TEST_RUN"] = secrets.token_hex(4)
    for server in config.stash[found].values():
        stack.callback(drop_databases, server.url, run_prefix())
    urls = [server.url for server in config.stash[found].values()]
    os.environ["TEST_DATABASE_URLS"] = ",".join(urls)


def pytest_unconfigure(config: pytest.Config) -> None:
    if cleanup in config.stash:
        config.stash[cleanup].close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    form = "compiled" if fastdb.COMPILED else "pure"
    sqlalchemy = importlib.metadata.version("SQLAlchemy")
    lines = [f"fastdb: {form}, SQLAlchemy {sqlalchemy}, {fastdb.__file__}"]
    return lines + [server.describe() for server in config.stash.get(found, {}).values()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_url" in metafunc.fixturenames:
        metafunc.parametrize("database_url", chosen_backends(metafunc.config), indirect=True)
    if "server_url" in metafunc.fixturenames:
        backends = [name for name in chosen_backends(metafunc.config) if BACKENDS[name]]
        metafunc.parametrize("server_url", backends, indirect=True)
    for name in ("modules_server", "tls_server"):
        if name in metafunc.fixturenames:
            dialects = chosen_dialects(metafunc.config)
            metafunc.parametrize(name, dialects, indirect=True, scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    dialects = chosen_dialects(config)
    without = {f"{dialect}_database" for dialect in DIALECTS if dialect not in dialects}
    if not dialects:
        without |= {"server_url", "modules_server", "tls_server"}
    left_out = [item for item in items if not without.isdisjoint(getattr(item, "fixturenames", ()))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


#: Modules that cut a connection whose cancelled statement does not end soon.
IMPATIENT = ("fastdb.drivers.mysql_exchange", "fastdb.drivers.postgresql_connection")


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Give a busy machine the time to end a statement, but for tests of a network (`remote`)."""
    with pytest.MonkeyPatch.context() as patch:
        for name in IMPATIENT:
            try:
                module = importlib.import_module(name)
            except ImportError:  # the driver's package is not here
                continue
            patch.setattr(module, "CANCEL_SECONDS", 10.0)
        yield


def server_database(dialect: str, config: pytest.Config) -> Iterator[ServerDatabase]:
    url = given_url(dialect)
    assert url is not None, f"pytest_configure has put no {dialect} server into the environment"
    # A test may have changed the environment, where the name of the worker stands, too.
    worker = getattr(config, "workerinput", {}).get("workerid", "main")
    database = ServerDatabase(url, run_prefix() + worker)
    yield database
    database.close()


@pytest.fixture(scope="session")
def postgresql_database(pytestconfig: pytest.Config) -> Iterator[ServerDatabase]:
    yield from server_database("postgresql", pytestconfig)


@pytest.fixture(scope="session")
def mysql_database(pytestconfig: pytest.Config) -> Iterator[ServerDatabase]:
    yield from server_database("mysql", pytestconfig)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Return the URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'test.db'}"


@pytest.fixture
def postgresql_url(postgresql_database: ServerDatabase) -> Iterator[str]:
    """Return the URL of an empty PostgreSQL database."""
    yield postgresql_database.url
    postgresql_database.empty()


@pytest.fixture
def mysql_url(mysql_database: ServerDatabase) -> Iterator[str]:
    """Return the URL of an empty MySQL or MariaDB database."""
    yield mysql_database.url
    mysql_database.empty()


@pytest.fixture
def asyncmy_url(mysql_url: str) -> str:
    """Return the URL of an empty MySQL or MariaDB database, for the asyncmy driver."""
    return mysql_url.replace("mysql://", "mysql+asyncmy://", 1)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database, once for each of the chosen backends."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def server_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database, once for each of the chosen backends with a server."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[fastdb.Database]:
    """Return a connected Database, once for each of the chosen backends."""
    async with fastdb.Database(database_url) as database:
        yield database
