"""DatabaseTestClient: a database for tests, which no real one ever pays for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import fastdb
from fastdb.testing import DatabaseTestClient, UnsafeDatabaseError
from tests.databases import Session, dialect_of

NAME = "SELECT name FROM people"


@pytest.fixture(autouse=True)
def _no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


@pytest.fixture
async def real_url(database_url: str) -> AsyncIterator[str]:
    """Provide the URL of a real database with a table ``people``; drop what tests make beside."""
    async with fastdb.Database(database_url) as database:
        await database.execute("CREATE TABLE people (name varchar(20))")
        await database.execute("INSERT INTO people VALUES ('Ada')")
    yield database_url
    if dialect_of(database_url) == "sqlite":
        return
    name = database_url.rpartition("/")[2]
    with Session(database_url.replace("+asyncmy", "")) as session:
        for prefix in ("test_", "other_"):
            session.run(f"DROP DATABASE IF EXISTS {prefix}{name}")
            session.run(f"DROP DATABASE IF EXISTS {prefix}{name}_gw7")


async def use(client: DatabaseTestClient, name: str) -> list[str]:
    """Make the table, add a name, and return all of them."""
    async with client:
        await client.execute("CREATE TABLE IF NOT EXISTS people (name varchar(20))")
        await client.execute("INSERT INTO people VALUES (:name)", {"name": name})
        return [record.name for record in await client.fetch_all(NAME)]


async def check_real(url: str) -> None:
    async with fastdb.Database(url) as database:
        assert await database.fetch_all(NAME) == [("Ada",)]


async def make_by_hand(url: str) -> None:
    """Make a database as others do: without our marker."""
    if dialect_of(url) == "sqlite":
        async with fastdb.Database(url) as database:
            await database.execute("CREATE TABLE people (name varchar(20))")
        return
    base, _, name = url.rpartition("/")
    server = f"{base}/postgres" if dialect_of(url) == "postgresql" else f"{base}/"
    async with fastdb.Database(server) as admin:
        await admin.execute(f"CREATE DATABASE {name}")
    async with fastdb.Database(url) as database:
        await database.execute("CREATE TABLE people (name varchar(20))")


async def test_the_database_is_made_once_and_not_at_each_connect(real_url: str) -> None:
    client = DatabaseTestClient(real_url)
    assert await client.is_database_exist()
    assert await use(client, "a") == ["a"]
    assert await use(client, "b") == ["a", "b"]
    # Another client finds one that is ours, and makes it anew.
    assert await use(DatabaseTestClient(real_url), "c") == ["c"]
    await check_real(real_url)


async def test_it_is_made_lazily_on_demand(real_url: str) -> None:
    client = DatabaseTestClient(real_url, lazy_setup=True)
    assert not await client.is_database_exist()
    await asyncio.gather(*(client.connect() for _ in range(5)))
    assert await client.is_database_exist()
    assert client.pool.stats().size == 1
    await client.disconnect()


async def test_it_is_dropped_at_the_end_where_that_is_wanted(real_url: str) -> None:
    client = DatabaseTestClient(real_url, drop_database=True)
    for name in ("a", "b"):
        assert await use(client, name) == [name]
        assert not await client.is_database_exist()
    await check_real(real_url)


async def test_one_that_is_not_ours_is_neither_used_nor_dropped(real_url: str) -> None:
    url = DatabaseTestClient(real_url, lazy_setup=True).test_db_url
    await make_by_hand(url)
    with pytest.raises(UnsafeDatabaseError, match="use_existing=True"):
        DatabaseTestClient(real_url)
    client = DatabaseTestClient(real_url, lazy_setup=True)
    with pytest.raises(UnsafeDatabaseError, match="use_existing=True"):
        await client.connect()
    for wrong in (url, real_url):
        with pytest.raises(UnsafeDatabaseError, match="not dropped"):
            await DatabaseTestClient.drop_database(wrong)
    # With use_existing it is used as it is, and still never dropped.
    client = DatabaseTestClient(real_url, use_existing=True, drop_database=True)
    assert await use(client, "a") == ["a"]
    assert await use(client, "b") == ["a", "b"]
    await check_real(real_url)


async def test_use_existing_makes_what_is_not_there(real_url: str) -> None:
    client = DatabaseTestClient(real_url, use_existing=True)
    assert await use(client, "a") == ["a"]
    assert await use(DatabaseTestClient(real_url, use_existing=True), "b") == ["a", "b"]


async def test_without_a_prefix_the_database_is_used_as_it_is(real_url: str) -> None:
    client = DatabaseTestClient(real_url, test_prefix="", drop_database=True)
    assert client.test_db_url == real_url
    assert await use(client, "b") == ["Ada", "b"]
    assert await client.is_database_exist()


async def test_force_rollback_leaves_nothing(real_url: str) -> None:
    assert await use(DatabaseTestClient(real_url), "kept") == ["kept"]
    client = DatabaseTestClient(real_url, use_existing=True, force_rollback=True)
    assert client.force_rollback
    for name in ("a", "b"):
        async with client:
            await client.execute("INSERT INTO people VALUES (:name)", {"name": name})
            assert await client.fetch_all(NAME) == [("kept",), (name,)]


async def test_the_class_methods(real_url: str) -> None:
    url = DatabaseTestClient(real_url, lazy_setup=True, test_prefix="other_").test_db_url
    assert not await DatabaseTestClient.database_exists(url)
    await DatabaseTestClient.drop_database(url)  # nothing to do
    await DatabaseTestClient.create_database(url)
    assert await DatabaseTestClient.database_exists(url)
    with pytest.raises(fastdb.Error):
        await DatabaseTestClient.create_database(url)
    await DatabaseTestClient.drop_database(url)
    assert not await DatabaseTestClient.database_exists(url)


async def test_defaults_of_a_subclass_and_what_is_only_accepted(real_url: str) -> None:
    class Client(DatabaseTestClient):
        testclient_default_test_prefix = "other_"
        testclient_default_lazy_setup = True
        testclient_default_drop_database = True
        testclient_default_force_rollback = True

    client = Client(real_url, full_isolation=True, poll_interval=0.1)
    assert "other_" in client.test_db_url
    assert client.force_rollback
    assert not await client.is_database_exist()
    async with client:
        assert await client.is_database_exist()
    assert not await client.is_database_exist()
    assert "test_" in Client(real_url, test_prefix="test_").test_db_url


async def test_a_database_is_taken_with_its_options(real_url: str) -> None:
    database = fastdb.Database(real_url, max_size=3, min_size=2)
    client = DatabaseTestClient(database)
    async with client:
        memory = client.url.database == ":memory:"
        assert client.pool.stats().max_size == (1 if memory else 3)


async def test_each_worker_has_a_name_of_its_own(
    real_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw7")
    client = DatabaseTestClient(real_url)
    name = fastdb.DatabaseURL(client.test_db_url).database
    assert Path(name).stem.endswith("_gw7")
    assert await use(client, "a") == ["a"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///x.db", "sqlite:///test_x.db"),
        ("sqlite:///dir/x.db", "sqlite:///dir/test_x.db"),
        ("sqlite:////abs/dir/x.y.sqlite3", "sqlite:////abs/dir/test_x.y.sqlite3"),
        ("sqlite:///dir/x", "sqlite:///dir/test_x"),
        ("sqlite:///x.db?foreign_keys=1", "sqlite:///test_x.db?foreign_keys=1"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql://u:p%40@h:1/app?min_size=2", "postgresql://u:p%40@h:1/test_app?min_size=2"),
        ("mysql://h/app", "mysql://h/test_app"),
    ],
)
def test_the_name_of_the_tests_database(url: str, expected: str) -> None:
    assert DatabaseTestClient(url, lazy_setup=True).test_db_url == expected


async def test_in_memory_it_stays_in_memory() -> None:
    client = DatabaseTestClient("sqlite:///:memory:", drop_database=True)
    assert await use(client, "a") == ["a"]
    assert await use(client, "b") == ["b"]


@pytest.mark.parametrize("lazy", [False, True])
async def test_errors_of_the_set_up_are_raised(lazy: bool) -> None:
    url = "postgresql://nobody@127.0.0.1:1/app"
    with pytest.raises(fastdb.ConnectionFailedError):
        await DatabaseTestClient(url, lazy_setup=lazy).connect()


async def test_a_role_that_may_not_make_databases(postgresql_url: str) -> None:
    with Session(postgresql_url) as session:
        session.run("DROP ROLE IF EXISTS fastdb_limited", "CREATE ROLE fastdb_limited LOGIN")
        try:
            url = fastdb.DatabaseURL(postgresql_url).replace(username="fastdb_limited")
            with pytest.raises(fastdb.DatabaseError, match="permission denied"):
                DatabaseTestClient(url)
        finally:
            session.run("DROP ROLE fastdb_limited")


def test_it_works_outside_of_any_event_loop(sqlite_url: str) -> None:
    client = DatabaseTestClient(sqlite_url)
    assert asyncio.run(use(client, "a")) == ["a"]
    assert asyncio.run(use(client, "b")) == ["a", "b"]


def test_it_is_imported_only_where_it_is_used() -> None:
    command = "import sys, fastdb; print('fastdb.testing' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", command], text=True) == "False\n"


async def test_a_role_that_must_not_make_databases_is_told(server_url: str) -> None:
    url = fastdb.DatabaseURL(server_url)
    role = url.database
    with Session(server_url) as session:
        if url.dialect == "postgresql":
            session.run(f"CREATE ROLE {role} LOGIN")
            drop = [f"DROP ROLE {role}"]
        else:
            accounts = [f"'{role}'@'{host}'" for host in ("%", "localhost")]
            for account in accounts:
                session.run(f"CREATE USER {account}", f"GRANT SELECT ON {role}.* TO {account}")
            drop = [f"DROP USER {account}" for account in accounts]
        try:
            poor = str(url.replace(username=role))
            with pytest.raises(fastdb.ProgrammingError, match=f"role '{role}' must be allowed to"):
                DatabaseTestClient(poor)
            name = url.replace(database=f"test_{role}")
            assert not await DatabaseTestClient.database_exists(name)
        finally:
            session.run(*drop)
