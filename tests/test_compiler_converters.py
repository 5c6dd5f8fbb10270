"""What stands in for SQLAlchemy's result processors gives what they give."""

from __future__ import annotations

import enum
import json
import types
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from fastdb._fallback import records as pure
from fastdb._speedups import RecordLayout
from fastdb.compiler_converters import JSONConverter, LookupConverter, result_converter
from fastdb.drivers.postgresql_dialect import make_dialect


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Word(str, enum.Enum):  # noqa: UP042 (members that are strings, with a hash of their own)
    YES = "yes"
    NO = "no"


DIALECTS: dict[str, Any] = {
    "sqlite": SQLiteDialect_pysqlite(paramstyle="qmark"),
    "postgresql": PGDialect(paramstyle="numeric_dollar"),  # type: ignore[no-untyped-call]
    "mysql": MySQLDialect_pymysql(paramstyle="format"),
}
ENUMS: dict[str, Any] = {
    "members": sa.Enum(Colour),
    "texts": sa.Enum("a", "b", ""),
    "members that are texts": sa.Enum(Word),
    "values of members": sa.Enum(Word, values_callable=lambda kind: [each.value for each in kind]),
    "members as keys": sa.Enum(Word, values_callable=list),
    "not native": sa.Enum(Colour, native_enum=False),
}


def outcome(call: Callable[[Any], Any], value: Any) -> tuple[type, str]:
    """Return what a call gives, or raises, in words."""
    try:
        found = call(value)
    except Exception as error:
        found = error
    return type(found), repr(found)


def layouts(type_: Any, dialect: Any) -> list[Callable[[Any], Any]]:
    """Return what makes the value of a record out of the driver's, in each form."""
    converters = [result_converter(type_, dialect)]

    def through(kind: Any) -> Callable[[Any], Any]:
        layout = kind(["x"], converters)
        return lambda value: layout.records([(value,)])[0].x

    return [through(RecordLayout), through(pure.RecordLayout)]


def agree(type_: Any, dialect: Any, value: Any) -> None:
    expected = outcome(type_._cached_result_processor(dialect, None), value)
    for convert in layouts(type_, dialect):
        assert outcome(convert, value) == expected


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
texts = st.one_of(
    documents.map(json.dumps),
    documents.map(lambda each: json.dumps(each, ensure_ascii=False, indent=1)),
    st.tuples(st.text(" \n\ufeffx,", max_size=2), documents.map(json.dumps), st.text(" x]")).map(
        "".join
    ),
    st.text('[]{}":,0123456789.eE+-nulltrfas \\'),
)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(text=texts)
def test_json_is_read_as_sqlalchemy_reads_it(dialect: str, text: str) -> None:
    agree(sa.JSON(), DIALECTS[dialect], text)


@pytest.mark.parametrize("value", [None, b"[1]", bytearray(b"{}"), b"\xff", 5, [1], ""])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_json_does_not_usually_get(dialect: str, value: Any) -> None:
    agree(sa.JSON(), DIALECTS[dialect], value)


@pytest.mark.parametrize("type_", ENUMS.values(), ids=ENUMS)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("value", ["RED", "GREEN", "a", "", "yes", "YES", "other", None, 5, b"a"])
def test_members_are_found_as_sqlalchemy_finds_them(type_: Any, dialect: str, value: Any) -> None:
    assert type(result_converter(type_, DIALECTS[dialect])) is LookupConverter
    agree(type_, DIALECTS[dialect], value)


@pytest.mark.parametrize(
    ("type_", "dialect", "kind"),
    [
        (sa.JSON(), "sqlite", JSONConverter),
        (sa.JSON(), "postgresql", JSONConverter),
        (postgresql.JSONB(), "postgresql", JSONConverter),
        (sa.JSON(), "mysql", JSONConverter),
        (mysql.JSON(), "mysql", JSONConverter),
        (mysql.ENUM(Colour), "mysql", LookupConverter),
        (postgresql.ENUM(Colour), "postgresql", LookupConverter),
    ],
)
def test_what_is_known(type_: Any, dialect: str, kind: type) -> None:
    assert type(result_converter(type_, DIALECTS[dialect])) is kind


class Capital(sa.TypeDecorator[str]):
    """Give texts in capitals."""

    impl = sa.JSON
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return str(value).upper()


class OwnEnum(sa.Enum):
    """Find members in a way of its own."""

    cache_ok = True

    def _object_value_for_elem(self, elem: str) -> Any:
        return elem.upper()


@pytest.mark.parametrize("type_", [Capital(), OwnEnum("a"), sa.Boolean(), sa.Interval()])
def test_what_is_not_known_goes_to_sqlalchemys(type_: Any) -> None:
    dialect = DIALECTS["sqlite"]
    processor = type_._cached_result_processor(dialect, None)
    assert result_converter(type_, dialect) is processor
    assert processor is not None
    assert result_converter(sa.Integer(), dialect) is None


def test_another_reader_of_json_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    own = SQLiteDialect_pysqlite(json_deserializer=lambda text: "own")
    assert [convert("[1]") for convert in layouts(sa.JSON(), own)] == ["own"] * 2
    monkeypatch.setattr(json, "loads", lambda text: "another package's")
    fresh = SQLiteDialect_pysqlite()
    assert [convert("[1]") for convert in layouts(sa.JSON(), fresh)] == ["another package's"] * 2


@pytest.mark.parametrize("type_", [sa.JSON(), postgresql.JSON(), postgresql.JSONB()])
@given(text=texts)
def test_json_of_postgresql_is_read_unless_a_codec_has_read_it(type_: Any, text: str) -> None:
    driver = types.SimpleNamespace(codecs=frozenset())
    dialect = make_dialect((16,), driver)
    assert type(result_converter(type_, dialect)) is JSONConverter
    agree(type_, dialect, text)
    read = layouts(type_, dialect)
    name = "jsonb" if isinstance(type_, postgresql.JSONB) else "json"
    driver.codecs = frozenset({(name, "pg_catalog")})
    agree(type_, dialect, text)
    assert [convert(text) for convert in read] == [text] * 2
    driver.codecs = frozenset({("other", "pg_catalog")})
    agree(type_, dialect, text)


def test_a_known_processor_that_was_made_for_another_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What counts is the function that the processor holds, not what has the name by now."""
    dialect = SQLiteDialect_pysqlite()
    type_ = sa.JSON()
    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", lambda text: "another package's")
        assert type_._cached_result_processor(dialect, None) is not None
    assert [convert("[1]") for convert in layouts(type_, dialect)] == ["another package's"] * 2
