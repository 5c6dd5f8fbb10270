# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: freethreading_compatible=True
# (binding: see records.pyx)
"""Write statements for MySQL's text protocol, values as literals in them.

Statements grow in a buffer of bytes. That is done for UTF-8, where no byte of a longer character
looks like a quote or a backslash, and for values of the exact types that are common. Any other
value is written by the function that knows them all; under another charset, and wherever the
buffer's way ends in an error, the whole is made again as the pure form makes it, which tells it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_CheckExact, PyDict_GetItemWithError
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8String, PyUnicode_CheckExact
from libc.string cimport memchr, memcpy

from fastdb._speedups cimport dates
from fastdb.exceptions import DataError

__all__ = ["StatementWriter"]

cdef extern from *:
    """
    /* No sum or double of two such sizes overflows. */
    #define FASTDB_MOST_BYTES (PY_SSIZE_T_MAX / 8)
    """
    Py_ssize_t MOST_BYTES "FASTDB_MOST_BYTES"
    long long AsLongLong "PyLong_AsLongLongAndOverflow"(object number, int *overflow) except? -1
    int PyUnicode_IS_COMPACT_ASCII(object text)
    void *PyUnicode_1BYTE_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    char *PyOS_double_to_string(
        double number, char format, int precision, int flags, int *kind
    ) except NULL
    int Py_DTSF_ADD_DOT_0
    int Py_DTST_FINITE


cdef enum Kind:
    OTHER, BOOL, INT, FLOAT, NULL_VALUE, STR, BYTES, DATETIME, DATE, TIME

cdef dict KINDS = {
    "bool": BOOL,
    "int": INT,
    "float": FLOAT,
    "None": NULL_VALUE,
    "str": STR,
    "bytes": BYTES,
    "datetime": DATETIME,
    "date": DATE,
    "time": TIME,
}

cdef enum:
    MOST_KNOWN = 16  # as many have their place in StatementWriter

cdef const char *HEX = b"0123456789abcdef"


cdef struct Buffer:
    char *start
    Py_ssize_t size
    Py_ssize_t room


cdef int grow(Buffer *buffer, Py_ssize_t more) except -1:
    cdef Py_ssize_t room
    cdef char *start
    if more > MOST_BYTES or buffer.size > MOST_BYTES:
        raise MemoryError  # pragma: no cover: 2 GB, or no memory
    room = 2 * (buffer.size + more) + 256
    start = <char *>PyMem_Realloc(buffer.start, <size_t>room)
    if start is NULL:
        raise MemoryError  # pragma: no cover: 2 GB, or no memory
    buffer.start = start
    buffer.room = room
    return 0


cdef inline char *reserve(Buffer *buffer, Py_ssize_t more) except NULL:
    """Return where the next `more` bytes have their place."""
    if buffer.room - buffer.size < more:
        grow(buffer, more)
    return buffer.start + buffer.size


cdef inline int put(Buffer *buffer, const char *text, Py_ssize_t size) except -1:
    memcpy(reserve(buffer, size + 1), text, size)
    buffer.size += size
    return 0


cdef inline void put_digits(char *at, int number, int digits) noexcept:
    while digits:
        digits -= 1
        at[digits] = <char>(c"0" + number % 10)
        number //= 10


cdef int put_integer(Buffer *buffer, long long number) except -1:
    cdef char digits[20]
    cdef int place = 20
    cdef unsigned long long left = <unsigned long long>number
    if number < 0:
        left = 0 - left
    while True:
        place -= 1
        digits[place] = <char>(c"0" + left % 10)
        left //= 10
        if not left:
            break
    if number < 0:
        put(buffer, "-", 1)
    return put(buffer, digits + place, 20 - place)


cdef bint put_float(Buffer *buffer, double number) except -1:
    """Write a number; return whether it is one."""
    cdef int kind
    cdef char *text = PyOS_double_to_string(number, c"r", 0, Py_DTSF_ADD_DOT_0, &kind)
    cdef Py_ssize_t size = 0
    try:
        if kind != Py_DTST_FINITE:
            return False
        while text[size]:
            size += 1
        put(buffer, text, size)
        # The exponent makes the literal a DOUBLE; without it the server reads a DECIMAL.
        if memchr(text, c"e", size) is NULL:
            put(buffer, "e0", 2)
    finally:
        PyMem_Free(text)
    return True


cdef int put_string(Buffer *buffer, const char *text, Py_ssize_t size, bint backslashes) except -1:
    cdef const char *end = text + size
    # A doubled quote is right under either rule.
    cdef const char *quote = <const char *>memchr(text, c"'", size)
    cdef const char *backslash = NULL
    cdef const char *special
    if backslashes:
        backslash = <const char *>memchr(text, c"\\", size)
    put(buffer, "'", 1)
    while True:
        special = quote
        if quote is NULL or (backslash is not NULL and backslash < quote):
            special = backslash
        if special is NULL:
            break
        put(buffer, text, special + 1 - text)
        put(buffer, special, 1)
        text = special + 1
        if special is quote:
            quote = <const char *>memchr(text, c"'", end - text)
        else:
            backslash = <const char *>memchr(text, c"\\", end - text)
    put(buffer, text, end - text)
    return put(buffer, "'", 1)


cdef int put_binary(Buffer *buffer, const unsigned char *text, Py_ssize_t size) except -1:
    # Hexadecimal is safe under every charset and sql_mode; _binary keeps it a string where the
    # server would take a plain X'..' for a number.
    cdef char *at
    cdef Py_ssize_t position
    if size > MOST_BYTES:
        raise MemoryError  # pragma: no cover: 2 GB, or no memory
    put(buffer, "_binary X'", 10)
    at = reserve(buffer, 2 * size + 1)
    for position in range(size):
        at[2 * position] = HEX[text[position] >> 4]
        at[2 * position + 1] = HEX[text[position] & 15]
    buffer.size += 2 * size
    return put(buffer, "'", 1)


cdef inline void put_day(char *at, object value) noexcept:
    put_digits(at, dates.year_of(value), 4)
    at[4] = c"-"
    put_digits(at + 5, dates.month_of(value), 2)
    at[7] = c"-"
    put_digits(at + 8, dates.day_of(value), 2)


cdef inline int put_clock(char *at, int hour, int minute, int second, int microsecond) noexcept:
    """Write a time of up to 15 bytes; return how many it has."""
    put_digits(at, hour, 2)
    at[2] = c":"
    put_digits(at + 3, minute, 2)
    at[5] = c":"
    put_digits(at + 6, second, 2)
    if not microsecond:
        return 8
    at[8] = c"."
    put_digits(at + 9, microsecond, 6)
    return 15


cdef int put_datetime(Buffer *buffer, object value) except -1:
    cdef char *at = reserve(buffer, 28)
    cdef int size
    at[0] = c"'"
    put_day(at + 1, value)
    at[11] = c" "
    size = 12 + put_clock(
        at + 12,
        dates.datetime_hour(value),
        dates.datetime_minute(value),
        dates.datetime_second(value),
        dates.datetime_microsecond(value),
    )
    at[size] = c"'"
    buffer.size += size + 1
    return 0


cdef int put_date(Buffer *buffer, object value) except -1:
    cdef char *at = reserve(buffer, 12)
    at[0] = c"'"
    put_day(at + 1, value)
    at[11] = c"'"
    buffer.size += 12
    return 0


cdef int put_time(Buffer *buffer, object value) except -1:
    cdef char *at = reserve(buffer, 17)
    cdef int size
    at[0] = c"'"
    size = 1 + put_clock(
        at + 1,
        dates.time_hour(value),
        dates.time_minute(value),
        dates.time_second(value),
        dates.time_microsecond(value),
    )
    at[size] = c"'"
    buffer.size += size + 1
    return 0


cdef object written(object literal, object sql, tuple args, object encoders, object encoding,
                    object backslashes):
    """Return what :meth:`StatementWriter.statement` does, made as the pure form makes it."""
    text = sql % tuple([literal(value, encoders, backslashes) for value in args])
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise DataError(
            f"{text[error.start : error.end]!r} cannot be sent in the connection's charset,"
            f" {encoding}"
        ) from error


cdef class StatementWriter:
    """Write statements as bytes, with their arguments as literals.

    Args:
        known: Pairs of an encoder that need not be called and its kind: "bool", "int", "float",
            "None", "str", "bytes", "datetime", "date" or "time".
        literal: Writes any value, given the encoders and whether backslashes escape. What is
            written without it is what it would write.
    """

    cdef tuple _known
    cdef object _literal
    cdef PyObject *_encoders[16]  # held by `_known`
    cdef Kind _kinds[16]
    cdef Py_ssize_t _count

    def __cinit__(self, tuple known not None, literal):
        dates.import_datetime()
        for encoder, kind in known:
            code = KINDS[kind]
            if self._count < MOST_KNOWN:
                self._encoders[self._count] = <PyObject *>encoder
                self._kinds[self._count] = code
                self._count += 1
        self._known = known
        self._literal = literal

    def statement(self, sql, args, encoders, str encoding not None, bint backslashes):
        """Return `sql`, in "format" style, with the literals of `args`.

        Args:
            sql: The statement.
            args: A value for each ``%s``.
            encoders: A writer for each type.
            encoding: The codec of the connection's charset.
            backslashes: Whether a backslash escapes in strings (not so under
                ``NO_BACKSLASH_ESCAPES``).

        Raises:
            DataError: A value is of a type, or is itself, none that MySQL takes, or the charset
                has no such character.
        """
        cdef Buffer buffer
        cdef tuple values = args if type(args) is tuple else tuple(args)
        buffer.start = NULL
        buffer.size = buffer.room = 0
        if encoding == "utf8" or encoding == "utf-8":
            try:
                if self.write(&buffer, sql, values, encoders, backslashes):
                    return PyBytes_FromStringAndSize(buffer.start, buffer.size)
            finally:
                PyMem_Free(buffer.start)
        return written(self._literal, sql, values, encoders, encoding, backslashes)

    def rows(
        self,
        group,
        rows,
        Py_ssize_t start,
        Py_ssize_t size,
        encoders,
        str encoding not None,
        bint backslashes,
    ):
        """Return `group` with the literals of row after row, commas between, from `start` on.

        Args:
            group: The part of a statement that is repeated, in "format" style.
            rows: The arguments of each.
            start: The first row to write.
            size: The number of bytes to stay below; one row is written in any case.
            encoders: A writer for each type.
            encoding: The codec of the connection's charset.
            backslashes: Whether a backslash escapes in strings.

        Returns:
            The text, and the first row that is not in it.

        Raises:
            DataError: As :meth:`statement` does.
        """
        cdef Buffer buffer
        cdef Py_ssize_t before
        cdef bint utf8 = encoding == "utf8" or encoding == "utf-8"
        cdef bint first = True
        cdef tuple values
        buffer.start = NULL
        buffer.size = buffer.room = 0
        try:
            while start < len(rows):
                args = rows[start]
                values = args if type(args) is tuple else tuple(args)
                before = buffer.size
                if not first:
                    put(&buffer, ",", 1)
                if not utf8 or not self.write(&buffer, group, values, encoders, backslashes):
                    buffer.size = before + (not first)
                    text = written(self._literal, group, values, encoders, encoding, backslashes)
                    put(&buffer, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
                if not first and buffer.size > size:
                    buffer.size = before
                    break
                first = False
                start += 1
            return PyBytes_FromStringAndSize(buffer.start, buffer.size), start
        finally:
            PyMem_Free(buffer.start)  # pragma: no cover: traced at one of the two places where C has it

    cdef bint write(
        self, Buffer *buffer, object sql, tuple args, object encoders, bint backslashes
    ) except -1:
        """Write a statement; return False where the other way has to be gone, or tells why not."""
        cdef object encoded
        cdef const char *at
        cdef const char *end
        cdef const char *mark
        cdef Py_ssize_t used = 0
        cdef Py_ssize_t count = PyTuple_GET_SIZE(args)
        if not isinstance(sql, str):
            raise TypeError(f"a statement must be a str, not {type(sql).__name__}")
        if PyUnicode_IS_COMPACT_ASCII(sql):
            at = <const char *>PyUnicode_1BYTE_DATA(sql)
            end = at + PyUnicode_GET_LENGTH(sql)
        else:
            try:
                encoded = PyUnicode_AsUTF8String(sql)
            except UnicodeEncodeError:
                return False
            at = PyBytes_AS_STRING(encoded)
            end = at + PyBytes_GET_SIZE(encoded)
        while True:
            mark = <const char *>memchr(at, c"%", end - at)
            if mark is NULL:
                put(buffer, at, end - at)
                return used == count
            put(buffer, at, mark - at)
            # Exact strings end with a NUL: there is a byte behind the mark.
            if mark[1] == c"%":
                put(buffer, "%", 1)
            elif mark[1] == c"s" and used < count:
                if not self.write_value(
                    buffer, <object>PyTuple_GET_ITEM(args, used), encoders, backslashes
                ):
                    return False
                used += 1
            else:
                return False
            at = mark + 2

    cdef bint write_value(
        self, Buffer *buffer, object value, object encoders, bint backslashes
    ) except -1:
        cdef PyObject *encoder
        cdef object found
        cdef Kind kind = OTHER
        cdef Py_ssize_t place
        cdef int overflow = 0
        cdef long long number
        if PyDict_CheckExact(encoders):
            encoder = PyDict_GetItemWithError(encoders, type(value))
        else:
            found = encoders.get(type(value))
            encoder = <PyObject *>found
        for place in range(self._count):
            if self._encoders[place] is encoder:
                kind = self._kinds[place]
                break
        if kind == INT:
            if PyLong_CheckExact(value):
                number = AsLongLong(value, &overflow)
                if not overflow:
                    put_integer(buffer, number)
                    return True
        elif kind == STR:
            if PyUnicode_CheckExact(value):
                return self.write_text(buffer, value, True, backslashes)
        elif kind == NULL_VALUE:
            if value is None:
                put(buffer, "NULL", 4)
                return True
        elif kind == BOOL:
            if value is True or value is False:
                put(buffer, "1" if value is True else "0", 1)
                return True
        elif kind == FLOAT:
            if PyFloat_CheckExact(value) and put_float(buffer, PyFloat_AS_DOUBLE(value)):
                return True
        elif kind == DATETIME:
            if dates.is_naive_datetime(value):
                put_datetime(buffer, value)
                return True
        elif kind == DATE:
            if dates.is_exact_date(value):
                put_date(buffer, value)
                return True
        elif kind == TIME:
            if dates.is_naive_time(value):
                put_time(buffer, value)
                return True
        elif kind == BYTES:
            if type(value) is bytes:
                put_binary(
                    buffer,
                    <const unsigned char *>PyBytes_AS_STRING(value),
                    PyBytes_GET_SIZE(value),
                )
                return True
        text = self._literal(value, encoders, backslashes)
        return PyUnicode_CheckExact(text) and self.write_text(buffer, text, False, False)

    cdef bint write_text(
        self, Buffer *buffer, object text, bint quoted, bint backslashes
    ) except -1:
        """Write a string; return False where it holds what UTF-8 cannot say."""
        cdef object encoded
        cdef const char *start
        cdef Py_ssize_t size
        if PyUnicode_IS_COMPACT_ASCII(text):
            start = <const char *>PyUnicode_1BYTE_DATA(text)
            size = PyUnicode_GET_LENGTH(text)
        else:
            # Not PyUnicode_AsUTF8(), whose copy the string would keep.
            try:
                encoded = PyUnicode_AsUTF8String(text)
            except UnicodeEncodeError:
                return False
            start = PyBytes_AS_STRING(encoded)
            size = PyBytes_GET_SIZE(encoded)
        if quoted:
            put_string(buffer, start, size, backslashes)
        else:
            put(buffer, start, size)
        return True
