"""Compile statements of SQLAlchemy's, with the names of the values that they will be given.

Imported when the first expression comes; only then, as SQLAlchemy is imported with it.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.sql import visitors
from sqlalchemy.sql.ddl import BaseDDLElement
from sqlalchemy.sql.dml import Insert, Update
from sqlalchemy.sql.elements import BindParameter, ClauseElement
from sqlalchemy.sql.functions import FunctionElement

from fastdb.compiler_expression import CompiledExpression
from fastdb.compiler_keys import (
    Extras,
    can_return,
    has_key,
    is_expression,
    key_extras,
    needs_server,
    wants_returning,
)
from fastdb.compiler_parts import check_query, check_values, translate, unknown_parameters
from fastdb.exceptions import MissingParameterError, QueryTypeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastdb.sql_text import Lexical

__all__ = ["PLAIN_TYPES", "Adapted", "adapt", "compile_statement"]

#: Types of which no value is an expression.
PLAIN_TYPES = frozenset(
    {str, int, float, bool, bytes, type(None), dict, list, tuple}
    | {datetime.datetime, datetime.date, datetime.time, datetime.timedelta}
    | {decimal.Decimal, uuid.UUID}
)


class Adapted(NamedTuple):
    """A query and its values in the form that the cache works with.

    Attributes:
        query: The statement; where values were expressions, with those inside.
        values: The rest of the values by name, or None.
        keys: For an insert or update the names of `values`, which shape its SQL; otherwise None.
    """

    query: Any
    values: Mapping[str, Any] | None
    keys: tuple[str, ...] | None


def adapt(query: Any, values: Any) -> Adapted:
    """Bring a query and its values into form; see :meth:`fastdb.compiler.Compiler.adapt`."""
    if not isinstance(query, ClauseElement):
        clause = getattr(query, "__clause_element__", None)
        if clause is None:
            check_query(query)
        query = clause() if clause is not None else query
    if isinstance(query, FunctionElement):
        query = query.select()
    elif getattr(query, "_is_lambda_element", False):
        query = query._resolved
    elif not getattr(query, "supports_execution", False):
        raise QueryTypeError(
            f"the query must be SQL text or a statement such as select(), insert() or text(), "
            f"not {type(query).__name__!r}"
        )
    if values is not None and type(values) is not dict:
        check_values(values)
    if not isinstance(query, Insert | Update):
        if not values:
            return Adapted(query, None, None)
        if any(type(key) is not str for key in values):
            values = {_key_name(key): value for key, value in values.items()}
        return Adapted(query, values, None)
    if not values:
        return Adapted(query, None, ())
    expressions: dict[Any, Any] = {}
    plain: dict[str, Any] = {}
    table = query.table
    for key, value in values.items():
        if type(key) is not str:
            home = getattr(key, "table", None)
            name = _key_name(key)
            if home is not None and home is not table:
                expressions[key] = value  # a further table of an UPDATE
                continue
            key = name
        if type(value) not in PLAIN_TYPES and is_expression(value):
            expressions[key] = value
        else:
            plain[key] = value
    if expressions:
        query = _with_values(query, expressions)
    return Adapted(query, plain or None, tuple(plain))


def _with_values(query: Any, values: dict[Any, Any]) -> Any:
    columns = query.table.c
    unknown = [key for key in values if isinstance(key, str) and key not in columns]
    if unknown:
        raise unknown_parameters(unknown, _column_keys(query.table))
    try:
        return query.values(values)
    except Exception as exc:
        translate(exc)


def compile_statement(
    query: Any,
    keys: tuple[str, ...] | None,
    many: bool,
    cache_key: Any,
    dialect: Any,
    lexical: Lexical,
) -> CompiledExpression:
    """Compile a statement; see :meth:`fastdb.compiler.Compiler.compile_expression`."""
    try:
        if isinstance(query, Insert):
            return _compile_insert(query, keys or (), many, cache_key, dialect, lexical)
        column_keys: tuple[str, ...] | None = None
        if isinstance(query, Update):
            query, column_keys, overlap = _split_keys(query, keys or ())
            _check_update(query, column_keys)
            if overlap:
                query, cache_key = _overridden(query, overlap), None
        arguments = _schema_arguments(query)
        if _is_ddl(query):
            compiled: Any = query.compile(dialect=dialect, **arguments)
            extras = Extras()
        else:
            if column_keys is not None:
                arguments["column_keys"] = column_keys
                arguments["for_executemany"] = many
            compiled = query.compile(dialect=dialect, cache_key=cache_key, **arguments)
            extras = Extras(
                frozenset(column_keys or ()),
                bool(compiled.implicit_returning) and not many,
            )
        return CompiledExpression(dialect, compiled, lexical, extras)
    except Exception as exc:
        translate(exc)


def _compile_insert(
    query: Any,
    keys: tuple[str, ...],
    many: bool,
    cache_key: Any,
    dialect: Any,
    lexical: Lexical,
) -> CompiledExpression:
    query, column_keys, overlap = _split_keys(query, keys)
    if overlap:
        query, cache_key = _overridden(query, overlap), None

    arguments = _schema_arguments(query)

    def compiled_as(statement: Any) -> Any:
        return statement.compile(
            dialect=dialect,
            cache_key=cache_key,
            column_keys=column_keys,
            for_executemany=many,
            **arguments,
        )

    compiled = compiled_as(query)
    wanted = frozenset((*column_keys, *overlap))
    if many or not has_key(query):
        # Only for a key that is asked for, SQLAlchemy would run a default of the server's first.
        extras = Extras(wanted, bool(compiled.implicit_returning))
        return CompiledExpression(dialect, compiled, lexical, extras)
    if query._returning:
        extras = key_extras(query, compiled, wanted, dialect, query._returning)
        return CompiledExpression(dialect, compiled, lexical, extras)
    extras = key_extras(query, compiled, wanted, dialect, compiled.implicit_returning or ())
    if needs_server(compiled) or wants_returning(query, extras, dialect):
        if can_return(query, dialect):
            columns = list(query.table.primary_key)
            compiled = compiled_as(query.returning(*columns))
            extras = key_extras(query, compiled, wanted, dialect, columns)
            extras = extras._replace(implicit_returning=True)
        elif needs_server(compiled):
            compiled = compiled_as(query.inline())
            extras = key_extras(query, compiled, wanted, dialect, ())
    return CompiledExpression(dialect, compiled, lexical, extras)


def _key_name(key: Any) -> str:
    if isinstance(key, str):
        return str(key)
    name = getattr(key, "key", None)
    if not isinstance(name, str):
        raise QueryTypeError(
            f"values are keyed by names or columns, not {type(key).__name__!r}: {key!r}"
        )
    return name


def _schema_arguments(query: Any) -> dict[str, Any]:
    schemas = query.get_execution_options().get("schema_translate_map")
    if not schemas:
        return {}
    return {"schema_translate_map": schemas, "render_schema_translate": True}


def _is_ddl(query: Any) -> bool:
    return isinstance(query, BaseDDLElement)


def _column_keys(table: Any) -> list[str]:
    return [column.key for column in table.c]


def _named_binds(query: Any) -> set[str]:
    """Return the names of the parameters that stand in a statement itself."""
    return {
        element.key
        for element in visitors.iterate(query)
        if isinstance(element, BindParameter) and not element.unique
    }


def _own_values(query: Any) -> Mapping[Any, Any]:
    return getattr(query, "_values", None) or {}


def _split_keys(query: Any, keys: tuple[str, ...]) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
    """Tell which names of `keys` are columns, and which of these replace the statement's own.

    Raises:
        UnknownParameterError: A name is neither a column nor a parameter of the statement.
    """
    if not keys:
        return query, (), ()
    columns = query.table.c
    named = _named_binds(query)
    own = {getattr(column, "key", column) for column in _own_values(query)}
    own |= {
        getattr(column, "key", column)
        for column, _ in getattr(query, "_ordered_values", None) or ()
    }
    column_keys, overlap, unknown = [], [], []
    for key in keys:
        if key in named:
            continue
        if key not in columns:
            unknown.append(key)
        elif key in own or (
            getattr(query, "_multi_values", None) or getattr(query, "_select_names", None)
        ):
            overlap.append(key)
        else:
            column_keys.append(key)
    if unknown:
        raise unknown_parameters(unknown, [*_column_keys(query.table), *sorted(named)])
    return query, tuple(column_keys), tuple(overlap)


def _overridden(query: Any, overlap: tuple[str, ...]) -> Any:
    """Return the statement with parameters in place of the values that the user replaces."""
    columns = query.table.c
    return query.values(
        {key: BindParameter(key, type_=columns[key].type, required=True) for key in overlap}
    )


def _check_update(query: Any, column_keys: tuple[str, ...]) -> None:
    if (
        not column_keys
        and not _own_values(query)
        and not getattr(query, "_ordered_values", None)
        and not any(column.onupdate is not None for column in query.table.c)
    ):
        raise MissingParameterError(
            f"the update sets no column; give values for some of "
            f"{', '.join(map(repr, _column_keys(query.table)))}"
        )
