"""What users get wrong: each error names what was wrong and what would be right."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from typing import Any

import pytest

import fastdb


def stranger(database_url: str, **changes: Any) -> str:
    """Return a URL of the same server with something wrong in it."""
    return str(fastdb.DatabaseURL(database_url).replace(**changes))


async def test_nobody_listens(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        wrong = "sqlite:////nosuch/folder/test.db"
        named = "/nosuch/folder/test.db"
    else:
        wrong = stranger(database_url, port=1, password="s3cret")
        named = "127.0.0.1"
    database = fastdb.Database(wrong)
    with pytest.raises(fastdb.OperationalError, match=named) as caught:
        await database.connect()
    assert "s3cret" not in str(caught.value)
    assert not database.is_connected


async def test_an_unknown_host(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        with pytest.raises(fastdb.InvalidURLError):
            fastdb.Database("sqlite://host/name")
        return
    database = fastdb.Database(stranger(database_url, hostname="nosuch.invalid"))
    with pytest.raises(fastdb.ConnectionFailedError, match=r"nosuch\.invalid"):
        await database.connect()


async def test_an_unknown_database(postgresql_url: str, mysql_url: str) -> None:
    for url in (postgresql_url, mysql_url):
        with pytest.raises(fastdb.OperationalError, match="nosuch_database"):
            await fastdb.Database(stranger(url, database="nosuch_database")).connect()


async def test_an_unknown_user(postgresql_url: str, mysql_url: str) -> None:
    for url in (postgresql_url, mysql_url):
        wrong = stranger(url, username="nosuch_user", password="s3cret")
        with pytest.raises(fastdb.OperationalError, match="nosuch_user") as caught:
            await fastdb.Database(wrong).connect()
        assert "s3cret" not in str(caught.value)


async def test_connecting_again_after_a_failure(database_url: str) -> None:
    fail = True

    async def init(raw: Any) -> None:
        if fail:
            raise ZeroDivisionError

    database = fastdb.Database(database_url, init=init, min_size=3)
    with pytest.raises(ZeroDivisionError):
        await database.connect()
    assert not database.is_connected
    fail = False
    async with database:
        assert database.pool.stats().size == 3


async def test_a_cancelled_connect_works_when_tried_again(database_url: str) -> None:
    database = fastdb.Database(database_url, min_size=2)
    for steps in range(6):
        task = asyncio.create_task(database.connect())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await database.disconnect()
    async with database:
        assert await database.fetch_val("SELECT 1") == 1


@pytest.mark.parametrize(
    ("package", "url", "extra"),
    [
        ("asyncpg", "postgresql://localhost/db", r"fastdb-sql\[postgresql\]"),
        ("aiomysql", "mysql://localhost/db", r"fastdb-sql\[mysql\]"),
        ("asyncmy", "mysql+asyncmy://localhost/db", r"fastdb-sql\[asyncmy\]"),
        ("aiosqlite", "sqlite://", "aiosqlite"),
    ],
)
def test_a_missing_package_names_the_extra(package: str, url: str, extra: str) -> None:
    program = f"""
import sys
sys.modules[{package!r}] = None
import fastdb
try:
    fastdb.Database({url!r})
except fastdb.DriverNotInstalledError as error:
    print(isinstance(error, ImportError), error)
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert found.startswith("True ")
    assert re.search(extra, found), found


async def test_names_that_a_record_does_not_have(database: fastdb.Database) -> None:
    row = await database.fetch_one("SELECT 1 AS one, 2 AS two")
    assert row is not None
    with pytest.raises(KeyError, match=r"'three'.*'one', 'two'"):
        row["three"]
    with pytest.raises(AttributeError, match="three"):
        _ = row.three
    with pytest.raises(IndexError):
        row[2]
    assert row.get("three", 3) == 3


async def test_too_many_parameters_for_the_server(database: fastdb.Database) -> None:
    count = 70_000
    query = "SELECT 1 WHERE 1 IN (" + ", ".join(f":p{n}" for n in range(count)) + ")"
    values = {f"p{n}": n for n in range(count)}
    try:
        assert await database.fetch_val(query, values) == 1
    except fastdb.Error as error:
        assert re.search("arguments|variables", str(error))  # noqa: PT017
    assert await database.fetch_val("SELECT 1") == 1


async def test_text_that_no_server_takes(database: fastdb.Database) -> None:
    await database.execute("CREATE TABLE things (v VARCHAR(100))")
    for value in ("a\x00b", "\ud800"):
        try:
            await database.execute("INSERT INTO things (v) VALUES (:v)", {"v": value})
        except fastdb.Error:
            assert await database.fetch_all("SELECT v FROM things") == []
        else:
            assert await database.fetch_val("SELECT v FROM things") == value
            await database.execute("DELETE FROM things")
    assert await database.fetch_val("SELECT 1") == 1


@pytest.mark.parametrize("timeout", ["5", -1, True, float("nan"), object()])
async def test_timeouts_that_are_none(database: fastdb.Database, timeout: Any) -> None:
    calls: list[Any] = [
        lambda: database.fetch_all("SELECT 1", timeout=timeout),
        lambda: database.execute_many("SELECT 1", [{}], timeout=timeout),
        lambda: database.iterate("SELECT 1", timeout=timeout),
        lambda: database.connection().execute("SELECT 1", timeout=timeout),
        lambda: database.connection().iterate("SELECT 1", timeout=timeout),
        lambda: database.disconnect(timeout),
    ]
    for call in calls:
        with pytest.raises(fastdb.OptionError, match="timeout is"):
            call()
    assert database.is_connected
    assert await database.fetch_val("SELECT 1", timeout=5) == 1


def test_force_rollback_that_is_no_truth_value() -> None:
    with pytest.raises(fastdb.OptionError, match="force_rollback is 'perhaps'"):
        fastdb.Database("sqlite://", force_rollback="perhaps")  # type: ignore[arg-type]
    database = fastdb.Database("sqlite://", force_rollback="no")  # type: ignore[arg-type]
    assert not database.force_rollback
