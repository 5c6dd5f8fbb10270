"""The pytest plugin of fastdb: databases for tests, and sandboxes in them.

Define ``fastdb_metadata`` or ``fastdb_migrations`` in ``conftest.py``, set ``FASTDB_TEST_URL``, and
ask for ``database``::

    @pytest.fixture(scope="session")
    def fastdb_metadata():
        return metadata


    async def test_sign_up(database):
        await sign_up(database, "Ada")
        assert await database.fetch_val("SELECT count(*) FROM users") == 1

pytest imports this module in every project where fastdb is installed. So it stands outside of the
package, and imports nothing of it until a fixture is asked for.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import sqlalchemy

    from fastdb import Database
    from fastdb.testing.plugin import Workshop
    from fastdb.testing.plugin_counter import QueryCounter

__all__: list[str] = []


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Let fastdb be imported as ever.

    Pytest compiles each package anew whose distribution has a plugin, for the sake of asserts in
    it. That would take its time with each change, and CPython 3.11 cannot do it while another
    thread does.
    """
    marked = getattr(early_config.pluginmanager.rewrite_hook, "_must_rewrite", None)
    if isinstance(marked, set):
        marked.discard("fastdb")


@pytest.fixture(scope="session")
def fastdb_metadata() -> sqlalchemy.MetaData | None:
    """Return the MetaData whose tables the databases of tests have; override it in conftest.py.

    Where neither this nor `fastdb_migrations` returns anything, they are empty.
    """
    return None


@pytest.fixture(scope="session")
def fastdb_migrations() -> str | os.PathLike[str] | None:
    """Return the folder of the migrations that make the databases of tests; override it."""
    return None


@pytest.fixture(scope="session")
def fastdb_url() -> str:
    """Return the URL of a server, and of the database after which those of tests are named.

    It is that of the environment variable FASTDB_TEST_URL, unless you override it. The database
    itself is never touched, and need not exist.
    """
    url = os.environ.get("FASTDB_TEST_URL")
    if not url:
        from fastdb.testing.plugin import missing_url

        pytest.fail(missing_url(), pytrace=False)
    return url


def _shown(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function; tell in one line what cannot be set up, and show the user's own errors."""
    from fastdb.testing.plugin import FillError, SetUpError

    __tracebackhide__ = True
    try:
        return function(*args, **options)
    except SetUpError as error:
        message, failure = str(error), None
    except FillError as error:
        message, failure = "", error.error
    if failure is not None:
        raise failure
    pytest.fail(message, pytrace=False)


@pytest.fixture(scope="session")
def _fastdb_workshop(
    fastdb_url: Any,
    fastdb_metadata: Any,
    fastdb_migrations: Any,
    request: pytest.FixtureRequest,
) -> Iterator[Workshop]:
    from fastdb.testing.plugin import Workshop
    from fastdb.testing.plugin_schema import Schema

    def spare_folder() -> Path:
        cache = getattr(request.config, "cache", None)  # there is none with -p no:cacheprovider
        if cache is not None:
            with suppress(OSError):
                return Path(cache.mkdir("fastdb"))
        temporary: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
        return temporary.mktemp("fastdb")

    def schema() -> Schema:
        return Schema(fastdb_metadata, fastdb_migrations)

    workshop = _shown(Workshop, fastdb_url, schema, spare_folder)
    yield workshop
    workshop.close()


@pytest.fixture(scope="session")
def fastdb_template(_fastdb_workshop: Workshop) -> str:
    """Return the URL of the database of which all others are copies.

    It is made once, by one process of a run, and kept for the next runs while the migrations, or
    the DDL of the MetaData, are the same. Nothing can connect to it on PostgreSQL.
    """
    return str(_shown(_fastdb_workshop.template))


@pytest.fixture(scope="session")
def fastdb_worker_url(_fastdb_workshop: Workshop, fastdb_template: str) -> Iterator[str]:
    """Return the URL of a copy of the template, which this process has for itself."""
    url = _shown(_fastdb_workshop.clone)
    yield str(url)
    _fastdb_workshop.drop(url)


@pytest.fixture(scope="session")
def _fastdb_database(fastdb_worker_url: str) -> Iterator[Database]:
    from fastdb import Database
    from fastdb.testing import shut_down

    database = Database(fastdb_worker_url)
    yield database
    # The connection of the sandboxes has lived from one test to the next.
    shut_down(database)


@pytest.fixture
def database(_fastdb_database: Database, request: pytest.FixtureRequest) -> Iterator[Database]:
    """Provide a Database whose every change is taken back after the test.

    It is connected, and serves the test, the tasks, threads and event loops that it starts, and
    the application that a client calls elsewhere; all of them on one connection. Transactions and
    commits of the application work as ever; see ``fastdb.testing.Sandbox``. Rows and schema are
    as before afterwards; sequences and AUTO_INCREMENT counters are not set back, and on MySQL and
    MariaDB, where DDL is refused, tests of one database that write the same rows at once would
    wait for each other; workers of pytest-xdist have one each.
    """
    from fastdb.testing import Sandbox

    sandbox = Sandbox(_fastdb_database, shared=True).open(request.node.nodeid)
    yield _fastdb_database
    sandbox.close()


@pytest.fixture
def database_committed(_fastdb_workshop: Workshop, fastdb_template: str) -> Iterator[Database]:
    """Provide a Database on a copy of the template of the test's own, which is dropped afterwards.

    Transactions really commit there, and connections are several. It connects by itself where it
    is used, on any event loop.
    """
    from fastdb.testing.plugin_committed import CommittedDatabase

    url = _shown(_fastdb_workshop.clone, numbered=True)
    database = CommittedDatabase(url)
    yield database
    try:
        database.close_everywhere()
    finally:
        _fastdb_workshop.drop(url)


@pytest.fixture
def query_counter(request: pytest.FixtureRequest) -> Callable[..., QueryCounter]:
    """Return what counts queries: a ``with`` block of ``query_counter(3)`` asserts three.

    ``with query_counter() as counter:`` asserts nothing; see ``counter.count`` and
    ``counter.queries``. Those of the fixtures `database` and `database_committed` count, in any
    task, thread and loop; ``query_counter(3, database=other)`` counts those of another Database.
    What begins and ends transactions and savepoints does not count.
    """
    from fastdb.testing.plugin_counter import QueryCounter

    names = [name for name in ("database", "database_committed") if name in request.fixturenames]
    found = tuple(request.getfixturevalue(name) for name in names)

    def query_counter(expected: int | None = None, *, database: Any = None) -> QueryCounter:
        databases = found if database is None else (database,)
        if not databases:
            pytest.fail(
                "query_counter knows no database: let the test ask for the fixture `database` or "
                "`database_committed`, too, or give one: query_counter(database=...)"
            )
        return QueryCounter(databases, expected)

    return query_counter
