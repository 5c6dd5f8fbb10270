"""PostgreSQL's timestamps in their binary form: microseconds since the year 2000, in 8 bytes.

Values are asyncpg's in every case: its infinities are the first and the last moment of a datetime,
and what is no datetime is refused in its words.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, Final

__all__ = ["decode_timestamp", "decode_timestamptz", "encode_timestamp", "encode_timestamptz"]

_INFINITY: Final = (1 << 63) - 1
_MINUS_INFINITY: Final = -(1 << 63)
_MICROSECOND: Final = timedelta(microseconds=1)

_epoch: Final = datetime(2000, 1, 1)
_epoch_utc: Final = datetime(2000, 1, 1, tzinfo=UTC)


def _moment(data: bytes, epoch: datetime) -> datetime:
    if type(data) is not bytes:
        raise TypeError(
            f"Argument 'data' has incorrect type (expected bytes, got {type(data).__name__})"
        )
    if len(data) != 8:
        raise ValueError(f"a timestamp has {len(data)} bytes instead of 8")
    at = int.from_bytes(data, "big", signed=True)
    if at == _INFINITY:
        return datetime.max
    if at == _MINUS_INFINITY:
        return datetime.min
    return epoch + timedelta(0, 0, at)


def _written(difference: timedelta) -> bytes:
    at = difference // _MICROSECOND
    if difference == datetime.max - _epoch:
        at = _INFINITY
    elif difference == datetime.min - _epoch:
        at = _MINUS_INFINITY
    return at.to_bytes(8, "big", signed=True)


def _as_datetime(value: Any, local: bool) -> datetime:
    """Return a datetime for a date, in the local zone or in none."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, date):
        raise TypeError(
            f"expected a datetime.date or datetime.datetime instance, got {type(value).__name__!r}"
        )
    zone = None
    if local:
        offset = datetime.now(UTC).astimezone().utcoffset()
        zone = UTC if offset is None else timezone(offset)
    return datetime(value.year, value.month, value.day, tzinfo=zone)


def decode_timestamp(data: bytes, /) -> datetime:
    """Return the datetime of a ``timestamp``.

    Raises:
        OverflowError: There is no such datetime.
        ValueError: These are not 8 bytes.
    """
    return _moment(data, _epoch)


def decode_timestamptz(data: bytes, /) -> datetime:
    """Return the datetime of a ``timestamp with time zone``, in UTC.

    Raises:
        OverflowError: There is no such datetime.
        ValueError: These are not 8 bytes.
    """
    return _moment(data, _epoch_utc)


def encode_timestamp(value: Any, /) -> bytes:
    """Return the ``timestamp`` of a date or a datetime without a zone.

    Raises:
        TypeError: It is neither, or has a zone.
    """
    return _written(_as_datetime(value, False) - _epoch)


def encode_timestamptz(value: Any, /) -> bytes:
    """Return the ``timestamp with time zone`` of a date or a datetime; without a zone it is local.

    Raises:
        TypeError: It is neither.
    """
    value = _as_datetime(value, True)
    if value in (datetime.max, datetime.min):
        return _written(value - _epoch)
    return _written(value.astimezone(UTC) - _epoch_utc)
