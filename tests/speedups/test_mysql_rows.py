"""The decoder of MySQL's rows reads what a server may send, and survives what none should."""

from __future__ import annotations

import asyncio
import datetime
import gc
import inspect
import sys
import weakref
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import pairwise
from types import ModuleType
from typing import Any

import aiomysql
import pymysql.converters
import pytest
from aiomysql.connection import MySQLResult
from hypothesis import given, settings
from hypothesis import strategies as st
from pymysql.protocol import MysqlPacket
from sqlalchemy.engine import processors

from fastdb.exceptions import InterfaceError, InternalError
from fastdb.url import DatabaseURL
from tests.speedups.conftest import FORMS, load
from tests.speedups.mysql_packets import (
    DECODERS,
    FULL,
    KNOWN,
    Column,
    definition,
    eof,
    error,
    head,
    number,
    ok,
    packets,
    result,
    row,
    string,
)

TEXT, BINARY = 45, 63
SIX: list[Column] = [
    ("id", 3, BINARY),
    ("name", 252, TEXT),
    ("price", 246, BINARY),
    ("data", 252, BINARY),
    ("ratio", 5, BINARY),
    ("at", 12, BINARY),
]
ROW = row(b"1", "größe".encode(), b"1.50", b"\0\xff", b"0.5", b"2024-02-29 01:02:03")
VALUES = (
    1,
    "größe",
    Decimal("1.50"),
    b"\0\xff",
    0.5,
    datetime.datetime(2024, 2, 29, 1, 2, 3),
)


@pytest.fixture(scope="session")
def rows(form: str) -> ModuleType:
    return load(form, "mysql_rows")


@pytest.fixture(scope="session")
def both() -> tuple[ModuleType, ModuleType]:
    return load(FORMS[0], "mysql_rows"), load("pure", "mysql_rows")


def reader(
    module: ModuleType, *, encoding: str = "utf8", decoders: Any = DECODERS, **options: Any
) -> Any:
    use_unicode = options.pop("use_unicode", True)
    return module.ResultReader(1, encoding, use_unicode, decoders, KNOWN, **options)


def decode(module: ModuleType, columns: list[Column], *contents: bytes, **options: Any) -> Any:
    """Return the rows of a result."""
    read = reader(module, **options)
    data = packets(result(columns, contents))
    assert read.feed(data) == len(data)
    assert read.ended
    return read.rows


# -- one result


def test_rows_are_decoded(rows: ModuleType) -> None:
    read = reader(rows)
    data = packets(result(SIX, [ROW, row(*[None] * 6)], status=0x22))
    assert read.feed(data) == len(data)
    assert read.rows == [VALUES, (None,) * 6]
    assert read.names == ("id", "name", "price", "data", "ratio", "at")
    assert (read.ended, read.missing, read.makes_records) == (True, 0, False)
    assert (read.server_status, read.warning_count, read.has_next) == (0x22, 0, False)
    assert (read.error, read.message, read.affected_rows, read.insert_id) == (None,) * 4
    assert read.feed(data, 3) == 3  # it has ended: the rest is another result's


def test_the_ok_packet(rows: ModuleType) -> None:
    read = reader(rows)
    data = packets([ok(3, (1 << 64) - 1, 0x0A, 7) + b"Rows matched: 3"])
    assert read.feed(b"x" + data, 1) == len(data) + 1
    assert (read.affected_rows, read.insert_id) == (3, (1 << 64) - 1)
    assert (read.server_status, read.warning_count, read.has_next) == (0x0A, 7, True)
    assert (read.message, read.names, read.rows) == (b"Rows matched: 3", None, [])


@pytest.mark.parametrize("before", range(9))
def test_an_error_ends_the_result_at_any_point(rows: ModuleType, before: int) -> None:
    read = reader(rows)
    data = packets([*result(SIX, [ROW, ROW])[:before], error(1234, "no")])
    assert read.feed(data + b"rest") == len(data)
    assert read.ended
    assert read.error == error(1234, "no")
    assert len(read.rows) == max(before - 8, 0)


def test_a_local_file_is_not_sent(rows: ModuleType) -> None:
    read = reader(rows)
    read.feed(packets([b"\xfb/etc/passwd"]))
    assert (read.ended, read.wants_file) == (True, True)


def test_numbers_of_packets_wrap(rows: ModuleType) -> None:
    read = rows.ResultReader(254, "utf8", True, DECODERS, KNOWN)
    read.feed(packets(result(SIX, [ROW] * 600), 254))
    assert len(read.rows) == 600
    assert read.sequence == (254 + 6 + 3 + 600) % 256


def test_a_pause_after_the_head_and_after_rows(rows: ModuleType) -> None:
    read = reader(rows)
    data = packets(result(SIX, [ROW] * 5))
    position = read.feed(data, 0, 0)
    assert position == len(packets(head(SIX)))
    assert (read.names, read.rows, read.ended, read.missing) == (
        tuple([name for name, _, _ in SIX]),
        [],
        False,
        0,
    )
    position = read.feed(data, position, 2)
    assert read.take() == [VALUES] * 2
    assert read.rows == []
    position = read.feed(data, position, 4)
    assert position == len(data)
    assert read.ended
    assert read.take() == [VALUES] * 3


def test_long_lists_of_rows_have_no_room_for_more(rows: ModuleType) -> None:
    for count in (1, 99, 100, 250):
        read = reader(rows)
        read.feed(packets(result(SIX, [ROW] * count)))
        taken = read.take()
        assert taken == [VALUES] * count
        if count >= 100:
            assert sys.getsizeof(taken) == sys.getsizeof([None] * count)


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_rows_above_the_limit_are_dropped(rows: ModuleType, limit: int) -> None:
    assert len(decode(rows, SIX, *[ROW] * 3, limit=limit)) == limit
    read = reader(rows, limit=limit)
    read.feed(packets([*head(SIX), ROW, ROW, ROW, error()]))
    assert read.error == error()


def test_the_bytes_that_are_missing(rows: ModuleType) -> None:
    read = reader(rows)
    data = packets(result(SIX, [ROW]))
    seen = read.feed(b"")
    assert (seen, read.missing) == (0, 4)
    assert (read.feed(data[:3]), read.missing) == (0, 1)
    assert (read.feed(data[:4]), read.missing) == (0, 1)
    assert (read.feed(data[:10]), read.missing) == (5, len(definition(*SIX[0])) - 1)
    assert read.feed(data, 5) == len(data)
    assert read.rows == [VALUES]


@settings(deadline=None, max_examples=60)
@given(cuts=st.lists(st.integers(0, 400), max_size=8), size=st.sampled_from([-1, 0, 1, 2]))
def test_pieces_of_any_size_give_the_same(rows: ModuleType, cuts: list[int], size: int) -> None:
    data = packets(result(SIX, [ROW, ROW, ROW]))
    read = reader(rows)
    taken: list[Any] = []
    rest = b""
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in pairwise(places):
        rest += data[start:end]
        position = 0
        while True:
            position = read.feed(rest, position, size)
            taken += read.take()
            if read.missing or read.ended:
                break
            size = max(size, 1)
        rest = rest[position:]
    assert read.ended
    assert not rest
    assert taken == [VALUES] * 3


# -- records


def records_of(rows: ModuleType) -> ModuleType:
    return load("compiled" if "_speedups" in rows.__name__ else "pure", "records")


def test_rows_become_records(rows: ModuleType) -> None:
    records = records_of(rows)
    names: list[tuple[str, ...]] = []

    def layouts(given: tuple[str, ...]) -> Any:
        names.append(given)
        return records.RecordLayout(given)

    read = reader(rows, layouts=layouts)
    read.feed(packets(result(SIX, [ROW, row(*[None] * 6)])))
    assert names == [read.names]
    assert read.makes_records
    first, second = read.rows
    assert isinstance(first, records.Record)
    assert (first.id, first["name"], first[5]) == (1, "größe", VALUES[5])
    assert first == VALUES
    assert list(second) == [None] * 6


@pytest.mark.parametrize("kind", ["converters", "fewer columns", "no layout", "error"])
def test_rows_stay_tuples_where_records_need_python(rows: ModuleType, kind: str) -> None:
    records = records_of(rows)

    def layouts(names: tuple[str, ...]) -> Any:
        if kind == "error":
            raise LookupError(names)
        if kind == "no layout":
            return None
        if kind == "fewer columns":
            return records.RecordLayout(names[1:])
        return records.RecordLayout(names, [str] + [None] * 5)

    assert decode(rows, SIX, ROW, layouts=layouts) == [VALUES]


CONVERTERS = [None, processors.int_to_boolean, processors.to_float, str]
CONVERTED: list[tuple[int, st.SearchStrategy[bytes | None]]] = [
    (1, st.integers(-2, 2).map(b"%d".__mod__) | st.sampled_from([None, b"00", b"1" * 30, b" 1"])),
    (1, st.sampled_from([b"0", b"1", b"", b"x"])),
    (5, st.floats(allow_nan=False, allow_infinity=False).map(lambda each: repr(each).encode())),
    (5, st.sampled_from([None, b"nan", b"1e400", b"x"])),
    (246, st.sampled_from([None, b"1.50"])),
    (253, st.sampled_from([None, b"", b"text"])),
]


@settings(deadline=None, max_examples=300)
@given(
    columns=st.lists(
        st.tuples(st.sampled_from(CONVERTED), st.sampled_from(CONVERTERS)), min_size=1, max_size=3
    ),
    data=st.data(),
)
def test_converters_of_sqlalchemys_give_the_same_in_the_reader(
    both: tuple[ModuleType, ModuleType], columns: list[Any], data: st.DataObject
) -> None:
    """What the reader makes of a row is what the layout makes of the tuple that it decodes to."""
    values = [data.draw(texts) for (_, texts), _ in columns]
    definitions: list[Column] = [(f"c{n}", code, TEXT) for n, ((code, _), _) in enumerate(columns)]
    payloads = packets(result(definitions, [row(*values)] * 2))
    seen: list[Any] = []
    for module in both:
        layout = records_of(module).RecordLayout(
            [name for name, *_ in definitions], [converter for _, converter in columns]
        )
        plain, made = reader(module), reader(module, layouts=lambda _, layout=layout: layout)
        outcomes: list[Any] = []
        for read in (plain, made):
            try:
                read.feed(payloads)
                found = read.rows if read.makes_records else layout.records(read.rows)
                outcomes.append([list(each) for each in found])
                outcomes.append([[type(value) for value in each] for each in found])
            except Exception as error:
                outcomes += [type(error), str(error)]
        assert repr(outcomes[:2]) == repr(outcomes[2:])
        assert not plain.makes_records
        seen.append((repr(outcomes), made.makes_records))
    assert seen[0] == seen[1]


def test_booleans_and_floats_of_sqlalchemys_become_records_at_once(rows: ModuleType) -> None:
    layout = records_of(rows).RecordLayout(
        ("done", "ratio", "name"), [processors.int_to_boolean, processors.to_float, None]
    )
    read = reader(rows, layouts=lambda _: layout)
    columns: list[Column] = [("done", 1, BINARY), ("ratio", 5, BINARY), ("name", 253, TEXT)]
    contents = [row(b"1", b"0.5", b"a"), row(b"0", None, None), row(None, b"-2", b"")]
    read.feed(packets(result(columns, [*contents, row(b"7", b"7", b"3")])))
    assert read.makes_records
    expected = [(True, 0.5, "a"), (False, None, None), (None, -2.0, ""), (True, 7.0, "3")]
    assert read.rows == expected
    assert read.rows[3].done is True
    assert read.rows[1].done is False


@pytest.mark.parametrize("made", ["record", "tuple"])
def test_a_half_made_row_is_freed(rows: ModuleType, made: str) -> None:
    layout = records_of(rows).RecordLayout(("a", "b", "c"))
    alive: list[weakref.ref[Any]] = []

    class Held:
        pass

    def held(_: Any) -> Any:
        value = Held()
        alive.append(weakref.ref(value))
        return value

    def wrong(_: Any) -> Any:
        raise ZeroDivisionError

    decoders = {3: held, 4: wrong}
    read = reader(rows, decoders=decoders, layouts=(lambda _: layout) if made == "record" else None)
    columns: list[Column] = [("a", 3, BINARY), ("b", 4, BINARY), ("c", 3, BINARY)]
    with pytest.raises(ZeroDivisionError):
        read.feed(packets(result(columns, [row(b"1", b"2", b"3")])))
    assert read.rows == []
    assert [each() for each in alive] == [None]


def test_records_with_containers_are_collected(rows: ModuleType) -> None:
    records = records_of(rows)
    layout = records.RecordLayout(("a",))
    cells: list[Any] = []

    class Cell(list[Any]):
        pass

    def cell(_: Any) -> Any:
        made = Cell()
        cells.append(made)
        return made

    read = reader(rows, decoders={3: cell}, layouts=lambda names: layout)
    read.feed(packets(result([("a", 3, BINARY)], [row(b"1")])))
    (record,) = read.take()
    assert gc.is_tracked(record)
    record.a.append(record)
    found = len([each for each in gc.get_objects() if type(each) is Cell])
    cells.clear()
    del record, read
    gc.collect()
    assert len([each for each in gc.get_objects() if type(each) is Cell]) == found - 1


# -- values


CASES: list[tuple[int, int, bytes, Any]] = [
    (1, BINARY, b"-128", -128),
    (2, BINARY, b"00042", 42),
    (3, BINARY, b"0", 0),
    (9, BINARY, b"-8388608", -8388608),
    (8, BINARY, b"18446744073709551615", (1 << 64) - 1),
    (8, BINARY, b"-9223372036854775808", -(1 << 63)),
    (8, BINARY, b"999999999999999999", 999999999999999999),
    (13, BINARY, b"2024", 2024),
    (4, BINARY, b"3.40282e38", 3.40282e38),
    (5, BINARY, b"-0", -0.0),
    (5, BINARY, b"0.1", 0.1),
    (5, BINARY, b"-1.7976931348623157e308", -1.7976931348623157e308),
    (5, BINARY, b"2.2250738585072014e-308", 2.2250738585072014e-308),
    (5, BINARY, b"0.3333333333333333", 1 / 3),
    (5, BINARY, b"123456789012345.6", 123456789012345.6),
    (5, BINARY, b"0.000000000000001", 1e-15),
    (0, BINARY, b"-1.10", Decimal("-1.10")),
    (246, BINARY, b"12345678901234567890.123", Decimal("12345678901234567890.123")),
    (10, BINARY, b"2024-02-29", datetime.date(2024, 2, 29)),
    (10, BINARY, b"0000-00-00", "0000-00-00"),
    (10, BINARY, b"2023-02-29", "2023-02-29"),
    (12, BINARY, b"9999-12-31 23:59:59", datetime.datetime(9999, 12, 31, 23, 59, 59)),
    (7, BINARY, b"2024-01-02 03:04:05.6", datetime.datetime(2024, 1, 2, 3, 4, 5, 600000)),
    (12, BINARY, b"2024-01-02 03:04:05.000007", datetime.datetime(2024, 1, 2, 3, 4, 5, 7)),
    (12, BINARY, b"0000-00-00 00:00:00", "0000-00-00 00:00:00"),
    (12, BINARY, b"2024-00-01 00:00:00", "2024-00-01 00:00:00"),
    (12, BINARY, b"2024-01-02 03:04:05.0x", "2024-01-02 03:04:05.0x"),
    (12, BINARY, b"2024-01-02_03:04:05", "2024-01-02_03:04:05"),
    (12, BINARY, b"2024-01-02 03.04:05", "2024-01-02 03.04:05"),
    (12, BINARY, b"2024-01-02 03:04.05", "2024-01-02 03:04.05"),
    (11, BINARY, b"00:00:00", datetime.timedelta(0)),
    (11, BINARY, b"838:59:59", datetime.timedelta(hours=838, minutes=59, seconds=59)),
    (11, BINARY, b"-25:06:17", -datetime.timedelta(hours=25, minutes=6, seconds=17)),
    (11, BINARY, b"-00:00:00.5", -datetime.timedelta(microseconds=500000)),
    (16, BINARY, b"\x05", b"\x05"),
    (245, BINARY, '{"ä": 1}'.encode(), '{"ä": 1}'),
    (252, TEXT, "größe".encode(), "größe"),
    (252, BINARY, b"\xff\x00", b"\xff\x00"),
    (253, TEXT, b"", ""),
    (254, BINARY, b"a\0", b"a\0"),
    (255, BINARY, b"\0\0\0\0\1", b"\0\0\0\0\1"),
    (14, BINARY, b"ascii", "ascii"),
]


@pytest.mark.parametrize(("type_code", "charset", "text", "expected"), CASES)
def test_values(rows: ModuleType, type_code: int, charset: int, text: bytes, expected: Any) -> None:
    ((value,),) = decode(rows, [("x", type_code, charset)], row(text))
    assert value == expected
    assert type(value) is type(expected)
    assert repr(value) == repr(expected)


@pytest.mark.parametrize("length", [0, 250, 251, 252, 65535, 65536, 70000])
def test_lengths_of_every_form(rows: ModuleType, length: int) -> None:
    text = b"x" * length
    columns: list[Column] = [("a", 252, BINARY), ("b", 3, BINARY), ("c", 253, TEXT)]
    assert decode(rows, columns, row(text, b"7", text)) == [(text, 7, text.decode())]


def test_a_row_may_begin_as_the_end_of_a_result_does(rows: ModuleType) -> None:
    text = b"\xfe" + (3).to_bytes(8, "little") + b"abc"
    assert decode(rows, [("a", 253, TEXT)], text) == [("abc",)]


@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_rows_of_several_packets(rows: ModuleType, excess: int) -> None:
    text = b"x" * (FULL + excess - 4 - 2)
    data = packets([*head([("a", 252, BINARY), ("b", 3, BINARY)]), row(text, b"7"), eof()])
    read = reader(rows)
    middle = len(data) // 2
    position = read.feed(data[:middle])
    assert 0 < read.missing <= len(data) - middle
    data = data[position:]
    assert read.feed(data) == len(data)
    assert read.ended
    ((value, seven),) = read.rows
    assert value == text
    assert seven == 7


@pytest.mark.parametrize("encoding", ["cp1252", "koi8_r", "gb2312", "utf-8", "ascii"])
def test_texts_of_every_charset(rows: ModuleType, encoding: str) -> None:
    text = {"koi8_r": "мир", "gb2312": "你好", "ascii": "x"}.get(encoding, "größe")
    columns: list[Column] = [("a", 253, 8), ("b", 245, 8)]
    encoded = text.encode(encoding)
    assert decode(rows, columns, row(encoded, encoded), encoding=encoding) == [(text, text)]


def test_names_are_of_the_connections_charset(rows: ModuleType) -> None:
    read = reader(rows, encoding="cp1252")
    texts = b"".join(map(string, [b"def", b"", b"", b"", "ä".encode("cp1252"), b""]))
    column = texts + definition("")[-13:]
    read.feed(packets([number(1), column, eof(), eof()]))
    assert read.names == ("ä",)


def test_without_unicode_values_come_from_bytes(rows: ModuleType) -> None:
    columns: list[Column] = [("a", 253, TEXT), ("b", 3, BINARY), ("c", 12, BINARY)]
    text = row(b"abc", b"5", b"2024-01-01 00:00:00")
    assert decode(rows, columns, text, use_unicode=False) == [
        (b"abc", 5, datetime.datetime(2024, 1, 1))
    ]


def test_converters_of_the_users(rows: ModuleType) -> None:
    seen: list[Any] = []

    def note(value: Any) -> Any:
        seen.append(value)
        return len(seen)

    decoders = {3: note, 253: note, 252: note, 10: None, 16: int}
    columns: list[Column] = [
        ("a", 3, BINARY),
        ("b", 253, TEXT),
        ("c", 252, BINARY),
        ("d", 10, BINARY),
        ("e", 5, BINARY),
        ("f", 16, BINARY),
    ]
    text = row(b"1", b"x", b"\xff", b"2024-01-01", b"1.5", b"5")
    rows_read = decode(rows, columns, text, row(*[None] * 6), decoders=decoders)
    assert rows_read == [(1, 2, 3, "2024-01-01", "1.5", 5), (None,) * 6]
    assert seen == ["1", "x", b"\xff"]


@pytest.mark.parametrize(
    ("type_code", "text", "kind"),
    [(3, b"one", ValueError), (5, b"", ValueError), (253, b"\xff", UnicodeDecodeError)],
)
def test_values_that_are_none(
    rows: ModuleType, type_code: int, text: bytes, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        decode(rows, [("x", type_code, TEXT)], row(text))


# -- what no server sends


BAD: list[tuple[str, list[bytes]]] = [
    ("a packet is empty", [b""]),
    ("a result has 0 columns", [b"\0"]),
    ("a result has 65536 columns", [number(65536)]),
    ("a result has 18446744073709551615 columns", [b"\xfe" + b"\xff" * 8]),
    ("something follows the number of columns", [b"\1\1"]),
    ("a packet ends inside a length", [b"\xfc\1"]),
    ("a packet ends inside a length", [b"\xfe\0\0\2\0"]),
    ("the OK packet ends before its status", [b"\0\xfc\0\0\xfc\0\0\0\0\0"]),
    ("a packet ends inside a length", [b"\0\0\xfe\0\0\0\0\0\0"]),
    ("NULL stands where a number must", [b"\0\xfb\0\0\0\0\0"]),
    ("a packet is empty", [number(1), b""]),
    ("a packet ends before its last value", [number(1), b"\3def"]),
    ("a value has 9 bytes; its packet has 3 left", [number(1), b"\x09def"]),
    ("a column has no name", [number(1), b"\0\0\0\0\xfb\0" + definition("")[-13:]]),
    ("the definition of a column is too short", [number(1), definition("x")[:-1]]),
    ("more columns come than were announced", [number(1), definition("x"), definition("y")]),
    ("more columns come than were announced", [number(1), definition("x"), eof() + b"1234"]),
    ("the end of a result has no status", [*head([("x", 3, BINARY)]), b"\xfe\0\0\2"]),
    ("a packet is empty", [*head([("x", 3, BINARY)]), b""]),
    ("a packet ends before its last value", [*head(SIX), row(b"1", b"2")]),
    ("a row has more values than columns", [*head([("x", 3, BINARY)]), row(b"1", b"2")]),
    ("a value has 5 bytes; its packet has 1 left", [*head([("x", 3, BINARY)]), b"\x051"]),
    ("a length begins with the byte 255", [*head([("x", 253, TEXT)] * 2), b"\1a\xffb"]),
    (
        "a value has 18446744073709551615 bytes; its packet has 1 left",
        [*head([("x", 3, BINARY)]), b"\xfe" + b"\xff" * 8 + b"1"],
    ),
    (
        "a value has 9223372036854775807 bytes; its packet has 0 left",
        [*head([("x", 252, TEXT)]), b"\xfe" + b"\xff" * 7 + b"\x7f"],
    ),
]


@pytest.mark.parametrize(("message", "payloads"), BAD)
def test_lying_packets_are_refused(rows: ModuleType, message: str, payloads: list[bytes]) -> None:
    with pytest.raises(InternalError) as caught:
        reader(rows).feed(packets(payloads) + b"\0" * 100)
    assert str(caught.value) == f"the server's answer cannot be read: {message}"


@pytest.mark.parametrize(("sequence", "lost"), [(0, True), (7, False)])
def test_packets_out_of_turn_are_refused(rows: ModuleType, sequence: int, lost: bool) -> None:
    read = reader(rows)
    with pytest.raises(InternalError, match=f"has the number {sequence} instead of 1"):
        read.feed(packets([ok()], sequence))
    assert read.lost is lost


def test_wrong_arguments(rows: ModuleType) -> None:
    read = reader(rows)
    for position in (-1, 4):
        with pytest.raises(InterfaceError, match=f"position {position} is out of range; the data"):
            read.feed(b"abc", position)
    with pytest.raises(KeyError):
        odd = rows.ResultReader(1, "utf8", True, DECODERS, ((int, "number"),))
        odd.feed(packets(result([("x", 3, BINARY)], [])))


def test_a_converter_cannot_feed_the_reader_that_calls_it(rows: ModuleType) -> None:
    def convert(value: Any) -> Any:
        with pytest.raises(InterfaceError, match=r"feed\(\) is running already"):
            read.feed(b"")
        return value

    read = reader(rows, decoders={3: convert})
    read.feed(packets(result([("x", 3, BINARY)], [row(b"1")])))
    assert read.rows == [("1",)]


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("end", ["whole", "torn", "damaged"])
def test_the_collector_is_left_as_it_was(rows: ModuleType, enabled: bool, end: str) -> None:
    running: list[bool] = []

    def convert(text: str) -> str:
        running.append(gc.isenabled())
        return text

    good = packets(result(SIX, [ROW] * 3))
    damaged = packets([*head(SIX), ROW, ROW[:-1]])
    data = {"whole": good, "torn": good[:-20], "damaged": damaged}[end]
    if not enabled:
        gc.disable()
    try:
        for decoders in (DECODERS, {**DECODERS, 3: convert}):
            read = reader(rows, decoders=decoders)
            if end == "damaged":
                with pytest.raises(InternalError):
                    read.feed(data)
            else:
                rest = data[read.feed(data[:-60]) :]
                assert gc.isenabled() == enabled
                read.feed(rest)
            assert gc.isenabled() == enabled
    finally:
        gc.enable()
    # Where code of the user's runs, the collector does, too.
    assert set(running) == {enabled}


# -- one form against the other, and against aiomysql


def observe(module: ModuleType, pieces: list[bytes], **options: Any) -> Any:
    """Return all that can be seen of a reader that is fed with `pieces`."""
    read = reader(module, **options)
    rest = b""
    raised: Any = None
    for piece in pieces:
        rest += piece
        try:
            position = read.feed(rest)
        except Exception as error:
            raised = (type(error), str(error))
            break
        rest = rest[position:]
    names = ("sequence", "missing", "ended", "names", "error", "wants_file", "lost", "message")
    more = ("affected_rows", "insert_id", "server_status", "warning_count", "has_next")
    return [repr(read.rows), raised, rest, *[getattr(read, name) for name in names + more]]


GOOD = [
    packets(result(SIX, [ROW, row(*[None] * 6), ROW])),
    packets([ok(300, 70000) + b"message"]),
    packets([*head(SIX), ROW, error()]),
    packets(result([("a", 252, TEXT)], [row(b"x" * 300)])),
]


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_damaged_bytes_never_crash_and_both_forms_agree(
    both: tuple[ModuleType, ModuleType], data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(GOOD)))
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        action = data.draw(st.sampled_from(["set", "set", "cut", "insert"]))
        byte = data.draw(
            st.sampled_from([0, 1, 250, 251, 252, 253, 254, 255]) | st.integers(0, 255)
        )
        if action == "set":
            content[place] = byte
        elif action == "insert":
            content.insert(place, byte)
        elif len(content) > 1:
            del content[place]
    cut = data.draw(st.integers(0, len(content)))
    pieces = [bytes(content[:cut]), bytes(content[cut:])]
    seen = [observe(module, pieces) for module in both]
    assert seen[0] == seen[1]


@settings(deadline=None, max_examples=300)
@given(payloads=st.lists(st.binary(max_size=40), max_size=6), start=st.integers(0, 3))
def test_random_payloads_never_crash_and_both_forms_agree(
    both: tuple[ModuleType, ModuleType], payloads: list[bytes], start: int
) -> None:
    beginnings: list[list[bytes]] = [
        [],
        [number(2)],
        head([("a", 3, BINARY), ("b", 253, TEXT)]),
        head(SIX),
    ]
    pieces = [packets([*beginnings[start], *payloads])]
    seen = [observe(module, pieces) for module in both]
    assert seen[0] == seen[1]


def midpoint(numerator: int, power: int) -> str:
    """Return a decimal that lies half-way between two floats, or has fewer digits than one."""
    return format(Decimal(numerator) / Decimal(2) ** power, "f")


FLOATS = (
    st.floats(allow_nan=False, allow_infinity=False).map(lambda each: f"{each:f}")
    | st.floats(1e-5, 1e17).map(repr)
    | st.from_regex(r"-?0{0,3}[0-9]{0,19}(\.[0-9]{0,19})?", fullmatch=True)
    | st.builds(midpoint, st.integers(0, 2**64), st.integers(0, 19))
    | st.builds(lambda odd, half: f"{odd}.{half}", st.integers(2**52, 2**54), st.integers(0, 99))
)


@settings(deadline=None, max_examples=1000)
@given(text=FLOATS)
def test_floats_are_rounded_as_python_rounds_them(
    both: tuple[ModuleType, ModuleType], text: str
) -> None:
    try:
        expected: Any = float(text).hex()
    except ValueError as error:
        expected = str(error)
    for module in both:
        try:
            found = decode(module, [("x", 5, BINARY)], row(text.encode()))[0][0].hex()
        except ValueError as error:
            found = str(error)
        assert found == expected


class Feeder:
    """What aiomysql's result needs of a connection."""

    def __init__(self, payloads: list[bytes], use_unicode: bool) -> None:
        self.payloads = iter(payloads)
        self.use_unicode = use_unicode
        self.encoding = "utf8"
        self.decoders = DECODERS
        self._result = None

    async def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        return packet_type(next(self.payloads), self.encoding)


def decode_as_aiomysql(payloads: list[bytes], use_unicode: bool = True) -> Any:
    result = MySQLResult(Feeder(payloads, use_unicode))
    coroutine = result.read()
    with pytest.raises(StopIteration):  # it awaits nothing
        coroutine.send(None)
    return list(result.rows)


DIGITS = st.integers(-(10**20), 10**20).map(str)
DATES = st.dates().map(str) | st.from_regex(r"\d{4}-\d\d-\d\d", fullmatch=True)
TIMES = st.from_regex(r"-?\d{2,3}:\d\d:\d\d(\.\d{1,6})?", fullmatch=True)
LOOSE = st.text("0123456789-+:. eT_naif", max_size=12)
TEXTS: dict[int, st.SearchStrategy[str]] = {
    **dict.fromkeys((1, 2, 3, 8, 9, 13), DIGITS | LOOSE),
    **dict.fromkeys(
        (4, 5), st.floats().map(repr) | st.decimals(allow_nan=False).map(str) | DIGITS | LOOSE
    ),
    **dict.fromkeys((0, 246), st.decimals().map(str) | DIGITS),
    10: DATES | LOOSE,
    **dict.fromkeys(
        (7, 12),
        st.datetimes().map(str)
        | st.tuples(DATES, st.sampled_from(" T"), TIMES).map("".join)
        | DATES
        | LOOSE,
    ),
    11: TIMES | LOOSE,
    **dict.fromkeys((6, 14, 15, 16, 245, 247, 248, 249, 250, 251, 252, 253, 254, 255), st.text()),
}


@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_values_are_those_of_aiomysql(
    both: tuple[ModuleType, ModuleType], data: st.DataObject
) -> None:
    type_code = data.draw(st.sampled_from(sorted(TEXTS)))
    charset = data.draw(st.sampled_from([TEXT, BINARY]))
    text = data.draw(TEXTS[type_code]).encode()
    use_unicode = data.draw(st.sampled_from([True, True, True, False]))
    payloads = result([("x", type_code, charset)], [row(text)])
    seen = []
    try:
        seen.append(repr(decode_as_aiomysql(payloads, use_unicode)))
    except Exception as error:
        seen.append(repr(error))
    for module in both:
        read = reader(module, use_unicode=use_unicode)
        try:
            read.feed(packets(payloads))
        except Exception as error:
            seen.append(repr(error))
        else:
            seen.append(repr(read.rows))
    assert seen == [seen[0]] * 3


COLUMNS = {
    "t1": ("TINYINT", st.integers(-128, 127)),
    "t2": ("TINYINT UNSIGNED", st.integers(0, 255)),
    "t3": ("SMALLINT", st.integers(-32768, 32767)),
    "t4": ("MEDIUMINT UNSIGNED", st.integers(0, (1 << 24) - 1)),
    "t5": ("INT(8) ZEROFILL", st.integers(0, (1 << 32) - 1)),
    "t6": ("BIGINT", st.integers(-(1 << 63), (1 << 63) - 1)),
    "t7": ("BIGINT UNSIGNED", st.integers(0, (1 << 64) - 1)),
    "t8": ("BIT(11)", st.integers(0, 2047)),
    "t9": ("FLOAT", st.floats(-1e38, 1e38, allow_nan=False)),
    "t10": ("DOUBLE", st.floats(allow_nan=False, allow_infinity=False)),
    "t11": ("DECIMAL(30,6)", st.decimals(-(10**20), 10**20, places=6)),
    "t12": ("DATE", st.dates().map(str) | st.just("0000-00-00") | st.just("2024-00-00")),
    "t13": ("DATETIME", st.datetimes().map(lambda at: str(at.replace(microsecond=0)))),
    "t14": ("DATETIME(6)", st.datetimes().map(str) | st.just("0000-00-00 00:00:00")),
    "t15": ("DATETIME(2)", st.datetimes(datetime.datetime(1000, 1, 1)).map(str)),
    "t16": (
        "TIMESTAMP(3) NULL",
        st.datetimes(datetime.datetime(1971, 1, 1), datetime.datetime(2037, 1, 1)).map(str),
    ),
    "t17": ("TIME", st.from_regex(r"-?[0-7][0-9]{2}:[0-5][0-9]:[0-5][0-9]", fullmatch=True)),
    "t18": (
        "TIME(6)",
        st.from_regex(r"-?[0-7]?[0-9]{2}:[0-5][0-9]:[0-5][0-9]\.[0-9]{6}", fullmatch=True),
    ),
    "t19": ("YEAR", st.integers(1901, 2155)),
    "t20": ("CHAR(9)", st.text("aä€😀 '\\", max_size=9)),
    "t21": ("VARCHAR(300) CHARACTER SET latin1", st.text("aäß ", max_size=300)),
    "t22": ("BINARY(5)", st.binary(max_size=5)),
    "t23": ("VARBINARY(300)", st.binary(max_size=300)),
    "t24": ("TINYTEXT", st.text("aä€", max_size=50)),
    "t25": ("MEDIUMTEXT", st.text("aä€😀", max_size=300)),
    "t26": ("LONGBLOB", st.binary(max_size=400)),
    "t27": ("JSON", st.sampled_from(['{"a": [1, "ä"]}', "null", "3"])),
    "t28": ("ENUM('one', 'zwölf')", st.sampled_from(["one", "zwölf"])),
    "t29": ("SET('a', 'b', 'ü')", st.sampled_from(["", "a", "a,b", "b,ü"])),
    "t30": ("POINT", st.just("")),
}


def literal(name: str, value: Any) -> str:
    if value is None:
        return "NULL"
    if name == "t30":
        return "ST_GeomFromText('POINT(1.5 -2)')"
    if isinstance(value, float):
        return repr(value)
    return str(pymysql.converters.escape_item(value, "utf8mb4"))


class Servers:
    """Connections of aiomysql's and raw bytes of the same statements."""

    def __init__(self, url: str) -> None:
        parsed = DatabaseURL(url)
        self.runner = asyncio.Runner()
        self.connection = self.runner.run(
            aiomysql.connect(
                host=parsed.hostname or "127.0.0.1",
                port=parsed.port or 3306,
                user=parsed.username,
                password=parsed.password or "",
                db=parsed.database,
                unix_socket=parsed.options.get("unix_socket"),
                charset="utf8mb4",
                autocommit=True,
                init_command="SET sql_mode='ALLOW_INVALID_DATES', time_zone='+00:00'",
            )
        )

    def run(self, sql: str) -> list[Any]:
        async def query() -> list[Any]:
            await self.connection.query(sql)  # no cursor: it would turn warnings into errors
            return list(self.connection._result.rows or ())

        return self.runner.run(query())

    def payloads(self, sql: str) -> bytes:
        """Return the bytes with which the server answers."""

        async def query() -> bytes:
            connection = self.connection
            await connection._execute_command(3, sql)
            received = b""
            ends = 0
            while ends < 2:
                header = await connection._reader.readexactly(4)
                payload = await connection._reader.readexactly(int.from_bytes(header[:3], "little"))
                received += header + payload
                ends += payload[0] == 0xFE and len(payload) < 9
            return received

        return self.runner.run(query())

    def close(self) -> None:
        self.connection.close()
        self.runner.close()


@pytest.fixture
def servers(mysql_url: str) -> Iterator[Servers]:
    found = Servers(mysql_url)
    yield found
    found.close()


def test_every_column_type_of_the_server_is_decoded_as_aiomysql_does(
    servers: Servers, both: tuple[ModuleType, ModuleType]
) -> None:
    table = ", ".join(f"{name} {kind}" for name, (kind, _) in COLUMNS.items())
    servers.run(f"CREATE TEMPORARY TABLE everything ({table}) CHARACTER SET utf8mb4")

    @settings(deadline=None, max_examples=40)
    @given(
        values=st.lists(
            st.fixed_dictionaries({name: st.none() | s for name, (_, s) in COLUMNS.items()}),
            min_size=1,
            max_size=4,
        )
    )
    def check(values: list[dict[str, Any]]) -> None:
        servers.run("DELETE FROM everything")
        lists = [
            "(" + ", ".join(literal(name, each[name]) for name in COLUMNS) + ")" for each in values
        ]
        servers.run("INSERT IGNORE INTO everything VALUES " + ", ".join(lists))
        expected = servers.run("SELECT * FROM everything")
        assert len(expected) == len(values)
        received = servers.payloads("SELECT * FROM everything")
        for module in both:
            read = reader(module)
            assert read.feed(received) == len(received)
            assert repr(read.rows) == repr(expected)

    check()


def test_every_column_type_is_filled(servers: Servers, both: tuple[ModuleType, ModuleType]) -> None:
    # What the property test compares are no NULLs everywhere.
    parts = ["1", "0.1", "1e0", "DATE'2024-01-02'", "TIME'-01:02:03'", "b'101'", "X'00FF'", "'ä'"]
    sql = "SELECT " + ", ".join(parts)
    for module in both:
        read = reader(module)
        read.feed(servers.payloads(sql))
        assert [repr(read.rows)] == [repr(servers.run(sql))]
        assert None not in read.rows[0]


# -- the surface


def public(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


def test_both_forms_have_one_surface(both: tuple[ModuleType, ModuleType]) -> None:
    compiled, pure = (module.ResultReader for module in both)
    assert inspect.getdoc(compiled) == inspect.getdoc(pure)
    attributes = [set(public(kind)) for kind in (compiled, pure)]
    made = reader(both[1])
    shown = {name for name in vars(made) if not name.startswith("_")}
    assert attributes[0] | shown == attributes[1] | shown
    for name in shown:
        assert hasattr(reader(both[0]), name)
    for name in ("feed", "take"):
        functions = [getattr(kind, name) for kind in (compiled, pure)]
        assert inspect.getdoc(functions[0]) == inspect.getdoc(functions[1])
        parameters = [
            [(p.name, p.kind, p.default) for p in [*inspect.signature(f).parameters.values()][1:]]
            for f in functions
        ]
        assert parameters[0] == parameters[1]


def test_it_can_be_subclassed(rows: ModuleType) -> None:
    kind: Callable[..., Any] = type("Result", (rows.ResultReader,), {"extra": 1})
    read = kind(1, "utf8", True, DECODERS, KNOWN)
    read.feed(packets(result([("x", 3, BINARY)], [row(b"1")])))
    assert (read.rows, read.extra) == ([(1,)], 1)
