"""No Python code writes to a record or crashes through the core, whatever it calls on what."""

from __future__ import annotations

import copyreg
import gc
import operator
import pickle
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = ("id", "name", "data")


@pytest.fixture
def record(records: ModuleType) -> Any:
    return records.RecordLayout(NAMES).record((1, "one", None))


# -- pickles and copies that somebody forged

REDUCED_BY: list[Any] = [*range(-2, 8), 10**30, None, True, "2", 2.5, object, (), [2]]


@pytest.mark.parametrize("protocol", REDUCED_BY, ids=repr)
def test_reducing_gives_names_and_values_or_an_error(record: Any, protocol: Any) -> None:
    for reduce in (record.__reduce_ex__, lambda each: object.__reduce_ex__(record, each)):
        try:
            reduced: Any = reduce(protocol)
        except (TypeError, OverflowError):
            continue
        assert reduced[0].__name__ == "restore_record"
        assert reduced[1] == (NAMES, (1, "one", None))


FORGERIES: dict[str, Callable[[Any], Any]] = {
    "object.__new__": lambda cls: object.__new__(cls),
    "tuple.__new__": lambda cls: tuple.__new__(cls, (1, 2, 3)),
    "base.__new__": lambda cls: cls.__base__.__new__(cls),
    "base.__new__ of the base": lambda cls: cls.__base__.__new__(cls.__base__),
    "object.__new__ of the base": lambda cls: object.__new__(cls.__base__),
    "__newobj__": lambda cls: copyreg.__newobj__(cls, 1, 2),  # type: ignore[attr-defined]
    "__newobj_ex__": lambda cls: copyreg.__newobj_ex__(cls, (1,), {"a": 1}),  # type: ignore[attr-defined]
    "_reconstructor": lambda cls: copyreg._reconstructor(cls, object, None),  # type: ignore[attr-defined]
    "_reconstructor of a tuple": lambda cls: copyreg._reconstructor(cls, tuple, (1, 2, 3)),  # type: ignore[attr-defined]
    "type.__call__": lambda cls: type.__call__(cls, (1, 2, 3)),
    "type.__call__ of the base": lambda cls: type.__call__(cls.__base__),
    "a class statement": lambda cls: type("Derived", (cls,), {})(),
    "a class of a slot": lambda cls: type("Derived", (cls.__base__,), {"__slots__": ("x",)}),
    "another class's": lambda cls: setattr(type("Plain", (), {})(), "__class__", cls),
    "its bases": lambda cls: setattr(type("Plain", (), {}), "__bases__", (cls,)),
    "a metaclass's": lambda cls: type(cls).__new__(type(cls), "Derived", (cls,), {}),
    "a weak reference": lambda cls: weakref.ref(cls)().__new__(cls),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_records_are_not_made_by_hand(form: str, record: Any, name: str) -> None:
    cls = type(record)
    try:
        made = FORGERIES[name](cls)
    except (TypeError, AttributeError):
        return
    # object.__new__() cannot be refused in Python: what it gives has neither values nor names.
    assert form == "pure"
    for read in (len, list, repr, hash, operator.itemgetter(0), operator.attrgetter("id")):
        with pytest.raises(AttributeError):
            read(made)


def written(value: Any) -> bytes:
    """Return what a pickle writes for a value, without its frame and end."""
    return pickle.dumps(value, 0)[:-1]


@pytest.mark.parametrize(
    "state", [{"id": 5}, {"_layout": None}, {}, (None, {"id": 5}), (None, {"_values": ()}), 5, [1]]
)
def test_a_forged_pickle_cannot_set_the_state(record: Any, state: Any) -> None:
    text = written(record) + written(state) + b"b."
    try:
        made = pickle.loads(text)
    except (AttributeError, TypeError, ValueError, pickle.UnpicklingError):
        return
    assert not state  # nothing to set
    assert tuple(made) == (1, "one", None)


@pytest.mark.parametrize("arguments", ["()", "((1, 2),)"])
def test_a_forged_pickle_cannot_make_an_empty_record(
    form: str, records: ModuleType, arguments: str
) -> None:
    cls = f"c{records.__name__}\nRecord\n".encode()
    for opcode in (b"\x81.", b"R."):
        with pytest.raises(TypeError, match="made by a RecordLayout"):
            pickle.loads(cls + written(eval(arguments)) + opcode)


def test_descriptors_of_one_class_read_no_other(form: str, records: ModuleType) -> None:
    one = records.RecordLayout(("a", "b", "c")).record((1, 2, 3))
    other = records.RecordLayout(("c",)).record((4,))
    for owner in type(one).__mro__:
        for name, descriptor in vars(owner).items():
            for target in (other, 5, None, "x", object(), records.Record, type(other)):
                for method in ("__get__", "__set__", "__delete__", "__call__"):
                    call = getattr(descriptor, method, None)
                    for arguments in ((target,), (target, None), (target, type(target))):
                        if call is None or name in ("__class__", "__doc__"):
                            continue
                        try:
                            found = call(*arguments)
                        except Exception:  # as long as it is no crash
                            continue
                        # Those of the pure form are properties, which know positions only.
                        if form == "compiled" and owner is type(one):
                            assert found not in (1, 2, 3, 4), name
    assert (tuple(one), tuple(other)) == ((1, 2, 3), (4,))


# -- any method of any object of the core, with any other as its arguments


class Awkward:
    """Raise an error, or answer nonsense, whatever is asked."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def _tell(self, *_: object) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    __eq__ = __lt__ = __gt__ = __call__ = __getitem__ = __index__ = __len__ = _tell
    __iter__ = __contains__ = __bool__ = __repr__ = __str__ = __reduce__ = _tell

    def __hash__(self) -> int:
        return hash("id")


# What would change the test itself, or never ends.
UNTOUCHED = {"__class__", "__dict__", "__getattribute__", "__setattr__", "__delattr__"}


def pool(records: ModuleType) -> tuple[list[Any], list[tuple[Any, tuple[Any, ...]]]]:
    """Return objects to call and to call with, and the records among them with their values."""
    inner: list[Any] = []
    rows = [(1, "one", None), (2, inner, 2.5), (inner, (), {"id": 1})]
    nonsense: list[Any] = [0, -1, 10**30, None, "x", ZeroDivisionError(), []]
    awkward = [Awkward(each) for each in nonsense]
    layouts = [
        records.RecordLayout(NAMES),
        records.RecordLayout(NAMES, None, awkward[0]),
        records.RecordLayout(NAMES, None, {"other": 1}.get),
    ]
    made = [layout.record(row) for layout in layouts for row in rows]
    made.append(records.RecordLayout(()).record(()))
    made.append(records.RecordLayout(("keys", "__class__", "a b")).record((1, 2, 3)))
    inner.append(made[1])
    known = [(record, tuple(record)) for record in made]
    plain: list[Any] = [0, -1, 3, 10**30, "id", "name", "", None, (), rows[0], {}, slice(1), b"x"]
    views = [record._mapping for record in made[:3]]
    classes = [records.Record, records.RecordLayout, records.RecordMapping, object, tuple, type]
    own = [type(record) for record in made[-2:]]
    return [*made, *layouts, *views, *classes, *own, *plain, *awkward, [1], [1, 2, 3]], known


STEPS = st.lists(
    st.tuples(
        st.integers(0, 10**6), st.integers(0, 10**6), st.lists(st.integers(0, 10**6), max_size=3)
    ),
    min_size=1,
    max_size=30,
)


def test_any_call_leaves_every_record_as_it_was(records: ModuleType) -> None:
    core = (records.Record, records.RecordLayout, records.RecordMapping)

    @settings(deadline=None, max_examples=500)
    @given(STEPS)
    def check(steps: list[tuple[int, int, list[int]]]) -> None:
        things, known = pool(records)
        callees = [
            thing
            for thing in things
            if isinstance(thing, core) or (isinstance(thing, type) and issubclass(thing, core))
        ]
        for which, what, with_which in steps:
            callee = callees[which % len(callees)]
            arguments = [things[place % len(things)] for place in with_which]
            names = sorted(set(dir(type(callee))) - UNTOUCHED)
            name = names[what % len(names)]
            try:
                attribute = getattr(callee, name)
                found = attribute(*arguments) if callable(attribute) else attribute
                repr(found)
            except Exception:  # as long as it is no crash
                continue
            if isinstance(found, core) and form_of(found):
                callees.append(found)
                things.append(found)
        for record, values in known:
            assert [id(each) for each in record] == [id(each) for each in values]
            assert [id(record[place]) for place in range(len(record))] == list(map(id, values))
            for name, value in zip(record.keys(), values, strict=True):
                assert record[name] is value

    def form_of(found: Any) -> bool:
        """Return whether it is whole: object.__new__() of the pure form makes what is not."""
        try:
            repr(found)
        except AttributeError:
            return False
        return True

    check()
    gc.collect()


# -- names that answer for others


def test_a_name_that_equals_everything_finds_no_more_than_a_value(records: ModuleType) -> None:
    class Liar(str):
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return hash("id")

    record = records.RecordLayout(NAMES).record((1, "one", None))
    assert record[Liar("other")] == 1
    assert record.get(Liar("other")) == 1
    assert Liar("x") in record
    layout = records.RecordLayout([Liar("id"), Liar("id")])
    assert layout.names == ("id", "id")
    assert list(layout.record((1, 2)).items()) == [("id", 1), ("id", 2)]
