# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: freethreading_compatible=True, cdivision=True
# (binding: see records.pyx)
"""PostgreSQL's timestamps in their binary form: microseconds since the year 2000, in 8 bytes.

asyncpg adds timedeltas to an epoch, which costs more than all the rest of an ordinary row. Values
are asyncpg's in every case: its infinities are the first and the last moment of a datetime, and
what is no datetime is refused in its words.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject

from fastdb._speedups cimport dates
from fastdb._speedups.dates cimport import_datetime

__all__ = ["decode_timestamp", "decode_timestamptz", "encode_timestamp", "encode_timestamptz"]

cdef extern from *:
    """
    #include <stdint.h>

    #define FASTDB_DAY 86400000000LL
    #define FASTDB_DAYS_BEFORE 730119  /* of the year 2000, from 0001-01-01 on */
    #define FASTDB_DAYS 3652059  /* that a date can be */
    #define FASTDB_LATEST 252455615999999999LL
    #define FASTDB_EARLIEST -63082281600000000LL
    """
    ctypedef long long int64_t
    const int64_t INT64_MAX
    const int64_t INT64_MIN
    const int64_t DAY "FASTDB_DAY"
    const int64_t DAYS_BEFORE "FASTDB_DAYS_BEFORE"
    const int64_t DAYS "FASTDB_DAYS"
    const int64_t LATEST "FASTDB_LATEST"
    const int64_t EARLIEST "FASTDB_EARLIEST"

cdef object datetime = None
cdef object EPOCH = None
cdef object EPOCH_UTC = None
cdef object UTC = None


cdef int prepare() except -1:
    """Import what is needed: programs without PostgreSQL need no datetime."""
    global datetime, EPOCH, EPOCH_UTC, UTC
    import datetime as module

    import_datetime()
    datetime = module
    EPOCH = module.datetime(2000, 1, 1)
    EPOCH_UTC = module.datetime(2000, 1, 1, tzinfo=module.timezone.utc)
    UTC = module.timezone.utc  # last: with it, all is there
    return 0


cdef object moment(bytes data, object zone):
    """Return the datetime of a timestamp; infinite ones have no zone."""
    cdef const unsigned char *text
    cdef unsigned long long read = 0
    cdef int64_t at, days, rest, era, year, month
    cdef int place
    if PyBytes_GET_SIZE(data) != 8:
        raise ValueError(f"a timestamp has {len(data)} bytes instead of 8")
    text = <const unsigned char *>PyBytes_AS_STRING(data)
    for place in range(8):
        read = read << 8 | text[place]
    at = <int64_t>read
    if at == INT64_MAX:
        return datetime.datetime.max
    if at == INT64_MIN:
        return datetime.datetime.min
    # C rounds towards zero.
    days = at // DAY
    rest = at % DAY
    if rest < 0:
        days -= 1
        rest += DAY
    days += DAYS_BEFORE
    if not 0 <= days < DAYS:
        raise OverflowError("date value out of range")
    # Years that begin in March, in eras of 400, end with the day that not each of them has.
    days += 306  # from 0000-03-01 on
    era = days // 146_097
    days %= 146_097
    year = (days - days // 1_460 + days // 36_524 - days // 146_096) // 365
    days -= 365 * year + year // 4 - year // 100
    year += 400 * era
    month = (5 * days + 2) // 153
    days -= (153 * month + 2) // 5
    month += 3
    if month > 12:
        month -= 12
        year += 1
    return dates.new_zoned_datetime(
        <int>year,
        <int>month,
        <int>days + 1,
        <int>(rest // 3_600_000_000),
        <int>(rest // 60_000_000 % 60),
        <int>(rest // 1_000_000 % 60),
        <int>(rest % 1_000_000),
        zone,
    )


cdef bytes written(int64_t at):
    """Return the bytes of a timestamp."""
    cdef unsigned char text[8]
    cdef int place
    cdef unsigned long long rest
    if at == LATEST:
        at = INT64_MAX
    elif at == EARLIEST:
        at = INT64_MIN
    rest = <unsigned long long>at
    for place in range(7, -1, -1):
        text[place] = rest & 0xFF
        rest >>= 8
    return PyBytes_FromStringAndSize(<const char *>text, 8)


cdef int64_t microseconds(object value) noexcept:
    """Return the time from the year 2000 to a datetime, whatever its zone is."""
    cdef int64_t month = (dates.month_of(value) + 9) % 12
    cdef int64_t year = dates.year_of(value) - (month >= 10)
    cdef int64_t days = (
        365 * year + year // 4 - year // 100 + year // 400
        + (153 * month + 2) // 5 + dates.day_of(value) - 1 - 306 - DAYS_BEFORE
    )
    cdef int64_t minutes = days * 1_440
    minutes += 60 * dates.datetime_hour(value) + dates.datetime_minute(value)
    return (
        (minutes * 60 + dates.datetime_second(value)) * 1_000_000
        + dates.datetime_microsecond(value)
    )


cdef object as_datetime(object value, bint local):
    """Return a datetime for a date, in the local zone or in none."""
    if isinstance(value, datetime.datetime):
        return value
    if not isinstance(value, datetime.date):
        raise TypeError(
            "expected a datetime.date or datetime.datetime instance, "
            f"got {type(value).__name__!r}"
        )
    zone = None
    if local:
        now = datetime.datetime.now(UTC).astimezone()
        zone = datetime.timezone(now.utcoffset())
    return datetime.datetime(value.year, value.month, value.day, tzinfo=zone)


cdef bytes written_difference(object difference):
    return written(
        (<int64_t>difference.days * 86_400 + <int64_t>difference.seconds) * 1_000_000
        + <int64_t>difference.microseconds
    )


def decode_timestamp(bytes data not None, /):
    """Return the datetime of a ``timestamp``.

    Raises:
        OverflowError: There is no such datetime.
        ValueError: These are not 8 bytes.
    """
    if UTC is None:
        prepare()
    return moment(data, None)


def decode_timestamptz(bytes data not None, /):
    """Return the datetime of a ``timestamp with time zone``, in UTC.

    Raises:
        OverflowError: There is no such datetime.
        ValueError: These are not 8 bytes.
    """
    if UTC is None:
        prepare()
    return moment(data, UTC)


def encode_timestamp(value, /):
    """Return the ``timestamp`` of a date or a datetime without a zone.

    Raises:
        TypeError: It is neither, or has a zone.
    """
    if UTC is None:
        prepare()
    if dates.is_exact_datetime(value) and dates.zone_of(value) is <PyObject *>None:
        return written(microseconds(value))
    return written_difference(as_datetime(value, False) - EPOCH)


def encode_timestamptz(value, /):
    """Return the ``timestamp with time zone`` of a date or a datetime; without a zone it is local.

    Raises:
        TypeError: It is neither.
    """
    if UTC is None:
        prepare()
    if dates.is_exact_datetime(value) and dates.zone_of(value) is <PyObject *>UTC:
        return written(microseconds(value))
    value = as_datetime(value, True)
    if value == datetime.datetime.max:
        return written(LATEST)
    if value == datetime.datetime.min:
        return written(EARLIEST)
    return written_difference(value.astimezone(UTC) - EPOCH_UTC)
