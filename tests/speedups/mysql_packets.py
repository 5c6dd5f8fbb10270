"""Packets of MySQL's text protocol, made by hand."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import pymysql.converters

KNOWN = (
    (pymysql.converters.through, "as is"),
    (int, "int"),
    (float, "float"),
    (pymysql.converters.convert_datetime, "datetime"),
    (pymysql.converters.convert_date, "date"),
    (pymysql.converters.convert_timedelta, "time"),
)
DECODERS = pymysql.converters.decoders

Column = tuple[str, int, int]  # name, type, charset

FULL = 0xFFFFFF


def number(value: int) -> bytes:
    """Return a length-encoded number."""
    if value < 0xFB:
        return bytes([value])
    for first, size in ((0xFC, 2), (0xFD, 3), (0xFE, 8)):
        if value < 1 << 8 * size:
            return bytes([first]) + value.to_bytes(size, "little")
    raise ValueError(value)


def string(text: bytes | None) -> bytes:
    return b"\xfb" if text is None else number(len(text)) + text


def row(*values: bytes | None) -> bytes:
    return b"".join(map(string, values))


def definition(name: str, type_code: int = 253, charset: int = 45) -> bytes:
    texts = b"".join(map(string, [b"def", b"db", b"t", b"t", name.encode(), name.encode()]))
    return texts + b"\x0c" + struct.pack("<HIBHBxx", charset, 11, type_code, 0, 0)


def ok(affected: int = 0, key: int = 0, status: int = 2, warnings: int = 0) -> bytes:
    return b"\0" + number(affected) + number(key) + struct.pack("<HH", status, warnings)


def eof(status: int = 2, warnings: int = 0) -> bytes:
    return b"\xfe" + struct.pack("<HH", warnings, status)


def error(code: int = 1064, text: str = "wrong") -> bytes:
    return b"\xff" + struct.pack("<H", code) + b"#42000" + text.encode()


def packets(payloads: Iterable[bytes], sequence: int = 1) -> bytes:
    """Return payloads as they go over the wire, long ones in several packets."""
    parts = []
    for payload in payloads:
        for start in range(0, len(payload) + 1, FULL):
            part = payload[start : start + FULL]
            parts.append(len(part).to_bytes(3, "little") + bytes([sequence & 0xFF]) + part)
            sequence += 1
    return b"".join(parts)


def head(columns: Sequence[Column]) -> list[bytes]:
    """Return the payloads before the rows."""
    return [number(len(columns)), *(definition(*column) for column in columns), eof(0)]


def result(columns: Sequence[Column], rows: Iterable[bytes], *, status: int = 2) -> list[bytes]:
    """Return the payloads of a result."""
    return [*head(columns), *rows, eof(status)]
