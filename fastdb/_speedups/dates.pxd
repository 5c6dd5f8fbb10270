"""What compiled modules do with dates and times, once ``import_datetime()`` was called.

Cython's own declarations import ``datetime`` with the module: programs without dates need none.
"""

from cpython.object cimport PyObject


cdef extern from *:
    """
    #include "datetime.h"

    static int
    fastdb_import_datetime(void)
    {
        if (PyDateTimeAPI == NULL) {
            PyDateTime_IMPORT;
        }
        return PyDateTimeAPI == NULL ? -1 : 0;
    }

    #define FASTDB_ZONED_DATETIME(year, month, day, hour, minute, second, microsecond, zone) \\
        PyDateTimeAPI->DateTime_FromDateAndTime( \\
            year, month, day, hour, minute, second, microsecond, zone, PyDateTimeAPI->DateTimeType)
    #define FASTDB_NAIVE(value) (!((_PyDateTime_BaseTZInfo *)(value))->hastzinfo)
    #define FASTDB_NAIVE_TIME(value) (PyTime_CheckExact(value) && FASTDB_NAIVE(value))
    #define FASTDB_NAIVE_DATETIME(value) (PyDateTime_CheckExact(value) && FASTDB_NAIVE(value))
    """
    int import_datetime "fastdb_import_datetime"() except -1
    object new_date "PyDate_FromDate"(int year, int month, int day)
    object new_time "PyTime_FromTime"(int hour, int minute, int second, int microsecond)
    object new_datetime "PyDateTime_FromDateAndTime"(
        int year, int month, int day, int hour, int minute, int second, int microsecond
    )
    object new_zoned_datetime "FASTDB_ZONED_DATETIME"(
        int year, int month, int day, int hour, int minute, int second, int microsecond, object zone
    )
    PyObject *zone_of "PyDateTime_DATE_GET_TZINFO"(object value)  # borrowed, None for none
    bint is_exact_date "PyDate_CheckExact"(object value)
    bint is_exact_time "PyTime_CheckExact"(object value)
    bint is_exact_datetime "PyDateTime_CheckExact"(object value)
    # Exact and without a time zone.
    bint is_naive_time "FASTDB_NAIVE_TIME"(object value)
    bint is_naive_datetime "FASTDB_NAIVE_DATETIME"(object value)
    bint is_exact_timedelta "PyDelta_CheckExact"(object value)
    int year_of "PyDateTime_GET_YEAR"(object value)
    int month_of "PyDateTime_GET_MONTH"(object value)
    int day_of "PyDateTime_GET_DAY"(object value)
    int datetime_hour "PyDateTime_DATE_GET_HOUR"(object value)
    int datetime_minute "PyDateTime_DATE_GET_MINUTE"(object value)
    int datetime_second "PyDateTime_DATE_GET_SECOND"(object value)
    int datetime_microsecond "PyDateTime_DATE_GET_MICROSECOND"(object value)
    int time_hour "PyDateTime_TIME_GET_HOUR"(object value)
    int time_minute "PyDateTime_TIME_GET_MINUTE"(object value)
    int time_second "PyDateTime_TIME_GET_SECOND"(object value)
    int time_microsecond "PyDateTime_TIME_GET_MICROSECOND"(object value)
