"""A statement of SQLAlchemy's, compiled: binding it to values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from fastdb.compiler_columns import result_columns
from fastdb.compiler_keys import client_defaults
from fastdb.compiler_parts import (
    MISSING,
    PlanParts,
    missing_parameter,
    translate,
    unknown_parameters,
)
from fastdb.exceptions import DataError, Error, QueryTypeError
from fastdb.sql_text import classify

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.sql.elements import BindParameter

    from fastdb.compiler_columns import ResultColumns
    from fastdb.compiler_keys import Extras
    from fastdb.sql_text import Lexical

__all__ = [
    "CompiledExpression",
    "Default",
    "Expansion",
    "Slot",
    "Variant",
    "as_list",
    "refuse_value",
    "tells_rows",
]


class Slot(NamedTuple):
    """Where the value of one bind name comes from.

    Attributes:
        name: The name in the compiled statement.
        key: The name by which the user may give the value, or None.
        position: The place among the binds of the cache key, or -1.
        bind: The bind of the statement that was compiled.
        processor: SQLAlchemy's bind processor, or None.
        required: Without a value of the user's there is none.
        column: The user's value is for a column of the insert or update.
    """

    name: str
    key: str | None
    position: int
    bind: BindParameter[Any]
    processor: Callable[[Any], Any] | None
    required: bool
    column: bool


class Default(NamedTuple):
    """A default that the client makes.

    Attributes:
        column: Whose default it is.
        place: The place among the slots.
        function: Called with a :class:`DefaultContext`, or None for a constant.
        constant: The value without a function.
    """

    column: Any
    place: int
    function: Callable[[Any], Any] | None
    constant: Any


class Variant:
    """One SQL text of an expression, with the plan that the cache makes of it."""

    __slots__ = ("parts", "plan")

    def __init__(self, parts: PlanParts) -> None:
        self.parts = parts
        self.plan: Any = None


class Expansion(NamedTuple):
    """The SQL text for lists of certain lengths.

    Attributes:
        variant: The text.
        slots: For each argument the bind's name, the place in its flattened list or -1, and the
            processor.
    """

    variant: Variant
    slots: tuple[tuple[str, int, Callable[[Any], Any] | None], ...]


#: SQL texts kept per expression for lists of different lengths.
MAX_EXPANSIONS = 64


class CompiledExpression:
    """A compiled expression, ready to be bound.

    Attributes:
        slots: One for each bind name, in the order of `order`.
        order: For each argument its place among `slots`; None where they are the same.
        collected: The values that the expression carries by name (``.params()``), if any.
        defaults: The defaults that the client makes, in the order in which they are called.
        expanding: The names of the binds that take lists.
        literal: The names of the binds whose values are written into the SQL.
        given_slots: For each key column its place among `slots` or -1; None for no key.
        takes: What the user may give values for.
        variant: The SQL text, where it does not depend on the values.
        result: The columns that it yields.
        shared: It serves equal expressions, too; otherwise only the one it was compiled from.
    """

    __slots__ = (
        "_by_length",
        "_compiled",
        "_fallback_sources",
        "_null_key",
        "_processors",
        "collected",
        "defaults",
        "dialect",
        "expanding",
        "given_slots",
        "literal",
        "order",
        "result",
        "shared",
        "slots",
        "takes",
        "variant",
    )

    def __init__(self, dialect: Any, compiled: Any, lexical: Lexical, extras: Extras) -> None:
        self.dialect = dialect
        self.result = result_columns(compiled, dialect)
        self.variant = Variant(_parts(compiled.string, lexical, compiled, extras, self.result))
        self._fallback_sources = extras.fallback_sources
        self._null_key: Variant | None = None
        self._by_length: dict[Any, Expansion] = {}
        self._compiled: Any = None
        self.collected: Mapping[str, Any] | None = None
        self.shared = getattr(compiled, "cache_key", None) is not None
        self.defaults: tuple[Default, ...] = ()
        self.given_slots: tuple[int, ...] | None = None
        if not hasattr(compiled, "positiontup"):  # DDL has no parameters
            self.slots: tuple[Slot, ...] = ()
            self._processors: tuple[tuple[int, Callable[[Any], Any]], ...] = ()
            self.order: tuple[int, ...] | None = None
            self.takes: tuple[str, ...] = ()
            self.expanding: frozenset[str] = frozenset()
            self.literal: frozenset[str] = frozenset()
            return
        if not self.shared:
            # Values set by .params(), which SQLAlchemy 2.1 keeps beside the binds.
            self.collected = getattr(compiled, "_collected_params", None) or None
        names = compiled.bind_names
        positions = list(compiled.positiontup or ())
        distinct = list(dict.fromkeys(positions))
        self.expanding = frozenset(names[bind] for bind in compiled.post_compile_params)
        self.literal = frozenset(names[bind] for bind in compiled.literal_execute_params)
        index_of = _bind_indexes(compiled)
        processors = compiled._bind_processors
        crud = extras.column_keys
        self.slots = tuple(
            _slot(
                name,
                compiled.binds[name],
                index_of,
                # Lists are processed element by element, once they are expanded.
                None if name in self.expanding else processors.get(name),
                crud,
            )
            for name in distinct
        )
        self.order = (
            None if positions == distinct else tuple(distinct.index(name) for name in positions)
        )
        self._processors = tuple(
            (place, slot.processor)
            for place, slot in enumerate(self.slots)
            if slot.processor is not None
        )
        self.defaults = tuple(_defaults(compiled, distinct))
        self.takes = tuple(dict.fromkeys(slot.key for slot in self.slots if slot.key is not None))
        if extras.given is not None:
            self.given_slots = tuple(
                -1 if name is None else distinct.index(name) for name in extras.given
            )
        if self.expanding or self.literal or any(each.function for each in self.defaults):
            self._compiled = compiled

    def arguments(
        self,
        values: Mapping[str, Any] | None,
        extracted: Sequence[Any] | None,
        collected: Mapping[str, Any] | None,
    ) -> tuple[Variant, tuple[Any, ...], tuple[Any, ...] | None]:
        """Bind the expression: return its SQL, the arguments for it, and the given key.

        Args:
            values: The user's values by name.
            extracted: The binds of the expression that is run, where it is an equal one to that
                which was compiled.
            collected: The values that the expression itself carries by name (``.params()``).

        Raises:
            MissingParameterError: A parameter has no value.
            UnknownParameterError: A value has no parameter.
        """
        raw: list[Any] = []
        used = 0
        if collected is None:
            collected = self.collected
        for name, key, position, bind, _, required, _ in self.slots:
            if key is not None:
                if values is not None and key in values:
                    raw.append(values[key])
                    used += 1
                    continue
                if collected and key in collected:
                    raw.append(collected[key])
                    continue
            if required:
                raise missing_parameter(key or name, self.takes)
            source = bind if position < 0 or extracted is None else extracted[position]
            raw.append(source.effective_value)
        if values is not None and used < len(values):
            unknown = [key for key in values if key not in self.takes]
            if unknown:  # pragma: no branch: what fills no slot is unknown
                raise unknown_parameters(unknown, self.takes)
        if self.defaults:
            raw = self.with_defaults(raw)
        given = None
        variant = self.variant
        if self.given_slots is not None:
            given = tuple([MISSING if place < 0 else raw[place] for place in self.given_slots])
            if None in given and any(value is None for value in given):
                given, variant = self.without_null(given)
        if self.expanding or self.literal:
            names = [slot.name for slot in self.slots]
            expanded, args = self._expanded(dict(zip(names, raw, strict=True)))
            return expanded, args, given
        for place, processor in self._processors:
            value = raw[place]
            try:
                raw[place] = processor(value)
            except Exception as exc:
                slot = self.slots[place]
                refuse_value(exc, value, slot.bind, slot.key or slot.name)
        if self.order is not None:
            return variant, tuple([raw[place] for place in self.order]), given
        return variant, tuple(raw), given

    def without_null(self, given: tuple[Any, ...]) -> tuple[tuple[Any, ...], Variant]:
        """Return the key and SQL for a NULL in a key column: the server then makes the key."""
        if self._null_key is None:
            parts = self.variant.parts._replace(key_sources=self._fallback_sources)
            self._null_key = Variant(parts)
        return tuple([MISSING if value is None else value for value in given]), self._null_key

    def with_defaults(self, values: list[Any]) -> list[Any]:
        """Return the values of the slots with the defaults in their places."""
        context: DefaultContext | None = None
        for column, place, function, constant in self.defaults:
            if function is None:
                value = constant
            else:
                if context is None:
                    context = DefaultContext(self._compiled, self.dialect, self.slots, values)
                context.about(column)
                value = function(context)
            values[place] = value
            if context is not None:
                context.note(place, value)
        return values if context is None else context.values()

    # -- lists of any length

    def _expanded(self, raw: dict[str, Any]) -> tuple[Variant, tuple[Any, ...]]:
        shape: list[Any] = []
        flat: dict[str, Sequence[Any]] = {}
        regular = not self.literal
        for slot in self.slots:
            name = slot.name
            if name not in self.expanding:
                continue
            raw[name] = items = as_list(raw[name], slot)
            rows = items and _is_row(items[0], slot.bind)
            if rows:
                width = len(items[0])
                regular = regular and all(len(item) == width for item in items)
                shape.append((len(items), width))
                flat[name] = [cell for item in items for cell in item]
            else:
                shape.append(len(items))
                flat[name] = items
        if not regular:
            return self._expand_once(raw)
        key = tuple(shape)
        expansion = self._by_length.get(key)
        if expansion is None:
            expansion = self.expansion(raw)
            if len(self._by_length) >= MAX_EXPANSIONS:
                # Another thread may have been quicker, or be adding one.
                with contextlib.suppress(RuntimeError, StopIteration):
                    self._by_length.pop(next(iter(self._by_length)), None)
            self._by_length[key] = expansion
        binds = self._compiled.binds
        args: list[Any] = []
        for name, place, processor in expansion.slots:
            value = raw[name] if place < 0 else flat[name][place]
            if processor is not None:
                value = _processed(processor, value, binds[name], name)
            args.append(value)
        return expansion.variant, tuple(args)

    def _state(self, raw: dict[str, Any]) -> Any:
        compiled = self._compiled
        # Some names are looked up as they are, some in their escaped form.
        escaped = compiled.escaped_bind_names
        parameters = {**raw, **{escaped[name]: raw[name] for name in escaped if name in raw}}
        try:
            return compiled._process_parameters_for_postcompile(parameters)
        except Exception as exc:
            translate(exc)

    def expansion(self, raw: dict[str, Any]) -> Expansion:
        """Return the SQL text for lists of the lengths that those among the values have."""
        state = self._state(raw)
        source: dict[str, tuple[str, int]] = {}
        for name, members in state.parameter_expansion.items():
            source.update({member: (name, place) for place, member in enumerate(members)})
        processors = {**self._compiled._bind_processors, **state.processors}
        slots = []
        for member in state.positiontup:
            name, place = source.get(member, (member, -1))
            slots.append((name, place, processors.get(member)))
        return Expansion(Variant(self.variant.parts._replace(sql=state.statement)), tuple(slots))

    def _expand_once(self, raw: dict[str, Any]) -> tuple[Variant, tuple[Any, ...]]:
        """Return SQL and arguments where the SQL depends on the values themselves."""
        state = self._state(raw)
        processors = {**self._compiled._bind_processors, **state.processors}
        binds = self._compiled.binds
        args = []
        for name in state.positiontup:
            value = state.parameters[name]
            processor = processors.get(name)
            if processor is not None:
                value = _processed(processor, value, binds.get(name), name)
            args.append(value)
        return Variant(self.variant.parts._replace(sql=state.statement)), tuple(args)


def as_list(value: Any, slot: Slot) -> list[Any] | tuple[Any, ...]:
    """Return the values that a bind takes a list of.

    Raises:
        QueryTypeError: `value` is no list or the like.
    """
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        return list(value)
    raise QueryTypeError(
        f"the query parameter {slot.key or slot.name!r} takes a list of values, "
        f"not {type(value).__name__!r}"
    )


def tells_rows(bind: Any) -> bool:
    """Return whether a bind may take a list of rows."""
    return bool(bind.type._is_tuple_type or bind.type._isnull)


def _is_row(item: Any, bind: Any) -> bool:
    if bind.type._is_tuple_type:
        return True
    return bind.type._isnull and isinstance(item, Sequence) and not isinstance(item, str | bytes)


def _defaults(compiled: Any, names: Sequence[str]) -> Iterator[Default]:
    for column, name, (arg, is_scalar, is_callable, is_sentinel) in client_defaults(compiled):
        if name not in names:  # pragma: no cover: other SQLAlchemy
            continue
        place = names.index(name)
        if is_sentinel:
            yield Default(column, place, None, 0)
        elif is_scalar:
            yield Default(column, place, None, arg)
        elif is_callable:  # pragma: no branch: a default of the client's is one of the three
            yield Default(column, place, arg, None)


def _slot(
    name: str,
    bind: Any,
    index_of: Mapping[Any, int],
    processor: Callable[[Any], Any] | None,
    column_keys: frozenset[str],
) -> Slot:
    column = name in column_keys or bind.key in column_keys
    key = bind.key if column or not bind.unique else None
    required = bool(bind.required) and bind.callable is None
    return Slot(name, key, index_of.get(bind, -1), bind, processor, required, column)


def _bind_indexes(compiled: Any) -> dict[Any, int]:
    """Return the place among the cache key's binds of each bind that was compiled."""
    if compiled.cache_key is None or compiled._cache_key_bind_match is None:
        return {}
    match = compiled._cache_key_bind_match[0]
    originals = compiled.cache_key[1]
    indexes = {bind: index for index, original in enumerate(originals) for bind in match[original]}
    # Of several binds of one name SQLAlchemy counts each as what the others were copied to, too.
    indexes.update((original, index) for index, original in enumerate(originals))
    return indexes


class DefaultContext:
    """What a context-sensitive default sees of the statement it is called for."""

    def __init__(
        self, compiled: Any, dialect: Any, slots: Sequence[Slot], values: list[Any]
    ) -> None:
        """Take the slots of the statement and their values so far."""
        self.compiled = compiled
        self.dialect = dialect
        self._slots = slots
        self._values = values
        self._parameters: dict[str, Any] | None = None
        self._column: Any = None

    def about(self, column: Any) -> None:
        """Note the column whose default is called next."""
        self._column = column

    def note(self, place: int, value: Any) -> None:
        """Note the value of a default."""
        if self._parameters is not None:
            self._parameters[self._slots[place].name] = value

    def values(self) -> list[Any]:
        """Return the values of all slots; a default may have changed others."""
        if self._parameters is None:
            return self._values
        return [self._parameters[slot.name] for slot in self._slots]

    @property
    def current_parameters(self) -> dict[str, Any]:
        """The values of the statement by the names of their binds."""
        # Few defaults ask for them.
        if self._parameters is None:
            names = [slot.name for slot in self._slots]
            self._parameters = dict(zip(names, self._values, strict=True))
        return self._parameters

    @property
    def current_column(self) -> Any:
        """The column whose default is called."""
        return _plain_column(self._column)

    @property
    def isinsert(self) -> bool:
        """Whether the statement is an insert."""
        return bool(self.compiled.isinsert)

    @property
    def isupdate(self) -> bool:
        """Whether the statement is an update."""
        return bool(self.compiled.isupdate)

    def get_current_parameters(self, isolate_multiinsert_groups: bool = True) -> dict[str, Any]:
        """Return the values of the row that the default is for, by column key."""
        parameters = self.current_parameters
        state = self.compiled.compile_state
        if not (
            isolate_multiinsert_groups
            and self.isinsert
            and getattr(state, "_has_multi_parameters", False)
        ):
            return parameters
        index = _row_index(self._column)
        row = {
            _plain_column(each).key: parameters.get(each.key)
            for each in self.compiled.insert_prefetch
            if _row_index(each) == index
        }
        for key in state._dict_parameters:
            key = getattr(key, "key", key)
            row[key] = parameters.get(f"{key}_m{index}")
        return row


def _plain_column(column: Any) -> Any:
    return column.original if column._is_multiparam_column else column


def _row_index(column: Any) -> int:
    """Return the row of an insert of several rows that a column's default is for."""
    return int(column.index) + 1 if column._is_multiparam_column else 0


def _processed(processor: Callable[[Any], Any], value: Any, bind: Any, name: str) -> Any:
    try:
        return processor(value)
    except Exception as exc:
        refuse_value(exc, value, bind, name)


def refuse_value(exc: Exception, value: Any, bind: Any, name: str) -> NoReturn:
    """Raise what a bind processor raised: errors of SQLAlchemy's own types as a DataError."""
    # What the user's own types raise passes; what SQLAlchemy's raise is about the value.
    if bind is None or isinstance(exc, Error) or _is_user_type(bind.type):
        raise exc
    raise DataError(
        f"the value of the query parameter {name!r}, {type(value).__name__!r}, does not fit "
        f"its type {bind.type!r}: {exc}"
    ) from exc


def _is_user_type(type_: Any) -> bool:
    seen = [type_, getattr(type_, "item_type", None)]
    seen += list(getattr(type_, "types", ()) or ())
    return any(
        not type(each).__module__.startswith("sqlalchemy.") for each in seen if each is not None
    )


def _parts(
    sql: str, lexical: Lexical, compiled: Any, extras: Extras, result: ResultColumns | None
) -> PlanParts:
    kind = classify(sql, lexical)
    returning = kind.returning and not extras.implicit_returning
    return PlanParts(
        sql,
        kind.verb,
        kind.kind,
        returning,
        extras.implicit_returning,
        kind.kind == "select" or kind.returning,
        kind.changes_session,
        kind.implicit_commit,
        True,
        extras.key_sources,
        result,
    )
