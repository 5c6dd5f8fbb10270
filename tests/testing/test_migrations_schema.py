"""What a database holds, as lines: whatever is made appears, and goes with what is dropped."""

from __future__ import annotations

import pytest

import fastdb
from fastdb.testing.migrations_schema import read_schema, row_counts
from tests.databases import dialect_of

#: What is made, what drops it again, and a word of the line that tells of it.
EVERYWHERE = [
    ("CREATE TABLE made (x int)", "DROP TABLE made", "made"),
    ("ALTER TABLE notes ADD COLUMN x int", "ALTER TABLE notes DROP COLUMN x", "x"),
    ("CREATE INDEX by_text ON notes (text)", "DROP INDEX by_text", "by_text"),
    ("CREATE UNIQUE INDEX by_text ON notes (text)", "DROP INDEX by_text", "by_text"),
    ("CREATE VIEW seen AS SELECT id FROM notes", "DROP VIEW seen", "view seen"),
    (
        "CREATE TABLE made (x int CHECK (x > 7), note int REFERENCES notes (id))",
        "DROP TABLE made",
        "> 7",
    ),
]
OF_DIALECTS = {
    "postgresql": [
        ("CREATE SCHEMA other", "DROP SCHEMA other", "schema other"),
        ("CREATE SEQUENCE counter", "DROP SEQUENCE counter", "sequence counter"),
        ("CREATE TYPE mood AS ENUM ('a', 'b')", "DROP TYPE mood", "enum of 'a', 'b'"),
        ("CREATE TYPE pair AS (a int, b text)", "DROP TYPE pair", "composite"),
        ("CREATE DOMAIN d AS int CHECK (VALUE > 0)", "DROP DOMAIN d", "domain over integer"),
        ("CREATE MATERIALIZED VIEW m AS SELECT 1 AS x", "DROP MATERIALIZED VIEW m", "SELECT 1"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "DROP FUNCTION f", "f()"),
        (
            "CREATE TRIGGER t BEFORE UPDATE ON notes FOR EACH ROW "
            "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "DROP TRIGGER t ON notes",
            "TRIGGER t",
        ),
        ("CREATE POLICY p ON notes USING (id > 0)", "DROP POLICY p ON notes", "policy p"),
        (
            "ALTER TABLE notes ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE notes DISABLE ROW LEVEL SECURITY",
            "row level security",
        ),
        (
            "CREATE RULE r AS ON DELETE TO notes DO INSTEAD NOTHING",
            "DROP RULE r ON notes",
            "RULE r",
        ),
        ("COMMENT ON COLUMN notes.text IS 'why'", "COMMENT ON COLUMN notes.text IS NULL", "why"),
        (
            "ALTER TABLE notes ALTER text SET DEFAULT 'a'",
            "ALTER TABLE notes ALTER text DROP DEFAULT",
            "DEFAULT 'a'",
        ),
    ],
    "mysql": [
        ("CREATE PROCEDURE p() DO 0", "DROP PROCEDURE p", "procedure p"),
        (
            "CREATE TRIGGER t BEFORE INSERT ON notes FOR EACH ROW SET NEW.text = 'a'",
            "DROP TRIGGER t",
            "trigger t BEFORE INSERT",
        ),
        ("CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE DO DO 0", "DROP EVENT e", "event e"),
        ("ALTER TABLE notes COMMENT 'why'", "ALTER TABLE notes COMMENT ''", "COMMENT='why'"),
    ],
    "sqlite": [
        (
            "CREATE TRIGGER t AFTER DELETE ON notes BEGIN SELECT 1; END",
            "DROP TRIGGER t",
            "trigger t",
        ),
        ("CREATE INDEX i ON notes (lower(text))", "DROP INDEX i", "lower(text)"),
        ("CREATE INDEX i ON notes (text) WHERE id > 0", "DROP INDEX i", "WHERE id > 0"),
        ("CREATE TABLE made (a int, b int, UNIQUE (a, b))", "DROP TABLE made", "(a, b)"),
    ],
}


@pytest.fixture
async def notes(database_url: str) -> fastdb.Database:
    """Provide the Database, not connected, of a table."""
    database = fastdb.Database(database_url)
    async with database:
        await database.execute("CREATE TABLE notes (id int PRIMARY KEY, text varchar(20))")
    return database


async def test_all_that_is_made_appears(notes: fastdb.Database) -> None:
    dialect = dialect_of(str(notes.url))
    async with notes as database:
        before = await read_schema(database)
        for make, drop, word in EVERYWHERE + OF_DIALECTS[dialect]:
            await database.execute(make)
            made = await read_schema(database)
            assert any(word in line for line in made - before), (make, made - before)
            if dialect == "mysql" and drop.startswith("DROP INDEX"):
                drop += " ON notes"
            await database.execute(drop)
            assert await read_schema(database) == before, drop


async def test_rows_and_counters_are_no_schema(notes: fastdb.Database) -> None:
    async with notes as database:
        if dialect_of(str(database.url)) == "mysql":
            await database.execute("ALTER TABLE notes MODIFY id int AUTO_INCREMENT")
        before, empty = await read_schema(database), await row_counts(database)
        await database.execute("INSERT INTO notes (id, text) VALUES (7, 'a')")
        assert await read_schema(database) == before
        (line,) = await row_counts(database) - empty
        assert line.startswith("1 rows in")


async def test_the_order_of_columns_is_none(notes: fastdb.Database) -> None:
    async with notes as database:
        await database.execute("ALTER TABLE notes ADD COLUMN x int")
        before = await read_schema(database)
        await database.execute("ALTER TABLE notes DROP COLUMN text")
        await database.execute("ALTER TABLE notes ADD COLUMN text varchar(20)")
        assert await read_schema(database) == before
