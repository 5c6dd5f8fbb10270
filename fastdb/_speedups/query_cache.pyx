# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# (binding: see records.pyx)
"""The query cache: from a query and values to SQL and arguments, each query compiled once.

The slow half, compiling, is :mod:`fastdb.compiler`'s. What is compiled here is the way that every
further call takes: look-up and binding in one step.
"""

import logging
import weakref
from datetime import date, datetime, time
from enum import Enum

cimport cython
from cpython cimport datetime as c_datetime
from cpython.bytes cimport PyBytes_CheckExact
from cpython.dict cimport PyDict_CheckExact, PyDict_GetItemWithError, PyDict_Size
from cpython.float cimport PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_CheckExact
from cpython.weakref cimport PyWeakref_NewRef

from typing import NamedTuple

from fastdb._speedups.records import RecordLayout
from fastdb.compiler import PLAIN_TYPES
from fastdb.compiler_columns import own_columns
from fastdb.compiler_expression import MAX_EXPANSIONS, as_list, refuse_value, tells_rows
from fastdb.compiler_fingerprint import (
    cache_key_of,
    check_walk,
    fingerprint,
    simple_types,
    traversal_of,
    type_token,
)
from fastdb.compiler_parts import MISSING, check_row
from fastdb.compiler_processors import bind_code
from fastdb.exceptions import OptionError

__all__ = ["CacheInfo", "QueryCache", "QueryPlan"]


class CacheInfo(NamedTuple):
    """How a query cache has fared."""

    hits: int
    misses: int
    evictions: int
    maxsize: int
    currsize: int


cdef class QueryPlan:
    """One distinct SQL text, and all that is known of it.

    Attributes:
        sql: The text as the driver takes it.
        verb: Its main verb in upper case, after CTEs; empty where unknown.
        kind: ``select`` (rows are expected), ``insert``, ``update``, ``delete``, ``ddl`` or
            ``other``.
        returning: Its author asked for RETURNING.
        implicit_returning: RETURNING was added, for the key only.
        returns_rows: It is a select, or has RETURNING.
        changes_session: It changes the session's state.
        implicit_commit: It commits the transaction (MySQL).
        is_expression: It was compiled from a SQLAlchemy expression.
        key_sources: For an insert through SQLAlchemy, where each primary key column is found:
            ``("given",)``, ``("returning", position)``, ``("lastrowid",)`` or ``("none",)``.
    """

    cdef readonly object sql
    cdef readonly object verb
    cdef readonly object kind
    cdef readonly bint returning
    cdef readonly bint implicit_returning
    cdef readonly bint returns_rows
    cdef readonly bint changes_session
    cdef readonly bint implicit_commit
    cdef readonly bint is_expression
    cdef readonly object key_sources
    cdef readonly object _result
    cdef object _layout
    cdef object _layout_names
    cdef QueryPlan _shared  # the plan of which this is a copy
    cdef object _query  # whose columns the records of a copy are read by

    def __init__(self, parts):
        self.sql = parts.sql
        self.verb = parts.verb
        self.kind = parts.kind
        self.returning = parts.returning
        self.implicit_returning = parts.implicit_returning
        self.returns_rows = parts.returns_rows
        self.changes_session = parts.changes_session
        self.implicit_commit = parts.implicit_commit
        self.is_expression = parts.is_expression
        self.key_sources = parts.key_sources
        self._result = parts.result

    cpdef object layout(self, tuple names):
        """Return the layout of the records whose columns the driver calls `names`."""
        if self._layout is not None and (
            names is self._layout_names or names == self._layout_names
        ):
            return self._layout
        result = self._result
        if self._shared is not None:
            if self._query is not None:
                result = result.for_columns(own_columns(self._query, False))
            layout = self._shared.layout(names).for_columns(result.locator(names))
        elif result is None:
            layout = RecordLayout(names)
        else:
            layout = RecordLayout(names, result.converters(names), result.locator(names))
        self._layout_names = names
        self._layout = layout
        return layout

    def __repr__(self):
        return f"<QueryPlan {self.verb or 'unknown'}: {self.sql!r}>"


cdef QueryPlan _for_columns(QueryPlan plan, object result, object query):
    """Return the plan for an equal expression whose columns are other objects."""
    cdef QueryPlan copy = QueryPlan.__new__(QueryPlan)
    copy.sql = plan.sql
    copy.verb = plan.verb
    copy.kind = plan.kind
    copy.returning = plan.returning
    copy.implicit_returning = plan.implicit_returning
    copy.returns_rows = plan.returns_rows
    copy.changes_session = plan.changes_session
    copy.implicit_commit = plan.implicit_commit
    copy.is_expression = plan.is_expression
    copy.key_sources = plan.key_sources
    copy._result = result
    copy._shared = plan
    copy._query = query
    return copy


# -- processors: what those of fastdb.compiler_processors do, without a call

c_datetime.import_datetime()

cdef enum:
    NONE = 0
    ANY = 1
    BOOLEAN = 2
    FLAG = 3
    NUMBER = 4
    DATETIME = 5
    DATE = 6
    TIME = 7


cdef inline void _put(char *text, Py_ssize_t place, int number, int digits) noexcept:
    """Write a number of so many digits."""
    while digits:
        digits -= 1
        text[place + digits] = <char>(c'0' + number % 10)
        number //= 10


cdef inline void _put_day(char *text, object value) noexcept:
    _put(text, 0, c_datetime.PyDateTime_GET_YEAR(value), 4)
    text[4] = c'-'
    _put(text, 5, c_datetime.PyDateTime_GET_MONTH(value), 2)
    text[7] = c'-'
    _put(text, 8, c_datetime.PyDateTime_GET_DAY(value), 2)


cdef inline void _put_clock(char *text, int hour, int minute, int second, int micro) noexcept:
    _put(text, 0, hour, 2)
    text[2] = c':'
    _put(text, 3, minute, 2)
    text[5] = c':'
    _put(text, 6, second, 2)
    text[8] = c'.'
    _put(text, 9, micro, 6)


cdef object _written(object value):
    """Return how SQLAlchemy writes an exact date, datetime or time for SQLite; None otherwise."""
    cdef char text[26]
    kind = type(value)
    if kind is datetime:
        _put_day(text, value)
        text[10] = c' '
        _put_clock(
            text + 11,
            c_datetime.PyDateTime_DATE_GET_HOUR(value),
            c_datetime.PyDateTime_DATE_GET_MINUTE(value),
            c_datetime.PyDateTime_DATE_GET_SECOND(value),
            c_datetime.PyDateTime_DATE_GET_MICROSECOND(value),
        )
        return text[:26].decode("ascii")
    if kind is date:
        _put_day(text, value)
        return text[:10].decode("ascii")
    if kind is time:
        _put_clock(
            text,
            c_datetime.PyDateTime_TIME_GET_HOUR(value),
            c_datetime.PyDateTime_TIME_GET_MINUTE(value),
            c_datetime.PyDateTime_TIME_GET_SECOND(value),
            c_datetime.PyDateTime_TIME_GET_MICROSECOND(value),
        )
        return text[:15].decode("ascii")
    return None


cdef inline object _process(int code, object processor, object value):
    """Return what the bind processor of that code makes of a value."""
    if code == ANY:
        return processor(value)
    if value is None:
        return None
    if code == BOOLEAN:
        if value is True:
            return 1
        if value is False:
            return 0
    elif code == FLAG:
        if value is True or value is False:
            return value
    elif code == NUMBER:
        if PyFloat_CheckExact(value):
            return value
    elif (
        (code == DATETIME and type(value) is datetime)
        or (code == DATE and type(value) is date)
        or (code == TIME and type(value) is time)
    ):
        return _written(value)
    return processor(value)


cdef class _Entry:
    """What was compiled, and whether it was used since it was last looked at."""

    cdef object compiled
    cdef bint used


cdef class _Text(_Entry):
    """SQL text: its plan and the names of its arguments."""

    cdef QueryPlan plan
    cdef tuple names
    cdef Py_ssize_t distinct
    cdef object adapt

    cdef tuple arguments(self, object values):
        cdef Py_ssize_t place, size
        cdef PyObject *found
        cdef tuple args
        if values is None and not self.names:
            return ()
        if not PyDict_CheckExact(values) or PyDict_Size(values) != self.distinct:
            return self.compiled.arguments(values)
        size = PyTuple_GET_SIZE(self.names)
        args = PyTuple_New(size)
        for place in range(size):
            found = PyDict_GetItemWithError(values, <object>PyTuple_GET_ITEM(self.names, place))
            if found is NULL:
                return self.compiled.arguments(values)
            value = <object>found
            if self.adapt is not None and not _is_common(value):
                written = _written(value)
                value = self.adapt(value) if written is None else written
            Py_INCREF(value)
            PyTuple_SET_ITEM(args, place, value)
        return args


cdef inline bint _is_common(object value):
    """Return whether a value is of a type that every driver takes and no expression has."""
    return (
        PyUnicode_CheckExact(value)
        or PyLong_CheckExact(value)
        or PyFloat_CheckExact(value)
        or value is None
        or value is True
        or value is False
        or PyBytes_CheckExact(value)
    )


cdef class _Slot:
    """A slot of a compiled expression, laid out for the loop that binds it."""

    cdef object slot
    cdef object key
    cdef Py_ssize_t position
    cdef object bind
    cdef object processor
    cdef int code
    cdef bint required
    cdef bint is_list
    cdef bint of_row  # its key is among the names that the expression was compiled with

    def __init__(self, slot, expression, keys):
        self.slot = slot
        self.key = slot.key
        self.position = slot.position
        self.bind = slot.bind
        self.processor = slot.processor
        self.code = bind_code(slot.bind.type, expression.dialect, slot.processor)
        self.required = slot.required
        self.is_list = slot.name in expression.expanding
        self.of_row = slot.key is not None and slot.key in keys


cdef class _Argument:
    """Where an argument of an expression with lists comes from."""

    cdef Py_ssize_t place  # of the slot
    cdef Py_ssize_t member  # of the slot's list, or -1
    cdef object processor
    cdef int code

    def __init__(self, place, member, processor, code):
        self.place = place
        self.member = member
        self.processor = processor
        self.code = code


cdef class _Compiled(_Entry):
    """A compiled expression, its slots laid out for the loop that binds them."""

    cdef bint simple  # all that the loop below knows
    cdef QueryPlan plan
    cdef tuple slots
    cdef tuple order
    cdef tuple defaults
    cdef tuple given_slots
    cdef Py_ssize_t lists  # how many slots take lists
    cdef dict by_lengths
    cdef bint plain  # the columns are the tables' own, if there are any
    cdef Py_ssize_t row_size  # of a row that bind_row() knows, or -1
    cdef list kept  # what the key names by its address
    cdef object recent  # a weak reference to the expression that was last found to be equal

    def __init__(self, expression, keys):
        cdef _Slot slot
        keys = frozenset(keys or ())
        self.compiled = expression
        self.slots = tuple([_Slot(each, expression, keys) for each in expression.slots])
        self.order = expression.order
        self.defaults = expression.defaults
        self.given_slots = expression.given_slots
        self.plain = expression.result is None or expression.result.plain
        self.by_lengths = {}
        self.simple = expression.collected is None and not expression.literal
        covered = set()
        for slot in self.slots:
            if slot.of_row:
                covered.add(slot.key)
            if slot.is_list:
                self.lists += 1
                if tells_rows(slot.bind):
                    self.simple = False
        self.row_size = len(keys) if self.simple and not self.lists and covered == keys else -1
        if self.simple and not self.lists:
            self.plan = self.plan_of(expression.variant)

    cdef QueryPlan plan_of(self, object variant):
        cdef object plan = variant.plan
        if plan is None:
            plan = variant.plan = QueryPlan(variant.parts)
        return <QueryPlan>plan

    cdef tuple bind(self, object values, object extracted, object collected):
        """Return plan, arguments and given key."""
        cdef Py_ssize_t place, size, used = 0
        cdef PyObject *found
        cdef list raw
        cdef _Slot slot
        cdef QueryPlan plan
        cdef object given
        if (
            not self.simple
            or collected is not None
            or (values is not None and not PyDict_CheckExact(values))
        ):
            variant, args, given = self.compiled.arguments(values, extracted, collected)
            return self.plan_of(variant), args, given
        size = PyTuple_GET_SIZE(self.slots)
        raw = []
        for place in range(size):
            slot = <_Slot>PyTuple_GET_ITEM(self.slots, place)
            if slot.key is not None and values is not None:
                found = PyDict_GetItemWithError(values, slot.key)
                if found is not NULL:
                    raw.append(<object>found)
                    used += 1
                    continue
            if slot.required:
                self.compiled.arguments(values, extracted, None)  # raises
            raw.append(_own_value(slot, extracted))
        if values is not None and used < PyDict_Size(values):
            self.compiled.arguments(values, extracted, None)  # raises
        if self.defaults:
            raw = self.with_defaults(raw)
        plan = self.plan
        given = None
        if self.given_slots is not None:
            given = tuple([MISSING if place < 0 else raw[place] for place in self.given_slots])
            for value in given:
                if value is None:
                    given, variant = self.compiled.without_null(given)
                    plan = self.plan_of(variant)
                    break
        if self.lists:
            plan, args = self.with_lists(raw)
            return plan, args, given
        return plan, self.processed(raw), given

    cdef tuple bind_row(self, dict row, object extracted):
        """Return the arguments for a row of the known names with plain values, else None."""
        cdef Py_ssize_t place
        cdef PyObject *found
        cdef list raw
        cdef _Slot slot
        if PyDict_Size(row) != self.row_size:
            return None
        raw = []
        for place in range(PyTuple_GET_SIZE(self.slots)):
            slot = <_Slot>PyTuple_GET_ITEM(self.slots, place)
            if slot.of_row:
                found = PyDict_GetItemWithError(row, slot.key)
                if found is NULL:
                    return None
                value = <object>found
                if not _is_common(value) and type(value) not in PLAIN_TYPES:
                    return None
                raw.append(value)
            elif slot.required:
                return None
            else:
                raw.append(_own_value(slot, extracted))
        if self.defaults:
            raw = self.with_defaults(raw)
        return self.processed(raw)

    cdef list with_defaults(self, list raw):
        for _, place, function, value in self.defaults:
            if function is not None:
                return self.compiled.with_defaults(raw)
            raw[place] = value
        return raw

    cdef tuple processed(self, list raw):
        cdef Py_ssize_t place
        cdef _Slot slot
        for place in range(PyTuple_GET_SIZE(self.slots)):
            slot = <_Slot>PyTuple_GET_ITEM(self.slots, place)
            if slot.code != NONE:
                self.process(raw, place, slot)
        if self.order is not None:
            return tuple([raw[place] for place in self.order])
        return tuple(raw)

    cdef int process(self, list raw, Py_ssize_t place, _Slot slot) except -1:
        try:
            raw[place] = _process(slot.code, slot.processor, raw[place])
        except Exception as exc:
            refuse_value(exc, raw[place], slot.bind, slot.key or slot.slot.name)
        return 0

    cdef tuple with_lists(self, list raw):
        """Return plan and arguments where some slots take lists."""
        cdef Py_ssize_t place
        cdef _Slot slot
        cdef list args = []
        cdef object lengths = None
        cdef _Argument argument
        for place in range(PyTuple_GET_SIZE(self.slots)):
            slot = <_Slot>PyTuple_GET_ITEM(self.slots, place)
            if slot.is_list:
                items = raw[place]
                if type(items) is not list and type(items) is not tuple:
                    raw[place] = items = as_list(items, slot.slot)
                if self.lists == 1:
                    lengths = len(items)
                    break
                lengths = (lengths, len(items))
        known = self.by_lengths.get(lengths)
        if known is None:
            known = self.expanded(raw)
            if len(self.by_lengths) >= MAX_EXPANSIONS:
                self.by_lengths.pop(next(iter(self.by_lengths)))
            self.by_lengths[lengths] = known
        for each in <tuple>(<tuple>known)[1]:
            argument = <_Argument>each
            value = raw[argument.place]
            if argument.member >= 0:
                value = value[argument.member]
            if argument.code != NONE:
                try:
                    value = _process(argument.code, argument.processor, value)
                except Exception as exc:
                    slot = <_Slot>self.slots[argument.place]
                    refuse_value(exc, value, slot.bind, slot.slot.name)
            args.append(value)
        return (<tuple>known)[0], tuple(args)

    cdef tuple expanded(self, list raw):
        """Return plan and arguments for lists of these lengths."""
        names = [slot.name for slot in self.compiled.slots]
        expansion = self.compiled.expansion(dict(zip(names, raw)))
        dialect = self.compiled.dialect
        arguments = []
        for name, member, processor in expansion.slots:
            place = names.index(name)
            code = bind_code(self.compiled.slots[place].bind.type, dialect, processor)
            arguments.append(_Argument(place, member, processor, code))
        return self.plan_of(expansion.variant), tuple(arguments)


cdef inline object _own_value(_Slot slot, object extracted):
    """Return the value that the expression itself has for a slot."""
    bind = slot.bind
    if extracted is not None and slot.position >= 0:
        bind = (<list?>extracted)[slot.position]
    if bind.callable is None:
        return bind.value
    return bind.effective_value


@cython.freelist(16)
cdef class _Same:
    """What is known of one expression object."""

    cdef object reference  # weak
    cdef bint used
    cdef _Compiled entry
    cdef list extracted
    cdef object collected
    cdef object result  # its own columns, where an equal expression has others
    cdef object query  # whose columns these are, where they were not looked at yet
    cdef dict plans


#: SQL texts kept per expression object for lists of different lengths.
cdef Py_ssize_t _MAX_PLANS = 64

#: Types of which is remembered what tells them from others.
cdef Py_ssize_t _MAX_TYPES = 1024


cdef bint _all_plain(dict values):
    """Return whether every key is a plain string and no value can be an expression."""
    for key, value in values.items():
        if not PyUnicode_CheckExact(key):
            return False
        if not _is_common(value) and type(value) not in PLAIN_TYPES:
            return False
    return True


cdef bint _all_named(dict values):
    """Return whether every key is a plain string."""
    for key in values:
        if not PyUnicode_CheckExact(key):
            return False
    return True


# What an expression takes for values, by its class.
cdef enum:
    UNKNOWN = 0  # Compiler.adapt() tells
    QUERY = 1  # its parameters
    CHANGE = 2  # its parameters, and columns that are to be set
    BARE = 3  # the same; and where it has a table and nothing else, this and the names say all


cdef dict _load_kinds():
    from sqlalchemy.dialects import mysql, postgresql, sqlite
    from sqlalchemy.sql.dml import Delete, Insert, Update
    from sqlalchemy.sql.elements import TextClause
    from sqlalchemy.sql.selectable import CompoundSelect, Select, TextualSelect

    kinds = dict.fromkeys((Select, CompoundSelect, TextualSelect, TextClause, Delete), QUERY)
    kinds[Update] = CHANGE
    kinds.update(dict.fromkeys((Insert, mysql.Insert, postgresql.Insert, sqlite.Insert), BARE))
    return kinds


# The codes of fastdb.compiler_fingerprint.
cdef enum:
    ELEMENT = 0
    ELEMENTS = 1
    PLAIN = 2
    TYPE = 3
    NAME = 4
    EMPTY = 5
    JOINS = 6
    VALUES = 7
    PREFIXES = 8
    TUPLES = 9
    NAMED = 10
    OPTIONS = 11


cdef class _Walker:
    """Walk over expressions; make keys that are equal where their SQL is.

    A key lists, element by element, its class and every attribute that is set, closed by an end
    mark; an element that was met before is its number. Tables and their columns are their
    addresses, types as :func:`fastdb.compiler_fingerprint.type_token` tells. `kept` holds what is
    in the key by its address only.
    """

    cdef dict traversals
    cdef dict types
    cdef object table_class
    cdef object column_class
    cdef object bind_class
    cdef object limit_class
    cdef object simple
    cdef object anonymous
    cdef object prefix_map
    cdef list out
    cdef list binds
    cdef list kept
    cdef dict seen
    cdef object names

    def __init__(self):
        from sqlalchemy.schema import Column, Table
        from sqlalchemy.sql.elements import BindParameter, _anonymous_label
        from sqlalchemy.sql.selectable import _OffsetLimitParam
        from sqlalchemy.sql.visitors import prefix_anon_map

        self.traversals = {}
        self.types = {}
        self.table_class = Table
        self.column_class = Column
        self.bind_class = BindParameter
        self.limit_class = _OffsetLimitParam
        self.simple = simple_types()
        self.anonymous = _anonymous_label
        self.prefix_map = prefix_anon_map

    cdef int walk(self, object query) except -1:
        """Put key and binds of an expression into `out` and `binds`; 0 where it cannot be told."""
        cdef dict attributes = <dict?>query.__dict__
        cdef PyObject *options = PyDict_GetItemWithError(attributes, "_execution_options")
        if options is not NULL and "schema_translate_map" in <object>options:
            return 0
        self.out = []
        self.binds = []
        self.kept = []
        self.seen = {}
        self.names = None
        return self.element(query)

    def walked(self, query):
        """Return key and binds of an expression, or None."""
        return (tuple(self.out), self.binds) if self.walk(query) else None

    cdef int element(self, object element) except -1:
        """Add an element; return 0 where it cannot be told."""
        cdef object element_class = type(element)
        cdef PyObject *found
        cdef dict codes, attributes
        cdef tuple traversal
        cdef list out = self.out
        cdef object identity = <Py_ssize_t><void *>element
        if element_class is self.table_class or (
            element_class is self.column_class and type(element.table) is self.table_class
        ):
            # They hash in Python; the entry keeps them, so that no other takes the address.
            out.append(identity)
            self.kept.append(element)
            return 1
        found = PyDict_GetItemWithError(self.seen, identity)
        if found is not NULL:
            out.append(<object>found)
            return 1
        self.seen[identity] = -1 - PyDict_Size(self.seen)  # no address
        if element_class is self.bind_class or element_class is self.limit_class:
            return self.bind(element, element_class)
        found = PyDict_GetItemWithError(self.traversals, element_class)
        if found is NULL:
            told = traversal_of(element_class)
            traversal = None if told is None else tuple(told)  # a named one is slow to read
            self.traversals[element_class] = traversal
        else:
            traversal = <tuple>found
        if traversal is None:
            return 0
        codes = <dict>PyTuple_GET_ITEM(traversal, 0)
        out.append(element_class)
        attributes = <dict?>(element.__dict__)
        for name, value in attributes.items():
            found = PyDict_GetItemWithError(codes, name)
            if found is NULL:
                if name == "_annotations" and value:
                    return 0
                continue
            out.append(name)
            if value is None:
                out.append(None)
            elif not self.attribute(<int>(<object>found), value):
                return 0
        for name, sources in <tuple>PyTuple_GET_ITEM(traversal, 1):
            if name not in attributes and _any_of(sources, attributes):
                self.out.append(name)
                if not self.attribute(codes[name], getattr(element, name)):
                    return 0
        self.out.append(Ellipsis)
        return 1

    cdef int attribute(self, int code, object value) except -1:
        if value is None:
            self.out.append(None)
            return 1
        if code == ELEMENT:
            return self.element(value)
        if code == PLAIN:
            return self.plain(value)
        if code == TYPE:
            return self.type(value)
        if code == NAME:
            return self.name(value)
        if code == EMPTY:
            self.out.append(None)
            return 0 if value else 1
        if code == OPTIONS:
            return self.options(value)
        self.out.append(len(value))
        if code == ELEMENTS:
            for each in value:
                if not self.element(each):
                    return 0
        elif code == TUPLES:
            for group in value:
                self.out.append(len(group))
                for each in group:
                    if not self.element(each):
                        return 0
        elif code == PREFIXES:
            for clause, dialect in value:
                self.out.append(dialect)
                if not self.element(clause):
                    return 0
        elif code == NAMED:
            for name, each in value.items():
                self.out.append(name)
                if not self.element(each):
                    return 0
        elif code == VALUES:
            for column, each in value.items():
                if type(column) is str:
                    self.out.append(column)
                elif not self.element(column):
                    return 0
                if not self.element(each):
                    return 0
        elif code == JOINS:
            for target, onclause, source, flags in value:
                if not self.attribute(ELEMENT, target):
                    return 0
                if not self.attribute(ELEMENT, onclause):
                    return 0
                if not self.attribute(ELEMENT, source):
                    return 0
                self.out.append(tuple(sorted(flags.items())))
        else:
            return 0
        return 1

    cdef int options(self, object options) except -1:
        for name, value in options.items():
            if type(name) is not str or not (value is None or isinstance(value, (str, int))):
                return 0
            self.out.append(name)
            self.out.append(type(value))
            self.out.append(value)
        self.out.append(Ellipsis)
        return 1

    cdef int plain(self, object value) except -1:
        kind = type(value)
        if kind is str or kind is bool or callable(value):
            self.out.append(value)
            return 1
        if isinstance(value, Enum):
            self.out.append(kind)
            self.out.append(value._name_)  # a member hashes in Python
            return 1
        if kind is tuple:
            for each in value:
                if each is not None and type(each) is not str and type(each) is not int:
                    return 0
        elif not isinstance(value, int):
            return 0
        self.out.append(kind)
        self.out.append(value)
        return 1

    cdef int type(self, object type_) except -1:
        cdef object identity = <Py_ssize_t><void *>type_
        cdef PyObject *found = PyDict_GetItemWithError(self.types, identity)
        if found is not NULL:
            self.out.append(<object>PyTuple_GET_ITEM(<tuple>found, 1))
            return 1
        if not type_.__dict__ and type(type_) in self.simple:
            self.out.append(type(type_))  # made anew for many an expression, and all alike
            return 1
        comes_again = "_static_cache_key" in type_.__dict__  # SQLAlchemy has met it before
        token = type_token(type_)
        self.out.append(token)
        if comes_again:
            if len(self.types) >= _MAX_TYPES:
                self.types.clear()
            # The type is kept: no other takes its address.
            self.types[identity] = (type_, token)
        return 1

    cdef int name(self, object name) except -1:
        if type(name) is str:
            self.out.append(name)
            return 1
        if not isinstance(name, self.anonymous):
            self.out.append(str(name))
            return 1
        # Made of the identity of its element: what counts is which names are the same.
        if self.names is None:
            self.names = self.prefix_map()
        self.out.append(Ellipsis)
        self.out.append(name % self.names)
        return 1

    cdef int bind(self, object bind, object bind_class) except -1:
        cdef dict attributes = <dict?>bind.__dict__
        cdef bint unique = bool(attributes["unique"])
        cdef list out = self.out
        if _get(attributes, "_annotations"):
            return 0
        out.append(bind_class)
        out.append(
            unique
            | bool(attributes["required"]) << 1
            | bool(attributes["expanding"]) << 2
            | bool(attributes["literal_execute"]) << 3
            | bool(attributes["isoutparam"]) << 4
            | (attributes["callable"] is None) << 5
            | (attributes["value"] is None) << 6
        )
        out.append(_get(attributes, "_orig_key"))
        if not unique:
            out.append(attributes["key"])
        out.append(_get(attributes, "expand_op"))
        self.type(attributes["type"])
        self.binds.append(bind)
        return 1


cdef inline bint _any_of(tuple names, dict attributes) except -1:
    """Return whether one of the names is there, or there are no names."""
    for name in names:
        if name in attributes:
            return True
    return not names


cdef inline object _get(dict attributes, object name):
    cdef PyObject *found = PyDict_GetItemWithError(attributes, name)
    return None if found is NULL else <object>found


cdef class QueryCache:
    """Turn queries and values into SQL and arguments, compiling each query once.

    Args:
        compiler: Compiles what is not in the cache.
        maxsize: Queries kept; 0 keeps none.
    """

    cdef object _compiler
    cdef Py_ssize_t _maxsize
    cdef Py_ssize_t _hits
    cdef Py_ssize_t _misses
    cdef Py_ssize_t _evictions
    cdef dict _entries
    cdef dict _same
    cdef dict _kinds
    cdef _Walker _walker
    cdef bint _walks
    cdef object __weakref__

    def __init__(self, compiler, maxsize=1024):
        if isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize < 0:
            raise OptionError(
                f"the size of the query cache is {maxsize!r}; it must be a whole number from 0 on"
            )
        self._compiler = compiler
        self._maxsize = maxsize
        self._entries = {}
        self._same = {}
        self._walks = True

    def prepare(self, query, values=None):
        """Return the plan of a query, the arguments for it, and the given key of an insert.

        Raises:
            EmptyQueryError: There is no statement in the query.
            QueryTypeError: The query or the values are of a wrong type.
            MissingParameterError: A parameter has no value.
            UnknownParameterError: A value has no parameter.
            ProgrammingError: SQLAlchemy cannot compile the query.
        """
        cdef _Text text
        if isinstance(query, str):
            text = self._text(query)
            return text.plan, text.arguments(values), None
        same, values = self._find(query, values, False)
        return self._bound(same, values)

    def prepare_many(self, query, rows, batch_size):
        """Yield batches of rows that share one SQL text, each of at most `batch_size` rows.

        Nothing is read of `rows` before the first batch is asked for, nor ahead of it.
        """
        cdef list batch = []
        cdef QueryPlan current = None
        cdef QueryPlan plan
        cdef _Text text
        cdef _Same same = None
        cdef tuple args
        for number, row in enumerate(rows):
            if not PyDict_CheckExact(row):
                check_row(row, number)
            if isinstance(query, str):
                text = self._text(query)
                plan = text.plan
                args = text.arguments(row)
            else:
                # The names are most often those of the row before.
                args = None
                if same is not None and PyDict_CheckExact(row):
                    args = same.entry.bind_row(row, same.extracted)
                if args is not None:
                    self._hits += 1
                    plan = same.entry.plan
                else:
                    same, values = self._find(query, row, True)
                    plan, args, _ = self._bound(same, values)
                    if same.entry.row_size < 0 or same.collected is not None:
                        same = None
            if current is not None and (
                (plan is not current and plan.sql != current.sql) or len(batch) >= batch_size
            ):
                yield current, batch
                batch = []
            current = plan
            batch.append(args)
        if current is not None:
            yield current, batch

    def info(self):
        """Return how the cache has fared."""
        return CacheInfo(
            self._hits, self._misses, self._evictions, self._maxsize, len(self._entries)
        )

    def clear(self):
        """Forget every query; the counts start again."""
        self._entries.clear()
        self._same.clear()
        self._hits = self._misses = self._evictions = 0

    cdef int _store(self, object key, _Entry entry) except -1:
        cdef _Entry found
        if not self._maxsize:
            return 0
        self._entries[key] = entry
        # Second chance: what was used since it was last looked at goes to the end of the queue,
        # so that a look-up has no more to do than to set a flag.
        while len(self._entries) > self._maxsize:
            oldest = next(iter(self._entries))
            found = self._entries.pop(oldest)
            if found.used:
                found.used = False
                self._entries[oldest] = found
            else:
                self._evictions += 1
        return 0

    cdef _Text _text(self, object query):
        cdef PyObject *found = PyDict_GetItemWithError(self._entries, query)
        cdef _Text text
        if found is not NULL:
            text = <_Text>found
            text.used = True
            self._hits += 1
            return text
        self._misses += 1
        compiled = self._compiler.compile_text(query)
        text = _Text.__new__(_Text)
        text.compiled = compiled
        text.plan = QueryPlan(compiled.parts)
        text.names = compiled.names
        text.distinct = len(compiled.takes)
        text.adapt = compiled.adapt
        self._store(str(query), text)
        return text

    cdef tuple _find(self, object query, object values, bint many):
        """Return what is known of an expression, and the values in the form for binding."""
        cdef PyObject *found
        cdef tuple keys = None
        cdef int kind = UNKNOWN
        cdef bint keep = True
        if self._kinds is None:
            self._kinds = _load_kinds()
        found = PyDict_GetItemWithError(self._kinds, type(query))
        if found is not NULL:
            kind = <int>(<object>found)
        if values is not None and not PyDict_CheckExact(values):
            kind = UNKNOWN
        elif not values:
            values = None
            if kind >= CHANGE:
                keys = ()
        elif kind == QUERY:
            if not _all_named(values):
                kind = UNKNOWN
        elif kind != UNKNOWN:
            if _all_plain(values):
                keys = tuple(values)
            else:
                kind = UNKNOWN
        if kind == UNKNOWN:
            adapted, values, keys = self._compiler.adapt(query, values)
            keep = adapted is query
            query = adapted
        elif kind == BARE and len(<dict?>query.__dict__) == 1:
            return self._bare_insert(query, keys, many), values
        return self._expression(query, keys, many, keep), values

    cdef _Same _bare_insert(self, object query, tuple keys, bint many):
        """Look insert(table) up: the table and the names of the values say all."""
        cdef _Same same = _Same.__new__(_Same)
        cdef tuple key = (type(query), query.table, keys, many)
        same.entry = self._found(key)
        if same.entry is None:
            self._misses += 1
            same.entry = _Compiled(self._compiler.compile_expression(query, keys, many), keys)
            self._store(key, same.entry)
        return same

    cdef _Same _expression(self, object query, tuple keys, bint many, bint keep):
        cdef _Same same
        cdef PyObject *found
        cdef object identity = <Py_ssize_t><void *>query
        if keys is not None or many:
            identity = (identity, keys, many)
        found = PyDict_GetItemWithError(self._same, identity)
        if found is not NULL:
            same = <_Same>found
            if same.reference() is query:
                # The same object again: no more than a look-up, whatever it is.
                self._hits += 1
                same.used = True
                return same
        same = _Same.__new__(_Same)
        if self._look_up(same, query, keys, many):
            if keep:
                keep = same.entry.recent is not None and same.entry.recent() is query
            if not same.entry.plain:
                if keep:
                    columns = own_columns(query, True)
                    same.result = same.entry.compiled.result.for_columns(columns)
                    same.plans = {}
                else:
                    same.result = same.entry.compiled.result
                    same.query = query
            if not keep:
                # Most expressions are made anew for each call; one that comes again is kept.
                try:
                    same.entry.recent = PyWeakref_NewRef(query, None)
                except TypeError:  # an expression class without weak references
                    pass
        if keep and self._maxsize:
            self._remember(query, same, identity)
        return same

    cdef bint _look_up(self, _Same same, object query, tuple keys, bint many) except -1:
        """Find or make the entry of an expression; return whether there was one."""
        cdef _Walker walker = self._walker
        cdef object key = None
        cdef object cache_key = None
        cdef list kept = None
        if walker is None and self._walks:
            walker = self._start_walker()
        if walker is not None and walker.walk(query):
            same.extracted = walker.binds
            walker.out.append(keys)
            walker.out.append(many)
            key = tuple(walker.out)
            kept = walker.kept
            walker.out = walker.binds = walker.kept = None  # it may be long before the next walk
        else:
            mark = fingerprint(query)
            if mark is not None:
                same.extracted = list(mark.binds)
                same.collected = mark.collected
                cache_key = mark.cache_key
                key = (mark.key, keys, many)
        if key is not None:
            same.entry = self._found(key)
            if same.entry is not None:
                return True
            if cache_key is None:
                cache_key = cache_key_of(same.extracted)
        self._misses += 1
        compiled = self._compiler.compile_expression(query, keys, many, cache_key)
        same.entry = _Compiled(compiled, keys)
        same.entry.kept = kept
        if compiled.shared:
            self._store(key, same.entry)
        else:
            same.extracted = same.collected = None
        return False

    cdef _Compiled _found(self, object key):
        cdef PyObject *found = PyDict_GetItemWithError(self._entries, key)
        cdef _Compiled entry
        if found is NULL:
            return None
        entry = <_Compiled>found
        entry.used = True
        self._hits += 1
        return entry

    cdef tuple _bound(self, _Same same, object values):
        cdef tuple bound = same.entry.bind(values, same.extracted, same.collected)
        if same.result is None:
            return bound
        plan, args, given = bound
        if same.plans is None:
            return _for_columns(plan, same.result, same.query), args, given
        own = same.plans.get(plan)
        if own is None:
            if len(same.plans) >= _MAX_PLANS:
                same.plans.clear()
            own = same.plans[plan] = _for_columns(plan, same.result, None)
        return own, args, given

    cdef _Walker _start_walker(self):
        cdef _Walker walker = _Walker()
        try:
            wrong = check_walk(walker.walked)
        except Exception as exc:  # whatever this SQLAlchemy does otherwise
            wrong = repr(exc)
        if wrong is None:
            self._walker = walker
            return walker
        self._walks = False
        logging.getLogger("fastdb").warning(
            "expressions are looked up the slow way: with this version of SQLAlchemy %s", wrong
        )
        return None

    cdef int _remember(self, object query, _Same same, object same_key) except -1:
        cdef _Same found
        known = self._same

        def forget(reference):
            same = known.get(same_key)
            if same is not None and (<_Same>same).reference is reference:
                del known[same_key]

        try:
            same.reference = weakref.ref(query, forget)
        except TypeError:  # an expression class without weak references
            return 0
        known[same_key] = same
        while len(known) > self._maxsize:
            oldest = next(iter(known))
            found = <_Same>known.pop(oldest)
            if found.used:
                found.used = False
                known[oldest] = found
        return 0
