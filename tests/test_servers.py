"""What finds, starts and empties the servers of the other tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.databases import (
    ServerDatabase,
    ServerError,
    Session,
    dialect_of,
    drop_databases,
    masked,
    with_database,
)
from tests.servers import Process, Programs, find, given_url


@pytest.mark.parametrize(
    ("value", "postgresql", "mysql"),
    [
        ("", None, None),
        ("sqlite:///x", None, None),
        ("postgresql://a/b,mysql://c/d", "postgresql://a/b", "mysql://c/d"),
        ("mariadb://c/d , postgres://a/b", "postgres://a/b", "mariadb://c/d"),
        ("mysql+asyncmy://c/d,mysql://e/f", None, "mysql+asyncmy://c/d"),
        ("postgresql://a:1,b:2/c,mysql://d/e", "postgresql://a:1,b:2/c", "mysql://d/e"),
    ],
)
def test_given_urls_are_told_apart(value: str, postgresql: str | None, mysql: str | None) -> None:
    environ = {"TEST_DATABASE_URLS": value}
    assert given_url("postgresql", environ) == postgresql
    assert given_url("mysql", environ) == mysql


def test_password_is_masked() -> None:
    assert masked("mysql://root:s3cret@host/db?x=1") == "mysql://root:********@host/db?x=1"
    assert masked("mysql://root@host:3306/db") == "mysql://root@host:3306/db"


def test_url_of_another_database_keeps_the_rest() -> None:
    url = with_database("mysql+asyncmy://root:a%40b@host:1/x?unix_socket=/s", "new")
    assert url == "mysql://root:a%40b@host:1/new?unix_socket=/s"
    assert dialect_of("postgres://a/b") == "postgresql"


@pytest.mark.parametrize("dialect", ["postgresql", "mysql"])
def test_given_server_that_fails_is_an_error(dialect: str) -> None:
    environ = {"TEST_DATABASE_URLS": f"{dialect}://root:s3cret@127.0.0.1:1/x"}
    with pytest.raises(ServerError, match="TEST_DATABASE_URLS names fails") as caught:
        find(dialect, environ)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("dialect", ["postgresql", "mysql"])
def test_error_tells_all_that_was_tried(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Programs:
        raise ServerError("not here")

    monkeypatch.setattr(servers, "_ways", lambda dialect: [("one", missing), ("two", missing)])
    with pytest.raises(ServerError) as caught:
        find(dialect, {"FASTDB_TEST_PROBE": "0"})
    assert str(caught.value).splitlines() == [
        f"no {dialect} server can be had; tried in this order:",
        "  - servers that listen already: left out by FASTDB_TEST_PROBE=0",
        "  - one: not here",
        "  - two: not here",
    ]


@pytest.fixture
def process() -> Iterator[Process]:
    process = servers._new_process("fastdb-test-", signal.SIGTERM)
    yield process
    process.stop()


def test_server_that_ends_at_once_shows_its_log(process: Process) -> None:
    command = ["/bin/sh", "-c", "echo cannot bind; exit 3"]
    with pytest.raises(ServerError, match=r"ended \(3\): \ncannot bind"):
        process.start(command, os.environ, "mysql://root@127.0.0.1:1/")


def test_failing_set_up_shows_its_log(process: Process) -> None:
    with pytest.raises(ServerError, match=r"failed \(4\): \nno space"):
        process.run(["/bin/sh", "-c", "echo no space; exit 4"], os.environ)


def test_program_that_cannot_be_run_is_an_error(process: Process) -> None:
    with pytest.raises(ServerError, match="nonexistent"):
        process.run(["/nonexistent/initdb"], os.environ)
    with pytest.raises(ServerError, match="nonexistent"):
        process.start(["/nonexistent/postgres"], os.environ, "mysql://root@127.0.0.1:1/")


def test_server_that_never_lets_us_in_is_stopped(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "START_SECONDS", 0.0)
    monkeypatch.setattr(servers, "STOP_SECONDS", 0.1)
    script = "trap '' TERM; echo started; while :; do sleep 1; done"
    with pytest.raises(ServerError, match="did not let us in within 0 s"):
        process.start(["/bin/sh", "-c", script], os.environ, "mysql://root@127.0.0.1:1/")
    popen = process._popen
    assert popen is not None
    process.stop()
    assert popen.poll() is not None
    assert not process.folder.exists()


def test_postgresql_database_is_emptied_and_dropped(postgresql_url: str) -> None:
    check_emptied_and_dropped("postgresql")


def test_mysql_database_is_emptied_and_dropped(mysql_url: str) -> None:
    check_emptied_and_dropped("mysql")


def check_emptied_and_dropped(dialect: str) -> None:
    admin = given_url(dialect)
    assert admin is not None
    prefix = f"fastdb_test_empty{os.getpid()}_"
    database = ServerDatabase(admin, f"{prefix}x")
    try:
        with Session(database.url) as session:
            session.run("CREATE TABLE a (i INTEGER)", "CREATE VIEW b AS SELECT i FROM a")
            if dialect == "postgresql":
                session.run("CREATE TYPE mood AS ENUM ('well')", "CREATE SCHEMA other")
            # A transaction that a test forgot holds a lock on the table.
            session.run("BEGIN", "INSERT INTO a VALUES (1)")
            database.empty()
        with Session(database.url) as session:
            session.run("CREATE TABLE a (i INTEGER)", "CREATE TABLE b (i INTEGER)")
            if dialect == "postgresql":
                session.run("CREATE TYPE mood AS ENUM ('well')", "CREATE SCHEMA other")
    finally:
        database.close()
        drop_databases(admin, prefix)
    with pytest.raises(Exception, match=f"{prefix}x"), Session(database.url):
        pass


def test_program_stops_when_its_input_ends(postgresql_url: str, mysql_url: str) -> None:
    urls = os.environ["TEST_DATABASE_URLS"]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.servers"],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdin is not None
        assert program.stdout.readline().strip() == urls
        assert program.poll() is None
        program.stdin.close()
        assert program.wait(30) == 0
