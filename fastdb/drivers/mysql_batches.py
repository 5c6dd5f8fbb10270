"""What ``execute_many`` sends: single-row inserts as multi-row ones."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from fastdb.drivers.mysql_exchange import INSERT_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastdb._speedups import QueryPlan
    from fastdb.drivers.base import Batch
    from fastdb.drivers.mysql_exchange import MySQLExchange

__all__ = ["InsertShape", "insert_shape", "statements"]


class InsertShape(NamedTuple):
    """The three parts of a single-row insert, each still to be formatted with ``%``."""

    head: str
    group: str
    tail: str


_TOKENS = {
    backslashes: re.compile(
        rf"""
        (?P<string> '(?:[^'{escape}]|''{pair})*+' | "(?:[^"{escape}]|""{pair})*+" | `[^`]*` )
      | (?P<executed> /\*M?! )
      | (?P<comment> /\*.*?\*/ | \#[^\n]* | --(?=[\s]|$)[^\n]* )
      | (?P<parameter> %s )
      | (?P<word> [A-Za-z_0-9$\u0080-\uffff]+ )
      | (?P<space> \s+ )
      | (?P<mark> . )
        """,
        re.VERBOSE | re.DOTALL,
    )
    for backslashes, escape, pair in ((True, r"\\", r"|\\."), (False, "", ""))
}
# In these a row sees the ones before it: rows in one statement would not do the same.
_ROW_BY_ROW = frozenset({"SELECT", "LAST_INSERT_ID", "LASTVAL", "ROW_COUNT", "FOUND_ROWS"})


@lru_cache(maxsize=256)
def insert_shape(sql: str, backslashes: bool) -> InsertShape | None:
    """Split a plain single-row ``INSERT|REPLACE … VALUES (…)`` around its row.

    Args:
        sql: In "format" style.
        backslashes: Whether a backslash escapes in strings.

    Returns:
        None where the statement is of another kind: where it has parameters outside the row,
        several rows, or a row whose value may depend on the one before.
    """
    depth = 0
    first = previous = ""
    start = end = -1
    tail_begins = ""
    for match in _TOKENS[backslashes].finditer(sql):
        kind, text = match.lastgroup, match.group()
        if kind in ("space", "comment"):
            continue
        if kind == "executed" or (kind == "mark" and text in "'\"`"):
            return None  # a quote that does not end
        word = text.upper() if kind == "word" else ""
        if not first:
            first = word
            if word not in ("INSERT", "REPLACE"):
                return None
        in_row = start >= 0 and end < 0
        if kind == "parameter" and not in_row:
            return None
        if in_row and (word in _ROW_BY_ROW or text == "@"):
            return None
        if end >= 0 and not tail_begins:
            tail_begins = word or text
        if text == "(":
            if depth == 0 and start < 0 and previous in ("VALUES", "VALUE"):
                start = match.start()
            depth += 1
        elif text == ")":
            depth -= 1
            if depth < 0:
                return None
            if depth == 0 and in_row:
                end = match.end()
        elif word in ("SELECT", "SET", "WITH") and depth == 0 and start < 0:
            return None
        previous = word
    if end < 0 or depth or tail_begins not in ("", ";", "ON", "AS", "RETURNING"):
        return None
    return InsertShape(sql[:start], sql[start:end], sql[end:])


def statements(
    connection: MySQLExchange, batches: Iterator[Batch]
) -> Iterator[tuple[QueryPlan, bytes]]:
    """Yield the statements that run the batches, several rows in one where that is the same."""
    for plan, rows in batches:
        shape = insert_shape(plan.sql, connection.backslashes)
        if shape is None:
            for args in rows:
                yield plan, connection.render(plan.sql, args)
            continue
        head, tail = connection.render(shape.head), connection.render(shape.tail)
        size = min(INSERT_SIZE, connection.packet_size) - len(head) - len(tail) - 64
        start = 0
        while start < len(rows):
            text, start = connection.render_rows(shape.group, rows, start, size)
            yield plan, connection.fitting(head + text + tail)
