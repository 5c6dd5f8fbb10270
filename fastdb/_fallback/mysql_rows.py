"""Read results of MySQL's text protocol in plain Python: many packets a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from sys import modules
from typing import Any, Final

from fastdb._fallback.records import RecordLayout
from fastdb.exceptions import InterfaceError, InternalError

__all__ = ["ResultReader"]

_FULL_PACKET = 0xFFFFFF  # another packet continues this one
_OK, _FILE, _EOF, _ERROR = 0x00, 0xFB, 0xFE, 0xFF  # packets by their first bytes
_MORE_RESULTS = 0x0008
_BINARY_CHARSET = 63
_JSON = 245
_MOST_COLUMNS = 0xFFFF  # servers stop at 4096
_LONG = 100
_SIZES = {0xFC: 2, 0xFD: 3, 0xFE: 8}

_FIRST, _DEFINITIONS, _DEFINITIONS_END, _ROWS, _ENDED = range(5)

_KINDS = frozenset(("as is", "int", "float", "datetime", "date", "time"))
# BIT, BLOB and its sizes, STRING, VAR_STRING, VARCHAR, GEOMETRY
_TEXT_TYPES = frozenset((15, 16, 249, 250, 251, 252, 253, 254, 255))


def _unreadable(what: str) -> InternalError:
    return InternalError(f"the server's answer cannot be read: {what}")


def _read_number(packet: bytes, position: int) -> tuple[int | None, int]:
    """Read a number of 1, 3, 4 or 9 bytes, None for NULL; return where the next thing begins."""
    if position >= len(packet):
        raise _unreadable("a packet ends before its last value")
    first = packet[position]
    position += 1
    if first < 0xFB:
        return first, position
    if first == 0xFB:
        return None, position
    if first == 0xFF:
        raise _unreadable("a length begins with the byte 255")
    end = position + _SIZES[first]
    if end > len(packet):
        raise _unreadable("a packet ends inside a length")
    return int.from_bytes(packet[position:end], "little"), end


def _read_count(packet: bytes, position: int) -> tuple[int, int]:
    number, position = _read_number(packet, position)
    if number is None:
        raise _unreadable("NULL stands where a number must")
    return number, position


def _read_string(packet: bytes, position: int) -> tuple[bytes | None, int]:
    length, position = _read_number(packet, position)
    if length is None:
        return None, position
    left = len(packet) - position
    if length > left:
        raise _unreadable(f"a value has {length} bytes; its packet has {left} left")
    return packet[position : position + length], position + length


def _boolean_of(integer: Callable[[Any], Any] | None) -> Callable[[Any], bool]:
    assert integer is not None
    return lambda text: bool(integer(text))


class ResultReader:
    """Read one result of a statement out of the bytes of a connection.

    Bytes come through :meth:`feed`, in pieces of any size. A result is the server's OK, its error,
    its wish for a local file, or a head (the columns) with rows and their end.

    Args:
        sequence: The number that the next packet must have.
        encoding: The codec of the connection's charset.
        use_unicode: Whether texts are decoded; otherwise values come from bytes.
        decoders: The converter for each type of column, as PyMySQL's ``decoders``.
        known: Pairs of a converter that need not be called and its kind: "int", "float",
            "datetime", "date", "time" or "as is".
        layouts: Returns the layout for the names of the columns. Rows become its records, unless
            it has converters of which more is to be known than that they are SQLAlchemy's for
            booleans and floats, or raises an error: then they stay tuples.
        limit: The number of rows to take, further ones are dropped; -1 takes all.

    Attributes:
        sequence: The number that the next packet must have.
        missing: How many bytes more, at least, :meth:`feed` can use; 0 where it has done its task.
        ended: Whether the result has ended, in one way or another.
        names: The columns' names; None before they are known, or where there are none.
        rows: The rows that were read and not taken, tuples or records.
        makes_records: Whether the rows are records.
        error: The server's error packet, or None.
        wants_file: Whether the server asks for a file of the client's.
        lost: Whether a packet had the number 0: servers that shut down say so out of turn.
        affected_rows: Of the OK packet.
        insert_id: Of the OK packet.
        message: Of the OK packet.
        server_status: The flags in the last packet, None before there are any.
        warning_count: The number of warnings in the last packet.
        has_next: Whether another result follows.
    """

    def __init__(
        self,
        sequence: int,
        encoding: str,
        use_unicode: bool,
        decoders: Mapping[int, Callable[[Any], Any]],
        known: tuple[tuple[Callable[[Any], Any], str], ...],
        layouts: Callable[[tuple[str, ...]], Any] | None = None,
        limit: int = -1,
    ) -> None:
        self.sequence = sequence & 0xFF
        self.missing = 0
        self.names: tuple[str, ...] | None = None
        self.rows: list[Any] = []
        self.makes_records = False
        self.error: bytes | None = None
        self.wants_file = False
        self.lost = False
        self.affected_rows: int | None = None
        self.insert_id: int | None = None
        self.message: bytes | None = None
        self.server_status: int | None = None
        self.warning_count = 0
        self.has_next = False
        self._state = _FIRST
        self._feeding = False
        self._encoding = encoding
        self._use_unicode = use_unicode
        self._decoders = decoders
        self._known: Final = known
        self._layouts = layouts
        self._layout: RecordLayout | None = None
        self._limit = limit
        self._parts: list[bytes] = []
        self._names: list[str] = []
        self._columns: list[tuple[str | None, Callable[[Any], Any] | None]] = []
        self._kinds: list[str] = []
        self._count = 0

    @property
    def ended(self) -> bool:
        return self._state == _ENDED

    def feed(self, data: bytes, position: int = 0, size: int = -1) -> int:
        """Read packets out of `data` from `position` on; return the position of the first unread.

        Stops at the end of the result, where `data` ends inside a packet (then `missing` says how
        much of it is not there), and with `size` rows or more in `rows`: 0 reads the head only, -1
        everything.

        Raises:
            InternalError: This is no answer; whatever follows cannot be trusted.
        """
        if not 0 <= position <= len(data):
            raise InterfaceError(
                f"position {position} is out of range; the data has {len(data)} bytes"
            )
        if self._feeding:
            raise InterfaceError("feed() is running already")
        self._feeding = True
        try:
            return self._read(data, position, size)
        finally:
            self._feeding = False

    def take(self) -> list[Any]:
        """Return the rows that were read since the last time."""
        rows, self.rows = self.rows, []
        # A list that has grown has room for an eighth more, which a long one gives back.
        return rows if len(rows) < _LONG else rows[:]

    def _read(self, data: bytes, position: int, size: int) -> int:
        end = len(data)
        self.missing = 0
        while self._state != _ENDED:
            if self._state == _ROWS and 0 <= size <= len(self.rows):
                break
            left = end - position
            if left < 4:
                self.missing = 4 - left
                break
            length = data[position] | data[position + 1] << 8 | data[position + 2] << 16
            number = data[position + 3]
            if number != self.sequence:
                self.lost = number == 0
                raise _unreadable(f"a packet has the number {number} instead of {self.sequence}")
            if left - 4 < length:
                self.missing = length - (left - 4)
                break
            packet = data[position + 4 : position + 4 + length]
            position += 4 + length
            self.sequence = (self.sequence + 1) & 0xFF
            if length == _FULL_PACKET or self._parts:
                self._parts.append(packet)
                if length == _FULL_PACKET:
                    continue
                packet = b"".join(self._parts)
                self._parts = []
            self._read_packet(packet)
        return position

    def _read_packet(self, packet: bytes) -> None:
        if not packet:
            raise _unreadable("a packet is empty")
        first = packet[0]
        if first == _ERROR:
            self.error = packet
            self._state = _ENDED
        elif self._state == _ROWS:
            # A row can begin with the same byte, but is longer then.
            if first == _EOF and len(packet) < 9:
                if len(packet) < 5:
                    raise _unreadable("the end of a result has no status")
                self.warning_count = int.from_bytes(packet[1:3], "little")
                self._note_status(packet, 3)
                self._state = _ENDED
            elif self._limit:
                if self._limit > 0:
                    self._limit -= 1
                self._read_row(packet)
        elif self._state == _DEFINITIONS:
            self._read_definition(packet)
            if len(self._names) == self._count:
                self._state = _DEFINITIONS_END
        elif self._state == _DEFINITIONS_END:
            if first != _EOF or len(packet) >= 9:
                raise _unreadable("more columns come than were announced")
            self._begin_rows()
        elif first == _OK and len(packet) >= 7:
            self._read_ok(packet)
            self._state = _ENDED
        elif first == _FILE:
            self.wants_file = True
            self._state = _ENDED
        else:
            self._read_head(packet)

    def _read_ok(self, packet: bytes) -> None:
        self.affected_rows, position = _read_count(packet, 1)
        self.insert_id, position = _read_count(packet, position)
        if len(packet) - position < 4:
            raise _unreadable("the OK packet ends before its status")
        self._note_status(packet, position)
        self.warning_count = int.from_bytes(packet[position + 2 : position + 4], "little")
        self.message = packet[position + 4 :]

    def _note_status(self, packet: bytes, position: int) -> None:
        self.server_status = int.from_bytes(packet[position : position + 2], "little")
        self.has_next = bool(self.server_status & _MORE_RESULTS)

    def _read_head(self, packet: bytes) -> None:
        count, position = _read_count(packet, 0)
        if not 0 < count <= _MOST_COLUMNS:
            raise _unreadable(f"a result has {count} columns")
        if position != len(packet):
            raise _unreadable("something follows the number of columns")
        self._count = count
        self._state = _DEFINITIONS

    def _read_definition(self, packet: bytes) -> None:
        position = 0
        for _ in range(4):  # catalog, database, table's alias and name
            _, position = _read_string(packet, position)
        name, position = _read_string(packet, position)
        if name is None:
            raise _unreadable("a column has no name")
        _, position = _read_string(packet, position)  # the name in its table
        if len(packet) - position < 13:
            raise _unreadable("the definition of a column is too short")
        # a length, the charset, the column's length, its type, its flags, its decimals, a filler
        charset = int.from_bytes(packet[position + 1 : position + 3], "little")
        self._add_column(name.decode(self._encoding), packet[position + 7], charset)

    def _add_column(self, name: str, type_code: int, charset: int) -> None:
        encoding: str | None = None
        if self._use_unicode:
            if type_code == _JSON or (type_code in _TEXT_TYPES and charset != _BINARY_CHARSET):
                encoding = self._encoding
            elif type_code not in _TEXT_TYPES:
                encoding = "ascii"
        converter = self._decoders.get(type_code)
        found = ""
        for known, kind in self._known:
            if known is converter:
                if kind not in _KINDS:
                    raise KeyError(kind)
                if kind == "as is":
                    converter = None
                elif encoding == "ascii":
                    found = kind
                break
        self._kinds.append(found)
        self._names.append(name)
        self._columns.append((encoding, converter))

    def _begin_rows(self) -> None:
        self.names = tuple(self._names)
        self._state = _ROWS
        if self._layouts is None:
            return
        try:
            layout = self._layouts(self.names)
        except Exception:
            return  # whoever makes records of the tuples asks again, and is told
        if (
            type(layout) is RecordLayout
            and len(layout.names) == self._count
            and self._can_convert(layout)
        ):
            self._layout = layout
            self.makes_records = True

    def _can_convert(self, layout: RecordLayout) -> bool:
        """Take over what the layout's converters do, if that is known and cannot fail."""
        # Where a converter is SQLAlchemy's, someone has imported it; this module never does.
        processors = modules.get("sqlalchemy.engine.processors")
        booleans: list[int] = []
        for position, converter in layout._converters:
            kind = self._kinds[position]
            if kind == "int" and converter is getattr(processors, "int_to_boolean", None):
                booleans.append(position)
            elif kind != "float" or converter is not getattr(processors, "to_float", None):
                return False
        for position in booleans:
            encoding, integer = self._columns[position]
            self._columns[position] = encoding, _boolean_of(integer)
        return True

    def _read_row(self, packet: bytes) -> None:
        values: list[Any] = []
        position, end = 0, len(packet)
        for encoding, converter in self._columns:
            # The common length is of one byte: its own code here halves the time of a value.
            if position < end and (length := packet[position]) < 0xFB:
                position += 1
                if length > end - position:
                    raise _unreadable(
                        f"a value has {length} bytes; its packet has {end - position} left"
                    )
                value: Any = packet[position : position + length]
                position += length
            else:
                value, position = _read_string(packet, position)
            if value is not None:
                if encoding is not None:
                    value = value.decode(encoding)
                if converter is not None:
                    value = converter(value)
            values.append(value)
        if position != end:
            raise _unreadable("a row has more values than columns")
        row = tuple(values)
        self.rows.append(row if self._layout is None else self._layout._make(row))
