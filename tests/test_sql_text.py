"""Reading SQL by the rules of its dialect."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdb.exceptions import ProgrammingError
from fastdb.sql_text import Lexical, classify, is_blank, render, transaction_control

POSTGRESQL = Lexical("postgresql")
MYSQL = Lexical("mysql")
ANSI = Lexical("mysql", ansi_quotes=True)
PLAIN = Lexical("mysql", no_backslash_escapes=True)
SQLITE = Lexical("sqlite")
EVERY = [POSTGRESQL, MYSQL, ANSI, PLAIN, SQLITE]


def names(sql: str, lexical: Lexical) -> tuple[str, ...]:
    """Return the parameters of a text."""
    rendered = render(sql, lexical, "qmark")
    assert rendered.sql.count("?") == sql.count("?") + len(rendered.names)
    return rendered.names


@pytest.mark.parametrize("lexical", EVERY)
@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1", ()),
        ("SELECT :a", ("a",)),
        ("SELECT :a, :b, :a", ("a", "b", "a")),
        ("SELECT (:a)+:b", ("a", "b")),
        ("SELECT :_a1", ("_a1",)),
        ("SELECT :größe", ("größe",)),
        ("SELECT :1, '12:30'", ()),
        ("SELECT x::int, :a::text", ("a",)),
        ("SELECT x := 1", ()),
        (r"SELECT \:a", ()),
        ("SELECT ':a', :b", ("b",)),
        ("SELECT ':a''', :b", ("b",)),
        ("SELECT ''':a', :b", ("b",)),
        ("SELECT '', :b", ("b",)),
        ("SELECT ':a\n:b' , :c", ("c",)),
        ("SELECT /* :a */ :b", ("b",)),
        ("SELECT /* ' */ :b /* ' */", ("b",)),
        ("SELECT -- :a '\n :b", ("b",)),
        ("SELECT :a -- :b", ("a",)),
        ("SELECT ':a", ()),
        ('SELECT ":a', ()),
        ("SELECT :a /* :b", ("a",)),
        ("", ()),
        (":a", ("a",)),
        ("a[1:2]", ()),
    ],
)
def test_parameters_in_every_dialect(lexical: Lexical, sql: str, expected: tuple[str, ...]) -> None:
    assert names(sql, lexical) == expected


@pytest.mark.parametrize(
    ("lexical", "sql", "expected"),
    [
        # double quotes: identifiers, but strings on MySQL
        (POSTGRESQL, 'SELECT ":a", :b', ("b",)),
        (SQLITE, 'SELECT ":a""", :b', ("b",)),
        (MYSQL, 'SELECT ":a", :b', ("b",)),
        (MYSQL, r'SELECT "\":a", :b', ("b",)),
        (ANSI, r'SELECT "\", :b', ("b",)),
        (ANSI, r"SELECT '\':a', :b", ("b",)),
        # backslashes
        (MYSQL, r"SELECT '\':a', :b", ("b",)),
        (PLAIN, r"SELECT '\', :b", ("b",)),
        (PLAIN, r'SELECT "\", :b', ("b",)),
        (POSTGRESQL, r"SELECT '\', :b", ("b",)),
        (POSTGRESQL, r"SELECT E'\':a', :b", ("b",)),
        (POSTGRESQL, r"SELECT e'\\', :b", ("b",)),
        (POSTGRESQL, "SELECT E'a'\n  '\\':a', :b", ("b",)),
        (POSTGRESQL, r"SELECT name'\', :b", ("b",)),
        (POSTGRESQL, r"SELECT U&'\', :b", ("b",)),
        (POSTGRESQL, r"SELECT U&':a', B'1', X'1F', N':c', :b", ("b",)),
        (SQLITE, r"SELECT '\', :b", ("b",)),
        # backticks
        (MYSQL, "SELECT `:a```, :b", ("b",)),
        (SQLITE, "SELECT `:a`, :b", ("b",)),
        (POSTGRESQL, "SELECT `:a`", ("a",)),
        # comments
        (MYSQL, "SELECT # :a '\n :b", ("b",)),
        (POSTGRESQL, "SELECT x # :a", ("a",)),
        (POSTGRESQL, "SELECT x #>> :a, y #- :b", ("a", "b")),
        (MYSQL, "SELECT 1--:a", ("a",)),
        (MYSQL, "SELECT 1 --\t:a\n, :b", ("b",)),
        (MYSQL, "SELECT :a --", ("a",)),
        (SQLITE, "SELECT 1--:a", ()),
        (POSTGRESQL, "SELECT 1--:a", ()),
        (POSTGRESQL, "SELECT /* /* :a */ :b */ :c", ("c",)),
        (SQLITE, "SELECT /* /* :a */ :b", ("b",)),
        (MYSQL, "SELECT /* /* :a */ :b", ("b",)),
        (MYSQL, "SELECT /*!40101 :a */ :b", ("a", "b")),
        (MYSQL, "SELECT /*M! ':a' */ :b", ("b",)),
        # dollar quotes
        (POSTGRESQL, "SELECT $$ :a ' $$, :b", ("b",)),
        (POSTGRESQL, "SELECT $x$ :a $$ $x$, :b", ("b",)),
        (POSTGRESQL, "SELECT $x$ :a $y$", ()),
        (POSTGRESQL, "SELECT a$b$, :c, d$b$", ("c",)),
        (POSTGRESQL, "SELECT $1, :a", ("a",)),
        # brackets
        (SQLITE, "SELECT [a:x], [:b ' ], :c", ("c",)),
        (POSTGRESQL, "SELECT a[:n], a[1:n], a[:m:n]", ("n", "n", "m", "n")),
        (POSTGRESQL, "SELECT a[low:high], :b", ("b",)),
        # operators
        (POSTGRESQL, "SELECT a ? 'b', a ?| :c, a @> :d, a -> :e", ("c", "d", "e")),
        (MYSQL, "SELECT @x := :a, @y:=:b", ("a", "b")),
        (MYSQL, "SELECT a->'$.b:c', a->>:d", ("d",)),
    ],
)
def test_parameters_by_the_dialects_rules(
    lexical: Lexical, sql: str, expected: tuple[str, ...]
) -> None:
    assert names(sql, lexical) == expected


def test_placeholders() -> None:
    sql = r"SELECT :a, :b, :a, '5%', \:c, 7 % 2"
    assert render(sql, POSTGRESQL, "numeric_dollar") == (
        "SELECT $1, $2, $1, '5%', :c, 7 % 2",
        ("a", "b"),
    )
    assert render(sql, SQLITE, "qmark") == ("SELECT ?, ?, ?, '5%', :c, 7 % 2", ("a", "b", "a"))
    assert render(sql, MYSQL, "format") == (
        "SELECT %s, %s, %s, '5%%', :c, 7 %% 2",
        ("a", "b", "a"),
    )
    assert render("SELECT '5%'", MYSQL, "format") == ("SELECT '5%%'", ())
    assert render("SELECT ':a 5%", MYSQL, "format") == ("SELECT ':a 5%%", ())


def test_an_unknown_paramstyle_is_named() -> None:
    with pytest.raises(ProgrammingError, match="'pyformat'"):
        render("SELECT 1", SQLITE, "pyformat")


PIECES = [
    "'",
    '"',
    "`",
    "--",
    "#",
    "/*",
    "*/",
    "$$",
    "$x$",
    ":a",
    "::",
    ":=",
    "\\",
    "\\:",
    "[",
    "]",
]
TEXTS = st.lists(st.sampled_from([*PIECES, "E'", " ", "\n", "b", "1", "%", "?", ";", "("])).map(
    "".join
)


@given(TEXTS, st.sampled_from(EVERY))
def test_any_text_keeps_all_but_its_parameters(sql: str, lexical: Lexical) -> None:
    rendered = render(sql, lexical, "qmark")
    assert rendered.sql.count("?") == sql.count("?") + len(rendered.names)
    formatted = render(sql, lexical, "format")
    assert formatted.names == rendered.names
    assert (formatted.sql % tuple("?" * len(formatted.names))) == rendered.sql
    if "?" not in sql and "\\:" not in sql:
        pieces = rendered.sql.split("?")
        names = [*(f":{name}" for name in rendered.names), ""]
        assert "".join(p + n for p, n in zip(pieces, names, strict=True)) == sql
    classify(sql, lexical)


@given(TEXTS, st.sampled_from(EVERY))
def test_a_rendered_text_without_parameters_is_stable(sql: str, lexical: Lexical) -> None:
    once = render(sql, lexical, "qmark")
    if not once.names and "\\:" not in sql:
        assert once.sql == sql


@pytest.mark.parametrize("lexical", EVERY)
@pytest.mark.parametrize(
    ("sql", "verb", "kind"),
    [
        ("SELECT 1", "SELECT", "select"),
        ("  select 1", "SELECT", "select"),
        ("-- x\n/* y */ ((SELECT 1) UNION (SELECT 2))", "SELECT", "select"),
        ("VALUES (1)", "VALUES", "select"),
        ("TABLE t", "TABLE", "select"),
        ("SHOW x", "SHOW", "select"),
        ("EXPLAIN SELECT 1", "EXPLAIN", "select"),
        ("INSERT INTO t VALUES (1)", "INSERT", "insert"),
        ("REPLACE INTO t VALUES (1)", "REPLACE", "insert"),
        ("UPDATE t SET a = 1", "UPDATE", "update"),
        ("DELETE FROM t", "DELETE", "delete"),
        ("CREATE TABLE t (a int)", "CREATE", "ddl"),
        ("drop table t", "DROP", "ddl"),
        ("TRUNCATE t", "TRUNCATE", "ddl"),
        ("BEGIN", "BEGIN", "other"),
        ("VACUUM", "VACUUM", "other"),
        ("WITH a AS (SELECT 1) SELECT 1", "SELECT", "select"),
        ("WITH RECURSIVE a(b) AS (SELECT 1), c AS (SELECT 2) DELETE FROM t", "DELETE", "delete"),
        ("WITH update AS (SELECT 1), insert AS (SELECT 2) SELECT 3", "SELECT", "select"),
        ("WITH a AS (INSERT INTO t VALUES (1) RETURNING id) SELECT * FROM a", "SELECT", "select"),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", "INSERT", "insert"),
        ("WITH a AS (SELECT 1) (SELECT 2)", "SELECT", "select"),
        ("; ;SELECT 1; DELETE FROM t", "SELECT", "select"),
        ("", "", "other"),
        ("-- x", "", "other"),
        ("((", "", "other"),
        ("WITH", "WITH", "other"),
        ("?!", "", "other"),
    ],
)
def test_main_verb(lexical: Lexical, sql: str, verb: str, kind: str) -> None:
    found = classify(sql, lexical)
    assert (found.verb, found.kind) == (verb, kind)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("INSERT INTO t VALUES (1) RETURNING id", True),
        ("insert into t values (1) returning *", True),
        ("UPDATE t SET a = 1 RETURNING a", True),
        ("DELETE FROM t RETURNING a", True),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT 1 RETURNING id", True),
        ("INSERT INTO t VALUES ('RETURNING')", False),
        ('INSERT INTO t ("returning") VALUES (1)', False),
        ("INSERT INTO t VALUES (1) -- RETURNING id", False),
        ("WITH a AS (INSERT INTO t VALUES (1) RETURNING id) SELECT 1", False),
        ("WITH a AS (INSERT INTO t VALUES (1) RETURNING id) INSERT INTO u SELECT 1 FROM a", False),
        ("SELECT returning FROM t", False),
    ],
)
def test_returning(sql: str, expected: bool) -> None:
    assert classify(sql, POSTGRESQL).returning is expected


CHANGING = {
    POSTGRESQL: [
        "SET search_path = a",
        "SET SESSION x = 1",
        "set x to 1",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "RESET ALL",
        "LISTEN a",
        "UNLISTEN *",
        "PREPARE a AS SELECT 1",
        "DEALLOCATE a",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "DISCARD ALL",
        "DO $$ BEGIN END $$",
        "CALL p()",
        "LOAD 'x'",
        "SELECT set_config('a', 'b', false)",
        "SELECT pg_catalog.set_config('a', 'b', false)",
        "SELECT (SELECT pg_advisory_lock(1))",
        "SELECT pg_try_advisory_lock (1)",
        "SELECT 1; SET x = 1",
        "/* x */ SET x = 1",
    ],
    MYSQL: [
        "SET NAMES utf8",
        "SET LOCAL x = 1",
        "SET @x = 1",
        "SELECT @x := 1",
        "SELECT a INTO @x FROM t",
        "LOCK TABLES t READ",
        "UNLOCK TABLES",
        "USE a",
        "DO 1",
        "CALL p()",
        "PREPARE a FROM 'x'",
        "SELECT GET_LOCK('a', 1)",
        "SELECT release_lock('a')",
        "/*!40101 SET NAMES utf8 */",
    ],
    SQLITE: [
        "ATTACH 'x' AS y",
        "DETACH y",
        "PRAGMA foreign_keys = ON",
        "PRAGMA foreign_keys(1)",
        "SELECT load_extension('x')",
    ],
}
PASSING = {
    POSTGRESQL: [
        "SELECT 1",
        "SET LOCAL x = 1",
        "SET TRANSACTION READ ONLY",
        "SET CONSTRAINTS ALL DEFERRED",
        "LOCK TABLE t",
        "DECLARE c CURSOR FOR SELECT 1",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT 'set_config('",
        "SELECT set_config FROM t",
        "UPDATE t SET a = 1",
        "INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = 1",
        "CREATE FUNCTION f() RETURNS int SET x = 1 AS $$ SET y = 1; $$",
        "-- SET x = 1",
        "CREATE TEMPORARY TABLE t (a int)",
        "NOTIFY a",
    ],
    MYSQL: [
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "LOAD DATA INFILE 'x' INTO TABLE t",
        "SELECT 'GET_LOCK('",
        "INSERT INTO t SELECT 1",
    ],
    SQLITE: ["PRAGMA foreign_keys", "PRAGMA table_info(t)", "PRAGMA main.table_info('t')"],
}


@pytest.mark.parametrize(
    ("lexical", "sql"), [(each, sql) for each, texts in CHANGING.items() for sql in texts]
)
def test_what_changes_the_session(lexical: Lexical, sql: str) -> None:
    assert classify(sql, lexical).changes_session


@pytest.mark.parametrize(
    ("lexical", "sql"), [(each, sql) for each, texts in PASSING.items() for sql in texts]
)
def test_what_leaves_the_session_as_it_was(lexical: Lexical, sql: str) -> None:
    assert not classify(sql, lexical).changes_session


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("CREATE TABLE t (a int)", True),
        ("CREATE TEMPORARY TABLE t (a int)", False),
        ("CREATE OR REPLACE TEMPORARY TABLE t (a int)", False),
        ("DROP TEMPORARY TABLE t", False),
        ("ALTER TABLE t ADD b int", True),
        ("TRUNCATE t", True),
        ("LOCK TABLES t READ", True),
        ("START TRANSACTION", True),
        ("SET autocommit = 1", True),
        ("SET PASSWORD = 'x'", True),
        ("LOAD INDEX INTO CACHE t", True),
        ("LOAD DATA INFILE 'x' INTO TABLE t", False),
        ("SET NAMES utf8", False),
        ("INSERT INTO t VALUES (1)", False),
        ("SELECT 1; DROP TABLE t", True),
        ("COMMIT", False),
    ],
)
def test_what_commits_on_mysql(sql: str, expected: bool) -> None:
    assert classify(sql, MYSQL).implicit_commit is expected
    assert not classify(sql, POSTGRESQL).implicit_commit


def test_blank_texts() -> None:
    assert is_blank(" ; -- x\n /* y */", POSTGRESQL)
    assert not is_blank("(", POSTGRESQL)


def test_a_quote_without_an_end_costs_one_pass() -> None:
    assert render(":a '" + "''x" * 200_000 + "'", SQLITE, "qmark").names == ("a",)
    assert classify("/*" * 100_000, POSTGRESQL).verb == ""
    assert classify("$" * 20_000 + "x", POSTGRESQL).verb == ""


@pytest.mark.parametrize(
    ("dialect", "sql", "words"),
    [
        ("sqlite", "SELECT 1", ""),
        ("sqlite", "SELECT 'commit' -- rollback", ""),
        ("sqlite", "-- now\ncommit", "COMMIT"),
        ("sqlite", "End Transaction", "END TRANSACTION"),
        ("sqlite", "CREATE TRIGGER t AFTER INSERT ON n BEGIN SELECT 1; END", ""),
        ("sqlite", "ROLLBACK TO here", ""),
        ("sqlite", "SAVEPOINT start", ""),
        ("postgresql", "ABORT", "ABORT"),
        ("postgresql", "ROLLBACK WORK TO SAVEPOINT here", ""),
        ("postgresql", "SELECT 1; ROLLBACK AND CHAIN", "ROLLBACK AND"),
        ("postgresql", "PREPARE start AS SELECT 1", ""),
        ("postgresql", "PREPARE TRANSACTION 'x'", "PREPARE TRANSACTION"),
        ("postgresql", "CREATE TABLE n (a int); COMMIT", "COMMIT"),
        ("postgresql", "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END", ""),
        ("mysql", "START TRANSACTION READ ONLY", "START TRANSACTION"),
        ("mysql", "START SLAVE", ""),
        ("mysql", "BEGIN NOT ATOMIC SELECT 1; END", ""),
        ("mysql", "SET autocommit = 1", "SET AUTOCOMMIT"),
        ("postgresql", "SET autocommit = 1", ""),
    ],
)
def test_transaction_control(dialect: str, sql: str, words: str) -> None:
    assert transaction_control(sql, Lexical(dialect)) == words
