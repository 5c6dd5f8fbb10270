"""The garbage collector may run at any step, and whoever asks it gets hold of half-made objects."""

from __future__ import annotations

import contextlib
import copy
import datetime
import decimal
import functools
import gc
import pickle
import sysconfig
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from fastdb.compiler import Compiler
from fastdb.exceptions import InternalError
from fastdb.sql_text import Lexical
from tests.speedups.conftest import load
from tests.speedups.mysql_packets import KNOWN, Column, packets, result, row

NAMES = ("id", "name", "data")
# Without the GIL the collector looks at what is frozen, too: each of its runs takes a while.
REPEATS = 2 if sysconfig.get_config_var("Py_GIL_DISABLED") else 20


@pytest.fixture(scope="module", autouse=True)
def own_objects() -> Iterator[None]:
    """Keep the collector to what these tests make: what was there before costs time only."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def eager() -> Iterator[None]:
    """Let the collector run whenever it can."""
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    yield
    gc.set_threshold(*thresholds)


def collecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that collects garbage before and after its work."""

    def collect(*arguments: Any) -> Any:
        gc.collect()
        made = function(*arguments)
        gc.collect()
        return made

    return collect


class Row:
    """A row that collects garbage whenever it is read."""

    def __init__(self, *values: Any) -> None:
        self._values = values

    def __len__(self) -> int:
        gc.collect()
        return len(self._values)

    def __getitem__(self, position: int) -> Any:
        gc.collect()
        return self._values[position]


class Node:
    """What a cycle goes through."""

    held: Any = None

    def __call__(self, *arguments: Any) -> Any:
        return None


# -- a collection at every step


@pytest.mark.usefixtures("eager")
def test_records_are_made_and_read_while_garbage_is_collected(records: ModuleType) -> None:
    column = object()
    convert = collecting(lambda value: [value])
    locate = collecting({column: 2}.get)
    for number in range(REPEATS):
        names = (*NAMES, f"other_{number}")
        layout = records.RecordLayout(iter(names), [None, str, convert, None], locate)
        expected = (number, "7", [b"x"], [number])
        rows = [(number, 7, b"x", [number]), Row(number, 7, b"x", [number])]
        for record in layout.records(iter(rows)):
            assert tuple(record) == record[:] == expected
            assert record == expected
            assert record < (number + 1,)
            assert record.data == record["data"] == record[column] == record[2] == [b"x"]
            assert record._asdict() == dict(record) == dict(record._mapping)
            assert repr(record).startswith(f"<Record id={number} name='7' data=[b'x']")
            assert copy.deepcopy(record) == expected
            assert tuple(pickle.loads(pickle.dumps(record))) == expected
            assert record.get(column) == record._mapping[column]
            assert list(reversed(record)) == list(reversed(expected))
            with pytest.raises(TypeError, match="unhashable"):
                hash(record)
            with pytest.raises(KeyError, match="has no column 'nope'"):
                record["nope"]


@pytest.mark.usefixtures("eager")
def test_errors_in_the_middle_of_a_row_while_garbage_is_collected(records: ModuleType) -> None:
    def wrong(value: Any) -> Any:
        gc.collect()
        raise ZeroDivisionError

    layout = records.RecordLayout(NAMES, [collecting(lambda value: [value]), wrong, None])
    rows: list[Any] = [([], [], []), [[], [], []], Row([], [], [])]
    for number in range(REPEATS):
        with pytest.raises(ZeroDivisionError):
            layout.records([rows[number % 3]])
        with pytest.raises(IndexError):
            records.RecordLayout(NAMES).record(Short(number % 3))


class Short(Row):
    """A row with fewer values than it says."""

    def __init__(self, size: int) -> None:
        super().__init__(*[[] for _ in range(size)])

    def __len__(self) -> int:
        return 3


metadata = sa.MetaData()
table = sa.Table(
    "t",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(20)),
    sa.Column("flag", sa.Boolean),
    sa.Column("data", sa.JSON),
    sa.Column("made", sa.Integer, default=collecting(lambda: 5)),
)


def make_cache(form: str, size: int) -> Any:
    dialect = SQLiteDialect_pysqlite(paramstyle="qmark")
    compiler = Compiler(lambda: dialect, lambda: Lexical("sqlite"), "qmark")
    return load(form, "query_cache").QueryCache(compiler, size)


HELD = sa.select(table.c.id).where(table.c.name == sa.bindparam("name"))


def queries(number: int) -> list[tuple[Any, Any]]:
    """Return queries with their values, new objects at every call."""
    limits = list(range(number % 5))
    return [
        (f"SELECT {number} WHERE 1 = :a", {"a": datetime.date(2020, 1, 2)}),
        ("SELECT :a, :b", {"a": number, "b": decimal.Decimal(number)}),
        (sa.select(table).where(table.c.id == number), None),
        (sa.select(table.c.id.label("x")).where(table.c.id.in_(limits)), None),
        (sa.insert(table), {"id": number, "flag": True, "data": [number]}),
        (sa.update(table).where(table.c.id == number), {"name": str(number)}),
        (sa.select(table.alias()).order_by("id").limit(number), None),
        (sa.insert(table).values([{"id": number}, {"id": number + 1}]), None),
        (HELD, {"name": str(number)}),
    ]


def answers(cache: Any, number: int) -> list[Any]:
    found: list[Any] = []
    for query, values in queries(number):
        plan, args, given = cache.prepare(query, values)
        layout = plan.layout(("id", "x", *[str(each) for each in range(number % 3)]))
        found.append((plan.sql, args, repr(given), layout.names))
    rows = [{"id": number, "name": "a"}, {"id": number, "name": "b"}, {"id": 5}]
    for query in (sa.insert(table), "INSERT INTO t VALUES (:id)"):
        many = rows if query is not None and not isinstance(query, str) else [{"id": 1}] * 3
        found += [(plan.sql, batch) for plan, batch in cache.prepare_many(query, many, 2)]
    return found


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("size", [0, 3, 100])
def test_queries_are_prepared_while_garbage_is_collected(form: str, size: int) -> None:
    cache, uncached = make_cache(form, size), make_cache(form, 0)
    for number in range(min(4, REPEATS)):
        assert answers(cache, number) == answers(uncached, number)
        gc.collect()
    assert cache.info().currsize <= size


COLUMNS: list[Column] = [("a", 3, 63), ("b", 4, 63), ("c", 253, 45)]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("made", ["records", "tuples"])
def test_packets_are_decoded_while_garbage_is_collected(form: str, made: str) -> None:
    module, records = load(form, "mysql_rows"), load(form, "records")
    decoders = {3: collecting(lambda text: [int(text)]), 4: collecting(float)}
    layouts = collecting(records.RecordLayout) if made == "records" else None
    reader = module.ResultReader(1, "utf8", True, decoders, KNOWN, layouts)
    data = packets(
        result(COLUMNS, [row(b"1", b"2", "größe".encode()), row(None, b"3", b"")] * REPEATS)
    )
    taken: list[Any] = []
    position = 0
    while not reader.ended:
        position = reader.feed(data, position, 1)
        taken += reader.take()
        gc.collect()
    assert reader.makes_records is (made == "records")
    assert taken == [([1], 2.0, "größe"), (None, 3.0, "")] * REPEATS


# -- cycles


def cycle_of_lists(records: ModuleType, node: Node) -> Any:
    inner: list[Any] = [node]
    inner.append(records.RecordLayout(("x",)).record((inner,)))
    return inner[1]


def cycle_of_records(records: ModuleType, node: Node) -> Any:
    one: list[Any] = [node]
    layout = records.RecordLayout(("x", "y"))
    first = layout.record((one, 1))
    second = layout.record((first, 2))
    one.append(second)
    return second


def cycle_of_a_converter(records: ModuleType, node: Node) -> Any:
    node.held = records.RecordLayout(("x",), [node])
    return node.held


def cycle_of_columns(records: ModuleType, node: Node) -> Any:
    node.held = records.RecordLayout(("x",), None, node).record(([],))
    return node.held


def cycle_of_other_columns(records: ModuleType, node: Node) -> Any:
    node.held = records.RecordLayout(("x",)).for_columns(functools.partial(node)).record(([],))
    return node.held


def cycle_of_a_view(records: ModuleType, node: Node) -> Any:
    node.held = records.RecordLayout(("x",)).record((node,))._mapping
    return node.held


def cycle_of_a_method(records: ModuleType, node: Node) -> Any:
    node.held = records.RecordLayout(("x",)).record((node,)).get
    return node.held


def cycle_of_an_iterator(records: ModuleType, node: Node) -> Any:
    node.held = iter(records.RecordLayout(("x",)).record((node,)))
    return node.held


def cycle_of_made_values(records: ModuleType, node: Node) -> Any:
    def convert(value: Any) -> Any:
        return [node, layout]

    layout = records.RecordLayout(("x",), [convert])
    node.held = layout.record((1,))
    return node.held


CYCLES = [value for name, value in list(globals().items()) if name.startswith("cycle_of_")]


@pytest.mark.parametrize("make", CYCLES)
def test_cycles_are_collected_and_not_before(
    records: ModuleType, make: Callable[[ModuleType, Node], Any]
) -> None:
    node = Node()
    alive = weakref.ref(node)
    kept = make(records, node)
    del node
    gc.collect()
    assert alive() is not None
    del kept
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("make", CYCLES)
def test_what_a_finalizer_saves_of_a_cycle_is_whole(
    records: ModuleType, make: Callable[[ModuleType, Node], Any]
) -> None:
    saved: list[Node] = []

    class Saver(Node):
        def __del__(self) -> None:
            saved.append(self)

    node: Node = Saver()
    kept = make(records, node)
    node.held = kept
    expected = repr(kept)
    del node, kept
    gc.collect()
    (node,) = saved
    saved.clear()
    assert repr(node.held) == expected
    if isinstance(node.held, records.RecordLayout):
        assert node.held.names == ("x",)
        assert list(node.held.record((1,))) == [None]
    if isinstance(node.held, records.Record):
        assert node.held["x"] is node.held.x is node.held[0]
    alive = weakref.ref(node)
    del node
    gc.collect()
    assert alive() is None


def test_a_cycle_through_a_query_cache_is_collected(form: str) -> None:
    own = sa.Table("own", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    cache = make_cache(form, 10)
    query = sa.select(own.c.id.label("x")).where(own.c.id.in_([1, 2]))
    for _ in range(3):
        plan, _, _ = cache.prepare(query)
        record = plan.layout(("x",)).record(([],))
    cache.prepare(sa.insert(own), {"id": 1})
    own.info["held"] = [cache, plan, record, query]
    alive = weakref.ref(own), weakref.ref(cache), weakref.ref(query)
    del own, cache, query, plan, record
    gc.collect()
    assert [each() for each in alive] == [None] * 3


def test_a_cycle_through_a_reader_is_collected(form: str) -> None:
    node = Node()
    module, records = load(form, "mysql_rows"), load(form, "records")

    def decode(_: Any, node: Node = node) -> Any:
        return [node]

    decoders = {3: decode}
    reader = module.ResultReader(1, "utf8", True, decoders, KNOWN, records.RecordLayout)
    reader.feed(packets(result([("a", 3, 63)], [row(b"1")])))
    assert reader.rows[0].a == [node]
    node.held = reader
    alive = weakref.ref(node)
    del node, reader, decode, decoders
    gc.collect()
    assert alive() is None


# -- what the collector looks at

HAVE_GC = 1 << 14  # Py_TPFLAGS_HAVE_GC

ATOMIC = [
    *(None, True, 5, 2**80, 1.5, 1j, "x", b"x", decimal.Decimal(1), ...),
    *(datetime.date(2020, 1, 2), datetime.time(1), datetime.datetime(2020, 1, 2)),
    datetime.timedelta(1),
]
CONTAINERS = [[], {}, set(), (1, []), Node(), Node, len, lambda: None, iter([])]


@pytest.mark.parametrize("value", ATOMIC, ids=repr)
def test_records_of_atomic_values_are_not_tracked(
    form: str, records: ModuleType, value: Any
) -> None:
    layout = records.RecordLayout(("a", "b"))
    converted = records.RecordLayout(("a", "b"), [lambda _: value, None])
    for record in (
        layout.record((value, 1)),
        layout.record([1, value]),
        layout.record(Row(1, value)),
        converted.record(([], 1)),
        copy.deepcopy(layout.record((value, 1))),
    ):
        # CPython 3.13 made containers of Decimals.
        contained = bool(type(value).__flags__ & HAVE_GC)
        assert gc.is_tracked(record) is (contained or form == "pure")


@pytest.mark.parametrize("value", CONTAINERS, ids=lambda value: type(value).__name__)
def test_records_of_containers_are_tracked(records: ModuleType, value: Any) -> None:
    layout = records.RecordLayout(("a", "b"))
    converted = records.RecordLayout(("a", "b"), [lambda _: value, None])
    for record in (
        layout.record((1, value)),
        layout.record([value, 1]),
        layout.record(Row(1, value)),
        converted.record((1, 1)),
        layout.record((layout.record((1, 2)), 1)),
    ):
        assert gc.is_tracked(record)
        gc.collect()
        assert gc.is_tracked(record)


# -- half-made objects


def touch(found: Any) -> None:
    """Do with an object of the core whatever can be done."""
    for name in dir(type(found)):
        if name in ("__class__", "__init__", "__init_subclass__", "__subclasshook__"):
            continue
        for arguments in ((), ((),), ("id",), (b"\x01\0\0\x01\0",), (0, 0)):
            try:
                given = getattr(found, name)
                made = given(*arguments) if callable(given) else given
                repr(made)
            except Exception:  # as long as it is no crash
                continue


class Curious:
    """Touch every half-made object of the core at every occasion.

    Attributes:
        seen: The names of the classes that were met.
    """

    def __init__(self, *classes: type) -> None:
        self.seen: set[str] = set()
        self._classes = classes
        self._looks = False

    def look(self, *_: object) -> None:
        if self._looks:  # what it touches may make it look again
            return
        self._looks = True
        for found in gc.get_objects():
            if type(found) in self._classes:
                self.seen.add(type(found).__name__)
                touch(found)
        self._looks = False

    def __bool__(self) -> bool:
        self.look()
        return True

    def __index__(self) -> int:
        self.look()
        return 1

    def __iter__(self) -> Iterator[Any]:
        self.look()
        yield from NAMES

    def word(self, text: str) -> Any:
        """Return a str that looks around when it is compared."""
        look = self.look

        class Word(str):
            __hash__ = str.__hash__

            def __eq__(self, other: object) -> bool:
                look()
                return str.__eq__(self, other)

        return Word(text)


def test_half_made_layouts_and_views_do_no_harm(form: str, records: ModuleType) -> None:
    curious = Curious(records.RecordLayout, records.RecordMapping)
    layout = records.RecordLayout(curious, curious.__iter__(), curious.look)
    assert layout.names == NAMES
    layout = records.RecordLayout(**{curious.word("names"): curious})
    record = layout.record((1, 2, 3))
    view = records.RecordMapping(**{curious.word("record"): record})
    assert dict(view) == dict(record)
    with pytest.raises(TypeError):
        records.RecordMapping(**{curious.word("record"): 5})
    with pytest.raises(TypeError):
        records.RecordLayout(curious, [curious.word("x")], curious, 5)
    assert "RecordLayout" in curious.seen
    assert form == "pure" or "RecordMapping" in curious.seen


def test_half_made_readers_do_no_harm(form: str) -> None:
    module = load(form, "mysql_rows")
    curious = Curious(module.ResultReader)
    data = packets(result(COLUMNS, [row(b"1", b"2", b"3")]))
    for decoders in ({}, {3: curious.look, 4: curious.look}):
        reader = module.ResultReader(1, "utf8", curious, decoders, KNOWN, curious.look, 9)
        with contextlib.suppress(InternalError):  # it may have been fed by then
            assert reader.feed(data) == len(data)
    assert curious.seen == {"ResultReader"}


def test_half_made_caches_and_plans_do_no_harm(form: str) -> None:
    curious = Curious(load(form, "query_cache").QueryCache, load(form, "plans").QueryPlan)
    cache = make_cache(form, 2)
    for number in range(3):
        gc.callbacks.append(curious.look)
        answers(cache, number)
        gc.callbacks.remove(curious.look)
        gc.collect()
    curious.look()
    assert curious.seen == {"QueryCache", "QueryPlan"}


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("records", "RecordLayout"),
        ("records", "RecordMapping"),
        ("query_cache", "QueryCache"),
        ("plans", "QueryPlan"),
    ],
)
def test_objects_that_were_never_initialised_do_no_harm(form: str, module: str, name: str) -> None:
    cls = getattr(load(form, module), name)
    choices: list[tuple[Any, ...]] = [(), ((),), (None,), ({},)]
    for arguments in choices:
        try:
            made = cls.__new__(cls, *arguments)
        except TypeError:
            continue
        touch(made)


def test_nobody_derives_from_record_while_a_class_is_made(records: ModuleType) -> None:
    derived: list[type] = []
    metaclass: Any = type(records.Record)

    def derive(*_: object) -> None:
        with contextlib.suppress(TypeError):
            derived.append(metaclass("Derived", (records.Record,), {}))

    thresholds = gc.get_threshold()
    gc.callbacks.append(derive)
    gc.set_threshold(1, 1, 1)
    for number in range(50):
        records.RecordLayout((f"derived_{number}",))
    gc.set_threshold(*thresholds)
    gc.callbacks.remove(derive)
    assert derived == []


def test_positions_that_were_changed_do_no_harm(records: ModuleType) -> None:
    """Who asks the collector gets hold of the dict that layouts find names by."""
    layout = records.RecordLayout(("changed", "b"))
    record = layout.record((1, 2))
    (positions,) = [
        each
        for each in gc.get_referents(layout)
        if isinstance(each, dict) and each.get("changed") == 0
    ]
    for wrong in (2, -3, 2**40, -(2**40), 2**80, "a", None):
        positions["changed"] = wrong
        for read in (
            record.__getitem__,
            record.get,
            record.__contains__,
            record._mapping.__getitem__,
            record._mapping.get,
            lambda name, record=record: record[Node() if name is None else Named(name)],
            lambda _, record=record: record._asdict(),
        ):
            try:
                found = read("changed")
            except (IndexError, KeyError, TypeError, OverflowError):
                continue
            assert found in (1, 2, None, False)
    positions["changed"] = 0
    assert record["changed"] == 1


class Named:
    """A column of a name."""

    def __init__(self, name: str) -> None:
        self.name = name
