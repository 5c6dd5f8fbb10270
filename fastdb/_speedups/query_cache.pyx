# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: freethreading_compatible=True
# (binding: see records.pyx)
"""The query cache: from a query and values to SQL and arguments, each query compiled once.

The slow half, compiling, is :mod:`fastdb.compiler`'s. What is compiled here is the way that every
further call takes: look-up and binding in one step.
"""

import logging
import weakref
from typing import NamedTuple

cimport cython
from cpython.dict cimport PyDict_CheckExact, PyDict_GetItemWithError, PyDict_Size
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_Check, PyUnicode_CheckExact
from cpython.weakref cimport PyWeakref_NewRef

from fastdb._speedups.binding cimport Entry, ExpressionEntry, TextEntry, is_common
from fastdb._speedups.fingerprint cimport Walk, Walker
from fastdb._speedups.plans cimport QueryPlan
from fastdb._speedups.sharing cimport value_of

from fastdb.exceptions import OptionError

__all__ = ["CacheInfo", "QueryCache"]


class CacheInfo(NamedTuple):
    """How a query cache has fared."""

    hits: int
    misses: int
    evictions: int
    maxsize: int
    currsize: int


@cython.freelist(16)
cdef class _Same:
    """What is known of one expression object."""

    cdef object reference  # weak
    cdef bint used
    cdef ExpressionEntry entry
    cdef list extracted
    cdef object collected
    cdef object result  # its own columns, where an equal expression has others
    cdef object query  # whose columns these are, where they were not looked at yet
    cdef dict plans


#: SQL texts kept per expression object for lists of different lengths.
cdef Py_ssize_t _MAX_PLANS = 64


cdef bint _all_plain(dict values, object plain_types):
    """Return whether every key is a plain string and no value can be an expression."""
    for key, value in values.items():
        if not PyUnicode_CheckExact(key):
            return False
        if not is_common(value) and type(value) not in plain_types:
            return False
    return True


cdef int _name_row(object error, object number) except -1:
    from fastdb.compiler_parts import name_row

    name_row(error, number)
    return 0


cdef int _check_row(object row, object number) except -1:
    from fastdb.compiler_parts import check_row

    check_row(row, number)
    return 0


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
    cdef object _plain_types
    cdef Walker _walker
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
        cdef TextEntry text
        with cython.critical_section(self):
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
        cdef TextEntry text
        cdef _Same same = None
        cdef tuple args
        for number, row in enumerate(rows):
            if not PyDict_CheckExact(row):
                _check_row(row, number)
            try:
                with cython.critical_section(self):
                    if isinstance(query, str):
                        text = self._text(query)
                        plan = text.plan
                        args = text.arguments(row)
                    else:
                        # The names are most often those of the row before.
                        args = None
                        if same is not None and PyDict_CheckExact(row):
                            args = same.entry.bind_row(row, same.extracted, self._plain_types)
                        if args is not None:
                            self._hits += 1
                            plan = same.entry.plan
                        else:
                            same, values = self._find(query, row, True)
                            plan, args, _ = self._bound(same, values)
                            if same.entry.row_size < 0 or same.collected is not None:
                                same = None
            except Exception as exc:
                _name_row(exc, number)
                raise
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
        with cython.critical_section(self):
            return CacheInfo(
                self._hits, self._misses, self._evictions, self._maxsize, len(self._entries)
            )

    def clear(self):
        """Forget every query; the counts start again."""
        with cython.critical_section(self):
            self._entries.clear()
            self._same.clear()
            self._hits = self._misses = self._evictions = 0

    cdef int _load(self) except -1:
        """Load what only expressions need."""
        from sqlalchemy.dialects import mysql, postgresql, sqlite
        from sqlalchemy.sql.dml import Delete, Insert, Update
        from sqlalchemy.sql.elements import TextClause
        from sqlalchemy.sql.selectable import CompoundSelect, Select, TextualSelect

        from fastdb.compiler_statement import PLAIN_TYPES

        kinds = dict.fromkeys((Select, CompoundSelect, TextualSelect, TextClause, Delete), QUERY)
        kinds[Update] = CHANGE
        kinds.update(dict.fromkeys((Insert, mysql.Insert, postgresql.Insert, sqlite.Insert), BARE))
        self._plain_types = PLAIN_TYPES
        self._kinds = kinds
        return 0

    cdef int _store(self, object key, Entry entry) except -1:
        cdef Entry found
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

    cdef TextEntry _text(self, object query):
        cdef PyObject *found
        cdef TextEntry text
        if not PyUnicode_CheckExact(query):
            query = str.__str__(query)  # it might equal the key of an expression
        found = PyDict_GetItemWithError(self._entries, query)
        if found is not NULL:
            text = <TextEntry>found
            text.used = True
            self._hits += 1
            return text
        self._misses += 1
        compiled = self._compiler.compile_text(query)
        text = TextEntry.__new__(TextEntry)
        text.compiled = compiled
        text.plan = QueryPlan(compiled.parts)
        text.names = compiled.names
        text.distinct = len(compiled.takes)
        text.adapt = compiled.adapt
        self._store(query, text)
        return text

    cdef tuple _find(self, object query, object values, bint many):
        """Return what is known of an expression, and the values in the form for binding."""
        cdef PyObject *found
        cdef tuple keys = None
        cdef int kind = UNKNOWN
        cdef bint keep = True
        if self._kinds is None:
            self._load()
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
            if _all_plain(values, self._plain_types):
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
            same.entry = ExpressionEntry(self._compiler.compile_expression(query, keys, many), keys)
            self._store(key, same.entry)
        return same

    cdef _Same _expression(self, object query, tuple keys, bint many, bint keep):
        cdef _Same same
        cdef object identity = <Py_ssize_t><void *>query
        if keys is not None or many:
            identity = (identity, keys, many)
        same = <_Same>value_of(self._same, identity, None)
        if same is not None:
            if same.reference() is query:
                # The same object again: no more than a look-up, whatever it is.
                self._hits += 1
                same.used = True
                return same
        same = _Same.__new__(_Same)
        if self._look_up(same, query, keys, many):
            if keep:
                keep = self._comes_again(same.entry, query)
            if not same.entry.plain:
                same.result = same.entry.compiled.result
                if keep:
                    same.result = same.result.for_query(query, at_once=True)
                    same.plans = {}
                else:
                    same.query = query
        if keep and self._maxsize:
            self._remember(query, same, identity)
        return same

    cdef bint _look_up(self, _Same same, object query, tuple keys, bint many) except -1:
        """Find or make the entry of an expression; return whether there was one."""
        cdef Walker walker = self._walker
        cdef Walk walk = None
        cdef object key = None
        cdef object cache_key = None
        if walker is None and self._walks:
            walker = self._start_walker()
        if walker is not None:
            walk = walker.walk(query, False)
        if walk is not None:
            key = walk.key(keys, many)
            same.extracted = walk.binds
        else:
            from fastdb.compiler_fingerprint import fingerprint

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
        if walk is not None:
            from fastdb.compiler_fingerprint import cache_key_of

            # Once more, to have what must be kept with the key.
            walk = walker.walk(query, True)
            key = walk.key(keys, many)
            same.extracted = walk.binds
            cache_key = cache_key_of(walk.binds)
        self._misses += 1
        compiled = self._compiler.compile_expression(query, keys, many, cache_key)
        same.entry = ExpressionEntry(compiled, keys)
        if compiled.shared:
            if walk is not None:
                same.entry.kept = walk.kept
            self._store(key, same.entry)
        else:
            same.extracted = same.collected = None
        return False

    cdef bint _comes_again(self, ExpressionEntry entry, object query) except -1:
        """Return whether this very expression was met before, as far as is remembered.

        Most are made anew for each call. So one in four is remembered, until the next is.
        """
        if entry.recent is not None and entry.recent() is query:
            return True
        entry.found += 1
        if entry.found & 3 == 1:
            try:
                entry.recent = PyWeakref_NewRef(query, None)
            except TypeError:  # pragma: no cover: expressions without weak references
                pass  # pragma: no cover: as above
        return False

    cdef ExpressionEntry _found(self, object key):
        cdef PyObject *found = PyDict_GetItemWithError(self._entries, key)
        cdef ExpressionEntry entry
        if found is NULL:
            return None
        entry = <ExpressionEntry>found
        entry.used = True
        self._hits += 1
        return entry

    cdef tuple _bound(self, _Same same, object values):
        cdef tuple bound = same.entry.bind(values, same.extracted, same.collected)
        cdef QueryPlan plan, own
        if same.result is None:
            return bound
        plan, args, given = bound
        if same.plans is None:
            return plan.for_columns(same.result, same.query), args, given
        own = same.plans.get(plan)
        if own is None:
            if len(same.plans) >= _MAX_PLANS:
                same.plans.clear()
            own = same.plans[plan] = plan.for_columns(same.result, None)
        return own, args, given

    cdef Walker _start_walker(self):
        from fastdb.compiler_fingerprint import check_walk

        cdef Walker walker = Walker()
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
                known.pop(same_key, None)  # another thread may have been quicker

        try:
            same.reference = weakref.ref(query, forget)
        except TypeError:  # pragma: no cover: expressions without weak references
            return 0  # pragma: no cover: as above
        known[same_key] = same
        while len(known) > self._maxsize:
            try:
                oldest = next(iter(known))
                found = known.pop(oldest, None)
            except (RuntimeError, StopIteration):  # pragma: no cover: one was forgotten meanwhile
                continue  # pragma: no cover: as above
            if found is not None and found.used:
                found.used = False
                known[oldest] = found
        return 0
