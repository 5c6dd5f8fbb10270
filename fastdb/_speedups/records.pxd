"""What other compiled modules may do with records: make them without a tuple in between."""

from cpython.object cimport PyObject, PyTypeObject


cdef extern from *:
    """
    #include <stddef.h>

    typedef struct {
        PyObject_HEAD
        PyObject *layout;
        PyObject *values[1];
    } fastdb_record;

    #define FASTDB_HEAD ((Py_ssize_t)offsetof(fastdb_record, values))
    #define FASTDB_VALUES(record) (((fastdb_record *)(record))->values)
    #define FASTDB_SIZE(record) \\
        ((Py_TYPE(record)->tp_basicsize - FASTDB_HEAD) / (Py_ssize_t)sizeof(PyObject *))

    /* Return whether the cyclic collector was running, which is not to run until enabled again.
       Where threads run at the same time, another one might be about to do the same. */
    static inline int
    fastdb_pause_collector(void)
    {
    #ifdef Py_GIL_DISABLED
        return 0;
    #else
        return PyGC_Disable();
    #endif
    }
    """
    int fastdb_pause_collector()
    int PyGC_Enable()
    PyObject **FASTDB_VALUES(PyObject *record)
    Py_ssize_t FASTDB_SIZE(PyObject *record)


# What is known of a converter. Those with a name of their own do what SQLAlchemy's do.
cdef enum ConverterCode:
    NONE = 0
    ANY = 1  # nothing is known
    BOOLEAN = 2
    NUMBER = 3
    DATETIME = 4
    DATE = 5
    TIME = 6
    JSON = 7
    LOOKUP = 8


cdef class RecordClasses:
    cdef tuple names
    cdef tuple attributes
    cdef dict positions
    cdef type plain
    cdef type tracked
    cdef PyTypeObject *current

    cdef int note_container(self) except -1


cdef class RecordLayout:
    cdef readonly tuple names
    cdef RecordClasses _classes
    cdef dict _positions
    cdef tuple _converters
    cdef object _columns
    cdef Py_ssize_t _size
    cdef bytes _codes  # of the converters
    cdef const unsigned char *_code_of  # the same
    cdef Py_ssize_t _converted  # how many columns have a converter
    cdef bytes _packed_places  # where these stand
    cdef const Py_ssize_t *_places  # the same
    cdef bint _runs_python  # some converter may run code of the user's

    cdef Py_ssize_t resolve(self, object key) except -2


# A record whose values are all NULL. Whoever makes one fills every value before Python code can
# get hold of it. Dropped earlier it is freed.
cdef object blank_record(RecordLayout layout)
# The record to give out in its place; needed where a value may be a container.
cdef object finished_record(RecordLayout layout, object record)
