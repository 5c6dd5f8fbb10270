"""Records of eight columns: making them, and reading them.

The floor of making one is a copy, ``tuple(list(row))``; of reading, a namedtuple by attribute and
position, asyncpg's Record by name, ``dict(zip(names, row))`` as a dict.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from benchmarks.operations import Form, Loop, Measure, Operation, statement

SUBJECT = "Records of 8 columns"

Row = namedtuple("Row", "id title score done ratio made color price")
NAMES = Row._fields
ROW = (1, "a title", 3, True, 0.5, None, "RED", "9.99")
ROWS = 1_000
#: How often something short is done in one turn, so that turning does not count.
REPEATED = 20


def repeated(code: str) -> str:
    """Return `code` several times."""
    return "; ".join([code] * REPEATED)


def make_record(form: Form) -> Any:
    """Return one record."""
    return form.module("records").RecordLayout(NAMES).record(ROW)


def rows() -> list[tuple[Any, ...]]:
    """Return rows as a driver gives them, each an object of its own."""
    return [tuple(list(ROW)) for _ in range(ROWS)]


# -- making


def make(form: Form) -> Loop:
    layout = form.module("records").RecordLayout(NAMES)
    return statement("records(rows)", records=layout.records, rows=rows())


def copy(form: Form) -> Loop:
    return statement("[tuple(list(row)) for row in rows]", rows=rows())


def make_converted(form: Form) -> Loop:
    converters = [None, None, None, bool, None, None, str.lower, float]
    layout = form.module("records").RecordLayout(NAMES, converters)
    return statement("records(rows)", records=layout.records, rows=rows())


def convert_by_hand(form: Form) -> Loop:
    code = "[(a, b, c, bool(d), e, f, lower(g), float(h)) for a, b, c, d, e, f, g, h in rows]"
    return statement(code, rows=rows(), lower=str.lower)


# -- reading


def attribute(form: Form) -> Loop:
    return statement(repeated("row.done"), row=make_record(form))


def namedtuple_attribute(form: Form) -> Loop:
    return statement(repeated("row.done"), row=Row(*ROW))


def key(form: Form) -> Loop:
    return statement(repeated("row['done']"), row=make_record(form))


def asyncpg_key(form: Form) -> Loop:
    from tests.servers import servers

    (server,) = form.closing.enter_context(servers(["postgresql"])).values()
    row = form.runner.run(asyncpg_record(server.url))
    return statement(repeated("row['done']"), row=row)


async def asyncpg_record(url: str) -> Any:
    """Return one of asyncpg's records, which only a server makes."""
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        columns = ", ".join(f'${n}::text AS "{name}"' for n, name in enumerate(NAMES, 1))
        return await connection.fetchrow(f"SELECT {columns}", *map(str, ROW))
    finally:
        await connection.close()


def position(form: Form) -> Loop:
    return statement(repeated("row[3]"), row=make_record(form))


def namedtuple_position(form: Form) -> Loop:
    return statement(repeated("row[3]"), row=Row(*ROW))


def unpack(form: Form) -> Loop:
    return statement(repeated("a, b, c, d, e, f, g, h = row"), row=make_record(form))


def namedtuple_unpack(form: Form) -> Loop:
    return statement(repeated("a, b, c, d, e, f, g, h = row"), row=Row(*ROW))


def as_dict(form: Form) -> Loop:
    return statement(repeated("dict(row)"), row=make_record(form))


def zipped_dict(form: Form) -> Loop:
    return statement(repeated("dict(zip(names, row))"), names=NAMES, row=ROW)


OPERATIONS = (
    Operation(
        "making and freeing a record",
        make,
        "tuple(list(row))",
        copy,
        turns=5,
        size=ROWS,
        wanted_ratio=0.7,
    ),
    Operation(
        "making one with three converters",
        make_converted,
        "a tuple by hand",
        convert_by_hand,
        turns=5,
        size=ROWS,
    ),
    Operation(
        "record.x", attribute, "namedtuple's", namedtuple_attribute, size=REPEATED, wanted_ratio=0.5
    ),
    Operation('record["x"]', key, "asyncpg.Record's", asyncpg_key, size=REPEATED, wanted_ratio=1.0),
    Operation(
        "record[0]", position, "namedtuple's", namedtuple_position, size=REPEATED, wanted_ratio=1.0
    ),
    Operation("unpacking a record", unpack, "namedtuple's", namedtuple_unpack, size=REPEATED),
    Operation(
        "dict(record)", as_dict, "dict(zip(names, row))", zipped_dict, turns=200, size=REPEATED
    ),
)


def bench_records(operation: Operation, form: str, measure: Measure) -> None:
    measure(SUBJECT, operation, form)
