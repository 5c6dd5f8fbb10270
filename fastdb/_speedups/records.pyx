# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: freethreading_compatible=True
# binding=False: methods are then CPython's own descriptors, which check what `self` is. Cython's
# functions do not: Record.keys(5) would read the memory of an int.
"""Make records: one immutable class per tuple of names, one layout per query.

A record is a C struct, the layout's pointer and then the values in the order of their columns:

* The class is made by ``PyType_FromSpecWithBases``. Each column that can be an attribute is a
  read-only member at its value's offset, so that ``record.x`` is CPython's own specialised load of
  a slot. The class is an immutable type without ``__slots__``, ``__dict__`` or ``__new__``.
* No pointer in a record is ever NULL where Python code can see it: a record is filled before
  anyone gets hold of it, nothing can delete a member, and there is no ``tp_clear``. Like a tuple a
  record is immutable and younger than its values, so that a cycle through it always holds
  something else which the collector can clear. The same holds for layouts and mapping views.
* Every instance of :class:`Record` is an instance of a class made here: ``Record.tp_new`` refuses,
  subclasses are refused, and ``Record`` has a field of its own, which keeps ``object.__new__`` and
  other layouts out. The methods may therefore trust the struct.

The collector need not look at records whose values are all atomic: they are of a class that it does
not know of, which saves 16 bytes each and the collections that many new objects set off. Once a
record of some names has held another value, further ones are of the class with the collector's
head, too, and tracked only where they have to be: one kind of class keeps CPython's specialised
loads specialised. The collector misses one kind of cycle: a record of atomic values kept in what
the columns or converters of its own layout hold, in ``Table.info`` for example, stays as long as
the process.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.dict cimport PyDict_CheckExact, PyDict_GetItemWithError
from cpython.float cimport PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongAndOverflow, PyLong_AsSsize_t, PyLong_CheckExact
from cpython.number cimport PyIndex_Check
from cpython.object cimport PyObject, PyObject_IsTrue, PyObject_RichCompare, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.sequence cimport PySequence_Check, PySequence_Size
from cpython.slice cimport PySlice_Check
from cpython.tuple cimport (
    PyTuple_CheckExact,
    PyTuple_GET_ITEM,
    PyTuple_GET_SIZE,
    PyTuple_New,
    PyTuple_SET_ITEM,
)
from cpython.unicode cimport PyUnicode_Check, PyUnicode_CheckExact

from fastdb._speedups.dates cimport import_datetime, new_date, new_datetime, new_time

from collections.abc import Mapping, Sequence
from functools import lru_cache
from sys import byteorder, intern, modules

from fastdb.exceptions import ColumnNotFoundError, InterfaceError

__all__ = ["Record", "RecordLayout", "RecordMapping"]

cdef extern from *:
    """
    #include <limits.h>
    #include <string.h>
    #include "structmember.h"

    static PyObject *
    fastdb_record_refuse(PyTypeObject *type, PyObject *args, PyObject *kwargs)
    {
        PyErr_SetString(PyExc_TypeError, "a Record is made by a RecordLayout, not by calling its class");
        return NULL;
    }

    /* No instances and no subclasses but ours. */
    static void
    fastdb_record_seal(PyTypeObject *base)
    {
        base->tp_new = fastdb_record_refuse;
        base->tp_vectorcall = NULL;  /* Cython's way past tp_new */
        base->tp_flags &= ~Py_TPFLAGS_BASETYPE;
    }

    #ifdef Py_GIL_DISABLED
    static PyMutex fastdb_record_opened;
    #endif

    /* Make a class while the base is open. No Python code runs in between: up to 3.11 the
       collector could run some, later it waits for the interpreter's loop. Without the GIL another
       thread may then derive a class of its own; it gets no instance of it. */
    static PyObject *
    fastdb_record_derive(PyTypeObject *base, PyType_Spec *spec, PyObject *bases)
    {
        PyObject *type;
    #ifdef Py_GIL_DISABLED
        PyMutex_Lock(&fastdb_record_opened);
    #elif PY_VERSION_HEX < 0x030C0000
        int collects = PyGC_Disable();
    #endif
        base->tp_flags |= Py_TPFLAGS_BASETYPE;
        type = PyType_FromSpecWithBases(spec, bases);
        base->tp_flags &= ~Py_TPFLAGS_BASETYPE;
    #ifdef Py_GIL_DISABLED
        PyMutex_Unlock(&fastdb_record_opened);
    #elif PY_VERSION_HEX < 0x030C0000
        if (collects) {
            PyGC_Enable();
        }
    #endif
        return type;
    }

    /* Neither zeroed nor tracked. */
    static inline PyObject *
    fastdb_record_new(PyTypeObject *type, PyObject *layout)
    {
        PyObject *record = PyType_IS_GC(type) ? PyObject_GC_New(PyObject, type)
                                              : PyObject_New(PyObject, type);
        if (record != NULL) {
            Py_INCREF(layout);
            ((fastdb_record *)record)->layout = layout;
        }
        return record;
    }

    /* Of types whose values may be part of a cycle, or of a chain that is too long to be freed by
       recursion: containers, and records without the collector's head. */
    #define FASTDB_CONTAINER (Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_SEQUENCE)
    #define FASTDB_IS_CONTAINER(value) ((Py_TYPE(value)->tp_flags & FASTDB_CONTAINER) != 0)

    static inline void
    fastdb_record_zero(PyObject *record)
    {
        memset(FASTDB_VALUES(record), 0, FASTDB_SIZE(record) * sizeof(PyObject *));
    }

    /* Return whether one of the values is a container. */
    static inline int
    fastdb_record_fill(PyObject *record, PyObject **row, Py_ssize_t size)
    {
        PyObject **values = FASTDB_VALUES(record);
        unsigned long flags = 0;
        for (Py_ssize_t i = 0; i < size; i++) {
            PyObject *value = row[i];
            Py_INCREF(value);
            values[i] = value;
            flags |= Py_TYPE(value)->tp_flags;
        }
        return (flags & FASTDB_CONTAINER) != 0;
    }

    static inline int
    fastdb_record_holds_containers(PyObject *record)
    {
        PyObject **values = FASTDB_VALUES(record);
        Py_ssize_t size = FASTDB_SIZE(record);
        for (Py_ssize_t i = 0; i < size; i++) {
            if (FASTDB_IS_CONTAINER(values[i])) {
                return 1;
            }
        }
        return 0;
    }

    #define FASTDB_TUPLE_ITEMS(row) (((PyTupleObject *)(row))->ob_item)
    #define FASTDB_PACKED_ITEMS(row) \\
        ((PyObject **)((char *)(row) + Py_TYPE(row)->tp_basicsize))

    /* Return whether the values lie in a row as in a tuple: behind the fixed part, one pointer
       each. What is read here lies in the row whatever the answer is. */
    static int
    fastdb_row_is_packed(PyObject *row, Py_ssize_t size)
    {
        PyTypeObject *type = Py_TYPE(row);
        if (type->tp_itemsize != sizeof(PyObject *)
            || type->tp_basicsize % (Py_ssize_t)sizeof(PyObject *) != 0
            || Py_SIZE(row) != size) {
            return 0;
        }
        for (Py_ssize_t i = 0; i < size; i++) {
            PyObject *value = PySequence_GetItem(row, i);
            if (value == NULL) {
                return -1;
            }
            Py_DECREF(value);
            if (FASTDB_PACKED_ITEMS(row)[i] != value) {
                return 0;
            }
        }
        return 1;
    }

    static void
    fastdb_record_drop(PyObject *record)
    {
        PyTypeObject *type = Py_TYPE(record);
        PyObject **values = FASTDB_VALUES(record);
        Py_ssize_t size = FASTDB_SIZE(record);
        for (Py_ssize_t i = 0; i < size; i++) {
            Py_XDECREF(values[i]);  /* NULL where a row failed half-way */
        }
        Py_DECREF(((fastdb_record *)record)->layout);
        if (PyType_IS_GC(type)) {
            PyObject_GC_Del(record);
        }
        else {
            PyObject_Free(record);
        }
        Py_DECREF(type);
    }

    static void
    fastdb_record_dealloc(PyObject *record)
    {
        if (!PyObject_GC_IsTracked(record)) {
            fastdb_record_drop(record);
            return;
        }
        /* Records in records in records: the trashcan bounds the C stack. */
        PyObject_GC_UnTrack(record);
        Py_TRASHCAN_BEGIN(record, fastdb_record_dealloc)
        fastdb_record_drop(record);
        Py_TRASHCAN_END
    }

    static int
    fastdb_record_traverse(PyObject *record, visitproc visit, void *arg)
    {
        PyObject **values = FASTDB_VALUES(record);
        Py_ssize_t size = FASTDB_SIZE(record);
        for (Py_ssize_t i = 0; i < size; i++) {
            Py_VISIT(values[i]);
        }
        Py_VISIT(((fastdb_record *)record)->layout);
        Py_VISIT(Py_TYPE(record));
        return 0;
    }

    /* Make a class of records with the collector's head or without.
       `attributes` has an interned str, or None, for each column. The members point into these
       strings; being interned they are the keys of the type's own dict, which keeps them. */
    static PyObject *
    fastdb_record_type(PyTypeObject *base, PyObject *attributes, int has_head)
    {
        Py_ssize_t size = PyTuple_GET_SIZE(attributes), count = 0;
        PyObject *bases, *type = NULL;
        PyMemberDef *members;
        if (size > (INT_MAX - FASTDB_HEAD) / (Py_ssize_t)sizeof(PyObject *)) {
            return PyErr_NoMemory();
        }
        members = PyMem_Calloc((size_t)size + 1, sizeof(PyMemberDef));
        if (members == NULL) {
            return PyErr_NoMemory();
        }
        for (Py_ssize_t i = 0; i < size; i++) {
            PyObject *name = PyTuple_GET_ITEM(attributes, i);
            if (name == Py_None) {
                continue;
            }
            members[count].name = PyUnicode_AsUTF8(name);
            if (members[count].name == NULL) {
                goto done;
            }
            members[count].type = T_OBJECT_EX;
            members[count].offset = FASTDB_HEAD + i * (Py_ssize_t)sizeof(PyObject *);
            members[count].flags = READONLY;
            count++;
        }
        {
            PyType_Slot plain_slots[] = {
                {Py_tp_members, members},
                {Py_tp_dealloc, (void *)fastdb_record_drop},
                {0, NULL},
            };
            PyType_Slot slots[] = {
                {Py_tp_members, members},
                {Py_tp_dealloc, (void *)fastdb_record_dealloc},
                {Py_tp_traverse, (void *)fastdb_record_traverse},
                {0, NULL},
            };
            PyType_Spec spec = {
                .name = "fastdb.Record",
                .basicsize = (int)(FASTDB_HEAD + size * (Py_ssize_t)sizeof(PyObject *)),
                .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
                         | (has_head ? Py_TPFLAGS_HAVE_GC : 0),
                .slots = has_head ? slots : plain_slots,
            };
            bases = PyTuple_Pack(1, base);
            if (bases != NULL) {
                type = fastdb_record_derive(base, &spec, bases);
                Py_DECREF(bases);
            }
        }
    done:
        PyMem_Free(members);
        return type;
    }
    """
    void fastdb_record_seal(type base)
    object fastdb_record_type(type base, tuple attributes, bint has_head)
    PyObject *fastdb_record_new(PyTypeObject *type, PyObject *layout) except NULL
    void fastdb_record_zero(PyObject *record)
    bint fastdb_record_fill(PyObject *record, PyObject **row, Py_ssize_t size)
    bint fastdb_record_holds_containers(PyObject *record)
    bint FASTDB_IS_CONTAINER(PyObject *value)
    bint PyType_IS_GC(PyTypeObject *type)
    bint fastdb_row_is_packed(object row, Py_ssize_t size) except -1
    PyObject **FASTDB_TUPLE_ITEMS(object row)
    PyObject **FASTDB_PACKED_ITEMS(object row)
    Py_ssize_t Py_SIZE(object row)
    PyTypeObject *Py_TYPE(object row)
    void PyObject_GC_Track(PyObject *record)
    PyObject *PySequence_GetItem(object row, Py_ssize_t position) except NULL
    Py_ssize_t PyNumber_AsSsize_t(object number, PyObject *clip) except? -1
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    void *PyUnicode_1BYTE_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    int Py_ReprEnter(object) except -1
    void Py_ReprLeave(object)
    int Py_EnterRecursiveCall(const char *where) except -1
    void Py_LeaveRecursiveCall()


cdef int RECORD_CLASSES = 1024
cdef int NAMES_SHOWN = 50


# Small numbers, of which CPython has one each; where others come along, nothing is lost.
cdef object ZERO = 0
cdef object ONE = 1

cdef object restore_record = None


cdef object missing_column(tuple names, object key):
    shown = ", ".join([repr(name) for name in names[:NAMES_SHOWN]]) or "no columns"
    if len(names) > NAMES_SHOWN:
        shown += f" and {len(names) - NAMES_SHOWN} more"
    return ColumnNotFoundError(f"the record has no column {key!r}; it has {shown}")


cdef object missing_position(Py_ssize_t size, object position):
    return IndexError(f"position {position} is out of range; the number of columns is {size}")


cdef inline Py_ssize_t size_of(object record):
    return FASTDB_SIZE(<PyObject *>record)


cdef inline object value_at(object record, Py_ssize_t position):
    return <object>FASTDB_VALUES(<PyObject *>record)[position]


cdef inline RecordLayout layout_of(Record record):
    return <RecordLayout>record._layout


cdef inline Py_ssize_t checked(RecordLayout layout, object found) except -2:
    """Return the position that a dict or a function of the user's gives, if there is such one.

    The dict of the positions is one, too: who asks the collector gets hold of it.
    """
    cdef Py_ssize_t position = found
    if <size_t>position >= <size_t>layout._size:
        raise missing_position(layout._size, position)
    return position


cdef inline object named_value(Record record, object position):
    return value_at(record, checked(layout_of(record), position))


cdef inline Record record_of(RecordMapping mapping):
    if mapping._record is None:  # the collector gives out views that are not made yet
        raise ValueError("the view has no record")
    return mapping._record


cdef tuple values_of(object record):
    cdef Py_ssize_t size = size_of(record)
    cdef Py_ssize_t position
    cdef tuple values = PyTuple_New(size)
    for position in range(size):
        value = value_at(record, position)
        Py_INCREF(value)
        PyTuple_SET_ITEM(values, position, value)
    return values


cdef Py_ssize_t position_of(Record record, object key) except -2:
    """Return the position of a name or a column, -1 where the record has none."""
    cdef RecordLayout layout = layout_of(record)
    cdef PyObject *found
    if PyUnicode_Check(key):
        found = PyDict_GetItemWithError(layout._positions, key)
        return -1 if found is NULL else checked(layout, <object>found)
    if PyIndex_Check(key) or PySlice_Check(key):
        return -1
    return layout.resolve(key)


cdef object make_record(
    RecordLayout layout, object row, bint convert, PyTypeObject *packed = NULL
):
    """Make a record of a row; one of the type `packed` has its values where a tuple has them."""
    cdef PyObject *made
    cdef PyObject **items = NULL
    cdef Py_ssize_t size = layout._size
    cdef Py_ssize_t found
    cdef bint containers
    if layout._classes is None:  # the collector gives out layouts that are not made yet
        raise InterfaceError("the layout is not made yet")
    if Py_TYPE(row) is packed:
        found = Py_SIZE(row)
        items = FASTDB_PACKED_ITEMS(row)
    else:
        if type(row) is list:
            row = tuple(row)  # converters and finalizers can shrink a list, not a tuple
        if PyTuple_CheckExact(row):
            found = PyTuple_GET_SIZE(row)
            items = FASTDB_TUPLE_ITEMS(row)
        else:
            if not PySequence_Check(row):
                raise TypeError(f"a row must be a sequence, not {type(row).__name__}")
            found = PySequence_Size(row)
    if found != size:
        raise wrong_length(found, size)
    made = fastdb_record_new(layout._classes.current, <PyObject *>layout)
    if items is not NULL:
        containers = fastdb_record_fill(made, items, size)
    else:
        fastdb_record_zero(made)
        containers = False
    record = <object>made  # which an error drops
    Py_DECREF(record)  # the reference that `made` was
    if items is NULL:
        containers = fill_by_position(FASTDB_VALUES(made), row, size)
    if convert and layout._converted:
        convert_values(layout, FASTDB_VALUES(made))
        containers = fastdb_record_holds_containers(made)
    return tracked_record(layout, record) if containers else record


cdef object tracked_record(RecordLayout layout, object record):
    """Let the collector know a record, or another one with the same values."""
    cdef PyObject *made = <PyObject *>record
    if not PyType_IS_GC(Py_TYPE(record)):
        layout._classes.note_container()
        made = fastdb_record_new(layout._classes.current, <PyObject *>layout)
        fastdb_record_fill(made, FASTDB_VALUES(<PyObject *>record), layout._size)
        record = <object>made
        Py_DECREF(record)  # the reference that `made` was
    PyObject_GC_Track(made)
    return record


cdef bint fill_by_position(PyObject **values, object row, Py_ssize_t size) except -1:
    """Fill with the items of a sequence; return whether one of them is a container."""
    cdef Py_ssize_t position
    cdef bint containers = False
    for position in range(size):
        values[position] = PySequence_GetItem(row, position)
        containers |= FASTDB_IS_CONTAINER(values[position])
    return containers


cdef PyTypeObject *packed_type(object row, Py_ssize_t size) except? NULL:
    """Return asyncpg's type of rows, if the row is one and has its values where a tuple has them.

    Asking it for them one by one costs as much as all the rest of a record.
    """
    asyncpg = modules.get("asyncpg")  # whose rows they are has imported it
    if type(row) is getattr(asyncpg, "Record", None) and fastdb_row_is_packed(row, size):
        return Py_TYPE(row)
    return NULL


cdef object blank_record(RecordLayout layout):
    cdef PyObject *made = fastdb_record_new(layout._classes.current, <PyObject *>layout)
    fastdb_record_zero(made)
    record = <object>made
    Py_DECREF(record)  # the reference that `made` was
    return record


cdef object finished_record(RecordLayout layout, object record):
    if fastdb_record_holds_containers(<PyObject *>record):
        return tracked_record(layout, record)
    return record


@cython.final
@cython.no_gc_clear  # see the module's docstring
cdef class RecordClasses:
    """The classes of the records of one tuple of names. Python code can make empty ones only.

    Attributes:
        names: The names.
        positions: The first position of each name.
        attributes: For each column the name of its attribute, interned, or None.
        plain: The class without the collector's head.
        tracked: The one with it; None until a record holds a container.
        current: The class of the next record.
    """

    cdef int note_container(self) except -1:
        """Let further records have the collector's head."""
        if self.tracked is not None:
            return 0  # pragma: no cover: another thread was quicker
        made = fastdb_record_type(Record, self.attributes, True)
        with cython.critical_section(self):
            if self.tracked is None:
                self.tracked = made
                self.current = <PyTypeObject *>made
        return 0


cdef int convert_values(RecordLayout layout, PyObject **values) except -1:
    """Convert values in their places."""
    cdef Py_ssize_t place, position
    cdef object old, new
    cdef int code
    for place in range(layout._converted):
        position = layout._places[place]
        code = layout._code_of[position]
        if code == NUMBER and PyFloat_CheckExact(<object>values[position]):
            continue
        old = <object>values[position]
        new = converted(code, <object>PyTuple_GET_ITEM(layout._converters, position), old)
        Py_INCREF(new)
        values[position] = <PyObject *>new
        Py_DECREF(old)
    return 0


# -- converters: what SQLAlchemy's own do with the values that they usually get, without a call


cdef dict known_converters():
    """Return the codes of SQLAlchemy's own converters."""
    # Where a converter is SQLAlchemy's, someone has imported it; this module never does.
    processors = modules.get("sqlalchemy.engine.processors")
    if processors is None:
        return {}
    import_datetime()
    return {
        processors.int_to_boolean: BOOLEAN,
        processors.to_float: NUMBER,
        processors.str_to_datetime: DATETIME,
        processors.str_to_date: DATE,
        processors.str_to_time: TIME,
    }


cdef bytes codes_of(tuple converters):
    known = known_converters()
    stand_ins = modules.get("fastdb.compiler_converters")  # nor this
    codes = bytearray()
    for converter in converters:
        code = NONE if converter is None else ANY
        if stand_ins is not None:
            if type(converter) is stand_ins.JSONConverter:
                code = JSON
            elif type(converter) is stand_ins.LookupConverter:
                code = LOOKUP
        for other, its_code in known.items():
            if converter is other:
                code = its_code
        codes.append(code)
    return bytes(codes)


cdef inline object converted(int code, object converter, object value):
    """Return what a converter makes of a value."""
    cdef object made, members, scanned, driver
    cdef Py_ssize_t end
    cdef PyObject *member
    if code == ANY:
        return converter(value)
    if value is None:
        return None
    if code == BOOLEAN:
        if value is ONE:
            return True
        if value is ZERO:
            return False
        if PyLong_CheckExact(value):
            return True if PyObject_IsTrue(value) else False
    elif code == NUMBER or not PyUnicode_CheckExact(value):
        pass
    elif code == JSON:
        driver = converter.driver
        if driver is None or not driver.codecs:
            try:
                scanned, end = converter.scan(value, 0)
                if end == PyUnicode_GET_LENGTH(value):
                    return scanned
            except (StopIteration, ValueError):
                pass  # no JSON, or something stands before it
    elif code == LOOKUP:
        members = converter.members
        # MySQL has an empty text for what is no member.
        if PyDict_CheckExact(members) and PyUnicode_GET_LENGTH(value):
            member = PyDict_GetItemWithError(members, value)
            if member is not NULL:
                return <object>member
    elif PyUnicode_IS_COMPACT_ASCII(value):
        made = parsed(
            code, <const unsigned char *>PyUnicode_1BYTE_DATA(value), PyUnicode_GET_LENGTH(value)
        )
        if made is not None:
            return made
    return converter(value)


cdef object parsed(int code, const unsigned char *text, Py_ssize_t size):
    """Return the date or time that is written in the ordinary way, else None."""
    cdef int year = 1, month = 1, day = 1, hour = 0, minute = 0, second = 0, micro = 0
    cdef long long fraction
    cdef const unsigned char *clock = text
    if code != TIME:
        if size < 10 or text[4] != c'-' or text[7] != c'-':
            return None
        year = two_digits(text) * 100 + two_digits(text + 2)
        month, day = two_digits(text + 5), two_digits(text + 8)
        # Days that not every month has are left to the converter, like what is out of range.
        if year < 1 or month < 1 or month > 12 or day < 1 or (day > 28 and not has(month, day)):
            return None
        if code == DATE:
            return new_date(year, month, day) if size == 10 else None
        if size < 19 or (text[10] != c' ' and text[10] != c'T'):
            return None
        clock += 11
        size -= 11
    if (size != 8 and size != 15) or clock[2] != c':' or clock[5] != c':':
        return None
    hour, minute, second = two_digits(clock), two_digits(clock + 3), two_digits(clock + 6)
    if size == 15:
        if clock[8] != c'.':
            return None
        fraction = two_digits(clock + 9) * <long long>10_000
        fraction += two_digits(clock + 11) * 100 + two_digits(clock + 13)
        micro = -1 if fraction < 0 else <int>fraction
    if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60 and micro >= 0):
        return None
    if code == TIME:
        return new_time(hour, minute, second, micro)
    return new_datetime(year, month, day, hour, minute, second, micro)


cdef inline bint has(int month, int day) noexcept:
    """Return whether a month has that day in every year."""
    if month == 2:
        return False
    return day <= 30 or (day == 31 and month not in (4, 6, 9, 11))


cdef inline int two_digits(const unsigned char *text) noexcept:
    """Return the number that two digits make; without them less than any sum can make up for."""
    cdef unsigned int tens = text[0] - <unsigned int>c'0'
    cdef unsigned int ones = text[1] - <unsigned int>c'0'
    return <int>(tens * 10 + ones) if tens <= 9 and ones <= 9 else -2_000_000


cdef object wrong_length(Py_ssize_t found, Py_ssize_t size):
    return InterfaceError(
        f"the number of values in the row is {found}; the number of columns is {size}"
    )


@cython.collection_type("sequence")
cdef class Record:
    """Hold the values of one row, by name and by position.

    Iterating gives the values; ``"name" in record`` asks for a column. A record equals, hashes and
    orders as the tuple of its values. It is immutable.
    """

    cdef PyObject *_layout

    def __len__(self):
        return size_of(self)

    def __getitem__(self, key):
        cdef Py_ssize_t position, size
        cdef PyObject *found
        cdef int overflow
        if PyUnicode_Check(key):
            found = PyDict_GetItemWithError(layout_of(self)._positions, key)
            if found is NULL:
                raise missing_column(layout_of(self).names, key)
            return named_value(self, <object>found)
        if PyLong_CheckExact(key) or PyIndex_Check(key):
            size = size_of(self)
            # What does not fit into a C integer is out of range, too.
            if PyLong_CheckExact(key):
                position = PyLong_AsLongAndOverflow(key, &overflow)
                if overflow:
                    raise missing_position(size, key)
            else:
                position = PyNumber_AsSsize_t(key, NULL)
            if position < 0:
                position += size
            if position < 0 or position >= size:
                raise missing_position(size, key)
            return value_at(self, position)
        if PySlice_Check(key):
            return values_of(self)[key]
        position = layout_of(self).resolve(key)
        if position < 0:
            raise missing_column(layout_of(self).names, key)
        return value_at(self, position)

    def __iter__(self):
        return iter(values_of(self))

    def __contains__(self, key):
        return position_of(self, key) >= 0

    def __richcmp__(self, other, int op):
        if isinstance(other, Record):
            other = values_of(other)
        elif not isinstance(other, tuple):
            return NotImplemented
        return PyObject_RichCompare(values_of(self), other, op)

    def __hash__(self):
        Py_EnterRecursiveCall(" while hashing a record")
        try:
            return hash(values_of(self))
        finally:
            Py_LeaveRecursiveCall()  # pragma: no cover: traced at one of the two places where C has it

    def __repr__(self):
        cdef tuple names = layout_of(self).names
        if Py_ReprEnter(self):
            return "<Record ...>"
        try:
            shown = [
                f"{name if name.isidentifier() else repr(name)}={value!r}"
                for name, value in zip(names, values_of(self))
            ]
        finally:
            Py_ReprLeave(self)
        return f"<Record {' '.join(shown)}>" if shown else "<Record>"

    def __setattr__(self, name, value):
        raise AttributeError(f"a record is read-only; cannot set {name!r}")

    def __delattr__(self, name):
        raise AttributeError(f"a record is read-only; cannot delete {name!r}")

    def __reduce__(self):
        """Pickle names and values only; either form reads them."""
        global restore_record
        if restore_record is None:
            # The package imports this module: too early at the top.
            from fastdb._speedups import restore_record as restore

            restore_record = restore
        return restore_record, (layout_of(self).names, values_of(self))

    def __copy__(self):
        """Return the record itself: it is immutable."""
        return self

    def __deepcopy__(self, memo):
        """Return a record of deep copies, or itself where they are the values themselves."""
        from copy import deepcopy

        values = values_of(self)
        copied = deepcopy(values, memo)
        known = memo.get(id(self))  # a value holds the record
        if known is not None:
            return known
        return self if copied is values else make_record(layout_of(self), copied, False)

    def get(self, key, default=None, /):
        """Return the value of a column by name or Column, `default` where there is none."""
        cdef Py_ssize_t position = position_of(self, key)
        return default if position < 0 else value_at(self, position)

    def keys(self):
        """Return the names of the columns, repeated ones too."""
        return list(layout_of(self).names)

    def values(self):
        """Return the values of the columns."""
        return list(values_of(self))

    def items(self):
        """Return pairs of name and value, repeated names too."""
        return list(zip(layout_of(self).names, values_of(self)))

    def _asdict(self):
        """Return a dict of the values by name, the first of a repeated name."""
        return {
            name: named_value(self, position)
            for name, position in layout_of(self)._positions.items()
        }

    @property
    def _mapping(self):
        """A read-only mapping view of the record."""
        return RecordMapping(self)


@cython.final
@cython.no_gc_clear  # see the module's docstring
@cython.collection_type("mapping")
cdef class RecordMapping:
    """Show a record as a mapping of names to values.

    ``keys()``, ``values()``, ``items()`` ``len()`` count repeated names; ``[]`` gives the first.
    """

    cdef Record _record

    def __cinit__(self, Record record not None):
        self._record = record

    def __len__(self):
        return size_of(record_of(self))

    def __getitem__(self, key):
        cdef Record record = record_of(self)
        cdef Py_ssize_t position = position_of(record, key)
        if position < 0:
            raise missing_column(layout_of(record).names, key)
        return value_at(record, position)

    def __iter__(self):
        return iter(layout_of(record_of(self)).names)

    def __contains__(self, key):
        return position_of(record_of(self), key) >= 0

    def __eq__(self, other):
        if not isinstance(other, Mapping):
            return NotImplemented
        mine, others = self.items(), list(other.items())
        return mine == others or (len(mine) == len(others) and dict(mine) == dict(others))

    __hash__ = None

    def __repr__(self):
        pairs = ", ".join([f"{name!r}: {value!r}" for name, value in self.items()])
        return f"<RecordMapping {{{pairs}}}>"

    def __reduce__(self):
        return getattr, (self._record, "_mapping")

    def get(self, key, default=None, /):
        """Return the value of a column by name or Column, `default` where there is none."""
        return self._record.get(key, default)

    def keys(self):
        """Return the names of the columns, repeated ones too."""
        return self._record.keys()

    def values(self):
        """Return the values of the columns."""
        return self._record.values()

    def items(self):
        """Return pairs of name and value, repeated names too."""
        return self._record.items()


@cython.final
@cython.no_gc_clear  # see the module's docstring
cdef class RecordLayout:
    """Make the records of one query.

    Args:
        names: The names of the columns; they may repeat, and any string will do.
        converters: For each column None or a callable, applied once to every value, None too.
        columns: Returns the position of a key that is neither a name nor a position, or None.
    """

    # Not __init__, which could be called again on a layout that has records.
    def __cinit__(self, names, converters=None, columns=None):
        cdef RecordClasses classes = classes_of(exact_names(names))
        self._positions = classes.positions
        self.names = names = classes.names
        self._size = len(names)
        self._columns = columns
        if converters is not None:
            converters = tuple(converters)
            if len(converters) != self._size:
                raise ValueError(
                    f"the number of converters is {len(converters)}; "
                    f"the number of columns is {self._size}"
                )
            if any([converter is not None for converter in converters]):
                self._converters = converters
                self._codes = codes_of(converters)
                self._code_of = self._codes
                self._runs_python = ANY in self._codes
                places = [place for place, code in enumerate(self._codes) if code != NONE]
                self._converted = len(places)
                # As an array of Py_ssize_t.
                self._packed_places = b"".join(
                    [place.to_bytes(sizeof(Py_ssize_t), byteorder) for place in places]
                )
                self._places = <const Py_ssize_t *>PyBytes_AS_STRING(self._packed_places)
        self._classes = classes  # last: without them, it makes no records

    @property
    def record_class(self):
        """The class of further records."""
        return None if self._classes is None else <object>self._classes.current

    def for_columns(self, columns):
        """Return a layout that differs only in how it finds columns."""
        cdef RecordLayout layout = RecordLayout.__new__(RecordLayout, (), None, columns)
        layout.names = self.names
        layout._positions = self._positions
        layout._size = self._size
        layout._converters = self._converters
        layout._codes = self._codes
        layout._code_of = self._code_of
        layout._runs_python = self._runs_python
        layout._converted = self._converted
        layout._packed_places = self._packed_places
        layout._places = self._places
        layout._classes = self._classes
        return layout

    def records(self, rows):
        """Return a record for each of `rows`, sequences of as many values as there are names.

        The rows are not held.

        Raises:
            InterfaceError: A row has another number of values.
        """
        cdef list records = []
        # The collector would look through the driver's rows again and again while records are
        # made of them, and find nothing: it costs more than the records do.
        cdef bint paused = not self._runs_python and fastdb_pause_collector()
        cdef PyTypeObject *packed = NULL
        cdef bint first = True
        try:
            for row in rows:
                if first:
                    first = False
                    packed = packed_type(row, self._size)
                records.append(make_record(self, row, True, packed))
        finally:
            if paused:
                PyGC_Enable()
        return records

    def record(self, row):
        """Return the record of one row.

        Raises:
            InterfaceError: The row has another number of values.
        """
        return make_record(self, row, True)

    def __repr__(self):
        return f"<RecordLayout {self.names!r}>"

    cdef Py_ssize_t resolve(self, object key) except -2:
        """Return the position of a Column (or its like), -1 where there is none."""
        if self._columns is not None:
            resolved = self._columns(key)
            return -1 if resolved is None else checked(self, resolved)
        for attribute in ("name", "key"):
            name = getattr(key, attribute, None)
            if isinstance(name, str) and name in self._positions:
                return checked(self, self._positions[name])
        return -1


def exact_names(names):
    """Return `names` as a tuple of plain, interned strings."""
    names = tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"the name of a column must be a str, not {type(name).__name__}")
    return tuple([intern(str.__str__(name)) for name in names])


def record_classes(names):
    """Return the classes of names, and the first position of each name."""
    cdef RecordClasses made
    names = exact_names(names)  # whose strings the classes point into
    positions = {}
    attributes = []
    for position, name in enumerate(names):
        usable = name.isidentifier() and not name.startswith("__") and name not in own_names
        attributes.append(name if usable and name not in positions else None)
        positions.setdefault(name, position)
    made = <RecordClasses>RecordClasses.__new__(RecordClasses)
    made.names = names
    made.positions = positions
    made.attributes = tuple(attributes)
    made.plain = fastdb_record_type(Record, made.attributes, False)
    made.current = <PyTypeObject *>made.plain
    return made


# This holds what depends on names only: it is shared by every Database, like the interned names
# themselves, and bounded.
cdef object classes_of = lru_cache(maxsize=RECORD_CLASSES)(record_classes)

fastdb_record_seal(Record)
own_names = frozenset([name for name in dir(Record) if not name.startswith("__")])
Sequence.register(Record)
Mapping.register(RecordMapping)
