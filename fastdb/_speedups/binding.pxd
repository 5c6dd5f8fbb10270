"""What the query cache does with what was compiled."""

cimport cython

from fastdb._speedups.plans cimport QueryPlan


cdef class Entry:
    """What was compiled, and whether it was used since it was last looked at."""

    cdef object compiled
    cdef bint used


@cython.final
cdef class TextEntry(Entry):
    """SQL text: its plan and the names of its arguments."""

    cdef QueryPlan plan
    cdef tuple names
    cdef Py_ssize_t distinct
    cdef object adapt

    cdef tuple arguments(self, object values)


@cython.final
cdef class ExpressionEntry(Entry):
    """A compiled expression, its slots laid out for the loop that binds them."""

    cdef bint simple  # all that the loop below knows
    cdef QueryPlan plan
    cdef tuple slots
    cdef tuple order
    cdef tuple defaults
    cdef tuple given_slots
    cdef tuple nothing_given  # for a key of which the client knows no column
    cdef Py_ssize_t lists  # how many slots take lists
    cdef dict by_lengths
    cdef bint plain  # the columns are the tables' own, if there are any
    cdef Py_ssize_t row_size  # of a row that bind_row() knows, or -1
    cdef list kept  # what the key names by its address
    cdef object missing  # what a key that nobody gives is
    cdef object recent  # a weak reference to an expression that was found to be equal
    cdef Py_ssize_t found  # how often

    cdef QueryPlan plan_of(self, object variant)
    cdef tuple bind(self, object values, list extracted, object collected)
    cdef tuple bind_row(self, dict row, list extracted, object plain_types)
    cdef list with_defaults(self, list raw)
    cdef tuple processed(self, list raw)
    cdef object process(self, int code, object processor, object value, Slot slot)
    cdef tuple with_lists(self, list raw)
    cdef tuple expanded(self, list raw)


@cython.final
cdef class Slot:
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


@cython.final
cdef class Argument:
    """Where an argument of an expression with lists comes from."""

    cdef Py_ssize_t place  # of the slot
    cdef Py_ssize_t member  # of the slot's list, or -1
    cdef object processor
    cdef int code


cdef bint is_common(object value)
