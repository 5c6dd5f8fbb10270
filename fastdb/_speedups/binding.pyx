# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: freethreading_compatible=True
# (binding: see records.pyx)
"""Binding what was compiled to values: the loops that every query runs through."""

cimport cython
from cpython.bytes cimport PyBytes_CheckExact
from cpython.dict cimport PyDict_CheckExact, PyDict_GetItemWithError, PyDict_Size
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.list cimport PyList_GET_ITEM
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_CheckExact

from fastdb._speedups cimport dates
from fastdb._speedups.plans cimport QueryPlan
from fastdb._speedups.sharing cimport value_of

from sys import intern

__all__ = []

cdef object ABSENT = object()

cdef extern from "Python.h":
    object PyObject_GenericGetDict(object element, void *context)


#: SQL texts kept per expression for lists of different lengths.
cdef Py_ssize_t MOST_EXPANSIONS = 64

# -- processors: what those of fastdb.compiler_processors do, without a call

cdef enum:
    NONE = 0
    ANY = 1
    BOOLEAN = 2
    FLAG = 3
    NUMBER = 4
    DATETIME = 5
    DATE = 6
    TIME = 7


cdef inline void put_number(char *text, Py_ssize_t place, int number, int digits) noexcept:
    """Write a number of so many digits."""
    while digits:
        digits -= 1
        text[place + digits] = <char>(c'0' + number % 10)
        number //= 10


cdef inline void put_day(char *text, object value) noexcept:
    put_number(text, 0, dates.year_of(value), 4)
    text[4] = c'-'
    put_number(text, 5, dates.month_of(value), 2)
    text[7] = c'-'
    put_number(text, 8, dates.day_of(value), 2)


cdef inline void put_clock(char *text, int hour, int minute, int second, int micro) noexcept:
    put_number(text, 0, hour, 2)
    text[2] = c':'
    put_number(text, 3, minute, 2)
    text[5] = c':'
    put_number(text, 6, second, 2)
    text[8] = c'.'
    put_number(text, 9, micro, 6)


cdef object written_form(object value):
    """Return how SQLAlchemy writes an exact, naive moment for SQLite; None for other values."""
    cdef char text[26]
    if dates.is_naive_datetime(value):
        put_day(text, value)
        text[10] = c' '
        put_clock(
            text + 11,
            dates.datetime_hour(value),
            dates.datetime_minute(value),
            dates.datetime_second(value),
            dates.datetime_microsecond(value),
        )
        return text[:26].decode("ascii")
    if dates.is_exact_date(value):
        put_day(text, value)
        return text[:10].decode("ascii")
    if dates.is_naive_time(value):
        put_clock(
            text,
            dates.time_hour(value),
            dates.time_minute(value),
            dates.time_second(value),
            dates.time_microsecond(value),
        )
        return text[:15].decode("ascii")
    return None


cdef inline object processed_value(int code, object processor, object value):
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
        if PyFloat_CheckExact(value) and not is_nan(value):
            return value
    elif (
        (code == DATETIME and dates.is_naive_datetime(value))
        or (code == DATE and dates.is_exact_date(value))
        or (code == TIME and dates.is_naive_time(value))
    ):
        return written_form(value)
    return processor(value)


cdef class Entry:
    pass


@cython.final
cdef class TextEntry(Entry):
    cdef tuple arguments(self, object values):
        cdef Py_ssize_t place, size
        cdef tuple args
        if values is None and not self.names:
            return ()
        if not PyDict_CheckExact(values) or PyDict_Size(values) != self.distinct:
            return self.compiled.arguments(values)
        size = PyTuple_GET_SIZE(self.names)
        args = PyTuple_New(size)
        for place in range(size):
            value = value_of(values, <object>PyTuple_GET_ITEM(self.names, place), ABSENT)
            if value is ABSENT:
                return self.compiled.arguments(values)
            if self.adapt is not None and (not is_common(value) or is_nan(value)):
                dates.import_datetime()
                written = written_form(value)
                value = self.adapt(value) if written is None else written
            Py_INCREF(value)
            PyTuple_SET_ITEM(args, place, value)
        return args


cdef inline bint is_nan(object value):
    return PyFloat_CheckExact(value) and PyFloat_AS_DOUBLE(value) != PyFloat_AS_DOUBLE(value)


cdef bint is_common(object value):
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


@cython.final
cdef class Slot:
    def __init__(self, slot, expression, keys):
        from fastdb.compiler_processors import bind_code

        dates.import_datetime()
        self.slot = slot
        self.key = slot.key
        if isinstance(self.key, str):
            # SQLAlchemy's is of a subclass; dicts know their own keys by identity, mostly.
            self.key = intern(str.__str__(self.key))
        self.position = slot.position
        self.bind = slot.bind
        self.processor = slot.processor
        self.code = bind_code(slot.bind.type, expression.dialect, slot.processor)
        self.required = slot.required
        self.is_list = slot.name in expression.expanding
        self.of_row = slot.key is not None and slot.key in keys


@cython.final
cdef class Argument:
    def __init__(self, place, member, processor, code):
        self.place = place
        self.member = member
        self.processor = processor
        self.code = code


@cython.final
cdef class ExpressionEntry(Entry):
    def __init__(self, expression, keys):
        from fastdb.compiler_expression import tells_rows
        from fastdb.compiler_parts import MISSING

        cdef Slot slot
        keys = frozenset(keys or ())
        self.missing = MISSING
        self.compiled = expression
        self.slots = tuple([Slot(each, expression, keys) for each in expression.slots])
        self.order = expression.order
        self.defaults = expression.defaults
        self.given_slots = expression.given_slots
        if self.given_slots is not None and all([place < 0 for place in self.given_slots]):
            self.nothing_given = (MISSING,) * len(self.given_slots)
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

    cdef tuple bind(self, object values, list extracted, object collected):
        """Return plan, arguments and given key."""
        cdef Py_ssize_t place, size, used = 0
        cdef list raw
        cdef Slot slot
        cdef QueryPlan plan
        cdef object given, value
        if (
            not self.simple
            or collected is not None
            or (values is not None and not PyDict_CheckExact(values))
        ):
            variant, args, given = self.compiled.arguments(values, extracted, collected)
            return self.plan_of(variant), args, given
        size = PyTuple_GET_SIZE(self.slots)
        raw = [None] * size
        for place in range(size):
            slot = <Slot>PyTuple_GET_ITEM(self.slots, place)
            value = ABSENT
            if values is not None and slot.key is not None:
                value = value_of(values, slot.key, ABSENT)
            if value is not ABSENT:
                used += 1
            else:
                if slot.required:
                    self.compiled.arguments(values, extracted, None)  # raises
                value = own_value(slot, extracted)
            raw[place] = value
        if values is not None and used < PyDict_Size(values):
            self.compiled.arguments(values, extracted, None)  # raises
        if self.defaults:
            raw = self.with_defaults(raw)
        plan = self.plan
        given = None
        if self.nothing_given is not None:
            given = self.nothing_given
        elif self.given_slots is not None:
            given = tuple([self.missing if place < 0 else raw[place] for place in self.given_slots])
            for value in given:
                if value is None:
                    given, variant = self.compiled.without_null(given)
                    plan = self.plan_of(variant)
                    break
        if self.lists:
            plan, args = self.with_lists(raw)
            return plan, args, given
        return plan, self.processed(raw), given

    cdef tuple bind_row(self, dict row, list extracted, object plain_types):
        """Return the arguments for a row of the known names with plain values, else None."""
        cdef Py_ssize_t place, size
        cdef list raw
        cdef Slot slot
        if PyDict_Size(row) != self.row_size:
            return None
        size = PyTuple_GET_SIZE(self.slots)
        raw = [None] * size
        for place in range(size):
            slot = <Slot>PyTuple_GET_ITEM(self.slots, place)
            if slot.of_row:
                value = value_of(row, slot.key, ABSENT)
                if value is ABSENT:
                    return None
                if not is_common(value) and type(value) not in plain_types:
                    return None
            elif slot.required:
                return None
            else:
                value = own_value(slot, extracted)
            raw[place] = value
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
        cdef Py_ssize_t place, size = PyTuple_GET_SIZE(self.slots)
        cdef Slot slot
        cdef tuple args = PyTuple_New(size)
        for place in range(size):
            slot = <Slot>PyTuple_GET_ITEM(self.slots, place)
            value = <object>PyList_GET_ITEM(raw, place)
            if slot.code != NONE:
                value = self.process(slot.code, slot.processor, value, slot)
            Py_INCREF(value)
            PyTuple_SET_ITEM(args, place, value)
        if self.order is not None:
            return tuple([args[place] for place in self.order])
        return args

    cdef object process(self, int code, object processor, object value, Slot slot):
        try:
            return processed_value(code, processor, value)
        except Exception as exc:
            from fastdb.compiler_expression import refuse_value

            refuse_value(exc, value, slot.bind, slot.key or slot.slot.name)

    cdef tuple with_lists(self, list raw):
        """Return plan and arguments where some slots take lists."""
        cdef Py_ssize_t place, size
        cdef Slot slot
        cdef tuple args, arguments
        cdef object lengths = None
        cdef Argument argument
        cdef PyObject *found
        for place in range(PyTuple_GET_SIZE(self.slots)):
            slot = <Slot>PyTuple_GET_ITEM(self.slots, place)
            if slot.is_list:
                items = raw[place]
                if type(items) is not list and type(items) is not tuple:
                    raw[place] = items = listed(items, slot.slot)
                if self.lists == 1:
                    lengths = len(items)
                    break
                lengths = (lengths, len(items))
        found = PyDict_GetItemWithError(self.by_lengths, lengths)
        if found is NULL:
            known = self.expanded(raw)
            if len(self.by_lengths) >= MOST_EXPANSIONS:
                self.by_lengths.pop(next(iter(self.by_lengths)))
            self.by_lengths[lengths] = known
        else:
            known = <tuple>found
        arguments = <tuple>PyTuple_GET_ITEM(known, 1)
        size = PyTuple_GET_SIZE(arguments)
        args = PyTuple_New(size)
        for place in range(size):
            argument = <Argument>PyTuple_GET_ITEM(arguments, place)
            value = <object>PyList_GET_ITEM(raw, argument.place)
            if argument.member >= 0:
                value = value[argument.member]
            if argument.code != NONE:
                slot = <Slot>PyTuple_GET_ITEM(self.slots, argument.place)
                value = self.process(argument.code, argument.processor, value, slot)
            Py_INCREF(value)
            PyTuple_SET_ITEM(args, place, value)
        return <object>PyTuple_GET_ITEM(known, 0), args

    cdef tuple expanded(self, list raw):
        """Return plan and arguments for lists of these lengths."""
        from fastdb.compiler_processors import bind_code

        names = [slot.name for slot in self.compiled.slots]
        expansion = self.compiled.expansion(dict(zip(names, raw)))
        dialect = self.compiled.dialect
        arguments = []
        for name, member, processor in expansion.slots:
            place = names.index(name)
            code = bind_code(self.compiled.slots[place].bind.type, dialect, processor)
            arguments.append(Argument(place, member, processor, code))
        return self.plan_of(expansion.variant), tuple(arguments)


cdef object listed(object items, object slot):
    from fastdb.compiler_expression import as_list

    return as_list(items, slot)


cdef inline object own_value(Slot slot, list extracted):
    """Return the value that the expression itself has for a slot."""
    cdef dict attributes
    bind = slot.bind
    if extracted is not None and slot.position >= 0:
        bind = extracted[slot.position]
    # Read past `__getattr__`, which costs more than all the rest.
    attributes = <dict?>PyObject_GenericGetDict(bind, NULL)
    if value_of(attributes, "callable", ABSENT) is None:
        value = value_of(attributes, "value", ABSENT)
        if value is not ABSENT:
            return value
    return bind.effective_value
