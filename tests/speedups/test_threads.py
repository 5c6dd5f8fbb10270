"""Threads share caches, plans, layouts and records, and every answer is right.

With the GIL the threads take turns as often as they can. On a free-threaded CPython
(``nox -s freethreading``) they run at the same time.
"""

from __future__ import annotations

import copy
import datetime
import gc
import importlib
import pickle
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from fastdb.compiler import Compiler
from fastdb.exceptions import (
    InterfaceError,
    InternalError,
    MissingParameterError,
    UnknownParameterError,
)
from fastdb.sql_text import Lexical
from tests.speedups.conftest import PACKAGES, load
from tests.speedups.mysql_packets import DECODERS, KNOWN, Column, packets, result, row

THREADS = 8


@pytest.fixture(autouse=True)
def short_turns() -> Iterator[None]:
    """Let the threads take turns after a few instructions."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def hammer(work: Callable[[int], object], threads: int = THREADS) -> None:
    """Do work in many threads at once, each with its number; raise the first error."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(threads)

    def run(number: int) -> None:
        barrier.wait()
        try:
            work(number)
        except BaseException as exc:
            errors.append(exc)

    started = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    if errors:
        raise errors[0]


IMPORTS = """
import importlib, sys
enabled = getattr(sys, "_is_gil_enabled", lambda: True)
before = enabled()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(before, enabled())
"""


def test_importing_the_core_does_not_bring_the_gil_back(form: str) -> None:
    folder = Path(importlib.import_module(PACKAGES[form]).__file__ or "").parent
    # A wheel has no sources of the core, so look for what the interpreter would import.
    endings = (".so", ".pyd") if form == "compiled" else (".py",)
    names = [path.name.split(".")[0] for path in folder.iterdir() if path.suffix in endings]
    assert "records" in names
    modules = [f"{PACKAGES[form]}.{name}" for name in names]
    command = [sys.executable, "-W", "error", "-c", IMPORTS, *modules]
    before, after = subprocess.check_output(command, text=True).split()
    assert before == after


# -- the query cache

table = sa.Table(
    "t",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(20)),
    sa.Column("flag", sa.Boolean),
    sa.Column("at", sa.DateTime),
    sa.Column("data", sa.JSON),
    sa.Column("made", sa.Integer, default=lambda: 5),
)
WHEN = datetime.datetime(2020, 1, 2, 3, 4, 5)
CELLS_BY_NAME = {"name": "a", "flag": 1, "at": "2020-01-02 03:04:05", "data": "[1]"}
HELD = [
    sa.select(table.c.id, table.c.name).where(table.c.name == sa.bindparam("name")),
    sa.select(table.c.id.label("x")).where(table.c.id.in_(sa.bindparam("ids"))),
    sa.select(table.alias("other")),
    sa.select(sa.func.max(table.c.id).label("id"), table.c.name.label("name")),
]

Made = tuple[Any, Any, tuple[str, ...]]  # a query, values, the names of its columns


def text(n: int) -> Made:
    return f"SELECT {n % 7}, :a, :b", {"a": n, "b": WHEN}, ("x", f"y{n % 3}")


def held(n: int) -> Made:
    return HELD[0], {"name": str(n)}, ("id", "name")


def held_list(n: int) -> Made:
    return HELD[1], {"ids": list(range(n % 70))}, ("x",)


def held_columns(n: int) -> Made:
    return HELD[2 + n % 2], None, (("id", "name") if n % 2 else tuple(table.c.keys()))


def fresh(n: int) -> Made:
    query = sa.select(table.c.id, table.c.name).where(table.c.id == n, table.c.name != str(n))
    return query.order_by(table.c.id) if n % 2 else query, None, ("id", "name")


def fresh_list(n: int) -> Made:
    return sa.select(table.c.id).where(table.c.id.in_(range(n % 70))), None, ("id",)


def fresh_columns(n: int) -> Made:
    label = "abc"[n % 3]
    return sa.select((table.c.id + n).label(label), table.alias().c.name), None, (label, "name")


def insert(n: int) -> Made:
    values = {"id": n, "name": str(n), "flag": bool(n % 2), "at": WHEN, "data": [n]}
    return sa.insert(table), dict(list(values.items())[: 1 + n % 5]), ()


def null_insert(n: int) -> Made:
    return sa.insert(table), {"id": None, "name": str(n)}, ()


def update(n: int) -> Made:
    return sa.update(table).where(table.c.id == n), {"flag": None, "name": str(n)}, ()


def uncached(n: int) -> Made:
    return sa.insert(table).values([{"id": n}, {"id": n + 1}]), None, ()


SHAPES: list[Callable[[int], Made]] = [
    *(text, held, held_list, held_columns, fresh, fresh_list, fresh_columns),
    *(insert, null_insert, update, uncached),
]
NUMBERS = range(20)


def make_cache(form: str, size: int) -> Any:
    dialect = SQLiteDialect_pysqlite(paramstyle="qmark")
    compiler = Compiler(lambda: dialect, lambda: Lexical("sqlite"), "qmark")
    return load(form, "query_cache").QueryCache(compiler, size)


def answer(cache: Any, shape: Callable[[int], Made], n: int) -> Any:
    """Return all that a cache says of a query, and what its records say."""
    query, values, names = shape(n)
    plan, args, given = cache.prepare(query, values)
    told = [plan.sql, plan.kind, plan.key_sources, args, repr(given)]
    for asked in (names, (*names, "more")):
        layout = plan.layout(asked)
        record = layout.record([CELLS_BY_NAME.get(name, 5) for name in asked])
        told += [layout.names, tuple(record), tuple(record.keys())]
    columns = getattr(query, "selected_columns", None)
    if columns is not None:
        record = plan.layout(names).record([CELLS_BY_NAME.get(name, 5) for name in names])
        told.append([record[column] for column in columns])
    return told


def batches(cache: Any, n: int) -> Any:
    rows = [{"id": n, "name": "a"}, {"id": n + 1, "name": "b"}, {"id": 5}, {"name": "c"}]
    found = [(plan.sql, args) for plan, args in cache.prepare_many(sa.insert(table), rows * 2, 2)]
    many = [{"a": each, "b": n} for each in range(5)]
    found += [(plan.sql, args) for plan, args in cache.prepare_many("SELECT :a, :b", many, 2)]
    return found


@pytest.mark.parametrize("size", [0, 3, 500])
def test_one_cache_answers_many_threads(form: str, size: int) -> None:
    alone = make_cache(form, 500)
    expected = {(shape, n): answer(alone, shape, n) for shape in SHAPES for n in NUMBERS}
    many = {n: batches(alone, n) for n in NUMBERS}
    cache = make_cache(form, size)

    def work(number: int) -> None:
        choose = random.Random(number)
        for step in range(300 if size else 60):
            shape, n = choose.choice(SHAPES), choose.choice(NUMBERS)
            assert answer(cache, shape, n) == expected[shape, n], (shape, n)
            if step % 10 == 0:
                assert batches(cache, n) == many[n]
            if step % 50 == 0:
                info = cache.info()
                assert info.currsize <= size + THREADS
                assert min(info) >= 0

    hammer(work)
    assert cache.info().currsize <= size


def test_a_cache_is_cleared_while_others_use_it(form: str) -> None:
    alone = make_cache(form, 500)
    expected = {(shape, n): answer(alone, shape, n) for shape in SHAPES for n in NUMBERS}
    cache = make_cache(form, 20)

    def work(number: int) -> None:
        choose = random.Random(number)
        for step in range(150):
            if step % 4 == number % 4:
                cache.clear()
            shape, n = choose.choice(SHAPES), choose.choice(NUMBERS)
            assert answer(cache, shape, n) == expected[shape, n], (shape, n)

    hammer(work)
    cache.clear()
    assert cache.info() == (0, 0, 0, 20, 0)


def test_one_query_of_one_kind_in_many_threads(form: str) -> None:
    """Few kinds at a time: their threads meet in the same entries all the time."""
    for shape in SHAPES:
        alone, cache = make_cache(form, 500), make_cache(form, 2)
        expected = {n: answer(alone, shape, n) for n in range(4)}

        def work(number: int, shape: Any = shape, cache: Any = cache, all_: Any = expected) -> None:
            for step in range(40):
                n = (number + step) % 4
                assert answer(cache, shape, n) == all_[n], (shape, n)

        hammer(work)


def test_expressions_come_and_go_in_many_threads(form: str) -> None:
    cache = make_cache(form, 10)

    def work(number: int) -> None:
        for step in range(60):
            query = sa.select(table.c.id.label("x")).where(table.c.id.in_([number, step]))
            for _ in range(4):  # the second time it is remembered, later found at once
                plan, args, _ = cache.prepare(query)
                assert args == (number, step)
                assert plan.layout(("x",)).record((step,))[query.selected_columns.x] == step
            del query, plan
            if step % 20 == 0:
                gc.collect()

    hammer(work)


def test_a_plan_gives_each_thread_the_layout_that_it_asks_for(form: str) -> None:
    cache = make_cache(form, 10)
    plans = [
        cache.prepare("SELECT * FROM t")[0],
        cache.prepare(sa.select(table))[0],
        cache.prepare(HELD[2])[0],
    ]

    def work(number: int) -> None:
        for step in range(4000):
            names = tuple(f"c{number}_{place}" for place in range(1 + (number + step) % 3))
            layout = plans[step % 3].layout(names)
            assert layout.names == names
            assert tuple(layout.record(names)) == names

    hammer(work)


def test_values_that_another_thread_changes(form: str) -> None:
    cache = make_cache(form, 10)
    values: dict[str, Any] = {"a": "first", "b": "first"}
    row: dict[str, Any] = {"id": 1, "name": "first"}

    def work(number: int) -> None:
        for step in range(300):
            if number < 2:
                values["a"] = row["name"] = f"{number} {step}"
                values["b"] = values.pop("b", "") + "x" if step % 7 else "x"
                continue
            try:
                _, args, _ = cache.prepare("SELECT :a, :b", values)
                assert [type(each) for each in args] == [str, str]
                _, args, _ = cache.prepare(sa.insert(table), row)
                assert args[0] == 1
            except (MissingParameterError, UnknownParameterError, RuntimeError):
                continue  # a value was gone, or the dict changed while it was read

    hammer(work)


# -- records


def test_layouts_are_made_in_many_threads(form: str) -> None:
    records = load(form, "records")
    shared = [tuple(f"s{number}_{place}" for place in range(4)) for number in range(30)]

    def work(number: int) -> None:
        for step in range(300):
            own = (f"own_{number}_{step}", "x", "x")
            names = shared[(number + step) % 30] if step % 2 else own
            layout = records.RecordLayout(names, [str, None, *[int] * (len(names) - 2)])
            row = tuple(range(len(names)))
            record = layout.record(row)
            assert tuple(record) == ("0", *row[1:])
            assert getattr(record, names[0]) == record[names[0]] == "0"
            assert layout.for_columns({table: 1}.get).record(row)[table] == row[1]

    hammer(work)
    with pytest.raises(TypeError, match="is not an acceptable base type"):
        type(records.Record)("Derived", (records.Record,), {})


def test_nobody_gets_an_instance_of_a_class_derived_meanwhile(form: str) -> None:
    """Without the GIL a class may be derived while another thread makes one of ours."""
    records = load(form, "records")
    metaclass: Any = type(records.Record)

    def work(number: int) -> None:
        for step in range(300):
            if number % 2:
                records.RecordLayout((f"meanwhile_{number}_{step}",)).record((step,))
                continue
            try:
                derived = metaclass(
                    "Derived", (records.Record,), {"__new__": lambda cls: object.__new__(cls)}
                )
            except TypeError:
                continue
            with pytest.raises(TypeError):
                derived()
            with pytest.raises(TypeError):
                records.Record.__new__(derived)

    hammer(work)


def test_records_are_shared_by_many_threads(form: str) -> None:
    records = load(form, "records")
    column = object()
    layout = records.RecordLayout(("id", "name", "data"), [None, str, None], {column: 1}.get)
    rows = [(number, number, [number] if number % 2 else number) for number in range(50)]
    shared = layout.records(rows)
    expected = [(number, str(number), data) for number, _, data in rows]
    shown = [repr(record) for record in shared]
    kept: list[Any] = list(shared)

    def work(number: int) -> None:
        choose = random.Random(number)
        for step in range(300):
            place = choose.randrange(50)
            record, values = shared[place], expected[place]
            assert tuple(record) == record[:] == tuple(record.values()) == values
            assert record == values
            assert record <= layout.record(rows[place])
            assert record.name == record["name"] == record[1] == record[column] == str(place)
            assert repr(record) == shown[place]
            assert dict(record) == record._asdict() == dict(record._mapping)
            assert copy.deepcopy(record) == values
            if step % 5 == 0:
                assert tuple(pickle.loads(pickle.dumps(record))) == values
            if not place % 2:
                assert hash(record) == hash(values)
            # Others hold what this one made, and the other way round.
            kept[choose.randrange(50)] = layout.records([rows[place]] * 3)[choose.randrange(3)]
            mine = kept[choose.randrange(50)]
            assert mine.name == str(mine.id)
            if step % 100 == 0:
                gc.collect()

    hammer(work)
    assert [tuple(record) for record in shared] == expected


def test_records_are_read_by_columns_in_many_threads(form: str) -> None:
    """What tells the columns is worked out when the first thread asks."""
    other = table.alias("other")
    query = sa.select(table.c.id, other.c.id, (table.c.id + 1).label("x"))
    columns = list(query.selected_columns)
    for _ in range(20):
        plan, _, _ = make_cache(form, 10).prepare(query)
        record = plan.layout(("id", "id_1", "x")).record((1, 2, 3))

        def work(number: int, record: Any = record) -> None:
            for place in (0, 1, 2):
                assert record[columns[place]] == place + 1
            assert (record[table.c.id], record[other.c.id], record["x"]) == (1, 2, 3)

        hammer(work)


def test_text_columns_are_found_in_many_threads(form: str) -> None:
    name = sa.column("name", sa.String)
    query = sa.text("SELECT id, name FROM t").columns(table.c.id, name)
    for _ in range(20):
        plan, _, _ = make_cache(form, 10).prepare(query)
        record = plan.layout(("id", "name", "x")).record((1, "a", 3))

        def work(number: int, record: Any = record) -> None:
            assert (record[table.c.id], record[name]) == (1, "a")
            assert (sa.column("x") in record, record[sa.column("x")]) == (True, 3)

        hammer(work)


# -- the decoder of MySQL's rows

COLUMNS: list[Column] = [("id", 3, 63), ("name", 253, 45), ("price", 246, 63), ("at", 12, 63)]
CELLS = [
    row(str(number).encode(), f"größe {number}".encode(), b"1.50", b"2024-02-29 01:02:03")
    for number in range(40)
]


def test_each_thread_reads_its_own_results(form: str) -> None:
    module, records = load(form, "mysql_rows"), load(form, "records")
    layout = records.RecordLayout(("id", "name", "price", "at"))
    data = packets(result(COLUMNS, CELLS))

    def work(number: int) -> None:
        for _ in range(20):
            reader = module.ResultReader(1, "utf8", True, DECODERS, KNOWN, lambda names: layout)
            position = 0
            made: list[Any] = []
            while not reader.ended:
                position = reader.feed(data, position, 3)
                made += reader.take()
            assert [record.id for record in made] == list(range(40))
            assert [record.name for record in made] == [f"größe {each}" for each in range(40)]

    hammer(work)


def test_one_reader_in_many_threads_does_no_harm(form: str) -> None:
    """It belongs to one connection, and so to one thread at a time; a wrong use is an error."""
    module, records = load(form, "mysql_rows"), load(form, "records")
    data = packets(result(COLUMNS, CELLS))
    for _ in range(15):
        reader = module.ResultReader(1, "utf8", True, DECODERS, KNOWN, records.RecordLayout)
        taken: list[list[Any]] = []

        def work(number: int, reader: Any = reader, taken: Any = taken) -> None:
            position = 0
            for step in range(60):
                try:
                    position = reader.feed(data, position, 1 + step % 3)
                except (InterfaceError, InternalError):
                    position = 0
                for name in ("names", "rows", "error", "message", "missing", "ended", "sequence"):
                    getattr(reader, name)
                taken.append(reader.take())

        hammer(work)
        assert all(len(record) == 4 for part in taken for record in part)
