# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# (binding: see records.pyx)
"""The query cache: from a query and values to SQL and arguments, each query compiled once.

The slow half, compiling, is :mod:`fastdb.compiler`'s. What is compiled here is the way that every
further call takes: look-up and binding in one step.
"""

import logging
import weakref
from collections import OrderedDict
from enum import Enum

from cpython.dict cimport PyDict_CheckExact, PyDict_GetItemWithError, PyDict_Size
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_CheckExact

from typing import NamedTuple

from fastdb._speedups.records import RecordLayout
from fastdb.compiler import PLAIN_TYPES
from fastdb.compiler_columns import own_columns
from fastdb.compiler_expression import refuse_value
from fastdb.compiler_fingerprint import (
    Fingerprint,
    cache_key_of,
    check_walk,
    fingerprint,
    is_simple_type,
    traversal_of,
    type_tokens,
)
from fastdb.compiler_parts import MISSING, check_row
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
        if result is None:
            layout = RecordLayout(names)
        else:
            layout = RecordLayout(names, result.converters(names), result.locator(names))
        self._layout_names = names
        self._layout = layout
        return layout

    def __repr__(self):
        return f"<QueryPlan {self.verb or 'unknown'}: {self.sql!r}>"


cdef QueryPlan _for_columns(QueryPlan plan, object result):
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
    return copy


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
            if self.adapt is not None:
                value = self.adapt(value)
            Py_INCREF(value)
            PyTuple_SET_ITEM(args, place, value)
        return args


cdef class _Compiled(_Entry):
    """A compiled expression, its slots laid out for the loop that binds them."""

    cdef bint simple
    cdef QueryPlan plan
    cdef object variant
    cdef tuple slots
    cdef tuple keys
    cdef tuple indexes
    cdef tuple binds
    cdef tuple processors
    cdef tuple required
    cdef tuple order
    cdef tuple constants
    cdef tuple given_slots
    cdef object own_collected
    cdef object recent  # the id() of the expression that was last found to be equal

    def __init__(self, expression):
        self.compiled = expression
        self.simple = expression.simple
        self.variant = expression.variant
        self.slots = expression.slots
        self.keys = tuple([slot.key for slot in self.slots])
        self.indexes = tuple([slot.position for slot in self.slots])
        self.binds = tuple([slot.bind for slot in self.slots])
        self.processors = tuple([slot.processor for slot in self.slots])
        self.required = tuple([slot.required for slot in self.slots])
        self.order = expression.order
        self.constants = expression.constants
        self.given_slots = expression.given_slots
        self.own_collected = expression.collected
        self.recent = 0

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
        cdef tuple args
        cdef object value, key, bind, given
        if (
            not self.simple
            or collected is not None
            or self.own_collected is not None
            or (values is not None and not PyDict_CheckExact(values))
        ):
            return self.bind_slowly(values, extracted, collected)
        if self.plan is None:
            self.plan = self.plan_of(self.variant)
        size = PyTuple_GET_SIZE(self.slots)
        raw = []
        for place in range(size):
            key = <object>PyTuple_GET_ITEM(self.keys, place)
            if key is not None and values is not None:
                found = PyDict_GetItemWithError(values, key)
                if found is not NULL:
                    raw.append(<object>found)
                    used += 1
                    continue
            if <object>PyTuple_GET_ITEM(self.required, place) is True:
                return self.bind_slowly(values, extracted, collected)  # raises
            index = <object>PyTuple_GET_ITEM(self.indexes, place)
            if extracted is None or index < 0:
                bind = <object>PyTuple_GET_ITEM(self.binds, place)
            else:
                bind = extracted[index]
            if bind.callable is None:
                raw.append(bind.value)
            else:
                raw.append(bind.effective_value)
        if values is not None and used < PyDict_Size(values):
            return self.bind_slowly(values, extracted, collected)  # raises
        for index, value in self.constants:
            raw[index] = value
        given = None
        if self.given_slots is not None:
            given = self.given_of(raw)
            for value in given:
                if value is None:
                    return self.bind_slowly(values, extracted, collected)
        for place in range(size):
            processor = <object>PyTuple_GET_ITEM(self.processors, place)
            if processor is not None:
                try:
                    raw[place] = processor(raw[place])
                except Exception as exc:
                    slot = self.slots[place]
                    refuse_value(exc, raw[place], slot.bind, slot.key or slot.name)
        if self.order is None:
            args = tuple(raw)
        else:
            args = tuple([raw[index] for index in self.order])
        return self.plan, args, given

    cdef tuple given_of(self, list raw):
        return tuple([MISSING if place < 0 else raw[place] for place in self.given_slots])

    cdef tuple bind_slowly(self, object values, object extracted, object collected):
        variant, args, given = self.compiled.arguments(values, extracted, collected)
        return self.plan_of(variant), args, given


cdef class _Same:
    """What is known of one expression object that was run before."""

    cdef object reference
    cdef _Compiled entry
    cdef object extracted
    cdef object collected
    cdef object result
    cdef dict plans


#: SQL texts kept per expression object for lists of different lengths.
cdef Py_ssize_t _MAX_PLANS = 64

cdef object _bare_insert_classes = None


cdef object _bare_inserts():
    global _bare_insert_classes
    if _bare_insert_classes is None:
        from sqlalchemy.dialects import mysql, postgresql, sqlite
        from sqlalchemy.sql.dml import Insert

        _bare_insert_classes = frozenset(
            {Insert, mysql.dml.Insert, postgresql.dml.Insert, sqlite.dml.Insert}
        )
    return _bare_insert_classes


cdef bint _all_plain(dict values):
    """Return whether every key is a plain string and no value can be an expression."""
    for key, value in values.items():
        if not PyUnicode_CheckExact(key) or type(value) not in PLAIN_TYPES:
            return False
    return True


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


cdef class _Walker:
    """Walk over expressions; make keys that are equal where their SQL is.

    A key lists, element by element, its class and every attribute that is set, closed by an end
    mark; an element that was met before is its number. Tables and their columns stand for
    themselves, types as :func:`fastdb.compiler_fingerprint.type_tokens` tells. The key holds a
    reference to each.
    """

    cdef dict traversals
    cdef dict simple
    cdef object table_class
    cdef object column_class
    cdef object bind_class
    cdef object limit_class
    cdef object anonymous
    cdef object prefix_map
    cdef list out
    cdef list binds
    cdef dict seen
    cdef object names

    def __init__(self):
        from sqlalchemy.schema import Column, Table
        from sqlalchemy.sql.elements import BindParameter, _anonymous_label
        from sqlalchemy.sql.selectable import _OffsetLimitParam
        from sqlalchemy.sql.visitors import prefix_anon_map

        self.traversals = {}
        self.simple = {}
        self.table_class = Table
        self.column_class = Column
        self.bind_class = BindParameter
        self.limit_class = _OffsetLimitParam
        self.anonymous = _anonymous_label
        self.prefix_map = prefix_anon_map

    def walk(self, query):
        """Return key (a list) and binds of an expression, or None where it cannot be told."""
        options = query.__dict__.get("_execution_options")
        if options and "schema_translate_map" in options:
            return None
        self.out = []
        self.binds = []
        self.seen = {}
        self.names = None
        try:
            if not self.element(query):
                return None
            return self.out, self.binds
        finally:
            self.out = self.binds = self.seen = self.names = None

    cdef int element(self, object element) except -1:
        """Add an element; return 0 where it cannot be told."""
        cdef object element_class = type(element)
        cdef PyObject *found
        cdef dict codes, attributes
        if element_class is self.table_class:
            self.out.append(element)
            return 1
        if element_class is self.column_class and type(element.table) is self.table_class:
            self.out.append(element)
            return 1
        identity = id(element)
        found = PyDict_GetItemWithError(self.seen, identity)
        if found is not NULL:
            self.out.append(<object>found)
            return 1
        self.seen[identity] = len(self.seen)
        if element_class is self.bind_class or element_class is self.limit_class:
            return self.bind(element, element_class)
        found = PyDict_GetItemWithError(self.traversals, element_class)
        if found is NULL:
            traversal = self.traversals[element_class] = traversal_of(element_class)
        else:
            traversal = <object>found
        if traversal is None:
            return 0
        codes = <dict>(traversal[0])
        self.out.append(element_class)
        attributes = <dict?>(element.__dict__)
        for name, value in attributes.items():
            found = PyDict_GetItemWithError(codes, name)
            if found is NULL:
                if name == "_annotations" and value:
                    return 0
                continue
            self.out.append(name)
            if not self.attribute(<int>(<object>found), value):
                return 0
        for name in <tuple>(traversal[1]):
            if name not in attributes:
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

    cdef int plain(self, object value) except -1:
        kind = type(value)
        if kind is str or kind is bool or callable(value):
            self.out.append(value)
            return 1
        if kind is tuple:
            for each in value:
                if each is not None and type(each) is not str and type(each) is not int:
                    return 0
        elif not isinstance(value, (int, Enum)):
            return 0
        self.out.append(kind)
        self.out.append(value)
        return 1

    cdef int type(self, object type_) except -1:
        if is_simple_type(type_):
            self.out.append(type_._static_cache_key)
        else:
            self.out.extend(type_tokens(type_))
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
        self.out.append(bind_class)
        attributes = bind.__dict__
        if attributes.get("_annotations"):
            return 0
        self.out.append(
            (
                bind.unique,
                bind.required,
                bind.expanding,
                bind.literal_execute,
                bind.isoutparam,
                bind.callable is None,
                bind.value is None,
            )
        )
        self.out.append(attributes.get("_orig_key"))
        if not bind.unique:
            self.out.append(bind.key)
        self.out.append(attributes.get("expand_op"))
        if not self.type(bind.type):
            return 0
        self.binds.append(bind)
        return 1


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
    cdef object _same
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
        self._same = OrderedDict()
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
        return self._expression(query, values, False)

    def prepare_many(self, query, rows, batch_size):
        """Yield batches of rows that share one SQL text, each of at most `batch_size` rows.

        Nothing is read of `rows` before the first batch is asked for, nor ahead of it.
        """
        cdef list batch = []
        cdef QueryPlan current = None
        cdef QueryPlan plan
        cdef _Text text
        for number, row in enumerate(rows):
            if not PyDict_CheckExact(row):
                check_row(row, number)
            if isinstance(query, str):
                text = self._text(query)
                plan = text.plan
                args = text.arguments(row)
            else:
                plan, args, _ = self._expression(query, row, True)
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

    cdef tuple _expression(self, object query, object values, bint many):
        cdef _Same same
        cdef tuple keys
        # The same object again: no more than a look-up, whatever it is.
        if values is None:
            known = self._same.get((id(query), None, many))
            if known is None:
                known = self._same.get((id(query), (), many))
        elif PyDict_CheckExact(values) and _all_plain(values):
            known = self._same.get((id(query), None, many))
            if known is None:
                keys = tuple(values)
                known = self._same.get((id(query), keys, many))
                if known is None and type(query) in _bare_inserts() and len(query.__dict__) == 1:
                    return self._bare_insert(query, values, keys, many)
        else:
            known = None
        if known is not None:
            same = <_Same>known
            if same.reference() is query:
                self._hits += 1
                return self._bound(same, values)
        return self._generally(query, values, many)

    cdef tuple _bare_insert(self, object query, object values, tuple keys, bint many):
        """Bind insert(table): the table and the names of the values say all."""
        cdef _Compiled entry
        cdef tuple key = (type(query), query.table, keys, many)
        cdef PyObject *found = PyDict_GetItemWithError(self._entries, key)
        if found is not NULL:
            entry = <_Compiled>found
            entry.used = True
            self._hits += 1
        else:
            self._misses += 1
            entry = _Compiled(self._compiler.compile_expression(query, keys, many))
            self._store(key, entry)
        return entry.bind(values, None, None)

    cdef tuple _generally(self, object query, object values, bint many):
        cdef _Same same
        original = query
        query, values, keys = self._compiler.adapt(query, values)
        same_key = (id(query), keys, many)
        known = self._same.get(same_key)
        if known is not None and (<_Same>known).reference() is query:
            same = <_Same>known
            self._hits += 1
            self._same.move_to_end(same_key)
        else:
            same = self._find(query, keys, many, query is original, same_key)
        return self._bound(same, values)

    cdef tuple _bound(self, _Same same, object values):
        cdef tuple bound = same.entry.bind(values, same.extracted, same.collected)
        if same.result is None:
            return bound
        plan, args, given = bound
        own = same.plans.get(plan)
        if own is None:
            if len(same.plans) >= _MAX_PLANS:
                same.plans.clear()
            own = same.plans[plan] = _for_columns(plan, same.result)
        return own, args, given

    cdef _Same _find(self, object query, object keys, bint many, bint keep, object same_key):
        cdef PyObject *found = NULL
        cdef _Compiled entry = None
        cdef _Same same = _Same.__new__(_Same)
        key = None
        mark = self._fingerprint(query)
        if mark is not None:
            same.extracted = mark.binds
            same.collected = mark.collected
            key = (mark.key, keys, many)
            found = PyDict_GetItemWithError(self._entries, key)
            if found is not NULL:
                entry = <_Compiled>found
                entry.used = True
        if entry is None:
            self._misses += 1
            entry = _Compiled(
                self._compiler.compile_expression(
                    query,
                    keys,
                    many,
                    None if mark is None else mark.cache_key or cache_key_of(mark.binds),
                )
            )
            if entry.compiled.shared:
                self._store(key, entry)
            else:
                same.extracted = same.collected = None
        else:
            self._hits += 1
            # Most expressions are made anew for each call; one that comes again is worth keeping.
            identity = id(query)
            keep = keep and entry.recent == identity
            entry.recent = identity
            result = entry.compiled.result
            if result is not None and not result.plain:
                same.result = result.for_columns(own_columns(query, keep))
                same.plans = {}
        same.entry = entry
        if keep and self._maxsize:
            self._remember(query, same, same_key)
        return same

    cdef object _fingerprint(self, object query):
        if self._walks:
            if self._walker is None:
                self._start_walker()
            if self._walks:
                walked = self._walker.walk(query)
                if walked is not None:
                    key, binds = walked
                    return Fingerprint(tuple(key), binds, None, None)
        return fingerprint(query)

    cdef int _start_walker(self) except -1:
        cdef _Walker walker = _Walker()

        def walk(query):
            walked = walker.walk(query)
            return None if walked is None else (tuple(walked[0]), walked[1])

        try:
            wrong = check_walk(walk)
        except Exception as exc:  # whatever this SQLAlchemy does otherwise
            wrong = repr(exc)
        if wrong is not None:
            self._walks = False
            logging.getLogger("fastdb").warning(
                "expressions are looked up the slow way: with this version of SQLAlchemy %s", wrong
            )
        self._walker = walker
        return 0

    cdef int _remember(self, object query, _Same same, object same_key) except -1:
        known = self._same

        def forget(reference):
            found = known.get(same_key)
            if found is not None and (<_Same>found).reference is reference:
                del known[same_key]

        try:
            same.reference = weakref.ref(query, forget)
        except TypeError:  # an expression class without weak references
            return 0
        known[same_key] = same
        if len(known) > self._maxsize:
            known.popitem(last=False)
        return 0
