"""Read SQL text by the lexical rules of its dialect: parameters, main verb, effects.

Nothing here parses SQL. A scanner splits a text into quoted parts, comments, words and signs; that
is enough to find ``:name`` parameters and to see what kind of statement it is.

The rules come from "Lexical Structure" in PostgreSQL's manual, "Language Structure" in MySQL's and
MariaDB's, and from SQLite's tokenizer.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from fastdb.exceptions import ProgrammingError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Classification", "Lexical", "Rendered", "classify", "is_blank", "render"]


class Lexical(NamedTuple):
    r"""The rules by which a server reads SQL.

    Attributes:
        dialect: ``postgresql``, ``mysql`` (MariaDB included) or ``sqlite``.
        ansi_quotes: MySQL's ANSI_QUOTES: ``"…"`` is an identifier.
        no_backslash_escapes: MySQL's NO_BACKSLASH_ESCAPES: ``\`` is an ordinary character.
    """

    dialect: str
    ansi_quotes: bool = False
    no_backslash_escapes: bool = False


class Rendered(NamedTuple):
    """A text as the driver takes it, and the parameters' names in the order of its arguments."""

    sql: str
    names: tuple[str, ...]


class Classification(NamedTuple):
    """What kind of statement a text is.

    Attributes:
        verb: The main verb in upper case, after CTEs; empty where there is no statement.
        kind: ``select`` (rows are expected), ``insert``, ``update``, ``delete``, ``ddl`` or
            ``other``.
        returning: RETURNING stands outside quotes, at the top level.
        changes_session: A statement of the text changes the session's state.
        implicit_commit: A statement of the text commits the transaction (MySQL).
    """

    verb: str
    kind: str
    returning: bool
    changes_session: bool
    implicit_commit: bool


# -- the scanner

_WORD = r"(?P<word>[^\W\d][\w$]*)"
_NUMBER = r"(?P<number>\d[\w.]*)"
_PARAM = r"(?P<param>:(?P<name>[^\W\d]\w*))"
# "::" (a cast) and ":=" (an assignment) are no parameters; "\:" is a colon that is none.
_COLONS = r"(?P<colons>::|:=)|(?P<escape>\\:)"
# Possessive, so that a quote without an end costs one pass.
_SINGLE = r"'(?:[^']|'')*+'"
_SINGLE_BACKSLASH = r"'(?:[^'\\]|\\.|'')*+'"
_DOUBLE = r'"(?:[^"]|"")*+"'
_DOUBLE_BACKSLASH = r'"(?:[^"\\]|\\.|"")*+"'
_BACKTICK = r"`(?:[^`]|``)*+`"
_BLOCK = r"/\*.*?\*/"
_SIGN = r"(?P<sign>.)"


def _pattern(lexical: Lexical) -> re.Pattern[str]:
    if lexical.dialect == "postgresql":
        # Strings that only a line break separates are one string, an E'' string included.
        escape_string = rf"(?P<estring>[eE]{_SINGLE_BACKSLASH}(?:\s*[\n\r]\s*{_SINGLE_BACKSLASH})*)"
        parts = [
            rf"(?P<comment>--[^\n\r]*)|(?P<nested>/\*)|{escape_string}",
            rf"(?P<quoted>{_SINGLE}|{_DOUBLE}|"
            r"\$(?P<tag>(?:[^\W\d][^\W$]*)?)\$.*?\$(?P=tag)\$)",
            r"(?P<open>'|\"|\$(?:[^\W\d][^\W$]*)?\$)",
        ]
    elif lexical.dialect == "mysql":
        backslash = not lexical.no_backslash_escapes
        single = _SINGLE_BACKSLASH if backslash else _SINGLE
        # Under ANSI_QUOTES "…" is an identifier, where a backslash never escapes.
        double = _DOUBLE_BACKSLASH if backslash and not lexical.ansi_quotes else _DOUBLE
        parts = [
            # "--" needs a blank or a control character behind it; "/*!" opens text that is run.
            r"(?P<comment>#[^\n]*|--(?=[\x00-\x20\x7f]|\Z)[^\n]*|/\*(?!M?!).*?\*/)",
            r"(?P<hint>/\*M?!\d*|\*/)",
            rf"(?P<quoted>{single}|{double}|{_BACKTICK})",
            r"(?P<open>'|\"|`|/\*)",
        ]
    else:
        parts = [
            rf"(?P<comment>--[^\n]*|{_BLOCK})",
            rf"(?P<quoted>{_SINGLE}|{_DOUBLE}|{_BACKTICK}|\[[^\]]*\])",
            r"(?P<open>'|\"|`|\[|/\*)",
        ]
    parts += [_COLONS, _PARAM, _WORD, _NUMBER, r"(?P<space>\s+)", _SIGN]
    return re.compile("|".join(parts), re.DOTALL)


_patterns: dict[Lexical, re.Pattern[str]] = {}
_COMMENT_EDGE = r"/\*|\*/"


def _nested_comment_end(sql: str, start: int) -> int:
    depth = 0
    for edge in re.compile(_COMMENT_EDGE).finditer(sql, start):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(sql)


def _tokens(sql: str, lexical: Lexical) -> Iterator[tuple[str, int, int]]:
    """Yield the kind, start and end of each piece of a text.

    Kinds: comment, quoted, word, number, param, escape, colons, space, sign.
    """
    pattern = _patterns.get(lexical)
    if pattern is None:
        pattern = _patterns[lexical] = _pattern(lexical)
    position, length = 0, len(sql)
    while position < length:
        match = pattern.match(sql, position)
        assert match is not None  # the last alternative takes any character
        kind = match.lastgroup or "sign"
        end = match.end()
        if kind == "open":
            # A quote or comment without an end: the rest is left to the server to report.
            kind, end = "quoted", length
            if sql.startswith("/*", position):
                kind = "comment"
        elif kind == "nested":
            kind, end = "comment", _nested_comment_end(sql, position)
        elif kind == "estring":
            kind = "quoted"
        elif kind == "hint":
            kind = "space"
        yield kind, position, end
        position = end


# -- parameters


def render(sql: str, lexical: Lexical, paramstyle: str) -> Rendered:
    """Replace ``:name`` parameters by the driver's placeholders.

    Args:
        sql: The text as its author wrote it.
        lexical: The rules of the server that will read it.
        paramstyle: ``qmark`` (``?``), ``numeric_dollar`` (``$1``; one number per name) or
            ``format`` (``%s``; every other ``%`` is doubled, for the driver does ``sql % args``).
    """
    if paramstyle not in ("qmark", "numeric_dollar", "format"):
        raise ProgrammingError(
            f"unknown paramstyle {paramstyle!r}; known are 'qmark', 'numeric_dollar', 'format'"
        )
    percent = paramstyle == "format"
    if ":" not in sql:
        return Rendered(sql.replace("%", "%%") if percent else sql, ())
    out: list[str] = []
    names: list[str] = []
    numbers: dict[str, int] = {}
    brackets = 0  # array subscripts of PostgreSQL
    previous = ""
    for kind, start, end in _tokens(sql, lexical):
        text = sql[start:end]
        if kind == "param":
            name = text[1:]
            if brackets and previous == "word":
                out.append(text)  # arr[low:high]: the upper bound is a column
            elif paramstyle == "numeric_dollar":
                if name not in numbers:
                    numbers[name] = len(numbers) + 1
                    names.append(name)
                out.append(f"${numbers[name]}")
            else:
                names.append(name)
                out.append("?" if paramstyle == "qmark" else "%s")
        elif kind == "escape":
            out.append(":")
        else:
            if kind == "sign" and lexical.dialect == "postgresql":
                if text == "[":
                    brackets += 1
                elif text == "]" and brackets:
                    brackets -= 1
            out.append(text.replace("%", "%%") if percent else text)
        previous = kind
    return Rendered("".join(out), tuple(names))


# -- classification

_MAIN_VERBS = frozenset(
    {"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES", "TABLE", "REPLACE"}
)
_ROW_VERBS = frozenset(
    {"SELECT", "VALUES", "TABLE", "SHOW", "EXPLAIN", "PRAGMA", "DESCRIBE", "DESC", "FETCH"}
)
# MySQL's maintenance statements answer with a table.
_MYSQL_ROW_VERBS = frozenset({"ANALYZE", "CHECK", "CHECKSUM", "HELP", "OPTIMIZE", "REPAIR"})
_DDL_VERBS = frozenset(
    {"CREATE", "ALTER", "DROP", "TRUNCATE", "RENAME", "COMMENT", "GRANT", "REVOKE", "REINDEX"}
    | {"REFRESH", "SECURITY", "IMPORT"}
)
_SESSION_VERBS = {
    "postgresql": frozenset(
        {"RESET", "LISTEN", "UNLISTEN", "PREPARE", "DEALLOCATE", "DISCARD", "DO", "CALL", "LOAD"}
    ),
    "mysql": frozenset(
        {"RESET", "PREPARE", "DEALLOCATE", "EXECUTE", "UNLOCK", "USE", "DO", "CALL", "HANDLER"}
        | {"FLUSH", "DISCARD", "BINLOG"}
    ),
    "sqlite": frozenset({"ATTACH", "DETACH"}),
}
_SESSION_FUNCTIONS = {
    "postgresql": frozenset(
        {
            "SET_CONFIG",
            "SETSEED",
            "PG_ADVISORY_LOCK",
            "PG_ADVISORY_LOCK_SHARED",
            "PG_TRY_ADVISORY_LOCK",
            "PG_TRY_ADVISORY_LOCK_SHARED",
            "PG_ADVISORY_UNLOCK",
            "PG_ADVISORY_UNLOCK_SHARED",
            "PG_ADVISORY_UNLOCK_ALL",
            "DBLINK_CONNECT",
            "DBLINK_CONNECT_U",
            "DBLINK_DISCONNECT",
            "PG_REPLICATION_ORIGIN_SESSION_SETUP",
            "PG_REPLICATION_ORIGIN_SESSION_RESET",
        }
    ),
    "mysql": frozenset({"GET_LOCK", "RELEASE_LOCK", "RELEASE_ALL_LOCKS"}),
    "sqlite": frozenset({"LOAD_EXTENSION"}),
}
# PRAGMA name(argument) asks a question for these; for any other it assigns.
_QUERY_PRAGMAS = frozenset(
    {
        "FOREIGN_KEY_CHECK",
        "FOREIGN_KEY_LIST",
        "INCREMENTAL_VACUUM",
        "INDEX_INFO",
        "INDEX_LIST",
        "INDEX_XINFO",
        "INTEGRITY_CHECK",
        "OPTIMIZE",
        "QUICK_CHECK",
        "TABLE_INFO",
        "TABLE_LIST",
        "TABLE_XINFO",
        "WAL_CHECKPOINT",
    }
)
#: A text without any of these begins and ends no transaction.
_CONTROL = re.compile(
    r"\b(?:begin|commit|end|abort|start|prepare|rollback|autocommit)\b", re.IGNORECASE
)

# https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html
_COMMIT_VERBS = frozenset(
    {"ALTER", "CREATE", "DROP", "TRUNCATE", "RENAME", "GRANT", "REVOKE", "INSTALL", "UNINSTALL"}
    | {
        "ANALYZE",
        "CACHE",
        "CHECK",
        "FLUSH",
        "OPTIMIZE",
        "REPAIR",
        "RESET",
        "BEGIN",
        "START",
        "STOP",
    }
    | {"CHANGE", "LOCK", "UNLOCK", "IMPORT"}
)


class _Word(NamedTuple):
    text: str  # words in upper case, signs as they are, "'" for anything quoted
    depth: int


def classify(sql: str, lexical: Lexical) -> Classification:
    """Tell what a text does: main verb, kind, RETURNING, effects on session and transaction.

    Verb, kind and RETURNING are those of the first statement; the effects are those of any.
    """
    dialect = lexical.dialect
    first: list[_Word] | None = None
    changes_session = implicit_commit = False
    for words in _statements(sql, lexical):
        if first is None:
            first = words
        changes_session = changes_session or _changes_session(words, dialect)
        implicit_commit = implicit_commit or (dialect == "mysql" and _commits(words))
    if first is None:
        return Classification("", "other", False, False, False)
    position, base = _main_verb(first)
    verb = first[position].text if position < len(first) else ""
    if not verb[:1].isalpha():
        verb = ""
    kind = _kind(verb, dialect)
    returning = kind in ("insert", "update", "delete") and any(
        word.text == "RETURNING" and word.depth == base for word in first[position + 1 :]
    )
    return Classification(verb, kind, returning, changes_session, implicit_commit)


def transaction_control(sql: str, lexical: Lexical) -> str:
    """Return the first words of what begins or ends a transaction in a text; "" where nothing does.

    Savepoints do neither.
    """
    if not _CONTROL.search(sql):
        return ""
    for words in _statements(sql, lexical):
        texts = [word.text for word in words]
        if "ATOMIC" in texts or (texts[0] == "CREATE" and lexical.dialect != "postgresql"):
            break  # the BEGIN and END that follow belong to a routine
        if (
            texts[0] in ("BEGIN", "COMMIT", "END", "ABORT")
            or (texts[0] in ("START", "PREPARE") and texts[1:2] == ["TRANSACTION"])
            or (texts[0] == "ROLLBACK" and "TO" not in texts[1:3])
            or (texts[0] == "SET" and "AUTOCOMMIT" in texts and lexical.dialect == "mysql")
        ):
            return " ".join(texts[:2])
    return ""


def is_blank(sql: str, lexical: Lexical) -> bool:
    """Return whether a text holds nothing but blanks, comments and semicolons."""
    return next(_statements(sql, lexical), None) is None


def _statements(sql: str, lexical: Lexical) -> Iterator[list[_Word]]:
    words: list[_Word] = []
    depth = 0
    for kind, start, end in _tokens(sql, lexical):
        if kind in ("space", "comment"):
            continue
        if kind == "word":
            words.append(_Word(sql[start:end].upper(), depth))
        elif kind == "quoted":
            words.append(_Word("'", depth))
        elif kind == "sign":
            text = sql[start]
            if text == ";" and depth == 0:
                if words:
                    yield words
                words = []
                continue
            if text == ")":
                depth = max(depth - 1, 0)
            words.append(_Word(text, depth))
            if text == "(":
                depth += 1
        else:
            words.append(_Word(sql[start:end], depth))
    if words:
        yield words


def _main_verb(words: list[_Word]) -> tuple[int, int]:
    """Return the position of the main verb and the depth at which its statement stands."""
    position = 0
    while position < len(words) and words[position].text == "(":
        position += 1
    if position == len(words):
        return position, 0
    base = words[position].depth
    if words[position].text != "WITH":
        return position, base
    previous = "WITH"
    for index in range(position + 1, len(words)):
        word = words[index]
        if word.depth != base:
            continue
        # After WITH and a comma stands the name of a CTE, which may look like a verb.
        if word.text in _MAIN_VERBS and previous not in ("WITH", "RECURSIVE", ","):
            return index, base
        if word.text == "(" and previous == ")":
            # WITH … (SELECT …): the verb stands in parentheses
            inner, depth = _main_verb(words[index:])
            return index + inner, depth
        previous = word.text
    return position, base


def _kind(verb: str, dialect: str) -> str:
    if verb in _ROW_VERBS or (dialect == "mysql" and verb in _MYSQL_ROW_VERBS):
        return "select"
    if verb in ("INSERT", "REPLACE"):
        return "insert"
    if verb in ("UPDATE", "MERGE"):
        return "update"
    if verb == "DELETE":
        return "delete"
    if verb in _DDL_VERBS:
        return "ddl"
    return "other"


def _changes_session(words: list[_Word], dialect: str) -> bool:
    texts = [word.text for word in words]
    verb = texts[0]
    second = texts[1] if len(texts) > 1 else ""
    if verb == "SET":
        # LOCAL ends with the transaction on PostgreSQL; on MySQL it is another word for SESSION.
        passing = (
            ("TRANSACTION", "LOCAL", "CONSTRAINTS") if dialect == "postgresql" else ("TRANSACTION",)
        )
        if second not in passing:
            return True
    elif verb == "LOAD" and dialect == "mysql":
        pass  # LOAD DATA is an insert
    elif verb in _SESSION_VERBS.get(dialect, ()):
        return True
    elif verb == "LOCK":
        # PostgreSQL's table locks end with the transaction.
        if dialect == "mysql":
            return True
    elif verb == "PRAGMA":
        if "=" in texts:
            return True
        if "(" in texts and texts[texts.index("(") - 1] not in _QUERY_PRAGMAS:
            return True
    elif verb == "DECLARE" and ("WITH", "HOLD") in pairwise(texts):
        return True
    functions = _SESSION_FUNCTIONS.get(dialect, frozenset())
    for index, text in enumerate(texts):
        following = texts[index + 1] if index + 1 < len(texts) else ""
        if following == "(" and text in functions:
            return True
        if dialect == "mysql":
            if text == ":=":
                return True
            if text == "INTO" and following == "@":
                return True
    return False


def _commits(words: list[_Word]) -> bool:
    texts = [word.text for word in words]
    verb = texts[0]
    if verb not in _COMMIT_VERBS:
        return (
            (verb == "SET" and texts[1:2] == ["PASSWORD"])
            or (verb == "LOAD" and texts[1:2] == ["INDEX"])
            or (verb == "SET" and "AUTOCOMMIT" in texts)
        )
    if verb in ("CREATE", "DROP"):
        # CREATE OR REPLACE TEMPORARY TABLE, DROP TEMPORARY TABLE
        return "TEMPORARY" not in texts[1:4]
    return True
