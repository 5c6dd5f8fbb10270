"""Records behave as contract section 4 says, alike in both forms."""

from __future__ import annotations

import contextlib
import copy
import gc
import inspect
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import processors

from fastdb.exceptions import ColumnNotFoundError, Error, InterfaceError
from tests.speedups.conftest import PACKAGES

ODD_NAMES = ("", "__class__", "__dict__", "keys", "_mapping", "a b", "class", "größe", "x", "x")


@pytest.fixture
def record(records: ModuleType) -> Any:
    return records.RecordLayout(("id", "name", "data")).record((1, "one", None))


class Column:
    def __init__(self, name: str, key: str | None = None) -> None:
        self.name = name
        self.key = key or name


class Position:
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


# -- the collector


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("converters", [None, (None, processors.to_float), (None, str.upper)])
def test_making_records_leaves_the_collector_as_it_was(
    records: ModuleType, enabled: bool, converters: Any
) -> None:
    layout = records.RecordLayout(("id", "name"), converters)
    rows = [(number, "1") for number in range(10)]
    if not enabled:
        gc.disable()
    try:
        assert len(layout.records(rows)) == 10
        assert gc.isenabled() is enabled
        with pytest.raises(InterfaceError):
            layout.records([*rows, (1, "2", 3)])
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


# -- reading


def test_values_are_read_by_attribute_name_and_position(record: Any) -> None:
    assert (record.id, record.name, record.data) == (1, "one", None)
    assert (record["id"], record["name"], record["data"]) == (1, "one", None)
    assert [record[position] for position in range(-3, 3)] == [1, "one", None] * 2
    assert record[Position(1)] == record[True] == "one"


def test_slices_are_tuples(record: Any) -> None:
    assert record[1:] == ("one", None)
    assert record[::-1] == (None, "one", 1)
    assert type(record[:]) is tuple


def test_iterating_gives_the_values(record: Any) -> None:
    number, name, data = record
    assert (number, name, data) == (1, "one", None)
    assert list(record) == [1, "one", None]
    assert list(reversed(record)) == [None, "one", 1]
    assert len(record) == 3


def test_in_asks_for_a_column_name(record: Any) -> None:
    assert "id" in record
    assert "one" not in record
    assert 1 not in record
    assert slice(1) not in record
    assert Column("id") in record
    assert Column("other") not in record


def test_it_converts_to_a_dict(record: Any) -> None:
    expected = {"id": 1, "name": "one", "data": None}
    assert dict(record) == {**record} == record._asdict() == expected
    assert list(record.keys()) == ["id", "name", "data"]
    assert list(record.values()) == [1, "one", None]
    assert list(record.items()) == list(expected.items())


def test_get_returns_a_default(record: Any) -> None:
    assert record.get("name") == "one"
    assert record.get("other") is None
    assert record.get("other", 5) == record.get(0, 5) == record.get(Column("other"), 5) == 5
    assert record.get(Column("name")) == "one"


def test_it_is_a_sequence_but_neither_tuple_nor_dict(records: ModuleType, record: Any) -> None:
    assert isinstance(record, Sequence)
    assert isinstance(record, records.Record)
    assert not isinstance(record, (tuple, dict, Mapping))
    match record:
        case [number, "one", _]:
            assert number == 1
        case _:
            pytest.fail("a record matches no sequence pattern")


def test_its_own_names_are_few(records: ModuleType) -> None:
    own = {name for name in dir(records.Record) if not name.startswith("__")}
    assert own == {"keys", "values", "items", "get", "_mapping", "_asdict"}
    record = records.RecordLayout(("count", "index", "_id")).record((1, 2, 3))
    assert (record.count, record.index, record._id) == (1, 2, 3)


def test_the_class_is_called_record(record: Any) -> None:
    assert type(record).__name__ == type(record).__qualname__ == "Record"
    assert type(record).__module__ == "fastdb"
    assert not hasattr(record, "__dict__")


def test_repr_shows_names_and_values(records: ModuleType, record: Any) -> None:
    assert repr(record) == "<Record id=1 name='one' data=None>"
    assert repr(records.RecordLayout(()).record(())) == "<Record>"
    assert repr(records.RecordLayout(("a b", "")).record((1, 2))) == "<Record 'a b'=1 ''=2>"


def test_repr_of_a_record_that_holds_itself(records: ModuleType) -> None:
    inner: list[Any] = []
    record = records.RecordLayout(("x",)).record((inner,))
    inner.append(record)
    assert repr(record) == "<Record x=[<Record ...>]>"


# -- names


def test_odd_names_are_read_by_name_and_position(records: ModuleType) -> None:
    record = records.RecordLayout(ODD_NAMES).record(range(len(ODD_NAMES)))
    assert list(record) == list(range(len(ODD_NAMES)))
    for position, name in enumerate(ODD_NAMES):
        assert record[position] == position
        assert record[name] == ODD_NAMES.index(name)
    assert getattr(record, "class") == 6
    assert record.größe == 7
    assert record.x == 8
    assert record.__class__ is type(record)
    assert callable(record.keys)
    assert record._mapping["_mapping"] == 4
    assert list(record.keys()) == list(record._mapping.keys()) == list(ODD_NAMES)
    assert record._asdict() == {name: record[name] for name in ODD_NAMES}


def test_repeated_names(records: ModuleType) -> None:
    record = records.RecordLayout(("id", "id")).record((1, 2))
    assert record.id == record["id"] == record._mapping["id"] == 1
    assert record[1] == 2
    assert list(record._mapping.keys()) == ["id", "id"]
    assert list(record._mapping.values()) == [1, 2]
    assert list(record.items()) == [("id", 1), ("id", 2)]
    assert dict(record) == {"id": 1}
    assert len(record) == len(record._mapping) == 2


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_any_number_of_columns(records: ModuleType, size: int) -> None:
    layout = records.RecordLayout(tuple(f"column_{number}" for number in range(size)))
    row = tuple(range(size))
    record = layout.record(row)
    assert tuple(record) == row
    assert len(record) == size
    assert hash(record) == hash(row)
    assert [getattr(record, name) for name in layout.names[-3:]] == list(row[-3:])
    with pytest.raises(KeyError, match="has no column 'x'"):
        record["x"]
    assert pickle.loads(pickle.dumps(record)) == row


def test_names_are_plain_strings(records: ModuleType) -> None:
    class Quoted(str):
        def __str__(self) -> str:
            return "other"

    layout = records.RecordLayout([Quoted("x")])
    assert layout.names == ("x",)
    assert type(layout.names[0]) is str
    assert layout.record((1,))[Quoted("x")] == 1


def test_surrogates_in_names(records: ModuleType) -> None:
    record = records.RecordLayout(("\ud800", "\0", "a\0")).record((1, 2, 3))
    assert (record["\ud800"], record["\0"], record["a\0"]) == (1, 2, 3)


def test_slots_by_other_names_are_columns(records: ModuleType) -> None:
    names = ("_values", "_layout", "_class_0", "_positions")
    assert list(records.RecordLayout(names).record((1, 2, 3, 4)).values()) == [1, 2, 3, 4]
    record = records.RecordLayout(names).record((1, 2, 3, 4))
    assert (record._values, record._layout, record._positions) == (1, 2, 4)


def test_layouts_of_the_same_names_share_a_class(records: ModuleType) -> None:
    one, other = records.RecordLayout(("a", "b")), records.RecordLayout(("a", "b"), [str, None])
    assert one.record_class is other.record_class is type(other.record((1, 2)))
    assert one.record_class is not records.RecordLayout(("b", "a")).record_class


def test_classes_are_bounded_and_collected(records: ModuleType) -> None:
    layout = records.RecordLayout(("the", "first"))
    record_class = weakref.ref(layout.record_class)
    record = layout.record((1, 2))
    for number in range(1100):
        records.RecordLayout((f"column_{number}",))
    gc.collect()
    assert record_class() is type(record)  # evicted, but still in use
    del layout, record
    gc.collect()
    assert record_class() is None


# -- columns of expressions


def test_columns_resolve_other_keys(records: ModuleType) -> None:
    first, second = object(), object()
    layout = records.RecordLayout(("id", "id"), None, {first: 0, second: 1}.get)
    record = layout.record((1, 2))
    assert record[first] == record._mapping[first] == record.get(first) == 1
    assert record[second] == record._mapping.get(second) == 2
    assert second in record
    assert second in record._mapping
    assert object() not in record
    with pytest.raises(ColumnNotFoundError, match="has no column <object"):
        record[object()]
    with pytest.raises(ColumnNotFoundError, match="has no column <object"):
        record._mapping[object()]


def test_columns_are_asked_for_nothing_else(records: ModuleType) -> None:
    asked: list[Any] = []
    record = records.RecordLayout(("a",), columns=asked.append).record((1,))
    assert (record["a"], record[0], record[:]) == (1, 1, (1,))
    assert 0 not in record
    assert 0 not in record._mapping
    assert "b" not in record
    assert asked == []


@pytest.mark.parametrize("position", [2, -1, 10**30])
def test_a_wrong_position_of_a_column_is_an_error(records: ModuleType, position: int) -> None:
    record = records.RecordLayout(("a", "b"), columns=lambda key: position).record((1, 2))
    with pytest.raises((IndexError, OverflowError)):
        record[None]


def test_a_position_of_another_type_is_an_error(records: ModuleType) -> None:
    layout = records.RecordLayout(("a",), columns=lambda key: "a")
    with pytest.raises(TypeError):
        layout.record((1,))[None]


def test_without_columns_the_name_then_the_key_is_looked_up(records: ModuleType) -> None:
    record = records.RecordLayout(("id", "label")).record((1, 2))
    assert record[Column("id", "label")] == 1
    assert record[Column("other", "label")] == 2
    assert record[SimpleNamespace(key="label")] == 2
    with pytest.raises(ColumnNotFoundError):
        record[SimpleNamespace(name=5, key=None)]


def test_errors_of_columns_pass_unchanged(records: ModuleType) -> None:
    def fail(key: object) -> int:
        raise ZeroDivisionError

    record = records.RecordLayout(("a",), columns=fail).record((1,))
    for read in (record.__getitem__, record.__contains__, record.get, record._mapping.get):
        with pytest.raises(ZeroDivisionError):
            read(None)


# -- the mapping view


def test_mapping_view(record: Any) -> None:
    view = record._mapping
    assert isinstance(view, Mapping)
    assert list(view) == list(view.keys()) == ["id", "name", "data"]
    assert list(view.values()) == [1, "one", None]
    assert list(view.items()) == [("id", 1), ("name", "one"), ("data", None)]
    assert view["name"] == view[Column("name")] == view.get("name") == "one"
    assert view.get("other", 5) == 5
    assert "name" in view
    assert "one" not in view
    assert len(view) == 3
    assert dict(view) == {**view} == dict(record)
    assert repr(view) == "<RecordMapping {'id': 1, 'name': 'one', 'data': None}>"


def test_mapping_view_equals_mappings(records: ModuleType, record: Any) -> None:
    view = record._mapping
    assert view == {"name": "one", "id": 1, "data": None}
    assert view == record._mapping
    assert view != {"id": 1}
    assert view != [("id", 1)]
    repeated = records.RecordLayout(("id", "id")).record((1, 2))._mapping
    assert repeated != {"id": 1}
    assert repeated != {"id": 2}
    assert repeated == repeated
    with pytest.raises(TypeError):
        hash(view)


def test_mapping_view_has_no_positions(record: Any) -> None:
    for key in (0, -1, slice(None), None):
        with pytest.raises(ColumnNotFoundError):
            record._mapping[key]


def test_mapping_view_matches_mapping_patterns(record: Any) -> None:
    match record._mapping:
        case {"id": number, **rest}:
            assert (number, rest) == (1, {"name": "one", "data": None})
        case _:
            pytest.fail("a mapping view matches no mapping pattern")


def test_mapping_view_copies_and_pickles(records: ModuleType, record: Any) -> None:
    assert copy.copy(record._mapping) == copy.deepcopy(record._mapping) == record._mapping
    with pytest.raises(TypeError):
        records.RecordMapping({"id": 1})
    with pytest.raises(TypeError):
        records.RecordMapping()
    with pytest.raises(TypeError):
        records.RecordMapping.__new__(records.RecordMapping)
    with pytest.raises(AttributeError):
        record._mapping.other = 1
    with pytest.raises(TypeError):
        record._mapping["id"] = 1


# -- equality, hash, order


def test_equality_hash_and_order_are_those_of_the_values(records: ModuleType) -> None:
    layout, other = records.RecordLayout(("a", "b")), records.RecordLayout(("x", "y"))
    record = layout.record((1, 2))
    assert record == layout.record((1, 2)) == other.record((1, 2)) == (1, 2)
    assert (1, 2) == record  # noqa: SIM300
    assert record != (1, 3)
    assert record != [1, 2]
    assert record != {"a": 1, "b": 2}
    assert hash(record) == hash((1, 2))
    assert {record: 1}[(1, 2)] == 1
    assert record < layout.record((1, 3)) < (2,)
    assert record <= (1, 2) <= record
    assert record > (1,)
    assert record >= layout.record((0, 5))
    assert sorted([layout.record((2, 1)), record])[0] is record
    with pytest.raises(TypeError, match="not supported between instances"):
        record < [1]  # noqa: B015
    with pytest.raises(TypeError, match="unhashable"):
        hash(layout.record((1, [])))


# -- errors


def test_missing_names_are_errors_that_name_the_columns(records: ModuleType, record: Any) -> None:
    with pytest.raises(ColumnNotFoundError) as caught:
        record["nope"]
    assert isinstance(caught.value, KeyError)
    assert str(caught.value) == "the record has no column 'nope'; it has 'id', 'name', 'data'"
    for key in (None, 1.5, Column("nope")):
        with pytest.raises(ColumnNotFoundError, match="it has 'id', 'name', 'data'"):
            record[key]
    with pytest.raises(AttributeError):
        record.nope  # noqa: B018
    assert getattr(record, "nope", 5) == 5
    empty = records.RecordLayout(()).record(())
    with pytest.raises(KeyError, match="it has no columns"):
        empty["x"]
    many = records.RecordLayout([f"c{number}" for number in range(60)]).record(range(60))
    with pytest.raises(KeyError, match=r"'c49' and 10 more$"):
        many["x"]


@pytest.mark.parametrize("position", [3, -4, 10**30, -(10**30), Position(3), Position(10**30)])
def test_missing_positions_are_index_errors(record: Any, position: Any) -> None:
    with pytest.raises(IndexError, match="is out of range; the number of columns is 3"):
        record[position]


@pytest.mark.parametrize("row", [(), (1,), (1, 2, 3), [1], range(5)])
def test_a_row_of_another_length_is_an_error(records: ModuleType, row: Any) -> None:
    layout = records.RecordLayout(("a", "b"))
    message = f"number of values in the row is {len(row)}; the number of columns is 2"
    with pytest.raises(InterfaceError, match=message):
        layout.record(row)
    with pytest.raises(InterfaceError, match=message):
        layout.records([(1, 2), row])


@pytest.mark.parametrize("row", [5, None, {"a": 1}, {1}, iter([1])])
def test_a_row_that_is_no_sequence_is_an_error(records: ModuleType, row: Any) -> None:
    layout = records.RecordLayout(("a",))
    with pytest.raises(TypeError, match=f"must be a sequence, not {type(row).__name__}"):
        layout.record(row)


def test_wrong_layouts_are_errors(records: ModuleType) -> None:
    with pytest.raises(TypeError, match="the name of a column must be a str, not int"):
        records.RecordLayout(("a", 1))
    with pytest.raises(ValueError, match="converters is 1; the number of columns is 2"):
        records.RecordLayout(("a", "b"), [str])
    with pytest.raises(TypeError):
        records.RecordLayout()
    with pytest.raises(TypeError):
        records.RecordLayout.__new__(records.RecordLayout)


# -- rows and converters


class Row:
    """A sequence in Python, such as a driver's own row."""

    def __init__(self, *values: Any) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, position: int) -> Any:
        value = self._values[position]
        if isinstance(value, Exception):
            raise value
        return value


@pytest.mark.parametrize("make", [tuple, list, lambda row: Row(*row), lambda row: range(1, 3)])
def test_rows_of_any_sequence(records: ModuleType, make: Callable[[Any], Any]) -> None:
    layout = records.RecordLayout(("a", "b"))
    assert layout.record(make((1, 2))) == (1, 2)
    made = layout.records(make((1, 2)) for _ in range(3))
    assert type(made) is list
    assert made == [(1, 2)] * 3
    assert layout.records([]) == []


def test_errors_of_a_row_pass_unchanged(records: ModuleType) -> None:
    layout = records.RecordLayout(("a", "b"))
    error = ZeroDivisionError()
    for wrong in (Row([], error), Row(error, 1)):
        with pytest.raises(ZeroDivisionError) as caught:
            layout.record(wrong)
        assert caught.value is error


WRITTEN = st.text("0123456789-: T.Z+é", max_size=27) | st.from_regex(
    r"(\d{4}-\d{2}-\d{2})?[ T]?(\d\d:\d\d:\d\d)?(\.\d{1,6})?(\+01:00|Z)?", fullmatch=True
)
ODD_CELLS = (
    st.none()
    | st.integers()
    | st.booleans()
    | st.floats(allow_nan=False)
    | WRITTEN
    | st.datetimes().map(str)
    | st.dates().map(str)
    | st.times().map(str)
    | st.binary(max_size=3)
    | st.decimals(allow_nan=False)
    | st.lists(st.integers(), max_size=1)
)


class Whole(int):
    def __bool__(self) -> bool:
        return not int(self)


class Word(str):
    pass


SAMPLES: list[Any] = [
    *(0, 1, -1, 2**70, True, False, Whole(0), Whole(1), 1.5, float("inf"), "", None),
    *("2020-02-29", "2021-02-29", "2020-02-30", "2020-04-31", "2020-12-31", "2020-00-10"),
    *("0000-01-01", "0001-01-01", "9999-12-31", "2020-13-01", "2020-01-00", "2020-1-1", "20200101"),
    *("2020-01-02 03:04:05", "2020-01-02T03:04:05", "2020-01-02 03:04:05.678901"),
    *("2020-01-02 24:00:00", "2020-01-02 03:60:05", "2020-01-02 03:04:60", "2020-01-02 03:04"),
    *("2020-01-02 03:04:05.678", "2020-01-02 03:04:05,678901", "2020-01-02 03:04:05+01:00"),
    *("2020-01-02 03:04:05.67890x", "2020-01-02x03:04:05", "2020-01-02 03:04:05.-12345"),
    *("03:04:05", "03:04:05.678901", "23:59:59", "24:00:00", "03:04", "03:04:05Z", "é3:04:05"),
    *(Word("2020-01-02"), Word("2020-01-02 03:04:05"), Word("03:04:05"), b"2020-01-02"),
]
CONVERTERS = ["int_to_boolean", "to_float", "str_to_datetime", "str_to_date", "str_to_time"]


def compare(records: ModuleType, name: str, value: Any) -> None:
    """Compare what a layout makes of a value with what SQLAlchemy's converter makes of it."""

    def answer(function: Callable[[], Any]) -> tuple[type, str]:
        try:
            found = function()
        except Exception as exc:
            return type(exc), str(exc)
        return type(found), repr(found)

    converter = getattr(processors, name)
    layout = records.RecordLayout(("x",), [converter])
    assert answer(lambda: layout.record((value,))[0]) == answer(lambda: converter(value))


@pytest.mark.parametrize("name", CONVERTERS)
def test_sqlalchemys_converters_give_what_they_give(records: ModuleType, name: str) -> None:
    for value in SAMPLES:
        compare(records, name, value)


@pytest.mark.parametrize("name", CONVERTERS)
def test_sqlalchemys_converters_and_any_value(records: ModuleType, name: str) -> None:
    @settings(max_examples=200, deadline=None)
    @given(ODD_CELLS)
    def check(value: Any) -> None:
        compare(records, name, value)

    check()


def test_a_layout_for_other_columns_differs_in_nothing_else(records: ModuleType) -> None:
    layout = records.RecordLayout(("a", "b"), [None, str], {"one": 0}.get)
    other = layout.for_columns({Column("x"): 1}.get)
    column = Column("y")
    third = other.for_columns({column: 1}.get)
    assert third.names == ("a", "b")
    assert third.record_class is layout.record_class
    record = third.record((1, 2))
    assert record == (1, "2")
    assert record[column] == "2"
    with pytest.raises(KeyError):
        layout.record((1, 2))[column]
    plain = records.RecordLayout(("a",)).for_columns(None)
    assert plain.record((1,))[Column("a")] == 1


def test_converters_run_once_for_each_value(records: ModuleType) -> None:
    seen: list[Any] = []

    def convert(value: Any) -> Any:
        seen.append(value)
        return [value]

    layout = records.RecordLayout(("a", "b", "c"), (None, convert, str))
    made = layout.records([(1, 2, 3), [4, None, 6], Row(7, 8, 9)])
    assert [tuple(record) for record in made] == [(1, [2], "3"), (4, [None], "6"), (7, [8], "9")]
    assert [record.b is record[1] is record["b"] for record in made] == [True] * 3
    assert seen == [2, None, 8]


def test_a_converter_that_changes_its_row_does_no_harm(records: ModuleType) -> None:
    row = [1, [2], [3]]

    def clear(value: Any) -> Any:
        row.clear()
        return value

    assert records.RecordLayout(("a", "b", "c"), [clear] * 3).record(row) == (1, [2], [3])


def test_a_converter_that_raises_leaks_nothing(records: ModuleType) -> None:
    class Value:
        pass

    error = ValueError("from the user's code")

    def fail(value: Any) -> Any:
        raise error

    layout = records.RecordLayout(("a", "b", "c"), (None, fail, None))
    values = [Value(), Value(), Value()]
    alive = [weakref.ref(value) for value in values]
    for row in (tuple(values), values, Row(*values)):
        before = sys.getrefcount(layout)
        for _ in range(20):
            with pytest.raises(ValueError, match="user's code") as caught:
                layout.records([row])
            assert caught.value is error
        del caught
        error.__traceback__ = None
        assert sys.getrefcount(layout) == before
    del row
    values.clear()
    gc.collect()
    assert [reference() for reference in alive] == [None] * 3


def test_records_release_their_values(records: ModuleType) -> None:
    class Value:
        pass

    layout = records.RecordLayout(("a", "b"), [lambda value: [value], None])
    layout.record((1, 2))  # of another class from now on
    before = sys.getrefcount(layout), sys.getrefcount(layout.record_class)
    value = Value()
    alive = weakref.ref(value)
    made = layout.records([(value, 1)] * 10)
    text = (repr(made), hash(made[0][1:]), made[0] == made[1], dict(made[0]), made[0]._mapping)
    del value, made, text
    assert alive() is None
    assert (sys.getrefcount(layout), sys.getrefcount(layout.record_class)) == before


def test_a_cycle_through_a_record_is_collected(records: ModuleType) -> None:
    class Node:
        record: Any

    node = Node()
    node.record = records.RecordLayout(("node",)).record((node,))
    alive = weakref.ref(node)
    del node
    gc.collect()
    assert alive() is None


def test_records_of_atomic_values_are_not_tracked(form: str, records: ModuleType) -> None:
    layout = records.RecordLayout(("a", "b"))
    assert gc.is_tracked(layout.record((1, "x"))) is (form == "pure")
    assert gc.is_tracked(layout.record((1, [])))
    assert gc.is_tracked(records.RecordLayout(("a",), [lambda value: [value]]).record((1,)))


def test_records_of_atomic_values_and_of_containers_are_alike(records: ModuleType) -> None:
    names = ("held", "apart")
    layout, other = records.RecordLayout(names), records.RecordLayout(names, [None, lambda _: []])
    atomic = layout.record((1, "x"))
    held = layout.record(([1], "x"))
    converted = other.record((1, "x"))
    later = layout.record((1, "x"))
    assert type(later) is type(held) is type(converted) is layout.record_class
    assert atomic == later == (1, "x")
    assert hash(atomic) == hash(later)
    assert (atomic.held, held.held, converted.apart, later["apart"]) == (1, [1], [], "x")
    assert repr(atomic) == repr(later) == "<Record held=1 apart='x'>"
    assert isinstance(atomic, records.Record)
    assert pickle.dumps(atomic) == pickle.dumps(later)
    assert layout.records([(1, "x"), ([2], None)]) == [(1, "x"), ([2], None)]
    for each in (atomic, held, later):
        with pytest.raises(AttributeError, match="read-only"):
            each.held = 2


def test_records_in_records_are_freed_without_recursion(records: ModuleType) -> None:
    layout = records.RecordLayout(("inner",))
    record = layout.record((None,))
    for _ in range(200_000):
        record = layout.record((record,))
    del record
    gc.collect()


# -- nobody writes to a record


def assaults(record: Any) -> dict[str, Callable[[], object]]:
    """Return ways to write to a record, by name."""
    cls = type(record)
    found: dict[str, Callable[[], object]] = {
        "setattr": lambda: setattr(record, "id", 5),
        "setattr of a new name": lambda: setattr(record, "other", 5),
        "delattr": lambda: delattr(record, "id"),
        "object.__setattr__": lambda: object.__setattr__(record, "id", 5),
        "object.__delattr__": lambda: object.__delattr__(record, "id"),
        "object.__setattr__ of a new name": lambda: object.__setattr__(record, "other", 5),
        "setitem": lambda: record.__setitem__("id", 5),
        "delitem": lambda: record.__delitem__(0),
        "__init__": lambda: record.__init__((5, 6, 7)),
        "__setstate__": lambda: record.__setstate__({"id": 5}),
        "setattr of the class": lambda: setattr(cls, "id", 5),
        "delattr of the class": lambda: delattr(cls, "id"),
        "setattr of the base": lambda: setattr(cls.__mro__[1], "get", None),
        "delattr of the base": lambda: delattr(cls.__mro__[1], "get"),
    }
    for owner in cls.__mro__:
        for name, descriptor in vars(owner).items():
            for method, arguments in (("__set__", (record, 5)), ("__delete__", (record,))):
                if hasattr(descriptor, method):
                    bound = getattr(descriptor, method)
                    found[f"{name}.{method}"] = lambda b=bound, a=arguments: b(*a)  # type: ignore[misc]
    return found


def test_no_way_to_write_to_a_record(record: Any) -> None:
    ways = assaults(record)
    assert "id.__set__" in ways
    assert "__class__.__set__" in ways
    for name, way in ways.items():
        if name == "__init__":  # object's; it does nothing
            with contextlib.suppress(TypeError):
                way()
        else:
            with pytest.raises((AttributeError, TypeError)):
                way()
        assert tuple(record) == (1, "one", None), name
        assert (record.id, record["name"], record[2]) == (1, "one", None), name


def test_messages_of_writing(record: Any) -> None:
    with pytest.raises(AttributeError, match=r"^a record is read-only; cannot set 'id'$"):
        record.id = 5
    with pytest.raises(AttributeError, match=r"^a record is read-only; cannot delete 'id'$"):
        del record.id


def test_its_class_cannot_be_exchanged(records: ModuleType) -> None:
    record = records.RecordLayout(("a", "b")).record((1, 2))
    for names in (("b", "a"), ("c", "d"), ("a", "b", "c")):
        other = records.RecordLayout(names).record_class
        with pytest.raises((AttributeError, TypeError)):
            record.__class__ = other
        with pytest.raises((AttributeError, TypeError)):
            object.__setattr__(record, "__class__", other)
        with pytest.raises((AttributeError, TypeError)):
            vars(object)["__class__"].__set__(record, other)
        with pytest.raises((AttributeError, TypeError)):
            vars(object)["__class__"].__set__(SimpleNamespace(), other)
    assert record.b == 2


def test_its_classes_make_no_instances(records: ModuleType, record: Any) -> None:
    for cls in (type(record), records.Record):
        for arguments in ((), ((1, 2, 3),), (cls,)):
            with pytest.raises(TypeError, match="made by a RecordLayout"):
                cls(*arguments)
            with pytest.raises(TypeError, match="made by a RecordLayout"):
                cls.__new__(cls, *arguments)
        with pytest.raises((TypeError, AttributeError)):
            len(object.__new__(cls))
        for base in (tuple, int, Exception):
            with pytest.raises(TypeError):
                base.__new__(cls)


def test_it_has_no_subclasses(records: ModuleType, record: Any) -> None:
    class Swallow:
        def __init_subclass__(cls) -> None:
            pass

    for cls in (type(record), records.Record):
        for bases in ((cls,), (Swallow, cls), (cls, Swallow), (dict, cls)):
            with pytest.raises(TypeError, match="is not an acceptable base type"):
                type(records.Record)("Derived", bases, {})
    for cls in (records.RecordLayout, records.RecordMapping):
        with pytest.raises(TypeError, match="is not an acceptable base type"):
            type("Derived", (cls,), {})


def test_a_layout_does_not_change(records: ModuleType) -> None:
    layout = records.RecordLayout(("a",))
    for name in ("names", "record_class"):
        with pytest.raises(AttributeError):
            setattr(layout, name, ("b", "c"))
        with pytest.raises(AttributeError):
            delattr(layout, name)
    with contextlib.suppress(TypeError):  # object's; it does nothing
        layout.__init__(("b", "c"))
    assert layout.names == ("a",)
    assert layout.record((1,)).a == 1
    assert repr(layout) == "<RecordLayout ('a',)>"


# -- copies and pickles


def test_copies(records: ModuleType) -> None:
    column = object()
    layout = records.RecordLayout(("a", "b"), [lambda value: [*value, 0], None], {column: 0}.get)
    record = layout.record(([1], 2))
    assert copy.copy(record) is record
    copied = copy.deepcopy(record)
    assert copied == record
    assert copied is not record
    assert copied.a is not record.a
    assert copied[column] == [1, 0]
    assert type(copied) is type(record)
    atomic = records.RecordLayout(("a",)).record(("x",))
    assert copy.deepcopy(atomic) is atomic


def test_deep_copies_of_cycles(records: ModuleType) -> None:
    inner: list[Any] = []
    record = records.RecordLayout(("inner",)).record((inner,))
    inner.append(record)
    copied = copy.deepcopy(record)
    assert copied is not record
    assert copied.inner is not inner
    assert copied.inner[0] is copied


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_hold_names_and_values(records: ModuleType, protocol: int) -> None:
    layout = records.RecordLayout(("a", "a b", "a"), [str, None, None], lambda key: 0)
    record = layout.record((1, None, [2]))
    copied = pickle.loads(pickle.dumps(record, protocol))
    assert tuple(copied) == ("1", None, [2])
    assert list(copied.items()) == [("a", "1"), ("a b", None), ("a", [2])]
    assert copied.a == copied["a"] == "1"


def test_pickles_are_read_by_either_form(
    both_records: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    names, values = ("a", "keys"), (1, "x")
    for writer in both_records:
        text = pickle.dumps(writer.RecordLayout(names).record(values))
        assert b"_fallback" not in text
        for reader in both_records:
            monkeypatch.setattr("fastdb._speedups.RecordLayout", reader.RecordLayout)
            record = pickle.loads(text)
            assert isinstance(record, reader.Record)
            assert list(record.items()) == [("a", 1), ("keys", "x")]


@pytest.mark.parametrize(
    ("names", "values"), [(("a",), (1, 2)), ((1,), (1,)), (5, (1,)), (("a",), None), (("a",), {})]
)
def test_forged_pickles_are_errors(record: Any, names: Any, values: Any) -> None:
    restore, _ = record.__reduce__()
    with pytest.raises((Error, TypeError)):
        restore(names, values)


# -- both forms alike


PAIRED = ("Record", "RecordLayout", "RecordMapping")


def public(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if not name.startswith("__")}


@pytest.mark.parametrize("name", PAIRED)
def test_both_forms_have_one_surface(
    both_records: tuple[ModuleType, ModuleType], name: str
) -> None:
    compiled, pure = (getattr(module, name) for module in both_records)
    assert inspect.getdoc(compiled) == inspect.getdoc(pure)
    private = {"_columns", "_converters", "_names", "_positions", "_record_class", "_record"}
    hidden = private | {"_make", "_resolve"}
    assert set(public(compiled)) - hidden == set(public(pure)) - hidden
    for attribute, value in public(pure).items():
        if callable(value) and attribute not in hidden:
            other = getattr(compiled, attribute)
            assert inspect.getdoc(other) == inspect.getdoc(value), attribute
            parameters = [
                # `self` is positional-only in C.
                [(p.name, p.kind, p.default) for p in list(signature.parameters.values())[1:]]
                for signature in map(inspect.signature, (other, value))
            ]
            assert parameters[0] == parameters[1], attribute


VALUES = st.one_of(
    st.none(), st.integers(), st.text(max_size=5), st.binary(max_size=3), st.lists(st.integers())
)
NAMES = st.one_of(
    st.text(max_size=5),
    st.sampled_from([*ODD_NAMES, "get", "values", "__init__", "__slots__", "_asdict", "a", "b"]),
)


def observe(action: Callable[..., Any], *arguments: Any) -> Any:
    """Return what an action gives, comparable between the forms."""
    try:
        result = action(*arguments)
    except Exception as error:
        return type(error), str(error)
    return tuple(result) if isinstance(result, Sequence) and not isinstance(result, str) else result


@settings(deadline=None)
@given(data=st.data())
def test_both_forms_behave_alike(
    both_records: tuple[ModuleType, ModuleType], data: st.DataObject
) -> None:
    names = tuple(data.draw(st.lists(NAMES, max_size=6)))
    row = tuple(data.draw(st.lists(VALUES, min_size=len(names), max_size=len(names))))
    choices = st.sampled_from([None, str, bool, itemgetter(0)])
    converters = data.draw(st.none() | st.lists(choices, min_size=len(names), max_size=len(names)))
    keys = data.draw(
        st.lists(NAMES | st.integers(-8, 8) | st.slices(6) | st.none(), min_size=1, max_size=5)
    )
    seen = []
    for module in both_records:
        layout = module.RecordLayout(names, converters)
        made = observe(layout.record, row)
        if made and isinstance(made[0], type):
            seen.append([made])
            continue
        record = layout.record(row)
        results: list[Any] = [
            made,
            layout.names,
            repr(record),
            observe(hash, record),
            list(record.keys()),
            list(record.values()),
            list(record.items()),
            record._asdict(),
            dict(record),
            repr(record._mapping),
            [name for name in dir(record) if not name.startswith("__")],
            record == row,
            record._mapping == dict(zip(names, row, strict=True)),
            pickle.loads(pickle.dumps(record)) == tuple(record),
        ]
        for key in keys:
            results += [
                observe(record.__getitem__, key),
                observe(record._mapping.__getitem__, key),
                observe(record.get, key, "none"),
                observe(record.__contains__, key),
            ]
            if isinstance(key, str) and not key.startswith("__") and "\0" not in key:
                value = getattr(record, key, "none")
                results.append("method" if callable(value) else observe(list, value))
        seen.append(results)
    assert seen[0] == seen[1]


def test_converters_of_a_program_without_sqlalchemy(form: str) -> None:
    code = f"""
import sys
from {PACKAGES[form]}.records import RecordLayout
record = RecordLayout(("a", "b"), (str, None)).record((5, 6))
assert (record.a, record.b) == ("5", 6)
assert "sqlalchemy" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
