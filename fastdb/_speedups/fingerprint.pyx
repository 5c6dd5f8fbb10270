# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: freethreading_compatible=True
# (binding: see records.pyx)
"""The walk over an expression that gives its fingerprint.

It makes a key that lists, element by element, a mark that stands for the class and the names of
its attributes, and every attribute that is set; an element that was met before is its number.
Tables and their columns are their addresses, types as
:func:`fastdb.compiler_fingerprint.type_token` tells. Values that are bound are not in it.

Most elements of one class have the same attributes in the same order. So a :class:`Shape` is
looked for first, pointer by pointer, and nothing is looked up by its name.
"""

from enum import Enum

cimport cython
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next, PyDict_Size
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject, PyObject_IsTrue, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_CheckExact

from fastdb._speedups.sharing cimport unchanging, value_of

__all__ = ["Walker"]

cdef extern from "Python.h":
    object PyObject_GenericGetDict(object element, void *context)
    object PyLong_FromVoidPtr(void *address)
    bint PyCallable_Check(object value)
    bint PyType_IsSubtype(PyTypeObject *kind, PyTypeObject *base)
    PyTypeObject *Py_TYPE(object value)

# The codes of fastdb.compiler_fingerprint.
cdef enum:
    SKIPPED = -1
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
    REFUSED = 12  # what the key does not tell, and is there

#: Attributes of a bind, by their places in Shape.places.
cdef tuple PARAMETER = (
    "unique", "required", "expanding", "literal_execute", "isoutparam", "callable", "value",
    "_orig_key", "key", "expand_op", "type",
)

cdef enum:
    UNIQUE = 0
    IS_OUT = 4
    CALLABLE = 5
    VALUE = 6
    ORIGINAL_KEY = 7
    KEY = 8
    EXPAND_OPERATOR = 9
    BIND_TYPE = 10
    PARAMETER_ATTRIBUTES = 11

    MOST_SHAPES = 64  # kept for one class
    MOST_MARKS = 1024
    MOST_CLASSES = 1024
    MOST_TYPES = 1024  # of which is remembered what tells them from others
    DEEPEST = 200  # as fastdb.compiler_fingerprint has it

cdef PyTypeObject *ENUM = <PyTypeObject *>Enum


@cython.final
@cython.no_gc_clear  # a table of pointers into `_owned` would outlive it
cdef class AddressMap:
    def __cinit__(self):
        self._owned = []
        self._mask = 15
        self._keys = <PyObject **>PyMem_Calloc(self._mask + 1, sizeof(PyObject *))
        self._values = <PyObject **>PyMem_Calloc(self._mask + 1, sizeof(PyObject *))
        if self._keys is NULL or self._values is NULL:
            raise MemoryError  # pragma: no cover: no memory

    def __dealloc__(self):
        PyMem_Free(self._keys)
        PyMem_Free(self._values)

    cdef PyObject *get(self, PyObject *key) noexcept:
        """Return the value, borrowed, or NULL."""
        cdef size_t place = (<size_t>key >> 4) & self._mask
        while self._keys[place] is not NULL:
            if self._keys[place] is key:
                return self._values[place]
            place = (place + 1) & self._mask
        return NULL

    cdef int put(self, object key, object value) except -1:
        """Add a key that is not there."""
        cdef size_t place
        if self._used * 2 > self._mask:
            self._grow()
        self._owned.append((key, value))
        self._used += 1
        place = (<size_t><void *>key >> 4) & self._mask
        while self._keys[place] is not NULL:
            place = (place + 1) & self._mask
        self._keys[place] = <PyObject *>key
        self._values[place] = <PyObject *>value
        return 0

    cdef int _grow(self) except -1:
        cdef size_t place, new, mask = self._mask * 2 + 1
        cdef PyObject **keys = <PyObject **>PyMem_Calloc(mask + 1, sizeof(PyObject *))
        cdef PyObject **values = <PyObject **>PyMem_Calloc(mask + 1, sizeof(PyObject *))
        if keys is NULL or values is NULL:
            PyMem_Free(keys)  # pragma: no cover: no memory
            PyMem_Free(values)  # pragma: no cover: no memory
            raise MemoryError  # pragma: no cover: no memory
        for place in range(self._mask + 1):
            if self._keys[place] is not NULL:
                new = (<size_t>self._keys[place] >> 4) & mask
                while keys[new] is not NULL:
                    new = (new + 1) & mask
                keys[new] = self._keys[place]
                values[new] = self._values[place]
        PyMem_Free(self._keys)
        PyMem_Free(self._values)
        self._keys, self._values, self._mask = keys, values, mask
        return 0


@cython.final
cdef class ElementClass:
    cdef bint matches(self, Shape shape, dict attributes, PyObject **values) noexcept:
        """Fill `values` from a ``__dict__``; return whether it has the names of a shape."""
        cdef Py_ssize_t position = 0, place = 0
        cdef PyObject *name
        cdef PyObject *value
        if PyDict_Size(attributes) != shape.size:
            return False
        while PyDict_Next(attributes, &position, &name, &value):
            if name is not <PyObject *>PyTuple_GET_ITEM(shape.names, place):
                return False
            values[place] = value
            place += 1
        return True

    cdef Shape collect(self, dict attributes, PyObject **values):
        """Return the shape of a ``__dict__``, its values in `values`; None where it is too big."""
        cdef Shape shape
        if self.last is not None and self.matches(self.last, attributes, values):
            return self.last
        for shape in self.shapes:
            if self.matches(shape, attributes, values):
                self.last = shape
                return shape
        names = tuple(attributes)
        if len(names) > MOST_ATTRIBUTES:
            return None
        if len(self.shapes) >= MOST_SHAPES:
            self.shapes.clear()
        shape = self.shape_of(names)
        self.shapes.append(shape)
        self.last = shape
        # The collector may have run, and with it whatever changes the element.
        return shape if self.matches(shape, attributes, values) else None

    cdef Shape shape_of(self, tuple names):
        cdef Shape shape = Shape.__new__(Shape)
        cdef Py_ssize_t place
        cdef list told = []
        shape.names = names
        shape.size = len(names)
        for place, name in enumerate(names):
            code = self.codes.get(name)
            if code is not None:
                told.append(name)
                shape.codes[place] = code
            else:
                shape.codes[place] = REFUSED if name == "_annotations" else SKIPPED
        if self.is_parameter:
            for place, name in enumerate(PARAMETER):
                if name in names:
                    shape.places[place] = names.index(name)
                elif name in ("_orig_key", "expand_op"):  # pragma: no cover: other SQLAlchemy
                    shape.places[place] = -1  # pragma: no cover: other SQLAlchemy
                else:
                    raise KeyError(name)  # pragma: no cover: other SQLAlchemy
        shape.computed = tuple(
            [
                (name, self.codes[name])
                for name, sources in self.computed
                if name not in names
                and (not sources or any([source in names for source in sources]))
            ]
        )
        # Of two elements that differ only in what the key leaves out the mark is the same.
        described = (*told, None, *[name for name, _ in shape.computed])
        if len(self.marks) >= MOST_MARKS:
            self.marks.clear()  # pragma: no cover: no class has as many
        shape.mark = self.marks.setdefault(described, object())
        return shape


@cython.final
@cython.freelist(4)
cdef class Walk:
    def __dealloc__(self):
        cdef int place
        for place in range(self._size):
            Py_DECREF(<object>self._pieces[place])

    cdef tuple key(self, object keys, object many):
        """Return the key, with what else tells statements apart; once."""
        cdef int place, size
        cdef tuple key
        self.put(keys)
        self.put(many)
        size, self._size = self._size, 0
        key = PyTuple_New(size)
        for place in range(size):  # the references move
            PyTuple_SET_ITEM(key, place, <object>self._pieces[place])
        return key if self._more is None else (*self._more, *key)

    cdef int put(self, object piece) except -1:
        cdef int place
        if self._size == ROOM:
            if self._more is None:
                self._more = []
            for place in range(ROOM):
                self._more.append(<object>self._pieces[place])
            self._size = 0
            for place in range(ROOM):
                Py_DECREF(<object>self._pieces[place])
        Py_INCREF(piece)
        self._pieces[self._size] = <PyObject *>piece
        self._size += 1
        return 0

    cdef int element(self, object element) except -1:
        """Add an element; return 0 where it cannot be told."""
        cdef PyObject *values[MOST_ATTRIBUTES]
        cdef Walker walker = self.walker
        cdef PyTypeObject *element_class = Py_TYPE(element)
        cdef PyObject *found
        cdef dict attributes
        cdef ElementClass known
        cdef Shape shape
        cdef Py_ssize_t place
        cdef int number
        if element_class is <PyTypeObject *>walker.column_class:
            attributes = <dict?>PyObject_GenericGetDict(element, NULL)
            owner = value_of(attributes, "table", None)
            if Py_TYPE(owner) is <PyTypeObject *>walker.table_class:
                return self.address(element)
        elif element_class is <PyTypeObject *>walker.table_class:
            return self.address(element)
        number = self.number_of(element)
        if number >= 0:
            self.put(-1 - number)  # no address
            return 1
        found = walker.classes.get(<PyObject *>element_class)
        known = walker.class_of(type(element)) if found is NULL else <ElementClass>found
        if known.codes is None or self._depth == DEEPEST:
            return 0
        attributes = unchanging(<dict?>PyObject_GenericGetDict(element, NULL))
        shape = known.collect(attributes, values)
        if shape is None:
            return 0
        # Whatever runs meanwhile, they stay.
        for place in range(shape.size):
            Py_INCREF(<object>values[place])
        self._depth += 1
        try:
            if known.is_parameter:
                return self.parameter(element, shape, values)
            return self.attributes(element, shape, values)
        finally:
            self._depth -= 1
            for place in range(shape.size):
                Py_DECREF(<object>values[place])

    cdef int address(self, object thing) except -1:
        # They hash in Python; the entry keeps them, so that no other takes the address.
        self.put(PyLong_FromVoidPtr(<void *>thing))
        if self.kept is not None:
            self.kept.append(thing)
        return 1

    cdef int number_of(self, object element) except -2:
        """Return the number of an element that was met before; otherwise give it one and -1."""
        cdef int place
        cdef PyObject *found
        for place in range(min(self._seen, FEW)):
            if self._elements[place] is <PyObject *>element:
                return place
        if self._seen < FEW:
            self._elements[self._seen] = <PyObject *>element
        else:
            if self._others is None:
                self._others = {}
            identity = PyLong_FromVoidPtr(<void *>element)
            found = PyDict_GetItemWithError(self._others, identity)
            if found is not NULL:
                return <int>(<object>found)
            self._others[identity] = self._seen
        self._seen += 1
        return -1

    cdef int parameter(self, object bind, Shape shape, PyObject **values) except -1:
        cdef int place, flags = 0
        for place in range(shape.size):
            if shape.codes[place] == REFUSED and <object>values[place]:
                return 0
        for place in range(UNIQUE, IS_OUT + 1):
            if is_true(values[shape.places[place]]):
                flags |= 1 << place
        if <object>values[shape.places[CALLABLE]] is None:
            flags |= 1 << CALLABLE
        if <object>values[shape.places[VALUE]] is None:
            flags |= 1 << VALUE
        self.put(shape.mark)
        self.put(flags)
        self.optional(shape.places[ORIGINAL_KEY], values)
        if not flags & (1 << UNIQUE):
            self.put(<object>values[shape.places[KEY]])
        self.optional(shape.places[EXPAND_OPERATOR], values)
        self.type(<object>values[shape.places[BIND_TYPE]])
        self.binds.append(bind)
        return 1

    cdef int optional(self, int place, PyObject **values) except -1:
        return self.put(None if place < 0 else <object>values[place])

    cdef int attributes(self, object element, Shape shape, PyObject **values) except -1:
        cdef Py_ssize_t place
        cdef int code
        self.put(shape.mark)
        for place in range(shape.size):
            code = shape.codes[place]
            if code != SKIPPED and not self.attribute(code, <object>values[place]):
                return 0
        for name, computed in shape.computed:
            value = getattr(element, name)
            if self._alive is None:
                self._alive = []
            self._alive.append(value)  # no other element takes its address
            if not self.attribute(<int>computed, value):
                return 0  # pragma: no cover: those of SQLAlchemy 2.0 and 2.1 can be told
        return 1

    cdef int attribute(self, int code, object value) except -1:
        if code == REFUSED:
            return 0 if value else 1
        if value is None:
            self.put(None)
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
            self.put(None)
            return 0 if value else 1
        if code == OPTIONS:
            return self.options(value)
        return self.several(code, value)

    cdef int several(self, int code, object value) except -1:
        self.put(len(value))
        if code == ELEMENTS:
            for each in value:
                if not self.element(each):
                    return 0
        elif code == TUPLES:
            for group in value:
                self.put(len(group))
                for each in group:
                    if not self.element(each):
                        return 0
        elif code == PREFIXES:
            for clause, dialect in value:
                self.put(dialect)
                if not self.element(clause):
                    return 0
        elif code == NAMED:
            for name, each in value.items():
                self.put(name)
                if not self.element(each):
                    return 0
        elif code == VALUES:
            for column, each in value.items():
                if type(column) is str:
                    self.put(column)
                elif not self.element(column):
                    return 0
                if not self.element(each):
                    return 0
        elif code == JOINS:
            for target, onclause, source, flags in value:
                for each in (target, onclause, source):
                    if not self.attribute(ELEMENT, each):
                        return 0
                self.put(tuple(sorted(flags.items())))
        else:
            return 0  # pragma: no cover: there are no other codes
        return 1

    cdef int options(self, object options) except -1:
        for name, value in options.items():
            if type(name) is not str or not (value is None or isinstance(value, (str, int))):
                return 0
            self.put(name)
            self.put(type(value))
            self.put(value)
        self.put(Ellipsis)
        return 1

    cdef int plain(self, object value) except -1:
        if PyUnicode_CheckExact(value) or value is True or value is False:
            self.put(value)
            return 1
        if PyCallable_Check(value):
            self.put(value)
            return 1
        kind = type(value)
        if PyType_IsSubtype(Py_TYPE(value), ENUM):
            self.put(kind)
            self.put(value._name_)  # a member hashes in Python
            return 1
        if kind is tuple:
            for each in value:
                if each is not None and type(each) is not str and type(each) is not int:
                    return 0
        elif not isinstance(value, int):
            return 0
        self.put(kind)
        self.put(value)
        return 1

    cdef int type(self, object type_) except -1:
        cdef Walker walker = self.walker
        cdef PyObject *found = walker.types.get(<PyObject *>type_)
        if found is not NULL:
            self.put(<object>found)
            return 1
        if not type_.__dict__ and type(type_) in walker.simple_types:
            self.put(type(type_))  # made anew for many an expression, and all alike
            return 1
        comes_again = "_static_cache_key" in type_.__dict__  # SQLAlchemy has met it before
        token = walker.type_token(type_)
        self.put(token)
        if comes_again:
            if walker.types._used >= MOST_TYPES:
                forgotten = walker.types  # until another stands in its place
                walker.types = AddressMap()
            walker.types.put(type_, token)
        return 1

    cdef int name(self, object name) except -1:
        if type(name) is str:
            self.put(name)
            return 1
        if not isinstance(name, self.walker.anonymous):
            # Equal names, of which one is to be quoted whatever it is, are equal strings.
            self.put(type(name))
            self.put(getattr(name, "quote", None))
            self.put(str(name))
            return 1
        # Made of the identity of its element: what counts is which names are the same.
        if self._names is None:
            self._names = self.walker.prefix_map()
        self.put(Ellipsis)
        self.put(name % self._names)
        return 1


cdef inline bint is_true(PyObject *value) except -1:
    # Not `value is <PyObject *>True`, which compares with a pointer to address 1.
    if <object>value is True:
        return True
    return <object>value is not False and PyObject_IsTrue(<object>value)


@cython.final
cdef class Walker:
    def __init__(self):
        from sqlalchemy.schema import Column, Table
        from sqlalchemy.sql.elements import BindParameter, _anonymous_label
        from sqlalchemy.sql.selectable import _OffsetLimitParam
        from sqlalchemy.sql.visitors import prefix_anon_map

        from fastdb.compiler_fingerprint import simple_types, traversal_of, type_token

        self.classes = AddressMap()
        self.types = AddressMap()
        self.table_class = Table
        self.column_class = Column
        self.bind_class = BindParameter
        self.limit_class = _OffsetLimitParam
        self.simple_types = simple_types()
        self.anonymous = _anonymous_label
        self.prefix_map = prefix_anon_map
        self.traversal_of = traversal_of
        self.type_token = type_token

    cdef Walk walk(self, object query, bint keeping):
        """Return a finished walk over an expression; None where it cannot be told.

        With `keeping` it holds in `kept` what is in the key by its address only.
        """
        cdef dict attributes = <dict?>query.__dict__
        cdef object options = value_of(attributes, "_execution_options", ())
        cdef Walk walk
        if "schema_translate_map" in options:
            return None
        walk = Walk.__new__(Walk)
        walk.walker = self
        walk.binds = []
        if keeping:
            walk.kept = []
        return walk if walk.element(query) else None

    cdef ElementClass class_of(self, object element_class):
        cdef ElementClass known = ElementClass.__new__(ElementClass)
        known.element_class = element_class
        known.shapes = []
        known.marks = {}
        known.computed = ()
        if element_class is self.bind_class or element_class is self.limit_class:
            known.is_parameter = True
            known.codes = {}
        else:
            told = self.traversal_of(element_class)
            if told is not None:
                known.codes, known.computed = told
        if self.classes._used >= MOST_CLASSES:
            forgotten = self.classes  # until another stands in its place
            self.classes = AddressMap()
        self.classes.put(element_class, known)
        return known

    def walked(self, query):
        """Return key and binds of an expression, or None."""
        cdef Walk walk = self.walk(query, False)
        return None if walk is None else (walk.key(None, None), walk.binds)
