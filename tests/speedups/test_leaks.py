"""Each operation of the core gives back every reference that it takes, also where it fails.

A debug build of CPython counts references (``nox -s refcounts``), any other blocks of memory.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import gc
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import processors

from fastdb.compiler import Compiler
from fastdb.sql_text import Lexical
from tests.speedups.conftest import FORMS, load
from tests.speedups.mysql_packets import (
    DECODERS,
    KNOWN,
    Column,
    definition,
    error,
    head,
    number,
    ok,
    packets,
    result,
    row,
)

Operation = Callable[[], object]

counted: Callable[[], int] = getattr(sys, "gettotalrefcount", sys.getallocatedblocks)
# The interpreter remembers attributes by names, which it keeps.
FORGET = "_clear_internal_caches" if sys.version_info >= (3, 13) else "_clear_type_cache"
forget_attributes: Callable[[], object] = getattr(sys, FORGET)

# Cython 3.3.1 takes a reference to its type of generators for each of them, and keeps it.
generator_types = {
    type(load(form, "query_cache").QueryCache(None).prepare_many("", (), 1)) for form in FORMS
}


def count() -> int:
    """Return how many references (or blocks) there are, without what may go."""
    forget_attributes()
    gc.collect()
    found = counted()
    if counted is not sys.getallocatedblocks:
        found -= sum(map(sys.getrefcount, generator_types))
    return found


ROUNDS = 7
REPEATS = 20
HEAVY = {"a row of several packets": 3}


def fails(function: Callable[..., Any], *arguments: Any) -> Operation:
    """Return an operation that ends in an error."""

    def fail() -> None:
        try:
            function(*arguments)
        except Exception:
            return
        raise AssertionError("there is no error")

    return fail


def wrong(*_: object) -> Any:
    raise ZeroDivisionError


@pytest.fixture(scope="module", autouse=True)
def own_objects() -> Iterator[None]:
    """Keep the collector to what these tests make: what was there before costs time only."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Row:
    """A sequence in Python, some of whose values are errors."""

    def __init__(self, *values: Any) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, position: int) -> Any:
        value = self._values[position]
        return wrong() if isinstance(value, Exception) else value


class Named:
    """A column of a name."""

    name = "b"


def record_operations(form: str) -> dict[str, Operation]:
    records = load(form, "records")
    make_class = records.record_classes if form == "compiled" else records._record_class.__wrapped__
    names = ("a", "b", "c d")
    column = Named()
    layout = records.RecordLayout(names)
    typed = records.RecordLayout(
        ("flag", "number", "at", "day", "clock", "other"),
        [
            *(processors.int_to_boolean, processors.to_float, processors.str_to_datetime),
            *(processors.str_to_date, processors.str_to_time, lambda value: [value]),
        ],
        {column: 1}.get,
    )
    failing = records.RecordLayout(names, [lambda value: [value], wrong, None])
    cells = (1, 5, "2020-01-02 03:04:05", "2020-01-02", "03:04:05.000001", None)
    odd: Any = ("x", "5", 5, b"x", "03:04", [])
    values = (10**6, [2.5], "three")
    record, same, atomic = layout.record(values), layout.record(values), layout.record((1, 2, 3))
    asked = typed.record(cells)
    view = record._mapping
    inner: list[Any] = []
    cyclic = layout.record((inner, 1, 2))
    inner.append(cyclic)

    def collected_cycle() -> None:
        held: list[Any] = []
        held.append(layout.record((held, 1, 2)))
        del held
        gc.collect()

    def made_class() -> None:
        made = make_class(("x", "y", "x", "a b", "größe"))
        del made
        gc.collect()

    return {
        "rows that are tuples": lambda: layout.records([values] * 3),
        "rows that are lists": lambda: layout.records([list(values)] * 3),
        "rows of another kind": lambda: layout.records(iter([Row(*values), range(3)])),
        "records in records": lambda: layout.record((layout.record(values), record, 1)),
        "converters": lambda: typed.records([cells, list(cells), Row(*cells), (None,) * 6]),
        "converters that fail": fails(typed.records, [cells, odd]),
        "a converter that fails": fails(failing.records, [values]),
        "a converter that fails over a list": fails(failing.records, [list(values)]),
        "a converter that fails over a row": fails(failing.records, [Row(*values)]),
        "a row that fails": fails(layout.records, [Row([], [], ZeroDivisionError())]),
        "rows that fail": fails(lambda: layout.records(map(wrong, [1]))),
        "a short row": fails(layout.records, [values, values[1:]]),
        "a short row of another kind": fails(layout.record, Row(1)),
        "a row that is no sequence": fails(layout.record, 5),
        "attributes": lambda: (record.a, record.b, asked.at, asked.flag),
        "names": lambda: (record["a"], record["c d"], record.get("b"), "b" in record),
        "positions": lambda: (record[0], record[-1], record[True]),
        "slices": lambda: (record[1:], record[::-1], record[:]),
        "columns": lambda: (record[column], asked[column], asked.get(column), column in asked),
        "a missing name": fails(record.__getitem__, "nope"),
        "a missing position": fails(record.__getitem__, 3),
        "a missing column": fails(asked.__getitem__, object()),
        "a missing attribute": fails(getattr, record, "nope"),
        "a key that fails": fails(records.RecordLayout(names, None, wrong).record(values).get, 5.0),
        "defaults": lambda: (record.get("nope", 5), record.get(0), "nope" in record),
        "iteration": lambda: (list(record), len(record), next(iter(record)), [*reversed(record)]),
        "comparison": lambda: (record == same, record < same, record == values, record != 5),
        "comparison that fails": fails(lambda: record < 5),
        "hash": lambda: hash(atomic),
        "hash that fails": fails(hash, record),
        "repr": lambda: (repr(record), repr(cyclic), repr(asked)),
        "dicts": lambda: (record._asdict(), dict(record), record.items(), record.keys()),
        "values": lambda: (record.values(), {**record}),
        "views": lambda: (record._mapping, dict(view), view["a"], view.get("x"), "a" in view),
        "views, too": lambda: (view == record._asdict(), view != {}, repr(view), list(view)),
        "a view that fails": fails(view.__getitem__, "nope"),
        "a view of nothing": fails(records.RecordMapping, 5),
        "pickles": lambda: pickle.loads(pickle.dumps(record)),
        "pickles of views": lambda: pickle.loads(pickle.dumps(view)),
        "copies": lambda: (copy.copy(record), copy.copy(view)),
        "deep copies": lambda: (copy.deepcopy(record), copy.deepcopy(atomic)),
        "writing": fails(setattr, record, "a", 5),
        "deleting": fails(delattr, record, "a"),
        "calling the class": fails(type(record), values),
        "deriving": fails(type, "Derived", (records.Record,), {}),
        "layouts": lambda: records.RecordLayout(["a", *names]),
        "layouts with converters": lambda: records.RecordLayout(names, [str, None, bool], str),
        "layouts for columns": lambda: typed.for_columns(None).for_columns(str),
        "a layout of wrong names": fails(records.RecordLayout, ("a", 5)),
        "a layout of wrong converters": fails(records.RecordLayout, names, [str]),
        "a layout whose names fail": fails(lambda: records.RecordLayout(map(wrong, [1]))),
        "a cycle": collected_cycle,
        "a class": made_class,
    }


class Choosy(sa.types.TypeDecorator[str]):
    """A type of the user's own, which refuses 'wrong'."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return wrong() if value == "wrong" else value


class Numbers:
    """Number the rows, and fail now and then."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> int:
        self.made += 1
        return wrong() if self.made % 3 == 0 else 5


def cache_operations(form: str) -> dict[str, Operation]:
    table = sa.Table(
        "t",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", Choosy(20)),
        sa.Column("flag", sa.Boolean),
        sa.Column("at", sa.DateTime),
        sa.Column("data", sa.JSON),
    )
    other = sa.Table(
        "u",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("made", sa.Integer, default=Numbers()),
    )
    dialect = SQLiteDialect_pysqlite(paramstyle="qmark")
    module = load(form, "query_cache")

    def made(size: int) -> Any:
        compiler = Compiler(lambda: dialect, lambda: Lexical("sqlite"), "qmark")
        return module.QueryCache(compiler, size)

    cache, small, none = made(500), made(2), made(0)
    when = datetime.datetime(2020, 1, 2, 3, 4, 5)
    text = "SELECT :a, :b, :a"
    held = sa.select(table.c.id).where(table.c.name == sa.bindparam("name"))
    listed = sa.select(table.c.id.label("x")).where(table.c.id.in_(sa.bindparam("ids")))
    filled = {"id": 1, "name": "x", "flag": True, "at": when, "data": {"a": [1]}}
    numbers = iter(range(10**9))

    def select(n: int) -> Any:
        return sa.select(table).where(table.c.id == n).order_by(table.c.name).limit(n)

    def labelled(n: int) -> Any:
        return sa.select((table.c.id + n).label("x")).where(table.c.name != str(n))

    def names_of(plan: Any) -> Any:
        return plan.layout(("id", "name")), plan.layout(("id", "name")), plan.layout(("x",))

    def rotating() -> None:
        n = next(numbers) % 5
        small.prepare(f"SELECT {n}")
        small.prepare(sa.select(table).limit(n))
        small.prepare(sa.insert(table), dict(list(filled.items())[: n % 3 + 1]))
        small.prepare(held, {"name": "x"})

    def batches(query: Any, rows: list[Any], cache: Any = cache) -> list[Any]:
        return list(cache.prepare_many(query, rows, 2))

    def abandoned() -> None:
        batch = cache.prepare_many(sa.insert(table), [filled] * 5, 2)
        next(batch)

    def forgotten() -> None:
        query = labelled(5)
        for _ in range(3):
            plan, _, _ = cache.prepare(query)
        names_of(plan)
        del query, plan
        gc.collect()

    def own_cache() -> None:
        own = made(3)
        for n in range(5):
            own.prepare(f"SELECT {n}")
            names_of(own.prepare(labelled(n))[0])
            own.prepare(listed, {"ids": [1] * n})
        own.info()
        own.clear()
        del own
        gc.collect()

    prepare = cache.prepare
    wrong_name = {"name": "wrong"}
    return {
        "text": lambda: prepare(text, {"a": 1, "b": when}),
        "text without values": lambda: prepare("SELECT 1"),
        "text with dates": lambda: prepare(text, {"a": when.date(), "b": when.time()}),
        "text that is new": lambda: none.prepare(text, {"a": 1, "b": 2}),
        "text that lacks a value": fails(prepare, text, {"a": 1}),
        "text with a wrong name": fails(prepare, text, {"a": 1, "x": 2}),
        "text with more values": fails(prepare, text, {"a": 1, "b": 2, "x": 2}),
        "text with wrong values": fails(prepare, text, [1, 2]),
        "text that is empty": fails(prepare, " -- nothing"),
        "an expression again": lambda: prepare(held, {"name": "x"}),
        "an expression that lacks a value": fails(prepare, held),
        "an expression with a wrong name": fails(prepare, held, {"nam": "x"}),
        "an expression with more values": fails(prepare, held, {"name": "x", "y": 1}),
        "an expression with a wrong value": fails(prepare, held, wrong_name),
        "an expression with wrong values": fails(prepare, held, [1]),
        "an equal expression": lambda: prepare(select(5)),
        "an equal expression with columns of its own": lambda: names_of(prepare(labelled(5))[0]),
        "an expression that comes again and goes": forgotten,
        "an expression that is new": lambda: none.prepare(select(5)),
        "no expression": fails(prepare, 5),
        "no query": fails(prepare, None),
        "lists": lambda: [prepare(listed, {"ids": [1] * n}) for n in range(4)],
        "lists of an expression": lambda: [
            prepare(sa.select(table).where(table.c.id.in_(range(n)))) for n in range(4)
        ],
        "lists with a wrong value": fails(
            prepare, sa.select(table).where(table.c.name.in_(["x", "wrong"]))
        ),
        "no list": fails(prepare, listed, {"ids": 5}),
        "an insert": lambda: prepare(sa.insert(table), filled),
        "an insert of the key": lambda: prepare(sa.insert(table), {"id": None, "name": None}),
        "an insert of an expression": lambda: prepare(sa.insert(table), {"id": sa.func.max(1)}),
        "an insert of rows": lambda: prepare(sa.insert(table).values([filled, filled])),
        "an insert with a wrong value": fails(prepare, sa.insert(table), wrong_name),
        "an insert with a wrong type": fails(prepare, sa.insert(table), {"at": "never"}),
        "an insert with a wrong name": fails(prepare, sa.insert(table), {"nope": 1}),
        "an update": lambda: prepare(sa.update(table).where(table.c.id == 5), {"flag": None}),
        "an update that sets nothing": fails(prepare, sa.update(table)),
        "a default that fails": lambda: contextlib.suppress(ZeroDivisionError).__exit__(
            *raised(prepare, sa.insert(other), {"id": 5})
        ),
        "a plan's layouts": lambda: names_of(prepare(text, {"a": 1, "b": 2})[0]),
        "a plan's names that are wrong": fails(prepare("SELECT 1")[0].layout, ("a", 5)),
        "evictions": rotating,
        "a cache of its own": own_cache,
        "a cache of a wrong size": fails(made, -1),
        "many rows of text": lambda: batches(text, [{"a": 1, "b": 2}] * 5),
        "many rows": lambda: batches(sa.insert(table), [filled] * 3 + [{"id": 1}] * 2),
        "many rows that are new": lambda: batches(sa.insert(table), [filled] * 3, none),
        "many rows with a wrong one": fails(batches, sa.insert(table), [filled, wrong_name]),
        "many rows with a wrong name": fails(batches, sa.insert(table), [filled, {"nope": 1}]),
        "many rows and no row": fails(batches, sa.insert(table), [filled, 5]),
        "many rows of wrong text": fails(batches, text, [{"a": 1, "b": 2}, {"a": 1}]),
        "many rows left alone": abandoned,
    }


def raised(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what an exit handler is told of a call."""
    try:
        function(*arguments)
    except Exception as exc:
        return type(exc), exc, None
    return None, None, None


SIX: list[Column] = [
    *(("id", 3, 63), ("name", 252, 45), ("price", 246, 63)),
    *(("data", 252, 63), ("ratio", 5, 63), ("at", 12, 63)),
]
CELLS = (b"1", "größe".encode(), b"1.50", b"\0\xff", b"0.5", b"2024-02-29 01:02:03")


def reader_operations(form: str) -> dict[str, Operation]:
    module, records = load(form, "mysql_rows"), load(form, "records")
    layout = records.RecordLayout([name for name, _, _ in SIX])
    odd = (b"x", b"\xff", b"x", b"", b"x", b"0000-00-00 00:00:00")
    lying = row(*CELLS)[:-1]
    custom = {3: lambda text: [text], 5: wrong, 12: lambda text: {text: text}}

    def read(
        payloads: list[bytes],
        layouts: Any = None,
        decoders: Any = DECODERS,
        *,
        encoding: str = "utf8",
        piece: int = 0,
        limit: int = -1,
    ) -> list[Any]:
        reader = module.ResultReader(1, encoding, True, decoders, KNOWN, layouts, limit)
        data, taken = packets(payloads), []
        if not piece:
            reader.feed(data)
        kept = b""
        for start in range(0, len(data) if piece else 0, piece or 1):
            kept += data[start : start + piece]
            kept = kept[reader.feed(kept, 0, 1) :]
            taken += reader.take()
        return [*taken, *reader.take(), reader.error, reader.names, reader.message]

    whole = result(SIX, [row(*CELLS), row(*[None] * 6)] * 3)
    wide = result([("a", 252, 45)], [row(b"x" * 0x1000000)])

    def records_of(names: Any) -> Any:
        return layout

    return {
        "tuples": lambda: read(whole),
        "records": lambda: read(whole, records_of),
        "records of pieces": lambda: read(whole, records_of, piece=7),
        "tuples of pieces": lambda: read(whole, piece=11),
        "fewer rows": lambda: read(whole, records_of, limit=2),
        "another charset": lambda: read(
            result([("a", 252, 45)], [row("ø".encode("latin1"))]), encoding="latin1"
        ),
        "a row of several packets": lambda: read(wide, records.RecordLayout),
        "an OK packet": lambda: read([ok(3, 2**40)]),
        "an error": lambda: read([error()]),
        "an error among rows": lambda: read([*head(SIX), row(*CELLS), error()], records_of),
        "a file": lambda: read([b"\xfbfile"]),
        "values that are odd": fails(read, result(SIX, [row(*odd)]), records_of),
        "converters": lambda: read(
            result([("id", 3, 63), ("at", 12, 63)], [row(b"1", b"2")]), records.RecordLayout, custom
        ),
        "a converter that fails": fails(read, whole, records_of, custom),
        "a converter that fails, over tuples": fails(read, whole, None, custom),
        "layouts that fail": lambda: read(whole, wrong),
        "another layout": lambda: read(whole, lambda names: records.RecordLayout(("a",))),
        "a row that lies": fails(read, [*head(SIX), row(*CELLS), lying], records_of),
        "a row that lies, over tuples": fails(read, [*head(SIX), row(*CELLS), lying]),
        "a row too long": fails(read, [*head(SIX), row(*CELLS, b"x")], records_of),
        "columns too many": fails(read, [*head(SIX), definition("x")]),
        "columns without end": fails(read, [number(2**20)]),
        "a definition too short": fails(read, [number(1), b"\x03def"]),
        "a name that is no text": fails(
            read, [number(1), definition("x").replace(b"\x01x", b"\x01\xff")]
        ),
        "a packet out of turn": fails(module.ResultReader(5, "utf8", True, {}, ()).feed, b"\0" * 4),
        "a wrong position": fails(module.ResultReader(5, "utf8", True, {}, ()).feed, b"", 5),
        "wrong arguments": fails(module.ResultReader, 1, "utf8"),
        "a reader left alone": lambda: module.ResultReader(
            1, "utf8", True, DECODERS, KNOWN, records_of
        ).feed(packets(whole)[:-20]),
    }


PARTS = {"records": record_operations, "cache": cache_operations, "reader": reader_operations}
CASES = [
    pytest.param(form, part, name, id=f"{form}-{part}-{name}")
    for form in FORMS
    for part, operations in PARTS.items()
    for name in operations(form)
]
_made: dict[tuple[str, str], dict[str, Operation]] = {}


@pytest.mark.parametrize(("form", "part", "name"), CASES)
def test_no_operation_keeps_a_reference(form: str, part: str, name: str) -> None:
    if (form, part) not in _made:
        _made[form, part] = PARTS[part](form)
    operation = _made[form, part][name]
    repeats = HEAVY.get(name, REPEATS)
    for _ in range(2 * repeats):
        operation()
    changes: list[int] = [0] * ROUNDS
    for place in range(ROUNDS):
        before = count()
        for _ in range(repeats):
            operation()
        changes[place] = count() - before
    # What leaks does so in every round.
    assert 0 in changes, changes
