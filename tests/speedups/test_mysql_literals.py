"""The writer of MySQL's statements writes the same in both forms, and what the server reads."""

from __future__ import annotations

import datetime
import enum
import inspect
from collections.abc import Callable
from decimal import Decimal
from types import ModuleType
from typing import Any
from uuid import UUID

import pymysql.converters
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdb.drivers.mysql_literals import Literals
from fastdb.exceptions import DataError
from tests.speedups.conftest import FORMS, load

LITERALS = Literals(pymysql.converters)
ENCODERS = pymysql.converters.encoders


@pytest.fixture(scope="session")
def module(form: str) -> ModuleType:
    return load(form, "mysql_literals")


@pytest.fixture(scope="session")
def both() -> tuple[ModuleType, ModuleType]:
    return load(FORMS[0], "mysql_literals"), load("pure", "mysql_literals")


def writer(module: ModuleType, literal: Any = LITERALS.literal) -> Any:
    return module.StatementWriter(LITERALS.known, literal)


def write(
    module: ModuleType,
    sql: str,
    *args: Any,
    encoding: str = "utf8",
    backslashes: bool = True,
    encoders: Any = ENCODERS,
) -> str:
    written: bytes = writer(module).statement(sql, args, encoders, encoding, backslashes)
    return written.decode(encoding)


class Size(enum.IntEnum):
    SMALL = 1


class Text(str):
    def __str__(self) -> str:
        return "another"


class Moment(datetime.datetime):
    pass


MOMENT = datetime.datetime(24, 2, 9, 1, 2, 3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "NULL"),
        (True, "1"),
        (False, "0"),
        (0, "0"),
        (-7, "-7"),
        (2**63 - 1, "9223372036854775807"),
        (-(2**63), "-9223372036854775808"),
        (2**63, "9223372036854775808"),
        (Size.SMALL, "1"),
        (0.5, "0.5e0"),
        (-0.0, "-0.0e0"),
        (1e300, "1e+300"),
        (2.0**60, "1.152921504606847e+18"),
        ("", "''"),
        ("it's", "'it''s'"),
        ("'", "''''"),
        ("\\'\\", "'\\\\''\\\\'"),
        ("a\0b%s%%", "'a\0b%s%%'"),
        ("größe 𝄞", "'größe 𝄞'"),
        (Text("it's"), "'it''s'"),
        (b"", "_binary X''"),
        (b"\x00'\xff", "_binary X'0027ff'"),
        (bytearray(b"\x01"), "_binary X'01'"),
        (memoryview(b"\x02"), "_binary X'02'"),
        (MOMENT, "'0024-02-09 01:02:03'"),
        (MOMENT.replace(microsecond=70), "'0024-02-09 01:02:03.000070'"),
        (Moment(2024, 1, 1), "'2024-01-01 00:00:00'"),
        (MOMENT.date(), "'0024-02-09'"),
        (MOMENT.time(), "'01:02:03'"),
        (datetime.time(0, 0, 0, 999999), "'00:00:00.999999'"),
        (datetime.timedelta(days=-1, microseconds=1), "'-23:59:59.999999'"),
        (Decimal("1E+3"), "1000"),
        (UUID(int=1), "'00000000-0000-0000-0000-000000000001'"),
        ([1, "a"], "(1,'a')"),
    ],
)
def test_a_value_as_a_literal(module: ModuleType, value: Any, expected: str) -> None:
    assert write(module, "SELECT %s", value) == f"SELECT {expected}"


def test_backslashes_are_left_where_they_do_not_escape(module: ModuleType) -> None:
    assert write(module, "%s", "\\'\\", backslashes=False) == "'\\''\\'"


def test_percent_signs(module: ModuleType) -> None:
    assert write(module, "%%s 5%% %s%s", 1, 2) == "%s 5% 12"
    assert write(module, "größe%% %s", 1) == "größe% 1"
    assert write(module, "") == ""


def test_a_statement_that_is_no_text(module: ModuleType) -> None:
    with pytest.raises((TypeError, AttributeError)):
        write(module, 5, "text")  # type: ignore[arg-type]


@pytest.mark.parametrize("sql", ["%s %s", "", "%", "%d", "100 %", "%(name)s"])
def test_statements_that_do_not_fit_their_arguments(
    both: tuple[ModuleType, ModuleType], sql: str
) -> None:
    told = []
    for each in both:
        with pytest.raises((TypeError, ValueError)) as raised:
            write(each, sql, "text")
        told.append((raised.type, str(raised.value)))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "cannot send the float nan"),
        (float("-inf"), "cannot send the float -inf"),
        pytest.param(10**5000, "thousands of digits", id="digits"),
        (object(), "of type builtins.object"),
        ("\ud800", r"'\\ud800' cannot be sent in the connection's charset, utf8"),
    ],
)
@pytest.mark.parametrize("first", [1, "x" * 1000])
def test_a_value_that_cannot_be_sent(
    module: ModuleType, first: Any, value: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write(module, "%s %s %s", first, value, 1)


def test_a_statement_of_lone_surrogates(module: ModuleType) -> None:
    with pytest.raises(DataError, match=r"'\\ud800' cannot be sent"):
        write(module, "SELECT '\ud800', %s", 1)


@pytest.mark.parametrize("encoding", ["gbk", "big5", "cp932", "euc_kr", "latin1", "ascii", "utf-8"])
def test_other_charsets(module: ModuleType, encoding: str) -> None:
    text = {"gbk": "縗'", "big5": "功'", "cp932": "ソ'", "euc_kr": "가'", "ascii": "\\'"}.get(
        encoding, "é\\'"
    )
    expected = "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    assert write(module, "SELECT %s", text, encoding=encoding) == f"SELECT {expected}"
    if encoding != "utf-8":
        with pytest.raises(DataError, match=f"charset, {encoding}"):
            write(module, "SELECT %s", "𝄞", encoding=encoding)


# -- encoders of the users'


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, 5),
        (str, "text"),
        (float, 0.5),
        (bool, True),
        (type(None), None),
        (bytes, b"x"),
        (datetime.datetime, MOMENT),
        (datetime.date, MOMENT.date()),
        (datetime.time, MOMENT.time()),
    ],
)
def test_an_encoder_of_the_users_is_called(module: ModuleType, kind: type, value: Any) -> None:
    encoders = {**ENCODERS, kind: lambda value, encoders: f"mine({value!r})"}
    assert write(module, "%s", value, encoders=encoders) == f"mine({value!r})"


def test_encoders_that_are_no_dict(module: ModuleType) -> None:
    class Encoders(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            return (lambda value, encoders: "found") if key is int else super().get(key, default)

    assert write(module, "%s %s", 5, "x", encoders=Encoders(ENCODERS)) == "found 'x'"


def test_a_known_encoder_for_another_type(module: ModuleType) -> None:
    class Number(int):
        pass

    encoders = {**ENCODERS, Number: ENCODERS[int], Text: ENCODERS[str]}
    assert write(module, "%s %s", Number(7), Text("x"), encoders=encoders) == "7 'x'"


def test_an_encoder_that_gives_a_str_of_its_own(module: ModuleType) -> None:
    encoders = {**ENCODERS, int: lambda value, encoders: Text("x")}
    assert write(module, "%s", 1, encoders=encoders) == "another"


def test_an_encoder_that_writes_a_statement_itself(module: ModuleType) -> None:
    """A buffer belongs to one call."""
    mine = writer(module)

    def nested(value: Any, encoders: Any) -> str:
        inner: bytes = mine.statement("<%s>", ("inner" * 100,), ENCODERS, "utf8", True)
        return inner.decode()

    written = mine.statement("%s %s %s", ("a", 1, "b"), {**ENCODERS, int: nested}, "utf8", True)
    assert written.decode() == f"'a' <'{'inner' * 100}'> 'b'"


def test_an_error_of_an_encoder_passes(module: ModuleType) -> None:
    def wrong(value: Any, encoders: Any) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write(module, "%s", 1, encoders={**ENCODERS, int: wrong})


# -- many rows


def rows_of(module: ModuleType, group: str, rows: Any, size: int, **options: Any) -> list[str]:
    """Return what all the calls for some rows give."""
    encoding = options.get("encoding", "utf8")
    texts: list[str] = []
    start = 0
    while start < len(rows):
        text, end = writer(module).rows(
            group, rows, start, size, ENCODERS, encoding, options.get("backslashes", True)
        )
        assert end > start
        texts.append(text.decode(encoding))
        start = end
    return texts


def test_rows_are_written_until_the_size_is_reached(module: ModuleType) -> None:
    rows = [(1, "a"), (2, "b"), (3, "c")]
    assert rows_of(module, "(%s, %s)", rows, 100) == ["(1, 'a'),(2, 'b'),(3, 'c')"]
    assert rows_of(module, "(%s, %s)", rows, 17) == ["(1, 'a'),(2, 'b')", "(3, 'c')"]
    assert rows_of(module, "(%s, %s)", rows, 16) == ["(1, 'a')", "(2, 'b')", "(3, 'c')"]
    assert rows_of(module, "(%s, %s)", rows, -5) == ["(1, 'a')", "(2, 'b')", "(3, 'c')"]


def test_no_rows(module: ModuleType) -> None:
    assert writer(module).rows("(%s)", [], 0, 10, ENCODERS, "utf8", True) == (b"", 0)
    assert writer(module).rows("(%s)", [(1,)], 1, 10, ENCODERS, "utf8", True) == (b"", 1)


def test_the_size_is_one_of_bytes(module: ModuleType) -> None:
    rows = [("é",), ("é",)]
    assert rows_of(module, "(%s)", rows, 13) == ["('é'),('é')"]
    assert rows_of(module, "(%s)", rows, 12) == ["('é')", "('é')"]
    assert rows_of(module, "(%s)", rows, 11, encoding="latin1") == ["('é'),('é')"]


def test_a_row_that_cannot_be_sent_is_told_where_it_comes(module: ModuleType) -> None:
    rows: list[tuple[Any, ...]] = [(1,), ("\ud800",)]
    with pytest.raises(DataError, match="cannot be sent"):
        writer(module).rows("(%s)", rows, 0, 1 << 20, ENCODERS, "utf8", True)


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**64), 2**64),
    st.floats(),
    st.text(),
    st.text("'\\%s\x00é\ud800"),
    st.binary(),
    st.dates(),
    st.times(),
    st.datetimes(),
    st.datetimes(timezones=st.just(datetime.UTC)),
    st.timedeltas(),
    st.decimals(),
    st.uuids(),
    st.sampled_from([Size.SMALL, Text("it's"), bytearray(b"x"), object]),
    st.lists(st.integers(), max_size=2),
)
pieces = st.sampled_from(["%s", "%s", "%s", "%%", "%", "SELECT ", "'", "é", "\0", "\ud800", "%d"])


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


@settings(deadline=None, max_examples=500)
@given(
    sql=st.lists(pieces, max_size=5).map("".join),
    args=st.lists(values, max_size=4).map(tuple),
    encoding=st.sampled_from(["utf8", "utf8", "gbk", "latin1"]),
    backslashes=st.booleans(),
)
def test_both_forms_write_the_same_statement(
    both: tuple[ModuleType, ModuleType], sql: str, args: Any, encoding: str, backslashes: bool
) -> None:
    written = [
        outcome(
            lambda each=each: writer(each).statement(sql, args, ENCODERS, encoding, backslashes)  # type: ignore[misc]
        )
        for each in both
    ]
    assert written[0] == written[1]


@settings(deadline=None, max_examples=300)
@given(
    rows=st.lists(st.tuples(values, values), max_size=6),
    size=st.integers(0, 200),
    encoding=st.sampled_from(["utf8", "utf8", "gbk"]),
    backslashes=st.booleans(),
)
def test_both_forms_write_the_same_rows(
    both: tuple[ModuleType, ModuleType], rows: Any, size: int, encoding: str, backslashes: bool
) -> None:
    options = {"encoding": encoding, "backslashes": backslashes}
    written = [
        outcome(lambda each=each: rows_of(each, "(%s,%s)", rows, size, **options))  # type: ignore[misc]
        for each in both
    ]
    assert written[0] == written[1]


# -- one surface


def test_an_unknown_kind_is_refused(module: ModuleType) -> None:
    with pytest.raises(KeyError, match="colour"):
        module.StatementWriter(((str, "colour"),), LITERALS.literal)


def test_more_known_encoders_than_there_is_room_for(module: ModuleType) -> None:
    known = tuple([(lambda: None, "int") for _ in range(40)])
    mine = module.StatementWriter((*known, *LITERALS.known), LITERALS.literal)
    assert mine.statement("%s", (5,), ENCODERS, "utf8", True) == b"5"


def test_both_forms_have_one_surface(both: tuple[ModuleType, ModuleType]) -> None:
    compiled, pure = (module.StatementWriter for module in both)
    assert both[0].__all__ == both[1].__all__
    assert inspect.getdoc(compiled) == inspect.getdoc(pure)
    public = [name for name in dir(pure) if not name.startswith("_")]
    assert [name for name in dir(compiled) if not name.startswith("_")] == public
    for name in public:
        functions = [getattr(kind, name) for kind in (compiled, pure)]
        assert inspect.getdoc(functions[0]) == inspect.getdoc(functions[1])
        parameters = [
            [(p.name, p.kind, p.default) for p in [*inspect.signature(f).parameters.values()][1:]]
            for f in functions
        ]
        assert parameters[0] == parameters[1]
