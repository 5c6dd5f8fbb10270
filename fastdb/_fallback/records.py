"""Make records in plain Python: one immutable class per tuple of names, one layout per query.

The slots that hold a record's values and layout are taken out of its class once they are made, so
that no descriptor is left through which a record could be written; this module alone reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from operator import index
from reprlib import recursive_repr
from sys import intern
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, NoReturn, cast, final, overload

from fastdb.exceptions import ColumnNotFoundError, InterfaceError

__all__ = ["Record", "RecordLayout", "RecordMapping"]

RECORD_CLASSES = 1024
NAMES_SHOWN = 50


def _missing_column(names: tuple[str, ...], key: object) -> ColumnNotFoundError:
    shown = ", ".join([repr(name) for name in names[:NAMES_SHOWN]]) or "no columns"
    if len(names) > NAMES_SHOWN:
        shown += f" and {len(names) - NAMES_SHOWN} more"
    return ColumnNotFoundError(f"the record has no column {key!r}; it has {shown}")


def _missing_position(size: int, position: object) -> IndexError:
    return IndexError(f"position {position} is out of range; the number of columns is {size}")


def _is_position(key: object) -> bool:
    return isinstance(key, int) or hasattr(type(key), "__index__")


class _RecordType(type):
    """Make classes that nobody can call, change or derive from."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _RecordType:
        for base in bases:
            if isinstance(base, _RecordType):
                _refuse_subclass(base)
        return super().__new__(mcs, name, bases, namespace)

    def __call__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("a Record is made by a RecordLayout, not by calling its class")

    def __setattr__(cls, name: str, value: Any) -> None:
        raise TypeError(f"cannot set {name!r} attribute of immutable type {cls.__name__!r}")

    def __delattr__(cls, name: str) -> None:
        raise TypeError(f"cannot set {name!r} attribute of immutable type {cls.__name__!r}")


def _refuse_subclass(base: type) -> NoReturn:
    raise TypeError(f"type '{base.__module__}.{base.__name__}' is not an acceptable base type")


class Record(metaclass=_RecordType):
    """Hold the values of one row, by name and by position.

    Iterating gives the values; ``"name" in record`` asks for a column. A record equals, hashes and
    orders as the tuple of its values. It is immutable.
    """

    __slots__ = ("_layout", "_values")

    if TYPE_CHECKING:

        def __getattr__(self, name: str, /) -> Any: ...

    def __new__(cls, *args: Any, **kwargs: Any) -> Record:
        """Refuse: a layout makes the records."""
        raise TypeError("a Record is made by a RecordLayout, not by calling its class")

    def __len__(self) -> int:
        return len(_values_of(self))

    @overload
    def __getitem__(self, key: slice, /) -> tuple[Any, ...]: ...

    @overload
    def __getitem__(self, key: Any, /) -> Any: ...

    def __getitem__(self, key: Any, /) -> Any:
        values = _values_of(self)
        if isinstance(key, str):
            layout = _layout_of(self)
            position = layout._positions.get(key)
            if position is None:
                raise _missing_column(layout.names, key)
            return values[position]
        if _is_position(key):
            try:
                return values[key]
            except IndexError:
                raise _missing_position(len(values), key) from None
        if isinstance(key, slice):
            return values[key]
        layout = _layout_of(self)
        position = layout._resolve(key)
        if position < 0:
            raise _missing_column(layout.names, key)
        return values[position]

    def __iter__(self) -> Iterator[Any]:
        return iter(_values_of(self))

    def __contains__(self, key: object, /) -> bool:
        return _position_of(self, key) >= 0

    def __eq__(self, other: object, /) -> bool:
        right = _comparable(other)
        return NotImplemented if right is None else _values_of(self) == right

    def __ne__(self, other: object, /) -> bool:
        right = _comparable(other)
        return NotImplemented if right is None else _values_of(self) != right

    def __lt__(self, other: object, /) -> bool:
        right = _comparable(other)
        return NotImplemented if right is None else _values_of(self) < right

    def __le__(self, other: object, /) -> bool:
        right = _comparable(other)
        return NotImplemented if right is None else _values_of(self) <= right

    def __gt__(self, other: object, /) -> bool:
        right = _comparable(other)
        return NotImplemented if right is None else _values_of(self) > right

    def __ge__(self, other: object, /) -> bool:
        right = _comparable(other)
        return NotImplemented if right is None else _values_of(self) >= right

    def __hash__(self) -> int:
        return hash(_values_of(self))

    @recursive_repr("<Record ...>")
    def __repr__(self) -> str:
        shown = [
            f"{name if name.isidentifier() else repr(name)}={value!r}"
            for name, value in zip(_layout_of(self).names, _values_of(self), strict=True)
        ]
        return f"<Record {' '.join(shown)}>" if shown else "<Record>"

    def __setattr__(self, name: str, value: Any, /) -> NoReturn:
        raise AttributeError(f"a record is read-only; cannot set {name!r}")

    def __delattr__(self, name: str, /) -> NoReturn:
        raise AttributeError(f"a record is read-only; cannot delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle names and values only; either form reads them."""
        # The package imports this module: too early at the top.
        from fastdb._speedups import restore_record

        return restore_record, (_layout_of(self).names, _values_of(self))

    def __copy__(self) -> Record:
        """Return the record itself: it is immutable."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Record:
        """Return a record of deep copies, or itself where they are the values themselves."""
        from copy import deepcopy

        values = _values_of(self)
        copied = deepcopy(values, memo)
        known = memo.get(id(self))  # a value holds the record
        if known is not None:
            return cast("Record", known)
        return self if copied is values else _layout_of(self)._make(copied)

    def get(self, key: Any, default: Any = None, /) -> Any:
        """Return the value of a column by name or Column, `default` where there is none."""
        position = _position_of(self, key)
        return default if position < 0 else _values_of(self)[position]

    def keys(self) -> list[str]:
        """Return the names of the columns, repeated ones too."""
        return list(_layout_of(self).names)

    def values(self) -> list[Any]:
        """Return the values of the columns."""
        return list(_values_of(self))

    def items(self) -> list[tuple[str, Any]]:
        """Return pairs of name and value, repeated names too."""
        return list(zip(_layout_of(self).names, _values_of(self), strict=True))

    def _asdict(self) -> dict[str, Any]:
        """Return a dict of the values by name, the first of a repeated name."""
        values = _values_of(self)
        return {name: values[at] for name, at in _layout_of(self)._positions.items()}

    @property
    def _mapping(self) -> RecordMapping:
        """A read-only mapping view of the record."""
        return RecordMapping(self)


def _hide_slot(record_class: type, name: str) -> MemberDescriptorType:
    """Take the descriptor of a slot out of its class, and return it."""
    descriptor: MemberDescriptorType = record_class.__dict__[name]
    type.__delattr__(record_class, name)
    return descriptor


_slot = _hide_slot(Record, "_values")
_values_of: Callable[[Record], tuple[Any, ...]] = _slot.__get__
_set_values: Callable[[Record, tuple[Any, ...]], None] = _slot.__set__
_slot = _hide_slot(Record, "_layout")
_layout_of: Callable[[Record], RecordLayout] = _slot.__get__
_set_layout: Callable[[Record, RecordLayout], None] = _slot.__set__
_own_names = frozenset([name for name in dir(Record) if not name.startswith("__")])
_class_numbers = count()


def _comparable(other: object) -> tuple[Any, ...] | None:
    if isinstance(other, Record):
        return _values_of(other)
    return other if isinstance(other, tuple) else None


def _position_of(record: Record, key: object) -> int:
    """Return the position of a name or a column, -1 where the record has none."""
    layout = _layout_of(record)
    if isinstance(key, str):
        return layout._positions.get(key, -1)
    if _is_position(key) or isinstance(key, slice):
        return -1
    return layout._resolve(key)


@final
class RecordMapping:
    """Show a record as a mapping of names to values.

    ``keys()``, ``values()``, ``items()`` ``len()`` count repeated names; ``[]`` gives the first.
    """

    __slots__ = ("_record",)

    _record: Record

    def __new__(cls, record: Record) -> RecordMapping:
        """Refuse what is no record."""
        if not isinstance(record, Record):
            raise TypeError(
                f"Argument 'record' has incorrect type (expected {Record.__module__}.Record, "
                f"got {type(record).__name__})"
            )
        self = super().__new__(cls)
        object.__setattr__(self, "_record", record)
        return self

    def __init_subclass__(cls) -> None:
        """Refuse subclasses."""
        _refuse_subclass(RecordMapping)

    def __len__(self) -> int:
        return len(self._record)

    def __getitem__(self, key: Any, /) -> Any:
        position = _position_of(self._record, key)
        if position < 0:
            raise _missing_column(_layout_of(self._record).names, key)
        return self._record[position]

    def __iter__(self) -> Iterator[str]:
        return iter(_layout_of(self._record).names)

    def __contains__(self, key: object, /) -> bool:
        return key in self._record

    def __eq__(self, other: object, /) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        mine, others = self.items(), list(other.items())
        return mine == others or (len(mine) == len(others) and dict(mine) == dict(others))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        pairs = ", ".join([f"{name!r}: {value!r}" for name, value in self.items()])
        return f"<RecordMapping {{{pairs}}}>"

    def __setattr__(self, name: str, value: Any, /) -> NoReturn:
        raise AttributeError(f"a record is read-only; cannot set {name!r}")

    def __delattr__(self, name: str, /) -> NoReturn:
        raise AttributeError(f"a record is read-only; cannot delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._record, "_mapping")

    def get(self, key: Any, default: Any = None, /) -> Any:
        """Return the value of a column by name or Column, `default` where there is none."""
        return self._record.get(key, default)

    def keys(self) -> list[str]:
        """Return the names of the columns, repeated ones too."""
        return self._record.keys()

    def values(self) -> list[Any]:
        """Return the values of the columns."""
        return self._record.values()

    def items(self) -> list[tuple[str, Any]]:
        """Return pairs of name and value, repeated names too."""
        return self._record.items()


@final
class RecordLayout:
    """Make the records of one query.

    Args:
        names: The names of the columns; they may repeat, and any string will do.
        converters: For each column None or a callable, applied once to every value, None too.
        columns: Returns the position of a key that is neither a name nor a position, or None.
    """

    __slots__ = ("_columns", "_converters", "_names", "_positions", "_record_class")

    _columns: Callable[[Any], int | None] | None
    _converters: list[tuple[int, Callable[[Any], Any]]]
    _names: tuple[str, ...]
    _positions: dict[str, int]
    _record_class: type[Record]

    # Not __init__, which could be called again on a layout that has records.
    def __new__(
        cls,
        names: Iterable[str],
        converters: Iterable[Callable[[Any], Any] | None] | None = None,
        columns: Callable[[Any], int | None] | None = None,
    ) -> RecordLayout:
        """Make the class of the records, or take the one that others with these names share."""
        self = super().__new__(cls)
        self._names, self._record_class, self._positions = _record_class(_exact_names(names))
        size = len(self._names)
        self._columns = columns
        self._converters = []
        if converters is not None:
            converters = tuple(converters)
            if len(converters) != size:
                raise ValueError(
                    f"the number of converters is {len(converters)}; "
                    f"the number of columns is {size}"
                )
            self._converters = [
                (position, converter)
                for position, converter in enumerate(converters)
                if converter is not None
            ]
        return self

    def __init_subclass__(cls) -> None:
        """Refuse subclasses."""
        _refuse_subclass(RecordLayout)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return self._names

    @property
    def record_class(self) -> type[Record]:
        """The class of further records."""
        return self._record_class

    def for_columns(self, columns: Callable[[Any], int | None] | None) -> RecordLayout:
        """Return a layout that differs only in how it finds columns."""
        layout = super().__new__(RecordLayout)
        layout._names = self._names
        layout._record_class = self._record_class
        layout._positions = self._positions
        layout._converters = self._converters
        layout._columns = columns
        return layout

    def records(self, rows: Iterable[Sequence[Any]]) -> list[Record]:
        """Return a record for each of `rows`, sequences of as many values as there are names.

        The rows are not held.

        Raises:
            InterfaceError: A row has another number of values.
        """
        return [self.record(row) for row in rows]

    def record(self, row: Sequence[Any]) -> Record:
        """Return the record of one row.

        Raises:
            InterfaceError: The row has another number of values.
        """
        values = row if type(row) is tuple else _row_values(row)
        if len(values) != len(self._names):
            raise InterfaceError(
                f"the number of values in the row is {len(values)}; "
                f"the number of columns is {len(self._names)}"
            )
        if self._converters:
            converted = list(values)
            for position, converter in self._converters:
                converted[position] = converter(converted[position])
            values = tuple(converted)
        return self._make(values)

    def __repr__(self) -> str:
        return f"<RecordLayout {self._names!r}>"

    def _make(self, values: tuple[Any, ...]) -> Record:
        record: Record = _new_record(self._record_class)
        _set_values(record, values)
        _set_layout(record, self)
        return record

    def _resolve(self, key: object) -> int:
        """Return the position of a Column (or its like), -1 where there is none."""
        if self._columns is not None:
            resolved = self._columns(key)
            if resolved is None:
                return -1
            position = index(resolved)
            if not 0 <= position < len(self._names):
                raise _missing_position(len(self._names), position)
            return position
        for attribute in ("name", "key"):
            name = getattr(key, attribute, None)
            if isinstance(name, str) and name in self._positions:
                return self._positions[name]
        return -1


_new_record = cast("Callable[[type[Record]], Record]", object.__new__)


def _row_values(row: Any) -> tuple[Any, ...]:
    if isinstance(row, dict) or not hasattr(type(row), "__getitem__"):
        raise TypeError(f"a row must be a sequence, not {type(row).__name__}")
    return tuple([row[position] for position in range(len(row))])


def _exact_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return `names` as a tuple of plain, interned strings."""
    names = tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"the name of a column must be a str, not {type(name).__name__}")
    return tuple([intern(str.__str__(name)) for name in names])


@lru_cache(maxsize=RECORD_CLASSES)
def _record_class(names: tuple[str, ...]) -> tuple[tuple[str, ...], type[Record], dict[str, int]]:
    """Return the names, their class and the first position of each name.

    The cache holds what depends on names only: it is shared by every Database, like the interned
    names themselves, and bounded.
    """
    positions: dict[str, int] = {}
    # A slot that no other class has: classes of one layout would let `__class__` be assigned.
    slot = f"_class_{next(_class_numbers)}"
    namespace: dict[str, Any] = {"__module__": "fastdb", "__slots__": (slot,)}
    for position, name in enumerate(names):
        usable = name.isidentifier() and not name.startswith("__") and name not in _own_names
        if usable and name not in positions and name != slot:
            namespace[name] = _attribute(position)
        positions.setdefault(name, position)
    record_class = type.__new__(_RecordType, "Record", (Record,), namespace)
    _hide_slot(record_class, slot)
    return names, cast("type[Record]", record_class), positions


def _attribute(position: int) -> property:
    return property(lambda self: _values_of(self)[position])


Sequence.register(Record)
Mapping.register(RecordMapping)
