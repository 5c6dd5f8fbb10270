"""Copying a database on MySQL and MariaDB: all that is in it, and nothing of another."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

import fastdb
from fastdb.testing.plugin_mysql import copy_database
from tests.databases import Session

SCHEMA = (
    "CREATE TABLE `odd ``name` (id integer PRIMARY KEY AUTO_INCREMENT, text varchar(60) "
    "DEFAULT 'a:b %s \\\\ it''s', n integer DEFAULT 4, "
    "twice integer AS (n * 2) STORED, thrice integer AS (n * 3), "
    "at datetime DEFAULT current_timestamp, KEY (text)) AUTO_INCREMENT = 7",
    "INSERT INTO `odd ``name` (id, text) VALUES (3, 'x :y %'), (9, NULL)",
    # Either refers to the other, and so comes before it.
    "CREATE TABLE child (id integer PRIMARY KEY, parent integer)",
    "CREATE TABLE parent (id integer PRIMARY KEY, child integer, "
    "CONSTRAINT of_child FOREIGN KEY (child) REFERENCES child (id))",
    "ALTER TABLE child ADD CONSTRAINT of_parent FOREIGN KEY (parent) REFERENCES parent (id)",
    "CREATE TABLE zeros (id integer PRIMARY KEY AUTO_INCREMENT, day date)",
    "SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO'",
    "INSERT INTO zeros VALUES (0, '0000-00-00'), (1, '2026-01-01')",
    "SET sql_mode = DEFAULT",
    # Views that are made in another order than that of their names.
    "CREATE VIEW z_view AS SELECT id, text FROM `odd ``name`",
    "CREATE VIEW a_view AS SELECT id FROM z_view WHERE text LIKE '%:y %'",
    "CREATE TABLE log (text varchar(60))",
    "CREATE FUNCTION doubled (n integer) RETURNS integer DETERMINISTIC RETURN n * 2",
    "CREATE PROCEDURE note (what varchar(60)) INSERT INTO log VALUES (what)",
    "CREATE PROCEDURE left_out () DO 0",
    "CREATE TRIGGER noted AFTER INSERT ON parent FOR EACH ROW CALL note('parent')",
    "CREATE EVENT later ON SCHEDULE AT '2037-01-01' DO INSERT INTO log VALUES ('late')",
)
SEQUENCE = (
    "CREATE SEQUENCE numbers START WITH 5 INCREMENT BY 5 CACHE 10",
    "SELECT nextval(numbers)",
    "CREATE TABLE numbered (id bigint PRIMARY KEY DEFAULT nextval(numbers), text varchar(9))",
    "INSERT INTO numbered (text) VALUES ('a')",
)


@pytest.fixture
def copied(mysql_url: str) -> Iterator[tuple[Session, str, str]]:
    """Provide a connection to the server, and the names of a database and of its copy."""
    source, target = (f"plugin_{secrets.token_hex(4)}" for _ in range(2))
    with Session(mysql_url.rpartition("/")[0] + "/") as session:
        session.run(f"CREATE DATABASE {source}", f"CREATE DATABASE {target}")
        try:
            yield session, source, target
        finally:
            session.run(f"DROP DATABASE {source}", f"DROP DATABASE {target}")


async def copy(mysql_url: str, source: str, target: str) -> None:
    url = fastdb.DatabaseURL(mysql_url)
    await copy_database(url.replace(database=source), url.replace(database=target), {"left_out"})


async def test_everything_is_copied(mysql_url: str, copied: tuple[Session, str, str]) -> None:
    session, source, target = copied
    session.run(f"USE {source}", *SCHEMA)
    is_mariadb = "MariaDB" in session.run("SELECT version()")[0][0]
    if is_mariadb:
        session.run(*SEQUENCE)
    await copy(mysql_url, source, target)
    session.run("USE information_schema")  # what is shown names the database of a view
    tables = ["`odd ``name`", "child", "parent", "zeros", "log", "z_view", "a_view"]
    for table in tables + ["numbered"] * is_mariadb:
        query = f"SELECT * FROM {{}}.{table}"
        assert session.run(query.format(target)) == session.run(query.format(source)), table
        shown = [session.run(f"SHOW CREATE TABLE {name}.{table}")[0][1] for name in copied[1:]]
        assert shown[1] == shown[0].replace(source, target)
    # Nothing in the copy leads back.
    session.run(f"DROP DATABASE {source}", f"CREATE DATABASE {source}", f"USE {target}")
    session.run("INSERT INTO parent VALUES (1, NULL)")
    assert session.run("SELECT * FROM log") == [("parent",)]
    assert session.run("SELECT doubled(4)") == [(8,)]
    assert session.run("SELECT * FROM a_view") == [(3,)]
    with pytest.raises(Exception, match="foreign key"):
        session.run("INSERT INTO child VALUES (1, 5)")
    query = "SELECT routine_name FROM information_schema.routines WHERE routine_schema = '{}'"
    assert sorted(session.run(query.format(target))) == [("doubled",), ("note",)]
    query = "SELECT event_name FROM information_schema.events WHERE event_schema = '{}'"
    assert session.run(query.format(target)) == [("later",)]
    if is_mariadb:
        session.run("INSERT INTO numbered (text) VALUES ('b')")
        ids = [number for (number,) in session.run("SELECT id FROM numbered")]
        assert len(set(ids)) == 2


async def test_a_view_that_is_broken_is_told(
    mysql_url: str, copied: tuple[Session, str, str]
) -> None:
    session, source, target = copied
    session.run(
        f"USE {source}",
        "CREATE TABLE gone (a integer)",
        "CREATE VIEW broken AS SELECT a FROM gone",
        "CREATE VIEW works AS SELECT 1 AS a",
        "DROP TABLE gone",
    )
    with pytest.raises(fastdb.Error, match="gone"):
        await copy(mysql_url, source, target)
    assert session.run(f"SELECT * FROM {target}.works") == [(1,)]
