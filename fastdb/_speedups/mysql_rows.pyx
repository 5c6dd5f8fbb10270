# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: freethreading_compatible=True
# (binding: see records.pyx)
"""Read results of MySQL's text protocol: many packets a call, straight into records.

https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response_text_resultset.html

The bytes come from a server, which is not trusted. Whoever follows a pointer here has compared it
with the end of its packet before: :func:`read_number` and :func:`read_string` do nothing else, and
lengths are compared as unsigned numbers with what is left before they are added to anything.

Values are those of PyMySQL's converters: what they make of the common form of a text is made here
without them (``12``, ``2007-02-26``), and any other text is handed to the converter itself.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_Clear
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject, PyObject_IsTrue
from cpython.ref cimport Py_DECREF
from cpython.tuple cimport PyTuple_New
from libc.string cimport memcpy

from fastdb._speedups cimport records
from fastdb._speedups.records cimport (
    FASTDB_VALUES,
    PyGC_Enable,
    RecordLayout,
    blank_record,
    fastdb_pause_collector,
    finished_record,
)

from fastdb.exceptions import InterfaceError, InternalError

__all__ = ["ResultReader"]

cdef extern from *:
    """
    #include <float.h>
    #include <math.h>
    #include "datetime.h"

    /* Not at import: programs without MySQL need no datetime. */
    static int
    fastdb_import_datetime(void)
    {
        if (PyDateTimeAPI == NULL) {
            PyDateTime_IMPORT;
        }
        return PyDateTimeAPI == NULL ? -1 : 0;
    }

    /* Division of two exact numbers rounds once, unless the compiler keeps more digits. */
    #if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD == 0
    #define FASTDB_EXACT_DIGITS 15
    #else
    #define FASTDB_EXACT_DIGITS 0
    #endif

    /* Return the float that is nearest to digits / 10**scale, halves to even, as strtod does; 0 for
       what is not so written. With the digits shifted to the top of 127 bits, the quotient has 63
       bits at least; with "something is left" as its lowest bit it rounds as the fraction does,
       and no power of two here takes it out of the range of normal numbers. */
    #ifdef __SIZEOF_INT128__
    #define FASTDB_MOST_DIGITS 19
    static int
    fastdb_quotient(unsigned long long digits, int scale, double *number)
    {
        static const unsigned long long powers[] = {
            1ULL, 10ULL, 100ULL, 1000ULL, 10000ULL, 100000ULL, 1000000ULL, 10000000ULL,
            100000000ULL, 1000000000ULL, 10000000000ULL, 100000000000ULL, 1000000000000ULL,
            10000000000000ULL, 100000000000000ULL, 1000000000000000ULL, 10000000000000000ULL,
            100000000000000000ULL, 1000000000000000000ULL, 10000000000000000000ULL,
        };
        unsigned __int128 dividend, quotient;
        unsigned long long bits, high, rest;
        int shift, drop;
        if (scale < 0 || scale > 19) {
            return 0;
        }
        if (digits == 0) {
            *number = 0.0;
            return 1;
        }
        shift = __builtin_clzll(digits);
        dividend = (unsigned __int128)(digits << shift) << 63;
        shift += 63;
        quotient = dividend / powers[scale];
        rest = dividend != quotient * powers[scale];
        high = (unsigned long long)(quotient >> 64);
        drop = high ? 74 - __builtin_clzll(high)
                    : 10 - __builtin_clzll((unsigned long long)quotient);
        /* 54 bits: those of the float, and one that tells which half. */
        bits = (unsigned long long)(quotient >> drop);
        rest |= ((unsigned __int128)bits << drop) != quotient;
        bits += (bits & 1) & (rest | (bits >> 1));
        *number = ldexp((double)(bits >> 1), drop + 1 - shift);
        return 1;
    }
    #else
    #define FASTDB_MOST_DIGITS FASTDB_EXACT_DIGITS
    static int
    fastdb_quotient(unsigned long long digits, int scale, double *number)
    {
        return 0;
    }
    #endif

    #define FASTDB_ITEMS(row) (((PyTupleObject *)(row))->ob_item)
    """
    int FASTDB_MOST_DIGITS
    bint fastdb_quotient(unsigned long long digits, int scale, double *number)
    int fastdb_import_datetime() except -1
    int FASTDB_EXACT_DIGITS
    PyObject **FASTDB_ITEMS(PyObject *row)
    PyObject *PyDate_FromDate(int year, int month, int day)
    PyObject *PyDateTime_FromDateAndTime(
        int year, int month, int day, int hour, int minute, int second, int microsecond
    )
    PyObject *PyDelta_FromDSU(int days, int seconds, int microseconds)
    PyObject *FloatOf "PyFloat_FromDouble"(double number) except NULL
    PyObject *LongOf "PyLong_FromLongLong"(long long number) except NULL
    PyObject *BytesOf "PyBytes_FromStringAndSize"(const char *text, Py_ssize_t size) except NULL
    PyObject *CallOneArg "PyObject_CallOneArg"(PyObject *function, PyObject *argument) except NULL
    PyObject *DecodeUTF8 "PyUnicode_DecodeUTF8"(
        const char *text, Py_ssize_t size, const char *errors
    ) except NULL
    PyObject *DecodeASCII "PyUnicode_DecodeASCII"(
        const char *text, Py_ssize_t size, const char *errors
    ) except NULL
    PyObject *DecodeOther "PyUnicode_Decode"(
        const char *text, Py_ssize_t size, const char *encoding, const char *errors
    ) except NULL
    double PyOS_string_to_double(const char *text, char **end, PyObject *overflow) except? -1.0
    PyObject *Py_None
    PyObject *Py_True
    PyObject *Py_False
    void Incref "Py_INCREF"(PyObject *)
    void Decref "Py_DECREF"(PyObject *)
    void PyObject_GC_Track(PyObject *)
    void PyObject_GC_UnTrack(PyObject *)


cdef enum:
    FULL_PACKET = 0xFFFFFF  # another packet continues this one
    OK_PACKET = 0x00  # by their first bytes
    FILE_PACKET = 0xFB
    EOF_PACKET = 0xFE
    ERROR_PACKET = 0xFF
    MORE_RESULTS = 0x0008
    BINARY_CHARSET = 63
    JSON = 245
    MOST_COLUMNS = 0xFFFF  # servers stop at 4096
    LONG = 100

cdef enum State:
    FIRST, DEFINITIONS, DEFINITIONS_END, ROWS, ENDED

# How a text becomes a value; what is none of the common form takes the way of CALL.
cdef enum Kind:
    PLAIN, CALL, INTEGER, FLOAT, DATETIME, DATE, TIME, BOOLEAN

cdef enum Encoding:
    NONE, ASCII, UTF8, OTHER

cdef dict KINDS = {
    "as is": PLAIN,
    "int": INTEGER,
    "float": FLOAT,
    "datetime": DATETIME,
    "date": DATE,
    "time": TIME,
}
# BIT, BLOB and its sizes, STRING, VAR_STRING, VARCHAR, GEOMETRY
cdef frozenset TEXT_TYPES = frozenset((15, 16, 249, 250, 251, 252, 253, 254, 255))

cdef int exponent
cdef double[16] POWERS
for exponent in range(16):
    POWERS[exponent] = 10.0**exponent

cdef int[7] FRACTIONS
for exponent in range(7):
    FRACTIONS[6 - exponent] = <int>POWERS[exponent]


cdef struct Packet:
    const unsigned char *at
    const unsigned char *end


cdef struct Column:
    Kind kind
    Encoding encoding
    PyObject *converter  # held by ResultReader._converters


cdef object unreadable(str what):
    return InternalError(f"the server's answer cannot be read: {what}")


cdef inline unsigned int two_bytes(const unsigned char *at) noexcept:
    return at[0] | <unsigned int>at[1] << 8


cdef int read_number(Packet *packet, unsigned long long *number) except -1:
    """Read a number of 1, 3, 4 or 9 bytes; return 0 where NULL stands in its place."""
    cdef const unsigned char *at = packet.at
    cdef Py_ssize_t left = packet.end - at
    cdef Py_ssize_t size
    cdef unsigned int first
    if left < 1:
        raise unreadable("a packet ends before its last value")
    first = at[0]
    if first < 0xFB:
        number[0] = first
        packet.at = at + 1
        return 1
    if first == 0xFB:
        packet.at = at + 1
        return 0
    if first == 0xFF:
        raise unreadable("a length begins with the byte 255")
    size = 2 if first == 0xFC else 3 if first == 0xFD else 8
    if left - 1 < size:
        raise unreadable("a packet ends inside a length")
    number[0] = 0
    for position in range(size):
        number[0] |= <unsigned long long>at[1 + position] << (8 * position)
    packet.at = at + 1 + size
    return 1


cdef int read_string(
    Packet *packet, const unsigned char **text, Py_ssize_t *size
) except -1:
    """Read a length and as many bytes; return 0 where NULL stands in their place."""
    cdef unsigned long long length
    cdef Py_ssize_t left
    if packet.at < packet.end and packet.at[0] < 0xFB:
        length = packet.at[0]
        packet.at += 1
    elif not read_number(packet, &length):
        return 0
    left = packet.end - packet.at
    if length > <unsigned long long>left:
        raise unreadable(f"a value has {length} bytes; its packet has {left} left")
    text[0] = packet.at
    size[0] = <Py_ssize_t>length
    packet.at += size[0]
    return 1


cdef unsigned long long read_count(Packet *packet) except? 0xFFFFFFFFFFFFFFFF:
    cdef unsigned long long number
    if not read_number(packet, &number):
        raise unreadable("NULL stands where a number must")
    return number


# -- texts of the common form; NULL without an error for any other


cdef PyObject *integer_of(const unsigned char *text, Py_ssize_t size) except? NULL:
    cdef long long number = 0
    cdef Py_ssize_t position = 0
    cdef unsigned char digit
    cdef bint negative = size > 0 and text[0] == c"-"
    if negative:
        position = 1
    if size == position or size - position > 18:
        return NULL
    while position < size:
        digit = <unsigned char>(text[position] - c"0")
        if digit > 9:
            return NULL
        number = number * 10 + digit
        position += 1
    return LongOf(-number if negative else number)


cdef PyObject *float_of(const unsigned char *text, Py_ssize_t size) except? NULL:
    cdef char buffer[64]
    cdef char *end
    cdef double number
    cdef unsigned long long mantissa = 0
    cdef int digits = 0  # without zeros in front
    cdef int scale = 0
    cdef bint any_digit = False
    cdef bint simple = True
    cdef bint fraction = False
    cdef unsigned char char
    cdef Py_ssize_t position
    cdef bint negative = size > 0 and text[0] == c"-"
    if size == 0 or size >= 64:
        return NULL
    for position in range(negative, size):
        char = text[position]
        if c"0" <= char <= c"9":
            any_digit = True
            scale += fraction
            if digits or char != c"0":
                digits += 1
                if digits <= 19:
                    mantissa = mantissa * 10 + (char - c"0")
        elif char == c"." and not fraction:
            fraction = True
        elif char == c"e" or char == c"E" or char == c"-" or char == c"+":
            simple = False
        else:
            return NULL
    if simple and any_digit:
        if digits <= FASTDB_EXACT_DIGITS and scale <= FASTDB_EXACT_DIGITS:
            number = <double>mantissa / POWERS[scale]
            return FloatOf(-number if negative else number)
        if digits <= FASTDB_MOST_DIGITS and fastdb_quotient(mantissa, scale, &number):
            return FloatOf(-number if negative else number)
    memcpy(buffer, text, size)
    buffer[size] = 0
    try:
        number = PyOS_string_to_double(buffer, &end, NULL)
    except ValueError:
        return NULL
    return FloatOf(number) if end == buffer + size else NULL


cdef inline int two_digits(const unsigned char *text) noexcept:
    cdef unsigned char tens = <unsigned char>(text[0] - c"0")
    cdef unsigned char ones = <unsigned char>(text[1] - c"0")
    return tens * 10 + ones if tens <= 9 and ones <= 9 else -1


cdef int fraction_of(const unsigned char *text, Py_ssize_t size) noexcept:
    """Return the microseconds of ``.5`` or nothing, -1 for another form."""
    cdef int number = 0
    cdef unsigned char digit
    cdef Py_ssize_t position
    if size == 0:
        return 0
    if text[0] != c"." or size < 2 or size > 7:
        return -1
    for position in range(1, size):
        digit = <unsigned char>(text[position] - c"0")
        if digit > 9:
            return -1
        number = number * 10 + digit
    return number * FRACTIONS[size - 1]


cdef bint split_date(const unsigned char *text, int *year, int *month, int *day) noexcept:
    """Read the ten bytes of ``2007-02-26``."""
    cdef int century = two_digits(text)
    year[0] = two_digits(text + 2)
    month[0] = two_digits(text + 5)
    day[0] = two_digits(text + 8)
    if century < 0 or year[0] < 0 or month[0] < 0 or day[0] < 0:
        return False
    year[0] += 100 * century
    return text[4] == c"-" and text[7] == c"-"


cdef PyObject *date_of(const unsigned char *text, Py_ssize_t size) except? NULL:
    cdef int year, month, day
    cdef PyObject *value
    if size != 10 or not split_date(text, &year, &month, &day):
        return NULL
    value = PyDate_FromDate(year, month, day)
    if value is NULL:
        PyErr_Clear()  # there is no such day; the converter says what becomes of it
    return value


cdef PyObject *datetime_of(const unsigned char *text, Py_ssize_t size) except? NULL:
    cdef int year, month, day, hour, minute, second, microsecond
    cdef PyObject *value
    if size < 19 or not split_date(text, &year, &month, &day):
        return NULL
    hour = two_digits(text + 11)
    minute = two_digits(text + 14)
    second = two_digits(text + 17)
    microsecond = fraction_of(text + 19, size - 19)
    if hour < 0 or minute < 0 or second < 0 or microsecond < 0:
        return NULL
    if text[10] != c" " or text[13] != c":" or text[16] != c":":
        return NULL
    value = PyDateTime_FromDateAndTime(year, month, day, hour, minute, second, microsecond)
    if value is NULL:
        PyErr_Clear()
    return value


cdef PyObject *time_of(const unsigned char *text, Py_ssize_t size) except? NULL:
    """Return a timedelta of ``-838:59:59.5`` or ``12:00:00``."""
    cdef int hour, minute, second, microsecond, extra
    cdef bint negative = size > 0 and text[0] == c"-"
    if negative:
        text += 1
        size -= 1
    if size < 8:
        return NULL
    hour = two_digits(text)
    if text[2] != c":":
        extra = <unsigned char>(text[2] - c"0")
        if extra > 9 or hour < 0 or size < 9:
            return NULL
        hour = hour * 10 + extra
        text += 1
        size -= 1
    if hour < 0 or text[2] != c":" or text[5] != c":":
        return NULL
    minute = two_digits(text + 3)
    second = two_digits(text + 6)
    microsecond = fraction_of(text + 8, size - 8)
    if minute < 0 or second < 0 or microsecond < 0:
        return NULL
    second += hour * 3600 + minute * 60
    if negative:
        second, microsecond = -second, -microsecond
    return PyDelta_FromDSU(0, second, microsecond)


@cython.no_gc_clear  # Column.converter points into `_converters`, which must not go before
cdef class ResultReader:
    """Read one result of a statement out of the bytes of a connection.

    Bytes come through :meth:`feed`, in pieces of any size. A result is the server's OK, its error,
    its wish for a local file, or a head (the columns) with rows and their end.

    Args:
        sequence: The number that the next packet must have.
        encoding: The codec of the connection's charset.
        use_unicode: Whether texts are decoded; otherwise values come from bytes.
        decoders: The converter for each type of column, as PyMySQL's ``decoders``.
        known: Pairs of a converter that need not be called and its kind: "int", "float",
            "datetime", "date", "time" or "as is".
        layouts: Returns the layout for the names of the columns. Rows become its records, unless
            it has converters of which more is to be known than that they are SQLAlchemy's for
            booleans and floats, or raises an error: then they stay tuples.
        limit: The number of rows to take, further ones are dropped; -1 takes all.

    Attributes:
        sequence: The number that the next packet must have.
        missing: How many bytes more, at least, :meth:`feed` can use; 0 where it has done its task.
        ended: Whether the result has ended, in one way or another.
        names: The columns' names; None before they are known, or where there are none.
        rows: The rows that were read and not taken, tuples or records.
        makes_records: Whether the rows are records.
        error: The server's error packet, or None.
        wants_file: Whether the server asks for a file of the client's.
        lost: Whether a packet had the number 0: servers that shut down say so out of turn.
        affected_rows: Of the OK packet.
        insert_id: Of the OK packet.
        message: Of the OK packet.
        server_status: The flags in the last packet, None before there are any.
        warning_count: The number of warnings in the last packet.
        has_next: Whether another result follows.
    """

    cdef readonly unsigned int sequence
    cdef readonly Py_ssize_t missing
    cdef readonly bint makes_records
    cdef readonly bint wants_file
    cdef readonly bint lost
    cdef readonly bint has_next
    cdef readonly tuple names
    cdef readonly bytes error
    cdef readonly bytes message
    cdef readonly object affected_rows
    cdef readonly object insert_id
    cdef readonly object server_status
    cdef readonly int warning_count

    cdef State _state
    cdef bint _feeding
    cdef list _rows
    cdef bint _paused  # the collector, by the call of feed() that runs
    cdef bint _use_unicode
    cdef bint _calls  # a converter is called, whose values may be containers
    cdef str _encoding_name
    cdef bytes _encoding
    cdef bint _utf8
    cdef object _decoders
    cdef tuple _known
    cdef object _layouts
    cdef RecordLayout _layout
    cdef Py_ssize_t _limit
    cdef list _parts
    cdef list _names
    cdef list _converters
    cdef Column *_columns
    cdef Py_ssize_t _count

    def __cinit__(
        self,
        unsigned int sequence,
        str encoding not None,
        bint use_unicode,
        decoders,
        tuple known not None,
        layouts=None,
        Py_ssize_t limit=-1,
    ):
        fastdb_import_datetime()
        self.sequence = sequence & 0xFF
        self._encoding_name = encoding
        self._encoding = encoding.encode("ascii")
        self._utf8 = encoding in ("utf8", "utf-8")
        self._use_unicode = use_unicode
        self._decoders = decoders
        self._known = known
        self._layouts = layouts
        self._limit = limit
        self._state = FIRST
        self._rows = []

    def __dealloc__(self):
        PyMem_Free(self._columns)

    @property
    def ended(self):
        return self._state == ENDED

    @property
    def rows(self):
        with cython.critical_section(self):  # the others never change once they are set
            return self._rows

    @cython.critical_section  # pragma: no cover: it runs nothing where the GIL does
    def feed(self, bytes data not None, Py_ssize_t position=0, Py_ssize_t size=-1):
        """Read packets out of `data` from `position` on; return the position of the first unread.

        Stops at the end of the result, where `data` ends inside a packet (then `missing` says how
        much of it is not there), and with `size` rows or more in `rows`: 0 reads the head only, -1
        everything.

        Raises:
            InternalError: This is no answer; whatever follows cannot be trusted.
        """
        if position < 0 or position > PyBytes_GET_SIZE(data):
            raise InterfaceError(
                f"position {position} is out of range; the data has {len(data)} bytes"
            )
        if self._feeding:
            raise InterfaceError("feed() is running already")
        self._feeding = True
        try:
            if self._state == ROWS:
                self.pause_collector()
            return self.read(data, position, size)
        finally:
            self._feeding = False  # pragma: no cover: traced at one of the two places where C has it
            if self._paused:
                self._paused = False
                PyGC_Enable()

    def take(self):
        """Return the rows that were read since the last time."""
        with cython.critical_section(self):
            rows, self._rows = self._rows, []
        # A list that has grown has room for an eighth more, which a long one gives back.
        return rows if len(rows) < LONG else rows[:]

    cdef int pause_collector(self) noexcept:
        """Keep the cyclic collector from looking through rows that are nothing for it."""
        if not self._calls and fastdb_pause_collector():
            self._paused = True
        return 0

    cdef Py_ssize_t read(self, bytes data, Py_ssize_t position, Py_ssize_t size) except -1:
        cdef const unsigned char *start = <const unsigned char *>PyBytes_AS_STRING(data)
        cdef const unsigned char *at
        cdef Py_ssize_t left, length
        cdef bytes joined
        self.missing = 0
        while self._state != ENDED:
            if size >= 0 and self._state == ROWS and len(self._rows) >= size:
                break
            left = PyBytes_GET_SIZE(data) - position
            if left < 4:
                self.missing = 4 - left
                break
            at = start + position
            length = at[0] | <Py_ssize_t>at[1] << 8 | <Py_ssize_t>at[2] << 16
            if at[3] != self.sequence:
                self.lost = at[3] == 0
                raise unreadable(f"a packet has the number {at[3]} instead of {self.sequence}")
            if left - 4 < length:
                self.missing = length - (left - 4)
                break
            at += 4
            position += 4 + length
            self.sequence = (self.sequence + 1) & 0xFF
            if length < FULL_PACKET and self._parts is None:
                self.read_packet(at, length)
                continue
            if self._parts is None:
                self._parts = []
            self._parts.append(PyBytes_FromStringAndSize(<const char *>at, length))
            if length < FULL_PACKET:
                joined = b"".join(self._parts)
                self._parts = None
                self.read_packet(
                    <const unsigned char *>PyBytes_AS_STRING(joined), PyBytes_GET_SIZE(joined)
                )
        return position

    cdef int read_packet(self, const unsigned char *at, Py_ssize_t size) except -1:
        cdef Packet packet
        if size == 0:
            raise unreadable("a packet is empty")
        packet.at = at
        packet.end = at + size
        if at[0] == ERROR_PACKET:
            self.error = PyBytes_FromStringAndSize(<const char *>at, size)
            self._state = ENDED
        elif self._state == ROWS:
            # A row can begin with the same byte, but is longer then.
            if at[0] == EOF_PACKET and size < 9:
                if size < 5:
                    raise unreadable("the end of a result has no status")
                self.warning_count = two_bytes(at + 1)
                self.note_status(two_bytes(at + 3))
                self._state = ENDED
            elif self._limit != 0:
                if self._limit > 0:
                    self._limit -= 1
                self.read_row(&packet)
        elif self._state == DEFINITIONS:
            self.read_definition(&packet)
            if len(self._names) == self._count:
                self._state = DEFINITIONS_END
        elif self._state == DEFINITIONS_END:
            if at[0] != EOF_PACKET or size >= 9:
                raise unreadable("more columns come than were announced")
            self.begin_rows()
        elif at[0] == OK_PACKET and size >= 7:
            self.read_ok(&packet)
            self._state = ENDED
        elif at[0] == FILE_PACKET:
            self.wants_file = True
            self._state = ENDED
        else:
            self.read_head(&packet)
        return 0

    cdef int read_ok(self, Packet *packet) except -1:
        packet.at += 1
        self.affected_rows = read_count(packet)
        self.insert_id = read_count(packet)
        if packet.end - packet.at < 4:
            raise unreadable("the OK packet ends before its status")
        self.note_status(two_bytes(packet.at))
        self.warning_count = two_bytes(packet.at + 2)
        self.message = PyBytes_FromStringAndSize(
            <const char *>packet.at + 4, packet.end - packet.at - 4
        )
        return 0

    cdef int note_status(self, unsigned int status) except -1:
        self.server_status = status
        self.has_next = status & MORE_RESULTS != 0
        return 0

    cdef int read_head(self, Packet *packet) except -1:
        cdef unsigned long long count = read_count(packet)
        if count == 0 or count > MOST_COLUMNS:
            raise unreadable(f"a result has {count} columns")
        if packet.at != packet.end:
            raise unreadable("something follows the number of columns")
        self._columns = <Column *>PyMem_Calloc(<size_t>count, sizeof(Column))
        if self._columns is NULL:
            raise MemoryError  # pragma: no cover: no memory
        self._count = <Py_ssize_t>count
        self._names = []
        self._converters = []
        self._state = DEFINITIONS
        return 0

    cdef int read_definition(self, Packet *packet) except -1:
        cdef const unsigned char *text = NULL
        cdef const unsigned char *name = NULL
        cdef Py_ssize_t size = 0
        cdef Py_ssize_t name_size = 0
        cdef int position
        for position in range(4):  # catalog, database, table's alias and name
            read_string(packet, &text, &size)
        if not read_string(packet, &name, &name_size):
            raise unreadable("a column has no name")
        read_string(packet, &text, &size)  # the name in its table
        if packet.end - packet.at < 13:
            raise unreadable("the definition of a column is too short")
        # a length, the charset, the column's length, its type, its flags, its decimals, a filler
        self.add_column(self.decode_name(name, name_size), packet.at[7], two_bytes(packet.at + 1))
        return 0

    cdef object decode_name(self, const unsigned char *text, Py_ssize_t size):
        if self._utf8:
            decoded = <object>DecodeUTF8(<const char *>text, size, NULL)
        else:
            decoded = <object>DecodeOther(<const char *>text, size, self._encoding, NULL)
        Py_DECREF(decoded)  # the reference that the function gave
        return decoded

    cdef int add_column(self, object name, int type_code, unsigned int charset) except -1:
        cdef Column *column = &self._columns[len(self._names)]
        converter = self._decoders.get(type_code)
        if not self._use_unicode:
            column.encoding = NONE
        elif type_code == JSON or (type_code in TEXT_TYPES and charset != BINARY_CHARSET):
            column.encoding = UTF8 if self._utf8 else OTHER
        elif type_code in TEXT_TYPES:
            column.encoding = NONE
        else:
            column.encoding = ASCII
        column.kind = PLAIN
        if converter is not None:
            column.kind = CALL
            for known, kind in self._known:
                if known is converter:
                    column.kind = KINDS[kind]
                    break
            # Digits of another charset may be no ASCII.
            if column.kind != PLAIN and column.encoding != ASCII:
                column.kind = CALL
            if column.kind == CALL:
                self._calls = True
        self._converters.append(converter)
        column.converter = <PyObject *>converter
        self._names.append(name)
        return 0

    cdef int begin_rows(self) except -1:
        self.names = tuple(self._names)
        self.choose_layout()
        self._state = ROWS
        self.pause_collector()
        return 0

    cdef int choose_layout(self) except -1:
        if self._layouts is None:
            return 0
        try:
            layout = self._layouts(self.names)
        except Exception:
            return 0  # whoever makes records of the tuples asks again, and is told
        if (
            type(layout) is RecordLayout
            and (<RecordLayout>layout)._size == self._count
            and self.can_convert(<RecordLayout>layout)
        ):
            self._layout = layout
            self.makes_records = True
        return 0

    cdef bint can_convert(self, RecordLayout layout) noexcept:
        """Take over what the layout's converters do, if that is known and cannot fail."""
        cdef Py_ssize_t position
        cdef int code
        cdef Kind kind
        if layout._converters is None:
            return True
        for position in range(self._count):
            code = layout._code_of[position]
            kind = self._columns[position].kind
            if not (
                code == records.NONE
                or (code == records.BOOLEAN and kind == INTEGER)
                or (code == records.NUMBER and kind == FLOAT)
            ):
                return False
        for position in range(self._count):
            if layout._code_of[position] == records.BOOLEAN:
                self._columns[position].kind = BOOLEAN
        return True

    cdef int read_row(self, Packet *packet) except -1:
        if self._layout is not None:
            row = blank_record(self._layout)
            self.fill(FASTDB_VALUES(<PyObject *>row), packet)
            if self._calls:
                row = finished_record(self._layout, row)
        else:
            row = PyTuple_New(self._count)
            # Nobody shall find it while it is not filled.
            PyObject_GC_UnTrack(<PyObject *>row)
            self.fill(FASTDB_ITEMS(<PyObject *>row), packet)
            PyObject_GC_Track(<PyObject *>row)
        self._rows.append(row)
        return 0

    cdef int fill(self, PyObject **values, Packet *packet) except -1:
        """Write a value for each column; `values` are as many NULLs."""
        cdef const unsigned char *text = NULL
        cdef Py_ssize_t size = 0
        cdef Py_ssize_t position
        for position in range(self._count):
            if read_string(packet, &text, &size):
                values[position] = self.decode(&self._columns[position], text, size)
            else:
                Incref(Py_None)
                values[position] = Py_None
        if packet.at != packet.end:
            raise unreadable("a row has more values than columns")
        return 0

    cdef PyObject *decode(
        self, Column *column, const unsigned char *text, Py_ssize_t size
    ) except NULL:
        if column.kind == PLAIN:
            return self.decode_text(column.encoding, text, size)
        if column.kind == BOOLEAN:
            return self.decode_boolean(column, text, size)
        return self.decode_as(column.kind, column, text, size)

    cdef PyObject *decode_as(
        self, Kind kind, Column *column, const unsigned char *text, Py_ssize_t size
    ) except NULL:
        cdef PyObject *value = NULL
        cdef PyObject *decoded
        if kind == INTEGER:
            value = integer_of(text, size)
        elif kind == FLOAT:
            value = float_of(text, size)
        elif kind == DATETIME:
            value = datetime_of(text, size)
        elif kind == DATE:
            value = date_of(text, size)
        elif kind == TIME:
            value = time_of(text, size)
        if value is not NULL:
            return value
        decoded = self.decode_text(column.encoding, text, size)
        try:
            return CallOneArg(column.converter, decoded)
        finally:
            Decref(decoded)  # pragma: no cover: traced at one of the two places where C has it

    cdef PyObject *decode_boolean(
        self, Column *column, const unsigned char *text, Py_ssize_t size
    ) except NULL:
        cdef PyObject *number
        cdef PyObject *value
        if size == 1 and (text[0] == c"0" or text[0] == c"1"):
            value = Py_True if text[0] == c"1" else Py_False
        else:
            number = self.decode_as(INTEGER, column, text, size)
            try:
                value = Py_True if PyObject_IsTrue(<object>number) else Py_False
            finally:
                Decref(number)
        Incref(value)
        return value

    cdef PyObject *decode_text(
        self, Encoding encoding, const unsigned char *text, Py_ssize_t size
    ) except NULL:
        if encoding == UTF8:
            return DecodeUTF8(<const char *>text, size, NULL)
        if encoding == ASCII:
            return DecodeASCII(<const char *>text, size, NULL)
        if encoding == NONE:
            return BytesOf(<const char *>text, size)
        return DecodeOther(<const char *>text, size, self._encoding, NULL)
