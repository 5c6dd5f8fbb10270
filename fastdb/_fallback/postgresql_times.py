"""PostgreSQL's timestamps in their binary form: microseconds since the year 2000, in 8 bytes.

Values are asyncpg's in every case: its infinities are the first and the last moment of a datetime,
and what is no datetime is refused in its words.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime, timedelta

__all__ = ["decode_timestamp", "decode_timestamptz", "encode_timestamp", "encode_timestamptz"]

_INFINITY: Final = (1 << 63) - 1
_MINUS_INFINITY: Final = -(1 << 63)


class _Tools(NamedTuple):
    """What is made of datetime's parts, which programs without PostgreSQL never import."""

    difference: type[timedelta]
    epochs: tuple[datetime, datetime]
    extremes: dict[int, datetime]
    limits: dict[timedelta, int]
    microsecond: timedelta


@cache
def _tools() -> _Tools:
    from datetime import UTC, datetime, timedelta

    epoch = datetime(2000, 1, 1)
    return _Tools(
        timedelta,
        (epoch, epoch.replace(tzinfo=UTC)),
        {_INFINITY: datetime.max, _MINUS_INFINITY: datetime.min},
        {datetime.max - epoch: _INFINITY, datetime.min - epoch: _MINUS_INFINITY},
        timedelta(microseconds=1),
    )


def _moment(data: bytes, zoned: int) -> datetime:
    if type(data) is not bytes:
        raise TypeError(
            f"Argument 'data' has incorrect type (expected bytes, got {type(data).__name__})"
        )
    if len(data) != 8:
        raise ValueError(f"a timestamp has {len(data)} bytes instead of 8")
    difference, epochs, extremes, _, _ = _tools()
    at = int.from_bytes(data, "big", signed=True)
    if at in extremes:
        return extremes[at]
    return epochs[zoned] + difference(0, 0, at)


def _written(difference: timedelta) -> bytes:
    tools = _tools()
    at = tools.limits.get(difference)
    if at is None:
        at = difference // tools.microsecond
    return at.to_bytes(8, "big", signed=True)


def _as_datetime(value: Any, local: bool) -> datetime:
    """Return a datetime for a date, in the local zone or in none."""
    from datetime import UTC, date, datetime, timezone

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
    return _moment(data, 0)


def decode_timestamptz(data: bytes, /) -> datetime:
    """Return the datetime of a ``timestamp with time zone``, in UTC.

    Raises:
        OverflowError: There is no such datetime.
        ValueError: These are not 8 bytes.
    """
    return _moment(data, 1)


def encode_timestamp(value: Any, /) -> bytes:
    """Return the ``timestamp`` of a date or a datetime without a zone.

    Raises:
        TypeError: It is neither, or has a zone.
    """
    return _written(_as_datetime(value, False) - _tools().epochs[0])


def encode_timestamptz(value: Any, /) -> bytes:
    """Return the ``timestamp with time zone`` of a date or a datetime; without a zone it is local.

    Raises:
        TypeError: It is neither.
    """
    from datetime import UTC, datetime

    value = _as_datetime(value, True)
    if value in (datetime.max, datetime.min):
        return _written(value - _tools().epochs[0])
    return _written(value.astimezone(UTC) - _tools().epochs[1])
