"""What the query cache does with the walk over expressions."""

cimport cython
from cpython.object cimport PyObject

cdef enum:
    MOST_ATTRIBUTES = 64  # of an element
    ROOM = 96  # for pieces of a key before they are moved to a list
    FEW = 24  # elements that are told apart without a dict


@cython.final
cdef class AddressMap:
    """Objects by the identity of other objects; both are kept."""

    cdef list _owned
    cdef PyObject **_keys
    cdef PyObject **_values
    cdef size_t _mask
    cdef size_t _used

    cdef PyObject *get(self, PyObject *key) noexcept
    cdef int put(self, object key, object value) except -1
    cdef int _grow(self) except -1


@cython.final
cdef class Walk:
    """One walk over one expression."""

    cdef Walker walker
    cdef readonly list binds
    cdef list kept
    cdef list _alive
    cdef list _more
    cdef dict _others
    cdef object _names
    cdef int _depth
    cdef int _size
    cdef int _seen
    cdef PyObject *_pieces[ROOM]
    cdef PyObject *_elements[FEW]

    cdef tuple key(self, object keys, object many)
    cdef int put(self, object piece) except -1
    cdef int element(self, object element) except -1
    cdef int address(self, object thing) except -1
    cdef int number_of(self, object element) except -2
    cdef int parameter(self, object bind, Shape shape, PyObject **values) except -1
    cdef int optional(self, int place, PyObject **values) except -1
    cdef int attributes(self, object element, Shape shape, PyObject **values) except -1
    cdef int attribute(self, int code, object value) except -1
    cdef int several(self, int code, object value) except -1
    cdef int options(self, object options) except -1
    cdef int plain(self, object value) except -1
    cdef int type(self, object type_) except -1
    cdef int name(self, object name) except -1


@cython.final
cdef class Shape:
    """The names in the ``__dict__`` of an element, in order, and what is done with each."""

    cdef tuple names
    cdef Py_ssize_t size
    cdef object mark
    cdef tuple computed
    cdef signed char codes[MOST_ATTRIBUTES]
    cdef signed char places[12]


@cython.final
cdef class ElementClass:
    """What is known of one class of elements."""

    cdef object element_class
    cdef bint is_parameter
    cdef dict codes
    cdef tuple computed
    cdef dict marks
    cdef list shapes
    cdef Shape last

    cdef Shape collect(self, dict attributes, PyObject **values)
    cdef bint matches(self, Shape shape, dict attributes, PyObject **values) noexcept
    cdef Shape shape_of(self, tuple names)


@cython.final
cdef class Walker:
    """Walk over expressions; make keys that are equal where their SQL is."""

    cdef AddressMap classes
    cdef AddressMap types
    cdef object table_class
    cdef object column_class
    cdef object bind_class
    cdef object limit_class
    cdef object simple_types
    cdef object anonymous
    cdef object prefix_map
    cdef object traversal_of
    cdef object type_token

    cdef Walk walk(self, object query, bint keeping)
    cdef ElementClass class_of(self, object element_class)
