"""Tell expressions apart that SQLAlchemy compiles to different SQL, and no others.

Imported when the first expression comes; only then, as SQLAlchemy is imported with it.
"""

from __future__ import annotations

from inspect import getattr_static
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import Table
from sqlalchemy.sql.cache_key import CacheKey
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.elements import BindParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "Fingerprint",
    "Traversal",
    "cache_key_of",
    "check_walk",
    "fingerprint",
    "simple_types",
    "traversal_of",
    "type_token",
]


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


_INSERTS = frozenset((Insert, mysql.Insert, postgresql.Insert, sqlite.Insert))

#: Elements inside each other of which a fingerprint is taken. What SQLAlchemy does with them is
#: recursive, compiled in part: it would overflow the C stack.
DEEPEST = 200


def fingerprint(query: Any) -> Fingerprint | None:
    """Return the fingerprint of an expression, or None where there is none to rely on."""
    if type(query) in _INSERTS and len(query.__dict__) == 1:
        # It has a table and nothing else.
        return Fingerprint((type(query), query.table), (), None, cache_key_of([]))
    generate = getattr(query, "_generate_cache_key", None)
    if generate is None:
        return None
    types = _telling_types(query)
    if types is None:
        return None
    cache_key = generate()
    if cache_key is None:
        return None
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


def _telling_types(query: Any) -> tuple[Any, ...] | None:
    """Return the types and names of an expression that SQLAlchemy's key does not tell apart.

    None stands for an expression that is nested too deep.

    Its key of a type is made of the constructor's arguments; variants and whatever else an object
    carries are not in it. Types of a few well-known classes without variants are described in full
    by it, and a Table's columns by the Table's identity; any other type stands for itself.
    """
    found: list[Any] = []
    visited = depth = 0
    level = [query]
    # What SQLAlchemy's visitors do, but for the elements that have nothing below them.
    while level:
        if depth > DEEPEST:
            return None
        depth += 1
        below: list[Any] = []
        for element in level:
            if type(element) is Table:
                continue
            attributes = element.__dict__
            visited += 1
            type_ = attributes.get("type")
            if type_ is not None:
                if isinstance(attributes.get("table"), Table):
                    continue
                _collect_types(type_, found)
                if type(element) is BindParameter:
                    continue
            # Of two equal names one may be quoted whatever it is.
            for name in (attributes.get("name"), attributes.get("schema")):
                if name is not None and type(name) is not str:
                    quote = getattr(name, "quote", None)
                    if quote is not None:
                        found.append((visited, quote))
            valued = attributes.get("_tableval_type")
            if valued is not None:
                for column in valued._elements:
                    _collect_types(column.type, found)
            below.extend(element.get_children())
        level = below
    return tuple(found)


_simple_types: frozenset[type] | None = None


def _collect_types(type_: Any, found: list[Any]) -> None:
    if type(type_) in simple_types() and not type_._variant_mapping:
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


def simple_types() -> frozenset[type]:
    """Return the classes of types whose arguments tell all, where they have no variants."""
    global _simple_types
    if _simple_types is not None:
        return _simple_types
    from sqlalchemy import types

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
        if hasattr(postgresql, name):  # pragma: no branch: SQLAlchemy 2.0 lacks some
            found.add(getattr(postgresql, name))
    # Not SQLite's DATETIME, DATE and TIME: their formats are in no key.
    found |= {mysql.DATETIME, mysql.TIME, mysql.JSON, sqlite.JSON}
    found = {each for each in found if isinstance(each, type)}
    _simple_types = frozenset(found)
    return _simple_types


# -- the compiled walk, which makes a key of its own several times faster

#: What a walk does with an attribute of an element, by the name of SQLAlchemy's symbol for it.
ELEMENT, ELEMENTS, PLAIN, TYPE, NAME, EMPTY, JOINS, VALUES, PREFIXES, TUPLES, NAMED, OPTIONS = (
    range(12)
)
_CODES = {
    "dp_clauseelement": ELEMENT,
    "dp_has_cache_key": ELEMENT,
    "dp_clauseelement_list": ELEMENTS,
    "dp_clauseelement_tuple": ELEMENTS,
    "dp_string": PLAIN,
    "dp_boolean": PLAIN,
    "dp_operator": PLAIN,
    "dp_plain_obj": PLAIN,
    "dp_type": TYPE,
    "dp_anon_name": NAME,
    "dp_setup_join_tuple": JOINS,
    "dp_dml_values": VALUES,
    "dp_prefix_sequence": PREFIXES,
    "dp_clauseelement_tuples": TUPLES,
    "dp_string_clauseelement_dict": NAMED,
    "dp_plain_dict": OPTIONS,
}
# Classes whose SQL is described in full by the attributes that they let be traversed.
_WALKED = {
    "elements": "AsBoolean BinaryExpression BooleanClauseList Case Cast ClauseList "
    "CollationClause CollectionAggregate ColumnClause ElementList ExpressionClauseList Extract "
    "False_ FrameClause FunctionFilter Grouping Label Null OrderByList Over TextClause True_ Tuple "
    "TypeClause TypeCoerce UnaryExpression _label_reference _textual_label_reference",
    "selectable": "Alias CTE CompoundSelect Exists ForUpdateArg FromGrouping Join Lateral "
    "ScalarSelect Select SelectStatementGrouping Subquery",
    "dml": "Delete Insert Update",
    "schema": "Column",
}


_SOURCES = {"_correlate_mode": ("_auto_correlate", "_correlate", "_correlate_except")}
_STORED_ELSEWHERE = (property, MemberDescriptorType)


class Traversal(NamedTuple):
    """How to walk over the elements of one class.

    Attributes:
        codes: What to do with each attribute, by its name.
        computed: The attributes that are no entries of an element's ``__dict__``, each with the
            entries without which it is the same for all elements of the class, where known.
    """

    codes: dict[str, int]
    computed: tuple[tuple[str, tuple[str, ...]], ...]


def traversal_of(element_class: type) -> Traversal | None:
    """Return how to walk over the elements of a class, or None where its SQL may hide more."""
    module, _, name = element_class.__module__.rpartition(".")
    if module != "sqlalchemy.sql":
        return None
    if name != "functions" and element_class.__name__ not in _WALKED.get(name, "").split():
        return None
    symbols = getattr(element_class, "_cache_key_traversal", None)
    if not isinstance(symbols, list | tuple):
        symbols = getattr(element_class, "_traverse_internals", None)
    if symbols is None or not hasattr(
        element_class, "__dict__"
    ):  # pragma: no cover: other SQLAlchemy
        return None
    if any(
        "_gen_cache_key" in base.__dict__ and not base.__name__.endswith("HasCacheKey")
        for base in element_class.__mro__
    ):
        return None  # pragma: no cover: none of those that are walked, in other SQLAlchemy
    codes = {attribute: _CODES.get(symbol.name, EMPTY) for attribute, symbol in symbols}
    # A type that SQLAlchemy takes for derived from the rest is told all the same.
    codes.setdefault("type", TYPE)
    # A memoized attribute that nobody asked for is derived from the others.
    computed = tuple(
        (attribute, _SOURCES.get(attribute, ()))
        for attribute in codes
        if isinstance(getattr_static(element_class, attribute, None), _STORED_ELSEWHERE)
    )
    return Traversal(codes, computed)


def type_token(type_: Any) -> Any:
    """Return what tells a type from every other that SQLAlchemy treats differently."""
    found: list[Any] = []
    _collect_types(type_, found)
    if not found:
        return type_._static_cache_key
    return type_ if found[0] is type_ else (type_._static_cache_key, *found)


def cache_key_of(binds: list[Any]) -> Any:
    """Return a key for SQLAlchemy's compiler, which wants to know the binds in their order."""
    make: Any = CacheKey
    return make(("fastdb",), binds, *([None] * (len(CacheKey._fields) - 2)))


def check_walk(walk: Callable[[Any], tuple[Any, list[Any]] | None]) -> str | None:
    """Return what is wrong with a walk under the SQLAlchemy that is installed, or None.

    Versions of SQLAlchemy have renamed and regrouped what a walk reads; it then finds every
    expression different, or two different ones equal.
    """
    from sqlalchemy import Column, Integer, MetaData, String, Table, select, update

    table = Table("t", MetaData(), Column("a", Integer), Column("b", String))

    def query(first: int, second: str) -> Any:
        return (
            select(table.c.a)
            .where(table.c.a == first, table.c.b != second)
            .order_by(table.c.b.desc())
            .limit(first)
        )

    one, two = walk(query(1, "x")), walk(query(2, "y"))
    if one is None or two is None:
        return "an ordinary select() is not understood"
    if one[0] != two[0]:
        return "two equal expressions are taken for different ones"
    if [bind.value for bind in two[1]] != [2, "y", 2] and sorted(
        str(bind.value) for bind in two[1]
    ) != ["2", "2", "y"]:
        return "the values of an expression are not found"
    base = select(table.c.a).where(table.c.a == 1)
    other = table.alias()
    different = [
        base,
        select(table.c.a).where(table.c.a > 1),
        select(table.c.b).where(table.c.a == 1),
        base.where(table.c.b == "x"),
        base.order_by(table.c.a),
        base.order_by(table.c.a.desc()),
        base.group_by(table.c.a),
        base.having(table.c.a == 1),
        base.distinct(),
        base.limit(1),
        base.offset(1),
        base.with_for_update(),
        base.join(table.alias(), table.c.a == 1),
        base.correlate(None),
        base.correlate(table),
        base.correlate(other),
        base.correlate_except(),
        base.correlate_except(table),
        update(table).where(table.c.a == 1).values(a=1),
        update(table).where(table.c.a == 1).values(b="x"),
    ]
    keys = [found[0] for found in map(walk, different) if found is not None]
    if len(set(keys)) != len(keys):
        return "two different expressions are taken for equal ones"
    return None
