"""What the workloads store and read: a plain table of six columns, and a typed one."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import operator
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

if TYPE_CHECKING:
    from collections.abc import Callable

    import fastdb

__all__ = [
    "COLUMNS",
    "ROWS",
    "TYPED_COLUMNS",
    "TYPED_ROWS",
    "by_attribute",
    "by_name",
    "converted_by_hand",
    "make_tables",
    "read_table",
    "typed_by_attribute",
    "typed_table",
    "typed_values_of",
    "values_of",
    "write_table",
]

ROWS = 10_000
TYPED_ROWS = 1_000

metadata = sa.MetaData()


class Color(enum.Enum):
    """What a thing of the typed table looks like; its name is stored."""

    RED = "#f00"
    GREEN = "#0f0"
    BLUE = "#00f"


def _table(name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("title", sa.String(100), nullable=False),
        sa.Column("score", sa.Integer, nullable=False),
        sa.Column("done", sa.Boolean, nullable=False),
        sa.Column("ratio", sa.Float(53), nullable=False),
        sa.Column("made", sa.DateTime, nullable=False),
    )


read_table = _table("bench_read")
write_table = _table("bench_write")
typed_table = sa.Table(
    "bench_typed",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("title", sa.String(100), nullable=False),
    sa.Column("made", sa.DateTime, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    # A type of the server's own would have to be made first; what comes back is text all the same.
    sa.Column("color", sa.Enum(Color, native_enum=False), nullable=False),
    sa.Column("price", sa.Numeric(10, 2), nullable=False),
)
COLUMNS = tuple(read_table.c.keys())
TYPED_COLUMNS = tuple(typed_table.c.keys())

#: Read every column of a record by attribute, and of a driver's row by name.
by_attribute = operator.attrgetter(*COLUMNS)
by_name = operator.itemgetter(*COLUMNS)
typed_by_attribute = operator.attrgetter(*TYPED_COLUMNS)


def values_of(n: int) -> dict[str, Any]:
    """Return row `n` of a plain table, without its key."""
    return {
        "title": f"title of row {n}",
        "score": n % 100,
        "done": n % 2 == 0,
        "ratio": n / 7,
        "made": _moment(n),
    }


def typed_values_of(n: int) -> dict[str, Any]:
    """Return row `n` of the typed table, without its key."""
    return {
        "title": f"title of row {n}",
        "made": _moment(n),
        "data": {"n": n, "tags": ["new", f"tag {n % 10}"]},
        "color": tuple(Color)[n % len(Color)],
        "price": decimal.Decimal(n).scaleb(-2),
    }


def _moment(n: int) -> datetime.datetime:
    return datetime.datetime(2025, 1, 1) + datetime.timedelta(seconds=n)


def _convert_sqlite(row: Any) -> tuple[Any, ...]:
    return (
        row["id"],
        row["title"],
        datetime.datetime.fromisoformat(row["made"]),
        json.loads(row["data"]),
        Color[row["color"]],
        decimal.Decimal(f"{row['price']:.2f}"),
    )


def _convert_server(row: Any) -> tuple[Any, ...]:
    return (
        row["id"],
        row["title"],
        row["made"],
        json.loads(row["data"]),
        Color[row["color"]],
        row["price"],
    )


def converted_by_hand(dialect: str) -> Callable[[Any], tuple[Any, ...]]:
    """Return what reads and converts a driver's row of the typed table, as its user would."""
    return _convert_sqlite if dialect == "sqlite" else _convert_server


async def make_tables(database: fastdb.Database) -> None:
    """Make all tables, and fill those that are read."""
    for table in metadata.sorted_tables:
        await database.execute(CreateTable(table))
    for table, count, values in (
        (read_table, ROWS, values_of),
        (typed_table, TYPED_ROWS, typed_values_of),
    ):
        rows = ({"id": n, **values(n)} for n in range(1, count + 1))
        await database.execute_many(table.insert(), rows)
