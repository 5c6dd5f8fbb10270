"""SQLAlchemy's PostgreSQL dialect, fitted to the values that asyncpg takes and gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy import types
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import json as postgresql_json
from sqlalchemy.dialects.postgresql import ranges
from sqlalchemy.dialects.postgresql.base import PGDialect

from fastdb.compiler import postgresql_statement_compiler
from fastdb.compiler_converters import json_converter
from fastdb.drivers.postgresql_raw import EncodedText

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

    from fastdb.compiler_converters import HasCodecs

__all__ = ["make_dialect", "set_version", "synchronous_parts"]

Process = Callable[[Any], Any]

#: SQLAlchemy 2.1 has a class for bit strings; before, they are plain strings.
_BitString: Process = getattr(postgresql, "BitString", str)


def make_dialect(server_version: tuple[int, ...], codecs: HasCodecs) -> Dialect:
    """Return a dialect for a server of that version (the newest, where none is known yet).

    Args:
        server_version: Major, minor and patch number.
        codecs: Says which types have a codec of the user's, whose values are left as they are.
    """
    dialect = FastdbDialect(codecs)
    set_version(dialect, server_version or (18,))
    return dialect


def set_version(dialect: Dialect, version: tuple[int, ...]) -> None:
    """Set what SQLAlchemy sets with the first connection of an engine."""
    settings = {
        "server_version_info": version,
        "supports_smallserial": version >= (9, 2),
        "supports_identity_columns": version >= (10,),
        "supports_virtual_generated_columns": version >= (18,),
        "_supports_drop_index_concurrently": version >= (9, 2),
        "_supports_jsonb_subscripting": version >= (14,),
        "_backslash_escapes": False,
        "default_schema_name": "public",
    }
    for name, value in settings.items():
        setattr(dialect, name, value)


def serialize(value: Any) -> str:
    """Return a value as JSON, which the user's codec is not to encode again."""
    return EncodedText(json.dumps(value))


class _Codecs:
    """Mixed into types whose values the user's codec may have decoded already."""

    typename: str

    def is_decoded(self, dialect: Any) -> bool:
        return any(typename == self.typename for typename, _ in dialect.codecs.codecs)


class _DecodedOnce(_Codecs):
    def result_processor(self, dialect: Any, coltype: object) -> Process | None:
        decode = super().result_processor(dialect, coltype)  # type: ignore[misc]
        return lambda value: (
            decode(value) if type(value) is str and not self.is_decoded(dialect) else value
        )


class _ReadOnce(_DecodedOnce):
    def result_processor(self, dialect: Any, coltype: object) -> Process | None:
        read = super().result_processor(dialect, coltype)
        return None if read is None else json_converter(self, dialect, read, dialect.codecs)


class JSON(_ReadOnce, postgresql.JSON[Any]):
    """JSON that is decoded once, by the type or by the user's codec."""

    typename = "json"


class JSONB(_ReadOnce, postgresql.JSONB[Any]):
    """JSONB that is decoded once, by the type or by the user's codec."""

    typename = "jsonb"


class _HSTORE(_DecodedOnce, postgresql.HSTORE):
    typename = "hstore"

    def bind_processor(self, dialect: Any) -> Process:
        encode = super().bind_processor(dialect)
        return lambda value: value if self.is_decoded(dialect) else encode(value)


class _JSONPath(postgresql_json.JSONPathType):
    """A path of keys: an array of text for asyncpg."""

    def bind_processor(self, dialect: Any) -> Process:
        return lambda value: value if isinstance(value, str) else [str(key) for key in value or ()]


class _Bit(postgresql.BIT):
    def bind_processor(self, dialect: Any) -> Process:
        def encode(value: Any) -> Any:
            if not isinstance(value, str):
                return value
            return asyncpg.BitString(str(value))

        return encode

    def result_processor(self, dialect: Any, coltype: object) -> Process:
        def decode(value: Any) -> Any:
            if value is None:
                return None
            return _BitString(f"{value.to_int():0{len(value)}b}" if len(value) else "")

        return decode


def _encoded_range(value: Any) -> Any:
    if not isinstance(value, ranges.Range):
        return value
    lower_inc, upper_inc = value.bounds[0] == "[", value.bounds[1] == "]"
    return asyncpg.Range(
        value.lower, value.upper, lower_inc=lower_inc, upper_inc=upper_inc, empty=value.empty
    )


def _decoded_range(value: Any) -> Any:
    if value is None:
        return None
    if value.isempty:
        return ranges.Range(empty=True)
    bounds: Any = ("[" if value.lower_inc else "(") + ("]" if value.upper_inc else ")")
    return ranges.Range(value.lower, value.upper, bounds=bounds)


class _Range(ranges.AbstractSingleRangeImpl[Any]):
    def bind_processor(self, dialect: Any) -> Process:
        return _encoded_range

    def result_processor(self, dialect: Any, coltype: object) -> Process:
        return _decoded_range


class _MultiRange(ranges.AbstractMultiRangeImpl[Any]):
    def bind_processor(self, dialect: Any) -> Process:
        def encode(value: Any) -> Any:
            if value is None or isinstance(value, str):
                return value
            return [_encoded_range(each) for each in value]

        return encode

    def result_processor(self, dialect: Any, coltype: object) -> Process:
        def decode(value: Any) -> Any:
            return None if value is None else ranges.MultiRange(map(_decoded_range, value))

        return decode


class FastdbDialect(PGDialect):
    """Compile for ``$1`` parameters, with the types of values that asyncpg uses."""

    supports_statement_cache = True
    supports_native_decimal = True  # asyncpg takes and gives decimals
    statement_compiler = postgresql_statement_compiler()
    colspecs = {  # noqa: RUF012
        **PGDialect.colspecs,
        types.JSON: JSON,
        postgresql.JSON: JSON,
        postgresql.JSONB: JSONB,
        types.JSON.JSONPathType: _JSONPath,
        postgresql.HSTORE: _HSTORE,
        postgresql.BIT: _Bit,
        ranges.AbstractSingleRange: _Range,
        ranges.AbstractMultiRange: _MultiRange,
    }

    def __init__(self, codecs: HasCodecs) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            paramstyle="numeric_dollar", json_serializer=serialize
        )
        self.codecs = codecs


def synchronous_parts(base: Any) -> dict[str, Any]:
    """Return what differs in SQLAlchemy's dialect for asyncpg over connections of fastdb's.

    It sets codecs for JSON on each new connection, which would outlast its use there, so here the
    types do that work. And its adapter begins transactions itself, which is fastdb's to do.

    Args:
        base: SQLAlchemy's dialect.
    """

    class CastJSON(JSON):
        render_bind_cast = True

    class CastJSONB(JSONB):
        render_bind_cast = True

    def __init__(self: Any, **arguments: Any) -> None:
        base.__init__(self, json_serializer=serialize, **arguments)

    def connect(dbapi_connection: Any) -> None:
        dbapi_connection.isolation_level = "autocommit"

    specs = {types.JSON: CastJSON, postgresql.JSON: CastJSON, postgresql.JSONB: CastJSONB}
    return {
        "__init__": __init__,
        "on_connect": lambda self: connect,
        "colspecs": base.colspecs | specs,
        "supports_native_json_serialization": False,
        "supports_native_json_deserialization": False,
    }
