"""The decoder of MySQL's results: from the bytes of 1,000 rows to tuples, or to records.

The floor is PyMySQL's own reader over the same bytes; for records, with the dicts that its
DictCursor makes of the rows.
"""

from __future__ import annotations

from typing import Any

from benchmarks.operations import Form, Loop, Measure, Operation, statement

SUBJECT = "Rows of MySQL"

ROWS = 1_000
TEXT, BINARY = 45, 63
COLUMNS = [
    ("id", 3, BINARY),
    ("title", 253, TEXT),
    ("score", 3, BINARY),
    ("done", 1, BINARY),
    ("ratio", 5, BINARY),
    ("made", 12, BINARY),
]


def result_bytes() -> bytes:
    """Return a result of the workloads' six columns as it goes over the wire."""
    from benchmarks.tables import values_of
    from tests.speedups.mysql_packets import packets, result, row

    contents = []
    for n in range(ROWS):
        values = {"id": n, **values_of(n)}
        texts = [str(int(value) if value in (True, False) else value) for value in values.values()]
        contents.append(row(*(text.encode() for text in texts)))
    return packets(result(COLUMNS, contents))


def decode(form: Form, layouts: Any = None) -> Loop:
    from tests.speedups.mysql_packets import DECODERS, KNOWN

    code = """
reader = ResultReader(1, "utf8", True, decoders, known, layouts)
reader.feed(data)
reader.rows
"""
    return statement(
        code,
        ResultReader=form.module("mysql_rows").ResultReader,
        decoders=DECODERS,
        known=KNOWN,
        layouts=layouts,
        data=result_bytes(),
    )


def decode_records(form: Form) -> Loop:
    layout = form.module("records").RecordLayout([name for name, *_ in COLUMNS])
    return decode(form, lambda names: layout)


class Received:
    """What PyMySQL's reader asks of its connection: one packet after the other."""

    encoding = "utf8"
    use_unicode = True
    unbuffered_active = False

    def __init__(self, data: bytes) -> None:
        """Begin with the first packet of `data`."""
        from pymysql.converters import decoders
        from pymysql.protocol import MysqlPacket

        self.decoders = decoders
        self._plain = MysqlPacket
        self._data = data
        self._position = 0

    def _read_packet(self, packet_type: Any = None) -> Any:
        start = self._position + 4
        end = start + int.from_bytes(self._data[self._position : start - 1], "little")
        self._position = end
        return (packet_type or self._plain)(self._data[start:end], self.encoding)


def pymysql_rows(form: Form) -> Loop:
    from pymysql.connections import MySQLResult

    code = "result = MySQLResult(Received(data)); result.read(); list(result.rows)"
    return statement(code, MySQLResult=MySQLResult, Received=Received, data=result_bytes())


def pymysql_dicts(form: Form) -> Loop:
    from pymysql.connections import MySQLResult

    code = """
result = MySQLResult(Received(data))
result.read()
names = [field.name for field in result.fields]
[dict(zip(names, row)) for row in result.rows]
"""
    return statement(code, MySQLResult=MySQLResult, Received=Received, data=result_bytes())


OPERATIONS = (
    Operation(
        "decoding a row to a tuple", decode, "PyMySQL's reader", pymysql_rows, turns=1, size=ROWS
    ),
    Operation(
        "decoding a row to a record",
        decode_records,
        "PyMySQL's reader, dicts",
        pymysql_dicts,
        turns=1,
        size=ROWS,
    ),
)


def bench_mysql_rows(operation: Operation, form: str, measure: Measure) -> None:
    measure(SUBJECT, operation, form)
