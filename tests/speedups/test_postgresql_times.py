"""Timestamps of PostgreSQL are asyncpg's, in both forms."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.speedups.conftest import FORMS, PACKAGES, load

EPOCH = dt.datetime(2000, 1, 1)
ZONES = [dt.UTC, dt.timezone(dt.timedelta(hours=-3, minutes=-30)), dt.timezone.min, dt.timezone.max]
MODULES = [load(form, "postgresql_times") for form in dict.fromkeys([*FORMS, "pure"])]
NAMES = ("decode_timestamp", "decode_timestamptz", "encode_timestamp", "encode_timestamptz")


@pytest.fixture(scope="session")
def module(form: str) -> ModuleType:
    return load(form, "postgresql_times")


class Moment(dt.datetime):
    """A datetime of the user's."""


def bytes_of(at: int) -> bytes:
    return at.to_bytes(8, "big", signed=True)


def answer(module: ModuleType, name: str, value: Any) -> Any:
    """Return what a function gives or raises."""
    try:
        found = getattr(module, name)(value)
    except Exception as error:
        return type(error), str(error)
    return type(found), found, getattr(found, "tzinfo", None)


def agree(name: str, value: Any) -> None:
    answers = [answer(module, name, value) for module in MODULES]
    assert answers.count(answers[0]) == len(answers)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (0, EPOCH),
        (-1, dt.datetime(1999, 12, 31, 23, 59, 59, 999999)),
        (5_097_600_000_000, dt.datetime(2000, 2, 29)),
        (-63_082_281_600_000_000, dt.datetime.min),
        (252_455_615_999_999_999, dt.datetime.max),
        (2**63 - 1, dt.datetime.max),
        (-(2**63), dt.datetime.min),
    ],
)
def test_a_timestamp_is_read(module: ModuleType, at: int, expected: dt.datetime) -> None:
    assert module.decode_timestamp(bytes_of(at)) == expected
    zoned = module.decode_timestamptz(bytes_of(at))
    infinite = abs(at) >= 2**63 - 1
    assert zoned == (expected if infinite else expected.replace(tzinfo=dt.UTC))
    assert zoned.tzinfo is (None if infinite else dt.UTC)


@pytest.mark.parametrize("at", [-63_082_281_600_000_001, 252_455_616_000_000_000, 2**63 - 2])
@pytest.mark.parametrize("name", NAMES[:2])
def test_what_no_datetime_can_be_is_told(module: ModuleType, name: str, at: int) -> None:
    with pytest.raises(OverflowError, match="date value out of range"):
        getattr(module, name)(bytes_of(at))


@pytest.mark.parametrize("name", NAMES[:2])
def test_only_eight_bytes_are_a_timestamp(module: ModuleType, name: str) -> None:
    for size in (0, 7, 9):
        with pytest.raises(ValueError, match=f"has {size} bytes instead of 8"):
            getattr(module, name)(bytes(size))
    with pytest.raises(TypeError, match="incorrect type"):
        getattr(module, name)("12345678")


@given(at=st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**17), 3 * 10**17))
def test_every_timestamp_is_read_alike(at: int) -> None:
    for name in NAMES[:2]:
        agree(name, bytes_of(at))
    if -63_082_281_600_000_000 <= at <= 252_455_615_999_999_999:
        for module in MODULES:
            found = module.decode_timestamp(bytes_of(at))
            assert found == EPOCH + dt.timedelta(microseconds=at)


@given(value=st.datetimes())
def test_what_is_written_is_read_again(value: dt.datetime) -> None:
    for module in MODULES:
        assert module.decode_timestamp(module.encode_timestamp(value)) == value
        zoned = value.replace(tzinfo=dt.UTC)
        assert module.encode_timestamptz(zoned) == module.encode_timestamp(value)
        assert module.encode_timestamp(Moment.fromisoformat(value.isoformat())) == (
            module.encode_timestamp(value)
        )
        difference = (value - EPOCH) // dt.timedelta(microseconds=1)
        if value not in (dt.datetime.min, dt.datetime.max):
            assert module.encode_timestamp(value) == bytes_of(difference)


@given(
    value=st.one_of(
        st.datetimes(timezones=st.none() | st.sampled_from(ZONES)),
        st.dates(),
        st.sampled_from([dt.datetime.min, dt.datetime.max, dt.date.min, dt.date.max]),
        st.none() | st.text(max_size=3) | st.integers() | st.times(),
    )
)
def test_every_value_is_written_alike(value: Any) -> None:
    for name in NAMES[2:]:
        agree(name, value)


def test_infinities_are_written(module: ModuleType) -> None:
    for name in NAMES[2:]:
        encode = getattr(module, name)
        assert encode(dt.datetime.max) == bytes_of(2**63 - 1)
        assert encode(dt.datetime.min) == bytes_of(-(2**63))


def test_dates_are_midnights(module: ModuleType) -> None:
    assert module.encode_timestamp(dt.date(2000, 1, 2)) == bytes_of(86_400_000_000)
    local = dt.datetime.now(dt.UTC).astimezone().utcoffset()
    midnight = dt.datetime(2000, 1, 2, tzinfo=dt.timezone(local or dt.timedelta()))
    assert module.encode_timestamptz(dt.date(2000, 1, 2)) == module.encode_timestamptz(midnight)


@pytest.mark.parametrize("name", NAMES[2:])
def test_what_is_no_date_is_refused(module: ModuleType, name: str) -> None:
    with pytest.raises(TypeError, match=r"expected a datetime.date or .*, got 'str'"):
        getattr(module, name)("2000-01-01")


def test_a_zone_is_refused_where_there_is_none(module: ModuleType) -> None:
    with pytest.raises(TypeError, match="naive"):
        module.encode_timestamp(dt.datetime(2000, 1, 1, tzinfo=dt.UTC))


@pytest.mark.parametrize("name", NAMES)
def test_each_function_may_be_a_programs_first(form: str, name: str) -> None:
    package = PACKAGES[form]
    value = "bytes(8)" if name.startswith("decode") else "d.datetime(2000, 1, 1, tzinfo=z)"
    code = f"""
import datetime as d
from {package}.postgresql_times import {name}
z = {"d.timezone.utc" if name.endswith("tz") else "None"}
found = {name}({value})
assert found == {"d.datetime(2000, 1, 1, tzinfo=z)" if name.startswith("decode") else "bytes(8)"}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
