"""Tell expressions apart that SQLAlchemy compiles to different SQL, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Fingerprint", "fingerprint"]


class Fingerprint(NamedTuple):
    """What two expressions of the same SQL have in common.

    Attributes:
        key: Hashable; it holds a reference to whatever it names.
        binds: The expression's binds, in the same order for the same key.
        collected: The values that the expression itself carries by name.
        cache_key: SQLAlchemy's own key.
    """

    key: Any
    binds: Sequence[Any]
    collected: Mapping[str, Any] | None
    cache_key: Any


def fingerprint(query: Any) -> Fingerprint | None:
    """Return the fingerprint of an expression, or None where there is none to rely on."""
    generate = getattr(query, "_generate_cache_key", None)
    if generate is None:
        return None
    cache_key = generate()
    if cache_key is None:
        return None
    types = _telling_types(query)
    schemas = query.get_execution_options().get("schema_translate_map")
    # SQLAlchemy's key does not tell these of a bind, though the SQL or the binding differs.
    flags = tuple(
        [
            (bind.expanding, bind.required, bind.unique, bind.value is None)
            for bind in cache_key.bindparams
        ]
    )
    key = (
        cache_key.key,
        flags,
        types,
        tuple(sorted(schemas.items(), key=repr)) if schemas else None,
    )
    collected = getattr(cache_key, "params", None)
    return Fingerprint(key, cache_key.bindparams, collected or None, cache_key)


def _telling_types(query: Any) -> tuple[Any, ...]:
    """Return the types of an expression that SQLAlchemy's key does not tell apart.

    Its key of a type is made of the constructor's arguments; variants and whatever else an object
    carries are not in it. Types of a few well-known classes without variants are described in full
    by it, and a Table's columns by the Table's identity; any other type stands for itself.
    """
    from sqlalchemy.schema import Table
    from sqlalchemy.sql import visitors

    found: list[Any] = []
    for element in visitors.iterate(query):
        attributes = element.__dict__
        type_ = attributes.get("type")
        if type_ is not None and not isinstance(attributes.get("table"), Table):
            _collect_types(type_, found)
        valued = attributes.get("_tableval_type")
        if valued is not None:
            for column in valued._elements:
                _collect_types(column.type, found)
    return tuple(found)


_simple_types: frozenset[type] | None = None


def _collect_types(type_: Any, found: list[Any]) -> None:
    simple = _simple_types if _simple_types is not None else _load_simple_types()
    if type(type_) in simple and not type_._variant_mapping:
        return
    name = type(type_).__name__
    if type(type_).__module__.startswith("sqlalchemy.") and not type_._variant_mapping:
        if name == "ARRAY":
            _collect_types(type_.item_type, found)
            return
        if name in ("TupleType", "TableValueType"):
            for each in getattr(type_, "types", ()):
                _collect_types(each, found)
            return
    found.append(type_)


def _load_simple_types() -> frozenset[type]:
    global _simple_types
    from sqlalchemy import types
    from sqlalchemy.dialects import mysql, postgresql, sqlite

    names = frozenset(
        {"BIGINT", "BINARY", "BLOB", "BOOLEAN", "BigInteger", "Boolean", "CHAR", "CLOB", "DATE"}
        | {"DATETIME", "DECIMAL", "DOUBLE", "DOUBLE_PRECISION", "Date", "DateTime", "Double"}
        | {"FLOAT", "Float", "INT", "INTEGER", "Integer", "Interval", "JSON", "LargeBinary"}
        | {"NCHAR", "NUMERIC", "NVARCHAR", "NullType", "Numeric", "REAL", "SMALLINT"}
        | {"SmallInteger", "String", "TEXT", "TIME", "TIMESTAMP", "Text", "Time", "UUID"}
        | {"Unicode", "UnicodeText", "Uuid", "VARBINARY", "VARCHAR"}
    )
    found = {getattr(types, name) for name in names if hasattr(types, name)}
    found |= {types.JSON.JSONIndexType, types.JSON.JSONIntIndexType, types.JSON.JSONStrIndexType}
    found |= {types.JSON.JSONPathType}
    names = frozenset(
        {"BIT", "BYTEA", "CIDR", "INET", "INTERVAL", "JSON", "JSONB", "JSONPATH", "MACADDR"}
        | {"MONEY", "OID", "REGCLASS", "REGCONFIG", "TIME", "TIMESTAMP", "TSQUERY", "TSVECTOR"}
    )
    for name in names:
        if hasattr(postgresql, name):
            found.add(getattr(postgresql, name))
    for module in (mysql, sqlite):
        found |= {module.DATETIME, module.TIME, module.JSON}
    found = {each for each in found if isinstance(each, type)}
    _simple_types = frozenset(found)
    return _simple_types
